//! Rings of asynchronous I/O: the entries of `mm-PID.img` beside the mappings and the pages that they are about.
//!
//! A ring is a mapping that the kernel makes with an AIO context (`io_setup(2)`), and its address is the context's id.
//! What it holds is stored as pages of the task. They are taken out of [`Pages`] here: nobody else fills them, for the
//! head of a ring is the kernel's. Where the reader of events is and where the kernel writes the next is read from that
//! head, so of these 32 bytes the pages image is opened.
//!
//! A request that was in flight when the task was dumped is in no image: CRIU does not wait for it.
//!
//! Example: the entry `id 0x7f0000000000, nr_req 62, ring_len 4096`, a mapping of that page with the status
//! `AREA_AIORING`, and a page that starts with the head 5 and the tail 9 of 127 are a ring with four events in it.
//!
//! # Sources
//! `fs/aio.c` (`struct aio_ring`, `aio_setup_ring`, `ioctx_alloc`); `criu/aio.c`, `criu/proc_parse.c` and `criu/mem.c` of
//! CRIU for what it stores.

use std::borrow::Cow;
use std::os::unix::fs::FileExt;

use super::error::{Errors, ImageError};
use super::file::open_regular;
use super::model::{AioRing, Extent, Image, Origin, Pages, PagesImage, Vma, VmaKind};
use super::pagemap::PAGE_BYTES;
use super::proto::AioRingEntry;
use super::ranges::{parted, range, stored, without};
use super::read::Dir;

/// Bytes of the head, `struct aio_ring`, and of an event, `struct io_event`.
const HEAD_BYTES: usize = 32;
const EVENT_BYTES: u64 = 32;
/// The words of the head that are always the same: magic number, features, and its own length.
const FIXED: [u32; 4] = [0xa10a_10a1, 1, 0, HEAD_BYTES as u32];

/// The rings of an address space, by their addresses. Their pages are taken out of `pages`.
pub(crate) fn read_rings(
    dir: &Dir<'_>,
    image: Image,
    entries: &[AioRingEntry],
    vmas: &[Vma],
    pages: &mut Pages,
    errors: &mut Errors,
) -> Vec<AioRing> {
    let mut rings: Vec<AioRing> = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
        let ring = read_ring(entry, vmas, pages).and_then(|ring| {
            let twice = rings.iter().any(|other| other.start == ring.start);
            if twice { Err("is there a second time".to_owned()) } else { Ok(ring) }
        });
        match ring {
            Ok(ring) => rings.push(ring),
            Err(reason) => {
                let reason = format!("AIO ring {number} at {:#x}: {reason}", entry.id);
                errors.inconsistent(image, 0, reason);
            }
        }
    }
    let is_named = |vma: &Vma| entries.iter().any(|entry| entry.id == vma.start);
    for vma in vmas.iter().filter(|vma| vma.kind == VmaKind::AioRing && !is_named(vma)) {
        let reason = format!("mapping {:#x}-{:#x}: an AIO ring of which no entry tells", vma.start, vma.end);
        errors.inconsistent(image, vma.origin.entry, reason);
    }
    rings.sort_by_key(|ring| ring.start);
    let ranges: Vec<(u64, u64)> =
        rings.iter().map(|ring| (ring.start, ring.start + ring.len_bytes)).collect();
    if !ranges.is_empty() {
        pages.extents = parted(&pages.extents, &ranges).0;
    }
    rings.retain_mut(|ring| match read_head(dir, ring) {
        Ok(()) => true,
        Err(Bad::Unread(error)) => {
            errors.push(error);
            false
        }
        Err(Bad::Wrong(reason)) => {
            let reason = format!("AIO ring at {:#x}: {reason}", ring.start);
            match ring.pages.first() {
                Some(first) => errors.inconsistent(first.image, None, reason),
                None => errors.inconsistent(image, 0, reason),
            }
            false
        }
    });
    rings
}

fn read_ring(entry: &AioRingEntry, vmas: &[Vma], pages: &Pages) -> Result<AioRing, String> {
    let (start, len_bytes) = (entry.id, u64::from(entry.ring_len));
    let vma = vmas.binary_search_by_key(&start, |vma| vma.start).ok().map(|at| &vmas[at]);
    let Some(vma) = vma.filter(|vma| vma.kind == VmaKind::AioRing) else {
        return Err("no ring is mapped there".to_owned());
    };
    if vma.end - vma.start != len_bytes {
        return Err(format!("of {len_bytes} bytes, and {} are mapped", vma.end - vma.start));
    }
    // The least that it is asked for; a kernel with many processors makes it longer, and CRIU asks for that.
    let wanted = HEAD_BYTES as u64 + EVENT_BYTES * (2 * u64::from(entry.nr_req) + 2);
    if entry.nr_req == 0 || wanted.next_multiple_of(PAGE_BYTES) != len_bytes {
        return Err(format!("{} requests do not make a ring of {len_bytes} bytes", entry.nr_req));
    }
    let end = start + len_bytes;
    let here: Vec<Extent> = stored(&pages.extents, start, end).collect();
    let missing = without(&[(start, end)], &here.iter().map(range).collect::<Vec<_>>());
    if let Some((at, _)) = missing.first() {
        return Err(format!("the page at {at:#x} is not stored"));
    }
    let origin = Origin { entry: 0, ..vma.origin };
    Ok(AioRing { start, len_bytes, requests: entry.nr_req, id: 0, head: 0, tail: 0, pages: here, origin })
}

enum Bad {
    Unread(ImageError),
    Wrong(String),
}

fn read_head(dir: &Dir<'_>, ring: &mut AioRing) -> Result<(), Bad> {
    let Some(first) = ring.pages.first() else { return Ok(()) };
    let bytes = read_bytes(dir, first).map_err(Bad::Unread)?;
    let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|byte| bytes[4 * at + byte]));
    let wrong = |what: String| Err(Bad::Wrong(what));
    let fixed: [u32; 4] = std::array::from_fn(|at| word(4 + at));
    if fixed != FIXED {
        return wrong(format!("its head says {fixed:#x?}, and that of a ring {FIXED:#x?}"));
    }
    let (id, events, head, tail) = (word(0), word(1), word(2), word(3));
    if u64::from(events) != ring.events() {
        return wrong(format!("its head says {events} events, and there is room for {}", ring.events()));
    }
    if head >= events || tail >= events {
        return wrong(format!("its head says that it is read from {head} to {tail} of {events}"));
    }
    (ring.id, ring.head, ring.tail) = (id, head, tail);
    Ok(())
}

/// The first bytes of a stored page, of whichever directory.
fn read_bytes(dir: &Dir<'_>, extent: &Extent) -> Result<[u8; HEAD_BYTES], ImageError> {
    let mut of = *dir;
    while of.depth < extent.image.depth {
        match of.before() {
            Some(before) => of = before,
            None => break,
        }
    }
    let name = PagesImage::own(extent.image.id).to_string();
    let mut bytes = [0; HEAD_BYTES];
    open_regular(&of.path.join(name))
        .and_then(|file| file.read_exact_at(&mut bytes, extent.offset_bytes))
        .map_err(|source| ImageError::Io { file: extent.image.to_string(), source })?;
    Ok(bytes)
}

/// The pages of a task as they are stored: with those of its rings.
pub(super) fn all_pages<'a>(pages: &'a Pages, rings: &[AioRing]) -> Cow<'a, Pages> {
    if rings.is_empty() {
        return Cow::Borrowed(pages);
    }
    let mut all = pages.clone();
    all.extents.extend(rings.iter().flat_map(|ring| &ring.pages));
    all.extents.sort_unstable_by_key(|extent| extent.start);
    // An extent that went on over the border of a ring is one again.
    all.extents.dedup_by(|next, last| {
        let (start, end) = range(last);
        let goes_on = end == next.start
            && (last.image, last.entry) == (next.image, next.entry)
            && last.offset_bytes + (end - start) == next.offset_bytes;
        if goes_on {
            last.len_pages += next.len_pages;
        }
        goes_on
    });
    Cow::Owned(all)
}
