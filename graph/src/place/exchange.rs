//! What goes over channels: who sends when, who receives when, and what these wait for.
//!
//! A task exchanges after its forks: it makes what it gives, sends all of it, and then receives. The channel's
//! ends are open until then, and closed with all else that is not wanted. Only what a child inherits from who
//! receives it is received before, at the fork that needs it.

use std::collections::BTreeSet;

use super::{Desk, Placer};
use crate::forest::Forest;
use crate::graph::{OpKind, Reason};
use crate::ids::{Fd, OfdId, ResourceId, TaskId};
use crate::table::Move;

/// Whose messages they are, and what has become of them.
pub(super) struct Exchange {
    /// Messages that each task sends, by index, ascending.
    sends: Vec<Vec<usize>>,
    /// Messages that each task receives, by index, ascending.
    receives: Vec<Vec<usize>>,
}

impl Exchange {
    pub(super) fn find(forest: &Forest) -> Exchange {
        let mut exchange = Exchange {
            sends: vec![Vec::new(); forest.tasks.len()],
            receives: vec![Vec::new(); forest.tasks.len()],
        };
        for (index, message) in forest.passing.messages.iter().enumerate() {
            exchange.sends[message.giver.index()].push(index);
            for taker in &message.takers {
                exchange.receives[taker.index()].push(index);
            }
        }
        exchange
    }

    /// The messages that a task receives, by index, ascending.
    pub(super) fn received_by(&self, task: TaskId) -> &[usize] {
        &self.receives[task.index()]
    }

    /// Whether a task sends or receives anything.
    pub(super) fn takes_part(&self, task: TaskId) -> bool {
        !self.sends[task.index()].is_empty() || !self.receives[task.index()].is_empty()
    }
}

impl Placer<'_> {
    /// What a task must have open for its messages beside what it needs itself.
    pub(super) fn held_for_messages(&self, task: TaskId) -> Vec<OfdId> {
        let messages = &self.all.forest.passing.messages;
        let mut held = Vec::new();
        for index in &self.all.exchange.sends[task.index()] {
            held.extend(self.sending_end(messages[*index].channel));
            held.extend(&messages[*index].ofds);
        }
        for index in &self.receives {
            held.extend(self.receiving_end(messages[*index].channel));
        }
        held
    }

    fn sending_end(&self, channel: ResourceId) -> Option<OfdId> {
        self.all.forest.resources[channel.index()].yields.first().copied().flatten()
    }

    fn receiving_end(&self, channel: ResourceId) -> Option<OfdId> {
        self.all.forest.resources[channel.index()].yields.get(1).copied().flatten()
    }

    /// Sends all that the task gives.
    pub(super) fn send_all(&mut self, desk: &Desk) {
        let forest = self.all.forest;
        let task = desk.task;
        for index in &self.all.exchange.sends[task.index()] {
            let message = &forest.passing.messages[*index];
            let number = |ofd: OfdId| desk.table.find(ofd).unwrap_or(Fd::MAX);
            let kind = OpKind::Send {
                channel: message.channel,
                through: self.sending_end(message.channel).map_or(Fd::MAX, number),
                fds: message.ofds.iter().copied().map(number).collect(),
                ofds: message.ofds.as_slice().into(),
            };
            self.part.sent = Some(self.push(kind, Reason::Sequence));
        }
    }

    /// Receives all that the task has not received yet.
    pub(super) fn receive_all(&mut self, desk: &mut Desk) {
        for index in std::mem::take(&mut self.receives) {
            self.receive(desk, index, Reason::Sequence);
        }
    }

    /// Receives what a resource yields, for a child that inherits it.
    pub(super) fn receive_resource(&mut self, desk: &mut Desk, resource: ResourceId, why: Reason) {
        let forest = self.all.forest;
        let yields: BTreeSet<OfdId> = self.all.yields(resource).collect();
        let is_now =
            |index: &usize| forest.passing.messages[*index].ofds.iter().any(|ofd| yields.contains(ofd));
        let now: Vec<usize> = self.receives.iter().copied().filter(is_now).collect();
        self.receives.retain(|index| !is_now(index));
        for index in now {
            self.receive(desk, index, why);
        }
    }

    fn receive(&mut self, desk: &mut Desk, index: usize, why: Reason) {
        let forest = self.all.forest;
        let message = &forest.passing.messages[index];
        let mut at = Vec::with_capacity(message.ofds.len());
        let mut free = 0;
        for ofd in &message.ofds {
            free = desk.table.lowest_free(free);
            self.within_limit(free);
            desk.open(free, Some(*ofd));
            at.push(free);
        }
        // One flag serves all of them: the one that most of those want that are at their places.
        let in_place = at.iter().zip(&message.ofds).filter_map(|(fd, ofd)| {
            desk.wanted(*fd).filter(|slot| slot.ofd == *ofd).map(|slot| slot.cloexec)
        });
        let (on, off): (Vec<bool>, Vec<bool>) = in_place.partition(|cloexec| *cloexec);
        let cloexec = on.len() > off.len();
        for fd in at.iter().filter(|_| cloexec) {
            desk.table.apply(Move::SetCloexec { fd: *fd, cloexec });
        }
        let end = self.receiving_end(message.channel).and_then(|ofd| desk.table.find(ofd));
        let kind = OpKind::Receive {
            channel: message.channel,
            through: end.unwrap_or(Fd::MAX),
            ofds: message.ofds.as_slice().into(),
            at: at.into(),
            cloexec,
            stays: message.takers.len() > 1,
        };
        let op = self.push(kind, why);
        self.part.received.push((index, op));
    }

    /// The end of a stage and the beginning of the next, where there are stages.
    pub(super) fn stage(&mut self, number: u8) {
        if !self.all.forest.passing.is_staged {
            return;
        }
        let ends = self.push(OpKind::Stage { number, begins: false }, Reason::Sequence);
        let next = OpKind::Stage { number: number + 1, begins: true };
        let begins = self.push(next, Reason::Sequence);
        self.part.stages.push((number, ends, begins));
    }
}
