//! The demonstration inside of its namespaces: writes, restores, verifies, tells.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use regrow::coordinator::channel::Channel;
use regrow::coordinator::launcher::{self, End};
use regrow::coordinator::seam::Seam;
use regrow::coordinator::{Run, RunError};
use regrow::pipeline::{self, Prepared};
use regrow::report::plan::{How, view};
use regrow::resolve::Options;
use regrow::synth::{Forest, build, verify};

use super::super::{exit, print, report_error};
use super::{CHECKS, Demo, complain, describe, in_words};

/// What the coordinator leaves for the report.
const TOLD: &str = "told";

/// As the init of the namespaces; its end is the end of all in them.
pub(super) fn run(demo: &Demo, dir: &Path) -> ExitCode {
    match try_run(demo, dir) {
        Ok(code) => code,
        Err(error) => {
            report_error(&error);
            ExitCode::from(exit::FAILED)
        }
    }
}

fn try_run(demo: &Demo, dir: &Path) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let (forest, images) = demo.write_into(dir)?;
    let wrote = start.elapsed();
    print(&format!("seed        {}\n{}", demo.seed, describe(&forest)))?;
    print(&format!("written     {}\n", written(&images, wrote)?))?;

    // Before the restore: it ends everybody else in the namespaces.
    let by_fork = build::build(&forest);

    let start = Instant::now();
    let (for_launcher, for_coordinator) = Channel::pair()?;
    let Some(coordinator) = regrow::sys::process::fork()? else {
        drop(for_launcher);
        return Ok(coordinate(&forest, &images, &dir.join(TOLD), &for_coordinator));
    };
    drop(for_coordinator);
    match launcher::launch(&for_launcher, coordinator) {
        End::Committed { .. } => {}
        // It has said why.
        End::Failed(code) => return Ok(ExitCode::from(u8::try_from(code).unwrap_or(exit::FAILED))),
        End::Killed => return Err(RunError::CoordinatorKilled.into()),
    }
    let restored = start.elapsed();
    print(&std::fs::read_to_string(dir.join(TOLD))?)?;
    let by_fork = match by_fork {
        Ok(took) => format!("a program that builds such a tree by fork: {}", ms(took)),
        Err(error) => format!("such a tree by fork, to compare: {error}"),
    };
    print(&format!("            all together {}; {by_fork}\n", ms(restored)))?;
    let verified = match verify::verify(&forest, CHECKS) {
        Ok(verified) => verified,
        Err(faults) => return Ok(complain(&faults)),
    };
    print(&in_words(&verified))?;
    Ok(ExitCode::SUCCESS)
}

/// The coordinator: prepares, tells, runs. Its exit code is that of the whole if it fails.
fn coordinate(forest: &Forest, images: &Path, told: &Path, channel: &Channel) -> ExitCode {
    let options = Options { restoring: true, ..Options::default() };
    let prepared = match pipeline::prepare(images, &options) {
        Ok(prepared) => prepared,
        Err(error) => {
            return super::super::refuse(&error).unwrap_or_else(|_| ExitCode::from(exit::FAILED));
        }
    };
    let run = Run {
        trace: None,
        tapes: &prepared.tapes,
        threads: &prepared.threads,
        sibling: false,
        leave_stopped: false,
        pidfile: None,
        seam: Seam::new(None),
    };
    let outcome = match regrow::coordinator::run(&run, channel) {
        Ok(outcome) => outcome,
        Err(error) => return fail(error, &prepared),
    };
    let text = planned(forest, &prepared).map(|text| {
        let played = Duration::from_nanos(outcome.play_ns);
        let committed = Duration::from_nanos(outcome.commit_ns);
        format!("{text}restored    played {}, committed {}\n", ms(played), ms(committed))
    });
    match text.and_then(|text| Ok(std::fs::write(told, text)?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report_error(&error);
            ExitCode::from(exit::FAILED)
        }
    }
}

fn fail(error: RunError, prepared: &Prepared) -> ExitCode {
    let error = match error {
        RunError::Record(mut failed) => {
            failed.purpose = prepared.purpose(failed.op);
            RunError::Record(failed)
        }
        other => other,
    };
    report_error(&error.into());
    ExitCode::from(exit::FAILED)
}

/// How resources get to their users, what waits, and how long each stage took.
fn planned(forest: &Forest, prepared: &Prepared) -> anyhow::Result<String> {
    let plan = view(prepared, None)?;
    let (mut alone, mut shared, mut inherited, mut above) = (0, 0, 0, 0);
    for resource in plan.resources.iter().filter(|resource| resource.owner.is_some()) {
        let by_fork = resource.users.iter().filter(|user| user.how == How::Inherits).count();
        if by_fork == 0 {
            alone += 1;
        } else {
            shared += 1;
            inherited += by_fork;
            above += usize::from(!resource.users.iter().any(|user| user.how == How::Makes));
        }
    }
    let certificate = &prepared.certificate;
    let timings = &prepared.timings;
    let mut text = String::new();
    writeln!(
        text,
        "planned     {} resources: {alone} made by who has them alone, {shared} made once and inherited {inherited} times\n            \
         ({above} of these made by an ancestor that does not keep them)",
        alone + shared
    )?;
    writeln!(
        text,
        "            {} records for {} tasks, {} waits between tasks, one barrier",
        certificate.records,
        forest.tasks.len(),
        certificate.waits
    )?;
    writeln!(
        text,
        "            read {}, looked at this machine {}, resolved {}, ordered {}, lowered {}, certified {}",
        ms(timings.read),
        ms(timings.facts),
        ms(timings.resolve),
        ms(timings.plan),
        ms(timings.lower),
        ms(timings.certify)
    )?;
    Ok(text)
}

/// How much was written, and how long it took.
fn written(images: &Path, took: Duration) -> anyhow::Result<String> {
    let (mut files, mut bytes) = (0u64, 0u64);
    for entry in std::fs::read_dir(images)? {
        files += 1;
        bytes += entry?.metadata()?.len();
    }
    Ok(format!("{files} images, {:.1} MiB, in {}", bytes as f64 / f64::from(1 << 20), ms(took)))
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}
