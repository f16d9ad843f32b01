//! Plans of made-up trees, played on the model of the kernel: small ones in every interleaving, large ones
//! under many schedules. All come to one and the same end, and that is what the images describe.
//!
//! The images are synthetic and written here; nothing is dumped or restored, so no privilege is needed.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regrow::certify::{self, Ground};
use regrow::image::{self, Extent, Model, VmaKind};
use regrow::lower;
use regrow::pipeline::{self, Prepared};
use regrow::resolve::Options;
use regrow::synth::model::synthesise;
use regrow::synth::random::Shape;
use regrow::tape::lift::lift;
use regrow_graph::verify::{Expected, LiftedTree, verify};
use regrow_model::world::{Backing, Source};
use regrow_model::{Bounds, End, Host, Schedule, World, everything, explore, ids::ObjectId, play, wanted};

/// A tree that was made up, planned, lowered and lifted again.
struct Planned {
    model: Model,
    lifted: LiftedTree,
    expected: Expected,
    _dir: tempfile::TempDir,
}

fn made_up(tasks: usize, depth: usize, shared_fds: usize, shared_maps: usize, seed: u64) -> Planned {
    let dir = tempfile::tempdir().unwrap();
    let shape = Shape {
        tasks,
        depth,
        shared_fds,
        shared_maps,
        with_pairs: true,
        first_pid: 21_000,
        directory: dir.path().join("files"),
        seed,
    };
    let forest = shape.forest();
    let images = dir.path().join("images");
    fs::create_dir(&shape.directory).unwrap();
    fs::create_dir(&images).unwrap();
    for (path, bytes) in shape.files(&forest) {
        fs::write(path, bytes).unwrap();
    }
    let executable = std::env::current_exe().unwrap();
    let ground = regrow::synth::model::Ground {
        own: &regrow::host::gather_own(),
        executable: executable.to_str().unwrap(),
    };
    let synthetic = synthesise(&forest, &ground).unwrap();
    image::write_model(&synthetic.model, &synthetic.contents, &images).unwrap();
    planned(&images, dir)
}

fn planned(images: &Path, dir: tempfile::TempDir) -> Planned {
    // That pids are taken here keeps nobody from looking at the plan.
    let (prepared, problems) = pipeline::try_prepare(images, &Options::default()).unwrap();
    let Some(Prepared { model, facts, tapes, .. }) = prepared else { panic!("{problems:?}") };
    let lifted = lift(&tapes).unwrap();
    let expected = certify::expected(&model, &Ground::of(&facts, certify::Cradle::default())).unwrap();
    Planned { model, lifted, expected, _dir: dir }
}

fn world(tree: &LiftedTree) -> World {
    World::new(tree, Host::default()).unwrap()
}

/// Plays a plan under a schedule; everybody must come to his end.
#[track_caller]
fn played(tree: &LiftedTree, schedule: Schedule) -> World {
    let played = play(world(tree), schedule);
    let faults: Vec<String> = played.faults.iter().map(ToString::to_string).collect();
    assert!(faults.is_empty(), "{schedule:?}: {faults:?}");
    assert!(played.stuck.is_empty(), "{schedule:?}: {:?}", played.stuck);
    played.world
}

/// Every mapping is where the images have it, with the protection and the sharing that they say, and holds
/// what they say, down to which page of which file; and there is no other.
#[track_caller]
fn compare_memory(world: &World, model: &Model) {
    let end = world.end();
    let file = |id: u32| {
        ObjectId::Host(model.dir.join(format!("pages-{id}.img")).to_str().unwrap().as_bytes().into())
    };
    let mut segments = BTreeMap::new();
    let mut compared = 0;
    for task in &model.tasks {
        let Some(alive) = task.alive() else { continue };
        let pid = task.pid.0;
        let space = &end.spaces[&end.processes[&pid].space];
        // Neighbours that differ in nothing are one mapping to the kernel, and may be two to the images.
        let is: BTreeSet<u64> = space.mappings.keys().copied().collect();
        let covered: u64 = space.mappings.iter().map(|(start, mapping)| mapping.end - start).sum();
        assert_eq!(covered, alive.mm.vmas.iter().map(|vma| vma.end - vma.start).sum::<u64>(), "task {pid}");
        for vma in &alive.mm.vmas {
            let (start, mapping) =
                space.at(vma.start).unwrap_or_else(|| panic!("{pid}: {:#x} {is:x?}", vma.start));
            assert!(vma.end <= mapping.end, "task {pid}: {:#x}", vma.start);
            assert_eq!(mapping.prot, vma.prot, "task {pid}: {:#x}", vma.start);
            let mut wanted = regrow_model::world::Runs::default();
            wanted.insert(0, vma.end - vma.start, Source::Zero);
            let mut fill = |id: u32, extents: &[Extent], from: u64| {
                for extent in
                    extents.iter().filter_map(|extent| extent.within(from, from + (vma.end - vma.start)))
                {
                    let at = extent.start - from;
                    wanted.insert(
                        at,
                        at + extent.len_pages * 4096,
                        Source::File(file(id), extent.offset_bytes),
                    );
                }
            };
            match vma.kind {
                VmaKind::AnonPrivate => {
                    assert_eq!(mapping.backing, Backing::Anonymous, "task {pid}: {:#x}", vma.start);
                    fill(alive.mm.pages.pages_id, &alive.mm.pages.extents, vma.start);
                }
                VmaKind::AnonShared { shmid, offset_bytes } => {
                    let Backing::Segment(id, offset) = mapping.backing else {
                        panic!("{:?}", mapping.backing)
                    };
                    assert_eq!(offset + (vma.start - start), offset_bytes, "task {pid}: {:#x}", vma.start);
                    // One segment is one segment to all.
                    assert_eq!(*segments.entry(shmid).or_insert(id), id);
                    let shm = model.shm.iter().find(|shm| shm.shmid == shmid).unwrap();
                    fill(shm.pages.pages_id, &shm.pages.extents, offset_bytes);
                }
                other => panic!("no synthetic task has {other:?}"),
            }
            let is = world.memory(pid, vma.start, vma.end).unwrap();
            assert_eq!(is, wanted, "task {pid}: {:#x}", vma.start);
            compared += 1;
        }
    }
    let different: BTreeSet<_> = segments.values().collect();
    assert_eq!(different.len(), segments.len());
    assert!(compared > 0);
}

/// All interleavings of a plan come to one end, and that is what the images say.
#[track_caller]
fn check_all(planned: &Planned) -> regrow_model::Found {
    let world = world(&planned.lifted);
    let found = explore(&world, Bounds::default());
    assert!(!found.is_cut);
    assert_eq!(found.deadlocks, BTreeSet::new());
    assert!(found.is_one_end(), "{} ends", found.ends.len());
    let end = found.ends.iter().next().unwrap();
    assert_eq!(wanted::differences(end, &planned.expected), Vec::<String>::new());
    let lowest = played(&planned.lifted, Schedule::Lowest);
    assert_eq!(lowest.end(), *end);
    compare_memory(&lowest, &planned.model);
    found
}

#[test]
fn small_trees_in_every_interleaving() {
    for (tasks, depth, seed) in [(1, 1, 1), (2, 1, 2), (3, 2, 3), (4, 2, 4), (6, 3, 5), (8, 3, 6)] {
        let planned = made_up(tasks, depth, 2 * tasks, tasks / 2, seed);
        let found = check_all(&planned);
        eprintln!(
            "{tasks} tasks, seed {seed}: {} runs, {} states, {} steps",
            found.runs, found.states, found.transitions
        );
    }
}
