//! Descriptor tables, and the moves that turn one into another.
//!
//! [`Table`] mirrors what the kernel keeps for a task: numbers, what they refer to, close-on-exec.
//! [`transform`] finds `dup3`, `close_range` and `F_SETFD` calls that turn a table into a wanted
//! one without ever dropping the last copy of a description that is still wanted; swaps and longer
//! cycles of numbers cost one extra copy each. Example: `{3: a, 4: b}` into `{3: b, 4: a}` takes
//! `dup3(3, 5)`, `dup3(4, 3)`, `dup3(5, 4)`, `close(5)`.

mod places;
mod slots;

use std::collections::BTreeSet;

use smallvec::SmallVec;

use crate::ids::{Fd, OfdId};
use places::Places;
use slots::Slots;

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
        /// The description.
        ofd: Option<OfdId>,
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
#[derive(Debug, Clone, Default)]
pub struct Table {
    slots: Slots,
    /// The numbers of what somebody may ask for.
    places: Places,
}

impl PartialEq for Table {
    fn eq(&self, other: &Table) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for Table {}

impl Table {
    /// The table without descriptors.
    pub fn new() -> Table {
        Table::default()
    }

    /// What a child gets, in which only `relevant`, about `count`, can be found by description: the time it takes is
    /// by their number, however long the table is.
    pub fn inherited(&self, relevant: impl Iterator<Item = OfdId>, count: usize) -> Table {
        Table { slots: self.slots.clone(), places: self.places.only(relevant, count) }
    }

    /// Whether it is the same as another, and the same can be found by description.
    pub(crate) fn is_found_alike(&self, other: &Table) -> bool {
        self == other && self.places == other.places
    }

    /// What `fd` refers to.
    pub fn get(&self, fd: Fd) -> Option<Entry> {
        self.slots.get(fd)
    }

    /// The lowest number of `ofd`.
    pub fn find(&self, ofd: OfdId) -> Option<Fd> {
        self.places.lowest(ofd)
    }

    /// All numbers of `ofd`, the lowest first.
    pub fn places_of(&self, ofd: OfdId) -> impl Iterator<Item = Fd> + '_ {
        self.places.of(ofd)
    }

    /// All slots, by number.
    pub fn iter(&self) -> impl Iterator<Item = (Fd, Entry)> + '_ {
        self.slots.iter()
    }

    /// Number of open descriptors.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number that the kernel gives the next descriptor (open(2): "the lowest-numbered file
    /// descriptor not currently open"), counting from `from`.
    pub fn lowest_free(&self, from: Fd) -> Fd {
        self.slots.lowest_free(from)
    }

    /// The first and the last open number from `first` to `last`.
    fn open_within(&self, first: Fd, last: Fd) -> Option<(Fd, Fd)> {
        let lowest = self.slots.next_open(first).filter(|fd| *fd <= last)?;
        Some((lowest, self.slots.last_open(last).unwrap_or(lowest)))
    }

    /// Opens, or replaces, `fd`.
    pub fn set(&mut self, fd: Fd, entry: Entry) {
        if let Some(ofd) = self.slots.set(fd, entry).and_then(|old| old.ofd) {
            self.places.remove(ofd, fd);
        }
        if let Some(ofd) = entry.ofd {
            self.places.insert(ofd, fd);
        }
    }

    /// Closes `fd`, if it is open.
    pub fn clear(&mut self, fd: Fd) {
        if let Some(ofd) = self.slots.clear(fd).and_then(|old| old.ofd) {
            self.places.remove(ofd, fd);
        }
    }

    /// Plays one move.
    pub fn apply(&mut self, step: Move) {
        match step {
            Move::Dup { from, to, cloexec, .. } => {
                let ofd = self.get(from).and_then(|entry| entry.ofd);
                self.set(to, Entry { ofd, cloexec });
            }
            Move::Close { first, last } => {
                let mut from = first;
                while let Some(fd) = self.slots.next_open(from).filter(|fd| *fd <= last) {
                    self.clear(fd);
                    let Some(next) = fd.checked_add(1) else { break };
                    from = next;
                }
            }
            Move::SetCloexec { fd, cloexec } => {
                if let Some(entry) = self.get(fd) {
                    self.slots.set(fd, Entry { cloexec, ..entry });
                }
            }
        }
    }

    fn has_one_copy(&self, ofd: OfdId) -> bool {
        self.places_of(ofd).take(2).count() == 1
    }

    /// Whether it is exactly `wanted`.
    fn is_alike(&self, wanted: &[(Fd, Entry)]) -> bool {
        self.len() == wanted.len() && self.iter().eq(wanted.iter().copied())
    }

    /// Closes all but `kept`, in as few ranges as can be: a range may span numbers that are not open.
    fn keep_only(&mut self, kept: &[Fd], moves: &mut Vec<Move>) {
        let found = moves.len();
        let mut from = 0;
        for fd in kept {
            if *fd > from {
                moves.extend(self.open_within(from, fd - 1).map(|(first, last)| Move::Close { first, last }));
            }
            from = fd.saturating_add(1);
        }
        moves.extend(self.open_within(from, Fd::MAX).map(|(first, last)| Move::Close { first, last }));
        if moves.len() == found {
            return;
        }
        if kept.len() < self.len() / 2 {
            let entries: Vec<(Fd, Entry)> =
                kept.iter().filter_map(|fd| self.get(*fd).map(|entry| (*fd, entry))).collect();
            *self = Table::new();
            for (fd, entry) in entries {
                self.set(fd, entry);
            }
        } else {
            for step in &moves[found..] {
                self.apply(*step);
            }
        }
    }

    /// Closes `doomed`, in ascending order, in as few ranges as can be.
    fn close(&mut self, doomed: impl IntoIterator<Item = Fd>, moves: &mut Vec<Move>) {
        let mut ranges: Vec<(Fd, Fd)> = Vec::new();
        for fd in doomed {
            match ranges.last_mut() {
                Some((_, last)) if self.open_within(*last + 1, fd - 1).is_none() => *last = fd,
                Some(_) | None => ranges.push((fd, fd)),
            }
        }
        for (first, last) in ranges {
            let step = Move::Close { first, last };
            self.apply(step);
            moves.push(step);
        }
    }

    /// Fills those numbers of `wanted` that may be to do, all of whose descriptions are open.
    fn fill(&mut self, wanted: &[(Fd, Entry)], mut is_todo: Vec<bool>, moves: &mut Vec<Move>) {
        for ((fd, entry), is_todo) in wanted.iter().zip(&mut is_todo) {
            *is_todo = *is_todo && self.get(*fd).and_then(|now| now.ofd) != entry.ofd;
        }
        // A number may be overwritten if what is there has another copy, or none is needed. Filling one
        // number can make others free to be filled, so those that hold the filled description are
        // looked at again.
        let mut ready: Vec<usize> = (0..wanted.len()).rev().filter(|at| is_todo[*at]).collect();
        let (mut left, mut lowest) = (ready.len(), 0);
        while left > 0 {
            let Some(at) = ready.pop() else {
                // Only cycles are left: set one description aside and go on.
                let Some(further) = is_todo[lowest..].iter().position(|is_todo| *is_todo) else { break };
                lowest += further;
                let to = wanted[lowest].0;
                let mut aside = self.lowest_free(0);
                while look(wanted, aside).is_some() {
                    aside = self.lowest_free(aside + 1);
                }
                let ofd = self.get(to).and_then(|entry| entry.ofd);
                let step = Move::Dup { ofd, from: to, to: aside, cloexec: false };
                self.apply(step);
                moves.push(step);
                ready.push(lowest);
                continue;
            };
            if !is_todo[at] {
                continue;
            }
            let (to, want) = wanted[at];
            let occupant = self.get(to).and_then(|entry| entry.ofd);
            if occupant.is_some_and(|ofd| self.has_one_copy(ofd)) {
                continue;
            }
            let Some((ofd, from)) = want.ofd.and_then(|ofd| Some((ofd, self.find(ofd)?))) else { break };
            let step = Move::Dup { ofd: want.ofd, from, to, cloexec: want.cloexec };
            self.apply(step);
            moves.push(step);
            is_todo[at] = false;
            left -= 1;
            // `from` now has a second copy: if it is to be overwritten itself, it may be.
            let places: SmallVec<[Fd; 4]> = self.places_of(ofd).collect();
            let again = places.iter().rev().filter_map(|fd| position(wanted, *fd));
            ready.extend(again.filter(|at| is_todo[*at]));
        }
    }

    /// Puts close-on-exec right.
    fn mark(&mut self, wanted: &[(Fd, Entry)], moves: &mut Vec<Move>) {
        for (fd, entry) in wanted {
            if self.get(*fd).is_some_and(|now| now.cloexec != entry.cloexec) {
                let step = Move::SetCloexec { fd: *fd, cloexec: entry.cloexec };
                self.apply(step);
                moves.push(step);
            }
        }
    }
}

/// Turns `table` into exactly `wanted` (description and close-on-exec at each number, nothing
/// else open) and appends the moves it took. Every wanted description must be open in `table`.
/// `wanted` is sorted by number. Takes time by its length, whatever else is open.
pub fn transform(table: &mut Table, wanted: &[(Fd, Entry)], moves: &mut Vec<Move>) {
    if table.is_alike(wanted) {
        return;
    }
    let at_the_end: Vec<Fd> = wanted.iter().map(|(fd, _)| *fd).collect();
    let is_in_place = |(fd, entry): &(Fd, Entry)| {
        entry.ofd.is_some() && table.get(*fd).is_some_and(|now| now.ofd == entry.ofd)
    };
    let is_todo: Vec<bool> = wanted.iter().map(|want| !is_in_place(want)).collect();
    let has_copies = table.places.has_copies();
    // Mostly nothing has to be moved.
    if has_copies || is_todo.contains(&true) {
        let mut kept: Vec<Fd> = Vec::with_capacity(wanted.len() + 4);
        for ((fd, entry), is_todo) in wanted.iter().zip(&is_todo) {
            if !has_copies && !is_todo {
                kept.push(*fd);
            } else {
                kept.extend(entry.ofd.into_iter().flat_map(|ofd| table.places_of(ofd)));
            }
        }
        kept.sort_unstable();
        kept.dedup();
        table.keep_only(&kept, moves);
        table.fill(wanted, is_todo, moves);
    }
    table.keep_only(&at_the_end, moves);
    table.mark(wanted, moves);
}

/// As [`transform`], for a part of the table only: what is open at the numbers of `scope` becomes `wanted`, and
/// nothing else changes. All numbers of the wanted descriptions are in the scope, and none of the wanted numbers is
/// taken by anything outside of it.
pub fn transform_part(
    table: &mut Table,
    scope: &BTreeSet<Fd>,
    wanted: &[(Fd, Entry)],
    moves: &mut Vec<Move>,
) {
    let needed = needed_by(wanted);
    let is_needed = |entry: Entry| entry.ofd.is_some_and(|ofd| needed.binary_search(&ofd).is_ok());
    let doomed: Vec<Fd> =
        scope.iter().copied().filter(|fd| table.get(*fd).is_some_and(|entry| !is_needed(entry))).collect();
    table.close(doomed, moves);
    table.fill(wanted, vec![true; wanted.len()], moves);
    let mut left: Vec<Fd> = needed.iter().flat_map(|ofd| table.places_of(*ofd)).collect();
    left.retain(|fd| look(wanted, *fd).is_none());
    left.sort_unstable();
    table.close(left, moves);
    table.mark(wanted, moves);
}

/// What a list sorted by number has at `fd`.
fn look(wanted: &[(Fd, Entry)], fd: Fd) -> Option<Entry> {
    position(wanted, fd).map(|at| wanted[at].1)
}

/// Where a list sorted by number has `fd`.
fn position(wanted: &[(Fd, Entry)], fd: Fd) -> Option<usize> {
    wanted.binary_search_by_key(&fd, |(other, _)| *other).ok()
}

/// All descriptions of a table, sorted.
fn needed_by(wanted: &[(Fd, Entry)]) -> Vec<OfdId> {
    let mut needed: Vec<OfdId> = Vec::with_capacity(wanted.len());
    needed.extend(wanted.iter().filter_map(|(_, entry)| entry.ofd));
    needed.sort_unstable();
    needed.dedup();
    needed
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
        let wanted: Vec<(Fd, Entry)> = goal.iter().collect();
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

    /// What is put right in parts ends as what is put right as a whole, and nothing else is touched.
    #[test]
    fn every_small_part() {
        // Numbers 0..4 over three descriptions, beside others that stay.
        let stays = [(4, 8), (7, 9)];
        let tables: Vec<Vec<(Fd, u32)>> = (0..256u32)
            .map(|code| {
                (0..4).filter_map(|fd| ((code >> (2 * fd)) & 3).checked_sub(1).map(|ofd| (fd, ofd))).collect()
            })
            .collect();
        for from in &tables {
            for to in &tables {
                if !to.iter().all(|(_, ofd)| from.iter().any(|(_, have)| have == ofd)) {
                    continue;
                }
                let start = table(&[from.as_slice(), &stays].concat());
                let goal = table(&[to.as_slice(), &stays].concat());
                let wanted: Vec<(Fd, Entry)> = table(to).iter().collect();
                let scope: BTreeSet<Fd> = from.iter().map(|(fd, _)| *fd).collect();
                let (mut now, mut moves) = (start.clone(), Vec::new());
                transform_part(&mut now, &scope, &wanted, &mut moves);
                assert_eq!(now, goal, "{from:?} -> {to:?} by {moves:?}");
                let mut replay = start;
                for step in moves {
                    replay.apply(step);
                }
                assert_eq!(replay, goal);
            }
        }
    }

    /// Numbers close together, and across the borders of pages and chunks.
    #[test]
    fn numbers_by_any_way() {
        // A generator of numbers without a crate for it: multiplication modulo a prime.
        let mut seed = 1u32;
        let mut next = || {
            seed = (u64::from(seed) * 48_271 % 2_147_483_647) as u32;
            seed >> 4
        };
        for stride in [1, 7, 61, 1021, 40_009] {
            let (mut now, mut open) = (Table::new(), BTreeSet::new());
            for _ in 0..1500 {
                let fd = next() % 150 * stride;
                match next() % 8 {
                    0..5 => {
                        now.set(fd, Entry { ofd: Some(OfdId(next() % 3)), cloexec: false });
                        open.insert(fd);
                    }
                    5..7 => {
                        now.clear(fd);
                        open.remove(&fd);
                    }
                    _ => {
                        let last = fd + next() % 6 * stride;
                        let within: Vec<Fd> = open.range(fd..=last).copied().collect();
                        let ends = within.first().copied().zip(within.last().copied());
                        assert_eq!(now.open_within(fd, last), ends, "{fd} to {last}");
                        now.apply(Move::Close { first: fd, last });
                        open.retain(|fd| !within.contains(fd));
                    }
                }
                let from = next() % 150 * stride;
                for from in [0, from, from + 1, from + 63] {
                    assert_eq!(Some(now.lowest_free(from)), (from..).find(|fd| !open.contains(fd)));
                }
                assert_eq!(now.len(), open.len());
            }
            assert!(now.iter().map(|(fd, _)| fd).eq(open.iter().copied()));
            let copy = now.clone();
            now.set(0, Entry { ofd: Some(OfdId(9)), cloexec: true });
            assert_ne!(copy.get(0), now.get(0), "a copy is a copy");
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
