//! The commit: all have arrived; now each plays its tail, and only when every tail has succeeded
//! are the tapes removed, the registers set and the threads let go.
//!
//! It touches nothing of the restored memory: the one system call that must be made in each task
//! (munmap of the window) is made by pointing the stopped thread at a `syscall` instruction of the
//! runner, and caught at its exit, before the thread could fetch another instruction from what is
//! gone (ptrace(2), syscall-stops). So no signal is raised, no stack is used, no byte is written.
//!
//! Every step is taken for all tasks before the next, so that the tasks' own work overlaps.

use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::channel::{Channel, Order};
use super::supervise;
use super::{Run, RunError};
use crate::runner;
use crate::sys::region::Shared;
use crate::sys::{futex, ptrace};
use crate::tape::abi::wake;

/// What a thread goes on with.
#[derive(Debug, Clone)]
pub struct ThreadState {
    /// The thread.
    pub tid: u32,
    /// Whether it is its task's first: the one that unmaps the window for all of them.
    pub is_leader: bool,
    /// General registers.
    pub registers: libc::user_regs_struct,
    /// Extended state, as `NT_X86_XSTATE` wants it; empty: as it is.
    pub xstate: Vec<u8>,
    /// Blocked signals.
    pub blocked: u64,
    /// The signal that had stopped its task, and that is to stop it again.
    pub stop_signal: Option<i32>,
}

/// A stop at the entry or the exit of a system call, with PTRACE_O_TRACESYSGOOD.
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;

/// Commits. `before_release` is called when nothing but letting go is left.
///
/// # Errors
/// What went wrong; the caller's death then kills all tasks (PTRACE_O_EXITKILL).
pub fn commit(run: &Run<'_>, channel: &Channel, shared: &Shared, before_release: impl FnOnce() -> Result<(), RunError>) -> Result<(), RunError> {
    let tapes = run.tapes;
    let all = || run.threads.iter().map(|thread| (thread, Pid::from_raw(thread.tid as i32)));
    for (thread, pid) in all() {
        ptrace::seize(pid).map_err(failed(thread, "PTRACE_SEIZE"))?;
    }
    shared.release().store(1, Ordering::SeqCst);
    let _ = futex::wake_all(shared.release());
    supervise::until(tapes, channel, shared, wake::PARKED)?;

    for (thread, pid) in all() {
        ptrace::interrupt(pid).map_err(failed(thread, "PTRACE_INTERRUPT"))?;
    }
    let unmap = |thread: &ThreadState| libc::user_regs_struct {
        rip: tapes.code + runner::syscall_offset(),
        rax: libc::SYS_munmap as u64,
        rdi: tapes.base,
        rsi: tapes.window_len,
        orig_rax: u64::MAX,
        rsp: 0,
        fs_base: 0,
        gs_base: 0,
        ..thread.registers
    };
    let leaders = || all().filter(|(thread, _)| thread.is_leader);
    // All threads of a task must have stopped before its first unmaps what they run on.
    for (thread, pid) in all() {
        await_event_stop(thread, pid)?;
    }
    for (thread, pid) in leaders() {
        ptrace::set_registers(pid, &unmap(thread)).map_err(failed(thread, "PTRACE_SETREGS"))?;
        ptrace::to_syscall(pid).map_err(failed(thread, "PTRACE_SYSCALL"))?;
    }
    for (thread, pid) in leaders() {
        await_syscall_stop(thread, pid)?;
        ptrace::to_syscall(pid).map_err(failed(thread, "PTRACE_SYSCALL"))?;
    }
    for (thread, pid) in leaders() {
        await_syscall_stop(thread, pid)?;
        let result = ptrace::result(pid).map_err(failed(thread, "PTRACE_PEEKUSER"))?;
        if result != 0 {
            return Err(RunError::Ptrace { pid: thread.tid, what: "munmap of the window", errno: Errno::from_raw(-result as i32) });
        }
    }
    for (thread, pid) in all() {
        ptrace::set_registers(pid, &thread.registers).map_err(failed(thread, "PTRACE_SETREGS"))?;
        if !thread.xstate.is_empty() {
            ptrace::set_xstate(pid, &thread.xstate).map_err(failed(thread, "PTRACE_SETREGSET (NT_X86_XSTATE)"))?;
        }
        ptrace::set_signal_mask(pid, thread.blocked).map_err(failed(thread, "PTRACE_SETSIGMASK"))?;
    }
    before_release()?;
    channel.send(Order::Committed, None).map_err(RunError::Channel)?;
    for (thread, pid) in all() {
        if let Some(signal) = thread.stop_signal.or(run.leave_stopped.then_some(libc::SIGSTOP)) {
            let signal = Signal::try_from(signal).unwrap_or(Signal::SIGSTOP);
            if let Err(errno) = kill(pid, signal) {
                tracing::error!(pid = thread.tid, %errno, %signal, "stopping it again");
            }
        }
        // From here on the tree lives: a thread that is gone now was killed by somebody else, and the
        // others must be let go all the same.
        if let Err(errno) = ptrace::detach(pid) {
            tracing::error!(pid = thread.tid, %errno, "PTRACE_DETACH");
        }
    }
    Ok(())
}

fn failed(thread: &ThreadState, what: &'static str) -> impl Fn(Errno) -> RunError {
    let pid = thread.tid;
    move |errno| RunError::Ptrace { pid, what, errno }
}

/// The stop that PTRACE_INTERRUPT asked for.
fn await_event_stop(thread: &ThreadState, pid: Pid) -> Result<(), RunError> {
    let status = ptrace::wait(pid).map_err(failed(thread, "waitpid"))?;
    if libc::WIFSTOPPED(status) && status >> 16 == libc::PTRACE_EVENT_STOP {
        Ok(())
    } else {
        Err(RunError::Stop { pid: thread.tid, what: "it should have been interrupted", status })
    }
}

fn await_syscall_stop(thread: &ThreadState, pid: Pid) -> Result<(), RunError> {
    let status = ptrace::wait(pid).map_err(failed(thread, "waitpid"))?;
    if libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == SYSCALL_STOP {
        Ok(())
    } else {
        Err(RunError::Stop { pid: thread.tid, what: "it should have stopped at munmap", status })
    }
}
