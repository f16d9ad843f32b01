//! All interleavings of small plans.
//!
//! Two ways to look at them. [`everything`] visits every state that can be reached: simple, and too slow for
//! all but the smallest plans. [`explore`] visits only one order of steps whose order makes no difference.
//! It is dynamic partial-order reduction (Flanagan and Godefroid, *Dynamic partial-order reduction for
//! model checking software*, POPL 2005) with sleep sets (Godefroid, *Partial-order methods for the
//! verification of concurrent systems*, 1996): it plays one run, finds the pairs of steps of different tasks whose
//! footprints conflict and that could have come in the other order, goes back to before the earlier one, and
//! plays the other order as well, until there is no such pair left. So it comes to every end and every deadlock that
//! there is. A plan without races has one run up to the order of independent steps, however many interleavings.
//!
//! Where a step only lets another go on (a post and its wait, a death and its `waitid`, the release of the
//! barrier), the other order does not exist: before the one, the other blocks. Such pairs order steps, and are
//! no races ([`crate::footprint::Footprint::races`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::end::End;
use crate::footprint::Footprint;
use crate::world::{Outcome, World};

/// How far to look.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// No more steps than these.
    pub transitions: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { transitions: 1_000_000 }
    }
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// All ends, with those in which a record failed.
    pub ends: HashSet<End>,
    /// Who waits for whom, where somebody waits for ever; sorted, each once.
    pub deadlocks: BTreeSet<Vec<String>>,
    /// Runs that were played to their ends.
    pub runs: u64,
    /// States that were visited; of the reduced search, with those visited again.
    pub states: u64,
    /// Steps that were made.
    pub transitions: u64,
    /// How many interleavings there are; only [`everything`] counts them. Infinite: too many for a number.
    pub interleavings: f64,
    /// The bound was met: there may be more.
    pub is_cut: bool,
}

impl Found {
    /// Whether all interleavings come to the same end, all tasks park, and nothing else can happen.
    pub fn is_one_end(&self) -> bool {
        let mut ends = self.ends.iter();
        let is_good = ends.next().is_some_and(End::is_complete) && ends.next().is_none();
        is_good && self.deadlocks.is_empty() && !self.is_cut
    }

    fn close(&mut self, world: &World) {
        self.runs += 1;
        let stuck = world.stuck();
        if !stuck.is_empty() {
            self.deadlocks.insert(stuck);
        }
        self.ends.insert(world.end());
    }
}

/// What a task's next step would be.
#[derive(Clone)]
struct Attempt {
    footprint: Footprint,
    is_enabled: bool,
}

fn attempt(world: &World, task: u32) -> (Attempt, World) {
    let mut after = world.clone();
    let (footprint, is_enabled) = match after.step(task) {
        Ok(step) => (step.footprint, step.outcome != Outcome::Blocked),
        Err(fault) => (fault.footprint, true),
    };
    (Attempt { footprint, is_enabled }, after)
}

/// Visits every state that any interleaving reaches, without reduction.
pub fn everything(world: &World, bounds: Bounds) -> Found {
    let mut found = Found::default();
    let mut seen: HashMap<World, usize> = HashMap::new();
    // States in the order in which they were first seen, with where steps lead from them.
    let mut next: Vec<Vec<usize>> = Vec::new();
    let mut states = vec![world.clone()];
    seen.insert(world.clone(), 0);
    let mut at = 0;
    while at < states.len() {
        let now = states[at].clone();
        let mut leads = Vec::new();
        for task in now.unfinished() {
            let (attempt, after) = attempt(&now, task);
            if !attempt.is_enabled {
                continue;
            }
            found.transitions += 1;
            let number = *seen.entry(after.clone()).or_insert_with(|| {
                states.push(after);
                states.len() - 1
            });
            leads.push(number);
        }
        if leads.is_empty() {
            found.close(&now);
        }
        next.push(leads);
        at += 1;
        if found.transitions > bounds.transitions {
            found.is_cut = true;
            break;
        }
    }
    found.states = states.len() as u64;
    if !found.is_cut {
        found.interleavings = count(&next);
    }
    found
}

/// How many ways lead from the first state to an end: there is no way back, for each step is a record.
fn count(next: &[Vec<usize>]) -> f64 {
    let mut ways: Vec<Option<f64>> = vec![None; next.len()];
    let mut todo = vec![0];
    while let Some(at) = todo.last().copied() {
        let open: Vec<usize> = next[at].iter().copied().filter(|to| ways[*to].is_none()).collect();
        if open.is_empty() {
            let sum = next[at].iter().filter_map(|to| ways[*to]).sum();
            ways[at] = Some(if next[at].is_empty() { 1.0 } else { sum });
            todo.pop();
        } else {
            todo.extend(open);
        }
    }
    ways.first().copied().flatten().unwrap_or(0.0)
}

/// How far each task is known to be: the number of its steps that come before.
type Clock = BTreeMap<u32, usize>;

fn join(clock: &mut Clock, other: &Clock) {
    for (task, count) in other {
        let known = clock.entry(*task).or_default();
        *known = (*known).max(*count);
    }
}

/// A step of the run that is being looked at.
struct Event {
    task: u32,
    /// Its number among the task's steps, from 1 on.
    nth: usize,
    footprint: Footprint,
    clock: Clock,
}

/// A state of the run that is being looked at.
struct Node {
    world: World,
    attempts: BTreeMap<u32, Attempt>,
    /// Tasks that must go first here in some run.
    wanted: BTreeSet<u32>,
    /// Tasks that have.
    done: BTreeSet<u32>,
    /// Tasks whose step here leads nowhere new, until somebody does what conflicts with it.
    asleep: BTreeMap<u32, Footprint>,
}

/// Visits all interleavings up to the order of independent steps.
pub fn explore(world: &World, bounds: Bounds) -> Found {
    let mut search = Search { found: Found::default(), nodes: Vec::new(), events: Vec::new() };
    search.enter(world.clone(), BTreeMap::new(), None);
    while let Some(node) = search.nodes.last() {
        let next = node.wanted.difference(&node.done).find(|task| !node.asleep.contains_key(task)).copied();
        match next {
            Some(task) if search.found.transitions < bounds.transitions => search.advance(task),
            Some(_) | None => {
                search.found.is_cut |= next.is_some();
                search.nodes.pop();
                search.events.pop();
            }
        }
    }
    search.found
}

struct Search {
    found: Found,
    nodes: Vec<Node>,
    /// One fewer than nodes: what leads from one to the next.
    events: Vec<Event>,
}

impl Search {
    /// Comes to a state by the last event.
    fn enter(
        &mut self,
        world: World,
        asleep: BTreeMap<u32, Footprint>,
        known: Option<BTreeMap<u32, Attempt>>,
    ) {
        self.found.states += 1;
        let mut attempts = BTreeMap::new();
        let mut fresh = Vec::new();
        for task in world.unfinished() {
            // A step that nothing has happened to is what it was.
            let old = known.as_ref().and_then(|known| known.get(&task));
            let same = old.filter(|old| {
                self.events
                    .last()
                    .is_some_and(|event| event.task != task && !event.footprint.conflicts(&old.footprint))
            });
            let attempt = match same {
                Some(same) => same.clone(),
                None => {
                    fresh.push(task);
                    attempt(&world, task).0
                }
            };
            attempts.insert(task, attempt);
        }
        for task in fresh {
            if let Some(attempt) = attempts.get(&task).cloned() {
                self.look_back(task, &attempt);
            }
        }
        let enabled = || attempts.iter().filter(|(_, attempt)| attempt.is_enabled).map(|(task, _)| *task);
        let first = enabled().find(|task| !asleep.contains_key(task));
        if enabled().next().is_none() {
            self.found.close(&world);
        }
        let wanted = first.into_iter().collect();
        self.nodes.push(Node { world, attempts, wanted, done: BTreeSet::new(), asleep });
    }

    /// Finds the last step that the task's next one races with, and has the other order looked at.
    fn look_back(&mut self, task: u32, attempt: &Attempt) {
        let before = self.clock_of(task);
        let race = self.events.iter().enumerate().rev().find(|(_, event)| {
            event.task != task
                && before.get(&event.task).copied().unwrap_or(0) < event.nth
                && event.footprint.races(&attempt.footprint)
        });
        let Some((at, _)) = race else { return };
        // Who could go first there so that the task comes earlier: the task, or somebody whose later
        // steps come before its next one.
        let mut clock = before;
        for event in &self.events {
            if event.footprint.conflicts(&attempt.footprint) {
                join(&mut clock, &event.clock);
            }
        }
        let helps = |other: &u32| {
            *other == task
                || self.events[at + 1..]
                    .iter()
                    .any(|event| event.task == *other && clock.get(other).copied().unwrap_or(0) >= event.nth)
        };
        let node = &self.nodes[at];
        let enabled: Vec<u32> =
            node.attempts.iter().filter(|(_, attempt)| attempt.is_enabled).map(|(task, _)| *task).collect();
        let chosen: Vec<u32> = if enabled.contains(&task) {
            vec![task]
        } else {
            match enabled.iter().copied().find(helps) {
                Some(other) => vec![other],
                None => enabled,
            }
        };
        self.nodes[at].wanted.extend(chosen);
    }

    /// What certainly comes before a task's next step, by itself or by whoever made it.
    fn clock_of(&self, task: u32) -> Clock {
        let last = self.events.iter().rev().find(|event| event.task == task);
        if let Some(last) = last {
            return last.clock.clone();
        }
        let is_birth = |event: &&Event| event.footprint.is_birth_of(task);
        self.events.iter().rev().find(is_birth).map(|event| event.clock.clone()).unwrap_or_default()
    }

    /// Lets a task go first in the last state.
    fn advance(&mut self, task: u32) {
        let at = self.nodes.len() - 1;
        self.nodes[at].done.insert(task);
        let node = &self.nodes[at];
        let Some(attempt) = node.attempts.get(&task).cloned() else { return };
        let mut world = node.world.clone();
        // How it goes is known already; a fault is an end, and looked at there.
        let _ = world.step(task);
        self.found.transitions += 1;

        let mut clock = self.clock_of(task);
        for event in &self.events {
            if event.footprint.conflicts(&attempt.footprint) {
                join(&mut clock, &event.clock);
            }
        }
        let nth = self.events.iter().filter(|event| event.task == task).count() + 1;
        clock.insert(task, nth);
        let asleep = node
            .asleep
            .iter()
            .filter(|(other, footprint)| **other != task && !footprint.conflicts(&attempt.footprint))
            .map(|(other, footprint)| (*other, footprint.clone()))
            .collect();
        let known = node.attempts.clone();
        self.events.push(Event { task, nth, footprint: attempt.footprint.clone(), clock });
        // Whoever goes first here later need not be followed by this one.
        self.nodes[at].asleep.insert(task, attempt.footprint);
        self.enter(world, asleep, Some(known));
    }
}
