//! `pagemap-PID.img` and `pagemap-shmem-ID.img`: which pages are stored, and where.
//!
//! Turns the head and the entries of a pagemap into [`Pages`]. Entries carry no offsets: the pages of
//! one follow those of the one before it in `pages-ID.img`, and the file has nothing else, which is
//! how a pagemap that lost its end is noticed. It does not open the pages image beyond asking for
//! its length.
//!
//! Of an incremental dump, entries may say that their pages are in the directory of the dump before. They are
//! in the pagemap of the same name there, which may send on in turn; and what a pagemap stores itself goes before what
//! is stored for the same address further back, where it may have been removed (`criu dedup` leaves a hole in the
//! pages image). Nothing of that is ever looked at.
//!
//! Example: the entries `0x1000, 2 pages` and `0x8000, 1 page` are the extents
//! `0x1000..0x3000` at offset 0 and `0x8000..0x9000` at offset 8192 of a file of 12288 bytes.
//!
//! # Sources
//! `criu/include/pagemap.h` draws how pagemaps follow each other; `read_pagemap_page` and `read_parent_page` in
//! `criu/pagemap.c` find a page.

use super::error::Errors;
use super::magic::Kind;
use super::model::{Extent, Image, Pages, PagesImage, Upwards};
use super::parents::PARENT;
use super::proto::{PagemapEntry, PagemapHead};
use super::read::Dir;

/// Bytes in a page; the only size of x86-64 that CRIU dumps in.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// The pages are in the parent directory (`PE_PARENT`).
pub(crate) const PE_PARENT: u32 = 1 << 0;
/// The pages may be restored on demand (`PE_LAZY`).
const PE_LAZY: u32 = 1 << 1;
/// The pages are in the pages image (`PE_PRESENT`).
pub(crate) const PE_PRESENT: u32 = 1 << 2;

/// The pagemap, with the pages of the dumps before that it refers to; `None` if it is not there or bad.
pub(crate) fn read_pagemap(dir: &Dir<'_>, image: Image, kind: &Kind, errors: &mut Errors) -> Option<Pages> {
    let Level { mut pages, elsewhere, .. } = read_level(dir, image, kind, errors)??;
    if !elsewhere.is_empty() {
        read_from_parents(dir, (image, kind), elsewhere, &mut pages.extents, errors)?;
        pages.extents.sort_unstable_by_key(|extent| extent.start);
    }
    Some(pages)
}

/// What one pagemap says by itself.
#[derive(Debug, Default)]
struct Level {
    /// Of these the pages are beside it.
    pages: Pages,
    /// Pages that are in the directory before, by address.
    elsewhere: Vec<Elsewhere>,
    /// Where the last entry ends, in memory and in the pages image.
    end: (u64, u64),
}

/// A run of pages that are further back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Elsewhere {
    start: u64,
    end: u64,
    /// The entry that says so: of the pagemap of the directory itself.
    entry: u32,
}

impl Level {
    /// The run that has the page at `at`, and where that ends.
    fn covering(&self, at: u64) -> Option<(Place, u64)> {
        let extents = &self.pages.extents;
        let end = |extent: &Extent| extent.start + extent.len_pages * PAGE_BYTES;
        let next = extents.get(extents.partition_point(|extent| end(extent) <= at));
        if let Some(extent) = next.filter(|extent| extent.start <= at) {
            return Some((Place::Here(*extent), end(extent)));
        }
        let next = self.elsewhere.get(self.elsewhere.partition_point(|other| other.end <= at));
        next.filter(|other| other.start <= at).map(|other| (Place::Elsewhere, other.end))
    }
}

enum Place {
    Here(Extent),
    Elsewhere,
}

/// One pagemap; inner `None` if it is not there, outer if it is bad.
fn read_level(dir: &Dir<'_>, image: Image, kind: &Kind, errors: &mut Errors) -> Option<Option<Level>> {
    let before = errors.count();
    let mut head: Option<PagemapHead> = None;
    let mut level = Level::default();
    let present = dir.for_each(image, kind, errors, |_, entry, errors| {
        if entry.index == 0 {
            head = errors.decode(entry);
            level.pages.pages_id = head.as_ref().map_or(0, |head| head.pages_id);
        } else if let Some(e) = errors.decode::<PagemapEntry>(entry)
            && let Err(problem) = level.add(&e, dir.depth, entry.index)
        {
            match problem {
                Problem::Unsupported(reason) => errors.unsupported(entry.file, entry.index, reason),
                Problem::Inconsistent(reason) => errors.inconsistent(entry.file, entry.index, reason),
            }
        }
        Ok(())
    });
    if !present {
        return Some(None);
    }
    let sound = errors.count() == before;
    if head.is_none() {
        if sound {
            errors.inconsistent(dir.shown(image), None, "no entry; the first must be the head");
        }
        return None;
    }
    let length = dir.len(Image::Pages(PagesImage::own(level.pages.pages_id)));
    let length = errors.keep(length)?;
    if sound {
        check_length(dir, image, &level, length, errors);
    }
    // A pagemap that is not what it was is not looked into for the pages of another.
    (errors.count() == before || dir.depth == 0).then_some(Some(level))
}

/// That the pages image holds what the extents say and nothing more.
fn check_length(dir: &Dir<'_>, image: Image, level: &Level, length: Option<u64>, errors: &mut Errors) {
    let wanted = level.end.1;
    let stored = PagesImage { depth: dir.depth, id: level.pages.pages_id };
    let mut bad = |reason: String| errors.inconsistent(dir.shown(image), None, reason);
    match length {
        // Nothing was written into it, so it was not created.
        None if wanted == 0 => {}
        None => errors.missing_file(stored, format!("{} has pages in it", dir.shown(image))),
        Some(had) if had < wanted => bad(format!("describes {wanted} bytes of {stored}, which has {had}")),
        Some(had) if had > wanted => {
            bad(format!("describes only {wanted} bytes of {stored}, which has {had}"))
        }
        Some(_) => {}
    }
}

/// Finds pages that are further back and adds them to `extents`. `None` if one is not there.
fn read_from_parents(
    dir: &Dir<'_>,
    (image, kind): (Image, &Kind),
    mut wanted: Vec<Elsewhere>,
    extents: &mut Vec<Extent>,
    errors: &mut Errors,
) -> Option<()> {
    let before = errors.count();
    let mut dir = *dir;
    // Each directory is one further back, and there are only so many of them.
    while let Some(first) = wanted.first().copied() {
        let said = |at: u64| format!("page {at:#x} should be of a dump before");
        let Some(parent) = dir.before() else {
            // Else it is said already why there is none, and once is enough.
            if dir.is_first_dump() {
                let reason =
                    format!("{}, and {}{PARENT} is not there", said(first.start), Upwards(dir.depth));
                errors.inconsistent(image, first.entry, reason);
            }
            return (errors.count() == before && !dir.is_first_dump()).then_some(());
        };
        let Some(level) = read_level(&parent, image, kind, errors)? else {
            errors.missing_file(
                parent.shown(image),
                format!("{image} entry {} has pages in it, such as {:#x}", first.entry, first.start),
            );
            return None;
        };
        let mut further = Vec::new();
        for run in wanted {
            let mut at = run.start;
            while at < run.end {
                let Some((place, end)) = level.covering(at) else {
                    let reason = format!("{}, and {} lacks it", said(at), parent.shown(image));
                    errors.inconsistent(image, run.entry, reason);
                    break;
                };
                let end = end.min(run.end);
                match place {
                    Place::Here(extent) => {
                        extents
                            .extend(extent.within(at, end).map(|part| Extent { entry: run.entry, ..part }));
                    }
                    Place::Elsewhere => further.push(Elsewhere { start: at, end, entry: run.entry }),
                }
                at = end;
            }
        }
        (wanted, dir) = (further, parent);
    }
    (errors.count() == before).then_some(())
}

enum Problem {
    Unsupported(String),
    Inconsistent(String),
}

impl Level {
    /// Adds an entry of the pagemap in the directory `depth`.
    fn add(&mut self, e: &PagemapEntry, depth: u32, entry: u32) -> Result<(), Problem> {
        // Up to version 3.0 there were no flags: what is not in the parent is present.
        let mut flags = e.flags.unwrap_or(if e.in_parent == Some(true) { 0 } else { PE_PRESENT });
        if e.in_parent == Some(true) {
            flags |= PE_PARENT;
        }
        let unknown = flags & !(PE_PARENT | PE_LAZY | PE_PRESENT);
        if unknown != 0 {
            return Err(Problem::Unsupported(format!("unknown flags {unknown:#x}")));
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
        if e.vaddr < self.end.0 {
            return Err(bad("not behind the entry before"));
        }
        match (flags & PE_PARENT != 0, flags & PE_PRESENT != 0) {
            (true, true) => return Err(bad("both here and in the directory of the dump before")),
            (true, false) => self.elsewhere.push(Elsewhere { start: e.vaddr, end: memory_end, entry }),
            (false, true) => {
                let file_end = self.end.1.checked_add(len_bytes).ok_or_else(too_many)?;
                let image = PagesImage { depth, id: self.pages.pages_id };
                let offset_bytes = self.end.1;
                self.pages.extents.push(Extent {
                    start: e.vaddr,
                    len_pages: count,
                    image,
                    offset_bytes,
                    entry,
                });
                self.end.1 = file_end;
            }
            // Pages that nobody asks for may be missing further back.
            (false, false) if depth > 0 => {}
            (false, false) => {
                let reason = "pages that are not in the image (lazy-pages)".to_owned();
                return Err(Problem::Unsupported(reason));
            }
        }
        self.end.0 = memory_end;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn check(entries: &[PagemapEntry], expected: &str) {
        let mut level = Level::default();
        let mut said = String::new();
        for (i, e) in entries.iter().enumerate() {
            let stored = level.pages.extents.len();
            match level.add(e, 0, i as u32 + 1) {
                Ok(()) => {
                    said += &match level.pages.extents.get(stored) {
                        Some(x) => format!("{:x}+{}@{} ", x.start, x.len_pages, x.offset_bytes),
                        None => {
                            let other = level.elsewhere.last().unwrap();
                            format!("{:x}..{:x} by entry {} ", other.start, other.end, other.entry)
                        }
                    };
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
        // What is further back takes no room here.
        check(
            &[entry(0x1000, 2, Some(4)), entry(0x3000, 5, Some(1)), entry(0x8000, 1, Some(4))],
            "1000+2@0 3000..8000 by entry 2 8000+1@8192",
        );
    }

    #[test]
    fn old_entries_are_present() {
        let mut old = entry(0x1000, 0, None);
        old.nr_pages = None;
        old.compat_nr_pages = 3;
        check(&[old.clone()], "1000+3@0");
        old.in_parent = Some(false);
        check(&[old.clone()], "1000+3@0");
        old.in_parent = Some(true);
        check(&[old.clone()], "1000..4000 by entry 1");
        old.flags = Some(4);
        check(&[old], "inconsistent 3 pages at 0x1000: both here and in the directory of the dump before");
    }

    #[test]
    fn what_is_not_stored_is_unsupported() {
        check(&[entry(0x1000, 1, Some(2))], "unsupported pages that are not in the image (lazy-pages)");
        check(&[entry(0x1000, 1, Some(12))], "unsupported unknown flags 0x8");
        check(
            &[entry(0x1000, 1, Some(5))],
            "inconsistent 1 pages at 0x1000: both here and in the directory of the dump before",
        );
    }

    #[test]
    fn impossible_extents() {
        check(&[entry(0x1000, 0, Some(4))], "inconsistent 0 pages at 0x1000: none");
        check(&[entry(0x1001, 1, Some(4))], "inconsistent 1 pages at 0x1001: not at a page boundary");
        for flags in [1, 4] {
            check(
                &[entry(0x1000, 1 << 52, Some(flags))],
                "inconsistent 4503599627370496 pages at 0x1000: more than there can be",
            );
        }
        check(
            &[entry(0x1000, 2, Some(4)), entry(0x2000, 1, Some(4))],
            "1000+2@0 inconsistent 1 pages at 0x2000: not behind the entry before",
        );
        check(
            &[entry(0x1000, 2, Some(1)), entry(0x2000, 1, Some(4))],
            "1000..3000 by entry 1 inconsistent 1 pages at 0x2000: not behind the entry before",
        );
    }
}
