//! seccomp, as the kernel has it: strict mode, and a chain of filters for each thread.
//!
//! A filter may deny any call, so none may act before its thread is let go: it is installed behind the
//! barrier, in a thread in which seccomp is suspended (PTRACE_O_SUSPEND_SECCOMP). What it would decide
//! need not be known then. A filter for all threads (TSYNC) gives the others the caller's chain itself,
//! not a copy, if theirs is a part of it; so they must install none.
//!
//! # Sources
//! `seccomp(2)`, `ptrace(2)`; `seccomp_may_assign_mode`, `seccomp_can_sync_threads`,
//! `seccomp_sync_threads` in kernel/seccomp.c.

use std::sync::Arc;

use super::attribute::AttributeKind;
use super::before::At;
use super::effect::{Effect, PrivilegeEffect, SeccompEffect};
use super::expected::{ExpectedFilter, ExpectedSeccomp, ExpectedTask};
use super::outcome::Wrong;
use super::run::{Phase, Role, Run};

/// SECCOMP_FILTER_FLAG_TSYNC and SECCOMP_FILTER_FLAG_LOG (linux/seccomp.h).
const TSYNC: u64 = 1;
const LOG: u64 = 2;

/// A thread's seccomp.
#[derive(Debug, Clone, Default)]
pub(super) struct Seccomp {
    strict: bool,
    /// The oldest first.
    chain: Vec<Filter>,
}

/// An installed filter: `at` says which it is.
#[derive(Debug, Clone)]
struct Filter {
    at: At,
    program: Arc<[u8]>,
    logs: bool,
}

impl Run<'_> {
    pub(super) fn set_seccomp(&mut self, at: At, effect: &SeccompEffect) -> Result<(), Wrong> {
        if self.tasks[at.task].phase != Phase::Tail {
            return Err(Wrong::FilterEarly);
        }
        self.must_be_suspended(at.task)?;
        let refused = |what: &str| Err(Wrong::Refused { call: "seccomp", what: what.to_owned() });
        let now = &mut self.seccomp[at.task];
        let (program, flags) = match effect {
            SeccompEffect::Strict if !now.chain.is_empty() => return refused("a thread with filters"),
            SeccompEffect::Strict => {
                now.strict = true;
                return Ok(());
            }
            SeccompEffect::Filter { .. } if now.strict => return refused("a thread in strict mode"),
            SeccompEffect::Filter { program, flags } => (program, *flags),
        };
        if flags & !(TSYNC | LOG) != 0 {
            return Err(Wrong::NotModelled { call: "seccomp", what: format!("flags {flags:#x}") });
        }
        now.chain.push(Filter { at, program: program.clone(), logs: flags & LOG != 0 });
        self.certificate.filters += 1;
        if flags & TSYNC != 0 { self.give_to_all(at) } else { Ok(()) }
    }

    fn must_be_suspended(&self, task: usize) -> Result<(), Wrong> {
        let tid = self.pid(task);
        if self.tree.suspended.contains(&tid) { Ok(()) } else { Err(Wrong::FilterActs { tid }) }
    }

    /// The other threads of the task get the chain of this one.
    fn give_to_all(&mut self, at: At) -> Result<(), Wrong> {
        if self.tasks[at.task].privileges.has_no_new_privs() {
            let what = "TSYNC of a thread with no_new_privs, which all threads would get".to_owned();
            return Err(Wrong::NotModelled { call: "seccomp", what });
        }
        let whole = self.whole_of(at.task);
        let others: Vec<usize> =
            (0..self.tasks.len()).filter(|task| *task != at.task && self.whole_of(*task) == whole).collect();
        for task in others {
            self.must_be_suspended(task)?;
            // It would race with this one.
            let own = self.tree.tasks[task]
                .effects
                .iter()
                .find(|lifted| matches!(lifted.effect, Effect::Privilege(PrivilegeEffect::Seccomp(_))));
            if let Some(own) = own {
                let what = format!("the filters of thread {}", self.pid(task));
                return Err(Wrong::Unordered { call: "seccomp", what, by: self.pid(task), at: own.record });
            }
            self.seccomp[task].chain = self.seccomp[at.task].chain.clone();
            let mode = self.tasks[at.task].attributes.value(AttributeKind::Seccomp).clone();
            self.tasks[task].attributes.set(AttributeKind::Seccomp, mode);
        }
        Ok(())
    }

    /// The pid of the task that a thread belongs to.
    fn whole_of(&self, task: usize) -> u32 {
        match self.roles[task] {
            Role::Thread(of) => of.pid,
            Role::Task(_) | Role::Helper => self.pid(task),
        }
    }

    /// Compares what the threads of a task end with.
    pub(super) fn compare_seccomp(&self, want: &ExpectedTask) -> Result<(), Wrong> {
        let of = |tid: u32| self.by_pid.get(&tid).map(|task| &self.seccomp[*task]);
        let first = of(want.pid);
        for tid in std::iter::once(want.pid).chain(want.threads.iter().copied()) {
            let Some(is) = of(tid) else { continue };
            let wanted = self.expected.seccomp.get(&tid);
            let is_right = match wanted {
                None => !is.strict && is.chain.is_empty(),
                Some(ExpectedSeccomp::Strict) => is.strict,
                Some(ExpectedSeccomp::Filters(filters)) => !is.strict && equal(&is.chain, filters),
                Some(ExpectedSeccomp::OfFirst) => {
                    first.is_some_and(|first| !is.strict && same(&is.chain, &first.chain))
                }
            };
            if !is_right {
                return Err(Wrong::WrongSeccomp { tid, is: is.describe(wanted), wanted: describe(wanted) });
            }
        }
        Ok(())
    }
}

fn equal(chain: &[Filter], filters: &[ExpectedFilter]) -> bool {
    chain.len() == filters.len() && chain.iter().zip(filters).all(|(is, wanted)| is.equals(wanted))
}

/// Not only alike.
fn same(chain: &[Filter], other: &[Filter]) -> bool {
    chain.iter().map(|filter| filter.at).eq(other.iter().map(|filter| filter.at))
}

impl Filter {
    fn equals(&self, wanted: &ExpectedFilter) -> bool {
        self.program == wanted.program && self.logs == wanted.logs
    }
}

impl Seccomp {
    fn describe(&self, wanted: Option<&ExpectedSeccomp>) -> String {
        if self.strict {
            return "strict mode".to_owned();
        }
        let count = filters(self.chain.len());
        match wanted {
            Some(ExpectedSeccomp::Filters(filters)) if filters.len() == self.chain.len() => {
                let other = self.chain.iter().zip(filters).position(|(is, wanted)| !is.equals(wanted));
                format!("{count}, number {} another one", other.map_or(0, |at| at + 1))
            }
            Some(ExpectedSeccomp::OfFirst) if !self.chain.is_empty() => format!("{count} of its own"),
            Some(ExpectedSeccomp::Strict | ExpectedSeccomp::Filters(_) | ExpectedSeccomp::OfFirst) | None => {
                count
            }
        }
    }
}

fn describe(wanted: Option<&ExpectedSeccomp>) -> String {
    match wanted {
        None => filters(0),
        Some(ExpectedSeccomp::Strict) => "strict mode".to_owned(),
        Some(ExpectedSeccomp::Filters(list)) => filters(list.len()),
        Some(ExpectedSeccomp::OfFirst) => "the filters of its task's first thread".to_owned(),
    }
}

fn filters(count: usize) -> String {
    match count {
        0 => "no filters".to_owned(),
        1 => "1 filter".to_owned(),
        _ => format!("{count} filters"),
    }
}
