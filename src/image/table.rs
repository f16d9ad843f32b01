//! Descriptor tables that tasks have alike.
//!
//! Children inherit the table of their parent, so that a thousand tasks may have a thousand images of the same bytes. They
//! are read as one [`Table`] that all of them hold; who changes one gets a copy of its own. What has been found out about a
//! table need not be found out about the same one again ([`Model::tables`]).
//!
//! Example: of a shell and two children that it has just forked, [`Model::tables`] gives one table.

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};
use std::slice;
use std::sync::Arc;

use super::model::{FdEntry, Model, Task};

/// A descriptor table, sorted by number.
#[derive(Debug, Clone, Default)]
pub struct Table(Arc<Vec<FdEntry>>);

impl Table {
    /// Tells tables apart that are held twice: the same number is the same table, as long as it is held.
    pub fn identity(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }
}

impl From<Vec<FdEntry>> for Table {
    fn from(entries: Vec<FdEntry>) -> Table {
        Table(Arc::new(entries))
    }
}

impl Deref for Table {
    type Target = Vec<FdEntry>;

    fn deref(&self) -> &Vec<FdEntry> {
        &self.0
    }
}

impl DerefMut for Table {
    fn deref_mut(&mut self) -> &mut Vec<FdEntry> {
        Arc::make_mut(&mut self.0)
    }
}

impl<'a> IntoIterator for &'a Table {
    type Item = &'a FdEntry;
    type IntoIter = slice::Iter<'a, FdEntry>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a mut Table {
    type Item = &'a mut FdEntry;
    type IntoIter = slice::IterMut<'a, FdEntry>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

impl Model {
    /// Each table once, in the order in which the tasks have them.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        let mut seen = BTreeSet::new();
        let tables = self.tasks.iter().filter_map(Task::alive).map(|alive| &alive.fds);
        tables.filter(move |table| seen.insert(table.identity()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_changes_a_table_has_its_own() {
        let entry = |fd| FdEntry { fd, ofd_id: 7, cloexec: false, entry: 0 };
        let first = Table::from(vec![entry(3)]);
        let mut second = first.clone();
        assert_eq!(first.identity(), second.identity());
        second.push(entry(4));
        assert_ne!(first.identity(), second.identity());
        assert_eq!((first.len(), second.len()), (1, 2));
    }

    #[test]
    fn each_table_once() {
        let mut model = super::super::increments::pair();
        let table = Table::from(vec![FdEntry { fd: 3, ofd_id: 7, cloexec: false, entry: 0 }]);
        for alive in model.tasks.iter_mut().filter_map(Task::alive_mut) {
            alive.fds = table.clone();
        }
        assert!(model.tasks.len() > 1);
        assert_eq!(model.tables().count(), 1);
        if let Some(alive) = model.tasks[1].alive_mut() {
            alive.fds[0].fd = 4;
        }
        let numbers: Vec<u32> = model.tables().map(|table| table[0].fd).collect();
        assert_eq!(numbers, [3, 4]);
    }
}
