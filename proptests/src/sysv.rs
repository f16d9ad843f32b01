//! System V objects and rings of asynchronous I/O on top of a tree of tasks.
//!
//! Segments are attached by several tasks, by some in several places, in whole or in part, to be written or to be read only;
//! some are marked for removal or locked, some are nobody's, some were made by another than who owns them. Queues hold
//! messages, some more of them than they may by now. Rings are where other tasks of the tree have other mappings, so that a child
//! that is born with its parent's memory has something else in that place.
//!
//! Example: a segment of two pages with attachments (0, 0, 2, to be written) and (1, 1, 1, to be read) is attached by the root as a
//! whole, and by its child from its second page on.

use proptest::prelude::*;
use regrow::host::possible_processors;
use regrow::image::ipc::{SHM_DEST, SHM_LOCKED, SysvPerm};
use regrow::synth::ipc::{Queue, Semaphores, SharedSegment};
use regrow::synth::ring::{least_pages, most_pending};
use regrow::synth::{Attachment, Forest, Ipc, PAGE, Ring, Segment};

use crate::descriptions::pages;

/// `MSGMNB` (uapi/linux/msg.h).
const NEW_QUEUE_BYTES: u32 = 16_384;

/// Key, owner and maker, permissions, and what of its id is beside its place.
type PermGene = (u32, [u32; 4], u32, u32);

#[derive(Debug, Clone)]
struct SegmentGene {
    perm: PermGene,
    size_bytes: u64,
    filled: u64,
    seed: u64,
    is_marked: bool,
    is_locked: bool,
    /// Task, offset and length in pages, to be read only.
    attached: Vec<(u16, u64, u64, bool)>,
}

#[derive(Debug, Clone)]
struct QueueGene {
    perm: PermGene,
    most_bytes: u32,
    messages: Vec<(u64, Vec<u8>)>,
}

/// A namespace and what is in it.
#[derive(Debug, Clone)]
pub(crate) struct IpcGenes {
    segments: Vec<SegmentGene>,
    queues: Vec<QueueGene>,
    semaphores: Vec<(PermGene, Vec<u16>)>,
    rmid_forced: bool,
    msgmax: Option<u32>,
    shmmni: Option<u32>,
}

/// Task, pages beyond the fewest, head, events that nobody has read, seed.
pub(crate) type RingGene = (u16, u64, u32, u32, u64);

/// A forest with a namespace of its own, or, more often, one without.
pub(crate) fn namespaces() -> impl Strategy<Value = Option<IpcGenes>> {
    let id = prop_oneof![3 => Just(0u32), 1 => 1u32..70_000];
    let key = prop_oneof![1 => Just(0u32), 3 => any::<u32>()];
    let perm = (key, prop::array::uniform4(id), 0u32..0o1000, 0u32..60_000);
    let attachment = (any::<u16>(), 0u64..6, 1u64..7, any::<bool>());
    let segment = (
        perm.clone(),
        1u64..6 * PAGE,
        (any::<u64>(), any::<u64>()),
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.2),
        prop::collection::vec(attachment, 0..6),
    );
    let segment = segment.prop_map(|(perm, size_bytes, (filled, seed), is_marked, is_locked, attached)| {
        SegmentGene { perm, size_bytes, filled, seed, is_marked, is_locked, attached }
    });
    let message = (1u64..1 << 40, prop::collection::vec(any::<u8>(), 0..40));
    let most = prop_oneof![1 => 1u32..60, 2 => Just(NEW_QUEUE_BYTES), 1 => NEW_QUEUE_BYTES..40_000];
    let queue = (perm.clone(), most, prop::collection::vec(message, 0..5))
        .prop_map(|(perm, most_bytes, messages)| QueueGene { perm, most_bytes, messages });
    let set = (perm, prop::collection::vec(0u16..=32_767, 1..5));
    let genes = (
        prop::collection::vec(segment, 0..4),
        prop::collection::vec(queue, 0..3),
        prop::collection::vec(set, 0..3),
        prop::bool::weighted(0.2),
        prop::option::weighted(0.2, 1u32..8192),
        prop::option::weighted(0.3, prop_oneof![2 => 1u32..4, 1 => 4u32..4096]),
    )
        .prop_map(|(segments, queues, semaphores, rmid_forced, msgmax, shmmni)| IpcGenes {
            segments,
            queues,
            semaphores,
            rmid_forced,
            msgmax,
            shmmni,
        });
    prop::option::weighted(0.4, genes)
}

pub(crate) fn rings() -> impl Strategy<Value = Vec<RingGene>> {
    let pending = prop_oneof![1 => Just(0u32), 2 => any::<u32>()];
    let head = prop_oneof![1 => Just(0u32), 2 => any::<u32>()];
    let ring = (any::<u16>(), 0u64..2, head, pending, any::<u64>());
    prop_oneof![3 => Just(Vec::new()), 2 => prop::collection::vec(ring, 1..4)]
}

/// Who may have a namespace of its own, and make objects for others: root with all that it has from the start.
fn may_have_one() -> bool {
    const SYS_ADMIN: u64 = 1 << 21;
    let own = crate::images::own();
    let is_root = |ids: regrow::host::Ids| ids.effective == 0;
    own.uids.is_some_and(is_root) && own.gids.is_some_and(is_root) && own.caps.effective & SYS_ADMIN != 0
}

/// Whether a queue may hold more than new ones (`kernel.msgmnb`).
fn may_exceed() -> bool {
    const SYS_RESOURCE: u64 = 1 << 24;
    crate::images::own().caps.effective & SYS_RESOURCE != 0
}

/// One after another, and keys once.
struct Perms {
    keys: Vec<u32>,
}

impl Perms {
    fn make(&mut self, (key, ids, mode, upper): PermGene) -> SysvPerm {
        let key = if self.keys.contains(&key) { 0 } else { key };
        // The first of a kind is in the first place, where a program's first one is. Numbers of other shared memory are
        // beyond that, and few.
        let place = match self.keys.len() as u32 {
            0 => 0,
            other => 100 + other,
        };
        self.keys.push(key);
        let [uid, gid, cuid, cgid] = ids;
        SysvPerm { id: place | upper << 15, key, uid, gid, cuid, cgid, mode }
    }
}

/// Gives the forest its namespace. `task` says who a gene is about, `place` where something may be mapped.
pub(crate) fn add_ipc(
    forest: &mut Forest,
    genes: Option<&IpcGenes>,
    task: impl Fn(u16) -> usize,
    place: &mut impl FnMut(usize, u64, u64) -> u64,
) {
    let Some(genes) = genes.filter(|_| may_have_one()) else { return };
    let mut ipc = Ipc { msgmax: genes.msgmax, shmmni: genes.shmmni, ..Ipc::default() };
    let mut perms = Perms { keys: Vec::new() };
    for (segment, gene) in genes.segments.iter().enumerate() {
        let len_pages = gene.size_bytes.div_ceil(PAGE);
        for &(who, offset, len, read_only) in &gene.attached {
            let (task, offset_pages) = (task(who), offset % len_pages);
            let len_pages = len.min(len_pages - offset_pages);
            let start = place(task, 1, len_pages);
            let attachment = Attachment { segment, start, offset_pages, len_pages, read_only };
            forest.tasks[task].attached.push(attachment);
        }
        let mut perm = perms.make(gene.perm);
        if gene.is_locked {
            perm.mode |= SHM_LOCKED;
        }
        if gene.is_marked && !gene.attached.is_empty() {
            (perm.mode, perm.key) = (perm.mode | SHM_DEST, 0);
        }
        let memory = Segment { len_pages, pages: pages(len_pages, gene.filled, gene.seed) };
        ipc.segments.push(SharedSegment { perm, size_bytes: gene.size_bytes, memory });
    }
    // Where nobody keeps them, segments go with their first attachment, and cannot be filled.
    let is_kept = |(gene, made): (&SegmentGene, &SharedSegment)| {
        !gene.attached.is_empty() || made.memory.pages.is_empty()
    };
    ipc.rmid_forced = genes.rmid_forced && genes.segments.iter().zip(&ipc.segments).all(is_kept);
    let mut perms = Perms { keys: Vec::new() };
    for QueueGene { perm, most_bytes, messages } in &genes.queues {
        let (perm, messages) = (perms.make(*perm), messages.clone());
        let most_bytes = if may_exceed() { *most_bytes } else { (*most_bytes).min(NEW_QUEUE_BYTES) };
        ipc.queues.push(Queue { perm, most_bytes, messages });
    }
    let mut perms = Perms { keys: Vec::new() };
    for (perm, values) in &genes.semaphores {
        ipc.semaphores.push(Semaphores { perm: perms.make(*perm), values: values.clone() });
    }
    forest.ipc = Some(ipc);
}

/// Gives tasks their rings, as long as this kernel makes them.
pub(crate) fn add_rings(
    forest: &mut Forest,
    genes: &[RingGene],
    task: impl Fn(u16) -> usize,
    place: &mut impl FnMut(usize, u64, u64) -> u64,
) {
    let least = least_pages(possible_processors().unwrap_or(1));
    for &(who, more, head, pending, seed) in genes {
        let (task, len_pages) = (task(who), least + more);
        // Events are 32 bytes, and the head is as long as one.
        let events = (len_pages * PAGE / 32 - 1) as u32;
        forest.tasks[task].rings.push(Ring {
            start: place(task, 1, len_pages),
            len_pages,
            head: head % events,
            pending: pending % (most_pending(len_pages) + 1),
            seed,
        });
    }
}
