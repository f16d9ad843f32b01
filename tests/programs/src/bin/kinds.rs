//! Kinds of memory: `kinds DIR PART`. A root and two children, of which the second is forked by the first, have
//! memory of one kind in common or each for itself.
//!
//! | part | kind |
//! |---|---|
//! | `huge` | huge pages of 2 MiB: private and shared, memfds that are mapped, open, and both |
//!
//! What is mapped and what is in it is compared from outside, too. What is checked here is what it *means*: a
//! write to private memory is seen by nobody else, one to shared memory by all.

use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use regrow_test_programs::Task;
use regrow_test_programs::area::{Area, PAGE, RW};

fn main() {
    let mut task = Task::root();
    match std::env::args().nth(2).as_deref() {
        Some("huge") => huge(&mut task),
        other => panic!("there is no part {other:?}"),
    }
    task.finish();
}

/// The size of huge pages here.
const HUGE: usize = 2 << 20;
const HUGE_FLAGS: i32 = libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;

fn huge_memfd(name: &std::ffi::CStr, pages: usize) -> OwnedFd {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_HUGETLB;
    let memfd = memfd_create(name, flags | MFdFlags::MFD_HUGE_2MB).expect("memfd_create");
    ftruncate(memfd.as_fd(), (pages * HUGE) as i64).expect("ftruncate");
    memfd
}

fn huge(task: &mut Task) {
    let anonymous = |pages: usize, flags: i32| {
        Area::anonymous(pages * HUGE, flags | HUGE_FLAGS).expect("huge pages are free")
    };
    let private = anonymous(2, libc::MAP_PRIVATE);
    private.part(0, HUGE).fill(1);
    let readable = anonymous(1, libc::MAP_PRIVATE | libc::MAP_NORESERVE);
    readable.part(5 * PAGE, 3 * PAGE).fill(2);
    readable.advise(libc::MADV_DONTDUMP);
    readable.protect(libc::PROT_READ);

    // Cut in two, of which each is a mapping.
    let cut = anonymous(2, libc::MAP_PRIVATE | libc::MAP_NORESERVE);
    cut.part(HUGE, PAGE).fill(7);
    cut.part(HUGE, HUGE).protect(libc::PROT_READ);

    let shared = anonymous(3, libc::MAP_SHARED);
    shared.part(HUGE, HUGE).fill(3);
    let unreserved = anonymous(1, libc::MAP_SHARED | libc::MAP_NORESERVE);

    // Open and mapped in part; mapped and closed; open, with a hole.
    let open = huge_memfd(c"open", 3);
    let part = Area::file(&open, HUGE, 2 * HUGE, RW, libc::MAP_SHARED).expect("mmap");
    part.part(HUGE, HUGE).fill(4);
    fcntl(&open, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK)).expect("seals");
    let mapped = Area::file(huge_memfd(c"mapped", 1), 0, HUGE, RW, libc::MAP_SHARED).expect("mmap");
    mapped.part(PAGE, PAGE).fill(5);
    let sealed = huge_memfd(c"sealed", 2);
    let view = Area::file(&sealed, HUGE, HUGE, RW, libc::MAP_SHARED).expect("mmap");
    view.fill(6);
    view.unmap();
    fcntl(&sealed, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL)).expect("seals");

    task.spawn("child", |task| {
        private.part(3 * PAGE, PAGE).fill(11);
        // Only the last of its pages; and privately, changed, what is in the file.
        shared.part(0, 2 * HUGE).unmap();
        let last = shared.part(2 * HUGE, HUGE);
        unreserved.unmap();
        let copied = Area::file(&open, 2 * HUGE, HUGE, RW, libc::MAP_PRIVATE).expect("mmap");
        copied.part(PAGE, PAGE).fill(12);
        task.spawn("grandchild", |task| {
            private.unmap();
            task.park();
            task.check("shared memory, from the child", last.part(0, PAGE).holds(13));
            task.check("the child's copy of a file", copied.part(PAGE, PAGE).holds(12));
            copied.part(PAGE, PAGE).fill(14);
        });
        task.park();
        last.part(0, PAGE).fill(13);
        task.collect();
        task.check("own pages", private.part(3 * PAGE, PAGE).holds(11));
        task.check("own copy of a file", copied.part(PAGE, PAGE).holds(12));
        private.part(HUGE, PAGE).fill(15);
    });
    task.park();
    task.collect();
    task.check("private memory", private.part(0, HUGE).holds(1));
    task.check("an empty huge page", private.part(HUGE, HUGE).is_zero());
    task.check("readable memory", readable.part(5 * PAGE, 3 * PAGE).holds(2));
    task.check("cut memory", cut.part(HUGE, PAGE).holds(7) && cut.part(0, PAGE).is_zero());
    task.check("shared memory", shared.part(HUGE, HUGE).holds(3));
    task.check("shared memory, from the child", shared.part(2 * HUGE, PAGE).holds(13));
    task.check("unreserved memory", unreserved.is_zero());
    task.check("the mapped part of a memfd", part.part(HUGE, HUGE).holds(4) && part.part(0, HUGE).is_zero());
    task.check("a memfd that is only mapped", mapped.part(PAGE, PAGE).holds(5));
    let view = Area::file(&sealed, HUGE, HUGE, libc::PROT_READ, libc::MAP_SHARED).expect("mmap");
    task.check("a memfd that is only open", view.holds(6));
    task.check("the seal", Area::file(&sealed, 0, HUGE, RW, libc::MAP_SHARED).is_err());
    task.check("the length is sealed", ftruncate(open.as_fd(), HUGE as i64).is_err());
}
