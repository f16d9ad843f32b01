//! Births, deaths, sessions, process groups, signals, as the kernel has them.
//!
//! # Sources
//! `clone(2)`, `setsid(2)`, `setpgid(2)`, `waitid(2)`, `signal(7)`, `core(5)`.

use super::attribute::AttributeKind;
use super::before::At;
use super::effect::Birth;
use super::expected::Life;
use super::outcome::Wrong;
use super::run::{CLONE_PARENT, Flow, Group, Phase, Role, Run, SIGCHLD};

const CLONE_FILES: u64 = 0x400;
/// What a thread shares: CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND, CLONE_THREAD, CLONE_SYSVSEM.
const CLONE_THREAD_ALL: u64 = 0x100 | 0x200 | 0x400 | 0x800 | 0x1_0000 | 0x4_0000;
pub(super) const SIGKILL: u32 = 9;
pub(super) const SIGSTOP: u32 = 19;

impl Run<'_> {
    /// A task comes to life: it has its table, session and group already.
    pub(super) fn bear(&mut self, task: usize, parent: u32, exit_signal: u64) -> Result<(), Wrong> {
        let wanted_signal = match self.roles[task] {
            Role::Task(want) if want.ppid != parent => {
                return Err(Wrong::WrongParent { is: parent, wanted: want.ppid });
            }
            Role::Task(_) => SIGCHLD.into(),
            Role::Thread(_) | Role::Helper => 0,
        };
        if exit_signal != wanted_signal {
            return Err(Wrong::WrongExitSignal { is: exit_signal, wanted: wanted_signal });
        }
        let state = &mut self.tasks[task];
        state.parent = parent;
        state.exit_signal = exit_signal;
        state.phase = Phase::Running;
        self.ready.push_back(task);
        self.certificate.births += 1;
        Ok(())
    }

    pub(super) fn fork(&mut self, at: At, birth: &Birth) -> Result<(), Wrong> {
        let is_thread = birth.flags == CLONE_THREAD_ALL;
        if !is_thread && birth.flags & !(CLONE_FILES | CLONE_PARENT) != 0 {
            return Err(Wrong::NotModelled { call: "clone3", what: format!("flags {:#x}", birth.flags) });
        }
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
        if self.roles[child].is_zombie() && self.children_may_vanish(at.task) {
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
        let forker = &mut self.tasks[at.task];
        forker.has_threads |= is_thread;
        let (sid, pgid) = (forker.sid, forker.pgid);
        let (privileges, attributes) = (forker.privileges.clone(), forker.attributes.born(is_thread));
        let vdso = forker.vdso.clone();
        let state = &mut self.tasks[child];
        (state.table, state.sid, state.pgid) = (table, sid, pgid);
        (state.privileges, state.attributes) = (privileges, attributes);
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
        if let Some(waiter) = self.waiting_for_death.remove(&task) {
            self.ready.push_back(waiter);
        }
        Ok(Flow::Ended)
    }

    pub(super) fn await_exit(&mut self, at: At, pid: u32, reap: bool) -> Result<Flow, Wrong> {
        let nobody = |why| Err(Wrong::AwaitsNobody { pid, why });
        let Some(child) = self.by_pid.get(&pid).copied() else { return nobody("is not in the tree") };
        if self.roles[child].is_alive() {
            return nobody("lives on");
        }
        let certainly_born = self.forks.get(&pid).is_some_and(|fork| self.before.holds(*fork, at));
        match self.tasks[child].phase {
            Phase::Unborn => return nobody("is not created before"),
            Phase::Reaped => return nobody("has been reaped"),
            Phase::Running | Phase::Dead { .. } | Phase::Arrived | Phase::Tail | Phase::Parked => {}
        }
        if self.tasks[child].parent != self.pid(at.task) {
            return nobody("is not its child");
        }
        if !certainly_born {
            return nobody("is not certainly created before");
        }
        if reap && self.roles[child].is_zombie() {
            return Err(Wrong::ReapsZombie { pid });
        }
        if self.children_may_vanish(at.task) && !reap {
            return Err(Wrong::ZombieVanishes { pid });
        }
        let Some(died) = self.tasks[child].died else {
            self.waiting_for_death.insert(child, at.task);
            return Ok(Flow::Blocked);
        };
        self.before.add_wait(at, died);
        self.tasks[child].awaited = true;
        if self.tasks[child].exit_signal == u64::from(SIGCHLD) {
            self.tasks[at.task].has_sigchld = true;
        }
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
