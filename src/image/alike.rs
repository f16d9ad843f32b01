//! Which stored pages of a child are those of its parent: the same bytes at the same addresses.
//!
//! CRIU stores the pages of each task by themselves, and does not say which of them fork had left shared. Pages that
//! are alike were either never written since, or are shared as well as not: they are private, and whoever writes to
//! one gets a copy.
//!
//! Example: a parent with pages `A B C` at 0x1000 and a child with `A X C` there give two runs of one page each, at
//! 0x1000 and 0x3000.

//!
//! What several children share may be *old*: their parent has written to its own since. Such pages are found by comparing
//! those of the children that are not like the parent's with one another; the parent can have them when it forks, and
//! its own behind that.

mod compare;

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::model::{Extent, Image, Model, PagesImage, Vma, VmaKind};
use super::ranges::{joined, range, without};
use compare::{Paths, Reader, Span, spans};

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
    old: BTreeMap<usize, Vec<Extent>>,
}

impl Alike {
    /// The runs of pages that `child` has in common with `parent` as it was when it forked, by address; `None`: they
    /// were not compared. Of old pages the parent's place is that which [`Alike::old`] says.
    pub fn of(&self, child: usize, parent: usize) -> Option<&[Run]> {
        self.runs.get(&child).filter(|(other, _)| *other == parent).map(|(_, runs)| runs.as_slice())
    }

    /// Pages that several children of `parent` have in common, and it has not any more, by address: with where one of
    /// the children has them. They are in private memory that it may write to.
    pub fn old(&self, parent: usize) -> &[Extent] {
        self.old.get(&parent).map_or(&[], Vec::as_slice)
    }

    /// Compares the stored pages of each pair, on all cores. What cannot be read is like nothing; who then reads
    /// it in earnest says why.
    pub fn find(model: &Model, pairs: &[Pair]) -> Alike {
        let paths = |image| model.path(Image::Pages(image));
        let extents = |index: usize| {
            let alive = model.tasks.get(index).and_then(|task| task.alive());
            alive.map_or(&[][..], |alive| alive.mm.pages.extents.as_slice())
        };
        let lists: Vec<Vec<Span>> =
            pairs.par_iter().map(|pair| spans(extents(pair.child), extents(pair.parent))).collect();
        let mut families: BTreeMap<usize, Vec<(usize, Vec<Run>)>> = BTreeMap::new();
        for (pair, runs) in pairs.iter().zip(compare::alike(&paths, &lists)) {
            families.entry(pair.parent).or_default().push((pair.child, runs));
        }
        let find_old = |(parent, mut children): (usize, Vec<(usize, Vec<Run>)>)| {
            let vmas = model.tasks.get(parent).and_then(|task| task.alive());
            let vmas = vmas.map_or(&[][..], |alive| alive.mm.vmas.as_slice());
            let mut family: Vec<(&[Extent], &mut Vec<Run>)> =
                children.iter_mut().map(|(child, runs)| (extents(*child), runs)).collect();
            let old = if family.len() > 1 { find_old(&paths, vmas, &mut family) } else { Vec::new() };
            (parent, children, old)
        };
        let mut alike = Alike::default();
        let found: Vec<_> = families.into_par_iter().map(find_old).collect();
        for (parent, children, old) in found {
            alike.runs.extend(children.into_iter().map(|(child, runs)| (child, (parent, runs))));
            if !old.is_empty() {
                alike.old.insert(parent, old);
            }
        }
        alike
    }
}

/// The pages that children have in common with one another, where none has its parent's: for each of `family` its stored
/// pages, and what it was found to have in common with the parent, which gets the old ones added.
///
/// Each child's pages are compared with those of the first that has any there; if of a few none is alike, not with all.
fn find_old(paths: &Paths<'_>, of_parent: &[Vma], family: &mut [(&[Extent], &mut Vec<Run>)]) -> Vec<Extent> {
    let room: Vec<(u64, u64)> =
        of_parent.iter().filter(|vma| can_be_old(vma)).map(|vma| (vma.start, vma.end)).collect();
    let taken = family.iter().flat_map(|(_, runs)| runs.iter().map(|run| (run.at, run.at + run.len)));
    let free = without(&joined(room), &joined(taken.collect()));
    let unlike: Vec<Vec<Extent>> = family.iter().map(|(extents, _)| among(extents, &free)).collect();
    let (mut first, mut known): (Vec<Extent>, Vec<(u64, u64)>) = (Vec::new(), Vec::new());
    let mut common: Vec<(u64, u64)> = Vec::new();
    let mut reader = Reader::new(paths);
    for ((_, all), unlike) in family.iter_mut().zip(&unlike) {
        let both = spans(unlike, &first);
        if reader.any_of_few(&both) {
            let runs = compare::alike(paths, &[both]).pop().unwrap_or_default();
            common.extend(runs.iter().map(|run| (run.at, run.at + run.len)));
            all.extend(runs);
        }
        let more: Vec<(u64, u64)> = without(&unlike.iter().map(range).collect::<Vec<_>>(), &known);
        if !more.is_empty() {
            first.extend(among(unlike, &more));
            first.sort_unstable_by_key(|extent| extent.start);
            known.extend(more);
            known = joined(known);
        }
    }
    let old = among(&first, &joined(common));
    if !old.is_empty() {
        // Who has them first has them in common with itself.
        for ((_, all), unlike) in family.iter_mut().zip(&unlike) {
            let own = spans(unlike, &old).into_iter().filter(|span| span.child == span.parent);
            all.extend(own.map(|span| span.run()));
            all.sort_by_key(|run| run.at);
        }
    }
    old
}

/// Whether a mapping is private memory that can be filled at any time, and that fork copies.
fn can_be_old(vma: &Vma) -> bool {
    const OTHER: i32 = libc::MAP_LOCKED | libc::MAP_HUGETLB;
    matches!(vma.kind, VmaKind::AnonPrivate | VmaKind::FilePrivate { .. })
        && vma.prot & libc::PROT_WRITE as u32 != 0
        && vma.flags & OTHER as u32 == 0
}

/// Extents within ranges.
fn among(extents: &[Extent], ranges: &[(u64, u64)]) -> Vec<Extent> {
    super::ranges::parted(extents, ranges).1
}

#[cfg(test)]
mod tests {
    use super::super::increments::pair;
    use super::super::model::Blob;
    use super::super::pagemap::PAGE_BYTES;
    use super::*;
    use crate::synth::increments::spread;

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
        (extents, letters.bytes().flat_map(|letter| [letter; PAGE_BYTES as usize]).collect())
    }

    /// Writes the pages of several tasks as images 1, 2 …, and gives them with their extents.
    fn images(spaces: &[(&[(u64, u64)], &str)]) -> (tempfile::TempDir, Vec<Vec<Extent>>) {
        let dir = tempfile::tempdir().expect("a directory");
        let mut all = Vec::new();
        for (number, (extents, letters)) in (1..).zip(spaces) {
            let (mut extents, bytes) = space(extents, letters);
            extents.iter_mut().for_each(|extent| extent.image = PagesImage::own(number));
            std::fs::write(dir.path().join(format!("pages-{number}.img")), bytes).expect("written");
            all.push(extents);
        }
        (dir, all)
    }

    /// As (address, pages, offset of the child, offset of the parent), all in pages.
    fn in_pages(runs: &[Run]) -> Vec<(u64, u64, u64, u64)> {
        let pages = |bytes: u64| bytes / PAGE_BYTES;
        runs.iter()
            .map(|run| (pages(run.at), pages(run.len), pages(run.of_child), pages(run.of_parent)))
            .collect()
    }

    fn check(child: (&[(u64, u64)], &str), parent: (&[(u64, u64)], &str), expected: &[(u64, u64, u64, u64)]) {
        let (dir, extents) = images(&[child, parent]);
        let paths = |image: PagesImage| dir.path().join(image.to_string());
        let found = compare::alike(&paths, &[spans(&extents[0], &extents[1])]);
        assert_eq!(in_pages(&found[0]), expected);
    }

    /// Old pages of a parent with `vmas`, and the runs that each child has afterwards; of image 1 are the parent's.
    fn check_old(
        vmas: &[(u64, u64, i32)],
        parent: (&[(u64, u64)], &str),
        children: &[(&[(u64, u64)], &str)],
        expected: &[(u64, u64)],
    ) -> Vec<Vec<(u64, u64, u64, u64)>> {
        let vma = |&(start, end, prot): &(u64, u64, i32)| Vma {
            start: start * PAGE_BYTES,
            end: end * PAGE_BYTES,
            prot: prot as u32,
            flags: (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u32,
            status: 0,
            kind: VmaKind::AnonPrivate,
            madvise: 0,
            origin: super::super::Origin::new(Image::Mm(1), 0),
        };
        let vmas: Vec<Vma> = vmas.iter().map(vma).collect();
        let (dir, extents) = images(&[&[parent], children].concat());
        let paths = |image: PagesImage| dir.path().join(image.to_string());
        let lists: Vec<_> = extents[1..].iter().map(|child| spans(child, &extents[0])).collect();
        let mut runs = compare::alike(&paths, &lists);
        let mut family: Vec<_> =
            extents[1..].iter().zip(&mut runs).map(|(extents, runs)| (extents.as_slice(), runs)).collect();
        let old = find_old(&paths, &vmas, &mut family);
        let found: Vec<_> = old.iter().map(|it| (it.start / PAGE_BYTES, it.len_pages)).collect();
        assert_eq!(found, expected);
        runs.iter().map(|runs| in_pages(runs)).collect()
    }

    #[test]
    fn what_children_alone_have_in_common() {
        const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
        let heap: &[(u64, u64)] = &[(1, 4)];
        // The parent has written to B and C since, one child to C, too.
        let runs = check_old(&[(1, 5, RW)], (heap, "AbcD"), &[(heap, "ABCD"), (heap, "ABxD")], &[(2, 1)]);
        assert_eq!(runs[0], [(1, 1, 0, 0), (2, 1, 1, 1), (4, 1, 3, 3)]);
        assert_eq!(runs[1], runs[0]);
        // Not where one has the parent's, where the parent has nothing mapped, or may not write.
        let three: [(&[(u64, u64)], &str); 3] = [(heap, "ABCD"), (heap, "AbCD"), (heap, "ABCD")];
        check_old(&[(1, 5, RW)], (heap, "Abcd"), &three, &[(3, 2)]);
        check_old(&[(1, 4, RW)], (heap, "Abcd"), &three, &[(3, 1)]);
        check_old(&[(1, 4, RW), (4, 5, libc::PROT_READ)], (heap, "Abcd"), &three, &[(3, 1)]);
        // The parent has no page there any more; the first child never had one.
        let short: &[(u64, u64)] = &[(1, 1)];
        let runs = check_old(
            &[(1, 5, RW)],
            (short, "A"),
            &[(short, "A"), (heap, "ABCD"), (heap, "ABCD")],
            &[(2, 3)],
        );
        assert_eq!(
            runs,
            [vec![(1, 1, 0, 0)], vec![(1, 1, 0, 0), (2, 3, 1, 1)], vec![(1, 1, 0, 0), (2, 3, 1, 1)]]
        );
        check_old(&[(1, 5, RW)], (heap, "abcd"), &[(heap, "ABCD"), (heap, "EFGH")], &[]);
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

    /// Pages of both tasks are in images of several dumps.
    #[test]
    fn pages_of_dumps_before() {
        let model = pair();
        let shape = [Pair { child: 1, parent: 0 }];
        let runs = |model: &Model| {
            let alike = Alike::find(model, &shape);
            let pages =
                |run: &Run| (0..run.len / PAGE_BYTES).map(|page| run.at + page * PAGE_BYTES).collect();
            alike.of(1, 0).unwrap_or_default().iter().flat_map::<Vec<u64>, _>(pages).collect::<Vec<u64>>()
        };
        let whole = runs(&model);
        assert!(!whole.is_empty());
        let dir = tempfile::tempdir().expect("a directory");
        let mut number = 0u32;
        let synthetic = super::super::increments::held();
        let made = spread(&synthetic, |_, _| (number % 3, number += 1).0).expect("it is spread");
        super::super::write_model(&made.model, &made.contents, dir.path()).expect("it is written");
        let read = super::super::read_model(dir.path()).expect("it is read");
        assert_eq!(runs(&read), whole);
        // What each run says of its place is so.
        for run in Alike::find(&read, &shape).of(1, 0).unwrap_or_default() {
            let bytes = |image: PagesImage, offset_bytes: u64| {
                let blob = Blob { image: Image::Pages(image), offset_bytes, len_bytes: run.len };
                super::super::open_blob(&read, &blob).expect("it is there")
            };
            assert_eq!(bytes(run.images.0, run.of_parent), bytes(run.images.1, run.of_child));
        }
    }

    #[test]
    fn an_image_that_is_too_short_is_like_nothing() {
        check((&[(1, 2)], "A"), (&[(1, 2)], "AB"), &[(1, 1, 0, 0)]);
        check((&[(1, u64::MAX / PAGE_BYTES)], "A"), (&[(1, 2)], "AB"), &[(1, 1, 0, 0)]);
    }
}
