//! `pstree.img`, and the tasks it names.
//!
//! Turns the process tree and the images of each task into [`Task`]s. It knows how a task is put
//! together from its images; each image has its reader elsewhere. Tasks are independent of each
//! other, so they are read in parallel.
//!
//! CRIU writes as many `threads` of a dead task as it had counted, without ever filling them in:
//! they are whatever was in its memory. So they mean nothing until the core image has said that the
//! task is alive.
//!
//! Example: the entry `pid 7, ppid 0, pgid 7, sid 7, threads [7, 9]` is the root, with two threads,
//! whose registers are in `core-7.img` and `core-9.img`.

use std::collections::BTreeSet;

use rayon::prelude::*;

use super::core::{self, Core};
use super::error::Errors;
use super::fds::{read_fds, read_fs};
use super::magic;
use super::mm::read_mm;
use super::model::{Alive, Image, KobjIds, NsPid, Origin, Task, TaskState};
use super::proto::{PstreeEntry, TaskKobjIdsEntry};
use super::read::Dir;

/// Pids above this one cannot be (`PID_MAX_LIMIT` of the kernel).
pub(crate) const PID_MAX: u32 = 1 << 22;

/// An entry of the process tree.
pub(crate) struct Node {
    pub(crate) pid: NsPid,
    ppid: NsPid,
    pgid: NsPid,
    sid: NsPid,
    /// As stored; of a dead task: anything.
    threads: Vec<u32>,
    origin: Origin,
}

/// The process tree: the root first, parents before their children.
pub(crate) fn read_pstree(dir: &Dir<'_>, errors: &mut Errors) -> Vec<Node> {
    let image = Image::Pstree;
    let mut nodes: Vec<Node> = Vec::new();
    let mut pids = BTreeSet::new();
    let before = errors.count();
    let present = dir.for_each(image, &magic::PSTREE, errors, |_, entry, errors| {
        let Some(e) = errors.decode::<PstreeEntry>(entry) else {
            return Ok(());
        };
        let PstreeEntry { pid, ppid, pgid, sid, threads } = e;
        let mut bad =
            |reason: String| errors.inconsistent(image, entry.index, format!("task {pid}: {reason}"));
        for (what, number) in [("pid", pid), ("pgid", pgid), ("sid", sid)] {
            // A session or a process group from outside of the pid namespace shows as 0.
            if number > PID_MAX || (number == 0 && what == "pid") {
                bad(format!("{what} {number}"));
                return Ok(());
            }
        }
        match (nodes.is_empty(), ppid) {
            (true, 0) => {}
            (true, _) => bad(format!("the root has the parent {ppid}")),
            (false, 0) => bad("a second root".to_owned()),
            (false, _) if !pids.contains(&ppid) => {
                bad(format!("its parent {ppid} is not in the tree before it"))
            }
            (false, _) => {}
        }
        if !pids.insert(pid) {
            bad("a second time".to_owned());
            return Ok(());
        }
        nodes.push(Node {
            pid: NsPid(pid),
            ppid: NsPid(ppid),
            pgid: NsPid(pgid),
            sid: NsPid(sid),
            threads,
            origin: Origin { image, entry: entry.index },
        });
        Ok(())
    });
    if !present {
        errors.missing_file(image, "an image directory has one");
    } else if nodes.is_empty() && errors.count() == before {
        errors.inconsistent(image, None, "no tasks");
    }
    nodes
}

/// The highest number that a task or a thread of the tree has: of those that have a core image, for the threads of the dead
/// are anything.
pub(crate) fn highest_pid(dir: &Dir<'_>) -> Option<u32> {
    let nodes = read_pstree(dir, &mut Errors::new());
    let mut pids: Vec<u32> =
        nodes.iter().flat_map(|node| node.threads.iter().copied().chain([node.pid.0])).collect();
    pids.sort_unstable();
    pids.into_iter().rev().find(|pid| matches!(dir.len(Image::Core(*pid)), Ok(Some(_))))
}

/// All tasks of the tree that could be read, in its order, and what is wrong with them.
pub(crate) fn read_tasks(dir: &Dir<'_>, nodes: &[Node]) -> (Vec<Task>, Errors) {
    let read: Vec<(Option<Task>, Errors)> = nodes
        .par_iter()
        .map(|node| {
            let mut errors = Errors::new();
            (read_task(dir, node, &mut errors), errors)
        })
        .collect();
    let (mut tasks, mut all) = (Vec::with_capacity(read.len()), Errors::new());
    for (task, errors) in read {
        tasks.extend(task);
        all.append(errors);
    }
    check_tids(&tasks, &mut all);
    (tasks, all)
}

/// That no thread has the number of another.
fn check_tids(tasks: &[Task], errors: &mut Errors) {
    let mut tids: BTreeSet<NsPid> = tasks.iter().map(|task| task.pid).collect();
    for task in tasks {
        let threads = task.alive().map(|alive| &alive.threads[..]).unwrap_or_default();
        for thread in threads.iter().filter(|thread| thread.tid != task.pid) {
            if !tids.insert(thread.tid) {
                let reason = format!("task {}: its thread {} is in the tree already", task.pid, thread.tid);
                errors.inconsistent(task.origin.image, task.origin.entry, reason);
            }
        }
    }
}

/// The threads of a living task, the leader first.
fn threads(node: &Node, errors: &mut Errors) -> Option<Vec<NsPid>> {
    let mut bad = |reason: String| {
        let reason = format!("task {}: {reason}", node.pid);
        errors.inconsistent(node.origin.image, node.origin.entry, reason);
    };
    if let Some(tid) = node.threads.iter().find(|tid| !(1..=PID_MAX).contains(*tid)) {
        bad(format!("tid {tid}"));
        return None;
    }
    let mut threads = node.threads.clone();
    let Some(leader) = threads.iter().position(|tid| *tid == node.pid.0) else {
        bad("its leader is not among its threads".to_owned());
        return None;
    };
    threads[..=leader].rotate_right(1);
    Some(threads.into_iter().map(NsPid).collect())
}

fn read_task(dir: &Dir<'_>, node: &Node, errors: &mut Errors) -> Option<Task> {
    let core = core::read_core(dir, node.pid, errors)?;
    let state = match core.task.state {
        core::State::Dead => TaskState::Zombie { exit_code: core.task.exit_code, comm: core.task.comm },
        core::State::Alive => TaskState::Alive(read_alive(dir, node, core, errors)?),
        core::State::Stopped => TaskState::Stopped(read_alive(dir, node, core, errors)?),
    };
    Some(Task {
        pid: node.pid,
        ppid: node.ppid,
        pgid: node.pgid,
        sid: node.sid,
        origin: node.origin,
        core_origin: Origin::new(Image::Core(node.pid.0), 0),
        state,
    })
}

fn read_alive(dir: &Dir<'_>, node: &Node, core: Core, errors: &mut Errors) -> Option<Box<Alive>> {
    let ids = read_ids(dir, node.pid, core.ids, errors);
    let mm = read_mm(dir, node.pid, errors);
    let fs = read_fs(dir, node.pid, errors);
    let tids = threads(node, errors);
    let fds = ids.as_ref().map(|ids| read_fds(dir, ids.files, errors));
    let tids = tids?;
    let mut threads = Vec::with_capacity(tids.len());
    threads.extend(core.thread);
    for tid in &tids[1..] {
        threads.extend(core::read_thread(dir, *tid, errors));
    }
    if threads.len() != tids.len() {
        return None;
    }
    let (ids, mm, (fs, umask), fds) = (ids?, mm?, fs?, fds?);
    let task = core.task;
    // Versions before 3.4 stored it once for all threads.
    for thread in &mut threads {
        thread.cg_set = thread.cg_set.or(task.old_cg_set);
    }
    // Their filters stand in another order.
    if task.old_seccomp.is_some_and(|mode| mode != 0) {
        let reason = "seccomp of a whole task: CRIU before 3.10";
        errors.unsupported(Image::Core(node.pid.0), 0, reason);
    }
    Some(Box::new(Alive {
        comm: task.comm,
        personality: task.personality,
        umask,
        ids,
        sigactions: task.sigactions,
        rlimits: task.rlimits,
        pending_shared: task.pending_shared,
        oom_score_adj: task.oom_score_adj,
        loginuid: task.loginuid,
        child_subreaper: task.child_subreaper,
        membarrier: task.membarrier,
        stop_signo: task.stop_signo,
        timers: task.timers,
        threads,
        mm,
        fs,
        fds,
    }))
}

/// Kernel objects: from `ids-PID.img`, in old versions from the core image.
fn read_ids(dir: &Dir<'_>, pid: NsPid, old: Option<KobjIds>, errors: &mut Errors) -> Option<KobjIds> {
    let image = Image::Ids(pid.0);
    match (dir.read_optional::<TaskKobjIdsEntry>(image, &magic::IDS, errors), old) {
        (Some(ids), _) => ids.map(core::kobj_ids),
        (None, Some(ids)) => Some(ids),
        (None, None) => {
            errors.missing_file(image, "a living task has one");
            None
        }
    }
}
