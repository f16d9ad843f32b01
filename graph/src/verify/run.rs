//! Runs the lifted tapes on a model of the kernel, all tasks at once, as the barrier, the events
//! and the deaths let them.
//!
//! No task can take anything away from another, so what can run in one order can run in every
//! order: if the tapes get stuck here, they get stuck always, and if they come to their ends, they
//! always do. What two tasks do to one thing must be ordered ([`super::before`]); then the end
//! is always the same, too.

use std::collections::{BTreeMap, VecDeque};

use super::before::{At, Before};
use super::effect::{Attribute, Birth, Change, Effect, FdEffect, LiftedTree, MemoryEffect, NameEffect};
use super::expected::{Expected, ExpectedTask, InodeKind, Life};
use super::object::{
    Full, Inode, O_ACCMODE, O_APPEND, O_ASYNC, O_CLOEXEC, O_CREAT, O_DIRECT, O_DIRECTORY, O_DSYNC, O_EXCL, O_NOCTTY,
    O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY, O_RDWR, O_SYNC_BIT, O_TMPFILE_BIT, O_TRUNC, O_WRONLY,
    ObjectKind, Objects, Packet, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, set_status,
};
use super::outcome::{Certificate, Counterexample, Wrong};
use super::privilege::{Privileges, TooLate};
use super::table::{Desc, Table};
use crate::ids::Fd;

const CLONE_FILES: u64 = 0x400;
/// What a thread shares: CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND, CLONE_THREAD, CLONE_SYSVSEM.
const CLONE_THREAD_ALL: u64 = 0x100 | 0x200 | 0x400 | 0x800 | 0x1_0000 | 0x4_0000;
const CLONE_PARENT: u64 = 0x8000;
const SIGKILL: u32 = 9;
const SIGCHLD: u32 = 17;
const SIGSTOP: u32 = 19;
const SA_NOCLDWAIT: u64 = 2;
const MAP_SHARED: u32 = 1;
const MAP_ANONYMOUS: u32 = 0x20;
const PROT_WRITE: u32 = 2;
const F_SEAL_SEAL: u32 = 1;
const F_SEAL_EXEC: u32 = 0x20;
/// What a name may have behind it for a moment.
const ASIDE: &[u8] = b".regrow";
/// F_SEAL_WRITE, F_SEAL_FUTURE_WRITE.
const SEALS_WRITE: u32 = 0x18;
const PAGE: u64 = 4096;
/// Behind the last address of user space (arch/x86, `TASK_SIZE_MAX` with four levels of pages).
const USER_END: u64 = 0x7fff_ffff_f000;
/// No table is longer than this (fs/file.c, `sysctl_nr_open_max`).
const NUMBERS_END: Fd = 1 << 30;
/// Attributes that are files below /proc/self.
const ATTRIBUTE_FILES: [&[u8]; 6] =
    [b"oom_score_adj", b"loginuid", b"comm", b"coredump_filter", b"attr/current", b"attr/sockcreate"];

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Unborn,
    Running,
    Arrived,
    Tail,
    Parked,
    Dead { status: u32 },
    Reaped,
}

/// What a tape is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role<'a> {
    /// A task of the images.
    Task(&'a ExpectedTask),
    /// A further thread of one.
    Thread(&'a ExpectedTask),
    /// None of them.
    Helper,
}

impl<'a> Role<'a> {
    /// What the images say of the task, of its first thread.
    fn task(self) -> Option<&'a ExpectedTask> {
        match self {
            Role::Task(want) => Some(want),
            Role::Thread(_) | Role::Helper => None,
        }
    }

    fn is_alive(self) -> bool {
        match self {
            Role::Task(want) | Role::Thread(want) => want.life == Life::Alive,
            Role::Helper => false,
        }
    }

    fn is_zombie(self) -> bool {
        self.task().is_some_and(|want| want.life != Life::Alive)
    }
}

/// What is known of a task's signals.
#[derive(Debug, Clone, Copy, Default)]
struct Signals {
    /// Certainly at their defaults: bit 0 is signal 1.
    default: u64,
    /// Certainly not blocked.
    unblocked: u64,
    /// Children vanish when they die.
    children_vanish: bool,
    /// Dumpable is certainly 0.
    dumps_nothing: bool,
    /// New timers get the ids that are asked for.
    timer_ids: bool,
}

/// One task of the model.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub(super) phase: Phase,
    pc: usize,
    pub(super) parent: u32,
    pub(super) exit_signal: u64,
    pub(super) sid: u32,
    pub(super) pgid: u32,
    pub(super) table: usize,
    pub(super) died: Option<At>,
    pub(super) awaited: bool,
    signals: Signals,
    privileges: Privileges,
}

#[derive(Debug, Clone, Copy)]
struct Group {
    founded: At,
    sid: u32,
}

/// A name in the file system that a tape has made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    pub(super) is_there: bool,
    is_directory: bool,
    object: Option<usize>,
    /// It leads, for a moment, to a file that is not the tapes' own.
    is_foreign: bool,
    pub(super) last: At,
}

enum Flow {
    Next,
    Blocked,
    Ended,
}

/// The model of the kernel and the state of the check.
pub(super) struct Run<'a> {
    tree: &'a LiftedTree,
    pub(super) expected: &'a Expected,
    pub(super) tasks: Vec<Task>,
    /// Tapes by pid.
    pub(super) by_pid: BTreeMap<u32, usize>,
    /// What each tape is for.
    pub(super) roles: Vec<Role<'a>>,
    pub(super) tables: Vec<Table>,
    pub(super) objects: Objects,
    groups: BTreeMap<u32, Group>,
    before: Before,
    /// Where each event is posted.
    posts: BTreeMap<u32, At>,
    posted: BTreeMap<u32, At>,
    waiting: BTreeMap<u32, Vec<usize>>,
    waiting_for_death: BTreeMap<usize, usize>,
    /// Where each pid is forked.
    forks: BTreeMap<u32, At>,
    ready: VecDeque<usize>,
    /// Carriers by start: end, and who made them.
    carriers: BTreeMap<u64, u64>,
    /// Writes whose readers must survive: the object that is to be read from.
    pub(super) needs_reader: Vec<(At, &'static str, usize)>,
    /// Names that the tapes make, by path.
    pub(super) names: BTreeMap<Vec<u8>, Name>,
    pub(super) certificate: Certificate,
}

impl<'a> Run<'a> {
    /// Runs all tapes to their ends.
    pub(super) fn all(tree: &'a LiftedTree, expected: &'a Expected) -> Result<Run<'a>, Counterexample> {
        let mut run = Run::prepare(tree, expected)?;
        run.drain()?;
        if let Some(stuck) = (0..run.tasks.len()).find(|task| run.tasks[*task].phase == Phase::Running) {
            let wrong = Wrong::Deadlock { chain: run.chain(stuck) };
            let record = run.record_at(stuck);
            return Err(Counterexample { task: run.pid(stuck), record, wrong });
        }
        for task in 0..run.tasks.len() {
            if run.tasks[task].phase == Phase::Arrived {
                run.tasks[task].phase = Phase::Tail;
                run.ready.push_back(task);
            }
        }
        run.drain()?;
        Ok(run)
    }

    /// What can be seen without running: births, posts, numbers.
    fn prepare(tree: &'a LiftedTree, expected: &'a Expected) -> Result<Run<'a>, Counterexample> {
        let whole = |pid: u32, wrong: Wrong| Counterexample { task: pid, record: None, wrong };
        let mut wanted: BTreeMap<u32, Role<'a>> = BTreeMap::new();
        for task in &expected.tasks {
            let roles = std::iter::once((task.pid, Role::Task(task)));
            for (pid, role) in roles.chain(task.threads.iter().map(|tid| (*tid, Role::Thread(task)))) {
                if wanted.insert(pid, role).is_some() {
                    return Err(whole(task.pid, Wrong::PidTwice { pid }));
                }
            }
        }
        let mut by_pid = BTreeMap::new();
        for (index, task) in tree.tasks.iter().enumerate() {
            if by_pid.insert(task.pid, index).is_some() {
                return Err(whole(task.pid, Wrong::BornTwice { child: task.pid }));
            }
        }
        let mut posts: BTreeMap<u32, At> = BTreeMap::new();
        let mut forks: BTreeMap<u32, At> = BTreeMap::new();
        let mut waits: BTreeMap<u32, At> = BTreeMap::new();
        let pid_of = |at: At| tree.tasks[at.task].pid;
        for (task, lifted) in tree.tasks.iter().enumerate() {
            for lifted in &lifted.effects {
                let at = At { task, record: lifted.record };
                match &lifted.effect {
                    Effect::Post(event) => {
                        if let Some(first) = posts.insert(*event, at) {
                            let wrong =
                                Wrong::PostedTwice { event: *event, by: pid_of(first), at: first.record };
                            return Err(Counterexample { task: pid_of(at), record: Some(at.record), wrong });
                        }
                    }
                    Effect::Wait(event) => {
                        waits.entry(*event).or_insert(at);
                    }
                    Effect::Fork(birth) => {
                        let wrong = if !by_pid.contains_key(&birth.pid) {
                            Wrong::BornUnasked { child: birth.pid }
                        } else if forks.insert(birth.pid, at).is_some() || birth.pid == tree.root.pid {
                            Wrong::BornTwice { child: birth.pid }
                        } else {
                            continue;
                        };
                        return Err(Counterexample { task: pid_of(at), record: Some(at.record), wrong });
                    }
                    _ => {}
                }
            }
        }
        for (event, at) in &waits {
            if !posts.contains_key(event) {
                let wrong = Wrong::NeverPosted { event: *event };
                return Err(Counterexample { task: pid_of(*at), record: Some(at.record), wrong });
            }
        }
        for pid in wanted.keys().chain(by_pid.keys()) {
            if *pid != tree.root.pid && !forks.contains_key(pid) || !by_pid.contains_key(pid) {
                return Err(match wanted.get(pid) {
                    Some(Role::Thread(task)) => whole(task.pid, Wrong::ThreadMissing { tid: *pid }),
                    Some(Role::Task(_) | Role::Helper) | None => whole(*pid, Wrong::NeverBorn),
                });
            }
        }
        let alive = wanted.values().filter(|role| role.is_alive()).count() as u32;
        if tree.total != alive {
            return Err(whole(tree.root.pid, Wrong::WrongTotal { is: tree.total, wanted: alive }));
        }

        let count = tree.tasks.len();
        let unborn = Task {
            phase: Phase::Unborn,
            pc: 0,
            parent: 0,
            exit_signal: 0,
            sid: 0,
            pgid: 0,
            table: 0,
            died: None,
            awaited: false,
            signals: Signals::default(),
            privileges: Privileges::all(),
        };
        let mut run = Run {
            tree,
            expected,
            tasks: vec![unborn; count],
            roles: tree
                .tasks
                .iter()
                .map(|task| wanted.get(&task.pid).copied().unwrap_or(Role::Helper))
                .collect(),
            by_pid,
            tables: vec![Table::unknown()],
            objects: Objects::default(),
            groups: BTreeMap::new(),
            before: Before::new(count),
            posts,
            posted: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waiting_for_death: BTreeMap::new(),
            forks,
            ready: VecDeque::new(),
            carriers: BTreeMap::new(),
            needs_reader: Vec::new(),
            names: BTreeMap::new(),
            certificate: Certificate::default(),
        };
        let root = tree.root;
        let Some(index) = run.by_pid.get(&root.pid).copied() else {
            return Err(whole(root.pid, Wrong::NeverBorn));
        };
        let born = if root.flags & !CLONE_PARENT == 0 {
            let exit_signal =
                if root.flags & CLONE_PARENT != 0 { u64::from(SIGCHLD) } else { root.exit_signal };
            run.tasks[index].sid = expected.cradle.sid;
            run.tasks[index].pgid = expected.cradle.pgid;
            run.bear(index, 0, exit_signal)
        } else {
            Err(Wrong::NotModelled { call: "clone3", what: format!("flags {:#x} for the root", root.flags) })
        };
        born.map_err(|wrong| whole(root.pid, wrong))?;
        Ok(run)
    }

    pub(super) fn pid(&self, task: usize) -> u32 {
        self.tree.tasks[task].pid
    }

    fn record_at(&self, task: usize) -> Option<u32> {
        self.tree.tasks[task].effects.get(self.tasks[task].pc).map(|lifted| lifted.record)
    }

    /// Runs all that are ready until nobody is.
    fn drain(&mut self) -> Result<(), Counterexample> {
        while let Some(task) = self.ready.pop_front() {
            let effects = &self.tree.tasks[task].effects;
            loop {
                let Some(lifted) = effects.get(self.tasks[task].pc) else {
                    if !matches!(self.tasks[task].phase, Phase::Parked | Phase::Dead { .. } | Phase::Reaped) {
                        return Err(Counterexample {
                            task: self.pid(task),
                            record: None,
                            wrong: Wrong::NoEnd,
                        });
                    }
                    break;
                };
                let at = At { task, record: lifted.record };
                let flow = self.step(at, &lifted.effect).map_err(|wrong| Counterexample {
                    task: self.pid(task),
                    record: Some(lifted.record),
                    wrong,
                })?;
                match flow {
                    Flow::Blocked => break,
                    Flow::Next | Flow::Ended => {
                        self.tasks[task].pc += 1;
                        self.certificate.records += 1;
                    }
                }
                if let Flow::Ended = flow {
                    if let Some(lifted) = effects.get(self.tasks[task].pc) {
                        return Err(Counterexample {
                            task: self.pid(task),
                            record: Some(lifted.record),
                            wrong: Wrong::BehindEnd,
                        });
                    }
                    break;
                }
                if self.tasks[task].phase == Phase::Arrived {
                    break;
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, at: At, effect: &Effect) -> Result<Flow, Wrong> {
        let call = effect.name();
        let task = at.task;
        if self.tasks[task].phase == Phase::Tail && !is_for_tail(effect) {
            return Err(match effect {
                Effect::Arrive => Wrong::ArrivesTwice,
                _ => Wrong::InTail { call },
            });
        }
        self.tasks[task].privileges.step(at.record, effect).map_err(
            |TooLate { dropped_in, dropped_by }| Wrong::AfterDrop { call, dropped_by, dropped_in },
        )?;
        let is_thread = matches!(self.roles[task], Role::Thread(_));
        if is_thread
            && matches!(
                effect,
                Effect::Fork(_) | Effect::SetSid | Effect::SetPgid { .. } | Effect::AwaitExit { .. }
            )
        {
            return Err(Wrong::ByThread { call });
        }
        match effect {
            Effect::Fork(birth) => self.fork(at, birth)?,
            Effect::Post(event) => {
                self.certificate.posts += 1;
                self.posted.insert(*event, at);
                self.ready.extend(self.waiting.remove(event).unwrap_or_default());
            }
            Effect::Wait(event) => {
                let Some(source) = self.posted.get(event).copied() else {
                    self.waiting.entry(*event).or_default().push(task);
                    return Ok(Flow::Blocked);
                };
                self.certificate.waits += 1;
                self.before.add_wait(at, source);
            }
            Effect::Arrive => {
                if !self.roles[task].is_alive() {
                    return Err(if self.roles[task].is_zombie() {
                        Wrong::ShouldDie
                    } else {
                        Wrong::HelperLeft
                    });
                }
                self.tasks[task].phase = Phase::Arrived;
            }
            Effect::Park => {
                if self.tasks[task].phase != Phase::Tail {
                    return Err(if self.roles[task].is_zombie() {
                        Wrong::ShouldDie
                    } else {
                        Wrong::ParksEarly
                    });
                }
                self.tasks[task].phase = Phase::Parked;
                return Ok(Flow::Ended);
            }
            Effect::Exit { code } => {
                return self.die(at, u32::from(*code) << 8, || format!("exits with code {code}"));
            }
            Effect::Kill { signal } => {
                self.check_death(task, *signal)?;
                return self.die(at, *signal, || format!("kills itself by signal {signal}"));
            }
            Effect::AwaitExit { pid, reap } => return self.await_exit(at, *pid, *reap),
            Effect::SetSid => self.set_sid(at)?,
            Effect::SetPgid { pgid } => self.set_pgid(at, *pgid)?,
            Effect::Fd(effect) => self.change_table(at, call, effect)?,
            Effect::Name(effect) => self.change_names(at, call, effect)?,
            Effect::Object { fd, change } => self.change_object(at, call, *fd, change)?,
            Effect::Memory(effect) => self.change_memory(at, call, effect)?,
            Effect::Attribute(attribute) => self.set_attribute(task, attribute)?,
            Effect::Privilege(_) => self.certificate.privilege_drops += 1,
        }
        Ok(Flow::Next)
    }

    // Births, deaths, sessions, groups.

    /// A task comes to life: it has its table, session and group already.
    fn bear(&mut self, task: usize, parent: u32, exit_signal: u64) -> Result<(), Wrong> {
        let wanted_signal = match self.roles[task] {
            Role::Task(want) if want.ppid != parent => {
                return Err(Wrong::WrongParent { is: parent, wanted: want.ppid });
            }
            Role::Task(_) => SIGCHLD.into(),
            Role::Thread(_) | Role::Helper => 0,
        };
        if exit_signal != wanted_signal {
            return Err(Wrong::WrongExitSignal { is: exit_signal, wanted: wanted_signal });
        }
        let state = &mut self.tasks[task];
        state.parent = parent;
        state.exit_signal = exit_signal;
        state.phase = Phase::Running;
        self.ready.push_back(task);
        self.certificate.births += 1;
        Ok(())
    }

    fn fork(&mut self, at: At, birth: &Birth) -> Result<(), Wrong> {
        let is_thread = birth.flags == CLONE_THREAD_ALL;
        if !is_thread && birth.flags & !(CLONE_FILES | CLONE_PARENT) != 0 {
            return Err(Wrong::NotModelled { call: "clone3", what: format!("flags {:#x}", birth.flags) });
        }
        let Some(child) = self.by_pid.get(&birth.pid).copied() else {
            return Err(Wrong::BornUnasked { child: birth.pid });
        };
        if self.tasks[child].phase != Phase::Unborn {
            return Err(Wrong::BornTwice { child: birth.pid });
        }
        match (self.roles[child], is_thread) {
            (Role::Thread(of), true) if of.pid == self.pid(at.task) => {}
            (Role::Thread(of), true) => {
                return Err(Wrong::ThreadOfOther { is: self.pid(at.task), wanted: of.pid });
            }
            (Role::Thread(_), false) => return Err(Wrong::NotAThread),
            (Role::Task(_) | Role::Helper, true) => {
                return Err(Wrong::NotModelled {
                    call: "clone3",
                    what: format!("task {} as a thread", birth.pid),
                });
            }
            (Role::Task(_) | Role::Helper, false) => {}
        }
        let forker = self.tasks[at.task].clone();
        let (parent, exit_signal) = if birth.flags & CLONE_PARENT == 0 {
            (self.pid(at.task), birth.exit_signal)
        } else if birth.exit_signal == 0 {
            (forker.parent, forker.exit_signal)
        } else {
            return Err(Wrong::Refused {
                call: "clone3",
                what: "CLONE_PARENT with an exit signal".to_owned(),
            });
        };
        if forker.signals.children_vanish && self.roles[child].is_zombie() {
            return Err(Wrong::ZombieVanishes { pid: birth.pid });
        }
        let table = if birth.flags & CLONE_FILES != 0 {
            self.use_table(at, "clone3")?;
            let table = &mut self.tables[forker.table];
            table.shared = true;
            table.last = Some(at);
            forker.table
        } else {
            // The copy reads the table, whatever else is done to it at the same time.
            self.order_table(at, "clone3")?;
            let copy = self.tables[forker.table].copy();
            self.tables.push(copy);
            self.tables.len() - 1
        };
        self.before.add_birth(child, at);
        let state = &mut self.tasks[child];
        state.table = table;
        state.sid = forker.sid;
        state.pgid = forker.pgid;
        state.signals = Signals { timer_ids: false, ..forker.signals };
        state.privileges = forker.privileges;
        self.bear(child, parent, exit_signal)
    }

    fn check_death(&self, task: usize, signal: u32) -> Result<(), Wrong> {
        let uncertain = |why| Err(Wrong::UncertainDeath { signal, why });
        let signals = self.tasks[task].signals;
        match signal {
            SIGKILL => Ok(()),
            17..=23 | 28 | 0 | 65.. => uncertain("which does not kill"),
            _ if signals.default & 1 << (signal - 1) == 0 => {
                uncertain("whose disposition may not be the default")
            }
            _ if signals.unblocked & 1 << (signal - 1) == 0 => uncertain("which may be blocked"),
            3..=8 | 11 | 24 | 25 | 31 if !signals.dumps_nothing => {
                uncertain("which dumps core unless dumpable is 0")
            }
            _ => Ok(()),
        }
    }

    fn die(&mut self, at: At, status: u32, what: impl FnOnce() -> String) -> Result<Flow, Wrong> {
        let task = at.task;
        match self.roles[task] {
            Role::Task(want) | Role::Thread(want) => match want.life {
                Life::Alive => return Err(Wrong::Dies { what: what() }),
                Life::Zombie { status: wanted } if wanted != status => {
                    return Err(Wrong::WrongStatus { is: status, wanted });
                }
                Life::Zombie { .. } => {}
            },
            Role::Helper => {}
        }
        self.tasks[task].phase = Phase::Dead { status };
        self.tasks[task].died = Some(at);
        if let Some(waiter) = self.waiting_for_death.remove(&task) {
            self.ready.push_back(waiter);
        }
        Ok(Flow::Ended)
    }

    fn await_exit(&mut self, at: At, pid: u32, reap: bool) -> Result<Flow, Wrong> {
        let nobody = |why| Err(Wrong::AwaitsNobody { pid, why });
        let Some(child) = self.by_pid.get(&pid).copied() else { return nobody("is not in the tree") };
        if self.roles[child].is_alive() {
            return nobody("lives on");
        }
        let certainly_born = self.forks.get(&pid).is_some_and(|fork| self.before.holds(*fork, at));
        match self.tasks[child].phase {
            Phase::Unborn => return nobody("is not created before"),
            Phase::Reaped => return nobody("has been reaped"),
            Phase::Running | Phase::Dead { .. } | Phase::Arrived | Phase::Tail | Phase::Parked => {}
        }
        if self.tasks[child].parent != self.pid(at.task) {
            return nobody("is not its child");
        }
        if !certainly_born {
            return nobody("is not certainly created before");
        }
        if reap && self.roles[child].is_zombie() {
            return Err(Wrong::ReapsZombie { pid });
        }
        if self.tasks[at.task].signals.children_vanish && !reap {
            return Err(Wrong::ZombieVanishes { pid });
        }
        let Some(died) = self.tasks[child].died else {
            self.waiting_for_death.insert(child, at.task);
            return Ok(Flow::Blocked);
        };
        self.before.add_wait(at, died);
        self.tasks[child].awaited = true;
        if reap {
            self.tasks[child].phase = Phase::Reaped;
        }
        self.certificate.deaths_awaited += 1;
        Ok(Flow::Next)
    }

    fn set_sid(&mut self, at: At) -> Result<(), Wrong> {
        let pid = self.pid(at.task);
        if self.tasks[at.task].pgid == pid {
            return Err(Wrong::SetsidByLeader);
        }
        self.tasks[at.task].sid = pid;
        self.tasks[at.task].pgid = pid;
        self.found(at, pid)
    }

    fn found(&mut self, at: At, sid: u32) -> Result<(), Wrong> {
        if self.roles[at.task].task().is_none() {
            return Err(Wrong::NotModelled { call: "setpgid", what: "a group led by a helper".to_owned() });
        }
        self.groups.insert(self.pid(at.task), Group { founded: at, sid });
        self.certificate.family_changes += 1;
        Ok(())
    }

    fn set_pgid(&mut self, at: At, pgid: u32) -> Result<(), Wrong> {
        let pid = self.pid(at.task);
        let (sid, now) = (self.tasks[at.task].sid, self.tasks[at.task].pgid);
        if sid == pid {
            return Err(Wrong::SetpgidByLeader);
        }
        if pgid == pid {
            self.tasks[at.task].pgid = pid;
            return if now == pid { Ok(()) } else { self.found(at, sid) };
        }
        if now == pid {
            return Err(Wrong::NotModelled {
                call: "setpgid",
                what: "leaving a group that the task leads".to_owned(),
            });
        }
        let cradle = self.expected.cradle;
        let group_sid = match self.groups.get(&pgid) {
            Some(group) if self.before.holds(group.founded, at) => {
                self.certificate.orders_proved += 1;
                group.sid
            }
            Some(_) => return Err(Wrong::NoSuchGroup { pgid }),
            // The invoker's own group, and that of its session's leader.
            None if pgid != 0 && (cradle.pgid == pgid || cradle.sid == pgid) => cradle.sid,
            None => return Err(Wrong::NoSuchGroup { pgid }),
        };
        if group_sid != sid {
            return Err(Wrong::OtherSession { pgid });
        }
        self.tasks[at.task].pgid = pgid;
        self.certificate.family_changes += 1;
        Ok(())
    }

    fn set_attribute(&mut self, task: usize, attribute: &Attribute) -> Result<(), Wrong> {
        let own = self.pid(task);
        let whole = match self.roles[task] {
            Role::Thread(of) => of.pid,
            Role::Task(_) | Role::Helper => own,
        };
        let signals = &mut self.tasks[task].signals;
        match attribute {
            Attribute::SigAction { signal, handler, flags, .. } => {
                if let Some(bit) = signal.checked_sub(1).and_then(|shift| 1u64.checked_shl(shift)) {
                    signals.default = signals.default & !bit | if *handler == 0 { bit } else { 0 };
                }
                if *signal == SIGCHLD {
                    signals.children_vanish = *handler == 1 || flags & SA_NOCLDWAIT != 0;
                }
            }
            Attribute::SigMask { how, set } => match how {
                0 => signals.unblocked &= !set,
                1 => signals.unblocked |= set,
                _ => signals.unblocked = !set,
            },
            Attribute::Dumpable(value) => signals.dumps_nothing = *value == 0,
            Attribute::QueueSignal { pid, tid, signal, .. } => {
                let bad = |why| Err(Wrong::BadSignal { signal: *signal, why });
                if *pid != whole || tid.is_some_and(|tid| tid != own) {
                    return bad("to another task");
                }
                let bit = signal.checked_sub(1).and_then(|shift| 1u64.checked_shl(shift)).unwrap_or(0);
                if bit == 0 {
                    return bad("which does not exist");
                }
                if signals.unblocked & bit != 0 || matches!(*signal, SIGKILL | SIGSTOP) {
                    return bad("which is not blocked");
                }
            }
            Attribute::TimerIds(chosen) => signals.timer_ids = *chosen,
            Attribute::TimerCreate { .. } if !signals.timer_ids => {
                return Err(Wrong::NotModelled {
                    call: "timer_create",
                    what: "an id that the kernel chooses".to_owned(),
                });
            }
            // They end as the images say by a later demand; nothing here depends on them.
            Attribute::Name(_)
            | Attribute::Umask(_)
            | Attribute::WorkingDirectory(_)
            | Attribute::RootDirectory(_)
            | Attribute::Personality(_)
            | Attribute::ParentDeathSignal(_)
            | Attribute::Subreaper(_)
            | Attribute::ThpDisable(_)
            | Attribute::TimerSlack(_)
            | Attribute::EatSignal { .. }
            | Attribute::AltStack { .. }
            | Attribute::RobustList { .. }
            | Attribute::TidAddress(_)
            | Attribute::Rseq { .. }
            | Attribute::Membarrier(_)
            | Attribute::IntervalTimer { .. }
            | Attribute::TimerCreate { .. }
            | Attribute::TimerSet { .. }
            | Attribute::Nice(_)
            | Attribute::Scheduler { .. } => {}
        }
        Ok(())
    }

    // Descriptor tables.

    /// Orders an access to the task's table with those of tasks that share it.
    fn order_table(&mut self, at: At, call: &'static str) -> Result<(), Wrong> {
        let index = self.tasks[at.task].table;
        if self.tables[index].shared {
            if let Some(last) = self.tables[index].last {
                self.order(last, at, call, || "the shared descriptor table".to_owned())?;
            }
            self.tables[index].last = Some(at);
        }
        Ok(())
    }

    fn use_table(&mut self, at: At, call: &'static str) -> Result<&mut Table, Wrong> {
        self.order_table(at, call)?;
        let table = &mut self.tables[self.tasks[at.task].table];
        if table.unknown {
            return Err(Wrong::LauncherDescriptors { call });
        }
        Ok(table)
    }

    /// Two records that change one thing must come in one order.
    fn order(
        &mut self,
        last: At,
        at: At,
        call: &'static str,
        what: impl FnOnce() -> String,
    ) -> Result<(), Wrong> {
        if last.task == at.task {
            return Ok(());
        }
        if !self.before.holds(last, at) {
            return Err(Wrong::Unordered { call, what: what(), by: self.pid(last.task), at: last.record });
        }
        self.certificate.orders_proved += 1;
        Ok(())
    }

    fn descriptor(&mut self, at: At, call: &'static str, fd: Fd) -> Result<Desc, Wrong> {
        let entry = self.use_table(at, call)?.get(fd);
        entry.map(|entry| entry.desc).ok_or(Wrong::NotOpen { call, fd })
    }

    pub(super) fn describe(&self, desc: Desc) -> String {
        self.objects.describe(desc, &|task| self.pid(task))
    }

    fn change_table(&mut self, at: At, call: &'static str, effect: &FdEffect) -> Result<(), Wrong> {
        let as_expected = |is: Fd, expected: Fd| {
            if is == expected { Ok(()) } else { Err(Wrong::OtherNumber { call, is, expected }) }
        };
        let in_reach =
            |fd: Fd| if fd < NUMBERS_END { Ok(()) } else { Err(Wrong::NumberTooHigh { call, fd }) };
        match effect {
            FdEffect::Open { path, flags, fd } => {
                self.use_table(at, call)?;
                let desc = self.open(at, call, path, *flags)?;
                as_expected(self.use_table(at, call)?.open(0, desc, flags & O_CLOEXEC != 0), *fd)?;
            }
            FdEffect::Pipe { flags } => {
                let unknown = flags & !(O_CLOEXEC | O_NONBLOCK | O_DIRECT);
                if unknown != 0 {
                    return Err(Wrong::NotModelled { call, what: format!("flags {unknown:#o}") });
                }
                let facts = self.expected.facts;
                self.use_table(at, call)?;
                for desc in self.objects.add_pipe(*flags, &facts, at) {
                    self.use_table(at, call)?.open(0, desc, flags & O_CLOEXEC != 0);
                }
            }
            FdEffect::SocketPair { sock_type, flags } => {
                if !matches!(*sock_type, SOCK_STREAM | SOCK_DGRAM | SOCK_SEQPACKET)
                    || flags & !(O_CLOEXEC | O_NONBLOCK) != 0
                {
                    return Err(Wrong::NotModelled {
                        call,
                        what: format!("type {sock_type}, flags {flags:#o}"),
                    });
                }
                let facts = self.expected.facts;
                self.use_table(at, call)?;
                for desc in self.objects.add_socket_pair(*sock_type, *flags, &facts, at) {
                    self.use_table(at, call)?.open(0, desc, flags & O_CLOEXEC != 0);
                }
            }
            FdEffect::Eventfd { counter, flags, fd } => {
                if flags & !(O_CLOEXEC | O_NONBLOCK | 1) != 0 {
                    return Err(Wrong::NotModelled { call, what: format!("flags {flags:#o}") });
                }
                self.use_table(at, call)?;
                let kind = ObjectKind::Eventfd { counter: u64::from(*counter), semaphore: flags & 1 != 0 };
                let object = self.objects.add_object(kind, at);
                let desc = self.objects.add_description(object, O_RDWR | flags & O_NONBLOCK, at);
                as_expected(self.use_table(at, call)?.open(0, desc, flags & O_CLOEXEC != 0), *fd)?;
            }
            FdEffect::Memfd { name, flags, fd } => {
                /// MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_EXEC.
                const KNOWN: u32 = 0x13;
                if flags & !KNOWN != 0 {
                    return Err(Wrong::NotModelled { call, what: format!("flags {flags:#x}") });
                }
                self.use_table(at, call)?;
                let seals = if flags & 2 == 0 { 1 } else { 0 };
                let inode = Inode { kind: InodeKind::Memfd, name: name.clone(), seals, ..Inode::default() };
                let object = self.objects.add_object(ObjectKind::Inode(Box::new(inode)), at);
                let desc = self.objects.add_description(object, O_RDWR, at);
                as_expected(self.use_table(at, call)?.open(0, desc, flags & 1 != 0), *fd)?;
            }
            FdEffect::Dup { from, to, cloexec } => {
                in_reach(*to)?;
                let desc = self.descriptor(at, call, *from)?;
                if from == to {
                    return Err(Wrong::Refused { call, what: format!("descriptor {from} onto itself") });
                }
                self.use_table(at, call)?.place(*to, desc, *cloexec);
            }
            FdEffect::DupLowest { from, least, to, cloexec } => {
                in_reach(*least)?;
                let desc = self.descriptor(at, call, *from)?;
                as_expected(self.use_table(at, call)?.open(*least, desc, *cloexec), *to)?;
            }
            FdEffect::SetCloexec { fd, cloexec } => {
                self.descriptor(at, call, *fd)?;
                self.use_table(at, call)?.set_cloexec(*fd, *cloexec);
            }
            FdEffect::Close { fd } => {
                self.use_table(at, call)?.close(*fd).ok_or(Wrong::NotOpen { call, fd: *fd })?;
            }
            FdEffect::CloseRange { first, last, only_mark, unshare } => {
                if first > last {
                    return Err(Wrong::Refused { call, what: format!("{first} to {last}") });
                }
                let index = self.tasks[at.task].table;
                if *unshare && self.tables[index].shared {
                    self.order_table(at, call)?;
                    let copy = self.tables[index].copy();
                    self.tables.push(copy);
                    self.tasks[at.task].table = self.tables.len() - 1;
                }
                if *first == 0 && *last >= NUMBERS_END && !only_mark {
                    self.order_table(at, call)?;
                    self.tables[self.tasks[at.task].table].unknown = false;
                }
                let table = self.use_table(at, call)?;
                for fd in table.within(*first, *last) {
                    if *only_mark {
                        table.set_cloexec(fd, true);
                    } else {
                        table.close(fd);
                    }
                }
            }
        }
        Ok(())
    }

    fn open(&mut self, at: At, call: &'static str, path: &[u8], flags: u32) -> Result<Desc, Wrong> {
        let shown = || path.escape_ascii().to_string();
        let made = flags & (O_CREAT | O_EXCL | O_TRUNC | O_TMPFILE_BIT) == O_CREAT | O_EXCL;
        if made && self.expected.inodes.values().any(|inode| inode.kind == InodeKind::File && (inode.name == path || path.strip_prefix(inode.name.as_slice()) == Some(ASIDE))) {
            let inode = Inode { kind: InodeKind::File, name: path.to_vec(), ..Inode::default() };
            let object = self.objects.add_object(ObjectKind::Inode(Box::new(inode)), at);
            self.make_name(at, call, path, false, Some(object))?;
            let status = flags & !(O_CLOEXEC | O_NOCTTY | O_CREAT | O_EXCL);
            return Ok(self.objects.add_description(object, status, at));
        }
        if flags & (O_CREAT | O_EXCL | O_TRUNC | O_TMPFILE_BIT) != 0 {
            return Err(Wrong::OpensToChange { path: shown(), flags });
        }
        if flags & O_ASYNC != 0 {
            return Err(Wrong::NotModelled {
                call,
                what: "O_ASYNC, which an open only pretends to set".to_owned(),
            });
        }
        let mut status = flags & !(O_CLOEXEC | O_NOCTTY);
        if flags & O_SYNC_BIT != 0 {
            status |= O_DSYNC;
        }
        if flags & O_PATH != 0 {
            status &= O_PATH | O_DIRECTORY | O_NOFOLLOW;
        }
        let own = path.strip_prefix(b"/proc/self/").or(path.strip_prefix(b"/proc/thread-self/"));
        if let Some(number) = own.and_then(|rest| rest.strip_prefix(b"fd/")) {
            let number = std::str::from_utf8(number).ok().and_then(|text| text.parse().ok());
            let fd = number.ok_or_else(|| Wrong::OpensOther { path: shown() })?;
            let desc = self.descriptor(at, call, fd)?;
            let object = self.objects.description(desc).object;
            let can = match self.objects.objects[object].kind {
                ObjectKind::File { .. } | ObjectKind::Pipe(_) => flags & O_NOFOLLOW == 0,
                ObjectKind::Inode(ref inode) => {
                    let is_directory = inode.kind == InodeKind::Directory;
                    let writes = flags & O_ACCMODE != O_RDONLY && flags & O_PATH == 0;
                    flags & O_NOFOLLOW == 0 && (is_directory || flags & O_DIRECTORY == 0) && !(is_directory && writes)
                }
                ObjectKind::Socket(_) | ObjectKind::Eventfd { .. } => false,
            };
            if !can {
                return Err(Wrong::Refused { call, what: self.describe(desc) });
            }
            return Ok(self.objects.add_description(object, status, at));
        }
        if let Some(name) = self.names.get(path).copied().filter(|name| name.is_there) {
            self.order(name.last, at, call, shown)?;
            // What stands only for others to be made in, nobody needs to open.
            let object = name.object.ok_or_else(|| Wrong::OpensOther { path: shown() })?;
            let is_directory = name.is_directory && flags & (O_ACCMODE | O_PATH) == O_RDONLY;
            if !is_directory {
                return Err(Wrong::NotModelled { call, what: format!("another open of {}", shown()) });
            }
            return Ok(self.objects.add_description(object, status, at));
        }
        // A file about a task is there when the task is.
        let about = path.strip_prefix(b"/proc/").and_then(|rest| rest.split(|byte| *byte == b'/').next());
        let about = about.and_then(|pid| std::str::from_utf8(pid).ok()).and_then(|pid| pid.parse::<u32>().ok());
        if let Some(fork) = about.filter(|pid| *pid != self.pid(at.task)).and_then(|pid| self.forks.get(&pid).copied()) {
            if !self.before.holds(fork, at) {
                return Err(Wrong::BadName { call, path: shown(), why: "is about a task that may not be born yet" });
            }
            self.certificate.orders_proved += 1;
        }
        let is_image = || {
            let file =
                path.strip_prefix(self.expected.images.as_slice()).and_then(|rest| rest.strip_prefix(b"/"));
            let reads = flags & O_ACCMODE == O_RDONLY;
            reads && file.is_some_and(|name| !name.is_empty() && !name.contains(&b'/') && name != b"..")
        };
        let may = match own {
            Some(rest) => ATTRIBUTE_FILES.contains(&rest),
            None => self.expected.paths.contains(path) || is_image(),
        };
        if !may {
            return Err(Wrong::OpensOther { path: shown() });
        }
        let object = self.objects.add_object(ObjectKind::File { path: path.to_vec() }, at);
        Ok(self.objects.add_description(object, status, at))
    }

    // Names.

    fn change_names(&mut self, at: At, call: &'static str, effect: &NameEffect) -> Result<(), Wrong> {
        match effect {
            NameEffect::MakeDirectory { path } => {
                let inodes = self.expected.inodes.values();
                let mut named = inodes.filter(|inode| inode.kind != InodeKind::Memfd).map(|inode| inode.name.as_slice());
                let is_above = |name: &[u8]| name.strip_prefix(path.as_slice()).is_some_and(|rest| rest.starts_with(b"/"));
                let is_wanted = self.expected.inodes.values().any(|inode| inode.kind == InodeKind::Directory && inode.name == *path);
                if !is_wanted && !named.any(is_above) {
                    let path = path.escape_ascii().to_string();
                    return Err(Wrong::BadName { call, path, why: "no unlinked file of the images needs" });
                }
                let object = is_wanted.then(|| {
                    let inode = Inode { kind: InodeKind::Directory, name: path.clone(), ..Inode::default() };
                    self.objects.add_object(ObjectKind::Inode(Box::new(inode)), at)
                });
                self.make_name(at, call, path, true, object)
            }
            NameEffect::Exchange { from, to } => self.change_places(at, call, from, to),
            NameEffect::Rename { from, to } => self.take_back(at, call, from, to),
            NameEffect::Unlink { path } => self.remove_name(at, call, path, false),
            NameEffect::RemoveDirectory { path } => self.remove_name(at, call, path, true),
        }
    }

    fn make_name(&mut self, at: At, call: &'static str, path: &[u8], is_directory: bool, object: Option<usize>) -> Result<(), Wrong> {
        let shown = || path.escape_ascii().to_string();
        if let Some(name) = self.names.get(path).copied() {
            self.order(name.last, at, call, shown)?;
            if name.is_there {
                return Err(Wrong::BadName { call, path: shown(), why: "exists" });
            }
        }
        // What it is made in must be there, if it is the tapes' own.
        let above = path.iter().rposition(|byte| *byte == b'/').and_then(|end| path.get(..end)).unwrap_or_default();
        if let Some(directory) = self.names.get(above).copied() {
            self.order(directory.last, at, call, shown)?;
            if !directory.is_there || !directory.is_directory {
                return Err(Wrong::BadName { call, path: shown(), why: "would be in a directory that is gone" });
            }
        }
        self.names.insert(path.to_vec(), Name { is_there: true, is_directory, object, is_foreign: false, last: at });
        Ok(())
    }

    /// A file that the tapes have made beside the name that it is to have takes that name, and what
    /// had it gets the other.
    fn change_places(&mut self, at: At, call: &'static str, from: &[u8], to: &[u8]) -> Result<(), Wrong> {
        let bad = |path: &[u8], why| Err(Wrong::BadName { call, path: path.escape_ascii().to_string(), why });
        let made = self.names.get(from).copied().filter(|name| name.is_there && !name.is_foreign && !name.is_directory);
        let Some((made, object)) = made.and_then(|name| Some((name, name.object?))) else {
            return bad(from, "the tapes have not made");
        };
        self.order(made.last, at, call, || from.escape_ascii().to_string())?;
        if let Some(old) = self.names.get(to).copied() {
            self.order(old.last, at, call, || to.escape_ascii().to_string())?;
            if old.is_there {
                return bad(to, "is the tapes' own");
            }
        }
        let is_wanted = self.expected.inodes.values().any(|inode| inode.kind == InodeKind::File && inode.name == to);
        let ObjectKind::Inode(inode) = &mut self.objects.objects[object].kind else {
            return bad(from, "is no file of the tapes");
        };
        if !is_wanted || from.strip_prefix(to) != Some(ASIDE) {
            return bad(to, "no unlinked file of the images had");
        }
        inode.name = to.to_vec();
        self.names.insert(to.to_vec(), Name { last: at, ..made });
        self.names.insert(from.to_vec(), Name { object: None, is_foreign: true, last: at, ..made });
        Ok(())
    }

    /// What had to make place takes its name back.
    fn take_back(&mut self, at: At, call: &'static str, from: &[u8], to: &[u8]) -> Result<(), Wrong> {
        let there = |name: Option<&Name>| name.copied().filter(|name| name.is_there);
        let (Some(foreign), Some(own)) = (there(self.names.get(from)), there(self.names.get(to))) else {
            let path = from.escape_ascii().to_string();
            return Err(Wrong::BadName { call, path, why: "has not changed places" });
        };
        self.order(foreign.last, at, call, || from.escape_ascii().to_string())?;
        self.order(own.last, at, call, || to.escape_ascii().to_string())?;
        if !foreign.is_foreign || own.is_foreign || from.strip_prefix(to) != Some(ASIDE) {
            let path = from.escape_ascii().to_string();
            return Err(Wrong::BadName { call, path, why: "has not changed places with it" });
        }
        self.names.insert(from.to_vec(), Name { is_there: false, is_foreign: false, last: at, ..foreign });
        self.names.insert(to.to_vec(), Name { is_there: false, last: at, ..own });
        Ok(())
    }

    fn remove_name(&mut self, at: At, call: &'static str, path: &[u8], is_directory: bool) -> Result<(), Wrong> {
        let shown = || path.escape_ascii().to_string();
        let bad = |why| Err(Wrong::BadName { call, path: shown(), why });
        let Some(name) = self.names.get(path).copied().filter(|name| name.is_there) else {
            return bad("the tapes have not made");
        };
        self.order(name.last, at, call, shown)?;
        if name.is_directory != is_directory || name.is_foreign {
            return bad("is of another kind");
        }
        let mut below = path.to_vec();
        below.push(b'/');
        let is_below = |other: &Vec<u8>| other.starts_with(&below);
        if is_directory && self.names.range(below.clone()..).take_while(|(other, _)| is_below(other)).any(|(_, name)| name.is_there) {
            return bad("is not empty");
        }
        self.names.insert(path.to_vec(), Name { is_there: false, last: at, ..name });
        Ok(())
    }

    // What descriptors refer to.

    /// Orders a change of a description.
    fn touch(&mut self, at: At, call: &'static str, desc: Desc) -> Result<(), Wrong> {
        let last = self.objects.description(desc).last;
        if last.task != at.task {
            let what = self.describe(desc);
            self.order(last, at, call, || what)?;
        }
        self.objects.description_mut(desc).last = at;
        Ok(())
    }

    /// Orders a change of an object.
    fn touch_object(&mut self, at: At, call: &'static str, object: usize, desc: Desc) -> Result<(), Wrong> {
        let last = self.objects.objects[object].last;
        if last.task != at.task {
            let what = self.describe(desc);
            self.order(last, at, call, || what)?;
        }
        self.objects.objects[object].last = at;
        Ok(())
    }

    fn change_object(&mut self, at: At, call: &'static str, fd: Fd, change: &Change) -> Result<(), Wrong> {
        let desc = self.descriptor(at, call, fd)?;
        let object = self.objects.description(desc).object;
        let flags = self.objects.description(desc).flags;
        let refused = |run: &Self| Wrong::Refused { call, what: run.describe(desc) };
        if flags & O_PATH != 0 && *change != Change::Enter {
            return Err(refused(self));
        }
        match change {
            Change::Seek { position } => {
                if !matches!(self.objects.objects[object].kind, ObjectKind::File { .. } | ObjectKind::Inode(_)) {
                    return Err(refused(self));
                }
                self.touch(at, call, desc)?;
                self.objects.description_mut(desc).position = *position;
            }
            Change::SetStatus { flags: set } => {
                self.touch(at, call, desc)?;
                self.objects.description_mut(desc).flags = set_status(flags, *set);
            }
            Change::SetOwner { pid_type, pid } => {
                self.touch(at, call, desc)?;
                let owner = &mut self.objects.description_mut(desc).owner;
                owner.pid_type = *pid_type;
                owner.pid = *pid;
            }
            Change::SetSignal { signal } => {
                self.touch(at, call, desc)?;
                self.objects.description_mut(desc).owner.signal = *signal;
            }
            Change::SetPipeSize { bytes } => {
                self.touch_object(at, call, object, desc)?;
                let ObjectKind::Pipe(pipe) = &mut self.objects.objects[object].kind else {
                    return Err(refused(self));
                };
                match pipe.resize(*bytes) {
                    Ok(capacity) if capacity == *bytes => {}
                    Ok(_) | Err(_) => {
                        let what = format!("{}: a capacity of {bytes} bytes", self.describe(desc));
                        return Err(Wrong::Refused { call, what });
                    }
                }
            }
            Change::Write { data } => self.write(at, call, desc, data)?,
            Change::Send { data, rights, never_blocks } => {
                let rights =
                    rights.iter().map(|fd| self.descriptor(at, call, *fd)).collect::<Result<Vec<_>, _>>()?;
                self.send(at, call, desc, data, rights, *never_blocks)?;
            }
            Change::Read { into, offset } => {
                if !matches!(self.objects.objects[object].kind, ObjectKind::File { .. }) {
                    return Err(Wrong::NotModelled {
                        call,
                        what: format!("reading from {}", self.describe(desc)),
                    });
                }
                if flags & O_ACCMODE == O_WRONLY {
                    return Err(refused(self));
                }
                for (start, len) in into {
                    self.check_range(call, *start, *len, 1)?;
                }
                if offset.is_none() {
                    self.touch(at, call, desc)?;
                    let len = into.iter().fold(0u64, |sum, (_, len)| sum.saturating_add(*len));
                    let description = self.objects.description_mut(desc);
                    description.position = description.position.saturating_add(len);
                }
                self.certificate.memory_changes += 1;
            }
            Change::Shutdown { bits } => {
                self.touch_object(at, call, object, desc)?;
                let ObjectKind::Socket(socket) = &mut self.objects.objects[object].kind else {
                    return Err(refused(self));
                };
                socket.shutdown |= bits;
                let (peer, sock_type) = (socket.peer, socket.sock_type);
                if sock_type != SOCK_DGRAM {
                    self.touch_object(at, call, peer, desc)?;
                    if let ObjectKind::Socket(peer) = &mut self.objects.objects[peer].kind {
                        peer.shutdown |= (bits & 1) << 1 | (bits & 2) >> 1;
                    }
                }
            }
            Change::SetOption { option, value, force } => {
                self.touch_object(at, call, object, desc)?;
                let facts = self.expected.facts;
                let ObjectKind::Socket(socket) = &mut self.objects.objects[object].kind else {
                    return Err(refused(self));
                };
                socket.set_option(*option, *value, *force, &facts);
            }
            Change::Truncate { len } => {
                let writable = flags & O_ACCMODE != O_RDONLY;
                let inode = self.inode(at, call, desc)?;
                if inode.kind == InodeKind::Directory || inode.is_sealed() || *len < inode.size || !writable {
                    return Err(refused(self));
                }
                inode.size = *len;
            }
            Change::SetFileOwner { uid, gid } => {
                let inode = self.inode(at, call, desc)?;
                inode.owner = Some((*uid, *gid));
                // Bits of the mode may be taken away (chown(2)).
                inode.mode = None;
            }
            Change::SetMode { mode } => {
                let inode = self.inode(at, call, desc)?;
                if inode.seals & F_SEAL_EXEC != 0 {
                    return Err(refused(self));
                }
                inode.mode = Some(*mode);
            }
            Change::SetTimes { atime, mtime } => self.inode(at, call, desc)?.times = Some((*atime, *mtime)),
            Change::AddSeals { seals } => {
                let inode = self.inode(at, call, desc)?;
                if inode.kind != InodeKind::Memfd || inode.seals & F_SEAL_SEAL != 0 {
                    return Err(refused(self));
                }
                inode.seals |= *seals;
            }
            Change::Enter => {
                let is_directory = match &self.objects.objects[object].kind {
                    ObjectKind::Inode(inode) => inode.kind == InodeKind::Directory,
                    ObjectKind::File { .. } => true,
                    ObjectKind::Pipe(_) | ObjectKind::Socket(_) | ObjectKind::Eventfd { .. } => false,
                };
                if !is_directory {
                    return Err(refused(self));
                }
            }
            Change::Copy { from, len } => self.copy(at, call, desc, *from, *len)?,
        }
        Ok(())
    }

    /// A file that the tapes have made.
    fn inode(&mut self, at: At, call: &'static str, desc: Desc) -> Result<&mut Inode, Wrong> {
        let object = self.objects.description(desc).object;
        self.touch_object(at, call, object, desc)?;
        let what = self.describe(desc);
        match &mut self.objects.objects[object].kind {
            ObjectKind::Inode(inode) => Ok(inode),
            ObjectKind::File { .. } => Err(Wrong::ChangesFile { call, what }),
            ObjectKind::Pipe(_) | ObjectKind::Socket(_) | ObjectKind::Eventfd { .. } => Err(Wrong::Refused { call, what }),
        }
    }

    /// `sendfile`: both positions go on.
    fn copy(&mut self, at: At, call: &'static str, desc: Desc, from: Fd, len: u64) -> Result<(), Wrong> {
        let source = self.descriptor(at, call, from)?;
        let ObjectKind::File { path } = self.objects.object_of(source).kind.clone() else {
            return Err(Wrong::NotModelled { call, what: format!("copying from {}", self.describe(source)) });
        };
        let source_flags = self.objects.description(source).flags;
        if source_flags & O_PATH != 0 || source_flags & O_ACCMODE == O_WRONLY {
            return Err(Wrong::Refused { call, what: self.describe(source) });
        }
        self.touch(at, call, source)?;
        self.touch(at, call, desc)?;
        let (to, start) = (self.objects.description(desc).position, self.objects.description(source).position);
        let flags = self.objects.description(desc).flags;
        let refused = Wrong::Refused { call, what: self.describe(desc) };
        let ends = to.checked_add(len).zip(start.checked_add(len));
        let inode = self.inode(at, call, desc)?;
        let Some((end, source_end)) = ends else { return Err(refused) };
        if inode.kind == InodeKind::Directory || inode.is_sealed() || flags & O_ACCMODE == O_RDONLY || flags & O_APPEND != 0 {
            return Err(refused);
        }
        inode.content.push(to, &path, start, len);
        inode.size = inode.size.max(end);
        inode.times = None;
        self.objects.description_mut(desc).position = end;
        self.objects.description_mut(source).position = source_end;
        Ok(())
    }

    fn write(&mut self, at: At, call: &'static str, desc: Desc, data: &[u8]) -> Result<(), Wrong> {
        let (object, flags) = (self.objects.description(desc).object, self.objects.description(desc).flags);
        if flags & O_ACCMODE == O_RDONLY {
            return Err(Wrong::Refused { call, what: self.describe(desc) });
        }
        self.touch_object(at, call, object, desc)?;
        let full = match &mut self.objects.objects[object].kind {
            ObjectKind::File { path } => {
                if path.starts_with(b"/proc/self/") || path.starts_with(b"/proc/thread-self/") {
                    return Ok(());
                }
                return Err(Wrong::ChangesFile { call, what: self.describe(desc) });
            }
            ObjectKind::Socket(_) => {
                return self.send(at, call, desc, data, Vec::new(), flags & O_NONBLOCK != 0);
            }
            ObjectKind::Inode(_) => return Err(Wrong::NotModelled { call, what: self.describe(desc) }),
            ObjectKind::Pipe(pipe) => pipe.write(data, flags),
            ObjectKind::Eventfd { counter, .. } => {
                let value = data.try_into().map(u64::from_ne_bytes).unwrap_or(u64::MAX);
                let full = Full { holds: *counter, capacity: u64::MAX - 1 };
                let sum = counter.checked_add(value).filter(|sum| *sum < u64::MAX);
                sum.map(|sum| *counter = sum).ok_or(full)
            }
        };
        if let Err(Full { holds, capacity }) = full {
            return Err(Wrong::WouldBlock { call, what: self.describe(desc), holds, capacity });
        }
        let is_pipe = matches!(self.objects.objects[object].kind, ObjectKind::Pipe(_));
        if is_pipe && !self.tables[self.tasks[at.task].table].holds(|desc| self.objects.reads(desc, object)) {
            self.needs_reader.push((at, call, object));
        }
        Ok(())
    }

    fn send(
        &mut self,
        at: At,
        call: &'static str,
        desc: Desc,
        data: &[u8],
        rights: Vec<Desc>,
        never_blocks: bool,
    ) -> Result<(), Wrong> {
        let object = self.objects.description(desc).object;
        let refused = |run: &Self| Wrong::Refused { call, what: run.describe(desc) };
        self.touch_object(at, call, object, desc)?;
        let never_blocks = never_blocks || self.objects.description(desc).flags & O_NONBLOCK != 0;
        let ObjectKind::Socket(socket) = &mut self.objects.objects[object].kind else {
            return Err(refused(self));
        };
        if socket.shutdown & 2 != 0 {
            return Err(refused(self));
        }
        let (peer, sock_type) = (socket.peer, socket.sock_type);
        if data.is_empty() && sock_type == SOCK_STREAM {
            return Ok(());
        }
        if let Err(Full { holds, capacity }) = socket.charge(data.len(), never_blocks) {
            return Err(Wrong::WouldBlock { call, what: self.describe(desc), holds, capacity });
        }
        self.touch_object(at, call, peer, desc)?;
        let ObjectKind::Socket(receiver) = &mut self.objects.objects[peer].kind else {
            return Err(refused(self));
        };
        if receiver.shutdown & 1 != 0 {
            return Err(refused(self));
        }
        receiver.queue.push(Packet { data: data.to_vec(), rights });
        if !self.tables[self.tasks[at.task].table].holds(|desc| self.objects.reads(desc, peer)) {
            self.needs_reader.push((at, call, peer));
        }
        Ok(())
    }

    // Address spaces.

    /// Whether a range lies in user space and clear of the tapes.
    fn check_range(&self, call: &'static str, at: u64, len: u64, align: u64) -> Result<(), Wrong> {
        let end = at.saturating_add(len);
        let bad = |why| Err(Wrong::BadRange { call, at, end, why });
        let region = self.tree.region;
        if !at.is_multiple_of(align) {
            return bad("not a multiple of the page size");
        }
        if end > USER_END {
            return bad("beyond user space");
        }
        // Reads may go to the scratch part: the lifter says whether they keep clear of the events.
        let is_scratch = align == 1 && region.start <= at && end <= region.rw_end;
        if at < region.end && region.start < end && !is_scratch {
            return bad("in the tapes");
        }
        Ok(())
    }

    /// Whether a range of pages lies also clear of the carriers.
    fn check_pages(&self, call: &'static str, at: u64, len: u64) -> Result<(), Wrong> {
        self.check_range(call, at, len, PAGE)?;
        let end = at.saturating_add(len);
        if len == 0 {
            return Err(Wrong::BadRange { call, at, end, why: "empty" });
        }
        let region = self.tree.region;
        if at < region.window_end && region.start < end {
            return Err(Wrong::BadRange { call, at, end, why: "among the carriers of shared memory" });
        }
        Ok(())
    }

    fn change_memory(&mut self, at: At, call: &'static str, effect: &MemoryEffect) -> Result<(), Wrong> {
        let region = self.tree.region;
        match effect {
            MemoryEffect::Map { at: start, len, prot, flags, file } => {
                let end = start.saturating_add(*len);
                if region.end <= *start
                    && end <= region.window_end
                    && flags & MAP_SHARED != 0
                    && flags & MAP_ANONYMOUS != 0
                {
                    self.check_range(call, *start, *len, PAGE)?;
                    let overlaps =
                        self.carriers.range(..end).next_back().is_some_and(|(_, other)| *other > *start);
                    if overlaps {
                        return Err(Wrong::BadRange {
                            call,
                            at: *start,
                            end,
                            why: "a carrier of shared memory made twice",
                        });
                    }
                    self.carriers.insert(*start, end);
                } else {
                    self.check_pages(call, *start, *len)?;
                }
                if let Some((fd, offset)) = file {
                    let desc = self.descriptor(at, call, *fd)?;
                    let flags_of = self.objects.description(desc).flags;
                    let is_file = match &self.objects.object_of(desc).kind {
                        ObjectKind::File { .. } => true,
                        ObjectKind::Inode(inode) => {
                            let writes = flags & MAP_SHARED != 0 && prot & PROT_WRITE != 0;
                            inode.kind != InodeKind::Directory && !(writes && inode.seals & SEALS_WRITE != 0)
                        }
                        ObjectKind::Pipe(_) | ObjectKind::Socket(_) | ObjectKind::Eventfd { .. } => false,
                    };
                    let readable = flags_of & O_PATH == 0 && flags_of & O_ACCMODE != O_WRONLY;
                    let writable =
                        flags & MAP_SHARED == 0 || prot & PROT_WRITE == 0 || flags_of & O_ACCMODE == O_RDWR;
                    if !is_file || !readable || !writable || !offset.is_multiple_of(PAGE) {
                        return Err(Wrong::Refused { call, what: self.describe(desc) });
                    }
                }
            }
            MemoryEffect::Remap { from, old_len, to, new_len, .. } => {
                if *old_len == 0 {
                    self.check_range(call, *from, *new_len, PAGE)?;
                } else {
                    self.check_pages(call, *from, *old_len)?;
                }
                self.check_pages(call, *to, *new_len)?;
            }
            MemoryEffect::Unmap { at, len }
            | MemoryEffect::Protect { at, len, .. }
            | MemoryEffect::Advise { at, len, .. } => {
                self.check_pages(call, *at, *len)?;
            }
            MemoryEffect::SetMm { exe, .. } => {
                if let Some(fd) = exe {
                    let desc = self.descriptor(at, call, *fd)?;
                    if !matches!(self.objects.object_of(desc).kind, ObjectKind::File { .. } | ObjectKind::Inode(_)) {
                        return Err(Wrong::Refused { call, what: self.describe(desc) });
                    }
                }
            }
            MemoryEffect::MapVdso { at } => self.check_pages(call, *at, PAGE)?,
        }
        self.certificate.memory_changes += 1;
        Ok(())
    }

    // Where it is stuck.

    /// Who waits for whom, from a task that cannot go on.
    fn chain(&self, stuck: usize) -> Vec<String> {
        let mut chain = Vec::new();
        let mut seen = vec![false; self.tasks.len()];
        let mut task = stuck;
        while !std::mem::replace(&mut seen[task], true) {
            let pid = self.pid(task);
            let next = match self.tasks[task].phase {
                Phase::Unborn => self.forks.get(&pid).map(|at| {
                    chain.push(format!(
                        "task {pid} is created by task {} in record {}",
                        self.pid(at.task),
                        at.record
                    ));
                    at.task
                }),
                Phase::Running => match self.tree.tasks[task]
                    .effects
                    .get(self.tasks[task].pc)
                    .map(|lifted| (lifted.record, &lifted.effect))
                {
                    Some((record, Effect::Wait(event))) => self.posts.get(event).map(|at| {
                        let by = format!("task {} posts in record {}", self.pid(at.task), at.record);
                        chain.push(format!(
                            "task {pid} waits in record {record} for event {event}, which {by}"
                        ));
                        at.task
                    }),
                    Some((record, Effect::AwaitExit { pid: child, .. })) => {
                        self.by_pid.get(child).map(|next| {
                            chain.push(format!(
                                "task {pid} waits in record {record} for the death of task {child}"
                            ));
                            *next
                        })
                    }
                    _ => None,
                },
                Phase::Arrived => {
                    chain.push(format!("task {pid} waits at the barrier"));
                    None
                }
                Phase::Tail | Phase::Parked | Phase::Dead { .. } | Phase::Reaped => None,
            };
            match next {
                Some(next) => task = next,
                None => break,
            }
        }
        chain
    }
}

/// What may follow the barrier: nothing that waits, makes or places anything.
fn is_for_tail(effect: &Effect) -> bool {
    match effect {
        Effect::Park | Effect::Privilege(_) => true,
        // A task that dies there has arrived, and should not have: the step says so.
        Effect::Exit { .. } | Effect::Kill { .. } => true,
        Effect::Fork(_)
        | Effect::Post(_)
        | Effect::Wait(_)
        | Effect::Arrive
        | Effect::AwaitExit { .. }
        | Effect::SetSid
        | Effect::SetPgid { .. }
        | Effect::Name(_)
        | Effect::Fd(_) => false,
        Effect::Object { change, .. } => match change {
            Change::SetStatus { .. } | Change::SetOwner { .. } | Change::SetSignal { .. } => true,
            Change::Seek { .. }
            | Change::SetPipeSize { .. }
            | Change::Write { .. }
            | Change::Send { .. }
            | Change::Read { .. }
            | Change::Shutdown { .. }
            | Change::SetOption { .. }
            | Change::Truncate { .. }
            | Change::Copy { .. }
            | Change::SetFileOwner { .. }
            | Change::SetMode { .. }
            | Change::SetTimes { .. }
            | Change::AddSeals { .. }
            | Change::Enter => false,
        },
        Effect::Memory(effect) => match effect {
            MemoryEffect::Protect { .. } | MemoryEffect::Advise { .. } => true,
            MemoryEffect::Map { .. }
            | MemoryEffect::Remap { .. }
            | MemoryEffect::Unmap { .. }
            | MemoryEffect::SetMm { .. }
            | MemoryEffect::MapVdso { .. } => false,
        },
        Effect::Attribute(attribute) => !matches!(attribute, Attribute::TimerCreate { .. }),
    }
}
