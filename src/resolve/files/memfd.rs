//! memfds: all descriptions of one inode, and its mappings, are one resource.
//!
//! (Shared anonymous memory, which CRIU stores as a memfd named `/dev/zero`, is `super::memory`'s
//! unless somebody has it open.)

use std::collections::{BTreeMap, BTreeSet};

use regrow_graph::ids::OfdId;

use super::super::Resolver;
use super::super::huge;
use super::super::numbers::{F_SEAL_FUTURE_WRITE, F_SEALS_KNOWN, O_CREATION, O_LARGEFILE, PAGE};
use super::super::problem::ProblemKind;
use super::super::recipe::{Content, HugeMemfd, Inode, InodeKind, Nameless, Piece};
use super::ghost::InodeKey;
use crate::image::huge::{MAP_HUGETLB, MFD_HUGETLB, of_memfd};
use crate::image::{Image, MemfdFile, MemfdInode, OfdKind, VmaKind};

/// Makes the resources of all memfds, without any description yet.
pub(super) fn make(resolver: &mut Resolver<'_>) {
    let model = resolver.model;
    // Mostly there are none, and nobody need look who uses them.
    if model.memfds.is_empty() {
        return;
    }
    let contents: BTreeMap<u64, &crate::image::Shm> = model.shm.iter().map(|shm| (shm.shmid, shm)).collect();
    // The others are shared anonymous memory.
    let mut used: BTreeSet<u64> = BTreeSet::new();
    for vma in model.tasks.iter().filter_map(|task| task.alive()).flat_map(|alive| &alive.mm.vmas) {
        if let VmaKind::Memfd { inode_id, .. } = vma.kind {
            used.insert(inode_id);
        }
    }
    let fds = model.tables().flatten().map(|fd| fd.ofd_id);
    for id in fds.chain(model.packets.iter().flat_map(|packet| packet.rights.iter().copied())) {
        if let Some(OfdKind::Memfd(file)) =
            resolver.ofd_of_id.get(&id).map(|ofd| &model.ofds[ofd.index()].kind)
        {
            used.insert(file.inode_id);
        }
    }
    for inode in model.memfds.iter().filter(|inode| used.contains(&inode.inode_id)) {
        judge(resolver, inode);
        let mut stored = Vec::new();
        for (image, extents) in contents.get(&inode.shmid).iter().flat_map(|shm| shm.pages.by_image()) {
            let mut pieces = Vec::with_capacity(extents.len());
            for extent in extents.iter() {
                // The last page goes beyond the end.
                let len =
                    inode.size_bytes.saturating_sub(extent.start).min(extent.len_pages.saturating_mul(PAGE));
                if len > 0 {
                    pieces.push(Piece { at: extent.start, from: extent.offset_bytes, len });
                }
            }
            let path = model.path(Image::Pages(image)).to_string_lossy().into_owned();
            stored.extend((!pieces.is_empty()).then_some(Content { path, pieces }));
        }
        let recipe = Inode {
            kind: InodeKind::Memfd { name: inode.name.clone(), seals: inode.seals, huge: huge_of(inode) },
            mode: inode.mode.unwrap_or(0o777) & 0o7777,
            uid: inode.uid,
            gid: inode.gid,
            size_bytes: inode.size_bytes,
            times: None,
            contents: stored,
            first: None,
            further: Vec::new(),
        };
        let recipe = Nameless { scaffold: Vec::new(), inodes: vec![recipe], opens: Vec::new() };
        resolver.add_nameless(recipe, vec![InodeKey::Memfd(inode.inode_id)], inode.origin);
    }
}

/// The address is put in when the window is known.
fn huge_of(inode: &MemfdInode) -> Option<HugeMemfd> {
    let flags = of_memfd(inode.hugetlb_flag);
    (flags != 0).then_some(HugeMemfd { flags: flags & !MAP_HUGETLB | MFD_HUGETLB, scratch: 0 })
}

fn judge(resolver: &mut Resolver<'_>, inode: &MemfdInode) {
    let origin = Some(inode.origin);
    let name = &inode.name;
    huge::judge_memfd(resolver, inode);
    if inode.seals & !F_SEALS_KNOWN != 0 {
        resolver.problems.unsupported(
            None,
            origin,
            format!("memfd \"{name}\": unknown seals {:#x}", inode.seals & !F_SEALS_KNOWN),
        );
    }
    if inode.size_bytes > i64::MAX as u64 {
        resolver.problems.add(
            ProblemKind::BadImages,
            None,
            origin,
            format!("memfd \"{name}\" of {} bytes", inode.size_bytes),
        );
    }
    if inode.seals & F_SEAL_FUTURE_WRITE == 0 {
        return;
    }
    // It is sealed when it is made; a mapping that was there before the seal cannot be had then.
    let model = resolver.model;
    let mut vmas = model.tasks.iter().filter_map(|task| task.alive()).flat_map(|alive| &alive.mm.vmas);
    let writable = vmas.find(|vma| {
        matches!(vma.kind, VmaKind::Memfd { inode_id, .. } if inode_id == inode.inode_id)
            && vma.flags & libc::MAP_SHARED as u32 != 0
            && vma.prot & libc::PROT_WRITE as u32 != 0
    });
    if let Some(vma) = writable {
        let text = format!(
            "memfd \"{name}\" has F_SEAL_FUTURE_WRITE and is mapped writable ({:#x}): not restored yet",
            vma.start
        );
        resolver.problems.unsupported(None, origin, text);
    }
}

pub(super) fn resolve(resolver: &mut Resolver<'_>, ofd: OfdId, memfd: &MemfdFile) {
    let flags = memfd.flags & !(O_CREATION | O_LARGEFILE);
    resolver.open_inode(InodeKey::Memfd(memfd.inode_id), "", flags, memfd.position, Some(ofd));
}
