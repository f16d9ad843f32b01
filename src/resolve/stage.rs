//! Which pages a task is given by way of huge pages, so that its forks are cheap.
//!
//! `fork(2)` copies an entry of the page table for each page, and counts it in the page's own memory. Of pages that were
//! brought as one huge page it does so together (mm/memory.c, `copy_present_ptes`), also where each has an entry of its
//! own. So blocks that are stored whole, of a task that forks when it has them, are read into memory that may have huge
//! pages, moved into place by a userfaultfd, and parted there: nothing in `/proc/PID/smaps` tells them from others, and a
//! write copies a page of 4 KiB as ever.
//!
//! Only memory without advice is given pages so, and only as many as are free in such pieces ([`transparent`](super::transparent)): who has
//! said that it is to have huge pages gets them, who has said that it is not gets none. Where the host has none for those
//! who ask, or takes long to get one, nobody gets any.
//!
//! Worked example: a server with 5 MiB of pages from 0x1ff000 on, which forks two workers: 0x200000 to 0x600000 is moved,
//! the pages before and behind it are copied.
//!
//! # Sources
//! ioctl_userfaultfd(2) (UFFDIO_MOVE), mm/userfaultfd.c (`move_pages`), mm/huge_memory.c (`move_pages_huge_pmd`,
//! `vma_adjust_trans_huge`), Documentation/admin-guide/mm/transhuge.rst.

use regrow_graph::cost::{CostModel, Moving};

use super::fill::join;
use super::numbers::{MAP_DROPPABLE, MAP_TYPE, PAGE};
use super::transparent::BLOCK;
use crate::image::ranges::{cut, meets};
use crate::image::{Extent, Vma, VmaKind};

/// A part of an address space: first address, and behind the last.
type Range = (u64, u64);

/// A task that sets itself up before it forks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forker<'a> {
    /// What it has mapped when it forks.
    pub(super) vmas: &'a [Vma],
    /// Its pages.
    pub(super) extents: &'a [Extent],
    /// Where it has pages of others when it forks.
    pub(super) old: &'a [Range],
    /// What it would fill behind its forks, for no heir has it.
    pub(super) late: &'a [Range],
    /// How many it forks.
    pub(super) forks: u64,
    /// How long it takes to get a huge page, in nanoseconds.
    pub(super) huge_page_ns: u64,
}

/// The blocks that a task is given so, in order; none if that is not worth it. What of them would be filled behind the forks
/// comes before these: its children copy it when they fill their own.
pub(super) fn blocks(costs: &CostModel, forker: &Forker<'_>) -> Vec<Range> {
    let gain = |block: &Range| {
        let late: u64 = cut(forker.late, block.0, block.1).map(|(from, to)| (to - from) / PAGE).sum();
        costs.saved_by_moving(Moving { forks: forker.forks, huge_page_ns: forker.huge_page_ns, late })
    };
    let blocks = whole(forker.extents, &ranges(forker.vmas));
    let blocks = blocks.into_iter().filter(|(start, end)| !meets(forker.old, *start, *end));
    let paying: Vec<(Range, i64)> =
        blocks.map(|block| (block, gain(&block))).filter(|(_, gain)| *gain > 0).collect();
    let gain = paying.iter().fold(0i64, |sum, (_, gain)| sum.saturating_add(*gain));
    if gain <= costs.moving() {
        return Vec::new();
    }
    paying.into_iter().map(|(block, _)| block).collect()
}

/// Where a task may get pages so. Both sides of a move are protected alike, and what is filled can be written.
fn ranges(vmas: &[Vma]) -> Vec<Range> {
    const RW: u32 = (libc::PROT_READ | libc::PROT_WRITE) as u32;
    let odd = (libc::MAP_LOCKED | libc::MAP_HUGETLB | libc::MAP_GROWSDOWN) as u32;
    let may = |vma: &&Vma| {
        vma.kind == VmaKind::AnonPrivate
            && vma.prot | libc::PROT_WRITE as u32 == RW
            && vma.flags & odd == 0
            && vma.flags & MAP_TYPE != MAP_DROPPABLE
            && vma.madvise == 0
    };
    vmas.iter().filter(may).map(|vma| (vma.start, vma.end)).collect()
}

/// Those of the ranges, which are sorted, that hold any of the extents.
pub(super) fn holding(ranges: &[Range], moved: &[Extent]) -> Vec<Range> {
    let is_in = |(start, end): &&Range| {
        let next = moved.partition_point(|extent| extent.start < *start);
        moved.get(next).is_some_and(|extent| extent.start < *end)
    };
    ranges.iter().filter(is_in).copied().collect()
}

/// The blocks within ranges of which all pages lie in one piece of an image.
fn whole(extents: &[Extent], ranges: &[Range]) -> Vec<Range> {
    let (mut blocks, mut runs) = (Vec::new(), Vec::new());
    for (start, end) in ranges {
        let first = extents.partition_point(|extent| extent.start + extent.len_pages * PAGE <= *start);
        let within = extents[first..].iter().map_while(|extent| extent.within(*start, *end));
        join(within, &mut runs);
        for run in &runs {
            let from = run.start.next_multiple_of(BLOCK);
            let to = run.start + run.len_pages * PAGE;
            blocks.extend((from..to).step_by(BLOCK as usize).map(|at| (at, at + BLOCK)));
            blocks.pop_if(|(_, end)| *end > to);
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::image::{Image, Origin, PagesImage};

    #[test]
    fn whole_blocks_of_one_piece() {
        const QUARTER: u64 = BLOCK / 4;
        // Extents as (first quarter, quarters, quarter of the image).
        let check = |extents: &[(u64, u64, u64)], ranges: &[Range], expected: &[Range]| {
            let extents: Vec<Extent> = extents
                .iter()
                .map(|(start, len, offset)| Extent {
                    start: start * QUARTER,
                    len_pages: len * QUARTER / PAGE,
                    image: PagesImage::own(1),
                    offset_bytes: offset * QUARTER,
                    entry: 0,
                })
                .collect();
            let quarters = |ranges: &[Range]| -> Vec<Range> {
                ranges.iter().map(|(start, end)| (start * QUARTER, end * QUARTER)).collect()
            };
            assert_eq!(whole(&extents, &quarters(ranges)), quarters(expected));
        };
        check(&[(3, 10, 0)], &[(0, 40)], &[(4, 8), (8, 12)]);
        check(&[(3, 10, 0)], &[(5, 40)], &[(8, 12)]);
        check(&[(3, 10, 0)], &[(0, 11)], &[(4, 8)]);
        check(&[(3, 4, 0)], &[(0, 40)], &[]);
        check(&[(4, 4, 0)], &[(0, 40)], &[(4, 8)]);
        check(&[(3, 10, 0)], &[], &[]);
        // Neighbours are one piece, unless they lie elsewhere in the image.
        check(&[(4, 2, 0), (6, 2, 2)], &[(0, 40)], &[(4, 8)]);
        check(&[(4, 2, 0), (6, 2, 3)], &[(0, 40)], &[]);
        check(&[(4, 4, 0), (8, 4, 9)], &[(0, 40)], &[(4, 8), (8, 12)]);
    }

    #[test]
    fn plain_memory_alone() {
        let vma = |prot: i32, flags: i32, madvise| Vma {
            start: BLOCK,
            end: 4 * BLOCK,
            prot: prot as u32,
            flags: (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags) as u32,
            status: 0,
            kind: VmaKind::AnonPrivate,
            madvise,
            origin: Origin::new(Image::Mm(1), 0),
        };
        let found = |vma: Vma| ranges(&[vma]).len();
        let (read, write, exec) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
        assert_eq!(found(vma(read | write, 0, 0)), 1);
        assert_eq!(found(vma(read, 0, 0)), 1);
        assert_eq!(found(vma(read | exec, 0, 0)), 0);
        assert_eq!(found(vma(0, 0, 0)), 0);
        for flag in [libc::MAP_LOCKED, libc::MAP_HUGETLB, libc::MAP_GROWSDOWN] {
            assert_eq!(found(vma(read | write, flag, 0)), 0);
        }
        for advice in [libc::MADV_HUGEPAGE, libc::MADV_NOHUGEPAGE, libc::MADV_DONTFORK] {
            assert_eq!(found(vma(read | write, 0, 1 << advice)), 0);
        }
    }

    #[test]
    fn only_what_pays() {
        let costs = CostModel::default();
        let extents = [Extent {
            start: BLOCK,
            len_pages: 16 * BLOCK / PAGE,
            image: PagesImage::own(1),
            offset_bytes: 0,
            entry: 0,
        }];
        let vma = Vma {
            start: 0,
            end: 40 * BLOCK,
            prot: (libc::PROT_READ | libc::PROT_WRITE) as u32,
            flags: (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u32,
            status: 0,
            kind: VmaKind::AnonPrivate,
            madvise: 0,
            origin: Origin::new(Image::Mm(1), 0),
        };
        let vmas = [vma];
        let found = |costs: &CostModel, forks, late: &[Range], old: &[Range]| {
            blocks(costs, &Forker { vmas: &vmas, extents: &extents, old, late, forks, huge_page_ns: 100_000 })
                .len()
        };
        assert_eq!(found(&costs, 15, &[], &[]), 16);
        // Some pages that no heir has do not matter, a whole block of them does.
        assert_eq!(found(&costs, 15, &[(2 * BLOCK, 2 * BLOCK + 5 * PAGE)], &[]), 16);
        assert_eq!(found(&costs, 15, &[(2 * BLOCK, 3 * BLOCK)], &[]), 15);
        // Others' pages are there.
        assert_eq!(found(&costs, 15, &[], &[(2 * BLOCK, 2 * BLOCK + PAGE)]), 15);
        let free = CostModel { fork_page_ns: 0.0, ..costs };
        assert_eq!(found(&free, 15, &[], &[]), 0);
        assert_eq!(found(&costs, 0, &[], &[]), 0);
    }
}
