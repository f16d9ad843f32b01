//! Plays the programs of a plan on the model of the kernel, under a schedule, and compares the end
//! with the forest.
//!
//! What is checked on the way: every call gives what the plan says it gives; every resource is made
//! once, by its owner; every step runs once, in its task, in order, with the numbers of what it
//! needs; a child inherits nothing that is open for no reason; nothing is touched by a task that has
//! nothing to do with it, beyond closing; helpers are gone in the end; somebody can always go on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use regrow_graph::forest::{Descent, Forest, Life};
use regrow_graph::graph::OpKind;
use regrow_graph::ids::{OfdId, OpId, ResourceId, StepId, TaskId};
use regrow_graph::order::{Item, Plan};
use regrow_graph::passing::{MOST_IN_MESSAGE, Message};

use crate::history::scramble;
use crate::kernel::{Description, Errno, Kernel};
use crate::oracle::Oracle;

/// So many messages go into a channel before anybody has to wait.
const ROOM: usize = 64;

/// Who goes on when several can.
#[derive(Debug, Clone, Copy)]
pub enum Schedule {
    /// Anyone, item by item.
    Random(u64),
    /// One as long as it can, then anyone.
    Bursts(u64),
    /// Always the lowest id.
    Lowest,
    /// Always the highest id.
    Highest,
    /// The plan's total order, in which nobody ever has to wait.
    Planned,
}

/// Plays `plan`.
///
/// # Errors
/// The first thing that is not as it should be.
pub fn play(forest: &Forest, plan: &Plan, schedule: Schedule) -> Result<(), String> {
    let mut player = Player::new(forest, plan);
    player.owners()?;
    match schedule {
        Schedule::Planned => player.in_order()?,
        Schedule::Random(_) | Schedule::Bursts(_) | Schedule::Lowest | Schedule::Highest => {
            player.concurrently(schedule)?
        }
    }
    player.at_the_end()
}

struct Player<'a> {
    forest: &'a Forest,
    plan: &'a Plan,
    oracle: Oracle,
    kernel: Kernel,
    born: Vec<bool>,
    /// The next item of each program.
    at: Vec<usize>,
    posted: Vec<bool>,
    arrived: usize,
    /// Steps done, in order, of each task; `None` stands for the barrier.
    steps: Vec<Vec<Option<StepId>>>,
    /// Forks done.
    forked: Vec<usize>,
    /// What each description of the kernel is to the forest; `None`: an end that nobody has.
    is: BTreeMap<Description, Option<OfdId>>,
    made: BTreeSet<ResourceId>,
    /// What waits in each channel.
    channels: BTreeMap<ResourceId, VecDeque<Vec<Description>>>,
    /// How many have received the first message of each channel, where it stays.
    looked: BTreeMap<ResourceId, usize>,
    /// How many have come to the end of each stage.
    stages: BTreeMap<u8, usize>,
}

/// What an operation says that it receives.
struct Received<'a> {
    ofds: &'a [OfdId],
    at: &'a [u32],
    cloexec: bool,
    stays: bool,
}

impl<'a> Player<'a> {
    fn new(forest: &'a Forest, plan: &'a Plan) -> Player<'a> {
        let count = forest.tasks.len();
        let mut born = vec![false; count];
        born[0] = true;
        Player {
            forest,
            plan,
            oracle: Oracle::new(forest),
            kernel: Kernel::new(forest.tasks[0].pid, forest.fd_limit),
            born,
            at: vec![0; count],
            posted: vec![false; plan.events.len()],
            arrived: 0,
            steps: vec![Vec::new(); count],
            forked: vec![0; count],
            is: BTreeMap::new(),
            made: BTreeSet::new(),
            channels: BTreeMap::new(),
            looked: BTreeMap::new(),
            stages: BTreeMap::new(),
        }
    }

    fn owners(&self) -> Result<(), String> {
        for (index, owner) in self.oracle.owners.iter().enumerate() {
            let planned = self.plan.owner(ResourceId::new(index));
            if planned != *owner {
                return Err(format!(
                    "r{index} is owned by {planned:?}, and the lowest common ancestor is {owner:?}"
                ));
            }
        }
        Ok(())
    }

    fn living(&self) -> usize {
        self.forest.tasks.iter().filter(|task| matches!(task.life, Life::Lives | Life::Thread)).count()
    }

    fn next(&self, task: usize) -> Option<Item> {
        self.plan.programs[task].get(self.at[task]).copied()
    }

    fn can_go_on(&self, task: usize) -> Result<bool, String> {
        let Some(item) = self.next(task).filter(|_| self.born[task]) else { return Ok(false) };
        if self.has_arrived(task) && self.arrived < self.living() {
            return Ok(false);
        }
        match item {
            Item::Post(_) => Ok(true),
            Item::Wait(event) => Ok(self.posted[event.index()]),
            Item::Op(op) => match &self.plan.graph.op(op).kind {
                OpKind::AwaitExit { child, .. } => {
                    let (pid, child) = (self.pid(TaskId::new(task)), self.pid(*child));
                    self.kernel.wait_would_return(pid, child).map_err(|errno| format!("{op}: {errno:?}"))
                }
                OpKind::Fork { .. }
                | OpKind::StartThread { .. }
                | OpKind::Create { .. }
                | OpKind::Dup { .. }
                | OpKind::Close { .. }
                | OpKind::SetCloexec { .. }
                | OpKind::SetSid
                | OpKind::SetPgid { .. }
                | OpKind::BecomeSubreaper
                | OpKind::Send { .. }
                | OpKind::Receive { .. }
                | OpKind::Stage { .. }
                | OpKind::Turn { .. }
                | OpKind::Step { .. }
                | OpKind::EatSigchld
                | OpKind::Exit
                | OpKind::Arrive
                | OpKind::Park => Ok(true),
            },
        }
    }

    fn has_arrived(&self, task: usize) -> bool {
        self.steps[task].contains(&None)
    }

    fn concurrently(&mut self, schedule: Schedule) -> Result<(), String> {
        let mut current = None;
        for turn in 1.. {
            let mut able = Vec::new();
            for task in 0..self.at.len() {
                if self.can_go_on(task)? {
                    able.push(task);
                }
            }
            if able.is_empty() {
                break;
            }
            let any = |seed: u64| able[(scramble(seed | 1, turn) % able.len() as u64) as usize];
            let task = match schedule {
                Schedule::Random(seed) => any(seed),
                Schedule::Bursts(seed) => {
                    current.filter(|task| able.contains(task)).unwrap_or_else(|| any(seed))
                }
                Schedule::Highest => able[able.len() - 1],
                Schedule::Lowest | Schedule::Planned => able[0],
            };
            current = Some(task);
            self.go_on(task)?;
        }
        Ok(())
    }

    fn in_order(&mut self) -> Result<(), String> {
        for op in &self.plan.order {
            let task = self.plan.graph.op(*op).task.index();
            loop {
                if !self.can_go_on(task)? {
                    return Err(format!("{op}, next in the plan's order, has to wait: {}", self.stuck()));
                }
                let is_reached = self.next(task) == Some(Item::Op(*op));
                self.go_on(task)?;
                if is_reached {
                    break;
                }
            }
            while let Some(Item::Post(_)) = self.next(task) {
                self.go_on(task)?;
            }
        }
        Ok(())
    }

    /// The pid of a task, or of the task that a thread belongs to.
    fn pid(&self, task: TaskId) -> u32 {
        let spec = &self.forest.tasks[task.index()];
        match spec.parent.filter(|_| spec.life == Life::Thread) {
            Some(parent) => self.pid(parent),
            None => spec.pid,
        }
    }

    fn go_on(&mut self, task: usize) -> Result<(), String> {
        let Some(item) = self.next(task) else { return Ok(()) };
        self.at[task] += 1;
        match item {
            Item::Wait(_) => Ok(()),
            Item::Post(event) if std::mem::replace(&mut self.posted[event.index()], true) => {
                Err(format!("{event} is posted twice"))
            }
            Item::Post(_) => Ok(()),
            Item::Op(op) => self
                .op(TaskId::new(task), op)
                .map_err(|error| format!("t{task}: {op} {:?}: {error}", self.plan.graph.op(op).kind)),
        }
    }

    fn op(&mut self, task: TaskId, op: OpId) -> Result<(), String> {
        let plan = self.plan;
        let node = plan.graph.op(op);
        if node.task != task {
            return Err(format!("is {}'s", node.task));
        }
        let pid = self.pid(task);
        let errno = |errno: Errno| format!("{errno:?}");
        match &node.kind {
            OpKind::Fork { child, .. } => {
                if self.forest.tasks[child.index()].parent != Some(task) || self.born[child.index()] {
                    return Err("not its child, or born already".to_owned());
                }
                self.inherits(task)?;
                let born = if self.forest.tasks[child.index()].descent == Descent::Sibling {
                    self.kernel.fork_sibling(pid, self.pid(*child))
                } else {
                    let raises_sigchld = self.forest.raises_sigchld()[child.index()];
                    self.kernel.fork(pid, self.pid(*child), raises_sigchld)
                };
                born.map_err(errno)?;
                self.born[child.index()] = true;
                self.forked[task.index()] += 1;
                Ok(())
            }
            OpKind::StartThread { thread } => self.start_thread(task, *thread),
            OpKind::Create { resource, at, cloexec } => self.create(task, *resource, at, *cloexec),
            OpKind::Dup { ofd, from, to, cloexec } => {
                let what = self.kernel.dup(pid, *from, *to, *cloexec).map_err(errno)?;
                self.touches(task, what)?;
                if self.is.get(&what).copied().flatten() == *ofd {
                    Ok(())
                } else {
                    Err(format!("copies {:?}", self.is.get(&what)))
                }
            }
            OpKind::Close { first, last } if first == last => self.kernel.close(pid, *first).map_err(errno),
            OpKind::Close { first, last } => self.kernel.close_range(pid, *first, *last).map_err(errno),
            OpKind::SetCloexec { fd, cloexec } => {
                let what = self.kernel.set_cloexec(pid, *fd, *cloexec).map_err(errno)?;
                self.touches(task, what)
            }
            OpKind::SetSid => self.kernel.set_sid(pid).map_err(errno),
            OpKind::SetPgid { pgid } => self.kernel.set_pgid(pid, *pgid).map_err(errno),
            OpKind::Send { channel, through, ofds, fds } => self.send(task, *channel, *through, ofds, fds),
            OpKind::Receive { channel, through, ofds, at, cloexec, stays } => {
                let expected = Received { ofds, at, cloexec: *cloexec, stays: *stays };
                self.receive(task, *channel, *through, &expected)
            }
            OpKind::Stage { number, begins: false } => {
                *self.stages.entry(*number).or_default() += 1;
                Ok(())
            }
            OpKind::Stage { number, begins: true } => self.begin(number - 1),
            // Who waits for it has an edge; that nobody else has the table then, no forest here needs.
            OpKind::Turn { .. } => Ok(()),
            OpKind::BecomeSubreaper => self.kernel.become_subreaper(pid).map_err(errno),
            OpKind::Step { step, fds } => self.step(task, *step, fds),
            OpKind::AwaitExit { child, reap } => match (self.forest.tasks[child.index()].life, reap) {
                (Life::Zombie, false) => Ok(()),
                (Life::Helper, true) => self.kernel.reap(pid, self.pid(*child)).map_err(errno),
                (Life::Lives | Life::Thread | Life::Zombie | Life::Helper, _) => {
                    Err("it lives, or stays".to_owned())
                }
            },
            OpKind::EatSigchld => self.kernel.take_sigchld(pid).map_err(errno),
            OpKind::Exit => self.kernel.exit(pid).map_err(errno),
            OpKind::Arrive => {
                self.arrived += 1;
                self.steps[task.index()].push(None);
                Ok(())
            }
            OpKind::Park => match self.next(task.index()) {
                None => Ok(()),
                Some(item) => Err(format!("{item:?} behind it")),
            },
        }
    }

    /// What a child inherits is there for it, for a later child, or for the parent itself. (Where
    /// children are forked out of their order, everything for any of them is open at all the forks.)
    fn inherits(&self, task: TaskId) -> Result<(), String> {
        let children = &self.forest.children()[task.index()];
        let mut forks = Vec::new();
        for item in &self.plan.programs[task.index()] {
            if let Item::Op(op) = item
                && let OpKind::Fork { child, .. } = self.plan.graph.op(*op).kind
            {
                forks.push(child);
            }
        }
        let later = if forks.is_sorted() { &forks[self.forked[task.index()]..] } else { &children[..] };
        for (fd, (what, _)) in &self.kernel.processes[&self.pid(task)].table {
            let resource =
                self.is.get(what).copied().flatten().and_then(|ofd| self.oracle.made_by[ofd.index()]);
            let is_due = resource.is_some_and(|resource| {
                self.oracle.users[resource].contains(&task)
                    || later.iter().any(|child| self.oracle.relevant[resource].contains(child))
            });
            if !is_due {
                return Err(format!(
                    "inherits {fd} (of {resource:?}), which neither it nor a later child nor {task} uses"
                ));
            }
        }
        Ok(())
    }

    /// A thread is started when its task is complete: nothing is to be done to it afterwards.
    fn start_thread(&mut self, task: TaskId, thread: TaskId) -> Result<(), String> {
        let spec = &self.forest.tasks[thread.index()];
        if spec.parent != Some(task) || spec.life != Life::Thread || self.born[thread.index()] {
            return Err("not its thread, or started already".to_owned());
        }
        self.task_at_the_end(task, &self.wanted_steps(task))
            .map_err(|error| format!("the task is not complete: {error}"))?;
        self.kernel.start_thread(self.pid(task), spec.pid).map_err(|errno| format!("{errno:?}"))?;
        self.born[thread.index()] = true;
        Ok(())
    }

    /// Whether the task has anything to do with a description.
    fn touches(&self, task: TaskId, what: Description) -> Result<(), String> {
        let resource = self.is.get(&what).copied().flatten().and_then(|ofd| self.oracle.made_by[ofd.index()]);
        match resource {
            Some(resource) if self.oracle.relevant[resource].contains(&task) => Ok(()),
            other => Err(format!("neither {task} nor anybody below it uses {other:?}")),
        }
    }

    fn create(
        &mut self,
        task: TaskId,
        resource: ResourceId,
        at: &[u32],
        cloexec: bool,
    ) -> Result<(), String> {
        let pid = self.pid(task);
        if self.oracle.owners[resource.index()] != Some(task) || !self.made.insert(resource) {
            return Err("not its owner, or made already".to_owned());
        }
        let yields = &self.forest.resources[resource.index()].yields;
        let made = self.kernel.create(pid, yields.len(), cloexec).map_err(|errno| format!("{errno:?}"))?;
        if yields.is_empty() {
            self.kernel.map(pid, resource.index()).map_err(|errno| format!("{errno:?}"))?;
        }
        if !made.iter().map(|(fd, _)| fd).eq(at) {
            return Err(format!("the numbers are {made:?}"));
        }
        self.is.extend(made.iter().zip(yields).map(|((_, what), ofd)| (*what, *ofd)));
        Ok(())
    }

    /// What a number of a task refers to.
    fn at_number(&self, task: TaskId, fd: u32) -> Option<(Description, Option<OfdId>)> {
        let (what, _) = self.kernel.processes.get(&self.pid(task))?.table.get(&fd)?;
        Some((*what, self.is.get(what).copied().flatten()))
    }

    /// Sending blocks where more waits than there is room for: it never does.
    fn send(
        &mut self,
        task: TaskId,
        channel: ResourceId,
        through: u32,
        ofds: &[OfdId],
        fds: &[u32],
    ) -> Result<(), String> {
        let end = self.forest.resources[channel.index()].yields[0];
        if self.at_number(task, through).map(|(_, ofd)| ofd) != Some(end) {
            return Err("not the sending end".to_owned());
        }
        let sent: Vec<(Description, Option<OfdId>)> =
            fds.iter().filter_map(|fd| self.at_number(task, *fd)).collect();
        if !sent.iter().map(|(_, ofd)| *ofd).eq(ofds.iter().map(|ofd| Some(*ofd))) {
            return Err(format!("sends {sent:?} instead of {ofds:?}"));
        }
        let queue = self.channels.entry(channel).or_default();
        if ofds.is_empty() || ofds.len() > MOST_IN_MESSAGE || queue.len() >= ROOM {
            return Err(format!("{} descriptions, behind {} messages", ofds.len(), queue.len()));
        }
        queue.push_back(sent.into_iter().map(|(what, _)| what).collect());
        Ok(())
    }

    fn receive(
        &mut self,
        task: TaskId,
        channel: ResourceId,
        through: u32,
        expected: &Received<'_>,
    ) -> Result<(), String> {
        let end = self.forest.resources[channel.index()].yields[1];
        if self.at_number(task, through).map(|(_, ofd)| ofd) != Some(end) {
            return Err("not the receiving end".to_owned());
        }
        let queue = self.channels.entry(channel).or_default();
        let Some(message) = queue.front().cloned() else { return Err("nothing has been sent".to_owned()) };
        if expected.stays {
            *self.looked.entry(channel).or_default() += 1;
        } else {
            queue.pop_front();
        }
        let is: Vec<Option<OfdId>> =
            message.iter().map(|what| self.is.get(what).copied().flatten()).collect();
        if !is.iter().copied().eq(expected.ofds.iter().map(|ofd| Some(*ofd))) {
            return Err(format!("receives {is:?}"));
        }
        let at = self.kernel.receive(self.pid(task), &message, expected.cloexec);
        match at {
            Ok(at) if at == expected.at => Ok(()),
            other => Err(format!("the numbers are {other:?}")),
        }
    }

    /// A stage begins when all who have its end in their programs have come to it.
    fn begin(&self, ended: u8) -> Result<(), String> {
        let is_end =
            |kind: &OpKind| matches!(kind, OpKind::Stage { number, begins: false } if *number == ended);
        let all = self.plan.graph.ops().filter(|(_, op)| is_end(&op.kind)).count();
        let here = self.stages.get(&ended).copied().unwrap_or_default();
        if here == all {
            Ok(())
        } else {
            Err(format!("{here} of {all} have come to the end of stage {ended}"))
        }
    }

    /// Every message has been received by all whom it is for.
    fn all_received(&self) -> Result<(), String> {
        for (channel, queue) in &self.channels {
            let messages: Vec<&Message> =
                self.forest.passing.messages.iter().filter(|message| message.channel == *channel).collect();
            let for_many: usize =
                messages.iter().map(|message| message.takers.len()).filter(|n| *n > 1).sum();
            let is_right = match self.looked.get(channel) {
                Some(looked) => queue.len() == 1 && *looked == for_many,
                None => queue.is_empty() && for_many == 0,
            };
            if !is_right {
                return Err(format!("{channel}: {} messages are left", queue.len()));
            }
        }
        Ok(())
    }

    fn step(&mut self, task: TaskId, step: StepId, fds: &[u32]) -> Result<(), String> {
        let needs = &self.forest.steps[step.index()].needs;
        let table = &self.kernel.processes[&self.pid(task)].table;
        let told: Vec<Option<OfdId>> = fds
            .iter()
            .map(|fd| table.get(fd).and_then(|(what, _)| self.is.get(what).copied().flatten()))
            .collect();
        if !told.iter().copied().eq(needs.iter().map(|ofd| Some(*ofd))) {
            return Err(format!("needs {needs:?} and is given {told:?}"));
        }
        let spec = &self.forest.tasks[task.index()];
        if !spec.birth.contains(&step)
            && self.forked[task.index()] != self.forest.children()[task.index()].len()
        {
            return Err("before the last fork".to_owned());
        }
        if spec.with_threads.contains(&step)
            && !self.forest.threads()[task.index()].iter().all(|thread| self.born[thread.index()])
        {
            return Err("before the last thread".to_owned());
        }
        if spec.birth.contains(&step) && self.forked[task.index()] != 0 {
            return Err("after a fork".to_owned());
        }
        // A carrier's views are taken by steps: it must be there.
        for (index, resource) in self.forest.resources.iter().enumerate() {
            let is_there = self.kernel.processes[&self.pid(task)].mappings.contains(&index);
            if resource.yields.is_empty()
                && spec.steps.contains(&step)
                && resource.users.contains(&task)
                && !is_there
            {
                return Err(format!("r{index} is not mapped"));
            }
        }
        self.steps[task.index()].push(Some(step));
        Ok(())
    }

    fn stuck(&self) -> String {
        let waiting: Vec<String> = (0..self.at.len())
            .filter_map(|task| {
                self.next(task).map(|item| format!("t{task} (born: {}) at {item:?}", self.born[task]))
            })
            .collect();
        waiting.join(", ")
    }

    fn at_the_end(&self) -> Result<(), String> {
        let stuck = self.stuck();
        if !stuck.is_empty() {
            return Err(format!("nobody can go on: {stuck}"));
        }
        if !self.posted.iter().all(|posted| *posted) {
            return Err("an event was never posted".to_owned());
        }
        self.all_received()?;
        for (index, owner) in self.oracle.owners.iter().enumerate() {
            if owner.is_some() != self.made.contains(&ResourceId::new(index)) {
                return Err(format!("r{index} has the owner {owner:?} and was made: {}", owner.is_none()));
            }
        }
        if self.kernel.processes.len()
            != self.forest.tasks.iter().filter(|task| matches!(task.life, Life::Lives | Life::Zombie)).count()
                + 2
        {
            return Err("not as many processes as tasks".to_owned());
        }
        for (index, spec) in self.forest.tasks.iter().enumerate() {
            let task = TaskId::new(index);
            let mut steps = self.wanted_steps(task);
            if matches!(spec.life, Life::Lives | Life::Thread) {
                steps.extend(spec.with_threads.iter().map(|step| Some(*step)));
                steps.push(None);
                steps.extend(spec.tail.iter().map(|step| Some(*step)));
            }
            let end = match spec.life {
                Life::Thread if self.steps[index] == steps => Ok(()),
                Life::Thread => Err(format!("the steps were {:?} instead of {steps:?}", self.steps[index])),
                Life::Helper if self.kernel.processes.contains_key(&spec.pid) => {
                    Err("the helper is still there".to_owned())
                }
                Life::Helper if self.born[index] && self.steps[index] == steps => Ok(()),
                Life::Helper => Err("the helper was not there, or did more than help".to_owned()),
                Life::Lives | Life::Zombie => {
                    self.task_at_the_end(task, &steps).and_then(|()| self.has_its_parent(task))
                }
            };
            end.map_err(|error| format!("t{index} (pid {}): {error}", spec.pid))?;
        }
        Ok(())
    }

    /// The steps of a task before its threads start.
    fn wanted_steps(&self, task: TaskId) -> Vec<Option<StepId>> {
        let spec = &self.forest.tasks[task.index()];
        let finish = (0..self.forest.resources.len())
            .filter(|index| self.oracle.owners[*index] == Some(task))
            .flat_map(|index| self.forest.resources[index].finish.iter());
        spec.birth.iter().chain(finish).chain(&spec.steps).map(|step| Some(*step)).collect()
    }

    /// Only in the end: some are adopted when they are complete.
    fn has_its_parent(&self, task: TaskId) -> Result<(), String> {
        let spec = &self.forest.tasks[task.index()];
        let parent = self.kernel.processes.get(&spec.pid).ok_or("does not exist")?.parent;
        match self.forest.parents()[task.index()] {
            Some(wanted) if self.pid(wanted) != parent => Err(format!("its parent is {parent}")),
            Some(_) | None => Ok(()),
        }
    }

    fn task_at_the_end(&self, task: TaskId, steps: &[Option<StepId>]) -> Result<(), String> {
        let spec = &self.forest.tasks[task.index()];
        let process = self.kernel.processes.get(&spec.pid).ok_or("does not exist")?;
        if (process.sid, process.pgid) != (spec.sid, spec.pgid) {
            return Err(format!("session {} and group {}", process.sid, process.pgid));
        }
        if process.is_zombie != (spec.life == Life::Zombie) {
            return Err(format!("zombie: {}", process.is_zombie));
        }
        if self.steps[task.index()] != steps {
            return Err(format!("the steps were {:?} instead of {steps:?}", self.steps[task.index()]));
        }
        if process.is_zombie {
            return Ok(());
        }
        if process.has_sigchld {
            return Err("SIGCHLD is pending".to_owned());
        }
        let table: Vec<(u32, Option<OfdId>, bool)> = process
            .table
            .iter()
            .map(|(fd, (what, cloexec))| (*fd, self.is.get(what).copied().flatten(), *cloexec))
            .collect();
        let wanted: Vec<(u32, Option<OfdId>, bool)> =
            spec.table.iter().map(|slot| (slot.fd, Some(slot.ofd), slot.cloexec)).collect();
        if table != wanted {
            return Err(format!("the table is {table:?} instead of {wanted:?}"));
        }
        for (index, resource) in self.forest.resources.iter().enumerate() {
            if resource.yields.is_empty()
                && self.oracle.users[index].contains(&task)
                && !process.mappings.contains(&index)
            {
                return Err(format!("r{index} is not mapped"));
            }
        }
        Ok(())
    }
}
