//! Internet sockets.

use regrow_graph::ids::Fd;

use super::Lowering;
use crate::resolve::recipe::InetRecipe;

/// uapi/linux/in.h
const IP_NODEFRAG: i32 = 22;
/// uapi/linux/in6.h
const IPV6_HDRINCL: i32 = 36;
/// uapi/linux/in6.h
const IPV6_FREEBIND: i32 = 78;
/// uapi/linux/icmp.h; ICMPV6_FILTER (icmpv6.h) has the same number.
const ICMP_FILTER: i32 = 1;

impl Lowering<'_> {
    /// Makes all of them, binds them while each lets the others in, and only then sets what each
    /// allows in the end.
    pub(super) fn inet_sockets(&mut self, sockets: &[InetRecipe], at: &[Fd], cloexec: bool) {
        for (recipe, fd) in sockets.iter().zip(at) {
            self.inet_socket(recipe, *fd, cloexec);
        }
        for (recipe, fd) in sockets.iter().zip(at) {
            self.inet_finish(recipe, *fd);
        }
    }

    fn inet_socket(&mut self, recipe: &InetRecipe, fd: Fd, cloexec: bool) {
        let socket = &recipe.socket;
        let kind = socket.sock_type | if cloexec { libc::SOCK_CLOEXEC as u32 } else { 0 };
        let args = [u64::from(socket.family), u64::from(kind), u64::from(socket.protocol)];
        self.tape.call(libc::SYS_socket, &args, u64::from(fd));
        let is_v6 = socket.family == libc::AF_INET6 as u32;
        // Raw sockets have a number from the start, which forbids it.
        let is_raw = socket.sock_type == libc::SOCK_RAW as u32;
        if let Some(only) = socket.v6only.filter(|only| is_v6 && (*only || !is_raw)) {
            self.number_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, only.into());
        }
        // Connections of the dumped listener may linger: what a server sets SO_REUSEADDR for.
        let is_tcp = socket.sock_type == libc::SOCK_STREAM as u32;
        if recipe.bind.is_some() && (recipe.shares || is_tcp) || socket.options.reuseaddr {
            self.number_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
        }
        if recipe.shares || socket.options.reuseport {
            self.number_option(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1);
        }
        let (level, name) =
            if is_v6 { (libc::IPPROTO_IPV6, IPV6_FREEBIND) } else { (libc::IPPROTO_IP, libc::IP_FREEBIND) };
        // An IPv6 address may be tentative yet, or have been allowed when it was bound.
        let is_free = socket.freebind || is_v6 && !is_raw && recipe.bind.is_some();
        if is_free {
            self.number_option(fd, level, name, 1);
        }
        if let Some(device) = &socket.options.bound_dev {
            self.option(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, device.as_bytes());
        }
        if let Some(address) = &recipe.bind {
            self.address_call(libc::SYS_bind, fd, address);
        }
        if is_free && !socket.freebind {
            self.number_option(fd, level, name, 0);
        }
        if recipe.listens {
            self.tape.call(libc::SYS_listen, &[u64::from(fd), u64::from(socket.backlog)], 0);
        }
        if let Some(address) = &recipe.connect {
            self.address_call(libc::SYS_connect, fd, address);
        }
    }

    fn inet_finish(&mut self, recipe: &InetRecipe, fd: Fd) {
        let socket = &recipe.socket;
        let is_v6 = socket.family == libc::AF_INET6 as u32;
        let is_tcp = socket.sock_type == libc::SOCK_STREAM as u32;
        let ip = if is_v6 { libc::IPPROTO_IPV6 } else { libc::IPPROTO_IP };
        if socket.pktinfo {
            let name = if is_v6 { libc::IPV6_RECVPKTINFO } else { libc::IP_PKTINFO };
            self.number_option(fd, ip, name, 1);
        }
        let numbers = [
            (libc::IPPROTO_IP, libc::IP_TOS, socket.tos.filter(|_| !is_v6)),
            (libc::IPPROTO_IP, libc::IP_TTL, socket.ttl.filter(|_| !is_v6)),
            (libc::IPPROTO_IP, IP_NODEFRAG, socket.nodefrag.filter(|_| !is_v6).map(u32::from)),
            (ip, if is_v6 { IPV6_HDRINCL } else { libc::IP_HDRINCL }, socket.hdrincl.map(u32::from)),
            (libc::IPPROTO_TCP, libc::TCP_NODELAY, socket.nodelay.then_some(1)),
            (libc::IPPROTO_TCP, libc::TCP_CORK, socket.cork.then_some(1)),
            (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, socket.keep[0].filter(|_| is_tcp)),
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, socket.keep[1].filter(|_| is_tcp)),
            (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, socket.keep[2].filter(|_| is_tcp)),
        ];
        for (level, name, value) in numbers {
            if let Some(value) = value {
                self.number_option(fd, level, name, value);
            }
        }
        if !socket.icmp_filter.is_empty() {
            let filter: Vec<u8> = socket.icmp_filter.iter().flat_map(|word| word.to_ne_bytes()).collect();
            let level = if is_v6 { libc::IPPROTO_ICMPV6 } else { libc::IPPROTO_RAW };
            self.option(fd, level, ICMP_FILTER, &filter);
        }
        self.socket_options(fd, &socket.options);
        if socket.tos.is_some() {
            // Which has set the priority, too.
            self.number_option(fd, libc::SOL_SOCKET, libc::SO_PRIORITY, socket.options.priority.unwrap_or(0));
        }
        if recipe.bind.is_some() && (recipe.shares || is_tcp) && !socket.options.reuseaddr {
            self.number_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 0);
        }
        if recipe.shares && !socket.options.reuseport {
            self.number_option(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 0);
        }
        if socket.shutdown != 0 {
            // It takes effect on a socket that is not connected, too, and fails (inet_shutdown in
            // net/ipv4/af_inet.c).
            let result = if recipe.connect.is_some() { 0 } else { -i64::from(libc::ENOTCONN) };
            self.tape.call(
                libc::SYS_shutdown,
                &[u64::from(fd), u64::from(socket.shutdown - 1)],
                result as u64,
            );
        }
        self.status_flags(fd, socket.flags);
    }

    pub(super) fn address_call(&mut self, nr: libc::c_long, fd: Fd, address: &[u8]) {
        let buffer = self.asm.data(address, 8);
        self.tape.call(nr, &[u64::from(fd), buffer, address.len() as u64], 0);
    }

    pub(super) fn number_option(&mut self, fd: Fd, level: i32, name: i32, value: u32) {
        self.option(fd, level, name, &value.to_ne_bytes());
    }
}
