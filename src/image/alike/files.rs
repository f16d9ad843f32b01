//! Pages images that are compared: which are open, and which are mapped.
//!
//! To compare pages where the page cache has them saves copying them, and costs mapping and unmapping them. What that is
//! depends on how they came into the cache: whoever writes them one by one leaves each in a folio of its own, which is
//! mapped by itself; what CRIU dumps is in folios of 8 to 128 pages, and files that were read are in larger ones still, whose
//! pages are mapped together (`filemap_map_pages`, mm/filemap.c). No file says which it has, so it is measured: the first images of some size are
//! mapped and touched, and what that takes decides for them and, when there were a few, for the others. What is not all in
//! the cache is read.
//! [Decision 41](../../../docs/decisions/0041-compared-where-the-page-cache-has-them.md) has the numbers.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use memmap2::Mmap;

use crate::image::file::{self, map};
use crate::image::model::PagesImage;
use crate::image::pagemap::PAGE_BYTES;
use crate::sys::cache::cached_pages;

/// So many files stay open between two reads, of all readers together: children that are compared with the same place
/// of their parent are read in turns.
const OPEN: usize = 128;
/// So many images are mapped at most: a process may have 65,530 mappings (`vm.max_map_count`).
const MAPPED: usize = 1 << 14;
/// Smaller images are read: what a mapping takes by itself counts more.
const MAP_FROM_BYTES: u64 = 1 << 18;
/// So much of an image is touched to see what mapping takes,
const TOUCHED_BYTES: usize = 1 << 18;
/// by so much at once: what the kernel maps around a fault (`fault_around_bytes`, mm/memory.c).
const STEP_BYTES: usize = 1 << 16;
/// Up to so much a page it pays. In large folios it is 2 to 40 ns, in those of four pages some 200, in single ones 310 to
/// 630; unmapping takes about half as much again, and copying, which is what is saved, some 200.
const PAYS_BELOW: Duration = Duration::from_nanos(100);
/// So many images are measured. The others of a directory were most likely written and read as these.
const MEASURED: u32 = 4;

/// Where a pages image is.
pub(super) type Paths<'a> = dyn Fn(PagesImage) -> PathBuf + Sync + 'a;

/// Which images are mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mapping {
    /// Those that are all in the page cache, if it saves time, by measurement.
    WherePays,
    /// None, or all: for tests.
    #[cfg(test)]
    Never,
    #[cfg(test)]
    Always,
}

/// Pages images that are open.
pub(super) struct Files<'a> {
    paths: &'a Paths<'a>,
    mapping: Mapping,
    open: Mutex<Open>,
    measured: Mutex<Measured>,
}

#[derive(Debug, Default)]
struct Open {
    /// Those that are read, or cannot be opened; what was used last is the last.
    read: VecDeque<(PagesImage, Option<Opened>)>,
    /// Those that are mapped, which all stay so: to map one anew for each piece of it would cost more than to read it.
    mapped: BTreeMap<PagesImage, Arc<Mmap>>,
}

/// What measuring has shown.
#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    /// How many images were measured.
    images: u32,
    /// Of how many of them it pays to map them.
    paying: u32,
}

/// An open image.
#[derive(Debug, Clone)]
pub(super) enum Opened {
    /// To be read.
    Read(Arc<File>),
    /// All of it.
    Mapped(Arc<Mmap>),
}

impl<'a> Files<'a> {
    pub(super) fn new(paths: &'a Paths<'a>, mapping: Mapping) -> Files<'a> {
        Files { paths, mapping, open: Mutex::default(), measured: Mutex::default() }
    }

    /// An image, opened if it is not; `None`: it cannot be.
    pub(super) fn open(&self, image: PagesImage) -> Option<Opened> {
        if let Some(opened) = self.with_open(|open| open.used(image)) {
            return opened;
        }
        // Nobody waits meanwhile.
        let opened = file::open(&(self.paths)(image)).ok().map(|(file, len)| {
            let mapped = self.mapping_of(&file, len);
            mapped.map_or_else(|| Opened::Read(Arc::new(file)), |mapped| Opened::Mapped(Arc::new(mapped)))
        });
        self.with_open(|open| open.add(image, opened))
    }

    /// Closes all, and unmaps them while others go on: that takes a tenth of what comparing does.
    pub(super) fn close(self) {
        let Open { mapped, .. } = self.open.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !mapped.is_empty() {
            rayon::spawn(move || drop(mapped));
        }
    }

    /// Nobody leaves it half changed.
    fn with_open<T>(&self, run: impl FnOnce(&mut Open) -> T) -> T {
        run(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The mapping of an image of `len` bytes, if it is to be mapped.
    fn mapping_of(&self, file: &File, len: u64) -> Option<Mmap> {
        match self.mapping {
            Mapping::WherePays if len < MAP_FROM_BYTES => None,
            Mapping::WherePays if self.with_open(|open| open.mapped.len() >= MAPPED) => None,
            Mapping::WherePays => self.if_it_pays(file, len),
            #[cfg(test)]
            Mapping::Never => None,
            #[cfg(test)]
            Mapping::Always => map(file).ok(),
        }
    }

    fn if_it_pays(&self, file: &File, len: u64) -> Option<Mmap> {
        let Measured { images, paying } = *self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = images >= MEASURED;
        // What is not there yet is read: by faults it would come in pieces, and where it cannot be read the fault would end
        // this process (SIGBUS).
        if is_known && 2 * paying <= images || cached_pages(file, 0, len) != Ok(len.div_ceil(PAGE_BYTES)) {
            return None;
        }
        let mapped = map(file).ok()?;
        let pays = is_known || {
            let pays = least_of_a_page(&mapped) < PAYS_BELOW;
            let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
            measured.images += 1;
            measured.paying += u32::from(pays);
            pays
        };
        pays.then_some(mapped)
    }
}

impl Open {
    /// An image that is open, or cannot be.
    fn used(&mut self, image: PagesImage) -> Option<Option<Opened>> {
        if let Some(mapped) = self.mapped.get(&image) {
            return Some(Some(Opened::Mapped(Arc::clone(mapped))));
        }
        let at = self.read.iter().rposition(|(open, _)| *open == image)?;
        let used = self.read.remove(at)?;
        self.read.push_back(used.clone());
        Some(used.1)
    }

    /// An image that was just opened, or could not be. What somebody else has opened meanwhile stays.
    fn add(&mut self, image: PagesImage, opened: Option<Opened>) -> Option<Opened> {
        if let Some(opened) = self.used(image) {
            return opened;
        }
        if let Some(Opened::Mapped(mapped)) = &opened {
            self.mapped.insert(image, Arc::clone(mapped));
            return opened;
        }
        if self.read.len() >= OPEN {
            self.read.pop_front();
        }
        self.read.push_back((image, opened.clone()));
        opened
    }
}

/// What mapping a page takes, in the middle of an image (readahead begins with small folios, whatever comes then): the least
/// of several faults, for others use the machine, too.
fn least_of_a_page(mapped: &[u8]) -> Duration {
    let first = (mapped.len().saturating_sub(TOUCHED_BYTES) / 2).next_multiple_of(STEP_BYTES);
    let steps = mapped.get(first..).unwrap_or_default().chunks(STEP_BYTES).take(TOUCHED_BYTES / STEP_BYTES);
    let fault = |step: &[u8]| {
        let start = Instant::now();
        black_box(step.first().copied());
        start.elapsed()
    };
    let least = steps.map(fault).min().unwrap_or(Duration::MAX);
    least / (STEP_BYTES as u64 / PAGE_BYTES) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than stay open: what is read is closed but for the last ones, what is mapped stays mapped.
    #[test]
    fn what_stays_open() {
        let dir = tempfile::tempdir().expect("a directory");
        let count = u32::try_from(OPEN).expect("it is small") + 2;
        let path = |image: PagesImage| dir.path().join(image.to_string());
        for number in 1..=count {
            std::fs::write(path(PagesImage::own(number)), [7; 3]).expect("written");
        }
        let address = |opened: Opened| match opened {
            Opened::Read(file) => Arc::as_ptr(&file).addr(),
            Opened::Mapped(mapped) => mapped.as_ptr().addr(),
        };
        for (mapping, is_mapped) in [(Mapping::Always, true), (Mapping::Never, false)] {
            let files = Files::new(&path, mapping);
            // Kept, so that no other comes to lie where one was.
            let all: Vec<Opened> =
                (1..=count).map(|number| files.open(PagesImage::own(number)).expect("it is there")).collect();
            assert!(all.iter().all(|opened| matches!(opened, Opened::Mapped(_)) == is_mapped));
            let again = |number: u32| address(files.open(PagesImage::own(number)).expect("it is there"));
            assert_eq!(again(count), address(all[count as usize - 1].clone()));
            assert_eq!(again(1) == address(all[0].clone()), is_mapped);
            assert!(files.open(PagesImage::own(count + 1)).is_none());
            files.close();
        }
    }
}
