//! Sockets: pairs, names, connections, messages with descriptors in flight.
//!
//! Of internet sockets only addresses and options are kept: whether the host lets them be bound or connected
//! depends on who else lives there.
//!
//! # Sources
//! `socket(2)`, `socketpair(2)`, `unix(7)`, `send(2)`, `shutdown(2)`, `socket(7)`; net/unix/af_unix.c
//! (`unix_stream_sendmsg`, `unix_dgram_sendmsg`, `unix_stream_connect`, `unix_dgram_connect`,
//! `unix_shutdown`, `unix_listen`), net/core/sock.c (`sock_alloc_send_pskb`, `sk_setsockopt`),
//! net/core/skbuff.c (`alloc_skb_with_frags`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use regrow_graph::ids::Fd;
use regrow_graph::verify::SocketOption;

use super::object::{Description, O_CLOEXEC, O_NONBLOCK, O_RDWR, Object};
use super::{Call, Stop, World, fails, gives, not_modelled};
use crate::errno::{
    EADDRINUSE, EAFNOSUPPORT, EAGAIN, EBADF, ECONNREFUSED, ECONNRESET, EINVAL, EISCONN, EMSGSIZE, ENOTCONN,
    ENOTSOCK, EOPNOTSUPP, EPERM, EPIPE, EPROTONOSUPPORT, EPROTOTYPE,
};
use crate::footprint::{Access, Thing};
use crate::ids::{DescId, ObjectId};

const AF_UNSPEC: u32 = 0;
const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const SOCK_RAW: u32 = 3;
const SOCK_SEQPACKET: u32 = 5;
const CAP_NET_ADMIN: u64 = 1 << 12;
/// A message may carry no more (SCM_MAX_FD).
const MOST_RIGHTS: usize = 253;
const RECEIVE: u32 = 1;
const SEND: u32 = 2;

/// A message that waits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Message {
    /// Its bytes.
    pub data: Vec<u8>,
    /// Descriptions in flight.
    pub rights: Vec<DescId>,
    /// Who sent it, and is charged for it.
    pub from: ObjectId,
    /// How much memory he is charged for, bytes.
    pub charge: u64,
}

/// What there is room for in a message that is received.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) bytes: u64,
    pub(super) rights: u32,
}

/// A socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Socket {
    /// `AF_*`.
    pub family: u32,
    /// `SOCK_*`.
    pub sock_type: u32,
    /// The protocol.
    pub protocol: u32,
    /// The unix socket that it is connected to.
    pub peer: Option<ObjectId>,
    /// The address that it is bound to, without the zero byte behind a path.
    pub name: Option<Arc<[u8]>>,
    /// The address that an internet socket is connected to.
    pub dest: Option<Arc<[u8]>>,
    /// The length of its queue of connections, if it listens.
    pub backlog: Option<u32>,
    /// Connections that are not accepted yet.
    pub waiting: VecDeque<ObjectId>,
    /// Bit 0: receiving is shut down; bit 1: sending.
    pub shutdown: u32,
    /// What waits to be received.
    pub queue: VecDeque<Message>,
    /// Options that were set, or have a default that matters.
    pub options: BTreeMap<SocketOption, u64>,
    /// Options that are no numbers.
    pub bytes: BTreeMap<SocketOption, Vec<u8>>,
}

impl Socket {
    fn new(family: u32, sock_type: u32, protocol: u32) -> Socket {
        Socket {
            family,
            sock_type,
            protocol,
            peer: None,
            name: None,
            dest: None,
            backlog: None,
            waiting: VecDeque::new(),
            shutdown: 0,
            queue: VecDeque::new(),
            options: BTreeMap::new(),
            bytes: BTreeMap::new(),
        }
    }
}

/// The memory that a message takes, as it is counted against the sender's buffer: a head from the slab
/// caches of powers of two, `struct sk_buff` (256 bytes) and `struct skb_shared_info` (320), and pages.
fn charge_of(len: usize, is_stream: bool) -> u64 {
    const OVERHEAD: usize = 320;
    const STRUCT: usize = 256;
    const PAGE: usize = 4096;
    let head = |len: usize| (len.next_multiple_of(64) + OVERHEAD).next_power_of_two().max(512) + STRUCT;
    let (linear, paged) = if is_stream {
        let linear = len.min(PAGE - OVERHEAD);
        let rest = len - linear;
        let tail = rest % PAGE;
        (linear, rest - tail + if tail == 0 { 0 } else { tail.next_power_of_two().max(512) })
    } else {
        const LINEAR: usize = 4 * PAGE - OVERHEAD;
        let paged = len.saturating_sub(LINEAR).next_multiple_of(PAGE);
        (len - paged.min(len), paged)
    };
    (head(linear) + paged) as u64
}

/// The longest piece that a stream is sent in (SKB_MAX_ALLOC and UNIX_SKB_FRAGS_SZ; half the buffer).
fn piece(buffer: u64) -> usize {
    let half = usize::try_from(buffer / 2).unwrap_or(usize::MAX).saturating_sub(64);
    half.clamp(1, 4096 - 320 + 32768)
}

fn family_of(address: &[u8]) -> Option<u32> {
    Some(u16::from_ne_bytes([*address.first()?, *address.get(1)?]).into())
}

/// The path, or the abstract name with its zero byte, in the address of a unix socket.
fn unix_name(address: &[u8]) -> Option<&[u8]> {
    let name = address.get(2..).filter(|name| !name.is_empty() && name.len() <= 108)?;
    if name[0] == 0 { Some(name) } else { name.split(|byte| *byte == 0).next() }
}

/// Sockets of different types do not see each other's abstract names (net/unix/af_unix.c,
/// `unix_abstract_hash`).
fn abstract_key(sock_type: u32, name: &[u8]) -> Arc<[u8]> {
    [&sock_type.to_ne_bytes(), name].concat().into()
}

impl World {
    fn socket(&self, id: &ObjectId) -> Call<&Socket> {
        match self.object(id) {
            Object::Socket(socket) => Ok(socket),
            _ => fails(ENOTSOCK),
        }
    }

    fn socket_mut(&mut self, id: &ObjectId) -> Call<&mut Socket> {
        match self.object_mut(id) {
            Object::Socket(socket) => Ok(socket),
            _ => fails(ENOTSOCK),
        }
    }

    fn new_socket(&self, family: u32, sock_type: u32, protocol: u32) -> Socket {
        let mut socket = Socket::new(family, sock_type, protocol);
        if family == AF_UNIX {
            socket.options.insert(SocketOption::SendBuffer, self.ground.host.wmem_default);
            socket.options.insert(SocketOption::ReceiveBuffer, self.ground.host.rmem_default);
        }
        socket
    }

    pub(super) fn make_pair(&mut self, tid: u32, sock_type: u32, flags: u32) -> Call<i64> {
        if !matches!(sock_type, SOCK_STREAM | SOCK_DGRAM | SOCK_SEQPACKET) {
            return not_modelled(format!("a pair of type {sock_type}"));
        }
        if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
            return fails(EINVAL);
        }
        let ids = [0, 1].map(|nth| ObjectId::Made(self.made(tid, nth)));
        for nth in 0..2 {
            let mut socket = self.new_socket(AF_UNIX, sock_type, 0);
            socket.peer = Some(ids[1 - nth].clone());
            let object = self.add_object(tid, nth as u32, Object::Socket(socket));
            let status = O_RDWR | flags & O_NONBLOCK;
            let desc = self.add_description(tid, nth as u32, Description::of(object, status));
            self.install(tid, 0, desc, flags & O_CLOEXEC != 0)?;
        }
        Ok(0)
    }

    pub(super) fn make_socket(&mut self, tid: u32, kind: [u32; 3], flags: u32) -> Call<DescId> {
        let [family, sock_type, protocol] = kind;
        if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
            return fails(EINVAL);
        }
        match family {
            AF_UNIX if protocol > 1 => return fails(EPROTONOSUPPORT),
            AF_UNIX if !matches!(sock_type, SOCK_STREAM | SOCK_DGRAM | SOCK_SEQPACKET) => {
                return not_modelled(format!("a unix socket of type {sock_type}"));
            }
            AF_INET | AF_INET6 if !matches!(sock_type, SOCK_STREAM | SOCK_DGRAM | SOCK_RAW) => {
                return not_modelled(format!("an internet socket of type {sock_type}"));
            }
            AF_UNIX | AF_INET | AF_INET6 => {}
            _ => return not_modelled(format!("family {family}")),
        }
        let socket = self.new_socket(family, sock_type, protocol);
        let object = self.add_object(tid, 0, Object::Socket(socket));
        Ok(self.add_description(tid, 0, Description::of(object, O_RDWR | flags & O_NONBLOCK)))
    }

    /// Descriptions that wait in the queue of what `desc` shows.
    pub(super) fn in_queue_of(&self, desc: DescId) -> Vec<DescId> {
        let Some(description) = self.descriptions.get(&desc) else { return Vec::new() };
        match self.objects.get(&description.object).map(|object| &**object) {
            Some(Object::Socket(socket)) => {
                socket.queue.iter().flat_map(|message| &message.rights).copied().collect()
            }
            Some(_) | None => Vec::new(),
        }
    }

    /// Whether a description is in a message that somebody could still receive.
    pub(super) fn is_in_flight(&self, wanted: DescId) -> bool {
        let has_rights = |object: &Arc<Object>| {
            matches!(&**object, Object::Socket(socket)
                if socket.queue.iter().any(|message| message.rights.contains(&wanted)))
        };
        self.objects.values().any(has_rights) && self.live().contains(&wanted)
    }

    /// All descriptions that somebody can get at: by tables, and by what waits in sockets.
    pub(crate) fn live(&self) -> BTreeSet<DescId> {
        let mut live: BTreeSet<DescId> = BTreeSet::new();
        let tables = self.tables.values().flat_map(|table| table.entries.values().map(|entry| entry.desc));
        let mut todo: Vec<DescId> =
            tables.chain(self.threads.values().filter_map(|thread| thread.opening)).collect();
        while let Some(desc) = todo.pop() {
            if live.insert(desc) {
                todo.extend(self.in_queue_of(desc));
                let waiting = match self.object(&self.description(desc).object) {
                    Object::Socket(socket) => socket.waiting.clone(),
                    _ => VecDeque::new(),
                };
                for id in waiting {
                    if let Object::Socket(socket) = self.object(&id) {
                        todo.extend(socket.queue.iter().flat_map(|message| &message.rights).copied());
                    }
                }
            }
        }
        live
    }

    /// Whether a socket is there still: open, or waiting to be accepted.
    fn is_alive(&mut self, tid: u32, id: &ObjectId) -> bool {
        if self.has_end(tid, id, |_| true) {
            return true;
        }
        let waits =
            |object: &Arc<Object>| matches!(&**object, Object::Socket(socket) if socket.waiting.contains(id));
        let listener = self.objects.iter().find(|(_, object)| waits(object)).map(|(id, _)| id.clone());
        listener.is_some_and(|listener| {
            self.read(Thing::Object(listener.clone()));
            self.has_end(tid, &listener, |_| true)
        })
    }

    /// The memory that `id` is charged for: messages of its own that nobody has received.
    fn charged(&self, id: &ObjectId) -> u64 {
        let queues = self.objects.values().filter_map(|object| match &**object {
            Object::Socket(socket) => Some(&socket.queue),
            _ => None,
        });
        queues.flatten().filter(|message| message.from == *id).map(|message| message.charge).sum()
    }

    /// Whether a connected socket has still to hear that its peer went without having read all, or without
    /// having been accepted. It hears of it once (`unix_release_sock`), by a call that fails: so no tape goes on
    /// behind it.
    fn is_reset(&mut self, tid: u32, id: &ObjectId) -> Call<bool> {
        let socket = self.socket(id)?;
        let Some(peer) = socket.peer.clone().filter(|_| socket.sock_type != SOCK_DGRAM) else {
            return Ok(false);
        };
        // Whether it is gone is asked last: where it does not matter, no call is in the way of the one that closes it.
        let has_unread = !self.socket(&peer)?.queue.is_empty();
        let was_accepted = self.descriptions.values().any(|shown| shown.object == peer);
        Ok((has_unread || !was_accepted) && !self.is_alive(tid, &peer))
    }

    /// What is looked at before the descriptors that are sent along: who would get them, and how many they are.
    pub(super) fn may_send(&mut self, tid: u32, id: &ObjectId, rights: usize) -> Call<()> {
        let socket = self.socket(id)?.clone();
        if socket.sock_type == SOCK_SEQPACKET {
            // `unix_seqpacket_sendmsg`: "sock_error".
            if self.is_reset(tid, id)? {
                return fails(ECONNRESET);
            }
            if socket.peer.is_none() {
                return fails(ENOTCONN);
            }
        }
        // `scm_fp_copy`.
        if rights > MOST_RIGHTS { fails(EINVAL) } else { Ok(()) }
    }

    pub(super) fn send(
        &mut self,
        tid: u32,
        desc: DescId,
        data: &[u8],
        rights: &[DescId],
        never_blocks: bool,
    ) -> Call<i64> {
        let description = self.description(desc).clone();
        let id = description.object.clone();
        let nonblock = never_blocks || description.flags & O_NONBLOCK != 0;
        let socket = self.socket(&id)?.clone();
        self.write(Thing::Object(id.clone()));
        if socket.family != AF_UNIX {
            return not_modelled("a message over a network");
        }
        if socket.sock_type == SOCK_SEQPACKET && self.is_reset(tid, &id)? {
            return fails(ECONNRESET);
        }
        let is_stream = socket.sock_type == SOCK_STREAM;
        let buffer = socket.options.get(&SocketOption::SendBuffer).copied().unwrap_or(0);
        if !is_stream && data.len() as u64 + 32 > buffer {
            return fails(EMSGSIZE);
        }
        // Datagrams get their memory first, which is where that is looked at (`sock_alloc_send_pskb`).
        if socket.sock_type == SOCK_DGRAM && socket.shutdown & SEND != 0 {
            return fails(EPIPE);
        }
        let Some(peer) = socket.peer.clone() else { return fails(ENOTCONN) };
        if socket.shutdown & SEND != 0 {
            return fails(EPIPE);
        }
        let done = self.thread(tid).progress;
        let peer_is_there = self.is_alive(tid, &peer);
        self.write(Thing::Object(peer.clone()));
        let receiver = self.socket(&peer)?;
        let (peer_shutdown, takes) = (receiver.shutdown, receiver.peer.clone());
        if !peer_is_there {
            return fails(if socket.sock_type == SOCK_DGRAM { ECONNREFUSED } else { EPIPE });
        }
        if peer_shutdown & RECEIVE != 0 {
            return fails(EPIPE);
        }
        if socket.sock_type == SOCK_DGRAM && takes.is_some_and(|other| other != id) {
            return fails(EPERM);
        }
        for right in rights {
            self.write(Thing::Flight(peer.clone()));
            self.note(Thing::Open(*right), Access::Add);
        }
        if is_stream && data.is_empty() {
            return Ok(0);
        }
        let mut sent = done;
        loop {
            let rest = data.get(sent..).unwrap_or_default();
            if self.charged(&id) >= buffer {
                if nonblock {
                    return if sent == 0 { fails(EAGAIN) } else { gives(sent as i64, data.len() as i64) };
                }
                if sent == done {
                    return Err(Stop::Blocked);
                }
                self.thread_mut(tid).progress = sent;
                return Err(Stop::Partly);
            }
            let len = if is_stream { rest.len().min(piece(buffer)) } else { rest.len() };
            let now = rest.get(..len).unwrap_or_default();
            let message = Message {
                data: now.to_vec(),
                rights: if sent == 0 { rights.to_vec() } else { Vec::new() },
                from: id.clone(),
                charge: charge_of(len, is_stream),
            };
            self.socket_mut(&peer)?.queue.push_back(message);
            sent += len;
            if sent >= data.len() {
                return Ok(data.len() as i64);
            }
        }
    }

    /// `read(2)`: of a stream as much as there is up to rights, of others one message.
    pub(super) fn receive(&mut self, tid: u32, description: &Description, most: u64) -> Call<Vec<u8>> {
        let id = description.object.clone();
        let socket = self.socket(&id)?.clone();
        if socket.family != AF_UNIX || socket.backlog.is_some() {
            return not_modelled("a read from this socket");
        }
        self.write(Thing::Flight(id.clone()));
        // `sock_read_iter`: "Match SYS5 behaviour".
        if most == 0 {
            return Ok(Vec::new());
        }
        if socket.sock_type != SOCK_DGRAM && socket.peer.is_none() {
            return fails(if socket.sock_type == SOCK_SEQPACKET { ENOTCONN } else { EINVAL });
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        self.write(Thing::Object(id.clone()));
        if socket.sock_type != SOCK_DGRAM
            && let Some(peer) = &socket.peer
            && !self.is_alive(tid, peer)
        {
            // A stream gives first what it has (`unix_stream_read_generic`).
            let looks = socket.sock_type == SOCK_SEQPACKET || socket.queue.is_empty();
            if looks && self.is_reset(tid, &id)? {
                return fails(ECONNRESET);
            }
            if socket.queue.is_empty() {
                return Ok(Vec::new());
            }
        }
        let socket = self.socket_mut(&id)?;
        if socket.queue.is_empty() {
            // Of datagrams it is an end only to who waits (`unix_dgram_recvmsg`).
            let waits = description.flags & O_NONBLOCK == 0;
            if socket.shutdown & RECEIVE != 0 && (waits || socket.sock_type != SOCK_DGRAM) {
                return Ok(Vec::new());
            }
            return if description.flags & O_NONBLOCK != 0 { fails(EAGAIN) } else { Err(Stop::Blocked) };
        }
        let mut taken = Vec::new();
        while let Some(first) = socket.queue.front_mut()
            && (taken.len() < most)
        {
            let len = first.data.len().min(most - taken.len());
            taken.extend(first.data.drain(..len));
            let is_stream = socket.sock_type == SOCK_STREAM;
            let had_rights = !first.rights.is_empty();
            if first.data.is_empty() || !is_stream {
                socket.queue.pop_front();
            }
            if !is_stream || had_rights {
                break;
            }
        }
        Ok(taken)
    }

    /// `recvmsg(2)` of one message of a socket that keeps messages apart: how many bytes, and the descriptors.
    pub(super) fn receive_message(
        &mut self,
        tid: u32,
        desc: DescId,
        room: Room,
        stays: bool,
        never_blocks: bool,
    ) -> Call<(i64, Vec<DescId>)> {
        self.read(Thing::Description(desc));
        let description = self.description(desc).clone();
        if description.flags & super::object::O_PATH != 0 {
            return fails(EBADF);
        }
        let id = description.object.clone();
        let socket = self.socket(&id)?.clone();
        if socket.family != AF_UNIX || socket.sock_type == SOCK_STREAM {
            return not_modelled("a message from this socket");
        }
        let access = if stays { Access::Read } else { Access::Write };
        self.note(Thing::Flight(id.clone()), access);
        self.note(Thing::Object(id.clone()), access);
        if socket.sock_type == SOCK_SEQPACKET && socket.peer.is_none() {
            return fails(ENOTCONN);
        }
        // An error that waits is looked at before the queue (`__skb_try_recv_datagram`).
        if self.is_reset(tid, &id)? {
            return fails(ECONNRESET);
        }
        let Some(first) = socket.queue.front() else {
            // Of datagrams it is an end only to who waits (`__unix_dgram_recvmsg`).
            let waits = !never_blocks && description.flags & O_NONBLOCK == 0;
            if socket.shutdown & RECEIVE != 0 && (waits || socket.sock_type != SOCK_DGRAM) {
                return Ok((0, Vec::new()));
            }
            if let Some(peer) = socket.peer.filter(|_| socket.sock_type == SOCK_SEQPACKET)
                && !self.is_alive(tid, &peer)
            {
                return Ok((0, Vec::new()));
            }
            return if waits { Err(Stop::Blocked) } else { fails(EAGAIN) };
        };
        let len = (first.data.len() as u64).min(room.bytes) as i64;
        let mut rights = first.rights.clone();
        rights.truncate(room.rights as usize);
        for right in &first.rights {
            self.note(Thing::Open(*right), Access::Add);
        }
        if !stays {
            self.socket_mut(&id)?.queue.pop_front();
        }
        Ok((len, rights))
    }

    pub(super) fn shutdown(&mut self, id: &ObjectId, bits: u32, connected: bool) -> Call<i64> {
        let socket = self.socket_mut(id)?;
        socket.shutdown |= bits & 3;
        let is_unix = socket.family == AF_UNIX;
        let is_connected = is_unix || socket.dest.is_some();
        let (peer, sock_type) = (socket.peer.clone(), socket.sock_type);
        if let Some(peer) = peer
            && matches!(sock_type, SOCK_STREAM | SOCK_SEQPACKET)
        {
            self.socket_mut(&peer)?.shutdown |= (bits & RECEIVE) << 1 | (bits & SEND) >> 1;
        }
        // The tape says which of the two answers it expects; both have the effect.
        if is_connected == connected { Ok(0) } else { fails(ENOTCONN) }
    }

    pub(super) fn bind(&mut self, tid: u32, id: &ObjectId, address: &[u8]) -> Call<i64> {
        let socket = self.socket_mut(id)?.clone();
        let family = family_of(address);
        if family != Some(socket.family) {
            return fails(if socket.family == AF_UNIX { EINVAL } else { EAFNOSUPPORT });
        }
        if socket.name.is_some() {
            return fails(EINVAL);
        }
        let mut kept: Arc<[u8]> = address.into();
        if socket.family == AF_UNIX {
            let Some(name) = unix_name(address) else {
                return if address.len() == 2 {
                    not_modelled("a name of the kernel's choice")
                } else {
                    fails(EINVAL)
                };
            };
            if name.first() == Some(&0) {
                let name = abstract_key(socket.sock_type, name);
                self.write(Thing::Abstract(name.clone()));
                if let Some(other) = self.abstracts.get(&name).cloned()
                    && self.is_alive(tid, &other)
                {
                    return fails(EADDRINUSE);
                }
                self.abstracts.insert(name, id.clone());
            } else {
                let path = self.absolute(tid, name)?;
                self.write(Thing::Name(path.clone()));
                if self.exists(&path) {
                    return fails(EADDRINUSE);
                }
                self.check_parent(&path)?;
                self.names.insert(path, Some(id.clone()));
                kept = [&address[..2], name].concat().into();
            }
        }
        self.socket_mut(id)?.name = Some(kept);
        Ok(0)
    }

    pub(super) fn listen(&mut self, tid: u32, id: &ObjectId, backlog: u32) -> Call<i64> {
        let most = self.ground.host.somaxconn;
        self.read(Thing::Thread(tid));
        let socket = self.socket_mut(id)?;
        match socket.sock_type {
            SOCK_STREAM | SOCK_SEQPACKET => {}
            _ => return fails(EOPNOTSUPP),
        }
        if socket.family == AF_UNIX && socket.name.is_none() || socket.peer.is_some() || socket.dest.is_some()
        {
            return fails(EINVAL);
        }
        socket.backlog = Some(backlog.min(most));
        Ok(0)
    }

    pub(super) fn connect(&mut self, tid: u32, desc: DescId, address: &[u8]) -> Call<i64> {
        let description = self.description(desc).clone();
        let id = description.object.clone();
        let socket = self.socket(&id)?.clone();
        self.write(Thing::Object(id.clone()));
        let Some(family) = family_of(address) else { return fails(EINVAL) };
        if socket.family != AF_UNIX {
            if socket.sock_type == SOCK_STREAM || family == AF_UNSPEC {
                return not_modelled("a connection over a network");
            }
            self.socket_mut(&id)?.dest = Some(address.into());
            return Ok(0);
        }
        if family == AF_UNSPEC && socket.sock_type == SOCK_DGRAM {
            if let Some(peer) = &socket.peer
                && !socket.queue.is_empty()
                && self.socket(peer)?.peer.as_ref() == Some(&id)
            {
                // The other side is told: ECONNRESET, once (`unix_dgram_disconnected`).
                return not_modelled("messages that are lost with a connection");
            }
            let socket = self.socket_mut(&id)?;
            // What came from the old peer goes, too (`unix_dgram_disconnected`).
            socket.peer = None;
            socket.queue.clear();
            return Ok(0);
        }
        let Some(name) = unix_name(address).filter(|_| family == AF_UNIX) else { return fails(EINVAL) };
        let target = if name.first() == Some(&0) {
            let name = abstract_key(socket.sock_type, name);
            self.read(Thing::Abstract(name.clone()));
            self.abstracts.get(&name).cloned()
        } else {
            let path = self.absolute(tid, name)?;
            self.read(Thing::Name(path.clone()));
            match self.names.get(&path) {
                Some(Some(id)) => Some(id.clone()),
                Some(None) | None => return fails(crate::errno::ENOENT),
            }
        };
        let Some(target) = target else { return fails(ECONNREFUSED) };
        if !matches!(self.object(&target), Object::Socket(_)) || !self.is_alive(tid, &target) {
            return fails(ECONNREFUSED);
        }
        self.write(Thing::Object(target.clone()));
        let other = self.socket(&target)?.clone();
        if other.sock_type != socket.sock_type {
            return fails(EPROTOTYPE);
        }
        if socket.sock_type == SOCK_DGRAM {
            if other.peer.as_ref().is_some_and(|theirs| *theirs != id) {
                return fails(EPERM);
            }
            self.socket_mut(&id)?.peer = Some(target);
            return Ok(0);
        }
        let Some(backlog) = other.backlog else { return fails(ECONNREFUSED) };
        if other.shutdown & RECEIVE != 0 {
            return fails(ECONNREFUSED);
        }
        // `unix_recvq_full`.
        if other.waiting.len() > backlog as usize {
            return if description.flags & O_NONBLOCK != 0 { fails(EAGAIN) } else { Err(Stop::Blocked) };
        }
        if socket.peer.is_some() {
            return fails(EISCONN);
        }
        if socket.backlog.is_some() {
            return fails(EINVAL);
        }
        let mut accepted = self.new_socket(AF_UNIX, socket.sock_type, 0);
        accepted.peer = Some(id.clone());
        accepted.name = other.name.clone();
        let accepted = self.add_object(tid, 0, Object::Socket(accepted));
        self.socket_mut(&target)?.waiting.push_back(accepted.clone());
        self.socket_mut(&id)?.peer = Some(accepted);
        Ok(0)
    }

    pub(super) fn accept(&mut self, tid: u32, listener: Fd, flags: u32) -> Call<DescId> {
        let desc = self.descriptor(tid, listener)?;
        if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
            return fails(EINVAL);
        }
        self.check_room(tid)?;
        self.read(Thing::Description(desc));
        let description = self.description(desc).clone();
        if description.flags & super::object::O_PATH != 0 {
            return fails(EBADF);
        }
        let socket = self.socket_mut(&description.object)?;
        match socket.sock_type {
            SOCK_STREAM | SOCK_SEQPACKET => {}
            _ => return fails(EOPNOTSUPP),
        }
        if socket.backlog.is_none() {
            return fails(EINVAL);
        }
        let Some(accepted) = socket.waiting.pop_front() else {
            if socket.shutdown & RECEIVE != 0 && description.flags & O_NONBLOCK == 0 {
                return fails(EINVAL);
            }
            return if description.flags & O_NONBLOCK != 0 { fails(EAGAIN) } else { Err(Stop::Blocked) };
        };
        Ok(self.add_description(tid, 0, Description::of(accepted, O_RDWR | flags & O_NONBLOCK)))
    }

    pub(super) fn set_bytes(&mut self, id: &ObjectId, option: SocketOption, bytes: &[u8]) -> Call<i64> {
        self.socket_mut(id)?.bytes.insert(option, bytes.to_vec());
        Ok(0)
    }

    pub(super) fn set_option(
        &mut self,
        tid: u32,
        id: &ObjectId,
        option: SocketOption,
        value: u64,
        force: bool,
    ) -> Call<i64> {
        self.read(Thing::Thread(tid));
        let is_admin = self.thread(tid).credentials.effective & CAP_NET_ADMIN != 0;
        if force && !is_admin {
            return fails(EPERM);
        }
        let (wmem, rmem) = (self.ground.host.wmem_max, self.ground.host.rmem_max);
        let socket = self.socket_mut(id)?;
        // The kernel doubles what is asked for, for its own bookkeeping (socket(7)).
        let doubled = |most: u64, least: u64| {
            let value = if force { value } else { value.min(most) };
            value.min(i32::MAX as u64 / 2).saturating_mul(2).max(least)
        };
        let value = match option {
            SocketOption::SendBuffer => {
                *socket.options.entry(SocketOption::BufferLock).or_default() |= 1;
                doubled(wmem, 4608)
            }
            SocketOption::ReceiveBuffer => {
                *socket.options.entry(SocketOption::BufferLock).or_default() |= 2;
                doubled(rmem, 2304)
            }
            SocketOption::ReceiveLowat => value.max(1),
            SocketOption::BufferLock if value > 3 => return fails(EINVAL),
            SocketOption::TypeOfService
            | SocketOption::TimeToLive
            | SocketOption::KeepCount
            | SocketOption::KeepIdle
            | SocketOption::KeepInterval
            | SocketOption::BoundDevice
            | SocketOption::Filter
            | SocketOption::IcmpFilter
            | SocketOption::SendTimeout
            | SocketOption::ReceiveTimeout
            | SocketOption::Priority
            | SocketOption::Mark
            | SocketOption::BufferLock
            | SocketOption::Linger => value,
            SocketOption::V6Only
            | SocketOption::FreeBind
            | SocketOption::PacketInfo
            | SocketOption::NoDefrag
            | SocketOption::HeaderIncluded
            | SocketOption::NoDelay
            | SocketOption::Cork
            | SocketOption::ReuseAddr
            | SocketOption::ReusePort
            | SocketOption::PassCred
            | SocketOption::PassSec
            | SocketOption::DontRoute
            | SocketOption::NoCheck
            | SocketOption::Broadcast
            | SocketOption::KeepAlive
            | SocketOption::OobInline => u64::from(value != 0),
        };
        socket.options.insert(option, value);
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::charge_of;

    /// As SIOCOUTQ says on Linux 6.18.
    #[test]
    fn messages_are_charged_as_the_kernel_does() {
        let measured = [
            (1, 768, 768),
            (192, 768, 768),
            (193, 1280, 1280),
            (704, 1280, 1280),
            (705, 2304, 2304),
            (1728, 2304, 2304),
            (3776, 4352, 4352),
            (3777, 4864, 8448),
            (5000, 6400, 8448),
            (8000, 8960, 16640),
            (16384, 17152, 20736),
            (32768, 33536, 37120),
        ];
        for (len, stream, datagram) in measured {
            assert_eq!((charge_of(len, true), charge_of(len, false)), (stream, datagram), "{len} bytes");
        }
    }
}
