//! A model whose images say the same in another order and by other numbers.
//!
//! Where an entry stands in its image is [`Origin::entry`]: the writer writes by it, so moving entries is giving
//! out other ones. Numbers that only tie images together (ids of descriptions, inodes of pipes and sockets, of
//! segments and memfds, ids of tables) are given out anew, in the same order or in any. Pids and the numbers of
//! pages images stay: pids are what the tree has, and a pages image is a file that tasks open by its name.
//!
//! [`Origin::entry`]: regrow::image::Origin

use std::collections::BTreeMap;

use regrow::image::{Model, OfdKind, Task, VmaKind};

use crate::history::scramble;

/// How numbers are given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// As they are.
    Kept,
    /// Others, in the same order.
    InOrder,
    /// Others, in any order.
    Any,
}

/// Moves entries, and gives out numbers.
pub fn reorder(model: &Model, seed: u64, numbers: Numbers) -> Model {
    let mut model = model.clone();
    shuffle_entries(&mut model, seed);
    if numbers != Numbers::Kept {
        renumber(&mut model, if numbers == Numbers::Any { seed } else { 0 });
    }
    model
}

/// New positions: a permutation of 0 to `count` - 1.
fn permutation(count: usize, seed: u64) -> Vec<u32> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|at| scramble(seed, *at));
    let mut place = vec![0; count];
    for (new, old) in order.into_iter().enumerate() {
        place[old] = new as u32;
    }
    place
}

fn shuffle_entries(model: &mut Model, seed: u64) {
    let of = |count: usize, salt: u64| permutation(count, seed.wrapping_add(salt).max(1));
    let place = of(model.ofds.len(), 1);
    model.ofds.iter_mut().zip(place).for_each(|(it, entry)| it.origin.entry = entry);
    let place = of(model.pipe_data.len(), 2);
    model.pipe_data.iter_mut().zip(place).for_each(|(it, entry)| it.origin.entry = entry);
    let place = of(model.memfds.len(), 3);
    model.memfds.iter_mut().zip(place).for_each(|(it, entry)| it.origin.entry = entry);
    for ns in model.ipc.values_mut() {
        let place = of(ns.segments.len(), 6);
        ns.segments.iter_mut().zip(place).for_each(|(it, entry)| it.origin.entry = entry);
        let place = of(ns.semaphores.len(), 7);
        ns.semaphores.iter_mut().zip(place).for_each(|(it, entry)| it.origin.entry = entry);
        // Messages are entries behind that of their queue.
        let place = of(ns.queues.len(), 8);
        let mut order: Vec<usize> = (0..ns.queues.len()).collect();
        order.sort_by_key(|queue| place[*queue]);
        let mut entry = 0;
        for queue in order {
            ns.queues[queue].origin.entry = entry;
            entry += 1 + ns.queues[queue].messages.len() as u32;
        }
    }
    // Those of one socket stay in their order.
    let place = of(model.packets.len(), 4);
    let mut places: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (packet, entry) in model.packets.iter().zip(place) {
        places.entry(packet.id_for).or_default().push(entry);
    }
    places.values_mut().for_each(|places| places.sort_unstable_by(|a, b| b.cmp(a)));
    for packet in &mut model.packets {
        packet.origin.entry = places.get_mut(&packet.id_for).and_then(Vec::pop).unwrap_or_default();
    }
    for alive in model.tasks.iter_mut().filter_map(Task::alive_mut) {
        // Those who share a table share its image.
        let place = of(alive.fds.len(), 5 + u64::from(alive.ids.files));
        alive.fds.iter_mut().zip(place).for_each(|(it, entry)| it.entry = entry);
    }
    shuffle_tasks(&mut model.tasks, seed);
}

/// Any order in which parents come before their children and siblings stay in theirs.
fn shuffle_tasks(tasks: &mut [Task], seed: u64) {
    let mut children: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (index, task) in tasks.iter().enumerate().skip(1).rev() {
        children.entry(task.ppid.0).or_default().push(index);
    }
    let (mut ready, mut entry) = (vec![0], 0);
    while !ready.is_empty() {
        let at = (scramble(seed.max(1), entry as usize) % ready.len() as u64) as usize;
        let index = ready.swap_remove(at);
        tasks[index].origin.entry = entry;
        entry += 1;
        // Its own first child, and its next sibling.
        let (own, above) = (tasks[index].pid.0, tasks[index].ppid.0);
        for parent in [own, above] {
            ready.extend(children.get_mut(&parent).and_then(Vec::pop));
        }
    }
}

/// New numbers for some: all different, ascending where `seed` is 0.
struct Renumbered(BTreeMap<u64, u64>);

impl Renumbered {
    fn of(numbers: impl Iterator<Item = u64>, seed: u64, first: u64) -> Renumbered {
        let mut all: Vec<u64> = numbers.filter(|number| *number != 0).collect();
        all.sort_unstable();
        all.dedup();
        let place = if seed == 0 { (0..all.len() as u32).collect() } else { permutation(all.len(), seed) };
        Renumbered(all.into_iter().zip(place).map(|(old, at)| (old, first + u64::from(at) * 3)).collect())
    }

    /// 0 stays: it stands for nothing.
    fn get(&self, old: u64) -> u64 {
        self.0.get(&old).copied().unwrap_or(old)
    }

    fn set(&self, number: &mut u32) {
        *number = self.get((*number).into()) as u32;
    }
}

fn renumber(model: &mut Model, seed: u64) {
    let inode = |kind: &OfdKind| match kind {
        OfdKind::Pipe(pipe) => pipe.pipe_id,
        OfdKind::Unix(socket) => socket.inode,
        _ => 0,
    };
    let ofds = Renumbered::of(model.ofds.iter().map(|ofd| ofd.id.into()), seed, 17);
    let inodes = Renumbered::of(model.ofds.iter().map(|ofd| inode(&ofd.kind).into()), seed, 40_001);
    let segments = Renumbered::of(model.memfds.iter().map(|inode| inode.shmid), seed, 7_001);
    let memfds = Renumbered::of(model.memfds.iter().map(|inode| inode.inode_id), seed, 11);
    let tables = model.tasks.iter().filter_map(Task::alive).map(|alive| alive.ids.files.into());
    let tables = Renumbered::of(tables, seed, 5);
    for ofd in &mut model.ofds {
        ofds.set(&mut ofd.id);
        match &mut ofd.kind {
            OfdKind::Pipe(pipe) => inodes.set(&mut pipe.pipe_id),
            OfdKind::Unix(socket) => {
                inodes.set(&mut socket.inode);
                inodes.set(&mut socket.peer);
            }
            OfdKind::Fifo(fifo) => ofds.set(&mut fifo.reg_id),
            OfdKind::Memfd(memfd) => memfd.inode_id = memfds.get(memfd.inode_id),
            _ => {}
        }
    }
    for data in &mut model.pipe_data {
        inodes.set(&mut data.pipe_id);
    }
    for packet in &mut model.packets {
        ofds.set(&mut packet.id_for);
        packet.rights.iter_mut().for_each(|id| ofds.set(id));
    }
    for inode in &mut model.memfds {
        inode.inode_id = memfds.get(inode.inode_id);
        inode.shmid = segments.get(inode.shmid);
    }
    // Segments of System V are known by their ids to the tasks: those stay.
    for shm in &mut model.shm {
        shm.shmid = segments.get(shm.shmid);
    }
    for alive in model.tasks.iter_mut().filter_map(Task::alive_mut) {
        tables.set(&mut alive.ids.files);
        for entry in &mut alive.fds {
            ofds.set(&mut entry.ofd_id);
        }
        for id in [&mut alive.fs.cwd_id, &mut alive.fs.root_id, &mut alive.mm.exe_file_id] {
            ofds.set(id);
        }
        for vma in &mut alive.mm.vmas {
            match &mut vma.kind {
                VmaKind::FilePrivate { ofd_id, .. } | VmaKind::FileShared { ofd_id, .. } => ofds.set(ofd_id),
                VmaKind::AnonShared { shmid, .. } => *shmid = segments.get(*shmid),
                VmaKind::Memfd { ofd_id, inode_id, .. } => {
                    ofds.set(ofd_id);
                    *inode_id = memfds.get(*inode_id);
                }
                _ => {}
            }
        }
    }
}
