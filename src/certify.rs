//! Whether the tapes do what the images say, checked by [`regrow_graph::verify`].
//!
//! Both of the checker's inputs are made here without what makes the plan: [`expected`] reads the
//! model itself, not what `resolve` makes of it; [`crate::tape::lift`] reads the finished records.
//! What the checker cannot judge yet is not certified: a description of such a kind in any table
//! is a counterexample.
//!
//! Worked example: a task with /dev/null at 0 becomes one expected task, one slot and
//! `OfdSpec::Path { path: "/dev/null", position: Some(0) }`; a tape that opens /dev/zero instead is
//! answered with `task 7: descriptor 0 ends as file /dev/zero, the images say file 0x1 (/dev/null)`.
//!
//! | module | makes or checks |
//! |---|---|
//! | `expect` | what the images say: tasks, descriptions, pipes, sockets, files |
//! | `cgroups` | the same of cgroups, and whether they are made |
//! | `ipc` | the same of an IPC namespace |
//! | `attributes`, `vdso` | the same of attributes, and what is inherited; of vDSOs |
//! | `check` | whether tapes do it |
//! | `commit` | whether the commit sets what they say |

mod attributes;
mod cgroups;
mod check;
mod commit;
mod expect;
mod ipc;
#[cfg(test)]
mod mutations;
mod space;
#[cfg(test)]
mod tests;
mod vdso;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use regrow_graph::verify::{Certificate, Counterexample, Facts};

pub use attributes::Inherited;
pub use cgroups::CgroupGround;
pub use check::{certify, check};
pub use commit::ExpectedThread;
pub(crate) use expect::now_ns;
pub use expect::{Deadline, Demands, DumpedClocks, expected};
pub use space::AlikePages;

use crate::host::{HostFacts, Vdso};
use crate::image::NsPid;
use crate::image::vdso::Dumped;
use crate::tape::{Tapes, ThreadState};

/// A session and a group of the images that are to be those of the invoker (`--shell-job`): what
/// the images call it, and what it is to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cradle {
    /// Session: old and new.
    pub sid: Option<(u32, u32)>,
    /// Process group: old and new.
    pub pgid: Option<(u32, u32)>,
}

/// What is true before anything runs: the host, and where the root is born.
#[derive(Debug, Clone, Default)]
pub struct Ground {
    /// Session and group that the root is born in.
    pub cradle: Cradle,
    /// What the host's kernel does by default.
    pub facts: Facts,
    /// What the root inherits.
    pub inherited: Inherited,
    /// The running kernel's vDSO; `None`: no task may have one.
    pub vdso: Option<Vdso>,
    /// vDSOs of the images that are not its bytes.
    pub vdsos: Arc<BTreeMap<NsPid, Dumped>>,
    /// Hierarchies of cgroups, and what is to be done with them.
    pub cgroups: CgroupGround,
}

impl Ground {
    /// That of this process, whose facts are gathered.
    pub fn of(facts: &HostFacts, cradle: Cradle) -> Ground {
        let defaults = Facts {
            clocks_ns: [facts.clocks_ns.realtime, facts.clocks_ns.monotonic, facts.clocks_ns.boottime],
            suid_dumpable: facts.kernel.suid_dumpable,
            processors: facts.kernel.possible_processors,
            ..Facts::default()
        };
        Ground {
            cradle,
            facts: defaults,
            inherited: Inherited::of(facts),
            vdso: facts.vdso.clone(),
            vdsos: Arc::default(),
            cgroups: CgroupGround::of(facts, None),
        }
    }
}

/// Tapes that have a certificate: nothing but [`certify_tapes`] makes them, so nothing else can be run.
#[derive(Debug)]
pub struct CertifiedTapes {
    tapes: Tapes,
    fault: Option<(u32, u32)>,
}

impl CertifiedTapes {
    /// Lets a record fail with `errno` when it is reached, for tests; says whether there is such a record. The
    /// certificate is then that of the tapes without the fault.
    pub fn inject_fault(&mut self, pid: u32, record: u32, errno: i32) -> bool {
        let is_there = self.tapes.inject_fault(pid, record, errno);
        if is_there {
            self.fault = Some((pid, record));
        }
        is_there
    }

    /// For tests that print tapes and run none.
    #[cfg(test)]
    pub(crate) fn unchecked(tapes: Tapes) -> CertifiedTapes {
        CertifiedTapes { tapes, fault: None }
    }

    /// The task and the record that fail on purpose.
    pub fn fault(&self) -> Option<(u32, u32)> {
        self.fault
    }
}

impl std::ops::Deref for CertifiedTapes {
    type Target = Tapes;

    fn deref(&self) -> &Tapes {
        &self.tapes
    }
}

/// As [`check`], and keeps the tapes as certified ones.
///
/// # Errors
/// The first step at which tapes and demands part.
pub fn certify_tapes(
    demands: &Demands,
    tapes: Tapes,
    threads: Option<&[ThreadState]>,
) -> Result<(CertifiedTapes, Certificate), Counterexample> {
    let certificate = check(demands, &tapes, threads)?;
    Ok((CertifiedTapes { tapes, fault: None }, certificate))
}
