//! Plans whose IPC namespace ends otherwise in one record, and images that say otherwise: the certificate of a real plan
//! is lost.
//!
//! The tree is the same, in an IPC namespace with two objects of each kind.

use regrow_graph::verify::{ExpectedIpc, IpcEffect, IpcKind, Lifted};

use regrow_model::{Host, Schedule, World, play, wanted};

use super::*;
use crate::image::ipc::{
    IpcNs, IpcVars, SHM_DEST, SHM_LOCKED, SysvMessage, SysvPerm, SysvQueue, SysvSegment, SysvSemaphores,
};
use crate::image::{Extent, Pages, PagesImage, Shm, Vma};

const PAGE: u64 = 4096;
const NS: u32 = 9;
const FREE: u64 = 0x10_0000;
/// A segment that both have, one that is marked and locked, one that nobody has.
const SHARED: u32 = 98307;
const MARKED: u32 = 3;
const ALONE: u32 = 4;
/// One of huge pages, how large they are, and where nothing is.
const BIG: u32 = 16;
const HUGE: u64 = 2 << 20;
const HUGE_FREE: u64 = 0x10_0000_0000;

fn perm(id: u32, key: u32, mode: u32) -> SysvPerm {
    SysvPerm { id, key, mode, ..SysvPerm::default() }
}

/// Bytes of some image: the magic of the inventory, whose words are values of semaphores, too.
fn bytes(len_bytes: u64) -> Blob {
    Blob { image: Image::Inventory, offset_bytes: 0, len_bytes }
}

fn namespace() -> IpcNs {
    let segment = |perm, size_bytes| SysvSegment {
        perm,
        size_bytes,
        huge: None,
        origin: Origin::new(Image::IpcShm(NS), 0),
    };
    let others = SysvPerm { uid: 31, gid: 32, cuid: 33, cgid: 34, ..perm(SHARED, 0x2a, 0o640) };
    let queue = |perm, most_bytes, messages| SysvQueue {
        perm,
        most_bytes,
        messages,
        origin: Origin::new(Image::IpcMsg(NS), 0),
    };
    let message = |kind, len| SysvMessage { kind, data: bytes(len) };
    let set = |perm, count| SysvSemaphores {
        perm,
        count,
        values: bytes(u64::from(count) * 2),
        origin: Origin::new(Image::IpcSem(NS), 0),
    };
    IpcNs {
        vars: IpcVars {
            sem: vec![250, 32000, 32, 128],
            msgmax: 9000,
            msgmnb: 20000,
            msgmni: 2,
            auto_msgmni: 1,
            // Less than there is.
            shmmax: 5000,
            shmall: 7000,
            shmmni: 400,
            shm_rmid_forced: 0,
            mqueue: [11, 12, 8193, 9, 8191],
            next_ids: [None, Some(77), None],
        },
        segments: vec![
            segment(others, 8 * PAGE),
            segment(perm(MARKED, 0, 0o600 | SHM_DEST | SHM_LOCKED), 100),
            segment(perm(ALONE, 0x2b, 0o600), 2 * PAGE),
        ],
        queues: vec![
            queue(perm(5, 0x2a, 0o600), 19000, vec![message(7, 3), message(2, 4)]),
            // More than full.
            queue(SysvPerm { cuid: 35, uid: 35, ..perm(6, 0, 0o622) }, 5, vec![message(1, 4), message(1, 3)]),
        ],
        semaphores: vec![
            set(perm(8, 0x2c, 0o600), 2),
            set(SysvPerm { uid: 36, gid: 37, ..perm(9, 0, 0o606) }, 1),
        ],
    }
}

/// The pair in a namespace of its own.
fn in_a_namespace() -> Model {
    let mut model = model();
    model.ipc.insert(NS, namespace());
    model.inventory.root_ids = Some(KobjIds { ipc_ns: 1, ..KobjIds::default() });
    let view = |start: u64, pages: u64, shmid, offset_bytes, read_only| Vma {
        start,
        end: start + pages * PAGE,
        prot: (libc::PROT_READ | if read_only { 0 } else { libc::PROT_WRITE }) as u32,
        flags: (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as u32,
        status: 0,
        kind: VmaKind::SysV { shmid, offset_bytes, read_only },
        madvise: 0,
        origin: Origin::new(Image::Mm(CHILD), 0),
    };
    let image = PagesImage::own(77);
    let extent = |start, offset_bytes| Extent { start, len_pages: 1, image, offset_bytes, entry: 1 };
    for (id, extents) in
        [(SHARED, vec![extent(PAGE, 0), extent(7 * PAGE, PAGE)]), (ALONE, vec![extent(0, 2 * PAGE)])]
    {
        model.shm.push(Shm { shmid: u64::from(id), pages: Pages { pages_id: 77, extents } });
    }
    let views = [
        vec![view(FREE, 8, SHARED, 0, false), view(FREE + 0x1_0000, 1, MARKED, 0, false)],
        vec![view(FREE + 0x2_0000, 3, SHARED, 5 * PAGE, false), view(FREE + 0x3_0000, 2, SHARED, PAGE, true)],
    ];
    for (task, views) in model.tasks.iter_mut().zip(views) {
        let alive = task.alive_mut().expect("it lives");
        alive.ids.ipc_ns = NS;
        alive.mm.vmas.extend(views);
        alive.mm.vmas.sort_by_key(|vma| vma.start);
    }
    model
}

/// A segment of two huge pages: the root has all of it, to be read; the child its second page, elsewhere.
fn add_huge(model: &mut Model) {
    let flag = 0o4000 | 21 << 26;
    let origin = Origin::new(Image::IpcShm(NS), 0);
    let segment =
        SysvSegment { perm: perm(BIG, 0x2d, 0o600), size_bytes: 2 * HUGE, huge: Some(flag), origin };
    model.ipc.get_mut(&NS).expect("it is there").segments.push(segment);
    let (image, offset_bytes) = (PagesImage::own(77), 3 * PAGE);
    let extent = Extent { start: HUGE + PAGE, len_pages: 1, image, offset_bytes, entry: 1 };
    model.shm.push(Shm { shmid: u64::from(BIG), pages: Pages { pages_id: 77, extents: vec![extent] } });
    let views =
        [(2 * HUGE, 0, libc::PROT_READ, true), (HUGE, HUGE, libc::PROT_READ | libc::PROT_WRITE, false)];
    for (task, (len, offset_bytes, prot, read_only)) in model.tasks.iter_mut().zip(views) {
        let alive = task.alive_mut().expect("it lives");
        let start = HUGE_FREE + offset_bytes;
        alive.mm.vmas.push(Vma {
            start,
            end: start + len,
            prot: prot as u32,
            flags: (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as u32 | libc::MAP_HUGETLB as u32 | 21 << 26,
            status: 0,
            kind: VmaKind::SysV { shmid: BIG, offset_bytes, read_only },
            madvise: 0,
            origin: Origin::new(Image::Mm(CHILD), 0),
        });
        alive.mm.vmas.sort_by_key(|vma| vma.start);
    }
}

/// Nothing of what attaches huge pages and moves them can be left out, or be otherwise.
#[test]
fn every_record_of_huge_views_is_needed() {
    let mut model = in_a_namespace();
    add_huge(&mut model);
    let Real { mut lifted, expected, .. } = real_of(model);
    verify(&lifted, &expected).expect("a certificate");
    let is_of_view = |effect: &Effect| match effect {
        Effect::Memory(MemoryEffect::Attach { id, .. }) => *id == BIG,
        Effect::Memory(MemoryEffect::Remap { old_len, .. }) => *old_len != 0,
        Effect::Memory(MemoryEffect::Unmap { len, .. }) => *len == HUGE,
        Effect::Ipc(IpcEffect::Make { id, .. }) => *id == BIG,
        _ => false,
    };
    let altered = |effect: &Effect| -> Vec<Effect> {
        let memory = Effect::Memory;
        match effect.clone() {
            Effect::Memory(MemoryEffect::Attach { id, at, read_only }) => vec![
                memory(MemoryEffect::Attach { id, at: at + HUGE, read_only }),
                memory(MemoryEffect::Attach { id, at: at + PAGE, read_only }),
                memory(MemoryEffect::Attach { id, at, read_only: !read_only }),
                memory(MemoryEffect::Attach { id: SHARED, at, read_only }),
            ],
            Effect::Memory(MemoryEffect::Remap { from, old_len, to, new_len, flags }) => {
                let remap = |from, old_len, to, new_len, flags| {
                    memory(MemoryEffect::Remap { from, old_len, to, new_len, flags })
                };
                vec![
                    remap(from + PAGE, old_len, to, new_len, flags),
                    remap(from, old_len, to + HUGE, new_len, flags),
                    remap(from, old_len, to + PAGE, new_len, flags),
                    remap(from, old_len - PAGE, to, new_len - PAGE, flags),
                    remap(from, old_len, to, new_len + HUGE, flags),
                    remap(from, 0, to, new_len, flags),
                    remap(from, old_len, to, new_len, flags | 4),
                ]
            }
            Effect::Memory(MemoryEffect::Unmap { at, len }) => vec![
                memory(MemoryEffect::Unmap { at, len: len - PAGE }),
                memory(MemoryEffect::Unmap { at: at + HUGE, len }),
            ],
            Effect::Ipc(IpcEffect::Make { kind, id, key, size, mode, huge }) => {
                let make = |size, huge| Effect::Ipc(IpcEffect::Make { kind, id, key, size, mode, huge });
                // Of other pages, or of none; with one more.
                vec![make(size, 0), make(size, huge ^ 1 << 26), make(size, 1), make(size + 1, huge)]
            }
            _ => Vec::new(),
        }
    };
    let (mut seen, mut left) = (BTreeMap::<&str, usize>::new(), Vec::new());
    for task in 0..lifted.tasks.len() {
        for at in 0..lifted.tasks[task].effects.len() {
            let record: Lifted = lifted.tasks[task].effects[at].clone();
            if !is_of_view(&record.effect) {
                continue;
            }
            *seen.entry(record.effect.name()).or_default() += 1;
            for effect in altered(&record.effect) {
                lifted.tasks[task].effects[at].effect = effect.clone();
                if verify(&lifted, &expected).is_ok() {
                    left.push(format!("{:?} is {effect:?}", record.effect));
                }
            }
            lifted.tasks[task].effects.remove(at);
            if verify(&lifted, &expected).is_ok() {
                left.push(format!("left out: {:?}", record.effect));
            }
            lifted.tasks[task].effects.insert(at, record);
        }
    }
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(seen, BTreeMap::from([("mremap", 2), ("munmap", 1), ("shmat", 3), ("shmget", 1)]));
}

fn real_namespace() -> Real {
    real_of(in_a_namespace())
}

fn real_of(model: Model) -> Real {
    let facts = facts(&model);
    let (real, problems) = plan(model, &facts);
    let about = |problem: &&Problem| {
        problem.to_string().contains("System V") || problem.to_string().contains("ipcns")
    };
    assert_eq!(problems.iter().filter(about).collect::<Vec<_>>(), Vec::<&Problem>::new());
    real
}

/// The record with one thing changed in it.
fn altered_ipc(effect: &Effect) -> Vec<Effect> {
    let ipc = Effect::Ipc;
    match effect.clone() {
        Effect::Ipc(IpcEffect::NewNamespace) => Vec::new(),
        Effect::Ipc(IpcEffect::Make { kind, id, key, size, mode, huge }) => {
            let make = |id, key, size, mode| ipc(IpcEffect::Make { kind, id, key, size, mode, huge });
            let mut all = vec![make(id + 1, key, size, mode)];
            // What is given to another owner gets its permissions once more.
            if ![SHARED, 5, 6, 9].contains(&id) {
                all.push(make(id, key, size, mode ^ 0o020));
            }
            // A key is lost when it is marked.
            if id != MARKED {
                all.push(make(id, key + 0x100, size, mode));
            }
            if kind != IpcKind::Queue {
                let others = [size + 1, size - 1, u64::from(u32::MAX)];
                all.extend(others.map(|size| make(id, key, size, mode)));
            }
            all
        }
        Effect::Ipc(IpcEffect::SetOwner { kind, id, uid, gid, mode, most_bytes }) => {
            let set = |id, uid, gid, mode, most_bytes| {
                ipc(IpcEffect::SetOwner { kind, id, uid, gid, mode, most_bytes })
            };
            let mut all = vec![
                set(id + 1, uid, gid, mode, most_bytes),
                set(id, uid + 1, gid, mode, most_bytes),
                set(id, uid, gid + 1, mode, most_bytes),
                set(id, uid, gid, mode ^ 0o100, most_bytes),
            ];
            all.extend(most_bytes.map(|bytes| set(id, uid, gid, mode, Some(bytes + 1))));
            all
        }
        Effect::Ipc(IpcEffect::LockSegment { .. }) => vec![ipc(IpcEffect::LockSegment { id: SHARED })],
        Effect::Ipc(IpcEffect::RemoveSegment { .. }) => {
            vec![ipc(IpcEffect::RemoveSegment { id: SHARED }), ipc(IpcEffect::RemoveSegment { id: ALONE })]
        }
        Effect::Ipc(IpcEffect::Send { queue, kind, mut data }) => {
            let other = ipc(IpcEffect::Send { queue, kind: kind + 1, data: data.clone() });
            let elsewhere = ipc(IpcEffect::Send { queue: 11 - queue, kind, data: data.clone() });
            data[0] ^= 1;
            vec![other, elsewhere, ipc(IpcEffect::Send { queue, kind, data })]
        }
        Effect::Ipc(IpcEffect::SetValues { set, values }) => {
            let mut other = values.clone();
            other[0] += 1;
            let longer = [&values[..], &[1]].concat();
            let set_all = |set, values| ipc(IpcEffect::SetValues { set, values });
            vec![set_all(set, other), set_all(set, longer), set_all(17 - set, values)]
        }
        Effect::Memory(MemoryEffect::Attach { id, at, read_only }) => {
            let attach = |id, at, read_only| Effect::Memory(MemoryEffect::Attach { id, at, read_only });
            vec![
                attach(id, at, !read_only),
                attach(id + 1, at, read_only),
                attach(id, FREE + 0x8_0000, read_only),
            ]
        }
        Effect::Object { fd, change: Change::Write { data } } => {
            let mut other = data.clone();
            other[0] = if other[0] == b'1' { b'2' } else { b'1' };
            let word = b"many".to_vec();
            [other, word]
                .into_iter()
                .map(|data| Effect::Object { fd, change: Change::Write { data } })
                .collect()
        }
        Effect::Privilege(PrivilegeEffect::Uids([real, Some(id), saved])) => {
            vec![Effect::Privilege(PrivilegeEffect::Uids([real, Some(id + 100), saved]))]
        }
        Effect::Privilege(PrivilegeEffect::Gids([real, Some(id), saved])) => {
            vec![Effect::Privilege(PrivilegeEffect::Gids([real, Some(id + 100), saved]))]
        }
        _ => Vec::new(),
    }
}

/// Whether the record has to do with the namespace; those of the root before it arrives that change its ids have.
fn is_of_ipc(effect: &Effect) -> bool {
    match effect {
        Effect::Ipc(_) | Effect::Memory(MemoryEffect::Attach { .. }) => true,
        Effect::Object { change: Change::Write { data }, .. } => {
            data.iter().all(|byte| b"0123456789 ".contains(byte))
        }
        Effect::Privilege(PrivilegeEffect::Uids(_) | PrivilegeEffect::Gids(_)) => true,
        _ => false,
    }
}

#[test]
fn every_record_of_a_namespace_is_needed() {
    let Real { mut lifted, expected, .. } = real_namespace();
    let certificate = verify(&lifted, &expected).expect("a certificate");
    assert_eq!(certificate.ipc_objects, 7, "{certificate}");
    let mut names = BTreeSet::new();
    let mut left = Vec::new();
    let arrives = lifted.tasks[0].effects.iter().position(|lifted| lifted.effect == Effect::Arrive);
    for at in 0..arrives.expect("it arrives") {
        let record: Lifted = lifted.tasks[0].effects[at].clone();
        if !is_of_ipc(&record.effect) {
            continue;
        }
        names.insert(record.effect.name());
        for effect in altered_ipc(&record.effect) {
            lifted.tasks[0].effects[at].effect = effect.clone();
            if verify(&lifted, &expected).is_ok() {
                left.push(format!("record {}: {:?} is {effect:?}", record.record, record.effect));
            }
        }
        lifted.tasks[0].effects.remove(at);
        if verify(&lifted, &expected).is_ok() {
            left.push(format!("record {}: left out: {:?}", record.record, record.effect));
        }
        lifted.tasks[0].effects.insert(at, record);
    }
    assert_eq!(left, Vec::<String>::new());
    let wanted = [
        "msgctl(IPC_SET)",
        "msgget",
        "msgsnd",
        "semctl(IPC_SET)",
        "semctl(SETALL)",
        "semget",
        "setresgid",
        "setresuid",
        "shmat",
        "shmctl(IPC_RMID)",
        "shmctl(IPC_SET)",
        "shmctl(SHM_LOCK)",
        "shmget",
        "unshare",
        "write",
    ];
    assert_eq!(names.into_iter().collect::<Vec<_>>(), wanted);
}

/// On the model of the kernel, whoever goes on first, all comes to what the images say.
#[test]
fn the_model_of_the_kernel_agrees() {
    let schedules = [Schedule::Lowest, Schedule::Highest, Schedule::Adversary, Schedule::Random(7)];
    for (schedule, is_huge) in schedules.into_iter().flat_map(|it| [(it, false), (it, true)]) {
        let mut model = in_a_namespace();
        if is_huge {
            add_huge(&mut model);
        }
        let Real { lifted, expected, .. } = real_of(model);
        let host = Host { capabilities: ALL_CAPABILITIES, suid_dumpable: 2, ..Host::default() };
        let played = play(World::new(&lifted, host).expect("a root"), schedule);
        let faults: Vec<String> = played.faults.iter().map(ToString::to_string).collect();
        assert_eq!((faults, played.stuck), (Vec::new(), Vec::new()));
        let end = played.world.end();
        let differs = wanted::differences(&end, &expected);
        let of_ipc: Vec<_> =
            differs.iter().filter(|line| line.contains("IPC") || line.contains(" are")).collect();
        assert_eq!(of_ipc, Vec::<&String>::new());
        assert_eq!(end.ipcs.len(), 1);
        // Without its namespace, or an object, it would not.
        let mut other = expected.clone();
        other.ipc.as_mut().expect("there is one").segments.remove(&ALONE);
        assert_ne!(wanted::differences(&end, &other), differs);
    }
}

/// Nobody but the root, and it before it forks.
#[test]
fn a_namespace_is_the_roots() {
    let Real { lifted, expected, .. } = real_namespace();
    let refused = |change: &dyn Fn(&mut LiftedTree), words: &str| {
        let mut other = lifted.clone();
        change(&mut other);
        let counterexample = verify(&other, &expected).expect_err("no certificate").to_string();
        assert!(counterexample.contains(words), "{counterexample}");
    };
    let is_unshare = |lifted: &Lifted| lifted.effect == Effect::Ipc(IpcEffect::NewNamespace);
    let unshare = lifted.tasks[0].effects.iter().position(is_unshare).expect("there is one");
    let fork = lifted.tasks[0].effects.iter().position(|lifted| matches!(lifted.effect, Effect::Fork(_)));
    refused(
        &|tree| {
            let mut record = tree.tasks[0].effects.remove(unshare);
            record.record = fork.expect("it forks") as u32;
            tree.tasks[0].effects.insert(fork.expect("it forks"), record);
        },
        "in the caller's namespace",
    );
    for (task, words) in
        [(1, "that not the whole tree is born in"), (0, "that not the whole tree is born in")]
    {
        refused(
            &|tree| {
                let record = lifted.tasks[0].effects[unshare].clone();
                let at = if task == 0 { unshare + 1 } else { 0 };
                tree.tasks[task].effects.insert(at, record);
            },
            words,
        );
    }
    refused(
        &|tree| {
            let lock = Lifted { record: 0, effect: Effect::Ipc(IpcEffect::LockSegment { id: SHARED }) };
            tree.tasks[1].effects.insert(0, lock);
        },
        "IPC by another than the root",
    );
}

/// Images that say something else than the plan was made for.
#[test]
fn all_that_the_images_say_is_compared() {
    let Real { lifted, expected, .. } = real_namespace();
    let lost = |change: &dyn Fn(&mut ExpectedIpc)| {
        let mut other = expected.clone();
        change(other.ipc.as_mut().expect("there is one"));
        let counterexample = verify(&lifted, &other).expect_err("no certificate");
        assert_eq!(counterexample.wrong.demand(), 3, "{counterexample}");
    };
    let ipc = expected.ipc.as_ref().expect("there is one");
    for path in ipc.variables.keys() {
        lost(&|ipc| {
            ipc.variables.remove(path);
        });
        lost(&|ipc| ipc.variables.get_mut(path).expect("it is there").push(b'0'));
    }
    lost(&|ipc| ipc.next_ids.clear());
    for id in ipc.segments.keys() {
        lost(&|ipc| drop(ipc.segments.remove(id)));
        let segment =
            |ipc: &mut ExpectedIpc, change: &dyn Fn(&mut regrow_graph::verify::ExpectedSysvSegment)| {
                change(ipc.segments.get_mut(id).expect("it is there"));
            };
        lost(&|ipc| segment(ipc, &|it| it.perm.key ^= 1));
        lost(&|ipc| segment(ipc, &|it| it.perm.cuid += 1));
        lost(&|ipc| segment(ipc, &|it| it.perm.cgid += 1));
        lost(&|ipc| segment(ipc, &|it| it.perm.uid += 1));
        lost(&|ipc| segment(ipc, &|it| it.perm.gid += 1));
        lost(&|ipc| segment(ipc, &|it| it.perm.mode ^= SHM_LOCKED));
        lost(&|ipc| segment(ipc, &|it| it.perm.mode ^= SHM_DEST));
        lost(&|ipc| segment(ipc, &|it| it.size += 1));
    }
    for id in [SHARED, ALONE] {
        let pages = |ipc: &mut ExpectedIpc, change: &dyn Fn(&mut regrow_graph::verify::ExpectedPages)| {
            change(&mut ipc.segments.get_mut(&id).expect("it is there").pages);
        };
        lost(&|ipc| pages(ipc, &|it| it.extents[0].from += PAGE));
        lost(&|ipc| {
            pages(ipc, &|it| {
                it.extents.pop();
            });
        });
        lost(&|ipc| pages(ipc, &|it| it.files[0].push(b'x')));
    }
    for id in ipc.queues.keys() {
        lost(&|ipc| drop(ipc.queues.remove(id)));
        lost(&|ipc| ipc.queues.get_mut(id).expect("it is there").most_bytes += 1);
        lost(&|ipc| drop(ipc.queues.get_mut(id).expect("it is there").messages.pop()));
        lost(&|ipc| ipc.queues.get_mut(id).expect("it is there").messages.swap(0, 1));
    }
    for id in ipc.semaphores.keys() {
        lost(&|ipc| drop(ipc.semaphores.remove(id)));
        lost(&|ipc| ipc.semaphores.get_mut(id).expect("it is there").values[0] ^= 1);
    }
    let none = Expected { ipc: None, ..expected.clone() };
    verify(&lifted, &none).expect_err("a namespace that nobody asked for");
    // A segment that only the tapes have attached goes with them.
    let mut other = expected.clone();
    let forced = b"/proc/sys/kernel/shm_rmid_forced".to_vec();
    other.ipc.as_mut().expect("there is one").variables.insert(forced, b"1".to_vec());
    let mut tree = lifted.clone();
    let is_last = |lifted: &&mut Lifted| matches!(&lifted.effect, Effect::Object { change: Change::Write { data }, .. } if *data == b"0");
    for record in tree.tasks[0].effects.iter_mut().filter(|lifted| is_last(lifted)) {
        if let Effect::Object { change: Change::Write { data }, .. } = &mut record.effect {
            *data = b"1".to_vec();
        }
    }
    let counterexample = verify(&tree, &other).expect_err("no certificate").to_string();
    assert!(counterexample.contains("goes with the tapes"), "{counterexample}");
}

/// What cannot be restored is said by name, with its entry.
#[test]
fn what_cannot_be_made_is_refused() {
    let check = |change: &dyn Fn(&mut Model, &mut HostFacts), expected: &[&str]| {
        let mut model = in_a_namespace();
        let mut facts = facts(&model);
        change(&mut model, &mut facts);
        let is_of_ipc =
            |text: &String| ["System V", "message queue", "IPC"].iter().any(|word| text.contains(word));
        let said = plan(model, &facts).1;
        let new: Vec<String> = said.iter().map(ToString::to_string).filter(is_of_ipc).collect();
        assert_eq!(new.len(), expected.len(), "{new:#?}");
        for words in expected {
            assert!(new.iter().any(|problem| problem.contains(words)), "{words}: {new:#?}");
        }
    };
    let ns =
        |model: &mut Model, change: &dyn Fn(&mut IpcNs)| change(model.ipc.get_mut(&NS).expect("it is there"));
    let huge = |model: &mut Model| add_huge(model);
    check(&|model, _| huge(model), &[]);
    check(
        &|model, facts| {
            huge(model);
            facts.huge_pages.clear();
        },
        &["System V segment 16: this kernel has no huge pages of 2097152 bytes [ipcns-shm-9.img entry 0]"],
    );
    check(
        &|model, facts| {
            huge(model);
            facts.huge_pages = [(2 << 20, 1)].into();
        },
        &["2 huge pages of 2097152 bytes are needed, and 1 are free; 2 of them for System V segment 16"],
    );
    check(
        &|model, facts| {
            huge(model);
            facts.own.caps.effective &= !(1 << 14);
        },
        &["System V segment 16: huge pages take CAP_IPC_LOCK, which is missing"],
    );
    check(
        &|model, _| {
            huge(model);
            ns(model, &|ns| ns.segments[3].perm.cuid = 33);
        },
        &["System V segment 16: it was made by user 33, and huge pages take CAP_IPC_LOCK"],
    );
    check(
        &|model, _| {
            huge(model);
            ns(model, &|ns| ns.segments[3].perm.mode |= SHM_LOCKED);
        },
        &["System V segment 16: locked, which huge pages are not"],
    );
    check(
        &|model, _| {
            huge(model);
            ns(model, &|ns| ns.segments[3].huge = None);
        },
        &["which has pages of another size", "which has pages of another size"],
    );
    check(
        &|model, _| ns(model, &|ns| ns.segments[2].perm.mode |= SHM_DEST),
        &["System V segment 4 is marked for removal, and no task of the tree has it"],
    );
    check(
        &|model, _| ns(model, &|ns| ns.vars.shm_rmid_forced = 1),
        &["System V segment 4: nobody has it attached, and kernel.shm_rmid_forced lets none be filled"],
    );
    check(
        &|model, _| ns(model, &|ns| ns.segments[0].size_bytes = 7 * PAGE),
        &[
            "System V segment 98307 from 0x5000 on, which ends at 0x7000",
            "System V segment 98307 from 0x0 on, which ends at 0x7000",
        ],
    );
    check(
        &|model, _| ns(model, &|ns| ns.segments.truncate(1)),
        &["System V segment 3 from 0x0 on, which no image has"],
    );
    check(
        &|model, facts| {
            facts.own.caps.effective &= !(1 << 24);
            ns(model, &|ns| ns.queues[0].most_bytes = 20001);
        },
        &[
            "message queue 5: 20001 bytes are more than kernel.msgmnb (20000), and CAP_SYS_RESOURCE is missing",
        ],
    );
    check(
        &|model, _| {
            ns(model, &|ns| {
                ns.vars.msgmnb = 6;
                ns.queues[0].most_bytes = 6;
            });
        },
        &["message queue 5: it holds more than it may now", "message queue 6: it holds more than it may now"],
    );
    check(&|model, _| ns(model, &|ns| ns.vars.msgmni = 1), &[]);
    check(
        &|model, _| {
            let child = model.tasks[1].alive_mut().expect("it lives");
            child.ids.ipc_ns = NS + 1;
        },
        &["lives in another IPC namespace than the root: not restored yet [core-4713.img entry 0]"],
    );
    check(&|_, facts| facts.kernel.ipc_namespaces = false, &["IPC namespaces (CONFIG_IPC_NS) are missing"]);
    check(&|_, facts| facts.kernel.ipc_next_ids = false, &["ids of System V objects cannot be chosen"]);
    check(
        &|_, facts| facts.kernel.mqueue = false,
        &["POSIX message queues (CONFIG_POSIX_MQUEUE) are missing"],
    );
}
