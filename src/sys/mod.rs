//! Thin typed wrappers over raw system calls that neither `nix` nor `std` wraps.
//!
//! Beside the runner and the tape's ABI the only home of `unsafe`. Nothing here decides anything.
#![allow(unsafe_code)]

pub mod cache;
pub mod futex;
pub mod heap;
pub mod kcmp;
pub mod play;
pub mod process;
pub mod ptrace;
pub mod region;
pub mod robust;
pub mod tsc;
