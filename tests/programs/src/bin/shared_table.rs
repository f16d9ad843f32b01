//! Tasks that have their descriptor table in common (`CLONE_FILES`): `shared_table DIR`.
//!
//! ```text
//! root ── a ── a.deep      all of these have one table
//!   │     ├─── a.own       a copy of it, changed
//!   ├──── b
//!   └──── c ── c.pair      these two have another
//! ```
//!
//! Some maps a file of its own, writes memory, has threads or another directory. What a task opens or closes the others
//! of its table see, and nobody else; they prove it in turns when they have been restored.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::pipe;
use regrow_test_programs::{Task, pattern, wait_for_file};

const FILE: RawFd = 20;
const LOG: RawFd = 25;
const READER: RawFd = 30;
const WRITER: RawFd = 31;
const EPOLL: RawFd = 35;
const COUNTER: RawFd = 40;
const OF_A: RawFd = 50;
const OF_DEEP: RawFd = 51;
const OF_B: RawFd = 52;
const OF_PAIR: RawFd = 53;
const LATE: RawFd = 60;
const PAGE: usize = 4096;

fn main() {
    let mut task = Task::root();
    let file = new_file(&task.file("file"), 1);
    // SAFETY: the number is this task's, and has been opened above.
    unsafe { libc::lseek(put(file, FILE), 100, libc::SEEK_SET) };
    let log = OpenOptions::new().append(true).create(true).open(task.file("log")).expect("open");
    put(log, LOG);
    let (reader, writer) = pipe().expect("pipe");
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
    let (reader, writer) = (put(reader, READER), put(writer, WRITER));
    // SAFETY: the number is open, and stays so.
    let watched = unsafe { std::os::fd::BorrowedFd::borrow_raw(reader) };
    epoll.add(watched, EpollEvent::new(EpollFlags::EPOLLIN, 77)).expect("epoll_ctl");
    put(epoll.0, EPOLL);
    put(EventFd::from_value_and_flags(5, EfdFlags::EFD_NONBLOCK).expect("eventfd"), COUNTER);
    write_to(writer, b"waits");
    let of_root = map(&task.file("map.root"), 2);

    task.spawn_sharing("a", libc::CLONE_FILES, a);
    task.spawn_sharing("b", libc::CLONE_FILES, |task| {
        let directory = task.file("b");
        std::fs::create_dir(&directory).expect("mkdir");
        std::env::set_current_dir(&directory).expect("chdir");
        let memory = pattern(5, 300 * PAGE);
        put(memfd_create("of b", MFdFlags::MFD_CLOEXEC).expect("memfd"), OF_B);
        task.park();
        task.check("memory of b", memory == pattern(5, 300 * PAGE));
        task.check_eq("directory of b", std::env::current_dir().ok(), Some(directory));
        turn(task, 2, 3, |task| {
            // What a.deep has closed, and what the root has opened.
            task.check("51 is closed", !is_open(OF_DEEP));
            task.check("60 is open", is_open(LATE));
            task.check_eq("data of the pipe", read_from(READER), b"waits".to_vec());
            write_to(LOG, b"b");
        });
        turn(task, 4, 5, |task| task.check("20 is open", is_open(FILE)));
    });
    task.spawn("c", c);
    for name in ["a.deep", "b", "c.pair"] {
        assert!(wait_for_file(&task.file(&format!("ready.{name}"))));
    }
    // The last change before the dump: the number was open when everybody was born.
    close(COUNTER);
    put(EventFd::from_value_and_flags(9, EfdFlags::EFD_NONBLOCK).expect("eventfd"), COUNTER);
    task.park();
    task.check("mapping of the root", of_root == pattern(2, 2 * PAGE));
    let late = new_file(&task.file("late"), 6);
    put(late, LATE);
    for fd in [OF_A, OF_DEEP, OF_B] {
        task.check(&format!("{fd} is open"), is_open(fd));
    }
    task.check("53 is closed", !is_open(OF_PAIR));
    task.check("there is an event", has_event());
    create(&task.file("turn.1"));
    turn(&mut task, 3, 4, |task| {
        task.check("there is no event any more", !has_event());
        task.check_eq("counter", read_from(COUNTER), 9u64.to_ne_bytes().to_vec());
        task.check_eq("position", position(FILE), 116);
    });
    task.collect();
    let log = std::fs::read_to_string(task.file("log")).unwrap_or_default();
    task.check_eq("log", log, "ownadeepb".to_owned());
    task.finish();
}

/// Shares the root's table, and forks one that shares it, too, and one that does not.
fn a(task: &mut Task) {
    let mapped = map(&task.file("map.a"), 3);
    put(new_file(&task.file("of_a"), 4), OF_A);
    task.spawn("a.own", |task| {
        close(FILE);
        // As all that this table has from here on.
        put(new_file(&task.file("of_own"), 7), OF_DEEP);
        task.park();
        task.check("20 is closed", !is_open(FILE));
        task.check_eq("own file", position(OF_DEEP), 0);
        // Before anybody else: what the others open later is not here.
        write_to(LOG, b"own");
        task.check("60 is not here", !is_open(LATE));
        create(&task.file("turn.own"));
        turn(task, 4, 6, |task| task.check("60 is not here", !is_open(LATE)));
    });
    task.spawn_sharing("a.deep", libc::CLONE_FILES, |task| {
        let mapped = map(&task.file("map.deep"), 8);
        put(memfd_create("of deep", MFdFlags::empty()).expect("memfd"), OF_DEEP);
        task.park();
        task.check("mapping of a.deep", mapped == pattern(8, 2 * PAGE));
        turn(task, 7, 2, |task| {
            task.check("60 is open", is_open(LATE));
            write_to(LOG, b"deep");
            close(OF_DEEP);
        });
    });
    let is_up = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let says = is_up.clone();
    std::thread::spawn(move || {
        says.store(true, std::sync::atomic::Ordering::Release);
        loop {
            // SAFETY: waits for a signal, and writes nothing.
            unsafe { libc::pause() };
        }
    });
    while !is_up.load(std::sync::atomic::Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(1));
    }
    task.park();
    task.check("mapping of a", mapped == pattern(3, 2 * PAGE));
    task.check("a.own has written", wait_for_file(&task.file("turn.own")));
    turn(task, 1, 7, |task| {
        task.check("60 is open", is_open(LATE));
        task.check_eq("position", position(FILE), 100);
        // SAFETY: moves the position of an open file.
        unsafe { libc::lseek(FILE, 16, libc::SEEK_CUR) };
        write_to(LOG, b"a");
    });
}

/// Has a table of its own, which another shares.
fn c(task: &mut Task) {
    close(WRITER);
    close(EPOLL);
    task.spawn_sharing("c.pair", libc::CLONE_FILES, |task| {
        put(new_file(&task.file("of_pair"), 9), OF_PAIR);
        task.park();
        turn(task, 5, 8, |task| {
            task.check("20 is open", is_open(FILE));
            close(OF_PAIR);
        });
    });
    task.park();
    task.check("c.pair has had its turn", wait_for_file(&task.file("turn.8")));
    task.check("53 is closed", !is_open(OF_PAIR));
    task.check("60 is not here", !is_open(LATE));
}

/// Does something when the turn `at` has come, and lets the turn `next` come.
fn turn(task: &mut Task, at: u32, next: u32, what: impl FnOnce(&mut Task)) {
    let came = wait_for_file(&task.file(&format!("turn.{at}")));
    task.check(&format!("turn {at} has come"), came);
    what(task);
    create(&task.file(&format!("turn.{next}")));
}

fn create(path: &Path) {
    std::fs::write(path, "").expect("create");
}

fn new_file(path: &Path, seed: u64) -> File {
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).expect("open");
    file.write_all(&pattern(seed, 2 * PAGE)).expect("write");
    // SAFETY: moves the position of an open file.
    unsafe { libc::lseek(std::os::fd::AsRawFd::as_raw_fd(&file), 0, libc::SEEK_SET) };
    file
}

/// The bytes of a file, mapped and not open any more.
fn map(path: &Path, seed: u64) -> &'static [u8] {
    let file = new_file(path, seed);
    let length = std::num::NonZeroUsize::new(2 * PAGE).expect("a length");
    let (prot, flags) = (nix::sys::mman::ProtFlags::PROT_READ, nix::sys::mman::MapFlags::MAP_PRIVATE);
    // SAFETY: a new mapping, which stays as long as the task, of a file that nobody changes.
    unsafe {
        let start = nix::sys::mman::mmap(None, length, prot, flags, &file, 0).expect("mmap");
        std::slice::from_raw_parts(start.as_ptr().cast(), 2 * PAGE)
    }
}

/// Moves a descriptor to a number, at which no value of Rust owns it: others may close it.
fn put(fd: impl Into<OwnedFd>, to: RawFd) -> RawFd {
    let fd = fd.into().into_raw_fd();
    // SAFETY: nobody owns either number from here on.
    let result = unsafe { libc::dup3(fd, to, if to % 2 == 0 { libc::O_CLOEXEC } else { 0 }) };
    assert!(result == to, "dup3: {}", Errno::last());
    close(fd);
    to
}

fn close(fd: RawFd) {
    // SAFETY: no value of Rust owns the number.
    let result = unsafe { libc::close(fd) };
    assert!(result == 0, "close {fd}: {}", Errno::last());
}

fn is_open(fd: RawFd) -> bool {
    // SAFETY: asks about a number.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

fn position(fd: RawFd) -> i64 {
    // SAFETY: asks about a number.
    unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) }
}

fn write_to(fd: RawFd, bytes: &[u8]) {
    // SAFETY: the bytes are there.
    let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    assert!(written == bytes.len() as isize, "write to {fd}: {}", Errno::last());
}

fn read_from(fd: RawFd) -> Vec<u8> {
    let mut bytes = [0; 64];
    // SAFETY: there is room.
    let read = unsafe { libc::read(fd, bytes.as_mut_ptr().cast(), bytes.len()) };
    bytes[..usize::try_from(read).unwrap_or(0)].to_vec()
}

/// Whether the epoll file tells of what waits in the pipe.
fn has_event() -> bool {
    // SAFETY: the number stays open; it is not closed with this value.
    let epoll = std::mem::ManuallyDrop::new(Epoll(unsafe { OwnedFd::from_raw_fd(EPOLL) }));
    let mut events = [EpollEvent::empty(); 4];
    let found = epoll.wait(&mut events, EpollTimeout::ZERO).expect("epoll_wait");
    events[..found].iter().any(|event| event.data() == 77)
}
