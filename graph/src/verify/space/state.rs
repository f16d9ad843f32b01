//! An address space: what is mapped where, and which pages have been filled from which file.
//!
//! # Sources
//! `mmap(2)`, `mremap(2)`, `mprotect(2)`, `madvise(2)`, `fork(2)`; mm/mmap.c (`do_mmap`), mm/mremap.c,
//! mm/madvise.c (`madvise_vma_behavior`), kernel/fork.c (`dup_mmap`), mm/shmem.c (`shmem_zero_setup`).

use std::collections::BTreeMap;

use super::super::before::At;
use super::super::table::Desc;
use super::intervals::{Cut, Intervals};
use super::ring::{Floating, Ring};
use super::stage::Stages;

pub(super) const MAP_SHARED: u32 = 1;
pub(super) const MAP_PRIVATE: u32 = 2;
pub(super) const MAP_SHARED_VALIDATE: u32 = 3;
/// Since Linux 6.11.
pub(super) const MAP_DROPPABLE: u32 = 8;
pub(super) const MAP_TYPE: u32 = 0xf;
pub(super) const MAP_FIXED: u32 = 0x10;
pub(super) const MAP_ANONYMOUS: u32 = 0x20;
pub(super) const MAP_GROWSDOWN: u32 = 0x100;
const MAP_DENYWRITE: u32 = 0x800;
const MAP_EXECUTABLE: u32 = 0x1000;
pub(super) const MAP_LOCKED: u32 = 0x2000;
pub(super) const MAP_NORESERVE: u32 = 0x4000;
const MAP_POPULATE: u32 = 0x8000;
const MAP_NONBLOCK: u32 = 0x10000;
const MAP_STACK: u32 = 0x20000;
pub(super) const MAP_HUGETLB: u32 = 0x4_0000;
/// `MAP_HUGETLB`, and behind it the logarithm of the pages' size (uapi/asm-generic/hugetlb_encode.h).
pub(in super::super) const HUGE: u32 = MAP_HUGETLB | 0x3f << 26;
pub(super) const MAP_FIXED_NOREPLACE: u32 = 0x10_0000;
/// What a mapping does not keep: what it is, where it goes, and what the kernel ignores.
const NOT_KEPT: u32 = MAP_TYPE
    | MAP_FIXED
    | MAP_FIXED_NOREPLACE
    | MAP_ANONYMOUS
    | MAP_DENYWRITE
    | MAP_EXECUTABLE
    | MAP_POPULATE
    | MAP_NONBLOCK
    | MAP_STACK;
/// What it keeps, as far as the model goes.
pub(super) const KEPT: u32 = MAP_GROWSDOWN | MAP_LOCKED | MAP_NORESERVE | HUGE;

pub(super) const PAGE: u64 = 4096;

pub(super) const PROT_READ: u32 = 1;
pub(super) const PROT_WRITE: u32 = 2;
pub(super) const PROT_EXEC: u32 = 4;
pub(super) const PROT_ALL: u32 = 7;

const MADV_NORMAL: u32 = 0;
pub(super) const MADV_RANDOM: u32 = 1;
pub(super) const MADV_SEQUENTIAL: u32 = 2;
const MADV_WILLNEED: u32 = 3;
pub(super) const MADV_DONTNEED: u32 = 4;
pub(super) const MADV_DONTFORK: u32 = 10;
const MADV_DOFORK: u32 = 11;
pub(super) const MADV_MERGEABLE: u32 = 12;
const MADV_UNMERGEABLE: u32 = 13;
pub(super) const MADV_HUGEPAGE: u32 = 14;
pub(super) const MADV_NOHUGEPAGE: u32 = 15;
pub(super) const MADV_DONTDUMP: u32 = 16;
pub(super) const MADV_DODUMP: u32 = 17;
pub(super) const MADV_WIPEONFORK: u32 = 18;
pub(super) const MADV_KEEPONFORK: u32 = 19;
pub(super) const MADV_GUARD_INSTALL: u32 = 102;
pub(super) const MADV_GUARD_REMOVE: u32 = 103;

/// What `mmap(2)` keeps of its flags in the mapping: what it cannot be told from otherwise.
pub(super) fn kept(flags: u32) -> u32 {
    flags & !NOT_KEPT
}

/// The logarithm of the size of huge pages.
pub(super) fn huge_shift(flags: u32) -> u32 {
    flags >> 26
}

pub(super) fn bit(advice: u32) -> u64 {
    1u64.checked_shl(advice).unwrap_or(0)
}

/// What advice is kept after one more: bit N stands for advice N. `None`: what it does is not modelled.
pub(super) fn advised(before: u64, advice: u32) -> Option<u64> {
    let (set, cleared) = match advice {
        MADV_NORMAL => (0, bit(MADV_RANDOM) | bit(MADV_SEQUENTIAL)),
        MADV_RANDOM => (bit(MADV_RANDOM), bit(MADV_SEQUENTIAL)),
        MADV_SEQUENTIAL => (bit(MADV_SEQUENTIAL), bit(MADV_RANDOM)),
        MADV_WILLNEED => (0, 0),
        MADV_HUGEPAGE => (bit(MADV_HUGEPAGE), bit(MADV_NOHUGEPAGE)),
        MADV_NOHUGEPAGE => (bit(MADV_NOHUGEPAGE), bit(MADV_HUGEPAGE)),
        MADV_DONTFORK | MADV_MERGEABLE | MADV_DONTDUMP | MADV_WIPEONFORK => (bit(advice), 0),
        MADV_DOFORK | MADV_UNMERGEABLE | MADV_DODUMP | MADV_KEEPONFORK => (0, bit(advice - 1)),
        _ => return None,
    };
    Some(before & !cleared | set)
}

/// What a mapping shows.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Shows {
    /// Private memory.
    Anonymous,
    /// Private memory that the kernel may drop.
    Droppable,
    /// Shared memory: which, and from where on.
    Segment { segment: usize, offset: u64 },
    /// A System V segment that is attached.
    System {
        segment: usize,
        offset: u64,
        /// Now or after `mprotect(2)`.
        may_write: bool,
    },
    /// A file.
    File {
        /// The description that was mapped.
        desc: Desc,
        /// From where on.
        offset: u64,
        is_shared: bool,
        /// A shared one may be written, now or after `mprotect(2)`.
        may_write: bool,
    },
    /// The kernel's own: the vDSO and its data.
    Kernel,
    /// The ring of an AIO context, from an offset on.
    Ring { offset: u64 },
}

/// A mapping.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Mapping {
    pub(super) shows: Shows,
    pub(super) prot: u32,
    /// Those of [`KEPT`].
    pub(super) flags: u32,
    /// Bit N stands for advice N.
    pub(super) advice: u64,
}

impl Mapping {
    pub(super) fn is_private(&self) -> bool {
        match self.shows {
            Shows::Anonymous | Shows::Droppable => true,
            Shows::File { is_shared, .. } => !is_shared,
            Shows::Segment { .. } | Shows::System { .. } | Shows::Kernel | Shows::Ring { .. } => false,
        }
    }

    /// What its ends, and those of its parts, are multiples of.
    pub(super) fn align(&self) -> u64 {
        if self.flags & MAP_HUGETLB == 0 { PAGE } else { 1 << huge_shift(self.flags) }
    }

    pub(super) fn is_private_or_kernel(&self) -> bool {
        self.is_private() || matches!(self.shows, Shows::Kernel)
    }

    /// Whether `next` is as this one is `by` bytes further on.
    pub(super) fn continues(&self, by: u64, next: &Mapping) -> bool {
        let kept = |mapping: &Mapping| (mapping.prot, mapping.flags, mapping.advice);
        let shows = match (self.rest(by).shows, next.shows) {
            (Shows::Anonymous, Shows::Anonymous) | (Shows::Droppable, Shows::Droppable) => true,
            (Shows::Segment { segment: a, offset: b }, Shows::Segment { segment: c, offset: d }) => {
                (a, b) == (c, d)
            }
            (
                Shows::System { segment: a, offset: b, may_write: c },
                Shows::System { segment: d, offset: e, may_write: f },
            ) => (a, b, c) == (d, e, f),
            (
                Shows::File { desc: a, offset: b, is_shared: c, .. },
                Shows::File { desc: d, offset: e, is_shared: f, .. },
            ) => (a, b, c) == (d, e, f),
            (
                Shows::Anonymous
                | Shows::Droppable
                | Shows::Segment { .. }
                | Shows::System { .. }
                | Shows::File { .. }
                | Shows::Kernel
                | Shows::Ring { .. },
                _,
            ) => false,
        };
        shows && kept(self) == kept(next)
    }
}

impl Cut for Mapping {
    fn rest(&self, by: u64) -> Mapping {
        let mut rest = *self;
        match &mut rest.shows {
            Shows::Segment { offset, .. }
            | Shows::System { offset, .. }
            | Shows::File { offset, .. }
            | Shows::Ring { offset } => {
                *offset = offset.saturating_add(by);
            }
            Shows::Anonymous | Shows::Droppable | Shows::Kernel => {}
        }
        rest
    }

    fn changes_at_fork(&self) -> bool {
        self.advice & (bit(MADV_DONTFORK) | bit(MADV_WIPEONFORK)) != 0 || self.flags & MAP_LOCKED != 0
    }
}

/// Bytes that were read from a file.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Fill {
    /// The file, as an object.
    pub(super) object: usize,
    /// From where on in it.
    pub(super) from: u64,
    /// By which record.
    pub(super) at: At,
}

impl Cut for Fill {
    fn rest(&self, by: u64) -> Fill {
        Fill { from: self.from.saturating_add(by), ..*self }
    }
}

/// A file that is mapped to be copied from, not read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copied {
    /// The file, as an object.
    pub(super) object: usize,
    /// From where on in it.
    pub(super) from: u64,
}

impl Cut for Copied {
    fn rest(&self, by: u64) -> Copied {
        Copied { from: self.from.saturating_add(by), ..*self }
    }
}

/// A userfaultfd, as an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Registered(pub(super) usize);

impl Cut for Registered {
    fn rest(&self, _: u64) -> Registered {
        *self
    }
}

/// Shared memory without a name, or with a System V id.
#[derive(Debug, Clone)]
pub(in super::super) struct Segment {
    pub(super) len: u64,
    /// Those of [`HUGE`].
    pub(super) huge: u32,
    /// Its System V id, if it has one.
    pub(super) system: Option<u32>,
    pub(super) made: At,
    /// What has been read into it, by offset.
    pub(super) fills: Intervals<Fill>,
}

/// Where shared memory is kept for all below its maker, until the tapes go.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Carrier {
    pub(super) end: u64,
    pub(super) segment: usize,
    pub(super) mapping: Mapping,
    pub(super) made: At,
}

/// An address space, but for the tapes and the carriers behind them.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Space {
    /// Where the launcher may have something.
    pub(super) unknown: Intervals<()>,
    pub(super) mappings: Intervals<Mapping>,
    /// What has been read into private mappings.
    pub(super) fills: Intervals<Fill>,
    /// Under `MADV_GUARD_INSTALL`.
    pub(super) guards: Intervals<()>,
    /// Files that are mapped among the carriers.
    pub(super) sources: Intervals<Copied>,
    /// Memory there that pages are moved from.
    pub(super) stages: Stages,
    /// What is registered with a userfaultfd: with which.
    pub(super) registered: Intervals<Registered>,
    /// AIO contexts, by the addresses of their rings.
    pub(super) rings: BTreeMap<u64, Ring>,
    /// A ring that is made, and not yet where it belongs.
    pub(super) floating: Option<Floating>,
    /// The last record that had to do with it, but for copies.
    pub(super) last: Option<At>,
    /// The last copy by each task since.
    pub(super) copies: BTreeMap<usize, At>,
    /// This one as it was at the last fork, and what the child got, where that was not the same.
    forked: Option<Box<[Space; 2]>>,
}

impl Space {
    /// That of a child that is forked now. Costs as much as there are mappings of which a fork makes
    /// something else, unless nothing has changed since the last fork: a task that changes its own between
    /// forks, and keeps many such mappings, pays for them at each.
    pub(in super::super) fn child(&mut self) -> Space {
        let now = Space {
            unknown: self.unknown.clone(),
            mappings: self.mappings.clone(),
            fills: self.fills.clone(),
            guards: self.guards.clone(),
            // Those that are mapped at a fork are refused.
            sources: Intervals::default(),
            stages: Stages::default(),
            registered: Intervals::default(),
            // So is a fork of who has any.
            rings: BTreeMap::new(),
            floating: None,
            last: None,
            copies: BTreeMap::new(),
            forked: None,
        };
        if let Some(forked) = &self.forked
            && forked[0].is_same(&now)
        {
            return forked[1].clone();
        }
        let special = self.mappings.changed_at_fork();
        if special.is_empty() {
            return now;
        }
        let mut child = now.clone();
        for (start, end, mapping) in special {
            if mapping.advice & bit(MADV_DONTFORK) != 0 {
                child.unmap(start, end);
            } else if mapping.advice & bit(MADV_WIPEONFORK) != 0 {
                child.fills.clear(start, end);
                child.guards.clear(start, end);
            }
            if mapping.flags & MAP_LOCKED != 0 {
                child.mappings.change(start, end, |mapping| mapping.flags &= !MAP_LOCKED);
            }
        }
        self.forked = Some(Box::new([now, child.clone()]));
        child
    }

    fn is_same(&self, other: &Space) -> bool {
        self.unknown.is_same(&other.unknown)
            && self.mappings.is_same(&other.mappings)
            && self.fills.is_same(&other.fills)
            && self.guards.is_same(&other.guards)
    }

    /// Takes away what is there, known or not.
    pub(super) fn unmap(&mut self, start: u64, end: u64) {
        self.unknown.clear(start, end);
        self.mappings.clear(start, end);
        self.fills.clear(start, end);
        self.guards.clear(start, end);
        self.registered.clear(start, end);
    }

    /// Whether certainly nothing is mapped between two addresses.
    pub(super) fn is_free(&self, start: u64, end: u64) -> bool {
        self.mappings.is_free(start, end) && self.unknown.is_free(start, end)
    }

    pub(super) fn map(&mut self, start: u64, end: u64, mapping: Mapping) {
        self.unmap(start, end);
        self.map_free(start, end, mapping);
    }

    /// As [`Space::map`], where nothing is: bytes, guards and registrations are only of what is mapped.
    pub(super) fn map_free(&mut self, start: u64, end: u64, mapping: Mapping) {
        self.mappings.insert_free(start, end, mapping);
    }

    /// Moves what is there, which is `old_len` long, and makes it shorter or longer.
    pub(super) fn relocate(&mut self, from: u64, old_len: u64, to: u64, new_len: u64) {
        let end = from.saturating_add(old_len.min(new_len));
        let mappings = self.mappings.take(from, end);
        let fills = self.fills.take(from, end);
        let guards = self.guards.take(from, end);
        self.unmap(from, from.saturating_add(old_len));
        self.unmap(to, to.saturating_add(new_len));
        let moved = |at: u64| at - from + to;
        for (start, end, mapping) in &mappings {
            self.mappings.insert(moved(*start), moved(*end), *mapping);
        }
        for (start, end, fill) in fills {
            self.fills.insert(moved(start), moved(end), fill);
        }
        for (start, end, ()) in guards {
            self.guards.insert(moved(start), moved(end), ());
        }
        if let Some((start, end, last)) = mappings.last()
            && new_len > old_len
        {
            self.mappings.insert(moved(*end), to.saturating_add(new_len), last.rest(end - start));
        }
    }
}
