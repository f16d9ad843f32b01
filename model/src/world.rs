//! The state of the modelled kernel, and what one record does to it.
//!
//! | module | holds |
//! |---|---|
//! | `process` | births, deaths, waits, sessions, groups, the barrier |
//! | `signal` | dispositions, masks, what is pending |
//! | `table` | descriptor tables |
//! | `file` | files and names in the file system |
//! | `pipe` | pipes and FIFOs |
//! | `socket` | sockets |
//! | `flight` | what keeps itself open in flight |
//! | `object` | descriptions, and all else that is done to them |
//! | `userfault` | pages that are copied into place |
//! | `space`, `runs` | address spaces; what is where, by ranges |
//! | `ipc` | IPC namespaces |
//! | `attribute`, `credential` | attributes of tasks and threads; credentials and limits |
//!
//! It knows nothing of plans, of what is wanted in the end, or of time.

mod attribute;
mod credential;
mod file;
mod flight;
mod ipc;
mod object;
mod pipe;
mod process;
mod ring;
mod runs;
mod signal;
mod socket;
mod space;
mod table;
mod userfault;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use regrow_graph::verify::{Effect, Lifted, LiftedTree, Region};

use crate::errno;
use crate::footprint::{Access, Footprint, Thing};
use crate::host::Host;
use crate::ids::{DescId, Made, ObjectId, SegmentId, SpaceId, TableId};

pub use attribute::{Directory, PosixTimer, ThreadAttributes, Timers};
pub use credential::{Credentials, Seccomp};
pub use file::{File, FileKind, Meta};
pub use ipc::{Ipc, SysV};
pub use object::{Description, Object, Owner, Timer};
pub use pipe::{Buffer, Pipe};
pub use process::{Phase, Process, Thread};
pub use ring::Context;
pub use runs::{Runs, Source};
pub use signal::{Action, Pending};
pub use socket::{Message, Socket};
pub use space::{Backing, Layout, Mapping, Space};
pub use table::{Entry, Table};

/// The number under which the coordinator is scheduled: its only step releases the barrier.
pub const COORDINATOR: u32 = 0;

/// What never changes: the tapes and the host.
struct Ground {
    effects: BTreeMap<u32, Vec<Lifted>>,
    region: Region,
    total: u32,
    host: Host,
    /// Threads in which seccomp is suspended behind the barrier.
    suspended: BTreeSet<u32>,
}

/// The state of the modelled kernel. Equal worlds behave equally.
#[derive(Clone)]
pub struct World {
    ground: Arc<Ground>,
    pub(crate) threads: BTreeMap<u32, Arc<Thread>>,
    pub(crate) processes: BTreeMap<u32, Arc<Process>>,
    pub(crate) tables: BTreeMap<TableId, Arc<Table>>,
    pub(crate) descriptions: BTreeMap<DescId, Arc<Description>>,
    pub(crate) objects: BTreeMap<ObjectId, Arc<Object>>,
    /// Names that the tapes changed: what they lead to, or nothing.
    pub(crate) names: BTreeMap<Arc<[u8]>, Option<ObjectId>>,
    pub(crate) abstracts: BTreeMap<Arc<[u8]>, ObjectId>,
    pub(crate) directories: BTreeMap<Made, Arc<Directory>>,
    pub(crate) spaces: BTreeMap<SpaceId, Arc<Space>>,
    pub(crate) segments: BTreeMap<SegmentId, Arc<Runs>>,
    /// IPC namespaces that the tapes made.
    pub(crate) ipcs: BTreeMap<Made, Arc<Ipc>>,
    events: BTreeSet<u32>,
    is_released: bool,
    /// Of the step that is being made; empty between steps.
    seen: Footprint,
}

impl World {
    #[allow(clippy::type_complexity)]
    fn state(
        &self,
    ) -> (
        (&BTreeMap<u32, Arc<Thread>>, &BTreeMap<u32, Arc<Process>>, &BTreeMap<TableId, Arc<Table>>),
        (&BTreeMap<DescId, Arc<Description>>, &BTreeMap<ObjectId, Arc<Object>>),
        (&BTreeMap<Arc<[u8]>, Option<ObjectId>>, &BTreeMap<Arc<[u8]>, ObjectId>),
        (&BTreeMap<Made, Arc<Directory>>, &BTreeMap<SpaceId, Arc<Space>>, &BTreeMap<SegmentId, Arc<Runs>>),
        (&BTreeMap<Made, Arc<Ipc>>, &BTreeSet<u32>, bool),
    ) {
        (
            (&self.threads, &self.processes, &self.tables),
            (&self.descriptions, &self.objects),
            (&self.names, &self.abstracts),
            (&self.directories, &self.spaces, &self.segments),
            (&self.ipcs, &self.events, self.is_released),
        )
    }
}

impl PartialEq for World {
    fn eq(&self, other: &World) -> bool {
        Arc::ptr_eq(&self.ground, &other.ground) && self.state() == other.state()
    }
}

impl Eq for World {}

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.state().hash(state);
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state().fmt(f)
    }
}

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The task goes on.
    Done,
    /// It cannot go on yet; nothing has changed.
    Blocked,
    /// It has parked, or died.
    Ended,
}

/// A step of one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// How it went.
    pub outcome: Outcome,
    /// What the call gave.
    pub result: i64,
    /// What it looked at and changed.
    pub footprint: Footprint,
}

/// A step that fails. Nothing has changed but that the task goes no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The thread.
    pub tid: u32,
    /// The record, by its index in the tape; `None`: there is none.
    pub record: Option<u32>,
    /// The call.
    pub call: &'static str,
    /// Why.
    pub why: Why,
    /// What the step looked at.
    pub footprint: Footprint,
}

/// Why a step fails.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Why {
    /// The call fails.
    Errno(i32),
    /// The call gives something else than the tape expects.
    Gives {
        /// What it gives.
        is: i64,
        /// What the tape expects.
        wanted: i64,
    },
    /// The model does not know what it does.
    NotModelled(String),
    /// A task without a tape is born.
    NoTape(u32),
    /// The tape ends, and the task neither parks nor dies.
    NoEnd,
    /// Records behind the end.
    BehindEnd,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Errno(errno) => write!(f, "error {errno}"),
            Why::Gives { is, wanted } => write!(f, "gives {is}, and {wanted} is expected"),
            Why::NotModelled(what) => write!(f, "not modelled: {what}"),
            Why::NoTape(tid) => write!(f, "task {tid} has no tape"),
            Why::NoEnd => f.write_str("the tape has no end"),
            Why::BehindEnd => f.write_str("there are records behind the end"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {}", self.tid)?;
        if let Some(record) = self.record {
            write!(f, ", record {record}")?;
        }
        write!(f, ": {}: {}", self.call, self.why)
    }
}

/// Why a call does not go on.
#[derive(Debug)]
pub(crate) enum Stop {
    Blocked,
    /// Part of it is done: the task makes the same call again for the rest.
    Partly,
    Fails(Why),
}

/// What a call gives.
pub(crate) type Call<T> = Result<T, Stop>;

pub(crate) fn fails<T>(errno: i32) -> Call<T> {
    Err(Stop::Fails(Why::Errno(errno)))
}

pub(crate) fn not_modelled<T>(what: impl Into<String>) -> Call<T> {
    Err(Stop::Fails(Why::NotModelled(what.into())))
}

/// The result must be what the tape expects.
pub(crate) fn gives(is: i64, wanted: i64) -> Call<i64> {
    if is == wanted { Ok(is) } else { Err(Stop::Fails(Why::Gives { is, wanted })) }
}

impl World {
    /// The moment in which the launcher has made the first task and has done nothing else.
    ///
    /// # Errors
    /// The root's birth is not one that the model knows, or two tapes have the same number.
    pub fn new(tree: &LiftedTree, host: Host) -> Result<World, Fault> {
        let mut effects = BTreeMap::new();
        for task in &tree.tasks {
            if effects.insert(task.pid, task.effects.clone()).is_some() {
                return Err(World::unborn(task.pid, Why::NotModelled("two tapes of one task".to_owned())));
            }
        }
        let ground = Ground {
            effects,
            region: tree.region,
            total: tree.total,
            host,
            suspended: tree.suspended.clone(),
        };
        let mut world = World {
            ground: Arc::new(ground),
            threads: BTreeMap::new(),
            processes: BTreeMap::new(),
            tables: BTreeMap::new(),
            descriptions: BTreeMap::new(),
            objects: BTreeMap::new(),
            names: BTreeMap::new(),
            abstracts: BTreeMap::new(),
            directories: BTreeMap::new(),
            spaces: BTreeMap::new(),
            segments: BTreeMap::new(),
            ipcs: BTreeMap::new(),
            events: BTreeSet::new(),
            is_released: false,
            seen: Footprint::default(),
        };
        match world.launch(&tree.root) {
            Ok(()) => Ok(world),
            Err(Stop::Fails(why)) => Err(World::unborn(tree.root.pid, why)),
            Err(Stop::Blocked | Stop::Partly) => Err(World::unborn(tree.root.pid, Why::NoEnd)),
        }
    }

    fn unborn(tid: u32, why: Why) -> Fault {
        Fault { tid, record: None, call: "clone3", why, footprint: Footprint::default() }
    }

    /// The host that it was made with.
    pub fn host(&self) -> &Host {
        &self.ground.host
    }

    /// The address range of the tapes.
    pub fn region(&self) -> Region {
        self.ground.region
    }

    /// All that have a step to make, now or later: the coordinator until it has released the barrier, and
    /// every task that is born, has a tape, and has not come to its end.
    pub fn unfinished(&self) -> Vec<u32> {
        let coordinator = (!self.is_released && self.ground.total > 0).then_some(COORDINATOR);
        let tasks = self
            .threads
            .iter()
            .filter(|(tid, thread)| thread.phase.is_on_its_way() && self.ground.effects.contains_key(tid));
        coordinator.into_iter().chain(tasks.map(|(tid, _)| *tid)).collect()
    }

    /// Those of them that can make one now, even if it fails.
    pub fn runnable(&self) -> Vec<u32> {
        let mut tasks = self.unfinished();
        tasks.retain(|tid| match self.clone().step(*tid) {
            Ok(step) => step.outcome != Outcome::Blocked,
            Err(_) => true,
        });
        tasks
    }

    /// How many records and calls a thread has behind it.
    pub fn calls_made(&self, tid: u32) -> Option<u32> {
        self.threads.get(&tid).map(|thread| thread.record)
    }

    /// The record that a task stands at.
    pub fn next(&self, tid: u32) -> Option<&Lifted> {
        let thread = self.threads.get(&tid)?;
        self.ground.effects.get(&tid)?.get(thread.record as usize)
    }

    /// All records that a task has not played yet.
    pub fn rest(&self, tid: u32) -> &[Lifted] {
        let record = self.threads.get(&tid).map_or(usize::MAX, |thread| thread.record as usize);
        self.ground.effects.get(&tid).and_then(|tape| tape.get(record..)).unwrap_or_default()
    }

    /// Whether a thread has come to the barrier.
    pub fn has_arrived(&self, tid: u32) -> bool {
        self.threads.get(&tid).is_some_and(|thread| thread.phase == Phase::Arrived)
    }

    /// Who has a record that posts an event, and which.
    pub fn poster(&self, event: u32) -> Option<(u32, u32)> {
        let posts = |tape: &[Lifted]| {
            tape.iter().find(|lifted| lifted.effect == Effect::Post(event)).map(|lifted| lifted.record)
        };
        self.ground.effects.iter().find_map(|(tid, tape)| Some((*tid, posts(tape)?)))
    }

    /// Lets a task play its next record, or the coordinator release the barrier.
    ///
    /// # Errors
    /// The record fails: the task stands still for ever, as in [`Phase::Failed`], and nothing else changes.
    pub fn step(&mut self, tid: u32) -> Result<Step, Fault> {
        let before = self.clone();
        let result = self.advance(tid);
        if let Err(fault) = &result {
            *self = before;
            if let Some(thread) = self.threads.get_mut(&tid) {
                Arc::make_mut(thread).phase = Phase::Failed(fault.why.clone());
            }
        }
        result
    }

    /// As [`World::step`], for those who are done with the world when a record fails: what the failed call had begun
    /// is not taken back.
    pub(crate) fn advance(&mut self, tid: u32) -> Result<Step, Fault> {
        if tid == COORDINATOR {
            return Ok(self.release());
        }
        let ground = self.ground.clone();
        let record = self.threads.get(&tid).map_or(0, |thread| thread.record);
        let tape = ground.effects.get(&tid).map(Vec::as_slice).unwrap_or_default();
        let Some(lifted) = tape.get(record as usize) else { return Err(self.fault(tid, record, Why::NoEnd)) };
        let step = self.play(tid, Some(lifted.record), &lifted.effect, true)?;
        let is_behind = step.outcome == Outcome::Ended && record as usize + 1 < tape.len();
        if is_behind { Err(self.fault(tid, record, Why::BehindEnd)) } else { Ok(step) }
    }

    /// Whether a task waits for another, so that there is no need to let it try.
    pub(crate) fn waits(&self, tid: u32) -> bool {
        if tid == COORDINATOR {
            let arrived = self.threads.values().filter(|thread| thread.phase == Phase::Arrived).count();
            return (arrived as u64) < u64::from(self.ground.total);
        }
        if self.has_arrived(tid) && !self.is_released {
            return true;
        }
        match self.next(tid).map(|lifted| &lifted.effect) {
            Some(Effect::Wait(event)) => !self.events.contains(event),
            Some(_) | None => false,
        }
    }

    fn fault(&self, tid: u32, record: u32, why: Why) -> Fault {
        Fault { tid, record: Some(record), call: "end", why, footprint: Footprint::default() }
    }

    /// Lets a task make a call that is in no tape. It is counted as its next record.
    ///
    /// # Errors
    /// The call fails, and changes nothing.
    pub fn call(&mut self, tid: u32, effect: &Effect) -> Result<Step, Fault> {
        let before = self.clone();
        let result = self.play(tid, None, effect, false);
        if result.is_err() {
            *self = before;
        }
        result
    }

    /// A call that blocks has changed nothing; one that fails may have begun.
    fn play(
        &mut self,
        tid: u32,
        record: Option<u32>,
        effect: &Effect,
        with_tapes: bool,
    ) -> Result<Step, Fault> {
        self.seen = Footprint::default();
        let mut result = self.perform(tid, effect, with_tapes);
        let footprint = std::mem::take(&mut self.seen);
        if result.is_ok() && flight::may_close(effect) && self.has_circle_in_flight() {
            result = not_modelled("sockets in flight that keep each other open");
        }
        match result {
            Ok(result) => {
                let outcome = match self.threads.get_mut(&tid) {
                    Some(thread) => {
                        let thread = Arc::make_mut(thread);
                        thread.record += 1;
                        thread.progress = 0;
                        if thread.phase.is_on_its_way() { Outcome::Done } else { Outcome::Ended }
                    }
                    None => Outcome::Ended,
                };
                Ok(Step { outcome, result, footprint })
            }
            Err(Stop::Partly) => Ok(Step { outcome: Outcome::Done, result: 0, footprint }),
            Err(Stop::Blocked) => Ok(Step { outcome: Outcome::Blocked, result: 0, footprint }),
            Err(Stop::Fails(why)) => Err(Fault { tid, record, call: effect.name(), why, footprint }),
        }
    }

    fn perform(&mut self, tid: u32, effect: &Effect, with_tapes: bool) -> Call<i64> {
        match self.threads.get(&tid) {
            Some(thread) if thread.phase.is_on_its_way() => {}
            Some(_) | None => return fails(errno::ESRCH),
        }
        self.await_release(tid)?;
        self.check_filters(tid)?;
        match effect {
            Effect::Fork(birth) => {
                if with_tapes && !self.ground.effects.contains_key(&birth.pid) {
                    return Err(Stop::Fails(Why::NoTape(birth.pid)));
                }
                self.fork(tid, birth)
            }
            Effect::Post(event) => {
                self.write(Thing::Poster(*event));
                let is_first = self.events.insert(*event);
                self.note(Thing::Event(*event), if is_first { Access::Write } else { Access::Read });
                Ok(0)
            }
            Effect::Wait(event) => {
                self.read(Thing::Event(*event));
                if self.events.contains(event) { Ok(0) } else { Err(Stop::Blocked) }
            }
            Effect::Arrive => self.arrive(tid),
            Effect::Park => self.park(tid),
            Effect::Exit { code } => self.exit(tid, u32::from(*code) << 8),
            Effect::Kill { signal } => self.kill_self(tid, *signal),
            Effect::AwaitExit { pid, reap } => self.await_exit(tid, *pid, *reap),
            Effect::SetSid => self.set_sid(tid),
            Effect::SetPgid { pgid } => self.set_pgid(tid, *pgid),
            Effect::Fd(effect) => self.change_table(tid, effect),
            // Only a note to the launcher: of what would have to be removed after a failure.
            Effect::Undo { .. } => Ok(0),
            Effect::File(effect) => self.change_file(tid, effect),
            Effect::Name(effect) => self.change_names(tid, effect),
            Effect::Object { fd, change } => self.change_object(tid, *fd, change),
            Effect::Memory(effect) => self.change_memory(tid, effect),
            Effect::Attribute(attribute) => self.set_attribute(tid, attribute),
            Effect::Privilege(effect) => self.change_privilege(tid, effect),
            Effect::Ipc(effect) => self.change_ipc(tid, effect),
        }
    }

    fn note(&mut self, thing: Thing, access: Access) {
        self.seen.note(thing, access);
    }

    fn read(&mut self, thing: Thing) {
        self.note(thing, Access::Read);
    }

    fn write(&mut self, thing: Thing) {
        self.note(thing, Access::Write);
    }

    /// What the running record makes, as its `nth`.
    fn made(&self, tid: u32, nth: u32) -> Made {
        Made { tid, record: self.thread(tid).record, nth }
    }
}
