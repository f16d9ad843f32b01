//! Descriptor tables: the lowest free number, limits, sharing.
//!
//! # Sources
//! `open(2)`, `dup(2)`, `close(2)`, `close_range(2)`, `fcntl(2)`, `getrlimit(2)`; fs/file.c
//! (`alloc_fd`, `do_dup2`, `ksys_dup3`, `f_dupfd`, `__close_range`, `dup_fd`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use regrow_graph::ids::Fd;
use regrow_graph::verify::FdEffect;

use super::object::{Description, Object};
use super::{Call, Stop, Why, World, fails, gives};
use crate::errno::{EBADF, EINVAL, EMFILE};
use crate::footprint::{Access, Thing};
use crate::ids::{DescId, Made, ObjectId, TableId};

const O_CLOEXEC: u32 = 0o2_000_000;
const RLIMIT_NOFILE: u32 = 7;

/// A slot of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    /// What it refers to.
    pub desc: DescId,
    /// Close-on-exec.
    pub cloexec: bool,
}

/// A descriptor table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Table {
    /// By number.
    pub entries: BTreeMap<Fd, Entry>,
}

impl Table {
    /// The lowest number from `least` on that is free.
    pub fn lowest_free(&self, least: Fd) -> Fd {
        let mut free = least;
        for fd in self.entries.range(least..).map(|(fd, _)| *fd) {
            if fd != free {
                break;
            }
            free += 1;
        }
        free
    }
}

impl World {
    pub(super) fn launch_table(&mut self, id: TableId) {
        let mut table = Table::default();
        for (nth, fd) in (1..).zip(&self.ground.host.fds) {
            let made = Made { tid: 0, record: 0, nth };
            self.objects.insert(ObjectId::Made(made), Arc::new(Object::Foreign));
            self.descriptions.insert(DescId(made), Arc::new(Description::of(ObjectId::Made(made), 2)));
            table.entries.insert(*fd, Entry { desc: DescId(made), cloexec: false });
        }
        self.tables.insert(id, Arc::new(table));
    }

    /// The table of a thread.
    pub fn table(&self, tid: u32) -> Option<&Table> {
        self.tables.get(&self.threads.get(&tid)?.table).map(|table| &**table)
    }

    fn table_mut(&mut self, tid: u32) -> &mut Table {
        let id = self.thread(tid).table;
        self.write(Thing::Table(id));
        Arc::make_mut(self.tables.entry(id).or_default())
    }

    /// A fork's copy.
    pub(super) fn copy_table(&mut self, from: TableId, to: TableId) {
        self.read(Thing::Table(from));
        let table = self.tables.get(&from).cloned().unwrap_or_default();
        for entry in table.entries.values() {
            self.note(Thing::Open(entry.desc), Access::Add);
        }
        self.tables.insert(to, table);
    }

    /// A thread that used it is gone: if it was the last, so is the table.
    pub(super) fn leave_table(&mut self, id: TableId) {
        self.note(Thing::Sharers(id), Access::Add);
        self.read(Thing::Table(id));
        for entry in self.tables.get(&id).cloned().unwrap_or_default().entries.values() {
            self.closed(entry.desc);
        }
        if !self.threads.values().any(|thread| thread.table == id) {
            self.tables.remove(&id);
        }
    }

    /// One descriptor fewer refers to a description, and perhaps to those that wait in its socket.
    fn closed(&mut self, desc: DescId) {
        let mut todo = vec![desc];
        let mut seen = BTreeSet::new();
        while let Some(desc) = todo.pop() {
            if seen.insert(desc) {
                self.note(Thing::Open(desc), Access::Add);
                if let Some(description) = self.descriptions.get(&desc) {
                    let object = description.object.clone();
                    if matches!(self.object(&object), Object::Socket(_)) {
                        self.read(Thing::Flight(object));
                    }
                }
                todo.extend(self.in_queue_of(desc));
            }
        }
    }

    pub(super) fn descriptor(&mut self, tid: u32, fd: Fd) -> Call<DescId> {
        let id = self.thread(tid).table;
        self.read(Thing::Table(id));
        match self.tables.get(&id).and_then(|table| table.entries.get(&fd)) {
            Some(entry) => Ok(entry.desc),
            None => fails(EBADF),
        }
    }

    /// `RLIMIT_NOFILE`, which is never above `fs.nr_open` in effect.
    pub(super) fn most_descriptors(&mut self, tid: u32) -> u64 {
        self.read(Thing::Process(self.thread(tid).process));
        let nr_open = u64::from(self.ground.host.nr_open);
        self.process_of(tid).limits.get(&RLIMIT_NOFILE).map_or(nr_open, |(soft, _)| (*soft).min(nr_open))
    }

    /// Whether there is a free number: some calls take one before they look at anything else
    /// (fs/open.c, `do_sys_openat2`; net/socket.c, `__sys_accept4_file`).
    pub(super) fn check_room(&mut self, tid: u32) -> Call<()> {
        let most = self.most_descriptors(tid);
        let free = self.table(tid).map_or(0, |table| table.lowest_free(0));
        if u64::from(free) < most { Ok(()) } else { fails(EMFILE) }
    }

    /// Gives a description the lowest free number from `least` on.
    pub(super) fn install(&mut self, tid: u32, least: Fd, desc: DescId, cloexec: bool) -> Call<Fd> {
        let most = self.most_descriptors(tid);
        let table = self.table_mut(tid);
        let fd = table.lowest_free(least);
        if u64::from(fd) >= most {
            return fails(EMFILE);
        }
        table.entries.insert(fd, Entry { desc, cloexec });
        self.note(Thing::Open(desc), Access::Add);
        Ok(fd)
    }

    /// Whether anybody has it open, or sends it to somebody.
    pub(super) fn is_open(&mut self, desc: DescId) -> bool {
        self.read(Thing::Open(desc));
        self.is_held(desc)
    }

    pub(crate) fn is_held(&self, desc: DescId) -> bool {
        let in_table = |table: &Arc<Table>| table.entries.values().any(|entry| entry.desc == desc);
        self.tables.values().any(in_table)
            || self.threads.values().any(|thread| thread.opening == Some(desc))
            || self.is_in_flight(desc)
    }

    pub(super) fn change_table(&mut self, tid: u32, effect: &FdEffect) -> Call<i64> {
        match effect {
            FdEffect::Open { path, flags, fd } => {
                self.read(Thing::Table(self.thread(tid).table));
                self.check_room(tid)?;
                let desc = self.open(tid, path, *flags)?;
                let is = self.install(tid, 0, desc, flags & O_CLOEXEC != 0)?;
                gives(is.into(), (*fd).into())
            }
            FdEffect::Pipe { flags } => self.make_pipe(tid, *flags),
            FdEffect::SocketPair { sock_type, flags } => self.make_pair(tid, *sock_type, *flags),
            FdEffect::Socket { family, sock_type, protocol, flags, fd } => {
                let desc = self.make_socket(tid, [*family, *sock_type, *protocol], *flags)?;
                let is = self.install(tid, 0, desc, flags & O_CLOEXEC != 0)?;
                gives(is.into(), (*fd).into())
            }
            FdEffect::Accept { listener, flags, fd } => {
                let desc = self.accept(tid, *listener, *flags)?;
                let is = self.install(tid, 0, desc, flags & O_CLOEXEC != 0)?;
                gives(is.into(), (*fd).into())
            }
            FdEffect::Eventfd { counter, flags, fd } => {
                let desc = self.make_eventfd(tid, *counter, *flags)?;
                let is = self.install(tid, 0, desc, flags & O_CLOEXEC != 0)?;
                gives(is.into(), (*fd).into())
            }
            FdEffect::Epoll { flags, fd } => {
                let desc = self.make_epoll(tid, *flags)?;
                let is = self.install(tid, 0, desc, flags & O_CLOEXEC != 0)?;
                gives(is.into(), (*fd).into())
            }
            FdEffect::Timerfd { clock, flags, fd } => {
                let desc = self.make_timerfd(tid, *clock, *flags)?;
                let is = self.install(tid, 0, desc, flags & O_CLOEXEC != 0)?;
                gives(is.into(), (*fd).into())
            }
            FdEffect::Signalfd { mask, flags, fd } => {
                let desc = self.make_signalfd(tid, *mask, *flags)?;
                let is = self.install(tid, 0, desc, flags & O_CLOEXEC != 0)?;
                gives(is.into(), (*fd).into())
            }
            FdEffect::Memfd { name, flags, fd } => {
                let desc = self.make_memfd(tid, name, *flags)?;
                let is = self.install(tid, 0, desc, flags & 1 != 0)?;
                gives(is.into(), (*fd).into())
            }
            FdEffect::Userfault { flags, fd } => {
                let desc = self.make_userfault(tid, *flags)?;
                let is = self.install(tid, 0, desc, flags & O_CLOEXEC != 0)?;
                gives(is.into(), (*fd).into())
            }
            FdEffect::Receive { socket, bytes, rights, cloexec, stays, never_blocks } => {
                let desc = self.descriptor(tid, *socket)?;
                let room = super::socket::Room { bytes: *bytes, rights: *rights };
                let (len, received) = self.receive_message(tid, desc, room, *stays, *never_blocks)?;
                for right in received {
                    match self.install(tid, 0, right, *cloexec) {
                        Ok(_) => {}
                        // Those that there is no room for are dropped, and the call succeeds (MSG_CTRUNC).
                        Err(Stop::Fails(Why::Errno(EMFILE))) => break,
                        Err(stop) => return Err(stop),
                    }
                }
                gives(len, *bytes as i64)
            }
            FdEffect::Probe { fd, cloexec } => {
                self.descriptor(tid, *fd)?;
                let is = self
                    .table(tid)
                    .and_then(|table| table.entries.get(fd))
                    .is_some_and(|entry| entry.cloexec);
                gives(is.into(), (*cloexec).into())
            }
            FdEffect::Dup { from, to, cloexec } => {
                if from == to {
                    return fails(EINVAL);
                }
                if u64::from(*to) >= self.most_descriptors(tid) {
                    return fails(EBADF);
                }
                let desc = self.descriptor(tid, *from)?;
                let old = self.table_mut(tid).entries.insert(*to, Entry { desc, cloexec: *cloexec });
                self.note(Thing::Open(desc), Access::Add);
                if let Some(old) = old {
                    self.closed(old.desc);
                }
                Ok((*to).into())
            }
            FdEffect::DupLowest { from, least, to, cloexec } => {
                let desc = self.descriptor(tid, *from)?;
                if u64::from(*least) >= self.most_descriptors(tid) {
                    return fails(EINVAL);
                }
                let is = self.install(tid, *least, desc, *cloexec)?;
                gives(is.into(), (*to).into())
            }
            FdEffect::SetCloexec { fd, cloexec } => {
                self.descriptor(tid, *fd)?;
                if let Some(entry) = self.table_mut(tid).entries.get_mut(fd) {
                    entry.cloexec = *cloexec;
                }
                Ok(0)
            }
            FdEffect::Close { fd } => match self.table_mut(tid).entries.remove(fd) {
                Some(entry) => {
                    self.closed(entry.desc);
                    Ok(0)
                }
                None => fails(EBADF),
            },
            FdEffect::CloseRange { first, last, only_mark, unshare } => {
                if first > last {
                    return fails(EINVAL);
                }
                let id = self.thread(tid).table;
                if *unshare {
                    self.write(Thing::Sharers(id));
                }
                if *unshare && self.threads.values().filter(|thread| thread.table == id).count() > 1 {
                    let own = TableId(self.made(tid, u32::MAX));
                    self.copy_table(id, own);
                    self.thread_mut(tid).table = own;
                }
                let table = self.table_mut(tid);
                let within: Vec<Fd> = table.entries.range(*first..=*last).map(|(fd, _)| *fd).collect();
                for fd in within {
                    if *only_mark {
                        if let Some(entry) = self.table_mut(tid).entries.get_mut(&fd) {
                            entry.cloexec = true;
                        }
                    } else if let Some(entry) = self.table_mut(tid).entries.remove(&fd) {
                        self.closed(entry.desc);
                    }
                }
                Ok(0)
            }
        }
    }
}
