//! The story of a task.

use std::collections::BTreeSet;

use regrow_graph::forest::{Descent, Life};
use regrow_graph::graph::OpKind;
use regrow_graph::ids::{Fd, OfdId, OpId, TaskId};

use super::super::{describe, words};
use super::{Act, Explainer, Inherited, TaskStory, table_at_birth};
use crate::resolve::Role;

impl Explainer<'_> {
    pub(super) fn task(&self, task: TaskId) -> TaskStory {
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
            OpKind::Fork { child, .. } | OpKind::StartThread { thread: child } => Some(self.pid(*child)),
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
                OpKind::Fork { child, .. } | OpKind::StartThread { thread: child } => {
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
                let table = forest.table_of(task).iter();
                let wanted: Vec<Fd> =
                    table.filter(|slot| Some(slot.ofd) == ofd).map(|slot| slot.fd).collect();
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
}
