//! Plans that are wrong in one record: the certificate of a real plan is lost when any record that sets
//! an attribute is left out or sets another value, and when a fact that it relies on is another.
//!
//! The tree is that of `tests/images/pair`, given a further thread and attributes of every kind, as the
//! planner and the lowering plan it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use regrow_graph::order;
use regrow_graph::verify::attribute::{Limit, TABLE};
use regrow_graph::verify::{
    Attribute, AttributeKind as Kind, Change, Effect, Expected, LiftedTree, MemoryEffect, PrivilegeEffect,
    RingEffect, UserfaultChange, Value, verify,
};

mod cgroups;
mod ipc;
mod space;
mod stage;

use super::*;
use crate::host::{CapSets, Ids, KernelFacts, OwnFacts, PidFacts, Probe, SpecialMapping, Vdso};
use crate::image::Model;
use crate::image::alike::Alike;
use crate::image::{
    Blob, Creds, Image, KobjIds, NsPid, Ofd, OfdKind, Origin, PosixTimer, RLimit, RegFile, Rseq, Sched,
    SigAction, SigAltStack, VmaKind, open_blob, read_model,
};
use crate::lower::{self, registers};
use crate::resolve::problem::{Problem, ProblemKind};
use crate::resolve::{self, Options, Payloads};
use crate::tape::lift::lift;

const CHILD: u32 = 4713;
const THREAD: u32 = 4714;
const ALL_CAPABILITIES: u64 = (1 << 41) - 1;
const DIRECTORY: u32 = 0x7001;
const ROOT: u32 = 0x7002;

fn pending(signal: u8, code: u8) -> Vec<u8> {
    let mut info = vec![0; 128];
    (info[0], info[8]) = (signal, code);
    info
}

fn timer(id: u32, notify: u32, notify_tid: Option<i32>) -> PosixTimer {
    PosixTimer {
        id,
        clock_id: libc::CLOCK_MONOTONIC as u32,
        signo: 40,
        notify,
        sival_ptr: 0xdead_beef,
        overrun: 0,
        interval_ns: 5,
        value_ns: 1_000_000_007,
        notify_tid,
    }
}

/// The pair with attributes of every kind, other ones in each of three threads of two tasks.
fn model() -> Model {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/pair/images");
    let mut model = read_model(&dir).expect("the images are good");
    let cwd = model.tasks[0].alive().expect("it lives").fs.cwd_id;
    for (id, path) in [(DIRECTORY, "/srv/work"), (ROOT, "/srv/root")] {
        let like = model.ofds.iter().find(|ofd| ofd.id == cwd).expect("its directory").clone();
        let OfdKind::Reg(file) = like.kind else { panic!("a directory") };
        model.ofds.push(Ofd { id, kind: OfdKind::Reg(RegFile { path: path.to_owned(), ..file }), ..like });
    }
    let root = &mut model.tasks[0].alive_mut().expect("it lives").threads[0];
    root.robust_list = (0x26000, 24);
    root.clear_tid_addr = 0x27000;
    if let Some(creds) = &mut root.creds {
        (creds.uid, creds.euid, creds.suid, creds.fsuid) = (21, 22, 23, 22);
        (creds.gid, creds.egid, creds.sgid, creds.fsgid) = (24, 25, 26, 25);
        (creds.groups, creds.cap_eff) = (vec![27], 0);
    }
    let child = model.tasks[1].alive_mut().expect("it lives");
    child.comm = "other".to_owned();
    child.umask = 0o27;
    child.fs.cwd_id = DIRECTORY;
    child.fs.root_id = ROOT;
    child.personality = 0x4_0000;
    child.oom_score_adj = 100;
    child.loginuid = Some(1000);
    child.child_subreaper = true;
    child.membarrier = 4 | 16;
    child.sigactions[9] =
        SigAction { handler: 0x1234, flags: 0x0400_0000, restorer: 0x99, mask: 6, compat: false };
    child.sigactions[16].flags = 1;
    child.pending_shared = vec![pending(10, 0), pending(40, 1), pending(40, 2)];
    child.timers.itimers = [(7, 8), (9, 0), (10, 11)];
    child.timers.posix = vec![timer(3, 0, None), timer(9, 4, Some(THREAD as i32))];
    for (at, limit) in child.rlimits.iter_mut().enumerate() {
        *limit = RLimit { cur: 1000 + at as u64, max: 2000 + at as u64 };
    }
    child.mm.dumpable = Some(0);
    child.mm.thp_disabled = true;
    let leader = &mut child.threads[0];
    leader.sas = SigAltStack { sp: 0x5000, size_bytes: 8192, flags: 0 };
    leader.robust_list = (0x6000, 24);
    leader.clear_tid_addr = 0x7000;
    leader.rseq = Some(Rseq { address: 0x8000, size_bytes: 32, signature: 0x5305_3053, critical_section: 0 });
    leader.sched = Sched { policy: libc::SCHED_BATCH as u32, priority: 0, nice: 5 };
    leader.pdeath_sig = 15;
    leader.timer_slack_ns = Some(70_000);
    leader.pending = vec![pending(12, 0)];
    leader.comm = None;
    leader.creds = Some(Box::new(Creds {
        uid: 1,
        euid: 2,
        suid: 3,
        fsuid: 4,
        gid: 5,
        egid: 6,
        sgid: 7,
        fsgid: 8,
        groups: vec![9, 10],
        cap_eff: 0x20,
        cap_prm: 0x60,
        cap_inh: 0x20,
        cap_amb: 0x20,
        cap_bnd: ALL_CAPABILITIES & !(1 << 3),
        securebits: 0x3,
        no_new_privs: true,
        ..Creds::default()
    }));
    let mut thread = leader.clone();
    thread.tid = NsPid(THREAD);
    thread.origin = Origin::new(Image::Core(THREAD), 0);
    thread.comm = Some("worker".to_owned());
    thread.sas = SigAltStack { sp: 0x15000, size_bytes: 16384, flags: 0 };
    thread.robust_list.0 = 0x16000;
    thread.clear_tid_addr = 0x17000;
    thread.rseq = Some(Rseq { address: 0x18000, size_bytes: 32, signature: 7, critical_section: 0 });
    thread.sched = Sched { policy: libc::SCHED_FIFO as u32, priority: 9, nice: -3 };
    thread.timer_slack_ns = Some(0);
    thread.pdeath_sig = 1;
    thread.pending = vec![pending(41, 5)];
    if let Some(creds) = &mut thread.creds {
        (creds.uid, creds.fsuid, creds.cap_inh) = (11, 2, 0x60);
        creds.groups.push(12);
    }
    child.threads.push(thread);
    for alive in model.tasks.iter_mut().filter_map(|task| task.alive_mut()) {
        alive.ids = KobjIds::default();
    }
    model
}

fn facts(model: &Model) -> HostFacts {
    let root = Ids::default();
    let own = OwnFacts {
        rlimits: [Some(RLimit { cur: 50_000, max: 60_000 }); 16],
        uids: Some(root),
        gids: Some(root),
        groups: Some(Vec::new()),
        caps: CapSets {
            effective: ALL_CAPABILITIES,
            permitted: ALL_CAPABILITIES,
            bounding: ALL_CAPABILITIES,
            ..CapSets::default()
        },
        securebits: Some(0),
        no_new_privs: Some(false),
        seccomp_mode: Some(0),
        personality: Some(0),
        dumpable: Some(1),
        nice: Some(0),
        sched_policy: Some(0),
        sched_priority: Some(0),
        oom_score_adj: Some(0),
        loginuid: Some(u32::MAX),
        timer_slack_ns: Some(50_000),
        thp_disabled: Some(false),
        ..OwnFacts::default()
    };
    let kernel = KernelFacts {
        suid_dumpable: Some(2),
        timer_restore_ids: Probe::Present,
        userfaultfd: Probe::Present,
        possible_processors: Some(2),
        aio_requests: Some((65536, 0)),
        ipc_namespaces: true,
        ipc_next_ids: true,
        mqueue: true,
        ..KernelFacts::default()
    };
    // For those who come to help with the pages of one task.
    let pids = PidFacts { spare: vec![NsPid(9001)], ..PidFacts::default() };
    let vmas = &model.tasks[0].alive().expect("it lives").mm.vmas;
    let first = vmas.iter().find(|vma| vma.kind == VmaKind::Vvar).expect("a clock").start;
    let special = |name: &str, kind| {
        let vma = vmas.iter().find(|vma| vma.kind == kind).expect("a clock");
        let size_bytes = vma.end - vma.start;
        SpecialMapping { name: name.to_owned(), offset_bytes: vma.start - first, size_bytes }
    };
    let mappings = vec![special("[vvar]", VmaKind::Vvar), special("[vdso]", VmaKind::Vdso)];
    let vdso = Some(Vdso { mappings, bytes: Vec::new() });
    HostFacts { own, kernel, vdso, pids, huge_pages: [(2 << 20, 2)].into(), ..HostFacts::default() }
}

struct Real {
    model: Model,
    tapes: Tapes,
    ground: Ground,
    lifted: LiftedTree,
    expected: Expected,
}

fn real() -> Real {
    let model = model();
    let facts = facts(&model);
    plan(model, &facts).0
}

/// The plan, and what `check` would say about this host.
fn plan(model: Model, facts: &HostFacts) -> (Real, Vec<Problem>) {
    plan_alike(model, facts, Alike::default())
}

/// As [`plan`], where it is known what children have in common with their parents.
fn plan_alike(model: Model, facts: &HostFacts, alike: Alike) -> (Real, Vec<Problem>) {
    let read = |blob: &Blob| open_blob(&model, blob).expect("the payload is there");
    let (queues, sets) =
        model.own_ipc().map_or_else(Default::default, |ns| (&ns.queues[..], &ns.semaphores[..]));
    let payloads = Payloads {
        pipes: model.pipe_data.iter().map(|entry| read(&entry.data)).collect(),
        fifos: Vec::new(),
        packets: model.packets.iter().map(|entry| read(&entry.data)).collect(),
        messages: queues
            .iter()
            .map(|queue| queue.messages.iter().map(|message| read(&message.data)).collect())
            .collect(),
        semaphores: sets.iter().map(|set| read(&set.values)).collect(),
        vdsos: Default::default(),
        alike: Arc::new(alike),
    };
    let resolution = resolve::resolve(&model, &payloads, facts, &Options { cores: 2, ..Options::default() });
    let resolved = resolution.resolved.expect("there is room for the tapes");
    let plan = order::plan_in(&resolved.forest, resolved.cradle).expect("a plan");
    let tapes = lower::lower(&plan, &resolved.recipes, &resolved.window).expect("they fit");
    let ground = Ground::of(facts, Cradle::default());
    let lifted = lift(&tapes).expect("they are understood");
    let expected = expected(&model, &ground).expect("the images are good");
    (Real { model, tapes, ground, lifted, expected }, resolution.problems)
}

/// What sets an attribute, as it would set it otherwise.
fn altered(effect: &Effect) -> Option<Effect> {
    let attribute = |attribute| Some(Effect::Attribute(attribute));
    let privilege = |privilege| Some(Effect::Privilege(privilege));
    let other = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        if let Some(last) = bytes.last_mut() {
            *last ^= 1;
        }
        bytes
    };
    match effect.clone() {
        Effect::Attribute(now) => match now {
            Attribute::Name(name) => attribute(Attribute::Name(other(&name))),
            Attribute::Umask(mask) => attribute(Attribute::Umask(mask ^ 0o100)),
            Attribute::WorkingDirectory(path) => attribute(Attribute::WorkingDirectory(other(&path))),
            Attribute::RootDirectory(path) => attribute(Attribute::RootDirectory(other(&path))),
            Attribute::Personality(persona) => attribute(Attribute::Personality(persona ^ 1)),
            Attribute::Dumpable(value) => attribute(Attribute::Dumpable(1 - value)),
            Attribute::ParentDeathSignal(signal) => attribute(Attribute::ParentDeathSignal(signal + 1)),
            Attribute::Subreaper(is) => attribute(Attribute::Subreaper(!is)),
            Attribute::ThpDisable(is) => attribute(Attribute::ThpDisable(!is)),
            // Of a real-time thread it is 0, whatever is set.
            Attribute::TimerSlack(0) => None,
            Attribute::TimerSlack(slack_ns) => attribute(Attribute::TimerSlack(slack_ns + 1)),
            Attribute::TimerIds(chosen) => attribute(Attribute::TimerIds(!chosen)),
            Attribute::SigAction { signal, handler, flags, restorer, mask } => {
                attribute(Attribute::SigAction { signal, handler, flags, restorer, mask: mask ^ 2 })
            }
            Attribute::SigMask { how, set } => attribute(Attribute::SigMask { how, set: set ^ 2 }),
            Attribute::AltStack { sp, flags, len } => {
                attribute(Attribute::AltStack { sp: sp + 8, flags: flags ^ 2, len })
            }
            Attribute::RobustList { head, len } => attribute(Attribute::RobustList { head: head + 8, len }),
            Attribute::TidAddress(address) => attribute(Attribute::TidAddress(address + 8)),
            Attribute::Rseq { address, len, flags, signature } => {
                attribute(Attribute::Rseq { address, len, flags, signature: signature ^ 1 })
            }
            Attribute::Membarrier(_) => attribute(Attribute::Membarrier(256)),
            Attribute::IntervalTimer { which, interval_us, value_us } => {
                attribute(Attribute::IntervalTimer { which, interval_us: interval_us + 1, value_us })
            }
            Attribute::TimerCreate { clock, event, id } => {
                attribute(Attribute::TimerCreate { clock: clock + 1, event, id })
            }
            Attribute::TimerSet { id, flags, interval_ns, value_ns } => {
                attribute(Attribute::TimerSet { id, flags, interval_ns, value_ns: value_ns + 1 })
            }
            Attribute::QueueSignal { pid, tid, signal, info } => {
                attribute(Attribute::QueueSignal { pid, tid, signal, info: other(&info) })
            }
            Attribute::Nice(nice) => attribute(Attribute::Nice(nice + 1)),
            Attribute::Scheduler { policy, priority } => {
                attribute(Attribute::Scheduler { policy, priority: priority + 1 })
            }
            Attribute::EatSignal { .. } => None,
        },
        Effect::Privilege(now) => match now {
            PrivilegeEffect::Uids([real, effective, saved]) => {
                privilege(PrivilegeEffect::Uids([real, effective, saved.map(|id| id + 100)]))
            }
            PrivilegeEffect::Gids([real, effective, saved]) => {
                privilege(PrivilegeEffect::Gids([real.map(|id| id + 100), effective, saved]))
            }
            PrivilegeEffect::FsUid(id) => privilege(PrivilegeEffect::FsUid(id + 100)),
            PrivilegeEffect::FsGid(id) => privilege(PrivilegeEffect::FsGid(id + 100)),
            PrivilegeEffect::RaiseAmbient(number) => privilege(PrivilegeEffect::RaiseAmbient(number + 1)),
            PrivilegeEffect::Groups(mut groups) => {
                groups.push(77);
                privilege(PrivilegeEffect::Groups(groups))
            }
            PrivilegeEffect::Capabilities { effective, permitted, inheritable } => {
                // The first of them is there for the ambient set, and the second sets what the images say.
                let inheritable = u64::from(inheritable == 0);
                privilege(PrivilegeEffect::Capabilities { effective, permitted, inheritable })
            }
            PrivilegeEffect::DropBounding(number) => privilege(PrivilegeEffect::DropBounding(number + 1)),
            // The first of them is there for what follows, and the second sets what the images say.
            PrivilegeEffect::Securebits(bits) => privilege(PrivilegeEffect::Securebits(bits ^ 0b111)),
            PrivilegeEffect::Limit { resource, soft, hard } => {
                privilege(PrivilegeEffect::Limit { resource, soft: soft ^ 1, hard })
            }
            PrivilegeEffect::KeepCaps(keep) => privilege(PrivilegeEffect::KeepCaps(!keep)),
            PrivilegeEffect::NoNewPrivs | PrivilegeEffect::Seccomp { .. } => None,
        },
        Effect::Memory(MemoryEffect::SetMm { mut words, auxv, exe }) => {
            words[5] += 4096;
            Some(Effect::Memory(MemoryEffect::SetMm { words, auxv, exe }))
        }
        Effect::Object { fd, change: Change::Write { data } } => {
            Some(Effect::Object { fd, change: Change::Write { data: other(&data) } })
        }
        _ => None,
    }
}

fn sets_an_attribute(effect: &Effect) -> bool {
    match effect {
        Effect::Attribute(_) | Effect::Privilege(_) | Effect::Memory(MemoryEffect::SetMm { .. }) => true,
        // Digits are written to files of /proc only.
        Effect::Object { change: Change::Write { data }, .. } => data.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

#[test]
fn the_real_plan_has_a_certificate() {
    let Real { model, tapes, ground, .. } = real();
    let threads = states(&model);
    let certificate = certify(&model, &tapes, &ground, Some(&threads)).expect("a certificate");
    assert_eq!((certificate.tasks, certificate.threads), (2, 1), "{certificate}");
    // Two tasks with 18 rows, of which the actions are 64 and the limits 16; three threads with 32 rows,
    // but for the default timer slack and, in the root, the timer slack.
    assert_eq!(certificate.attributes, 2 * (18 - 2 + 64 + 16) + 3 * (32 - 1) - 1, "{certificate}");
}

#[test]
fn every_record_that_sets_an_attribute_is_needed() {
    let Real { lifted, expected, .. } = real();
    verify(&lifted, &expected).expect("a certificate");
    let mut names = BTreeSet::new();
    let mut left = Vec::new();
    for (task, tape) in lifted.tasks.iter().enumerate() {
        for (at, record) in tape.effects.iter().enumerate() {
            if !sets_an_attribute(&record.effect) {
                continue;
            }
            names.insert(record.effect.name());
            let mut check = |what: &str, by: Option<Effect>| {
                let mut mutant = lifted.clone();
                match by {
                    Some(effect) => mutant.tasks[task].effects[at].effect = effect,
                    None => drop(mutant.tasks[task].effects.remove(at)),
                }
                if verify(&mutant, &expected).is_ok() {
                    left.push(format!(
                        "task {}, record {}: {what}: {:?}",
                        tape.pid, record.record, record.effect
                    ));
                }
            };
            check("left out", None);
            if let Some(effect) = altered(&record.effect) {
                check("altered", Some(effect));
            }
        }
    }
    // The slack of a real-time thread is set in vain.
    let in_vain = |line: &String| line.contains("TimerSlack(0)");
    assert_eq!(left.iter().filter(|line| !in_vain(line)).collect::<Vec<_>>(), Vec::<&String>::new());
    let wanted = [
        "capset",
        "chdir",
        "chroot",
        "membarrier",
        "personality",
        "prctl(PR_CAPBSET_DROP)",
        "prctl(PR_CAP_AMBIENT)",
        "prctl(PR_SET_CHILD_SUBREAPER)",
        "prctl(PR_SET_DUMPABLE)",
        "prctl(PR_SET_MM)",
        "prctl(PR_SET_NAME)",
        "prctl(PR_SET_NO_NEW_PRIVS)",
        "prctl(PR_SET_PDEATHSIG)",
        "prctl(PR_SET_SECUREBITS)",
        "prctl(PR_SET_THP_DISABLE)",
        "prctl(PR_SET_TIMERSLACK)",
        "prctl(PR_TIMER_CREATE_RESTORE_IDS)",
        "prlimit64",
        "rseq",
        "rt_sigaction",
        "rt_sigprocmask",
        "rt_sigqueueinfo",
        "sched_setscheduler",
        "set_robust_list",
        "set_tid_address",
        "setfsgid",
        "setfsuid",
        "setgroups",
        "setitimer",
        "setpriority",
        "setresgid",
        "setresuid",
        "sigaltstack",
        "timer_create",
        "timer_settime",
        "umask",
        "write",
    ];
    assert_eq!(names.into_iter().collect::<Vec<_>>(), wanted);
}

/// A fact that was counted is one without which there is no certificate, and no other is.
#[test]
fn facts_are_counted_that_are_relied_on() {
    let Real { lifted, expected, .. } = real();
    let relied_on = verify(&lifted, &expected).expect("a certificate").host_facts;
    for at in 0..expected.inherited.len() {
        let mut other = expected.clone();
        let (kind, value) = &mut other.inherited[at];
        let kind = *kind;
        *value = match value {
            Value::Limits(limits) => {
                let limits = limits.map(|limit| limit.map(|limit| Limit::new(limit.soft - 1, limit.hard)));
                Value::Limits(limits.into())
            }
            // A seccomp mode of another kind, a root elsewhere, and so on.
            Value::Number(number) => Value::Number(*number ^ 0x61),
            Value::Bytes(_) => Value::bytes(b"/elsewhere"),
            Value::Numbers(_) => Value::numbers(&[3, 0]),
            _ => Value::numbers(&[1]),
        };
        let name = kind.row().name;
        let is_relied_on = relied_on
            .iter()
            .any(|fact| fact == name || kind == Kind::Limits && fact.starts_with("resource limit"));
        match verify(&lifted, &other) {
            Ok(_) => assert!(!is_relied_on, "{name} was relied on, and can be anything"),
            Err(counterexample) => {
                // Capabilities may be needed on the way. Cgroups are the caller's whatever they are.
                let is_needed = is_relied_on || matches!(kind, Kind::RootDirectory | Kind::Cgroups);
                assert!(is_needed, "{name} was not relied on: {counterexample}");
            }
        }
    }
}

fn states(model: &Model) -> Vec<ThreadState> {
    let of_task = |task: &crate::image::Task| {
        let pid = task.pid;
        let threads = task.alive().expect("it lives").threads.clone();
        threads.into_iter().map(move |thread| ThreadState {
            tid: thread.tid.0,
            is_leader: thread.tid == pid,
            registers: registers::user_regs(&thread),
            xstate: Vec::new(),
            blocked: thread.blocked,
            eats_sigchld: false,
            leaves: false,
            stop_signal: None,
        })
    };
    model.tasks.iter().flat_map(of_task).collect()
}

#[test]
fn what_the_commit_sets() {
    let Real { model, tapes, ground, .. } = real();
    let lost = |change: &dyn Fn(&mut Vec<ThreadState>), words: &str| {
        let mut threads = states(&model);
        change(&mut threads);
        let counterexample = certify(&model, &tapes, &ground, Some(&threads)).expect_err("no certificate");
        assert!(counterexample.to_string().starts_with(words), "{counterexample}\nexpected: {words}");
        assert_eq!(counterexample.wrong.demand(), 6);
    };
    lost(
        &|threads| threads[1].blocked ^= 1,
        "task 4713: thread 4713: the commit sets its blocked signals to ",
    );
    lost(&|threads| threads[2].registers.rip ^= 1, "task 4713: thread 4714: the commit sets its rip to ");
    lost(
        &|threads| threads[0].registers.orig_rax = 1,
        "task 4711: thread 4711: the commit sets its orig_rax to 0x1",
    );
    lost(
        &|threads| drop(threads.remove(2)),
        "task 4713: thread 4714: the commit sets its registers to nothing",
    );
    lost(&|threads| threads.swap(1, 2), "task 4713: thread 4713: the commit sets its registers to nothing");
    lost(
        &|threads| threads[0].eats_sigchld = true,
        "task 4711: thread 4711: the commit sets its taking back",
    );
    lost(
        &|threads| threads[0].stop_signal = Some(19),
        "task 4711: thread 4711: the commit sets its stop signal",
    );
    lost(
        &|threads| threads[1].leaves = true,
        "task 4713: thread 4713: the commit sets its way out of the tapes to by itself, the images say that it is stopped",
    );
    lost(
        &|threads| threads[2].leaves = true,
        "task 4713: thread 4714: the commit sets its way out of the tapes",
    );
    // Of all its memory it has only the stack here, far above the tapes.
    lost(
        &|threads| threads[0].leaves = true,
        "task 4711: thread 4711: the commit sets its way out of the tapes to by itself, the images say that it is \
         stopped before, for its stack would grow",
    );
    lost(&|threads| threads[2].is_leader = true, "task 4713: thread 4714: the commit sets its place");
    lost(
        &|threads| threads.push(threads[2].clone()),
        "task 4714: thread 4714: the commit sets its registers to something",
    );
    assert_eq!(CHILD, 4713);
    assert_eq!(TABLE.len(), 50);
}

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn pick<T: Clone>(&mut self, among: &[T]) -> T {
        among[(self.next() % among.len() as u64) as usize].clone()
    }

    fn flip(&mut self) -> bool {
        self.next() & 16 == 0
    }
}

fn random_limit(random: &mut Random) -> RLimit {
    let (cur, max) = random.pick(&[(50_000, 60_000), (60_000, 60_000), (1, 60_000), (1, 2), (0, 0)]);
    RLimit { cur, max }
}

/// Values that tasks and hosts have alike now and then.
fn random_thread(random: &mut Random, thread: &mut crate::image::Thread) {
    let policy = random.pick(&[(0, 0), (3, 0), (5, 0), (1, 7), (2, 99)]);
    thread.sched = Sched { policy: policy.0, priority: policy.1, nice: random.pick(&[0, 5, -5]) };
    let slack_ns = if policy.1 != 0 { 0 } else { random.pick(&[50_000, 1, 70_000]) };
    thread.timer_slack_ns = random.flip().then_some(slack_ns);
    thread.pdeath_sig = random.pick(&[0, 15]);
    thread.robust_list.0 = random.pick(&[0, 0x6000]);
    thread.clear_tid_addr = random.pick(&[0, 0x7000]);
    let area = Rseq { address: 0x8000, size_bytes: 32, signature: 7, critical_section: 0 };
    thread.rseq = random.flip().then_some(area);
    let flags = random.pick(&[0, 2]);
    thread.sas = SigAltStack { sp: 0x5000, size_bytes: 8192, flags };
    let ids = [(); 8].map(|()| random.pick(&[0, 0, 0, 1, 1000]));
    let permitted = random.pick(&[ALL_CAPABILITIES, 0, 0xff]);
    let inheritable = random.pick(&[0, 0x0f]);
    thread.creds = Some(Box::new(Creds {
        uid: ids[0],
        euid: ids[1],
        suid: ids[2],
        fsuid: ids[3],
        gid: ids[4],
        egid: ids[5],
        sgid: ids[6],
        fsgid: ids[7],
        groups: random.pick(&[vec![], vec![9], vec![10, 3]]),
        cap_eff: permitted & random.pick(&[u64::MAX, 0, 0x3]),
        cap_prm: permitted,
        cap_inh: inheritable,
        cap_amb: permitted & inheritable & random.pick(&[0, 0x5]),
        cap_bnd: random.pick(&[ALL_CAPABILITIES, ALL_CAPABILITIES & !0xf0]),
        securebits: random.pick(&[0, 0x1, 0x10, 0x2f]),
        no_new_privs: random.flip(),
        ..Creds::default()
    }));
}

fn random_task(random: &mut Random, alive: &mut crate::image::Alive) {
    alive.umask = random.pick(&[0o22, 0o77]);
    alive.personality = random.pick(&[0, 0x4_0000]);
    alive.oom_score_adj = random.pick(&[0, 100, -100]);
    alive.loginuid = random.pick(&[None, Some(u32::MAX), Some(1000)]);
    alive.child_subreaper = random.flip();
    alive.membarrier = random.pick(&[0, 4, 16 | 64]);
    alive.mm.dumpable = random.pick(&[None, Some(0), Some(1), Some(2)]);
    alive.mm.thp_disabled = random.flip();
    for limit in &mut alive.rlimits {
        *limit = random_limit(random);
    }
    for action in &mut alive.sigactions[32..40] {
        action.handler = random.pick(&[0, 1, 0x1234]);
    }
    let times = [(0, 0), (7, 8), (9, 0)];
    alive.timers.itimers = [(); 3].map(|()| random.pick(&times));
    let waits = random.pick(&[vec![], vec![pending(10, 0), pending(40, 1)]]);
    alive.pending_shared = waits;
    for thread in &mut alive.threads {
        random_thread(random, thread);
    }
}

fn random_host(random: &mut Random, own: &mut OwnFacts) {
    own.personality = Some(random.pick(&[0, 0x4_0000]));
    own.dumpable = Some(random.pick(&[0, 1, 2]));
    own.thp_disabled = Some(random.flip());
    own.oom_score_adj = Some(random.pick(&[0, 100]));
    own.loginuid = random.pick(&[None, Some(u32::MAX), Some(1000)]);
    own.nice = Some(random.pick(&[0, 5]));
    let policy = random.pick(&[(0, 0), (3, 0), (1, 7)]);
    (own.sched_policy, own.sched_priority) = (Some(policy.0), Some(policy.1));
    own.timer_slack_ns = Some(if policy.1 != 0 { 0 } else { random.pick(&[50_000, 70_000]) });
    own.rlimits = own.rlimits.map(|_| Some(random_limit(random)));
    own.rlimits[libc::RLIMIT_NOFILE as usize] = Some(RLimit { cur: 1024, max: 60_000 });
    own.groups = Some(random.pick(&[vec![], vec![9]]));
    own.no_new_privs = Some(random.pick(&[false, false, false, true]));
    own.securebits = Some(random.pick(&[0, 0, 0, 1]));
}

/// Whatever tasks and host have: a plan against which nothing is said has a certificate.
#[test]
fn random_attributes_on_random_hosts() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut certified, mut refused) = (0, 0);
    for _ in 0..400 {
        let mut model = model();
        let mut facts = facts(&model);
        if random.flip() {
            random_host(&mut random, &mut facts.own);
        }
        facts.kernel.suid_dumpable = Some(random.pick(&[0, 2]));
        for alive in model.tasks.iter_mut().filter_map(|task| task.alive_mut()) {
            random_task(&mut random, alive);
        }
        let (real, problems) = plan(model, &facts);
        // The files of the tree are not on this host, nor on any.
        if problems.iter().any(|problem| problem.kind == ProblemKind::Lacking) {
            refused += 1;
            continue;
        }
        certified += 1;
        if let Err(counterexample) = verify(&real.lifted, &real.expected) {
            panic!("{counterexample}\n{:#?}\n{:#?}", facts.own, real.model.tasks);
        }
    }
    assert!(certified > 60 && refused > 60, "{certified} certified, {refused} refused");
}
