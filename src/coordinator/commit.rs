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

use super::channel::Channel;
use super::supervise;
use super::{Run, RunError};
use crate::runner;
use crate::sys::region::Shared;
use crate::sys::{futex, ptrace};
use crate::tape::Tapes;
use crate::tape::abi::wake;

/// What a thread goes on with. The threads of a task stand together, its leader first.
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
    /// Of a leader: the signal that had stopped its task, and that is to stop it again.
    pub stop_signal: Option<i32>,
    /// Of a leader: whether a child of it is to stop, which must leave no SIGCHLD behind.
    pub eats_sigchld: bool,
}

/// A stop at the entry or the exit of a system call, with PTRACE_O_TRACESYSGOOD.
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;

/// Commits. `before_release` is called when nothing but letting go is left: it tells the launcher.
///
/// # Errors
/// What went wrong; the caller's death then kills all tasks (PTRACE_O_EXITKILL).
pub fn commit(
    run: &Run<'_>,
    channel: &Channel,
    shared: &Shared,
    before_release: impl FnOnce() -> Result<(), RunError>,
) -> Result<(), RunError> {
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
    // All threads of a task must have stopped before its first unmaps what they run on.
    for (thread, pid) in all() {
        await_event_stop(thread, pid)?;
    }
    let tasks: Vec<&[ThreadState]> = run.threads.chunk_by(|_, next| !next.is_leader).collect();
    // Tasks that were stopped stop again before their parents go on, children before parents: the
    // kernel tells a parent of a stop by SIGCHLD (wait(2)), which is then taken back from it.
    let (stopped, running): (Vec<&[ThreadState]>, Vec<_>) =
        tasks.into_iter().partition(|task| stop_signal(task).is_some());
    let ready =
        stop_again(tapes, &stopped).and_then(|()| leave(tapes, &running)).and_then(|()| before_release());
    if let Err(error) = ready {
        // The others die with us.
        for task in stopped {
            let _ = kill(pid_of(&task[0]), Signal::SIGKILL);
        }
        return Err(error);
    }
    for task in running {
        // From here on the tree lives: a thread that is gone now was killed by somebody else, and the
        // others must be let go all the same.
        if let Err(error) = release(task, run.leave_stopped.then_some(Signal::SIGSTOP)) {
            tracing::error!("{error}");
        }
    }
    Ok(())
}

fn stop_again(tapes: &Tapes, tasks: &[&[ThreadState]]) -> Result<(), RunError> {
    for task in tasks.iter().rev() {
        leave(tapes, &[task])?;
        release(task, stop_signal(task))?;
        await_stop(&task[0]);
    }
    Ok(())
}

fn stop_signal(task: &[ThreadState]) -> Option<Signal> {
    task[0].stop_signal.map(|signal| Signal::try_from(signal).unwrap_or(Signal::SIGSTOP))
}

/// Takes the tapes away from tasks whose threads have all stopped, and sets what they go on with.
fn leave(tapes: &Tapes, tasks: &[&[ThreadState]]) -> Result<(), RunError> {
    for task in tasks.iter().filter(|task| task[0].eats_sigchld) {
        let args = [tapes.sigchld_set, 0, tapes.no_time, 8];
        let calls = [(&task[0], libc::SYS_rt_sigtimedwait, args)];
        // Nothing may have come: the parent may have asked not to be told (SA_NOCLDSTOP).
        borrow_syscalls(tapes, &calls)?;
    }
    let unmap: Vec<_> =
        tasks.iter().map(|task| (&task[0], libc::SYS_munmap, [tapes.base, tapes.window_len, 0, 0])).collect();
    for (thread, result) in
        unmap.iter().zip(borrow_syscalls(tapes, &unmap)?).map(|(call, result)| (call.0, result))
    {
        if result != 0 {
            let errno = Errno::from_raw(-result as i32);
            return Err(RunError::Ptrace { pid: thread.tid, what: "munmap of the window", errno });
        }
    }
    for thread in tasks.iter().copied().flatten() {
        let pid = pid_of(thread);
        ptrace::set_registers(pid, &thread.registers).map_err(failed(thread, "PTRACE_SETREGS"))?;
        if !thread.xstate.is_empty() {
            ptrace::set_xstate(pid, &thread.xstate)
                .map_err(failed(thread, "PTRACE_SETREGSET (NT_X86_XSTATE)"))?;
        }
        ptrace::set_signal_mask(pid, thread.blocked).map_err(failed(thread, "PTRACE_SETSIGMASK"))?;
    }
    Ok(())
}

/// Lets stopped threads make one system call each, at the runner's lone `syscall` instruction, and
/// gives the results. They are left at the exit of the call.
fn borrow_syscalls(
    tapes: &Tapes,
    calls: &[(&ThreadState, libc::c_long, [u64; 4])],
) -> Result<Vec<i64>, RunError> {
    for (thread, nr, args) in calls {
        let registers = libc::user_regs_struct {
            rip: tapes.code + runner::syscall_offset(),
            rax: *nr as u64,
            rdi: args[0],
            rsi: args[1],
            rdx: args[2],
            r10: args[3],
            orig_rax: u64::MAX,
            rsp: 0,
            fs_base: 0,
            gs_base: 0,
            ..thread.registers
        };
        let pid = pid_of(thread);
        ptrace::set_registers(pid, &registers).map_err(failed(thread, "PTRACE_SETREGS"))?;
        ptrace::to_syscall(pid).map_err(failed(thread, "PTRACE_SYSCALL"))?;
    }
    for (thread, _, _) in calls {
        await_syscall_stop(thread, pid_of(thread))?;
        ptrace::to_syscall(pid_of(thread)).map_err(failed(thread, "PTRACE_SYSCALL"))?;
    }
    calls
        .iter()
        .map(|(thread, _, _)| {
            await_syscall_stop(thread, pid_of(thread))?;
            ptrace::result(pid_of(thread)).map_err(failed(thread, "PTRACE_PEEKUSER"))
        })
        .collect()
}

/// Lets the threads of a task go; with a signal first that stops it before its next instruction.
fn release(task: &[ThreadState], stop: Option<Signal>) -> Result<(), RunError> {
    if let Some(signal) = stop {
        kill(pid_of(&task[0]), signal).map_err(failed(&task[0], "kill"))?;
    }
    let mut first = Ok(());
    for thread in task {
        first = first.and(ptrace::detach(pid_of(thread)).map_err(failed(thread, "PTRACE_DETACH")));
    }
    first
}

/// Waits until a task shows as stopped. One that its own signal does not stop (its group may have
/// become orphaned since) is stopped by SIGSTOP.
fn await_stop(leader: &ThreadState) {
    let stat = format!("/proc/{}/stat", leader.tid);
    for attempt in 0..1000 {
        let text = std::fs::read_to_string(&stat).unwrap_or_default();
        // proc_pid_stat(5): the state follows the name, which is in parentheses and may hold any.
        let state = text.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
        if matches!(state, None | Some('T' | 'Z' | 'X')) {
            return;
        }
        if attempt == 100 {
            let _ = kill(pid_of(leader), Signal::SIGSTOP);
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    tracing::error!(pid = leader.tid, "it does not stop");
}

fn pid_of(thread: &ThreadState) -> Pid {
    Pid::from_raw(thread.tid as i32)
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
