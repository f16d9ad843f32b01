//! Descriptor tables as the kernel keeps them: numbers, close-on-exec, the lowest free number.

use std::collections::HashSet;

use super::before::At;
use super::ordered::{Item, Ordered};
use crate::ids::Fd;

/// An open file description in the model: an index into [`super::object::Objects`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Desc(pub(super) u32);

/// What a number refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) desc: Desc,
    pub(super) cloexec: bool,
}

impl Item for Entry {}

/// One table. A copy of it is cheap, however long it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    slots: Ordered<Entry>,
    /// Whether descriptors that nobody knows may be open: those of the launcher.
    pub(super) unknown: bool,
    /// Whether more than one task has ever used it at a time.
    pub(super) shared: bool,
    /// The last access, kept where it is shared.
    pub(super) last: Option<At>,
}

impl Table {
    /// A table with descriptors that nobody knows.
    pub(super) fn unknown() -> Table {
        Table { unknown: true, ..Table::default() }
    }

    pub(super) fn get(&self, fd: Fd) -> Option<Entry> {
        self.slots.get(fd.into()).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Fd, Entry)> + '_ {
        self.slots.iter().map(|(fd, entry)| (fd as Fd, *entry))
    }

    /// Opens `desc` at the lowest free number not below `least`.
    pub(super) fn open(&mut self, least: Fd, desc: Desc, cloexec: bool) -> Fd {
        let fd = self.slots.lowest_absent(least.into());
        self.slots.insert(fd, Entry { desc, cloexec });
        fd as Fd
    }

    /// Puts `desc` at `fd`; says what was there.
    pub(super) fn place(&mut self, fd: Fd, desc: Desc, cloexec: bool) -> Option<Entry> {
        self.slots.insert(fd.into(), Entry { desc, cloexec })
    }

    pub(super) fn set_cloexec(&mut self, fd: Fd, cloexec: bool) {
        self.slots.change(fd.into(), |entry| entry.cloexec = cloexec);
    }

    pub(super) fn close(&mut self, fd: Fd) -> Option<Entry> {
        self.slots.remove(fd.into())
    }

    /// Closes all numbers from `first` to `last`: those that are in nodes of their own go with them.
    pub(super) fn close_range(&mut self, first: Fd, last: Fd) {
        self.slots.remove_range(first.into(), u64::from(last) + 1);
    }

    /// Marks all numbers from `first` to `last` as close-on-exec, one by one.
    pub(super) fn mark_range(&mut self, first: Fd, last: Fd) {
        self.slots.change_range(first.into(), u64::from(last) + 1, &mut |entry| entry.cloexec = true);
    }

    /// Goes through the descriptions in nodes that have not been `seen` in other tables.
    pub(super) fn visit_new(&self, seen: &mut HashSet<usize>, visit: &mut impl FnMut(Desc)) {
        self.slots.visit_new(seen, &mut |entry| visit(entry.desc));
    }

    /// A copy for a task of its own.
    pub(super) fn copy(&self) -> Table {
        Table { slots: self.slots.clone(), unknown: self.unknown, shared: false, last: None }
    }
}
