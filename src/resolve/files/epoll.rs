//! epoll.
//!
//! The kernel keeps an interest under the file *and* the number that the target had (epoll(7)), and
//! the images give the numbers in the task that the epoll file was dumped from: the first that has
//! it, or the socket that it is in flight in. So that task adds them, when its table is final;
//! whoever else has the epoll file shares them.

use std::collections::BTreeSet;

use regrow_graph::forest::Slot;
use regrow_graph::ids::{OfdId, TaskId};

use super::super::Resolver;
use super::super::numbers::O_SETTABLE;
use super::super::recipe::{ResourceKind, StepKind};
use super::{Holders, flight, name};
use crate::image::{Epoll, Interest, Ofd, OfdKind};

/// Bits that say how to watch, not what for (uapi/linux/eventpoll.h).
const EPOLL_PRIVATE: u32 =
    (libc::EPOLLET | libc::EPOLLONESHOT | libc::EPOLLWAKEUP | libc::EPOLLEXCLUSIVE) as u32;

pub(super) fn resolve(
    resolver: &mut Resolver<'_>,
    holders: &Holders,
    ofd: OfdId,
    entry: &Ofd,
    epoll: &Epoll,
) {
    super::single(resolver, ofd, ResourceKind::Epoll { flags: epoll.flags & O_SETTABLE }, entry.origin);
    let mut refuse = |text: String| {
        resolver.problems.unsupported(None, Some(entry.origin), format!("{}: {text}", name(entry)))
    };
    let mut numbers = BTreeSet::new();
    for interest in &epoll.interests {
        if !numbers.insert(interest.fd) {
            // One had that number before the other, and the images do not say what it had been.
            refuse(format!("it watches two files at descriptor {}: not restored", interest.fd));
        }
        if interest.events & !EPOLL_PRIVATE == 0 {
            // Adding one always asks for EPOLLERR and EPOLLHUP.
            refuse(format!(
                "its interest in descriptor {} has fired and is disabled (EPOLLONESHOT): not restored",
                interest.fd
            ));
        }
    }
    if epoll.interests.is_empty() {
        return;
    }
    let mut missing = None;
    let mut adds = None;
    let is_held = holders.get(ofd).is_some();
    let carrier = if is_held { None } else { flight::sender(resolver, holders, ofd) };
    // Nobody before the first has it.
    let first = holders.get(ofd).map(|(task, _)| task).or(carrier).map_or(0, TaskId::index);
    for (index, task) in resolver.forest.tasks.iter().enumerate().skip(first) {
        let own = task.table.iter().find(|slot| slot.ofd == ofd).map(|slot| slot.fd);
        if own.is_none() && carrier != Some(TaskId::new(index)) {
            continue;
        }
        match epoll.interests.iter().find(|interest| !is_there(resolver, &task.table, interest)) {
            Some(interest) => {
                missing.get_or_insert((task.pid, interest.fd));
            }
            None => {
                adds = Some((TaskId::new(index), own));
                break;
            }
        }
    }
    let Some((task, fd)) = adds else {
        let text = match missing {
            Some((pid, target)) => format!(
                "it watches descriptor {target}, which task {pid} has closed or replaced: not restored"
            ),
            None => "no task has it, or the socket that it is in flight in".to_owned(),
        };
        resolver.problems.unsupported(None, Some(entry.origin), format!("{}: {text}", name(entry)));
        return;
    };
    for interest in &epoll.interests {
        let kind =
            StepKind::Watch { epoll: fd, target: interest.fd, events: interest.events, data: interest.data };
        // What is in flight is open until it has been sent, and all else has its number by then.
        let needs = if fd.is_none() { vec![ofd] } else { Vec::new() };
        let step = resolver.add_step(kind, entry.origin, needs);
        let placed = &mut resolver.placed[task.index()];
        if fd.is_none() { placed.steps.push(step) } else { placed.with_threads.push(step) }
    }
}

/// Whether the table has the watched file at its number, as far as the images tell files apart.
fn is_there(resolver: &Resolver<'_>, table: &[Slot], interest: &Interest) -> bool {
    let Some(slot) = table.binary_search_by_key(&interest.fd, |slot| slot.fd).ok().map(|at| &table[at])
    else {
        return false;
    };
    let inode = match resolver.model.ofds.get(slot.ofd.index()).map(|ofd| &ofd.kind) {
        Some(OfdKind::Pipe(pipe)) => pipe.pipe_id,
        Some(OfdKind::Fifo(fifo)) => fifo.pipe_id,
        Some(OfdKind::Unix(socket)) => socket.inode,
        _ => return true,
    };
    // The images have the lower half of the number.
    interest.inode.is_none_or(|wanted| wanted as u32 == inode)
}
