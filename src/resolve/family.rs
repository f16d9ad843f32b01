//! Who forks whom: mostly a task's parent, but a session is entered only by being born in it.
//!
//! A task may belong to a session in which its parent has never been: its first parent has died and
//! left it to a subreaper, whose other child leads the session. Then that sibling forks it for their
//! parent (`CLONE_PARENT`, clone(2)). Example: 1 has the children 2, which leads session 2, and 3,
//! which is in session 2; so 2 forks 3, and the parent of 3 is 1.

use std::collections::BTreeMap;

use crate::image::{Model, NsPid, Task};

/// Tasks that a sibling forks, and which sibling.
pub fn forkers(model: &Model) -> BTreeMap<NsPid, NsPid> {
    let by_pid: BTreeMap<NsPid, &Task> = model.tasks.iter().map(|task| (task.pid, task)).collect();
    let mut forkers = BTreeMap::new();
    for task in model.tasks.iter().filter(|task| task.sid != task.pid) {
        let Some(parent) = by_pid.get(&task.ppid) else { continue };
        let Some(leader) = by_pid.get(&task.sid) else { continue };
        let is_sibling = leader.ppid == task.ppid && leader.sid == leader.pid && leader.alive().is_some();
        // A zombie is waited for by who forks it.
        if is_sibling && parent.sid != task.sid && task.alive().is_some() {
            forkers.insert(task.pid, leader.pid);
        }
    }
    forkers
}

/// Puts the tasks of a model into an order in which each comes after who forks it.
pub fn order(model: &mut Model) {
    let forkers = forkers(model);
    if forkers.is_empty() {
        return;
    }
    let index: BTreeMap<NsPid, usize> =
        model.tasks.iter().enumerate().map(|(index, task)| (task.pid, index)).collect();
    let mut below: Vec<Vec<usize>> = vec![Vec::new(); model.tasks.len()];
    let mut open = Vec::new();
    for (at, task) in model.tasks.iter().enumerate().rev() {
        let forker = forkers.get(&task.pid).unwrap_or(&task.ppid);
        match index.get(forker) {
            Some(forker) => below[*forker].push(at),
            None => open.push(at),
        }
    }
    let mut order = Vec::with_capacity(model.tasks.len());
    while let Some(at) = open.pop() {
        order.push(at);
        open.extend(&below[at]);
    }
    // The reader has seen to it that all descend from the root, and a sibling is nobody's descendant
    // that it forks; whatever else may come keeps the order of the images.
    if order.len() == model.tasks.len() {
        let mut tasks: Vec<Option<Task>> = std::mem::take(&mut model.tasks).into_iter().map(Some).collect();
        model.tasks = order.into_iter().filter_map(|at| tasks[at].take()).collect();
    }
}
