//! Reads images ahead of their use, where they are not in the page cache.
//!
//! What is cold is read by whoever needs it, and each then waits for the disk: thousands of small images one after
//! another, pages by a fault or a call at a time, in stretches with gaps between them, of many files at once. So two threads
//! read at once what all will need, in the order of the files: small images are asked for first, then pages are read
//! through, as far as there is room for them beside the memory that is filled from them. Who compares or fills then finds
//! them; tasks begin when that is done ([`Ahead::wait`]). Large images are left to who fills from them.
//!
//! Where the images are in the page cache there are no such threads. That is found out by looking at a few of them.
//!
//! Worked example: of a directory with `pages-1.img` and `pages-2.img` of 8 MiB each, which are not in the cache, and 40 images
//! of a page, which are not either: 40 requests of a page, then each thread reads one of the two.
//!
//! Decision 37 has what was measured.
//!
//! # Sources
//! posix_fadvise(2), sendfile(2); mm/readahead.c (`page_cache_async_ra`, `force_page_cache_ra`), mm/filemap.c
//! (`filemap_splice_read`, `cachestat`).

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::model::{Extent, Image, Model, PagesImage};
use super::pagemap::PAGE_BYTES;
use crate::sys::cache;

/// Longer images are not read through, in bytes: who fills from them reads long stretches of them in order, from several
/// places at once, and copies meanwhile.
const LARGE: u64 = 64 << 20;
/// One call reads so much: long enough to be worth it, short enough to be counted.
const CALL: u64 = 8 << 20;
/// Up to this length an image is asked for, and not read through.
const SMALL: u64 = 128 << 10;
/// More of them would let a disk that turns only seek.
const THREADS: usize = 2;
/// So much, in bytes, is waited for: of larger images the rest is read while tasks fill.
const AWAITED: u64 = 2 << 30;
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

/// What is being read.
#[derive(Debug, Clone, Default)]
pub struct Ahead {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    /// Threads that have not come to their end.
    threads: usize,
    /// Bytes read.
    read: u64,
}

impl Ahead {
    /// Has the images of a directory read that are not in the cache; pages last, and only if they are wanted.
    pub fn directory(dir: &Path, with_pages: bool) -> Ahead {
        let ahead = Ahead::default();
        let few = ["inventory.img", "pstree.img", "files.img"];
        let pages = (0..PROBES).filter(|_| with_pages).map(|power| format!("pages-{}.img", 1u32 << power));
        // Pages images are numbered from 1 on: where one is not, no later one is.
        let pages = pages.map_while(|name| open(&dir.join(name)));
        let mut probes = few.into_iter().filter_map(|name| open(&dir.join(name))).chain(pages);
        if !probes.all(|file| is_cached(&file)) {
            let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
            let names = names.filter_map(|entry| entry.file_name().into_string().ok());
            let names = in_order(names.collect(), with_pages);
            ahead.begin(names.into_iter().map(|name| Stretch::whole(dir.join(name))).collect());
        }
        ahead
    }

    /// Has parts of files read, too, in this order, if they are not in the cache.
    pub fn stretches(&self, wanted: Vec<Stretch>) {
        let step = wanted.len().div_ceil(PROBES).max(1);
        let mut probes = wanted.iter().step_by(step).filter_map(|stretch| open(&stretch.path));
        if !probes.all(|file| is_cached(&file)) {
            self.begin(wanted);
        }
    }

    /// Waits until all is read that is to be, or enough for a beginning.
    pub fn wait(&self) {
        let progress = self.state.lock();
        let is_early = |progress: &mut Progress| progress.threads > 0 && progress.read < AWAITED;
        drop(self.state.changed.wait_while(progress, is_early));
    }

    /// Nothing depends on it: where there can be no further threads, all is as without them.
    fn begin(&self, wanted: Vec<Stretch>) {
        let work = Arc::new(Mutex::new(Work { left: wanted.into_iter(), room: room() }));
        for _ in 0..THREADS {
            let (state, work) = (Arc::clone(&self.state), Arc::clone(&work));
            state.lock().threads += 1;
            let leave = Leave(state);
            let builder = std::thread::Builder::new().name("ahead".to_owned()).stack_size(STACK);
            let body = move || {
                let leave = leave;
                read(&leave.0, &work);
            };
            // If there can be none, it has left with its work.
            if let Err(error) = builder.spawn(body) {
                tracing::debug!("images are not read ahead: {error}");
            }
        }
    }
}

impl State {
    fn lock(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread, however it ends.
struct Leave(Arc<State>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.lock().threads -= 1;
        self.0.changed.notify_all();
    }
}

/// What is left to be read.
struct Work {
    left: std::vec::IntoIter<Stretch>,
    /// How much may be read, in bytes.
    room: u64,
}

impl Work {
    /// What one thread reads next.
    fn turn(&mut self) -> Option<(File, u64, u64)> {
        loop {
            let stretch = self.left.next()?;
            let Some(file) = open(&stretch.path) else { continue };
            let whole = length(&file);
            let end = stretch.end.min(whole);
            let start = stretch.start.min(end) / PAGE_BYTES * PAGE_BYTES;
            let len = end - start;
            if whole > LARGE {
                continue;
            }
            if len > self.room {
                // There is no room for the others either, or hardly.
                self.room = 0;
                return None;
            }
            self.room -= len;
            return Some((file, start, len));
        }
    }
}

fn read(state: &State, work: &Mutex<Work>) {
    let Ok(null) = File::options().write(true).open("/dev/null") else { return };
    let next = || work.lock().unwrap_or_else(PoisonError::into_inner).turn();
    while let Some((file, start, len)) = next() {
        if start == 0 && len <= SMALL {
            // What cannot be asked for is read by who needs it.
            let _ = cache::begin_to_read(&file, len);
            continue;
        }
        cache::will_read_in_order(&file);
        let mut done = 0;
        while done < len {
            match cache::read_through(&file, &null, start + done, CALL.min(len - done)) {
                // Who needs it says what is wrong.
                Ok(0) | Err(_) => break,
                Ok(more) => {
                    done += more;
                    state.lock().read += more;
                    state.changed.notify_all();
                }
            }
        }
    }
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
pub(crate) fn in_order(names: Vec<String>, with_pages: bool) -> Vec<String> {
    let number = |name: &str| name.strip_prefix("pages-")?.strip_suffix(".img")?.parse::<u32>().ok();
    let images = names.into_iter().filter(|name| name.ends_with(".img"));
    let images: BTreeSet<(Option<u32>, String)> = images.map(|name| (number(&name), name)).collect();
    images.into_iter().filter(|(number, _)| with_pages || number.is_none()).map(|(_, name)| name).collect()
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
    // A short one is one place.
    let places = PLACES.min(len / PLACE).max(1);
    (0..places).all(|nth| {
        let start = (len / places * nth) / PAGE_BYTES * PAGE_BYTES;
        let part = if places == 1 { len } else { PLACE.min(len.saturating_sub(start)) };
        let wanted = part.div_ceil(PAGE_BYTES);
        part == 0 || cache::cached_pages(file, start, part).is_ok_and(|cached| cached >= wanted)
    })
}

/// How much may be read ahead, in bytes: half of the memory that is to be had, for what is filled from it takes as much
/// (proc_meminfo(5)).
fn room() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.map_or(0, |kibibytes| kibibytes / 2 * 1024)
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
        let ahead = Ahead::default();
        ahead.stretches(vec![Stretch::whole(path)]);
        ahead.wait();
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
