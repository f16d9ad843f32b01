//! `pagemap-PID.img` and `pagemap-shmem-ID.img`: which pages are stored, and where.
//!
//! Turns the head and the entries of a pagemap into [`Pages`]. Entries carry no offsets: the pages of
//! one follow those of the one before it in `pages-ID.img`, and the file has nothing else, which is
//! how a pagemap that lost its end is noticed. It does not open the pages image beyond asking for
//! its length.
//!
//! Example: the entries `0x1000, 2 pages` and `0x8000, 1 page` are the extents
//! `0x1000..0x3000` at offset 0 and `0x8000..0x9000` at offset 8192 of a file of 12288 bytes.

use super::error::Errors;
use super::magic::Kind;
use super::model::{Extent, Image, Pages, PagesImage};
use super::proto::{PagemapEntry, PagemapHead};
use super::read::Dir;

/// Bytes in a page; the only size of x86-64 that CRIU dumps in.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// The pages are in the parent directory (`PE_PARENT`).
const PE_PARENT: u32 = 1 << 0;
/// The pages may be restored on demand (`PE_LAZY`).
const PE_LAZY: u32 = 1 << 1;
/// The pages are in the pages image (`PE_PRESENT`).
const PE_PRESENT: u32 = 1 << 2;

/// The pagemap; `None` if it is not there or bad.
pub(crate) fn read_pagemap(dir: &Dir<'_>, image: Image, kind: &Kind, errors: &mut Errors) -> Option<Pages> {
    let before = errors.count();
    let mut head: Option<PagemapHead> = None;
    let mut pages = Pages::default();
    let mut end = (0u64, 0u64);
    let present = dir.for_each(image, kind, errors, |_, entry, errors| {
        if entry.index == 0 {
            head = errors.decode(entry);
            pages.pages_id = head.as_ref().map_or(0, |head| head.pages_id);
        } else if let Some(e) = errors.decode::<PagemapEntry>(entry)
            && let Err(problem) = add_extent(&mut pages, &e, &mut end, entry.index)
        {
            match problem {
                Problem::Unsupported(reason) => errors.unsupported(image, entry.index, reason),
                Problem::Inconsistent(reason) => errors.inconsistent(image, entry.index, reason),
            }
        }
        Ok(())
    });
    if !present {
        return None;
    }
    let sound = errors.count() == before;
    let Some(head) = head else {
        if sound {
            errors.inconsistent(image, None, "no entry; the first must be the head");
        }
        return None;
    };
    let length = dir.len(Image::Pages(PagesImage::own(head.pages_id)));
    let length = errors.keep(length)?;
    if sound {
        check_length(&pages, image, end.1, length, errors);
    }
    Some(pages)
}

/// That the pages image holds what the extents say and nothing more.
fn check_length(pages: &Pages, image: Image, wanted: u64, length: Option<u64>, errors: &mut Errors) {
    let stored = PagesImage::own(pages.pages_id);
    match length {
        // Nothing was written into it, so it was not created.
        None if wanted == 0 => {}
        None => errors.missing_file(stored, format!("{image} has pages in it")),
        Some(had) if had < wanted => {
            errors.inconsistent(
                image,
                None,
                format!("describes {wanted} bytes of {stored}, which has {had}"),
            );
        }
        Some(had) if had > wanted => {
            errors.inconsistent(
                image,
                None,
                format!("describes only {wanted} bytes of {stored}, which has {had}"),
            );
        }
        Some(_) => {}
    }
}

enum Problem {
    Unsupported(String),
    Inconsistent(String),
}

/// Adds the extent of an entry. `end` is where the one before it ends, in memory and in the file.
fn add_extent(pages: &mut Pages, e: &PagemapEntry, end: &mut (u64, u64), entry: u32) -> Result<(), Problem> {
    // Versions before 2.0 wrote no flags: what is not in the parent is present.
    let mut flags = e.flags.unwrap_or(if e.in_parent == Some(true) { 0 } else { PE_PRESENT });
    if e.in_parent == Some(true) {
        flags |= PE_PARENT;
    }
    let unknown = flags & !(PE_PARENT | PE_LAZY | PE_PRESENT);
    if unknown != 0 {
        return Err(Problem::Unsupported(format!("unknown flags {unknown:#x}")));
    }
    if flags & PE_PARENT != 0 {
        return Err(Problem::Unsupported("pages of an incremental dump, in an earlier directory".to_owned()));
    }
    if flags & PE_PRESENT == 0 {
        return Err(Problem::Unsupported("pages that are not in the image (lazy-pages)".to_owned()));
    }

    // A 32-bit count, and since 4.0 a 64-bit one beside it.
    let count = e.nr_pages.unwrap_or(u64::from(e.compat_nr_pages));
    let bad = |reason: &str| Problem::Inconsistent(format!("{count} pages at {:#x}: {reason}", e.vaddr));
    if count == 0 {
        return Err(bad("none"));
    }
    if !e.vaddr.is_multiple_of(PAGE_BYTES) {
        return Err(bad("not at a page boundary"));
    }
    let too_many = || bad("more than there can be");
    let len_bytes = count.checked_mul(PAGE_BYTES).ok_or_else(too_many)?;
    let memory_end = e.vaddr.checked_add(len_bytes).ok_or_else(too_many)?;
    let file_end = end.1.checked_add(len_bytes).ok_or_else(too_many)?;
    if e.vaddr < end.0 {
        return Err(bad("not behind the entry before"));
    }
    let image = PagesImage::own(pages.pages_id);
    pages.extents.push(Extent { start: e.vaddr, len_pages: count, image, offset_bytes: end.1, entry });
    *end = (memory_end, file_end);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn check(entries: &[PagemapEntry], expected: &str) {
        let (mut pages, mut end) = (Pages::default(), (0, 0));
        let mut said = String::new();
        for (i, e) in entries.iter().enumerate() {
            match add_extent(&mut pages, e, &mut end, i as u32 + 1) {
                Ok(()) => {
                    let x = pages.extents.last().unwrap();
                    said += &format!("{:x}+{}@{} ", x.start, x.len_pages, x.offset_bytes);
                }
                Err(Problem::Unsupported(reason)) => said += &format!("unsupported {reason}"),
                Err(Problem::Inconsistent(reason)) => said += &format!("inconsistent {reason}"),
            }
        }
        assert_eq!(said.trim_end(), expected);
    }

    fn entry(vaddr: u64, pages: u64, flags: Option<u32>) -> PagemapEntry {
        PagemapEntry { vaddr, compat_nr_pages: pages as u32, in_parent: None, flags, nr_pages: Some(pages) }
    }

    #[test]
    fn offsets_follow_each_other() {
        check(&[entry(0x1000, 2, Some(4)), entry(0x8000, 1, Some(6))], "1000+2@0 8000+1@8192");
    }

    #[test]
    fn old_entries_are_present() {
        let mut old = entry(0x1000, 0, None);
        old.nr_pages = None;
        old.compat_nr_pages = 3;
        check(&[old.clone()], "1000+3@0");
        old.in_parent = Some(true);
        check(&[old], "unsupported pages of an incremental dump, in an earlier directory");
    }

    #[test]
    fn what_is_not_stored_is_unsupported() {
        check(
            &[entry(0x1000, 1, Some(1))],
            "unsupported pages of an incremental dump, in an earlier directory",
        );
        check(&[entry(0x1000, 1, Some(2))], "unsupported pages that are not in the image (lazy-pages)");
        check(&[entry(0x1000, 1, Some(12))], "unsupported unknown flags 0x8");
    }

    #[test]
    fn impossible_extents() {
        check(&[entry(0x1000, 0, Some(4))], "inconsistent 0 pages at 0x1000: none");
        check(&[entry(0x1001, 1, Some(4))], "inconsistent 1 pages at 0x1001: not at a page boundary");
        check(
            &[entry(0x1000, 1 << 52, Some(4))],
            "inconsistent 4503599627370496 pages at 0x1000: more than there can be",
        );
        check(
            &[entry(0x1000, 2, Some(4)), entry(0x2000, 1, Some(4))],
            "1000+2@0 inconsistent 1 pages at 0x2000: not behind the entry before",
        );
    }
}
