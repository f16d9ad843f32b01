//! The inventory, and the smaller images that belong to no single task.
//!
//! The inverse of [`super::super::shared`] and of the readers of memfds and ghost files.

use prost::Message;

use super::super::magic;
use super::super::model::{
    CgroupDirectory, CgroupHierarchy, CgroupPerms, CgroupProperty, GhostFile, Image, Inventory, Model,
};
use super::super::proto::{
    self, CgControllerEntry, CgMemberEntry, CgSetEntry, CgroupDirEntry, CgroupEntry, CgroupPropEntry,
    FileLockEntry, GhostChunkEntry, GhostFileEntry, InventoryEntry, MemfdInodeEntry, PluginsEntry,
    RemapFilePathEntry, SeccompEntry, SeccompFilterEntry, TimensEntry, Timespec, Timeval,
};
use super::{Contents, Entries, Out, WriteError, by_entry, task};

/// What the directory is, and where CRIU lived.
pub(super) fn write_inventory<C: Contents + ?Sized>(
    out: &Out<'_, C>,
    inventory: &Inventory,
) -> Result<(), WriteError> {
    if inventory.img_version != 2 {
        let what = format!("images of version {}, not 2 (1.1),", inventory.img_version);
        return Err(WriteError::unsupported(Image::Inventory, what));
    }
    let plugins = inventory.plugins.iter().map(|name| name.clone().into_bytes()).collect();
    let mut entries = Entries::new(&magic::INVENTORY);
    entries.push(&InventoryEntry {
        img_version: inventory.img_version,
        fdinfo_per_id: Some(true),
        root_ids: inventory.root_ids.as_ref().map(task::kobj_ids),
        ns_per_id: Some(true),
        root_cg_set: inventory.root_cg_set,
        lsmtype: Some(inventory.lsm_type),
        dump_uptime: None,
        pre_dump_mode: None,
        tcp_close: inventory.tcp_close.then_some(true),
        // NETWORK_LOCK_IPTABLES, CRIU's default, and what it takes a missing one for. It matters where there
        // are connections.
        network_lock_method: Some(0),
        // Without it CRIU takes every plugin that it has to be needed.
        plugins_entry: Some(PluginsEntry { plugins }),
        dump_criu_run_id: inventory.dump_criu_run_id.clone().map(String::into_bytes),
        allow_uprobes: None,
        compress: None,
        compress_block_size: None,
    });
    out.write(Image::Inventory, &entries)
}

/// Memfds, remaps, ghost files, cgroups, locks, filters, clocks. An image without entries is not written, but for that of
/// the filters, which CRIU always writes.
pub(super) fn write_shared<C: Contents + ?Sized>(out: &Out<'_, C>, model: &Model) -> Result<(), WriteError> {
    write_memfds(out, model)?;
    if !model.remaps.is_empty() {
        let mut entries = Entries::new(&magic::REMAP_FPATH);
        for remap in by_entry(&model.remaps, |remap| remap.origin) {
            let (orig_id, remap_id) = (remap.orig_id, remap.remap_id);
            entries.push(&RemapFilePathEntry { orig_id, remap_id, remap_type: Some(remap.remap_type) });
        }
        out.write(Image::RemapFpath, &entries)?;
    }
    for ghost in &model.ghosts {
        write_ghost(out, ghost)?;
    }
    if !model.cgroup_sets.is_empty() || !model.cgroup_hierarchies.is_empty() {
        let sets = model.cgroup_sets.iter().map(|set| CgSetEntry {
            id: set.id,
            ctls: set.members.iter().map(|(name, path)| member(name, path)).collect(),
        });
        let mut entries = Entries::new(&magic::CGROUP);
        let controllers = model.cgroup_hierarchies.iter().map(hierarchy).collect();
        entries.push(&CgroupEntry { sets: sets.collect(), controllers });
        out.write(Image::Cgroup, &entries)?;
    }
    if !model.file_locks.is_empty() {
        let mut entries = Entries::new(&magic::FILELOCKS);
        for lock in &model.file_locks {
            entries.push(&FileLockEntry {
                flag: lock.flag,
                r#type: lock.kind,
                pid: lock.pid,
                fd: lock.fd,
                start: lock.start,
                len: lock.len,
            });
        }
        out.write(Image::Filelocks, &entries)?;
    }
    let filters = model.seccomp_filters.iter().map(|filter| SeccompFilterEntry {
        filter: filter.program.to_vec(),
        prev: filter.next,
        flags: (filter.flags != 0).then_some(filter.flags),
    });
    let mut entries = Entries::new(&magic::SECCOMP);
    entries.push(&SeccompEntry { seccomp_filters: filters.collect() });
    out.write(Image::Seccomp, &entries)?;
    for (id, clocks) in &model.clocks {
        let time = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
        let mut entries = Entries::new(&magic::CLOCKS);
        entries.push(&TimensEntry { monotonic: time(clocks.monotonic), boottime: time(clocks.boottime) });
        out.write(Image::Timens(*id), &entries)?;
    }
    Ok(())
}

fn member(name: &str, path: &str) -> CgMemberEntry {
    CgMemberEntry { name: name.as_bytes().to_vec(), path: path.as_bytes().to_vec(), cgns_prefix: None }
}

fn hierarchy(hierarchy: &CgroupHierarchy) -> CgControllerEntry {
    // Those below come behind: from the last on, each is complete when it goes into the one that it is in.
    let mut made: Vec<Option<CgroupDirEntry>> =
        hierarchy.directories.iter().map(|d| Some(directory(d))).collect();
    let mut heads = Vec::new();
    for (index, directory) in hierarchy.directories.iter().enumerate().rev() {
        let Some(mut entry) = made[index].take() else { continue };
        entry.children.reverse();
        let body = entry.encode_to_vec();
        match directory.parent.and_then(|parent| made.get_mut(parent as usize)) {
            Some(Some(above)) => above.children.push(body),
            Some(None) | None => heads.push(body),
        }
    }
    heads.reverse();
    CgControllerEntry {
        cnames: hierarchy.controllers.iter().map(|name| name.as_bytes().to_vec()).collect(),
        dirs: heads,
        is_threaded: None,
    }
}

fn directory(directory: &CgroupDirectory) -> CgroupDirEntry {
    let perms = |perms: Option<CgroupPerms>| {
        perms.map(|perms| proto::CgroupPerms { mode: perms.mode, uid: perms.uid, gid: perms.gid })
    };
    let property = |property: &CgroupProperty| CgroupPropEntry {
        name: property.name.as_bytes().to_vec(),
        value: property.value.as_bytes().to_vec(),
        perms: perms(property.perms),
    };
    CgroupDirEntry {
        dir_name: directory.name.as_bytes().to_vec(),
        children: Vec::new(),
        properties: directory.properties.iter().map(property).collect(),
        dir_perms: perms(directory.perms),
    }
}

fn write_memfds<C: Contents + ?Sized>(out: &Out<'_, C>, model: &Model) -> Result<(), WriteError> {
    if model.memfds.is_empty() {
        return Ok(());
    }
    let mut entries = Entries::new(&magic::MEMFD);
    for inode in by_entry(&model.memfds, |inode| inode.origin) {
        let Ok(shmid) = u32::try_from(inode.shmid) else {
            return Err(WriteError::unsupported(Image::Memfd, format!("shared memory {:#x}", inode.shmid)));
        };
        entries.push(&MemfdInodeEntry {
            name: inode.name.clone().into_bytes(),
            uid: inode.uid,
            gid: inode.gid,
            size: inode.size_bytes,
            shmid,
            seals: inode.seals,
            inode_id: inode.inode_id,
            hugetlb_flag: inode.hugetlb_flag,
            mode: inode.mode,
        });
    }
    out.write(Image::Memfd, &entries)
}

/// An unlinked file: all its bytes, or its stretches one by one where there are holes.
fn write_ghost<C: Contents + ?Sized>(out: &Out<'_, C>, ghost: &GhostFile) -> Result<(), WriteError> {
    let image = Image::GhostFile(ghost.id);
    let kind = ghost.mode & libc::S_IFMT;
    if !matches!(kind, libc::S_IFREG | libc::S_IFDIR | libc::S_IFIFO) {
        // Number of the device and target of the link are not in the model.
        return Err(WriteError::unsupported(image, format!("an unlinked file of type {kind:#o}")));
    }
    let held: u64 = ghost.pieces.iter().map(|piece| piece.data.len_bytes).sum();
    let chunks = kind == libc::S_IFREG && (held != ghost.size_bytes || ghost.pieces.len() > 1);
    let time = |(sec, ns): (i64, u64)| Timeval { tv_sec: sec as u64, tv_usec: ns / 1000 };
    let mut entries = Entries::new(&magic::GHOST_FILE);
    entries.push(&GhostFileEntry {
        uid: ghost.uid,
        gid: ghost.gid,
        mode: ghost.mode,
        dev: None,
        ino: None,
        rdev: None,
        atim: ghost.times.map(|(atime, _)| time(atime)),
        mtim: ghost.times.map(|(_, mtime)| time(mtime)),
        chunks: chunks.then_some(true),
        size: chunks.then_some(ghost.size_bytes),
        symlnk_target: None,
    });
    for piece in &ghost.pieces {
        let data = out.contents.bytes(&piece.data)?;
        if chunks {
            entries.push(&GhostChunkEntry { len: data.len() as u64, off: piece.at });
        }
        entries.raw(&data);
    }
    out.write(image, &entries)
}
