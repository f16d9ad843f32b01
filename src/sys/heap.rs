//! How the C library's allocator asks the kernel for memory.

use rayon::ThreadPoolBuilder;

/// What an arena has beyond what is asked for, in bytes: as much as one that is not the first can have in one piece
/// (`HEAP_MAX_SIZE`, glibc's malloc/arena.c), so that none has to grow.
const PAD_BYTES: libc::c_int = 64 << 20;
/// From this length on a piece is a mapping of its own, in bytes: the most that glibc takes (`HEAP_MAX_SIZE / 2`).
const MAPPED_FROM_BYTES: libc::c_int = 32 << 20;

/// Lets this process take memory in large pieces and keep it. It lives for one plan: nothing of what it gives back
/// would be of use to others before it ends, and it would only ask for it again. An arena of a thread otherwise grows
/// by an `mprotect(2)` for each page, in turns with the page faults of all others.
///
/// What it may not be told (another C library's allocator) it does not do; nothing depends on it.
///
/// # Sources
/// `mallopt(3)`; `sysmalloc` in glibc's malloc/malloc.c.
pub fn take_in_large_pieces() {
    for (parameter, value) in [
        (libc::M_TOP_PAD, PAD_BYTES),
        (libc::M_TRIM_THRESHOLD, libc::c_int::MAX),
        (libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES),
    ] {
        // SAFETY: it takes two numbers and touches nothing but the allocator's own parameters, under its own lock.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Lets the heap of this thread and those of the pool's threads be of huge pages, where the kernel leaves that to programs: a
/// planner touches tens of megabytes for the first time, and each page of that by a fault of its own takes a tenth of its
/// processor time. To be called after [`take_in_large_pieces`], by who plans at once. It starts the threads of rayon's
/// global pool; of one that is there already the threads keep what they have.
///
/// # Sources
/// `madvise(2)`, MADV_HUGEPAGE; Documentation/admin-guide/mm/transhuge.rst in the kernel's sources.
pub fn be_of_huge_pages() {
    advise_own_heap();
    // The pool that is there then is used.
    let _ = ThreadPoolBuilder::new().start_handler(|_| advise_own_heap()).build_global();
}

/// Gives the advice for the mapping that this thread's memory comes from. What cannot be found or advised stays as it is.
fn advise_own_heap() {
    // More than is left of what the heap began with: it is extended by a large piece, which then takes what comes.
    const BEYOND_FIRST_BYTES: usize = 256 << 10;
    let probe: Vec<u8> = Vec::with_capacity(BEYOND_FIRST_BYTES);
    let address = probe.as_ptr() as u64;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let Some((start, end)) = mapping_of(&maps, address) else { return };
    // SAFETY: MADV_HUGEPAGE changes neither what memory holds nor where it is, whoever uses it.
    unsafe { libc::madvise(start as *mut libc::c_void, (end - start) as usize, libc::MADV_HUGEPAGE) };
}

/// First address and that behind the last of the mapping which an address is in, by the lines of `proc_pid_maps(5)`.
fn mapping_of(maps: &str, address: u64) -> Option<(u64, u64)> {
    let range = |line: &str| -> Option<(u64, u64)> {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
    };
    maps.lines().filter_map(range).find(|(start, end)| (*start..*end).contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mapping_of_an_address() {
        let maps =
            "7f00-7fff r--p 00000000 08:01 5 /lib/x\n8000-a000 rw-p 00000000 00:00 0 [heap]\nnonsense\n";
        assert_eq!(mapping_of(maps, 0x8000), Some((0x8000, 0xa000)));
        assert_eq!(mapping_of(maps, 0x9fff), Some((0x8000, 0xa000)));
        assert_eq!(mapping_of(maps, 0xa000), None);
        assert_eq!(mapping_of("", 0x8000), None);
    }
}
