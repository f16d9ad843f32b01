//! Which pages are copied into place by a userfaultfd, and which are read, and the steps of both.
//!
//! Runs of pages in private anonymous memory, and in shared memory, can be copied from a mapping of their image, which
//! lies behind the carriers in the window while it is needed; all else is read. What is cheaper is said by the cost model
//! ([`regrow_graph::cost`]). Where the kernel has no userfaultfd, all is read.
//!
//! Worked example: a heap with a run of 100 pages and one of a single page, and a page of a library: the 100 pages are
//! copied, the two are read.

use std::collections::BTreeSet;

use regrow_graph::cost::{CostModel, PageRun};
use regrow_graph::ids::{OfdId, StepId};

use super::Resolver;
use super::memory::fills;
use super::numbers::{MAP_DROPPABLE, MAP_TYPE, PAGE};
use super::recipe::{Copying, PagesFrom, ResourceKind, StepKind};
use super::transparent::BLOCK;
use crate::image::{Extent, Origin, Vma, VmaKind};

/// A part of an address space that pages can be copied into: first address, and behind the last.
type Range = (u64, u64);

/// How pages get to where they belong.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ways {
    /// Mappings that pages are copied into.
    pub(super) mappings: Vec<Range>,
    /// Read into huge pages, and moved from there ([`stage`](super::stage)).
    pub(super) moved: Vec<Extent>,
    /// The mappings that these are in.
    pub(super) moved_into: Vec<Range>,
    /// Copied.
    pub(super) copied: Vec<Extent>,
    /// Of these, what must be dropped first.
    pub(super) dropped: Vec<Range>,
    /// Read.
    pub(super) read: Vec<Extent>,
}

/// The mappings of a task that pages can be copied into, in the order of the addresses (fs/userfaultfd.c, `vma_can_userfault`).
/// Memory that is locked has its pages at once. They are cut at `cuts`, which are sorted.
pub(super) fn mappings(vmas: &[Vma], cuts: &[u64]) -> Vec<Range> {
    let can = |vma: &&Vma| {
        vma.kind == VmaKind::AnonPrivate
            && vma.flags & MAP_TYPE != MAP_DROPPABLE
            && vma.flags & (libc::MAP_LOCKED | libc::MAP_HUGETLB) as u32 == 0
    };
    let mut mappings = Vec::new();
    for vma in vmas.iter().filter(can) {
        let mut at = vma.start;
        let first = cuts.partition_point(|cut| *cut <= vma.start);
        for cut in cuts[first..].iter().take_while(|cut| **cut < vma.end) {
            mappings.push((at, *cut));
            at = *cut;
        }
        mappings.push((at, vma.end));
    }
    mappings
}

/// Parts the extents of one image. `mappings` can be copied into; `present`: others' pages are there. Both sorted.
pub(super) fn ways(
    resolver: &Resolver<'_>,
    extents: &[Extent],
    mappings: &[Range],
    present: &[Range],
) -> Ways {
    if resolver.facts.kernel.userfaultfd.is_present() {
        cheaper_ways(&resolver.options.costs, extents, mappings, present)
    } else {
        Ways { read: extents.to_vec(), ..Ways::default() }
    }
}

fn cheaper_ways(costs: &CostModel, extents: &[Extent], mappings: &[Range], present: &[Range]) -> Ways {
    let mut ways = Ways::default();
    let mut saved = 0i64.saturating_sub(costs.copying());
    let mut rest = 0;
    let (mut joined, mut runs): (Vec<Extent>, Vec<(Extent, i64)>) = Default::default();
    for mapping in mappings {
        let first = extents.partition_point(|extent| extent.start + extent.len_pages * PAGE <= mapping.0);
        let within = extents[first..].iter().map_while(|extent| extent.within(mapping.0, mapping.1));
        let is_over = |run: &Extent| {
            let end = run.start + run.len_pages * PAGE;
            let next = present.partition_point(|(_, behind)| *behind <= run.start);
            present.get(next).is_some_and(|(from, _)| *from < end)
        };
        let gain = |run: &Extent| {
            costs.saved_by_copying(PageRun { pages: run.len_pages, is_over_others: is_over(run) })
        };
        join(within, &mut joined);
        runs.clear();
        runs.extend(joined.iter().map(|run| (*run, gain(run))).filter(|(_, gain)| *gain > 0));
        let gain = runs.iter().fold(0i64, |sum, (_, gain)| sum.saturating_add(*gain));
        let gain = gain.saturating_sub(costs.copying_into_mapping());
        if gain <= 0 {
            continue;
        }
        saved = saved.saturating_add(gain);
        ways.mappings.push(*mapping);
        for (run, _) in runs.drain(..) {
            // What lies before it is read.
            read_until(extents, rest, run.start, &mut ways.read);
            if is_over(&run) {
                ways.dropped.push((run.start, run.start + run.len_pages * PAGE));
            }
            ways.copied.push(run);
            rest = run.start + run.len_pages * PAGE;
        }
    }
    if saved <= 0 {
        return Ways { read: extents.to_vec(), ..Ways::default() };
    }
    read_until(extents, rest, u64::MAX, &mut ways.read);
    ways
}

/// Adds to `read` the pages from one address to another.
fn read_until(extents: &[Extent], from: u64, to: u64, read: &mut Vec<Extent>) {
    let first = extents.partition_point(|extent| extent.start + extent.len_pages * PAGE <= from);
    read.extend(
        extents[first..]
            .iter()
            .take_while(|extent| extent.start < to)
            .filter_map(|extent| extent.within(from, to)),
    );
}

/// Extents that follow one another in memory and in the image as one, in place of what is in `runs`.
pub(super) fn join(extents: impl Iterator<Item = Extent>, runs: &mut Vec<Extent>) {
    runs.clear();
    for extent in extents {
        match runs.last_mut() {
            Some(last)
                if last.image == extent.image
                    && last.start + last.len_pages * PAGE == extent.start
                    && last.offset_bytes + last.len_pages * PAGE == extent.offset_bytes =>
            {
                last.len_pages += extent.len_pages;
            }
            _ => runs.push(extent),
        }
    }
}

/// The steps of one filling from one image. `file`: the image, if anything is to come from it; `userfault`: what it is
/// copied by, where there is one already.
pub(super) fn steps(
    resolver: &mut Resolver<'_>,
    ways: &Ways,
    except: Option<Range>,
    origin: Origin,
    userfault: &mut Option<OfdId>,
    file: impl FnOnce(&mut Resolver<'_>) -> OfdId,
) -> Vec<StepId> {
    let reads = fills(&ways.read, except);
    if reads.is_empty() && ways.copied.is_empty() && ways.moved.is_empty() {
        return Vec::new();
    }
    let file = file(resolver);
    let mut steps = Vec::new();
    for (start, end) in &ways.dropped {
        let kind = StepKind::Madvise { start: *start, len: end - start, advice: libc::MADV_DONTNEED as u32 };
        steps.push(resolver.add_step(kind, origin, Vec::new()));
    }
    for copying in [moving(ways), copying(ways)].into_iter().flatten() {
        let userfault = *userfault.get_or_insert_with(|| {
            let userfault = resolver.new_ofd();
            resolver.add_resource(ResourceKind::Userfault, origin, vec![Some(userfault)]);
            userfault
        });
        let kind = StepKind::Copy(Box::new(copying));
        steps.push(resolver.add_step(kind, origin, vec![file, userfault]));
    }
    for (pieces, offset) in reads {
        steps.push(resolver.add_step(StepKind::Fill { pieces, offset }, origin, vec![file]));
    }
    steps
}

/// Whole mappings are registered in both cases: a part of one would be a mapping of its own meanwhile.
fn moving(ways: &Ways) -> Option<Copying> {
    let mut runs = Vec::new();
    join(ways.moved.iter().copied(), &mut runs);
    let blocks =
        runs.iter().flat_map(|run| run.start / BLOCK..(run.start + run.len_pages * PAGE).div_ceil(BLOCK));
    let len = blocks.collect::<BTreeSet<u64>>().len() as u64 * BLOCK;
    let mappings = ways.moved_into.iter().map(|(start, end)| (*start, end - start)).collect();
    let pieces = runs.iter().map(|run| (run.start, run.offset_bytes, run.len_pages * PAGE)).collect();
    let from = PagesFrom::Stage;
    (len > 0).then_some(Copying { mappings, source: 0, from, len, pieces, guests: Vec::new() })
}

fn copying(ways: &Ways) -> Option<Copying> {
    let offset = ways.copied.iter().map(|run| run.offset_bytes).min()?;
    let end = ways.copied.iter().map(|run| run.offset_bytes + run.len_pages * PAGE).max()?;
    let mappings = ways.mappings.iter().map(|(start, end)| (*start, end - start)).collect();
    let pieces = ways.copied.iter().map(|run| (run.start, run.offset_bytes, run.len_pages * PAGE)).collect();
    let from = PagesFrom::Image { offset };
    Some(Copying { mappings, source: 0, from, len: end - offset, pieces, guests: Vec::new() })
}

/// From so much on it is worth to have guests.
const LEAST_BYTES: u64 = 16 << 20;

/// Lets others help with the largest fillings, where cores would be idle meanwhile: before the forks of who sets itself up
/// first, and where one task has more to fill than a fair part of all.
pub(super) fn invite(resolver: &mut Resolver<'_>) {
    let total: u64 = resolver.recipes.steps.iter().map(|step| step.kind.filled_bytes()).sum();
    let cores = u64::from(resolver.options.cores.max(1));
    let early: BTreeSet<StepId> =
        resolver.forest.tasks.iter().flat_map(|task| task.before_forks.iter().copied()).collect();
    let used: BTreeSet<u32> = resolver.forest.tasks.iter().map(|task| task.pid).collect();
    let mut spare = resolver.facts.pids.spare.iter().map(|pid| pid.0).filter(|pid| !used.contains(pid));
    for (index, step) in resolver.recipes.steps.iter_mut().enumerate() {
        let filled = step.kind.filled_bytes();
        let StepKind::Copy(copying) = &mut step.kind else { continue };
        let is_alone = early.contains(&StepId::new(index)) || filled > total / cores;
        if filled < LEAST_BYTES || !is_alone {
            continue;
        }
        let guests = (cores - 1).min(filled / (LEAST_BYTES / 2)).min(MOST_GUESTS);
        copying.guests = spare.by_ref().take(guests as usize).collect();
    }
}

/// The bandwidth of memory is not that of all cores.
const MOST_GUESTS: u64 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    use crate::image::PagesImage;

    fn extents(pages: &[(u64, u64)]) -> Vec<Extent> {
        let mut offset_bytes = 0;
        let extent = |&(start, len_pages): &(u64, u64)| {
            let extent =
                Extent { start: start * PAGE, len_pages, image: PagesImage::own(1), offset_bytes, entry: 0 };
            offset_bytes += len_pages * PAGE;
            extent
        };
        pages.iter().map(extent).collect()
    }

    /// What is copied, dropped and read, as in [`check`].
    type Wanted<'a> = (&'a [(u64, u64)], &'a [Range], &'a [(u64, u64)]);

    /// All in pages: extents, mappings, pages that are there; copied and dropped and read as (start, pages).
    fn check(
        pages: &[(u64, u64)],
        mappings: &[Range],
        present: &[Range],
        (copied, dropped, read): Wanted<'_>,
    ) {
        let bytes = |ranges: &[Range]| {
            ranges.iter().map(|(start, end)| (start * PAGE, end * PAGE)).collect::<Vec<_>>()
        };
        let mut costs = CostModel::default();
        costs.fill_page_ns = costs.copying() as f64;
        costs.replace_page_ns = 2.0 * costs.fill_page_ns;
        costs.copy_page_ns = 0.0;
        costs.copy_ns = 3.5 * costs.fill_page_ns;
        let ways = cheaper_ways(&costs, &extents(pages), &bytes(mappings), &bytes(present));
        let shown = |extents: &[Extent]| -> Vec<(u64, u64)> {
            extents.iter().map(|extent| (extent.start / PAGE, extent.len_pages)).collect()
        };
        assert_eq!((shown(&ways.copied), shown(&ways.read)), (copied.to_vec(), read.to_vec()));
        assert_eq!(ways.dropped, bytes(dropped));
        let total = |extents: &[Extent]| extents.iter().map(|extent| extent.len_pages).sum::<u64>();
        assert_eq!(total(&ways.copied) + total(&ways.read), total(&extents(pages)));
    }

    #[test]
    fn long_runs_of_private_memory_are_copied() {
        check(&[(10, 100), (200, 1)], &[(0, 1000)], &[], (&[(10, 100)], &[], &[(200, 1)]));
        // An extent may reach beyond the mapping: what does is read.
        check(&[(10, 100)], &[(20, 50)], &[], (&[(20, 30)], &[], &[(10, 10), (50, 60)]));
        check(&[(10, 100)], &[], &[], (&[], &[], &[(10, 100)]));
        // Neighbours are one run, unless they lie elsewhere in the image.
        check(&[(10, 6), (16, 6)], &[(0, 100)], &[], (&[(10, 12)], &[], &[]));
        // One mapping each, for a copy goes into one.
        check(&[(10, 40)], &[(0, 30), (30, 50)], &[], (&[(10, 20), (30, 20)], &[], &[]));
        // It must be worth it.
        check(&[(10, 4)], &[(0, 100)], &[], (&[], &[], &[(10, 4)]));
    }

    #[test]
    fn what_is_there_is_dropped_first() {
        let there = [(12, 13), (60, 70)];
        check(&[(10, 20), (30, 2), (50, 9)], &[(0, 100)], &there, (&[(10, 22), (50, 9)], &[(10, 32)], &[]));
    }
}
