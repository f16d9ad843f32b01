//! What a record of a tape does to the modelled kernel: the input of the checker.
//!
//! A lifter makes these from finished tapes, by call number and arguments alone. Nothing here is
//! an intention: a record that dups descriptor 3 to 7 is [`FdEffect::Dup`], whatever it was for.
//! Flags are the kernel's own values (`open(2)`, `mmap(2)`), addresses and lengths are bytes.
//!
//! Worked example: `pipe2(buf, O_NONBLOCK)` is `Effect::Fd(FdEffect::Pipe { flags: 0o4000 })`. The
//! two numbers are not in the record, for the kernel chooses them: the checker does as the kernel.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::Fd;

/// All tapes of a tree, lifted.
#[derive(Debug, Clone, Default)]
pub struct LiftedTree {
    /// Where the tapes themselves are in every task.
    pub region: Region,
    /// For how many the barrier waits.
    pub total: u32,
    /// How the launcher makes the first task.
    pub root: Birth,
    /// One a tape.
    pub tasks: Vec<LiftedTask>,
    /// Threads in which seccomp is suspended from before the barrier until they are let go.
    pub suspended: BTreeSet<u32>,
}

/// The tapes of a tree as what they do. What one tape does may be found out when it is first asked for, by whoever asks:
/// while the tapes before are run, another processor can look at those that follow.
pub trait Effects: Sync {
    /// Where the tapes themselves are in every task.
    fn region(&self) -> Region;
    /// For how many the barrier waits.
    fn total(&self) -> u32;
    /// How the launcher makes the first task.
    fn root(&self) -> Birth;
    /// The pids, and tids, of the tapes, in their order.
    fn pids(&self) -> Vec<u32>;
    /// Threads in which seccomp is suspended from before the barrier until they are let go.
    fn suspended(&self) -> &BTreeSet<u32>;
    /// What the records of one tape do, in their order; `None`: it is not understood.
    fn of_task(&self, task: usize) -> Option<&[Lifted]>;
    /// Whether all are understood, each by itself and together.
    fn are_understood(&self) -> bool;
}

impl Effects for LiftedTree {
    fn region(&self) -> Region {
        self.region
    }

    fn total(&self) -> u32 {
        self.total
    }

    fn root(&self) -> Birth {
        self.root
    }

    fn pids(&self) -> Vec<u32> {
        self.tasks.iter().map(|task| task.pid).collect()
    }

    fn suspended(&self) -> &BTreeSet<u32> {
        &self.suspended
    }

    fn of_task(&self, task: usize) -> Option<&[Lifted]> {
        self.tasks.get(task).map(|task| task.effects.as_slice())
    }

    fn are_understood(&self) -> bool {
        true
    }
}

/// The address range of the tapes and of what lies behind them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// Behind the part that tasks may write.
    pub rw_end: u64,
    /// Behind the tapes and their buffers.
    pub end: u64,
    /// Behind the carriers of shared memory.
    pub window_end: u64,
}

/// One tape: of a task's first thread, or of a further one.
#[derive(Debug, Clone, Default)]
pub struct LiftedTask {
    /// The task's pid, the thread's tid.
    pub pid: u32,
    /// What its records do, in their order.
    pub effects: Vec<Lifted>,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifted {
    /// Its index in the tape; ascending.
    pub record: u32,
    /// What it does.
    pub effect: Effect,
}

/// How a task is born: `clone3(2)` with a chosen pid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Birth {
    /// The wanted pid.
    pub pid: u32,
    /// `CLONE_*` flags.
    pub flags: u64,
    /// The signal its parent gets when it dies.
    pub exit_signal: u64,
    /// The directory of the cgroup of version 2 that it is born in, by its number in the forker's table: with
    /// `CLONE_INTO_CGROUP`.
    pub cgroup: Option<Fd>,
}

/// What a record does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Forks a task, or starts a thread.
    Fork(Birth),
    /// Posts an event.
    Post(u32),
    /// Waits until an event has been posted.
    Wait(u32),
    /// Arrives at the barrier and waits for its opening.
    Arrive,
    /// Waits for its registers: the end of a living task.
    Park,
    /// `exit_group(2)`.
    Exit {
        /// The exit code, 0 to 255.
        code: u8,
    },
    /// Kills itself.
    Kill {
        /// The signal.
        signal: u32,
    },
    /// Waits for the death of a child.
    AwaitExit {
        /// Its pid.
        pid: u32,
        /// Whether it is reaped, too (no WNOWAIT).
        reap: bool,
    },
    /// `setsid(2)`.
    SetSid,
    /// `setpgid(2)` of the task itself.
    SetPgid {
        /// The group; its own pid founds it.
        pgid: u32,
    },
    /// Changes the descriptor table.
    Fd(FdEffect),
    /// Announces to the launcher that the next record makes the file of a socket, or that it has been
    /// made: on a failure the path is removed.
    Undo {
        /// The absolute path.
        path: Vec<u8>,
        /// It has been made.
        is_made: bool,
    },
    /// Changes the file of a socket.
    File(FileEffect),
    /// Makes or removes a name in the file system.
    Name(NameEffect),
    /// Does something to what a descriptor refers to.
    Object {
        /// The descriptor.
        fd: Fd,
        /// What is done.
        change: Change,
    },
    /// Changes the address space.
    Memory(MemoryEffect),
    /// Sets an attribute of the task.
    Attribute(Attribute),
    /// Sets credentials, limits or filters.
    Privilege(PrivilegeEffect),
    /// Makes an IPC namespace, or changes what lives in one.
    Ipc(IpcEffect),
}

/// A kind of System V object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IpcKind {
    /// Shared memory.
    Segment,
    /// A message queue.
    Queue,
    /// A set of semaphores.
    Semaphores,
}

/// A change of an IPC namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IpcEffect {
    /// `unshare(CLONE_NEWIPC)`.
    NewNamespace,
    /// `shmget(2)`, `msgget(2)`, `semget(2)` of a new object, giving `id`.
    Make {
        /// What is made.
        kind: IpcKind,
        /// The expected id.
        id: u32,
        /// 0: none.
        key: u32,
        /// Bytes of a segment, number of semaphores; of a queue 0.
        size: u64,
        /// Permissions.
        mode: u32,
        /// Of a segment of huge pages what `mmap(2)` calls them: `MAP_HUGETLB`, and how large they are. 0: none.
        huge: u32,
    },
    /// `IPC_SET`.
    SetOwner {
        /// Of what.
        kind: IpcKind,
        /// Its id.
        id: u32,
        /// The new owner.
        uid: u32,
        /// The new group.
        gid: u32,
        /// The new permissions.
        mode: u32,
        /// Of a queue: most bytes in it.
        most_bytes: Option<u64>,
    },
    /// `SHM_LOCK`.
    LockSegment {
        /// Its id.
        id: u32,
    },
    /// `IPC_RMID` of a segment: it goes with its last attachment.
    RemoveSegment {
        /// Its id.
        id: u32,
    },
    /// `msgsnd(2)` that does not wait.
    Send {
        /// The queue.
        queue: u32,
        /// The message's type.
        kind: u64,
        /// Its bytes.
        data: Vec<u8>,
    },
    /// `SETALL`.
    SetValues {
        /// The set.
        set: u32,
        /// All values.
        values: Vec<u16>,
    },
}

/// A change of the names in the file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameEffect {
    /// `mkdir(2)` of an absolute path.
    MakeDirectory {
        /// The path.
        path: Vec<u8>,
    },
    /// `mknod(2)` of a FIFO at an absolute path.
    MakeFifo {
        /// The path.
        path: Vec<u8>,
    },
    /// `link(2)` of absolute paths: one more name.
    Link {
        /// A name that the file has.
        from: Vec<u8>,
        /// The new one.
        to: Vec<u8>,
    },
    /// `unlink(2)` of an absolute path.
    Unlink {
        /// The path.
        path: Vec<u8>,
    },
    /// `rename(2)` of absolute paths: what was called `to` loses its name.
    Rename {
        /// The old path.
        from: Vec<u8>,
        /// The new path.
        to: Vec<u8>,
    },
    /// `renameat2(2)` with RENAME_EXCHANGE of absolute paths.
    Exchange {
        /// The one path.
        from: Vec<u8>,
        /// The other.
        to: Vec<u8>,
    },
    /// `rmdir(2)` of an absolute path.
    RemoveDirectory {
        /// The path.
        path: Vec<u8>,
    },
}

/// A change of a descriptor table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FdEffect {
    /// `open(2)` of an absolute path, giving `fd`.
    Open {
        /// The path.
        path: Vec<u8>,
        /// `O_*`.
        flags: u32,
        /// The expected number.
        fd: Fd,
    },
    /// `pipe2(2)`.
    Pipe {
        /// `O_*`.
        flags: u32,
    },
    /// `socketpair(2)` of unix sockets.
    SocketPair {
        /// `SOCK_*` without flags.
        sock_type: u32,
        /// O_CLOEXEC and O_NONBLOCK.
        flags: u32,
    },
    /// `socket(2)`, giving `fd`.
    Socket {
        /// `AF_*`.
        family: u32,
        /// `SOCK_*` without flags.
        sock_type: u32,
        /// The protocol.
        protocol: u32,
        /// O_CLOEXEC and O_NONBLOCK.
        flags: u32,
        /// The expected number.
        fd: Fd,
    },
    /// `accept4(2)`, giving `fd`.
    Accept {
        /// The listening socket.
        listener: Fd,
        /// O_CLOEXEC and O_NONBLOCK.
        flags: u32,
        /// The expected number.
        fd: Fd,
    },
    /// `eventfd2(2)`, giving `fd`.
    Eventfd {
        /// The counter.
        counter: u32,
        /// O_CLOEXEC, O_NONBLOCK and EFD_SEMAPHORE.
        flags: u32,
        /// The expected number.
        fd: Fd,
    },
    /// `epoll_create1(2)`.
    Epoll {
        /// EPOLL_CLOEXEC.
        flags: u32,
        /// The expected number.
        fd: Fd,
    },
    /// `timerfd_create(2)`.
    Timerfd {
        /// `CLOCK_*`.
        clock: u32,
        /// TFD_NONBLOCK, TFD_CLOEXEC.
        flags: u32,
        /// The expected number.
        fd: Fd,
    },
    /// `signalfd4(2)`, a new one.
    Signalfd {
        /// Bit 0 is signal 1.
        mask: u64,
        /// SFD_NONBLOCK, SFD_CLOEXEC.
        flags: u32,
        /// The expected number.
        fd: Fd,
    },
    /// `memfd_create(2)`, giving `fd`.
    Memfd {
        /// The name.
        name: Vec<u8>,
        /// `MFD_*`.
        flags: u32,
        /// The expected number.
        fd: Fd,
    },
    /// `userfaultfd(2)`, giving `fd`.
    Userfault {
        /// O_CLOEXEC, O_NONBLOCK and UFFD_USER_MODE_ONLY.
        flags: u32,
        /// The expected number.
        fd: Fd,
    },
    /// `recvmsg(2)` of one message with descriptors, which get the lowest free numbers.
    Receive {
        /// The socket.
        socket: Fd,
        /// The expected number of bytes, for which there is room.
        bytes: u64,
        /// How many descriptors there is room for.
        rights: u32,
        /// MSG_CMSG_CLOEXEC: close-on-exec of the new numbers.
        cloexec: bool,
        /// MSG_PEEK: the message stays.
        stays: bool,
        /// MSG_DONTWAIT: fails instead of waiting for a message.
        never_blocks: bool,
    },
    /// `F_GETFD`, which fails if the number is not open or its flag another.
    Probe {
        /// The number.
        fd: Fd,
        /// The expected flag.
        cloexec: bool,
    },
    /// Copies to a given number, closing what is there.
    Dup {
        /// From this number
        from: Fd,
        /// to this one.
        to: Fd,
        /// Close-on-exec of the copy.
        cloexec: bool,
    },
    /// Copies to the lowest free number from `least` on, which is expected to be `to`.
    DupLowest {
        /// From this number
        from: Fd,
        /// to one not below this.
        least: Fd,
        /// The expected number.
        to: Fd,
        /// Close-on-exec of the copy.
        cloexec: bool,
    },
    /// `F_SETFD`.
    SetCloexec {
        /// The number.
        fd: Fd,
        /// The flag.
        cloexec: bool,
    },
    /// `close(2)`.
    Close {
        /// The number.
        fd: Fd,
    },
    /// `close_range(2)`.
    CloseRange {
        /// First number.
        first: Fd,
        /// Last number.
        last: Fd,
        /// CLOSE_RANGE_CLOEXEC: they are not closed but marked.
        only_mark: bool,
        /// CLOSE_RANGE_UNSHARE.
        unshare: bool,
    },
}

/// Something done to an open file description, or to what it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// `lseek(2)` from the start of the file.
    Seek {
        /// The new position.
        position: u64,
    },
    /// `F_SETFL`.
    SetStatus {
        /// `O_*`.
        flags: u32,
    },
    /// `F_SETPIPE_SZ`; the result must be the same number.
    SetPipeSize {
        /// The new capacity.
        bytes: u32,
    },
    /// Writes all of these bytes.
    Write {
        /// The bytes.
        data: Vec<u8>,
    },
    /// Sends all of these bytes as one message.
    Send {
        /// The bytes.
        data: Vec<u8>,
        /// Descriptors that go with them.
        rights: Vec<Fd>,
        /// MSG_DONTWAIT: fails instead of blocking.
        never_blocks: bool,
    },
    /// Reads all the bytes asked for.
    Read {
        /// Where they go: address and length.
        into: Vec<(u64, u64)>,
        /// Offset in the file; `None`: at the position.
        offset: Option<u64>,
    },
    /// `shutdown(2)`: bit 0 reading, bit 1 writing.
    Shutdown {
        /// The bits.
        bits: u32,
        /// Whether it must succeed, as it does with a connected socket; otherwise it must fail with
        /// ENOTCONN, and takes effect all the same.
        connected: bool,
    },
    /// `bind(2)`.
    Bind {
        /// The address, as the kernel reads it.
        address: Vec<u8>,
    },
    /// `listen(2)`.
    Listen {
        /// The length of its queue.
        backlog: u32,
    },
    /// `connect(2)`; the family `AF_UNSPEC` takes the peer away again.
    Connect {
        /// The address, as the kernel reads it.
        address: Vec<u8>,
    },
    /// `setsockopt(2)` of an option that is no number.
    SetBytes {
        /// Which.
        option: SocketOption,
        /// Its value.
        bytes: Vec<u8>,
    },
    /// `setsockopt(2)`.
    SetOption {
        /// Which.
        option: SocketOption,
        /// Its value, as in [`SocketOption`].
        value: u64,
        /// The privileged form that ignores the system's maximum (`SO_SNDBUFFORCE`).
        force: bool,
    },
    /// `F_SETOWN`, `F_SETOWN_EX`.
    SetOwner {
        /// 0 thread, 1 process, 2 process group (`F_OWNER_*`).
        pid_type: u32,
        /// Who.
        pid: u32,
    },
    /// `F_SETSIG`.
    SetSignal {
        /// The signal.
        signal: u32,
    },
    /// `epoll_ctl(EPOLL_CTL_ADD)`.
    Watch {
        /// The number of what is watched.
        target: Fd,
        /// `EPOLL*`.
        events: u32,
        /// What comes with an event.
        data: u64,
    },
    /// `timerfd_settime(2)`.
    SetTimer {
        /// `TFD_TIMER_*`.
        flags: u32,
        /// Interval in nanoseconds.
        interval_ns: u64,
        /// First expiry in nanoseconds.
        value_ns: u64,
    },
    /// `TFD_IOC_SET_TICKS`.
    SetTicks {
        /// Expirations that wait to be read; the kernel takes 0 for an error.
        ticks: u64,
    },
    /// A file lock that is not waited for, or a lease: `flock(2)`, `fcntl(F_SETLK)`,
    /// `fcntl(F_OFD_SETLK)`, `fcntl(F_SETLEASE)`. Who holds which is not compared.
    Lock,
    /// `ftruncate(2)`.
    Truncate {
        /// The new length.
        len: u64,
    },
    /// `sendfile(2)` from and to the positions of two descriptions.
    Copy {
        /// Where the bytes come from.
        from: Fd,
        /// How many.
        len: u64,
    },
    /// `fchown(2)`.
    SetFileOwner {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// `fchmod(2)`.
    SetMode {
        /// The permissions.
        mode: u32,
    },
    /// `futimens(3)`: seconds and nanoseconds.
    SetTimes {
        /// Last access.
        atime: (i64, u64),
        /// Last modification.
        mtime: (i64, u64),
    },
    /// `F_ADD_SEALS`.
    AddSeals {
        /// `F_SEAL_*`.
        seals: u32,
    },
    /// `fchdir(2)`: it becomes the working directory.
    Enter,
    /// What `ioctl(2)` does with a userfaultfd.
    Userfault(UserfaultChange),
}

/// Something done with a userfaultfd (ioctl_userfaultfd(2)): to the address space that it was made in, whoever does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserfaultChange {
    /// `UFFDIO_API`, without features: from then on it can be used.
    Handshake,
    /// `UFFDIO_REGISTER` for missing pages.
    Register {
        /// First address.
        at: u64,
        /// Length.
        len: u64,
    },
    /// `UFFDIO_COPY` of all that is asked for, or a failure.
    Copy {
        /// Where the pages go.
        to: u64,
        /// Where they come from, in the address space of who asks.
        from: u64,
        /// Length.
        len: u64,
    },
    /// `UFFDIO_MOVE` of all that is asked for, without holes, or a failure.
    Move {
        /// Where the pages go.
        to: u64,
        /// Where they come from, in the same address space.
        from: u64,
        /// Length.
        len: u64,
    },
    /// `UFFDIO_UNREGISTER`.
    Unregister {
        /// First address.
        at: u64,
        /// Length.
        len: u64,
    },
}

/// An option of a socket. Values are numbers; times in microseconds; linger is seconds + 1, 0: off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum SocketOption {
    SendBuffer,
    ReceiveBuffer,
    SendTimeout,
    ReceiveTimeout,
    ReuseAddr,
    ReusePort,
    Priority,
    ReceiveLowat,
    Mark,
    PassCred,
    PassSec,
    DontRoute,
    NoCheck,
    Broadcast,
    KeepAlive,
    OobInline,
    Linger,
    BufferLock,
    BoundDevice,
    Filter,
    V6Only,
    FreeBind,
    PacketInfo,
    TypeOfService,
    TimeToLive,
    NoDefrag,
    HeaderIncluded,
    IcmpFilter,
    NoDelay,
    Cork,
    KeepCount,
    KeepIdle,
    KeepInterval,
}

/// A change of a file by its absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileEffect {
    /// `chown(2)`.
    Chown {
        /// The path.
        path: Vec<u8>,
        /// The new owner.
        uid: u32,
        /// The new group.
        gid: u32,
    },
    /// `chmod(2)`.
    Chmod {
        /// The path.
        path: Vec<u8>,
        /// The new permissions.
        mode: u32,
    },
}

/// A change of the address space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryEffect {
    /// `mmap(2)` at a fixed address.
    Map {
        /// First address.
        at: u64,
        /// Length.
        len: u64,
        /// `PROT_*`.
        prot: u32,
        /// `MAP_*`.
        flags: u32,
        /// The file and the offset in it; `None`: anonymous.
        file: Option<(Fd, u64)>,
    },
    /// `mremap(2)`: to a fixed address, or in place where no flag is given. An old length of 0 makes a second view of
    /// shared memory.
    Remap {
        /// From here,
        from: u64,
        /// of this length,
        old_len: u64,
        /// to here,
        to: u64,
        /// of this length.
        new_len: u64,
        /// `MREMAP_*`.
        flags: u32,
    },
    /// `shmat(2)` at an address where nothing is mapped.
    Attach {
        /// The segment.
        id: u32,
        /// First address.
        at: u64,
        /// `SHM_RDONLY`.
        read_only: bool,
    },
    /// `munmap(2)`.
    Unmap {
        /// First address.
        at: u64,
        /// Length.
        len: u64,
    },
    /// `mprotect(2)`.
    Protect {
        /// First address.
        at: u64,
        /// Length.
        len: u64,
        /// `PROT_*`.
        prot: u32,
    },
    /// `madvise(2)`.
    Advise {
        /// First address.
        at: u64,
        /// Length.
        len: u64,
        /// `MADV_*`.
        advice: u32,
    },
    /// `mlock(2)`.
    Lock {
        /// First address.
        at: u64,
        /// Length.
        len: u64,
    },
    /// `PR_SET_MM_MAP`.
    SetMm {
        /// The eleven addresses of `struct prctl_mm_map`, in its order.
        words: [u64; 11],
        /// The auxiliary vector.
        auxv: Vec<u8>,
        /// The executable.
        exe: Option<Fd>,
    },
    /// `ARCH_MAP_VDSO_64`.
    MapVdso {
        /// First address.
        at: u64,
    },
    /// `process_vm_writev(2)` of the task to itself.
    Write {
        /// Addresses and bytes.
        pieces: Vec<(u64, Vec<u8>)>,
    },
    /// What is done about rings of asynchronous I/O.
    Ring(RingEffect),
}

/// A change of an AIO context, or of its ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingEffect {
    /// `io_setup(2)`: the kernel chooses where the ring is, and writes that into a word of the call's own.
    Setup {
        /// How many requests.
        requests: u32,
        /// Address of the word.
        cell: u64,
    },
    /// `mremap(2)` from the address that a word has, without making it longer.
    Place {
        /// Address of the word.
        cell: u64,
        /// Length.
        len: u64,
        /// To here.
        to: u64,
    },
    /// `io_submit(2)` of requests that read nothing.
    Submit {
        /// The context, by the address of its ring.
        ring: u64,
        /// How many.
        count: u32,
        /// Of this file.
        fd: Fd,
    },
    /// `io_getevents(2)` that waits for all of them. Where they go nobody reads.
    Reap {
        /// The context, by the address of its ring.
        ring: u64,
        /// How many.
        count: u32,
    },
}

/// An attribute of a task or of a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// `PR_SET_NAME`, at most 15 bytes.
    Name(Vec<u8>),
    /// `umask(2)`.
    Umask(u32),
    /// `chdir(2)` to an absolute path.
    WorkingDirectory(Vec<u8>),
    /// `chroot(2)` to an absolute path.
    RootDirectory(Vec<u8>),
    /// `personality(2)`.
    Personality(u32),
    /// `PR_SET_DUMPABLE`.
    Dumpable(u64),
    /// `PR_SET_PDEATHSIG`.
    ParentDeathSignal(u64),
    /// `PR_SET_CHILD_SUBREAPER`.
    Subreaper(bool),
    /// `PR_SET_THP_DISABLE`.
    ThpDisable(bool),
    /// `PR_SET_TIMERSLACK`.
    TimerSlack(u64),
    /// Whether timers are created with the ids that are asked for.
    TimerIds(bool),
    /// `rt_sigaction(2)`.
    SigAction {
        /// The signal.
        signal: u32,
        /// 0 the default, 1 to ignore, else an address.
        handler: u64,
        /// `SA_*`.
        flags: u64,
        /// The trampoline.
        restorer: u64,
        /// Signals blocked while it runs.
        mask: u64,
    },
    /// `rt_sigprocmask(2)`.
    SigMask {
        /// 0 block, 1 unblock, 2 set.
        how: u32,
        /// Bit 0 is signal 1.
        set: u64,
    },
    /// `rt_sigtimedwait(2)` that does not wait: takes a pending signal away.
    EatSignal {
        /// Bit 0 is signal 1.
        set: u64,
    },
    /// `sigaltstack(2)`.
    AltStack {
        /// First address.
        sp: u64,
        /// `SS_*`.
        flags: u32,
        /// Length.
        len: u64,
    },
    /// `set_robust_list(2)`.
    RobustList {
        /// Head.
        head: u64,
        /// Length.
        len: u64,
    },
    /// `set_tid_address(2)`.
    TidAddress(u64),
    /// `rseq(2)`.
    Rseq {
        /// Address of the area.
        address: u64,
        /// Length of the area.
        len: u32,
        /// Flags; 1 unregisters.
        flags: u32,
        /// Signature.
        signature: u32,
    },
    /// `membarrier(2)`, a command that registers.
    Membarrier(u32),
    /// `setitimer(2)`.
    IntervalTimer {
        /// `ITIMER_*`.
        which: u32,
        /// Interval in microseconds.
        interval_us: u64,
        /// First expiry in microseconds.
        value_us: u64,
    },
    /// `timer_create(2)`.
    TimerCreate {
        /// The clock.
        clock: u32,
        /// `struct sigevent`.
        event: Vec<u8>,
        /// The wanted id.
        id: u32,
    },
    /// `timer_settime(2)`.
    TimerSet {
        /// The timer.
        id: u32,
        /// Flags.
        flags: u32,
        /// Interval in nanoseconds.
        interval_ns: u64,
        /// First expiry in nanoseconds.
        value_ns: u64,
    },
    /// `rt_sigqueueinfo(2)`, `rt_tgsigqueueinfo(2)`.
    QueueSignal {
        /// The task.
        pid: u32,
        /// The thread; `None`: any.
        tid: Option<u32>,
        /// The signal.
        signal: u32,
        /// `siginfo_t`.
        info: Vec<u8>,
    },
    /// `setpriority(2)`.
    Nice(i32),
    /// `sched_setscheduler(2)`.
    Scheduler {
        /// `SCHED_*`.
        policy: u32,
        /// Priority.
        priority: u32,
    },
}

/// What a thread lets itself be denied from then on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeccompEffect {
    /// `SECCOMP_SET_MODE_STRICT`.
    Strict,
    /// `SECCOMP_SET_MODE_FILTER`.
    Filter {
        /// `struct sock_filter`, one after another.
        program: Arc<[u8]>,
        /// `SECCOMP_FILTER_FLAG_*`.
        flags: u64,
    },
}

/// Credentials, limits, filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrivilegeEffect {
    /// `setresuid(2)`: real, effective, saved; `None` leaves it.
    Uids([Option<u32>; 3]),
    /// `setresgid(2)`.
    Gids([Option<u32>; 3]),
    /// `setfsuid(2)`.
    FsUid(u32),
    /// `setfsgid(2)`.
    FsGid(u32),
    /// `PR_CAP_AMBIENT_RAISE`.
    RaiseAmbient(u64),
    /// `setgroups(2)`.
    Groups(Vec<u32>),
    /// `capset(2)`.
    Capabilities {
        /// Effective set.
        effective: u64,
        /// Permitted set.
        permitted: u64,
        /// Inheritable set.
        inheritable: u64,
    },
    /// `PR_CAPBSET_DROP`.
    DropBounding(u64),
    /// `PR_SET_SECUREBITS`.
    Securebits(u64),
    /// `PR_SET_KEEPCAPS`.
    KeepCaps(bool),
    /// `PR_SET_NO_NEW_PRIVS`.
    NoNewPrivs,
    /// `seccomp(2)`.
    Seccomp(SeccompEffect),
    /// `prlimit64(2)`.
    Limit {
        /// `RLIMIT_*`.
        resource: u32,
        /// Soft limit.
        soft: u64,
        /// Hard limit.
        hard: u64,
    },
}

impl Effect {
    /// The effect in a few words, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Effect::Fork(_) => "clone3",
            Effect::Post(_) => "post",
            Effect::Wait(_) => "wait",
            Effect::Arrive => "arrive",
            Effect::Park => "park",
            Effect::Exit { .. } => "exit_group",
            Effect::Kill { .. } => "kill",
            Effect::AwaitExit { .. } => "waitid",
            Effect::SetSid => "setsid",
            Effect::SetPgid { .. } => "setpgid",
            Effect::Fd(effect) => match effect {
                FdEffect::Open { .. } => "openat",
                FdEffect::Pipe { .. } => "pipe2",
                FdEffect::SocketPair { .. } => "socketpair",
                FdEffect::Eventfd { .. } => "eventfd2",
                FdEffect::Epoll { .. } => "epoll_create1",
                FdEffect::Timerfd { .. } => "timerfd_create",
                FdEffect::Signalfd { .. } => "signalfd4",
                FdEffect::Socket { .. } => "socket",
                FdEffect::Accept { .. } => "accept4",
                FdEffect::Memfd { .. } => "memfd_create",
                FdEffect::Userfault { .. } => "userfaultfd",
                FdEffect::Receive { .. } => "recvmsg",
                FdEffect::Probe { .. } => "fcntl(F_GETFD)",
                FdEffect::Dup { .. } => "dup3",
                FdEffect::DupLowest { .. } => "fcntl(F_DUPFD)",
                FdEffect::SetCloexec { .. } => "fcntl(F_SETFD)",
                FdEffect::Close { .. } => "close",
                FdEffect::CloseRange { .. } => "close_range",
            },
            Effect::Undo { .. } => "undo",
            Effect::File(effect) => match effect {
                FileEffect::Chown { .. } => "fchownat",
                FileEffect::Chmod { .. } => "fchmodat",
            },
            Effect::Name(effect) => match effect {
                NameEffect::MakeDirectory { .. } => "mkdir",
                NameEffect::MakeFifo { .. } => "mknod",
                NameEffect::Link { .. } => "link",
                NameEffect::Unlink { .. } => "unlink",
                NameEffect::Rename { .. } => "rename",
                NameEffect::Exchange { .. } => "renameat2",
                NameEffect::RemoveDirectory { .. } => "rmdir",
            },
            Effect::Object { change, .. } => match change {
                Change::Seek { .. } => "lseek",
                Change::SetStatus { .. } => "fcntl(F_SETFL)",
                Change::SetPipeSize { .. } => "fcntl(F_SETPIPE_SZ)",
                Change::Write { .. } => "write",
                Change::Send { .. } => "send",
                Change::Read { .. } => "read",
                Change::Shutdown { .. } => "shutdown",
                Change::Bind { .. } => "bind",
                Change::Listen { .. } => "listen",
                Change::Connect { .. } => "connect",
                Change::SetBytes { .. } => "setsockopt",
                Change::SetOption { .. } => "setsockopt",
                Change::SetOwner { .. } => "fcntl(F_SETOWN)",
                Change::SetSignal { .. } => "fcntl(F_SETSIG)",
                Change::Watch { .. } => "epoll_ctl",
                Change::SetTimer { .. } => "timerfd_settime",
                Change::SetTicks { .. } => "ioctl(TFD_IOC_SET_TICKS)",
                Change::Lock => "flock",
                Change::Truncate { .. } => "ftruncate",
                Change::Copy { .. } => "sendfile",
                Change::SetFileOwner { .. } => "fchown",
                Change::SetMode { .. } => "fchmod",
                Change::SetTimes { .. } => "utimensat",
                Change::AddSeals { .. } => "fcntl(F_ADD_SEALS)",
                Change::Enter => "fchdir",
                Change::Userfault(UserfaultChange::Handshake) => "ioctl(UFFDIO_API)",
                Change::Userfault(UserfaultChange::Register { .. }) => "ioctl(UFFDIO_REGISTER)",
                Change::Userfault(UserfaultChange::Copy { .. }) => "ioctl(UFFDIO_COPY)",
                Change::Userfault(UserfaultChange::Move { .. }) => "ioctl(UFFDIO_MOVE)",
                Change::Userfault(UserfaultChange::Unregister { .. }) => "ioctl(UFFDIO_UNREGISTER)",
            },
            Effect::Memory(effect) => match effect {
                MemoryEffect::Map { .. } => "mmap",
                MemoryEffect::Remap { .. } => "mremap",
                MemoryEffect::Attach { .. } => "shmat",
                MemoryEffect::Unmap { .. } => "munmap",
                MemoryEffect::Protect { .. } => "mprotect",
                MemoryEffect::Advise { .. } => "madvise",
                MemoryEffect::Lock { .. } => "mlock",
                MemoryEffect::SetMm { .. } => "prctl(PR_SET_MM)",
                MemoryEffect::MapVdso { .. } => "arch_prctl(ARCH_MAP_VDSO_64)",
                MemoryEffect::Write { .. } => "process_vm_writev",
                MemoryEffect::Ring(RingEffect::Setup { .. }) => "io_setup",
                MemoryEffect::Ring(RingEffect::Place { .. }) => "mremap",
                MemoryEffect::Ring(RingEffect::Submit { .. }) => "io_submit",
                MemoryEffect::Ring(RingEffect::Reap { .. }) => "io_getevents",
            },
            Effect::Attribute(attribute) => match attribute {
                Attribute::Name(_) => "prctl(PR_SET_NAME)",
                Attribute::Umask(_) => "umask",
                Attribute::WorkingDirectory(_) => "chdir",
                Attribute::RootDirectory(_) => "chroot",
                Attribute::Personality(_) => "personality",
                Attribute::Dumpable(_) => "prctl(PR_SET_DUMPABLE)",
                Attribute::ParentDeathSignal(_) => "prctl(PR_SET_PDEATHSIG)",
                Attribute::Subreaper(_) => "prctl(PR_SET_CHILD_SUBREAPER)",
                Attribute::ThpDisable(_) => "prctl(PR_SET_THP_DISABLE)",
                Attribute::TimerIds(_) => "prctl(PR_TIMER_CREATE_RESTORE_IDS)",
                Attribute::TimerSlack(_) => "prctl(PR_SET_TIMERSLACK)",
                Attribute::SigAction { .. } => "rt_sigaction",
                Attribute::SigMask { .. } => "rt_sigprocmask",
                Attribute::EatSignal { .. } => "rt_sigtimedwait",
                Attribute::AltStack { .. } => "sigaltstack",
                Attribute::RobustList { .. } => "set_robust_list",
                Attribute::TidAddress(_) => "set_tid_address",
                Attribute::Rseq { .. } => "rseq",
                Attribute::Membarrier(_) => "membarrier",
                Attribute::IntervalTimer { .. } => "setitimer",
                Attribute::TimerCreate { .. } => "timer_create",
                Attribute::TimerSet { .. } => "timer_settime",
                Attribute::QueueSignal { .. } => "rt_sigqueueinfo",
                Attribute::Nice(_) => "setpriority",
                Attribute::Scheduler { .. } => "sched_setscheduler",
            },
            Effect::Ipc(effect) => match effect {
                IpcEffect::NewNamespace => "unshare",
                IpcEffect::Make { kind: IpcKind::Segment, .. } => "shmget",
                IpcEffect::Make { kind: IpcKind::Queue, .. } => "msgget",
                IpcEffect::Make { kind: IpcKind::Semaphores, .. } => "semget",
                IpcEffect::SetOwner { kind: IpcKind::Segment, .. } => "shmctl(IPC_SET)",
                IpcEffect::SetOwner { kind: IpcKind::Queue, .. } => "msgctl(IPC_SET)",
                IpcEffect::SetOwner { kind: IpcKind::Semaphores, .. } => "semctl(IPC_SET)",
                IpcEffect::LockSegment { .. } => "shmctl(SHM_LOCK)",
                IpcEffect::RemoveSegment { .. } => "shmctl(IPC_RMID)",
                IpcEffect::Send { .. } => "msgsnd",
                IpcEffect::SetValues { .. } => "semctl(SETALL)",
            },
            Effect::Privilege(effect) => match effect {
                PrivilegeEffect::Uids(_) => "setresuid",
                PrivilegeEffect::Gids(_) => "setresgid",
                PrivilegeEffect::FsUid(_) => "setfsuid",
                PrivilegeEffect::FsGid(_) => "setfsgid",
                PrivilegeEffect::RaiseAmbient(_) => "prctl(PR_CAP_AMBIENT)",
                PrivilegeEffect::Groups(_) => "setgroups",
                PrivilegeEffect::Capabilities { .. } => "capset",
                PrivilegeEffect::DropBounding(_) => "prctl(PR_CAPBSET_DROP)",
                PrivilegeEffect::Securebits(_) => "prctl(PR_SET_SECUREBITS)",
                PrivilegeEffect::KeepCaps(_) => "prctl(PR_SET_KEEPCAPS)",
                PrivilegeEffect::NoNewPrivs => "prctl(PR_SET_NO_NEW_PRIVS)",
                PrivilegeEffect::Seccomp(_) => "seccomp",
                PrivilegeEffect::Limit { .. } => "prlimit64",
            },
        }
    }
}
