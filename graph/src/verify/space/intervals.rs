//! Ranges of addresses or offsets with a value each, none over another.
//!
//! Every change costs as much as the ranges that it meets, whatever their lengths; what is dropped or
//! copied as a whole costs no more than a search. Worked example:
//! `10..30: a`, of which `15..20` is taken, leaves `10..15: a` and `20..30: a` with what `a` shows
//! ten bytes further on.

use std::iter::Peekable;

use super::super::ordered::{Item, Ordered};

/// A value that can be cut.
pub(super) trait Cut: Clone {
    /// What is left of it behind the first `by` bytes.
    fn rest(&self, by: u64) -> Self;

    /// Whether a fork makes something else of it.
    fn changes_at_fork(&self) -> bool {
        false
    }
}

impl Cut for () {
    fn rest(&self, _: u64) {}
}

/// The address behind the last, and the value.
#[derive(Debug, Clone)]
struct Range<T>(u64, T);

impl<T: Cut> Item for Range<T> {
    fn is_marked(&self) -> bool {
        self.1.changes_at_fork()
    }
}

/// By first address. A copy is cheap, however many there are.
#[derive(Debug, Clone)]
pub(super) struct Intervals<T> {
    ranges: Ordered<Range<T>>,
}

impl<T> Default for Intervals<T> {
    fn default() -> Intervals<T> {
        Intervals { ranges: Ordered::default() }
    }
}

impl<T: Cut> Intervals<T> {
    /// Puts a range in, in the place of whatever was there.
    pub(super) fn insert(&mut self, start: u64, end: u64, value: T) {
        self.clear(start, end);
        self.insert_free(start, end, value);
    }

    /// As [`Intervals::insert`], where nothing is.
    pub(super) fn insert_free(&mut self, start: u64, end: u64, value: T) {
        if start < end {
            self.ranges.insert(start, Range(end, value));
        }
    }

    /// Takes out what lies between two addresses.
    pub(super) fn take(&mut self, start: u64, end: u64) -> Vec<(u64, u64, T)> {
        if self.is_free(start, end) {
            return Vec::new();
        }
        self.split(start);
        self.split(end);
        let taken =
            self.ranges.range(start, end).map(|(at, Range(end, value))| (at, *end, value.clone())).collect();
        self.ranges.remove_range(start, end);
        taken
    }

    /// Drops what lies between two addresses.
    pub(super) fn clear(&mut self, start: u64, end: u64) {
        if !self.is_free(start, end) {
            self.split(start);
            self.split(end);
            self.ranges.remove_range(start, end);
        }
    }

    /// Changes what lies between two addresses.
    pub(super) fn change(&mut self, start: u64, end: u64, mut by: impl FnMut(&mut T)) {
        self.split(start);
        self.split(end);
        self.ranges.change_range(start, end, &mut |Range(_, value)| by(value));
    }

    /// The ranges that reach between two addresses, as far as they go.
    pub(super) fn over(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64, &T)> {
        let first = self.ranges.floor(start).map_or(start, |(at, _)| at);
        self.ranges
            .range(first, end)
            .filter(move |(_, Range(until, _))| *until > start)
            .map(|(at, Range(end, value))| (at, *end, value))
    }

    /// The range that an address lies in.
    pub(super) fn at(&self, address: u64) -> Option<(u64, u64, &T)> {
        let (at, Range(end, value)) = self.ranges.floor(address)?;
        (*end > address).then_some((at, *end, value))
    }

    /// All ranges in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64, &T)> {
        self.ranges.iter().map(|(at, Range(end, value))| (at, *end, value))
    }

    /// Those of which a fork makes something else.
    pub(super) fn changed_at_fork(&self) -> Vec<(u64, u64, T)> {
        self.ranges.marked().into_iter().map(|(at, Range(end, value))| (at, end, value)).collect()
    }

    /// Whether both are copies of one that have not been changed since.
    pub(super) fn is_same(&self, other: &Intervals<T>) -> bool {
        self.ranges.is_same(&other.ranges)
    }

    /// Whether nothing lies between two addresses.
    pub(super) fn is_free(&self, start: u64, end: u64) -> bool {
        let last = end.checked_sub(1).filter(|last| start <= *last).and_then(|last| self.ranges.floor(last));
        last.is_none_or(|(_, Range(until, _))| *until <= start)
    }

    /// The first address from `start` on, before `end`, where nothing lies.
    pub(super) fn hole(&self, start: u64, end: u64) -> Option<u64> {
        let mut at = start;
        for (from, to, _) in self.over(start, end) {
            if from > at {
                break;
            }
            at = to;
        }
        (at < end).then_some(at)
    }

    fn split(&mut self, at: u64) {
        let Some((start, Range(end, value))) = at.checked_sub(1).and_then(|at| self.ranges.floor(at)) else {
            return;
        };
        if *end > at {
            let rest = Range(*end, value.rest(at - start));
            self.ranges.change(start, |range| range.0 = at);
            self.ranges.insert(at, rest);
        }
    }
}

/// A range where both sides stay the same: first address and the one behind the last; then, for
/// each side that has something there, how far into that it is, and what it is.
pub(super) type Both<A, B> = (u64, u64, Option<(u64, A)>, Option<(u64, B)>);

/// Goes through two lists of ranges, each in order and without overlaps, at once. Two ranges that
/// end at the same place end together, so the steps are no more than the ranges of both.
pub(super) fn both<A: Copy, B: Copy>(
    a: impl Iterator<Item = (u64, u64, A)>,
    b: impl Iterator<Item = (u64, u64, B)>,
) -> impl Iterator<Item = Both<A, B>> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    let mut at = 0;
    std::iter::from_fn(move || {
        let (first, second) = (next(&mut a, at), next(&mut b, at));
        let starts = [first.map(|(start, ..)| start), second.map(|(start, ..)| start)];
        let start = starts.into_iter().flatten().min()?.max(at);
        let mut end = u64::MAX;
        for (from, to) in [first.map(|(from, to, _)| (from, to)), second.map(|(from, to, _)| (from, to))]
            .into_iter()
            .flatten()
        {
            end = end.min(if from > start { from } else { to });
        }
        at = end;
        let there = |from: u64| (from <= start).then(|| start - from);
        let first = first.and_then(|(from, _, value)| Some((there(from)?, value)));
        let second = second.and_then(|(from, _, value)| Some((there(from)?, value)));
        Some((start, end, first, second))
    })
}

/// The first range that does not end before `at`.
fn next<T: Copy>(
    ranges: &mut Peekable<impl Iterator<Item = (u64, u64, T)>>,
    at: u64,
) -> Option<(u64, u64, T)> {
    while ranges.next_if(|(_, end, _)| *end <= at).is_some() {}
    ranges.peek().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Cut for u64 {
        fn rest(&self, by: u64) -> u64 {
            self + by
        }
    }

    fn of(ranges: &[(u64, u64, u64)]) -> Intervals<u64> {
        let mut all = Intervals::default();
        for (start, end, value) in ranges {
            all.insert(*start, *end, *value);
        }
        all
    }

    #[track_caller]
    fn check(all: &Intervals<u64>, expected: &[(u64, u64, u64)]) {
        let found: Vec<(u64, u64, u64)> =
            all.iter().map(|(start, end, value)| (start, end, *value)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_taken_leaves_the_rest() {
        let mut all = of(&[(10, 30, 100)]);
        assert_eq!(all.take(15, 20), [(15, 20, 105)]);
        check(&all, &[(10, 15, 100), (20, 30, 110)]);
        assert_eq!(all.take(0, 10), []);
        assert_eq!(all.take(30, 99), []);
        assert_eq!(all.take(12, 22), [(12, 15, 102), (20, 22, 110)]);
        check(&all, &[(10, 12, 100), (22, 30, 112)]);
        check(&of(&[(10, 20, 1), (15, 18, 7)]), &[(10, 15, 1), (15, 18, 7), (18, 20, 9)]);
        check(&of(&[(10, 20, 1), (5, 30, 7)]), &[(5, 30, 7)]);
    }

    #[test]
    fn changes_and_holes() {
        let mut all = of(&[(10, 30, 100), (30, 40, 0)]);
        all.change(20, 35, |value| *value += 1000);
        check(&all, &[(10, 20, 100), (20, 30, 1110), (30, 35, 1000), (35, 40, 5)]);
        assert_eq!((all.hole(12, 40), all.hole(12, 41), all.hole(9, 12)), (None, Some(40), Some(9)));
        assert!(all.is_free(40, 50) && all.is_free(0, 10) && !all.is_free(39, 50) && !all.is_free(0, 11));
    }

    #[test]
    fn both_at_once() {
        let steps = |a: &[(u64, u64)], b: &[(u64, u64)]| -> Vec<(u64, u64, Option<u64>, Option<u64>)> {
            let ranges =
                |list: &[(u64, u64)]| list.iter().map(|(start, end)| (*start, *end, ())).collect::<Vec<_>>();
            both(ranges(a).into_iter(), ranges(b).into_iter())
                .map(|(start, end, a, b)| (start, end, a.map(|(into, ())| into), b.map(|(into, ())| into)))
                .collect()
        };
        assert_eq!(steps(&[], &[]), []);
        assert_eq!(steps(&[(1, 3)], &[]), [(1, 3, Some(0), None)]);
        assert_eq!(
            steps(&[(1, 5), (8, 9)], &[(3, 8)]),
            [(1, 3, Some(0), None), (3, 5, Some(2), Some(0)), (5, 8, None, Some(2)), (8, 9, Some(0), None)]
        );
        assert_eq!(steps(&[(0, 2), (2, 4)], &[(0, 4)]), [(0, 2, Some(0), Some(0)), (2, 4, Some(0), Some(2))]);
    }
}
