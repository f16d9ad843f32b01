//! `regrow inspect`: what an image directory holds, whether it could be restored here or not.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use regrow::pipeline::PrepareError;
use regrow::{image, report};

use super::{Images, print};

/// Show what an image directory holds: tree, threads, descriptors, mappings, sizes
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    images: Images,
    /// Only this task
    #[arg(long, value_name = "PID")]
    task: Option<u32>,
    /// List every mapping
    #[arg(long)]
    maps: bool,
    /// Print JSON (regrow-inspect/1)
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let model = match image::read_model(&self.images.dir()) {
            Ok(model) => model,
            Err(errors) => return super::refuse(&PrepareError::from(errors)),
        };
        if let Some(pid) = self.task
            && !model.tasks.iter().any(|task| task.pid.0 == pid)
        {
            anyhow::bail!("no task {pid} in {}", model.dir.display());
        }
        let inspection = report::inspect::inspect(&model, images_bytes(&model.dir), self.task);
        if self.json {
            let mut text = serde_json::to_string_pretty(&inspection)?;
            text.push('\n');
            print(&text)?;
        } else {
            print(&report::inspect::text(&inspection, self.maps))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The size of all image files in `dir`.
fn images_bytes(dir: &Path) -> Option<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir).ok()? {
        let entry = entry.ok()?;
        if Path::new(&entry.file_name()).extension().is_some_and(|extension| extension == "img") {
            sum += entry.metadata().ok()?.len();
        }
    }
    Some(sum)
}
