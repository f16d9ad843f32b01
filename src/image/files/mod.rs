//! `files.img`: every open file description of the tree.
//!
//! Turns its entries into [`Ofd`]s, each by the reader of its kind in a file of its own. A kind without a
//! reader is [`OfdKind::Other`], by the name CRIU has for it; a kind without even a name is an
//! error. It does not know who has a description open.
//!
//! Example: the entry `type EVENTFD, id 4, efd {id 4, flags 0x802, counter 3, …}` is an eventfd
//! that is read-write and non-blocking and whose counter is 3.

pub(crate) mod epoll;
pub(crate) mod eventfd;
pub(crate) mod fifo;
pub(crate) mod ghost;
pub(crate) mod inet;
pub(crate) mod memfd;
pub(crate) mod pipe;
pub(crate) mod reg;
pub(crate) mod signalfd;
pub(crate) mod timerfd;
pub(crate) mod unix;

use super::error::Errors;
use super::file::Entry;
use super::magic;
use super::model::{Fown, Image, Ofd, OfdKind, Origin};
use super::proto::{FileEntry, FownEntry};
use super::read::Dir;

/// `fd_types` of fdinfo.proto, by number. `UND` (0) is never stored.
const FD_TYPES: [&str; 21] = [
    "UND",
    "REG",
    "PIPE",
    "FIFO",
    "INETSK",
    "UNIXSK",
    "EVENTFD",
    "EVENTPOLL",
    "INOTIFY",
    "SIGNALFD",
    "PACKETSK",
    "TTY",
    "FANOTIFY",
    "NETLINKSK",
    "NS",
    "TUNF",
    "EXT",
    "TIMERFD",
    "MEMFD",
    "BPFMAP",
    "PIDFD",
];

pub(crate) const REG: u32 = 1;
pub(crate) const PIPE: u32 = 2;
pub(crate) const FIFO: u32 = 3;
pub(crate) const INETSK: u32 = 4;
pub(crate) const UNIXSK: u32 = 5;
pub(crate) const EVENTFD: u32 = 6;
pub(crate) const EVENTPOLL: u32 = 7;
pub(crate) const SIGNALFD: u32 = 9;
pub(crate) const TIMERFD: u32 = 17;
pub(crate) const MEMFD: u32 = 18;

/// CRIU's name of a kind of open file.
pub(crate) fn fd_type_name(fd_type: u32) -> Option<&'static str> {
    FD_TYPES.get(fd_type as usize).copied().filter(|_| fd_type != 0)
}

/// Every open file description, sorted by id.
pub(crate) fn read_ofds(dir: &Dir<'_>, errors: &mut Errors) -> Vec<Ofd> {
    let image = Image::Files;
    let mut ofds = Vec::new();
    let present = dir.for_each(image, &magic::FILES, errors, |_, entry, errors| {
        if let Some(e) = errors.decode::<FileEntry>(entry) {
            ofds.extend(read_ofd(e, entry, errors));
        }
        Ok(())
    });
    if !present {
        errors.missing_file(image, "a task has an executable at least");
    }
    ofds.sort_by_key(|ofd| ofd.id);
    for pair in ofds.windows(2) {
        if pair[0].id == pair[1].id {
            errors.inconsistent(image, pair[1].origin.entry, format!("id {:#x} a second time", pair[1].id));
        }
    }
    ofds
}

fn read_ofd(e: FileEntry, entry: &Entry<'_>, errors: &mut Errors) -> Option<Ofd> {
    let id = e.id;
    let Some(name) = fd_type_name(e.r#type) else {
        errors.unsupported(entry.file, entry.index, format!("unknown kind of open file {}", e.r#type));
        return None;
    };
    // The message of its kind must be there and carry the same id.
    type Reader = fn(FileEntry, &Entry<'_>, &mut Errors) -> Option<OfdKind>;
    let (field, inner, read): (_, _, Reader) = match e.r#type {
        REG => ("reg", e.reg.as_ref().map(|x| x.id), reg::read),
        PIPE => ("pipe", e.pipe.as_ref().map(|x| x.id), pipe::read),
        INETSK => ("isk", e.isk.as_ref().map(|x| x.id), inet::read),
        UNIXSK => ("usk", e.usk.as_ref().map(|x| x.id), unix::read),
        EVENTFD => ("efd", e.efd.as_ref().map(|x| x.id), eventfd::read),
        EVENTPOLL => ("epfd", e.epfd.as_ref().map(|x| x.id), epoll::read),
        TIMERFD => ("tfd", e.tfd.as_ref().map(|x| x.id), timerfd::read),
        SIGNALFD => ("sgfd", e.sgfd.as_ref().map(|x| x.id), signalfd::read),
        FIFO => ("fifo", e.fifo.as_ref().map(|x| x.id), fifo::read),
        MEMFD => ("memfd", e.memfd.as_ref().map(|x| x.id), memfd::read),
        _ => {
            let origin = Origin { image: Image::Files, entry: entry.index };
            return Some(Ofd { id, origin, kind: OfdKind::Other(name) });
        }
    };
    let Some(inner) = inner else {
        errors.missing_field(entry.file, entry.index, "file_entry", field);
        return None;
    };
    if inner != id {
        errors.inconsistent(entry.file, entry.index, format!("two ids: {id:#x} and {inner:#x}"));
    }
    let kind = read(e, entry, errors)?;
    Some(Ofd { id, origin: Origin { image: Image::Files, entry: entry.index }, kind })
}

/// Who is signalled.
fn fown(e: &FownEntry) -> Fown {
    Fown { uid: e.uid, euid: e.euid, signum: e.signum, pid_type: e.pid_type, pid: e.pid }
}

/// A mount id; -1 is CRIU's "not known".
fn mount_id(id: Option<i32>) -> Option<i32> {
    id.filter(|id| *id != -1)
}
