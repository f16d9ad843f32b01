//! The race of memory: `regrow restore -d` against `criu restore -d` over images of trees with much of it.
//!
//! ```text
//! cargo bench --bench memory -- [--rounds N] [--scale PERCENT] [--cold | --reread] [--at-hand] [--only TREE]…
//! ```
//!
//! | TREE | what |
//! |---|---|
//! | `large` | one task with 2 GiB of private memory, no two pages alike |
//! | `half8` | 200 tasks, a heap of 8 MiB, half of it dirtied by each |
//! | `half1` | 1000 tasks, a heap of 1 MiB, half of it dirtied by each |
//! | `few` | 16 tasks, 256 MiB inherited, 1 % dirtied by each |
//! | `python` | a pool of 16 processes of Python, all of which have worked |
//! | `nginx` | nginx with 16 workers |
//! | `shared` | 32 shared mappings of 16 MiB over 64 tasks |
//! | `scattered` | one task with 100,000 pages, each with a gap behind it |
//! | `mappings` | one task with 30,000 mappings of a page each, read-only and writable in turns |
//! | `huge` | one task with 2 GiB of private memory for which it asked for huge pages |
//! | `sleep` | one task, `sleep`: what a restore takes however little there is |
//!
//! Images are made once for each tree, and removed when it has been raced: they take up to 4.2 GiB. As in `race.rs`
//! both restore them in turns, each time in fresh namespaces, and a first round is not counted. In that round regrow's own
//! memory is watched.
//!
//! Columns: CRIU; regrow by `--sharing keep` and `fast`; by a stored plan (`keep`); the time in which the program itself
//! built the memory; the sum of Pss of all tasks before the dump and when each had restored them; and the most
//! anonymous memory that regrow itself had at any time. With `--cold` the images are dropped from the page cache
//! before each restore; with `--reread` once, behind the dump, and are read again: so they are in the page cache as where
//! they came from another machine, or where it was started anew.
//!
//! With `--at-hand` twice the memory that the tree takes is touched in huge pages before each restore, and given back. The host of a virtual
//! machine may take away what is free in large pieces (free page reporting, after two seconds), and to get it back takes milliseconds
//! for each huge page; so without it what a restore finds depends on who was before it, and whether memory was used in large
//! pieces then. With it all restorers find memory as on a machine that has its own.
//!
//! It runs as root, and needs a CRIU (`scripts/provide-criu`, or `REGROW_CRIU`) and, for the rows with real programs,
//! these programs (`scripts/provide-programs`). What is missing is said before anything is raced; a row that fails
//! takes no other along. Where root lacks CAP_SYS_RESOURCE, CRIU dumps tasks of other users as the integration tests
//! let it, by a library that is preloaded into it (`tests/support/criu.rs`); it restores without that.
#![allow(clippy::print_stdout, reason = "the table is the result")]

mod arena;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};

use arena::{
    Common, Criu, Times, answer, below_target, build_programs, ground, in_namespaces, make, read_again, turns,
};

/// Ports of nginx: below those that the kernel gives by itself.
const PORTS: [u16; 2] = [23_456, 23_457];

/// Race regrow against CRIU over memory
#[derive(Debug, Parser)]
struct Race {
    #[command(flatten)]
    common: Common,
    /// From images that are not in the page cache
    #[arg(long)]
    cold: bool,
    /// From images that were read into the page cache, and not left there by who wrote them
    #[arg(long, conflicts_with = "cold")]
    reread: bool,
    /// In memory that the host of a virtual machine has not taken away
    #[arg(long)]
    at_hand: bool,
    /// Only these trees
    #[arg(long, value_enum)]
    only: Vec<Shape>,
    /// Where images are made; by default where temporary files are
    #[arg(long)]
    directory: Option<PathBuf>,
}

fn main() -> Result<()> {
    let race = Race::parse();
    race.common.run("memory", || race.run())
}

/// A tree to be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shape {
    Large,
    Half8,
    Half1,
    Few,
    Python,
    Nginx,
    Shared,
    Scattered,
    Mappings,
    Huge,
    Sleep,
}

impl Shape {
    fn label(self) -> &'static str {
        match self {
            Shape::Large => "one task, 2 GiB private, all different",
            Shape::Half8 => "200 tasks, 8 MiB heap, half of it dirtied by each",
            Shape::Half1 => "1000 tasks, 1 MiB heap, half of it dirtied by each",
            Shape::Few => "16 tasks, 256 MiB inherited, 1 % dirtied",
            Shape::Python => "Python pool of 16",
            Shape::Nginx => "nginx with 16 workers",
            Shape::Shared => "32 shared mappings of 16 MiB over 64 tasks",
            Shape::Scattered => "one task, 100,000 pages with a gap behind each",
            Shape::Mappings => "one task, 30,000 mappings of a page each",
            Shape::Huge => "one task, 2 GiB that has huge pages",
            Shape::Sleep => "one task, sleep",
        }
    }

    /// The count that the program gets, and its further arguments: children, unless it says otherwise.
    fn count(self) -> (u32, &'static str) {
        match self {
            Shape::Large => (2048, "large"),
            Shape::Half8 => (199, "half8"),
            Shape::Half1 => (999, "half1"),
            Shape::Few => (15, "few"),
            Shape::Python | Shape::Nginx => (16, ""),
            Shape::Shared => (63, "shared"),
            Shape::Scattered => (100_000, "scattered"),
            Shape::Mappings => (30_000, "mappings"),
            Shape::Huge => (2048, "huge"),
            Shape::Sleep => (1, ""),
        }
    }

    /// Which of `scripts/provide-programs` it needs.
    fn real_program(self) -> Option<&'static str> {
        match self {
            Shape::Python => Some("python"),
            Shape::Nginx => Some("nginx"),
            Shape::Large
            | Shape::Half8
            | Shape::Half1
            | Shape::Few
            | Shape::Shared
            | Shape::Scattered
            | Shape::Mappings
            | Shape::Huge
            | Shape::Sleep => None,
        }
    }
}

/// How a tree is restored.
struct Way {
    is_criu: bool,
    by_plan: bool,
    sharing: &'static str,
}

/// All ways, in the order of the table's columns.
const WAYS: [Way; 4] = [
    Way { is_criu: true, by_plan: false, sharing: "" },
    Way { is_criu: false, by_plan: false, sharing: "keep" },
    Way { is_criu: false, by_plan: false, sharing: "fast" },
    Way { is_criu: false, by_plan: true, sharing: "keep" },
];

/// A program that builds a tree.
struct Program {
    path: PathBuf,
    /// How many tasks it has, or what its first argument says.
    count: u32,
    with: Vec<String>,
    /// It takes no other arguments: else directory and count come first.
    is_bare: bool,
    /// It says nothing when it is ready, but is so when there are as many tasks.
    by_count: bool,
    /// What it must see at /usr/share.
    share: Option<PathBuf>,
}

impl Race {
    fn run(&self) -> Result<()> {
        let regrow = PathBuf::from(env!("CARGO_BIN_EXE_regrow"));
        let profile = regrow.parent().context("a binary is in a directory")?.to_owned();
        let criu = Criu::find(&profile)?;
        let trees: &[Shape] = if self.only.is_empty() { Shape::value_variants() } else { &self.only };
        for program in trees.iter().filter_map(|tree| tree.real_program()) {
            provided(&profile, program)?;
        }
        build_programs(&profile, &["bench_memory"])?;
        let state = match (self.cold, self.reread) {
            (true, _) => "cold page cache",
            (_, true) => "page cache as reading leaves it",
            _ => "page cache as the dump leaves it",
        };
        let memory = if self.at_hand { ", memory at hand" } else { "" };
        let rounds = self.common.rounds;
        println!(
            "{}, {state}{memory}, {rounds} rounds; milliseconds: median (least–most)\n",
            ground(&criu.restores)?
        );
        println!(
            "| tree | criu restore -d | regrow restore -d (keep) | times faster | (fast) | times faster | --plan (keep) | times faster | the program itself | PSS before, MiB | regrow: after / before | CRIU: after / before | regrow's own, MiB |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
        let mut failed = Vec::new();
        for tree in trees {
            match self.race(*tree, &profile, &criu, &regrow) {
                Ok(row) => println!("{row}"),
                Err(error) => {
                    println!("| {} | failed |", tree.label());
                    failed.push(format!("{tree:?}: {error:#}"));
                }
            }
        }
        ensure!(failed.is_empty(), "{}", failed.join("\n"));
        Ok(())
    }

    fn program(&self, tree: Shape, profile: &Path, directory: &Path) -> Result<Program> {
        let (count, shape) = tree.count();
        let script =
            |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/real").join(name);
        let scaled = self.common.scaled(count);
        Ok(match tree {
            Shape::Large
            | Shape::Half8
            | Shape::Half1
            | Shape::Few
            | Shape::Shared
            | Shape::Scattered
            | Shape::Mappings
            | Shape::Huge => Program {
                path: profile.join("bench_memory"),
                count: scaled,
                with: vec![shape.to_owned()],
                is_bare: false,
                by_count: false,
                share: None,
            },
            Shape::Python => {
                let path = provided(profile, "python")?;
                let with = vec![text(&script("bench_pool.py")), text(directory), scaled.to_string()];
                let share = Some(path.with_file_name("root/usr/share"));
                Program { path, count: scaled, with, is_bare: true, by_count: false, share }
            }
            Shape::Nginx => {
                let path = provided(profile, "nginx")?;
                let config = fs::read_to_string(script("nginx.conf")).context("nginx.conf")?;
                let config = config
                    .replace("worker_processes 4", &format!("worker_processes {scaled}"))
                    .replace("DIR", &text(directory))
                    .replace("PORT", &PORTS[0].to_string())
                    .replace("NEXT", &PORTS[1].to_string())
                    .replace("GENERATION", "0");
                fs::write(directory.join("nginx.conf"), config).context("nginx.conf")?;
                let directory = directory.display();
                let with = format!("-e {directory}/error.log -p {directory} -c {directory}/nginx.conf");
                let with = with.split(' ').map(str::to_owned).collect();
                let share = Some(path.with_file_name("root/usr/share"));
                Program { path, count: scaled + 1, with, is_bare: true, by_count: true, share }
            }
            Shape::Sleep => Program {
                path: PathBuf::from("sleep"),
                count: 1,
                with: vec!["100000".to_owned()],
                is_bare: true,
                by_count: true,
                share: None,
            },
        })
    }

    /// One row of the table.
    fn race(&self, tree: Shape, profile: &Path, criu: &Criu, regrow: &Path) -> Result<String> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("regrow-memory-");
        let directory = match &self.directory {
            Some(parent) => builder.tempdir_in(parent),
            None => builder.tempdir(),
        }
        .context("a directory for the race")?;
        // Workers of another user are to reach it.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        let images = make(directory.path(), "images")?;
        let state = make(directory.path(), "state")?;
        let share = |command: &mut Command, program: &Program| {
            command.args(program.share.iter().flat_map(|path| [Path::new("--share"), path]));
        };
        let build = |state: &Path, dump: bool| {
            let program = self.program(tree, profile, state)?;
            let mut command = in_namespaces()?;
            command.arg("build").arg("--program").arg(&program.path).arg("--directory").arg(state);
            command.arg("--count").arg(program.count.to_string());
            command.args(program.with.iter().map(|argument| format!("--with={argument}")));
            if program.is_bare {
                command.arg("--bare");
            }
            if program.by_count {
                command.arg("--by-count");
            }
            share(&mut command, &program);
            if dump {
                command.arg("--criu").arg(&criu.dumps).arg("--images").arg(&images);
            }
            answer(&mut command)
        };
        let dumped = build(&state, true)?;
        if self.reread {
            read_again(&images)?;
        }
        let mut own = Times::default();
        for round in 0..self.common.rounds {
            own.0.push(build(&make(directory.path(), &format!("own{round}"))?, false)?.time);
        }
        let program = self.program(tree, profile, &state)?;
        let mut times: [Times; WAYS.len()] = Default::default();
        let mut pss = [0; WAYS.len()];
        let mut own_kib = 0;
        for round in 0..=self.common.rounds {
            for who in turns(WAYS.len(), round) {
                let Way { is_criu, by_plan, sharing } = WAYS[who];
                let restorer = if is_criu { &criu.restores } else { regrow };
                let work = make(directory.path(), &format!("restore{round}.{who}"))?;
                let mut command = in_namespaces()?;
                command.arg("restore").arg("--restorer").arg(restorer);
                if by_plan {
                    command.arg("--by-plan");
                }
                if !is_criu {
                    command.args(["--with=--sharing".to_owned(), format!("--with={sharing}")]);
                }
                if self.cold {
                    command.arg("--cold");
                }
                if self.at_hand {
                    command.arg(format!("--at-hand={}", 2 * dumped.pss_kib));
                }
                if round == 0 && !is_criu {
                    command.arg("--watch");
                }
                share(&mut command, &program);
                command.arg("--images").arg(&images).arg("--directory").arg(&work);
                let restored = answer(&mut command)?;
                let (tasks, wanted) = (restored.tasks, dumped.tasks);
                ensure!(tasks == wanted, "{}: {tasks} tasks of {wanted}", restorer.display());
                own_kib = own_kib.max(restored.own_kib);
                if round > 0 {
                    times[who].0.push(restored.time);
                    pss[who] = restored.pss_kib;
                }
                fs::remove_dir_all(&work).context("what a restore has written")?;
            }
        }
        let ratio = |who: usize| times[0].median().as_secs_f64() / times[who].median().as_secs_f64();
        let growth = |who: usize| pss[who] as f64 / dumped.pss_kib as f64;
        Ok(format!(
            "| {} | {} | {} | {:.2} | {} | {:.2} | {} | {:.2} | {own} | {:.1} | {:.3} | {:.3} | {:.1} |",
            tree.label(),
            times[0],
            times[1],
            ratio(1),
            times[2],
            ratio(2),
            times[3],
            ratio(3),
            dumped.pss_kib as f64 / 1024.0,
            growth(1),
            growth(0),
            own_kib as f64 / 1024.0,
        ))
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A program of `scripts/provide-programs`, as the integration tests find it.
fn provided(profile: &Path, name: &str) -> Result<PathBuf> {
    below_target(profile, "programs")
        .into_iter()
        .filter(|suite| suite.join(".complete").is_file())
        .map(|suite| suite.join(name))
        .find(|program| program.is_file())
        .with_context(|| format!("no {name} to be raced: run scripts/provide-programs"))
}
