//! Pipes: all descriptions with one pipe id are one resource.

use std::collections::BTreeMap;

use regrow_graph::ids::OfdId;

use super::super::numbers::{O_ACCMODE, O_LARGEFILE, O_SETTABLE};
use super::super::problem::ProblemKind;
use super::super::recipe::ResourceKind;
use super::super::{Payloads, Resolver};
use super::{Groups, Members, name};
use crate::image::{OfdKind, PipeData};

/// Capacity of a new pipe (pipe(7)).
const DEFAULT_CAPACITY: u32 = 65536;

/// open(2) sets O_LARGEFILE and pipe(2) does not, so it tells which description of an end was made by
/// opening `/proc/PID/fd/N`: those come last, and none of them is `pipe2`'s own.
fn in_order(mut ofds: Members<(OfdId, u32)>) -> Members<(OfdId, u32)> {
    ofds.sort_by_key(|(ofd, flags)| (flags & O_LARGEFILE, *ofd));
    ofds
}

/// The capacity of a pipe or a FIFO, where it is not the default.
pub(super) fn capacity(resolver: &mut Resolver<'_>, name: &str, entry: &PipeData, len: usize) -> Option<u32> {
    let capacity = entry.capacity_bytes.filter(|capacity| *capacity != DEFAULT_CAPACITY);
    if len > capacity.unwrap_or(DEFAULT_CAPACITY) as usize {
        let text = format!(
            "{name}: {len} bytes do not fit into its capacity of {}",
            capacity.unwrap_or(DEFAULT_CAPACITY)
        );
        resolver.problems.add(ProblemKind::BadImages, None, Some(entry.origin), text);
    }
    if let (Some(capacity), Some(max)) = (capacity, resolver.facts.kernel.pipe_max_size_bytes)
        && u64::from(capacity) > max
        && !resolver.facts.own.caps.has_effective(super::super::host::CAP_SYS_RESOURCE)
    {
        let text = format!(
            "{name}: capacity {capacity} is above fs.pipe-max-size {max}, and CAP_SYS_RESOURCE is missing"
        );
        resolver.problems.add(ProblemKind::Lacking, None, Some(entry.origin), text);
    }
    capacity
}

pub(super) fn resolve(resolver: &mut Resolver<'_>, used: &[OfdId], payloads: &Payloads) {
    let model = resolver.model;
    let mut pipes = Groups::default();
    for ofd in used {
        let entry = &model.ofds[ofd.index()];
        if let OfdKind::Pipe(pipe) = &entry.kind {
            pipes.add(pipe.pipe_id, (*ofd, pipe.flags));
        }
    }
    let contents: BTreeMap<u32, (&PipeData, &Vec<u8>)> = model
        .pipe_data
        .iter()
        .zip(&payloads.pipes)
        .map(|(entry, data)| (entry.pipe_id, (entry, data)))
        .collect();
    for (pipe_id, ofds) in pipes.in_order() {
        let mut ends: [Option<(OfdId, u32)>; 2] = [None, None];
        let mut reopened = Vec::new();
        let mut reopened_ofds = Vec::new();
        for (ofd, flags) in in_order(ofds) {
            let end = match (flags & O_ACCMODE) as i32 {
                libc::O_RDONLY => 0,
                libc::O_WRONLY => 1,
                _ => 2,
            };
            match ends.get_mut(end) {
                Some(slot @ None) if flags & O_LARGEFILE == 0 => *slot = Some((ofd, flags & O_SETTABLE)),
                Some(_) | None => {
                    reopened.push((end as u8, flags & O_SETTABLE));
                    reopened_ofds.push(Some(ofd));
                }
            }
        }
        let origin = ends[0].or(ends[1]).map(|(ofd, _)| ofd).or(reopened_ofds.first().copied().flatten());
        let Some(origin) = origin.map(|ofd| &model.ofds[ofd.index()]) else { continue };
        let (mut capacity, mut data) = (None, Vec::new());
        if let Some((entry, bytes)) = contents.get(&pipe_id) {
            data.clone_from(bytes);
            capacity = self::capacity(resolver, &name(origin), entry, bytes.len());
        }
        let flags = [ends[0].map_or(0, |(_, flags)| flags), ends[1].map_or(0, |(_, flags)| flags)];
        let mut yields: Vec<Option<OfdId>> = ends.iter().map(|end| end.map(|(ofd, _)| ofd)).collect();
        yields.extend(reopened_ofds);
        resolver.add_resource(ResourceKind::Pipe { flags, reopened, capacity, data }, origin.origin, yields);
    }
}
