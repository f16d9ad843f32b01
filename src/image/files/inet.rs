//! Internet sockets (`sk-inet.proto`): TCP, UDP, UDP-Lite, ICMP and raw, over IPv4 and IPv6.
//!
//! Addresses are stored as words in network order, ports as numbers.

use super::fown;
use super::unix::socket_options;
use crate::image::error::Errors;
use crate::image::file::Entry;
use crate::image::model::{InetSocket, OfdKind};
use crate::image::proto::FileEntry;

/// Reads the `isk` of an entry.
pub(crate) fn read(e: FileEntry, entry: &Entry<'_>, errors: &mut Errors) -> Option<OfdKind> {
    let e = e.isk?;
    let mut bad = |reason: String| errors.inconsistent(entry.file, entry.index, reason);
    let words = match e.family as i32 {
        libc::AF_INET => 1,
        libc::AF_INET6 => 4,
        family => {
            bad(format!("internet socket of family {family}"));
            return None;
        }
    };
    // CRIU 0.1 stored four words for IPv4, too.
    if e.src_addr.len() < words || e.dst_addr.len() < words {
        bad(format!("addresses of {} and {} words", e.src_addr.len(), e.dst_addr.len()));
        return None;
    }
    for port in [e.src_port, e.dst_port] {
        if port > u32::from(u16::MAX) {
            bad(format!("port {port}"));
            return None;
        }
    }
    let shutdown = e.shutdown.unwrap_or(0);
    if shutdown > 3 {
        bad(format!("shutdown {shutdown}"));
    }
    let address = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let options = socket_options(e.opts, entry, errors)?;
    let device = match e.ifname {
        Some(name) => Some(errors.text(name, entry, "interface of an address")?),
        None => None,
    };
    let ip = e.ip_opts.unwrap_or_default();
    let raw = ip.raw.unwrap_or_default();
    let tcp = e.tcp_opts.unwrap_or_default();
    Some(OfdKind::Inet(Box::new(InetSocket {
        inode: e.ino,
        family: e.family,
        sock_type: e.r#type,
        protocol: e.proto,
        state: e.state,
        src: (address(&e.src_addr[..words]), e.src_port as u16),
        dst: (address(&e.dst_addr[..words]), e.dst_port as u16),
        flags: e.flags,
        backlog: e.backlog,
        fown: fown(&e.fown),
        keep: [
            tcp.keepcnt.or(options.keep[0]),
            tcp.keepidle.or(options.keep[1]),
            tcp.keepintvl.or(options.keep[2]),
        ],
        options,
        v6only: e.v6only,
        freebind: ip.freebind.unwrap_or(false),
        pktinfo: ip.pktinfo.unwrap_or(false),
        tos: ip.tos,
        ttl: ip.ttl,
        hdrincl: raw.hdrincl,
        nodefrag: raw.nodefrag,
        checksum: raw.checksum,
        icmp_filter: raw.icmpv_filter,
        device,
        ns_id: e.ns_id,
        shutdown,
        cork: tcp.cork.unwrap_or(false),
        nodelay: tcp.nodelay.unwrap_or(false),
    })))
}
