//! Who uses each resource and who must own it, by the definition: paths to the root compared, no
//! tricks.

use std::collections::BTreeSet;

use regrow_graph::forest::Forest;
use regrow_graph::ids::{OfdId, ResourceId, TaskId};

/// What a forest says of its resources.
#[derive(Debug)]
pub struct Oracle {
    /// Direct users of each resource.
    pub users: Vec<BTreeSet<TaskId>>,
    /// The lowest common ancestor of the users, or who is said to make it.
    pub owners: Vec<Option<TaskId>>,
    /// Tasks that use the resource or have users below them.
    pub relevant: Vec<BTreeSet<TaskId>>,
    /// The resource of each description.
    pub made_by: Vec<Option<usize>>,
}

/// From the root to the task.
pub fn path(forest: &Forest, task: TaskId) -> Vec<TaskId> {
    let mut path = vec![task];
    while let Some(parent) = path.last().and_then(|last| forest.tasks[last.index()].parent) {
        path.push(parent);
    }
    path.reverse();
    path
}

impl Oracle {
    /// Reads it off the forest.
    pub fn new(forest: &Forest) -> Oracle {
        let count = forest.resources.len();
        let mut made_by = vec![None; forest.ofds];
        for (index, resource) in forest.resources.iter().enumerate() {
            for ofd in resource.yields.iter().flatten() {
                made_by[ofd.index()] = Some(index);
            }
        }
        let mut users: Vec<BTreeSet<TaskId>> =
            forest.resources.iter().map(|resource| resource.users.iter().copied().collect()).collect();
        let uses = |task: TaskId, ofd: OfdId, users: &mut Vec<BTreeSet<TaskId>>| {
            if let Some(index) = made_by[ofd.index()] {
                users[index].insert(task);
            }
        };
        for (index, task) in forest.tasks.iter().enumerate() {
            let steps = task.birth.iter().chain(&task.steps).chain(&task.tail);
            for ofd in steps
                .flat_map(|step| &forest.steps[step.index()].needs)
                .chain(task.table.iter().map(|slot| &slot.ofd))
            {
                uses(TaskId::new(index), *ofd, &mut users);
            }
        }
        let mut owners = vec![None; count];
        let mut relevant = vec![BTreeSet::new(); count];
        for index in 0..count {
            let resource = ResourceId::new(index);
            if let Some(delivery) = forest.passing.deliveries.get(&resource) {
                let is_source = |task: &TaskId| *task == delivery.creator || delivery.takers.contains(task);
                users[index].insert(delivery.creator);
                for user in &users[index] {
                    let path = path(forest, *user);
                    let from = path.iter().rposition(is_source).unwrap_or(0);
                    relevant[index].extend(&path[from..]);
                }
                owners[index] = Some(delivery.creator);
                let finish = &forest.resources[index].finish;
                for ofd in finish.iter().flat_map(|step| &forest.steps[step.index()].needs) {
                    uses(delivery.creator, *ofd, &mut users);
                }
                continue;
            }
            let paths: Vec<Vec<TaskId>> = users[index].iter().map(|user| path(forest, *user)).collect();
            let Some(first) = paths.first() else { continue };
            let common = (0..first.len())
                .take_while(|at| paths.iter().all(|path| path.get(*at) == first.get(*at)))
                .count();
            let owner = first[common - 1];
            owners[index] = Some(owner);
            relevant[index] = paths.iter().flat_map(|path| path[common - 1..].iter().copied()).collect();
            for ofd in
                forest.resources[index].finish.iter().flat_map(|step| &forest.steps[step.index()].needs)
            {
                uses(owner, *ofd, &mut users);
            }
        }
        Oracle { users, owners, relevant, made_by }
    }
}
