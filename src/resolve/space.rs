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
//! The other way round, pages that several heirs have and the parent not any more are filled by it before it forks, and
//! its own behind that: so they are filled once, and shared as they were.
//!
//! Worked example: a server with pages `A B`, and two workers with `A B'` and `A B''`. The server maps both pages and
//! fills `A`, then forks; then it fills `B`, and each worker its own. All three share the page `A`.
//!
//! | module | says |
//! |---|---|
//! | `kept` | which mappings a child keeps of those that it is born with |
//! | `shape` | what a task has mapped when it forks, where that is not what it has in the end |
//!
//! The choice is one of time and memory only. What it costs to fork a mapping, or a page, and to map or fill it anew is in
//! the [`CostModel`]; wrong ones make a restore slower, not wrong.

mod kept;
mod shape;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use rayon::prelude::*;
use regrow_graph::cost::{self, CostModel};
use regrow_graph::forest::Life;
use regrow_graph::ids::TaskId;

use super::files::ghost;
use super::numbers::PAGE;
use super::policy::Policy;
use super::{Options, Resolver, Sharing, huge, stage, transparent, tree};
use crate::host::Transparent;
use crate::image::alike::{Pair, Run};
use crate::image::ranges::{cut, joined, meets, range, stored, within, without};
use crate::image::{Alive, Extent, Mm, Model, Ofd, OfdKind, Task, Vma, VmaKind};
use kept::{Kept, kept};

pub(super) use crate::image::ranges::parted;
pub(super) use shape::settle;

/// From this many forks above each other on, address spaces are made anew: each further fork of a page costs more,
/// for the kernel keeps a chain of all that share it (`anon_vma_chain`, mm/rmap.c).
const DEEPEST: u32 = 4;
/// As many pages in common are worth a fork below those, where memory is what counts: a megabyte.
const MANY_PAGES: u64 = 256;

/// Who inherits.
#[derive(Debug, Default)]
pub(super) struct Spaces {
    /// Tasks that set their address space up before they fork, and how many they fork.
    early: BTreeMap<TaskId, u64>,
    /// Tasks that keep what they are born with.
    heirs: BTreeSet<TaskId>,
    /// Tasks that are born with something that they must drop.
    strangers: BTreeSet<TaskId>,
    /// Of early tasks: pages that no heir has, as sorted ranges. They are filled behind the forks.
    late: BTreeMap<TaskId, Vec<(u64, u64)>>,
    /// Of early tasks: blocks that they are given by way of huge pages, as sorted ranges.
    staged: BTreeMap<TaskId, Vec<(u64, u64)>>,
    /// Of early tasks: pages of their children that they have when they fork, and not in the end.
    old: BTreeMap<TaskId, Vec<Extent>>,
    /// Of early tasks: what they have mapped when they fork, where that is not what they have in the end.
    shapes: BTreeMap<TaskId, Arc<[Vma]>>,
    /// Whether each task is born with huge pages forbidden: fork copies that. Empty where nobody is early.
    without_huge_pages: Vec<bool>,
}

impl Spaces {
    /// Whether a task is born with huge pages forbidden (`PR_SET_THP_DISABLE`); `None`: as regrow has it.
    pub(super) fn is_born_without_huge_pages(&self, task: TaskId) -> Option<bool> {
        self.without_huge_pages.get(task.index()).copied()
    }

    pub(super) fn is_early(&self, task: TaskId) -> bool {
        self.early.contains_key(&task)
    }

    /// Blocks that a task is given by way of huge pages: sorted ranges.
    pub(super) fn staged(&self, task: TaskId) -> &[(u64, u64)] {
        self.staged.get(&task).map_or(&[], Vec::as_slice)
    }

    /// How much that is of all tasks, in bytes.
    pub(super) fn staged_bytes(&self) -> u64 {
        self.staged.values().flatten().map(|(start, end)| end - start).sum()
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

    /// Pages that a task has when it forks, and either others or none in the end, by address.
    pub(super) fn old(&self, task: TaskId) -> &[Extent] {
        self.old.get(&task).map_or(&[], Vec::as_slice)
    }

    /// What an early task has mapped when it forks; `None`: what it has in the end.
    pub(super) fn shape(&self, task: TaskId) -> Option<&Arc<[Vma]>> {
        self.shapes.get(&task)
    }

    /// What a task sets up: what it has mapped when it forks, or in the end.
    fn vmas<'a>(&'a self, task: TaskId, alive: &'a Alive) -> &'a [Vma] {
        self.shape(task).map_or(alive.mm.vmas.as_slice(), |shape| shape)
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
        let count = |alive: &Alive, kept: &Kept| -> u64 {
            stored(&alive.mm.pages.extents, kept.start, kept.end).map(|extent| extent.len_pages).sum()
        };
        let is_worth = |start, end| {
            [child, parent].iter().all(|alive| stored(&alive.mm.pages.extents, start, end).next().is_some())
        };
        let kept = with_all_put_off(child, parent, same, &is_worth);
        let both = kept.iter().map(|kept| count(child, kept).min(count(parent, kept))).sum();
        Likeness::new(child, parent, same, &kept, both)
    }

    fn of(child: &Alive, parent: &Alive, same: &impl Fn(u32, u32) -> bool, runs: &[Run]) -> Likeness {
        let is_worth = |start, end| within(runs, start, end).next().is_some();
        let kept = with_all_put_off(child, parent, same, &is_worth);
        let alike =
            kept.iter().filter(|kept| !kept.is_wiped()).flat_map(|kept| within(runs, kept.start, kept.end));
        let alike = alike.map(|(start, end)| (end - start) / PAGE).sum();
        Likeness::new(child, parent, same, &kept, alike)
    }

    fn new(
        child: &Alive,
        parent: &Alive,
        same: &impl Fn(u32, u32) -> bool,
        kept: &[Kept],
        alike: u64,
    ) -> Likeness {
        let count = |alive: &Alive, kept: &Kept| -> u64 {
            stored(&alive.mm.pages.extents, kept.start, kept.end).map(|extent| extent.len_pages).sum()
        };
        let of_parent: u64 = parent.mm.pages.extents.iter().map(|extent| extent.len_pages).sum();
        let in_both: u64 = kept.iter().map(|kept| count(child, kept).min(count(parent, kept))).sum();
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

/// What a child would keep if it were its parent's only heir.
fn with_all_put_off(
    child: &Alive,
    parent: &Alive,
    same: &impl Fn(u32, u32) -> bool,
    is_worth: &impl Fn(u64, u64) -> bool,
) -> Vec<Kept> {
    let at_fork = shape::fit(Cow::Borrowed(&parent.mm.vmas), &child.mm.vmas, is_worth);
    kept(&child.mm.vmas, &at_fork, same, is_worth)
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
    let is_shallow = |depth: u32| depth + 1 < DEEPEST;
    // Those that are born with each task's address space: helpers only hand it on.
    let mut born: Vec<Vec<TaskId>> = vec![Vec::new(); model.tasks.len()];
    for child in (0..model.tasks.len()).map(TaskId::new) {
        if let Some(parent) = tree::born_of(forest, model.tasks.len(), child) {
            born[parent.index()].push(child);
        }
    }
    let likeness = likenesses(resolver);
    spaces.without_huge_pages = vec![resolver.facts.own.thp_disabled.unwrap_or(false); model.tasks.len()];
    for parent in forest.birth_order() {
        let Some(children) = born.get(parent.index()) else { continue };
        let mut heirs = BTreeSet::new();
        let may_be_deep = sharing == Sharing::Keep;
        let is_shallow = is_shallow(depth[parent.index()]);
        if let Some(above) = alive(parent).filter(|_| !own_vdso(parent) && (is_shallow || may_be_deep)) {
            let mut gain = 0i64;
            for child in children {
                let likeness = likeness.get(child.index()).copied().flatten().filter(|_| !own_vdso(*child));
                let is_worth_depth = |likeness: &Likeness| is_shallow || likeness.counts.alike >= MANY_PAGES;
                let pays = |likeness: &Likeness| likeness.pays(resolver.options) && is_worth_depth(likeness);
                match likeness.filter(pays) {
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
                spaces.early.insert(parent, children.len() as u64);
            } else {
                heirs.clear();
            }
        }
        is_full[parent.index()] |= spaces.is_early(parent);
        // Who is early has its own setting by then.
        let own = alive(parent).filter(|_| spaces.is_early(parent)).map(|alive| alive.mm.thp_disabled);
        let at_fork = own.unwrap_or(spaces.without_huge_pages[parent.index()]);
        for child in children {
            spaces.without_huge_pages[child.index()] = at_fork;
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
    spaces.shapes = shapes(resolver, &spaces, &born);
    let early: Vec<TaskId> = spaces.early.keys().copied().collect();
    for task in &early {
        let old = old(resolver, &spaces, *task, &born[task.index()]);
        spaces.old.insert(*task, old);
    }
    late(resolver, &mut spaces);
    spaces
}

/// How much of each task's address space has who forks it, on all processors; `None`: they were not compared.
fn likenesses(resolver: &Resolver<'_>) -> Vec<Option<Likeness>> {
    let tasks = &resolver.model.tasks;
    let same = |a, b| is_same_file(resolver, a, b);
    let of = |child: usize| {
        let parent = tree::born_of(&resolver.forest, tasks.len(), TaskId::new(child))?;
        let runs = resolver.alike.of(child, parent.index())?;
        Some(Likeness::of(tasks[child].alive()?, tasks.get(parent.index())?.alive()?, &same, runs))
    };
    (0..tasks.len()).into_par_iter().map(of).collect()
}

/// Where old pages must go, for the task has none there in the end.
pub(super) fn gone(old: &[Extent], own: &[Extent]) -> Vec<(u64, u64)> {
    let ranges = |extents: &[Extent]| extents.iter().map(range).collect::<Vec<_>>();
    without(&ranges(old), &ranges(own))
}

/// The old pages of a task that heirs of it are to have.
fn old(resolver: &Resolver<'_>, spaces: &Spaces, task: TaskId, children: &[TaskId]) -> Vec<Extent> {
    let all = resolver.alike.old(task.index());
    if all.is_empty() {
        return Vec::new();
    }
    let heirs = children.iter().filter(|child| spaces.is_heir(**child));
    let runs = heirs.flat_map(|heir| resolver.alike.of(heir.index(), task.index()).unwrap_or_default());
    parted(all, &joined(runs.map(|run| (run.at, run.at + run.len)).collect())).1
}

/// Where heirs of a task are born with pages, between two addresses: what it fills behind its forks does not come along,
/// what is old does.
fn come_along(spaces: &Spaces, task: TaskId, alive: &Alive, start: u64, end: u64) -> Vec<(u64, u64)> {
    let ranges =
        |extents: &[Extent]| stored(extents, start, end).map(|extent| range(&extent)).collect::<Vec<_>>();
    let own = without(&ranges(&alive.mm.pages.extents), spaces.late(task));
    joined([own, ranges(spaces.old(task))].concat())
}

/// What early tasks have mapped when they fork. An heir may itself be one, so those below come first. `born` has the
/// children of each task.
fn shapes(resolver: &Resolver<'_>, spaces: &Spaces, born: &[Vec<TaskId>]) -> BTreeMap<TaskId, Arc<[Vma]>> {
    let alive = |task: TaskId| resolver.model.tasks.get(task.index()).and_then(|task| task.alive());
    let mut shapes: BTreeMap<TaskId, Arc<[Vma]>> = BTreeMap::new();
    for parent in resolver.forest.birth_order().into_iter().rev().filter(|task| spaces.is_early(*task)) {
        let Some(above) = alive(parent) else { continue };
        let mut shape = Cow::Borrowed(above.mm.vmas.as_slice());
        for child in born[parent.index()].iter().filter(|child| spaces.is_heir(**child)) {
            let Some(below) = alive(*child) else { continue };
            let runs = resolver.alike.of(child.index(), parent.index()).unwrap_or_default();
            let vmas = shapes.get(child).map_or(below.mm.vmas.as_slice(), |shape| shape);
            shape = shape::fit(shape, vmas, &|start, end| within(runs, start, end).next().is_some());
        }
        if let Cow::Owned(shape) = shape {
            shapes.insert(parent, shape.into());
        }
    }
    shapes
}

/// The pages of early tasks that are like those of no heir, where they can be filled at any time: in what is
/// writable. What an early task has inherited itself is there, and its children get it, whatever is filled over it.
fn late(resolver: &Resolver<'_>, spaces: &mut Spaces) {
    let parent_of = |task: TaskId| tree::born_of(&resolver.forest, resolver.model.tasks.len(), task);
    let alive = |task: TaskId| resolver.model.tasks.get(task.index()).and_then(|task| task.alive());
    let mut common: BTreeMap<TaskId, Vec<(u64, u64)>> = BTreeMap::new();
    for child in &spaces.heirs {
        let Some(parent) = parent_of(*child) else { continue };
        let runs = resolver.alike.of(child.index(), parent.index()).unwrap_or_default();
        common.entry(parent).or_default().extend(runs.iter().map(|run| (run.at, run.at + run.len)));
    }
    let mut room = resolver.huge_room;
    let mut early = resolver.forest.birth_order();
    early.retain(|task| spaces.is_early(*task));
    for task in early {
        let (Some(alive_task), Some(common)) = (alive(task), common.remove(&task)) else { continue };
        let stored: Vec<(u64, u64)> = alive_task.mm.pages.extents.iter().map(range).collect();
        // All pages of what is locked are there from the start.
        let fixed = |vma: &&Vma| {
            vma.prot & libc::PROT_WRITE as u32 == 0
                // What is shared meanwhile would be copied, and take further huge pages.
                || huge::is_private(vma)
                || vma.flags & libc::MAP_LOCKED as u32 != 0
                || !matches!(vma.kind, VmaKind::AnonPrivate | VmaKind::FilePrivate { .. })
        };
        let fixed: Vec<(u64, u64)> =
            alive_task.mm.vmas.iter().filter(fixed).map(|vma| (vma.start, vma.end)).collect();
        // What is to be a huge page is read at once.
        let setting = transparent::setting(resolver.facts, alive_task);
        let mappings = transparent::mappings(setting, &alive_task.mm.vmas);
        let blocks = transparent::blocks(&alive_task.mm.pages.extents, &mappings, &[]);
        let mut late = without(&without(&without(&stored, &joined(common)), &fixed), &blocks);
        let above = parent_of(task).filter(|_| spaces.is_heir(task));
        if let Some((above, parent)) = above.and_then(|above| Some((above, alive(above)?))) {
            late = without(&late, &come_along(spaces, above, parent, 0, u64::MAX));
        }
        let old: Vec<(u64, u64)> = spaces.old(task).iter().map(range).collect();
        let blocks = transparent::with_room(staged(resolver, spaces, task, &old, &late), &mut room);
        let own = without(&stored, &old);
        let staged: Vec<(u64, u64)> =
            blocks.iter().flat_map(|(start, end)| cut(&own, *start, *end)).collect();
        late = without(&late, &staged);
        spaces.staged.insert(task, staged);
        late.extend(without(&stored, &own));
        spaces.late.insert(task, joined(late));
    }
}

/// The blocks that an early task is given by way of huge pages. `old` and `late`: as in [`stage::Forker`].
fn staged(
    resolver: &Resolver<'_>,
    spaces: &Spaces,
    task: TaskId,
    old: &[(u64, u64)],
    late: &[(u64, u64)],
) -> Vec<(u64, u64)> {
    let alive = resolver.model.tasks.get(task.index()).and_then(|task| task.alive());
    // What pages are moved from counts against this limit, which is the caller's yet (mm/mmap.c, `may_expand_vm`).
    let limit = resolver.facts.own.rlimits[libc::RLIMIT_DATA as usize];
    let is_limited = limit.is_some_and(|limit| limit.cur != libc::RLIM_INFINITY);
    // An heir's own are seldom many.
    let may_be_asked = resolver.facts.kernel.moves_pages && !is_limited && !spaces.is_heir(task);
    let (Some(alive), Some(huge_page_ns)) = (alive.filter(|_| may_be_asked), resolver.facts.huge_page_ns)
    else {
        return Vec::new();
    };
    let vmas = spaces.vmas(task, alive);
    // Who has memory that gets huge pages itself forbids them while it is filled.
    let setting = transparent::setting(resolver.facts, alive);
    let may_have_some = setting != Transparent::Never
        && spaces.is_born_without_huge_pages(task) == Some(false)
        && transparent::mappings(setting, vmas).is_empty();
    if !may_have_some {
        return Vec::new();
    }
    let forks = spaces.early.get(&task).copied().unwrap_or(0);
    let forker = stage::Forker { vmas, extents: &alive.mm.pages.extents, old, late, forks, huge_page_ns };
    joined(stage::blocks(&resolver.options.costs, &forker))
}

/// How an heir's address space differs from that of its parent.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Ranges to be unmapped.
    pub(super) unmapped: Vec<(u64, u64)>,
    /// Mappings that are there, sorted.
    kept: Vec<Kept>,
    /// Ranges whose guards must go.
    pub(super) unguarded: Vec<(u64, u64)>,
    /// Ranges whose pages must go.
    pub(super) emptied: Vec<(u64, u64)>,
    /// Pages to be filled.
    pub(super) filled: Vec<Extent>,
    /// Guards to be put up.
    pub(super) guards: Vec<(u64, u64)>,
}

impl Difference {
    /// What is there of a mapping.
    pub(super) fn kept(&self, vma: &Vma) -> Option<&Kept> {
        let at = self.kept.binary_search_by_key(&vma.start, |kept| kept.start).ok()?;
        self.kept.get(at)
    }
}

/// How the address spaces of all heirs differ from those of their parents, on all processors.
pub(super) fn differences(resolver: &Resolver<'_>) -> BTreeMap<TaskId, Difference> {
    let heirs: Vec<TaskId> = resolver.spaces.heirs.iter().copied().collect();
    let of = |heir: &TaskId| {
        let own = resolver.model.tasks.get(heir.index())?.alive()?;
        Some((*heir, difference(resolver, *heir, own)?))
    };
    heirs.par_iter().filter_map(of).collect::<Vec<_>>().into_iter().collect()
}

fn difference(resolver: &Resolver<'_>, child: TaskId, own: &Alive) -> Option<Difference> {
    let parent = tree::born_of(&resolver.forest, resolver.model.tasks.len(), child)?;
    let other = resolver.model.tasks.get(parent.index())?.alive()?;
    let runs = resolver.alike.of(child.index(), parent.index())?;
    let at_fork = resolver.spaces.vmas(parent, other);
    let same = |a, b| is_same_file(resolver, a, b);
    let is_worth = |start, end| within(runs, start, end).next().is_some();
    let kept = kept(resolver.spaces.vmas(child, own), at_fork, &same, &is_worth);
    let born = at_fork.iter().filter(|vma| kept::is_born(vma)).map(|vma| (vma.start, vma.end)).collect();
    let there: Vec<(u64, u64)> = kept.iter().map(|kept| (kept.start, kept.end)).collect();
    let mut difference = Difference { unmapped: without(&joined(born), &there), ..Difference::default() };
    let mut alike = Vec::new();
    let mut guarded = Vec::new();
    for kept in kept.iter().filter(|kept| !kept.is_kernel && !kept.is_wiped()) {
        // Where the child has nothing, there may be more to drop than what has come: one call takes all between two of
        // its pages.
        let come = come_along(&resolver.spaces, parent, other, kept.start, kept.end);
        if !come.is_empty() {
            let pages = stored(&own.mm.pages.extents, kept.start, kept.end);
            let free =
                without(&[(kept.start, kept.end)], &pages.map(|extent| range(&extent)).collect::<Vec<_>>());
            difference.emptied.extend(free.into_iter().filter(|(start, end)| meets(&come, *start, *end)));
        }
        alike.extend(within(runs, kept.start, kept.end));
        guarded.extend(cut(&other.mm.guards, kept.start, kept.end));
    }
    // What is old when it forks itself comes over what it was born with.
    let old: Vec<(u64, u64)> = resolver.spaces.old(child).iter().map(range).collect();
    let alike = without(&alike, &old);
    for extent in &own.mm.pages.extents {
        for (start, end) in without(&[range(extent)], &alike) {
            difference.filled.extend(extent.within(start, end));
        }
    }
    difference.unguarded = without(&guarded, &own.mm.guards);
    difference.guards = without(&own.mm.guards, &guarded);
    difference.kept = kept;
    Some(difference)
}

/// What an heir is born with: the pages of its parent that are not filled behind the forks, as sorted ranges, and
/// where its parent's mappings start and end, sorted.
pub(super) fn born_with(resolver: &Resolver<'_>, child: TaskId) -> (Vec<(u64, u64)>, Vec<u64>) {
    let parent = tree::born_of(&resolver.forest, resolver.model.tasks.len(), child);
    let alive = parent.and_then(|parent| resolver.model.tasks.get(parent.index())?.alive());
    let (Some(parent), Some(alive)) = (parent, alive) else { return Default::default() };
    let mut born = without(&ranges(&alive.mm.pages.extents), resolver.spaces.late(parent));
    born.extend(ranges(resolver.spaces.old(parent)));
    let vmas = resolver.spaces.shape(parent).map_or(alive.mm.vmas.as_slice(), |shape| shape.as_ref());
    let mut cuts: Vec<u64> = vmas.iter().flat_map(|vma| [vma.start, vma.end]).collect();
    cuts.dedup();
    (joined(born), cuts)
}

/// Where extents are.
pub(super) fn ranges(extents: &[Extent]) -> Vec<(u64, u64)> {
    joined(extents.iter().map(range).collect())
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
