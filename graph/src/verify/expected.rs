//! What the images say: the other input of the checker.
//!
//! It is made straight from the model, not through the planner's forest, so that an error in
//! `resolve` shows, too. Worked example: a task 7 with a pipe's writing end at 4 is an
//! [`ExpectedTask`] with the slot `{fd: 4, ofd: ofd0}` and, at index 0 of [`Expected::ofds`],
//! [`OfdSpec::Pipe`] with the flags `O_WRONLY`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::attribute::{AttributeKind, Value};
use super::effect::SocketOption;
use super::ipc::ExpectedIpc;
use super::space::{ExpectedSegment, ExpectedSpace};
use super::vdso::ExpectedVdso;
use crate::ids::{Fd, OfdId};

/// The wanted tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// Tasks, the root first.
    pub tasks: Vec<ExpectedTask>,
    /// Open file descriptions, by [`OfdId`].
    pub ofds: Vec<ExpectedOfd>,
    /// What the pipes hold, by their number in the images.
    pub pipes: BTreeMap<u32, ExpectedPipe>,
    /// What the FIFOs hold, by their number in the images.
    pub fifos: BTreeMap<u32, ExpectedPipe>,
    /// Session and group that the root is born in. 0: some that no task of the images is in.
    pub cradle: Cradle,
    /// Paths that may be opened beside those of `ofds`: executables, mapped files.
    pub paths: BTreeSet<Vec<u8>>,
    /// Absolute paths that sockets of the images are bound to: stale files there may be unlinked.
    pub socket_paths: BTreeSet<Vec<u8>>,
    /// The directories in which files may be opened to be read: the images', and those of the dumps before it that
    /// have pages of it. Without a slash at their ends.
    pub images: Vec<Vec<u8>>,
    /// What the host does where nobody says otherwise.
    pub facts: Facts,
    /// Unlinked files and memfds.
    pub inodes: BTreeMap<InodeId, ExpectedInode>,
    /// What is known of the process that the root is born of: facts about the host, not about the
    /// images. What is not among them is unknown.
    pub inherited: Vec<(AttributeKind, Value)>,
    /// Shared memory without a name, by its number in the images.
    pub segments: BTreeMap<u64, ExpectedSegment>,
    /// The IPC namespace of the tree; `None`: the caller's.
    pub ipc: Option<Box<ExpectedIpc>>,
    /// The hierarchies of cgroups that tasks may be moved in: facts about the host. None: no task is to be moved.
    pub hierarchies: Vec<ExpectedHierarchy>,
    /// seccomp of the threads that have any, by tid.
    pub seccomp: BTreeMap<u32, ExpectedSeccomp>,
}

/// A hierarchy of cgroups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedHierarchy {
    /// As `/proc/PID/cgroup` names it: its controllers, `name=` and a name, or nothing (version 2).
    pub name: String,
    /// The cgroup of the caller.
    pub own: String,
    /// Where it is mounted, without a slash at the end.
    pub point: Vec<u8>,
    /// The cgroup that is seen there.
    pub root: String,
}

impl ExpectedHierarchy {
    /// The cgroup whose directory this is; `None`: it is not one of this hierarchy.
    pub fn cgroup_at(&self, directory: &[u8]) -> Option<String> {
        let below = directory.strip_prefix(self.point.as_slice())?;
        let names = std::str::from_utf8(below).ok()?;
        let is_plain =
            names.split('/').skip(1).all(|name| !matches!(name, "" | "." | "..")) && !names.contains('\0');
        if !is_plain || !names.is_empty() && !names.starts_with('/') {
            return None;
        }
        let path = format!("{}{names}", self.root.trim_end_matches('/'));
        Some(if path.is_empty() { "/".to_owned() } else { path })
    }
}

/// seccomp of a thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpectedSeccomp {
    /// Strict mode.
    Strict,
    /// Filters, the oldest first.
    Filters(Vec<ExpectedFilter>),
    /// Those of its task's first thread: the same ones, not others like them.
    OfFirst,
}

/// A filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedFilter {
    /// `struct sock_filter`, one after another.
    pub program: Arc<[u8]>,
    /// What it denies is logged.
    pub logs: bool,
}

/// An inode of the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum InodeId {
    /// A ghost file, by its number.
    Ghost(u32),
    /// A memfd, by its number.
    Memfd(u64),
    /// A file that has another name still, by the number of that in the images.
    Linked(u32),
}

/// What kind of inode it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum InodeKind {
    /// A regular file.
    #[default]
    File,
    /// A directory.
    Directory,
    /// A memfd.
    Memfd,
    /// A FIFO.
    Fifo,
    /// A file that has another name still, and is not made.
    Linked,
}

/// A file without a name that must be made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedInode {
    /// What it is.
    pub kind: InodeKind,
    /// The path it had, or the memfd's name.
    pub name: Vec<u8>,
    /// Further paths that it had.
    pub further: BTreeSet<Vec<u8>>,
    /// The path that it has still, of [`InodeKind::Linked`].
    pub source: Vec<u8>,
    /// Length of a file.
    pub size: u64,
    /// Permissions; `None`: not said.
    pub mode: Option<u32>,
    /// User and group.
    pub owner: (u32, u32),
    /// Last access and modification, in seconds and nanoseconds; `None`: not said.
    pub times: Option<((i64, u64), (i64, u64))>,
    /// `F_SEAL_*`.
    pub seals: u32,
    /// What it holds beside holes.
    pub content: Content,
    /// Of a memfd of huge pages: `MAP_HUGETLB` and the size of its pages, as flags of `mmap(2)`; else 0.
    pub huge: u32,
}

/// What a file holds: stretches of other files, in the order in which they were put in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    stretches: Vec<Stretch>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stretch {
    at: u64,
    source: Vec<u8>,
    from: u64,
    len: u64,
}

impl Content {
    /// Puts in `len` bytes at `at`, from offset `from` of the file `source`. What continues the last
    /// stretch makes that longer.
    pub fn push(&mut self, at: u64, source: &[u8], from: u64, len: u64) {
        if len == 0 {
            return;
        }
        match self.stretches.last_mut() {
            Some(last)
                if last.source == source
                    && last.at.checked_add(last.len) == Some(at)
                    && last.from.checked_add(last.len) == Some(from) =>
            {
                last.len = last.len.saturating_add(len);
            }
            _ => self.stretches.push(Stretch { at, source: source.to_vec(), from, len }),
        }
    }

    /// How many bytes were put in.
    pub fn bytes(&self) -> u64 {
        self.stretches.iter().fold(0, |sum, stretch| sum.saturating_add(stretch.len))
    }
}

/// Session and process group that the root is born in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cradle {
    /// Session; 0: outside.
    pub sid: u32,
    /// Process group; 0: outside.
    pub pgid: u32,
}

/// Defaults of the host's kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Capacity of a new pipe.
    pub pipe_bytes: u32,
    /// `net.core.wmem_default`.
    pub wmem_default: u64,
    /// `net.core.rmem_default`.
    pub rmem_default: u64,
    /// `net.core.wmem_max`.
    pub wmem_max: u64,
    /// `net.core.rmem_max`.
    pub rmem_max: u64,
    /// What the clocks said when the host was looked at, in nanoseconds: CLOCK_REALTIME,
    /// CLOCK_MONOTONIC, CLOCK_BOOTTIME.
    pub clocks_ns: [Option<u64>; 3],
    /// `fs.suid_dumpable`: what a change of credentials leaves of dumpable.
    pub suid_dumpable: Option<u32>,
    /// How many processors there may be at most (`num_possible_cpus`): the kernel makes rings of asynchronous I/O by it.
    pub processors: Option<u32>,
}

impl Default for Facts {
    fn default() -> Facts {
        Facts {
            pipe_bytes: 65536,
            wmem_default: 212_992,
            rmem_default: 212_992,
            wmem_max: 212_992,
            rmem_max: 212_992,
            clocks_ns: [None; 3],
            suid_dumpable: None,
            processors: None,
        }
    }
}

/// What one task must become.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedTask {
    /// Its pid.
    pub pid: u32,
    /// Its parent's pid, 0 for the root.
    pub ppid: u32,
    /// Its session.
    pub sid: u32,
    /// Its process group.
    pub pgid: u32,
    /// How it ends.
    pub life: Life,
    /// Its threads beside the leader.
    pub threads: Vec<u32>,
    /// Tasks with the same number share one descriptor table. `None`: not said.
    pub table_id: Option<u32>,
    /// Its descriptor table, sorted by number.
    pub table: Vec<Slot>,
    /// What the images say of its attributes, by thread: those of the whole task with its own pid.
    /// Attributes that are not among them are not compared.
    pub attributes: BTreeMap<u32, Vec<(AttributeKind, Value)>>,
    /// Its address space. `None`: not said.
    pub space: Option<Box<ExpectedSpace>>,
    /// How it may get its vDSO; `None`: it has none.
    pub vdso: Option<Box<ExpectedVdso>>,
}

/// How a task ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Life {
    /// It lives on.
    #[default]
    Alive,
    /// It has died and is not reaped.
    Zombie {
        /// As `wait4(2)` gives it.
        status: u32,
    },
}

/// A slot of a descriptor table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// The number.
    pub fd: Fd,
    /// What it refers to.
    pub ofd: OfdId,
    /// Close-on-exec.
    pub cloexec: bool,
}

/// What an open file description must be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedOfd {
    /// In the words of messages.
    pub name: String,
    /// What it shows.
    pub spec: OfdSpec,
    /// `O_*`, as `fcntl(F_GETFL)` gives them.
    pub flags: u32,
    /// `F_SETOWN` and `F_SETSIG`.
    pub owner: Owner,
}

/// Who gets signals about a description.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// `F_OWNER_*`.
    pub pid_type: u32,
    /// Who; 0: nobody.
    pub pid: u32,
    /// Real and effective uid of who said so.
    pub uids: [u32; 2],
    /// The signal; 0: SIGIO.
    pub signal: u32,
}

/// What a description shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OfdSpec {
    /// A file, directory or device.
    Path {
        /// Its path.
        path: Vec<u8>,
        /// The position; `None`: it has none.
        position: Option<u64>,
    },
    /// An end of a pipe; which one, its flags say.
    Pipe {
        /// The pipe's number in the images.
        pipe: u32,
    },
    /// A socket.
    Socket(Box<SocketSpec>),
    /// An eventfd.
    Eventfd {
        /// Its counter.
        counter: u64,
        /// EFD_SEMAPHORE.
        semaphore: bool,
    },
    /// An epoll file.
    Epoll {
        /// What it watches.
        interests: Vec<Interest>,
    },
    /// A timerfd.
    Timerfd {
        /// `CLOCK_*`.
        clock: u32,
        /// As it must have been set.
        timer: TimerSpec,
    },
    /// A signalfd.
    Signalfd {
        /// Bit 0 is signal 1.
        mask: u64,
    },
    /// A FIFO.
    Fifo {
        /// Its number in the images.
        fifo: u32,
        /// Its path.
        path: Vec<u8>,
        /// Which of [`Expected::inodes`], if it was unlinked.
        inode: Option<InodeId>,
    },
    /// A memfd or an unlinked file.
    Inode {
        /// Which of [`Expected::inodes`].
        inode: InodeId,
        /// The name under which it was opened, if that is one of its further ones.
        alias: Option<Vec<u8>>,
        /// The position; `None`: it has none.
        position: Option<u64>,
    },
    /// Something that the checker cannot judge yet.
    Unmodelled(String),
}

impl Default for OfdSpec {
    fn default() -> OfdSpec {
        OfdSpec::Unmodelled("nothing said".to_owned())
    }
}

/// What an epoll file watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interest {
    /// The number it was added under.
    pub fd: Fd,
    /// What was there then.
    pub ofd: OfdId,
    /// `EPOLL*`.
    pub events: u32,
    /// What comes with an event.
    pub data: u64,
}

/// A timer as `timerfd_settime(2)` and `TFD_IOC_SET_TICKS` set it. Times in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct TimerSpec {
    pub flags: u32,
    pub value_ns: u64,
    pub interval_ns: u64,
    pub ticks: u64,
}

/// What a socket must be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketSpec {
    /// Its number in the images.
    pub socket: u32,
    /// What it is connected to.
    pub peer: SocketPeer,
    /// `AF_*`.
    pub family: u32,
    /// `SOCK_*`.
    pub sock_type: u32,
    /// The protocol.
    pub protocol: u32,
    /// The address that it is bound to, as `bind(2)` takes it, without the zero byte behind a path.
    pub name: Option<Vec<u8>>,
    /// The directory from which a name that is a relative path goes.
    pub name_dir: Option<Vec<u8>>,
    /// The file that stands for its name.
    pub file: SocketFile,
    /// The length of its queue of connections, if it listens.
    pub backlog: Option<u32>,
    /// How many connections it has not accepted yet.
    pub waiting: usize,
    /// Bit 0: reading is shut down; bit 1: writing.
    pub shutdown: u32,
    /// What waits to be received.
    pub queue: Vec<ExpectedPacket>,
    /// Options that must have these values.
    pub options: BTreeMap<SocketOption, u64>,
    /// Options that are no numbers and must have these values; empty: not set.
    pub bytes: BTreeMap<SocketOption, Vec<u8>>,
}

/// What a socket is connected to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketPeer {
    /// Nothing, or (a datagram socket) something that is closed.
    #[default]
    None,
    /// Something that is closed.
    Closed,
    /// The socket with this number in the images.
    Socket(u32),
    /// A listening socket, which has not accepted it yet.
    Listener(u32),
    /// An address.
    Address(Vec<u8>),
}

/// The file that stands for a socket's name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketFile {
    /// None need be there, or it may be anyone's.
    #[default]
    Any,
    /// There is one, that leads to this socket.
    Own {
        /// Permissions, owner and group; `None`: not said.
        perms: Option<(u32, u32, u32)>,
    },
    /// It has been unlinked.
    Gone,
}

/// A message that waits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedPacket {
    /// The bytes.
    pub data: Vec<u8>,
    /// Descriptions in flight.
    pub rights: Vec<OfdId>,
}

/// What a pipe must be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedPipe {
    /// Its capacity; `None`: the default.
    pub capacity: Option<u32>,
    /// What it holds.
    pub data: Vec<u8>,
}
