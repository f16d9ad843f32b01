//! Which pages are copied into place by a userfaultfd instead of being read.
//!
//! To copy saves the fault of each page, and that the kernel clears it before it is read into. Against that stand the
//! userfaultfd itself, and the mapping of the image that pages are copied from; and pages that are there already must be
//! dropped first.

use super::CostModel;

/// Pages in a row, in one mapping and in one place of the image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PageRun {
    /// How many.
    pub pages: u64,
    /// Others are there, shared with who forked the task.
    pub is_over_others: bool,
}

/// What one more record costs before it is played, in nanoseconds: to be made, lifted and checked. A read has as many
/// pages as it likes in one, each copy is one.
const RECORD_NS: f64 = 5000.0;

impl CostModel {
    /// What it saves, in nanoseconds, to copy a run instead of reading it; below 0 it costs.
    pub fn saved_by_copying(&self, run: PageRun) -> i64 {
        let pages = run.pages as f64;
        let (read_ns, dropped_ns) = if run.is_over_others {
            (self.replace_page_ns, self.protect_ns + pages * self.drop_page_ns)
        } else {
            (self.fill_page_ns, 0.0)
        };
        (pages * (read_ns - self.copy_page_ns) - self.copy_ns - RECORD_NS - dropped_ns) as i64
    }

    /// What it takes to copy into one more mapping.
    pub fn copying_into_mapping(&self) -> i64 {
        (2.0 * self.register_ns) as i64
    }

    /// What it takes to copy at all.
    pub fn copying(&self) -> i64 {
        let file = self.handle_ns + self.call_ns + self.close_last_ns;
        (file + self.map_file_ns + self.unmap_ns) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_are_copied() {
        let costs = CostModel {
            fill_page_ns: 1000.0,
            replace_page_ns: 1500.0,
            copy_page_ns: 400.0,
            copy_ns: 1100.0,
            protect_ns: 500.0,
            drop_page_ns: 100.0,
            ..CostModel::default()
        };
        let saved = |pages, is_over_others| costs.saved_by_copying(PageRun { pages, is_over_others });
        assert_eq!(saved(1, false), -5500);
        assert_eq!(saved(11, false), 500);
        assert_eq!(saved(100, false), 53_900);
        assert_eq!(saved(1, true), -5600);
        assert_eq!(saved(7, true), 400);
    }
}
