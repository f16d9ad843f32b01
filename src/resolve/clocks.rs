//! Clocks that count on from the dump: whether the tree needs a time namespace of its own.
//!
//! CLOCK_MONOTONIC never runs backwards within a task's life, and CLOCK_BOOTTIME neither. On the host of
//! the dump they are further on by now: to the tasks it is as if they had been stopped. On another host,
//! or after a reboot, they may be behind: then, and where the tree had a time namespace already, the root is
//! born in a new one, in which both go on from what they were at the dump. CRIU makes one always; here
//! a tree that came from the host's clocks stays with them wherever it can.
//!
//! # Sources
//! time_namespaces(7); CRIU's `criu/timens.c` for what the images hold.

use regrow_graph::ids::TaskId;

use super::Resolver;
use super::host::CAP_SYS_ADMIN;
use super::problem::ProblemKind;
use crate::host;
use crate::image::{Clocks, Origin};

/// linux/capability.h
const CAP_SYS_TIME: u32 = 25;

/// What CLOCK_MONOTONIC and CLOCK_BOOTTIME of the tree must go on from, in nanoseconds; `None`: the
/// clocks of the host are good.
pub(super) fn resolve(resolver: &mut Resolver<'_>) {
    let model = resolver.model;
    let Some((root, origin)) =
        model.tasks.first().and_then(|root| Some((root.alive()?.ids.time_ns, root.core_origin)))
    else {
        return;
    };
    for task in &model.tasks {
        let Some(alive) = task.alive() else { continue };
        if alive.ids.time_ns != root {
            let text = "lives in another time namespace than the root: not restored yet";
            resolver.problems.unsupported(Some(task.pid), Some(task.core_origin), text);
        }
    }
    let Some(wanted) = model.clocks_of_tree() else {
        if model.is_in_own_time_ns() {
            let text = format!("lives in a time namespace of its own, and timens-{root}.img is missing");
            resolver.problems.add(ProblemKind::BadImages, Some(model.tasks[0].pid), Some(origin), text);
        }
        return;
    };
    let now = resolver.facts.clocks_ns;
    let is_behind = |now: Option<u64>, then: u64| now.is_some_and(|now| now < then);
    let wanted = nanoseconds(wanted);
    if !model.is_in_own_time_ns()
        && !is_behind(now.monotonic, wanted[0])
        && !is_behind(now.boottime, wanted[1])
    {
        return;
    }
    judge(resolver, TaskId(0), origin);
    resolver.recipes.clocks_ns = Some(wanted);
}

/// Whether a time namespace can be made here.
fn judge(resolver: &mut Resolver<'_>, root: TaskId, origin: Origin) {
    let pid = resolver.model.tasks[root.index()].pid;
    let mut lacking = |text: &str| resolver.problems.add(ProblemKind::Lacking, Some(pid), Some(origin), text);
    if !resolver.facts.kernel.time_namespaces {
        lacking("it needs a time namespace, and the kernel has none (CONFIG_TIME_NS)");
    }
    let caps = &resolver.facts.own.caps;
    if !caps.has_effective(CAP_SYS_ADMIN) || !caps.has_effective(CAP_SYS_TIME) {
        lacking("it needs a time namespace: CAP_SYS_ADMIN and CAP_SYS_TIME are needed to make one");
    }
}

fn nanoseconds(clocks: Clocks) -> [u64; 2] {
    [clocks.monotonic, clocks.boottime]
        .map(|(seconds, rest)| seconds.saturating_mul(1_000_000_000).saturating_add(rest))
}

impl Resolver<'_> {
    /// What the clocks say to the tree, roughly: those of the host, or those that go on from the dump.
    pub(super) fn clocks(&self) -> host::Clocks {
        match self.recipes.clocks_ns {
            None => self.facts.clocks_ns,
            Some([monotonic, boottime]) => {
                host::Clocks { monotonic: Some(monotonic), boottime: Some(boottime), ..self.facts.clocks_ns }
            }
        }
    }
}
