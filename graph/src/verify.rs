//! The checker: symbolic execution of what the tapes really do, and the certificate.
//!
//! ```text
//!   tapes ──lift──▶ Effects ──┐
//!                             ├─ run ──▶ ends ── compare ──▶ Certificate | Counterexample
//!   images ───────▶ Expected ─┘
//! ```
//!
//! It shares no code with what makes plans, neither [`crate::place`] and [`crate::order`] nor the
//! lowering, and believes nothing that they say: it sees records only. It knows the kernel's rules
//! for descriptors, pipes, sockets, sessions, groups, deaths and privileges, and flag values where
//! images and calls have them raw; call numbers and layouts it does not know.
//!
//! | module | holds |
//! |---|---|
//! | `effect` | what a record does |
//! | `expected` | what the images say |
//! | `overview` | what can be seen without running: who plays, births, events |
//! | `run` | all tasks at once on a model of the kernel |
//! | `family` | births, deaths, sessions, groups |
//! | `descriptor`, `space` | calls on descriptors; on address spaces |
//! | `pass` | descriptions that travel in messages |
//! | `ipc` | an IPC namespace of the tree's own |
//! | `before` | what certainly comes before what |
//! | `table`, `object` | descriptor tables; descriptions, pipes, sockets |
//! | `ordered`, `work` | maps that are cheap to copy; how much is done, for tests |
//! | `privilege` | which privileges a task still has |
//! | `seccomp` | strict mode and filters |
//! | [`attribute`] | the table of all other attributes; how records move them by it |
//! | `compare`, `apart` | the end against the images, one to one; on all processors what each task stands for alone |
//! | `outcome` | the certificate, and all that can be wrong |
//!
//! Worked example: a root that closes what the launcher left and opens /dev/null.
//!
//! ```
//! use regrow_graph::ids::OfdId;
//! use regrow_graph::verify::*;
//! let spec = OfdSpec::Path { path: b"/dev/null".to_vec(), position: Some(0) };
//! let expected = Expected {
//!     tasks: vec![ExpectedTask { pid: 7, sid: 7, pgid: 7, table: vec![Slot { fd: 0, ofd: OfdId(0), cloexec: false }], ..Default::default() }],
//!     ofds: vec![ExpectedOfd { name: "file 0x1 (/dev/null)".into(), spec, ..Default::default() }],
//!     paths: [b"/dev/null".to_vec()].into(),
//!     ..Default::default()
//! };
//! let effects = [
//!     Effect::Fd(FdEffect::CloseRange { first: 0, last: u32::MAX, only_mark: false, unshare: false }),
//!     Effect::SetSid,
//!     Effect::Fd(FdEffect::Open { path: b"/dev/null".to_vec(), flags: 0, fd: 0 }),
//!     Effect::Arrive,
//!     Effect::Park,
//! ];
//! let effects = effects.into_iter().zip(0..).map(|(effect, record)| Lifted { record, effect }).collect();
//! let tree = LiftedTree {
//!     total: 1,
//!     root: Birth { pid: 7, flags: 0, exit_signal: 17, cgroup: None },
//!     tasks: vec![LiftedTask { pid: 7, effects }],
//!     ..Default::default()
//! };
//! assert_eq!(verify(&tree, &expected).unwrap().descriptors, 1);
//! ```

mod apart;
pub mod attribute;
mod before;
mod compare;
mod descriptor;
mod effect;
mod expected;
mod family;
#[cfg(test)]
mod growth;
mod ipc;
mod name;
mod object;
mod ordered;
mod outcome;
mod overview;
mod pass;
mod privilege;
mod run;
mod seccomp;
mod socket;
mod space;
mod table;
#[cfg(test)]
mod tests;
mod vdso;
mod work;

pub use attribute::{AttributeKind, Value};
pub use effect::{
    Attribute, Birth, Change, Effect, Effects, FdEffect, FileEffect, IpcEffect, IpcKind, Lifted, LiftedTask,
    LiftedTree, MemoryEffect, NameEffect, PrivilegeEffect, Region, RingEffect, SeccompEffect, SocketOption,
    UserfaultChange,
};
pub use expected::{
    Content, Cradle, Expected, ExpectedFilter, ExpectedHierarchy, ExpectedInode, ExpectedOfd, ExpectedPacket,
    ExpectedPipe, ExpectedSeccomp, ExpectedTask, Facts, InodeId, InodeKind, Interest, Life, OfdSpec, Owner,
    Slot, SocketFile, SocketPeer, SocketSpec, TimerSpec,
};
pub use ipc::{ExpectedIpc, ExpectedPerm, ExpectedQueue, ExpectedSemaphores, ExpectedSysvSegment};
pub use outcome::{Certificate, Counterexample, Wrong};
pub use space::{Alike, ExpectedMapping, ExpectedPages, ExpectedSegment, ExpectedSpace, PageExtent, Shown};
pub use vdso::{ExpectedVdso, LedFunction, LedVdso};

/// Executes the tapes symbolically and compares their end with the images.
///
/// Time and memory are linear, up to a logarithm, in the records and in what the images say: what a fork
/// copies is shared until it is changed, so neither depends on how long the tables and address spaces are
/// that many children inherit. Only orders that come neither from program order, nor from descent, nor from
/// one wait are searched for among the waits (docs/decisions/0024 says what else is not linear).
///
/// # Errors
/// The first step at which the tapes and the images part, in the words of the user.
pub fn verify(lifted: &LiftedTree, expected: &Expected) -> Result<Certificate, Counterexample> {
    verify_with(lifted, expected, &|_| false, &mut |_| false)
}

/// As [`verify`], with someone who tells of the files of the images: whether stretches of two of them are known to
/// hold the same bytes, which several processors ask at once, and whether they do, where nobody knows. Nobody is asked about
/// one that is the other. Tapes may be lifted while others are run.
///
/// # Errors
/// As [`verify`]; and if a tape is not understood.
pub fn verify_with(
    tapes: &dyn Effects,
    expected: &Expected,
    is_known: &(dyn Fn(&Alike<'_>) -> bool + Sync),
    is_alike: &mut dyn FnMut(&Alike<'_>) -> bool,
) -> Result<Certificate, Counterexample> {
    let cast = overview::Cast::of(tapes, expected)?;
    let (run, overview) =
        rayon::join(|| run::Run::all(tapes, expected, &cast), || overview::check(tapes, &cast));
    // What can be seen without running is said first.
    overview?;
    compare::compare(run?, is_known, is_alike)
}
