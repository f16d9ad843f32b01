//! The end of a run against what the images say.
//!
//! Descriptions of the end and of the images are matched one to one, descriptor by descriptor, and so are
//! pipes, sockets and files behind them. Compared are the family, who shares which table, every descriptor,
//! status flags, owners, positions, what waits in pipes and sockets with descriptors in flight, counters,
//! timers, interests, and of the attributes those that are paths, names and plain
//! numbers. Address spaces are compared where the images' own form of them is known: in the tests.
//!
//! Worked example: [`crate::End`] says that descriptor 3 of task 7 shows the pipe that holds `hi`; the images say
//! that it holds `ho`. That is `task 7: fd 3: the pipe holds [104, 105], the images say [104, 111]`.

use std::collections::{BTreeMap, BTreeSet};

use regrow_graph::ids::OfdId;
use regrow_graph::verify::{
    AttributeKind, Expected, ExpectedOfd, ExpectedPerm, ExpectedTask, IpcKind, Life, OfdSpec, SocketPeer,
    SocketSpec, Value,
};

use crate::end::{End, GONE};
use crate::ids::{DescId, ObjectId};
use crate::world::{FileKind, Object, Socket, SysV};

/// Status flags that do not count: gone after the open, or set by the kernel for all 64-bit callers.
const NOT_COMPARED: u32 = 0o100 | 0o200 | 0o400 | 0o1000 | 0o100_000 | 0o2_000_000;

/// What is not as the images say; nothing if all is.
pub fn differences(end: &End, expected: &Expected) -> Vec<String> {
    let mut compare = Compare {
        end,
        expected,
        ofds: BTreeMap::new(),
        descs: BTreeMap::new(),
        things: BTreeMap::new(),
        found: Vec::new(),
    };
    compare.family();
    for task in &expected.tasks {
        compare.tables(task);
        compare.attributes(task);
    }
    compare.sharing();
    compare.ipc();
    compare.found
}

/// The number of a thing in the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Pipe(u32),
    Fifo(u32),
    Socket(u32),
}

struct Compare<'a> {
    end: &'a End,
    expected: &'a Expected,
    ofds: BTreeMap<OfdId, DescId>,
    descs: BTreeMap<DescId, OfdId>,
    things: BTreeMap<Key, ObjectId>,
    found: Vec<String>,
}

impl Compare<'_> {
    fn check<T: PartialEq + std::fmt::Debug>(&mut self, what: impl Fn() -> String, is: T, wanted: T) {
        if is != wanted {
            self.found.push(format!("{} {is:?}, the images say {wanted:?}", what()));
        }
    }

    fn family(&mut self) {
        let end = self.end;
        let is: BTreeSet<u32> = end.processes.keys().copied().collect();
        let wanted: BTreeSet<u32> = self.expected.tasks.iter().map(|task| task.pid).collect();
        self.check(|| "the tasks are".to_owned(), is, wanted);
        for task in &self.expected.tasks {
            let pid = task.pid;
            let Some(process) = end.processes.get(&pid) else { continue };
            self.check(|| format!("task {pid}: its parent is"), process.parent, task.ppid);
            self.check(|| format!("task {pid}: its session is"), process.sid, task.sid);
            self.check(|| format!("task {pid}: its group is"), process.pgid, task.pgid);
            self.check(|| format!("task {pid}: its exit signal is"), process.exit_signal, 17);
            let status = match task.life {
                Life::Alive => None,
                Life::Zombie { status } => Some(status),
            };
            self.check(|| format!("task {pid}: its status is"), process.status, status);
            let threads = end.threads.iter().filter(|(_, thread)| thread.process == pid);
            let is: BTreeSet<u32> = threads.map(|(tid, _)| *tid).collect();
            let wanted =
                task.threads.iter().copied().chain((task.life == Life::Alive).then_some(pid)).collect();
            self.check(|| format!("task {pid}: its threads are"), is, wanted);
        }
    }

    fn tables(&mut self, task: &ExpectedTask) {
        let pid = task.pid;
        let is = self.end.table(pid);
        let numbers: Vec<u32> = is.keys().copied().collect();
        let wanted: Vec<u32> = task.table.iter().map(|slot| slot.fd).collect();
        self.check(|| format!("task {pid}: its descriptors are"), numbers, wanted);
        for slot in &task.table {
            let Some((desc, cloexec)) = is.get(&slot.fd).copied() else { continue };
            let place = format!("task {pid}: fd {}:", slot.fd);
            self.check(|| format!("{place} close-on-exec is"), cloexec, slot.cloexec);
            self.description(&place, desc, slot.ofd);
        }
    }

    /// All are in one IPC namespace, with what the images say. What segments hold is compared where memory is.
    fn ipc(&mut self) {
        let (end, expected) = (self.end, self.expected);
        let namespace = |pid: u32| end.threads.get(&pid).and_then(|thread| thread.ipc);
        let Some(root) = expected.tasks.first() else { return };
        for task in expected.tasks.iter().filter(|task| task.life == Life::Alive) {
            let pid = task.pid;
            self.check(|| format!("task {pid}: its IPC namespace is"), namespace(pid), namespace(root.pid));
        }
        let is = namespace(root.pid).and_then(|ns| end.ipcs.get(&ns));
        let (is, wanted) = match (is, expected.ipc.as_deref()) {
            (Some(is), Some(wanted)) => (is, wanted),
            (is, wanted) => {
                let what = || "an IPC namespace of its own:".to_owned();
                return self.check(what, is.is_some(), wanted.is_some());
            }
        };
        let texts = is.variables.iter().map(|(path, text)| (path.to_vec(), text.to_vec())).collect();
        self.check(|| "the variables are".to_owned(), &texts, &wanted.variables);
        self.check(|| "the next ids are".to_owned(), &is.next_ids, &wanted.next_ids);
        let mut objects = BTreeMap::new();
        for (id, it) in &wanted.segments {
            objects.insert((IpcKind::Segment, *id), (it.perm, it.size, it.huge, 0, &[][..], &[][..]));
        }
        for (id, it) in &wanted.queues {
            objects
                .insert((IpcKind::Queue, *id), (it.perm, 0, 0, it.most_bytes, it.messages.as_slice(), &[]));
        }
        for (id, it) in &wanted.semaphores {
            let count = it.values.len() as u64;
            objects.insert((IpcKind::Semaphores, *id), (it.perm, count, 0, 0, &[], it.values.as_slice()));
        }
        let shown = |(key, it): (&(IpcKind, u32), &SysV)| {
            let (key_of, uid, gid, cuid, cgid, mode) = (it.key, it.uid, it.gid, it.cuid, it.cgid, it.mode);
            let perm = ExpectedPerm { key: key_of, uid, gid, cuid, cgid, mode };
            let most_bytes = if key.0 == IpcKind::Queue { it.most_bytes } else { 0 };
            (*key, (perm, it.size, it.huge, most_bytes, it.messages.clone(), it.values.clone()))
        };
        let is: BTreeMap<_, _> = is.objects.iter().map(shown).collect();
        let owned = objects.into_iter().map(|(key, (perm, size, huge, most, messages, values))| {
            (key, (perm, size, huge, most, messages.to_vec(), values.to_vec()))
        });
        self.check(|| "the System V objects are".to_owned(), is, owned.collect());
    }

    /// Tables are shared by whom the images say.
    fn sharing(&mut self) {
        let mut of_id = BTreeMap::new();
        let mut of_table = BTreeMap::new();
        for task in &self.expected.tasks {
            let (Some(id), Some(thread)) = (task.table_id, self.end.threads.get(&task.pid)) else { continue };
            let same = *of_id.entry(id).or_insert(thread.table) == thread.table;
            let alone = *of_table.entry(thread.table).or_insert(id) == id;
            if !same || !alone {
                self.found
                    .push(format!("task {}: its table is shared with others than the images say", task.pid));
            }
        }
    }

    fn description(&mut self, place: &str, desc: DescId, ofd: OfdId) {
        let known = *self.ofds.entry(ofd).or_insert(desc) == desc;
        let alone = *self.descs.entry(desc).or_insert(ofd) == ofd;
        if !known || !alone {
            self.found.push(format!("{place} it shares its description with others than the images say"));
            return;
        }
        let (Some(is), Some(want)) = (self.end.descriptions.get(&desc), self.expected.ofds.get(ofd.index()))
        else {
            self.found.push(format!("{place} it refers to nothing"));
            return;
        };
        let fixed = |flags: u32| flags & !NOT_COMPARED;
        self.check(|| format!("{place} its flags are"), fixed(is.flags), fixed(want.flags));
        let owner = |pid, pid_type, signal| (pid, if pid == 0 { 0 } else { pid_type }, signal);
        let owned = owner(is.owner.pid, is.owner.pid_type, is.owner.signal);
        let wanted = owner(want.owner.pid, want.owner.pid_type, want.owner.signal);
        self.check(|| format!("{place} its owner is"), owned, wanted);
        if let Some(object) = self.end.objects.get(&is.object) {
            self.object(place, &is.object, object, is.position, want);
        }
    }

    /// A thing of the end is a thing of the images, and the same everywhere.
    fn is_thing(&mut self, place: &str, id: &ObjectId, key: Key) -> bool {
        let is_new = !self.things.contains_key(&key);
        let known = self.things.entry(key).or_insert(id.clone()) == id;
        let alone = self.things.iter().all(|(other, thing)| thing != id || *other == key);
        if !known || !alone {
            self.found.push(format!("{place} it shows another {key:?} than the images say"));
        }
        is_new
    }

    fn object(&mut self, place: &str, id: &ObjectId, object: &Object, position: u64, want: &ExpectedOfd) {
        match (object, &want.spec) {
            (Object::File(_), OfdSpec::Path { path, position: wanted }) => {
                let is = match id {
                    ObjectId::Host(path) => path.to_vec(),
                    ObjectId::Made(_) => Vec::new(),
                };
                self.check(|| format!("{place} its path is"), is, path.clone());
                self.check(|| format!("{place} its position is"), Some(position), wanted.or(Some(position)));
            }
            (Object::Pipe(pipe), OfdSpec::Pipe { pipe: number }) => {
                self.is_thing(place, id, Key::Pipe(*number));
                let want = self.expected.pipes.get(number).cloned().unwrap_or_default();
                self.check(|| format!("{place} the pipe holds"), pipe.data(), want.data);
                let capacity = want.capacity.unwrap_or(self.expected.facts.pipe_bytes);
                self.check(|| format!("{place} the pipe's capacity is"), pipe.capacity, capacity);
            }
            (Object::Pipe(pipe), OfdSpec::Fifo { fifo, .. }) => {
                self.is_thing(place, id, Key::Fifo(*fifo));
                let want = self.expected.fifos.get(fifo).cloned().unwrap_or_default();
                self.check(|| format!("{place} the FIFO holds"), pipe.data(), want.data);
            }
            (Object::Socket(socket), OfdSpec::Socket(want)) => {
                if self.is_thing(place, id, Key::Socket(want.socket)) {
                    self.socket(place, socket, want);
                }
            }
            (
                Object::Eventfd { counter, semaphore },
                OfdSpec::Eventfd { counter: count, semaphore: is_one },
            ) => {
                self.check(|| format!("{place} the counter is"), (*counter, *semaphore), (*count, *is_one));
            }
            (Object::Epoll { interests }, OfdSpec::Epoll { interests: wanted }) => {
                let is: BTreeSet<_> = interests.iter().map(|((fd, _), how)| (*fd, how.0, how.1)).collect();
                let wanted_set: BTreeSet<_> =
                    wanted.iter().map(|one| (one.fd, one.events | 24, one.data)).collect();
                self.check(|| format!("{place} it watches"), is, wanted_set);
                for one in wanted {
                    let desc = interests.keys().find(|(fd, desc)| {
                        *fd == one.fd && self.ofds.get(&one.ofd).is_none_or(|other| other == desc)
                    });
                    if let Some((_, desc)) = desc {
                        self.description(&format!("{place} what it watches as {}:", one.fd), *desc, one.ofd);
                    } else {
                        self.found.push(format!("{place} it watches something else as {}", one.fd));
                    }
                }
            }
            (Object::Timerfd { clock, timer }, OfdSpec::Timerfd { clock: wanted, timer: set }) => {
                let is = (*clock, timer.flags, timer.value_ns, timer.interval_ns, timer.ticks);
                let wanted = (*wanted, set.flags, set.value_ns, set.interval_ns, set.ticks);
                self.check(|| format!("{place} the timer is"), is, wanted);
            }
            (Object::Signalfd { mask }, OfdSpec::Signalfd { mask: wanted }) => {
                self.check(|| format!("{place} the signals are"), *mask, *wanted);
            }
            (Object::File(file), OfdSpec::Inode { inode, position: wanted, .. }) => {
                self.check(|| format!("{place} its position is"), Some(position), wanted.or(Some(position)));
                let Some(want) = self.expected.inodes.get(inode) else { return };
                if file.kind == FileKind::Regular || file.kind == FileKind::Memfd {
                    self.check(|| format!("{place} its size is"), file.size, Some(want.size));
                    self.check(|| format!("{place} its seals are"), file.seals, want.seals);
                    let owner = file.meta.owner.unwrap_or(want.owner);
                    self.check(|| format!("{place} its owner is"), owner, want.owner);
                    let mode = want.mode.map(|mode| mode & 0o7777);
                    self.check(|| format!("{place} its mode is"), file.meta.mode.or(mode), mode);
                }
            }
            (object, spec) => self.found.push(format!("{place} is {object:?}, the images say {spec:?}")),
        }
    }

    fn socket(&mut self, place: &str, socket: &Socket, want: &SocketSpec) {
        let kind = (socket.family, socket.sock_type, socket.protocol);
        self.check(|| format!("{place} its kind is"), kind, (want.family, want.sock_type, want.protocol));
        self.check(|| format!("{place} shut down is"), socket.shutdown, want.shutdown);
        let backlog = (socket.backlog, socket.waiting.len());
        self.check(|| format!("{place} its queue of connections is"), backlog, (want.backlog, want.waiting));
        let name = socket.name.as_ref().map(|name| name.to_vec());
        self.check(|| format!("{place} its name is"), name, want.name.clone());
        let peer = socket.peer.as_ref();
        let is_right = match &want.peer {
            SocketPeer::None => peer.is_none_or(|peer| *peer == GONE),
            SocketPeer::Closed => peer == Some(&GONE),
            SocketPeer::Socket(number) => match peer.cloned() {
                Some(peer) => {
                    self.is_thing(&format!("{place} its peer:"), &peer, Key::Socket(*number));
                    true
                }
                None => false,
            },
            SocketPeer::Listener(_) => peer.is_some_and(|peer| *peer != GONE),
            SocketPeer::Address(address) => socket.dest.as_deref() == Some(address.as_slice()),
        };
        if !is_right {
            self.found.push(format!("{place} its peer is {peer:?}, the images say {:?}", want.peer));
        }
        let is: Vec<u8> = socket.queue.iter().flat_map(|message| &message.data).copied().collect();
        let wanted: Vec<u8> = want.queue.iter().flat_map(|packet| &packet.data).copied().collect();
        self.check(|| format!("{place} it holds"), is, wanted);
        let rights: Vec<DescId> = socket.queue.iter().flat_map(|message| &message.rights).copied().collect();
        let wanted: Vec<OfdId> = want.queue.iter().flat_map(|packet| &packet.rights).copied().collect();
        self.check(|| format!("{place} descriptors in flight are"), rights.len(), wanted.len());
        for (desc, ofd) in rights.into_iter().zip(wanted) {
            self.description(&format!("{place} in flight:"), desc, ofd);
        }
        for (option, value) in &want.options {
            let is = socket.options.get(option).copied();
            // What was never set has the kernel's default.
            if is.is_some() {
                self.check(|| format!("{place} {option:?} is"), is, Some(*value));
            }
        }
    }

    fn attributes(&mut self, task: &ExpectedTask) {
        for (tid, wanted) in &task.attributes {
            for (kind, value) in wanted {
                if let Some(is) = self.attribute(*tid, *kind) {
                    self.check(|| format!("task {}, thread {tid}: {kind:?} is", task.pid), is, value.clone());
                }
            }
        }
    }

    /// What the model knows of an attribute; `None`: nothing that could be compared.
    fn attribute(&self, tid: u32, kind: AttributeKind) -> Option<Value> {
        let thread = self.end.threads.get(&tid)?;
        let process = self.end.processes.get(&thread.process)?;
        let space = self.end.spaces.get(&process.space)?;
        let directory = self.end.directories.get(&thread.directory)?;
        let own = &thread.attributes;
        let credentials = &thread.credentials;
        let number = |number: u32| Some(Value::Number(number.into()));
        let bytes =
            |bytes: &Option<std::sync::Arc<[u8]>>| bytes.as_ref().map(|bytes| Value::Bytes(bytes.clone()));
        use AttributeKind as Kind;
        match kind {
            Kind::Umask => directory.umask.map(|umask| Value::Number(umask.into())),
            Kind::WorkingDirectory if directory.object.is_none() => bytes(&directory.working),
            Kind::RootDirectory => bytes(&directory.root),
            Kind::Dumpable => Some(Value::Number(space.dumpable)),
            Kind::Subreaper => Some(Value::Number(process.is_subreaper.into())),
            Kind::ThpDisable => Some(Value::Number(space.thp_disabled.into())),
            Kind::Name => bytes(&own.name),
            Kind::Personality => own.personality.map(|value| Value::Number(value.into())),
            Kind::ParentDeathSignal => Some(Value::Number(own.parent_death_signal)),
            Kind::Nice => own.nice.map(Value::signed),
            Kind::Uid => number(credentials.uids[0]),
            Kind::EffectiveUid => number(credentials.uids[1]),
            Kind::SavedUid => number(credentials.uids[2]),
            Kind::FsUid => number(credentials.fsuid),
            Kind::Gid => number(credentials.gids[0]),
            Kind::EffectiveGid => number(credentials.gids[1]),
            Kind::SavedGid => number(credentials.gids[2]),
            Kind::FsGid => number(credentials.fsgid),
            Kind::CapEffective => Some(Value::Number(credentials.effective)),
            Kind::CapPermitted => Some(Value::Number(credentials.permitted)),
            Kind::CapInheritable => Some(Value::Number(credentials.inheritable)),
            Kind::CapBounding => Some(Value::Number(credentials.bounding)),
            Kind::CapAmbient => Some(Value::Number(credentials.ambient)),
            Kind::NoNewPrivs => Some(Value::Number(credentials.no_new_privs.into())),
            Kind::MmLayout => Some(Value::numbers(&space.layout.words)),
            Kind::AuxiliaryVector => Some(Value::bytes(&space.layout.auxv)),
            Kind::WorkingDirectory
            | Kind::SigActions
            | Kind::Membarrier
            | Kind::IntervalTimers
            | Kind::PosixTimers
            | Kind::TimerIds
            | Kind::PendingShared
            | Kind::Limits
            | Kind::OomScoreAdj
            | Kind::Cgroups
            | Kind::Executable
            | Kind::TimerSlack
            | Kind::DefaultTimerSlack
            | Kind::SigMask
            | Kind::AltStack
            | Kind::RobustList
            | Kind::TidAddress
            | Kind::Rseq
            | Kind::Pending
            | Kind::Scheduler
            | Kind::LoginUid
            | Kind::Groups
            | Kind::Securebits
            | Kind::KeepCaps
            | Kind::Seccomp => None,
        }
    }
}
