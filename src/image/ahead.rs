//! Reads images ahead of their use, where they are not in the page cache.
//!
//! What is cold is read by whoever needs it, and each then waits for the disk: thousands of small images one after
//! another, pages by a fault or a call at a time. So a thread of its own tells the kernel at once what all will need, in
//! large pieces and in the order of the files: small images first, then the pages, as far as there is room for them
//! beside the memory that is filled from them. It does not wait for what it asks for, and nobody waits for it.
//!
//! Where the images are in the page cache there is no such thread. That is found out by a few of them.
//!
//! Worked example: of a directory with `pages-1.img` of 5 MiB, which is not in the cache, and 40 images of a page each,
//! which are not either: 40 requests of a page, then three of 2, 2 and 1 MiB.
//!
//! # Sources
//! posix_fadvise(2), readahead(2); mm/readahead.c (`force_page_cache_ra`), mm/filemap.c (`cachestat`).

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::model::{Extent, Image, Model, PagesImage};
use super::pagemap::PAGE_BYTES;
use crate::sys::cache;

/// So much is asked for at once.
const PIECE: u64 = 2 << 20;
/// So much at least comes of it: no device is set to read less ahead (`VM_READAHEAD_PAGES`, linux/mm.h).
const LEAST: u64 = 128 << 10;
/// In so many places of a file it is looked whether it is cached,
const PLACES: u64 = 8;
/// and so many bytes are looked at in each.
const PLACE: u64 = 64 << 10;
/// So many images are looked at.
const PROBES: usize = 16;
/// The stack of the thread, in bytes.
const STACK: usize = 256 << 10;

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// The file.
    pub path: PathBuf,
    /// From here
    pub start: u64,
    /// to here, or the end of the file.
    pub end: u64,
}

impl Stretch {
    /// All of a file.
    pub fn whole(path: PathBuf) -> Stretch {
        Stretch { path, start: 0, end: u64::MAX }
    }
}

/// Has the images of a directory read that are not in the cache; pages last, and only if they are wanted.
pub fn directory(dir: &Path, with_pages: bool) {
    let few = ["inventory.img", "pstree.img", "files.img"];
    let pages = (0..PROBES).filter(|_| with_pages).map(|power| format!("pages-{}.img", 1u32 << power));
    let probes = few.into_iter().map(str::to_owned).chain(pages);
    if probes.filter_map(|name| open(&dir.join(name))).all(|file| is_cached(&file)) {
        return;
    }
    let dir = dir.to_owned();
    in_the_background(move || {
        let names = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        read(in_order(names.collect(), with_pages).into_iter().map(|name| Stretch::whole(dir.join(name))));
    });
}

/// Has parts of files read, in this order, if they are not in the cache.
pub fn stretches(wanted: Vec<Stretch>) {
    let step = wanted.len().div_ceil(PROBES).max(1);
    let mut probes = wanted.iter().step_by(step).filter_map(|stretch| open(&stretch.path));
    if probes.all(|file| is_cached(&file)) {
        return;
    }
    in_the_background(move || read(wanted.into_iter()));
}

/// The stretches of pages images that hold these pages, in the order of the files. What lies close together is one.
pub fn of_pages<'a>(model: &Model, extents: impl Iterator<Item = &'a Extent>) -> Vec<Stretch> {
    let mut places: Vec<(PagesImage, u64, u64)> = extents
        .map(|extent| {
            let len = extent.len_pages.saturating_mul(PAGE_BYTES);
            (extent.image, extent.offset_bytes, extent.offset_bytes.saturating_add(len))
        })
        .collect();
    places.sort_unstable();
    places.dedup_by(|next, last| {
        let is_close = next.0 == last.0 && next.1 <= last.2.saturating_add(PLACE);
        if is_close {
            last.2 = last.2.max(next.2);
        }
        is_close
    });
    let stretch = |(image, start, end)| Stretch { path: model.path(Image::Pages(image)), start, end };
    places.into_iter().map(stretch).collect()
}

/// The names of images in the order in which they are read: what is small first, then pages by their numbers.
fn in_order(names: Vec<String>, with_pages: bool) -> Vec<String> {
    let number = |name: &str| name.strip_prefix("pages-")?.strip_suffix(".img")?.parse::<u32>().ok();
    let images = names.into_iter().filter(|name| name.ends_with(".img"));
    let images: BTreeSet<(Option<u32>, String)> = images.map(|name| (number(&name), name)).collect();
    images.into_iter().filter(|(number, _)| with_pages || number.is_none()).map(|(_, name)| name).collect()
}

/// Nothing depends on it: where there can be no further thread, all is as without it.
fn in_the_background(work: impl FnOnce() + Send + 'static) {
    let builder = std::thread::Builder::new().name("ahead".to_owned()).stack_size(STACK);
    if let Err(error) = builder.spawn(work) {
        tracing::debug!("images are not read ahead: {error}");
    }
}

fn open(path: &Path) -> Option<File> {
    // Not to hang on a FIFO of that name.
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()
}

fn length(file: &File) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.len())
}

/// Whether the page cache has a file, by a few places of it. Where that cannot be asked it has not.
fn is_cached(file: &File) -> bool {
    let len = length(file);
    (0..PLACES).all(|nth| {
        let start = (len / PLACES * nth) / PAGE_BYTES * PAGE_BYTES;
        let part = PLACE.min(len.saturating_sub(start));
        let wanted = part.div_ceil(PAGE_BYTES);
        part == 0 || cache::cached_pages(file, start, part).is_ok_and(|cached| cached >= wanted)
    })
}

/// How much may be read ahead, in bytes: half of the memory that is to be had, for what is filled from it takes as much
/// (proc_meminfo(5)).
fn room() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = text.lines().find_map(|line| {
        line.strip_prefix("MemAvailable:")?.split_whitespace().next()?.parse::<u64>().ok()
    });
    kibibytes.map_or(0, |kibibytes| kibibytes / 2 * 1024)
}

fn read(stretches: impl Iterator<Item = Stretch>) {
    let mut room = room();
    let mut last: Option<(PathBuf, File)> = None;
    for stretch in stretches {
        if last.as_ref().is_none_or(|(path, _)| *path != stretch.path) {
            last = open(&stretch.path).map(|file| (stretch.path.clone(), file));
        }
        let Some((_, file)) = &last else { continue };
        let end = stretch.end.min(length(file));
        let mut at = stretch.start / PAGE_BYTES * PAGE_BYTES;
        while at < end {
            let len = PIECE.min(end - at);
            if len > room || cache::begin_to_read(file, at, len).is_err() {
                return;
            }
            // It may have begun with less than it was told.
            let begun = cache::cached_pages(file, at, len).map_or(0, |pages| pages * PAGE_BYTES);
            let step = begun.clamp(LEAST, PIECE);
            at += step;
            room = room.saturating_sub(step.min(len));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn small_images_come_first() {
        let names = ["pages-10.img", "pages-2.img", "core-7.img", "dump.log", "pagemap-7.img"];
        let check = |with_pages, expected: &[&str]| {
            assert_eq!(in_order(names.map(str::to_owned).to_vec(), with_pages), expected);
        };
        check(true, &["core-7.img", "pagemap-7.img", "pages-2.img", "pages-10.img"]);
        check(false, &["core-7.img", "pagemap-7.img"]);
    }

    /// Whatever the cache says, it ends, and all that is there has been asked for.
    #[test]
    fn all_of_a_file_is_read() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let bytes = (5 << 20) + 77;
        file.write_all(&vec![7; bytes]).expect("written");
        file.as_file().sync_all().expect("synced");
        let path = file.path().to_owned();
        let all = |file: &File| cache::cached_pages(file, 0, bytes as u64);
        let pages = (bytes as u64).div_ceil(PAGE_BYTES);
        if all(file.as_file()) == Err(nix::errno::Errno::ENOSYS) {
            return;
        }
        assert_eq!(all(file.as_file()), Ok(pages));
        assert!(is_cached(file.as_file()));
        nix::fcntl::posix_fadvise(file.as_file(), 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .expect("dropped");
        // Of a file in memory nothing is dropped.
        if all(file.as_file()) == Ok(0) {
            assert!(!is_cached(file.as_file()));
        }
        read([Stretch::whole(path)].into_iter());
        assert_eq!(all(file.as_file()), Ok(pages));
        assert!(is_cached(file.as_file()));
    }

    #[test]
    fn pages_that_lie_close_are_one_stretch() {
        let model = super::super::increments::pair();
        let extent = |id, offset: u64, len_pages| Extent {
            start: 0,
            len_pages,
            image: PagesImage::own(id),
            offset_bytes: offset * PAGE_BYTES,
            entry: 0,
        };
        let extents = [extent(2, 0, 1), extent(1, 100, 5), extent(1, 0, 2), extent(1, 10, 1)];
        let found: Vec<(u64, u64)> = of_pages(&model, extents.iter())
            .iter()
            .map(|stretch| (stretch.start / PAGE_BYTES, stretch.end / PAGE_BYTES))
            .collect();
        assert_eq!(found, [(0, 11), (100, 105), (0, 1)]);
    }
}
