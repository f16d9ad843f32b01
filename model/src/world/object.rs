//! Open file descriptions, and all kinds of things that they show.
//!
//! # Sources
//! `open(2)`, `fcntl(2)`, `eventfd(2)`, `epoll_ctl(2)`, `timerfd_create(2)`, `signalfd(2)`, `flock(2)`,
//! `sendfile(2)`, `memfd_create(2)`; fs/fcntl.c (`setfl`, `f_setown_ex`), fs/eventfd.c, fs/eventpoll.c
//! (`do_epoll_ctl`), fs/timerfd.c (`timerfd_ioctl`).

use std::collections::BTreeMap;
use std::sync::Arc;

use regrow_graph::ids::Fd;
use regrow_graph::verify::Change;

use super::file::File;
use super::pipe::Pipe;
use super::runs::Source;
use super::socket::Socket;
use super::{Call, Stop, World, fails, gives, not_modelled};
use crate::errno::{EAGAIN, EBADF, EEXIST, EINVAL, ELOOP, ENOTTY, EPERM, ESPIPE};
use crate::footprint::{Access, Thing};
use crate::ids::{DescId, ObjectId, SpaceId};

pub(super) const O_ACCMODE: u32 = 3;
pub(super) const O_RDONLY: u32 = 0;
pub(super) const O_WRONLY: u32 = 1;
pub(super) const O_RDWR: u32 = 2;
pub(super) const O_APPEND: u32 = 0o2000;
pub(super) const O_NONBLOCK: u32 = 0o4000;
pub(super) const O_DIRECT: u32 = 0o40000;
pub(super) const O_PATH: u32 = 0o10_000_000;
pub(super) const O_CLOEXEC: u32 = 0o2_000_000;
/// What `F_SETFL` can change: O_APPEND, O_NONBLOCK, O_DIRECT, O_NOATIME, O_ASYNC.
const SETFL_MASK: u32 = O_APPEND | O_NONBLOCK | O_DIRECT | 0o1_000_000 | 0o20000;
/// EPOLLERR and EPOLLHUP, which the kernel adds to every interest.
const EPOLL_ALWAYS: u32 = 8 | 16;
const F_OWNER_PGRP: u32 = 2;

/// An open file description.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Description {
    /// What it shows.
    pub object: ObjectId,
    /// As `F_GETFL` gives them.
    pub flags: u32,
    /// Position.
    pub position: u64,
    /// `F_SETOWN`, `F_SETSIG`.
    pub owner: Owner,
    /// The path that it was opened by.
    pub path: Option<Arc<[u8]>>,
}

impl Description {
    pub(super) fn of(object: ObjectId, flags: u32) -> Description {
        Description { object, flags, position: 0, owner: Owner::default(), path: None }
    }

    pub(super) fn reads(&self) -> bool {
        self.flags & O_ACCMODE != O_WRONLY && self.flags & O_PATH == 0
    }

    pub(super) fn writes(&self) -> bool {
        self.flags & O_ACCMODE != O_RDONLY && self.flags & O_PATH == 0
    }
}

/// Who gets signals about a description.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Owner {
    /// `F_OWNER_*`.
    pub pid_type: u32,
    /// Who; 0: nobody.
    pub pid: u32,
    /// Real and effective uid of who said so.
    pub uids: [u32; 2],
    /// The signal; 0: SIGIO.
    pub signal: u32,
}

/// A timer as it was set. Times in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct Timer {
    pub flags: u32,
    pub value_ns: u64,
    pub interval_ns: u64,
    pub ticks: u64,
}

/// What a description shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Object {
    /// Something that the launcher had open.
    Foreign,
    /// A file or directory.
    File(File),
    /// A pipe or FIFO.
    Pipe(Pipe),
    /// A socket.
    Socket(Socket),
    /// An eventfd.
    Eventfd {
        /// Its counter.
        counter: u64,
        /// EFD_SEMAPHORE.
        semaphore: bool,
    },
    /// An epoll file: what it watches, under which number, with events and data.
    Epoll {
        /// By number and description.
        interests: BTreeMap<(Fd, DescId), (u32, u64)>,
    },
    /// A timerfd.
    Timerfd {
        /// `CLOCK_*`.
        clock: u32,
        /// As it was set.
        timer: Timer,
    },
    /// A signalfd.
    Signalfd {
        /// Bit 0 is signal 1.
        mask: u64,
    },
    /// A userfaultfd.
    Userfault {
        /// The address space that it is about.
        space: SpaceId,
        /// The handshake has been made.
        is_ready: bool,
    },
}

impl World {
    pub(crate) fn description(&self, desc: DescId) -> &Description {
        self.descriptions.get(&desc).expect("what a table refers to is there")
    }

    pub(super) fn description_mut(&mut self, desc: DescId) -> &mut Description {
        self.write(Thing::Description(desc));
        Arc::make_mut(self.descriptions.get_mut(&desc).expect("what a table refers to is there"))
    }

    pub(crate) fn object(&self, id: &ObjectId) -> &Object {
        self.objects.get(id).expect("what a description shows is there")
    }

    pub(super) fn object_mut(&mut self, id: &ObjectId) -> &mut Object {
        self.write(Thing::Object(id.clone()));
        Arc::make_mut(self.objects.get_mut(id).expect("what a description shows is there"))
    }

    /// A new object of the running record.
    pub(super) fn add_object(&mut self, tid: u32, nth: u32, object: Object) -> ObjectId {
        let id = ObjectId::Made(self.made(tid, nth));
        self.write(Thing::Object(id.clone()));
        self.objects.insert(id.clone(), Arc::new(object));
        id
    }

    /// A new description of the running record.
    pub(super) fn add_description(&mut self, tid: u32, nth: u32, description: Description) -> DescId {
        let id = DescId(self.made(tid, nth));
        self.write(Thing::Description(id));
        self.descriptions.insert(id, Arc::new(description));
        id
    }

    /// A description of something new without a name, for reading and writing.
    pub(super) fn make_anonymous(&mut self, tid: u32, object: Object, flags: u32) -> DescId {
        let object = self.add_object(tid, 0, object);
        self.add_description(tid, 0, Description::of(object, O_RDWR | flags & O_NONBLOCK))
    }

    pub(super) fn make_eventfd(&mut self, tid: u32, counter: u32, flags: u32) -> Call<DescId> {
        if flags & !(O_CLOEXEC | O_NONBLOCK | 1) != 0 {
            return fails(EINVAL);
        }
        let object = Object::Eventfd { counter: counter.into(), semaphore: flags & 1 != 0 };
        Ok(self.make_anonymous(tid, object, flags))
    }

    pub(super) fn make_epoll(&mut self, tid: u32, flags: u32) -> Call<DescId> {
        if flags & !O_CLOEXEC != 0 {
            return fails(EINVAL);
        }
        Ok(self.make_anonymous(tid, Object::Epoll { interests: BTreeMap::new() }, flags))
    }

    pub(super) fn make_timerfd(&mut self, tid: u32, clock: u32, flags: u32) -> Call<DescId> {
        // CLOCK_REALTIME, MONOTONIC, BOOTTIME, and the alarm clocks (privileged).
        if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 || !matches!(clock, 0 | 1 | 7 | 8 | 9) {
            return fails(EINVAL);
        }
        Ok(self.make_anonymous(tid, Object::Timerfd { clock, timer: Timer::default() }, flags))
    }

    pub(super) fn make_signalfd(&mut self, tid: u32, mask: u64, flags: u32) -> Call<DescId> {
        if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
            return fails(EINVAL);
        }
        // Those two cannot be caught (signalfd(2)).
        let mask = mask & !(1 << 8 | 1 << 18);
        Ok(self.make_anonymous(tid, Object::Signalfd { mask }, flags))
    }

    pub(super) fn change_object(&mut self, tid: u32, fd: Fd, change: &Change) -> Call<i64> {
        // What is wrong whatever the descriptor is, is seen first.
        match change {
            Change::Truncate { len } if *len > i64::MAX as u64 => return fails(EINVAL),
            Change::SetTimer { flags, .. } if flags & !3 != 0 => return fails(EINVAL),
            _ => {}
        }
        let desc = self.descriptor(tid, fd)?;
        self.read(Thing::Description(desc));
        let description = self.description(desc).clone();
        let object = description.object.clone();
        // Most calls do not see what is opened by O_PATH at all (open(2)).
        if description.flags & O_PATH != 0 && !matches!(change, Change::Enter) {
            return fails(EBADF);
        }
        match change {
            Change::Seek { position } => {
                match self.object(&object) {
                    Object::File(_) => {}
                    Object::Foreign => return not_modelled("a seek in what the launcher had open"),
                    Object::Pipe(_) | Object::Socket(_) => return fails(ESPIPE),
                    // They take it and do nothing (`noop_llseek`), or not.
                    Object::Eventfd { .. }
                    | Object::Epoll { .. }
                    | Object::Timerfd { .. }
                    | Object::Signalfd { .. }
                    | Object::Userfault { .. } => return Ok(0),
                }
                if *position > i64::MAX as u64 {
                    return fails(EINVAL);
                }
                self.description_mut(desc).position = *position;
                Ok(*position as i64)
            }
            Change::SetStatus { flags } => {
                let flags = flags & SETFL_MASK | description.flags & !SETFL_MASK;
                self.description_mut(desc).flags = flags;
                Ok(0)
            }
            Change::SetOwner { pid_type, pid } => {
                if *pid_type > F_OWNER_PGRP {
                    return fails(EINVAL);
                }
                if *pid != 0 {
                    self.check_target(*pid, *pid_type == F_OWNER_PGRP)?;
                }
                self.read(Thing::Thread(tid));
                let uids = self.thread(tid).credentials.uids;
                let owner = &mut self.description_mut(desc).owner;
                (owner.pid_type, owner.pid) = (*pid_type, *pid);
                owner.uids = [uids[0], uids[1]];
                Ok(0)
            }
            Change::SetSignal { signal } => {
                if *signal > 64 {
                    return fails(EINVAL);
                }
                self.description_mut(desc).owner.signal = *signal;
                Ok(0)
            }
            Change::Watch { target, events, data } => self.watch(tid, desc, *target, (*events, *data)),
            Change::SetTimer { flags, interval_ns, value_ns } => match self.object_mut(&object) {
                Object::Timerfd { timer, .. } => {
                    *timer =
                        Timer { flags: *flags, value_ns: *value_ns, interval_ns: *interval_ns, ticks: 0 };
                    Ok(0)
                }
                _ => fails(EINVAL),
            },
            Change::SetTicks { ticks } => match self.object_mut(&object) {
                Object::Timerfd { .. } if *ticks == 0 => fails(EINVAL),
                Object::Timerfd { timer, .. } => {
                    timer.ticks = *ticks;
                    Ok(0)
                }
                // `ep_eventpoll_ioctl`.
                Object::Epoll { .. } => fails(EINVAL),
                _ => fails(ENOTTY),
            },
            Change::SetPipeSize { bytes } => self.resize_pipe(tid, &object, *bytes),
            Change::Write { data } => self.write_bytes(tid, desc, data),
            Change::Send { data, rights, never_blocks } => {
                self.may_send(tid, &object, rights.len())?;
                let mut descs = Vec::new();
                for fd in rights {
                    descs.push(self.descriptor(tid, *fd)?);
                }
                self.send(tid, desc, data, &descs, *never_blocks)
            }
            Change::Read { into, offset } => self.read_bytes(tid, desc, into, *offset),
            Change::Shutdown { bits, connected } => self.shutdown(&object, *bits, *connected),
            Change::Bind { address } => self.bind(tid, &object, address),
            Change::Listen { backlog } => self.listen(tid, &object, *backlog),
            Change::Connect { address } => self.connect(tid, desc, address),
            Change::SetBytes { option, bytes } => self.set_bytes(&object, *option, bytes),
            Change::SetOption { option, value, force } => {
                self.set_option(tid, &object, *option, *value, *force)
            }
            // Who holds which lock is not modelled: nothing that the tapes do waits for one.
            Change::Lock => Ok(0),
            Change::Truncate { len } => self.truncate(desc, *len),
            Change::Copy { from, len } => self.copy(tid, desc, *from, *len),
            Change::SetFileOwner { uid, gid } => self.set_file_owner(&object, (*uid, *gid)),
            Change::SetMode { mode } => self.set_mode(&object, *mode),
            Change::SetTimes { atime, mtime } => {
                self.meta_mut(&object)?.times = Some((*atime, *mtime));
                Ok(0)
            }
            Change::AddSeals { seals } => self.add_seals(desc, *seals),
            Change::Enter => self.enter(tid, desc),
            Change::Userfault(change) => self.use_userfault(tid, &object, *change),
        }
    }

    /// `EPOLL_CTL_ADD`.
    fn watch(&mut self, tid: u32, desc: DescId, target: Fd, how: (u32, u64)) -> Call<i64> {
        let watched = self.descriptor(tid, target)?;
        self.read(Thing::Description(watched));
        let shown = self.description(watched).clone();
        if shown.flags & O_PATH != 0 {
            return fails(EBADF);
        }
        match self.object(&shown.object) {
            // "The target file fd does not support epoll" (epoll_ctl(2)). Devices may; what a path of the host
            // leads to is not known.
            Object::File(file) if file.is_made() => return fails(EPERM),
            Object::Foreign => return not_modelled("watching what the launcher had open"),
            Object::File(_)
            | Object::Pipe(_)
            | Object::Socket(_)
            | Object::Eventfd { .. }
            | Object::Epoll { .. }
            | Object::Timerfd { .. }
            | Object::Signalfd { .. }
            | Object::Userfault { .. } => {}
        }
        let epoll = self.description(desc).object.clone();
        if watched == desc {
            return fails(EINVAL);
        }
        let is_loop = self.leads_back(&shown.object, &epoll)?;
        match self.object_mut(&epoll) {
            Object::Epoll { interests } => {
                if interests.contains_key(&(target, watched)) {
                    return fails(EEXIST);
                }
                if is_loop {
                    return fails(ELOOP);
                }
                interests.insert((target, watched), (how.0 | EPOLL_ALWAYS, how.1));
                Ok(0)
            }
            _ => fails(EINVAL),
        }
    }

    /// Whether an epoll file watches another, or one that does (`ep_loop_check`).
    fn leads_back(&self, from: &ObjectId, to: &ObjectId) -> Call<bool> {
        /// EP_MAX_NESTS.
        const DEEPEST: u32 = 4;
        let mut todo = vec![(from.clone(), 0)];
        while let Some((id, depth)) = todo.pop() {
            let Object::Epoll { interests } = self.object(&id) else { continue };
            if id == *to {
                return Ok(true);
            }
            if depth >= DEEPEST {
                return not_modelled("epoll files that watch each other so deeply");
            }
            let open = interests.keys().filter(|(_, desc)| self.is_held(*desc));
            todo.extend(open.map(|(_, desc)| (self.description(*desc).object.clone(), depth + 1)));
        }
        Ok(false)
    }

    /// `write(2)`.
    fn write_bytes(&mut self, tid: u32, desc: DescId, data: &[u8]) -> Call<i64> {
        let description = self.description(desc).clone();
        if !description.writes() {
            return fails(EBADF);
        }
        match self.object(&description.object) {
            Object::Pipe(_) => self.write_pipe(tid, desc, data),
            Object::Socket(_) => self.send(tid, desc, data, &[], false),
            Object::File(_) => self.write_file(tid, desc, data),
            Object::Eventfd { .. } => {
                // Not more either (fs/eventfd.c, `eventfd_write`).
                let Ok(value) = data.try_into().map(u64::from_ne_bytes) else {
                    return fails(EINVAL);
                };
                if value == u64::MAX {
                    return fails(EINVAL);
                }
                let Object::Eventfd { counter, .. } = self.object_mut(&description.object) else {
                    return fails(EINVAL);
                };
                match counter.checked_add(value).filter(|sum| *sum < u64::MAX) {
                    Some(sum) => {
                        *counter = sum;
                        gives(8, data.len() as i64)
                    }
                    None if description.flags & O_NONBLOCK != 0 => fails(EAGAIN),
                    None => Err(Stop::Blocked),
                }
            }
            Object::Foreign => not_modelled("a write into what the launcher had open"),
            Object::Epoll { .. }
            | Object::Timerfd { .. }
            | Object::Signalfd { .. }
            | Object::Userfault { .. } => fails(EINVAL),
        }
    }

    /// `read(2)`, `preadv(2)`: all the bytes asked for, or the tape has not what it expects.
    fn read_bytes(&mut self, tid: u32, desc: DescId, into: &[(u64, u64)], offset: Option<u64>) -> Call<i64> {
        let description = self.description(desc).clone();
        let wanted = into.iter().fold(0u64, |sum, (_, len)| sum.saturating_add(*len));
        let can_seek = matches!(self.object(&description.object), Object::File(_));
        if offset.is_some() && !can_seek {
            return fails(ESPIPE);
        }
        if !description.reads() {
            return fails(EBADF);
        }
        let blocks = description.flags & O_NONBLOCK == 0;
        let bytes = match self.object(&description.object) {
            Object::File(_) => return self.read_file(tid, desc, into, offset),
            Object::Pipe(_) => self.read_pipe(tid, desc, wanted)?,
            Object::Socket(_) => self.receive(tid, &description, wanted)?,
            Object::Eventfd { .. } => {
                if wanted < 8 {
                    return fails(EINVAL);
                }
                let Object::Eventfd { counter, semaphore } = self.object_mut(&description.object) else {
                    return fails(EINVAL);
                };
                if *counter == 0 {
                    return if blocks { Err(Stop::Blocked) } else { fails(EAGAIN) };
                }
                let taken = if *semaphore { 1 } else { *counter };
                *counter -= taken;
                taken.to_ne_bytes().to_vec()
            }
            Object::Foreign => return not_modelled("a read from what the launcher had open"),
            Object::Timerfd { .. } | Object::Signalfd { .. } | Object::Userfault { .. } => {
                return not_modelled("a read of time, signals or faults");
            }
            Object::Epoll { .. } => return fails(EINVAL),
        };
        let mut rest = bytes.as_slice();
        for (at, len) in into {
            let (now, later) = rest.split_at(rest.len().min(usize::try_from(*len).unwrap_or(usize::MAX)));
            self.put(tid, *at, now.len() as u64, &Source::bytes(now))?;
            rest = later;
        }
        gives(bytes.len() as i64, wanted as i64)
    }

    /// Whether somebody can read from an object, or write into it. Who asks is the first to be asked: his
    /// own descriptors nobody else takes away.
    pub(super) fn has_end(
        &mut self,
        tid: u32,
        object: &ObjectId,
        is_end: impl Fn(&Description) -> bool,
    ) -> bool {
        let table = self.thread(tid).table;
        self.read(Thing::Table(table));
        let of = |world: &World, desc: &DescId| {
            let description = world.description(*desc);
            description.object == *object && is_end(description)
        };
        let own = self
            .tables
            .get(&table)
            .is_some_and(|table| table.entries.values().any(|entry| of(self, &entry.desc)));
        if own {
            return true;
        }
        self.note(Thing::Object(object.clone()), Access::Read);
        let all: Vec<DescId> = self.descriptions.keys().filter(|desc| of(self, desc)).copied().collect();
        let mut is_there = false;
        for desc in all {
            is_there |= self.is_open(desc);
        }
        is_there
    }
}
