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

use crate::ids::{Fd, OfdId, ResourceId, StepId, TaskId};

/// All tasks and all that they share.
#[derive(Debug, Clone, Default)]
pub struct Forest {
    /// Tasks: the root first, parents before their children. Further threads of a task stand here,
    /// too, as [`Life::Thread`].
    pub tasks: Vec<TaskSpec>,
    /// How many open file descriptions there are; ids run from 0.
    pub ofds: usize,
    /// Resources.
    pub resources: Vec<ResourceSpec>,
    /// Steps, by id.
    pub steps: Vec<StepSpec>,
    /// Descriptor numbers must stay below this (`RLIMIT_NOFILE` while restoring). 0: no limit.
    pub fd_limit: Fd,
}

/// How a task ends up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Life {
    /// It lives on after the restore.
    #[default]
    Lives,
    /// It dies at once and stays for its parent to reap.
    Zombie,
    /// It only founds its process group, whose leader had died, and dies when the members have
    /// joined. Its parent reaps it.
    Helper,
    /// It is a further thread of its parent, which starts it when it is complete itself. It has no
    /// table, session or group of its own.
    Thread,
}

/// What one task must become.
#[derive(Debug, Clone, Default)]
pub struct TaskSpec {
    /// Its pid.
    pub pid: u32,
    /// Its parent, `None` for the root.
    pub parent: Option<TaskId>,
    /// Process group at the end.
    pub pgid: u32,
    /// Session at the end.
    pub sid: u32,
    /// Whether it lives.
    pub life: Life,
    /// Its descriptor table at the end, sorted by number.
    pub table: Vec<Slot>,
    /// Steps before anything else; the children inherit what they do.
    pub birth: Vec<StepId>,
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

    /// The children of each task, in the order of the tasks. Threads are not children.
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
