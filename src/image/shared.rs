//! The smaller images that belong to no single task: `remap-fpath.img`, `cgroup.img`,
//! `filelocks.img`, `timens-0.img`.
//!
//! Turns each into its list of the model. It does not open the ghost files that remaps name.
//!
//! Example: `remap-fpath.img` with `orig_id 9, remap_id 4, remap_type GHOST` says that the file with
//! id 9 was unlinked and its contents are in `ghost-file-4.img`.

use std::collections::BTreeSet;

use super::error::Errors;
use super::file::Entry;
use super::magic;
use super::model::{
    CgroupDirectory, CgroupHierarchy, CgroupPerms, CgroupProperty, CgroupSet, Clocks, FileLock, Image,
    Origin, Remap,
};
use super::proto::{
    self, CgroupDirEntry, CgroupEntry, FileLockEntry, RemapFilePathEntry, TimensEntry, Timespec,
};
use super::read::Dir;

/// In images of old versions, without a type, this bit of `remap_id` marks a ghost file.
const REMAP_GHOST: u32 = 1 << 31;

/// Cgroups are not nested deeper than this: paths of the kernel (PATH_MAX) would allow more, and nobody has them.
const CGROUP_DEPTH: u32 = 256;

/// Files whose name is gone.
pub(crate) fn read_remaps(dir: &Dir<'_>, errors: &mut Errors) -> Vec<Remap> {
    let image = Image::RemapFpath;
    let mut remaps = Vec::new();
    dir.for_each(image, &magic::REMAP_FPATH, errors, |_, entry, errors| {
        let Some(e) = errors.decode::<RemapFilePathEntry>(entry) else {
            return Ok(());
        };
        let (remap_type, remap_id) = match e.remap_type {
            Some(remap_type) => (remap_type, e.remap_id),
            None if e.remap_id & REMAP_GHOST != 0 => (1, e.remap_id & !REMAP_GHOST),
            None => (0, e.remap_id),
        };
        if remap_type > 2 {
            errors.unsupported(image, entry.index, format!("unknown kind of remap {remap_type}"));
        }
        remaps.push(Remap {
            orig_id: e.orig_id,
            remap_id,
            remap_type,
            origin: Origin { image, entry: entry.index },
        });
        Ok(())
    });
    remaps
}

/// The sets of cgroups that tasks are in, and the hierarchies.
pub(crate) fn read_cgroups(dir: &Dir<'_>, errors: &mut Errors) -> (Vec<CgroupSet>, Vec<CgroupHierarchy>) {
    let image = Image::Cgroup;
    let (mut sets, mut hierarchies, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    dir.for_each(image, &magic::CGROUP, errors, |_, entry, errors| {
        let Some(e) = errors.decode::<CgroupEntry>(entry) else {
            return Ok(());
        };
        for set in e.sets {
            if !seen.insert(set.id) {
                errors.inconsistent(image, entry.index, format!("cgroup set {} a second time", set.id));
            }
            let mut members = Vec::new();
            for member in set.ctls {
                let name = errors.text(member.name, entry, "name of a cgroup controller");
                let path = errors.text(member.path, entry, "path of a cgroup");
                members.extend(name.zip(path));
            }
            sets.push(CgroupSet { id: set.id, members });
        }
        for controller in e.controllers {
            let mut controllers = Vec::new();
            for name in controller.cnames {
                controllers.extend(errors.text(name, entry, "name of a cgroup controller"));
            }
            let directories = read_directories(controller.dirs, entry, errors);
            hierarchies.push(CgroupHierarchy { controllers, directories });
        }
        Ok(())
    });
    (sets, hierarchies)
}

/// The directories of a hierarchy, those above first. An image may nest them as deep as it likes, so nothing here calls
/// itself, and each is dropped when it has been looked into.
fn read_directories(heads: Vec<Vec<u8>>, entry: &Entry<'_>, errors: &mut Errors) -> Vec<CgroupDirectory> {
    let mut directories = Vec::new();
    let mut ahead: Vec<(Option<u32>, u32, Vec<u8>)> =
        heads.into_iter().rev().map(|body| (None, 0, body)).collect();
    while let Some((parent, depth, body)) = ahead.pop() {
        let part = Entry { body: &body, ..*entry };
        let Some(e) = errors.decode::<CgroupDirEntry>(&part) else { continue };
        drop(body);
        let index = directories.len() as u32;
        if depth >= CGROUP_DEPTH {
            let what = format!("cgroups nested {depth} deep");
            errors.unsupported(entry.file, entry.index, what);
            continue;
        }
        ahead.extend(e.children.into_iter().rev().map(|body| (Some(index), depth + 1, body)));
        let Some(name) = errors.text(e.dir_name, entry, "name of a cgroup") else { continue };
        let perms = |perms: Option<proto::CgroupPerms>| {
            perms.map(|perms| CgroupPerms { mode: perms.mode, uid: perms.uid, gid: perms.gid })
        };
        let mut properties = Vec::new();
        for property in e.properties {
            let name = errors.text(property.name, entry, "name of a cgroup property");
            let value = errors.text(property.value, entry, "value of a cgroup property");
            let Some((name, value)) = name.zip(value) else { continue };
            properties.push(CgroupProperty { name, value, perms: perms(property.perms) });
        }
        directories.push(CgroupDirectory { parent, name, perms: perms(e.dir_perms), properties });
    }
    directories
}

/// File locks.
pub(crate) fn read_file_locks(dir: &Dir<'_>, errors: &mut Errors) -> Vec<FileLock> {
    let image = Image::Filelocks;
    let mut locks = Vec::new();
    dir.for_each(image, &magic::FILELOCKS, errors, |_, entry, errors| {
        let Some(e) = errors.decode::<FileLockEntry>(entry) else {
            return Ok(());
        };
        locks.push(FileLock {
            flag: e.flag,
            kind: e.r#type,
            pid: e.pid,
            fd: e.fd,
            start: e.start,
            len: e.len,
            origin: Origin { image, entry: entry.index },
        });
        Ok(())
    });
    locks
}

/// Clocks at the dump of one time namespace.
pub(crate) fn read_clocks(dir: &Dir<'_>, id: u32, errors: &mut Errors) -> Option<Clocks> {
    let image = Image::Timens(id);
    let e: TimensEntry = dir.read_optional(image, &magic::CLOCKS, errors)??;
    let mut time = |e: &Timespec| {
        if e.tv_nsec >= 1_000_000_000 {
            errors.inconsistent(image, 0, format!("clock with {} ns", e.tv_nsec));
        }
        (e.tv_sec, e.tv_nsec)
    };
    Some(Clocks { monotonic: time(&e.monotonic), boottime: time(&e.boottime) })
}
