//! Data on its way: `in_flight DIR`. Pipes, socket pairs and eventfds that hold something, in every state
//! that one task can bring them into; a child holds some of the other ends. Missing,
//! because CRIU does not dump it: packetized pipes and that an eventfd is a semaphore.

use std::fs::OpenOptions;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::sockopt::{PassCred, RcvBuf, SndBuf};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, getsockopt, recv, recvmsg, send, sendmsg,
    setsockopt, shutdown, socketpair,
};
use nix::unistd::{pipe, pipe2, read, write};
use regrow_test_programs::{Task, pattern};

fn main() {
    let mut task = Task::root();

    // Pipes.
    let plain = pipe().expect("pipe");
    write(&plain.1, &pattern(1, 10_000)).expect("write");
    let large = pipe2(OFlag::O_NONBLOCK).expect("pipe");
    let large_bytes = fcntl(&large.0, FcntlArg::F_SETPIPE_SZ(1 << 20)).expect("capacity") as usize;
    let nearly_full = pattern(3, large_bytes - 4096);
    assert_eq!(write(&large.1, &nearly_full).expect("write"), nearly_full.len());
    let small = pipe().expect("pipe");
    fcntl(&small.0, FcntlArg::F_SETPIPE_SZ(4096)).expect("capacity");
    write(&small.1, &pattern(4, 4096)).expect("write");
    let (only_reader, writer) = pipe().expect("pipe");
    write(&writer, &pattern(5, 5000)).expect("write");
    drop(writer);
    let (reader, only_writer) = pipe().expect("pipe");
    drop(reader);
    // A second description of the same pipe, which has its own flags.
    let again = |fd: &OwnedFd, write: bool, flags: i32| -> OwnedFd {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        OpenOptions::new().read(!write).write(write).custom_flags(flags).open(path).expect("open").into()
    };
    let second_reader = again(&plain.0, false, libc::O_NONBLOCK);
    let second_writer = again(&plain.1, true, 0);

    // Socket pairs, with data both ways.
    let pairs: Vec<(SockType, OwnedFd, OwnedFd)> =
        [SockType::Stream, SockType::Datagram, SockType::SeqPacket]
            .into_iter()
            .map(|kind| {
                let (left, right) = pair(kind);
                for number in 0..5 {
                    send(left.as_raw_fd(), &pattern(10 + number, 700), MsgFlags::empty()).expect("send");
                    send(right.as_raw_fd(), &pattern(20 + number, 300), MsgFlags::empty()).expect("send");
                }
                (kind, left, right)
            })
            .collect();
    let (orphan_stream, peer) = pair(SockType::Stream);
    send(peer.as_raw_fd(), &pattern(30, 4000), MsgFlags::empty()).expect("send");
    drop(peer);
    let (orphan_packets, peer) = pair(SockType::SeqPacket);
    send(peer.as_raw_fd(), &pattern(31, 400), MsgFlags::empty()).expect("send");
    drop(peer);
    let stopped_writing = pair(SockType::Stream);
    send(stopped_writing.0.as_raw_fd(), &pattern(32, 100), MsgFlags::empty()).expect("send");
    shutdown(stopped_writing.0.as_raw_fd(), Shutdown::Write).expect("shutdown");
    let stopped_both = pair(SockType::Stream);
    shutdown(stopped_both.0.as_raw_fd(), Shutdown::Both).expect("shutdown");
    let stopped_packets = pair(SockType::SeqPacket);
    shutdown(stopped_packets.1.as_raw_fd(), Shutdown::Read).expect("shutdown");
    let sized = pair(SockType::Stream);
    setsockopt(&sized.0, SndBuf, &50_000).expect("setsockopt");
    setsockopt(&sized.1, RcvBuf, &30_000).expect("setsockopt");
    setsockopt(&sized.1, PassCred, &true).expect("setsockopt");
    fcntl(&sized.0, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("fcntl");
    let sizes = (getsockopt(&sized.0, SndBuf), getsockopt(&sized.1, RcvBuf));

    // Eventfds.
    let counter = EventFd::from_value_and_flags(41, EfdFlags::EFD_NONBLOCK).expect("eventfd");
    counter.write(1).expect("write");

    // A pipe to a child and one from it, both with something in them that was sent before.
    let down = pipe().expect("pipe");
    let up = pipe().expect("pipe");
    write(&down.1, b"down").expect("write");
    write(&up.1, b"early").expect("write");
    task.spawn("child", |task| {
        task.park();
        let mut bytes = [0; 8];
        let count = task.check_ok("down", read(&down.0, &mut bytes));
        task.check_eq("down", count.map(|count| bytes[..count].to_vec()), Some(b"down".to_vec()));
        let written = task.check_ok("up", write(&up.1, b"late"));
        task.check_eq("up", written, Some(4));
    });

    task.park();

    expect_bytes(&mut task, "second description", &second_reader, &pattern(1, 10_000)[..3000]);
    expect_bytes(&mut task, "plain pipe", &plain.0, &pattern(1, 10_000)[3000..]);
    let empty = read(&second_reader, &mut [0; 1]);
    task.check_eq("an empty nonblocking pipe", empty, Err(Errno::EAGAIN));
    let written = write(&second_writer, b"x");
    task.check_eq("second writer", written, Ok(1));
    expect_bytes(&mut task, "second writer", &plain.0, b"x");
    task.check_eq("capacity", fcntl(&large.1, FcntlArg::F_GETPIPE_SZ), Ok(large_bytes as i32));
    let room = write(&large.1, &[1; 8192]);
    task.check_eq("room in the large pipe", room, Ok(4096));
    task.check_eq("the full pipe", write(&large.1, &[1; 4096]), Err(Errno::EAGAIN));
    expect_bytes(&mut task, "large pipe", &large.0, &nearly_full);
    task.check_eq("small capacity", fcntl(&small.0, FcntlArg::F_GETPIPE_SZ), Ok(4096));
    expect_bytes(&mut task, "small pipe", &small.0, &pattern(4, 4096));
    expect_bytes(&mut task, "pipe without writer", &only_reader, &pattern(5, 5000));
    task.check_eq("end of the pipe without writer", read(&only_reader, &mut [0; 1]), Ok(0));
    // Rust ignores SIGPIPE, and the restored task must too.
    task.check_eq("pipe without reader", write(&only_writer, b"x"), Err(Errno::EPIPE));

    for (kind, left, right) in &pairs {
        for (to, seed, size) in [(right, 10, 700), (left, 20, 300)] {
            for number in 0..5 {
                let wanted = pattern(seed + number, size);
                let mut bytes = vec![0; if *kind == SockType::Stream { size } else { 4096 }];
                let count = recv(to.as_raw_fd(), &mut bytes, MsgFlags::MSG_WAITALL);
                task.check_eq(&format!("{kind:?} message {number}"), count, Ok(size));
                task.check(&format!("{kind:?} bytes"), bytes[..size] == wanted);
            }
            let none = recv(to.as_raw_fd(), &mut [0; 1], MsgFlags::MSG_DONTWAIT);
            task.check_eq(&format!("{kind:?} then nothing"), none, Err(Errno::EAGAIN));
        }
        let iov = [IoSlice::new(b"again")];
        let sent = sendmsg::<()>(left.as_raw_fd(), &iov, &[], MsgFlags::empty(), None);
        task.check_eq(&format!("{kind:?} still works"), sent, Ok(5));
        let mut bytes = [0; 5];
        let mut iov = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg::<()>(right.as_raw_fd(), &mut iov, None, MsgFlags::empty()).map(|it| it.bytes);
        task.check_eq(&format!("{kind:?} still works"), received, Ok(5));
    }
    expect_bytes(&mut task, "stream without peer", &orphan_stream, &pattern(30, 4000));
    task.check_eq("end of the stream without peer", read(&orphan_stream, &mut [0; 1]), Ok(0));
    let sent = send(orphan_stream.as_raw_fd(), b"x", MsgFlags::MSG_NOSIGNAL);
    task.check_eq("to nobody", sent, Err(Errno::EPIPE));
    expect_bytes(&mut task, "packet without peer", &orphan_packets, &pattern(31, 400));
    expect_bytes(&mut task, "before the shutdown", &stopped_writing.1, &pattern(32, 100));
    task.check_eq("after the shutdown", read(&stopped_writing.1, &mut [0; 1]), Ok(0));
    let back = write(&stopped_writing.1, b"back");
    task.check_eq("the other way", back, Ok(4));
    expect_bytes(&mut task, "the other way", &stopped_writing.0, b"back");
    let sent = send(stopped_both.0.as_raw_fd(), b"x", MsgFlags::MSG_NOSIGNAL);
    task.check_eq("shut down both ways", sent, Err(Errno::EPIPE));
    let sent = send(stopped_packets.0.as_raw_fd(), b"x", MsgFlags::MSG_NOSIGNAL);
    task.check_eq("to one who stopped reading", sent, Err(Errno::EPIPE));
    task.check_eq("sizes", (getsockopt(&sized.0, SndBuf), getsockopt(&sized.1, RcvBuf)), sizes);
    task.check_eq("credentials pass", getsockopt(&sized.1, PassCred), Ok(true));
    let none = recv(sized.0.as_raw_fd(), &mut [0; 1], MsgFlags::empty());
    task.check_eq("nonblocking", none, Err(Errno::EAGAIN));

    task.check_eq("counter", counter.read(), Ok(42));
    task.check_eq("empty counter", counter.read(), Err(Errno::EAGAIN));

    expect_bytes(&mut task, "early", &up.0, b"early");
    expect_bytes(&mut task, "late", &up.0, b"late");
    task.finish();
}

fn pair(kind: SockType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, kind, None, SockFlag::empty()).expect("socketpair")
}

/// Reads exactly as many bytes as wanted and compares them.
fn expect_bytes(task: &mut Task, what: &str, fd: &OwnedFd, wanted: &[u8]) {
    let mut found = vec![0; wanted.len()];
    let mut length = 0;
    while length < wanted.len() {
        match read(fd, &mut found[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) => {
                task.fail(format!("{what}: {error} after {length} bytes"));
                return;
            }
        }
    }
    task.check_eq(&format!("{what}: length"), length, wanted.len());
    task.check(&format!("{what}: content"), found == wanted);
}
