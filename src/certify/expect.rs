//! What the images say, for the checker: from the model itself, not from what `resolve` makes of it.

mod socket;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rayon::prelude::*;
use regrow_graph::ids::OfdId;
use regrow_graph::verify::{
    Content, Counterexample, Cradle as Birthplace, Expected, ExpectedFilter, ExpectedInode, ExpectedOfd,
    ExpectedPacket, ExpectedPipe, ExpectedSeccomp, ExpectedTask, Facts, InodeId, InodeKind, Interest, Life,
    OfdSpec, Owner, Slot, TimerSpec, Wrong,
};
use serde::{Deserialize, Serialize};

use super::commit::{self, ExpectedThread};
use super::{AlikePages, Ground, attributes, ipc, space, vdso};
use crate::image::huge::of_memfd;
use crate::image::{
    Blob, Blobs, Epoll, FdEntry, Fifo, Fown, Image, Model, Ofd, OfdKind, RegFile, Shm, Table, Task,
    TaskState, Timerfd, UnixSocket,
};
use crate::tape::Cgroup;
use socket::{inet_socket, socket, unix_path};

/// The bit of O_TMPFILE that is not O_DIRECTORY.
const O_TMPFILE_BIT: u32 = 0o20_000_000;

/// All that tapes and commit are judged by: made once from the model, on a ground. From then on neither the
/// images nor what made the plan is needed to certify it, now or from a stored plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demands {
    /// For the checker. Absolute deadlines are counted from the restore here.
    pub expected: Expected,
    /// Which timers of `expected` have such a deadline.
    pub deadlines: Vec<Deadline>,
    /// What the images say of the clocks.
    pub clocks: DumpedClocks,
    /// What the commit must set.
    pub threads: Vec<ExpectedThread>,
    /// Cgroups that are made where they are missing.
    pub cgroups: Vec<Cgroup>,
    /// Stored pages that were found to be alike, so that they are not compared once more; what is not here
    /// is compared when a plan asks for it.
    pub alike: AlikePages,
}

/// A timerfd whose deadline is a time of its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    /// The description.
    pub ofd: OfdId,
    /// `CLOCK_*`.
    pub clock: u32,
}

/// CLOCK_MONOTONIC and CLOCK_BOOTTIME of the tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpedClocks {
    /// It had a time namespace of its own.
    pub are_own: bool,
    /// What they were at the dump, in nanoseconds; `None`: the images do not say.
    pub dumped_ns: Option<[u64; 2]>,
}

impl Demands {
    /// From the images.
    ///
    /// # Errors
    /// What a pipe or a socket holds cannot be read, or the images contradict themselves.
    pub fn of(model: &Model, ground: &Ground) -> Result<Demands, Counterexample> {
        let expected = expected(model, ground)?;
        let nanoseconds =
            |(seconds, rest): (u64, u64)| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        let is_absolute = |(index, ofd): (usize, &Ofd)| match &ofd.kind {
            OfdKind::Timerfd(timer) if timer.settime_flags & libc::TFD_TIMER_ABSTIME as u32 != 0 => {
                Some(Deadline { ofd: OfdId::new(index), clock: timer.clock_id })
            }
            _ => None,
        };
        let ends =
            expected.tasks.iter().flat_map(|task| task.attributes.values().flatten()).map(|(_, end)| end);
        let cgroups = ground
            .cgroups
            .to_be_made(model, ends)
            .map_err(|what| unusable(model.tasks.first().map_or(0, |task| task.pid.0), what))?;
        Ok(Demands {
            cgroups,
            expected,
            deadlines: model.ofds.iter().enumerate().filter_map(is_absolute).collect(),
            clocks: DumpedClocks {
                are_own: model.is_in_own_time_ns(),
                dumped_ns: model
                    .clocks_of_tree()
                    .map(|clocks| [clocks.monotonic, clocks.boottime].map(nanoseconds)),
            },
            threads: commit::expected(model),
            alike: AlikePages::default(),
        })
    }

    /// What is expected of tapes that are played now; `clocks_ns`: CLOCK_MONOTONIC and CLOCK_BOOTTIME of the
    /// tree, where they are not the host's.
    pub(super) fn expected_now(&self, clocks_ns: Option<[u64; 2]>) -> Cow<'_, Expected> {
        if self.deadlines.is_empty() {
            return Cow::Borrowed(&self.expected);
        }
        let mut expected = self.expected.clone();
        for deadline in &self.deadlines {
            let now_ns = now_ns(deadline.clock, &expected.facts, clocks_ns);
            let Some(ofd) = expected.ofds.get_mut(deadline.ofd.index()) else { continue };
            let OfdSpec::Timerfd { timer, .. } = &mut ofd.spec else { continue };
            match now_ns {
                _ if timer.value_ns == 0 => {}
                Some(now_ns) => timer.value_ns = now_ns.saturating_add(timer.value_ns),
                None => {
                    let what = "a timerfd of a clock that could not be read";
                    ofd.spec = OfdSpec::Unmodelled(what.to_owned());
                }
            }
        }
        Cow::Owned(expected)
    }
}

/// What a clock of a timerfd says to the tree (timerfd_create(2)).
pub(crate) fn now_ns(clock: u32, facts: &Facts, clocks_ns: Option<[u64; 2]>) -> Option<u64> {
    let own = |at: usize| clocks_ns.map(|clocks| clocks[at]);
    match clock as i32 {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM => facts.clocks_ns[0],
        libc::CLOCK_MONOTONIC => own(0).or(facts.clocks_ns[1]),
        libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => own(1).or(facts.clocks_ns[2]),
        _ => None,
    }
}

/// What the images say, for the checker. Absolute deadlines of timers are counted from the restore.
///
/// # Errors
/// What a pipe or a socket holds cannot be read.
pub fn expected(model: &Model, ground: &Ground) -> Result<Expected, Counterexample> {
    let Ground { cradle, facts, inherited, .. } = ground;
    let running = ground.vdso.as_ref().map(vdso::Running::of);
    let (cradle, facts) = (*cradle, *facts);
    let moved = |id: u32, to: &[Option<(u32, u32)>]| {
        to.iter().flatten().find(|(old, _)| *old == id).map_or(id, |(_, new)| *new)
    };
    let index_of: HashMap<u32, OfdId> =
        model.ofds.iter().enumerate().map(|(index, ofd)| (ofd.id, OfdId::new(index))).collect();
    // Most tasks have the same tables. Where one names what is not there, the task that has it says so.
    let slot = |entry: &FdEntry| {
        Some(Slot { fd: entry.fd, ofd: *index_of.get(&entry.ofd_id)?, cloexec: entry.cloexec })
    };
    let table = |table: &Table| {
        let mut slots = table.iter().map(slot).collect::<Option<Vec<Slot>>>()?;
        slots.sort_by_key(|slot| slot.fd);
        Some((table.identity(), slots))
    };
    let tables: HashMap<usize, Vec<Slot>> = model.tables().filter_map(table).collect();
    let wanted_of = |task: &Task| {
        let life = match &task.state {
            TaskState::Alive(_) | TaskState::Stopped(_) => Life::Alive,
            TaskState::Zombie { exit_code, .. } => Life::Zombie { status: *exit_code },
        };
        let mut wanted = ExpectedTask {
            pid: task.pid.0,
            ppid: task.ppid.0,
            sid: moved(task.sid.0, &[cradle.sid]),
            // The group that the session's leader leads has its number.
            pgid: moved(task.pgid.0, &[cradle.pgid, cradle.sid]),
            life,
            ..ExpectedTask::default()
        };
        if let Some(alive) = task.alive() {
            wanted.vdso =
                running.as_ref().and_then(|running| running.expected(alive, ground.vdsos.get(&task.pid)));
            wanted.threads = alive.threads.iter().skip(1).map(|thread| thread.tid.0).collect();
            let space = space::expected(model, alive, &index_of);
            wanted.space = Some(Box::new(space.map_err(|what| unusable(task.pid.0, what))?));
            wanted.table_id = Some(alive.ids.files).filter(|id| *id != 0);
            if let Some(table) = tables.get(&alive.fds.identity()) {
                wanted.table = table.clone();
            } else if let Some(entry) = alive.fds.iter().find(|entry| slot(entry).is_none()) {
                return Err(unusable(
                    task.pid.0,
                    format!("descriptor {}: file {:#x} is not in files.img", entry.fd, entry.ofd_id),
                ));
            }
        }
        Ok(wanted)
    };
    // All are made, on all processors; of several errors the first counts.
    let tasks: Vec<Result<ExpectedTask, Counterexample>> = model.tasks.par_iter().map(wanted_of).collect();
    let mut tasks = tasks.into_iter().collect::<Result<Vec<ExpectedTask>, Counterexample>>()?;
    let root = tasks.first().map_or(0, |task| task.pid);
    let blobs = Blobs::of(model);
    let read = |blob: &Blob| blobs.read(blob).map_err(|error| unusable(root, error.to_string()));

    let mut pipes = BTreeMap::new();
    for pipe in &model.pipe_data {
        pipes.insert(pipe.pipe_id, ExpectedPipe { capacity: pipe.capacity_bytes, data: read(&pipe.data)? });
    }
    let mut fifos = BTreeMap::new();
    for fifo in &model.fifo_data {
        fifos.insert(fifo.pipe_id, ExpectedPipe { capacity: fifo.capacity_bytes, data: read(&fifo.data)? });
    }
    let mut queues: BTreeMap<u32, Vec<ExpectedPacket>> = BTreeMap::new();
    let mut strange: BTreeMap<u32, &'static str> = BTreeMap::new();
    for packet in &model.packets {
        let rights: Option<Vec<OfdId>> = packet.rights.iter().map(|id| index_of.get(id).copied()).collect();
        if packet.control_messages as usize > packet.rights.len() || rights.is_none() {
            strange.insert(packet.id_for, "control messages in its queue");
        }
        let packet_data = ExpectedPacket { data: read(&packet.data)?, rights: rights.unwrap_or_default() };
        queues.entry(packet.id_for).or_default().push(packet_data);
    }
    let mut ghost_of: BTreeMap<u32, InodeId> = BTreeMap::new();
    for remap in &model.remaps {
        match remap.remap_type {
            0 => {
                ghost_of.insert(remap.orig_id, InodeId::Linked(remap.remap_id));
            }
            1 => {
                ghost_of.insert(remap.orig_id, InodeId::Ghost(remap.remap_id));
            }
            _ => {
                strange.insert(remap.orig_id, "its process is gone");
            }
        }
    }
    let inodes = inodes(model, &ghost_of);
    let remapped: BTreeSet<u32> = model.remaps.iter().map(|remap| remap.orig_id).collect();
    let images = attributes::Images {
        model,
        index_of: &index_of,
        ghost_of: &ghost_of,
        remapped: &remapped,
        inherited,
        cgroups: &ground.cgroups,
    };
    let attributes: Vec<_> = model.tasks.par_iter().map(|task| images.attributes(task)).collect();
    for ((wanted, task), attributes) in tasks.iter_mut().zip(&model.tasks).zip(attributes) {
        wanted.attributes = attributes.map_err(|what| unusable(task.pid.0, what))?;
    }

    let sockets: BTreeMap<u32, (OfdId, &UnixSocket)> = model
        .ofds
        .iter()
        .enumerate()
        .filter_map(|(index, ofd)| match &ofd.kind {
            OfdKind::Unix(socket) => Some((socket.inode, (OfdId::new(index), &**socket))),
            _ => None,
        })
        .collect();
    let mut connected = HashMap::new();
    for (_, socket) in sockets.values() {
        *connected.entry(socket.peer).or_default() += 1;
    }
    let context = Context {
        connected,
        model,
        index_of: &index_of,
        tasks: &tasks,
        sockets: &sockets,
        flights: Flights::of(model, &index_of, &tasks),
    };
    let ofds = model
        .ofds
        .iter()
        .map(|ofd| {
            let mut wanted = context.expected_ofd(ofd, queues.remove(&ofd.id).unwrap_or_default());
            if let (Some(inode), OfdKind::Reg(file)) = (ghost_of.get(&ofd.id), &ofd.kind) {
                if inodes.contains_key(inode) && !file.is_external {
                    let is_first = inodes.get(inode).is_some_and(|inode| inode.name == file.path.as_bytes());
                    let alias = (!is_first).then(|| file.path.as_bytes().to_vec());
                    wanted.spec = OfdSpec::Inode { inode: *inode, alias, position: position(file) };
                    // The flag of a file that was made without a name, which no other way leaves.
                    if file.flags & O_TMPFILE_BIT != 0 {
                        wanted.flags &= !(libc::O_TMPFILE as u32);
                    }
                } else {
                    wanted.spec = OfdSpec::Unmodelled("an unlinked file of this kind".to_owned());
                }
            }
            let path_id = if let OfdKind::Fifo(fifo) = &ofd.kind { fifo.reg_id } else { ofd.id };
            if let (Some(id), OfdSpec::Fifo { inode, .. }) = (ghost_of.get(&path_id), &mut wanted.spec) {
                *inode = Some(*id);
            }
            if let Some(what) = strange.get(&path_id) {
                wanted.spec = OfdSpec::Unmodelled((*what).to_owned());
            }
            wanted
        })
        .collect();
    let paths = model.ofds.iter().filter_map(|ofd| match &ofd.kind {
        OfdKind::Reg(file) => Some(file.path.as_bytes()),
        _ => None,
    });
    let paths: HashSet<&[u8]> = paths.collect();
    Ok(Expected {
        tasks,
        ofds,
        pipes,
        fifos,
        cradle: Birthplace {
            sid: cradle.sid.map_or(0, |(_, new)| new),
            pgid: cradle.pgid.map_or(0, |(_, new)| new),
        },
        paths: paths.into_iter().map(<[u8]>::to_vec).collect(),
        socket_paths: sockets.values().filter_map(|(_, socket)| unix_path(socket)).collect::<BTreeSet<_>>(),
        images: std::iter::once(&model.dir)
            .chain(&model.parents)
            .map(|dir| dir.as_os_str().as_bytes().to_vec())
            .collect(),
        facts,
        inodes,
        inherited: inherited.0.clone(),
        segments: space::segments(model),
        ipc: ipc::expected(model, &|blob| blobs.read(blob))
            .map_err(|error| unusable(root, error.to_string()))?,
        hierarchies: ground.cgroups.needed(model),
        seccomp: seccomp(model),
    })
}

/// seccomp of every thread that has any. Filters with TSYNC are those of all threads of their task.
fn seccomp(model: &Model) -> BTreeMap<u32, ExpectedSeccomp> {
    const TSYNC: u32 = libc::SECCOMP_FILTER_FLAG_TSYNC as u32;
    const LOG: u32 = libc::SECCOMP_FILTER_FLAG_LOG as u32;
    let filters = &model.seccomp_filters;
    let mut all = BTreeMap::new();
    for alive in model.tasks.iter().filter_map(|task| task.alive()) {
        let mut is_shared = false;
        for thread in &alive.threads {
            let first = thread.seccomp_filter.and_then(|index| filters.get(index as usize));
            let chain = std::iter::successors(first, |filter| filters.get(filter.next? as usize));
            let wanted = match thread.seccomp_mode {
                0 if is_shared => ExpectedSeccomp::OfFirst,
                0 => continue,
                1 => ExpectedSeccomp::Strict,
                // No chain is longer than all filters: the reader has seen to it that each ends.
                _ => ExpectedSeccomp::Filters(
                    chain
                        .take(filters.len())
                        .map(|filter| ExpectedFilter {
                            program: filter.program.clone(),
                            logs: filter.flags & LOG != 0,
                        })
                        .collect(),
                ),
            };
            is_shared |= first.is_some_and(|filter| filter.flags & TSYNC != 0);
            all.insert(thread.tid.0, wanted);
        }
    }
    all
}

/// Unlinked files, each by the name that it had, and memfds.
fn inodes(model: &Model, ghost_of: &BTreeMap<u32, InodeId>) -> BTreeMap<InodeId, ExpectedInode> {
    let image = |image: Image| model.path(image).into_os_string().into_vec();
    let mut names: BTreeMap<InodeId, BTreeSet<&str>> = BTreeMap::new();
    for ofd in &model.ofds {
        if let (Some(id), OfdKind::Reg(file)) = (ghost_of.get(&ofd.id), &ofd.kind) {
            names.entry(*id).or_default().insert(&file.path);
        }
    }
    // It is made under the first of its names, in their order: so messages and descriptions name it.
    let names = |id: InodeId| -> Option<(Vec<u8>, BTreeSet<Vec<u8>>)> {
        let mut paths = names.get(&id)?.iter().map(|path| path.as_bytes().to_vec());
        Some((paths.next()?, paths.collect()))
    };
    let mut inodes = BTreeMap::new();
    for ghost in &model.ghosts {
        let id = InodeId::Ghost(ghost.id);
        let kind = match ghost.mode & libc::S_IFMT {
            libc::S_IFREG => InodeKind::File,
            libc::S_IFDIR => InodeKind::Directory,
            libc::S_IFIFO => InodeKind::Fifo,
            _ => continue,
        };
        let Some((name, further)) = names(id) else { continue };
        let mut content = Content::default();
        for piece in &ghost.pieces {
            content.push(
                piece.at,
                &image(Image::GhostFile(ghost.id)),
                piece.data.offset_bytes,
                piece.data.len_bytes,
            );
        }
        let inode = ExpectedInode {
            kind,
            name,
            further,
            source: Vec::new(),
            size: ghost.size_bytes,
            mode: Some(ghost.mode & 0o7777),
            owner: (ghost.uid, ghost.gid),
            times: ghost.times,
            seals: 0,
            content,
            huge: 0,
        };
        inodes.insert(id, inode);
    }
    let mut stored: BTreeMap<u64, Vec<&Shm>> = BTreeMap::new();
    for shm in &model.shm {
        stored.entry(shm.shmid).or_default().push(shm);
    }
    for memfd in &model.memfds {
        let mut content = Content::default();
        for shm in stored.get(&memfd.shmid).into_iter().flatten() {
            for extent in &shm.pages.extents {
                let rest = memfd.size_bytes.saturating_sub(extent.start);
                content.push(
                    extent.start,
                    &image(Image::Pages(extent.image)),
                    extent.offset_bytes,
                    rest.min(extent.len_pages.saturating_mul(4096)),
                );
            }
        }
        let inode = ExpectedInode {
            kind: InodeKind::Memfd,
            name: memfd.name.as_bytes().to_vec(),
            further: BTreeSet::new(),
            source: Vec::new(),
            size: memfd.size_bytes,
            mode: memfd.mode.map(|mode| mode & 0o7777),
            owner: (memfd.uid, memfd.gid),
            times: None,
            seals: memfd.seals,
            content,
            huge: of_memfd(memfd.hugetlb_flag),
        };
        inodes.insert(InodeId::Memfd(memfd.inode_id), inode);
    }
    for ofd in &model.ofds {
        let (id, OfdKind::Reg(file)) = (InodeId::Linked(ofd.id), &ofd.kind) else { continue };
        if let Some((name, further)) = names(id) {
            let source = file.path.as_bytes().to_vec();
            let inode =
                ExpectedInode { kind: InodeKind::Linked, name, further, source, ..ExpectedInode::default() };
            inodes.insert(id, inode);
        }
    }
    inodes
}

fn unusable(task: u32, what: String) -> Counterexample {
    Counterexample { task, record: None, wrong: Wrong::Images { what } }
}

/// What is looked up for a description.
struct Context<'a> {
    model: &'a Model,
    index_of: &'a HashMap<u32, OfdId>,
    tasks: &'a [ExpectedTask],
    sockets: &'a BTreeMap<u32, (OfdId, &'a UnixSocket)>,
    /// How many sockets have each as their peer.
    connected: HashMap<u32, usize>,
    flights: Flights,
}

/// Who has the epoll files and what they may be in flight in, and in which packet each description is.
#[derive(Default)]
struct Flights {
    /// By their indices, in order.
    holders: BTreeMap<OfdId, Vec<usize>>,
    /// The socket that it is in flight to. Of several the last in the image counts, as it does for who sends.
    carriers: BTreeMap<OfdId, Option<OfdId>>,
}

impl Flights {
    fn of(model: &Model, index_of: &HashMap<u32, OfdId>, tasks: &[ExpectedTask]) -> Flights {
        let mut flights = Flights::default();
        for (index, ofd) in model.ofds.iter().enumerate() {
            if matches!(ofd.kind, OfdKind::Epoll(_)) {
                flights.holders.insert(OfdId::new(index), Vec::new());
            }
        }
        if flights.holders.is_empty() {
            return flights;
        }
        for packet in &model.packets {
            let socket = index_of.get(&packet.id_for).copied();
            flights.holders.extend(socket.map(|socket| (socket, Vec::new())));
            let rights = packet.rights.iter().filter_map(|right| index_of.get(right).copied());
            flights.carriers.extend(rights.map(|right| (right, socket)));
        }
        for (index, task) in tasks.iter().enumerate() {
            for slot in &task.table {
                if let Some(holders) = flights.holders.get_mut(&slot.ofd)
                    && holders.last() != Some(&index)
                {
                    holders.push(index);
                }
            }
        }
        flights
    }

    fn holders(&self, ofd: OfdId) -> &[usize] {
        self.holders.get(&ofd).map_or(&[], Vec::as_slice)
    }
}

impl Context<'_> {
    fn expected_ofd(&self, ofd: &Ofd, queue: Vec<ExpectedPacket>) -> ExpectedOfd {
        let sockets = self.sockets;
        let id = ofd.id;
        let (name, spec, flags, fown) = match &ofd.kind {
            OfdKind::Reg(file) => {
                (format!("file {id:#x} ({})", file.path), path(file), file.flags, file.fown)
            }
            OfdKind::Pipe(pipe) => {
                let end = match (pipe.flags as i32) & libc::O_ACCMODE {
                    libc::O_RDONLY => "reading end",
                    libc::O_WRONLY => "writing end",
                    _ => "reading and writing end",
                };
                (
                    format!("file {id:#x} (pipe {:#x}, {end})", pipe.pipe_id),
                    OfdSpec::Pipe { pipe: pipe.pipe_id },
                    pipe.flags,
                    pipe.fown,
                )
            }
            OfdKind::Eventfd(eventfd) => {
                // EFD_SEMAPHORE is not among the flags of the images (criu/eventfd.c stores F_GETFL).
                let spec = OfdSpec::Eventfd { counter: eventfd.counter, semaphore: false };
                (format!("file {id:#x} (eventfd)"), spec, eventfd.flags, eventfd.fown)
            }
            OfdKind::Unix(unix) => {
                let connected = self.connected.get(&unix.inode).copied().unwrap_or(0);
                let spec = socket(unix, sockets, connected, queue);
                (format!("file {id:#x} (unix socket {:#x})", unix.inode), spec, unix.flags, unix.fown)
            }
            OfdKind::Inet(inet) => {
                let spec = inet_socket(inet);
                (format!("file {id:#x} (internet socket {:#x})", inet.inode), spec, inet.flags, inet.fown)
            }
            OfdKind::Memfd(memfd) => {
                let inode = InodeId::Memfd(memfd.inode_id);
                let spec = OfdSpec::Inode { inode, alias: None, position: Some(memfd.position) };
                (format!("file {id:#x} (memfd {})", memfd.inode_id), spec, memfd.flags, memfd.fown)
            }
            OfdKind::Epoll(epoll) => {
                let spec = self.epoll(id, epoll);
                (format!("file {id:#x} (epoll)"), spec, epoll.flags, epoll.fown)
            }
            OfdKind::Timerfd(timerfd) => {
                let spec = timer(timerfd);
                (format!("file {id:#x} (timerfd)"), spec, timerfd.flags, timerfd.fown)
            }
            OfdKind::Signalfd(signalfd) => {
                // SIGKILL and SIGSTOP are never among them.
                let spec = OfdSpec::Signalfd { mask: signalfd.mask };
                (format!("file {id:#x} (signalfd)"), spec, signalfd.flags, signalfd.fown)
            }
            OfdKind::Fifo(fifo) => match self.fifo(fifo) {
                Some(file) => {
                    let spec = OfdSpec::Fifo {
                        fifo: fifo.pipe_id,
                        path: file.path.as_bytes().to_vec(),
                        inode: None,
                    };
                    (format!("file {id:#x} (FIFO {})", file.path), spec, file.flags, file.fown)
                }
                None => {
                    let spec = OfdSpec::Unmodelled("a FIFO without a path".to_owned());
                    (format!("file {id:#x} (FIFO {:#x})", fifo.pipe_id), spec, 0, Fown::default())
                }
            },
            OfdKind::Other(kind) => (
                format!("file {id:#x} ({kind})"),
                OfdSpec::Unmodelled(format!("a file of kind {kind}")),
                0,
                Fown::default(),
            ),
        };
        let owner = Owner {
            pid_type: fown.pid_type,
            pid: fown.pid,
            uids: [fown.uid, fown.euid],
            signal: fown.signum,
        };
        ExpectedOfd { name, spec, flags, owner }
    }

    /// The path of a FIFO: not external, not another one's.
    fn fifo(&self, fifo: &Fifo) -> Option<&RegFile> {
        match &self.model.ofds[self.index_of.get(&fifo.reg_id)?.index()].kind {
            OfdKind::Reg(file) if !file.is_external => Some(file),
            _ => None,
        }
    }

    /// The numbers of the images are those of the first task that has the epoll file, and the files at
    /// them.
    fn epoll(&self, id: u32, epoll: &Epoll) -> OfdSpec {
        let Some(own) = self.index_of.get(&id) else {
            return OfdSpec::Unmodelled("an epoll file without an id".to_owned());
        };
        // Where nobody has it open, what it is in flight in counts, and so on.
        let mut through = *own;
        for _ in 0..self.model.packets.len() {
            if !self.flights.holders(through).is_empty() {
                break;
            }
            match self.flights.carriers.get(&through).copied().flatten() {
                Some(next) => through = next,
                None => break,
            }
        }
        let mut holders = self.flights.holders(through).iter().map(|task| &self.tasks[*task]);
        let targets = |task: &ExpectedTask| -> Option<Vec<Interest>> {
            let slot = |fd: u32| {
                let at = task.table.binary_search_by_key(&fd, |slot| slot.fd).ok()?;
                Some(task.table[at].ofd)
            };
            let interest = |interest: &crate::image::Interest| {
                let ofd = slot(interest.fd)?;
                let inode = match &self.model.ofds.get(ofd.index())?.kind {
                    OfdKind::Pipe(pipe) => Some(pipe.pipe_id),
                    OfdKind::Fifo(fifo) => Some(fifo.pipe_id),
                    OfdKind::Unix(unix) => Some(unix.inode),
                    _ => None,
                };
                if inode.zip(interest.inode).is_some_and(|(is, wanted)| is != wanted as u32) {
                    return None;
                }
                Some(Interest { fd: interest.fd, ofd, events: interest.events, data: interest.data })
            };
            epoll.interests.iter().map(interest).collect()
        };
        match holders.find_map(targets) {
            Some(interests) => OfdSpec::Epoll { interests },
            None if epoll.interests.is_empty() => OfdSpec::Epoll { interests: Vec::new() },
            None => {
                OfdSpec::Unmodelled("an epoll file that watches what no task has at that number".to_owned())
            }
        }
    }
}

/// How a timer must be set, and one period from then where the last has expired.
fn timer(timerfd: &Timerfd) -> OfdSpec {
    let expired = timerfd.value_ns == 0 && timerfd.ticks > 0;
    let timer = TimerSpec {
        flags: timerfd.settime_flags,
        value_ns: if expired { timerfd.interval_ns } else { timerfd.value_ns },
        interval_ns: timerfd.interval_ns,
        ticks: timerfd.ticks,
    };
    OfdSpec::Timerfd { clock: timerfd.clock_id, timer }
}

fn path(file: &RegFile) -> OfdSpec {
    if file.is_external {
        return OfdSpec::Unmodelled("an external file".to_owned());
    }
    OfdSpec::Path { path: file.path.as_bytes().to_vec(), position: position(file) }
}

/// Descriptions without a position have -1, or are O_PATH.
fn position(file: &RegFile) -> Option<u64> {
    let has_position = file.flags & libc::O_PATH as u32 == 0 && file.position != u64::MAX;
    has_position.then_some(file.position)
}
