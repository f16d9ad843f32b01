//! What is written of each task, and how it is put together.
//!
//! All that placing a task takes of others is the table that it is born with, so siblings are placed at the same time.
//! The numbers of operations are those of the task's own list, until all lists are put one behind another in the order
//! of births.
//!
//! One thing is not so: a description that cannot be carried where most want it gets the next number that no table
//! uses, over all tasks. Where any task asks for one, all are placed once more in the order of births, by one processor.
//!
//! Example: 1 forks 2 and 3. Another processor may place 2, while 3 is placed by who has placed 1; the graph has the
//! operations of 1, then those of 2, then those of 3.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::Scope;

use super::guess::{self, Guess};
use super::{Done, Ground, PlaceError, Placer};
use crate::forest::{Descent, Life};
use crate::graph::{Graph, Op, Reason};
use crate::ids::{OpId, TaskId};
use crate::numbers::{Numbers, Supply};
use crate::table::Table;

/// What is written of one task. Operations have their places in the list as numbers.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) ops: Vec<Op>,
    /// Children and threads, with the operation that each is born by.
    pub(super) births: Vec<(TaskId, OpId)>,
    /// The operation that founds its group.
    pub(super) founded: Option<OpId>,
    /// Operations that join a group, with its leader, and whether they must wait for it.
    pub(super) joins: Vec<(OpId, TaskId, bool)>,
    pub(super) exit: Option<OpId>,
    /// The operations that wait for deaths.
    pub(super) awaits: Vec<(TaskId, OpId)>,
    /// The operation that makes it a subreaper.
    pub(super) flag: Option<OpId>,
    /// Its last sending.
    pub(super) sent: Option<OpId>,
    /// Messages, by index, and the operation that receives each.
    pub(super) received: Vec<(usize, OpId)>,
    /// By number, where it ends a stage and begins the next.
    pub(super) stages: Vec<(u8, OpId, OpId)>,
    /// Where it hands on its table, and where it goes on.
    pub(super) lent: Option<(OpId, OpId)>,
    /// Where its turn begins and ends.
    pub(super) turn: Option<(OpId, OpId)>,
    pub(super) errors: Vec<PlaceError>,
}

impl<'a> Placer<'a> {
    pub(super) fn new(
        all: &'a Ground<'a>,
        task: TaskId,
        supply: Supply<'a>,
        bear: &'a mut dyn FnMut(TaskId, Table),
    ) -> Placer<'a> {
        let spec = &all.forest.tasks[task.index()];
        let through = all.needs.through[task.index()].len();
        // About one for each step, two for each resource, and some others; there may be as many moves again.
        let steps = spec.birth.len() + spec.before_forks.len() + spec.steps.len() + spec.tail.len();
        let ops = steps + through + all.children[task.index()].len() + 8;
        Placer {
            all,
            task,
            part: Part { ops: Vec::with_capacity(ops), ..Part::default() },
            supply,
            bear,
            made: vec![false; through],
            receives: all.exchange.received_by(task).to_vec(),
            done: Done::default(),
        }
    }
}

/// Places all tasks, on all processors; `None`: not all can be placed without those before them.
pub(super) fn at_once(all: &Ground<'_>, numbers: &Numbers) -> Option<Vec<Option<Part>>> {
    let guesses = if all.forest.tasks.is_empty() { Vec::new() } else { guess::births(all, numbers) };
    let guessed = if guesses.is_empty() { None } else { AtOnce::all(all, numbers, guesses) };
    guessed.or_else(|| AtOnce::all(all, numbers, Vec::new()))
}

/// All tasks, while any of them are placed.
pub(super) struct AtOnce<'a> {
    all: &'a Ground<'a>,
    numbers: &'a Numbers,
    /// Those that are placed before who forks them.
    guesses: Vec<Guess>,
    /// Some task cannot be placed without those before it, or a guess was wrong.
    is_void: AtomicBool,
    parts: Vec<OnceLock<Part>>,
}

impl<'a> AtOnce<'a> {
    /// Places all tasks; `None`: what has been placed does not count.
    pub(super) fn all(
        all: &'a Ground<'a>,
        numbers: &'a Numbers,
        guesses: Vec<Guess>,
    ) -> Option<Vec<Option<Part>>> {
        let parts = all.forest.tasks.iter().map(|_| OnceLock::new()).collect();
        let placing = AtOnce { all, numbers, guesses, is_void: AtomicBool::new(false), parts };
        rayon::scope(|scope| {
            for guess in &placing.guesses {
                scope.spawn(|scope| placing.task(scope, guess.task, guess.table.clone()));
            }
            if !placing.parts.is_empty() {
                placing.task(scope, TaskId(0), Table::new());
            }
        });
        let AtOnce { guesses, is_void, parts, .. } = placing;
        let counts = !is_void.into_inner() && guesses.iter().all(Guess::is_right);
        counts.then(|| parts.into_iter().map(OnceLock::into_inner).collect())
    }

    /// Places a task and those below it. Who has placed one goes on with the last that it forks, and leaves the others to
    /// whoever is free: what has no siblings is not worth waking anybody.
    fn task<'s>(&'s self, scope: &Scope<'s>, task: TaskId, table: Table) {
        let mut next = Some((task, table));
        while let Some((task, table)) = next.take() {
            // Only to be done sooner: whether anything counts is seen when all are done.
            if self.is_void.load(Ordering::Relaxed) {
                return;
            }
            let mut bear = |child, table| {
                if let Some(guess) = self.guesses.iter().find(|guess| guess.task == child) {
                    // It is being placed, or has been.
                    if !guess.is(&table) {
                        self.is_void.store(true, Ordering::Relaxed);
                    }
                } else if let Some((other, table)) = next.replace((child, table)) {
                    scope.spawn(move |scope| self.task(scope, other, table));
                }
            };
            let mut placer = Placer::new(self.all, task, self.numbers.at_once(), &mut bear);
            placer.run(table);
            let Placer { part, supply, .. } = placer;
            if supply.is_lacking() {
                self.is_void.store(true, Ordering::Relaxed);
            }
            // Nobody is born twice.
            let _ = self.parts[task.index()].set(part);
        }
    }
}

/// Places all tasks in their order, each after who forks it.
pub(super) fn in_order(all: &Ground<'_>, numbers: &mut Numbers, order: &[TaskId]) -> Vec<Option<Part>> {
    // The tables of those that have been born and not yet placed.
    let mut born: Vec<Option<Table>> = vec![None; all.forest.tasks.len()];
    let mut parts: Vec<Option<Part>> = born.iter().map(|_| None).collect();
    if let Some(root) = born.first_mut() {
        *root = Some(Table::new());
    }
    for task in order {
        let Some(table) = born[task.index()].take() else { continue };
        let mut bear = |child: TaskId, table| born[child.index()] = Some(table);
        let mut placer = Placer::new(all, *task, numbers.in_order(), &mut bear);
        placer.run(table);
        parts[task.index()] = Some(placer.part);
    }
    parts
}

/// What has become of all tasks, with the numbers that operations have in the whole graph.
pub(super) struct Whole<'a> {
    all: &'a Ground<'a>,
    graph: Graph,
    /// The operation by which each task is born.
    births: Vec<Option<OpId>>,
    founded: Vec<Option<OpId>>,
    joins: Vec<(OpId, TaskId, bool)>,
    exits: Vec<Option<OpId>>,
    /// The operation that waits for each death.
    awaits: Vec<Option<OpId>>,
    flags: Vec<Option<OpId>>,
    sent: Vec<Option<OpId>>,
    /// The operations that receive each message, in the order of its takers.
    received: Vec<Vec<OpId>>,
    /// By number, where each task ends a stage and begins the next.
    stages: Vec<Vec<(TaskId, OpId, OpId)>>,
    lent: Vec<(TaskId, OpId, OpId)>,
    turns: Vec<Option<(OpId, OpId)>>,
    errors: Vec<PlaceError>,
}

impl<'a> Whole<'a> {
    /// Puts the tasks one behind another in their `order`, and demands what comes before what between them.
    pub(super) fn of(
        all: &'a Ground<'a>,
        order: &[TaskId],
        mut parts: Vec<Option<Part>>,
    ) -> Result<Graph, Vec<PlaceError>> {
        let tasks = all.forest.tasks.len();
        let mut whole = Whole {
            all,
            graph: Graph::new(tasks),
            births: vec![None; tasks],
            founded: vec![None; tasks],
            joins: Vec::new(),
            exits: vec![None; tasks],
            awaits: vec![None; tasks],
            flags: vec![None; tasks],
            sent: vec![None; tasks],
            received: vec![Vec::new(); all.forest.passing.messages.len()],
            stages: Vec::new(),
            lent: Vec::new(),
            turns: vec![None; tasks],
            errors: Vec::new(),
        };
        whole.graph.reserve(parts.iter().flatten().map(|part| part.ops.len()).sum());
        for task in order {
            match (parts[task.index()].take(), all.forest.tasks[task.index()].parent) {
                (Some(part), _) => whole.append(*task, part),
                (None, Some(parent)) => whole.errors.push(PlaceError::Unborn { task: *task, parent }),
                (None, None) => {}
            }
        }
        if order.len() < tasks {
            let mut is_there = vec![false; tasks];
            order.iter().for_each(|task| is_there[task.index()] = true);
            let without = (0..tasks).filter(|index| !is_there[*index]);
            whole.errors.extend(without.filter_map(|index| {
                let task = TaskId::new(index);
                all.forest.tasks[index].parent.map(|parent| PlaceError::Unborn { task, parent })
            }));
        }
        whole.order_groups();
        whole.order_messages();
        whole.order_turns();
        whole.order_deaths();
        if whole.errors.is_empty() { Ok(whole.graph) } else { Err(whole.errors) }
    }

    fn append(&mut self, task: TaskId, part: Part) {
        let base = self.graph.len();
        let moved = |op: OpId| OpId::new(base + op.index());
        let both = |(one, other): (OpId, OpId)| (moved(one), moved(other));
        let is_something = !part.ops.is_empty();
        self.graph.append(task, part.ops);
        // The first operation of a task comes after the fork that makes it.
        if let (Some(fork), Some(parent)) =
            (self.births[task.index()], self.all.forest.tasks[task.index()].parent)
            && is_something
        {
            self.graph.require(fork, OpId::new(base), Reason::BornBy { parent });
        }
        for (child, op) in part.births {
            self.births[child.index()] = Some(moved(op));
        }
        self.founded[task.index()] = part.founded.map(moved);
        self.exits[task.index()] = part.exit.map(moved);
        self.flags[task.index()] = part.flag.map(moved);
        self.sent[task.index()] = part.sent.map(moved);
        self.turns[task.index()] = part.turn.map(both);
        self.joins.extend(part.joins.into_iter().map(|(op, leader, is_later)| (moved(op), leader, is_later)));
        for (child, op) in part.awaits {
            self.awaits[child.index()] = Some(moved(op));
        }
        for (message, op) in part.received {
            self.received[message].push(moved(op));
        }
        for (number, ends, begins) in part.stages {
            let number = usize::from(number);
            self.stages.resize(self.stages.len().max(number + 1), Vec::new());
            self.stages[number].push((task, moved(ends), moved(begins)));
        }
        self.lent.extend(part.lent.map(both).map(|(ends, begins)| (task, ends, begins)));
        self.errors.extend(part.errors);
    }

    /// Who joins a group waits for its leader, and the helper that leads one for those that join.
    fn order_groups(&mut self) {
        let forest = self.all.forest;
        for (op, leader, is_later) in std::mem::take(&mut self.joins) {
            let Some(founding) = self.founded[leader.index()] else { continue };
            let spec = &forest.tasks[leader.index()];
            let pgid = spec.pid;
            if is_later {
                self.graph.require(founding, op, Reason::LeaderFirst { pgid });
            }
            if spec.life == Life::Helper
                && let Some(exit) = self.exits[leader.index()]
            {
                self.graph.require(op, exit, Reason::MembersFirst { pgid });
            }
        }
    }

    /// What sending, receiving and stages wait for in other tasks. The root waits for the end of a stage of all,
    /// and all wait for the root.
    fn order_messages(&mut self) {
        let messages = &self.all.forest.passing.messages;
        let mut before: Option<usize> = None;
        for (index, message) in messages.iter().enumerate() {
            let giver = message.giver;
            for op in &self.received[index] {
                if let Some(sent) = self.sent[giver.index()] {
                    self.graph.require(sent, *op, Reason::SentBy { giver });
                }
            }
            if let Some(last) = before.filter(|last| messages[*last].channel == message.channel)
                && let (Some(first), Some(then)) = (self.received[last].first(), self.received[index].first())
                && messages[last].takers != message.takers
            {
                let taker = self.graph.op(*first).task;
                self.graph.require(*first, *then, Reason::TakenBy { taker });
            }
            before = Some(index);
        }
        for (number, stage) in std::mem::take(&mut self.stages).into_iter().enumerate() {
            let why = Reason::StageOver { number: number as u8 };
            let Some((root, _, opening)) = stage.first().copied() else { continue };
            for (task, ends, begins) in stage {
                if task != root {
                    self.graph.require(ends, opening, why);
                    self.graph.require(opening, begins, why);
                }
            }
        }
    }

    /// Whose turn comes after whose.
    fn order_turns(&mut self) {
        for (task, ends, begins) in std::mem::take(&mut self.lent) {
            let mut last = (task, ends);
            for sharer in self.all.turns.sharers(task) {
                if let Some((takes, gives)) = self.turns[sharer.index()] {
                    self.graph.require(last.1, takes, Reason::AfterTurn { of: last.0 });
                    last = (*sharer, gives);
                }
            }
            self.graph.require(last.1, begins, Reason::AfterTurn { of: last.0 });
        }
    }

    /// What the deaths must wait for, and who waits for them.
    fn order_deaths(&mut self) {
        let forest = self.all.forest;
        let tasks = (0..forest.tasks.len()).map(TaskId::new);
        let adopters: Vec<(TaskId, OpId)> =
            tasks.clone().filter_map(|task| Some((task, self.flags[task.index()]?))).collect();
        for task in tasks.clone() {
            let (exit, await_op) = (self.exits[task.index()], self.awaits[task.index()]);
            if let (Some(exit), Some(op)) = (exit, await_op) {
                self.graph.require(exit, op, Reason::MustHaveExited { child: task });
            }
            let Some(adopter) = self.all.descents.adopter[task.index()] else { continue };
            if let (Some(flag), Some(exit)) = (self.flags[adopter.index()], exit) {
                self.graph.require(flag, exit, Reason::AdopterFirst { adopter });
            }
            // Nobody on the way may take them.
            for (below, flag) in &adopters {
                if let Some(op) = await_op.filter(|_| self.all.descents.is_above(adopter, *below)) {
                    self.graph.require(op, *flag, Reason::OrphansFirst { adopter });
                }
            }
        }
        for task in tasks {
            let Some(op) = self.awaits[task.index()] else { continue };
            let mut at = task;
            loop {
                let spec = &forest.tasks[at.index()];
                let Some(forker) = spec.parent else { break };
                let settled = match spec.descent {
                    Descent::Own => break,
                    Descent::Adopted { .. } => self.awaits[forker.index()],
                    // Where who forks it has died before, it has been forked.
                    Descent::Sibling => match self.awaits[forker.index()] {
                        Some(death) if self.graph.op(death).task == self.graph.op(op).task => Some(death),
                        Some(_) | None => self.births[at.index()],
                    },
                };
                if let Some(settled) = settled {
                    self.graph.require(settled, op, Reason::MustBeItsChild { child: task });
                }
                match spec.descent {
                    Descent::Sibling => at = forker,
                    Descent::Own | Descent::Adopted { .. } => break,
                }
            }
        }
    }
}
