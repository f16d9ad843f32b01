//! Tapes that are lifted when somebody first asks what one does.
//!
//! The checker's model runs one task after another, and another processor can lift the tapes of those that follow
//! meanwhile. What is not understood is not said here, for it would depend on who came first: whoever meets it
//! lifts all tapes one by one.

use std::collections::BTreeSet;
use std::sync::{Mutex, OnceLock, PoisonError};

use rayon::prelude::*;
use regrow_graph::verify::{Birth, Effects, Lifted, LiftedTask, Region};

use super::super::Tapes;
use super::super::abi::CLONE_ARGS_SIZE;
use super::common::Common;
use super::ranges::Ranges;
use super::{LiftError, Lifter};

/// Tapes that are lifted by one job, at least.
const TASKS: usize = 8;

/// All tapes of a tree.
pub struct LazyTree<'a> {
    common: Common<'a>,
    root: Birth,
    /// What each does; `None`: it is not understood.
    effects: Vec<OnceLock<Option<Vec<Lifted>>>>,
    /// What the calls of all that have been lifted write; `None`: two are in each other's way.
    ranges: Mutex<Option<Ranges>>,
}

impl<'a> LazyTree<'a> {
    /// Lifts none of them yet.
    ///
    /// # Errors
    /// What is not understood of the tapes as a whole.
    pub fn of(tapes: &'a Tapes) -> Result<LazyTree<'a>, LiftError> {
        let whole = |pid: u32| move |what: String| LiftError { pid, record: None, what };
        let common = Common::of(tapes).map_err(whole(0))?;
        let Some(first) = tapes.tasks.first() else {
            return Err(whole(0)("there is no tape".to_owned()));
        };
        let root = Lifter::new(&common).birth(first.clone_args, CLONE_ARGS_SIZE).map_err(whole(first.pid))?;
        if root.pid != first.pid {
            return Err(whole(first.pid)(format!("its clone_args ask for pid {}", root.pid)));
        }
        let effects = tapes.tasks.iter().map(|_| OnceLock::new()).collect();
        Ok(LazyTree { common, root, effects, ranges: Mutex::new(Some(Ranges::default())) })
    }

    /// All of them, on all processors; `None`: not all are understood.
    pub fn into_tasks(self) -> Option<Vec<LiftedTask>> {
        if !self.are_understood() {
            return None;
        }
        let effects = self.effects.into_iter().map(|effects| effects.into_inner().flatten());
        let tasks = self.common.tapes.tasks.iter().zip(effects);
        tasks.map(|(task, effects)| Some(LiftedTask { pid: task.pid, effects: effects? })).collect()
    }

    /// Gives back the memory of what has been lifted, while others go on.
    pub fn give_back(self) {
        let effects = self.effects;
        rayon::spawn(move || drop(effects));
    }

    fn lift(&self, task: usize) -> Option<Vec<Lifted>> {
        let lifter = Lifter::new(&self.common);
        let lifted = lifter.task(&self.common.tapes.tasks[task]).ok()?;
        let own = lifter.finish();
        let mut all = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        *all = all.take().and_then(|mut others| others.add(own).then_some(others));
        Some(lifted.effects)
    }
}

impl Effects for LazyTree<'_> {
    fn region(&self) -> Region {
        let Common { tapes, end, .. } = self.common;
        let window_end = tapes.base.saturating_add(tapes.window_len);
        Region { start: tapes.base, rw_end: tapes.ro_base(), end, window_end }
    }

    fn total(&self) -> u32 {
        self.common.total
    }

    fn root(&self) -> Birth {
        self.root
    }

    fn pids(&self) -> Vec<u32> {
        self.common.tapes.tasks.iter().map(|task| task.pid).collect()
    }

    fn suspended(&self) -> &BTreeSet<u32> {
        &self.common.tapes.suspended
    }

    fn of_task(&self, task: usize) -> Option<&[Lifted]> {
        self.effects[task].get_or_init(|| self.lift(task)).as_deref()
    }

    fn are_understood(&self) -> bool {
        // The first is run at once: whoever runs it need not wait for who lifts it.
        let count = self.effects.len();
        let tasks = (1..count + 1).into_par_iter().with_min_len(TASKS);
        let all = tasks.all(|task| self.of_task(task % count).is_some());
        let ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        all && ranges.as_ref().is_some_and(|ranges| ranges.check().is_ok())
    }
}
