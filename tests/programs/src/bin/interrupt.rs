//! Runs a program and sends a signal into its start: `interrupt WHOM SIGNAL DELAY_US COMMAND...`.
//!
//! WHOM is `parent` (the program itself), `child` (the first process that it forks), `pair` (these two, one right
//! after the other) or `group` (the program's process group, as a terminal does). The delay counts from the start; for `child` and `pair`, from when
//! there is one, as there is nobody to send a signal to before. Exits as the program does: with its code,
//! or 128 and the signal.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;
use std::time::Duration;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [whom, signal, delay, program, rest @ ..] = arguments.as_slice() else {
        panic!("interrupt WHOM SIGNAL DELAY_US COMMAND...");
    };
    let signal: i32 = signal.parse().expect("SIGNAL is a number");
    let delay = Duration::from_micros(delay.parse().expect("DELAY_US is a number"));
    let mut child = Command::new(program).args(rest).process_group(0).spawn().expect("the program starts");
    let parent = i32::try_from(child.id()).expect("a pid");
    let targets = match whom.as_str() {
        "parent" => vec![parent],
        "group" => vec![-parent],
        "child" => first_child(parent).into_iter().collect(),
        "pair" => std::iter::once(parent).chain(first_child(parent)).collect(),
        other => panic!("{other}: it is `parent`, `child`, `pair` or `group`"),
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
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        if stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z')) {
            return None;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}
