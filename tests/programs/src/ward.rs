//! Wards: tasks that may do hardly anything, and are looked after by one that may.
//!
//! A task that has given up its privileges, or lets itself be denied system calls, cannot meet others
//! through files. A ward has two pipes to its keeper instead: it says by one byte that it is prepared, is
//! dumped while it waits for the byte to go on, and then writes what it finds wrong.
//!
//! ```no_run
//! use regrow_test_programs::ward::Ward;
//! use regrow_test_programs::Task;
//!
//! let mut keeper = Task::root();
//! let ward = Ward::start("alone", |line| {
//!     // prepare
//!     line.wait();
//!     Vec::new() // what is wrong
//! });
//! keeper.park();
//! ward.finish(&mut keeper, 0);
//! keeper.finish();
//! ```

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use crate::{Task, retry};

/// A ward, as its keeper sees it.
#[derive(Debug)]
pub struct Ward {
    name: String,
    pid: Pid,
    go: File,
    answer: File,
}

/// A ward's way to its keeper. All is done by `read` and `write`.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    go: RawFd,
    answer: RawFd,
}

impl Line {
    /// Says that the ward is prepared, and waits until it shall go on.
    pub fn wait(self) {
        self.say(b"r");
        self.hear();
    }

    /// Writes to the keeper.
    pub fn say(self, bytes: &[u8]) {
        // SAFETY: the buffer is live and as long as said.
        unsafe { libc::write(self.answer, bytes.as_ptr().cast(), bytes.len()) };
    }

    /// Waits for a byte of the keeper.
    pub fn hear(self) {
        let mut byte = 0u8;
        // SAFETY: the buffer is one live byte.
        unsafe { libc::read(self.go, (&raw mut byte).cast(), 1) };
    }
}

impl Ward {
    /// Forks a ward that runs `body`, writes what that gives, and exits with 0. Returns when it is prepared.
    ///
    /// # Panics
    /// If it cannot be made, or ends before it is prepared.
    pub fn start(name: &str, body: impl FnOnce(Line) -> Vec<String>) -> Ward {
        let (go, go_writer) = pipe();
        let (answer, answer_writer) = pipe();
        // SAFETY: who starts wards has one thread, so the child may do anything.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Child => {
                drop((go_writer, answer));
                let line = Line { go: go.as_raw_fd(), answer: answer_writer.as_raw_fd() };
                let failures = body(line);
                line.say(failures.join("\n").as_bytes());
                // SAFETY: ends the task at once.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => {
                drop((go, answer_writer));
                let mut answer = File::from(answer);
                let mut byte = [0];
                let ready = answer.read_exact(&mut byte);
                assert!(ready.is_ok() && byte == *b"r", "{name} ({child}) does not get ready: {byte:?}");
                Ward { name: name.to_owned(), pid: child, go: go_writer.into(), answer }
            }
        }
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Lets it go on and takes over what it finds wrong; it must end by signal `signal`, or (0) by itself.
    pub fn finish(mut self, keeper: &mut Task, signal: i32) {
        for failure in self.end(signal) {
            keeper.fail(failure);
        }
    }

    /// The same, for wards of wards.
    #[must_use]
    pub fn end(&mut self, signal: i32) -> Vec<String> {
        let mut failures = Vec::new();
        if let Err(error) = self.go.write_all(b"g") {
            failures.push(format!("it is gone: {error}"));
        }
        let mut text = String::new();
        if let Err(error) = self.answer.read_to_string(&mut text) {
            failures.push(format!("no answer: {error}"));
        }
        failures.extend(text.lines().map(str::to_owned));
        match retry(|| waitpid(self.pid, None)) {
            Ok(WaitStatus::Exited(_, 0)) if signal == 0 => {}
            Ok(WaitStatus::Signaled(_, by, _)) if by as i32 == signal => {}
            other => failures.push(format!("it ended as {other:?}, not by signal {signal}")),
        }
        failures.iter().map(|failure| format!("{}: {failure}", self.name)).collect()
    }
}

/// Further threads of a task: each prepares, is dumped while it waits for a byte, and checks itself. They
/// never end by themselves: what the end of a thread calls may be denied.
#[derive(Debug)]
pub struct Crew {
    go: (OwnedFd, OwnedFd),
    shared: Arc<Shared>,
    threads: i32,
}

#[derive(Debug, Default)]
struct Shared {
    ready: AtomicI32,
    done: AtomicI32,
    failures: Mutex<Vec<String>>,
}

impl Crew {
    /// Nobody yet.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "it makes a pipe")]
    pub fn new() -> Crew {
        Crew { go: pipe(), shared: Arc::default(), threads: 0 }
    }

    /// One more thread.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn thread<T: Send + 'static>(
        &mut self,
        prepare: impl FnOnce() -> T + Send + 'static,
        check: impl FnOnce(T, &mut Vec<String>) + Send + 'static,
    ) {
        let (shared, go) = (Arc::clone(&self.shared), self.go.0.as_raw_fd());
        let body = move || {
            let prepared = prepare();
            shared.ready.fetch_add(1, Ordering::SeqCst);
            Line { go, answer: -1 }.hear();
            let mut failures = Vec::new();
            check(prepared, &mut failures);
            shared.failures.lock().expect("no thread panics").extend(failures);
            shared.done.fetch_add(1, Ordering::SeqCst);
            loop {
                std::thread::sleep(Duration::from_secs(1000));
            }
        };
        std::thread::Builder::new().stack_size(256 << 10).spawn(body).expect("a thread");
        self.threads += 1;
    }

    /// Waits until all are prepared.
    pub fn await_ready(&self) {
        if !await_count(&self.shared.ready, self.threads) {
            self.shared
                .failures
                .lock()
                .expect("no thread panics")
                .push("threads do not get ready".to_owned());
        }
    }

    /// Lets all go on, waits until all but `lost` have checked themselves, and gives what they found wrong.
    #[must_use]
    pub fn finish(&self, lost: i32) -> Vec<String> {
        let bytes = vec![0u8; usize::try_from(self.threads).unwrap_or(0)];
        // SAFETY: the buffer is live and as long as said.
        unsafe { libc::write(self.go.1.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
        let are_done = await_count(&self.shared.done, self.threads - lost);
        let mut failures = std::mem::take(&mut *self.shared.failures.lock().expect("no thread panics"));
        if !are_done {
            failures.push("threads do not check themselves".to_owned());
        }
        failures
    }
}

fn await_count(count: &AtomicI32, wanted: i32) -> bool {
    let start = Instant::now();
    while count.load(Ordering::SeqCst) != wanted {
        if start.elapsed() > Duration::from_secs(30) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    // SAFETY: pipe2 writes two descriptors, which nobody else owns.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), 0), 0, "pipe2");
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    }
}

/// Notes in `failures` unless `found` equals `wanted`.
pub fn check_eq<T: PartialEq + std::fmt::Debug>(failures: &mut Vec<String>, what: &str, found: T, wanted: T) {
    if found != wanted {
        failures.push(format!("{what}: {found:?}, not {wanted:?}"));
    }
}

/// A line of the status of the calling thread.
#[must_use]
pub fn status(name: &str) -> String {
    let text = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.unwrap_or("none").split_whitespace().collect::<Vec<_>>().join(" ")
}
