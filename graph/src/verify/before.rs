//! What certainly comes before what: program order, births, posts before waits, deaths before the
//! waiting for them.
//!
//! The checker runs the tapes in one order. What several tasks do to one thing must come in that
//! order in every run: [`Before::holds`] says whether it does.

use std::collections::BTreeMap;

/// A record of a task: the index of its tape and the record's index in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub(super) task: usize,
    pub(super) record: u32,
}

/// The edges between tasks, as they are met.
#[derive(Debug, Clone, Default)]
pub(super) struct Before {
    /// For each task: where it is forked.
    born: Vec<Option<At>>,
    /// For each task: its waits, ascending, with what each waits for.
    waits: Vec<Vec<(u32, At)>>,
}

impl Before {
    pub(super) fn new(tasks: usize) -> Before {
        Before { born: vec![None; tasks], waits: vec![Vec::new(); tasks] }
    }

    pub(super) fn add_birth(&mut self, task: usize, fork: At) {
        self.born[task] = Some(fork);
    }

    pub(super) fn add_wait(&mut self, at: At, source: At) {
        self.waits[at.task].push((at.record, source));
    }

    /// Whether what a task does in `first` is there in `second` by descent: it is the task itself, later,
    /// or one that it has forked since, or a descendant of such a one.
    pub(super) fn is_inherited(&self, first: At, second: At) -> bool {
        let mut at = second;
        loop {
            if at.task == first.task {
                return first.record <= at.record;
            }
            match self.born[at.task] {
                Some(fork) => at = fork,
                None => return false,
            }
        }
    }

    /// Whether `first` has happened in every run in which `second` happens.
    pub(super) fn holds(&self, first: At, second: At) -> bool {
        if first.task == second.task {
            return first.record <= second.record;
        }
        // The common case: an ancestor did it before the fork.
        let mut at = second;
        while let Some(fork) = self.born[at.task] {
            if fork.task == first.task && first.record <= fork.record {
                return true;
            }
            at = fork;
        }
        // Back along all edges. `reached`: up to which record of each task all is known to be before.
        let mut reached: BTreeMap<usize, (u32, usize)> = BTreeMap::new();
        let mut open = vec![second];
        while let Some(at) = open.pop() {
            if at.task == first.task && first.record <= at.record {
                return true;
            }
            let (to, seen) = match reached.get(&at.task) {
                Some((to, _)) if *to >= at.record => continue,
                Some((_, seen)) => (at.record, *seen),
                None => {
                    open.extend(self.born[at.task]);
                    (at.record, 0)
                }
            };
            let waits = &self.waits[at.task];
            let until = seen + waits[seen..].partition_point(|(record, _)| *record <= to);
            open.extend(waits[seen..until].iter().map(|(_, source)| *source));
            reached.insert(at.task, (to, until));
        }
        false
    }
}
