//! Which reads, moves and drops bring blocks of pages into place by way of huge pages.
//!
//! Blocks lie in the stage one behind the other, whatever is between them where they go; so neighbours in one mapping are moved together. What of
//! a block is not stored is read, too, whatever it is: a block must be there as a whole to be moved as one. Behind the move it
//! is dropped, which also parts the block. A block without anything missing is parted by protecting a page of it for a moment.
//!
//! Worked example: of two blocks at 0x200000 and 0x400000 all is stored at 0 of the image but for the page at 0x3ff000. With a stage
//! at S, 511 pages at 0 are read to S, one page at 0 to S + 0x1ff000, 512 pages at 0x1ff000 to S + 0x200000; both blocks are moved from S; the page at
//! 0x3ff000 is dropped, and that at 0x400000 protected and let go.

use std::collections::BTreeSet;

use crate::resolve::BLOCK;
use crate::resolve::numbers::PAGE;
use crate::resolve::recipe::Copying;

/// A part of an address space: first address, and behind the last.
type Range = (u64, u64);

/// Neighbouring blocks that one task brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blocks {
    /// Where they go.
    pub(super) to: u64,
    /// Where they are moved from.
    pub(super) from: u64,
    /// Length in bytes.
    pub(super) len: u64,
    /// What is read before that.
    pub(super) reads: Vec<Read>,
}

/// What is read into a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Read {
    /// Where to.
    pub(super) to: u64,
    /// Where it is in the image, in bytes.
    pub(super) offset: u64,
    /// Length in bytes.
    pub(super) len: u64,
}

/// A block, with its pieces: where they go, their offset in the image, and their length.
#[derive(Debug)]
struct Block {
    start: u64,
    pieces: Vec<Read>,
}

/// What each brings: the task itself first, then its guests. No block is parted among them.
pub(super) fn shares(copying: &Copying) -> Vec<Vec<Blocks>> {
    let blocks = blocks(copying);
    let each = blocks.len().div_ceil(copying.guests.len() + 1).max(1);
    // One move goes into one mapping.
    let starts: BTreeSet<u64> = copying.mappings.iter().map(|(start, _)| *start).collect();
    let mut from = copying.source;
    let mut share = |blocks: &[Block]| {
        let mut all: Vec<Blocks> = Vec::new();
        for block in blocks {
            let is_next =
                |last: &&mut Blocks| last.to + last.len == block.start && !starts.contains(&block.start);
            match all.last_mut().filter(is_next) {
                Some(last) => last.len += BLOCK,
                None => all.push(Blocks { to: block.start, from, len: BLOCK, reads: Vec::new() }),
            }
            if let Some(last) = all.last_mut() {
                block.reads(from).for_each(|read| add(&mut last.reads, read));
            }
            from += BLOCK;
        }
        all
    };
    blocks.chunks(each).map(&mut share).collect()
}

/// What must be dropped when all blocks are in place.
pub(super) fn missing(copying: &Copying) -> Vec<Range> {
    let mut missing: Vec<Range> = Vec::new();
    for (start, end) in blocks(copying).iter().flat_map(Block::missing) {
        match missing.last_mut().filter(|last| last.1 == start) {
            Some(last) => last.1 = end,
            None => missing.push((start, end)),
        }
    }
    missing
}

/// Pages at whose protection and back those blocks are parted of which nothing is dropped: first address and length. Two
/// neighbours at once, by the pages at their border.
pub(super) fn partings(copying: &Copying) -> Vec<(u64, u64)> {
    let blocks = blocks(copying);
    let whole = blocks.iter().filter(|block| block.missing().is_empty()).map(|block| block.start);
    let mut partings: Vec<(u64, u64)> = Vec::new();
    for start in whole {
        match partings.last_mut().filter(|(at, len)| (*at + BLOCK, *len) == (start, PAGE)) {
            Some(last) => *last = (start - PAGE, 2 * PAGE),
            None => partings.push((start, PAGE)),
        }
    }
    partings
}

/// The blocks of all pieces, by address.
fn blocks(copying: &Copying) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for (to, offset, len) in &copying.pieces {
        let mut done = 0;
        while done < *len {
            let at = to + done;
            let start = at / BLOCK * BLOCK;
            let now = (start + BLOCK - at).min(len - done);
            let piece = Read { to: at, offset: offset + done, len: now };
            match blocks.last_mut().filter(|block| block.start == start) {
                Some(block) => block.pieces.push(piece),
                None => blocks.push(Block { start, pieces: vec![piece] }),
            }
            done += now;
        }
    }
    blocks
}

impl Block {
    /// What no piece has.
    fn missing(&self) -> Vec<Range> {
        let starts = self.pieces.iter().map(|piece| piece.to).chain([self.start + BLOCK]);
        let ends = [self.start].into_iter().chain(self.pieces.iter().map(|piece| piece.to + piece.len));
        ends.zip(starts).filter(|(end, start)| end < start).collect()
    }

    /// What is read if the block is at `stage` then. In place of what is missing it is what the image has there, if it has something
    /// between the pieces before and behind it, or what the first of the pieces have, which are longer.
    fn reads(&self, stage: u64) -> impl Iterator<Item = Read> {
        let first = self.pieces.iter().map(|piece| piece.offset).min().unwrap_or(0);
        let is_between = |offset: &u64, len: u64| {
            let behind = offset + len;
            self.pieces.iter().any(|piece| piece.offset == behind)
        };
        let instead = |(start, end): (u64, u64)| {
            let len = end - start;
            let before = self.pieces.iter().find(|piece| piece.to + piece.len == start);
            let between =
                before.map(|piece| piece.offset + piece.len).filter(|offset| is_between(offset, len));
            Read { to: start, offset: between.unwrap_or(first), len }
        };
        let others = self.missing().into_iter().map(instead);
        let mut reads: Vec<Read> = self.pieces.iter().copied().chain(others).collect();
        reads.sort_unstable_by_key(|read| read.to);
        let start = self.start;
        reads.into_iter().map(move |read| Read { to: stage + (read.to - start), ..read })
    }
}

/// Adds a read to those before it, which it may continue.
fn add(reads: &mut Vec<Read>, read: Read) {
    match reads.last_mut() {
        Some(last) if (last.to + last.len, last.offset + last.len) == (read.to, read.offset) => {
            last.len += read.len;
        }
        _ => reads.push(read),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::resolve::recipe::PagesFrom;

    /// Where the stage is, in pages.
    const STAGE: u64 = 1 << 20;

    /// Pieces as (page, page of the image, pages).
    fn copying(pieces: &[(u64, u64, u64)], guests: u32) -> Copying {
        Copying {
            mappings: Vec::new(),
            from: PagesFrom::Stage,
            source: STAGE * PAGE,
            len: 0,
            pieces: pieces.iter().map(|(to, offset, len)| (to * PAGE, offset * PAGE, len * PAGE)).collect(),
            guests: (0..guests).collect(),
        }
    }

    fn pages(ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
        ranges.iter().map(|(from, to)| (from / PAGE, to / PAGE)).collect()
    }

    #[test]
    fn what_each_brings() {
        // Moves as (to, from, pages), reads as (to, of the image, pages).
        type Moves<'a> = &'a [((u64, u64, u64), &'a [(u64, u64, u64)])];
        let check = |pieces: &[(u64, u64, u64)], guests, expected: &[Moves<'_>]| {
            let shares = shares(&copying(pieces, guests));
            assert_eq!(shares.len(), expected.len());
            for (share, expected) in shares.iter().zip(expected) {
                let shown: Vec<_> = share
                    .iter()
                    .map(|blocks| {
                        let reads = blocks.reads.iter();
                        let reads: Vec<_> =
                            reads.map(|it| (it.to / PAGE - STAGE, it.offset / PAGE, it.len / PAGE)).collect();
                        ((blocks.to / PAGE, blocks.from / PAGE - STAGE, blocks.len / PAGE), reads)
                    })
                    .collect();
                let expected: Vec<_> =
                    expected.iter().map(|(moved, reads)| (*moved, reads.to_vec())).collect();
                assert_eq!(shown, expected);
            }
        };
        check(&[(512, 7, 1536)], 0, &[&[((512, 0, 1536), &[(0, 7, 1536)])]]);
        check(
            &[(512, 7, 1536)],
            1,
            &[&[((512, 0, 1024), &[(0, 7, 1024)])], &[((1536, 1024, 512), &[(1024, 1031, 512)])]],
        );
        // Nobody comes for nothing.
        check(&[(512, 7, 512)], 3, &[&[((512, 0, 512), &[(0, 7, 512)])]]);
        // Blocks that are no neighbours are one behind the other in the stage.
        check(
            &[(512, 7, 512), (2048, 519, 512)],
            0,
            &[&[((512, 0, 512), &[(0, 7, 512)]), ((2048, 512, 512), &[(512, 519, 512)])]],
        );
        // A page is missing in the first, the first and the last two in the second; in place of what is missing comes what the
        // first piece of the block has, which may be what comes next in the image anyway.
        check(
            &[(512, 7, 100), (613, 107, 411), (1025, 518, 509)],
            0,
            &[&[(
                (512, 0, 1024),
                &[(0, 7, 100), (100, 7, 1), (101, 107, 412), (513, 518, 509), (1022, 518, 2)],
            )]],
        );
        // The image has something in its place, which is read with its neighbours.
        check(&[(512, 7, 100), (613, 108, 411)], 0, &[&[((512, 0, 512), &[(0, 7, 512)])]]);
    }

    #[test]
    fn one_move_goes_into_one_mapping() {
        let mappings = [(512 * PAGE, 1024 * PAGE), (1536 * PAGE, 2000 * PAGE)].to_vec();
        let shares = shares(&Copying { mappings, ..copying(&[(512, 7, 1536)], 0) });
        let moved: Vec<_> =
            shares[0].iter().map(|it| (it.to / PAGE, it.from / PAGE - STAGE, it.len / PAGE)).collect();
        assert_eq!(moved, [(512, 0, 1024), (1536, 1024, 512)]);
    }

    #[test]
    fn what_is_dropped() {
        let check = |pieces: &[(u64, u64, u64)], expected: &[(u64, u64)]| {
            assert_eq!(pages(&missing(&copying(pieces, 0))), expected);
        };
        check(&[(512, 7, 1536)], &[]);
        check(&[(512, 7, 100), (613, 107, 411), (1025, 518, 509)], &[(612, 613), (1024, 1025), (1534, 1536)]);
        // At the border of neighbours at once.
        check(&[(512, 7, 510), (1025, 517, 511)], &[(1022, 1025)]);
        check(&[(512, 7, 510), (2048, 517, 512)], &[(1022, 1024)]);
    }

    #[test]
    fn every_whole_block_is_parted_once() {
        let check = |pieces: &[(u64, u64, u64)], expected: &[(u64, u64)]| {
            assert_eq!(pages(&partings(&copying(pieces, 0))), expected);
        };
        check(&[(512, 7, 512)], &[(512, 1)]);
        check(&[(512, 7, 1024)], &[(1023, 2)]);
        check(&[(512, 7, 1536)], &[(1023, 2), (1536, 1)]);
        check(&[(512, 7, 512), (2048, 519, 512)], &[(512, 1), (2048, 1)]);
        // The second loses a page.
        check(&[(512, 7, 1023), (1536, 1030, 512)], &[(512, 1), (1536, 1)]);
        check(&[], &[]);
    }
}
