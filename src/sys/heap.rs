//! How the C library's allocator asks the kernel for memory.

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
