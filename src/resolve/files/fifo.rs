//! FIFOs: all descriptions of one are one resource.

use std::collections::BTreeMap;

use regrow_graph::ids::OfdId;

use super::super::numbers::{O_CREATION, O_KNOWN, O_LARGEFILE};
use super::super::problem::ProblemKind;
use super::super::recipe::ResourceKind;
use super::super::{Payloads, Resolver};
use super::{Groups, ghost, judge, name};
use crate::image::{Fifo, OfdKind, PipeData, RegFile};

/// The entry with path, flags and owner of a description.
pub(super) fn path<'a>(resolver: &Resolver<'a>, fifo: &Fifo) -> Option<&'a RegFile> {
    let ofd = resolver.ofd_of_id.get(&fifo.reg_id)?;
    match &resolver.model.ofds[ofd.index()].kind {
        OfdKind::Reg(file) => Some(file),
        _ => None,
    }
}

pub(super) fn resolve(resolver: &mut Resolver<'_>, used: &[OfdId], payloads: &Payloads) {
    let model = resolver.model;
    let contents: BTreeMap<u32, (&PipeData, &Vec<u8>)> = model
        .fifo_data
        .iter()
        .zip(&payloads.fifos)
        .map(|(entry, data)| (entry.pipe_id, (entry, data)))
        .collect();
    let mut fifos = Groups::default();
    for ofd in used {
        let entry = &model.ofds[ofd.index()];
        let OfdKind::Fifo(fifo) = &entry.kind else { continue };
        let refuse = |resolver: &mut Resolver<'_>, text: &str| {
            resolver.problems.unsupported(None, Some(entry.origin), format!("{}: {text}", name(entry)));
        };
        let remap = ghost::remap_of(resolver, fifo.reg_id);
        if remap.is_some_and(|remap| remap.remap_type != ghost::GHOST) {
            refuse(resolver, "it is kept under another name (--link-remap): not restored yet");
            continue;
        }
        let Some(file) = path(resolver, fifo) else {
            let text = format!("{}: its path {:#x} is not in files.img", name(entry), fifo.reg_id);
            resolver.problems.add(ProblemKind::BadImages, None, Some(entry.origin), text);
            continue;
        };
        if file.is_external || file.flags & (!O_KNOWN | libc::O_PATH as u32) != 0 {
            refuse(resolver, "external, opened as a path only, or with unknown flags: not restored yet");
            continue;
        }
        if remap.is_none() {
            judge(resolver, file, entry.origin);
        }
        fifos.add(fifo.pipe_id, (*ofd, file));
    }
    for (pipe_id, ofds) in fifos.in_order() {
        let Some((first, file)) = ofds.first().copied() else { continue };
        let origin = model.ofds[first.index()].origin;
        if let Some((_, other)) = ofds.iter().find(|(_, other)| other.path != file.path) {
            // Two names of one inode would work; which is which could not be told afterwards.
            let text =
                format!("FIFO {pipe_id:#x} is open as {} and as {}: not restored yet", file.path, other.path);
            resolver.problems.unsupported(None, Some(origin), text);
            continue;
        }
        let (mut capacity, mut data) = (None, Vec::new());
        if let Some((entry, bytes)) = contents.get(&pipe_id) {
            data.clone_from(bytes);
            capacity = super::pipe::capacity(resolver, &format!("FIFO {}", file.path), entry, bytes.len());
        }
        let flags = |file: &RegFile| file.flags & !(O_CREATION | O_LARGEFILE);
        let unlinked = ofds.iter().find_map(|(ofd, _)| match &model.ofds[ofd.index()].kind {
            OfdKind::Fifo(fifo) => ghost::key_of(resolver, fifo.reg_id),
            _ => None,
        });
        if let Some(key) = unlinked {
            resolver.fill_fifo(key, capacity, data);
            for (ofd, file) in ofds {
                resolver.open_inode(key, &file.path, flags(file), 0, Some(ofd));
            }
            continue;
        }
        let flags = ofds.iter().map(|(_, file)| flags(file)).collect();
        let kind = ResourceKind::Fifo { path: file.path.clone(), flags, capacity, data };
        let yields = std::iter::once(None).chain(ofds.iter().map(|(ofd, _)| Some(*ofd))).collect();
        resolver.add_resource(kind, origin, yields);
    }
}
