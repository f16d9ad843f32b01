//! What the checker says: a [`Certificate`], or the first [`Counterexample`] that it met.

use std::fmt;

use serde::Serialize;
use thiserror::Error;

use crate::ids::Fd;

/// What was checked and found right.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// Living tasks.
    pub tasks: u64,
    /// Their threads beside the first ones.
    pub threads: u64,
    /// Zombies.
    pub zombies: u64,
    /// Helper tasks, born and reaped before the barrier.
    pub helpers: u64,
    /// Records executed symbolically.
    pub records: u64,
    /// Demand 1: posts.
    pub posts: u64,
    /// Demand 1: waits for events.
    pub waits: u64,
    /// Demand 1: waits for deaths.
    pub deaths_awaited: u64,
    /// Demand 1: pairs of records of two tasks on one thing, whose order is certain.
    pub orders_proved: u64,
    /// Demand 1: messages with descriptors received, each of which has certainly been sent before.
    pub messages_received: u64,
    /// Demand 2: descriptors compared with the images.
    pub descriptors: u64,
    /// Demand 2: open file descriptions matched one to one with the images'.
    pub descriptions: u64,
    /// Demand 2: pipes and sockets matched one to one.
    pub objects: u64,
    /// Demand 2: bytes that wait in pipes and sockets, compared.
    pub queued_bytes: u64,
    /// Demand 3: changes of address spaces; all keep clear of the tapes.
    pub memory_changes: u64,
    /// Demand 3: mappings of the images compared.
    pub mappings: u64,
    /// Demand 3: pages whose content was read from where the images have it, those of shared memory once.
    pub pages: u64,
    /// Demand 3: shared memory without a name, matched one to one with the images'.
    pub segments: u64,
    /// Demand 3: System V objects of the tree's IPC namespace, compared.
    pub ipc_objects: u64,
    /// Demand 3: functions of dumped vDSOs that lead to the running kernel's.
    pub vdso_jumps: u64,
    /// Demand 4: orphans that came to the right subreaper.
    pub adoptions: u64,
    /// Demand 4: births.
    pub births: u64,
    /// Demand 4: sessions and process groups entered or founded.
    pub family_changes: u64,
    /// Demand 5: records that give up a privilege, and after which nothing needs it.
    pub privilege_drops: u64,
    /// Demand 5: filters of system calls, none of which acts before its thread is let go.
    pub filters: u64,
    /// Demand 6: attributes of tasks and threads compared.
    pub attributes: u64,
    /// Demand 6: what is as the images say because the tree's starter has it so.
    pub host_facts: Vec<String>,
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "certified: {} records of {} tasks, {} further threads, {} zombies, {} helpers",
            self.records, self.tasks, self.threads, self.zombies, self.helpers
        )?;
        writeln!(
            f,
            "  1 no deadlock: {} waits, {} posts, {} deaths awaited, {} orders proved{}",
            self.waits,
            self.posts,
            self.deaths_awaited,
            self.orders_proved,
            if self.messages_received > 0 {
                format!(", {} messages received", self.messages_received)
            } else {
                String::new()
            }
        )?;
        writeln!(
            f,
            "  2 descriptors: {} descriptors, {} descriptions, {} pipes and sockets, {} bytes queued",
            self.descriptors, self.descriptions, self.objects, self.queued_bytes
        )?;
        write!(
            f,
            "  3 address spaces: {} mappings, {} pages, {} segments of shared memory, by {} changes",
            self.mappings, self.pages, self.segments, self.memory_changes
        )?;
        if self.ipc_objects > 0 {
            write!(f, "; {} System V objects", self.ipc_objects)?;
        }
        if self.vdso_jumps > 0 {
            write!(f, "; {} functions lead to the vDSO of this kernel", self.vdso_jumps)?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "  4 family: {} births, {} adoptions, {} sessions and groups entered",
            self.births, self.adoptions, self.family_changes
        )?;
        write!(f, "  5 privileges: {} given up, none needed afterwards", self.privilege_drops)?;
        if self.filters > 0 {
            write!(f, "; {} seccomp filters, suspended", self.filters)?;
        }
        write!(
            f,
            "\n  6 attributes: {} compared, {} facts about the host relied on",
            self.attributes,
            self.host_facts.len()
        )
    }
}

/// A step at which tapes and images part.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct Counterexample {
    /// The task, by pid.
    pub task: u32,
    /// The record of its tape; `None`: its end.
    pub record: Option<u32>,
    /// What is wrong.
    pub wrong: Wrong,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {}", self.task)?;
        if let Some(record) = self.record {
            write!(f, ", record {record}")?;
        }
        write!(f, ": {}", self.wrong)
    }
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum Wrong {
    // Records.
    #[error("unknown effect: {what}")]
    NotUnderstood { what: String },
    #[error("unknown effect: {call}: {what} is not modelled")]
    NotModelled { call: &'static str, what: String },
    #[error("the images cannot be used to check it: {what}")]
    Images { what: String },

    // 1: waits, posts, blocking.
    #[error("waits for event {event}, which nobody posts")]
    NeverPosted { event: u32 },
    #[error("posts event {event}, which task {by} posts, too, in record {at}")]
    PostedTwice { event: u32, by: u32, at: u32 },
    #[error("can never go on: {}", .chain.join("; "))]
    Deadlock { chain: Vec<String> },
    #[error("{call} would block: {what} holds {holds} of {capacity} bytes and nobody is ordered to read it")]
    WouldBlock { call: &'static str, what: String, holds: u64, capacity: u64 },
    #[error("receives from {what} what nobody has sent: it would wait for ever, or fail")]
    NothingToReceive { what: String },
    #[error("receives from {what} a message of {is}, and there is room for {wanted}")]
    OtherMessage { what: String, is: String, wanted: String },
    #[error("sends descriptors that nobody receives")]
    MessageLeft,
    #[error("sends {count} descriptors, {most} are the most {why}")]
    TooManyRights { count: usize, most: usize, why: &'static str },
    #[error("receives descriptors and does not look whether it has got them")]
    NotProbed,
    #[error("opens the FIFO {path} where its other end is not certainly open: that would block")]
    OpenBlocks { path: String },
    #[error("{call} on {what} is not ordered with record {at} of task {by}, which changes it, too")]
    Unordered { call: &'static str, what: String, by: u32, at: u32 },
    #[error("{call} after the barrier: the tail waits for nobody and makes nothing")]
    InTail { call: &'static str },
    #[error("waits for the death of task {pid}, which {why}")]
    AwaitsNobody { pid: u32, why: &'static str },

    // 2: descriptors.
    #[error("{call}: descriptor {fd} is not open")]
    NotOpen { call: &'static str, fd: Fd },
    #[error("{call} gives descriptor {is}, the record expects {expected}")]
    OtherNumber { call: &'static str, is: Fd, expected: Fd },
    #[error("{call}: descriptor {fd} is beyond every limit")]
    NumberTooHigh { call: &'static str, fd: Fd },
    #[error("{call} while descriptors of the launcher may still be open")]
    LauncherDescriptors { call: &'static str },
    #[error("opens {path}, which the images do not mention")]
    OpensOther { path: String },
    #[error("{call} of {path}, which {why}")]
    BadName { call: &'static str, path: String, why: &'static str },
    #[error("{path} is made and not removed again")]
    NameLeft { path: String },
    #[error("opens {path} with {flags:#o}, which may create or truncate it")]
    OpensToChange { path: String, flags: u32 },
    #[error("{call} on {what}: the kernel refuses that")]
    Refused { call: &'static str, what: String },
    #[error("{call} changes {what}, which the restore must not")]
    ChangesFile { call: &'static str, what: String },
    #[error("its clocks {is}, the images say that they {wanted}")]
    WrongClocks { is: String, wanted: String },
    #[error("{call} into {what}, which nobody can read any more")]
    NoReader { call: &'static str, what: String },
    #[error("descriptor {fd} is missing at the end; the images say {wanted}")]
    Missing { fd: Fd, wanted: String },
    #[error("descriptor {fd} ({is}) is open at the end; the images have nothing there")]
    Leaked { fd: Fd, is: String },
    #[error("descriptor {fd} ends with close-on-exec {}, the images say {}", on(*.is), on(!*.is))]
    WrongCloexec { fd: Fd, is: bool },
    #[error("descriptor {fd} ends as {is}, the images say {wanted}")]
    WrongDescription { fd: Fd, is: String, wanted: String },
    #[error(
        "descriptor {fd} ends as the same description as descriptor {other_fd} of task {other} ({is}), the images say {wanted}"
    )]
    SharedDescription { fd: Fd, is: String, other: u32, other_fd: Fd, wanted: String },
    #[error(
        "descriptor {fd} ends as a description of its own ({is}), the images say that it shares {wanted} with descriptor {other_fd} of task {other}"
    )]
    SeparateDescription { fd: Fd, is: String, other: u32, other_fd: Fd, wanted: String },
    #[error("descriptor {fd} ends as {is}, the images say {wanted}: the ends do not belong together")]
    CrossedEnds { fd: Fd, is: String, wanted: String },
    #[error("descriptor {fd} ({what}): {attribute} ends as {is}, the images say {wanted}")]
    WrongAttribute { fd: Fd, what: String, attribute: &'static str, is: String, wanted: String },
    #[error("descriptor {fd}: {what} cannot be checked yet")]
    Uncheckable { fd: Fd, what: String },
    #[error("its descriptor table is {}, the images say {}", table(*.shared), table(!*.shared))]
    WrongSharing { shared: bool },

    // 3: address spaces.
    #[error("{call} of {at:#x}..{end:#x}: {why}")]
    BadRange { call: &'static str, at: u64, end: u64, why: &'static str },
    #[error("{call}: {at:#x}: {why}")]
    BadPatch { call: &'static str, at: u64, why: &'static str },
    #[error("{at:#x}..{end:#x} ends as {is}, the images say {wanted}")]
    WrongMapping { at: u64, end: u64, is: String, wanted: String },
    #[error("{at:#x}..{end:#x} ends with what the launcher may have had there")]
    LauncherMemory { at: u64, end: u64 },
    #[error("{at:#x}..{end:#x} ends {} a guard, the images say {}", with(*.is), with(!*.is))]
    WrongGuard { at: u64, end: u64, is: bool },
    #[error(
        "the ring at {at:#x} ends read and written up to {}, the images say {} and {}",
        .is.map_or_else(|| "nothing".to_owned(), |(head, tail)| format!("{head} and {tail}")), .wanted.0, .wanted.1
    )]
    WrongRing { at: u64, is: Option<(u64, u64)>, wanted: (u64, u64) },
    #[error("{at:#x}..{end:#x} ends with {is}, the images say {wanted}")]
    WrongPages { at: u64, end: u64, is: String, wanted: String },
    #[error("shared memory {segment:#x} ends {is_bytes:#x} bytes long, the images say {wanted_bytes:#x}")]
    WrongLength { segment: u64, is_bytes: u64, wanted_bytes: u64 },
    #[error("{what}")]
    WrongIpc { what: String },
    #[error("shared memory {segment:#x}, {at:#x}..{end:#x}, ends with {is}, the images say {wanted}")]
    WrongShared { segment: u64, at: u64, end: u64, is: String, wanted: String },
    #[error("arrives without the vDSO that the images say")]
    NoVdso,
    #[error("arrives, and the function {at:#x} of its vDSO does not lead to this kernel's")]
    Unled { at: u64 },

    // 4: family.
    #[error("is never created")]
    NeverBorn,
    #[error("task {child} is created a second time")]
    BornTwice { child: u32 },
    #[error("creates task {child}, which is neither in the images nor has a tape")]
    BornUnasked { child: u32 },
    #[error("the images have task {pid} twice")]
    PidTwice { pid: u32 },
    #[error("its parent is {is}, the images say {wanted}")]
    WrongParent { is: u32, wanted: u32 },
    #[error("its death is told by signal {is}, must be by {wanted}")]
    WrongExitSignal { is: u64, wanted: u64 },
    #[error("ends in session {}, the images say {wanted}", id(*.is))]
    WrongSession { is: u32, wanted: u32 },
    #[error("ends in process group {}, the images say {wanted}", id(*.is))]
    WrongGroup { is: u32, wanted: u32 },
    #[error("leaves children, and task {adopter} is not certainly ready to adopt them then")]
    UncertainAdopter { adopter: u32 },
    #[error("becomes a subreaper, and the orphans of task {of} have not certainly passed by it before")]
    UncertainOrphans { of: u32 },
    #[error("setsid by the leader of a process group")]
    SetsidByLeader,
    #[error("setpgid by a session leader")]
    SetpgidByLeader,
    #[error(
        "setpgid to group {pgid}, which does not exist then: its leader has not certainly founded it before"
    )]
    NoSuchGroup { pgid: u32 },
    #[error("setpgid to group {pgid} of another session")]
    OtherSession { pgid: u32 },
    #[error("the barrier waits for {is} tasks, and {wanted} live")]
    WrongTotal { is: u32, wanted: u32 },
    #[error("{what}, and should live on")]
    Dies { what: String },
    #[error("lives on, and the images say that it is a zombie")]
    ShouldDie,
    #[error("dies with status {is:#x}, the images say {wanted:#x}")]
    WrongStatus { is: u32, wanted: u32 },
    #[error("dies by signal {signal}, {why}")]
    UncertainDeath { signal: u32, why: &'static str },
    #[error("never arrives at the barrier")]
    NeverArrives,
    #[error("arrives at the barrier a second time")]
    ArrivesTwice,
    #[error("parks before it has arrived at the barrier")]
    ParksEarly,
    #[error("its tape goes on behind its end")]
    BehindEnd,
    #[error("its tape ends without parking or dying")]
    NoEnd,
    #[error("reaps task {pid}, which the images have as a zombie")]
    ReapsZombie { pid: u32 },
    #[error("nobody makes sure that it has died before the barrier opens")]
    ZombieNotAwaited,
    #[error("is a helper and is not reaped before the barrier")]
    HelperLeft,
    #[error("may ignore SIGCHLD while task {pid} dies: nothing would be left of it")]
    ZombieVanishes { pid: u32 },
    #[error("its thread {tid} is never created")]
    ThreadMissing { tid: u32 },
    #[error("is a thread of task {wanted}, and task {is} starts it")]
    ThreadOfOther { is: u32, wanted: u32 },
    #[error("is a thread in the images and a task of its own in the tapes")]
    NotAThread,
    #[error("{call} of a thread that is not its task's first")]
    ByThread { call: &'static str },
    #[error("F_SETOWN to {pid}, which does not certainly exist then")]
    OwnerMissing { pid: u32 },
    #[error("queues signal {signal} {why}")]
    BadSignal { signal: u32, why: &'static str },

    // 5: privileges.
    #[error("{call} needs a privilege that {dropped_by} in record {dropped_in} gives up")]
    AfterDrop { call: &'static str, dropped_by: &'static str, dropped_in: u32 },
    #[error("seccomp before the barrier: it could deny what follows")]
    FilterEarly,
    #[error("seccomp is not suspended in thread {tid}: it could deny what follows")]
    FilterActs { tid: u32 },

    // 6: attributes.
    #[error("{attribute} is {is} at the end, the images say {wanted}")]
    AttributeEnds { attribute: String, is: String, wanted: String },
    #[error("{what} is raised from {from} to {to}, and there is no way back without a privilege")]
    OneWay { what: String, from: u64, to: u64 },
    #[error("thread {tid}: the commit sets its {what} to {is}, the images say {wanted}")]
    CommitSets { tid: u32, what: &'static str, is: String, wanted: String },
    #[error("thread {tid} ends with seccomp: {is}; the images say: {wanted}")]
    WrongSeccomp { tid: u32, is: String, wanted: String },
}

impl Wrong {
    /// The number of the demand (DESIGN.md, "Verification is separate from scheduling") that is not
    /// met; 0: what the tapes do is not known.
    pub fn demand(&self) -> u32 {
        match self {
            Wrong::NotUnderstood { .. } | Wrong::NotModelled { .. } | Wrong::Images { .. } => 0,
            Wrong::NeverPosted { .. }
            | Wrong::PostedTwice { .. }
            | Wrong::Deadlock { .. }
            | Wrong::WouldBlock { .. }
            | Wrong::OpenBlocks { .. }
            | Wrong::NothingToReceive { .. }
            | Wrong::TooManyRights { .. }
            | Wrong::Unordered { .. }
            | Wrong::InTail { .. }
            | Wrong::AwaitsNobody { .. } => 1,
            Wrong::NotOpen { .. }
            | Wrong::OtherNumber { .. }
            | Wrong::NumberTooHigh { .. }
            | Wrong::LauncherDescriptors { .. }
            | Wrong::OpensOther { .. }
            | Wrong::OpensToChange { .. }
            | Wrong::BadName { .. }
            | Wrong::NameLeft { .. }
            | Wrong::Refused { .. }
            | Wrong::ChangesFile { .. }
            | Wrong::NoReader { .. }
            | Wrong::OtherMessage { .. }
            | Wrong::MessageLeft
            | Wrong::NotProbed
            | Wrong::Missing { .. }
            | Wrong::Leaked { .. }
            | Wrong::WrongCloexec { .. }
            | Wrong::WrongDescription { .. }
            | Wrong::SharedDescription { .. }
            | Wrong::SeparateDescription { .. }
            | Wrong::CrossedEnds { .. }
            | Wrong::WrongAttribute { .. }
            | Wrong::Uncheckable { .. }
            | Wrong::WrongSharing { .. } => 2,
            Wrong::BadRange { .. }
            | Wrong::WrongMapping { .. }
            | Wrong::LauncherMemory { .. }
            | Wrong::WrongGuard { .. }
            | Wrong::WrongRing { .. }
            | Wrong::WrongPages { .. }
            | Wrong::WrongLength { .. }
            | Wrong::WrongShared { .. }
            | Wrong::WrongIpc { .. }
            | Wrong::BadPatch { .. }
            | Wrong::NoVdso
            | Wrong::Unled { .. } => 3,
            Wrong::NeverBorn
            | Wrong::BornTwice { .. }
            | Wrong::BornUnasked { .. }
            | Wrong::PidTwice { .. }
            | Wrong::WrongParent { .. }
            | Wrong::WrongExitSignal { .. }
            | Wrong::WrongSession { .. }
            | Wrong::WrongGroup { .. }
            | Wrong::UncertainAdopter { .. }
            | Wrong::UncertainOrphans { .. }
            | Wrong::SetsidByLeader
            | Wrong::SetpgidByLeader
            | Wrong::NoSuchGroup { .. }
            | Wrong::OtherSession { .. }
            | Wrong::WrongTotal { .. }
            | Wrong::Dies { .. }
            | Wrong::ShouldDie
            | Wrong::WrongStatus { .. }
            | Wrong::UncertainDeath { .. }
            | Wrong::NeverArrives
            | Wrong::ArrivesTwice
            | Wrong::ParksEarly
            | Wrong::BehindEnd
            | Wrong::NoEnd
            | Wrong::ReapsZombie { .. }
            | Wrong::ZombieNotAwaited
            | Wrong::HelperLeft
            | Wrong::ZombieVanishes { .. }
            | Wrong::ThreadMissing { .. }
            | Wrong::ThreadOfOther { .. }
            | Wrong::NotAThread
            | Wrong::ByThread { .. }
            | Wrong::OwnerMissing { .. }
            | Wrong::BadSignal { .. } => 4,
            Wrong::AfterDrop { .. } | Wrong::FilterEarly | Wrong::FilterActs { .. } => 5,
            Wrong::AttributeEnds { .. }
            | Wrong::OneWay { .. }
            | Wrong::CommitSets { .. }
            | Wrong::WrongClocks { .. }
            | Wrong::WrongSeccomp { .. } => 6,
        }
    }
}

fn on(flag: bool) -> &'static str {
    if flag { "on" } else { "off" }
}

fn with(flag: bool) -> &'static str {
    if flag { "with" } else { "without" }
}

fn table(shared: bool) -> &'static str {
    if shared { "shared with another task's" } else { "its own" }
}

fn id(number: u32) -> String {
    if number == 0 { "of the launcher".to_owned() } else { number.to_string() }
}
