//! `regrow tape`: the system calls that a restore would make.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use regrow::store::StoredPlan;
use regrow::{pipeline, report};

use super::{Features, print};

/// Print the system calls that a restore would make, one tape a task
#[derive(Debug, Args)]
pub(crate) struct Tape {
    /// The image directory
    #[arg(value_name = "DIR", required_unless_present_any = ["images_dir", "plan"])]
    dir: Option<PathBuf>,
    /// The image directory, as criu spells it
    #[arg(short = 'D', long, value_name = "DIR", conflicts_with = "dir")]
    images_dir: Option<PathBuf>,
    /// Those of this stored plan; no images are read
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dir", "images_dir"])]
    plan: Option<PathBuf>,
    /// Only this task
    #[arg(long, value_name = "PID")]
    task: Option<u32>,
    #[command(flatten)]
    features: Features,
}

impl Tape {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        if let Some(path) = &self.plan {
            let plan = match StoredPlan::read(path) {
                Ok(plan) => plan,
                Err(error) => return super::verify::refuse_file(error),
            };
            print(&report::stored_tapes(&plan, self.task))?;
            return Ok(ExitCode::SUCCESS);
        }
        let dir = self.dir.as_ref().or(self.images_dir.as_ref()).context("no image directory")?;
        let prepared = match pipeline::prepare(dir, &self.features.options()?) {
            Ok(prepared) => prepared,
            Err(error) => return super::refuse(&error),
        };
        print(&report::tapes(&prepared, self.task))?;
        Ok(ExitCode::SUCCESS)
    }
}
