//! Files, directories and their names.
//!
//! A path that the tapes have not touched leads to a file of the host, of which only the path is known.
//! Whether the host lets a task open it is not modelled.
//!
//! # Sources
//! `open(2)`, `mknod(2)`, `mkdir(2)`, `link(2)`, `unlink(2)`, `rename(2)`, `memfd_create(2)`,
//! `ftruncate(2)`, `sendfile(2)`, `proc_pid_fd(5)`; fs/namei.c, fs/open.c (`build_open_flags`), mm/memfd.c.

use std::sync::Arc;

use regrow_graph::ids::Fd;
use regrow_graph::verify::{FileEffect, NameEffect};

use super::object::{Description, O_ACCMODE, O_APPEND, O_CLOEXEC, O_PATH, O_RDONLY, O_RDWR, Object};
use super::pipe::Pipe;
use super::runs::{Runs, Source};
use super::{Call, World, fails, gives, not_modelled};
use crate::errno::{
    EACCES, EBADF, EBUSY, EEXIST, EINVAL, EISDIR, ELOOP, ENOENT, ENOTDIR, ENOTEMPTY, ENXIO, EPERM,
};
use crate::footprint::{Access, Thing};
use crate::ids::{DescId, ObjectId};

const O_CREAT: u32 = 0o100;
const O_EXCL: u32 = 0o200;
const O_NOCTTY: u32 = 0o400;
const O_TRUNC: u32 = 0o1000;
const O_DSYNC: u32 = 0o10000;
const O_LARGEFILE: u32 = 0o100_000;
const O_DIRECTORY: u32 = 0o200_000;
const O_NOFOLLOW: u32 = 0o400_000;
const O_SYNC_BIT: u32 = 0o4_000_000;
const O_TMPFILE_BIT: u32 = 0o20_000_000;
const F_SEAL_SEAL: u32 = 1;
const F_SEAL_SHRINK: u32 = 2;
const F_SEAL_GROW: u32 = 4;
const F_SEAL_WRITE: u32 = 8;
const F_SEAL_FUTURE_WRITE: u32 = 0x10;
const F_SEAL_EXEC: u32 = 0x20;
const SEALS: u32 = 0x3f;

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// One that is there: whatever its path leads to.
    Host,
    /// A regular file that the tapes made.
    Regular,
    /// A directory that the tapes made.
    Directory,
    /// A memfd.
    Memfd,
}

/// Permissions and the like: what was set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Meta {
    /// Permissions.
    pub mode: Option<u32>,
    /// User and group.
    pub owner: Option<(u32, u32)>,
    /// Last access and modification, seconds and nanoseconds.
    pub times: Option<((i64, u64), (i64, u64))>,
}

impl Meta {
    /// Another owner: what is no directory loses S_ISUID, and S_ISGID where the group may execute it, whoever
    /// says so (chown(2); fs/attr.c, `setattr_should_drop_sgid`).
    fn change_owner(&mut self, owner: (u32, u32), is_directory: bool) {
        self.owner = Some(owner);
        self.mode = self.mode.map(|mode| match (is_directory, mode & 0o010 != 0) {
            (true, _) => mode,
            (false, true) => mode & !0o6000,
            (false, false) => mode & !0o4000,
        });
    }
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct File {
    /// What it is.
    pub kind: FileKind,
    /// The path that it was made under, or the memfd's name.
    pub name: Arc<[u8]>,
    /// Its length; `None`: not known.
    pub size: Option<u64>,
    /// Permissions and the like.
    pub meta: Meta,
    /// `F_SEAL_*`.
    pub seals: u32,
    /// What the tapes put in.
    pub content: Runs,
    /// How many mappings write to it, of a memfd.
    pub writers: u32,
}

impl File {
    fn new(kind: FileKind, name: &[u8]) -> File {
        let size = match kind {
            FileKind::Host | FileKind::Directory => None,
            FileKind::Regular | FileKind::Memfd => Some(0),
        };
        let name = name.into();
        let (meta, content) = (Meta::default(), Runs::default());
        File { kind, name, size, meta, seals: 0, content, writers: 0 }
    }

    pub(super) fn is_made(&self) -> bool {
        match self.kind {
            FileKind::Host => false,
            FileKind::Regular | FileKind::Directory | FileKind::Memfd => true,
        }
    }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').and_then(|end| path.get(..end)).unwrap_or_default()
}

impl World {
    /// A path from the working directory.
    pub(super) fn absolute(&mut self, tid: u32, name: &[u8]) -> Call<Arc<[u8]>> {
        if name.first() == Some(&b'/') {
            return Ok(name.into());
        }
        let id = self.thread(tid).directory;
        self.read(Thing::Directory(id));
        match self.directories.get(&id).and_then(|directory| directory.working.clone()) {
            Some(working) => {
                let mut path = working.to_vec();
                if path.last() != Some(&b'/') {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
                Ok(path.into())
            }
            None => not_modelled("a path from an unknown directory"),
        }
    }

    /// What a path leads to, as far as that is known: `Some(None)` is nothing, `None` whatever the host has.
    pub(super) fn leads_to(&self, path: &[u8]) -> Option<Option<ObjectId>> {
        if let Some(leads) = self.names.get(path) {
            return Some(leads.clone());
        }
        let host = &self.ground.host;
        let is_below = |known: &Vec<u8>| {
            path.strip_prefix(known.as_slice()).is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        (!host.files.contains(path) && host.known.iter().any(is_below)).then_some(None)
    }

    /// Whether a path leads to something that the tapes know of.
    pub(super) fn exists(&self, path: &[u8]) -> bool {
        match self.names.get(path) {
            Some(name) => name.is_some(),
            None => self.ground.host.files.contains(path),
        }
    }

    /// Something can only be made where a directory is.
    pub(super) fn check_parent(&mut self, path: &[u8]) -> Call<()> {
        let above: Arc<[u8]> = parent(path).into();
        self.read(Thing::Name(above.clone()));
        match self.leads_to(&above) {
            Some(None) => fails(ENOENT),
            Some(Some(id)) => match self.object(&id) {
                Object::File(file) if file.kind == FileKind::Directory || file.kind == FileKind::Host => {
                    Ok(())
                }
                _ => fails(ENOTDIR),
            },
            None => Ok(()),
        }
    }

    /// Who renames needs both directories before any name in them is looked up (`filename_renameat2`, fs/namei.c).
    fn check_parents(&mut self, from: &[u8], to: &[u8]) -> Call<()> {
        self.check_parent(from)?;
        self.check_parent(to)
    }

    /// What a path leads to.
    fn lookup(&mut self, path: &Arc<[u8]>) -> Call<ObjectId> {
        self.read(Thing::Name(path.clone()));
        match self.leads_to(path) {
            Some(Some(id)) => Ok(id),
            Some(None) => {
                // Below what is no directory there is not nothing.
                self.check_parent(path)?;
                fails(ENOENT)
            }
            None => {
                self.check_parent(path)?;
                Ok(self.host_file(path))
            }
        }
    }

    /// A file of the host: the model knows it from when it is first used, which changes nothing.
    fn host_file(&mut self, path: &Arc<[u8]>) -> ObjectId {
        let id = ObjectId::Host(path.clone());
        let is_fifo = self.ground.host.fifos.contains(&**path);
        let pipe_bytes = self.ground.host.pipe_bytes;
        self.objects.entry(id.clone()).or_insert_with(|| {
            Arc::new(if is_fifo {
                Object::Pipe(Pipe::new(pipe_bytes))
            } else {
                Object::File(File::new(FileKind::Host, path))
            })
        });
        id
    }

    fn make_name(&mut self, path: &Arc<[u8]>) -> Call<()> {
        self.write(Thing::Name(path.clone()));
        if self.exists(path) {
            return fails(EEXIST);
        }
        self.check_parent(path)
    }

    pub(super) fn open(&mut self, tid: u32, path: &[u8], flags: u32) -> Call<DescId> {
        if flags & O_TMPFILE_BIT != 0 {
            return not_modelled("O_TMPFILE");
        }
        let mut status = flags & !(O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC) | O_LARGEFILE;
        if flags & O_SYNC_BIT != 0 {
            status |= O_DSYNC;
        }
        // All others are ignored, O_CREAT and O_TRUNC among them (open(2)).
        let flags = if flags & O_PATH != 0 {
            status &= O_PATH | O_DIRECTORY | O_NOFOLLOW;
            flags & (O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
        } else {
            flags
        };
        let own = path.strip_prefix(b"/proc/self/").or(path.strip_prefix(b"/proc/thread-self/"));
        if let Some(rest) = own {
            return self.open_own(tid, path, rest, (flags, status));
        }
        let path = self.absolute(tid, path)?;
        let made = flags & O_CREAT != 0 && {
            self.read(Thing::Name(path.clone()));
            let is_there = self.exists(&path);
            if is_there && flags & O_EXCL != 0 {
                return fails(EEXIST);
            }
            !is_there
        };
        let id = if made {
            self.make_name(&path)?;
            let id = self.add_object(tid, 0, Object::File(File::new(FileKind::Regular, &path)));
            self.names.insert(path.clone(), Some(id.clone()));
            id
        } else {
            self.lookup(&path)?
        };
        self.open_object(tid, &id, Some(path), (flags, status))
    }

    fn open_object(
        &mut self,
        tid: u32,
        id: &ObjectId,
        path: Option<Arc<[u8]>>,
        (flags, status): (u32, u32),
    ) -> Call<DescId> {
        let description = Description { path, ..Description::of(id.clone(), status) };
        let is_path = flags & O_PATH != 0;
        let is_file = matches!(self.object(id), Object::File(_));
        if flags & O_DIRECTORY != 0 && !is_file {
            return fails(ENOTDIR);
        }
        match self.object(id) {
            Object::File(file) => {
                let is_directory = file.kind == FileKind::Directory;
                if flags & O_DIRECTORY != 0 && file.is_made() && !is_directory {
                    return fails(ENOTDIR);
                }
                if is_directory
                    && !is_path
                    && (flags & O_ACCMODE != O_RDONLY || flags & (O_CREAT | O_TRUNC) != 0)
                {
                    return fails(EISDIR);
                }
                // Also what is opened to be read is emptied (open(2), NOTES).
                if flags & O_TRUNC != 0
                    && !is_path
                    && !is_directory
                    && let Object::File(file) = self.object_mut(id)
                {
                    (file.size, file.content) = (Some(0), Runs::default());
                }
            }
            Object::Pipe(_) if !is_path => return self.open_pipe(tid, id, description),
            Object::Pipe(_) => {}
            Object::Socket(_) if !is_path => return fails(ENXIO),
            Object::Socket(_) => {}
            Object::Eventfd { .. }
            | Object::Epoll { .. }
            | Object::Timerfd { .. }
            | Object::Signalfd { .. }
            | Object::Userfault { .. }
                if !is_path =>
            {
                return fails(ENXIO);
            }
            Object::Eventfd { .. }
            | Object::Epoll { .. }
            | Object::Timerfd { .. }
            | Object::Signalfd { .. }
            | Object::Userfault { .. } => {}
            Object::Foreign => return not_modelled("an open of what the launcher had open"),
        }
        Ok(self.add_description(tid, 0, description))
    }

    /// Files of a task about itself: its descriptors again, or its settings.
    fn open_own(&mut self, tid: u32, path: &[u8], rest: &[u8], flags: (u32, u32)) -> Call<DescId> {
        if let Some(number) = rest.strip_prefix(b"fd/") {
            let number = std::str::from_utf8(number).ok().and_then(|text| text.parse::<Fd>().ok());
            let Some(fd) = number else { return fails(ENOENT) };
            let Ok(desc) = self.descriptor(tid, fd) else { return fails(ENOENT) };
            if flags.0 & O_NOFOLLOW != 0 {
                return if flags.0 & O_PATH != 0 { not_modelled("a link as such") } else { fails(ELOOP) };
            }
            self.read(Thing::Description(desc));
            let shown = self.description(desc).clone();
            return self.open_object(tid, &shown.object, shown.path, flags);
        }
        // Each task has its own.
        let whose = if path.starts_with(b"/proc/thread-self/") { tid } else { self.thread(tid).process };
        let own: Arc<[u8]> = [format!("/proc/{whose}/").as_bytes(), rest].concat().into();
        let id = self.host_file(&own);
        self.open_object(tid, &id, Some(path.into()), flags)
    }

    pub(super) fn make_memfd(&mut self, tid: u32, name: &[u8], flags: u32) -> Call<DescId> {
        /// MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_NOEXEC_SEAL, MFD_EXEC.
        const KNOWN: u32 = 0x1b;
        if flags & !KNOWN != 0 {
            return not_modelled(format!("flags {flags:#x}"));
        }
        if flags & 0x18 == 0x18 || name.len() > 249 {
            return fails(EINVAL);
        }
        let mut file = File::new(FileKind::Memfd, name);
        file.seals = match (flags & 8 != 0, flags & 2 != 0) {
            (true, _) => F_SEAL_EXEC,
            (false, true) => 0,
            (false, false) => F_SEAL_SEAL,
        };
        let object = self.add_object(tid, 0, Object::File(file));
        Ok(self.add_description(tid, 0, Description::of(object, O_RDWR | O_LARGEFILE)))
    }

    pub(super) fn change_names(&mut self, tid: u32, effect: &NameEffect) -> Call<i64> {
        match effect {
            NameEffect::MakeDirectory { path } => {
                let path = self.absolute(tid, path)?;
                self.make_name(&path)?;
                let id = self.add_object(tid, 0, Object::File(File::new(FileKind::Directory, &path)));
                self.names.insert(path, Some(id));
            }
            NameEffect::MakeFifo { path } => {
                let path = self.absolute(tid, path)?;
                self.make_name(&path)?;
                let id = self.add_object(tid, 0, Object::Pipe(Pipe::new(self.ground.host.pipe_bytes)));
                self.names.insert(path, Some(id));
            }
            NameEffect::Link { from, to } => {
                let (from, to) = (self.absolute(tid, from)?, self.absolute(tid, to)?);
                let id = self.lookup(&from)?;
                self.make_name(&to)?;
                if matches!(self.object(&id), Object::File(file) if file.kind == FileKind::Directory) {
                    return fails(EPERM);
                }
                self.names.insert(to, Some(id));
            }
            NameEffect::Unlink { path } => {
                let path = self.absolute(tid, path)?;
                let id = self.lookup(&path)?;
                if matches!(self.object(&id), Object::File(file) if file.kind == FileKind::Directory) {
                    return fails(EISDIR);
                }
                self.write(Thing::Name(path.clone()));
                self.names.insert(path, None);
            }
            NameEffect::RemoveDirectory { path } => {
                let path = self.absolute(tid, path)?;
                let id = self.lookup(&path)?;
                match self.object(&id) {
                    Object::File(file) if file.kind == FileKind::Directory => {}
                    Object::File(file) if file.kind == FileKind::Host => {
                        return not_modelled("the removal of a directory of the host");
                    }
                    _ => return fails(ENOTDIR),
                }
                let below = [&*path, b"/"].concat();
                let inside: Vec<(Arc<[u8]>, bool)> = self
                    .names
                    .iter()
                    .filter(|(name, _)| name.starts_with(&below))
                    .map(|(name, leads)| (name.clone(), leads.is_some()))
                    .collect();
                let is_empty = inside.iter().all(|(_, is_there)| !is_there);
                for (name, _) in inside {
                    self.read(Thing::Name(name));
                }
                if !is_empty {
                    return fails(ENOTEMPTY);
                }
                self.write(Thing::Name(path.clone()));
                self.names.insert(path, None);
            }
            NameEffect::Rename { from, to } => {
                let (from, to) = (self.absolute(tid, from)?, self.absolute(tid, to)?);
                self.check_parents(&from, &to)?;
                let id = self.lookup(&from)?;
                self.check_no_directory(&id)?;
                if let Some(Some(old)) = self.leads_to(&to) {
                    self.check_no_directory(&old)?;
                }
                self.write(Thing::Name(from.clone()));
                self.write(Thing::Name(to.clone()));
                // Two names of one file stay (rename(2)).
                if self.names.get(&to) != Some(&Some(id.clone())) {
                    self.names.insert(from, None);
                    self.names.insert(to, Some(id));
                }
            }
            NameEffect::Exchange { from, to } => {
                let (from, to) = (self.absolute(tid, from)?, self.absolute(tid, to)?);
                self.check_parents(&from, &to)?;
                let ids = (self.lookup(&from)?, self.lookup(&to)?);
                self.check_no_directory(&ids.0)?;
                self.check_no_directory(&ids.1)?;
                self.write(Thing::Name(from.clone()));
                self.write(Thing::Name(to.clone()));
                self.names.insert(from, Some(ids.1));
                self.names.insert(to, Some(ids.0));
            }
        }
        Ok(0)
    }

    /// What is below a directory would change its names with it.
    fn check_no_directory(&self, id: &ObjectId) -> Call<()> {
        match self.object(id) {
            Object::File(file) if file.kind == FileKind::Directory => {
                not_modelled("a directory that is renamed")
            }
            _ => Ok(()),
        }
    }

    pub(super) fn change_file(&mut self, tid: u32, effect: &FileEffect) -> Call<i64> {
        let (FileEffect::Chown { path, .. } | FileEffect::Chmod { path, .. }) = effect;
        let path = self.absolute(tid, path)?;
        let id = self.lookup(&path)?;
        if matches!(self.object(&id), Object::Socket(_)) {
            // It is the file's, not the socket's.
            let key: Arc<[u8]> = [b"socket:".as_slice(), &path].concat().into();
            let file = ObjectId::Host(key.clone());
            self.objects
                .entry(file.clone())
                .or_insert_with(|| Arc::new(Object::File(File::new(FileKind::Regular, &key))));
            return self.change_meta(&file, effect);
        }
        self.change_meta(&id, effect)
    }

    fn change_meta(&mut self, id: &ObjectId, effect: &FileEffect) -> Call<i64> {
        match effect {
            FileEffect::Chown { uid, gid, .. } => return self.set_file_owner(id, (*uid, *gid)),
            FileEffect::Chmod { mode, .. } => self.meta_mut(id)?.mode = Some(mode & 0o7777),
        }
        Ok(0)
    }

    pub(super) fn set_file_owner(&mut self, id: &ObjectId, owner: (u32, u32)) -> Call<i64> {
        let is_directory = matches!(self.object(id), Object::File(file) if file.kind == FileKind::Directory);
        self.meta_mut(id)?.change_owner(owner, is_directory);
        Ok(0)
    }

    pub(super) fn meta_mut(&mut self, id: &ObjectId) -> Call<&mut Meta> {
        match self.object_mut(id) {
            Object::File(file) => Ok(&mut file.meta),
            Object::Pipe(pipe) => Ok(&mut pipe.meta),
            Object::Foreign
            | Object::Socket(_)
            | Object::Eventfd { .. }
            | Object::Epoll { .. }
            | Object::Timerfd { .. }
            | Object::Signalfd { .. }
            | Object::Userfault { .. } => not_modelled("owner and mode of what has no file"),
        }
    }

    pub(super) fn set_mode(&mut self, id: &ObjectId, mode: u32) -> Call<i64> {
        if matches!(self.object(id), Object::File(file) if file.seals & F_SEAL_EXEC != 0) {
            // Only a change of the bits for execution is refused; which those are now is not always known.
            return fails(EPERM);
        }
        self.meta_mut(id)?.mode = Some(mode & 0o7777);
        Ok(0)
    }

    fn file_mut(&mut self, id: &ObjectId) -> Call<&mut File> {
        match self.object_mut(id) {
            Object::File(file) if file.kind == FileKind::Directory => fails(EISDIR),
            Object::File(file) => Ok(file),
            _ => fails(EINVAL),
        }
    }

    pub(super) fn truncate(&mut self, desc: DescId, len: u64) -> Call<i64> {
        let description = self.description(desc).clone();
        if !description.writes() {
            return fails(EINVAL);
        }
        let file = self.file_mut(&description.object)?;
        let old = file.size;
        let shrinks = old.is_none_or(|size| len < size);
        let grows = old.is_none_or(|size| len > size);
        if shrinks && file.seals & F_SEAL_SHRINK != 0 || grows && file.seals & F_SEAL_GROW != 0 {
            return fails(EPERM);
        }
        file.size = Some(len);
        file.content.remove(len, u64::MAX);
        Ok(0)
    }

    pub(super) fn add_seals(&mut self, desc: DescId, seals: u32) -> Call<i64> {
        let description = self.description(desc).clone();
        if !description.writes() {
            return fails(EPERM);
        }
        if seals & !SEALS != 0 {
            return fails(EINVAL);
        }
        let file = self.file_mut(&description.object)?;
        match file.kind {
            FileKind::Memfd => {}
            // Those of a tmpfs have seals, too, and the first of them is F_SEAL_SEAL (mm/memfd.c).
            FileKind::Regular | FileKind::Host => return not_modelled("seals of a file of a file system"),
            FileKind::Directory => return fails(EINVAL),
        }
        if file.seals & F_SEAL_SEAL != 0 {
            return fails(EPERM);
        }
        if seals & F_SEAL_WRITE != 0 && file.seals & F_SEAL_WRITE == 0 && file.writers > 0 {
            return fails(EBUSY);
        }
        file.seals |= seals;
        if seals & F_SEAL_EXEC != 0 {
            file.seals |= F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE;
        }
        Ok(0)
    }

    /// `write(2)` into a file: of a setting, or of bytes at the position.
    pub(super) fn write_file(&mut self, tid: u32, desc: DescId, data: &[u8]) -> Call<i64> {
        let description = self.description(desc).clone();
        let ObjectId::Made(_) = description.object else {
            let own = match &description.object {
                ObjectId::Host(path) => path.strip_prefix(b"/proc/").map(<[u8]>::to_vec),
                ObjectId::Made(_) => None,
            };
            return match own {
                Some(rest) if rest.starts_with(b"sys/") => {
                    let path = [b"/proc/", rest.as_slice()].concat();
                    let written = self.set_variable(tid, &path, description.position, data)?;
                    self.description_mut(desc).position += data.len() as u64;
                    Ok(written)
                }
                Some(rest) => self.write_setting(tid, &rest, data),
                None => not_modelled("a write into a file of the host"),
            };
        };
        let len = data.len() as u64;
        if len == 0 {
            return Ok(0);
        }
        let position = self.description(desc).position;
        let file = self.file_mut(&description.object)?;
        let at = if description.flags & O_APPEND != 0 { file.size.unwrap_or(0) } else { position };
        let Some(end) = at.checked_add(len) else { return fails(EINVAL) };
        let grows = file.size.is_none_or(|size| end > size);
        if file.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) != 0 || grows && file.seals & F_SEAL_GROW != 0 {
            return fails(EPERM);
        }
        file.content.insert(at, end, Source::bytes(data));
        file.size = file.size.map(|size| size.max(end));
        self.description_mut(desc).position = end;
        Ok(len as i64)
    }

    /// What a file holds in a range: what was put in, or it is the file's own.
    pub(super) fn content_of(&self, id: &ObjectId, from: u64, to: u64) -> Runs {
        let mut runs = Runs::default();
        let Some(Object::File(file)) = self.objects.get(id).map(|object| &**object) else { return runs };
        let own = if file.is_made() { Source::Zero } else { Source::File(id.clone(), from) };
        runs.insert(0, to - from, own);
        runs.place(0, &file.content.slice(from, to));
        runs
    }

    pub(super) fn read_file(
        &mut self,
        tid: u32,
        desc: DescId,
        into: &[(u64, u64)],
        offset: Option<u64>,
    ) -> Call<i64> {
        let description = self.description(desc).clone();
        let id = description.object.clone();
        let (size, is_directory) = match self.object(&id) {
            Object::File(file) => (file.size, file.kind == FileKind::Directory),
            _ => return fails(EINVAL),
        };
        if is_directory {
            return fails(EISDIR);
        }
        let start = offset.unwrap_or(description.position);
        let wanted = into.iter().fold(0u64, |sum, (_, len)| sum.saturating_add(*len));
        let most = size.map_or(u64::MAX, |size| size.saturating_sub(start));
        let mut left = wanted.min(most);
        let given = left;
        if start.checked_add(given).is_none_or(|end| end > i64::MAX as u64) {
            return fails(EINVAL);
        }
        self.read(Thing::Object(id.clone()));
        self.note(Thing::Bytes(id.clone(), start, start + given), Access::Read);
        let mut at = start;
        for (address, len) in into {
            let len = (*len).min(left);
            let content = self.content_of(&id, at, at + len);
            for (from, to, source) in content.iter() {
                self.put(tid, address + from, to - from, source)?;
            }
            at += len;
            left -= len;
        }
        if offset.is_none() {
            self.description_mut(desc).position = start + given;
        }
        gives(given as i64, wanted as i64)
    }

    /// `sendfile(2)` between two files.
    pub(super) fn copy(&mut self, tid: u32, desc: DescId, from: Fd, len: u64) -> Call<i64> {
        let source = self.descriptor(tid, from)?;
        self.read(Thing::Description(source));
        let (out, input) = (self.description(desc).clone(), self.description(source).clone());
        if !out.writes() || !input.reads() {
            return fails(EBADF);
        }
        // Of a pipe it is not asked (`do_sendfile`).
        if out.flags & O_APPEND != 0 && !matches!(self.object(&out.object), Object::Pipe(_)) {
            return fails(EINVAL);
        }
        let size = match self.object(&input.object) {
            Object::File(file) if file.kind != FileKind::Directory => file.size,
            _ => return not_modelled("a copy from what is no file"),
        };
        if !matches!(self.object(&out.object), Object::File(_)) {
            return not_modelled("a copy into what is no file");
        }
        let wanted = len;
        let len = len.min(size.map_or(u64::MAX, |size| size.saturating_sub(input.position)));
        if len == 0 {
            return gives(0, wanted as i64);
        }
        let (Some(end), Some(input_end)) = (out.position.checked_add(len), input.position.checked_add(len))
        else {
            return fails(EINVAL);
        };
        self.read(Thing::Object(input.object.clone()));
        self.note(Thing::Bytes(input.object.clone(), input.position, input_end), Access::Read);
        let content = self.content_of(&input.object, input.position, input_end);
        if matches!(out.object, ObjectId::Host(_)) {
            return not_modelled("a copy into a file of the host");
        }
        let file = self.file_mut(&out.object)?;
        let grows = file.size.is_none_or(|size| end > size);
        if file.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) != 0 || grows && file.seals & F_SEAL_GROW != 0 {
            return fails(EPERM);
        }
        file.content.place(out.position, &content);
        file.size = file.size.map(|size| size.max(end));
        file.meta.times = None;
        self.description_mut(desc).position = end;
        self.description_mut(source).position = input_end;
        gives(len as i64, wanted as i64)
    }

    /// `fchdir(2)`.
    pub(super) fn enter(&mut self, tid: u32, desc: DescId) -> Call<i64> {
        let description = self.description(desc).clone();
        match self.object(&description.object) {
            Object::File(file) if !file.is_made() || file.kind == FileKind::Directory => {}
            _ => return fails(ENOTDIR),
        }
        let Some(path) = description.path else { return fails(EACCES) };
        let id = self.thread(tid).directory;
        self.write(Thing::Directory(id));
        let directory = Arc::make_mut(self.directories.entry(id).or_default());
        directory.working = Some(path);
        directory.object = Some(description.object);
        Ok(0)
    }
}
