//! Rings of asynchronous I/O: what a plan that makes them comes to, whoever runs first, and what the model does not play.

#![allow(clippy::unwrap_used)]

mod support;

use regrow_graph::verify::{Change, Effect, FdEffect, MemoryEffect, RingEffect};
use regrow_model::world::Why;
use regrow_model::{Bounds, Host, World, explore};
use support::{close_all, fork, tree};

const RING: u64 = 0x7_0000;
const CELL: u64 = 0x1_0000_0ff8;

fn memory(effect: MemoryEffect) -> Effect {
    Effect::Memory(effect)
}

fn ring(effect: RingEffect) -> Effect {
    memory(MemoryEffect::Ring(effect))
}

/// A ring of a page, read up to event 5 and written up to event 9.
fn making() -> Vec<Effect> {
    vec![
        memory(MemoryEffect::Map { at: RING, len: 0x1000, prot: 0, flags: 0x10_0022, file: None }),
        ring(RingEffect::Setup { requests: 1, cell: CELL }),
        ring(RingEffect::Place { cell: CELL, len: 0x1000, to: RING }),
        Effect::Fd(FdEffect::Open { path: b"/images/pages-1.img".to_vec(), flags: 0, fd: 0 }),
        ring(RingEffect::Submit { ring: RING, count: 5, fd: 0 }),
        ring(RingEffect::Reap { ring: RING, count: 5 }),
        // Record 6.
        ring(RingEffect::Submit { ring: RING, count: 4, fd: 0 }),
        Effect::Object {
            fd: 0,
            change: Change::Read { into: vec![(RING + 32, 0xfe0)], offset: Some(0x2020) },
        },
        Effect::Fd(FdEffect::Close { fd: 0 }),
    ]
}

fn world(of_root: Vec<Effect>, of_child: Vec<Effect>) -> World {
    let ends = [Effect::Arrive, Effect::Park];
    let bare = memory(MemoryEffect::Unmap { at: 0, len: 0x1_0000_0000 });
    let root = [vec![bare, close_all(), fork(8)], of_root, ends.to_vec()].concat();
    let child = [of_child, ends.to_vec()].concat();
    World::new(&tree(vec![(7, root), (8, child)]), Host::default()).unwrap()
}

#[test]
fn two_tasks_with_rings() {
    let found = explore(&world(making(), making()), Bounds::default());
    assert!(found.is_one_end(), "{:?}", found.deadlocks);
    let end = found.ends.iter().next().unwrap();
    assert_eq!(end.spaces.len(), 2);
    for space in end.spaces.values() {
        let (at, context) = space.contexts.iter().next().unwrap();
        assert_eq!((*at, context.len, context.events(), context.ends()), (RING, 0x1000, 127, (5, 9)));
        // All but the head is as the image has it: nothing is left of what the requests wrote.
        let content: Vec<_> = space.private.iter().map(|(start, end, _)| (start, end)).collect();
        assert_eq!(content, [(RING + 32, RING + 0x1000)]);
    }
}

#[test]
fn what_requests_leave_is_seen() {
    let mut late = making();
    late.swap(6, 7);
    let right = explore(&world(making(), Vec::new()), Bounds::default());
    let wrong = explore(&world(late, Vec::new()), Bounds::default());
    assert!(right.is_one_end() && wrong.is_one_end());
    assert_ne!(right.ends, wrong.ends, "the kernel writes over what was filled");
}

#[test]
fn what_cannot_be_played() {
    /// What the first failure of a call is.
    #[track_caller]
    fn fails(effects: Vec<Effect>, call: Effect, expected: &str) {
        let mut world = world(Vec::new(), Vec::new());
        world.call(7, &memory(MemoryEffect::Unmap { at: 0, len: 0x1_0000_0000 })).unwrap();
        world.call(7, &close_all()).unwrap();
        for effect in effects {
            world.call(7, &effect).unwrap();
        }
        let fault = world.call(7, &call).expect_err("it fails");
        let why = match fault.why {
            Why::Errno(errno) => format!("errno {errno}"),
            other => other.to_string(),
        };
        assert!(why.contains(expected), "{why}\nexpected: {expected}");
    }
    let made = |count: usize| making()[..count].to_vec();
    let submit = |at, count| ring(RingEffect::Submit { ring: at, count, fd: 0 });
    fails(made(1), ring(RingEffect::Setup { requests: 0, cell: CELL }), "errno 22");
    fails(made(1), ring(RingEffect::Setup { requests: u32::MAX, cell: CELL }), "errno 22");
    fails(made(1), ring(RingEffect::Setup { requests: 70_000, cell: CELL }), "errno 11");
    fails(made(2), ring(RingEffect::Place { cell: CELL, len: 0x2000, to: RING }), "not known");
    fails(
        made(2),
        ring(RingEffect::Place { cell: CELL, len: 0x1000, to: RING + 0x1000 }),
        "keeps its place free",
    );
    fails(made(2), memory(MemoryEffect::Unmap { at: RING, len: 0x1000 }), "wherever the kernel put it");
    fails(made(4), submit(RING + 0x1000, 1), "errno 22");
    fails(made(4), submit(RING, 84), "there may be no room");
    fails(made(3), submit(RING, 1), "errno 9");
    fails(made(5), ring(RingEffect::Reap { ring: RING, count: 6 }), "nobody has asked for");
    let over_head = Change::Read { into: vec![(RING, 0x1000)], offset: Some(0x2000) };
    fails(made(4), Effect::Object { fd: 0, change: over_head }, "the head of a ring");
    fails(
        making(),
        memory(MemoryEffect::Remap { from: RING, old_len: 0x1000, to: 0x9_0000, new_len: 0x1000, flags: 3 }),
        "a ring moved",
    );
}
