//! Memory that is filled in different ways: `fills DIR`. Long runs of pages and short ones, gaps between them, memory that is
//! read-only, locked, or for huge pages; private pages of a file; shared memory of which a part was never touched; and a
//! child that has written over much of what it inherited, and dropped some of it.
//!
//! Every task looks at every byte of it when it goes on, then writes everywhere, and looks again.

use std::fs::File;
use std::os::fd::AsRawFd;

use regrow_test_programs::{Task, pattern};

const PAGE: usize = 4096;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
const SHARED: i32 = libc::MAP_SHARED | libc::MAP_ANONYMOUS;

/// What a page holds: zeros, or a pattern.
type Seeds = fn(usize) -> Option<u64>;

/// A mapping, and what is in it.
#[derive(Clone, Copy)]
struct Area {
    what: &'static str,
    start: usize,
    pages: usize,
    seeds: Seeds,
}

impl Area {
    fn map(what: &'static str, pages: usize, flags: i32, file: Option<&File>, seeds: Seeds) -> Area {
        let fd = file.map_or(-1, AsRawFd::as_raw_fd);
        // SAFETY: no address is given, so nothing is replaced.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), pages * PAGE, RW, flags, fd, 0) };
        assert!(start != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        let area = Area { what, start: start as usize, pages, seeds };
        area.fill(0..pages, seeds);
        area
    }

    fn page(self, number: usize) -> &'static mut [u8] {
        assert!(number < self.pages);
        // SAFETY: a page of a mapping that stays, of which the program uses one slice at a time.
        unsafe { std::slice::from_raw_parts_mut((self.start + number * PAGE) as *mut u8, PAGE) }
    }

    fn fill(self, pages: std::ops::Range<usize>, seeds: Seeds) {
        for number in pages {
            if let Some(seed) = seeds(number) {
                self.page(number).copy_from_slice(&pattern(seed, PAGE));
            }
        }
    }

    fn call(self, what: &str, result: libc::c_int) {
        assert_eq!(result, 0, "{what} of {}: {}", self.what, std::io::Error::last_os_error());
    }

    fn protect(self, protection: i32) {
        // SAFETY: a mapping of the program that no reference points into.
        self.call("mprotect", unsafe {
            libc::mprotect(self.start as *mut libc::c_void, self.pages * PAGE, protection)
        });
    }

    fn advise(self, first: usize, pages: usize, advice: i32) {
        let start = (self.start + first * PAGE) as *mut libc::c_void;
        // SAFETY: as above.
        self.call("madvise", unsafe { libc::madvise(start, pages * PAGE, advice) });
    }

    fn check(self, task: &mut Task, seeds: Seeds) {
        let zeros = vec![0; PAGE];
        let wrong = (0..self.pages).find(|number| match seeds(*number) {
            Some(seed) => *self.page(*number) != *pattern(seed, PAGE),
            None => *self.page(*number) != *zeros,
        });
        if let Some(page) = wrong {
            task.fail(format!("{}: page {page} of {} holds something else", self.what, self.pages));
        }
    }
}

/// Runs of 1, 2, 3 … 15 pages with a gap of one page behind each.
fn short_runs(page: usize) -> Option<u64> {
    let mut at = 0;
    for run in (1..16).cycle() {
        if page < at + run {
            return Some(7_000 + page as u64);
        }
        at += run + 1;
        if page < at {
            return None;
        }
    }
    None
}

/// What the child has made of the long run: three stretches of its own, and one that is dropped.
fn rewritten(page: usize) -> Option<u64> {
    match page {
        100..400 | 1000 | 2000..2300 => Some(90_000 + page as u64),
        500..600 => None,
        _ => Some(page as u64),
    }
}

fn main() {
    let mut task = Task::root();
    let path = task.file("library");
    std::fs::write(&path, pattern(1, 64 * PAGE)).expect("write");
    let file = File::open(&path).expect("open");
    let areas = [
        // More than one task fills by itself where there are two cores.
        Area::map("a long run", 5000, PRIVATE, None, |page| Some(page as u64)),
        Area::map("short runs", 600, PRIVATE, None, short_runs),
        Area::map("one page of many", 4096, PRIVATE | libc::MAP_NORESERVE, None, |page| {
            (page == 77).then_some(5)
        }),
        Area::map("read-only", 300, PRIVATE, None, |page| Some(11_000 + page as u64)),
        Area::map("not to be touched", 200, PRIVATE, None, |page| Some(12_000 + page as u64)),
        Area::map("locked", 16, PRIVATE, None, |page| Some(13_000 + page as u64)),
        Area::map("for huge pages", 1536, PRIVATE, None, |page| {
            (!(1100..=1200).contains(&page)).then_some(14_000 + page as u64)
        }),
        Area::map("shared", 4000, SHARED, None, |page| {
            (!(1000..1100).contains(&page)).then_some(15_000 + page as u64)
        }),
        Area::map("another shared", 300, SHARED, None, |page| Some(20_000 + page as u64)),
    ];
    let own = Area { seeds: |page| Some(30_000 + page as u64), ..mapped(&file) };
    own.fill(8..40, own.seeds);
    drop(file);
    let [long, .., read_only, untouched, locked, huge, _, _] = areas;
    read_only.protect(libc::PROT_READ);
    untouched.protect(libc::PROT_NONE);
    huge.advise(0, huge.pages, libc::MADV_HUGEPAGE);
    // SAFETY: a mapping of the program.
    locked.call("mlock", unsafe { libc::mlock(locked.start as *const libc::c_void, locked.pages * PAGE) });
    let all = |task: &mut Task, of_long: Seeds| {
        untouched.protect(libc::PROT_READ);
        for area in areas {
            area.check(task, if area.start == long.start { of_long } else { area.seeds });
        }
        check_file(task, own);
    };
    task.spawn("child", |task| {
        long.fill(0..long.pages, |page| {
            (rewritten(page) != Some(page as u64)).then_some(0).and(rewritten(page))
        });
        long.advise(500, 100, libc::MADV_DONTNEED);
        task.park();
        all(task, rewritten);
        long.fill(0..long.pages, |page| Some(50_000 + page as u64));
        long.check(task, |page| Some(50_000 + page as u64));
    });
    task.park();
    all(&mut task, long.seeds);
    // Whatever the child has written by now, or writes later, is not seen here.
    task.collect();
    long.check(&mut task, long.seeds);
    for area in areas {
        area.protect(RW);
        area.fill(0..area.pages, |page| Some(60_000 + page as u64));
        area.check(&mut task, |page| Some(60_000 + page as u64));
    }
    task.finish();
}

/// A private mapping of the whole file.
fn mapped(file: &File) -> Area {
    Area::map("a file", 64, libc::MAP_PRIVATE, Some(file), |_| None)
}

/// Pages of the file, but for those that were written to.
fn check_file(task: &mut Task, own: Area) {
    let content = pattern(1, 64 * PAGE);
    for number in 0..own.pages {
        let wanted = match number {
            8..40 => pattern(30_000 + number as u64, PAGE),
            _ => content[number * PAGE..][..PAGE].to_vec(),
        };
        if *own.page(number) != *wanted {
            task.fail(format!("a file: page {number} holds something else"));
        }
    }
}
