//! Mappings that lie side by side and are alike when they are made: one call makes them all.
//!
//! The kernel keeps anonymous memory as one mapping anyway as long as nothing tells its parts apart (mm/vma.c,
//! `vma_merge_new_range`). What does is set later: protections when the pages are in, and advice. So nothing changes but
//! the number of calls, and that pages are filled across the borders.
//!
//! Worked example: pages that are read-only and writable in turns, all of them stored, are one `mmap(2)` of writable memory,
//! one run of pages to be copied, and an `mprotect(2)` for every second page.

use regrow_graph::ids::StepId;

use super::recipe::{StepKind, StepRecipe};
use crate::image::Vma;

/// What grows by itself, or has its pages at once, or is no usual page, stays alone.
const ALONE: u32 = (libc::MAP_GROWSDOWN | libc::MAP_LOCKED | libc::MAP_HUGETLB) as u32;

/// Lets the last step make this mapping, too, if it makes one like it just before. Whether it does.
pub(super) fn is_made_by_last(recipes: &mut [StepRecipe], last: Option<&StepId>, next: &StepKind) -> bool {
    let StepKind::Mmap { start, len, prot, flags, file_offset: None } = *next else { return false };
    let Some(recipe) = last.and_then(|last| recipes.get_mut(last.index())) else { return false };
    let StepKind::Mmap { start: first, len: so_far, prot: its_prot, flags: its_flags, file_offset: None } =
        &mut recipe.kind
    else {
        return false;
    };
    let is_one = first.checked_add(*so_far) == Some(start)
        && (*its_prot, *its_flags) == (prot, flags)
        && flags & ALONE == 0;
    if is_one {
        *so_far += len;
    }
    is_one
}

/// Adds a mapping to those that a task has while it is filled. `is_one`: it is made together with the one before. Advice is
/// given before, and parts them.
pub(super) fn add(filled: &mut Vec<Vma>, vma: &Vma, is_one: bool) {
    match filled.last_mut() {
        Some(last) if is_one && last.end == vma.start && last.madvise == vma.madvise => last.end = vma.end,
        Some(_) | None => filled.push(vma.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Image, Origin};

    const RW: u32 = (libc::PROT_READ | libc::PROT_WRITE) as u32;
    const PRIVATE: u32 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u32;

    fn mmap(start: u64, len: u64, prot: u32, flags: u32, file_offset: Option<u64>) -> StepKind {
        StepKind::Mmap { start, len, prot, flags, file_offset }
    }

    #[test]
    fn only_what_is_alike_is_one() {
        let check = |first: StepKind, next: StepKind, expected: Option<(u64, u64)>| {
            let mut recipes = [StepRecipe { kind: first, origin: Origin::new(Image::Mm(1), 0) }];
            let is_one = is_made_by_last(&mut recipes, Some(&StepId::new(0)), &next);
            let StepKind::Mmap { start, len, .. } = recipes[0].kind else { panic!("it maps") };
            assert_eq!(is_one.then_some((start, len)), expected);
        };
        let before = || mmap(0x1000, 0x2000, RW, PRIVATE, None);
        check(before(), mmap(0x3000, 0x1000, RW, PRIVATE, None), Some((0x1000, 0x3000)));
        // There is a gap, or it is not alike, or it is of a file.
        check(before(), mmap(0x4000, 0x1000, RW, PRIVATE, None), None);
        check(before(), mmap(0x3000, 0x1000, libc::PROT_READ as u32, PRIVATE, None), None);
        check(before(), mmap(0x3000, 0x1000, RW, PRIVATE | libc::MAP_NORESERVE as u32, None), None);
        check(before(), mmap(0x3000, 0x1000, RW, PRIVATE, Some(0)), None);
        check(mmap(0x1000, 0x2000, RW, PRIVATE, Some(0)), mmap(0x3000, 0x1000, RW, PRIVATE, None), None);
        for flag in [libc::MAP_GROWSDOWN, libc::MAP_LOCKED, libc::MAP_HUGETLB] {
            let flags = PRIVATE | flag as u32;
            check(mmap(0x1000, 0x2000, RW, flags, None), mmap(0x3000, 0x1000, RW, flags, None), None);
        }
        let mut none: [StepRecipe; 0] = [];
        assert!(!is_made_by_last(&mut none, None, &before()));
    }
}
