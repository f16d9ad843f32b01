//! Who forks whom: mostly a task's parent, but a session is entered only by being born in it.
//!
//! A program's tree has a history that its end does not show: parents that have died, and subreapers
//! that took over their children. So a task may belong to a session in which its parent has never
//! been. Then somebody who is in that session forks it, in one of two ways:
//!
//! - a child of the wanted parent makes it a child of that parent, too ([`Descent::Sibling`]), or
//! - somebody below the wanted parent forks it and dies; on the way up the wanted parent is the first
//!   subreaper ([`Descent::Adopted`]).
//!
//! Who is in the session, and may die? The session's leader, if it is a zombie of the images; a helper
//! task that stands in for the leader, if that is dead and gone; a helper task that a living leader
//! forks. Groups whose leaders are dead and gone get a helper in the same way.
//!
//! Example: 1 has the children 2 and 3, which are in session 9; task 9 is gone. A helper 9, child of 1,
//! calls setsid, forks 2 and 3 with CLONE_PARENT, and dies.
//!
//! What cannot be reached in these ways keeps its parent, and [`crate::family`] says what is wrong
//! with that.
//!
//! # Sources
//! clone(2), prctl(2), setsid(2); kernel/exit.c (`find_new_reaper`, `reparent_leader`).

use std::collections::{BTreeMap, BTreeSet};

use crate::family::Cradle;
use crate::forest::{Descent, Forest, Life, TaskSpec};
use crate::ids::TaskId;

/// A helper task that [`raise`] has added to the forest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Helper {
    /// The helper.
    pub task: TaskId,
    /// A task that cannot be made without it.
    pub because_of: TaskId,
    /// Whether its pid is that of a dead leader; otherwise it is one of the spare ones.
    pub stands_in: bool,
}

/// Finds out who forks whom in a forest in which each task's `parent` is its parent in the end, and adds
/// the helper tasks that this takes. Those that stand in for nobody get pids of `spare`.
pub fn raise(forest: &mut Forest, cradle: Cradle, spare: &mut dyn Iterator<Item = u32>) -> Vec<Helper> {
    // Nothing else of a task is changed.
    let before: Vec<(Option<TaskId>, Descent)> =
        forest.tasks.iter().map(|task| (task.parent, task.descent)).collect();
    let mut raising = Raising::new(forest, cradle, spare);
    raising.pass_on();
    raising.serve();
    raising.found_groups();
    let helpers = std::mem::take(&mut raising.helpers);
    if forest.birth_order().len() == forest.tasks.len() {
        return helpers;
    }
    // Two sessions that each need the other first: no history leads there.
    forest.tasks.truncate(before.len());
    for (task, (parent, descent)) in forest.tasks.iter_mut().zip(before) {
        (task.parent, task.descent) = (parent, descent);
    }
    Vec::new()
}

/// A child that cannot be born by its parent, because that is never in the session.
type Entries = BTreeMap<u32, BTreeMap<usize, Vec<usize>>>;

struct Raising<'a> {
    forest: &'a mut Forest,
    cradle: Cradle,
    spare: &'a mut dyn Iterator<Item = u32>,
    /// The parent of each task in the end, its children, and how deep it is.
    parent: Vec<Option<usize>>,
    children: Vec<Vec<usize>>,
    depth: Vec<usize>,
    /// The session that each task is born in; `None`: any, because it leads its own.
    born_in: Vec<Option<u32>>,
    /// Tasks and threads.
    by_pid: BTreeMap<u32, usize>,
    helpers: Vec<Helper>,
}

impl<'a> Raising<'a> {
    fn new(forest: &'a mut Forest, cradle: Cradle, spare: &'a mut dyn Iterator<Item = u32>) -> Raising<'a> {
        let count = forest.tasks.len();
        let mut depth = vec![0; count];
        for task in forest.birth_order() {
            if let Some(parent) = forest.tasks[task.index()].parent {
                depth[task.index()] = depth[parent.index()] + 1;
            }
        }
        let parent = forest.tasks.iter().map(|task| task.parent.map(TaskId::index)).collect();
        let children = forest
            .children()
            .iter()
            .map(|children| children.iter().map(|child| child.index()).collect())
            .collect();
        // A thread has a number, too, and leads nothing.
        let by_pid = forest.tasks.iter().enumerate().map(|(index, task)| (task.pid, index)).collect();
        let mut born_in: Vec<Option<u32>> =
            forest.tasks.iter().map(|task| (task.sid != task.pid).then_some(task.sid)).collect();
        if let (Some(first), Some(sid)) = (born_in.first_mut(), cradle.sid) {
            *first = Some(sid);
        }
        Raising { forest, cradle, spare, parent, children, depth, born_in, by_pid, helpers: Vec::new() }
    }

    fn leads(&self, task: usize) -> bool {
        let spec = &self.forest.tasks[task];
        spec.life != Life::Thread && spec.sid == spec.pid
    }

    /// Whether `parent` can give birth to a child in session `sid`, as far as is decided.
    fn has(&self, parent: usize, sid: u32) -> bool {
        self.forest.tasks[parent].sid == sid || self.born_in[parent] == Some(sid)
    }

    /// Whether nothing is decided yet of where the leader of a session is born.
    fn is_open(&self, task: usize) -> bool {
        self.leads(task) && self.born_in[task].is_none() && self.parent[task].is_some()
    }

    /// What no parent can give birth to: by session and by parent.
    fn entries(&self) -> Entries {
        let mut entries = Entries::new();
        for (parent, children) in self.children.iter().enumerate() {
            for child in children {
                if let Some(sid) = self.born_in[*child].filter(|sid| !self.has(parent, *sid)) {
                    entries.entry(sid).or_default().entry(parent).or_default().push(*child);
                }
            }
        }
        entries
    }

    /// Leaders of sessions that were born in another one hand it on to their children.
    fn pass_on(&mut self) {
        let mut deepest_first: Vec<usize> = (0..self.parent.len()).collect();
        deepest_first.sort_by_key(|task| std::cmp::Reverse(self.depth[*task]));
        for task in deepest_first {
            let wanted: Vec<u32> = self.children[task]
                .iter()
                .filter_map(|child| self.born_in[*child].filter(|sid| !self.has(task, *sid)))
                .collect();
            for sid in wanted {
                let top = self.climb(task, sid);
                if top.is_some_and(|top| self.has(top, sid)) {
                    self.hand_down(task, sid);
                }
            }
        }
    }

    /// The first task above `from` that has the session or cannot have been born in it.
    fn climb(&self, from: usize, sid: u32) -> Option<usize> {
        let mut at = from;
        while self.is_open(at) && !self.has(at, sid) {
            at = self.parent[at]?;
        }
        Some(at)
    }

    /// All leaders from `task` up to where the session comes from are born in it.
    fn hand_down(&mut self, task: usize, sid: u32) {
        let mut at = task;
        while self.is_open(at) && !self.has(at, sid) {
            self.born_in[at] = Some(sid);
            let Some(parent) = self.parent[at] else { break };
            at = parent;
        }
    }

    fn is_above(&self, above: usize, task: usize) -> bool {
        let mut at = task;
        while self.depth[at] > self.depth[above] {
            let Some(parent) = self.parent[at] else { return false };
            at = parent;
        }
        at == above && above != task
    }

    /// Sessions that some parents cannot give. What is decided for one may give work to another.
    fn serve(&mut self) {
        let mut done: BTreeSet<u32> = BTreeSet::new();
        while let Some(sid) = self.entries().keys().copied().find(|sid| !done.contains(sid)) {
            done.insert(sid);
            match self.by_pid.get(&sid).copied() {
                Some(leader) if self.leads(leader) => self.below_leader(sid, leader),
                // Its number is another task's, or nobody's, or that of who starts the restore.
                Some(_) => {}
                None if sid == 0 || self.cradle.sid == Some(sid) => {}
                None => self.below_stand_in(sid),
            }
        }
    }

    /// Parents of entries, each above the next, the deepest last; `None` if they are not in one line.
    fn in_line(&self, sid: u32) -> Option<Vec<usize>> {
        let entries = self.entries();
        let mut parents: Vec<usize> =
            entries.get(&sid).into_iter().flat_map(|by| by.keys().copied()).collect();
        parents.sort_by_key(|parent| (self.depth[*parent], *parent));
        parents.windows(2).all(|pair| self.is_above(pair[0], pair[1])).then_some(parents)
    }

    fn entries_at(&self, sid: u32, parent: usize) -> Vec<usize> {
        self.entries().get(&sid).and_then(|by| by.get(&parent)).cloned().unwrap_or_default()
    }

    /// The session's leader is in the forest: those above it get its members from there.
    fn below_leader(&mut self, sid: u32, leader: usize) {
        // A parent that the leader does not descend from must itself have been in the session.
        loop {
            let entries = self.entries();
            let aside = entries.get(&sid).into_iter().flat_map(|by| by.keys().copied());
            let Some(parent) =
                aside.filter(|parent| !self.is_above(*parent, leader)).find(|parent| self.is_open(*parent))
            else {
                break;
            };
            self.born_in[parent] = Some(sid);
        }
        let entries = self.entries().remove(&sid).unwrap_or_default();
        let mut above: Vec<usize> =
            entries.keys().copied().filter(|parent| self.is_above(*parent, leader)).collect();
        above.sort_by_key(|parent| self.depth[*parent]);
        if above.last().copied() == self.parent[leader] {
            above.pop();
            let of = self.parent[leader].map_or(Vec::new(), |parent| self.entries_at(sid, parent));
            self.fork_from(leader, &of, Descent::Sibling);
        }
        let dies = self.forest.tasks[leader].life == Life::Zombie;
        if dies && let Some(parent) = above.pop() {
            self.orphan_from(leader, &entries[&parent], parent);
        }
        for parent in above {
            self.carry(leader, sid, &entries[&parent], parent);
        }
    }

    /// The session's leader is dead and gone: a helper stands in for it, as a child of the deepest of
    /// those whose children are in the session.
    fn below_stand_in(&mut self, sid: u32) {
        loop {
            self.meet_above(sid);
            if self.in_line(sid).is_some() {
                break;
            }
            let entries = self.entries().remove(&sid).unwrap_or_default();
            let open = entries.keys().copied().filter(|parent| self.is_open(*parent));
            let Some(parent) = open.max_by_key(|parent| (self.depth[*parent], *parent)) else { return };
            self.born_in[parent] = Some(sid);
        }
        let mut parents = self.in_line(sid).unwrap_or_default();
        let Some(parent) = parents.pop() else { return };
        let entries = self.entries().remove(&sid).unwrap_or_default();
        let Some(because_of) = entries[&parent].first().copied() else { return };
        let leader = self.add_helper(sid, parent, sid, sid, because_of, true);
        self.fork_from(leader, &entries[&parent], Descent::Sibling);
        if let Some(parent) = parents.pop() {
            self.orphan_from(leader, &entries[&parent], parent);
        }
        for parent in parents {
            self.carry(leader, sid, &entries[&parent], parent);
        }
    }

    /// Parents that may have been in the session themselves, below others with children in it, were.
    fn meet_above(&mut self, sid: u32) {
        let mut fixed = BTreeSet::new();
        while let Some(entries) = self.entries().remove(&sid).filter(|entries| entries.len() > 1) {
            let open =
                entries.keys().copied().filter(|parent| self.is_open(*parent) && !fixed.contains(parent));
            let Some(parent) = open.max_by_key(|parent| (self.depth[*parent], *parent)) else { break };
            match self.climb(parent, sid) {
                Some(top) if top != parent && (entries.contains_key(&top) || self.has(top, sid)) => {
                    self.hand_down(parent, sid);
                }
                Some(_) | None => {
                    fixed.insert(parent);
                }
            }
        }
    }

    fn fork_from(&mut self, forker: usize, tasks: &[usize], descent: Descent) {
        for task in tasks {
            let spec = &mut self.forest.tasks[*task];
            spec.parent = Some(TaskId::new(forker));
            spec.descent = descent;
        }
    }

    fn orphan_from(&mut self, forker: usize, tasks: &[usize], adopter: usize) {
        self.fork_from(forker, tasks, Descent::Adopted { by: TaskId::new(adopter) });
    }

    /// A helper that a member of the session forks, and that leaves its children to `adopter`.
    fn carry(&mut self, member: usize, sid: u32, tasks: &[usize], adopter: usize) {
        let (Some(first), Some(pid)) = (tasks.first().copied(), self.spare.next()) else { return };
        let pgid = self.forest.tasks[member].pgid;
        let helper = self.add_helper(pid, member, sid, pgid, first, false);
        self.orphan_from(helper, tasks, adopter);
    }

    fn add_helper(
        &mut self,
        pid: u32,
        parent: usize,
        sid: u32,
        pgid: u32,
        because_of: usize,
        stands_in: bool,
    ) -> usize {
        let index = self.forest.tasks.len();
        self.forest.tasks.push(TaskSpec {
            pid,
            parent: Some(TaskId::new(parent)),
            pgid,
            sid,
            life: Life::Helper,
            ..TaskSpec::default()
        });
        self.parent.push(Some(parent));
        self.children.push(Vec::new());
        self.depth.push(self.depth[parent] + 1);
        self.born_in.push((sid != pid).then_some(sid));
        self.by_pid.insert(pid, index);
        let (task, because_of) = (TaskId::new(index), TaskId::new(because_of));
        self.helpers.push(Helper { task, because_of, stands_in });
        index
    }

    /// Groups whose leaders are dead and gone: a helper founds each and dies when all have joined. (The
    /// members keep the number of the group from being given away, as they did before the dump.)
    fn found_groups(&mut self) {
        let mut missing: BTreeMap<u32, usize> = BTreeMap::new();
        for (index, task) in self.forest.tasks.iter().enumerate() {
            let is_outside =
                task.pgid == 0 || self.cradle.pgid == Some(task.pgid) || self.cradle.sid == Some(task.pgid);
            if !is_outside && task.life != Life::Thread && !self.by_pid.contains_key(&task.pgid) {
                missing.entry(task.pgid).or_insert(index);
            }
        }
        for (pgid, member) in missing {
            let sid = self.forest.tasks[member].sid;
            let is_able = |task: &usize| {
                let spec = &self.forest.tasks[*task];
                spec.sid == sid && spec.life != Life::Thread
            };
            let lives = |task: &usize| self.forest.tasks[*task].life == Life::Lives;
            let leader = self.by_pid.get(&sid).copied().filter(is_able);
            // A session whose leader is outside has its members only.
            let Some(forker) = leader.or_else(|| (0..self.forest.tasks.len()).filter(is_able).find(lives))
            else {
                continue;
            };
            self.add_helper(pgid, forker, sid, pgid, member, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::arrange;

    /// Tasks as (pid, parent's pid, session), each in its own group; those whose pid is in `dead` are
    /// zombies. Expects, of all that are not forked by their parents, and of all helpers: the task, who
    /// forks it, and how it gets its parent.
    #[track_caller]
    fn check(tasks: &[(u32, u32, u32)], dead: &[u32], expected: &[&str]) {
        let mut forest = forest(tasks, dead);
        raise(&mut forest, Cradle::default(), &mut (1000..));
        assert_eq!(shown(&forest), expected);
        arrange(&forest, Cradle::default()).expect("possible sessions");
        crate::order::plan(&forest).expect("a plan");
    }

    fn forest(tasks: &[(u32, u32, u32)], dead: &[u32]) -> Forest {
        let index = |pid: u32| tasks.iter().position(|task| task.0 == pid).map(TaskId::new);
        let tasks = tasks.iter().map(|&(pid, ppid, sid)| TaskSpec {
            pid,
            parent: index(ppid),
            pgid: pid,
            sid,
            life: if dead.contains(&pid) { Life::Zombie } else { Life::Lives },
            ..TaskSpec::default()
        });
        Forest { tasks: tasks.collect(), ..Forest::default() }
    }

    fn shown(forest: &Forest) -> Vec<String> {
        let pid = |task: TaskId| forest.tasks[task.index()].pid;
        let of = |spec: &TaskSpec| spec.parent.map_or(0, pid);
        forest
            .tasks
            .iter()
            .filter_map(|spec| match (spec.life, spec.descent) {
                (Life::Helper, _) => Some(format!("helper {} of {}", spec.pid, of(spec))),
                (_, Descent::Own) => None,
                (_, Descent::Sibling) => Some(format!("{} by {}", spec.pid, of(spec))),
                (_, Descent::Adopted { by }) => Some(format!("{} by {} to {}", spec.pid, of(spec), pid(by))),
            })
            .collect()
    }

    #[test]
    fn what_parents_can_give() {
        check(&[(1, 0, 1), (2, 1, 1), (3, 1, 3), (4, 3, 3)], &[], &[]);
        // 2 and 3 have left the session in which their children stay.
        check(&[(1, 0, 1), (2, 1, 2), (3, 2, 3), (4, 3, 1), (5, 2, 1), (6, 3, 3)], &[], &[]);
    }

    #[test]
    fn dead_leaders() {
        check(&[(1, 0, 1), (2, 1, 9), (3, 1, 9), (4, 3, 9)], &[], &["2 by 9", "3 by 9", "helper 9 of 1"]);
        // Two sessions, one below the other.
        check(
            &[(1, 0, 1), (2, 1, 8), (3, 2, 9)],
            &[],
            &["2 by 8", "3 by 9", "helper 8 of 1", "helper 9 of 2"],
        );
        // Members elsewhere: 3 has left the session in which 4 stays.
        check(&[(1, 0, 1), (2, 1, 9), (3, 1, 3), (4, 3, 9)], &[], &["2 by 9", "3 by 9", "helper 9 of 1"]);
        // 2 and 3 have left it, in different branches.
        check(
            &[(1, 0, 1), (2, 1, 2), (3, 1, 3), (4, 2, 9), (5, 3, 9)],
            &[],
            &["2 by 9", "3 by 9", "helper 9 of 1"],
        );
        // 3 has a child of two sessions that are not its own.
        check(&[(1, 0, 1), (2, 1, 2), (3, 2, 3), (4, 3, 2), (5, 3, 9)], &[], &["5 by 9", "helper 9 of 3"]);
    }

    #[test]
    fn several_adopters() {
        // 1, 2 and 3 have each adopted a member of session 9; 3 is not in a position to have been in it.
        check(
            &[(1, 0, 1), (2, 1, 1), (3, 2, 1), (4, 1, 9), (5, 2, 9), (6, 3, 9)],
            &[],
            &["4 by 1000 to 1", "5 by 9 to 2", "6 by 9", "helper 9 of 3", "helper 1000 of 9"],
        );
    }

    #[test]
    fn leaders_that_live() {
        check(&[(1, 0, 1), (2, 1, 2), (3, 1, 2)], &[], &["3 by 2"]);
        check(&[(1, 0, 1), (3, 1, 2), (2, 1, 2)], &[], &["3 by 2"]);
        check(&[(1, 0, 1), (2, 1, 1), (3, 2, 3), (4, 1, 3)], &[], &["4 by 1000 to 1", "helper 1000 of 3"]);
        // 4 has left session 3, and keeps a child there.
        check(
            &[(1, 0, 1), (2, 1, 1), (3, 2, 3), (4, 1, 4), (5, 4, 3)],
            &[],
            &["4 by 1000 to 1", "helper 1000 of 3"],
        );
    }

    #[test]
    fn leaders_that_are_zombies() {
        check(&[(1, 0, 1), (2, 1, 2), (3, 1, 2)], &[2], &["3 by 2"]);
        check(&[(1, 0, 1), (2, 1, 1), (3, 2, 3), (4, 1, 3)], &[3], &["4 by 3 to 1"]);
        check(
            &[(1, 0, 1), (2, 1, 1), (3, 2, 1), (4, 3, 4), (5, 3, 4), (6, 2, 4), (7, 1, 4)],
            &[4, 6],
            &["5 by 4", "6 by 4 to 2", "7 by 1000 to 1", "helper 1000 of 4"],
        );
    }

    #[test]
    fn groups_of_dead_leaders() {
        let mut tree = forest(&[(1, 0, 1), (2, 1, 9), (3, 2, 9), (4, 1, 1)], &[]);
        tree.tasks[1].pgid = 8;
        tree.tasks[2].pgid = 8;
        tree.tasks[3].pgid = 7;
        raise(&mut tree, Cradle::default(), &mut std::iter::empty());
        assert_eq!(shown(&tree), ["2 by 9", "helper 9 of 1", "helper 7 of 1", "helper 8 of 9"]);
        crate::order::plan(&tree).expect("a plan");
    }

    #[test]
    fn groups_in_the_session_of_the_caller() {
        let cradle = Cradle { sid: Some(5), pgid: Some(6) };
        let mut tree = forest(&[(1, 0, 5), (2, 1, 5), (3, 1, 5)], &[]);
        tree.tasks[0].pgid = 6;
        tree.tasks[1].pgid = 8;
        tree.tasks[2].pgid = 6;
        raise(&mut tree, cradle, &mut std::iter::empty());
        assert_eq!(shown(&tree), ["helper 8 of 1"]);
        crate::order::plan_in(&tree, cradle).expect("a plan");
    }

    /// No history of a tree leads there; the forest stays as it is, and `arrange` says what is wrong.
    #[test]
    fn what_cannot_be() {
        let check = |tasks: &[(u32, u32, u32)]| {
            let mut tree = forest(tasks, &[]);
            raise(&mut tree, Cradle::default(), &mut (1000..));
            arrange(&tree, Cradle::default()).expect_err("impossible sessions")
        };
        // 2 must lead before 3 is born, and 3 before 2.
        check(&[(1, 0, 1), (2, 1, 2), (3, 1, 3), (4, 2, 3), (5, 3, 2)]);
        // Two branches that were never in the session.
        check(&[(1, 0, 1), (2, 1, 1), (3, 1, 1), (4, 2, 9), (5, 3, 9)]);
        // The leader is a task of another branch that never was a leader's parent.
        check(&[(1, 0, 1), (2, 1, 2), (3, 1, 1), (4, 3, 2)]);
        // A session by the number of a task that leads none.
        check(&[(1, 0, 1), (2, 1, 1), (3, 1, 2)]);
    }
}
