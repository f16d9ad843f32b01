//! Small plans by hand.

#![allow(dead_code, unreachable_pub)]

use regrow_graph::verify::{Birth, Change, Effect, FdEffect, Lifted, LiftedTask, LiftedTree, Region};

pub const SIGCHLD: u64 = 17;

pub fn tape(pid: u32, effects: Vec<Effect>) -> LiftedTask {
    let effects = effects.into_iter().zip(0..).map(|(effect, record)| Lifted { record, effect }).collect();
    LiftedTask { pid, effects }
}

/// The first task is the root; those that park are counted.
pub fn tree(tasks: Vec<(u32, Vec<Effect>)>) -> LiftedTree {
    let total = tasks.iter().filter(|(_, effects)| effects.last() == Some(&Effect::Park)).count() as u32;
    LiftedTree {
        region: Region {
            start: 0x1_0000_0000,
            rw_end: 0x1_0000_1000,
            end: 0x1_0000_2000,
            window_end: 0x1_0010_0000,
        },
        total,
        root: Birth { pid: tasks[0].0, flags: 0, exit_signal: SIGCHLD, cgroup: None },
        tasks: tasks.into_iter().map(|(pid, effects)| tape(pid, effects)).collect(),
        ..LiftedTree::default()
    }
}

pub fn fork(pid: u32) -> Effect {
    Effect::Fork(Birth { pid, flags: 0, exit_signal: SIGCHLD, cgroup: None })
}

/// One whose death raises no signal.
pub fn helper(pid: u32) -> Effect {
    Effect::Fork(Birth { pid, flags: 0, exit_signal: 0, cgroup: None })
}

/// What every root does first.
pub fn close_all() -> Effect {
    Effect::Fd(FdEffect::CloseRange { first: 0, last: u32::MAX, only_mark: false, unshare: false })
}

pub fn pipe() -> Effect {
    Effect::Fd(FdEffect::Pipe { flags: 0 })
}

pub fn pipe_size(fd: u32, bytes: u32) -> Effect {
    Effect::Object { fd, change: Change::SetPipeSize { bytes } }
}

pub fn write(fd: u32, data: &[u8]) -> Effect {
    Effect::Object { fd, change: Change::Write { data: data.to_vec() } }
}

pub fn read(fd: u32, at: u64, len: u64) -> Effect {
    Effect::Object { fd, change: Change::Read { into: vec![(at, len)], offset: None } }
}

pub fn close(fd: u32) -> Effect {
    Effect::Fd(FdEffect::Close { fd })
}

/// A generator of numbers, by a seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    pub fn below(&mut self, sides: u64) -> u64 {
        self.next() % sides
    }
}
