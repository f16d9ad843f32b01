//! What is the same for all tapes of a tree, and what those that lift them share.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use rayon::prelude::*;

use super::super::abi::{Control, EVENTS_OFFSET, PATIENCE_S, Record, Verb};
use super::super::{Tapes, TaskTape, Undo, UndoKind};
use super::Lift;

pub(super) const PAGE: u64 = 4096;
/// Calls may name the same buffers again and again; they are not read for ever.
const READ_TIMES: u64 = 16;
/// Tapes that are looked through by one job.
const TASKS: usize = 32;

/// Programs of filters, by address and length.
type Programs = BTreeMap<(u64, u64), Arc<[u8]>>;

/// What all lifters of a tree know.
pub(super) struct Common<'a> {
    pub(super) tapes: &'a Tapes,
    /// Notes of files of sockets, by the offsets of their first and second words.
    pub(super) socket_notes: BTreeMap<u64, &'a Undo>,
    /// Where each pid's tape starts.
    pub(super) tape_of: BTreeMap<u32, u64>,
    /// Behind the last event word that any tape names.
    pub(super) events_end: u64,
    /// Behind the region.
    pub(super) end: u64,
    /// For how many the barrier waits.
    pub(super) total: u32,
    /// How many bytes may still be read, by all.
    pub(super) budget: AtomicU64,
    /// Programs of filters, read once: many threads have the same.
    pub(super) programs: Mutex<Programs>,
}

impl<'a> Common<'a> {
    /// Looks at what is not in one tape: the region, the control block, the events.
    pub(super) fn of(tapes: &'a Tapes) -> Lift<Common<'a>> {
        // What a traced runner brings along is part of it: nobody may touch that either.
        let end = tapes
            .base
            .checked_add(tapes.region_len())
            .ok_or("the region does not fit into an address space")?;
        let window_end = tapes
            .base
            .checked_add(tapes.window_len)
            .ok_or("the window does not fit into an address space")?;
        let aligned =
            [tapes.base, tapes.ro_base(), end, window_end].iter().all(|address| address.is_multiple_of(PAGE));
        if !aligned || window_end < end {
            return Err("the window and its parts are no ranges of pages".to_owned());
        }
        // Tapes that all lie in the region and do not overlap are no longer than it.
        let records = tapes.tasks.iter().fold(0u64, |sum, task| sum.saturating_add(task.records.into()));
        if records.saturating_mul(size_of::<Record>() as u64) > tapes.ro.len() as u64 {
            return Err("tapes that overlap or lie outside the region".to_owned());
        }
        let mut tape_of = BTreeMap::new();
        let mut events_end = tapes.base.saturating_add(EVENTS_OFFSET);
        for task in &tapes.tasks {
            tape_of.insert(task.pid, task.tape);
        }
        let last_event = |task: &TaskTape| {
            let records = tapes.records(task).map(|(_, record)| record);
            let events = records.filter(|record| matches!(record.verb(), Some(Verb::Post | Verb::Wait)));
            events.map(|record| record.args[0].saturating_add(4)).max()
        };
        let last = tapes.tasks.par_iter().with_min_len(TASKS).filter_map(last_event).max();
        events_end = events_end.max(last.unwrap_or(0));
        let total_at = offset_of!(Control, total);
        let head_len = usize::try_from(events_end - tapes.base).unwrap_or(usize::MAX);
        let head = tapes.rw.get(..head_len).ok_or("events outside the written part of the region")?;
        let total =
            head.get(total_at..total_at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
        let patience_at = offset_of!(Control, patience);
        let patience = PATIENCE_S.to_ne_bytes();
        // With another time tasks would wait for ever, or never sleep.
        if head.get(patience_at..patience_at + 16) != Some(&[patience, [0; 8]].concat()) {
            return Err("a control block with another time to wait".to_owned());
        }
        let trace_at = offset_of!(Control, trace);
        let bias = tapes.trace().map_or(0, |area| area.bias(tapes));
        // With another one the runner would note times where it may not write.
        if head.get(trace_at..trace_at + 8) != Some(&bias.to_ne_bytes()) {
            return Err("a control block with another place for times".to_owned());
        }
        let is_set = |at: &usize| {
            [(total_at, 4), (patience_at, 8), (trace_at, 8)]
                .iter()
                .any(|(from, len)| (*from..from + len).contains(at))
        };
        let is_clean = head.iter().enumerate().all(|(at, byte)| *byte == 0 || is_set(&at));
        if !is_clean {
            return Err("control words or events that do not start as 0".to_owned());
        }
        let mut socket_notes = BTreeMap::new();
        for undo in tapes.undo.iter().filter(|undo| undo.kind == UndoKind::Socket) {
            for word in [undo.intent, undo.made] {
                socket_notes.entry(word).or_insert(undo);
            }
        }
        Ok(Common {
            tapes,
            socket_notes,
            tape_of,
            events_end,
            end,
            total: total.unwrap_or(0),
            budget: AtomicU64::new((tapes.ro.len() as u64).saturating_mul(READ_TIMES)),
            programs: Mutex::default(),
        })
    }
}
