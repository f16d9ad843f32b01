//! Which tasks inherit their address space, and what then is different.
//!
//! A task with children that are much like it sets its whole address space up *before* it forks. A child that is like
//! it starts with a copy, and only does what differs: it unmaps, maps, protects, empties and fills. Pages that both
//! have are then shared copy-on-write, as they were. A child that is not like it drops all that it was born with.
//! Where no child is, or not enough of them, a task forks while it has nothing but the window, and everybody maps and
//! fills for himself: then nobody waits for anybody.
//!
//! Pages of the parent that no heir has are filled *behind* the forks: to fork one costs time, and so does the copy that
//! the kernel makes of it when a child fills its own over it.
//!
//! Worked example: a server with pages `A B`, and two workers with `A B'` and `A B''`. The server maps both pages and
//! fills `A`, then forks; then it fills `B`, and each worker its own. All three share the page `A`.
//!
//! The choice is one of time only. What it costs to fork a mapping, or a page, and to map or fill it anew is in
//! the [`CostModel`]; wrong ones make a restore slower, not wrong.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rayon::prelude::*;
use regrow_graph::cost::{self, CostModel};
use regrow_graph::forest::Life;
use regrow_graph::ids::TaskId;

use super::files::ghost;
use super::numbers::{MAP_DROPPABLE, MAP_TYPE, PAGE};
use super::policy::Policy;
use super::{Options, Resolver, Sharing, huge, tree};
use crate::image::alike::{Pair, Run};
use crate::image::{Alive, Extent, Mm, Model, Ofd, OfdKind, Task, Vma, VmaKind};

/// From this many forks above each other on, address spaces are made anew: each further fork of a page costs more,
/// for the kernel keeps a chain of all that share it (`anon_vma_chain`, mm/rmap.c).
const DEEPEST: u32 = 4;
/// Flags and advice of mappings that fork does not simply copy (madvise(2), mlock(2)), or that are checked by page.
const NOT_COPIED: u64 = 1 << libc::MADV_DONTFORK | 1 << libc::MADV_WIPEONFORK | 1 << libc::MADV_MERGEABLE;

/// Who inherits.
#[derive(Debug, Default)]
pub(super) struct Spaces {
    /// Tasks that set their address space up before they fork.
    early: BTreeSet<TaskId>,
    /// Tasks that keep what they are born with.
    heirs: BTreeSet<TaskId>,
    /// Tasks that are born with something that they must drop.
    strangers: BTreeSet<TaskId>,
    /// Of early tasks: pages that no heir has, as sorted ranges. They are filled behind the forks.
    late: BTreeMap<TaskId, Vec<(u64, u64)>>,
}

impl Spaces {
    pub(super) fn is_early(&self, task: TaskId) -> bool {
        self.early.contains(&task)
    }

    pub(super) fn is_heir(&self, task: TaskId) -> bool {
        self.heirs.contains(&task)
    }

    pub(super) fn into_heirs(self) -> BTreeSet<TaskId> {
        self.heirs
    }

    /// Pages that a task fills behind its forks, so that no child is born with them: sorted ranges.
    pub(super) fn late(&self, task: TaskId) -> &[(u64, u64)] {
        self.late.get(&task).map_or(&[], Vec::as_slice)
    }

    pub(super) fn is_stranger(&self, task: TaskId) -> bool {
        self.strangers.contains(&task)
    }
}

/// The pairs of child and parent whose pages are worth a comparison: if all were alike, nothing else would
/// speak against it.
pub fn candidates(model: &Model, options: &Options) -> Vec<Pair> {
    let by_pid: BTreeMap<_, _> =
        model.tasks.iter().enumerate().map(|(index, task)| (task.pid, index)).collect();
    if !may_inherit(options) {
        return Vec::new();
    }
    fn path(ofd: &Ofd) -> Option<&str> {
        match &ofd.kind {
            OfdKind::Reg(file) => Some(file.path.as_str()),
            _ => None,
        }
    }
    let paths: HashMap<u32, &str> = model.ofds.iter().filter_map(|ofd| Some((ofd.id, path(ofd)?))).collect();
    let same = |a: u32, b: u32| a == b || paths.get(&a).is_some_and(|path| paths.get(&b) == Some(path));
    let pair = |(child, task): (usize, &Task)| {
        let parent = by_pid.get(&task.ppid).copied()?;
        let like = Likeness::at_best(task.alive()?, model.tasks[parent].alive()?, &same);
        like.pays(options).then_some(Pair { child, parent })
    };
    model.tasks.par_iter().enumerate().filter_map(pair).collect()
}

/// Whether any address space may be inherited: where files are sent and received after the forks, nothing can be
/// mapped before them.
fn may_inherit(options: &Options) -> bool {
    options.sharing != Sharing::None && options.policy == Policy::Inherit
}

/// How much of a child's address space its parent has.
#[derive(Debug, Clone, Copy, Default)]
struct Likeness {
    /// Mappings and pages in common, and those that are not.
    counts: cost::Likeness,
    /// Nothing is in the way.
    is_possible: bool,
}

impl Likeness {
    /// As if all pages were alike.
    fn at_best(child: &Alive, parent: &Alive, same: &impl Fn(u32, u32) -> bool) -> Likeness {
        let kept = kept(child, parent, same);
        let both: u64 = kept
            .iter()
            .map(|vma| pages(&child.mm.pages.extents, vma).min(pages(&parent.mm.pages.extents, vma)))
            .sum();
        Likeness::new(child, parent, same, &kept, both)
    }

    fn of(
        child: &Alive,
        parent: &Alive,
        same: &impl Fn(u32, u32) -> bool,
        kept: &[&Vma],
        runs: &[Run],
    ) -> Likeness {
        let alike = kept
            .iter()
            .map(|vma| within(runs, vma).map(|(start, end)| (end - start) / PAGE).sum::<u64>())
            .sum();
        Likeness::new(child, parent, same, kept, alike)
    }

    fn new(
        child: &Alive,
        parent: &Alive,
        same: &impl Fn(u32, u32) -> bool,
        kept: &[&Vma],
        alike: u64,
    ) -> Likeness {
        let count = |alive: &Alive, vma: &Vma| pages(&alive.mm.pages.extents, vma);
        let of_parent: u64 = parent.mm.pages.extents.iter().map(|extent| extent.len_pages).sum();
        let in_both: u64 = kept.iter().map(|vma| count(child, vma).min(count(parent, vma))).sum();
        Likeness {
            counts: cost::Likeness {
                kept: kept.len() as u64,
                dropped: parent.mm.vmas.len().saturating_sub(kept.len()) as u64,
                alike,
                other: in_both.saturating_sub(alike),
                only_parent: of_parent.saturating_sub(in_both),
            },
            is_possible: same_vdso(child, parent) && same(child.mm.exe_file_id, parent.mm.exe_file_id),
        }
    }

    /// Whether a child is to inherit.
    fn pays(&self, options: &Options) -> bool {
        self.is_possible
            && match options.sharing {
                Sharing::Keep => self.counts.alike > 0,
                Sharing::Fast => self.gain(&options.costs) > 0,
                Sharing::None => false,
            }
    }

    /// What is saved by inheriting, in nanoseconds; below 0 it costs.
    fn gain(&self, costs: &CostModel) -> i64 {
        costs.saved_by_inheriting(&self.counts)
    }
}

/// Mappings and pages of an address space.
fn size(alive: &Alive) -> (u64, u64) {
    (alive.mm.vmas.len() as u64, alive.mm.pages.extents.iter().map(|extent| extent.len_pages).sum())
}

/// What it takes to set an address space up.
fn setup(alive: &Alive, costs: &CostModel) -> i64 {
    let (vmas, pages) = size(alive);
    i64::try_from(costs.set_up(vmas, pages)).unwrap_or(i64::MAX)
}

/// What it costs a child to be born with an address space that is of no use to it.
fn burden(alive: &Alive, costs: &CostModel) -> i64 {
    let (vmas, pages) = size(alive);
    i64::try_from(costs.burden(vmas, pages)).unwrap_or(i64::MAX)
}

/// Decides for all tasks, when it is known who forks whom.
pub(super) fn decide(resolver: &Resolver<'_>) -> Spaces {
    let model = resolver.model;
    let costs = &resolver.options.costs;
    let forest = &resolver.forest;
    let count = forest.tasks.len();
    let mut spaces = Spaces::default();
    let mut depth = vec![0u32; count];
    // Whether a task has more than the window when it forks.
    let mut is_full = vec![false; count];
    if !may_inherit(resolver.options) {
        return spaces;
    }
    let alive = |task: TaskId| model.tasks.get(task.index()).and_then(|task| task.alive());
    let own_vdso = |task: TaskId| resolver.vdsos.contains_key(&model.tasks[task.index()].pid);
    let sharing = resolver.options.sharing;
    let is_shallow = |depth: u32| sharing == Sharing::Keep || depth + 1 < DEEPEST;
    // Those that are born with each task's address space: helpers only hand it on.
    let mut born: Vec<Vec<TaskId>> = vec![Vec::new(); model.tasks.len()];
    for child in (0..model.tasks.len()).map(TaskId::new) {
        if let Some(parent) = tree::born_of(forest, model.tasks.len(), child) {
            born[parent.index()].push(child);
        }
    }
    for parent in forest.birth_order() {
        let Some(children) = born.get(parent.index()) else { continue };
        let mut heirs = BTreeSet::new();
        if let Some(above) = alive(parent).filter(|_| !own_vdso(parent) && is_shallow(depth[parent.index()]))
        {
            let mut gain = 0i64;
            for child in children {
                let likeness = alive(*child).filter(|_| !own_vdso(*child)).and_then(|below| {
                    let runs = resolver.alike.of(child.index(), parent.index())?;
                    let same = |a, b| is_same_file(resolver, a, b);
                    Some(Likeness::of(below, above, &same, &kept(below, above, &same), runs))
                });
                match likeness.filter(|likeness| likeness.pays(resolver.options)) {
                    Some(likeness) => {
                        gain = gain.saturating_add(likeness.gain(costs));
                        heirs.insert(*child);
                    }
                    None => gain = gain.saturating_sub(burden(above, costs)),
                }
            }
            // While it sets itself up, its children wait.
            let is_worth_it = gain > setup(above, costs) || sharing == Sharing::Keep;
            if !heirs.is_empty() && is_worth_it {
                spaces.early.insert(parent);
            } else {
                heirs.clear();
            }
        }
        is_full[parent.index()] |= spaces.is_early(parent);
        for child in children {
            if heirs.contains(child) {
                spaces.heirs.insert(*child);
                depth[child.index()] = depth[parent.index()] + 1;
                is_full[child.index()] = true;
            } else if is_full[parent.index()] {
                match forest.tasks[child.index()].life {
                    Life::Lives => drop(spaces.strangers.insert(*child)),
                    // It goes as it came; what it forks is theirs to drop.
                    Life::Zombie => is_full[child.index()] = true,
                    Life::Helper | Life::Thread => {}
                }
            }
        }
    }
    spaces.late = late(resolver, &spaces);
    spaces
}

/// The pages of early tasks that are like those of no heir, where they can be filled at any time: in what is
/// writable. What an early task has inherited itself is there, and its children get it, whatever is filled over it.
fn late(resolver: &Resolver<'_>, spaces: &Spaces) -> BTreeMap<TaskId, Vec<(u64, u64)>> {
    let mut common: BTreeMap<TaskId, Vec<(u64, u64)>> = BTreeMap::new();
    for child in &spaces.heirs {
        let born_of = tree::born_of(&resolver.forest, resolver.model.tasks.len(), *child);
        let Some(parent) = born_of else { continue };
        let runs = resolver.alike.of(child.index(), parent.index()).unwrap_or_default();
        common.entry(parent).or_default().extend(runs.iter().map(|run| (run.at, run.at + run.len)));
    }
    let is_first = |(task, _): &(TaskId, _)| spaces.is_early(*task) && !spaces.is_heir(*task);
    let late_of = |(task, common): (TaskId, Vec<(u64, u64)>)| {
        let alive = resolver.model.tasks.get(task.index())?.alive()?;
        let stored: Vec<(u64, u64)> = alive.mm.pages.extents.iter().map(range).collect();
        let fixed = |vma: &&Vma| {
            vma.prot & libc::PROT_WRITE as u32 == 0
                // What is shared meanwhile would be copied, and take further huge pages.
                || huge::is_private(vma)
                || !matches!(vma.kind, VmaKind::AnonPrivate | VmaKind::FilePrivate { .. })
        };
        let fixed: Vec<(u64, u64)> =
            alive.mm.vmas.iter().filter(fixed).map(|vma| (vma.start, vma.end)).collect();
        Some((task, without(&without(&stored, &joined(common)), &fixed)))
    };
    common.into_iter().filter(is_first).filter_map(late_of).collect()
}

/// Extents outside and inside of ranges.
pub(super) fn parted(extents: &[Extent], ranges: &[(u64, u64)]) -> (Vec<Extent>, Vec<Extent>) {
    let (mut outside, mut inside) = (Vec::new(), Vec::new());
    for extent in extents {
        let here = without(&[range(extent)], ranges);
        outside.extend(here.iter().filter_map(|(start, end)| extent.within(*start, *end)));
        inside.extend(
            without(&[range(extent)], &here).iter().filter_map(|(start, end)| extent.within(*start, *end)),
        );
    }
    (outside, inside)
}

/// Ranges in order and without overlaps.
fn joined(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, last| {
        let touches = next.0 <= last.1;
        if touches {
            last.1 = last.1.max(next.1);
        }
        touches
    });
    ranges
}

/// How an heir's address space differs from that of its parent.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Ranges to be unmapped.
    pub(super) unmapped: Vec<(u64, u64)>,
    /// First addresses of mappings that are there, sorted.
    kept: Vec<u64>,
    /// Ranges whose pages must go.
    pub(super) emptied: Vec<(u64, u64)>,
    /// Pages to be filled.
    pub(super) filled: Vec<Extent>,
}

impl Difference {
    /// Whether a mapping is there.
    pub(super) fn is_kept(&self, vma: &Vma) -> bool {
        self.kept.binary_search(&vma.start).is_ok()
    }
}

pub(super) fn difference(resolver: &Resolver<'_>, child: TaskId, own: &Alive) -> Option<Difference> {
    let parent = tree::born_of(&resolver.forest, resolver.model.tasks.len(), child)?;
    let other = resolver.model.tasks.get(parent.index())?.alive()?;
    let runs = resolver.alike.of(child.index(), parent.index())?;
    let kept = kept(own, other, &|a, b| is_same_file(resolver, a, b));
    // Mappings are sorted by address.
    let starts: Vec<u64> = kept.iter().map(|vma| vma.start).collect();
    let mut difference = Difference::default();
    for vma in other.mm.vmas.iter().filter(|vma| {
        starts.binary_search(&vma.start).is_err()
            && vma.kind != VmaKind::Vsyscall
            && vma.madvise >> libc::MADV_DONTFORK & 1 == 0
    }) {
        match difference.unmapped.last_mut() {
            Some((_, end)) if *end == vma.start => *end = vma.end,
            _ => difference.unmapped.push((vma.start, vma.end)),
        }
    }
    let late = resolver.spaces.late(parent);
    for vma in kept.iter().filter(|vma| !matches!(vma.kind, VmaKind::Vdso | VmaKind::Vvar)) {
        let of = |alive: &Alive| -> Vec<(u64, u64)> {
            stored(&alive.mm.pages.extents, vma).map(|extent| range(&extent)).collect()
        };
        // What the parent fills behind its forks has not come along.
        difference.emptied.extend(without(&without(&of(other), late), &of(own)));
    }
    let alike: Vec<(u64, u64)> = kept.iter().flat_map(|vma| within(runs, vma)).collect();
    for extent in &own.mm.pages.extents {
        for (start, end) in without(&[range(extent)], &alike) {
            difference.filled.extend(extent.within(start, end));
        }
    }
    difference.kept = starts;
    Some(difference)
}

/// Whether the kernel knows of an heir's layout what it is to know: it has it from the parent, as the executable.
pub(super) fn is_laid_out_alike(resolver: &Resolver<'_>, child: TaskId, own: &Alive) -> bool {
    let parent = tree::born_of(&resolver.forest, resolver.model.tasks.len(), child);
    let other = parent.and_then(|parent| resolver.model.tasks.get(parent.index())?.alive());
    other.is_some_and(|other| {
        let layout = |mm: &Mm| {
            [
                [mm.start_code, mm.end_code, mm.start_data, mm.end_data],
                [mm.start_brk, mm.brk, mm.start_stack, 0],
                [mm.arg_start, mm.arg_end, mm.env_start, mm.env_end],
            ]
        };
        layout(&own.mm) == layout(&other.mm) && own.mm.auxv == other.mm.auxv
    })
}

/// The mappings of the child that are its parent's, by address. Both have them from the same address to the same
/// address, so that the kernel neither joins nor cuts what was not.
fn kept<'a>(child: &'a Alive, parent: &Alive, same: &impl Fn(u32, u32) -> bool) -> Vec<&'a Vma> {
    let theirs = &parent.mm.vmas;
    let is_guarded = |alive: &Alive, vma: &Vma| {
        alive.mm.guards.iter().any(|(start, end)| *start < vma.end && vma.start < *end)
    };
    child
        .mm
        .vmas
        .iter()
        .filter(|vma| {
            let at = theirs.partition_point(|other| other.start < vma.start);
            let Some(other) = theirs.get(at) else { return false };
            is_alike(vma, other, same) && !is_guarded(child, vma) && !is_guarded(parent, other)
        })
        .collect()
}

fn is_alike(a: &Vma, b: &Vma, same: &impl Fn(u32, u32) -> bool) -> bool {
    let modes = |vma: &Vma| (vma.start, vma.end, vma.prot, vma.flags, vma.madvise);
    let is_copied = a.madvise & NOT_COPIED == 0
        && a.flags & libc::MAP_LOCKED as u32 == 0
        && a.flags & MAP_TYPE != MAP_DROPPABLE
        && !huge::is_private(a);
    if modes(a) != modes(b) || !is_copied {
        return false;
    }
    match (a.kind, b.kind) {
        (VmaKind::AnonPrivate, VmaKind::AnonPrivate)
        | (VmaKind::Vvar, VmaKind::Vvar)
        | (VmaKind::Vdso, VmaKind::Vdso) => true,
        (
            VmaKind::FilePrivate { ofd_id, offset_bytes, .. },
            VmaKind::FilePrivate { ofd_id: other, offset_bytes: from, .. },
        ) => offset_bytes == from && same(ofd_id, other),
        (
            VmaKind::FileShared { ofd_id, offset_bytes, file_flags },
            VmaKind::FileShared { ofd_id: other, offset_bytes: from, file_flags: flags },
        ) => offset_bytes == from && file_flags == flags && same(ofd_id, other),
        (VmaKind::AnonShared { .. }, VmaKind::AnonShared { .. })
        | (VmaKind::Memfd { .. }, VmaKind::Memfd { .. }) => a.kind == b.kind,
        (
            VmaKind::AnonPrivate
            | VmaKind::FilePrivate { .. }
            | VmaKind::FileShared { .. }
            | VmaKind::AnonShared { .. }
            | VmaKind::Memfd { .. }
            | VmaKind::Vvar
            | VmaKind::Vdso
            | VmaKind::Vsyscall
            | VmaKind::Other,
            _,
        ) => false,
    }
}

/// Whether two descriptions that are mapped are one file.
fn is_same_file(resolver: &Resolver<'_>, a: u32, b: u32) -> bool {
    let path = |ofd_id: u32| {
        let ofd = &resolver.model.ofds[resolver.ofd_of_id.get(&ofd_id)?.index()];
        match &ofd.kind {
            OfdKind::Reg(file) if ghost::remap_of(resolver, ofd_id).is_none() => Some(file.path.as_str()),
            _ => None,
        }
    };
    a == b || path(a).is_some_and(|a| path(b) == Some(a))
}

/// The kernel's mappings come and go together.
fn same_vdso(a: &Alive, b: &Alive) -> bool {
    let special = |alive: &Alive| -> Vec<(u64, u64, VmaKind)> {
        let vmas = alive.mm.vmas.iter().filter(|vma| matches!(vma.kind, VmaKind::Vvar | VmaKind::Vdso));
        vmas.map(|vma| (vma.start, vma.end, vma.kind)).collect()
    };
    special(a) == special(b)
}

fn range(extent: &Extent) -> (u64, u64) {
    (extent.start, extent.start + extent.len_pages * PAGE)
}

/// How many pages of a mapping are stored.
fn pages(extents: &[Extent], vma: &Vma) -> u64 {
    stored(extents, vma).map(|extent| extent.len_pages).sum()
}

/// The stored pages of a mapping.
fn stored<'a>(extents: &'a [Extent], vma: &Vma) -> impl Iterator<Item = Extent> + use<'a> {
    let (start, end) = (vma.start, vma.end);
    let first = extents.partition_point(|extent| range(extent).1 <= start);
    extents[first..].iter().map_while(move |extent| extent.within(start, end))
}

/// The parts of runs that are in a mapping.
fn within<'a>(runs: &'a [Run], vma: &Vma) -> impl Iterator<Item = (u64, u64)> + use<'a> {
    let (start, end) = (vma.start, vma.end);
    let first = runs.partition_point(|run| run.at + run.len <= start);
    runs[first..]
        .iter()
        .take_while(move |run| run.at < end)
        .map(move |run| (run.at.max(start), (run.at + run.len).min(end)))
}

/// Ranges without other ranges; both sorted and without overlaps.
fn without(ranges: &[(u64, u64)], others: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    for (start, end) in ranges {
        let mut at = *start;
        let first = others.partition_point(|(_, behind)| *behind <= at);
        for (from, to) in others[first..].iter().take_while(|(from, _)| from < end) {
            if at < *from {
                left.push((at, *from));
            }
            at = at.max(*to);
        }
        if at < *end {
            left.push((at, *end));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ranges: &[(u64, u64)], others: &[(u64, u64)], expected: &[(u64, u64)]) {
        assert_eq!(without(ranges, others), expected);
    }

    #[test]
    fn ranges_are_joined() {
        assert_eq!(joined(vec![(8, 9), (0, 2), (1, 3), (3, 4), (8, 9)]), [(0, 4), (8, 9)]);
        assert_eq!(joined(vec![(0, 9), (2, 3), (9, 10)]), [(0, 10)]);
        assert_eq!(joined(Vec::new()), []);
    }

    #[test]
    fn ranges_without_others() {
        check(&[(0, 10)], &[], &[(0, 10)]);
        check(&[(0, 10)], &[(0, 10)], &[]);
        check(&[(0, 10)], &[(2, 4), (6, 20)], &[(0, 2), (4, 6)]);
        check(&[(0, 3), (5, 9)], &[(1, 6), (8, 9)], &[(0, 1), (6, 8)]);
        check(&[(5, 6)], &[(0, 5), (6, 7)], &[(5, 6)]);
    }
}
