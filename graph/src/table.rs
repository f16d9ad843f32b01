//! Descriptor tables, and the moves that turn one into another.
//!
//! [`Table`] mirrors what the kernel keeps for a task: numbers, what they refer to, close-on-exec.
//! [`transform`] finds `dup3`, `close_range` and `F_SETFD` calls that turn a table into a wanted
//! one without ever dropping the last copy of a description that is still wanted; swaps and longer
//! cycles of numbers cost one extra copy each. Example: `{3: a, 4: b}` into `{3: b, 4: a}` takes
//! `dup3(3, 5)`, `dup3(4, 3)`, `dup3(5, 4)`, `close(5)`.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Fd, OfdId};

/// What one number refers to. `None` stands for an open description that nobody wants
/// (the unused end of a pipe).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The description.
    pub ofd: Option<OfdId>,
    /// Close-on-exec.
    pub cloexec: bool,
}

/// One change of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// `dup3(from, to)`.
    Dup {
        /// The copy that exists.
        from: Fd,
        /// The number to fill; what is there is closed.
        to: Fd,
        /// Close-on-exec of the new number.
        cloexec: bool,
    },
    /// `close_range(first, last)`, both included.
    Close {
        /// First number.
        first: Fd,
        /// Last number.
        last: Fd,
    },
    /// `fcntl(fd, F_SETFD, …)`.
    SetCloexec {
        /// The number.
        fd: Fd,
        /// The flag.
        cloexec: bool,
    },
}

/// A descriptor table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    slots: BTreeMap<Fd, Entry>,
    places: BTreeMap<OfdId, BTreeSet<Fd>>,
}

impl Table {
    /// The table without descriptors.
    pub fn new() -> Table {
        Table::default()
    }

    /// What `fd` refers to.
    pub fn get(&self, fd: Fd) -> Option<Entry> {
        self.slots.get(&fd).copied()
    }

    /// The lowest number of `ofd`.
    pub fn find(&self, ofd: OfdId) -> Option<Fd> {
        self.places.get(&ofd).and_then(|fds| fds.first().copied())
    }

    /// All slots, by number.
    pub fn iter(&self) -> impl Iterator<Item = (Fd, Entry)> + '_ {
        self.slots.iter().map(|(fd, entry)| (*fd, *entry))
    }

    /// Number of open descriptors.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The number that the kernel gives the next descriptor (open(2): "the lowest-numbered file
    /// descriptor not currently open"), counting from `from`.
    pub fn lowest_free(&self, from: Fd) -> Fd {
        let mut free = from;
        for fd in self.slots.range(from..).map(|(fd, _)| *fd) {
            if fd != free {
                break;
            }
            free += 1;
        }
        free
    }

    /// Opens, or replaces, `fd`.
    pub fn set(&mut self, fd: Fd, entry: Entry) {
        self.clear(fd);
        self.slots.insert(fd, entry);
        if let Some(ofd) = entry.ofd {
            self.places.entry(ofd).or_default().insert(fd);
        }
    }

    /// Closes `fd`, if it is open.
    pub fn clear(&mut self, fd: Fd) {
        if let Some(old) = self.slots.remove(&fd)
            && let Some(ofd) = old.ofd
            && let Some(places) = self.places.get_mut(&ofd)
        {
            places.remove(&fd);
            if places.is_empty() {
                self.places.remove(&ofd);
            }
        }
    }

    /// Plays one move.
    pub fn apply(&mut self, step: Move) {
        match step {
            Move::Dup { from, to, cloexec } => {
                let ofd = self.slots.get(&from).and_then(|entry| entry.ofd);
                self.set(to, Entry { ofd, cloexec });
            }
            Move::Close { first, last } => {
                let doomed: Vec<Fd> = self.slots.range(first..=last).map(|(fd, _)| *fd).collect();
                for fd in doomed {
                    self.clear(fd);
                }
            }
            Move::SetCloexec { fd, cloexec } => {
                if let Some(entry) = self.slots.get_mut(&fd) {
                    entry.cloexec = cloexec;
                }
            }
        }
    }

    fn copies(&self, ofd: OfdId) -> usize {
        self.places.get(&ofd).map_or(0, BTreeSet::len)
    }
}

/// Moves that close every number of `table` for which `keep` is false, in as few ranges as can be:
/// a range may span numbers that are not open.
pub fn close_all_but(table: &mut Table, keep: impl Fn(Fd, Entry) -> bool, moves: &mut Vec<Move>) {
    let mut run: Option<(Fd, Fd)> = None;
    let mut ranges = Vec::new();
    for (fd, entry) in table.iter() {
        if keep(fd, entry) {
            ranges.extend(run.take());
        } else {
            run = Some((run.map_or(fd, |(first, _)| first), fd));
        }
    }
    ranges.extend(run);
    for (first, last) in ranges {
        let step = Move::Close { first, last };
        table.apply(step);
        moves.push(step);
    }
}

/// Turns `table` into exactly `wanted` (description and close-on-exec at each number, nothing
/// else open) and appends the moves it took. Every wanted description must be open in `table`.
pub fn transform(table: &mut Table, wanted: &BTreeMap<Fd, Entry>, moves: &mut Vec<Move>) {
    let needed: BTreeSet<OfdId> = wanted.values().filter_map(|entry| entry.ofd).collect();
    close_all_but(table, |_, entry| entry.ofd.is_some_and(|ofd| needed.contains(&ofd)), moves);

    let mut todo: BTreeSet<Fd> = wanted
        .iter()
        .filter(|(fd, entry)| table.get(**fd).and_then(|now| now.ofd) != entry.ofd)
        .map(|(fd, _)| *fd)
        .collect();
    // A number may be overwritten if what is there has another copy, or none is needed. Filling one
    // number can make others free to be filled, so those that hold the filled description are
    // looked at again.
    let mut ready: Vec<Fd> = todo.iter().rev().copied().collect();
    while !todo.is_empty() {
        let Some(to) = ready.pop() else {
            // Only cycles are left: set one description aside and go on.
            let Some(&to) = todo.first() else { break };
            let aside =
                (0..).find(|fd| table.get(*fd).is_none() && !wanted.contains_key(fd)).unwrap_or(Fd::MAX);
            let step = Move::Dup { from: to, to: aside, cloexec: false };
            table.apply(step);
            moves.push(step);
            ready.push(to);
            continue;
        };
        if !todo.contains(&to) {
            continue;
        }
        let occupant = table.get(to).and_then(|entry| entry.ofd);
        if occupant.is_some_and(|ofd| table.copies(ofd) == 1) {
            continue;
        }
        let want = wanted[&to];
        let Some(from) = want.ofd.and_then(|ofd| table.find(ofd)) else { break };
        let step = Move::Dup { from, to, cloexec: want.cloexec };
        table.apply(step);
        moves.push(step);
        todo.remove(&to);
        // `from` now has a second copy: if it is to be overwritten itself, it may be.
        if let Some(places) = want.ofd.and_then(|ofd| table.places.get(&ofd)) {
            ready.extend(places.iter().rev().filter(|fd| todo.contains(fd)));
        }
    }
    close_all_but(table, |fd, _| wanted.contains_key(&fd), moves);
    for (fd, entry) in wanted {
        if table.get(*fd).is_some_and(|now| now.cloexec != entry.cloexec) {
            let step = Move::SetCloexec { fd: *fd, cloexec: entry.cloexec };
            table.apply(step);
            moves.push(step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(slots: &[(Fd, u32)]) -> Table {
        let mut table = Table::new();
        for (fd, ofd) in slots {
            table.set(*fd, Entry { ofd: Some(OfdId(*ofd)), cloexec: false });
        }
        table
    }

    /// Transforms `from` into `to` and demands at most `most` moves.
    fn check(from: &[(Fd, u32)], to: &[(Fd, u32)], most: usize) {
        let start = table(from);
        let goal = table(to);
        let wanted: BTreeMap<Fd, Entry> = goal.iter().collect();
        let mut moves = Vec::new();
        let mut now = start.clone();
        transform(&mut now, &wanted, &mut moves);
        assert_eq!(now, goal, "{from:?} -> {to:?} by {moves:?}");
        assert!(moves.len() <= most, "{moves:?}");
        let mut replay = start;
        for step in moves {
            if let Move::Dup { from, .. } = step {
                assert!(replay.get(from).is_some(), "copies from a closed number");
            }
            replay.apply(step);
        }
        assert_eq!(replay, goal);
    }

    #[test]
    fn alike_takes_nothing() {
        check(&[(0, 1), (3, 2)], &[(0, 1), (3, 2)], 0);
    }

    #[test]
    fn runs_are_closed_at_once() {
        check(&[(0, 1), (3, 2), (4, 3), (9, 4)], &[(0, 1)], 1);
        check(&[(0, 1), (3, 2), (4, 3), (9, 4)], &[(0, 1), (4, 3)], 2);
    }

    #[test]
    fn chains_and_cycles() {
        check(&[(3, 1), (4, 2)], &[(4, 1), (5, 2)], 3);
        check(&[(3, 1), (4, 2)], &[(3, 2), (4, 1)], 4);
        check(&[(3, 1), (4, 2), (5, 3)], &[(3, 3), (4, 1), (5, 2)], 5);
        check(&[(3, 1), (4, 2), (5, 3), (6, 4)], &[(3, 2), (4, 1), (5, 4), (6, 3)], 8);
        check(&[(3, 1)], &[(3, 1), (4, 1), (5, 1)], 2);
        check(&[(3, 1), (4, 1)], &[(0, 1)], 2);
    }

    #[test]
    fn every_small_case() {
        // All tables of numbers 0..4 over three descriptions, into all others that they can become.
        let tables: Vec<Vec<(Fd, u32)>> = (0..256u32)
            .map(|code| {
                (0..4).filter_map(|fd| ((code >> (2 * fd)) & 3).checked_sub(1).map(|ofd| (fd, ofd))).collect()
            })
            .collect();
        for from in &tables {
            for to in &tables {
                if to.iter().all(|(_, ofd)| from.iter().any(|(_, have)| have == ofd)) {
                    check(from, to, 12);
                }
            }
        }
    }

    #[test]
    fn lowest_free_is_the_kernels() {
        let t = table(&[(0, 1), (1, 1), (3, 1)]);
        assert_eq!(t.lowest_free(0), 2);
        assert_eq!(t.lowest_free(3), 4);
        assert_eq!(Table::new().lowest_free(0), 0);
    }
}
