//! What the images say of address spaces and of shared memory without a name, for the checker.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;

use regrow_graph::ids::OfdId;
use regrow_graph::verify::{
    ExpectedMapping, ExpectedPages, ExpectedSegment, ExpectedSpace, PageExtent, Shown,
};

use crate::image::{Alive, Image, Model, Pages, Vma, VmaKind};

const PAGE: u64 = 4096;

/// The address space of a task.
///
/// # Errors
/// In words, which mapping cannot be judged.
pub(super) fn expected(
    model: &Model,
    alive: &Alive,
    index_of: &BTreeMap<u32, OfdId>,
) -> Result<ExpectedSpace, String> {
    let mut mappings = Vec::with_capacity(alive.mm.vmas.len());
    for vma in &alive.mm.vmas {
        if let Some(shows) = shown(vma, index_of)? {
            mappings.push(ExpectedMapping {
                start: vma.start,
                end: vma.end,
                prot: vma.prot,
                flags: vma.flags,
                advice: vma.madvise,
                shows,
            });
        }
    }
    Ok(ExpectedSpace { mappings, guards: alive.mm.guards.clone(), pages: pages(model, &alive.mm.pages) })
}

/// What a mapping shows; `None`: every task has it, and none can change it.
fn shown(vma: &Vma, index_of: &BTreeMap<u32, OfdId>) -> Result<Option<Shown>, String> {
    let file = |ofd_id: u32, offset: u64, shared: Option<bool>| match index_of.get(&ofd_id) {
        Some(ofd) => Ok(Some(Shown::File { ofd: *ofd, offset, shared })),
        None => Err(format!("mapping {:#x}: file {ofd_id:#x} is not in files.img", vma.start)),
    };
    // A shared mapping can be written as far as the description could that it was made of. Where the images
    // do not say how that was open, it was for what the mapping is used for.
    let may_write = |file_flags: Option<u32>| match file_flags {
        Some(flags) => flags & libc::O_ACCMODE as u32 == libc::O_RDWR as u32,
        None => vma.prot & libc::PROT_WRITE as u32 != 0,
    };
    match vma.kind {
        VmaKind::AnonPrivate => {
            /// `MAP_DROPPABLE`, a type of its own (uapi/linux/mman.h, since Linux 6.11).
            const DROPPABLE: u32 = 8;
            let is_droppable = vma.flags & 0xf == DROPPABLE;
            Ok(Some(if is_droppable { Shown::Droppable } else { Shown::Anonymous }))
        }
        VmaKind::AnonShared { shmid, offset_bytes } => {
            Ok(Some(Shown::Segment { segment: shmid, offset: offset_bytes }))
        }
        VmaKind::FilePrivate { ofd_id, offset_bytes, .. } => file(ofd_id, offset_bytes, None),
        VmaKind::FileShared { ofd_id, offset_bytes, file_flags } => {
            file(ofd_id, offset_bytes, Some(may_write(file_flags)))
        }
        VmaKind::Memfd { ofd_id, offset_bytes, file_flags, .. } => {
            let is_shared = vma.flags & libc::MAP_SHARED as u32 != 0;
            file(ofd_id, offset_bytes, is_shared.then(|| may_write(file_flags)))
        }
        VmaKind::Vvar | VmaKind::Vdso => Ok(Some(Shown::Kernel)),
        VmaKind::Vsyscall => Ok(None),
        VmaKind::Other => Err(format!("mapping {:#x}: status {:#x}", vma.start, vma.status)),
    }
}

/// Shared memory without a name, by its number: as long as the furthest view of it, or as its inode.
pub(super) fn segments(model: &Model) -> BTreeMap<u64, ExpectedSegment> {
    let mut segments: BTreeMap<u64, ExpectedSegment> = BTreeMap::new();
    for vma in model.tasks.iter().filter_map(|task| task.alive()).flat_map(|alive| &alive.mm.vmas) {
        if let VmaKind::AnonShared { shmid, offset_bytes } = vma.kind {
            let segment = segments.entry(shmid).or_default();
            segment.len = segment.len.max(offset_bytes.saturating_add(vma.end - vma.start));
        }
    }
    for inode in &model.memfds {
        if let Some(segment) = segments.get_mut(&inode.shmid) {
            segment.len = segment.len.max(inode.size_bytes);
        }
    }
    for shm in &model.shm {
        if let Some(segment) = segments.get_mut(&shm.shmid) {
            segment.pages = pages(model, &shm.pages);
        }
    }
    for segment in segments.values_mut() {
        segment.len = segment.len.checked_next_multiple_of(PAGE).unwrap_or(segment.len);
    }
    segments
}

fn pages(model: &Model, pages: &Pages) -> ExpectedPages {
    let file = model.dir.join(Image::Pages(pages.pages_id).to_string()).as_os_str().as_bytes().to_vec();
    let extents = pages.extents.iter().map(|extent| PageExtent {
        at: extent.start,
        len: extent.len_pages.saturating_mul(PAGE),
        from: extent.offset_bytes,
    });
    ExpectedPages { file, extents: extents.collect() }
}
