//! `regrow explain`: why a plan is as it is, seen from one thing.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use regrow::pipeline::{self, PrepareError};
use regrow::report::explain::{Subject, explain, text};

use super::{Features, print};

/// Explain a plan: who makes something, how it travels and why, what it waits for, what it costs
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The image directory
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The image directory, as criu spells it
    #[arg(short = 'D', long, value_name = "DIR", global = true)]
    images_dir: Option<PathBuf>,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text, global = true)]
    format: Format,
    #[command(flatten)]
    features: Features,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// To read
    Text,
    /// For programs (regrow-explain/1)
    Json,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum What {
    /// Who forks a task and why then, what it inherits, makes, moves, closes, and whom it waits for
    Task {
        /// Pid of a task, tid of a thread
        pid: u32,
    },
    /// How a descriptor gets to a task
    Fd {
        /// The task
        pid: u32,
        /// The number of the descriptor
        fd: u32,
    },
    /// Who has an open file, and how it gets to all of them
    Ofd {
        /// Its id in files.img, as `regrow inspect` prints it
        #[arg(value_parser = number)]
        id: u64,
    },
    /// Who makes shared memory, and who maps it where
    Shm {
        /// Its id, as in pagemap-shmem-ID.img
        #[arg(value_parser = number)]
        id: u64,
    },
}

/// Decimal, or hexadecimal behind 0x.
fn number(text: &str) -> Result<u64, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
}

impl Explain {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        // A global option cannot be in conflict with an argument of one command.
        anyhow::ensure!(self.dir.is_none() || self.images_dir.is_none(), "two image directories");
        let dir = self.dir.as_ref().or(self.images_dir.as_ref()).context("no image directory")?;
        let subject = match self.what {
            What::Task { pid } => Subject::Task { pid },
            What::Fd { pid, fd } => Subject::Fd { pid, fd },
            What::Ofd { id } => Subject::Ofd { id: u32::try_from(id).unwrap_or(u32::MAX) },
            What::Shm { id } => Subject::Shm { id },
        };
        let (prepared, problems) = match pipeline::try_prepare(dir, &self.features.options()?) {
            Ok(outcome) => outcome,
            Err(error) => return super::refuse(&error),
        };
        if let Some(prepared) = &prepared {
            let explanation = explain(prepared, subject).with_context(|| dir.display().to_string())?;
            print(&match self.format {
                Format::Text => text(&explanation),
                Format::Json => serde_json::to_string_pretty(&explanation)? + "\n",
            })?;
        }
        // As `plan`: what is in the way is said, and is no success.
        super::refuse(&PrepareError::Problems(problems))
    }
}
