//! How the planner's time grows with the tree.
//!
//! ```text
//! cargo bench --bench planner -- [TASKS …]
//! ```
//!
//! Plans forests of the shapes that the race restores, at several sizes, and prints the time for placing, ordering
//! and cutting into programs: in all, for a task, and for a use of a descriptor. What is linear keeps its last two
//! columns from one size to the next. Nothing is restored, so sizes are beyond what this host could run.
#![allow(clippy::print_stdout, reason = "the table is the result")]
#![allow(missing_docs, reason = "a program")]

use std::time::{Duration, Instant};

use regrow_graph::forest::{Forest, ResourceSpec, Slot, StepSpec, TaskSpec};
use regrow_graph::ids::{Fd, OfdId, StepId, TaskId};
use regrow_graph::order::plan;

/// How often each is planned; the median counts.
const ROUNDS: usize = 5;
const ROOT_PID: u32 = 1000;

fn main() {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    if !is_bench {
        println!("the planner is measured by `cargo bench --bench planner`");
        return;
    }
    let sizes = if sizes.is_empty() { vec![1000, 10_000, 40_000] } else { sizes };
    println!("| tree | tasks | uses | operations | ms | µs a task | ns a use |");
    println!("|---|---|---|---|---|---|---|");
    for (label, shape) in SHAPES {
        for tasks in &sizes {
            measure(label, &shape(*tasks));
        }
    }
}

type Shape = fn(usize) -> Forest;

const SHAPES: [(&str, Shape); 6] = [
    ("nothing shared", nothing),
    ("100 descriptors, inherited from the root", inherited),
    ("prefork server", prefork),
    ("chain, each with 10 pipes and half of its parent's", chain),
    ("tree of ten children each, 100 descriptors a task", tree),
    ("32 shared mappings", mappings),
];

fn measure(label: &str, forest: &Forest) {
    let uses: usize = forest.tasks.iter().map(|task| task.table.len()).sum();
    let mut times = Vec::new();
    let mut operations = 0;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let plan = plan(forest).expect("a forest that can be planned");
        times.push(start.elapsed());
        operations = plan.graph.len();
    }
    times.sort_unstable();
    let median: Duration = times[ROUNDS / 2];
    let tasks = forest.tasks.len();
    println!(
        "| {label} | {tasks} | {uses} | {operations} | {:.1} | {:.1} | {:.0} |",
        median.as_secs_f64() * 1e3,
        median.as_secs_f64() * 1e6 / tasks as f64,
        median.as_secs_f64() * 1e9 / uses.max(1) as f64,
    );
}

/// A forest while it grows.
#[derive(Default)]
struct Grower {
    forest: Forest,
}

impl Grower {
    fn task(&mut self, parent: Option<usize>) -> usize {
        let index = self.forest.tasks.len();
        let steps = vec![StepId::new(self.forest.steps.len())];
        self.forest.steps.push(StepSpec::default());
        self.forest.tasks.push(TaskSpec {
            pid: ROOT_PID + index as u32,
            parent: parent.map(TaskId::new),
            pgid: ROOT_PID,
            sid: ROOT_PID,
            steps,
            ..TaskSpec::default()
        });
        index
    }

    /// A resource of so many descriptions; gives the first.
    fn resource(&mut self, ends: usize) -> u32 {
        let first = self.forest.ofds as u32;
        self.forest.ofds += ends;
        let yields = (0..ends as u32).map(|end| Some(OfdId(first + end))).collect();
        self.forest.resources.push(ResourceSpec { yields, ..ResourceSpec::default() });
        first
    }

    fn has(&mut self, task: usize, fd: Fd, ofd: u32) {
        self.forest.tasks[task].table.push(Slot { fd, ofd: OfdId(ofd), cloexec: false });
    }

    fn done(mut self) -> Forest {
        for task in &mut self.forest.tasks {
            task.table.sort_by_key(|slot| slot.fd);
        }
        self.forest
    }
}

/// Children of the root with three files of their own each.
fn nothing(tasks: usize) -> Forest {
    let mut grower = Grower::default();
    let root = grower.task(None);
    for _ in 1..tasks {
        let child = grower.task(Some(root));
        for fd in 0..3 {
            let ofd = grower.resource(1);
            grower.has(child, fd, ofd);
        }
    }
    grower.done()
}

/// Everybody has what the root has.
fn inherited(tasks: usize) -> Forest {
    let mut grower = Grower::default();
    let ofds: Vec<u32> = (0..100).map(|_| grower.resource(1)).collect();
    let root = grower.task(None);
    for _ in 1..tasks {
        grower.task(Some(root));
    }
    for task in 0..tasks {
        for (fd, ofd) in ofds.iter().enumerate() {
            grower.has(task, fd as Fd, *ofd);
        }
    }
    grower.done()
}

/// A server that keeps one end of a socket pair and of a pipe for each worker; the worker has the others, what all
/// have, and an epoll of its own.
fn prefork(tasks: usize) -> Forest {
    let mut grower = Grower::default();
    let root = grower.task(None);
    let listener = grower.resource(1);
    grower.has(root, 3, listener);
    for _ in 1..tasks {
        let worker = grower.task(Some(root));
        let (pair, pipe, epoll) = (grower.resource(2), grower.resource(2), grower.resource(1));
        let at = 10 + 2 * worker as Fd;
        grower.has(root, at, pair);
        grower.has(root, at + 1, pipe);
        grower.has(worker, 3, listener);
        grower.has(worker, 4, pair + 1);
        grower.has(worker, 5, pipe + 1);
        grower.has(worker, 6, epoll);
    }
    grower.done()
}

/// Chains of 60, side by side below the root.
fn chain(tasks: usize) -> Forest {
    let mut grower = Grower::default();
    let root = grower.task(None);
    let (mut parent, mut depth) = (root, 0);
    for _ in 1..tasks {
        if depth == 60 {
            (parent, depth) = (root, 0);
        }
        let task = grower.task(Some(parent));
        let kept: Vec<Slot> = grower.forest.tasks[parent].table.iter().step_by(2).copied().collect();
        let mut free = kept.iter().map(|slot| slot.fd + 1).max().unwrap_or(0);
        grower.forest.tasks[task].table = kept;
        for _ in 0..10 {
            let pipe = grower.resource(2);
            for end in 0..2 {
                grower.has(task, free, pipe + end);
                free += 1;
            }
        }
        (parent, depth) = (task, depth + 1);
    }
    grower.done()
}

/// Ten children a task; each has 60 descriptors of everybody's, 30 of its parent's and 10 of its own.
fn tree(tasks: usize) -> Forest {
    let mut grower = Grower::default();
    let common: Vec<u32> = (0..60).map(|_| grower.resource(1)).collect();
    let mut own: Vec<Vec<u32>> = Vec::new();
    for index in 0..tasks {
        let parent = (index > 0).then(|| (index - 1) / 10);
        let task = grower.task(parent);
        let mut ofds = common.clone();
        if let Some(parent) = parent {
            ofds.extend(own[parent].iter().take(30).copied());
        }
        let mut mine: Vec<u32> = (0..10).map(|_| grower.resource(1)).collect();
        ofds.extend(mine.iter().copied());
        mine.extend(parent.into_iter().flat_map(|parent| own[parent].iter().take(20).copied()));
        own.push(mine);
        for (fd, ofd) in ofds.iter().enumerate() {
            grower.has(task, fd as Fd, *ofd);
        }
    }
    grower.done()
}

/// Shared memory has no descriptor: all tasks are its users, and the root fills it.
fn mappings(tasks: usize) -> Forest {
    let mut grower = Grower::default();
    let root = grower.task(None);
    for _ in 1..tasks {
        grower.task(Some(root));
    }
    for _ in 0..32 {
        grower.resource(0);
    }
    for resource in &mut grower.forest.resources {
        resource.users = (0..tasks).map(TaskId::new).collect();
    }
    grower.done()
}
