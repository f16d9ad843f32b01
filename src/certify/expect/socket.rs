//! What the images say of sockets.

use std::collections::BTreeMap;

use regrow_graph::ids::OfdId;
use regrow_graph::verify::{ExpectedPacket, OfdSpec, SocketFile, SocketOption, SocketPeer, SocketSpec};

use crate::image::{InetSocket, SocketOptions, UnixSocket};

/// `TCP_ESTABLISHED` and `TCP_LISTEN`, as unix sockets have them, too.
const ESTABLISHED: u32 = 1;
const LISTEN: u32 = 10;

/// `connected`: how many sockets have it as their peer.
pub(super) fn socket(
    socket: &UnixSocket,
    sockets: &BTreeMap<u32, (OfdId, &UnixSocket)>,
    connected: usize,
    queue: Vec<ExpectedPacket>,
) -> OfdSpec {
    let unmodelled = |what: &str| OfdSpec::Unmodelled(what.to_owned());
    let is_dgram = socket.sock_type == libc::SOCK_DGRAM as u32;
    if socket.uflags != 0 || socket.options.bound_dev.is_some() {
        return unmodelled("an external or inherited socket, or one bound to a device");
    }
    let listens = socket.state == LISTEN;
    let file = match unix_path(socket) {
        None => SocketFile::Any,
        // A listener's file stands for what it accepted, too.
        Some(_) if !is_dgram && socket.state == ESTABLISHED => SocketFile::Any,
        Some(_) if socket.deleted => SocketFile::Gone,
        Some(_) => SocketFile::Own { perms: socket.file_perms },
    };
    let is_relative = unix_path(socket).is_some() && socket.name[0] != b'/';
    let peer = match sockets.get(&socket.peer) {
        // A peer that sits only in a queue is open, too; the checker finds it there.
        Some((_, peer)) if peer.peer == socket.inode => SocketPeer::Socket(peer.inode),
        Some((_, peer)) if !is_dgram && peer.state == LISTEN => SocketPeer::Listener(peer.inode),
        Some((_, peer)) if is_dgram => SocketPeer::Socket(peer.inode),
        Some(_) => return unmodelled("a socket whose peer is connected elsewhere"),
        None if socket.peer != 0 => return unmodelled("a socket whose peer is outside the tree"),
        None if is_dgram => SocketPeer::None,
        None if socket.state == ESTABLISHED => SocketPeer::Closed,
        None => SocketPeer::None,
    };
    OfdSpec::Socket(Box::new(SocketSpec {
        socket: socket.inode,
        peer,
        family: libc::AF_UNIX as u32,
        sock_type: socket.sock_type,
        name: unix_address(socket),
        name_dir: socket.name_dir.clone().filter(|_| is_relative).map(String::into_bytes),
        file,
        backlog: listens.then_some(socket.backlog),
        waiting: if listens { connected } else { 0 },
        shutdown: socket.shutdown,
        queue,
        options: options(&socket.options),
        bytes: byte_options(&socket.options),
        ..SocketSpec::default()
    }))
}

/// The name of a socket as `bind(2)` takes it, without the zero byte behind a path.
fn unix_address(socket: &UnixSocket) -> Option<Vec<u8>> {
    let first = *socket.name.first()?;
    let end = if first == 0 { None } else { socket.name.iter().position(|byte| *byte == 0) };
    let name = &socket.name[..end.unwrap_or(socket.name.len())];
    Some([&(libc::AF_UNIX as u16).to_ne_bytes(), name].concat())
}

/// The absolute path of a socket's name.
pub(super) fn unix_path(socket: &UnixSocket) -> Option<Vec<u8>> {
    let name = unix_address(socket)?.split_off(2);
    match (name.first()?, &socket.name_dir) {
        (0, _) => None,
        (b'/', _) | (_, None) => Some(name),
        (_, Some(dir)) => Some([dir.trim_end_matches('/').as_bytes(), b"/", &name].concat()),
    }
}

/// An internet socket.
pub(super) fn inet_socket(socket: &InetSocket) -> OfdSpec {
    /// netinet/in.h
    const PROTOCOL_ICMP: [u32; 2] = [1, 58];
    const CLOSED: u32 = 7;
    let unmodelled = |what: &str| OfdSpec::Unmodelled(what.to_owned());
    let (is_tcp, is_raw) = (socket.sock_type == 1, socket.sock_type == 3);
    if is_tcp && (socket.dst.1 != 0 || !matches!(socket.state, LISTEN | CLOSED)) {
        return unmodelled("a TCP connection");
    }
    if socket.device.is_some() || socket.checksum.is_some() {
        return unmodelled("a socket with a scope or a checksum");
    }
    let is_v6 = socket.family == libc::AF_INET6 as u32;
    let address = |end: &(Vec<u8>, u16)| {
        let there = if is_raw { end.0.iter().any(|byte| *byte != 0) } else { end.1 != 0 };
        there.then(|| {
            let mut bytes = [(socket.family as u16).to_ne_bytes(), end.1.to_be_bytes()].concat();
            bytes.resize(if is_v6 { 8 } else { 4 }, 0);
            bytes.extend(&end.0);
            bytes.resize(if is_v6 { 28 } else { 16 }, 0);
            bytes
        })
    };
    let mut wanted = options(&socket.options);
    let mut set = |option: SocketOption, value: Option<u32>| {
        wanted.extend(value.map(|value| (option, u64::from(value))));
    };
    set(SocketOption::FreeBind, Some(socket.freebind.into()));
    set(SocketOption::PacketInfo, Some(socket.pktinfo.into()));
    set(SocketOption::HeaderIncluded, socket.hdrincl.map(u32::from));
    if is_v6 {
        set(SocketOption::V6Only, socket.v6only.map(u32::from));
    } else {
        set(SocketOption::TypeOfService, socket.tos);
        set(SocketOption::TimeToLive, socket.ttl);
        set(SocketOption::NoDefrag, socket.nodefrag.map(u32::from));
    }
    if is_tcp {
        set(SocketOption::NoDelay, Some(socket.nodelay.into()));
        set(SocketOption::Cork, Some(socket.cork.into()));
        set(SocketOption::KeepCount, socket.keep[0]);
        set(SocketOption::KeepIdle, socket.keep[1]);
        set(SocketOption::KeepInterval, socket.keep[2]);
    }
    let mut bytes = byte_options(&socket.options);
    bytes.insert(
        SocketOption::IcmpFilter,
        socket.icmp_filter.iter().flat_map(|word| word.to_ne_bytes()).collect(),
    );
    // The number of an ICMP socket is none that anybody chose.
    let named = is_raw || !PROTOCOL_ICMP.contains(&socket.protocol);
    OfdSpec::Socket(Box::new(SocketSpec {
        socket: socket.inode,
        peer: address(&socket.dst).map_or(SocketPeer::None, SocketPeer::Address),
        family: socket.family,
        sock_type: socket.sock_type,
        protocol: socket.protocol,
        name: address(&socket.src).filter(|_| named),
        backlog: (socket.state == LISTEN).then_some(socket.backlog),
        shutdown: socket.shutdown,
        options: wanted,
        bytes,
        ..SocketSpec::default()
    }))
}

/// The options that are no numbers.
fn byte_options(options: &SocketOptions) -> BTreeMap<SocketOption, Vec<u8>> {
    let device = options.bound_dev.clone().unwrap_or_default().into_bytes();
    // Code, jump if true, jump if false, operand: from the highest bits to the lowest.
    let instruction = |word: &u64| {
        let [b7, b6, b5, b4, b3, b2, b1, b0] = word.to_be_bytes();
        let (code, operand) =
            (u16::from_be_bytes([b7, b6]).to_ne_bytes(), u32::from_be_bytes([b3, b2, b1, b0]).to_ne_bytes());
        [&code[..], &[b5, b4], &operand].concat()
    };
    let filter = options.filter.iter().flat_map(instruction).collect();
    BTreeMap::from([(SocketOption::BoundDevice, device), (SocketOption::Filter, filter)])
}

/// The options that the images give, as `getsockopt(2)` would.
fn options(options: &SocketOptions) -> BTreeMap<SocketOption, u64> {
    let mut wanted = BTreeMap::from([
        (SocketOption::SendBuffer, u64::from(options.sndbuf_bytes)),
        (SocketOption::ReceiveBuffer, u64::from(options.rcvbuf_bytes)),
        (SocketOption::SendTimeout, options.snd_timeout_us),
        (SocketOption::ReceiveTimeout, options.rcv_timeout_us),
        (SocketOption::ReuseAddr, options.reuseaddr.into()),
        (SocketOption::ReusePort, options.reuseport.into()),
        (SocketOption::PassCred, options.passcred.into()),
        (SocketOption::PassSec, options.passsec.into()),
        (SocketOption::DontRoute, options.dontroute.into()),
        (SocketOption::NoCheck, options.no_check.into()),
        (SocketOption::Broadcast, options.broadcast.into()),
        (SocketOption::KeepAlive, options.keepalive.into()),
        (SocketOption::OobInline, options.oobinline.into()),
        (SocketOption::Linger, options.linger_s.map_or(0, |seconds| u64::from(seconds) + 1)),
    ]);
    let stored = [
        (SocketOption::Priority, options.priority),
        (SocketOption::ReceiveLowat, options.rcvlowat),
        (SocketOption::Mark, options.mark),
        (SocketOption::BufferLock, options.buf_lock),
    ];
    wanted.extend(stored.into_iter().filter_map(|(option, value)| Some((option, u64::from(value?)))));
    wanted
}
