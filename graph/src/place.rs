//! Who creates what, and what each task's descriptor table is at each fork.
//!
//! Every resource is made by its *owner*: the lowest common ancestor of the tasks that use it,
//! before the first fork of a child below which somebody uses it, and it is closed again after the
//! last such fork if the owner itself does not want it. So a child's table is the difference from
//! its parent's at the moment of its own fork, and what two children share with nobody else is
//! never seen by a third. What only the task itself wants is made after its forks.
//!
//! A description is carried for tasks below at the number that most of them want, if that number is
//! free there; otherwise (and for files that are only mapped) at a number that no task of the whole
//! tree uses.
//!
//! The module writes each task's operations in their order into the [`Graph`] while it plays them
//! on a [`Table`]; it knows no system calls.

mod descents;
mod desk;
mod exchange;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::family::{Family, Join};
use crate::forest::{Descent, Forest, Life};
use crate::graph::{Graph, OpKind, Reason};
use crate::ids::{Fd, Fds, OfdId, OpId, ResourceId, StepId, TaskId};
use crate::lists::Lists;
use crate::needs::{Needs, Span};
use crate::numbers::Numbers;
use crate::table::{Move, Table};
use descents::Descents;
use desk::Desk;
use exchange::Exchange;
use turns::Turns;

/// Why a forest cannot be placed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum PlaceError {
    /// A description that no resource makes.
    #[error("{task}: {ofd} is wanted and nothing makes it")]
    Unmade { task: TaskId, ofd: OfdId },
    /// Two resources claim the same description.
    #[error("{ofd} is made twice: by {first} and {second}")]
    MadeTwice { ofd: OfdId, first: ResourceId, second: ResourceId },
    /// A step that is given no descriptors: at birth, beside further threads, behind the barrier, of
    /// a thread or a zombie.
    #[error("{task}: {step} needs descriptions where none are given")]
    NeedsNothing { task: TaskId, step: StepId },
    /// Its parent forks nobody: it is dead, a thread, or comes later.
    #[error("{task}: its parent {parent} cannot fork it")]
    Unborn { task: TaskId, parent: TaskId },
    /// It is to get its parent in a way that is not open to it: who forks it does not die, or has
    /// orphans for another task, or has no parent itself.
    #[error("{task}: {parent} forks it, and cannot give it to its parent")]
    NoWay { task: TaskId, parent: TaskId },
    /// It uses what another makes, neither above it nor sent to it or to somebody above it.
    #[error("{task}: {resource} can neither be inherited nor is it sent")]
    NotBelow { task: TaskId, resource: ResourceId },
    /// It is to share the table of who forks it and has one of its own, or one of the two does not live, or somebody
    /// else forks it.
    #[error("{task}: what it shares with its parent it cannot get from who forks it")]
    NotShared { task: TaskId },
    /// The table does not fit below the limit while it is built.
    #[error("{task}: descriptor {fd} is needed while restoring, and the limit is {limit}")]
    TableTooLarge { task: TaskId, fd: Fd, limit: Fd },
}

/// The outcome: the graph and who owns what.
#[derive(Debug, Clone)]
pub struct Placement {
    /// Operations and edges.
    pub graph: Graph,
    /// The owner of each resource; `None` if nobody uses it.
    pub owners: Vec<Option<TaskId>>,
}

/// Places every resource of `forest`. `needs`: those of this forest, where they are known.
///
/// # Errors
/// All descriptions that cannot be placed.
pub fn place(forest: &Forest, family: &Family, needs: Option<Needs>) -> Result<Placement, Vec<PlaceError>> {
    let needs = match needs {
        Some(needs) => {
            debug_assert_eq!(Ok(&needs), Needs::find(forest).as_ref(), "the forest has changed since");
            needs
        }
        None => Needs::find(forest)?,
    };
    let descents = Descents::find(forest)?;
    let turns = Turns::find(forest)?;
    let mut placer = Placer {
        forest,
        family,
        descents,
        children: forest.children(),
        threads: forest.threads(),
        graph: Graph::new(forest.tasks.len()),
        numbers: Numbers::choose(forest, &needs),
        born: vec![None; forest.tasks.len()],
        founded: vec![None; forest.tasks.len()],
        joins: Vec::new(),
        exits: vec![None; forest.tasks.len()],
        forked: vec![None; forest.tasks.len()],
        awaits: vec![None; forest.tasks.len()],
        flags: vec![None; forest.tasks.len()],
        made: vec![false; forest.resources.len()],
        exchange: Exchange::find(forest),
        turns,
        yields: Lists::of(forest.resources.len(), || {
            let resources = forest.resources.iter().enumerate();
            resources.flat_map(|(index, made)| made.yields.iter().flatten().map(move |ofd| (index, *ofd)))
        }),
        errors: Vec::new(),
        needs,
    };
    // About one for each step, two for each resource, and a few for each task; room for many moves costs nothing.
    let slots = forest.tasks.iter().map(|task| task.table.len()).sum::<usize>();
    placer
        .graph
        .reserve(forest.steps.len() + 2 * forest.resources.len() + 6 * forest.tasks.len() + slots / 2);
    if let Some(root) = placer.born.first_mut() {
        *root = Some((Table::new(), None));
    }
    let order = forest.birth_order();
    for task in &order {
        placer.task(*task);
    }
    for index in (0..forest.tasks.len())
        .filter(|index| order.len() < forest.tasks.len() && !order.contains(&TaskId::new(*index)))
    {
        let task = TaskId::new(index);
        placer.errors.extend(forest.tasks[index].parent.map(|parent| PlaceError::Unborn { task, parent }));
    }
    for (op, leader, is_later) in std::mem::take(&mut placer.joins) {
        if let Some(founding) = placer.founded[leader.index()] {
            let pgid = forest.tasks[leader.index()].pid;
            if is_later {
                placer.graph.require(founding, op, Reason::LeaderFirst { pgid });
            }
            if forest.tasks[leader.index()].life == Life::Helper
                && let Some(exit) = placer.exits[leader.index()]
            {
                placer.graph.require(op, exit, Reason::MembersFirst { pgid });
            }
        }
    }
    placer.order_messages();
    placer.order_turns();
    placer.order_deaths();
    if placer.errors.is_empty() {
        Ok(Placement { graph: placer.graph, owners: placer.needs.owners })
    } else {
        Err(placer.errors)
    }
}

/// Each of them once, in ascending order.
fn sorted(all: impl Iterator<Item = OfdId>) -> Vec<OfdId> {
    let mut all: Vec<OfdId> = all.collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// What a task does about deaths when it has forked all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mourning {
    /// Be ready to take orphans.
    Adopt,
    /// Wait for the death of a child.
    Await(TaskId),
}

struct Placer<'a> {
    forest: &'a Forest,
    family: &'a Family,
    descents: Descents,
    children: Vec<Vec<TaskId>>,
    threads: Vec<Vec<TaskId>>,
    graph: Graph,
    needs: Needs,
    numbers: Numbers,
    /// The table that each task inherits and the fork it is born by, until its turn comes.
    born: Vec<Option<(Table, Option<OpId>)>>,
    /// The operation that founds the group of each leader.
    founded: Vec<Option<OpId>>,
    /// Operations that join a group, with its leader, and whether they must wait for it.
    joins: Vec<(OpId, TaskId, bool)>,
    exits: Vec<Option<OpId>>,
    /// The operation that forks each task.
    forked: Vec<Option<OpId>>,
    /// The operation that waits for each death.
    awaits: Vec<Option<OpId>>,
    /// The operation that makes each adopter a subreaper.
    flags: Vec<Option<OpId>>,
    /// Which resources exist so far.
    made: Vec<bool>,
    exchange: Exchange,
    turns: Turns,
    /// What each resource yields that somebody may want, in one piece of memory.
    yields: Lists<OfdId>,
    errors: Vec<PlaceError>,
}

impl Placer<'_> {
    fn task(&mut self, task: TaskId) {
        let forest = self.forest;
        let spec = &forest.tasks[task.index()];
        let Some((table, fork)) = self.born[task.index()].take() else {
            self.errors.extend(spec.parent.map(|parent| PlaceError::Unborn { task, parent }));
            return;
        };
        let first = self.graph.len();
        for step in &spec.birth {
            let why = spec.parent.map_or(Reason::Sequence, |parent| Reason::BornBy { parent });
            self.graph.push(task, OpKind::Step { step: *step, fds: Fds::new() }, why);
        }
        match spec.life {
            Life::Zombie | Life::Helper => self.dying(task, table),
            Life::Thread => self.thread(task),
            Life::Lives => self.living(task, table),
        }
        // The first operation of a task comes after the fork that makes it.
        if let (Some(fork), Some(parent)) = (fork, spec.parent)
            && self.graph.len() > first
        {
            self.graph.require(fork, OpId::new(first), Reason::BornBy { parent });
        }
    }

    /// A further thread: what it sets on itself, the barrier, its tail.
    fn thread(&mut self, task: TaskId) {
        let forest = self.forest;
        for step in &forest.tasks[task.index()].steps {
            self.graph.push(task, OpKind::Step { step: *step, fds: Fds::new() }, Reason::Sequence);
        }
        self.end(task);
    }

    /// The barrier, the tail, the end.
    fn end(&mut self, task: TaskId) {
        let forest = self.forest;
        self.graph.push(task, OpKind::Arrive, Reason::Complete);
        let mut why = Reason::AllArrived;
        for step in &forest.tasks[task.index()].tail {
            self.graph.push(task, OpKind::Step { step: *step, fds: Fds::new() }, why);
            why = Reason::Sequence;
        }
        self.graph.push(task, OpKind::Park, why);
    }

    /// A zombie or a helper. Most of them fork nobody, and make nothing for others.
    fn dying(&mut self, task: TaskId, table: Table) {
        let makes_nothing = self.needs.through[task.index()].is_empty() && !self.exchange.takes_part(task);
        if self.children[task.index()].is_empty() && makes_nothing {
            self.enter_session(task);
            self.found_group(task);
            self.join_group(task);
        } else {
            let (mut desk, steps, temporary) = self.forking(task, table);
            self.steps(&mut desk, &steps, &temporary);
        }
        self.exits[task.index()] = Some(self.graph.push(task, OpKind::Exit, Reason::Sequence));
    }

    fn living(&mut self, task: TaskId, table: Table) {
        let forest = self.forest;
        let spec = &forest.tasks[task.index()];
        self.take_over(task);
        let (mut desk, steps, temporary) = self.forking(task, table);
        self.steps(&mut desk, &steps, &temporary);
        let moves = desk.finish();
        self.push_moves(task, moves, Reason::NotWanted);
        for thread in std::mem::take(&mut self.threads[task.index()]) {
            let start = self.graph.push(task, OpKind::StartThread { thread }, Reason::Complete);
            self.born[thread.index()] = Some((Table::new(), Some(start)));
        }
        if spec.shares_table {
            self.give_back(task);
            self.meet(task);
        }
        for step in &spec.with_threads {
            self.graph.push(task, OpKind::Step { step: *step, fds: Fds::new() }, Reason::Sequence);
        }
        self.end(task);
    }

    /// What a task does up to its steps: it makes what others need, forks, makes its own, and waits for
    /// those that must die. Gives its steps, and the files that only they need, which are opened there.
    fn forking(&mut self, task: TaskId, table: Table) -> (Desk, Vec<StepId>, Vec<ResourceId>) {
        let forest = self.forest;
        let spec = &forest.tasks[task.index()];
        let mut desk = Desk::new(task, spec, table);
        let owned: Vec<(ResourceId, Option<Span>)> =
            self.through(task).filter(|(resource, _)| self.owns(task, *resource)).collect();
        let by_child = self.creations_by_child(task, &owned);
        let steps = self.steps_of(task, &owned);
        let needs = steps.iter().flat_map(|step| &forest.steps[step.index()].needs);
        let in_steps = sorted(needs.copied());
        self.before_forks(&mut desk, &owned);
        let takes_part = self.exchange.takes_part(task);
        let lent = self.lent(task);
        let for_messages = self.held_for_messages(task);
        let held = sorted(in_steps.iter().chain(&lent).chain(&for_messages).copied());
        self.forks(&mut desk, &held, &by_child);
        let done = self.turns.done(task);
        if !done.staged {
            self.stage(task, 0);
        }

        // What only this task wants, and what it gives.
        let own: Vec<ResourceId> = owned
            .iter()
            .filter(|(r, span)| span.is_none() && !self.is_done_with(*r, &in_steps))
            .map(|(r, _)| *r)
            .collect();
        let (given, own): (Vec<_>, Vec<_>) = own.into_iter().partition(|r| self.forest.passing.is_passed(*r));
        let (mut own_temporary, own_lasting): (Vec<_>, Vec<_>) = own.into_iter().partition(|r| {
            self.yields(*r).any(|ofd| in_steps.binary_search(&ofd).is_ok())
                && !self.yields(*r).any(|ofd| desk.wants(ofd))
        });
        let own_lasting: Vec<ResourceId> =
            own_lasting.into_iter().filter(|r| !self.made[r.index()]).collect();
        // What has gone leaves its numbers to what comes.
        if takes_part || !own_lasting.is_empty() {
            let moves = desk.settle(&mut self.numbers, &held);
            self.push_moves(task, moves, Reason::AfterForks);
        }
        if takes_part {
            own_temporary
                .extend(self.through(task).map(|(r, _)| r).filter(|r| self.forest.passing.is_passed(*r)));
        }
        self.create_all(&mut desk, given, Reason::AfterForks);
        self.send_all(&desk);
        self.receive_all(&mut desk);
        self.create_all(&mut desk, own_lasting, Reason::AfterForks);
        let kept = sorted(in_steps.iter().chain(&lent).copied());
        let moves = desk.settle(&mut self.numbers, &kept);
        self.push_moves(task, moves, Reason::AfterForks);
        if !done.staged {
            self.stage(task, 1);
        }
        self.hand_on(&desk);
        if !lent.is_empty() {
            let moves = desk.settle(&mut self.numbers, &in_steps);
            self.push_moves(task, moves, Reason::NotWanted);
        }
        // Who shares waits for others when its turn is over.
        if !forest.tasks[task.index()].shares_table {
            self.meet(task);
        }
        (desk, steps, own_temporary)
    }

    /// Waits for others: for groups to be founded, for deaths.
    fn meet(&mut self, task: TaskId) {
        if let Join::JoinLater { .. } = self.family.join[task.index()] {
            self.join_group(task);
        }
        self.mourn(task);
    }

    /// The steps that come before the forks, with what they need. What is open then and no child and no later step
    /// needs is closed when the table is put right for the first fork.
    fn before_forks(&mut self, desk: &mut Desk, owned: &[(ResourceId, Option<Span>)]) {
        let forest = self.forest;
        let task = desk.task;
        let steps = &forest.tasks[task.index()].before_forks;
        if steps.is_empty() {
            return;
        }
        let why = match self.children[task.index()].first() {
            Some(child) => Reason::InheritedBy { child: *child },
            None => Reason::Sequence,
        };
        // What has no descriptor is not in the needs of any step.
        let owned = owned.iter().map(|(resource, _)| *resource);
        let bare: Vec<ResourceId> = owned.filter(|r| self.yields(*r).next().is_none()).collect();
        self.create_all(desk, bare, why);
        for step in steps {
            self.step(desk, *step, why);
        }
    }

    /// A step, behind the making of what it needs and is not there.
    fn step(&mut self, desk: &mut Desk, step: StepId, why: Reason) {
        let forest = self.forest;
        let needs = &forest.steps[step.index()].needs;
        for ofd in needs {
            if desk.table.find(*ofd).is_none()
                && let Some(resource) = self.needs.of_ofd[ofd.index()]
            {
                self.create_all(desk, vec![resource], Reason::NeededBy { step });
            }
        }
        let fds = needs.iter().map(|ofd| desk.table.find(*ofd).unwrap_or(Fd::MAX)).collect();
        self.graph.push(desk.task, OpKind::Step { step, fds }, why);
    }

    /// Whether a resource was made for the steps before the forks and is not needed behind them.
    fn is_done_with(&self, resource: ResourceId, in_steps: &[OfdId]) -> bool {
        self.made[resource.index()] && !self.yields(resource).any(|ofd| in_steps.binary_search(&ofd).is_ok())
    }

    /// Forks the children: those first that must be born before setsid.
    fn forks(&mut self, desk: &mut Desk, in_steps: &[OfdId], by_child: &BTreeMap<u32, Vec<ResourceId>>) {
        let task = desk.task;
        let children = std::mem::take(&mut self.children[task.index()]);
        if children.is_empty() {
            if !self.turns.done(task).entered {
                self.enter_family(task);
            }
            return;
        }
        let mut order: Vec<(u32, TaskId)> =
            children.iter().enumerate().map(|(rank, child)| (rank as u32, *child)).collect();
        order.sort_by_key(|(rank, child)| (!self.family.early[child.index()], *rank));
        // First and last use by position in the fork order, of what is open or will be made here.
        let mut position: Vec<u32> = vec![0; order.len()];
        for (at, (rank, _)) in order.iter().enumerate() {
            position[*rank as usize] = at as u32;
        }
        let reordered = order.iter().enumerate().any(|(at, (rank, _))| at as u32 != *rank);
        let mut last_use: Vec<(OfdId, u32)> = Vec::new();
        let mut create_at: BTreeMap<u32, Vec<ResourceId>> = BTreeMap::new();
        for (rank, resources) in by_child {
            // With children out of order a resource is made before the first fork of all.
            let at = if reordered { 0 } else { position.get(*rank as usize).copied().unwrap_or(0) };
            // What it receives somebody else has made.
            let missing = resources.iter().filter(|r| !self.owns(task, **r) || !self.made[r.index()]);
            create_at.entry(at).or_default().extend(missing);
        }
        for (resource, span) in self.through(task) {
            if let Some((_, last)) = span {
                let at = if reordered {
                    order.len() as u32
                } else {
                    position.get(last as usize).copied().unwrap_or(0)
                };
                let used = self.yields(resource).filter(|ofd| self.needs.is_used_below(task, *ofd));
                last_use.extend(used.map(|ofd| (ofd, at)));
            }
        }
        // No description comes from two resources.
        last_use.sort_unstable();
        let mut expires: BTreeMap<u32, Vec<OfdId>> = BTreeMap::new();
        for (ofd, at) in &last_use {
            if !desk.wants(*ofd) && in_steps.binary_search(ofd).is_err() {
                expires.entry(*at).or_default().push(*ofd);
            }
        }

        let mut is_in_session = self.turns.done(task).entered;
        for (at, (_, child)) in order.iter().enumerate() {
            let at = at as u32;
            if !self.family.early[child.index()] && !is_in_session {
                self.enter_family(task);
                is_in_session = true;
            }
            let why = Reason::InheritedBy { child: *child };
            // What has gone leaves its numbers to what comes.
            let gone = at.checked_sub(1).and_then(|last| expires.remove(&last)).unwrap_or_default();
            let kept = if at == 0 {
                sorted(in_steps.iter().copied().chain(last_use.iter().map(|(ofd, _)| *ofd)))
            } else {
                Vec::new()
            };
            let moves = if at == 0 {
                desk.settle(&mut self.numbers, &kept)
            } else {
                desk.settle_changes(&mut self.numbers, &gone)
            };
            self.push_moves(task, moves, why);
            let Some(resources) = create_at.remove(&at) else {
                self.fork(desk, *child);
                continue;
            };
            // An end that nobody wants, here or below.
            let useless: Vec<OfdId> = resources
                .iter()
                .flat_map(|resource| self.yields(*resource))
                .filter(|ofd| {
                    !desk.wants(*ofd)
                        && in_steps.binary_search(ofd).is_err()
                        && last_use.binary_search_by_key(ofd, |(other, _)| *other).is_err()
                })
                .collect();
            self.create_all(desk, resources, why);
            let moves = if at == 0 {
                desk.settle(&mut self.numbers, &kept)
            } else {
                desk.settle_changes(&mut self.numbers, &useless)
            };
            self.push_moves(task, moves, why);
            self.fork(desk, *child);
        }
        if !is_in_session {
            self.enter_family(task);
        }
        self.children[task.index()] = children;
    }

    fn fork(&mut self, desk: &Desk, child: TaskId) {
        let why = if self.family.early[child.index()] {
            Reason::BeforeSetsid { sid: self.forest.tasks[child.index()].sid }
        } else {
            Reason::Sequence
        };
        let fork = self.graph.push(desk.task, OpKind::Fork { child }, why);
        self.forked[child.index()] = Some(fork);
        // What it or somebody below it uses, it will look for.
        let relevant = self.through(child).flat_map(|(resource, _)| self.yields(resource));
        let count = self.needs.through[child.index()].len();
        self.born[child.index()] = Some((desk.table.inherited(relevant, count), Some(fork)));
    }

    fn enter_family(&mut self, task: TaskId) {
        self.enter_session(task);
        self.found_group(task);
        if let Join::JoinAtBirth { .. } = self.family.join[task.index()] {
            self.join_group(task);
        }
    }

    fn enter_session(&mut self, task: TaskId) {
        if self.family.leads_session[task.index()] {
            self.founded[task.index()] = Some(self.graph.push(task, OpKind::SetSid, Reason::Sequence));
        }
    }

    fn found_group(&mut self, task: TaskId) {
        if self.family.join[task.index()] == Join::Found {
            let pgid = self.forest.tasks[task.index()].pgid;
            self.founded[task.index()] =
                Some(self.graph.push(task, OpKind::SetPgid { pgid }, Reason::Sequence));
        }
    }

    fn join_group(&mut self, task: TaskId) {
        let pgid = self.forest.tasks[task.index()].pgid;
        match self.family.join[task.index()] {
            Join::Nothing | Join::Found => {}
            Join::JoinAtBirth { leader } => {
                let op = self.graph.push(task, OpKind::SetPgid { pgid }, Reason::LeaderFirst { pgid });
                self.joins.push((op, leader, false));
            }
            Join::JoinLater { leader } => {
                let op = self.graph.push(task, OpKind::SetPgid { pgid }, Reason::Sequence);
                self.joins.push((op, leader, true));
            }
        }
    }

    /// Waits for those that must die, and becomes a subreaper where orphans come to it.
    ///
    /// The order is that of [`Descents::rank`], within one rank: be ready, wait for one's own children,
    /// wait for those that come from others. Every wait for another task is for something of a lower
    /// place in this order, so these waits cannot run in a circle.
    fn mourn(&mut self, task: TaskId) {
        let descents = &self.descents;
        let mut all: Vec<((u32, u8), Mourning)> = Vec::new();
        if descents.adopts[task.index()] {
            all.push(((descents.depth[task.index()], 0), Mourning::Adopt));
        }
        for child in &descents.dying[task.index()] {
            all.push((descents.place(self.forest, *child), Mourning::Await(*child)));
        }
        all.sort_by_key(|(place, _)| *place);
        let mut raised = None;
        for (_, mourning) in all {
            match mourning {
                Mourning::Adopt => {
                    self.flags[task.index()] =
                        Some(self.graph.push(task, OpKind::BecomeSubreaper, Reason::Sequence));
                }
                Mourning::Await(child) => {
                    let reap = self.forest.tasks[child.index()].life == Life::Helper;
                    let op = self.graph.push(task, OpKind::AwaitExit { child, reap }, Reason::Sequence);
                    self.awaits[child.index()] = Some(op);
                    raised = Some(child).filter(|_| self.descents.raises_sigchld[child.index()]).or(raised);
                }
            }
        }
        if let Some(child) = raised {
            self.graph.push(task, OpKind::EatSigchld, Reason::MustHaveExited { child });
        }
    }

    /// What the deaths must wait for, and who waits for them.
    fn order_deaths(&mut self) {
        let forest = self.forest;
        let tasks = (0..forest.tasks.len()).map(TaskId::new);
        let adopters: Vec<(TaskId, OpId)> =
            tasks.clone().filter_map(|task| Some((task, self.flags[task.index()]?))).collect();
        for task in tasks.clone() {
            let (exit, await_op) = (self.exits[task.index()], self.awaits[task.index()]);
            if let (Some(exit), Some(op)) = (exit, await_op) {
                self.graph.require(exit, op, Reason::MustHaveExited { child: task });
            }
            let Some(adopter) = self.descents.adopter[task.index()] else { continue };
            if let (Some(flag), Some(exit)) = (self.flags[adopter.index()], exit) {
                self.graph.require(flag, exit, Reason::AdopterFirst { adopter });
            }
            // Nobody on the way may take them.
            for (below, flag) in &adopters {
                if let Some(op) = await_op.filter(|_| self.descents.is_above(adopter, *below)) {
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
                        Some(_) | None => self.forked[at.index()],
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

    /// The steps after the forks. Files that only they need, and only in this task, are opened just
    /// before the first step that needs them and closed after the last.
    fn steps(&mut self, desk: &mut Desk, steps: &[StepId], temporary: &[ResourceId]) {
        let forest = self.forest;
        let task = desk.task;
        let mut last_need: BTreeMap<OfdId, usize> = BTreeMap::new();
        for (at, step) in steps.iter().enumerate() {
            for ofd in &forest.steps[step.index()].needs {
                last_need.insert(*ofd, at);
            }
        }
        let temporary: BTreeSet<OfdId> =
            temporary.iter().flat_map(|resource| self.yields(*resource)).collect();
        for (at, step) in steps.iter().enumerate() {
            self.step(desk, *step, Reason::Sequence);
            let needs = &forest.steps[step.index()].needs;
            for ofd in needs {
                if temporary.contains(ofd)
                    && last_need.get(ofd) == Some(&at)
                    && !desk.wants(*ofd)
                    && let Some(fd) = desk.table.find(*ofd)
                {
                    let step = Move::Close { first: fd, last: fd };
                    desk.table.apply(step);
                    self.push_move(task, step, Reason::NotWanted);
                }
            }
        }
    }

    fn through(&self, task: TaskId) -> impl Iterator<Item = (ResourceId, Option<Span>)> + use<'_> {
        self.needs.through[task.index()].iter().copied()
    }

    /// What a task does after its forks: the work on what it owns, and its own steps.
    fn steps_of(&self, task: TaskId, owned: &[(ResourceId, Option<Span>)]) -> Vec<StepId> {
        let own = &self.forest.tasks[task.index()].steps;
        let mut steps = Vec::with_capacity(own.len());
        steps.extend(owned.iter().flat_map(|(made, _)| &self.forest.resources[made.index()].finish));
        steps.extend(own);
        steps
    }

    fn owns(&self, task: TaskId, resource: ResourceId) -> bool {
        self.needs.owners[resource.index()] == Some(task)
    }

    fn yields(&self, resource: ResourceId) -> impl Iterator<Item = OfdId> + use<'_> {
        self.yields.get(resource.index()).iter().copied()
    }

    /// What the task makes for its children, by the rank of the first child that needs it.
    fn creations_by_child(
        &self,
        task: TaskId,
        owned: &[(ResourceId, Option<Span>)],
    ) -> BTreeMap<u32, Vec<ResourceId>> {
        let mut by_child: BTreeMap<u32, Vec<ResourceId>> = BTreeMap::new();
        let mut add = |resource: ResourceId, span: Option<Span>| {
            if let Some((first, _)) = span {
                by_child.entry(first).or_default().push(resource);
            }
        };
        if !self.forest.passing.deliveries.is_empty() {
            let takes = |resource| self.owns(task, resource) || self.forest.passing.takes(task, resource);
            self.through(task).filter(|(made, _)| takes(*made)).for_each(|(made, span)| add(made, span));
        } else {
            owned.iter().for_each(|(made, span)| add(*made, *span));
        }
        by_child
    }

    /// Makes resources, those first that want the lowest numbers.
    fn create_all(&mut self, desk: &mut Desk, mut resources: Vec<ResourceId>, why: Reason) {
        resources.sort_by_cached_key(|resource| {
            let lowest = self
                .yields(*resource)
                .map(|ofd| desk.wanted_at(ofd).next().or(self.numbers.wanted[ofd.index()]).unwrap_or(0));
            (lowest.min().unwrap_or(0), *resource)
        });
        for resource in resources {
            self.create(desk, resource, why);
        }
    }

    fn create(&mut self, desk: &mut Desk, resource: ResourceId, why: Reason) {
        if self.forest.passing.takes(desk.task, resource) {
            self.receive_resource(desk, resource, why);
            return;
        }
        self.made[resource.index()] = true;
        let yields = &self.forest.resources[resource.index()].yields;
        let mut at = Fds::with_capacity(yields.len());
        let mut free = 0;
        for ofd in yields {
            free = desk.table.lowest_free(free);
            self.within_limit(desk.task, free);
            desk.open(free, *ofd);
            at.push(free);
        }
        // One flag serves all the numbers that a creation opens; what differs is put right when the
        // descriptions get to their places.
        let cloexec = at.first().is_some_and(|fd| {
            desk.table.get(*fd).is_some_and(|now| {
                desk.wanted(*fd).is_some_and(|want| Some(want.ofd) == now.ofd && want.cloexec)
            })
        });
        for fd in at.iter().filter(|_| cloexec) {
            desk.table.apply(Move::SetCloexec { fd: *fd, cloexec });
        }
        self.graph.push(desk.task, OpKind::Create { resource, at, cloexec }, why);
    }

    fn push_moves(&mut self, task: TaskId, moves: Vec<Move>, why: Reason) {
        for step in moves {
            if let Move::Dup { to, .. } = step {
                self.within_limit(task, to);
            }
            self.push_move(task, step, why);
        }
    }

    fn push_move(&mut self, task: TaskId, step: Move, why: Reason) {
        let (kind, why) = match step {
            Move::Dup { ofd, from, to, cloexec } => {
                (OpKind::Dup { ofd, from, to, cloexec }, Reason::NumberWanted { fd: to })
            }
            Move::Close { first, last } => (OpKind::Close { first, last }, Reason::NotWanted),
            Move::SetCloexec { fd, cloexec } => (OpKind::SetCloexec { fd, cloexec }, why),
        };
        self.graph.push(task, kind, why);
    }

    fn within_limit(&mut self, task: TaskId, fd: Fd) {
        let limit = self.forest.fd_limit;
        if limit != 0
            && fd >= limit
            && !self
                .errors
                .iter()
                .any(|e| matches!(e, PlaceError::TableTooLarge { task: t, .. } if *t == task))
        {
            self.errors.push(PlaceError::TableTooLarge { task, fd, limit });
        }
    }
}
