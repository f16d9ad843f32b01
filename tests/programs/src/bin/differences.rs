//! Address spaces that have changed since the forks: `differences DIR`. A root with areas of private memory, children
//! and grandchildren. Behind the forks each of them has made its areas longer or shorter, protected, guarded or advised
//! parts of them, and written to some pages.
//!
//! In the end every task demands that it holds what it held; that the pages which neither it nor its parent has written
//! since are still *the same page frames* (proc_pid_pagemap(5)); and then writes to all its memory, and waits until
//! its siblings have done so, too: nobody may see what another writes.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::unistd::{Pid, getppid};
use regrow_test_programs::{Task, pattern, wait_for_file};

const PAGE: usize = 4096;
/// Areas are so far apart, in pages: a stack grows only where 256 below it are free (`stack_guard_gap`, mm/mmap.c).
const ROOM: usize = 512;
/// An area is mapped from this page of its room on,
const FIRST: usize = 64;
/// and so many pages.
const PAGES: usize = 32;
const BASE: usize = 0x1000_0000_0000;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const R: i32 = libc::PROT_READ;
/// Children of the root.
const CHILDREN: usize = 3;
/// linux/mman-common.h.
const GUARD_INSTALL: i32 = 102;
const GUARD_REMOVE: i32 = 103;
/// In the entry of a page: there is one.
const PRESENT: u64 = 1 << 63;
/// Its number.
const FRAME: u64 = (1 << 55) - 1;

/// What becomes of an area, one a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Children write to some pages, the root to others.
    Dirtied,
    /// Children make it longer.
    Grown,
    /// Children unmap parts of it.
    Cut,
    /// The root unmaps the end.
    CutByRoot,
    /// Children protect a part.
    Protected,
    /// The root protects a part.
    ProtectedByRoot,
    /// The root withholds it, when all children have it.
    Withheld,
    /// The root has it wiped for further children.
    Wiped,
    /// Children have guards elsewhere.
    Guarded,
    /// The root has locked it.
    Locked,
    /// A stack that children use more of.
    Stack,
    /// Children keep it out of core dumps, the root its other half.
    Undumped,
    /// Every second page is a child's own.
    Alternating,
}

const KINDS: [Kind; 13] = [
    Kind::Dirtied,
    Kind::Grown,
    Kind::Cut,
    Kind::CutByRoot,
    Kind::Protected,
    Kind::ProtectedByRoot,
    Kind::Withheld,
    Kind::Wiped,
    Kind::Guarded,
    Kind::Locked,
    Kind::Stack,
    Kind::Undumped,
    Kind::Alternating,
];

/// What a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    /// Nothing, or a guard.
    Absent,
    /// Zeros.
    Empty,
    /// A pattern of this seed; whether the frame is the parent's.
    Full(u64, bool),
}

/// All areas as a task has them.
#[derive(Debug, Clone)]
struct Memory(Vec<[Page; ROOM]>);

fn at(kind: Kind, page: usize) -> usize {
    BASE + (kind as usize * ROOM + page) * PAGE
}

fn check_errno(what: &str, result: i32) {
    assert_eq!(result, 0, "{what}: {}", std::io::Error::last_os_error());
}

/// The bytes of a page.
fn bytes(kind: Kind, page: usize) -> &'static mut [u8] {
    // SAFETY: the callers name pages that are mapped and may be used so, and use one such slice at a time.
    unsafe { std::slice::from_raw_parts_mut(at(kind, page) as *mut u8, PAGE) }
}

fn advise(kind: Kind, from: usize, to: usize, advice: i32) {
    // SAFETY: memory of an area; no reference points into it.
    check_errno("madvise", unsafe { libc::madvise(at(kind, from) as *mut _, (to - from) * PAGE, advice) });
}

fn protect(kind: Kind, from: usize, to: usize, protection: i32) {
    // SAFETY: as above.
    check_errno("mprotect", unsafe {
        libc::mprotect(at(kind, from) as *mut _, (to - from) * PAGE, protection)
    });
}

impl Memory {
    fn map() -> Memory {
        let mut memory = Memory(vec![[Page::Absent; ROOM]; KINDS.len()]);
        for kind in KINDS {
            let grows = if kind == Kind::Stack { libc::MAP_GROWSDOWN } else { 0 };
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE | grows;
            // SAFETY: nothing is replaced.
            let start = unsafe { libc::mmap(at(kind, FIRST) as *mut _, PAGES * PAGE, RW, flags, -1, 0) };
            assert_eq!(start as usize, at(kind, FIRST), "{}", std::io::Error::last_os_error());
            for page in FIRST..FIRST + PAGES {
                memory.write(kind, page, (kind as usize * ROOM + page) as u64);
            }
        }
        memory
    }

    fn write(&mut self, kind: Kind, page: usize, seed: u64) {
        bytes(kind, page).copy_from_slice(&pattern(seed, PAGE));
        self.0[kind as usize][page] = Page::Full(seed, false);
    }

    /// Pages that are something else now.
    fn become_(&mut self, kind: Kind, from: usize, to: usize, page: Page) {
        self.0[kind as usize][from..to].fill(page);
    }

    fn unmap(&mut self, kind: Kind, from: usize, to: usize) {
        // SAFETY: memory of an area; no reference points into it.
        check_errno("munmap", unsafe { libc::munmap(at(kind, from) as *mut _, (to - from) * PAGE) });
        self.become_(kind, from, to, Page::Absent);
    }

    /// As a child has it that was just forked.
    fn inherited(&self) -> Memory {
        let mut memory = self.clone();
        for page in memory.0.iter_mut().flatten() {
            if let Page::Full(_, is_parents) = page {
                *is_parents = true;
            }
        }
        memory
    }

    /// The parent has another page there since.
    fn part(&mut self, kind: Kind, from: usize, to: usize) {
        for page in &mut self.0[kind as usize][from..to] {
            if let Page::Full(_, is_parents) = page {
                *is_parents = false;
            }
        }
    }

    /// All that can be seen of it, and who has the pages.
    fn check(&self, task: &mut Task) {
        let parent = getppid();
        for kind in KINDS {
            let pages = &self.0[kind as usize];
            for (number, page) in pages.iter().enumerate() {
                let holds = match page {
                    Page::Absent => continue,
                    Page::Empty => bytes(kind, number).iter().all(|byte| *byte == 0),
                    Page::Full(seed, _) => *bytes(kind, number) == *pattern(*seed, PAGE),
                };
                if !holds {
                    task.fail(format!("{kind:?}: page {number} is not {page:?}"));
                }
            }
            if pages.iter().any(|page| matches!(page, Page::Full(_, true))) {
                let found = frames(None, kind).and_then(|own| Ok((own, frames(Some(parent), kind)?)));
                let Some((mine, theirs)) = task.check_ok("pagemap", found) else { continue };
                for (number, page) in pages.iter().enumerate() {
                    let is_parents = mine[number] != 0 && mine[number] == theirs[number];
                    if let Page::Full(_, wanted) = page
                        && *wanted != is_parents
                    {
                        let is = if is_parents { "the parent's" } else { "not the parent's any more" };
                        task.fail(format!("{kind:?}: page {number} is {is}"));
                    }
                }
            }
        }
    }

    /// Writes to all of it, and looks whether it holds when the others have written to theirs.
    fn write_everywhere(&mut self, task: &mut Task, seed: u64, others: impl Iterator<Item = String>) {
        let others: Vec<String> = others.collect();
        meet(task, "checked", &others);
        for kind in KINDS {
            for page in 0..ROOM {
                if self.0[kind as usize][page] != Page::Absent {
                    protect(kind, page, page + 1, RW);
                    self.write(kind, page, seed + page as u64);
                }
            }
        }
        meet(task, "wrote", &others);
        for kind in KINDS {
            for page in 0..ROOM {
                if let Page::Full(seed, _) = self.0[kind as usize][page]
                    && *bytes(kind, page) != *pattern(seed, PAGE)
                {
                    task.fail(format!("{kind:?}: page {page} is not what was written to it"));
                }
            }
        }
    }
}

/// Waits until this task and all others have come so far.
fn meet(task: &mut Task, what: &str, others: &[String]) {
    let own = task.file(&format!("{what}.{}", task.name()));
    task.check_ok(what, std::fs::write(own, ""));
    for other in others {
        let file = task.file(&format!("{what}.{other}"));
        task.check("a sibling comes", wait_for_file(&file));
    }
}

/// The frames of the room of an area; 0 where there is no page.
fn frames(pid: Option<Pid>, kind: Kind) -> std::io::Result<Vec<u64>> {
    let whose = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let map = File::open(format!("/proc/{whose}/pagemap"))?;
    let mut bytes = vec![0; ROOM * 8];
    map.read_exact_at(&mut bytes, (at(kind, 0) / PAGE * 8) as u64)?;
    let entries = bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().expect("8 bytes")));
    Ok(entries.map(|entry| if entry & PRESENT == 0 { 0 } else { entry & FRAME }).collect())
}

/// What a child of the root does to its memory.
fn change(memory: &mut Memory, child: usize) {
    let own = 100_000 * (child as u64 + 1);
    // The root writes to those behind the forks.
    memory.part(Kind::Dirtied, FIRST + 20, FIRST + 24);
    for page in (FIRST + child..FIRST + 16).step_by(4) {
        memory.write(Kind::Dirtied, page, own + page as u64);
    }
    // No pages: nothing to be shared. A page of zeros that was never touched.
    advise(Kind::Dirtied, FIRST + 26, FIRST + 28, libc::MADV_DONTNEED);
    memory.become_(Kind::Dirtied, FIRST + 26, FIRST + 28, Page::Empty);

    let (old, new) = (PAGES * PAGE, (PAGES + 8 + child) * PAGE);
    // SAFETY: what is behind the area is free.
    let grown = unsafe { libc::mremap(at(Kind::Grown, FIRST) as *mut _, old, new, 0) };
    assert_eq!(grown as usize, at(Kind::Grown, FIRST), "mremap: {}", std::io::Error::last_os_error());
    memory.become_(Kind::Grown, FIRST + PAGES, FIRST + PAGES + 8 + child, Page::Empty);
    memory.write(Kind::Grown, FIRST + PAGES + 5, own);
    memory.write(Kind::Grown, FIRST + 1, own + 1);

    memory.unmap(Kind::Cut, FIRST, FIRST + child + 1);
    memory.unmap(Kind::Cut, FIRST + 8, FIRST + 10);
    memory.unmap(Kind::Cut, FIRST + PAGES - 3, FIRST + PAGES);
    memory.write(Kind::Cut, FIRST + 10, own);

    memory.part(Kind::CutByRoot, FIRST + 24, FIRST + PAGES);

    memory.write(Kind::Protected, FIRST + 5, own);
    protect(Kind::Protected, FIRST + 4, FIRST + 8, R);
    protect(Kind::Protected, FIRST + 16, FIRST + 18, libc::PROT_NONE);
    protect(Kind::Protected, FIRST + 16, FIRST + 18, R);

    memory.part(Kind::ProtectedByRoot, FIRST + 30, FIRST + 31);

    memory.write(Kind::Withheld, FIRST + 3, own);

    advise(Kind::Guarded, FIRST + 4, FIRST + 5, GUARD_REMOVE);
    memory.become_(Kind::Guarded, FIRST + 4, FIRST + 5, Page::Empty);
    memory.write(Kind::Guarded, FIRST + 4, own);
    advise(Kind::Guarded, FIRST + 12, FIRST + 14, GUARD_INSTALL);
    memory.become_(Kind::Guarded, FIRST + 12, FIRST + 14, Page::Absent);

    memory.write(Kind::Locked, FIRST + 2, own);

    // Just below its start, as a stack grows; what is between stays untouched.
    let lowest = FIRST - 2 * child;
    for page in (lowest..FIRST).rev() {
        memory.write(Kind::Stack, page, own + page as u64);
    }
    memory.write(Kind::Stack, FIRST + 7, own);

    advise(Kind::Undumped, FIRST, FIRST + 16, libc::MADV_DONTDUMP);

    for page in (FIRST..FIRST + PAGES).step_by(2) {
        memory.write(Kind::Alternating, page, own + page as u64);
    }
}

/// What the root does when it has forked all children.
fn change_behind_forks(memory: &mut Memory) {
    for page in FIRST + 20..FIRST + 24 {
        memory.write(Kind::Dirtied, page, 500 + page as u64);
    }
    memory.unmap(Kind::CutByRoot, FIRST + 24, FIRST + PAGES);
    protect(Kind::ProtectedByRoot, FIRST + 4, FIRST + 8, R);
    memory.write(Kind::ProtectedByRoot, FIRST + 30, 600);
    advise(Kind::Withheld, FIRST, FIRST + PAGES, libc::MADV_DONTFORK);
    advise(Kind::Wiped, FIRST, FIRST + PAGES, libc::MADV_WIPEONFORK);
    advise(Kind::Undumped, FIRST + 16, FIRST + PAGES, libc::MADV_DONTDUMP);
}

fn main() {
    let mut task = Task::root();
    let mut memory = Memory::map();
    advise(Kind::Guarded, FIRST + 3, FIRST + 5, GUARD_INSTALL);
    memory.become_(Kind::Guarded, FIRST + 3, FIRST + 5, Page::Absent);
    // SAFETY: memory of an area.
    check_errno("mlock", unsafe { libc::mlock(at(Kind::Locked, FIRST) as *const _, PAGES * PAGE) });
    let mut first = None;
    for number in 0..CHILDREN {
        let before = first;
        let pid =
            task.spawn(&format!("child{number}"), |task| child(task, number, memory.inherited(), before));
        first.get_or_insert(pid);
    }
    change_behind_forks(&mut memory);
    task.park();
    task.collect();
    // Nobody has seen what the others wrote.
    memory.check(&mut task);
    task.finish();
}

fn child(task: &mut Task, number: usize, mut memory: Memory, first: Option<Pid>) {
    change(&mut memory, number);
    if number == CHILDREN - 1 {
        for below in 0..2 {
            task.spawn(&format!("grandchild{below}"), |task| grandchild(task, below, memory.inherited()));
        }
        memory.write(Kind::Withheld, FIRST + 9, 700);
    }
    task.park();
    task.collect();
    memory.check(task);
    // What the root has written to since is still one page for all children.
    if let Some(first) = first {
        let found =
            frames(None, Kind::Dirtied).and_then(|own| Ok((own, frames(Some(first), Kind::Dirtied)?)));
        if let Some((mine, theirs)) = task.check_ok("pagemap", found) {
            let are_one = (FIRST + 20..FIRST + 24).all(|page| mine[page] != 0 && mine[page] == theirs[page]);
            task.check("pages that children share, and their parent has no more", are_one);
        }
    }
    let seed = 1_000_000 * (number as u64 + 1);
    memory.write_everywhere(task, seed, (0..CHILDREN).map(|other| format!("child{other}")));
}

fn grandchild(task: &mut Task, number: usize, mut memory: Memory) {
    let own = 10_000_000 * (number as u64 + 1);
    memory.part(Kind::Withheld, FIRST + 9, FIRST + 10);
    memory.write(Kind::Dirtied, FIRST + 18 + number, own);
    memory.unmap(Kind::Grown, FIRST + 30, FIRST + PAGES + 10);
    memory.unmap(Kind::Protected, FIRST + 20 + number, FIRST + PAGES);
    if number == 1 {
        protect(Kind::Protected, FIRST, FIRST + 4, R);
        advise(Kind::Guarded, FIRST + 12, FIRST + 14, GUARD_REMOVE);
        memory.become_(Kind::Guarded, FIRST + 12, FIRST + 14, Page::Empty);
    }
    task.park();
    memory.check(task);
    memory.write_everywhere(task, own + 1000, (0..2).map(|other| format!("grandchild{other}")));
}
