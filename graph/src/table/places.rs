//! At which numbers of a table a description is.
//!
//! It is asked for with every use of every description, and nobody asks for all of them in order: so it is a hash
//! map, and what is iterated over is only the numbers of one description, which are sorted.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use crate::ids::{Fd, OfdId};

/// Spreads small numbers over all bits: multiplication by 2^64 divided by the golden ratio (Knuth, 6.4).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

/// The numbers of each description.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    /// The lowest of each: nearly always there is no other.
    lowest: HashMap<OfdId, Fd, BuildHasherDefault<Spread>>,
    /// The others, ascending, where there are any.
    others: BTreeMap<OfdId, Vec<Fd>>,
}

impl Places {
    /// Those of some descriptions, about `count`.
    pub(super) fn only(&self, relevant: impl Iterator<Item = OfdId>, count: usize) -> Places {
        let mut only = Places::default();
        only.lowest.reserve(count.min(self.lowest.len()));
        for ofd in relevant {
            let Some(lowest) = self.lowest.get(&ofd) else { continue };
            only.lowest.insert(ofd, *lowest);
            if self.has_others()
                && let Some(others) = self.others.get(&ofd)
            {
                only.others.insert(ofd, others.clone());
            }
        }
        only
    }

    /// Whether any description has more than one number.
    pub(super) fn has_others(&self) -> bool {
        !self.others.is_empty()
    }

    /// The numbers of a description, the lowest first.
    pub(super) fn of(&self, ofd: OfdId) -> impl Iterator<Item = Fd> + '_ {
        let others = if self.has_others() { self.others.get(&ofd) } else { None };
        self.lowest.get(&ofd).into_iter().chain(others.into_iter().flatten()).copied()
    }

    /// The lowest number of a description.
    pub(super) fn lowest(&self, ofd: OfdId) -> Option<Fd> {
        self.lowest.get(&ofd).copied()
    }

    /// A description has come to a number that it did not have.
    pub(super) fn insert(&mut self, ofd: OfdId, fd: Fd) {
        let lowest = self.lowest.entry(ofd).or_insert(fd);
        if *lowest == fd {
            return;
        }
        let other = fd.max(*lowest);
        *lowest = fd.min(*lowest);
        let others = self.others.entry(ofd).or_default();
        if let Err(at) = others.binary_search(&other) {
            others.insert(at, other);
        }
    }

    /// It is there no more.
    pub(super) fn remove(&mut self, ofd: OfdId, fd: Fd) {
        let Some(lowest) = self.lowest.get_mut(&ofd) else { return };
        if self.others.is_empty() || !self.others.contains_key(&ofd) {
            if *lowest == fd {
                self.lowest.remove(&ofd);
            }
            return;
        }
        let Entry::Occupied(mut others) = self.others.entry(ofd) else { return };
        if *lowest == fd {
            *lowest = others.get_mut().remove(0);
        } else if let Ok(at) = others.get().binary_search(&fd) {
            others.get_mut().remove(at);
        }
        if others.get().is_empty() {
            others.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(places: &Places, ofd: u32, expected: &[Fd]) {
        assert_eq!(places.of(OfdId(ofd)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_lowest_first() {
        let mut places = Places::default();
        [7, 3, 9, 3, 5].into_iter().for_each(|fd| places.insert(OfdId(1), fd));
        places.insert(OfdId(2), 4);
        check(&places, 1, &[3, 5, 7, 9]);
        places.remove(OfdId(1), 3);
        places.remove(OfdId(1), 9);
        places.remove(OfdId(1), 8);
        check(&places, 1, &[5, 7]);
        let only = places.only([OfdId(1), OfdId(3)].into_iter(), 2);
        check(&only, 1, &[5, 7]);
        check(&only, 2, &[]);
        places.remove(OfdId(2), 4);
        check(&places, 2, &[]);
    }
}
