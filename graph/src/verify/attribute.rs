//! The attribute table: what births and credentials do to everything that a task or a thread has
//! beside its memory, its descriptors and its place in the family.
//!
//! ```text
//!   what the launcher has ─▶ birth of the root ─▶ records ─▶ births below ─▶ … ─▶ the end ◀─ images
//!                                   └────── each by the row of the attribute ──────┘
//! ```
//!
//! Each attribute is one [`Row`] of [`TABLE`]: whose it is, what `fork` and the start of a thread make
//! of it, what a change of credentials does to it, whether there is a way back. The checker moves the
//! [`Value`]s of every task and thread by these rows and nothing else, and compares them in the end
//! with the images. Every row is tested on the running kernel (tests/attributes.rs).
//!
//! The root is born of a process that nobody has looked into: what it inherits is *unknown*, but for the
//! facts about the host that the caller states ([`super::Expected::inherited`]).
//!
//! Worked example: the parent-death signal has the row `thread`, *cleared* by both births, *reset* by
//! credentials. A tape that sets it and then changes the effective uid ends without one, and is answered
//! with `task 12: parent-death signal is 0 at the end, the images say 15`.
//!
//! # Sources
//! `fork(2)`, `clone(2)`, `credentials(7)`, `capabilities(7)`, `prctl(2)`, `sched(7)`, `signal(7)`;
//! kernel/fork.c (`copy_process`, `copy_signal`, `mm_init`), kernel/cred.c (`commit_creds`),
//! kernel/sched/core.c (`sched_fork`), kernel/signal.c, security/commoncap.c.

pub(super) mod compare;
pub(super) mod state;
pub(super) mod step;
#[cfg(test)]
mod tests;
pub(super) mod value;

pub use value::{Action, Limit, Pending, Timer, Value, timer_event};

use serde::{Deserialize, Serialize};

use AttributeKind as Kind;

/// Whose an attribute is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All threads of a task have one in common.
    Task,
    /// Each thread has its own.
    Thread,
}

/// What a birth makes of an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inherit {
    /// The child starts with what its maker has.
    Copied,
    /// The child starts with [`Row::cleared`].
    Cleared,
    /// There is only one, of the task.
    Shared,
    /// The child starts with what its maker has of another attribute.
    Takes(AttributeKind),
    /// Copied, unless the maker's policy has SCHED_RESET_ON_FORK: then without that flag, a real-time
    /// policy as SCHED_OTHER at nice 0, and no nice value below 0 (`sched(7)`).
    CopiedUnlessReset,
}

/// What a change of credentials does to an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCredentials {
    /// Nothing.
    Kept,
    /// It is one of them, and changes only by the calls that are for it.
    Own,
    /// Cleared (dumpable: set to `fs.suid_dumpable`) when the effective or file system uid or gid changes.
    Reset,
    /// It follows the effective id.
    Follows,
    /// Cleared when no uid is 0 any more, unless a securebit says otherwise.
    LostWithRoot,
}

/// What [`Inherit::Cleared`] and [`OnCredentials::Reset`] leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleared {
    /// The number 0.
    Zero,
    /// [`Value::Nothing`].
    Nothing,
}

/// How a value is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Form {
    Decimal,
    Signed,
    Octal,
    Hex,
}

/// What the table says of one attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Which.
    pub kind: AttributeKind,
    /// Its name in messages.
    pub name: &'static str,
    /// Whose it is.
    pub scope: Scope,
    /// What `fork` makes of it.
    pub on_fork: Inherit,
    /// What the start of a thread makes of it.
    pub on_thread: Inherit,
    /// What a change of credentials does to it.
    pub on_credentials: OnCredentials,
    /// Whether some of its changes cannot be taken back, so that they must follow the fork of a child
    /// that is without them.
    pub one_way: bool,
    /// What is left when it is cleared.
    pub cleared: Cleared,
    /// How it is shown.
    pub form: Form,
}

/// An attribute of a task or thread. The order is that of [`TABLE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum AttributeKind {
    // Of the task.
    Umask,
    WorkingDirectory,
    RootDirectory,
    Dumpable,
    Subreaper,
    ThpDisable,
    SigActions,
    Membarrier,
    IntervalTimers,
    PosixTimers,
    TimerIds,
    PendingShared,
    Limits,
    OomScoreAdj,
    Cgroups,
    MmLayout,
    AuxiliaryVector,
    Executable,
    // Of the thread.
    Name,
    Personality,
    ParentDeathSignal,
    TimerSlack,
    DefaultTimerSlack,
    SigMask,
    AltStack,
    RobustList,
    TidAddress,
    Rseq,
    Pending,
    Nice,
    Scheduler,
    LoginUid,
    Uid,
    EffectiveUid,
    SavedUid,
    FsUid,
    Gid,
    EffectiveGid,
    SavedGid,
    FsGid,
    Groups,
    CapEffective,
    CapPermitted,
    CapInheritable,
    CapBounding,
    CapAmbient,
    Securebits,
    KeepCaps,
    NoNewPrivs,
    Seccomp,
}

/// How many rows there are.
pub const ATTRIBUTES: usize = 50;

impl AttributeKind {
    /// Its row.
    pub fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }
}

/// One for the whole task: threads share it, a child gets a copy.
const fn task(kind: Kind, name: &'static str, form: Form) -> Row {
    Row {
        kind,
        name,
        scope: Scope::Task,
        on_fork: Inherit::Copied,
        on_thread: Inherit::Shared,
        on_credentials: OnCredentials::Kept,
        one_way: false,
        cleared: Cleared::Zero,
        form,
    }
}

/// One a thread: every birth copies it.
const fn thread(kind: Kind, name: &'static str, form: Form) -> Row {
    Row { scope: Scope::Thread, on_thread: Inherit::Copied, ..task(kind, name, form) }
}

/// A credential: each thread's own, copied by every birth.
const fn credential(kind: Kind, name: &'static str, form: Form) -> Row {
    Row { on_credentials: OnCredentials::Own, ..thread(kind, name, form) }
}

impl Row {
    const fn fresh_in_child(self, cleared: Cleared) -> Row {
        Row { on_fork: Inherit::Cleared, cleared, ..self }
    }

    const fn fresh_in_thread(self, cleared: Cleared) -> Row {
        Row { on_thread: Inherit::Cleared, cleared, ..self }
    }

    const fn always_fresh(self, cleared: Cleared) -> Row {
        self.fresh_in_child(cleared).fresh_in_thread(cleared)
    }

    const fn born(self, how: Inherit) -> Row {
        Row { on_fork: how, on_thread: how, ..self }
    }

    const fn by_credentials(self, how: OnCredentials) -> Row {
        Row { on_credentials: how, ..self }
    }

    const fn one_way(self) -> Row {
        Row { one_way: true, ..self }
    }
}

use Cleared::{Nothing, Zero};
use Form::{Decimal, Hex, Octal, Signed};

/// The table.
pub static TABLE: [Row; ATTRIBUTES] = [
    task(Kind::Umask, "umask", Octal),
    task(Kind::WorkingDirectory, "working directory", Decimal),
    task(Kind::RootDirectory, "root directory", Decimal),
    // Of the address space, which a fork copies (MMF_INIT_LEGACY_MASK).
    task(Kind::Dumpable, "dumpable", Decimal).by_credentials(OnCredentials::Reset),
    task(Kind::Subreaper, "child subreaper", Decimal).fresh_in_child(Zero),
    task(Kind::ThpDisable, "huge pages disabled", Decimal),
    task(Kind::SigActions, "actions of signals", Decimal),
    // Nobody can take one back.
    task(Kind::Membarrier, "registrations for membarrier", Hex).one_way(),
    task(Kind::IntervalTimers, "interval timers", Decimal).fresh_in_child(Nothing),
    task(Kind::PosixTimers, "POSIX timers", Decimal).fresh_in_child(Nothing),
    task(Kind::TimerIds, "the mode in which timers get the ids that are asked for", Decimal)
        .fresh_in_child(Zero),
    task(Kind::PendingShared, "signals pending for the whole task", Decimal).fresh_in_child(Nothing),
    // A hard limit is raised with CAP_SYS_RESOURCE only.
    task(Kind::Limits, "resource limits", Decimal).one_way(),
    task(Kind::OomScoreAdj, "oom_score_adj", Signed),
    // Where it is not the caller's, by hierarchy. A thread has its own, but what is written moves all of a task.
    task(Kind::Cgroups, "cgroups", Decimal),
    task(Kind::MmLayout, "addresses of the layout (code, data, break, stack, arguments, environment)", Hex),
    task(Kind::AuxiliaryVector, "auxiliary vector", Decimal),
    task(Kind::Executable, "executable", Decimal),
    thread(Kind::Name, "name", Decimal),
    thread(Kind::Personality, "personality", Hex),
    thread(Kind::ParentDeathSignal, "parent-death signal", Decimal)
        .always_fresh(Zero)
        .by_credentials(OnCredentials::Reset),
    thread(Kind::TimerSlack, "timer slack", Decimal),
    thread(Kind::DefaultTimerSlack, "default timer slack", Decimal).born(Inherit::Takes(Kind::TimerSlack)),
    thread(Kind::SigMask, "blocked signals before the commit", Hex),
    // A thread runs on another stack, but in the same memory (`sas_ss_reset`).
    thread(Kind::AltStack, "alternate signal stack", Hex).fresh_in_thread(Nothing),
    thread(Kind::RobustList, "list of robust futexes", Hex).always_fresh(Nothing),
    thread(Kind::TidAddress, "address cleared at its exit", Hex).always_fresh(Zero),
    thread(Kind::Rseq, "area for restartable sequences", Hex).fresh_in_thread(Nothing),
    thread(Kind::Pending, "signals pending", Decimal).always_fresh(Nothing),
    thread(Kind::Nice, "nice", Signed).born(Inherit::CopiedUnlessReset),
    thread(Kind::Scheduler, "scheduling policy and priority", Decimal).born(Inherit::CopiedUnlessReset),
    thread(Kind::LoginUid, "login uid", Decimal),
    credential(Kind::Uid, "real uid", Decimal),
    credential(Kind::EffectiveUid, "effective uid", Decimal),
    credential(Kind::SavedUid, "saved uid", Decimal),
    credential(Kind::FsUid, "file system uid", Decimal).by_credentials(OnCredentials::Follows),
    credential(Kind::Gid, "real gid", Decimal),
    credential(Kind::EffectiveGid, "effective gid", Decimal),
    credential(Kind::SavedGid, "saved gid", Decimal),
    credential(Kind::FsGid, "file system gid", Decimal).by_credentials(OnCredentials::Follows),
    credential(Kind::Groups, "supplementary groups", Decimal),
    credential(Kind::CapEffective, "effective capabilities", Hex).by_credentials(OnCredentials::LostWithRoot),
    credential(Kind::CapPermitted, "permitted capabilities", Hex)
        .by_credentials(OnCredentials::LostWithRoot)
        .one_way(),
    credential(Kind::CapInheritable, "inheritable capabilities", Hex),
    credential(Kind::CapBounding, "bounding set", Hex).one_way(),
    credential(Kind::CapAmbient, "ambient capabilities", Hex).by_credentials(OnCredentials::LostWithRoot),
    credential(Kind::Securebits, "securebits", Hex).one_way(),
    credential(Kind::KeepCaps, "keeping of capabilities", Decimal),
    thread(Kind::NoNewPrivs, "no_new_privs", Decimal).one_way(),
    // The filters themselves are compared apart.
    thread(Kind::Seccomp, "seccomp mode", Decimal).one_way(),
];

const _: () = {
    let mut at = 0;
    while at < ATTRIBUTES {
        assert!(TABLE[at].kind as usize == at, "the rows stand in the order of the kinds");
        at += 1;
    }
    assert!(Kind::Seccomp as usize + 1 == ATTRIBUTES);
};
