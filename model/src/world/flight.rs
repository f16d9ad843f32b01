//! Descriptions in flight that keep each other open.
//!
//! A socket that waits in its own queue, or in that of one that waits in its, is referred to after the last
//! descriptor of it has been closed. A collector finds such circles, but later, in a thread of its own, and
//! only when some unix socket is released. Until then a reader of a pipe whose other end is in there waits for
//! bytes. When that is over is not modelled, so a call that would leave such a circle behind is a fault.
//!
//! # Sources
//! net/unix/garbage.c (`unix_gc`, `unix_walk_scc`), net/unix/af_unix.c (`unix_release_sock`).

use std::collections::BTreeSet;

use regrow_graph::verify::{Change, Effect, FdEffect};

use super::World;
use super::object::Object;
use crate::ids::{DescId, ObjectId};

/// Whether a call can take the last descriptor of something away.
pub(super) fn may_close(effect: &Effect) -> bool {
    match effect {
        Effect::Exit { .. } | Effect::Kill { .. } => true,
        Effect::Fd(effect) => matches!(
            effect,
            FdEffect::Close { .. }
                | FdEffect::CloseRange { .. }
                | FdEffect::Dup { .. }
                | FdEffect::Receive { .. }
        ),
        Effect::Object { change, .. } => matches!(change, Change::Read { .. } | Change::Connect { .. }),
        Effect::Fork(_)
        | Effect::Post(_)
        | Effect::Wait(_)
        | Effect::Arrive
        | Effect::Park
        | Effect::AwaitExit { .. }
        | Effect::SetSid
        | Effect::SetPgid { .. }
        | Effect::Undo { .. }
        | Effect::File(_)
        | Effect::Name(_)
        | Effect::Memory(_)
        | Effect::Attribute(_)
        | Effect::Privilege(_)
        | Effect::Ipc(_) => false,
    }
}

impl World {
    /// Whether something is referred to by what waits in sockets that nobody can get at any more.
    pub(super) fn has_circle_in_flight(&self) -> bool {
        let rights_of = |id: &ObjectId| {
            match self.objects.get(id).map(|object| &**object) {
                Some(Object::Socket(socket)) => {
                    socket.queue.iter().flat_map(|message| &message.rights).copied()
                }
                Some(_) | None => return BTreeSet::new(),
            }
            .collect::<BTreeSet<DescId>>()
        };
        let shows_socket =
            |desc: &DescId| matches!(self.object(&self.description(*desc).object), Object::Socket(_));
        let sockets: Vec<ObjectId> =
            self.objects.keys().filter(|id| !rights_of(id).is_empty()).cloned().collect();
        if !sockets.iter().flat_map(&rights_of).any(|desc| shows_socket(&desc)) {
            return false;
        }
        let live = self.live();
        // What nobody can get at is released, unless something that waits refers to it: so long until nothing changes.
        let shown = |id: &ObjectId| {
            self.descriptions
                .iter()
                .filter(|(_, shown)| shown.object == *id)
                .map(|(desc, _)| *desc)
                .collect::<Vec<_>>()
        };
        let mut holders: Vec<ObjectId> =
            sockets.into_iter().filter(|id| shown(id).iter().any(|desc| !live.contains(desc))).collect();
        loop {
            let held: BTreeSet<DescId> = holders.iter().flat_map(&rights_of).collect();
            let before = holders.len();
            holders.retain(|id| shown(id).iter().any(|desc| held.contains(desc)));
            if holders.len() == before {
                return !holders.is_empty();
            }
        }
    }
}
