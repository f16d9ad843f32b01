//! Open file descriptions, and what they show: files, pipes, sockets, eventfds.
//!
//! The kernel's rules as far as a tape can tell: what each creation gives, what `F_SETFL` keeps,
//! how much a pipe or a socket takes before its writer blocks.
//!
//! # Sources
//! `open(2)`, `pipe(7)`, `unix(7)`, `socket(7)`; fs/pipe.c (`pipe_write`, `create_pipe_files`),
//! fs/fcntl.c (`setfl`), net/core/sock.c, net/unix/af_unix.c.

use std::collections::{BTreeMap, VecDeque};

use smallvec::SmallVec;

use super::before::At;
use super::effect::SocketOption;
use super::expected::{Content, Facts, InodeKind, Owner, TimerSpec};
use super::table::Desc;
use crate::ids::Fd;

pub(super) const O_ACCMODE: u32 = 0o3;
pub(super) const O_RDONLY: u32 = 0;
pub(super) const O_WRONLY: u32 = 1;
pub(super) const O_RDWR: u32 = 2;
pub(super) const O_CREAT: u32 = 0o100;
pub(super) const O_EXCL: u32 = 0o200;
pub(super) const O_NOCTTY: u32 = 0o400;
pub(super) const O_TRUNC: u32 = 0o1000;
pub(super) const O_APPEND: u32 = 0o2000;
pub(super) const O_NONBLOCK: u32 = 0o4000;
pub(super) const O_DSYNC: u32 = 0o10000;
pub(super) const O_ASYNC: u32 = 0o20000;
pub(super) const O_DIRECT: u32 = 0o40000;
pub(super) const O_LARGEFILE: u32 = 0o100_000;
pub(super) const O_DIRECTORY: u32 = 0o200_000;
pub(super) const O_NOFOLLOW: u32 = 0o400_000;
pub(super) const O_NOATIME: u32 = 0o1_000_000;
pub(super) const O_CLOEXEC: u32 = 0o2_000_000;
pub(super) const O_SYNC_BIT: u32 = 0o4_000_000;
pub(super) const O_PATH: u32 = 0o10_000_000;
pub(super) const O_TMPFILE_BIT: u32 = 0o20_000_000;

/// What `F_SETFL` can change (fs/fcntl.c, `SETFL_MASK`).
const SETFL_MASK: u32 = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME | O_ASYNC;
/// What does not count when descriptions are compared: gone after the open, or set by the kernel
/// for all 64-bit callers.
pub(super) const NOT_COMPARED: u32 = O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_LARGEFILE | O_CLOEXEC;

pub(super) const SOCK_STREAM: u32 = 1;
pub(super) const SOCK_DGRAM: u32 = 2;
pub(super) const SOCK_SEQPACKET: u32 = 5;

const PAGE: u32 = 4096;

/// An open file description.
#[derive(Debug, Clone)]
pub(super) struct Description {
    pub(super) object: usize,
    /// As `F_GETFL` would give them.
    pub(super) flags: u32,
    pub(super) position: u64,
    pub(super) owner: Owner,
    /// The last change, at first the opening.
    pub(super) last: At,
    /// The name under which it was opened, if the file that the tapes made has several.
    pub(super) alias: Option<Box<[u8]>>,
    /// The numbers at which it has been put into any table.
    pub(super) places: SmallVec<[Fd; 4]>,
}

/// What a description shows.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) kind: ObjectKind,
    pub(super) made: At,
    pub(super) last: At,
    /// Its descriptions.
    pub(super) shown_by: SmallVec<[Desc; 4]>,
}

#[derive(Debug, Clone)]
pub(super) enum ObjectKind {
    File {
        path: Vec<u8>,
    },
    Pipe(Pipe),
    Socket(Box<Socket>),
    Eventfd {
        counter: u64,
        semaphore: bool,
    },
    /// What is watched: what was at which number, with events and data.
    Epoll {
        watched: BTreeMap<(Desc, Fd), (u32, u64)>,
    },
    Timerfd {
        clock: u32,
        timer: TimerSpec,
    },
    Signalfd {
        mask: u64,
    },
    Inode(Box<Inode>),
    /// Shared memory without a name, opened by a mapping of it (proc_pid_map_files(5)).
    Segment(usize),
    Userfault {
        /// The address space that it is about, by the task that has it.
        space: usize,
        /// The handshake has been made.
        is_ready: bool,
    },
}

/// A file that the restore makes itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    pub(super) kind: InodeKind,
    /// The path it was made under, or the memfd's name.
    pub(super) name: Vec<u8>,
    /// The path that it has still, of [`InodeKind::Linked`].
    pub(super) source: Vec<u8>,
    pub(super) size: u64,
    /// What is known of it: what was set last.
    pub(super) mode: Option<u32>,
    pub(super) owner: Option<(u32, u32)>,
    pub(super) times: Option<((i64, u64), (i64, u64))>,
    pub(super) seals: u32,
    pub(super) content: Content,
    /// As flags of `mmap(2)`: whether it is of huge pages, and of which size.
    pub(super) huge: u32,
}

impl Inode {
    /// Whether the seals forbid to write, or to let it grow.
    pub(super) fn is_sealed(&self) -> bool {
        /// F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE, F_SEAL_FUTURE_WRITE.
        const CHANGES: u32 = 0x1e;
        self.seals & CHANGES != 0
    }
}

#[derive(Debug, Clone)]
pub(super) struct Pipe {
    pub(super) capacity: u32,
    pub(super) data: Vec<u8>,
    /// Pages in use, and how full the last is; `None`: nothing more goes into it.
    pages: u32,
    last_fill: Option<u32>,
    /// The FIFO that the tapes have made for it.
    pub(super) fifo: Option<Box<Inode>>,
}

#[derive(Debug, Clone)]
pub(super) struct Socket {
    pub(super) family: u32,
    pub(super) sock_type: u32,
    pub(super) protocol: u32,
    /// The unix socket that it is connected to, open or not.
    pub(super) peer: Option<usize>,
    /// The address that it is bound to.
    pub(super) name: Option<Vec<u8>>,
    /// The working directory when it was bound to a relative path.
    pub(super) name_dir: Option<Vec<u8>>,
    /// The address that it is connected to.
    pub(super) dest: Option<Vec<u8>>,
    /// The length of its queue, if it listens.
    pub(super) backlog: Option<u32>,
    /// Connections that are not accepted yet.
    pub(super) waiting: VecDeque<usize>,
    pub(super) shutdown: u32,
    pub(super) queue: Vec<Packet>,
    pub(super) options: BTreeMap<SocketOption, u64>,
    pub(super) bytes: BTreeMap<SocketOption, Vec<u8>>,
    /// At most this much memory is charged to it for what it sent and nobody received.
    charged: u64,
    /// What has become of its messages.
    pub(super) traffic: Box<Traffic>,
}

/// What tasks have received while they were restored.
#[derive(Debug, Clone, Default)]
pub(super) struct Traffic {
    /// How much of what the socket is charged for has been received, and where.
    pub(super) released: Vec<(At, u64)>,
    /// Where a message was last received from it, and whether it stayed.
    pub(super) taken: Option<(At, bool)>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Packet {
    pub(super) data: Vec<u8>,
    pub(super) rights: Vec<Desc>,
    /// Where it was sent.
    pub(super) sent: Option<At>,
    /// How much memory its sender is charged for it.
    pub(super) charge: u64,
}

/// Why bytes cannot be put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    pub(super) holds: u64,
    pub(super) capacity: u64,
}

/// All descriptions and objects.
#[derive(Debug, Clone, Default)]
pub(super) struct Objects {
    pub(super) descriptions: Vec<Description>,
    pub(super) objects: Vec<Object>,
}

impl Objects {
    /// None yet, and room for about so many descriptions.
    pub(super) fn with_room(descriptions: usize) -> Objects {
        Objects { descriptions: Vec::with_capacity(descriptions), objects: Vec::with_capacity(descriptions) }
    }

    pub(super) fn description(&self, desc: Desc) -> &Description {
        &self.descriptions[desc.0 as usize]
    }

    pub(super) fn description_mut(&mut self, desc: Desc) -> &mut Description {
        &mut self.descriptions[desc.0 as usize]
    }

    pub(super) fn object_of(&self, desc: Desc) -> &Object {
        &self.objects[self.description(desc).object]
    }

    pub(super) fn add_object(&mut self, kind: ObjectKind, made: At) -> usize {
        self.objects.push(Object { kind, made, last: made, shown_by: SmallVec::new() });
        self.objects.len() - 1
    }

    pub(super) fn add_description(&mut self, object: usize, flags: u32, made: At) -> Desc {
        let desc = Desc(self.descriptions.len() as u32);
        self.descriptions.push(Description {
            object,
            flags,
            position: 0,
            owner: Owner::default(),
            last: made,
            alias: None,
            places: SmallVec::new(),
        });
        self.objects[object].shown_by.push(desc);
        desc
    }

    /// A description has been put at a number.
    pub(super) fn note_place(&mut self, desc: Desc, fd: Fd) {
        let places = &mut self.description_mut(desc).places;
        if places.last() != Some(&fd) {
            places.push(fd);
        }
    }

    /// A pipe with its reading and its writing end.
    pub(super) fn add_pipe(&mut self, flags: u32, facts: &Facts, made: At) -> [Desc; 2] {
        let object = self.add_object(ObjectKind::Pipe(Pipe::new(facts, None)), made);
        let read = self.add_description(object, O_RDONLY | flags & O_NONBLOCK, made);
        let write = self.add_description(object, O_WRONLY | flags & (O_NONBLOCK | O_DIRECT), made);
        [read, write]
    }

    /// The pipe behind a FIFO, which the tapes have made themselves or not.
    pub(super) fn add_fifo(&mut self, facts: &Facts, fifo: Option<Box<Inode>>, made: At) -> usize {
        self.add_object(ObjectKind::Pipe(Pipe::new(facts, fifo)), made)
    }

    pub(super) fn add_socket_pair(
        &mut self,
        sock_type: u32,
        flags: u32,
        facts: &Facts,
        made: At,
    ) -> [Desc; 2] {
        let first = self.objects.len();
        [first + 1, first].map(|peer| {
            let mut socket = Socket::new(super::socket::AF_UNIX, sock_type, 0, Some(peer));
            socket.set_defaults(facts);
            let object = self.add_object(ObjectKind::Socket(Box::new(socket)), made);
            self.add_description(object, O_RDWR | flags & O_NONBLOCK, made)
        })
    }

    /// Adds to `open`, which says of each description whether somebody has it, those in flight in their
    /// queues.
    pub(super) fn close_over_flight(&self, open: &mut [bool]) {
        let of_descs = (0..).map(Desc).zip(open.iter());
        let mut todo: Vec<Desc> = of_descs.filter(|(_, is_open)| **is_open).map(|(desc, _)| desc).collect();
        while let Some(desc) = todo.pop() {
            if let ObjectKind::Socket(socket) = &self.object_of(desc).kind {
                for right in socket.queue.iter().flat_map(|packet| &packet.rights) {
                    if !std::mem::replace(&mut open[right.0 as usize], true) {
                        todo.push(*right);
                    }
                }
            }
        }
    }

    /// A description in the words of messages.
    pub(super) fn describe(&self, desc: Desc, pids: &dyn Fn(usize) -> u32) -> String {
        let description = self.description(desc);
        let object = &self.objects[description.object];
        let by = format!("that task {} makes in record {}", pids(object.made.task), object.made.record);
        match &object.kind {
            ObjectKind::File { path } => format!("file {}", path.escape_ascii()),
            ObjectKind::Pipe(_) => format!("the {} of the pipe {by}", end_name(description.flags)),
            ObjectKind::Socket(socket) if socket.peer.is_none() => format!("the socket {by}"),
            ObjectKind::Socket(_) => format!("a socket of the pair {by}"),
            ObjectKind::Eventfd { .. } => format!("the eventfd {by}"),
            ObjectKind::Epoll { .. } => format!("the epoll file {by}"),
            ObjectKind::Timerfd { .. } => format!("the timerfd {by}"),
            ObjectKind::Signalfd { .. } => format!("the signalfd {by}"),
            ObjectKind::Segment(_) => format!("the shared memory {by}"),
            ObjectKind::Userfault { .. } => format!("the userfaultfd {by}"),
            ObjectKind::Inode(inode) => match inode.kind {
                InodeKind::Memfd => format!("memfd {}", inode.name.escape_ascii()),
                InodeKind::File | InodeKind::Directory | InodeKind::Fifo | InodeKind::Linked => {
                    format!("unlinked file {}", inode.name.escape_ascii())
                }
            },
        }
    }
}

pub(super) fn end_name(flags: u32) -> &'static str {
    match flags & O_ACCMODE {
        O_RDONLY => "reading end",
        O_WRONLY => "writing end",
        _ => "reading and writing end",
    }
}

/// Status flags after `F_SETFL` with `set`.
pub(super) fn set_status(flags: u32, set: u32) -> u32 {
    set & SETFL_MASK | flags & !SETFL_MASK
}

impl Pipe {
    fn new(facts: &Facts, fifo: Option<Box<Inode>>) -> Pipe {
        Pipe { capacity: facts.pipe_bytes, data: Vec::new(), pages: 0, last_fill: None, fifo }
    }

    /// Takes `data`, as one write of a description with `flags`.
    pub(super) fn write(&mut self, data: &[u8], flags: u32) -> Result<(), Full> {
        let full = Full { holds: self.data.len() as u64, capacity: self.capacity.into() };
        let len = u32::try_from(data.len()).map_err(|_| full)?;
        let mut rest = len;
        let tail = len % PAGE;
        let is_packet = flags & O_DIRECT != 0;
        if let Some(fill) = self.last_fill
            && !is_packet
            && tail > 0
            && fill + tail <= PAGE
        {
            self.last_fill = Some(fill + tail);
            rest -= tail;
        }
        let pages = rest.div_ceil(PAGE);
        if self.pages + pages > self.capacity / PAGE {
            return Err(full);
        }
        self.pages += pages;
        if rest > 0 {
            self.last_fill =
                (!is_packet).then_some(if rest.is_multiple_of(PAGE) { PAGE } else { rest % PAGE });
        }
        self.data.extend_from_slice(data);
        Ok(())
    }

    /// `F_SETPIPE_SZ`: gives what the call returns.
    pub(super) fn resize(&mut self, bytes: u32) -> Result<u32, Full> {
        let full = Full { holds: self.data.len() as u64, capacity: bytes.into() };
        let capacity = bytes.max(PAGE).checked_next_power_of_two().ok_or(full)?;
        if capacity / PAGE < self.pages {
            return Err(full);
        }
        self.capacity = capacity;
        Ok(capacity)
    }
}

impl Socket {
    pub(super) fn new(family: u32, sock_type: u32, protocol: u32, peer: Option<usize>) -> Socket {
        Socket {
            family,
            sock_type,
            protocol,
            peer,
            name: None,
            name_dir: None,
            dest: None,
            backlog: None,
            waiting: VecDeque::new(),
            shutdown: 0,
            queue: Vec::new(),
            options: BTreeMap::from([(SocketOption::ReceiveLowat, 1)]),
            bytes: BTreeMap::new(),
            charged: 0,
            traffic: Box::default(),
        }
    }

    /// The sizes of a new unix socket's buffers; others depend on the protocol.
    pub(super) fn set_defaults(&mut self, facts: &Facts) {
        self.options.insert(SocketOption::SendBuffer, facts.wmem_default);
        self.options.insert(SocketOption::ReceiveBuffer, facts.rmem_default);
    }

    /// Whether `shutdown` succeeds: unix sockets allow it always.
    pub(super) fn is_connected(&self) -> bool {
        self.family == super::socket::AF_UNIX || self.dest.is_some()
    }

    /// Messages of so much memory have been received.
    pub(super) fn release(&mut self, bytes: u64) {
        self.charged = self.charged.saturating_sub(bytes);
    }

    /// Charges a message of `len` bytes as the kernel would at most; says how much.
    pub(super) fn charge(&mut self, len: usize, never_blocks: bool) -> Result<u64, Full> {
        /// SKB_MAX_HEAD(0) + UNIX_SKB_FRAGS_SZ, less what could be left out.
        const PIECE: u64 = 3600 + 32768;
        let limit = self.options.get(&SocketOption::SendBuffer).copied().unwrap_or(0);
        let full = Full { holds: self.charged, capacity: limit };
        let before = self.charged;
        let mut rest = len as u64;
        loop {
            if self.charged >= limit && !never_blocks {
                return Err(full);
            }
            let piece = match self.sock_type {
                SOCK_STREAM => rest.min((limit / 2).saturating_sub(64).max(1)).min(PIECE),
                _ if rest + 32 > limit => return Err(full),
                _ => rest,
            };
            self.charged += if piece <= 3600 {
                (piece + 320).next_power_of_two().max(1024) + 256
            } else {
                piece.next_multiple_of(4096) + 4096 + 256
            };
            rest -= piece;
            if rest == 0 {
                return Ok(self.charged - before);
            }
        }
    }

    pub(super) fn option(&self, option: SocketOption) -> u64 {
        self.options.get(&option).copied().unwrap_or(0)
    }

    /// `setsockopt`: what the option is afterwards.
    pub(super) fn set_option(&mut self, option: SocketOption, value: u64, force: bool, facts: &Facts) {
        let doubled =
            |max: u64, least: u64| (if force { value } else { value.min(max) }).saturating_mul(2).max(least);
        let value = match option {
            SocketOption::SendBuffer => {
                self.lock_buffer(1);
                doubled(facts.wmem_max, 4608)
            }
            SocketOption::ReceiveBuffer => {
                self.lock_buffer(2);
                doubled(facts.rmem_max, 2304)
            }
            SocketOption::ReceiveLowat => value.max(1),
            SocketOption::BufferLock => value & 3,
            SocketOption::TypeOfService => {
                // It sets the priority, too (net/ipv4/ip_sockglue.c).
                self.options.insert(SocketOption::Priority, u64::MAX);
                value
            }
            SocketOption::TimeToLive
            | SocketOption::KeepCount
            | SocketOption::KeepIdle
            | SocketOption::KeepInterval
            // They are set as bytes.
            | SocketOption::BoundDevice
            | SocketOption::Filter
            | SocketOption::IcmpFilter
            | SocketOption::SendTimeout
            | SocketOption::ReceiveTimeout
            | SocketOption::Priority
            | SocketOption::Mark
            | SocketOption::Linger => value,
            SocketOption::V6Only
            | SocketOption::FreeBind
            | SocketOption::PacketInfo
            | SocketOption::NoDefrag
            | SocketOption::HeaderIncluded
            | SocketOption::NoDelay
            | SocketOption::Cork
            | SocketOption::ReuseAddr
            | SocketOption::ReusePort
            | SocketOption::PassCred
            | SocketOption::PassSec
            | SocketOption::DontRoute
            | SocketOption::NoCheck
            | SocketOption::Broadcast
            | SocketOption::KeepAlive
            | SocketOption::OobInline => u64::from(value != 0),
        };
        self.options.insert(option, value);
    }

    fn lock_buffer(&mut self, bit: u64) {
        *self.options.entry(SocketOption::BufferLock).or_default() |= bit;
    }
}
