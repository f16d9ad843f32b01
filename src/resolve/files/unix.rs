//! Unix sockets, with what waits in their queues: pairs without names as one resource each, all
//! others in groups that know each other, by connection or by name.

use std::collections::{BTreeMap, BTreeSet};

use regrow_graph::ids::OfdId;

use super::super::numbers::O_SETTABLE;
use super::super::problem::ProblemKind;
use super::super::recipe::{ResourceKind, SocketEnd, UnixAction, UnixGroup, UnixName};
use super::super::{Payloads, Resolver};
use super::flight::{self, Queue};
use super::{Holders, name};
use crate::image::{Ofd, OfdKind, UnixSocket};

/// `TCP_ESTABLISHED`, as the kernel numbers the state of connected unix sockets, too.
const ESTABLISHED: u32 = 1;
/// Most descriptors of one message (unix(7)).
const SCM_MAX_FD: usize = 253;
/// `TCP_LISTEN`.
const LISTEN: u32 = 10;

pub(super) fn resolve(resolver: &mut Resolver<'_>, holders: &Holders, used: &[OfdId], payloads: &Payloads) {
    let model = resolver.model;
    let sockets: BTreeMap<u32, (OfdId, &Ofd, &UnixSocket)> = used
        .iter()
        .filter_map(|ofd| {
            let entry = &model.ofds[ofd.index()];
            match &entry.kind {
                OfdKind::Unix(socket) => Some((socket.inode, (*ofd, entry, &**socket))),
                _ => None,
            }
        })
        .collect();
    let mut queues: BTreeMap<u32, Queue> = BTreeMap::new();
    for (packet, data) in model.packets.iter().zip(&payloads.packets) {
        if packet.control_messages as usize > packet.rights.len() {
            resolver.problems.unsupported(
                None,
                Some(packet.origin),
                "a control message without descriptors: not restored",
            );
        }
        if packet.rights.len() > SCM_MAX_FD {
            let text =
                format!("{} descriptors in one message: the kernel takes {SCM_MAX_FD}", packet.rights.len());
            resolver.problems.add(ProblemKind::BadImages, None, Some(packet.origin), text);
        }
        let rights = packet.rights.iter().filter_map(|id| resolver.ofd_of_id.get(id).copied()).collect();
        queues.entry(packet.id_for).or_default().push((data.clone(), rights));
    }
    let mut named = Vec::new();
    let mut in_order: Vec<_> = sockets.iter().collect();
    // The numbers of the images break no tie.
    in_order.sort_by_key(|(_, (ofd, _, _))| *ofd);
    for (inode, (ofd, entry, socket)) in in_order {
        if !is_plain(resolver, entry, socket) {
            continue;
        }
        let is_unnamed = |other: &UnixSocket| other.name.is_empty() && other.peer != other.inode;
        let peer = sockets
            .get(&socket.peer)
            .filter(|(_, _, other)| other.peer == *inode && is_unnamed(socket) && is_unnamed(other));
        match peer {
            // The first of them speaks for both.
            Some((peer, _, _)) if peer < ofd => {}
            Some((peer_ofd, peer_entry, peer)) => {
                if peer.sock_type != socket.sock_type {
                    let text = format!("{}: its peer is of another type", name(entry));
                    resolver.problems.add(ProblemKind::BadImages, None, Some(entry.origin), text);
                }
                let waiting = [queues.remove(&entry.id), queues.remove(&peer_entry.id)];
                if waiting.iter().any(|queue| flight::has_rights(queue.as_ref())) {
                    let [own, other] = waiting;
                    let ends =
                        [(Some(*ofd), end(socket, None), own), (Some(*peer_ofd), end(peer, None), other)];
                    flight::pair(resolver, holders, entry, socket, ends);
                    continue;
                }
                let ends = [end(socket, waiting[0].as_ref()), end(peer, waiting[1].as_ref())];
                let kind = ResourceKind::SocketPair { sock_type: socket.sock_type, ends: Box::new(ends) };
                resolver.add_resource(kind, entry.origin, vec![Some(*ofd), Some(*peer_ofd)]);
            }
            None if socket.name.is_empty()
                && socket.peer == 0
                && flight::has_rights(queues.get(&entry.id)) =>
            {
                // The peer is gone, what it sent is still there, descriptors among it.
                let waiting = queues.remove(&entry.id);
                let ends = [(Some(*ofd), end(socket, None), waiting), (None, SocketEnd::default(), None)];
                flight::pair(resolver, holders, entry, socket, ends);
            }
            None => named.push((*ofd, *entry, *socket)),
        }
    }
    for (_, entry, _) in &named {
        if flight::has_rights(queues.get(&entry.id)) {
            let text = format!(
                "{}: descriptors in flight in a socket with a name are not restored yet",
                name(entry)
            );
            resolver.problems.unsupported(None, Some(entry.origin), text);
        }
    }
    let named = groups(resolver, named);
    for members in named {
        group(resolver, &members, &mut queues);
    }
}

type Member<'a> = (OfdId, &'a Ofd, &'a UnixSocket);

/// Those that know each other, by connection or by name, together.
fn groups<'a>(resolver: &mut Resolver<'_>, sockets: Vec<Member<'a>>) -> Vec<Vec<Member<'a>>> {
    let mut leader: Vec<usize> = (0..sockets.len()).collect();
    let mut of_inode = BTreeMap::new();
    let mut of_name = BTreeMap::new();
    for (index, (_, _, socket)) in sockets.iter().enumerate() {
        of_inode.insert(socket.inode, index);
        if !socket.name.is_empty() {
            let first = *of_name.entry((&socket.name, &socket.name_dir)).or_insert(index);
            join(&mut leader, first, index);
        }
    }
    for (index, (_, entry, socket)) in sockets.iter().enumerate() {
        match of_inode.get(&socket.peer) {
            Some(peer) => join(&mut leader, *peer, index),
            None if socket.peer == 0 => {}
            None => {
                let text = format!(
                    "{}: its peer {:#x} is outside the tree or connected elsewhere (--ext-unix-sk): not restored yet",
                    name(entry),
                    socket.peer
                );
                resolver.problems.unsupported(None, Some(entry.origin), text);
            }
        }
    }
    let mut groups: BTreeMap<usize, Vec<Member<'a>>> = BTreeMap::new();
    for (index, member) in sockets.into_iter().enumerate() {
        groups.entry(find(&leader, index)).or_default().push(member);
    }
    groups.into_values().collect()
}

fn find(leader: &[usize], mut index: usize) -> usize {
    while leader[index] != index {
        index = leader[index];
    }
    index
}

fn join(leader: &mut [usize], a: usize, b: usize) {
    let (a, b) = (find(leader, a), find(leader, b));
    leader[a.max(b)] = a.min(b);
}

/// The making of a group: first all sockets that nobody accepts, then names (those that have been
/// unlinked since first, so that another may have the path), connections as their targets appear,
/// what waits, and at last what lower does with every socket: shutdowns, options, flags.
fn group(resolver: &mut Resolver<'_>, members: &[Member<'_>], queues: &mut BTreeMap<u32, Queue>) {
    let is_dgram = |socket: &UnixSocket| socket.sock_type == libc::SOCK_DGRAM as u32;
    let member_of: BTreeMap<u32, usize> =
        members.iter().enumerate().map(|(index, member)| (member.2.inode, index)).collect();
    let peer_of = |index: usize| member_of.get(&members[index].2.peer).copied();
    let is_mutual =
        |index: usize| peer_of(index).is_some_and(|peer| peer != index && peer_of(peer) == Some(index));
    let names: Vec<Option<UnixName>> =
        members.iter().map(|(_, entry, socket)| unix_name(resolver, entry, socket)).collect();
    let listener_of = |index: usize| {
        let socket = members[index].2;
        let found = |other: &Member<'_>| {
            other.2.state == LISTEN
                && other.2.name == socket.name
                && other.2.name_dir == socket.name_dir
                && other.2.sock_type == socket.sock_type
        };
        (socket.state == ESTABLISHED && !is_dgram(socket) && !socket.name.is_empty())
            .then(|| members.iter().position(found))
            .flatten()
    };
    let mut made = Making {
        group: UnixGroup::default(),
        yields: Vec::new(),
        at: vec![None; members.len()],
        paths: BTreeSet::new(),
    };
    // Connections that are accepted here: who connects (`None`: it is closed), who is accepted, where.
    let mut accepted: Vec<(Option<usize>, usize, usize)> = Vec::new();
    let mut connecting = BTreeSet::new();
    for index in 0..members.len() {
        let Some(listener) = listener_of(index) else { continue };
        match peer_of(index).filter(|_| is_mutual(index)) {
            Some(peer)
                if connecting.contains(&index) || accepted.iter().any(|(_, other, _)| *other == peer) => {}
            Some(peer) => {
                connecting.insert(peer);
                accepted.push((Some(peer), index, listener));
            }
            None => accepted.push((None, index, listener)),
        }
    }
    // Connections that nobody has accepted yet.
    let is_waiting = |index: usize| {
        !is_dgram(members[index].2) && peer_of(index).is_some_and(|peer| members[peer].2.state == LISTEN)
    };
    let is_accepted = |index: usize| accepted.iter().any(|(_, other, _)| *other == index);
    for index in 0..members.len() {
        let (_, entry, socket) = members[index];
        if made.at[index].is_some() || is_accepted(index) {
            continue;
        }
        let has_sender = (0..members.len()).any(|other| peer_of(other) == Some(index));
        let waits = queues.contains_key(&entry.id);
        if is_mutual(index) && !connecting.contains(&index) {
            let peer = peer_of(index).unwrap_or(index);
            made.pair(members, index, Some(peer), queues);
        } else if !is_dgram(socket)
            && socket.state == ESTABLISHED
            && !connecting.contains(&index)
            && !is_waiting(index)
        {
            // The peer is gone, what it sent is still there.
            made.pair(members, index, None, queues);
        } else if is_dgram(socket) && waits && !has_sender {
            // Who sent it is not connected to it any more.
            let (socket, sender) = made.pair(members, index, None, queues);
            made.group.actions.push(UnixAction::Disconnect { socket });
            made.group.actions.push(UnixAction::Fill { sender, receiver: socket });
        } else {
            let socket = made.socket(members, index, queues);
            made.group.actions.push(UnixAction::Socket { socket, sock_type: members[index].2.sock_type });
        }
    }
    // Gone names before those that stay.
    let mut order: Vec<usize> =
        (0..members.len()).filter(|index| names[*index].is_some() && !is_accepted(*index)).collect();
    let is_connection = |socket: &UnixSocket| socket.state == ESTABLISHED && !is_dgram(socket);
    order.sort_by_key(|index| (!members[*index].2.deleted, !is_connection(members[*index].2), *index));
    let mut connected = BTreeSet::new();
    for index in order {
        let (Some(own), Some(name)) = (made.at[index], &names[index]) else { continue };
        let (_, _, socket) = members[index];
        made.bind(resolver, own, name);
        if socket.state == LISTEN {
            made.group.actions.push(UnixAction::Listen { socket: own, backlog: socket.backlog });
            for (client, server, _) in accepted.iter().filter(|(_, _, listener)| *listener == index) {
                let client = match client {
                    Some(client) => {
                        let early = members[*client].2.shutdown & !mirrored(members[*server].2.shutdown);
                        let client = made.at[*client].unwrap_or(own);
                        if early != 0 {
                            made.group.actions.push(UnixAction::Shutdown { socket: client, bits: early });
                        }
                        client
                    }
                    None => {
                        let client = made.stranger();
                        made.group
                            .actions
                            .push(UnixAction::Socket { socket: client, sock_type: socket.sock_type });
                        client
                    }
                };
                made.group.actions.push(UnixAction::Connect { socket: client, to: name.clone() });
                let server = made.socket(members, *server, queues);
                made.group.actions.push(UnixAction::Accept { listener: own, socket: server });
                if !made.group.sockets[server].queue.is_empty() {
                    made.group.actions.push(UnixAction::Fill { sender: client, receiver: server });
                }
                if !made.group.sockets[client].queue.is_empty() {
                    made.group.actions.push(UnixAction::Fill { sender: server, receiver: client });
                }
            }
        }
        for other in (0..members.len()).filter(|other| is_waiting(*other) && peer_of(*other) == Some(index)) {
            if let Some(other) = made.at[other] {
                made.group.actions.push(UnixAction::Connect { socket: other, to: name.clone() });
            }
        }
        if socket.deleted {
            for other in (0..members.len())
                .filter(|other| is_dgram(socket) && peer_of(*other) == Some(index) && !is_mutual(*other))
            {
                connected.insert(other);
                if let Some(other) = made.at[other] {
                    made.group.actions.push(UnixAction::Connect { socket: other, to: name.clone() });
                }
            }
            if let Some(path) = &name.path {
                made.paths.remove(path);
                made.group.actions.push(UnixAction::Unlink { path: path.clone() });
            }
        }
    }
    // A datagram socket that is connected takes nobody else's connection.
    let mut waiting: BTreeSet<usize> = (0..members.len())
        .filter(|index| {
            is_dgram(members[*index].2)
                && !is_mutual(*index)
                && peer_of(*index).is_some()
                && !connected.contains(index)
        })
        .collect();
    // How many of them each is the target of, and those that are nobody's any more.
    let mut aims = vec![0usize; members.len()];
    let peer_beside = |index: usize| peer_of(index).filter(|peer| *peer != index);
    waiting.iter().filter_map(|index| peer_beside(*index)).for_each(|peer| aims[peer] += 1);
    let mut free: BTreeSet<usize> = waiting.iter().copied().filter(|index| aims[*index] == 0).collect();
    while let Some(index) = free.pop_first() {
        waiting.remove(&index);
        if let Some(peer) = peer_beside(index) {
            aims[peer] -= 1;
            if aims[peer] == 0 && waiting.contains(&peer) {
                free.insert(peer);
            }
        }
        let Some(peer) = peer_of(index) else { continue };
        match (&names[peer], made.at[index]) {
            (Some(to), Some(socket)) => {
                made.group.actions.push(UnixAction::Connect { socket, to: to.clone() })
            }
            (_, _) => {
                let text = format!(
                    "{}: it is connected to a socket without a name that is connected elsewhere: not restored yet",
                    name(members[index].1)
                );
                resolver.problems.unsupported(None, Some(members[index].1.origin), text);
            }
        }
    }
    if let Some(index) = waiting.first() {
        let text = format!("{}: datagram sockets are connected in a ring", name(members[*index].1));
        resolver.problems.add(ProblemKind::BadImages, None, Some(members[*index].1.origin), text);
    }
    for index in 0..members.len() {
        let Some(receiver) = made.at[index].filter(|_| is_dgram(members[index].2)) else { continue };
        let sender = (0..members.len()).find(|other| peer_of(*other) == Some(index) && !is_mutual(index));
        if let Some(sender) = sender.and_then(|sender| made.at[sender])
            && !made.group.sockets[receiver].queue.is_empty()
        {
            made.group.actions.push(UnixAction::Fill { sender, receiver });
        }
    }
    let Some((_, entry, _)) = members.first() else { return };
    resolver.add_resource(ResourceKind::UnixSockets(Box::new(made.group)), entry.origin, made.yields);
}

/// The bits that a shutdown leaves at the other end.
fn mirrored(bits: u32) -> u32 {
    (bits & 1) << 1 | (bits & 2) >> 1
}

/// A group while it is written.
struct Making {
    group: UnixGroup,
    yields: Vec<Option<OfdId>>,
    /// The index of each member.
    at: Vec<Option<usize>>,
    /// Paths that are bound here.
    paths: BTreeSet<String>,
}

impl Making {
    fn socket(&mut self, members: &[Member<'_>], index: usize, queues: &mut BTreeMap<u32, Queue>) -> usize {
        let (ofd, entry, socket) = members[index];
        self.group.sockets.push(end(socket, queues.remove(&entry.id).as_ref()));
        self.yields.push(Some(ofd));
        self.at[index] = Some(self.yields.len() - 1);
        self.yields.len() - 1
    }

    /// A socket that no task has.
    fn stranger(&mut self) -> usize {
        self.group.sockets.push(SocketEnd::default());
        self.yields.push(None);
        self.yields.len() - 1
    }

    /// Two connected ones, with what waits in streams and between datagram sockets of each other.
    fn pair(
        &mut self,
        members: &[Member<'_>],
        index: usize,
        peer: Option<usize>,
        queues: &mut BTreeMap<u32, Queue>,
    ) -> (usize, usize) {
        let sock_type = members[index].2.sock_type;
        let first = self.socket(members, index, queues);
        let second = match peer {
            Some(peer) => self.socket(members, peer, queues),
            None => self.stranger(),
        };
        self.group.actions.push(UnixAction::Pair { first, sock_type });
        if peer.is_some() || sock_type != libc::SOCK_DGRAM as u32 {
            for (sender, receiver) in [(first, second), (second, first)] {
                if !self.group.sockets[receiver].queue.is_empty() {
                    self.group.actions.push(UnixAction::Fill { sender, receiver });
                }
            }
        }
        (first, second)
    }

    fn bind(&mut self, resolver: &Resolver<'_>, socket: usize, name: &UnixName) {
        let mut stale = false;
        if let Some(path) = &name.path {
            if !self.paths.insert(path.clone()) {
                // Of one that was bound before.
                self.group.actions.push(UnixAction::Unlink { path: path.clone() });
            } else {
                let first = !self
                    .group
                    .actions
                    .iter()
                    .any(|action| matches!(action, UnixAction::Unlink { path: gone } if gone == path));
                stale = first && resolver.facts.files.get(path).is_some_and(|fact| fact.reached.is_ok());
            }
        }
        self.group.actions.push(UnixAction::Bind { socket, name: name.clone(), stale });
    }
}

/// The name of a socket; says what is wrong with it.
fn unix_name(resolver: &mut Resolver<'_>, entry: &Ofd, socket: &UnixSocket) -> Option<UnixName> {
    if socket.name.is_empty() {
        return None;
    }
    let mut address = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    address.extend_from_slice(&socket.name);
    if socket.name[0] == 0 {
        return Some(UnixName { address, dir: None, path: None, perms: None });
    }
    if let Some(dir) = crate::host::directory_of_socket(&socket.name, socket.name_dir.as_deref())
        && resolver.facts.files.get(&dir).is_some_and(|fact| fact.reached.is_err())
    {
        let text = format!("{}: its directory {dir} is gone: not restored yet", name(entry));
        resolver.problems.unsupported(None, Some(entry.origin), text);
    }
    let bytes = socket.name.split(|byte| *byte == 0).next().unwrap_or_default();
    let Ok(text) = std::str::from_utf8(bytes) else {
        let text = format!("{}: a path that is no UTF-8: not restored yet", name(entry));
        resolver.problems.unsupported(None, Some(entry.origin), text);
        return None;
    };
    let dir = socket.name_dir.clone().filter(|_| !text.starts_with('/'));
    let path = match &dir {
        Some(dir) => format!("{}/{text}", dir.trim_end_matches('/')),
        None => text.to_owned(),
    };
    if !path.starts_with('/') {
        let text = format!("{}: the directory of its name {text} is not known", name(entry));
        resolver.problems.add(ProblemKind::BadImages, None, Some(entry.origin), text);
    }
    // A stale socket goes, as with CRIU; anything else is not ours.
    if let Some(Ok(stat)) = resolver.facts.files.get(&path).map(|fact| fact.reached)
        && stat.mode & libc::S_IFMT != libc::S_IFSOCK
    {
        let text = format!("{path}: is there and is no socket, and {} is bound to that name", name(entry));
        resolver.problems.add(ProblemKind::FileChanged, None, Some(entry.origin), text);
    }
    Some(UnixName { address, dir, path: Some(path), perms: socket.file_perms })
}

fn end(socket: &UnixSocket, queue: Option<&Queue>) -> SocketEnd {
    SocketEnd {
        flags: socket.flags & O_SETTABLE,
        options: Some(socket.options.clone()),
        shutdown: socket.shutdown,
        queue: flight::plain(queue),
    }
}

/// Whether the socket can be one end of a `socketpair`; otherwise says why not.
fn is_plain(resolver: &mut Resolver<'_>, entry: &Ofd, socket: &UnixSocket) -> bool {
    let mut reasons = Vec::new();
    if socket.name.len() > 108 {
        reasons.push(format!("a name of {} bytes", socket.name.len()));
    }
    let own = resolver.model.inventory.root_ids.map_or(0, |ids| ids.net_ns);
    if let Some(ns) = socket.ns_id.filter(|ns| own != 0 && *ns != own) {
        reasons.push(format!("in another network namespace ({ns})"));
    }
    if socket.uflags != 0 {
        reasons.push(format!("flags {:#x} (external, inherited or ghost)", socket.uflags));
    }
    if socket.options.bound_dev.is_some() {
        reasons.push("bound to a device".to_owned());
    }
    if socket.options.filter.len() > 4096 {
        reasons.push(format!("a filter of {} instructions", socket.options.filter.len()));
    }
    if !matches!(socket.sock_type as i32, libc::SOCK_STREAM | libc::SOCK_DGRAM | libc::SOCK_SEQPACKET) {
        reasons.push(format!("socket type {}", socket.sock_type));
    }
    for reason in &reasons {
        resolver.problems.unsupported(
            None,
            Some(entry.origin),
            format!("{}: {reason}: not restored yet", name(entry)),
        );
    }
    reasons.is_empty()
}
