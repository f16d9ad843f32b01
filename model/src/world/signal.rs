//! Signals: what is done about them, which are blocked, which wait.
//!
//! No tape runs a handler: a signal that would be delivered to one, or that would stop or kill
//! somebody else, is not modelled, and an error.
//!
//! # Sources
//! `signal(7)`, `sigaction(2)`, `sigprocmask(2)`, `rt_sigqueueinfo(2)`, `sigtimedwait(2)`, `core(5)`;
//! kernel/signal.c (`sig_ignored`, `legacy_queue`, `do_sigaction`, `next_signal`).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Call, World, fails, not_modelled};
use crate::errno::{EAGAIN, EINVAL};
use crate::footprint::{Access, Thing};

pub(super) const SIGCHLD: u32 = 17;
const SIGKILL: u32 = 9;
const SIGSTOP: u32 = 19;
const SA_NOCLDWAIT: u64 = 2;

/// What is done about a signal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Action {
    /// 0 the default, 1 to ignore, else an address.
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// The trampoline.
    pub restorer: u64,
    /// Signals blocked meanwhile.
    pub mask: u64,
}

impl Action {
    /// Whether children leave nothing behind when they die (`waitid(2)`).
    pub fn discards_children(&self) -> bool {
        self.handler == 1 || self.flags & SA_NOCLDWAIT != 0
    }
}

/// Signals that wait.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Pending {
    /// Those below 32, which wait once: signal, and what came with it (`None`: of the kernel).
    standard: BTreeSet<(u32, Option<Arc<[u8]>>)>,
    /// The others, in the order in which they came.
    queued: Vec<(u32, Option<Arc<[u8]>>)>,
}

impl Pending {
    fn add(&mut self, signal: u32, info: Option<Arc<[u8]>>) {
        if signal >= 32 {
            self.queued.push((signal, info));
        } else if !self.signals().any(|other| other == signal) {
            self.standard.insert((signal, info));
        }
    }

    /// The signals that wait, by number.
    pub fn signals(&self) -> impl Iterator<Item = u32> {
        self.standard.iter().chain(&self.queued).map(|(signal, _)| *signal)
    }

    /// What came with them: in the order in which they would be received.
    pub fn all(&self) -> impl Iterator<Item = (u32, Option<&[u8]>)> {
        let mut queued: Vec<_> = self.queued.iter().collect();
        queued.sort_by_key(|(signal, _)| *signal);
        self.standard.iter().chain(queued).map(|(signal, info)| (*signal, info.as_deref()))
    }

    fn discard(&mut self, signal: u32) {
        self.standard.retain(|(other, _)| *other != signal);
        self.queued.retain(|(other, _)| *other != signal);
    }

    /// Takes the first of a set away.
    fn take(&mut self, set: u64) -> Option<u32> {
        let signal = self.signals().filter(|signal| set & bit(*signal) != 0).min()?;
        if signal < 32 {
            self.discard(signal);
        } else if let Some(at) = self.queued.iter().position(|(other, _)| *other == signal) {
            self.queued.remove(at);
        }
        Some(signal)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.standard.is_empty() && self.queued.is_empty()
    }
}

fn bit(signal: u32) -> u64 {
    signal.checked_sub(1).and_then(|shift| 1u64.checked_shl(shift)).unwrap_or(0)
}

/// Signals whose default is to be ignored: SIGCHLD, SIGCONT, SIGURG, SIGWINCH.
fn is_ignored_by_default(signal: u32) -> bool {
    matches!(signal, 17 | 18 | 23 | 28)
}

/// SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU.
fn stops(signal: u32) -> bool {
    matches!(signal, 19..=22)
}

/// SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGXCPU, SIGXFSZ, SIGSYS.
fn dumps_core(signal: u32) -> bool {
    matches!(signal, 3..=8 | 11 | 24 | 25 | 31)
}

impl World {
    fn action(&self, pid: u32, signal: u32) -> Action {
        self.processes.get(&pid).and_then(|process| process.actions.get(&signal)).copied().unwrap_or_default()
    }

    /// Whether all threads of a process block a signal: any that does not takes it, if only to ignore it.
    fn all_block(&mut self, pid: u32, signal: u32) -> bool {
        let threads: Vec<u32> =
            self.threads.iter().filter(|(_, thread)| thread.process == pid).map(|(tid, _)| *tid).collect();
        for tid in &threads {
            self.read(Thing::Thread(*tid));
        }
        !threads.is_empty() && threads.iter().all(|tid| self.thread(*tid).mask & bit(signal) != 0)
    }

    /// A signal for any thread of a process: it waits if it is blocked, and is gone if nobody wants it.
    /// What would be delivered stays and is judged when somebody looks.
    pub(super) fn signal_process(&mut self, pid: u32, signal: u32, info: Option<Arc<[u8]>>) {
        self.read(Thing::Process(pid));
        self.read(Thing::Thread(pid));
        let action = self.action(pid, signal);
        let ignored = action.handler == 1 || action.handler == 0 && is_ignored_by_default(signal);
        let is_blocked = self.all_block(pid, signal);
        if ignored && !is_blocked {
            return;
        }
        let access = if signal < 32 && info.is_none() { Access::Add } else { Access::Write };
        self.note(Thing::Signals(pid), access);
        if let Some(process) = self.processes.get_mut(&pid) {
            Arc::make_mut(process).pending.add(signal, info);
        }
    }

    pub(super) fn kill_self(&mut self, tid: u32, signal: u32) -> Call<i64> {
        if signal == 0 || signal > 64 {
            return if signal == 0 { Ok(0) } else { fails(EINVAL) };
        }
        let pid = self.thread(tid).process;
        if signal != SIGKILL && signal != SIGSTOP {
            self.read(Thing::Process(pid));
            self.read(Thing::Thread(tid));
            let action = self.action(pid, signal);
            // It goes to any thread that has it unblocked: with several, which one is not for us to say.
            if self.all_block(pid, signal) || action.handler != 0 || is_ignored_by_default(signal) {
                self.signal_process(pid, signal, None);
                return Ok(0);
            }
        }
        if stops(signal) {
            return not_modelled(format!("signal {signal}, which stops"));
        }
        if dumps_core(signal) && self.space(tid).dumpable != 0 {
            return not_modelled(format!("signal {signal}, which may dump core"));
        }
        self.exit(tid, signal)
    }

    pub(super) fn set_action(&mut self, tid: u32, signal: u32, action: Action) -> Call<i64> {
        if signal == 0 || signal > 64 || signal == SIGKILL || signal == SIGSTOP {
            return fails(EINVAL);
        }
        let pid = self.thread(tid).process;
        self.write(Thing::Process(pid));
        // SIGKILL and SIGSTOP cannot be blocked.
        let action = Action { mask: action.mask & !(bit(SIGKILL) | bit(SIGSTOP)), ..action };
        let process = self.process_mut(tid);
        if action == Action::default() {
            process.actions.remove(&signal);
        } else {
            process.actions.insert(signal, action);
        }
        if action.handler == 1 || action.handler == 0 && is_ignored_by_default(signal) {
            self.write(Thing::Signals(pid));
            self.process_mut(tid).pending.discard(signal);
            let threads: Vec<u32> = self
                .threads
                .iter()
                .filter(|(_, thread)| thread.process == pid)
                .map(|(tid, _)| *tid)
                .collect();
            for thread in threads {
                self.write(Thing::ThreadSignals(thread));
                self.thread_mut(thread).pending.discard(signal);
            }
        }
        Ok(0)
    }

    pub(super) fn set_mask(&mut self, tid: u32, how: u32, set: u64) -> Call<i64> {
        self.write(Thing::Thread(tid));
        let old = self.thread(tid).mask;
        let new = match how {
            0 => old | set,
            1 => old & !set,
            2 => set,
            _ => return fails(EINVAL),
        } & !(bit(SIGKILL) | bit(SIGSTOP));
        self.thread_mut(tid).mask = new;
        let pid = self.thread(tid).process;
        self.write(Thing::Signals(pid));
        self.write(Thing::ThreadSignals(tid));
        let process = self.process_of(tid);
        let waits = process.pending.signals().chain(self.thread(tid).pending.signals());
        let free: Vec<u32> = waits.filter(|signal| new & bit(*signal) == 0).collect();
        for signal in free {
            self.read(Thing::Process(pid));
            let action = self.action(pid, signal);
            if action.handler != 1 && (action.handler != 0 || !is_ignored_by_default(signal)) {
                return not_modelled(format!("the delivery of signal {signal}"));
            }
            self.process_mut(tid).pending.discard(signal);
            self.thread_mut(tid).pending.discard(signal);
        }
        Ok(0)
    }

    /// `sigtimedwait(2)` that does not wait.
    pub(super) fn eat_signal(&mut self, tid: u32, set: u64) -> Call<i64> {
        let pid = self.thread(tid).process;
        self.write(Thing::ThreadSignals(tid));
        if let Some(signal) = self.thread_mut(tid).pending.take(set) {
            return Ok(signal.into());
        }
        self.write(Thing::Signals(pid));
        match self.process_mut(tid).pending.take(set) {
            Some(signal) => Ok(signal.into()),
            None => fails(EAGAIN),
        }
    }

    /// `rt_sigqueueinfo(2)`, `rt_tgsigqueueinfo(2)`.
    pub(super) fn queue_signal(
        &mut self,
        tid: u32,
        target: (u32, Option<u32>),
        signal: u32,
        info: &[u8],
    ) -> Call<i64> {
        if signal == 0 || signal > 64 {
            return fails(EINVAL);
        }
        let (pid, thread) = target;
        self.check_target(thread.unwrap_or(pid), false)?;
        let to = thread.unwrap_or(pid);
        self.read(Thing::Thread(to));
        let Some(receiver) = self.threads.get(&to) else { return Ok(0) };
        if receiver.process != pid || pid != self.thread(tid).process {
            return not_modelled("signals to other processes");
        }
        if receiver.mask & bit(signal) == 0 {
            return not_modelled(format!("the delivery of signal {signal}"));
        }
        let info = Some(Arc::from(info));
        if thread.is_some() {
            self.write(Thing::ThreadSignals(to));
            self.thread_mut(to).pending.add(signal, info);
        } else {
            self.signal_process(pid, signal, info);
        }
        Ok(0)
    }
}
