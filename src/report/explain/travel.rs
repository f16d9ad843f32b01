//! Where a description is while the programs run: read off the operations, task by task.

use std::collections::{BTreeMap, BTreeSet};

use regrow_graph::graph::OpKind;
use regrow_graph::ids::{Fd, OfdId, OpId, TaskId};
use regrow_graph::passing::Message;

use super::{Explainer, Holder, Making, OfdCosts, Stay, Table};

/// A task on the way of a description.
#[derive(Debug, Default)]
struct Visit {
    born_with: BTreeSet<Fd>,
    acts: Vec<OpId>,
    hands_to: Vec<(TaskId, BTreeSet<Fd>)>,
    ends_with: BTreeSet<Fd>,
}

/// The way of a description through all tasks that ever have it.
#[derive(Debug, Default)]
pub(super) struct Travel {
    /// In the order of births.
    visits: Vec<(TaskId, Visit)>,
}

impl Travel {
    pub(super) fn of(explainer: &Explainer<'_>, ofd: OfdId) -> Travel {
        let prepared = explainer.prepared;
        let forest = &prepared.resolved.forest;
        let Some(resource) = forest.resource_of_ofd()[ofd.index()] else { return Travel::default() };
        let Some(owner) = prepared.plan.owner(resource) else { return Travel::default() };
        let yields = &forest.resources[resource.index()].yields;
        let mut travel = Travel::default();
        // Those who receive it are not always below who makes it.
        let receives = |task: &TaskId| {
            explainer
                .ops(*task)
                .any(|(_, kind)| matches!(kind, OpKind::Receive { ofds, .. } if ofds.contains(&ofd)))
        };
        let mut receivers = forest.birth_order();
        receivers.retain(receives);
        receivers.reverse();
        let mut seen = BTreeSet::new();
        let mut to_come = std::collections::VecDeque::from([(owner, BTreeSet::new())]);
        while let Some((task, born_with)) =
            to_come.pop_front().or_else(|| receivers.pop().map(|task| (task, BTreeSet::new())))
        {
            if !seen.insert(task) {
                continue;
            }
            let mut visit = Visit { born_with: born_with.clone(), ..Visit::default() };
            let mut at: BTreeSet<Fd> = born_with;
            // They have what is in it when it is handed on.
            let shares = |child: &TaskId| forest.tasks[child.index()].shares_table;
            let mut sharers = Vec::new();
            for (op, kind) in explainer.ops(task) {
                let before = at.clone();
                let mut concerns = false;
                match kind {
                    OpKind::Create { resource: made, at: fds, .. } if *made == resource => {
                        let own = yields.iter().zip(fds).filter(|(yielded, _)| **yielded == Some(ofd));
                        at.extend(own.map(|(_, fd)| *fd));
                        concerns = true;
                    }
                    OpKind::Dup { from, to, .. } => {
                        if before.contains(from) {
                            at.insert(*to);
                            concerns = true;
                        } else {
                            at.remove(to);
                        }
                    }
                    OpKind::Close { first, last } => at.retain(|fd| !(first..=last).contains(&fd)),
                    OpKind::Step { step, .. } => {
                        concerns = forest.steps[step.index()].needs.contains(&ofd);
                    }
                    OpKind::Fork { child, .. } if shares(child) => sharers.push(*child),
                    OpKind::Turn { begins: false } if !at.is_empty() => {
                        let handed =
                            std::mem::take(&mut sharers).into_iter().map(|child| (child, at.clone()));
                        let handed: Vec<_> = handed.collect();
                        to_come.extend(handed.iter().cloned());
                        visit.hands_to.extend(handed);
                    }
                    OpKind::Fork { child, .. } if !at.is_empty() => {
                        visit.hands_to.push((*child, at.clone()));
                        to_come.push_back((*child, at.clone()));
                    }
                    // It goes on with who takes it, who has not had it before.
                    OpKind::Send { channel, ofds, .. } if ofds.contains(&ofd) => {
                        let is_it =
                            |message: &&Message| message.channel == *channel && message.ofds[..] == ofds[..];
                        let message = forest.passing.messages.iter().find(is_it);
                        let takers = message.into_iter().flat_map(|message| &message.takers);
                        to_come.extend(takers.map(|taker| (*taker, BTreeSet::new())));
                        concerns = true;
                    }
                    OpKind::Receive { ofds, at: fds, .. } => {
                        let own = ofds.iter().zip(fds).filter(|(received, _)| **received == ofd);
                        at.extend(own.map(|(_, fd)| *fd));
                    }
                    OpKind::Create { .. }
                    | OpKind::Send { .. }
                    | OpKind::Stage { .. }
                    | OpKind::Turn { .. }
                    | OpKind::Fork { .. }
                    | OpKind::StartThread { .. }
                    | OpKind::SetCloexec { .. }
                    | OpKind::SetSid
                    | OpKind::SetPgid { .. }
                    | OpKind::BecomeSubreaper
                    | OpKind::AwaitExit { .. }
                    | OpKind::EatSigchld
                    | OpKind::Exit
                    | OpKind::Arrive
                    | OpKind::Park => {}
                }
                if concerns || at != before {
                    visit.acts.push(op);
                }
            }
            visit.ends_with = at;
            travel.visits.push((task, visit));
        }
        travel
    }

    /// All operations that concern it.
    pub(super) fn ops(&self) -> impl Iterator<Item = OpId> + '_ {
        self.visits.iter().flat_map(|(_, visit)| visit.acts.iter().copied())
    }

    /// The way in pids and words: to one task, or to all that have it.
    pub(super) fn way(&self, explainer: &Explainer<'_>, to: Option<TaskId>) -> Vec<Stay> {
        let on_the_way = to.map(|task| above(explainer, task));
        let sends = |op: &OpId| matches!(explainer.prepared.plan.graph.op(*op).kind, OpKind::Send { .. });
        let senders: BTreeSet<TaskId> = self
            .visits
            .iter()
            .filter(|(_, visit)| visit.acts.iter().any(sends))
            .map(|(task, _)| *task)
            .collect();
        let is_shown = |task: &TaskId| {
            on_the_way.as_ref().is_none_or(|tasks| tasks.contains(task) || senders.contains(task))
        };
        let holder =
            |(task, fds): &(TaskId, BTreeSet<Fd>)| Holder { pid: explainer.pid(*task), fds: list(fds) };
        self.visits
            .iter()
            .filter(|(task, _)| is_shown(task))
            .map(|(task, visit)| Stay {
                pid: explainer.pid(*task),
                born_with: list(&visit.born_with),
                acts: visit.acts.iter().map(|op| explainer.act(*op)).collect(),
                hands_to: visit.hands_to.iter().filter(|(task, _)| is_shown(task)).map(holder).collect(),
                ends_with: list(&visit.ends_with),
            })
            .collect()
    }

    pub(super) fn costs(&self, explainer: &Explainer<'_>, making: Option<&Making>) -> OfdCosts {
        let mut costs = OfdCosts {
            making_ns: making.and_then(|making| making.made.as_ref()).map_or(0, |act| act.cost_ns),
            ..OfdCosts::default()
        };
        for (_, visit) in &self.visits {
            for op in &visit.acts {
                let cost_ns = explainer.priced.op_ns(*op);
                let sum = match explainer.prepared.plan.graph.op(*op).kind {
                    OpKind::Dup { .. } => &mut costs.moving_ns,
                    OpKind::Close { .. } => &mut costs.closing_ns,
                    _ => continue,
                };
                *sum = sum.saturating_add(cost_ns);
            }
            let copies = visit.born_with.len() as u64;
            costs.copies += copies;
            if visit.ends_with.is_empty() {
                costs.only_passed_through += copies;
            }
        }
        costs.copying_ns = explainer.prepared.costs.inherit(1, costs.copies);
        costs
    }
}

/// A task and all those above it that fork one another.
fn above(explainer: &Explainer<'_>, task: TaskId) -> BTreeSet<TaskId> {
    let forest = &explainer.prepared.resolved.forest;
    std::iter::successors(Some(task), |task| forest.tasks[task.index()].parent)
        .take(forest.tasks.len())
        .collect()
}

fn list(fds: &BTreeSet<Fd>) -> Vec<Fd> {
    fds.iter().copied().collect()
}

/// What is open in a task at its birth.
pub(super) fn table_at_birth(explainer: &Explainer<'_>, task: TaskId) -> Table {
    let forest = &explainer.prepared.resolved.forest;
    let mut chain: Vec<TaskId> = above(explainer, task).into_iter().collect();
    let depth: BTreeMap<TaskId, usize> =
        chain.iter().map(|task| (*task, above(explainer, *task).len())).collect();
    chain.sort_by_key(|task| depth[task]);
    let mut table = Table::new();
    let shares = |child: &TaskId| forest.tasks[child.index()].shares_table;
    for (forker, child) in chain.iter().zip(chain.iter().skip(1)) {
        for (_, kind) in explainer.ops(*forker) {
            match kind {
                OpKind::Fork { child: born, .. } if born == child && !shares(child) => break,
                OpKind::Turn { begins: false } if shares(child) => break,
                OpKind::Create { resource, at, .. } => {
                    let yields = &forest.resources[resource.index()].yields;
                    table.extend(at.iter().copied().zip(yields.iter().copied()));
                }
                OpKind::Receive { ofds, at, .. } => {
                    table.extend(at.iter().copied().zip(ofds.iter().copied().map(Some)));
                }
                OpKind::Dup { ofd, to, .. } => drop(table.insert(*to, *ofd)),
                OpKind::Close { first, last } => table.retain(|fd, _| !(first..=last).contains(&fd)),
                OpKind::Fork { .. }
                | OpKind::StartThread { .. }
                | OpKind::Send { .. }
                | OpKind::Stage { .. }
                | OpKind::Turn { .. }
                | OpKind::SetCloexec { .. }
                | OpKind::SetSid
                | OpKind::SetPgid { .. }
                | OpKind::BecomeSubreaper
                | OpKind::Step { .. }
                | OpKind::AwaitExit { .. }
                | OpKind::EatSigchld
                | OpKind::Exit
                | OpKind::Arrive
                | OpKind::Park => {}
            }
        }
    }
    table
}
