//! Unix socket pairs.

use regrow_graph::ids::Fd;

use super::Lowering;
use crate::image::SocketOptions;
use crate::resolve::recipe::{Message, SocketEnd};

/// Buffers while queues are filled: what was sent in pieces may be charged otherwise when it is
/// sent again. The kernel caps it (socket(7), SO_SNDBUFFORCE).
const ROOMY_BYTES: u32 = 1 << 26;

impl Lowering<'_> {
    /// `socketpair(2)`, what waits at either end (sent from the other one, never blocking), shutdowns,
    /// options and status flags.
    pub(super) fn socket_pair(&mut self, sock_type: u32, ends: &[SocketEnd; 2], at: &[Fd], cloexec: bool) {
        let [first, second, ..] = at else { return };
        let kind = sock_type | if cloexec { libc::SOCK_CLOEXEC as u32 } else { 0 };
        let scratch = self.asm.scratch();
        self.tape.call(libc::SYS_socketpair, &[libc::AF_UNIX as u64, u64::from(kind), 0, scratch], 0);
        self.fill_pair(ends, &[*first, *second]);
    }

    /// Queues, shutdowns, options, status flags. `fds`: the ends, then what may be in flight.
    pub(super) fn fill_pair(&mut self, ends: &[SocketEnd; 2], fds: &[Fd]) {
        if fds.len() < 2 {
            return;
        }
        for (index, end) in ends.iter().enumerate() {
            let sender = fds[1 - index];
            if !end.queue.is_empty() {
                self.socket_option(sender, libc::SO_SNDBUFFORCE, &ROOMY_BYTES.to_ne_bytes());
            }
            for Message { data, rights } in &end.queue {
                let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u64;
                let len = data.len() as u64;
                if !rights.is_empty() {
                    let message = self.message(data, rights.iter().filter_map(|index| fds.get(*index).copied()));
                    self.tape.call(libc::SYS_sendmsg, &[u64::from(sender), message, flags], len);
                    continue;
                }
                let buffer = if data.is_empty() { self.asm.scratch() } else { self.asm.data(data, 1) };
                self.tape.call(libc::SYS_sendto, &[u64::from(sender), buffer, len, flags, 0, 0], len);
            }
        }
        for (index, end) in ends.iter().enumerate() {
            if end.shutdown != 0 {
                // The kernel's bits are 1 and 2, the argument's values 0, 1 and 2 (shutdown(2)).
                self.tape.call(libc::SYS_shutdown, &[u64::from(fds[index]), u64::from(end.shutdown - 1)], 0);
            }
            if let Some(options) = &end.options {
                self.socket_options(fds[index], options);
            }
            self.status_flags(fds[index], end.flags);
        }
    }

    /// A `struct msghdr` with one vector and one control message of descriptors (cmsg(3)).
    fn message(&mut self, data: &[u8], rights: impl Iterator<Item = Fd>) -> u64 {
        let rights: Vec<u8> = rights.flat_map(u32::to_ne_bytes).collect();
        // struct cmsghdr: length with the head of 16 bytes; level and type; the numbers.
        let len = 16 + rights.len() as u64;
        let kind = libc::SOL_SOCKET as u64 | (libc::SCM_RIGHTS as u64) << 32;
        let mut control = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
        control.extend_from_slice(&rights);
        control.resize(control.len().next_multiple_of(8), 0);
        let control_len = control.len() as u64;
        let control = self.asm.data(&control, 8);
        let (vectors, count) = if data.is_empty() {
            (0, 0)
        } else {
            let buffer = self.asm.data(data, 1);
            (self.asm.words(&[buffer, data.len() as u64]), 1)
        };
        self.asm.words(&[0, 0, vectors, count, control, control_len, 0])
    }

    fn socket_options(&mut self, fd: Fd, options: &SocketOptions) {
        // The kernel doubles what it is given (socket(7)).
        self.socket_option(fd, libc::SO_SNDBUFFORCE, &(options.sndbuf_bytes / 2).to_ne_bytes());
        self.socket_option(fd, libc::SO_RCVBUFFORCE, &(options.rcvbuf_bytes / 2).to_ne_bytes());
        if let Some(lock) = options.buf_lock {
            self.socket_option(fd, libc::SO_BUF_LOCK, &lock.to_ne_bytes());
        }
        for (name, value, default) in [
            (libc::SO_PRIORITY, options.priority, 0),
            (libc::SO_RCVLOWAT, options.rcvlowat, 1),
            (libc::SO_MARK, options.mark, 0),
        ] {
            if let Some(value) = value.filter(|value| *value != default) {
                self.socket_option(fd, name, &value.to_ne_bytes());
            }
        }
        for (name, is_set) in [
            (libc::SO_PASSCRED, options.passcred),
            (libc::SO_PASSSEC, options.passsec),
            (libc::SO_DONTROUTE, options.dontroute),
            (libc::SO_NO_CHECK, options.no_check),
            (libc::SO_BROADCAST, options.broadcast),
            (libc::SO_KEEPALIVE, options.keepalive),
            (libc::SO_OOBINLINE, options.oobinline),
            (libc::SO_REUSEADDR, options.reuseaddr),
        ] {
            if is_set {
                self.socket_option(fd, name, &1u32.to_ne_bytes());
            }
        }
        if let Some(seconds) = options.linger_s {
            let mut linger = [0; 8];
            linger[..4].copy_from_slice(&1u32.to_ne_bytes());
            linger[4..].copy_from_slice(&seconds.to_ne_bytes());
            self.socket_option(fd, libc::SO_LINGER, &linger);
        }
        for (name, timeout_us) in [(libc::SO_SNDTIMEO, options.snd_timeout_us), (libc::SO_RCVTIMEO, options.rcv_timeout_us)] {
            if timeout_us != 0 {
                let mut timeval = [0; 16];
                timeval[..8].copy_from_slice(&(timeout_us / 1_000_000).to_ne_bytes());
                timeval[8..].copy_from_slice(&(timeout_us % 1_000_000).to_ne_bytes());
                self.socket_option(fd, name, &timeval);
            }
        }
    }

    fn socket_option(&mut self, fd: Fd, name: i32, value: &[u8]) {
        let buffer = self.asm.data(value, 8);
        let args = [u64::from(fd), libc::SOL_SOCKET as u64, name as u64, buffer, value.len() as u64];
        self.tape.call(libc::SYS_setsockopt, &args, 0);
    }
}
