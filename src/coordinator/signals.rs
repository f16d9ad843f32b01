//! Signals that reach the tree before it is one.
//!
//! The root is born in the process group that regrow was started in, and leaves it when it makes its own session. What is
//! sent to that group before then (by a terminal; with a negative pid by kill(2)) is sent to the root, too, which blocks all
//! signals: it would be delivered when the root is let go. The launcher gets it as well, but when it gets to
//! say so is the scheduler's to decide. The coordinator needs nobody for it: it is of that group, blocks all
//! signals and takes none, so what is pending for it is what has been sent since it was born.
//!
//! # Sources
//! Whether a signal went to the root or not, it is here before the root has left: the kernel sends to all of a group
//! under the lock that setsid(2) takes to leave it (`kill_pgrp` in kernel/signal.c, `ksys_setsid` in kernel/sys.c).

use nix::sys::signal::Signal;

use super::RunError;
use crate::sys::process::pending_signals;
use crate::tape::Tapes;

/// Signals that ask regrow to end.
pub(super) const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// Signals that change nothing of who does not ask for them (signal(7): ignored, or continues), and only say that there is
/// something to look at, or to go on with, of who does: a window that is resized meanwhile is no reason to give up.
const HARMLESS: [i32; 4] = [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH];

/// Looks whether we were asked to end, or a task has a signal pending that was sent to our process group. For
/// when all tasks are where they belong, and before any of them gets a signal that it had (the tails).
///
/// # Errors
/// [`RunError::Interrupted`], or [`RunError::Signalled`] where the signal asks nothing of us: it is not meant for the
/// task, which would get it.
pub(super) fn check(tapes: &Tapes) -> Result<(), RunError> {
    // (Its own children and those that it traces tell the coordinator by SIGCHLD, too.)
    let harmless = HARMLESS.into_iter().map(bit).fold(0, |mask, bit| mask | bit);
    let sent = pending_signals() & !harmless;
    if sent == 0 {
        return Ok(());
    }
    if let Some(signal) = ENDING.iter().find(|signal| sent & bit(**signal as i32) != 0) {
        return Err(RunError::Interrupted(*signal as i32));
    }
    for task in tapes.tasks.iter().filter(|task| task.lives) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", task.pid)).unwrap_or_default();
        let common = pending(&status) & sent;
        if common != 0 {
            let signal = common.trailing_zeros() as i32 + 1;
            return Err(RunError::Signalled { pid: task.pid, signal });
        }
    }
    Ok(())
}

/// A signal in a mask: bit 0 is signal 1.
fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// The signals that are pending for a whole process (proc_pid_status(5), `ShdPnd`).
fn pending(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_status() {
        let status =
            "Name:\tx\nSigPnd:\t0000000000000001\nShdPnd:\t0000000000000202\nSigBlk:\tffffffffffffffff\n";
        assert_eq!(pending(status), bit(libc::SIGINT) | bit(libc::SIGUSR1));
        assert_eq!(pending("ShdPnd:\tx\n"), 0);
        assert_eq!(pending(""), 0);
    }
}
