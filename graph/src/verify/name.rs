//! Names in the file system that the tapes make and remove again, and the files behind them.
//!
//! # Sources
//! `mkdir(2)`, `unlink(2)`, `rename(2)`, `sendfile(2)`, `fcntl(2)` (F_ADD_SEALS).

use std::collections::BTreeMap;

use super::before::At;
use super::effect::NameEffect;
use super::expected::{Expected, ExpectedInode, InodeKind};
use super::object::{Inode, O_ACCMODE, O_APPEND, O_PATH, O_RDONLY, O_WRONLY, ObjectKind, Pipe};
use super::outcome::Wrong;
use super::run::Run;
use super::table::Desc;
use crate::ids::Fd;

/// What a name may have behind it for a moment.
pub(super) const ASIDE: &[u8] = b".regrow";

/// The inodes of the images, by what they are called.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted<'a> {
    by_name: BTreeMap<&'a [u8], Vec<&'a ExpectedInode>>,
    /// Those of [`InodeKind::Linked`], by the name that they have still.
    by_source: BTreeMap<&'a [u8], Vec<&'a ExpectedInode>>,
}

impl<'a> Wanted<'a> {
    pub(super) fn of(expected: &'a Expected) -> Wanted<'a> {
        let mut wanted = Wanted::default();
        for inode in expected.inodes.values() {
            wanted.by_name.entry(&inode.name).or_default().push(inode);
            if inode.kind == InodeKind::Linked {
                wanted.by_source.entry(&inode.source).or_default().push(inode);
            }
        }
        wanted
    }

    /// Those that were called `name`.
    pub(super) fn named(&self, name: &[u8]) -> impl Iterator<Item = &'a ExpectedInode> {
        self.by_name.get(name).into_iter().flatten().copied()
    }

    /// Those that are called `source` still.
    fn linked_to(&self, source: &[u8]) -> impl Iterator<Item = &'a ExpectedInode> {
        self.by_source.get(source).into_iter().flatten().copied()
    }

    /// Whether any was in a directory, or further below. Names of memfds are no paths.
    fn is_above(&self, directory: &[u8]) -> bool {
        let below = [directory, b"/"].concat();
        let mut named =
            self.by_name.range(below.as_slice()..).take_while(|(name, _)| name.starts_with(&below));
        named.any(|(_, inodes)| inodes.iter().any(|inode| inode.kind != InodeKind::Memfd))
    }
}

/// A name in the file system that a tape has made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    pub(super) is_there: bool,
    pub(super) is_directory: bool,
    pub(super) object: Option<usize>,
    /// It leads, for a moment, to a file that is not the tapes' own.
    is_foreign: bool,
    pub(super) last: At,
}

impl Run<'_> {
    pub(super) fn change_names(
        &mut self,
        at: At,
        call: &'static str,
        effect: &NameEffect,
    ) -> Result<(), Wrong> {
        match effect {
            NameEffect::MakeDirectory { path } => {
                let is_wanted = self.wanted.named(path).any(|inode| inode.kind == InodeKind::Directory);
                if !is_wanted && !self.wanted.is_above(path) {
                    let path = path.escape_ascii().to_string();
                    return Err(Wrong::BadName { call, path, why: "no unlinked file of the images needs" });
                }
                let object = is_wanted.then(|| {
                    let inode = Inode { kind: InodeKind::Directory, name: path.clone(), ..Inode::default() };
                    self.objects.add_object(ObjectKind::Inode(Box::new(inode)), at)
                });
                self.make_name(at, call, path, true, object)
            }
            NameEffect::MakeFifo { path } => {
                if !self.wanted.named(path).any(|inode| inode.kind == InodeKind::Fifo) {
                    let path = path.escape_ascii().to_string();
                    return Err(Wrong::BadName { call, path, why: "no unlinked FIFO of the images had" });
                }
                let inode = Inode { kind: InodeKind::Fifo, name: path.clone(), ..Inode::default() };
                let object = self.objects.add_fifo(&self.expected.facts, Some(Box::new(inode)), at);
                self.make_name(at, call, path, false, Some(object))
            }
            NameEffect::Link { from, to } => self.link(at, call, from, to),
            NameEffect::Exchange { from, to } => self.change_places(at, call, from, to),
            NameEffect::Rename { from, to } => self.take_back(at, call, from, to),
            NameEffect::Unlink { path } if self.made_names.get(path).is_some_and(|name| name.is_there) => {
                self.remove_name(at, call, path, false)
            }
            NameEffect::Unlink { path } => self.unlink_socket(at, call, path),
            NameEffect::RemoveDirectory { path } => self.remove_name(at, call, path, true),
        }
    }

    pub(super) fn make_name(
        &mut self,
        at: At,
        call: &'static str,
        path: &[u8],
        is_directory: bool,
        object: Option<usize>,
    ) -> Result<(), Wrong> {
        let shown = || path.escape_ascii().to_string();
        if let Some(name) = self.made_names.get(path).copied() {
            self.order(name.last, at, call, shown)?;
            if name.is_there {
                return Err(Wrong::BadName { call, path: shown(), why: "exists" });
            }
        }
        if self.names.files.contains_key(path) {
            return Err(Wrong::BadName { call, path: shown(), why: "is a socket's" });
        }
        // What it is made in must be there, if it is the tapes' own.
        let above =
            path.iter().rposition(|byte| *byte == b'/').and_then(|end| path.get(..end)).unwrap_or_default();
        if let Some(directory) = self.made_names.get(above).copied() {
            self.order(directory.last, at, call, shown)?;
            if !directory.is_there || !directory.is_directory {
                return Err(Wrong::BadName {
                    call,
                    path: shown(),
                    why: "would be in a directory that is gone",
                });
            }
        }
        self.made_names.insert(
            path.to_vec(),
            Name { is_there: true, is_directory, object, is_foreign: false, last: at },
        );
        Ok(())
    }

    /// One more name: of a file that the tapes have made, or of one of the images that has another name
    /// still.
    fn link(&mut self, at: At, call: &'static str, from: &[u8], to: &[u8]) -> Result<(), Wrong> {
        let bad = |path: &[u8], why| Err(Wrong::BadName { call, path: path.escape_ascii().to_string(), why });
        let made = self.made_names.get(from).copied().filter(|name| name.is_there && !name.is_foreign);
        let object = match made {
            Some(Name { object: Some(object), last, .. }) => {
                self.order(last, at, call, || from.escape_ascii().to_string())?;
                let ObjectKind::Inode(inode) = &self.objects.objects[object].kind else {
                    return bad(from, "is no file of the tapes");
                };
                let may = |wanted: &ExpectedInode| wanted.kind == inode.kind && wanted.further.contains(to);
                if !self.wanted.named(&inode.name).any(may) {
                    return bad(to, "no unlinked file of the images had");
                }
                object
            }
            Some(_) => return bad(from, "is no file of the tapes"),
            None => {
                let is_called = |wanted: &&ExpectedInode| wanted.name == to || wanted.further.contains(to);
                let Some(wanted) = self.wanted.linked_to(from).find(is_called) else {
                    return bad(from, "is not what the images say that the file is called now");
                };
                // All names of one lead to the same object.
                match self.linked.get(from).copied() {
                    Some(object) => {
                        let made = self.objects.objects[object].made;
                        self.order(made, at, call, || from.escape_ascii().to_string())?;
                        object
                    }
                    None => {
                        let inode = Inode {
                            kind: InodeKind::Linked,
                            name: wanted.name.clone(),
                            source: from.to_vec(),
                            ..Inode::default()
                        };
                        let object = self.objects.add_object(ObjectKind::Inode(Box::new(inode)), at);
                        self.linked.insert(from.to_vec(), object);
                        object
                    }
                }
            }
        };
        self.make_name(at, call, to, false, Some(object))
    }

    /// A file that the tapes have made beside the name that it is to have takes that name, and what
    /// had it gets the other.
    fn change_places(&mut self, at: At, call: &'static str, from: &[u8], to: &[u8]) -> Result<(), Wrong> {
        let bad = |path: &[u8], why| Err(Wrong::BadName { call, path: path.escape_ascii().to_string(), why });
        let made = self
            .made_names
            .get(from)
            .copied()
            .filter(|name| name.is_there && !name.is_foreign && !name.is_directory);
        let Some((made, object)) = made.and_then(|name| Some((name, name.object?))) else {
            return bad(from, "the tapes have not made");
        };
        self.order(made.last, at, call, || from.escape_ascii().to_string())?;
        if let Some(old) = self.made_names.get(to).copied() {
            self.order(old.last, at, call, || to.escape_ascii().to_string())?;
            if old.is_there {
                return bad(to, "is the tapes' own");
            }
        }
        let is_wanted = self.wanted.named(to).any(|inode| inode.kind == InodeKind::File);
        let ObjectKind::Inode(inode) = &mut self.objects.objects[object].kind else {
            return bad(from, "is no file of the tapes");
        };
        if !is_wanted || from.strip_prefix(to) != Some(ASIDE) {
            return bad(to, "no unlinked file of the images had");
        }
        inode.name = to.to_vec();
        self.made_names.insert(to.to_vec(), Name { last: at, ..made });
        self.made_names.insert(from.to_vec(), Name { object: None, is_foreign: true, last: at, ..made });
        Ok(())
    }

    /// What had to make place takes its name back.
    fn take_back(&mut self, at: At, call: &'static str, from: &[u8], to: &[u8]) -> Result<(), Wrong> {
        let there = |name: Option<&Name>| name.copied().filter(|name| name.is_there);
        let (Some(foreign), Some(own)) = (there(self.made_names.get(from)), there(self.made_names.get(to)))
        else {
            let path = from.escape_ascii().to_string();
            return Err(Wrong::BadName { call, path, why: "has not changed places" });
        };
        self.order(foreign.last, at, call, || from.escape_ascii().to_string())?;
        self.order(own.last, at, call, || to.escape_ascii().to_string())?;
        if !foreign.is_foreign || own.is_foreign || from.strip_prefix(to) != Some(ASIDE) {
            let path = from.escape_ascii().to_string();
            return Err(Wrong::BadName { call, path, why: "has not changed places with it" });
        }
        self.made_names
            .insert(from.to_vec(), Name { is_there: false, is_foreign: false, last: at, ..foreign });
        self.made_names.insert(to.to_vec(), Name { is_there: false, last: at, ..own });
        Ok(())
    }

    fn remove_name(
        &mut self,
        at: At,
        call: &'static str,
        path: &[u8],
        is_directory: bool,
    ) -> Result<(), Wrong> {
        let shown = || path.escape_ascii().to_string();
        let bad = |why| Err(Wrong::BadName { call, path: shown(), why });
        let Some(name) = self.made_names.get(path).copied().filter(|name| name.is_there) else {
            return bad("the tapes have not made");
        };
        self.order(name.last, at, call, shown)?;
        if name.is_directory != is_directory || name.is_foreign {
            return bad("is of another kind");
        }
        let mut below = path.to_vec();
        below.push(b'/');
        let is_below = |other: &Vec<u8>| other.starts_with(&below);
        if is_directory
            && self
                .made_names
                .range(below.clone()..)
                .take_while(|(other, _)| is_below(other))
                .any(|(_, name)| name.is_there)
        {
            return bad("is not empty");
        }
        self.made_names.insert(path.to_vec(), Name { is_there: false, last: at, ..name });
        Ok(())
    }

    /// A file that the tapes have made.
    pub(super) fn inode(&mut self, at: At, call: &'static str, desc: Desc) -> Result<&mut Inode, Wrong> {
        let object = self.objects.description(desc).object;
        self.touch_object(at, call, object, desc)?;
        let what = self.describe(desc);
        match &mut self.objects.objects[object].kind {
            ObjectKind::Inode(inode) if inode.kind != InodeKind::Linked => Ok(inode),
            ObjectKind::Pipe(Pipe { fifo: Some(inode), .. }) => Ok(inode),
            // A file that is not the tapes' own keeps what it is.
            ObjectKind::Inode(_) | ObjectKind::File { .. } => Err(Wrong::ChangesFile { call, what }),
            ObjectKind::Pipe(_)
            | ObjectKind::Socket(_)
            | ObjectKind::Eventfd { .. }
            | ObjectKind::Epoll { .. }
            | ObjectKind::Timerfd { .. }
            | ObjectKind::Signalfd { .. }
            | ObjectKind::Segment(_)
            | ObjectKind::Userfault { .. } => Err(Wrong::Refused { call, what }),
        }
    }

    /// `sendfile`: both positions go on.
    pub(super) fn copy(
        &mut self,
        at: At,
        call: &'static str,
        desc: Desc,
        from: Fd,
        len: u64,
    ) -> Result<(), Wrong> {
        let source = self.descriptor(at, call, from)?;
        let ObjectKind::File { path } = &self.objects.object_of(source).kind else {
            return Err(Wrong::NotModelled { call, what: format!("copying from {}", self.describe(source)) });
        };
        let path = path.clone();
        let source_flags = self.objects.description(source).flags;
        if source_flags & O_PATH != 0 || source_flags & O_ACCMODE == O_WRONLY {
            return Err(Wrong::Refused { call, what: self.describe(source) });
        }
        self.touch(at, call, source)?;
        self.touch(at, call, desc)?;
        let (to, start) =
            (self.objects.description(desc).position, self.objects.description(source).position);
        let flags = self.objects.description(desc).flags;
        let refused = Wrong::Refused { call, what: self.describe(desc) };
        let ends = to.checked_add(len).zip(start.checked_add(len));
        let inode = self.inode(at, call, desc)?;
        let Some((end, source_end)) = ends else { return Err(refused) };
        if matches!(inode.kind, InodeKind::Directory | InodeKind::Fifo)
            || inode.is_sealed()
            || flags & O_ACCMODE == O_RDONLY
            || flags & O_APPEND != 0
        {
            return Err(refused);
        }
        inode.content.push(to, &path, start, len);
        inode.size = inode.size.max(end);
        inode.times = None;
        self.objects.description_mut(desc).position = end;
        self.objects.description_mut(source).position = source_end;
        Ok(())
    }
}
