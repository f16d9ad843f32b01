//! A model of the kernel that plays lifted tapes under any schedule, and the search over all interleavings.
//!
//! ```text
//!   LiftedTree ──▶ World ──step──▶ World ──step──▶ … ──▶ End ── compare ── Expected
//!                    │                               │
//!                    └── play: one schedule          └── explore: every interleaving, one end?
//! ```
//!
//! The checker of `regrow_graph::verify` plays a plan once, in one order, and argues that every other order
//! comes to the same. This crate plays it in the others. It shares no code with the checker but the language
//! of effects, so that each can find the other's mistakes.
//!
//! | module | holds |
//! |---|---|
//! | [`world`] | the state of the modelled kernel; what one record does to it |
//! | [`footprint`] | what a step looks at and changes |
//! | [`schedule`] | one run, under a schedule |
//! | [`mod@explore`] | all runs |
//! | [`end`] | the end of a run, to be compared |
//! | [`wanted`] | the end of a run against what the images say |
//! | [`host`] | what is true before the first record |
//! | [`ids`] | names for what the tapes make, the same under every schedule |
//! | [`errno`] | why calls fail |
//!
//! What it does not understand is a fault and never skipped. It does not model: permissions of the host's
//! files, who holds which lock, the delivery of signals to handlers, connections over a network, what a filter
//! of system calls says, time.
//!
//! Worked example: the child must not wait for what its parent does behind its death. One schedule gets stuck,
//! and so do all.
//!
//! ```
//! use regrow_graph::verify::{Birth, Effect, Lifted, LiftedTask, LiftedTree};
//! use regrow_model::{Bounds, Host, World, explore};
//! let tape = |pid, effects: Vec<Effect>| LiftedTask {
//!     pid,
//!     effects: effects.into_iter().zip(0..).map(|(effect, record)| Lifted { record, effect }).collect(),
//! };
//! let helper = Birth { pid: 8, flags: 0, exit_signal: 0, cgroup: None };
//! let await_exit = Effect::AwaitExit { pid: 8, reap: true };
//! let tree = LiftedTree {
//!     total: 1,
//!     root: Birth { pid: 7, flags: 0, exit_signal: 17, cgroup: None },
//!     tasks: vec![
//!         tape(7, vec![Effect::Fork(helper), await_exit, Effect::Post(0), Effect::Arrive, Effect::Park]),
//!         tape(8, vec![Effect::Wait(0), Effect::Exit { code: 0 }]),
//!     ],
//!     ..Default::default()
//! };
//! let found = explore(&World::new(&tree, Host::default()).unwrap(), Bounds::default());
//! let chain = found.deadlocks.first().unwrap();
//! assert_eq!(chain[1], "task 7 waits in record 1 for the death of task 8");
//! assert_eq!(chain[2], "task 8 waits in record 0 for event 0, which task 7 posts in record 2");
//! ```
#![forbid(unsafe_code)]

pub mod end;
pub mod errno;
pub mod explore;
pub mod footprint;
pub mod host;
pub mod ids;
pub mod schedule;
pub mod wanted;
pub mod world;

pub use end::End;
pub use explore::{Bounds, Found, everything, explore};
pub use host::Host;
pub use schedule::{Played, Schedule, play};
pub use world::{Fault, Outcome, Step, World};
