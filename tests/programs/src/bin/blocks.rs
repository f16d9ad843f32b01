//! Large memory that children inherit: `blocks DIR`. Blocks of 2 MiB of which all pages are there, with pages before and
//! behind them; memory that is read-only at the end; memory that forbids huge pages; blocks with a hole; blocks in two mappings
//! side by side, which the kernel does not join. Each child has
//! written to some pages, and the parent to some others when it had forked; one child has a child of its own.
//!
//! What the kernel says of each mapping (smaps: where it ends, resident, in huge pages, its flags) is as it was, what
//! nobody has written to is the parent's page still, and what anybody writes is seen by nobody else.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use nix::unistd::{Pid, getppid};
use regrow_test_programs::{Task, pattern};

const PAGE: usize = 4096;
const BLOCK: usize = 2 << 20;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const CHILDREN: usize = 3;
/// In the entry of a page (proc_pid_pagemap(5)): its number, if there is one.
const FRAME: u64 = (1 << 55) - 1;
const PRESENT: u64 = 1 << 63;

/// A mapping with a hole on both sides.
#[derive(Clone, Copy)]
struct Area {
    what: &'static str,
    start: usize,
    pages: usize,
    seed: usize,
    /// A page that was never written to.
    hole: Option<usize>,
}

impl Area {
    /// `first`: how many pages lie before the first block.
    fn map(what: &'static str, first: usize, pages: usize, seed: usize) -> Area {
        let room = pages * PAGE + 3 * BLOCK;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: no address is given, so nothing is replaced.
        let all = unsafe { libc::mmap(std::ptr::null_mut(), room, libc::PROT_NONE, flags, -1, 0) };
        assert!(all != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        let start = (all as usize + BLOCK).next_multiple_of(BLOCK) - first * PAGE;
        let area = Area { what, start, pages, seed, hole: None };
        area.protect(RW);
        area
    }

    /// Behind another, of as many pages, and apart from it in that memory is reserved for it.
    fn map_behind(what: &'static str, other: Area, seed: usize) -> Area {
        let (start, len) = (other.start + other.pages * PAGE, other.pages * PAGE);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: in place of a part of what nobody uses, which `map` leaves behind each area.
        let all = unsafe { libc::mmap(start as *mut libc::c_void, len, RW, flags, -1, 0) };
        assert!(all as usize == start, "mmap: {}", std::io::Error::last_os_error());
        Area { what, start, seed, ..other }
    }

    fn at(self, page: usize) -> *mut u8 {
        assert!(page < self.pages);
        (self.start + page * PAGE) as *mut u8
    }

    fn protect(self, protection: i32) {
        // SAFETY: a mapping of the program's own, which no reference points into.
        let result = unsafe { libc::mprotect(self.at(0).cast(), self.pages * PAGE, protection) };
        assert_eq!(result, 0, "mprotect of {}: {}", self.what, std::io::Error::last_os_error());
    }

    fn advise(self, advice: i32) {
        // SAFETY: as above.
        let result = unsafe { libc::madvise(self.at(0).cast(), self.pages * PAGE, advice) };
        assert_eq!(result, 0, "madvise of {}: {}", self.what, std::io::Error::last_os_error());
    }

    fn page(self, page: usize) -> &'static mut [u8] {
        // SAFETY: a page of a mapping that stays, of which the program uses one slice at a time.
        unsafe { std::slice::from_raw_parts_mut(self.at(page), PAGE) }
    }

    fn is_writable(self) -> bool {
        self.what != "read-only"
    }

    fn fill(self) -> Area {
        for page in (0..self.pages).filter(|page| Some(*page) != self.hole) {
            self.page(page).copy_from_slice(&self.content(page));
        }
        self
    }

    fn content(self, page: usize) -> Vec<u8> {
        if Some(page) == self.hole { vec![0; PAGE] } else { pattern((self.seed + page) as u64, PAGE) }
    }

    /// What smaps says of it: how much is resident and in huge pages, and its flags.
    fn described(self) -> Vec<String> {
        let smaps = fs::read_to_string("/proc/self/smaps").expect("smaps");
        let header = format!("{:x}-{:x} ", self.start, self.start + self.pages * PAGE);
        let at = smaps.find(&header).unwrap_or_else(|| panic!("no mapping {header}of {}", self.what));
        let line = |name: &str| smaps[at..].lines().find(|line| line.starts_with(name)).expect("a line");
        ["Rss:", "Anonymous:", "AnonHugePages:", "VmFlags:"].map(|name| line(name).to_owned()).into()
    }

    /// The frames of its pages in a task; 0 where there is none.
    fn frames(self, pid: Pid) -> std::io::Result<Vec<u64>> {
        let mut bytes = vec![0; self.pages * 8];
        File::open(format!("/proc/{pid}/pagemap"))?
            .read_exact_at(&mut bytes, (self.start / PAGE * 8) as u64)?;
        let entries = bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().expect("8 bytes")));
        Ok(entries.map(|entry| if entry & PRESENT == 0 { 0 } else { entry & FRAME }).collect())
    }
}

/// Whether a child has written to a page: some that only it has, and in every hundredth all have their own.
fn writes(child: usize, page: usize) -> bool {
    page % 100 == 3 || page % 700 == 10 * child
}

/// Whether the parent has written to a page when its children were there.
fn rewrites(page: usize) -> bool {
    page % 333 == 200
}

fn main() {
    let mut task = Task::root();
    let plain = Area::map("plain", 70, 3 * BLOCK / PAGE + 170, 1_000_000).fill();
    let sealed = Area::map("read-only", 0, 2 * BLOCK / PAGE, 2_000_000).fill();
    sealed.protect(libc::PROT_READ);
    let small = Area::map("without huge pages", 0, BLOCK / PAGE, 3_000_000);
    small.advise(libc::MADV_NOHUGEPAGE);
    let small = small.fill();
    let hole = Some(BLOCK / PAGE + 9);
    let holed = Area { hole, ..Area::map("with a hole", 0, 2 * BLOCK / PAGE, 4_000_000) }.fill();
    let beside = Area::map("beside another", 0, BLOCK / PAGE, 5_000_000).fill();
    let behind = Area::map_behind("behind another", beside, 6_000_000).fill();
    let areas = [plain, sealed, small, holed, beside, behind];
    for number in 0..CHILDREN {
        task.spawn(&format!("child{number}"), |task| child(task, number, areas));
    }
    for area in areas.into_iter().filter(|area| area.is_writable()) {
        for page in (0..area.pages).filter(|page| rewrites(*page)) {
            area.page(page).copy_from_slice(&pattern(later(page) as u64, PAGE));
        }
    }
    park(&mut task, &areas);
    check(&mut task, &areas, &|area, page| (area.is_writable() && rewrites(page)).then(|| later(page)));
    task.collect();
    task.finish();
}

/// What the parent has written to a page when its children were there.
fn later(page: usize) -> usize {
    50_000_000 + page
}

/// Parks; then all is described as it was.
fn park(task: &mut Task, areas: &[Area]) {
    let before: Vec<Vec<String>> = areas.iter().map(|area| area.described()).collect();
    task.park();
    for (area, before) in areas.iter().zip(before) {
        task.check_eq(area.what, area.described(), before);
    }
}

/// Every page holds what it was filled with, or the bytes of who wrote to it.
fn check(task: &mut Task, areas: &[Area], written: &dyn Fn(Area, usize) -> Option<usize>) {
    for area in areas {
        let is_wrong = |page: &usize| {
            let seed = written(*area, *page);
            let wanted = seed.map_or_else(|| area.content(*page), |seed| pattern(seed as u64, PAGE));
            *area.page(*page) != *wanted
        };
        let wrong = (0..area.pages).find(is_wrong);
        task.check_eq(&format!("{}: the first page that holds something else", area.what), wrong, None);
    }
}

fn child(task: &mut Task, number: usize, areas: [Area; 6]) {
    let own = |page: usize| 10_000_000 * (number + 1) + page;
    for area in areas.into_iter().filter(|area| area.is_writable()) {
        for page in (0..area.pages).filter(|page| writes(number, *page)) {
            area.page(page).copy_from_slice(&pattern(own(page) as u64, PAGE));
        }
    }
    if number == 1 {
        // It has all of its parent's.
        task.spawn("grandchild", |task| {
            park(task, &areas);
            check(task, &areas, &|area, page| {
                (area.is_writable() && writes(number, page)).then(|| own(page))
            });
        });
    }
    park(task, &areas);
    for area in areas {
        let both = area.frames(Pid::this()).and_then(|mine| Ok((mine, area.frames(getppid())?)));
        let Some((mine, theirs)) = task.check_ok("pagemap", both) else { continue };
        let is_wrong = |page: &usize| {
            let is_same = mine[*page] == theirs[*page];
            if area.is_writable() && (writes(number, *page) || rewrites(*page)) { is_same } else { !is_same }
        };
        let wrong = (0..area.pages).find(is_wrong);
        task.check_eq(&format!("{}: the first page that is shared otherwise", area.what), wrong, None);
    }
    check(task, &areas, &|area, page| (area.is_writable() && writes(number, page)).then(|| own(page)));
    // Everywhere: the others look afterwards.
    for area in areas {
        area.protect(RW);
        for page in 0..area.pages {
            area.page(page).copy_from_slice(&pattern((77_000_000 + number) as u64, PAGE));
        }
    }
}
