//! Mappings of test programs, by address: several tasks have one there, each in its own address space.

use std::os::fd::{AsFd, AsRawFd};

use crate::pattern;

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// To be read and written.
pub const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// A mapping, or a part of one.
#[derive(Debug, Clone, Copy)]
pub struct Area {
    /// First address.
    pub start: *mut u8,
    /// Length.
    pub bytes: usize,
}

impl Area {
    /// Maps anonymous memory.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn anonymous(bytes: usize, flags: i32) -> std::io::Result<Area> {
        map(bytes, RW, flags | libc::MAP_ANONYMOUS, -1, 0)
    }

    /// Maps a file from `offset` on.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn file(
        file: impl AsFd,
        offset: usize,
        bytes: usize,
        protection: i32,
        flags: i32,
    ) -> std::io::Result<Area> {
        map(bytes, protection, flags, file.as_fd().as_raw_fd(), offset)
    }

    /// The bytes from `first` on.
    ///
    /// # Panics
    /// There are not as many.
    #[must_use]
    pub fn part(self, first: usize, bytes: usize) -> Area {
        assert!(first + bytes <= self.bytes);
        Area { start: self.start.wrapping_add(first), bytes }
    }

    /// Writes a pattern over all of it.
    pub fn fill(self, seed: u64) {
        let content = pattern(seed, self.bytes);
        // SAFETY: the program maps the range, and no Rust reference points there.
        unsafe { std::ptr::copy_nonoverlapping(content.as_ptr(), self.start, self.bytes) };
    }

    /// What is in it.
    #[must_use]
    pub fn read(self) -> Vec<u8> {
        let mut content = vec![0; self.bytes];
        // SAFETY: as in `fill`.
        unsafe { std::ptr::copy_nonoverlapping(self.start, content.as_mut_ptr(), self.bytes) };
        content
    }

    /// Whether the pattern is there.
    #[must_use]
    pub fn holds(self, seed: u64) -> bool {
        self.read() == pattern(seed, self.bytes)
    }

    /// Whether what is there is the start of the pattern.
    #[must_use]
    pub fn holds_start_of(self, seed: u64) -> bool {
        self.read() == pattern(seed, 2 * self.bytes)[..self.bytes]
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.read().iter().all(|byte| *byte == 0)
    }

    /// `mprotect(2)`.
    ///
    /// # Panics
    /// It fails.
    pub fn protect(self, protection: i32) {
        // SAFETY: as in `fill`.
        let result = unsafe { libc::mprotect(self.start.cast(), self.bytes, protection) };
        assert_eq!(result, 0, "mprotect: {}", std::io::Error::last_os_error());
    }

    /// `madvise(2)`.
    ///
    /// # Panics
    /// It fails.
    pub fn advise(self, advice: i32) {
        // SAFETY: as in `fill`.
        let result = unsafe { libc::madvise(self.start.cast(), self.bytes, advice) };
        assert_eq!(result, 0, "madvise: {}", std::io::Error::last_os_error());
    }

    /// `munmap(2)`.
    ///
    /// # Panics
    /// It fails.
    pub fn unmap(self) {
        // SAFETY: as in `fill`; nothing uses the area afterwards.
        let result = unsafe { libc::munmap(self.start.cast(), self.bytes) };
        assert_eq!(result, 0, "munmap: {}", std::io::Error::last_os_error());
    }
}

fn map(bytes: usize, protection: i32, flags: i32, fd: i32, offset: usize) -> std::io::Result<Area> {
    // SAFETY: no address is given, so nothing is replaced.
    let start =
        unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, fd, offset as libc::off_t) };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    Ok(Area { start: start.cast(), bytes })
}
