//! Many short lists, one behind another in one piece of memory.

/// A list for each number from 0 on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lists<T> {
    /// Where each begins; one more for the end of the last.
    starts: Vec<usize>,
    all: Vec<T>,
}

impl<T: Copy> Lists<T> {
    /// `count` lists of what `pairs` gives, each in that order. It is gone through twice: counted, and then put in.
    pub(crate) fn of<I: Iterator<Item = (usize, T)>>(count: usize, pairs: impl Fn() -> I) -> Lists<T> {
        // Where the next of each goes, one further on.
        let mut starts = vec![0; count + 2];
        pairs().for_each(|(list, _)| starts[list + 2] += 1);
        for at in 2..starts.len() {
            starts[at] += starts[at - 1];
        }
        let mut all = Vec::new();
        if let Some((_, any)) = pairs().next() {
            all.resize(starts[count + 1], any);
        }
        pairs().for_each(|(list, one)| {
            all[starts[list + 1]] = one;
            starts[list + 1] += 1;
        });
        starts.pop();
        Lists { starts, all }
    }

    pub(crate) fn get(&self, list: usize) -> &[T] {
        &self.all[self.starts[list]..self.starts[list + 1]]
    }

    /// All lists, to be changed in place.
    pub(crate) fn for_each(&mut self, mut change: impl FnMut(usize, &mut [T])) {
        for (list, ends) in self.starts.windows(2).enumerate() {
            change(list, &mut self.all[ends[0]..ends[1]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_in_its_order() {
        let pairs = [(2, 7), (0, 5), (2, 6), (3, 1), (0, 9)];
        let mut lists = Lists::of(5, || pairs.iter().copied());
        let all: Vec<&[i32]> = (0..5).map(|list| lists.get(list)).collect();
        assert_eq!(all, [&[5, 9][..], &[], &[7, 6], &[1], &[]]);
        lists.for_each(|list, its| its.iter_mut().for_each(|one| *one += 10 * list as i32));
        assert_eq!(lists.get(2), [27, 26]);
        assert!(Lists::<u8>::of(1, || [].into_iter()).get(0).is_empty());
    }
}
