//! Which stored pages of a child are those of its parent: the same bytes at the same addresses.
//!
//! CRIU stores the pages of each task by themselves, and does not say which of them fork had left shared. Pages that
//! are alike were either never written since, or are shared as well as not: they are private, and whoever writes to
//! one gets a copy.
//!
//! Example: a parent with pages `A B C` at 0x1000 and a child with `A X C` there give two runs of one page each, at
//! 0x1000 and 0x3000.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use memmap2::Mmap;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::file::map_image;
use super::model::{Extent, Image, Model, Pages, PagesImage};
use super::pagemap::PAGE_BYTES;

/// Pages are compared by so many bytes at a time.
const PAGE: usize = PAGE_BYTES as usize;

/// Pages images from this size on are mapped, in bytes.
const MAPPED_FROM: usize = 1 << 20;

/// A run of pages that are alike. Address, offsets and length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Where the pages are in both tasks.
    pub at: u64,
    /// How many bytes.
    pub len: u64,
    /// The pages images that have them: the parent's, and the child's.
    pub images: (PagesImage, PagesImage),
    /// Where they are in the child's pages image.
    pub of_child: u64,
    /// Where they are in the parent's.
    pub of_parent: u64,
}

/// A task and its parent, as indices of [`Model::tasks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// The child.
    pub child: usize,
    /// The parent.
    pub parent: usize,
}

/// What children have in common with their parents.
#[derive(Debug, Clone, Default)]
pub struct Alike {
    runs: BTreeMap<usize, (usize, Vec<Run>)>,
}

impl Alike {
    /// The runs of pages that `child` has in common with `parent`, by address; `None`: they were not compared.
    pub fn of(&self, child: usize, parent: usize) -> Option<&[Run]> {
        self.runs.get(&child).filter(|(other, _)| *other == parent).map(|(_, runs)| runs.as_slice())
    }

    /// Compares the stored pages of each pair, on all cores. What cannot be read is like nothing; who then reads
    /// it in earnest says why.
    pub fn find(model: &Model, pairs: &[Pair]) -> Alike {
        let pages = |index: usize| model.tasks.get(index)?.alive().map(|alive| &alive.mm.pages);
        let mut parents: BTreeMap<usize, Vec<(Part<'_>, Option<Mmap>)>> = BTreeMap::new();
        for pair in pairs {
            parents.entry(pair.parent).or_insert_with(|| {
                let parts = pages(pair.parent).map_or_else(Vec::new, Pages::by_image).into_iter();
                parts.map(|part| (part.clone(), map_image(model, part.0).ok())).collect()
            });
        }
        let compare = |buffer: &mut Vec<u8>, pair: &Pair| {
            let of_parent = parents.get(&pair.parent)?;
            let mut all: Vec<Run> = Vec::new();
            for (image, extents) in pages(pair.child)?.by_image() {
                let mapped;
                let of_child = match read_small(model, image, &extents, buffer) {
                    Some(bytes) => bytes,
                    None => {
                        mapped = map_image(model, image).ok()?;
                        &mapped[..]
                    }
                };
                for ((_, others), bytes) in of_parent {
                    let bytes = bytes.as_ref()?;
                    all.extend(runs((&extents, of_child), (others, bytes)));
                }
            }
            all.sort_by_key(|run| run.at);
            Some((pair.child, (pair.parent, all)))
        };
        let found = pairs.par_iter().map_init(Vec::new, compare);
        Alike { runs: found.flatten_iter().collect() }
    }
}

/// The extents that are in one pages image.
type Part<'a> = (PagesImage, Cow<'a, [Extent]>);

/// The pages of a small address space, read: that costs less than a mapping, whose end each core is told of.
fn read_small<'a>(
    model: &Model,
    image: PagesImage,
    extents: &[Extent],
    buffer: &'a mut Vec<u8>,
) -> Option<&'a [u8]> {
    let last = extents.last()?;
    let end = last.offset_bytes.checked_add(last.len_pages.checked_mul(PAGE_BYTES)?)?;
    let len = usize::try_from(end).ok().filter(|len| *len <= MAPPED_FROM)?;
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    let path = model.path(Image::Pages(image));
    // Not to hang on a FIFO of that name.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    file.read_exact_at(&mut buffer[..len], 0).ok()?;
    Some(&buffer[..len])
}

/// The runs of two parts of address spaces: each as its extents, by address, and the bytes of its pages image.
fn runs((child, of_child): (&[Extent], &[u8]), (parent, of_parent): (&[Extent], &[u8])) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let (mut children, mut parents) = (child.iter().peekable(), parent.iter().peekable());
    while let (Some(a), Some(b)) = (children.peek(), parents.peek()) {
        let end = |extent: &Extent| extent.start.saturating_add(extent.len_pages.saturating_mul(PAGE_BYTES));
        let (start, behind) = (a.start.max(b.start), end(a).min(end(b)));
        let mut at = start;
        while at < behind {
            let place = |extent: &Extent| extent.offset_bytes.saturating_add(at - extent.start);
            let (from, other) = (place(a), place(b));
            let bytes = |of: &[u8], from: u64| {
                let from = usize::try_from(from).ok()?;
                Some(from..from.checked_add(PAGE).filter(|end| *end <= of.len())?)
            };
            if let (Some(mine), Some(theirs)) = (bytes(of_child, from), bytes(of_parent, other))
                && of_child[mine] == of_parent[theirs]
            {
                match runs.last_mut() {
                    Some(run)
                        if (run.at + run.len, run.of_child + run.len, run.of_parent + run.len)
                            == (at, from, other) =>
                    {
                        run.len += PAGE_BYTES;
                    }
                    _ => {
                        let images = (b.image, a.image);
                        runs.push(Run { at, len: PAGE_BYTES, images, of_child: from, of_parent: other });
                    }
                }
            }
            at += PAGE_BYTES;
        }
        if end(a) <= end(b) {
            children.next();
        } else {
            parents.next();
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address space as (first page, pages); its pages are letters, one for each page in the order of the image.
    fn space(extents: &[(u64, u64)], letters: &str) -> (Vec<Extent>, Vec<u8>) {
        let mut offset_bytes = 0;
        let extents = extents
            .iter()
            .map(|&(start, len_pages)| {
                let image = PagesImage::own(1);
                let extent = Extent { start: start * PAGE_BYTES, len_pages, image, offset_bytes, entry: 0 };
                offset_bytes += len_pages * PAGE_BYTES;
                extent
            })
            .collect();
        (extents, letters.bytes().flat_map(|letter| [letter; PAGE]).collect())
    }

    /// Runs as (address, pages, offset of the child, offset of the parent), all in pages.
    fn check(child: (&[(u64, u64)], &str), parent: (&[(u64, u64)], &str), expected: &[(u64, u64, u64, u64)]) {
        let (a, b) = (space(child.0, child.1), space(parent.0, parent.1));
        let found: Vec<_> = runs((&a.0, &a.1), (&b.0, &b.1))
            .iter()
            .map(|run| {
                let pages = |bytes: u64| bytes / PAGE_BYTES;
                (pages(run.at), pages(run.len), pages(run.of_child), pages(run.of_parent))
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_alike_at_its_address() {
        check((&[(1, 3)], "AXC"), (&[(1, 3)], "ABC"), &[(1, 1, 0, 0), (3, 1, 2, 2)]);
        check((&[(1, 3)], "ABC"), (&[(1, 3)], "ABC"), &[(1, 3, 0, 0)]);
        // The same bytes elsewhere are not the same page.
        check((&[(1, 2)], "AB"), (&[(2, 2)], "AB"), &[]);
        check((&[], ""), (&[(2, 2)], "AB"), &[]);
    }

    #[test]
    fn extents_are_cut_differently() {
        check(
            (&[(1, 2), (3, 2), (9, 1)], "ABCDZ"),
            (&[(0, 4), (4, 1), (9, 2)], "_ABCDZ_"),
            &[(1, 4, 0, 1), (9, 1, 4, 5)],
        );
        // Neighbours in memory that are none in an image are two runs.
        check((&[(1, 1), (2, 1)], "AB"), (&[(1, 1), (2, 1)], "AB"), &[(1, 2, 0, 0)]);
        check((&[(1, 1), (2, 1)], "AB"), (&[(0, 1), (1, 1), (2, 1)], "_AB"), &[(1, 2, 0, 1)]);
    }

    #[test]
    fn an_image_that_is_too_short_is_like_nothing() {
        check((&[(1, 2)], "A"), (&[(1, 2)], "AB"), &[(1, 1, 0, 0)]);
        check((&[(1, u64::MAX / PAGE_BYTES)], "A"), (&[(1, 2)], "AB"), &[(1, 1, 0, 0)]);
    }
}
