//! What fork leaves shared: `cow DIR`. A root with memory of several kinds and children that each have changed a
//! part of it: written to pages, dropped them, protected, unmapped and mapped; one has the table of a stranger, for it
//! has executed another program.
//!
//! Every task proves in the end that what it has not changed is still *the same page* as its parent's (by number of the
//! page frame, proc_pid_pagemap(5)), and that what anybody writes is seen by nobody else.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::unistd::{Pid, getppid};
use regrow_test_programs::{Task, pattern};

const PAGE: usize = 4096;
const PAGES: usize = 192;
const CHILDREN: usize = 4;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
/// In the entry of a page: there is one.
const PRESENT: u64 = 1 << 63;
/// Its number.
const FRAME: u64 = (1 << 55) - 1;

fn map(pages: usize, flags: i32) -> usize {
    // SAFETY: no address is given, so nothing is replaced.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), pages * PAGE, RW, flags, -1, 0) };
    assert!(start != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
    start as usize
}

/// The page `number` of the area at `start`, as bytes.
fn page(start: usize, number: usize) -> &'static mut [u8] {
    // SAFETY: the callers name pages of areas that they have mapped, readable and writable, and use one such slice
    // at a time.
    unsafe { std::slice::from_raw_parts_mut((start + number * PAGE) as *mut u8, PAGE) }
}

fn fill(start: usize, number: usize, seed: usize) {
    page(start, number).copy_from_slice(&pattern(seed as u64, PAGE));
}

fn advise(start: usize, number: usize, pages: usize, advice: i32) {
    // SAFETY: a part of an area that no reference points into.
    let result = unsafe { libc::madvise((start + number * PAGE) as *mut libc::c_void, pages * PAGE, advice) };
    assert_eq!(result, 0, "madvise: {}", std::io::Error::last_os_error());
}

fn protect(start: usize, number: usize, pages: usize, protection: i32) {
    // SAFETY: as above.
    let result =
        unsafe { libc::mprotect((start + number * PAGE) as *mut libc::c_void, pages * PAGE, protection) };
    assert_eq!(result, 0, "mprotect: {}", std::io::Error::last_os_error());
}

/// The frames of an area of a task; 0 where there is no page.
fn frames(pid: Pid, start: usize) -> std::io::Result<Vec<u64>> {
    let map = File::open(format!("/proc/{pid}/pagemap"))?;
    let mut bytes = vec![0; PAGES * 8];
    map.read_exact_at(&mut bytes, (start / PAGE * 8) as u64)?;
    let entries = bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().expect("8 bytes")));
    Ok(entries.map(|entry| if entry & PRESENT == 0 { 0 } else { entry & FRAME }).collect())
}

/// What a child does to page `page` of the area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It has the root's.
    Kept,
    /// It has written to it.
    Written,
    /// It has dropped it: zeros.
    Dropped,
}

fn fate(child: usize, page: usize) -> Fate {
    match page % 16 {
        number if number == child => Fate::Written,
        number if number == 8 + child => Fate::Dropped,
        _ => Fate::Kept,
    }
}

fn main() {
    let mut task = Task::root();
    let area = map(PAGES, PRIVATE);
    // A part that nobody may write to at the end, and one that children do not get.
    let sealed = map(PAGES, PRIVATE);
    let own = map(4, PRIVATE);
    let wiped = map(4, PRIVATE);
    for number in 0..PAGES {
        fill(area, number, number);
        fill(sealed, number, 1000 + number);
    }
    for number in 0..4 {
        fill(own, number, 2000 + number);
        fill(wiped, number, 3000 + number);
    }
    protect(sealed, 0, PAGES, libc::PROT_READ);
    advise(own, 0, 4, libc::MADV_DONTFORK);
    advise(wiped, 0, 4, libc::MADV_WIPEONFORK);
    for number in 0..CHILDREN {
        task.spawn(&format!("child{number}"), |task| child(task, number, area, sealed, wiped));
    }
    task.park();
    // Nobody has seen what the children wrote.
    let is_own = (0..PAGES).all(|number| *page(area, number) == *pattern(number as u64, PAGE));
    task.check("the root's pages are what they were", is_own);
    task.check(
        "memory that is not inherited",
        (0..4).all(|number| *page(own, number) == *pattern(2000 + number as u64, PAGE)),
    );
    task.check(
        "memory that is wiped",
        (0..4).all(|number| *page(wiped, number) == *pattern(3000 + number as u64, PAGE)),
    );
    task.collect();
    task.finish();
}

fn child(task: &mut Task, number: usize, area: usize, sealed: usize, wiped: usize) {
    for page in 0..PAGES {
        match fate(number, page) {
            Fate::Kept => {}
            Fate::Written => fill(area, page, 100 * (number + 1) + page),
            Fate::Dropped => advise(area, page, 1, libc::MADV_DONTNEED),
        }
    }
    if number == 1 {
        // In memory that is read-only at the end.
        protect(sealed, 0, PAGES, RW);
        fill(sealed, 7, 7);
        protect(sealed, 0, PAGES, libc::PROT_READ);
    }
    let more = map(3, PRIVATE);
    fill(more, 1, number);
    if number == 2 {
        protect(area, 0, 16, libc::PROT_READ);
    }
    task.park();
    let parent = getppid();
    for (what, start) in [("area", area), ("sealed", sealed)] {
        let found = frames(Pid::this(), start).and_then(|own| Ok((own, frames(parent, start)?)));
        let Some((mine, theirs)) = task.check_ok("pagemap", found) else { continue };
        for page in 0..PAGES {
            let is_kept = match what {
                "area" => fate(number, page) == Fate::Kept,
                _ => number != 1 || page != 7,
            };
            // Another mapping than the parent's: its protection parts it, and it is made anew.
            let is_apart = number == 2 && what == "area";
            if !is_apart && is_kept && (mine[page] == 0 || mine[page] != theirs[page]) {
                task.fail(format!("{what}: page {page} is not the parent's any more"));
            }
            if !is_kept && mine[page] == theirs[page] && mine[page] != 0 {
                task.fail(format!("{what}: page {page} is the parent's"));
            }
        }
    }
    for at in 0..PAGES {
        let holds = match fate(number, at) {
            Fate::Kept => *page(area, at) == *pattern(at as u64, PAGE),
            Fate::Written => *page(area, at) == *pattern((100 * (number + 1) + at) as u64, PAGE),
            Fate::Dropped => page(area, at).iter().all(|byte| *byte == 0),
        };
        task.check("content", holds);
    }
    task.check("memory that is wiped", (0..4).all(|at| page(wiped, at).iter().all(|byte| *byte == 0)));
    task.check("memory of its own", *page(more, 1) == *pattern(number as u64, PAGE));
    // Everywhere: the others look afterwards.
    protect(area, 0, PAGES, RW);
    for at in 0..PAGES {
        fill(area, at, 5000 + number);
    }
    task.check("what it wrote", (0..PAGES).all(|at| *page(area, at) == *pattern(5000 + number as u64, PAGE)));
}
