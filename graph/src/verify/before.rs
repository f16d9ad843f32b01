//! What certainly comes before what: program order, births, posts before waits, deaths before the
//! waiting for them.
//!
//! The checker runs the tapes in one order. What several tasks do to one thing must come in that
//! order in every run: [`Before::holds`] says whether it does.
//!
//! Descent is answered by jumps over many generations, and so is a wait that a task on the way has for the
//! very task that is asked about, however many others it waits for. All else is searched for back along the
//! edges, the latest first, and never beyond the moment of what is asked about: the order in which the
//! checker runs the tapes has it that nothing before that moment comes after it. (No clock of all tasks is
//! kept with each: a fork would copy it.)

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::work;

/// A record of a task: the index of its tape and the record's index in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub(super) task: usize,
    pub(super) record: u32,
}

/// Where a task comes from.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    /// Where it is forked.
    fork: Option<At>,
    /// How many births it is away from the root.
    depth: u32,
    /// One above it, itself if there is none: such that few jumps lead to any other.
    jump: usize,
}

/// The edges between tasks, as they are met.
#[derive(Debug, Clone, Default)]
pub(super) struct Before {
    lines: Vec<Line>,
    /// For each task: its waits, ascending, with what each waits for.
    waits: Vec<Vec<(u32, At)>>,
    /// For a task and one that it waits for: its waits, with the last record that they have waited for so far.
    direct: BTreeMap<(usize, usize), Vec<(u32, u32)>>,
    /// For each task: with which records the checker has gone on with it, and when.
    resumed: Vec<SmallVec<[(u32, u32); 2]>>,
    now: u32,
}

impl Before {
    pub(super) fn new(tasks: usize) -> Before {
        Before {
            lines: (0..tasks).map(|task| Line { jump: task, ..Line::default() }).collect(),
            waits: vec![Vec::new(); tasks],
            direct: BTreeMap::new(),
            resumed: vec![SmallVec::new(); tasks],
            now: 0,
        }
    }

    /// The checker goes on with a task.
    pub(super) fn resume(&mut self, at: At) {
        self.now += 1;
        self.resumed[at.task].push((at.record, self.now));
    }

    pub(super) fn add_birth(&mut self, task: usize, fork: At) {
        // A jump is as long as the two before it where those are alike: "An applicative random-access
        // stack" (Myers 1983).
        let above = self.lines[fork.task];
        let next = self.lines[above.jump];
        let after = self.lines[next.jump];
        let are_alike = above.depth - next.depth == next.depth - after.depth;
        let jump = if are_alike { next.jump } else { fork.task };
        self.lines[task] = Line { fork: Some(fork), depth: above.depth + 1, jump };
    }

    pub(super) fn add_wait(&mut self, at: At, source: At) {
        self.waits[at.task].push((at.record, source));
        let direct = self.direct.entry((at.task, source.task)).or_default();
        let last = direct.last().map_or(source.record, |(_, last)| source.record.max(*last));
        direct.push((at.record, last));
    }

    /// The record of `above` by which the line to `task` begins.
    fn leaves(&self, above: usize, mut task: usize) -> Option<u32> {
        let depth = self.lines[above].depth;
        while self.lines[task].depth > depth + 1 {
            work::count(1);
            let line = self.lines[task];
            task = if self.lines[line.jump].depth > depth { line.jump } else { line.fork?.task };
        }
        self.lines[task].fork.filter(|fork| fork.task == above).map(|fork| fork.record)
    }

    /// Whether what a task does in `first` is there in `second` by descent: it is the task itself, later,
    /// or one that it has forked since, or a descendant of such a one.
    pub(super) fn is_inherited(&self, first: At, second: At) -> bool {
        if first.task == second.task {
            return first.record <= second.record;
        }
        self.leaves(first.task, second.task).is_some_and(|fork| first.record <= fork)
    }

    /// When the checker has come to a record.
    fn time(&self, at: At) -> u32 {
        let resumed = &self.resumed[at.task];
        let next = resumed.partition_point(|(record, _)| *record <= at.record);
        next.checked_sub(1).map_or(0, |last| resumed[last].1)
    }

    /// Whether the task of `at` has waited, until then, for `first` or for something later of the same task.
    fn has_waited(&self, at: At, first: At) -> bool {
        self.direct.get(&(at.task, first.task)).is_some_and(|waits| {
            let next = waits.partition_point(|(record, _)| *record <= at.record);
            next.checked_sub(1).is_some_and(|last| first.record <= waits[last].1)
        })
    }

    /// Whether `first` has happened in every run in which `second` happens.
    pub(super) fn holds(&self, first: At, second: At) -> bool {
        if first.task == second.task {
            return first.record <= second.record;
        }
        // Back along all edges. `reached`: up to which record of each task all is known to be before.
        let mut reached: BTreeMap<usize, (u32, usize)> = BTreeMap::new();
        let since = self.time(first);
        let mut open = vec![second];
        while let Some(at) = open.pop() {
            work::count(1);
            if self.is_inherited(first, at) || self.has_waited(at, first) {
                return true;
            }
            if at.task == first.task {
                continue;
            }
            let seen = match reached.get(&at.task) {
                Some((to, _)) if *to >= at.record => continue,
                Some((_, seen)) => *seen,
                None => {
                    open.extend(self.lines[at.task].fork.filter(|fork| self.time(*fork) >= since));
                    0
                }
            };
            let waits = &self.waits[at.task];
            let until = seen + waits[seen..].partition_point(|(record, _)| *record <= at.record);
            // What a task waits for later is mostly later itself.
            let late = waits[seen..until].iter().map(|(_, source)| *source);
            open.extend(late.filter(|source| self.time(*source) >= since));
            work::count(until - seen);
            reached.insert(at.task, (at.record, until));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As [`Before::holds`], by the edges alone: (task, record) before (task, record).
    fn plainly(edges: &[(At, At)], first: At, second: At) -> bool {
        let mut open = vec![second];
        let mut seen: Vec<At> = Vec::new();
        while let Some(at) = open.pop() {
            if at.task == first.task && first.record <= at.record {
                return true;
            }
            if !seen.contains(&at) {
                seen.push(at);
                let into = edges.iter().filter(|(_, to)| to.task == at.task && to.record <= at.record);
                open.extend(into.map(|(from, _)| *from));
            }
        }
        false
    }

    /// Random trees that wait for each other, and every question that can be asked.
    #[test]
    fn as_the_edges_say() {
        let mut state = 1u64;
        let mut next = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for _ in 0..60 {
            let tasks = 2 + next(7);
            let mut before = Before::new(tasks);
            let mut records = vec![0u32; tasks];
            let (mut born, mut edges) = (1, Vec::new());
            let mut on = usize::MAX;
            for _ in 0..40 {
                let task = next(born);
                let at = At { task, record: records[task] };
                if task != on {
                    before.resume(at);
                    on = task;
                }
                records[task] += 1;
                let other = next(born);
                match next(3) {
                    0 if born < tasks => {
                        before.add_birth(born, at);
                        edges.push((at, At { task: born, record: 0 }));
                        born += 1;
                    }
                    1 if other != task && records[other] > 0 => {
                        let source = At { task: other, record: next(records[other] as usize) as u32 };
                        before.add_wait(at, source);
                        edges.push((source, at));
                    }
                    _ => {}
                }
            }
            let all: Vec<At> = (0..born)
                .flat_map(|task| (0..records[task]).map(move |record| At { task, record }))
                .collect();
            for first in &all {
                for second in &all {
                    let wanted = plainly(&edges, *first, *second);
                    assert_eq!(before.holds(*first, *second), wanted, "{first:?} {second:?} {edges:?}");
                }
            }
        }
    }

    /// In a chain the first is asked about by the last, and every one by the root that waits for all: it takes
    /// a few steps, whatever the number of tasks.
    #[test]
    fn long_lines_and_many_waits() {
        let steps = |tasks: usize| {
            let mut before = Before::new(tasks);
            before.resume(At { task: 0, record: 0 });
            for task in 1..tasks {
                before.add_birth(task, At { task: task - 1, record: 1 });
                before.resume(At { task, record: 0 });
            }
            let last = tasks - 1;
            before.resume(At { task: 0, record: 2 });
            for task in 1..tasks {
                before.add_wait(At { task: 0, record: 1 + task as u32 }, At { task, record: 5 });
            }
            let end = At { task: 0, record: 1 + tasks as u32 };
            before.add_wait(At { task: last, record: 9 }, end);
            work::steps(|| {
                assert!(before.holds(At { task: 0, record: 0 }, At { task: last, record: 0 }));
                assert!(before.holds(At { task: tasks / 3, record: 5 }, end));
                // By the root, for which it waits.
                assert!(before.holds(At { task: tasks / 3, record: 5 }, At { task: last, record: 9 }));
                assert!(!before.is_inherited(At { task: 0, record: 2 }, At { task: last, record: 0 }));
            })
        };
        assert!(steps(4000) <= steps(1000) + 20, "{} and {} steps", steps(4000), steps(1000));
    }
}
