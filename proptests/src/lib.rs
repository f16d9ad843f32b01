//! Random forests of tasks that share resources, and a model of the kernel that plays their plans.
//!
//! ```text
//!   history ──▶ forests ──▶ regrow_graph::order::plan_in ──▶ play ──▶ is everything as the forest says?
//!                  └──▶ shuffle (the same forest by other names)       └─ kernel (what Linux would do)
//! ```
//!
//! | module | turns |
//! |---|---|
//! | [`history`] | random events (fork, setsid, setpgid, exit) into a tree whose sessions and groups are possible |
//! | [`forests`] | that tree and random genes into a [`regrow_graph::forest::Forest`] |
//! | [`shuffle`] | a forest into the same forest under other ids |
//! | [`kernel`] | calls into what Linux does with tables, sessions, groups and zombies |
//! | [`play`] | a plan and a schedule into the end of all programs, or the first thing that went wrong |
//! | [`descriptions`] | that tree and random genes into a description of a synthetic forest |
//! | `areas` | random genes into private memory that children have from their parents, and all have changed |
//! | `sysv` | random genes into System V objects and rings of asynchronous I/O |
//! | [`private`] | such a description into one whose parents have a pipe with each child |
//! | [`images`] | a description into an image directory, and that through the real stages |
//! | [`reorder`] | a model into one whose images say the same in another order, by other numbers |
//! | [`mutate`] | finished tapes into ones that are wrong in one thing |
//! | [`tables`] | raw records into the descriptor tables that they end with |
//! | [`oracle`] | a forest into who uses and who must own each resource, by the definition |
//!
//! Architecture invariant: [`kernel`], [`play`] and [`oracle`] use of the planner only its input
//! ([`regrow_graph::forest`]) and its output (operations and programs): no table, no placement.

mod areas;
pub mod descriptions;
pub mod forests;
pub mod history;
pub mod images;
pub mod kernel;
pub mod memory;
pub mod mutate;
pub mod oracle;
pub mod passing;
pub mod play;
pub mod private;
pub mod reorder;
pub mod shuffle;
mod sysv;
pub mod tables;
