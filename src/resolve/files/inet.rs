//! Internet sockets: those of one port and protocol are one resource, for whether one may be bound
//! depends on what the others allow.

use std::collections::BTreeMap;

use regrow_graph::ids::OfdId;

use super::super::Resolver;
use super::super::numbers::O_SETTABLE;
use super::super::recipe::{InetRecipe, ResourceKind};
use super::name;
use crate::image::{InetSocket, Ofd, OfdKind};

/// States of the kernel's TCP, which other protocols use, too (net/tcp_states.h).
const ESTABLISHED: u32 = 1;
const CLOSE: u32 = 7;
const LISTEN: u32 = 10;
/// netinet/in.h
const IPPROTO_UDPLITE: i32 = 136;

type Member<'a> = (OfdId, &'a Ofd, &'a InetSocket);

pub(super) fn resolve(resolver: &mut Resolver<'_>, used: &[OfdId]) {
    let model = resolver.model;
    let mut groups: BTreeMap<(u32, u32, usize), Vec<Member<'_>>> = BTreeMap::new();
    for ofd in used {
        let entry = &model.ofds[ofd.index()];
        let OfdKind::Inet(socket) = &entry.kind else { continue };
        if !is_plain(resolver, entry, socket) {
            continue;
        }
        // Those without a port, and raw ones, are in nobody's way.
        let key = match socket.src.1 {
            0 => (0, 0, ofd.index()),
            _ if socket.sock_type == libc::SOCK_RAW as u32 => (0, 0, ofd.index()),
            port => (socket.protocol, u32::from(port), 0),
        };
        groups.entry(key).or_default().push((*ofd, entry, socket));
    }
    for sockets in groups.into_values() {
        let shares = sockets.len() > 1;
        let recipes = sockets.iter().map(|(_, _, socket)| recipe(socket, shares)).collect();
        let yields = sockets.iter().map(|(ofd, _, _)| Some(*ofd)).collect();
        resolver.add_resource(ResourceKind::InetSockets(recipes), sockets[0].1.origin, yields);
    }
}

fn recipe(socket: &InetSocket, shares: bool) -> InetRecipe {
    let is_raw = socket.sock_type == libc::SOCK_RAW as u32;
    let is_icmp = matches!(socket.protocol as i32, libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6);
    let is_set = |(address, port): &(Vec<u8>, u16)| {
        if is_raw { address.iter().any(|byte| *byte != 0) } else { *port != 0 }
    };
    InetRecipe {
        socket: Box::new(InetSocket { flags: socket.flags & O_SETTABLE, ..socket.clone() }),
        // The number of an ICMP socket is the identifier of its echoes, which nobody else may have.
        bind: (is_set(&socket.src) && (!is_icmp || is_raw)).then(|| address(socket.family, &socket.src)),
        connect: is_set(&socket.dst).then(|| address(socket.family, &socket.dst)),
        listens: socket.state == LISTEN,
        shares,
    }
}

/// `struct sockaddr_in` or `sockaddr_in6` (ip(7), ipv6(7)).
fn address(family: u32, (bytes, port): &(Vec<u8>, u16)) -> Vec<u8> {
    let mut address = (family as u16).to_ne_bytes().to_vec();
    address.extend_from_slice(&port.to_be_bytes());
    if family == libc::AF_INET as u32 {
        address.extend_from_slice(bytes);
        address.resize(16, 0);
    } else {
        // No flow.
        address.extend_from_slice(&[0; 4]);
        address.extend_from_slice(bytes);
        // No scope.
        address.resize(28, 0);
    }
    address
}

/// Whether the socket is restored; otherwise says why not.
fn is_plain(resolver: &mut Resolver<'_>, entry: &Ofd, socket: &InetSocket) -> bool {
    let mut reasons: Vec<String> = Vec::new();
    let (sock_type, protocol) = (socket.sock_type as i32, socket.protocol as i32);
    let known = match sock_type {
        libc::SOCK_STREAM => protocol == libc::IPPROTO_TCP,
        libc::SOCK_DGRAM => matches!(
            protocol,
            libc::IPPROTO_UDP | IPPROTO_UDPLITE | libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6
        ),
        libc::SOCK_RAW => true,
        _ => false,
    };
    if !known {
        reasons.push(format!("socket type {sock_type}, protocol {protocol}"));
    }
    match socket.state {
        CLOSE => {}
        LISTEN if sock_type == libc::SOCK_STREAM => {}
        ESTABLISHED if sock_type != libc::SOCK_STREAM => {}
        state if sock_type == libc::SOCK_STREAM => {
            reasons.push(format!("a TCP connection (state {state}; --tcp-established, --tcp-close)"));
        }
        state => reasons.push(format!("state {state}")),
    }
    if sock_type == libc::SOCK_STREAM && socket.dst.1 != 0 && reasons.is_empty() {
        reasons.push("a TCP connection (--tcp-established, --tcp-close)".to_owned());
    }
    if let Some(device) = &socket.device {
        reasons.push(format!("a link-local address of {device}"));
    }
    if socket.checksum.is_some() {
        reasons.push("IPV6_CHECKSUM".to_owned());
    }
    if socket.options.filter.len() > 4096 {
        reasons.push(format!("a filter of {} instructions", socket.options.filter.len()));
    }
    let own = resolver.model.inventory.root_ids.map_or(0, |ids| ids.net_ns);
    if let Some(ns) = socket.ns_id.filter(|ns| own != 0 && *ns != own) {
        reasons.push(format!("in another network namespace ({ns})"));
    }
    for reason in &reasons {
        resolver.problems.unsupported(
            None,
            Some(entry.origin),
            format!("{}: {reason}: not restored yet", name(entry)),
        );
    }
    reasons.is_empty()
}
