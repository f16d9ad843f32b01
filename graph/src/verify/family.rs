//! Births, deaths, sessions, process groups, signals, as the kernel has them.
//!
//! # Sources
//! `clone(2)`, `setsid(2)`, `setpgid(2)`, `waitid(2)`, `signal(7)`, `core(5)`, `prctl(2)`; kernel/exit.c
//! (`find_new_reaper`, `reparent_leader`), kernel/signal.c (`do_notify_parent`).

use super::attribute::AttributeKind;
use super::before::At;
use super::effect::Birth;
use super::expected::{ExpectedTask, Life};
use super::outcome::Wrong;
use super::run::{CLONE_PARENT, Flow, Group, Phase, Role, Run, SIGCHLD, Subreaper};
use super::work;

const CLONE_VM: u64 = 0x100;
const CLONE_FILES: u64 = 0x400;
/// What a thread shares: CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND, CLONE_THREAD, CLONE_SYSVSEM.
const CLONE_THREAD_ALL: u64 = 0x100 | 0x200 | 0x400 | 0x800 | 0x1_0000 | 0x4_0000;
/// Whether a task has the parent that the images say, and is to tell it of its death.
pub(super) fn check_parent(want: &ExpectedTask, parent: u32, exit_signal: u64) -> Result<(), Wrong> {
    if want.ppid != parent {
        return Err(Wrong::WrongParent { is: parent, wanted: want.ppid });
    }
    if exit_signal != SIGCHLD.into() {
        return Err(Wrong::WrongExitSignal { is: exit_signal, wanted: SIGCHLD.into() });
    }
    Ok(())
}

pub(super) const SIGKILL: u32 = 9;
pub(super) const SIGSTOP: u32 = 19;

impl Run<'_> {
    fn lives_on(&self, pid: u32) -> bool {
        self.by_pid.get(&pid).is_some_and(|task| self.roles[*task].is_alive())
    }

    /// Whether its parent dies in the course of the restore. Threads have that of their task.
    pub(super) fn parent_may_die(&self, at: At) -> bool {
        let task = match self.roles[at.task] {
            Role::Thread(of) => self.by_pid.get(&of.pid).copied().unwrap_or(at.task),
            Role::Task(_) | Role::Helper => at.task,
        };
        let state = &self.tasks[task];
        let may_be_dying = || state.parent != 0 && !self.lives_on(state.parent);
        let is_unsure = |death| !self.before.holds(death, at);
        self.tasks[at.task].phase == Phase::Running
            && (may_be_dying() || state.orphaned.is_some_and(is_unsure))
    }

    /// Whether a task is there in every run by then, if only for a while.
    pub(super) fn is_born_before(&self, task: usize, at: At) -> bool {
        let born = self.tasks[task].born;
        self.pid(task) == self.root || born.is_some_and(|fork| self.before.holds(fork, at))
    }

    /// A task comes to life: it has its table, session and group already.
    pub(super) fn bear(&mut self, task: usize, parent: u32, exit_signal: u64) -> Result<(), Wrong> {
        match self.roles[task] {
            // A parent that lives on is its parent for good; what another leaves is looked at in the end.
            Role::Task(want) if parent == 0 || self.lives_on(parent) => {
                check_parent(want, parent, exit_signal)?;
            }
            Role::Task(_) => {}
            Role::Thread(_) if exit_signal != 0 => {
                return Err(Wrong::WrongExitSignal { is: exit_signal, wanted: 0 });
            }
            // With SIGCHLD it can fork for its parent.
            Role::Helper if exit_signal != 0 && exit_signal != SIGCHLD.into() => {
                return Err(Wrong::WrongExitSignal { is: exit_signal, wanted: 0 });
            }
            Role::Thread(_) | Role::Helper => {}
        }
        let state = &mut self.tasks[task];
        state.parent = parent;
        state.exit_signal = exit_signal;
        state.phase = Phase::Running;
        self.ready.push_back(task);
        if !matches!(self.roles[task], Role::Thread(_))
            && let Some(parent) = self.by_pid.get(&parent)
        {
            self.children[*parent].push(task);
        }
        self.certificate.births += 1;
        Ok(())
    }

    pub(super) fn fork(&mut self, at: At, birth: &Birth) -> Result<(), Wrong> {
        let is_thread = birth.flags == CLONE_THREAD_ALL;
        // A guest in its forker's address space, which leaves again.
        let is_guest = birth.flags == CLONE_VM;
        if !is_thread && !is_guest && birth.flags & !(CLONE_FILES | CLONE_PARENT) != 0 {
            return Err(Wrong::NotModelled { call: "clone3", what: format!("flags {:#x}", birth.flags) });
        }
        let cgroup = match birth.cgroup {
            Some(_) if is_thread || is_guest => {
                return Err(Wrong::NotModelled {
                    call: "clone3",
                    what: "a thread in another cgroup".to_owned(),
                });
            }
            Some(directory) => Some(self.cgroup_behind(at, "clone3", directory)?),
            None => None,
        };
        let Some(child) = self.by_pid.get(&birth.pid).copied() else {
            return Err(Wrong::BornUnasked { child: birth.pid });
        };
        if self.tasks[child].phase != Phase::Unborn {
            return Err(Wrong::BornTwice { child: birth.pid });
        }
        match (self.roles[child], is_thread) {
            (Role::Thread(of), true) if of.pid == self.pid(at.task) => {}
            (Role::Thread(of), true) => {
                return Err(Wrong::ThreadOfOther { is: self.pid(at.task), wanted: of.pid });
            }
            (Role::Thread(_), false) => return Err(Wrong::NotAThread),
            (Role::Task(_) | Role::Helper, true) => {
                return Err(Wrong::NotModelled {
                    call: "clone3",
                    what: format!("task {} as a thread", birth.pid),
                });
            }
            (Role::Task(_), false) if is_guest => {
                let what = format!("flags {:#x}", birth.flags);
                return Err(Wrong::NotModelled { call: "clone3", what });
            }
            (Role::Task(_) | Role::Helper, false) => {}
        }
        self.check_policy(at.task)?;
        let forker = &self.tasks[at.task];
        let forker_table = forker.table;
        let (parent, exit_signal) = if birth.flags & CLONE_PARENT == 0 {
            (self.pid(at.task), birth.exit_signal)
        } else if birth.exit_signal == 0 {
            (forker.parent, forker.exit_signal)
        } else {
            return Err(Wrong::Refused {
                call: "clone3",
                what: "CLONE_PARENT with an exit signal".to_owned(),
            });
        };
        // It has them from its forker, who is its parent, or a child of that.
        let is_heard = self.roles[child].is_zombie()
            || matches!(self.roles[child], Role::Helper) && exit_signal == SIGCHLD.into();
        if is_heard && self.children_may_vanish(at.task) {
            return Err(Wrong::ZombieVanishes { pid: birth.pid });
        }
        let table = if birth.flags & CLONE_FILES != 0 {
            self.use_table(at, "clone3")?;
            let table = &mut self.tables[forker_table];
            table.shared = true;
            table.last = Some(at);
            forker_table
        } else {
            // The copy reads the table, whatever else is done to it at the same time.
            self.order_table(at, "clone3")?;
            let copy = self.tables[forker_table].copy();
            self.tables.push(copy);
            self.tables.len() - 1
        };
        self.before.add_birth(child, at);
        if is_guest {
            let host = self.space_of(at.task);
            self.share_space(at, "clone3")?;
            self.tasks[child].shares_space = Some(host);
        } else if !is_thread {
            self.check_userfault(at, "clone3")?;
            self.check_ringless(at, "clone3")?;
            self.spaces[child] = self.use_space(at, "clone3")?.child();
        }
        let forker = &mut self.tasks[at.task];
        forker.has_threads |= is_thread;
        let (sid, pgid, orphaned) = (forker.sid, forker.pgid, forker.orphaned);
        let (privileges, attributes) = (forker.privileges.clone(), forker.attributes.born(is_thread));
        let vdso = forker.vdso.clone();
        let state = &mut self.tasks[child];
        (state.table, state.sid, state.pgid) = (table, sid, pgid);
        state.born = Some(at);
        (state.privileges, state.attributes) = (privileges, attributes);
        if let Some((name, cgroup)) = cgroup {
            self.put_into_cgroup(child, "clone3", name, cgroup)?;
        }
        let state = &mut self.tasks[child];
        // Whoever gets its forker gets it, too, whichever of the two comes first.
        state.orphaned = orphaned.filter(|_| birth.flags & CLONE_PARENT != 0);
        state.vdso = vdso;
        self.bear(child, parent, exit_signal)
    }

    /// Whether children might leave no zombie when they die.
    fn children_may_vanish(&self, task: usize) -> bool {
        self.tasks[task].attributes.action(SIGCHLD).is_none_or(|action| action.discards_children())
    }

    pub(super) fn check_death(&self, task: usize, signal: u32) -> Result<(), Wrong> {
        let uncertain = |why| Err(Wrong::UncertainDeath { signal, why });
        let state = &self.tasks[task].attributes;
        let bit = signal.checked_sub(1).and_then(|shift| 1u64.checked_shl(shift)).unwrap_or(0);
        match signal {
            SIGKILL => Ok(()),
            17..=23 | 28 | 0 | 65.. => uncertain("which does not kill"),
            _ if state.action(signal).is_none_or(|action| action.handler != 0) => {
                uncertain("whose disposition may not be the default")
            }
            _ if state.number(AttributeKind::SigMask).is_none_or(|mask| mask & bit != 0) => {
                uncertain("which may be blocked")
            }
            3..=8 | 11 | 24 | 25 | 31 if state.number(AttributeKind::Dumpable) != Some(0) => {
                uncertain("which dumps core unless dumpable is 0")
            }
            _ => Ok(()),
        }
    }

    pub(super) fn die(&mut self, at: At, status: u32, what: impl FnOnce() -> String) -> Result<Flow, Wrong> {
        let task = at.task;
        match self.roles[task] {
            Role::Task(want) | Role::Thread(want) => match want.life {
                Life::Alive => return Err(Wrong::Dies { what: what() }),
                Life::Zombie { status: wanted } if wanted != status => {
                    return Err(Wrong::WrongStatus { is: status, wanted });
                }
                Life::Zombie { .. } => {}
            },
            // The group it founded lasts without it only by those who are certainly in it.
            Role::Helper => {
                let pgid = self.pid(task);
                if let Some(group) = self.groups.remove(&pgid)
                    && !group.joined.iter().flatten().all(|join| self.before.holds(*join, at))
                {
                    return Err(Wrong::NoSuchGroup { pgid });
                }
            }
        }
        self.tasks[task].phase = Phase::Dead { status };
        self.tasks[task].died = Some(at);
        self.reparent(at)?;
        if let Some(waiter) = self.waiting_for_death.remove(&task) {
            self.ready.push_back(waiter);
        }
        Ok(Flow::Ended)
    }

    /// Gives the children of a task that has died to the nearest subreaper above it.
    fn reparent(&mut self, at: At) -> Result<(), Wrong> {
        let pid = self.pid(at.task);
        let mut orphans = std::mem::take(&mut self.children[at.task]);
        work::count(orphans.len());
        orphans.retain(|child| self.tasks[*child].parent == pid && self.tasks[*child].phase != Phase::Reaped);
        if orphans.is_empty() {
            return Ok(());
        }
        let mut parent = self.tasks[at.task].parent;
        while let Some(above) = self.by_pid.get(&parent).copied() {
            if let Some(reaper) = self.tasks[above].subreaper {
                if reaper.has_ceased || !self.before.holds(reaper.since, at) {
                    return Err(Wrong::UncertainAdopter { adopter: parent });
                }
                self.tasks[above].subreaper = Some(Subreaper { has_adopted: true, ..reaper });
                self.certificate.orders_proved += 1;
                break;
            }
            self.tasks[above].passed.push(at);
            parent = self.tasks[above].parent;
        }
        if let Some(above) = self.by_pid.get(&parent) {
            self.children[*above].extend(&orphans);
        }
        for orphan in orphans {
            let state = &mut self.tasks[orphan];
            state.parent = parent;
            state.exit_signal = SIGCHLD.into();
            state.orphaned = Some(at);
            self.certificate.adoptions += 1;
        }
        Ok(())
    }

    pub(super) fn become_subreaper(&mut self, at: At, is_one: bool) -> Result<(), Wrong> {
        let state = &mut self.tasks[at.task];
        match &mut state.subreaper {
            // In the tail nobody dies any more.
            _ if state.phase == Phase::Tail => return Ok(()),
            Some(reaper) if !is_one && reaper.has_adopted => {
                let what = "a subreaper with orphans that ceases to be one before the barrier".to_owned();
                return Err(Wrong::NotModelled { call: "prctl", what });
            }
            Some(reaper) if !is_one => reaper.has_ceased = true,
            Some(_) | None => {}
        }
        if !is_one || state.subreaper.is_some() {
            return Ok(());
        }
        let state = &self.tasks[at.task];
        if let Some(death) = state.passed.iter().find(|death| !self.before.holds(**death, at)) {
            return Err(Wrong::UncertainOrphans { of: self.pid(death.task) });
        }
        self.certificate.orders_proved += state.passed.len() as u64;
        self.tasks[at.task].subreaper = Some(Subreaper { since: at, has_adopted: false, has_ceased: false });
        Ok(())
    }

    pub(super) fn await_exit(&mut self, at: At, pid: u32, reap: bool) -> Result<Flow, Wrong> {
        let nobody = |why| Err(Wrong::AwaitsNobody { pid, why });
        let Some(child) = self.by_pid.get(&pid).copied() else { return nobody("is not in the tree") };
        if self.roles[child].is_alive() {
            return nobody("lives on");
        }
        match self.tasks[child].phase {
            Phase::Unborn => return nobody("is not created before"),
            Phase::Reaped => return nobody("has been reaped"),
            Phase::Running | Phase::Dead { .. } | Phase::Arrived | Phase::Tail | Phase::Parked => {}
        }
        if self.tasks[child].parent != self.pid(at.task) {
            return nobody("is not its child");
        }
        if !self.is_born_before(child, at) {
            return nobody("is not certainly created before");
        }
        if self.tasks[child].orphaned.is_some_and(|death| !self.before.holds(death, at)) {
            return nobody("is not certainly its child then");
        }
        if reap && self.roles[child].is_zombie() {
            return Err(Wrong::ReapsZombie { pid });
        }
        let is_heard = self.tasks[child].exit_signal == SIGCHLD.into();
        if is_heard && self.children_may_vanish(at.task) {
            return Err(Wrong::ZombieVanishes { pid });
        }
        let Some(died) = self.tasks[child].died else {
            self.waiting_for_death.insert(child, at.task);
            return Ok(Flow::Blocked);
        };
        self.before.add_wait(at, died);
        self.tasks[child].awaited = true;
        self.tasks[at.task].has_sigchld |= is_heard;
        if reap {
            self.tasks[child].phase = Phase::Reaped;
        }
        self.certificate.deaths_awaited += 1;
        Ok(Flow::Next)
    }

    pub(super) fn set_sid(&mut self, at: At) -> Result<(), Wrong> {
        let pid = self.pid(at.task);
        if self.tasks[at.task].pgid == pid {
            return Err(Wrong::SetsidByLeader);
        }
        self.tasks[at.task].sid = pid;
        self.tasks[at.task].pgid = pid;
        self.found(at, pid)
    }

    fn found(&mut self, at: At, sid: u32) -> Result<(), Wrong> {
        let joined = self.roles[at.task].task().is_none().then(Vec::new);
        self.groups.insert(self.pid(at.task), Group { founded: at, sid, joined });
        self.certificate.family_changes += 1;
        Ok(())
    }

    pub(super) fn set_pgid(&mut self, at: At, pgid: u32) -> Result<(), Wrong> {
        let pid = self.pid(at.task);
        let (sid, now) = (self.tasks[at.task].sid, self.tasks[at.task].pgid);
        if sid == pid {
            return Err(Wrong::SetpgidByLeader);
        }
        if pgid == pid {
            self.tasks[at.task].pgid = pid;
            return if now == pid { Ok(()) } else { self.found(at, sid) };
        }
        if now == pid {
            return Err(Wrong::NotModelled {
                call: "setpgid",
                what: "leaving a group that the task leads".to_owned(),
            });
        }
        let cradle = self.expected.cradle;
        let group_sid = match self.groups.get(&pgid) {
            Some(group) if self.before.holds(group.founded, at) => {
                self.certificate.orders_proved += 1;
                group.sid
            }
            Some(_) => return Err(Wrong::NoSuchGroup { pgid }),
            // The invoker's own group, and that of its session's leader.
            None if pgid != 0 && (cradle.pgid == pgid || cradle.sid == pgid) => cradle.sid,
            None => return Err(Wrong::NoSuchGroup { pgid }),
        };
        if group_sid != sid {
            return Err(Wrong::OtherSession { pgid });
        }
        if let Some(joined) = self.groups.get_mut(&pgid).and_then(|group| group.joined.as_mut()) {
            joined.push(at);
        }
        self.tasks[at.task].pgid = pgid;
        self.certificate.family_changes += 1;
        Ok(())
    }
}
