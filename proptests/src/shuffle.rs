//! The same forest under other ids: resources, descriptions, steps and tasks are renumbered.
//!
//! What must stay is kept: parents before children, and what finishing a resource takes behind that
//! resource.

use regrow_graph::forest::{Descent, Forest, ResourceSpec, StepSpec};
use regrow_graph::ids::{OfdId, ResourceId, StepId, TaskId};

use crate::history::scramble;

/// Renumbers everything. `seed` 0 changes nothing.
pub fn shuffle(forest: &Forest, seed: u64) -> Forest {
    let ofd_of_old = permutation(forest.ofds, seed, |_, _| false);
    let step_of_old = permutation(forest.steps.len(), seed ^ 1, |_, _| false);
    let made_by = forest.resource_of_ofd();
    let resource_of_old = permutation(forest.resources.len(), seed ^ 2, |before, after| {
        let finish =
            forest.resources[before].finish.iter().flat_map(|step| &forest.steps[step.index()].needs);
        finish.filter_map(|ofd| made_by[ofd.index()]).any(|needed| needed == ResourceId::new(after))
    });
    let task_of_old = permutation(forest.tasks.len(), seed ^ 3, |before, after| {
        forest.tasks[after].parent == Some(TaskId::new(before))
    });
    let ofd = |old: OfdId| OfdId::new(ofd_of_old[old.index()]);
    let step = |old: &StepId| StepId::new(step_of_old[old.index()]);
    let task = |old: TaskId| TaskId::new(task_of_old[old.index()]);

    let mut result = forest.clone();
    for (old, spec) in forest.steps.iter().enumerate() {
        result.steps[step_of_old[old]] = StepSpec { needs: spec.needs.iter().copied().map(ofd).collect() };
    }
    for (old, spec) in forest.resources.iter().enumerate() {
        result.resources[resource_of_old[old]] = ResourceSpec {
            yields: spec.yields.iter().map(|end| end.map(ofd)).collect(),
            users: spec.users.iter().copied().map(task).collect(),
            finish: spec.finish.iter().map(step).collect(),
        };
    }
    for (old, spec) in forest.tasks.iter().enumerate() {
        let mut spec = spec.clone();
        spec.parent = spec.parent.map(task);
        if let Descent::Adopted { by } = &mut spec.descent {
            *by = task(*by);
        }
        for slot in &mut spec.table {
            slot.ofd = ofd(slot.ofd);
        }
        for list in [&mut spec.birth, &mut spec.steps, &mut spec.with_threads, &mut spec.tail] {
            *list = list.iter().map(step).collect();
        }
        result.tasks[task_of_old[old]] = spec;
    }
    result
}

/// A random permutation, new position by old, in which `before(a, b)` puts a before b.
fn permutation(count: usize, seed: u64, before: impl Fn(usize, usize) -> bool) -> Vec<usize> {
    let mut left: Vec<usize> = (0..count).collect();
    let mut new_of_old = vec![0; count];
    for new in 0..count {
        let free = (0..left.len()).filter(|at| left.iter().all(|other| !before(*other, left[*at])));
        let Some(at) = free.min_by_key(|at| scramble(seed, left[*at])) else { return (0..count).collect() };
        new_of_old[left.swap_remove(at)] = new;
    }
    new_of_old
}
