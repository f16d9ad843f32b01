//! The trace of a run: a file for Chrome's and Perfetto's viewers, and for `regrow plan --format html`.
//!
//! One process a task, one thread a thread, one slice an operation (its records behind one another) or a wait,
//! and one process for regrow itself with its phases. The format is Chrome's "JSON Object Format"; what is
//! regrow's own is in `args` and `otherData` (docs/views.md).
//!
//! Worked example: three records of operation 7, from 1.5 µs to 4 µs, become
//! `{"name":"fd 3: make pipe r2","cat":"make","ph":"X","ts":1.5,"dur":2.5,"pid":7,"tid":7,"args":{"image":
//! "files.img entry 4","op":7,"record":12,"records":3}}`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::sort::Sort;
use crate::coordinator::trace::{Phase, Recording};
use crate::image::PID_MAX;
use crate::tape::abi::{EVENTS_OFFSET, Record, Verb};
use crate::tape::{Tapes, ThreadState};

/// Name and version of what is regrow's own in the file.
pub const FORMAT: &str = "regrow-trace/1";

/// The trace of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// What run it was.
    pub about: About,
    /// What regrow itself did.
    pub phases: Vec<Phase>,
    /// What each task and thread did, in the order of the tapes.
    pub lanes: Vec<Lane>,
}

/// What run it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// [`FORMAT`].
    pub format: String,
    /// The regrow that ran.
    pub version: String,
    /// The image directory.
    pub directory: PathBuf,
    /// What was played, in one number: two plans of other operations have another ([`plan_id`]).
    pub plan: String,
    /// The pid that regrow itself has in the file.
    pub regrow: u32,
    /// `restored`, or why not.
    pub outcome: String,
}

/// What a task or thread did.
#[derive(Debug, Clone, PartialEq)]
pub struct Lane {
    /// Its pid, or tid.
    pub pid: u32,
    /// The pid of its process.
    pub process: u32,
    /// Its name, where it is known.
    pub comm: String,
    /// What it did.
    pub slices: Vec<Slice>,
}

/// An operation, or a wait.
#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    /// What, in words.
    pub name: String,
    /// Of what sort it is.
    pub sort: Sort,
    /// When it started, in nanoseconds since the start of the command.
    pub start_ns: u64,
    /// How long it took, in nanoseconds.
    pub len_ns: u64,
    /// The rest.
    pub args: Args,
}

/// What is told of a slice beside its times.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Args {
    /// Why it stands where it stands, in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub purpose: String,
    /// The image entry.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// The operation: an id of the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub op: Option<u32>,
    /// The first of its records, as `regrow tape` numbers them.
    pub record: u32,
    /// How many they are.
    pub records: u32,
    /// It did not end by itself: the task was parked, died, or was killed in it.
    #[serde(skip_serializing_if = "is_false")]
    pub is_unfinished: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// What an operation is, in words.
#[derive(Debug, Clone, Default)]
pub struct Words {
    /// What it does.
    pub what: String,
    /// Why it stands where it stands.
    pub purpose: String,
    /// The image entry.
    pub image: String,
}

/// What has no place of its own.
#[derive(Debug, Clone, Copy)]
pub struct Ran<'a> {
    /// What was played.
    pub tapes: &'a Tapes,
    /// Its threads.
    pub threads: &'a [ThreadState],
    /// Where the images are.
    pub directory: &'a Path,
    /// `restored`, or why not.
    pub outcome: &'a str,
}

/// Why a file cannot be used.
#[derive(Debug, Error)]
pub enum TraceError {
    /// It is no JSON of this shape.
    #[error("no trace of a restore: {0}")]
    Shape(#[from] serde_json::Error),
    /// It is of another version.
    #[error("a trace of format {0}, not {FORMAT}")]
    Format(String),
}

/// One event of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Event<A> {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cat: Option<String>,
    ph: String,
    /// Microseconds.
    #[serde(default)]
    ts: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    pid: u32,
    tid: u32,
    args: A,
}

#[derive(Debug, Serialize, Deserialize)]
struct File<A> {
    #[serde(rename = "traceEvents")]
    events: Vec<Event<A>>,
    #[serde(rename = "displayTimeUnit", default)]
    unit: String,
    #[serde(rename = "otherData")]
    about: About,
}

/// What is played, in one number: of each task the verb, the call and the operation of each record. Addresses are
/// not in it: another run may have them elsewhere.
pub fn plan_id(tapes: &Tapes) -> String {
    let mut hasher = blake3::Hasher::new();
    for task in &tapes.tasks {
        hasher.update(&task.pid.to_le_bytes());
        hasher.update(&task.records.to_le_bytes());
        for (_, record) in tapes.records(task) {
            hasher.update(&[record.verb]);
            hasher.update(&record.nr.to_le_bytes());
            hasher.update(&record.op.to_le_bytes());
        }
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

impl Trace {
    /// From what was noted. `words` says what an operation is, `comm` what a task is called.
    pub fn of(
        recording: &Recording,
        ran: &Ran<'_>,
        words: impl Fn(u32) -> Words,
        comm: impl Fn(u32) -> String,
    ) -> Trace {
        let tapes = ran.tapes;
        let mut process_of: BTreeMap<u32, u32> = BTreeMap::new();
        let mut leader = 0;
        for thread in ran.threads {
            if thread.is_leader {
                leader = thread.tid;
            }
            process_of.insert(thread.tid, leader);
        }
        let times: BTreeMap<u32, &[[Option<u64>; 2]]> =
            recording.tasks.iter().map(|task| (task.pid, task.records.as_slice())).collect();
        let mut known: BTreeMap<u32, Words> = BTreeMap::new();
        // What does not end by itself ends with the run.
        let run_end_ns = recording.phases.iter().map(|phase| phase.end_ns).max().unwrap_or(recording.end_ns);
        let lanes = tapes.tasks.iter().filter_map(|task| {
            let times = times.get(&task.pid)?;
            let records: Vec<Record> = tapes.records(task).map(|(_, record)| record).collect();
            let mut slices = Vec::new();
            let mut at = 0;
            for group in records.chunk_by(is_one) {
                let (first, last) = (at, at + group.len() - 1);
                at += group.len();
                let Some(start_ns) = times.get(first).and_then(|[start, _]| *start) else { continue };
                let times = times.get(first..=last).unwrap_or_default();
                // Within the group it may have ended in failure, or been killed.
                let end = times.last().and_then(|[_, end]| *end);
                let op = group[0].op;
                let words = known.entry(op).or_insert_with(|| words(op));
                let sort = Sort::of_record(&group[0]);
                let args = Args {
                    purpose: words.purpose.clone(),
                    image: words.image.clone(),
                    op: Some(op),
                    record: first as u32,
                    records: group.len() as u32,
                    is_unfinished: end.is_none(),
                };
                let until = if sort == Sort::Death { start_ns } else { run_end_ns };
                slices.push(Slice {
                    name: name(tapes, &group[0], words),
                    sort,
                    start_ns,
                    len_ns: end.unwrap_or(until).saturating_sub(start_ns),
                    args,
                });
            }
            let process = process_of.get(&task.pid).copied().unwrap_or(task.pid);
            Some(Lane { pid: task.pid, process, comm: comm(task.pid), slices })
        });
        let mut phases = recording.phases.clone();
        // One that holds others is in front of them.
        phases.sort_by_key(|phase| (phase.start_ns, std::cmp::Reverse(phase.end_ns)));
        Trace {
            lanes: lanes.collect(),
            phases,
            about: About {
                format: FORMAT.to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                directory: ran.directory.to_owned(),
                plan: plan_id(tapes),
                regrow: std::process::id(),
                outcome: ran.outcome.to_owned(),
            },
        }
    }

    /// The file.
    ///
    /// # Errors
    /// None that these types can cause.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        let micros = |ns: u64| ns as f64 / 1000.0;
        let meta = |name: &str, pid, tid, args| Event {
            name: name.to_owned(),
            cat: None,
            ph: "M".to_owned(),
            ts: 0.0,
            dur: None,
            pid,
            tid,
            args,
        };
        let regrow = self.about.regrow;
        let named = |name: &str| serde_json::json!({ "name": name });
        let mut events = vec![
            meta("process_name", regrow, regrow, named("regrow")),
            meta("process_sort_index", regrow, regrow, serde_json::json!({ "sort_index": -1 })),
        ];
        let tracks = tracks(&self.phases);
        // Of this process: the first has the pid of regrow, further ones numbers that no thread has.
        let tid = |track: usize| if track == 0 { regrow } else { PID_MAX + track as u32 };
        for track in 0..=tracks.iter().copied().max().unwrap_or(0) {
            let name = if track == 0 { "phases" } else { "phases at the same time" };
            events.push(meta("thread_name", regrow, tid(track), named(name)));
        }
        events.extend(self.phases.iter().zip(tracks).map(|(phase, track)| Event {
            name: phase.name.clone(),
            cat: Some("regrow".to_owned()),
            ph: "X".to_owned(),
            ts: micros(phase.start_ns),
            dur: Some(micros(phase.end_ns.saturating_sub(phase.start_ns))),
            pid: regrow,
            tid: tid(track),
            args: serde_json::json!({}),
        }));
        for (index, lane) in self.lanes.iter().enumerate() {
            if lane.process == lane.pid {
                events.push(meta("process_name", lane.process, lane.pid, named(&lane.comm)));
                let order = serde_json::json!({ "sort_index": index });
                events.push(meta("process_sort_index", lane.process, lane.pid, order));
            }
            events.push(meta("thread_name", lane.process, lane.pid, named(&lane.comm)));
            for slice in &lane.slices {
                events.push(Event {
                    name: slice.name.clone(),
                    cat: serde_json::to_value(slice.sort)?.as_str().map(str::to_owned),
                    ph: "X".to_owned(),
                    ts: micros(slice.start_ns),
                    dur: Some(micros(slice.len_ns)),
                    pid: lane.process,
                    tid: lane.pid,
                    args: serde_json::to_value(&slice.args)?,
                });
            }
        }
        serde_json::to_string(&File { events, unit: "ns".to_owned(), about: self.about.clone() })
    }

    /// What is in a file.
    ///
    /// # Errors
    /// It is no trace, or one of another version.
    pub fn from_json(text: &str) -> Result<Trace, TraceError> {
        let File { events, about, unit: _ } = serde_json::from_str::<File<serde_json::Value>>(text)?;
        if about.format != FORMAT {
            return Err(TraceError::Format(about.format));
        }
        // Anything else becomes 0 or the end of all numbers.
        let ns = |micros: f64| (micros * 1000.0).round() as u64;
        let mut phases = Vec::new();
        let mut lanes: Vec<Lane> = Vec::new();
        let mut place: BTreeMap<u32, usize> = BTreeMap::new();
        for event in events {
            let at = if event.pid == about.regrow {
                None
            } else {
                Some(*place.entry(event.tid).or_insert_with(|| {
                    let (pid, process) = (event.tid, event.pid);
                    lanes.push(Lane { pid, process, comm: String::new(), slices: Vec::new() });
                    lanes.len() - 1
                }))
            };
            let (start_ns, len_ns) = (ns(event.ts), ns(event.dur.unwrap_or(0.0)));
            match (event.ph.as_str(), at) {
                ("M", Some(at)) if event.name == "thread_name" => {
                    lanes[at].comm = event.args["name"].as_str().unwrap_or_default().to_owned();
                }
                ("X", None) => {
                    let end_ns = start_ns.saturating_add(len_ns);
                    phases.push(Phase { name: event.name, start_ns, end_ns });
                }
                ("X", Some(at)) => lanes[at].slices.push(Slice {
                    name: event.name,
                    sort: serde_json::from_value(event.cat.unwrap_or_default().into())?,
                    start_ns,
                    len_ns,
                    args: serde_json::from_value(event.args)?,
                }),
                _ => {}
            }
        }
        for lane in &mut lanes {
            lane.slices.sort_by_key(|slice| (slice.start_ns, slice.args.record));
        }
        Ok(Trace { about, phases, lanes })
    }
}

/// On which track each phase is shown, of those in order of their starts: on one track any two lie one within the other, or
/// apart. Viewers take slices of a thread for a stack of calls, and drop what is none.
fn tracks(phases: &[Phase]) -> Vec<usize> {
    let mut open: Vec<Vec<u64>> = Vec::new();
    let place = |phase: &Phase| {
        let fits = |ends: &mut Vec<u64>| {
            while ends.pop_if(|end| *end <= phase.start_ns).is_some() {}
            ends.last().is_none_or(|end| phase.end_ns <= *end)
        };
        let track = open.iter_mut().position(fits).unwrap_or(open.len());
        if track == open.len() {
            open.push(Vec::new());
        }
        open[track].push(phase.end_ns);
        track
    };
    phases.iter().map(place).collect()
}

/// Whether two records behind one another are told as one.
fn is_one(a: &Record, b: &Record) -> bool {
    let is_call = |record: &Record| matches!(record.verb(), Some(Verb::Syscall | Verb::Indirect));
    a.op == b.op && is_call(a) && is_call(b)
}

/// What a slice is called. Waits and posts belong to the operation before them, which they are not.
fn name(tapes: &Tapes, record: &Record, words: &Words) -> String {
    let event = || record.args[0].saturating_sub(tapes.base).saturating_sub(EVENTS_OFFSET) / 4;
    let is_note = |at: u64| {
        tapes.undo.iter().any(|undo| [undo.intent, undo.made, undo.gone].contains(&(at - tapes.base)))
    };
    match record.verb() {
        Some(Verb::Wait) => format!("wait for e{}", event()),
        Some(Verb::Post) if record.args[0] >= tapes.base && is_note(record.args[0]) => {
            "note for the launcher".to_owned()
        }
        Some(Verb::Post) => format!("post e{}", event()),
        Some(Verb::Syscall | Verb::Indirect | Verb::Fork | Verb::Arrive | Verb::Park) | None => {
            words.what.clone()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::coordinator::trace::TaskTimes;
    use crate::runner;
    use crate::tape::assemble::{Assembler, Tape};

    #[test]
    fn phases_at_the_same_time_are_on_tracks_of_their_own() {
        let phase = |name: &str, start_ns, end_ns| Phase { name: name.to_owned(), start_ns, end_ns };
        let phases = [
            phase("prepare", 0, 100),
            phase("read", 0, 20),
            phase("demands", 20, 60),
            phase("resolve", 30, 70),
            phase("plan", 60, 80),
            phase("lower", 70, 100),
            phase("play", 100, 200),
        ];
        assert_eq!(tracks(&phases), [0, 0, 0, 1, 0, 1, 0]);
        let trace = Trace { phases: phases.to_vec(), ..traced() };
        let again = Trace::from_json(&trace.to_json().unwrap()).unwrap();
        let names = |trace: &Trace| trace.phases.iter().map(|phase| phase.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&again), names(&trace));
    }

    fn traced() -> Trace {
        let mut asm = Assembler::new(1 << 32, 4, 0, runner::code());
        let mut tape = Tape { op: 3, ..Tape::default() };
        tape.call(libc::SYS_pipe2, &[0, 0], 0);
        tape.call(libc::SYS_write, &[4, 0, 5], 5);
        let word = asm.event(2);
        tape.wait(word);
        tape.op = 4;
        tape.call(libc::SYS_umask, &[0], 0);
        tape.op = 5;
        tape.park();
        asm.tape(7, true, 0, &tape.records);
        let tapes = asm.finish(2 << 20, 2 << 20).unwrap();
        let times = [(100, 200), (250, 1300), (1400, 9000), (9000, 9100)];
        let mut records: Vec<[Option<u64>; 2]> = times.map(|(start, end)| [Some(start), Some(end)]).to_vec();
        records.push([Some(9200), None]);
        let recording = Recording {
            phases: vec![Phase { name: "play".to_owned(), start_ns: 50, end_ns: 9500 }],
            tasks: vec![TaskTimes { pid: 7, records }],
            end_ns: 10_000,
        };
        let ran = Ran { tapes: &tapes, threads: &[], directory: Path::new("/images"), outcome: "restored" };
        let words =
            |op| Words { what: format!("do {op}"), purpose: "\"</script>".to_owned(), ..Words::default() };
        Trace::of(&recording, &ran, words, |_| "comm".to_owned())
    }

    #[test]
    fn records_become_slices() {
        let trace = traced();
        let told: Vec<(&str, Sort, u64, u64, bool)> = trace.lanes[0]
            .slices
            .iter()
            .map(|slice| {
                let Slice { name, sort, start_ns, len_ns, args } = slice;
                (name.as_str(), *sort, *start_ns, *len_ns, args.is_unfinished)
            })
            .collect();
        assert_eq!(
            told,
            [
                ("do 3", Sort::Make, 100, 1200, false),
                ("wait for e2", Sort::Wait, 1400, 7600, false),
                ("do 4", Sort::Attribute, 9000, 100, false),
                ("do 5", Sort::Barrier, 9200, 300, true),
            ]
        );
        assert_eq!((trace.lanes[0].slices[0].args.records, trace.lanes[0].slices[2].args.record), (2, 3));
    }

    #[test]
    fn written_and_read() {
        let trace = traced();
        let text = trace.to_json().unwrap();
        assert_eq!(Trace::from_json(&text).unwrap(), trace);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let events = json["traceEvents"].as_array().unwrap();
        // What Chrome's viewer asks of an event.
        for event in events {
            assert!(event["pid"].is_u64() && event["tid"].is_u64() && event["name"].is_string());
            assert!(event["ph"] == "M" || event["ts"].is_f64() && event["dur"].is_f64(), "{event}");
        }
        assert!(events.iter().any(|event| event["ts"] == 9.2 && event["cat"] == "barrier"));
    }

    #[test]
    fn what_is_no_trace_is_refused() {
        let refused = |text: &str| Trace::from_json(text).unwrap_err().to_string();
        assert!(refused("{}").contains("traceEvents"));
        assert!(refused("nonsense").starts_with("no trace of a restore"));
        let other = traced().to_json().unwrap().replace(FORMAT, "regrow-trace/9");
        assert_eq!(refused(&other), "a trace of format regrow-trace/9, not regrow-trace/1");
        let sort = traced().to_json().unwrap().replace("\"barrier\"", "\"barriers\"");
        assert!(refused(&sort).contains("barriers"));
    }
}
