//! What is said of a task, a description, a segment: data, for text and for JSON.

use regrow_graph::ids::{Fd, OpId, ResourceId};
use serde::Serialize;

use crate::image::Origin;

/// An explanation.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// [`super::FORMAT`].
    pub format: &'static str,
    /// What it is of.
    #[serde(flatten)]
    pub about: About,
}

/// What is explained.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum About {
    /// A task.
    Task(Box<TaskStory>),
    /// A description, seen from a task or from nobody.
    Description(Box<OfdStory>),
    /// Shared memory.
    SharedMemory(Box<ShmStory>),
}

/// A task.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct TaskStory {
    pub pid: u32,
    pub comm: String,
    /// What it is, in words.
    pub role: &'static str,
    /// Who makes it; `None`: the launcher.
    pub born_by: Option<u32>,
    /// Its parent in the end.
    pub parent: Option<u32>,
    /// Why by whom, and why then.
    pub birth: Vec<String>,
    /// How it gets into its session and its group.
    pub family: Vec<String>,
    /// How it gets its memory.
    pub memory: Option<&'static str>,
    /// What is open when it is born.
    pub inherits: Vec<Inherited>,
    /// What it makes.
    pub creates: Vec<Act>,
    /// What it moves to other numbers.
    pub moves: Vec<Act>,
    /// What it closes.
    pub drops: Vec<Act>,
    /// Whom it forks, and which threads it starts.
    pub forks: Vec<u32>,
    pub waits_for: Vec<Meeting>,
    pub awaited_by: Vec<Meeting>,
    pub records: u32,
    /// By the model: all its records, and its birth.
    pub work_ns: u64,
    /// Of the critical path up to the barrier, how much is this task's.
    pub on_critical_path_ns: u64,
    pub origin: Origin,
}

/// A descriptor that a task is born with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inherited {
    /// Its number.
    pub fd: Fd,
    /// What it is.
    pub what: String,
    /// What becomes of it.
    pub then: String,
}

/// Something that a task does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Act {
    /// The operation.
    pub op: OpId,
    /// Of this task.
    pub pid: u32,
    /// In words.
    pub what: String,
    /// Why; empty: it just follows.
    pub because: String,
    /// What it costs by the model.
    pub cost_ns: u64,
}

/// A wait of one task for another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Meeting {
    /// Who waits.
    pub waits: u32,
    /// Before doing this.
    pub before: String,
    /// For whom.
    pub whom: u32,
    /// To have done this.
    pub done: String,
    /// Why.
    pub because: String,
}

/// Who makes something, and why there.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Making {
    pub resource: ResourceId,
    pub kind: &'static str,
    pub name: String,
    /// Pid of who makes it.
    pub owner: u32,
    /// Why there.
    pub because: Vec<String>,
    /// The operation that makes it.
    pub made: Option<Act>,
    pub origin: Origin,
}

/// A description.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct OfdStory {
    /// In the images.
    pub id: u32,
    /// The task and the number that were asked for.
    pub seen_from: Option<(u32, Fd)>,
    /// The image entry.
    pub origin: Origin,
    /// `None`: nobody has it.
    pub making: Option<Making>,
    /// Who has it in the end, and where.
    pub holders: Vec<Holder>,
    /// How it gets to them: each task on the way, parents first.
    pub way: Vec<Stay>,
    pub waits_for: Vec<Meeting>,
    pub awaited_by: Vec<Meeting>,
    pub costs: OfdCosts,
}

/// Who has a description in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Pid.
    pub pid: u32,
    /// At which numbers.
    pub fds: Vec<Fd>,
}

/// A description in a task on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stay {
    /// The task.
    pub pid: u32,
    /// The numbers that it is born with; empty in the task that makes it.
    pub born_with: Vec<Fd>,
    /// What it does with it.
    pub acts: Vec<Act>,
    /// Which children it hands it down to, and under which numbers.
    pub hands_to: Vec<Holder>,
    /// Where it has it in the end; empty: no more.
    pub ends_with: Vec<Fd>,
}

/// What a description costs by the model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct OfdCosts {
    /// Making it, with all that is made together with it.
    pub making_ns: u64,
    /// Moving it to other numbers.
    pub moving_ns: u64,
    /// Closing it where it is not wanted; calls that close others, too, in full.
    pub closing_ns: u64,
    /// How many times a fork copies it.
    pub copies: u64,
    /// All these copies.
    pub copying_ns: u64,
    /// Copies in tasks that do not have it in the end.
    pub only_passed_through: u64,
}

/// Shared memory.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct ShmStory {
    pub id: u64,
    pub making: Making,
    /// Where it is mapped for all below the owner, until the end.
    pub carried_at: u64,
    pub len_bytes: u64,
    /// The steps that fill it.
    pub fills: Vec<Act>,
    /// Its views.
    pub views: Vec<View>,
    /// Tasks that have the carrier only because it passes through them, or was there when they were born.
    pub passed_through: Vec<u32>,
    pub waits_for: Vec<Meeting>,
    pub awaited_by: Vec<Meeting>,
    /// Making, filling and viewing it, by the model.
    pub cost_ns: u64,
}

/// A view of shared memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct View {
    /// Who maps it.
    pub pid: u32,
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub len_bytes: u64,
    /// From where in the segment.
    pub offset_bytes: u64,
    /// The step.
    pub act: Act,
}
