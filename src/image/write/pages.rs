//! Pagemaps, and the pages that they describe: CRIU has one file of pages for each pagemap.
//!
//! The inverse of [`super::super::pagemap`]. Pages that are further back are written where they are, as pagemaps of the
//! same name in the directories before.

use std::path::Path;

use super::super::aio::all_pages;
use super::super::magic::{PAGEMAP, PAGEMAP_SHMEM};
use super::super::model::{Blob, Image, Model, Pages, PagesImage, Task};
use super::super::pagemap::{PAGE_BYTES, PE_PARENT, PE_PRESENT};
use super::super::parents::PARENT;
use super::super::proto::{PagemapEntry, PagemapHead};
use super::{Contents, Entries, Out, WriteError};

/// How many directories before its own have pages of a model.
pub(super) fn parents(model: &Model) -> u32 {
    let tasks = model.tasks.iter().filter_map(Task::alive).map(|alive| &alive.mm);
    let tasks = tasks.map(|mm| deepest(&all_pages(&mm.pages, &mm.aio_rings)));
    tasks.chain(model.shm.iter().map(|shm| deepest(&shm.pages))).max().unwrap_or(0)
}

fn deepest(pages: &Pages) -> u32 {
    pages.extents.iter().map(|extent| extent.image.depth).max().unwrap_or(0)
}

/// A pagemap, and those of the same name further back that it refers to.
pub(super) fn write<C: Contents + ?Sized>(
    out: &Out<'_, C>,
    image: Image,
    pages: &Pages,
) -> Result<(), WriteError> {
    let mut dir = out.dir.to_owned();
    for depth in 0..=deepest(pages) {
        write_level(&Out { dir: &dir, ..*out }, image, pages, depth)?;
        dir.push(PARENT);
    }
    Ok(())
}

/// Writes one pagemap and its pages into `dir`, an image directory without them. Pages that are further back are said to
/// be in the directory of the dump before, and are not written.
///
/// # Errors
/// See [`WriteError`].
pub fn write_pagemap<C: Contents + ?Sized>(
    dir: &Path,
    image: Image,
    pages: &Pages,
    contents: &C,
) -> Result<(), WriteError> {
    write_level(&Out { dir, contents }, image, pages, 0)
}

/// What `depth` has of a pagemap, into the directory there.
fn write_level<C: Contents + ?Sized>(
    out: &Out<'_, C>,
    image: Image,
    pages: &Pages,
    depth: u32,
) -> Result<(), WriteError> {
    let kind = if let Image::PagemapShmem(_) = image { &PAGEMAP_SHMEM } else { &PAGEMAP };
    let mut extents = pages.extents.iter().filter(|extent| extent.image.depth >= depth).peekable();
    let mut here = pages.extents.iter().map(|extent| extent.image).filter(|image| image.depth == depth);
    let stored = here.next().unwrap_or(PagesImage { depth, id: pages.pages_id });
    if let Some(other) = here.find(|image| *image != stored) {
        return Err(WriteError::unsupported(image, format!("pages of {stored} and of {other}")));
    }
    let mut entries = Entries::new(kind);
    let mut bytes = Vec::new();
    entries.push(&PagemapHead { pages_id: stored.id });
    while let Some(extent) = extents.next() {
        let is_here = extent.image == stored;
        let mut len_pages = extent.len_pages;
        // What follows further back in memory is one entry, wherever it is.
        while let Some(next) = extents.next_if(|next| {
            !is_here
                && next.image.depth > depth
                && next.start == extent.start.saturating_add(len_pages.saturating_mul(PAGE_BYTES))
        }) {
            len_pages = len_pages.saturating_add(next.len_pages);
        }
        entries.push(&PagemapEntry {
            vaddr: extent.start,
            // Required, and looked at only where there is no other.
            compat_nr_pages: 0,
            in_parent: None,
            flags: Some(if is_here { PE_PRESENT } else { PE_PARENT }),
            nr_pages: Some(len_pages),
        });
        if is_here {
            let blob = Blob {
                image: Image::Pages(stored),
                offset_bytes: extent.offset_bytes,
                len_bytes: len_pages.saturating_mul(PAGE_BYTES),
            };
            bytes.extend_from_slice(&out.contents.bytes(&blob)?);
        }
    }
    out.write(image, &entries)?;
    // CRIU opens it, also where no page is stored.
    out.file(Image::Pages(PagesImage::own(stored.id)), &bytes)
}
