//! Unix sockets: pairs, and those with names.

use regrow_graph::ids::Fd;

use super::Lowering;
use crate::image::SocketOptions;
use crate::resolve::Recipes;
use crate::resolve::recipe::{Message, ResourceKind, SocketEnd, UnixAction, UnixGroup, UnixName};
use crate::tape::UndoKind;

/// Buffers while queues are filled: what was sent in pieces may be charged otherwise when it is
/// sent again. The kernel caps it (socket(7), SO_SNDBUFFORCE).
const ROOMY_BYTES: u32 = 1 << 26;

/// How many files are made, of which the launcher is told.
pub(super) fn names(recipes: &Recipes) -> usize {
    let made = |action: &&UnixAction| matches!(action, UnixAction::Bind { name, stale: false, .. } if name.path.is_some());
    let count = |kind: &ResourceKind| match kind {
        ResourceKind::UnixSockets(group) => group.actions.iter().filter(made).count(),
        _ => 0,
    };
    recipes.resources.iter().map(|recipe| count(&recipe.kind)).sum()
}

impl Lowering<'_> {
    /// Sockets with names: the actions in their order, then what each ends with.
    pub(super) fn unix_sockets(&mut self, group: &UnixGroup, at: &[Fd], cloexec: bool) {
        let cloexec = if cloexec { libc::SOCK_CLOEXEC as u32 } else { 0 };
        let fd = |socket: &usize| at.get(*socket).copied().unwrap_or(Fd::MAX);
        let mut early = vec![0; group.sockets.len()];
        for action in &group.actions {
            match action {
                UnixAction::Socket { socket, sock_type } => {
                    let args = [libc::AF_UNIX as u64, u64::from(sock_type | cloexec), 0];
                    self.tape.call(libc::SYS_socket, &args, u64::from(fd(socket)));
                }
                UnixAction::Pair { sock_type, .. } => {
                    let scratch = self.asm.scratch();
                    let args = [libc::AF_UNIX as u64, u64::from(sock_type | cloexec), 0, scratch];
                    self.tape.call(libc::SYS_socketpair, &args, 0);
                }
                UnixAction::Bind { socket, name, stale } => self.bind_unix(fd(socket), name, *stale),
                UnixAction::Listen { socket, backlog } => {
                    self.tape.call(libc::SYS_listen, &[u64::from(fd(socket)), u64::from(*backlog)], 0);
                }
                UnixAction::Connect { socket, to } => self.named_call(libc::SYS_connect, fd(socket), to),
                UnixAction::Disconnect { socket } => {
                    self.address_call(libc::SYS_connect, fd(socket), &[0, 0])
                }
                UnixAction::Accept { listener, socket } => {
                    let args = [u64::from(fd(listener)), 0, 0, u64::from(cloexec)];
                    self.tape.call(libc::SYS_accept4, &args, u64::from(fd(socket)));
                }
                UnixAction::Unlink { path } => self.unlink(path),
                UnixAction::Fill { sender, receiver } => {
                    if let Some(end) = group.sockets.get(*receiver) {
                        self.fill_queue(fd(sender), &end.queue, &[]);
                    }
                }
                UnixAction::Shutdown { socket, bits } => {
                    self.shutdown(fd(socket), *bits);
                    if let Some(early) = early.get_mut(*socket) {
                        *early |= bits;
                    }
                }
            }
        }
        for ((end, fd), early) in group.sockets.iter().zip(at).zip(early) {
            let bits = end.shutdown & !early;
            if bits != 0 {
                self.shutdown(*fd, bits);
            }
            if let Some(options) = &end.options {
                self.socket_options(*fd, options);
            }
            self.status_flags(*fd, end.flags);
        }
    }

    /// `bind(2)`. Whoever is left after a failure is told of a file that was not there, before it is
    /// made and after; where a stale one stood, another stale one may stay.
    fn bind_unix(&mut self, fd: Fd, name: &UnixName, stale: bool) {
        let Some(path) = &name.path else {
            self.address_call(libc::SYS_bind, fd, &name.address);
            return;
        };
        let undo = if stale {
            self.unlink(path);
            None
        } else {
            let [intent, made, _] = self.asm.undo(path.as_bytes(), UndoKind::Socket);
            self.tape.post(intent);
            Some(made)
        };
        self.named_call(libc::SYS_bind, fd, name);
        if let Some(made) = undo {
            self.tape.post(made);
        }
        if let Some((mode, uid, gid)) = name.perms {
            let path = self.asm.text(path.as_bytes());
            // The owner first: a change of it takes set-user-ID bits away (chown(2)).
            let args = [libc::AT_FDCWD as u64, path, u64::from(uid), u64::from(gid), 0];
            self.tape.call(libc::SYS_fchownat, &args, 0);
            self.tape.call(libc::SYS_fchmodat, &[libc::AT_FDCWD as u64, path, u64::from(mode & 0o7777)], 0);
        }
    }

    /// A call with a name, from the directory from which it goes.
    fn named_call(&mut self, nr: libc::c_long, fd: Fd, name: &UnixName) {
        if let Some(dir) = &name.dir {
            let dir = self.asm.text(dir.as_bytes());
            self.tape.call(libc::SYS_chdir, &[dir], 0);
        }
        self.address_call(nr, fd, &name.address);
        if name.dir.is_some() {
            let recipes = self.recipes;
            let own = recipes.tasks[self.task.index()].cwd.as_deref().unwrap_or("/");
            let own = self.asm.text(own.as_bytes());
            self.tape.call(libc::SYS_chdir, &[own], 0);
        }
    }

    fn unlink(&mut self, path: &str) {
        let path = self.asm.text(path.as_bytes());
        self.tape.call(libc::SYS_unlinkat, &[libc::AT_FDCWD as u64, path, 0], 0);
    }

    /// The kernel's bits are 1 and 2, the argument's values 0, 1 and 2 (shutdown(2)).
    fn shutdown(&mut self, fd: Fd, bits: u32) {
        self.tape.call(libc::SYS_shutdown, &[u64::from(fd), u64::from(bits - 1)], 0);
    }

    /// Sends what waits at the other end, never blocking.
    /// `fds`: what descriptors in flight are indices of.
    fn fill_queue(&mut self, sender: Fd, queue: &[Message], fds: &[Fd]) {
        if !queue.is_empty() {
            self.socket_option(sender, libc::SO_SNDBUFFORCE, &ROOMY_BYTES.to_ne_bytes());
        }
        for Message { data, rights } in queue {
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
            self.fill_queue(fds[1 - index], &end.queue, fds);
        }
        for (index, end) in ends.iter().enumerate() {
            if end.shutdown != 0 {
                self.shutdown(fds[index], end.shutdown);
            }
            if let Some(options) = &end.options {
                self.socket_options(fds[index], options);
            }
            self.status_flags(fds[index], end.flags);
        }
    }

    /// A `struct msghdr` with one vector and one control message of descriptors (cmsg(3)).
    pub(super) fn message(&mut self, data: &[u8], rights: impl Iterator<Item = Fd>) -> u64 {
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

    pub(super) fn socket_options(&mut self, fd: Fd, options: &SocketOptions) {
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
        if !options.filter.is_empty() {
            // struct sock_filter: code, jt, jf and k, which the images have in one word each.
            let filter: Vec<u8> = options
                .filter
                .iter()
                .flat_map(|word| {
                    let mut bytes = [0; 8];
                    bytes[..2].copy_from_slice(&((word >> 48) as u16).to_ne_bytes());
                    bytes[2] = (word >> 40) as u8;
                    bytes[3] = (word >> 32) as u8;
                    bytes[4..].copy_from_slice(&(*word as u32).to_ne_bytes());
                    bytes
                })
                .collect();
            let filter = self.asm.data(&filter, 8);
            let program = self.asm.words(&[options.filter.len() as u64, filter]);
            let args = [u64::from(fd), libc::SOL_SOCKET as u64, libc::SO_ATTACH_FILTER as u64, program, 16];
            self.tape.call(libc::SYS_setsockopt, &args, 0);
        }
        if let Some(seconds) = options.linger_s {
            let mut linger = [0; 8];
            linger[..4].copy_from_slice(&1u32.to_ne_bytes());
            linger[4..].copy_from_slice(&seconds.to_ne_bytes());
            self.socket_option(fd, libc::SO_LINGER, &linger);
        }
        for (name, timeout_us) in
            [(libc::SO_SNDTIMEO, options.snd_timeout_us), (libc::SO_RCVTIMEO, options.rcv_timeout_us)]
        {
            if timeout_us != 0 {
                let mut timeval = [0; 16];
                timeval[..8].copy_from_slice(&(timeout_us / 1_000_000).to_ne_bytes());
                timeval[8..].copy_from_slice(&(timeout_us % 1_000_000).to_ne_bytes());
                self.socket_option(fd, name, &timeval);
            }
        }
    }

    fn socket_option(&mut self, fd: Fd, name: i32, value: &[u8]) {
        self.option(fd, libc::SOL_SOCKET, name, value);
    }

    pub(super) fn option(&mut self, fd: Fd, level: i32, name: i32, value: &[u8]) {
        let buffer = self.asm.data(value, 8);
        let args = [u64::from(fd), level as u64, name as u64, buffer, value.len() as u64];
        self.tape.call(libc::SYS_setsockopt, &args, 0);
    }
}
