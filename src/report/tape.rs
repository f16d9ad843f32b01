//! Tapes as text: each record as one reads `strace`, and what it is for.

use std::fmt::Write;

use regrow_graph::ids::OpId;

use super::describe::purpose;
use crate::pipeline::Prepared;
use crate::tape::disasm;

/// The tapes, one a task, or only that of `only`.
pub fn tapes(prepared: &Prepared, only: Option<u32>) -> String {
    let mut text = String::new();
    let tapes = &prepared.tapes;
    for task in tapes.tasks.iter().filter(|task| only.is_none_or(|pid| pid == task.pid)) {
        let _ = writeln!(text, "task {}: {} records", task.pid, task.records);
        let mut last = None;
        for (index, (_, record)) in tapes.records(task).enumerate() {
            let _ = write!(text, "{index:6}  {}", disasm::line(tapes, &record));
            if last != Some(record.op) && (record.op as usize) < prepared.plan.graph.len() {
                let _ = write!(text, "    # {}", purpose(prepared, OpId(record.op)));
                last = Some(record.op);
            }
            text.push('\n');
        }
    }
    text
}
