//! Trees with much memory: `bench_memory DIR COUNT SHAPE`. For benchmarks; each task checks its memory, and like the
//! other programs who it is.
//!
//! | shape | COUNT | what it is |
//! |---|---|---|
//! | `large` | MiB | one task with private memory of which no two pages are alike |
//! | `half8` | children | a heap of 8 MiB, of which each child has dirtied half, in stretches of 128 KiB |
//! | `half1` | children | the same of 1 MiB |
//! | `few` | children | a heap of 256 MiB, of which each child has dirtied every hundredth page |
//! | `shared` | children | 32 shared anonymous mappings of 16 MiB, of all |
//! | `scattered` | pages | one task with so many pages, each with a page behind it that was never touched |
//! | `mappings` | mappings | one task with mappings of a page each, side by side, read-only and writable in turns |
//! | `huge` | MiB | as `large`, with huge pages where the system lets a program ask for them |

use std::ops::Range;

use regrow_test_programs::Task;

const PAGE: usize = 4096;
const WORDS: usize = PAGE / 8;
/// Pages of a stretch that is dirtied, or is not.
const STRETCH: usize = 32;

/// Memory that the program keeps, by its address: each task has it there.
#[derive(Clone, Copy)]
struct Area {
    start: usize,
    pages: usize,
}

impl Area {
    fn map(bytes: usize, kind: i32) -> Area {
        let flags = kind | libc::MAP_ANONYMOUS;
        // SAFETY: no address is given, so nothing is replaced.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        assert!(start != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        Area { start: start as usize, pages: bytes / PAGE }
    }

    fn page(self, page: usize) -> &'static mut [u64] {
        assert!(page < self.pages);
        // SAFETY: a page of a mapping that stays, of which the callers use one slice at a time.
        unsafe { std::slice::from_raw_parts_mut((self.start + page * PAGE) as *mut u64, WORDS) }
    }

    /// Writes what tells a page from all others, wherever one looks.
    fn write(self, pages: impl Iterator<Item = usize>, seed: u64) {
        for number in pages {
            for (at, word) in self.page(number).iter_mut().enumerate() {
                *word = content(seed, number, at);
            }
        }
    }

    fn call(self, what: &str, call: impl FnOnce(*mut libc::c_void, usize) -> libc::c_int) {
        let result = call(self.start as *mut libc::c_void, self.pages * PAGE);
        assert_eq!(result, 0, "{what}: {}", std::io::Error::last_os_error());
    }

    fn check(self, task: &mut Task, seed_of: impl Fn(usize) -> u64) {
        self.check_pages(task, 0..self.pages, seed_of);
    }

    fn check_pages(
        self,
        task: &mut Task,
        mut pages: impl Iterator<Item = usize>,
        seed_of: impl Fn(usize) -> u64,
    ) {
        let holds = |number: usize| {
            let page = self.page(number).iter().enumerate();
            page.into_iter().all(|(at, word)| *word == content(seed_of(number), number, at))
        };
        let wrong = pages.find(|number| !holds(*number));
        task.check_eq("the first page that holds something else", wrong, None);
    }
}

fn content(seed: u64, page: usize, at: usize) -> u64 {
    (seed << 48 | (page as u64) << 16).wrapping_add(at as u64)
}

fn main() {
    let argument = |at: usize| std::env::args().nth(at).expect("bench_memory DIR COUNT SHAPE");
    let count: usize = argument(2).parse().expect("the count is a number");
    let mut task = Task::root();
    match argument(3).as_str() {
        "large" => {
            let area = Area::map(count << 20, libc::MAP_PRIVATE);
            area.write(0..area.pages, 1);
            task.park();
            area.check(&mut task, |_| 1);
        }
        "huge" => {
            let area = Area::map(count << 20, libc::MAP_PRIVATE);
            area.call("madvise", |start, bytes| {
                // SAFETY: a mapping of this program that nothing points into yet.
                unsafe { libc::madvise(start, bytes, libc::MADV_HUGEPAGE) }
            });
            area.write(0..area.pages, 1);
            task.park();
            area.check(&mut task, |_| 1);
        }
        "scattered" => {
            let area = Area::map(2 * count * PAGE, libc::MAP_PRIVATE);
            let written = || (0..area.pages).step_by(2);
            area.write(written(), 1);
            task.park();
            area.check_pages(&mut task, written(), |_| 1);
            // What was never touched is empty. (To look at it here brings no memory.)
            let touched =
                (1..area.pages).step_by(2).find(|page| area.page(*page).iter().any(|word| *word != 0));
            task.check_eq("a page that should be empty", touched, None);
        }
        "mappings" => {
            let area = Area::map(count * PAGE, libc::MAP_PRIVATE);
            area.write(0..area.pages, 1);
            for page in (0..area.pages).step_by(2) {
                let one = Area { start: area.start + page * PAGE, pages: 1 };
                one.call("mprotect", |start, bytes| {
                    // SAFETY: a page of a mapping of this program that nothing points into now.
                    unsafe { libc::mprotect(start, bytes, libc::PROT_READ) }
                });
            }
            task.park();
            area.check(&mut task, |_| 1);
        }
        "half8" => heap(&mut task, count, 8 << 20, |page| page / STRETCH % 2 == 1),
        "half1" => heap(&mut task, count, 1 << 20, |page| page / STRETCH % 2 == 1),
        "few" => heap(&mut task, count, 256 << 20, |page| page % 100 == 99),
        "shared" => shared(&mut task, 0..count),
        other => panic!("{other}: no such shape"),
    }
    task.finish();
}

/// A heap that all inherit, and each child dirties the same pages of.
fn heap(task: &mut Task, count: usize, bytes: usize, is_dirtied: impl Fn(usize) -> bool + Copy) {
    let area = Area::map(bytes, libc::MAP_PRIVATE);
    area.write(0..area.pages, 1);
    for number in 0..count {
        task.spawn(&format!("child{number}"), |task| {
            let own = 2 + number as u64;
            area.write((0..area.pages).filter(|page| is_dirtied(*page)), own);
            task.park();
            area.check(task, |page| if is_dirtied(page) { own } else { 1 });
        });
    }
    task.park();
    area.check(task, |_| 1);
}

fn shared(task: &mut Task, children: Range<usize>) {
    let areas: Vec<Area> = (0..32).map(|_| Area::map(16 << 20, libc::MAP_SHARED)).collect();
    for (number, area) in areas.iter().enumerate() {
        area.write(0..area.pages, number as u64);
    }
    let check = |task: &mut Task| {
        task.park();
        for (number, area) in areas.iter().enumerate() {
            area.check(task, |_| number as u64);
        }
    };
    for number in children {
        task.spawn(&format!("child{number}"), check);
    }
    check(task);
}
