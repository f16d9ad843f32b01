//! One order for what the images hold in any.
//!
//! The planner breaks ties by the order of the model, so that order must come from the tree and not from
//! where an entry stands in its image or which number CRIU happened to give it. [`arrange`] puts:
//!
//! - tasks as CRIU walks them: a task, then its children, each with all below it. Siblings keep the order
//!   of the images: it is that of the kernel's list of children, in which wait(2) finds them;
//! - descriptions as they are met: in the tables, by task and number; as working directory, root, executable and
//!   in mappings, by task and address; in flight, by socket;
//! - everything that belongs to a description (what waits, names that were lost, segments) as that;
//! - System V objects by their ids, which are no names of the images: programs know them, as they do pids.
//!
//! So other ids and inode numbers are names only, and break no tie. What nothing refers to comes last, by id: no
//! plan looks at it. Order that means something stays: packets of one socket, pages, chains of filters, locks.
//!
//! Example: a root that has file 9 at descriptor 0 and file 4 at descriptor 1 gives the descriptions 9, 4.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Model, OfdKind, Task, VmaKind};

/// Puts a model into the order above.
pub fn arrange(model: &mut Model) {
    arrange_tasks(&mut model.tasks);
    let place = Places::of(model);
    model.ofds.sort_by_key(|ofd| (place.ofd(ofd.id), ofd.id));
    let (mut pipes, mut inodes) = (BTreeMap::new(), BTreeMap::new());
    for (at, ofd) in model.ofds.iter().enumerate() {
        match &ofd.kind {
            OfdKind::Pipe(pipe) => drop(pipes.entry(pipe.pipe_id).or_insert(at)),
            OfdKind::Fifo(fifo) => drop(pipes.entry(fifo.pipe_id).or_insert(at)),
            OfdKind::Memfd(memfd) => drop(inodes.entry(memfd.inode_id).or_insert(at)),
            OfdKind::Reg(_)
            | OfdKind::Eventfd(_)
            | OfdKind::Epoll(_)
            | OfdKind::Timerfd(_)
            | OfdKind::Signalfd(_)
            | OfdKind::Unix(_)
            | OfdKind::Inet(_)
            | OfdKind::Other(_) => {}
        }
    }
    let of_pipe = |id: u32| pipes.get(&id).copied().unwrap_or(usize::MAX);
    model.pipe_data.sort_by_key(|data| of_pipe(data.pipe_id));
    model.fifo_data.sort_by_key(|data| of_pipe(data.pipe_id));
    model.packets.sort_by_key(|packet| place.ofd(packet.id_for));
    model.memfds.sort_by_key(|inode| {
        (place.segment(inode.shmid), inodes.get(&inode.inode_id).copied(), inode.inode_id)
    });
    model.shm.sort_by_key(|shm| (place.segment(shm.shmid), shm.shmid));
    model.remaps.sort_by_key(|remap| (place.ofd(remap.orig_id), remap.orig_id));
    let mut ghosts = BTreeMap::new();
    for remap in &model.remaps {
        ghosts.entry(remap.remap_id).or_insert(place.ofd(remap.orig_id));
    }
    model.ghosts.sort_by_key(|ghost| (ghosts.get(&ghost.id).copied().unwrap_or(usize::MAX), ghost.id));
    for ns in model.ipc.values_mut() {
        ns.segments.sort_by_key(|segment| segment.perm.id);
        ns.queues.sort_by_key(|queue| queue.perm.id);
        ns.semaphores.sort_by_key(|set| set.perm.id);
    }
}

/// Tasks that do not come behind their parents are left as they are: that is for others to refuse.
fn arrange_tasks(tasks: &mut Vec<Task>) {
    let index_of: BTreeMap<u32, usize> =
        tasks.iter().enumerate().map(|(index, task)| (task.pid.0, index)).collect();
    let mut children = vec![Vec::new(); tasks.len()];
    for (index, task) in tasks.iter().enumerate().skip(1) {
        match index_of.get(&task.ppid.0) {
            Some(parent) if *parent < index => children[*parent].push(index),
            Some(_) | None => return,
        }
    }
    if tasks.is_empty() || index_of.len() != tasks.len() {
        return;
    }
    let mut place = vec![0; tasks.len()];
    let (mut ahead, mut count) = (vec![0], 0);
    while let Some(index) = ahead.pop() {
        place[index] = count;
        count += 1;
        ahead.extend(children[index].iter().rev());
    }
    let mut placed: Vec<(usize, Task)> = place.into_iter().zip(tasks.drain(..)).collect();
    placed.sort_by_key(|(place, _)| *place);
    tasks.extend(placed.into_iter().map(|(_, task)| task));
}

/// When each description and each segment is met first.
#[derive(Default)]
struct Places {
    ofds: BTreeMap<u32, usize>,
    segments: BTreeMap<u64, usize>,
}

impl Places {
    fn of(model: &Model) -> Places {
        let mut places = Places::default();
        let living = || model.tasks.iter().filter_map(Task::alive);
        for table in model.tables() {
            let mut fds: Vec<_> = table.iter().collect();
            fds.sort_by_key(|entry| entry.fd);
            fds.iter().for_each(|entry| places.meet(entry.ofd_id));
        }
        for alive in living() {
            places.meet(alive.fs.cwd_id);
            places.meet(alive.fs.root_id);
            places.meet(alive.mm.exe_file_id);
            for vma in &alive.mm.vmas {
                match vma.kind {
                    VmaKind::FilePrivate { ofd_id, .. }
                    | VmaKind::FileShared { ofd_id, .. }
                    | VmaKind::Memfd { ofd_id, .. } => places.meet(ofd_id),
                    VmaKind::AnonShared { shmid, .. } => {
                        let next = places.segments.len();
                        places.segments.entry(shmid).or_insert(next);
                    }
                    VmaKind::SysV { shmid, .. } => {
                        let next = places.segments.len();
                        places.segments.entry(u64::from(shmid)).or_insert(next);
                    }
                    VmaKind::AnonPrivate
                    | VmaKind::Vvar
                    | VmaKind::Vdso
                    | VmaKind::Vsyscall
                    | VmaKind::AioRing
                    | VmaKind::Other => {}
                }
            }
        }
        places.meet_rest(model);
        places
    }

    /// What is in flight, the paths of FIFOs, the other names of files: by what leads to it.
    fn meet_rest(&mut self, model: &Model) {
        let mut leads: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for ofd in &model.ofds {
            if let OfdKind::Fifo(fifo) = &ofd.kind {
                leads.entry(ofd.id).or_default().push(fifo.reg_id);
            }
        }
        for remap in &model.remaps {
            const LINKED: u32 = 0;
            if remap.remap_type == LINKED {
                leads.entry(remap.orig_id).or_default().push(remap.remap_id);
            }
        }
        for packet in &model.packets {
            leads.entry(packet.id_for).or_default().extend(&packet.rights);
        }
        let mut order: Vec<(usize, u32)> = self.ofds.iter().map(|(id, at)| (*at, *id)).collect();
        order.sort_unstable();
        let mut ahead: Vec<u32> = order.into_iter().map(|(_, id)| id).collect();
        let mut seen: BTreeSet<u32> = ahead.iter().copied().collect();
        let mut at = 0;
        while let Some(id) = ahead.get(at).copied() {
            at += 1;
            for next in leads.get(&id).into_iter().flatten().filter(|next| seen.insert(**next)) {
                self.meet(*next);
                ahead.push(*next);
            }
        }
    }

    fn meet(&mut self, id: u32) {
        let next = self.ofds.len();
        self.ofds.entry(id).or_insert(next);
    }

    fn ofd(&self, id: u32) -> usize {
        self.ofds.get(&id).copied().unwrap_or(usize::MAX)
    }

    fn segment(&self, shmid: u64) -> usize {
        self.segments.get(&shmid).copied().unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::super::read_model;
    use super::*;

    /// However the lists of a model come, they end in one order, and siblings stay in theirs.
    #[test]
    fn lists_in_any_order_end_in_one() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/pair/images");
        let model = read_model(&dir).unwrap();
        let mut other = model.clone();
        other.ofds.reverse();
        other.packets.reverse();
        assert_ne!(format!("{other:?}"), format!("{model:?}"));
        arrange(&mut other);
        assert_eq!(format!("{other:?}"), format!("{model:?}"));
        // Two further children of the root, and one of the first: each before its children.
        let mut tasks = model.tasks.clone();
        for (pid, ppid) in [(9, 4711), (8, 4711), (7, 4713)] {
            let mut task = model.tasks[1].clone();
            (task.pid.0, task.ppid.0) = (pid, ppid);
            tasks.push(task);
        }
        arrange_tasks(&mut tasks);
        assert_eq!(tasks.iter().map(|task| task.pid.0).collect::<Vec<_>>(), [4711, 4713, 7, 9, 8]);
    }
}
