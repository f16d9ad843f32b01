//! Kinds of memory: `kinds DIR PART`. A root and two children, of which the second is forked by the first, have
//! memory of one kind in common or each for itself.
//!
//! | part | kind |
//! |---|---|
//! | `huge` | huge pages of 2 MiB: private and shared, memfds that are mapped, open, and both |
//! | `hugetlbfs` | a file on a hugetlbfs that the program mounts, mapped shared and privately, and open |
//! | `shared` | shared memory by way of /dev/zero, of views that differ, of tmpfs, of a memfd that nobody may execute |
//!
//! What is mapped and what is in it is compared from outside, too. What is checked here is what it *means*: a
//! write to private memory is seen by nobody else, one to shared memory by all.

use std::fs::{self, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use regrow_test_programs::Task;
use regrow_test_programs::area::{Area, PAGE, RW};

fn main() {
    let mut task = Task::root();
    match std::env::args().nth(2).as_deref() {
        Some("huge") => huge(&mut task),
        Some("hugetlbfs") => hugetlbfs(&mut task),
        Some("shared") => shared(&mut task),
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

    // Open and mapped in part; mapped and closed; open.
    let open = huge_memfd(c"open", 2);
    let part = Area::file(&open, HUGE, HUGE, RW, libc::MAP_SHARED).expect("mmap");
    part.part(HUGE / 2, HUGE / 2).fill(4);
    fcntl(&open, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK)).expect("seals");
    let mapped = Area::file(huge_memfd(c"mapped", 1), 0, HUGE, RW, libc::MAP_SHARED).expect("mmap");
    mapped.part(PAGE, PAGE).fill(5);
    let sealed = huge_memfd(c"sealed", 1);
    let view = Area::file(&sealed, 0, HUGE, RW, libc::MAP_SHARED).expect("mmap");
    view.fill(6);
    view.unmap();
    fcntl(&sealed, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL)).expect("seals");

    task.spawn("child", |task| {
        private.part(3 * PAGE, PAGE).fill(11);
        // Only the last of its pages; and privately, changed, what is in the file.
        shared.part(0, 2 * HUGE).unmap();
        let last = shared.part(2 * HUGE, HUGE);
        unreserved.unmap();
        let copied = Area::file(&open, HUGE, HUGE, RW, libc::MAP_PRIVATE).expect("mmap");
        copied.part(PAGE, PAGE).fill(12);
        task.spawn("grandchild", |task| {
            for area in [private, readable, cut] {
                area.unmap();
            }
            task.park();
            last.part(3 * PAGE, PAGE).fill(16);
            task.check("the child's copy of a file", copied.part(PAGE, PAGE).holds(12));
            copied.part(PAGE, PAGE).fill(14);
        });
        task.park();
        last.part(0, PAGE).fill(13);
        task.collect();
        task.check("shared memory, from the grandchild", last.part(3 * PAGE, PAGE).holds(16));
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
    task.check(
        "the mapped part of a memfd",
        part.part(HUGE / 2, HUGE / 2).holds(4) && part.part(0, PAGE).is_zero(),
    );
    task.check("a memfd that is only mapped", mapped.part(PAGE, PAGE).holds(5));
    let view = Area::file(&sealed, 0, HUGE, libc::PROT_READ, libc::MAP_SHARED).expect("mmap");
    task.check("a memfd that is only open", view.holds(6));
    task.check("the seal", Area::file(&sealed, 0, HUGE, RW, libc::MAP_SHARED).is_err());
    task.check("the length is sealed", ftruncate(open.as_fd(), HUGE as i64).is_err());
}

fn hugetlbfs(task: &mut Task) {
    let dir = task.file("hugetlbfs");
    fs::create_dir(&dir).expect("a directory");
    let kind = Some("hugetlbfs");
    mount(Some("none"), &dir, kind, MsFlags::empty(), Some("pagesize=2M")).expect("mount");
    let path = dir.join("file");
    let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file = open().expect("a file");
    ftruncate(file.as_fd(), 4 * HUGE as i64).expect("ftruncate");

    let shared = Area::file(&file, 0, 4 * HUGE, RW, libc::MAP_SHARED).expect("mmap");
    shared.part(HUGE, PAGE).fill(1);
    shared.part(2 * HUGE, PAGE).fill(2);
    let readable = Area::file(&file, HUGE, HUGE, libc::PROT_READ, libc::MAP_SHARED).expect("mmap");
    let private = Area::file(&file, HUGE, 2 * HUGE, RW, libc::MAP_PRIVATE).expect("mmap");
    private.part(HUGE + PAGE, 2 * PAGE).fill(3);
    let untouched = Area::file(&file, 2 * HUGE, HUGE, RW, libc::MAP_PRIVATE).expect("mmap");
    untouched.protect(libc::PROT_READ);

    task.spawn("child", |task| {
        let own = Area::file(&file, 2 * HUGE, HUGE, RW, libc::MAP_SHARED).expect("mmap");
        private.part(PAGE, PAGE).fill(11);
        task.spawn("grandchild", |task| {
            shared.unmap();
            private.part(2 * PAGE, PAGE).fill(12);
            task.park();
            own.part(PAGE, PAGE).fill(13);
            task.check("own pages", private.part(2 * PAGE, PAGE).holds(12));
            task.check("the child's page of before", private.part(PAGE, PAGE).holds(11));
            task.check("the file's", private.part(0, PAGE).holds(1));
        });
        task.park();
        task.collect();
        task.check("the grandchild's page", own.part(PAGE, PAGE).holds(13));
        task.check("own pages", private.part(PAGE, PAGE).holds(11) && private.part(2 * PAGE, PAGE).is_zero());
    });
    task.park();
    task.collect();
    task.check("shared memory", shared.part(2 * HUGE, PAGE).holds(2));
    task.check("from the grandchild", shared.part(2 * HUGE + PAGE, PAGE).holds(13));
    task.check("the same elsewhere", readable.part(0, PAGE).holds(1));
    task.check("private memory", private.part(HUGE + PAGE, 2 * PAGE).holds(3));
    task.check(
        "private memory of the file",
        private.part(0, PAGE).holds(1) && untouched.part(0, PAGE).holds(2),
    );
    task.check_eq("it is as long as it was", file.metadata().map(|of| of.len()).ok(), Some(4 * HUGE as u64));
    for area in [shared, readable, private, untouched] {
        area.unmap();
    }
    drop(file);
    fs::remove_file(&path).expect("it is there");
    umount(&dir).expect("nobody uses it");
    fs::remove_dir(&dir).expect("it is empty");
}

fn shared(task: &mut Task) {
    let zero = OpenOptions::new().read(true).write(true).open("/dev/zero").expect("/dev/zero");
    let of_zero = Area::file(&zero, 0, 4 * PAGE, RW, libc::MAP_SHARED).expect("mmap");
    of_zero.part(PAGE, PAGE).fill(1);
    let of_zero_private = Area::file(&zero, 0, 4 * PAGE, RW, libc::MAP_PRIVATE).expect("mmap");
    of_zero_private.part(2 * PAGE, PAGE).fill(2);
    drop(zero);

    // Two views of one memory, of which only one has something reserved for it.
    let reserved = Area::anonymous(8 * PAGE, libc::MAP_SHARED).expect("mmap");
    reserved.part(3 * PAGE, 2 * PAGE).fill(3);
    let (start, end) = (reserved.start.addr(), reserved.start.addr() + reserved.bytes);
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/self/map_files/{start:x}-{end:x}"))
        .expect("what is mapped can be opened");
    let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
    let unreserved = Area::file(&opened, 2 * PAGE, 4 * PAGE, RW, flags).expect("mmap");
    let readable = Area::file(&opened, 3 * PAGE, PAGE, libc::PROT_READ, flags).expect("mmap");
    drop(opened);

    // In a tmpfs: a file with a name, and two without, of which one is also open.
    let path = |name: &str| format!("/dev/shm/regrow-test-{}-{name}", std::process::id());
    let create = |name: &str, bytes: usize| {
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).open(path(name)).expect("tmpfs");
        file.set_len(bytes as u64).expect("tmpfs");
        file
    };
    let named_path = path("named");
    let named = Area::file(create("named", 2 * PAGE), 0, 2 * PAGE, RW, libc::MAP_SHARED).expect("mmap");
    named.part(PAGE, PAGE).fill(4);
    let file = create("open", 3 * PAGE);
    let open = Area::file(&file, PAGE, 2 * PAGE, RW, libc::MAP_SHARED).expect("mmap");
    open.part(PAGE, PAGE).fill(5);
    let mapped = Area::file(create("mapped", PAGE), 0, PAGE, RW, libc::MAP_SHARED).expect("mmap");
    mapped.fill(6);
    for name in ["open", "mapped"] {
        fs::remove_file(path(name)).expect("tmpfs");
    }

    // MFD_NOEXEC_SEAL, which nix does not name: not to be executed, and sealed to stay so.
    // SAFETY: the name is a string that ends with a zero; the descriptor is nobody else's.
    let memfd = unsafe {
        let fd = libc::memfd_create(c"data".as_ptr(), libc::MFD_NOEXEC_SEAL);
        assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    };
    ftruncate(memfd.as_fd(), 9 * PAGE as i64 + 77).expect("ftruncate");
    let data = Area::file(&memfd, 0, 10 * PAGE, RW, libc::MAP_SHARED).expect("mmap");
    data.part(4 * PAGE, PAGE).fill(7);

    task.spawn("child", |task| {
        let last = reserved.part(6 * PAGE, 2 * PAGE);
        reserved.part(0, 6 * PAGE).unmap();
        task.spawn("grandchild", |task| {
            unreserved.unmap();
            task.park();
            last.part(PAGE, PAGE).fill(17);
            task.check("what is only read", readable.holds_start_of(3));
            of_zero_private.part(2 * PAGE, PAGE).fill(12);
        });
        task.park();
        last.part(0, PAGE).fill(11);
        of_zero.part(2 * PAGE, PAGE).fill(13);
        named.part(0, PAGE).fill(14);
        open.part(0, PAGE).fill(15);
        task.collect();
        task.check("private, by /dev/zero", of_zero_private.part(2 * PAGE, PAGE).holds(2));
    });
    task.park();
    task.collect();
    task.check("shared by /dev/zero", of_zero.part(PAGE, PAGE).holds(1));
    task.check("shared by /dev/zero, from the child", of_zero.part(2 * PAGE, PAGE).holds(13));
    task.check("private, by /dev/zero", of_zero_private.part(2 * PAGE, PAGE).holds(2));
    task.check("reserved", reserved.part(3 * PAGE, 2 * PAGE).holds(3));
    task.check("reserved, from the child", reserved.part(6 * PAGE, PAGE).holds(11));
    task.check("reserved, from the grandchild", reserved.part(7 * PAGE, PAGE).holds(17));
    unreserved.part(0, PAGE).fill(16);
    task.check("one memory in two views", reserved.part(2 * PAGE, PAGE).holds(16));
    task.check("tmpfs", named.part(PAGE, PAGE).holds(4) && named.part(0, PAGE).holds(14));
    task.check("tmpfs, by its name", fs::read(&named_path).is_ok_and(|bytes| bytes == named.read()));
    let mut bytes = vec![0; 3 * PAGE];
    let read = file.read_exact_at(&mut bytes, 0);
    task.check("tmpfs, deleted and open", read.is_ok() && bytes[PAGE..] == open.read());
    task.check("tmpfs, deleted and open, from the child", open.part(0, PAGE).holds(15));
    task.check("tmpfs, deleted and mapped", mapped.holds(6));
    task.check("a memfd", data.part(4 * PAGE, PAGE).holds(7));
    let mode = fs::metadata(format!("/proc/self/fd/{}", memfd.as_raw_fd())).map(|it| it.permissions().mode());
    task.check_eq("its mode", mode.ok(), Some(0o100_666));
    let seals = fcntl(&memfd, FcntlArg::F_GET_SEALS);
    task.check_eq("its seals", seals, Ok(0x20));
    let _ = fs::remove_file(named_path);
}
