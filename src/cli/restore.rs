//! `regrow restore`: spelled as `criu restore`, so that a script that calls one can call the other.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgAction, Args};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd::Pid;
use regrow::coordinator::channel::Channel;
use regrow::coordinator::launcher::{self, End};
use regrow::coordinator::seam::{Seam, StepFault};
use regrow::coordinator::{Run, RunError};
use regrow::pipeline::{self, PrepareError};
use regrow::resolve::Options;

use super::{Features, exit, log};

/// Restore a process tree
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The image directory
    #[arg(short = 'D', long, value_name = "DIR", default_value = ".")]
    images_dir: PathBuf,
    /// Where the log and the pidfile go; the image directory if not given
    #[arg(short = 'W', long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Log to this file in the work directory; to standard error if not given
    #[arg(short = 'o', long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// Say more: -v[N], 0 nothing, 1 errors, 2 warnings, 3 information, 4 all
    #[arg(short = 'v', value_name = "N", num_args = 0..=1, require_equals = false, default_missing_value = "+", action = ArgAction::Append)]
    verbose: Vec<String>,
    /// As -vN
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "+")]
    verbosity: Option<String>,
    /// End when the tree runs; without it, stay until its root has ended
    #[arg(short = 'd', long)]
    restore_detached: bool,
    /// Restore the root task as a sibling: a child of the caller
    #[arg(short = 'S', long)]
    restore_sibling: bool,
    /// Write the pid of the root task to this file in the work directory
    #[arg(long, value_name = "FILE")]
    pidfile: Option<PathBuf>,
    /// Leave the tasks stopped
    #[arg(short = 's', long)]
    leave_stopped: bool,
    /// Read no configuration files (there are none)
    #[arg(long)]
    no_default_config: bool,
    /// For tests: let record RECORD (as `regrow tape` numbers them) of task PID fail with ERRNO, or turn N of a
    /// step that is on no tape fail with an errno or be the end of us (`kill`, `kill-launcher`, `kill-both`)
    #[arg(long, value_name = "PID:RECORD:ERRNO|STEP@N:WHAT", value_parser = parse_fault, hide = true)]
    inject_fault: Option<Fault>,
    #[command(flatten)]
    features: Features,
}

/// What is to fail.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Record { pid: u32, record: u32, errno: i32 },
    Step(StepFault),
}

fn parse_fault(text: &str) -> Result<Fault, String> {
    let mut parts = text.split(':');
    let mut number = || parts.next()?.parse::<u32>().ok();
    match (number(), number(), number(), parts.next()) {
        (Some(pid), Some(record), Some(errno @ 1..=4095), None) => {
            Ok(Fault::Record { pid, record, errno: errno as i32 })
        }
        _ => text.parse().map(Fault::Step),
    }
}

impl Restore {
    /// Splits into launcher and coordinator before anything else happens: the launcher must be small
    /// and have one thread.
    pub(crate) fn run(&self) -> ExitCode {
        let log_file = self.log_file.as_ref().map(|file| self.work_dir().join(file));
        if let Err(error) = log::start(log_file.as_deref(), self.log_level()) {
            super::report_error(&anyhow::Error::new(error).context("cannot open the log file"));
            return ExitCode::from(exit::FAILED);
        }
        if let Some(path) = self.pidfile_path().filter(|path| path.symlink_metadata().is_ok()) {
            let error = std::io::Error::from_raw_os_error(libc::EEXIST);
            return ExitCode::from(fail(&RunError::Pidfile { path, error }));
        }
        // Before there are two of us: signals from the terminal are for the launcher, which tells the
        // coordinator, and neither dies of one without the other.
        let signals =
            SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).unwrap_or_else(|_| SigSet::empty());
        raise_last_pid(&self.images_dir);
        let (for_launcher, for_coordinator) = match Channel::pair() {
            Ok(pair) => pair,
            Err(error) => return give_up(&error.into()),
        };
        match regrow::sys::process::fork() {
            Ok(None) => {
                drop(for_launcher);
                ExitCode::from(self.coordinate(&for_coordinator))
            }
            Ok(Some(coordinator)) => {
                drop(for_coordinator);
                self.launch(&for_launcher, coordinator, &signals)
            }
            Err(error) => give_up(&error.into()),
        }
    }

    fn work_dir(&self) -> &Path {
        self.work_dir.as_deref().unwrap_or(&self.images_dir)
    }

    /// `-v` counts up, `-vN` and `--verbosity=N` say how much.
    fn log_level(&self) -> u8 {
        let mut level = 2u8;
        for word in self.verbose.iter().chain(&self.verbosity) {
            match word.parse::<u8>() {
                Ok(number) => level = number,
                Err(_) => level = level.saturating_add(word.len() as u8),
            }
        }
        level
    }

    fn pidfile_path(&self) -> Option<PathBuf> {
        self.pidfile.as_ref().map(|file| self.work_dir().join(file))
    }

    /// `signals` is the mask that we were started with.
    fn launch(&self, channel: &Channel, coordinator: Pid, signals: &SigSet) -> ExitCode {
        match launcher::launch(channel, coordinator) {
            End::Committed { .. } => {
                if !self.restore_detached {
                    // The tree lives without us: who wants to end us may.
                    let _ = signals.thread_set_mask();
                    launcher::wait_for_all();
                }
                ExitCode::SUCCESS
            }
            End::Failed(code) => ExitCode::from(u8::try_from(code).unwrap_or(exit::FAILED)),
            End::Killed => {
                if let Some(path) = self.pidfile_path() {
                    let _ = std::fs::remove_file(path);
                }
                ExitCode::from(fail(&RunError::CoordinatorKilled))
            }
        }
    }

    /// The coordinator: prepares, runs, reports. Its exit code becomes that of the whole.
    fn coordinate(&self, channel: &Channel) -> u8 {
        let mut prepared = match pipeline::prepare(
            &self.images_dir,
            &Options { restoring: true, ..self.features.options() },
        ) {
            Ok(prepared) => prepared,
            Err(error) => return refuse(&error),
        };
        let step_fault = match self.inject_fault {
            Some(Fault::Step(fault)) => Some(fault),
            Some(Fault::Record { .. }) | None => None,
        };
        if let Some(Fault::Record { pid, record, errno }) = self.inject_fault
            && !prepared.tapes.inject_fault(pid, record, errno)
        {
            say(&format!("regrow: --inject-fault: task {pid} has no record {record}"));
            return exit::FAILED;
        }
        tracing::info!(timings = ?prepared.timings, "planned");
        for line in prepared.certificate.to_string().lines() {
            tracing::info!("{line}");
        }
        let run = Run {
            tapes: &prepared.tapes,
            threads: &prepared.threads,
            sibling: self.restore_sibling,
            leave_stopped: self.leave_stopped,
            pidfile: self.pidfile_path(),
            seam: Seam::new(step_fault),
        };
        match regrow::coordinator::run(&run, channel) {
            Ok(outcome) => {
                tracing::info!(?outcome, "Restore finished successfully. Tasks resumed.");
                0
            }
            Err(RunError::Record(mut failed)) => {
                failed.purpose = prepared.purpose(failed.op);
                fail(&RunError::Record(failed))
            }
            Err(error) => fail(&error),
        }
    }
}

fn refuse(error: &PrepareError) -> u8 {
    let problems = error.problems();
    for problem in &problems {
        tracing::error!("{problem}");
    }
    say(&problems.iter().map(|problem| format!("regrow: {problem}")).collect::<Vec<_>>().join("\n"));
    tracing::error!("Restoring FAILED.");
    // Scripts that know criu's expect 1; `regrow check` tells the kinds apart.
    exit::FAILED
}

fn fail(error: &RunError) -> u8 {
    tracing::error!("{error}");
    tracing::error!("Restoring FAILED.");
    say(&format!("regrow: {error}"));
    exit::FAILED
}

fn give_up(error: &anyhow::Error) -> ExitCode {
    super::report_error(error);
    ExitCode::from(exit::FAILED)
}

/// To standard error, beside the log.
#[allow(clippy::print_stderr)] // The command line is what prints.
fn say(text: &str) {
    eprintln!("{text}");
}

/// Lets the kernel number our own processes past all pids that the images need: their names carry
/// them (`core-PID.img`). What cannot be done here shows as a taken pid later.
fn raise_last_pid(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let highest = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_prefix("core-")?.strip_suffix(".img")?.parse::<u32>().ok())
        .max();
    let Some(highest) = highest else { return };
    let path = "/proc/sys/kernel/ns_last_pid";
    let last: Option<u32> = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    if last.is_some_and(|last| last < highest) {
        let _ = std::fs::write(path, highest.to_string());
    }
}
