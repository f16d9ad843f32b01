//! Recipes: what makes each resource and what each step does, as plain values.
//!
//! They are what `resolve` hands to `lower`: everything an operation needs, in the field's own
//! terms (paths, addresses, flags), and nothing of images but the [`Origin`] for messages.

use std::sync::Arc;

use regrow_graph::ids::Fd;

use crate::image::{
    CgroupPerms, CgroupProperty, Creds, Fown, InetSocket, Origin, PosixTimer, SigAction, SigAltStack,
    SocketOptions,
};

/// A step of one task, with where it comes from.
#[derive(Debug, Clone)]
pub struct StepRecipe {
    /// What is done.
    pub kind: StepKind,
    /// The image entry that asks for it.
    pub origin: Origin,
}

/// What a step does. Addresses and lengths in bytes.
#[derive(Debug, Clone)]
pub enum StepKind {
    /// Drop everything that the launcher left: all mappings but the window, all descriptors.
    Bare,
    /// `unshare(CLONE_NEWIPC)`: an IPC namespace for the whole tree.
    NewIpcNamespace,
    /// Drop the address space of the parent: all mappings but the window.
    Vacate,
    /// `munmap(2)`.
    Unmap {
        /// First address.
        start: u64,
        /// Length.
        len: u64,
    },
    /// `rt_sigaction(2)`.
    SigAction {
        /// Signal number.
        signal: u32,
        /// What to do.
        action: SigAction,
    },
    /// `umask(2)`.
    Umask(u32),
    /// `chdir(2)`.
    Chdir(String),
    /// `fchdir(2)` to the needed directory.
    EnterDirectory,
    /// `chroot(2)`.
    Chroot(String),
    /// `prctl(PR_SET_NAME)`.
    Comm(String),
    /// `personality(2)`.
    Personality(u32),
    /// `mmap(2)` of anonymous memory, or (`file_offset`) of the file that the step needs.
    Mmap {
        /// First address.
        start: u64,
        /// Length.
        len: u64,
        /// Protection while restoring.
        prot: u32,
        /// `MAP_*` without MAP_FIXED.
        flags: u32,
        /// Offset in the needed file; `None`: anonymous.
        file_offset: Option<u64>,
    },
    /// The ring of an AIO context, and the events that have gone through it.
    Ring(RingRecipe),
    /// A view of a carrier: `mremap(2)` with old size 0.
    MapShared {
        /// Address in the carrier.
        from: u64,
        /// First address.
        start: u64,
        /// Length.
        len: u64,
    },
    /// A view of a System V segment of huge pages: attached in the window, and moved from there.
    AttachHuge(HugeView),
    /// A mapping that is there, made longer at its end: `mremap(2)` that moves nothing.
    Grow {
        /// First address.
        start: u64,
        /// Length so far.
        len: u64,
        /// Length then.
        new_len: u64,
    },
    /// `mprotect(2)`.
    Mprotect {
        /// First address.
        start: u64,
        /// Length.
        len: u64,
        /// Final protection.
        prot: u32,
    },
    /// `madvise(2)`.
    Madvise {
        /// First address.
        start: u64,
        /// Length.
        len: u64,
        /// `MADV_*`.
        advice: u32,
    },
    /// `mlock(2)`.
    Mlock {
        /// First address.
        start: u64,
        /// Length.
        len: u64,
    },
    /// The running kernel's vDSO and its data, from this address on.
    MapVdso {
        /// Address of the first of them.
        start: u64,
    },
    /// Write into own memory that may be written: `process_vm_writev(2)`.
    Poke {
        /// The task's pid.
        pid: u32,
        /// Address and bytes.
        pieces: Vec<(u64, Vec<u8>)>,
    },
    /// Read pages from the needed pages image.
    Fill {
        /// Where the bytes go: address and length, in the order of the image.
        pieces: Vec<(u64, u64)>,
        /// Offset of the first byte in the image.
        offset: u64,
    },
    /// Bring pages from the needed pages image into place by the needed userfaultfd.
    Copy(Box<Copying>),
    /// `prctl(PR_SET_MM, PR_SET_MM_MAP)` with the needed executable.
    SetMm(Box<MmMap>),
    /// `sigaltstack(2)`.
    AltStack(SigAltStack),
    /// `set_robust_list(2)`.
    RobustList {
        /// Head.
        head: u64,
        /// Length.
        len: u64,
    },
    /// `set_tid_address(2)`.
    TidAddress {
        /// Address.
        address: u64,
        /// What the call returns: the pid.
        pid: u32,
    },
    /// `rseq(2)`.
    Rseq {
        /// Address of the area.
        address: u64,
        /// Length of the area.
        len: u32,
        /// Signature.
        signature: u32,
    },
    /// `prctl(PR_SET_DUMPABLE)`.
    Dumpable(u32),
    /// `prctl(PR_SET_THP_DISABLE)`.
    ThpDisable(bool),
    /// `prctl(PR_SET_CHILD_SUBREAPER)`.
    ChildSubreaper(bool),
    /// `prctl(PR_SET_PDEATHSIG)`.
    ParentDeathSignal(u32),
    /// A lock of the file at a number of the final table.
    Lock {
        /// The number.
        fd: u32,
        /// The lock.
        lock: FileLock,
    },
    /// `setpriority(2)`.
    Nice(i32),
    /// `prctl(PR_SET_TIMERSLACK)`, in nanoseconds.
    TimerSlack(u64),
    /// `sched_setscheduler(2)`.
    Scheduler {
        /// `SCHED_*`.
        policy: u32,
        /// Static priority.
        priority: u32,
    },
    /// Write this to the needed file, from its start.
    Write(Vec<u8>),
    /// A pending signal, put back with its `siginfo_t`: `rt_sigqueueinfo(2)` or, to the thread alone,
    /// `rt_tgsigqueueinfo(2)`.
    QueueSignal {
        /// Whose.
        pid: u32,
        /// The thread, where it is the thread's own.
        tid: Option<u32>,
        /// Signal number.
        signal: u32,
        /// `siginfo_t`, 128 bytes.
        info: Vec<u8>,
    },
    /// `setitimer(2)`.
    IntervalTimer {
        /// `ITIMER_*`.
        which: u32,
        /// Interval, in microseconds.
        interval_us: u64,
        /// Time left, in microseconds.
        value_us: u64,
    },
    /// POSIX timers with their ids, not armed: `timer_create(2)`.
    PosixTimers(Vec<PosixTimer>),
    /// Arm a POSIX timer: `timer_settime(2)`.
    ArmTimer(PosixTimer),
    /// `membarrier(2)`: register these commands, one bit each.
    Membarrier(u32),
    /// All ids, groups and capabilities.
    Credentials(Box<Credentials>),
    /// `seccomp(2)`: strict mode.
    SeccompStrict,
    /// `seccomp(2)`: these filters, the oldest first.
    SeccompFilters(Vec<SeccompProgram>),
    /// `epoll_ctl(EPOLL_CTL_ADD)`: numbers are those of the final table.
    Watch {
        /// The epoll file; `None`: what the step needs.
        epoll: Option<Fd>,
        /// What it watches.
        target: Fd,
        /// `EPOLL*`.
        events: u32,
        /// What the program gets with an event.
        data: u64,
    },
    /// `timerfd_settime(2)` of the descriptor with this number in the final table, and its ticks.
    ArmTimerfd {
        /// The descriptor.
        fd: Fd,
        /// Its clock, `CLOCK_*`.
        clock_id: u32,
        /// `TFD_TIMER_*`.
        flags: u32,
        /// First expiry in nanoseconds; 0: never.
        value_ns: u64,
        /// Interval in nanoseconds.
        interval_ns: u64,
        /// Expirations to be read.
        ticks: u64,
    },
    /// `F_SETSIG` and `F_SETOWN_EX` of the descriptor with this number in the final table.
    Owner {
        /// The descriptor.
        fd: Fd,
        /// Who gets signals, and which.
        fown: Fown,
        /// Real and effective uid to go back to, where the owner was set with other ones.
        own_uids: Option<[u32; 2]>,
    },
    /// Queues with descriptors in flight of the socket pair whose ends come first among what is
    /// needed, and all that must follow the sending.
    FillPair(Box<[SocketEnd; 2]>),
    /// `prlimit64(2)` of the task itself.
    RLimit {
        /// `RLIMIT_*`.
        resource: u32,
        /// Soft limit.
        cur: u64,
        /// Hard limit.
        max: u64,
    },
}

impl StepKind {
    /// How many bytes of pages it brings in.
    pub fn filled_bytes(&self) -> u64 {
        match self {
            StepKind::Copy(copying) => copying.pieces.iter().map(|(_, _, len)| len).sum(),
            StepKind::Fill { pieces, .. } => pieces.iter().map(|(_, len)| len).sum(),
            StepKind::Bare
            | StepKind::Vacate
            | StepKind::Unmap { .. }
            | StepKind::SigAction { .. }
            | StepKind::Umask(_)
            | StepKind::Chdir(_)
            | StepKind::EnterDirectory
            | StepKind::Chroot(_)
            | StepKind::Comm(_)
            | StepKind::Personality(_)
            | StepKind::Mmap { .. }
            | StepKind::MapShared { .. }
            | StepKind::AttachHuge(_)
            | StepKind::Grow { .. }
            | StepKind::Mprotect { .. }
            | StepKind::Madvise { .. }
            | StepKind::Mlock { .. }
            | StepKind::MapVdso { .. }
            | StepKind::Poke { .. }
            | StepKind::SetMm(_)
            | StepKind::AltStack(_)
            | StepKind::RobustList { .. }
            | StepKind::TidAddress { .. }
            | StepKind::Rseq { .. }
            | StepKind::Dumpable(_)
            | StepKind::ThpDisable(_)
            | StepKind::ChildSubreaper(_)
            | StepKind::ParentDeathSignal(_)
            | StepKind::Lock { .. }
            | StepKind::Nice(_)
            | StepKind::TimerSlack(_)
            | StepKind::Scheduler { .. }
            | StepKind::Write(_)
            | StepKind::QueueSignal { .. }
            | StepKind::IntervalTimer { .. }
            | StepKind::PosixTimers(_)
            | StepKind::ArmTimer(_)
            | StepKind::Membarrier(_)
            | StepKind::Credentials(_)
            | StepKind::SeccompStrict
            | StepKind::SeccompFilters(_)
            | StepKind::Watch { .. }
            | StepKind::ArmTimerfd { .. }
            | StepKind::Owner { .. }
            | StepKind::FillPair(_)
            | StepKind::RLimit { .. }
            | StepKind::Ring(_)
            | StepKind::NewIpcNamespace => 0,
        }
    }
}

/// Where pages that are brought by a userfaultfd are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PagesFrom {
    /// Copied from a mapping of their image, which starts there in it.
    Image {
        /// In bytes.
        offset: u64,
    },
    /// Read into memory that may have huge pages, and moved from there by blocks of 2 MiB. These are one behind the other there;
    /// in each are pieces of one image, which are nearly all of it, and what is between them is dropped behind the move.
    Stage,
}

/// Pages that are brought into place by a userfaultfd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copying {
    /// The mappings that they go into: first address and length.
    pub mappings: Vec<(u64, u64)>,
    /// What they are taken from.
    pub from: PagesFrom,
    /// Where that is mapped meanwhile; 0 until the window is known.
    pub source: u64,
    /// How long it is.
    pub len: u64,
    /// Where pages go, their offset in the image, and their length.
    pub pieces: Vec<(u64, u64, u64)>,
    /// Pids of short-lived tasks in the same address space, who bring an equal part each at the same time.
    pub guests: Vec<u32>,
}

/// A filter of system calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeccompProgram {
    /// `struct sock_filter`, one after another.
    pub program: Arc<[u8]>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

/// A file lock that nobody contends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileLock {
    /// `flock(2)`: of the description.
    Whole {
        /// `LOCK_SH` or `LOCK_EX`.
        operation: i32,
    },
    /// `fcntl(F_SETLK)`, of the task, or (`is_ofd`) `fcntl(F_OFD_SETLK)`, of the description.
    Range {
        /// Of the description.
        is_ofd: bool,
        /// `F_RDLCK` or `F_WRLCK`.
        kind: i16,
        /// First byte.
        start: i64,
        /// Length, 0: to the end.
        len: i64,
    },
    /// `fcntl(F_SETLEASE)`.
    Lease {
        /// `F_RDLCK` or `F_WRLCK`.
        kind: i16,
    },
}

/// The credentials a task ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// All of them.
    pub wanted: Creds,
    /// Those that are inherited.
    pub own: Creds,
}

/// `struct prctl_mm_map` (linux/prctl.h) without the executable.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct MmMap {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub brk: u64,
    pub start_stack: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    pub auxv: Vec<u64>,
}

/// How the ring of an AIO context is made: `io_setup(2)`, then requests that read nothing of the file that the step needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingRecipe {
    /// Its address.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
    /// What it is asked for with.
    pub requests: u32,
    /// How many events are read again.
    pub read: u32,
    /// How many are then left to be read.
    pub pending: u32,
}

/// What makes a resource, with where it comes from.
#[derive(Debug, Clone)]
pub struct ResourceRecipe {
    /// How it is made.
    pub kind: ResourceKind,
    /// The image entry that asks for it.
    pub origin: Origin,
}

/// How a resource is made.
#[derive(Debug, Clone)]
pub enum ResourceKind {
    /// `openat(2)`. Yields one description.
    File {
        /// Path.
        path: String,
        /// `O_*`.
        flags: u32,
        /// File position, 0 where there is none.
        position: u64,
        /// What it is opened for.
        purpose: FilePurpose,
    },
    /// `pipe2(2)`. Yields the reading end, the writing end, then the reopened descriptions.
    Pipe {
        /// Status flags of the reading and the writing end.
        flags: [u32; 2],
        /// Further descriptions: of which end (0 reading, 1 writing; 2: both), and their flags.
        reopened: Vec<(u8, u32)>,
        /// Capacity, where it is not the default.
        capacity: Option<u32>,
        /// What it holds.
        data: Vec<u8>,
    },
    /// `eventfd2(2)`. Yields one description.
    Eventfd {
        /// Counter.
        counter: u64,
        /// Status flags and EFD_SEMAPHORE.
        flags: u32,
    },
    /// `epoll_create1(2)`. Yields one description.
    Epoll {
        /// Status flags.
        flags: u32,
    },
    /// `timerfd_create(2)`. Yields one description.
    Timerfd {
        /// `CLOCK_*`.
        clock_id: u32,
        /// Status flags.
        flags: u32,
    },
    /// `signalfd4(2)`. Yields one description.
    Signalfd {
        /// Bit 0 is signal 1.
        mask: u64,
        /// Status flags.
        flags: u32,
    },
    /// `openat(2)` of a FIFO. Yields a description for reading and writing, which nobody keeps and
    /// which lets none of the others wait, then those.
    Fifo {
        /// Path.
        path: String,
        /// `O_*` of each description.
        flags: Vec<u32>,
        /// Capacity, where it is not the default.
        capacity: Option<u32>,
        /// What it holds.
        data: Vec<u8>,
    },
    /// `socketpair(2)`. Yields both ends.
    SocketPair {
        /// SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET.
        sock_type: u32,
        /// The two ends.
        ends: Box<[SocketEnd; 2]>,
    },
    /// Unix sockets that are more than a pair without names. Yields all of them.
    UnixSockets(Box<UnixGroup>),
    /// Internet sockets of one port. Yields all of them.
    InetSockets(Vec<InetRecipe>),
    /// Inodes without a name, memfds and unlinked files. Yields, for each of them, the number by
    /// which it is made, that of the image that fills it, if any, and one for each further name; then
    /// the descriptions.
    Nameless(Box<Nameless>),
    /// `userfaultfd(2)` of the task that needs it. Yields one description.
    Userfault,
    /// `socketpair(2)` for messages between tasks while they are restored. Yields the sending and the
    /// receiving end.
    Channel,
    /// Shared anonymous memory, mapped at `address` in the window for everyone below.
    Carrier {
        /// Address.
        address: u64,
        /// Length, a multiple of the page size.
        len: u64,
        /// MAP_NORESERVE, and of what size huge pages are: as flags of `mmap(2)`.
        flags: u32,
    },
    /// What lives in the IPC namespace of the tree; its segments are attached in the window for everyone below. Yields a
    /// number that its variables are written by one after another.
    Ipc(Box<IpcRecipe>),
    /// What a carrier shows, opened. Yields one description, by which views are mapped.
    OpenedCarrier {
        /// The carrier's address.
        address: u64,
        /// Its length.
        len: u64,
    },
}

/// An IPC namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IpcRecipe {
    /// Variables that are set before anything is made: path and text.
    pub early: Vec<(String, String)>,
    /// Those that would not let it be made, set behind it.
    pub late: Vec<(String, String)>,
    /// Segments.
    pub segments: Vec<SegmentRecipe>,
    /// Message queues.
    pub queues: Vec<QueueRecipe>,
    /// Semaphore sets.
    pub semaphores: Vec<SemaphoreRecipe>,
    /// What who makes it has: effective uid and gid.
    pub own_ids: [u32; 2],
    /// And dumpable, which a change of these resets.
    pub own_dumpable: Option<u32>,
}

/// What all System V objects have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SysvObject {
    pub id: u32,
    pub key: u32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    /// The usual nine permission bits.
    pub mode: u32,
}

/// A System V segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRecipe {
    /// Id, key, owner, permissions.
    pub object: SysvObject,
    /// Its length.
    pub size_bytes: u64,
    /// `MAP_HUGETLB` and the size of its pages; 0 for the usual ones.
    pub huge: u32,
    /// Where it is attached in the window, and whether only to be read.
    pub attached: Vec<(u64, bool)>,
    /// `SHM_LOCK`.
    pub is_locked: bool,
    /// `IPC_RMID`, once it is attached.
    pub is_removed: bool,
}

/// A view of a System V segment of huge pages. All lengths are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HugeView {
    /// The segment.
    pub id: u32,
    /// Its length, in whole pages.
    pub segment_len: u64,
    /// Where in the window it is attached for a moment.
    pub window: u64,
    /// Where the view starts in it.
    pub offset: u64,
    /// First address of the view.
    pub start: u64,
    /// Length of the view.
    pub len: u64,
    /// `SHM_RDONLY`.
    pub read_only: bool,
}

/// A message queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRecipe {
    /// Id, key, owner, permissions.
    pub object: SysvObject,
    /// Most bytes that may wait in it.
    pub most_bytes: u64,
    /// That is set when all is in: it is less.
    pub is_full: bool,
    /// Types and bytes, the oldest first.
    pub messages: Vec<(u64, Vec<u8>)>,
}

/// A semaphore set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SemaphoreRecipe {
    /// Id, key, owner, permissions.
    pub object: SysvObject,
    /// Their values.
    pub values: Vec<u16>,
}

/// The permissions that an unlinked file is made with: ones that no other file has, so that what a failed restore
/// has left can be told.
pub const NEW_FILE_MODE: u32 = 0o1600;
/// The permissions that an unlinked directory is made with.
pub const NEW_DIRECTORY_MODE: u32 = 0o1700;

/// Inodes that are made in one go: one memfd, or unlinked files that have to do with each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nameless {
    /// Directories that are there only while the others are made, parents before children.
    pub scaffold: Vec<String>,
    /// The inodes: directories first, parents before children.
    pub inodes: Vec<Inode>,
    /// Descriptions of them.
    pub opens: Vec<Opening>,
}

/// An inode without a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// What it is, and how it was called.
    pub kind: InodeKind,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length of a file.
    pub size_bytes: u64,
    /// Last access and last modification: seconds and nanoseconds.
    pub times: Option<((i64, u64), (i64, u64))>,
    /// What a file holds beside holes, by the image that has it.
    pub contents: Vec<Content>,
    /// The description that it is made by, if that is kept: status flags and position. Of a memfd
    /// that is another than any that is opened: while a file is *open* for writing nobody can execute
    /// it, and by `memfd_create(2)` it is not opened. Of a file it is the only one that can have
    /// O_NOFOLLOW, as mkstemp(3) opens in some languages: the others are opened through links.
    pub first: Option<(u32, u64)>,
    /// Further names that it had, under which it was opened, too.
    pub further: Vec<String>,
}

/// What an inode is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InodeKind {
    /// `memfd_create(2)`.
    Memfd {
        /// Name.
        name: String,
        /// `F_SEAL_*`.
        seals: u32,
        /// Of huge pages.
        huge: Option<HugeMemfd>,
    },
    /// A regular file.
    File {
        /// The name it had.
        path: String,
        /// Where it is made, if that name is taken by another file: they change places for a moment.
        aside: Option<String>,
    },
    /// A directory.
    Directory {
        /// The name it had.
        path: String,
    },
    /// A FIFO.
    Fifo {
        /// The name it had.
        path: String,
        /// Capacity, where it is not the default.
        capacity: Option<u32>,
        /// What it holds.
        data: Vec<u8>,
    },
    /// A file that has a name still, which CRIU gave it, and had others. It is not made, and keeps what
    /// it is.
    Linked {
        /// The name it had.
        path: String,
        /// The name that it has: it goes when the tree lives.
        from: String,
    },
}

/// What a memfd of huge pages needs beside others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HugeMemfd {
    /// The size of its pages, as flags of `memfd_create(2)`.
    pub flags: u32,
    /// Where it is mapped to be filled, in the window.
    pub scratch: u64,
}

impl InodeKind {
    /// Whether it is given a name for a moment.
    pub fn has_name(&self) -> bool {
        match self {
            InodeKind::Memfd { .. } => false,
            InodeKind::File { .. }
            | InodeKind::Directory { .. }
            | InodeKind::Fifo { .. }
            | InodeKind::Linked { .. } => true,
        }
    }
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The image that has it.
    pub path: String,
    /// Its pieces.
    pub pieces: Vec<Piece>,
}

/// A piece of a file's content, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Offset in the file.
    pub at: u64,
    /// Offset in the image.
    pub from: u64,
    /// Length.
    pub len: u64,
}

/// A description of an inode without a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Which of the inodes.
    pub inode: usize,
    /// By which name: 0 the first, else one of the further ones.
    pub name: usize,
    /// `O_*`.
    pub flags: u32,
    /// File position.
    pub position: u64,
}

/// Why a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilePurpose {
    /// It is in descriptor tables.
    Descriptor,
    /// It is only mapped.
    Mapping,
    /// It is an executable to be linked as `/proc/PID/exe`.
    Executable,
    /// It holds pages.
    Pages,
    /// Writing to it sets an attribute of the task.
    Attribute,
    /// Who writes to it comes into its cgroup.
    Cgroup,
}

/// A cgroup that is made where it is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupRecipe {
    /// Its directory.
    pub directory: String,
    /// Its permissions.
    pub perms: Option<CgroupPerms>,
    /// What its files are to say.
    pub files: Vec<CgroupProperty>,
}

/// Unix sockets that know each other.
#[derive(Debug, Clone, Default)]
pub struct UnixGroup {
    /// Each with what it ends with; actions name them by their index.
    pub sockets: Vec<SocketEnd>,
    /// What is done, in this order. What makes sockets comes in the order of their indices.
    pub actions: Vec<UnixAction>,
}

/// A name of a unix socket.
#[derive(Debug, Clone)]
pub struct UnixName {
    /// As `bind(2)` takes it.
    pub address: Vec<u8>,
    /// The directory from which a relative path goes.
    pub dir: Option<String>,
    /// The absolute path; `None`: an abstract name.
    pub path: Option<String>,
    /// Permissions, owner and group of the file.
    pub perms: Option<(u32, u32, u32)>,
}

/// A step in the making of unix sockets.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum UnixAction {
    /// `socket(2)`.
    Socket { socket: usize, sock_type: u32 },
    /// `socketpair(2)`: this one and the next.
    Pair { first: usize, sock_type: u32 },
    /// `bind(2)`; first a stale file is unlinked.
    Bind { socket: usize, name: UnixName, stale: bool },
    /// `listen(2)`.
    Listen { socket: usize, backlog: u32 },
    /// `connect(2)`.
    Connect { socket: usize, to: UnixName },
    /// `connect(2)` to nobody.
    Disconnect { socket: usize },
    /// `accept4(2)`.
    Accept { listener: usize, socket: usize },
    /// The file of a name goes.
    Unlink { path: String },
    /// What waits at `receiver` is sent.
    Fill { sender: usize, receiver: usize },
    /// `shutdown(2)` before the connection, which the other end hears nothing of.
    Shutdown { socket: usize, bits: u32 },
}

/// An internet socket.
#[derive(Debug, Clone)]
pub struct InetRecipe {
    /// Its options and status flags.
    pub socket: Box<InetSocket>,
    /// The address that it is bound to, as `bind(2)` takes it.
    pub bind: Option<Vec<u8>>,
    /// The address that it is connected to.
    pub connect: Option<Vec<u8>>,
    /// Whether it listens.
    pub listens: bool,
    /// Whether others are bound to the port.
    pub shares: bool,
}

/// One end of a socket pair.
#[derive(Debug, Clone, Default)]
pub struct SocketEnd {
    /// Status flags.
    pub flags: u32,
    /// Socket options; `None` for an end that no task has.
    pub options: Option<SocketOptions>,
    /// `shutdown(2)`: bit 0 reading, bit 1 writing.
    pub shutdown: u32,
    /// What waits to be read here: packets, or pieces of the stream.
    pub queue: Vec<Message>,
}

/// A message, or a piece of a stream.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// The bytes.
    pub data: Vec<u8>,
    /// The descriptors in flight: indices into what the step needs.
    pub rights: Vec<usize>,
}
