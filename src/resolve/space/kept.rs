//! Which mappings a child keeps of what it is born with.
//!
//! A mapping of the child is kept if its parent had one of the same thing where it begins. What the parent's has in
//! front of it or behind it is unmapped; where the parent's ends before it does, it is made longer in place
//! (mremap(2)), as the original had been: memory that is mapped beside it would be another mapping, for the kernel
//! joins nothing to what was inherited (`vma_is_fork_child`, mm/vma.c). Protection and advice are set to the child's.
//!
//! Not kept are private huge pages, of which there may be too few for copies, and what fork does not simply copy: memory
//! that may be dropped (`MAP_DROPPABLE`), what the child has locked (all its pages would be copied at once:
//! `populate_vma_page_range`, mm/gup.c), and advice that cannot be taken back.
//!
//! Worked example: a parent with a heap `0x1000..0x9000`, and a child with `0x1000..0x3000`, readable and writable, and
//! `0x3000..0xa000`, readable. Both begin in the parent's: the first is kept as it is, the second from `0x3000` to
//! `0x9000`, and is then made a page longer and protected.

use crate::image::{Vma, VmaKind};
use crate::resolve::huge;
use crate::resolve::numbers::{MAP_DROPPABLE, MAP_TYPE};

const LOCKED: u32 = libc::MAP_LOCKED as u32;

/// Advice that can be taken back, by the next number: of merging, of core dumps, of wiping (madvise(2)).
const TAKEN_BACK: [i32; 3] = [libc::MADV_MERGEABLE, libc::MADV_DONTDUMP, libc::MADV_WIPEONFORK];

/// A mapping that a child is born with, all of it or its beginning, as it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Kept {
    /// First address: that of the child's mapping.
    pub(in super::super) start: u64,
    /// Behind the last that is there.
    pub(in super::super) end: u64,
    /// `PROT_*`.
    pub(in super::super) prot: u32,
    /// Advice, as [`Vma::madvise`].
    pub(in super::super) advice: u64,
    /// The kernel's own, of which nothing is stored that counts.
    pub(super) is_kernel: bool,
}

impl Kept {
    /// Its pages do not come along.
    pub(super) fn is_wiped(&self) -> bool {
        has(self.advice, libc::MADV_WIPEONFORK)
    }

    /// What takes the advice back that the child's has not.
    pub(in super::super) fn taken_back(&self, wanted: u64) -> impl Iterator<Item = u32> + use<> {
        let surplus = self.advice & !wanted;
        TAKEN_BACK.into_iter().filter(move |advice| has(surplus, *advice)).map(|advice| advice as u32 + 1)
    }
}

pub(super) fn has(advice: u64, which: i32) -> bool {
    advice >> which & 1 == 1
}

/// Whether a child is born with a mapping at all. Rings are made behind the forks.
pub(super) fn is_born(vma: &Vma) -> bool {
    !matches!(vma.kind, VmaKind::Vsyscall | VmaKind::AioRing) && !has(vma.madvise, libc::MADV_DONTFORK)
}

/// The mappings of a child that it keeps, by address; both lists are sorted. `at_fork` are its parent's at that time,
/// `same` says of two descriptions whether they are one file, `is_worth` whether pages between two addresses could be
/// in common: for none, nothing is made longer.
pub(super) fn kept(
    child: &[Vma],
    at_fork: &[Vma],
    same: &impl Fn(u32, u32) -> bool,
    is_worth: &impl Fn(u64, u64) -> bool,
) -> Vec<Kept> {
    let keep = |vma: &Vma| {
        let other = at_fork.get(at_fork.partition_point(|other| other.end <= vma.start))?;
        let end = vma.end.min(other.end);
        let is_long_enough = end == vma.end || may_grow(vma) && is_worth(vma.start, end);
        let is_kernel = matches!(vma.kind, VmaKind::Vdso | VmaKind::Vvar);
        (other.start <= vma.start && is_long_enough && is_born(other) && is_alike(vma, other, same))
            .then_some(Kept { start: vma.start, end, prot: other.prot, advice: other.madvise, is_kernel })
    };
    child.iter().filter_map(keep).collect()
}

/// Shared memory has an end of its own; a stack grows at its other end.
fn may_grow(vma: &Vma) -> bool {
    matches!(vma.kind, VmaKind::AnonPrivate | VmaKind::FilePrivate { .. })
        && vma.flags & libc::MAP_GROWSDOWN as u32 == 0
}

/// Whether a mapping of a child that begins within one of its parent can be had of it.
fn is_alike(vma: &Vma, other: &Vma, same: &impl Fn(u32, u32) -> bool) -> bool {
    // fork(2): the child's memory is not locked.
    if vma.flags != other.flags & !LOCKED
        || vma.flags & MAP_TYPE == MAP_DROPPABLE
        || huge::is_private(vma)
        || !can_become(other.madvise, vma.madvise)
    {
        return false;
    }
    let by = vma.start - other.start;
    let is_whole = (vma.start, vma.end, vma.prot) == (other.start, other.end, other.prot);
    // Huge pages are not cut.
    if vma.flags & libc::MAP_HUGETLB as u32 != 0 && !is_whole {
        return false;
    }
    // What a file may be mapped for is said by how it was open; where that is not stored, by the protection.
    let may_change = |a: Option<u32>, b: Option<u32>| a == b && (a.is_some() || vma.prot == other.prot);
    match (vma.kind, other.kind) {
        (VmaKind::AnonPrivate, VmaKind::AnonPrivate) => true,
        (VmaKind::Vvar, VmaKind::Vvar) | (VmaKind::Vdso, VmaKind::Vdso) => {
            is_whole && vma.madvise == other.madvise
        }
        (
            VmaKind::FilePrivate { ofd_id, offset_bytes, .. },
            VmaKind::FilePrivate { ofd_id: theirs, offset_bytes: from, .. },
        ) => from.checked_add(by) == Some(offset_bytes) && same(ofd_id, theirs),
        (
            VmaKind::FileShared { ofd_id, offset_bytes, file_flags },
            VmaKind::FileShared { ofd_id: theirs, offset_bytes: from, file_flags: flags },
        ) => {
            from.checked_add(by) == Some(offset_bytes)
                && may_change(file_flags, flags)
                && same(ofd_id, theirs)
        }
        (
            VmaKind::AnonShared { shmid, offset_bytes },
            VmaKind::AnonShared { shmid: theirs, offset_bytes: from },
        ) => shmid == theirs && from.checked_add(by) == Some(offset_bytes),
        (
            VmaKind::SysV { shmid, offset_bytes, read_only },
            VmaKind::SysV { shmid: theirs, offset_bytes: from, read_only: is },
        ) => (shmid, read_only) == (theirs, is) && from.checked_add(by) == Some(offset_bytes),
        (
            VmaKind::Memfd { ofd_id, inode_id, offset_bytes, file_flags },
            VmaKind::Memfd { ofd_id: by_ofd, inode_id: theirs, offset_bytes: from, file_flags: flags },
        ) => {
            (ofd_id, inode_id) == (by_ofd, theirs)
                && from.checked_add(by) == Some(offset_bytes)
                && may_change(file_flags, flags)
        }
        (
            VmaKind::AnonPrivate
            | VmaKind::FilePrivate { .. }
            | VmaKind::FileShared { .. }
            | VmaKind::AnonShared { .. }
            | VmaKind::SysV { .. }
            | VmaKind::Memfd { .. }
            | VmaKind::Vvar
            | VmaKind::Vdso
            | VmaKind::Vsyscall
            | VmaKind::AioRing
            | VmaKind::Other,
            _,
        ) => false,
    }
}

/// Whether advice that a mapping comes with can be made the one that is wanted.
fn can_become(from: u64, wanted: u64) -> bool {
    let surplus = TAKEN_BACK.iter().fold(from & !wanted, |surplus, advice| surplus & !(1 << advice));
    surplus == 0
}

#[cfg(test)]
pub(super) mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::image::{Image, Origin};

    pub(in super::super) const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
    pub(in super::super) const R: i32 = libc::PROT_READ;

    /// Private memory between two pages.
    pub(in super::super) fn anon(start: u64, end: u64, prot: i32) -> Vma {
        Vma {
            start: start << 12,
            end: end << 12,
            prot: prot as u32,
            flags: (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u32,
            status: 0,
            kind: VmaKind::AnonPrivate,
            madvise: 0,
            origin: Origin::new(Image::Mm(1), 0),
        }
    }

    pub(in super::super) fn advised(vma: Vma, advice: i32) -> Vma {
        Vma { madvise: vma.madvise | 1 << advice, ..vma }
    }

    pub(in super::super) fn flagged(vma: Vma, flag: i32) -> Vma {
        Vma { flags: vma.flags | flag as u32, ..vma }
    }

    fn file(start: u64, end: u64, ofd_id: u32, offset: u64) -> Vma {
        let kind = VmaKind::FilePrivate { ofd_id, offset_bytes: offset << 12, file_flags: None };
        Vma { kind, flags: libc::MAP_PRIVATE as u32, ..anon(start, end, R) }
    }

    /// What of the child's is kept, as the first page and that behind the last.
    #[track_caller]
    fn check(parent: &[Vma], child: &[Vma], expected: &[(u64, u64)]) -> Vec<Kept> {
        let kept = kept(child, parent, &|a, b| a == b, &|_, _| true);
        let found: Vec<_> = kept.iter().map(|kept| (kept.start >> 12, kept.end >> 12)).collect();
        assert_eq!(found, expected);
        kept
    }

    #[test]
    fn mappings_are_cut_and_grow() {
        let heap = [anon(1, 9, RW)];
        check(&heap, &[anon(1, 9, RW)], &[(1, 9)]);
        check(&heap, &[anon(1, 5, RW)], &[(1, 5)]);
        check(&heap, &[anon(4, 9, RW)], &[(4, 9)]);
        check(&heap, &[anon(1, 3, RW), anon(3, 5, R), anon(7, 9, RW)], &[(1, 3), (3, 5), (7, 9)]);
        check(&heap, &[anon(1, 12, RW)], &[(1, 9)]);
        check(&heap, &[anon(4, 12, R)], &[(4, 9)]);
        // Nothing grows at its beginning.
        check(&heap, &[anon(0, 9, RW)], &[]);
        check(&heap, &[anon(9, 12, RW)], &[]);
        // Not even where it could, if nothing is gained.
        assert_eq!(kept(&[anon(1, 12, RW)], &heap, &|a, b| a == b, &|_, _| false), []);
    }

    #[test]
    fn files_at_their_offsets() {
        let library = [file(1, 9, 7, 20)];
        check(&library, &[file(1, 9, 7, 20)], &[(1, 9)]);
        check(&library, &[file(3, 5, 7, 22)], &[(3, 5)]);
        check(&library, &[file(3, 5, 7, 20)], &[]);
        check(&library, &[file(3, 5, 8, 22)], &[]);
        check(&library, &[anon(3, 5, R)], &[]);
    }

    #[test]
    fn shared_memory_does_not_grow() {
        let view = |start, end, shmid, offset: u64| Vma {
            kind: VmaKind::AnonShared { shmid, offset_bytes: offset << 12 },
            flags: (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as u32,
            ..anon(start, end, RW)
        };
        check(&[view(1, 9, 5, 0)], &[view(3, 9, 5, 2)], &[(3, 9)]);
        check(&[view(1, 9, 5, 0)], &[view(3, 10, 5, 2)], &[]);
        check(&[view(1, 9, 5, 0)], &[view(3, 9, 6, 2)], &[]);
    }

    #[test]
    fn what_a_file_may_be_mapped_for() {
        let shared = |prot, file_flags| Vma {
            kind: VmaKind::FileShared { ofd_id: 7, offset_bytes: 0, file_flags },
            flags: libc::MAP_SHARED as u32,
            ..anon(1, 9, prot)
        };
        let (reads, writes) = (Some(libc::O_RDONLY as u32), Some(libc::O_RDWR as u32));
        check(&[shared(RW, writes)], &[shared(R, writes)], &[(1, 9)]);
        check(&[shared(R, writes)], &[shared(R, reads)], &[]);
        check(&[shared(R, None)], &[shared(R, None)], &[(1, 9)]);
        check(&[shared(R, None)], &[shared(RW, None)], &[]);
    }

    #[test]
    fn advice_and_locks() {
        let plain = anon(1, 9, RW);
        let [secret, wiped, merged, withheld, huge] = [
            libc::MADV_DONTDUMP,
            libc::MADV_WIPEONFORK,
            libc::MADV_MERGEABLE,
            libc::MADV_DONTFORK,
            libc::MADV_HUGEPAGE,
        ]
        .map(|advice| advised(plain.clone(), advice));
        for advice in [&secret, &wiped, &merged, &withheld, &huge] {
            check(from_ref(&plain), from_ref(advice), &[(1, 9)]);
        }
        for (from, back) in [(&secret, libc::MADV_DODUMP), (&merged, libc::MADV_UNMERGEABLE)] {
            let kept = check(from_ref(from), from_ref(&plain), &[(1, 9)]);
            assert_eq!(kept[0].taken_back(0).collect::<Vec<_>>(), [back as u32]);
        }
        let kept = check(from_ref(&wiped), from_ref(&wiped), &[(1, 9)]);
        assert!(kept[0].is_wiped() && kept[0].taken_back(wiped.madvise).next().is_none());
        // There is no way back from huge pages but to forbid them, and a child is not born with what is withheld.
        check(&[huge], from_ref(&plain), &[]);
        check(&[withheld], from_ref(&plain), &[]);
        let locked = flagged(plain.clone(), libc::MAP_LOCKED);
        check(from_ref(&locked), from_ref(&plain), &[(1, 9)]);
        check(from_ref(&locked), from_ref(&locked), &[]);
        check(&[plain], &[locked], &[]);
    }
}
