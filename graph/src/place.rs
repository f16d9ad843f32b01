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
//! The module writes each task's operations in their order while it plays them on a [`Table`], and puts
//! them together into the [`Graph`] (`parts`); it knows no system calls.

mod descents;
mod desk;
mod exchange;
mod guess;
mod parts;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::family::{Family, Join};
use crate::forest::{Forest, Life};
use crate::graph::{Graph, Op, OpKind, Reason};
use crate::ids::{Fd, Fds, OfdId, OpId, ResourceId, StepId, TaskId};
use crate::lists::Lists;
use crate::needs::{Needs, Span};
use crate::numbers::{Numbers, Supply};
use crate::table::{Move, Table};
use descents::Descents;
use desk::Desk;
use exchange::Exchange;
use parts::{Part, Whole};
use turns::{Done, Turns};

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
    let (ground, mut numbers) = Ground::find(forest, family, needs)?;
    let order = forest.birth_order();
    // Where not all are born, some may descend from themselves.
    let is_tree = order.len() == forest.tasks.len();
    let at_once =
        if is_tree && rayon::current_num_threads() > 1 { parts::at_once(&ground, &numbers) } else { None };
    #[cfg(test)]
    if let Some(parts) = &at_once {
        assert_eq!(format!("{parts:?}"), format!("{:?}", parts::in_order(&ground, &mut numbers, &order)));
    }
    let parts = at_once.unwrap_or_else(|| parts::in_order(&ground, &mut numbers, &order));
    let graph = Whole::of(&ground, &order, parts)?;
    Ok(Placement { graph, owners: ground.needs.owners })
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

/// What all tasks are placed by. Nothing of it changes meanwhile.
struct Ground<'a> {
    forest: &'a Forest,
    family: &'a Family,
    descents: Descents,
    children: Vec<Vec<TaskId>>,
    threads: Vec<Vec<TaskId>>,
    needs: Needs,
    exchange: Exchange,
    turns: Turns,
    /// What each resource yields that somebody may want, in one piece of memory.
    yields: Lists<OfdId>,
}

impl<'a> Ground<'a> {
    /// With the numbers at which descriptions travel.
    fn find(
        forest: &'a Forest,
        family: &'a Family,
        needs: Needs,
    ) -> Result<(Ground<'a>, Numbers), Vec<PlaceError>> {
        let ((descents, turns), (numbers, (exchange, yields))) = rayon::join(
            || (Descents::find(forest), Turns::find(forest)),
            || {
                let of_all = || {
                    let resources = forest.resources.iter().enumerate();
                    resources
                        .flat_map(|(index, made)| made.yields.iter().flatten().map(move |ofd| (index, *ofd)))
                };
                let yields = Lists::of(forest.resources.len(), of_all);
                (Numbers::choose(forest, &needs), (Exchange::find(forest), yields))
            },
        );
        let ground = Ground {
            forest,
            family,
            descents: descents?,
            children: forest.children(),
            threads: forest.threads(),
            exchange,
            turns: turns?,
            yields,
            needs,
        };
        Ok((ground, numbers))
    }

    /// What a task or somebody below it uses, with the children that are above those.
    fn through(&self, task: TaskId) -> impl Iterator<Item = (ResourceId, Option<Span>)> + use<'_> {
        self.needs.through[task.index()].iter().copied()
    }

    fn owns(&self, task: TaskId, resource: ResourceId) -> bool {
        self.needs.owners[resource.index()] == Some(task)
    }

    fn yields(&self, resource: ResourceId) -> impl Iterator<Item = OfdId> + use<'_> {
        self.yields.get(resource.index()).iter().copied()
    }

    /// What a task makes, with the children that are above those that use it.
    fn owned(&self, task: TaskId) -> Vec<(ResourceId, Option<Span>)> {
        self.through(task).filter(|(resource, _)| self.owns(task, *resource)).collect()
    }

    /// What a task needs for some of its steps.
    fn needs_of(&self, steps: &[StepId]) -> Vec<OfdId> {
        sorted(steps.iter().flat_map(|step| &self.forest.steps[step.index()].needs).copied())
    }

    /// What those below a task use, with the last child that is above one of them.
    fn used_below(&self, task: TaskId) -> impl Iterator<Item = (OfdId, u32)> + use<'_> {
        let spans = self.through(task).filter_map(|(resource, span)| Some((resource, span?.1)));
        spans.flat_map(move |(resource, last)| {
            let used = self.yields(resource).filter(move |ofd| self.needs.is_used_below(task, *ofd));
            used.map(move |ofd| (ofd, last))
        })
    }

    /// What a child gets of its parent's table: what it or somebody below it uses, it will look for.
    fn inherited(&self, table: &Table, child: TaskId) -> Table {
        let relevant = self.through(child).flat_map(|(resource, _)| self.yields(resource));
        table.inherited(relevant, self.needs.through[child.index()].len())
    }
}

/// One task while its operations are written.
struct Placer<'a> {
    all: &'a Ground<'a>,
    task: TaskId,
    /// What there is so far. Its operations have the numbers that they have in it.
    part: Part,
    supply: Supply<'a>,
    /// Gives a child, or a thread, the table that it is born with.
    bear: &'a mut dyn FnMut(TaskId, Table),
    /// Which of the resources of [`Needs::through`] it has made so far.
    made: Vec<bool>,
    /// The messages that it has not received yet, by index, ascending.
    receives: Vec<usize>,
    /// What it has done before its turn.
    done: Done,
}

impl Placer<'_> {
    fn run(&mut self, table: Table) {
        let task = self.task;
        let spec = &self.all.forest.tasks[task.index()];
        for step in &spec.birth {
            let why = spec.parent.map_or(Reason::Sequence, |parent| Reason::BornBy { parent });
            self.push(OpKind::Step { step: *step, fds: Fds::new() }, why);
        }
        match spec.life {
            Life::Zombie | Life::Helper => self.dying(task, table),
            Life::Thread => self.thread(task),
            Life::Lives => self.living(task, table),
        }
    }

    fn push(&mut self, kind: OpKind, why: Reason) -> OpId {
        let op = OpId::new(self.part.ops.len());
        self.part.ops.push(Op { task: self.task, kind, why });
        op
    }

    /// A child or a thread is born by an operation, with a table.
    fn bears(&mut self, child: TaskId, by: OpId, table: Table) {
        self.part.births.push((child, by));
        // Who shares the table gets it with its turn.
        if !self.all.forest.tasks[child.index()].shares_table {
            self.gives(child, table);
        }
    }

    /// A child or a thread gets the table that it starts with, and can be placed.
    fn gives(&mut self, child: TaskId, table: Table) {
        // From what does not count nothing is to follow.
        if !self.supply.is_lacking() {
            (self.bear)(child, table);
        }
    }

    /// Where a resource is in [`Needs::through`].
    fn place_of(&self, resource: ResourceId) -> Option<usize> {
        let through = &self.all.needs.through[self.task.index()];
        through.binary_search_by_key(&resource, |(other, _)| *other).ok()
    }

    /// Whether it has made a resource that it owns.
    fn has_made(&self, resource: ResourceId) -> bool {
        self.place_of(resource).is_some_and(|at| self.made[at])
    }

    /// A further thread: what it sets on itself, the barrier, its tail.
    fn thread(&mut self, task: TaskId) {
        let forest = self.all.forest;
        for step in &forest.tasks[task.index()].steps {
            self.push(OpKind::Step { step: *step, fds: Fds::new() }, Reason::Sequence);
        }
        self.end(task);
    }

    /// The barrier, the tail, the end.
    fn end(&mut self, task: TaskId) {
        let forest = self.all.forest;
        self.push(OpKind::Arrive, Reason::Complete);
        let mut why = Reason::AllArrived;
        for step in &forest.tasks[task.index()].tail {
            self.push(OpKind::Step { step: *step, fds: Fds::new() }, why);
            why = Reason::Sequence;
        }
        self.push(OpKind::Park, why);
    }

    /// A zombie or a helper. Most of them fork nobody, and make nothing for others.
    fn dying(&mut self, task: TaskId, table: Table) {
        let makes_nothing =
            self.all.needs.through[task.index()].is_empty() && !self.all.exchange.takes_part(task);
        if self.all.children[task.index()].is_empty() && makes_nothing {
            self.enter_session(task);
            self.found_group(task);
            self.join_group(task);
        } else {
            let (mut desk, steps, temporary) = self.forking(task, table);
            self.steps(&mut desk, &steps, &temporary);
        }
        self.part.exit = Some(self.push(OpKind::Exit, Reason::Sequence));
    }

    fn living(&mut self, task: TaskId, table: Table) {
        let forest = self.all.forest;
        let spec = &forest.tasks[task.index()];
        self.take_over(task);
        let (mut desk, steps, temporary) = self.forking(task, table);
        self.steps(&mut desk, &steps, &temporary);
        let moves = desk.finish();
        self.push_moves(moves, Reason::NotWanted);
        for thread in &self.all.threads[task.index()] {
            let start = self.push(OpKind::StartThread { thread: *thread }, Reason::Complete);
            self.bears(*thread, start, Table::new());
        }
        if spec.shares_table {
            self.give_back();
            self.meet(task);
        }
        for step in &spec.with_threads {
            self.push(OpKind::Step { step: *step, fds: Fds::new() }, Reason::Sequence);
        }
        self.end(task);
    }

    /// What a task does up to its steps: it makes what others need, forks, makes its own, and waits for
    /// those that must die. Gives its steps, and the files that only they need, which are opened there.
    fn forking(&mut self, task: TaskId, table: Table) -> (Desk, Vec<StepId>, Vec<ResourceId>) {
        let forest = self.all.forest;
        let spec = &forest.tasks[task.index()];
        let mut desk = Desk::new(task, spec, table);
        let owned = self.all.owned(task);
        let by_child = self.creations_by_child(task, &owned);
        let steps = self.steps_of(task, &owned);
        let in_steps = self.all.needs_of(&steps);
        self.before_forks(&mut desk, &owned);
        let takes_part = self.all.exchange.takes_part(task);
        let lent = self.lent(task);
        let for_messages = self.held_for_messages(task);
        let held = sorted(in_steps.iter().chain(&lent).chain(&for_messages).copied());
        self.forks(&mut desk, &held, &by_child);
        let done = self.done;
        if !done.staged {
            self.stage(0);
        }

        // What only this task wants, and what it gives.
        let own: Vec<ResourceId> = owned
            .iter()
            .filter(|(r, span)| span.is_none() && !self.is_done_with(*r, &in_steps))
            .map(|(r, _)| *r)
            .collect();
        let (given, own): (Vec<_>, Vec<_>) =
            own.into_iter().partition(|r| self.all.forest.passing.is_passed(*r));
        let (mut own_temporary, own_lasting): (Vec<_>, Vec<_>) = own.into_iter().partition(|r| {
            self.all.yields(*r).any(|ofd| in_steps.binary_search(&ofd).is_ok())
                && !self.all.yields(*r).any(|ofd| desk.wants(ofd))
        });
        let own_lasting: Vec<ResourceId> = own_lasting.into_iter().filter(|r| !self.has_made(*r)).collect();
        // What has gone leaves its numbers to what comes.
        if takes_part || !own_lasting.is_empty() {
            let moves = desk.settle(&mut self.supply, &held);
            self.push_moves(moves, Reason::AfterForks);
        }
        if takes_part {
            own_temporary.extend(
                self.all.through(task).map(|(r, _)| r).filter(|r| self.all.forest.passing.is_passed(*r)),
            );
        }
        self.create_all(&mut desk, given, Reason::AfterForks);
        self.send_all(&desk);
        self.receive_all(&mut desk);
        self.create_all(&mut desk, own_lasting, Reason::AfterForks);
        let kept = sorted(in_steps.iter().chain(&lent).copied());
        let moves = desk.settle(&mut self.supply, &kept);
        self.push_moves(moves, Reason::AfterForks);
        if !done.staged {
            self.stage(1);
        }
        self.hand_on(&desk);
        if !lent.is_empty() {
            let moves = desk.settle(&mut self.supply, &in_steps);
            self.push_moves(moves, Reason::NotWanted);
        }
        // Who shares waits for others when its turn is over.
        if !forest.tasks[task.index()].shares_table {
            self.meet(task);
        }
        (desk, steps, own_temporary)
    }

    /// Waits for others: for groups to be founded, for deaths.
    fn meet(&mut self, task: TaskId) {
        if let Join::JoinLater { .. } = self.all.family.join[task.index()] {
            self.join_group(task);
        }
        self.mourn(task);
    }

    /// The steps that come before the forks, with what they need. What is open then and no child and no later step
    /// needs is closed when the table is put right for the first fork.
    fn before_forks(&mut self, desk: &mut Desk, owned: &[(ResourceId, Option<Span>)]) {
        let forest = self.all.forest;
        let task = desk.task;
        let steps = &forest.tasks[task.index()].before_forks;
        if steps.is_empty() {
            return;
        }
        let why = match self.all.children[task.index()].first() {
            Some(child) => Reason::InheritedBy { child: *child },
            None => Reason::Sequence,
        };
        // What has no descriptor is not in the needs of any step.
        let owned = owned.iter().map(|(resource, _)| *resource);
        let bare: Vec<ResourceId> = owned.filter(|r| self.all.yields(*r).next().is_none()).collect();
        self.create_all(desk, bare, why);
        for step in steps {
            self.step(desk, *step, why);
        }
    }

    /// A step, behind the making of what it needs and is not there.
    fn step(&mut self, desk: &mut Desk, step: StepId, why: Reason) {
        let forest = self.all.forest;
        let needs = &forest.steps[step.index()].needs;
        for ofd in needs {
            if desk.table.find(*ofd).is_none()
                && let Some(resource) = self.all.needs.of_ofd[ofd.index()]
            {
                self.create_all(desk, vec![resource], Reason::NeededBy { step });
            }
        }
        let fds = needs.iter().map(|ofd| desk.table.find(*ofd).unwrap_or(Fd::MAX)).collect();
        self.push(OpKind::Step { step, fds }, why);
    }

    /// Whether a resource was made for the steps before the forks and is not needed behind them.
    fn is_done_with(&self, resource: ResourceId, in_steps: &[OfdId]) -> bool {
        self.has_made(resource) && !self.all.yields(resource).any(|ofd| in_steps.binary_search(&ofd).is_ok())
    }

    /// Forks the children: those first that must be born before setsid.
    fn forks(&mut self, desk: &mut Desk, in_steps: &[OfdId], by_child: &BTreeMap<u32, Vec<ResourceId>>) {
        let task = desk.task;
        let children = &self.all.children[task.index()];
        if children.is_empty() {
            if !self.done.entered {
                self.enter_family(task);
            }
            return;
        }
        let mut order: Vec<(u32, TaskId)> =
            children.iter().enumerate().map(|(rank, child)| (rank as u32, *child)).collect();
        order.sort_by_key(|(rank, child)| (!self.all.family.early[child.index()], *rank));
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
            let missing = resources.iter().filter(|r| !self.all.owns(task, **r) || !self.has_made(**r));
            create_at.entry(at).or_default().extend(missing);
        }
        last_use.extend(self.all.used_below(task).map(|(ofd, last)| {
            let at = if reordered {
                order.len() as u32
            } else {
                position.get(last as usize).copied().unwrap_or(0)
            };
            (ofd, at)
        }));
        // No description comes from two resources.
        last_use.sort_unstable();
        let mut expires: BTreeMap<u32, Vec<OfdId>> = BTreeMap::new();
        for (ofd, at) in &last_use {
            if !desk.wants(*ofd) && in_steps.binary_search(ofd).is_err() {
                expires.entry(*at).or_default().push(*ofd);
            }
        }

        let mut is_in_session = self.done.entered;
        for (at, (_, child)) in order.iter().enumerate() {
            let at = at as u32;
            if !self.all.family.early[child.index()] && !is_in_session {
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
                desk.settle(&mut self.supply, &kept)
            } else {
                desk.settle_changes(&mut self.supply, &gone)
            };
            self.push_moves(moves, why);
            let Some(resources) = create_at.remove(&at) else {
                self.fork(desk, *child);
                continue;
            };
            // An end that nobody wants, here or below.
            let useless: Vec<OfdId> = resources
                .iter()
                .flat_map(|resource| self.all.yields(*resource))
                .filter(|ofd| {
                    !desk.wants(*ofd)
                        && in_steps.binary_search(ofd).is_err()
                        && last_use.binary_search_by_key(ofd, |(other, _)| *other).is_err()
                })
                .collect();
            self.create_all(desk, resources, why);
            let moves = if at == 0 {
                desk.settle(&mut self.supply, &kept)
            } else {
                desk.settle_changes(&mut self.supply, &useless)
            };
            self.push_moves(moves, why);
            self.fork(desk, *child);
        }
        if !is_in_session {
            self.enter_family(task);
        }
    }

    fn fork(&mut self, desk: &Desk, child: TaskId) {
        let why = if self.all.family.early[child.index()] {
            Reason::BeforeSetsid { sid: self.all.forest.tasks[child.index()].sid }
        } else {
            Reason::Sequence
        };
        let directory = self.all.forest.tasks[child.index()].born_in;
        let into = directory.map(|directory| desk.table.find(directory).unwrap_or(Fd::MAX));
        let fork = self.push(OpKind::Fork { child, into }, why);
        self.bears(child, fork, self.all.inherited(&desk.table, child));
    }

    fn enter_family(&mut self, task: TaskId) {
        self.enter_session(task);
        self.found_group(task);
        if let Join::JoinAtBirth { .. } = self.all.family.join[task.index()] {
            self.join_group(task);
        }
    }

    fn enter_session(&mut self, task: TaskId) {
        if self.all.family.leads_session[task.index()] {
            self.part.founded = Some(self.push(OpKind::SetSid, Reason::Sequence));
        }
    }

    fn found_group(&mut self, task: TaskId) {
        if self.all.family.join[task.index()] == Join::Found {
            let pgid = self.all.forest.tasks[task.index()].pgid;
            self.part.founded = Some(self.push(OpKind::SetPgid { pgid }, Reason::Sequence));
        }
    }

    fn join_group(&mut self, task: TaskId) {
        let pgid = self.all.forest.tasks[task.index()].pgid;
        match self.all.family.join[task.index()] {
            Join::Nothing | Join::Found => {}
            Join::JoinAtBirth { leader } => {
                let op = self.push(OpKind::SetPgid { pgid }, Reason::LeaderFirst { pgid });
                self.part.joins.push((op, leader, false));
            }
            Join::JoinLater { leader } => {
                let op = self.push(OpKind::SetPgid { pgid }, Reason::Sequence);
                self.part.joins.push((op, leader, true));
            }
        }
    }

    /// Waits for those that must die, and becomes a subreaper where orphans come to it.
    ///
    /// The order is that of [`Descents::rank`], within one rank: be ready, wait for one's own children,
    /// wait for those that come from others. Every wait for another task is for something of a lower
    /// place in this order, so these waits cannot run in a circle.
    fn mourn(&mut self, task: TaskId) {
        let descents = &self.all.descents;
        let mut all: Vec<((u32, u8), Mourning)> = Vec::new();
        if descents.adopts[task.index()] {
            all.push(((descents.depth[task.index()], 0), Mourning::Adopt));
        }
        for child in &descents.dying[task.index()] {
            all.push((descents.place(self.all.forest, *child), Mourning::Await(*child)));
        }
        all.sort_by_key(|(place, _)| *place);
        let mut raised = None;
        for (_, mourning) in all {
            match mourning {
                Mourning::Adopt => {
                    self.part.flag = Some(self.push(OpKind::BecomeSubreaper, Reason::Sequence));
                }
                Mourning::Await(child) => {
                    let reap = self.all.forest.tasks[child.index()].life == Life::Helper;
                    let op = self.push(OpKind::AwaitExit { child, reap }, Reason::Sequence);
                    self.part.awaits.push((child, op));
                    raised =
                        Some(child).filter(|_| self.all.descents.raises_sigchld[child.index()]).or(raised);
                }
            }
        }
        if let Some(child) = raised {
            self.push(OpKind::EatSigchld, Reason::MustHaveExited { child });
        }
    }

    /// The steps after the forks. Files that only they need, and only in this task, are opened just
    /// before the first step that needs them and closed after the last.
    fn steps(&mut self, desk: &mut Desk, steps: &[StepId], temporary: &[ResourceId]) {
        let forest = self.all.forest;
        let mut last_need: BTreeMap<OfdId, usize> = BTreeMap::new();
        for (at, step) in steps.iter().enumerate() {
            for ofd in &forest.steps[step.index()].needs {
                last_need.insert(*ofd, at);
            }
        }
        let temporary: BTreeSet<OfdId> =
            temporary.iter().flat_map(|resource| self.all.yields(*resource)).collect();
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
                    self.push_move(step, Reason::NotWanted);
                }
            }
        }
    }

    /// What a task does after its forks: the work on what it owns, and its own steps.
    fn steps_of(&self, task: TaskId, owned: &[(ResourceId, Option<Span>)]) -> Vec<StepId> {
        let own = &self.all.forest.tasks[task.index()].steps;
        let mut steps = Vec::with_capacity(own.len());
        steps.extend(owned.iter().flat_map(|(made, _)| &self.all.forest.resources[made.index()].finish));
        steps.extend(own);
        steps
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
        if !self.all.forest.passing.deliveries.is_empty() {
            let takes =
                |resource| self.all.owns(task, resource) || self.all.forest.passing.takes(task, resource);
            self.all.through(task).filter(|(made, _)| takes(*made)).for_each(|(made, span)| add(made, span));
        } else {
            owned.iter().for_each(|(made, span)| add(*made, *span));
        }
        by_child
    }

    /// Makes resources, those first that want the lowest numbers.
    fn create_all(&mut self, desk: &mut Desk, mut resources: Vec<ResourceId>, why: Reason) {
        resources.sort_by_cached_key(|resource| {
            let lowest = self
                .all
                .yields(*resource)
                .map(|ofd| desk.wanted_at(ofd).next().or(self.supply.wanted[ofd.index()]).unwrap_or(0));
            (lowest.min().unwrap_or(0), *resource)
        });
        for resource in resources {
            self.create(desk, resource, why);
        }
    }

    fn create(&mut self, desk: &mut Desk, resource: ResourceId, why: Reason) {
        if self.all.forest.passing.takes(desk.task, resource) {
            self.receive_resource(desk, resource, why);
            return;
        }
        if let Some(at) = self.place_of(resource) {
            self.made[at] = true;
        }
        let yields = &self.all.forest.resources[resource.index()].yields;
        let mut at = Fds::with_capacity(yields.len());
        let mut free = 0;
        for ofd in yields {
            free = desk.table.lowest_free(free);
            self.within_limit(free);
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
        self.push(OpKind::Create { resource, at, cloexec }, why);
    }

    fn push_moves(&mut self, moves: Vec<Move>, why: Reason) {
        for step in moves {
            if let Move::Dup { to, .. } = step {
                self.within_limit(to);
            }
            self.push_move(step, why);
        }
    }

    fn push_move(&mut self, step: Move, why: Reason) {
        let (kind, why) = match step {
            Move::Dup { ofd, from, to, cloexec } => {
                (OpKind::Dup { ofd, from, to, cloexec }, Reason::NumberWanted { fd: to })
            }
            Move::Close { first, last } => (OpKind::Close { first, last }, Reason::NotWanted),
            Move::SetCloexec { fd, cloexec } => (OpKind::SetCloexec { fd, cloexec }, why),
        };
        self.push(kind, why);
    }

    fn within_limit(&mut self, fd: Fd) {
        let task = self.task;
        let limit = self.all.forest.fd_limit;
        if limit != 0
            && fd >= limit
            && !self
                .part
                .errors
                .iter()
                .any(|e| matches!(e, PlaceError::TableTooLarge { task: t, .. } if *t == task))
        {
            self.part.errors.push(PlaceError::TableTooLarge { task, fd, limit });
        }
    }
}
