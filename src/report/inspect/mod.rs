//! What an image directory holds, from the [`Model`](crate::image::Model) alone: also of directories that could not be
//! restored here, or anywhere.
//!
//! [`inspect`] collects, [`text`] writes. The JSON of `regrow inspect --json` is an [`Inspection`];
//! its shape is that of the structs here. Addresses are text (`"0x7f00"`), because not every reader of
//! JSON keeps 64 bits; sizes are numbers and end in `_bytes`. Fields may be added under the same
//! [`FORMAT`]; whatever else changes raises its number.

mod collect;
mod text;

use std::path::PathBuf;

use serde::Serialize;

pub use self::collect::inspect;
pub use self::text::text;
use crate::image::{Origin, UnreadImage};

/// Name and version of the JSON.
pub const FORMAT: &str = "regrow-inspect/1";

/// An image directory.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// [`FORMAT`].
    pub format: &'static str,
    /// The directory.
    pub directory: PathBuf,
    /// Those of the dumps before, the nearest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<Parent>,
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

/// A directory of a dump before, of which pages are used.
#[derive(Debug, Clone, Serialize)]
pub struct Parent {
    /// The directory.
    pub directory: PathBuf,
    /// The pages that are used.
    pub stored_pages: Stored,
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
