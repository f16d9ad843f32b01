//! `regrow tape`: the system calls that a restore would make.

use std::process::ExitCode;

use clap::Args;
use regrow::{pipeline, report};

use super::{Features, Images, print};

/// Print the system calls that a restore would make, one tape a task
#[derive(Debug, Args)]
pub(crate) struct Tape {
    #[command(flatten)]
    images: Images,
    /// Only this task
    #[arg(long, value_name = "PID")]
    task: Option<u32>,
    #[command(flatten)]
    features: Features,
}

impl Tape {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let prepared = match pipeline::prepare(&self.images.dir(), &self.features.options()) {
            Ok(prepared) => prepared,
            Err(error) => return super::refuse(&error),
        };
        print(&report::tapes(&prepared, self.task))?;
        Ok(ExitCode::SUCCESS)
    }
}
