//! Tasks that have a descriptor table in common (`CLONE_FILES`).
//!
//! Such a table is the parent's: the images have it under one number for both, and the planner has it in the parent
//! alone ([`regrow_graph::forest::TaskSpec::shares_table`]). Who shares is forked by its parent with `CLONE_FILES`; nothing else makes
//! two tasks share a table, so those that do are parents and children as long as no parent has died or given its own up.
//!
//! Example: 10 and its child 11 have the table 3, and 12, the child of 11, has the table 4: 11 shares, 12 does not.

use std::collections::{BTreeSet, HashMap};

use regrow_graph::forest::Descent;
use regrow_graph::ids::TaskId;

use super::Resolver;
use super::policy::Policy;
use crate::image::NsPid;

/// Notes who shares what with its parent, and refuses what is shared otherwise.
pub(super) fn resolve(resolver: &mut Resolver<'_>) {
    // Who has each first, by what it is.
    let mut first: [HashMap<u32, NsPid>; 4] = Default::default();
    for (index, task) in resolver.model.tasks.iter().enumerate() {
        let Some(alive) = task.alive() else { continue };
        let ids = alive.ids;
        let shared = [
            ("descriptor table", ids.files),
            ("address space", ids.vm),
            ("working directory (CLONE_FS)", ids.fs),
            ("signal handlers", ids.sighand),
        ];
        for ((what, id), first) in shared.into_iter().zip(&mut first) {
            if id == 0 {
                continue;
            }
            let Some(other) = first.get(&id).copied() else {
                first.insert(id, task.pid);
                continue;
            };
            let parent = resolver.forest.tasks[index].parent;
            let of_parent = parent.and_then(|parent| resolver.model.tasks[parent.index()].alive());
            let text = if what != "descriptor table" {
                format!("shares its {what} with task {other}: not restored yet")
            } else if of_parent.is_none_or(|parent| parent.ids.files != ids.files) {
                format!("shares its {what} with task {other}, and its parent has another: not restored yet")
            } else {
                resolver.forest.tasks[index].shares_table = true;
                continue;
            };
            resolver.problems.unsupported(Some(task.pid), Some(task.core_origin), text);
        }
    }
}

/// When it is known who forks whom: who shares must be forked by its parent, and must be able to have its turn.
pub(super) fn judge(resolver: &mut Resolver<'_>) {
    let forkers: BTreeSet<TaskId> = resolver.forest.tasks.iter().filter_map(|task| task.parent).collect();
    for (index, task) in resolver.model.tasks.iter().enumerate() {
        let spec = &resolver.forest.tasks[index];
        if !spec.shares_table {
            continue;
        }
        resolver.recipes.tasks[index].shares_table = true;
        let forker = spec.parent.and_then(|parent| resolver.model.tasks.get(parent.index()));
        let text = if spec.descent != Descent::Own || forker.is_none_or(|forker| forker.pid != task.ppid) {
            "shares its descriptor table with its parent, which cannot fork it: not restored yet"
        } else if resolver.options.policy == Policy::LowestPid && forkers.contains(&TaskId::new(index)) {
            // Its forks are in its turn, and nobody's turn ends before a stage does.
            "shares its descriptor table and has children: not planned by the lowest pid"
        } else {
            continue;
        };
        resolver.problems.unsupported(Some(task.pid), Some(task.core_origin), text);
    }
}
