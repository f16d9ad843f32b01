//! Memory that pages are read into, to be moved from there into place by a userfaultfd.
//!
//! What is moved keeps the pages that it has: memory that could not get huge pages itself can have pages that were
//! brought as one. A stage is private memory among the carriers. Each part of it is read into once and moved once, so that
//! who reads into which part is no question of order; several tasks of one address space may do so at the same time.
//! Before the address space is forked, and before the barrier, none is left.
//!
//! # Sources
//! ioctl_userfaultfd(2) (UFFDIO_MOVE); mm/userfaultfd.c (`move_pages`, `validate_move_areas`: both sides private anonymous
//! memory that may be written, and protected alike), Documentation/admin-guide/mm/transhuge.rst.

use super::super::before::At;
use super::super::outcome::Wrong;
use super::super::run::Run;
use super::intervals::{Cut, Intervals};
use super::state::{Fill, MADV_HUGEPAGE, MADV_NOHUGEPAGE, PROT_READ, PROT_WRITE};
use super::{MAP_ANONYMOUS, MAP_FIXED_NOREPLACE, MAP_NORESERVE, MAP_PRIVATE, PAGE};

/// What a stage is mapped by: nothing else has these flags among the carriers.
pub(super) const FLAGS: u32 = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
pub(super) const PROT: u32 = PROT_READ | PROT_WRITE;

/// A part of a stage that has been read into.
#[derive(Debug, Clone, Copy)]
struct Staged {
    fill: Fill,
    /// It is where it belongs now.
    is_moved: bool,
}

impl Cut for Staged {
    fn rest(&self, by: u64) -> Staged {
        Staged { fill: self.fill.rest(by), ..*self }
    }
}

/// The stages of an address space.
#[derive(Debug, Clone, Default)]
pub(super) struct Stages {
    pub(super) mapped: Intervals<()>,
    filled: Intervals<Staged>,
}

impl Run<'_> {
    /// Maps a stage.
    pub(super) fn map_stage(
        &mut self,
        at: At,
        call: &'static str,
        (start, len): (u64, u64),
    ) -> Result<(), Wrong> {
        let space = self.free_window(at, call, (start, len))?;
        space.stages.mapped.insert(start, start.saturating_add(len), ());
        Ok(())
    }

    /// Whether a range is one of a stage.
    pub(in super::super) fn is_stage(&self, at: At, start: u64, len: u64) -> bool {
        let mapped = &self.spaces[self.space_of(at.task)].stages.mapped;
        len != 0 && mapped.hole(start, start.saturating_add(len)).is_none()
    }

    pub(super) fn unmap_stage(
        &mut self,
        at: At,
        call: &'static str,
        (start, len): (u64, u64),
    ) -> Result<(), Wrong> {
        self.check_range(call, start, len, PAGE)?;
        let end = start.saturating_add(len);
        let stages = &mut self.use_space(at, call)?.stages;
        stages.mapped.clear(start, end);
        stages.filled.clear(start, end);
        Ok(())
    }

    /// What pages it gets is nobody's business.
    pub(super) fn advise_stage(
        &mut self,
        at: At,
        call: &'static str,
        (start, len): (u64, u64),
        advice: u32,
    ) -> Result<(), Wrong> {
        self.check_range(call, start, len, PAGE)?;
        if !matches!(advice, MADV_HUGEPAGE | MADV_NOHUGEPAGE) {
            return Err(Wrong::NotModelled { call, what: format!("advice {advice} about a stage") });
        }
        self.use_space(at, call).map(drop)
    }

    /// Bytes are read into a stage.
    pub(super) fn fill_stage(
        &mut self,
        at: At,
        call: &'static str,
        (start, end): (u64, u64),
        fill: Fill,
    ) -> Result<(), Wrong> {
        self.share_space(at, call)?;
        let index = self.space_of(at.task);
        let filled = &mut self.spaces[index].stages.filled;
        if !filled.is_free(start, end) {
            return Err(Wrong::BadRange { call, at: start, end, why: "read into twice" });
        }
        filled.insert(start, end, Staged { fill, is_moved: false });
        Ok(())
    }

    /// Takes what has been read into a range of a stage, to be moved: first address, the one behind the last, and what it is.
    pub(super) fn take_staged(
        &mut self,
        at: At,
        call: &'static str,
        (from, behind): (u64, u64),
    ) -> Result<Vec<(u64, u64, Fill)>, Wrong> {
        let index = self.space_of(at.task);
        let filled = &self.spaces[index].stages.filled;
        if let Some(at) = filled.hole(from, behind) {
            return Err(Wrong::BadRange { call, at, end: behind, why: "no page is there to be moved" });
        }
        let parts: Vec<(u64, u64, Staged)> = filled
            .over(from, behind)
            .map(|(start, end, staged)| {
                (start.max(from), end.min(behind), staged.rest(from.saturating_sub(start)))
            })
            .collect();
        for (start, end, staged) in &parts {
            if staged.is_moved {
                return Err(Wrong::BadRange { call, at: *start, end: *end, why: "moved twice" });
            }
            self.order(staged.fill.at, at, call, || "what was read to be moved".to_owned())?;
        }
        self.spaces[index].stages.filled.change(from, behind, |staged| staged.is_moved = true);
        Ok(parts.into_iter().map(|(start, end, staged)| (start, end, staged.fill)).collect())
    }
}
