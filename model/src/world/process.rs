//! Births, deaths, waits, sessions, groups, and the barrier.
//!
//! # Sources
//! `clone(2)`, `exit_group(2)`, `waitid(2)`, `setsid(2)`, `setpgid(2)`, `credentials(7)`, `prctl(2)`;
//! kernel/fork.c (`copy_process`, `kernel_clone`), kernel/pid.c (`alloc_pid`), kernel/exit.c
//! (`do_exit`, `forget_original_parent`, `find_new_reaper`, `wait_consider_task`), kernel/sys.c
//! (`ksys_setsid`, `do_setpgid`).

use std::collections::BTreeMap;
use std::sync::Arc;

use regrow_graph::verify::Birth;

use super::attribute::{Directory, ThreadAttributes, Timers};
use super::credential::{CAP_CHECKPOINT_RESTORE, CAP_SYS_ADMIN, Credentials, Seccomp};
use super::signal::{Action, Pending, SIGCHLD};
use super::{COORDINATOR, Call, Outcome, Step, Stop, Why, World, fails, not_modelled};
use crate::errno::{ECHILD, EEXIST, EINVAL, EPERM, ESRCH};
use crate::footprint::{Access, Footprint, Thing};
use crate::ids::{DescId, Made, SpaceId, TableId};

const CLONE_VM: u64 = 0x100;
const CLONE_FS: u64 = 0x200;
const CLONE_FILES: u64 = 0x400;
const CLONE_PARENT: u64 = 0x8000;
/// CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND, CLONE_THREAD, CLONE_SYSVSEM.
const THREAD_FLAGS: u64 = 0x100 | CLONE_FS | CLONE_FILES | 0x800 | 0x1_0000 | 0x4_0000;

/// Where a thread stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// On its way to the barrier, or to its death.
    Running,
    /// At the barrier, or behind it.
    Arrived,
    /// At its end.
    Parked,
    /// A record has failed.
    Failed(Why),
}

impl Phase {
    /// Whether it has a record to play.
    pub fn is_on_its_way(&self) -> bool {
        match self {
            Phase::Running | Phase::Arrived => true,
            Phase::Parked | Phase::Failed(_) => false,
        }
    }
}

/// A thread.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Thread {
    /// The process that it belongs to.
    pub process: u32,
    /// The next record, by its index in the tape.
    pub record: u32,
    /// How much of the call that it makes is done.
    pub progress: usize,
    /// The description that an `open` which waits has made already.
    pub opening: Option<DescId>,
    /// Where it stands.
    pub phase: Phase,
    /// Its descriptor table.
    pub table: TableId,
    /// Its working directory, root and umask.
    pub directory: Made,
    /// Its IPC namespace; `None`: the caller's.
    pub ipc: Option<Made>,
    /// Signals that wait for it alone.
    pub pending: Pending,
    /// Blocked signals; bit 0 is signal 1.
    pub mask: u64,
    /// Credentials.
    pub credentials: Credentials,
    /// seccomp.
    pub seccomp: Seccomp,
    /// The rest.
    pub attributes: ThreadAttributes,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Process {
    /// Its parent; 0: the launcher, or somebody above it.
    pub parent: u32,
    /// The signal that its parent gets when it dies.
    pub exit_signal: u32,
    /// Session.
    pub sid: u32,
    /// Process group.
    pub pgid: u32,
    /// How it died, as `wait4(2)` gives it; `None`: it lives.
    pub status: Option<u32>,
    /// Orphans below come to it.
    pub is_subreaper: bool,
    /// Its address space.
    pub space: SpaceId,
    /// Signals that wait for any of its threads.
    pub pending: Pending,
    /// What is done about signals, where that is not the default.
    pub actions: BTreeMap<u32, Action>,
    /// Limits, where there are any.
    pub limits: BTreeMap<u32, (u64, u64)>,
    /// Timers.
    pub timers: Timers,
    /// What was written to files below /proc/self that is the whole process's.
    pub settings: BTreeMap<Arc<[u8]>, Arc<[u8]>>,
}

impl World {
    /// A thread; the caller knows that it is there.
    pub(crate) fn thread(&self, tid: u32) -> &Thread {
        self.threads.get(&tid).expect("whoever makes a call is there")
    }

    pub(super) fn thread_mut(&mut self, tid: u32) -> &mut Thread {
        Arc::make_mut(self.threads.get_mut(&tid).expect("whoever makes a call is there"))
    }

    pub(crate) fn process_of(&self, tid: u32) -> &Process {
        self.processes.get(&self.thread(tid).process).expect("a thread has a process")
    }

    pub(super) fn process_mut(&mut self, tid: u32) -> &mut Process {
        let pid = self.thread(tid).process;
        Arc::make_mut(self.processes.get_mut(&pid).expect("a thread has a process"))
    }

    /// The launcher makes the root, by `clone3` from a process of which little is known.
    pub(super) fn launch(&mut self, birth: &Birth) -> Call<()> {
        if birth.flags & !CLONE_PARENT != 0 {
            return not_modelled(format!("flags {:#x} for the root", birth.flags));
        }
        let host = &self.ground.host;
        let first = |nth| Made { tid: 0, record: 0, nth };
        let (table, space, directory) = (TableId(first(0)), SpaceId(first(0)), first(0));
        // With CLONE_PARENT it gets the launcher's own (clone(2)).
        let exit_signal = if birth.flags & CLONE_PARENT != 0 { SIGCHLD } else { birth.exit_signal as u32 };
        let process = Process {
            parent: 0,
            exit_signal,
            sid: host.sid,
            pgid: host.pgid,
            status: None,
            is_subreaper: false,
            space,
            pending: Pending::default(),
            actions: BTreeMap::new(),
            limits: host.limits.clone(),
            timers: Timers::default(),
            settings: BTreeMap::new(),
        };
        let thread = Thread {
            process: birth.pid,
            record: 0,
            progress: 0,
            opening: None,
            phase: Phase::Running,
            table,
            directory,
            ipc: None,
            pending: Pending::default(),
            mask: 0,
            credentials: Credentials::root(host.capabilities),
            seccomp: Seccomp::default(),
            attributes: ThreadAttributes::default(),
        };
        self.processes.insert(birth.pid, Arc::new(process));
        self.threads.insert(birth.pid, Arc::new(thread));
        self.directories.insert(directory, Arc::new(Directory::default()));
        self.launch_table(table);
        self.launch_space(space);
        Ok(())
    }

    pub(super) fn fork(&mut self, tid: u32, birth: &Birth) -> Call<i64> {
        let is_thread = birth.flags == THREAD_FLAGS;
        // It lives in its forker's address space, and shares nothing else.
        let is_guest = birth.flags == CLONE_VM;
        if !is_thread && !is_guest && birth.flags & !(CLONE_FILES | CLONE_PARENT | CLONE_FS) != 0 {
            return not_modelled(format!("flags {:#x}", birth.flags));
        }
        if birth.cgroup.is_some() {
            return not_modelled("a birth in another cgroup");
        }
        // `clone3_args_valid`.
        if (is_thread || birth.flags & CLONE_PARENT != 0) && birth.exit_signal != 0 {
            return fails(EINVAL);
        }
        if birth.pid == 0 || birth.pid >= self.ground.host.pid_max || birth.exit_signal > 64 {
            return fails(EINVAL);
        }
        self.read(Thing::Thread(tid));
        let capabilities = self.thread(tid).credentials.effective;
        if capabilities & (CAP_SYS_ADMIN | CAP_CHECKPOINT_RESTORE) == 0 {
            return fails(EPERM);
        }
        self.write(Thing::Number(birth.pid));
        self.write(Thing::Birth(birth.pid));
        self.read(Thing::Group(birth.pid));
        if self.is_taken(birth.pid) {
            return fails(EEXIST);
        }
        let made = Made { tid: birth.pid, record: 0, nth: u32::MAX };
        let forker = self.thread(tid).clone();
        let pid = forker.process;
        let process = self.process_of(tid).clone();
        self.read(Thing::Process(pid));
        self.write(Thing::Life(birth.pid));

        let table = if birth.flags & CLONE_FILES != 0 {
            self.note(Thing::Sharers(forker.table), Access::Add);
            forker.table
        } else {
            self.copy_table(forker.table, TableId(made));
            TableId(made)
        };
        self.read(Thing::Directory(forker.directory));
        let directory = if birth.flags & CLONE_FS != 0 {
            forker.directory
        } else {
            let copy = self.directories.get(&forker.directory).cloned().unwrap_or_default();
            self.directories.insert(made, copy);
            made
        };
        let born = Thread {
            process: if is_thread { pid } else { birth.pid },
            record: 0,
            progress: 0,
            opening: None,
            phase: Phase::Running,
            table,
            directory,
            ipc: forker.ipc,
            pending: Pending::default(),
            mask: forker.mask,
            credentials: forker.credentials,
            seccomp: forker.seccomp,
            attributes: forker.attributes.born(is_thread),
        };
        self.threads.insert(birth.pid, Arc::new(born));
        if is_thread {
            return Ok(birth.pid.into());
        }

        self.read(Thing::Kin(pid));
        self.note(Thing::Group(process.pgid), Access::Add);
        let (parent, exit_signal) = if birth.flags & CLONE_PARENT == 0 {
            (pid, birth.exit_signal as u32)
        } else {
            self.read(Thing::Life(pid));
            (process.parent, process.exit_signal)
        };
        self.note(Thing::Children(parent), Access::Add);
        let space = if is_guest {
            self.read(Thing::Space(process.space));
            process.space
        } else {
            self.copy_space(process.space, SpaceId(made))
        };
        let child = Process {
            parent,
            exit_signal,
            status: None,
            is_subreaper: false,
            space,
            pending: Pending::default(),
            timers: Timers::default(),
            ..process
        };
        self.processes.insert(birth.pid, Arc::new(child));
        Ok(birth.pid.into())
    }

    /// Whether a number is that of a process, thread, group or session: struct pid lives as long as any
    /// of them uses it.
    fn is_taken(&self, number: u32) -> bool {
        self.threads.contains_key(&number)
            || self.processes.contains_key(&number)
            || self.processes.values().any(|process| process.pgid == number || process.sid == number)
    }

    /// `exit_group(2)`, or what a deadly signal does.
    pub(super) fn exit(&mut self, tid: u32, status: u32) -> Call<i64> {
        let pid = self.thread(tid).process;
        // What it has is given back.
        let threads: Vec<u32> =
            self.threads.iter().filter(|(_, thread)| thread.process == pid).map(|(tid, _)| *tid).collect();
        let tables: Vec<TableId> = threads.iter().map(|tid| self.thread(*tid).table).collect();
        for other in &threads {
            self.write(Thing::Thread(*other));
            if *other != pid {
                self.write(Thing::Number(*other));
            }
            self.threads.remove(other);
        }
        for table in tables {
            self.leave_table(table);
        }

        // Its children come to another.
        self.write(Thing::Children(pid));
        self.read(Thing::Life(pid));
        let mut reaper = self.processes.get(&pid).map_or(0, |process| process.parent);
        while reaper != 0 {
            self.read(Thing::Life(reaper));
            self.read(Thing::Subreaper(reaper));
            match self.processes.get(&reaper) {
                Some(process) if process.is_subreaper && process.status.is_none() => break,
                Some(process) => reaper = process.parent,
                None => reaper = 0,
            }
        }
        let children: Vec<u32> = self
            .processes
            .iter()
            .filter(|(_, process)| process.parent == pid)
            .map(|(child, _)| *child)
            .collect();
        for child in children {
            self.write(Thing::Life(child));
            self.note(Thing::Children(reaper), Access::Add);
            self.read(Thing::Thread(child));
            let wants_signal =
                self.threads.get(&child).is_some_and(|thread| thread.attributes.parent_death_signal != 0);
            if wants_signal {
                return not_modelled(format!("the parent-death signal of {child}"));
            }
            let process = Arc::make_mut(self.processes.get_mut(&child).expect("it is there"));
            process.parent = reaper;
            // `reparent_leader`: "We don't want people slaying init".
            process.exit_signal = SIGCHLD;
            if process.status.is_some() {
                self.notify(child);
            }
        }

        self.write(Thing::Death(pid));
        let process = Arc::make_mut(self.processes.get_mut(&pid).expect("a thread has a process"));
        process.status = Some(status);
        process.pending = Pending::default();
        process.timers = Timers::default();
        process.actions = BTreeMap::new();
        process.settings = BTreeMap::new();
        process.limits = BTreeMap::new();
        process.is_subreaper = false;
        let space = std::mem::take(&mut process.space);
        if !self.processes.values().any(|other| other.status.is_none() && other.space == space) {
            self.spaces.remove(&space);
        }
        self.notify(pid);
        Ok(0)
    }

    /// Tells the parent of a dead process; if that does not want to know, nothing is left
    /// (kernel/signal.c, `do_notify_parent`).
    fn notify(&mut self, pid: u32) {
        let Some(process) = self.processes.get(&pid) else { return };
        let (parent, signal) = (process.parent, process.exit_signal);
        if parent == 0 || signal == 0 {
            return;
        }
        self.read(Thing::Process(parent));
        let Some(above) = self.processes.get(&parent).filter(|above| above.status.is_none()) else { return };
        let discards =
            signal == SIGCHLD && above.actions.get(&SIGCHLD).is_some_and(Action::discards_children);
        let ignores =
            signal == SIGCHLD && above.actions.get(&SIGCHLD).is_some_and(|action| action.handler == 1);
        if !ignores {
            self.signal_process(parent, signal, None);
        }
        if discards {
            self.bury(pid);
        }
    }

    /// Nothing is left of a dead process.
    fn bury(&mut self, pid: u32) {
        self.write(Thing::Life(pid));
        self.write(Thing::Number(pid));
        if let Some(process) = self.processes.remove(&pid) {
            self.write(Thing::Kin(pid));
            self.note(Thing::Group(process.pgid), Access::Add);
            self.note(Thing::Children(process.parent), Access::Add);
        }
    }

    pub(super) fn await_exit(&mut self, tid: u32, child: u32, reap: bool) -> Call<i64> {
        let pid = self.thread(tid).process;
        self.read(Thing::Life(child));
        let process = self.processes.get(&child).filter(|process| process.parent == pid).cloned();
        let Some(process) = process else { return fails(ECHILD) };
        // Tapes reap with __WALL; without it only children that send SIGCHLD count (`eligible_child`).
        if !reap && process.exit_signal != SIGCHLD {
            return fails(ECHILD);
        }
        self.read(Thing::Death(child));
        if process.status.is_none() {
            return Err(Stop::Blocked);
        }
        if reap {
            self.bury(child);
        }
        Ok(0)
    }

    pub(super) fn set_sid(&mut self, tid: u32) -> Call<i64> {
        let pid = self.thread(tid).process;
        self.write(Thing::Kin(pid));
        self.note(Thing::Group(pid), Access::Write);
        let is_led = self.processes.values().any(|process| process.pgid == pid);
        let process = self.process_of(tid);
        if is_led || process.sid == pid {
            return fails(EPERM);
        }
        let left = process.pgid;
        self.note(Thing::Group(left), Access::Add);
        let process = self.process_mut(tid);
        (process.sid, process.pgid) = (pid, pid);
        Ok(pid.into())
    }

    pub(super) fn set_pgid(&mut self, tid: u32, pgid: u32) -> Call<i64> {
        let pid = self.thread(tid).process;
        self.write(Thing::Kin(pid));
        let process = self.process_of(tid);
        let (sid, left) = (process.sid, process.pgid);
        if sid == pid {
            return fails(EPERM);
        }
        if pgid != pid {
            // Its leader shows that a group is there as well as any other member does.
            self.read(Thing::Kin(pgid));
            let leader = self.processes.get(&pgid).filter(|leader| leader.pgid == pgid);
            let group_sid = match leader {
                Some(leader) => Some(leader.sid),
                None => {
                    self.read(Thing::Group(pgid));
                    let host = &self.ground.host;
                    let member = self.processes.values().find(|process| process.pgid == pgid);
                    let outside = pgid == host.pgid || pgid == host.sid;
                    member.map(|member| member.sid).or(outside.then_some(host.sid))
                }
            };
            if group_sid != Some(sid) {
                return fails(EPERM);
            }
        }
        self.note(Thing::Group(left), Access::Add);
        self.note(Thing::Group(pgid), Access::Add);
        self.process_mut(tid).pgid = pgid;
        Ok(0)
    }

    pub(super) fn arrive(&mut self, tid: u32) -> Call<i64> {
        if self.thread(tid).phase == Phase::Arrived {
            return not_modelled("arrives twice");
        }
        self.write(Thing::Arrival(tid));
        self.thread_mut(tid).phase = Phase::Arrived;
        Ok(0)
    }

    /// Whoever has arrived goes on when the barrier has been released.
    pub(super) fn await_release(&mut self, tid: u32) -> Call<()> {
        if self.thread(tid).phase != Phase::Arrived {
            return Ok(());
        }
        self.read(Thing::Release);
        if self.is_released { Ok(()) } else { Err(Stop::Blocked) }
    }

    /// The coordinator's step: when as many as there are to be have arrived, they are let go.
    pub(super) fn release(&mut self) -> Step {
        let mut footprint = Footprint::default();
        let arrived: Vec<u32> = self
            .threads
            .iter()
            .filter(|(_, thread)| thread.phase == Phase::Arrived)
            .map(|(tid, _)| *tid)
            .collect();
        for tid in self.ground.effects.keys() {
            footprint.note(Thing::Arrival(*tid), Access::Read);
        }
        footprint.note(Thing::Release, Access::Write);
        let is_complete = arrived.len() as u64 >= u64::from(self.ground.total);
        let outcome = if is_complete && !self.is_released {
            self.is_released = true;
            Outcome::Ended
        } else {
            Outcome::Blocked
        };
        Step { outcome, result: COORDINATOR.into(), footprint }
    }

    pub(super) fn park(&mut self, tid: u32) -> Call<i64> {
        if self.thread(tid).phase != Phase::Arrived {
            return not_modelled("parks before the barrier");
        }
        self.thread_mut(tid).phase = Phase::Parked;
        Ok(0)
    }

    /// Whether `pid` is the number of a process or thread, or of a group; and that it was looked at.
    pub(super) fn check_target(&mut self, pid: u32, is_group: bool) -> Call<()> {
        let is_there = if is_group {
            self.read(Thing::Kin(pid));
            let is_led = self.processes.get(&pid).is_some_and(|process| process.pgid == pid);
            if !is_led {
                self.read(Thing::Group(pid));
            }
            is_led || self.processes.values().any(|process| process.pgid == pid)
        } else {
            self.read(Thing::Life(pid));
            self.threads.contains_key(&pid) || self.processes.contains_key(&pid)
        };
        if is_there { Ok(()) } else { fails(ESRCH) }
    }
}
