//! Images as an incremental dump has them: the pages of a tree, spread over directories of dumps before.
//!
//! Example: of four pages `0 1 2 3` at 0x1000, by `|page| page % 2`, the first and the third are in the directory itself, the
//! others in the one before it.

use super::PAGE;
use super::model::Synthetic;
use crate::image::{Blob, Contents, Extent, Held, Image, Model, Pages, PagesImage, WriteError};

/// The same model with the same pages, each where `depth` says: so many directories further back. It is given the
/// pagemap, and the number of the page in it.
///
/// # Errors
/// A page cannot be had.
pub fn spread(
    synthetic: &Synthetic,
    mut depth: impl FnMut(Image, u64) -> u32,
) -> Result<Synthetic, WriteError> {
    let Synthetic { mut model, mut contents } = synthetic.clone();
    let Model { tasks, shm, .. } = &mut model;
    for task in tasks {
        let image = Image::Pagemap(task.pid.0);
        if let Some(alive) = task.alive_mut() {
            // Those of rings are in the same image.
            let mut all = alive.mm.pages.clone();
            all.extents.extend(alive.mm.aio_rings.iter().flat_map(|ring| &ring.pages));
            all.extents.sort_unstable_by_key(|extent| extent.start);
            let mut pages = spread_pages(&all, &mut contents, |page| depth(image, page))?;
            for ring in &mut alive.mm.aio_rings {
                ring.pages = take_range(&mut pages, ring.start, ring.start + ring.len_bytes);
            }
            alive.mm.pages = pages;
        }
    }
    for shm in shm {
        let image = Image::PagemapShmem(shm.shmid);
        shm.pages = spread_pages(&shm.pages, &mut contents, |page| depth(image, page))?;
    }
    Ok(Synthetic { model, contents })
}

/// Takes what is between two addresses out of `pages`.
pub(super) fn take_range(pages: &mut Pages, start: u64, end: u64) -> Vec<Extent> {
    let taken = pages.extents.iter().filter_map(|extent| extent.within(start, end)).collect();
    let outside = |extent: &Extent| [extent.within(0, start), extent.within(end, u64::MAX)];
    pages.extents = pages.extents.iter().flat_map(outside).flatten().collect();
    taken
}

fn spread_pages(
    pages: &Pages,
    contents: &mut Held,
    mut depth: impl FnMut(u64) -> u32,
) -> Result<Pages, WriteError> {
    // Address and bytes of each page.
    let mut all: Vec<(u64, Vec<u8>)> = Vec::new();
    for extent in &pages.extents {
        for at in (0..extent.len_pages).map(|page| page * PAGE) {
            let offset_bytes = extent.offset_bytes + at;
            let blob = Blob { image: Image::Pages(extent.image), offset_bytes, len_bytes: PAGE };
            all.push((extent.start + at, contents.bytes(&blob)?.into_owned()));
        }
    }
    for extent in &pages.extents {
        contents.remove(Image::Pages(extent.image));
    }
    let mut spread = Pages { pages_id: pages.pages_id, extents: Vec::new() };
    // The head of a pagemap is entry 0.
    let mut entry = 0;
    for (number, (start, bytes)) in (0..).zip(all) {
        let image = PagesImage { depth: depth(number), id: pages.pages_id };
        let offset_bytes = contents.add(Image::Pages(image), &bytes).offset_bytes;
        let last = spread.extents.last_mut().filter(|last| last.start + last.len_pages * PAGE == start);
        match last {
            Some(last) if last.image == image => last.len_pages += 1,
            last => {
                // What is further back, wherever that is, is one entry.
                let is_same = last.is_some_and(|last| last.image.depth > 0 && image.depth > 0);
                entry += u32::from(!is_same);
                spread.extents.push(Extent { start, len_pages: 1, image, offset_bytes, entry });
            }
        }
    }
    Ok(spread)
}
