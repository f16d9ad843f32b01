//! The description of a forest into a [`Model`] and the bytes it refers to.
//!
//! Ids, inodes and addresses are numbered in the order of the description, so the same forest gives the same
//! model. Every task gets the attributes of the process that asks ([`OwnFacts`]): limits and credentials that
//! can be had on this machine. There is no vDSO in the tasks, which have no use for a clock: the images do not
//! depend on the kernel.
//!
//! Example: a forest of one task with one pipe becomes four descriptions: `/`, the executable, and the ends of the
//! pipe; five mappings of the payload; and an entry in `pipes-data.img`.

use std::collections::BTreeMap;

use super::increments::take_range;
use super::payload::{self, Check, DATA, Deed, Registers, SCRATCH, SCRATCH_BYTES, STACK, STACK_BYTES, TEXT};
use super::ring::most_pending;
use super::{Forest, Kind, PAGE, Page, Segment, Task, ipc, page_bytes, random, stretch_bytes};
use crate::host::{CapSets, Ids, OwnFacts};
use crate::image::{
    AioRing, Alive, Creds, Epoll, Eventfd, Extent, FdEntry, Fown, Fpu, Fs, Held, Image, Interest, Inventory,
    KobjIds, MemfdFile, MemfdInode, Mm, Model, NsPid, Ofd, OfdKind, Origin, Packet, Pages, PagesImage, Pipe,
    PipeData, RLimit, RegFile, Regs, Sched, Shm, SigAltStack, Signalfd, SocketOptions, Task as ModelTask,
    TaskState, Thread, Timerfd, Timers, UnixSocket, Vma, VmaKind, arrange, vma,
};

/// Ids of the descriptions that every task refers to.
const ROOT_DIRECTORY: u32 = 1;
const EXECUTABLE: u32 = 2;
/// The first id of the forest's own descriptions.
const FIRST_OFD: u32 = 3;
/// Numbers of pipes and of sockets start here: as inodes do that were given out by a kernel.
const FIRST_INODE: u32 = 0x1000;
/// `O_LARGEFILE`, which open(2) sets on 64-bit kernels and `F_GETFL` shows.
const O_LARGEFILE: u32 = 0o100_000;
/// What a socket's buffers are of by default, as the kernel counts them; either size will do.
const SOCKET_BUFFER_BYTES: u32 = 212_992;
/// Selectors of 64-bit user code.
const USER_CS: u64 = 0x33;
const USER_SS: u64 = 0x2b;
/// The command line that tasks show, in their data between the timespec and the registers.
const COMMAND: &[u8] = b"regrow-twig\0";
const COMMAND_AT: u64 = 48;

/// What a model needs of this machine.
#[derive(Debug, Clone, Copy)]
pub struct Ground<'a> {
    /// Attributes for the tasks.
    pub own: &'a OwnFacts,
    /// An executable file, for `/proc/PID/exe`.
    pub executable: &'a str,
}

/// A model, its bytes, and what each task checks.
#[derive(Debug, Clone)]
pub struct Synthetic {
    /// The model; its directory is empty until it is written.
    pub model: Model,
    /// Pages and what waits.
    pub contents: Held,
}

/// Makes the model of a forest without faults.
///
/// # Errors
/// The faults of the description.
pub fn synthesise(forest: &Forest, ground: &Ground<'_>) -> Result<Synthetic, Vec<String>> {
    let faults = forest.faults();
    if !faults.is_empty() {
        return Err(faults);
    }
    let mut contents = Held::default();
    let ids = Numbers::of(forest);
    let (pipe_data, packets) = queued(forest, &ids, &mut contents);
    let tasks = forest
        .tasks
        .iter()
        .enumerate()
        .map(|(index, _)| model_task(forest, index, ground, &ids, &mut contents))
        .collect();
    let first_shared = forest.tasks.len() as u32 + 1;
    let inodes = inodes(forest).into_iter().enumerate().map(|(index, (segment, _))| (shmid(index), segment));
    let attached = forest.ipc.iter().flat_map(|ipc| &ipc.segments);
    let shm = (first_shared..)
        .zip(inodes.chain(attached.map(|it| (it.perm.id.into(), &it.memory))))
        .map(|(pages_id, (shmid, segment))| {
            let pages = stored(&mut contents, pages_id, &[(0, segment.pages.as_slice())]);
            Shm { shmid, pages }
        })
        .collect();
    let ipc = forest.ipc.iter().map(|ipc| (ipc::NAMESPACE, ipc.images(&mut contents))).collect();
    let mut model = Model {
        dir: std::path::PathBuf::new(),
        parents: Vec::new(),
        inventory: Inventory { img_version: 2, root_ids: Some(namespaces(1, 1)), ..Inventory::default() },
        tasks,
        ofds: ofds(forest, ground, &ids),
        pipe_data,
        fifo_data: Vec::new(),
        packets,
        shm,
        memfds: memfds(forest),
        remaps: Vec::new(),
        ghosts: Vec::new(),
        cgroup_sets: Vec::new(),
        cgroup_hierarchies: Vec::new(),
        file_locks: Vec::new(),
        seccomp_filters: Vec::new(),
        clocks: BTreeMap::new(),
        ipc,
        unread: Vec::new(),
    };
    arrange(&mut model);
    Ok(Synthetic { model, contents })
}

/// The ids of descriptions that somebody has or that are in flight: by resource and end.
struct Numbers(BTreeMap<(usize, usize), u32>);

impl Numbers {
    fn of(forest: &Forest) -> Numbers {
        let (mut ids, in_flight) = (BTreeMap::new(), forest.in_flight());
        for (resource, kind) in forest.resources.iter().enumerate() {
            for end in 0..kind.ends() {
                if in_flight.contains(&(resource, end)) || !forest.holders(resource, end).is_empty() {
                    ids.insert((resource, end), FIRST_OFD + ids.len() as u32);
                }
            }
        }
        Numbers(ids)
    }

    fn get(&self, resource: usize, end: usize) -> Option<u32> {
        self.0.get(&(resource, end)).copied()
    }
}

/// Everything whose memory is stored beside that of the tasks: the segments, then the memfds, with their names.
pub(super) fn inodes(forest: &Forest) -> Vec<(&Segment, &str)> {
    let memfds = forest.resources.iter().filter_map(|kind| match kind {
        Kind::Memfd { content, name, .. } => Some((content, name.as_str())),
        Kind::File { .. }
        | Kind::Pipe { .. }
        | Kind::Pair { .. }
        | Kind::Eventfd { .. }
        | Kind::Messages { .. }
        | Kind::Listener { .. }
        | Kind::Epoll { .. }
        | Kind::Signalfd { .. }
        | Kind::Timerfd => None,
    });
    forest.segments.iter().map(|segment| (segment, "/dev/zero")).chain(memfds).collect()
}

/// The number of a memfd among them.
fn inode_of_memfd(forest: &Forest, resource: usize) -> usize {
    let before = forest.resources.iter().take(resource);
    forest.segments.len() + before.filter(|kind| matches!(kind, Kind::Memfd { .. })).count()
}

/// The inode number of a segment or memfd, under which its pages are stored, too.
fn shmid(segment: usize) -> u64 {
    segment as u64 + 1
}

/// The inode of an end.
fn inode(resource: usize, end: usize) -> u32 {
    FIRST_INODE + resource as u32 * 2 + end as u32
}

fn namespaces(own: u32, shared: u32) -> KobjIds {
    KobjIds {
        vm: own,
        files: own,
        fs: own,
        sighand: own,
        pid_ns: shared,
        net_ns: shared + 1,
        ipc_ns: shared + 2,
        uts_ns: shared + 3,
        time_ns: shared + 4,
        mnt_ns: shared + 5,
        user_ns: shared + 6,
        cgroup_ns: shared + 7,
    }
}

/// The status flags of an end, as `F_GETFL` shows them.
pub(super) fn status_flags(kind: &Kind, end: usize) -> u32 {
    match (kind, end) {
        (Kind::File { flags, .. }, _) => flags | O_LARGEFILE,
        (Kind::Pipe { .. }, 0) => libc::O_RDONLY as u32,
        (Kind::Pipe { .. }, _) => libc::O_WRONLY as u32,
        (Kind::Memfd { .. }, _) => libc::O_RDWR as u32 | O_LARGEFILE,
        (
            Kind::Pair { .. }
            | Kind::Eventfd { .. }
            | Kind::Messages { .. }
            | Kind::Listener { .. }
            | Kind::Epoll { .. }
            | Kind::Signalfd { .. }
            | Kind::Timerfd,
            _,
        ) => libc::O_RDWR as u32,
    }
}

fn ofds(forest: &Forest, ground: &Ground<'_>, ids: &Numbers) -> Vec<Ofd> {
    let reg = |path: &str, flags: u32, position: u64| {
        OfdKind::Reg(RegFile {
            path: path.to_owned(),
            flags,
            position,
            fown: Fown::default(),
            mount_id: None,
            size_bytes: None,
            mode: None,
            is_external: false,
            build_id: Vec::new(),
            checksum: None,
        })
    };
    let mut kinds = vec![(ROOT_DIRECTORY, reg("/", 0, 0)), (EXECUTABLE, reg(ground.executable, 0, 0))];
    for (&(resource, end), &id) in &ids.0 {
        let kind = &forest.resources[resource];
        let flags = status_flags(kind, end);
        let fown = Fown::default();
        let made = match kind {
            Kind::File { path, position, .. } => reg(&path.to_string_lossy(), flags, *position),
            Kind::Pipe { .. } => OfdKind::Pipe(Pipe { pipe_id: inode(resource, 0), flags, fown }),
            Kind::Eventfd { counter } => OfdKind::Eventfd(Eventfd { flags, counter: *counter, fown }),
            Kind::Pair { .. } => OfdKind::Unix(Box::new(socket(resource, end, flags))),
            Kind::Messages { sock_type, .. } => {
                let sock_type = *sock_type;
                OfdKind::Unix(Box::new(UnixSocket { sock_type, ..socket(resource, end, flags) }))
            }
            Kind::Listener { name, backlog } => {
                /// `TCP_LISTEN`, which unix sockets have, too.
                const LISTEN: u32 = 10;
                let name = [b"\0", name.as_bytes()].concat();
                let (state, backlog, peer) = (LISTEN, *backlog, 0);
                let alone = socket(resource, end, flags);
                OfdKind::Unix(Box::new(UnixSocket { state, backlog, peer, name, ..alone }))
            }
            Kind::Epoll { interests } => {
                let interest = |watched: &super::Watched| Interest {
                    fd: watched.fd,
                    events: watched.events | (libc::EPOLLERR | libc::EPOLLHUP) as u32,
                    data: watched.data,
                    inode: None,
                };
                OfdKind::Epoll(Epoll { flags, fown, interests: interests.iter().map(interest).collect() })
            }
            Kind::Memfd { position, .. } => {
                let inode_id = shmid(inode_of_memfd(forest, resource));
                OfdKind::Memfd(MemfdFile { inode_id, flags, position: *position, fown })
            }
            Kind::Signalfd { mask } => OfdKind::Signalfd(Signalfd { flags, fown, mask: *mask }),
            Kind::Timerfd => OfdKind::Timerfd(Timerfd {
                flags,
                fown,
                clock_id: libc::CLOCK_MONOTONIC as u32,
                ticks: 0,
                settime_flags: 0,
                value_ns: 0,
                interval_ns: 0,
            }),
        };
        kinds.push((id, made));
    }
    let first = FIRST_OFD + ids.0.len() as u32;
    for (id, segment) in (first..).zip(0..forest.segments.len()) {
        let flags = libc::O_RDWR as u32 | O_LARGEFILE;
        let file = MemfdFile { inode_id: shmid(segment), flags, position: 0, fown: Fown::default() };
        kinds.push((id, OfdKind::Memfd(file)));
    }
    let origin = |entry| Origin::new(Image::Files, entry);
    kinds.into_iter().enumerate().map(|(entry, (id, kind))| Ofd { id, origin: origin(entry), kind }).collect()
}

/// Shared anonymous memory as CRIU stores it: a memfd named `/dev/zero` that nobody has open. (In the older form,
/// `VMA_ANON_SHARED`, two tasks that have two segments in different orders make CRIU wait for ever: each
/// owner waits until all others have opened its segment.)
fn memfds(forest: &Forest) -> Vec<MemfdInode> {
    /// `F_SEAL_SEAL`: the seals of what was not made to be sealed.
    const NO_SEALS: u32 = 1;
    let inode = |(index, (segment, name)): (usize, (&Segment, &str))| MemfdInode {
        inode_id: shmid(index),
        name: name.to_owned(),
        size_bytes: segment.len_pages * PAGE,
        shmid: shmid(index),
        seals: NO_SEALS,
        hugetlb_flag: None,
        mode: (index >= forest.segments.len()).then_some(libc::S_IFREG | 0o777),
        uid: 0,
        gid: 0,
        origin: Origin::new(Image::Memfd, index),
    };
    inodes(forest).into_iter().enumerate().map(inode).collect()
}

fn socket(resource: usize, end: usize, flags: u32) -> UnixSocket {
    /// `TCP_ESTABLISHED`, which connected unix sockets are, too.
    const ESTABLISHED: u32 = 1;
    UnixSocket {
        inode: inode(resource, end),
        sock_type: libc::SOCK_STREAM as u32,
        state: ESTABLISHED,
        flags,
        uflags: 0,
        backlog: 0,
        peer: inode(resource, 1 - end),
        fown: Fown::default(),
        options: SocketOptions {
            sndbuf_bytes: SOCKET_BUFFER_BYTES,
            rcvbuf_bytes: SOCKET_BUFFER_BYTES,
            rcvlowat: Some(1),
            priority: Some(0),
            mark: Some(0),
            buf_lock: Some(0),
            ..SocketOptions::default()
        },
        name: Vec::new(),
        shutdown: 0,
        name_dir: None,
        deleted: false,
        ns_id: Some(namespaces(1, 1).net_ns),
        mount_id: None,
        file_perms: None,
    }
}

fn queued(forest: &Forest, ids: &Numbers, contents: &mut Held) -> (Vec<PipeData>, Vec<Packet>) {
    let (mut pipes, mut packets) = (Vec::new(), Vec::new());
    for (resource, kind) in forest.resources.iter().enumerate() {
        match kind {
            // There is an entry for each pipe that somebody can read, for its capacity.
            Kind::Pipe { data } if ids.get(resource, 0).is_some() => {
                let origin = Origin::new(Image::PipesData, pipes.len());
                let data = contents.add(Image::PipesData, data);
                let capacity_bytes = Some(16 * PAGE as u32);
                pipes.push(PipeData { pipe_id: inode(resource, 0), capacity_bytes, data, origin });
            }
            Kind::Pair { queued } => {
                for (end, bytes) in queued.iter().enumerate().filter(|(_, bytes)| !bytes.is_empty()) {
                    let Some(id_for) = ids.get(resource, end) else { continue };
                    let origin = Origin::new(Image::SkQueues, packets.len());
                    let data = contents.add(Image::SkQueues, bytes);
                    packets.push(Packet { id_for, data, control_messages: 0, rights: Vec::new(), origin });
                }
            }
            Kind::Messages { queued, .. } => {
                for (end, message) in
                    queued.iter().enumerate().flat_map(|(end, list)| list.iter().map(move |it| (end, it)))
                {
                    let Some(id_for) = ids.get(resource, end) else { continue };
                    let origin = Origin::new(Image::SkQueues, packets.len());
                    let data = contents.add(Image::SkQueues, &message.bytes);
                    let rights: Vec<u32> =
                        message.rights.iter().filter_map(|(of, end)| ids.get(*of, *end)).collect();
                    let control_messages = u32::from(!rights.is_empty());
                    packets.push(Packet { id_for, data, control_messages, rights, origin });
                }
            }
            Kind::Pipe { .. }
            | Kind::File { .. }
            | Kind::Eventfd { .. }
            | Kind::Listener { .. }
            | Kind::Epoll { .. }
            | Kind::Memfd { .. }
            | Kind::Signalfd { .. }
            | Kind::Timerfd => {}
        }
    }
    (pipes, packets)
}

/// Extents of stretches of pages: (address of the first, pages with contents).
fn stored(contents: &mut Held, pages_id: u32, stretches: &[(u64, &[Page])]) -> Pages {
    let mut builder = PagesBuilder::new(pages_id);
    for (start, pages) in stretches {
        for page in *pages {
            builder.add(contents, start + page.index * PAGE, &page_bytes(page.seed));
        }
    }
    builder.pages
}

/// Pages one after the other; those that follow each other become one extent.
struct PagesBuilder {
    pages: Pages,
    len_bytes: u64,
}

impl PagesBuilder {
    fn new(pages_id: u32) -> PagesBuilder {
        PagesBuilder { pages: Pages { pages_id, extents: Vec::new() }, len_bytes: 0 }
    }

    /// Adds whole pages; what is missing to the last is zeros.
    fn add(&mut self, contents: &mut Held, start: u64, bytes: &[u8]) {
        let len = (bytes.len() as u64).next_multiple_of(PAGE);
        let mut whole = bytes.to_vec();
        whole.resize(len as usize, 0);
        let image = PagesImage::own(self.pages.pages_id);
        contents.add(Image::Pages(image), &whole);
        let (offset_bytes, len_pages) = (self.len_bytes, len / PAGE);
        self.len_bytes += len;
        match self.pages.extents.last_mut() {
            Some(last) if last.start + last.len_pages * PAGE == start => last.len_pages += len_pages,
            _ => {
                // The head of a pagemap is entry 0.
                let entry = self.pages.extents.len() as u32 + 1;
                self.pages.extents.push(Extent { start, len_pages, image, offset_bytes, entry });
            }
        }
    }
}

/// The registers that a task wakes with.
fn registers(tid: u32) -> Registers {
    let mut state = u64::from(tid).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut general = [0; 15];
    general.fill_with(|| random::next(&mut state));
    // rsp: nobody uses it, but the kernel looks at it where a stack may grow.
    general[6] = STACK + STACK_BYTES - 64;
    let mut xmm = [0; 256];
    xmm.as_chunks_mut::<8>().0.iter_mut().for_each(|word| *word = random::next(&mut state).to_le_bytes());
    Registers { general, xmm }
}

/// What a task checks when it wakes.
pub fn checks(forest: &Forest, index: usize) -> Vec<Check> {
    let task = &forest.tasks[index];
    let mut checks = vec![payload::check_registers(DATA, &registers(task.pid))];
    let mut call = |what: String, number: i64, args: [u64; 6], result: i64| {
        checks.push(Check { what, deed: Deed::Call { number, args, result } });
    };
    call("its pid".to_owned(), libc::SYS_getpid, [0; 6], i64::from(task.pid));
    if let Some(parent) = task.parent {
        // The root's parent is who restored it.
        call("its parent".to_owned(), libc::SYS_getppid, [0; 6], i64::from(forest.tasks[parent].pid));
    }
    call("its process group".to_owned(), libc::SYS_getpgid, [0; 6], i64::from(task.pgid));
    call("its session".to_owned(), libc::SYS_getsid, [0; 6], i64::from(task.sid));
    for slot in &task.table {
        let (fd, kind) = (slot.fd, &forest.resources[slot.resource]);
        let of = |what: &str| format!("descriptor {fd} ({}): {what}", kind.name());
        let fcntl = |command: i32| [u64::from(fd), command as u64, 0, 0, 0, 0];
        call(of("close-on-exec"), libc::SYS_fcntl, fcntl(libc::F_GETFD), i64::from(slot.cloexec));
        let flags = i64::from(status_flags(kind, slot.end));
        call(of("status flags"), libc::SYS_fcntl, fcntl(libc::F_GETFL), flags);
        if let Kind::File { position, .. } = kind {
            let args = [u64::from(fd), 0, libc::SEEK_CUR as u64, 0, 0, 0];
            call(of("offset"), libc::SYS_lseek, args, *position as i64);
        }
    }
    let numbers: Vec<u32> = task.table.iter().map(|slot| slot.fd).collect();
    let mut unused = (0..).filter(|fd| !numbers.contains(fd));
    let (low, high) = (unused.next().unwrap_or(0), unused.next().unwrap_or(0));
    // Where others have the table, too, nobody opens anything in it: they would see it.
    let is_shared = |other: &Task| other.shares_table && other.parent == Some(index);
    let free = (!task.shares_table && !forest.tasks.iter().any(is_shared)).then_some((low, high));
    for fd in [low, high, numbers.iter().max().map_or(0, |fd| fd + 1)] {
        let args = [u64::from(fd), libc::F_GETFD as u64, 0, 0, 0, 0];
        call(format!("descriptor {fd}: none"), libc::SYS_fcntl, args, -i64::from(libc::EBADF));
    }
    checks.extend(task.attributes.checks());
    for slot in &task.table {
        check_queue(forest, slot, free, &mut checks);
    }
    for mapping in &task.private {
        let bytes = stretch_bytes(&mapping.pages, 0, mapping.len_pages);
        let what = format!("memory at {:#x}", mapping.start);
        checks.push(Check { what, deed: Deed::Bytes { address: mapping.start, bytes } });
    }
    for view in &task.views {
        let bytes = stretch_bytes(&forest.segments[view.segment].pages, view.offset_pages, view.len_pages);
        let what = format!("shared memory at {:#x}", view.start);
        checks.push(Check { what, deed: Deed::Bytes { address: view.start, bytes } });
    }
    if let Some(ipc) = &forest.ipc {
        // Whoever has given up nothing may look at everything.
        checks.extend(ipc.checks(index == 0 && task.attributes.credentials.is_none()));
        for it in &task.attached {
            let pages = &ipc.segments[it.segment].memory.pages;
            let bytes = stretch_bytes(pages, it.offset_pages, it.len_pages);
            let what = format!("System V memory at {:#x}", it.start);
            checks.push(Check { what, deed: Deed::Bytes { address: it.start, bytes } });
        }
    }
    checks.extend(task.rings.iter().enumerate().flat_map(|(number, ring)| ring.checks(number)));
    checks
}

/// What waits at a descriptor: its length, and, where it can be read, its bytes, which stay there. `free`: numbers at
/// which something may be opened.
fn check_queue(forest: &Forest, slot: &super::Slot, free: Option<(u32, u32)>, checks: &mut Vec<Check>) {
    const BUFFER: u64 = SCRATCH + PAGE;
    const SPLICE_NONBLOCK: u64 = 2;
    let (fd, kind) = (u64::from(slot.fd), &forest.resources[slot.resource]);
    let queued = kind.queued(slot.end);
    let len = queued.len() as u64;
    let what = |what: &str| format!("descriptor {fd} ({}): {what}", kind.name());
    let call = |text: &str, number: i64, args: [u64; 6], result: i64| Check {
        what: what(text),
        deed: Deed::Call { number, args, result },
    };
    let bytes = |text: &str, address: u64, bytes: &[u8]| Check {
        what: what(text),
        deed: Deed::Bytes { address, bytes: bytes.to_vec() },
    };
    let waits = || {
        [
            call("FIONREAD", libc::SYS_ioctl, [fd, libc::FIONREAD, SCRATCH, 0, 0, 0], 0),
            bytes("how much waits", SCRATCH, &(len as u32).to_le_bytes()),
        ]
    };
    match kind {
        Kind::Pipe { .. } => {
            checks.extend(waits());
            if let Some((low, high)) = free.filter(|_| slot.end == 0 && len > 0) {
                // What waits goes into a pipe of our own as well (tee(2)), and is read there.
                let (out, into) = (u64::from(low), u64::from(high));
                let ends: Vec<u8> = [low, high].iter().flat_map(|fd| fd.to_le_bytes()).collect();
                checks.extend([
                    call("a pipe to look at it", libc::SYS_pipe2, [SCRATCH, 0, 0, 0, 0, 0], 0),
                    bytes("the lowest free descriptors", SCRATCH, &ends),
                    call("tee", libc::SYS_tee, [fd, into, len, SPLICE_NONBLOCK, 0, 0], len as i64),
                    call("read", libc::SYS_read, [out, BUFFER, len, 0, 0, 0], len as i64),
                    bytes("what waits", BUFFER, queued),
                    call("close", libc::SYS_close, [out, 0, 0, 0, 0, 0], 0),
                    call("close", libc::SYS_close, [into, 0, 0, 0, 0, 0], 0),
                ]);
            }
        }
        Kind::Pair { .. } => {
            checks.extend(waits());
            if len > 0 {
                let flags = (libc::MSG_PEEK | libc::MSG_DONTWAIT) as u64;
                checks.extend([
                    call("peek", libc::SYS_recvfrom, [fd, BUFFER, len, flags, 0, 0], len as i64),
                    bytes("what waits", BUFFER, queued),
                ]);
            }
        }
        Kind::Messages { sock_type, .. } => {
            let messages = kind.messages(slot.end);
            // unix_inq_len in net/unix/af_unix.c: of datagrams the first, else all that waits.
            let told: u64 = if *sock_type != libc::SOCK_DGRAM as u32 {
                messages.iter().map(|message| message.bytes.len() as u64).sum()
            } else {
                len
            };
            checks.push(call("FIONREAD", libc::SYS_ioctl, [fd, libc::FIONREAD, SCRATCH, 0, 0, 0], 0));
            checks.push(bytes("how much waits", SCRATCH, &(told as u32).to_le_bytes()));
            if len > 0 {
                let flags = (libc::MSG_PEEK | libc::MSG_DONTWAIT) as u64;
                let peek = [fd, BUFFER, len, flags, 0, 0];
                checks.push(call("peek", libc::SYS_recvfrom, peek, len as i64));
                checks.push(bytes("what waits", BUFFER, queued));
            }
        }
        Kind::Memfd { content, position, .. } => {
            let at = [fd, 0, libc::SEEK_CUR as u64, 0, 0, 0];
            checks.push(call("offset", libc::SYS_lseek, at, *position as i64));
            for page in &content.pages {
                let read = [fd, BUFFER, PAGE, page.index * PAGE, 0, 0];
                checks.push(call("read", libc::SYS_pread64, read, PAGE as i64));
                checks.push(bytes("a page", BUFFER, &page_bytes(page.seed)));
            }
        }
        Kind::File { .. }
        | Kind::Eventfd { .. }
        | Kind::Listener { .. }
        | Kind::Epoll { .. }
        | Kind::Signalfd { .. }
        | Kind::Timerfd => {}
    }
}

/// What a further thread checks: that it is there, with its own registers.
pub fn thread_checks(tid: u32, number: usize) -> Vec<Check> {
    let gettid = Deed::Call { number: libc::SYS_gettid, args: [0; 6], result: tid.into() };
    let registers = payload::check_registers(payload::data_of(number), &registers(tid));
    vec![registers, Check { what: "its tid".to_owned(), deed: gettid }]
}

fn model_task(
    forest: &Forest,
    index: usize,
    ground: &Ground<'_>,
    ids: &Numbers,
    contents: &mut Held,
) -> ModelTask {
    let task = &forest.tasks[index];
    let state = match task.dead {
        Some(code) => TaskState::Zombie { exit_code: u32::from(code) << 8, comm: "twig".to_owned() },
        None => TaskState::Alive(Box::new(alive(forest, index, ground, ids, contents))),
    };
    ModelTask {
        pid: NsPid(task.pid),
        ppid: NsPid(task.parent.map_or(0, |parent| forest.tasks[parent].pid)),
        pgid: NsPid(task.pgid),
        sid: NsPid(task.sid),
        origin: Origin::new(Image::Pstree, index),
        core_origin: Origin::new(Image::Core(task.pid), 0),
        state,
    }
}

/// The task whose table a task has: itself, or the first above it with which it shares it.
fn table_of(forest: &Forest, index: usize) -> usize {
    let task = &forest.tasks[index];
    task.parent.filter(|_| task.shares_table).map_or(index, |parent| table_of(forest, parent))
}

fn alive(forest: &Forest, index: usize, ground: &Ground<'_>, ids: &Numbers, contents: &mut Held) -> Alive {
    let (task, own) = (&forest.tasks[index], ground.own);
    let id = index as u32 + 2;
    let files = table_of(forest, index) as u32 + 2;
    let mut fds: Vec<FdEntry> = task
        .table
        .iter()
        .filter_map(|slot| {
            let ofd_id = ids.get(slot.resource, slot.end)?;
            Some(FdEntry { fd: slot.fd, ofd_id, cloexec: slot.cloexec, entry: 0 })
        })
        .collect();
    fds.sort_by_key(|fd| fd.fd);
    let limit = |(resource, limit): (usize, &Option<RLimit>)| {
        task.attributes.limit(resource, limit.unwrap_or(RLimit { cur: 0, max: 0 }))
    };
    (0..).zip(&mut fds).for_each(|(entry, fd)| fd.entry = entry);
    Alive {
        comm: task.attributes.name.clone().unwrap_or_else(|| "twig".to_owned()),
        personality: own.personality.unwrap_or(0),
        umask: task.attributes.umask.unwrap_or(0o022),
        ids: ids_of(forest, KobjIds { files, ..namespaces(id, 1) }),
        sigactions: (1..=64).map(|signal| task.attributes.action(signal)).collect(),
        rlimits: own.rlimits.iter().enumerate().map(limit).collect(),
        pending_shared: Vec::new(),
        oom_score_adj: own.oom_score_adj.unwrap_or(0),
        loginuid: None,
        child_subreaper: task.attributes.subreaper,
        membarrier: 0,
        stop_signo: None,
        timers: Timers::default(),
        threads: threads(task, own),
        mm: mm(forest, index, contents),
        fs: Fs {
            cwd_id: ROOT_DIRECTORY,
            root_id: ROOT_DIRECTORY,
            origin: Origin::new(Image::Fs(task.pid), 0),
        },
        fds: fds.into(),
    }
}

/// In the namespace that the forest has of its own.
fn ids_of(forest: &Forest, ids: KobjIds) -> KobjIds {
    KobjIds { ipc_ns: if forest.ipc.is_some() { ipc::NAMESPACE } else { ids.ipc_ns }, ..ids }
}

fn threads(task: &Task, own: &OwnFacts) -> Vec<Thread> {
    let tids = std::iter::once(task.pid).chain(task.threads.iter().copied());
    tids.enumerate()
        .map(|(number, tid)| {
            let mut thread = thread(tid, payload::data_of(number), own);
            task.attributes.set(&mut thread, &creds(own));
            thread
        })
        .collect()
}

fn thread(tid: u32, data: u64, own: &OwnFacts) -> Thread {
    let Registers { general, xmm } = registers(tid);
    let [ax, cx, dx, si, di, bp, sp, r8, r9, r10, r11, r12, r13, r14, r15] = general;
    Thread {
        tid: NsPid(tid),
        origin: Origin::new(Image::Core(tid), 0),
        regs: Regs {
            r15,
            r14,
            r13,
            r12,
            bp,
            bx: data,
            r11,
            r10,
            r9,
            r8,
            ax,
            cx,
            dx,
            si,
            di,
            // No system call is to be gone on with.
            orig_ax: u64::MAX,
            ip: TEXT,
            cs: USER_CS,
            // Interrupts on, and the bit that is always set.
            flags: 0x202,
            sp,
            ss: USER_SS,
            ..Regs::default()
        },
        fpu: Some(Box::new(Fpu {
            // As a new task has them: all exceptions masked, full precision.
            cwd: 0x37f,
            mxcsr: 0x1f80,
            mxcsr_mask: 0xffff,
            st_space: vec![0; 128],
            xmm_space: xmm.to_vec(),
            ..Fpu::default()
        })),
        gdt_tls: 0,
        clear_tid_addr: 0,
        robust_list: (0, 0),
        blocked: 0,
        sas: SigAltStack { sp: 0, size_bytes: 0, flags: libc::SS_DISABLE as u32 },
        pending: Vec::new(),
        comm: None,
        rseq: None,
        sched: Sched { policy: 0, priority: 0, nice: own.nice.unwrap_or(0) },
        pdeath_sig: 0,
        creds: None,
        seccomp_mode: 0,
        seccomp_filter: None,
        cg_set: None,
        timer_slack_ns: None,
    }
}

fn creds(own: &OwnFacts) -> Creds {
    let (uids, gids) = (own.uids.unwrap_or_default(), own.gids.unwrap_or_default());
    let Ids { real: uid, effective: euid, saved: suid, fs: fsuid } = uids;
    let Ids { real: gid, effective: egid, saved: sgid, fs: fsgid } = gids;
    let CapSets { effective, permitted, inheritable, bounding, ambient } = own.caps;
    Creds {
        uid,
        gid,
        euid,
        egid,
        suid,
        sgid,
        fsuid,
        fsgid,
        cap_inh: inheritable,
        cap_prm: permitted,
        cap_eff: effective,
        cap_bnd: bounding,
        cap_amb: ambient,
        securebits: own.securebits.unwrap_or(0),
        groups: own.groups.clone().unwrap_or_default(),
        no_new_privs: own.no_new_privs.unwrap_or(false),
        lsm_profile: None,
        lsm_sockcreate: None,
    }
}

/// What a mapping shows: of a segment from which offset on, bytes.
#[derive(Debug, Clone, Copy)]
enum Shows {
    Private,
    Segment(usize, u64),
    SysV { id: u32, offset_bytes: u64, read_only: bool },
    Ring,
}

/// A mapping with what it holds.
struct Mapped {
    start: u64,
    len: u64,
    prot: i32,
    shows: Shows,
    /// Stretches of whole pages: address, bytes.
    pages: Vec<(u64, Vec<u8>)>,
}

impl Mapped {
    fn private(start: u64, len: u64, prot: i32) -> Mapped {
        Mapped { start, len: len.next_multiple_of(PAGE), prot, shows: Shows::Private, pages: Vec::new() }
    }

    fn holding(start: u64, bytes: Vec<u8>, prot: i32) -> Mapped {
        let mapped = Mapped::private(start, bytes.len() as u64, prot);
        Mapped { pages: vec![(start, bytes)], ..mapped }
    }
}

fn mappings(forest: &Forest, index: usize) -> Vec<Mapped> {
    const READ: i32 = libc::PROT_READ;
    const WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
    let task = &forest.tasks[index];
    let mut data = payload::data(DATA, &checks(forest, index));
    data[COMMAND_AT as usize..][..COMMAND.len()].copy_from_slice(COMMAND);
    let mut all = vec![
        Mapped::holding(TEXT, payload::code().to_vec(), READ | libc::PROT_EXEC),
        Mapped::holding(DATA, data, WRITE),
        Mapped::private(SCRATCH, SCRATCH_BYTES, WRITE),
        Mapped::private(STACK, STACK_BYTES, WRITE),
    ];
    for (tid, number) in task.threads.iter().zip(1..) {
        let at = payload::data_of(number);
        all.push(Mapped::holding(at, payload::data(at, &thread_checks(*tid, number)), WRITE));
    }
    for it in &task.private {
        let prot = if it.writable { WRITE } else { READ };
        let pages = it.pages.iter().map(|page| (it.start + page.index * PAGE, page_bytes(page.seed)));
        all.push(Mapped { pages: pages.collect(), ..Mapped::private(it.start, it.len_pages * PAGE, prot) });
    }
    for view in &task.views {
        let shows = Shows::Segment(view.segment, view.offset_pages * PAGE);
        all.push(Mapped { shows, ..Mapped::private(view.start, view.len_pages * PAGE, WRITE) });
    }
    for it in &task.attached {
        let Some(segment) = forest.ipc.as_ref().and_then(|ipc| ipc.segments.get(it.segment)) else {
            continue;
        };
        let (id, offset_bytes, read_only) = (segment.perm.id, it.offset_pages * PAGE, it.read_only);
        let shows = Shows::SysV { id, offset_bytes, read_only };
        let prot = if read_only { READ } else { WRITE };
        all.push(Mapped { shows, ..Mapped::private(it.start, it.len_pages * PAGE, prot) });
    }
    for (number, ring) in task.rings.iter().enumerate() {
        all.push(Mapped { shows: Shows::Ring, ..Mapped::holding(ring.start, ring.bytes(number), WRITE) });
    }
    all.sort_by_key(|it| it.start);
    all
}

fn mm(forest: &Forest, index: usize, contents: &mut Held) -> Mm {
    let pid = forest.tasks[index].pid;
    let mappings = mappings(forest, index);
    let mut pages = PagesBuilder::new(index as u32 + 1);
    for (address, bytes) in mappings.iter().flat_map(|it| &it.pages) {
        pages.add(contents, *address, bytes);
    }
    let rings = rings(&forest.tasks[index], &mut pages.pages);
    let vmas = mappings.iter().enumerate().map(|(entry, it)| {
        const REGULAR: u32 = vma::AREA_REGULAR;
        const SYSV: u32 = REGULAR | vma::ANON_SHARED | vma::AREA_SYSVIPC;
        let (kind, status, flags) = match it.shows {
            Shows::Private => {
                (VmaKind::AnonPrivate, REGULAR | vma::ANON_PRIVATE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
            }
            Shows::Segment(segment, offset_bytes) => {
                let kind = VmaKind::AnonShared { shmid: shmid(segment), offset_bytes };
                (kind, REGULAR | vma::FILE_SHARED | vma::AREA_MEMFD, libc::MAP_SHARED)
            }
            Shows::SysV { id: shmid, offset_bytes, read_only } => {
                (VmaKind::SysV { shmid, offset_bytes, read_only }, SYSV, libc::MAP_SHARED)
            }
            Shows::Ring => (VmaKind::AioRing, vma::AREA_AIORING, libc::MAP_SHARED),
        };
        Vma {
            start: it.start,
            end: it.start + it.len,
            prot: it.prot as u32,
            flags: flags as u32,
            status,
            kind,
            madvise: 0,
            origin: Origin::new(Image::Mm(pid), entry),
        }
    });
    let end_data = mappings.iter().find(|it| it.start == DATA).map_or(DATA, |it| it.start + it.len);
    Mm {
        origin: Origin::new(Image::Mm(pid), 0),
        start_code: TEXT,
        end_code: TEXT + payload::code().len() as u64,
        start_data: DATA,
        end_data,
        start_stack: STACK + STACK_BYTES - 64,
        // Behind everything, and empty.
        start_brk: super::MAPPINGS.end,
        brk: super::MAPPINGS.end,
        arg_start: DATA + COMMAND_AT,
        arg_end: DATA + COMMAND_AT + COMMAND.len() as u64,
        env_start: DATA + COMMAND_AT + COMMAND.len() as u64,
        env_end: DATA + COMMAND_AT + COMMAND.len() as u64,
        exe_file_id: EXECUTABLE,
        // AT_NULL.
        auxv: vec![0, 0],
        dumpable: Some((!forest.tasks[index].attributes.undumpable).into()),
        thp_disabled: false,
        aio_rings: rings,
        vmas: vmas.collect(),
        guards: Vec::new(),
        pages: pages.pages,
    }
}

/// The rings of a task, by address. Their pages are taken out of `pages`.
fn rings(task: &Task, pages: &mut Pages) -> Vec<AioRing> {
    let mut rings: Vec<AioRing> = Vec::new();
    for (number, ring) in task.rings.iter().enumerate() {
        let end = ring.start + ring.len_pages * PAGE;
        rings.push(AioRing {
            start: ring.start,
            len_bytes: end - ring.start,
            requests: most_pending(ring.len_pages),
            id: number as u32,
            head: ring.head,
            tail: ring.tail(),
            pages: take_range(pages, ring.start, end),
            origin: Origin::new(Image::Mm(task.pid), 0),
        });
    }
    rings.sort_by_key(|ring| ring.start);
    rings
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::host;
    use crate::image::{Contents, open_blob, read_model, write_model};
    use crate::synth::random::Shape;

    /// What is written reads as the model that was written; only pieces of raw bytes lie elsewhere.
    #[test]
    fn it_reads_as_it_was_made() {
        for seed in 0..6 {
            let shape = Shape {
                tasks: 20,
                depth: 3,
                shared_fds: 20,
                shared_maps: 5,
                with_pairs: true,
                first_pid: 500,
                directory: "/x".into(),
                seed,
            };
            let ground = Ground { own: &host::gather_own(), executable: "/bin/true" };
            let Synthetic { mut model, contents } = synthesise(&shape.forest(), &ground).unwrap();
            let dir = tempfile::tempdir().unwrap();
            write_model(&model, &contents, dir.path()).unwrap();
            let on_disk = read_model(dir.path()).unwrap();
            let mut read = on_disk.clone();
            read.dir = model.dir.clone();
            let blobs = |model: &Model| -> Vec<_> {
                let pipes = model.pipe_data.iter().map(|pipe| pipe.data);
                pipes.chain(model.packets.iter().map(|packet| packet.data)).collect()
            };
            assert!(!blobs(&model).is_empty());
            for (made, written) in blobs(&model).iter().zip(blobs(&read)) {
                assert_eq!(*contents.bytes(made).unwrap(), open_blob(&on_disk, &written).unwrap());
            }
            for model in [&mut model, &mut read] {
                model.pipe_data.iter_mut().for_each(|pipe| pipe.data.offset_bytes = 0);
                model.packets.iter_mut().for_each(|packet| packet.data.offset_bytes = 0);
            }
            assert_eq!(format!("{read:#?}"), format!("{model:#?}"), "seed {seed}");
        }
    }
}
