//! Genes into forests.
//!
//! A gene is a few small numbers that are read modulo what there is, so every gene means something
//! and smaller genes mean simpler forests. Example: a resource gene with two holders at number 3,
//! in a tree of two tasks, is a file that parent and child have as descriptor 3.

use std::collections::BTreeMap;

use proptest::prelude::*;
use regrow_graph::family::{Cradle, arrange};
use regrow_graph::forest::{Forest, Life, ResourceSpec, Slot, StepSpec, TaskSpec};
use regrow_graph::ids::{Fd, OfdId, ResourceId, StepId, TaskId};
use regrow_graph::raise::raise;

use crate::history::{History, histories};

/// The pid of the first helper that stands in for nobody.
pub const FIRST_SPARE: u32 = 2000;
/// The tid of the first of the threads.
const FIRST_TID: u32 = 500;

/// A forest and where its root is born.
#[derive(Debug, Clone)]
pub struct Case {
    /// What every task must end with, and who forks it.
    pub forest: Forest,
    /// The same before anybody has asked who forks whom: each task is its parent's, and there are no
    /// helpers.
    pub unraised: Forest,
    /// How many events of its history had to be left out.
    pub left_out: usize,
    /// Session and group of the root's birth.
    pub cradle: Cradle,
}

/// A task that has one end of a resource.
#[derive(Debug, Clone, Copy)]
struct Holder {
    task: u16,
    end: u8,
    fd: Fd,
    cloexec: bool,
}

/// A description that a step needs: which resource, which end.
type Need = (u16, u8);

#[derive(Debug, Clone)]
struct ResourceGene {
    /// Descriptions; 0: a carrier.
    ends: usize,
    /// Holders are chosen below this task, if at all below one.
    below: Option<u16>,
    holders: Vec<Holder>,
    users: Vec<u16>,
    finish: Vec<Vec<Need>>,
    /// Whether ends that nobody wants are still named.
    keeps_unwanted: bool,
}

/// How a task takes over what its parent has.
#[derive(Debug, Clone, Copy)]
enum Inherit {
    Nothing,
    All { cloexec: bool },
    Rotated(usize),
    Reversed,
    Some(u16),
}

#[derive(Debug, Clone)]
enum StepGene {
    Birth(u16),
    Own(u16, Vec<Need>),
    WithThreads(u16),
    Tail(u16),
}

fn resource_genes() -> impl Strategy<Value = ResourceGene> {
    let fd = prop_oneof![6 => 0u32..8, 1 => 0u32..60];
    let holder = (any::<u16>(), any::<u8>(), fd, any::<bool>()).prop_map(|(task, end, fd, cloexec)| Holder {
        task,
        end,
        fd,
        cloexec,
    });
    let ends = prop_oneof![4 => Just(1usize), 4 => Just(2usize), 2 => 3usize..6, 2 => Just(0usize)];
    let needs = prop::collection::vec(any::<Need>(), 0..3);
    (
        ends,
        prop::option::of(any::<u16>()),
        prop::collection::vec(holder, 0..7),
        prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(any::<u16>(), 0..4)],
        prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(needs, 1..3)],
        any::<bool>(),
    )
        .prop_map(|(ends, below, holders, users, finish, keeps_unwanted)| ResourceGene {
            ends,
            below,
            holders,
            users,
            finish,
            keeps_unwanted,
        })
}

fn step_genes() -> impl Strategy<Value = StepGene> {
    prop_oneof![
        1 => any::<u16>().prop_map(StepGene::Birth),
        4 => (any::<u16>(), prop::collection::vec(any::<Need>(), 0..4)).prop_map(|(task, needs)| StepGene::Own(task, needs)),
        1 => any::<u16>().prop_map(StepGene::WithThreads),
        1 => any::<u16>().prop_map(StepGene::Tail),
    ]
}

fn inherit_genes() -> impl Strategy<Value = Inherit> {
    prop_oneof![
        2 => Just(Inherit::Nothing),
        2 => any::<bool>().prop_map(|cloexec| Inherit::All { cloexec }),
        2 => (1usize..5).prop_map(Inherit::Rotated),
        1 => Just(Inherit::Reversed),
        1 => any::<u16>().prop_map(Inherit::Some),
    ]
}

/// Random forests that can be planned.
pub fn cases() -> impl Strategy<Value = Case> {
    (
        histories(),
        prop::collection::vec(resource_genes(), 0..12),
        prop::collection::vec(inherit_genes(), 1..6),
        prop::collection::vec(step_genes(), 0..14),
        prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(any::<u16>(), 0..6)],
    )
        .prop_map(|(history, resources, inherits, steps, threads)| {
            build(&history, &resources, &inherits, &steps, &threads)
        })
}

fn build(
    history: &History,
    genes: &[ResourceGene],
    inherits: &[Inherit],
    steps: &[StepGene],
    threads: &[u16],
) -> Case {
    let (mut tasks, cradle) = history.live();
    let living: Vec<usize> = (0..tasks.len()).filter(|at| tasks[*at].life == Life::Lives).collect();
    for (index, choice) in threads.iter().enumerate() {
        let parent = TaskId::new(living[usize::from(*choice) % living.len()]);
        let pid = FIRST_TID + index as u32;
        tasks.push(TaskSpec { pid, parent: Some(parent), life: Life::Thread, ..TaskSpec::default() });
    }
    let mut builder =
        Builder { ends: Vec::new(), forest: Forest { tasks, ..Forest::default() }, tables: Vec::new() };
    builder.tables = vec![BTreeMap::new(); builder.forest.tasks.len()];
    // Where the descriptions of each resource start.
    for gene in genes {
        builder.ends.push((builder.forest.ofds, gene.ends));
        builder.forest.ofds += gene.ends;
    }
    for (index, gene) in genes.iter().enumerate() {
        builder.hold(index, gene);
    }
    builder.inherit(inherits);
    for (index, gene) in genes.iter().enumerate() {
        let users = gene.users.iter().map(|user| builder.task(*user)).collect();
        let finish = gene.finish.iter().map(|needs| builder.step(needs, index + 1)).collect();
        builder.forest.resources.push(ResourceSpec { yields: Vec::new(), users, finish });
    }
    for gene in steps {
        match gene {
            StepGene::Birth(task) => {
                let step = builder.step(&[], 0);
                let task = usize::from(*task) % builder.forest.tasks.len();
                let spec = &mut builder.forest.tasks[task];
                if spec.life == Life::Thread { spec.steps.push(step) } else { spec.birth.push(step) }
            }
            StepGene::Own(task, needs) => {
                let step = builder.step(needs, 0);
                builder.living(*task).steps.push(step);
            }
            StepGene::WithThreads(task) => {
                let step = builder.step(&[], 0);
                builder.living(*task).with_threads.push(step);
            }
            StepGene::Tail(task) => {
                let step = builder.step(&[], 0);
                let threads: Vec<usize> = (0..builder.forest.tasks.len())
                    .filter(|at| builder.forest.tasks[*at].life == Life::Thread)
                    .collect();
                match threads.get(usize::from(*task) % 7) {
                    Some(thread) => builder.forest.tasks[*thread].tail.push(step),
                    None => builder.living(*task).tail.push(step),
                }
            }
        }
    }
    let unraised = builder.finish(genes);
    let mut forest = unraised.clone();
    raise(&mut forest, cradle, &mut (FIRST_SPARE..));
    if arrange(&forest, cradle).is_ok() {
        return Case { forest, unraised, left_out: 0, cradle };
    }
    // Linux lets a task come to a subreaper past one that becomes a subreaper later, and then what the
    // latter has adopted may not lie below it any more: that is not planned. The same life, but shorter.
    let events = history.events[..history.events.len() - 1].to_vec();
    let case = build(&History { events, ..history.clone() }, genes, inherits, steps, threads);
    Case { left_out: case.left_out + 1, ..case }
}

struct Builder {
    forest: Forest,
    /// First description and how many, of each resource.
    ends: Vec<(usize, usize)>,
    tables: Vec<BTreeMap<Fd, (OfdId, bool)>>,
}

impl Builder {
    /// The chosen task, or, if it is dead or a thread, its parent.
    fn task(&self, choice: u16) -> TaskId {
        let index = usize::from(choice) % self.forest.tasks.len();
        let task = &self.forest.tasks[index];
        task.parent.filter(|_| task.life != Life::Lives).unwrap_or(TaskId::new(index))
    }

    fn living(&mut self, choice: u16) -> &mut TaskSpec {
        let task = self.task(choice);
        &mut self.forest.tasks[task.index()]
    }

    /// The living tasks below and including `top`.
    fn below(&self, top: TaskId) -> Vec<TaskId> {
        let mut found = vec![top];
        for (index, task) in self.forest.tasks.iter().enumerate() {
            if task.life == Life::Lives && task.parent.is_some_and(|parent| found.contains(&parent)) {
                found.push(TaskId::new(index));
            }
        }
        found
    }

    fn hold(&mut self, index: usize, gene: &ResourceGene) {
        let (first, count) = self.ends[index];
        let below = gene.below.map(|top| self.below(self.task(top)));
        for holder in gene.holders.iter().filter(|_| count != 0) {
            let task = match &below {
                Some(tasks) => tasks[usize::from(holder.task) % tasks.len()],
                None => self.task(holder.task),
            };
            let ofd = OfdId::new(first + usize::from(holder.end) % count);
            let table = &mut self.tables[task.index()];
            let fd = (holder.fd..).find(|fd| !table.contains_key(fd)).unwrap_or(holder.fd);
            table.insert(fd, (ofd, holder.cloexec));
        }
    }

    fn inherit(&mut self, genes: &[Inherit]) {
        for index in 0..self.tables.len() {
            let task = &self.forest.tasks[index];
            let Some(parent) = task.parent.filter(|_| task.life == Life::Lives) else { continue };
            let fds: Vec<Fd> = self.tables[parent.index()].keys().copied().collect();
            let mut slots: Vec<(OfdId, bool)> = self.tables[parent.index()].values().copied().collect();
            let mut mask = u16::MAX;
            match genes[index % genes.len()] {
                Inherit::Nothing => slots.clear(),
                Inherit::All { cloexec } => slots.iter_mut().for_each(|slot| slot.1 ^= cloexec),
                Inherit::Rotated(by) => {
                    let by = by % slots.len().max(1);
                    slots.rotate_left(by);
                }
                Inherit::Reversed => slots.reverse(),
                Inherit::Some(bits) => mask = bits,
            }
            for (at, (fd, slot)) in fds.into_iter().zip(slots).enumerate() {
                if mask & (1 << (at % 16)) != 0 {
                    self.tables[index].entry(fd).or_insert(slot);
                }
            }
        }
    }

    /// A step that needs descriptions of resources from `from` on.
    fn step(&mut self, needs: &[Need], from: usize) -> StepId {
        let able: Vec<(usize, usize)> = self
            .ends
            .get(from..)
            .unwrap_or_default()
            .iter()
            .copied()
            .filter(|(_, count)| *count != 0)
            .collect();
        let needs = needs.iter().filter(|_| !able.is_empty()).map(|(resource, end)| {
            let (first, count) = able[usize::from(*resource) % able.len()];
            OfdId::new(first + usize::from(*end) % count)
        });
        self.forest.steps.push(StepSpec { needs: needs.collect() });
        StepId::new(self.forest.steps.len() - 1)
    }

    fn finish(mut self, genes: &[ResourceGene]) -> Forest {
        for (task, table) in self.forest.tasks.iter_mut().zip(&self.tables) {
            task.table = table
                .iter()
                .map(|(fd, (ofd, cloexec))| Slot { fd: *fd, ofd: *ofd, cloexec: *cloexec })
                .collect();
        }
        let mut is_wanted = vec![false; self.forest.ofds];
        let in_steps = self.forest.steps.iter().flat_map(|step| &step.needs);
        for ofd in self.forest.tasks.iter().flat_map(|task| &task.table).map(|slot| &slot.ofd).chain(in_steps)
        {
            is_wanted[ofd.index()] = true;
        }
        for (index, gene) in genes.iter().enumerate() {
            let (first, count) = self.ends[index];
            let ends = first..first + count;
            self.forest.resources[ResourceId::new(index).index()].yields =
                ends.map(|end| (gene.keeps_unwanted || is_wanted[end]).then_some(OfdId::new(end))).collect();
        }
        self.forest
    }
}
