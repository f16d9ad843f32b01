//! Random forests in which random resources are sent instead of inherited.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use regrow_graph::batches::{self, Children};
use regrow_graph::cost::CostModel;
use regrow_graph::forest::{Descent, Forest, Life, ResourceSpec, Slot};
use regrow_graph::ids::{OfdId, ResourceId, TaskId};
use regrow_graph::passing::{self, Assignment, Delivery};

use crate::forests::{Case, cases};
use crate::oracle::Oracle;

/// How one resource gets to its users.
#[derive(Debug, Clone)]
pub enum Way {
    /// By inheritance.
    Inherited,
    /// Somebody, whoever that is, makes it and sends it to all who use it.
    Sent {
        /// Which of all tasks that can.
        by: u16,
    },
    /// Their lowest common ancestor makes it, sends it to some, and others inherit it from these and from there.
    SentToSome {
        /// To whom: a bit each.
        to: u16,
    },
}

fn ways() -> impl Strategy<Value = Way> {
    prop_oneof![
        1 => Just(Way::Inherited),
        3 => any::<u16>().prop_map(|by| Way::Sent { by }),
        2 => any::<u16>().prop_map(|to| Way::SentToSome { to }),
    ]
}

/// A forest as [`cases`] has it, and the same with messages in it.
pub fn passing_cases() -> impl Strategy<Value = Case> {
    (cases(), vec(ways(), 1..12), any::<bool>(), 0usize..5).prop_map(|(case, ways, is_staged, room)| {
        let mut forest = case.forest.clone();
        let assignment = Assignment { is_staged, room, ..assign(&forest, &ways, is_staged) };
        passing::arrange(&mut forest, &assignment);
        Case { forest, ..case }
    })
}

/// Gives some children a pipe to their parents: one end each, at free numbers. `seed` says which.
fn with_private_pipes(mut forest: Forest, seed: u64) -> Forest {
    for child in 0..forest.tasks.len() {
        let spec = &forest.tasks[child];
        let Some(parent) = spec.parent.map(TaskId::index).filter(|_| spec.descent == Descent::Own) else {
            continue;
        };
        let lives = |task: usize| forest.tasks[task].life == Life::Lives;
        if !lives(child) || !lives(parent) || seed >> (child % 63) & 1 == 0 {
            continue;
        }
        let ends = [forest.ofds, forest.ofds + 1].map(OfdId::new);
        forest.ofds += 2;
        for (task, ofd) in [(parent, ends[0]), (child, ends[1])] {
            let table = &mut forest.tasks[task].table;
            let fd = (0..).find(|fd| table.iter().all(|slot| slot.fd != *fd)).expect("a free number");
            table.push(Slot { fd, ofd, cloexec: seed >> (child % 61) & 1 == 1 });
            table.sort_by_key(|slot| slot.fd);
        }
        forest.resources.push(ResourceSpec { yields: ends.map(Some).to_vec(), ..ResourceSpec::default() });
    }
    forest
}

/// A forest as [`cases`] has it, with pipes between parents and children, whose tasks have helpers that fork children
/// for them; how many those are. Forking costs nothing or little against an inherited descriptor, so that helpers are worth it for a few children.
pub fn batch_cases() -> impl Strategy<Value = (Case, usize)> {
    let fork_ns = prop_oneof![Just(0.0), 0.0..1000.0];
    let numbers = (any::<u64>(), any::<u64>(), 1u32..9, 0usize..20);
    (cases(), fork_ns, numbers).prop_map(|(case, fork_ns, (pipes, stays, cores, spare))| {
        let mut forest = with_private_pipes(case.forest.clone(), pipes);
        let mut costs = CostModel::default();
        for constant in CostModel::CONSTANTS {
            costs.get_mut(constant.name).into_iter().for_each(|cost| *cost = 0.0);
        }
        (costs.fork_ns, costs.fork_fd_ns) = (fork_ns, 100.0);
        let children = Children {
            may_be_given: &|child| stays >> (child.index() % 61) & 7 != 7,
            may_give: &|parent| stays >> (parent.index() % 59) & 31 != 31,
            cores,
        };
        let highest = forest.tasks.iter().map(|task| task.pid).max().unwrap_or_default();
        let mut pids = (highest + 1..).take(spare);
        let found = batches::split(&mut forest, case.cradle, &costs, &children, &mut pids);
        let assignment = Assignment { deliveries: found.deliveries, ..Assignment::default() };
        passing::arrange(&mut forest, &assignment);
        (Case { forest, ..case }, found.helpers.len())
    })
}

fn assign(forest: &Forest, ways: &[Way], is_staged: bool) -> Assignment {
    let oracle = Oracle::new(forest);
    let able: Vec<TaskId> = (0..forest.tasks.len())
        .map(TaskId::new)
        .filter(|task| matches!(forest.tasks[task.index()].life, Life::Lives | Life::Helper | Life::Zombie))
        .collect();
    // Who needs what to finish a resource changes with who makes that, and what is needed before forks could have to
    // wait for them: such things stay inherited.
    let finishing = forest.resources.iter().flat_map(|resource| &resource.finish);
    let before_forks = forest.tasks.iter().flat_map(|task| &task.before_forks);
    let needed: BTreeSet<usize> = finishing
        .chain(before_forks)
        .flat_map(|step| &forest.steps[step.index()].needs)
        .filter_map(|ofd| oracle.made_by[ofd.index()])
        .collect();
    let mut assignment = Assignment::default();
    for index in 0..forest.resources.len() {
        if forest.resources[index].yields.is_empty() || needed.contains(&index) {
            continue;
        }
        let (users, owner) = (&oracle.users[index], oracle.owners[index]);
        let Some(owner) = owner else { continue };
        let (creator, takers) = match &ways[index % ways.len()] {
            Way::Inherited => continue,
            // What a child inherits from who receives it would have to be there before the stage begins.
            Way::SentToSome { .. } if is_staged => continue,
            Way::Sent { by } => (able[usize::from(*by) % able.len()], users.iter().copied().collect()),
            Way::SentToSome { to } => {
                let chosen = users.iter().enumerate().filter(|(at, _)| to & (1 << (at % 16)) != 0);
                (owner, chosen.map(|(_, user)| *user).collect::<Vec<_>>())
            }
        };
        let takers = takers.into_iter().filter(|taker| *taker != creator).collect();
        assignment.deliveries.insert(ResourceId::new(index), Delivery { creator, takers });
    }
    assignment
}
