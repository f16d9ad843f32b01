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
    open_regular(&of.at.path.join(name))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::image::{Blob, Contents, Model, WriteError, read_model, write_model};

    const RING: u64 = 0x5000_0000_0000;
    const LEN: u64 = 2 * PAGE_BYTES;
    /// Far behind all other pages of the task.
    const OFFSET: u64 = 1 << 40;

    fn head(id: u32, events: u32, head: u32, tail: u32) -> Vec<u8> {
        let words = [id, events, head, tail, FIXED[0], FIXED[1], FIXED[2], FIXED[3]];
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// The sample, with a ring of two pages that starts like this.
    struct Sample {
        model: Model,
        start: Vec<u8>,
    }

    impl Contents for Sample {
        fn bytes(&self, blob: &Blob) -> Result<Cow<'_, [u8]>, WriteError> {
            if blob.offset_bytes < OFFSET {
                return Ok(Cow::Owned(self.model.bytes(blob)?.into_owned()));
            }
            let mut bytes = self.start.clone();
            bytes.resize((blob.offset_bytes - OFFSET + blob.len_bytes) as usize, 7);
            Ok(Cow::Owned(bytes.split_off((blob.offset_bytes - OFFSET) as usize)))
        }
    }

    fn sample() -> Sample {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/pair/images");
        let mut model = read_model(&dir).unwrap();
        let mm = &mut model.tasks[0].alive_mut().unwrap().mm;
        let like = mm.vmas[0].clone();
        let image = PagesImage::own(mm.pages.pages_id);
        let at = mm.vmas.partition_point(|vma| vma.start < RING);
        assert!(mm.vmas[at].start >= RING + 16 * LEN && mm.vmas[at - 1].end <= RING);
        let origin = Origin { entry: mm.vmas.len() as u32, ..like.origin };
        let vma = Vma {
            start: RING,
            end: RING + LEN,
            prot: 3,
            flags: libc::MAP_SHARED as u32,
            status: super::super::vma::AREA_AIORING,
            kind: VmaKind::AioRing,
            madvise: 0,
            origin,
        };
        mm.vmas.insert(at, vma);
        let page = Extent { start: RING, len_pages: 2, image, offset_bytes: OFFSET, entry: 0 };
        let (pages, origin) = (vec![page], mm.origin);
        mm.aio_rings = vec![AioRing {
            start: RING,
            len_bytes: LEN,
            requests: 126,
            id: 0,
            head: 0,
            tail: 0,
            pages,
            origin,
        }];
        Sample { model, start: head(3, 255, 5, 9) }
    }

    fn ring_of(sample: &mut Sample) -> &mut AioRing {
        &mut sample.model.tasks[0].alive_mut().unwrap().mm.aio_rings[0]
    }

    fn vmas_of(sample: &mut Sample) -> &mut Vec<Vma> {
        &mut sample.model.tasks[0].alive_mut().unwrap().mm.vmas
    }

    fn read(spoil: impl FnOnce(&mut Sample)) -> Result<Model, String> {
        let mut sample = sample();
        spoil(&mut sample);
        let dir = tempfile::tempdir().unwrap();
        write_model(&sample.model, &sample, dir.path()).unwrap();
        read_model(dir.path()).map_err(|error| {
            let errors: Vec<String> = error.errors().iter().map(ToString::to_string).collect();
            errors.join("; ")
        })
    }

    #[track_caller]
    fn refuse(spoil: impl FnOnce(&mut Sample), expected: &str) {
        assert_eq!(read(spoil).map(drop), Err(expected.to_owned()));
    }

    #[test]
    fn rings_are_written_and_read() {
        let model = read(|_| ()).unwrap();
        let mm = &model.tasks[0].alive().unwrap().mm;
        let ring = &mm.aio_rings[0];
        assert_eq!((ring.start, ring.len_bytes, ring.requests), (RING, LEN, 126));
        assert_eq!((ring.id, ring.head, ring.tail, ring.events(), ring.pending()), (3, 5, 9, 255, 4));
        assert_eq!(ring.pages.iter().map(range).collect::<Vec<_>>(), [(RING, RING + LEN)]);
        let before = sample();
        let pages = |model: &Model| {
            let extents = &model.tasks[0].alive().unwrap().mm.pages.extents;
            extents.iter().map(range).collect::<Vec<_>>()
        };
        assert_eq!(pages(&model), pages(&before.model), "all other pages are as they were");
        let round = read(|sample| sample.start = head(0, 255, 250, 2)).unwrap();
        assert_eq!(round.tasks[0].alive().unwrap().mm.aio_rings[0].pending(), 7);
    }

    #[test]
    fn entries_mappings_and_pages_that_do_not_fit() {
        let at = "AIO ring 0 at 0x500000000000";
        refuse(
            |sample| ring_of(sample).start = RING + LEN,
            &format!(
                "mm-4711.img entry 0: AIO ring 0 at 0x500000002000: no ring is mapped there; \
                 mm-4711.img entry {}: mapping 0x500000000000-0x500000002000: an AIO ring of which no entry tells",
                vmas_of(&mut sample()).len() - 1
            ),
        );
        refuse(
            |sample| ring_of(sample).len_bytes = PAGE_BYTES,
            &format!("mm-4711.img entry 0: {at}: of 4096 bytes, and 8192 are mapped"),
        );
        for requests in [0, 62, 127, u32::MAX] {
            refuse(
                |sample| ring_of(sample).requests = requests,
                &format!("mm-4711.img entry 0: {at}: {requests} requests do not make a ring of 8192 bytes"),
            );
        }
        refuse(
            |sample| {
                let ring = ring_of(sample).clone();
                let mm = &mut sample.model.tasks[0].alive_mut().unwrap().mm;
                mm.aio_rings.push(AioRing { pages: Vec::new(), ..ring });
            },
            "mm-4711.img entry 0: AIO ring 1 at 0x500000000000: is there a second time",
        );
        refuse(
            |sample| ring_of(sample).pages[0].len_pages = 1,
            &format!("mm-4711.img entry 0: {at}: the page at 0x500000001000 is not stored"),
        );
    }

    #[test]
    fn heads_that_are_none() {
        let at = |sample: &Sample| {
            let id = sample.model.tasks[0].alive().unwrap().mm.pages.pages_id;
            format!("pages-{id}.img: AIO ring at {RING:#x}")
        };
        let check = |start: Vec<u8>, why: &str| {
            let expected = format!("{}: {why}", at(&sample()));
            let found = read(|sample| sample.start = start).map(drop).unwrap_err();
            assert!(found.starts_with(&expected), "{found}\nexpected: {expected}");
        };
        check(Vec::new(), "its head says [");
        check(head(0, 127, 0, 0), "its head says 127 events, and there is room for 255");
        check(head(0, 255, 255, 0), "its head says that it is read from 255 to 0 of 255");
        check(head(0, 255, 0, 300), "its head says that it is read from 0 to 300 of 255");
        let mut other = head(0, 255, 0, 0);
        other[24] = 1;
        check(other, "its head says [");
    }
}
