//! The input of the planner: what every task must end with, and what makes each resource.
//!
//! A [`Forest`] is an image directory with everything taken away that placement and order need
//! not know. Example: a parent and a child that share a pipe, each keeping one end:
//!
//! ```
//! use regrow_graph::{forest::*, ids::*};
//! let mut forest = Forest::default();
//! let (read, write) = (OfdId(0), OfdId(1));
//! forest.ofds = 2;
//! forest.resources.push(ResourceSpec { yields: vec![Some(read), Some(write)], ..Default::default() });
//! let parent = TaskSpec { pid: 10, pgid: 10, sid: 10, table: vec![Slot { fd: 3, ofd: read, cloexec: false }], ..Default::default() };
//! let child = TaskSpec { pid: 11, parent: Some(TaskId(0)), pgid: 10, sid: 10, table: vec![Slot { fd: 4, ofd: write, cloexec: false }], ..Default::default() };
//! forest.tasks = vec![parent, child];
//! let plan = regrow_graph::order::plan(&forest).unwrap();
//! assert_eq!(plan.owner(ResourceId(0)), Some(TaskId(0)));
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::ids::{Fd, OfdId, ResourceId, StepId, TaskId};
use crate::lists::Lists;
use crate::passing::Passing;

/// All tasks and all that they share.
#[derive(Debug, Clone, Default)]
pub struct Forest {
    /// Tasks: the root first. Further threads of a task stand here, too, as [`Life::Thread`].
    pub tasks: Vec<TaskSpec>,
    /// How many open file descriptions there are; ids run from 0.
    pub ofds: usize,
    /// Resources.
    pub resources: Vec<ResourceSpec>,
    /// Steps, by id.
    pub steps: Vec<StepSpec>,
    /// Descriptor numbers must stay below this (`RLIMIT_NOFILE` while restoring). 0: no limit.
    pub fd_limit: Fd,
    /// What goes over channels instead of being inherited; put there by [`crate::passing::arrange`].
    pub passing: Passing,
}

/// How a task ends up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Life {
    /// It lives on after the restore.
    #[default]
    Lives,
    /// It dies at once and stays for its parent to reap.
    Zombie,
    /// It is there only while the tree is made: it stands in for the dead leader of a session or a
    /// process group, or forks tasks that the kernel gives to another parent when it dies. Who forks
    /// it reaps it.
    Helper,
    /// It is a further thread of its parent, which starts it when it is complete itself. It has no
    /// table, session or group of its own.
    Thread,
}

/// How a task gets the parent that it has in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Descent {
    /// Who forks it is its parent.
    #[default]
    Own,
    /// Who forks it makes it a child of its own parent (`CLONE_PARENT`, clone(2)).
    Sibling,
    /// Who forks it dies, and the kernel gives it to the nearest subreaper above (prctl(2),
    /// `PR_SET_CHILD_SUBREAPER`), which is `by` then.
    Adopted {
        /// The new parent.
        by: TaskId,
    },
}

/// What one task must become.
#[derive(Debug, Clone, Default)]
pub struct TaskSpec {
    /// Its pid.
    pub pid: u32,
    /// Who forks it; `None` for the root. That is its parent, unless `descent` says otherwise.
    pub parent: Option<TaskId>,
    /// How it gets its parent.
    pub descent: Descent,
    /// Process group at the end.
    pub pgid: u32,
    /// Session at the end.
    pub sid: u32,
    /// Whether it lives.
    pub life: Life,
    /// Its descriptor table at the end, sorted by number. Empty where it shares its parent's.
    pub table: Vec<Slot>,
    /// It has the table of who forks it, and not a copy (`CLONE_FILES`, clone(2)).
    pub shares_table: bool,
    /// The directory of the cgroup that it is born in, which who forks it must have open; `None`: its forker's.
    pub born_in: Option<OfdId>,
    /// Steps before anything else; the children inherit what they do.
    pub birth: Vec<StepId>,
    /// Steps before the first fork that need descriptions; the children inherit what they do.
    pub before_forks: Vec<StepId>,
    /// Steps after the last fork, in this order.
    pub steps: Vec<StepId>,
    /// Steps after the start of its further threads.
    pub with_threads: Vec<StepId>,
    /// Steps after the barrier. None of them waits.
    pub tail: Vec<StepId>,
}

/// One slot of a descriptor table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The number.
    pub fd: Fd,
    /// What it refers to.
    pub ofd: OfdId,
    /// Close-on-exec.
    pub cloexec: bool,
}

/// What makes a resource, and what comes out.
#[derive(Debug, Clone, Default)]
pub struct ResourceSpec {
    /// The descriptors that its creation opens, in order, each at the lowest free number and all
    /// open at the end of the creation. `None`: an end that no task has, closed at once.
    /// Empty for what has no descriptor (shared memory, mapped for all tasks below).
    pub yields: Vec<Option<OfdId>>,
    /// Tasks that use it beside those that have one of its descriptions in their table or need
    /// one in a step.
    pub users: Vec<TaskId>,
    /// Work on it that its owner does after its forks (filling shared memory). What these steps
    /// need must come from resources behind this one.
    pub finish: Vec<StepId>,
}

/// A step as the graph sees it.
#[derive(Debug, Clone, Default)]
pub struct StepSpec {
    /// Descriptions that must be open while it runs; it is told their numbers.
    pub needs: Vec<OfdId>,
}

impl Forest {
    /// The resource that each description comes from.
    pub fn resource_of_ofd(&self) -> Vec<Option<ResourceId>> {
        let mut of = vec![None; self.ofds];
        for (index, resource) in self.resources.iter().enumerate() {
            for ofd in resource.yields.iter().flatten() {
                of[ofd.index()] = Some(ResourceId::new(index));
            }
        }
        of
    }

    /// The descriptor table of a task at the end: its own, or the one that it shares with who forks it.
    pub fn table_of(&self, task: TaskId) -> &[Slot] {
        let mut at = &self.tasks[task.index()];
        for _ in 0..self.tasks.len() {
            match at.parent.filter(|_| at.shares_table) {
                Some(forker) => at = &self.tasks[forker.index()],
                None => break,
            }
        }
        &at.table
    }

    /// All tasks, each after who forks it, otherwise in their order. Tasks that nobody forks (there is
    /// a circle above them) are left out.
    pub fn birth_order(&self) -> Vec<TaskId> {
        let forked = Lists::of(self.tasks.len(), || {
            let tasks = self.tasks.iter().enumerate();
            tasks.filter_map(|(index, task)| Some((task.parent?.index(), TaskId::new(index))))
        });
        let mut ready: BinaryHeap<Reverse<TaskId>> = (0..self.tasks.len())
            .map(TaskId::new)
            .filter(|task| self.tasks[task.index()].parent.is_none())
            .map(Reverse)
            .collect();
        let mut order = Vec::with_capacity(self.tasks.len());
        while let Some(Reverse(task)) = ready.pop() {
            order.push(task);
            ready.extend(forked.get(task.index()).iter().copied().map(Reverse));
        }
        order
    }

    /// The parent that each task has in the end.
    pub fn parents(&self) -> Vec<Option<TaskId>> {
        let mut parents = vec![None; self.tasks.len()];
        for task in self.birth_order() {
            let spec = &self.tasks[task.index()];
            parents[task.index()] = match spec.descent {
                Descent::Own => spec.parent,
                Descent::Sibling => spec.parent.and_then(|forker| parents[forker.index()]),
                Descent::Adopted { by } => Some(by),
            };
        }
        parents
    }

    /// Whether the death of each task raises SIGCHLD in its parent. A helper's does only where those
    /// that it forks for its parent are to raise it: they have its exit signal (clone(2)).
    pub fn raises_sigchld(&self) -> Vec<bool> {
        let mut raises: Vec<bool> =
            self.tasks.iter().map(|task| matches!(task.life, Life::Lives | Life::Zombie)).collect();
        for task in self.tasks.iter().filter(|task| task.descent == Descent::Sibling) {
            if let Some(forker) = task.parent {
                raises[forker.index()] = true;
            }
        }
        raises
    }

    /// The tasks that each task forks, in the order of the tasks. Threads are not among them.
    pub fn children(&self) -> Vec<Vec<TaskId>> {
        self.by_parent(|task| task.life != Life::Thread)
    }

    /// The further threads of each task, in their order.
    pub fn threads(&self) -> Vec<Vec<TaskId>> {
        self.by_parent(|task| task.life == Life::Thread)
    }

    fn by_parent(&self, is_wanted: impl Fn(&TaskSpec) -> bool) -> Vec<Vec<TaskId>> {
        let mut lists = vec![Vec::new(); self.tasks.len()];
        for (index, task) in self.tasks.iter().enumerate() {
            if let Some(parent) = task.parent
                && is_wanted(task)
            {
                lists[parent.index()].push(TaskId::new(index));
            }
        }
        lists
    }
}
