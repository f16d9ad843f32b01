//! A dry run: who makes what, how each user gets it, each task's program, who waits for whom.
//!
//! [`text`] is for reading, [`PlanView`] for programs: `regrow plan --format json` writes it. Ids in
//! it are indexes: an operation's id into `operations` of the whole plan, a task's into `tasks`.
//! Fields may be added under the same [`FORMAT`]; whatever else changes raises its number.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use regrow_graph::forest::Descent;
use regrow_graph::graph::{Op, Reason};
use regrow_graph::ids::{EventId, OpId, ResourceId, TaskId};
use regrow_graph::order::Item;
use serde::Serialize;

use super::sort::Sort;
use super::summary::{self, Summary};
use super::{describe, run, words};
use crate::image::Origin;
use crate::pipeline::{Prepared, Timings};
use crate::resolve::Role;
use crate::resolve::recipe::{FilePurpose, InodeKind, ResourceKind};
use crate::tape::lift::LiftError;

/// Name and version of the JSON.
pub const FORMAT: &str = "regrow-plan/1";

/// How many groups of users the text names of one resource.
const USERS_SHOWN: usize = 6;
/// How many waiting tasks the text names of one event.
const WAITERS_SHOWN: usize = 8;

/// A plan.
#[derive(Debug, Clone, Serialize)]
pub struct PlanView {
    /// [`FORMAT`].
    pub format: &'static str,
    /// The image directory.
    pub directory: PathBuf,
    /// Sums over the whole plan, whatever tasks are shown.
    pub totals: PlanTotals,
    /// The plan in numbers that can be compared, and its times by the cost model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// What CLOCK_MONOTONIC and CLOCK_BOOTTIME go on from, in nanoseconds, in a time namespace of the tree's
    /// own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clocks_ns: Option<[u64; 2]>,
    /// How long each stage took, in nanoseconds.
    pub timings: TimingsView,
    /// The tasks shown, with their programs.
    pub tasks: Vec<PlanTask>,
    /// All resources.
    pub resources: Vec<PlanResource>,
    /// The operations of the tasks shown, in the one order in which everything can be done.
    pub operations: Vec<PlanOp>,
    /// What must come before what beyond program order: edges from one task to another, of which a
    /// task shown has at least one end.
    pub edges: Vec<PlanEdge>,
    /// All events.
    pub events: Vec<PlanEvent>,
    /// What was proved of the tapes.
    pub certificate: serde_json::Value,
}

/// Sums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PlanTotals {
    /// Tasks, zombies among them.
    pub tasks: u64,
    /// Tasks that die at once.
    pub zombies: u64,
    /// Further threads.
    pub threads: u64,
    /// Resources that are made.
    pub resources: u64,
    /// Resources with several users.
    pub shared_resources: u64,
    /// Uses of a resource by its owner.
    pub uses_in_place: u64,
    /// Uses of a resource that an ancestor made.
    pub uses_inherited: u64,
    /// Descriptors at the end, of all tasks.
    pub descriptors: u64,
    /// Those of them that come with the fork, whether at their number or not.
    pub descriptors_inherited: u64,
    /// Those of them that come in messages.
    #[serde(skip_serializing_if = "is_zero")]
    pub descriptors_received: u64,
    /// Messages sent, of which some are received by several tasks.
    #[serde(skip_serializing_if = "is_zero")]
    pub messages: u64,
    /// Operations.
    pub operations: u64,
    /// Events that are posted.
    pub events: u64,
    /// Waits for them.
    pub waits: u64,
    /// Records of all tapes.
    pub records: u64,
    /// Length of the region: tapes, buffers, runner.
    pub region_bytes: u64,
}

// The signature is serde's.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// [`Timings`] in nanoseconds.
#[derive(Debug, Clone, Copy, Serialize)]
#[allow(missing_docs)]
pub struct TimingsView {
    pub read_ns: u128,
    pub facts_ns: u128,
    pub resolve_ns: u128,
    pub plan_ns: u128,
    pub lower_ns: u128,
    pub certify_ns: u128,
}

/// One task.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct PlanTask {
    /// Its id in the plan.
    pub task: TaskId,
    pub pid: u32,
    pub comm: String,
    /// Pid of its parent; `null`: the root.
    pub parent: Option<u32>,
    /// Whether it is a further thread of its parent.
    pub is_thread: bool,
    /// What it is for.
    pub role: PlanRole,
    /// Pid of who is its parent in the end, where that is not who forks it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adopted_by: Option<u32>,
    /// Exit status of a zombie, as `wait4(2)` gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<u32>,
    /// Records of its tape.
    pub records: u32,
    pub program: Vec<PlanItem>,
}

/// What a task is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanRole {
    /// It is restored, forked by its parent.
    Task,
    /// It is restored, forked by a sibling.
    Sibling,
    /// A further thread of its parent.
    Thread,
    /// It helps others into the world, and dies.
    Helper,
}

/// One element of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanItem {
    /// Do this operation.
    Do(OpId),
    /// Wait for this event.
    Wait(EventId),
    /// Post this event.
    Post(EventId),
}

/// One resource.
#[derive(Debug, Clone, Serialize)]
pub struct PlanResource {
    /// Its id.
    pub resource: ResourceId,
    /// What it is.
    pub kind: &'static str,
    /// Which one, in words.
    pub name: String,
    /// Pid of who makes it; `null`: nobody uses it, so nobody does.
    pub owner: Option<u32>,
    /// Who uses it.
    pub users: Vec<PlanUser>,
    /// The image entry.
    pub origin: Origin,
}

/// A use of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanUser {
    /// Who.
    pub pid: u32,
    /// How it gets there.
    pub how: How,
    /// At which numbers it is at the end; empty: it is only mapped, or needed on the way.
    pub fds: Vec<u32>,
}

/// How a user gets a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// It makes it.
    Makes,
    /// In a message.
    Receives,
    /// By fork.
    Inherits,
}

/// One operation.
#[derive(Debug, Clone, Serialize)]
pub struct PlanOp {
    /// Its id.
    pub id: OpId,
    /// Pid of who does it.
    pub pid: u32,
    /// What is done, by whom and why, in ids.
    #[serde(flatten)]
    pub op: Op,
    /// Of what sort it is.
    pub sort: Sort,
    /// What is done, in words.
    pub what: String,
    /// Why it stands where it stands, in words; empty: it just follows.
    pub because: String,
    /// The image entry.
    pub origin: Origin,
}

/// An edge between two tasks.
#[derive(Debug, Clone, Serialize)]
pub struct PlanEdge {
    /// What is done first.
    pub before: OpId,
    /// What needs it.
    pub after: OpId,
    /// Why.
    #[serde(flatten)]
    pub why: Reason,
    /// Why, in words.
    pub because: String,
}

/// An event.
#[derive(Debug, Clone, Serialize)]
pub struct PlanEvent {
    /// Its id.
    pub event: EventId,
    /// It is posted after this operation
    pub after: OpId,
    /// of this task.
    pub pid: u32,
    /// Who waits for it.
    pub waiters: Vec<PlanWaiter>,
}

/// Who waits for an event.
#[derive(Debug, Clone, Serialize)]
pub struct PlanWaiter {
    /// Pid.
    pub pid: u32,
    /// Before this operation.
    pub before: OpId,
    /// Why.
    #[serde(flatten)]
    pub why: Reason,
    /// Why, in words.
    pub because: String,
}

/// Collects a plan; of its tasks only `only`, if given.
///
/// # Errors
/// None that the types of this crate can cause: a certificate is plain data.
pub fn view(prepared: &Prepared, only: Option<u32>) -> Result<PlanView, serde_json::Error> {
    let plan = &prepared.plan;
    let resources = resources(prepared);
    let pid = |op: OpId| describe::pid(prepared, plan.graph.op(op).task);
    let is_shown = |op: OpId| is_shown(prepared, plan.graph.op(op).task, only);
    Ok(PlanView {
        format: FORMAT,
        directory: prepared.model.dir.clone(),
        totals: totals(prepared, &resources),
        summary: summarize(prepared).ok(),
        clocks_ns: prepared.tapes.clocks_ns,
        timings: timings(&prepared.timings),
        tasks: shown_tasks(prepared, only).map(|task| plan_task(prepared, task)).collect(),
        operations: plan
            .order
            .iter()
            .filter(|op| is_shown(**op))
            .map(|op| operation(prepared, *op))
            .collect(),
        edges: plan
            .graph
            .edges()
            .filter(|(before, after, _)| {
                pid(*before) != pid(*after) && (is_shown(*before) || is_shown(*after))
            })
            .map(|(before, after, why)| PlanEdge {
                before,
                after,
                why,
                because: describe::why(prepared, why),
            })
            .collect(),
        events: plan
            .events
            .iter()
            .enumerate()
            .map(|(index, _)| event(prepared, EventId::new(index)))
            .collect(),
        certificate: serde_json::to_value(&prepared.certificate)?,
        resources,
    })
}

/// The plan in numbers.
///
/// # Errors
/// The tapes are not understood; those with a certificate are.
pub fn summarize(prepared: &Prepared) -> Result<Summary, LiftError> {
    Summary::of(prepared, totals(prepared, &resources(prepared)).descriptors_inherited)
}

fn shown_tasks(prepared: &Prepared, only: Option<u32>) -> impl Iterator<Item = TaskId> + '_ {
    let tasks = &prepared.resolved.recipes.tasks;
    (0..tasks.len()).map(TaskId::new).filter(move |task| is_shown(prepared, *task, only))
}

/// Whether the task, or the one of which it is a thread, is `only`.
pub(super) fn is_shown(prepared: &Prepared, task: TaskId, only: Option<u32>) -> bool {
    let recipe = &prepared.resolved.recipes.tasks[task.index()];
    let parent = prepared.resolved.forest.tasks[task.index()].parent.filter(|_| recipe.role == Role::Thread);
    only.is_none_or(|only| {
        only == recipe.pid.0 || parent.is_some_and(|parent| only == describe::pid(prepared, parent))
    })
}

fn timings(timings: &Timings) -> TimingsView {
    TimingsView {
        read_ns: timings.read.as_nanos(),
        facts_ns: timings.facts.as_nanos(),
        resolve_ns: timings.resolve.as_nanos(),
        plan_ns: timings.plan.as_nanos(),
        lower_ns: timings.lower.as_nanos(),
        certify_ns: timings.certify.as_nanos(),
    }
}

fn plan_task(prepared: &Prepared, task: TaskId) -> PlanTask {
    let recipe = &prepared.resolved.recipes.tasks[task.index()];
    let item = |item: &Item| match item {
        Item::Op(op) => PlanItem::Do(*op),
        Item::Wait(event) => PlanItem::Wait(*event),
        Item::Post(event) => PlanItem::Post(*event),
    };
    PlanTask {
        task,
        pid: recipe.pid.0,
        comm: recipe.comm.clone(),
        parent: prepared.resolved.forest.tasks[task.index()]
            .parent
            .map(|parent| describe::pid(prepared, parent)),
        is_thread: recipe.role == Role::Thread,
        role: match recipe.role {
            Role::Task => PlanRole::Task,
            Role::Sibling => PlanRole::Sibling,
            Role::Thread => PlanRole::Thread,
            Role::Helper { .. } => PlanRole::Helper,
        },
        adopted_by: match prepared.resolved.forest.tasks[task.index()].descent {
            Descent::Adopted { by } => Some(describe::pid(prepared, by)),
            Descent::Own | Descent::Sibling => None,
        },
        exit_status: recipe.exit_code,
        records: prepared.tapes.tasks.get(task.index()).map_or(0, |tape| tape.records),
        program: prepared.plan.programs[task.index()].iter().map(item).collect(),
    }
}

fn operation(prepared: &Prepared, id: OpId) -> PlanOp {
    let op = prepared.plan.graph.op(id);
    PlanOp {
        id,
        pid: describe::pid(prepared, op.task),
        op: op.clone(),
        sort: Sort::of_op(prepared, id),
        what: describe::what(prepared, id),
        because: describe::why(prepared, op.why),
        origin: describe::origin(prepared, id),
    }
}

fn event(prepared: &Prepared, id: EventId) -> PlanEvent {
    let plan = &prepared.plan;
    let event = &plan.events[id.index()];
    let pid = |op: OpId| describe::pid(prepared, plan.graph.op(op).task);
    let waiter = |(before, why): &(OpId, Reason)| PlanWaiter {
        pid: pid(*before),
        before: *before,
        why: *why,
        because: describe::why(prepared, *why),
    };
    PlanEvent {
        event: id,
        after: event.after,
        pid: pid(event.after),
        waiters: event.waiters.iter().map(waiter).collect(),
    }
}

/// All resources with their users, found as placement finds them: by descriptor tables, by the needs of
/// steps, and where a resource names its users itself.
pub(super) fn resources(prepared: &Prepared) -> Vec<PlanResource> {
    let forest = &prepared.resolved.forest;
    let of_ofd = forest.resource_of_ofd();
    let mut users: Vec<BTreeMap<TaskId, Vec<u32>>> = vec![BTreeMap::new(); forest.resources.len()];
    for (index, task) in forest.tasks.iter().enumerate() {
        for slot in forest.table_of(TaskId::new(index)) {
            if let Some(resource) = of_ofd[slot.ofd.index()] {
                users[resource.index()].entry(TaskId::new(index)).or_default().push(slot.fd);
            }
        }
        for step in task.birth.iter().chain(&task.before_forks).chain(&task.steps).chain(&task.tail) {
            for resource in forest.steps[step.index()].needs.iter().filter_map(|ofd| of_ofd[ofd.index()]) {
                users[resource.index()].entry(TaskId::new(index)).or_default();
            }
        }
    }
    for (index, resource) in forest.resources.iter().enumerate() {
        for user in &resource.users {
            users[index].entry(*user).or_default();
        }
        if let Some(owner) = prepared.plan.owners[index] {
            for needed in resource.finish.iter().flat_map(|step| &forest.steps[step.index()].needs) {
                if let Some(needed) = of_ofd[needed.index()] {
                    users[needed.index()].entry(owner).or_default();
                }
            }
        }
    }
    let mut resources = Vec::with_capacity(users.len());
    for (index, users) in users.into_iter().enumerate() {
        let id = ResourceId::new(index);
        let owner = prepared.plan.owners[index];
        let recipe = &prepared.resolved.recipes.resources[index];
        let user = |(task, fds): (TaskId, Vec<u32>)| PlanUser {
            pid: describe::pid(prepared, task),
            how: match owner {
                Some(owner) if owner == task => How::Makes,
                Some(_) if forest.passing.takes(task, id) => How::Receives,
                Some(_) | None => How::Inherits,
            },
            fds,
        };
        resources.push(PlanResource {
            resource: id,
            kind: kind(&recipe.kind),
            name: describe::resource_name(prepared, id),
            owner: owner.map(|owner| describe::pid(prepared, owner)),
            users: users.into_iter().map(user).collect(),
            origin: recipe.origin,
        });
    }
    resources
}

fn kind(kind: &ResourceKind) -> &'static str {
    match kind {
        ResourceKind::File { purpose: FilePurpose::Descriptor, .. } => "file",
        ResourceKind::File { purpose: FilePurpose::Mapping, .. } => "mapped file",
        ResourceKind::File { purpose: FilePurpose::Executable, .. } => "executable",
        ResourceKind::File { purpose: FilePurpose::Pages, .. } => "pages image",
        ResourceKind::File { purpose: FilePurpose::Attribute, .. } => "attribute file",
        ResourceKind::File { purpose: FilePurpose::Cgroup, .. } => "tasks of a cgroup",
        ResourceKind::Pipe { .. } => "pipe",
        ResourceKind::Eventfd { .. } => "eventfd",
        ResourceKind::Epoll { .. } => "epoll file",
        ResourceKind::Timerfd { .. } => "timerfd",
        ResourceKind::Signalfd { .. } => "signalfd",
        ResourceKind::Userfault => "userfaultfd",
        ResourceKind::Fifo { .. } => "FIFO",
        ResourceKind::SocketPair { .. } => "socket pair",
        ResourceKind::UnixSockets(_) => "unix sockets",
        ResourceKind::InetSockets(_) => "internet sockets",
        ResourceKind::Nameless(recipe) => match recipe.inodes.first().map(|inode| &inode.kind) {
            Some(InodeKind::Memfd { .. }) => "memfd",
            Some(InodeKind::Fifo { .. }) => "FIFO",
            Some(InodeKind::Linked { .. }) => "linked file",
            Some(InodeKind::File { .. } | InodeKind::Directory { .. }) | None => "unlinked file",
        },
        ResourceKind::Channel => "channel",
        ResourceKind::Carrier { .. } => "shared memory",
        ResourceKind::Ipc(_) => "IPC namespace",
        ResourceKind::OpenedCarrier { .. } => "opened shared memory",
    }
}

fn totals(prepared: &Prepared, resources: &[PlanResource]) -> PlanTotals {
    let plan = &prepared.plan;
    let tapes = &prepared.tapes;
    let recipes = &prepared.resolved.recipes.tasks;
    let uses =
        |how: How| resources.iter().flat_map(|resource| &resource.users).filter(move |user| user.how == how);
    let descriptors = |how: How| uses(how).map(|user| user.fds.len() as u64).sum::<u64>();
    PlanTotals {
        tasks: recipes.iter().filter(|task| matches!(task.role, Role::Task | Role::Sibling)).count() as u64,
        zombies: recipes
            .iter()
            .filter(|task| !matches!(task.role, Role::Helper { .. }) && task.exit_code.is_some())
            .count() as u64,
        threads: recipes.iter().filter(|task| task.role == Role::Thread).count() as u64,
        resources: resources.iter().filter(|resource| resource.owner.is_some()).count() as u64,
        shared_resources: resources.iter().filter(|resource| resource.users.len() > 1).count() as u64,
        uses_in_place: uses(How::Makes).count() as u64,
        uses_inherited: uses(How::Inherits).count() as u64,
        descriptors: descriptors(How::Makes) + descriptors(How::Inherits) + descriptors(How::Receives),
        descriptors_inherited: descriptors(How::Inherits),
        descriptors_received: descriptors(How::Receives),
        messages: prepared.resolved.forest.passing.messages.len() as u64,
        operations: plan.graph.len() as u64,
        events: plan.events.len() as u64,
        waits: plan.events.iter().map(|event| event.waiters.len() as u64).sum(),
        records: tapes.tasks.iter().map(|task| u64::from(task.records)).sum(),
        region_bytes: (tapes.rw.len() + tapes.ro.len()) as u64,
    }
}

/// A plan as text; of its programs only that of `only`, if given. `verbose`: each operation in a line of
/// its own, and all resources.
pub fn text(prepared: &Prepared, only: Option<u32>, verbose: bool) -> String {
    let resources = resources(prepared);
    let mut text = head(prepared, &totals(prepared, &resources));
    if let Ok(numbers) = summarize(prepared) {
        text.push_str("\nin numbers\n");
        text.push_str(&summary::text(&[numbers]));
    }
    text.push_str(&resources_text(&resources, verbose));
    for task in shown_tasks(prepared, only) {
        text.push('\n');
        text.push_str(&program(prepared, task, verbose));
    }
    let certificate = prepared.certificate.to_string();
    if !certificate.is_empty() {
        let _ = writeln!(text, "\n{certificate}");
    }
    text
}

fn head(prepared: &Prepared, totals: &PlanTotals) -> String {
    let zombies = match totals.zombies {
        0 => String::new(),
        zombies => format!(" ({})", words::count(zombies, "zombie")),
    };
    let threads = match totals.threads {
        0 => String::new(),
        threads => format!(", {}", words::count(threads, "further thread")),
    };
    let mut text = format!(
        "plan for {}{zombies}{threads} from {}\n",
        words::count(totals.tasks, "task"),
        prepared.model.dir.display()
    );
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let timings = &prepared.timings;
    let stages = [
        ("read", timings.read),
        ("facts", timings.facts),
        ("resolve", timings.resolve),
        ("plan", timings.plan),
        ("lower", timings.lower),
        ("certify", timings.certify),
    ];
    let time: Vec<String> =
        stages.iter().map(|(stage, time)| format!("{stage} {}", words::duration(*time))).collect();
    let mut rows = vec![
        row(
            "resources",
            format!(
                "{} made, {} of them for several tasks; {} in place, {} inherited",
                totals.resources,
                totals.shared_resources,
                words::count(totals.uses_in_place, "use"),
                totals.uses_inherited
            ),
        ),
        row(
            "descriptors",
            format!(
                "{}: {} made in place, {} inherited{}",
                totals.descriptors,
                totals.descriptors - totals.descriptors_inherited - totals.descriptors_received,
                totals.descriptors_inherited,
                match totals.messages {
                    0 => String::new(),
                    messages => format!(
                        ", {} received from {}",
                        totals.descriptors_received,
                        words::count(messages, "message")
                    ),
                }
            ),
        ),
        row(
            "order",
            format!(
                "{}, {}, {}",
                words::count(totals.operations, "operation"),
                words::count(totals.events, "event"),
                words::count(totals.waits, "wait")
            ),
        ),
        row(
            "tapes",
            format!(
                "{}, {} at {:#x}",
                words::count(totals.records, "record"),
                words::bytes(totals.region_bytes),
                prepared.tapes.base
            ),
        ),
        row("time", time.join(", ")),
    ];
    if let Some(clocks_ns) = prepared.tapes.clocks_ns {
        let [monotonic, boottime] = clocks_ns
            .map(|clock_ns| format!("{}.{:09} s", clock_ns / 1_000_000_000, clock_ns % 1_000_000_000));
        let clocks = format!("CLOCK_MONOTONIC goes on from {monotonic}, CLOCK_BOOTTIME from {boottime}");
        rows.push(row("time namespace", clocks));
    }
    text.push_str(&words::table(&rows, 2));
    text
}

fn resources_text(resources: &[PlanResource], verbose: bool) -> String {
    let shown: Vec<&PlanResource> = resources
        .iter()
        .filter(|resource| resource.owner.is_some() && (verbose || resource.users.len() > 1))
        .collect();
    if shown.is_empty() {
        return String::new();
    }
    let mut text = if verbose { "\nresources\n".to_owned() } else { "\nshared resources\n".to_owned() };
    let row = |resource: &&PlanResource| {
        vec![resource.resource.to_string(), resource.kind.to_owned(), resource.name.clone(), users(resource)]
    };
    text.push_str(&words::table(&shown.iter().map(row).collect::<Vec<_>>(), 2));
    if !verbose && shown.len() < resources.len() {
        let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
        for resource in
            resources.iter().filter(|resource| resource.owner.is_some() && resource.users.len() == 1)
        {
            *kinds.entry(resource.kind).or_default() += 1;
        }
        let kinds: Vec<String> = kinds.into_iter().map(|(kind, number)| words::count(number, kind)).collect();
        if !kinds.is_empty() {
            let _ = writeln!(text, "  of one task each: {}", kinds.join(", "));
        }
    }
    text
}

/// Who makes a resource and who gets it how: users with the same numbers together.
fn users(resource: &PlanResource) -> String {
    let mut groups: BTreeMap<(How, &[u32]), Vec<u32>> = BTreeMap::new();
    for user in &resource.users {
        groups.entry((user.how, &user.fds)).or_default().push(user.pid);
    }
    let mut parts = Vec::new();
    if let Some(owner) = resource.owner
        && !resource.users.iter().any(|user| user.how == How::Makes)
    {
        parts.push(format!("{owner} makes it for those below"));
    }
    let more = groups.len().saturating_sub(USERS_SHOWN);
    for ((how, fds), pids) in groups.into_iter().take(USERS_SHOWN) {
        let verb = match (how, pids.len()) {
            (How::Makes, _) => "makes it",
            (How::Receives, 1) => "receives it",
            (How::Receives, _) => "receive it",
            (How::Inherits, 1) => "inherits it",
            (How::Inherits, _) => "inherit it",
        };
        let at = if fds.is_empty() { String::new() } else { format!(" (fd {})", words::numbers(fds, 8)) };
        parts.push(format!("{} {verb}{at}", words::numbers(&pids, 8)));
    }
    if more > 0 {
        parts.push(format!("{more} more groups of tasks"));
    }
    parts.join("; ")
}

/// One task's program: operations with their reasons, waits and posts.
fn program(prepared: &Prepared, task: TaskId, verbose: bool) -> String {
    let recipe = &prepared.resolved.recipes.tasks[task.index()];
    let program = &prepared.plan.programs[task.index()];
    let parent = prepared.resolved.forest.tasks[task.index()].parent;
    let (what, of) = match recipe.role {
        Role::Task => ("task", "child "),
        Role::Sibling => ("task", "forked by a sibling, "),
        Role::Thread => ("thread", ""),
        Role::Helper { .. } => ("helper task", "child "),
    };
    let born = match (parent, prepared.resolved.forest.tasks[task.index()].descent) {
        (None, _) => "the root".to_owned(),
        (Some(parent), Descent::Adopted { by }) => format!(
            "forked by {}, adopted by {}",
            describe::pid(prepared, parent),
            describe::pid(prepared, by)
        ),
        (Some(parent), Descent::Own | Descent::Sibling) => {
            format!("{of}of {}", describe::pid(prepared, parent))
        }
    };
    let ends = recipe.exit_code.map_or(String::new(), |status| format!(", {}", words::exit_status(status)));
    let records = prepared.tapes.tasks.get(task.index()).map_or(0, |tape| tape.records);
    let operations = program.iter().filter(|item| matches!(item, Item::Op(_))).count();
    let mut text = format!(
        "{what} {} {}: {born}{ends}; {}, {}\n",
        recipe.pid,
        recipe.comm,
        words::count(operations, "operation"),
        words::count(records, "record")
    );
    let mut rows = Vec::new();
    let mut ops: Vec<OpId> = Vec::new();
    let flush = |ops: &mut Vec<OpId>, rows: &mut Vec<Vec<String>>| {
        for run in run::cut(ops, |a, b| !verbose && run::is_alike(prepared, a, b)) {
            let Some(first) = run.first() else { continue };
            let why = describe::why(prepared, prepared.plan.graph.op(*first).why);
            rows.push(vec![format!("{:>5}", first.0), run::what(prepared, run), why]);
        }
        ops.clear();
    };
    for item in program {
        match item {
            Item::Op(op) => ops.push(*op),
            Item::Wait(event) => {
                flush(&mut ops, &mut rows);
                rows.push(vec![String::new(), wait(prepared, task, *event)]);
            }
            Item::Post(event) => {
                flush(&mut ops, &mut rows);
                rows.push(vec![String::new(), post(prepared, *event)]);
            }
        }
    }
    flush(&mut ops, &mut rows);
    text.push_str(&words::table(&rows, 0));
    text
}

fn wait(prepared: &Prepared, task: TaskId, event: EventId) -> String {
    let plan = &prepared.plan;
    let poster = &plan.events[event.index()];
    let mut reasons: Vec<String> = poster
        .waiters
        .iter()
        .filter(|(op, _)| plan.graph.op(*op).task == task)
        .map(|(_, why)| describe::why(prepared, *why))
        .collect();
    reasons.dedup();
    let by = describe::pid(prepared, plan.graph.op(poster.after).task);
    format!("waits for {event}: {} (task {by})", reasons.join(", "))
}

fn post(prepared: &Prepared, event: EventId) -> String {
    let plan = &prepared.plan;
    let mut pids: Vec<u32> = plan.events[event.index()]
        .waiters
        .iter()
        .map(|(op, _)| describe::pid(prepared, plan.graph.op(*op).task))
        .collect();
    pids.sort_unstable();
    pids.dedup();
    let verb = if pids.len() == 1 { "waits" } else { "wait" };
    format!("posts {event}: {} {verb}", words::numbers(&pids, WAITERS_SHOWN))
}
