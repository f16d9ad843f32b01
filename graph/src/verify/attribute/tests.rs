//! A small tree whose attributes end as wanted, and what loses that.
//!
//! Task 10 sets everything that its children may inherit and forks 11, which has a thread 12; 13 is a
//! zombie that is called otherwise.

use std::collections::BTreeMap;

use super::*;
use crate::verify::*;

const SIGCHLD: u64 = 17;
const THREAD: u64 = 0x50f00;
/// All signals but SIGKILL and SIGSTOP.
const ALL: u64 = !(1 << 8 | 1 << 18);

type Tapes = BTreeMap<u32, Vec<Effect>>;
type Said = Vec<(Kind, Value)>;

fn sets(attribute: Attribute) -> Effect {
    Effect::Attribute(attribute)
}

fn gives(privilege: PrivilegeEffect) -> Effect {
    Effect::Privilege(privilege)
}

fn number(number: u64) -> Value {
    Value::Number(number)
}

fn fork(pid: u32, flags: u64, exit_signal: u64) -> Effect {
    Effect::Fork(Birth { pid, flags, exit_signal, cgroup: None })
}

fn action(signal: u32, handler: u64) -> Effect {
    sets(Attribute::SigAction { signal, handler, flags: 0, restorer: 0, mask: 0 })
}

fn queue(pid: u32, tid: Option<u32>, signal: u32, byte: u8) -> Effect {
    sets(Attribute::QueueSignal { pid, tid, signal, info: vec![byte; 128] })
}

fn waiting(signal: u32, byte: u8) -> Pending {
    Pending { signal, info: vec![byte; 128].into() }
}

fn tapes() -> Tapes {
    let close_all =
        Effect::Fd(FdEffect::CloseRange { first: 0, last: u32::MAX, only_mark: false, unshare: false });
    let mut root = vec![
        sets(Attribute::SigMask { how: 2, set: u64::MAX }),
        close_all,
        Effect::SetSid,
        sets(Attribute::Umask(0o77)),
        sets(Attribute::WorkingDirectory(b"/srv".to_vec())),
        sets(Attribute::Name(b"root".to_vec())),
        sets(Attribute::AltStack { sp: 0x1000, flags: 0, len: 0x2000 }),
    ];
    root.extend((1..=64).filter(|signal| !matches!(signal, 9 | 19)).map(|signal| action(signal, 0)));
    root.extend([
        fork(11, 0, SIGCHLD),
        fork(13, 0, SIGCHLD),
        Effect::AwaitExit { pid: 13, reap: false },
        sets(Attribute::EatSignal { set: 1 << 16 }),
        action(10, 0x4000),
        sets(Attribute::TidAddress(0x5000)),
        Effect::Arrive,
        gives(PrivilegeEffect::Limit { resource: 7, soft: 10, hard: 20 }),
        gives(PrivilegeEffect::Uids([Some(1000); 3])),
        sets(Attribute::ParentDeathSignal(15)),
        sets(Attribute::Dumpable(1)),
        Effect::Park,
    ]);
    let child = vec![
        sets(Attribute::Name(b"child".to_vec())),
        Effect::Fd(FdEffect::Open { path: b"/proc/self/oom_score_adj".to_vec(), flags: 1, fd: 0 }),
        Effect::Object { fd: 0, change: Change::Write { data: b"-500".to_vec() } },
        Effect::Fd(FdEffect::Close { fd: 0 }),
        sets(Attribute::TimerIds(true)),
        sets(Attribute::TimerCreate { clock: 1, event: Vec::new(), id: 5 }),
        sets(Attribute::TimerIds(false)),
        fork(12, THREAD, 0),
        Effect::Arrive,
        queue(11, None, 40, 1),
        queue(11, None, 40, 2),
        queue(11, None, 10, 3),
        queue(11, Some(11), 12, 4),
        sets(Attribute::IntervalTimer { which: 1, interval_us: 5, value_us: 0 }),
        sets(Attribute::TimerSet { id: 5, flags: 0, interval_ns: 7, value_ns: 9 }),
        sets(Attribute::Subreaper(true)),
        gives(PrivilegeEffect::Uids([Some(1000); 3])),
        sets(Attribute::Dumpable(1)),
        Effect::Park,
    ];
    let thread = vec![
        sets(Attribute::Nice(-5)),
        Effect::Arrive,
        gives(PrivilegeEffect::Uids([None, Some(1000), None])),
        sets(Attribute::Dumpable(1)),
        Effect::Park,
    ];
    let zombie = vec![sets(Attribute::Name(b"gone".to_vec())), Effect::Exit { code: 0 }];
    BTreeMap::from([(10, root), (11, child), (12, thread), (13, zombie)])
}

fn actions(handlers: &[(usize, u64)]) -> Value {
    let mut all = [Some(Action::default()); 64];
    for (signal, handler) in handlers {
        all[signal - 1] = Some(Action { handler: *handler, ..Action::default() });
    }
    Value::Actions(all.into())
}

fn limits(limit: Limit) -> Value {
    let mut all = [Some(Limit::new(100, 100)); 16];
    all[7] = Some(limit);
    Value::Limits(all.into())
}

fn expected() -> Expected {
    let timer = Timer { clock: 1, event: [5, 14, 0, 0], times_ns: (7, 9) };
    let uids = |real: u64, saved: u64| {
        [
            (Kind::Uid, number(real)),
            (Kind::EffectiveUid, number(1000)),
            (Kind::SavedUid, number(saved)),
            (Kind::FsUid, number(1000)),
        ]
    };
    let root: Said = [
        (Kind::Umask, number(0o77)),
        (Kind::WorkingDirectory, Value::bytes(b"/srv")),
        (Kind::RootDirectory, Value::bytes(b"/")),
        (Kind::Name, Value::bytes(b"root")),
        (Kind::AltStack, Value::alt_stack(0x1000, 1, 0x2000)),
        (Kind::SigActions, actions(&[(10, 0x4000)])),
        (Kind::SigMask, number(ALL)),
        (Kind::TidAddress, number(0x5000)),
        (Kind::Subreaper, number(0)),
        (Kind::PendingShared, Value::Nothing),
        (Kind::Limits, limits(Limit::new(10, 20))),
        (Kind::ParentDeathSignal, number(15)),
        (Kind::Dumpable, number(1)),
        (Kind::CapEffective, number(0)),
        (Kind::CapPermitted, number(0)),
        (Kind::CapInheritable, number(0)),
        (Kind::OomScoreAdj, number(0)),
    ]
    .into_iter()
    .chain(uids(1000, 1000))
    .collect();
    let child: Said = [
        (Kind::Umask, number(0o77)),
        (Kind::Name, Value::bytes(b"child")),
        (Kind::AltStack, Value::alt_stack(0x1000, 0, 0x2000)),
        (Kind::SigActions, actions(&[])),
        (Kind::TidAddress, number(0)),
        (Kind::Subreaper, number(1)),
        (Kind::TimerIds, number(0)),
        (Kind::PosixTimers, Value::timers([(5, timer)].into())),
        (Kind::IntervalTimers, Value::interval_timers([(0, 0), (5, 0), (0, 0)])),
        (Kind::PendingShared, Value::signals(vec![waiting(40, 1), waiting(40, 2), waiting(10, 3)])),
        (Kind::Pending, Value::signals(vec![waiting(12, 4)])),
        (Kind::Limits, limits(Limit::new(100, 100))),
        (Kind::OomScoreAdj, Value::signed(-500)),
        (Kind::Dumpable, number(1)),
        (Kind::ParentDeathSignal, number(0)),
        (Kind::Nice, number(0)),
    ]
    .into_iter()
    .chain(uids(1000, 1000))
    .collect();
    let thread: Said = [
        (Kind::Name, Value::bytes(b"child")),
        (Kind::AltStack, Value::Nothing),
        (Kind::Pending, Value::Nothing),
        (Kind::Nice, Value::signed(-5)),
        // One of them is 0 still: nothing but the effective set is lost.
        (Kind::CapEffective, number(0)),
        (Kind::CapPermitted, number(0xff)),
    ]
    .into_iter()
    .chain(uids(0, 0))
    .collect();
    let task = |pid: u32, ppid: u32| ExpectedTask { pid, ppid, sid: 10, pgid: 10, ..ExpectedTask::default() };
    Expected {
        tasks: vec![
            ExpectedTask { attributes: [(10, root)].into(), ..task(10, 0) },
            ExpectedTask {
                threads: vec![12],
                attributes: [(11, child), (12, thread)].into(),
                ..task(11, 10)
            },
            ExpectedTask {
                life: Life::Zombie { status: 0 },
                attributes: [(13, vec![(Kind::Name, Value::bytes(b"gone"))])].into(),
                ..task(13, 10)
            },
        ],
        facts: Facts { suid_dumpable: Some(2), ..Facts::default() },
        inherited: vec![
            (Kind::RootDirectory, Value::bytes(b"/")),
            (Kind::Limits, limits(Limit::new(100, 100))),
            (Kind::OomScoreAdj, number(0)),
            (Kind::Nice, number(0)),
            (Kind::Scheduler, Value::numbers(&[0, 0])),
            (Kind::TimerSlack, number(50_000)),
            (Kind::Dumpable, number(1)),
            (Kind::Uid, number(0)),
            (Kind::EffectiveUid, number(0)),
            (Kind::SavedUid, number(0)),
            (Kind::FsUid, number(0)),
            (Kind::CapEffective, number(0xff)),
            (Kind::CapPermitted, number(0xff)),
            (Kind::CapInheritable, number(0)),
            (Kind::CapAmbient, number(0)),
            (Kind::Securebits, number(0)),
            (Kind::KeepCaps, number(0)),
        ],
        ..Expected::default()
    }
}

fn run(tapes: &Tapes, expected: &Expected) -> Result<Certificate, Counterexample> {
    let tasks = tapes.iter().map(|(pid, effects)| LiftedTask {
        pid: *pid,
        effects: effects.iter().cloned().zip(0..).map(|(effect, record)| Lifted { record, effect }).collect(),
    });
    let tree = LiftedTree {
        total: 3,
        root: Birth { pid: 10, flags: 0, exit_signal: SIGCHLD, cgroup: None },
        tasks: tasks.collect(),
        ..LiftedTree::default()
    };
    verify(&tree, expected)
}

#[track_caller]
fn check(change: impl FnOnce(&mut Tapes, &mut Expected), words: &str) {
    let (mut tapes, mut expected) = (tapes(), expected());
    change(&mut tapes, &mut expected);
    match run(&tapes, &expected) {
        Ok(certificate) => panic!("a certificate, expected: {words}\n{certificate}"),
        Err(counterexample) => {
            let text = counterexample.to_string();
            assert!(text.contains(words), "{text}\nexpected: {words}");
        }
    }
}

#[track_caller]
fn passes(change: impl FnOnce(&mut Tapes, &mut Expected)) -> Certificate {
    let (mut tapes, mut expected) = (tapes(), expected());
    change(&mut tapes, &mut expected);
    run(&tapes, &expected).unwrap_or_else(|counterexample| panic!("{counterexample}"))
}

fn of(tapes: &mut Tapes, pid: u32) -> &mut Vec<Effect> {
    tapes.get_mut(&pid).expect("such a tape")
}

/// Puts effects before the first that is equal to `before`.
#[track_caller]
fn insert(tapes: &mut Tapes, pid: u32, before: &Effect, effects: Vec<Effect>) {
    let at = tapes[&pid].iter().position(|effect| effect == before).expect("such an effect");
    of(tapes, pid).splice(at..at, effects);
}

#[track_caller]
fn remove(tapes: &mut Tapes, pid: u32, effect: &Effect) {
    let at = tapes[&pid].iter().position(|other| other == effect).expect("such an effect");
    of(tapes, pid).remove(at);
}

#[test]
fn all_ends_as_wanted() {
    let certificate = passes(|_, _| ());
    // Lists count by what is in them.
    let lists = 2 * (64 + 16 - 2);
    assert_eq!(certificate.attributes, 21 + 20 + 10 + 1 + lists);
    let facts = certificate.host_facts;
    let mut limits: Vec<String> = (0..16).map(|resource| format!("resource limit {resource}")).collect();
    limits.extend(["oom_score_adj", "root directory", "nice", "real uid", "saved uid"].map(str::to_owned));
    limits.extend(["permitted capabilities", "inheritable capabilities"].map(str::to_owned));
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    assert_eq!(sorted(facts), sorted(limits));
}

#[test]
fn what_nobody_sets_is_unknown() {
    check(
        |t, _| remove(t, 10, &sets(Attribute::Umask(0o77))),
        "task 10: umask is unknown (nothing certain sets it) at the end, the images say 077",
    );
    check(
        |t, _| remove(t, 10, &action(12, 0)),
        "task 10: action of signal 12 is unknown (nothing certain sets it) at the end, the images say the default",
    );
    check(|_, e| e.inherited.clear(), "task 10: root directory is unknown");
    check(
        |_, e| e.inherited.retain(|(kind, _)| *kind != Kind::Limits),
        "task 10: resource limit 0 is unknown (nothing certain sets it) at the end, the images say 100, hard 100",
    );
    // Whether the uids were 0 before decides what becomes of capabilities.
    check(
        |_, e| e.inherited.retain(|(kind, _)| *kind != Kind::SavedUid),
        "task 10: effective capabilities is unknown",
    );
    // Without the host's word a change of credentials leaves anything.
    check(
        |t, e| {
            e.facts.suid_dumpable = None;
            remove(t, 10, &sets(Attribute::Dumpable(1)));
        },
        "task 10: dumpable is unknown",
    );
}

#[test]
fn births() {
    // What the parent sets after the fork the child does not have, and the other way round.
    check(
        |t, _| insert(t, 10, &fork(11, 0, SIGCHLD), vec![sets(Attribute::Umask(0))]),
        "task 10: umask is 000 at the end, the images say 077",
    );
    check(
        |t, _| insert(t, 10, &Effect::Arrive, vec![sets(Attribute::Umask(0o27))]),
        "task 10: umask is 027 at the end, the images say 077",
    );
    check(
        |t, _| remove(t, 11, &sets(Attribute::Name(b"child".to_vec()))),
        "task 11: name is root at the end, the images say child",
    );
    check(
        |t, _| remove(t, 13, &sets(Attribute::Name(b"gone".to_vec()))),
        "task 13: name is root at the end, the images say gone",
    );
    // The thread starts without.
    check(
        |_, e| {
            let thread = e.tasks[1].attributes.get_mut(&12).expect("the thread");
            thread[1].1 = Value::alt_stack(0x1000, 0, 0x2000);
        },
        "task 11: alternate signal stack of its thread 12 is none at the end, the images say 0x1000 0x0 0x2000",
    );
    check(
        |t, _| insert(t, 10, &fork(11, 0, SIGCHLD), vec![action(10, 0x4000)]),
        "task 11: action of signal 10 is handled at 0x4000",
    );
    // A fork clears these, whatever the parent has.
    passes(|t, _| {
        let before = vec![
            sets(Attribute::Subreaper(true)),
            sets(Attribute::TidAddress(1)),
            sets(Attribute::RobustList { head: 8, len: 24 }),
            sets(Attribute::ParentDeathSignal(3)),
            sets(Attribute::IntervalTimer { which: 0, interval_us: 1, value_us: 1 }),
            sets(Attribute::TimerIds(true)),
        ];
        insert(t, 10, &fork(11, 0, SIGCHLD), before);
        insert(
            t,
            10,
            &Effect::Arrive,
            vec![sets(Attribute::Subreaper(false)), sets(Attribute::TidAddress(0x5000))],
        );
    });
    // Nobody forks with SCHED_DEADLINE; SCHED_RESET_ON_FORK is for the parent alone.
    let scheduler = |policy| sets(Attribute::Scheduler { policy, priority: 0 });
    check(|t, _| insert(t, 10, &fork(11, 0, SIGCHLD), vec![scheduler(6)]), "SCHED_DEADLINE");
    passes(|t, _| {
        insert(t, 10, &fork(11, 0, SIGCHLD), vec![scheduler(0x4000_0003), sets(Attribute::Nice(-7))]);
    });
    check(
        |t, _| insert(t, 10, &fork(11, 0, SIGCHLD), vec![scheduler(3), sets(Attribute::Nice(-7))]),
        "task 11: nice is -7 at the end, the images say 0",
    );
}

#[test]
fn credentials() {
    check(
        |t, _| {
            remove(t, 10, &sets(Attribute::ParentDeathSignal(15)));
            insert(
                t,
                10,
                &gives(PrivilegeEffect::Uids([Some(1000); 3])),
                vec![sets(Attribute::ParentDeathSignal(15))],
            );
        },
        "task 10: parent-death signal is 0 at the end, the images say 15",
    );
    check(
        |t, _| remove(t, 10, &sets(Attribute::Dumpable(1))),
        "task 10: dumpable is 2 at the end, the images say 1",
    );
    // Each thread that resets it must set it after: the others may have done so before.
    check(|t, _| remove(t, 12, &sets(Attribute::Dumpable(1))), "task 11: dumpable is unknown");
    check(|t, _| remove(t, 11, &sets(Attribute::Dumpable(1))), "task 11: dumpable is unknown");
    check(
        |t, _| remove(t, 10, &gives(PrivilegeEffect::Uids([Some(1000); 3]))),
        "task 10: effective capabilities is 0xff at the end, the images say 0x0",
    );
    // With the securebit nothing is lost.
    check(
        |t, _| {
            insert(
                t,
                10,
                &gives(PrivilegeEffect::Uids([Some(1000); 3])),
                vec![gives(PrivilegeEffect::Securebits(4))],
            )
        },
        "task 10: effective capabilities is 0xff",
    );
    check(
        |t, _| {
            insert(
                t,
                10,
                &gives(PrivilegeEffect::Uids([Some(1000); 3])),
                vec![gives(PrivilegeEffect::KeepCaps(true))],
            )
        },
        "task 10: permitted capabilities is 0xff",
    );
}

#[test]
fn one_way() {
    // Lowered before the fork of a child that has it higher: there is no way back.
    let lowered = |soft, hard| gives(PrivilegeEffect::Limit { resource: 7, soft, hard });
    check(
        |t, _| insert(t, 10, &fork(11, 0, SIGCHLD), vec![lowered(10, 20)]),
        "task 10, record 70: clone3 needs a privilege that prlimit64",
    );
    check(
        |t, _| insert(t, 11, &queue(11, None, 40, 1), vec![lowered(10, 20), lowered(100, 100)]),
        "resource limit 7 is raised from 20 to 100, and there is no way back without a privilege",
    );
    passes(|t, e| {
        insert(t, 11, &queue(11, None, 40, 1), vec![lowered(10, 20), lowered(100, 100)]);
        let able = 0xff | 1 << 24;
        for (kind, value) in &mut e.inherited {
            if matches!(kind, Kind::CapEffective | Kind::CapPermitted) {
                *value = number(able);
            }
        }
        let thread = e.tasks[1].attributes.get_mut(&12).expect("the thread");
        thread
            .iter_mut()
            .filter(|(kind, _)| *kind == Kind::CapPermitted)
            .for_each(|(_, value)| *value = number(able));
    });
}

#[test]
fn files_below_proc() {
    let open = || Effect::Fd(FdEffect::Open { path: b"/proc/self/oom_score_adj".to_vec(), flags: 1, fd: 0 });
    let write = |data: &[u8]| Effect::Object { fd: 0, change: Change::Write { data: data.to_vec() } };
    let replace = |data: &'static [u8]| {
        move |t: &mut Tapes, _: &mut Expected| {
            insert(t, 11, &write(b"-500"), vec![write(data)]);
            remove(t, 11, &write(b"-500"));
        }
    };
    check(replace(b"-501"), "task 11: oom_score_adj is -501 at the end, the images say -500");
    check(
        replace(b"-1001"),
        "task 11, record 2: write on -1001 to file /proc/self/oom_score_adj: the kernel refuses that",
    );
    check(replace(b"much"), "the kernel refuses that");
    // It is the file of who has opened it.
    check(
        |t, _| {
            insert(t, 10, &fork(11, 0, SIGCHLD), vec![open()]);
            insert(t, 10, &fork(13, 0, SIGCHLD), vec![Effect::Fd(FdEffect::Close { fd: 0 })]);
            remove(t, 11, &open());
        },
        "file /proc/self/oom_score_adj, of another task is not modelled",
    );
    check(
        |t, _| {
            let path = b"/proc/self/coredump_filter".to_vec();
            insert(t, 11, &open(), vec![Effect::Fd(FdEffect::Open { path, flags: 1, fd: 0 }), write(b"1")]);
        },
        "coredump_filter is not modelled",
    );
}

#[test]
fn cgroups() {
    let hierarchy = |name: &str, point: &str| crate::verify::ExpectedHierarchy {
        name: name.to_owned(),
        own: "/own".to_owned(),
        point: point.as_bytes().to_vec(),
        root: "/".to_owned(),
    };
    let open =
        |path: &str, flags| Effect::Fd(FdEffect::Open { path: path.as_bytes().to_vec(), flags, fd: 0 });
    let write = |data: &[u8]| Effect::Object { fd: 0, change: Change::Write { data: data.to_vec() } };
    let close = || Effect::Fd(FdEffect::Close { fd: 0 });
    let enter = move |t: &mut Tapes, path: &str, data: &[u8]| {
        insert(t, 10, &fork(11, 0, SIGCHLD), vec![open(path, 1), write(data), close()]);
    };
    let known = move |e: &mut Expected| {
        e.hierarchies = vec![hierarchy("", "/c"), hierarchy("name=x", "/c/x")];
        e.inherited.push((Kind::Cgroups, Value::Nothing));
    };
    let wants = |e: &mut Expected, pid: u32, cgroups: &[(&str, &str)]| {
        let all = cgroups.iter().map(|(name, path)| ((*name).to_owned(), (*path).to_owned())).collect();
        let task = e.tasks.iter_mut().find(|task| task.pid == pid).expect("such a task");
        task.attributes.get_mut(&pid).expect("its own").push((Kind::Cgroups, Value::cgroups(all)));
    };
    // What its parent enters before the fork a child has, too.
    passes(|t, e| {
        known(e);
        enter(t, "/c/a/b/cgroup.procs", b"0");
        wants(e, 10, &[("", "/a/b")]);
        wants(e, 11, &[("", "/a/b")]);
    });
    check(
        |t, e| {
            known(e);
            enter(t, "/c/x/a/cgroup.procs", b"0");
            wants(e, 10, &[("", "/x/a")]);
        },
        "task 10: cgroups is name=x:/a at the end, the images say :/x/a",
    );
    check(
        |_, e| {
            known(e);
            wants(e, 11, &[("", "/a")]);
        },
        "task 11: cgroups is the caller's at the end, the images say :/a",
    );
    // The caller's own is no other.
    passes(|t, e| {
        known(e);
        enter(t, "/c/a/cgroup.procs", b"0");
        enter(t, "/c/own/cgroup.procs", b"0");
        wants(e, 10, &[]);
    });
    check(
        |t, e| {
            known(e);
            enter(t, "/c/a/cgroup.procs", b"11");
        },
        "another task is not modelled",
    );
    for path in ["/d/a/cgroup.procs", "/c/../cgroup.procs", "/c/a/cgroup.kill", "/ca/cgroup.procs"] {
        check(
            |t, e| {
                known(e);
                enter(t, path, b"0");
            },
            "opens",
        );
    }
    // Born in another one than its forker.
    let born = |cgroup| Effect::Fork(Birth { pid: 11, flags: 0, exit_signal: SIGCHLD, cgroup });
    let into = move |t: &mut Tapes, path: &str| {
        let at = t[&10].iter().position(|effect| *effect == fork(11, 0, SIGCHLD)).expect("the fork");
        of(t, 10).splice(at..=at, [open(path, 0x21_0000), born(Some(0)), close()]);
        of(t, 11).insert(0, close());
    };
    passes(|t, e| {
        known(e);
        into(t, "/c/a");
        wants(e, 10, &[]);
        wants(e, 11, &[("", "/a")]);
    });
    check(
        |t, e| {
            known(e);
            into(t, "/c/x/a");
        },
        "clone3 on file /c/x/a: the kernel refuses that",
    );
}

#[test]
fn signals_and_timers() {
    check(
        |t, _| remove(t, 11, &queue(11, None, 40, 2)),
        "task 11: signals pending for the whole task is signal 40",
    );
    check(
        |t, _| {
            remove(t, 11, &queue(11, None, 40, 2));
            insert(t, 11, &queue(11, None, 40, 1), vec![queue(11, None, 40, 2)]);
        },
        "task 11: signals pending for the whole task is signal 40",
    );
    // Of a standard signal the first one waits.
    passes(|t, _| insert(t, 11, &queue(11, Some(11), 12, 4), vec![queue(11, None, 10, 9)]));
    check(
        |t, _| {
            remove(t, 11, &queue(11, Some(11), 12, 4));
            insert(t, 11, &Effect::Park, vec![queue(11, None, 12, 4)]);
        },
        "task 11: signals pending for the whole task",
    );
    check(
        |t, _| of(t, 12).insert(2, queue(11, None, 10, 3)),
        "task 12, record 2: rt_sigqueueinfo of a thread that is not its task's first",
    );
    check(|t, _| of(t, 12).insert(2, queue(11, Some(11), 10, 3)), "queues signal 10 to another task");
    check(|t, _| of(t, 11).insert(9, queue(11, None, 9, 3)), "queues signal 9 which is not blocked");
    check(|t, _| remove(t, 10, &sets(Attribute::SigMask { how: 2, set: u64::MAX })), "which is not blocked");
    check(
        |t, _| of(t, 11).insert(0, sets(Attribute::SigMask { how: 1, set: 1 })),
        "letting signals through in a task that lives on",
    );
    // The zombie's death is told by a SIGCHLD, which must not stay.
    check(
        |t, _| remove(t, 10, &sets(Attribute::EatSignal { set: 1 << 16 })),
        "task 10: signals pending for the whole task is signal 17 of a child that has died, too at the end, the images say none",
    );
    check(
        |t, _| {
            remove(t, 10, &sets(Attribute::EatSignal { set: 1 << 16 }));
            insert(
                t,
                10,
                &Effect::AwaitExit { pid: 13, reap: false },
                vec![sets(Attribute::EatSignal { set: 1 << 16 })],
            );
        },
        "signal 17 of a child that has died",
    );
    check(
        |t, _| remove(t, 11, &sets(Attribute::TimerIds(true))),
        "an id that the kernel chooses is not modelled",
    );
    check(
        |t, _| remove(t, 11, &sets(Attribute::TimerIds(false))),
        "task 11: the mode in which timers get the ids that are asked for is 1 at the end, the images say 0",
    );
    check(
        |t, _| remove(t, 11, &sets(Attribute::TimerSet { id: 5, flags: 0, interval_ns: 7, value_ns: 9 })),
        "task 11: POSIX timers is timer 5 (clock 1, signal 14, notice 0, thread 0, data 0x5, every 0 ns, first in 0 ns)",
    );
    check(
        |t, _| {
            insert(
                t,
                11,
                &Effect::Park,
                vec![sets(Attribute::TimerSet { id: 6, flags: 0, interval_ns: 0, value_ns: 1 })],
            )
        },
        "timer 6, which does not exist",
    );
    check(
        |t, _| remove(t, 11, &sets(Attribute::IntervalTimer { which: 1, interval_us: 5, value_us: 0 })),
        "task 11: interval timers is none at the end, the images say 0 0 5 0 0 0",
    );
    check(
        |t, _| insert(t, 11, &Effect::Arrive, vec![action(10, 1)]),
        "rt_sigaction: an action while other threads run is not modelled",
    );
}

#[test]
fn directories() {
    let chroot = || sets(Attribute::RootDirectory(b"/new".to_vec()));
    check(
        |t, _| insert(t, 10, &Effect::Arrive, vec![chroot()]),
        "chroot: a change of root before the barrier",
    );
    check(|t, _| insert(t, 10, &Effect::Park, vec![chroot()]), "chroot needs a privilege");
    let first = gives(PrivilegeEffect::Limit { resource: 7, soft: 10, hard: 20 });
    check(
        |t, _| insert(t, 10, &first, vec![chroot()]),
        "task 10: root directory is /new at the end, the images say /",
    );
    check(
        |t, _| insert(t, 10, &first, vec![chroot(), sets(Attribute::WorkingDirectory(b"/srv".to_vec()))]),
        "a path below another root",
    );
    check(
        |_, e| e.tasks[0].attributes.get_mut(&10).expect("the root")[1].1 = Value::Inode(InodeId::Ghost(7)),
        "task 10: working directory is /srv at the end, the images say the unlinked file 0x7",
    );
}

#[test]
fn every_row_is_consistent() {
    for row in &TABLE {
        assert_eq!(row.scope == Scope::Task, row.on_thread == Inherit::Shared, "{}", row.name);
        assert_ne!(row.on_fork, Inherit::Shared, "{}", row.name);
        assert!(std::ptr::eq(row.kind.row(), row));
    }
}
