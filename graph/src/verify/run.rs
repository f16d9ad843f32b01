//! Runs the lifted tapes on a model of the kernel, all tasks at once, as the barrier, the events
//! and the deaths let them.
//!
//! No task can take anything away from another, so what can run in one order can run in every
//! order: if the tapes get stuck here, they get stuck always, and if they come to their ends, they
//! always do. What two tasks do to one thing must be ordered ([`super::before`]); then the end
//! is always the same, too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::attribute::state::State;
use super::attribute::value::Value;
use super::before::{At, Before};
use super::effect::{
    Attribute, Change, Effect, Effects, FdEffect, Lifted, MemoryEffect, PrivilegeEffect, Region,
    UserfaultChange,
};
use super::expected::{Expected, ExpectedTask, Life, OfdSpec};
use super::ipc::Ipc;
use super::name::{Name, Wanted};
use super::object::Objects;
use super::outcome::{Certificate, Counterexample, Wrong};
use super::overview::{Cast, Overview, not_understood};
use super::privilege::{Privileges, TooLate};
use super::seccomp::{Filters, Seccomp};
use super::socket::Names;
use super::space::{Carrier, Segment, Space};
use super::table::Table;
use super::vdso::Progress;
use crate::ids::Fd;

pub(super) const CLONE_PARENT: u64 = 0x8000;
pub(super) const SIGCHLD: u32 = 17;
/// About how many descriptions each task opens only to map or to read them.
const MAPPED: usize = 2;

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
    pub(super) fn task(self) -> Option<&'a ExpectedTask> {
        match self {
            Role::Task(want) => Some(want),
            Role::Thread(_) | Role::Helper => None,
        }
    }

    pub(super) fn is_alive(self) -> bool {
        match self {
            Role::Task(want) | Role::Thread(want) => want.life == Life::Alive,
            Role::Helper => false,
        }
    }

    pub(super) fn is_zombie(self) -> bool {
        self.task().is_some_and(|want| want.life != Life::Alive)
    }
}

/// One task of the model.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub(super) phase: Phase,
    pub(super) pc: usize,
    pub(super) parent: u32,
    pub(super) exit_signal: u64,
    pub(super) sid: u32,
    pub(super) pgid: u32,
    pub(super) table: usize,
    pub(super) born: Option<At>,
    pub(super) died: Option<At>,
    /// The death that made it a child of the parent that it has now.
    pub(super) orphaned: Option<At>,
    /// Where it has become a subreaper.
    pub(super) subreaper: Option<Subreaper>,
    /// Deaths whose orphans have passed by it, because it was none then.
    pub(super) passed: Vec<At>,
    /// The record by which it arrives at the barrier.
    pub(super) arrived: Option<u32>,
    pub(super) awaited: bool,
    pub(super) privileges: Privileges,
    /// By the rows of the table; what is the whole task's is with its first thread.
    pub(super) attributes: State,
    /// What this thread has made of dumpable behind the barrier.
    pub(super) dumpable_in_tail: Option<Value>,
    /// Further threads have been started.
    pub(super) has_threads: bool,
    /// The death of a child may have left a SIGCHLD behind.
    pub(super) has_sigchld: bool,
    pub(super) vdso: Progress,
    /// The task whose address space it is in, instead of having a copy (`CLONE_VM`).
    pub(super) shares_space: Option<usize>,
    /// The last number that it received, until it has looked whether that is there.
    pub(super) unprobed: Option<(Fd, bool)>,
}

/// A task that orphans below come to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subreaper {
    pub(super) since: At,
    pub(super) has_adopted: bool,
    /// It was told before the barrier to be none any more: who dies then may find it or not.
    pub(super) has_ceased: bool,
}

/// A process group.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) founded: At,
    pub(super) sid: u32,
    /// Led by a helper: who has joined. It may be gone when the helper is.
    pub(super) joined: Option<Vec<At>>,
}

/// How a step ends.
pub(super) enum Flow {
    Next,
    Blocked,
    Ended,
}

/// The model of the kernel and the state of the check.
pub(super) struct Run<'a> {
    pub(super) tapes: &'a dyn Effects,
    /// Where they are.
    pub(super) region: Region,
    /// The pid of the root.
    pub(super) root: u32,
    pub(super) expected: &'a Expected,
    pub(super) tasks: Vec<Task>,
    /// Who plays them.
    cast: &'a Cast<'a>,
    /// Tapes by pid.
    pub(super) by_pid: &'a BTreeMap<u32, usize>,
    /// The children that each task has or has had, but for its threads.
    pub(super) children: Vec<Vec<usize>>,
    /// What each tape is for.
    pub(super) roles: &'a [Role<'a>],
    pub(super) tables: Vec<Table>,
    pub(super) objects: Objects,
    /// seccomp of each task.
    pub(super) seccomp: Vec<Seccomp>,
    pub(super) filters: Filters,
    /// Names of sockets.
    pub(super) names: Names,
    /// The inodes of the images by name.
    pub(super) wanted: Wanted<'a>,
    /// The object for the file that is called so still.
    pub(super) linked: BTreeMap<Vec<u8>, usize>,
    /// Names that the tapes make and remove again, by path.
    pub(super) made_names: BTreeMap<Vec<u8>, Name>,
    pub(super) groups: BTreeMap<u32, Group>,
    pub(super) before: Before,
    /// Where each event has been posted.
    pub(super) posted: BTreeMap<u32, At>,
    pub(super) waiting: BTreeMap<u32, Vec<usize>>,
    pub(super) waiting_for_death: BTreeMap<usize, usize>,
    pub(super) ready: VecDeque<usize>,
    /// Address spaces by task; threads have that of their task's first.
    pub(super) spaces: Vec<Space>,
    /// Shared memory without a name.
    pub(super) segments: Vec<Segment>,
    /// The IPC namespace that the root has made.
    pub(super) ipc: Option<Ipc>,
    /// Carriers by start.
    pub(super) carriers: BTreeMap<u64, Carrier>,
    /// Paths of FIFOs, and those that are open.
    pub(super) fifo_paths: BTreeSet<&'a [u8]>,
    pub(super) fifos: BTreeMap<&'a [u8], usize>,
    /// The path of each that is open.
    pub(super) path_of_fifo: BTreeMap<usize, &'a [u8]>,
    /// Writes whose readers must survive: the object that is to be read from.
    pub(super) needs_reader: Vec<(At, &'static str, usize)>,
    /// Where messages were sent that somebody has received.
    pub(super) received: BTreeSet<At>,
    pub(super) certificate: Certificate,
}

impl<'a> Run<'a> {
    /// Runs all tapes to their ends.
    pub(super) fn all(
        tapes: &'a dyn Effects,
        expected: &'a Expected,
        cast: &'a Cast<'a>,
    ) -> Result<Run<'a>, Counterexample> {
        let mut run = Run::prepare(tapes, expected, cast)?;
        run.drain()?;
        if let Some(stuck) = (0..run.tasks.len()).find(|task| run.tasks[*task].phase == Phase::Running) {
            let wrong = Wrong::Deadlock { chain: run.chain(stuck) };
            let record = run.next(stuck).map(|next| next.record);
            return Err(Counterexample { task: run.pid(stuck), record, wrong });
        }
        for task in 0..run.tasks.len() {
            if run.tasks[task].phase == Phase::Arrived {
                run.tasks[task].phase = Phase::Tail;
                run.ready.push_back(task);
            }
        }
        run.drain()?;
        if let Some((task, path)) = run.unfinished() {
            let what = format!("{} announced and never made", path.escape_ascii());
            let wrong = Wrong::Refused { call: "undo", what };
            return Err(Counterexample { task: run.pid(task), record: None, wrong });
        }
        Ok(run)
    }

    /// Nothing has run, but the root is born.
    fn prepare(
        tapes: &'a dyn Effects,
        expected: &'a Expected,
        cast: &'a Cast<'a>,
    ) -> Result<Run<'a>, Counterexample> {
        let whole = |pid: u32, wrong: Wrong| Counterexample { task: pid, record: None, wrong };
        let count = cast.pids.len();
        let unborn = Task {
            phase: Phase::Unborn,
            pc: 0,
            parent: 0,
            exit_signal: 0,
            sid: 0,
            pgid: 0,
            table: 0,
            born: None,
            died: None,
            orphaned: None,
            subreaper: None,
            passed: Vec::new(),
            arrived: None,
            awaited: false,
            privileges: Privileges::all(),
            attributes: State::unborn(),
            dumpable_in_tail: None,
            has_threads: false,
            has_sigchld: false,
            vdso: Progress::default(),
            shares_space: None,
            unprobed: None,
        };
        let mut run = Run {
            tapes,
            region: tapes.region(),
            root: tapes.root().pid,
            expected,
            tasks: vec![unborn; count],
            cast,
            roles: &cast.roles,
            children: vec![Vec::new(); count],
            by_pid: &cast.by_pid,
            tables: {
                let mut tables = Vec::with_capacity(count + 1);
                tables.push(Table::unknown());
                tables
            },
            objects: Objects::with_room(expected.ofds.len() + MAPPED * count),
            seccomp: vec![Seccomp::default(); count],
            filters: Filters::default(),
            names: Names::default(),
            wanted: Wanted::of(expected),
            linked: BTreeMap::new(),
            made_names: BTreeMap::new(),
            groups: BTreeMap::new(),
            before: Before::new(count),
            posted: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waiting_for_death: BTreeMap::new(),
            ready: VecDeque::new(),
            spaces: vec![Space::default(); count],
            segments: Vec::new(),
            ipc: None,
            carriers: BTreeMap::new(),
            fifo_paths: expected
                .ofds
                .iter()
                .filter_map(|ofd| match &ofd.spec {
                    OfdSpec::Fifo { path, .. } => Some(path.as_slice()),
                    _ => None,
                })
                .collect(),
            fifos: BTreeMap::new(),
            path_of_fifo: BTreeMap::new(),
            needs_reader: Vec::new(),
            received: BTreeSet::new(),
            certificate: Certificate::default(),
        };
        let root = tapes.root();
        let Some(index) = run.by_pid.get(&root.pid).copied() else {
            return Err(whole(root.pid, Wrong::NeverBorn));
        };
        let born = if root.flags & !CLONE_PARENT == 0 && root.cgroup.is_none() {
            let exit_signal =
                if root.flags & CLONE_PARENT != 0 { u64::from(SIGCHLD) } else { root.exit_signal };
            run.tasks[index].sid = expected.cradle.sid;
            run.tasks[index].pgid = expected.cradle.pgid;
            run.spaces[index] = run.launcher_space();
            run.tasks[index].attributes = State::launcher(&expected.inherited).born(false);
            run.bear(index, 0, exit_signal)
        } else {
            Err(Wrong::NotModelled { call: "clone3", what: format!("flags {:#x} for the root", root.flags) })
        };
        born.map_err(|wrong| whole(root.pid, wrong))?;
        Ok(run)
    }

    pub(super) fn pid(&self, task: usize) -> u32 {
        self.cast.pids[task]
    }

    /// What a task does next.
    fn next(&self, task: usize) -> Option<&'a Lifted> {
        self.tapes.of_task(task)?.get(self.tasks[task].pc)
    }

    /// Runs all that are ready until nobody is.
    fn drain(&mut self) -> Result<(), Counterexample> {
        while let Some(task) = self.ready.pop_front() {
            let Some(effects) = self.tapes.of_task(task) else {
                return Err(not_understood(self.pid(task)));
            };
            if let Some(next) = effects.get(self.tasks[task].pc) {
                self.before.resume(At { task, record: next.record });
            }
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

    /// Whether it is what a task does that came into another's address space to fill it.
    fn is_for_guest(&self, at: At, effect: &Effect) -> bool {
        match effect {
            Effect::Exit { .. } => true,
            Effect::Object { change: Change::Userfault(change), .. } => {
                matches!(change, UserfaultChange::Copy { .. } | UserfaultChange::Move { .. })
            }
            Effect::Object { change: Change::Read { into, offset: Some(_) }, .. } => {
                into.iter().all(|(start, len)| self.is_stage(at, *start, *len))
            }
            _ => false,
        }
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
        if let Some((fd, cloexec)) = self.tasks[task].unprobed.take()
            && *effect != Effect::Fd(FdEffect::Probe { fd, cloexec })
        {
            return Err(Wrong::NotProbed);
        }
        if self.tasks[task].shares_space.is_some() && !self.is_for_guest(at, effect) {
            return Err(Wrong::NotModelled { call, what: "in the address space of another task".to_owned() });
        }
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
                self.check_vdso(task)?;
                self.check_userfault(at, call)?;
                self.check_floating(at, call)?;
                self.tasks[task].phase = Phase::Arrived;
                self.tasks[task].arrived = Some(at.record);
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
            Effect::Undo { path, is_made } => self.announce(at, path, *is_made)?,
            Effect::Name(effect) => self.change_names(at, call, effect)?,
            Effect::File(effect) => self.change_file(at, call, effect)?,
            Effect::Fd(effect) => self.change_table(at, call, effect)?,
            Effect::Object { fd, change } => self.change_object(at, call, *fd, change)?,
            Effect::Memory(effect) => self.change_memory(at, call, effect)?,
            Effect::Attribute(attribute) => self.set_attribute(at, call, attribute)?,
            Effect::Ipc(effect) => self.change_ipc(at, call, effect)?,
            Effect::Privilege(effect) => {
                self.change_privileges(at, call, effect)?;
                self.certificate.privilege_drops += 1;
                if let PrivilegeEffect::Seccomp(effect) = effect {
                    self.set_seccomp(at, effect)?;
                }
            }
        }
        Ok(Flow::Next)
    }

    /// Who waits for whom, from a task that cannot go on.
    fn chain(&self, stuck: usize) -> Vec<String> {
        let mut chain = Vec::new();
        let Ok(Overview { posts, forks, .. }) = Overview::of(self.tapes, self.cast) else { return chain };
        let mut seen = vec![false; self.tasks.len()];
        let mut task = stuck;
        while !std::mem::replace(&mut seen[task], true) {
            let pid = self.pid(task);
            let next = match self.tasks[task].phase {
                Phase::Unborn => forks.get(&pid).map(|at| {
                    chain.push(format!(
                        "task {pid} is created by task {} in record {}",
                        self.pid(at.task),
                        at.record
                    ));
                    at.task
                }),
                Phase::Running => match self.next(task).map(|lifted| (lifted.record, &lifted.effect)) {
                    Some((record, Effect::Wait(event))) => posts.get(event).map(|at| {
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
        | Effect::Undo { .. }
        | Effect::File(_)
        | Effect::Name(_)
        | Effect::Ipc(_)
        | Effect::Fd(_) => false,
        Effect::Object { change, .. } => match change {
            Change::SetStatus { .. }
            | Change::SetOwner { .. }
            | Change::SetSignal { .. }
            | Change::SetTimer { .. }
            | Change::SetTicks { .. }
            | Change::Lock => true,
            Change::Seek { .. }
            | Change::SetPipeSize { .. }
            | Change::Write { .. }
            | Change::Send { .. }
            | Change::Read { .. }
            | Change::Shutdown { .. }
            | Change::Bind { .. }
            | Change::Listen { .. }
            | Change::Connect { .. }
            | Change::SetBytes { .. }
            | Change::SetOption { .. }
            | Change::Watch { .. }
            | Change::Truncate { .. }
            | Change::Copy { .. }
            | Change::SetFileOwner { .. }
            | Change::SetMode { .. }
            | Change::SetTimes { .. }
            | Change::AddSeals { .. }
            | Change::Enter
            | Change::Userfault(_) => false,
        },
        Effect::Memory(effect) => match effect {
            MemoryEffect::Protect { .. } | MemoryEffect::Advise { .. } => true,
            MemoryEffect::Map { .. }
            | MemoryEffect::Remap { .. }
            | MemoryEffect::Attach { .. }
            | MemoryEffect::Unmap { .. }
            | MemoryEffect::Lock { .. }
            | MemoryEffect::SetMm { .. }
            | MemoryEffect::MapVdso { .. }
            | MemoryEffect::Write { .. }
            | MemoryEffect::Ring(_) => false,
        },
        Effect::Attribute(attribute) => !matches!(attribute, Attribute::TimerCreate { .. }),
    }
}
