//! At which numbers of a table a description is.
//!
//! It is asked for with every use of every description, and nobody asks for all of them in order: so it is a hash
//! map, and what is iterated over is only the numbers of one description, which are sorted.

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

/// Stands for no number, behind all others.
const NONE: Fd = Fd::MAX;

/// The numbers of each description.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// The two lowest of each. What is moved has two for a moment, and hardly anything has more.
    lowest: HashMap<OfdId, [Fd; 2], BuildHasherDefault<Spread>>,
    /// The others, ascending, where there are any.
    others: BTreeMap<OfdId, Vec<Fd>>,
    /// How many numbers there are beside the lowest ones.
    copies: usize,
}

impl Places {
    /// Those of some descriptions, about `count`.
    pub(super) fn only(&self, relevant: impl Iterator<Item = OfdId>, count: usize) -> Places {
        let mut only = Places::default();
        // Most of what it will look for and does not have it makes.
        only.lowest.reserve(count);
        for ofd in relevant {
            let Some(lowest) = self.lowest.get(&ofd) else { continue };
            if only.lowest.insert(ofd, *lowest).is_none() && lowest[1] != NONE {
                let others = self.others.get(&ofd).cloned().unwrap_or_default();
                only.copies += 1 + others.len();
                if !others.is_empty() {
                    only.others.insert(ofd, others);
                }
            }
        }
        only
    }

    /// Whether any description has more than one number.
    pub(super) fn has_copies(&self) -> bool {
        self.copies > 0
    }

    /// The numbers of a description, the lowest first.
    pub(super) fn of(&self, ofd: OfdId) -> impl Iterator<Item = Fd> + '_ {
        let lowest = self.lowest.get(&ofd).into_iter().flatten().filter(|fd| **fd != NONE);
        let others = if self.others.is_empty() { None } else { self.others.get(&ofd) };
        lowest.chain(others.into_iter().flatten()).copied()
    }

    /// The lowest number of a description.
    pub(super) fn lowest(&self, ofd: OfdId) -> Option<Fd> {
        self.lowest.get(&ofd).map(|lowest| lowest[0])
    }

    /// A description has come to a number that it did not have.
    pub(super) fn insert(&mut self, ofd: OfdId, fd: Fd) {
        let lowest = self.lowest.entry(ofd).or_insert([NONE; 2]);
        if lowest.contains(&fd) {
            return;
        }
        let is_first = lowest[0] == NONE;
        let mut further = fd;
        for place in lowest {
            if further < *place {
                std::mem::swap(place, &mut further);
            }
        }
        if further != NONE {
            let others = self.others.entry(ofd).or_default();
            match others.binary_search(&further) {
                Ok(_) => return,
                Err(at) => others.insert(at, further),
            }
        }
        self.copies += usize::from(!is_first);
    }

    /// It is there no more.
    pub(super) fn remove(&mut self, ofd: OfdId, fd: Fd) {
        let Some(lowest) = self.lowest.get_mut(&ofd) else { return };
        if *lowest == [fd, NONE] {
            self.lowest.remove(&ofd);
            return;
        }
        // Which of the others goes, or moves up.
        let at = match lowest.iter().position(|place| *place == fd) {
            Some(at) => {
                lowest[at] = lowest[1];
                lowest[1] = NONE;
                Ok(0)
            }
            None => self.others.get(&ofd).map_or(Err(0), |others| others.binary_search(&fd)),
        };
        let Ok(at) = at else { return };
        self.copies -= 1;
        if let Some(others) = self.others.get_mut(&ofd) {
            let further = others.remove(at);
            if further != fd {
                lowest[1] = further;
            }
            if others.is_empty() {
                self.others.remove(&ofd);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn check(places: &Places, ofd: u32, expected: &[Fd]) {
        assert_eq!(places.of(OfdId(ofd)).collect::<Vec<_>>(), expected);
    }

    /// Beside sets that are known to be right.
    #[test]
    fn any_numbers() {
        let mut state = 1u64;
        let (mut places, mut wanted) = (Places::default(), BTreeMap::<u32, BTreeSet<Fd>>::new());
        for _ in 0..5000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (ofd, fd) = ((state >> 40) as u32 % 3, (state >> 50) as Fd % 6);
            if state >> 63 == 0 {
                places.insert(OfdId(ofd), fd);
                wanted.entry(ofd).or_default().insert(fd);
            } else {
                places.remove(OfdId(ofd), fd);
                wanted.entry(ofd).or_default().remove(&fd);
            }
            for (ofd, fds) in &wanted {
                check(&places, *ofd, &fds.iter().copied().collect::<Vec<_>>());
            }
            assert_eq!(places.has_copies(), wanted.values().any(|fds| fds.len() > 1));
            let only = places.only([OfdId(1), OfdId(1)].into_iter(), 1);
            assert_eq!(only.has_copies(), wanted.get(&1).is_some_and(|fds| fds.len() > 1));
            assert!(only.of(OfdId(1)).eq(places.of(OfdId(1))));
        }
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
