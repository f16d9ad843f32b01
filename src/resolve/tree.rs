//! The shape of the tree: parents, sessions, groups, the dead and the living.

use std::collections::BTreeMap;

use regrow_graph::family::Cradle;
use regrow_graph::forest::Life;
use regrow_graph::ids::TaskId;

use super::Resolver;
use super::problem::ProblemKind;
use crate::image::TaskState;

pub(super) fn resolve(resolver: &mut Resolver<'_>) {
    let model = resolver.model;
    let by_pid: BTreeMap<u32, usize> = model.tasks.iter().enumerate().map(|(index, task)| (task.pid.0, index)).collect();
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
                    let text = format!("a zombie that dumped core (exit status {exit_code:#x}) cannot be made again");
                    resolver.problems.unsupported(Some(task.pid), Some(task.core_origin), text);
                }
                if index == 0 {
                    resolver.problems.add(ProblemKind::BadImages, Some(task.pid), Some(task.origin), "the root is dead");
                }
            }
        }
    }
    share_check(resolver);
}

/// Tasks of which one has the other's descriptor table, address space, working directory or
/// handlers need `CLONE_FILES` and its like.
fn share_check(resolver: &mut Resolver<'_>) {
    let mut first: BTreeMap<(&str, u32), (u32, usize)> = BTreeMap::new();
    for (index, task) in resolver.model.tasks.iter().enumerate() {
        let Some(alive) = task.alive() else { continue };
        let ids = alive.ids;
        for (what, id) in [
            ("descriptor table", ids.files),
            ("address space", ids.vm),
            ("working directory (CLONE_FS)", ids.fs),
            ("signal handlers", ids.sighand),
        ] {
            if id == 0 {
                continue;
            }
            if let Some((other, _)) = first.insert((what, id), (task.pid.0, index)) {
                let text = format!("shares its {what} with task {other}: not restored yet");
                resolver.problems.unsupported(Some(task.pid), Some(task.core_origin), text);
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
        let text = format!("the session leader {} is outside the tree: use --shell-job to put it into the caller's session", root.sid);
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
