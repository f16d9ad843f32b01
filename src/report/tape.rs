//! Tapes as text: each record as one reads `strace`, and what it is for.

use std::fmt::Write;

use regrow_graph::ids::OpId;

use super::describe::purpose;
use crate::pipeline::Prepared;
use crate::store::StoredPlan;
use crate::tape::{Tapes, disasm};

/// The tapes, one a task, or only that of `only`.
pub fn tapes(prepared: &Prepared, only: Option<u32>) -> String {
    let purpose = |op: u32| ((op as usize) < prepared.plan.graph.len()).then(|| purpose(prepared, OpId(op)));
    text(&prepared.tapes, only, purpose)
}

/// The same of a stored plan.
pub fn stored_tapes(plan: &StoredPlan, only: Option<u32>) -> String {
    let purposes = plan.purposes.all();
    text(&plan.tapes, only, |op| purposes.get(&op).cloned())
}

fn text(tapes: &Tapes, only: Option<u32>, purpose: impl Fn(u32) -> Option<String>) -> String {
    let mut text = String::new();
    for task in tapes.tasks.iter().filter(|task| only.is_none_or(|pid| pid == task.pid)) {
        let _ = writeln!(text, "task {}: {} records", task.pid, task.records);
        let mut last = None;
        for (index, (_, record)) in tapes.records(task).enumerate() {
            let _ = write!(text, "{index:6}  {}", disasm::line(tapes, &record));
            if last != Some(record.op)
                && let Some(purpose) = purpose(record.op)
            {
                let _ = write!(text, "    # {purpose}");
                last = Some(record.op);
            }
            text.push('\n');
        }
    }
    text
}
