//! What records do to attributes.
//!
//! An attribute of the task as a whole is set by its first thread: what several threads set at the same
//! time would have no certain end. Dumpable alone cannot be kept to that, because every thread's change
//! of credentials resets it: of what threads do to it behind the barrier each one's last word is kept,
//! and in the end all of them must be the same.

use std::collections::BTreeMap;

use super::state::Certainty;
use super::value::{Action, Limit, Pending, Timer, UNBLOCKABLE, Value, timer_event};
use super::{AttributeKind as Kind, Cleared, OnCredentials, Scope, TABLE};
use crate::ids::Fd;
use crate::verify::before::At;
use crate::verify::effect::{Attribute, PrivilegeEffect};
use crate::verify::expected::{ExpectedHierarchy, InodeKind};
use crate::verify::object::ObjectKind;
use crate::verify::outcome::Wrong;
use crate::verify::run::{Phase, Role, Run, SIGCHLD};
use crate::verify::table::Desc;

/// The file of a cgroup that holds its tasks.
const CGROUP_PROCS: &[u8] = b"/cgroup.procs";
/// The first signal of which more than one can wait.
const SIGRTMIN: u32 = 32;
const SCHED_DEADLINE: u64 = 6;

impl Run<'_> {
    /// The tape of the first thread of a thread's task.
    pub(in crate::verify) fn leader(&self, task: usize) -> usize {
        match self.roles[task] {
            Role::Thread(of) => self.by_pid.get(&of.pid).copied().unwrap_or(task),
            Role::Task(_) | Role::Helper => task,
        }
    }

    /// The working directory, as long as names start where they did.
    pub(in crate::verify) fn working_directory(&self, task: usize) -> Option<&[u8]> {
        let state = &self.tasks[self.leader(task)].attributes;
        match (state.value(Kind::WorkingDirectory), self.root_is_moved(task)) {
            (Value::Bytes(path), false) => Some(path),
            _ => None,
        }
    }

    fn root_is_moved(&self, task: usize) -> bool {
        let root = self.tasks[self.leader(task)].attributes.value(Kind::RootDirectory);
        matches!(root, Value::Bytes(path) if **path != *b"/")
    }

    /// A task may not be forked from where the kernel refuses it.
    pub(in crate::verify) fn check_policy(&self, task: usize) -> Result<(), Wrong> {
        match self.tasks[task].attributes.value(Kind::Scheduler) {
            Value::Numbers(now) if now[0] == SCHED_DEADLINE => {
                Err(Wrong::Refused { call: "clone3", what: "a task of the policy SCHED_DEADLINE".to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Sets an attribute of the calling thread or of its task.
    fn set(&mut self, at: At, call: &'static str, kind: Kind, value: Value) -> Result<(), Wrong> {
        let task = self.own_place(at, call, kind)?;
        self.tasks[task].attributes.set(kind, value);
        Ok(())
    }

    /// Whose state has the attribute.
    fn own_place(&self, at: At, call: &'static str, kind: Kind) -> Result<usize, Wrong> {
        let is_thread = matches!(self.roles[at.task], Role::Thread(_));
        if is_thread && kind.row().scope == Scope::Task {
            return Err(Wrong::ByThread { call });
        }
        Ok(at.task)
    }

    pub(in crate::verify) fn set_attribute(
        &mut self,
        at: At,
        call: &'static str,
        attribute: &Attribute,
    ) -> Result<(), Wrong> {
        let not_modelled = |what: &str| Err(Wrong::NotModelled { call, what: what.to_owned() });
        let (kind, value) = match attribute {
            Attribute::Name(name) => (Kind::Name, Value::bytes(name)),
            Attribute::Umask(mask) => (Kind::Umask, Value::Number(u64::from(*mask))),
            Attribute::WorkingDirectory(_) if self.root_is_moved(at.task) => {
                return not_modelled("a path below another root");
            }
            Attribute::WorkingDirectory(path) => {
                let made = self.made_names.get(path).copied().filter(|name| name.is_there);
                if let Some(name) = made {
                    self.order(name.last, at, call, || path.escape_ascii().to_string())?;
                }
                match made {
                    None => (Kind::WorkingDirectory, Value::bytes(path)),
                    Some(name) => match name.object.filter(|_| name.is_directory) {
                        Some(object) => (Kind::WorkingDirectory, Value::Made(object)),
                        None => return not_modelled("a directory that is there for a while only"),
                    },
                }
            }
            // What is opened by name after it would be something else.
            Attribute::RootDirectory(_)
                if self.tasks[at.task].phase != Phase::Tail || self.root_is_moved(at.task) =>
            {
                return not_modelled("a change of root before the barrier, or a second one");
            }
            Attribute::RootDirectory(path) => (Kind::RootDirectory, Value::bytes(path)),
            Attribute::Personality(persona) => (Kind::Personality, Value::Number(u64::from(*persona))),
            Attribute::Dumpable(value) => return self.set_dumpable(at, Value::Number(*value)),
            // The death of a helper would send it.
            Attribute::ParentDeathSignal(signal) if *signal != 0 && self.parent_may_die(at) => {
                return not_modelled("a signal for the death of a parent that dies before the barrier");
            }
            Attribute::ParentDeathSignal(signal) => (Kind::ParentDeathSignal, Value::Number(*signal)),
            Attribute::Subreaper(is) => {
                self.become_subreaper(at, *is)?;
                (Kind::Subreaper, Value::Number((*is).into()))
            }
            Attribute::ThpDisable(is) => (Kind::ThpDisable, Value::Number((*is).into())),
            Attribute::TimerSlack(slack_ns) => {
                self.tasks[at.task].attributes.set_timer_slack(*slack_ns);
                return Ok(());
            }
            Attribute::TimerIds(chosen) => (Kind::TimerIds, Value::Number((*chosen).into())),
            Attribute::SigAction { signal, handler, flags, restorer, mask } => {
                let action = Action {
                    handler: *handler,
                    flags: *flags,
                    restorer: *restorer,
                    // The kernel leaves those two out (sigaction(2)).
                    mask: mask & !UNBLOCKABLE,
                };
                return self.set_action(at, call, *signal, action);
            }
            Attribute::SigMask { how, set } => return self.set_mask(at, call, *how, *set),
            Attribute::EatSignal { set } => return self.eat_signal(at, call, *set),
            Attribute::AltStack { sp, flags, len } => (Kind::AltStack, Value::alt_stack(*sp, *flags, *len)),
            Attribute::RobustList { head, len } => (Kind::RobustList, Value::robust_list(*head, *len)),
            Attribute::TidAddress(address) => (Kind::TidAddress, Value::Number(*address)),
            Attribute::Rseq { address, len, flags, signature } => match flags {
                0 => (Kind::Rseq, Value::rseq(*address, *len, *signature)),
                1 => (Kind::Rseq, Value::Nothing),
                flags => return not_modelled(&format!("flags {flags:#x}")),
            },
            // A barrier, and no registration.
            Attribute::Membarrier(2) => return Ok(()),
            Attribute::Membarrier(command) => {
                self.own_place(at, call, Kind::Membarrier)?;
                self.tasks[at.task].attributes.register(*command);
                return Ok(());
            }
            Attribute::IntervalTimer { which, interval_us, value_us } => {
                let words = match self.tasks[at.task].attributes.value(Kind::IntervalTimers) {
                    Value::Nothing => [0; 6],
                    Value::Numbers(words) => std::array::from_fn(|at| words.get(at).copied().unwrap_or(0)),
                    _ => return not_modelled("timers that are not known"),
                };
                let [a, b, c, d, e, f] = words;
                let mut timers = [(a, b), (c, d), (e, f)];
                let Some(timer) = timers.get_mut(*which as usize) else {
                    return not_modelled(&format!("timer {which}"));
                };
                *timer = (*interval_us, *value_us);
                (Kind::IntervalTimers, Value::interval_timers(timers))
            }
            Attribute::TimerCreate { clock, event, id } => {
                if self.tasks[at.task].attributes.number(Kind::TimerIds) != Some(1) {
                    return not_modelled("an id that the kernel chooses");
                }
                self.own_place(at, call, Kind::PosixTimers)?;
                let timer = Timer { clock: *clock, event: sigevent(event, *id), times_ns: (0, 0) };
                if self.tasks[at.task].attributes.timers().insert(*id, timer).is_some() {
                    return Err(Wrong::Refused { call, what: format!("a second timer with the id {id}") });
                }
                return Ok(());
            }
            Attribute::TimerSet { id, flags, interval_ns, value_ns } => {
                if *flags != 0 {
                    return not_modelled(&format!("flags {flags:#x}"));
                }
                self.own_place(at, call, Kind::PosixTimers)?;
                let timers = self.tasks[at.task].attributes.timers();
                let Some(timer) = timers.get_mut(id) else {
                    return Err(Wrong::Refused { call, what: format!("timer {id}, which does not exist") });
                };
                // Disarmed it forgets its interval (kernel/time/posix-timers.c, `common_timer_set`).
                timer.times_ns = if *value_ns == 0 { (0, 0) } else { (*interval_ns, *value_ns) };
                return Ok(());
            }
            Attribute::QueueSignal { pid, tid, signal, info } => {
                return self.queue_signal(at, call, (*pid, *tid), *signal, info);
            }
            Attribute::Nice(nice) => (Kind::Nice, Value::signed(*nice)),
            Attribute::Scheduler { policy, priority } => {
                self.tasks[at.task].attributes.set_scheduler(*policy, *priority);
                return Ok(());
            }
        };
        self.set(at, call, kind, value)
    }

    fn set_action(&mut self, at: At, call: &'static str, signal: u32, action: Action) -> Result<(), Wrong> {
        /// Signals that are ignored by default: SIGCHLD, SIGCONT, SIGURG, SIGWINCH.
        const IGNORED: [u32; 4] = [17, 18, 23, 28];
        self.own_place(at, call, Kind::SigActions)?;
        if self.tasks[at.task].has_threads {
            let what = "an action while other threads run".to_owned();
            return Err(Wrong::NotModelled { call, what });
        }
        let state = &mut self.tasks[at.task].attributes;
        state.set_action(signal, action);
        // A signal that is ignored from now on waits no more (POSIX 3.3.1.3; kernel/signal.c,
        // `do_sigaction`).
        if action.handler == 1 || action.handler == 0 && IGNORED.contains(&signal) {
            for kind in [Kind::PendingShared, Kind::Pending] {
                if let Value::Signals(signals) = state.value(kind) {
                    let rest: Vec<Pending> =
                        signals.iter().filter(|pending| pending.signal != signal).cloned().collect();
                    state.set(kind, Value::signals(rest));
                }
            }
        }
        Ok(())
    }

    fn set_mask(&mut self, at: At, call: &'static str, how: u32, set: u64) -> Result<(), Wrong> {
        let now = self.tasks[at.task].attributes.number(Kind::SigMask);
        let mask = match how {
            0 => now.map(|now| now | set),
            1 => now.map(|now| now & !set),
            _ => Some(set),
        };
        let mask = mask.map(|mask| mask & !UNBLOCKABLE);
        // Until the commit nothing may come through to a task that lives on.
        if self.roles[at.task].is_alive() && mask != Some(!UNBLOCKABLE) {
            let what = "letting signals through in a task that lives on".to_owned();
            return Err(Wrong::NotModelled { call, what });
        }
        self.set(at, call, Kind::SigMask, mask.map_or(Value::Unknown, Value::Number))
    }

    /// Takes back the SIGCHLD of children that certainly have died.
    fn eat_signal(&mut self, at: At, call: &'static str, set: u64) -> Result<(), Wrong> {
        let waits = |kind: Kind| match self.tasks[at.task].attributes.value(kind) {
            Value::Signals(signals) => signals.iter().any(|pending| set & bit(pending.signal) != 0),
            _ => false,
        };
        if waits(Kind::PendingShared) || waits(Kind::Pending) {
            let what = "taking back a signal that the images may want".to_owned();
            return Err(Wrong::NotModelled { call, what });
        }
        if set & bit(SIGCHLD) != 0 {
            self.tasks[at.task].has_sigchld = false;
        }
        Ok(())
    }

    fn queue_signal(
        &mut self,
        at: At,
        call: &'static str,
        (pid, tid): (u32, Option<u32>),
        signal: u32,
        info: &[u8],
    ) -> Result<(), Wrong> {
        let bad = |why| Err(Wrong::BadSignal { signal, why });
        let whole = self.pid(self.leader(at.task));
        if pid != whole || tid.is_some_and(|tid| tid != self.pid(at.task)) {
            return bad("to another task");
        }
        if bit(signal) == 0 {
            return bad("which does not exist");
        }
        if bit(signal) & UNBLOCKABLE != 0 || !self.tasks[at.task].attributes.blocks(bit(signal)) {
            return bad("which is not blocked");
        }
        let kind = if tid.is_some() { Kind::Pending } else { Kind::PendingShared };
        self.own_place(at, call, kind)?;
        let signals = self.tasks[at.task].attributes.signals(kind);
        // Of a standard signal only one waits, the first (signal(7)).
        if signal >= SIGRTMIN || signals.iter().all(|pending| pending.signal != signal) {
            signals.push(Pending { signal, info: info.into() });
        }
        Ok(())
    }

    pub(in crate::verify) fn change_privileges(
        &mut self,
        at: At,
        call: &'static str,
        effect: &PrivilegeEffect,
    ) -> Result<(), Wrong> {
        if let PrivilegeEffect::Limit { resource, soft, hard } = effect {
            self.own_place(at, call, Kind::Limits)?;
            let state = &mut self.tasks[at.task].attributes;
            let may_raise = state.may_raise_limits();
            return state.set_limit(*resource, Limit::new(*soft, *hard), may_raise).map_err(|now| {
                Wrong::OneWay { what: format!("resource limit {resource}"), from: now.hard, to: *hard }
            });
        }
        if let Some(what) = self.tasks[at.task].attributes.refuses_capabilities(effect) {
            return Err(Wrong::Refused { call, what });
        }
        let reset = self.tasks[at.task].attributes.change_credentials(effect);
        for row in TABLE.iter().filter(|row| row.on_credentials == OnCredentials::Reset) {
            let left = match (row.kind, row.cleared) {
                // kernel/cred.c, `commit_creds`: to what the host says.
                (Kind::Dumpable, _) => self.expected.facts.suid_dumpable.map(u64::from),
                (_, Cleared::Zero | Cleared::Nothing) => Some(0),
            };
            let left = left.map_or(Value::Unknown, Value::Number);
            let now = self.dumpable_or(at.task, row.kind);
            let value = match reset {
                Certainty::No => continue,
                Certainty::Yes => left,
                Certainty::Maybe if now == left => continue,
                Certainty::Maybe => Value::Unknown,
            };
            match row.kind {
                Kind::Dumpable => self.set_dumpable(at, value)?,
                kind => self.set(at, call, kind, value)?,
            }
        }
        Ok(())
    }

    fn dumpable_or(&self, task: usize, kind: Kind) -> Value {
        match (kind, &self.tasks[task].dumpable_in_tail) {
            (Kind::Dumpable, Some(value)) => value.clone(),
            (Kind::Dumpable, None) => self.tasks[self.leader(task)].attributes.value(kind).clone(),
            (kind, _) => self.tasks[task].attributes.value(kind).clone(),
        }
    }

    fn set_dumpable(&mut self, at: At, value: Value) -> Result<(), Wrong> {
        let leader = self.leader(at.task);
        if self.tasks[at.task].phase == Phase::Tail {
            self.tasks[at.task].dumpable_in_tail = Some(value);
        } else if leader == at.task && !self.tasks[leader].has_threads {
            self.tasks[leader].attributes.set(Kind::Dumpable, value);
        } else {
            // Others may be at it at the same time.
            self.tasks[leader].attributes.set(Kind::Dumpable, Value::Unknown);
        }
        Ok(())
    }

    /// What is left of dumpable, whatever thread was the last.
    pub(in crate::verify) fn dumpable_at_the_end(&self, leader: usize, threads: &[u32]) -> Value {
        let tapes =
            std::iter::once(leader).chain(threads.iter().filter_map(|tid| self.by_pid.get(tid).copied()));
        let mut said = tapes.filter_map(|tape| self.tasks[tape].dumpable_in_tail.as_ref());
        match said.next() {
            None => self.tasks[leader].attributes.value(Kind::Dumpable).clone(),
            Some(first) if said.all(|other| other == first) => first.clone(),
            Some(_) => Value::Unknown,
        }
    }

    /// What is written to a file of `/proc/self`, as the kernel reads it. The file is that of the task
    /// that has opened it.
    pub(in crate::verify) fn write_attribute(
        &mut self,
        at: At,
        call: &'static str,
        desc: Desc,
        name: &[u8],
        data: &[u8],
    ) -> Result<(), Wrong> {
        let what = || self.describe(desc);
        let opener = self.objects.object_of(desc).made.task;
        if opener != at.task || matches!(self.roles[at.task], Role::Thread(_)) {
            return Err(Wrong::NotModelled { call, what: format!("{}, of another task", what()) });
        }
        let text = std::str::from_utf8(data).ok().map(str::trim);
        let refused = || Wrong::Refused { call, what: format!("{} to {}", data.escape_ascii(), what()) };
        let (kind, value) = match name {
            b"oom_score_adj" => {
                let number: i32 = text.and_then(|text| text.parse().ok()).ok_or_else(refused)?;
                if !(-1000..=1000).contains(&number) {
                    return Err(refused());
                }
                (Kind::OomScoreAdj, Value::signed(number))
            }
            b"loginuid" => {
                let uid: u32 = text.and_then(|text| text.parse().ok()).ok_or_else(refused)?;
                (Kind::LoginUid, Value::Number(u64::from(uid)))
            }
            b"comm" => (Kind::Name, Value::bytes(data.get(..15).unwrap_or(data))),
            _ => return Err(Wrong::NotModelled { call, what: what() }),
        };
        self.set(at, call, kind, value)
    }

    /// The cgroup whose directory this is, with its hierarchy. Of mounts below one another the innermost counts.
    fn cgroup_at(&self, directory: &[u8]) -> Option<(&ExpectedHierarchy, String)> {
        let found = self
            .expected
            .hierarchies
            .iter()
            .filter_map(|hierarchy| Some((hierarchy, hierarchy.cgroup_at(directory)?)));
        found.max_by_key(|(hierarchy, _)| hierarchy.point.len())
    }

    /// Whether a path is the directory of a cgroup.
    pub(in crate::verify) fn is_cgroup(&self, path: &[u8]) -> bool {
        self.cgroup_at(path).is_some()
    }

    /// Whether a path is the file of a cgroup to which the tasks are written that come into it.
    pub(in crate::verify) fn is_cgroup_file(&self, path: &[u8]) -> bool {
        path.strip_suffix(CGROUP_PROCS).is_some_and(|directory| self.cgroup_at(directory).is_some())
    }

    /// What is written to such a file: a 0 moves the task that writes it, with all its threads (cgroups(7)). Of those
    /// who move into a cgroup nobody is first.
    pub(in crate::verify) fn enter_cgroup(
        &mut self,
        at: At,
        call: &'static str,
        path: &[u8],
        data: &[u8],
    ) -> Result<(), Wrong> {
        let not_modelled = |what: String| Err(Wrong::NotModelled { call, what });
        let shown = path.escape_ascii();
        if data.trim_ascii_end() != b"0" {
            return not_modelled(format!("{} written to {shown}: another task", data.escape_ascii()));
        }
        // Who has arrived may have given up what it takes.
        if self.tasks[at.task].phase == Phase::Tail {
            return not_modelled(format!("a write to {shown} behind the barrier"));
        }
        let directory = path.strip_suffix(CGROUP_PROCS).unwrap_or(path);
        let Some((hierarchy, cgroup)) = self.cgroup_at(directory) else {
            return not_modelled(format!("a write to {shown}"));
        };
        let name = hierarchy.name.clone();
        let task = self.own_place(at, call, Kind::Cgroups)?;
        self.put_into_cgroup(task, call, name, cgroup)
    }

    /// The cgroup of version 2 whose directory a descriptor is, with its hierarchy (clone(2), `CLONE_INTO_CGROUP`).
    pub(in crate::verify) fn cgroup_behind(
        &mut self,
        at: At,
        call: &'static str,
        fd: Fd,
    ) -> Result<(String, String), Wrong> {
        let desc = self.descriptor(at, call, fd)?;
        let object = self.objects.description(desc).object;
        let found = match &self.objects.objects[object].kind {
            ObjectKind::File { path } => self.cgroup_at(path),
            _ => None,
        };
        let second = found.filter(|(hierarchy, _)| hierarchy.name.is_empty());
        let named = second.map(|(hierarchy, cgroup)| (hierarchy.name.clone(), cgroup));
        named.ok_or_else(|| Wrong::Refused { call, what: self.describe(desc) })
    }

    /// A task is in a cgroup from now on.
    pub(in crate::verify) fn put_into_cgroup(
        &mut self,
        task: usize,
        call: &'static str,
        hierarchy: String,
        cgroup: String,
    ) -> Result<(), Wrong> {
        let mut cgroups = match self.tasks[task].attributes.value(Kind::Cgroups) {
            Value::Nothing => BTreeMap::new(),
            Value::Cgroups(cgroups) => (**cgroups).clone(),
            _ => {
                let what = "a move of a task whose cgroups are unknown".to_owned();
                return Err(Wrong::NotModelled { call, what });
            }
        };
        let is_own = |known: &ExpectedHierarchy| known.name == hierarchy && known.own == cgroup;
        if self.expected.hierarchies.iter().any(is_own) {
            cgroups.remove(&hierarchy);
        } else {
            cgroups.insert(hierarchy, cgroup);
        }
        self.tasks[task].attributes.set(Kind::Cgroups, Value::cgroups(cgroups));
        Ok(())
    }

    /// `fchdir(2)`.
    pub(in crate::verify) fn enter(&mut self, at: At, call: &'static str, desc: Desc) -> Result<(), Wrong> {
        let object = self.objects.description(desc).object;
        let value = match &self.objects.objects[object].kind {
            ObjectKind::File { path } => Value::bytes(path),
            ObjectKind::Inode(inode) if inode.kind == InodeKind::Directory => Value::Made(object),
            ObjectKind::Inode(_)
            | ObjectKind::Pipe(_)
            | ObjectKind::Socket(_)
            | ObjectKind::Eventfd { .. }
            | ObjectKind::Epoll { .. }
            | ObjectKind::Timerfd { .. }
            | ObjectKind::Signalfd { .. }
            | ObjectKind::Segment(_)
            | ObjectKind::Userfault { .. } => {
                return Err(Wrong::Refused { call, what: self.describe(desc) });
            }
        };
        self.set(at, call, Kind::WorkingDirectory, value)
    }

    /// `PR_SET_MM_MAP`.
    pub(in crate::verify) fn set_layout(
        &mut self,
        at: At,
        call: &'static str,
        words: &[u64; 11],
        auxv: &[u8],
        exe: Option<Desc>,
    ) -> Result<(), Wrong> {
        self.set(at, call, Kind::MmLayout, Value::numbers(words))?;
        self.set(at, call, Kind::AuxiliaryVector, Value::bytes(auxv))?;
        if let Some(desc) = exe {
            self.check_executable_unmapped(at, call)?;
            let object = self.objects.description(desc).object;
            let value = match &self.objects.objects[object].kind {
                ObjectKind::File { path } => Value::bytes(path),
                _ => Value::Made(object),
            };
            self.set(at, call, Kind::Executable, value)?;
        }
        Ok(())
    }
}

impl Run<'_> {
    /// A task whose executable is still mapped cannot be given another, nor the same (`replace_mm_exe_file`,
    /// kernel/fork.c). Which one the launcher has is not known; nothing of it is mapped when all is unmapped.
    fn check_executable_unmapped(&self, at: At, call: &'static str) -> Result<(), Wrong> {
        let is = self.tasks[self.leader(at.task)].attributes.value(Kind::Executable);
        if self.maps(at.task, is) {
            let what = "an executable while the one before is mapped".to_owned();
            return Err(Wrong::Refused { call, what });
        }
        Ok(())
    }
}

fn bit(signal: u32) -> u64 {
    signal.checked_sub(1).and_then(|shift| 1u64.checked_shl(shift)).unwrap_or(0)
}

/// What of `struct sigevent` means something (sigevent(3type)): the value, the signal, how to tell, and
/// the thread where one is told. Without one the kernel raises SIGALRM with the timer's id.
fn sigevent(event: &[u8], id: u32) -> [u64; 4] {
    const SIGALRM: u64 = 14;
    let word = |at: usize| {
        let bytes = event.get(at..at + 4).and_then(|bytes| bytes.first_chunk::<4>());
        bytes.map_or(0, |bytes| u64::from(u32::from_ne_bytes(*bytes)))
    };
    if event.is_empty() {
        return [u64::from(id), SIGALRM, 0, 0];
    }
    timer_event(word(0) | word(4) << 32, word(8), word(12), word(16))
}
