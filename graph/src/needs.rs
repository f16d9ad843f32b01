//! Who uses what, seen from every task on the way, and so who owns it.
//!
//! Example: a pipe that two grandchildren in different branches use is owned by their grandparent and
//! goes through both children, each of which needs it only for the child below.
//!
//! Two ask for this: [`crate::batches`], what tasks share with one child only, and [`crate::place`]. What the first has found
//! out it hands on, where it leaves the forest as it was.

use std::collections::BTreeMap;

use crate::forest::{Forest, Life};
use crate::ids::{OfdId, ResourceId, TaskId};
use crate::lists::Lists;
use crate::place::PlaceError;

/// The first and the last child, by rank, below which something is used.
pub(crate) type Span = (u32, u32);

/// Who uses what, seen from every task on the way. It holds for one forest, as long as nothing of it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    pub(crate) of_ofd: Vec<Option<ResourceId>>,
    pub(crate) owners: Vec<Option<TaskId>>,
    /// For each task the resources that it or somebody below uses and that it or somebody above
    /// makes, with the first and last child (index into its children, in fork order) whose subtree
    /// uses them; `None` where only the task itself does. Sorted by resource.
    pub(crate) through: Vec<Vec<(ResourceId, Option<Span>)>>,
    /// Who uses each description of a resource that has several, where that is certain.
    ends: Ends,
}

/// Which end of a pipe is used where: what a task carries for those below is not more than they use.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ends {
    /// When the walk through the tree enters each task, and when the last task below it.
    times: Vec<(u32, u32)>,
    /// Whether it is certain who uses a description; else whoever uses the resource may use it.
    is_certain: Vec<bool>,
    /// When it enters the users of each description, sorted.
    users: Lists<u32>,
}

impl Ends {
    fn find(forest: &Forest) -> Ends {
        let is_alone = |index: usize| {
            let resource = &forest.resources[index];
            resource.yields.len() > 1
                && resource.users.is_empty()
                && !forest.passing.is_passed(ResourceId::new(index))
        };
        let mut is_certain = vec![false; forest.ofds];
        for (_, resource) in forest.resources.iter().enumerate().filter(|(index, _)| is_alone(*index)) {
            for ofd in resource.yields.iter().flatten() {
                is_certain[ofd.index()] = true;
            }
        }
        let times = tour(forest);
        // What finishing a resource takes, its owner uses: who that is, is not known here.
        for step in forest.resources.iter().flat_map(|resource| &resource.finish) {
            for ofd in &forest.steps[step.index()].needs {
                is_certain[ofd.index()] = false;
            }
        }
        let uses = || {
            forest.tasks.iter().zip(&times).flat_map(|(task, (entered, _))| {
                let steps = [&task.birth, &task.before_forks, &task.steps, &task.with_threads, &task.tail];
                let needs = steps.into_iter().flatten().flat_map(|step| &forest.steps[step.index()].needs);
                let ofds = task.table.iter().map(|slot| &slot.ofd).chain(needs);
                ofds.filter(|ofd| is_certain[ofd.index()]).map(|ofd| (ofd.index(), *entered))
            })
        };
        let mut users = Lists::of(forest.ofds, uses);
        users.for_each(|_, users| users.sort_unstable());
        Ends { times, is_certain, users }
    }

    fn is_used_below(&self, task: TaskId, ofd: OfdId) -> bool {
        let (entered, last) = self.times[task.index()];
        let users = self.users.get(ofd.index());
        !self.is_certain[ofd.index()] || {
            let at = users.partition_point(|user| *user <= entered);
            users.get(at).is_some_and(|user| *user <= last)
        }
    }
}

/// When a walk through the tree enters each task, and when the last one below it. (Tasks that nobody forks are entered
/// never.)
fn tour(forest: &Forest) -> Vec<(u32, u32)> {
    let mut times = vec![(0, 0); forest.tasks.len()];
    let order = forest.birth_order();
    let mut below = vec![1u32; forest.tasks.len()];
    for task in order.iter().rev() {
        if let Some(parent) = forest.tasks[task.index()].parent {
            below[parent.index()] += below[task.index()];
        }
    }
    // Where the next child of each task is entered.
    let mut next = vec![0u32; forest.tasks.len()];
    for task in order {
        let entered = match forest.tasks[task.index()].parent {
            Some(parent) => {
                let at = next[parent.index()];
                next[parent.index()] += below[task.index()];
                at
            }
            None => 0,
        };
        times[task.index()] = (entered, entered + below[task.index()] - 1);
        next[task.index()] = entered + 1;
    }
    times
}

impl Needs {
    pub(crate) fn find(forest: &Forest) -> Result<Needs, Vec<PlaceError>> {
        let mut errors = Vec::new();
        let mut of_ofd: Vec<Option<ResourceId>> = vec![None; forest.ofds];
        for (index, resource) in forest.resources.iter().enumerate() {
            for ofd in resource.yields.iter().flatten() {
                let second = ResourceId::new(index);
                match of_ofd.get_mut(ofd.index()) {
                    Some(slot @ None) => *slot = Some(second),
                    Some(Some(first)) => {
                        errors.push(PlaceError::MadeTwice { ofd: *ofd, first: *first, second })
                    }
                    None => errors.push(PlaceError::Unmade { task: TaskId(0), ofd: *ofd }),
                }
            }
        }
        for (index, task) in forest.tasks.iter().enumerate() {
            let own = task.before_forks.iter().chain(&task.steps).filter(|_| task.life != Life::Lives);
            for step in task.birth.iter().chain(own).chain(&task.with_threads).chain(&task.tail) {
                if !forest.steps[step.index()].needs.is_empty() {
                    errors.push(PlaceError::NeedsNothing { task: TaskId::new(index), step: *step });
                }
            }
        }
        // Direct users, each resource once a task.
        let uses = || {
            forest.tasks.iter().enumerate().flat_map(|(index, task)| {
                let steps = task.birth.iter().chain(&task.before_forks).chain(&task.steps).chain(&task.tail);
                let in_steps = steps.flat_map(|step| &forest.steps[step.index()].needs);
                let ofds = task.table.iter().map(|slot| &slot.ofd).chain(in_steps);
                ofds.map(move |ofd| (TaskId::new(index), *ofd))
            })
        };
        let made_by = |ofd: OfdId| of_ofd.get(ofd.index()).copied().flatten();
        uses()
            .filter(|(_, ofd)| made_by(*ofd).is_none())
            .for_each(|(task, ofd)| errors.push(PlaceError::Unmade { task, ofd }));
        if !errors.is_empty() {
            return Err(errors);
        }
        let (users, ends) = rayon::join(
            || {
                let users = || uses().filter_map(|(task, ofd)| Some((made_by(ofd)?.index(), task)));
                Lists::of(forest.resources.len(), users)
            },
            || Ends::find(forest),
        );
        // Owners that need something to finish something else.
        let mut finishers: BTreeMap<usize, Vec<TaskId>> = BTreeMap::new();
        let depth = depths(forest);
        let mut needs = Needs {
            of_ofd,
            owners: vec![None; forest.resources.len()],
            through: forest.tasks.iter().map(|task| Vec::with_capacity(task.table.len())).collect(),
            ends,
        };
        let fork_rank = fork_ranks(forest);
        let mut direct: Vec<TaskId> = Vec::new();
        for index in 0..forest.resources.len() {
            direct.clear();
            direct.extend(&forest.resources[index].users);
            direct.extend(users.get(index));
            direct.extend(finishers.remove(&index).into_iter().flatten());
            direct.sort_unstable();
            direct.dedup();
            let resource = ResourceId::new(index);
            let delivery = forest.passing.deliveries.get(&resource);
            let owner = match delivery {
                Some(delivery) => Some(delivery.creator),
                None => direct.iter().copied().reduce(|a, b| common_ancestor(forest, &depth, a, b)),
            };
            let Some(owner) = owner else { continue };
            if delivery.is_some() && direct.binary_search(&owner).is_err() {
                needs.mark(resource, owner, None);
            }
            needs.owners[index] = Some(owner);
            // The owner also needs what finishing the resource takes.
            for ofd in
                forest.resources[index].finish.iter().flat_map(|step| &forest.steps[step.index()].needs)
            {
                match needs.of_ofd.get(ofd.index()).copied().flatten() {
                    Some(needed) if needed.index() > index => {
                        finishers.entry(needed.index()).or_default().push(owner);
                    }
                    Some(_) | None => errors.push(PlaceError::Unmade { task: owner, ofd: *ofd }),
                }
            }
            for user in &direct {
                needs.mark(resource, *user, None);
                let mut below = *user;
                while below != owner && !forest.passing.takes(below, resource) {
                    let Some(above) = forest.tasks[below.index()].parent else {
                        if delivery.is_some() {
                            errors.push(PlaceError::NotBelow { task: *user, resource });
                        }
                        break;
                    };
                    if !needs.mark(resource, above, Some(fork_rank[below.index()])) {
                        break;
                    }
                    below = above;
                }
            }
            // A user that is also on the way of others was marked before they were: the walk above
            // stops at the first mark that says nothing new, so every edge of the paths is seen once.
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(needs)
    }

    /// Notes that `task` needs `resource`, for the child at `rank` or for itself. Resources come in
    /// ascending order, so the last element is the one to widen. Says whether the task was new to
    /// the resource: then those above must be told too.
    fn mark(&mut self, resource: ResourceId, task: TaskId, rank: Option<u32>) -> bool {
        let list = &mut self.through[task.index()];
        match list.last_mut() {
            Some((last, span)) if *last == resource => {
                if let Some(rank) = rank {
                    *span =
                        Some(span.map_or((rank, rank), |(first, last)| (first.min(rank), last.max(rank))));
                }
                false
            }
            _ => {
                list.push((resource, rank.map(|rank| (rank, rank))));
                true
            }
        }
    }

    /// Whether a task below may use the description; certainly so, or it is not known.
    pub(crate) fn is_used_below(&self, task: TaskId, ofd: OfdId) -> bool {
        self.ends.is_used_below(task, ofd)
    }

    /// Whether somebody below who makes the resource, and inherits it from there, uses it.
    pub(crate) fn is_carried(&self, resource: ResourceId) -> bool {
        self.owners[resource.index()].is_some_and(|owner| {
            let list = &self.through[owner.index()];
            list.binary_search_by_key(&resource, |(r, _)| *r).is_ok_and(|at| list[at].1.is_some())
        })
    }
}

fn depths(forest: &Forest) -> Vec<u32> {
    let mut depth = vec![0; forest.tasks.len()];
    for task in forest.birth_order() {
        if let Some(parent) = forest.tasks[task.index()].parent {
            depth[task.index()] = depth[parent.index()] + 1;
        }
    }
    depth
}

/// The rank of each task among its parent's children.
fn fork_ranks(forest: &Forest) -> Vec<u32> {
    let mut ranks = vec![0; forest.tasks.len()];
    for siblings in forest.children() {
        for (rank, child) in siblings.iter().enumerate() {
            ranks[child.index()] = rank as u32;
        }
    }
    ranks
}

fn common_ancestor(forest: &Forest, depth: &[u32], mut a: TaskId, mut b: TaskId) -> TaskId {
    while a != b {
        if a.index() == 0 || b.index() == 0 {
            return TaskId(0);
        }
        let lower = if depth[a.index()] >= depth[b.index()] { &mut a } else { &mut b };
        match forest.tasks[lower.index()].parent {
            Some(parent) => *lower = parent,
            None => return TaskId(0),
        }
    }
    a
}
