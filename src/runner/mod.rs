//! What plays a tape inside a task: position-independent code that uses registers only.
//!
//! It has no stack, calls nothing, allocates nothing and holds no data: it reads records at `rbx`
//! and the control block at `r13`. It is copied into the region and runs there, in tasks that have
//! nothing else mapped. It does not know what the records mean.
//!
//! Worked example: the record {syscall, nr 33 (dup2), args [3, 4], expect 4} becomes
//! `syscall` with `eax = 33, rdi = 3, rsi = 4`, a comparison of `rax` with 4, and a step to the
//! next record 64 bytes on; any other result goes to the status block and wakes the coordinator.
//!
//! There are two, assembled from one source: the one that plays every tape, and one that also notes the
//! time-stamp counter at the start and the end of every record, for `restore --trace`.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
pub use x86_64::{code, enter, syscall_offset, traced_code};
