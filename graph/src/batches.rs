//! Who forks the children of a task that has many: itself, or helpers that fork a batch each.
//!
//! A server with a private pipe to each of its workers has made the pipes of all workers before when it forks
//! one: the worker inherits an end of each and closes it, so that N workers close about N²/2 descriptors. A helper that
//! forks a batch of B workers for the server (`CLONE_PARENT`, clone(2): they are the server's children) makes what is
//! private to each of them and the server, and sends the server's ends to it in few messages when it has forked all.
//! Then N workers close about N·B/2, and batches are forked at the same time. The cost model says whether that is
//! worth it, and how large a batch is ([`CostModel::forking`]).
//!
//! Example: 1 has the workers 10 to 109, each at the end of a pipe whose other end 1 has. Helpers fork 10 to 59, and
//! 60 to 109; each sends 50 ends to 1, and dies.

use std::collections::{BTreeMap, BTreeSet};

use crate::cost::{CostModel, Forking};
use crate::family::{self, Cradle};
use crate::forest::{Descent, Forest, Life, TaskSpec};
use crate::ids::{OfdId, ResourceId, TaskId};
use crate::needs::Needs;
use crate::passing::Delivery;
use crate::raise::Helper;

/// Fewer children than this no task gives to helpers.
pub const LEAST_CHILDREN: usize = 4;
/// At most one helper for so many children.
pub const LEAST_BATCH: usize = 2;

/// Which children may be given to helpers, and what for.
pub struct Children<'a> {
    /// Whether somebody else may fork a task for its parent: not if something else depends on who does.
    pub may_be_given: &'a dyn Fn(TaskId) -> bool,
    /// Whether helpers may fork the children of a task.
    pub may_give: &'a dyn Fn(TaskId) -> bool,
    /// How many cores there are.
    pub cores: u32,
}

/// What has been given to helpers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batches {
    /// The helpers that have been added to the forest.
    pub helpers: Vec<Helper>,
    /// What they make for those whose children they fork.
    pub deliveries: BTreeMap<ResourceId, Delivery>,
    /// Who needs what in the forest, where that has been looked for and there are no helpers: then the forest is as it was.
    pub needs: Option<Needs>,
}

impl Batches {
    /// Whether a task is one of the helpers.
    pub fn is_helper(&self, task: TaskId) -> bool {
        self.helpers.binary_search_by_key(&task, |helper| helper.task).is_ok()
    }
}

/// Gives children of tasks that have many to helpers, where that costs less. The forest is complete but for them.
/// Helpers get pids of `spare`, and there are no more than that has.
pub fn split(
    forest: &mut Forest,
    cradle: Cradle,
    costs: &CostModel,
    which: &Children<'_>,
    spare: &mut dyn Iterator<Item = u32>,
) -> Batches {
    let mut batches = Batches::default();
    let children = forest.children();
    if !(0..children.len()).any(|at| may_pay(&forest.tasks[at], children[at].len(), costs, which.cores)) {
        return batches;
    }
    // What is wrong with the forest is for others to say.
    let (Ok(family), Ok(needs)) = (family::arrange(forest, cradle), Needs::find(forest)) else {
        return batches;
    };
    // What it takes to finish a resource must be at hand for who makes that.
    let mut finishing: Vec<OfdId> = forest
        .resources
        .iter()
        .flat_map(|resource| &resource.finish)
        .flat_map(|step| forest.steps[step.index()].needs.iter().copied())
        .collect();
    finishing.sort_unstable();
    'parents: for (index, children) in children.iter().enumerate() {
        let parent = TaskId::new(index);
        if !may_pay(&forest.tasks[index], children.len(), costs, which.cores) {
            continue;
        }
        if forest.tasks[index].life != Life::Lives || !(which.may_give)(parent) {
            continue;
        }
        let private = Private::find(forest, &needs, &finishing, parent, children.len());
        // By rank, as in the spans of what is needed.
        let eligible: Vec<usize> = (0..children.len())
            .filter(|rank| {
                let child = children[*rank];
                let spec = &forest.tasks[child.index()];
                spec.life == Life::Lives
                    && spec.descent == Descent::Own
                    && !family.early[child.index()]
                    && (which.may_be_given)(child)
            })
            .collect();
        let (given, size) = private.choose(forest, children, eligible, costs, which.cores);
        let size = size.max(LEAST_BATCH);
        if given.len() <= size {
            continue;
        }
        for batch in given.chunks(size) {
            let Some(pid) = spare.next() else { break 'parents };
            let helper = TaskId::new(forest.tasks.len());
            let (pgid, sid) = (forest.tasks[index].pgid, forest.tasks[index].sid);
            forest.tasks.push(TaskSpec {
                pid,
                parent: Some(parent),
                pgid,
                sid,
                life: Life::Helper,
                ..TaskSpec::default()
            });
            for rank in batch {
                let spec = &mut forest.tasks[children[*rank].index()];
                spec.parent = Some(helper);
                spec.descent = Descent::Sibling;
            }
            batches.helpers.push(Helper { task: helper, because_of: children[batch[0]], stands_in: false });
            let of_batch = batch.iter().flat_map(|rank| &private.resources[*rank]);
            batches.deliveries.extend(
                of_batch.map(|resource| (*resource, Delivery { creator: helper, takers: vec![parent] })),
            );
        }
    }
    batches.needs = batches.helpers.is_empty().then_some(needs);
    batches
}

/// Whether helpers could be worth it for a task with so many children, if all that it has were private to it and one
/// child each: without a look at anybody else.
fn may_pay(task: &TaskSpec, children: usize, costs: &CostModel, cores: u32) -> bool {
    let sharing = children.min(task.table.len());
    children >= LEAST_CHILDREN
        && (costs.forking(sharing as u64, task.table.len().div_ceil(sharing.max(1)) as u64)
            != Forking::Itself
            || costs.forkers(children as u64, 0, cores.into()) > 0)
}

/// The mean, at least 1.
fn mean(sum: usize, count: usize) -> u64 {
    ((sum + count / 2) / count.max(1)).max(1) as u64
}

/// About what a task does when it has been born.
fn work(costs: &CostModel, task: &TaskSpec) -> u64 {
    let steps = [&task.birth, &task.before_forks, &task.steps].into_iter().map(Vec::len).sum::<usize>();
    (costs.birth_ns + costs.map_ns * steps as f64) as u64
}

/// What a task shares with one of its children (and who is below that) only.
struct Private {
    /// Such resources, by the child's rank.
    resources: Vec<Vec<ResourceId>>,
    /// How many of their descriptions the task itself keeps.
    ends: Vec<usize>,
}

impl Private {
    fn find(forest: &Forest, needs: &Needs, finishing: &[OfdId], parent: TaskId, children: usize) -> Private {
        let mut private = Private { resources: vec![Vec::new(); children], ends: vec![0; children] };
        let spec = &forest.tasks[parent.index()];
        let mut kept: Vec<OfdId> = spec.table.iter().map(|slot| slot.ofd).collect();
        kept.sort_unstable();
        let early: BTreeSet<OfdId> = spec
            .before_forks
            .iter()
            .flat_map(|step| forest.steps[step.index()].needs.iter().copied())
            .collect();
        let stays = |ofd: &OfdId| early.contains(ofd) || finishing.binary_search(ofd).is_ok();
        for (resource, span) in &needs.through[parent.index()] {
            let Some((rank, last)) = *span else { continue };
            if rank != last || needs.owners[resource.index()] != Some(parent) {
                continue;
            }
            let made = &forest.resources[resource.index()];
            let yields = || made.yields.iter().flatten();
            let ends = yields().filter(|ofd| kept.binary_search(ofd).is_ok()).count();
            // What the parent does not want in its table, or needs before there are helpers, it makes itself.
            if ends == 0 || !made.finish.is_empty() || yields().any(stays) {
                continue;
            }
            private.resources[rank as usize].push(*resource);
            private.ends[rank as usize] += ends;
        }
        private
    }

    /// Which of the `eligible` children helpers should fork, and how many each; none if the parent should.
    fn choose(
        &self,
        forest: &Forest,
        children: &[TaskId],
        eligible: Vec<usize>,
        costs: &CostModel,
        cores: u32,
    ) -> (Vec<usize>, usize) {
        let sharing: Vec<usize> = eligible.iter().copied().filter(|rank| self.ends[*rank] > 0).collect();
        let ends: usize = sharing.iter().map(|rank| self.ends[*rank]).sum();
        if let Forking::Batches { size } = costs.forking(sharing.len() as u64, mean(ends, sharing.len())) {
            return (sharing, usize::try_from(size).unwrap_or(usize::MAX));
        }
        let works = eligible.iter().map(|rank| work(costs, &forest.tasks[children[*rank].index()]));
        let child_ns = works.sum::<u64>() / eligible.len().max(1) as u64;
        match costs.forkers(eligible.len() as u64, child_ns, cores.into()) {
            0 => (Vec::new(), 0),
            helpers => {
                let size = eligible.len().div_ceil(usize::try_from(helpers).unwrap_or(usize::MAX));
                (eligible, size)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forest::{ResourceSpec, Slot};
    use crate::graph::OpKind;
    use crate::{order, passing};

    /// A server with `workers` workers: for each a pipe, whose first end the server keeps.
    fn server(workers: u32) -> Forest {
        let mut forest = Forest { tasks: vec![task(10, None)], ..Forest::default() };
        for number in 0..workers {
            let ends = [OfdId(2 * number), OfdId(2 * number + 1)];
            forest.ofds += 2;
            forest
                .resources
                .push(ResourceSpec { yields: ends.map(Some).to_vec(), ..ResourceSpec::default() });
            forest.tasks[0].table.push(slot(3 + number, ends[0]));
            let mut worker = task(11 + number, Some(TaskId(0)));
            worker.table = vec![slot(3, ends[1])];
            forest.tasks.push(worker);
        }
        forest
    }

    fn task(pid: u32, parent: Option<TaskId>) -> TaskSpec {
        TaskSpec { pid, parent, pgid: 10, sid: 10, ..TaskSpec::default() }
    }

    fn slot(fd: u32, ofd: OfdId) -> Slot {
        Slot { fd, ofd, cloexec: false }
    }

    /// Batches of ten are the cheapest: `fork_ns` is half of 10² times `fork_fd_ns`.
    fn costs() -> CostModel {
        let mut costs = CostModel::default();
        for constant in CostModel::CONSTANTS {
            *costs.get_mut(constant.name).expect("a constant") = 0.0;
        }
        costs.fork_ns = 5000.0;
        costs.fork_fd_ns = 100.0;
        costs
    }

    /// The pids of each batch.
    fn split_of(forest: &mut Forest, stays: &BTreeSet<TaskId>, spare: std::ops::Range<u32>) -> Vec<Vec<u32>> {
        let children =
            Children { may_be_given: &|child| !stays.contains(&child), may_give: &|_| true, cores: 1 };
        let batches = split(forest, Cradle::default(), &costs(), &children, &mut { spare });
        let of = |helper: &Helper| {
            assert_eq!(forest.tasks[helper.task.index()].life, Life::Helper);
            let children = forest.tasks.iter().filter(|task| task.parent == Some(helper.task));
            children
                .inspect(|child| assert_eq!(child.descent, Descent::Sibling))
                .map(|child| child.pid)
                .collect()
        };
        let found = batches.helpers.iter().map(of).collect();
        let deliveries = batches.deliveries;
        passing::arrange(forest, &passing::Assignment { deliveries, ..passing::Assignment::default() });
        found
    }

    /// The largest number of descriptors with which any of these is born, as far as it wants or closes them.
    fn longest_close(plan: &order::Plan, tasks: std::ops::Range<usize>) -> u32 {
        let closed = plan.graph.ops().filter(|(_, op)| tasks.contains(&op.task.index()));
        closed
            .filter_map(|(_, op)| match op.kind {
                OpKind::Close { first, last } => Some(last - first + 1),
                _ => None,
            })
            .max()
            .unwrap_or(0)
    }

    #[test]
    fn helpers_fork_batches() {
        let mut forest = server(40);
        let alone = order::plan(&forest).expect("a plan");
        assert!(longest_close(&alone, 1..41) >= 39);
        let found = split_of(&mut forest, &BTreeSet::new(), 1000..2000);
        let expected: Vec<Vec<u32>> =
            (0..4).map(|batch| (11 + 10 * batch..21 + 10 * batch).collect()).collect();
        assert_eq!(found, expected);
        let plan = order::plan(&forest).expect("a plan");
        // Its own end, the other ends of those before, and the channel's two.
        assert!(longest_close(&plan, 1..41) <= 12, "{}", longest_close(&plan, 1..41));
        for resource in 0..40 {
            let owner = plan.owner(ResourceId(resource)).expect("an owner");
            assert_eq!(Some(owner), forest.tasks[resource as usize + 1].parent);
        }
    }

    #[test]
    fn what_stays() {
        // As many as one helper would fork.
        assert!(split_of(&mut server(10), &BTreeSet::new(), 1000..2000).is_empty());
        let mut forest = server(40);
        let mut dead = forest.clone();
        dead.tasks[3].life = Life::Zombie;
        // What two children share with the server is no child's own.
        forest.resources.iter_mut().take(2).for_each(|pipe| pipe.users = vec![TaskId(5)]);
        forest.tasks[5].table.push(slot(4, OfdId(1)));
        let stays = BTreeSet::from([TaskId(7), TaskId(8)]);
        let found = split_of(&mut forest, &stays, 1000..2000).concat();
        let left: Vec<u32> = (11..51).filter(|pid| !found.contains(pid)).collect();
        assert_eq!(left, [11, 12, 17, 18]);
        order::plan(&forest).expect("a plan");
        let found = split_of(&mut dead, &BTreeSet::new(), 1000..2000).concat();
        assert!(!found.contains(&13));
    }

    /// What has been found out about a forest that stays as it is serves its plan.
    #[test]
    fn needs_are_handed_on() {
        for (may, mut spare, stays) in
            [(false, 1000..2000, true), (true, 0..0, true), (true, 1000..2000, false)]
        {
            let mut forest = server(40);
            let children = Children { may_be_given: &|_| may, may_give: &|_| true, cores: 1 };
            let batches = split(&mut forest, Cradle::default(), &costs(), &children, &mut spare);
            assert_eq!(batches.helpers.is_empty(), stays);
            assert_eq!(batches.needs, Needs::find(&forest).ok().filter(|_| stays));
            if stays {
                let plan = order::plan_knowing(&forest, Cradle::default(), batches.needs).expect("a plan");
                let other = order::plan(&forest).expect("a plan");
                assert_eq!((plan.order, plan.programs), (other.order, other.programs));
            }
        }
    }

    #[test]
    fn no_more_helpers_than_there_are_pids() {
        let mut forest = server(40);
        let found = split_of(&mut forest, &BTreeSet::new(), 1000..1002);
        assert_eq!(found.len(), 2);
        order::plan(&forest).expect("a plan");
    }

    #[test]
    fn without_anything_private_nobody_helps() {
        let mut forest = server(40);
        forest.tasks[0].table.clear();
        assert!(split_of(&mut forest, &BTreeSet::new(), 1000..2000).is_empty());
    }
}
