//! Descriptor tables as the kernel keeps them: numbers, close-on-exec, the lowest free number.

use std::collections::BTreeMap;

use super::before::At;
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

/// One table.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    slots: BTreeMap<Fd, Entry>,
    /// No number below this is free.
    hint: Fd,
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
        self.slots.get(&fd).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Fd, Entry)> + '_ {
        self.slots.iter().map(|(fd, entry)| (*fd, *entry))
    }

    /// The lowest free number not below `least`.
    fn lowest_free(&self, least: Fd) -> Fd {
        let mut free = least.max(self.hint);
        for used in self.slots.range(free..).map(|(fd, _)| *fd) {
            if used != free {
                break;
            }
            free += 1;
        }
        free
    }

    /// Opens `desc` at the lowest free number not below `least`.
    pub(super) fn open(&mut self, least: Fd, desc: Desc, cloexec: bool) -> Fd {
        let fd = self.lowest_free(least);
        if least <= self.hint {
            self.hint = fd + 1;
        }
        self.slots.insert(fd, Entry { desc, cloexec });
        fd
    }

    /// Puts `desc` at `fd`; says what was there.
    pub(super) fn place(&mut self, fd: Fd, desc: Desc, cloexec: bool) -> Option<Entry> {
        self.slots.insert(fd, Entry { desc, cloexec })
    }

    pub(super) fn set_cloexec(&mut self, fd: Fd, cloexec: bool) {
        if let Some(entry) = self.slots.get_mut(&fd) {
            entry.cloexec = cloexec;
        }
    }

    pub(super) fn close(&mut self, fd: Fd) -> Option<Entry> {
        let entry = self.slots.remove(&fd)?;
        self.hint = self.hint.min(fd);
        Some(entry)
    }

    /// The numbers from `first` to `last` that are open.
    pub(super) fn within(&self, first: Fd, last: Fd) -> Vec<Fd> {
        if first > last {
            return Vec::new();
        }
        self.slots.range(first..=last).map(|(fd, _)| *fd).collect()
    }

    pub(super) fn holds(&self, mut wanted: impl FnMut(Desc) -> bool) -> bool {
        self.slots.values().any(|entry| wanted(entry.desc))
    }

    /// A copy for a task of its own.
    pub(super) fn copy(&self) -> Table {
        Table { slots: self.slots.clone(), hint: self.hint, unknown: self.unknown, shared: false, last: None }
    }
}
