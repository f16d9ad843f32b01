//! Stored plans: tapes in a file, with all that it takes to certify and to play them without the images.
//!
//! ```text
//!  Prepared ──of──▶ StoredPlan ──write──▶ file ──read──▶ StoredPlan ──ready──▶ Ready: certified tapes
//!                                                            └─────certify──▶ Certificate
//! ```
//!
//! A stored plan is no cache of a certificate: whoever plays it certifies it again, by the same checker, on
//! the host as it is then. Nothing in the file is trusted for this but what the tapes are judged by
//! ([`crate::certify::Demands`]), which is tied to the images by their identity, and which `verify -D` makes
//! anew from them and compares (docs/plan-format.md).
//!
//! | module | holds |
//! |---|---|
//! | [`mod@format`] | sections and checksums |
//! | `wire`, `bounded` | the serialisable form of what goes into them, and how much memory it may take |
//! | [`identity`] | which images it was made from |
//! | [`host`] | what it relies on of the host |
//! | `file` | writing and opening |
//! | [`ready`] | from a stored plan to certified tapes |
//!
//! Worked example: `regrow plan -D images --out tree.plan`, then `regrow restore -D images --plan tree.plan`.

mod bounded;
mod file;
pub mod format;
pub mod host;
pub mod identity;
pub mod ready;
pub(crate) mod room;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regrow_graph::cost::CostModel;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::certify::{self, Certificate, Counterexample, Cradle, Demands};
use crate::host::{Vdso, XsaveLayout};
use crate::pipeline::Prepared;
use crate::resolve::Options;
use crate::resolve::recipe::StepKind;
use crate::tape::abi::{Record, Verb};
use crate::tape::{Tapes, ThreadState};
use format::FormatError;
use host::Relied;
use identity::Identity;

/// A plan that can be stored, or that was.
#[derive(Debug, Clone)]
pub struct StoredPlan {
    /// What it is a plan of.
    pub about: About,
    /// The images that it was made from.
    pub images: Identity,
    /// What it was made on.
    pub host: PlannedOn,
    /// What its tapes are judged by.
    pub demands: Demands,
    /// What ptrace sets in the end.
    pub threads: Vec<ThreadState>,
    /// What runs. Not certified: see [`StoredPlan::certify`].
    pub tapes: Tapes,
    /// Timers whose deadline is a time of a clock that goes on until the restore.
    pub deadlines: Vec<TapeDeadline>,
    /// What operations are for; decoded when somebody asks.
    pub purposes: Purposes,
}

/// What a plan is a plan of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The image directory, as an absolute path. It is also in the tapes.
    pub dir: PathBuf,
    /// When it was made, in seconds and nanoseconds since 1970.
    pub planned: (i64, i64),
    /// The regrow that made it.
    pub version: String,
    /// What the user allowed.
    pub options: Options,
    /// The highest pid or tid of the images.
    pub highest_pid: u32,
    /// Tasks of the images.
    pub tasks: u32,
}

/// What a plan was made on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedOn {
    /// What it relies on, in words.
    pub relied: Relied,
    /// Which session and group of the images become those of the caller.
    pub cradle: Cradle,
    /// The kernel's vDSO.
    pub vdso: Option<Vdso>,
    /// The CPU's extended state.
    pub xsave: Option<XsaveLayout>,
}

/// A timer on the tapes with an absolute deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapeDeadline {
    /// Address of its `struct itimerspec`.
    pub address: u64,
    /// `CLOCK_*`.
    pub clock: u32,
    /// What was left when the images were made, in nanoseconds.
    pub left_ns: u64,
}

/// What each operation is for and the image entry that it comes from, as they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purposes(Vec<u8>);

/// Why a stored plan cannot be used.
#[derive(Debug, Error)]
#[error("{}: {error}", .path.display())]
pub struct StoreError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub error: FormatError,
}

impl StoredPlan {
    /// From a plan that was made for a restore; `images` are those that it was made from.
    ///
    /// The plan must leave nothing out: its commit must be certified, too.
    pub fn of(prepared: &Prepared, images: Identity, options: &Options) -> StoredPlan {
        let tapes: &Tapes = &prepared.tapes;
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let pids = tapes.tasks.iter().map(|task| task.pid);
        StoredPlan {
            about: About {
                dir: prepared.model.dir.clone(),
                planned: (now.as_secs() as i64, now.subsec_nanos().into()),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                options: Options { restoring: false, costs: CostModel::default(), ..options.clone() },
                highest_pid: pids.max().unwrap_or(0),
                tasks: prepared.model.tasks.len() as u32,
            },
            images,
            host: PlannedOn {
                relied: Relied::of(prepared),
                cradle: prepared.ground.cradle,
                vdso: prepared.ground.vdso.clone(),
                xsave: prepared.facts.xsave.clone(),
            },
            demands: prepared.demands.clone(),
            threads: prepared.threads.clone(),
            tapes: tapes.clone(),
            deadlines: deadlines(prepared),
            purposes: Purposes::of(prepared),
        }
    }

    /// Checks it against itself: whether its tapes and its commit do what it says is demanded. Neither the
    /// images nor the host are looked at.
    ///
    /// # Errors
    /// The first step at which they part.
    pub fn certify(&self) -> Result<Certificate, Counterexample> {
        certify::check(&self.demands, &self.tapes, Some(&self.threads))
    }

    /// Writes it, in place of what is there. See `file` for how.
    ///
    /// # Errors
    /// The kernel's.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        file::write(path, self)
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is no stored plan, or damaged.
    pub fn read(path: &Path) -> Result<StoredPlan, StoreError> {
        let failed = |error| StoreError { path: path.to_owned(), error };
        wire::read(file::open(path).map_err(failed)?).map_err(failed)
    }

    /// Reads from memory what would be in a file.
    ///
    /// # Errors
    /// It is no stored plan, or damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<StoredPlan, FormatError> {
        wire::read(format::Sections::of(bytes, bytes.len() as u64)?)
    }

    /// What would be in a file.
    pub fn to_bytes(&self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        wire::write(self, &mut bytes)?;
        Ok(bytes)
    }
}

/// What a file is a plan of, and nothing more of it.
///
/// # Errors
/// It is no stored plan, or damaged in its first part.
pub fn read_about(path: &Path) -> Result<About, StoreError> {
    let failed = |error| StoreError { path: path.to_owned(), error };
    wire::read_about(file::open(path).map_err(failed)?).map_err(failed)
}

impl Purposes {
    fn of(prepared: &Prepared) -> Purposes {
        let tapes = &prepared.tapes;
        let ops: std::collections::BTreeSet<u32> =
            tapes.tasks.iter().flat_map(|task| tapes.records(task)).map(|(_, record)| record.op).collect();
        let all: Vec<(u32, String)> = ops.into_iter().map(|op| (op, prepared.purpose(op))).collect();
        // A list that cannot be written is one that nobody can read.
        Purposes(postcard::to_allocvec(&all).unwrap_or_default())
    }

    /// All of them, by operation. Of a damaged list nothing.
    pub fn all(&self) -> BTreeMap<u32, String> {
        wire::decode_purposes(&self.0).into_iter().collect()
    }
}

/// Where the tapes set absolute deadlines by a clock of the host.
fn deadlines(prepared: &Prepared) -> Vec<TapeDeadline> {
    let tapes: &Tapes = &prepared.tapes;
    let absolute = libc::TFD_TIMER_ABSTIME as u64;
    let mut all = BTreeMap::new();
    for (_, record) in tapes.tasks.iter().flat_map(|task| tapes.records(task)) {
        if !sets_timerfd(&record) || record.args[1] & absolute == 0 {
            continue;
        }
        if let Some(StepKind::ArmTimerfd { clock_id, value_ns: value_ns @ 1.., .. }) =
            prepared.step(record.op)
            && let Some(now_ns) = certify::now_ns(*clock_id, &prepared.ground.facts, tapes.clocks_ns)
        {
            let left_ns = value_ns.saturating_sub(now_ns);
            let deadline = TapeDeadline { address: record.args[2], clock: *clock_id, left_ns };
            all.insert(deadline.address, deadline);
        }
    }
    all.into_values().collect()
}

fn sets_timerfd(record: &Record) -> bool {
    record.verb() == Some(Verb::Syscall) && libc::c_long::from(record.nr) == libc::SYS_timerfd_settime
}
