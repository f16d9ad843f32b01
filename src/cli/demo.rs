//! `regrow demo`: makes up a forest, restores it in namespaces of its own, and looks whether it is right.
//!
//! Three processes: this one makes the namespaces and waits; its child is their init, writes the images,
//! becomes the launcher of the restore, and looks at the tree when it lives; the coordinator is the init's child, as
//! the launcher's in `regrow restore`. When the init ends, the kernel ends everything in the namespaces.

mod inside;
pub(super) mod namespaces;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use regrow::host;
use regrow::image;
use regrow::synth::Forest;
use regrow::synth::model::{Ground, synthesise};
use regrow::synth::random::Shape;
use regrow::synth::verify::{self, Verified};

use super::{exit, print};

/// How long tasks may take for their checks.
const CHECKS: Duration = Duration::from_secs(60);

/// Make up a tree, restore it in namespaces of its own, and verify it
#[derive(Debug, Clone, Args)]
pub(crate) struct Demo {
    /// How many tasks
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    tasks: u32,
    /// How many pipes, socket pairs, files and eventfds they share
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(..=2_000))]
    shared_fds: u32,
    /// How many segments of memory they share
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(..=2_000))]
    shared_maps: u32,
    /// Share no socket pairs, whose buffers only root may size; implied without root
    #[arg(long)]
    without_pairs: bool,
    /// How far below the root a task may be
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    depth: u32,
    /// Another number makes another tree
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The pid of the root; the others follow. If not given, beyond what a tree built by fork takes before
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(2..=4_000_000))]
    first_pid: Option<u32>,
    /// Only write: DIR/images and DIR/files, for regrow or CRIU to restore
    #[arg(long, value_name = "DIR", conflicts_with = "verify")]
    write: Option<PathBuf>,
    /// Only verify: the tree that was written to DIR, by the same options, lives here
    #[arg(long, value_name = "DIR")]
    verify: Option<PathBuf>,
}

impl Demo {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        if let Some(dir) = &self.write {
            let dir = std::path::absolute(dir)?;
            std::fs::create_dir_all(&dir)?;
            let (forest, images) = self.write_into(&dir)?;
            print(&format!("{}written to {}\n", describe(&forest), images.display()))?;
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(dir) = &self.verify {
            let forest = self.shape(&std::path::absolute(dir)?).forest();
            // A task that has said that all is right may have been dumped since then.
            verify::again(&forest).map_err(anyhow::Error::msg)?;
            return match verify::verify(&forest, CHECKS) {
                Ok(verified) => {
                    print(&in_words(&verified))?;
                    Ok(ExitCode::SUCCESS)
                }
                Err(faults) => Ok(complain(&faults)),
            };
        }
        namespaces::run(self)
    }

    fn shape(&self, dir: &Path) -> Shape {
        Shape {
            tasks: self.tasks as usize,
            depth: self.depth as usize,
            shared_fds: self.shared_fds as usize,
            shared_maps: self.shared_maps as usize,
            with_pairs: !self.without_pairs,
            first_pid: self.first_pid.unwrap_or(1000 + 2 * self.tasks),
            directory: dir.join("files"),
            seed: self.seed,
        }
    }

    /// Writes files and images of the forest into a directory; gives the forest and where the images are.
    fn write_into(&self, dir: &Path) -> anyhow::Result<(Forest, PathBuf)> {
        let shape = self.shape(dir);
        let forest = shape.forest();
        let images = dir.join("images");
        for made in [&shape.directory, &images] {
            std::fs::create_dir(made).with_context(|| made.display().to_string())?;
        }
        for (path, bytes) in shape.files(&forest) {
            std::fs::write(&path, bytes).with_context(|| path.display().to_string())?;
        }
        let executable = std::env::current_exe()?;
        let executable = executable.to_str().context("the path of this program is no text")?;
        let ground = Ground { own: &host::gather_own(), executable };
        let synthetic = synthesise(&forest, &ground).map_err(|faults| anyhow::anyhow!(faults.join("\n")))?;
        image::write_model(&synthetic.model, &synthetic.contents, &images)?;
        Ok((forest, images))
    }
}

/// The forest in numbers.
fn describe(forest: &Forest) -> String {
    let dead = forest.tasks.iter().filter(|task| task.dead.is_some()).count();
    let sessions: BTreeSet<u32> = forest.tasks.iter().map(|task| task.sid).collect();
    let groups: BTreeSet<u32> = forest.tasks.iter().map(|task| task.pgid).collect();
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for kind in &forest.resources {
        *kinds.entry(kind.name()).or_default() += 1;
    }
    let descriptors: usize = forest.tasks.iter().map(|task| task.table.len()).sum();
    let views: usize = forest.tasks.iter().map(|task| task.views.len()).sum();
    let mut text = format!(
        "made up     {} tasks, {dead} of them zombies; {} sessions, {} process groups\n",
        forest.tasks.len(),
        sessions.len(),
        groups.len()
    );
    let list: Vec<String> = kinds.iter().map(|(name, count)| count_of(*count, name)).collect();
    let list = if list.is_empty() { "nothing".to_owned() } else { list.join(", ") };
    let _ = writeln!(text, "            shared: {list}, through {descriptors} descriptors");
    let segments = count_of(forest.segments.len(), "segment");
    let _ = writeln!(text, "            shared: {segments} of memory, through {views} mappings");
    text
}

fn count_of(count: usize, name: &str) -> String {
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

fn in_words(verified: &Verified) -> String {
    format!(
        "verified    {} tasks found themselves right in {} checks; from outside:\n            \
         {} descriptors, {} mappings, {} zombies\n",
        verified.tasks, verified.checks, verified.descriptors, verified.mappings, verified.zombies
    )
}

/// Says what is not as it should be.
#[allow(clippy::print_stderr)] // The command line is what prints.
fn complain(faults: &[String]) -> ExitCode {
    for fault in faults {
        eprintln!("regrow: {fault}");
    }
    ExitCode::from(exit::DEFECT)
}
