//! A model of the kernel that plays lifted tapes under any schedule, and the search over all of them.
#![forbid(unsafe_code)]

pub mod errno;
pub mod footprint;
pub mod host;
pub mod ids;
pub mod world;
