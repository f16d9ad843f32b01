//! Many tasks that share many descriptors: `shared_fds DIR [TASKS]`, 200 unless said.
//!
//! The root opens 60 descriptors of all plain kinds. Every child inherits them and then differs in its
//! own way: it drops some, sets or clears close-on-exec, swaps two numbers, has one twice, or moves one
//! far up. Every fourth child does so *after* it has a child of its own, which kept the root's table.
//! Who shares what is compared from outside; here the children prove in turn that it works: each takes
//! its own number from one shared queue, and the positions of shared files advance for all.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{dup, dup2_raw, dup3_raw, pipe, read, write};
use regrow_test_programs::{Task, pattern};

const FILES: usize = 12;
const FILE_BYTES: usize = 8192;

fn main() {
    let count: usize =
        std::env::args().nth(2).map_or(200, |text| text.parse().expect("the count is a number"));
    let mut task = Task::root();
    let mut opened: Vec<OwnedFd> = Vec::new();
    for number in 0..FILES {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .append(number % 4 == 3)
            .create(true)
            .truncate(number % 4 != 3)
            .open(task.file(&format!("file{number}")))
            .expect("open");
        file.write_all(&pattern(number as u64, FILE_BYTES)).expect("write");
        file.seek(SeekFrom::Start(number as u64 * 16)).expect("seek");
        opened.push(file.into());
    }
    for _ in 0..8 {
        let (reader, writer) = pipe().expect("pipe");
        opened.extend([reader, writer]);
    }
    for kind in [SockType::Stream, SockType::Datagram, SockType::SeqPacket, SockType::Stream] {
        let (left, right) =
            socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).expect("socketpair");
        opened.extend([left, right]);
    }
    for number in 0..6 {
        opened.push(EventFd::from_value_and_flags(number, EfdFlags::EFD_NONBLOCK).expect("eventfd").into());
    }
    // The same descriptions at more numbers: half with another close-on-exec flag.
    for number in 0..18 {
        let copy = dup(&opened[number * 2]).expect("dup");
        if number % 2 == 0 {
            fcntl(&copy, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("fcntl");
        }
        opened.push(copy);
    }
    assert_eq!(opened.len(), 60);

    // The queue from which every task takes one byte: that all of it is read once proves the sharing.
    let (reader, writer) = pipe().expect("pipe");
    let nested = count.div_ceil(4);
    let queue: Vec<u8> = (0..count + nested).map(|number| number as u8).collect();
    write(&writer, &queue).expect("write");

    for number in 0..count {
        task.spawn(&format!("child{number}"), |task| child(task, number, &opened, &reader));
    }
    let before = table();
    task.park();
    task.check_eq("descriptors", table(), before);
    task.collect();
    // The last writer: the children have exited.
    drop(writer);
    let mut left = [0; 16];
    let rest = task.check_ok("the queue's end", read(&reader, &mut left));
    task.check_eq("bytes left in the queue", rest, Some(0));
    // Some children have read 16 bytes each from file 1, through the one position.
    let mut file = std::fs::File::from(opened.swap_remove(1));
    let position = task.check_ok("position", file.stream_position());
    let readers = (0..count).filter(|number| reads_file(*number)).count() as u64;
    task.check_eq("shared position", position, Some(16 + 16 * readers));
    task.finish();
}

fn reads_file(number: usize) -> bool {
    number % 25 == 1
}

fn child(task: &mut Task, number: usize, opened: &[OwnedFd], queue: &OwnedFd) {
    let root_table = table();
    if number.is_multiple_of(4) {
        let name = format!("{}.nested", task.name());
        task.spawn(&name, |task| {
            task.park();
            task.check_eq("descriptors", table(), root_table.clone());
            take(task, queue);
        });
    }
    let pick = |step: usize| opened[(number * 7 + step * 11) % opened.len()].as_raw_fd();
    let keeps = |fd: RawFd| fd == opened[1].as_raw_fd();
    match number % 8 {
        0 => {}
        1 | 2 => {
            for step in 0..=number % 16 {
                if !keeps(pick(step)) {
                    // SAFETY: this task is about to forget `opened`, which owns the descriptor.
                    unsafe { libc::close(pick(step)) };
                }
            }
        }
        3 => {
            for step in 0..4 {
                let flag = if step % 2 == 0 { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
                fcntl(borrow(pick(step)), FcntlArg::F_SETFD(flag)).expect("fcntl");
            }
        }
        4 => swap(pick(0), pick(1)),
        5 => {
            swap(pick(0), pick(1));
            swap(pick(1), pick(2));
        }
        6 => copy(pick(0), 300 + number as RawFd, false),
        _ => {
            copy(pick(0), 500, true);
            copy(pick(0), 501, false);
            if !keeps(pick(0)) {
                // SAFETY: as above.
                unsafe { libc::close(pick(0)) };
            }
        }
    }
    let before = table();
    task.park();
    task.check_eq("descriptors", table(), before);
    take(task, queue);
    if reads_file(number) {
        // Not `File`: the description is everybody's.
        let mut bytes = [0; 16];
        let count = task.check_ok("read", read(borrow(opened[1].as_raw_fd()), &mut bytes));
        task.check_eq("bytes read", count, Some(16));
        let content = pattern(1, FILE_BYTES);
        task.check("content", content.chunks(16).any(|chunk| chunk == bytes));
    }
    // The parent's copies of these numbers may be closed or replaced in this task.
    // SAFETY: leaves the owners alone; the task exits without dropping them.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// Takes one byte from the shared queue.
fn take(task: &mut Task, queue: &OwnedFd) {
    let mut byte = [0; 1];
    let count = task.check_ok("the shared queue", read(queue, &mut byte));
    task.check_eq("the shared queue", count, Some(1));
}

/// Each number in use, with its close-on-exec flag.
fn table() -> BTreeSet<(RawFd, i32)> {
    (0..1024)
        .filter_map(|fd| {
            // SAFETY: F_GETFD only looks.
            let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
            (flags >= 0).then_some((fd, flags))
        })
        .collect()
}

fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the numbers come from `opened`, which lives until the task exits; a number that this task
    // has closed gives EBADF, which is a failed check.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

fn swap(left: RawFd, right: RawFd) {
    let aside = dup(borrow(left)).expect("dup");
    // SAFETY: the numbers stay in use; only what they refer to changes, which nobody relies on.
    unsafe {
        let _ = dup2_raw(borrow(right), left).expect("dup2").into_raw_fd();
        let _ = dup2_raw(&aside, right).expect("dup2").into_raw_fd();
    }
}

fn copy(from: RawFd, to: RawFd, closes_on_exec: bool) {
    let flags = if closes_on_exec { nix::fcntl::OFlag::O_CLOEXEC } else { nix::fcntl::OFlag::empty() };
    // SAFETY: the new number is free and stays open until the task exits.
    unsafe {
        let _ = dup3_raw(borrow(from), to, flags).expect("dup3").into_raw_fd();
    }
}
