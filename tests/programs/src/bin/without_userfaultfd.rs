//! A kernel without userfaultfd(2), for one program: `without_userfaultfd COMMAND...`.
//!
//! Traces COMMAND and makes this one call of it a call that there is not, so that the kernel itself answers ENOSYS, as one
//! without CONFIG_USERFAULTFD does. A filter (seccomp(2)) would do that too, but the tasks that are restored would inherit
//! it. Threads of COMMAND are traced, and processes that it forks by clone(2), which is what fork(3) calls: regrow's
//! coordinator. The tree that it restores begins with clone3(2), and must be free for regrow to trace.
//!
//! Ends as COMMAND does, but fails if COMMAND never asked: then it has shown nothing.

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [program, rest @ ..] = arguments.as_slice() else { panic!("without_userfaultfd COMMAND...") };
    let mut command = Command::new(program);
    command.args(rest);
    // SAFETY: between fork and exec there is one system call, which allocates nothing.
    unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
    let child = command.spawn().expect("COMMAND starts");
    let root = Pid::from_raw(child.id() as i32);
    // The stop behind execve(2).
    assert_eq!(waitpid(root, None), Ok(WaitStatus::Stopped(root, Signal::SIGTRAP)));
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(root, options).expect("PTRACE_SETOPTIONS");
    ptrace::syscall(root, None).expect("PTRACE_SYSCALL");
    let mut refused = 0;
    let code = loop {
        let (thread, signal) = match waitpid(None, Some(WaitPidFlag::__WALL)).expect("COMMAND is there") {
            WaitStatus::Exited(pid, code) if pid == root => break code,
            WaitStatus::Signaled(pid, signal, _) if pid == root => break 128 + signal as i32,
            WaitStatus::PtraceSyscall(thread) => {
                refused += u32::from(refuse(thread) == Ok(true));
                (thread, None)
            }
            // A new thread or process begins with SIGSTOP.
            WaitStatus::Stopped(thread, Signal::SIGSTOP) | WaitStatus::PtraceEvent(thread, ..) => {
                (thread, None)
            }
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            WaitStatus::Exited(..)
            | WaitStatus::Signaled(..)
            | WaitStatus::Continued(_)
            | WaitStatus::StillAlive => continue,
        };
        // Fails if it was killed meanwhile.
        let _ = ptrace::syscall(thread, signal);
    };
    assert!(refused > 0, "userfaultfd(2) was never asked for (exit code {code})");
    std::process::exit(code);
}

/// Whether the thread enters the call; then it is none any more. Of a call that is entered, the result is still ENOSYS
/// (arch/x86/entry/entry_64.S, `PUSH_AND_CLEAR_REGS rax=$-ENOSYS`), and so it stays for a number that is none.
fn refuse(thread: Pid) -> nix::Result<bool> {
    const USERFAULTFD: u64 = libc::SYS_userfaultfd as u64;
    const CLONE: u64 = libc::SYS_clone as u64;
    let mut registers = ptrace::getregs(thread)?;
    if registers.rax as i64 != i64::from(-libc::ENOSYS) {
        return Ok(false);
    }
    match registers.orig_rax {
        USERFAULTFD => registers.orig_rax = u64::MAX,
        CLONE => registers.rdi |= libc::CLONE_PTRACE as u64,
        _ => return Ok(false),
    }
    ptrace::setregs(thread, registers)?;
    Ok(registers.orig_rax == u64::MAX)
}
