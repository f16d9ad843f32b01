//! Random forests in which random resources are sent instead of inherited.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use regrow_graph::forest::{Forest, Life};
use regrow_graph::ids::{ResourceId, TaskId};
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
