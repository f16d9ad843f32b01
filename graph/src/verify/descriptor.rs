//! Descriptor tables, and what is done to what descriptors refer to.
//!
//! # Sources
//! `open(2)`, `dup(2)`, `close_range(2)`, `fcntl(2)`, `proc_pid_fd(5)`, `unix(7)`, `shutdown(2)`.

use std::collections::BTreeMap;

use super::before::At;
use super::effect::{Change, FdEffect};
use super::expected::{InodeKind, TimerSpec};
use super::family::{SIGKILL, SIGSTOP};
use super::ipc::is_variable;
use super::name::ASIDE;
use super::object::{
    Description, Full, Inode, O_ACCMODE, O_ASYNC, O_CLOEXEC, O_CREAT, O_DIRECT, O_DIRECTORY, O_DSYNC, O_EXCL,
    O_NOCTTY, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY, O_RDWR, O_SYNC_BIT, O_TMPFILE_BIT, O_TRUNC, O_WRONLY,
    ObjectKind, Packet, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, set_status,
};
use super::outcome::Wrong;
use super::pass::{MOST_RIGHTS, Receiving};
use super::run::{Phase, Role, Run};
use super::space::{MFD_HUGE, huge_memfd};
use super::table::{Desc, Table};
use super::work;
use crate::ids::Fd;

/// uapi/linux/eventpoll.h: the kernel adds both to every interest.
const EPOLLERR: u32 = 8;
const EPOLLHUP: u32 = 16;
const F_SEAL_SEAL: u32 = 1;
const F_SEAL_WRITE: u32 = 8;
const F_SEAL_EXEC: u32 = 0x20;
/// No table is longer than this (fs/file.c, `sysctl_nr_open_max`).
const NUMBERS_END: Fd = 1 << 30;
/// Attributes that are files below /proc/self.
const ATTRIBUTE_FILES: [&[u8]; 6] =
    [b"oom_score_adj", b"loginuid", b"comm", b"coredump_filter", b"attr/current", b"attr/sockcreate"];

impl<'a> Run<'a> {
    /// Orders an access to the task's table with those of tasks that share it.
    pub(super) fn order_table(&mut self, at: At, call: &'static str) -> Result<(), Wrong> {
        let index = self.tasks[at.task].table;
        if self.tables[index].shared {
            if let Some(last) = self.tables[index].last {
                self.order(last, at, call, || "the shared descriptor table".to_owned())?;
            }
            self.tables[index].last = Some(at);
        }
        Ok(())
    }

    pub(super) fn use_table(&mut self, at: At, call: &'static str) -> Result<&mut Table, Wrong> {
        self.order_table(at, call)?;
        let table = &mut self.tables[self.tasks[at.task].table];
        if table.unknown {
            return Err(Wrong::LauncherDescriptors { call });
        }
        Ok(table)
    }

    /// Two records that change one thing must come in one order.
    pub(super) fn order(
        &mut self,
        last: At,
        at: At,
        call: &'static str,
        what: impl FnOnce() -> String,
    ) -> Result<(), Wrong> {
        self.order_of(last, at, call, |_| what())
    }

    /// As [`Run::order`], of what is described by this model.
    fn order_of(
        &mut self,
        last: At,
        at: At,
        call: &'static str,
        what: impl FnOnce(&Self) -> String,
    ) -> Result<(), Wrong> {
        if last.task == at.task {
            return Ok(());
        }
        // All that comes before the barrier comes before all that comes behind it.
        let is_behind = self.tasks[at.task].phase == Phase::Tail
            && self.tasks[last.task].arrived.is_some_and(|arrival| last.record < arrival);
        if !is_behind && !self.before.holds(last, at) {
            return Err(Wrong::Unordered {
                call,
                what: what(self),
                by: self.pid(last.task),
                at: last.record,
            });
        }
        self.certificate.orders_proved += 1;
        Ok(())
    }

    /// Opens a description at the lowest free number of the task that is not below `least`.
    pub(super) fn place_lowest(
        &mut self,
        at: At,
        call: &'static str,
        least: Fd,
        desc: Desc,
        cloexec: bool,
    ) -> Result<Fd, Wrong> {
        let fd = self.use_table(at, call)?.open(least, desc, cloexec);
        self.objects.note_place(desc, fd);
        Ok(fd)
    }

    /// Puts a description at a number of the task.
    fn place_at(
        &mut self,
        at: At,
        call: &'static str,
        fd: Fd,
        desc: Desc,
        cloexec: bool,
    ) -> Result<(), Wrong> {
        self.use_table(at, call)?.place(fd, desc, cloexec);
        self.objects.note_place(desc, fd);
        Ok(())
    }

    /// Whether the task has a description of an object open, of those that are `wanted`. They are looked for
    /// where they have ever been, the last place first, and not in the whole of its table.
    fn has_open(&self, task: usize, object: usize, wanted: impl Fn(&Description) -> bool) -> bool {
        let table = &self.tables[self.tasks[task].table];
        self.objects.objects[object].shown_by.iter().rev().any(|desc| {
            let description = self.objects.description(*desc);
            wanted(description)
                && description.places.iter().rev().any(|fd| {
                    work::count(1);
                    table.get(*fd).is_some_and(|entry| entry.desc == *desc)
                })
        })
    }

    /// Whether the task could read itself what is put into an object.
    fn has_reader(&self, task: usize, object: usize) -> bool {
        self.has_open(task, object, |description| description.flags & O_ACCMODE != O_WRONLY)
    }

    pub(super) fn descriptor(&mut self, at: At, call: &'static str, fd: Fd) -> Result<Desc, Wrong> {
        let entry = self.use_table(at, call)?.get(fd);
        entry.map(|entry| entry.desc).ok_or(Wrong::NotOpen { call, fd })
    }

    pub(super) fn describe(&self, desc: Desc) -> String {
        self.objects.describe(desc, &|task| self.pid(task))
    }

    pub(super) fn change_table(
        &mut self,
        at: At,
        call: &'static str,
        effect: &FdEffect,
    ) -> Result<(), Wrong> {
        let as_expected = |is: Fd, expected: Fd| {
            if is == expected { Ok(()) } else { Err(Wrong::OtherNumber { call, is, expected }) }
        };
        let in_reach =
            |fd: Fd| if fd < NUMBERS_END { Ok(()) } else { Err(Wrong::NumberTooHigh { call, fd }) };
        match effect {
            FdEffect::Open { path, flags, fd } => {
                self.use_table(at, call)?;
                let desc = self.open(at, call, path, *flags)?;
                as_expected(self.place_lowest(at, call, 0, desc, flags & O_CLOEXEC != 0)?, *fd)?;
            }
            FdEffect::Pipe { flags } => {
                let unknown = flags & !(O_CLOEXEC | O_NONBLOCK | O_DIRECT);
                if unknown != 0 {
                    return Err(Wrong::NotModelled { call, what: format!("flags {unknown:#o}") });
                }
                let facts = self.expected.facts;
                self.use_table(at, call)?;
                for desc in self.objects.add_pipe(*flags, &facts, at) {
                    self.place_lowest(at, call, 0, desc, flags & O_CLOEXEC != 0)?;
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
                    self.place_lowest(at, call, 0, desc, flags & O_CLOEXEC != 0)?;
                }
            }
            FdEffect::Socket { family, sock_type, protocol, flags, fd } => {
                self.use_table(at, call)?;
                let desc = self.socket(at, call, [*family, *sock_type, *protocol, *flags])?;
                as_expected(self.place_lowest(at, call, 0, desc, flags & O_CLOEXEC != 0)?, *fd)?;
            }
            FdEffect::Accept { listener, flags, fd } => {
                let desc = self.accept(at, call, *listener, *flags)?;
                as_expected(self.place_lowest(at, call, 0, desc, flags & O_CLOEXEC != 0)?, *fd)?;
            }
            FdEffect::Eventfd { counter, flags, fd } => {
                if flags & !(O_CLOEXEC | O_NONBLOCK | 1) != 0 {
                    return Err(Wrong::NotModelled { call, what: format!("flags {flags:#o}") });
                }
                self.use_table(at, call)?;
                let kind = ObjectKind::Eventfd { counter: u64::from(*counter), semaphore: flags & 1 != 0 };
                let object = self.objects.add_object(kind, at);
                let desc = self.objects.add_description(object, O_RDWR | flags & O_NONBLOCK, at);
                as_expected(self.place_lowest(at, call, 0, desc, flags & O_CLOEXEC != 0)?, *fd)?;
            }
            FdEffect::Epoll { flags, fd } => {
                let kind = ObjectKind::Epoll { watched: BTreeMap::new() };
                as_expected(self.open_anonymous(at, call, kind, *flags, 0)?, *fd)?;
            }
            FdEffect::Timerfd { clock, flags, fd } => {
                let kind = ObjectKind::Timerfd { clock: *clock, timer: TimerSpec::default() };
                as_expected(self.open_anonymous(at, call, kind, *flags, O_NONBLOCK)?, *fd)?;
            }
            FdEffect::Signalfd { mask, flags, fd } => {
                // Those two cannot be caught; signalfd(2) leaves them out.
                let mask = mask & !(1 << (SIGKILL - 1) | 1 << (SIGSTOP - 1));
                as_expected(
                    self.open_anonymous(at, call, ObjectKind::Signalfd { mask }, *flags, O_NONBLOCK)?,
                    *fd,
                )?;
            }
            FdEffect::Memfd { name, flags, fd } => {
                /// MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_EXEC.
                const KNOWN: u32 = 0x13;
                let huge = huge_memfd(*flags);
                if flags & !(KNOWN | MFD_HUGE) != 0 || huge.is_none() {
                    return Err(Wrong::NotModelled { call, what: format!("flags {flags:#x}") });
                }
                self.use_table(at, call)?;
                let seals = if flags & 2 == 0 { 1 } else { 0 };
                let huge = huge.unwrap_or(0);
                let inode =
                    Inode { kind: InodeKind::Memfd, name: name.clone(), seals, huge, ..Inode::default() };
                let object = self.objects.add_object(ObjectKind::Inode(Box::new(inode)), at);
                let desc = self.objects.add_description(object, O_RDWR, at);
                as_expected(self.place_lowest(at, call, 0, desc, flags & 1 != 0)?, *fd)?;
            }
            FdEffect::Userfault { flags, fd } => {
                /// UFFD_USER_MODE_ONLY (uapi/linux/userfaultfd.h).
                const USER_MODE_ONLY: u32 = 1;
                let kind = ObjectKind::Userfault { space: self.space_of(at.task), is_ready: false };
                let flags = flags & !USER_MODE_ONLY;
                as_expected(self.open_anonymous(at, call, kind, flags, O_NONBLOCK)?, *fd)?;
            }
            FdEffect::Receive { socket, bytes, rights, cloexec, stays, never_blocks: _ } => {
                let (socket, bytes, rights) = (*socket, *bytes, *rights);
                let wanted = Receiving { socket, bytes, rights, cloexec: *cloexec, stays: *stays };
                let last = self.receive(at, call, wanted)?;
                self.tasks[at.task].unprobed = last.map(|fd| (fd, *cloexec));
            }
            FdEffect::Probe { fd, cloexec } => {
                self.probe(at, call, *fd, *cloexec)?;
            }
            FdEffect::Dup { from, to, cloexec } => {
                in_reach(*to)?;
                let desc = self.descriptor(at, call, *from)?;
                if from == to {
                    return Err(Wrong::Refused { call, what: format!("descriptor {from} onto itself") });
                }
                self.place_at(at, call, *to, desc, *cloexec)?;
            }
            FdEffect::DupLowest { from, least, to, cloexec } => {
                in_reach(*least)?;
                let desc = self.descriptor(at, call, *from)?;
                as_expected(self.place_lowest(at, call, *least, desc, *cloexec)?, *to)?;
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
                if *only_mark {
                    table.mark_range(*first, *last);
                } else {
                    table.close_range(*first, *last);
                }
            }
        }
        Ok(())
    }

    /// A new description of something without a name; `known`: the status flags that it may have.
    fn open_anonymous(
        &mut self,
        at: At,
        call: &'static str,
        kind: ObjectKind,
        flags: u32,
        known: u32,
    ) -> Result<Fd, Wrong> {
        if flags & !(O_CLOEXEC | known) != 0 {
            return Err(Wrong::NotModelled { call, what: format!("flags {flags:#o}") });
        }
        self.use_table(at, call)?;
        let object = self.objects.add_object(kind, at);
        let desc = self.objects.add_description(object, O_RDWR | flags & O_NONBLOCK, at);
        self.place_lowest(at, call, 0, desc, flags & O_CLOEXEC != 0)
    }

    /// A description of a FIFO. All of one are made by one task, while it has one of them open: else
    /// it would not be certain that they show the same pipe, or that nobody waits for an other end.
    fn open_fifo(&mut self, at: At, call: &'static str, path: &'a [u8], status: u32) -> Result<Desc, Wrong> {
        let access = status & O_ACCMODE;
        let object = match self.fifos.get(path).copied() {
            None if access == O_RDWR => {
                let object = self.objects.add_fifo(&self.expected.facts, None, at);
                self.fifos.insert(path, object);
                self.path_of_fifo.insert(object, path);
                object
            }
            Some(object) if self.objects.objects[object].made.task == at.task => {
                let has = |not: u32| {
                    self.has_open(at.task, object, |description| description.flags & O_ACCMODE != not)
                };
                // For reading alone a writer must be there, for writing alone a reader.
                let other_end = match access {
                    O_RDONLY => has(O_RDONLY),
                    O_WRONLY => has(O_WRONLY),
                    _ => has(u32::MAX),
                };
                if !other_end {
                    return Err(Wrong::OpenBlocks { path: path.escape_ascii().to_string() });
                }
                object
            }
            None => return Err(Wrong::OpenBlocks { path: path.escape_ascii().to_string() }),
            Some(_) => {
                let what = "a FIFO that two tasks open".to_owned();
                return Err(Wrong::NotModelled { call, what });
            }
        };
        Ok(self.objects.add_description(object, status, at))
    }

    fn open(&mut self, at: At, call: &'static str, path: &[u8], flags: u32) -> Result<Desc, Wrong> {
        let shown = || path.escape_ascii().to_string();
        let made = flags & (O_CREAT | O_EXCL | O_TRUNC | O_TMPFILE_BIT) == O_CREAT | O_EXCL;
        let is_file = |name: &[u8]| self.wanted.named(name).any(|inode| inode.kind == InodeKind::File);
        if made && (is_file(path) || path.strip_suffix(ASIDE).is_some_and(is_file)) {
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
            let (object, alias) =
                (self.objects.description(desc).object, self.objects.description(desc).alias.clone());
            let can = match self.objects.objects[object].kind {
                ObjectKind::File { .. } | ObjectKind::Pipe(_) => flags & O_NOFOLLOW == 0,
                ObjectKind::Inode(ref inode) => {
                    let is_directory = inode.kind == InodeKind::Directory;
                    let writes = flags & O_ACCMODE != O_RDONLY && flags & O_PATH == 0;
                    flags & O_NOFOLLOW == 0
                        && (is_directory || flags & O_DIRECTORY == 0)
                        && !(is_directory && writes)
                }
                ObjectKind::Socket(_)
                | ObjectKind::Eventfd { .. }
                | ObjectKind::Epoll { .. }
                | ObjectKind::Timerfd { .. }
                | ObjectKind::Signalfd { .. }
                | ObjectKind::Segment(_)
                | ObjectKind::Userfault { .. } => false,
            };
            if !can {
                return Err(Wrong::Refused { call, what: self.describe(desc) });
            }
            let opened = self.objects.add_description(object, status, at);
            self.objects.description_mut(opened).alias = alias;
            return Ok(opened);
        }
        if let Some(range) = path.strip_prefix(b"/proc/self/map_files/") {
            return self.open_carrier(at, call, range, flags);
        }
        if let Some(name) = self.made_names.get(path).copied().filter(|name| name.is_there) {
            self.order(name.last, at, call, shown)?;
            // What stands only for others to be made in, nobody needs to open.
            let object = name.object.ok_or_else(|| Wrong::OpensOther { path: shown() })?;
            let is_directory = name.is_directory && flags & (O_ACCMODE | O_PATH) == O_RDONLY;
            let (may, alias) = match &self.objects.objects[object].kind {
                ObjectKind::Inode(inode) => {
                    let is_further = flags & O_PATH != 0 && !name.is_directory;
                    (is_directory || is_further, (inode.name != path).then(|| path.into()))
                }
                // For reading and writing it never waits.
                ObjectKind::Pipe(_) => (flags & (O_ACCMODE | O_PATH) == O_RDWR, None),
                ObjectKind::File { .. }
                | ObjectKind::Socket(_)
                | ObjectKind::Eventfd { .. }
                | ObjectKind::Epoll { .. }
                | ObjectKind::Timerfd { .. }
                | ObjectKind::Signalfd { .. }
                | ObjectKind::Segment(_)
                | ObjectKind::Userfault { .. } => (false, None),
            };
            if !may {
                return Err(Wrong::NotModelled { call, what: format!("another open of {}", shown()) });
            }
            let opened = self.objects.add_description(object, status, at);
            self.objects.description_mut(opened).alias = alias;
            return Ok(opened);
        }
        if is_variable(path) {
            return self.open_variable(at, call, path, flags);
        }
        // A file about a task is there when the task is.
        let about = path.strip_prefix(b"/proc/").and_then(|rest| rest.split(|byte| *byte == b'/').next());
        let about =
            about.and_then(|pid| std::str::from_utf8(pid).ok()).and_then(|pid| pid.parse::<u32>().ok());
        let about = about.and_then(|pid| self.by_pid.get(&pid).copied());
        if let Some(about) = about.filter(|about| *about != at.task && self.pid(*about) != self.root) {
            if !self.is_born_before(about, at) {
                return Err(Wrong::BadName {
                    call,
                    path: shown(),
                    why: "is about a task that may not be born yet",
                });
            }
            self.certificate.orders_proved += 1;
        }
        let is_image = || {
            let is_in = |dir: &Vec<u8>| {
                let file = path.strip_prefix(dir.as_slice()).and_then(|rest| rest.strip_prefix(b"/"));
                file.is_some_and(|name| !name.is_empty() && !name.contains(&b'/') && name != b"..")
            };
            flags & O_ACCMODE == O_RDONLY && self.expected.images.iter().any(is_in)
        };
        let may = match own {
            Some(rest) => ATTRIBUTE_FILES.contains(&rest),
            None if flags & (O_ACCMODE | O_PATH) == O_WRONLY && self.is_cgroup_file(path) => true,
            None if flags & O_PATH != 0 && self.is_cgroup(path) => true,
            None => self.expected.paths.contains(path) || is_image(),
        };
        if !may {
            return Err(Wrong::OpensOther { path: shown() });
        }
        if let Some(path) = self.fifo_paths.get(path).copied().filter(|_| flags & O_PATH == 0) {
            return self.open_fifo(at, call, path, status);
        }
        let object = self.objects.add_object(ObjectKind::File { path: path.to_vec() }, at);
        Ok(self.objects.add_description(object, status, at))
    }

    /// Orders a change of a description.
    pub(super) fn touch(&mut self, at: At, call: &'static str, desc: Desc) -> Result<(), Wrong> {
        let last = self.objects.description(desc).last;
        self.order_of(last, at, call, |run| run.describe(desc))?;
        self.objects.description_mut(desc).last = at;
        Ok(())
    }

    /// Orders a change of an object.
    pub(super) fn touch_object(
        &mut self,
        at: At,
        call: &'static str,
        object: usize,
        desc: Desc,
    ) -> Result<(), Wrong> {
        let last = self.objects.objects[object].last;
        self.order_of(last, at, call, |run| run.describe(desc))?;
        self.objects.objects[object].last = at;
        Ok(())
    }

    pub(super) fn change_object(
        &mut self,
        at: At,
        call: &'static str,
        fd: Fd,
        change: &Change,
    ) -> Result<(), Wrong> {
        let desc = self.descriptor(at, call, fd)?;
        let object = self.objects.description(desc).object;
        let flags = self.objects.description(desc).flags;
        let refused = |run: &Self| Wrong::Refused { call, what: run.describe(desc) };
        if flags & O_PATH != 0 && *change != Change::Enter {
            return Err(refused(self));
        }
        match change {
            Change::Seek { position } => {
                if !matches!(
                    self.objects.objects[object].kind,
                    ObjectKind::File { .. } | ObjectKind::Inode(_)
                ) {
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
                if *pid != 0 && !self.certainly_exists(at, *pid) {
                    return Err(Wrong::OwnerMissing { pid: *pid });
                }
                let uids = self.tasks[at.task].privileges.uids();
                let owner = &mut self.objects.description_mut(desc).owner;
                owner.pid_type = *pid_type;
                owner.pid = *pid;
                owner.uids = uids;
            }
            Change::SetSignal { signal } => {
                self.touch(at, call, desc)?;
                self.objects.description_mut(desc).owner.signal = *signal;
            }
            Change::Watch { target, events, data } => {
                let target_desc = self.descriptor(at, call, *target)?;
                self.touch_object(at, call, object, desc)?;
                let pollable = !matches!(self.objects.object_of(target_desc).kind, ObjectKind::File { .. })
                    || self.objects.description(target_desc).flags & O_PATH == 0;
                let ObjectKind::Epoll { watched } = &mut self.objects.objects[object].kind else {
                    return Err(refused(self));
                };
                let is_new =
                    watched.insert((target_desc, *target), (*events | EPOLLERR | EPOLLHUP, *data)).is_none();
                if !is_new || !pollable || target_desc == desc {
                    let what = format!("{}: descriptor {target}", self.describe(desc));
                    return Err(Wrong::Refused { call, what });
                }
            }
            Change::SetTimer { flags: set, interval_ns, value_ns } => {
                self.touch_object(at, call, object, desc)?;
                let ObjectKind::Timerfd { timer, .. } = &mut self.objects.objects[object].kind else {
                    return Err(refused(self));
                };
                *timer = TimerSpec { flags: *set, interval_ns: *interval_ns, value_ns: *value_ns, ticks: 0 };
            }
            Change::SetTicks { ticks } => {
                self.touch_object(at, call, object, desc)?;
                match &mut self.objects.objects[object].kind {
                    ObjectKind::Timerfd { timer, .. } if *ticks != 0 => timer.ticks = *ticks,
                    _ => return Err(refused(self)),
                }
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
                    self.spare_vdso(at, call, (*start, *len), false)?;
                }
                let from = offset.unwrap_or(self.objects.description(desc).position);
                if offset.is_none() {
                    self.touch(at, call, desc)?;
                    let len = into.iter().fold(0u64, |sum, (_, len)| sum.saturating_add(*len));
                    let description = self.objects.description_mut(desc);
                    description.position = description.position.saturating_add(len);
                }
                self.fill_memory(at, call, object, into, from)?;
                self.certificate.memory_changes += 1;
            }
            Change::Bind { address } => self.bind(at, call, desc, address)?,
            Change::Listen { backlog } => self.listen(at, call, desc, *backlog)?,
            Change::Connect { address } => self.connect(at, call, desc, address)?,
            Change::SetBytes { option, bytes } => {
                self.touch_object(at, call, object, desc)?;
                let ObjectKind::Socket(socket) = &mut self.objects.objects[object].kind else {
                    return Err(refused(self));
                };
                socket.bytes.insert(*option, bytes.clone());
            }
            Change::Shutdown { bits, connected } => {
                self.touch_object(at, call, object, desc)?;
                let ObjectKind::Socket(socket) = &mut self.objects.objects[object].kind else {
                    return Err(refused(self));
                };
                if socket.is_connected() != *connected {
                    return Err(refused(self));
                }
                socket.shutdown |= bits;
                let (peer, sock_type) = (socket.peer, socket.sock_type);
                if let Some(peer) = peer
                    && sock_type != SOCK_DGRAM
                {
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
            Change::Lock => {
                if flags & O_PATH != 0 {
                    return Err(refused(self));
                }
            }
            Change::Truncate { len } => {
                let writable = flags & O_ACCMODE != O_RDONLY;
                let inode = self.inode(at, call, desc)?;
                let is_file = !matches!(inode.kind, InodeKind::Directory | InodeKind::Fifo);
                if !is_file || inode.is_sealed() || *len < inode.size || !writable {
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
                let is_written = seals & F_SEAL_WRITE != 0 && self.is_mapped_to_write(at.task, object);
                let inode = self.inode(at, call, desc)?;
                if inode.kind != InodeKind::Memfd || inode.seals & F_SEAL_SEAL != 0 || is_written {
                    return Err(refused(self));
                }
                inode.seals |= *seals;
            }
            Change::Enter => self.enter(at, call, desc)?,
            Change::Userfault(change) => self.use_userfault(at, call, desc, *change)?,
            Change::Copy { from, len } => self.copy(at, call, desc, *from, *len)?,
        }
        Ok(())
    }

    /// Whether the number of a task, thread or group is in use by then in every run: behind the barrier
    /// all are there.
    fn certainly_exists(&self, at: At, pid: u32) -> bool {
        let Some(task) = self.by_pid.get(&pid).copied() else { return false };
        if self.tasks[task].phase == Phase::Reaped || matches!(self.roles[task], Role::Helper) {
            return false;
        }
        self.tasks[at.task].phase == Phase::Tail || task == at.task || self.is_born_before(task, at)
    }

    fn write(&mut self, at: At, call: &'static str, desc: Desc, data: &[u8]) -> Result<(), Wrong> {
        let (object, flags) = (self.objects.description(desc).object, self.objects.description(desc).flags);
        if flags & O_ACCMODE == O_RDONLY {
            return Err(Wrong::Refused { call, what: self.describe(desc) });
        }
        if let ObjectKind::File { path } = &self.objects.objects[object].kind
            && self.is_cgroup_file(path)
        {
            let path = path.clone();
            return self.enter_cgroup(at, call, &path, data);
        }
        self.touch_object(at, call, object, desc)?;
        let full = match &mut self.objects.objects[object].kind {
            ObjectKind::File { path } => {
                let own = path.strip_prefix(b"/proc/self/").or(path.strip_prefix(b"/proc/thread-self/"));
                if let Some(name) = own.map(<[u8]>::to_vec) {
                    return self.write_attribute(at, call, desc, &name, data);
                }
                if is_variable(path) {
                    let path = path.clone();
                    return self.set_variable(at, call, desc, &path, data);
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
            ObjectKind::Epoll { .. }
            | ObjectKind::Timerfd { .. }
            | ObjectKind::Signalfd { .. }
            | ObjectKind::Segment(_)
            | ObjectKind::Userfault { .. } => {
                return Err(Wrong::Refused { call, what: self.describe(desc) });
            }
        };
        if let Err(Full { holds, capacity }) = full {
            return Err(Wrong::WouldBlock { call, what: self.describe(desc), holds, capacity });
        }
        let is_pipe = matches!(self.objects.objects[object].kind, ObjectKind::Pipe(_));
        if is_pipe && !self.has_reader(at.task, object) {
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
        if rights.len() > MOST_RIGHTS {
            return Err(Wrong::TooManyRights { count: rights.len(), most: MOST_RIGHTS, why: "in a message" });
        }
        self.touch_object(at, call, object, desc)?;
        self.release_room(at, object);
        let never_blocks = never_blocks || self.objects.description(desc).flags & O_NONBLOCK != 0;
        let ObjectKind::Socket(socket) = &mut self.objects.objects[object].kind else {
            return Err(refused(self));
        };
        if socket.shutdown & 2 != 0 {
            return Err(refused(self));
        }
        let sock_type = socket.sock_type;
        let Some(peer) = socket.peer else { return Err(refused(self)) };
        if data.is_empty() && sock_type == SOCK_STREAM {
            return Ok(());
        }
        // Whoever waits for descriptors has no use for a sender that fails instead of waiting for room.
        let charge = match socket.charge(data.len(), never_blocks && rights.is_empty()) {
            Ok(charge) => charge,
            Err(Full { holds, capacity }) => {
                return Err(Wrong::WouldBlock { call, what: self.describe(desc), holds, capacity });
            }
        };
        self.touch_object(at, call, peer, desc)?;
        let ObjectKind::Socket(receiver) = &mut self.objects.objects[peer].kind else {
            return Err(refused(self));
        };
        if receiver.shutdown & 1 != 0 {
            return Err(refused(self));
        }
        receiver.queue.push(Packet { data: data.to_vec(), rights, sent: Some(at), charge });
        if !self.has_reader(at.task, peer) {
            self.needs_reader.push((at, call, peer));
        }
        Ok(())
    }
}
