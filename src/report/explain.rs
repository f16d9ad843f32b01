//! Why a plan is as it is, seen from one task, one descriptor, one description or one shared memory segment.
//!
//! Everything is read off the plan: who makes it and why there, how it travels to whom and under which numbers,
//! what it waits for and what waits for it, and what it costs by the model. [`text`] is for reading,
//! [`Explanation`] for programs.
//!
//! Worked example: `fd 4713 3` of a pipe that 4711 made for its child 4713 says that 4711 makes it because both use
//! it, at which numbers it is when 4713 is forked, and that it stays where it is.

use std::collections::{BTreeMap, BTreeSet};

use regrow_graph::graph::{OpKind, Reason};
use regrow_graph::ids::{Fd, OfdId, OpId, ResourceId, TaskId};
use regrow_graph::order::Item;
use thiserror::Error;

use super::plan::{PlanResource, resources};
use super::{describe, words};
use crate::cost::Priced;
use crate::pipeline::Prepared;
use crate::tape::lift::LiftError;

mod shm;
mod story;
mod task;
mod travel;
mod write;

pub use story::*;
use travel::{Travel, table_at_birth};
pub use write::text;

/// Name and version of the JSON.
pub const FORMAT: &str = "regrow-explain/1";

/// What is to be explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A task, a thread or a helper.
    Task {
        /// Its pid or tid.
        pid: u32,
    },
    /// A descriptor of a task.
    Fd {
        /// The task.
        pid: u32,
        /// The number.
        fd: Fd,
    },
    /// An open file description.
    Ofd {
        /// Its id in the images.
        id: u32,
    },
    /// A segment of shared anonymous memory.
    Shm {
        /// Its id in the images.
        id: u64,
    },
}

/// Why there is nothing to explain.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExplainError {
    /// There is no such task.
    #[error("no task {pid}: there are {there}")]
    NoTask {
        /// What was asked for.
        pid: u32,
        /// What there is.
        there: String,
    },
    /// The task has no such descriptor.
    #[error("task {pid} has no descriptor {fd}: it has {there}")]
    NoFd {
        /// The task.
        pid: u32,
        /// What was asked for.
        fd: Fd,
        /// What there is.
        there: String,
    },
    /// There is no such description.
    #[error("no open file {id:#x}: there are {there}")]
    NoOfd {
        /// What was asked for.
        id: u32,
        /// What there is.
        there: String,
    },
    /// There is no such segment.
    #[error("no shared memory {id:#x}: {there}")]
    NoShm {
        /// What was asked for.
        id: u64,
        /// What there is.
        there: String,
    },
    /// The tapes have no certificate.
    #[error(transparent)]
    Tapes(#[from] LiftError),
}

/// Explains.
///
/// # Errors
/// There is no such thing in the images: the error names what there is.
pub fn explain(prepared: &Prepared, subject: Subject) -> Result<Explanation, ExplainError> {
    let priced = Priced::of(&prepared.tapes, &prepared.costs)?;
    let explainer = Explainer { prepared, priced, resources: resources(prepared) };
    let about = match subject {
        Subject::Task { pid } => About::Task(Box::new(explainer.task(explainer.find(pid)?))),
        Subject::Fd { pid, fd } => {
            let task = explainer.find(pid)?;
            let table = prepared.resolved.forest.table_of(task);
            let slot = table.iter().find(|slot| slot.fd == fd).ok_or_else(|| {
                let fds: Vec<Fd> = table.iter().map(|slot| slot.fd).collect();
                ExplainError::NoFd { pid, fd, there: listed(&fds) }
            })?;
            About::Description(Box::new(explainer.description(slot.ofd, Some((task, fd)))))
        }
        Subject::Ofd { id } => {
            let ofds = &prepared.model.ofds;
            let at = ofds.iter().position(|ofd| ofd.id == id).ok_or_else(|| {
                let ids: BTreeSet<u32> = ofds.iter().map(|ofd| ofd.id).collect();
                ExplainError::NoOfd { id, there: listed(&ids.into_iter().collect::<Vec<_>>()) }
            })?;
            About::Description(Box::new(explainer.description(OfdId::new(at), None)))
        }
        Subject::Shm { id } => About::SharedMemory(Box::new(explainer.shared_memory(id)?)),
    };
    Ok(Explanation { format: FORMAT, about })
}

/// Numbers for a message.
fn listed(numbers: &[u32]) -> String {
    if numbers.is_empty() { "none".to_owned() } else { words::numbers(numbers, 20) }
}

struct Explainer<'a> {
    prepared: &'a Prepared,
    priced: Priced,
    resources: Vec<PlanResource>,
}

impl Explainer<'_> {
    fn pid(&self, task: TaskId) -> u32 {
        describe::pid(self.prepared, task)
    }

    fn find(&self, pid: u32) -> Result<TaskId, ExplainError> {
        let tasks = &self.prepared.resolved.recipes.tasks;
        tasks.iter().position(|task| task.pid.0 == pid).map(TaskId::new).ok_or_else(|| {
            let pids: BTreeSet<u32> = tasks.iter().map(|task| task.pid.0).collect();
            ExplainError::NoTask { pid, there: listed(&pids.into_iter().collect::<Vec<_>>()) }
        })
    }

    fn act(&self, op: OpId) -> Act {
        let node = self.prepared.plan.graph.op(op);
        Act {
            op,
            pid: self.pid(node.task),
            what: describe::what(self.prepared, op),
            because: describe::why(self.prepared, node.why),
            cost_ns: self.priced.op_ns(op),
        }
    }

    /// The operations of a task, in its order.
    fn ops(&self, task: TaskId) -> impl Iterator<Item = (OpId, &OpKind)> + '_ {
        let plan = &self.prepared.plan;
        plan.programs[task.index()].iter().filter_map(|item| match item {
            Item::Op(op) => Some((*op, &plan.graph.op(*op).kind)),
            Item::Wait(_) | Item::Post(_) => None,
        })
    }

    /// Edges between tasks that end, and that start, at one of `ops`, but for births.
    fn meetings(&self, ops: &BTreeSet<OpId>) -> (Vec<Meeting>, Vec<Meeting>) {
        let graph = &self.prepared.plan.graph;
        let (mut waits_for, mut awaited_by) = (Vec::new(), Vec::new());
        for (before, after, why) in graph.edges() {
            let (first, second) = (graph.op(before), graph.op(after));
            if first.task == second.task || matches!(why, Reason::BornBy { .. }) {
                continue;
            }
            let meeting = || Meeting {
                waits: self.pid(second.task),
                before: describe::what(self.prepared, after),
                whom: self.pid(first.task),
                done: describe::what(self.prepared, before),
                because: describe::why(self.prepared, why),
            };
            if ops.contains(&after) {
                waits_for.push(meeting());
            }
            if ops.contains(&before) {
                awaited_by.push(meeting());
            }
        }
        (waits_for, awaited_by)
    }

    /// Who makes a resource, and why there.
    fn making(&self, resource: ResourceId) -> Option<Making> {
        let prepared = self.prepared;
        let owner = prepared.plan.owner(resource)?;
        let seen = &self.resources[resource.index()];
        let by = self.pid(owner);
        let users: Vec<u32> = seen.users.iter().map(|user| user.pid).collect();
        let others: Vec<u32> = users.iter().copied().filter(|pid| *pid != by).collect();
        let mut because = Vec::new();
        because.push(match (users.len(), others.len()) {
            (1, 0) => "nobody else uses it".to_owned(),
            (1, _) => format!("{} alone uses it", others[0]),
            (all, some) if some < all => {
                format!("{} use it: {by} is one of them, and above the others", words::numbers(&users, 8))
            }
            _ => format!("{} use it: {by} is the lowest task above all of them", words::numbers(&users, 8)),
        });
        let made = self.ops(owner).find_map(|(op, kind)| match kind {
            OpKind::Create { resource: made, .. } if *made == resource => Some(op),
            _ => None,
        });
        let last = self.last_fork_below(owner, &others);
        if let Some(last) = last {
            let keeps = users.contains(&by);
            because.push(format!(
                "it is there until {last} is forked, the last below which it is used{}",
                if keeps { ", and stays" } else { "" }
            ));
        }
        Some(Making {
            resource,
            kind: seen.kind,
            name: seen.name.clone(),
            owner: by,
            because,
            made: made.map(|op| self.act(op)),
            origin: seen.origin,
        })
    }

    /// The last child of `owner` below which one of `users` is.
    fn last_fork_below(&self, owner: TaskId, users: &[u32]) -> Option<u32> {
        let forest = &self.prepared.resolved.forest;
        let ways: BTreeSet<TaskId> = users
            .iter()
            .filter_map(|pid| self.find(*pid).ok())
            .filter_map(|user| {
                let above = std::iter::successors(Some(user), |task| forest.tasks[task.index()].parent);
                above.take(forest.tasks.len()).find(|task| forest.tasks[task.index()].parent == Some(owner))
            })
            .collect();
        self.ops(owner)
            .filter_map(|(_, kind)| match kind {
                OpKind::Fork { child, .. } if ways.contains(child) => Some(self.pid(*child)),
                _ => None,
            })
            .last()
    }

    fn description(&self, ofd: OfdId, seen_from: Option<(TaskId, Fd)>) -> OfdStory {
        let prepared = self.prepared;
        let forest = &prepared.resolved.forest;
        let image = &prepared.model.ofds;
        let mut holders = Vec::new();
        for task in (0..forest.tasks.len()).map(TaskId::new) {
            let table = forest.table_of(task).iter();
            let fds: Vec<Fd> = table.filter(|slot| slot.ofd == ofd).map(|slot| slot.fd).collect();
            if !fds.is_empty() {
                holders.push(Holder { pid: self.pid(task), fds });
            }
        }
        let resource = forest.resource_of_ofd()[ofd.index()];
        let making = resource.and_then(|resource| self.making(resource));
        let travel = Travel::of(self, ofd);
        let ops: BTreeSet<OpId> = travel.ops().collect();
        let (waits_for, awaited_by) = self.meetings(&ops);
        let origin = image.get(ofd.index()).map(|ofd| ofd.origin);
        let task_origin = |(task, _): (TaskId, Fd)| prepared.resolved.recipes.tasks[task.index()].origin;
        OfdStory {
            id: image.get(ofd.index()).map_or(ofd.0, |ofd| ofd.id),
            seen_from: seen_from.map(|(task, fd)| (self.pid(task), fd)),
            origin: origin
                .or(seen_from.map(task_origin))
                .unwrap_or(prepared.resolved.recipes.tasks[0].origin),
            costs: travel.costs(self, making.as_ref()),
            way: travel.way(self, seen_from.map(|(task, _)| task)),
            making,
            holders,
            waits_for,
            awaited_by,
        }
    }

    /// Tasks, other than `users`, that are forked when what is made is there.
    fn born_behind(&self, making: &Making, users: &BTreeSet<u32>) -> Vec<u32> {
        let forest = &self.prepared.resolved.forest;
        let Ok(owner) = self.find(making.owner) else { return Vec::new() };
        let made = making.made.as_ref().map(|act| act.op);
        let mut behind = Vec::new();
        let mut is_there = false;
        let mut below: Vec<TaskId> = Vec::new();
        for (op, kind) in self.ops(owner) {
            is_there |= Some(op) == made;
            if let OpKind::Fork { child, .. } = kind
                && is_there
            {
                below.push(*child);
            }
        }
        let children = forest.children();
        while let Some(task) = below.pop() {
            let pid = self.pid(task);
            if !users.contains(&pid) {
                behind.push(pid);
            }
            below.extend(&children[task.index()]);
        }
        behind.extend(Some(making.owner).filter(|owner| !users.contains(owner)));
        behind.sort_unstable();
        behind
    }
}

/// The table of a task, by number, while its program is read.
type Table = BTreeMap<Fd, Option<OfdId>>;
