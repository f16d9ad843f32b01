//! Pages that are read into memory of their own and moved from there: what it comes to, with a helper in the address space, and
//! what the kernel refuses.

#![allow(clippy::unwrap_used)]

mod support;

use regrow_graph::verify::{Birth, Change, Effect, FdEffect, MemoryEffect, UserfaultChange};
use regrow_model::world::Why;
use regrow_model::{Bounds, Host, World, explore};
use support::{close_all, fork, tree};

const HEAP: u64 = 0x10_0000;
const STAGE: u64 = 0x1_0008_0000;
const RW: u32 = 3;
/// MAP_PRIVATE, MAP_ANONYMOUS, MAP_FIXED_NOREPLACE.
const PRIVATE: u32 = 0x10_0022;
const NORESERVE: u32 = 0x4000;
const LOCKED: u32 = 0x2000;
const CLONE_VM: u64 = 0x100;

fn map(at: u64, len: u64, prot: u32, flags: u32) -> Effect {
    Effect::Memory(MemoryEffect::Map { at, len, prot, flags, file: None })
}

fn with(change: UserfaultChange) -> Effect {
    Effect::Object { fd: 1, change: Change::Userfault(change) }
}

fn read(at: u64, len: u64, offset: u64) -> Effect {
    Effect::Object { fd: 0, change: Change::Read { into: vec![(at, len)], offset: Some(offset) } }
}

fn move_pages(to: u64, from: u64, len: u64) -> Effect {
    with(UserfaultChange::Move { to, from, len })
}

/// Up to the memory that is read into.
fn before() -> Vec<Effect> {
    vec![
        map(HEAP, 0x4000, RW, PRIVATE),
        Effect::Fd(FdEffect::Open { path: b"/images/pages-1.img".to_vec(), flags: 0, fd: 0 }),
        Effect::Fd(FdEffect::Userfault { flags: 1, fd: 1 }),
        with(UserfaultChange::Handshake),
        with(UserfaultChange::Register { at: HEAP, len: 0x4000 }),
        map(STAGE, 0x2000, RW, PRIVATE | NORESERVE),
    ]
}

fn behind() -> Vec<Effect> {
    vec![
        Effect::Memory(MemoryEffect::Unmap { at: STAGE, len: 0x2000 }),
        with(UserfaultChange::Unregister { at: HEAP, len: 0x4000 }),
        Effect::Fd(FdEffect::CloseRange { first: 0, last: 1, only_mark: false, unshare: false }),
    ]
}

/// Task 7 does that and forks 8, which has no tape but its end. `guest`: what 9 does in the address space of 7.
fn world(of_root: Vec<Effect>, guest: Option<Vec<Effect>>) -> World {
    let ends = [Effect::Arrive, Effect::Park];
    let bare = Effect::Memory(MemoryEffect::Unmap { at: 0, len: 0x1_0000_0000 });
    let root = [vec![bare, close_all()], of_root, vec![fork(8)], ends.to_vec()].concat();
    let mut tapes = vec![(7, root), (8, ends.to_vec())];
    tapes.extend(guest.map(|tape| (9, tape)));
    World::new(&tree(tapes), Host::default()).unwrap()
}

#[test]
fn who_moves_does_not_matter() {
    let both = |from: u64| {
        vec![
            read(STAGE + from, 0x1000, 0x5000 + from),
            move_pages(HEAP + 0x1000 + from, STAGE + from, 0x1000),
        ]
    };
    let alone = [before(), both(0), both(0x1000), behind()].concat();
    let alone = explore(&world(alone, None), Bounds::default());
    assert!(alone.is_one_end(), "{:?}", alone.deadlocks);
    let birth = Birth { pid: 9, flags: CLONE_VM, exit_signal: 0, cgroup: None };
    let awaited = vec![Effect::AwaitExit { pid: 9, reap: true }];
    let together = [before(), vec![Effect::Fork(birth)], both(0), awaited, behind()].concat();
    let guest = [both(0x1000), vec![Effect::Exit { code: 0 }]].concat();
    let together = explore(&world(together, Some(guest)), Bounds::default());
    assert!(together.is_one_end(), "{:?}", together.deadlocks);
    assert_eq!(alone.ends, together.ends);
    let end = alone.ends.iter().next().unwrap();
    for space in end.spaces.values() {
        let content: Vec<_> = space.private.iter().map(|(start, end, _)| (start, end)).collect();
        assert_eq!(content, [(HEAP + 0x1000, HEAP + 0x3000)]);
    }
}

#[test]
fn what_the_kernel_refuses() {
    #[track_caller]
    fn fails(effects: Vec<Effect>, call: Effect, expected: &str) {
        let mut world = world(Vec::new(), None);
        world.call(7, &Effect::Memory(MemoryEffect::Unmap { at: 0, len: 0x1_0000_0000 })).unwrap();
        world.call(7, &close_all()).unwrap();
        for effect in effects {
            world.call(7, &effect).unwrap();
        }
        let Why::Errno(errno) = world.call(7, &call).expect_err("it fails").why else {
            panic!("another way")
        };
        assert_eq!(format!("errno {errno}"), expected);
    }
    let filled = || [before(), vec![read(STAGE, 0x2000, 0x5000)]].concat();
    let page = |to: u64| move_pages(to, STAGE, 0x1000);
    fails(before(), page(HEAP), "errno 2");
    fails([before(), vec![read(STAGE, 0x1000, 0)]].concat(), move_pages(HEAP, STAGE, 0x2000), "errno 11");
    fails([filled(), vec![page(HEAP)]].concat(), move_pages(HEAP, STAGE + 0x1000, 0x1000), "errno 17");
    fails([filled(), vec![page(HEAP)]].concat(), page(HEAP + 0x1000), "errno 2");
    fails(filled(), page(HEAP + 0x4000), "errno 22");
    fails(filled(), page(HEAP + 0x800), "errno 22");
    let protect = Effect::Memory(MemoryEffect::Protect { at: HEAP, len: 0x1000, prot: 1 });
    fails([filled(), vec![protect]].concat(), page(HEAP), "errno 22");
    let mut other = filled();
    other[0] = map(HEAP, 0x4000, RW, PRIVATE | LOCKED);
    fails(other, page(HEAP), "errno 22");
    let mut unregistered = filled();
    unregistered.remove(4);
    fails(unregistered, page(HEAP), "errno 22");
}
