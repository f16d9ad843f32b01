//! The DAG: operations as nodes, an edge for everything that must come first, a [`Reason`] on each.
//!
//! That a task does one thing after another is not stored as edges. It does not decide anything: who does
//! what is [`crate::place`]'s, when a task may enter a session [`crate::family`]'s, the total order
//! [`crate::order`]'s.

use std::fmt;

use serde::Serialize;

use crate::ids::{Fd, Fds, OfdId, OpId, ResourceId, StepId, TaskId};

/// What an operation does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum OpKind {
    /// Fork `child`.
    Fork {
        /// Where the directory of the cgroup is that it is born in; `None`: its forker's.
        #[serde(skip_serializing_if = "Option::is_none")]
        into: Option<Fd>,
        /// The task that is born.
        child: TaskId,
    },
    /// Start a further thread.
    StartThread {
        /// The thread.
        thread: TaskId,
    },
    /// Make a resource. Its descriptors appear at the numbers `at`, which the kernel chooses as the
    /// lowest free ones.
    Create {
        /// What is made.
        resource: ResourceId,
        /// One number for each of its yields.
        at: Fds,
        /// Close-on-exec of the new numbers.
        cloexec: bool,
    },
    /// Copy a descriptor to another number, closing what was there.
    Dup {
        /// The description.
        ofd: Option<OfdId>,
        /// From this number
        from: Fd,
        /// to this one.
        to: Fd,
        /// Close-on-exec of the copy.
        cloexec: bool,
    },
    /// Close all numbers from `first` to `last`.
    Close {
        /// First number.
        first: Fd,
        /// Last number.
        last: Fd,
    },
    /// Send descriptions through a channel.
    Send {
        /// The channel.
        channel: ResourceId,
        /// The number of its sending end.
        through: Fd,
        /// The descriptions.
        ofds: Box<[OfdId]>,
        /// Their numbers.
        fds: Box<[Fd]>,
    },
    /// Receive the descriptions of the next message of a channel. They appear at the numbers `at`,
    /// which the kernel chooses as the lowest free ones.
    Receive {
        /// The channel.
        channel: ResourceId,
        /// The number of its receiving end.
        through: Fd,
        /// The descriptions.
        ofds: Box<[OfdId]>,
        /// One number for each.
        at: Box<[Fd]>,
        /// Close-on-exec of the new numbers.
        cloexec: bool,
        /// The message stays in the channel, for others.
        stays: bool,
    },
    /// The end of a stage, or the beginning of the next, which nobody enters before all have come to the end
    /// of the last. It takes no system call.
    Stage {
        /// The stage that ends or begins.
        number: u8,
        /// It begins.
        begins: bool,
    },
    /// The task hands on what it shares with tasks that it has forked, or gets it: between the two others work on it,
    /// and this task does not. It takes no system call.
    Turn {
        /// It gets it; else it hands it on.
        begins: bool,
    },
    /// Set the close-on-exec flag.
    SetCloexec {
        /// The number.
        fd: Fd,
        /// The flag.
        cloexec: bool,
    },
    /// Become leader of a new session.
    SetSid,
    /// Enter, or found, a process group.
    SetPgid {
        /// The group; the task's own pid founds it.
        pgid: u32,
    },
    /// Become the parent of those below whose parents die (`PR_SET_CHILD_SUBREAPER`).
    BecomeSubreaper,
    /// A step.
    Step {
        /// Which.
        step: StepId,
        /// The numbers of the descriptions it needs, in the order of its `needs`.
        fds: Fds,
    },
    /// Wait until a child has died: a zombie stays to be reaped later, a helper is reaped.
    AwaitExit {
        /// The child.
        child: TaskId,
        /// Whether to reap it.
        reap: bool,
    },
    /// Take back the SIGCHLD that the deaths of zombie children left pending.
    EatSigchld,
    /// Die with the wanted exit status.
    Exit,
    /// The barrier: everything is in place; wait for the others.
    Arrive,
    /// The end of the tail: wait to be given the registers.
    Park,
}

impl OpKind {
    /// The rank by which ties in the total order break.
    pub fn rank(&self) -> u8 {
        match self {
            OpKind::Fork { .. } => 0,
            OpKind::SetSid => 1,
            OpKind::SetPgid { .. } | OpKind::BecomeSubreaper => 2,
            OpKind::Create { .. } => 3,
            OpKind::Dup { .. } => 4,
            OpKind::Close { .. } => 5,
            OpKind::Stage { .. } | OpKind::Turn { .. } => 2,
            OpKind::Send { .. } | OpKind::Receive { .. } => 5,
            OpKind::SetCloexec { .. } => 6,
            OpKind::Exit => 7,
            OpKind::AwaitExit { .. } => 8,
            OpKind::EatSigchld => 9,
            OpKind::Step { .. } => 10,
            OpKind::StartThread { .. } => 11,
            OpKind::Arrive => 12,
            OpKind::Park => 13,
        }
    }
}

/// Why one operation must come after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// A task does one thing after another; nothing more is behind this edge.
    Sequence,
    /// The task does not exist before.
    BornBy {
        /// Its parent.
        parent: TaskId,
    },
    /// What is made or placed here is inherited by a child that is forked later.
    InheritedBy {
        /// The first child that needs it.
        child: TaskId,
    },
    /// Nobody below needs it, so no child should inherit it.
    AfterForks,
    /// No task below wants what is closed here.
    NotWanted,
    /// A description must get to the number at which it is wanted.
    NumberWanted {
        /// The number.
        fd: Fd,
    },
    /// A step needs the description.
    NeededBy {
        /// The step.
        step: StepId,
    },
    /// A child must be born in the session that its parent is about to leave.
    BeforeSetsid {
        /// The old session.
        sid: u32,
    },
    /// A process group can be entered only when its leader has founded it.
    LeaderFirst {
        /// The group.
        pgid: u32,
    },
    /// A helper that founded a process group stays until its members have joined.
    MembersFirst {
        /// The group.
        pgid: u32,
    },
    /// A child must have died.
    MustHaveExited {
        /// The child.
        child: TaskId,
    },
    /// Who dies leaves children to `adopter`, which must be ready to take them.
    AdopterFirst {
        /// The subreaper.
        adopter: TaskId,
    },
    /// Orphans that are to get to `adopter`, further above, must have passed before this task takes
    /// any.
    OrphansFirst {
        /// The subreaper that they go to.
        adopter: TaskId,
    },
    /// A task that others fork must have become a child of this one.
    MustBeItsChild {
        /// The child.
        child: TaskId,
    },
    /// What is received must have been sent.
    SentBy {
        /// Who sends it.
        giver: TaskId,
    },
    /// The message before in the channel must be gone.
    TakenBy {
        /// Who takes that.
        taker: TaskId,
    },
    /// All must have come to the end of a stage.
    StageOver {
        /// The stage.
        number: u8,
    },
    /// What tasks share is worked on by one of them after another.
    AfterTurn {
        /// Who works on it before.
        of: TaskId,
    },
    /// All of the task must be in place.
    Complete,
    /// All tasks must have arrived.
    AllArrived,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Sequence => f.write_str("next"),
            Reason::BornBy { parent } => write!(f, "born by {parent}"),
            Reason::InheritedBy { child } => write!(f, "inherited by {child}"),
            Reason::AfterForks => f.write_str("no child needs it"),
            Reason::NotWanted => f.write_str("not wanted here or below"),
            Reason::NumberWanted { fd } => write!(f, "wanted at {fd}"),
            Reason::NeededBy { step } => write!(f, "needed by {step}"),
            Reason::BeforeSetsid { sid } => write!(f, "must be born in session {sid}"),
            Reason::LeaderFirst { pgid } => write!(f, "process group {pgid} must exist"),
            Reason::MembersFirst { pgid } => {
                write!(f, "the members of process group {pgid} must have joined")
            }
            Reason::MustHaveExited { child } => write!(f, "{child} must have died"),
            Reason::AdopterFirst { adopter } => write!(f, "{adopter} must be ready to adopt its children"),
            Reason::OrphansFirst { adopter } => write!(f, "orphans for {adopter} must have passed"),
            Reason::MustBeItsChild { child } => write!(f, "{child} must be its child"),
            Reason::SentBy { giver } => write!(f, "{giver} must have sent it"),
            Reason::TakenBy { taker } => write!(f, "{taker} must have taken the message before"),
            Reason::StageOver { number } => write!(f, "all must have come to the end of stage {number}"),
            Reason::AfterTurn { of } => write!(f, "{of} must be done with what it shares"),
            Reason::Complete => f.write_str("the task must be complete"),
            Reason::AllArrived => f.write_str("all must have arrived"),
        }
    }
}

/// A node.
#[derive(Debug, Clone, Serialize)]
pub struct Op {
    /// Who does it.
    pub task: TaskId,
    /// What it does.
    #[serde(flatten)]
    pub kind: OpKind,
    /// Why it stands where it stands: the reason on the edge from the task's operation before.
    pub why: Reason,
}

/// There are some hundred of them for each task.
const _: () = assert!(size_of::<Op>() <= 64, "a cache line each");

/// An edge that is not from an operation of a task to its next one.
#[derive(Debug, Clone, Copy)]
struct Edge {
    before: OpId,
    after: OpId,
    why: Reason,
    /// How many operations there were when it was demanded.
    since: u32,
}

/// Stands for no operation.
const NONE: OpId = OpId(u32::MAX);

/// Operations and edges.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    ops: Vec<Op>,
    /// The operation of the same task before each, or [`NONE`]: nearly all edges are from there.
    before: Vec<OpId>,
    others: Vec<Edge>,
    /// The last operation of each task, or [`NONE`].
    last: Vec<OpId>,
}

impl Graph {
    /// An empty graph for `tasks` tasks.
    pub fn new(tasks: usize) -> Graph {
        Graph { last: vec![NONE; tasks], ..Graph::default() }
    }

    /// Makes room for about so many operations.
    pub(crate) fn reserve(&mut self, ops: usize) {
        self.ops.reserve(ops);
        self.before.reserve(ops);
    }

    /// Adds the next operation of a task, behind the one that was added last.
    pub fn push(&mut self, task: TaskId, kind: OpKind, why: Reason) -> OpId {
        let op = OpId::new(self.ops.len());
        self.ops.push(Op { task, kind, why });
        self.before.push(std::mem::replace(&mut self.last[task.index()], op));
        op
    }

    /// Adds all operations of a task that has none yet, in their order.
    pub(crate) fn append(&mut self, task: TaskId, ops: Vec<Op>) {
        let first = self.ops.len();
        let Some(last) = ops.len().checked_sub(1).map(|last| first + last) else { return };
        self.before.push(std::mem::replace(&mut self.last[task.index()], OpId::new(last)));
        self.before.extend((first..last).map(OpId::new));
        self.ops.extend(ops);
    }

    /// Demands that `before` is done before `after` starts.
    pub fn require(&mut self, before: OpId, after: OpId, why: Reason) {
        self.others.push(Edge { before, after, why, since: self.ops.len() as u32 });
    }

    /// The operation.
    pub fn op(&self, op: OpId) -> &Op {
        &self.ops[op.index()]
    }

    /// Number of operations.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// For how many tasks it is.
    pub(crate) fn tasks(&self) -> usize {
        self.last.len()
    }

    /// All operations in the order in which they were added.
    pub fn ops(&self) -> impl Iterator<Item = (OpId, &Op)> + '_ {
        self.ops.iter().enumerate().map(|(index, op)| (OpId::new(index), op))
    }

    /// The operation of the same task before one.
    pub(crate) fn before(&self, op: OpId) -> Option<OpId> {
        Some(self.before[op.index()]).filter(|before| *before != NONE)
    }

    /// The edges that are not from an operation of a task to its next one: before, after, why.
    pub(crate) fn others(&self) -> impl Iterator<Item = (OpId, OpId, Reason)> + '_ {
        self.others.iter().map(|edge| (edge.before, edge.after, edge.why))
    }

    /// All edges in the order in which they were added: before, after, why.
    pub fn edges(&self) -> impl Iterator<Item = (OpId, OpId, Reason)> + '_ {
        let (mut next, mut other) = (0, 0);
        std::iter::from_fn(move || {
            loop {
                if let Some(edge) = self.others.get(other)
                    && edge.since as usize <= next
                {
                    other += 1;
                    return Some((edge.before, edge.after, edge.why));
                }
                let op = self.ops.get(next)?;
                next += 1;
                let after = OpId::new(next - 1);
                if let Some(before) = self.before(after) {
                    return Some((before, after, op.why));
                }
            }
        })
    }
}
