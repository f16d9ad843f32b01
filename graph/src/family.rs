//! When a task can enter its session and its process group.
//!
//! A session is entered only by being born in it, so a task that leads a session of its own must
//! fork those children first that belong to the session it came from. A process group can be
//! entered at any time, by the task itself, once its leader has founded it (setpgid(2)). Founders
//! found at birth and wait for nobody; members of groups that are not an ancestor's join after
//! their last fork. So no fork ever waits, every founder is reached, and joining cannot deadlock.
//! This holds for helper tasks, too ([`crate::raise`]): they fork at once, and wait only before they
//! die. What waits for deaths comes after the last fork.
//!
//! Example: a shell (1) with a pipeline 2 | 3 in group 2: 2 founds at birth, 3 joins after its
//! forks and waits for 2.

use thiserror::Error;

use crate::forest::{Forest, Life};
use crate::ids::TaskId;

/// How a task comes into its process group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// It is born in it, or setsid(2) puts it there.
    Nothing,
    /// It founds it at birth.
    Found,
    /// It joins a group that an ancestor founded before its birth.
    JoinAtBirth {
        /// The founder.
        leader: TaskId,
    },
    /// It joins after its forks, when `leader` has founded the group.
    JoinLater {
        /// The founder.
        leader: TaskId,
    },
}

/// Sessions and groups of a forest.
#[derive(Debug, Clone, Default)]
pub struct Family {
    /// For each task: whether its parent must fork it before it calls setsid.
    pub early: Vec<bool>,
    /// For each task: whether it calls setsid.
    pub leads_session: Vec<bool>,
    /// For each task: how it gets into its group.
    pub join: Vec<Join>,
}

/// Why the sessions and groups of the images cannot be made by forking alone.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum FamilyError {
    /// No ancestor is ever in the session.
    #[error(
        "task {pid}: session {sid} cannot be inherited: no ancestor is in it (its leader is dead or outside the tree)"
    )]
    SessionUnreachable { task: TaskId, pid: u32, sid: u32 },
    /// A session leader's group is always its own.
    #[error("task {pid} leads session {pid} but is in process group {pgid}")]
    LeaderInOtherGroup { task: TaskId, pid: u32, pgid: u32 },
    /// The founder is not there.
    #[error("task {pid}: process group {pgid} has no living leader in the tree")]
    GroupLeaderMissing { task: TaskId, pid: u32, pgid: u32 },
    /// A group lies within one session.
    #[error("task {pid}: process group {pgid} belongs to another session")]
    GroupInOtherSession { task: TaskId, pid: u32, pgid: u32 },
}

impl FamilyError {
    /// The task it is about.
    pub fn task(&self) -> TaskId {
        match self {
            FamilyError::SessionUnreachable { task, .. }
            | FamilyError::LeaderInOtherGroup { task, .. }
            | FamilyError::GroupLeaderMissing { task, .. }
            | FamilyError::GroupInOtherSession { task, .. } => *task,
        }
    }
}

/// Where the root is born: the session and group of who starts the restore, where the tree shares
/// them (`--shell-job`); otherwise `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cradle {
    /// Session.
    pub sid: Option<u32>,
    /// Process group.
    pub pgid: Option<u32>,
}

/// Works out sessions and groups.
///
/// # Errors
/// All tasks whose session or group cannot be reached.
pub fn arrange(forest: &Forest, cradle: Cradle) -> Result<Family, Vec<FamilyError>> {
    let count = forest.tasks.len();
    let mut errors = Vec::new();
    let mut family = Family {
        early: vec![false; count],
        leads_session: vec![false; count],
        join: vec![Join::Nothing; count],
    };
    let children = forest.children();

    let births: Vec<usize> = forest.birth_order().into_iter().map(TaskId::index).collect();

    // The session each task must be born in, children before parents.
    let mut born_in: Vec<Option<u32>> = vec![None; count];
    for index in births.iter().copied().rev() {
        let task = &forest.tasks[index];
        if task.life == Life::Thread {
            continue;
        }
        let leads = task.sid == task.pid;
        family.leads_session[index] = leads;
        if leads && task.pgid != task.pid {
            let (pid, pgid) = (task.pid, task.pgid);
            errors.push(FamilyError::LeaderInOtherGroup { task: TaskId::new(index), pid, pgid });
        }
        let mut need = (!leads).then_some(task.sid);
        for child in &children[index] {
            let Some(sid) = born_in[child.index()] else { continue };
            if leads && sid == task.pid || !leads && sid == task.sid {
                continue;
            }
            let pid = forest.tasks[child.index()].pid;
            if leads && need.is_none_or(|have| have == sid) {
                family.early[child.index()] = true;
                need = Some(sid);
            } else {
                errors.push(FamilyError::SessionUnreachable { task: *child, pid, sid });
            }
        }
        born_in[index] = need;
    }
    if let Some(&Some(sid)) = born_in.first()
        && cradle.sid != Some(sid)
    {
        // Those that are to stay in it, not those that would have to be born in it for them.
        let mut heirs = vec![0];
        while let Some(index) = heirs.pop() {
            if !family.leads_session[index] {
                errors.push(FamilyError::SessionUnreachable {
                    task: TaskId::new(index),
                    pid: forest.tasks[index].pid,
                    sid,
                });
                continue;
            }
            let early =
                children[index].iter().map(|child| child.index()).filter(|child| family.early[*child]);
            heirs.extend(early.filter(|child| born_in[*child] == Some(sid)));
        }
    }

    // Threads lead nothing, whatever is said of them.
    let processes = forest.tasks.iter().enumerate().filter(|(_, task)| task.life != Life::Thread);
    let by_pid: std::collections::BTreeMap<u32, usize> =
        processes.map(|(index, task)| (task.pid, index)).collect();
    // The group each task is in when it forks children late, and the one it is born in.
    let mut at_birth: Vec<Option<u32>> = vec![None; count];
    let mut at_forks: Vec<Option<u32>> = vec![None; count];
    for index in births {
        let task = &forest.tasks[index];
        if task.life == Life::Thread {
            continue;
        }
        let id = TaskId::new(index);
        at_birth[index] = match task.parent {
            None => cradle.pgid,
            Some(parent) if family.early[index] => at_birth[parent.index()],
            Some(parent) => at_forks[parent.index()],
        };
        at_forks[index] = Some(task.pgid);
        if family.leads_session[index] || (at_birth[index] == Some(task.pgid) && task.pgid != task.pid) {
            continue;
        }
        if task.pgid == task.pid {
            family.join[index] = Join::Found;
            continue;
        }
        if task.life == Life::Helper {
            // It founds nothing, so it does not matter which group it is in.
            at_forks[index] = at_birth[index];
            continue;
        }
        let Some(&leader) = by_pid.get(&task.pgid) else {
            errors.push(FamilyError::GroupLeaderMissing { task: id, pid: task.pid, pgid: task.pgid });
            continue;
        };
        let other = &forest.tasks[leader];
        if other.pgid != other.pid {
            errors.push(FamilyError::GroupLeaderMissing { task: id, pid: task.pid, pgid: task.pgid });
        } else if other.sid != task.sid {
            errors.push(FamilyError::GroupInOtherSession { task: id, pid: task.pid, pgid: task.pgid });
        } else if is_ancestor(forest, leader, index) {
            family.join[index] = Join::JoinAtBirth { leader: TaskId::new(leader) };
        } else {
            family.join[index] = Join::JoinLater { leader: TaskId::new(leader) };
            at_forks[index] = at_birth[index];
        }
    }
    if errors.is_empty() { Ok(family) } else { Err(errors) }
}

fn is_ancestor(forest: &Forest, ancestor: usize, mut of: usize) -> bool {
    while let Some(parent) = forest.tasks[of].parent {
        of = parent.index();
        if of == ancestor {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forest::TaskSpec;

    /// Tasks as (pid, parent index, pgid, sid); expects the joins, or the pids of the errors.
    fn check(
        tasks: &[(u32, Option<u32>, u32, u32)],
        cradle: Cradle,
        expected: Result<(&[bool], &[Join]), &[u32]>,
    ) {
        let forest = Forest {
            tasks: tasks
                .iter()
                .map(|&(pid, parent, pgid, sid)| TaskSpec {
                    pid,
                    parent: parent.map(TaskId),
                    pgid,
                    sid,
                    ..TaskSpec::default()
                })
                .collect(),
            ..Forest::default()
        };
        match (arrange(&forest, cradle), expected) {
            (Ok(family), Ok((early, join))) => {
                assert_eq!(family.early, early);
                assert_eq!(family.join, join);
            }
            (Err(errors), Err(pids)) => {
                let mut found: Vec<u32> = errors.iter().map(|e| forest.tasks[e.task().index()].pid).collect();
                found.sort_unstable();
                assert_eq!(found, pids);
            }
            (got, want) => panic!("{got:?} instead of {want:?}"),
        }
    }

    #[test]
    fn pipeline() {
        let later = Join::JoinLater { leader: TaskId(1) };
        check(
            &[(1, None, 1, 1), (2, Some(0), 2, 1), (3, Some(0), 2, 1)],
            Cradle::default(),
            Ok((&[false; 3], &[Join::Nothing, Join::Found, later])),
        );
    }

    #[test]
    fn child_left_in_the_old_session() {
        check(
            &[(1, None, 1, 1), (2, Some(0), 2, 2), (3, Some(1), 1, 1)],
            Cradle::default(),
            Ok((&[false, false, true], &[Join::Nothing, Join::Nothing, Join::Nothing])),
        );
    }

    #[test]
    fn unreachable() {
        check(&[(2, None, 2, 1)], Cradle::default(), Err(&[2]));
        check(&[(2, None, 2, 1)], Cradle { sid: Some(1), pgid: Some(1) }, Ok((&[false], &[Join::Found])));
        check(&[(1, None, 1, 1), (2, Some(0), 2, 2), (3, Some(0), 3, 2)], Cradle::default(), Err(&[3]));
        check(&[(1, None, 1, 1), (2, Some(0), 9, 1)], Cradle::default(), Err(&[2]));
    }
}
