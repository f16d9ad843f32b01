//! Tasks that have a descriptor table in common with who forks them.
//!
//! Whatever they do to it comes in one order, in turns. Who forks them is the first: it makes and places all that is in
//! the table at the end, and what it and those that share it still need. Then it hands the table on to one after
//! another. Each does all that it has to do as any task would (it may open what only its own steps need, fork, and
//! share the table further), and leaves the table as it found it. When the last one is done, the first goes on: it
//! waits for deaths, plays its steps, and closes what is not wanted.
//!
//! In its turn nobody waits for anything but the turns of those that it has forked, and a birth waits for nothing but
//! turns. So no waits run in a circle: who shares founds its group before its turn, and joins that of another, and waits
//! for deaths, after it.
//!
//! Example: 1 has file 9 at 3, and 2 shares the table and maps file 8. 1 opens 9, forks 2 and hands on; 2 takes over,
//! opens 8 at 4, maps it, closes 4 and hands on; 1 takes over.

use super::{Desk, PlaceError, Placer, sorted};
use crate::forest::{Descent, Forest, Life};
use crate::graph::{OpKind, Reason};
use crate::ids::{OfdId, TaskId};

/// Who shares with whom, and when each has its turn.
pub(super) struct Turns {
    /// Those that share something with who forks them, by that.
    sharers: Vec<Vec<TaskId>>,
}

/// What a task has done before its turn.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Done {
    /// It has entered its session, and founded its group.
    pub(super) entered: bool,
    /// It has come to the end of all stages.
    pub(super) staged: bool,
}

impl Turns {
    pub(super) fn find(forest: &Forest) -> Result<Turns, Vec<PlaceError>> {
        let count = forest.tasks.len();
        let mut turns = Turns { sharers: vec![Vec::new(); count] };
        let mut errors = Vec::new();
        for (index, spec) in forest.tasks.iter().enumerate().filter(|(_, spec)| spec.shares_table) {
            let task = TaskId::new(index);
            let forker = spec.parent.filter(|parent| {
                let both = [spec.life, forest.tasks[parent.index()].life];
                both == [Life::Lives; 2] && spec.descent == Descent::Own && spec.table.is_empty()
            });
            match forker {
                Some(forker) => turns.sharers[forker.index()].push(task),
                None => errors.push(PlaceError::NotShared { task }),
            }
        }
        if errors.is_empty() { Ok(turns) } else { Err(errors) }
    }

    /// Those that share something with a task that forks them.
    pub(super) fn sharers(&self, task: TaskId) -> &[TaskId] {
        &self.sharers[task.index()]
    }
}

impl Placer<'_> {
    /// What must be open at the end of a task's own turn for those that it hands the table on to.
    pub(super) fn lent(&self, task: TaskId) -> Vec<OfdId> {
        let sharers = self.all.turns.sharers(task).iter();
        let through = sharers.flat_map(|sharer| self.all.through(*sharer));
        let yields = through.flat_map(|(resource, _)| self.all.yields(resource));
        sorted(yields.filter(|ofd| self.all.needs.is_used_below(task, *ofd)))
    }

    /// Hands on what the task shares, and waits until it gets it back as it was.
    pub(super) fn hand_on(&mut self, desk: &Desk) {
        let task = desk.task;
        let Some(last) = self.all.turns.sharers(task).last().copied() else { return };
        let ends = self.push(OpKind::Turn { begins: false }, Reason::Sequence);
        let begins = self.push(OpKind::Turn { begins: true }, Reason::AfterTurn { of: last });
        for sharer in self.all.turns.sharers(task) {
            // What was done to the table since the fork has been done to this one, too.
            self.gives(*sharer, desk.table.clone());
        }
        self.part.lent = Some((ends, begins));
    }

    /// The beginning of a sharer's turn.
    pub(super) fn take_over(&mut self, task: TaskId) {
        let (forest, family) = (self.all.forest, self.all.family);
        if !forest.tasks[task.index()].shares_table {
            return;
        }
        let children = &self.all.children[task.index()];
        let (forks_early, forks) =
            (children.iter().any(|child| family.early[child.index()]), !children.is_empty());
        if !forks_early {
            self.enter_family(task);
        }
        // The first stage ends behind the last fork.
        let staged = !forks && !self.all.exchange.takes_part(task);
        if staged {
            self.stage(0);
            self.stage(1);
        }
        self.done = Done { entered: !forks_early, staged };
        let begins = self.push(OpKind::Turn { begins: true }, Reason::Sequence);
        self.part.turn = Some((begins, begins));
    }

    /// The end of a sharer's turn.
    pub(super) fn give_back(&mut self) {
        if let Some((begins, _)) = self.part.turn {
            let ends = self.push(OpKind::Turn { begins: false }, Reason::Sequence);
            self.part.turn = Some((begins, ends));
        }
    }
}
