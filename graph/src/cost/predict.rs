//! The time that priced tapes take: all work, the longest chain, and on so many cores.
//!
//! The cores are given to tasks as a list scheduler does: who has been ready longest gets the next that is
//! free, and keeps it until it waits or ends. Times are exact in that picture and the same every time; the
//! picture leaves out what a kernel adds: time slices, caches, idle cores that must be woken, and whatever
//! else the machine does. The chain is the run on as many cores as there are tasks: there a task waits for
//! others only.
//!
//! Worked example: a parent that forks two children of 10 µs each takes 20 µs more than its forks on one
//! core, and 10 µs more on three.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use serde::Serialize;

use super::price::{Act, PricedTree};

/// A stretch of the critical path that one task does in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Leg {
    /// The task, or thread.
    pub pid: u32,
    /// Its first record in it.
    pub first: u32,
    /// Its last record in it.
    pub last: u32,
    /// How long it takes, with having been born or woken before it.
    pub time_ns: u64,
}

/// How long tapes take.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Prediction {
    /// On so many cores.
    pub cores: u32,
    /// All records together, up to the barrier and behind it.
    pub work_ns: u64,
    /// The longest chain up to the barrier: no number of cores makes it faster.
    pub critical_path_ns: u64,
    /// What the chain is made of, from the root's first record on.
    pub path: Vec<Leg>,
    /// Until all have arrived, on these cores.
    pub play_ns: u64,
    /// From the barrier to the end, on these cores: tails, and the commit of each thread.
    pub commit_ns: u64,
    /// How many waits found nothing posted and slept.
    pub sleeps: u64,
    /// Whether all came to their ends. What has a certificate does.
    pub is_complete: bool,
}

/// Predicts how long tapes take on `cores` cores (at least 1).
pub fn predict(tree: &PricedTree, cores: u32) -> Prediction {
    let cores = cores.max(1);
    let free = Run::new(tree, tree.tapes.len().max(1)).finished();
    let run = Run::new(tree, cores as usize).finished();
    let costs = |tape: &super::PricedTape| {
        tape.moments.iter().fold(tape.birth_ns, |sum, moment| sum.saturating_add(moment.cost_ns))
    };
    let threads =
        tree.tapes.iter().filter(|tape| tape.moments.iter().any(|moment| moment.act == Act::Park)).count()
            as u64;
    Prediction {
        cores,
        work_ns: tree.tapes.iter().map(costs).fold(0, u64::saturating_add),
        critical_path_ns: free.arrived_ns.unwrap_or(free.now),
        path: free.path(),
        play_ns: run.arrived_ns.unwrap_or(run.now),
        commit_ns: run
            .now
            .saturating_sub(run.arrived_ns.unwrap_or(run.now))
            .saturating_add(tree.commit_thread_ns.saturating_mul(threads)),
        sleeps: run.sleeps,
        is_complete: run.ended == tree.tapes.len(),
    }
}

/// What comes next for a task that has a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    /// It begins its next record.
    Begin,
    /// The record that it is at is done.
    Done,
}

/// Where a task is.
#[derive(Debug, Clone, Default)]
struct Progress {
    /// Index of its next moment.
    at: usize,
    /// What it pays when it gets a core.
    debt_ns: u64,
    has_begun: bool,
    /// What it waited for last, and every time before: its moment, and whose moment let it go on.
    bounds: Vec<(usize, usize, usize)>,
    /// When it began, and when it went on after each of these.
    went_on_ns: Vec<u64>,
    is_over: bool,
    arrived_ns: u64,
}

struct Run<'a> {
    tree: &'a PricedTree,
    tasks: Vec<Progress>,
    now: u64,
    idle: usize,
    /// Tasks that have a core: when what comes next, in the order in which it was settled.
    running: BinaryHeap<Reverse<(u64, u64, usize, Next)>>,
    settled: u64,
    ready: VecDeque<usize>,
    /// Who posted each event: task and moment.
    posted: BTreeMap<u32, (usize, usize)>,
    waiting: BTreeMap<u32, Vec<usize>>,
    /// Who waits for the death of each task.
    mourning: BTreeMap<usize, Vec<usize>>,
    barrier: Vec<usize>,
    to_arrive: usize,
    arrived_ns: Option<u64>,
    last_arrival: usize,
    ended: usize,
    sleeps: u64,
}

impl<'a> Run<'a> {
    fn new(tree: &'a PricedTree, cores: usize) -> Run<'a> {
        let arrives = |tape: &&super::PricedTape| tape.moments.iter().any(|moment| moment.act == Act::Arrive);
        let mut tasks = vec![Progress::default(); tree.tapes.len()];
        for (task, tape) in tasks.iter_mut().zip(&tree.tapes) {
            task.debt_ns = tape.birth_ns;
        }
        Run {
            tree,
            tasks,
            now: 0,
            idle: cores,
            running: BinaryHeap::new(),
            settled: 0,
            ready: tree.tapes.iter().take(1).map(|_| 0).collect(),
            posted: BTreeMap::new(),
            waiting: BTreeMap::new(),
            mourning: BTreeMap::new(),
            barrier: Vec::new(),
            to_arrive: tree.tapes.iter().filter(arrives).count(),
            arrived_ns: None,
            last_arrival: 0,
            ended: 0,
            sleeps: 0,
        }
    }

    fn finished(mut self) -> Run<'a> {
        self.hand_out();
        while let Some(Reverse((now, _, task, next))) = self.running.pop() {
            self.now = now;
            match next {
                Next::Begin => self.begin(task),
                Next::Done => self.done(task),
            }
            self.hand_out();
        }
        self
    }

    /// Gives free cores to those who have been ready longest.
    fn hand_out(&mut self) {
        while self.idle > 0
            && let Some(task) = self.ready.pop_front()
        {
            self.idle -= 1;
            let debt_ns = std::mem::take(&mut self.tasks[task].debt_ns);
            self.settle(task, debt_ns, Next::Begin);
        }
    }

    fn settle(&mut self, task: usize, after_ns: u64, next: Next) {
        self.running.push(Reverse((self.now.saturating_add(after_ns), self.settled, task, next)));
        self.settled += 1;
    }

    fn begin(&mut self, task: usize) {
        let Some(moment) = self.tree.tapes[task].moments.get(self.tasks[task].at).copied() else {
            return self.end(task);
        };
        match moment.act {
            Act::Wait(event) if !self.posted.contains_key(&event) => {
                return self.sleep(task, |run| run.waiting.entry(event).or_default().push(task));
            }
            Act::Await(child) if !self.tasks[child].is_over => {
                return self.sleep(task, |run| run.mourning.entry(child).or_default().push(task));
            }
            Act::Work
            | Act::Begin(_)
            | Act::Post(_)
            | Act::Wait(_)
            | Act::Await(_)
            | Act::Arrive
            | Act::Park
            | Act::Exit => {}
        }
        let sleepers = match moment.act {
            Act::Post(event) => self.waiting.get(&event).map_or(0, Vec::len),
            Act::Work
            | Act::Begin(_)
            | Act::Wait(_)
            | Act::Await(_)
            | Act::Arrive
            | Act::Park
            | Act::Exit => 0,
        };
        let wakes = self.tree.wake_ns.saturating_mul(sleepers as u64);
        self.settle(task, moment.cost_ns.saturating_add(wakes), Next::Done);
    }

    fn sleep(&mut self, task: usize, note: impl FnOnce(&mut Run<'a>)) {
        self.sleeps += 1;
        self.tasks[task].debt_ns = self.tree.woken_ns;
        self.idle += 1;
        note(self);
    }

    /// Lets a task that sleeps, or has not begun, go on because of the present moment of `by`.
    fn wake(&mut self, task: usize, by: usize) {
        let moment = self.tasks[by].at;
        let progress = &mut self.tasks[task];
        progress.bounds.push((progress.at, by, moment));
        progress.went_on_ns.push(self.now);
        self.ready.push_back(task);
    }

    fn done(&mut self, task: usize) {
        let moment = self.tree.tapes[task].moments[self.tasks[task].at];
        match moment.act {
            Act::Work | Act::Wait(_) | Act::Await(_) => {}
            Act::Begin(child) if std::mem::replace(&mut self.tasks[child].has_begun, true) => {}
            Act::Begin(child) => self.wake(child, task),
            Act::Post(event) => {
                self.posted.entry(event).or_insert((task, self.tasks[task].at));
                for sleeper in self.waiting.remove(&event).unwrap_or_default() {
                    self.wake(sleeper, task);
                }
            }
            Act::Arrive => return self.arrive(task),
            Act::Park => {
                self.tasks[task].at += 1;
                return self.end(task);
            }
            Act::Exit => {
                self.tasks[task].is_over = true;
                for parent in self.mourning.remove(&task).unwrap_or_default() {
                    self.wake(parent, task);
                }
                return self.end(task);
            }
        }
        self.tasks[task].at += 1;
        self.settle(task, 0, Next::Begin);
    }

    fn arrive(&mut self, task: usize) {
        self.tasks[task].arrived_ns = self.now;
        self.barrier.push(task);
        self.idle += 1;
        if self.barrier.len() < self.to_arrive {
            return;
        }
        self.arrived_ns = Some(self.now);
        self.last_arrival = task;
        for task in std::mem::take(&mut self.barrier) {
            self.tasks[task].at += 1;
            self.tasks[task].debt_ns = self.tree.woken_ns;
            self.ready.push_back(task);
        }
    }

    fn end(&mut self, task: usize) {
        self.tasks[task].is_over = true;
        self.ended += 1;
        self.idle += 1;
    }

    /// From the one who arrived last back to the root's first record: what each waited for last.
    fn path(&self) -> Vec<Leg> {
        let mut legs = Vec::new();
        let mut task = self.last_arrival;
        let Some(tape) = self.tree.tapes.get(task) else { return legs };
        let mut at = tape.moments.iter().position(|moment| moment.act == Act::Arrive).unwrap_or(0);
        let mut until_ns = self.tasks[task].arrived_ns;
        if self.arrived_ns.is_none() {
            return legs;
        }
        loop {
            let progress = &self.tasks[task];
            // Behind none of its waits: it has come here from its first record.
            let bound = progress.bounds.partition_point(|(from, _, _)| *from <= at).checked_sub(1);
            let (from, by) = bound.map_or((0, None), |bound| {
                let (from, by, moment) = progress.bounds[bound];
                (from, Some((by, moment, progress.went_on_ns[bound])))
            });
            let record = |at: usize| self.tree.tapes[task].moments.get(at).map_or(0, |moment| moment.record);
            let since_ns = by.map_or(0, |(_, _, went_on_ns)| went_on_ns);
            legs.push(Leg {
                pid: self.tree.tapes[task].pid,
                first: record(from),
                last: record(at),
                time_ns: until_ns.saturating_sub(since_ns),
            });
            let Some((by, moment, went_on_ns)) = by else { break };
            (task, at, until_ns) = (by, moment, went_on_ns);
        }
        legs.reverse();
        legs
    }
}
