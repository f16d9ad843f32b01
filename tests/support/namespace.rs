//! Fresh pid and mount namespaces with an init that does what it is asked (`nsinit` of the test
//! programs). Nothing in them outlives the [`Namespace`].

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// See the module.
pub(crate) struct Namespace {
    init: Child,
    requests: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Namespace {
    /// Starts the namespaces under the given init.
    pub(crate) fn start(program: &Path) -> Result<Namespace, String> {
        let mut init = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let requests = init.stdin.take();
        let output = init.stdout.take().ok_or("the init has no output")?;
        let (sender, answers) = channel();
        // Ends with the init, whose output it reads.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Namespace { init, requests, answers })
    }

    /// Sends a request; a failure, or no answer within the limit, is an error.
    pub(crate) fn ask(&mut self, request: Value, limit: Duration) -> Result<Value, String> {
        let requests = self.requests.as_mut().ok_or("the namespace has ended")?;
        writeln!(requests, "{request}").map_err(|error| format!("{request}: {error}"))?;
        let line = self.answers.recv_timeout(limit).map_err(|error| format!("{request}: {error}"))?;
        let answer: Value = serde_json::from_str(&line).map_err(|error| format!("{request}: {error}"))?;
        match answer["error"].as_str() {
            Some(error) => Err(format!("{request}: {error}")),
            None => Ok(answer),
        }
    }

    /// Starts a program in a session of its own; gives its pid in the namespace.
    pub(crate) fn start_detached(&mut self, argv: &[String], output: &Path) -> Result<i64, String> {
        let request = json!({ "op": "run", "argv": argv, "output": output, "detach": true });
        self.ask(request, Duration::from_secs(10))?["pid"].as_i64().ok_or_else(|| "no pid".to_owned())
    }

    /// Runs a program to its end; gives its wait status.
    pub(crate) fn run(&mut self, argv: &[String], output: &Path, limit: Duration) -> Result<i64, String> {
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let request = json!({ "op": "run", "argv": argv, "output": output, "timeout_ms": limit_ms });
        // The init notices the limit itself; this one is for an init that does not answer.
        self.ask(request, limit + Duration::from_secs(10))?["status"]
            .as_i64()
            .ok_or_else(|| "no status".to_owned())
    }

    /// Waits for a task that the init is the parent of; gives its wait status.
    pub(crate) fn wait(&mut self, pid: i64, limit: Duration) -> Result<i64, String> {
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let request = json!({ "op": "wait", "pid": pid, "timeout_ms": limit_ms });
        self.ask(request, limit + Duration::from_secs(10))?["status"]
            .as_i64()
            .ok_or_else(|| "no status".to_owned())
    }

    /// Ends the namespaces, and with them every task in them. Also done when this is dropped.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        drop(self.requests.take());
        let start = Instant::now();
        loop {
            match self.init.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("the namespace's init: {status}")),
                Ok(None) if start.elapsed() < Duration::from_secs(10) => {
                    std::thread::sleep(Duration::from_millis(5))
                }
                other => {
                    // Its death takes the init of the namespace with it, and that takes everything.
                    let _ = self.init.kill();
                    let _ = self.init.wait();
                    return Err(format!("the namespace's init did not end: {other:?}"));
                }
            }
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
