//! The times of a run: what regrow itself did, and what each record took.
//!
//! The tasks note the time-stamp counter in the region (`crate::tape::trace`); here it becomes nanoseconds since
//! the start of the command, by what counter and CLOCK_MONOTONIC said at the start and at the end. Where
//! nothing is traced, nothing of this exists.
//!
//! Worked example: the counter said 1000 at 0 ns and 4000 at 1500 ns; a record that started at 2000 and ended at
//! 2400 took from 500 ns to 700 ns.

use std::cell::RefCell;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use crate::pipeline::Span;
use crate::sys::region;
use crate::sys::tsc::Tick;
use crate::tape::Tapes;

/// Notes times while a restore runs.
#[derive(Debug)]
pub struct Recorder {
    epoch: Instant,
    first: Tick,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    phases: Vec<Phase>,
    open: Option<(&'static str, Instant)>,
    counted: Vec<(u32, Vec<[u64; 2]>)>,
}

/// What was noted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recording {
    /// What regrow itself did, in order.
    pub phases: Vec<Phase>,
    /// What each task did, in the order of the tapes; empty where nothing has been played.
    pub tasks: Vec<TaskTimes>,
    /// The end, in nanoseconds since the start of the command.
    pub end_ns: u64,
}

/// One thing that regrow itself did. Times are nanoseconds since the start of the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phase {
    /// What.
    pub name: String,
    /// From
    pub start_ns: u64,
    /// to.
    pub end_ns: u64,
}

/// The times of one tape.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskTimes {
    /// The task, or thread.
    pub pid: u32,
    /// For each record when it started and ended, in nanoseconds since the start of the command; `None`: it
    /// did not, or the time was not noted.
    pub records: Vec<[Option<u64>; 2]>,
}

impl Recorder {
    /// Starts to note the times of a command that started at `epoch`. The counter must be enabled.
    pub fn start(epoch: Instant) -> Recorder {
        Recorder { epoch, first: Tick::now(), state: RefCell::default() }
    }

    /// What has been done already.
    pub fn add(&self, spans: &[Span]) {
        let ns = |at: Instant| at.saturating_duration_since(self.epoch).as_nanos() as u64;
        let phase = |span: &Span| Phase {
            name: span.stage.to_owned(),
            start_ns: ns(span.start),
            end_ns: ns(span.end),
        };
        self.state.borrow_mut().phases.extend(spans.iter().map(phase));
    }

    /// Something new begins, and what was done until now ends.
    pub fn enter(&self, name: &'static str) {
        self.leave();
        self.state.borrow_mut().open = Some((name, Instant::now()));
    }

    /// What was done until now ends.
    pub fn leave(&self) {
        let open = self.state.borrow_mut().open.take();
        if let Some((stage, start)) = open {
            self.add(&[Span { stage, start, end: Instant::now() }]);
        }
    }

    /// Takes what the tasks have noted. The tree may live or be gone.
    pub(super) fn collect(&self, tapes: &Tapes, region: BorrowedFd<'_>) {
        match region::read_slots(region, tapes) {
            Ok(slots) => {
                let counted = tapes.tasks.iter().map(|task| (task.pid, tapes.times(task, &slots)));
                self.state.borrow_mut().counted = counted.collect();
            }
            Err(error) => tracing::warn!("the times of the tasks cannot be read: {error}"),
        }
    }

    /// All that was noted.
    pub fn finish(self) -> Recording {
        self.leave();
        let last = Tick::now();
        let state = self.state.into_inner();
        let scale = Scale::between(self.epoch, self.first, last);
        let tasks = state.counted.into_iter().map(|(pid, records)| TaskTimes {
            pid,
            records: records.into_iter().map(|record| record.map(|tsc| scale.ns(tsc))).collect(),
        });
        let end_ns = last.at.saturating_duration_since(self.epoch).as_nanos() as u64;
        Recording { tasks: tasks.collect(), phases: state.phases, end_ns }
    }
}

/// From the counter to nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Scale {
    first_tsc: u64,
    first_ns: u64,
    ns_per_tick: f64,
}

impl Scale {
    fn between(epoch: Instant, first: Tick, last: Tick) -> Scale {
        let ticks = last.tsc.saturating_sub(first.tsc).max(1);
        let ns = last.at.saturating_duration_since(first.at).as_nanos();
        Scale {
            first_tsc: first.tsc,
            first_ns: first.at.saturating_duration_since(epoch).as_nanos() as u64,
            ns_per_tick: ns as f64 / ticks as f64,
        }
    }

    /// 0 is nothing that was noted.
    fn ns(&self, tsc: u64) -> Option<u64> {
        (tsc != 0).then(|| {
            self.first_ns + (tsc.saturating_sub(self.first_tsc) as f64 * self.ns_per_tick).round() as u64
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ticks_become_nanoseconds() {
        let epoch = Instant::now();
        let at = |ns| epoch + Duration::from_nanos(ns);
        let scale = Scale::between(epoch, Tick { tsc: 1000, at: at(40) }, Tick { tsc: 4000, at: at(1540) });
        let check = |tsc, expected| assert_eq!(scale.ns(tsc), expected, "{tsc}");
        check(1000, Some(40));
        check(2000, Some(540));
        check(2401, Some(741));
        check(4000, Some(1540));
        check(0, None);
        // Of another CPU, a little behind.
        check(999, Some(40));
    }

    #[test]
    fn phases_follow_one_another() {
        let recorder = Recorder::start(Instant::now());
        recorder.enter("one");
        recorder.enter("two");
        let recording = recorder.finish();
        let names: Vec<&str> = recording.phases.iter().map(|phase| phase.name.as_str()).collect();
        assert_eq!(names, ["one", "two"]);
        assert!(recording.phases[0].end_ns <= recording.phases[1].start_ns);
        assert!(recording.phases[1].end_ns <= recording.end_ns);
    }
}
