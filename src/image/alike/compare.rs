//! Comparing stored pages: which of two tasks' hold the same, at the speed of the memory.
//!
//! What is to be compared is cut into pieces that all cores take turns at, also those of a single pair. A piece is read
//! into two buffers that stay in the cache of a core, and compared there, or where the page cache has it, if its image is
//! mapped ([`files`](super::files) says when). What is one stretch of one file is alike unread.
//!
//! A child's pages that are not alike are in a cache then: a hash of each is taken at once ([`Print`]), by which siblings
//! are compared with one another without reading them all again.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use foldhash::fast::FixedState;
use memmap2::Mmap;
use rayon::prelude::*;

use super::Run;
use super::files::{Files, Opened};
use crate::image::model::{Extent, PagesImage};
use crate::image::pagemap::PAGE_BYTES;

/// Pages are compared by so many bytes at a time.
const PAGE: usize = PAGE_BYTES as usize;
/// A piece of work for a core, in bytes: half of what is kept of parents, so that what the next child is compared with is
/// still there.
const PIECE: u64 = OF_PARENTS / 2;
/// Length of a buffer: all that a reader has stay in the second cache.
const BUFFER: u64 = 1 << 17;
/// What is kept of parents, in bytes: what all children of a small task are compared with is read once.
const OF_PARENTS: u64 = 4 * BUFFER;
/// In so many buffers.
const BUFFERS: usize = 32;
/// How many times each core comes for pieces.
const TURNS: usize = 32;
/// To read so much more costs hardly more than another call.
const CLOSE: u64 = 1 << 16;

/// Where stored pages are: image and offset.
pub(super) type Place = (PagesImage, u64);

/// A stretch of a child's stored pages, and what is at the same address in another task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// The address.
    pub(super) at: u64,
    /// Length in bytes.
    pub(super) len: u64,
    /// Where the child's are.
    pub(super) child: Place,
    /// Where the others are; `None`: there are none.
    pub(super) parent: Option<Place>,
}

/// What is to be compared.
#[derive(Debug, Clone, Default)]
pub(super) struct Task {
    /// By address.
    pub(super) spans: Vec<Span>,
    /// Where most of what is read at once is not alike, those of these pages have prints whose number, address by size,
    /// is a multiple of this; otherwise all that are not alike. 0: none has.
    pub(super) every: u64,
}

/// A page of a child that no other was found to be alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Print {
    /// Its address.
    pub(super) at: u64,
    /// A hash of its bytes: pages with different ones are not alike, others most likely are.
    pub(super) hash: u64,
    /// Where it is.
    pub(super) place: Place,
}

/// What was found out about a [`Task`], by address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// What is alike.
    pub(super) runs: Vec<Run>,
    /// Of what is not.
    pub(super) prints: Vec<Print>,
    /// Where not all of that have prints.
    pub(super) in_part: Vec<(u64, u64)>,
}

impl Span {
    /// The part from `by` on, at most `len` long.
    fn part(&self, by: u64, len: u64) -> Span {
        let further = |(image, from): Place| (image, from.saturating_add(by));
        Span {
            at: self.at.saturating_add(by),
            len: len.min(self.len.saturating_sub(by)),
            child: further(self.child),
            parent: self.parent.map(further),
        }
    }

    /// All of it as alike, where there is something, and something to be like.
    pub(super) fn run(&self) -> Option<Run> {
        let (parent, of_parent) = self.parent.filter(|_| self.len > 0)?;
        Some(Run {
            at: self.at,
            len: self.len,
            images: (parent, self.child.0),
            of_child: self.child.1,
            of_parent,
        })
    }
}

/// Where both have stored pages.
pub(super) fn spans(child: &[Extent], parent: &[Extent]) -> Vec<Span> {
    let mut spans = Vec::new();
    let (mut children, mut parents) = (child.iter().peekable(), parent.iter().peekable());
    while let (Some(a), Some(b)) = (children.peek(), parents.peek()) {
        let end = |extent: &Extent| extent.start.saturating_add(extent.len_pages.saturating_mul(PAGE_BYTES));
        let (at, behind) = (a.start.max(b.start), end(a).min(end(b)));
        if at < behind {
            let place =
                |extent: &Extent| (extent.image, extent.offset_bytes.saturating_add(at - extent.start));
            spans.push(Span { at, len: behind - at, child: place(a), parent: Some(place(b)) });
        }
        if end(a) <= end(b) {
            children.next();
        } else {
            parents.next();
        }
    }
    spans
}

/// Compares, on all cores. Pieces that are compared with the same place of a parent follow each other, so that it is read
/// once for many children.
pub(super) fn compare(files: &Files<'_>, tasks: &[Task]) -> Vec<Found> {
    let cut = |(task, it): (usize, &Task)| {
        let every = it.every;
        cut(&it.spans).into_iter().map(move |spans| Piece { task, every, spans })
    };
    let mut pieces: Vec<Piece> = tasks.par_iter().enumerate().flat_map_iter(cut).collect();
    pieces.par_sort_by_key(|piece| piece.spans.iter().find_map(|span| span.parent));
    let compare = |reader: &mut Reader<'_>, Piece { task, every, spans }: &Piece| {
        let first = spans.first().map_or(0, |span| span.at);
        ((*task, first), reader.compare(spans, *every))
    };
    // Without a limit each core would be given halves and quarters of all, and who is done early would have nothing to take.
    let at_once = (pieces.len() / (rayon::current_num_threads() * TURNS)).max(1);
    let mut found: Vec<((usize, u64), Found)> =
        pieces.par_iter().with_max_len(at_once).map_init(|| Reader::new(files), compare).collect();
    found.par_sort_by_key(|(place, _)| *place);
    let mut all = vec![Found::default(); tasks.len()];
    let of_tasks = found.par_chunk_by(|((one, _), _), ((other, _), _)| one == other);
    let joined: Vec<(usize, Found)> = of_tasks.map(|parts| (parts[0].0.0, Found::of(parts))).collect();
    for (task, found) in joined {
        all[task] = found;
    }
    all
}

impl Found {
    /// What was found out about the parts of a task.
    fn of(parts: &[((usize, u64), Found)]) -> Found {
        let parts = || parts.iter().map(|(_, found)| found);
        let mut all = Found {
            runs: Vec::with_capacity(parts().map(|found| found.runs.len()).sum()),
            prints: parts().flat_map(|found| &found.prints).copied().collect(),
            in_part: parts().flat_map(|found| &found.in_part).copied().collect(),
        };
        parts().flat_map(|found| &found.runs).for_each(|run| add(&mut all.runs, *run));
        all
    }
}

/// A piece of a task.
struct Piece {
    task: usize,
    every: u64,
    spans: Vec<Span>,
}

/// Adds a run to those before it, which it may continue.
fn add(runs: &mut Vec<Run>, run: Run) {
    match runs.last_mut() {
        Some(last)
            if last.images == run.images
                && (last.at + last.len, last.of_child + last.len, last.of_parent + last.len)
                    == (run.at, run.of_child, run.of_parent) =>
        {
            last.len += run.len;
        }
        _ => runs.push(run),
    }
}

/// Spans as pieces of work. They end where addresses are multiples of a piece's length, if they are half full: so those of
/// children that differ a little are compared with the same stretches of their parent all the same, which are read once.
fn cut(spans: &[Span]) -> Vec<Vec<Span>> {
    let mut pieces: Vec<Vec<Span>> = Vec::new();
    // All that a small child is compared with is kept, and its image is opened once.
    if spans.iter().fold(0, |sum: u64, span| sum.saturating_add(span.len)) <= PIECE {
        pieces.extend((!spans.is_empty()).then(|| spans.to_vec()));
        return pieces;
    }
    let (mut held, mut window) = (0, 0);
    for span in spans {
        let mut by = 0;
        while by < span.len {
            let at = span.at.saturating_add(by);
            let part = span.part(by, PIECE - at % PIECE);
            let is_full = held + part.len > PIECE || at / PIECE != window && held >= PIECE / 2;
            match pieces.last_mut().filter(|_| !is_full) {
                Some(piece) => {
                    piece.push(part);
                    held += part.len;
                }
                None => {
                    pieces.push(vec![part]);
                    held = part.len;
                }
            }
            window = at / PIECE;
            by += part.len;
        }
    }
    pieces
}

/// How many stretches, of places and lengths, can be read at once: one behind the other in one image, with little
/// between them, and together no longer than a buffer. Gives how many bytes, too. What has no place is not read.
fn together(stretches: impl IntoIterator<Item = (Option<Place>, u64)>) -> (usize, u64) {
    let (mut count, mut used, mut len) = (0, 0u64, 0);
    let mut first = None;
    for (place, here) in stretches {
        if let Some((image, from)) = place {
            let (other, at) = *first.get_or_insert((image, from));
            used = used.saturating_add(here);
            let end = from.checked_sub(at).and_then(|by| by.checked_add(here));
            let Some(end) = end.filter(|end| *end <= BUFFER && *end <= used.saturating_mul(2).max(CLOSE))
            else {
                break;
            };
            if image != other {
                break;
            }
            len = end.max(len);
        }
        count += 1;
    }
    (count, len)
}

/// Reads pages images into its buffers.
struct Reader<'a> {
    files: &'a Files<'a>,
    child: Buffer,
    /// What was read last is the last.
    parents: VecDeque<Buffer>,
    /// Pages of the child that are not alike.
    others: Vec<Span>,
    hash: FixedState,
}

/// Bytes of a pages image.
#[derive(Debug, Default)]
struct Buffer {
    /// Where they are from, and how many were asked for.
    of: Option<(Place, u64)>,
    /// The image, where it is mapped: they are there.
    mapped: Option<Arc<Mmap>>,
    /// Else they are here,
    bytes: Vec<u8>,
    /// so many.
    len: usize,
}

impl Buffer {
    /// How many were asked for.
    fn asked(&self) -> u64 {
        self.of.map_or(0, |(_, asked)| asked)
    }

    /// Whether all of a stretch was asked for, or is there anyway.
    fn covers(&self, (image, from): Place, len: u64) -> bool {
        self.of.is_some_and(|((other, at), asked)| {
            let was_asked_for = || at <= from && from.saturating_add(len) <= at.saturating_add(asked);
            image == other && (self.mapped.is_some() || was_asked_for())
        })
    }

    /// The page at an offset of the image.
    fn page(&self, offset: u64) -> Option<&[u8]> {
        let ((_, first), _) = self.of?;
        let (bytes, from) = match self.mapped.as_deref() {
            Some(image) => (&image[..], offset),
            None => (&self.bytes[..self.len], offset.checked_sub(first)?),
        };
        let from = usize::try_from(from).ok()?;
        bytes.get(from..from.checked_add(PAGE)?)
    }

    fn fill(&mut self, files: &Files<'_>, place: Place, len: u64) {
        // What is mapped is there.
        if self.mapped.is_some() && self.covers(place, len) {
            self.of = Some((place, len));
            return;
        }
        self.of = Some((place, len));
        self.len = 0;
        self.mapped = None;
        let len = usize::try_from(len.min(BUFFER)).unwrap_or(0);
        let file = match files.open(place.0) {
            None => return,
            Some(Opened::Mapped(mapped)) => {
                self.mapped = Some(mapped);
                return;
            }
            Some(Opened::Read(file)) => file,
        };
        if self.bytes.len() < len {
            // What was read before is of no use; new memory is zero already.
            self.bytes = vec![0; len];
        }
        while self.len < len {
            let into = &mut self.bytes[self.len..len];
            match file.read_at(into, place.1.saturating_add(self.len as u64)) {
                Ok(0) | Err(_) => break,
                Ok(more) => self.len += more,
            }
        }
    }
}

impl<'a> Reader<'a> {
    fn new(files: &'a Files<'a>) -> Reader<'a> {
        let (child, parents, others) = (Buffer::default(), VecDeque::new(), Vec::new());
        Reader { files, child, parents, others, hash: FixedState::default() }
    }

    /// The pages that hold the same, and prints of `every` other. What cannot be read is like nothing.
    fn compare(&mut self, spans: &[Span], every: u64) -> Found {
        let mut found = Found::default();
        let mut left = spans;
        while let Some(first) = left.first() {
            if first.parent == Some(first.child) {
                first.run().into_iter().for_each(|run| add(&mut found.runs, run));
                left = &left[1..];
                continue;
            }
            let others = left.iter().take_while(|span| span.parent != Some(span.child));
            let (count, len) = together(others.map(|span| (Some(span.child), span.len)));
            if count == 0 {
                // Longer than a buffer.
                let mut by = 0;
                while by < first.len {
                    let part = first.part(by, BUFFER);
                    self.compare_together(&[part], part.len, every, &mut found);
                    by += part.len;
                }
                left = &left[1..];
                continue;
            }
            self.compare_together(&left[..count], len, every, &mut found);
            left = &left[count..];
        }
        found
    }

    /// As [`Reader::compare`]: of the child no more than `len` bytes are read, and at once.
    fn compare_together(&mut self, spans: &[Span], len: u64, every: u64, found: &mut Found) {
        let Some(first) = spans.first() else { return };
        self.child.fill(self.files, first.child, len);
        self.others.clear();
        let mut left = spans;
        while !left.is_empty() {
            let (count, len) = together(left.iter().map(|span| (span.parent, span.len)));
            let (here, behind) = left.split_at(count.max(1));
            if let Some(place) = here.iter().find_map(|span| span.parent) {
                self.read_parent(place, len);
            }
            here.iter().for_each(|span| self.compare_pages(span, found));
            left = behind;
        }
        if every != 0 {
            self.print_others(spans, every, found);
        }
    }

    /// Prints of the child's pages that are not alike. To hash a page costs less than to read it again, and more than to
    /// leave it: where most are others, they are most likely the child's own.
    fn print_others(&self, spans: &[Span], every: u64, found: &mut Found) {
        let compared = spans.iter().filter(|span| span.parent.is_some());
        let compared_bytes = compared.fold(0u64, |sum, span| sum.saturating_add(span.len));
        let others = self.others.iter().filter(|page| page.parent.is_some()).count() as u64;
        let are_few = others.saturating_mul(2 * PAGE_BYTES) <= compared_bytes;
        for page in &self.others {
            let is_wanted = are_few && page.parent.is_some() || (page.at / PAGE_BYTES).is_multiple_of(every);
            if let Some(bytes) = self.child.page(page.child.1).filter(|_| is_wanted) {
                let mut hasher = self.hash.build_hasher();
                hasher.write(bytes);
                found.prints.push(Print { at: page.at, hash: hasher.finish(), place: page.child });
            }
        }
        if every != 1 && !are_few {
            found.in_part.extend(spans.iter().map(|span| (span.at, span.at.saturating_add(span.len))));
        }
    }

    /// The child's pages have been read, and the parent's last.
    fn compare_pages(&mut self, span: &Span, found: &mut Found) {
        let parent = self.parents.back();
        // Pages that are alike, so far, from here on.
        let (mut from, mut at) = (0, 0);
        while at < span.len {
            let page = span.part(at, PAGE_BYTES);
            let ours = self.child.page(page.child.1);
            let theirs = page.parent.and_then(|(_, offset)| parent?.page(offset));
            if ours.is_none() || ours != theirs {
                span.part(from, at - from).run().into_iter().for_each(|run| add(&mut found.runs, run));
                self.others.extend(ours.map(|_| page));
                from = at.saturating_add(PAGE_BYTES);
            }
            at = at.saturating_add(PAGE_BYTES);
        }
        span.part(from, at.saturating_sub(from)).run().into_iter().for_each(|run| add(&mut found.runs, run));
    }

    /// Has it as the last of the parents' buffers.
    fn read_parent(&mut self, place: Place, len: u64) {
        if let Some(at) = self.parents.iter().position(|held| held.covers(place, len)) {
            let held = self.parents.remove(at);
            self.parents.extend(held);
            return;
        }
        let mut held: u64 = self.parents.iter().map(Buffer::asked).sum();
        let mut buffer = Buffer::default();
        while self.parents.len() >= BUFFERS || held.saturating_add(len) > OF_PARENTS {
            let Some(oldest) = self.parents.pop_front() else { break };
            held -= oldest.asked();
            buffer = oldest;
        }
        buffer.fill(self.files, place, len);
        self.parents.push_back(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: u32) -> PagesImage {
        PagesImage::own(id)
    }

    fn span(at: u64, len: u64, child: u64, parent: u64) -> Span {
        Span {
            at: at << 12,
            len: len << 12,
            child: (image(1), child << 12),
            parent: Some((image(2), parent << 12)),
        }
    }

    #[test]
    fn pieces_are_all_of_it() {
        let spans = [span(0, 300, 0, 7), span(1000, 1, 300, 400), span(2000, 600, 301, 500)];
        let pieces = cut(&spans);
        // The page at 1000 is no reason for a piece of its own.
        let firsts: Vec<u64> = pieces.iter().map(|piece| piece[0].at >> 12).collect();
        let expected = [0, 64, 128, 192, 256, 1000, 2048, 2112, 2176, 2240, 2304, 2368, 2432, 2496, 2560];
        assert_eq!(firsts, expected);
        assert!(pieces.iter().all(|piece| piece.iter().map(|it| it.len).sum::<u64>() <= PIECE));
        // Where the second child has no page, it is cut as the first all the same.
        let other = cut(&[span(0, 70, 0, 7), span(71, 229, 70, 78)]);
        assert!(other.iter().map(|piece| piece[0].at >> 12).eq([0, 64, 128, 192, 256]));
        let pages = |spans: &[Span]| -> Vec<(u64, u64, u64)> {
            let of = |span: &Span| {
                (0..span.len >> 12)
                    .map(|page| {
                        let parent = span.parent.map_or(0, |(_, offset)| offset >> 12);
                        ((span.at >> 12) + page, (span.child.1 >> 12) + page, parent + page)
                    })
                    .collect::<Vec<_>>()
            };
            spans.iter().flat_map(of).collect()
        };
        assert_eq!(pages(&pieces.concat()), pages(&spans));
        assert!(cut(&[]).is_empty());
        // All of a small one, wherever it is.
        assert_eq!(cut(&[span(60, 30, 0, 7), span(1000, 34, 30, 400)]).len(), 1);
        assert_eq!(cut(&[span(60, 30, 0, 7), span(1000, 35, 30, 400)]).len(), 2);
    }

    #[test]
    fn what_is_read_at_once() {
        /// Pages of images, as (image, first, pages); image 0: none.
        fn check(stretches: &[(u32, u64, u64)], expected: (usize, u64)) {
            let place = |id, first: u64| (id != 0).then(|| (image(id), first << 12));
            let (count, len) =
                together(stretches.iter().map(|(id, first, len)| (place(*id, *first), len << 12)));
            assert_eq!((count, len >> 12), expected, "{stretches:?}");
        }
        let every_second: Vec<(u32, u64, u64)> = (0..9).map(|n| (1, 2 * n, 1)).collect();
        check(&every_second, (9, 17));
        // Too far apart, in front of the others, or elsewhere.
        check(&[(1, 0, 1), (1, 9, 1)], (2, 10));
        check(&[(1, 0, 1), (1, 20, 1)], (1, 1));
        check(&[(1, 5, 1), (1, 4, 1)], (1, 1));
        check(&[(1, 5, 1), (2, 6, 1)], (1, 1));
        // All of a buffer, and no more.
        check(&[(1, 0, 20), (1, 20, 12)], (2, 32));
        check(&[(1, 0, 20), (1, 20, 13)], (1, 20));
        check(&[(1, 0, 33)], (0, 0));
        // What is nowhere is no reason to stop.
        check(&[(0, 0, 99), (1, 7, 1), (0, 0, 1), (1, 8, 1), (2, 9, 1)], (4, 2));
        check(&[], (0, 0));
    }
}
