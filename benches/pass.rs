//! What it costs to give a task descriptors that another has: by message, by `pidfd_getfd(2)`, by fork.
//!
//! `cargo bench --bench pass` prints, for 1, 10, 60 and 253 descriptors, the median time (of forks the least) of
//!
//! - a message over a new pair of sockets: `socketpair`, `sendmsg`, `recvmsg`, `close` of both;
//! - a message over a pair that is there, and one that is looked at (`MSG_PEEK`) and stays;
//! - `pidfd_open`, a `pidfd_getfd` for each, `close`;
//! - their share in a fork, and in the `close_range` of a child that does not want them.
//!
//! A second table says what it costs to make as many sockets under another uid:
//!
//! - by the task itself, which takes the uid on and puts it off again (`setresuid(2)` twice);
//! - by a helper that shares its descriptor table and takes the uid on for good: with `CLONE_VM` and `CLONE_VFORK`, and as an
//!   ordinary fork with `CLONE_FILES` alone, from a process as small as this one.
//!
//! Giver and taker are one process in the first three: what is measured is the work, and not who waits for whom. The
//! received descriptors are closed outside of the time.
#![allow(unsafe_code, reason = "raw calls and forks are what is measured")]
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const COUNTS: [usize; 4] = [1, 10, 60, 253];
const ROUNDS: usize = 401;
const FORKS: usize = 301;
/// How many times as many descriptors are in the table of who forks.
const TIMES: usize = 50;
static CLOSING_NS: AtomicU64 = AtomicU64::new(0);

/// Under which uid sockets are made.
const OTHER_UID: u32 = 4711;
/// Leaves an id as it is (setresuid(2)).
const KEEP: u32 = u32::MAX;

fn main() {
    passed();
    println!();
    made_aside();
}

fn passed() {
    // SAFETY: a call without pointers.
    let eventfd = |_| check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) });
    let fds: Vec<i32> = (0..253).map(eventfd).collect();
    println!(
        "| descriptors | new pair, sent and taken | pair that is there | looked at | pidfd_getfd | fork | close_range |"
    );
    println!("|---|---|---|---|---|---|---|");
    for count in COUNTS {
        let fds = &fds[..count];
        let made = median(ROUNDS, || by_new_pair(fds));
        let kept = kept_pair(fds);
        let pidfd = median(ROUNDS, || by_pidfd(fds));
        let (fork, close) = by_fork(fds);
        let us = |time: f64| format!("{time:.2} µs");
        println!(
            "| {count} | {} | {} | {} | {} | {} | {} |",
            us(made),
            us(kept.0),
            us(kept.1),
            us(pidfd),
            us(fork),
            us(close)
        );
    }
}

fn made_aside() {
    println!(
        "| sockets under another uid | by the task itself | by a helper (CLONE_VM) | by a helper (fork) |"
    );
    println!("|---|---|---|---|");
    for count in COUNTS {
        let own = median(ROUNDS, || timed(count, || own_hand(count)));
        let shared = median(ROUNDS, || timed(count, || by_helper(count, libc::CLONE_VM | libc::CLONE_VFORK)));
        let forked = median(FORKS, || timed(count, || by_helper(count, 0)));
        println!("| {count} | {own:.2} µs | {shared:.2} µs | {forked:.2} µs |");
    }
}

/// How long `make` takes to make so many sockets, which are closed behind it.
fn timed(count: usize, make: impl FnOnce()) -> Duration {
    // SAFETY: a call without pointers: what it gives is the first number that is free.
    let first = check(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0) });
    close(first);
    let start = Instant::now();
    make();
    let time = start.elapsed();
    // All of them are in this table, whoever made them.
    (first..).take(count).for_each(close);
    time
}

/// The kernel is called directly: of a process with threads the library would have all of them change.
fn take_on(uid: u32, saved: u32) {
    // SAFETY: a call without pointers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, KEEP, uid, saved) as i32 });
}

fn own_hand(count: usize) {
    take_on(OTHER_UID, KEEP);
    sockets(count);
    take_on(0, KEEP);
}

fn sockets(count: usize) {
    for _ in 0..count {
        // SAFETY: a call without pointers.
        check(unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0) });
    }
}

/// A helper with a table that is ours, and a stack of its own.
fn by_helper(count: usize, flags: i32) {
    extern "C" fn help(count: *mut libc::c_void) -> i32 {
        take_on(OTHER_UID, KEEP);
        sockets(count.addr());
        0
    }
    let mut stack = [0u128; 4096];
    // SAFETY: the stack is the helper's alone, who has ended before it goes, and is touched at its end only.
    unsafe {
        let top = stack.as_mut_ptr().add(stack.len()).cast();
        let helper = check(libc::clone(
            help,
            top,
            flags | libc::CLONE_FILES | libc::SIGCHLD,
            std::ptr::without_provenance_mut(count),
        ));
        check(libc::waitpid(helper, std::ptr::null_mut(), 0));
    }
}

/// In microseconds.
fn median(rounds: usize, mut once: impl FnMut() -> Duration) -> f64 {
    let mut times: Vec<f64> = (0..rounds).map(|_| once().as_secs_f64() * 1e6).collect();
    times.sort_by(f64::total_cmp);
    times[rounds / 2]
}

/// In microseconds. A fork of this program takes a hundred times what its descriptors add.
fn least(rounds: usize, mut once: impl FnMut() -> Duration) -> f64 {
    (0..rounds).map(|_| once().as_secs_f64() * 1e6).fold(f64::INFINITY, f64::min)
}

fn check(result: i32) -> i32 {
    assert!(result >= 0, "{}", std::io::Error::last_os_error());
    result
}

fn pair() -> [i32; 2] {
    let mut pair = [0; 2];
    // SAFETY: the array has room for two numbers.
    check(unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, pair.as_mut_ptr()) });
    pair
}

/// A message of one byte, with its control buffer.
struct Message {
    control: Vec<u64>,
    len: usize,
    byte: u8,
}

impl Message {
    fn with(fds: &[i32]) -> Message {
        let len = 16 + 4 * fds.len();
        let mut control = vec![0u64; len.div_ceil(8)];
        control[0] = len as u64;
        control[1] = libc::SOL_SOCKET as u64 | (libc::SCM_RIGHTS as u64) << 32;
        for (at, fd) in fds.iter().enumerate() {
            control[2 + at / 2] |= u64::from(*fd as u32) << (32 * (at % 2));
        }
        Message { control, len, byte: 0 }
    }

    fn call(&mut self, call: impl FnOnce(*mut libc::msghdr) -> isize) {
        let mut vector = libc::iovec { iov_base: (&raw mut self.byte).cast(), iov_len: 1 };
        // SAFETY: all zeroes are a header without anything.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        header.msg_control = self.control.as_mut_ptr().cast();
        header.msg_controllen = self.len;
        assert_eq!(call(&raw mut header), 1, "{}", std::io::Error::last_os_error());
    }

    fn send(&mut self, socket: i32) {
        // SAFETY: the header and all it points to live.
        self.call(|header| unsafe { libc::sendmsg(socket, header, libc::MSG_DONTWAIT) });
    }

    fn receive(&mut self, socket: i32, flags: i32) {
        // SAFETY: as above.
        self.call(|header| unsafe { libc::recvmsg(socket, header, libc::MSG_DONTWAIT | flags) });
    }

    /// Closes what has been received.
    fn drop_received(&self) {
        for at in 0..(self.len - 16) / 4 {
            let fd = (self.control[2 + at / 2] >> (32 * (at % 2))) as u32 as i32;
            close(fd);
        }
    }
}

fn close(fd: i32) {
    // SAFETY: a number of ours.
    check(unsafe { libc::close(fd) });
}

fn by_new_pair(fds: &[i32]) -> Duration {
    let (mut out, mut back) = (Message::with(fds), Message::with(fds));
    let start = Instant::now();
    let [one, other] = pair();
    out.send(one);
    back.receive(other, 0);
    close(one);
    close(other);
    let time = start.elapsed();
    back.drop_received();
    time
}

/// Sending and taking; looking.
fn kept_pair(fds: &[i32]) -> (f64, f64) {
    let [one, other] = pair();
    let taken = median(ROUNDS, || {
        let (mut out, mut back) = (Message::with(fds), Message::with(fds));
        let start = Instant::now();
        out.send(one);
        back.receive(other, 0);
        let time = start.elapsed();
        back.drop_received();
        time
    });
    Message::with(fds).send(one);
    let looked = median(ROUNDS, || {
        let mut back = Message::with(fds);
        let start = Instant::now();
        back.receive(other, libc::MSG_PEEK);
        let time = start.elapsed();
        back.drop_received();
        time
    });
    close(one);
    close(other);
    (taken, looked)
}

fn by_pidfd(fds: &[i32]) -> Duration {
    let mut received = Vec::with_capacity(fds.len());
    let start = Instant::now();
    // SAFETY: calls without pointers.
    unsafe {
        let pidfd = check(libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) as i32);
        for fd in fds {
            received.push(check(libc::syscall(libc::SYS_pidfd_getfd, pidfd, *fd, 0) as i32));
        }
        close(pidfd);
    }
    let time = start.elapsed();
    received.into_iter().for_each(close);
    time
}

/// What the descriptors add to a fork, and what it costs the child to close them all. Many times as many are
/// measured, because they add so little.
fn by_fork(fds: &[i32]) -> (f64, f64) {
    // SAFETY: calls without pointers but to a limit of ours, in a child that does nothing else.
    let copy = |fds: &[i32]| unsafe {
        let mut most = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut most));
        most.rlim_cur = most.rlim_max;
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const most));
        for fd in fds.iter().cycle().take(TIMES * fds.len()) {
            check(libc::dup(*fd));
        }
    };
    let without = forks(|| copy(&[]));
    let with = forks(|| copy(fds));
    let closed = forks(|| {
        copy(fds);
        let start = Instant::now();
        // SAFETY: as above. What was open before stays.
        unsafe { libc::syscall(libc::SYS_close_range, 300, u32::MAX, 0) };
        CLOSING_NS.store(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    });
    ((with.0 - without.0).max(0.0) / TIMES as f64, closed.1 / TIMES as f64)
}

/// The least time of a fork, by a process that has called `prepare`; and what that has put into `CLOSING_NS`, in
/// microseconds.
fn forks(prepare: impl Fn()) -> (f64, f64) {
    let mut pipe = [0; 2];
    // SAFETY: as in the other functions. The process that measures is a child of ours, with one thread.
    unsafe {
        check(libc::pipe2(pipe.as_mut_ptr(), 0));
        let child = check(libc::fork());
        if child == 0 {
            prepare();
            let prepared = CLOSING_NS.load(Ordering::Relaxed) as f64 / 1e3;
            let fork = least(FORKS, || {
                let start = Instant::now();
                let child = libc::fork();
                if child == 0 {
                    libc::_exit(0);
                }
                let time = start.elapsed();
                libc::waitpid(child, std::ptr::null_mut(), 0);
                time
            });
            let both = [fork, prepared];
            libc::write(pipe[1], both.as_ptr().cast(), 16);
            libc::_exit(0);
        }
        close(pipe[1]);
        let mut both = [0.0f64; 2];
        assert_eq!(libc::read(pipe[0], both.as_mut_ptr().cast(), 16), 16);
        libc::waitpid(child, std::ptr::null_mut(), 0);
        close(pipe[0]);
        (both[0], both[1])
    }
}
