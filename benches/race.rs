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

#[allow(dead_code, reason = "each race needs a part of it")]
mod arena;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};

use arena::{Common, Criu, Times, answer, build_programs, ground, in_namespaces, make, turns};

/// Race regrow against CRIU
#[derive(Debug, Parser)]
struct Race {
    #[command(flatten)]
    common: Common,
    /// Only these trees
    #[arg(value_enum)]
    trees: Vec<Shape>,
}

fn main() -> Result<()> {
    let race = Race::parse();
    race.common.run("race", || race.run())
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

impl Race {
    fn run(&self) -> Result<()> {
        let regrow = PathBuf::from(env!("CARGO_BIN_EXE_regrow"));
        let profile = regrow.parent().context("a binary is in a directory")?.to_owned();
        let criu = Criu::find(&profile)?;
        build_programs(&profile, &["bench_wide", "bench_trees", "shared_fds"])?;
        println!(
            "{}, {} rounds; milliseconds: median (least–most)\n",
            ground(&criu.restores)?,
            self.common.rounds
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
    fn race(&self, tree: Shape, profile: &Path, criu: &Criu, regrow: &Path) -> Result<String> {
        let directory =
            tempfile::Builder::new().prefix("regrow-race-").tempdir().context("a directory for the race")?;
        let (program, children, shape, label) = tree.program();
        let program = profile.join(program);
        let count = self.common.scaled(children);
        let images = make(directory.path(), "images")?;
        let state = make(directory.path(), "state")?;
        let build = |state: &Path, dump: bool| {
            let mut command = in_namespaces()?;
            command.arg("build").arg("--program").arg(&program).arg("--count").arg(count.to_string());
            if let Some(shape) = shape {
                command.arg("--with").arg(shape);
            }
            command.arg("--directory").arg(state);
            if dump {
                command.arg("--criu").arg(&criu.dumps).arg("--images").arg(&images);
            }
            answer(&mut command)
        };
        let dumped = build(&state, true)?.tasks;

        let mut own = Times::default();
        for round in 0..self.common.rounds {
            own.0.push(build(&make(directory.path(), &format!("own{round}"))?, false)?.time);
        }
        let mut times: [Times; WAYS.len()] = Default::default();
        for round in 0..=self.common.rounds {
            for who in turns(WAYS.len(), round) {
                let Way { is_criu, by_plan, by_lowest_pid } = WAYS[who];
                let restorer = if is_criu { &criu.restores } else { regrow };
                let work = make(directory.path(), &format!("restore{round}.{who}"))?;
                let mut command = in_namespaces()?;
                command.arg("restore").arg("--restorer").arg(restorer);
                if by_plan {
                    command.arg("--by-plan");
                }
                if by_lowest_pid {
                    command.args(["--with=--policy", "--with=lowest-pid"]);
                }
                command.arg("--images").arg(&images).arg("--directory").arg(&work);
                let restored = answer(&mut command)?;
                let tasks = restored.tasks;
                ensure!(tasks == dumped, "{}: {tasks} tasks of {dumped}", restorer.display());
                if round > 0 {
                    times[who].0.push(restored.time);
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
