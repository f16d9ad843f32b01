//! Where tapes and carriers can be: one address range that is a hole in every task's layout and in
//! the launcher's.

use super::problem::ProblemKind;
use super::recipe::{PagesFrom, StepKind};
use super::transparent::BLOCK;
use super::{Payloads, Resolver};

/// The window: the region for tapes at its start, carriers of shared memory behind, then what pages are copied from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First address.
    pub base: u64,
    /// Length of the part kept for the region.
    pub region_len: u64,
    /// How far from the base files are mapped to be copied from.
    pub sources: u64,
    /// Length of all of it.
    pub len: u64,
}

/// Below this nothing is placed: programs without PIE, and 32-bit code, live there.
const LOWEST: u64 = 4 << 30;
/// The end of user space on x86-64 with four page table levels (Documentation/arch/x86/x86_64/mm.rst).
pub(crate) const TASK_SIZE: u64 = 0x7fff_ffff_f000;
const ALIGN: u64 = 2 << 20;
/// At least this much is copied by one call.
const COPY_MAX: u64 = 1 << 30;

/// Finds a window that is large enough, in the lowest hole that is.
pub(super) fn find(resolver: &mut Resolver<'_>, payloads: &Payloads) -> Option<Window> {
    let region_len = region_bound(resolver, payloads).next_multiple_of(ALIGN);
    let (carriers, align) = resolver.carriers_end;
    // Behind them a task maps the image that it copies from.
    let copied =
        resolver.recipes.steps.iter().filter_map(|step| {
            if let StepKind::Copy(copying) = &step.kind { Some(copying.len) } else { None }
        });
    // The window starts at a multiple of ALIGN; carriers of larger pages may start later.
    let sources = (region_len + carriers + align.saturating_sub(ALIGN)).next_multiple_of(ALIGN);
    let len = (sources + copied.max().unwrap_or(0)).next_multiple_of(ALIGN);
    let in_use = resolver.facts.address_space.in_use.iter().chain(&resolver.placed_vdsos);
    let mut taken: Vec<(u64, u64)> = in_use.copied().collect();
    for alive in resolver.model.tasks.iter().filter_map(|task| task.alive()) {
        let mut last: Option<(u64, u64)> = None;
        for vma in &alive.mm.vmas {
            match &mut last {
                // Nothing fits between the two, so they are as good as one.
                Some((_, end)) if vma.start >= *end && vma.start - *end < len => *end = vma.end,
                Some(_) | None => taken.extend(last.replace((vma.start, vma.end))),
            }
        }
        taken.extend(last);
    }
    taken.sort_unstable();
    let mut from = LOWEST;
    for (start, end) in taken.into_iter().chain([(TASK_SIZE, TASK_SIZE)]) {
        // A hole's worth of distance to what lies above: a stack there may grow while we restore.
        if start >= from && start - from >= len + ALIGN {
            return Some(Window { base: from, region_len, sources, len });
        }
        from = from.max(end.next_multiple_of(ALIGN).saturating_add(ALIGN));
    }
    resolver.problems.add(
        ProblemKind::Lacking,
        None,
        None,
        format!("no range of {len} bytes is free in the address spaces of all tasks at once"),
    );
    None
}

/// More bytes than the region can take: records, buffers and payloads of every task.
fn region_bound(resolver: &Resolver<'_>, payloads: &Payloads) -> u64 {
    let payload: usize = payloads
        .pipes
        .iter()
        .chain(&payloads.fifos)
        .chain(&payloads.packets)
        .map(|data| data.len() + 512)
        .sum();
    let steps = resolver.forest.steps.len() as u64;
    let slots: usize = resolver.forest.tasks.iter().map(|task| task.table.len()).sum();
    let pieces: u64 = resolver
        .recipes
        .steps
        .iter()
        .map(|step| match &step.kind {
            super::recipe::StepKind::Fill { pieces, .. } => pieces.len() as u64,
            // A record and a structure each; there are more parts than pieces where there are guests.
            super::recipe::StepKind::Copy(copying) => {
                let parts = copying.pieces.len() + 2 * copying.mappings.len() + 4 * copying.guests.len();
                match copying.from {
                    PagesFrom::Image { .. } => parts as u64 * 8,
                    // A read each, too, and one of what is missing behind them or before the first of a block, and a call that
                    // drops it; and the calls by which blocks are parted.
                    PagesFrom::Stage => parts as u64 * 32 + copying.len / BLOCK * 32,
                }
            }
            // A record for 64 events or fewer, two where they are read, and a list of requests.
            super::recipe::StepKind::Ring(ring) => {
                u64::from(ring.read) / 8 + u64::from(ring.pending) / 16 + 128
            }
            // A record, a `struct sock_fprog`, and the program.
            super::recipe::StepKind::SeccompFilters(filters) => {
                filters.iter().map(|filter| 8 + filter.program.len() as u64 / 16).sum()
            }
            _ => 0,
        })
        .sum();
    let nameless: u64 = resolver
        .recipes
        .resources
        .iter()
        .map(|resource| match &resource.kind {
            super::recipe::ResourceKind::Nameless(recipe) => {
                let pieces: u64 = recipe
                    .inodes
                    .iter()
                    .flat_map(|inode| &inode.contents)
                    .map(|content| content.pieces.iter().map(|piece| 1 + piece.len / COPY_MAX).sum::<u64>())
                    .sum();
                pieces * 256
                    + (recipe.scaffold.len() + recipe.inodes.len() + recipe.opens.len()) as u64 * 8192
            }
            // A variable, the object and its owner, and each message.
            super::recipe::ResourceKind::Ipc(recipe) => {
                let objects = recipe.segments.len() + recipe.queues.len() + recipe.semaphores.len();
                let messages = recipe.queues.iter().flat_map(|queue| &queue.messages);
                let values = recipe.semaphores.iter().map(|set| 2 * set.values.len() as u64);
                objects as u64 * 2048
                    + messages.map(|(_, bytes)| 512 + bytes.len() as u64).sum::<u64>()
                    + values.sum::<u64>()
            }
            _ => 0,
        })
        .sum();
    (4 << 20)
        + nameless
        + payload as u64
        + steps * 4096
        + pieces * 16
        + slots as u64 * 1024
        + resolver.forest.tasks.len() as u64 * 16384
        + resolver.forest.resources.len() as u64 * 8192
}
