//! One topological order of the whole graph, and from it a program a task.
//!
//! The order is deterministic: of all operations that could come next the one with the lowest
//! (kind, id) does; what is behind the barrier comes after everything before it. Every task's program is that order restricted to the task; an edge between two
//! tasks becomes a post behind the first operation and a wait before the second, except where the
//! kernel itself makes one wait for the other (a birth, waiting for a death). Every wait is thus
//! for something earlier in one common order: the earliest unfinished operation can always run.

use petgraph::graph::DiGraph;
use thiserror::Error;

use crate::family::{self, Cradle, FamilyError};
use crate::forest::Forest;
use crate::graph::{Graph, OpKind, Reason};
use crate::ids::{EventId, OpId, ResourceId, TaskId};
use crate::needs::Needs;
use crate::place::{self, PlaceError};

/// A plan: what is done, by whom, in which order.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Operations and the edges between them.
    pub graph: Graph,
    /// Who makes each resource.
    pub owners: Vec<Option<TaskId>>,
    /// All operations, each after everything it needs.
    pub order: Vec<OpId>,
    /// One program a task.
    pub programs: Vec<Vec<Item>>,
    /// The events: the operation that posts, and the reasons of those that wait.
    pub events: Vec<Event>,
}

/// One element of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// Do this.
    Op(OpId),
    /// Wait until the event has been posted.
    Wait(EventId),
    /// Post the event.
    Post(EventId),
}

/// Something that one task does and others wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What is done before the post.
    pub after: OpId,
    /// Who waits, before which operation, and why.
    pub waiters: Vec<(OpId, Reason)>,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    /// Sessions or groups cannot be reached.
    #[error("{}", join(.0))]
    Family(Vec<FamilyError>),
    /// Descriptions cannot be placed.
    #[error("{}", join(.0))]
    Place(Vec<PlaceError>),
    /// Operations wait for one another in a circle.
    #[error("operations wait for one another: {}", .0.iter().map(|op| op.to_string()).collect::<Vec<_>>().join(" -> "))]
    Cycle(Vec<OpId>),
}

fn join<E: std::fmt::Display>(errors: &[E]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Plan {
    /// Who makes `resource`; `None` if nobody uses it.
    pub fn owner(&self, resource: ResourceId) -> Option<TaskId> {
        self.owners.get(resource.index()).copied().flatten()
    }
}

/// Plans a forest whose root starts a session of its own or is born into any.
///
/// # Errors
/// Everything that keeps the forest from being planned.
pub fn plan(forest: &Forest) -> Result<Plan, PlanError> {
    plan_in(forest, Cradle::default())
}

/// Plans a forest whose root is born into the session and group of `cradle`.
///
/// # Errors
/// Everything that keeps the forest from being planned.
pub fn plan_in(forest: &Forest, cradle: Cradle) -> Result<Plan, PlanError> {
    plan_knowing(forest, cradle, None)
}

/// As [`plan_in`], where it may be known already who needs what in this forest.
///
/// # Errors
/// Everything that keeps the forest from being planned.
pub fn plan_knowing(forest: &Forest, cradle: Cradle, needs: Option<Needs>) -> Result<Plan, PlanError> {
    let family = family::arrange(forest, cradle).map_err(PlanError::Family)?;
    let placement = place::place(forest, &family, needs).map_err(PlanError::Place)?;
    order_graph(placement.graph, placement.owners, forest.tasks.len())
}

/// Orders a graph and cuts it into programs.
///
/// # Errors
/// A cycle, if there is one.
pub fn order_graph(graph: Graph, owners: Vec<Option<TaskId>>, tasks: usize) -> Result<Plan, PlanError> {
    let mut events: Vec<Event> = Vec::new();
    // Who waits for what, and who posts it.
    let mut waits: Vec<(OpId, EventId)> = Vec::new();
    let mut posts: Vec<(OpId, EventId)> = Vec::new();
    let mut crossing: Vec<(OpId, OpId, Reason)> = graph
        .others()
        .filter(|(before, after, _)| graph.op(*before).task != graph.op(*after).task)
        .filter(|(_, _, why)| match why {
            // The kernel sees to these: a child runs when it has been forked, waitid waits.
            Reason::BornBy { .. } | Reason::MustHaveExited { .. } => false,
            Reason::Sequence
            | Reason::InheritedBy { .. }
            | Reason::AfterForks
            | Reason::NotWanted
            | Reason::NumberWanted { .. }
            | Reason::NeededBy { .. }
            | Reason::BeforeSetsid { .. }
            | Reason::LeaderFirst { .. }
            | Reason::MembersFirst { .. }
            | Reason::AdopterFirst { .. }
            | Reason::OrphansFirst { .. }
            | Reason::MustBeItsChild { .. }
            | Reason::SentBy { .. }
            | Reason::TakenBy { .. }
            | Reason::StageOver { .. }
            | Reason::AfterTurn { .. }
            | Reason::Complete
            | Reason::AllArrived => true,
        })
        .collect();
    // Most trees have none, and need not know what is where: their programs do not wait for the order.
    if crossing.is_empty() {
        let cut = || cut(&graph, tasks, Vec::new(), Vec::new());
        let (order, programs) = rayon::join(|| topological(&graph), cut);
        return Ok(Plan { order: order?, graph, owners, programs, events });
    }
    let order = topological(&graph)?;
    let mut position = vec![0u32; graph.len()];
    for (at, op) in order.iter().enumerate() {
        position[op.index()] = at as u32;
    }
    crossing.sort_by_key(|(before, after, _)| (position[before.index()], position[after.index()]));
    for (before, after, why) in crossing {
        // Those that wait for one operation come one after another.
        if events.last().is_none_or(|last| last.after != before) {
            posts.push((before, EventId::new(events.len())));
            events.push(Event { after: before, waiters: Vec::new() });
        }
        let Some(event) = events.last_mut() else { continue };
        event.waiters.push((after, why));
        waits.push((after, EventId::new(events.len() - 1)));
    }
    // Those of one operation stay in the order of what they wait for.
    waits.sort_by_key(|(op, _)| *op);
    posts.sort_unstable();
    let programs = cut(&graph, tasks, waits, posts);
    Ok(Plan { graph, owners, order, programs, events })
}

/// The program of each task, with these waits before operations and posts behind them, both by operation.
fn cut(
    graph: &Graph,
    tasks: usize,
    waits: Vec<(OpId, EventId)>,
    posts: Vec<(OpId, EventId)>,
) -> Vec<Vec<Item>> {
    let mut lengths = vec![0; tasks];
    graph.ops().for_each(|(_, op)| lengths[op.task.index()] += 1);
    let mut programs: Vec<Vec<Item>> = lengths.into_iter().map(Vec::with_capacity).collect();
    // What a task does comes in the order of its operations, whatever comes between them.
    let (mut waits, mut posts) = (waits.into_iter().peekable(), posts.into_iter().peekable());
    for (op, node) in graph.ops() {
        let program = &mut programs[node.task.index()];
        program.extend(
            std::iter::from_fn(|| waits.next_if(|(other, _)| *other == op))
                .map(|(_, event)| Item::Wait(event)),
        );
        program.push(Item::Op(op));
        // Nothing runs behind an exit; place() never asks for it.
        let event = posts.next_if(|(other, _)| *other == op).filter(|_| node.kind != OpKind::Exit);
        program.extend(event.map(|(_, event)| Item::Post(event)));
    }
    programs
}

/// How many ranks there are ([`OpKind::rank`]).
const RANKS: usize = 14;

fn topological(graph: &Graph) -> Result<Vec<OpId>, PlanError> {
    // The barrier is no edge (it would be one from every task to every other), so it is part of the key.
    let mut has_arrived = vec![false; graph.tasks()];
    let mut classes: Vec<u8> = Vec::with_capacity(graph.len());
    // The operation of the same task behind each, or itself.
    let mut next: Vec<OpId> = graph.ops().map(|(op, _)| op).collect();
    let mut missing: Vec<u32> = vec![0; graph.len()];
    for (op, node) in graph.ops() {
        debug_assert!(usize::from(node.kind.rank()) < RANKS, "a rank beyond the last");
        let is_behind = &mut has_arrived[node.task.index()];
        classes.push(node.kind.rank() + if *is_behind { RANKS as u8 } else { 0 });
        *is_behind |= node.kind == OpKind::Arrive;
        if let Some(before) = graph.before(op) {
            next[before.index()] = op;
            missing[op.index()] = 1;
        }
    }
    let mut others: Vec<(OpId, OpId)> = graph.others().map(|(before, after, _)| (before, after)).collect();
    others.sort_unstable();
    let mut has_others = vec![false; graph.len()];
    for (before, after) in &others {
        has_others[before.index()] = true;
        missing[after.index()] += 1;
    }
    let mut ready = Ready::new(graph.len());
    for (op, _) in graph.ops().filter(|(op, _)| missing[op.index()] == 0) {
        ready.insert(classes[op.index()], op);
    }
    let mut order = Vec::with_capacity(graph.len());
    while let Some(op) = ready.take() {
        order.push(op);
        let mut done = |after: OpId| {
            missing[after.index()] -= 1;
            if missing[after.index()] == 0 {
                ready.insert(classes[after.index()], after);
            }
        };
        let behind = next[op.index()];
        if behind != op {
            done(behind);
        }
        if has_others[op.index()] {
            let first = others.partition_point(|(before, _)| *before < op);
            let its = others[first..].iter().take_while(|(before, _)| *before == op);
            its.for_each(|(_, after)| done(*after));
        }
    }
    if order.len() == graph.len() {
        return Ok(order);
    }
    let edges = graph.edges().map(|(before, after, _)| (before.0, after.0));
    let whole = DiGraph::<(), (), u32>::from_edges(edges);
    let cycle = petgraph::algo::tarjan_scc(&whole)
        .into_iter()
        .find(|component| component.len() > 1 || whole.find_edge(component[0], component[0]).is_some())
        .unwrap_or_default();
    let mut ops: Vec<OpId> = cycle.into_iter().map(|node| OpId::new(node.index())).collect();
    ops.sort_unstable();
    Err(PlanError::Cycle(ops))
}

/// Operations that can come next, by class: of the lowest class that has any the one with the lowest id comes.
struct Ready {
    classes: Vec<Lowest>,
    /// A bit for each class that has any.
    any: u32,
}

impl Ready {
    fn new(ops: usize) -> Ready {
        const { assert!(2 * RANKS <= u32::BITS as usize, "a bit for each class") };
        Ready { classes: (0..2 * RANKS).map(|_| Lowest::new(ops)).collect(), any: 0 }
    }

    fn insert(&mut self, class: u8, op: OpId) {
        self.classes[usize::from(class)].insert(op.index());
        self.any |= 1 << class;
    }

    fn take(&mut self) -> Option<OpId> {
        loop {
            let class = self.any.trailing_zeros();
            let ready = self.classes.get_mut(class as usize)?;
            match ready.take() {
                Some(op) => return Some(OpId::new(op)),
                None => self.any &= !(1 << class),
            }
        }
    }
}

/// A set of numbers of which the lowest is taken: a bit for each, and above 64 words one whose bits say which of them
/// are not 0, up to a single one.
struct Lowest {
    levels: Vec<Vec<u64>>,
}

impl Lowest {
    /// For numbers below `end`.
    fn new(end: usize) -> Lowest {
        let mut levels = vec![vec![0; end.div_ceil(64).max(1)]];
        while let Some(last) = levels.last().map(Vec::len).filter(|len| *len > 1) {
            levels.push(vec![0; last.div_ceil(64)]);
        }
        Lowest { levels }
    }

    fn insert(&mut self, mut number: usize) {
        for level in &mut self.levels {
            let word = &mut level[number / 64];
            let was_empty = *word == 0;
            *word |= 1 << (number % 64);
            if !was_empty {
                break;
            }
            number /= 64;
        }
    }

    fn take(&mut self) -> Option<usize> {
        if self.levels.last()?[0] == 0 {
            return None;
        }
        let lowest =
            self.levels.iter().rev().fold(0, |at, level| 64 * at + level[at].trailing_zeros() as usize);
        let mut number = lowest;
        for level in &mut self.levels {
            let word = &mut level[number / 64];
            *word &= !(1 << (number % 64));
            if *word != 0 {
                break;
            }
            number /= 64;
        }
        Some(lowest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forest::{Life, StepSpec, TaskSpec};
    use crate::ids::StepId;

    /// Tasks as (parent, group, life), all in the root's session, each with one step in its tail.
    fn forest(tasks: &[(Option<u32>, u32, Life)]) -> Forest {
        let mut forest = Forest { steps: vec![StepSpec::default(); tasks.len()], ..Forest::default() };
        for (index, (parent, pgid, life)) in tasks.iter().enumerate() {
            let tail = if *life == Life::Zombie { Vec::new() } else { vec![StepId::new(index)] };
            let pid = index as u32 + 10;
            forest.tasks.push(TaskSpec {
                pid,
                parent: parent.map(TaskId),
                pgid: *pgid,
                sid: 10,
                life: *life,
                tail,
                ..TaskSpec::default()
            });
        }
        forest
    }

    /// Expects each program, without what every task does at its end.
    fn check(forest: &Forest, expected: &[&str]) {
        let plan = plan(forest).expect("a plan");
        let shown = |item: &Item| match item {
            Item::Op(op) => match &plan.graph.op(*op).kind {
                OpKind::Fork { child, .. } => Some(format!("fork {child}")),
                OpKind::SetPgid { pgid } => Some(format!("setpgid {pgid}")),
                OpKind::AwaitExit { child, .. } => Some(format!("await {child}")),
                OpKind::Exit => Some("exit".to_owned()),
                OpKind::Arrive | OpKind::Park | OpKind::Step { .. } | OpKind::EatSigchld | OpKind::SetSid => {
                    None
                }
                other => Some(format!("{other:?}")),
            },
            Item::Wait(event) => Some(format!("wait {event}")),
            Item::Post(event) => Some(format!("post {event}")),
        };
        let programs: Vec<String> = plan
            .programs
            .iter()
            .map(|program| program.iter().filter_map(shown).collect::<Vec<_>>().join(", "))
            .collect();
        assert_eq!(programs, expected);
    }

    #[test]
    fn a_group_is_waited_for() {
        check(
            &forest(&[(None, 10, Life::Lives), (Some(0), 12, Life::Lives), (Some(0), 12, Life::Lives)]),
            &["fork t1, fork t2", "wait e0, setpgid 12", "setpgid 12, post e0"],
        );
    }

    #[test]
    fn one_post_serves_all() {
        let zombie = Life::Zombie;
        check(
            &forest(&[
                (None, 10, Life::Lives),
                (Some(0), 11, zombie),
                (Some(0), 11, Life::Lives),
                (Some(0), 11, zombie),
            ]),
            &[
                "fork t1, fork t2, fork t3, await t1, await t3",
                "setpgid 11, post e0, exit",
                "wait e0, setpgid 11",
                "wait e0, setpgid 11, exit",
            ],
        );
    }

    #[test]
    fn births_and_deaths_need_no_event() {
        check(
            &forest(&[(None, 10, Life::Lives), (Some(0), 10, Life::Zombie)]),
            &["fork t1, await t1", "exit"],
        );
    }

    /// Found by the property tests: a task's tail stood before another's arrival.
    #[test]
    fn the_barrier_parts_the_order() {
        let plan =
            plan(&forest(&[(None, 10, Life::Lives), (Some(0), 10, Life::Lives), (Some(1), 10, Life::Lives)]))
                .expect("a plan");
        let kinds: Vec<&OpKind> = plan.order.iter().map(|op| &plan.graph.op(*op).kind).collect();
        let last_arrival = kinds.iter().rposition(|kind| **kind == OpKind::Arrive);
        let first_behind = kinds.iter().position(|kind| matches!(kind, OpKind::Step { .. } | OpKind::Park));
        assert!(last_arrival < first_behind, "{kinds:?}");
    }

    /// Beside a set that is known to be right, with numbers on all levels.
    #[test]
    fn the_lowest_is_taken() {
        let mut state = 1u64;
        for end in [1, 64, 65, 5000, 300_000] {
            let (mut is, mut wanted) = (Lowest::new(end), std::collections::BTreeSet::new());
            for _ in 0..2000 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                if state >> 62 == 0 {
                    assert_eq!(is.take(), wanted.pop_first());
                } else {
                    let number = (state >> 20) as usize % end;
                    is.insert(number);
                    wanted.insert(number);
                }
            }
            while let Some(lowest) = wanted.pop_first() {
                assert_eq!(is.take(), Some(lowest));
            }
            assert_eq!(is.take(), None);
        }
    }

    #[test]
    fn a_circle_is_named() {
        let mut graph = Graph::new(2);
        let one = graph.push(TaskId(0), OpKind::Arrive, Reason::Complete);
        let two = graph.push(TaskId(1), OpKind::Arrive, Reason::Complete);
        graph.require(one, two, Reason::Sequence);
        graph.require(two, one, Reason::Sequence);
        let error = order_graph(graph, Vec::new(), 2).expect_err("a circle");
        assert_eq!(error.to_string(), "operations wait for one another: op0 -> op1");
    }
}
