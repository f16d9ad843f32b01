//! `regrow check`: every reason why a directory could not be restored here, all at once.

use std::process::ExitCode;

use clap::Args;
use regrow::pipeline;

use super::{Features, Images, code_of, print};

/// List every reason why an image directory could not be restored here
#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    images: Images,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    features: Features,
}

impl Check {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let result = pipeline::prepare(&self.images.dir(), &self.features.options()?);
        let problems = result.as_ref().err().map(pipeline::PrepareError::problems).unwrap_or_default();
        if self.json {
            let mut text = serde_json::to_string_pretty(&problems)?;
            text.push('\n');
            print(&text)?;
        } else if let Ok(prepared) = &result {
            print(&format!(
                "{} tasks can be restored here.\n{}\n",
                prepared.model.tasks.len(),
                prepared.certificate
            ))?;
        } else {
            let lines: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
            print(&lines)?;
        }
        Ok(ExitCode::from(code_of(&problems)))
    }
}
