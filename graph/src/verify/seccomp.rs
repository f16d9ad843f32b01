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

use std::collections::BTreeMap;
use std::sync::Arc;

use super::attribute::AttributeKind;
use super::before::At;
use super::effect::{Effect, Effects, Lifted, PrivilegeEffect, SeccompEffect};
use super::expected::{ExpectedFilter, ExpectedSeccomp, ExpectedTask};
use super::outcome::Wrong;
use super::run::{Phase, Role, Run};
use super::work;

/// SECCOMP_FILTER_FLAG_TSYNC and SECCOMP_FILTER_FLAG_LOG (linux/seccomp.h).
const TSYNC: u64 = 1;
const LOG: u64 = 2;

/// A thread's seccomp.
#[derive(Debug, Clone, Default)]
pub(super) struct Seccomp {
    strict: bool,
    /// The newest.
    last: Option<Arc<Filter>>,
}

/// An installed filter. Threads share it with all that were installed before it.
#[derive(Debug)]
struct Filter {
    program: Arc<[u8]>,
    logs: bool,
    before: Option<Arc<Filter>>,
    /// How many there are up to this one.
    count: usize,
}

/// Who installs filters itself, as far as it has been asked.
#[derive(Debug, Clone, Default)]
pub(super) struct Filters {
    /// The first filter of each tape.
    own: BTreeMap<usize, Option<u32>>,
}

impl Filters {
    /// The record in which a tape installs its first filter.
    fn first(&mut self, tapes: &dyn Effects, task: usize) -> Option<u32> {
        let is_filter =
            |lifted: &&Lifted| matches!(lifted.effect, Effect::Privilege(PrivilegeEffect::Seccomp(_)));
        let find = || Some(tapes.of_task(task)?.iter().find(is_filter)?.record);
        *self.own.entry(task).or_insert_with(find)
    }
}

impl Drop for Filter {
    /// Long chains go link by link, and not one within another.
    fn drop(&mut self) {
        let mut next = self.before.take();
        while let Some(filter) = next {
            // Of all who let go of it at once, one gets it.
            next = Arc::into_inner(filter).and_then(|mut filter| filter.before.take());
        }
    }
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
            SeccompEffect::Strict if now.last.is_some() => return refused("a thread with filters"),
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
        let before = now.last.take();
        let count = before.as_ref().map_or(0, |before| before.count) + 1;
        now.last = Some(Arc::new(Filter { program: program.clone(), logs: flags & LOG != 0, before, count }));
        self.certificate.filters += 1;
        if flags & TSYNC != 0 { self.give_to_all(at) } else { Ok(()) }
    }

    fn must_be_suspended(&self, task: usize) -> Result<(), Wrong> {
        let tid = self.pid(task);
        if self.tapes.suspended().contains(&tid) { Ok(()) } else { Err(Wrong::FilterActs { tid }) }
    }

    /// The other threads of the task get the chain of this one.
    fn give_to_all(&mut self, at: At) -> Result<(), Wrong> {
        if self.tasks[at.task].privileges.has_no_new_privs() {
            let what = "TSYNC of a thread with no_new_privs, which all threads would get".to_owned();
            return Err(Wrong::NotModelled { call: "seccomp", what });
        }
        let (Role::Task(whole) | Role::Thread(whole)) = self.roles[at.task] else { return Ok(()) };
        let mut others: Vec<usize> = std::iter::once(&whole.pid)
            .chain(&whole.threads)
            .filter_map(|tid| self.by_pid.get(tid).copied())
            .filter(|task| *task != at.task)
            .collect();
        others.sort_unstable();
        work::count(others.len());
        for task in others {
            self.must_be_suspended(task)?;
            // It would race with this one.
            if let Some(own) = self.filters.first(self.tapes, task) {
                let what = format!("the filters of thread {}", self.pid(task));
                return Err(Wrong::Unordered { call: "seccomp", what, by: self.pid(task), at: own });
            }
            self.seccomp[task].last = self.seccomp[at.task].last.clone();
            let mode = self.tasks[at.task].attributes.value(AttributeKind::Seccomp).clone();
            self.tasks[task].attributes.set(AttributeKind::Seccomp, mode);
        }
        Ok(())
    }

    /// Compares what the threads of a task end with.
    pub(super) fn compare_seccomp(&self, want: &ExpectedTask) -> Result<(), Wrong> {
        let of = |tid: u32| self.by_pid.get(&tid).map(|task| &self.seccomp[*task]);
        let first = of(want.pid);
        for tid in std::iter::once(want.pid).chain(want.threads.iter().copied()) {
            let Some(is) = of(tid) else { continue };
            let wanted = self.expected.seccomp.get(&tid);
            let is_right = match wanted {
                None => !is.strict && is.last.is_none(),
                Some(ExpectedSeccomp::Strict) => is.strict,
                Some(ExpectedSeccomp::Filters(filters)) => !is.strict && equal(is, filters),
                Some(ExpectedSeccomp::OfFirst) => {
                    first.is_some_and(|first| !is.strict && same(is.last.as_ref(), first.last.as_ref()))
                }
            };
            if !is_right {
                return Err(Wrong::WrongSeccomp { tid, is: is.describe(wanted), wanted: describe(wanted) });
            }
        }
        Ok(())
    }
}

fn equal(is: &Seccomp, filters: &[ExpectedFilter]) -> bool {
    is.count() == filters.len() && is.chain().zip(filters.iter().rev()).all(|(is, wanted)| is.equals(wanted))
}

/// Not only alike.
fn same(one: Option<&Arc<Filter>>, other: Option<&Arc<Filter>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

impl Filter {
    fn equals(&self, wanted: &ExpectedFilter) -> bool {
        self.program == wanted.program && self.logs == wanted.logs
    }
}

impl Seccomp {
    /// The filters, the newest first.
    fn chain(&self) -> impl Iterator<Item = &Filter> {
        std::iter::successors(self.last.as_deref(), |filter| filter.before.as_deref())
    }

    fn count(&self) -> usize {
        self.last.as_ref().map_or(0, |last| last.count)
    }

    fn describe(&self, wanted: Option<&ExpectedSeccomp>) -> String {
        if self.strict {
            return "strict mode".to_owned();
        }
        let count = filters(self.count());
        match wanted {
            Some(ExpectedSeccomp::Filters(filters)) if filters.len() == self.count() => {
                let chain = self.chain().zip(filters.iter().rev()).zip((1..=filters.len()).rev());
                let others = chain.filter(|((is, wanted), _)| !is.equals(wanted));
                let number = others.map(|(_, number)| number).min();
                format!("{count}, number {} another one", number.unwrap_or(0))
            }
            Some(ExpectedSeccomp::OfFirst) if self.last.is_some() => format!("{count} of its own"),
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
