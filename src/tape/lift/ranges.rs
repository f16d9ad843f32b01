//! What calls write, and which of it they read: no other call may write that.

use std::collections::BTreeSet;

use super::Lift;

/// Ranges of the written part: first address, and behind the last.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    /// What calls write and nobody reads.
    pub(super) outputs: BTreeSet<(u64, u64)>,
    /// What one call reads and writes.
    pub(super) cells: BTreeSet<(u64, u64)>,
    /// What calls read and write as it is.
    pub(super) kept: BTreeSet<(u64, u64)>,
}

impl Ranges {
    /// Adds those of other calls; says whether nothing is one call's own twice.
    pub(super) fn add(&mut self, others: Ranges) -> bool {
        self.outputs.extend(others.outputs);
        self.kept.extend(others.kept);
        others.cells.into_iter().all(|range| self.cells.insert(range))
    }

    /// Nothing else writes what a call reads.
    pub(super) fn check(&self) -> Lift<()> {
        let read = self.cells.iter().chain(&self.kept).map(|range| (*range, true));
        let ranges = self.outputs.iter().map(|range| (*range, false)).chain(read);
        let mut ranges: Vec<((u64, u64), bool)> = ranges.collect();
        ranges.sort_unstable();
        let (mut outputs_end, mut cells_end) = (0, 0);
        for ((start, end), is_cell) in ranges {
            if start < cells_end || is_cell && start < outputs_end {
                return Err(format!("what a call reads at {start:#x} is written by another"));
            }
            let last = if is_cell { &mut cells_end } else { &mut outputs_end };
            *last = end.max(*last);
        }
        Ok(())
    }
}
