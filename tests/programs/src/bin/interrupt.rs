//! Runs a program and sends a signal into its start: `interrupt WHOM SIGNAL DELAY_US COMMAND...`.
//!
//! WHOM is `parent` (the program itself), `child` (the first process that it forks), `pair` (these two, one right
//! after the other), `group` (the program's process group, as a terminal does) or `born` (the group, too). The
//! delay counts from the start; for `child` and `pair`, from when there is one, as there is nobody to send a
//! signal to before. Exits as the program does: with its code, or 128 and the signal.
//!
//! For `born` there is no delay: the signal is sent when the program's second child has been born and has not
//! run an instruction. The program itself is held, as if it got no processor, from the first message that it sends after
//! that birth until its first child has ended.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// No restore takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [whom, signal, delay, program, rest @ ..] = arguments.as_slice() else {
        panic!("interrupt WHOM SIGNAL DELAY_US COMMAND...");
    };
    let signal: i32 = signal.parse().expect("SIGNAL is a number");
    let delay = Duration::from_micros(delay.parse().expect("DELAY_US is a number"));
    let mut child = Command::new(program).args(rest).process_group(0).spawn().expect("the program starts");
    let parent = i32::try_from(child.id()).expect("a pid");
    if whom == "born" {
        signal_at_birth(Pid::from_raw(parent), signal);
    }
    let targets = match whom.as_str() {
        "parent" => vec![parent],
        "group" => vec![-parent],
        "born" => Vec::new(),
        "child" => first_child(parent).into_iter().collect(),
        "pair" => std::iter::once(parent).chain(first_child(parent)).collect(),
        other => panic!("{other}: it is `parent`, `child`, `pair`, `group` or `born`"),
    };
    std::thread::sleep(delay);
    for target in targets {
        // SAFETY: kill has no preconditions. The program has not been waited for, so the pid is still its
        // own; its child may be gone, and pids are not used again within milliseconds.
        unsafe { libc::kill(target, signal) };
    }
    let status = child.wait().expect("the program can be waited for");
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    std::process::exit(code);
}

/// The first child of a process, as soon as there is one; `None` if the process ends without.
fn first_child(pid: i32) -> Option<i32> {
    loop {
        let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        if let Some(child) = list.split_ascii_whitespace().next() {
            return child.parse().ok();
        }
        // Of a zombie the list stays empty.
        if has_ended(pid) {
            return None;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// What `born` is, up to where the program has been let go again.
fn signal_at_birth(program: Pid, signal: i32) {
    let first = first_child(program.as_raw()).expect("a first child");
    let options = ptrace::Options::PTRACE_O_TRACEFORK
        | ptrace::Options::PTRACE_O_TRACECLONE
        | ptrace::Options::PTRACE_O_TRACESYSGOOD
        | ptrace::Options::PTRACE_O_EXITKILL;
    ptrace::seize(program, options).expect("PTRACE_SEIZE");
    loop {
        match waitpid(program, None).expect("waitpid") {
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_CLONE) => break,
            status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => panic!("no birth: {status:?}"),
            _ => ptrace::cont(program, None).expect("PTRACE_CONT"),
        }
    }
    let born = ptrace::getevent(program).expect("PTRACE_GETEVENTMSG");
    let born = Pid::from_raw(i32::try_from(born).expect("a pid"));
    // Its first stop, before it has run an instruction.
    waitpid(born, Some(WaitPidFlag::__WALL)).expect("waitpid");
    // SAFETY: kill has no preconditions.
    let sent = unsafe { libc::kill(-program.as_raw(), signal) };
    assert_eq!(sent, 0, "kill");
    ptrace::detach(born, None).expect("PTRACE_DETACH");

    // The entry and the exit of each system call, until that of the first message.
    let mut sends = false;
    loop {
        ptrace::syscall(program, None).expect("PTRACE_SYSCALL");
        let status = waitpid(program, None).expect("waitpid");
        if matches!(status, WaitStatus::PtraceSyscall(_)) {
            if sends {
                break;
            }
            let registers = ptrace::getregs(program).expect("PTRACE_GETREGS");
            sends = i64::try_from(registers.orig_rax) == Ok(libc::SYS_sendmsg);
        }
    }
    let start = Instant::now();
    while !has_ended(first) {
        assert!(start.elapsed() < PATIENCE, "the first child does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
    ptrace::detach(program, None::<Signal>).expect("PTRACE_DETACH");
}

/// Whether a process is a zombie, or gone.
fn has_ended(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}
