//! Address spaces: mappings and pages into steps, shared memory into carriers.
//!
//! A task has nothing but the window, or what its parent had at the fork ([`super::space`] says which). It maps what it
//! has not in the order of the addresses, then fills the pages that are not there, sets the final protections and
//! advice, and last tells the kernel what it keeps of the layout (`PR_SET_MM_MAP`).
//!
//! A segment of shared anonymous memory is mapped once, as a *carrier* in the window of the lowest
//! common ancestor of its users, and inherited; a user makes each of its views by `mremap` with old
//! size 0 (mremap(2): "a new mapping of the same pages"), which keeps the name `/dev/zero` and
//! works at any address and offset. The carrier goes with the window. Where that is no way, with huge pages and
//! where views differ in what is reserved for them, the maker opens what it has mapped
//! (`/proc/self/map_files`), and a view is a mapping of that description, which keeps the name, too.

use std::collections::{BTreeMap, BTreeSet};

use regrow_graph::ids::{OfdId, ResourceId, StepId, TaskId};

use super::files::{self, ghost};
use super::huge::{self, Views};
use super::numbers::{MAP_DROPPABLE, MAP_KNOWN, MAP_TYPE, O_ACCMODE, PAGE};
use super::problem::ProblemKind;
use super::recipe::{FilePurpose, MmMap, ResourceKind, StepKind};
use super::window::{TASK_SIZE, Window};
use super::{Recipes, Resolver, adjoining, aio, fill, space, stage, transparent, vdso};
use crate::host::Probe;
use crate::image::huge::{MAP_HUGE, MAP_HUGETLB};
use crate::image::{
    Alive, Extent, Image, Mm, NsPid, OfdKind, Origin, PagesImage, Task, Vma, VmaKind, by_image,
};

/// A shared memory segment and where it is carried: at `at` from the start of the carriers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Carrier {
    pub(super) resource: ResourceId,
    pub(super) at: u64,
    pub(super) len: u64,
    /// The description of it by which it is mapped, where `mremap(2)` does not make its views.
    pub(super) opened: Option<OfdId>,
}

/// Most pieces of one `preadv` (`IOV_MAX`, readv(2)).
const MAX_PIECES: usize = 1024;
/// Most bytes of one read; the kernel stops at 0x7ffff000 (read(2)).
const MAX_READ: u64 = 1 << 30;

/// Advice that a mapping keeps, as bits of [`Vma::madvise`]: what `/proc/PID/smaps` shows of it
/// (madvise(2), fs/proc/task_mmu.c).
const MADV_KEPT: u64 = 1 << libc::MADV_RANDOM
    | 1 << libc::MADV_SEQUENTIAL
    | 1 << libc::MADV_DONTFORK
    | 1 << libc::MADV_MERGEABLE
    | 1 << libc::MADV_HUGEPAGE
    | 1 << libc::MADV_NOHUGEPAGE
    | 1 << libc::MADV_DONTDUMP
    | 1 << libc::MADV_WIPEONFORK;
/// linux/mman-common.h, since Linux 6.13.
const MADV_GUARD_INSTALL: u32 = 102;
/// Likewise.
const MADV_GUARD_REMOVE: u32 = 103;

/// Finds the shared anonymous segments, how long each is, who uses it, and what is in it.
pub(super) fn resolve_shared(resolver: &mut Resolver<'_>) {
    let model = resolver.model;
    let mut segments: BTreeMap<u64, (u64, Origin, Vec<TaskId>, Views)> = BTreeMap::new();
    // In the order in which the tasks lead to them: their numbers break no tie.
    let mut in_order = Vec::new();
    for (index, task) in model.tasks.iter().enumerate() {
        for vma in task.alive().iter().flat_map(|alive| &alive.mm.vmas) {
            if let VmaKind::AnonShared { shmid, offset_bytes } = vma.kind {
                let Some(end) = offset_bytes.checked_add(vma.end - vma.start).filter(|end| *end < TASK_SIZE)
                else {
                    let text =
                        format!("mapping {:#x}: its offset {offset_bytes:#x} is out of range", vma.start);
                    resolver.problems.add(ProblemKind::BadImages, Some(task.pid), Some(vma.origin), text);
                    continue;
                };
                let views = Views::of(vma);
                let segment = segments.entry(shmid).or_insert_with(|| {
                    in_order.push(shmid);
                    (0, vma.origin, Vec::new(), views)
                });
                segment.3 = segment.3.and(views);
                segment.0 = segment.0.max(end);
                let user = TaskId::new(index);
                if segment.2.last() != Some(&user) {
                    segment.2.push(user);
                }
            }
        }
    }
    for inode in &model.memfds {
        if let Some(segment) = segments.get_mut(&inode.shmid) {
            segment.0 = segment.0.max(inode.size_bytes);
        }
    }
    // Where memfds of huge pages are filled, one after another.
    let mut at = huge::scratch_len(model);
    for shmid in &in_order {
        let Some((len, origin, users, views)) = segments.remove(shmid) else { continue };
        let page = views.page_bytes();
        at = at.next_multiple_of(page);
        // All carriers are in the window, which is within the address space.
        let fits = |len: &u64| at.checked_add(*len).is_some_and(|end| end < TASK_SIZE);
        let Some(len) = len.checked_next_multiple_of(page).filter(fits) else {
            let text = format!("shared memory {shmid:#x} of {len} bytes: no address space is that large");
            resolver.problems.add(ProblemKind::BadImages, None, Some(origin), text);
            continue;
        };
        // The address is put in when the window is known.
        let is_opened = views.need_opening();
        if let (true, Probe::Absent(errno)) = (is_opened, resolver.facts.kernel.map_files) {
            let text = format!("shared memory {shmid:#x}: what is mapped cannot be opened here: {errno}");
            resolver.problems.add(ProblemKind::Lacking, None, Some(origin), text);
        }
        let kind = ResourceKind::Carrier { address: at, len, flags: views.carrier_flags() };
        let resource = resolver.add_resource(kind, origin, Vec::new());
        resolver.forest.resources[resource.index()].users = users;
        let opened = is_opened.then(|| {
            let ofd = resolver.new_ofd();
            let kind = ResourceKind::OpenedCarrier { address: at, len };
            resolver.add_resource(kind, origin, vec![Some(ofd)]);
            ofd
        });
        resolver.carriers.insert(*shmid, Carrier { resource, at, len, opened });
        at += len + PAGE;
    }
    resolver.carriers_end = (at, huge::alignment(model));
    let contents: BTreeMap<u64, &crate::image::Shm> = model.shm.iter().map(|shm| (shm.shmid, shm)).collect();
    for shmid in in_order {
        let Some(carrier) = resolver.carriers.get(&shmid).copied() else { continue };
        let Some(shm) = contents.get(&shmid) else { continue };
        if shm.pages.extents.is_empty() {
            continue;
        }
        let image = Image::PagemapShmem(shmid);
        for extent in &shm.pages.extents {
            if extent
                .start
                .checked_add(extent.len_pages.saturating_mul(PAGE))
                .is_none_or(|end| end > carrier.len)
            {
                let text = format!(
                    "page at {:#x} is behind the end of the segment ({:#x} bytes)",
                    extent.start, carrier.len
                );
                resolver.problems.add(
                    ProblemKind::BadImages,
                    None,
                    Some(Origin::new(image, extent.entry as usize)),
                    text,
                );
            }
        }
        let origin = Origin::new(image, 0);
        if is_huge(resolver, carrier) {
            // They are the owner's, whoever that will be.
            let mut steps = Vec::new();
            for (stored, extents) in shm.pages.by_image() {
                let file = pages_file(resolver, stored, origin);
                for (pieces, offset) in fills(&extents, None) {
                    let pieces = pieces.iter().map(|(from, len)| (from + carrier.at, *len)).collect();
                    steps.push(resolver.add_step(StepKind::Fill { pieces, offset }, origin, vec![file]));
                }
            }
            resolver.forest.resources[carrier.resource.index()].finish = steps;
            continue;
        }
        let users = resolver.forest.resources[carrier.resource.index()].users.clone();
        for (stored, extents) in shm.pages.by_image() {
            let extents: Vec<Extent> =
                extents.iter().map(|extent| Extent { start: extent.start + carrier.at, ..*extent }).collect();
            share_out(
                resolver,
                &SharedFill { image: stored, origin, carrier, is_read: false, extents: Vec::new() },
                &extents,
                &users,
            );
        }
    }
}

/// Whether shared memory is of huge pages.
fn is_huge(resolver: &Resolver<'_>, carrier: Carrier) -> bool {
    let kind = &resolver.recipes.resources[carrier.resource.index()].kind;
    matches!(kind, ResourceKind::Carrier { flags, .. } if flags & libc::MAP_HUGETLB as u32 != 0)
}

/// What a task fills of shared memory. Addresses are those of the carrier, from the start of the carriers.
#[derive(Debug, Clone)]
pub(super) struct SharedFill {
    pub(super) image: PagesImage,
    pub(super) origin: Origin,
    pub(super) carrier: Carrier,
    /// The kernel lets no pages be copied into it (`vma_is_shmem`, mm/shmem.c): they are read.
    pub(super) is_read: bool,
    pub(super) extents: Vec<Extent>,
}

/// Parts what is stored of a segment among those who use it: each has it where it was made, and they fill at the same
/// time. Who has filled least so far comes first, and who has no children before who has.
pub(super) fn share_out(
    resolver: &mut Resolver<'_>,
    shared: &SharedFill,
    extents: &[Extent],
    users: &[TaskId],
) {
    /// So much is worth opening and mapping an image for.
    const PART_PAGES: u64 = (4 << 20) / PAGE;
    let mut parts: Vec<(Vec<Extent>, u64)> = Vec::new();
    for extent in extents {
        let (mut at, end) = (extent.start, extent.start + extent.len_pages * PAGE);
        while at < end {
            let room = match parts.last() {
                Some((_, pages)) if *pages < PART_PAGES => PART_PAGES - pages,
                _ => {
                    parts.push((Vec::new(), 0));
                    PART_PAGES
                }
            };
            let to = end.min(at + room * PAGE);
            if let (Some((part, pages)), Some(piece)) = (parts.last_mut(), extent.within(at, to)) {
                *pages += piece.len_pages;
                part.push(piece);
            }
            at = to;
        }
    }
    let mut has_children = vec![false; resolver.forest.tasks.len()];
    for parent in resolver.forest.tasks.iter().filter_map(|task| task.parent) {
        has_children[parent.index()] = true;
    }
    let filled = |user: &TaskId| {
        let fills = resolver.shared_fills.get(user).into_iter().flatten();
        fills.flat_map(|fill| &fill.extents).map(|extent| extent.len_pages).sum::<u64>()
    };
    let mut next: BTreeSet<(u64, bool, TaskId)> =
        users.iter().map(|user| (filled(user), has_children[user.index()], *user)).collect();
    for (extents, pages) in parts {
        let Some((filled, has_children, user)) = next.pop_first() else { return };
        next.insert((filled + pages, has_children, user));
        let fills = resolver.shared_fills.entry(user).or_default();
        match fills.last_mut() {
            Some(last) if (last.image, last.is_read) == (shared.image, shared.is_read) => {
                last.extents.extend(extents)
            }
            _ => fills.push(SharedFill { extents, ..shared.clone() }),
        }
    }
}

/// The steps by which a task fills its part of shared memory. `userfault`: what it copies other memory by.
fn fill_shared(resolver: &mut Resolver<'_>, id: TaskId, mut userfault: Option<OfdId>) -> Vec<StepId> {
    let mut steps = Vec::new();
    for shared in resolver.shared_fills.remove(&id).unwrap_or_default() {
        let carrier = (shared.carrier.at, shared.carrier.at + shared.carrier.len);
        let mappings: &[(u64, u64)] = if shared.is_read { &[] } else { &[carrier] };
        let ways = fill::ways(resolver, &shared.extents, mappings, &[]);
        let file = |resolver: &mut Resolver<'_>| new_pages_file(resolver, shared.image, shared.origin);
        steps.extend(fill::steps(resolver, &ways, None, shared.origin, &mut userfault, file));
    }
    steps
}

/// Puts the addresses of carriers into the recipes, once the window is known.
pub(super) fn place_carriers(recipes: &mut Recipes, window: &Window, align: u64) {
    let base = (window.base + window.region_len).next_multiple_of(align);
    for recipe in &mut recipes.resources {
        match &mut recipe.kind {
            ResourceKind::Carrier { address, .. } | ResourceKind::OpenedCarrier { address, .. } => {
                *address += base;
            }
            ResourceKind::Ipc(recipe) => {
                let attached = recipe.segments.iter_mut().flat_map(|segment| &mut segment.attached);
                attached.for_each(|(address, _)| *address += base);
            }
            ResourceKind::Nameless(recipe) => huge::place(recipe, base),
            ResourceKind::File { .. }
            | ResourceKind::Pipe { .. }
            | ResourceKind::Eventfd { .. }
            | ResourceKind::Epoll { .. }
            | ResourceKind::Timerfd { .. }
            | ResourceKind::Signalfd { .. }
            | ResourceKind::Fifo { .. }
            | ResourceKind::SocketPair { .. }
            | ResourceKind::UnixSockets(_)
            | ResourceKind::InetSockets(_)
            | ResourceKind::Userfault
            | ResourceKind::Channel => {}
        }
    }
    for recipe in &mut recipes.steps {
        let is_shared = matches!(recipe.origin.image, Image::PagemapShmem(_));
        match &mut recipe.kind {
            StepKind::Copy(copying) => {
                copying.source = window.base + window.sources;
                if is_shared {
                    copying.mappings.iter_mut().for_each(|(start, _)| *start += base);
                    copying.pieces.iter_mut().for_each(|(to, ..)| *to += base);
                }
            }
            StepKind::MapShared { from, .. } => *from += base,
            StepKind::AttachHuge(view) => view.window += base,
            StepKind::Fill { pieces, .. } => {
                for (address, _) in pieces.iter_mut().filter(|_| is_shared) {
                    *address += base;
                }
            }
            StepKind::Bare
            | StepKind::Vacate
            | StepKind::Unmap { .. }
            | StepKind::SigAction { .. }
            | StepKind::Umask(_)
            | StepKind::Chdir(_)
            | StepKind::EnterDirectory
            | StepKind::Chroot(_)
            | StepKind::Comm(_)
            | StepKind::Personality(_)
            | StepKind::Mmap { .. }
            | StepKind::Grow { .. }
            | StepKind::Mprotect { .. }
            | StepKind::Madvise { .. }
            | StepKind::Mlock { .. }
            | StepKind::MapVdso { .. }
            | StepKind::Poke { .. }
            | StepKind::SetMm(_)
            | StepKind::AltStack(_)
            | StepKind::RobustList { .. }
            | StepKind::TidAddress { .. }
            | StepKind::Rseq { .. }
            | StepKind::Dumpable(_)
            | StepKind::ThpDisable(_)
            | StepKind::ChildSubreaper(_)
            | StepKind::ParentDeathSignal(_)
            | StepKind::Lock { .. }
            | StepKind::Nice(_)
            | StepKind::TimerSlack(_)
            | StepKind::Scheduler { .. }
            | StepKind::Write(_)
            | StepKind::QueueSignal { .. }
            | StepKind::IntervalTimer { .. }
            | StepKind::PosixTimers(_)
            | StepKind::ArmTimer(_)
            | StepKind::Membarrier(_)
            | StepKind::Credentials(_)
            | StepKind::SeccompStrict
            | StepKind::SeccompFilters(_)
            | StepKind::Watch { .. }
            | StepKind::ArmTimerfd { .. }
            | StepKind::Owner { .. }
            | StepKind::FillPair(_)
            | StepKind::RLimit { .. }
            | StepKind::Ring(_)
            | StepKind::NewIpcNamespace => {}
        }
    }
}

/// The steps of one task's address space, each list in order.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// All, or what comes before the forks of a task that is early.
    pub(super) setup: Vec<StepId>,
    /// What then comes behind them.
    pub(super) late: Vec<StepId>,
}

/// The steps of one task's address space.
pub(super) fn resolve(resolver: &mut Resolver<'_>, id: TaskId, task: &Task, alive: &Alive) -> Memory {
    let mm = &alive.mm;
    let pid = task.pid;
    let mut steps = Vec::new();
    // What it has mapped when it forks, if that is not what it has in the end.
    let shape = resolver.spaces.shape(id).cloned();
    let vmas = shape.as_deref().unwrap_or(&mm.vmas);
    let inherited = resolver.differences.remove(&id);
    // What is to be filled.
    let extents = inherited.as_ref().map_or(mm.pages.extents.as_slice(), |difference| &difference.filled);
    for (start, end) in inherited.iter().flat_map(|difference| &difference.unmapped) {
        let kind = StepKind::Unmap { start: *start, len: end - start };
        steps.push(resolver.add_step(kind, mm.origin, Vec::new()));
    }
    let mut protections = Vec::new();
    let mut advice = Vec::new();
    let mut dumpless = Vec::new();
    // Anonymous memory of its own, as it is while it is filled.
    let mut filled = Vec::new();
    let way = vdso::resolve(resolver, task, alive);
    if inherited.is_none()
        && let Some(exe) = mapped_file(resolver, pid, mm.exe_file_id, libc::O_RDONLY as u32, mm.origin)
    {
        // First: as long as anything of the executable so far is mapped, which may be the same, none can be set
        // (`replace_mm_exe_file`, kernel/fork.c).
        let kind = StepKind::SetMm(Box::new(layout(alive)));
        steps.push(resolver.add_step(kind, mm.origin, vec![exe]));
    }
    // What the kernel itself provides is not filled.
    let provided = if let vdso::Way::Led(_) = way { None } else { vdso_range(&mm.vmas) };
    for kind in special_steps(&way).into_iter().filter(|_| inherited.is_none()) {
        steps.push(resolver.add_step(kind, vdso::origin(alive), Vec::new()));
    }
    let old = resolver.spaces.old(id).to_vec();
    for vma in vmas {
        let len = vma.end - vma.start;
        let is_filled = [extents, &old].iter().any(|extents| has_pages(extents, vma.start, vma.end));
        // Filling writes; what is read-only at the end is writable until then.
        let prot = if is_filled { vma.prot | libc::PROT_WRITE as u32 } else { vma.prot };
        let kept = vma.flags & (MAP_KNOWN | MAP_HUGE);
        huge::judge(resolver, pid, vma);
        let unknown = huge::unknown_flags(vma);
        if unknown != 0 {
            let text =
                format!("mapping {:#x}-{:#x}: flags {:#x} are not restored yet", vma.start, vma.end, unknown);
            resolver.problems.unsupported(Some(pid), Some(vma.origin), text);
        }
        if vma.madvise & !MADV_KEPT != 0 {
            let text = format!(
                "mapping {:#x}-{:#x}: advice {:#x} is not restored yet",
                vma.start,
                vma.end,
                vma.madvise & !MADV_KEPT
            );
            resolver.problems.unsupported(Some(pid), Some(vma.origin), text);
        }
        if let Some(kept) = inherited.as_ref().and_then(|difference| difference.kept(vma)) {
            if kept.end < vma.end {
                let kind = StepKind::Grow { start: vma.start, len: kept.end - vma.start, new_len: len };
                steps.push(resolver.add_step(kind, vma.origin, Vec::new()));
            }
            if matches!(vma.kind, VmaKind::Vvar | VmaKind::Vdso) {
                continue;
            }
            let is_writable = kept.prot & libc::PROT_WRITE as u32 != 0;
            if is_filled && !is_writable {
                let kind = StepKind::Mprotect { start: vma.start, len, prot };
                steps.push(resolver.add_step(kind, vma.origin, Vec::new()));
            }
            let now = if is_filled && !is_writable { prot } else { kept.prot };
            if now != vma.prot {
                protections.push(vma);
            }
            for back in kept.taken_back(vma.madvise) {
                let kind = StepKind::Madvise { start: vma.start, len, advice: back };
                steps.push(resolver.add_step(kind, vma.origin, Vec::new()));
            }
            advice.push((vma, vma.madvise & !kept.advice));
            continue;
        }
        match vma.kind {
            VmaKind::AnonPrivate => {
                // MAP_DROPPABLE is a type of its own beside MAP_SHARED and MAP_PRIVATE.
                let kind = if vma.flags & MAP_TYPE == MAP_DROPPABLE {
                    MAP_DROPPABLE
                } else {
                    libc::MAP_PRIVATE as u32
                };
                let flags = kept & !MAP_TYPE | kind | libc::MAP_ANONYMOUS as u32;
                let kind = StepKind::Mmap { start: vma.start, len, prot, flags, file_offset: None };
                let is_one = adjoining::is_made_by_last(&mut resolver.recipes.steps, steps.last(), &kind);
                if !is_one {
                    steps.push(resolver.add_step(kind, vma.origin, Vec::new()));
                }
                adjoining::add(&mut filled, vma, is_one);
                if prot != vma.prot {
                    protections.push(vma);
                }
            }
            VmaKind::FilePrivate { ofd_id, offset_bytes, .. }
            | VmaKind::FileShared { ofd_id, offset_bytes, .. } => {
                let (shared, access) = if let VmaKind::FileShared { file_flags, .. } = vma.kind {
                    let is_writable = vma.prot & libc::PROT_WRITE as u32 != 0;
                    let default = if is_writable { libc::O_RDWR } else { libc::O_RDONLY } as u32;
                    (true, file_flags.unwrap_or(default) & O_ACCMODE)
                } else {
                    (false, libc::O_RDONLY as u32)
                };
                let Some(file) = mapped_file(resolver, pid, ofd_id, access, vma.origin) else { continue };
                let (own, other) = if shared {
                    (libc::MAP_SHARED, libc::MAP_PRIVATE)
                } else {
                    (libc::MAP_PRIVATE, libc::MAP_SHARED)
                };
                // That its pages are huge is the file's affair.
                let flags = (kept | own as u32) & !(other as u32 | libc::MAP_ANONYMOUS as u32 | MAP_HUGE);
                let prot = if shared { vma.prot } else { prot };
                let kind =
                    StepKind::Mmap { start: vma.start, len, prot, flags, file_offset: Some(offset_bytes) };
                steps.push(resolver.add_step(kind, vma.origin, vec![file]));
                if prot != vma.prot {
                    protections.push(vma);
                }
            }
            VmaKind::AnonShared { shmid, offset_bytes } => {
                let Some(carrier) = resolver.carriers.get(&shmid).copied() else { continue };
                if let Some(ofd) = carrier.opened {
                    let flags = vma.flags & (libc::MAP_NORESERVE | libc::MAP_LOCKED) as u32;
                    let flags = flags | libc::MAP_SHARED as u32;
                    let file_offset = Some(offset_bytes);
                    let kind = StepKind::Mmap { start: vma.start, len, prot: vma.prot, flags, file_offset };
                    steps.push(resolver.add_step(kind, vma.origin, vec![ofd]));
                } else {
                    let kind = StepKind::MapShared { from: carrier.at + offset_bytes, start: vma.start, len };
                    steps.push(resolver.add_step(kind, vma.origin, Vec::new()));
                    if vma.flags & libc::MAP_LOCKED as u32 != 0 {
                        let kind = StepKind::Mlock { start: vma.start, len };
                        steps.push(resolver.add_step(kind, vma.origin, Vec::new()));
                    }
                    if vma.prot != (libc::PROT_READ | libc::PROT_WRITE) as u32 {
                        protections.push(vma);
                    }
                }
            }
            VmaKind::SysV { shmid, offset_bytes, read_only } if vma.flags & MAP_HUGETLB != 0 => {
                let Some(view) = huge::view(resolver.model, vma, (shmid, offset_bytes, read_only)) else {
                    continue;
                };
                steps.push(resolver.add_step(StepKind::AttachHuge(view), vma.origin, Vec::new()));
                let attached = if read_only { libc::PROT_READ } else { libc::PROT_READ | libc::PROT_WRITE };
                if vma.prot != attached as u32 {
                    protections.push(vma);
                }
            }
            VmaKind::SysV { shmid, offset_bytes, read_only } => {
                let Some(at) = resolver.attached.get(&(shmid, read_only)).copied() else { continue };
                let kind = StepKind::MapShared { from: at + offset_bytes, start: vma.start, len };
                steps.push(resolver.add_step(kind, vma.origin, Vec::new()));
                if vma.flags & libc::MAP_LOCKED as u32 != 0 {
                    let kind = StepKind::Mlock { start: vma.start, len };
                    steps.push(resolver.add_step(kind, vma.origin, Vec::new()));
                }
                let attached = if read_only { libc::PROT_READ } else { libc::PROT_READ | libc::PROT_WRITE };
                if vma.prot != attached as u32 {
                    protections.push(vma);
                }
            }
            VmaKind::Vvar | VmaKind::Vdso if matches!(way, vdso::Way::Led(_) | vdso::Way::None) => {
                // Memory of the task's own: the data is empty, the code is filled.
                let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u32;
                let kind = StepKind::Mmap { start: vma.start, len, prot, flags, file_offset: None };
                steps.push(resolver.add_step(kind, vma.origin, Vec::new()));
                if prot != vma.prot {
                    protections.push(vma);
                }
                if vma.kind == VmaKind::Vvar && vma.madvise == 0 {
                    // As the kernel's own; and it keeps the mapping apart from those beside it.
                    dumpless.push(vma);
                }
            }
            VmaKind::Vvar | VmaKind::Vdso | VmaKind::Vsyscall => {}
            // Made behind the forks.
            VmaKind::AioRing => continue,
            VmaKind::Memfd { inode_id, offset_bytes, file_flags, .. } => {
                let shared = vma.flags & libc::MAP_SHARED as u32 != 0;
                let default = if shared && vma.prot & libc::PROT_WRITE as u32 != 0 {
                    libc::O_RDWR
                } else {
                    libc::O_RDONLY
                } as u32;
                let access =
                    if shared { file_flags.unwrap_or(default) & O_ACCMODE } else { libc::O_RDONLY as u32 };
                let Some(file) = resolver.open_inode(ghost::InodeKey::Memfd(inode_id), "", access, 0, None)
                else {
                    continue;
                };
                let prot = if shared { vma.prot } else { prot };
                let flags = kept & !(libc::MAP_ANONYMOUS as u32 | MAP_HUGE);
                let kind =
                    StepKind::Mmap { start: vma.start, len, prot, flags, file_offset: Some(offset_bytes) };
                steps.push(resolver.add_step(kind, vma.origin, vec![file]));
                if prot != vma.prot {
                    protections.push(vma);
                }
            }
            VmaKind::Other => {
                let text = format!(
                    "mapping {:#x}-{:#x}: {} is not restored yet",
                    vma.start,
                    vma.end,
                    format_args!("status {:#x}", vma.status)
                );
                resolver.problems.unsupported(Some(pid), Some(vma.origin), text);
            }
        }
        if vma.madvise != 0 {
            advice.push((vma, vma.madvise));
        }
    }
    check_pages(resolver, pid, alive, provided);
    for (start, end) in inherited.iter().flat_map(|difference| &difference.unguarded) {
        let kind = StepKind::Madvise { start: *start, len: end - start, advice: MADV_GUARD_REMOVE };
        steps.push(resolver.add_step(kind, mm.origin, Vec::new()));
    }
    for (start, end) in inherited.iter().flat_map(|difference| &difference.emptied) {
        // What is there without a stored page is zeros, or what the mapped file holds (madvise(2)).
        let kind = StepKind::Madvise { start: *start, len: end - start, advice: libc::MADV_DONTNEED as u32 };
        steps.push(resolver.add_step(kind, mm.origin, Vec::new()));
    }
    let (first, late) = space::parted(extents, resolver.spaces.late(id));
    let origin = Origin::new(Image::Pagemap(pid.0), 0);
    // An heir is born with pages of its parent's, where it has kept the mapping; and what has grown since may be two
    // mappings to the kernel.
    let (present, cuts) =
        if inherited.is_some() { space::born_with(resolver, id) } else { Default::default() };
    // Of what an heir keeps, the kernel may have other mappings than its own.
    let mappings = fill::mappings(if inherited.is_some() { vmas } else { &filled }, &cuts);
    let setting = transparent::setting(resolver.facts, alive);
    let huge = transparent::mappings(setting, vmas);
    let blocks = transparent::blocks(&first, &huge, &present);
    let blocks = transparent::with_room(blocks, &mut resolver.huge_room);
    let (first, whole) = space::parted(&first, &blocks);
    let mut guard = transparent::Guard::of(resolver, id, alive, !huge.is_empty());
    steps.extend(advise(resolver, &mut advice, libc::MADV_NOHUGEPAGE));
    steps.extend(guard.forbid(resolver));
    let mut userfault = None;
    for (image, extents) in by_image(&first) {
        let (extents, moved) = space::parted(&extents, resolver.spaces.staged(id));
        let moved_into = stage::holding(&mappings, &moved);
        let ways = fill::ways(resolver, &extents, &mappings, &present);
        let ways = fill::Ways { moved, moved_into, ..ways };
        let file = |resolver: &mut Resolver<'_>| pages_file(resolver, image, origin);
        steps.extend(fill::steps(resolver, &ways, provided, origin, &mut userfault, file));
    }
    for (image, extents) in by_image(&old) {
        // The image is a child's.
        let ways = fill::ways(resolver, &extents, &mappings, &present);
        let file = |resolver: &mut Resolver<'_>| new_pages_file(resolver, image, origin);
        steps.extend(fill::steps(resolver, &ways, provided, origin, &mut userfault, file));
    }
    steps.extend(advise(resolver, &mut advice, libc::MADV_HUGEPAGE));
    steps.extend(guard.allow(resolver));
    for (image, extents) in by_image(&whole) {
        let ways = fill::Ways { read: extents.to_vec(), ..fill::Ways::default() };
        let file = |resolver: &mut Resolver<'_>| pages_file(resolver, image, origin);
        steps.extend(fill::steps(resolver, &ways, provided, origin, &mut userfault, file));
    }
    let mut behind = settling(resolver, shape.as_deref(), mm);
    for (start, end) in space::gone(&old, &mm.pages.extents) {
        let kind = StepKind::Madvise { start, len: end - start, advice: libc::MADV_DONTNEED as u32 };
        behind.push(resolver.add_step(kind, mm.origin, Vec::new()));
    }
    let present = space::ranges(&old);
    let mappings = if late.is_empty() { Vec::new() } else { fill::mappings(&mm.vmas, &[]) };
    if !late.is_empty() {
        behind.extend(guard.forbid(resolver));
    }
    // Another one, of this side of the forks: otherwise all children would be born with the descriptor.
    let mut userfault = None;
    for (image, extents) in by_image(&late) {
        // Opened once more, likewise.
        let ways = fill::ways(resolver, &extents, &mappings, &present);
        let file = |resolver: &mut Resolver<'_>| new_pages_file(resolver, image, origin);
        behind.extend(fill::steps(resolver, &ways, provided, origin, &mut userfault, file));
    }
    behind.extend(guard.allow(resolver));
    // Behind the forks of who is early, too: children have it all the same.
    let shared = fill_shared(resolver, id, userfault);
    behind.extend(shared);
    behind.extend(aio::resolve(resolver, pid, alive));
    if let vdso::Way::Led(led) = &way {
        let kind = StepKind::Poke { pid: pid.0, pieces: led.jumps.clone() };
        steps.push(resolver.add_step(kind, vdso::origin(alive), Vec::new()));
    }
    for vma in protections {
        let kind = StepKind::Mprotect { start: vma.start, len: vma.end - vma.start, prot: vma.prot };
        steps.push(resolver.add_step(kind, vma.origin, Vec::new()));
    }
    for &(start, end) in inherited.as_ref().map_or(&mm.guards, |difference| &difference.guards) {
        // After the pages are in: nothing can be written to a guard (madvise(2)).
        let kind = StepKind::Madvise { start, len: end - start, advice: MADV_GUARD_INSTALL };
        steps.push(resolver.add_step(kind, mm.origin, Vec::new()));
    }
    for vma in dumpless {
        let advice = libc::MADV_DONTDUMP as u32;
        let kind = StepKind::Madvise { start: vma.start, len: vma.end - vma.start, advice };
        steps.push(resolver.add_step(kind, vma.origin, Vec::new()));
    }
    for (vma, bits) in advice {
        for bit in (0..64).filter(|bit| bits >> bit & 1 == 1) {
            let kind = StepKind::Madvise { start: vma.start, len: vma.end - vma.start, advice: bit };
            steps.push(resolver.add_step(kind, vma.origin, Vec::new()));
        }
    }
    if inherited.is_some() && !space::is_laid_out_alike(resolver, id, alive) {
        // The executable is the parent's, and stays: while it is mapped, none can be set.
        let kind = StepKind::SetMm(Box::new(layout(alive)));
        steps.push(resolver.add_step(kind, mm.origin, Vec::new()));
    }
    Memory { setup: steps, late: behind }
}

/// Gives one kind of advice, and takes it from what is to be given.
fn advise(resolver: &mut Resolver<'_>, given: &mut [(&Vma, u64)], which: i32) -> Vec<StepId> {
    let mut steps = Vec::new();
    for (vma, bits) in given.iter_mut().filter(|(_, bits)| bits >> which & 1 == 1) {
        *bits &= !(1 << which);
        let kind = StepKind::Madvise { start: vma.start, len: vma.end - vma.start, advice: which as u32 };
        steps.push(resolver.add_step(kind, vma.origin, Vec::new()));
    }
    steps
}

/// What makes the mappings that a task has at its forks those that it has in the end.
fn settling(resolver: &mut Resolver<'_>, shape: Option<&[Vma]>, mm: &Mm) -> Vec<StepId> {
    let settling = shape.map(|shape| space::settle(shape, &mm.vmas)).unwrap_or_default();
    let unmap = |(start, end): &(u64, u64)| StepKind::Unmap { start: *start, len: end - start };
    let protect =
        |&(start, end, prot): &(u64, u64, u32)| StepKind::Mprotect { start, len: end - start, prot };
    let advise =
        |&(start, end, advice): &(u64, u64, u32)| StepKind::Madvise { start, len: end - start, advice };
    let kinds = settling.unmapped.iter().map(unmap);
    let kinds =
        kinds.chain(settling.protected.iter().map(protect)).chain(settling.advised.iter().map(advise));
    kinds.map(|kind| resolver.add_step(kind, mm.origin, Vec::new())).collect()
}

/// What the kernel keeps of the layout.
fn layout(alive: &Alive) -> MmMap {
    let mm = &alive.mm;
    MmMap {
        start_code: mm.start_code,
        end_code: mm.end_code,
        start_data: mm.start_data,
        end_data: mm.end_data,
        start_brk: mm.start_brk,
        brk: mm.brk,
        start_stack: mm.start_stack,
        arg_start: mm.arg_start,
        arg_end: mm.arg_end,
        env_start: mm.env_start,
        env_end: mm.env_end,
        auxv: mm.auxv.clone(),
    }
}

/// Start and end of the kernel-provided mappings: vvar, its relatives and the vDSO lie together.
fn vdso_range(vmas: &[Vma]) -> Option<(u64, u64)> {
    let mut special = vmas.iter().filter(|vma| matches!(vma.kind, VmaKind::Vvar | VmaKind::Vdso));
    let first = special.next()?;
    Some(special.fold((first.start, first.end), |(start, end), vma| (start.min(vma.start), end.max(vma.end))))
}

/// What makes the kernel's own vDSO.
fn special_steps(way: &vdso::Way) -> Vec<StepKind> {
    match way {
        vdso::Way::None | vdso::Way::Refused => Vec::new(),
        vdso::Way::Running(start) => vec![StepKind::MapVdso { start: *start }],
        vdso::Way::Led(led) => {
            let (start, len) = led.running_code;
            let (write, execute) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC);
            vec![
                StepKind::MapVdso { start: led.place },
                StepKind::Mprotect { start, len, prot: write as u32 },
                StepKind::Poke { pid: led.pid, pieces: vec![(start, led.mark.clone())] },
                StepKind::Mprotect { start, len, prot: execute as u32 },
            ]
        }
    }
}

/// Pages must lie in mappings that can hold them.
fn check_pages(resolver: &mut Resolver<'_>, pid: NsPid, alive: &Alive, provided: Option<(u64, u64)>) {
    let vmas = &alive.mm.vmas;
    for extent in &alive.mm.pages.extents {
        let mut at = extent.start;
        let end = extent.start + extent.len_pages * PAGE;
        while at < end {
            let index = vmas.partition_point(|vma| vma.end <= at);
            let fits = vmas.get(index).filter(|vma| vma.start <= at).filter(|vma| match vma.kind {
                VmaKind::AnonPrivate | VmaKind::FilePrivate { .. } => true,
                VmaKind::Vvar => provided.is_some(),
                VmaKind::Vdso => true,
                VmaKind::Memfd { .. } => vma.flags & libc::MAP_PRIVATE as u32 != 0,
                VmaKind::FileShared { .. }
                | VmaKind::AnonShared { .. }
                | VmaKind::SysV { .. }
                | VmaKind::Vsyscall
                | VmaKind::AioRing
                | VmaKind::Other => false,
            });
            let Some(vma) = fits else {
                let text = format!("page {at:#x} is in no private mapping");
                let origin = Origin::new(Image::Pagemap(pid.0), extent.entry as usize);
                resolver.problems.add(ProblemKind::BadImages, Some(pid), Some(origin), text);
                break;
            };
            at = vma.end;
        }
    }
}

fn has_pages(extents: &[Extent], start: u64, end: u64) -> bool {
    let index = extents.partition_point(|extent| extent.start + extent.len_pages * PAGE <= start);
    extents.get(index).is_some_and(|extent| extent.start < end)
}

/// Where bytes go: address and length.
pub(super) type Piece = (u64, u64);
/// One read: where its bytes go, and where it starts in the image.
pub(super) type Read = (Vec<Piece>, u64);

/// Reads that bring the pages in, but for those of one range: runs of extents that follow one another
/// in the image. An extent may reach into that range from the mappings beside it.
pub(super) fn fills(extents: &[Extent], except: Option<(u64, u64)>) -> Vec<Read> {
    let (from, to) = except.unwrap_or((0, 0));
    let parts = extents.iter().flat_map(|extent| [extent.within(0, from), extent.within(to, u64::MAX)]);
    // Pieces, offset in the image, and their length in all.
    let mut reads: Vec<(Vec<Piece>, u64, u64)> = Vec::new();
    for extent in parts.flatten() {
        let (mut start, mut offset, mut len) = (extent.start, extent.offset_bytes, extent.len_pages * PAGE);
        while len > 0 {
            let now = len.min(MAX_READ);
            match reads.last_mut() {
                Some((pieces, from, total))
                    if *from + *total == offset && pieces.len() < MAX_PIECES && *total + now <= MAX_READ =>
                {
                    *total += now;
                    match pieces.last_mut() {
                        Some((at, size)) if *at + *size == start => *size += now,
                        _ => pieces.push((start, now)),
                    }
                }
                _ => reads.push((vec![(start, now)], offset, now)),
            }
            start += now;
            offset += now;
            len -= now;
        }
    }
    reads.into_iter().map(|(pieces, offset, _)| (pieces, offset)).collect()
}

/// The description of a file that is opened to be mapped or linked as executable: one for each path
/// and access mode in the whole tree.
fn mapped_file(
    resolver: &mut Resolver<'_>,
    pid: NsPid,
    ofd_id: u32,
    access: u32,
    origin: Origin,
) -> Option<OfdId> {
    let model = resolver.model;
    let entry = resolver.ofd_of_id.get(&ofd_id).map(|ofd| &model.ofds[ofd.index()]);
    let Some(entry) = entry else {
        let text = format!("file {ofd_id:#x} is not in files.img");
        resolver.problems.add(ProblemKind::BadImages, Some(pid), Some(origin), text);
        return None;
    };
    if let Some(remap) = ghost::remap_of(resolver, ofd_id) {
        let Some(key) = ghost::key_of(resolver, ofd_id) else {
            ghost::refuse(resolver, entry, remap);
            return None;
        };
        let path = if let OfdKind::Reg(file) = &entry.kind { file.path.as_str() } else { "" };
        return resolver.open_inode(key, path, access, 0, None);
    }
    let OfdKind::Reg(file) = &entry.kind else {
        let text = format!("{}: cannot be mapped yet", files::name(entry));
        resolver.problems.unsupported(Some(pid), Some(entry.origin), text);
        return None;
    };
    let key = (file.path.as_str(), access);
    if let Some(ofd) = resolver.mapped_files.get(&key) {
        return Some(*ofd);
    }
    if file.is_external {
        resolver.problems.unsupported(
            None,
            Some(entry.origin),
            format!("{}: external files (--external) are not restored yet", files::name(entry)),
        );
    }
    files::judge(resolver, file, entry.origin);
    let ofd = resolver.new_ofd();
    let kind = ResourceKind::File {
        path: file.path.clone(),
        flags: access,
        position: 0,
        purpose: FilePurpose::Mapping,
    };
    resolver.add_resource(kind, entry.origin, vec![Some(ofd)]);
    resolver.mapped_files.insert(key, ofd);
    Some(ofd)
}

fn pages_file(resolver: &mut Resolver<'_>, image: PagesImage, origin: Origin) -> OfdId {
    if let Some(ofd) = resolver.pages_files.get(&image) {
        return *ofd;
    }
    let ofd = new_pages_file(resolver, image, origin);
    resolver.pages_files.insert(image, ofd);
    ofd
}

/// The same, opened for one task alone.
pub(super) fn new_pages_file(resolver: &mut Resolver<'_>, image: PagesImage, origin: Origin) -> OfdId {
    let ofd = resolver.new_ofd();
    let path = resolver.model.path(Image::Pages(image)).to_string_lossy().into_owned();
    let kind =
        ResourceKind::File { path, flags: libc::O_RDONLY as u32, position: 0, purpose: FilePurpose::Pages };
    resolver.add_resource(kind, origin, vec![Some(ofd)]);
    ofd
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Extents as (address, pages), one behind the other in the image; reads as (pieces, offset), all
    /// in pages.
    fn check(extents: &[(u64, u64)], except: Option<(u64, u64)>, expected: &[(&[(u64, u64)], u64)]) {
        let (image, mut offset_bytes) = (PagesImage::own(1), 0);
        let extents: Vec<Extent> = extents
            .iter()
            .map(|&(start, len_pages)| {
                let extent = Extent { start: start * PAGE, len_pages, image, offset_bytes, entry: 0 };
                offset_bytes += len_pages * PAGE;
                extent
            })
            .collect();
        let except = except.map(|(start, end)| (start * PAGE, end * PAGE));
        let found: Vec<(Vec<(u64, u64)>, u64)> = fills(&extents, except)
            .into_iter()
            .map(|(pieces, offset)| {
                (pieces.iter().map(|(at, len)| (at / PAGE, len / PAGE)).collect(), offset / PAGE)
            })
            .collect();
        let expected: Vec<(Vec<(u64, u64)>, u64)> =
            expected.iter().map(|(pieces, offset)| (pieces.to_vec(), *offset)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn runs_of_the_image_are_one_read() {
        check(&[(10, 2), (12, 1), (20, 3)], None, &[(&[(10, 3), (20, 3)], 0)]);
        check(&[], None, &[]);
    }

    #[test]
    fn what_lies_beside_the_vdso_is_filled() {
        check(&[(10, 2), (20, 2), (30, 1)], Some((20, 22)), &[(&[(10, 2)], 0), (&[(30, 1)], 4)]);
        // The pages of the next mapping are in one extent with those of the vDSO.
        check(&[(10, 2), (20, 5)], Some((20, 22)), &[(&[(10, 2)], 0), (&[(22, 3)], 4)]);
        check(&[(18, 6)], Some((20, 22)), &[(&[(18, 2)], 0), (&[(22, 2)], 4)]);
        check(&[(18, 3)], Some((20, 22)), &[(&[(18, 2)], 0)]);
    }
}
