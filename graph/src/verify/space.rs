//! Changes of address spaces, as far as they are checked yet: they keep clear of the tapes and lie
//! in user space, and shared memory is made once.
//!
//! # Sources
//! `mmap(2)`, `mremap(2)`, Documentation/arch/x86/x86_64/mm.rst.

use super::before::At;
use super::effect::MemoryEffect;
use super::expected::InodeKind;
use super::object::{O_ACCMODE, O_PATH, O_RDWR, O_WRONLY, ObjectKind};
use super::outcome::Wrong;
use super::run::Run;
use super::vdso::replaced;

const MAP_SHARED: u32 = 1;
const MAP_ANONYMOUS: u32 = 0x20;
const PROT_WRITE: u32 = 2;
/// F_SEAL_WRITE, F_SEAL_FUTURE_WRITE.
const SEALS_WRITE: u32 = 0x18;
const PAGE: u64 = 4096;
/// Behind the last address of user space (arch/x86, `TASK_SIZE_MAX` with four levels of pages).
const USER_END: u64 = 0x7fff_ffff_f000;

impl Run<'_> {
    /// Whether a range lies in user space and clear of the tapes.
    pub(super) fn check_range(&self, call: &'static str, at: u64, len: u64, align: u64) -> Result<(), Wrong> {
        let end = at.saturating_add(len);
        let bad = |why| Err(Wrong::BadRange { call, at, end, why });
        let region = self.tree.region;
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
        let region = self.tree.region;
        if at < region.window_end && region.start < end {
            return Err(Wrong::BadRange { call, at, end, why: "among the carriers of shared memory" });
        }
        Ok(())
    }

    pub(super) fn change_memory(
        &mut self,
        at: At,
        call: &'static str,
        effect: &MemoryEffect,
    ) -> Result<(), Wrong> {
        let region = self.tree.region;
        for (start, len) in replaced(effect) {
            self.spare_vdso(at, call, start, len)?;
        }
        match effect {
            MemoryEffect::Map { at: start, len, prot, flags, file } => {
                let end = start.saturating_add(*len);
                if region.end <= *start
                    && end <= region.window_end
                    && flags & MAP_SHARED != 0
                    && flags & MAP_ANONYMOUS != 0
                {
                    self.check_range(call, *start, *len, PAGE)?;
                    let overlaps =
                        self.carriers.range(..end).next_back().is_some_and(|(_, other)| *other > *start);
                    if overlaps {
                        return Err(Wrong::BadRange {
                            call,
                            at: *start,
                            end,
                            why: "a carrier of shared memory made twice",
                        });
                    }
                    self.carriers.insert(*start, end);
                } else {
                    self.check_pages(call, *start, *len)?;
                }
                if let Some((fd, offset)) = file {
                    let desc = self.descriptor(at, call, *fd)?;
                    let flags_of = self.objects.description(desc).flags;
                    let is_file = match &self.objects.object_of(desc).kind {
                        ObjectKind::File { .. } => true,
                        ObjectKind::Inode(inode) => {
                            let writes = flags & MAP_SHARED != 0 && prot & PROT_WRITE != 0;
                            inode.kind != InodeKind::Directory && !(writes && inode.seals & SEALS_WRITE != 0)
                        }
                        ObjectKind::Pipe(_)
                        | ObjectKind::Socket(_)
                        | ObjectKind::Eventfd { .. }
                        | ObjectKind::Epoll { .. }
                        | ObjectKind::Timerfd { .. }
                        | ObjectKind::Signalfd { .. } => false,
                    };
                    let readable = flags_of & O_PATH == 0 && flags_of & O_ACCMODE != O_WRONLY;
                    let writable =
                        flags & MAP_SHARED == 0 || prot & PROT_WRITE == 0 || flags_of & O_ACCMODE == O_RDWR;
                    if !is_file || !readable || !writable || !offset.is_multiple_of(PAGE) {
                        return Err(Wrong::Refused { call, what: self.describe(desc) });
                    }
                }
            }
            MemoryEffect::Remap { from, old_len, to, new_len, .. } => {
                if *old_len == 0 {
                    self.check_range(call, *from, *new_len, PAGE)?;
                } else {
                    self.check_pages(call, *from, *old_len)?;
                }
                self.check_pages(call, *to, *new_len)?;
            }
            MemoryEffect::Unmap { at, len } | MemoryEffect::Advise { at, len, .. } => {
                self.check_pages(call, *at, *len)?;
            }
            MemoryEffect::Protect { at: start, len, prot } => {
                self.check_pages(call, *start, *len)?;
                self.protect_vdso(at, call, *start, *len, *prot)?;
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
            MemoryEffect::Write { pieces } => self.write_vdso(at, call, pieces)?,
        }
        self.certificate.memory_changes += 1;
        Ok(())
    }
}
