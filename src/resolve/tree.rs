//! The shape of the tree: parents, sessions, groups, the dead and the living.

use std::collections::{BTreeMap, BTreeSet};

use regrow_graph::family::Cradle;
use regrow_graph::forest::{Descent, Forest, Life};
use regrow_graph::ids::TaskId;
use regrow_graph::raise::{self, Helper};

use super::problem::ProblemKind;
use super::{Resolver, Role, TaskRecipe};
use crate::image::{NsPid, TaskState};

pub(super) fn resolve(resolver: &mut Resolver<'_>) {
    let model = resolver.model;
    let by_pid: BTreeMap<u32, usize> =
        model.tasks.iter().enumerate().map(|(index, task)| (task.pid.0, index)).collect();
    for (index, task) in model.tasks.iter().enumerate() {
        let parent = by_pid.get(&task.ppid.0).copied();
        match parent {
            None if index == 0 => {}
            Some(parent) if parent < index => resolver.forest.tasks[index].parent = Some(TaskId::new(parent)),
            Some(_) | None => resolver.problems.add(
                ProblemKind::BadImages,
                Some(task.pid),
                Some(task.origin),
                format!("its parent {} does not come before it in the tree", task.ppid),
            ),
        }
        if let Some(parent) = parent
            && model.tasks[parent].alive().is_none()
        {
            let text = format!("its parent {} is dead", task.ppid);
            resolver.problems.add(ProblemKind::BadImages, Some(task.pid), Some(task.origin), text);
        }
        match &task.state {
            TaskState::Alive(_) | TaskState::Stopped(_) => {}
            TaskState::Zombie { exit_code, .. } => {
                resolver.forest.tasks[index].life = Life::Zombie;
                if exit_code & 0x80 != 0 {
                    let text = format!(
                        "a zombie that dumped core (exit status {exit_code:#x}) cannot be made again"
                    );
                    resolver.problems.unsupported(Some(task.pid), Some(task.core_origin), text);
                }
                if index == 0 {
                    resolver.problems.add(
                        ProblemKind::BadImages,
                        Some(task.pid),
                        Some(task.origin),
                        "the root is dead",
                    );
                }
            }
        }
    }
}

/// Where the root is born. With `--shell-job` a root that does not lead its session takes the place
/// of who starts the restore: the session (and group, where the root does not lead it) of the
/// images are replaced by the caller's throughout the tree.
pub(super) fn cradle(resolver: &mut Resolver<'_>) -> Cradle {
    let Some(root) = resolver.model.tasks.first() else { return Cradle::default() };
    if root.sid == root.pid {
        return Cradle::default();
    }
    if !resolver.options.shell_job {
        let text = format!(
            "the session leader {} is outside the tree: use --shell-job to put it into the caller's session",
            root.sid
        );
        resolver.problems.unsupported(Some(root.pid), Some(root.origin), text);
        return Cradle::default();
    }
    let (Some(sid), Some(pgid)) = (resolver.facts.own.sid, resolver.facts.own.pgid) else {
        resolver.problems.add(ProblemKind::Lacking, Some(root.pid), None, "our own session is unknown");
        return Cradle::default();
    };
    let is_group_leader = root.pgid == root.pid;
    for task in &mut resolver.forest.tasks {
        if task.sid == root.sid.0 {
            task.sid = sid;
        }
        if !is_group_leader && task.pgid == root.pgid.0 {
            task.pgid = pgid;
        } else if task.pgid == root.sid.0 {
            task.pgid = sid;
        }
    }
    Cradle { sid: Some(sid), pgid: Some(pgid) }
}

/// Decides who forks whom, and adds the helper tasks that this takes: for sessions and process groups
/// whose leaders have died and been reaped, and for orphans ([`raise`]).
pub(super) fn raise(resolver: &mut Resolver<'_>, cradle: &Cradle) {
    let count = resolver.forest.tasks.len();
    let pids = &resolver.facts.pids;
    let helpers = raise::raise(&mut resolver.forest, *cradle, &mut pids.spare.iter().map(|pid| pid.0));
    let tids: BTreeSet<NsPid> = resolver
        .model
        .tasks
        .iter()
        .filter_map(|task| task.alive())
        .flat_map(|alive| alive.threads.iter().map(|thread| thread.tid))
        .collect();
    let raises_sigchld = resolver.forest.raises_sigchld();
    for helper in helpers {
        let because_of = &resolver.recipes.tasks[helper.because_of.index()];
        let (member, origin) = (because_of.pid, because_of.origin);
        let pid = NsPid(resolver.forest.tasks[helper.task.index()].pid);
        if tids.contains(&pid) {
            let text =
                format!("its session or process group {pid} is the number of a thread that leads none");
            resolver.problems.add(ProblemKind::BadImages, Some(member), Some(origin), text);
        }
        if let Some(taken) = pids.taken_by_absent_leaders.get(&pid).filter(|_| helper.stands_in) {
            let comm = taken.comm.as_deref().unwrap_or("?");
            let is_session = resolver.forest.tasks[helper.task.index()].sid == pid.0;
            let what = if is_session { "session" } else { "process group" };
            let text = format!("pid {pid}, its {what}, is in use ({comm})");
            resolver.problems.add(ProblemKind::PidTaken, Some(member), Some(origin), text);
        }
        add_recipe(resolver, &helper, raises_sigchld[helper.task.index()]);
    }
    let parents = resolver.forest.parents();
    for index in 0..resolver.forest.tasks.len() {
        let spec = &resolver.forest.tasks[index];
        if spec.descent == Descent::Sibling && index < count {
            resolver.recipes.tasks[index].role = Role::Sibling;
        }
        if let Descent::Adopted { by } = spec.descent {
            resolver.adopters.insert(by);
        }
        // While a child with SIGCHLD dies, the parent that it has then must not ignore it.
        let is_dying = matches!(spec.life, Life::Zombie | Life::Helper) && raises_sigchld[index];
        let so_far = spec.parent.filter(|_| matches!(spec.descent, Descent::Adopted { .. }));
        for parent in parents[index].into_iter().chain(so_far).filter(|_| is_dying) {
            resolver.zombie_parents.insert(resolver.model.tasks[inherits_from(resolver, parent).index()].pid);
        }
    }
}

/// What the operations of a helper need beside the plan.
pub(super) fn add_recipe(resolver: &mut Resolver<'_>, helper: &Helper, raises_sigchld: bool) {
    let because_of = &resolver.recipes.tasks[helper.because_of.index()];
    let (origin, pid) = (because_of.origin, NsPid(resolver.forest.tasks[helper.task.index()].pid));
    resolver.recipes.tasks.push(TaskRecipe {
        pid,
        comm: "helper".to_owned(),
        exit_code: Some(0),
        role: Role::Helper { raises_sigchld },
        cwd: None,
        origin,
        core_origin: origin,
        shares_table: false,
    });
}

/// The task of the images whose attributes and address space a task is born with: who forks it, or where that is a
/// helper, who forked the helper.
pub(crate) fn born_of(forest: &Forest, tasks_of_images: usize, task: TaskId) -> Option<TaskId> {
    let mut at = forest.tasks[task.index()].parent?;
    while at.index() >= tasks_of_images {
        let Some(above) = forest.tasks[at.index()].parent else { break };
        at = above;
    }
    Some(at)
}

/// The task of the images that stands for one: itself, or who forked it.
fn inherits_from(resolver: &Resolver<'_>, task: TaskId) -> TaskId {
    let count = resolver.model.tasks.len();
    if task.index() < count { task } else { born_of(&resolver.forest, count, task).unwrap_or(task) }
}
