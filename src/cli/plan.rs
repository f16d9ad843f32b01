//! `regrow plan`: everything but the run.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use regrow::pipeline::{self, PrepareError, Prepared};
use regrow::report;

use super::{Features, Images, print};

/// Dry run: each task's program, who makes what, who waits for whom, the certificate
#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    images: Images,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Only the program of this task
    #[arg(long, value_name = "PID")]
    task: Option<u32>,
    /// Each operation in a line of its own, and resources of one task too
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    features: Features,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// To read
    Text,
    /// For programs (regrow-plan/1)
    Json,
    /// For graphviz
    Dot,
}

impl Plan {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let (prepared, problems) = match pipeline::try_prepare(&self.images.dir(), &self.features.options()) {
            Ok(outcome) => outcome,
            Err(error) => return super::refuse(&error),
        };
        if let Some(prepared) = prepared {
            self.show(&prepared)?;
        }
        // A plan for a host on which a pid is taken or a file missing is shown, and is no success.
        super::refuse(&PrepareError::Problems(problems))
    }

    fn show(&self, prepared: &Prepared) -> anyhow::Result<()> {
        if let Some(pid) = self.task
            && !prepared.model.tasks.iter().any(|task| task.pid.0 == pid)
        {
            anyhow::bail!("no task {pid} in {}", prepared.model.dir.display());
        }
        let text = match self.format {
            Format::Text => report::plan::text(prepared, self.task, self.verbose),
            Format::Json => serde_json::to_string_pretty(&report::plan::view(prepared, self.task)?)? + "\n",
            Format::Dot => report::dot::dot(prepared, self.task),
        };
        print(&text)
    }
}
