//! Synthetic forests: from a description of tasks and of what they share to a [`Model`](crate::image::Model)
//! that never was dumped.
//!
//! Every task runs the same tiny [`payload`]: when it resumes, it plays a list of checks out of its own memory
//! (its pid, its descriptors, what waits in them, its registers, the bytes of its mappings), leaves the result
//! there, and sleeps. Who wants to know reads the result from outside: [`mod@verify`], which also compares what no
//! task can see of itself, such as which tasks share an open file description.
//!
//! | module | does |
//! |---|---|
//! | this one | the description |
//! | [`attributes`] | what a task is beside its descriptors and memory |
//! | [`payload`] | the code that tasks run, and its records |
//! | [`mod@model`] | the description into a model |
//! | [`ipc`] | System V objects |
//! | [`ring`] | rings of asynchronous I/O |
//! | [`random`] | descriptions by a seed |
//! | [`mod@verify`] | looks at a living forest |
//! | [`build`] | the same forest by fork, to compare times |
//!
//! It does not know how a forest is restored: the images are for CRIU as well as for regrow.
//!
//! Example: a root whose child has the other end of its pipe, with `hi` in it:
//!
//! ```
//! use regrow::synth::{Forest, Kind, Slot, Task};
//! let slot = |end| Slot { fd: 3, resource: 0, end, cloexec: false };
//! let root = Task { pid: 1000, pgid: 1000, sid: 1000, table: vec![slot(1)], ..Task::default() };
//! let child = Task { pid: 1001, parent: Some(0), pgid: 1000, sid: 1000, table: vec![slot(0)], ..Task::default() };
//! let forest = Forest { tasks: vec![root, child], resources: vec![Kind::Pipe { data: b"hi".to_vec() }], ..Forest::default() };
//! assert_eq!(forest.faults(), Vec::<String>::new());
//! ```

pub mod attributes;
pub mod build;
pub mod increments;
pub mod ipc;
pub mod model;
pub mod payload;
pub mod random;
pub mod ring;
pub mod verify;

use std::collections::BTreeSet;
use std::path::PathBuf;

pub use attributes::Attributes;
pub use ipc::{Attachment, Ipc};
pub use ring::Ring;

/// Bytes in a page.
pub const PAGE: u64 = 4096;

/// The most bytes that wait in a pipe or in a socket: the payload looks at them in its scratch memory.
pub const MOST_QUEUED_BYTES: usize = 4096;

/// Where the mappings of a description may be: above the payload's own, below 4 GiB.
pub const MAPPINGS: std::ops::Range<u64> = 0x5000_0000..0xf000_0000;

/// A tree of tasks and what they share.
#[derive(Debug, Clone, Default)]
pub struct Forest {
    /// The root first, parents before their children.
    pub tasks: Vec<Task>,
    /// What makes open file descriptions.
    pub resources: Vec<Kind>,
    /// Shared anonymous memory.
    pub segments: Vec<Segment>,
    /// The IPC namespace that it has of its own; `None`: it has none.
    pub ipc: Option<Ipc>,
}

/// One task.
#[derive(Debug, Clone, Default)]
pub struct Task {
    /// Its pid.
    pub pid: u32,
    /// The number of its parent among the tasks; `None`: the root.
    pub parent: Option<usize>,
    /// Its process group.
    pub pgid: u32,
    /// Its session.
    pub sid: u32,
    /// The exit code of a zombie; `None`: it lives.
    pub dead: Option<u8>,
    /// Its descriptor table.
    pub table: Vec<Slot>,
    /// That table is its parent's, and not another one like it.
    pub shares_table: bool,
    /// Private anonymous mappings.
    pub private: Vec<Private>,
    /// Views of segments.
    pub views: Vec<View>,
    /// System V segments.
    pub attached: Vec<Attachment>,
    /// AIO contexts, by their numbers.
    pub rings: Vec<Ring>,
    /// Everything else.
    pub attributes: Attributes,
    /// The tids of its further threads, which have its attributes, too.
    pub threads: Vec<u32>,
}

/// One descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The number.
    pub fd: u32,
    /// The number of the resource.
    pub resource: usize,
    /// Which of its descriptions.
    pub end: usize,
    /// Close-on-exec.
    pub cloexec: bool,
}

/// What makes open file descriptions, and how many.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A regular file that is there: one description.
    File {
        /// An absolute path.
        path: PathBuf,
        /// `O_RDONLY`, `O_WRONLY` or `O_RDWR`, and status flags.
        flags: u32,
        /// The offset.
        position: u64,
    },
    /// A pipe: its end for reading (0) and for writing (1).
    Pipe {
        /// What waits in it.
        data: Vec<u8>,
    },
    /// A pair of unix stream sockets: two ends.
    Pair {
        /// What waits at each end.
        queued: [Vec<u8>; 2],
    },
    /// An eventfd: one description.
    Eventfd {
        /// Its counter.
        counter: u64,
    },
    /// A pair of unix sockets with messages: two ends.
    Messages {
        /// `SOCK_STREAM`, `SOCK_DGRAM` or `SOCK_SEQPACKET`.
        sock_type: u32,
        /// What waits at each end.
        queued: [Vec<Message>; 2],
    },
    /// A unix socket that listens on an abstract name: one description.
    Listener {
        /// The name, without the zero byte in front.
        name: String,
        /// The length of its queue.
        backlog: u32,
    },
    /// An epoll file: one description.
    Epoll {
        /// What it watches: descriptors of each task that has it, of pipes, sockets or eventfds.
        interests: Vec<Watched>,
    },
    /// A memfd: one description.
    Memfd {
        /// Its name.
        name: String,
        /// Its length and what is in it.
        content: Segment,
        /// The offset.
        position: u64,
    },
    /// A signalfd: one description.
    Signalfd {
        /// Bit 0 is signal 1.
        mask: u64,
    },
    /// A timerfd of CLOCK_MONOTONIC that is not armed: one description.
    Timerfd,
}

/// What waits in a socket as one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// At least one byte.
    pub bytes: Vec<u8>,
    /// Descriptions that come with it: resource and end. Sockets of messages only those before them.
    pub rights: Vec<(usize, usize)>,
}

/// What an epoll file watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watched {
    /// The descriptor.
    pub fd: u32,
    /// `EPOLL*`; EPOLLERR and EPOLLHUP always are.
    pub events: u32,
    /// What comes with an event.
    pub data: u64,
}

impl Kind {
    /// How many descriptions it has.
    pub fn ends(&self) -> usize {
        match self {
            Kind::File { .. }
            | Kind::Eventfd { .. }
            | Kind::Listener { .. }
            | Kind::Epoll { .. }
            | Kind::Memfd { .. }
            | Kind::Signalfd { .. }
            | Kind::Timerfd => 1,
            Kind::Pipe { .. } | Kind::Pair { .. } | Kind::Messages { .. } => 2,
        }
    }

    /// Whether epoll(7) can watch it here. (It can watch other epoll files and timers, too.)
    pub fn is_watchable(&self) -> bool {
        match self {
            Kind::Pipe { .. } | Kind::Pair { .. } | Kind::Messages { .. } | Kind::Eventfd { .. } => true,
            Kind::File { .. }
            | Kind::Listener { .. }
            | Kind::Epoll { .. }
            | Kind::Memfd { .. }
            | Kind::Signalfd { .. }
            | Kind::Timerfd => false,
        }
    }

    /// The messages that wait at an end.
    pub fn messages(&self, end: usize) -> &[Message] {
        match self {
            Kind::Messages { queued, .. } => queued.get(end).map_or(&[], Vec::as_slice),
            Kind::File { .. }
            | Kind::Eventfd { .. }
            | Kind::Pipe { .. }
            | Kind::Pair { .. }
            | Kind::Listener { .. }
            | Kind::Epoll { .. }
            | Kind::Memfd { .. }
            | Kind::Signalfd { .. }
            | Kind::Timerfd => &[],
        }
    }

    /// What waits to be read at an end; of messages the first.
    pub fn queued(&self, end: usize) -> &[u8] {
        match (self, end) {
            (Kind::Pipe { data }, _) => data,
            (Kind::Pair { queued }, end) => queued.get(end).map_or(&[], Vec::as_slice),
            (Kind::Messages { queued, .. }, end) => {
                queued.get(end).and_then(|messages| messages.first()).map_or(&[], |first| &first.bytes)
            }
            (
                Kind::File { .. }
                | Kind::Eventfd { .. }
                | Kind::Listener { .. }
                | Kind::Epoll { .. }
                | Kind::Memfd { .. }
                | Kind::Signalfd { .. }
                | Kind::Timerfd,
                _,
            ) => &[],
        }
    }

    /// Its kind in one word.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::File { .. } => "file",
            Kind::Pipe { .. } => "pipe",
            Kind::Pair { .. } => "socket pair",
            Kind::Eventfd { .. } => "eventfd",
            Kind::Messages { .. } => "pair with messages",
            Kind::Listener { .. } => "listener",
            Kind::Epoll { .. } => "epoll",
            Kind::Memfd { .. } => "memfd",
            Kind::Signalfd { .. } => "signalfd",
            Kind::Timerfd => "timerfd",
        }
    }
}

/// A page with contents: its number in the mapping or segment, and the seed of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// From the start, in pages.
    pub index: u64,
    /// See [`page_bytes`].
    pub seed: u64,
}

/// A private anonymous mapping. Pages that are not named were never touched.
#[derive(Debug, Clone, Default)]
pub struct Private {
    /// First address.
    pub start: u64,
    /// Length in pages.
    pub len_pages: u64,
    /// Whether it may be written to; it may be read in any case.
    pub writable: bool,
    /// Ascending by index.
    pub pages: Vec<Page>,
}

/// A segment of shared anonymous memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segment {
    /// Length in pages.
    pub len_pages: u64,
    /// Ascending by index.
    pub pages: Vec<Page>,
}

/// A mapping of a part of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// The number of the segment.
    pub segment: usize,
    /// First address.
    pub start: u64,
    /// Where in the segment it starts, in pages.
    pub offset_pages: u64,
    /// Length in pages.
    pub len_pages: u64,
}

/// The bytes of a page with contents: SplitMix64 of its seed.
pub fn page_bytes(seed: u64) -> Vec<u8> {
    let mut state = seed;
    (0..PAGE / 8).flat_map(|_| random::next(&mut state).to_le_bytes()).collect()
}

/// The bytes of a stretch of pages, of which some have contents.
fn stretch_bytes(pages: &[Page], offset_pages: u64, len_pages: u64) -> Vec<u8> {
    let mut bytes = vec![0; (len_pages * PAGE) as usize];
    for page in pages {
        if let Some(at) = page.index.checked_sub(offset_pages).filter(|at| *at < len_pages) {
            bytes[(at * PAGE) as usize..][..PAGE as usize].copy_from_slice(&page_bytes(page.seed));
        }
    }
    bytes
}

impl Forest {
    /// Which tasks hold each end of each resource: pairs of task and descriptor.
    pub fn holders(&self, resource: usize, end: usize) -> Vec<(usize, u32)> {
        let of = |(index, task): (usize, &Task)| {
            let slots = task.table.iter().filter(|slot| slot.resource == resource && slot.end == end);
            slots.map(|slot| (index, slot.fd)).collect::<Vec<_>>()
        };
        self.tasks.iter().enumerate().flat_map(of).collect()
    }

    /// The descriptions that are in flight to sockets that somebody has: resource and end.
    pub fn in_flight(&self) -> BTreeSet<(usize, usize)> {
        let mut found = BTreeSet::new();
        // Sockets carry only what comes before them.
        for (resource, kind) in self.resources.iter().enumerate().rev() {
            for end in 0..kind.ends() {
                if found.contains(&(resource, end)) || !self.holders(resource, end).is_empty() {
                    found
                        .extend(kind.messages(end).iter().flat_map(|message| message.rights.iter().copied()));
                }
            }
        }
        found
    }

    /// What is wrong with the description, in words. Only a forest without faults can become a model.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut pids = BTreeSet::new();
        if self.tasks.is_empty() {
            faults.push("no tasks".to_owned());
        }
        for (index, task) in self.tasks.iter().enumerate() {
            let mut bad = |what: String| faults.push(format!("task {}: {what}", task.pid));
            if task.pid == 0 || !pids.insert(task.pid) {
                bad("its pid is no pid, or that of another".to_owned());
            }
            if task.parent.is_some() != (index > 0) || task.parent.is_some_and(|parent| parent >= index) {
                bad("its parent does not come before it".to_owned());
            }
            if task.dead.is_some()
                && (!task.table.is_empty()
                    || !task.private.is_empty()
                    || !task.views.is_empty()
                    || !task.attached.is_empty()
                    || !task.rings.is_empty()
                    || index == 0)
            {
                bad("it is dead, and has something or is the root".to_owned());
            }
            if task
                .parent
                .and_then(|parent| self.tasks.get(parent))
                .is_some_and(|parent| parent.dead.is_some())
            {
                bad("its parent is dead".to_owned());
            }
            let parent = task.parent.and_then(|parent| self.tasks.get(parent));
            if task.shares_table
                && (task.dead.is_some() || parent.is_none_or(|parent| parent.table != task.table))
            {
                bad("it is dead, or its table is not the one that it shares".to_owned());
            }
            let mut fds = BTreeSet::new();
            for slot in &task.table {
                if !fds.insert(slot.fd) {
                    bad(format!("descriptor {} a second time", slot.fd));
                }
                if self.resources.get(slot.resource).is_none_or(|kind| slot.end >= kind.ends()) {
                    bad(format!("descriptor {} is of no resource", slot.fd));
                }
            }
            for tid in &task.threads {
                if *tid == 0 || task.dead.is_some() || !pids.insert(*tid) {
                    bad(format!("thread {tid} has no tid of its own, or is a dead one's"));
                }
            }
            task.attributes.faults().into_iter().for_each(|what| bad(what.to_owned()));
            ring::faults(task).into_iter().for_each(&mut bad);
            self.mapping_faults(task, &mut bad);
        }
        faults.extend(self.ipc.iter().flat_map(|ipc| ipc.faults(self)));
        let in_flight = self.in_flight();
        for (index, kind) in self.resources.iter().enumerate() {
            let is_held = |end| in_flight.contains(&(index, end)) || !self.holders(index, end).is_empty();
            let held: Vec<bool> = (0..kind.ends()).map(is_held).collect();
            let mut bad = |what: &str| faults.push(format!("{} {index}: {what}", kind.name()));
            if (0..kind.ends()).any(|end| kind.queued(end).len() > MOST_QUEUED_BYTES) {
                bad("more bytes wait than the payload can look at");
            }
            let messages = (0..kind.ends()).flat_map(|end| kind.messages(end));
            for message in messages {
                let is_before = |(resource, end): &(usize, usize)| {
                    *resource < index && self.resources.get(*resource).is_some_and(|kind| *end < kind.ends())
                };
                if message.bytes.is_empty() || !message.rights.iter().all(is_before) {
                    bad("a message without a byte, or with what does not come before it");
                }
            }
            match kind {
                Kind::Messages { .. } if held != [true, true] => bad("an end that nobody has"),
                Kind::Epoll { interests } => {
                    if self.holders(index, 0).is_empty() || in_flight.contains(&(index, 0)) {
                        bad("nobody has it, or it is in flight");
                    }
                    if !interests.iter().all(|watched| self.is_watched_by_all(index, watched.fd)) {
                        bad("it watches what somebody who has it has not");
                    }
                }
                Kind::Pair { .. } if held != [true, true] => bad("an end that nobody has"),
                Kind::Pipe { data } if !held[0] && !data.is_empty() => bad("nobody can read what waits"),
                Kind::File { .. }
                | Kind::Eventfd { .. }
                | Kind::Listener { .. }
                | Kind::Memfd { .. }
                | Kind::Signalfd { .. }
                | Kind::Timerfd
                    if !held[0] =>
                {
                    bad("nobody has it");
                }
                Kind::Pipe { .. } if held == [false, false] => bad("nobody has it"),
                _ => {}
            }
        }
        faults
    }

    /// Whether all who have an epoll file have one and the same watchable thing at a number.
    pub fn is_watched_by_all(&self, epoll: usize, fd: u32) -> bool {
        let of = |task: usize| {
            let slot = self.tasks[task].table.iter().find(|slot| slot.fd == fd)?;
            let is_watchable = self.resources.get(slot.resource).is_some_and(Kind::is_watchable);
            is_watchable.then_some((slot.resource, slot.end))
        };
        let found: BTreeSet<_> = self.holders(epoll, 0).iter().map(|(task, _)| of(*task)).collect();
        found.len() == 1 && !found.contains(&None)
    }

    fn mapping_faults(&self, task: &Task, bad: &mut impl FnMut(String)) {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let private = task.private.iter().map(|it| (it.start, it.len_pages));
        let views = task.views.iter().map(|it| (it.start, it.len_pages));
        let attached = task.attached.iter().map(|it| (it.start, it.len_pages));
        let rings = task.rings.iter().map(|it| (it.start, it.len_pages));
        for (start, len_pages) in private.chain(views).chain(attached).chain(rings) {
            let end = len_pages.checked_mul(PAGE).and_then(|len| start.checked_add(len));
            match end {
                Some(end)
                    if len_pages > 0
                        && start.is_multiple_of(PAGE)
                        && MAPPINGS.start <= start
                        && end <= MAPPINGS.end =>
                {
                    ranges.push((start, end));
                }
                _ => bad(format!("the mapping at {start:#x} is not where mappings may be")),
            }
        }
        ranges.sort_unstable();
        for pair in ranges.windows(2).filter(|pair| pair[1].0 < pair[0].1) {
            bad(format!("the mapping at {:#x} overlaps that before it", pair[1].0));
        }
        let is_ascending = |pages: &[Page], len_pages: u64| {
            pages.windows(2).all(|pair| pair[0].index < pair[1].index)
                && pages.last().is_none_or(|page| page.index < len_pages)
        };
        for mapping in task.private.iter().filter(|it| !is_ascending(&it.pages, it.len_pages)) {
            bad(format!("the pages of the mapping at {:#x} are not within it, ascending", mapping.start));
        }
        for view in &task.views {
            let segment = self.segments.get(view.segment).filter(|segment| {
                is_ascending(&segment.pages, segment.len_pages)
                    && view
                        .offset_pages
                        .checked_add(view.len_pages)
                        .is_some_and(|end| end <= segment.len_pages)
            });
            if segment.is_none() {
                bad(format!("the mapping at {:#x} is of no segment", view.start));
            }
        }
        for it in &task.attached {
            let segment = self.ipc.as_ref().and_then(|ipc| ipc.segments.get(it.segment));
            let end = it.offset_pages.checked_add(it.len_pages);
            if segment.is_none_or(|segment| end.is_none_or(|end| end > segment.memory.len_pages)) {
                bad(format!("the attachment at {:#x} is of no segment", it.start));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(forest: &Forest, expected: &[&str]) {
        assert_eq!(forest.faults(), expected);
    }

    fn root() -> Task {
        Task { pid: 10, pgid: 10, sid: 10, ..Task::default() }
    }

    #[test]
    fn faults_are_named() {
        check(&Forest::default(), &["no tasks"]);
        check(&Forest { tasks: vec![root()], ..Forest::default() }, &[]);
        let slot = Slot { fd: 3, resource: 0, end: 0, cloexec: false };
        let holder = Task { table: vec![slot], ..root() };
        check(
            &Forest { tasks: vec![holder.clone()], ..Forest::default() },
            &["task 10: descriptor 3 is of no resource"],
        );
        let pair = Kind::Pair { queued: [Vec::new(), Vec::new()] };
        check(
            &Forest { tasks: vec![holder], resources: vec![pair], ..Forest::default() },
            &["socket pair 0: an end that nobody has"],
        );
        let low = Private { start: 0x1000, len_pages: 1, ..Private::default() };
        let beyond = Private {
            start: 0x6000_0000,
            len_pages: 1,
            pages: vec![Page { index: 1, seed: 0 }],
            ..low.clone()
        };
        check(
            &Forest { tasks: vec![Task { private: vec![low, beyond], ..root() }], ..Forest::default() },
            &[
                "task 10: the mapping at 0x1000 is not where mappings may be",
                "task 10: the pages of the mapping at 0x60000000 are not within it, ascending",
            ],
        );
    }
}
