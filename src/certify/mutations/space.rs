//! Plans whose address spaces end otherwise in one record: each loses the certificate of a real plan.
//!
//! The tree is the same, with shared memory, guards, droppable memory and advice among its mappings.

use regrow_graph::verify::{ExpectedSegment, Lifted, Shown};

use super::*;
use crate::image::{Alive, Extent, Pages, PagesImage, Shm, Vma};

const PAGE: u64 = 4096;
const SHMID: u64 = 0x1234;
/// Below all programs, and above what the attributes of the other tests are about.
const FREE: u64 = 0x10_0000;
/// The same, for huge pages.
const FREE_HUGE: u64 = 0x1000_0000;
/// `MAP_HUGETLB | MAP_HUGE_2MB`.
const HUGE: u32 = 0x4_0000 | 21 << 26;

fn vma(start: u64, pages: u64, kind: VmaKind) -> Vma {
    let flags = match kind {
        VmaKind::AnonShared { .. } => libc::MAP_SHARED | libc::MAP_ANONYMOUS,
        _ => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    } as u32;
    let prot = (libc::PROT_READ | libc::PROT_WRITE) as u32;
    let origin = Origin::new(Image::Mm(CHILD), 0);
    Vma { start, end: start + pages * PAGE, prot, flags, status: 0, kind, madvise: 0, origin }
}

fn add(alive: &mut Alive, vma: Vma) {
    alive.mm.vmas.push(vma);
    alive.mm.vmas.sort_by_key(|vma| vma.start);
}

/// The pair with mappings of every kind.
fn spaces() -> Model {
    let mut model = model();
    let segment = |offset_bytes: u64| VmaKind::AnonShared { shmid: SHMID, offset_bytes };
    let image = PagesImage::own(77);
    let extent = |start, len_pages, offset_bytes| Extent { start, len_pages, image, offset_bytes, entry: 1 };
    let extents = vec![extent(PAGE, 2, 0), extent(7 * PAGE, 1, 2 * PAGE)];
    model.shm.push(Shm { shmid: SHMID, pages: Pages { pages_id: 77, extents } });
    let root = model.tasks[0].alive_mut().expect("it lives");
    add(root, vma(FREE, 8, segment(0)));
    add(root, Vma { prot: libc::PROT_READ as u32, ..vma(FREE + 0x1_0000, 2, segment(PAGE)) });
    let child = model.tasks[1].alive_mut().expect("it lives");
    add(child, vma(FREE, 3, segment(5 * PAGE)));
    let unreserved = |at: u64, flags: i32| {
        let kind = VmaKind::AnonShared { shmid: SHMID + 1, offset_bytes: at };
        let view = vma(FREE + 0x5_0000 + 4 * at, 2, kind);
        Vma { flags: view.flags | (flags | libc::MAP_NORESERVE) as u32, ..view }
    };
    add(child, unreserved(0, 0));
    add(child, unreserved(2 * PAGE, libc::MAP_LOCKED));
    let guarded = FREE + 0x2_0000;
    add(child, vma(guarded, 8, VmaKind::AnonPrivate));
    child.mm.guards = vec![(guarded + PAGE, guarded + 3 * PAGE)];
    // Two huge pages.
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u32 | HUGE;
    let huge = Vma { flags, ..vma(FREE_HUGE, 1024, VmaKind::AnonPrivate) };
    add(child, huge);
    let flags = (libc::MAP_ANONYMOUS | libc::MAP_NORESERVE) as u32 | 8;
    let madvise = 1 << libc::MADV_WIPEONFORK | 1 << libc::MADV_DONTDUMP;
    add(child, Vma { flags, madvise, ..vma(FREE + 0x3_0000, 2, VmaKind::AnonPrivate) });
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_LOCKED) as u32;
    let madvise = 1 << libc::MADV_DONTFORK | 1 << libc::MADV_HUGEPAGE | 1 << libc::MADV_SEQUENTIAL;
    add(child, Vma { flags, madvise, ..vma(FREE + 0x4_0000, 4, VmaKind::AnonPrivate) });
    model
}

fn real_spaces() -> Real {
    let model = spaces();
    let facts = facts(&model);
    plan(model, &facts).0
}

/// Whether a record has to do with memory.
fn is_of_memory(effect: &Effect) -> bool {
    match effect {
        Effect::Memory(MemoryEffect::SetMm { .. }) => false,
        Effect::Memory(_) => true,
        Effect::Object { change: Change::Read { .. }, .. } => true,
        _ => false,
    }
}

/// The record with one thing changed in it, in all the ways that a planner could err in, with words for each.
fn altered_memory(effect: &Effect) -> Vec<(&'static str, Effect)> {
    let memory = Effect::Memory;
    match effect.clone() {
        Effect::Memory(MemoryEffect::Map { at, len, prot, flags, file }) => {
            let map = |at, len, prot, flags, file| memory(MemoryEffect::Map { at, len, prot, flags, file });
            let mut all = vec![
                ("a page further on", map(at + PAGE, len, prot, flags, file)),
                ("a page longer", map(at, len + PAGE, prot, flags, file)),
                ("not to be executed or to be", map(at, len, prot ^ 4, flags, file)),
                ("not to be read or to be", map(at, len, prot ^ 1, flags, file)),
                ("reserved or not", map(at, len, prot, flags ^ libc::MAP_NORESERVE as u32, file)),
                ("of huge pages or not", map(at, len, prot, flags ^ HUGE, file)),
            ];
            if len > PAGE {
                all.push(("a page shorter", map(at, len - PAGE, prot, flags, file)));
            }
            if flags & libc::MAP_DROPPABLE as u32 == 0 {
                all.push(("locked or not", map(at, len, prot, flags ^ libc::MAP_LOCKED as u32, file)));
                all.push(("shared instead of private", map(at, len, prot, flags ^ 3, file)));
            }
            if let Some((fd, offset)) = file {
                all.push(("another part of the file", map(at, len, prot, flags, Some((fd, offset + PAGE)))));
                let anonymous = flags | libc::MAP_ANONYMOUS as u32;
                all.push(("no file", map(at, len, prot, anonymous, None)));
            }
            all
        }
        Effect::Memory(MemoryEffect::Remap { from, old_len, to, new_len, flags }) => {
            let remap = |from, to, new_len| memory(MemoryEffect::Remap { from, old_len, to, new_len, flags });
            vec![
                ("a page further on", remap(from, to + PAGE, new_len)),
                ("another part", remap(from + PAGE, to, new_len)),
                ("a page longer", remap(from, to, new_len + PAGE)),
                ("a page shorter", remap(from, to, new_len - PAGE)),
            ]
        }
        Effect::Memory(MemoryEffect::Unmap { at, len }) => {
            vec![
                ("a page less", memory(MemoryEffect::Unmap { at, len: len - PAGE })),
                ("a page later", memory(MemoryEffect::Unmap { at: at + PAGE, len: len - PAGE })),
            ]
        }
        Effect::Memory(MemoryEffect::Protect { at, len, prot }) => {
            let protect = |at, len, prot| memory(MemoryEffect::Protect { at, len, prot });
            vec![
                ("a page further on", protect(at + PAGE, len, prot)),
                ("a page longer", protect(at, len + PAGE, prot)),
                ("another protection", protect(at, len, prot ^ 4)),
                ("writable", protect(at, len, prot ^ 2)),
            ]
        }
        Effect::Memory(MemoryEffect::Advise { at, len, advice }) => {
            let advise = |at, len, advice| memory(MemoryEffect::Advise { at, len, advice });
            let mut all = vec![("a page further on", advise(at + PAGE, len, advice))];
            if len > PAGE {
                all.push(("a page shorter", advise(at, len - PAGE, advice)));
            }
            all
        }
        Effect::Memory(MemoryEffect::Lock { at, len }) => vec![
            ("a page further on", memory(MemoryEffect::Lock { at: at + PAGE, len })),
            ("a page shorter", memory(MemoryEffect::Lock { at, len: len - PAGE })),
        ],
        Effect::Memory(MemoryEffect::MapVdso { at }) => {
            vec![("a page further on", memory(MemoryEffect::MapVdso { at: at + PAGE }))]
        }
        Effect::Object { fd, change: Change::Read { into, offset } } => {
            let read =
                |into: Vec<(u64, u64)>, offset| Effect::Object { fd, change: Change::Read { into, offset } };
            let first = |by: &dyn Fn(u64, u64) -> (u64, u64)| {
                let mut into = into.clone();
                into[0] = by(into[0].0, into[0].1);
                into
            };
            let mut all = vec![
                ("another part of the image", read(into.clone(), offset.map(|offset| offset + PAGE))),
                ("a page further on", read(first(&|at, len| (at + PAGE, len)), offset)),
                ("a page longer", read(first(&|at, len| (at, len + PAGE)), offset)),
                ("a byte shorter", read(first(&|at, len| (at, len - 1)), offset)),
            ];
            // The position is 0.
            if offset != Some(0) {
                all.push(("at the position", read(into.clone(), None)));
            }
            if into.len() > 1 {
                let mut swapped = into.clone();
                swapped.swap(0, into.len() - 1);
                all.push(("pages of one another", read(swapped, offset)));
                all.push(("a piece less", read(into[1..].to_vec(), offset)));
            }
            all
        }
        _ => Vec::new(),
    }
}

/// Whether a record does nothing in this that shows in the end: what it sets is set already, or is set
/// once more by one of `further`.
fn is_in_vain(what: &str, effect: &Effect, further: &[Lifted]) -> bool {
    match effect {
        // Of droppable memory, and of the kernel's data, which have it from the start.
        Effect::Memory(MemoryEffect::Advise { advice, .. }) => {
            matches!(*advice as i32, libc::MADV_WIPEONFORK | libc::MADV_DONTDUMP)
        }
        Effect::Memory(MemoryEffect::Map { at, flags, .. }) => match what {
            // Droppable memory is never reserved.
            "reserved or not" => flags & libc::MAP_DROPPABLE as u32 != 0,
            "not to be executed or to be" | "not to be read or to be" => further.iter().any(|other| {
                matches!(other.effect, Effect::Memory(MemoryEffect::Protect { at: same, .. }) if same == *at)
            }),
            _ => false,
        },
        _ => false,
    }
}

#[test]
fn every_record_of_memory_is_needed() {
    let Real { mut lifted, expected, .. } = real_spaces();
    verify(&lifted, &expected).expect("a certificate");
    let mut names = BTreeSet::new();
    let mut left = Vec::new();
    let mut tried = 0;
    for task in 0..lifted.tasks.len() {
        for at in 0..lifted.tasks[task].effects.len() {
            let record: Lifted = lifted.tasks[task].effects[at].clone();
            if !is_of_memory(&record.effect) {
                continue;
            }
            names.insert(record.effect.name());
            let others: Vec<(&str, Option<Effect>)> = altered_memory(&record.effect)
                .into_iter()
                .map(|(what, other)| (what, Some(other)))
                .chain([("left out", None)])
                .collect();
            for (what, other) in others {
                match other {
                    Some(effect) => lifted.tasks[task].effects[at].effect = effect,
                    None => drop(lifted.tasks[task].effects.remove(at)),
                }
                tried += 1;
                let is_ok = verify(&lifted, &expected).is_ok();
                let further = &lifted.tasks[task].effects[at..];
                if is_ok && !is_in_vain(what, &record.effect, further) {
                    left.push(format!("task {task}, record {}: {what}: {:?}", record.record, record.effect));
                }
                if what == "left out" {
                    lifted.tasks[task].effects.insert(at, record.clone());
                } else {
                    lifted.tasks[task].effects[at] = record.clone();
                }
            }
        }
    }
    assert_eq!(left, Vec::<String>::new());
    let wanted =
        ["arch_prctl(ARCH_MAP_VDSO_64)", "madvise", "mlock", "mmap", "mprotect", "mremap", "munmap", "read"];
    assert_eq!(names.into_iter().collect::<Vec<_>>(), wanted);
    assert!(tried > 150, "{tried}");
}

/// Images that say something else than the plan was made for.
#[test]
fn every_mapping_and_page_is_compared() {
    let Real { lifted, expected, .. } = real_spaces();
    let lost = |change: &dyn Fn(&mut Expected)| {
        let mut other = expected.clone();
        change(&mut other);
        let counterexample = verify(&lifted, &other).expect_err("no certificate");
        assert_eq!(counterexample.wrong.demand(), 3, "{counterexample}");
    };
    for task in 0..2 {
        let space = expected.tasks[task].space.as_ref().expect("it lives");
        let of = |other: &mut Expected| other.tasks[task].space.take().expect("it lives");
        for at in 0..space.mappings.len() {
            let is_kernel = space.mappings[at].shows == Shown::Kernel;
            lost(&|other| {
                let mut space = of(other);
                space.mappings[at].prot ^= if is_kernel { 2 } else { 1 };
                other.tasks[task].space = Some(space);
            });
            lost(&|other| {
                let mut space = of(other);
                space.mappings[at].advice ^= 1 << libc::MADV_DONTFORK;
                other.tasks[task].space = Some(space);
            });
            // The kernel's own may be anywhere; that it is where it must be, is said elsewhere.
            if !is_kernel {
                lost(&|other| {
                    let mut space = of(other);
                    space.mappings.remove(at);
                    other.tasks[task].space = Some(space);
                });
            }
        }
        let vdso = space.mappings.iter().filter(|mapping| mapping.shows == Shown::Kernel);
        let vdso: Vec<(u64, u64)> = vdso.map(|mapping| (mapping.start, mapping.end)).collect();
        for at in 0..space.pages.extents.len() {
            let extent = space.pages.extents[at];
            if vdso.iter().any(|(start, end)| *start <= extent.at && extent.at < *end) {
                continue;
            }
            lost(&|other| {
                let mut space = of(other);
                space.pages.extents[at].from += PAGE;
                other.tasks[task].space = Some(space);
            });
            lost(&|other| {
                let mut space = of(other);
                space.pages.extents.remove(at);
                other.tasks[task].space = Some(space);
            });
        }
    }
    let segment = |other: &mut Expected, change: &dyn Fn(&mut ExpectedSegment)| {
        change(other.segments.get_mut(&SHMID).expect("it is shared"));
    };
    lost(&|other| segment(other, &|segment| segment.len += PAGE));
    lost(&|other| segment(other, &|segment| segment.pages.extents[1].at -= PAGE));
    lost(&|other| segment(other, &|segment| segment.pages.files[0].push(b'x')));
}
