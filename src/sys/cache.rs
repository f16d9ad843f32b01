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
pub fn begin_to_read(file: &File, len: u64) -> Result<(), Errno> {
    let len = i64::try_from(len).unwrap_or(i64::MAX);
    posix_fadvise(file, 0, len, PosixFadviseAdvice::POSIX_FADV_WILLNEED)
}

/// Lets the kernel read further ahead of who reads this open file in order. Where it cannot, nothing is lost.
pub fn will_read_in_order(file: &File) {
    let _ = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL);
}

/// Reads a part of a file into the page cache, and copies it nowhere: `sendfile(2)` to `/dev/null`. Unlike what is only
/// asked for, it comes in folios as large as the read-ahead of who reads in order makes them, which is a fraction of the
/// work. Gives how much was read, 0 at the end of the file.
///
/// # Errors
/// As `sendfile(2)`.
pub fn read_through(file: &File, null: &File, offset: u64, len: u64) -> Result<u64, Errno> {
    let mut offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    // SAFETY: two open descriptors, and a live number that the kernel reads and writes.
    let result = unsafe { libc::sendfile(null.as_raw_fd(), file.as_raw_fd(), &raw mut offset, len) };
    Errno::result(result).map(|read| read as u64)
}
