//! Plans of made-up trees, played on the model of the kernel: small ones in every interleaving, large ones
//! under many schedules. All come to one and the same end, and that is what the images describe.
//!
//! The images are synthetic and written here; nothing is dumped or restored, so no privilege is needed.

// How much the reduction saves is for whoever looks.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use regrow::certify::{self, Ground};
use regrow::image::{self, Model};
use regrow::pipeline::{self, Prepared};
use regrow::resolve::Options;
use regrow::resolve::policy::Policy;
use regrow::synth::model::synthesise;
use regrow::synth::random::Shape;
use regrow::synth::{Forest, Kind, Slot, Task};
use regrow::tape::lift::lift;
use regrow_graph::verify::{
    Alike, AttributeKind, Change, Effect, Expected, FdEffect, LiftedTree, Value, verify_with,
};
use regrow_model::{Bounds, Found, Host, Schedule, World, everything, explore, play, wanted};
use regrow_proptests::memory;

const ROOT: u32 = 21_000;

/// A tree that was made up, planned, lowered and lifted again.
struct Planned {
    model: Model,
    host: Host,
    lifted: LiftedTree,
    expected: Expected,
    _dir: tempfile::TempDir,
}

/// A random one.
fn made_up(tasks: usize, depth: usize, shared_fds: usize, shared_maps: usize, seed: u64) -> Planned {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("files");
    fs::create_dir(&directory).unwrap();
    let shape =
        Shape { tasks, depth, shared_fds, shared_maps, with_pairs: true, first_pid: ROOT, directory, seed };
    let forest = shape.forest();
    for (path, bytes) in shape.files(&forest) {
        fs::write(path, bytes).unwrap();
    }
    planned_by(Policy::Inherit, &forest, dir)
}

/// The same, planned by CRIU's rule.
fn made_up_of_messages(tasks: usize, depth: usize, shared_fds: usize, seed: u64) -> Planned {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("files");
    fs::create_dir(&directory).unwrap();
    let (shared_maps, with_pairs, first_pid) = (0, true, ROOT);
    let shape = Shape { tasks, depth, shared_fds, shared_maps, with_pairs, first_pid, directory, seed };
    let forest = shape.forest();
    for (path, bytes) in shape.files(&forest) {
        fs::write(path, bytes).unwrap();
    }
    planned_by(Policy::LowestPid, &forest, dir)
}

fn planned(forest: &Forest, dir: tempfile::TempDir) -> Planned {
    planned_by(Policy::Inherit, forest, dir)
}

fn planned_by(policy: Policy, forest: &Forest, dir: tempfile::TempDir) -> Planned {
    let images = dir.path().join("images");
    fs::create_dir(&images).unwrap();
    let executable = std::env::current_exe().unwrap();
    let executable = executable.to_str().unwrap();
    let ground = regrow::synth::model::Ground { own: &regrow::host::gather_own(), executable };
    let synthetic = synthesise(forest, &ground).unwrap();
    image::write_model(&synthetic.model, &synthetic.contents, &images).unwrap();
    // That pids are taken here keeps nobody from looking at the plan.
    let (prepared, problems) =
        pipeline::try_prepare(&images, &Options { policy, ..Options::default() }).unwrap();
    let Some(Prepared { model, facts, tapes, .. }) = prepared else { panic!("{problems:?}") };
    let lifted = lift(&tapes).unwrap();
    let expected = certify::expected(&model, &Ground::of(&facts, certify::Cradle::default())).unwrap();
    // What the root has from the start is a fact about whoever runs this.
    let mut host = Host::default();
    for (kind, value) in &expected.inherited {
        if let (AttributeKind::CapPermitted, Value::Number(capabilities)) = (kind, value) {
            host.capabilities = *capabilities;
        }
    }
    Planned { model, host, lifted, expected, _dir: dir }
}

impl Planned {
    /// Whether tapes have a certificate. Pages that come from another image than theirs are compared.
    fn certifies(&self, tree: &LiftedTree) -> bool {
        let bytes = |(path, from): (&[u8], u64), len: u64| {
            let mut bytes = vec![0; len as usize];
            File::open(OsStr::from_bytes(path))?.read_exact_at(&mut bytes, from)?;
            Ok::<_, std::io::Error>(bytes)
        };
        let mut is_alike = |alike: &Alike<'_>| {
            bytes(alike.held, alike.len).unwrap() == bytes(alike.wanted, alike.len).unwrap()
        };
        verify_with(tree, &self.expected, &|_| false, &mut is_alike).is_ok()
    }

    fn world(&self) -> World {
        World::new(&self.lifted, self.host.clone()).unwrap()
    }

    /// Plays it under a schedule; everybody must come to his end.
    #[track_caller]
    fn played(&self, schedule: Schedule) -> World {
        let played = play(self.world(), schedule);
        let faults: Vec<String> = played.faults.iter().map(ToString::to_string).collect();
        assert!(faults.is_empty(), "{schedule:?}: {faults:?}");
        assert!(played.stuck.is_empty(), "{schedule:?}: {:?}", played.stuck);
        played.world
    }

    fn records(&self) -> usize {
        self.lifted.tasks.iter().map(|task| task.effects.len()).sum()
    }

    fn count(&self, is_one: impl Fn(&Effect) -> bool) -> usize {
        let tapes = self.lifted.tasks.iter().flat_map(|task| &task.effects);
        tapes.filter(|lifted| is_one(&lifted.effect)).count()
    }
}

/// All interleavings of a plan come to one end, and that is what the images say.
#[track_caller]
fn check_all(planned: &Planned) -> Found {
    let found = explore(&planned.world(), Bounds::default());
    assert!(!found.is_cut);
    assert_eq!(found.deadlocks, BTreeSet::new());
    let ends = found.ends.len();
    assert!(found.is_one_end(), "{ends} ends, {:?}", found.ends.iter().next().map(|end| end.faults().len()));
    let end = found.ends.iter().next().unwrap();
    assert_eq!(wanted::differences(end, &planned.expected), Vec::<String>::new());
    let lowest = planned.played(Schedule::Lowest);
    assert!(lowest.end() == *end);
    assert_eq!(memory::differences(&lowest, &planned.model), Vec::<String>::new());
    found
}

#[test]
fn small_trees_in_every_interleaving() {
    for (tasks, depth, seed) in [(1, 1, 1), (2, 1, 2), (3, 2, 3), (4, 2, 4), (6, 3, 5), (8, 3, 6), (12, 4, 7)]
    {
        let planned = made_up(tasks, depth, 2 * tasks, tasks / 2, seed);
        let found = check_all(&planned);
        let records = planned.records();
        eprintln!("{tasks} tasks, {records} records: {} runs, {} steps", found.runs, found.transitions);
    }
}

/// By CRIU's rule: stages end and begin behind events, messages are sent, taken in turns and looked at.
#[test]
fn messages_in_every_interleaving() {
    for (tasks, depth, shared, seed) in [(2, 1, 4, 2), (3, 2, 8, 3), (4, 2, 12, 4), (5, 3, 16, 5)] {
        let planned = made_up_of_messages(tasks, depth, shared, seed);
        let received = |stays: bool| {
            planned.count(
                |effect| matches!(effect, Effect::Fd(FdEffect::Receive { stays: is, .. }) if *is == stays),
            )
        };
        let (taken, looked) = (received(false), received(true));
        assert!(taken + looked > 0);
        let found = check_all(&planned);
        let records = planned.records();
        eprintln!(
            "{tasks} tasks, {records} records, {taken} messages taken, {looked} looked at: {} runs, {} steps",
            found.runs, found.transitions
        );
    }
}

/// Without one of its posts, waits or sendings such a plan comes to another end, or to none; and there is no
/// certificate.
#[test]
fn messages_that_are_broken() {
    let planned = made_up_of_messages(3, 2, 8, 3);
    assert!(planned.certifies(&planned.lifted));
    let good = planned.played(Schedule::Lowest).end();
    let mut broken = 0;
    for (task, tape) in planned.lifted.tasks.iter().enumerate() {
        for (at, lifted) in tape.effects.iter().enumerate() {
            let is_sent = matches!(&lifted.effect, Effect::Object { change: Change::Send { rights, .. }, .. } if !rights.is_empty());
            let is_received = matches!(lifted.effect, Effect::Fd(FdEffect::Receive { .. }));
            if !is_sent && !is_received && !matches!(lifted.effect, Effect::Post(_)) {
                continue;
            }
            let mut tree = planned.lifted.clone();
            tree.tasks[task].effects.remove(at);
            broken += 1;
            let found = explore(&World::new(&tree, planned.host.clone()).unwrap(), Bounds::default());
            let is_good = found.deadlocks.is_empty() && found.ends.iter().all(|end| *end == good);
            assert!(!is_good, "task {task}, record {at}: {:?}", lifted.effect);
            assert!(!planned.certifies(&tree), "task {task}, record {at}");
        }
    }
    assert!(broken > 4, "{broken}");
}

/// A shell with a job of two in a group that the first of them leads, and one that has died: groups are joined
/// behind events, deaths are awaited.
fn job() -> Forest {
    let own =
        |parent: Option<usize>, pid: u32, pgid: u32| Task { pid, parent, pgid, sid: ROOT, ..Task::default() };
    let slot = |fd, end| Slot { fd, resource: 0, end, cloexec: false };
    let mut tasks = vec![
        own(None, ROOT, ROOT),
        own(Some(0), ROOT + 1, ROOT + 1),
        own(Some(0), ROOT + 2, ROOT + 1),
        Task { dead: Some(3), ..own(Some(0), ROOT + 3, ROOT + 1) },
    ];
    tasks[1].table = vec![slot(1, 1)];
    tasks[2].table = vec![slot(0, 0)];
    Forest { tasks, resources: vec![Kind::Pipe { data: b"half a line".to_vec() }], ..Forest::default() }
}

#[test]
fn a_job_in_every_interleaving() {
    let planned = planned(&job(), tempfile::tempdir().unwrap());
    let waits = planned.count(|effect| matches!(effect, Effect::Wait(_) | Effect::AwaitExit { .. }));
    assert!(waits >= 2, "{waits}");
    let found = check_all(&planned);
    eprintln!(
        "{} records, {waits} waits: {} runs, {} steps",
        planned.records(),
        found.runs,
        found.transitions
    );
}

/// What the reduction leaves out comes to nothing else: the same plan with every state visited, which is possible
/// as the tasks' own preparations are cut down to what others can see.
#[test]
fn every_state_of_a_job() {
    let mut planned = planned(&job(), tempfile::tempdir().unwrap());
    for task in &mut planned.lifted.tasks {
        task.effects.retain(|lifted| {
            !matches!(lifted.effect, Effect::Memory(_) | Effect::Attribute(_)) || task.pid == ROOT
        });
        let reads = |effect: &Effect| matches!(effect, Effect::Object { change: Change::Read { .. }, .. });
        task.effects.retain(|lifted| !reads(&lifted.effect));
    }
    let bounds = Bounds { transitions: 2_000_000 };
    let all = everything(&planned.world(), bounds);
    let found = explore(&planned.world(), bounds);
    eprintln!(
        "{:.3e} interleavings; {} states and {} steps; reduced: {} runs, {} steps",
        all.interleavings, all.states, all.transitions, found.runs, found.transitions
    );
    assert!(all.is_one_end() && found.is_one_end());
    assert!(all.ends == found.ends);
    assert!(found.transitions < all.transitions / 10 && all.interleavings > 1e6);
}

/// Without one of its posts, or with a wait moved before what it waits for, the plan gets stuck: the search says so,
/// and there is no certificate.
#[test]
fn a_job_that_is_broken() {
    let planned = planned(&job(), tempfile::tempdir().unwrap());
    assert!(planned.certifies(&planned.lifted));
    let mut broken = 0;
    for (task, tape) in planned.lifted.tasks.iter().enumerate() {
        for (at, lifted) in tape.effects.iter().enumerate() {
            let mut tree = planned.lifted.clone();
            let effects = &mut tree.tasks[task].effects;
            match &lifted.effect {
                Effect::Post(_) => {
                    effects.remove(at);
                }
                // To the front: before the fork of who is awaited, or before what he waits for.
                Effect::Wait(_)
                    if effects[..at].iter().any(|other| matches!(other.effect, Effect::Post(_))) =>
                {
                    let wait = effects.remove(at);
                    effects.insert(0, wait);
                }
                _ => continue,
            }
            broken += 1;
            let found = explore(&World::new(&tree, planned.host.clone()).unwrap(), Bounds::default());
            assert!(!found.deadlocks.is_empty(), "task {task}, record {at}: {:?}", lifted.effect);
            assert!(!planned.certifies(&tree), "task {task}, record {at}");
        }
    }
    assert!(broken > 0);
}

/// The comparisons can fail: whatever record about descriptors or memory is left out, the run fails or comes to
/// another end.
#[test]
fn what_is_left_out_is_seen() {
    let planned = made_up(3, 2, 6, 2, 3);
    let good = planned.played(Schedule::Lowest).end();
    let (mut left_out, mut unseen) = (0, Vec::new());
    for (task, tape) in planned.lifted.tasks.iter().enumerate() {
        for (at, lifted) in tape.effects.iter().enumerate() {
            let counts = match &lifted.effect {
                // A buffer is made larger only for as long as something is sent, in case it need be.
                Effect::Object { change, .. } => !matches!(change, Change::SetOption { .. }),
                // Where something is copied to a number, what was there is closed by that (dup2(2)).
                Effect::Fd(FdEffect::Close { fd }) => {
                    let behind = tape.effects[at + 1..].iter().map(|lifted| &lifted.effect);
                    !behind
                        .take_while(|effect| !matches!(effect, Effect::Fork(_)))
                        .any(|effect| matches!(effect, Effect::Fd(FdEffect::Dup { to, .. }) if to == fd))
                }
                effect => matches!(effect, Effect::Fd(_) | Effect::Memory(_)),
            };
            if !counts {
                continue;
            }
            let mut tree = planned.lifted.clone();
            tree.tasks[task].effects.remove(at);
            left_out += 1;
            let played = play(World::new(&tree, planned.host.clone()).unwrap(), Schedule::Lowest);
            let is_seen = !played.is_good() || played.world.end() != good;
            if !is_seen {
                unseen.push(format!("task {task}, record {at}: {:?}", lifted.effect));
            }
        }
    }
    assert_eq!(unseen, Vec::<String>::new());
    assert!(left_out > 60, "{left_out}");
}

#[test]
fn a_hundred_tasks_under_many_schedules() {
    let planned = made_up(100, 6, 40, 12, 1);
    let end = planned.played(Schedule::Lowest).end();
    assert_eq!(wanted::differences(&end, &planned.expected), Vec::<String>::new());
    let highest = planned.played(Schedule::Highest);
    assert_eq!(memory::differences(&highest, &planned.model), Vec::<String>::new());
    let random = (0..100).map(Schedule::Random).chain((0..20).map(Schedule::Bursts));
    let others = [Schedule::Highest, Schedule::Adversary, Schedule::Turned];
    for schedule in random.chain(others) {
        assert!(planned.played(schedule).end() == end, "{schedule:?}");
    }
}
