//! The shape of the tree: parents, sessions, groups, the dead and the living.

use std::collections::BTreeMap;

use regrow_graph::family::Cradle;
use regrow_graph::forest::{Life, TaskSpec};
use regrow_graph::ids::TaskId;

use super::problem::ProblemKind;
use super::{Resolver, Role, TaskRecipe, family};
use crate::image::{NsPid, TaskState};

pub(super) fn resolve(resolver: &mut Resolver<'_>) {
    let model = resolver.model;
    let by_pid: BTreeMap<u32, usize> =
        model.tasks.iter().enumerate().map(|(index, task)| (task.pid.0, index)).collect();
    let forkers = family::forkers(model);
    for (index, task) in model.tasks.iter().enumerate() {
        let parent = by_pid.get(&task.ppid.0).copied();
        let forker = forkers.get(&task.pid).and_then(|forker| by_pid.get(&forker.0)).copied();
        if forker.is_some() {
            resolver.recipes.tasks[index].role = Role::Sibling;
        }
        match forker.or(parent) {
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

/// Process groups whose leaders have died and been reaped: a helper task founds each, below the
/// leader of its session, and is gone when the members have joined. (The members keep the number of
/// the group from being given away, as they did before the dump.)
pub(super) fn help_groups(resolver: &mut Resolver<'_>, cradle: &Cradle) {
    let by_pid: BTreeMap<u32, usize> =
        resolver.forest.tasks.iter().enumerate().map(|(index, task)| (task.pid, index)).collect();
    let mut missing: BTreeMap<u32, usize> = BTreeMap::new();
    for (index, task) in resolver.forest.tasks.iter().enumerate() {
        if !by_pid.contains_key(&task.pgid) && cradle.pgid != Some(task.pgid) && cradle.sid != Some(task.pgid)
        {
            missing.entry(task.pgid).or_insert(index);
        }
    }
    for (pgid, member) in missing {
        let sid = resolver.forest.tasks[member].sid;
        // A session whose leader cannot fork leaves the group unreachable, which the planner reports.
        let Some(&leader) =
            by_pid.get(&sid).filter(|leader| resolver.forest.tasks[**leader].life == Life::Lives)
        else {
            continue;
        };
        if let Some(taken) = resolver.facts.pids.taken_by_absent_leaders.get(&NsPid(pgid)) {
            let comm = taken.comm.as_deref().unwrap_or("?");
            let text = format!("pid {pgid}, its process group, is in use ({comm})");
            let task = &resolver.recipes.tasks[member];
            resolver.problems.add(ProblemKind::PidTaken, Some(task.pid), Some(task.origin), text);
        }
        let origin = resolver.recipes.tasks[member].origin;
        resolver.forest.tasks.push(TaskSpec {
            pid: pgid,
            parent: Some(TaskId::new(leader)),
            pgid,
            sid,
            life: Life::Helper,
            ..TaskSpec::default()
        });
        resolver.recipes.tasks.push(TaskRecipe {
            pid: NsPid(pgid),
            comm: "helper".to_owned(),
            exit_code: Some(0),
            role: Role::Helper,
            cwd: None,
            origin,
            core_origin: origin,
        });
    }
}
