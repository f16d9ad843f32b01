//! Which children are forked by helpers ([`regrow_graph::batches`]), when all of a task is known.

use std::collections::BTreeSet;

use regrow_graph::batches::{self, Children};
use regrow_graph::family::Cradle;
use regrow_graph::ids::TaskId;

use super::policy::Policy;
use super::{Resolver, Role, files, task, tree};
use crate::image::OfdKind;

/// Adds the helpers, where the policy knows any, and notes what they make for others.
pub(super) fn resolve(resolver: &mut Resolver<'_>, cradle: Cradle) {
    if resolver.options.policy != Policy::Inherit {
        return;
    }
    let used: BTreeSet<u32> = resolver.forest.tasks.iter().map(|task| task.pid).collect();
    let spare = resolver.facts.pids.spare.iter().map(|pid| pid.0).filter(|pid| !used.contains(pid));
    let named = named_by_files(resolver);
    // Who discards its children would lose a helper before it can wait for its death.
    let keeps: Vec<bool> = (0..resolver.model.tasks.len())
        .map(|index| {
            let alive = resolver.model.tasks[index].alive();
            alive.is_some_and(|alive| task::waits_for_children(resolver, TaskId::new(index), alive))
        })
        .collect();
    // A child in a cgroup of its own is forked by who has the directory open.
    let stays: Vec<bool> =
        resolver.forest.tasks.iter().map(|task| task.shares_table || task.born_in.is_some()).collect();
    let children = Children {
        may_be_given: &|child| !named.contains(&child) && !stays[child.index()],
        may_give: &|parent| keeps.get(parent.index()).copied().unwrap_or(false),
        cores: resolver.options.cores,
    };
    let costs = &resolver.options.costs;
    let found = batches::split(&mut resolver.forest, cradle, costs, &children, &mut spare.into_iter());
    for helper in &found.helpers {
        // Its children have its exit signal.
        tree::add_recipe(resolver, helper, true);
    }
    for (index, role) in resolver.recipes.tasks.iter_mut().map(|task| &mut task.role).enumerate() {
        let forker = resolver.forest.tasks[index].parent;
        if *role == Role::Task && forker.is_some_and(|forker| found.is_helper(forker)) {
            *role = Role::Sibling;
        }
    }
    resolver.deliveries = found.deliveries;
    resolver.needs = found.needs;
}

/// Tasks that files below `/proc` are about: whoever opens one after its forks must have forked the task.
fn named_by_files(resolver: &Resolver<'_>) -> BTreeSet<TaskId> {
    let regular = resolver.model.ofds.iter().filter_map(|ofd| match &ofd.kind {
        OfdKind::Reg(file) => Some(file.path.as_str()),
        _ => None,
    });
    regular.filter_map(|path| files::proc_task(resolver, path)).collect()
}
