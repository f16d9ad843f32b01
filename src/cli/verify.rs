//! `regrow verify`: whether a stored plan does what it must, and is one of these images.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use regrow::store::identity::time;
use regrow::store::ready::{self, ReadyError};
use regrow::store::{StoreError, StoredPlan};

use super::{code_of, print};

/// Check a stored plan: print its certificate, or the step at which it goes wrong
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The stored plan (`regrow plan --out`)
    #[arg(value_name = "FILE")]
    plan: PathBuf,
    /// Also read these images again, and check that it is a plan of them
    #[arg(short = 'D', long, value_name = "DIR")]
    images_dir: Option<PathBuf>,
}

impl Verify {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        match self.verify() {
            Ok(text) => {
                print(&text)?;
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => refuse(&error),
        }
    }

    fn verify(&self) -> Result<String, ReadyError> {
        let plan = StoredPlan::read(&self.plan)?;
        let about = &plan.about;
        let (pages, others) = plan.images.count();
        let mut text = format!(
            "a plan for {} tasks from {}\nmade {} by regrow {} from {others} images and {pages} of pages\n",
            about.tasks,
            about.dir.display(),
            time(about.planned),
            about.version,
        );
        match &self.images_dir {
            None => {
                let certificate = plan.certify().map_err(|wrong| ReadyError::Refuted(Box::new(wrong)))?;
                text += &format!(
                    "{certificate}\nThe images were not read: with -D DIR it is checked that it is a plan of them.\n"
                );
            }
            Some(dir) => {
                let verified = ready::verify_images(&plan, dir)?;
                let pages =
                    if verified.compared_pages { "pages by content" } else { "pages by length and time" };
                text += &format!(
                    "{}\nIt is a plan of these images: {others} compared by content, {pages}; what it is judged by is what they say.\n",
                    verified.certificate
                );
            }
        }
        Ok(text)
    }
}

/// Says what is wrong, and ends with the code for it.
#[allow(clippy::print_stderr)] // The command line is what prints.
pub(super) fn refuse(error: &ReadyError) -> anyhow::Result<ExitCode> {
    let problems = error.problems();
    for problem in &problems {
        eprintln!("regrow: {problem}");
    }
    Ok(ExitCode::from(code_of(&problems)))
}

/// As [`refuse`], of a plan that cannot be read.
pub(super) fn refuse_file(error: StoreError) -> anyhow::Result<ExitCode> {
    refuse(&error.into())
}
