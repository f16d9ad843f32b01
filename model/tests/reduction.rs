//! The reduced search against the one that visits everything, on random small programs: the same ends, the
//! same deadlocks. And the ground of the reduction: steps whose footprints do not conflict commute.

// How much the reduction saves is for whoever looks.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod support;

use std::collections::HashSet;

use regrow_graph::verify::{
    Attribute, Birth, Change, Effect, FdEffect, LiftedTree, MemoryEffect, NameEffect,
};
use regrow_model::{Bounds, Host, Outcome, World, everything, explore, footprint::Footprint};
use support::{Dice, close, close_all, pipe, pipe_size, read, tree, write};

const SHARED: u64 = 0x1_0001_0000;
const SCRATCH: u64 = 0x1_0000_0800;
const CLONE_FILES: u64 = 0x400;
const CLONE_PARENT: u64 = 0x8000;
const PIDS: [u32; 3] = [10, 11, 12];

fn object(fd: u32, change: Change) -> Effect {
    Effect::Object { fd, change }
}

/// What the root makes for all: a pipe of a page at 0 and 1, a pair at 2 and 3, an eventfd at 4, shared memory.
fn preface() -> Vec<Effect> {
    let map = MemoryEffect::Map { at: SHARED, len: 8192, prot: 3, flags: 0x10_0021, file: None };
    vec![
        close_all(),
        pipe(),
        pipe_size(0, 4096),
        Effect::Fd(FdEffect::SocketPair { sock_type: 1, flags: 0 }),
        Effect::Fd(FdEffect::Eventfd { counter: 1, flags: 0, fd: 4 }),
        Effect::Memory(map),
    ]
}

/// Something that others may see, or that depends on what others do.
fn something(dice: &mut Dice) -> Effect {
    let pid = PIDS[dice.below(3) as usize];
    let event = dice.below(2) as u32;
    let fd = dice.below(6) as u32;
    match dice.below(26) {
        0 | 1 => Effect::Post(event),
        2 | 3 => Effect::Wait(event),
        4 => write(1, &vec![b'a' + dice.below(2) as u8; [3, 4096][dice.below(2) as usize]]),
        5 => read(0, SCRATCH, 3),
        6 => close(fd),
        7 => Effect::Fd(FdEffect::Dup { from: fd, to: (fd + 1) % 6, cloexec: false }),
        8 => Effect::Fd(FdEffect::Open { path: b"/f".to_vec(), flags: 2, fd: 5 }),
        9 => object(2, Change::Send { data: b"m".to_vec(), rights: vec![fd], never_blocks: true }),
        10 => object(3, Change::Send { data: vec![0; 3000], rights: vec![], never_blocks: true }),
        11 => object(2, Change::Shutdown { bits: 1, connected: true }),
        12 => object(4, Change::Write { data: 5u64.to_ne_bytes().to_vec() }),
        13 => read(4, SCRATCH, 8),
        14 => Effect::SetSid,
        15 => Effect::SetPgid { pgid: pid },
        16 => Effect::AwaitExit { pid, reap: dice.below(2) == 0 },
        17 => Effect::Attribute(Attribute::Subreaper(dice.below(3) > 0)),
        18 => {
            let at = SHARED + 4096 * dice.below(2);
            Effect::Memory(MemoryEffect::Write { pieces: vec![(at, vec![dice.below(250) as u8])] })
        }
        19 => Effect::Name(NameEffect::Unlink { path: b"/f".to_vec() }),
        20 => Effect::Name(NameEffect::Link { from: b"/f".to_vec(), to: b"/g".to_vec() }),
        21 => {
            let handler = dice.below(2);
            Effect::Attribute(Attribute::SigAction { signal: 17, handler, flags: 0, restorer: 0, mask: 0 })
        }
        22 => Effect::Attribute(Attribute::SigMask { how: dice.below(2) as u32, set: 1 << 16 }),
        23 => Effect::Attribute(Attribute::EatSignal { set: 1 << 16 }),
        24 => object(fd, Change::SetOwner { pid_type: 1, pid }),
        _ => Effect::Fd(FdEffect::CloseRange { first: 1, last: 3, only_mark: false, unshare: true }),
    }
}

fn program(seed: u64, len: u64) -> LiftedTree {
    let mut dice = Dice(seed);
    let mut tapes: Vec<Vec<Effect>> =
        (0..3).map(|_| (0..len).map(|_| something(&mut dice)).collect()).collect();
    for (child, pid) in PIDS.into_iter().enumerate().skip(1) {
        let forker = dice.below(child as u64) as usize;
        let at = dice.below(2) as usize;
        let flags = [0, 0, CLONE_FILES, CLONE_PARENT][dice.below(4) as usize];
        let exit_signal = if flags == CLONE_PARENT { 0 } else { [0, 17][dice.below(2) as usize] };
        tapes[forker].insert(at, Effect::Fork(Birth { pid, flags, exit_signal, cgroup: None }));
    }
    for tape in &mut tapes {
        if dice.below(3) == 0 {
            tape.push(Effect::Exit { code: 1 });
        } else {
            tape.extend([Effect::Arrive, Effect::Park]);
        }
    }
    tapes[0] = [preface(), std::mem::take(&mut tapes[0])].concat();
    tree(PIDS.into_iter().zip(tapes).collect())
}

#[test]
fn the_reduced_search_finds_what_there_is() {
    let bounds = Bounds { transitions: 400_000 };
    let (mut deadlocks, mut faults, mut several) = (0, 0, 0);
    let (mut full, mut reduced, mut interleavings, mut runs) = (0, 0, 0.0, 0);
    for seed in 0..400 {
        let tree = program(seed, 3);
        let world = World::new(&tree, Host::default()).unwrap();
        let all = everything(&world, bounds);
        let found = explore(&world, bounds);
        assert!(!all.is_cut && !found.is_cut, "seed {seed}: {} and {}", all.transitions, found.transitions);
        assert_eq!(found.deadlocks, all.deadlocks, "seed {seed}");
        assert!(found.ends == all.ends, "seed {seed}: {} of {} ends", found.ends.len(), all.ends.len());
        assert!(found.runs as f64 <= all.interleavings, "seed {seed}");
        deadlocks += usize::from(!all.deadlocks.is_empty());
        faults += usize::from(all.ends.iter().any(|end| !end.faults().is_empty()));
        several += usize::from(all.ends.len() > 1);
        (full, reduced) = (full + all.transitions, reduced + found.transitions);
        (interleavings, runs) = (interleavings + all.interleavings, runs + found.runs);
    }
    eprintln!(
        "{interleavings} interleavings, {runs} runs; {full} steps between states, {reduced} steps of the runs"
    );
    // What is to be found was there.
    assert!(deadlocks > 40 && faults > 40 && several > 40, "{deadlocks}, {faults}, {several}");
    assert!((runs as f64) * 2.0 < interleavings);
}

/// A step from a world: what it leads to, what it touched, and whether it went on.
fn step(world: &World, task: u32) -> (World, Footprint, bool) {
    let mut after = world.clone();
    match after.step(task) {
        Ok(step) => (after, step.footprint, step.outcome != Outcome::Blocked),
        Err(fault) => (after, fault.footprint, true),
    }
}

#[test]
fn steps_without_a_conflict_commute() {
    let mut pairs = 0;
    for seed in 1000..1150 {
        let tree = program(seed, 3);
        let mut seen = HashSet::new();
        let mut todo = vec![World::new(&tree, Host::default()).unwrap()];
        while let Some(world) = todo.pop() {
            let steps: Vec<(u32, (World, Footprint, bool))> =
                world.unfinished().into_iter().map(|task| (task, step(&world, task))).collect();
            for (at, (first, (after_first, mark, goes))) in steps.iter().enumerate() {
                // Who blocks has changed nothing.
                assert!(*goes || *after_first == world, "seed {seed}: {:?}", world.next(*first));
                if *goes && seen.insert(after_first.clone()) {
                    todo.push(after_first.clone());
                }
                for (second, (after_second, other, other_goes)) in steps.iter().skip(at + 1) {
                    if mark.conflicts(other) {
                        continue;
                    }
                    pairs += 1;
                    // Neither changes whether the other can go on, nor what it touches.
                    let (both, other_now, other_goes_now) = step(after_first, *second);
                    let (turned, mark_now, goes_now) = step(after_second, *first);
                    let text = || format!("seed {seed}: {:?}, {:?}", world.next(*first), world.next(*second));
                    if *goes {
                        assert_eq!((&other_now, other_goes_now), (other, *other_goes), "{}", text());
                    }
                    if *other_goes {
                        assert_eq!((&mark_now, goes_now), (mark, *goes), "{}", text());
                    }
                    if *goes && *other_goes {
                        assert!(both == turned, "{}", text());
                    }
                }
            }
        }
    }
    assert!(pairs > 10_000, "{pairs}");
}
