//! What tables the tasks of a chain are born with, before those above them have been placed.
//!
//! All that placing a task takes of those above it is the table that it is born with, and that table hardly depends on how
//! it came about: what its parent wants is at its numbers then, and what is carried is where most want it. So it
//! can be guessed from who needs what, and a chain is placed from several tasks on at the same time. Whether a guess was right is
//! seen when the parent has been placed; where one was not, nothing of all that counts.
//!
//! Example: in a chain of 60, of which each task has pipes of its parent, the 30th is placed beside the root.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{Desk, Ground, Placer, sorted};
use crate::forest::Life;
use crate::ids::{OfdId, TaskId};
use crate::numbers::Numbers;
use crate::table::Table;

/// The fewest tasks that are worth waking somebody; in unit tests all are, so that there are guesses in every tree.
const TASKS: usize = if cfg!(test) { 1 } else { 8 };

/// A table that is guessed.
pub(super) struct Guess {
    /// Who is born with it.
    pub(super) task: TaskId,
    pub(super) table: Table,
    is_right: AtomicBool,
}

impl Guess {
    /// Notes what table the task is born with, and says whether it is this one.
    pub(super) fn is(&self, table: &Table) -> bool {
        let is_right = self.table.is_found_alike(table);
        self.is_right.store(is_right, Ordering::Relaxed);
        is_right
    }

    /// Whether the task has been born with this table.
    pub(super) fn is_right(&self) -> bool {
        self.is_right.load(Ordering::Relaxed)
    }
}

/// Guesses for as many tasks as there are processors beside this one, where the tree begins as a chain.
pub(super) fn births(all: &Ground<'_>, numbers: &Numbers) -> Vec<Guess> {
    let only_child = |task: &TaskId| match all.children[task.index()].as_slice() {
        [child] => Some(*child),
        _ => None,
    };
    let chain: Vec<TaskId> = std::iter::successors(Some(TaskId(0)), only_child).collect();
    let pieces = (chain.len() / TASKS).min(rayon::current_num_threads()).max(1);
    let parents = (1..pieces).map(|piece| &chain[piece * chain.len() / pieces - 1..][..2]);
    parents.filter_map(|pair| birth(all, numbers, pair[0], pair[1])).collect()
}

/// The table that the only child of a task is born with; `None`: too much has to do with it.
fn birth(all: &Ground<'_>, numbers: &Numbers, parent: TaskId, task: TaskId) -> Option<Guess> {
    let spec = &all.forest.tasks[parent.index()];
    let is_plain = spec.life == Life::Lives
        && spec.before_forks.is_empty()
        && !spec.shares_table
        && !all.forest.tasks[task.index()].shares_table
        && all.forest.passing.deliveries.is_empty();
    if !is_plain {
        return None;
    }
    let mut nobody = |_, _| {};
    let mut placer = Placer::new(all, parent, numbers.at_once(), &mut nobody);
    let in_steps = all.needs_of(&placer.steps_of(parent, &all.owned(parent)));
    let kept = sorted(in_steps.into_iter().chain(all.used_below(parent).map(|(ofd, _)| ofd)));
    let mut desk = Desk::new(parent, spec, Table::new());
    let (made, inherited): (Vec<_>, Vec<_>) =
        all.through(parent).partition(|(resource, _)| all.owns(parent, *resource));
    let made = made.into_iter().filter(|(_, span)| span.is_some());
    for (resource, _) in inherited {
        all.yields(resource).for_each(|ofd| open(&mut desk, &kept, ofd));
    }
    desk.settle(&mut placer.supply, &kept);
    for (resource, _) in made {
        all.yields(resource).for_each(|ofd| open(&mut desk, &kept, ofd));
    }
    desk.settle(&mut placer.supply, &kept);
    let table = all.inherited(&desk.table, task);
    (!placer.supply.is_lacking()).then_some(Guess { task, table, is_right: AtomicBool::new(false) })
}

/// Opens what is there at the fork, at whatever number.
fn open(desk: &mut Desk, kept: &[OfdId], ofd: OfdId) {
    if desk.wants(ofd) || kept.binary_search(&ofd).is_ok() {
        desk.open(desk.table.lowest_free(0), Some(ofd));
    }
}

#[cfg(test)]
mod tests {
    use super::super::parts::AtOnce;
    use super::*;
    use crate::family::{Cradle, arrange};
    use crate::forest::{Forest, ResourceSpec, Slot, TaskSpec};
    use crate::ids::Fd;
    use crate::needs::Needs;

    /// A chain of tasks with these tables (number, description, close-on-exec), of which each description is a file. Expects
    /// two guesses, and how many of them were right.
    fn check(tables: &[&[(Fd, u32, bool)]], right: usize) {
        let mut forest = Forest::default();
        for (index, table) in tables.iter().enumerate() {
            let slot =
                |(fd, ofd, cloexec): &(Fd, u32, bool)| Slot { fd: *fd, ofd: OfdId(*ofd), cloexec: *cloexec };
            forest.tasks.push(TaskSpec {
                pid: index as u32 + 10,
                parent: index.checked_sub(1).map(TaskId::new),
                pgid: 10,
                sid: 10,
                table: table.iter().map(slot).collect(),
                ..TaskSpec::default()
            });
        }
        forest.ofds =
            tables.iter().copied().flatten().map(|(_, ofd, _)| *ofd as usize + 1).max().unwrap_or(0);
        let file = |ofd| ResourceSpec { yields: vec![Some(OfdId::new(ofd))], ..ResourceSpec::default() };
        forest.resources = (0..forest.ofds).map(file).collect();
        let family = arrange(&forest, Cradle::default()).expect("one session");
        let needs = Needs::find(&forest).expect("all is made");
        let (ground, numbers) = Ground::find(&forest, &family, needs).expect("nothing is strange");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads");
        pool.install(|| {
            let guesses = births(&ground, &numbers);
            let mut born = Vec::new();
            let mut placed = Vec::new();
            for guess in &guesses {
                born.push(guess.task);
                let alone =
                    vec![Guess { table: guess.table.clone(), is_right: AtomicBool::new(false), ..*guess }];
                placed.push(AtOnce::all(&ground, &numbers, alone).is_some());
            }
            let count = tables.len();
            assert_eq!(born, [TaskId::new(count / 3), TaskId::new(2 * count / 3)]);
            assert_eq!(placed.iter().filter(|is_right| **is_right).count(), right);
            assert_eq!(AtOnce::all(&ground, &numbers, guesses).is_some(), right == 2);
        });
    }

    #[test]
    fn what_is_there_at_the_fork() {
        // Files of the parent's at other numbers, files of one's own where the parent's were, files for those below.
        check(
            &[
                &[(0, 0, false), (1, 1, true)],
                &[(0, 1, true), (1, 2, false), (5, 0, false)],
                &[(5, 0, false), (0, 2, false)],
            ],
            2,
        );
        // Two files that are carried, of which the root wants one.
        check(&[&[(3, 1, false)], &[], &[(4, 1, false)], &[(5, 0, false), (4, 1, false)]], 2);
    }

    /// The second is born with a file that is closed on exec, does not want it, and leaves it as it is.
    #[test]
    fn a_wrong_guess() {
        check(&[&[(3, 0, true)], &[], &[(3, 0, false)]], 1);
    }
}
