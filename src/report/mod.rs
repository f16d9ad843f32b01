//! Views: images, plans and tapes in words, as JSON and as pictures.
//!
//! Each view first collects what it shows in plain values, then writes them: text and JSON of the same
//! thing come from the same values. Nothing here does I/O, prints or decides anything.
//!
//! | module | shows |
//! |---|---|
//! | `inspect` | a model: what an image directory holds |
//! | `plan` | a dry run: who makes what, each task's program, who waits for whom |
//! | `html` | all of that as one page, with the times of a run |
//! | `dot` | the graph of a plan, for graphviz |
//! | `calibration` | what things cost |
//! | `summary` | a plan in numbers, beside another |
//! | `explain` | why it is so, seen from one task, descriptor, description or segment |
//! | `tape` | the records that run |
//! | `trace` | the times of a run, for Chrome's and Perfetto's viewers |
//! | `sort` | what is coloured how |
//! | `describe` | one operation, reason or resource in words |

pub mod calibration;
pub mod dot;
pub mod explain;
pub mod html;
pub mod inspect;
pub mod plan;
pub mod sort;
pub mod summary;
pub mod trace;

mod describe;
mod run;
mod tape;
#[cfg(test)]
mod tests;
mod words;

pub use describe::words_of;
pub use describe::{origin, pid, purpose, resource_name, what, why};
pub use tape::{stored_tapes, tapes};
