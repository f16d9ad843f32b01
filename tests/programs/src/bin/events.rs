//! What waits for events, and what tells of them: `events DIR`. Epoll files (shared, nested, with one file
//! at two numbers), timerfds, signalfds, FIFOs, owners of descriptions, and descriptors in flight in socket
//! pairs. A child shares the epoll file and has closed what it watches.

use std::fs::{File, OpenOptions};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};
use nix::sys::stat::Mode;
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use nix::time::clock_gettime;
use nix::unistd::{dup, getpgrp, getpid, mkfifo, pipe, read, write};
use regrow_test_programs::{Task, pattern};

const F_SETSIG: libc::c_int = 10;
const F_GETSIG: libc::c_int = 11;
const F_SETOWN_EX: libc::c_int = 15;
const F_GETOWN_EX: libc::c_int = 16;
const F_GETOWNER_UIDS: libc::c_int = 17;

fn main() {
    let mut task = Task::root();

    // FIFOs: both ends and one for both; a reader alone; a writer alone.
    let both = task.file("both");
    let alone = task.file("reader");
    let mute = task.file("writer");
    for path in [&both, &alone, &mute] {
        mkfifo(path, Mode::from_bits_truncate(0o600)).expect("mkfifo");
    }
    let fifo_reader = fifo(&both, true, false, libc::O_NONBLOCK);
    let fifo_writer = fifo(&both, false, true, libc::O_APPEND);
    let fifo_both = fifo(&both, true, true, 0);
    write(&fifo_writer, &pattern(1, 6000)).expect("write");
    let helper = fifo(&alone, true, true, 0);
    let lone_reader = fifo(&alone, true, false, 0);
    write(&helper, &pattern(2, 300)).expect("write");
    drop(helper);
    let helper = fifo(&mute, true, true, 0);
    let lone_writer = fifo(&mute, false, true, 0);
    drop(helper);

    // Timerfds: far off, with a deadline, expired, not armed.
    let far = timer(ClockId::CLOCK_MONOTONIC, TimerFlags::empty());
    let long = |seconds| TimeSpec::from_duration(Duration::from_secs(seconds));
    far.set(Expiration::IntervalDelayed(long(5000), long(70)), TimerSetTimeFlags::empty())
        .expect("timerfd_settime");
    let absolute = timer(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_NONBLOCK);
    let now = clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).expect("clock_gettime");
    let deadline = TimeSpec::new(now.tv_sec() + 6000, 0);
    absolute
        .set(Expiration::OneShot(deadline), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
        .expect("timerfd_settime");
    let expired = timer(ClockId::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK);
    let soon = TimeSpec::from_duration(Duration::from_millis(1));
    expired
        .set(Expiration::IntervalDelayed(soon, long(8000)), TimerSetTimeFlags::empty())
        .expect("timerfd_settime");
    let idle = timer(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK);
    std::thread::sleep(Duration::from_millis(20));

    // A signal that is blocked, pending and read by descriptor.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGUSR1);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None).expect("sigprocmask");
    raise(Signal::SIGUSR1).expect("raise");
    let signal_fd = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK).expect("signalfd");

    // Epoll.
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
    let nested = Epoll::new(EpollCreateFlags::empty()).expect("epoll");
    let watched = pipe().expect("pipe");
    let twice = dup(&watched.0).expect("dup");
    let counter = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK).expect("eventfd");
    let once = EventFd::from_value_and_flags(3, EfdFlags::EFD_NONBLOCK).expect("eventfd");
    let (left, right) = pair(SockType::Stream);
    add(&epoll, &watched.0, EpollFlags::EPOLLIN, 1);
    add(&epoll, &twice, EpollFlags::EPOLLIN | EpollFlags::EPOLLET, u64::MAX);
    add(&epoll, &nested.0, EpollFlags::EPOLLIN, 3);
    add(&epoll, &once, EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, 4);
    add(&epoll, &left, EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, 5);
    add(&nested, &counter, EpollFlags::EPOLLIN | EpollFlags::EPOLLPRI, 6);
    add(&nested, &expired, EpollFlags::EPOLLOUT, 7);

    // Owners: this task, its group, and one set with another effective uid.
    let owned = [pipe().expect("pipe"), pipe().expect("pipe"), pipe().expect("pipe")];
    set_owner(&owned[0].0, libc::SIGUSR2, 1, getpid().as_raw());
    set_owner(&owned[1].0, 0, 2, getpgrp().as_raw());
    // SAFETY: numbers only.
    let changed = unsafe { libc::setresuid(!0, 1, !0) };
    set_owner(&owned[2].1, libc::SIGRTMIN() + 1, 0, getpid().as_raw());
    // SAFETY: as above.
    let back = unsafe { libc::setresuid(!0, 0, !0) };
    assert_eq!((changed, back), (0, 0), "the program runs as root");
    let owners: Vec<_> = [&owned[0].0, &owned[1].0, &owned[2].1].map(owner).into();

    // In flight: a pipe's end that nobody has, an eventfd that is also here, a socket with a queue, and bytes
    // before and behind.
    let (sender, receiver) = pair(SockType::Stream);
    let flying = pipe().expect("pipe");
    write(&flying.1, b"through").expect("write");
    let (inner, outer) = pair(SockType::SeqPacket);
    write(&outer, b"waits").expect("write");
    send(&sender, b"before", &[]);
    send(&sender, b"A", &[flying.0.as_raw_fd(), once.as_fd().as_raw_fd()]);
    send(&sender, b"B", &[inner.as_raw_fd()]);
    send(&sender, b"behind", &[]);
    drop((flying, inner));
    let (orphan, gone) = pair(SockType::Datagram);
    let alone_in_flight = pipe().expect("pipe");
    // An empty message CRIU takes for none.
    send(&gone, b"z", &[alone_in_flight.1.as_raw_fd()]);
    drop((gone, alone_in_flight.1));
    let reader = alone_in_flight.0;

    let closed = watched.0.as_raw_fd();
    task.spawn("child", |task| {
        // SAFETY: this child does not use it any more.
        unsafe { libc::close(closed) };
        task.park();
        // What the root has added is there already, under the same number.
        let again = epoll.add(&once, EpollEvent::new(EpollFlags::EPOLLIN, 0));
        task.check_eq("the child shares it", again, Err(Errno::EEXIST));
    });
    task.park();

    task.check_eq("FIFO", take(&fifo_reader, 6000), Ok(pattern(1, 6000)));
    task.check_eq("FIFO, empty", take(&fifo_reader, 1), Err(Errno::EAGAIN));
    task.check_eq("FIFO, for both", write(&fifo_both, b"x"), Ok(1));
    task.check_eq("FIFO, for both", take(&fifo_reader, 1), Ok(b"x".to_vec()));
    task.check_eq("FIFO without writer", take(&lone_reader, 300), Ok(pattern(2, 300)));
    task.check_eq("its end", take(&lone_reader, 1), Ok(Vec::new()));
    task.check_eq("FIFO without reader", write(&lone_writer, b"x"), Err(Errno::EPIPE));

    let left_s = |timer: &TimerFd| match timer.get() {
        Ok(Some(Expiration::OneShot(left) | Expiration::IntervalDelayed(left, _))) => left.tv_sec(),
        Ok(Some(Expiration::Interval(left))) => left.tv_sec(),
        Ok(None) | Err(_) => -1,
    };
    task.check("far timer", (4000..=5000).contains(&left_s(&far)));
    task.check("absolute timer", (5000..=6000).contains(&left_s(&absolute)));
    task.check("expired timer", (7000..=8000).contains(&left_s(&expired)));
    task.check_eq("idle timer", left_s(&idle), -1);
    task.check_eq("ticks", take(&expired, 8), Ok(1u64.to_ne_bytes().to_vec()));
    task.check_eq("no more ticks", take(&expired, 8), Err(Errno::EAGAIN));
    task.check_eq("no ticks", take(&absolute, 8), Err(Errno::EAGAIN));

    let signal = signal_fd.read_signal().ok().flatten().map(|info| info.ssi_signo);
    task.check_eq("signalfd", signal, Some(libc::SIGUSR1 as u32));

    task.check_eq("nothing but the eventfd, once", poll(epoll.0.as_raw_fd()), vec![4]);
    task.check_eq("then nothing", poll(epoll.0.as_raw_fd()), vec![]);
    task.check_eq("pipe", write(&watched.1, b"x"), Ok(1));
    task.check_eq("counter", counter.write(1), Ok(8));
    task.check_eq("socket", write(&right, b"x"), Ok(1));
    task.check_eq("all of it", poll(epoll.0.as_raw_fd()), vec![1, 3, 5, u64::MAX]);
    task.check_eq("without the edge", poll(epoll.0.as_raw_fd()), vec![1, 3, 5]);
    task.check_eq("inside", poll(nested.0.as_raw_fd()), vec![6]);
    task.check_eq("delete", epoll.delete(&twice), Ok(()));

    let found: Vec<_> = [&owned[0].0, &owned[1].0, &owned[2].1].map(owner).into();
    task.check_eq("owners", found, owners);

    // CRIU stores as one what one read can get: bytes without descriptors, and those behind them with.
    let (data, first) = receive(&receiver, 7).unwrap_or_default();
    task.check_eq("with two descriptors", data, b"beforeA".to_vec());
    task.check_eq("two descriptors", first.len(), 2);
    if let [pipe, event] = &first[..] {
        task.check_eq("pipe in flight", take(pipe, 7), Ok(b"through".to_vec()));
        task.check_eq("its end", take(pipe, 1), Ok(Vec::new()));
        task.check_eq("eventfd in flight", take(event, 8), Ok(3u64.to_ne_bytes().to_vec()));
        task.check_eq("is the one that is here", once.read(), Err(Errno::EAGAIN));
    }
    let second = receive(&receiver, 1).map(|(_, fds)| fds).unwrap_or_default();
    task.check_eq("a socket", second.len(), 1);
    if let [socket] = &second[..] {
        task.check_eq("its queue", take(socket, 5), Ok(b"waits".to_vec()));
        task.check_eq("its peer", write(socket, b"back"), Ok(4));
        task.check_eq("its peer", take(&outer, 4), Ok(b"back".to_vec()));
    }
    task.check_eq("behind", receive(&receiver, 6).map(|(data, _)| data), Ok(b"behind".to_vec()));
    let last = receive(&orphan, 1).map(|(_, fds)| fds).unwrap_or_default();
    task.check_eq("from nobody", last.len(), 1);
    if let [writer] = &last[..] {
        task.check_eq("from nobody", write(writer, b"y"), Ok(1));
        task.check_eq("from nobody", take(&reader, 1), Ok(b"y".to_vec()));
    }
    task.finish();
}

fn fifo(path: &Path, read: bool, write: bool, flags: i32) -> OwnedFd {
    let file: File =
        OpenOptions::new().read(read).write(write).custom_flags(flags).open(path).expect("open a FIFO");
    file.into()
}

fn timer(clock: ClockId, flags: TimerFlags) -> TimerFd {
    TimerFd::new(clock, flags).expect("timerfd")
}

fn pair(kind: SockType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, kind, None, SockFlag::empty()).expect("socketpair")
}

fn add(epoll: &Epoll, fd: &impl AsFd, events: EpollFlags, data: u64) {
    epoll.add(fd, EpollEvent::new(events, data)).expect("epoll_ctl");
}

/// What is reported now, sorted.
fn poll(epoll: RawFd) -> Vec<u64> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 16];
    // SAFETY: the array is as long as said.
    let count = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), 16, i32::from(EpollTimeout::ZERO)) };
    let mut data: Vec<u64> = events.iter().take(count.max(0) as usize).map(|event| event.u64).collect();
    data.sort_unstable();
    data
}

fn set_owner(fd: &OwnedFd, signal: i32, kind: i32, id: i32) {
    let owner = [kind, id];
    // SAFETY: the owner is a live struct f_owner_ex; the other request takes a number.
    let results = unsafe {
        [
            libc::fcntl(fd.as_raw_fd(), F_SETSIG, signal),
            libc::fcntl(fd.as_raw_fd(), F_SETOWN_EX, owner.as_ptr()),
        ]
    };
    assert_eq!(results, [0, 0]);
}

/// Kind and number of the owner, its uids, the signal.
fn owner(fd: &OwnedFd) -> ([i32; 2], [u32; 2], i32) {
    let (mut owner, mut uids) = ([0; 2], [0; 2]);
    // SAFETY: both point to live values of the sizes that the requests write.
    unsafe {
        libc::fcntl(fd.as_raw_fd(), F_GETOWN_EX, owner.as_mut_ptr());
        libc::fcntl(fd.as_raw_fd(), F_GETOWNER_UIDS, uids.as_mut_ptr());
        (owner, uids, libc::fcntl(fd.as_raw_fd(), F_GETSIG))
    }
}

fn send(socket: &OwnedFd, data: &[u8], fds: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(data)], control, MsgFlags::empty(), None)
        .expect("sendmsg");
}

/// At most so many bytes, with what comes with them.
fn receive(socket: &OwnedFd, len: usize) -> Result<(Vec<u8>, Vec<OwnedFd>), Errno> {
    let mut bytes = vec![0; len];
    let mut control = nix::cmsg_space!([RawFd; 4]);
    let mut iov = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            // SAFETY: the kernel has just opened them for us.
            fds.extend(numbers.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let count = message.bytes;
    bytes.truncate(count);
    Ok((bytes, fds))
}

fn take(fd: &impl AsFd, len: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; len];
    let count = read(fd, &mut bytes)?;
    bytes.truncate(count);
    Ok(bytes)
}
