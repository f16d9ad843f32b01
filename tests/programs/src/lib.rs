//! What the self-checking test programs share: [`Task`], which turns "prepare, be dumped, be restored,
//! check" into one straight function with a [`Task::park`] in its middle.
//!
//! Tasks meet through files in the directory given as `argv[1]` and through nothing else, so that a
//! program about pipes does not depend on restored futexes, nor one about memory on restored signals:
//!
//! | file | written by | when |
//! |---|---|---|
//! | `ready.NAME` | each task | it and all tasks below it have prepared their state |
//! | `ready` | the root | likewise, for the whole tree |
//! | `go` | the harness | the tasks shall check themselves |
//! | `done.NAME` | each task | it has checked itself; the content is its failures, one a line |
//! | `result` | the root | `ok`, or the failures of the whole tree |
//!
//! No task keeps a descriptor to the directory, and a parked task neither allocates nor writes memory
//! beyond its stack, so that its memory can be compared before and after.
//!
//! ```no_run
//! use regrow_test_programs::Task;
//!
//! let mut task = Task::root();
//! task.spawn("child", |task| {
//!     let before = std::process::id();
//!     task.park();
//!     task.check_eq("pid", std::process::id(), before);
//! });
//! task.park();
//! task.finish();
//! ```

pub mod area;
pub mod attributes;
pub mod settled;
pub mod ward;

use std::ffi::CString;
use std::fmt::Debug;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use attributes::Attributes;
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpgrp, getpid, getppid, getsid};

/// How long a task waits for another one before it calls that a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a parked task looks for `go`.
const POLL_NS: libc::c_long = 50_000_000;

/// What identifies a task to others; [`Task::park`] checks that it is as it was.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Identity {
    pid: Pid,
    parent: Pid,
    group: Pid,
    session: Pid,
}

impl Identity {
    fn of_this_task() -> Identity {
        Identity {
            pid: getpid(),
            parent: getppid(),
            group: getpgrp(),
            session: getsid(None).unwrap_or(Pid::from_raw(-1)),
        }
    }
}

/// One task of a test program. See the crate's example.
#[derive(Debug)]
pub struct Task {
    directory: PathBuf,
    name: String,
    failures: Vec<String>,
    children: Vec<(Pid, String)>,
    adopted: Vec<String>,
    is_root: bool,
}

impl Task {
    /// The root task of the program, with the directory given as `argv[1]`.
    ///
    /// # Panics
    ///
    /// Without an argument.
    #[must_use]
    pub fn root() -> Task {
        let directory = std::env::args_os().nth(1).expect("argv[1] is the directory to meet in");
        Task {
            directory: PathBuf::from(directory),
            name: "root".to_owned(),
            failures: Vec::new(),
            children: Vec::new(),
            adopted: Vec::new(),
            is_root: true,
        }
    }

    /// The directory the tasks meet in, also the place for files of the program.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A file of the program, by name.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// This task's name, unique in the program.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Forks a task that runs `body` (which parks) and then finishes. Names are unique in a program.
    ///
    /// # Panics
    ///
    /// If fork fails.
    pub fn spawn(&mut self, name: &str, body: impl FnOnce(&mut Task)) -> Pid {
        // SAFETY: the test programs have one thread, so the child may do anything.
        let forked = unsafe { fork() }.expect("fork");
        self.begin(name, forked, body)
    }

    /// As [`Task::spawn`], for a task that shares what the `CLONE_*` of `flags` say instead of having a copy.
    ///
    /// # Panics
    ///
    /// If the task cannot be made.
    pub fn spawn_sharing(&mut self, name: &str, flags: libc::c_int, body: impl FnOnce(&mut Task)) -> Pid {
        let flags = i64::from(flags | libc::SIGCHLD);
        // SAFETY: as for fork: without CLONE_VM the child has a copy of the memory, and goes on here.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        let forked = match Errno::result(pid).expect("clone") {
            0 => ForkResult::Child,
            pid => ForkResult::Parent { child: Pid::from_raw(pid.try_into().expect("a pid")) },
        };
        self.begin(name, forked, body)
    }

    fn begin(&mut self, name: &str, forked: ForkResult, body: impl FnOnce(&mut Task)) -> Pid {
        match forked {
            ForkResult::Parent { child } => {
                self.children.push((child, name.to_owned()));
                child
            }
            ForkResult::Child => {
                self.become_child(name);
                body(self);
                let task = std::mem::replace(
                    self,
                    Task {
                        directory: PathBuf::new(),
                        name: String::new(),
                        failures: Vec::new(),
                        children: Vec::new(),
                        adopted: Vec::new(),
                        is_root: false,
                    },
                );
                task.finish()
            }
        }
    }

    /// Turns the record inherited by a fork into that of the new task: for programs that fork by hand.
    pub fn become_child(&mut self, name: &str) {
        name.clone_into(&mut self.name);
        self.failures.clear();
        self.children.clear();
        self.adopted.clear();
        self.is_root = false;
    }

    /// Names a task that is not this one's own child but meets in this one's name: a grandchild whose
    /// parent has exited, or a child forked by hand.
    pub fn adopt(&mut self, name: &str) {
        self.adopted.push(name.to_owned());
    }

    /// Says that this task and those below it are prepared, and waits for `go`; then checks that its
    /// pid, parent, process group, session and [`Attributes`] are what they were.
    pub fn park(&mut self) {
        // Nothing is allocated when readiness has been declared.
        let go = self.c_path("go");
        let before = self.get_ready();
        let pause = libc::timespec { tv_sec: 0, tv_nsec: POLL_NS };
        // SAFETY: both pointers are to live, initialised values; the remaining time is not asked for.
        unsafe {
            while libc::access(go.as_ptr(), libc::F_OK) != 0 {
                // It returns its errors: `errno` and with it the memory of the task stay as they are when a restored
                // task goes on with EINTR.
                libc::clock_nanosleep(libc::CLOCK_MONOTONIC, 0, &raw const pause, std::ptr::null_mut());
            }
        }
        self.check_identity(before);
    }

    /// The first half of [`Task::park`], for tasks that wait in another way. The returned value is for
    /// [`Task::check_identity`].
    #[must_use]
    pub fn get_ready(&mut self) -> Parked {
        let names: Vec<String> = self
            .children
            .iter()
            .map(|(_, name)| name)
            .chain(&self.adopted)
            .map(|name| format!("ready.{name}"))
            .collect();
        for name in names {
            if !wait_for_file(&self.file(&name)) {
                self.fail(format!("{name} did not appear"));
            }
        }
        let own = self.c_path(&format!("ready.{}", self.name));
        let whole = self.is_root.then(|| self.c_path("ready"));
        let parked = Parked { identity: Identity::of_this_task(), attributes: Attributes::of_this_task() };
        create(&own);
        if let Some(whole) = &whole {
            create(whole);
        }
        // The strings are kept: to free them now would change memory after readiness was declared.
        std::mem::forget((own, whole));
        parked
    }

    /// Checks that the task is what it was in [`Task::get_ready`].
    pub fn check_identity(&mut self, before: Parked) {
        self.check_eq("identity", Identity::of_this_task(), before.identity);
        for difference in Attributes::of_this_task().differences(&before.attributes) {
            self.fail(difference);
        }
    }

    /// Notes a failure.
    pub fn fail(&mut self, what: impl Into<String>) {
        self.failures.push(format!("{} ({}): {}", self.name, getpid(), what.into()));
    }

    /// Notes a failure unless `holds`.
    pub fn check(&mut self, what: &str, holds: bool) {
        if !holds {
            self.fail(what);
        }
    }

    /// Notes a failure unless `found` equals `wanted`.
    pub fn check_eq<T: PartialEq<U> + Debug, U: Debug>(&mut self, what: &str, found: T, wanted: U) {
        if found != wanted {
            self.fail(format!("{what}: {found:?}, not {wanted:?}"));
        }
    }

    /// Notes a failure if `result` is one, else gives its value.
    pub fn check_ok<T, E: Debug>(&mut self, what: &str, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.fail(format!("{what}: {error:?}"));
                None
            }
        }
    }

    /// Waits until the tasks below have checked themselves and takes over their failures: for checks of
    /// what they have left behind. [`Task::finish`] does it too.
    pub fn collect(&mut self) {
        for (pid, name) in std::mem::take(&mut self.children) {
            self.collect_one(&name);
            match retry(|| waitpid(pid, None)) {
                Ok(WaitStatus::Exited(_, 0)) => {}
                // Its failures say why.
                Ok(WaitStatus::Exited(_, 1)) if !self.failures.is_empty() => {}
                other => self.fail(format!("waiting for {name} ({pid}): {other:?}")),
            }
        }
        for name in std::mem::take(&mut self.adopted) {
            self.collect_one(&name);
        }
    }

    /// Collects the tasks below, reports the failures and exits: 0 without any, else 1.
    pub fn finish(mut self) -> ! {
        self.collect();
        let mut text = self.failures.join("\n");
        if !text.is_empty() {
            text.push('\n');
        }
        if self.is_root {
            write_whole(&self.file("result"), if text.is_empty() { "ok\n" } else { &text });
        } else {
            write_whole(&self.file(&format!("done.{}", self.name)), &text);
        }
        // SAFETY: exits at once; destructors and exit handlers of the forked copy have nothing to do.
        unsafe { libc::_exit(i32::from(!text.is_empty())) }
    }

    fn collect_one(&mut self, name: &str) {
        let path = self.file(&format!("done.{name}"));
        if wait_for_file(&path) {
            let text = fs::read_to_string(&path).unwrap_or_default();
            self.failures.extend(text.lines().map(str::to_owned));
        } else {
            self.fail(format!("{name} did not check itself in time"));
        }
    }

    fn c_path(&self, name: &str) -> CString {
        CString::new(self.file(name).as_os_str().as_bytes()).expect("a path has no NUL")
    }
}

/// What a task was when it declared itself ready.
#[derive(Debug)]
pub struct Parked {
    identity: Identity,
    attributes: Attributes,
}

/// Repeats a call while it is interrupted.
///
/// # Errors
///
/// Every error but `EINTR`.
pub fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// Bytes that are different for every `seed`, and cheap to make again.
#[must_use]
pub fn pattern(seed: u64, length_bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length_bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// In one call: who sees the file finds this task with no descriptor open for it.
fn create(path: &CString) {
    // SAFETY: the path is a C string.
    let result = unsafe { libc::mknod(path.as_ptr(), libc::S_IFREG | 0o644, 0) };
    assert!(result == 0, "cannot create {path:?}: {}", Errno::last());
}

/// Waits until there is such a file, without opening anything. Says whether it came in time.
#[must_use]
pub fn wait_for_file(path: &Path) -> bool {
    let start = Instant::now();
    while !path.exists() {
        if start.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Readers see the whole text or no file.
fn write_whole(path: &Path, text: &str) {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let written = fs::write(&part, text).and_then(|()| fs::rename(&part, path));
    assert!(written.is_ok(), "cannot write {}: {written:?}", path.display());
}
