//! Transparent huge pages: which memory gets them when it is filled, and which must not.
//!
//! The kernel brings a huge page where memory without any page is written to for the first time, if the mapping may have
//! them; of small pages that are there only `khugepaged` makes huge ones, at its leisure. So blocks that are stored whole
//! are read when the mapping has its advice. A block that is stored in part had small pages, and must get them, or it
//! would take up to 512 times as much; and what `khugepaged` makes of it must not come between two copies into it, for a
//! userfaultfd replaces no page. So the task forbids itself all huge pages meanwhile (`PR_SET_THP_DISABLE`).
//!
//! Worked example: memory from 0x200000 to 0x600000 with `MADV_HUGEPAGE`, of which all pages are stored but the last. Huge
//! pages are forbidden, the pages of the second block are copied or read, the advice is given, huge pages are allowed, and
//! then the first block is read: it becomes one huge page.
//!
//! Where no huge page is free, the kernel moves what is in the way, for as long as that takes (`vma_thp_gfp_mask`, mm/huge_memory.c:
//! advised memory lets it). So no more are asked for than there are free, but for a few; what is left gets small pages, much
//! sooner, and `khugepaged` makes huge ones of these.
//!
//! # Sources
//! Documentation/admin-guide/mm/transhuge.rst; mm/huge_memory.c (`do_huge_pmd_anonymous_page`,
//! `__thp_vma_allowable_orders`), mm/khugepaged.c (`hugepage_vma_revalidate`, `hpage_collapse_scan_pmd`),
//! mm/userfaultfd.c (`mfill_atomic`); PR_SET_THP_DISABLE(2const).

use regrow_graph::ids::{StepId, TaskId};

use super::Resolver;
use super::numbers::{MAP_DROPPABLE, MAP_TYPE};
use super::recipe::StepKind;
use crate::host::{HostFacts, Transparent};
use crate::image::ranges::{joined, meets, range};
use crate::image::{Alive, Extent, Origin, Vma, VmaKind};

/// What a huge page of the second level takes, in bytes, and how it is aligned.
pub(crate) const BLOCK: u64 = 2 << 20;

/// A part of an address space: first address, and behind the last.
type Range = (u64, u64);

/// What the host does about the memory of a task.
pub(super) fn setting(facts: &HostFacts, alive: &Alive) -> Transparent {
    if alive.mm.thp_disabled { Transparent::Never } else { facts.kernel.transparent }
}

/// Whether a write to a page that is not there brings a huge one, when a mapping has all its advice.
fn are_brought(setting: Transparent, vma: &Vma) -> bool {
    let has = |which: i32| vma.madvise >> which & 1 == 1;
    let by_setting = match setting {
        Transparent::Always => true,
        Transparent::Madvise => has(libc::MADV_HUGEPAGE),
        Transparent::Never => false,
    };
    by_setting
        && vma.kind == VmaKind::AnonPrivate
        && vma.flags & MAP_TYPE != MAP_DROPPABLE
        // Locked memory has its pages before any advice.
        && vma.flags & (libc::MAP_LOCKED | libc::MAP_HUGETLB) as u32 == 0
        && !has(libc::MADV_NOHUGEPAGE)
}

/// Whether huge pages are forbidden to a task, while its memory is made: it has its own say in the end.
#[derive(Debug)]
pub(super) struct Guard {
    origin: Origin,
    is_forbidden: bool,
    /// What the images say.
    wanted: bool,
    /// There is memory that could get them.
    is_needed: bool,
}

impl Guard {
    /// As it is when the task is born. `is_needed`: it has memory that could get huge pages.
    pub(super) fn of(resolver: &Resolver<'_>, id: TaskId, alive: &Alive, is_needed: bool) -> Guard {
        let own = resolver.facts.own.thp_disabled.unwrap_or(false);
        let is_forbidden = resolver.spaces.is_born_without_huge_pages(id).unwrap_or(own);
        Guard { origin: alive.mm.origin, is_forbidden, wanted: alive.mm.thp_disabled, is_needed }
    }

    /// No huge pages come from here on, if any could.
    pub(super) fn forbid(&mut self, resolver: &mut Resolver<'_>) -> Option<StepId> {
        (self.is_needed || self.wanted).then(|| self.set(resolver, true)).flatten()
    }

    /// They may come from here on, if the images say so.
    pub(super) fn allow(&mut self, resolver: &mut Resolver<'_>) -> Option<StepId> {
        self.set(resolver, self.wanted)
    }

    fn set(&mut self, resolver: &mut Resolver<'_>, is_forbidden: bool) -> Option<StepId> {
        let was = std::mem::replace(&mut self.is_forbidden, is_forbidden);
        let kind = StepKind::ThpDisable(is_forbidden);
        (was != is_forbidden).then(|| resolver.add_step(kind, self.origin, Vec::new()))
    }
}

/// The mappings that get huge pages with all the advice that they have in the end.
pub(super) fn mappings(setting: Transparent, vmas: &[Vma]) -> Vec<Range> {
    let vmas = vmas.iter().filter(|vma| are_brought(setting, vma));
    vmas.map(|vma| (vma.start, vma.end)).collect()
}

/// The blocks in `mappings` of which all pages are among the extents, and none is in `present`.
pub(super) fn blocks(extents: &[Extent], mappings: &[Range], present: &[Range]) -> Vec<Range> {
    if mappings.is_empty() {
        return Vec::new();
    }
    let stored = joined(extents.iter().map(range).collect());
    let mut blocks = Vec::new();
    for (start, end) in mappings {
        let first = stored.partition_point(|(_, behind)| behind <= start);
        for (from, to) in stored[first..].iter().take_while(|(from, _)| from < end) {
            let mut at = from.max(start).next_multiple_of(BLOCK);
            while at.checked_add(BLOCK).is_some_and(|behind| behind <= *to.min(end)) {
                if !meets(present, at, at + BLOCK) {
                    blocks.push((at, at + BLOCK));
                }
                at += BLOCK;
            }
        }
    }
    joined(blocks)
}

/// So much may be made room for, in bytes.
const MADE_ROOM_FOR: u64 = 64 << 20;

/// How much may be filled with huge pages, in bytes.
pub(crate) fn room(facts: &HostFacts) -> u64 {
    // Some of what is free now is taken before.
    facts.kernel.free_huge_bytes.map_or(u64::MAX, |free| (free / 8 * 7).max(MADE_ROOM_FOR))
}

/// The first of the blocks, as many as there is room for, which they then take.
pub(super) fn with_room(blocks: Vec<Range>, room: &mut u64) -> Vec<Range> {
    let taken = blocks.into_iter().map_while(|(start, end)| {
        let len = (end - start).min(*room / BLOCK * BLOCK);
        *room -= len;
        (len > 0).then_some((start, start + len))
    });
    taken.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::image::{Image, PagesImage};

    const RW: u32 = (libc::PROT_READ | libc::PROT_WRITE) as u32;

    fn vma(flags: i32, madvise: u64) -> Vma {
        Vma {
            start: BLOCK,
            end: 4 * BLOCK,
            prot: RW,
            flags: (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags) as u32,
            status: 0,
            kind: VmaKind::AnonPrivate,
            madvise,
            origin: Origin::new(Image::Mm(1), 0),
        }
    }

    #[test]
    fn who_gets_huge_pages() {
        let check = |flags, madvise, expected: [bool; 3]| {
            let vma = vma(flags, madvise);
            let found = [Transparent::Never, Transparent::Madvise, Transparent::Always]
                .map(|setting| are_brought(setting, &vma));
            assert_eq!(found, expected);
        };
        check(0, 0, [false, false, true]);
        check(0, 1 << libc::MADV_HUGEPAGE, [false, true, true]);
        check(0, 1 << libc::MADV_NOHUGEPAGE, [false; 3]);
        check(libc::MAP_LOCKED, 1 << libc::MADV_HUGEPAGE, [false; 3]);
        check(libc::MAP_HUGETLB, 1 << libc::MADV_HUGEPAGE, [false; 3]);
    }

    #[test]
    fn no_more_than_there_is_room_for() {
        let check = |mut room: u64, expected: &[Range], left: u64| {
            let blocks = vec![(BLOCK, 4 * BLOCK), (8 * BLOCK, 9 * BLOCK)];
            assert_eq!((with_room(blocks, &mut room), room), (expected.to_vec(), left));
        };
        check(u64::MAX, &[(BLOCK, 4 * BLOCK), (8 * BLOCK, 9 * BLOCK)], u64::MAX - 4 * BLOCK);
        check(3 * BLOCK, &[(BLOCK, 4 * BLOCK)], 0);
        check(2 * BLOCK + 1, &[(BLOCK, 3 * BLOCK)], 1);
        check(0, &[], 0);
    }

    /// All in quarters of a block.
    #[test]
    fn whole_blocks() {
        const QUARTER: u64 = BLOCK / 4;
        let ranges = |quarters: &[Range]| -> Vec<Range> {
            quarters.iter().map(|(start, end)| (start * QUARTER, end * QUARTER)).collect()
        };
        let check = |stored: &[Range], mappings: &[Range], present: &[Range], expected: &[Range]| {
            let extent = |&(start, end): &Range| Extent {
                start: start * QUARTER,
                len_pages: (end - start) * QUARTER / 4096,
                image: PagesImage::own(1),
                offset_bytes: 0,
                entry: 0,
            };
            let extents: Vec<Extent> = stored.iter().map(extent).collect();
            assert_eq!(blocks(&extents, &ranges(mappings), &ranges(present)), ranges(expected));
        };
        check(&[(4, 16)], &[(4, 16)], &[], &[(4, 16)]);
        // Neighbours are as good as one, whatever image they are in.
        check(&[(3, 5), (5, 11)], &[(0, 16)], &[], &[(4, 8)]);
        // One page is missing, or lies in another mapping.
        check(&[(4, 6), (7, 16)], &[(4, 16)], &[], &[(8, 16)]);
        check(&[(4, 16)], &[(5, 12), (12, 15)], &[], &[(8, 12)]);
        check(&[(4, 16)], &[], &[], &[]);
        // Another's pages are there.
        check(&[(4, 16)], &[(4, 16)], &[(9, 10)], &[(4, 8), (12, 16)]);
    }
}
