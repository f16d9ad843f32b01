//! Tapes that are played outside of a restore: nobody commits, all who play die.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::process::{Birth, clone_root, unregister_rseq};
use super::region::{Place, map_in_place};
use crate::tape::Tapes;
use crate::tape::abi::CLONE_ARGS_FLAGS;

/// Maps `region`, which holds `tapes` ([`super::region::create`]), and clones the first task, which starts to
/// play. The region stays mapped.
///
/// # Errors
/// The kernel's; EEXIST where something else is mapped in the place of the region, EINVAL where the first
/// task would share our memory.
pub fn play(tapes: &Tapes, region: BorrowedFd<'_>) -> Result<Pid, Errno> {
    let root = tapes.tasks.first().ok_or(Errno::EINVAL)?;
    let flags = tapes.bytes(root.clone_args + 8 * CLONE_ARGS_FLAGS as u64, 8).ok_or(Errno::EINVAL)?;
    let shares_memory = flags
        .first_chunk()
        .is_none_or(|flags| u64::from_ne_bytes(*flags) & (libc::CLONE_VM | libc::CLONE_VFORK) as u64 != 0);
    if shares_memory || tapes.record(root.tape).is_none() {
        return Err(Errno::EINVAL);
    }
    let (rw_len, ro_len) = (tapes.rw.len() as u64, tapes.ro.len() as u64);
    map_in_place(region, Place { base: tapes.base, rw_len, ro_len, trace_len: 0 })?;
    unregister_rseq();
    let birth = Birth { clone_args: root.clone_args, tape: root.tape, control: tapes.base, code: tapes.code };
    // SAFETY: the region has just been mapped at its place with these tapes in it; the flags have no
    // CLONE_VM, so that whatever the tape does is done to a copy of this address space.
    unsafe { clone_root(birth, false) }
}
