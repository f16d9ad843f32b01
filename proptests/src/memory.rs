//! The memory of a world at its end against what the images say.
//!
//! The images' own form is compared: the checker's is not asked, so that it may be wrong, too. Of the kinds of mappings
//! there are those that synthetic forests have.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use regrow::image::{Alive, Extent, Image, Model, Vma, VmaKind};
use regrow_model::World;
use regrow_model::ids::{ObjectId, SegmentId};
use regrow_model::world::{Backing, Runs, Source};

const PAGE: u64 = 4096;

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

    /// `extents` are counted from `from` at the start of the mapping.
    fn content(&mut self, pid: u32, vma: &Vma, extents: &[Extent], from: u64) {
        let len = vma.end - vma.start;
        let mut wanted = Runs::default();
        wanted.insert(0, len, Source::Zero);
        for extent in extents.iter().filter_map(|extent| extent.within(from, from + len)) {
            let at = extent.start - from;
            let path = self.model.path(Image::Pages(extent.image));
            let file = ObjectId::Host(path.as_os_str().as_bytes().into());
            wanted.insert(at, at + extent.len_pages * PAGE, Source::File(file, extent.offset_bytes));
        }
        match self.world.memory(pid, vma.start, vma.end) {
            // A page that is inherited is its parent's, and holds the same bytes.
            Some(is) if is != wanted && bytes(&is).is_some_and(|held| Some(held) == bytes(&wanted)) => {}
            Some(is) => self.check(pid, vma.start, "the content", is, wanted),
            None => self.found.push(format!("task {pid}: {:#x} cannot be read", vma.start)),
        }
    }
}
