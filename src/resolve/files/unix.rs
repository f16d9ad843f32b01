//! Unix sockets: connected pairs, with what waits in their queues. Named, listening and connecting
//! sockets are not restored yet.

use std::collections::{BTreeMap, BTreeSet};

use regrow_graph::ids::OfdId;

use super::super::numbers::O_SETTABLE;
use super::super::problem::ProblemKind;
use super::super::recipe::{ResourceKind, SocketEnd};
use super::super::{Payloads, Resolver};
use super::flight::{self, Queue};
use super::{Holders, name};
use crate::image::{Ofd, OfdKind, UnixSocket};

/// `TCP_ESTABLISHED`, as the kernel numbers the state of connected unix sockets, too.
const ESTABLISHED: u32 = 1;
/// Most descriptors of one message (unix(7)).
const SCM_MAX_FD: usize = 253;

pub(super) fn resolve(resolver: &mut Resolver<'_>, holders: &Holders, used: &BTreeSet<OfdId>, payloads: &Payloads) {
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
            resolver.problems.unsupported(None, Some(packet.origin), "a control message without descriptors: not restored");
        }
        if packet.rights.len() > SCM_MAX_FD {
            let text = format!("{} descriptors in one message: the kernel takes {SCM_MAX_FD}", packet.rights.len());
            resolver.problems.add(ProblemKind::BadImages, None, Some(packet.origin), text);
        }
        let rights = packet.rights.iter().filter_map(|id| resolver.ofd_of_id.get(id).copied()).collect();
        queues.entry(packet.id_for).or_default().push((data.clone(), rights));
    }
    for (inode, (ofd, entry, socket)) in &sockets {
        if !is_plain(resolver, entry, socket) {
            continue;
        }
        let peer = sockets.get(&socket.peer).filter(|(_, _, other)| other.peer == *inode);
        match peer {
            // The one with the lower inode speaks for both.
            Some(_) if socket.peer < *inode => {}
            Some((peer_ofd, peer_entry, peer)) => {
                if peer.sock_type != socket.sock_type {
                    let text = format!("{}: its peer is of another type", name(entry));
                    resolver.problems.add(ProblemKind::BadImages, None, Some(entry.origin), text);
                }
                let waiting = [queues.remove(&entry.id), queues.remove(&peer_entry.id)];
                if waiting.iter().any(|queue| flight::has_rights(queue.as_ref())) {
                    let [own, other] = waiting;
                    let ends = [(Some(*ofd), end(socket, None), own), (Some(*peer_ofd), end(peer, None), other)];
                    flight::pair(resolver, holders, entry, socket, ends);
                    continue;
                }
                let ends = [end(socket, waiting[0].as_ref()), end(peer, waiting[1].as_ref())];
                let kind = ResourceKind::SocketPair { sock_type: socket.sock_type, ends: Box::new(ends) };
                resolver.add_resource(kind, entry.origin, vec![Some(*ofd), Some(*peer_ofd)]);
            }
            None if socket.peer == 0 && socket.state == ESTABLISHED || socket.peer == 0 && socket.sock_type == libc::SOCK_DGRAM as u32 && queues.contains_key(&entry.id) => {
                // The peer is gone, what it sent is still there.
                let waiting = queues.remove(&entry.id);
                if flight::has_rights(waiting.as_ref()) {
                    let ends = [(Some(*ofd), end(socket, None), waiting), (None, SocketEnd::default(), None)];
                    flight::pair(resolver, holders, entry, socket, ends);
                    continue;
                }
                let ends = [end(socket, waiting.as_ref()), SocketEnd::default()];
                let kind = ResourceKind::SocketPair { sock_type: socket.sock_type, ends: Box::new(ends) };
                resolver.add_resource(kind, entry.origin, vec![Some(*ofd), None]);
            }
            None => {
                let text = if socket.peer == 0 {
                    format!("{}: unix sockets that are not one of a pair are not restored yet", name(entry))
                } else {
                    format!("{}: its peer {:#x} is outside the tree or connected elsewhere (--ext-unix-sk): not restored yet", name(entry), socket.peer)
                };
                resolver.problems.unsupported(None, Some(entry.origin), text);
            }
        }
    }
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
    if !socket.name.is_empty() {
        reasons.push(format!("bound to \"{}\"", socket.name.escape_ascii()));
    }
    if socket.state == 10 {
        reasons.push("listening".to_owned());
    }
    if socket.uflags != 0 {
        reasons.push(format!("flags {:#x} (external, inherited or ghost)", socket.uflags));
    }
    if !socket.options.filter.is_empty() {
        reasons.push("a socket filter".to_owned());
    }
    if socket.options.bound_dev.is_some() {
        reasons.push("bound to a device".to_owned());
    }
    if !matches!(socket.sock_type as i32, libc::SOCK_STREAM | libc::SOCK_DGRAM | libc::SOCK_SEQPACKET) {
        reasons.push(format!("socket type {}", socket.sock_type));
    }
    for reason in &reasons {
        resolver.problems.unsupported(None, Some(entry.origin), format!("{}: {reason}: not restored yet", name(entry)));
    }
    reasons.is_empty()
}
