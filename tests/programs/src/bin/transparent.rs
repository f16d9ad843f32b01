//! Transparent huge pages: `transparent DIR`. Memory that asks for them and has them, memory of which parts were given back,
//! memory that forbids them, memory that says nothing; and a child that shares some, and has some of its own.
//!
//! What the kernel says of each mapping (smaps: resident, in huge pages) is as it was, and so is what is in it. Where
//! `khugepaged` has made huge pages of small ones meanwhile, there may be more of both. It looks at some blocks every ten
//! seconds; the largest area is so large that it would not come to an end if it had all of it to do.

use std::fs;

use regrow_test_programs::{Task, pattern};

const PAGE: usize = 4096;
const HUGE: usize = 2 << 20;
const BLOCK: usize = HUGE / PAGE;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Memory that is aligned to huge pages, a number of them.
#[derive(Clone, Copy)]
struct Area {
    what: &'static str,
    start: usize,
    pages: usize,
}

/// What smaps says of a mapping, in KiB: resident, and in huge pages.
type Sizes = (u64, u64);

impl Area {
    /// Between two areas there is a hole: they stay mappings of their own.
    fn map(what: &'static str, blocks: usize, advice: Option<i32>) -> Area {
        let room = (blocks + 2) * HUGE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: no address is given, so nothing is replaced.
        let all = unsafe { libc::mmap(std::ptr::null_mut(), room, libc::PROT_NONE, flags, -1, 0) };
        assert!(all != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        let start = (all as usize + PAGE).next_multiple_of(HUGE);
        let area = Area { what, start, pages: blocks * BLOCK };
        // SAFETY: a part of what was just mapped, which nothing points into.
        let result = unsafe { libc::mprotect(start as *mut libc::c_void, area.pages * PAGE, RW) };
        assert_eq!(result, 0, "mprotect: {}", std::io::Error::last_os_error());
        advice.into_iter().for_each(|advice| area.advise(0..area.pages, advice));
        area
    }

    fn advise(self, pages: std::ops::Range<usize>, advice: i32) {
        let start = (self.start + pages.start * PAGE) as *mut libc::c_void;
        // SAFETY: a part of the area, which no reference points into.
        let result = unsafe { libc::madvise(start, pages.len() * PAGE, advice) };
        assert_eq!(result, 0, "madvise of {}: {}", self.what, std::io::Error::last_os_error());
    }

    fn page(self, number: usize) -> &'static mut [u8] {
        assert!(number < self.pages);
        // SAFETY: a page of a mapping that stays, of which the program uses one slice at a time.
        unsafe { std::slice::from_raw_parts_mut((self.start + number * PAGE) as *mut u8, PAGE) }
    }

    fn write(self, pages: impl Iterator<Item = usize>, seed: u64) {
        pages.for_each(|page| self.page(page).copy_from_slice(&pattern(seed + page as u64, PAGE)));
    }

    fn sizes(self) -> Sizes {
        let smaps = fs::read_to_string("/proc/self/smaps").expect("smaps");
        let header = format!("{:x}-{:x} ", self.start, self.start + self.pages * PAGE);
        let at = smaps.find(&header).unwrap_or_else(|| panic!("no mapping {header}of {}", self.what));
        let value = |name: &str| {
            let line = smaps[at..].lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).expect("a number")
        };
        (value("Rss:"), value("AnonHugePages:"))
    }
}

/// How many huge pages `khugepaged` has made, in the whole system.
fn collapsed() -> Option<u64> {
    let text = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/khugepaged/pages_collapsed").ok()?;
    text.trim().parse().ok()
}

/// An area, what was written to it (pages and seed), and what of it was given back.
struct Held {
    area: Area,
    is_written: fn(usize) -> bool,
    seed: u64,
}

fn hold(area: Area, seed: u64, is_written: fn(usize) -> bool) -> Held {
    area.write((0..area.pages).filter(|page| is_written(*page)), seed);
    Held { area, is_written, seed }
}

/// Writes all, and gives back what is not to be there: the huge pages are parted.
fn hold_part(area: Area, seed: u64, is_written: fn(usize) -> bool) -> Held {
    area.write(0..area.pages, seed);
    for page in (0..area.pages).filter(|page| !is_written(*page)) {
        area.advise(page..page + 1, libc::MADV_DONTNEED);
    }
    Held { area, is_written, seed }
}

/// Parks; then all is as it was.
fn park(task: &mut Task, held: &[&Held]) {
    let (before, made) = (held.iter().map(|held| held.area.sizes()).collect::<Vec<_>>(), collapsed());
    task.park();
    let after: Vec<Sizes> = held.iter().map(|held| held.area.sizes()).collect();
    let is_ours = made == collapsed();
    for (held, (before, after)) in held.iter().zip(before.into_iter().zip(after)) {
        let what = format!("{}: KiB resident, and in huge pages: {after:?} of {before:?}", held.area.what);
        task.check(&what, if is_ours { after == before } else { after.0 >= before.0 && after.1 >= before.1 });
        let zeros = vec![0; PAGE];
        let wrong = (0..held.area.pages).find(|page| {
            let is = &*held.area.page(*page);
            if (held.is_written)(*page) {
                *is != *pattern(held.seed + *page as u64, PAGE)
            } else {
                *is != *zeros
            }
        });
        task.check_eq(&format!("{}: the first page that holds something else", held.area.what), wrong, None);
    }
}

fn main() {
    const WANTED: Option<i32> = Some(libc::MADV_HUGEPAGE);
    let all: fn(usize) -> bool = |_| true;
    let few: fn(usize) -> bool = |page| page % 100 == 7;
    let mut task = Task::root();
    let whole = hold(Area::map("all of it", 24, WANTED), 1_000_000, all);
    let holed = hold_part(Area::map("two blocks with holes of four", 4, WANTED), 2_000_000, |page| {
        !(BLOCK + 100..2 * BLOCK + 300).contains(&page)
    });
    let sparse = hold_part(Area::map("a few pages", 3, WANTED), 3_000_000, few);
    let forbidden = hold(Area::map("forbidden", 2, Some(libc::MADV_NOHUGEPAGE)), 4_000_000, all);
    let plain = hold(Area::map("nothing asked", 2, None), 5_000_000, all);
    let unused = Area::map("not used by the parent", 3, WANTED);
    let changed = hold(Area::map("changed by the child", 2, WANTED), 6_000_000, all);
    task.spawn("child", |task| {
        let own = hold(Area::map("the child's own", 2, WANTED), 7_000_000, all);
        let sparse = hold_part(unused, 8_000_000, few);
        // Of one block a page, the other stays shared.
        changed.area.write(std::iter::once(5), 6_000_000);
        changed.area.page(5)[0] ^= 1;
        let byte = changed.area.page(5)[0];
        park(task, &[&whole, &holed, &own, &sparse, &forbidden, &plain]);
        task.check_eq("what the child has changed", changed.area.page(5)[0], byte);
    });
    park(&mut task, &[&whole, &holed, &sparse, &forbidden, &plain, &changed]);
    task.finish();
}
