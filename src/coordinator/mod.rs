//! Running, committing, rolling back.
//!
//! Two processes share the work. The *launcher* is the one the user started: tiny, single-threaded,
//! subreaper; it maps the tapes, clones the root task and, if anything fails, kills and reaps all
//! that descends from it. The *coordinator*, its child, reads, plans, watches the tapes play,
//! and commits. If either dies before the commit ends, the other ends the tree: the launcher kills its
//! children until there are none, the coordinator whoever maps the tapes. If both die, the tasks notice it
//! (docs/decisions/0015).
//!
//! | module | does |
//! |---|---|
//! | [`launcher`] | the launcher's life |
//! | [`channel`] | what the two say to each other |
//! | [`supervise`] | waits until all have arrived, or something fails |
//! | [`trace`] | notes how long everything took, where somebody asks |
//! | `signals` | looks for signals that have reached the tree before it was one |
//! | [`undo`] | takes away files that killed tasks have left |
//! | `spent` | takes away names that the tree needs no more |
//! | `cgroups` | makes the cgroups that are missing, and takes them away again |
//! | `clocks` | makes the time namespace that the root is born in |
//! | [`commit`] | seizes, releases, unmaps, sets registers, lets go |
//! | [`seam`] | where tests let one of these fail |
//! | `rollback` | finds and kills tasks that are not one's children |
//!
//! Nothing here decides: what is done is on the tapes.

mod cgroups;
pub mod channel;
mod clocks;
pub mod commit;
pub mod launcher;
mod rollback;
pub mod seam;
mod signals;
mod spent;
pub mod supervise;
pub mod trace;
pub mod undo;

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::unistd::Pid;
use thiserror::Error;

use crate::certify::CertifiedTapes;
use crate::sys;
use crate::sys::process::Birth;
use crate::sys::region::{Place, Shared};
use crate::tape::{Cgroup, ThreadState};
use channel::{Channel, Order, Reply};
use seam::Step;

/// Why a run failed. Whatever it is, the tree has been taken away again.
#[derive(Debug, Error)]
pub enum RunError {
    /// The region could not be made.
    #[error("cannot make the region for the tapes: {0}")]
    Region(std::io::Error),
    /// The two processes could not talk.
    #[error("the launcher is gone: {0}")]
    Channel(std::io::Error),
    /// The root could not be cloned.
    #[error("cannot clone the root task {pid}: {errno}{}", if *errno == Errno::EEXIST { " (the pid is in use)" } else { "" })]
    Clone {
        /// Its pid.
        pid: u32,
        /// Why.
        errno: Errno,
    },
    /// The launcher could not map the region.
    #[error("cannot map the region at its place: {0}")]
    Map(Errno),
    /// A record failed.
    #[error("{}", .0)]
    Record(Box<FailedRecord>),
    /// A task died.
    #[error("task {pid} died while it was being restored")]
    Died {
        /// Which.
        pid: u32,
    },
    /// The launcher was told to stop.
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
    /// A signal for the process group that we were started in has reached a task, whose it is not.
    #[error("task {pid}: signal {signal} has come while it was being restored")]
    Signalled {
        /// The task.
        pid: u32,
        /// The signal's number.
        signal: i32,
    },
    /// ptrace failed.
    #[error("task {pid}: {what}: {errno}")]
    Ptrace {
        /// The task.
        pid: u32,
        /// What was tried.
        what: &'static str,
        /// Why.
        errno: Errno,
    },
    /// A task did something that it should not do.
    #[error("task {pid}: {what} (wait status {status:#x})")]
    Stop {
        /// The task.
        pid: u32,
        /// What was expected.
        what: &'static str,
        /// What came.
        status: i32,
    },
    /// The coordinator is gone, and could not say why.
    #[error("the process that plans and commits was killed")]
    CoordinatorKilled,
    /// The time namespace of the tree could not be made.
    #[error("cannot make a time namespace: {0}")]
    Clocks(Errno),
    /// A cgroup of the tree could not be made.
    #[error("cannot make the cgroup {}: {errno}", path.display())]
    Cgroup {
        /// Its directory, or the file of it that could not be set.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// The pidfile could not be written.
    #[error("cannot write the pidfile {}: {error}", path.display())]
    Pidfile {
        /// Where.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// A record that returned what it should not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedRecord {
    /// The task whose tape it is on, by pid.
    pub pid: u32,
    /// Its number on the tape.
    pub record: u32,
    /// The operation it belongs to.
    pub op: u32,
    /// What it returned.
    pub result: i64,
    /// The system call as `regrow tape` prints it.
    pub call: String,
    /// What it was done for, and the image entry; filled in by who knows the plan.
    pub purpose: String,
}

impl std::fmt::Display for FailedRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "task {}: {}: {}: ", self.pid, self.purpose, self.call)?;
        match self.result {
            errno @ -4095..=-1 => write!(f, "{}", Errno::from_raw(-errno as i32)),
            other => write!(f, "unexpected result {other}"),
        }
    }
}

/// What is to be run.
#[derive(Debug)]
pub struct Run<'a> {
    /// The tapes, which have a certificate.
    pub tapes: &'a CertifiedTapes,
    /// What ptrace sets in each living task, in the order of the tapes.
    pub threads: &'a [ThreadState],
    /// The root becomes a child of our own parent (`--restore-sibling`).
    pub sibling: bool,
    /// Tasks stay stopped (`--leave-stopped`).
    pub leave_stopped: bool,
    /// Where the root's pid is written just before all are let go.
    pub pidfile: Option<PathBuf>,
    /// Where a test lets it fail.
    pub seam: seam::Seam,
    /// Who notes how long everything takes. The tapes are then traced ones.
    pub trace: Option<&'a trace::Recorder>,
}

impl Run<'_> {
    /// Something new begins, for the trace.
    fn enter(&self, phase: &'static str) {
        if let Some(recorder) = self.trace {
            recorder.enter(phase);
        }
    }
}

/// What was run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// Nanoseconds from the birth of the root to the barrier.
    pub play_ns: u64,
    /// Nanoseconds from the barrier to the end.
    pub commit_ns: u64,
}

/// Plays tapes through the launcher at the other end of `channel`, and commits.
///
/// # Errors
/// The first thing that failed. Whoever played has been killed; the caller must exit, which kills whom
/// the commit had seized, and the launcher then reaps.
pub fn run(run: &Run<'_>, channel: &Channel) -> Result<Outcome, RunError> {
    let tapes = run.tapes;
    run.enter("launch");
    run.seam.at(Step::Memfd).map_err(|errno| RunError::Region(errno.into()))?;
    let region = sys::region::create(tapes).map_err(RunError::Region)?;
    // For good: the kernel still marks a word in it when we are dead.
    let shared: &'static Shared = Box::leak(Box::new(Shared::map(region.as_fd()).map_err(RunError::Region)?));
    // Tasks that wait look there whether we live.
    sys::robust::mark_when_dead(shared.coordinator()).map_err(|errno| RunError::Region(errno.into()))?;
    let players = rollback::Region::of(region.as_fd()).map_err(|errno| RunError::Region(errno.into()))?;
    let root = tapes.tasks[0];
    let start = std::time::Instant::now();
    let order = Order::Start {
        place: Place::of(tapes),
        birth: Birth {
            clone_args: root.clone_args,
            tape: root.tape,
            control: tapes.base,
            code: tapes.trace().map_or(tapes.code, |area| area.code),
        },
        sibling: run.sibling,
        clocks_ns: tapes.clocks_ns,
        fault: run.seam.for_launcher(),
    };
    channel.send(order, Some(region.as_fd())).map_err(RunError::Channel)?;
    let result = watch_and_commit(run, channel, shared, start);
    if result.is_ok() {
        spent::remove(&tapes.spent);
    }
    if result.is_err() {
        // No more forks: whoever kills counts whom.
        shared.abort().store(1, std::sync::atomic::Ordering::SeqCst);
        // The launcher would do it, but it may be dead, or die before it has.
        players.kill_players();
    }
    if let Some(recorder) = run.trace {
        recorder.leave();
        recorder.collect(tapes, region.as_fd());
    }
    result
}

fn watch_and_commit(
    run: &Run<'_>,
    channel: &Channel,
    shared: &Shared,
    start: std::time::Instant,
) -> Result<Outcome, RunError> {
    let root = run.tapes.tasks[0].pid;
    match channel.receive().map_err(RunError::Channel)? {
        Reply::Started { .. } => {}
        Reply::MapFailed(errno) => return Err(RunError::Map(Errno::from_raw(errno))),
        Reply::ClocksFailed(errno) => return Err(RunError::Clocks(Errno::from_raw(errno))),
        Reply::CgroupFailed { index, file, errno } => {
            return Err(RunError::Cgroup {
                path: path_of(&run.tapes.cgroups, index, file),
                errno: Errno::from_raw(errno),
            });
        }
        Reply::CloneFailed(errno) => {
            return Err(RunError::Clone { pid: root, errno: Errno::from_raw(errno) });
        }
        Reply::Interrupted(signal) => return Err(RunError::Interrupted(signal)),
        Reply::RootDied => return Err(RunError::Died { pid: root }),
    }
    run.enter("play");
    if run.sibling {
        // Of a tree that is not below it the launcher could not find orphans.
        for pids in run.tapes.tasks.chunks(channel::WORDS - 1) {
            let pids = std::array::from_fn(|i| pids.get(i).map_or(0, |task| u64::from(task.pid)));
            channel.send(Order::Tasks(pids), None).map_err(RunError::Channel)?;
        }
    }
    supervise::until(run.tapes, channel, shared, crate::tape::abi::wake::ARRIVED)?;
    run.enter("barrier");
    signals::check(run.tapes)?;
    let play_ns = start.elapsed().as_nanos() as u64;
    let barrier = std::time::Instant::now();
    let pidfile = run.pidfile.as_deref();
    let is_written = std::cell::Cell::new(false);
    let committed = commit::commit(run, channel, shared, || {
        if let Some(path) = pidfile {
            run.seam
                .at(Step::Pidfile)
                .map_err(|errno| RunError::Pidfile { path: path.to_owned(), error: errno.into() })?;
            write_pidfile(path, Pid::from_raw(root as i32))?;
            is_written.set(true);
        }
        // From here on nobody can ask for an end, and the launcher is not needed.
        run.seam.at(Step::Tell).map_err(|errno| RunError::Channel(errno.into()))?;
        channel.send(Order::Committed, None).map_err(RunError::Channel)
    });
    if let (Err(_), Some(path), true) = (&committed, pidfile, is_written.get()) {
        let _ = std::fs::remove_file(path);
    }
    committed?;
    Ok(Outcome { play_ns, commit_ns: barrier.elapsed().as_nanos() as u64 })
}

/// A cgroup that could not be made, or a file of it.
fn path_of(cgroups: &[Cgroup], index: u32, file: Option<u32>) -> PathBuf {
    let name = |bytes: &[u8]| std::ffi::OsStr::from_bytes(bytes).to_owned();
    let Some(cgroup) = cgroups.get(index as usize) else { return PathBuf::new() };
    let directory = PathBuf::from(name(&cgroup.directory));
    match file.and_then(|file| cgroup.files.get(file as usize)) {
        Some(file) => directory.join(name(&file.name)),
        None => directory,
    }
}

/// Writes a pid to a file that must not exist, as `criu` does.
fn write_pidfile(path: &std::path::Path, pid: Pid) -> Result<(), RunError> {
    use std::io::Write;
    let failed = |error| RunError::Pidfile { path: path.to_owned(), error };
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    write!(file, "{pid}").map_err(|error| {
        let _ = std::fs::remove_file(path);
        failed(error)
    })
}
