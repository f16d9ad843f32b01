//! The race: `regrow restore -d` against `criu restore -d` over the same image directories.
//!
//! ```text
//! cargo bench --bench race -- [--rounds N] [--scale N] [TREE …]
//! ```
//!
//! | TREE | what |
//! |---|---|
//! | `nothing` | a root and children that share nothing but what fork gave them |
//! | `inherited` | 150 descriptors that all have from the root |
//! | `prefork` | a server with a private socket pair and pipe for each worker, and an epoll in each |
//! | `chain` | a chain 60 deep, where each level opens 10 pipes and drops half of what its parent had |
//! | `mappings` | 32 shared anonymous mappings of all |
//! | `mixed` | 60 descriptors, of which each of 250 tasks has another selection at other numbers |
//!
//! A tree has 1000 tasks unless `--scale` says otherwise (`chain`: 60, `mixed`: 251).
//!
//! In fresh pid and mount namespaces a program of `tests/programs` builds a tree and CRIU dumps it.
//! Then both restore it in turns, each time in fresh namespaces of the same kind, whose end kills
//! all that was restored. A first restore by each is not counted: it warms the page cache and shows
//! that as many tasks are there as were dumped. What is timed is the command, from its start to its
//! end: reading, planning and certifying included; of a restore by a stored plan, which was made before, only
//! the certifying. `lowest-pid` is the same restorer with CRIU's rule of who makes what (`--policy lowest-pid`): what is
//! between it and the columns before is what the policy gains, the rest of the way to CRIU is the tapes'. Needs root and a CRIU (`scripts/provide-criu`, or
//! `REGROW_CRIU`).
//!
//! It is no test: nothing depends on the outcome, and `cargo test --benches` only says so.
#![allow(clippy::print_stdout, reason = "the table is the result")]

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand, ValueEnum};

/// The pid before that of a tree's root: far from what the restorers get for themselves.
const PID_BEFORE_ROOT: &str = "999";
/// Nothing takes longer than this, also on a slow machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Race regrow against CRIU
#[derive(Debug, Parser)]
struct Race {
    /// How often each restores each tree
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Trees of this many per cent of their usual size
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    scale: u32,
    /// Only these trees
    #[arg(value_enum)]
    trees: Vec<Shape>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    inside: Option<Inside>,
}

/// What this program does as the first process of fresh namespaces. The answer is two numbers on
/// standard output: nanoseconds, and tasks.
#[derive(Debug, Subcommand)]
#[command(hide = true)]
enum Inside {
    /// Start a program, wait until it is ready, dump it if there is where to
    #[command(hide = true)]
    Build {
        #[arg(long)]
        program: PathBuf,
        #[arg(long)]
        count: u32,
        #[arg(long)]
        shape: Option<String>,
        #[arg(long)]
        directory: PathBuf,
        #[arg(long, requires = "images")]
        criu: Option<PathBuf>,
        #[arg(long)]
        images: Option<PathBuf>,
    },
    /// Restore
    #[command(hide = true)]
    Restore {
        #[arg(long)]
        restorer: PathBuf,
        /// By a plan that is stored before the time runs
        #[arg(long)]
        by_plan: bool,
        /// By another policy
        #[arg(long)]
        policy: Option<String>,
        #[arg(long)]
        images: PathBuf,
        #[arg(long)]
        directory: PathBuf,
    },
}

fn main() -> Result<()> {
    let race = Race::parse();
    match &race.inside {
        Some(inside) => inside.run(),
        None if race.bench => race.run(),
        None => {
            println!("the race is run by `cargo bench --bench race`");
            Ok(())
        }
    }
}

/// A tree to be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Shape {
    Nothing,
    Inherited,
    Prefork,
    Chain,
    Mappings,
    Mixed,
}

impl Shape {
    /// The program, how many tasks it has beside the root (of a chain: in all) unless they are scaled, its shape, and
    /// what the table says.
    fn program(self) -> (&'static str, u32, Option<&'static str>, &'static str) {
        match self {
            Shape::Nothing => ("bench_wide", 999, None, "nothing shared"),
            Shape::Inherited => ("bench_trees", 999, Some("inherited"), "150 descriptors, inherited"),
            Shape::Prefork => ("bench_trees", 999, Some("prefork"), "prefork server"),
            Shape::Chain => ("bench_trees", 60, Some("chain"), "chain"),
            Shape::Mappings => ("bench_trees", 999, Some("mappings"), "32 shared mappings"),
            Shape::Mixed => ("shared_fds", 200, None, "60 descriptors, mixed"),
        }
    }
}

/// How a tree is restored.
struct Way {
    is_criu: bool,
    by_plan: bool,
    by_lowest_pid: bool,
}

/// All ways, in the order of the table's columns.
const WAYS: [Way; 5] = [
    Way { is_criu: true, by_plan: false, by_lowest_pid: false },
    Way { is_criu: false, by_plan: false, by_lowest_pid: false },
    Way { is_criu: false, by_plan: true, by_lowest_pid: false },
    Way { is_criu: false, by_plan: false, by_lowest_pid: true },
    Way { is_criu: false, by_plan: true, by_lowest_pid: true },
];

/// Times of one kind.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn median(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => Duration::ZERO,
            count if count % 2 == 1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2,
        }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let least = self.0.iter().min().copied().unwrap_or_default();
        let most = self.0.iter().max().copied().unwrap_or_default();
        write!(f, "{:.1} ({:.1}–{:.1})", ms(self.median()), ms(least), ms(most))
    }
}

impl Race {
    fn run(&self) -> Result<()> {
        let regrow = PathBuf::from(env!("CARGO_BIN_EXE_regrow"));
        let profile = regrow.parent().context("a binary is in a directory")?.to_owned();
        let criu = find_criu(&profile)?;
        build_programs(&profile)?;
        let version = Command::new(&criu).arg("--version").output().context("criu --version")?;
        let version = String::from_utf8_lossy(&version.stdout)
            .lines()
            .next()
            .unwrap_or_default()
            .replace("Version: ", "");
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        println!(
            "CRIU {version}, Linux {}, {cpus} CPUs, {} rounds; milliseconds: median (least–most)\n",
            kernel.trim(),
            self.rounds
        );
        println!(
            "| tree | tasks | criu restore -d | regrow restore -d | times faster | regrow restore -d --plan | times faster | lowest-pid | lowest-pid --plan | the program itself |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|");
        let trees: &[Shape] = if self.trees.is_empty() { Shape::value_variants() } else { &self.trees };
        for tree in trees {
            let row = self.race(*tree, &profile, &criu, &regrow).with_context(|| format!("{tree:?}"))?;
            println!("{row}");
        }
        Ok(())
    }

    /// One row of the table.
    fn race(&self, tree: Shape, profile: &Path, criu: &Path, regrow: &Path) -> Result<String> {
        let directory =
            tempfile::Builder::new().prefix("regrow-race-").tempdir().context("a directory for the race")?;
        let (program, children, shape, label) = tree.program();
        let program = profile.join(program);
        let count = (children * self.scale / 100).max(1);
        let images = make(directory.path(), "images")?;
        let state = make(directory.path(), "state")?;
        let build = |state: &Path, dump: bool| {
            let mut command = in_namespaces()?;
            command.arg("build").arg("--program").arg(&program).arg("--count").arg(count.to_string());
            if let Some(shape) = shape {
                command.arg("--shape").arg(shape);
            }
            command.arg("--directory").arg(state);
            if dump {
                command.arg("--criu").arg(criu).arg("--images").arg(&images);
            }
            answer(&mut command)
        };
        let (_, dumped) = build(&state, true)?;

        let mut own = Times::default();
        for round in 0..self.rounds {
            own.0.push(build(&make(directory.path(), &format!("own{round}"))?, false)?.0);
        }
        let mut times: [Times; WAYS.len()] = Default::default();
        for round in 0..=self.rounds {
            let mut turns: Vec<usize> = (0..WAYS.len()).collect();
            if round % 2 == 1 {
                turns.reverse();
            }
            for who in turns {
                let Way { is_criu, by_plan, by_lowest_pid } = WAYS[who];
                let restorer = if is_criu { criu } else { regrow };
                let work = make(directory.path(), &format!("restore{round}.{who}"))?;
                let mut command = in_namespaces()?;
                command.arg("restore").arg("--restorer").arg(restorer);
                if by_plan {
                    command.arg("--by-plan");
                }
                if by_lowest_pid {
                    command.args(["--policy", "lowest-pid"]);
                }
                command.arg("--images").arg(&images).arg("--directory").arg(&work);
                let (time, restored) = answer(&mut command)?;
                ensure!(restored == dumped, "{}: {restored} tasks of {dumped}", restorer.display());
                if round > 0 {
                    times[who].0.push(time);
                }
            }
        }
        let ratio = |a: usize, b: usize| times[a].median().as_secs_f64() / times[b].median().as_secs_f64();
        Ok(format!(
            "| {label} | {dumped} | {} | {} | {:.1} | {} | {:.1} | {} | {} | {own} |",
            times[0],
            times[1],
            ratio(0, 1),
            times[2],
            ratio(0, 2),
            times[3],
            times[4]
        ))
    }
}

fn make(directory: &Path, name: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    fs::create_dir(&path).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// This program as init of fresh namespaces. They end with it, and it ends with `unshare`.
fn in_namespaces() -> Result<Command> {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount", "--mount-proc"]);
    command.arg(std::env::current_exe().context("the path of the race")?);
    Ok(command)
}

/// Runs it; gives its two numbers.
fn answer(command: &mut Command) -> Result<(Duration, usize)> {
    let output = command
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("unshare")?;
    ensure!(output.status.success(), "{}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let mut numbers = text.split_whitespace();
    let nanoseconds = numbers.next().and_then(|word| word.parse().ok()).context("no time")?;
    let tasks = numbers.next().and_then(|word| word.parse().ok()).context("no number of tasks")?;
    Ok((Duration::from_nanos(nanoseconds), tasks))
}

impl Inside {
    fn run(&self) -> Result<()> {
        // What whoever started the race left open is of another mount namespace, where CRIU cannot follow.
        // SAFETY: it takes no pointers, and a flag that only exec reads breaks no owner of a descriptor.
        let result =
            unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
        ensure!(result == 0, "close_range: {}", std::io::Error::last_os_error());
        let (time, tasks) = match self {
            Inside::Build { program, count, shape, directory, criu, images } => {
                let dump = criu.as_deref().zip(images.as_deref());
                build(program, *count, shape.as_deref(), directory, dump)?
            }
            Inside::Restore { restorer, by_plan, policy, images, directory } => {
                restore(restorer, *by_plan, policy.as_deref(), images, directory)?
            }
        };
        println!("{} {tasks}", time.as_nanos());
        Ok(())
    }
}

/// From the start of a program to its tree being ready. Dumps the tree then, if asked.
fn build(
    program: &Path,
    count: u32,
    shape: Option<&str>,
    directory: &Path,
    dump: Option<(&Path, &Path)>,
) -> Result<(Duration, usize)> {
    fs::write("/proc/sys/kernel/ns_last_pid", PID_BEFORE_ROOT).context("ns_last_pid")?;
    let log = File::create(directory.join("program.log"))?;
    let start = Instant::now();
    // Not a leader of a group here, so setsid(1) does not fork: its pid is the program's.
    let mut root = Command::new("setsid")
        .arg(program)
        .arg(directory)
        .arg(count.to_string())
        .args(shape)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("setsid")?;
    let ready = directory.join("ready");
    while !ready.exists() {
        if let Some(status) = root.try_wait()? {
            bail!("{}: {status}", program.display());
        }
        ensure!(start.elapsed() < PATIENCE, "{} is not ready", program.display());
        std::thread::sleep(Duration::from_micros(500));
    }
    let time = start.elapsed();
    let tasks = tasks()?;
    if let Some((criu, images)) = dump {
        let out = File::create(directory.join("dump.out"))?;
        let status = Command::new(criu)
            .args(["dump", "-t", &root.id().to_string(), "-o", "dump.log", "-D"])
            .arg(images)
            .stdout(out.try_clone()?)
            .stderr(out)
            .status()
            .context("criu dump")?;
        ensure!(status.success(), "criu dump: {status}\n{}", complaint(&images.join("dump.log")));
    }
    Ok((time, tasks))
}

/// The time that a restore takes.
fn restore(
    restorer: &Path,
    by_plan: bool,
    policy: Option<&str>,
    images: &Path,
    directory: &Path,
) -> Result<(Duration, usize)> {
    let policy = policy.map(|policy| ["--policy", policy]);
    let out = File::create(directory.join("out"))?;
    let mut command = Command::new(restorer);
    let plan = directory.join("tree.plan");
    if by_plan {
        let status = Command::new(restorer)
            .args(["plan", "-D"])
            .arg(images)
            .arg("--out")
            .arg(&plan)
            .args(policy.iter().flatten())
            .stdout(Stdio::null())
            .status();
        ensure!(status.context("regrow plan")?.success(), "regrow plan --out");
    }
    command.args(["restore", "-d", "-o", "restore.log", "-D"]).arg(images).arg("-W").arg(directory);
    if by_plan {
        command.arg("--plan").arg(plan);
    } else {
        command.args(policy.iter().flatten());
    }
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let start = Instant::now();
    let status = command.status().with_context(|| restorer.display().to_string())?;
    let time = start.elapsed();
    if !status.success() {
        let (log, out) = (complaint(&directory.join("restore.log")), complaint(&directory.join("out")));
        bail!("{} restore: {status}\n{log}\n{out}", restorer.display());
    }
    Ok((time, tasks()?))
}

/// The tasks in this namespace beside this one.
fn tasks() -> Result<usize> {
    let is_task = |name: &str| name.parse::<u32>().is_ok_and(|pid| pid != std::process::id());
    Ok(fs::read_dir("/proc")?
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_task))
        .count())
}

/// The end of a log.
fn complaint(log: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

/// As the integration tests do: the oldest, whose images most users have.
fn find_criu(profile: &Path) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("REGROW_CRIU") {
        return Ok(PathBuf::from(path));
    }
    let targets = [
        profile.parent().unwrap_or(profile).to_owned(),
        Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
    ];
    let mut found: Vec<PathBuf> = targets
        .iter()
        .filter_map(|target| fs::read_dir(target.join("criu")).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("criu")))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.into_iter().next().context("no CRIU to race against: run scripts/provide-criu or set REGROW_CRIU")
}

/// Cargo builds a package's own binaries for its benches, but not those of another member.
fn build_programs(profile: &Path) -> Result<()> {
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "regrow-test-programs",
            "--bin",
            "bench_wide",
            "--bin",
            "bench_trees",
            "--bin",
            "shared_fds",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_TARGET_DIR", profile.parent().unwrap_or(profile))
        .status()
        .context("cargo")?;
    ensure!(status.success(), "building the programs: {status}");
    Ok(())
}
