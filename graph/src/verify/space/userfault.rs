//! Pages that are copied into place by a userfaultfd, from files that are mapped among the carriers of shared memory, or
//! moved, from a [stage](super::stage) there.
//!
//! What is copied or moved may not be there yet: the kernel refuses to replace a page, and stops there. So a copy that passes
//! here is a whole one. Several tasks of one address space may copy and move at the same time, and nothing else may be done to it
//! then; before it is forked, and before the barrier, no range is registered and nothing to take pages from is mapped any more.
//!
//! # Sources
//! userfaultfd(2), ioctl_userfaultfd(2); fs/userfaultfd.c (`userfaultfd_register`, `userfaultfd_copy`), mm/userfaultfd.c
//! (`mfill_atomic`, `mfill_atomic_install_pte`).

use super::super::before::At;
use super::super::effect::UserfaultChange;
use super::super::object::ObjectKind;
use super::super::outcome::Wrong;
use super::super::run::Run;
use super::super::table::Desc;
use super::intervals::Cut as _;
use super::stage;
use super::state::{Copied, Fill, MAP_HUGETLB, MAP_LOCKED, Mapping, PROT_READ, Registered, Shows, Space};
use super::{MAP_FIXED_NOREPLACE, MAP_PRIVATE, MAP_SHARED, MAP_TYPE, PAGE};
use crate::ids::Fd;

/// Memory that pages can be copied into.
enum Target {
    Private,
    Segment { segment: usize, offset: u64 },
}

impl Run<'_> {
    /// A file is mapped among the carriers, to be copied from.
    pub(super) fn map_source(
        &mut self,
        at: At,
        call: &'static str,
        (start, len): (u64, u64),
        (prot, flags): (u32, u32),
        (fd, offset): (Fd, u64),
    ) -> Result<(), Wrong> {
        self.check_range(call, start, len, PAGE)?;
        let end = start.saturating_add(len);
        if prot != PROT_READ
            || !matches!(flags & MAP_TYPE, MAP_PRIVATE | MAP_SHARED)
            || flags & !(MAP_TYPE | MAP_FIXED_NOREPLACE) != 0
        {
            let what = format!("protection {prot:#x}, flags {flags:#x} among the carriers");
            return Err(Wrong::NotModelled { call, what });
        }
        let is_shared = flags & MAP_TYPE == MAP_SHARED;
        let (Shows::File { desc, .. }, 0) =
            self.mapped_file(at, call, fd, (offset, len), (prot, is_shared))?
        else {
            return Err(Wrong::NotModelled { call, what: "no file among the carriers".to_owned() });
        };
        let object = self.objects.description(desc).object;
        if !matches!(self.objects.objects[object].kind, ObjectKind::File { .. }) {
            return Err(Wrong::NotModelled { call, what: self.describe(desc) });
        }
        let space = self.free_window(at, call, (start, len))?;
        space.sources.insert(start, end, Copied { object, from: offset });
        Ok(())
    }

    /// The address space, if certainly nothing is mapped in a range among the carriers.
    pub(super) fn free_window(
        &mut self,
        at: At,
        call: &'static str,
        (start, len): (u64, u64),
    ) -> Result<&mut Space, Wrong> {
        self.check_range(call, start, len, PAGE)?;
        let end = start.saturating_add(len);
        let is_carrier = self.carriers.range(..end).next_back().is_some_and(|(_, other)| other.end > start);
        let space = self.use_space(at, call)?;
        let is_free = space.is_free(start, end)
            && space.sources.is_free(start, end)
            && space.stages.mapped.is_free(start, end);
        if len == 0 || is_carrier || !is_free {
            let why = "something may be mapped there already";
            return Err(Wrong::BadRange { call, at: start, end, why });
        }
        Ok(space)
    }

    /// Whether a range is one of files that are mapped to be copied from.
    pub(super) fn is_source(&self, at: At, start: u64, len: u64) -> bool {
        let end = start.saturating_add(len);
        let sources = &self.spaces[self.space_of(at.task)].sources;
        start.is_multiple_of(PAGE) && len != 0 && sources.hole(start, end).is_none()
    }

    /// That nothing is left of a filling where it would go on, or be inherited.
    pub(in super::super) fn check_userfault(&self, at: At, call: &'static str) -> Result<(), Wrong> {
        let space = &self.spaces[self.space_of(at.task)];
        let registered = space.registered.iter().next().map(|(at, end, _)| (at, end, "still registered"));
        let source =
            space.sources.iter().next().map(|(at, end, _)| (at, end, "still mapped to be copied from"));
        let stage = space.stages.mapped.iter().next();
        let stage = stage.map(|(at, end, ())| (at, end, "still mapped to be moved from"));
        match registered.or(source).or(stage) {
            Some((at, end, why)) => Err(Wrong::BadRange { call, at, end, why }),
            None => Ok(()),
        }
    }

    pub(in super::super) fn use_userfault(
        &mut self,
        at: At,
        call: &'static str,
        desc: Desc,
        change: UserfaultChange,
    ) -> Result<(), Wrong> {
        let object = self.objects.description(desc).object;
        let ObjectKind::Userfault { space, is_ready } = self.objects.objects[object].kind else {
            return Err(Wrong::Refused { call, what: self.describe(desc) });
        };
        // The handshake comes first, and once.
        if is_ready == (change == UserfaultChange::Handshake) {
            return Err(Wrong::Refused { call, what: self.describe(desc) });
        }
        if self.space_of(at.task) != space {
            return Err(Wrong::NotModelled { call, what: "of another address space".to_owned() });
        }
        match change {
            UserfaultChange::Handshake => {
                self.use_space(at, call)?;
                self.objects.objects[object].kind = ObjectKind::Userfault { space, is_ready: true };
            }
            UserfaultChange::Register { at: start, len } => {
                let end = start.saturating_add(len);
                self.target(at, call, start, end)?;
                let space = self.use_space(at, call)?;
                if !space.registered.is_free(start, end) {
                    return Err(Wrong::BadRange { call, at: start, end, why: "registered twice" });
                }
                space.registered.insert(start, end, Registered(object));
            }
            UserfaultChange::Unregister { at: start, len } => {
                let end = start.saturating_add(len);
                self.check_registered(at, call, (start, end), object)?;
                self.use_space(at, call)?.registered.clear(start, end);
            }
            UserfaultChange::Copy { to, from, len } => {
                self.copy_pages(at, call, (to, from, len), object)?;
                self.certificate.memory_changes += 1;
            }
            UserfaultChange::Move { to, from, len } => {
                self.move_pages(at, call, (to, from, len), object)?;
                self.certificate.memory_changes += 1;
            }
        }
        Ok(())
    }

    fn check_registered(
        &self,
        at: At,
        call: &'static str,
        (start, end): (u64, u64),
        object: usize,
    ) -> Result<(), Wrong> {
        let registered = &self.spaces[self.space_of(at.task)].registered;
        let is_others = registered.over(start, end).any(|(_, _, by)| *by != Registered(object));
        let hole = registered.hole(start, end).or(Some(start).filter(|_| is_others || start >= end));
        match hole {
            Some(at) => Err(Wrong::BadRange { call, at, end, why: "not registered with this userfaultfd" }),
            None => Ok(()),
        }
    }

    /// What pages would be copied into. It is one mapping.
    fn target(&self, at: At, call: &'static str, start: u64, end: u64) -> Result<Target, Wrong> {
        let bad = |why| Err(Wrong::BadRange { call, at: start, end, why });
        self.check_range(call, start, end - start, PAGE)?;
        if start >= end || !end.is_multiple_of(PAGE) {
            return bad("no range of pages");
        }
        let region = self.region;
        if start < region.window_end && region.start < end {
            let (from, carrier) = self.carrier(at, call, start, end)?;
            if self.segments[carrier.segment].huge != 0 {
                return bad("memory that no page is copied into");
            }
            return Ok(Target::Segment { segment: carrier.segment, offset: start - from });
        }
        let space = &self.spaces[self.space_of(at.task)];
        let pieces: Vec<(u64, u64, &Mapping)> = space.mappings.over(start, end).collect();
        // One mapping, or several that the kernel takes for one.
        let is_one = pieces.windows(2).all(|pair| pair[0].2.continues(pair[0].1 - pair[0].0, pair[1].2));
        let Some((from, _, mapping)) =
            pieces.first().filter(|_| is_one && space.mappings.hole(start, end).is_none())
        else {
            return bad("not in one mapping");
        };
        let mapping = mapping.rest(start.saturating_sub(*from));
        // Locked memory has its pages at once.
        if mapping.flags & MAP_LOCKED != 0 {
            return bad("something is there");
        }
        match mapping.shows {
            _ if mapping.flags & MAP_HUGETLB != 0 => bad("memory that no page is copied into"),
            Shows::Anonymous => Ok(Target::Private),
            Shows::Segment { segment, offset } => Ok(Target::Segment { segment, offset }),
            // Of those, `vma_can_userfault` (linux/userfaultfd_k.h) knows private memory and plain shared memory.
            Shows::Droppable
            | Shows::System { .. }
            | Shows::File { .. }
            | Shows::Kernel
            | Shows::Ring { .. } => bad("memory that no page is copied into"),
        }
    }

    /// For copies and those who come to make some: others may be made at the same time, and nothing else be done.
    pub(in super::super) fn share_space(&mut self, at: At, call: &'static str) -> Result<(), Wrong> {
        let index = self.space_of(at.task);
        if let Some(last) = self.spaces[index].last {
            self.order(last, at, call, || "the address space".to_owned())?;
        }
        self.spaces[index].copies.insert(at.task, at);
        Ok(())
    }

    /// What pages come into, which is registered, and free of guards.
    fn free_target(
        &mut self,
        at: At,
        call: &'static str,
        (to, end): (u64, u64),
        object: usize,
    ) -> Result<Target, Wrong> {
        let target = self.target(at, call, to, end)?;
        self.check_registered(at, call, (to, end), object)?;
        if !self.spaces[self.space_of(at.task)].guards.is_free(to, end) {
            return Err(Wrong::BadRange { call, at: to, end, why: "a guard is there" });
        }
        self.share_space(at, call)?;
        Ok(target)
    }

    fn copy_pages(
        &mut self,
        at: At,
        call: &'static str,
        (to, from, len): (u64, u64, u64),
        object: usize,
    ) -> Result<(), Wrong> {
        let end = to.saturating_add(len);
        let target = self.free_target(at, call, (to, end), object)?;
        let index = self.space_of(at.task);
        let behind = from.saturating_add(len);
        let sources = &self.spaces[index].sources;
        let source =
            sources.over(from, behind).next().filter(|(start, end, _)| *start <= from && behind <= *end);
        let Some(source) = source.map(|(start, _, source)| source.rest(from.saturating_sub(start))) else {
            let why = "no file is mapped there to be copied from";
            return Err(Wrong::BadRange { call, at: from, end: behind, why });
        };
        let fill = Fill { object: source.object, from: source.from, at };
        let (fills, start) = match target {
            Target::Private => (&mut self.spaces[index].fills, to),
            Target::Segment { segment, offset } => (&mut self.segments[segment].fills, offset),
        };
        let end = start.saturating_add(len);
        if !fills.is_free(start, end) {
            return Err(Wrong::BadRange {
                call,
                at: to,
                end: to.saturating_add(len),
                why: "a page is there",
            });
        }
        fills.insert(start, end, fill);
        Ok(())
    }

    fn move_pages(
        &mut self,
        at: At,
        call: &'static str,
        (to, from, len): (u64, u64, u64),
        object: usize,
    ) -> Result<(), Wrong> {
        let end = to.saturating_add(len);
        let Target::Private = self.free_target(at, call, (to, end), object)? else {
            let why = "memory that no page is moved into";
            return Err(Wrong::BadRange { call, at: to, end, why });
        };
        let index = self.space_of(at.task);
        let is_other = |(_, _, mapping): (u64, u64, &Mapping)| mapping.prot != stage::PROT;
        if self.spaces[index].mappings.over(to, end).any(is_other) {
            return Err(Wrong::BadRange { call, at: to, end, why: "not protected as what is moved" });
        }
        if !self.spaces[index].fills.is_free(to, end) {
            return Err(Wrong::BadRange { call, at: to, end, why: "a page is there" });
        }
        for (start, behind, fill) in self.take_staged(at, call, (from, from.saturating_add(len)))? {
            let moved = |address: u64| address - from + to;
            self.spaces[index].fills.insert(moved(start), moved(behind), Fill { at, ..fill });
        }
        Ok(())
    }
}
