//! The page cache: what it has of a file, and what it is to get.

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// `cachestat(2)`, since Linux 6.5 (asm/unistd_64.h).
const SYS_CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range` and `struct cachestat` (uapi/linux/mman.h).
#[repr(C)]
struct Range {
    offset: u64,
    len: u64,
}

#[repr(C)]
#[derive(Default)]
struct Stat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// How many pages of a part of a file the page cache has, or is getting.
///
/// # Errors
/// ENOSYS before Linux 6.5; EOPNOTSUPP of hugetlbfs; EPERM of a file that is neither ours nor writable.
///
/// # Sources
/// mm/filemap.c (`cachestat`, `can_do_cachestat`).
pub fn cached_pages(file: &File, offset: u64, len: u64) -> Result<u64, Errno> {
    let range = Range { offset, len };
    let mut stat = Stat::default();
    // SAFETY: both structures are as the kernel has them, and live while it reads the one and writes the other.
    let result =
        unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut stat, 0) };
    Errno::result(result).map(|_| stat.cached)
}

/// Has a part of a file read into the page cache, without waiting for it: as much at once as the device's read-ahead, or
/// one of its requests, is long, whichever is more (mm/readahead.c, `force_page_cache_ra`).
///
/// # Errors
/// As `posix_fadvise(2)`.
pub fn begin_to_read(file: &File, offset: u64, len: u64) -> Result<(), Errno> {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    posix_fadvise(file, signed(offset), signed(len), PosixFadviseAdvice::POSIX_FADV_WILLNEED)
}
