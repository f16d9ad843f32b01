//! `regrow plan`: everything but the run.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};
use regrow::pipeline::{self, PrepareError, Prepared};
use regrow::report;
use regrow::report::summary::{Comparison, Unplanned};
use regrow::report::trace::Trace;
use regrow::resolve::Options;
use regrow::resolve::policy::Policy;
use regrow::resolve::problem::{Problem, ProblemKind};
use regrow::store::StoredPlan;
use regrow::store::identity::Identity;

use super::{Features, Images, print};

/// Dry run: each task's program, who makes what, who waits for whom, the certificate
#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    images: Images,
    /// How to print it
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Only the program of this task
    #[arg(long, value_name = "PID")]
    task: Option<u32>,
    /// Store the plan in this file, for `regrow restore --plan`, and print nothing else but where; with --format
    /// html: write the page to it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["task", "verbose"])]
    out: Option<PathBuf>,
    /// With --format html: draw the times of this run, too (`regrow restore --trace`)
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// With --out: store what the pages are too, so that content decides whether they are the same
    #[arg(long, requires = "out")]
    hash_pages: bool,
    /// Print the numbers of this plan and of one by every other policy, beside one another, and nothing else
    #[arg(long, conflicts_with_all = ["task", "out", "verbose", "trace", "policy"])]
    compare: bool,
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
    /// One page to look at and to search
    Html,
}

impl Plan {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        if self.compare {
            return self.compare();
        }
        let is_page = self.format == Some(Format::Html);
        anyhow::ensure!(is_page || self.trace.is_none(), "--trace is for --format html");
        if let Some(out) = self.out.as_ref().filter(|_| !is_page) {
            anyhow::ensure!(
                self.format.is_none(),
                "--out is for a plan that is stored, or for --format html"
            );
            return self.store(out);
        }
        anyhow::ensure!(!(is_page && self.task.is_some()), "--format html shows all tasks");
        // Before anything else: a run takes long.
        let trace = self.trace.as_deref().map(read_trace).transpose()?;
        let (prepared, problems) = match pipeline::try_prepare(&self.images.dir(), &self.features.options()?)
        {
            Ok(outcome) => outcome,
            Err(error) => return super::refuse(&error),
        };
        if let Some(prepared) = prepared {
            self.show(&prepared, trace.as_ref())?;
        }
        // A plan for a host on which a pid is taken or a file missing is shown, and is no success.
        super::refuse(&PrepareError::Problems(problems))
    }

    /// Plans by each policy: the same images, and the same end. What keeps the tree from being planned by one that is
    /// not the default is no failure: it is one of the things that the comparison says.
    fn compare(&self) -> anyhow::Result<ExitCode> {
        let (mut plans, mut unplanned) = (Vec::new(), Vec::new());
        let mut found: Vec<Problem> = Vec::new();
        for policy in Policy::ALL {
            let options = Options { policy, ..self.features.options()? };
            let (prepared, problems) = match pipeline::try_prepare(&self.images.dir(), &options) {
                Ok(outcome) => outcome,
                Err(error) if policy == Policy::default() || matches!(error, PrepareError::Refuted(_)) => {
                    return super::refuse(&error);
                }
                Err(error) => (None, error.problems()),
            };
            let news: Vec<Problem> =
                problems.into_iter().filter(|problem| !found.contains(problem)).collect();
            match prepared {
                Some(prepared) => plans.push(report::plan::summarize(&prepared)?),
                None if policy == Policy::default() || news.is_empty() => {}
                None => {
                    let reasons = news.iter().map(ToString::to_string).collect();
                    unplanned.push(Unplanned { policy: policy.name(), reasons });
                    continue;
                }
            }
            found.extend(news);
        }
        let comparison = Comparison::new(plans, unplanned);
        match self.format.unwrap_or(Format::Text) {
            Format::Text => print(&comparison.text())?,
            Format::Json => print(&(serde_json::to_string_pretty(&comparison)? + "\n"))?,
            Format::Dot | Format::Html => anyhow::bail!("--compare prints text or json"),
        }
        super::refuse(&PrepareError::Problems(found))
    }

    /// Stores the plan. That a pid is in use is no reason not to: it is asked again when the tree is restored,
    /// and a tree may be planned while it still runs.
    fn store(&self, out: &Path) -> anyhow::Result<ExitCode> {
        let (dir, options) = (self.images.dir(), self.features.options()?);
        let is_image = out.extension().is_some_and(|extension| extension == "img");
        anyhow::ensure!(!is_image, "{}: that is a name for an image", out.display());
        let images = Identity::of(&dir, self.hash_pages).with_context(|| dir.display().to_string())?;
        let (prepared, problems) = match pipeline::try_prepare(&dir, &options) {
            Ok(outcome) => outcome,
            Err(error) => return super::refuse(&error),
        };
        let is_only_taken = problems.iter().all(|problem| problem.kind == ProblemKind::PidTaken);
        let Some(prepared) = prepared.filter(|_| is_only_taken) else {
            return super::refuse(&PrepareError::Problems(problems));
        };
        let changed = images.differences(&dir, false);
        if !changed.is_empty() {
            // While they were read.
            return super::refuse(&PrepareError::Problems(changed));
        }
        let plan = StoredPlan::of(&prepared, images, &options);
        plan.write(out).with_context(|| out.display().to_string())?;
        print(&format!(
            "{}: a plan for {} tasks from {}\n{}\n",
            out.display(),
            plan.about.tasks,
            plan.about.dir.display(),
            prepared.certificate
        ))?;
        super::refuse(&PrepareError::Problems(problems))
    }

    fn show(&self, prepared: &Prepared, trace: Option<&Trace>) -> anyhow::Result<()> {
        if let Some(pid) = self.task
            && !prepared.model.tasks.iter().any(|task| task.pid.0 == pid)
        {
            anyhow::bail!("no task {pid} in {}", prepared.model.dir.display());
        }
        let text = match self.format.unwrap_or(Format::Text) {
            Format::Text => report::plan::text(prepared, self.task, self.verbose),
            Format::Json => serde_json::to_string_pretty(&report::plan::view(prepared, self.task)?)? + "\n",
            Format::Dot => report::dot::dot(prepared, self.task),
            Format::Html => report::html::html(prepared, trace)?,
        };
        if let Some(out) = &self.out {
            return std::fs::write(out, text).with_context(|| out.display().to_string());
        }
        print(&text)
    }
}

fn read_trace(path: &Path) -> anyhow::Result<Trace> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Trace::from_json(&text).with_context(|| path.display().to_string())
}
