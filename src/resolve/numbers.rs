//! Numbers of the kernel's ABI that the resolution judges images by.
//!
//! # Sources
//! uapi/asm-generic/fcntl.h, uapi/linux/mman.h, uapi/asm-generic/mman-common.h, mman.h.

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;
/// `O_ACCMODE`.
pub(crate) const O_ACCMODE: u32 = libc::O_ACCMODE as u32;
/// Flags of open(2) that only matter when a file is created or truncated.
pub(crate) const O_CREATION: u32 = (libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC | libc::O_NOCTTY) as u32;
/// Status flags that fcntl(F_SETFL) can change.
pub(crate) const O_SETTABLE: u32 =
    (libc::O_APPEND | libc::O_ASYNC | libc::O_DIRECT | libc::O_NOATIME | libc::O_NONBLOCK) as u32;
/// `O_LARGEFILE` as the kernel stores it: means nothing on 64-bit machines.
pub(crate) const O_LARGEFILE: u32 = 0o100_000;
/// The bit of `O_TMPFILE` that is not `O_DIRECTORY`.
pub(crate) const O_TMPFILE_BIT: u32 = 0o20_000_000;
/// `F_SEAL_FUTURE_WRITE` (uapi/linux/fcntl.h).
pub(crate) const F_SEAL_FUTURE_WRITE: u32 = 0x10;
/// All seals up to `F_SEAL_EXEC` (uapi/linux/fcntl.h).
pub(crate) const F_SEALS_KNOWN: u32 = 0x3f;
/// Bit of `FMODE_` flags that some versions of CRIU leave in stored flags: `FMODE_EXEC` and the
/// like never reach user space; all bits of O_* are below this.
pub(crate) const O_KNOWN: u32 = 0o37_777_777;

/// The flags of mmap(2) that regrow replays.
pub(crate) const MAP_KNOWN: u32 = MAP_DROPPABLE
    | (libc::MAP_SHARED
        | libc::MAP_PRIVATE
        | libc::MAP_ANONYMOUS
        | libc::MAP_GROWSDOWN
        | libc::MAP_LOCKED
        | libc::MAP_NORESERVE
        | libc::MAP_STACK
        | libc::MAP_DENYWRITE
        | libc::MAP_EXECUTABLE) as u32;
/// The part of the flags that says what kind of mapping it is.
pub(crate) const MAP_TYPE: u32 = 0xf;
/// uapi/linux/mman.h, since Linux 6.11.
pub(crate) const MAP_DROPPABLE: u32 = 0x8;
