//! Which pages a task is given by way of huge pages, so that its forks are cheap.
//!
//! `fork(2)` copies an entry of the page table for each page, and counts it in the page's own memory. Of pages that were
//! brought as one huge page it does so together (mm/memory.c, `copy_present_ptes`), also where each has an entry of its
//! own. So blocks of which all or nearly all is stored, of a task that forks when it has them, are read into memory that may
//! have huge pages, moved into place by a userfaultfd, and parted there: nothing in `/proc/PID/smaps` tells them from others,
//! and a write copies a page of 4 KiB as ever. What is missing in a block, or comes from elsewhere, is dropped when the block
//! is in place.
//!
//! Only memory without advice is given pages so, and only as many as are free in such pieces ([`transparent`](super::transparent)): who has
//! said that it is to have huge pages gets them, who has said that it is not gets none. Where the host has none for those
//! who ask, or takes long to get one, nobody gets any.
//!
//! Worked example: a server with 5 MiB of pages from 0x1ff000 on, but for the one at 0x300000, which forks two workers: 0x200000
//! to 0x600000 is moved, 0x300000 is dropped, the pages before and behind it are copied.
//!
//! # Sources
//! ioctl_userfaultfd(2) (UFFDIO_MOVE), mm/userfaultfd.c (`move_pages`), mm/huge_memory.c (`move_pages_huge_pmd`,
//! `vma_adjust_trans_huge`), Documentation/admin-guide/mm/transhuge.rst.

use regrow_graph::cost::{CostModel, Moving};

use super::numbers::{MAP_DROPPABLE, MAP_TYPE, PAGE};
use super::transparent::BLOCK;
use crate::image::ranges::{cut, parted, range, stored};
use crate::image::{Extent, PagesImage, Vma, VmaKind};

/// Pages of a block.
const BLOCK_PAGES: u64 = BLOCK / PAGE;
/// Of so many at most a block may have nothing. The kernel keeps their memory until it is short of some (mm/huge_memory.c,
/// `deferred_split_scan`).
const MISSING: u64 = BLOCK_PAGES / 16;

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
    let gain = |block: &Block| {
        let (start, end) = block.range();
        let late: u64 = cut(forker.late, start, end).map(|(from, to)| (to - from) / PAGE).sum();
        let (forks, huge_page_ns) = (forker.forks, forker.huge_page_ns);
        costs.saved_by_moving(Moving { forks, huge_page_ns, late, pages: block.pages, holes: block.holes })
    };
    let blocks = dense(forker.extents, &ranges(forker.vmas), forker.old);
    let paying: Vec<(Range, i64)> =
        blocks.iter().map(|block| (block.range(), gain(block))).filter(|(_, gain)| *gain > 0).collect();
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

/// A block, and what of it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    start: u64,
    /// The image that has the first of its pages,
    image: PagesImage,
    /// and whether it has all.
    is_of_one: bool,
    /// Behind the last of them.
    end: u64,
    /// How many there are.
    pages: u64,
    /// How many gaps there are between them, and before and behind them.
    holes: u64,
}

impl Block {
    fn range(&self) -> Range {
        (self.start, self.start + BLOCK)
    }

    /// When there are no more pages: what is behind the last is a hole, too.
    fn ended(mut self) -> Block {
        self.holes += u64::from(self.end < self.start + BLOCK);
        self
    }
}

/// The blocks within ranges of which nearly all pages are stored, in one image. What is in `others` has pages from elsewhere.
fn dense(extents: &[Extent], ranges: &[Range], others: &[Range]) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for (start, end) in ranges {
        let (first, behind) = (start.next_multiple_of(BLOCK), end / BLOCK * BLOCK);
        if first >= behind {
            continue;
        }
        let within: Vec<Extent> = stored(extents, first, behind).collect();
        for extent in parted(&within, others).0 {
            let (mut from, to) = range(&extent);
            while from < to {
                let start = from / BLOCK * BLOCK;
                let end = to.min(start + BLOCK);
                let pages = (end - from) / PAGE;
                match blocks.last_mut().filter(|block| block.start == start) {
                    Some(block) => {
                        block.holes += u64::from(block.end < from);
                        block.is_of_one &= block.image == extent.image;
                        block.pages += pages;
                        block.end = end;
                    }
                    None => {
                        let (image, holes) = (extent.image, u64::from(start < from));
                        blocks.push(Block { start, image, is_of_one: true, end, pages, holes });
                    }
                }
                from = end;
            }
        }
    }
    let is_dense = |block: &Block| block.is_of_one && block.pages + MISSING >= BLOCK_PAGES;
    blocks.into_iter().filter(is_dense).map(Block::ended).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::image::{Image, Origin, PagesImage};

    #[test]
    fn dense_blocks_of_one_image() {
        // Extents as (first page, pages, image), ranges in pages; expected as (number, pages, holes).
        let check = |extents: &[(u64, u64, u32)],
                     ranges: &[Range],
                     others: &[Range],
                     expected: &[(u64, u64, u64)]| {
            let extents: Vec<Extent> = extents
                .iter()
                .map(|(start, len_pages, image)| Extent {
                    start: start * PAGE,
                    len_pages: *len_pages,
                    image: PagesImage::own(*image),
                    offset_bytes: start * PAGE,
                    entry: 0,
                })
                .collect();
            let bytes = |ranges: &[Range]| -> Vec<Range> {
                ranges.iter().map(|(start, end)| (start * PAGE, end * PAGE)).collect()
            };
            let found: Vec<_> = dense(&extents, &bytes(ranges), &bytes(others))
                .iter()
                .map(|block| (block.start / BLOCK, block.pages, block.holes))
                .collect();
            assert_eq!(found, expected);
        };
        let all = [(0, 5000)];
        check(&[(300, 1300, 1)], &all, &[], &[(1, 512, 0), (2, 512, 0)]);
        // Within a mapping.
        check(&[(300, 1300, 1)], &[(513, 5000)], &[], &[(2, 512, 0)]);
        check(&[(300, 1300, 1)], &[(0, 1535)], &[], &[(1, 512, 0)]);
        check(&[(300, 1300, 1)], &[], &[], &[]);
        check(&[(300, 1300, 1)], &[(0, 700), (700, 1300)], &[], &[]);
        // With holes at its beginning, in it, and at its end.
        check(&[(513, 99, 1), (613, 400, 1)], &all, &[], &[(1, 499, 3)]);
        check(&[(512, 480, 1)], &all, &[], &[(1, 480, 1)]);
        check(&[(512, 479, 1)], &all, &[], &[]);
        check(&[(512, 600, 1)], &all, &[(520, 530), (600, 601)], &[(1, 501, 2)]);
        // Neighbours are one, also where they lie elsewhere in the image.
        check(&[(512, 100, 1), (612, 412, 1)], &all, &[], &[(1, 512, 0)]);
        check(&[(512, 511, 1), (1023, 513, 2)], &all, &[], &[(2, 512, 0)]);
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
        // Where others' pages are to be there it is as if there were none.
        assert_eq!(found(&costs, 15, &[], &[(2 * BLOCK, 2 * BLOCK + PAGE)]), 16);
        assert_eq!(found(&costs, 15, &[], &[(2 * BLOCK, 2 * BLOCK + 33 * PAGE)]), 15);
        let free = CostModel { fork_page_ns: 0.0, ..costs };
        assert_eq!(found(&free, 15, &[], &[]), 0);
        assert_eq!(found(&costs, 0, &[], &[]), 0);
    }
}
