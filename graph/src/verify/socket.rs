//! Sockets by name: what `socket`, `bind`, `listen`, `connect` and `accept4` make of each other, and
//! the files that stand for names of unix sockets.
//!
//! Of internet sockets only the addresses are kept: whether the host lets them be bound is for the
//! kernel to say when the tapes run. A file is made by `bind` only behind an announcement to the
//! launcher ([`super::effect::Effect::Undo`]), or where the tapes themselves unlinked one.
//!
//! # Sources
//! `socket(7)`, `unix(7)`, `ip(7)`; net/unix/af_unix.c (`unix_bind`, `unix_dgram_connect`,
//! `unix_accept`), net/ipv4/af_inet.c (`inet_shutdown`).

use std::collections::{BTreeMap, BTreeSet};

use super::before::At;
use super::effect::FileEffect;
use super::object::{
    O_CLOEXEC, O_NONBLOCK, O_RDWR, ObjectKind, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, Socket,
};
use super::outcome::Wrong;
use super::run::Run;
use super::table::Desc;
use crate::ids::Fd;

pub(super) const AF_UNSPEC: u32 = 0;
pub(super) const AF_UNIX: u32 = 1;
pub(super) const AF_INET: u32 = 2;
pub(super) const AF_INET6: u32 = 10;
const SOCK_RAW: u32 = 3;
const S_IFSOCK: u32 = 0o140_000;

/// A file that a `bind` of the tapes made.
#[derive(Debug, Clone)]
pub(super) struct SocketNode {
    pub(super) socket: usize,
    pub(super) mode: Option<u32>,
    pub(super) owner: Option<(u32, u32)>,
    last: At,
}

impl SocketNode {
    fn change(&mut self, effect: &FileEffect) {
        match effect {
            FileEffect::Chown { uid, gid, .. } => {
                self.owner = Some((*uid, *gid));
                // Some bits of the mode may be taken away (chown(2)).
                self.mode = self.mode.filter(|mode| mode & 0o6000 == 0);
            }
            FileEffect::Chmod { mode, .. } => self.mode = Some(S_IFSOCK | mode & 0o7777),
        }
    }
}

/// Names, and the files that stand for them.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    /// Abstract names.
    abstracts: BTreeMap<Vec<u8>, (usize, At)>,
    /// Files by absolute path.
    pub(super) files: BTreeMap<Vec<u8>, SocketNode>,
    /// Paths that the tapes unlinked.
    unlinked: BTreeSet<Vec<u8>>,
    /// Announced to the launcher and not yet made: by whom.
    announced: BTreeMap<Vec<u8>, usize>,
    /// Made, and not yet said so.
    made: BTreeMap<Vec<u8>, usize>,
}

/// The family of an address.
fn family(address: &[u8]) -> Option<u32> {
    Some(u16::from_ne_bytes([*address.first()?, *address.get(1)?]).into())
}

/// The path in the address of a unix socket, or its abstract name, which starts with a zero byte.
fn unix_name(address: &[u8]) -> Option<&[u8]> {
    let name = address.get(2..).filter(|name| !name.is_empty() && name.len() <= 108)?;
    if name[0] == 0 {
        return Some(name);
    }
    name.split(|byte| *byte == 0).next()
}

impl Run<'_> {
    fn absolute(&self, task: usize, name: &[u8]) -> Option<Vec<u8>> {
        if name.first() == Some(&b'/') {
            return Some(name.to_vec());
        }
        let mut path = self.working_directory(task)?.to_vec();
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Some(path)
    }

    pub(super) fn socket(
        &mut self,
        at: At,
        call: &'static str,
        [family, sock_type, protocol, flags]: [u32; 4],
    ) -> Result<Desc, Wrong> {
        let known = match family {
            AF_UNIX => matches!(sock_type, SOCK_STREAM | SOCK_DGRAM | SOCK_SEQPACKET) && protocol == 0,
            AF_INET | AF_INET6 => matches!(sock_type, SOCK_STREAM | SOCK_DGRAM | SOCK_RAW),
            _ => false,
        };
        if !known || flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
            let what = format!("family {family}, type {sock_type}, protocol {protocol}, flags {flags:#o}");
            return Err(Wrong::NotModelled { call, what });
        }
        let mut socket = Socket::new(family, sock_type, protocol, None);
        if family == AF_UNIX {
            socket.set_defaults(&self.expected.facts);
        }
        let object = self.objects.add_object(ObjectKind::Socket(Box::new(socket)), at);
        Ok(self.objects.add_description(object, O_RDWR | flags & O_NONBLOCK, at))
    }

    fn socket_mut(&mut self, call: &'static str, desc: Desc) -> Result<(usize, &mut Socket), Wrong> {
        let object = self.objects.description(desc).object;
        if !matches!(self.objects.objects[object].kind, ObjectKind::Socket(_)) {
            return Err(Wrong::Refused { call, what: self.describe(desc) });
        }
        match &mut self.objects.objects[object].kind {
            ObjectKind::Socket(socket) => Ok((object, socket)),
            _ => unreachable!("it has just been found to be one"),
        }
    }

    pub(super) fn bind(
        &mut self,
        at: At,
        call: &'static str,
        desc: Desc,
        address: &[u8],
    ) -> Result<(), Wrong> {
        let refused =
            |run: &Self, why: &str| Wrong::Refused { call, what: format!("{}: {why}", run.describe(desc)) };
        let (object, socket) = self.socket_mut(call, desc)?;
        if family(address) != Some(socket.family) || socket.name.is_some() {
            return Err(refused(self, "bound before, or of another family"));
        }
        let mut name = address.to_vec();
        let mut dir = None;
        if socket.family == AF_UNIX {
            let unix =
                unix_name(address).filter(|name| !name.is_empty()).ok_or_else(|| refused(self, "no name"))?;
            if unix[0] == 0 {
                if self.names.abstracts.contains_key(unix) {
                    return Err(refused(self, "a name that is taken"));
                }
                self.names.abstracts.insert(unix.to_vec(), (object, at));
            } else {
                let path =
                    self.absolute(at.task, unix).ok_or_else(|| refused(self, "from an unknown directory"))?;
                if let Some(name) = self.made_names.get(&path).copied() {
                    self.order(name.last, at, call, || path.escape_ascii().to_string())?;
                    if name.is_there {
                        return Err(refused(self, "a name that is taken"));
                    }
                }
                let announced = self.names.announced.remove(&path) == Some(at.task);
                if self.names.files.contains_key(&path) || !announced && !self.names.unlinked.contains(&path)
                {
                    return Err(refused(self, "makes a file that nobody would remove on a failure"));
                }
                if announced {
                    self.names.made.insert(path.clone(), at.task);
                }
                let node = SocketNode { socket: object, mode: None, owner: None, last: at };
                self.names.files.insert(path, node);
                if unix[0] != b'/' {
                    dir = self.working_directory(at.task).map(<[u8]>::to_vec);
                }
                name = address[..2 + unix.len()].to_vec();
            }
        }
        self.touch_object(at, call, object, desc)?;
        let (_, socket) = self.socket_mut(call, desc)?;
        socket.name = Some(name);
        socket.name_dir = dir;
        Ok(())
    }

    pub(super) fn listen(
        &mut self,
        at: At,
        call: &'static str,
        desc: Desc,
        backlog: u32,
    ) -> Result<(), Wrong> {
        let object = self.objects.description(desc).object;
        self.touch_object(at, call, object, desc)?;
        let what = self.describe(desc);
        let (_, socket) = self.socket_mut(call, desc)?;
        if !matches!(socket.sock_type, SOCK_STREAM | SOCK_SEQPACKET)
            || socket.name.is_none()
            || socket.peer.is_some()
        {
            return Err(Wrong::Refused { call, what });
        }
        socket.backlog = Some(backlog);
        Ok(())
    }

    /// The socket that a unix address leads to, with who bound it.
    fn find(&self, task: usize, address: &[u8]) -> Option<(usize, At)> {
        let name = unix_name(address)?;
        if name.first() == Some(&0) {
            return self.names.abstracts.get(name).copied();
        }
        let path = self.absolute(task, name)?;
        self.names.files.get(&path).map(|node| (node.socket, node.last))
    }

    pub(super) fn connect(
        &mut self,
        at: At,
        call: &'static str,
        desc: Desc,
        address: &[u8],
    ) -> Result<(), Wrong> {
        let refused =
            |run: &Self, why: &str| Wrong::Refused { call, what: format!("{}: {why}", run.describe(desc)) };
        let (object, socket) = self.socket_mut(call, desc)?;
        let (own_family, sock_type, backlog) = (socket.family, socket.sock_type, socket.backlog);
        let to = family(address).ok_or_else(|| refused(self, "no address"))?;
        if backlog.is_some() || to != own_family && to != AF_UNSPEC {
            return Err(refused(self, "listens, or is of another family"));
        }
        self.touch_object(at, call, object, desc)?;
        if own_family != AF_UNIX {
            if sock_type == SOCK_STREAM || to == AF_UNSPEC {
                return Err(Wrong::NotModelled { call, what: "a connection over a network".to_owned() });
            }
            let (_, socket) = self.socket_mut(call, desc)?;
            socket.dest = Some(address.to_vec());
            return Ok(());
        }
        if to == AF_UNSPEC {
            let (_, socket) = self.socket_mut(call, desc)?;
            if sock_type != SOCK_DGRAM {
                return Err(refused(self, "not a datagram socket"));
            }
            // What waits there goes, too.
            socket.peer = None;
            socket.queue.clear();
            return Ok(());
        }
        let (peer, bound) =
            self.find(at.task, address).ok_or_else(|| refused(self, "to a name that nobody has"))?;
        let what = self.describe(desc);
        self.order(bound, at, call, || what)?;
        self.touch_object(at, call, peer, desc)?;
        let ObjectKind::Socket(other) = &mut self.objects.objects[peer].kind else {
            return Err(refused(self, "to something else"));
        };
        if other.sock_type != sock_type {
            return Err(refused(self, "to a socket of another type"));
        }
        if sock_type == SOCK_DGRAM {
            if other.peer.is_some_and(|theirs| theirs != object) {
                return Err(refused(self, "to a socket that is connected elsewhere"));
            }
            let (_, socket) = self.socket_mut(call, desc)?;
            socket.peer = Some(peer);
            return Ok(());
        }
        let waiting = other.waiting.len() as u64;
        match other.backlog {
            None => return Err(refused(self, "to a socket that does not listen")),
            Some(backlog) if waiting > u64::from(backlog) => {
                return Err(Wrong::WouldBlock {
                    call,
                    what: self.describe(desc),
                    holds: waiting,
                    capacity: backlog.into(),
                });
            }
            Some(_) => {}
        }
        let (name, name_dir) = (other.name.clone(), other.name_dir.clone());
        let mut accepted = Socket::new(AF_UNIX, sock_type, 0, Some(object));
        accepted.set_defaults(&self.expected.facts);
        accepted.name = name;
        accepted.name_dir = name_dir;
        let accepted = self.objects.add_object(ObjectKind::Socket(Box::new(accepted)), at);
        if let ObjectKind::Socket(listener) = &mut self.objects.objects[peer].kind {
            listener.waiting.push_back(accepted);
        }
        let (_, socket) = self.socket_mut(call, desc)?;
        if socket.peer.is_some() {
            return Err(refused(self, "connected before"));
        }
        socket.peer = Some(accepted);
        Ok(())
    }

    pub(super) fn accept(
        &mut self,
        at: At,
        call: &'static str,
        listener: Fd,
        flags: u32,
    ) -> Result<Desc, Wrong> {
        if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
            return Err(Wrong::NotModelled { call, what: format!("flags {flags:#o}") });
        }
        let desc = self.descriptor(at, call, listener)?;
        let what = self.describe(desc);
        let (object, socket) = self.socket_mut(call, desc)?;
        let Some(accepted) = socket.waiting.pop_front() else {
            return Err(Wrong::WouldBlock { call, what, holds: 0, capacity: 0 });
        };
        self.touch_object(at, call, object, desc)?;
        self.touch_object(at, call, accepted, desc)?;
        Ok(self.objects.add_description(accepted, O_RDWR | flags & O_NONBLOCK, at))
    }

    /// What the launcher is told of a file: that it is about to be made, or that it has been.
    pub(super) fn announce(&mut self, at: At, path: &[u8], is_made: bool) -> Result<(), Wrong> {
        if is_made {
            if self.names.made.remove(path) == Some(at.task) {
                return Ok(());
            }
            let what = format!("{} has not been made", path.escape_ascii());
            return Err(Wrong::Refused { call: "undo", what });
        }
        if self.names.announced.insert(path.to_vec(), at.task).is_some() {
            return Err(Wrong::Refused {
                call: "undo",
                what: format!("{} announced twice", path.escape_ascii()),
            });
        }
        Ok(())
    }

    /// `unlink(2)` of what stands for a socket, of the tapes or a stale one.
    pub(super) fn unlink_socket(&mut self, at: At, call: &'static str, path: &[u8]) -> Result<(), Wrong> {
        let shown = || path.escape_ascii().to_string();
        if let Some(node) = self.names.files.get(path) {
            self.order(node.last, at, call, shown)?;
        }
        if self.names.files.remove(path).is_some() {
            self.names.unlinked.remove(path);
            return Ok(());
        }
        // A stale one: nobody but the owner of a socket of the images may have left it.
        if !self.expected.socket_paths.contains(path) {
            return Err(Wrong::OpensOther { path: shown() });
        }
        self.names.unlinked.insert(path.to_vec());
        Ok(())
    }

    pub(super) fn change_file(
        &mut self,
        at: At,
        call: &'static str,
        effect: &FileEffect,
    ) -> Result<(), Wrong> {
        let (FileEffect::Chown { path, .. } | FileEffect::Chmod { path, .. }) = effect;
        let shown = || path.escape_ascii().to_string();
        if let Some(node) = self.names.files.get(path) {
            self.order(node.last, at, call, shown)?;
        }
        let node = self.names.files.get_mut(path).ok_or_else(|| Wrong::OpensOther { path: shown() })?;
        node.last = at;
        node.change(effect);
        Ok(())
    }

    /// The path of a socket's name, if it has one.
    pub(super) fn path_of(socket: &Socket) -> Option<Vec<u8>> {
        let name = socket.name.as_deref().filter(|_| socket.family == AF_UNIX)?;
        let name = unix_name(name).filter(|name| name.first().is_some_and(|byte| *byte != 0))?;
        if name[0] == b'/' {
            return Some(name.to_vec());
        }
        let mut path = socket.name_dir.clone()?;
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Some(path)
    }

    /// Whether something is announced or made and the launcher does not know which.
    pub(super) fn unfinished(&self) -> Option<(usize, &[u8])> {
        self.names
            .announced
            .iter()
            .chain(&self.names.made)
            .next()
            .map(|(path, task)| (*task, path.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_owner_takes_bits_of_the_mode() {
        let chown = FileEffect::Chown { path: b"/s".to_vec(), uid: 5, gid: 6 };
        let chmod = |mode| FileEffect::Chmod { path: b"/s".to_vec(), mode };
        let check = |effects: &[FileEffect], mode: Option<u32>| {
            let last = At { task: 0, record: 0 };
            let mut node = SocketNode { socket: 0, mode: None, owner: None, last };
            effects.iter().for_each(|effect| node.change(effect));
            assert_eq!((node.mode, node.owner), (mode, Some((5, 6))), "{effects:?}");
        };
        check(&[chmod(0o755), chown.clone()], Some(0o140_755));
        check(&[chmod(0o4755), chown.clone()], None);
        check(&[chmod(0o2755), chown.clone()], None);
        check(&[chown.clone(), chmod(0o6755)], Some(0o146_755));
    }
}
