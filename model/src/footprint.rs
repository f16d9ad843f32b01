//! What a step looks at and changes: the ground of partial-order reduction.
//!
//! Two steps of different tasks whose footprints do not conflict can be played in either order, with
//! the same result, and neither keeps the other from being played. Every access to what tasks share
//! goes into the footprint, those of a step that blocks or fails, too: they are why it does.
//!
//! Worked example: a write into a pipe reads the table and the description, and writes the pipe. It
//! conflicts with another write into that pipe, and not with an `open` in another table.

use std::fmt;
use std::sync::Arc;

use crate::ids::{DescId, Made, ObjectId, SegmentId, SpaceId, TableId};

/// Something that several tasks can get at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Thing {
    /// Whether an event of the region has been posted.
    Event(u32),
    /// Who posts an event: one task only, if the plan is right.
    Poster(u32),
    /// That a task has arrived at the barrier.
    Arrival(u32),
    /// The release of the barrier.
    Release,
    /// Whether a number is in use by a task, thread, group or session.
    Number(u32),
    /// Who is parent and what is the exit signal of a process, and whether it is there.
    Life(u32),
    /// That a task or thread is made.
    Birth(u32),
    /// That it has died.
    Death(u32),
    /// Which children a process has.
    Children(u32),
    /// Whether it is a subreaper.
    Subreaper(u32),
    /// Session and group of a process.
    Kin(u32),
    /// Who is in a process group.
    Group(u32),
    /// Signals pending for a process.
    Signals(u32),
    /// Signals pending for a thread.
    ThreadSignals(u32),
    /// Attributes of a whole process: handlers, limits, timers.
    Process(u32),
    /// Attributes of a thread: name, mask, credentials.
    Thread(u32),
    /// Working directory, root, umask.
    Directory(Made),
    /// A descriptor table.
    Table(TableId),
    /// Who shares a descriptor table.
    Sharers(TableId),
    /// Whether a description is open.
    Open(DescId),
    /// An open file description.
    Description(DescId),
    /// What it shows.
    Object(ObjectId),
    /// Which descriptors wait in a socket.
    Flight(ObjectId),
    /// A name in the file system.
    Name(Arc<[u8]>),
    /// An abstract name of a unix socket.
    Abstract(Arc<[u8]>),
    /// An IPC namespace.
    Ipc(Made),
    /// An address space.
    Space(SpaceId),
    /// Bytes of shared memory: from the first offset to the last, exclusive.
    Pages(SegmentId, u64, u64),
    /// Bytes of a file.
    Bytes(ObjectId, u64, u64),
}

/// How it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Looked at.
    Read,
    /// Changed in a way that gives the same in any order with others of its kind: one more user, one
    /// more member.
    Add,
    /// Changed.
    Write,
}

impl Access {
    fn conflicts(self, other: Access) -> bool {
        match (self, other) {
            (Access::Read, Access::Read) | (Access::Add, Access::Add) => false,
            (Access::Read | Access::Add | Access::Write, _) => true,
        }
    }
}

impl Thing {
    /// Whether it is the same thing, or a part of it.
    fn meets(&self, other: &Thing) -> bool {
        match (self, other) {
            (Thing::Pages(a, from, to), Thing::Pages(b, start, end)) => a == b && from < end && start < to,
            (Thing::Bytes(a, from, to), Thing::Bytes(b, start, end)) => a == b && from < end && start < to,
            _ => self == other,
        }
    }

    /// Whether it changes once and stays: whoever waits for it could not have gone on before.
    fn is_signal(&self) -> bool {
        matches!(self, Thing::Event(_) | Thing::Arrival(_) | Thing::Release | Thing::Death(_))
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// All that one step looks at and changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Footprint {
    /// Sorted by thing; each once, with the strongest access.
    accesses: Vec<(Thing, Access)>,
}

impl Footprint {
    /// Adds an access.
    pub(crate) fn note(&mut self, thing: Thing, access: Access) {
        match self.accesses.binary_search_by(|(other, _)| other.cmp(&thing)) {
            Ok(at) => {
                let old = self.accesses[at].1;
                // What is looked at and added to is no mere addition.
                self.accesses[at].1 = if old == access { access } else { Access::Write };
            }
            Err(at) => self.accesses.insert(at, (thing, access)),
        }
    }

    /// The accesses, sorted by thing.
    pub fn accesses(&self) -> impl Iterator<Item = (&Thing, Access)> {
        self.accesses.iter().map(|(thing, access)| (thing, *access))
    }

    fn meetings<'a>(&'a self, other: &'a Footprint) -> impl Iterator<Item = &'a Thing> {
        let is_ranged = |thing: &Thing| matches!(thing, Thing::Pages(..) | Thing::Bytes(..));
        self.accesses.iter().filter_map(move |(thing, access)| {
            let conflicts = if is_ranged(thing) {
                other.accesses.iter().any(|(them, how)| thing.meets(them) && access.conflicts(*how))
            } else {
                let at = other.accesses.binary_search_by(|(them, _)| them.cmp(thing)).ok()?;
                access.conflicts(other.accesses[at].1)
            };
            conflicts.then_some(thing)
        })
    }

    /// Whether the order of the two steps may matter.
    pub fn conflicts(&self, other: &Footprint) -> bool {
        self.meetings(other).next().is_some()
    }

    /// Whether the order of the two steps may matter and could be another: not where the earlier one
    /// only lets the later go on.
    pub fn races(&self, later: &Footprint) -> bool {
        self.meetings(later).any(|thing| !thing.is_signal())
    }

    /// Whether it makes a task or thread.
    pub(crate) fn is_birth_of(&self, tid: u32) -> bool {
        self.accesses.binary_search_by(|(thing, _)| thing.cmp(&Thing::Birth(tid))).is_ok()
    }
}
