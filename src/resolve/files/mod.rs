//! Open file descriptions: descriptor tables into slots, descriptions into resources.

mod eventfd;
pub(super) mod ghost;
mod memfd;
mod pipe;
mod reg;
mod unix;

use std::collections::{BTreeMap, BTreeSet};

use regrow_graph::forest::Slot;
use regrow_graph::ids::OfdId;

use super::{Payloads, Resolver};
pub(super) use reg::{is_above, judge, proc_task};
use crate::image::{Fown, Ofd, OfdKind, Origin, Remap};

/// Resolves all tables and every description that is in one.
pub(super) fn resolve(resolver: &mut Resolver<'_>, payloads: &Payloads) {
    let model = resolver.model;
    let mut used = BTreeSet::new();
    for (index, task) in model.tasks.iter().enumerate() {
        let Some(alive) = task.alive() else { continue };
        let mut table = Vec::with_capacity(alive.fds.len());
        for entry in &alive.fds {
            let Some(ofd) = resolver.ofd_of_id.get(&entry.ofd_id).copied() else {
                let text = format!("fd {}: file {:#x} is not in files.img", entry.fd, entry.ofd_id);
                resolver.problems.add(super::problem::ProblemKind::BadImages, Some(task.pid), Some(entry.origin), text);
                continue;
            };
            used.insert(ofd);
            table.push(Slot { fd: entry.fd, ofd, cloexec: entry.cloexec });
        }
        resolver.forest.tasks[index].table = table;
    }
    let remapped: BTreeMap<u32, Remap> = model.remaps.iter().map(|remap| (remap.orig_id, *remap)).collect();
    ghost::make(resolver);
    memfd::make(resolver);
    for ofd in &used {
        let entry = &model.ofds[ofd.index()];
        if let Some(remap) = remapped.get(&entry.id) {
            match &entry.kind {
                OfdKind::Reg(file) => ghost::resolve(resolver, *ofd, entry, file, *remap),
                OfdKind::Pipe(_) | OfdKind::Eventfd(_) | OfdKind::Unix(_) | OfdKind::Memfd(_) | OfdKind::Other(_) => {
                    ghost::refuse(resolver, entry, *remap);
                }
            }
            continue;
        }
        match &entry.kind {
            OfdKind::Reg(file) => reg::resolve(resolver, *ofd, entry, file),
            OfdKind::Eventfd(eventfd) => eventfd::resolve(resolver, *ofd, entry, eventfd),
            OfdKind::Memfd(memfd) => memfd::resolve(resolver, *ofd, entry, memfd),
            OfdKind::Other(kind) => {
                let option = match *kind {
                    "INETSK" => " (with --tcp-established or --tcp-close, too)",
                    "EXT" => " (with --external, too)",
                    "TTY" => " (with --shell-job, too)",
                    _ => "",
                };
                resolver.problems.unsupported(None, Some(entry.origin), format!("{}: files of kind {kind} are not restored yet{option}", name(entry)));
            }
            // Those come in groups.
            OfdKind::Pipe(_) | OfdKind::Unix(_) => {}
        }
    }
    pipe::resolve(resolver, &used, payloads);
    unix::resolve(resolver, &used, payloads);
}

/// A description in the words of messages.
pub(crate) fn name(ofd: &Ofd) -> String {
    match &ofd.kind {
        OfdKind::Reg(file) => format!("file {:#x} ({})", ofd.id, file.path),
        OfdKind::Pipe(pipe) => format!("file {:#x} (pipe {:#x})", ofd.id, pipe.pipe_id),
        OfdKind::Eventfd(_) => format!("file {:#x} (eventfd)", ofd.id),
        OfdKind::Unix(socket) => format!("file {:#x} (unix socket {:#x})", ofd.id, socket.inode),
        OfdKind::Memfd(memfd) => format!("file {:#x} (memfd {})", ofd.id, memfd.inode_id),
        OfdKind::Other(kind) => format!("file {:#x} ({kind})", ofd.id),
    }
}

/// `F_SETOWN` and `F_SETSIG` come with signals.
fn refuse_owner(resolver: &mut Resolver<'_>, ofd: &Ofd, fown: &Fown) {
    if fown.is_set() {
        let text = format!("{}: F_SETOWN ({} {}, signal {}) is not restored yet", name(ofd), fown.pid_type, fown.pid, fown.signum);
        resolver.problems.unsupported(None, Some(ofd.origin), text);
    }
}

/// The resource of one description.
fn single(resolver: &mut Resolver<'_>, ofd: OfdId, kind: super::recipe::ResourceKind, origin: Origin) {
    resolver.add_resource(kind, origin, vec![Some(ofd)]);
}
