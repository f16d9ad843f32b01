//! `regrow calibrate`: what things cost on this host.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use nix::sched::CloneFlags;
use regrow::cost::{calibrate, file};
use regrow::report;

use super::demo::namespaces;
use super::print;

/// How often each thing is measured, and with --quick.
const SAMPLES: u32 = 200;
const QUICK: u32 = 20;

/// Measure on this host what things cost: forks, descriptors, messages, waits, mappings, pages
///
/// Tapes with clock readings between their records are played in pid namespaces of their own; nothing is left.
/// The costs choose between ways that all lead to the same tree: wrong ones cost time, and nothing else.
#[derive(Debug, Args)]
pub(crate) struct Calibrate {
    /// Write the table to this file, for --costs
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Measure less often
    #[arg(long)]
    quick: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// To read
    Text,
    /// For programs (regrow-calibration/1)
    Json,
}

impl Calibrate {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let samples = if self.quick { QUICK } else { SAMPLES };
        let enter = || namespaces::enter(CloneFlags::CLONE_NEWPID).map(drop);
        let calibration = calibrate::calibrate(samples, &enter);
        if let Some(out) = &self.out {
            file::write(out, &calibration.costs())?;
        }
        print(&match self.format {
            Format::Text => report::calibration::text(&calibration),
            Format::Json => serde_json::to_string_pretty(&calibration)? + "\n",
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
