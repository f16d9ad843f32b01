//! A model into an [`Inspection`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::super::words;
use super::*;
use crate::image::{
    Alive, InetSocket, Model, Ofd, OfdKind, Pages, PagesImage, Task, TaskState, Thread, UnixSocket, Vma,
    VmaKind, vma,
};

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
        parents: parents(model),
        image_version: if model.inventory.img_version == 1 { "1" } else { "1.1" },
        criu_run_id: model.inventory.dump_criu_run_id.clone(),
        plugins: model.inventory.plugins.clone(),
        totals: totals(model, images_bytes),
        tasks: tasks.iter().map(|task| collector.task(task)).collect(),
        descriptions: model
            .ofds
            .iter()
            .filter(|ofd| is_used(ofd.id))
            .map(|ofd| (ofd.id, collector.description(ofd)))
            .collect::<BTreeMap<_, _>>()
            .into_values()
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
        | VmaKind::SysV { .. }
        | VmaKind::Vvar
        | VmaKind::Vdso
        | VmaKind::Vsyscall
        | VmaKind::AioRing
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
    stored_in(pages, |_| true)
}

fn stored_in(pages: &Pages, is_counted: impl Fn(PagesImage) -> bool) -> Stored {
    let extents = pages.extents.iter().filter(|extent| is_counted(extent.image));
    let pages = extents.map(|extent| extent.len_pages).sum();
    Stored { pages, size_bytes: pages * 4096 }
}

/// What is used of the dumps before.
fn parents(model: &Model) -> Vec<Parent> {
    let all: Vec<&Pages> = model
        .tasks
        .iter()
        .filter_map(|task| Some(&task.alive()?.mm.pages))
        .chain(model.shm.iter().map(|shm| &shm.pages))
        .collect();
    let of = |(depth, dir): (u32, &PathBuf)| {
        let pages = all.iter().map(|pages| stored_in(pages, |image| image.depth == depth).pages).sum();
        Parent { directory: dir.clone(), stored_pages: Stored { pages, size_bytes: pages * 4096 } }
    };
    (1..).zip(&model.parents).map(of).collect()
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
            VmaKind::SysV { shmid, offset_bytes, .. } => {
                (format!("System V segment {shmid}"), Some(offset_bytes))
            }
            VmaKind::AnonPrivate if vma.status & vma::AREA_HEAP != 0 => ("heap".to_owned(), None),
            VmaKind::AnonPrivate
                if vma.status & vma::AREA_STACK != 0 || vma.flags & libc::MAP_GROWSDOWN as u32 != 0 =>
            {
                ("stack".to_owned(), None)
            }
            VmaKind::Other => (format!("status {:#x}", vma.status), None),
            VmaKind::AnonPrivate | VmaKind::Vvar | VmaKind::Vdso | VmaKind::Vsyscall | VmaKind::AioRing => {
                (String::new(), None)
            }
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
        for segment in self.model.ipc.values().flat_map(|ns| &ns.segments) {
            let id = u64::from(segment.perm.id);
            segments.entry(id).or_insert_with(|| empty(id)).size_bytes = segment.size_bytes;
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
                    VmaKind::SysV { shmid, offset_bytes, .. } => (u64::from(shmid), offset_bytes),
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
                    | VmaKind::AioRing
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
        VmaKind::SysV { .. } => "System V",
        VmaKind::Memfd { .. } => "memfd",
        VmaKind::Vvar => "vvar",
        VmaKind::Vdso => "vdso",
        VmaKind::Vsyscall => "vsyscall",
        VmaKind::AioRing => "AIO ring",
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
