//! The init of the fresh pid and mount namespaces that a scenario runs in: mounts /proc, reaps, and
//! runs what it is told to, one JSON object a line on stdin, one answer a line on stdout.
//!
//! | request | answer |
//! |---|---|
//! | `{"op":"run","argv":[..],"output":FILE,"detach":BOOL,"timeout_ms":N}` | `{"pid":P,"status":S}`, `S` null if detached |
//! | `{"op":"wait","pid":P,"timeout_ms":N}` | `{"status":S}` |
//! | `{"op":"gone","pids":[..],"timeout_ms":N}` | `{"left":[..]}`: those that still exist |
//! | `{"op":"last_pid","pid":P}` | `{}`: the next task gets the pid after `P` |
//! | `{"op":"pids"}` | `{"pids":[..]}`: all tasks but this one |
//! | `{"op":"settle","timeout_ms":N}` | `{"unsettled":[..]}`: tasks that have not come to rest, and why |
//!
//! A failure is `{"error":TEXT}`; `S` is the raw wait status. A detached program gets a session of its
//! own; all get `/dev/null` as stdin and append stdout and stderr to `output`. Without stdin this task
//! exits, and the kernel kills whatever is left in the namespace; it does the same when the harness dies.

#![allow(clippy::print_stdout, reason = "standard output is the protocol")]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, fork, setsid};
use regrow_test_programs::settled::{Settled, pids};
use serde_json::{Value, json};

type Error = Box<dyn std::error::Error>;

const TICK: Duration = Duration::from_millis(5);

fn main() -> Result<(), Error> {
    set_pdeathsig(Signal::SIGKILL)?;
    // What whoever started the tests left open is of another mount namespace, where CRIU cannot follow.
    // SAFETY: nothing of this process uses descriptors above 2 yet.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS)?;
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { fork()? } {
        ForkResult::Parent { child } => {
            // The kernel ends the namespace before the wait returns: nothing of it is left then.
            nix::sys::wait::waitpid(child, None)?;
            Ok(())
        }
        ForkResult::Child => {
            set_pdeathsig(Signal::SIGKILL)?;
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none)?;
            Init::default().serve()
        }
    }
}

/// Tasks that were reaped and not yet asked for.
#[derive(Default)]
struct Init {
    statuses: BTreeMap<i32, i32>,
}

impl Init {
    fn serve(mut self) -> Result<(), Error> {
        let stdin = std::io::stdin();
        let mut input = stdin.lock();
        let mut line = String::new();
        loop {
            // The harness sends one request and waits for its answer, so nothing hides in the buffer.
            let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(&stdin), PollFlags::POLLIN)];
            let ready = poll(&mut fds, PollTimeout::from(20u8));
            self.reap();
            if !matches!(ready, Ok(n) if n > 0) {
                continue;
            }
            line.clear();
            if input.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let answer = serde_json::from_str(&line)
                .map_err(Error::from)
                .and_then(|request| self.answer(&request))
                .unwrap_or_else(|error| json!({ "error": error.to_string() }));
            println!("{answer}");
            std::io::stdout().flush()?;
        }
    }

    fn answer(&mut self, request: &Value) -> Result<Value, Error> {
        let pid = || request["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).ok_or("pid");
        let deadline =
            Instant::now() + Duration::from_millis(request["timeout_ms"].as_u64().unwrap_or(60_000));
        match request["op"].as_str() {
            Some("run") => self.run(request, deadline),
            Some("wait") => Ok(json!({ "status": self.wait(pid()?, deadline)? })),
            Some("gone") => {
                let pids: Vec<i64> =
                    request["pids"].as_array().ok_or("pids")?.iter().filter_map(Value::as_i64).collect();
                loop {
                    self.reap();
                    let left: Vec<i64> = pids.iter().copied().filter(|pid| exists(*pid)).collect();
                    if left.is_empty() || Instant::now() > deadline {
                        // Others may get these pids; they must not inherit the statuses.
                        self.statuses.clear();
                        return Ok(json!({ "left": left }));
                    }
                    std::thread::sleep(TICK);
                }
            }
            Some("last_pid") => {
                fs::write("/proc/sys/kernel/ns_last_pid", pid()?.to_string())?;
                Ok(json!({}))
            }
            Some("pids") => {
                self.reap();
                Ok(json!({ "pids": pids()? }))
            }
            Some("settle") => {
                let mut settled = Settled::default();
                loop {
                    self.reap();
                    let unsettled = settled.unsettled()?;
                    if unsettled.is_empty() || Instant::now() > deadline {
                        return Ok(json!({ "unsettled": unsettled }));
                    }
                    std::thread::sleep(TICK);
                }
            }
            _ => Err("no such request".into()),
        }
    }

    fn run(&mut self, request: &Value, deadline: Instant) -> Result<Value, Error> {
        let argv: Vec<&str> =
            request["argv"].as_array().ok_or("argv")?.iter().filter_map(Value::as_str).collect();
        let (program, arguments) = argv.split_first().ok_or("argv is empty")?;
        let output =
            OpenOptions::new().create(true).append(true).open(request["output"].as_str().ok_or("output")?)?;
        let mut command = Command::new(program);
        // Nothing of the harness's environment: trees are the same wherever they are started.
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C");
        command.args(arguments).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let detach = request["detach"].as_bool().unwrap_or(false);
        if detach {
            // SAFETY: setsid is async-signal-safe and allocates nothing.
            unsafe {
                command.pre_exec(|| setsid().map(drop).map_err(Into::into));
            }
        }
        let child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
        let pid = i32::try_from(child.id())?;
        // An orphan may have had this pid, for which nobody asked.
        self.statuses.remove(&pid);
        let status = if detach { Value::Null } else { json!(self.wait(pid, deadline)?) };
        Ok(json!({ "pid": pid, "status": status }))
    }

    fn wait(&mut self, pid: i32, deadline: Instant) -> Result<i32, Error> {
        loop {
            self.reap();
            if let Some(status) = self.statuses.remove(&pid) {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(format!("task {pid} did not end in time").into());
            }
            std::thread::sleep(TICK);
        }
    }

    fn reap(&mut self) {
        let mut status = 0;
        loop {
            // SAFETY: the status is a live int.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if pid <= 0 {
                return;
            }
            self.statuses.insert(pid, status);
        }
    }
}

fn exists(pid: i64) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap_or(true)
}
