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

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::family::{Family, Join};
use crate::forest::{Descent, Forest, Life};
use crate::graph::{Graph, OpKind, Reason};
use crate::ids::{Fd, OfdId, OpId, ResourceId, StepId, TaskId};
use crate::needs::Needs;
use crate::numbers::Numbers;
use crate::table::{Entry, Move, Table, transform};

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

/// Places every resource of `forest`.
///
/// # Errors
/// All descriptions that cannot be placed.
pub fn place(forest: &Forest, family: &Family) -> Result<Placement, Vec<PlaceError>> {
    let needs = Needs::find(forest)?;
    let descents = Descents::find(forest)?;
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
        errors: Vec::new(),
        needs,
    };
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
    placer.order_deaths();
    if placer.errors.is_empty() {
        Ok(Placement { graph: placer.graph, owners: placer.needs.owners })
    } else {
        Err(placer.errors)
    }
}

/// Who becomes whose child by the death of whom.
struct Descents {
    /// The parent of each task in the end.
    parents: Vec<Option<TaskId>>,
    /// How far each task is below the root then.
    depth: Vec<u32>,
    /// Who gets the children of each task that dies.
    adopter: Vec<Option<TaskId>>,
    /// Whether each task gets any.
    adopts: Vec<bool>,
    /// The children of each task in the end, and helpers that it forks: those that die.
    dying: Vec<Vec<TaskId>>,
    /// Whose death raises SIGCHLD.
    raises_sigchld: Vec<bool>,
}

impl Descents {
    fn find(forest: &Forest) -> Result<Descents, Vec<PlaceError>> {
        let count = forest.tasks.len();
        let mut descents = Descents {
            parents: forest.parents(),
            depth: vec![0; count],
            adopter: vec![None; count],
            adopts: vec![false; count],
            dying: vec![Vec::new(); count],
            raises_sigchld: forest.raises_sigchld(),
        };
        let mut errors = Vec::new();
        for (index, spec) in forest.tasks.iter().enumerate() {
            let Some(parent) = spec.parent else { continue };
            let forker = &forest.tasks[parent.index()];
            let dies = matches!(forker.life, Life::Zombie | Life::Helper);
            let (task, is_helper) = (TaskId::new(index), spec.life == Life::Helper);
            match spec.descent {
                Descent::Own if dies && !is_helper => errors.push(PlaceError::Unborn { task, parent }),
                Descent::Own => {}
                Descent::Sibling if forker.parent.is_none() || is_helper => {
                    errors.push(PlaceError::NoWay { task, parent });
                }
                Descent::Sibling => {}
                Descent::Adopted { by } => {
                    descents.adopts[by.index()] = true;
                    let is_other = *descents.adopter[parent.index()].get_or_insert(by) != by;
                    if is_other || !dies || is_helper || forest.tasks[by.index()].life != Life::Lives {
                        errors.push(PlaceError::NoWay { task, parent });
                    }
                }
            }
            if matches!(spec.life, Life::Zombie | Life::Helper)
                && let Some(parent) = descents.parents[index]
            {
                descents.dying[parent.index()].push(task);
            }
            let mut above = descents.parents[index];
            while let Some(task) = above.filter(|_| (descents.depth[index] as usize) < count) {
                descents.depth[index] += 1;
                above = descents.parents[task.index()];
            }
        }
        if errors.is_empty() { Ok(descents) } else { Err(errors) }
    }

    /// Where in the order of deaths that of a task stands: those come first that leave children to
    /// tasks near the root, because no task further below may take these. Deaths that leave nobody
    /// to others come before all.
    fn rank(&self, task: TaskId) -> u32 {
        self.adopter[task.index()].map_or(0, |adopter| self.depth[adopter.index()])
    }

    /// The place of the waiting for its death in the order of [`Placer::mourn`].
    fn place(&self, forest: &Forest, task: TaskId) -> (u32, u8) {
        let mut place = (self.rank(task), 1);
        let mut at = task;
        while let Some(forker) = forest.tasks[at.index()].parent {
            let rank = match forest.tasks[at.index()].descent {
                Descent::Own => break,
                Descent::Adopted { by } => self.depth[by.index()],
                Descent::Sibling => self.rank(forker),
            };
            place = (place.0.max(rank), 2);
            match forest.tasks[at.index()].descent {
                Descent::Sibling => at = forker,
                Descent::Own | Descent::Adopted { .. } => break,
            }
        }
        place
    }

    fn is_above(&self, above: TaskId, task: TaskId) -> bool {
        self.depth[above.index()] < self.depth[task.index()]
            && std::iter::successors(Some(task), |task| self.parents[task.index()])
                .take(self.parents.len())
                .any(|task| task == above)
    }
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
    errors: Vec<PlaceError>,
}

/// One task's table while its program is written.
struct Desk {
    task: TaskId,
    table: Table,
    /// The table at the end.
    desired: BTreeMap<Fd, Entry>,
    desired_ofds: BTreeSet<OfdId>,
    /// Numbers of descriptions that are open and not in the final table.
    carried: BTreeMap<OfdId, Fd>,
    carried_fds: BTreeSet<Fd>,
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
            self.graph.push(task, OpKind::Step { step: *step, fds: Vec::new() }, why);
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
            self.graph.push(task, OpKind::Step { step: *step, fds: Vec::new() }, Reason::Sequence);
        }
        self.end(task);
    }

    /// The barrier, the tail, the end.
    fn end(&mut self, task: TaskId) {
        let forest = self.forest;
        self.graph.push(task, OpKind::Arrive, Reason::Complete);
        let mut why = Reason::AllArrived;
        for step in &forest.tasks[task.index()].tail {
            self.graph.push(task, OpKind::Step { step: *step, fds: Vec::new() }, why);
            why = Reason::Sequence;
        }
        self.graph.push(task, OpKind::Park, why);
    }

    /// A zombie or a helper. Most of them fork nobody.
    fn dying(&mut self, task: TaskId, table: Table) {
        if self.children[task.index()].is_empty() {
            self.enter_session(task);
            self.found_group(task);
            self.join_group(task);
        } else {
            let (mut desk, temporary) = self.forking(task, table);
            self.steps(&mut desk, &temporary);
        }
        self.exits[task.index()] = Some(self.graph.push(task, OpKind::Exit, Reason::Sequence));
    }

    fn living(&mut self, task: TaskId, table: Table) {
        let forest = self.forest;
        let spec = &forest.tasks[task.index()];
        let (mut desk, temporary) = self.forking(task, table);
        self.steps(&mut desk, &temporary);
        let wanted = desk.desired.clone();
        self.move_to(&mut desk, &wanted, Reason::NotWanted);
        for thread in std::mem::take(&mut self.threads[task.index()]) {
            let start = self.graph.push(task, OpKind::StartThread { thread }, Reason::Complete);
            self.born[thread.index()] = Some((Table::new(), Some(start)));
        }
        for step in &spec.with_threads {
            self.graph.push(task, OpKind::Step { step: *step, fds: Vec::new() }, Reason::Sequence);
        }
        self.end(task);
    }

    /// What a task does up to its steps: it makes what others need, forks, makes its own, and waits for
    /// those that must die. Gives the files that only its steps need, which are opened there.
    fn forking(&mut self, task: TaskId, table: Table) -> (Desk, Vec<ResourceId>) {
        let forest = self.forest;
        let spec = &forest.tasks[task.index()];
        let desired: BTreeMap<Fd, Entry> = spec
            .table
            .iter()
            .map(|slot| (slot.fd, Entry { ofd: Some(slot.ofd), cloexec: slot.cloexec }))
            .collect();
        let desired_ofds = spec.table.iter().map(|slot| slot.ofd).collect();
        let mut desk = Desk {
            task,
            table,
            desired,
            desired_ofds,
            carried: BTreeMap::new(),
            carried_fds: BTreeSet::new(),
        };

        let by_child = self.creations_by_child(task);
        let in_steps: BTreeSet<OfdId> = self
            .finish(task)
            .chain(spec.steps.iter().copied())
            .flat_map(|step| forest.steps[step.index()].needs.iter().copied())
            .collect();
        self.forks(&mut desk, &in_steps, &by_child);

        // What only this task wants.
        let own: Vec<ResourceId> = self
            .through(task)
            .filter(|(r, span)| span.is_none() && self.owns(task, *r))
            .map(|(r, _)| r)
            .collect();
        let (own_temporary, own_lasting): (Vec<_>, Vec<_>) = own.into_iter().partition(|r| {
            self.yields(*r).any(|ofd| in_steps.contains(&ofd))
                && !self.yields(*r).any(|ofd| desk.desired_ofds.contains(&ofd))
        });
        self.create_all(&mut desk, own_lasting, Reason::AfterForks);
        let wanted = self.wanted(&mut desk, &|ofd| in_steps.contains(&ofd));
        self.move_to(&mut desk, &wanted, Reason::AfterForks);
        if let Join::JoinLater { .. } = self.family.join[task.index()] {
            self.join_group(task);
        }
        self.mourn(task);
        (desk, own_temporary)
    }

    /// Forks the children: those first that must be born before setsid.
    fn forks(
        &mut self,
        desk: &mut Desk,
        in_steps: &BTreeSet<OfdId>,
        by_child: &BTreeMap<u32, Vec<ResourceId>>,
    ) {
        let task = desk.task;
        let children = std::mem::take(&mut self.children[task.index()]);
        let mut order: Vec<(u32, TaskId)> =
            children.iter().enumerate().map(|(rank, child)| (rank as u32, *child)).collect();
        order.sort_by_key(|(rank, child)| (!self.family.early[child.index()], *rank));
        // First and last use by position in the fork order, of what is open or will be made here.
        let position: BTreeMap<u32, u32> =
            order.iter().enumerate().map(|(at, (rank, _))| (*rank, at as u32)).collect();
        let reordered = order.iter().enumerate().any(|(at, (rank, _))| at as u32 != *rank);
        let mut last_use: BTreeMap<OfdId, u32> = BTreeMap::new();
        let mut create_at: BTreeMap<u32, Vec<ResourceId>> = BTreeMap::new();
        for (rank, resources) in by_child {
            // With children out of order a resource is made before the first fork of all.
            let at = if reordered { 0 } else { position.get(rank).copied().unwrap_or(0) };
            create_at.entry(at).or_default().extend(resources);
        }
        let spans: Vec<(ResourceId, Option<(u32, u32)>)> = self.through(task).collect();
        for (resource, span) in spans {
            if let Some((_, last)) = span {
                let at =
                    if reordered { order.len() as u32 } else { position.get(&last).copied().unwrap_or(0) };
                for ofd in self.yields(resource) {
                    last_use.insert(ofd, at);
                }
            }
        }
        let mut expires: BTreeMap<u32, Vec<OfdId>> = BTreeMap::new();
        for (ofd, at) in &last_use {
            if !desk.desired_ofds.contains(ofd) && !in_steps.contains(ofd) {
                expires.entry(*at).or_default().push(*ofd);
            }
        }

        let mut is_in_session = false;
        let mut dirty = true;
        for (at, (_, child)) in order.iter().enumerate() {
            let at = at as u32;
            if !self.family.early[child.index()] && !is_in_session {
                self.enter_family(task);
                is_in_session = true;
            }
            let why = Reason::InheritedBy { child: *child };
            if let Some(resources) = create_at.remove(&at) {
                self.create_all(desk, resources, why);
                dirty = true;
            }
            if dirty || at > 0 && expires.contains_key(&(at - 1)) {
                let keep = |ofd: OfdId| {
                    in_steps.contains(&ofd) || last_use.get(&ofd).is_some_and(|last| *last >= at)
                };
                let wanted = self.wanted(desk, &keep);
                self.move_to(desk, &wanted, why);
                dirty = false;
            }
            let why = if self.family.early[child.index()] {
                Reason::BeforeSetsid { sid: self.forest.tasks[child.index()].sid }
            } else {
                Reason::Sequence
            };
            let fork = self.graph.push(task, OpKind::Fork { child: *child }, why);
            self.forked[child.index()] = Some(fork);
            self.born[child.index()] = Some((desk.table.clone(), Some(fork)));
        }
        if !is_in_session {
            self.enter_family(task);
        }
        self.children[task.index()] = children;
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
            for below in tasks.clone().filter(|below| self.descents.is_above(adopter, *below)) {
                if let (Some(flag), Some(op)) = (self.flags[below.index()], await_op) {
                    self.graph.require(op, flag, Reason::OrphansFirst { adopter });
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
    fn steps(&mut self, desk: &mut Desk, temporary: &[ResourceId]) {
        let forest = self.forest;
        let task = desk.task;
        let steps: Vec<StepId> =
            self.finish(task).chain(forest.tasks[task.index()].steps.iter().copied()).collect();
        let mut last_need: BTreeMap<OfdId, usize> = BTreeMap::new();
        for (at, step) in steps.iter().enumerate() {
            for ofd in &forest.steps[step.index()].needs {
                last_need.insert(*ofd, at);
            }
        }
        let temporary: BTreeSet<OfdId> =
            temporary.iter().flat_map(|resource| self.yields(*resource)).collect();
        for (at, step) in steps.iter().enumerate() {
            let needs = &forest.steps[step.index()].needs;
            for ofd in needs {
                if desk.table.find(*ofd).is_none()
                    && let Some(resource) = self.needs.of_ofd[ofd.index()]
                {
                    self.create_all(desk, vec![resource], Reason::NeededBy { step: *step });
                }
            }
            let fds = needs.iter().map(|ofd| desk.table.find(*ofd).unwrap_or(Fd::MAX)).collect();
            self.graph.push(task, OpKind::Step { step: *step, fds }, Reason::Sequence);
            for ofd in needs {
                if temporary.contains(ofd)
                    && last_need.get(ofd) == Some(&at)
                    && !desk.desired_ofds.contains(ofd)
                    && let Some(fd) = desk.table.find(*ofd)
                {
                    let step = Move::Close { first: fd, last: fd };
                    desk.table.apply(step);
                    self.push_move(task, step, None, Reason::NotWanted);
                }
            }
        }
    }

    fn through(&self, task: TaskId) -> impl Iterator<Item = (ResourceId, Option<(u32, u32)>)> + use<'_> {
        self.needs.through[task.index()].iter().copied()
    }

    /// The work on what the task owns that it does after its forks.
    fn finish(&self, task: TaskId) -> impl Iterator<Item = StepId> + use<'_> {
        let owned = self
            .through(task)
            .map(|(resource, _)| resource)
            .filter(move |resource| self.owns(task, *resource));
        owned.flat_map(|resource| self.forest.resources[resource.index()].finish.iter().copied())
    }

    fn owns(&self, task: TaskId, resource: ResourceId) -> bool {
        self.needs.owners[resource.index()] == Some(task)
    }

    fn yields(&self, resource: ResourceId) -> impl Iterator<Item = OfdId> + use<'_> {
        self.forest.resources[resource.index()].yields.iter().flatten().copied()
    }

    /// What the task makes for its children, by the rank of the first child that needs it.
    fn creations_by_child(&self, task: TaskId) -> BTreeMap<u32, Vec<ResourceId>> {
        let mut by_child: BTreeMap<u32, Vec<ResourceId>> = BTreeMap::new();
        for (resource, span) in self.through(task) {
            if let Some((first, _)) = span
                && self.owns(task, resource)
            {
                by_child.entry(first).or_default().push(resource);
            }
        }
        by_child
    }

    /// Makes resources, those first that want the lowest numbers.
    fn create_all(&mut self, desk: &mut Desk, mut resources: Vec<ResourceId>, why: Reason) {
        let rank = |placer: &Self, resource: ResourceId| {
            let lowest = placer.yields(resource).map(|ofd| {
                let here = desk.desired.iter().find(|(_, entry)| entry.ofd == Some(ofd)).map(|(fd, _)| *fd);
                here.filter(|_| desk.desired_ofds.contains(&ofd))
                    .or(placer.numbers.wanted[ofd.index()])
                    .unwrap_or(0)
            });
            (lowest.min().unwrap_or(0), resource)
        };
        if resources.len() > 1 {
            let first_slot: BTreeMap<OfdId, Fd> =
                desk.desired.iter().rev().filter_map(|(fd, entry)| entry.ofd.map(|ofd| (ofd, *fd))).collect();
            resources.sort_by_cached_key(|resource| {
                let lowest = self.yields(*resource).map(|ofd| {
                    first_slot.get(&ofd).copied().or(self.numbers.wanted[ofd.index()]).unwrap_or(0)
                });
                (lowest.min().unwrap_or(0), *resource)
            });
        } else {
            resources.sort_by_cached_key(|resource| rank(self, *resource));
        }
        for resource in resources {
            self.create(desk, resource, why);
        }
    }

    fn create(&mut self, desk: &mut Desk, resource: ResourceId, why: Reason) {
        let yields = &self.forest.resources[resource.index()].yields;
        let mut at = Vec::with_capacity(yields.len());
        let mut free = 0;
        for ofd in yields {
            free = desk.table.lowest_free(free);
            self.within_limit(desk.task, free);
            desk.table.set(free, Entry { ofd: *ofd, cloexec: false });
            at.push(free);
        }
        // One flag serves all the numbers that a creation opens; what differs is put right when the
        // descriptions get to their places.
        let cloexec = at.first().is_some_and(|fd| {
            desk.table.get(*fd).is_some_and(|now| {
                desk.desired.get(fd).is_some_and(|want| want.ofd == now.ofd && want.cloexec)
            })
        });
        for fd in at.iter().filter(|_| cloexec) {
            desk.table.apply(Move::SetCloexec { fd: *fd, cloexec });
        }
        self.graph.push(desk.task, OpKind::Create { resource, at, cloexec }, why);
    }

    /// The table to have now: what is open and in the final table at its final numbers, what is open
    /// and to be kept (for children, for steps) at the number at which it is carried.
    fn wanted(&mut self, desk: &mut Desk, keep: &dyn Fn(OfdId) -> bool) -> BTreeMap<Fd, Entry> {
        let mut wanted: BTreeMap<Fd, Entry> = desk
            .desired
            .iter()
            .filter(|(_, entry)| entry.ofd.is_some_and(|ofd| desk.table.find(ofd).is_some()))
            .map(|(fd, entry)| (*fd, *entry))
            .collect();
        let open: BTreeSet<OfdId> = desk.table.iter().filter_map(|(_, entry)| entry.ofd).collect();
        let gone: Vec<OfdId> =
            desk.carried.keys().copied().filter(|ofd| !open.contains(ofd) || !keep(*ofd)).collect();
        for ofd in gone {
            if let Some(fd) = desk.carried.remove(&ofd) {
                desk.carried_fds.remove(&fd);
            }
        }
        for ofd in open {
            if desk.desired_ofds.contains(&ofd) || !keep(ofd) {
                continue;
            }
            let fd = match desk.carried.get(&ofd) {
                Some(fd) => *fd,
                None => {
                    let favourite = self.numbers.wanted[ofd.index()];
                    let is_free = |fd: &Fd| !desk.desired.contains_key(fd) && !desk.carried_fds.contains(fd);
                    let fd = favourite.filter(is_free).unwrap_or_else(|| self.numbers.aside(ofd));
                    desk.carried.insert(ofd, fd);
                    desk.carried_fds.insert(fd);
                    fd
                }
            };
            let cloexec = desk.table.get(fd).is_some_and(|now| now.ofd == Some(ofd) && now.cloexec);
            wanted.insert(fd, Entry { ofd: Some(ofd), cloexec });
        }
        wanted
    }

    fn move_to(&mut self, desk: &mut Desk, wanted: &BTreeMap<Fd, Entry>, why: Reason) {
        let mut moves = Vec::new();
        let before = desk.table.clone();
        transform(&mut desk.table, wanted, &mut moves);
        let mut replay = before;
        for step in moves {
            let ofd = match step {
                Move::Dup { from, to, .. } => {
                    self.within_limit(desk.task, to);
                    replay.get(from).and_then(|entry| entry.ofd)
                }
                Move::Close { .. } | Move::SetCloexec { .. } => None,
            };
            replay.apply(step);
            self.push_move(desk.task, step, ofd, why);
        }
    }

    fn push_move(&mut self, task: TaskId, step: Move, ofd: Option<OfdId>, why: Reason) {
        let (kind, why) = match step {
            Move::Dup { from, to, cloexec } => {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::{Cradle, arrange};
    use crate::forest::{ResourceSpec, Slot, StepSpec, TaskSpec};

    /// A task: its parent, its session (0: that of the root, who leads it) and its table.
    type Plain<'a> = (Option<u32>, u32, &'a [(Fd, u32)]);

    fn tree(tasks: &[Plain<'_>]) -> Forest {
        let mut forest = Forest::default();
        for (index, (parent, sid, table)) in tasks.iter().enumerate() {
            let pid = index as u32 + 10;
            let sid = if *sid == 0 { 10 } else { *sid };
            let table: Vec<Slot> =
                table.iter().map(|(fd, ofd)| Slot { fd: *fd, ofd: OfdId(*ofd), cloexec: false }).collect();
            forest.tasks.push(TaskSpec {
                pid,
                parent: parent.map(TaskId),
                pgid: sid,
                sid,
                table,
                ..TaskSpec::default()
            });
        }
        forest
    }

    /// Adds a resource that yields these descriptions.
    fn makes(forest: &mut Forest, yields: &[Option<u32>]) {
        forest.ofds += yields.iter().flatten().count();
        let yields = yields.iter().map(|ofd| ofd.map(OfdId)).collect();
        forest.resources.push(ResourceSpec { yields, ..ResourceSpec::default() });
    }

    fn step(forest: &mut Forest, needs: &[u32]) -> StepId {
        forest.steps.push(StepSpec { needs: needs.iter().copied().map(OfdId).collect() });
        StepId::new(forest.steps.len() - 1)
    }

    fn shown(kind: &OpKind) -> String {
        match kind {
            OpKind::Fork { child } => format!("fork {child}"),
            OpKind::StartThread { thread } => format!("start {thread}"),
            OpKind::Create { resource, at, .. } => format!("{resource} at {at:?}"),
            OpKind::Dup { from, to, .. } => format!("dup {from} {to}"),
            OpKind::Close { first, last } if first == last => format!("close {first}"),
            OpKind::Close { first, last } => format!("close {first}..{last}"),
            OpKind::SetCloexec { fd, .. } => format!("cloexec {fd}"),
            OpKind::SetSid => "setsid".to_owned(),
            OpKind::SetPgid { pgid } => format!("setpgid {pgid}"),
            OpKind::BecomeSubreaper => "subreaper".to_owned(),
            OpKind::Step { step, fds } => format!("{step} {fds:?}"),
            OpKind::AwaitExit { child, .. } => format!("await {child}"),
            OpKind::EatSigchld => "sigchld".to_owned(),
            OpKind::Exit => "exit".to_owned(),
            OpKind::Arrive => "arrive".to_owned(),
            OpKind::Park => "park".to_owned(),
        }
    }

    /// Expects each task's operations up to the barrier.
    fn check(forest: &Forest, expected: &[&str]) {
        let family = arrange(forest, Cradle::default()).expect("possible sessions");
        let placement = place(forest, &family).expect("a placement");
        let mut programs = vec![Vec::new(); forest.tasks.len()];
        for (_, op) in placement.graph.ops() {
            if !matches!(op.kind, OpKind::Arrive | OpKind::Park) {
                programs[op.task.index()].push(shown(&op.kind));
            }
        }
        let programs: Vec<String> = programs.iter().map(|ops| ops.join(", ")).collect();
        assert_eq!(programs, expected);
    }

    fn check_error(forest: &Forest, expected: &str) {
        let family = arrange(forest, Cradle::default()).expect("possible sessions");
        let errors = place(forest, &family).expect_err("no placement");
        assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "), expected);
    }

    #[test]
    fn what_is_alike_is_inherited() {
        let table: &[(Fd, u32)] = &[(0, 0), (1, 1)];
        let mut forest = tree(&[(None, 0, table), (Some(0), 0, table), (Some(1), 0, table)]);
        makes(&mut forest, &[Some(0), Some(1)]);
        check(&forest, &["setsid, r0 at [0, 1], fork t1", "fork t2", ""]);
    }

    #[test]
    fn the_lowest_common_ancestor_makes_it_and_lets_it_go() {
        let mut forest = tree(&[
            (None, 0, &[]),
            (Some(0), 0, &[]),
            (Some(1), 0, &[(0, 0)]),
            (Some(1), 0, &[(0, 0)]),
            (Some(1), 0, &[]),
        ]);
        makes(&mut forest, &[Some(0)]);
        check(&forest, &["setsid, fork t1", "r0 at [0], fork t2, fork t3, close 0, fork t4", "", "", ""]);
    }

    #[test]
    fn what_only_the_parent_wants_comes_after_its_forks() {
        let mut forest = tree(&[(None, 0, &[(0, 0)]), (Some(0), 0, &[(0, 1)])]);
        makes(&mut forest, &[Some(0)]);
        makes(&mut forest, &[Some(1)]);
        check(&forest, &["setsid, fork t1, r0 at [0]", "r1 at [0]"]);
    }

    #[test]
    fn swapped_numbers() {
        let mut forest = tree(&[(None, 0, &[(0, 0), (1, 1)]), (Some(0), 0, &[(0, 1), (1, 0)])]);
        makes(&mut forest, &[Some(0)]);
        makes(&mut forest, &[Some(1)]);
        check(&forest, &["setsid, r0 at [0], r1 at [1], fork t1", "dup 0 2, dup 1 0, dup 2 1, close 2"]);
    }

    #[test]
    fn the_end_that_nobody_has_is_closed() {
        let mut forest = tree(&[(None, 0, &[(1, 0)])]);
        makes(&mut forest, &[None, Some(0)]);
        check(&forest, &["setsid, r0 at [0, 1], close 0"]);
    }

    #[test]
    fn children_of_the_old_session_are_forked_first() {
        let mut forest = tree(&[
            (None, 0, &[]),
            (Some(0), 11, &[(0, 0)]),
            (Some(1), 11, &[(0, 0)]),
            (Some(1), 0, &[(0, 0)]),
        ]);
        makes(&mut forest, &[Some(0)]);
        check(&forest, &["setsid, fork t1", "r0 at [0], fork t3, setsid, fork t2", "", ""]);
    }

    #[test]
    fn files_of_steps_are_open_only_for_them() {
        let mut forest = tree(&[(None, 0, &[(0, 0)])]);
        makes(&mut forest, &[Some(0)]);
        makes(&mut forest, &[Some(1)]);
        let steps = [step(&mut forest, &[1]), step(&mut forest, &[1, 0]), step(&mut forest, &[])];
        forest.tasks[0].steps.extend(steps);
        check(&forest, &["setsid, r0 at [0], r1 at [1], s0 [1], s1 [1, 0], close 1, s2 []"]);
    }

    /// Found by the property tests: the owner's finishing work needs a file that a child needs, too.
    #[test]
    fn files_of_finishing_work_are_kept_past_the_forks() {
        let mut forest = tree(&[(None, 0, &[]), (Some(0), 0, &[])]);
        makes(&mut forest, &[]);
        makes(&mut forest, &[Some(0)]);
        let (filling, childs) = (step(&mut forest, &[0]), step(&mut forest, &[0]));
        forest.resources[0].users = vec![TaskId(0), TaskId(1)];
        forest.resources[0].finish = vec![filling];
        forest.tasks[1].steps = vec![childs];
        check(&forest, &["setsid, r0 at [], r1 at [0], fork t1, s0 [0], close 0", "s1 [0], close 0"]);
    }

    /// Found by the property tests: two ends that no table has, beside one that a table has, were both
    /// put at number 0, and one was made again.
    #[test]
    fn ends_for_steps_do_not_collide() {
        let mut forest = tree(&[(None, 0, &[(1, 0)])]);
        makes(&mut forest, &[Some(0), Some(1), Some(2)]);
        let steps = [step(&mut forest, &[2]), step(&mut forest, &[1])];
        forest.tasks[0].steps.extend(steps);
        let family = arrange(&forest, Cradle::default()).expect("possible sessions");
        let placement = place(&forest, &family).expect("a placement");
        let made = placement.graph.ops().filter(|(_, op)| matches!(op.kind, OpKind::Create { .. })).count();
        assert_eq!(made, 1);
    }

    /// Found by the property tests: who is named as a user has it made, whether or not it keeps any end.
    #[test]
    fn users_alone_are_reason_enough() {
        let mut forest = tree(&[(None, 0, &[])]);
        makes(&mut forest, &[None]);
        forest.resources[0].users = vec![TaskId(0)];
        check(&forest, &["setsid, r0 at [0], close 0"]);
    }

    #[test]
    fn errors() {
        let mut forest = tree(&[(None, 0, &[(0, 0)])]);
        check_error(&forest, "t0: ofd0 is wanted and nothing makes it");
        makes(&mut forest, &[Some(0)]);
        makes(&mut forest, &[Some(0)]);
        check_error(&forest, "ofd0 is made twice: by r0 and r1");

        let mut forest = tree(&[(None, 0, &[(1, 0), (5, 1)])]);
        makes(&mut forest, &[Some(0), Some(1)]);
        forest.fd_limit = 5;
        check_error(&forest, "t0: descriptor 5 is needed while restoring, and the limit is 5");

        let mut forest = tree(&[(None, 0, &[]), (Some(0), 0, &[]), (Some(1), 0, &[])]);
        forest.tasks[1].life = Life::Zombie;
        check_error(&forest, "t2: its parent t1 cannot fork it");

        let mut forest = tree(&[(None, 0, &[(0, 0)])]);
        makes(&mut forest, &[Some(0)]);
        let needy = step(&mut forest, &[0]);
        forest.tasks[0].tail.push(needy);
        check_error(&forest, "t0: s0 needs descriptions where none are given");
    }
}
