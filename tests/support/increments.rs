//! Image directories as incremental dumps write them, made of one real dump: `criu pre-dump` needs a kernel that tracks
//! which pages are written (`CONFIG_MEM_SOFT_DIRTY`), and not every one does.
//!
//! ```text
//! images                     images, parent -> ../images-1     images-1, parent -> ../images-2     images-2
//! pages A B C D      ==>     pagemap: A here, B C D before     B here, C D before, another A       C D, another A and B
//! ```
//!
//! Each page stays where it was, or moves to a dump before. The dumps before also have pages that are newer further on:
//! with other bytes, which nobody may ever see. `criu dedup` leaves holes there. That this is what CRIU means is for CRIU to
//! say: it restores from such directories, too.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use regrow::image::{
    self, Blob, Contents, Extent, Held, Image, Model, Pages, PagesImage, Task, write_pagemap,
};

const PAGE: u64 = 4096;

/// So many pages in a row move together, at most.
const MOVED_TOGETHER: u64 = 3;

/// The directory of the dump that comes `nth` before that in `images`.
pub(crate) fn before(images: &Path, nth: u32) -> PathBuf {
    let mut name = images.file_name().expect("a directory of the test").to_owned();
    name.push(format!("-{nth}"));
    images.with_file_name(name)
}

/// Spreads the pages of the dump in `images` over so many dumps before it. Says how many pages are further back.
pub(crate) fn spread(images: &Path, dumps: u32) -> u64 {
    let model = image::read_model(images).expect("a dump");
    for nth in 1..=dumps {
        fs::create_dir(before(images, nth)).expect("a directory of the test");
        let new = if nth == 1 { images.to_owned() } else { before(images, nth - 1) };
        let link = Path::new("..").join(before(images, nth).file_name().expect("a name"));
        symlink(link, new.join("parent")).expect("a link");
    }
    let pagemaps = model
        .tasks
        .iter()
        .filter_map(|task: &Task| Some((Image::Pagemap(task.pid.0), &task.alive()?.mm.pages)))
        .chain(model.shm.iter().map(|shm| (Image::PagemapShmem(shm.shmid), &shm.pages)));
    let mut moved = 0;
    for (image, pages) in pagemaps {
        let levels = Levels::of(&model, pages, dumps);
        let kept = |path: Image| images.join(path.to_string());
        fs::remove_file(kept(image)).expect("a pagemap");
        fs::remove_file(kept(Image::Pages(PagesImage::own(pages.pages_id)))).expect("its pages");
        for (nth, level) in (0..).zip(&levels.pages) {
            let dir = if nth == 0 { images.to_owned() } else { before(images, nth) };
            write_pagemap(&dir, image, level, &levels.contents[nth as usize]).expect("a pagemap");
        }
        moved += levels.moved;
    }
    moved
}

/// One pagemap in all directories.
struct Levels {
    /// What each says: depth 0 is stored there, depth 1 further back.
    pages: Vec<Pages>,
    /// Their bytes.
    contents: Vec<Held>,
    moved: u64,
}

impl Levels {
    fn of(model: &Model, pages: &Pages, dumps: u32) -> Levels {
        let mut levels =
            Levels { pages: Vec::new(), contents: vec![Held::default(); dumps as usize + 1], moved: 0 };
        for nth in 0..=dumps {
            // Each dump numbers its images for itself.
            levels.pages.push(Pages { pages_id: pages.pages_id + 100 * nth, extents: Vec::new() });
        }
        let mut number = 0;
        for extent in &pages.extents {
            for at in (0..extent.len_pages).map(|page| page * PAGE) {
                let blob = Blob {
                    image: Image::Pages(extent.image),
                    offset_bytes: extent.offset_bytes + at,
                    len_bytes: PAGE,
                };
                let bytes = model.bytes(&blob).expect("a page of the dump");
                // Some order without any pattern that memory could have, too.
                let depth = (number / MOVED_TOGETHER).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
                levels.add(extent.start + at, (depth % (u64::from(dumps) + 1)) as u32, &bytes);
                number += 1;
            }
        }
        levels
    }

    fn add(&mut self, start: u64, depth: u32, bytes: &[u8]) {
        self.moved += u64::from(depth > 0);
        let other = [0xde; PAGE as usize];
        for (nth, (pages, contents)) in (0..).zip(self.pages.iter_mut().zip(&mut self.contents)) {
            let (is_here, bytes) = match nth.cmp(&depth) {
                std::cmp::Ordering::Less => (false, None),
                std::cmp::Ordering::Equal => (true, Some(bytes)),
                // What was there before it was written once more; or it was not there at all.
                std::cmp::Ordering::Greater if (start / PAGE).is_multiple_of(3) => continue,
                std::cmp::Ordering::Greater => (true, Some(&other[..])),
            };
            let own = PagesImage::own(pages.pages_id);
            let offset_bytes = bytes.map_or(0, |bytes| contents.add(Image::Pages(own), bytes).offset_bytes);
            let image = if is_here { own } else { PagesImage { depth: 1, id: 0 } };
            match pages.extents.last_mut() {
                Some(last) if last.image == image && last.start + last.len_pages * PAGE == start => {
                    last.len_pages += 1
                }
                _ => pages.extents.push(Extent { start, len_pages: 1, image, offset_bytes, entry: 0 }),
            }
        }
    }
}

/// Adds to the inventory of a dump when that was, which CRIU puts down only where it tracks which pages are written; it
/// takes no dump for that before another without knowing that no pid has been given away since.
pub(crate) fn note_uptime(images: &Path) {
    /// `dump_uptime`, field 8 of `inventory_entry` (`images/inventory.proto`): a varint, in microseconds.
    const TAG: u8 = 8 << 3;
    let path = images.join("inventory.img");
    let mut bytes = fs::read(&path).expect("an inventory");
    let uptime = fs::read_to_string("/proc/uptime").expect("the uptime");
    let seconds: f64 = uptime.split(' ').next().and_then(|text| text.parse().ok()).expect("the uptime");
    let mut field = vec![TAG];
    let mut rest = (seconds * 1e6) as u64;
    while rest >= 0x80 {
        field.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    field.push(rest as u8);
    // The magic, the length of the one entry, and that.
    let len = u32::from_le_bytes(bytes[4..8].try_into().expect("a length")) + field.len() as u32;
    bytes[4..8].copy_from_slice(&len.to_le_bytes());
    bytes.extend(field);
    fs::write(&path, bytes).expect("an inventory");
}

/// How many bytes of the pages images of a directory are holes.
pub(crate) fn holes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = fs::read_dir(dir).expect("a directory of the test").filter_map(Result::ok);
    let pages = files.filter(|file| file.file_name().to_string_lossy().starts_with("pages-"));
    let hole = |file: fs::DirEntry| {
        let metadata = file.metadata().expect("a pages image");
        metadata.len().saturating_sub(metadata.blocks() * 512)
    };
    pages.map(hole).sum()
}
