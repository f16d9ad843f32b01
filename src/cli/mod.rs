//! Subcommands, one file each, and the exit codes that all share.

mod calibrate;
mod check;
mod costs;
mod demo;
mod explain;
mod inspect;
mod little;
mod log;
mod plan;
mod restore;
mod tape;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use regrow::cost::file::CostsError;
use regrow::resolve::policy::Policy;
use regrow::resolve::problem::{Problem, ProblemKind};
use regrow::resolve::{Options, Sharing};

/// Regrows process trees from CRIU checkpoints.
#[derive(Debug, Parser)]
#[command(version, about, long_about = None, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what an image directory holds: tree, threads, descriptors, mappings, sizes
    Inspect(inspect::Inspect),
    /// List every reason why an image directory could not be restored here
    Check(check::Check),
    /// Dry run: each task's program, who makes what, who waits for whom, the certificate
    Plan(plan::Plan),
    /// Explain a plan: who makes something, how it travels and why, what it waits for, what it costs
    Explain(explain::Explain),
    /// Print the system calls that a restore would make, one tape a task
    Tape(tape::Tape),
    /// Check a stored plan: print its certificate, or the step at which it goes wrong
    Verify(verify::Verify),
    /// Measure on this host what things cost
    Calibrate(calibrate::Calibrate),
    /// Restore a process tree
    Restore(restore::Restore),
    /// Make up a tree, restore it in namespaces of its own, and verify it
    Demo(demo::Demo),
}

/// Runs the subcommand.
pub(crate) fn run(cli: Cli) -> ExitCode {
    match &cli.command {
        Command::Inspect(_)
        | Command::Check(_)
        | Command::Plan(_)
        | Command::Explain(_)
        | Command::Tape(_)
        | Command::Verify(_) => regrow::sys::heap::be_of_huge_pages(),
        // Threads of the pool would be the launcher's, and none the coordinator's, who is forked and waits for them.
        Command::Restore(_) => {}
        // They enter namespaces, which only a process without further threads may (unshare(2)).
        Command::Calibrate(_) | Command::Demo(_) => {}
    }
    let result = match cli.command {
        Command::Inspect(inspect) => inspect.run(),
        Command::Check(check) => check.run(),
        Command::Plan(plan) => plan.run(),
        Command::Explain(explain) => explain.run(),
        Command::Tape(tape) => tape.run(),
        Command::Verify(verify) => verify.run(),
        Command::Calibrate(calibrate) => calibrate.run(),
        Command::Restore(restore) => return restore.run(),
        Command::Demo(demo) => demo.run(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            report_error(&error);
            ExitCode::from(exit::FAILED)
        }
    }
}

/// Prints an error with its causes.
#[allow(clippy::print_stderr)] // The command line is what prints.
fn report_error(error: &anyhow::Error) {
    eprintln!("regrow: {error:#}");
}

/// Exit codes, as `docs/exit-codes.md` lists them.
pub(crate) mod exit {
    /// Anything that has no code of its own.
    pub(crate) const FAILED: u8 = 1;
    /// The images, or a stored plan, are damaged.
    pub(crate) const BAD_IMAGES: u8 = 3;
    /// A pid is taken.
    pub(crate) const PID_TAKEN: u8 = 4;
    /// A file is missing or changed.
    pub(crate) const FILE_CHANGED: u8 = 5;
    /// A feature is unsupported.
    pub(crate) const UNSUPPORTED: u8 = 6;
    /// Kernel or privilege lacking.
    pub(crate) const LACKING: u8 = 7;
    /// The plan was refuted.
    pub(crate) const DEFECT: u8 = 8;
    /// A stored plan is not of these images or this host.
    pub(crate) const STALE_PLAN: u8 = 9;
}

/// The code of the gravest kind: what cannot be put right by the caller comes first.
fn code_of(problems: &[Problem]) -> u8 {
    let has = |kind| problems.iter().any(|problem| problem.kind == kind);
    [
        (ProblemKind::Defect, exit::DEFECT),
        (ProblemKind::BadImages, exit::BAD_IMAGES),
        (ProblemKind::BadPlan, exit::BAD_IMAGES),
        (ProblemKind::Unsupported, exit::UNSUPPORTED),
        (ProblemKind::Lacking, exit::LACKING),
        (ProblemKind::StalePlan, exit::STALE_PLAN),
        (ProblemKind::FileChanged, exit::FILE_CHANGED),
        (ProblemKind::PidTaken, exit::PID_TAKEN),
    ]
    .into_iter()
    .find(|(kind, _)| has(*kind))
    .map_or(0, |(_, code)| code)
}

/// What the images may need, spelled as `criu restore` spells it.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Features {
    /// Restore a tree that shares its session with the caller
    #[arg(short = 'j', long)]
    shell_job: bool,
    /// Restore file locks
    #[arg(short = 'l', long)]
    file_locks: bool,
    /// Restore established TCP connections
    #[arg(long)]
    tcp_established: bool,
    /// Restore TCP connections as closed
    #[arg(long)]
    tcp_close: bool,
    /// Reconnect to unix sockets outside the tree
    #[arg(short = 'x', long, num_args = 0..=1, require_equals = true, default_missing_value = "")]
    ext_unix_sk: Option<String>,
    /// Restore files by their link remaps
    #[arg(long)]
    link_remap: bool,
    /// Change the root file system of the tree
    #[arg(short = 'r', long, value_name = "PATH")]
    root: Option<PathBuf>,
    /// A resource outside the tree
    #[arg(long, value_name = "RES")]
    external: Vec<String>,
    /// Accepted: a cgroup of the tree becomes another one
    #[arg(long, value_name = "[CONTROLLER:]PATH")]
    cgroup_root: Vec<String>,
    /// Accepted: where cgroup controllers are mounted
    #[arg(long, value_name = "DIR")]
    cgroup_yard: Option<String>,
    /// Accepted: only a dump needs it
    #[arg(long)]
    force_irmap: bool,
    /// Accepted: only a dump needs it
    #[arg(long)]
    skip_in_flight: bool,
    /// Accepted: only a dump needs it
    #[arg(long, value_name = "PATH")]
    irmap_scan_path: Vec<String>,
    /// Accepted: only a dump needs it
    #[arg(long, value_name = "BYTES")]
    ghost_limit: Option<String>,
    /// Accepted: only a dump needs it
    #[arg(long, value_name = "PATH")]
    freeze_cgroup: Option<String>,
    /// Accepted: only a dump needs it
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<String>,
    /// Accepted: connections are not locked, so there is nothing to unlock
    #[arg(long, value_name = "METHOD")]
    network_lock: Option<String>,
    /// Accepted: what cannot be set is a problem that `check` names
    #[arg(long)]
    weak_sysctls: bool,
    /// How to treat cgroups
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "soft", value_name = "MODE")]
    manage_cgroups: Option<String>,
    /// Which children inherit the address space of their parent, and with it pages that are alike
    #[arg(long, value_enum, default_value_t, value_name = "WHICH")]
    sharing: Sharing,
    #[command(flatten)]
    costs: costs::CostsOption,
    /// Who makes what tasks share: their lowest common ancestor, and they inherit it; or, as CRIU has it, who has the
    /// lowest pid, and the others receive it
    #[arg(long, value_enum, default_value_t = Rule::Inherit)]
    policy: Rule,
}

/// [`Policy`], as the command line spells it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Rule {
    /// Made by the lowest common ancestor, inherited by fork
    #[default]
    Inherit,
    /// Made by the lowest pid, sent to all others, in stages
    LowestPid,
}

impl Features {
    /// As the planner takes them.
    fn options(&self) -> Result<Options, CostsError> {
        Ok(Options {
            shell_job: self.shell_job,
            file_locks: self.file_locks,
            tcp_established: self.tcp_established,
            tcp_close: self.tcp_close,
            ext_unix_sk: self.ext_unix_sk.is_some(),
            link_remap: self.link_remap,
            root: self.root.clone(),
            external: self.external.clone(),
            manage_cgroups: self.manage_cgroups.clone(),
            cgroup_root: self.cgroup_root.clone(),
            sharing: self.sharing,
            restoring: false,
            policy: match self.policy {
                Rule::Inherit => Policy::Inherit,
                Rule::LowestPid => Policy::LowestPid,
            },
            costs: self.costs.load()?,
            cores: regrow::cost::cores(),
            tracing: false,
        })
    }
}

/// A directory of images, named by position or by CRIU's option.
#[derive(Debug, Clone, Args)]
pub(crate) struct Images {
    /// The image directory
    #[arg(value_name = "DIR", required_unless_present = "images_dir")]
    dir: Option<PathBuf>,
    /// The image directory, as criu spells it
    #[arg(short = 'D', long, value_name = "DIR", conflicts_with = "dir")]
    images_dir: Option<PathBuf>,
}

impl Images {
    fn dir(&self) -> PathBuf {
        self.dir.clone().or_else(|| self.images_dir.clone()).unwrap_or_else(|| PathBuf::from("."))
    }
}

/// Writes to standard output; the end of a pipe is not an error worth a message.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Says why there is no plan, and ends with the code for it.
#[allow(clippy::print_stderr)] // The command line is what prints.
fn refuse(error: &regrow::pipeline::PrepareError) -> anyhow::Result<ExitCode> {
    let problems = error.problems();
    for problem in &problems {
        eprintln!("regrow: {problem}");
    }
    Ok(ExitCode::from(code_of(&problems)))
}
