//! Runs: neighbouring operations of one sort, told in one line.
//!
//! Worked example: three `mprotect` steps behind one another become
//! "protect 3 ranges, 12 KiB, 0x401000-0x40b000".

use regrow_graph::graph::OpKind;
use regrow_graph::ids::OpId;

use super::{describe, words};
use crate::pipeline::Prepared;
use crate::resolve::recipe::StepKind;

/// Steps that are told together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Unmap,
    Map,
    MapShared,
    Protect,
    Advise,
    Fill,
    Handle,
    Limit,
}

fn step(prepared: &Prepared, op: OpId) -> Option<&StepKind> {
    match &prepared.plan.graph.op(op).kind {
        OpKind::Step { step, .. } => Some(&prepared.resolved.recipes.steps[step.index()].kind),
        _ => None,
    }
}

/// Of what sort a step is; a step of no sort stands in a line of its own.
fn sort(step: &StepKind) -> Option<Sort> {
    match step {
        StepKind::Unmap { .. } => Some(Sort::Unmap),
        StepKind::Mmap { .. } => Some(Sort::Map),
        StepKind::MapShared { .. } => Some(Sort::MapShared),
        StepKind::Mprotect { .. } => Some(Sort::Protect),
        StepKind::Madvise { .. } => Some(Sort::Advise),
        StepKind::Fill { .. } => Some(Sort::Fill),
        StepKind::SigAction { .. } => Some(Sort::Handle),
        StepKind::RLimit { .. } => Some(Sort::Limit),
        _ => None,
    }
}

/// Whether the two operations, one behind the other, are told in one line.
pub(super) fn is_alike(prepared: &Prepared, a: OpId, b: OpId) -> bool {
    let sort_of = |op| step(prepared, op).and_then(sort);
    let graph = &prepared.plan.graph;
    sort_of(a).is_some_and(|sort| Some(sort) == sort_of(b)) && graph.op(a).why == graph.op(b).why
}

/// Cuts operations into runs: `joins` says of two neighbours whether they stay together.
pub(super) fn cut(ops: &[OpId], joins: impl Fn(OpId, OpId) -> bool) -> Vec<&[OpId]> {
    ops.chunk_by(|a, b| joins(*a, *b)).collect()
}

/// A run of operations that are [`is_alike`] in words; a single one in its own.
pub(super) fn what(prepared: &Prepared, ops: &[OpId]) -> String {
    let steps: Vec<&StepKind> = ops.iter().filter_map(|op| step(prepared, *op)).collect();
    match (ops, steps.first().and_then(|step| sort(step))) {
        ([], _) => String::new(),
        ([op], _) | ([op, ..], None) => describe::what(prepared, *op),
        (_, Some(sort)) => summary(sort, &steps),
    }
}

fn summary(sort: Sort, steps: &[&StepKind]) -> String {
    let ranges: Vec<(u64, u64)> = steps.iter().flat_map(|step| ranges_of(step)).collect();
    let size: u64 = ranges.iter().map(|(_, len)| len).sum();
    let first = ranges.iter().map(|(start, _)| *start).min().unwrap_or(0);
    let last = ranges.iter().map(|(start, len)| start.saturating_add(*len)).max().unwrap_or(0);
    let span = format!("{}, {first:#x}-{last:#x}", words::bytes(size));
    let count = words::count(ranges.len(), "range");
    match sort {
        Sort::Unmap => format!("unmap {count}, {span}"),
        Sort::Map => format!("map {count}, {span}"),
        Sort::MapShared => format!("map {count} of shared memory, {span}"),
        Sort::Protect => format!("protect {count}, {span}"),
        Sort::Advise => format!("advice for {count}, {span}"),
        Sort::Fill => {
            format!(
                "fill {} in {} by {} reads",
                words::count(size / 4096, "page"),
                words::count(ranges.len(), "piece"),
                steps.len()
            )
        }
        Sort::Handle => {
            let signals: Vec<u32> = steps
                .iter()
                .filter_map(
                    |step| if let StepKind::SigAction { signal, .. } = step { Some(*signal) } else { None },
                )
                .collect();
            if signals.len() <= 4 {
                let names: Vec<String> = signals.into_iter().map(words::signal).collect();
                return format!("handlers of {}", names.join(", "));
            }
            format!("handlers of signals {}", words::numbers(&signals, 8))
        }
        Sort::Limit => {
            let limits: Vec<String> = steps
                .iter()
                .filter_map(|step| {
                    if let StepKind::RLimit { resource, .. } = step {
                        Some(words::limit(*resource))
                    } else {
                        None
                    }
                })
                .collect();
            if limits.len() <= 3 {
                return format!("resource limits {}", limits.join(", "));
            }
            words::count(limits.len(), "resource limit")
        }
    }
}

/// Address and length of what the step is about.
fn ranges_of(step: &StepKind) -> Vec<(u64, u64)> {
    match step {
        StepKind::Unmap { start, len }
        | StepKind::Mmap { start, len, .. }
        | StepKind::MapShared { start, len, .. }
        | StepKind::Mprotect { start, len, .. }
        | StepKind::Madvise { start, len, .. } => vec![(*start, *len)],
        StepKind::Fill { pieces, .. } => pieces.clone(),
        _ => Vec::new(),
    }
}
