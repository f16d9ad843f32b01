//! `regrow restore`: spelled as `criu restore`, so that a script that calls one can call the other.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::{ArgAction, Args};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd::Pid;
use regrow::certify::{Certificate, CertifiedTapes};
use regrow::coordinator::channel::Channel;
use regrow::coordinator::launcher::{self, End};
use regrow::coordinator::seam::{Seam, StepFault};
use regrow::coordinator::trace::Recorder;
use regrow::coordinator::{Run, RunError};
use regrow::cost::{self, Priced};
use regrow::pipeline::{self, Prepared};
use regrow::report;
use regrow::report::trace::{About, FORMAT, Ran, Trace, Words};
use regrow::resolve::Options;
use regrow::resolve::problem::Problem;
use regrow::store;
use regrow::store::ready::Ready;

use super::{Features, exit, little, log};

/// Restore a process tree
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The image directory; if not given, the one that a stored plan is for, or the present one
    #[arg(short = 'D', long, value_name = "DIR")]
    images_dir: Option<PathBuf>,
    /// Restore by this stored plan (`regrow plan --out`), without reading the images again
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
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
    /// Note how long everything takes, and write it here for Chrome's and Perfetto's viewers, and for
    /// `regrow plan --format html --trace`
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
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
        let epoch = Instant::now();
        let about = match self.plan.as_deref().map(store::read_about).transpose() {
            Ok(about) => about,
            Err(error) => return give_up(&anyhow::Error::new(error)),
        };
        let options = match self.features.options() {
            Ok(options) => Options { restoring: true, tracing: self.trace.is_some(), ..options },
            Err(error) => return give_up(&anyhow::Error::new(error)),
        };
        let images_dir = match (&self.images_dir, &about) {
            (Some(dir), _) => dir.clone(),
            (None, Some(about)) => about.dir.clone(),
            (None, None) => PathBuf::from("."),
        };
        let work_dir = self.work_dir.as_ref().unwrap_or(&images_dir);
        let pidfile = self.pidfile.as_ref().map(|file| work_dir.join(file));
        let log_file = self.log_file.as_ref().map(|file| work_dir.join(file));
        if let Err(error) = log::start(log_file.as_deref(), self.log_level()) {
            super::report_error(&anyhow::Error::new(error).context("cannot open the log file"));
            return ExitCode::from(exit::FAILED);
        }
        if let Some(path) = pidfile.as_ref().filter(|path| path.symlink_metadata().is_ok()) {
            let error = std::io::Error::from_raw_os_error(libc::EEXIST);
            return ExitCode::from(fail(&RunError::Pidfile { path: path.clone(), error }));
        }
        // Before there are two of us: signals from the terminal are for the launcher, which tells the
        // coordinator, and neither dies of one without the other.
        let signals =
            SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).unwrap_or_else(|_| SigSet::empty());
        raise_last_pid(
            about.map_or_else(|| regrow::image::highest_pid(&images_dir), |about| Some(about.highest_pid)),
        );
        let (for_launcher, for_coordinator) = match Channel::pair() {
            Ok(pair) => pair,
            Err(error) => return give_up(&error.into()),
        };
        match regrow::sys::process::fork() {
            Ok(None) => {
                drop(for_launcher);
                ExitCode::from(self.coordinate(&images_dir, &options, pidfile, &for_coordinator, epoch))
            }
            Ok(Some(coordinator)) => {
                drop(for_coordinator);
                self.launch(&for_launcher, coordinator, &signals, pidfile.as_deref())
            }
            Err(error) => give_up(&error.into()),
        }
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

    /// `signals` is the mask that we were started with.
    fn launch(
        &self,
        channel: &Channel,
        coordinator: Pid,
        signals: &SigSet,
        pidfile: Option<&Path>,
    ) -> ExitCode {
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
                if let Some(path) = pidfile {
                    let _ = std::fs::remove_file(path);
                }
                ExitCode::from(fail(&RunError::CoordinatorKilled))
            }
        }
    }

    /// Reads and plans, or takes a stored plan.
    fn prepare(&self, images_dir: &Path, options: &Options) -> Result<Runnable, Vec<Problem>> {
        match &self.plan {
            None => match pipeline::prepare(images_dir, options) {
                Ok(prepared) => Ok(Runnable::Planned(Box::new(prepared))),
                Err(error) => Err(error.problems()),
            },
            Some(path) => match store::ready::prepare(path, self.images_dir.as_deref(), options) {
                Ok(ready) => Ok(Runnable::Stored(Box::new(ready))),
                Err(error) => Err(error.problems()),
            },
        }
    }

    /// The coordinator: prepares, runs, reports. Its exit code becomes that of the whole.
    fn coordinate(
        &self,
        images_dir: &Path,
        options: &Options,
        pidfile: Option<PathBuf>,
        channel: &Channel,
        epoch: Instant,
    ) -> u8 {
        // Not in the launcher: a fork takes no threads along.
        if little::is_little(images_dir) {
            little::plan_alone();
        } else {
            regrow::sys::heap::be_of_huge_pages();
        }
        // Before anything is done: where a trace is wanted and cannot be had, that is said first.
        let traced = match self.trace.as_deref().map(|path| Traced::start(path, epoch)).transpose() {
            Ok(traced) => traced,
            Err(error) => {
                super::report_error(&error);
                return exit::FAILED;
            }
        };
        let mut runnable = match self.prepare(images_dir, options) {
            Ok(runnable) => runnable,
            Err(problems) => {
                if let Some(traced) = traced {
                    traced.write_nothing(
                        images_dir,
                        problems.first().map_or(String::new(), ToString::to_string),
                    );
                }
                return refuse(&problems);
            }
        };
        let step_fault = match self.inject_fault {
            Some(Fault::Step(fault)) => Some(fault),
            Some(Fault::Record { .. }) | None => None,
        };
        if let Some(Fault::Record { pid, record, errno }) = self.inject_fault
            && !runnable.tapes().inject_fault(pid, record, errno)
        {
            say(&format!("regrow: --inject-fault: task {pid} has no record {record}"));
            return exit::FAILED;
        }
        let (tapes, threads, spans) = match &runnable {
            Runnable::Planned(prepared) => {
                tracing::info!(timings = ?prepared.timings, "planned");
                (&prepared.tapes, &prepared.threads, &prepared.timings.spans)
            }
            Runnable::Stored(ready) => {
                tracing::info!(timings = ?ready.timings, "planned before");
                (&ready.tapes, &ready.threads, &ready.timings.spans)
            }
        };
        for line in runnable.certificate().to_string().lines() {
            tracing::info!("{line}");
        }
        if let Some(traced) = &traced {
            traced.recorder.add(spans);
        }
        let run = Run {
            tapes,
            threads,
            sibling: self.restore_sibling,
            leave_stopped: self.leave_stopped,
            pidfile,
            seam: Seam::new(step_fault),
            trace: traced.as_ref().map(|traced| &traced.recorder),
        };
        let result = regrow::coordinator::run(&run, channel).map_err(|error| match error {
            RunError::Record(mut failed) => {
                failed.purpose = runnable.purpose(failed.op);
                RunError::Record(failed)
            }
            error => error,
        });
        if let Some(traced) = traced {
            let outcome = result.as_ref().map_or_else(ToString::to_string, |_| "restored".to_owned());
            traced.write(images_dir, &runnable, &outcome);
        }
        match result {
            Ok(outcome) => {
                tracing::info!(?outcome, "Restore finished successfully. Tasks resumed.");
                // Behind the run, so that nothing waits for it.
                if self.features.costs.is_given()
                    && let Ok(priced) = Priced::of(tapes, &options.costs)
                {
                    let prediction = priced.predict(cost::cores());
                    let (play_ns, commit_ns) = (prediction.play_ns, prediction.commit_ns);
                    tracing::info!(play_ns, commit_ns, "by the table of costs");
                }
                // The process ends here, and its memory with it; to give that back piece by piece takes longer.
                std::mem::forget(runnable);
                0
            }
            Err(error) => fail(&error),
        }
    }
}

/// A trace that is to be written.
struct Traced {
    path: PathBuf,
    file: File,
    recorder: Recorder,
}

impl Traced {
    fn start(path: &Path, epoch: Instant) -> anyhow::Result<Traced> {
        anyhow::ensure!(
            regrow::sys::tsc::is_enabled(),
            "--trace: the time-stamp counter is disabled here (PR_SET_TSC)"
        );
        let file = File::create(path).with_context(|| path.display().to_string())?;
        let recorder = Recorder::start(epoch);
        recorder.enter("prepare");
        Ok(Traced { path: path.to_owned(), file, recorder })
    }

    /// Of a run. That it cannot be written is said, and changes nothing else.
    fn write(self, images_dir: &Path, runnable: &Runnable, outcome: &str) {
        let directory = std::path::absolute(images_dir).unwrap_or_else(|_| images_dir.to_owned());
        let (tapes, threads) = match runnable {
            Runnable::Planned(prepared) => (&prepared.tapes, &prepared.threads),
            Runnable::Stored(ready) => (&ready.tapes, &ready.threads),
        };
        let recording = self.recorder.finish();
        let ran = Ran { tapes, threads, directory: &directory, outcome };
        let trace = Trace::of(&recording, &ran, runnable.words(), runnable.names());
        write_trace(&self.path, self.file, &trace);
    }

    /// Of a run that was none.
    fn write_nothing(self, images_dir: &Path, outcome: String) {
        let directory = std::path::absolute(images_dir).unwrap_or_else(|_| images_dir.to_owned());
        let phases = self.recorder.finish().phases;
        let about = About {
            format: FORMAT.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            directory,
            plan: String::new(),
            regrow: std::process::id(),
            outcome,
        };
        write_trace(&self.path, self.file, &Trace { about, phases, lanes: Vec::new() });
    }
}

fn write_trace(path: &Path, mut file: File, trace: &Trace) {
    use std::io::Write;
    let written = trace.to_json().map_err(Into::into).and_then(|text| file.write_all(text.as_bytes()));
    if let Err(error) = written {
        tracing::error!("{}: {error}", path.display());
        say(&format!("regrow: {}: {error}", path.display()));
    }
}

/// What can be run.
enum Runnable {
    Planned(Box<Prepared>),
    Stored(Box<Ready>),
}

impl Runnable {
    fn tapes(&mut self) -> &mut CertifiedTapes {
        match self {
            Runnable::Planned(prepared) => &mut prepared.tapes,
            Runnable::Stored(ready) => &mut ready.tapes,
        }
    }

    fn certificate(&self) -> &Certificate {
        match self {
            Runnable::Planned(prepared) => &prepared.certificate,
            Runnable::Stored(ready) => &ready.certificate,
        }
    }

    fn purpose(&self, op: u32) -> String {
        match self {
            Runnable::Planned(prepared) => prepared.purpose(op),
            Runnable::Stored(ready) => ready.purpose(op),
        }
    }

    /// What operations are, in words.
    fn words(&self) -> impl Fn(u32) -> Words + '_ {
        let stored = match self {
            Runnable::Planned(_) => BTreeMap::new(),
            Runnable::Stored(ready) => ready.purposes(),
        };
        move |op| match self {
            Runnable::Planned(prepared) => report::words_of(prepared, op),
            Runnable::Stored(_) => {
                let text = stored.get(&op).map_or("an unknown operation", String::as_str);
                let (what, image) = text.rsplit_once(" [").unwrap_or((text, ""));
                let image = image.trim_end_matches(']').to_owned();
                Words { what: what.to_owned(), purpose: String::new(), image }
            }
        }
    }

    /// What tasks are called. A stored plan does not say.
    fn names(&self) -> impl Fn(u32) -> String + '_ {
        let names: BTreeMap<u32, &str> = match self {
            Runnable::Planned(prepared) => {
                let recipes = &prepared.resolved.recipes.tasks;
                recipes.iter().map(|recipe| (recipe.pid.0, recipe.comm.as_str())).collect()
            }
            Runnable::Stored(_) => BTreeMap::new(),
        };
        move |pid| names.get(&pid).map_or_else(|| format!("task {pid}"), |name| (*name).to_owned())
    }
}

fn refuse(problems: &[Problem]) -> u8 {
    for problem in problems {
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

/// Lets the kernel number our own processes past all pids that the images need. What cannot be done here
/// shows as a taken pid later.
fn raise_last_pid(highest: Option<u32>) {
    let Some(highest) = highest else { return };
    let path = "/proc/sys/kernel/ns_last_pid";
    let last: Option<u32> = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    if last.is_some_and(|last| last < highest) {
        let _ = std::fs::write(path, highest.to_string());
    }
}
