//! A tree of three tasks whose address spaces end as the images say, and what loses the certificate.
//!
//! Task 10 has a file mapped and pages of its own, and makes shared memory that 11 and 12 see, too; what
//! 11 has of its own it inherits; 12 starts with nothing but the carrier.

mod copies;
mod huge;
mod rings;
mod stages;

use std::collections::BTreeMap;

use super::super::*;
use super::state::{MAP_GROWSDOWN, MAP_LOCKED, MAP_NORESERVE};
use crate::ids::{Fd, OfdId};

const SIGCHLD: u64 = 17;
const BASE: u64 = 0x1_0000_0000;
/// Behind the tapes; the carriers are from here on.
const CARRIERS: u64 = BASE + 0x1_0000;
const WINDOW_END: u64 = BASE + 0x10_0000;
const RW: u32 = 3;
/// MAP_PRIVATE, MAP_ANONYMOUS, MAP_FIXED_NOREPLACE.
const PRIVATE: u32 = 0x10_0022;
const SHARED: u32 = 0x10_0021;
/// MAP_FIXED instead.
const OVER: u32 = 0x32;

type Tapes = BTreeMap<u32, Vec<Effect>>;

fn memory(effect: MemoryEffect) -> Effect {
    Effect::Memory(effect)
}

fn map_as(at: u64, len: u64, prot: u32, flags: u32) -> Effect {
    memory(MemoryEffect::Map { at, len, prot, flags, file: None })
}

fn map(at: u64, len: u64) -> Effect {
    map_as(at, len, RW, PRIVATE)
}

fn map_file(at: u64, len: u64, prot: u32, flags: u32, file: (Fd, u64)) -> Effect {
    memory(MemoryEffect::Map { at, len, prot, flags, file: Some(file) })
}

fn unmap(at: u64, len: u64) -> Effect {
    memory(MemoryEffect::Unmap { at, len })
}

fn protect(at: u64, len: u64, prot: u32) -> Effect {
    memory(MemoryEffect::Protect { at, len, prot })
}

fn advise(at: u64, len: u64, advice: u32) -> Effect {
    memory(MemoryEffect::Advise { at, len, advice })
}

fn view(from: u64, to: u64, new_len: u64) -> Effect {
    memory(MemoryEffect::Remap { from, old_len: 0, to, new_len, flags: 3 })
}

fn relocate(from: u64, old_len: u64, to: u64, new_len: u64) -> Effect {
    memory(MemoryEffect::Remap { from, old_len, to, new_len, flags: 3 })
}

fn open(path: &str, flags: u32, fd: Fd) -> Effect {
    Effect::Fd(FdEffect::Open { path: path.into(), flags, fd })
}

fn close(fd: Fd) -> Effect {
    Effect::Fd(FdEffect::Close { fd })
}

fn read(fd: Fd, into: &[(u64, u64)], offset: u64) -> Effect {
    Effect::Object { fd, change: Change::Read { into: into.to_vec(), offset: Some(offset) } }
}

fn fork(pid: u32) -> Effect {
    Effect::Fork(Birth { pid, flags: 0, exit_signal: SIGCHLD, cgroup: None })
}

fn bare() -> Vec<Effect> {
    vec![unmap(0, BASE), unmap(WINDOW_END, super::USER_END - WINDOW_END)]
}

fn tapes() -> Tapes {
    let mut root = bare();
    root.extend([
        Effect::Fd(FdEffect::CloseRange { first: 0, last: Fd::MAX, only_mark: false, unshare: false }),
        map_as(CARRIERS, 0x4000, RW, SHARED),
        open("/images/pages-9.img", 0, 0),
        read(0, &[(CARRIERS + 0x1000, 0x2000)], 0x5000),
        close(0),
        fork(12),
        // Record 8.
        map(0x10000, 0x4000),
        open("/images/pages-1.img", 0, 0),
        read(0, &[(0x11000, 0x1000), (0x13000, 0x1000)], 0x7000),
        close(0),
        fork(11),
        open("/lib", 0, 0),
        // Record 14.
        map_file(0x20000, 0x2000, RW, 0x10_0002, (0, 0x3000)),
        open("/images/pages-1.img", 0, 1),
        read(1, &[(0x20000, 0x1000)], 0x9000),
        protect(0x20000, 0x2000, 5),
        // Record 18.
        view(CARRIERS + 0x1000, 0x30000, 0x2000),
        protect(0x30000, 0x2000, 1),
        map_as(0x40000, 0x3000, RW, PRIVATE | MAP_NORESERVE | MAP_GROWSDOWN | MAP_LOCKED),
        advise(0x40000, 0x3000, 14),
        advise(0x41000, 0x1000, 10),
        close(0),
        close(1),
        map_as(0x50000, 0x4000, RW, PRIVATE),
        advise(0x51000, 0x2000, 102),
        Effect::Arrive,
        Effect::Park,
    ]);
    let heir = vec![
        // The mapping is its parent's, the pages are its own.
        open("/images/pages-2.img", 0, 0),
        read(0, &[(0x11000, 0x1000), (0x13000, 0x1000)], 0),
        close(0),
        protect(0x12000, 0x1000, 0),
        view(CARRIERS, 0x60000, 0x4000),
        Effect::Arrive,
        Effect::Park,
    ];
    let bare_heir = vec![
        view(CARRIERS + 0x1000, 0x30000, 0x1000),
        view(CARRIERS + 0x3000, 0x80000, 0x1000),
        Effect::Arrive,
        Effect::Park,
    ];
    BTreeMap::from([(10, root), (11, heir), (12, bare_heir)])
}

fn pages(number: u32, extents: &[(u64, u64, u64)]) -> ExpectedPages {
    let extents =
        extents.iter().map(|(at, len, from)| PageExtent { at: *at, len: *len, file: 0, from: *from });
    let files = vec![format!("/images/pages-{number}.img").into_bytes()];
    ExpectedPages { files, extents: extents.collect() }
}

fn mapping(start: u64, end: u64, prot: u32, shows: Shown) -> ExpectedMapping {
    ExpectedMapping { start, end, prot, flags: 0x22, advice: 0, shows }
}

fn shared(offset: u64) -> Shown {
    Shown::Segment { segment: 0x77, offset }
}

fn task(pid: u32, ppid: u32, space: ExpectedSpace) -> ExpectedTask {
    ExpectedTask { pid, ppid, space: Some(Box::new(space)), ..ExpectedTask::default() }
}

fn expected() -> Expected {
    let private = Shown::Anonymous;
    let file = Shown::File { ofd: OfdId(0), offset: 0x3000, shared: None };
    let down = MAP_GROWSDOWN | MAP_LOCKED | MAP_NORESERVE | 0x22;
    let stack =
        |start, end, advice| ExpectedMapping { flags: down, advice, ..mapping(start, end, RW, private) };
    let root = ExpectedSpace {
        mappings: vec![
            // In two, as the kernel never has it.
            mapping(0x10000, 0x12000, RW, private),
            mapping(0x12000, 0x14000, RW, private),
            mapping(0x20000, 0x22000, 5, file),
            mapping(0x30000, 0x32000, 1, shared(0x1000)),
            stack(0x40000, 0x41000, 1 << 14),
            stack(0x41000, 0x42000, 1 << 14 | 1 << 10),
            stack(0x42000, 0x43000, 1 << 14),
            mapping(0x50000, 0x54000, RW, private),
        ],
        guards: vec![(0x51000, 0x53000)],
        pages: pages(1, &[(0x11000, 0x1000, 0x7000), (0x13000, 0x1000, 0x8000), (0x20000, 0x1000, 0x9000)]),
    };
    let heir = ExpectedSpace {
        mappings: vec![
            mapping(0x10000, 0x12000, RW, private),
            mapping(0x12000, 0x13000, 0, private),
            mapping(0x13000, 0x14000, RW, private),
            mapping(0x60000, 0x64000, RW, shared(0)),
        ],
        guards: Vec::new(),
        pages: pages(2, &[(0x11000, 0x1000, 0), (0x13000, 0x1000, 0x1000)]),
    };
    let bare_heir = ExpectedSpace {
        mappings: vec![
            mapping(0x30000, 0x31000, RW, shared(0x1000)),
            mapping(0x80000, 0x81000, RW, shared(0x3000)),
        ],
        ..ExpectedSpace::default()
    };
    let spec = OfdSpec::Path { path: b"/lib".to_vec(), position: None };
    let segment = ExpectedSegment { len: 0x4000, pages: pages(9, &[(0x1000, 0x2000, 0x5000)]) };
    Expected {
        tasks: vec![task(10, 0, root), task(11, 10, heir), task(12, 10, bare_heir)],
        ofds: vec![ExpectedOfd { name: "file 0x1 (/lib)".into(), spec, ..ExpectedOfd::default() }],
        paths: [b"/lib".to_vec()].into(),
        images: vec![b"/images".to_vec()],
        segments: [(0x77, segment)].into(),
        ..Expected::default()
    }
}

fn run(change: impl FnOnce(&mut Tapes, &mut Expected)) -> Result<Certificate, Counterexample> {
    run_with(change, &mut |_| false)
}

fn run_with(
    change: impl FnOnce(&mut Tapes, &mut Expected),
    is_alike: &mut dyn FnMut(&Alike<'_>) -> bool,
) -> Result<Certificate, Counterexample> {
    run_knowing(change, &|_| false, is_alike)
}

fn run_knowing(
    change: impl FnOnce(&mut Tapes, &mut Expected),
    is_known: &(dyn Fn(&Alike<'_>) -> bool + Sync),
    is_alike: &mut dyn FnMut(&Alike<'_>) -> bool,
) -> Result<Certificate, Counterexample> {
    let (mut tapes, mut expected) = (tapes(), expected());
    change(&mut tapes, &mut expected);
    let tasks = tapes.into_iter().map(|(pid, effects)| {
        let effects = effects.into_iter().zip(0..).map(|(effect, record)| Lifted { record, effect });
        LiftedTask { pid, effects: effects.collect() }
    });
    let tree = LiftedTree {
        region: Region { start: BASE, rw_end: BASE + 0x8000, end: CARRIERS, window_end: WINDOW_END },
        total: 3,
        root: Birth { pid: 10, flags: 0, exit_signal: SIGCHLD, cgroup: None },
        tasks: tasks.collect(),
        ..LiftedTree::default()
    };
    verify_with(&tree, &expected, is_known, is_alike)
}

fn of(tapes: &mut Tapes, pid: u32) -> &mut Vec<Effect> {
    tapes.get_mut(&pid).expect("a tape")
}

/// Before the task arrives.
fn last(tapes: &mut Tapes, pid: u32, steps: Vec<Effect>) {
    let tape = of(tapes, pid);
    let at = tape.iter().position(|effect| *effect == Effect::Arrive).expect("it arrives");
    tape.splice(at..at, steps);
}

#[track_caller]
fn passes(change: impl FnOnce(&mut Tapes, &mut Expected)) -> Certificate {
    run(change).unwrap_or_else(|counterexample| panic!("{counterexample}"))
}

#[track_caller]
fn refuse(change: impl FnOnce(&mut Tapes, &mut Expected), words: &str) {
    match run(change) {
        Ok(certificate) => panic!("a certificate, expected: {words}\n{certificate}"),
        Err(counterexample) => {
            assert!(counterexample.to_string().contains(words), "{counterexample}\nexpected: {words}");
        }
    }
}

/// One record of a task is another, or none.
#[track_caller]
fn lost(pid: u32, at: usize, by: Option<Effect>, words: &str) {
    refuse(|t, _| drop(of(t, pid).splice(at..=at, by)), words);
}

fn space(expected: &mut Expected, task: usize) -> &mut ExpectedSpace {
    expected.tasks[task].space.as_mut().expect("it lives")
}

#[test]
fn the_spaces_end_as_the_images_say() {
    let certificate = passes(|_, _| ());
    assert_eq!((certificate.mappings, certificate.pages, certificate.segments), (14, 3 + 2 + 2, 1));
    assert_eq!(
        certificate.to_string().lines().nth(3),
        Some("  3 address spaces: 14 mappings, 7 pages, 1 segments of shared memory, by 21 changes")
    );
}

#[test]
fn records_left_out() {
    let tapes = tapes();
    for (pid, tape) in &tapes {
        for (at, effect) in tape.iter().enumerate() {
            let is_memory = match effect {
                Effect::Memory(_) => true,
                Effect::Object { change, .. } => matches!(change, Change::Read { .. }),
                _ => false,
            };
            if is_memory {
                let left = run(|t, _| drop(of(t, *pid).remove(at)));
                assert!(left.is_err(), "task {pid}, record {at}: {effect:?} is not needed");
            }
        }
    }
}

#[test]
fn mappings_that_end_otherwise() {
    let nothing = "task 10: 0x10000..0x12000 ends as nothing, the images say private memory, rw-";
    refuse(|t, _| last(t, 10, vec![unmap(0x10000, 0x4000)]), nothing);
    refuse(
        |t, _| last(t, 10, vec![map(0x90000, 0x1000)]),
        "task 10: 0x90000..0x91000 ends as private memory, rw-, the images say nothing",
    );
    refuse(
        |t, _| last(t, 12, vec![unmap(0x30000, 0x1000)]),
        "task 12: 0x30000..0x31000 ends as nothing, the images say the shared memory 0x77 that task 10 has at 0x30000, from 0x1000, rw-",
    );
    lost(
        10,
        17,
        Some(protect(0x20000, 0x1000, 5)),
        "0x21000..0x22000 ends as a private mapping of file /lib, from 0x4000, rw-, the images say a private mapping of file 0x1 (/lib), from 0x4000, r-x",
    );
    lost(10, 14, Some(map_file(0x20000, 0x2000, RW, 0x10_0002, (0, 0x2000))), "file /lib, from 0x2000");
    lost(
        10,
        14,
        Some(map_file(0x20000, 0x2000, 1, 0x10_0001, (0, 0x3000))),
        "read of 0x20000..0x21000: not writable then",
    );
    lost(
        10,
        20,
        Some(map_as(0x40000, 0x3000, RW, PRIVATE)),
        "private memory, rw-, advice 14, the images say private memory, rw-, grows down, locked, not reserved, advice 14",
    );
    lost(10, 22, Some(advise(0x41000, 0x1000, 16)), "advice 14, advice 16, the images say private memory");
    lost(10, 21, Some(advise(0x40000, 0x3000, 15)), "advice 15");
    lost(
        10,
        26,
        Some(advise(0x51000, 0x1000, 102)),
        "0x52000..0x53000 ends without a guard, the images say with",
    );
    refuse(|t, _| last(t, 10, vec![advise(0x51000, 0x1000, 103)]), "0x51000..0x52000 ends without a guard");
    lost(10, 1, None, "ends with what the launcher may have had there");
    lost(10, 0, Some(unmap(0, BASE - 0x1000)), "0xfffff000..0x100000000 ends with what the launcher");
    refuse(
        |_, e| space(e, 1).mappings[1].prot = 1,
        "0x12000..0x13000 ends as private memory, ---, the images say private memory, r--",
    );
    refuse(
        |_, e| space(e, 0).mappings[0].flags |= 0x4_0000,
        "the images say private memory, rw-, flags 0x40000",
    );
    refuse(|_, e| space(e, 0).mappings[0].shows = Shown::Droppable, "the images say droppable memory");
}

#[test]
fn another_file() {
    passes(|_, e| space(e, 0).mappings[2].prot = 5);
    refuse(
        |_, e| e.ofds[0].spec = OfdSpec::Path { path: b"/other".to_vec(), position: None },
        "0x20000..0x22000 ends as a private mapping of file /lib",
    );
    let shared = |access: u32, change: Option<Effect>, wanted: bool| {
        move |t: &mut Tapes, e: &mut Expected| {
            of(t, 10).splice(
                13..18,
                [open("/lib", access, 0), map_file(0x20000, 0x2000, 1, SHARED & !0x20, (0, 0x3000))],
            );
            of(t, 10).insert(15, open("/lib", 0, 1));
            last(t, 10, change.into_iter().collect());
            let space = space(e, 0);
            space.mappings[2] = mapping(
                0x20000,
                0x22000,
                1,
                Shown::File { ofd: OfdId(0), offset: 0x3000, shared: Some(wanted) },
            );
            space.pages.extents.pop();
        }
    };
    passes(shared(0, None, false));
    passes(shared(2, None, true));
    refuse(
        shared(0, None, true),
        "a shared mapping for reading of file /lib, from 0x3000, r--, the images say a shared mapping of file",
    );
    refuse(shared(2, None, false), "ends as a shared mapping of file /lib");
    refuse(
        shared(0, Some(protect(0x20000, 0x1000, RW)), false),
        "mprotect on file /lib: the kernel refuses that",
    );
    passes(shared(2, Some(protect(0x20000, 0x1000, 1)), true));
    refuse(
        shared(2, Some(protect(0x20000, 0x1000, RW)), true),
        "0x20000..0x21000 ends as a shared mapping of file /lib, from 0x3000, rw-",
    );
}

#[test]
fn pages_that_end_otherwise() {
    let none = "no bytes of an image";
    lost(
        10,
        10,
        Some(read(0, &[(0x11000, 0x1000), (0x12000, 0x1000)], 0x7000)),
        "0x12000..0x13000 ends with the bytes of /images/pages-1.img from 0x8000, the images say no bytes",
    );
    lost(
        10,
        10,
        Some(read(0, &[(0x11000, 0x1000), (0x13000, 0x1000)], 0x6000)),
        "0x11000..0x12000 ends with the bytes of /images/pages-1.img from 0x6000, the images say the bytes of /images/pages-1.img from 0x7000",
    );
    lost(
        10,
        10,
        Some(read(0, &[(0x11000, 0x1000), (0x13000, 0xfff)], 0x7000)),
        &format!("0x13fff..0x14000 ends with {none}"),
    );
    lost(10, 9, Some(open("/images/pages-3.img", 0, 0)), "the bytes of /images/pages-3.img from 0x7000");
    lost(10, 9, Some(open("/images/pages-11.img", 0, 0)), "the bytes of /images/pages-11.img from 0x7000");
    lost(10, 9, Some(open("/images/../pages-1.img", 0, 0)), "which the images do not mention");
    lost(11, 1, None, "task 11: 0x11000..0x12000 ends with the bytes of /images/pages-1.img");
    refuse(
        |t, _| last(t, 10, vec![advise(0x13000, 0x1000, 4)]),
        &format!(
            "task 10: 0x13000..0x14000 ends with {none}, the images say the bytes of /images/pages-1.img from 0x8000"
        ),
    );
    refuse(
        |t, _| last(t, 10, vec![advise(0x11000, 0x1000, 102), advise(0x11000, 0x1000, 103)]),
        &format!("0x11000..0x12000 ends with {none}"),
    );
    refuse(
        |t, _| last(t, 10, vec![map_as(0x13000, 0x1000, RW, OVER)]),
        &format!("0x13000..0x14000 ends with {none}"),
    );
    refuse(
        |t, _| last(t, 10, vec![unmap(0x13000, 0x1000), map(0x13000, 0x1000)]),
        &format!("0x13000..0x14000 ends with {none}"),
    );
    refuse(
        |_, e| space(e, 0).pages.extents.truncate(2),
        &format!(
            "0x20000..0x21000 ends with the bytes of /images/pages-1.img from 0x9000, the images say {none}"
        ),
    );
    // Where nothing can be written.
    lost(10, 8, Some(map_as(0x10000, 0x4000, 1, PRIVATE)), "read of 0x11000..0x12000: not writable then");
    lost(10, 8, Some(map(0x10000, 0x3000)), "read of 0x13000..0x14000: nothing is mapped there then");
    refuse(
        |t, _| last(t, 10, vec![open("/images/pages-1.img", 0, 0), read(0, &[(0x50000, 0x2000)], 0)]),
        "read of 0x51000..0x53000: a guard is there",
    );
}

/// Pages of two files, of which one is in the directory of a dump before.
#[test]
fn pages_of_several_files() {
    let before = "/before/pages-1.img";
    // The page at 0x13000 is the second of that file, instead of the second of the other.
    let spread = |t: &mut BTreeMap<u32, Vec<Effect>>, e: &mut Expected, from: u64| {
        e.images.push(b"/before".to_vec());
        let pages = &mut space(e, 0).pages;
        pages.files.push(before.as_bytes().to_vec());
        let extents = pages.extents.iter_mut();
        extents
            .filter(|extent| extent.at == 0x13000)
            .for_each(|extent| (extent.file, extent.from) = (1, 0x1000));
        let fill = [open(before, 0, 1), read(1, &[(0x13000, 0x1000)], from), close(1)];
        of(t, 10).splice(11..11, fill);
    };
    passes(|t, e| spread(t, e, 0x1000));
    refuse(
        |t, e| spread(t, e, 0x2000),
        "0x13000..0x14000 ends with the bytes of /before/pages-1.img from 0x2000, the images say the bytes of /before/pages-1.img from 0x1000",
    );
    // The same page of the other file.
    refuse(
        |t, e| {
            spread(t, e, 0x1000);
            space(e, 0).pages.files[1] = b"/images/pages-1.img".to_vec();
        },
        "ends with the bytes of /before/pages-1.img from 0x1000, the images say the bytes of /images/pages-1.img from 0x1000",
    );
    // A directory that is none of the images'.
    refuse(
        |t, e| {
            spread(t, e, 0x1000);
            e.images.pop();
        },
        "opens /before/pages-1.img, which the images do not mention",
    );
    // A file that is none.
    refuse(
        |t, e| {
            spread(t, e, 0x1000);
            space(e, 0).pages.files.pop();
        },
        "the images say the bytes of  from 0x1000",
    );
}

#[test]
fn shared_memory_is_one_thing() {
    let again = |at: u64| map_as(at, 0x4000, RW, SHARED);
    // Filled by somebody else, of one of its views.
    passes(|t, _| {
        let fill: Vec<Effect> = of(t, 10).drain(4..6).collect();
        of(t, 10).remove(4);
        let into = read(0, &[(0x61000, 0x2000)], 0x5000);
        last(t, 11, vec![fill[0].clone(), into, close(0)]);
    });
    lost(
        10,
        5,
        Some(read(0, &[(CARRIERS + 0x1000, 0x1000)], 0x5000)),
        "task 10: shared memory 0x77, 0x2000..0x3000, ends with no bytes of an image, the images say the bytes of /images/pages-9.img from 0x6000",
    );
    lost(
        10,
        5,
        Some(read(0, &[(CARRIERS, 0x3000)], 0x4000)),
        "shared memory 0x77, 0x0..0x1000, ends with the bytes of /images/pages-9.img from 0x4000, the images say no bytes",
    );
    lost(10, 3, Some(again(CARRIERS + 0x1000)), "no carrier that this task has is there");
    lost(
        10,
        3,
        Some(map_as(CARRIERS, 0x5000, RW, SHARED)),
        "shared memory 0x77 ends 0x5000 bytes long, the images say 0x4000",
    );
    lost(
        10,
        18,
        Some(view(CARRIERS, 0x30000, 0x2000)),
        "0x30000..0x32000 ends as the shared memory that task 10 makes in record 3, from 0x0, r--, the images say the shared memory 0x77, from 0x1000, r--",
    );
    lost(10, 18, Some(view(CARRIERS + 0x3000, 0x30000, 0x2000)), "beyond the end of the shared memory");
    lost(11, 4, Some(map(0x60000, 0x4000)), "0x60000..0x64000 ends as private memory");
    lost(
        11,
        4,
        Some(again(0x60000)),
        "task 11: 0x60000..0x64000 ends as the shared memory that task 11 makes in record 4, from 0x0, rw-, the images say the shared memory 0x77 that task 10 has at 0x30000, from 0x0, rw-",
    );
    // A carrier that its parent makes after the fork, or in another task.
    refuse(
        |t, _| {
            let fork = of(t, 10).remove(7);
            of(t, 10).insert(3, fork);
        },
        "task 12, record 0: mremap of 0x100011000..0x100011001: no carrier that this task has is there",
    );
    refuse(
        |t, _| {
            last(t, 12, vec![again(CARRIERS + 0x8000)]);
            last(t, 11, vec![view(CARRIERS + 0x8000, 0x90000, 0x1000)]);
        },
        "no carrier that this task has is there",
    );
    // The same bytes by two tasks in no order.
    let fill = |at: u64| vec![open("/images/pages-9.img", 0, 0), read(0, &[(at, 0x1000)], 0x5000), close(0)];
    refuse(
        |t, _| {
            last(t, 11, fill(0x61000));
            last(t, 12, fill(0x30000));
        },
        "read on shared memory is not ordered with record",
    );
    passes(|t, _| last(t, 12, fill(0x30000)));
    // One segment for two of the images.
    refuse(
        |_, e| {
            let segment = e.segments[&0x77].clone();
            e.segments.insert(0x78, segment);
            space(e, 2).mappings[1].shows = Shown::Segment { segment: 0x78, offset: 0x3000 };
        },
        "the images say the shared memory 0x78, from 0x3000",
    );
    refuse(|t, _| last(t, 10, vec![view(0x10000, 0x90000, 0x1000)]), "a second view of what is not shared");
    refuse(|_, e| e.segments.clear(), "shared memory 0x77 is not described");
}

#[test]
fn forks() {
    // What is not to be forked, is not there; what is wiped, is empty; a lock is not inherited.
    let before_fork = |step: Effect| move |t: &mut Tapes, _: &mut Expected| of(t, 10).insert(12, step);
    refuse(
        before_fork(advise(0x10000, 0x1000, 10)),
        "task 10: 0x10000..0x11000 ends as private memory, rw-, advice 10",
    );
    refuse(
        |t, e| {
            before_fork(advise(0x10000, 0x1000, 10))(t, e);
            of(t, 10).insert(14, advise(0x10000, 0x1000, 11));
        },
        "task 11: 0x10000..0x11000 ends as nothing",
    );
    let wiped = |t: &mut Tapes, e: &mut Expected| {
        before_fork(advise(0x10000, 0x4000, 18))(t, e);
        of(t, 10).insert(14, advise(0x10000, 0x4000, 19));
        of(t, 11).insert(0, advise(0x10000, 0x4000, 19));
    };
    passes(wiped);
    refuse(
        |t, e| {
            wiped(t, e);
            of(t, 11)[2] = read(0, &[(0x11000, 0x1000)], 0);
        },
        "task 11: 0x13000..0x14000 ends with no bytes of an image",
    );
    refuse(
        |t, _| of(t, 10)[8] = map_as(0x10000, 0x4000, RW, PRIVATE | MAP_LOCKED),
        "task 10: 0x10000..0x12000 ends as private memory, rw-, locked",
    );
    passes(|t, e| {
        of(t, 10)[8] = map_as(0x10000, 0x4000, RW, PRIVATE | MAP_LOCKED);
        for part in &mut space(e, 0).mappings[..2] {
            part.flags |= MAP_LOCKED;
        }
    });
    // A shared mapping is inherited as it is.
    passes(|t, e| {
        of(t, 10).insert(12, view(CARRIERS + 0x1000, 0x30000, 0x2000));
        of(t, 10).remove(19);
        space(e, 1).mappings.insert(3, mapping(0x30000, 0x32000, RW, shared(0x1000)));
    });
    // A parent that maps after the fork gives nothing to the child.
    refuse(
        |t, _| {
            let fork = of(t, 10).remove(12);
            of(t, 10).insert(8, fork);
        },
        "task 11, record 1: read of 0x11000..0x12000: nothing is mapped there then",
    );
}

/// A child that does not read the first of its pages has that of its parent.
#[test]
fn inherited_pages() {
    let inherits = |t: &mut Tapes, _: &mut Expected| of(t, 11)[1] = read(0, &[(0x13000, 0x1000)], 0x1000);
    refuse(inherits, "task 11: 0x11000..0x12000 ends with the bytes of /images/pages-1.img from 0x7000");
    let is_it = |alike: &Alike<'_>| {
        alike.held == (b"/images/pages-1.img", 0x7000)
            && alike.wanted == (b"/images/pages-2.img", 0)
            && alike.len == 0x1000
    };
    let mut asked = Vec::new();
    let certificate = run_with(inherits, &mut |alike| {
        asked.push(format!("{alike:x?}"));
        is_it(alike)
    });
    assert!(certificate.is_ok(), "{certificate:?}");
    assert_eq!(asked.len(), 1, "{asked:?}");
    // What is known is not looked at, and all else is.
    assert_eq!(run_knowing(inherits, &is_it, &mut |_| false), certificate);
    assert!(run_knowing(inherits, &|alike| !is_it(alike), &mut |_| false).is_err());
    // Nobody looks into files where nothing has been read.
    let without = |t: &mut Tapes, e: &mut Expected| {
        inherits(t, e);
        of(t, 11).insert(0, advise(0x11000, 0x1000, 4));
    };
    assert!(run_with(without, &mut |_| true).is_err());
}

#[test]
fn moves() {
    // Made elsewhere and moved with its pages, grown by one.
    let moved = |t: &mut Tapes| {
        of(t, 10).splice(
            8..12,
            [
                map(0x90000, 0x3000),
                open("/images/pages-1.img", 0, 0),
                read(0, &[(0x91000, 0x1000)], 0x7000),
                relocate(0x90000, 0x3000, 0x10000, 0x4000),
                read(0, &[(0x13000, 0x1000)], 0x8000),
                close(0),
            ],
        );
    };
    passes(|t, _| moved(t));
    refuse(
        |t, _| {
            moved(t);
            of(t, 10)[11] = relocate(0x90000, 0x2000, 0x10000, 0x4000);
        },
        "task 10: 0x92000..0x93000 ends as private memory",
    );
    refuse(
        |t, _| last(t, 10, vec![relocate(0x40000, 0x3000, 0x90000, 0x3000)]),
        "from more than one mapping",
    );
    refuse(|t, _| last(t, 10, vec![relocate(0x10000, 0x2000, 0x11000, 0x2000)]), "over what is moved");
    refuse(|t, _| last(t, 10, vec![relocate(0x10000, 0x4000, 0x10000, 0x2000)]), "over what is moved");
    refuse(
        |t, _| {
            last(
                t,
                10,
                vec![memory(MemoryEffect::Remap {
                    from: 0x10000,
                    old_len: 0x1000,
                    to: 0x90000,
                    new_len: 0x1000,
                    flags: 7,
                })],
            )
        },
        "flags 0x7 is not modelled",
    );
}

#[test]
fn memory_that_grows_in_place() {
    let grow =
        |from, old_len, new_len| memory(MemoryEffect::Remap { from, old_len, to: from, new_len, flags: 0 });
    // Three pages that become four, and are filled as if they had always been.
    let grown = |t: &mut Tapes| {
        of(t, 10).splice(
            8..12,
            [
                map(0x10000, 0x3000),
                grow(0x10000, 0x3000, 0x4000),
                open("/images/pages-1.img", 0, 0),
                read(0, &[(0x11000, 0x1000)], 0x7000),
                read(0, &[(0x13000, 0x1000)], 0x8000),
                close(0),
            ],
        );
    };
    passes(|t, _| grown(t));
    let other = |effect: Effect, words: &str| {
        refuse(
            |t, _| {
                grown(t);
                of(t, 10)[9] = effect;
            },
            words,
        );
    };
    other(grow(0x10000, 0x3000, 0x5000), "task 10: 0x14000..0x15000 ends as private memory");
    other(grow(0x10000, 0x3000, 0x3000), "memory made shorter is not modelled");
    other(grow(0x10000, 0x4000, 0x5000), "nothing is mapped there then");
    other(grow(0x10000, 0x2000, 0x4000), "something may be mapped behind it");
    other(
        memory(MemoryEffect::Remap {
            from: 0x10000,
            old_len: 0x3000,
            to: 0x20000,
            new_len: 0x4000,
            flags: 0,
        }),
        "flags 0x0 is not modelled",
    );
    refuse(|t, _| last(t, 10, vec![grow(0x30000, 0x2000, 0x3000)]), "not to be made longer");
    refuse(|t, _| last(t, 10, vec![grow(0x40000, 0x3000, 0x4000)]), "of more than one mapping");
}

#[test]
fn what_the_kernel_refuses() {
    let refuse_last = |step: Effect, words: &str| refuse(|t, _| last(t, 10, vec![step]), words);
    refuse_last(map(0x10000, 0x1000), "mmap of 0x10000..0x11000: something may be mapped there already");
    refuse(|t, _| of(t, 10).insert(0, map(0x10000, 0x1000)), "something may be mapped there already");
    refuse_last(protect(0x14000, 0x1000, 1), "mprotect of 0x14000..0x15000: nothing is mapped there then");
    refuse_last(protect(0x13000, 0x2000, 1), "mprotect of 0x14000..0x15000: nothing is mapped there then");
    refuse_last(protect(0x13000, 0x1000, 0x0100_0003), "protection 0x1000003 is not modelled");
    refuse_last(advise(0x14000, 0x1000, 10), "madvise of 0x14000..0x15000: nothing is mapped there then");
    refuse_last(advise(0x10000, 0x1000, 9), "advice 9 is not modelled");
    refuse_last(
        advise(0x20000, 0x1000, 18),
        "madvise on advice 18 about 0x20000..0x21000: the kernel refuses that",
    );
    refuse_last(advise(0x40000, 0x1000, 4), "the kernel refuses that");
    refuse_last(map_as(0x90000, 0x1000, RW, PRIVATE | 0x4_0000), "flags 0x40000 is not modelled");
    refuse_last(map_as(0x90000, 0x1000, RW, 0x10_0020), "is not modelled");
    refuse_last(map_as(0x90000, 0x1000, RW, SHARED | MAP_GROWSDOWN), "is not modelled");
    refuse_last(map_as(0x90000, 0x1000, 8, PRIVATE), "protection 0x8 is not modelled");
    refuse_last(map_as(CARRIERS + 0x8000, 0x1000, RW, PRIVATE), "among the carriers of shared memory");
    refuse_last(unmap(CARRIERS, 0x1000), "among the carriers of shared memory");
    refuse_last(unmap(0x10001, 0x1000), "not a multiple of the page size");
}

#[test]
fn locks() {
    let locked = |at: u64, len: u64| memory(MemoryEffect::Lock { at, len });
    let wanted = |change: Effect| {
        move |t: &mut Tapes, e: &mut Expected| {
            last(t, 12, vec![change]);
            space(e, 2).mappings[1].flags |= MAP_LOCKED;
        }
    };
    passes(wanted(locked(0x80000, 0x1000)));
    refuse(
        wanted(locked(0x30000, 0x1000)),
        "task 12: 0x30000..0x31000 ends as the shared memory that task 10 makes in record 3, from 0x1000, rw-, locked, the images say",
    );
    refuse(wanted(locked(0x80000, 0x2000)), "mlock of 0x81000..0x82000: nothing is mapped there then");
    refuse(|t, _| last(t, 10, vec![locked(0x50000, 0x4000)]), "mlock of 0x50000..0x54000: a guard is there");
    refuse(|t, _| last(t, 11, vec![locked(0x12000, 0x1000)]), "memory that is not to be locked");
}

#[test]
fn droppable_memory() {
    let droppable = |flags: u32| {
        move |t: &mut Tapes, e: &mut Expected| {
            last(t, 12, vec![map_as(0x90000, 0x1000, RW, 0x10_0028)]);
            let mut wanted = mapping(0x90000, 0x91000, RW, Shown::Droppable);
            (wanted.flags, wanted.advice) = (flags, 1 << 16 | 1 << 18);
            space(e, 2).mappings.push(wanted);
        }
    };
    passes(droppable(0x28));
    passes(droppable(0x4028));
    refuse(
        droppable(0x2028),
        "droppable memory, rw-, not reserved, advice 16, advice 18, the images say droppable memory, rw-, locked",
    );
}

/// As long as anything of the executable so far is mapped, none can be set, not even the same.
#[test]
fn an_executable_that_is_mapped_stays() {
    let set = |fd: Option<Fd>| memory(MemoryEffect::SetMm { words: [0; 11], auxv: Vec::new(), exe: fd });
    let lib = || map_file(0x90000, 0x1000, 1, 0x10_0002, (0, 0));
    let with = |steps: Vec<Effect>| {
        move |t: &mut Tapes, _: &mut Expected| {
            let steps = [vec![open("/lib", 0, 0)], steps, vec![unmap(0x90000, 0x1000), close(0)]].concat();
            last(t, 12, steps);
        }
    };
    let still = "an executable while the one before is mapped";
    passes(with(vec![set(Some(0)), lib()]));
    // What the launcher was is not known, and nothing of it is mapped.
    passes(with(vec![lib(), set(Some(0))]));
    refuse(with(vec![set(Some(0)), lib(), set(Some(0))]), still);
    passes(with(vec![set(Some(0)), lib(), set(None)]));
    passes(with(vec![set(Some(0)), lib(), unmap(0x90000, 0x1000), set(Some(0))]));
    // A child has its parent's.
    refuse(
        |t, _| {
            let steps = vec![open("/lib", 0, 0), set(Some(0)), lib(), set(Some(0)), close(0)];
            last(t, 12, steps);
        },
        still,
    );
}
