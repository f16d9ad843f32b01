//! Plans whose address spaces end otherwise in one record: each loses the certificate of a real plan.
//!
//! The tree is the same, with shared memory, guards, droppable memory and advice among its mappings, pages that are copied into
//! place with the help of another task, and rings of asynchronous I/O.

use regrow_graph::verify::{ExpectedSegment, Lifted, Shown};

use super::*;
use crate::host::Transparent;
use crate::image::{AioRing, Alive, Extent, Pages, PagesImage, Shm, Vma};

pub(super) const PAGE: u64 = 4096;
const SHMID: u64 = 0x1234;
/// Below all programs, and above what the attributes of the other tests are about.
const FREE: u64 = 0x10_0000;
/// The same, for huge pages.
const FREE_HUGE: u64 = 0x1000_0000;
/// `MAP_HUGETLB | MAP_HUGE_2MB`.
const HUGE: u32 = 0x4_0000 | 21 << 26;
/// The same, for pages that are copied: more than one task copies by itself, and fewer.
const FREE_COPIED: u64 = 0x2000_0000;
const COPIED: u64 = 5000;
const FEW_COPIED: u64 = 300;
/// The same, for rings.
const FREE_RINGS: u64 = 0x3000_0000;

pub(super) fn vma(start: u64, pages: u64, kind: VmaKind) -> Vma {
    let flags = match kind {
        VmaKind::AnonShared { .. } => libc::MAP_SHARED | libc::MAP_ANONYMOUS,
        _ => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    } as u32;
    let prot = (libc::PROT_READ | libc::PROT_WRITE) as u32;
    let origin = Origin::new(Image::Mm(CHILD), 0);
    Vma { start, end: start + pages * PAGE, prot, flags, status: 0, kind, madvise: 0, origin }
}

pub(super) fn add(alive: &mut Alive, vma: Vma) {
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
    add_runs(child);
    add_rings(child);
    model
}

/// Two runs of pages, behind all others in the image.
fn add_runs(alive: &mut Alive) {
    let image = PagesImage::own(alive.mm.pages.pages_id);
    let few = FREE_COPIED + 2 * COPIED * PAGE;
    for (start, len_pages, offset_bytes) in [(FREE_COPIED, COPIED, 1 << 30), (few, FEW_COPIED, 1 << 31)] {
        add(alive, vma(start, len_pages + 10, VmaKind::AnonPrivate));
        alive.mm.pages.extents.push(Extent { start, len_pages, image, offset_bytes, entry: 0 });
    }
    alive.mm.pages.extents.sort_by_key(|extent| extent.start);
}

/// A ring of a page with four events, one of two pages that has come round, and one that was never used.
fn add_rings(alive: &mut Alive) {
    let image = PagesImage::own(alive.mm.pages.pages_id);
    let mut start = FREE_RINGS;
    for (id, (len_pages, head, tail)) in (0..).zip([(1, 5, 9), (2, 200, 20), (1, 0, 0)]) {
        let flags = libc::MAP_SHARED as u32;
        let ring = Vma { flags, ..vma(start, len_pages, VmaKind::AioRing) };
        let offset_bytes = (1 << 32) + start;
        let pages = vec![Extent { start, len_pages, image, offset_bytes, entry: 0 }];
        let (len_bytes, origin) = (len_pages * PAGE, ring.origin);
        alive.mm.aio_rings.push(AioRing { start, len_bytes, requests: 62, id, head, tail, pages, origin });
        add(alive, ring);
        // The last is right behind the one before.
        start += 4 * PAGE * u64::from(id == 0) + 2 * PAGE * u64::from(id == 1);
    }
}

fn real_spaces() -> Real {
    let model = spaces();
    let facts = facts(&model);
    plan(model, &facts).0
}

/// Whether a record has to do with memory.
pub(super) fn is_of_memory(effect: &Effect) -> bool {
    match effect {
        Effect::Memory(MemoryEffect::SetMm { .. }) => false,
        Effect::Memory(_) => true,
        Effect::Object { change: Change::Read { .. } | Change::Userfault(_), .. } => true,
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
        Effect::Memory(MemoryEffect::Ring(ring)) => altered_ring(ring)
            .into_iter()
            .map(|(what, ring)| (what, memory(MemoryEffect::Ring(ring))))
            .collect(),
        Effect::Object { fd, change: Change::Userfault(change) } => {
            let object = |change| Effect::Object { fd, change: Change::Userfault(change) };
            altered_userfault(change).into_iter().map(|(what, change)| (what, object(change))).collect()
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

fn altered_ring(ring: RingEffect) -> Vec<(&'static str, RingEffect)> {
    match ring {
        RingEffect::Setup { requests, cell } => vec![
            ("a page more", RingEffect::Setup { requests: requests + 64, cell }),
            ("for nothing", RingEffect::Setup { requests: 0, cell }),
            ("another word", RingEffect::Setup { requests, cell: cell + 8 }),
        ],
        RingEffect::Place { cell, len, to } => vec![
            ("another word", RingEffect::Place { cell: cell + 8, len, to }),
            ("a page longer", RingEffect::Place { cell, len: len + PAGE, to }),
            ("a page further on", RingEffect::Place { cell, len, to: to + PAGE }),
            ("over other memory", RingEffect::Place { cell, len, to: FREE + 0x2_4000 }),
        ],
        RingEffect::Submit { ring, count, fd } => vec![
            ("another ring", RingEffect::Submit { ring: ring ^ (4 * PAGE), count, fd }),
            ("one more", RingEffect::Submit { ring, count: count + 1, fd }),
            ("one less", RingEffect::Submit { ring, count: count - 1, fd }),
            ("another file", RingEffect::Submit { ring, count, fd: fd + 1 }),
        ],
        RingEffect::Reap { ring, count } => vec![
            ("another ring", RingEffect::Reap { ring: ring ^ (4 * PAGE), count }),
            ("one more", RingEffect::Reap { ring, count: count + 1 }),
            ("one less", RingEffect::Reap { ring, count: count - 1 }),
        ],
    }
}

fn altered_userfault(change: UserfaultChange) -> Vec<(&'static str, UserfaultChange)> {
    use UserfaultChange::{Copy, Handshake, Move, Register, Unregister};
    match change {
        Handshake => Vec::new(),
        Register { at, len } => vec![
            ("a page further on", Register { at: at + PAGE, len }),
            ("a page longer", Register { at, len: len + PAGE }),
            ("a page later", Register { at: at + PAGE, len: len - PAGE }),
            ("a page shorter", Register { at, len: len - PAGE }),
            ("in no mapping", Register { at: FREE, len }),
        ],
        Unregister { at, len } => vec![
            ("a page further on", Unregister { at: at + PAGE, len }),
            ("a page longer", Unregister { at, len: len + PAGE }),
            ("a page later", Unregister { at: at + PAGE, len: len - PAGE }),
            ("a page shorter", Unregister { at, len: len - PAGE }),
        ],
        Copy { to, from, len } => vec![
            ("a page further on", Copy { to: to + PAGE, from, len }),
            ("another part of the image", Copy { to, from: from + PAGE, len }),
            ("from where nothing is mapped", Copy { to, from: from ^ 1 << 40, len }),
            ("a page longer", Copy { to, from, len: len + PAGE }),
            ("a page shorter", Copy { to, from, len: len - PAGE }),
            ("a page later", Copy { to: to + PAGE, from: from + PAGE, len: len - PAGE }),
        ],
        Move { to, from, len } => vec![
            ("a page further on", Move { to: to + PAGE, from, len }),
            ("other pages", Move { to, from: from + PAGE, len }),
            ("from where nothing is mapped", Move { to, from: from ^ 1 << 40, len }),
            ("a page longer", Move { to, from, len: len + PAGE }),
            ("a page shorter", Move { to, from, len: len - PAGE }),
            ("a page later", Move { to: to + PAGE, from: from + PAGE, len: len - PAGE }),
        ],
    }
}

/// Whether a record is one of copying pages into place, or of rings: what comes of it depends on the order.
fn is_in_order(record: &Effect) -> bool {
    matches!(
        record,
        Effect::Memory(MemoryEffect::Ring(_)) | Effect::Object { change: Change::Userfault(_), .. }
    )
}

/// Whether two records next to one another may change places: what is registered, mapped and copied in several parts may
/// be so in any order, and so may all that two tasks do beside one another.
fn may_change_places(first: &Effect, second: &Effect) -> bool {
    let names = [first.name(), second.name()];
    names[0] == names[1]
        || [
            // The file to copy from is mapped beside what is registered, and both go.
            ["ioctl(UFFDIO_REGISTER)", "mmap"],
            ["munmap", "ioctl(UFFDIO_UNREGISTER)"],
            // The other copies meanwhile.
            ["clone3", "ioctl(UFFDIO_COPY)"],
            ["ioctl(UFFDIO_COPY)", "waitid"],
            // What is there can be read later, as long as there is room for more.
            ["io_getevents", "io_submit"],
        ]
        .contains(&names)
}

/// Whether a record does nothing in this that shows in the end: what it sets is set already, or is set
/// once more by one of `further`.
pub(super) fn is_in_vain(what: &str, effect: &Effect, further: &[Lifted]) -> bool {
    match effect {
        // Of droppable memory, and of the kernel's data, which have it from the start.
        Effect::Memory(MemoryEffect::Advise { advice, .. }) => {
            matches!(*advice as i32, libc::MADV_WIPEONFORK | libc::MADV_DONTDUMP)
        }
        // What is only read from a file is the same either way.
        Effect::Memory(MemoryEffect::Map { at, len, prot: 1, file: Some(_), .. })
            if what == "shared instead of private" =>
        {
            let unmap = Effect::Memory(MemoryEffect::Unmap { at: *at, len: *len });
            further.iter().any(|other| other.effect == unmap)
        }
        // What keeps the place of a ring, and goes when that comes.
        Effect::Memory(MemoryEffect::Map { at, prot: 0, .. })
            if further.iter().any(|other| {
                let Effect::Memory(MemoryEffect::Ring(RingEffect::Place { to, .. })) = other.effect else {
                    return false;
                };
                to == *at
            }) =>
        {
            let modes =
                ["not to be executed or to be", "not to be read or to be", "reserved or not", "locked or not"];
            modes.contains(&what)
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

/// What comes of changing each record in all ways.
#[derive(Debug, Default)]
pub(super) struct Tried {
    /// Which calls they were.
    pub(super) names: BTreeSet<&'static str>,
    /// How many changes.
    pub(super) count: usize,
    /// Those that left the certificate: in words, the change, the record, and all records from there on.
    pub(super) left: Vec<(String, &'static str, Effect, Vec<Lifted>)>,
}

/// Changes each record that is meant by a task and its effect.
pub(super) fn try_all(
    mut lifted: LiftedTree,
    expected: &Expected,
    is_meant: impl Fn(usize, &Effect) -> bool,
) -> Tried {
    verify(&lifted, expected).expect("a certificate");
    let mut tried = Tried::default();
    for task in 0..lifted.tasks.len() {
        for at in 0..lifted.tasks[task].effects.len() {
            let record: Lifted = lifted.tasks[task].effects[at].clone();
            if !is_meant(task, &record.effect) {
                continue;
            }
            tried.names.insert(record.effect.name());
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
                tried.count += 1;
                if verify(&lifted, expected).is_ok() {
                    let shown = format!("task {task}, record {}: {what}: {:?}", record.record, record.effect);
                    let further = lifted.tasks[task].effects[at..].to_vec();
                    tried.left.push((shown, what, record.effect.clone(), further));
                }
                if what == "left out" {
                    lifted.tasks[task].effects.insert(at, record.clone());
                } else {
                    lifted.tasks[task].effects[at] = record.clone();
                }
            }
        }
    }
    tried
}

#[test]
fn every_record_of_memory_is_needed() {
    let Real { lifted, expected, .. } = real_spaces();
    let tried = try_all(lifted, &expected, |_, effect| is_of_memory(effect));
    let is_left =
        |(_, what, effect, further): &&(_, &str, Effect, Vec<Lifted>)| !is_in_vain(what, effect, further);
    let left: Vec<&String> = tried.left.iter().filter(is_left).map(|(shown, ..)| shown).collect();
    assert_eq!(left, Vec::<&String>::new());
    let wanted = [
        "arch_prctl(ARCH_MAP_VDSO_64)",
        "io_getevents",
        "io_setup",
        "io_submit",
        "ioctl(UFFDIO_API)",
        "ioctl(UFFDIO_COPY)",
        "ioctl(UFFDIO_REGISTER)",
        "ioctl(UFFDIO_UNREGISTER)",
        "madvise",
        "mlock",
        "mmap",
        "mprotect",
        "mremap",
        "munmap",
        "read",
    ];
    assert_eq!(tried.names.into_iter().collect::<Vec<_>>(), wanted);
    assert!(tried.count > 250, "{}", tried.count);
}

/// Pages that are copied and rings that are made twice, or in another order: refused, or it is all the same.
#[test]
fn the_order_of_copies_and_of_rings_counts() {
    let Real { mut lifted, expected, .. } = real_spaces();
    assert_eq!(lifted.tasks.len(), 4, "a guest comes to help");
    let mut left = Vec::new();
    let mut tried = [0; 2];
    for task in 0..lifted.tasks.len() {
        for at in 0..lifted.tasks[task].effects.len() {
            let record = lifted.tasks[task].effects[at].clone();
            if !is_in_order(&record.effect) {
                continue;
            }
            lifted.tasks[task].effects.insert(at, record.clone());
            tried[0] += 1;
            if verify(&lifted, &expected).is_ok() {
                left.push(format!("task {task}, record {}: twice: {:?}", record.record, record.effect));
            }
            lifted.tasks[task].effects.remove(at);
            for (first, second) in [(at.wrapping_sub(1), at), (at, at + 1)] {
                let effects = &mut lifted.tasks[task].effects;
                let (Some(one), Some(other)) = (effects.get(first).cloned(), effects.get(second).cloned())
                else {
                    continue;
                };
                effects.swap(first, second);
                tried[1] += 1;
                if verify(&lifted, &expected).is_ok() && !may_change_places(&one.effect, &other.effect) {
                    left.push(format!("task {task}: {:?} behind {:?}", one.effect, other.effect));
                }
                lifted.tasks[task].effects.swap(first, second);
            }
        }
    }
    assert_eq!(left, Vec::<String>::new());
    assert!(tried[0] > 20 && tried[1] > 40, "{tried:?}");
}

/// What `check` says of rings that this host would make otherwise.
#[test]
fn rings_that_this_host_does_not_make() {
    let problems = |change: &dyn Fn(&mut KernelFacts)| {
        let model = spaces();
        let mut facts = facts(&model);
        change(&mut facts.kernel);
        let of_rings = |problem: &Problem| problem.text.contains("AIO");
        let problems = plan(model, &facts).1;
        assert!(
            problems.iter().filter(|problem| of_rings(problem)).all(|it| it.kind == ProblemKind::Lacking)
        );
        let all: Vec<String> =
            problems.iter().filter(|problem| of_rings(problem)).map(ToString::to_string).collect();
        all.join("\n")
    };
    assert_eq!(problems(&|_| ()), "");
    let (lacking, origin) = (ProblemKind::Lacking.name(), "[mm-4713.img entry 0]");
    assert_eq!(
        problems(&|kernel| kernel.aio_requests = Some((100, 36))),
        format!("{lacking}: task 4713: AIO rings for 65 requests, and fs.aio-max-nr leaves 64 {origin}")
    );
    assert_eq!(problems(&|kernel| kernel.aio_requests = Some((100, 35))), "");
    assert_eq!(
        problems(&|kernel| kernel.possible_processors = None),
        format!("{lacking}: task 4713: AIO rings: how many processors there may be is not known {origin}")
    );
    // A kernel with many processors makes all of them longer.
    let many = problems(&|kernel| kernel.possible_processors = Some(64));
    assert_eq!(many.lines().count(), 3, "{many}");
    let first = "AIO ring at 0x30000000: of 4096 bytes, and with 64 processors it would be of 20480";
    assert!(many.contains(first), "{many}");
    let mut model = spaces();
    model.tasks[1].alive_mut().expect("it lives").mm.aio_rings[0].tail = 89;
    let facts = facts(&model);
    let problems: Vec<String> = plan(model, &facts).1.iter().map(ToString::to_string).collect();
    let full = "AIO ring at 0x30000000: nobody has read 84 events, and with 2 processors there is surely room for 83";
    assert!(problems.iter().any(|problem| problem.contains(full)), "{problems:?}");
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

/// What a block of which all is stored gets, and what one gets that has a hole, or is not to have huge pages.
#[test]
fn huge_pages_come_where_they_belong() {
    const BLOCK: u64 = 2 << 20;
    const ADVISED: u64 = 0x5000_0000;
    const FORBIDDEN: u64 = 0x6000_0000;
    let mut model = spaces();
    let child = model.tasks[1].alive_mut().expect("it lives");
    let [wanted, forbidden] = [libc::MADV_HUGEPAGE, libc::MADV_NOHUGEPAGE];
    add(child, Vma { madvise: 1 << wanted, ..vma(ADVISED, 1024, VmaKind::AnonPrivate) });
    add(child, Vma { madvise: 1 << forbidden, ..vma(FORBIDDEN, 512, VmaKind::AnonPrivate) });
    let last = child.mm.pages.extents.last().copied().expect("it has pages");
    let mut offset_bytes = last.offset_bytes + last.len_pages * PAGE;
    for (start, len_pages) in [(ADVISED, 512), (ADVISED + BLOCK, 511), (FORBIDDEN, 512)] {
        child.mm.pages.extents.push(Extent { start, len_pages, offset_bytes, ..last });
        offset_bytes += len_pages * PAGE;
    }
    child.mm.pages.extents.sort_by_key(|extent| extent.start);
    let ordered = |setting, is_disabled, is_room: bool| {
        let mut model = model.clone();
        model.tasks[1].alive_mut().expect("it lives").mm.thp_disabled = is_disabled;
        let mut facts = facts(&model);
        facts.kernel.transparent = setting;
        facts.kernel.userfaultfd = Probe::Absent(nix::errno::Errno::ENOSYS);
        let (Real { mut tapes, mut lifted, expected, .. }, _) = plan(model, &facts);
        verify(&lifted, &expected).expect("a certificate");
        if !is_room {
            // As a stored plan is changed where no memory is free in large pieces.
            crate::store::room::fit(&mut tapes, 0);
            lifted = lift(&tapes).expect("they are understood");
            verify(&lifted, &expected).expect("a certificate");
        }
        let word = |effect: &Effect| match effect {
            Effect::Attribute(Attribute::ThpDisable(is)) => vec![if *is { "none" } else { "any" }],
            Effect::Memory(MemoryEffect::Advise { at: ADVISED, .. }) => vec!["advised"],
            Effect::Memory(MemoryEffect::Advise { at: FORBIDDEN, .. }) => vec!["forbidden"],
            Effect::Object { change: Change::Read { into, .. }, .. } => {
                let known = [(ADVISED, "whole"), (ADVISED + BLOCK, "part"), (FORBIDDEN, "other")];
                let of = |at: u64| known.into_iter().find(|(start, _)| *start == at).map(|(_, word)| word);
                into.iter().filter_map(|(at, _)| of(*at)).collect()
            }
            _ => Vec::new(),
        };
        let all: Vec<&str> = lifted.tasks[1].effects.iter().flat_map(|record| word(&record.effect)).collect();
        all.join(" ")
    };
    let order = |setting, is_disabled| ordered(setting, is_disabled, true);
    let first_small = "forbidden none part other advised any whole";
    assert_eq!(order(Transparent::Madvise, false), first_small);
    assert_eq!(order(Transparent::Always, false), first_small);
    // All are small, and nothing must come first.
    assert_eq!(order(Transparent::Never, false), "forbidden whole other advised");
    assert_eq!(order(Transparent::Always, true), "forbidden none whole other advised");
    let all_small = "forbidden none part other advised whole any";
    assert_eq!(ordered(Transparent::Madvise, false, false), all_small);
}
