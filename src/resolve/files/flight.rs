//! Descriptors in flight: sent through a unix socket and not received yet (`SCM_RIGHTS`, unix(7)).
//!
//! Who sends must have them open. So where a queue holds any, a task that has the receiving socket
//! fills the queues of the pair in a step of its own, for which all that is sent is open; what nobody
//! keeps is closed after it.

use std::collections::{BTreeMap, BTreeSet};

use regrow_graph::ids::{OfdId, TaskId};

use super::super::Resolver;
use super::super::recipe::{Message, ResourceKind, SocketEnd, StepKind};
use super::{Holders, name};
use crate::image::{Ofd, UnixSocket};

/// Adds what is in flight in the queues of what is used, and in the queues of that.
pub(super) fn add(resolver: &Resolver<'_>, is_used: &mut [bool]) {
    let mut has_more = true;
    while std::mem::take(&mut has_more) {
        for packet in &resolver.model.packets {
            if resolver.ofd_of_id.get(&packet.id_for).is_some_and(|ofd| is_used[ofd.index()]) {
                for ofd in packet.rights.iter().filter_map(|id| resolver.ofd_of_id.get(id)) {
                    has_more |= !std::mem::replace(&mut is_used[ofd.index()], true);
                }
            }
        }
    }
}

/// What waits for a socket: bytes, and the descriptions that come with them.
pub(super) type Queue = Vec<(Vec<u8>, Vec<OfdId>)>;

/// A queue without descriptors in flight.
pub(super) fn plain(queue: Option<&Queue>) -> Vec<Message> {
    queue.into_iter().flatten().map(|(data, _)| Message { data: data.clone(), rights: Vec::new() }).collect()
}

/// Whether any descriptor is in flight.
pub(super) fn has_rights(queue: Option<&Queue>) -> bool {
    queue.into_iter().flatten().any(|(_, rights)| !rights.is_empty())
}

/// The task that has the description, or else the socket that it is in flight in.
pub(super) fn sender(resolver: &Resolver<'_>, holders: &Holders, ofd: OfdId) -> Option<TaskId> {
    if let Some((task, _)) = holders.get(ofd) {
        return Some(task);
    }
    let mut carriers: BTreeMap<OfdId, OfdId> = BTreeMap::new();
    for packet in &resolver.model.packets {
        if let Some(by) = resolver.ofd_of_id.get(&packet.id_for) {
            carriers.extend(
                packet.rights.iter().filter_map(|id| resolver.ofd_of_id.get(id)).map(|right| (*right, *by)),
            );
        }
    }
    let mut seen = BTreeSet::new();
    let mut at = ofd;
    while seen.insert(at) {
        if let Some((task, _)) = holders.get(at) {
            return Some(task);
        }
        at = *carriers.get(&at)?;
    }
    None
}

/// A pair whose queues are filled in a step.
pub(super) fn pair(
    resolver: &mut Resolver<'_>,
    holders: &Holders,
    entry: &Ofd,
    socket: &UnixSocket,
    ends: [(Option<OfdId>, SocketEnd, Option<Queue>); 2],
) {
    let [first, second] = ends;
    let task = [&first, &second].iter().find_map(|(ofd, _, _)| sender(resolver, holders, (*ofd)?));
    let Some(task) = task else {
        let text = format!("{}: no task has it, or the socket that it is in flight in", name(entry));
        resolver.problems.unsupported(None, Some(entry.origin), text);
        return;
    };
    // An end that nobody keeps is needed to send from.
    let mut needs: Vec<OfdId> =
        [first.0, second.0].into_iter().map(|ofd| ofd.unwrap_or_else(|| resolver.new_ofd())).collect();
    let yields = needs.iter().copied().map(Some).collect();
    let filled = [first, second].map(|(_, mut end, queue)| {
        for (data, rights) in queue.unwrap_or_default() {
            let mut indices = Vec::with_capacity(rights.len());
            for right in rights {
                let at = needs.iter().position(|need| *need == right).unwrap_or_else(|| {
                    needs.push(right);
                    needs.len() - 1
                });
                indices.push(at);
            }
            end.queue.push(Message { data, rights: indices });
        }
        end
    });
    resolver.add_resource(
        ResourceKind::SocketPair { sock_type: socket.sock_type, ends: Box::default() },
        entry.origin,
        yields,
    );
    let step = resolver.add_step(StepKind::FillPair(Box::new(filled)), entry.origin, needs);
    resolver.placed[task.index()].steps.push(step);
}
