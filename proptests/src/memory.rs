//! The memory of a world at its end against what the images say.
//!
//! The images' own form is compared: the checker's is not asked, so that it may be wrong, too. Of the kinds of mappings
//! there are those that synthetic forests have.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use regrow::image::{AioRing, Alive, Extent, Image, Model, Vma, VmaKind};
use regrow_graph::verify::IpcKind;
use regrow_model::World;
use regrow_model::ids::{ObjectId, SegmentId};
use regrow_model::world::{Backing, Runs, Source};

const PAGE: u64 = 4096;
/// Bytes of the head of an AIO ring, which is the kernel's.
const RING_HEAD: u64 = 32;

/// What is not as the images say. Every mapping must be where the images have it, with the protection and the
/// sharing that they say, and hold what they say: the page of the file that they name, or the same bytes of another; and there must be no
/// other.
pub fn differences(world: &World, model: &Model) -> Vec<String> {
    let mut compare = Compare { world, model, segments: BTreeMap::new(), found: Vec::new() };
    for task in &model.tasks {
        if let Some(alive) = task.alive() {
            compare.task(task.pid.0, alive);
        }
    }
    compare.system_segments();
    let different: BTreeSet<_> = compare.segments.values().collect();
    if different.len() != compare.segments.len() {
        compare.found.push("two segments are one".to_owned());
    }
    compare.found
}

/// What ranges hold; `None`: something else than zeros and bytes of images.
fn bytes(runs: &Runs) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    for (start, end, source) in runs.iter() {
        let at = all.len();
        all.resize(at + usize::try_from(end - start).ok()?, 0);
        if let Source::File(ObjectId::Host(path), from) = source {
            let file = File::open(OsStr::from_bytes(path)).ok()?;
            file.read_exact_at(&mut all[at..], *from).ok()?;
        } else if *source != Source::Zero {
            return None;
        }
    }
    Some(all)
}

struct Compare<'a> {
    world: &'a World,
    model: &'a Model,
    /// Segments of the images as the model of the kernel calls them.
    segments: BTreeMap<u64, SegmentId>,
    found: Vec<String>,
}

impl Compare<'_> {
    fn check<T: PartialEq + std::fmt::Debug>(&mut self, pid: u32, at: u64, what: &str, is: T, wanted: T) {
        if is != wanted {
            self.found.push(format!("task {pid}: {at:#x}: {what} is {is:?}, the images say {wanted:?}"));
        }
    }

    fn task(&mut self, pid: u32, alive: &Alive) {
        let end = self.world.end();
        let Some(space) = end.processes.get(&pid).and_then(|process| end.spaces.get(&process.space)) else {
            self.found.push(format!("task {pid} has no memory"));
            return;
        };
        let contexts: Vec<u64> = space.contexts.keys().copied().collect();
        let rings: Vec<u64> = alive.mm.aio_rings.iter().map(|ring| ring.start).collect();
        self.check(pid, 0, "the list of AIO contexts", contexts, rings);
        // Neighbours that differ in nothing are one mapping to the kernel, and may be two to the images.
        let covered: u64 = space.mappings.iter().map(|(start, mapping)| mapping.end - start).sum();
        let wanted = alive.mm.vmas.iter().map(|vma| vma.end - vma.start).sum::<u64>();
        self.check(pid, 0, "the length of all mappings", covered, wanted);
        for vma in &alive.mm.vmas {
            let Some((start, mapping)) = space.at(vma.start).filter(|(_, mapping)| vma.end <= mapping.end)
            else {
                self.found.push(format!("task {pid}: {:#x} is not mapped", vma.start));
                continue;
            };
            self.check(pid, vma.start, "the protection", mapping.prot, vma.prot);
            match (&vma.kind, &mapping.backing) {
                (VmaKind::AnonPrivate, Backing::Anonymous) => {
                    let pages = &alive.mm.pages;
                    self.content(pid, vma, &pages.extents, vma.start);
                }
                (VmaKind::SysV { shmid, offset_bytes, read_only }, Backing::Segment(id, offset)) => {
                    self.check(pid, vma.start, "the offset", offset + (vma.start - start), *offset_bytes);
                    self.check(pid, vma.start, "whether it may be written", mapping.may_write, !read_only);
                    let namespace = end.threads.get(&pid).and_then(|thread| end.ipcs.get(&thread.ipc?));
                    let of = namespace.and_then(|ns| ns.objects.get(&(IpcKind::Segment, *shmid))?.segment);
                    self.check(pid, vma.start, "the segment", Some(*id), of);
                }
                (VmaKind::AioRing, Backing::Ring) => {
                    let ring = alive.mm.aio_rings.iter().find(|ring| ring.start == vma.start);
                    let context = space.contexts.get(&vma.start);
                    let wanted = |ring: &AioRing| (ring.len_bytes, (ring.head.into(), ring.tail.into()));
                    let is = context.map(|context| (context.len, context.ends()));
                    self.check(pid, vma.start, "the AIO context", is, ring.map(wanted));
                    let extents = ring.map_or(&[][..], |ring| ring.pages.as_slice());
                    let mut wanted = self.stored(extents, vma.start, vma.end - vma.start);
                    wanted.insert(0, RING_HEAD, Source::Zero);
                    let is = self.world.memory(pid, vma.start, vma.end);
                    self.check(pid, vma.start, "what is in the AIO ring", is, Some(wanted));
                }
                (VmaKind::AnonShared { shmid, offset_bytes }, Backing::Segment(id, offset)) => {
                    self.check(pid, vma.start, "the offset", offset + (vma.start - start), *offset_bytes);
                    // One segment is one segment to all.
                    let known = *self.segments.entry(*shmid).or_insert(*id);
                    self.check(pid, vma.start, "the segment", *id, known);
                    match self.model.shm.iter().find(|shm| shm.shmid == *shmid) {
                        Some(shm) => self.content(pid, vma, &shm.pages.extents, *offset_bytes),
                        None => self.found.push(format!("segment {shmid} has no pages")),
                    }
                }
                (kind, backing) => {
                    self.found.push(format!(
                        "task {pid}: {:#x} is {backing:?}, the images say {kind:?}",
                        vma.start
                    ));
                }
            }
        }
    }

    /// What System V segments hold, attached or not.
    fn system_segments(&mut self) {
        let end = self.world.end();
        let Some(ns) = self.model.own_ipc() else { return };
        for segment in &ns.segments {
            let id = segment.perm.id;
            let objects = end.ipcs.values().filter_map(|ipc| ipc.objects.get(&(IpcKind::Segment, id)));
            let runs = objects.filter_map(|object| end.segments.get(&object.segment?)).next();
            let stored = self.model.shm.iter().find(|shm| shm.shmid == u64::from(id));
            let (Some(runs), Some(stored)) = (runs, stored) else {
                self.found.push(format!("System V segment {id} has no memory, or no pages in the images"));
                continue;
            };
            let len = segment.size_bytes.next_multiple_of(PAGE);
            let mut is = Runs::default();
            is.insert(0, len, Source::Zero);
            is.place(0, runs);
            let wanted = self.stored(&stored.pages.extents, 0, len);
            if is != wanted {
                self.found.push(format!("System V segment {id} holds {is:?}, the images say {wanted:?}"));
            }
        }
    }

    /// So many bytes from `from` on, as extents have them.
    fn stored(&self, extents: &[Extent], from: u64, len: u64) -> Runs {
        let mut wanted = Runs::default();
        wanted.insert(0, len, Source::Zero);
        for extent in extents.iter().filter_map(|extent| extent.within(from, from + len)) {
            let at = extent.start - from;
            let path = self.model.path(Image::Pages(extent.image));
            let file = ObjectId::Host(path.as_os_str().as_bytes().into());
            wanted.insert(at, at + extent.len_pages * PAGE, Source::File(file, extent.offset_bytes));
        }
        wanted
    }

    /// `extents` are counted from `from` at the start of the mapping.
    fn content(&mut self, pid: u32, vma: &Vma, extents: &[Extent], from: u64) {
        let wanted = self.stored(extents, from, vma.end - vma.start);
        match self.world.memory(pid, vma.start, vma.end) {
            // A page that is inherited is its parent's, and holds the same bytes.
            Some(is) if is != wanted && bytes(&is).is_some_and(|held| Some(held) == bytes(&wanted)) => {}
            Some(is) => self.check(pid, vma.start, "the content", is, wanted),
            None => self.found.push(format!("task {pid}: {:#x} cannot be read", vma.start)),
        }
    }
}
