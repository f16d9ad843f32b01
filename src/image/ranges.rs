//! Ranges of addresses, and pages within them. Ranges are pairs of the first address and the one behind the last,
//! sorted and without overlaps.

use super::alike::Run;
use super::model::Extent;

const PAGE: u64 = super::pagemap::PAGE_BYTES;

/// The addresses of an extent.
pub(crate) fn range(extent: &Extent) -> (u64, u64) {
    (extent.start, extent.start + extent.len_pages * PAGE)
}

/// The stored pages between two addresses.
pub(crate) fn stored(extents: &[Extent], start: u64, end: u64) -> impl Iterator<Item = Extent> + use<'_> {
    let first = extents.partition_point(|extent| range(extent).1 <= start);
    extents[first..].iter().map_while(move |extent| extent.within(start, end))
}

/// The parts of runs that are between two addresses.
pub(crate) fn within(runs: &[Run], start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + use<'_> {
    let first = runs.partition_point(|run| run.at + run.len <= start);
    runs[first..]
        .iter()
        .take_while(move |run| run.at < end)
        .map(move |run| (run.at.max(start), (run.at + run.len).min(end)))
}

/// Ranges as far as they are between two addresses.
pub(crate) fn cut(ranges: &[(u64, u64)], start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + use<'_> {
    let first = ranges.partition_point(|(_, behind)| *behind <= start);
    let here = ranges[first..].iter().take_while(move |(from, _)| *from < end);
    here.map(move |(from, behind)| (start.max(*from), end.min(*behind)))
}

/// Whether anything of ranges is between two addresses.
pub(crate) fn meets(ranges: &[(u64, u64)], start: u64, end: u64) -> bool {
    ranges.get(ranges.partition_point(|(_, to)| *to <= start)).is_some_and(|(from, _)| *from < end)
}

/// Extents outside and inside of ranges.
pub(crate) fn parted(extents: &[Extent], ranges: &[(u64, u64)]) -> (Vec<Extent>, Vec<Extent>) {
    let (mut outside, mut inside) = (Vec::with_capacity(extents.len()), Vec::new());
    for extent in extents {
        let (start, end) = range(extent);
        // Mostly there are no ranges, or they are elsewhere.
        if !meets(ranges, start, end) {
            outside.extend(extent.within(start, end));
            continue;
        }
        let here = without(&[range(extent)], ranges);
        outside.extend(here.iter().filter_map(|(start, end)| extent.within(*start, *end)));
        inside.extend(
            without(&[range(extent)], &here).iter().filter_map(|(start, end)| extent.within(*start, *end)),
        );
    }
    (outside, inside)
}

/// Ranges in order and without overlaps, of any.
pub(crate) fn joined(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, last| {
        let touches = next.0 <= last.1;
        if touches {
            last.1 = last.1.max(next.1);
        }
        touches
    });
    ranges
}

/// Ranges without other ranges.
pub(crate) fn without(ranges: &[(u64, u64)], others: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    for (start, end) in ranges {
        let mut at = *start;
        let first = others.partition_point(|(_, behind)| *behind <= at);
        for (from, to) in others[first..].iter().take_while(|(from, _)| from < end) {
            if at < *from {
                left.push((at, *from));
            }
            at = at.max(*to);
        }
        if at < *end {
            left.push((at, *end));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ranges: &[(u64, u64)], others: &[(u64, u64)], expected: &[(u64, u64)]) {
        assert_eq!(without(ranges, others), expected);
    }

    #[test]
    fn ranges_are_joined() {
        assert_eq!(joined(vec![(8, 9), (0, 2), (1, 3), (3, 4), (8, 9)]), [(0, 4), (8, 9)]);
        assert_eq!(joined(vec![(0, 9), (2, 3), (9, 10)]), [(0, 10)]);
        assert_eq!(joined(Vec::new()), []);
    }

    #[test]
    fn ranges_without_others() {
        check(&[(0, 10)], &[], &[(0, 10)]);
        check(&[(0, 10)], &[(0, 10)], &[]);
        check(&[(0, 10)], &[(2, 4), (6, 20)], &[(0, 2), (4, 6)]);
        check(&[(0, 3), (5, 9)], &[(1, 6), (8, 9)], &[(0, 1), (6, 8)]);
        check(&[(5, 6)], &[(0, 5), (6, 7)], &[(5, 6)]);
    }

    #[test]
    fn ranges_that_meet() {
        let ranges = [(2, 4), (6, 8)];
        assert!(meets(&ranges, 0, 3) && meets(&ranges, 3, 4) && meets(&ranges, 5, 7) && meets(&ranges, 0, 9));
        assert!(!meets(&ranges, 0, 2) && !meets(&ranges, 4, 6) && !meets(&ranges, 8, 9) && !meets(&[], 0, 9));
    }
}
