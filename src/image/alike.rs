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
mod files;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::model::{Extent, Image, Model, PagesImage, Vma, VmaKind};
use super::pagemap::PAGE_BYTES;
use super::ranges::{joined, meets, range, without};
use compare::{Found, Print, Span, spans};
use files::{Files, Mapping};

/// Of a task with at most so many pages all are hashed that are not alike.
const SMALL_PAGES: u64 = 1024;
/// Of others one in so many, by address, where most of what is read at once are not.
const ONE_IN: u64 = 16;
/// And of those that the parent has none of, which would not be read otherwise, one in so many.
const ONE_OF_OWN_IN: u64 = 64;

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
    /// What is said of one pair, for tests.
    #[cfg(test)]
    pub(crate) fn of_pair(pair: Pair, runs: Vec<Run>) -> Alike {
        Alike { runs: BTreeMap::from([(pair.child, (pair.parent, runs))]), old: BTreeMap::new() }
    }

    /// The runs of pages that `child` has in common with `parent` as it was when it forked, by address; `None`: they
    /// were not compared. Of old pages the parent's place is that which [`Alike::old`] says.
    pub fn of(&self, child: usize, parent: usize) -> Option<&[Run]> {
        self.runs.get(&child).filter(|(other, _)| *other == parent).map(|(_, runs)| runs.as_slice())
    }

    /// The parent that a child was compared with, and what [`Alike::of`] says of the two.
    pub fn with_parent(&self, child: usize) -> Option<(usize, &[Run])> {
        self.runs.get(&child).map(|(parent, runs)| (*parent, runs.as_slice()))
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
        let mut families: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for pair in pairs {
            families.entry(pair.parent).or_default().push(pair.child);
        }
        let families: Vec<(usize, Vec<usize>)> = families.into_iter().collect();
        let memory = |index: usize| {
            let alive = model.tasks.get(index).and_then(|task| task.alive());
            alive.map_or((&[][..], &[][..]), |alive| (&alive.mm.vmas[..], &alive.mm.pages.extents[..]))
        };
        let find = |(parent, children): &(usize, Vec<usize>)| {
            let (vmas, stored) = memory(*parent);
            let family = Family {
                stored,
                room: room(vmas),
                children: children.iter().map(|child| memory(*child).1).collect(),
            };
            let files = Files::new(&paths, Mapping::WherePays);
            let found = family.find(&files);
            files.close();
            found
        };
        let found: Vec<_> = families.par_iter().map(find).collect();
        let mut alike = Alike::default();
        for ((parent, children), (runs, old)) in families.into_iter().zip(found) {
            alike.runs.extend(children.into_iter().zip(runs).map(|(child, runs)| (child, (parent, runs))));
            if !old.is_empty() {
                alike.old.insert(parent, old);
            }
        }
        alike
    }
}

/// A parent and children of it.
struct Family<'a> {
    /// The parent's stored pages.
    stored: &'a [Extent],
    /// Where it can have had others.
    room: Vec<(u64, u64)>,
    /// The stored pages of each child.
    children: Vec<&'a [Extent]>,
}

impl Family<'_> {
    /// What each child has in common with the parent as it was, and the old pages that it had.
    fn find(&self, files: &Files<'_>) -> (Vec<Vec<Run>>, Vec<Extent>) {
        let ours = joined(self.stored.iter().map(range).collect());
        let own = without(&self.room, &ours);
        let tasks: Vec<compare::Task> =
            self.children.par_iter().map(|child| self.to_compare(child, &own)).collect();
        let found = compare::compare(files, &tasks);
        let (mut runs, mut prints, mut in_part) = (Vec::new(), Vec::new(), Vec::new());
        for Found { runs: of_child, prints: of_others, in_part: left } in found {
            runs.push(of_child);
            prints.push(of_others);
            in_part.push(left);
        }
        let taken = runs.iter().flatten().map(|run: &Run| (run.at, run.at + run.len)).collect();
        let free = without(&self.room, &joined(taken));
        let mut common = most_common(&prints, &free);
        if common.is_empty() {
            return (runs, Vec::new());
        }
        // Those that were looked at in part are looked at as a whole, but for what all prints are there of.
        let large: Vec<usize> = (0..tasks.len()).filter(|at| tasks[*at].every > 1).collect();
        if !large.is_empty() {
            for at in &large {
                in_part[*at] = joined([own.as_slice(), &in_part[*at]].concat());
            }
            let rest = |at: &usize| compare::Task {
                spans: alone(&among(&among(self.children[*at], &free), &in_part[*at])).collect(),
                every: 1,
            };
            let rest: Vec<compare::Task> = large.iter().map(rest).collect();
            for (at, found) in large.into_iter().zip(compare::compare(files, &rest)) {
                prints[at].retain(|print| !meets(&in_part[at], print.at, print.at + 1));
                prints[at].extend(found.prints);
                prints[at].sort_unstable_by_key(|print| print.at);
            }
            common = most_common(&prints, &free);
        }
        let old = self.verified(files, &prints, &common, &mut runs);
        (runs, old)
    }

    /// A child's pages where its parent has some, too, and those of which siblings may have the same. `own`: where the
    /// parent can have had pages, and has none now.
    fn to_compare(&self, child: &[Extent], own: &[(u64, u64)]) -> compare::Task {
        let mut spans = spans(child, self.stored);
        if self.children.len() == 1 {
            return compare::Task { spans, every: 0 };
        }
        let pages = child.iter().fold(0u64, |sum, extent| sum.saturating_add(extent.len_pages));
        let (mut own, mut every) = (among(child, own), 1);
        if pages > SMALL_PAGES {
            own = own.iter().flat_map(|extent| some_of(extent, ONE_OF_OWN_IN)).collect();
            every = ONE_IN;
        }
        spans.extend(alone(&own));
        spans.sort_unstable_by_key(|span| span.at);
        compare::Task { spans, every }
    }

    /// Compares what seems to be common, adds it to the runs of those who have it, and gives the pages.
    fn verified(
        &self,
        files: &Files<'_>,
        prints: &[Vec<Print>],
        common: &[Common],
        runs: &mut [Vec<Run>],
    ) -> Vec<Extent> {
        let who_has = |child: usize, common: &Common| common.first == child;
        let seeming = |child: usize, is_wanted: &(dyn Fn(usize, &Common) -> bool + Sync)| {
            let is_common = |print: &&Print| {
                let at = common.binary_search_by_key(&print.at, |common| common.at);
                at.is_ok_and(|at| common[at].hash == print.hash && is_wanted(child, &common[at]))
            };
            let pages = prints[child].iter().filter(is_common).map(|print| (print.at, print.at + PAGE_BYTES));
            among(self.children[child], &joined(pages.collect()))
        };
        let children = 0..self.children.len();
        let mut first: Vec<Extent> =
            children.clone().into_par_iter().flat_map_iter(|child| seeming(child, &who_has)).collect();
        first.sort_unstable_by_key(|extent| extent.start);
        let seeming: Vec<Vec<Extent>> =
            children.into_par_iter().map(|child| seeming(child, &|_, _| true)).collect();
        let is_own = |span: &Span| span.parent == Some(span.child);
        let others = |pages: &Vec<Extent>| compare::Task {
            spans: spans(pages, &first).into_iter().filter(|span| !is_own(span)).collect(),
            every: 0,
        };
        let found = compare::compare(files, &seeming.iter().map(others).collect::<Vec<_>>());
        let common = found.iter().flat_map(|found| &found.runs).map(|run| (run.at, run.at + run.len));
        let old = among(&first, &joined(common.collect()));
        for ((all, found), seeming) in runs.iter_mut().zip(found).zip(&seeming) {
            all.extend(found.runs);
            // Who has them first has them in common with itself.
            all.extend(spans(seeming, &old).iter().filter(|span| is_own(span)).filter_map(Span::run));
            all.sort_unstable_by_key(|run| run.at);
        }
        old
    }
}

/// What several children seem to have at one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Common {
    /// The address.
    at: u64,
    /// The hash of the page.
    hash: u64,
    /// The first child that has it.
    first: usize,
}

/// For each page in `free` of which several children seem to have the same: that which most have, by address.
fn most_common(prints: &[Vec<Print>], free: &[(u64, u64)]) -> Vec<Common> {
    let of = |(child, prints): (usize, &Vec<Print>)| -> Vec<Common> {
        let free = prints.iter().filter(|print| meets(free, print.at, print.at + 1));
        free.map(|print| Common { at: print.at, hash: print.hash, first: child }).collect()
    };
    let mut all: Vec<Common> = prints.par_iter().enumerate().flat_map_iter(of).collect();
    all.par_sort_unstable_by_key(|it| (it.at, it.hash, it.first));
    let most = |page: &[Common]| {
        let same = page.chunk_by(|a, b| a.hash == b.hash).filter(|same| same.len() > 1);
        same.max_by_key(|same| (same.len(), Reverse(same[0].first))).map(|same| same[0])
    };
    all.chunk_by(|a, b| a.at == b.at).filter_map(most).collect()
}

/// Stored pages without any that they may be like.
fn alone(extents: &[Extent]) -> impl Iterator<Item = Span> + use<'_> {
    extents.iter().map(|extent| Span {
        at: extent.start,
        len: extent.len_pages.saturating_mul(PAGE_BYTES),
        child: (extent.image, extent.offset_bytes),
        parent: None,
    })
}

/// Those pages of an extent whose number, address by size, is a multiple of `every`.
fn some_of(extent: &Extent, every: u64) -> impl Iterator<Item = Extent> + use<> {
    let (extent, step) = (*extent, every.saturating_mul(PAGE_BYTES).max(PAGE_BYTES));
    let (first, end) = (extent.start.next_multiple_of(step), range(&extent).1);
    (first..end)
        .step_by(usize::try_from(step).unwrap_or(usize::MAX))
        .filter_map(move |at| extent.within(at, at + PAGE_BYTES))
}

/// Where a task with such mappings can have had other pages.
fn room(vmas: &[Vma]) -> Vec<(u64, u64)> {
    joined(vmas.iter().filter(|vma| can_be_old(vma)).map(|vma| (vma.start, vma.end)).collect())
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
    use super::*;
    use crate::synth::increments::spread;

    /// All ways to have images before one, of which nothing may depend.
    const MAPPINGS: [Mapping; 3] = [Mapping::Never, Mapping::Always, Mapping::WherePays];

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
        for mapping in MAPPINGS {
            let task = compare::Task { spans: spans(&extents[0], &extents[1]), every: 0 };
            let found = compare::compare(&Files::new(&paths, mapping), &[task]);
            assert_eq!(in_pages(&found[0].runs), expected, "{mapping:?}");
        }
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
        let family = Family {
            stored: &extents[0],
            room: room(&vmas),
            children: extents[1..].iter().map(Vec::as_slice).collect(),
        };
        let [read, mapped, measured] = MAPPINGS.map(|mapping| family.find(&Files::new(&paths, mapping)));
        assert_eq!(mapped, read);
        assert_eq!(measured, read);
        let (runs, old) = read;
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
        // The first child has written to all of its own; of what two pairs have, the first's is taken.
        let runs = check_old(
            &[(1, 5, RW)],
            (heap, "abcd"),
            &[(heap, "1234"), (heap, "ABCe"), (heap, "ABCD"), (heap, "EBCe")],
            &[(1, 4)],
        );
        assert_eq!(runs, [vec![], vec![(1, 4, 0, 0)], vec![(1, 3, 0, 0)], vec![(2, 3, 1, 1)]]);
    }

    /// Of large children some pages are looked at before all.
    #[test]
    fn what_large_children_have_in_common() {
        const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
        let pages = SMALL_PAGES + 100;
        let all: &[(u64, u64)] = &[(0, pages)];
        let letters = |letter: &dyn Fn(u64) -> u8| -> String {
            (0..pages).map(|page| char::from(letter(page))).collect()
        };
        let (ours, theirs) = (letters(&|_| b'a'), letters(&|page| b'A' + (page % 8) as u8));
        let other = letters(&|page| if page < 500 { b'A' + (page % 8) as u8 } else { b'x' });
        let vmas = [(0, pages, RW)];
        check_old(&vmas, (all, &ours), &[(all, &theirs), (all, &other)], &[(0, 500)]);
        check_old(&vmas, (all, &ours), &[(all, &theirs), (all, &ours), (all, &other)], &[]);
        // Also where their parent has nothing any more.
        let runs = check_old(&vmas, (&[], ""), &[(all, &theirs), (all, &other)], &[(0, 500)]);
        assert_eq!(runs, [[(0, 500, 0, 0)], [(0, 500, 0, 0)]]);
        check_old(&vmas, (&[], ""), &[(all, &theirs), (all, &ours)], &[]);
        // Where few are others, all of them are looked at, and none again.
        let few = |letter: u8| letters(&|page| if [7, 21].contains(&page) { letter } else { b'a' });
        check_old(&vmas, (all, &ours), &[(all, &few(b'A')), (all, &few(b'A'))], &[(7, 1), (21, 1)]);
        check_old(&vmas, (all, &ours), &[(all, &few(b'A')), (all, &few(b'B'))], &[]);
    }

    /// Who has most pages like its parent's is looked at as a whole, and who has not, in part.
    #[test]
    fn prints_of_large_children() {
        let pages = 256;
        let all: &[(u64, u64)] = &[(0, pages)];
        // The first half is like the parent's but for every tenth page, the other is not.
        let letter = |page: u64| if page < pages / 2 && page % 10 != 9 { 'a' } else { 'b' };
        let ours: String = (0..pages).map(letter).collect();
        let theirs = "a".repeat(pages as usize);
        let (dir, extents) = images(&[(all, &ours), (all, &theirs)]);
        let paths = |image: PagesImage| dir.path().join(image.to_string());
        let found = |every| {
            let task = compare::Task { spans: spans(&extents[0], &extents[1]), every };
            let [read, mapped, measured] = MAPPINGS.map(|mapping| {
                compare::compare(&Files::new(&paths, mapping), std::slice::from_ref(&task)).remove(0)
            });
            assert_eq!(mapped, read);
            assert_eq!(measured, read);
            let found = read;
            let prints: Vec<u64> = found.prints.iter().map(|print| print.at / PAGE_BYTES).collect();
            (prints, joined(found.in_part))
        };
        let tenths = (0..pages / 2).filter(|page| page % 10 == 9);
        let expected = tenths.clone().chain((pages / 2..pages).step_by(16)).collect();
        assert_eq!(found(16), (expected, vec![(pages / 2 * PAGE_BYTES, pages * PAGE_BYTES)]));
        assert_eq!(found(1), (tenths.chain(pages / 2..pages).collect(), vec![]));
        assert_eq!(found(0), (vec![], vec![]));
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
