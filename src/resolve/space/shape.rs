//! What a task that sets its address space up before it forks has mapped when it does.
//!
//! That is what it has in the end, but for what it had done behind the forks, where that lets children keep more:
//!
//! - memory that it withheld from children, or that they were to find empty, only after they had been born with it;
//! - a stack that had been longer: whoever's is the longest, all others cut theirs;
//! - memory that it protected in part, and a child has in one piece. (What has been parted cannot become one mapping
//!   again in a child: `vma_is_fork_child`, mm/vma.c.)
//!
//! Worked example: a parent with `0x1000..0x3000`, writable, and `0x3000..0x5000`, readable, and a child with
//! `0x1000..0x5000`, writable. The parent maps all of it writable, forks, and then protects the rest.

use std::borrow::Cow;

use super::kept::has;
use crate::image::{Vma, VmaKind};

/// What is not copied by fork, and can as well be said behind it.
const PUT_OFF: u64 = 1 << libc::MADV_DONTFORK | 1 << libc::MADV_WIPEONFORK;
const GROWSDOWN: u32 = libc::MAP_GROWSDOWN as u32;

/// The mappings of a task at its forks: `own` are its in the end, `child` those of an heir. `is_worth` says whether
/// the two have pages in common between two addresses.
pub(super) fn fit<'a>(
    own: Cow<'a, [Vma]>,
    child: &[Vma],
    is_worth: &impl Fn(u64, u64) -> bool,
) -> Cow<'a, [Vma]> {
    joined(lowered(put_off(own, is_worth), child), child, is_worth)
}

fn is_plain(vma: &Vma) -> bool {
    const OTHER: i32 = libc::MAP_LOCKED | libc::MAP_HUGETLB;
    vma.kind == VmaKind::AnonPrivate && vma.flags & OTHER as u32 == 0
}

fn put_off<'a>(mut own: Cow<'a, [Vma]>, is_worth: &impl Fn(u64, u64) -> bool) -> Cow<'a, [Vma]> {
    let is_early = |vma: &Vma| {
        vma.madvise & PUT_OFF != 0
            && vma.flags & libc::MAP_HUGETLB as u32 == 0
            && matches!(vma.kind, VmaKind::AnonPrivate | VmaKind::FilePrivate { .. })
            && is_worth(vma.start, vma.end)
    };
    if own.iter().any(is_early) {
        for vma in own.to_mut().iter_mut().filter(|vma| is_early(vma)) {
            vma.madvise &= !PUT_OFF;
        }
    }
    own
}

fn lowered<'a>(mut own: Cow<'a, [Vma]>, child: &[Vma]) -> Cow<'a, [Vma]> {
    for theirs in child.iter().filter(|vma| is_plain(vma) && vma.flags & GROWSDOWN != 0) {
        let at = own.partition_point(|vma| vma.end < theirs.end);
        let is_longer = own.get(at).is_some_and(|vma| {
            is_plain(vma) && vma.end == theirs.end && vma.flags == theirs.flags && theirs.start < vma.start
        });
        let is_free = at.checked_sub(1).is_none_or(|below| own[below].end <= theirs.start);
        if is_longer && is_free {
            own.to_mut()[at].start = theirs.start;
        }
    }
    own
}

fn joined<'a>(
    mut own: Cow<'a, [Vma]>,
    child: &[Vma],
    is_worth: &impl Fn(u64, u64) -> bool,
) -> Cow<'a, [Vma]> {
    // From the last on: what is joined is one less, and those before it stay where they are.
    for theirs in child.iter().rev().filter(|vma| is_plain(vma)) {
        let first = own.partition_point(|vma| vma.end <= theirs.start);
        let behind = own.partition_point(|vma| vma.start < theirs.end);
        let Some(parts) = own.get(first..behind).filter(|parts| parts.len() > 1) else { continue };
        let are_one = parts.windows(2).all(|pair| {
            pair[0].end == pair[1].start
                && (pair[0].flags, pair[0].madvise) == (pair[1].flags, pair[1].madvise)
        });
        let are_alike = parts.iter().all(|vma| is_plain(vma) && vma.flags == theirs.flags);
        let begins = parts[0].start <= theirs.start;
        let gains = is_worth(parts[1].start, theirs.end) && !has(parts[0].madvise, libc::MADV_DONTFORK);
        if are_one && are_alike && begins && gains {
            let whole = Vma { end: parts[parts.len() - 1].end, prot: theirs.prot, ..parts[0].clone() };
            own.to_mut().splice(first..behind, [whole]);
        }
    }
    own
}

/// What makes a task's mappings at its forks those that it has in the end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Settling {
    /// Ranges to be unmapped.
    pub(in super::super) unmapped: Vec<(u64, u64)>,
    /// Ranges to be protected, and how.
    pub(in super::super) protected: Vec<(u64, u64, u32)>,
    /// Advice to be given: start, end, which.
    pub(in super::super) advised: Vec<(u64, u64, u32)>,
}

pub(in super::super) fn settle(at_forks: &[Vma], end: &[Vma]) -> Settling {
    let mut settling = Settling::default();
    for vma in at_forks {
        let first = end.partition_point(|last| last.end <= vma.start);
        let mut at = vma.start;
        for last in end[first..].iter().take_while(|last| last.start < vma.end) {
            if at < last.start {
                settling.unmapped.push((at, last.start));
            }
            at = last.end;
            if last.prot != vma.prot {
                settling.protected.push((last.start, last.end, last.prot));
            }
            let more = last.madvise & !vma.madvise;
            let advised = (0..u64::BITS).filter(|advice| more >> advice & 1 == 1);
            settling.advised.extend(advised.map(|advice| (last.start, last.end, advice)));
        }
        if at < vma.end {
            settling.unmapped.push((at, vma.end));
        }
    }
    settling
}

#[cfg(test)]
mod tests {
    use super::super::kept::tests::{R, RW, advised, anon, flagged};
    use super::*;

    /// Both as pages and protection.
    #[track_caller]
    fn check(own: &[Vma], children: &[&[Vma]], expected: &[(u64, u64, i32)]) -> (Vec<Vma>, Settling) {
        let fit = |own, child: &&[Vma]| fit(own, child, &|_, _| true);
        let shape = children.iter().fold(Cow::Borrowed(own), fit).into_owned();
        let found: Vec<_> =
            shape.iter().map(|vma| (vma.start >> 12, vma.end >> 12, vma.prot as i32)).collect();
        assert_eq!(found, expected);
        let settling = settle(&shape, own);
        (shape, settling)
    }

    #[test]
    fn what_is_withheld_later() {
        let own = [anon(1, 2, RW), advised(anon(4, 9, RW), libc::MADV_DONTFORK)];
        let (shape, settling) = check(&own, &[&[anon(4, 9, RW)]], &[(1, 2, RW), (4, 9, RW)]);
        assert_eq!(shape[1].madvise, 0);
        let advised = vec![(0x4000, 0x9000, libc::MADV_DONTFORK as u32)];
        assert_eq!(settling, Settling { advised, ..Settling::default() });
        // Nothing is in common there.
        let shape = fit(Cow::Borrowed(&own), &[anon(4, 9, RW)], &|_, _| false);
        assert!(matches!(shape, Cow::Borrowed(_)));
    }

    #[test]
    fn the_longest_stack() {
        let stack = |start, end| flagged(anon(start, end, RW), libc::MAP_GROWSDOWN);
        let own = [anon(1, 3, RW), stack(8, 10)];
        let (_, settling) =
            check(&own, &[&[stack(6, 10)], &[stack(5, 10)], &[stack(9, 10)]], &[(1, 3, RW), (5, 10, RW)]);
        assert_eq!(settling, Settling { unmapped: vec![(0x5000, 0x8000)], ..Settling::default() });
        // The parent has something where the child's stack goes.
        check(&own, &[&[stack(2, 10)]], &[(1, 3, RW), (8, 10, RW)]);
    }

    #[test]
    fn what_is_parted_later() {
        let own = [anon(1, 3, RW), anon(3, 5, R), anon(5, 9, RW)];
        let (_, settling) = check(&own, &[&[anon(1, 9, RW)]], &[(1, 9, RW)]);
        assert_eq!(settling, Settling { protected: vec![(0x3000, 0x5000, R as u32)], ..Settling::default() });
        let (_, settling) = check(&own, &[&[anon(2, 5, R)]], &[(1, 5, R), (5, 9, RW)]);
        assert_eq!(
            settling,
            Settling { protected: vec![(0x1000, 0x3000, RW as u32)], ..Settling::default() }
        );
        // It begins in front of the parent's, and cannot be had of it.
        check(&own, &[&[anon(0, 9, RW)]], &[(1, 3, RW), (3, 5, R), (5, 9, RW)]);
        // There is a hole.
        let own = [anon(1, 3, RW), anon(4, 5, RW)];
        check(&own, &[&[anon(1, 5, RW)]], &[(1, 3, RW), (4, 5, RW)]);
    }
}
