//! Reads a whole directory: lists it, reads every image, and holds the images against each other.
//!
//! Turns a path into a [`Model`] or all errors. It knows which images there are and in what order
//! they are understood (the inventory first: it says in which version the rest is written); what
//! each says is the business of the readers beside it.
//!
//! Example: in a directory whose `fdinfo-2.img` names an id that `files.img` lacks, both images are
//! read without an error, and the check at the end reports the id with the entry that names it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::error::{Errors, ImageError, ReadErrors};
use super::file::{Bytes, Entries, Entry, Place, Version, file_len, open_directory, read_file};
use super::known::Known;
use super::magic::{self, Kind, Layout, Use};
use super::model::{
    Alive, Image, Inventory, MemfdInode, Model, Ofd, OfdKind, Shm, Table, Task, UnreadImage, Upwards, VmaKind,
};
use super::parents::{self, Chain};
use super::proto::{Described, InventoryEntry};
use super::{core, files, pagemap, seccomp, shared, task};

/// The directory that is read, or one before it of which pages are read, and the version of the images.
#[derive(Clone, Copy)]
pub(crate) struct Dir<'a> {
    pub(crate) at: Place<'a>,
    /// How many `parent`s lead to it.
    pub(crate) depth: u32,
    version: Version,
    parents: &'a Chain,
    /// What its images were found to say.
    pub(crate) known: &'a Known,
}

impl<'a> Dir<'a> {
    /// The directory before this one. Its images are of the same version: there is one for all (`img_common_magic`,
    /// `criu/image.c`).
    pub(crate) fn before(&self) -> Option<Dir<'a>> {
        let path = self.parents.dirs.get(self.depth as usize)?;
        Some(Dir { at: Place { path, open: None }, depth: self.depth + 1, ..*self })
    }

    /// Whether it is known that there is no directory before this one.
    pub(crate) fn is_first_dump(&self) -> bool {
        self.parents.is_whole && self.parents.dirs.len() == self.depth as usize
    }

    /// How an image of this directory is named in messages.
    pub(crate) fn shown(&self, image: Image) -> String {
        format!("{}{image}", Upwards(self.depth))
    }

    /// Calls `each` with every entry of an image. The iterator is handed along so that `each` can step
    /// over raw bytes behind the entry. Whether the image is there at all is the result.
    pub(crate) fn for_each(
        &self,
        image: Image,
        kind: &Kind,
        errors: &mut Errors,
        each: impl FnMut(&mut Entries<'_>, &Entry<'_>, &mut Errors) -> Result<(), ImageError>,
    ) -> bool {
        match self.read(image) {
            Ok(Some(bytes)) => {
                self.for_each_of(&bytes, image, kind, errors, each);
                true
            }
            Ok(None) => false,
            Err(e) => {
                errors.push(e);
                true
            }
        }
    }

    /// As [`Dir::for_each`], of an image that has been read.
    pub(crate) fn for_each_of(
        &self,
        bytes: &[u8],
        image: Image,
        kind: &Kind,
        errors: &mut Errors,
        mut each: impl FnMut(&mut Entries<'_>, &Entry<'_>, &mut Errors) -> Result<(), ImageError>,
    ) {
        let name = self.shown(image);
        let walked = Entries::open(&name, bytes, kind, self.version).and_then(|mut entries| {
            while let Some(entry) = entries.next_entry()? {
                each(&mut entries, &entry, errors)?;
            }
            Ok(())
        });
        errors.keep(walked);
    }

    /// The bytes of an image; `None` if it is not there.
    pub(crate) fn read(&self, image: Image) -> Result<Option<Bytes>, ImageError> {
        let name = image.to_string();
        match self.depth {
            // Messages call it as it is called.
            0 => read_file(self.at, &name, &name),
            _ => read_file(self.at, &name, &self.shown(image)),
        }
    }

    /// The only entry of an image that must be there. `why`: who needs it.
    pub(crate) fn read_one<M: Described>(
        &self,
        image: Image,
        kind: &Kind,
        why: &str,
        errors: &mut Errors,
    ) -> Option<M> {
        self.read_optional(image, kind, errors).unwrap_or_else(|| {
            errors.missing_file(image, why);
            None
        })
    }

    /// The only entry of an image: outer `None` if the image is not there, inner if it is bad.
    pub(crate) fn read_optional<M: Described>(
        &self,
        image: Image,
        kind: &Kind,
        errors: &mut Errors,
    ) -> Option<Option<M>> {
        match self.read(image) {
            Ok(Some(bytes)) => Some(self.one_of(&bytes, image, kind, errors)),
            Ok(None) => None,
            Err(e) => {
                errors.push(e);
                Some(None)
            }
        }
    }

    /// The bytes of an image that must be there. `why`: who needs it.
    pub(crate) fn read_needed(&self, image: Image, why: &str, errors: &mut Errors) -> Option<Bytes> {
        match self.read(image) {
            Ok(Some(bytes)) => return Some(bytes),
            Ok(None) => errors.missing_file(image, why),
            Err(error) => errors.push(error),
        }
        None
    }

    /// The only entry of an image that has been read.
    pub(crate) fn one_of<M: Described>(
        &self,
        bytes: &[u8],
        image: Image,
        kind: &Kind,
        errors: &mut Errors,
    ) -> Option<M> {
        let (mut found, mut count, before) = (None, 0u32, errors.count());
        self.for_each_of(bytes, image, kind, errors, |_, entry, errors| {
            count = count.saturating_add(1);
            if count == 1 {
                found = errors.decode(entry);
            }
            Ok(())
        });
        if count != 1 && errors.count() == before {
            errors.inconsistent(image, None, format!("{count} entries, 1 expected"));
        }
        found
    }

    /// The body of the only entry of an image that has been read; `None`: it is another kind of image, or not one entry.
    pub(crate) fn only_body<'b>(&self, bytes: &'b [u8], kind: &Kind) -> Option<&'b [u8]> {
        let mut entries = Entries::open("", bytes, kind, self.version).ok()?;
        let entry = entries.next_entry().ok()??;
        matches!(entries.next_entry(), Ok(None)).then_some(entry.body)
    }

    /// The length of an image file.
    pub(crate) fn len(&self, image: Image) -> Result<Option<u64>, ImageError> {
        file_len(self.at, &image.to_string(), &self.shown(image))
    }
}

/// Reads the images in `dir`.
///
/// # Errors
/// Everything that is wrong with them: see [`ImageError`].
pub fn read_model(dir: &Path) -> Result<Model, ReadErrors> {
    let path = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let mut errors = Errors::new();
    let model = read_dir(&path, &mut errors);
    errors.finish(&path, model)
}

/// The directories of the dumps before the one in `dir`, the nearest first, as absolute paths without links.
///
/// # Errors
/// `parent` of one of them leads nowhere, or back.
pub fn parents(dir: &Path) -> Result<Vec<PathBuf>, ReadErrors> {
    let mut errors = Errors::new();
    let chain = parents::find(dir, &mut errors);
    errors.finish(dir, Some(chain.dirs))
}

/// The highest pid that a restore of the images in `dir` needs, as far as their process tree can be read.
pub fn highest_pid(dir: &Path) -> Option<u32> {
    let open = open_directory(dir).ok()?;
    let at = Place { path: dir, open: Some(&open) };
    let (parents, known) = (Chain::default(), Known::default());
    // The inventory says which version it is; an image of the other one has no magic that fits.
    [Version::V1_1, Version::V1].into_iter().find_map(|version| {
        task::highest_pid(&Dir { at, depth: 0, version, parents: &parents, known: &known })
    })
}

fn read_dir(path: &Path, errors: &mut Errors) -> Option<Model> {
    // It holds the keys of an encrypted dump; nothing else of that can be read.
    if path.join("cipher.img").exists() {
        errors.unsupported("cipher.img", None, "the images are encrypted");
        return None;
    }
    let open = errors.keep(open_directory(path))?;
    let at = Place { path, open: Some(&open) };
    let mut head_errors = Errors::new();
    let parents = parents::find(path, &mut head_errors);
    let Some(inventory) = read_inventory(at, &mut head_errors) else {
        list(path, errors);
        errors.append(head_errors);
        return None;
    };
    let version = if inventory.img_version == 1 { Version::V1 } else { Version::V1_1 };
    let known = Known::default();
    let dir = Dir { at, depth: 0, version, parents: &parents, known: &known };

    let pstree = task::read_pstree(&dir, &mut head_errors);
    let mut shared_errors = Errors::new();
    let mut list_and_read = || {
        let names = list(path, errors)?;
        let shared = read_shared(&dir, &names, &mut shared_errors);
        Some((names, shared))
    };
    let (listed, (tasks, task_errors)) = rayon::join(&mut list_and_read, || task::read_tasks(&dir, &pstree));
    errors.append(head_errors);
    errors.append(task_errors);
    errors.append(shared_errors);
    let (names, shared) = listed?;

    let mut model = Model {
        dir: path.to_owned(),
        parents: parents.dirs.clone(),
        inventory,
        tasks,
        ofds: shared.ofds,
        pipe_data: shared.pipe_data,
        fifo_data: shared.fifo_data,
        packets: shared.packets,
        shm: shared.shm,
        memfds: shared.memfds,
        remaps: shared.remaps,
        ghosts: shared.ghosts,
        cgroup_sets: shared.cgroups.0,
        cgroup_hierarchies: shared.cgroups.1,
        file_locks: shared.file_locks,
        seccomp_filters: shared.seccomp_filters,
        clocks: shared.clocks,
        ipc: shared.ipc,
        unread: shared.unread,
    };
    let mut memfd_errors = Errors::new();
    resolve_memfd_mappings(&mut model, &mut memfd_errors);
    super::huge::complete_attached(&mut model);
    let (strays, references) = rayon::join(
        || check_strays(&names, &pstree, &model),
        || {
            let mut errors = check_references(&model);
            seccomp::check_threads(&model, &mut errors);
            errors
        },
    );
    errors.append(strays);
    errors.append(memfd_errors);
    errors.append(references);
    super::arrange(&mut model);
    Some(model)
}

/// What is read beside the tasks.
struct Shared {
    ofds: Vec<Ofd>,
    pipe_data: Vec<super::model::PipeData>,
    fifo_data: Vec<super::model::PipeData>,
    packets: Vec<super::model::Packet>,
    shm: Vec<Shm>,
    memfds: Vec<MemfdInode>,
    remaps: Vec<super::model::Remap>,
    ghosts: Vec<super::model::GhostFile>,
    cgroups: (Vec<super::model::CgroupSet>, Vec<super::model::CgroupHierarchy>),
    file_locks: Vec<super::model::FileLock>,
    seccomp_filters: Vec<super::model::SeccompFilter>,
    clocks: BTreeMap<u32, super::model::Clocks>,
    ipc: BTreeMap<u32, super::ipc::IpcNs>,
    unread: Vec<UnreadImage>,
}

fn read_shared(dir: &Dir<'_>, names: &Names, errors: &mut Errors) -> Shared {
    let mut ofds = files::read_ofds(dir, errors);
    files::epoll::read_targets(dir, &mut ofds, errors);
    let fifo_data = files::fifo::read_fifo_data(dir, errors);
    let pipe_data = files::pipe::read_pipe_data(dir, errors);
    let packets = files::unix::read_packets(dir, errors);
    let memfds = files::memfd::read_inodes(dir, errors);
    let shm = names
        .of(&magic::PAGEMAP_SHMEM)
        .filter_map(|shmid| {
            let pages =
                pagemap::read_pagemap(dir, Image::PagemapShmem(shmid), &magic::PAGEMAP_SHMEM, errors)?;
            Some(Shm { shmid, pages })
        })
        .collect();
    let ghosts = names
        .of(&magic::GHOST_FILE)
        .filter_map(|id| files::ghost::read_ghost(dir, u32::try_from(id).ok()?, errors))
        .collect();
    Shared {
        ofds,
        pipe_data,
        fifo_data,
        packets,
        shm,
        memfds,
        remaps: shared::read_remaps(dir, errors),
        ghosts,
        cgroups: shared::read_cgroups(dir, errors),
        file_locks: shared::read_file_locks(dir, errors),
        seccomp_filters: seccomp::read_filters(dir, errors),
        clocks: names
            .of(&magic::CLOCKS)
            .filter_map(|id| {
                let id = u32::try_from(id).ok()?;
                Some((id, shared::read_clocks(dir, id, errors)?))
            })
            .collect(),
        ipc: names
            .of(&magic::IPC_VAR)
            .filter_map(|id| {
                let id = u32::try_from(id).ok()?;
                Some((id, super::ipc::read_ipc(dir, id, errors)?))
            })
            .collect(),
        unread: read_unread(dir, names, errors),
    }
}

/// The images of a directory: by name, with their kind and the number in the name.
struct Names(BTreeMap<String, (&'static Kind, u64)>);

impl Names {
    /// The numbers of the images of a kind, ascending.
    fn of(&self, kind: &'static Kind) -> impl Iterator<Item = u64> {
        let numbers: BTreeSet<u64> =
            self.0.values().filter(|(of, _)| std::ptr::eq(*of, kind)).map(|(_, number)| *number).collect();
        numbers.into_iter()
    }
}

/// Lists the directory. Files that do not end in `.img` are no images: logs, statistics of the
/// dump, the cache of inode paths, and what container engines put beside them.
fn list(path: &Path, errors: &mut Errors) -> Option<Names> {
    let io = |source| ImageError::Io { file: path.display().to_string(), source };
    let entries = errors.keep(std::fs::read_dir(path).map_err(io))?;
    let mut names = BTreeMap::new();
    for entry in entries {
        let Some(entry) = errors.keep(entry.map_err(io)) else {
            continue;
        };
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            // CRIU's names are ASCII.
            if name.as_encoded_bytes().ends_with(b".img") {
                errors.push(ImageError::UnknownImage { file: name.to_string_lossy().into_owned() });
            }
            continue;
        };
        if !name.ends_with(".img") {
            continue;
        }
        match magic::recognise(name) {
            Some(kind) => {
                names.insert(name.to_owned(), kind);
            }
            None => errors.push(ImageError::UnknownImage { file: name.to_owned() }),
        }
    }
    Some(Names(names))
}

fn read_inventory(at: Place<'_>, errors: &mut Errors) -> Option<Inventory> {
    // The inventory has no common magic, so any version opens it.
    let (parents, known) = (Chain::default(), Known::default());
    let dir = Dir { at, depth: 0, version: Version::V1_1, parents: &parents, known: &known };
    let (image, entry) = (Image::Inventory, 0);
    let e: InventoryEntry = dir.read_one(image, &magic::INVENTORY, "an image directory has one", errors)?;
    // Since CRIU 4.3, which also gives such images a version of their own.
    if e.compress.unwrap_or(0) != 0 || e.compress_block_size.unwrap_or(0) != 0 {
        errors.unsupported(image, entry, "the pages are compressed");
        return None;
    }
    if !matches!(e.img_version, 1 | 2) {
        errors.unsupported(
            image,
            entry,
            format!("images of version {}; 1 and 2 (1.1) are known", e.img_version),
        );
        return None;
    }
    if e.fdinfo_per_id != Some(true) {
        errors.unsupported(image, entry, "descriptor tables are stored by pid: CRIU before 0.8");
    }
    if e.allow_uprobes == Some(true) {
        errors.unsupported(image, entry, "dumped with --allow-uprobes");
    }
    let lsm_type = e.lsmtype.unwrap_or(0);
    if lsm_type > 2 {
        errors.unsupported(image, entry, format!("security module {lsm_type}"));
    }
    if e.root_cg_set == Some(0) {
        errors.inconsistent(image, entry, "root_cg_set is 0");
    }
    // dump_uptime and pre_dump_mode matter to the next incremental dump only, network_lock_method
    // only where connections are dumped.
    let fake = Entry { file: "inventory.img", index: 0, body: &[] };
    let mut text = |bytes, what| errors.text(bytes, &fake, what);
    let plugins = e.plugins_entry.unwrap_or_default().plugins;
    Some(Inventory {
        img_version: e.img_version,
        dump_criu_run_id: e.dump_criu_run_id.and_then(|id| text(id, "dump_criu_run_id")),
        root_cg_set: e.root_cg_set,
        root_ids: e.root_ids.map(core::kobj_ids),
        lsm_type,
        tcp_close: e.tcp_close.unwrap_or(false),
        plugins: plugins.into_iter().filter_map(|name| text(name, "plugin name")).collect(),
    })
}

/// The images that are known and not read, where they carry anything.
fn read_unread(dir: &Dir<'_>, names: &Names, errors: &mut Errors) -> Vec<UnreadImage> {
    let mut unread = Vec::new();
    for (name, (kind, _)) in &names.0 {
        let Use::Unread(what, layout) = kind.usage else {
            continue;
        };
        let Some(found) = errors.keep(count_entries(dir, name, kind, layout)) else {
            continue;
        };
        if let Some(entries) = found {
            unread.push(UnreadImage { file: name.clone(), what, entries });
        }
    }
    unread
}

/// How many entries an unread image has: outer `None` if it says nothing, inner if they cannot be
/// counted. An entry without a byte, such as that of a seccomp image without filters, says nothing.
fn count_entries(
    dir: &Dir<'_>,
    name: &str,
    kind: &Kind,
    layout: Layout,
) -> Result<Option<Option<u64>>, ImageError> {
    if layout == Layout::Raw {
        return Ok(file_len(dir.at, name, name)?.filter(|len| *len > 0).map(|_| None));
    }
    let bytes = read_file(dir.at, name, name)?.unwrap_or(Bytes::Read(Vec::new()));
    let mut entries = Entries::open(name, &bytes, kind, dir.version)?;
    let mut count = 0u64;
    while let Some(entry) = entries.next_entry()? {
        if layout == Layout::Mixed {
            return Ok(Some(None));
        }
        count += u64::from(!entry.body.is_empty());
    }
    Ok((count > 0).then_some(Some(count)))
}

/// Images of tasks, tables and pages that nothing refers to: of another dump into the same
/// directory, or of a task that the process tree has lost.
fn check_strays(names: &Names, pstree: &[task::Node], model: &Model) -> Errors {
    let mut errors = Errors::new();
    let pids: BTreeSet<u64> = pstree.iter().map(|node| u64::from(node.pid.0)).collect();
    let alive = || model.tasks.iter().filter_map(Task::alive);
    let tids: BTreeSet<u64> =
        alive().flat_map(|a| &a.threads).map(|thread| u64::from(thread.tid.0)).collect();
    let tables: BTreeSet<u64> = alive().map(|a| u64::from(a.ids.files)).collect();
    let pages: BTreeSet<u64> = alive()
        .map(|a| &a.mm.pages)
        .chain(model.shm.iter().map(|shm| &shm.pages))
        .map(|p| u64::from(p.pages_id))
        .collect();
    // Where something could not be read, what it refers to is not known.
    let complete =
        model.tasks.len() == pstree.len() && model.shm.len() == names.of(&magic::PAGEMAP_SHMEM).count();

    for (name, (kind, number)) in &names.0 {
        let is = |of: &'static Kind| std::ptr::eq(*kind, of);
        let known = if is(&magic::CORE) {
            !complete || pids.contains(number) || tids.contains(number)
        } else if is(&magic::MM) || is(&magic::IDS) || is(&magic::FS) || is(&magic::PAGEMAP) {
            pids.contains(number)
        } else if is(&magic::FDINFO) {
            !complete || tables.contains(number)
        } else if is(&magic::PAGES) {
            !complete || pages.contains(number)
        } else {
            true
        };
        if !known {
            errors.inconsistent(name, None, "belongs to no task of pstree.img");
        }
    }
    errors
}

/// Tells shared anonymous memory from memfds.
///
/// CRIU dumps the mapping of any file of the kernel's own tmpfs as that of a memfd. The file behind
/// shared anonymous memory (`mmap` with `MAP_SHARED | MAP_ANONYMOUS`) is named `/dev/zero` there.
/// A memfd can have that name as well, but somebody has to have it open, or have had: a memfd that
/// was created as `/dev/zero`, mapped and closed is indistinguishable from anonymous memory, in the
/// images and for the task itself. The same goes for memory of huge pages, whose file has another name.
fn resolve_memfd_mappings(model: &mut Model, errors: &mut Errors) {
    let open: BTreeSet<u32> = model
        .tables()
        .flatten()
        .map(|fd| fd.ofd_id)
        .chain(model.packets.iter().flat_map(|packet| packet.rights.iter().copied()))
        .collect();
    let mut inodes_open = BTreeSet::new();
    let mut inode_of = BTreeMap::new();
    for ofd in &model.ofds {
        if let OfdKind::Memfd(file) = &ofd.kind {
            inode_of.insert(ofd.id, file.inode_id);
            if open.contains(&ofd.id) {
                inodes_open.insert(file.inode_id);
            }
        }
    }
    let inodes: BTreeMap<u64, &MemfdInode> =
        model.memfds.iter().map(|inode| (inode.inode_id, inode)).collect();

    for task in &mut model.tasks {
        let Some(alive) = task.alive_mut() else {
            continue;
        };
        for vma in &mut alive.mm.vmas {
            let VmaKind::Memfd { ofd_id, inode_id, offset_bytes, .. } = &mut vma.kind else {
                continue;
            };
            let Some(inode) = inode_of.get(ofd_id).and_then(|id| inodes.get(id)) else {
                errors.inconsistent(
                    vma.origin.image,
                    vma.origin.entry,
                    format!("mapping of memfd {ofd_id:#x}, which files.img or memfd.img lacks"),
                );
                continue;
            };
            *inode_id = inode.inode_id;
            let size = super::huge::of_memfd(inode.hugetlb_flag);
            if vma.flags & super::huge::MAP_HUGE == super::huge::MAP_HUGETLB {
                vma.flags |= size;
            }
            let is_shared = vma.status & super::vma::FILE_SHARED != 0;
            let name = if size != 0 { super::huge::ANONYMOUS } else { "/dev/zero" };
            if is_shared && inode.name == name && !inodes_open.contains(&inode.inode_id) {
                vma.kind = VmaKind::AnonShared { shmid: inode.shmid, offset_bytes: *offset_bytes };
            }
        }
    }
}

/// That every id that an image names is there.
fn check_references(model: &Model) -> Errors {
    let mut errors = Errors::new();
    let kinds: BTreeMap<u32, &OfdKind> = model.ofds.iter().map(|ofd| (ofd.id, &ofd.kind)).collect();
    let inodes: BTreeSet<u64> = model.memfds.iter().map(|inode| inode.inode_id).collect();
    for ofd in &model.ofds {
        if let OfdKind::Memfd(file) = &ofd.kind
            && !inodes.contains(&file.inode_id)
        {
            let reason = format!("memfd inode {:#x} is not in memfd.img", file.inode_id);
            errors.inconsistent(ofd.origin.image, ofd.origin.entry, reason);
        }
    }
    let is_sound = |table: &&Table| table.iter().all(|fd| kinds.contains_key(&fd.ofd_id));
    let sound: BTreeSet<usize> = model.tables().filter(is_sound).map(Table::identity).collect();
    let of_task = |alive: &Alive| check_task_references(alive, &kinds, sound.contains(&alive.fds.identity()));
    let tasks: Vec<Errors> = model.tasks.par_iter().filter_map(Task::alive).map(of_task).collect();
    tasks.into_iter().for_each(|of_task| errors.append(of_task));
    let (mut pipes, mut fifos) = (BTreeSet::new(), BTreeSet::new());
    for ofd in &model.ofds {
        match &ofd.kind {
            OfdKind::Pipe(pipe) => {
                pipes.insert(pipe.pipe_id);
            }
            OfdKind::Fifo(fifo) => {
                fifos.insert(fifo.pipe_id);
                if !matches!(kinds.get(&fifo.reg_id), Some(OfdKind::Reg(_))) {
                    let reason =
                        format!("the path of a FIFO is {:#x}, which is no path of files.img", fifo.reg_id);
                    errors.inconsistent(ofd.origin.image, ofd.origin.entry, reason);
                }
            }
            _ => {}
        }
    }
    let strays = model.pipe_data.iter().filter(|data| !pipes.contains(&data.pipe_id));
    for data in strays.chain(model.fifo_data.iter().filter(|data| !fifos.contains(&data.pipe_id))) {
        let reason = format!("data of pipe {:#x}, which files.img lacks", data.pipe_id);
        errors.inconsistent(data.origin.image, data.origin.entry, reason);
    }
    for packet in &model.packets {
        if !kinds.contains_key(&packet.id_for) {
            let reason = format!("a packet for {:#x}, which files.img lacks", packet.id_for);
            errors.inconsistent(packet.origin.image, packet.origin.entry, reason);
        }
        for id in packet.rights.iter().filter(|id| !kinds.contains_key(id)) {
            let reason = format!("a descriptor in flight is {id:#x}, which files.img lacks");
            errors.inconsistent(packet.origin.image, packet.origin.entry, reason);
        }
    }
    for remap in model.remaps.iter().filter(|remap| !kinds.contains_key(&remap.orig_id)) {
        // A remap of type procfs (2) names a path, whose file may be one of the old images.
        let reason = format!("remaps {:#x}, which files.img lacks", remap.orig_id);
        errors.inconsistent(remap.origin.image, remap.origin.entry, reason);
    }
    let ghosts: BTreeSet<u32> = model.ghosts.iter().map(|ghost| ghost.id).collect();
    for remap in
        model.remaps.iter().filter(|remap| remap.remap_type == 1 && !ghosts.contains(&remap.remap_id))
    {
        let reason =
            format!("remaps {:#x} to ghost file {:x}, which has no image", remap.orig_id, remap.remap_id);
        errors.inconsistent(remap.origin.image, remap.origin.entry, reason);
    }
    errors
}

/// `is_table_sound`: that all descriptions of its table are there is known.
fn check_task_references(alive: &Alive, kinds: &BTreeMap<u32, &OfdKind>, is_table_sound: bool) -> Errors {
    let mut errors = Errors::new();
    let mut need = |origin: super::model::Origin, id: u32, what: &dyn Fn() -> String| {
        if !kinds.contains_key(&id) {
            let reason = format!("{} is {id:#x}, which files.img lacks", what());
            errors.inconsistent(origin.image, origin.entry, reason);
        }
    };
    need(alive.fs.origin, alive.fs.cwd_id, &|| "the working directory".to_owned());
    need(alive.fs.origin, alive.fs.root_id, &|| "the root directory".to_owned());
    need(alive.mm.origin, alive.mm.exe_file_id, &|| "the executable".to_owned());
    for vma in &alive.mm.vmas {
        if let VmaKind::FilePrivate { ofd_id, .. } | VmaKind::FileShared { ofd_id, .. } = vma.kind {
            need(vma.origin, ofd_id, &|| format!("the file mapped at {:#x}", vma.start));
        }
    }
    for fd in alive.fds.iter().filter(|_| !is_table_sound) {
        need(alive.origin_of(fd), fd.ofd_id, &|| format!("the file of descriptor {}", fd.fd));
    }
    errors
}
