//! Huge pages: whether mappings of them can be made here, and whether there are enough.
//!
//! What is counted is what the kernel takes from its pool for the whole tree (mm/hugetlb.c,
//! `hugetlb_reserve_pages`): a mapping that is reserved takes all of its pages when it is made, one that is not
//! (`MAP_NORESERVE`) those that something is in. Of shared memory each page counts once.
//!
//! Example: two tasks, each with a private mapping of 4 MiB and pages of 2 MiB, take four pages, also where one
//! has inherited all of it from the other: a private mapping of huge pages is no child's inheritance, because a
//! copy-on-write for which no page is left takes the page away from the child (`unmap_ref_private`).

use std::collections::BTreeMap;

use super::index::Index;
use super::numbers::{MAP_KNOWN, MAP_TYPE, PAGE};
use super::problem::ProblemKind;
use super::recipe::{HugeView, InodeKind, Nameless};
use super::window::TASK_SIZE;
use super::{Resolver, host, hugetlbfs};
use crate::host::HostFacts;
use crate::image::huge::{MAP_HUGE, MAP_HUGETLB, of_memfd, of_segment, page_bytes};
use crate::image::ipc::{SHM_LOCKED, SysvPerm, SysvSegment};
use crate::image::{Extent, MemfdInode, Model, NsPid, Origin, Vma, VmaKind};

/// Whether a mapping is of huge pages that are no other task's.
pub(super) fn is_private(vma: &Vma) -> bool {
    vma.flags & MAP_HUGETLB != 0 && vma.flags & MAP_TYPE == libc::MAP_PRIVATE as u32
}

/// The flags of a mapping that are not restored.
pub(super) fn unknown_flags(vma: &Vma) -> u32 {
    match vma.kind {
        VmaKind::AnonPrivate | VmaKind::AnonShared { .. } | VmaKind::Memfd { .. }
            if vma.flags & MAP_HUGETLB != 0 =>
        {
            // None of them is with huge pages: such are not locked, and do not grow.
            let odd = (libc::MAP_LOCKED | libc::MAP_GROWSDOWN) as u32;
            vma.flags & (!(MAP_KNOWN | MAP_HUGE) | odd)
        }
        VmaKind::FilePrivate { .. } | VmaKind::FileShared { .. } if vma.flags & MAP_HUGETLB != 0 => {
            let odd = (libc::MAP_LOCKED | libc::MAP_GROWSDOWN) as u32;
            vma.flags & (!(MAP_KNOWN | MAP_HUGE) | odd)
        }
        VmaKind::SysV { .. } if vma.flags & MAP_HUGETLB != 0 => {
            vma.flags & !(libc::MAP_SHARED as u32 | libc::MAP_ANONYMOUS as u32 | MAP_HUGE)
        }
        VmaKind::SysV { .. } => {
            vma.flags & !(libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_LOCKED) as u32
        }
        VmaKind::Vvar | VmaKind::Vdso | VmaKind::Vsyscall | VmaKind::Other => 0,
        // The kernel gives it no other (`aio_setup_ring`, fs/aio.c), and does not lock what must not be longer.
        VmaKind::AioRing => vma.flags & !(libc::MAP_SHARED as u32),
        VmaKind::AnonPrivate
        | VmaKind::FilePrivate { .. }
        | VmaKind::FileShared { .. }
        | VmaKind::AnonShared { .. }
        | VmaKind::Memfd { .. } => vma.flags & !MAP_KNOWN,
    }
}

/// Whether a mapping of huge pages is one that the kernel makes.
pub(super) fn judge(resolver: &mut Resolver<'_>, pid: NsPid, vma: &Vma) {
    if vma.flags & MAP_HUGETLB == 0 || unknown_flags(vma) != 0 {
        return;
    }
    if let VmaKind::FilePrivate { .. } | VmaKind::FileShared { .. } = vma.kind {
        return hugetlbfs::judge(resolver, pid, vma);
    }
    let range = format!("mapping {:#x}-{:#x}", vma.start, vma.end);
    let Some(bytes) = size(resolver, Some(pid), vma.origin, &range, vma.flags) else { return };
    let inode = resolver.model.memfds.iter().find(|inode| match vma.kind {
        VmaKind::AnonShared { shmid, .. } => inode.shmid == shmid,
        VmaKind::Memfd { inode_id, .. } => inode.inode_id == inode_id,
        _ => false,
    });
    // Whether a segment is of such pages is judged where its users are.
    let is_segment = matches!(vma.kind, VmaKind::SysV { .. });
    let is_other = inode.is_some_and(|inode| of_memfd(inode.hugetlb_flag) != vma.flags & MAP_HUGE);
    if is_other || inode.is_none() && vma.kind != VmaKind::AnonPrivate && !is_segment {
        let text = format!("{range}: its file is not of such huge pages");
        resolver.problems.add(ProblemKind::BadImages, Some(pid), Some(vma.origin), text);
    }
    let offset = match vma.kind {
        VmaKind::AnonShared { offset_bytes, .. }
        | VmaKind::Memfd { offset_bytes, .. }
        | VmaKind::SysV { offset_bytes, .. } => offset_bytes,
        _ => 0,
    };
    if ![vma.start, vma.end, offset].iter().all(|at| at.is_multiple_of(bytes)) {
        let text = format!("{range}: cuts huge pages of {bytes} bytes");
        resolver.problems.add(ProblemKind::BadImages, Some(pid), Some(vma.origin), text);
    }
}

/// The same of a memfd.
pub(super) fn judge_memfd(resolver: &mut Resolver<'_>, inode: &MemfdInode) {
    let flags = of_memfd(inode.hugetlb_flag);
    if flags == 0 {
        return;
    }
    let name = format!("memfd \"{}\"", inode.name);
    let Some(bytes) = size(resolver, None, inode.origin, &name, flags) else { return };
    if !inode.size_bytes.is_multiple_of(bytes) {
        let text = format!("{name}: {} bytes in huge pages of {bytes}", inode.size_bytes);
        resolver.problems.add(ProblemKind::BadImages, None, Some(inode.origin), text);
    }
}

/// The same of a System V segment.
pub(super) fn judge_segment(resolver: &mut Resolver<'_>, segment: &SysvSegment, own_uid: u32) {
    let flags = of_segment(segment.huge);
    if flags == 0 {
        return;
    }
    let SysvPerm { id, cuid, mode, .. } = segment.perm;
    let name = format!("System V segment {id}");
    if size(resolver, None, segment.origin, &name, flags).is_none() {
        return;
    }
    let lacking = if cuid != own_uid {
        // Who takes on another's ids has no capabilities for that moment.
        Some(format!("it was made by user {cuid}, and huge pages take CAP_IPC_LOCK, which only root has"))
    } else {
        let may = resolver.facts.own.caps.has_effective(host::CAP_IPC_LOCK);
        (!may).then(|| "huge pages take CAP_IPC_LOCK, which is missing".to_owned())
    };
    if let Some(lacking) = lacking {
        let text = format!("{name}: {lacking}");
        resolver.problems.add(ProblemKind::Lacking, None, Some(segment.origin), text);
    }
    // The kernel takes SHM_LOCK of huge pages for nothing (ipc/shm.c, `shmctl_do_lock`).
    if mode & SHM_LOCKED != 0 {
        let text = format!("{name}: locked, which huge pages are not");
        resolver.problems.add(ProblemKind::BadImages, None, Some(segment.origin), text);
    }
}

/// How long a System V segment is, in whole pages of its size.
pub(super) fn segment_len(segment: &SysvSegment) -> u64 {
    let page = page_bytes(of_segment(segment.huge)).unwrap_or(PAGE);
    // What is longer than any address space is refused where it is attached.
    segment.size_bytes.checked_next_multiple_of(page).unwrap_or(u64::MAX)
}

/// How a part of a System V segment of huge pages comes to where a task has it.
pub(super) fn view(model: &Model, vma: &Vma, (id, offset, read_only): (u32, u64, bool)) -> Option<HugeView> {
    let segment = model.own_ipc()?.segments.iter().find(|segment| segment.perm.id == id)?;
    let (segment_len, len) = (segment_len(segment), vma.end - vma.start);
    // The address in the window is put in when that is known.
    Some(HugeView { id, segment_len, window: 0, offset, start: vma.start, len, read_only })
}

/// The size of huge pages, if the images say it, and this kernel has them.
fn size(
    resolver: &mut Resolver<'_>,
    pid: Option<NsPid>,
    origin: Origin,
    what: &str,
    flags: u32,
) -> Option<u64> {
    let Some(bytes) = page_bytes(flags) else {
        let text = format!("{what}: flags {:#x} do not say how large its huge pages are", flags & MAP_HUGE);
        resolver.problems.unsupported(pid, Some(origin), text);
        return None;
    };
    if !resolver.facts.huge_pages.contains_key(&bytes) {
        let text = format!("{what}: this kernel has no huge pages of {bytes} bytes");
        resolver.problems.add(ProblemKind::Lacking, pid, Some(origin), text);
        return None;
    }
    Some(bytes)
}

/// How the views of one shared memory are mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Views {
    /// The flags that say of huge pages.
    huge: u32,
    reserved: bool,
    unreserved: bool,
}

impl Views {
    pub(super) fn of(vma: &Vma) -> Views {
        let unreserved = vma.flags & libc::MAP_NORESERVE as u32 != 0;
        Views { huge: vma.flags & MAP_HUGE, reserved: !unreserved, unreserved }
    }

    pub(super) fn and(self, other: Views) -> Views {
        Views {
            huge: self.huge,
            reserved: self.reserved || other.reserved,
            unreserved: self.unreserved || other.unreserved,
        }
    }

    /// The size of the pages.
    pub(super) fn page_bytes(self) -> u64 {
        page_bytes(self.huge).unwrap_or(PAGE)
    }

    /// Whether views are no copies of the carrier's mapping: those of huge pages cannot be had by `mremap(2)` with an
    /// old size of 0 (mm/mremap.c: they cannot grow).
    pub(super) fn need_opening(self) -> bool {
        self.huge != 0 || self.reserved && self.unreserved
    }

    /// The flags of the carrier beside those that every carrier has. Of huge pages none is reserved for it, but for
    /// the views alone.
    pub(super) fn carrier_flags(self) -> u32 {
        let is_unreserved = self.huge != 0 || !self.reserved;
        self.huge | if is_unreserved { libc::MAP_NORESERVE as u32 } else { 0 }
    }
}

/// The sizes of huge pages that shared memory and memfds have.
fn sizes(model: &Model) -> impl Iterator<Item = u64> + use<'_> {
    let memfds = model.memfds.iter().filter_map(|inode| page_bytes(of_memfd(inode.hugetlb_flag)));
    memfds.chain(huge_segments(model).map(|(_, page)| page))
}

/// System V segments of huge pages, and how large these are.
fn huge_segments(model: &Model) -> impl Iterator<Item = (&SysvSegment, u64)> + use<'_> {
    let segments = model.own_ipc().into_iter().flat_map(|ns| &ns.segments);
    segments.filter_map(|segment| Some((segment, page_bytes(of_segment(segment.huge))?)))
}

/// What an address in the window must be a multiple of so that any of them can be mapped there.
pub(super) fn alignment(model: &Model) -> u64 {
    sizes(model).max().unwrap_or(PAGE)
}

/// How long the longest memfd or System V segment of huge pages is: so much is mapped to fill it, or to take a part of.
pub(super) fn scratch_len(model: &Model) -> u64 {
    let is_huge = |inode: &&MemfdInode| of_memfd(inode.hugetlb_flag) != 0;
    let memfds = model.memfds.iter().filter(is_huge).map(|inode| inode.size_bytes);
    let longest = memfds.chain(huge_segments(model).map(|(segment, _)| segment_len(segment))).max();
    // What is longer than any address space is refused with the memfd.
    longest.unwrap_or(0).min(TASK_SIZE)
}

/// Puts in where memfds are mapped to be filled.
pub(super) fn place(recipe: &mut Nameless, address: u64) {
    for inode in &mut recipe.inodes {
        if let InodeKind::Memfd { huge: Some(huge), .. } = &mut inode.kind {
            huge.scratch = address;
        }
    }
}

/// What is taken, by the size of the pages: by how many, and who takes the most.
#[derive(Debug, Default)]
struct Taken {
    pages: u64,
    most: Option<(u64, Option<NsPid>, Origin, String)>,
}

/// Shared memory of huge pages: of what size, and those that are taken, of each run the first and the one behind the
/// last.
#[derive(Debug)]
struct Shared {
    bytes: u64,
    origin: Origin,
    pages: Vec<(u64, u64)>,
}

/// What a restore takes, by the size of the pages.
fn taken(model: &Model, facts: &HostFacts) -> BTreeMap<u64, Taken> {
    let mut taken: BTreeMap<u64, Taken> = BTreeMap::new();
    let mut take = |bytes: u64, pages: u64, pid: Option<NsPid>, origin: Origin, what: String| {
        let all = taken.entry(bytes).or_default();
        all.pages = all.pages.saturating_add(pages);
        if pages != 0 && all.most.as_ref().is_none_or(|(most, ..)| pages > *most) {
            all.most = Some((pages, pid, origin, what));
        }
    };
    let ofds = Index::of(model.ofds.iter().map(|ofd| ofd.id));
    // Pages of shared memory, by its number in the images.
    let mut shared: BTreeMap<u64, Shared> = BTreeMap::new();
    let shmid_of: BTreeMap<u64, u64> =
        model.memfds.iter().map(|inode| (inode.inode_id, inode.shmid)).collect();
    for inode in &model.memfds {
        if let Some(bytes) = page_bytes(of_memfd(inode.hugetlb_flag)) {
            shared.insert(inode.shmid, Shared { bytes, origin: inode.origin, pages: Vec::new() });
        }
    }
    for shm in &model.shm {
        if let Some(all) = shared.get_mut(&shm.shmid) {
            all.pages.extend(touched(&shm.pages.extents, (0, u64::MAX), all.bytes));
        }
    }
    for (task, alive) in model.tasks.iter().filter_map(|task| Some((task, task.alive()?))) {
        for vma in alive.mm.vmas.iter().filter(|vma| vma.flags & MAP_HUGETLB != 0) {
            let of_file = hugetlbfs::file(model, facts, &ofds, vma).map(|(_, file)| file.page_bytes);
            let Some(bytes) = of_file.or(page_bytes(vma.flags)) else { continue };
            let is_reserved = vma.flags & libc::MAP_NORESERVE as u32 == 0;
            let len = (vma.end - vma.start) / bytes;
            if let VmaKind::SysV { .. } | VmaKind::FileShared { .. } = vma.kind {
                continue;
            }
            let of_shared = match vma.kind {
                VmaKind::AnonShared { shmid, offset_bytes } => Some((shmid, offset_bytes)),
                VmaKind::Memfd { inode_id, offset_bytes, .. } if !is_private(vma) => {
                    shmid_of.get(&inode_id).map(|shmid| (*shmid, offset_bytes))
                }
                _ => None,
            };
            if let Some((shmid, offset)) = of_shared {
                if is_reserved && let Some(Shared { pages, .. }) = shared.get_mut(&shmid) {
                    pages.push((offset / bytes, (offset / bytes).saturating_add(len)));
                }
                continue;
            }
            let used = distinct(touched(&alive.mm.pages.extents, (vma.start, vma.end), bytes).collect());
            let what = format!("mapping {:#x}-{:#x}", vma.start, vma.end);
            let pages = if is_reserved { len } else { used };
            take(bytes, pages, Some(task.pid), vma.origin, what);
        }
    }
    for (path, bytes, pages, origin) in hugetlbfs::lacking(model, facts, &ofds) {
        take(bytes, pages, None, origin, path);
    }
    // All of a segment is reserved when it is made. That it was made with SHM_NORESERVE no image says.
    for (segment, bytes) in huge_segments(model) {
        let what = format!("System V segment {}", segment.perm.id);
        take(bytes, segment_len(segment) / bytes, None, segment.origin, what);
    }
    for (shmid, Shared { bytes, origin, pages }) in shared {
        take(bytes, distinct(pages), None, origin, format!("shared memory {shmid:#x}"));
    }
    taken
}

/// How many huge pages a restore takes, by their size.
pub(crate) fn needed(model: &Model, facts: &HostFacts) -> BTreeMap<u64, u64> {
    taken(model, facts).into_iter().map(|(bytes, all)| (bytes, all.pages)).collect()
}

/// Whether there are enough of them.
pub(super) fn count(resolver: &mut Resolver<'_>) {
    let taken = taken(resolver.model, resolver.facts);
    for (bytes, all) in &taken {
        let (Some(free), Some((most, pid, origin, what))) = (resolver.facts.huge_pages.get(bytes), &all.most)
        else {
            continue;
        };
        if all.pages > *free {
            let text = format!(
                "{} huge pages of {bytes} bytes are needed, and {free} are free; {most} of them for {what}",
                all.pages
            );
            resolver.problems.add(ProblemKind::Lacking, *pid, Some(*origin), text);
        }
    }
}

/// The huge pages, by their numbers from 0 on, of which a part is stored: of each run the first, and the one behind
/// the last.
fn touched(
    extents: &[Extent],
    (start, end): (u64, u64),
    bytes: u64,
) -> impl Iterator<Item = (u64, u64)> + use<'_> {
    extents.iter().filter_map(move |extent| extent.within(start, end)).map(move |extent| {
        let end = extent.start.saturating_add(extent.len_pages.saturating_mul(PAGE));
        (extent.start / bytes, end.div_ceil(bytes))
    })
}

/// How many numbers are in any of these ranges.
pub(super) fn distinct(mut ranges: Vec<(u64, u64)>) -> u64 {
    ranges.sort_unstable();
    let (mut behind, mut count) = (0, 0u64);
    for (start, end) in ranges {
        count = count.saturating_add(end.saturating_sub(start.max(behind)));
        behind = behind.max(end);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_counted_once() {
        let check = |ranges: &[(u64, u64)], expected: u64| assert_eq!(distinct(ranges.to_vec()), expected);
        check(&[], 0);
        check(&[(0, 2), (1, 3), (5, 6), (1, 2)], 4);
        check(&[(0, u64::MAX), (3, u64::MAX)], u64::MAX);
        let image = crate::image::PagesImage::own(1);
        let extent = |start: u64, len_pages| Extent { start, len_pages, image, offset_bytes: 0, entry: 0 };
        let stored = [extent(0x1f_f000, 2), extent(0x40_1000, 1), extent(0x80_0000, 512)];
        let pages = |range| touched(&stored, range, 2 << 20).collect::<Vec<_>>();
        assert_eq!(pages((0, u64::MAX)), [(0, 2), (2, 3), (4, 5)]);
        assert_eq!(pages((0x40_0000, 0x60_0000)), [(2, 3)]);
    }
}
