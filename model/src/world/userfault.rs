//! Pages copied or moved into place by a userfaultfd.
//!
//! Which pages are there is known of those only that something was written to; what is read and gives zeros the model takes
//! for missing.
//!
//! # Sources
//! ioctl_userfaultfd(2); fs/userfaultfd.c, mm/userfaultfd.c.

use std::sync::Arc;

use regrow_graph::verify::UserfaultChange;

use super::object::Object;
use super::runs::Runs;
use super::space::{Backing, MAP_LOCKED, PAGE, PROT_WRITE, USER_END};
use super::{Call, World, fails, not_modelled};
use crate::errno::{EAGAIN, EBUSY, EEXIST, EFAULT, EINVAL, ENOENT, ENOTTY};
use crate::footprint::Thing;
use crate::ids::{DescId, ObjectId};

const O_CLOEXEC: u32 = 0o2_000_000;
const O_NONBLOCK: u32 = 0o4000;
const USER_MODE_ONLY: u32 = 1;

/// A range that these calls take (fs/userfaultfd.c, `validate_range`).
fn range(at: u64, len: u64) -> Call<(u64, u64)> {
    match at.checked_add(len) {
        Some(end) if at.is_multiple_of(PAGE) && len.is_multiple_of(PAGE) && len > 0 && end <= USER_END => {
            Ok((at, end))
        }
        _ => fails(EINVAL),
    }
}

impl World {
    pub(super) fn make_userfault(&mut self, tid: u32, flags: u32) -> Call<DescId> {
        if flags & !(O_CLOEXEC | O_NONBLOCK | USER_MODE_ONLY) != 0 {
            return fails(EINVAL);
        }
        let space = self.process_of(tid).space;
        let flags = flags & !USER_MODE_ONLY;
        Ok(self.make_anonymous(tid, Object::Userfault { space, is_ready: false }, flags))
    }

    pub(super) fn use_userfault(&mut self, tid: u32, id: &ObjectId, change: UserfaultChange) -> Call<i64> {
        let Object::Userfault { space, is_ready } = *self.object(id) else { return fails(ENOTTY) };
        if is_ready == (change == UserfaultChange::Handshake) {
            return fails(EINVAL);
        }
        if self.process_of(tid).space != space {
            return not_modelled("a userfaultfd of another address space");
        }
        match change {
            UserfaultChange::Handshake => {
                if let Object::Userfault { is_ready, .. } = self.object_mut(id) {
                    *is_ready = true;
                }
                Ok(0)
            }
            UserfaultChange::Register { at, len } => self.register(tid, id, range(at, len)?),
            UserfaultChange::Unregister { at, len } => {
                let (start, end) = range(at, len)?;
                if self.space(tid).at(start).is_none() {
                    return fails(EINVAL);
                }
                self.space_mut(tid).change(start, end, |mapping| mapping.registered = None);
                Ok(0)
            }
            UserfaultChange::Copy { to, from, len } => self.copy_pages(tid, id, range(to, len)?, from),
            UserfaultChange::Move { to, from, len } => {
                let (from, behind) = range(from, len)?;
                self.move_pages(tid, id, range(to, len)?, (from, behind))
            }
        }
    }

    fn register(&mut self, tid: u32, id: &ObjectId, (start, end): (u64, u64)) -> Call<i64> {
        self.read(Thing::Space(self.process_of(tid).space));
        let space = self.space(tid);
        if space.at(start).is_none() {
            return fails(EINVAL);
        }
        let mut at = start;
        while at < end {
            let Some((_, mapping)) = space.at(at) else {
                return not_modelled("holes in what is registered");
            };
            // `vma_can_userfault`: private memory of one's own, and shared memory, but no System V segments.
            match mapping.backing {
                Backing::Anonymous => {}
                Backing::Segment(segment, _) if !self.is_system(segment) => {}
                Backing::Segment(..)
                | Backing::File { .. }
                | Backing::Region
                | Backing::Vvar
                | Backing::Vdso
                | Backing::Foreign
                | Backing::Ring => return fails(EINVAL),
            }
            if mapping.registered.as_ref().is_some_and(|other| other != id) {
                return fails(EBUSY);
            }
            at = mapping.end;
        }
        self.space_mut(tid).change(start, end, |mapping| mapping.registered = Some(id.clone()));
        Ok(0)
    }

    fn copy_pages(&mut self, tid: u32, id: &ObjectId, (to, end): (u64, u64), from: u64) -> Call<i64> {
        self.read(Thing::Space(self.process_of(tid).space));
        let space = self.space(tid);
        let Some((start, mapping)) = space.at(to) else { return fails(ENOENT) };
        if mapping.end < end || mapping.registered.as_ref() != Some(id) {
            return fails(ENOENT);
        }
        let backing = mapping.backing.part(to - start);
        let present = match &backing {
            Backing::Segment(segment, offset) => {
                let (first, last) = (*offset, offset + (end - to));
                let is_there =
                    self.segments.get(segment).is_some_and(|pages| !pages.slice(first, last).is_empty());
                self.write(Thing::Pages(*segment, first, last));
                is_there
            }
            _ => !space.private.slice(to, end).is_empty(),
        };
        if present {
            // What comes before the page that is there has been copied, and is not told from it here.
            return fails(if end - to == PAGE { EEXIST } else { EAGAIN });
        }
        let space = self.space(tid);
        let behind = from.saturating_add(end - to);
        let Some((first, source)) = space.at(from).filter(|(_, source)| source.end >= behind) else {
            return fails(EFAULT);
        };
        let Backing::File { object, offset, .. } = source.backing.part(from - first) else {
            return not_modelled("a copy of what is no file");
        };
        self.read(Thing::Bytes(object.clone(), offset, offset + (end - to)));
        let mut pages = Runs::default();
        pages.place(0, &self.content_of(&object, offset, offset + (end - to)));
        match backing {
            Backing::Segment(segment, offset) => {
                Arc::make_mut(self.segments.entry(segment).or_default()).place(offset, &pages);
            }
            _ => self.space_mut(tid).private.place(to, &pages),
        }
        Ok(0)
    }

    /// Both sides are one mapping of private memory each, which may be written and is protected alike (mm/userfaultfd.c,
    /// `validate_move_areas`). What is moved is not there any more.
    fn move_pages(
        &mut self,
        tid: u32,
        id: &ObjectId,
        (to, end): (u64, u64),
        (from, behind): (u64, u64),
    ) -> Call<i64> {
        self.read(Thing::Space(self.process_of(tid).space));
        let space = self.space(tid);
        let whole = |at: u64, end: u64| space.at(at).filter(|(_, mapping)| mapping.end >= end);
        let (Some((_, target)), Some((_, source))) = (whole(to, end), whole(from, behind)) else {
            return fails(EINVAL);
        };
        let is_writable = source.prot & PROT_WRITE != 0;
        let are_private = [source, target].iter().all(|mapping| mapping.backing == Backing::Anonymous);
        if target.registered.as_ref() != Some(id)
            || !is_writable
            || !are_private
            || source.prot != target.prot
            || source.flags & MAP_LOCKED != target.flags & MAP_LOCKED
        {
            return fails(EINVAL);
        }
        if !space.private.slice(to, end).is_empty() {
            return fails(if end - to == PAGE { EEXIST } else { EAGAIN });
        }
        let pages = space.private.slice(from, behind);
        // One that is not there is a hole, unless holes are to be skipped.
        if pages.iter().map(|(start, end, _)| end - start).sum::<u64>() < behind - from {
            return fails(if end - to == PAGE { ENOENT } else { EAGAIN });
        }
        let space = self.space_mut(tid);
        space.private.remove(from, behind);
        space.private.place(to, &pages);
        Ok(0)
    }
}
