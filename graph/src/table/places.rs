//! At which numbers of a table a description is.
//!
//! It is asked for with every use of every description, and nobody asks for all of them in order: so it is a hash
//! map, and what is iterated over is only the numbers of one description, which are sorted.

use std::collections::HashMap;
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

/// The numbers of a description; nearly always there is one.
#[derive(Debug, Clone)]
struct Numbers {
    lowest: Fd,
    /// The others, ascending.
    others: Vec<Fd>,
}

/// The numbers of each description.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(HashMap<OfdId, Numbers, BuildHasherDefault<Spread>>);

impl Places {
    /// Those of some descriptions.
    pub(super) fn only(&self, relevant: impl Iterator<Item = OfdId>) -> Places {
        Places(relevant.filter_map(|ofd| Some((ofd, self.0.get(&ofd)?.clone()))).collect())
    }

    /// The numbers of a description, the lowest first.
    pub(super) fn of(&self, ofd: OfdId) -> impl Iterator<Item = Fd> + '_ {
        let numbers = self.0.get(&ofd);
        numbers
            .into_iter()
            .flat_map(|numbers| std::iter::once(numbers.lowest).chain(numbers.others.iter().copied()))
    }

    /// A description has come to a number that it did not have.
    pub(super) fn insert(&mut self, ofd: OfdId, fd: Fd) {
        let numbers = self.0.entry(ofd).or_insert(Numbers { lowest: fd, others: Vec::new() });
        if numbers.lowest == fd {
            return;
        }
        let other = numbers.lowest.max(fd);
        numbers.lowest = numbers.lowest.min(fd);
        if let Err(at) = numbers.others.binary_search(&other) {
            numbers.others.insert(at, other);
        }
    }

    /// It is there no more.
    pub(super) fn remove(&mut self, ofd: OfdId, fd: Fd) {
        let Some(numbers) = self.0.get_mut(&ofd) else { return };
        if let Ok(at) = numbers.others.binary_search(&fd) {
            numbers.others.remove(at);
        } else if numbers.lowest == fd {
            if numbers.others.is_empty() {
                self.0.remove(&ofd);
            } else {
                numbers.lowest = numbers.others.remove(0);
            }
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
        let only = places.only([OfdId(1), OfdId(3)].into_iter());
        check(&only, 1, &[5, 7]);
        check(&only, 2, &[]);
        places.remove(OfdId(2), 4);
        check(&places, 2, &[]);
    }
}
