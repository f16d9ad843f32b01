//! Why a plan is as it is, seen from one task, one descriptor, one description or one shared memory segment.
//!
//! Everything is read off the plan: who makes it and why there, how it travels to whom and under which numbers,
//! what it waits for and what waits for it, and what it costs by the model. [`text`] is for reading,
//! [`Explanation`] for programs.
//!
//! Worked example: `fd 4713 3` of a pipe that 4711 made for its child 4713 says that 4711 makes it because both use
//! it, at which numbers it is when 4713 is forked, and that it stays where it is.

use std::collections::{BTreeMap, BTreeSet};

use regrow_graph::forest::{Descent, Life};
use regrow_graph::graph::{OpKind, Reason};
use regrow_graph::ids::{Fd, OfdId, OpId, ResourceId, TaskId};
use regrow_graph::order::Item;
use serde::Serialize;
use thiserror::Error;

use super::plan::{PlanResource, resources};
use super::{describe, words};
use crate::cost::Priced;
use crate::image::{Origin, VmaKind};
use crate::pipeline::Prepared;
use crate::resolve::Role;
use crate::resolve::recipe::{ResourceKind, StepKind};
use crate::tape::lift::LiftError;

mod travel;
mod write;

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

/// An explanation.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// [`FORMAT`].
    pub format: &'static str,
    /// What it is of.
    #[serde(flatten)]
    pub about: About,
}

/// What is explained.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum About {
    /// A task.
    Task(Box<TaskStory>),
    /// A description, seen from a task or from nobody.
    Description(Box<OfdStory>),
    /// Shared memory.
    SharedMemory(Box<ShmStory>),
}

/// A task.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct TaskStory {
    pub pid: u32,
    pub comm: String,
    /// What it is, in words.
    pub role: &'static str,
    /// Who makes it; `None`: the launcher.
    pub born_by: Option<u32>,
    /// Its parent in the end.
    pub parent: Option<u32>,
    /// Why by whom, and why then.
    pub birth: Vec<String>,
    /// How it gets into its session and its group.
    pub family: Vec<String>,
    /// How it gets its memory.
    pub memory: Option<&'static str>,
    /// What is open when it is born.
    pub inherits: Vec<Inherited>,
    /// What it makes.
    pub creates: Vec<Act>,
    /// What it moves to other numbers.
    pub moves: Vec<Act>,
    /// What it closes.
    pub drops: Vec<Act>,
    /// Whom it forks, and which threads it starts.
    pub forks: Vec<u32>,
    pub waits_for: Vec<Meeting>,
    pub awaited_by: Vec<Meeting>,
    pub records: u32,
    /// By the model: all its records, and its birth.
    pub work_ns: u64,
    /// Of the critical path up to the barrier, how much is this task's.
    pub on_critical_path_ns: u64,
    pub origin: Origin,
}

/// A descriptor that a task is born with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inherited {
    /// Its number.
    pub fd: Fd,
    /// What it is.
    pub what: String,
    /// What becomes of it.
    pub then: String,
}

/// Something that a task does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Act {
    /// The operation.
    pub op: OpId,
    /// Of this task.
    pub pid: u32,
    /// In words.
    pub what: String,
    /// Why; empty: it just follows.
    pub because: String,
    /// What it costs by the model.
    pub cost_ns: u64,
}

/// A wait of one task for another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Meeting {
    /// Who waits.
    pub waits: u32,
    /// Before doing this.
    pub before: String,
    /// For whom.
    pub whom: u32,
    /// To have done this.
    pub done: String,
    /// Why.
    pub because: String,
}

/// Who makes something, and why there.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Making {
    pub resource: ResourceId,
    pub kind: &'static str,
    pub name: String,
    /// Pid of who makes it.
    pub owner: u32,
    /// Why there.
    pub because: Vec<String>,
    /// The operation that makes it.
    pub made: Option<Act>,
    pub origin: Origin,
}

/// A description.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct OfdStory {
    /// In the images.
    pub id: u32,
    /// The task and the number that were asked for.
    pub seen_from: Option<(u32, Fd)>,
    /// The image entry.
    pub origin: Origin,
    /// `None`: nobody has it.
    pub making: Option<Making>,
    /// Who has it in the end, and where.
    pub holders: Vec<Holder>,
    /// How it gets to them: each task on the way, parents first.
    pub way: Vec<Stay>,
    pub waits_for: Vec<Meeting>,
    pub awaited_by: Vec<Meeting>,
    pub costs: OfdCosts,
}

/// Who has a description in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Pid.
    pub pid: u32,
    /// At which numbers.
    pub fds: Vec<Fd>,
}

/// A description in a task on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stay {
    /// The task.
    pub pid: u32,
    /// The numbers that it is born with; empty in the task that makes it.
    pub born_with: Vec<Fd>,
    /// What it does with it.
    pub acts: Vec<Act>,
    /// Which children it hands it down to, and under which numbers.
    pub hands_to: Vec<Holder>,
    /// Where it has it in the end; empty: no more.
    pub ends_with: Vec<Fd>,
}

/// What a description costs by the model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct OfdCosts {
    /// Making it, with all that is made together with it.
    pub making_ns: u64,
    /// Moving it to other numbers.
    pub moving_ns: u64,
    /// Closing it where it is not wanted; calls that close others, too, in full.
    pub closing_ns: u64,
    /// How many times a fork copies it.
    pub copies: u64,
    /// All these copies.
    pub copying_ns: u64,
    /// Copies in tasks that do not have it in the end.
    pub only_passed_through: u64,
}

/// Shared memory.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct ShmStory {
    pub id: u64,
    pub making: Making,
    /// Where it is mapped for all below the owner, until the end.
    pub carried_at: u64,
    pub len_bytes: u64,
    /// The steps that fill it.
    pub fills: Vec<Act>,
    /// Its views.
    pub views: Vec<View>,
    /// Tasks that have the carrier only because it passes through them, or was there when they were born.
    pub passed_through: Vec<u32>,
    pub waits_for: Vec<Meeting>,
    pub awaited_by: Vec<Meeting>,
    /// Making, filling and viewing it, by the model.
    pub cost_ns: u64,
}

/// A view of shared memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct View {
    /// Who maps it.
    pub pid: u32,
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub len_bytes: u64,
    /// From where in the segment.
    pub offset_bytes: u64,
    /// The step.
    pub act: Act,
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
            let table = &prepared.resolved.forest.tasks[task.index()].table;
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

    fn task(&self, task: TaskId) -> TaskStory {
        let prepared = self.prepared;
        let forest = &prepared.resolved.forest;
        let spec = &forest.tasks[task.index()];
        let recipe = &prepared.resolved.recipes.tasks[task.index()];
        let pid = recipe.pid.0;
        let own: BTreeSet<OpId> = self.ops(task).map(|(op, _)| op).collect();
        let (waits_for, awaited_by) = self.meetings(&own);
        let acts = |is_wanted: fn(&OpKind) -> bool| -> Vec<Act> {
            self.ops(task).filter(|(_, kind)| is_wanted(kind)).map(|(op, _)| self.act(op)).collect()
        };
        let forks = self.ops(task).filter_map(|(_, kind)| match kind {
            OpKind::Fork { child } | OpKind::StartThread { thread: child } => Some(self.pid(*child)),
            _ => None,
        });
        let prediction = self.priced.predict(prepared.cores);
        TaskStory {
            pid,
            comm: recipe.comm.clone(),
            role: match recipe.role {
                Role::Task | Role::Sibling if spec.life == Life::Zombie => "zombie",
                Role::Task | Role::Sibling => "task",
                Role::Thread => "thread",
                Role::Helper { .. } => "helper task",
            },
            born_by: spec.parent.map(|parent| self.pid(parent)),
            parent: forest.parents()[task.index()].map(|parent| self.pid(parent)),
            birth: self.birth(task),
            family: self.family(task),
            memory: self.memory(task),
            inherits: self.inherits(task),
            creates: acts(|kind| matches!(kind, OpKind::Create { .. })),
            moves: acts(|kind| matches!(kind, OpKind::Dup { .. } | OpKind::SetCloexec { .. })),
            drops: acts(|kind| matches!(kind, OpKind::Close { .. })),
            forks: forks.collect(),
            waits_for,
            awaited_by,
            records: prepared.tapes.tasks.get(task.index()).map_or(0, |tape| tape.records),
            work_ns: self.priced.task_ns(pid),
            on_critical_path_ns: prediction
                .path
                .iter()
                .filter(|leg| leg.pid == pid)
                .fold(0, |sum, leg| sum.saturating_add(leg.time_ns)),
            origin: recipe.origin,
        }
    }

    /// Who forks it and why, and its place among those that its forker forks.
    fn birth(&self, task: TaskId) -> Vec<String> {
        let prepared = self.prepared;
        let forest = &prepared.resolved.forest;
        let spec = &forest.tasks[task.index()];
        let recipe = &prepared.resolved.recipes.tasks[task.index()];
        let Some(forker) = spec.parent else {
            return vec!["the launcher clones it: it is the root".to_owned()];
        };
        let by = self.pid(forker);
        let parents = forest.parents();
        let parent = parents[task.index()].map(|parent| self.pid(parent));
        let mut lines = Vec::new();
        lines.push(match (recipe.role, spec.descent) {
            (Role::Thread, _) => format!("{by} starts it when the task is complete: it is a thread of it"),
            (Role::Helper { .. }, _) => {
                let for_whom: Vec<u32> = self.prepared.resolved.forest.children()[task.index()]
                    .iter()
                    .map(|child| self.pid(*child))
                    .collect();
                match for_whom.as_slice() {
                    [] => format!("{by} forks it: it stands in for a leader that is dead, and dies"),
                    pids => format!(
                        "{by} forks it to fork {}, and it dies: it is in session {}, in which {by} is not",
                        words::numbers(pids, 8),
                        spec.sid
                    ),
                }
            }
            (Role::Task | Role::Sibling, Descent::Own) => format!("{by} forks it: it is its parent"),
            (Role::Task | Role::Sibling, Descent::Sibling) => format!(
                "{by} forks it as a child of {}: its parent is not in session {}, and {by} is",
                parent.unwrap_or(0),
                spec.sid
            ),
            (Role::Task | Role::Sibling, Descent::Adopted { by: adopter }) => format!(
                "{by} forks it in session {} and dies; the kernel then gives it to {}, the next subreaper above",
                spec.sid,
                self.pid(adopter)
            ),
        });
        let siblings: Vec<(OpId, u32)> = self
            .ops(forker)
            .filter_map(|(op, kind)| match kind {
                OpKind::Fork { child } | OpKind::StartThread { thread: child } => {
                    Some((op, self.pid(*child)))
                }
                _ => None,
            })
            .collect();
        let Some(at) = siblings.iter().position(|(_, pid)| *pid == recipe.pid.0) else { return lines };
        let neighbour = |at: Option<usize>| at.and_then(|at| siblings.get(at)).map(|(_, pid)| *pid);
        let place = match (neighbour(at.checked_sub(1)), neighbour(at.checked_add(1))) {
            (None, None) => "the only one that it forks".to_owned(),
            (None, Some(next)) => format!("the first of {}, before {next}", siblings.len()),
            (Some(before), None) => format!("the last of {}, after {before}", siblings.len()),
            (Some(before), Some(next)) => {
                format!("number {} of {}, after {before} and before {next}", at + 1, siblings.len())
            }
        };
        let op = siblings[at].0;
        let why = describe::why(prepared, prepared.plan.graph.op(op).why);
        let why = if why.is_empty() { "siblings come in the order of the images".to_owned() } else { why };
        lines.push(format!("{place}: {why} ({op}, {})", words::time_ns(self.priced.op_ns(op))));
        lines
    }

    fn family(&self, task: TaskId) -> Vec<String> {
        let forest = &self.prepared.resolved.forest;
        let spec = &forest.tasks[task.index()];
        if spec.life == Life::Thread {
            return Vec::new();
        }
        let mut lines = Vec::new();
        let leads = self.ops(task).find(|(_, kind)| **kind == OpKind::SetSid);
        lines.push(match leads {
            Some((op, _)) => format!("session {}: it founds it ({op})", spec.sid),
            None => format!("session {}: born in it", spec.sid),
        });
        let group = self.ops(task).find_map(|(op, kind)| match kind {
            OpKind::SetPgid { pgid } => Some((op, *pgid)),
            _ => None,
        });
        lines.push(match group {
            Some((op, pgid)) if pgid == spec.pid => format!("group {pgid}: it founds it ({op})"),
            Some((op, pgid)) => {
                let why = describe::why(self.prepared, self.prepared.plan.graph.op(op).why);
                let why = if why.is_empty() { "after its forks".to_owned() } else { why };
                format!("group {pgid}: it joins it, {why} ({op})")
            }
            None if leads.is_some() => format!("group {}: with the session", spec.pgid),
            None => format!("group {}: born in it", spec.pgid),
        });
        lines
    }

    fn memory(&self, task: TaskId) -> Option<&'static str> {
        let resolved = &self.prepared.resolved;
        let spec = &resolved.forest.tasks[task.index()];
        if spec.life != Life::Lives {
            return None;
        }
        let is_early = !spec.before_forks.is_empty();
        Some(match (resolved.heirs.contains(&task), is_early) {
            (true, true) => "keeps its parent's, changes what differs, and hands it down to its children",
            (true, false) => "keeps its parent's and changes what differs",
            (false, true) => "maps and fills it before it forks: its children keep it",
            (false, false) => "maps and fills it after its forks",
        })
    }

    /// What is open at its birth, and what becomes of it.
    fn inherits(&self, task: TaskId) -> Vec<Inherited> {
        let forest = &self.prepared.resolved.forest;
        let spec = &forest.tasks[task.index()];
        if spec.life == Life::Thread {
            return Vec::new();
        }
        let below: BTreeSet<OfdId> = self.wanted_below(task);
        let steps = self.ops(task).filter_map(|(_, kind)| match kind {
            OpKind::Step { step, .. } => Some(&forest.steps[step.index()].needs),
            _ => None,
        });
        let in_steps: BTreeSet<OfdId> = steps.flatten().copied().collect();
        let of_ofd = forest.resource_of_ofd();
        table_at_birth(self, task)
            .into_iter()
            .map(|(fd, ofd)| {
                let what = ofd
                    .and_then(|ofd| of_ofd[ofd.index()])
                    .map_or_else(|| "nobody's end".to_owned(), |r| describe::resource_name(self.prepared, r));
                let wanted: Vec<Fd> =
                    spec.table.iter().filter(|slot| Some(slot.ofd) == ofd).map(|slot| slot.fd).collect();
                let then = if wanted.contains(&fd) {
                    "stays".to_owned()
                } else if !wanted.is_empty() {
                    format!("wanted at {}", words::numbers(&wanted, 8))
                } else if ofd.is_some_and(|ofd| below.contains(&ofd)) {
                    "for tasks below, then closed".to_owned()
                } else if ofd.is_some_and(|ofd| in_steps.contains(&ofd)) {
                    "for its steps, then closed".to_owned()
                } else if spec.life != Life::Lives {
                    "goes with the task".to_owned()
                } else {
                    "closed: not wanted here or below".to_owned()
                };
                Inherited { fd, what, then }
            })
            .collect()
    }

    /// What tasks below have in their tables.
    fn wanted_below(&self, task: TaskId) -> BTreeSet<OfdId> {
        let forest = &self.prepared.resolved.forest;
        let children = forest.children();
        let mut below = children[task.index()].clone();
        let mut wanted = BTreeSet::new();
        while let Some(next) = below.pop() {
            wanted.extend(forest.tasks[next.index()].table.iter().map(|slot| slot.ofd));
            below.extend(&children[next.index()]);
        }
        wanted
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
                OpKind::Fork { child } if ways.contains(child) => Some(self.pid(*child)),
                _ => None,
            })
            .last()
    }

    fn description(&self, ofd: OfdId, seen_from: Option<(TaskId, Fd)>) -> OfdStory {
        let prepared = self.prepared;
        let forest = &prepared.resolved.forest;
        let image = &prepared.model.ofds;
        let mut holders = Vec::new();
        for (index, task) in forest.tasks.iter().enumerate() {
            let fds: Vec<Fd> = task.table.iter().filter(|slot| slot.ofd == ofd).map(|slot| slot.fd).collect();
            if !fds.is_empty() {
                holders.push(Holder { pid: self.pid(TaskId::new(index)), fds });
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

    fn shared_memory(&self, id: u64) -> Result<ShmStory, ExplainError> {
        let prepared = self.prepared;
        let vmas = || {
            let tasks = prepared.model.tasks.iter();
            tasks.flat_map(|task| {
                let vmas = task.alive().map(|alive| alive.mm.vmas.as_slice()).unwrap_or_default();
                vmas.iter().filter_map(move |vma| match vma.kind {
                    VmaKind::AnonShared { shmid, offset_bytes } => Some((task, vma, shmid, offset_bytes)),
                    _ => None,
                })
            })
        };
        // A carrier comes from the first mapping of its segment.
        let first = vmas().find(|(_, _, shmid, _)| *shmid == id).map(|(_, vma, _, _)| vma.origin);
        let carrier = prepared.resolved.recipes.resources.iter().enumerate().find_map(|(index, recipe)| {
            match recipe.kind {
                ResourceKind::Carrier { address, len, .. } if Some(recipe.origin) == first => {
                    Some((ResourceId::new(index), address, len))
                }
                _ => None,
            }
        });
        let known = carrier
            .and_then(|(resource, address, len)| Some((resource, address, len, self.making(resource)?)));
        let Some((resource, address, len, making)) = known else {
            let ids: BTreeSet<u64> = vmas().map(|(_, _, shmid, _)| shmid).collect();
            let ids: Vec<String> = ids.iter().take(20).map(|id| format!("{id:#x}")).collect();
            let there = if ids.is_empty() {
                "there is none".to_owned()
            } else {
                format!("there are {}", ids.join(", "))
            };
            return Err(ExplainError::NoShm { id, there });
        };
        let recipes = &prepared.resolved.recipes;
        let graph = &prepared.plan.graph;
        let finish: BTreeSet<_> =
            prepared.resolved.forest.resources[resource.index()].finish.iter().copied().collect();
        let (mut fills, mut views) = (Vec::new(), Vec::new());
        for op in &prepared.plan.order {
            let node = graph.op(*op);
            let OpKind::Step { step, .. } = &node.kind else { continue };
            if finish.contains(step) {
                fills.push(self.act(*op));
            }
            if let StepKind::MapShared { from, start, len: view_len } = recipes.steps[step.index()].kind
                && (address..address + len).contains(&from)
            {
                views.push(View {
                    pid: self.pid(node.task),
                    start,
                    len_bytes: view_len,
                    offset_bytes: from - address,
                    act: self.act(*op),
                });
            }
        }
        let mut ops: BTreeSet<OpId> =
            fills.iter().chain(views.iter().map(|view| &view.act)).map(|act| act.op).collect();
        ops.extend(making.made.as_ref().map(|act| act.op));
        let (waits_for, awaited_by) = self.meetings(&ops);
        let users: BTreeSet<u32> = views.iter().map(|view| view.pid).collect();
        Ok(ShmStory {
            id,
            carried_at: address,
            len_bytes: len,
            passed_through: self.born_behind(&making, &users),
            cost_ns: ops.iter().fold(0, |sum: u64, op| sum.saturating_add(self.priced.op_ns(*op))),
            making,
            fills,
            views,
            waits_for,
            awaited_by,
        })
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
            if let OpKind::Fork { child } = kind
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
