//! Comparing stored pages: which of two tasks' hold the same, at the speed of the memory.
//!
//! What is to be compared is cut into pieces that all cores take turns at, also those of a single pair. A piece is read
//! into two buffers that stay in the cache of a core, and compared there: nothing is mapped and unmapped, of whose end
//! each core would be told. `benches/compare.rs` measures both. What is one stretch of one file is alike unread.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use rayon::prelude::*;

use super::Run;
use crate::image::model::{Extent, PagesImage};
use crate::image::pagemap::PAGE_BYTES;

/// Pages are compared by so many bytes at a time.
const PAGE: usize = PAGE_BYTES as usize;
/// A piece of work for a core, in bytes: some hundred microseconds.
const PIECE: u64 = 1 << 20;
/// Length of a buffer: two of them stay in the second cache.
const BUFFER: u64 = 1 << 17;
/// To read so much more costs hardly more than another call.
const CLOSE: u64 = 1 << 16;
/// So many files stay open between two reads: images of a few tasks.
const OPEN: usize = 8;

/// Where a pages image is.
pub(super) type Paths<'a> = dyn Fn(PagesImage) -> PathBuf + Sync + 'a;

/// Two stretches of stored pages, at one address in two tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// The address.
    pub(super) at: u64,
    /// Length in bytes.
    pub(super) len: u64,
    /// Where the child's are: image and offset.
    pub(super) child: (PagesImage, u64),
    /// Where the others are.
    pub(super) parent: (PagesImage, u64),
}

impl Span {
    /// The part from `by` on, at most `len` long.
    fn part(&self, by: u64, len: u64) -> Span {
        let further = |(image, from): (PagesImage, u64)| (image, from.saturating_add(by));
        Span {
            at: self.at.saturating_add(by),
            len: len.min(self.len.saturating_sub(by)),
            child: further(self.child),
            parent: further(self.parent),
        }
    }

    pub(super) fn run(&self) -> Run {
        let images = (self.parent.0, self.child.0);
        Run { at: self.at, len: self.len, images, of_child: self.child.1, of_parent: self.parent.1 }
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
            spans.push(Span { at, len: behind - at, child: place(a), parent: place(b) });
        }
        if end(a) <= end(b) {
            children.next();
        } else {
            parents.next();
        }
    }
    spans
}

/// The pages of each list of spans that hold the same, by address.
pub(super) fn alike(paths: &Paths<'_>, lists: &[Vec<Span>]) -> Vec<Vec<Run>> {
    let pieces: Vec<(usize, Vec<Span>)> = lists
        .iter()
        .enumerate()
        .flat_map(|(list, spans)| cut(spans).into_iter().map(move |it| (list, it)))
        .collect();
    let compare =
        |reader: &mut Reader<'_>, (list, spans): &(usize, Vec<Span>)| (*list, reader.compare(spans));
    let found: Vec<(usize, Vec<Run>)> = pieces.par_iter().map_init(|| Reader::new(paths), compare).collect();
    let mut all = vec![Vec::new(); lists.len()];
    for (list, runs) in found {
        for run in runs {
            add(&mut all[list], run);
        }
    }
    all
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

/// Spans as pieces of work.
fn cut(spans: &[Span]) -> Vec<Vec<Span>> {
    let mut pieces: Vec<Vec<Span>> = Vec::new();
    let mut left = 0;
    for span in spans {
        let mut by = 0;
        while by < span.len {
            if left == 0 {
                pieces.push(Vec::new());
                left = PIECE;
            }
            let part = span.part(by, left);
            if let Some(piece) = pieces.last_mut() {
                piece.push(part);
            }
            by += part.len;
            left -= part.len;
        }
    }
    pieces
}

/// How many of the spans can be read at once: one behind the other in both images, with little between them, and
/// together no longer than a buffer. Gives how many bytes of each.
fn together(spans: &[Span]) -> (usize, [u64; 2]) {
    let Some(first) = spans.first() else { return (0, [0; 2]) };
    let mut used = 0u64;
    let (mut count, mut lengths) = (0, [0; 2]);
    for span in spans {
        used = used.saturating_add(span.len);
        let behind = |(image, from): (PagesImage, u64), (other, at): (PagesImage, u64)| {
            let end = from.checked_sub(at)?.checked_add(span.len)?;
            (image == other && end <= BUFFER && end <= used.saturating_mul(2).max(CLOSE)).then_some(end)
        };
        let (Some(child), Some(parent)) =
            (behind(span.child, first.child), behind(span.parent, first.parent))
        else {
            break;
        };
        count += 1;
        lengths = [lengths[0].max(child), lengths[1].max(parent)];
    }
    (count, lengths)
}

/// Reads pages images into its buffers.
pub(super) struct Reader<'a> {
    paths: &'a Paths<'a>,
    open: Vec<(PagesImage, Option<File>)>,
    buffers: [Vec<u8>; 2],
}

impl<'a> Reader<'a> {
    pub(super) fn new(paths: &'a Paths<'a>) -> Reader<'a> {
        Reader { paths, open: Vec::new(), buffers: [Vec::new(), Vec::new()] }
    }

    /// Whether any of a few pages of a list is alike: where none is, hardly any other will be. Of what is read at once
    /// all are looked at.
    pub(super) fn any_of_few(&mut self, spans: &[Span]) -> bool {
        const AT_LEAST: u64 = 8;
        const ONE_OF: u64 = 64;
        let pages = spans.iter().fold(0u64, |sum, span| sum.saturating_add(span.len / PAGE_BYTES));
        if pages <= BUFFER / PAGE_BYTES {
            return !self.compare(spans).is_empty();
        }
        let samples = AT_LEAST + pages / ONE_OF;
        let (mut before, mut sample) = (0, 0);
        for span in spans {
            let here = span.len / PAGE_BYTES;
            while sample < samples {
                let page =
                    u64::try_from(u128::from(sample) * u128::from(pages) / u128::from(samples)).unwrap_or(0);
                let Some(page) = page.checked_sub(before).filter(|page| *page < here) else { break };
                if !self.compare(&[span.part(page * PAGE_BYTES, PAGE_BYTES)]).is_empty() {
                    return true;
                }
                sample += 1;
            }
            before += here;
        }
        false
    }

    /// The pages that hold the same. What cannot be read is like nothing.
    fn compare(&mut self, spans: &[Span]) -> Vec<Run> {
        let mut runs = Vec::new();
        let mut left = spans;
        while let Some(first) = left.first() {
            if first.child == first.parent {
                add(&mut runs, first.run());
                left = &left[1..];
                continue;
            }
            let (count, lengths) = together(left);
            if count == 0 {
                // Longer than a buffer.
                let mut by = 0;
                while by < first.len {
                    let part = first.part(by, BUFFER);
                    self.compare_together(&[part], [part.len; 2], &mut runs);
                    by += part.len;
                }
                left = &left[1..];
                continue;
            }
            self.compare_together(&left[..count], lengths, &mut runs);
            left = &left[count..];
        }
        runs
    }

    fn compare_together(&mut self, spans: &[Span], lengths: [u64; 2], runs: &mut Vec<Run>) {
        let Some(first) = spans.first() else { return };
        let child = self.read(0, first.child, lengths[0]);
        let parent = self.read(1, first.parent, lengths[1]);
        let [ours, theirs] = &self.buffers;
        let (ours, theirs) = (&ours[..child], &theirs[..parent]);
        for span in spans {
            let mut by = 0;
            while by < span.len {
                let page = span.part(by, PAGE_BYTES);
                let bytes = |of: &'_ [u8], from: u64| -> Option<std::ops::Range<usize>> {
                    let from = usize::try_from(from).ok()?;
                    Some(from..from.checked_add(PAGE).filter(|end| *end <= of.len())?)
                };
                if let (Some(a), Some(b)) =
                    (bytes(ours, page.child.1 - first.child.1), bytes(theirs, page.parent.1 - first.parent.1))
                    && ours[a] == theirs[b]
                {
                    add(runs, page.run());
                }
                by += PAGE_BYTES;
            }
        }
    }

    /// Reads into a buffer, and gives how much there is.
    fn read(&mut self, buffer: usize, (image, from): (PagesImage, u64), len: u64) -> usize {
        let at = match self.open.iter().position(|(open, _)| *open == image) {
            // What was used last is closed last.
            Some(at) => {
                let used = self.open.remove(at);
                self.open.push(used);
                self.open.len() - 1
            }
            None => {
                if self.open.len() == OPEN {
                    self.open.remove(0);
                }
                // Not to hang on a FIFO of that name.
                let path = (self.paths)(image);
                let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok();
                self.open.push((image, file));
                self.open.len() - 1
            }
        };
        let len = usize::try_from(len.min(BUFFER)).unwrap_or(0);
        let (Some(file), into) = (&self.open[at].1, &mut self.buffers[buffer]) else { return 0 };
        if into.len() < len {
            into.resize(len, 0);
        }
        let mut done = 0;
        while done < len {
            match file.read_at(&mut into[done..len], from.saturating_add(done as u64)) {
                Ok(0) | Err(_) => break,
                Ok(more) => done += more,
            }
        }
        done
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
            parent: (image(2), parent << 12),
        }
    }

    #[test]
    fn pieces_are_all_of_it() {
        let spans = [span(0, 300, 0, 7), span(1000, 1, 300, 400), span(2000, 600, 301, 500)];
        let pieces = cut(&spans);
        assert!(
            pieces.len() == 4
                && pieces.iter().all(|piece| piece.iter().map(|it| it.len).sum::<u64>() <= PIECE)
        );
        let pages = |spans: &[Span]| -> Vec<(u64, u64, u64)> {
            let of = |span: &Span| {
                (0..span.len >> 12)
                    .map(|page| {
                        ((span.at >> 12) + page, (span.child.1 >> 12) + page, (span.parent.1 >> 12) + page)
                    })
                    .collect::<Vec<_>>()
            };
            spans.iter().flat_map(of).collect()
        };
        assert_eq!(pages(&pieces.concat()), pages(&spans));
        assert!(cut(&[]).is_empty());
    }

    #[test]
    fn what_is_read_at_once() {
        let pages = |(count, [child, parent]): (usize, [u64; 2])| (count, child >> 12, parent >> 12);
        // Every second page of the parent's.
        let every_second: Vec<Span> = (0..9).map(|n| span(2 * n, 1, n, 2 * n)).collect();
        assert_eq!(pages(together(&every_second)), (9, 9, 17));
        // Too far apart, or in front of the others.
        assert_eq!(pages(together(&[span(0, 1, 0, 0), span(9, 1, 1, 9)])), (2, 2, 10));
        assert_eq!(pages(together(&[span(0, 1, 0, 0), span(20, 1, 1, 20)])), (1, 1, 1));
        assert_eq!(pages(together(&[span(0, 1, 5, 5), span(9, 1, 4, 6)])), (1, 1, 1));
        // All of a buffer, and no more.
        assert_eq!(pages(together(&[span(0, 20, 0, 0), span(20, 12, 20, 20)])), (2, 32, 32));
        assert_eq!(pages(together(&[span(0, 20, 0, 0), span(20, 13, 20, 20)])), (1, 20, 20));
        assert_eq!(together(&[span(0, 33, 0, 0)]).0, 0);
    }
}
