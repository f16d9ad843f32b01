//! What is where, by ranges: contents of memory and of files, by their source.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::ObjectId;

/// Where bytes come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// These.
    Bytes(Arc<[u8]>),
    /// Those of a file that is there, from an offset on.
    File(ObjectId, u64),
    /// Zeroes.
    Zero,
}

impl Source {
    /// These bytes.
    pub fn bytes(bytes: &[u8]) -> Source {
        Source::Bytes(Arc::from(bytes))
    }

    /// What begins `skip` bytes further on, and is `len` long.
    fn part(&self, skip: u64, len: u64) -> Source {
        match self {
            Source::Bytes(bytes) => {
                let from = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
                let to = usize::try_from(skip.saturating_add(len)).unwrap_or(usize::MAX).min(bytes.len());
                Source::bytes(bytes.get(from..to).unwrap_or_default())
            }
            Source::File(file, at) => Source::File(file.clone(), at.saturating_add(skip)),
            Source::Zero => Source::Zero,
        }
    }

    /// Both as one, if the other goes on where this one, of `len` bytes, ends.
    fn join(&self, len: u64, other: &Source) -> Option<Source> {
        match (self, other) {
            (Source::Bytes(a), Source::Bytes(b)) => Some(Source::Bytes([&**a, &**b].concat().into())),
            (Source::File(a, at), Source::File(b, then)) => {
                (a == b && at.checked_add(len) == Some(*then)).then(|| self.clone())
            }
            (Source::Zero, Source::Zero) => Some(Source::Zero),
            (Source::Bytes(_) | Source::File(..) | Source::Zero, _) => None,
        }
    }
}

/// Ranges with sources; whatever continues its neighbour is one range with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Runs {
    /// By start: end and source.
    runs: BTreeMap<u64, (u64, Source)>,
}

impl Runs {
    /// Start, end and source of each.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64, &Source)> {
        self.runs.iter().map(|(start, (end, source))| (*start, *end, source))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Takes away what is in a range.
    pub fn remove(&mut self, from: u64, to: u64) {
        self.split(from);
        self.split(to);
        let within: Vec<u64> = self.runs.range(from..to.max(from)).map(|(start, _)| *start).collect();
        for start in within {
            self.runs.remove(&start);
        }
    }

    fn split(&mut self, at: u64) {
        let Some((start, (end, source))) = self.runs.range(..at).next_back() else { return };
        if *end <= at {
            return;
        }
        let (start, end) = (*start, *end);
        let (head, tail) = (source.part(0, at - start), source.part(at - start, end - at));
        self.runs.insert(start, (at, head));
        self.runs.insert(at, (end, tail));
    }

    /// Puts a source in.
    pub fn insert(&mut self, from: u64, to: u64, source: Source) {
        if from >= to {
            return;
        }
        self.remove(from, to);
        let (mut start, mut end, mut source) = (from, to, source);
        if let Some((before, (its_end, its))) = self.runs.range(..from).next_back()
            && *its_end == from
            && let Some(joined) = its.join(from - before, &source)
        {
            (start, source) = (*before, joined);
        }
        if let Some((its_end, its)) = self.runs.get(&to)
            && let Some(joined) = source.join(to - start, its)
        {
            end = *its_end;
            source = joined;
            self.runs.remove(&to);
        }
        self.runs.insert(start, (end, source));
    }

    /// What is in a range, from its start on.
    pub fn slice(&self, from: u64, to: u64) -> Runs {
        let mut part = Runs::default();
        let first = self.runs.range(..=from).next_back().map_or(from, |(start, _)| *start);
        for (start, (end, source)) in self.runs.range(first..to) {
            let (begin, stop) = ((*start).max(from), (*end).min(to));
            if begin < stop {
                part.insert(begin - from, stop - from, source.part(begin - start, stop - begin));
            }
        }
        part
    }

    /// Puts others in, moved by `at`.
    pub fn place(&mut self, at: u64, others: &Runs) {
        for (start, end, source) in others.iter() {
            self.insert(at + start, at + end, source.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_last_is_there() {
        let mut runs = Runs::default();
        runs.insert(10, 14, Source::bytes(b"abcd"));
        runs.insert(14, 16, Source::bytes(b"ef"));
        assert_eq!(runs.iter().collect::<Vec<_>>(), [(10, 16, &Source::bytes(b"abcdef"))]);
        runs.insert(12, 13, Source::Zero);
        let parts = [(10, 12, Source::bytes(b"ab")), (12, 13, Source::Zero), (13, 16, Source::bytes(b"def"))];
        assert_eq!(runs.iter().map(|(a, b, c)| (a, b, c.clone())).collect::<Vec<_>>(), parts);
        runs.insert(12, 13, Source::bytes(b"c"));
        assert_eq!(runs.iter().count(), 1);
        let slice = runs.slice(11, 15);
        assert_eq!(slice.iter().collect::<Vec<_>>(), [(0, 4, &Source::bytes(b"bcde"))]);
        let file = ObjectId::Host(Arc::from(&b"/f"[..]));
        let mut runs = Runs::default();
        runs.insert(0, 4096, Source::File(file.clone(), 8192));
        runs.insert(4096, 8192, Source::File(file.clone(), 12288));
        assert_eq!(runs.iter().collect::<Vec<_>>(), [(0, 8192, &Source::File(file, 8192))]);
        runs.remove(100, 200);
        assert_eq!(runs.iter().count(), 2);
    }
}
