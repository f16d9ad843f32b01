//! What can be seen of tapes without running them: who is expected to play them, who is born where, which events are
//! posted and waited for.

use std::collections::BTreeMap;

use super::before::At;
use super::effect::{Effect, Effects};
use super::expected::Expected;
use super::outcome::{Counterexample, Wrong};
use super::run::Role;

/// What is wrong with a task as a whole.
fn whole(pid: u32, wrong: Wrong) -> Counterexample {
    Counterexample { task: pid, record: None, wrong }
}

/// A tape that cannot be lifted. Whoever lifts them knows what is wrong.
pub(super) fn not_understood(pid: u32) -> Counterexample {
    whole(pid, Wrong::NotUnderstood { what: "its tape".to_owned() })
}

/// Who plays the tapes.
pub(super) struct Cast<'a> {
    /// The pid of each tape, in their order.
    pub(super) pids: Vec<u32>,
    /// Tapes by pid.
    pub(super) by_pid: BTreeMap<u32, usize>,
    /// What each tape is for.
    pub(super) roles: Vec<Role<'a>>,
    /// Whom the images have.
    wanted: BTreeMap<u32, Role<'a>>,
}

impl<'a> Cast<'a> {
    /// Looks at nothing but numbers.
    pub(super) fn of(tapes: &dyn Effects, expected: &'a Expected) -> Result<Cast<'a>, Counterexample> {
        let mut wanted: BTreeMap<u32, Role<'a>> = BTreeMap::new();
        for task in &expected.tasks {
            let roles = std::iter::once((task.pid, Role::Task(task)));
            for (pid, role) in roles.chain(task.threads.iter().map(|tid| (*tid, Role::Thread(task)))) {
                if wanted.insert(pid, role).is_some() {
                    return Err(whole(task.pid, Wrong::PidTwice { pid }));
                }
            }
        }
        let pids = tapes.pids();
        let mut by_pid = BTreeMap::new();
        for (index, pid) in pids.iter().enumerate() {
            if by_pid.insert(*pid, index).is_some() {
                return Err(whole(*pid, Wrong::BornTwice { child: *pid }));
            }
        }
        let roles = pids.iter().map(|pid| wanted.get(pid).copied().unwrap_or(Role::Helper)).collect();
        Ok(Cast { pids, by_pid, roles, wanted })
    }
}

/// Births and events of all tapes.
pub(super) struct Overview {
    /// Where each event is posted.
    pub(super) posts: BTreeMap<u32, At>,
    /// Where each pid is forked.
    pub(super) forks: BTreeMap<u32, At>,
    /// Where each event is first waited for.
    waits: BTreeMap<u32, At>,
}

impl Overview {
    /// Nothing is posted twice, and nobody is born twice.
    pub(super) fn of(tapes: &dyn Effects, cast: &Cast<'_>) -> Result<Overview, Counterexample> {
        let (mut posts, mut forks, mut waits) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (task, pid) in cast.pids.iter().enumerate() {
            for lifted in tapes.of_task(task).ok_or_else(|| not_understood(*pid))? {
                let at = At { task, record: lifted.record };
                let wrong = match &lifted.effect {
                    Effect::Post(event) => {
                        let Some(first) = posts.insert(*event, at) else { continue };
                        Wrong::PostedTwice { event: *event, by: cast.pids[first.task], at: first.record }
                    }
                    Effect::Wait(event) => {
                        waits.entry(*event).or_insert(at);
                        continue;
                    }
                    Effect::Fork(birth) if !cast.by_pid.contains_key(&birth.pid) => {
                        Wrong::BornUnasked { child: birth.pid }
                    }
                    Effect::Fork(birth) => {
                        if forks.insert(birth.pid, at).is_none() && birth.pid != tapes.root().pid {
                            continue;
                        }
                        Wrong::BornTwice { child: birth.pid }
                    }
                    _ => continue,
                };
                return Err(Counterexample { task: *pid, record: Some(at.record), wrong });
            }
        }
        Ok(Overview { posts, forks, waits })
    }
}

/// Whether all are born once, no event is posted twice or never, and the barrier waits for as many as there are to be.
pub(super) fn check(tapes: &dyn Effects, cast: &Cast<'_>) -> Result<(), Counterexample> {
    let root = tapes.root().pid;
    if !tapes.are_understood() {
        return Err(not_understood(root));
    }
    let Overview { posts, forks, waits } = Overview::of(tapes, cast)?;
    if let Some((event, at)) = waits.iter().find(|(event, _)| !posts.contains_key(event)) {
        let wrong = Wrong::NeverPosted { event: *event };
        return Err(Counterexample { task: cast.pids[at.task], record: Some(at.record), wrong });
    }
    for pid in cast.wanted.keys().chain(cast.by_pid.keys()) {
        if *pid != root && !forks.contains_key(pid) || !cast.by_pid.contains_key(pid) {
            return Err(match cast.wanted.get(pid) {
                Some(Role::Thread(task)) => whole(task.pid, Wrong::ThreadMissing { tid: *pid }),
                Some(Role::Task(_) | Role::Helper) | None => whole(*pid, Wrong::NeverBorn),
            });
        }
    }
    let alive = cast.wanted.values().filter(|role| role.is_alive()).count() as u32;
    if tapes.total() != alive {
        return Err(whole(root, Wrong::WrongTotal { is: tapes.total(), wanted: alive }));
    }
    Ok(())
}
