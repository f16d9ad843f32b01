//! epoll, timerfd, signalfd.

use regrow_graph::ids::Fd;

use super::Lowering;

/// `TFD_IOC_SET_TICKS` (uapi/linux/timerfd.h): `_IOW('T', 0, __u64)`.
const SET_TICKS: u64 = 0x4008_5400;

const NONBLOCK: u32 = libc::O_NONBLOCK as u32;

impl Lowering<'_> {
    /// `epoll_create1(2)`, which takes no status flags.
    pub(super) fn epoll(&mut self, flags: u32, at: &[Fd], cloexec: bool) {
        let Some(fd) = at.first().map(|fd| u64::from(*fd)) else { return };
        let create = if cloexec { libc::EPOLL_CLOEXEC as u64 } else { 0 };
        self.tape.call(libc::SYS_epoll_create1, &[create], fd);
        if flags != 0 {
            self.tape.call(libc::SYS_fcntl, &[fd, libc::F_SETFL as u64, u64::from(flags)], 0);
        }
    }

    /// `epoll_ctl(2)`. `struct epoll_event` is packed on x86-64: 12 bytes.
    pub(super) fn watch(&mut self, epoll: Fd, target: Fd, events: u32, data: u64) {
        let mut event = [0; 12];
        event[..4].copy_from_slice(&events.to_ne_bytes());
        event[4..].copy_from_slice(&data.to_ne_bytes());
        let event = self.asm.data(&event, 4);
        self.tape.call(
            libc::SYS_epoll_ctl,
            &[u64::from(epoll), libc::EPOLL_CTL_ADD as u64, u64::from(target), event],
            0,
        );
    }

    /// `timerfd_create(2)`, not armed.
    pub(super) fn timerfd(&mut self, clock_id: u32, flags: u32, at: &[Fd], cloexec: bool) {
        let Some(fd) = at.first().map(|fd| u64::from(*fd)) else { return };
        let create = flags & NONBLOCK | if cloexec { libc::TFD_CLOEXEC as u32 } else { 0 };
        self.tape.call(libc::SYS_timerfd_create, &[u64::from(clock_id), u64::from(create)], fd);
        self.further_flags(fd, flags);
    }

    /// `timerfd_settime(2)`, which forgets ticks, then the ticks.
    pub(super) fn arm_timerfd(&mut self, fd: Fd, flags: u32, value_ns: u64, interval_ns: u64, ticks: u64) {
        let split = |ns: u64| [ns / 1_000_000_000, ns % 1_000_000_000];
        let value = self.asm.words(&[split(interval_ns), split(value_ns)].concat());
        self.tape.call(libc::SYS_timerfd_settime, &[u64::from(fd), u64::from(flags), value, 0], 0);
        if ticks != 0 {
            let ticks = self.asm.words(&[ticks]);
            self.tape.call(libc::SYS_ioctl, &[u64::from(fd), SET_TICKS, ticks], 0);
        }
    }

    /// `signalfd4(2)`.
    pub(super) fn signalfd(&mut self, mask: u64, flags: u32, at: &[Fd], cloexec: bool) {
        let Some(fd) = at.first().map(|fd| u64::from(*fd)) else { return };
        let create = flags & NONBLOCK | if cloexec { libc::SFD_CLOEXEC as u32 } else { 0 };
        let mask = self.asm.words(&[mask]);
        self.tape.call(libc::SYS_signalfd4, &[u64::MAX, mask, 8, u64::from(create)], fd);
        self.further_flags(fd, flags);
    }
}
