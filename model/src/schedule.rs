//! Plays the tapes under one schedule, to their end or to where nobody can go on.
//!
//! Worked example: two tasks, of which the child waits for an event that its parent posts.
//!
//! ```
//! use regrow_graph::verify::{Birth, Effect, Lifted, LiftedTask, LiftedTree};
//! use regrow_model::{Host, Schedule, World, play};
//! let tape = |pid, effects: Vec<Effect>| LiftedTask {
//!     pid,
//!     effects: effects.into_iter().zip(0..).map(|(effect, record)| Lifted { record, effect }).collect(),
//! };
//! let child = Birth { pid: 8, flags: 0, exit_signal: 17, cgroup: None };
//! let tree = LiftedTree {
//!     total: 2,
//!     root: Birth { pid: 7, flags: 0, exit_signal: 17, cgroup: None },
//!     tasks: vec![
//!         tape(7, vec![Effect::Fork(child), Effect::Post(0), Effect::Arrive, Effect::Park]),
//!         tape(8, vec![Effect::Wait(0), Effect::SetSid, Effect::Arrive, Effect::Park]),
//!     ],
//!     ..Default::default()
//! };
//! let world = World::new(&tree, Host::default()).unwrap();
//! let played = play(world, Schedule::Highest);
//! assert_eq!(played.stuck, Vec::<String>::new());
//! assert_eq!(played.world.end().processes[&8].sid, 8);
//! ```

use regrow_graph::verify::Effect;

use crate::world::{COORDINATOR, Fault, Outcome, World};

/// Who goes on when several can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Anyone, record by record.
    Random(u64),
    /// One as long as it can, then anyone.
    Bursts(u64),
    /// Always the lowest number.
    Lowest,
    /// Always the highest number.
    Highest,
    /// Whoever has a record before it that others wait for, or that makes others, is kept back as long as
    /// anybody else can go on; of several the one that the most wait for, last.
    Adversary,
    /// As [`Schedule::Lowest`] up to the barrier, as [`Schedule::Highest`] behind it.
    Turned,
}

/// How a run went.
#[derive(Debug, Clone)]
pub struct Played {
    /// The world in its end.
    pub world: World,
    /// How many records were played.
    pub steps: u64,
    /// The record that failed, if one did: the world is as it was in the middle of it.
    pub faults: Vec<Fault>,
    /// Who waits for whom, if somebody waits for ever.
    pub stuck: Vec<String>,
}

fn random(state: &mut u64) -> u64 {
    // xorshift64*, which never comes to 0.
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

/// Plays all tapes under a schedule. The first record that fails ends the run, as it does in a restore.
pub fn play(world: World, schedule: Schedule) -> Played {
    let mut played = Played { world, steps: 0, faults: Vec::new(), stuck: Vec::new() };
    let seed = match schedule {
        Schedule::Random(seed) | Schedule::Bursts(seed) => seed,
        Schedule::Lowest | Schedule::Highest | Schedule::Adversary | Schedule::Turned => 0,
    };
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut last = COORDINATOR;
    loop {
        // In the order in which they are asked, the first that can goes on.
        let mut order = played.world.unfinished();
        match schedule {
            Schedule::Lowest => {}
            Schedule::Highest => order.reverse(),
            Schedule::Turned if played.world.is_released() => order.reverse(),
            Schedule::Turned => {}
            Schedule::Random(_) => shuffle(&mut order, &mut state),
            Schedule::Bursts(_) => {
                shuffle(&mut order, &mut state);
                // Most of the time.
                if !random(&mut state).is_multiple_of(16)
                    && let Some(at) = order.iter().position(|tid| *tid == last)
                {
                    order.swap(0, at);
                }
            }
            Schedule::Adversary => {
                order.sort_by_key(|tid| (importance(&played.world, *tid), std::cmp::Reverse(*tid)));
            }
        }
        let Some(next) = order.into_iter().find(|tid| played.make_step(*tid)) else { break };
        last = next;
        if !played.faults.is_empty() {
            return played;
        }
    }
    played.stuck = played.world.stuck();
    played
}

fn shuffle(order: &mut [u32], state: &mut u64) {
    for at in (1..order.len()).rev() {
        order.swap(at, random(state) as usize % (at + 1));
    }
}

/// How many could go on by the rest of a task's tape: those that it makes, posts for, or dies for.
fn importance(world: &World, tid: u32) -> usize {
    let rest = world.rest(tid).iter();
    let helps = |effect: &Effect| match effect {
        Effect::Fork(_) => 2,
        Effect::Post(_) | Effect::Exit { .. } | Effect::Kill { .. } => 1,
        _ => 0,
    };
    rest.map(|lifted| helps(&lifted.effect)).sum()
}

impl Played {
    /// Whether it could make one.
    fn make_step(&mut self, tid: u32) -> bool {
        if self.world.waits(tid) {
            return false;
        }
        match self.world.advance(tid) {
            Ok(step) if step.outcome == Outcome::Blocked => return false,
            Ok(_) => {}
            Err(fault) => self.faults.push(fault),
        }
        self.steps += 1;
        true
    }

    /// Whether all have come to their ends, and no record failed.
    pub fn is_good(&self) -> bool {
        self.faults.is_empty() && self.stuck.is_empty()
    }
}

impl World {
    /// Whether the barrier has been released.
    pub fn is_released(&self) -> bool {
        !self.unfinished().contains(&COORDINATOR)
    }

    /// Who waits for whom, if nobody can go on and somebody should.
    pub fn stuck(&self) -> Vec<String> {
        let waiting = self.unfinished();
        let can_go_on = |tid: &u32| match self.clone().step(*tid) {
            Ok(step) => step.outcome != Outcome::Blocked,
            Err(_) => true,
        };
        if waiting.iter().any(can_go_on) {
            return Vec::new();
        }
        let mut lines = Vec::new();
        for tid in waiting {
            let Some(lifted) = self.next(tid) else {
                lines.push("the coordinator waits for all to arrive".to_owned());
                continue;
            };
            let record = lifted.record;
            lines.push(match &lifted.effect {
                _ if self.has_arrived(tid) => format!("task {tid} waits at the barrier"),
                Effect::Wait(event) => match self.poster(*event) {
                    Some((by, at)) => {
                        format!("task {tid} waits in record {record} for event {event}, which task {by} posts in record {at}")
                    }
                    None => format!("task {tid} waits in record {record} for event {event}, which nobody posts"),
                },
                Effect::AwaitExit { pid, .. } => {
                    format!("task {tid} waits in record {record} for the death of task {pid}")
                }
                effect => format!("task {tid} waits in record {record}, in {}", effect.name()),
            });
        }
        lines
    }
}
