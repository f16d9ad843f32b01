//! Transparent huge pages: how long it takes now to get one.
//!
//! Mostly that is a tenth of a millisecond, in which the kernel clears it. But it can be more: where none is free, the kernel
//! moves what is in the way; and a virtual machine whose host takes back what is free (free page reporting: mm/page_reporting.c,
//! in pieces of a huge page and more) has to get it from there first, for some milliseconds. What is free in smaller pieces
//! it has. So nothing but trying tells.
//!
//! # Sources
//! Documentation/admin-guide/mm/transhuge.rst, Documentation/mm/free_page_reporting.rst.

use std::time::{Duration, Instant};

use memmap2::{Advice, MmapMut};

/// What a huge page of the second level takes, in bytes.
const BLOCK: usize = 2 << 20;
/// So many are tried.
const TRIED: usize = 4;
/// No more are tried when they have taken so long.
const ENOUGH: Duration = Duration::from_millis(3);

/// How long it takes until a huge page can be used, in nanoseconds, by a few that are asked for and given back; `None`: they
/// cannot be asked for. Where the kernel gives small ones instead it is the time for one of these.
pub(super) fn huge_page_ns() -> Option<u64> {
    let mut map = MmapMut::map_anon((TRIED + 1) * BLOCK).ok()?;
    map.advise(Advice::HugePage).ok()?;
    let first = map.as_ptr().align_offset(BLOCK);
    let start = Instant::now();
    let mut tried = 0;
    while tried < TRIED && start.elapsed() < ENOUGH {
        // Whoever could see it would have to see it written.
        *std::hint::black_box(map.get_mut(first + tried * BLOCK)?) = 1;
        tried += 1;
    }
    u64::try_from(start.elapsed().as_nanos() / tried as u128).ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_takes_some_time() {
        // A kernel without transparent huge pages knows no such advice.
        let is_known = std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists();
        assert_eq!(super::huge_page_ns().is_some_and(|ns| ns > 0), is_known);
    }
}
