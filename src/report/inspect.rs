//! What an image directory holds, from the [`Model`] alone: also of directories that could not be
//! restored here, or anywhere.
//!
//! [`inspect`] collects, [`text`] writes. The JSON of `regrow inspect --json` is an [`Inspection`];
//! its shape is that of the structs here. Addresses are text (`"0x7f00"`), because not every reader of
//! JSON keeps 64 bits; sizes are numbers and end in `_bytes`. Fields may be added under the same
//! [`FORMAT`]; whatever else changes raises its number.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;

use serde::Serialize;

use super::words;
use crate::image::{
    Alive, InetSocket, Model, Ofd, OfdKind, Origin, Pages, Task, TaskState, Thread, UnixSocket, UnreadImage,
    Vma, VmaKind, vma,
};

/// Name and version of the JSON.
pub const FORMAT: &str = "regrow-inspect/1";

/// How many holders of a description the text names.
const HOLDERS_SHOWN: usize = 3;
/// How deep the text indents a tree: below, only the numbers tell.
const DEPTH_SHOWN: usize = 24;

/// An image directory.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// [`FORMAT`].
    pub format: &'static str,
    /// The directory.
    pub directory: PathBuf,
    /// Version of the images: `1` or `1.1`.
    pub image_version: &'static str,
    /// `CRIU_RUN_ID` of the dump.
    pub criu_run_id: Option<String>,
    /// CRIU plugins that the dump was made with.
    pub plugins: Vec<String>,
    /// Sums over the whole directory, whatever tasks are shown.
    pub totals: Totals,
    /// The tasks shown: parents before their children.
    pub tasks: Vec<TaskView>,
    /// The open file descriptions that they refer to.
    pub descriptions: Vec<Description>,
    /// The shared memory that they map or have open.
    pub shared_memory: Vec<Segment>,
    /// The pipes that they have open.
    pub pipes: Vec<PipeView>,
    /// The sockets of theirs in which something waits.
    pub socket_queues: Vec<SocketQueue>,
    /// Images that regrow recognises and does not read.
    pub unread: Vec<UnreadImage>,
}

/// Sums.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Totals {
    /// Tasks, zombies among them.
    pub tasks: u64,
    /// Dead tasks that wait to be reaped.
    pub zombies: u64,
    /// Stopped tasks.
    pub stopped: u64,
    /// Threads of living tasks.
    pub threads: u64,
    /// Slots in use in all descriptor tables.
    pub descriptors: u64,
    /// Open file descriptions, those that are only mapped among them.
    pub descriptions: u64,
    /// Mappings.
    pub mappings: u64,
    /// Their length.
    pub mapped_bytes: u64,
    /// Stored private pages.
    pub private_pages_bytes: u64,
    /// Stored pages of shared memory.
    pub shared_pages_bytes: u64,
    /// All image files; `None` if they could not be looked at.
    pub images_bytes: Option<u64>,
}

/// One task.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct TaskView {
    pub pid: u32,
    /// 0: the root's parent is not in the images.
    pub ppid: u32,
    pub pgid: u32,
    pub sid: u32,
    pub comm: String,
    pub state: State,
    /// Where it is stopped: by what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Of a zombie: how it died.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// What only the living have.
    #[serde(flatten)]
    pub living: Option<Living>,
    /// The image entry.
    pub origin: Origin,
}

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum State {
    Alive,
    Stopped,
    Zombie,
}

/// How a zombie died.
#[derive(Debug, Clone, Serialize)]
pub struct Exit {
    /// As `wait4(2)` gives it.
    pub status: u32,
    /// In words.
    pub words: String,
}

/// What only a living task has.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Living {
    pub threads: Vec<ThreadView>,
    /// Id of the description.
    pub executable: u32,
    /// Id of the description.
    pub working_directory: u32,
    /// Id of the description.
    pub root_directory: u32,
    pub descriptors: Vec<Descriptor>,
    pub mappings: Mappings,
    pub stored_pages: Stored,
}

/// One thread.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct ThreadView {
    pub tid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    /// 0 disabled, 1 strict, 2 filter.
    pub seccomp_mode: u32,
    /// Effective user, where the images carry credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub euid: Option<u32>,
    /// Effective group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egid: Option<u32>,
}

/// One slot of a descriptor table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Descriptor {
    /// Number.
    pub fd: u32,
    /// Close-on-exec.
    pub cloexec: bool,
    /// Id of the open file description.
    pub description: u32,
}

/// Stored pages.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[allow(missing_docs)]
pub struct Stored {
    pub pages: u64,
    pub size_bytes: u64,
}

/// The mappings of a task.
#[derive(Debug, Clone, Serialize)]
pub struct Mappings {
    /// How many.
    pub count: u64,
    /// Their length.
    pub size_bytes: u64,
    /// The same by kind.
    pub kinds: Vec<MappingKind>,
    /// All of them.
    pub list: Vec<Mapping>,
}

/// Mappings of one kind.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct MappingKind {
    pub kind: &'static str,
    pub count: u64,
    pub size_bytes: u64,
}

/// One mapping.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Mapping {
    #[serde(serialize_with = "as_hex")]
    pub start: u64,
    /// Behind the last byte.
    #[serde(serialize_with = "as_hex")]
    pub end: u64,
    /// As `r-x`.
    pub protection: String,
    pub kind: &'static str,
    /// A path, `heap`, `stack`, a segment.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub what: String,
    /// In the file or segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset_bytes: Option<u64>,
    /// Id of the mapped description.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<u32>,
}

fn as_hex<S: serde::Serializer>(address: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{address:#x}"))
}

/// An open file description.
#[derive(Debug, Clone, Serialize)]
pub struct Description {
    /// Its id in the images.
    pub id: u32,
    /// What it is.
    #[serde(flatten)]
    pub detail: Detail,
    /// Access mode and status flags, by name.
    pub flags: Vec<String>,
    /// File position, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// Every descriptor, of any task of the directory, that refers to it; empty: it is only mapped or
    /// entered, or in flight in a socket.
    pub holders: Vec<Holder>,
    /// The image entry.
    pub origin: Origin,
}

/// A descriptor of some task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Holder {
    pub pid: u32,
    pub fd: u32,
}

/// What a description is of.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Detail {
    /// A path.
    Path {
        path: String,
        /// `file`, `directory`, `character device` and so on, where the images tell.
        file_type: Option<&'static str>,
        /// Where the name is gone: how the file is kept.
        #[serde(skip_serializing_if = "Option::is_none")]
        remapped: Option<&'static str>,
    },
    /// One end of a pipe, or both.
    Pipe { pipe_id: u32, end: &'static str },
    /// An eventfd.
    Eventfd { counter: u64 },
    /// An epoll file: the numbers that it watches.
    Epoll { watched: Vec<u32> },
    /// A timerfd.
    Timerfd { clock: u32, value_ns: u64, interval_ns: u64, ticks: u64 },
    /// A signalfd: bit 0 is signal 1.
    Signalfd { mask: u64 },
    /// A FIFO.
    Fifo { pipe_id: u32, path: String },
    /// A unix socket.
    UnixSocket {
        inode: u32,
        socket_type: &'static str,
        state: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        peer: Option<u32>,
        /// With `@` for the zero byte of an abstract name; other unprintable bytes escaped.
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        backlog: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        shutdown: Option<&'static str>,
    },
    /// An internet socket.
    InetSocket {
        inode: u32,
        protocol: u32,
        state: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        local: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        remote: Option<String>,
    },
    /// A memfd.
    Memfd { inode_id: u64, name: Option<String> },
    /// What regrow does not read, by CRIU's name for it.
    Unread { criu_kind: &'static str },
}

/// A segment of shared memory.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Segment {
    pub id: u64,
    /// Name of the memfd; `None`: shared anonymous memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memfd: Option<String>,
    pub size_bytes: u64,
    pub stored_pages: Stored,
    /// Who maps it or has it open.
    pub users: Vec<u32>,
}

/// A pipe.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct PipeView {
    pub pipe_id: u32,
    /// The descriptions of its ends.
    pub descriptions: Vec<u32>,
    pub queued_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_bytes: Option<u32>,
}

/// What waits in a socket.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct SocketQueue {
    pub description: u32,
    pub packets: u64,
    pub queued_bytes: u64,
    /// The descriptions of the descriptors that are in flight in it.
    pub in_flight: Vec<u32>,
}

/// Collects what `model` holds; of the tasks only `only`, if given, and what it refers to.
/// `images_bytes` is the size of all image files.
pub fn inspect(model: &Model, images_bytes: Option<u64>, only: Option<u32>) -> Inspection {
    let collector = Collector::new(model);
    let tasks: Vec<&Task> =
        model.tasks.iter().filter(|task| only.is_none_or(|pid| pid == task.pid.0)).collect();
    let used = only.is_some().then(|| used_ids(model, &tasks));
    let is_used = |id: u32| used.as_ref().is_none_or(|used| used.contains(&id));
    let pids: BTreeSet<u32> = tasks.iter().map(|task| task.pid.0).collect();
    Inspection {
        format: FORMAT,
        directory: model.dir.clone(),
        image_version: if model.inventory.img_version == 1 { "1" } else { "1.1" },
        criu_run_id: model.inventory.dump_criu_run_id.clone(),
        plugins: model.inventory.plugins.clone(),
        totals: totals(model, images_bytes),
        tasks: tasks.iter().map(|task| collector.task(task)).collect(),
        descriptions: model
            .ofds
            .iter()
            .filter(|ofd| is_used(ofd.id))
            .map(|ofd| collector.description(ofd))
            .collect(),
        shared_memory: collector
            .segments()
            .into_iter()
            .filter(|segment| only.is_none() || segment.users.iter().any(|pid| pids.contains(pid)))
            .collect(),
        pipes: collector
            .pipes()
            .into_iter()
            .filter(|pipe| pipe.descriptions.iter().any(|id| is_used(*id)))
            .collect(),
        socket_queues: socket_queues(model).into_iter().filter(|queue| is_used(queue.description)).collect(),
        unread: model.unread.clone(),
    }
}

/// The ids of all descriptions that `tasks` refer to, or that are on their way to them.
fn used_ids(model: &Model, tasks: &[&Task]) -> BTreeSet<u32> {
    let mut used = BTreeSet::new();
    for alive in tasks.iter().filter_map(|task| task.alive()) {
        used.extend([alive.mm.exe_file_id, alive.fs.cwd_id, alive.fs.root_id]);
        used.extend(alive.fds.iter().map(|entry| entry.ofd_id));
        used.extend(alive.mm.vmas.iter().filter_map(mapped_id));
    }
    let queued =
        model.packets.iter().filter(|packet| used.contains(&packet.id_for)).flat_map(|packet| &packet.rights);
    let queued: Vec<u32> = queued.copied().collect();
    used.extend(queued);
    used
}

fn mapped_id(vma: &Vma) -> Option<u32> {
    match vma.kind {
        VmaKind::FilePrivate { ofd_id, .. }
        | VmaKind::FileShared { ofd_id, .. }
        | VmaKind::Memfd { ofd_id, .. } => Some(ofd_id),
        VmaKind::AnonPrivate
        | VmaKind::AnonShared { .. }
        | VmaKind::Vvar
        | VmaKind::Vdso
        | VmaKind::Vsyscall
        | VmaKind::Other => None,
    }
}

fn totals(model: &Model, images_bytes: Option<u64>) -> Totals {
    let mut totals = Totals {
        tasks: model.tasks.len() as u64,
        descriptions: model.ofds.len() as u64,
        shared_pages_bytes: model.shm.iter().map(|shm| stored(&shm.pages).size_bytes).sum(),
        images_bytes,
        ..Totals::default()
    };
    for task in &model.tasks {
        match &task.state {
            TaskState::Alive(_) => {}
            TaskState::Stopped(_) => totals.stopped += 1,
            TaskState::Zombie { .. } => totals.zombies += 1,
        }
        let Some(alive) = task.alive() else { continue };
        totals.threads += alive.threads.len() as u64;
        totals.descriptors += alive.fds.len() as u64;
        totals.mappings += alive.mm.vmas.len() as u64;
        totals.mapped_bytes = totals.mapped_bytes.saturating_add(mapped_bytes(&alive.mm.vmas));
        totals.private_pages_bytes += stored(&alive.mm.pages).size_bytes;
    }
    totals
}

fn mapped_bytes(vmas: &[Vma]) -> u64 {
    vmas.iter().map(|vma| vma.end - vma.start).fold(0, u64::saturating_add)
}

fn stored(pages: &Pages) -> Stored {
    let pages = pages.extents.iter().map(|extent| extent.len_pages).sum();
    Stored { pages, size_bytes: pages * 4096 }
}

fn socket_queues(model: &Model) -> Vec<SocketQueue> {
    let mut queues: BTreeMap<u32, SocketQueue> = BTreeMap::new();
    for packet in &model.packets {
        let empty =
            SocketQueue { description: packet.id_for, packets: 0, queued_bytes: 0, in_flight: Vec::new() };
        let queue = queues.entry(packet.id_for).or_insert(empty);
        queue.packets += 1;
        queue.queued_bytes += packet.data.len_bytes;
        queue.in_flight.extend(&packet.rights);
    }
    queues.into_values().collect()
}

/// Looks things up.
struct Collector<'a> {
    model: &'a Model,
    ofds: BTreeMap<u32, &'a Ofd>,
    holders: BTreeMap<u32, Vec<Holder>>,
    remaps: BTreeMap<u32, &'static str>,
}

impl<'a> Collector<'a> {
    fn new(model: &'a Model) -> Collector<'a> {
        let mut holders: BTreeMap<u32, Vec<Holder>> = BTreeMap::new();
        for task in &model.tasks {
            for entry in task.alive().iter().flat_map(|alive| &alive.fds) {
                holders.entry(entry.ofd_id).or_default().push(Holder { pid: task.pid.0, fd: entry.fd });
            }
        }
        let kept = |remap_type| match remap_type {
            0 => "link remap",
            1 => "ghost file",
            _ => "procfs remap",
        };
        Collector {
            model,
            ofds: model.ofds.iter().map(|ofd| (ofd.id, ofd)).collect(),
            holders,
            remaps: model.remaps.iter().map(|remap| (remap.orig_id, kept(remap.remap_type))).collect(),
        }
    }

    fn task(&self, task: &Task) -> TaskView {
        let (state, comm, exit) = match &task.state {
            TaskState::Alive(alive) => (State::Alive, alive.comm.clone(), None),
            TaskState::Stopped(alive) => (State::Stopped, alive.comm.clone(), None),
            TaskState::Zombie { exit_code, comm } => (
                State::Zombie,
                comm.clone(),
                Some(Exit { status: *exit_code, words: words::exit_status(*exit_code) }),
            ),
        };
        TaskView {
            pid: task.pid.0,
            ppid: task.ppid.0,
            pgid: task.pgid.0,
            sid: task.sid.0,
            comm,
            state,
            stop_signal: task.alive().and_then(|alive| alive.stop_signo).map(words::signal),
            exit,
            living: task.alive().map(|alive| self.living(alive)),
            origin: task.origin,
        }
    }

    fn living(&self, alive: &Alive) -> Living {
        let mut kinds: BTreeMap<&'static str, (u64, u64)> = BTreeMap::new();
        for vma in &alive.mm.vmas {
            let (count, size) = kinds.entry(mapping_kind(vma)).or_default();
            *count += 1;
            *size = size.saturating_add(vma.end - vma.start);
        }
        Living {
            threads: alive.threads.iter().map(thread).collect(),
            executable: alive.mm.exe_file_id,
            working_directory: alive.fs.cwd_id,
            root_directory: alive.fs.root_id,
            descriptors: alive
                .fds
                .iter()
                .map(|entry| Descriptor { fd: entry.fd, cloexec: entry.cloexec, description: entry.ofd_id })
                .collect(),
            mappings: Mappings {
                count: alive.mm.vmas.len() as u64,
                size_bytes: mapped_bytes(&alive.mm.vmas),
                kinds: kinds
                    .into_iter()
                    .map(|(kind, (count, size_bytes))| MappingKind { kind, count, size_bytes })
                    .collect(),
                list: alive.mm.vmas.iter().map(|vma| self.mapping(vma)).collect(),
            },
            stored_pages: stored(&alive.mm.pages),
        }
    }

    fn mapping(&self, vma: &Vma) -> Mapping {
        let (what, offset_bytes) = match vma.kind {
            VmaKind::FilePrivate { ofd_id, offset_bytes, .. }
            | VmaKind::FileShared { ofd_id, offset_bytes, .. }
            | VmaKind::Memfd { ofd_id, offset_bytes, .. } => (self.path(ofd_id), Some(offset_bytes)),
            VmaKind::AnonShared { shmid, offset_bytes } => {
                (format!("segment {shmid:#x}"), Some(offset_bytes))
            }
            VmaKind::AnonPrivate if vma.status & vma::AREA_HEAP != 0 => ("heap".to_owned(), None),
            VmaKind::AnonPrivate
                if vma.status & vma::AREA_STACK != 0 || vma.flags & libc::MAP_GROWSDOWN as u32 != 0 =>
            {
                ("stack".to_owned(), None)
            }
            VmaKind::Other => (format!("status {:#x}", vma.status), None),
            VmaKind::AnonPrivate | VmaKind::Vvar | VmaKind::Vdso | VmaKind::Vsyscall => (String::new(), None),
        };
        Mapping {
            start: vma.start,
            end: vma.end,
            protection: words::protection(vma.prot),
            kind: mapping_kind(vma),
            what,
            offset_bytes,
            description: mapped_id(vma),
        }
    }

    /// The name of a description that is mapped, executed or entered.
    fn path(&self, id: u32) -> String {
        self.ofds.get(&id).map_or_else(|| format!("description {id:#x}"), |ofd| self.detail(ofd).target())
    }

    fn description(&self, ofd: &Ofd) -> Description {
        let (flags, position) = match &ofd.kind {
            OfdKind::Reg(file) => (Some(file.flags), Some(file.position)),
            OfdKind::Pipe(pipe) => (Some(pipe.flags), None),
            OfdKind::Eventfd(eventfd) => (Some(eventfd.flags), None),
            OfdKind::Epoll(epoll) => (Some(epoll.flags), None),
            OfdKind::Timerfd(timerfd) => (Some(timerfd.flags), None),
            OfdKind::Signalfd(signalfd) => (Some(signalfd.flags), None),
            OfdKind::Fifo(fifo) => match self.ofds.get(&fifo.reg_id).map(|ofd| &ofd.kind) {
                Some(OfdKind::Reg(file)) => (Some(file.flags), None),
                _ => (None, None),
            },
            OfdKind::Unix(socket) => (Some(socket.flags), None),
            OfdKind::Inet(socket) => (Some(socket.flags), None),
            OfdKind::Memfd(memfd) => (Some(memfd.flags), Some(memfd.position)),
            OfdKind::Other(_) => (None, None),
        };
        Description {
            id: ofd.id,
            detail: self.detail(ofd),
            flags: flags.map(words::open_flags).unwrap_or_default(),
            position,
            holders: self.holders.get(&ofd.id).cloned().unwrap_or_default(),
            origin: ofd.origin,
        }
    }

    fn detail(&self, ofd: &Ofd) -> Detail {
        match &ofd.kind {
            OfdKind::Reg(file) => Detail::Path {
                path: file.path.clone(),
                file_type: file.mode.map(file_type),
                remapped: self.remaps.get(&ofd.id).copied(),
            },
            OfdKind::Pipe(pipe) => Detail::Pipe {
                pipe_id: pipe.pipe_id,
                end: match pipe.flags & libc::O_ACCMODE as u32 {
                    0 => "read",
                    1 => "write",
                    _ => "both",
                },
            },
            OfdKind::Eventfd(eventfd) => Detail::Eventfd { counter: eventfd.counter },
            OfdKind::Epoll(epoll) => {
                Detail::Epoll { watched: epoll.interests.iter().map(|interest| interest.fd).collect() }
            }
            OfdKind::Timerfd(timerfd) => Detail::Timerfd {
                clock: timerfd.clock_id,
                value_ns: timerfd.value_ns,
                interval_ns: timerfd.interval_ns,
                ticks: timerfd.ticks,
            },
            OfdKind::Signalfd(signalfd) => Detail::Signalfd { mask: signalfd.mask },
            OfdKind::Fifo(fifo) => Detail::Fifo {
                pipe_id: fifo.pipe_id,
                path: match self.ofds.get(&fifo.reg_id).map(|ofd| &ofd.kind) {
                    Some(OfdKind::Reg(file)) => file.path.clone(),
                    _ => String::new(),
                },
            },
            OfdKind::Unix(socket) => unix_socket(socket),
            OfdKind::Inet(socket) => inet_socket(socket),
            OfdKind::Memfd(memfd) => Detail::Memfd {
                inode_id: memfd.inode_id,
                name: self
                    .model
                    .memfds
                    .iter()
                    .find(|inode| inode.inode_id == memfd.inode_id)
                    .map(|inode| inode.name.clone()),
            },
            OfdKind::Other(kind) => Detail::Unread { criu_kind: kind },
        }
    }

    fn segments(&self) -> Vec<Segment> {
        let mut segments: BTreeMap<u64, Segment> = BTreeMap::new();
        let empty = |id| Segment {
            id,
            memfd: None,
            size_bytes: 0,
            stored_pages: Stored::default(),
            users: Vec::new(),
        };
        let shmid_of_inode: BTreeMap<u64, u64> =
            self.model.memfds.iter().map(|inode| (inode.inode_id, inode.shmid)).collect();
        for shm in &self.model.shm {
            segments.entry(shm.shmid).or_insert_with(|| empty(shm.shmid)).stored_pages = stored(&shm.pages);
        }
        for inode in &self.model.memfds {
            let segment = segments.entry(inode.shmid).or_insert_with(|| empty(inode.shmid));
            segment.size_bytes = inode.size_bytes;
            // What CRIU stores so was shared anonymous memory.
            segment.memfd = (inode.name != "/dev/zero").then(|| inode.name.clone());
        }
        for task in &self.model.tasks {
            let Some(alive) = task.alive() else { continue };
            let mut uses: BTreeMap<u64, u64> = BTreeMap::new();
            for vma in &alive.mm.vmas {
                let (shmid, offset) = match vma.kind {
                    VmaKind::AnonShared { shmid, offset_bytes } => (shmid, offset_bytes),
                    VmaKind::Memfd { inode_id, .. } => match shmid_of_inode.get(&inode_id) {
                        // A mapping may go beyond the end of a memfd.
                        Some(shmid) => (*shmid, 0),
                        None => continue,
                    },
                    VmaKind::AnonPrivate
                    | VmaKind::FilePrivate { .. }
                    | VmaKind::FileShared { .. }
                    | VmaKind::Vvar
                    | VmaKind::Vdso
                    | VmaKind::Vsyscall
                    | VmaKind::Other => continue,
                };
                let end = offset.saturating_add(vma.end - vma.start);
                let most = uses.entry(shmid).or_default();
                *most = end.max(*most);
            }
            for entry in &alive.fds {
                if let Some(Ofd { kind: OfdKind::Memfd(memfd), .. }) = self.ofds.get(&entry.ofd_id)
                    && let Some(shmid) = shmid_of_inode.get(&memfd.inode_id)
                {
                    uses.entry(*shmid).or_default();
                }
            }
            for (shmid, end) in uses {
                let segment = segments.entry(shmid).or_insert_with(|| empty(shmid));
                segment.users.push(task.pid.0);
                if !self.model.memfds.iter().any(|inode| inode.shmid == shmid) {
                    segment.size_bytes = end.max(segment.size_bytes);
                }
            }
        }
        segments.into_values().collect()
    }

    fn pipes(&self) -> Vec<PipeView> {
        let mut pipes: BTreeMap<u32, PipeView> = BTreeMap::new();
        let empty =
            |pipe_id| PipeView { pipe_id, descriptions: Vec::new(), queued_bytes: 0, capacity_bytes: None };
        for ofd in &self.model.ofds {
            if let OfdKind::Pipe(pipe) = &ofd.kind {
                pipes.entry(pipe.pipe_id).or_insert_with(|| empty(pipe.pipe_id)).descriptions.push(ofd.id);
            }
        }
        for data in &self.model.pipe_data {
            let pipe = pipes.entry(data.pipe_id).or_insert_with(|| empty(data.pipe_id));
            pipe.queued_bytes = data.data.len_bytes;
            pipe.capacity_bytes = data.capacity_bytes;
        }
        pipes.into_values().collect()
    }
}

fn thread(thread: &Thread) -> ThreadView {
    ThreadView {
        tid: thread.tid.0,
        comm: thread.comm.clone(),
        seccomp_mode: thread.seccomp_mode,
        euid: thread.creds.as_ref().map(|creds| creds.euid),
        egid: thread.creds.as_ref().map(|creds| creds.egid),
    }
}

fn mapping_kind(vma: &Vma) -> &'static str {
    match vma.kind {
        VmaKind::AnonPrivate => "private anonymous",
        VmaKind::FilePrivate { .. } => "private file",
        VmaKind::FileShared { .. } => "shared file",
        VmaKind::AnonShared { .. } => "shared anonymous",
        VmaKind::Memfd { .. } => "memfd",
        VmaKind::Vvar => "vvar",
        VmaKind::Vdso => "vdso",
        VmaKind::Vsyscall => "vsyscall",
        VmaKind::Other => "other",
    }
}

fn file_type(mode: u32) -> &'static str {
    match mode & libc::S_IFMT {
        libc::S_IFREG => "file",
        libc::S_IFDIR => "directory",
        libc::S_IFCHR => "character device",
        libc::S_IFBLK => "block device",
        libc::S_IFIFO => "fifo",
        libc::S_IFLNK => "symbolic link",
        libc::S_IFSOCK => "socket",
        _ => "unknown",
    }
}

fn inet_socket(socket: &InetSocket) -> Detail {
    let end = |(address, port): &(Vec<u8>, u16)| {
        let ip = match (<[u8; 4]>::try_from(address.as_slice()), <[u8; 16]>::try_from(address.as_slice())) {
            (Ok(v4), _) => std::net::IpAddr::from(v4),
            (_, Ok(v6)) => std::net::IpAddr::from(v6),
            _ => return None,
        };
        (*port != 0 || !ip.is_unspecified()).then(|| std::net::SocketAddr::new(ip, *port).to_string())
    };
    Detail::InetSocket {
        inode: socket.inode,
        protocol: socket.protocol,
        state: match socket.state {
            1 => "connected",
            7 => "unconnected",
            10 => "listening",
            _ => "connecting or closing",
        },
        local: end(&socket.src),
        remote: end(&socket.dst),
    }
}

fn unix_socket(socket: &UnixSocket) -> Detail {
    let name = match socket.name.split_first() {
        None => None,
        Some((0, rest)) => Some(format!("@{}", rest.escape_ascii())),
        Some(_) => Some(socket.name.strip_suffix(&[0]).unwrap_or(&socket.name).escape_ascii().to_string()),
    };
    let is_listening = socket.state == 10;
    Detail::UnixSocket {
        inode: socket.inode,
        socket_type: match socket.sock_type {
            1 => "stream",
            2 => "datagram",
            5 => "seqpacket",
            _ => "unknown",
        },
        // A datagram socket is "established" by connect and "closed" before.
        state: match socket.state {
            1 => "connected",
            10 => "listening",
            _ => "unconnected",
        },
        peer: (socket.peer != 0).then_some(socket.peer),
        name,
        backlog: is_listening.then_some(socket.backlog),
        shutdown: match socket.shutdown {
            0 => None,
            1 => Some("reading"),
            2 => Some("writing"),
            _ => Some("both"),
        },
    }
}

impl Detail {
    /// What sort of thing it is, in words.
    pub fn kind(&self) -> String {
        match self {
            Detail::Path { file_type, .. } => file_type.unwrap_or("path").to_owned(),
            Detail::Pipe { .. } => "pipe".to_owned(),
            Detail::Eventfd { .. } => "eventfd".to_owned(),
            Detail::Epoll { .. } => "epoll file".to_owned(),
            Detail::Timerfd { .. } => "timerfd".to_owned(),
            Detail::Signalfd { .. } => "signalfd".to_owned(),
            Detail::Fifo { .. } => "FIFO".to_owned(),
            Detail::UnixSocket { socket_type, .. } => format!("unix {socket_type} socket"),
            Detail::InetSocket { protocol: 6, .. } => "TCP socket".to_owned(),
            Detail::InetSocket { protocol: 17, .. } => "UDP socket".to_owned(),
            Detail::InetSocket { protocol, .. } => format!("internet socket of protocol {protocol}"),
            Detail::Memfd { .. } => "memfd".to_owned(),
            Detail::Unread { criu_kind } => format!("{criu_kind} (not read)"),
        }
    }

    /// Which one it is, in words.
    pub fn target(&self) -> String {
        match self {
            Detail::Path { path, remapped: None, .. } => path.clone(),
            Detail::Path { path, remapped: Some(how), .. } => format!("{path} ({how})"),
            Detail::Pipe { pipe_id, end: "both" } => format!("{pipe_id:#x}, both ends"),
            Detail::Pipe { pipe_id, end } => format!("{pipe_id:#x}, {end} end"),
            Detail::Eventfd { counter } => format!("counter {counter}"),
            Detail::Epoll { watched } => {
                let numbers: Vec<String> = watched.iter().map(ToString::to_string).collect();
                format!(
                    "watches {}",
                    if numbers.is_empty() { "nothing".to_owned() } else { numbers.join(", ") }
                )
            }
            Detail::Timerfd { clock, value_ns, interval_ns, ticks } => {
                format!("clock {clock}, {value_ns} ns left, every {interval_ns} ns, {ticks} ticks")
            }
            Detail::Signalfd { mask } => format!("signals {mask:#x}"),
            Detail::Fifo { path, .. } => path.clone(),
            Detail::InetSocket { inode, state, local, remote, .. } => {
                let mut text = format!("{inode:#x}, {state}");
                if let Some(local) = local {
                    let _ = write!(text, " at {local}");
                }
                if let Some(remote) = remote {
                    let _ = write!(text, " to {remote}");
                }
                text
            }
            Detail::UnixSocket { inode, peer, name, backlog, shutdown, .. } => {
                let mut text = format!("{inode:#x}");
                if let Some(name) = name {
                    let _ = write!(text, " at {name}");
                }
                if let Some(peer) = peer {
                    let _ = write!(text, ", peer {peer:#x}");
                }
                if let Some(backlog) = backlog {
                    let _ = write!(text, ", listening, backlog {backlog}");
                }
                if let Some(shutdown) = shutdown {
                    let _ = write!(text, ", {shutdown} shut down");
                }
                text
            }
            Detail::Memfd { name: Some(name), .. } => format!("memfd:{name}"),
            Detail::Memfd { inode_id, name: None } => format!("inode {inode_id:#x}"),
            Detail::Unread { .. } => String::new(),
        }
    }
}

/// An inspection as text; with every mapping if `with_maps`.
pub fn text(inspection: &Inspection, with_maps: bool) -> String {
    let descriptions: BTreeMap<u32, &Description> =
        inspection.descriptions.iter().map(|description| (description.id, description)).collect();
    let mut text = head(inspection);
    text.push('\n');
    text.push_str(&tree(&inspection.tasks));
    for task in &inspection.tasks {
        if let Some(living) = &task.living {
            let _ = writeln!(text, "\ntask {} {}", task.pid, task.comm);
            text.push_str(&living_text(task.pid, living, &descriptions, with_maps));
        }
    }
    text.push_str(&shared(inspection, &descriptions));
    text
}

fn head(inspection: &Inspection) -> String {
    let mut text =
        format!("images in {}, version {}", inspection.directory.display(), inspection.image_version);
    if let Some(id) = &inspection.criu_run_id {
        let _ = write!(text, ", CRIU run {id}");
    }
    text.push('\n');
    if !inspection.plugins.is_empty() {
        let _ = writeln!(text, "dumped with CRIU plugins {}", inspection.plugins.join(", "));
    }
    let totals = &inspection.totals;
    let zombies = (totals.zombies > 0).then(|| words::count(totals.zombies, "zombie"));
    let stopped = (totals.stopped > 0).then(|| format!("{} stopped", totals.stopped));
    let special: Vec<String> = zombies.into_iter().chain(stopped).collect();
    let special = if special.is_empty() { String::new() } else { format!(" ({})", special.join(", ")) };
    let _ = write!(text, "{}{special}", words::count(totals.tasks, "task"));
    let _ = writeln!(
        text,
        "; {}, {} of {}, {} of {}",
        words::count(totals.threads, "thread"),
        words::count(totals.descriptors, "descriptor"),
        words::count(totals.descriptions, "description"),
        words::count(totals.mappings, "mapping"),
        words::bytes(totals.mapped_bytes),
    );
    let _ = write!(
        text,
        "{} of private pages stored, {} of shared",
        words::bytes(totals.private_pages_bytes),
        words::bytes(totals.shared_pages_bytes)
    );
    if let Some(bytes) = totals.images_bytes {
        let _ = write!(text, "; {} of images", words::bytes(bytes));
    }
    text.push('\n');
    for image in &inspection.unread {
        let entries =
            image.entries.map_or(String::new(), |entries| format!(", {}", words::count(entries, "entry")));
        let _ = writeln!(text, "not read: {}{entries}: {}", image.file, image.what);
    }
    text
}

/// The tasks as a tree. Deep trees are indented only so far.
fn tree(tasks: &[TaskView]) -> String {
    let index_of: BTreeMap<u32, usize> =
        tasks.iter().enumerate().map(|(index, task)| (task.pid, index)).collect();
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); tasks.len()];
    let mut stack: Vec<(usize, String, String, usize)> = Vec::new();
    for (index, task) in tasks.iter().enumerate() {
        match index_of.get(&task.ppid) {
            // Parents come first; whatever claims something else is drawn as a root.
            Some(parent) if *parent < index => children[*parent].push(index),
            Some(_) | None => stack.push((index, String::new(), String::new(), 0)),
        }
    }
    stack.reverse();
    let mut rows = Vec::new();
    while let Some((index, own, below, depth)) = stack.pop() {
        let task = &tasks[index];
        let parent = index_of.get(&task.ppid).filter(|parent| **parent < index).map(|parent| &tasks[*parent]);
        rows.push(vec![format!("{own}{} {}", task.pid, task.comm), state(task), notes(task, parent, depth)]);
        for (rank, child) in children[index].iter().enumerate().rev() {
            let is_last = rank + 1 == children[index].len();
            let (branch, stem) = match (depth < DEPTH_SHOWN, is_last) {
                (false, _) => ("", ""),
                (true, false) => ("├─ ", "│  "),
                (true, true) => ("└─ ", "   "),
            };
            stack.push((*child, format!("{below}{branch}"), format!("{below}{stem}"), depth + 1));
        }
    }
    words::table(&rows, 0)
}

fn state(task: &TaskView) -> String {
    match (task.state, &task.exit, &task.stop_signal) {
        (State::Alive, ..) => "alive".to_owned(),
        (State::Stopped, _, Some(signal)) => format!("stopped by {signal}"),
        (State::Stopped, _, None) => "stopped".to_owned(),
        (State::Zombie, Some(exit), _) => format!("zombie, {}", exit.words),
        (State::Zombie, None, _) => "zombie".to_owned(),
    }
}

fn notes(task: &TaskView, parent: Option<&TaskView>, depth: usize) -> String {
    let mut notes = Vec::new();
    let threads = task.living.as_ref().map_or(0, |living| living.threads.len());
    if threads > 1 {
        notes.push(words::count(threads, "thread"));
    }
    if parent.is_none_or(|parent| parent.sid != task.sid) {
        notes.push(format!("session {}", task.sid));
    }
    if parent.is_none_or(|parent| parent.pgid != task.pgid) {
        notes.push(format!("group {}", task.pgid));
    }
    if depth > DEPTH_SHOWN {
        notes.push(format!("child of {}", task.ppid));
    }
    notes.join(", ")
}

fn living_text(
    pid: u32,
    living: &Living,
    descriptions: &BTreeMap<u32, &Description>,
    with_maps: bool,
) -> String {
    let mut text = String::new();
    let name = |id: u32| {
        descriptions.get(&id).map_or_else(|| format!("{id:#x}"), |description| description.detail.target())
    };
    let _ = writeln!(
        text,
        "  executable {}, working directory {}, root {}",
        name(living.executable),
        name(living.working_directory),
        name(living.root_directory)
    );
    if living.threads.len() > 1 {
        let tids: Vec<u32> = living.threads.iter().map(|thread| thread.tid).collect();
        let _ = writeln!(text, "  {}: {}", words::count(tids.len(), "thread"), words::numbers(&tids, 16));
    }
    let _ = writeln!(text, "  {}", words::count(living.descriptors.len(), "descriptor"));
    let rows: Vec<Vec<String>> =
        living.descriptors.iter().map(|descriptor| descriptor_row(pid, descriptor, descriptions)).collect();
    text.push_str(&words::table(&rows, 4));
    let mappings = &living.mappings;
    let kinds: Vec<String> = mappings
        .kinds
        .iter()
        .map(|kind| format!("{} {} ({})", kind.count, kind.kind, words::bytes(kind.size_bytes)))
        .collect();
    let _ = writeln!(
        text,
        "  {}, {}: {}",
        words::count(mappings.count, "mapping"),
        words::bytes(mappings.size_bytes),
        kinds.join(", ")
    );
    if with_maps {
        let rows: Vec<Vec<String>> = mappings.list.iter().map(mapping_row).collect();
        text.push_str(&words::table(&rows, 4));
    }
    let stored = living.stored_pages;
    let _ = writeln!(
        text,
        "  {} stored, {}",
        words::count(stored.pages, "page"),
        words::bytes(stored.size_bytes)
    );
    text
}

fn descriptor_row(
    pid: u32,
    descriptor: &Descriptor,
    descriptions: &BTreeMap<u32, &Description>,
) -> Vec<String> {
    let mut row = vec![
        format!("{:>3}", descriptor.fd),
        if descriptor.cloexec { "cloexec".to_owned() } else { String::new() },
    ];
    let Some(description) = descriptions.get(&descriptor.description) else {
        row.push(format!("description {:#x}, not in files.img", descriptor.description));
        return row;
    };
    row.push(description.detail.kind());
    row.push(description.detail.target());
    row.push(description.flags.join("|"));
    row.push(match description.position {
        Some(position) if position != 0 => format!("at {position}"),
        Some(_) | None => String::new(),
    });
    // A description may have very many holders, so nothing is collected but what is shown.
    let others =
        || description.holders.iter().filter(|holder| (holder.pid, holder.fd) != (pid, descriptor.fd));
    let own = others().filter(|holder| holder.pid == pid).map(|holder| format!("fd {}", holder.fd));
    let foreign =
        others().filter(|holder| holder.pid != pid).map(|holder| format!("{} fd {}", holder.pid, holder.fd));
    let mut shown: Vec<String> = own.chain(foreign).take(HOLDERS_SHOWN).collect();
    let more = description.holders.len().saturating_sub(1 + HOLDERS_SHOWN);
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    row.push(if shown.is_empty() { String::new() } else { format!("same as {}", shown.join(", ")) });
    row
}

fn mapping_row(mapping: &Mapping) -> Vec<String> {
    vec![
        format!("{:x}-{:x}", mapping.start, mapping.end),
        mapping.protection.clone(),
        words::bytes(mapping.end.saturating_sub(mapping.start)),
        mapping.kind.to_owned(),
        mapping.offset_bytes.map_or(String::new(), |offset| format!("{offset:#x}")),
        mapping.what.clone(),
    ]
}

/// What belongs to no single task.
fn shared(inspection: &Inspection, descriptions: &BTreeMap<u32, &Description>) -> String {
    let mut text = String::new();
    if !inspection.shared_memory.is_empty() {
        text.push_str("\nshared memory\n");
        let row = |segment: &Segment| {
            vec![
                format!("{:#x}", segment.id),
                segment.memfd.as_ref().map_or("anonymous".to_owned(), |name| format!("memfd:{name}")),
                words::bytes(segment.size_bytes),
                format!("{} stored", words::count(segment.stored_pages.pages, "page")),
                if segment.users.is_empty() {
                    "no users".to_owned()
                } else {
                    format!("used by {}", words::numbers(&segment.users, 8))
                },
            ]
        };
        text.push_str(&words::table(&inspection.shared_memory.iter().map(row).collect::<Vec<_>>(), 2));
    }
    let in_flight: BTreeSet<u32> =
        inspection.socket_queues.iter().flat_map(|queue| queue.in_flight.iter().copied()).collect();
    let holders = |id: u32| match descriptions.get(&id).map(|description| description.holders.as_slice()) {
        Some([first, rest @ ..]) => {
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            format!("{} fd {}{more}", first.pid, first.fd)
        }
        Some([]) | None if in_flight.contains(&id) => "in flight".to_owned(),
        Some([]) | None => "nobody".to_owned(),
    };
    if !inspection.pipes.is_empty() {
        text.push_str("\npipes\n");
        let row = |pipe: &PipeView| {
            let end = |wanted: &str| {
                let ids = pipe.descriptions.iter().copied().filter(
                    |id| matches!(descriptions.get(id).map(|d| &d.detail), Some(Detail::Pipe { end, .. }) if *end == wanted || *end == "both"),
                );
                ids.map(holders).collect::<Vec<_>>().join(", ")
            };
            let ends = [("written by", end("write")), ("read by", end("read"))];
            let named = |(verb, who): (&str, String)| {
                if who.is_empty() { format!("{verb} nobody") } else { format!("{verb} {who}") }
            };
            let [write, read] = ends.map(named);
            let capacity = pipe
                .capacity_bytes
                .map_or(String::new(), |capacity| format!("of {}", words::bytes(capacity.into())));
            vec![
                format!("{:#x}", pipe.pipe_id),
                format!("{} queued", words::bytes(pipe.queued_bytes)),
                capacity,
                write,
                read,
            ]
        };
        text.push_str(&words::table(&inspection.pipes.iter().map(row).collect::<Vec<_>>(), 2));
    }
    if !inspection.socket_queues.is_empty() {
        text.push_str("\nsocket queues\n");
        let row = |queue: &SocketQueue| {
            let name = descriptions.get(&queue.description).map_or_else(
                || format!("description {:#x}", queue.description),
                |d| format!("{} {}", d.detail.kind(), d.detail.target()),
            );
            let flight = match queue.in_flight.len() {
                0 => String::new(),
                number => format!("{} in flight", words::count(number, "descriptor")),
            };
            vec![
                name,
                format!("{}, {}", words::count(queue.packets, "message"), words::bytes(queue.queued_bytes)),
                flight,
                format!("for {}", holders(queue.description)),
            ]
        };
        text.push_str(&words::table(&inspection.socket_queues.iter().map(row).collect::<Vec<_>>(), 2));
    }
    text
}
