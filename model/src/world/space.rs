//! Address spaces: mappings as intervals, contents by source, copies on fork.
//!
//! A fork copies the mappings and what is private in them: what the kernel does page by page at the
//! first write has the same effect. Shared memory is the same object in both.
//!
//! # Sources
//! `mmap(2)`, `munmap(2)`, `mremap(2)`, `mprotect(2)`, `madvise(2)`, `prctl(2)` (PR_SET_MM),
//! `process_vm_writev(2)`; mm/mmap.c (`do_mmap`), mm/mremap.c, mm/mprotect.c, mm/madvise.c,
//! arch/x86/entry/vdso/vma.c (`map_vdso`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use regrow_graph::verify::MemoryEffect;

use super::file::{File, FileKind};
use super::object::{Description, O_PATH, Object};
use super::ring::Context;
use super::runs::{Runs, Source};
use super::{Call, World, fails, gives, not_modelled};
use crate::errno::{EACCES, EBADF, EBUSY, EEXIST, EFAULT, EINVAL, ENODEV, ENOMEM, EPERM};
use crate::footprint::{Access, Thing};
use crate::ids::{DescId, ObjectId, SegmentId, SpaceId};

pub(super) const PAGE: u64 = 4096;
/// Behind the last address of user space (arch/x86, TASK_SIZE_MAX with four levels of pages).
pub(super) const USER_END: u64 = 0x7fff_ffff_f000;
pub(super) const MAP_SHARED: u32 = 1;
const MAP_PRIVATE: u32 = 2;
const MAP_FIXED: u32 = 0x10;
pub(super) const MAP_LOCKED: u32 = 0x2000;
const MAP_ANONYMOUS: u32 = 0x20;
const MAP_NOREPLACE: u32 = 0x10_0000;
/// What is about the call alone and not about the mapping.
const ABOUT_THE_CALL: u32 = MAP_FIXED | MAP_NOREPLACE | 0x8000 | 0x10000;
pub(super) const PROT_WRITE: u32 = 2;
const MREMAP_FIXED: u32 = 2;
const MREMAP_MAYMOVE: u32 = 1;
const MREMAP_DONTUNMAP: u32 = 4;
const CAP_CHECKPOINT_RESTORE: u64 = 1 << 40;
const CAP_SYS_RESOURCE: u64 = 1 << 24;

/// What a mapping shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Backing {
    /// Zeroes, until something else is written.
    Anonymous,
    /// Shared anonymous memory, from an offset.
    Segment(SegmentId, u64),
    /// A file, from an offset; privately, what is written is the space's own.
    File {
        /// Which.
        object: ObjectId,
        /// From where.
        offset: u64,
        /// Writes go to it.
        shared: bool,
    },
    /// The tapes.
    Region,
    /// The kernel's variables below the vDSO.
    Vvar,
    /// The vDSO.
    Vdso,
    /// Something of the launcher's.
    Foreign,
    /// The ring of an AIO context.
    Ring,
}

impl Backing {
    /// The same, `skip` bytes further on.
    pub(super) fn part(&self, skip: u64) -> Backing {
        match self {
            Backing::Segment(id, offset) => Backing::Segment(*id, offset + skip),
            Backing::File { object, offset, shared } => {
                Backing::File { object: object.clone(), offset: offset + skip, shared: *shared }
            }
            Backing::Anonymous
            | Backing::Region
            | Backing::Vvar
            | Backing::Vdso
            | Backing::Foreign
            | Backing::Ring => self.clone(),
        }
    }

    fn is_shared(&self) -> bool {
        match self {
            Backing::Segment(..) | Backing::Region | Backing::Ring => true,
            Backing::File { shared, .. } => *shared,
            Backing::Anonymous | Backing::Vvar | Backing::Vdso | Backing::Foreign => false,
        }
    }
}

/// A mapping.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// Behind its last address.
    pub end: u64,
    /// `PROT_*`.
    pub prot: u32,
    /// `MAP_*`, without those about the call alone.
    pub flags: u32,
    /// What it shows.
    pub backing: Backing,
    /// Whether it may be made writable.
    pub may_write: bool,
    /// `MADV_*` that holds for it.
    pub advice: BTreeSet<u32>,
    /// The userfaultfd that it is registered with.
    pub(super) registered: Option<ObjectId>,
}

/// The layout that `PR_SET_MM_MAP` sets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Layout {
    /// The eleven addresses of `struct prctl_mm_map`.
    pub words: [u64; 11],
    /// The auxiliary vector.
    pub auxv: Vec<u8>,
    /// The executable.
    pub exe: Option<ObjectId>,
}

/// An address space.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Space {
    /// By first address.
    pub mappings: BTreeMap<u64, Mapping>,
    /// What is written in private mappings, by address.
    pub private: Runs,
    /// AIO contexts, by the addresses of their rings.
    pub contexts: BTreeMap<u64, Context>,
    /// A ring that the kernel put somewhere: the word that says where.
    pub(crate) floating: Option<(u64, Context)>,
    /// Addresses, auxiliary vector, executable.
    pub layout: Layout,
    /// `PR_SET_DUMPABLE`.
    pub dumpable: u64,
    /// `PR_SET_THP_DISABLE`.
    pub thp_disabled: bool,
    /// `MEMBARRIER_CMD_REGISTER_*`.
    pub membarrier: BTreeSet<u32>,
}

impl Space {
    /// The mapping that an address lies in, with its start.
    pub fn at(&self, address: u64) -> Option<(u64, &Mapping)> {
        let (start, mapping) = self.mappings.range(..=address).next_back()?;
        (mapping.end > address).then_some((*start, mapping))
    }

    fn split(&mut self, at: u64) {
        let Some((start, mapping)) = self.at(at).map(|(start, mapping)| (start, mapping.clone())) else {
            return;
        };
        if start == at {
            return;
        }
        let tail = Mapping { backing: mapping.backing.part(at - start), ..mapping.clone() };
        self.mappings.insert(at, tail);
        self.mappings.insert(start, Mapping { end: at, ..mapping });
    }

    fn within(&self, from: u64, to: u64) -> Vec<u64> {
        self.mappings.range(from..to).map(|(start, _)| *start).collect()
    }

    /// Takes mappings and their contents out of a range.
    pub(super) fn cut(&mut self, from: u64, to: u64) -> Vec<(u64, Mapping)> {
        self.split(from);
        self.split(to);
        let cut = self.within(from, to);
        let cut = cut.into_iter().filter_map(|start| Some((start, self.mappings.remove(&start)?))).collect();
        self.private.remove(from, to);
        cut
    }

    /// Whether every page of a range is mapped.
    pub(super) fn is_whole(&self, from: u64, to: u64) -> bool {
        let mut at = from;
        while at < to {
            match self.at(at) {
                Some((_, mapping)) => at = mapping.end,
                None => return false,
            }
        }
        true
    }

    /// Changes every mapping of a range.
    pub(super) fn change(&mut self, from: u64, to: u64, change: impl Fn(&mut Mapping)) {
        self.split(from);
        self.split(to);
        for start in self.within(from, to) {
            if let Some(mapping) = self.mappings.get_mut(&start) {
                change(mapping);
            }
        }
    }

    /// The mappings, those joined that differ in nothing and continue each other.
    pub fn joined(&self) -> Vec<(u64, Mapping)> {
        let mut joined: Vec<(u64, Mapping)> = Vec::new();
        for (start, mapping) in &self.mappings {
            if let Some((before, last)) = joined.last_mut()
                && last.end == *start
                && (last.prot, last.flags, &last.advice) == (mapping.prot, mapping.flags, &mapping.advice)
                && last.backing.part(start - *before) == mapping.backing
            {
                last.end = mapping.end;
                continue;
            }
            joined.push((*start, mapping.clone()));
        }
        joined
    }
}

/// A shared mapping as `shmat(2)` makes it.
pub(super) fn mapping_of(end: u64, prot: u32, backing: Backing, may_write: bool) -> Mapping {
    let advice = BTreeSet::new();
    Mapping { end, prot, flags: MAP_SHARED, backing, may_write, advice, registered: None }
}

/// A range of pages in user space.
pub(super) fn range(at: u64, len: u64) -> Call<(u64, u64)> {
    if !at.is_multiple_of(PAGE) {
        return fails(EINVAL);
    }
    let Some(end) = len.checked_next_multiple_of(PAGE).and_then(|len| at.checked_add(len)) else {
        return fails(ENOMEM);
    };
    if end > USER_END { fails(ENOMEM) } else { Ok((at, end)) }
}

impl World {
    pub(super) fn launch_space(&mut self, id: SpaceId) {
        let region = self.ground.region;
        let mapping = |end, prot, flags, backing| Mapping {
            end,
            prot,
            flags,
            backing,
            may_write: false,
            advice: BTreeSet::new(),
            registered: None,
        };
        let mut space = Space { dumpable: 1, ..Space::default() };
        for (start, end) in &self.ground.host.mappings {
            space.mappings.insert(*start, mapping(*end, 3, MAP_PRIVATE, Backing::Foreign));
        }
        if region.start < region.rw_end {
            space.mappings.insert(region.start, mapping(region.rw_end, 3, MAP_SHARED, Backing::Region));
        }
        if region.rw_end < region.end {
            space.mappings.insert(region.rw_end, mapping(region.end, 5, MAP_SHARED, Backing::Region));
        }
        self.spaces.insert(id, Arc::new(space));
    }

    pub(crate) fn space(&self, tid: u32) -> &Space {
        self.spaces.get(&self.process_of(tid).space).expect("a living process has an address space")
    }

    pub(super) fn space_mut(&mut self, tid: u32) -> &mut Space {
        let id = self.process_of(tid).space;
        self.write(Thing::Space(id));
        Arc::make_mut(self.spaces.entry(id).or_default())
    }

    /// A fork's copy, without what is marked not to go along (`madvise(2)`).
    pub(super) fn copy_space(&mut self, from: SpaceId, to: SpaceId) -> SpaceId {
        const DONTFORK: u32 = 10;
        const WIPEONFORK: u32 = 18;
        self.read(Thing::Space(from));
        let mut copy = self.spaces.get(&from).cloned().unwrap_or_default();
        if copy.mappings.values().any(|mapping| mapping.registered.is_some()) {
            for mapping in Arc::make_mut(&mut copy).mappings.values_mut() {
                mapping.registered = None;
            }
        }
        if !copy.contexts.is_empty() {
            // See `ring`.
            let space = Arc::make_mut(&mut copy);
            for start in std::mem::take(&mut space.contexts).into_keys() {
                if let Some(end) = space.mappings.get(&start).map(|mapping| mapping.end) {
                    space.cut(start, end);
                }
            }
        }
        let marked: Vec<(u64, u64, bool)> = copy
            .mappings
            .iter()
            .filter(|(_, mapping)| mapping.advice.contains(&DONTFORK) || mapping.advice.contains(&WIPEONFORK))
            .map(|(start, mapping)| (*start, mapping.end, mapping.advice.contains(&DONTFORK)))
            .collect();
        for (start, end, goes) in marked {
            let space = Arc::make_mut(&mut copy);
            if goes {
                space.cut(start, end);
            } else {
                space.private.remove(start, end);
            }
        }
        self.spaces.insert(to, copy);
        to
    }

    /// How many bytes from an address on can be written.
    fn writable(&mut self, tid: u32, at: u64, len: u64) -> u64 {
        self.read(Thing::Space(self.process_of(tid).space));
        let end = at.saturating_add(len);
        let mut to = at;
        while to < end {
            match self.space(tid).at(to) {
                Some((start, mapping)) if mapping.prot & PROT_WRITE != 0 => {
                    let limit = self.end_of_file(start, mapping);
                    to = mapping.end.min(limit);
                    if limit < mapping.end {
                        break;
                    }
                }
                Some(_) | None => break,
            }
        }
        to.min(end).saturating_sub(at)
    }

    /// Where in a mapping there is no page of its file any more.
    fn end_of_file(&self, start: u64, mapping: &Mapping) -> u64 {
        let Backing::File { object, offset, .. } = &mapping.backing else { return u64::MAX };
        match self.objects.get(object).map(|object| &**object) {
            Some(Object::File(File { size: Some(size), .. })) => {
                start.saturating_add(size.next_multiple_of(PAGE).saturating_sub(*offset))
            }
            Some(_) | None => u64::MAX,
        }
    }

    /// Writes into memory, as a system call does: where it is mapped and writable.
    pub(super) fn put(&mut self, tid: u32, at: u64, len: u64, source: &Source) -> Call<()> {
        let Some(end) = at.checked_add(len) else { return fails(EFAULT) };
        let id = self.process_of(tid).space;
        let mut from = at;
        while from < end {
            let Some((start, mapping)) = self.space(tid).at(from) else {
                self.read(Thing::Space(id));
                return fails(EFAULT);
            };
            let to = mapping.end.min(end);
            if self.end_of_file(start, mapping) < to {
                self.read(Thing::Space(id));
                return fails(EFAULT);
            }
            let (prot, backing) = (mapping.prot, mapping.backing.part(from - start));
            if prot & PROT_WRITE == 0 {
                self.read(Thing::Space(id));
                return fails(EFAULT);
            }
            let mut whole = Runs::default();
            whole.insert(0, len, source.clone());
            let piece = whole.slice(from - at, to - at);
            match backing {
                Backing::Region => self.read(Thing::Space(id)),
                Backing::Segment(segment, offset) => {
                    self.read(Thing::Space(id));
                    self.write(Thing::Pages(segment, offset, offset + (to - from)));
                    Arc::make_mut(self.segments.entry(segment).or_default()).place(offset, &piece);
                }
                Backing::File { object, offset, shared: true } => {
                    self.read(Thing::Space(id));
                    self.write(Thing::Bytes(object.clone(), offset, offset + (to - from)));
                    if let Some(shown) = self.objects.get_mut(&object)
                        && let Object::File(file) = Arc::make_mut(shown)
                    {
                        file.content.place(offset, &piece);
                    }
                }
                Backing::File { object, offset, shared: false } => {
                    // The first write to a page copies all of it: what is written to the file later is not seen.
                    let (first, last) = (from - from % PAGE, to.next_multiple_of(PAGE));
                    let offset = offset - from % PAGE;
                    self.note(Thing::Bytes(object.clone(), offset, offset + (last - first)), Access::Read);
                    let mut pages = self.content_of(&object, offset, offset + (last - first));
                    let space = self.space_mut(tid);
                    pages.place(0, &space.private.slice(first, last));
                    pages.place(from - first, &piece);
                    space.private.place(first, &pages);
                }
                Backing::Ring if from - start < 32 => return not_modelled("the head of a ring written to"),
                Backing::Anonymous | Backing::Vvar | Backing::Vdso | Backing::Foreign | Backing::Ring => {
                    self.space_mut(tid).private.place(from, &piece);
                }
            }
            from = to;
        }
        Ok(())
    }

    pub(super) fn change_memory(&mut self, tid: u32, effect: &MemoryEffect) -> Call<i64> {
        if self.space(tid).floating.is_some() && !matches!(effect, MemoryEffect::Ring(_)) {
            return not_modelled("memory beside a ring that is wherever the kernel put it");
        }
        match effect {
            MemoryEffect::Ring(effect) => self.change_ring(tid, *effect),
            MemoryEffect::Map { at, len, prot, flags, file } => {
                let file = file.map(|(fd, offset)| Ok((self.descriptor(tid, fd)?, offset))).transpose()?;
                self.map(tid, (*at, *len), *prot, *flags, file)
            }
            MemoryEffect::Remap { from, old_len, to, new_len, flags } => {
                self.remap(tid, (*from, *old_len), (*to, *new_len), *flags)
            }
            MemoryEffect::Attach { id, at, read_only } => self.attach(tid, *id, *at, *read_only),
            MemoryEffect::Unmap { at, len } => {
                if *len == 0 || at.checked_add(*len).is_none_or(|end| end.next_multiple_of(PAGE) > USER_END) {
                    return fails(EINVAL);
                }
                let (start, end) = range(*at, *len)?;
                let cut = self.space_mut(tid).cut(start, end);
                self.forget_writers(&cut);
                Ok(0)
            }
            MemoryEffect::Protect { at, len, prot } => {
                if prot & !0xf != 0 {
                    return not_modelled(format!("protection {prot:#x}"));
                }
                let (start, end) = range(*at, *len)?;
                let space = self.space_mut(tid);
                if !space.is_whole(start, end) {
                    return fails(ENOMEM);
                }
                space.split(start);
                space.split(end);
                let refuses = |start: &u64| {
                    prot & PROT_WRITE != 0
                        && space.mappings.get(start).is_some_and(|mapping| !mapping.may_write)
                };
                if space.within(start, end).iter().any(refuses) {
                    return fails(EACCES);
                }
                space.change(start, end, |mapping| mapping.prot = *prot);
                Ok(0)
            }
            MemoryEffect::Advise { at, len, advice } => self.advise(tid, *at, *len, *advice),
            MemoryEffect::Lock { at, len } => {
                let (start, end) = range(*at, *len)?;
                let space = self.space_mut(tid);
                if !space.is_whole(start, end) {
                    return fails(ENOMEM);
                }
                space.split(start);
                space.split(end);
                space.change(start, end, |mapping| mapping.flags |= MAP_LOCKED);
                Ok(0)
            }
            MemoryEffect::SetMm { words, auxv, exe } => {
                let exe = match exe {
                    Some(fd) => {
                        self.read(Thing::Thread(tid));
                        let capabilities = self.thread(tid).credentials.effective;
                        if capabilities & (CAP_CHECKPOINT_RESTORE | CAP_SYS_RESOURCE | 1 << 21) == 0 {
                            return fails(EPERM);
                        }
                        let desc = self.descriptor(tid, *fd)?;
                        self.read(Thing::Description(desc));
                        let object = self.description(desc).object.clone();
                        if !matches!(self.object(&object), Object::File(_)) {
                            return fails(EACCES);
                        }
                        // `replace_mm_exe_file`, kernel/fork.c.
                        let space = self.space(tid);
                        let is_mapped = |exe: &ObjectId| {
                            let shows = |mapping: &Mapping| matches!(&mapping.backing, Backing::File { object, .. } if object == exe);
                            space.mappings.values().any(shows)
                        };
                        if space.layout.exe.as_ref().is_some_and(is_mapped) {
                            return fails(EBUSY);
                        }
                        Some(object)
                    }
                    None => self.space(tid).layout.exe.clone(),
                };
                self.space_mut(tid).layout = Layout { words: *words, auxv: auxv.clone(), exe };
                Ok(0)
            }
            MemoryEffect::MapVdso { at } => self.map_vdso(tid, *at),
            MemoryEffect::Write { pieces } => {
                let wanted: usize = pieces.iter().map(|(_, bytes)| bytes.len()).sum();
                let mut written = 0;
                for (at, bytes) in pieces {
                    // It goes up to the first page that it cannot write (process_vm_writev(2)).
                    let len = self.writable(tid, *at, bytes.len() as u64) as usize;
                    let now = bytes.get(..len).unwrap_or_default();
                    self.put(tid, *at, len as u64, &Source::bytes(now))?;
                    written += len;
                    if len < bytes.len() {
                        break;
                    }
                }
                if written == 0 && wanted > 0 { fails(EFAULT) } else { gives(written as i64, wanted as i64) }
            }
        }
    }

    fn map(
        &mut self,
        tid: u32,
        (at, len): (u64, u64),
        prot: u32,
        flags: u32,
        file: Option<(DescId, u64)>,
    ) -> Call<i64> {
        if flags & (MAP_FIXED | MAP_NOREPLACE) == 0 {
            return not_modelled("an address of the kernel's choice");
        }
        // `ksys_mmap_pgoff` takes the file before anything else.
        if file.is_some_and(|(desc, _)| self.description(desc).flags & super::object::O_PATH != 0) {
            return fails(EBADF);
        }
        if len == 0 {
            return fails(EINVAL);
        }
        let (start, end) = range(at, len)?;
        let (shared, private) = (flags & 3 == MAP_SHARED || flags & 3 == 3, flags & 3 == MAP_PRIVATE);
        if !shared && !private {
            return fails(EINVAL);
        }
        let taken = self.space(tid);
        let is_taken = taken.at(start).is_some() || taken.mappings.range(start..end).next().is_some();
        if is_taken && flags & MAP_FIXED == 0 {
            return fails(EEXIST);
        }
        let mut may_write = true;
        let backing = match file {
            None if shared => {
                let id = SegmentId(self.made(tid, 0));
                self.write(Thing::Pages(id, 0, end - start));
                self.segments.insert(id, Arc::default());
                Backing::Segment(id, 0)
            }
            None => Backing::Anonymous,
            Some((desc, offset)) => {
                if flags & MAP_ANONYMOUS != 0 {
                    return not_modelled("a file in an anonymous mapping");
                }
                if !offset.is_multiple_of(PAGE) {
                    return fails(EINVAL);
                }
                self.read(Thing::Description(desc));
                let description = self.description(desc).clone();
                may_write = self.may_map(&description, shared, prot)?;
                Backing::File { object: description.object, offset, shared }
            }
        };
        let counts = matches!(&backing, Backing::File { shared: true, .. }) && may_write;
        if let Backing::File { object, .. } = &backing
            && counts
            && let Object::File(file) = self.object_mut(&object.clone())
            && file.kind == FileKind::Memfd
        {
            file.writers += 1;
        }
        let space = self.space_mut(tid);
        let cut = space.cut(start, end);
        let flags = flags & !ABOUT_THE_CALL;
        let mapping =
            Mapping { end, prot, flags, backing, may_write, advice: BTreeSet::new(), registered: None };
        space.mappings.insert(start, mapping);
        self.forget_writers(&cut);
        Ok(at as i64)
    }

    /// Whether a description can be mapped, and the mapping be made writable.
    fn may_map(&mut self, description: &Description, shared: bool, prot: u32) -> Call<bool> {
        const SEALS_WRITE: u32 = 0x18;
        if description.flags & O_PATH != 0 {
            return fails(EBADF);
        }
        if !description.reads() {
            return fails(EACCES);
        }
        self.read(Thing::Object(description.object.clone()));
        let sealed = match self.object(&description.object) {
            Object::File(file) if file.kind == FileKind::Directory => return fails(ENODEV),
            Object::File(file) => file.seals & SEALS_WRITE != 0,
            Object::Foreign => return not_modelled("a mapping of what the launcher had open"),
            Object::Pipe(_)
            | Object::Socket(_)
            | Object::Eventfd { .. }
            | Object::Epoll { .. }
            | Object::Timerfd { .. }
            | Object::Signalfd { .. }
            | Object::Userfault { .. } => {
                // Whether it may be written is looked at before.
                let refused = shared && prot & PROT_WRITE != 0 && !description.writes();
                return fails(if refused { EACCES } else { ENODEV });
            }
        };
        if !shared {
            return Ok(true);
        }
        if prot & PROT_WRITE != 0 && sealed {
            return fails(EPERM);
        }
        if prot & PROT_WRITE != 0 && !description.writes() {
            return fails(EACCES);
        }
        Ok(description.writes() && !sealed)
    }

    /// Mappings that could write to memfds are gone.
    pub(super) fn forget_writers(&mut self, cut: &[(u64, Mapping)]) {
        for (_, mapping) in cut {
            if let Backing::File { object, shared: true, .. } = &mapping.backing
                && mapping.may_write
                && let Object::File(file) = self.object_mut(object)
            {
                file.writers = file.writers.saturating_sub(1);
            }
        }
    }

    fn remap(&mut self, tid: u32, from: (u64, u64), to: (u64, u64), flags: u32) -> Call<i64> {
        if flags & !(MREMAP_FIXED | MREMAP_MAYMOVE | MREMAP_DONTUNMAP) != 0
            || flags & MREMAP_FIXED != 0 && flags & MREMAP_MAYMOVE == 0
        {
            return fails(EINVAL);
        }
        if flags == 0 {
            return self.grow(tid, from, to.1);
        }
        if flags & MREMAP_FIXED == 0 {
            return not_modelled("an address of the kernel's choice");
        }
        let Ok((start, old_end)) = range(from.0, from.1) else { return fails(EINVAL) };
        let Ok((target, target_end)) = range(to.0, to.1) else { return fails(EINVAL) };
        if target == target_end || target < old_end && start < target_end {
            return fails(EINVAL);
        }
        let keeps = flags & MREMAP_DONTUNMAP != 0;
        if keeps && from.1 != to.1 {
            return fails(EINVAL);
        }
        let space = self.space_mut(tid);
        let Some((first, mapping)) = space.at(start).map(|(first, mapping)| (first, mapping.clone())) else {
            // Since Linux 6.17 several mappings can be moved at once, with the holes between them.
            if space.mappings.range(start..old_end).next().is_some() && from.1 == to.1 {
                return not_modelled("a move of several mappings");
            }
            return fails(EFAULT);
        };
        // Behind the end of shared memory there is nothing, and where that is is not kept.
        if matches!(mapping.backing, Backing::Ring) {
            return not_modelled("a ring moved, or seen twice");
        }
        let grows =
            if start == old_end { start + (target_end - target) > mapping.end } else { to.1 > from.1 };
        if grows && matches!(mapping.backing, Backing::Segment(..)) {
            return not_modelled("a view beyond the end of shared memory");
        }
        if start == old_end && (target..target_end).contains(&start) {
            return not_modelled("a second view over the first");
        }
        if start == old_end {
            // A second view: "old_size is zero and old_address does not refer to a shareable mapping"
            // is an error (mremap(2)).
            if !mapping.backing.is_shared() {
                return fails(EINVAL);
            }
            let backing = mapping.backing.part(start - first);
            let cut = space.cut(target, target_end);
            space.mappings.insert(target, Mapping { end: target_end, backing, ..mapping.clone() });
            self.forget_writers(&cut);
            self.count_writer(&mapping);
            return Ok(target as i64);
        }
        if mapping.end < old_end {
            // Whether they are one to the kernel is its own affair.
            return not_modelled("a move of several mappings");
        }
        let private = space.private.slice(start, old_end.min(start + (target_end - target)));
        let moved = Mapping { end: target_end, backing: mapping.backing.part(start - first), ..mapping };
        let mut cut = space.cut(target, target_end);
        if keeps {
            space.private.remove(start, old_end);
        } else {
            cut.extend(space.cut(start, old_end).into_iter().skip(1));
        }
        space.mappings.insert(target, moved);
        space.private.place(target, &private);
        self.forget_writers(&cut);
        Ok(target as i64)
    }

    /// A mapping made longer in place: only at its end, and into free space.
    fn grow(&mut self, tid: u32, (at, len): (u64, u64), new_len: u64) -> Call<i64> {
        let Ok((start, old_end)) = range(at, len) else { return fails(EINVAL) };
        let Ok((_, end)) = range(at, new_len) else { return fails(EINVAL) };
        if start == end {
            return fails(EINVAL);
        }
        if end <= old_end || start == old_end {
            return not_modelled("memory made shorter, or of no length");
        }
        let space = self.space_mut(tid);
        let Some((_, mapping)) = space.at(start) else { return fails(EFAULT) };
        if mapping.end < old_end {
            // Whether they are one to the kernel is its own affair.
            return not_modelled("several mappings made longer");
        }
        match mapping.backing {
            Backing::Anonymous | Backing::File { .. } => {}
            // VM_DONTEXPAND.
            Backing::Vvar | Backing::Vdso | Backing::Ring => return fails(EFAULT),
            Backing::Segment(..) | Backing::Region | Backing::Foreign => {
                return not_modelled("a view beyond the end of shared memory");
            }
        }
        let is_free = space.at(old_end).is_none() && space.mappings.range(old_end..end).next().is_none();
        if mapping.end > old_end || !is_free {
            return fails(ENOMEM);
        }
        let first = space.at(start).map_or(start, |(first, _)| first);
        if let Some(mapping) = space.mappings.get_mut(&first) {
            mapping.end = end;
        }
        Ok(at as i64)
    }

    fn count_writer(&mut self, mapping: &Mapping) {
        if let Backing::File { object, shared: true, .. } = &mapping.backing
            && mapping.may_write
            && let Object::File(file) = self.object_mut(object)
        {
            file.writers += 1;
        }
    }

    fn advise(&mut self, tid: u32, at: u64, len: u64, advice: u32) -> Call<i64> {
        const DONTNEED: u32 = 4;
        let Ok((start, end)) = range(at, len) else { return fails(EINVAL) };
        // There is none of these numbers.
        if (26..100).contains(&advice) {
            return fails(EINVAL);
        }
        if start == end {
            return Ok(0);
        }
        let space = self.space_mut(tid);
        // WIPEONFORK is for private anonymous memory.
        let is_other = |start: &u64| !matches!(space.mappings[start].backing, Backing::Anonymous);
        let first = space.at(start).map_or(start, |(first, _)| first);
        if advice == 18 && space.within(first, end).iter().any(is_other) {
            return fails(EINVAL);
        }
        if !space.is_whole(start, end) {
            return fails(ENOMEM);
        }
        // What takes another back: DONTFORK and DOFORK, MERGEABLE and UNMERGEABLE, HUGEPAGE and
        // NOHUGEPAGE, DONTDUMP and DODUMP, WIPEONFORK and KEEPONFORK; NORMAL, RANDOM, SEQUENTIAL.
        let (sets, clears): (Option<u32>, &[u32]) = match advice {
            0 => (None, &[1, 2]),
            1 => (Some(1), &[2]),
            2 => (Some(2), &[1]),
            DONTNEED => {
                let is_ring = |start: &u64| matches!(space.mappings[start].backing, Backing::Ring);
                if space.within(first, end).iter().any(is_ring) {
                    return not_modelled("a ring told not to be needed");
                }
                space.private.remove(start, end);
                return Ok(0);
            }
            10 | 12 | 16 | 18 => (Some(advice), &[]),
            11 => (None, &[10]),
            13 => (None, &[12]),
            14 => (Some(14), &[15]),
            15 => (Some(15), &[14]),
            17 => (None, &[16]),
            19 => (None, &[18]),
            _ => return not_modelled(format!("advice {advice}")),
        };
        space.change(start, end, |mapping| {
            mapping.advice.retain(|other| !clears.contains(other));
            mapping.advice.extend(sets);
        });
        Ok(0)
    }

    /// `ARCH_MAP_VDSO_64`: the variables first, the code behind them.
    fn map_vdso(&mut self, tid: u32, at: u64) -> Call<i64> {
        let (vvar, vdso) = (self.ground.host.vvar_bytes, self.ground.host.vdso_bytes);
        let (start, end) = range(at, vvar + vdso)?;
        let space = self.space_mut(tid);
        let has_one =
            space.mappings.values().any(|mapping| matches!(mapping.backing, Backing::Vdso | Backing::Vvar));
        if has_one {
            return fails(EEXIST);
        }
        if space.at(start).is_some() || space.mappings.range(start..end).next().is_some() {
            return not_modelled("a vDSO where something else is");
        }
        let mapping = |end, prot, backing| Mapping {
            end,
            prot,
            flags: MAP_PRIVATE,
            backing,
            may_write: true,
            advice: BTreeSet::new(),
            registered: None,
        };
        space.mappings.insert(start, mapping(start + vvar, 1, Backing::Vvar));
        space.mappings.insert(start + vvar, mapping(end, 5, Backing::Vdso));
        Ok(vdso as i64)
    }

    /// What is in a range of memory, from its start on, by source; what is not mapped is left out.
    pub fn memory(&self, pid: u32, from: u64, to: u64) -> Option<Runs> {
        let space = self.spaces.get(&self.processes.get(&pid)?.space)?;
        let mut runs = Runs::default();
        let mut at = from;
        while at < to {
            let Some((start, mapping)) = space.at(at) else {
                at = space.mappings.range(at..to).next().map_or(to, |(start, _)| *start);
                continue;
            };
            let end = mapping.end.min(to);
            let content = match mapping.backing.part(at - start) {
                Backing::Segment(id, offset) => {
                    let mut content = Runs::default();
                    content.insert(0, end - at, Source::Zero);
                    if let Some(segment) = self.segments.get(&id) {
                        content.place(0, &segment.slice(offset, offset + (end - at)));
                    }
                    content
                }
                Backing::File { object, offset, .. } => self.content_of(&object, offset, offset + (end - at)),
                Backing::Anonymous | Backing::Ring => {
                    let mut content = Runs::default();
                    content.insert(0, end - at, Source::Zero);
                    content
                }
                Backing::Region | Backing::Vvar | Backing::Vdso | Backing::Foreign => Runs::default(),
            };
            runs.place(at - from, &content);
            runs.place(at - from, &space.private.slice(at, end));
            at = end;
        }
        Some(runs)
    }
}
