//! The commit: all have arrived; now each plays its tail, and only when every tail has succeeded
//! are the tapes removed, the registers set and the threads let go.
//!
//! It touches nothing of the restored memory. The one system call that must be made in each task is munmap of
//! the window, and there are two ways to it (docs/decisions/0027):
//!
//! - The task makes it by itself. The next instruction is gone, and the fault stops the task before its signal
//!   is delivered (ptrace(2), signal-delivery-stop); the signal is dropped there.
//! - Where that is not safe, the thread is stopped and pointed at a `syscall` instruction of the runner, and
//!   caught at its exit, before it could fetch another instruction (syscall-stops).
//!
//! No signal is delivered, no stack is used, no byte is written.
//!
//! Every step is taken for all tasks before the next, so that the tasks' own work overlaps.

use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::channel::Channel;
use super::seam::{Seam, Step};
use super::supervise;
use super::{Run, RunError};
use crate::runner;
use crate::sys::region::Shared;
use crate::sys::{futex, ptrace};
use crate::tape::abi::wake;
use crate::tape::{Tapes, ThreadState};

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
    let tapes: &Tapes = run.tapes;
    let seam = &run.seam;
    let all = || run.threads.iter().map(|thread| (thread, Pid::from_raw(thread.tid as i32)));
    for (thread, pid) in all() {
        // Filters that come in its tail must not act before it is let go.
        let suspends_seccomp = tapes.suspended.contains(&thread.tid);
        seam.at(Step::Seize)
            .and_then(|()| ptrace::seize(pid, suspends_seccomp))
            .map_err(failed(thread, "PTRACE_SEIZE"))?;
    }
    run.enter("tail");
    shared.release().store(1, Ordering::SeqCst);
    let _ = futex::wake_all(shared.release());
    supervise::until(tapes, channel, shared, wake::PARKED)?;
    run.enter("commit");

    let tasks: Vec<&[ThreadState]> = run.threads.chunk_by(|_, next| !next.is_leader).collect();
    // Those that are left stopped go the way of those that were.
    let (leaving, held): (Vec<&[ThreadState]>, Vec<_>) =
        tasks.iter().partition(|task| task[0].leaves && !run.leave_stopped);
    for thread in held.iter().copied().flatten() {
        let done = seam.at(Step::Interrupt).and_then(|()| ptrace::interrupt(pid_of(thread)));
        done.map_err(failed(thread, "PTRACE_INTERRUPT"))?;
    }
    // All threads of a task must have stopped before its first unmaps what they run on; and nobody who is held
    // may see the word that lets the others leave.
    for thread in held.iter().copied().flatten() {
        seam.at(Step::Await).map_err(failed(thread, "waitpid"))?;
        await_event_stop(thread, pid_of(thread))?;
    }
    for task in &leaving {
        seam.at(Step::Unmap).map_err(failed(&task[0], "munmap of the window"))?;
    }
    if !leaving.is_empty() {
        let word = shared.let_leave(tapes.window_len, !(1 << (libc::SIGSEGV - 1)));
        word.store(1, Ordering::SeqCst);
        let _ = futex::wake_all(word);
    }
    // Tasks that were stopped stop again before their parents go on, children before parents: the
    // kernel tells a parent of a stop by SIGCHLD (wait(2)), which is then taken back from it.
    let (stopped, running): (Vec<&[ThreadState]>, Vec<_>) =
        held.iter().partition(|task| run.leave_stopped || task[0].stop_signal.is_some());
    for task in stopped.into_iter().rev() {
        leave(run, &[task])?;
        stop(seam, task)?;
    }
    leave(run, &running)?;
    for task in leaving {
        seam.at(Step::Await).map_err(failed(&task[0], "waitpid"))?;
        await_fault(tapes, &task[0])?;
        set(run, task)?;
    }
    before_release()?;
    // Behind this line in the log, and before that of the success, is what nothing guards against the death of all of us
    // (docs/decisions/0015).
    tracing::debug!("sparing the tasks");
    // All of them are in a ptrace-stop, and each would go on as it should if it were let go. Up to here
    // our death kills them; once the last of them is spared, it lets them go.
    for (thread, pid) in all() {
        let spared = seam.at(Step::Spare).and_then(|()| ptrace::spare(pid));
        if let Err(errno) = spared {
            // Those that are spared already.
            for task in &tasks {
                let _ = kill(pid_of(&task[0]), Signal::SIGKILL);
            }
            return Err(failed(thread, "PTRACE_SETOPTIONS")(errno));
        }
    }
    shared.committed().store(1, Ordering::SeqCst);
    tracing::debug!("committed");
    for (thread, pid) in all() {
        // From here on the tree lives: a thread that is gone now was killed by somebody else, and the
        // others must be let go all the same. One that could not be let go is when we end.
        let detached = seam.at(Step::Detach).and_then(|()| ptrace::detach(pid));
        if let Err(error) = detached.map_err(failed(thread, "PTRACE_DETACH")) {
            tracing::error!("{error}");
        }
    }
    Ok(())
}

/// Stops a task by the signal that had stopped it, while it is traced: it does not go on before it is
/// let go, and is then found stopped. Its threads have left the window and have their registers.
///
/// A traced thread first stops for the delivery of the signal, then, if that stops its group, in the
/// group-stop, in which its parent is told (ptrace(2), group-stop; `ptrace_stop` in the kernel's signal.c).
/// An interrupt waits behind the signal in case it does not stop the task: SIGTSTP and its like are
/// ignored in an orphaned process group. Then SIGSTOP does.
fn stop(seam: &Seam, task: &[ThreadState]) -> Result<(), RunError> {
    let leader = &task[0];
    let pid = pid_of(leader);
    let wanted = leader.stop_signal.unwrap_or(libc::SIGSTOP);
    seam.at(Step::Stop).map_err(failed(leader, "tgkill"))?;
    for signal in [wanted, libc::SIGSTOP] {
        // Nothing that is pending may come first.
        ptrace::set_signal_mask(pid, !(1 << (signal - 1))).map_err(failed(leader, "PTRACE_SETSIGMASK"))?;
        ptrace::signal_thread(pid, pid, signal).map_err(failed(leader, "tgkill"))?;
        ptrace::resume(pid, 0).map_err(failed(leader, "PTRACE_CONT"))?;
        let status = ptrace::wait(pid).map_err(failed(leader, "waitpid"))?;
        if !libc::WIFSTOPPED(status) || status >> 8 != signal {
            return Err(RunError::Stop { pid: leader.tid, what: "a signal should have stopped it", status });
        }
        ptrace::interrupt(pid).map_err(failed(leader, "PTRACE_INTERRUPT"))?;
        ptrace::resume(pid, signal).map_err(failed(leader, "PTRACE_CONT"))?;
        if await_event_stop(leader, pid)? == signal {
            break;
        }
        if signal == libc::SIGSTOP {
            let status = signal << 8 | 0x7f;
            return Err(RunError::Stop { pid: leader.tid, what: "it does not stop", status });
        }
    }
    for thread in &task[1..] {
        // Not one instruction: it stops with its group at once.
        ptrace::resume(pid_of(thread), 0).map_err(failed(thread, "PTRACE_CONT"))?;
        await_event_stop(thread, pid_of(thread))?;
    }
    // The kernel takes this only when the thread has come to rest, so its parent has been told by then.
    for thread in task {
        let masked = ptrace::set_signal_mask(pid_of(thread), thread.blocked);
        masked.map_err(failed(thread, "PTRACE_SETSIGMASK"))?;
    }
    Ok(())
}

/// Takes the tapes away from tasks whose threads have all stopped, and sets what they go on with.
fn leave(run: &Run<'_>, tasks: &[&[ThreadState]]) -> Result<(), RunError> {
    let tapes: &Tapes = run.tapes;
    for task in tasks.iter().filter(|task| task[0].eats_sigchld) {
        let args = [tapes.sigchld_set, 0, tapes.no_time, 8];
        let calls = [(&task[0], libc::SYS_rt_sigtimedwait, args)];
        // Nothing may have come: the parent may have asked not to be told (SA_NOCLDSTOP).
        borrow_syscalls(tapes, &calls)?;
    }
    let unmap: Vec<_> =
        tasks.iter().map(|task| (&task[0], libc::SYS_munmap, [tapes.base, tapes.window_len, 0, 0])).collect();
    for (thread, _, _) in &unmap {
        run.seam.at(Step::Unmap).map_err(failed(thread, "munmap of the window"))?;
    }
    for (thread, result) in
        unmap.iter().zip(borrow_syscalls(tapes, &unmap)?).map(|(call, result)| (call.0, result))
    {
        if result != 0 {
            let errno = Errno::from_raw(-result as i32);
            return Err(RunError::Ptrace { pid: thread.tid, what: "munmap of the window", errno });
        }
    }
    tasks.iter().try_for_each(|task| set(run, task))
}

/// Sets what the threads of a task go on with.
fn set(run: &Run<'_>, task: &[ThreadState]) -> Result<(), RunError> {
    for thread in task {
        let pid = pid_of(thread);
        let set = run.seam.at(Step::Registers).and_then(|()| ptrace::set_registers(pid, &thread.registers));
        set.map_err(failed(thread, "PTRACE_SETREGS"))?;
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

fn pid_of(thread: &ThreadState) -> Pid {
    Pid::from_raw(thread.tid as i32)
}

fn failed(thread: &ThreadState, what: &'static str) -> impl Fn(Errno) -> RunError {
    let pid = thread.tid;
    move |errno| RunError::Ptrace { pid, what, errno }
}

/// The stop that PTRACE_INTERRUPT asked for, or a group-stop: gives its signal (SIGTRAP where it is none).
fn await_event_stop(thread: &ThreadState, pid: Pid) -> Result<i32, RunError> {
    let status = ptrace::wait(pid).map_err(failed(thread, "waitpid"))?;
    if libc::WIFSTOPPED(status) && status >> 16 == libc::PTRACE_EVENT_STOP {
        Ok(libc::WSTOPSIG(status))
    } else {
        Err(RunError::Stop { pid: thread.tid, what: "it should have been interrupted", status })
    }
}

/// The stop at the fault behind the munmap that a task has made by itself. The signal is that of the fault and of
/// nothing else: all others are blocked, and one that somebody has sent has no address in the window.
fn await_fault(tapes: &Tapes, thread: &ThreadState) -> Result<(), RunError> {
    /// asm-generic/siginfo.h: nothing is mapped there.
    const SEGV_MAPERR: i32 = 1;
    let pid = pid_of(thread);
    let status = ptrace::wait(pid).map_err(failed(thread, "waitpid"))?;
    if libc::WIFSTOPPED(status) && status >> 8 == libc::SIGSEGV {
        let (code, address) = ptrace::fault(pid).map_err(failed(thread, "PTRACE_GETSIGINFO"))?;
        if code == SEGV_MAPERR && (tapes.base..tapes.base.saturating_add(tapes.window_len)).contains(&address)
        {
            return Ok(());
        }
    } else if libc::WIFSTOPPED(status) && status >> 8 == libc::SIGILL {
        // It has come back from munmap.
        let result = ptrace::result(pid).map_err(failed(thread, "PTRACE_PEEKUSER"))?;
        return Err(failed(thread, "munmap of the window")(Errno::from_raw(-result as i32)));
    }
    Err(RunError::Stop { pid: thread.tid, what: "it should have left the tapes", status })
}

fn await_syscall_stop(thread: &ThreadState, pid: Pid) -> Result<(), RunError> {
    let status = ptrace::wait(pid).map_err(failed(thread, "waitpid"))?;
    if libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == SYSCALL_STOP {
        Ok(())
    } else {
        Err(RunError::Stop { pid: thread.tid, what: "it should have stopped at munmap", status })
    }
}
