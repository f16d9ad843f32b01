//! What launcher and coordinator say to each other: fixed-size messages over a socket pair that
//! keeps their boundaries. The end of the channel is a message, too: the other one is gone.

use std::io::{Error, IoSlice, IoSliceMut, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};

use crate::sys::process::Birth;
use crate::sys::region::Place;

/// From the coordinator to the launcher.
#[derive(Debug, Clone, Copy)]
pub enum Order {
    /// Map the region (its memfd comes along) and clone the root task.
    Start {
        /// Where the region goes.
        place: Place,
        /// Where the root starts.
        birth: Birth,
        /// Clone it as a child of our parent.
        sibling: bool,
        /// What CLOCK_MONOTONIC and CLOCK_BOOTTIME say to it, in nanoseconds, in a new time namespace.
        clocks_ns: Option<[u64; 2]>,
        /// A fault that a test wants ([`super::seam`]).
        fault: u64,
    },
    /// Some of the tree's tasks, by pid: only where the root is no child of the launcher; 0 is none.
    Tasks([u64; WORDS - 1]),
    /// All are ready, and are let go as soon as this has been sent: who asks for an end now comes too late.
    Committed,
}

/// From the launcher to the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The root plays its tape.
    Started {
        /// Its pid.
        pid: i32,
    },
    /// The region could not be mapped: an errno.
    MapFailed(i32),
    /// The time namespace could not be made: an errno.
    ClocksFailed(i32),
    /// A cgroup could not be made.
    CgroupFailed {
        /// Which of those of the tapes.
        index: u32,
        /// Which of its files; `None`: the directory itself.
        file: Option<u32>,
        /// An errno.
        errno: i32,
    },
    /// The root could not be cloned: an errno.
    CloneFailed(i32),
    /// The root died before the commit.
    RootDied,
    /// A signal asks for an end.
    Interrupted(i32),
}

/// Words of a message.
pub const WORDS: usize = 14;
type Words = [u64; WORDS];

impl Order {
    fn to_words(self) -> Words {
        match self {
            Order::Start { place, birth, sibling, clocks_ns, fault } => [
                1,
                place.base,
                place.rw_len,
                place.ro_len,
                place.trace_len,
                birth.clone_args,
                birth.tape,
                birth.control,
                birth.code,
                u64::from(sibling),
                u64::from(clocks_ns.is_some()),
                clocks_ns.unwrap_or_default()[0],
                clocks_ns.unwrap_or_default()[1],
                fault,
            ],
            Order::Tasks(pids) => std::array::from_fn(|i| if i == 0 { 3 } else { pids[i - 1] }),
            Order::Committed => std::array::from_fn(|i| if i == 0 { 2 } else { 0 }),
        }
    }

    fn from_words(words: Words) -> Option<Order> {
        let [
            kind,
            base,
            rw_len,
            ro_len,
            trace_len,
            clone_args,
            tape,
            control,
            code,
            sibling,
            has_clocks,
            monotonic,
            boottime,
            fault,
        ] = words;
        match kind {
            1 => Some(Order::Start {
                place: Place { base, rw_len, ro_len, trace_len },
                birth: Birth { clone_args, tape, control, code },
                sibling: sibling != 0,
                clocks_ns: (has_clocks != 0).then_some([monotonic, boottime]),
                fault,
            }),
            2 => Some(Order::Committed),
            3 => Some(Order::Tasks(std::array::from_fn(|i| words[i + 1]))),
            _ => None,
        }
    }
}

impl Reply {
    fn to_words(self) -> Words {
        let (kind, value) = match self {
            Reply::CgroupFailed { index, file, errno } => {
                let file = file.map_or(0, |file| u64::from(file) + 1);
                return std::array::from_fn(|i| match i {
                    0 => 7,
                    1 => errno as u64,
                    2 => index.into(),
                    3 => file,
                    _ => 0,
                });
            }
            Reply::Started { pid } => (1, pid),
            Reply::MapFailed(errno) => (2, errno),
            Reply::CloneFailed(errno) => (3, errno),
            Reply::RootDied => (4, 0),
            Reply::Interrupted(signal) => (5, signal),
            Reply::ClocksFailed(errno) => (6, errno),
        };
        std::array::from_fn(|i| match i {
            0 => kind,
            1 => value as u64,
            _ => 0,
        })
    }

    fn from_words(words: Words) -> Option<Reply> {
        let value = words[1] as i32;
        match words[0] {
            1 => Some(Reply::Started { pid: value }),
            2 => Some(Reply::MapFailed(value)),
            3 => Some(Reply::CloneFailed(value)),
            4 => Some(Reply::RootDied),
            5 => Some(Reply::Interrupted(value)),
            6 => Some(Reply::ClocksFailed(value)),
            7 => Some(Reply::CgroupFailed {
                index: words[2] as u32,
                file: words[3].checked_sub(1).map(|file| file as u32),
                errno: value,
            }),
            _ => None,
        }
    }
}

/// One end.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
}

impl Channel {
    /// Two connected ends.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pair() -> Result<(Channel, Channel)> {
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Channel { fd: a }, Channel { fd: b }))
    }

    /// The descriptor, to wait for.
    pub fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.fd.as_fd()
    }

    fn send_words(&self, words: Words, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let fds: Vec<RawFd> = fd.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &[][..] } else { &rights[..] };
        sendmsg::<()>(self.fd.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    #[allow(unsafe_code)] // For the one descriptor that arrives here.
    fn receive_words(&self) -> Result<(Words, Option<OwnedFd>)> {
        let mut bytes = [0u8; WORDS * 8];
        let mut space = nix::cmsg_space!([RawFd; 1]);
        let mut vector = [IoSliceMut::new(&mut bytes)];
        let fd = self.fd.as_raw_fd();
        let mut once = recvmsg::<()>(fd, &mut vector, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC);
        if once.as_ref().is_err_and(|errno| *errno == Errno::ECONNRESET) {
            // The other one has ended without reading all that we sent (`unix_release_sock`, net/unix/af_unix.c). That is
            // said once, and first: what it sent before is still there.
            once = recvmsg::<()>(fd, &mut vector, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC);
        }
        let message = once?;
        let mut received = None;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                for fd in fds {
                    // SAFETY: the kernel has just put this descriptor into our table for us.
                    received = Some(unsafe { OwnedFd::from_raw_fd(fd) });
                }
            }
        }
        if message.bytes != WORDS * 8 {
            return Err(Error::new(std::io::ErrorKind::UnexpectedEof, "the other process has ended"));
        }
        let words = std::array::from_fn(|i| u64::from_ne_bytes(std::array::from_fn(|j| bytes[i * 8 + j])));
        Ok((words, received))
    }

    /// Sends an order.
    ///
    /// # Errors
    /// The kernel's; EPIPE where the launcher is gone.
    pub fn send(&self, order: Order, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.send_words(order.to_words(), fd)
    }

    /// Sends a reply.
    ///
    /// # Errors
    /// The kernel's; EPIPE where the coordinator is gone.
    pub fn reply(&self, reply: Reply) -> Result<()> {
        self.send_words(reply.to_words(), None)
    }

    /// Waits for the next reply.
    ///
    /// # Errors
    /// `UnexpectedEof` where the launcher is gone.
    pub fn receive(&self) -> Result<Reply> {
        let (words, _) = self.receive_words()?;
        Reply::from_words(words)
            .ok_or_else(|| Error::new(std::io::ErrorKind::InvalidData, "an unknown reply"))
    }

    /// The next reply, if one is there.
    ///
    /// # Errors
    /// As [`Channel::receive`].
    pub fn try_receive(&self) -> Result<Option<Reply>> {
        let mut fds = [PollFd::new(self.fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::ZERO)? == 0 { Ok(None) } else { self.receive().map(Some) }
    }

    /// Waits for the next order.
    ///
    /// # Errors
    /// `UnexpectedEof` where the coordinator is gone.
    pub fn order(&self) -> Result<(Order, Option<OwnedFd>)> {
        let (words, fd) = self.receive_words()?;
        let order = Order::from_words(words)
            .ok_or_else(|| Error::new(std::io::ErrorKind::InvalidData, "an unknown order"))?;
        Ok((order, fd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_back() {
        for reply in [
            Reply::Started { pid: 7 },
            Reply::MapFailed(17),
            Reply::ClocksFailed(34),
            Reply::CloneFailed(1),
            Reply::RootDied,
            Reply::Interrupted(2),
        ] {
            assert_eq!(Reply::from_words(reply.to_words()), Some(reply));
        }
        let place = Place { base: 1, rw_len: 2, ro_len: 3, trace_len: 12 };
        let birth = Birth { clone_args: 4, tape: 5, control: 6, code: 7 };
        for clocks_ns in [None, Some([8, 9])] {
            let words = Order::Start { place, birth, sibling: true, clocks_ns, fault: 10 }.to_words();
            assert_eq!(Order::from_words(words).map(Order::to_words), Some(words));
        }
        assert!(Order::from_words([9; WORDS]).is_none());
    }

    #[test]
    fn the_end_is_a_message() {
        let (a, b) = Channel::pair().expect("a socket pair");
        assert_eq!(a.try_receive().expect("an empty channel"), None);
        b.reply(Reply::RootDied).expect("a reply");
        assert_eq!(a.receive().expect("a reply"), Reply::RootDied);
        drop(b);
        assert_eq!(a.receive().expect_err("the end").kind(), std::io::ErrorKind::UnexpectedEof);
    }

    /// Found by interrupting restores near their ends: the launcher did not see that the tree was committed, and took it
    /// away.
    #[test]
    fn what_was_said_before_the_end_counts() {
        let (launcher, coordinator) = Channel::pair().expect("a socket pair");
        launcher.reply(Reply::Interrupted(2)).expect("a reply that nobody reads");
        coordinator.send(Order::Committed, None).expect("an order");
        drop(coordinator);
        assert!(matches!(launcher.order(), Ok((Order::Committed, None))));
        assert_eq!(launcher.order().expect_err("the end").kind(), std::io::ErrorKind::UnexpectedEof);
    }
}
