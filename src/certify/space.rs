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

/// Stretches of stored pages that hold the same bytes, by the two pages images: that of the pages that are inherited,
/// that of those that are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlikePages {
    /// Sorted by where they are wanted.
    runs: BTreeMap<(PagesImage, PagesImage), Vec<AlikeRun>>,
}

/// Offsets in the two images, and the length, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct AlikeRun {
    held: u64,
    wanted: u64,
    len: u64,
}

impl AlikePages {
    /// Adds what a child was found to have in common with its parent.
    pub fn add(&mut self, runs: &[Run]) {
        let mut changed: BTreeSet<(PagesImage, PagesImage)> = BTreeSet::new();
        for runs in runs.chunk_by(|a, b| a.images == b.images) {
            let Some(images) = runs.first().map(|run| run.images) else { continue };
            let alike =
                runs.iter().map(|run| AlikeRun { held: run.of_parent, wanted: run.of_child, len: run.len });
            self.runs.entry(images).or_default().extend(alike);
            changed.insert(images);
        }
        for images in &changed {
            if let Some(all) = self.runs.get_mut(images) {
                all.sort_unstable_by_key(|run| run.wanted);
            }
        }
    }

    fn knows(&self, held: (PagesImage, u64), wanted: (PagesImage, u64), len: u64) -> bool {
        let Some(runs) = self.runs.get(&(held.0, wanted.0)) else { return false };
        let behind = runs.partition_point(|run| run.wanted <= wanted.1);
        let Some(run) = behind.checked_sub(1).map(|at| runs[at]) else { return false };
        let by = wanted.1 - run.wanted;
        run.held.checked_add(by) == Some(held.1) && by.checked_add(len).is_some_and(|end| end <= run.len)
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
        let mut reader = Reader::of(dirs, &none);
        for ((of_held, of_wanted), runs) in &self.runs {
            let (held, wanted) = (path(*of_held), path(*of_wanted));
            for run in runs {
                let alike = Alike { held: (&held, run.held), wanted: (&wanted, run.wanted), len: run.len };
                if !reader.is_alike(&alike) {
                    return Some(((*of_held, run.held), (*of_wanted, run.wanted)));
                }
            }
        }
        None
    }
}

/// Looks into the pages of an image directory and those before it.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    /// The directories, without slashes at their ends.
    dirs: &'a [Vec<u8>],
    known: &'a AlikePages,
    files: BTreeMap<Vec<u8>, File>,
}

impl<'a> Reader<'a> {
    pub(super) fn of(dirs: &'a [Vec<u8>], known: &'a AlikePages) -> Reader<'a> {
        Reader { dirs, known, files: BTreeMap::new() }
    }

    /// Whether two stretches of stored pages hold the same bytes; not so where they cannot be read.
    pub(super) fn is_alike(&mut self, alike: &Alike<'_>) -> bool {
        let image = |(path, from): (&[u8], u64)| Some((self.image(path)?, from));
        if let (Some(held), Some(wanted)) = (image(alike.held), image(alike.wanted))
            && self.known.knows(held, wanted, alike.len)
        {
            return true;
        }
        self.compare(alike).unwrap_or(false)
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

    fn compare(&mut self, alike: &Alike<'_>) -> io::Result<bool> {
        const CHUNK: usize = 1 << 16;
        let (mut held, mut wanted) = (vec![0; CHUNK], vec![0; CHUNK]);
        let mut done = 0;
        while done < alike.len {
            let len = usize::try_from(alike.len - done).map_or(CHUNK, |rest| rest.min(CHUNK));
            for (bytes, (path, from)) in [(&mut held, alike.held), (&mut wanted, alike.wanted)] {
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
            if self.image(path).is_none() {
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
            Reader::of(&dirs, &known).is_alike(&Alike { held, wanted, len })
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
