//! Unix sockets (`sk-unix.proto`) and what waits in them (`sk-queues.img`, `sk-packet.proto`).
//!
//! A socket is known by two numbers: the id of its description, and its inode, by which peers name
//! each other. An entry of `sk-queues.img` is followed by its `length` raw bytes.

use super::pipe::unreadable_rest;
use super::{fown, mount_id};
use crate::image::error::Errors;
use crate::image::file::Entry;
use crate::image::magic;
use crate::image::model::{Image, OfdKind, Origin, Packet, SocketOptions, UnixSocket};
use crate::image::proto::{FileEntry, SCM_RIGHTS, SkOptsEntry, SkPacketEntry};
use crate::image::read::Dir;

/// Bits of `uflags` that are known: extern, service, callback, inherit, ghost fdstore.
const UFLAGS_KNOWN: u32 = 0x1f;

/// Reads the `usk` of an entry.
pub(crate) fn read(e: FileEntry, entry: &Entry<'_>, errors: &mut Errors) -> Option<OfdKind> {
    let e = e.usk?;
    let mut bad = |reason: String| errors.inconsistent(entry.file, entry.index, reason);
    if e.name.len() > 108 {
        bad(format!("name of {} bytes", e.name.len()));
    }
    let shutdown = e.shutdown.unwrap_or(0);
    if shutdown > 3 {
        bad(format!("shutdown {shutdown}"));
    }
    if e.uflags & !UFLAGS_KNOWN != 0 {
        let reason = format!("unix socket with unknown flags {:#x}", e.uflags & !UFLAGS_KNOWN);
        errors.unsupported(entry.file, entry.index, reason);
    }
    let name_dir = match e.name_dir {
        Some(dir) => Some(errors.text(dir, entry, "directory of a socket's name")?),
        None => None,
    };
    let options = socket_options(e.opts, entry, errors)?;
    Some(OfdKind::Unix(Box::new(UnixSocket {
        inode: e.ino,
        sock_type: e.r#type,
        state: e.state,
        flags: e.flags,
        uflags: e.uflags,
        backlog: e.backlog,
        peer: e.peer,
        fown: fown(&e.fown),
        options,
        name: e.name,
        shutdown,
        name_dir,
        deleted: e.deleted.unwrap_or(false),
        ns_id: e.ns_id,
        mount_id: mount_id(e.mnt_id),
        file_perms: e.file_perms.map(|perms| (perms.mode, perms.uid, perms.gid)),
    })))
}

/// Options that every socket has.
pub(super) fn socket_options(
    e: SkOptsEntry,
    entry: &Entry<'_>,
    errors: &mut Errors,
) -> Option<SocketOptions> {
    let mut timeout_us = |sec: u64, usec: u64| {
        let us = sec.checked_mul(1_000_000).and_then(|us| us.checked_add(usec)).filter(|_| usec < 1_000_000);
        if us.is_none() {
            errors.inconsistent(entry.file, entry.index, format!("socket timeout of {sec} s and {usec} us"));
        }
        us
    };
    let snd_timeout_us = timeout_us(e.so_snd_tmo_sec, e.so_snd_tmo_usec)?;
    let rcv_timeout_us = timeout_us(e.so_rcv_tmo_sec, e.so_rcv_tmo_usec)?;
    let bound_dev = match e.so_bound_dev {
        Some(name) => Some(errors.text(name, entry, "device that a socket is bound to")?),
        None => None,
    };
    let is = |option: Option<bool>| option.unwrap_or(false);
    Some(SocketOptions {
        sndbuf_bytes: e.so_sndbuf,
        rcvbuf_bytes: e.so_rcvbuf,
        snd_timeout_us,
        rcv_timeout_us,
        reuseaddr: is(e.reuseaddr),
        reuseport: is(e.so_reuseport),
        priority: e.so_priority,
        rcvlowat: e.so_rcvlowat,
        mark: e.so_mark,
        passcred: is(e.so_passcred),
        passsec: is(e.so_passsec),
        dontroute: is(e.so_dontroute),
        no_check: is(e.so_no_check),
        broadcast: is(e.so_broadcast),
        keepalive: is(e.so_keepalive),
        oobinline: e.so_oobinline.unwrap_or(0) != 0,
        bound_dev,
        filter: e.so_filter,
        linger_s: e.so_linger,
        buf_lock: e.so_buf_lock,
        keep: [e.tcp_keepcnt, e.tcp_keepidle, e.tcp_keepintvl],
    })
}

/// What waits in receive queues, in the order of the queues.
pub(crate) fn read_packets(dir: &Dir<'_>, errors: &mut Errors) -> Vec<Packet> {
    let image = Image::SkQueues;
    let mut packets = Vec::new();
    dir.for_each(image, &magic::SK_QUEUES, errors, |entries, entry, errors| {
        let Some(e) = errors.decode::<SkPacketEntry>(entry) else {
            return Err(unreadable_rest(entry));
        };
        let data = entries.payload(image, e.length)?;
        for scm in e.scm.iter().filter(|scm| scm.r#type != SCM_RIGHTS) {
            errors.unsupported(image, entry.index, format!("control message of type {}", scm.r#type));
        }
        packets.push(Packet {
            id_for: e.id_for,
            data,
            control_messages: e.scm.len() as u32,
            rights: e.scm.into_iter().flat_map(|scm| scm.rights).collect(),
            origin: Origin { image, entry: entry.index },
        });
        Ok(())
    });
    packets
}
