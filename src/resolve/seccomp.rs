//! seccomp: strict mode, and the chain of filters of each thread.
//!
//! They come back in the tail, where the tracer keeps them from acting (PTRACE_O_SUSPEND_SECCOMP,
//! ptrace(2)): a strict thread could not even wait for the others. A chain is installed filter by
//! filter. Where all threads of a task had the same one, CRIU stores it once, with the flag TSYNC: the
//! first thread installs it for all, so that they share it and a later TSYNC succeeds again.
//!
//! Example: a first thread with the filters A and B, both TSYNC, gives one step with two programs; the
//! other threads get no step.

use std::collections::BTreeSet;

use super::Resolver;
use super::host::CAP_SYS_ADMIN;
use super::problem::ProblemKind;
use super::recipe::{SeccompProgram, StepKind};
use crate::image::{Alive, Image, Origin, SeccompFilter, Task, Thread};

/// `SECCOMP_RET_USER_NOTIF` and the bits that are an action (linux/seccomp.h).
const USER_NOTIF: u32 = 0x7fc0_0000;
const ACTION: u32 = 0xffff_0000;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;

/// What puts a thread's seccomp back, if it has any.
pub(super) fn resolve(
    resolver: &mut Resolver<'_>,
    task: &Task,
    alive: &Alive,
    thread: &Thread,
) -> Option<StepKind> {
    if alive.threads.iter().all(|thread| thread.seccomp_mode == 0) {
        return None;
    }
    // A filter for all threads reaches those that have no step.
    resolver.recipes.filtered.insert(thread.tid.0);
    if thread.seccomp_mode == 0 {
        return None;
    }
    judge_privileges(resolver, task, thread);
    if thread.seccomp_mode == 1 {
        return Some(StepKind::SeccompStrict);
    }
    let chain = chain(&resolver.model.seccomp_filters, thread);
    for (index, _) in chain.iter().filter(|(_, filter)| notifies(filter)) {
        let text =
            "a seccomp filter that asks a supervisor (SECCOMP_RET_USER_NOTIF), who is not in the images";
        let origin = Origin::new(Image::Seccomp, *index);
        resolver.problems.unsupported(Some(task.pid), Some(origin), text);
    }
    let program = |(_, filter): (usize, &SeccompFilter)| SeccompProgram {
        program: filter.program.clone(),
        flags: filter.flags,
    };
    Some(StepKind::SeccompFilters(chain.into_iter().map(program).collect()))
}

/// A thread's filters with their numbers, the oldest first.
fn chain<'a>(filters: &'a [SeccompFilter], thread: &Thread) -> Vec<(usize, &'a SeccompFilter)> {
    let mut chain = Vec::new();
    let mut seen = BTreeSet::new();
    let mut next = thread.seccomp_filter;
    // The reader has seen to it that it ends.
    while let Some((index, filter)) = next.and_then(|index| Some((index, filters.get(index as usize)?)))
        && seen.insert(index)
    {
        chain.push((index as usize, filter));
        next = filter.next;
    }
    chain
}

fn judge_privileges(resolver: &mut Resolver<'_>, task: &Task, thread: &Thread) {
    let own = &resolver.facts.own;
    let why = if !own.caps.has_effective(CAP_SYS_ADMIN) {
        "CAP_SYS_ADMIN is missing"
    } else if own.is_in_first_user_ns == Some(false) {
        "CAP_SYS_ADMIN in the first user namespace is missing"
    } else {
        return;
    };
    let mode = if thread.seccomp_mode == 1 { "strict" } else { "filter" };
    let text = format!("seccomp (mode {mode}): {why}: it cannot be suspended while the task is restored");
    resolver.problems.add(ProblemKind::Lacking, Some(task.pid), Some(thread.origin), text);
}

/// Whether a filter has an answer that asks a supervisor. (An answer that it computes is not seen.)
fn notifies(filter: &SeccompFilter) -> bool {
    let (instructions, _) = filter.program.as_chunks::<8>();
    instructions.iter().any(|[c0, c1, _, _, k0, k1, k2, k3]| {
        u16::from_ne_bytes([*c0, *c1]) == RETURN
            && u32::from_ne_bytes([*k0, *k1, *k2, *k3]) & ACTION == USER_NOTIF
    })
}
