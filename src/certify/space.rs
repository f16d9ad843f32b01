//! What the images say of address spaces and of shared memory without a name, for the checker.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;

use regrow_graph::ids::OfdId;
use regrow_graph::verify::{
    Alike, ExpectedMapping, ExpectedPages, ExpectedSegment, ExpectedSpace, PageExtent, Shown,
};

use serde::{Deserialize, Serialize};

use crate::image::alike::Run;
use crate::image::huge::MAP_HUGE;
use crate::image::{Alive, Extent, Image, Model, PagesImage, Vma, VmaKind};

const PAGE: u64 = 4096;

/// The address space of a task.
///
/// # Errors
/// In words, which mapping cannot be judged.
pub(super) fn expected(
    model: &Model,
    alive: &Alive,
    index_of: &HashMap<u32, OfdId>,
) -> Result<ExpectedSpace, String> {
    let mut mappings = Vec::with_capacity(alive.mm.vmas.len());
    for vma in &alive.mm.vmas {
        if let Some(shows) = shown(vma, alive, index_of)? {
            mappings.push(ExpectedMapping {
                start: vma.start,
                end: vma.end,
                prot: vma.prot,
                flags: match vma.kind {
                    // That its pages are huge is the file's affair, and the images do not say how large they are.
                    VmaKind::FilePrivate { .. } | VmaKind::FileShared { .. } => vma.flags & !MAP_HUGE,
                    _ => vma.flags,
                },
                advice: vma.madvise,
                shows,
            });
        }
    }
    let rings: Vec<(u64, &[Extent])> =
        alive.mm.aio_rings.iter().map(|ring| (ring.start, ring.pages.as_slice())).collect();
    let pages = pages(model, &alive.mm.pages.extents, &rings);
    Ok(ExpectedSpace { mappings, guards: alive.mm.guards.clone(), pages })
}

/// What a mapping shows; `None`: every task has it, and none can change it.
fn shown(vma: &Vma, alive: &Alive, index_of: &HashMap<u32, OfdId>) -> Result<Option<Shown>, String> {
    let file = |ofd_id: u32, offset: u64, shared: Option<bool>| match index_of.get(&ofd_id) {
        Some(ofd) => Ok(Some(Shown::File { ofd: *ofd, offset, shared })),
        None => Err(format!("mapping {:#x}: file {ofd_id:#x} is not in files.img", vma.start)),
    };
    // A shared mapping can be written as far as the description could that it was made of. Where the images
    // do not say how that was open, it was for what the mapping is used for.
    let may_write = |file_flags: Option<u32>| match file_flags {
        Some(flags) => flags & libc::O_ACCMODE as u32 == libc::O_RDWR as u32,
        None => vma.prot & libc::PROT_WRITE as u32 != 0,
    };
    match vma.kind {
        VmaKind::AnonPrivate => {
            /// `MAP_DROPPABLE`, a type of its own (uapi/linux/mman.h, since Linux 6.11).
            const DROPPABLE: u32 = 8;
            let is_droppable = vma.flags & 0xf == DROPPABLE;
            Ok(Some(if is_droppable { Shown::Droppable } else { Shown::Anonymous }))
        }
        VmaKind::AnonShared { shmid, offset_bytes } => {
            Ok(Some(Shown::Segment { segment: shmid, offset: offset_bytes }))
        }
        VmaKind::SysV { shmid, offset_bytes, read_only } => {
            Ok(Some(Shown::System { segment: shmid, offset: offset_bytes, may_write: !read_only }))
        }
        VmaKind::FilePrivate { ofd_id, offset_bytes, .. } => file(ofd_id, offset_bytes, None),
        VmaKind::FileShared { ofd_id, offset_bytes, file_flags } => {
            file(ofd_id, offset_bytes, Some(may_write(file_flags)))
        }
        VmaKind::Memfd { ofd_id, offset_bytes, file_flags, .. } => {
            let is_shared = vma.flags & libc::MAP_SHARED as u32 != 0;
            file(ofd_id, offset_bytes, is_shared.then(|| may_write(file_flags)))
        }
        VmaKind::Vvar | VmaKind::Vdso => Ok(Some(Shown::Kernel)),
        VmaKind::AioRing => match alive.mm.aio_rings.iter().find(|ring| ring.start == vma.start) {
            Some(ring) => Ok(Some(Shown::Ring { head: ring.head, tail: ring.tail })),
            None => Err(format!("mapping {:#x}: a ring of which no entry tells", vma.start)),
        },
        VmaKind::Vsyscall => Ok(None),
        VmaKind::Other => Err(format!("mapping {:#x}: status {:#x}", vma.start, vma.status)),
    }
}

/// Shared memory without a name, by its number: as long as the furthest view of it, or as its inode.
pub(super) fn segments(model: &Model) -> BTreeMap<u64, ExpectedSegment> {
    let mut segments: BTreeMap<u64, ExpectedSegment> = BTreeMap::new();
    for vma in model.tasks.iter().filter_map(|task| task.alive()).flat_map(|alive| &alive.mm.vmas) {
        if let VmaKind::AnonShared { shmid, offset_bytes } = vma.kind {
            let segment = segments.entry(shmid).or_default();
            segment.len = segment.len.max(offset_bytes.saturating_add(vma.end - vma.start));
        }
    }
    for inode in &model.memfds {
        if let Some(segment) = segments.get_mut(&inode.shmid) {
            segment.len = segment.len.max(inode.size_bytes);
        }
    }
    for shm in &model.shm {
        if let Some(segment) = segments.get_mut(&shm.shmid) {
            segment.pages = pages(model, &shm.pages.extents, &[]);
        }
    }
    for segment in segments.values_mut() {
        segment.len = segment.len.checked_next_multiple_of(PAGE).unwrap_or(segment.len);
    }
    segments
}

/// Stored pages; of rings, by where they start, all but the head, which the kernel writes.
pub(super) fn pages(model: &Model, extents: &[Extent], rings: &[(u64, &[Extent])]) -> ExpectedPages {
    /// Bytes of `struct aio_ring` (fs/aio.c).
    const HEAD: u64 = 32;
    let of_rings = || rings.iter().flat_map(|(_, extents)| extents.iter());
    let mut images: Vec<PagesImage> = extents.iter().chain(of_rings()).map(|extent| extent.image).collect();
    images.sort_unstable();
    images.dedup();
    let expected = |extent: &Extent, head: u64| PageExtent {
        at: extent.start.saturating_add(head),
        len: extent.len_pages.saturating_mul(PAGE).saturating_sub(head),
        file: images.partition_point(|image| *image < extent.image) as u32,
        from: extent.offset_bytes.saturating_add(head),
    };
    let mut all: Vec<PageExtent> = extents.iter().map(|extent| expected(extent, 0)).collect();
    for (start, extents) in rings {
        all.extend(
            extents.iter().map(|extent| expected(extent, if extent.start == *start { HEAD } else { 0 })),
        );
    }
    if !rings.is_empty() {
        all.sort_unstable_by_key(|extent| extent.at);
    }
    let extents = all;
    let files = images.into_iter().map(|image| model.path(Image::Pages(image)).into_os_string().into_vec());
    ExpectedPages { files: files.collect(), extents }
}

/// Stretches of stored pages that hold the same bytes, in the pages images of parents and children.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlikePages {
    /// By the image in which the bytes are once more, and there by offset; they do not overlap.
    runs: BTreeMap<PagesImage, Vec<AlikeRun>>,
}

/// A stretch of an image whose bytes are elsewhere, too. Offsets and length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct AlikeRun {
    offset: u64,
    len: u64,
    /// Where else: in no stretch of that image that is elsewhere, if ancestors were added before their descendants.
    first: (PagesImage, u64),
}

impl AlikePages {
    /// Adds what a child was found to have in common with its parent, whose own have been added before: what a task has
    /// of an ancestor further up is then known, too.
    pub fn add(&mut self, runs: &[Run]) {
        let mut changed: BTreeSet<PagesImage> = BTreeSet::new();
        for run in runs {
            let (held, wanted) = run.images;
            let mut by = 0;
            while by < run.len {
                let (first, len) = self.first_of((held, run.of_parent.saturating_add(by)));
                let len = len.min(run.len - by);
                let offset = run.of_child.saturating_add(by);
                self.runs.entry(wanted).or_default().push(AlikeRun { offset, len, first });
                by += len;
            }
            changed.insert(wanted);
        }
        for image in &changed {
            if let Some(all) = self.runs.get_mut(image) {
                all.sort_unstable_by_key(|run| run.offset);
            }
        }
    }

    /// Where else the bytes at a place are, and how many of them; the place itself where they are nowhere else.
    fn first_of(&self, (image, offset): (PagesImage, u64)) -> ((PagesImage, u64), u64) {
        let runs = self.runs.get(&image).map_or(&[][..], Vec::as_slice);
        let behind = runs.partition_point(|run| run.offset <= offset);
        if let Some(run) = behind.checked_sub(1).map(|at| runs[at])
            && offset - run.offset < run.len
        {
            let by = offset - run.offset;
            return ((run.first.0, run.first.1.saturating_add(by)), run.len - by);
        }
        // (Of a stored plan they may be in any order.)
        ((image, offset), runs.get(behind).map_or(u64::MAX, |next| next.offset.saturating_sub(offset).max(1)))
    }

    /// Whether two stretches are known to hold the same bytes.
    fn knows(&self, held: (PagesImage, u64), wanted: (PagesImage, u64), len: u64) -> bool {
        let further = |(image, offset): (PagesImage, u64), by: u64| (image, offset.saturating_add(by));
        let mut by = 0;
        while by < len {
            let (held, wanted) = (further(held, by), further(wanted, by));
            let (of_held, there) = self.first_of(held);
            let (of_wanted, here) = self.first_of(wanted);
            // That a place is like itself does not say that there is anything.
            if of_held != of_wanted || (of_held, of_wanted) == (held, wanted) {
                return false;
            }
            by = by.saturating_add(there.min(here));
        }
        true
    }

    /// Compares them all in `dirs`, of which each has the pages of the one before that are not there; gives the first
    /// that is not alike, or cannot be read, as the two images and the two offsets.
    pub fn first_difference(&self, dirs: &[Vec<u8>]) -> Option<((PagesImage, u64), (PagesImage, u64))> {
        // What is in no directory is in no file either.
        let path = |image: PagesImage| match dirs.get(image.depth as usize) {
            Some(dir) => [dir, &b"/"[..], PagesImage::own(image.id).to_string().as_bytes()].concat(),
            None => Vec::new(),
        };
        let none = AlikePages::default();
        let mut reader = Reader::of(Known { dirs, pages: &none });
        for (image, runs) in &self.runs {
            let wanted = path(*image);
            for run in runs {
                let held = path(run.first.0);
                let alike = Alike { held: (&held, run.first.1), wanted: (&wanted, run.offset), len: run.len };
                if !reader.is_alike(&alike) {
                    return Some((run.first, (*image, run.offset)));
                }
            }
        }
        None
    }
}

/// What is known of the pages of an image directory and those before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    /// The directories, without slashes at their ends.
    pub(super) dirs: &'a [Vec<u8>],
    pub(super) pages: &'a AlikePages,
}

impl Known<'_> {
    /// Whether two stretches of stored pages are known to hold the same bytes.
    pub(super) fn has(&self, alike: &Alike<'_>) -> bool {
        let image = |(path, from): (&[u8], u64)| Some((self.image(path)?, from));
        let (Some(held), Some(wanted)) = (image(alike.held), image(alike.wanted)) else { return false };
        self.pages.knows(held, wanted, alike.len)
    }

    /// A pages image of the directories by its path.
    fn image(&self, path: &[u8]) -> Option<PagesImage> {
        let (depth, name) = (0..).zip(self.dirs).find_map(|(depth, dir)| {
            let name = path.strip_prefix(dir.as_slice())?.strip_prefix(b"/pages-")?.strip_suffix(b".img")?;
            Some((depth, name))
        })?;
        // `pages-07.img` is another file, as is `pages-+7.img`.
        let is_plain = name.iter().all(u8::is_ascii_digit) && (name.len() == 1 || !name.starts_with(b"0"));
        let id = is_plain.then(|| std::str::from_utf8(name).ok()?.parse().ok()).flatten()?;
        Some(PagesImage { depth, id })
    }
}

/// Looks into those pages.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    known: Known<'a>,
    files: BTreeMap<Vec<u8>, File>,
    /// For what is read.
    buffers: [Vec<u8>; 2],
}

impl<'a> Reader<'a> {
    pub(super) fn of(known: Known<'a>) -> Reader<'a> {
        Reader { known, files: BTreeMap::new(), buffers: Default::default() }
    }

    /// Whether two stretches of stored pages hold the same bytes; not so where they cannot be read.
    pub(super) fn is_alike(&mut self, alike: &Alike<'_>) -> bool {
        self.known.has(alike) || self.compare(alike).unwrap_or(false)
    }

    fn compare(&mut self, alike: &Alike<'_>) -> io::Result<bool> {
        let mut buffers = std::mem::take(&mut self.buffers);
        let is_alike = self.compare_by(&mut buffers, alike);
        self.buffers = buffers;
        is_alike
    }

    fn compare_by(&mut self, buffers: &mut [Vec<u8>; 2], alike: &Alike<'_>) -> io::Result<bool> {
        const CHUNK: usize = 1 << 16;
        buffers.iter_mut().for_each(|buffer| buffer.resize(CHUNK, 0));
        let [held, wanted] = buffers;
        let mut done = 0;
        while done < alike.len {
            let len = usize::try_from(alike.len - done).map_or(CHUNK, |rest| rest.min(CHUNK));
            for (bytes, (path, from)) in [(&mut *held, alike.held), (&mut *wanted, alike.wanted)] {
                let at = from.checked_add(done).ok_or(io::ErrorKind::InvalidInput)?;
                self.file(path)?.read_exact_at(&mut bytes[..len], at)?;
            }
            if held[..len] != wanted[..len] {
                return Ok(false);
            }
            done += len as u64;
        }
        Ok(true)
    }

    /// A file of stored pages; no other is opened.
    fn file(&mut self, path: &[u8]) -> io::Result<&File> {
        if !self.files.contains_key(path) {
            if self.known.image(path).is_none() {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            self.files.insert(path.to_vec(), File::open(OsStr::from_bytes(path))?);
        }
        self.files.get(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::image::read_model;

    #[test]
    fn what_descendants_have_of_an_ancestor() {
        let image = PagesImage::own;
        let run = |held: (u32, u64), wanted: (u32, u64), len: u64| Run {
            at: 0,
            len,
            images: (image(held.0), image(wanted.0)),
            of_parent: held.1,
            of_child: wanted.1,
        };
        let mut alike = AlikePages::default();
        // The child has all eight but one, elsewhere; the grandchild seven of the child's; its brother has one of its own,
        // and another that they have in common.
        alike.add(&[run((1, 0), (2, 100), 5), run((1, 6), (2, 106), 2)]);
        alike.add(&[run((2, 100), (3, 200), 7)]);
        alike.add(&[run((2, 102), (4, 300), 2), run((3, 209), (4, 305), 1)]);
        let knows = |held: (u32, u64), wanted: (u32, u64), len: u64| {
            alike.knows((image(held.0), held.1), (image(wanted.0), wanted.1), len)
        };
        assert!(knows((1, 0), (2, 100), 5) && knows((1, 6), (2, 106), 2));
        assert!(knows((1, 0), (3, 200), 5) && knows((1, 1), (3, 201), 3) && knows((1, 6), (3, 206), 1));
        assert!(knows((2, 100), (3, 200), 7), "that all of it is the grandparent's is not needed");
        assert!(
            knows((1, 2), (4, 300), 2) && knows((3, 202), (4, 300), 2),
            "nor that one comes from the other"
        );
        assert!(knows((3, 209), (4, 305), 1));
        for (held, wanted, len) in [
            ((1, 0), (2, 100), 6),
            ((1, 5), (3, 205), 1),
            ((1, 0), (3, 200), 6),
            ((1, 1), (3, 200), 1),
            ((1, 0), (2, 106), 1),
            ((2, 100), (3, 200), 8),
            ((3, 200), (4, 300), 1),
            ((1, 0), (1, 0), 1),
            ((5, 0), (6, 0), 1),
        ] {
            assert!(!knows(held, wanted, len), "{held:?}, {wanted:?}, {len}");
        }
        assert!(!knows((1, u64::MAX), (2, u64::MAX), u64::MAX));
    }

    #[test]
    fn bytes_of_stored_pages() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/pair/images");
        let model = read_model(&dir).expect("the images are good");
        let pages: Vec<Vec<u8>> = model
            .tasks
            .iter()
            .filter_map(|task| task.alive())
            .flat_map(|alive| super::pages(&model, &alive.mm.pages.extents, &[]).files)
            .collect();
        let [first, second] = [&pages[0], &pages[1]].map(|path| {
            let bytes = std::fs::read(OsStr::from_bytes(path)).expect("it is there");
            (path.as_slice(), bytes)
        });
        let dirs = [model.dir.as_os_str().as_bytes().to_vec()];
        let is_alike = |held: (&[u8], u64), wanted: (&[u8], u64), len: u64| {
            let known = AlikePages::default();
            Reader::of(Known { dirs: &dirs, pages: &known }).is_alike(&Alike { held, wanted, len })
        };
        let len = first.1.len() as u64;
        assert!(is_alike((first.0, 0), (first.0, 0), len));
        assert!(!is_alike((first.0, 0), (first.0, 0), len + 1), "beyond the end");
        assert!(!is_alike((first.0, u64::MAX), (first.0, 0), 4096));
        let page = |of: &[u8], at: usize| of[at..at + 4096].to_vec();
        let mut seen = [false; 2];
        for at in (0..first.1.len()).step_by(4096) {
            for other in (0..second.1.len()).step_by(4096) {
                let expected = page(&first.1, at) == page(&second.1, other);
                seen[usize::from(expected)] = true;
                assert_eq!(is_alike((first.0, at as u64), (second.0, other as u64), 4096), expected);
            }
        }
        assert_eq!(seen, [true; 2]);
        // Other files are not opened, though they are there.
        let other = dir.join("pstree.img").as_os_str().as_bytes().to_vec();
        assert!(!is_alike((&other, 0), (&other, 0), 8));
    }
}
