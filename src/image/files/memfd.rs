//! Memfds: open file descriptions (`memfd_file_entry`) and inodes (`memfd.img`).
//!
//! Contents are in `pagemap-shmem-SHMID.img`, where the shmid of the inode is its inode number at the
//! dump. Shared anonymous memory is stored in the same way, with the name `/dev/zero`: see
//! [`super::super::read`]. Its description is in `files.img` although no task has it open.

use std::collections::BTreeSet;

use super::fown;
use crate::image::error::Errors;
use crate::image::file::Entry;
use crate::image::magic;
use crate::image::model::{Image, MemfdFile, MemfdInode, OfdKind, Origin};
use crate::image::proto::{FileEntry, MemfdInodeEntry};
use crate::image::read::Dir;

/// Reads the `memfd` of an entry.
pub(crate) fn read(e: FileEntry, _: &Entry<'_>, _: &mut Errors) -> Option<OfdKind> {
    let e = e.memfd?;
    Some(OfdKind::Memfd(MemfdFile {
        inode_id: u64::from(e.inode_id),
        flags: e.flags,
        position: e.pos,
        fown: fown(&e.fown),
    }))
}

/// The inodes.
pub(crate) fn read_inodes(dir: &Dir<'_>, errors: &mut Errors) -> Vec<MemfdInode> {
    let image = Image::Memfd;
    let (mut inodes, mut seen) = (Vec::new(), BTreeSet::new());
    dir.for_each(image, &magic::MEMFD, errors, |_, entry, errors| {
        let Some(e) = errors.decode::<MemfdInodeEntry>(entry) else {
            return Ok(());
        };
        if !seen.insert(e.inode_id) {
            errors.inconsistent(image, entry.index, format!("inode {:#x} a second time", e.inode_id));
        }
        let Some(name) = errors.text(e.name, entry, "name of a memfd") else {
            return Ok(());
        };
        inodes.push(MemfdInode {
            inode_id: e.inode_id,
            name,
            size_bytes: e.size,
            shmid: u64::from(e.shmid),
            seals: e.seals,
            hugetlb_flag: e.hugetlb_flag,
            mode: e.mode,
            uid: e.uid,
            gid: e.gid,
            origin: Origin { image, entry: entry.index },
        });
        Ok(())
    });
    inodes
}
