//! What the races share: fresh namespaces in which a tree is built, dumped and restored, and the clock.
//!
//! A race runs itself as the first process of namespaces (`unshare`), once for each thing that is timed, and reads
//! its [`Answer`] from its standard output.

#[path = "../../tests/support/criu.rs"]
mod criu;

use std::fmt;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use memmap2::{Advice, MmapMut};

/// The pid before that of a tree's root: far from what the restorers get for themselves.
const PID_BEFORE_ROOT: &str = "999";
/// Nothing takes longer than this, also on a slow machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// What every race is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    /// How often each restores each tree
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Trees of this many per cent of their usual number of tasks, or size
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    scale: u32,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    inside: Option<Inside>,
}

impl Common {
    /// Runs the race, or does what is to be done inside of namespaces. `name`: that of the bench.
    pub(crate) fn run(&self, name: &str, race: impl FnOnce() -> Result<()>) -> Result<()> {
        match &self.inside {
            Some(inside) => inside.run(),
            None if self.bench => race(),
            None => {
                println!("this race is run by `cargo bench --bench {name}`");
                Ok(())
            }
        }
    }

    /// A number of tasks, or a size, as it was asked for.
    pub(crate) fn scaled(&self, count: u32) -> u32 {
        (count * self.scale / 100).max(1)
    }
}

/// In which order so many are to take their turns in a round. In as many rounds as there are (in twice as many, if that is
/// odd) each comes right after each other equally often: what one leaves behind, as memory that is free in large pieces or in small ones,
/// is there for the next.
///
/// E. J. Williams, *Experimental designs balanced for the estimation of residual effects of treatments* (1949).
pub(crate) fn turns(count: usize, round: u32) -> Vec<usize> {
    let round = round as usize;
    // From the ends to the middle: 0, 1, count - 1, 2, count - 2 …
    let first = (0..count).map(|at| if at % 2 == 1 { at.div_ceil(2) } else { count - at / 2 });
    let mut turns: Vec<usize> = first.map(|who| (who + round) % count).collect();
    if count % 2 == 1 && round / count % 2 == 1 {
        turns.reverse();
    }
    turns
}

/// What this program does as the first process of fresh namespaces.
#[derive(Debug, Subcommand)]
#[command(hide = true)]
pub(crate) enum Inside {
    /// Start a program, wait until it is ready, dump it if there is where to
    #[command(hide = true)]
    Build(Build),
    /// Restore
    #[command(hide = true)]
    Restore(Restore),
}

/// A tree to be built.
#[derive(Debug, clap::Args)]
pub(crate) struct Build {
    #[arg(long)]
    program: PathBuf,
    /// Its first argument is the directory, where it makes `ready`, and its second this
    #[arg(long)]
    count: u32,
    /// Further arguments
    #[arg(long, allow_hyphen_values = true)]
    with: Vec<String>,
    /// The arguments are those of `--with` alone
    #[arg(long)]
    bare: bool,
    /// It makes no `ready`, but is so when it has COUNT tasks
    #[arg(long)]
    by_count: bool,
    /// To be seen at /usr/share
    #[arg(long)]
    share: Option<PathBuf>,
    #[arg(long)]
    directory: PathBuf,
    #[arg(long, requires = "images")]
    criu: Option<PathBuf>,
    #[arg(long)]
    images: Option<PathBuf>,
}

/// Images to be restored.
#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    #[arg(long)]
    restorer: PathBuf,
    /// By a plan that is stored before the time runs
    #[arg(long)]
    by_plan: bool,
    /// Further arguments of whatever plans
    #[arg(long, allow_hyphen_values = true)]
    with: Vec<String>,
    /// Drop the images from the page cache before the time runs
    #[arg(long)]
    cold: bool,
    /// Touch so many KiB in huge pages before the time runs, and give them back
    #[arg(long)]
    at_hand: Option<u64>,
    /// Watch how much memory the restorer itself takes: it is slower then
    #[arg(long)]
    watch: bool,
    /// To be seen at /usr/share
    #[arg(long)]
    share: Option<PathBuf>,
    #[arg(long)]
    images: PathBuf,
    #[arg(long)]
    directory: PathBuf,
}

/// What comes back from the namespaces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    /// How long it took.
    pub(crate) time: Duration,
    /// How many tasks there were.
    pub(crate) tasks: usize,
    /// The memory that they had, each shared page counted once, in KiB.
    pub(crate) pss_kib: u64,
    /// The most memory that the restorer itself had, but for what is of files, in KiB; 0: nobody watched.
    pub(crate) own_kib: u64,
}

/// Times of one kind.
#[derive(Debug, Default)]
pub(crate) struct Times(pub(crate) Vec<Duration>);

impl Times {
    /// The middle one.
    pub(crate) fn median(&self) -> Duration {
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

/// A directory in another.
pub(crate) fn make(directory: &Path, name: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    fs::create_dir(&path).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// This program as init of fresh namespaces. They end with it, and it ends with `unshare`.
pub(crate) fn in_namespaces() -> Result<Command> {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount", "--mount-proc"]);
    command.arg(std::env::current_exe().context("the path of the race")?);
    Ok(command)
}

/// Runs it; gives what it says.
pub(crate) fn answer(command: &mut Command) -> Result<Answer> {
    let output = command
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("unshare")?;
    ensure!(output.status.success(), "{}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [nanoseconds, tasks, pss_kib, own_kib] = numbers[..] else { bail!("not four numbers: {text}") };
    let time = Duration::from_nanos(nanoseconds);
    Ok(Answer { time, tasks: tasks as usize, pss_kib, own_kib })
}

impl Inside {
    /// Does it, and says what came of it.
    pub(crate) fn run(&self) -> Result<()> {
        // What whoever started the race left open is of another mount namespace, where CRIU cannot follow.
        // SAFETY: it takes no pointers, and a flag that only exec reads breaks no owner of a descriptor.
        let result =
            unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
        ensure!(result == 0, "close_range: {}", std::io::Error::last_os_error());
        let share = match self {
            Inside::Build(build) => &build.share,
            Inside::Restore(restore) => &restore.share,
        };
        if let Some(share) = share {
            let status = Command::new("mount").arg("--bind").arg(share).arg("/usr/share").status();
            ensure!(status.context("mount")?.success(), "mount --bind");
        }
        let Answer { time, tasks, pss_kib, own_kib } = match self {
            Inside::Build(build) => build.run()?,
            Inside::Restore(restore) => restore.run()?,
        };
        println!("{} {tasks} {pss_kib} {own_kib}", time.as_nanos());
        Ok(())
    }
}

impl Build {
    /// From the start of a program to its tree being ready. Dumps the tree then, if asked.
    fn run(&self) -> Result<Answer> {
        let directory = &self.directory;
        fs::write("/proc/sys/kernel/ns_last_pid", PID_BEFORE_ROOT).context("ns_last_pid")?;
        let log = File::create(directory.join("program.log"))?;
        // Not a leader of a group here, so setsid(1) does not fork: its pid is the program's.
        let mut command = Command::new("setsid");
        command.arg(&self.program);
        if !self.bare {
            command.arg(directory).arg(self.count.to_string());
        }
        command.args(&self.with).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let start = Instant::now();
        let mut root = command.spawn().context("setsid")?;
        let ready = directory.join("ready");
        let is_ready = || match self.by_count {
            true => tasks().is_ok_and(|tasks| tasks == self.count as usize),
            false => ready.exists(),
        };
        while !is_ready() {
            if let Some(status) = root.try_wait()? {
                bail!("{}: {status}", self.program.display());
            }
            ensure!(start.elapsed() < PATIENCE, "{} is not ready", self.program.display());
            std::thread::sleep(Duration::from_micros(500));
        }
        let time = start.elapsed();
        if self.by_count {
            // All are there, but the last ones have only just begun.
            std::thread::sleep(Duration::from_millis(500));
        }
        let (tasks, pss_kib) = (tasks()?, pss_kib()?);
        if let Some((criu, images)) = self.criu.as_deref().zip(self.images.as_deref()) {
            let out = File::create(directory.join("dump.out"))?;
            let status = Command::new(criu)
                .args(["dump", "-t", &root.id().to_string(), "-o", "dump.log", "-D"])
                .arg(images)
                .stdout(out.try_clone()?)
                .stderr(out)
                .status()
                .context("criu dump")?;
            ensure!(status.success(), "criu dump: {status}\n{}", complaint(&images.join("dump.log")));
            // So that no restore shares the machine with the writing of what was dumped.
            for entry in fs::read_dir(images)? {
                File::open(entry?.path())?.sync_data()?;
            }
        }
        Ok(Answer { time, tasks, pss_kib, own_kib: 0 })
    }
}

impl Restore {
    /// The time that a restore takes.
    fn run(&self) -> Result<Answer> {
        let (directory, images) = (&self.directory, &self.images);
        let out = File::create(directory.join("out"))?;
        let mut command = Command::new(&self.restorer);
        let plan = directory.join("tree.plan");
        if self.by_plan {
            let status = Command::new(&self.restorer)
                .args(["plan", "-D"])
                .arg(images)
                .arg("--out")
                .arg(&plan)
                .args(&self.with)
                .stdout(Stdio::null())
                .status();
            ensure!(status.context("regrow plan")?.success(), "regrow plan --out");
        }
        command.args(["restore", "-d", "-o", "restore.log", "-D"]).arg(images).arg("-W").arg(directory);
        if self.by_plan {
            command.arg("--plan").arg(plan);
        } else {
            command.args(&self.with);
        }
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        if self.cold {
            drop_from_cache(images)?;
        }
        if let Some(kib) = self.at_hand {
            touch(kib)?;
        }
        let start = Instant::now();
        let mut restorer = command.spawn().with_context(|| self.restorer.display().to_string())?;
        let own_kib = if self.watch { watch(&mut restorer)? } else { 0 };
        let status = restorer.wait()?;
        let time = start.elapsed();
        if !status.success() {
            let (log, out) = (complaint(&directory.join("restore.log")), complaint(&directory.join("out")));
            bail!("{} restore: {status}\n{log}\n{out}", self.restorer.display());
        }
        Ok(Answer { time, tasks: tasks()?, pss_kib: pss_kib()?, own_kib })
    }
}

/// Touches so many KiB of memory, by huge pages where the kernel has them, and gives them back.
fn touch(kib: u64) -> Result<()> {
    const PAGE: usize = 4096;
    let mut map = MmapMut::map_anon(usize::try_from(kib * 1024)?).context("memory to be touched")?;
    // Without huge pages these are small.
    let _ = map.advise(Advice::HugePage);
    map.iter_mut().step_by(PAGE).for_each(|byte| *std::hint::black_box(byte) = 1);
    Ok(())
}

/// The most anonymous memory that launcher and coordinator have together while a restore runs, in KiB.
fn watch(launcher: &mut Child) -> Result<u64> {
    let pid = launcher.id();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut coordinator = None;
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                // The coordinator is the launcher's first child; the tree comes later.
                coordinator = coordinator.or_else(|| {
                    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
                    children.split_whitespace().next()?.parse::<u32>().ok()
                });
                let now: u64 = [Some(pid), coordinator].into_iter().flatten().map(anonymous_kib).sum();
                most = most.max(now);
                std::thread::sleep(Duration::from_micros(300));
            }
            most
        });
        let status = launcher.wait();
        done.store(true, Ordering::Relaxed);
        let most = watcher.join().ok().context("a thread panicked")?;
        status.map(|_| most).context("waiting for the restorer")
    })
}

/// RssAnon of a process (proc_pid_status(5)), in KiB.
fn anonymous_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    field(&status, "RssAnon:")
}

fn field(text: &str, name: &str) -> u64 {
    let value =
        text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    value.unwrap_or(0)
}

/// Has all files of a directory in the page cache as reading brings them there: in larger folios than `criu dump` leaves
/// them in.
pub(crate) fn read_again(directory: &Path) -> Result<()> {
    drop_from_cache(directory)?;
    for entry in fs::read_dir(directory)? {
        std::io::copy(&mut File::open(entry?.path())?, &mut std::io::sink())?;
    }
    Ok(())
}

/// Drops all files of a directory from the page cache.
fn drop_from_cache(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let file = File::open(entry?.path())?;
        file.sync_data()?;
        // SAFETY: it takes no pointers.
        let result = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        ensure!(result == 0, "posix_fadvise: {}", std::io::Error::from_raw_os_error(result));
    }
    Ok(())
}

/// The pids in this namespace beside this one's.
fn pids() -> Result<Vec<u32>> {
    let own = std::process::id();
    let pid = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok().filter(|pid| *pid != own);
    Ok(fs::read_dir("/proc")?.flatten().filter_map(pid).collect())
}

/// How many tasks there are.
fn tasks() -> Result<usize> {
    Ok(pids()?.len())
}

/// What memory they have: the sum of Pss (proc_pid_smaps(5)), in KiB.
fn pss_kib() -> Result<u64> {
    let of =
        |pid: u32| fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).map(|text| field(&text, "Pss:"));
    // What has no memory, a zombie, gives an error.
    Ok(pids()?.into_iter().filter_map(|pid| of(pid).ok()).sum())
}

/// The end of a log.
fn complaint(log: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

/// The versions of what is raced, and the machine.
pub(crate) fn ground(criu: &Path) -> Result<String> {
    let version = Command::new(criu).arg("--version").output().context("criu --version")?;
    let version =
        String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or_default().replace("Version: ", "");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(format!("CRIU {version}, Linux {}, {cpus} CPUs", kernel.trim()))
}

/// What is below a target directory: that of this profile, or the repository's.
pub(crate) fn below_target(profile: &Path, name: &str) -> Vec<PathBuf> {
    let targets = [
        profile.parent().unwrap_or(profile).to_owned(),
        Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
    ];
    let mut found: Vec<PathBuf> = targets
        .iter()
        .filter_map(|target| fs::read_dir(target.join(name)).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    found.sort();
    found
}

/// The CRIU that restores, and what dumps: the same, or a wrapper of it, as the integration tests have it.
pub(crate) struct Criu {
    pub(crate) restores: PathBuf,
    pub(crate) dumps: PathBuf,
}

impl Criu {
    /// As the integration tests find it.
    pub(crate) fn find(profile: &Path) -> Result<Criu> {
        let restores = criu::find(profile).map_err(anyhow::Error::msg)?;
        let dumps = criu::with_rlimit_shim(restores.clone(), profile).map_err(anyhow::Error::msg)?;
        Ok(Criu { restores, dumps })
    }
}

/// Cargo builds a package's own binaries for its benches, but not those of another member.
pub(crate) fn build_programs(profile: &Path, names: &[&str]) -> Result<()> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--quiet", "--release", "--package", "regrow-test-programs"]);
    command.args(names.iter().flat_map(|name| ["--bin", name]));
    let status = command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_TARGET_DIR", profile.parent().unwrap_or(profile))
        .status()
        .context("cargo")?;
    ensure!(status.success(), "building the programs: {status}");
    Ok(())
}
