//! Address spaces: every record that maps, unmaps, protects, advises or fills, on a model of them.
//!
//! The root starts with whatever its launcher had, which is *unknown* until it is unmapped; a child
//! starts with what its forker had at the fork. Shared memory is one thing, however many see it. What
//! comes out is compared with the images in `compare`.
//!
//! | module | holds |
//! |---|---|
//! | `state` | one address space, and what calls do to it |
//! | `intervals` | ranges of addresses with values |
//! | `expected` | what the images say |
//! | `huge` | huge pages, and memory that is opened by a mapping |
//! | `ring` | rings of asynchronous I/O |
//! | `userfault` | pages that are copied or moved into place |
//! | `stage` | memory that they are moved from |
//! | `compare` | the end against the images |
//!
//! # Sources
//! `mmap(2)`, `mremap(2)`, `mprotect(2)`, `madvise(2)`, Documentation/arch/x86/x86_64/mm.rst.

mod compare;
mod expected;
mod huge;
mod intervals;
mod ring;
mod stage;
mod state;
#[cfg(test)]
mod tests;
mod userfault;

pub(super) use compare::Seen;
pub use expected::{
    Alike, ExpectedMapping, ExpectedPages, ExpectedSegment, ExpectedSpace, PageExtent, Shown,
};
pub(super) use huge::{MFD_HUGE, huge_memfd, is_told};
pub(super) use state::{Carrier, HUGE, Segment, Space};

use intervals::Intervals;
use smallvec::SmallVec;
use state::{
    Fill, KEPT, MADV_DODUMP, MADV_DONTDUMP, MADV_DONTFORK, MADV_DONTNEED, MADV_GUARD_INSTALL,
    MADV_GUARD_REMOVE, MADV_KEEPONFORK, MADV_MERGEABLE, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WIPEONFORK,
    MAP_ANONYMOUS, MAP_DROPPABLE, MAP_FIXED_NOREPLACE, MAP_GROWSDOWN, MAP_HUGETLB, MAP_LOCKED, MAP_NORESERVE,
    MAP_PRIVATE, MAP_SHARED, MAP_SHARED_VALIDATE, MAP_TYPE, Mapping, PAGE, PROT_ALL, PROT_EXEC, PROT_READ,
    PROT_WRITE, Shows, advised, bit, huge_shift, kept,
};

use super::attribute::value::Value;
use super::before::At;
use super::effect::MemoryEffect;
use super::expected::InodeKind;
use super::object::{O_ACCMODE, O_PATH, O_RDWR, O_WRONLY, ObjectKind};
use super::outcome::Wrong;
use super::run::Run;
use super::vdso::replaced;
use crate::ids::Fd;

/// F_SEAL_WRITE, F_SEAL_FUTURE_WRITE.
const SEALS_WRITE: u32 = 0x18;
/// Behind the last address of user space (arch/x86, `TASK_SIZE_MAX` with four levels of pages).
const USER_END: u64 = 0x7fff_ffff_f000;
/// `MREMAP_MAYMOVE | MREMAP_FIXED`.
const MREMAP_TO: u32 = 3;

/// What is mapped somewhere: first address, the one behind the last, and the mapping. Mostly it is one.
type Mapped = SmallVec<[(u64, u64, Mapping); 2]>;

impl Run<'_> {
    /// Whether a range lies in user space and clear of the tapes.
    pub(super) fn check_range(&self, call: &'static str, at: u64, len: u64, align: u64) -> Result<(), Wrong> {
        let end = at.saturating_add(len);
        let bad = |why| Err(Wrong::BadRange { call, at, end, why });
        let region = self.region;
        if !at.is_multiple_of(align) {
            return bad("not a multiple of the page size");
        }
        if end > USER_END {
            return bad("beyond user space");
        }
        // Reads may go to the scratch part: the lifter says whether they keep clear of the events.
        let is_scratch = align == 1 && region.start <= at && end <= region.rw_end;
        if at < region.end && region.start < end && !is_scratch {
            return bad("in the tapes");
        }
        Ok(())
    }

    /// Whether a range of pages lies also clear of the carriers.
    pub(super) fn check_pages(&self, call: &'static str, at: u64, len: u64) -> Result<(), Wrong> {
        self.check_range(call, at, len, PAGE)?;
        let end = at.saturating_add(len);
        if len == 0 {
            return Err(Wrong::BadRange { call, at, end, why: "empty" });
        }
        let region = self.region;
        if at < region.window_end && region.start < end {
            return Err(Wrong::BadRange { call, at, end, why: "among the carriers of shared memory" });
        }
        Ok(())
    }

    /// Whether a task has a mapping of a file: of one with that path, or of that one.
    pub(super) fn maps(&self, task: usize, file: &Value) -> bool {
        let space = &self.spaces[self.space_of(task)];
        let is_it = |mapping: &Mapping| {
            let Shows::File { desc, .. } = mapping.shows else { return false };
            let object = self.objects.description(desc).object;
            match (file, &self.objects.objects[object].kind) {
                (Value::Bytes(path), ObjectKind::File { path: is }) => path[..] == is[..],
                (Value::Made(made), _) => *made == object,
                _ => false,
            }
        };
        space.mappings.iter().any(|(_, _, mapping)| is_it(mapping))
    }

    /// The root's, as the launcher leaves it: nothing is known but the tapes.
    pub(super) fn launcher_space(&self) -> Space {
        let mut space = Space::default();
        space.unknown.insert(0, USER_END, ());
        space.unknown.clear(self.region.start, self.region.window_end);
        space
    }

    /// The address space of a task or a thread, ordered with what its other threads do to it.
    pub(super) fn use_space(&mut self, at: At, call: &'static str) -> Result<&mut Space, Wrong> {
        let index = self.space_of(at.task);
        if let Some(last) = self.spaces[index].last {
            self.order(last, at, call, || "the address space".to_owned())?;
        }
        while let Some((_, copy)) = self.spaces[index].copies.pop_first() {
            self.order(copy, at, call, || "the address space".to_owned())?;
        }
        let space = &mut self.spaces[index];
        space.last = Some(at);
        Ok(space)
    }

    /// Bytes read from a file into memory.
    pub(super) fn fill_memory(
        &mut self,
        at: At,
        call: &'static str,
        object: usize,
        into: &[(u64, u64)],
        mut from: u64,
    ) -> Result<(), Wrong> {
        let region = self.region;
        for (start, len) in into {
            let (start, len, end) = (*start, *len, start.saturating_add(*len));
            let fill = Fill { object, from, at };
            from = from.saturating_add(len);
            // What lies there was found to be scratch.
            if len == 0 || start < region.end && region.start < end {
                continue;
            }
            if self.is_stage(at, start, len) {
                self.fill_stage(at, call, (start, end), fill)?;
                continue;
            }
            let is_scratch = self.is_scratch(at.task, start, end);
            if start < region.window_end && region.start < end && !is_scratch {
                let carrier = self.carrier(at, call, start, end)?;
                if carrier.1.mapping.prot & PROT_WRITE == 0 {
                    return Err(Wrong::BadRange { call, at: start, end, why: "not writable then" });
                }
                let offset = start - carrier.0;
                self.fill_segment(at, call, carrier.1.segment, offset, len, fill)?;
                continue;
            }
            let pieces = self.mapped(at, call, start, end)?;
            let index = self.space_of(at.task);
            let bad = |at, end, why| Err(Wrong::BadRange { call, at, end, why });
            if let Some((at, end, ())) = self.spaces[index].guards.over(start, end).next() {
                return bad(at, end, "a guard is there");
            }
            if let Some((at, end, _)) = self.spaces[index].registered.over(start, end).next() {
                return bad(at, end, "it would wait for ever for who has a userfaultfd");
            }
            for (piece, behind, mapping) in pieces {
                let part = Fill { from: fill.from + (piece - start), ..fill };
                if mapping.prot & PROT_WRITE == 0 {
                    return bad(piece, behind, "not writable then");
                }
                match mapping.shows {
                    Shows::Segment { segment, offset } | Shows::System { segment, offset, .. } => {
                        self.fill_segment(at, call, segment, offset, behind - piece, part)?;
                    }
                    Shows::File { desc, offset, is_shared: true, .. } => {
                        let into = (offset, offset.saturating_add(behind - piece));
                        self.fill_inode(at, call, desc, into, (object, part.from))?;
                    }
                    Shows::Kernel => return bad(piece, behind, "over the vDSO"),
                    Shows::Ring { offset } if offset < ring::HEAD => {
                        return bad(piece, behind, "over the head of a ring");
                    }
                    Shows::Ring { .. } | Shows::Anonymous | Shows::Droppable | Shows::File { .. } => {
                        self.spaces[index].fills.insert(piece, behind, part);
                    }
                }
            }
        }
        Ok(())
    }

    fn fill_segment(
        &mut self,
        at: At,
        call: &'static str,
        segment: usize,
        offset: u64,
        len: u64,
        fill: Fill,
    ) -> Result<(), Wrong> {
        let end = offset.saturating_add(len);
        let others: SmallVec<[At; 2]> =
            self.segments[segment].fills.over(offset, end).map(|(_, _, fill)| fill.at).collect();
        for last in others {
            self.order(last, at, call, || "shared memory".to_owned())?;
        }
        self.segments[segment].fills.insert(offset, end, fill);
        Ok(())
    }

    /// What is mapped between two addresses, all of it: each as far as it goes within them.
    fn mapped(&mut self, at: At, call: &'static str, start: u64, end: u64) -> Result<Mapped, Wrong> {
        let space = self.use_space(at, call)?;
        let mut within = Mapped::new();
        let mut reached = start;
        for (from, to, mapping) in space.mappings.over(start, end) {
            if from > reached {
                break;
            }
            reached = to;
            let mapping = intervals::Cut::rest(mapping, start.saturating_sub(from));
            within.push((from.max(start), to.min(end), mapping));
        }
        if reached < end {
            return Err(Wrong::BadRange { call, at: reached, end, why: "nothing is mapped there then" });
        }
        Ok(within)
    }

    /// The carrier that a task has between two addresses: where it starts, and what it is.
    fn carrier(&self, at: At, call: &'static str, start: u64, end: u64) -> Result<(u64, Carrier), Wrong> {
        let found = self.carriers.range(..=start).next_back().filter(|(_, carrier)| end <= carrier.end);
        // Carriers stay, so whoever descends from its maker has it. Threads are in the line of descent, too.
        match found {
            Some((from, carrier)) if self.before.is_inherited(carrier.made, at) => Ok((*from, *carrier)),
            Some(_) | None => {
                Err(Wrong::BadRange { call, at: start, end, why: "no carrier that this task has is there" })
            }
        }
    }

    fn add_segment(&mut self, len: u64, huge: u32, made: At) -> usize {
        self.segments.push(Segment { len, huge, system: None, made, fills: Intervals::default() });
        self.segments.len() - 1
    }

    /// A System V segment, of whole pages.
    pub(super) fn add_system_segment(&mut self, (size, huge): (u64, u32), id: u32, made: At) -> usize {
        let page = if huge == 0 { PAGE } else { 1 << huge_shift(huge) };
        let len = size.checked_next_multiple_of(page).unwrap_or(u64::MAX);
        let segment = self.add_segment(len, huge, made);
        self.segments[segment].system = Some(id);
        segment
    }

    /// Whether a task can have a carrier in a range that lies behind the tapes.
    fn check_carrier(&self, at: At, call: &'static str, start: u64, len: u64) -> Result<(), Wrong> {
        self.check_range(call, start, len, PAGE)?;
        let end = start.saturating_add(len);
        let before = self.carriers.range(..end).next_back();
        if len == 0 || before.is_some_and(|(_, other)| other.end > start) {
            let why = "a carrier of shared memory made twice";
            return Err(Wrong::BadRange { call, at: start, end, why });
        }
        if !self.spaces[self.space_of(at.task)].mappings.is_free(start, end) {
            let why = "something may be mapped there already";
            return Err(Wrong::BadRange { call, at: start, end, why });
        }
        // A window whose carriers are made by threads would need an order of its own.
        let space = &self.spaces[at.task];
        let is_free = space.sources.is_free(start, end) && space.stages.mapped.is_free(start, end);
        if self.space_of(at.task) != at.task || !is_free {
            return Err(Wrong::NotModelled { call, what: "such a carrier of shared memory".to_owned() });
        }
        Ok(())
    }

    /// How long a segment is, in whole pages.
    pub(super) fn segment_len(&self, segment: usize) -> u64 {
        self.segments[segment].len
    }

    /// `shmat(2)` among the carriers; elsewhere it would hit what the images have there. What is attached once more of
    /// huge pages is the task's own, to be moved from there.
    fn attach(
        &mut self,
        at: At,
        call: &'static str,
        id: u32,
        start: u64,
        read_only: bool,
    ) -> Result<(), Wrong> {
        let carried = self.carried_huge(at, id);
        let (segment, len) = match carried {
            Some(segment) => (segment, self.segment_len(segment)),
            None => self.attach_segment(at, call, id)?,
        };
        let (region, end) = (self.region, start.saturating_add(len));
        if start < region.end || end > region.window_end {
            let why = "not among the carriers of shared memory";
            return Err(Wrong::BadRange { call, at: start, end, why });
        }
        self.check_carrier(at, call, start, len)?;
        let prot = if read_only { PROT_READ } else { PROT_READ | PROT_WRITE };
        let shows = Shows::System { segment, offset: 0, may_write: !read_only };
        let mapping = Mapping { shows, prot, flags: self.segments[segment].huge, advice: 0 };
        huge::is_whole(call, &mapping, start, end)?;
        if carried.is_some() {
            self.use_space(at, call)?.map_free(start, end, mapping);
            return Ok(());
        }
        self.carriers.insert(start, Carrier { end, segment, mapping, made: at });
        Ok(())
    }

    fn map(
        &mut self,
        at: At,
        call: &'static str,
        range: (u64, u64),
        modes: (u32, u32),
        file: Option<(Fd, u64)>,
    ) -> Result<(), Wrong> {
        let ((start, len), (prot, flags)) = (range, modes);
        let end = start.saturating_add(len);
        let region = self.region;
        let not_modelled = |what: String| Err(Wrong::NotModelled { call, what });
        let (kind, is_anonymous) = (flags & MAP_TYPE, flags & MAP_ANONYMOUS != 0);
        let unknown = kept(flags) & !KEPT;
        let is_huge = flags & MAP_HUGETLB != 0;
        let is_odd = is_huge && flags & (MAP_LOCKED | MAP_GROWSDOWN) != 0 || !huge::is_told(flags);
        if unknown != 0 {
            return not_modelled(format!("flags {unknown:#x}"));
        }
        if is_odd || is_huge && kind == MAP_DROPPABLE {
            return not_modelled(format!("flags {:#x}", flags & (HUGE | MAP_LOCKED | MAP_GROWSDOWN)));
        }
        if prot & !PROT_ALL != 0 {
            return not_modelled(format!("protection {prot:#x}"));
        }
        let is_shared = match kind {
            MAP_PRIVATE => false,
            MAP_DROPPABLE if is_anonymous && flags & MAP_LOCKED == 0 => false,
            MAP_SHARED | MAP_SHARED_VALIDATE if flags & MAP_GROWSDOWN == 0 => true,
            _ => return not_modelled(format!("flags {flags:#x}")),
        };
        let is_behind = region.end <= start && end <= region.window_end;
        if let (true, Some((fd, offset)), PROT_READ) = (is_behind, file, prot) {
            return self.map_source(at, call, range, (prot, flags), (fd, offset));
        }
        if (is_behind, flags, prot) == (true, stage::FLAGS, stage::PROT) {
            return self.map_stage(at, call, range);
        }
        let in_window = is_shared && is_behind;
        let is_carrier = in_window && is_anonymous;
        if in_window {
            self.check_carrier(at, call, start, len)?;
            if prot & PROT_WRITE == 0 {
                return not_modelled("such a carrier of shared memory".to_owned());
            }
        } else {
            self.check_pages(call, start, len)?;
        }
        let mut mapping = Mapping { shows: Shows::Anonymous, prot, flags: kept(flags), advice: 0 };
        mapping.shows = match file {
            Some((fd, offset)) => {
                let (shows, huge) = self.mapped_file(at, call, fd, (offset, len), (prot, is_shared))?;
                if is_huge && mapping.flags & HUGE != huge {
                    return not_modelled(format!("flags {flags:#x}"));
                }
                mapping.flags = mapping.flags & !HUGE | huge;
                shows
            }
            None if kind == MAP_DROPPABLE => {
                mapping.flags |= MAP_NORESERVE;
                mapping.advice = bit(MADV_WIPEONFORK) | bit(MADV_DONTDUMP);
                Shows::Droppable
            }
            None if is_shared => {
                Shows::Segment { segment: self.add_segment(len, flags & HUGE, at), offset: 0 }
            }
            None => Shows::Anonymous,
        };
        huge::is_whole(call, &mapping, start, end)?;
        if let (true, Shows::Segment { segment, .. }) = (is_carrier, mapping.shows) {
            self.carriers.insert(start, Carrier { end, segment, mapping, made: at });
            return Ok(());
        }
        if file.is_some() && flags & MAP_GROWSDOWN != 0 {
            return not_modelled(format!("flags {flags:#x}"));
        }
        if flags & MAP_FIXED_NOREPLACE != 0 && !self.use_space(at, call)?.is_free(start, end) {
            return Err(Wrong::BadRange {
                call,
                at: start,
                end,
                why: "something may be mapped there already",
            });
        }
        self.replace(at, call, (start, end), mapping)
    }

    /// Maps in the place of what is there, of which no huge page is cut. Mostly nothing is.
    fn replace(
        &mut self,
        at: At,
        call: &'static str,
        (start, end): (u64, u64),
        mapping: Mapping,
    ) -> Result<(), Wrong> {
        let space = self.use_space(at, call)?;
        if space.is_free(start, end) {
            space.map_free(start, end, mapping);
        } else {
            self.check_cuts(at, call, start, end)?;
            self.use_space(at, call)?.map(start, end, mapping);
        }
        Ok(())
    }

    /// What a mapping of a descriptor shows, and what huge pages it has.
    fn mapped_file(
        &mut self,
        at: At,
        call: &'static str,
        fd: Fd,
        (offset, len): (u64, u64),
        (prot, is_shared): (u32, bool),
    ) -> Result<(Shows, u32), Wrong> {
        let desc = self.descriptor(at, call, fd)?;
        let flags_of = self.objects.description(desc).flags;
        let mut huge = 0;
        let is_file = match &self.objects.object_of(desc).kind {
            ObjectKind::File { .. } => true,
            ObjectKind::Segment(segment) => {
                let is = &self.segments[*segment];
                let is_within = offset.checked_add(len).is_some_and(|end| end <= is.len);
                if !is_shared || !is_within || !offset.is_multiple_of(PAGE) {
                    return Err(Wrong::Refused { call, what: self.describe(desc) });
                }
                return Ok((Shows::Segment { segment: *segment, offset }, is.huge));
            }
            ObjectKind::Inode(inode) => {
                let writes = is_shared && prot & PROT_WRITE != 0;
                huge = inode.huge;
                inode.kind != InodeKind::Directory && !(writes && inode.seals & SEALS_WRITE != 0)
            }
            ObjectKind::Pipe(_)
            | ObjectKind::Socket(_)
            | ObjectKind::Eventfd { .. }
            | ObjectKind::Epoll { .. }
            | ObjectKind::Timerfd { .. }
            | ObjectKind::Signalfd { .. }
            | ObjectKind::Userfault { .. } => false,
        };
        let readable = flags_of & O_PATH == 0 && flags_of & O_ACCMODE != O_WRONLY;
        let may_write = flags_of & O_ACCMODE == O_RDWR;
        let writable = !is_shared || prot & PROT_WRITE == 0 || may_write;
        if !is_file || !readable || !writable || !offset.is_multiple_of(PAGE) {
            return Err(Wrong::Refused { call, what: self.describe(desc) });
        }
        Ok((Shows::File { desc, offset, is_shared, may_write: is_shared && may_write }, huge))
    }

    fn remap(
        &mut self,
        at: At,
        call: &'static str,
        (from, old_len): (u64, u64),
        (to, new_len): (u64, u64),
        flags: u32,
    ) -> Result<(), Wrong> {
        if flags == 0 && from == to {
            return self.extend(at, call, from, old_len, new_len);
        }
        if flags != MREMAP_TO {
            return Err(Wrong::NotModelled { call, what: format!("flags {flags:#x}") });
        }
        let is_scratch = self.is_scratch(at.task, from, from.saturating_add(old_len));
        if old_len == 0 || is_scratch {
            self.check_range(call, from, old_len.max(new_len), PAGE)?;
        } else {
            self.check_pages(call, from, old_len)?;
        }
        self.check_pages(call, to, new_len)?;
        let end = to.saturating_add(new_len);
        let bad = |why| Err(Wrong::BadRange { call, at: to, end, why });
        if from < end && to < from.saturating_add(old_len.max(1)) {
            return bad("over what is moved");
        }
        if old_len != 0 {
            let pieces = self.mapped(at, call, from, from.saturating_add(old_len))?;
            // One mapping, or several that the kernel takes for one.
            if pieces.windows(2).any(|pair| !pair[0].2.continues(pair[0].1 - pair[0].0, &pair[1].2)) {
                return bad("from more than one mapping");
            }
            let is_special = |mapping: &Mapping| matches!(mapping.shows, Shows::Kernel | Shows::Ring { .. });
            let may_grow = pieces.iter().all(|(_, _, mapping)| !is_special(mapping));
            if !may_grow {
                return bad("of the vDSO, or of a ring");
            }
            for (start, end, mapping) in &pieces {
                if mapping.flags & MAP_HUGETLB == 0 {
                    continue;
                }
                if old_len != new_len || !matches!(mapping.shows, Shows::System { .. }) {
                    return bad("of huge pages");
                }
                huge::is_whole(call, mapping, *start, *end)?;
                huge::is_whole(call, mapping, start - from + to, end - from + to)?;
            }
            self.check_cuts(at, call, to, end)?;
            self.use_space(at, call)?.relocate(from, old_len, to, new_len);
            return Ok(());
        }
        let region = self.region;
        let mapping = if region.end <= from && from < region.window_end {
            let (start, carrier) = self.carrier(at, call, from, from.saturating_add(1))?;
            intervals::Cut::rest(&carrier.mapping, from - start)
        } else {
            self.mapped(at, call, from, from.saturating_add(PAGE))?[0].2
        };
        if mapping.flags & MAP_HUGETLB != 0 {
            return bad("of huge pages, which cannot be longer than they are");
        }
        match mapping.shows {
            Shows::Segment { segment, offset } | Shows::System { segment, offset, .. } => {
                if offset.saturating_add(new_len) > self.segments[segment].len {
                    return bad("beyond the end of the shared memory");
                }
            }
            Shows::File { is_shared: true, .. } => {}
            Shows::Anonymous | Shows::Droppable | Shows::File { .. } | Shows::Kernel | Shows::Ring { .. } => {
                return bad("a second view of what is not shared");
            }
        }
        self.replace(at, call, (to, end), mapping)
    }

    /// A mapping made longer where it is: all of what is named must be one, and nothing may lie behind it.
    fn extend(
        &mut self,
        at: At,
        call: &'static str,
        start: u64,
        old_len: u64,
        new_len: u64,
    ) -> Result<(), Wrong> {
        self.check_pages(call, start, old_len)?;
        self.check_pages(call, start, new_len)?;
        let (old_end, end) = (start.saturating_add(old_len), start.saturating_add(new_len));
        let bad = |why| Err(Wrong::BadRange { call, at: start, end, why });
        if new_len <= old_len {
            return Err(Wrong::NotModelled { call, what: "memory made shorter".to_owned() });
        }
        let pieces = self.mapped(at, call, start, old_end)?;
        if pieces.windows(2).any(|pair| !pair[0].2.continues(pair[0].1 - pair[0].0, &pair[1].2)) {
            return bad("of more than one mapping");
        }
        // What a page of shared memory behind its end would be is not known; what is locked is brought in.
        let may_grow = |mapping: &Mapping| {
            mapping.flags & (MAP_LOCKED | MAP_HUGETLB) == 0
                && match mapping.shows {
                    Shows::Anonymous | Shows::File { .. } => true,
                    Shows::Droppable
                    | Shows::Segment { .. }
                    | Shows::System { .. }
                    | Shows::Kernel
                    | Shows::Ring { .. } => false,
                }
        };
        let Some((first, _, mapping)) = pieces.last().copied().filter(|(.., last)| may_grow(last)) else {
            return bad("not to be made longer");
        };
        let space = self.use_space(at, call)?;
        if !space.is_free(old_end, end) {
            return bad("something may be mapped behind it");
        }
        space.map_free(old_end, end, intervals::Cut::rest(&mapping, old_end - first));
        Ok(())
    }

    fn protect(
        &mut self,
        at: At,
        call: &'static str,
        (start, len): (u64, u64),
        prot: u32,
    ) -> Result<(), Wrong> {
        self.check_pages(call, start, len)?;
        self.protect_vdso(at, call, start, len, prot)?;
        if prot & !PROT_ALL != 0 {
            return Err(Wrong::NotModelled { call, what: format!("protection {prot:#x}") });
        }
        let end = start.saturating_add(len);
        self.check_cuts(at, call, start, end)?;
        for (_, _, mapping) in self.mapped(at, call, start, end)? {
            if let Shows::System { may_write: false, .. } = mapping.shows
                && prot & PROT_WRITE != 0
            {
                let what = "a segment that is attached to be read only".to_owned();
                return Err(Wrong::Refused { call, what });
            }
            let Shows::File { desc, is_shared: true, may_write, .. } = mapping.shows else { continue };
            let is_sealed = match &self.objects.object_of(desc).kind {
                ObjectKind::Inode(inode) => inode.seals & SEALS_WRITE != 0,
                _ => false,
            };
            if prot & PROT_WRITE != 0 && (!may_write || is_sealed) {
                return Err(Wrong::Refused { call, what: self.describe(desc) });
            }
        }
        self.use_space(at, call)?.mappings.change(start, end, |mapping| mapping.prot = prot);
        Ok(())
    }

    fn advise(
        &mut self,
        at: At,
        call: &'static str,
        (start, len): (u64, u64),
        advice: u32,
    ) -> Result<(), Wrong> {
        if self.is_stage(at, start, len) {
            return self.advise_stage(at, call, (start, len), advice);
        }
        self.check_pages(call, start, len)?;
        let end = start.saturating_add(len);
        let pieces = self.mapped(at, call, start, end)?;
        self.check_cuts(at, call, start, end)?;
        let takes = |mapping: &Mapping| match (advice, mapping.shows) {
            (MADV_WIPEONFORK | MADV_KEEPONFORK | MADV_GUARD_INSTALL, _)
                if mapping.flags & MAP_HUGETLB != 0 =>
            {
                false
            }
            // Its data is out of core dumps anyway; nothing else is asked of it.
            (_, Shows::Kernel) => advice == MADV_DONTDUMP,
            // It is in core dumps and goes to children as the kernel has it, unless it is told not to.
            (_, Shows::Ring { .. }) => {
                matches!(advice, MADV_RANDOM | MADV_SEQUENTIAL | MADV_DONTFORK | MADV_DONTDUMP)
            }
            (MADV_DONTNEED | MADV_GUARD_INSTALL, _) => mapping.flags & MAP_LOCKED == 0,
            (MADV_WIPEONFORK | MADV_KEEPONFORK, Shows::Anonymous) => true,
            (MADV_WIPEONFORK, Shows::Droppable) => true,
            (MADV_WIPEONFORK | MADV_KEEPONFORK, _) | (MADV_DODUMP, Shows::Droppable) => false,
            _ => true,
        };
        if !pieces.iter().all(|(_, _, mapping)| takes(mapping)) {
            let what = format!("advice {advice} about {start:#x}..{end:#x}");
            return Err(Wrong::Refused { call, what });
        }
        let space = self.use_space(at, call)?;
        match advice {
            MADV_DONTNEED | MADV_GUARD_INSTALL => {
                space.fills.clear(start, end);
                if advice == MADV_GUARD_INSTALL {
                    space.guards.insert(start, end, ());
                }
            }
            MADV_GUARD_REMOVE => space.guards.clear(start, end),
            _ => {
                if advised(0, advice).is_none() {
                    return Err(Wrong::NotModelled { call, what: format!("advice {advice}") });
                }
                space.mappings.change(start, end, |mapping| {
                    // Shared memory and huge pages are not merged, whatever is said (mm/ksm.c).
                    let is_mergeable = mapping.is_private() && mapping.flags & MAP_HUGETLB == 0;
                    if advice != MADV_MERGEABLE || is_mergeable {
                        mapping.advice = advised(mapping.advice, advice).unwrap_or(mapping.advice);
                    }
                });
            }
        }
        Ok(())
    }

    /// Every page is brought in, so there must be none that cannot be.
    fn lock(&mut self, at: At, call: &'static str, (start, len): (u64, u64)) -> Result<(), Wrong> {
        self.check_pages(call, start, len)?;
        let end = start.saturating_add(len);
        let bad = |why| Err(Wrong::BadRange { call, at: start, end, why });
        let pieces = self.mapped(at, call, start, end)?;
        // Huge pages are never locked (mm/mlock.c), and take the call for nothing.
        let is_open = |mapping: &Mapping| match mapping.shows {
            _ if mapping.flags & MAP_HUGETLB != 0 => false,
            Shows::Anonymous | Shows::Segment { .. } | Shows::System { .. } | Shows::File { .. } => {
                mapping.prot != 0
            }
            Shows::Droppable | Shows::Kernel | Shows::Ring { .. } => false,
        };
        if !pieces.iter().all(|(_, _, mapping)| is_open(mapping)) {
            return bad("memory that is not to be locked");
        }
        let space = self.use_space(at, call)?;
        if !space.guards.is_free(start, end) {
            return bad("a guard is there");
        }
        space.mappings.change(start, end, |mapping| mapping.flags |= MAP_LOCKED);
        Ok(())
    }

    /// The kernel's vDSO: it goes elsewhere, unseen, where something is in its way.
    pub(super) fn map_kernel(
        &mut self,
        at: At,
        call: &'static str,
        start: u64,
        len: u64,
    ) -> Result<(), Wrong> {
        let end = start.saturating_add(len);
        let space = self.use_space(at, call)?;
        if !space.is_free(start, end) {
            return Err(Wrong::BadRange {
                call,
                at: start,
                end,
                why: "something may be mapped there already",
            });
        }
        let prot = PROT_READ | PROT_EXEC;
        space.map_free(start, end, Mapping { shows: Shows::Kernel, prot, flags: 0, advice: 0 });
        Ok(())
    }

    pub(super) fn change_memory(
        &mut self,
        at: At,
        call: &'static str,
        effect: &MemoryEffect,
    ) -> Result<(), Wrong> {
        let drops = matches!(effect, MemoryEffect::Unmap { .. });
        for range in replaced(effect) {
            self.spare_vdso(at, call, range, drops)?;
        }
        self.spare_rings(at, call, effect)?;
        match effect {
            MemoryEffect::Map { at: start, len, prot, flags, file } => {
                self.map(at, call, (*start, *len), (*prot, *flags), *file)?;
            }
            MemoryEffect::Remap { from, old_len, to, new_len, flags } => {
                self.remap(at, call, (*from, *old_len), (*to, *new_len), *flags)?;
            }
            MemoryEffect::Unmap { at: start, len } if self.is_source(at, *start, *len) => {
                self.use_space(at, call)?.sources.clear(*start, start.saturating_add(*len));
            }
            MemoryEffect::Unmap { at: start, len } if self.is_stage(at, *start, *len) => {
                self.unmap_stage(at, call, (*start, *len))?;
            }
            MemoryEffect::Unmap { at: start, len } => {
                let end = start.saturating_add(*len);
                if self.is_scratch(at.task, *start, end) {
                    self.check_range(call, *start, *len, PAGE)?;
                } else {
                    self.check_pages(call, *start, *len)?;
                }
                self.check_cuts(at, call, *start, end)?;
                self.use_space(at, call)?.unmap(*start, end);
            }
            MemoryEffect::Attach { id, at: start, read_only } => {
                self.attach(at, call, *id, *start, *read_only)?;
            }
            MemoryEffect::Advise { at: start, len, advice } => {
                self.advise(at, call, (*start, *len), *advice)?;
            }
            MemoryEffect::Lock { at: start, len } => self.lock(at, call, (*start, *len))?,
            MemoryEffect::Protect { at: start, len, prot } => {
                self.protect(at, call, (*start, *len), *prot)?;
            }
            MemoryEffect::SetMm { words, auxv, exe } => {
                let exe = exe.map(|fd| self.descriptor(at, call, fd)).transpose()?;
                self.set_layout(at, call, words, auxv, exe)?;
                if let Some(desc) = exe
                    && !matches!(
                        self.objects.object_of(desc).kind,
                        ObjectKind::File { .. } | ObjectKind::Inode(_)
                    )
                {
                    return Err(Wrong::Refused { call, what: self.describe(desc) });
                }
            }
            MemoryEffect::MapVdso { at: start } => self.map_vdso(at, call, *start)?,
            MemoryEffect::Ring(effect) => self.change_ring(at, call, *effect)?,
            MemoryEffect::Write { pieces } => {
                self.write_vdso(at, call, pieces)?;
                for (start, bytes) in pieces {
                    let end = start.saturating_add(bytes.len() as u64);
                    for (from, to, mapping) in self.mapped(at, call, *start, end)? {
                        if mapping.prot & PROT_WRITE == 0 || !mapping.is_private_or_kernel() {
                            let why = "not private memory that is writable then";
                            return Err(Wrong::BadRange { call, at: from, end: to, why });
                        }
                    }
                }
            }
        }
        self.certificate.memory_changes += 1;
        Ok(())
    }
}
