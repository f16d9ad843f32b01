//! What a CRIU image directory says, as typed values.
//!
//! The reader ([`super::read_model`]) turns bytes into a [`Model`]; everything below works on
//! the model alone. The model keeps the numbers of the images (pids, image ids, addresses) and,
//! for everything that can fail later, the [`Origin`] it came from. It does not know this host.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use super::table::Table;

/// A process id as the images number it: the id in the tree's own (innermost) pid namespace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct NsPid(pub u32);

impl fmt::Display for NsPid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for NsPid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One image file of the directory, by the name that CRIU gives it
/// (`criu/image-desc.c`, `imgset_template`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Image {
    /// `inventory.img`
    Inventory,
    /// `pstree.img`
    Pstree,
    /// `core-PID.img`
    Core(u32),
    /// `ids-PID.img`
    Ids(u32),
    /// `mm-PID.img`
    Mm(u32),
    /// `pagemap-PID.img`
    Pagemap(u32),
    /// `pagemap-shmem-SHMID.img`
    PagemapShmem(u64),
    /// `pages-ID.img`, of this directory or of one before it
    Pages(PagesImage),
    /// `fs-PID.img`
    Fs(u32),
    /// `fdinfo-ID.img`
    Fdinfo(u32),
    /// `files.img`
    Files,
    /// `pipes-data.img`
    PipesData,
    /// `fifo-data.img`
    FifoData,
    /// `eventpoll-tfd.img`
    EventpollTfd,
    /// `sk-queues.img`
    SkQueues,
    /// `memfd.img`
    Memfd,
    /// `remap-fpath.img`
    RemapFpath,
    /// `ghost-file-ID.img`
    GhostFile(u32),
    /// `cgroup.img`
    Cgroup,
    /// `seccomp.img`
    Seccomp,
    /// `filelocks.img`
    Filelocks,
    /// `tty-info.img`
    TtyInfo,
    /// `timens-ID.img`
    Timens(u32),
    /// `ipcns-var-ID.img`
    IpcVar(u32),
    /// `ipcns-shm-ID.img`
    IpcShm(u32),
    /// `ipcns-msg-ID.img`
    IpcMsg(u32),
    /// `ipcns-sem-ID.img`
    IpcSem(u32),
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Image::Inventory => f.write_str("inventory.img"),
            Image::Pstree => f.write_str("pstree.img"),
            Image::Core(pid) => write!(f, "core-{pid}.img"),
            Image::Ids(pid) => write!(f, "ids-{pid}.img"),
            Image::Mm(pid) => write!(f, "mm-{pid}.img"),
            Image::Pagemap(pid) => write!(f, "pagemap-{pid}.img"),
            Image::PagemapShmem(id) => write!(f, "pagemap-shmem-{id}.img"),
            Image::Pages(image) => write!(f, "{image}"),
            Image::Fs(pid) => write!(f, "fs-{pid}.img"),
            Image::Fdinfo(id) => write!(f, "fdinfo-{id}.img"),
            Image::Files => f.write_str("files.img"),
            Image::PipesData => f.write_str("pipes-data.img"),
            Image::FifoData => f.write_str("fifo-data.img"),
            Image::EventpollTfd => f.write_str("eventpoll-tfd.img"),
            Image::SkQueues => f.write_str("sk-queues.img"),
            Image::Memfd => f.write_str("memfd.img"),
            Image::RemapFpath => f.write_str("remap-fpath.img"),
            Image::GhostFile(id) => write!(f, "ghost-file-{id:x}.img"),
            Image::Cgroup => f.write_str("cgroup.img"),
            Image::Seccomp => f.write_str("seccomp.img"),
            Image::Filelocks => f.write_str("filelocks.img"),
            Image::TtyInfo => f.write_str("tty-info.img"),
            Image::Timens(id) => write!(f, "timens-{id}.img"),
            Image::IpcVar(id) => write!(f, "ipcns-var-{id}.img"),
            Image::IpcShm(id) => write!(f, "ipcns-shm-{id}.img"),
            Image::IpcMsg(id) => write!(f, "ipcns-msg-{id}.img"),
            Image::IpcSem(id) => write!(f, "ipcns-sem-{id}.img"),
        }
    }
}

/// A file of pages: `pages-ID.img`, of the directory that is read or of one before it.
///
/// The pages of an incremental dump that had not changed since the dump before are in the directory of
/// that, which `parent` in this one leads to; and so on.
///
/// Displayed as the path from the directory: `pages-7.img`, `parent/parent/pages-7.img`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PagesImage {
    /// How many `parent`s lead to the directory that has it; 0: the directory itself.
    pub depth: u32,
    /// The id in the head of the pagemap.
    pub id: u32,
}

impl PagesImage {
    /// A pages image of the directory itself.
    pub fn own(id: u32) -> PagesImage {
        PagesImage { depth: 0, id }
    }
}

impl fmt::Display for PagesImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}pages-{}.img", Upwards(self.depth), self.id)
    }
}

/// The way to a directory before this one, as it is displayed: `parent/` as often as it takes, or
/// `parent^N/` where nobody would count them.
pub(crate) struct Upwards(pub(crate) u32);

impl fmt::Display for Upwards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            depth @ 0..=4 => (0..depth).try_for_each(|_| f.write_str("parent/")),
            depth => write!(f, "parent^{depth}/"),
        }
    }
}

/// Where in the images something was said: an image file and the number of its entry, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The image file.
    pub image: Image,
    /// The entry in it, counted from 0 without the magic (and, in a pagemap, from its head).
    /// For the VMAs of an mm image: the index of the VMA; for a filter of the seccomp image: its index.
    pub entry: u32,
}

impl Origin {
    /// Entry `entry` of `image`.
    pub fn new(image: Image, entry: usize) -> Origin {
        Origin { image, entry: entry as u32 }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entry {}", self.image, self.entry)
    }
}

impl Serialize for Origin {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// A stretch of raw bytes in an image file (the contents of a pipe, of a socket queue).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// The image file.
    pub image: Image,
    /// Offset of the first byte in it.
    pub offset_bytes: u64,
    /// Length.
    pub len_bytes: u64,
}

/// A whole image directory.
#[derive(Debug, Clone)]
pub struct Model {
    /// The directory, as an absolute path.
    pub dir: PathBuf,
    /// The directories of the dumps before it, the nearest first, as absolute paths without links.
    pub parents: Vec<PathBuf>,
    /// What `inventory.img` says.
    pub inventory: Inventory,
    /// All tasks: the root first, each before its children, siblings in the order of `pstree.img`. This order
    /// and all below are those of [`super::arrange`].
    pub tasks: Vec<Task>,
    /// Every open file description of `files.img`, in the order in which the tasks lead to them.
    pub ofds: Vec<Ofd>,
    /// What the pipes hold, from `pipes-data.img`.
    pub pipe_data: Vec<PipeData>,
    /// What FIFOs hold, from `fifo-data.img`.
    pub fifo_data: Vec<PipeData>,
    /// What waits in sockets, from `sk-queues.img`; the packets of one socket in their order.
    pub packets: Vec<Packet>,
    /// Contents of shared memory, one for every `pagemap-shmem-*.img`.
    pub shm: Vec<Shm>,
    /// Inodes of `memfd.img`. CRIU stores shared anonymous memory as one named `/dev/zero`.
    pub memfds: Vec<MemfdInode>,
    /// Unlinked or otherwise unreachable files, from `remap-fpath.img`.
    pub remaps: Vec<Remap>,
    /// What unlinked files were and held, one for every `ghost-file-*.img`.
    pub ghosts: Vec<GhostFile>,
    /// The cgroup sets that tasks refer to.
    pub cgroup_sets: Vec<CgroupSet>,
    /// The hierarchies that these are in, with their directories.
    pub cgroup_hierarchies: Vec<CgroupHierarchy>,
    /// File locks (`filelocks.img`).
    pub file_locks: Vec<FileLock>,
    /// Filters that threads name by their index (`seccomp.img`).
    pub seccomp_filters: Vec<SeccompFilter>,
    /// Clocks at the dump (`timens-ID.img`), by the number of their time namespace; 0: that in which CRIU
    /// was.
    pub clocks: BTreeMap<u32, Clocks>,
    /// IPC namespaces of the tree (`ipcns-*-ID.img`), by their number.
    pub ipc: BTreeMap<u32, super::ipc::IpcNs>,
    /// Image files with entries that belong to a feature regrow does not read yet
    /// (recognised by magic and name): each is a problem for a restore.
    pub unread: Vec<UnreadImage>,
}

impl Model {
    /// The IPC namespace that the tree had of its own: the root's.
    pub fn own_ipc(&self) -> Option<&super::ipc::IpcNs> {
        let root = self.tasks.first().and_then(Task::alive)?;
        self.ipc.get(&root.ids.ipc_ns)
    }

    /// The path of an image file.
    ///
    /// Not by way of `parent`: a path has at most 40 links (`MAXSYMLINKS`, linux/namei.h), and 4096 bytes.
    pub fn path(&self, image: Image) -> PathBuf {
        let before = match image {
            Image::Pages(PagesImage { depth, id }) => {
                let dir = depth.checked_sub(1).and_then(|nth| self.parents.get(nth as usize));
                dir.map(|dir| dir.join(PagesImage::own(id).to_string()))
            }
            _ => None,
        };
        before.unwrap_or_else(|| self.dir.join(image.to_string()))
    }
}

/// `inventory.img`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Inventory {
    /// 1 is version 1, 2 is version 1.1 (a common magic heads every image).
    pub img_version: u32,
    /// `CRIU_RUN_ID` of the dump, where there is one.
    pub dump_criu_run_id: Option<String>,
    /// The cgroup set of the dumping CRIU itself (`root_cg_set`).
    pub root_cg_set: Option<u32>,
    /// The namespaces CRIU itself lived in (`root_ids`).
    pub root_ids: Option<KobjIds>,
    /// 0 none, 1 SELinux, 2 AppArmor.
    pub lsm_type: u32,
    /// TCP connections were dumped with `--tcp-close`.
    pub tcp_close: bool,
    /// Plugins that the dump was made with and that a restore needs.
    pub plugins: Vec<String>,
}

/// Ids of kernel objects of a task (`ids-PID.img`, or inside `core-PID.img`): tasks with equal
/// ids share the object. 0: not said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct KobjIds {
    pub vm: u32,
    pub files: u32,
    pub fs: u32,
    pub sighand: u32,
    pub pid_ns: u32,
    pub net_ns: u32,
    pub ipc_ns: u32,
    pub uts_ns: u32,
    pub mnt_ns: u32,
    pub user_ns: u32,
    pub cgroup_ns: u32,
    pub time_ns: u32,
}

/// One process of the tree.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its pid.
    pub pid: NsPid,
    /// Its parent's pid; 0 for the root.
    pub ppid: NsPid,
    /// Its process group.
    pub pgid: NsPid,
    /// Its session.
    pub sid: NsPid,
    /// Its entry in `pstree.img`.
    pub origin: Origin,
    /// `core-PID.img` entry.
    pub core_origin: Origin,
    /// What it does.
    pub state: TaskState,
}

/// What a task does (`task_state` of the core image).
#[derive(Debug, Clone)]
pub enum TaskState {
    /// Runs.
    Alive(Box<Alive>),
    /// Was stopped (SIGSTOP and the like) at the dump.
    Stopped(Box<Alive>),
    /// Has died and waits to be reaped: its exit code as `wait4` gives it.
    Zombie {
        /// Exit status in the encoding of `wait4(2)`.
        exit_code: u32,
        /// Its name.
        comm: String,
    },
}

impl Task {
    /// The living part: of a running or a stopped task.
    pub fn alive(&self) -> Option<&Alive> {
        match &self.state {
            TaskState::Alive(a) | TaskState::Stopped(a) => Some(a),
            TaskState::Zombie { .. } => None,
        }
    }

    /// The living part, to change.
    pub fn alive_mut(&mut self) -> Option<&mut Alive> {
        match &mut self.state {
            TaskState::Alive(a) | TaskState::Stopped(a) => Some(a),
            TaskState::Zombie { .. } => None,
        }
    }
}

/// A living task.
#[derive(Debug, Clone)]
pub struct Alive {
    /// Name (`comm`), at most 15 bytes.
    pub comm: String,
    /// Execution domain flags, `personality(2)`.
    pub personality: u32,
    /// `umask` of the task.
    pub umask: u32,
    /// Kernel objects.
    pub ids: KobjIds,
    /// What it does on each signal: index 0 is signal 1. 64 entries; SIGKILL and SIGSTOP have the
    /// default.
    pub sigactions: Vec<SigAction>,
    /// Resource limits by number; `None` if the images carry no limits.
    pub rlimits: Vec<RLimit>,
    /// Pending signals of the process (raw `siginfo_t`, 128 bytes each).
    pub pending_shared: Vec<Vec<u8>>,
    /// `oom_score_adj`.
    pub oom_score_adj: i32,
    /// Login uid, if stored.
    pub loginuid: Option<u32>,
    /// `PR_SET_CHILD_SUBREAPER`.
    pub child_subreaper: bool,
    /// Registered membarrier commands: a bit mask of `MEMBARRIER_CMD_REGISTER_*` values.
    pub membarrier: u32,
    /// The signal it was stopped by, where it was.
    pub stop_signo: Option<u32>,
    /// Interval timers and POSIX timers.
    pub timers: Timers,
    /// Threads: the leader first.
    pub threads: Vec<Thread>,
    /// Address space.
    pub mm: Mm,
    /// Working directory and root directory, as ids of open file descriptions.
    pub fs: Fs,
    /// Descriptor table, sorted by number.
    pub fds: Table,
}

impl Alive {
    /// Where an entry of its descriptor table comes from.
    pub fn origin_of(&self, entry: &FdEntry) -> Origin {
        Origin { image: Image::Fdinfo(self.ids.files), entry: entry.entry }
    }
}

/// `fs-PID.img`.
#[derive(Debug, Clone, Copy)]
pub struct Fs {
    /// Id (in `files.img`) of the working directory.
    pub cwd_id: u32,
    /// Id of the root directory.
    pub root_id: u32,
    /// Entry.
    pub origin: Origin,
}

/// `sigaction(2)` as the kernel's ABI has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[allow(missing_docs)]
pub struct SigAction {
    pub handler: u64,
    pub flags: u64,
    pub restorer: u64,
    pub mask: u64,
    /// Registered by 32-bit code.
    pub compat: bool,
}

/// One resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RLimit {
    /// Soft limit; `u64::MAX` is unlimited.
    pub cur: u64,
    /// Hard limit.
    pub max: u64,
}

/// Interval and POSIX timers of a task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timers {
    /// ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF: (interval µs, value µs). Of a real one with an interval some is left always: one that has
    /// gone off, and whose signal waits, has all of it.
    pub itimers: [(u64, u64); 3],
    /// POSIX timers.
    pub posix: Vec<PosixTimer>,
}

/// One POSIX timer (`timer.proto`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PosixTimer {
    pub id: u32,
    pub clock_id: u32,
    pub signo: u32,
    pub notify: u32,
    pub sival_ptr: u64,
    pub overrun: u32,
    pub interval_ns: u64,
    pub value_ns: u64,
    pub notify_tid: Option<i32>,
}

/// One thread: a kernel task of a process.
#[derive(Debug, Clone)]
pub struct Thread {
    /// Its tid; of the leader: the pid.
    pub tid: NsPid,
    /// `core-TID.img`.
    pub origin: Origin,
    /// General registers.
    pub regs: Regs,
    /// FPU and extended state; `None` if the images carry none.
    pub fpu: Option<Box<Fpu>>,
    /// TLS descriptors of the GDT in use (32-bit code).
    pub gdt_tls: u32,
    /// `set_tid_address(2)`.
    pub clear_tid_addr: u64,
    /// Robust futex list: head and length; length 0: none.
    pub robust_list: (u64, u64),
    /// Blocked signals: bit 0 is signal 1.
    pub blocked: u64,
    /// Alternate signal stack.
    pub sas: SigAltStack,
    /// Pending signals of this thread.
    pub pending: Vec<Vec<u8>>,
    /// Name, where it is stored per thread.
    pub comm: Option<String>,
    /// Restartable sequences.
    pub rseq: Option<Rseq>,
    /// Scheduling: policy, priority, nice.
    pub sched: Sched,
    /// Parent-death signal, 0: none.
    pub pdeath_sig: u32,
    /// Credentials; `None` if the images carry none.
    pub creds: Option<Box<Creds>>,
    /// 0 disabled, 1 strict, 2 filter.
    pub seccomp_mode: u32,
    /// Of mode 2: the oldest filter of its chain, by its index in [`Model::seccomp_filters`].
    pub seccomp_filter: Option<u32>,
    /// The cgroup set.
    pub cg_set: Option<u32>,
    /// Timer slack (`PR_SET_TIMERSLACK`), in images of CRIU 4.3 and newer.
    pub timer_slack_ns: Option<u64>,
}

/// A filter of `seccomp.img`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeccompFilter {
    /// `struct sock_filter`, one after another: 1 to 4096 instructions that the kernel takes.
    pub program: Arc<[u8]>,
    /// The filter that was installed next in the same chain, by its index. (The image calls it `prev`.)
    pub next: Option<u32>,
    /// `SECCOMP_FILTER_FLAG_*`. TSYNC in those of a task's first thread: all its threads have them.
    pub flags: u32,
}

/// Scheduling attributes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Sched {
    pub policy: u32,
    pub priority: u32,
    pub nice: i32,
}

/// `sigaltstack(2)`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct SigAltStack {
    pub sp: u64,
    pub size_bytes: u64,
    pub flags: u32,
}

/// `rseq(2)` registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Rseq {
    pub address: u64,
    pub size_bytes: u32,
    pub signature: u32,
    /// The critical section the thread was in (`rseq_cs`), 0: none.
    pub critical_section: u64,
}

/// General registers of x86-64, as `user_regs_struct` has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Regs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub bp: u64,
    pub bx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub ax: u64,
    pub cx: u64,
    pub dx: u64,
    pub si: u64,
    pub di: u64,
    pub orig_ax: u64,
    pub ip: u64,
    pub cs: u64,
    pub flags: u64,
    pub sp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
    /// 32-bit code.
    pub compat: bool,
}

/// FPU state: the legacy area and the extended components present.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Fpu {
    pub cwd: u16,
    pub swd: u16,
    pub twd: u16,
    pub fop: u16,
    pub rip: u64,
    pub rdp: u64,
    pub mxcsr: u32,
    pub mxcsr_mask: u32,
    /// 128 bytes: st0..st7.
    pub st_space: Vec<u8>,
    /// 256 bytes: xmm0..xmm15.
    pub xmm_space: Vec<u8>,
    /// `xstate_bv` of the XSAVE header; `None` without an xsave area.
    pub xstate_bv: Option<u64>,
    /// Extended components in the image by XSAVE component number (2 AVX, 3 BNDREGS, 4 BNDCSR,
    /// 5 opmask, 6 ZMM_Hi256, 7 Hi16_ZMM, 9 PKRU, 11 CET user state): raw bytes; absent if empty.
    pub components: Vec<(u32, Vec<u8>)>,
}

/// Credentials of a thread (`creds.proto`). Capability sets as 64-bit masks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Creds {
    pub uid: u32,
    pub gid: u32,
    pub euid: u32,
    pub egid: u32,
    pub suid: u32,
    pub sgid: u32,
    pub fsuid: u32,
    pub fsgid: u32,
    pub cap_inh: u64,
    pub cap_prm: u64,
    pub cap_eff: u64,
    pub cap_bnd: u64,
    pub cap_amb: u64,
    pub securebits: u32,
    pub groups: Vec<u32>,
    pub no_new_privs: bool,
    pub lsm_profile: Option<String>,
    pub lsm_sockcreate: Option<String>,
}

/// An address space (`mm-PID.img`).
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Mm {
    pub origin: Origin,
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_stack: u64,
    pub start_brk: u64,
    pub brk: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    /// Id (in `files.img`) of the executable.
    pub exe_file_id: u32,
    /// The auxiliary vector, as 64-bit words.
    pub auxv: Vec<u64>,
    /// 0, 1 or 2 (`PR_GET_DUMPABLE`).
    pub dumpable: Option<i32>,
    /// `PR_SET_THP_DISABLE`.
    pub thp_disabled: bool,
    /// Rings of asynchronous I/O, by address.
    pub aio_rings: Vec<AioRing>,
    /// Mappings, sorted by start, none overlapping another.
    pub vmas: Vec<Vma>,
    /// Ranges under `MADV_GUARD_INSTALL`, sorted: (first address, address behind the last). CRIU
    /// stores them behind the mappings as if they were mappings; each lies within real ones.
    pub guards: Vec<(u64, u64)>,
    /// Pages with contents, sorted by address; without those of rings.
    pub pages: Pages,
}

/// The ring of an AIO context (`io_setup(2)`). Its mapping is a [`VmaKind::AioRing`].
#[derive(Debug, Clone)]
pub struct AioRing {
    /// Its address, which is the context's id.
    pub start: u64,
    /// Length of the mapping.
    pub len_bytes: u64,
    /// The most requests that may have been asked for (`nr_req`): what was asked for is not known.
    pub requests: u32,
    /// Its number among the contexts of the task.
    pub id: u32,
    /// The event that is read next.
    pub head: u32,
    /// The event that is written next.
    pub tail: u32,
    /// Its pages, all of them.
    pub pages: Vec<Extent>,
    /// Entry.
    pub origin: Origin,
}

impl AioRing {
    /// How many events there is room for: what a page holds, but for the head in the place of one (`aio_setup_ring`,
    /// fs/aio.c).
    pub fn events(&self) -> u64 {
        (self.len_bytes / 32).saturating_sub(1)
    }

    /// How many events nobody has read.
    pub fn pending(&self) -> u64 {
        let (head, tail) = (u64::from(self.head), u64::from(self.tail));
        if head <= tail { tail - head } else { self.events().saturating_sub(head - tail) }
    }
}

/// Which pages of an address space or of a shared memory segment are stored, and where.
#[derive(Debug, Clone, Default)]
pub struct Pages {
    /// The id in the pagemap's head: `pages-ID.img`.
    pub pages_id: u32,
    /// The extents, by address; the offsets in each pages image ascend.
    pub extents: Vec<Extent>,
}

impl Pages {
    /// The extents by their pages images, in the order of these. Most address spaces have one.
    pub fn by_image(&self) -> Vec<(PagesImage, Cow<'_, [Extent]>)> {
        by_image(&self.extents)
    }
}

/// See [`Pages::by_image`].
pub fn by_image(extents: &[Extent]) -> Vec<(PagesImage, Cow<'_, [Extent]>)> {
    let Some(first) = extents.first().map(|extent| extent.image) else { return Vec::new() };
    if extents.iter().all(|extent| extent.image == first) {
        return vec![(first, Cow::Borrowed(extents))];
    }
    let mut images: BTreeMap<PagesImage, Vec<Extent>> = BTreeMap::new();
    for extent in extents {
        images.entry(extent.image).or_default().push(*extent);
    }
    images.into_iter().map(|(image, extents)| (image, Cow::Owned(extents))).collect()
}

/// A run of stored pages of 4096 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Address of the first page (for shared memory: offset in the segment).
    pub start: u64,
    /// Number of pages.
    pub len_pages: u64,
    /// The pages image.
    pub image: PagesImage,
    /// Offset of the first page in it.
    pub offset_bytes: u64,
    /// Its entry in the pagemap.
    pub entry: u32,
}

impl Extent {
    /// The part of it between two addresses, both multiples of the page size; `None` if there is none.
    pub fn within(&self, start: u64, end: u64) -> Option<Extent> {
        const PAGE: u64 = 4096;
        let first = self.start.max(start);
        let behind = self.start.saturating_add(self.len_pages.saturating_mul(PAGE)).min(end);
        (first < behind).then(|| Extent {
            start: first,
            len_pages: (behind - first) / PAGE,
            image: self.image,
            offset_bytes: self.offset_bytes + (first - self.start),
            entry: self.entry,
        })
    }
}

/// One mapping (`vma.proto`).
#[derive(Debug, Clone)]
pub struct Vma {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    /// `PROT_*`.
    pub prot: u32,
    /// `MAP_*`, as CRIU stores them (MAP_FIXED is not among them).
    pub flags: u32,
    /// Bits of CRIU's `VMA_AREA_*` status as stored (see [`super::vma`] for their names).
    pub status: u32,
    /// What is mapped.
    pub kind: VmaKind,
    /// `madvise` values to apply: bit N stands for advice N.
    pub madvise: u64,
    /// Entry: image `mm-PID.img`, index of the VMA.
    pub origin: Origin,
}

/// What a mapping shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmaKind {
    /// Private anonymous memory: heap, stack and all else.
    AnonPrivate,
    /// A private mapping of file `ofd_id` (in `files.img`) at `offset_bytes`.
    FilePrivate {
        /// Id in `files.img`.
        ofd_id: u32,
        /// File offset.
        offset_bytes: u64,
        /// Status flags the file was open with, where stored.
        file_flags: Option<u32>,
    },
    /// A shared mapping of a file.
    FileShared {
        /// Id in `files.img`.
        ofd_id: u32,
        /// File offset.
        offset_bytes: u64,
        /// Status flags the file was open with, where stored.
        file_flags: Option<u32>,
    },
    /// Shared anonymous memory: segment `shmid` (of [`Model::shm`]) from `offset_bytes`. Shared
    /// anonymous memory that CRIU stored as a memfd named `/dev/zero` arrives here too, with the
    /// `shmid` of that memfd's inode.
    AnonShared {
        /// Id of the segment: the number in `pagemap-shmem-N.img`.
        shmid: u64,
        /// Offset in the segment.
        offset_bytes: u64,
    },
    /// A mapping of a memfd (private or shared: `MAP_PRIVATE` of the flags tells) at `offset_bytes`.
    /// Shared anonymous memory is [`VmaKind::AnonShared`], although CRIU stores it as a memfd.
    Memfd {
        /// Id in `files.img`.
        ofd_id: u32,
        /// Its inode, in [`Model::memfds`].
        inode_id: u64,
        /// File offset.
        offset_bytes: u64,
        /// Status flags the memfd was open with, where stored.
        file_flags: Option<u32>,
    },
    /// An attachment of a System V segment, or a part of one.
    SysV {
        /// The segment's id, of [`super::ipc::IpcNs::segments`].
        shmid: u32,
        /// Offset in the segment.
        offset_bytes: u64,
        /// It was attached to be read only (`SHM_RDONLY`): it cannot be made writable.
        read_only: bool,
    },
    /// Kernel-provided: vvar, vvar_vclock and the like.
    Vvar,
    /// Kernel-provided code.
    Vdso,
    /// The fixed vsyscall page.
    Vsyscall,
    /// The ring of an AIO context: one of [`Mm::aio_rings`].
    AioRing,
    /// Something that regrow does not restore; its status bits tell.
    Other,
}

/// A shared memory segment with stored contents (`pagemap-shmem-ID.img`).
#[derive(Debug, Clone)]
pub struct Shm {
    /// Its id.
    pub shmid: u64,
    /// Stored pages; `start` of an extent is the offset in the segment.
    pub pages: Pages,
}

/// An inode of `memfd.img`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct MemfdInode {
    pub inode_id: u64,
    pub name: String,
    pub size_bytes: u64,
    pub shmid: u64,
    pub seals: u32,
    pub hugetlb_flag: Option<u32>,
    pub mode: Option<u32>,
    pub uid: u32,
    pub gid: u32,
    pub origin: Origin,
}

/// One slot of a descriptor table (`fdinfo-ID.img`).
#[derive(Debug, Clone, Copy)]
pub struct FdEntry {
    /// The number.
    pub fd: u32,
    /// Id of the open file description.
    pub ofd_id: u32,
    /// `FD_CLOEXEC`.
    pub cloexec: bool,
    /// The entry of the table's image, from 0: [`Alive::origin_of`] says which image that is.
    pub entry: u32,
}

/// An open file description (an entry of `files.img`).
#[derive(Debug, Clone)]
pub struct Ofd {
    /// Its id.
    pub id: u32,
    /// Entry.
    pub origin: Origin,
    /// What it is.
    pub kind: OfdKind,
}

/// `F_SETOWN` and `F_SETSIG` of a description.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Fown {
    pub uid: u32,
    pub euid: u32,
    pub signum: u32,
    pub pid_type: u32,
    pub pid: u32,
}

impl Fown {
    /// Whether anything was set.
    pub fn is_set(&self) -> bool {
        self.pid != 0 || self.signum != 0
    }
}

/// The kinds of open file descriptions.
#[derive(Debug, Clone)]
pub enum OfdKind {
    /// A path: regular file, directory, device.
    Reg(RegFile),
    /// One end of a pipe.
    Pipe(Pipe),
    /// An eventfd.
    Eventfd(Eventfd),
    /// An epoll file.
    Epoll(Epoll),
    /// A timerfd.
    Timerfd(Timerfd),
    /// A signalfd.
    Signalfd(Signalfd),
    /// A FIFO with a name.
    Fifo(Fifo),
    /// A unix socket.
    Unix(Box<UnixSocket>),
    /// An internet socket.
    Inet(Box<InetSocket>),
    /// A memfd.
    Memfd(MemfdFile),
    /// A kind that regrow does not restore yet, by CRIU's name for it (`fd_types` in fdinfo.proto).
    Other(&'static str),
}

/// `regfile.proto`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct RegFile {
    pub path: String,
    /// `O_*` as `fcntl(F_GETFL)` gave them.
    pub flags: u32,
    pub position: u64,
    pub fown: Fown,
    pub mount_id: Option<i32>,
    pub size_bytes: Option<u64>,
    /// `st_mode`.
    pub mode: Option<u32>,
    pub is_external: bool,
    /// GNU build-id, empty if not stored.
    pub build_id: Vec<u8>,
    /// CRC32C with how it was computed: (checksum, config, parameter).
    pub checksum: Option<(u32, u32, u32)>,
}

/// `pipe.proto`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Pipe {
    /// Equal for both ends.
    pub pipe_id: u32,
    pub flags: u32,
    pub fown: Fown,
}

/// `eventfd.proto`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Eventfd {
    pub flags: u32,
    pub counter: u64,
    pub fown: Fown,
}

/// `eventpoll.proto`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Epoll {
    pub flags: u32,
    pub fown: Fown,
    /// What it watches, in the order of the image.
    pub interests: Vec<Interest>,
}

/// What an epoll file watches: the file at a number in the task that the epoll file was dumped from,
/// which is the first of `pstree.img` that has it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// The number.
    pub fd: u32,
    /// `EPOLL*`.
    pub events: u32,
    /// What the program gets with an event.
    pub data: u64,
    /// Inode number of the watched file, where stored.
    pub inode: Option<u64>,
}

/// `timerfd.proto`. Times in nanoseconds.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Timerfd {
    pub flags: u32,
    pub fown: Fown,
    pub clock_id: u32,
    /// Expirations that nobody has read.
    pub ticks: u64,
    /// `TFD_TIMER_*` of the last `timerfd_settime(2)`.
    pub settime_flags: u32,
    /// Time left, however it was set; 0: not armed, or expired and not read yet.
    pub value_ns: u64,
    pub interval_ns: u64,
}

/// `signalfd.proto`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Signalfd {
    pub flags: u32,
    pub fown: Fown,
    /// Bit 0 is signal 1.
    pub mask: u64,
}

/// `fifo.proto`: a description of a FIFO. Path, flags and owner are in an entry for a regular file.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Fifo {
    /// Equal for all descriptions of the FIFO.
    pub pipe_id: u32,
    /// Id (in `files.img`) of that entry.
    pub reg_id: u32,
}

/// `memfd.proto`: an open file description of a memfd.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct MemfdFile {
    pub inode_id: u64,
    pub flags: u32,
    pub position: u64,
    pub fown: Fown,
}

/// `sk-unix.proto`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct UnixSocket {
    pub inode: u32,
    /// SOCK_STREAM 1, SOCK_DGRAM 2, SOCK_SEQPACKET 5.
    pub sock_type: u32,
    /// TCP_ESTABLISHED 1, TCP_CLOSE 7, TCP_LISTEN 10.
    pub state: u32,
    pub flags: u32,
    /// CRIU's own flags: USK_EXTERN 1, USK_SERVICE 2, USK_CALLBACK 4, USK_INHERIT 8, USK_GHOST_FDSTORE 16.
    pub uflags: u32,
    pub backlog: u32,
    /// Inode of the peer, 0: none.
    pub peer: u32,
    pub fown: Fown,
    pub options: SocketOptions,
    /// Bound name; empty: unbound.
    pub name: Vec<u8>,
    /// Bit 0: reading is shut down; bit 1: writing.
    pub shutdown: u32,
    pub name_dir: Option<String>,
    pub deleted: bool,
    pub ns_id: Option<u32>,
    pub mount_id: Option<i32>,
    /// Of the socket's name in the file system: (mode, uid, gid).
    pub file_perms: Option<(u32, u32, u32)>,
}

/// `sk-opts.proto`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SocketOptions {
    pub sndbuf_bytes: u32,
    pub rcvbuf_bytes: u32,
    pub snd_timeout_us: u64,
    pub rcv_timeout_us: u64,
    pub reuseaddr: bool,
    pub reuseport: bool,
    pub priority: Option<u32>,
    pub rcvlowat: Option<u32>,
    pub mark: Option<u32>,
    pub passcred: bool,
    pub passsec: bool,
    pub dontroute: bool,
    pub no_check: bool,
    pub broadcast: bool,
    pub keepalive: bool,
    pub oobinline: bool,
    pub bound_dev: Option<String>,
    /// Words of the attached classic BPF filter.
    pub filter: Vec<u64>,
    pub linger_s: Option<u32>,
    /// `SO_BUF_LOCK`.
    pub buf_lock: Option<u32>,
    /// Where CRIU up to 3.17 stored TCP_KEEPCNT, TCP_KEEPIDLE and TCP_KEEPINTVL.
    pub keep: [Option<u32>; 3],
}

/// `sk-inet.proto`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct InetSocket {
    pub inode: u32,
    /// AF_INET 2, AF_INET6 10.
    pub family: u32,
    /// SOCK_STREAM 1, SOCK_DGRAM 2, SOCK_RAW 3.
    pub sock_type: u32,
    /// `IPPROTO_*`.
    pub protocol: u32,
    /// TCP_ESTABLISHED 1, TCP_CLOSE 7, TCP_LISTEN 10 and the other states of TCP.
    pub state: u32,
    /// Address (4 or 16 bytes, in network order) and port that it is bound to.
    pub src: (Vec<u8>, u16),
    /// The same of the other end.
    pub dst: (Vec<u8>, u16),
    pub flags: u32,
    pub backlog: u32,
    pub fown: Fown,
    pub options: SocketOptions,
    pub v6only: Option<bool>,
    pub freebind: bool,
    pub pktinfo: bool,
    pub tos: Option<u32>,
    pub ttl: Option<u32>,
    pub hdrincl: Option<bool>,
    pub nodefrag: Option<bool>,
    pub checksum: Option<bool>,
    /// `ICMP_FILTER` or `ICMPV6_FILTER`.
    pub icmp_filter: Vec<u32>,
    /// The interface of a link-local address.
    pub device: Option<String>,
    pub ns_id: Option<u32>,
    /// Bit 0: reading is shut down; bit 1: writing.
    pub shutdown: u32,
    pub cork: bool,
    pub nodelay: bool,
    /// TCP_KEEPCNT, TCP_KEEPIDLE, TCP_KEEPINTVL.
    pub keep: [Option<u32>; 3],
}

/// What a pipe holds (`pipes-data.img`).
#[derive(Debug, Clone, Copy)]
pub struct PipeData {
    /// The pipe.
    pub pipe_id: u32,
    /// Capacity (`F_GETPIPE_SZ`), where stored.
    pub capacity_bytes: Option<u32>,
    /// The data.
    pub data: Blob,
    /// Entry.
    pub origin: Origin,
}

/// A packet, or a piece of a stream, that waits in a socket's receive queue.
#[derive(Debug, Clone)]
pub struct Packet {
    /// Id (in `files.img`) of the socket that will receive it.
    pub id_for: u32,
    /// The data.
    pub data: Blob,
    /// How many control messages (descriptors in flight) come with it.
    pub control_messages: u32,
    /// The descriptors in flight (SCM_RIGHTS): ids in `files.img`.
    pub rights: Vec<u32>,
    /// Entry.
    pub origin: Origin,
}

/// `remap-fpath.img`: a file whose name is gone.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Remap {
    pub orig_id: u32,
    pub remap_id: u32,
    /// 0 link remap, 1 ghost, 2 procfs.
    pub remap_type: u32,
    pub origin: Origin,
}

/// `ghost-file-ID.img`: an unlinked file.
#[derive(Debug, Clone)]
pub struct GhostFile {
    /// The number in the name of the image: [`Remap::remap_id`].
    pub id: u32,
    /// `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access and last modification: seconds since 1970, and nanoseconds.
    pub times: Option<((i64, u64), (i64, u64))>,
    /// Length.
    pub size_bytes: u64,
    /// Stretches with content; the rest are holes.
    pub pieces: Vec<GhostPiece>,
    /// Entry.
    pub origin: Origin,
}

/// A stretch of an unlinked file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GhostPiece {
    /// Offset in the file.
    pub at: u64,
    /// The bytes.
    pub data: Blob,
}

/// A set of cgroups that tasks are in: (controller name, path).
#[derive(Debug, Clone)]
pub struct CgroupSet {
    /// The number tasks refer to.
    pub id: u32,
    /// Controllers and paths.
    pub members: Vec<(String, String)>,
}

/// A hierarchy of cgroups, with the directories that CRIU found at and below those of the tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupHierarchy {
    /// Its controllers, or its name (`name=systemd`); one that is empty: version 2.
    pub controllers: Vec<String>,
    /// Its directories, each behind the one that it is in.
    pub directories: Vec<CgroupDirectory>,
}

/// A directory of a hierarchy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupDirectory {
    /// The one that it is in, by its place in [`CgroupHierarchy::directories`].
    pub parent: Option<u32>,
    /// Its path below that one, or from the hierarchy's root on, then with a slash before it.
    pub name: String,
    /// Its permissions.
    pub perms: Option<CgroupPerms>,
    /// Its files.
    pub properties: Vec<CgroupProperty>,
}

/// A file of a cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupProperty {
    /// Its name.
    pub name: String,
    /// What it said.
    pub value: String,
    /// Its permissions.
    pub perms: Option<CgroupPerms>,
}

/// Permissions of a directory or file of a cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct CgroupPerms {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl CgroupHierarchy {
    /// The path of each directory, from the root of the hierarchy on; `None`: it is longer than any path can be, so it was
    /// in no hierarchy. (Otherwise directories in one another would take the square of their number.)
    pub fn paths(&self) -> Vec<Option<String>> {
        let mut paths: Vec<Option<String>> = Vec::with_capacity(self.directories.len());
        for directory in &self.directories {
            let name = directory.name.trim_start_matches('/');
            let path = match directory.parent.and_then(|parent| paths.get(parent as usize)) {
                Some(above) => above.as_ref().map(|above| format!("{}/{name}", above.trim_end_matches('/'))),
                None => Some(format!("/{name}")),
            };
            paths.push(path.filter(|path| path.len() < libc::PATH_MAX as usize));
        }
        paths
    }
}

/// `file-lock.proto`.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct FileLock {
    pub flag: u32,
    pub kind: u32,
    pub pid: i32,
    pub fd: i32,
    pub start: i64,
    pub len: i64,
    pub origin: Origin,
}

impl Model {
    /// Whether the root had another time namespace than CRIU.
    pub fn is_in_own_time_ns(&self) -> bool {
        let own = self.tasks.first().and_then(Task::alive).map_or(0, |alive| alive.ids.time_ns);
        let outer = self.inventory.root_ids.map_or(0, |ids| ids.time_ns);
        own != 0 && outer != 0 && own != outer
    }

    /// What the clocks said to the root at the dump; `None` if the images do not have it.
    pub fn clocks_of_tree(&self) -> Option<Clocks> {
        let own = self.tasks.first().and_then(Task::alive).map_or(0, |alive| alive.ids.time_ns);
        let id = if self.is_in_own_time_ns() { own } else { 0 };
        self.clocks.get(&id).copied()
    }
}

/// Clocks of the dumped tasks, at the dump. CRIU restores them into a *new* time namespace, in which these
/// clocks go on from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Clocks {
    /// `CLOCK_MONOTONIC`: seconds and nanoseconds.
    pub monotonic: (u64, u64),
    /// `CLOCK_BOOTTIME`: seconds and nanoseconds.
    pub boottime: (u64, u64),
}

/// An image that regrow recognises and does not read.
#[derive(Debug, Clone, Serialize)]
pub struct UnreadImage {
    /// File name.
    pub file: String,
    /// What it holds, in words.
    pub what: &'static str,
    /// Number of entries, where the format is the common one.
    pub entries: Option<u64>,
}
