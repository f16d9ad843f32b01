//! `F_SETOWN` and `F_SETSIG`: who is told by signal about a description.
//!
//! They are set after the barrier, when every task and thread that can be named is there, by the
//! first task that has the description, and before that gives anything up. The kernel remembers with
//! which uids the owner was set (fcntl(2)): where they are not ours the task takes them on for the call.

use regrow_graph::ids::OfdId;

use super::super::Resolver;
use super::super::problem::ProblemKind;
use super::super::recipe::StepKind;
use super::{Holders, name};
use crate::image::{Fown, OfdKind};

/// `F_OWNER_*` (asm-generic/fcntl.h).
const TID: u32 = 0;
const PID: u32 = 1;
const PGRP: u32 = 2;

pub(super) fn resolve(resolver: &mut Resolver<'_>, holders: &Holders, ofd: OfdId) {
    let model = resolver.model;
    let entry = &model.ofds[ofd.index()];
    let fown = match &entry.kind {
        OfdKind::Reg(file) => file.fown,
        OfdKind::Pipe(pipe) => pipe.fown,
        OfdKind::Eventfd(eventfd) => eventfd.fown,
        OfdKind::Epoll(epoll) => epoll.fown,
        OfdKind::Timerfd(timerfd) => timerfd.fown,
        OfdKind::Signalfd(signalfd) => signalfd.fown,
        OfdKind::Unix(socket) => socket.fown,
        OfdKind::Inet(socket) => socket.fown,
        OfdKind::Memfd(memfd) => memfd.fown,
        OfdKind::Fifo(fifo) => match super::fifo::path(resolver, fifo) {
            Some(file) => file.fown,
            None => return,
        },
        OfdKind::Other(_) => return,
    };
    if !fown.is_set() {
        return;
    }
    let said = format!("{}: its owner ({} {}, signal {})", name(entry), kind(&fown), fown.pid, fown.signum);
    if fown.signum > 64 || fown.pid_type > PGRP {
        resolver.problems.add(ProblemKind::BadImages, None, Some(entry.origin), said);
        return;
    }
    if fown.pid != 0 && !is_in_tree(resolver, &fown) {
        let text = format!("{said} is outside the tree: not restored");
        resolver.problems.unsupported(None, Some(entry.origin), text);
        return;
    }
    let Some((task, fd)) = holders.get(ofd) else {
        let text =
            format!("{said}: not restored yet while the description is in flight in a unix socket only");
        resolver.problems.unsupported(None, Some(entry.origin), text);
        return;
    };
    let own = resolver.facts.own.uids.unwrap_or_default();
    let own_uids = [own.real, own.effective];
    let changes = fown.pid != 0 && own_uids != [fown.uid, fown.euid];
    let kind = StepKind::Owner { fd, fown, own_uids: changes.then_some(own_uids) };
    let step = resolver.add_step(kind, entry.origin, Vec::new());
    resolver.placed[task.index()].tail.push(step);
    if changes
        && let Some(value @ 0..=1) = model.tasks[task.index()].alive().and_then(|alive| alive.mm.dumpable)
    {
        // A change of uids resets it (prctl(2)).
        let step = resolver.add_step(StepKind::Dumpable(value as u32), entry.origin, Vec::new());
        resolver.placed[task.index()].tail.push(step);
    }
}

fn kind(fown: &Fown) -> &'static str {
    match fown.pid_type {
        TID => "thread",
        PID => "process",
        PGRP => "process group",
        _ => "unknown kind",
    }
}

fn is_in_tree(resolver: &Resolver<'_>, fown: &Fown) -> bool {
    let tasks = &resolver.model.tasks;
    match fown.pid_type {
        TID => tasks
            .iter()
            .filter_map(|task| task.alive())
            .flat_map(|alive| &alive.threads)
            .any(|thread| thread.tid.0 == fown.pid),
        PID => tasks.iter().any(|task| task.pid.0 == fown.pid),
        // A group that is led from outside may get another number.
        _ => tasks.iter().any(|task| task.pid.0 == fown.pid && task.pgid.0 == fown.pid),
    }
}
