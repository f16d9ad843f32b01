//! Descriptions of forests by a seed: the same shape and seed give the same forest everywhere.
//!
//! Example: `Shape { tasks: 3, depth: 1, shared_fds: 2, .. }` is a root with two children, and two resources
//! each of which at least two of the three have.

use std::path::{Path, PathBuf};

use super::{Forest, Kind, MAPPINGS, MOST_QUEUED_BYTES, PAGE, Page, Private, Segment, Slot, Task, View};

/// SplitMix64: the next number, for any state.
pub fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a forest is to be like.
#[derive(Debug, Clone)]
pub struct Shape {
    /// How many tasks, at least 1.
    pub tasks: usize,
    /// No task is further below the root than this; at least 1 if there are children.
    pub depth: usize,
    /// How many resources with descriptors are shared.
    pub shared_fds: usize,
    /// How many segments of memory are shared.
    pub shared_maps: usize,
    /// Whether there may be socket pairs; pipes take their place.
    pub with_pairs: bool,
    /// The pid of the root; the others follow.
    pub first_pid: u32,
    /// Where the files are to be, see [`Shape::files`].
    pub directory: PathBuf,
    /// Everything else.
    pub seed: u64,
}

/// Bytes in each file.
const FILE_BYTES: u64 = 4096;

struct Dice(u64);

impl Dice {
    /// A number below `sides`, which is not 0.
    fn below(&mut self, sides: u64) -> u64 {
        next(&mut self.0) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.below(sides) == 0
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let len = 1 + self.below(most);
        (0..len).map(|_| next(&mut self.0) as u8).collect()
    }

    fn pages(&mut self, len_pages: u64) -> Vec<Page> {
        let filled: Vec<u64> = (0..len_pages).filter(|_| !self.one_in(3)).collect();
        filled.into_iter().map(|index| Page { index, seed: next(&mut self.0) }).collect()
    }

    /// `count` different numbers below `sides`, or all.
    fn some(&mut self, count: usize, sides: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..sides).collect();
        let count = count.min(sides);
        for at in 0..count {
            let other = at + self.below((sides - at) as u64) as usize;
            all.swap(at, other);
        }
        all.truncate(count);
        all
    }
}

impl Shape {
    /// The forest.
    pub fn forest(&self) -> Forest {
        let mut dice = Dice(self.seed);
        let mut forest = Forest { tasks: self.tree(&mut dice), ..Forest::default() };
        let living: Vec<usize> =
            (0..forest.tasks.len()).filter(|index| forest.tasks[*index].dead.is_none()).collect();
        for index in 0..self.shared_fds {
            self.share_resource(&mut forest, &mut dice, &living, index);
        }
        for _ in 0..self.shared_maps {
            share_segment(&mut forest, &mut dice, &living);
        }
        for &index in &living {
            let task = &mut forest.tasks[index];
            for _ in 0..1 + dice.below(2) {
                let len_pages = 1 + dice.below(8);
                let start = free_address(task, len_pages, &mut dice);
                let pages = dice.pages(len_pages);
                let writable = !dice.one_in(3);
                task.private.push(Private { start, len_pages, writable, pages });
            }
        }
        forest
    }

    /// Tasks and who is whose child; every few lead a group, some a session, some leaves are dead.
    fn tree(&self, dice: &mut Dice) -> Vec<Task> {
        let mut tasks: Vec<Task> = Vec::new();
        let mut depths: Vec<usize> = Vec::new();
        for pid in (self.first_pid..).take(self.tasks.max(1)) {
            let parents: Vec<usize> =
                (0..tasks.len()).filter(|index| depths[*index] < self.depth.max(1)).collect();
            let parent = (!parents.is_empty()).then(|| parents[dice.below(parents.len() as u64) as usize]);
            let above = parent.map(|parent| (tasks[parent].sid, tasks[parent].pgid));
            let (sid, pgid) = match above {
                None => (pid, pid),
                Some(_) if dice.one_in(12) => (pid, pid),
                Some((sid, _)) if dice.one_in(6) => (sid, pid),
                Some(above) => above,
            };
            depths.push(parent.map_or(0, |parent| depths[parent] + 1));
            tasks.push(Task { pid, parent, pgid, sid, ..Task::default() });
        }
        for index in 1..tasks.len() {
            let is_leaf = tasks.iter().all(|task| task.parent != Some(index));
            let leads = |task: &Task| task.pgid == tasks[index].pid || task.sid == tasks[index].pid;
            if is_leaf && tasks.iter().filter(|task| leads(task)).count() == 0 && dice.one_in(20) {
                tasks[index].dead = Some(dice.below(100) as u8);
            }
        }
        tasks
    }

    fn share_resource(&self, forest: &mut Forest, dice: &mut Dice, living: &[usize], index: usize) {
        let kind = match dice.below(8) {
            3..5 if self.with_pairs => {
                let mut queue =
                    || if dice.one_in(2) { Vec::new() } else { dice.bytes(MOST_QUEUED_BYTES as u64) };
                Kind::Pair { queued: [queue(), queue()] }
            }
            0..5 => Kind::Pipe { data: if dice.one_in(4) { Vec::new() } else { dice.bytes(3000) } },
            5..7 => {
                let flags =
                    [libc::O_RDONLY, libc::O_RDWR, libc::O_RDWR | libc::O_APPEND][dice.below(3) as usize];
                let path = file_path(&self.directory, index);
                Kind::File { path, flags: flags as u32, position: dice.below(FILE_BYTES) }
            }
            _ => Kind::Eventfd { counter: dice.below(1000) },
        };
        let resource = forest.resources.len();
        let ends = kind.ends();
        forest.resources.push(kind);
        let count = 2 + dice.below(6) as usize;
        let mut users = dice.some(count, living.len());
        // A lone task has both ends.
        while users.len() < ends {
            users.push(users[0]);
        }
        for (number, user) in users.into_iter().enumerate() {
            // Each end has somebody; who else has it is chance.
            let end = if number < ends { number } else { dice.below(ends as u64) as usize };
            let task = &mut forest.tasks[living[user]];
            let mut fd = 3 + dice.below(40) as u32;
            while task.table.iter().any(|slot| slot.fd == fd) {
                fd += 1;
            }
            task.table.push(Slot { fd, resource, end, cloexec: dice.one_in(3) });
        }
    }

    /// The files that tasks of the forest have open, and what must be in them.
    pub fn files(&self, forest: &Forest) -> Vec<(PathBuf, Vec<u8>)> {
        let path = |kind: &Kind| match kind {
            Kind::File { path, .. } => Some((path.clone(), vec![b'x'; FILE_BYTES as usize])),
            Kind::Pipe { .. }
            | Kind::Pair { .. }
            | Kind::Eventfd { .. }
            | Kind::Messages { .. }
            | Kind::Listener { .. }
            | Kind::Epoll { .. }
            | Kind::Memfd { .. }
            | Kind::Signalfd { .. }
            | Kind::Timerfd => None,
        };
        forest.resources.iter().filter_map(path).collect()
    }
}

fn file_path(directory: &Path, index: usize) -> PathBuf {
    directory.join(format!("file-{index}"))
}

fn share_segment(forest: &mut Forest, dice: &mut Dice, living: &[usize]) {
    let len_pages = 1 + dice.below(16);
    let pages = dice.pages(len_pages);
    let segment = forest.segments.len();
    forest.segments.push(Segment { len_pages, pages });
    let count = 2 + dice.below(8) as usize;
    for user in dice.some(count, living.len()) {
        let task = &mut forest.tasks[living[user]];
        let offset_pages = if dice.one_in(2) { 0 } else { dice.below(len_pages) };
        let view_pages = len_pages - offset_pages;
        let start = free_address(task, view_pages, dice);
        task.views.push(View { segment, start, offset_pages, len_pages: view_pages });
    }
}

/// An address at which nothing of the task is, nor right beside.
fn free_address(task: &Task, len_pages: u64, dice: &mut Dice) -> u64 {
    let private = task.private.iter().map(|it| (it.start, it.len_pages));
    let taken: Vec<(u64, u64)> =
        private.chain(task.views.iter().map(|it| (it.start, it.len_pages))).collect();
    let span = (MAPPINGS.end - MAPPINGS.start) / PAGE - len_pages;
    loop {
        let start = MAPPINGS.start + dice.below(span) * PAGE;
        let end = start + (len_pages + 1) * PAGE;
        if taken.iter().all(|(other, len)| end <= *other || other + (len + 1) * PAGE <= start) {
            return start;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(seed: u64) -> Shape {
        Shape {
            tasks: 30,
            depth: 4,
            shared_fds: 12,
            shared_maps: 5,
            with_pairs: true,
            first_pid: 1000,
            directory: PathBuf::from("/x"),
            seed,
        }
    }

    #[test]
    fn no_seed_gives_faults() {
        for seed in 0..200 {
            assert_eq!(shape(seed).forest().faults(), Vec::<String>::new(), "seed {seed}");
        }
        for tasks in 1..4 {
            let small = Shape { tasks, ..shape(3) };
            assert_eq!(small.forest().faults(), Vec::<String>::new(), "{tasks} tasks");
        }
    }

    #[test]
    fn a_seed_gives_one_forest_and_another_seed_another() {
        let text = |seed| format!("{:?}", shape(seed).forest());
        assert_eq!(text(7), text(7));
        assert_ne!(text(7), text(8));
    }

    #[test]
    fn no_task_is_deeper_than_allowed() {
        let forest = shape(5).forest();
        for task in &forest.tasks {
            let (mut at, mut depth) = (task, 0);
            while let Some(parent) = at.parent {
                (at, depth) = (&forest.tasks[parent], depth + 1);
            }
            assert!(depth <= 4, "task {}", task.pid);
        }
    }
}
