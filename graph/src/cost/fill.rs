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

/// What hangs on it whether a block is moved into place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moving {
    /// How many forks copy it then.
    pub forks: u64,
    /// What it takes to get a huge page, in nanoseconds.
    pub huge_page_ns: u64,
    /// How many of its pages would not be there at the forks otherwise, and are replaced by all who are born of them.
    pub late: u64,
    /// How many pages of it are stored.
    pub pages: u64,
    /// In how many places others are missing.
    pub holes: u64,
}

/// What a fork takes for a page that was moved, compared with others: their entries are copied together (mm/memory.c,
/// `copy_present_ptes`). 15 forks of 256 MiB took 49 to 67 milliseconds instead of 128 to 245, the children's first writes included.
pub(super) const MOVED_SHARE: f64 = 0.25;

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

    /// What it saves, in nanoseconds, that a block of 2 MiB is read into huge pages and moved into place; below 0 it costs. But for
    /// what it takes to get the huge page, it is taken to be filled as fast as by copies.
    pub fn saved_by_moving(&self, Moving { forks, huge_page_ns, late, pages, holes }: Moving) -> i64 {
        let forked = (1.0 - MOVED_SHARE) * pages as f64 * self.fork_page_ns;
        let replaced =
            late as f64 * (self.replace_page_ns - self.fill_page_ns + MOVED_SHARE * self.fork_page_ns);
        // Blocks are parted two at a time, by protecting a page of each and letting it be written again.
        // What is missing is read as something else, and dropped.
        let dropped = holes as f64 * (self.call_ns + self.protect_ns + 2.0 * RECORD_NS);
        (forks as f64 * (forked - replaced) - huge_page_ns as f64 - self.protect_ns - RECORD_NS - dropped)
            as i64
    }

    /// What it takes to move pages at all.
    pub fn moving(&self) -> i64 {
        let stage = self.map_ns + self.protect_ns + self.unmap_ns + 3.0 * RECORD_NS;
        stage as i64 + self.copying() + self.copying_into_mapping()
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

    #[test]
    fn blocks_that_are_forked_are_moved() {
        let costs = CostModel {
            fill_page_ns: 1000.0,
            replace_page_ns: 1600.0,
            fork_page_ns: 100.0,
            protect_ns: 400.0,
            ..CostModel::default()
        };
        let moving = Moving { pages: 512, ..Moving::default() };
        let saved = |forks, late| costs.saved_by_moving(Moving { forks, late, ..moving });
        assert_eq!(saved(0, 0), -5400);
        assert_eq!(saved(1, 0), 33_000);
        assert_eq!(saved(10, 5), 10 * (38_400 - 5 * 625) - 5400);
        assert!(saved(10, 100) < 0);
        let slow = Moving { forks: 10, huge_page_ns: 3_000_000, ..moving };
        assert!(costs.saved_by_moving(slow) < 0);
        assert!(costs.saved_by_moving(Moving { forks: 100, ..slow }) > 0);
        let holed = Moving { forks: 1, pages: 500, holes: 2, ..moving };
        assert_eq!(costs.saved_by_moving(holed), 32_100 - (2.0 * (costs.call_ns + 10_400.0)) as i64);
    }
}
