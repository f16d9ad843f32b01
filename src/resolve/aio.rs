//! Rings of asynchronous I/O.
//!
//! A ring is made by its task alone, behind its forks: no child is born with a context, and whether it is with the
//! mapping depends on the kernel. The kernel makes it where it likes, as long as follows from what is asked for and from
//! how many processors there may be; it is then moved to its place, and the kernel notes the move. Where the next event is
//! written is known to the kernel alone, so as many requests are made as there have been events, and all are read again
//! but those that nobody had read. What is in the ring is then filled, all but its head.
//!
//! Less is asked for than the images say: they have the most that gives a ring of this length, and the kernel
//! counts what is asked for against `fs.aio-max-nr`. Rings are made in the order of their numbers, so that they have the
//! same again where none has gone in between.
//!
//! Worked example: a ring of a page that has been read up to event 5 and written up to event 9 is asked for with one
//! request, and takes five requests of which all are read, then four, then the bytes from 32 on.
//!
//! # Sources
//! fs/aio.c (`ioctx_alloc`, `aio_setup_ring`, `ioctx_add_table`, `aio_ring_mremap`, `get_reqs_available`).

use std::collections::BTreeMap;

use regrow_graph::ids::{OfdId, StepId};

use super::Resolver;
use super::memory::{Read, new_pages_file};
use super::numbers::PAGE;
use super::problem::ProblemKind;
use super::recipe::{RingRecipe, StepKind};
use crate::image::{AioRing, Alive, Extent, Image, Model, NsPid, Origin, PagesImage, Vma};

/// Bytes of the head, and of an event; the kernel makes room for two more than it is to.
const HEAD: u64 = 32;
const EVENT: u64 = 32;
const FURTHER: u64 = 2;

/// Advice that a ring keeps as any other mapping.
const ADVICE: u64 =
    1 << libc::MADV_RANDOM | 1 << libc::MADV_SEQUENTIAL | 1 << libc::MADV_DONTFORK | 1 << libc::MADV_DONTDUMP;

/// How long a ring for so many requests is, with so many processors.
fn len_of(requests: u64, processors: u64) -> u64 {
    let events = 2 * requests.max(4 * processors) + FURTHER;
    (HEAD + EVENT * events).next_multiple_of(PAGE)
}

/// The fewest requests that give a ring of this length where there are few processors.
fn fewest(ring: &AioRing) -> u64 {
    let shorter = (ring.len_bytes.saturating_sub(PAGE).saturating_sub(HEAD)) / EVENT;
    (shorter.saturating_sub(FURTHER) / 2 + u64::from(ring.len_bytes > PAGE)).max(1)
}

/// How many events a ring surely has room for. Each processor takes a batch of places at a time, keeps nearly two, and a
/// task that is moved to another one leaves them behind.
fn sure(ring: &AioRing, processors: u64) -> u64 {
    let places = ring.events().saturating_sub(1);
    let batch = (places / (4 * processors)).max(1);
    places.saturating_sub((processors - 1) * (2 * batch - 1) + batch - 1)
}

/// How many requests all rings of a tree are asked for with; `None`: there is none.
pub(crate) fn needed(model: &Model) -> Option<u64> {
    let all = model.tasks.iter().filter_map(|task| task.alive()).flat_map(|alive| &alive.mm.aio_rings);
    all.map(fewest).reduce(u64::saturating_add)
}

/// What this host lacks for the rings.
pub(super) fn find_problems(resolver: &mut Resolver<'_>) {
    let model = resolver.model;
    let kernel = &resolver.facts.kernel;
    let rings = |task: &'_ crate::image::Task| task.alive().map(|alive| alive.mm.aio_rings.clone());
    let all: Vec<(NsPid, AioRing)> = model
        .tasks
        .iter()
        .flat_map(|task| rings(task).into_iter().flatten().map(|ring| (task.pid, ring)))
        .collect();
    let Some((pid, first)) = all.first() else { return };
    let lacking = |resolver: &mut Resolver<'_>, pid: NsPid, origin: Origin, text: String| {
        resolver.problems.add(ProblemKind::Lacking, Some(pid), Some(origin), text);
    };
    let needed = needed(model).unwrap_or_default();
    let free = kernel.aio_requests_free();
    if let Some(free) = free.filter(|free| *free < needed) {
        let text = format!("AIO rings for {needed} requests, and fs.aio-max-nr leaves {free}");
        lacking(resolver, *pid, first.origin, text);
    }
    let Some(processors) = kernel.possible_processors.map(|count| u64::from(count.max(1))) else {
        let text = "AIO rings: how many processors there may be is not known".to_owned();
        lacking(resolver, *pid, first.origin, text);
        return;
    };
    for (pid, ring) in &all {
        let len = len_of(fewest(ring), processors);
        if len != ring.len_bytes {
            let text = format!(
                "AIO ring at {:#x}: of {} bytes, and with {processors} processors it would be of {len}",
                ring.start, ring.len_bytes
            );
            lacking(resolver, *pid, ring.origin, text);
        } else if ring.pending() > sure(ring, processors) {
            let text = format!(
                "AIO ring at {:#x}: nobody has read {} events, and with {processors} processors there is surely room for {}",
                ring.start,
                ring.pending(),
                sure(ring, processors)
            );
            lacking(resolver, *pid, ring.origin, text);
        }
    }
}

/// The steps that make the rings of a task, behind everything else that it maps.
pub(super) fn resolve(resolver: &mut Resolver<'_>, pid: NsPid, alive: &Alive) -> Vec<StepId> {
    let mut rings: Vec<&AioRing> = alive.mm.aio_rings.iter().collect();
    rings.sort_by_key(|ring| (ring.id, ring.start));
    let mut files: BTreeMap<PagesImage, OfdId> = BTreeMap::new();
    let mut steps = Vec::new();
    for ring in rings {
        let mut file = |resolver: &mut Resolver<'_>, image: PagesImage| {
            let origin = Origin::new(Image::Pagemap(pid.0), 0);
            *files.entry(image).or_insert_with(|| new_pages_file(resolver, image, origin))
        };
        let Some(first) = ring.pages.first() else { continue };
        let kind = StepKind::Ring(RingRecipe {
            start: ring.start,
            len: ring.len_bytes,
            requests: fewest(ring) as u32,
            read: ring.head,
            pending: ring.pending() as u32,
        });
        let needs = file(resolver, first.image);
        steps.push(resolver.add_step(kind, ring.origin, vec![needs]));
        for (image, (pieces, offset)) in fills(ring) {
            let needs = file(resolver, image);
            let origin = Origin::new(Image::Pagemap(pid.0), first.entry as usize);
            steps.push(resolver.add_step(StepKind::Fill { pieces, offset }, origin, vec![needs]));
        }
        let vma = alive.mm.vmas.iter().find(|vma| vma.start == ring.start);
        for kind in vma.map(settle).unwrap_or_default() {
            steps.push(resolver.add_step(kind, ring.origin, Vec::new()));
        }
        if let Some(vma) = vma.filter(|vma| vma.madvise & !ADVICE != 0) {
            let text = format!("AIO ring at {:#x}: advice {:#x} is not restored yet", vma.start, vma.madvise);
            resolver.problems.unsupported(Some(pid), Some(vma.origin), text);
        }
    }
    steps
}

/// Protection and advice, where they are not as the kernel makes them.
fn settle(vma: &Vma) -> Vec<StepKind> {
    let (start, len) = (vma.start, vma.end - vma.start);
    let is_plain = vma.prot == (libc::PROT_READ | libc::PROT_WRITE) as u32;
    let protect = (!is_plain).then_some(StepKind::Mprotect { start, len, prot: vma.prot });
    let advice = (0..64).filter(|bit| vma.madvise >> bit & 1 == 1);
    protect.into_iter().chain(advice.map(|advice| StepKind::Madvise { start, len, advice })).collect()
}

/// What is read into a ring: all of its pages but the head.
fn fills(ring: &AioRing) -> Vec<(PagesImage, Read)> {
    let read = |extent: &Extent| {
        let Extent { start, len_pages, image, offset_bytes, .. } = *extent;
        let skipped = if start == ring.start { HEAD } else { 0 };
        (image, (vec![(start + skipped, len_pages * PAGE - skipped)], offset_bytes + skipped))
    };
    ring.pages.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(pages: u64) -> AioRing {
        AioRing {
            start: 0x10000,
            len_bytes: pages * PAGE,
            requests: 0,
            id: 0,
            head: 0,
            tail: 0,
            pages: Vec::new(),
            origin: Origin::new(Image::Mm(1), 0),
        }
    }

    /// For so many pages: the fewest requests. One less is a page less.
    #[test]
    fn no_more_is_asked_for_than_it_takes() {
        for pages in 1..600 {
            let fewest = fewest(&ring(pages));
            assert_eq!(len_of(fewest, 0), pages * PAGE);
            if pages > 1 {
                assert_eq!(len_of(fewest - 1, 0), (pages - 1) * PAGE);
            }
        }
        assert_eq!([1, 2, 5].map(|pages| fewest(&ring(pages))), [1, 63, 255]);
    }

    #[test]
    fn room_for_events() {
        let check = |pages, processors, expected| assert_eq!(sure(&ring(pages), processors), expected);
        check(1, 1, 96);
        check(1, 2, 83);
        check(2, 2, 163);
        check(2, 16, 177);
        // Whoever keeps to what they have asked for is always restored.
        for (pages, processors) in [(1, 1), (1, 15), (2, 1), (5, 64), (1025, 2)] {
            assert!(sure(&ring(pages), processors) >= fewest(&ring(pages + 1)) - 1);
        }
    }

    #[test]
    fn the_head_is_not_filled() {
        let image = PagesImage::own(1);
        let extent =
            |start, len_pages, offset_bytes| Extent { start, len_pages, image, offset_bytes, entry: 0 };
        let ring = AioRing { pages: vec![extent(0x10000, 2, 0x5000)], ..ring(2) };
        assert_eq!(fills(&ring), [(image, (vec![(0x10020, 0x1fe0)], 0x5020))]);
    }
}
