//! The pure middle of regrow: tasks and resources in, one ordered program a task out.
//!
//! ```text
//!   Forest ──place──▶ Graph ──order──▶ Programs          (lowered and assembled elsewhere)
//!                                          │
//!   Lifted tapes + Expected ──verify──▶ Certificate       (shares nothing with the line above)
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`ids`] | dense ids of tasks, descriptions, resources, steps, operations, events |
//! | [`forest`] | the input: what every task must end with, and what makes each resource |
//! | [`table`] | descriptor tables, and the fewest moves from one to another |
//! | [`needs`] | who uses what, and so who owns it |
//! | `numbers` | the numbers at which descriptions travel |
//! | [`place`] | who creates what, and what each task's table is at each fork |
//! | [`passing`] | who makes what and sends it to whom, where it is not inherited |
//! | [`raise`] | who forks whom, and which helper tasks that takes |
//! | [`family`] | when sessions and process groups can be entered, and who waits for whom |
//! | [`batches`] | helpers that fork the children of a task that has many |
//! | [`graph`] | operations and edges, each with its [`graph::Reason`] |
//! | [`order`] | one topological order; a program a task, with waits and posts |
//! | [`cost`] | what everything costs, the cheaper of two ways, and how long tapes take |
//! | [`verify`] | symbolic execution of what the tapes really do, and the certificate |
//!
//! Architecture invariant: nothing here knows system calls, protobuf, files or time; there is no
//! I/O and no `unsafe`. The same forest gives the same programs, byte for byte.
#![forbid(unsafe_code)]

pub mod batches;
pub mod cost;
pub mod family;
pub mod forest;
pub mod graph;
pub mod ids;
mod lists;
pub mod needs;
mod numbers;
pub mod order;
pub mod passing;
pub mod place;
pub mod raise;
pub mod table;
pub mod verify;
