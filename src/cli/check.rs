//! `regrow check`: every reason why a directory could not be restored here, all at once.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use regrow::pipeline::{self, Span};
use regrow::resolve::Options;
use regrow::resolve::problem::Problem;
use regrow::store::ready;

use super::{Features, Images, code_of, print};

/// List every reason why an image directory could not be restored here
#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    images: Images,
    /// Whether it could be restored by this stored plan (`regrow plan --out`): as `regrow restore --plan` asks before
    /// it creates anything
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Also print how long each stage took
    #[arg(long, conflicts_with = "json")]
    times: bool,
    #[command(flatten)]
    features: Features,
}

/// That it can be restored: what is said of it, and when each stage ran.
struct Good {
    text: String,
    spans: Vec<Span>,
}

impl Check {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let (dir, options) = (self.images.dir(), self.features.options()?);
        let start = Instant::now();
        let result = match &self.plan {
            None => check_images(&dir, &options),
            Some(plan) => check_plan(plan, &dir, &options),
        };
        let all = start.elapsed();
        let problems = result.as_ref().err().map(Vec::as_slice).unwrap_or_default();
        if self.json {
            let mut text = serde_json::to_string_pretty(problems)?;
            text.push('\n');
            print(&text)?;
        } else if let Ok(good) = &result {
            print(&good.text)?;
            if self.times {
                print(&times(&good.spans, all.as_secs_f64()))?;
            }
        } else {
            let lines: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
            print(&lines)?;
        }
        Ok(ExitCode::from(code_of(problems)))
    }
}

fn check_images(dir: &Path, options: &Options) -> Result<Good, Vec<Problem>> {
    let prepared = pipeline::prepare(dir, options).map_err(|error| error.problems())?;
    let text =
        format!("{} tasks can be restored here.\n{}\n", prepared.model.tasks.len(), prepared.certificate);
    let spans = prepared.timings.spans.clone();
    // The process ends soon, and its memory with it; to give that back piece by piece takes longer.
    std::mem::forget(prepared);
    Ok(Good { text, spans })
}

fn check_plan(plan: &Path, dir: &Path, options: &Options) -> Result<Good, Vec<Problem>> {
    let ready = ready::prepare(plan, Some(dir), options).map_err(|error| error.problems())?;
    let text = format!("{} can be played here.\n{}\n", plan.display(), ready.certificate);
    Ok(Good { text, spans: ready.timings.spans })
}

/// The stages in the order in which they began; one that ran more than once stands for all its times.
fn times(spans: &[Span], all: f64) -> String {
    let mut stages: Vec<(&str, f64)> = Vec::new();
    for span in spans {
        let time = (span.end - span.start).as_secs_f64();
        match stages.iter_mut().find(|(stage, _)| *stage == span.stage) {
            Some((_, sum)) => *sum += time,
            None => stages.push((span.stage, time)),
        }
    }
    stages.push(("all", all));
    let shown: Vec<String> =
        stages.iter().map(|(stage, time)| format!("{stage} {:.1}", time * 1e3)).collect();
    format!("milliseconds: {}\n", shown.join(", "))
}
