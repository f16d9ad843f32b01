//! Open file descriptions: descriptor tables into slots, descriptions into resources.

mod epoll;
mod eventfd;
mod fifo;
mod flight;
pub(super) mod ghost;
mod inet;
mod lock;
mod memfd;
mod owner;
mod pipe;
mod reg;
mod signalfd;
mod timerfd;
mod unix;

use std::collections::{BTreeMap, HashMap};

use regrow_graph::forest::Slot;
use regrow_graph::ids::{Fd, OfdId, StepId, TaskId};
use smallvec::SmallVec;

use super::problem::ProblemKind;
use super::{Payloads, Resolver};
use crate::image::{FdEntry, Ofd, OfdKind, Origin, Remap, Table};
pub(super) use reg::{is_above, judge, proc_task};

/// Steps of a task on descriptions that it has. One task does them, whoever else has the description.
#[derive(Debug, Clone, Default)]
pub(super) struct Placed {
    /// Before its table is final: they are told the numbers of what they need.
    pub(super) steps: Vec<StepId>,
    /// With the final table, before the barrier.
    pub(super) with_threads: Vec<StepId>,
    /// After the barrier, when every task and every thread is there.
    pub(super) tail: Vec<StepId>,
}

/// Descriptions of one thing by the number that the images give it. The number breaks no tie: things come
/// in the order of their first descriptions.
struct Groups<T> {
    at: HashMap<u32, usize>,
    members: Vec<(u32, Members<T>)>,
}

/// Nearly all pipes have two.
type Members<T> = SmallVec<[T; 2]>;

impl<T> Default for Groups<T> {
    fn default() -> Groups<T> {
        Groups { at: HashMap::new(), members: Vec::new() }
    }
}

impl<T> Groups<T> {
    fn add(&mut self, id: u32, member: T) {
        let at = *self.at.entry(id).or_insert_with(|| {
            self.members.push((id, Members::new()));
            self.members.len() - 1
        });
        self.members[at].1.push(member);
    }

    fn in_order(self) -> Vec<(u32, Members<T>)> {
        self.members
    }
}

/// The first task, in the order of the images, that has each description in its table, and the
/// lowest number there.
struct Holders(Vec<Option<(TaskId, Fd)>>);

impl Holders {
    /// Notes that a task holds a table. Tasks come in their order.
    fn note(&mut self, task: TaskId, slots: &[Slot]) {
        for slot in slots {
            self.0[slot.ofd.index()].get_or_insert((task, slot.fd));
        }
    }

    fn get(&self, ofd: OfdId) -> Option<(TaskId, Fd)> {
        self.0.get(ofd.index()).copied().flatten()
    }
}

/// A table of the images, which any number of tasks hold.
struct Held {
    slots: Vec<Slot>,
    /// Entries whose descriptions are not there.
    missing: Vec<FdEntry>,
    /// Whether its first holder has been noted.
    is_noted: bool,
}

impl Held {
    fn of(table: &Table, resolver: &Resolver<'_>) -> Held {
        let mut held = Held { slots: Vec::with_capacity(table.len()), missing: Vec::new(), is_noted: false };
        for entry in table {
            match resolver.ofd_of_id.get(&entry.ofd_id) {
                Some(ofd) => held.slots.push(Slot { fd: entry.fd, ofd: *ofd, cloexec: entry.cloexec }),
                None => held.missing.push(*entry),
            }
        }
        held
    }
}

/// Resolves all tables, each once however many tasks have it; says which descriptions are in one, and who has them first.
fn tables(resolver: &mut Resolver<'_>) -> (Vec<bool>, Holders) {
    let model = resolver.model;
    let mut is_used = vec![false; model.ofds.len()];
    let mut holders = Holders(vec![None; model.ofds.len()]);
    let mut tables: HashMap<usize, Held> = HashMap::new();
    for (index, task) in model.tasks.iter().enumerate() {
        let Some(alive) = task.alive() else { continue };
        let table = tables.entry(alive.fds.identity()).or_insert_with(|| {
            let held = Held::of(&alive.fds, resolver);
            held.slots.iter().for_each(|slot| is_used[slot.ofd.index()] = true);
            held
        });
        for entry in &table.missing {
            let text = format!("fd {}: file {:#x} is not in files.img", entry.fd, entry.ofd_id);
            let origin = Some(alive.origin_of(entry));
            resolver.problems.add(ProblemKind::BadImages, Some(task.pid), origin, text);
        }
        // One table has one holder: what is done with it, that does.
        if resolver.forest.tasks[index].shares_table {
            continue;
        }
        if !std::mem::replace(&mut table.is_noted, true) {
            holders.note(TaskId::new(index), &table.slots);
        }
        resolver.forest.tasks[index].table.clone_from(&table.slots);
    }
    (is_used, holders)
}

/// Resolves all tables and every description that is in one.
pub(super) fn resolve(resolver: &mut Resolver<'_>, payloads: &Payloads) {
    let model = resolver.model;
    let (mut is_used, holders) = tables(resolver);
    flight::add(resolver, &mut is_used);
    let used = is_used.iter().enumerate().filter(|(_, is_used)| **is_used);
    let used: Vec<OfdId> = used.map(|(index, _)| OfdId::new(index)).collect();
    let remapped: BTreeMap<u32, Remap> = model.remaps.iter().map(|remap| (remap.orig_id, *remap)).collect();
    ghost::make(resolver);
    memfd::make(resolver);
    // Those that come in groups.
    let (mut pipes, mut fifos, mut unix, mut inet) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for ofd in &used {
        let entry = &model.ofds[ofd.index()];
        match &entry.kind {
            OfdKind::Pipe(_) => pipes.push(*ofd),
            OfdKind::Fifo(_) => fifos.push(*ofd),
            OfdKind::Unix(_) => unix.push(*ofd),
            OfdKind::Inet(_) => inet.push(*ofd),
            OfdKind::Reg(_)
            | OfdKind::Eventfd(_)
            | OfdKind::Epoll(_)
            | OfdKind::Timerfd(_)
            | OfdKind::Signalfd(_)
            | OfdKind::Memfd(_)
            | OfdKind::Other(_) => {}
        }
        if let Some(remap) = remapped.get(&entry.id) {
            match &entry.kind {
                OfdKind::Reg(file) => ghost::resolve(resolver, *ofd, entry, file, *remap),
                _ => ghost::refuse(resolver, entry, *remap),
            }
            continue;
        }
        match &entry.kind {
            OfdKind::Reg(file) => reg::resolve(resolver, *ofd, entry, file),
            OfdKind::Eventfd(eventfd) => eventfd::resolve(resolver, *ofd, entry, eventfd),
            OfdKind::Epoll(epoll) => epoll::resolve(resolver, &holders, *ofd, entry, epoll),
            OfdKind::Timerfd(timerfd) => timerfd::resolve(resolver, &holders, *ofd, entry, timerfd),
            OfdKind::Signalfd(signalfd) => signalfd::resolve(resolver, *ofd, entry, signalfd),
            OfdKind::Memfd(memfd) => memfd::resolve(resolver, *ofd, memfd),
            OfdKind::Other(kind) => {
                let option = match *kind {
                    "EXT" => " (with --external, too)",
                    "TTY" => " (with --shell-job, too)",
                    _ => "",
                };
                resolver.problems.unsupported(
                    None,
                    Some(entry.origin),
                    format!("{}: files of kind {kind} are not restored yet{option}", name(entry)),
                );
            }
            OfdKind::Pipe(_) | OfdKind::Fifo(_) | OfdKind::Unix(_) | OfdKind::Inet(_) => {}
        }
    }
    for ofd in &used {
        owner::resolve(resolver, &holders, *ofd);
    }
    pipe::resolve(resolver, &pipes, payloads);
    fifo::resolve(resolver, &fifos, payloads);
    unix::resolve(resolver, &holders, &unix, payloads);
    inet::resolve(resolver, &inet);
    lock::resolve(resolver);
}

/// A description in the words of messages.
pub(crate) fn name(ofd: &Ofd) -> String {
    match &ofd.kind {
        OfdKind::Reg(file) => format!("file {:#x} ({})", ofd.id, file.path),
        OfdKind::Pipe(pipe) => format!("file {:#x} (pipe {:#x})", ofd.id, pipe.pipe_id),
        OfdKind::Eventfd(_) => format!("file {:#x} (eventfd)", ofd.id),
        OfdKind::Epoll(_) => format!("file {:#x} (epoll)", ofd.id),
        OfdKind::Timerfd(_) => format!("file {:#x} (timerfd)", ofd.id),
        OfdKind::Signalfd(_) => format!("file {:#x} (signalfd)", ofd.id),
        OfdKind::Fifo(fifo) => format!("file {:#x} (FIFO {:#x})", ofd.id, fifo.pipe_id),
        OfdKind::Unix(socket) => format!("file {:#x} (unix socket {:#x})", ofd.id, socket.inode),
        OfdKind::Inet(socket) => format!("file {:#x} (internet socket {:#x})", ofd.id, socket.inode),
        OfdKind::Memfd(memfd) => format!("file {:#x} (memfd {})", ofd.id, memfd.inode_id),
        OfdKind::Other(kind) => format!("file {:#x} ({kind})", ofd.id),
    }
}

/// The resource of one description.
fn single(resolver: &mut Resolver<'_>, ofd: OfdId, kind: super::recipe::ResourceKind, origin: Origin) {
    resolver.add_resource(kind, origin, vec![Some(ofd)]);
}
