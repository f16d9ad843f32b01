//! Huge pages, as the flags of a mapping and of a memfd say it.
//!
//! CRIU stores `MAP_HUGETLB` (from `VmFlags: … ht`) and the size of the pages, which it knows by the device of the
//! file behind the mapping (`criu/hugetlb.c`); `memfd.img` has the same bits of the size beside `MFD_HUGETLB`.
//!
//! Of System V segments it stores the size in `ipcns-shm.img` beside `SHM_HUGETLB`, and of their mappings only that there
//! are huge pages; the reader gives them the size (`complete_attached`).
//!
//! Of several mappings of one file, one behind the other, CRIU up to 4.3 stores the size with the first alone
//! (`vma_get_mapfile` in `criu/proc_parse.c` looks at a file once). Those of memfds have it from the inode, private
//! ones from the mapping before them (`complete`).
//!
//! Example: flags `0x5404_0022` are `MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB` with pages of 2^21 bytes.
//!
//! # Sources
//! uapi/asm-generic/hugetlb_encode.h, `mmap(2)`, `memfd_create(2)`.

use std::collections::BTreeMap;

use super::model::{Model, Vma, VmaKind};

/// `MAP_HUGETLB`.
pub const MAP_HUGETLB: u32 = libc::MAP_HUGETLB as u32;
/// `MFD_HUGETLB`.
pub const MFD_HUGETLB: u32 = 4;
/// Where the logarithm of the size is.
const SHIFT: u32 = 26;
/// The bits of the size.
const SIZE: u32 = 0x3f << SHIFT;
/// All bits of a mapping's flags that say of huge pages.
pub const MAP_HUGE: u32 = MAP_HUGETLB | SIZE;

/// The name by which the kernel calls the file of anonymous memory of huge pages (fs/hugetlbfs,
/// `HUGETLB_ANON_FILE`), with CRIU's slash before it.
pub(super) const ANONYMOUS: &str = "/anon_hugepage";

/// Bytes of a huge page, by the flags of a mapping of huge pages; `None`: they do not say, or there is none of that
/// size.
pub fn page_bytes(flags: u32) -> Option<u64> {
    let shift = (flags & SIZE) >> SHIFT;
    (13..47).contains(&shift).then(|| 1u64 << shift)
}

/// The flags of a mapping of a memfd, by the flags that `memfd.img` has of it: 0 for pages of the usual size.
pub fn of_memfd(flag: Option<u32>) -> u32 {
    let flag = flag.unwrap_or(0);
    if flag & MFD_HUGETLB == 0 { flag & SIZE } else { flag & SIZE | MAP_HUGETLB }
}

/// Gives private mappings of huge pages that lack a size that of the mapping before them.
pub(super) fn complete(vmas: &mut [Vma]) {
    let mut before = 0;
    for vma in vmas {
        let is_huge = vma.flags & MAP_HUGETLB != 0 && vma.kind == VmaKind::AnonPrivate;
        if is_huge && vma.flags & SIZE == 0 {
            vma.flags |= before;
        }
        before = if is_huge { vma.flags & SIZE } else { 0 };
    }
}

/// `SHM_HUGETLB` (uapi/linux/shm.h).
pub(crate) const SHM_HUGETLB: u32 = 0o4000;

/// The flags of a mapping of a System V segment, by what `ipcns-shm.img` has of it: 0 for pages of the usual size.
pub fn of_segment(flag: Option<u32>) -> u32 {
    let flag = flag.unwrap_or(0);
    if flag & SHM_HUGETLB == 0 { flag & SIZE } else { flag & SIZE | MAP_HUGETLB }
}

/// Gives mappings of System V segments of huge pages the size that their segments have: theirs is stored nowhere else.
pub(super) fn complete_attached(model: &mut Model) {
    let sizes: BTreeMap<u32, u32> = model
        .ipc
        .values()
        .flat_map(|ns| &ns.segments)
        .map(|segment| (segment.perm.id, of_segment(segment.huge)))
        .collect();
    let vmas =
        model.tasks.iter_mut().filter_map(|task| task.alive_mut()).flat_map(|alive| &mut alive.mm.vmas);
    for vma in vmas.filter(|vma| vma.flags & MAP_HUGE == MAP_HUGETLB) {
        if let VmaKind::SysV { shmid, .. } = vma.kind {
            vma.flags |= sizes.get(&shmid).map_or(0, |size| size & SIZE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |flags: u32, expected: Option<u64>| assert_eq!(page_bytes(flags), expected);
        check(0x5404_0022, Some(2 << 20));
        check(MAP_HUGETLB | 30 << SHIFT, Some(1 << 30));
        check(MAP_HUGETLB, None);
        check(MAP_HUGETLB | 12 << SHIFT, None);
        check(u32::MAX, None);
        assert_eq!(of_memfd(Some(21 << SHIFT | MFD_HUGETLB)), MAP_HUGETLB | 21 << SHIFT);
        assert_eq!(of_memfd(None), 0);
    }

    #[test]
    fn sizes_that_are_left_out() {
        let origin = crate::image::Origin::new(crate::image::Image::Mm(1), 0);
        let vma = |start: u64, flags: u32, kind| {
            let end = start + (2 << 20);
            Vma { start, end, prot: 3, flags, status: 0, kind, madvise: 0, origin }
        };
        let (told, left_out) = (0x5404_0022, 0x4_0022);
        let check = |flags: &[(u32, VmaKind)], expected: &[u32]| {
            let mut vmas: Vec<Vma> =
                (0..).zip(flags).map(|(at, (flags, kind))| vma(at << 21, *flags, *kind)).collect();
            complete(&mut vmas);
            assert_eq!(vmas.iter().map(|vma| vma.flags).collect::<Vec<_>>(), expected);
        };
        let private = VmaKind::AnonPrivate;
        check(&[(told, private), (left_out, private), (left_out, private)], &[told; 3]);
        check(&[(left_out, private), (told, private)], &[left_out, told]);
        check(&[(told, private), (0x22, private), (left_out, private)], &[told, 0x22, left_out]);
        let other = VmaKind::AnonShared { shmid: 1, offset_bytes: 0 };
        check(&[(told, private), (0x4_0001, other)], &[told, 0x4_0001]);
    }
}
