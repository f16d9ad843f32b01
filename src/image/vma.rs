//! The status bits of a mapping in an mm image (`VMA_AREA_*` and `VMA_*` of
//! `criu/include/image.h`), as [`super::Vma::status`] keeps them.
//!
//! They say what a mapping is; the reader turns them into [`super::VmaKind`] and refuses bits that are
//! not named here. They say nothing of protection or `MAP_*` flags.
//!
//! Example: `0x201` is `AREA_REGULAR | ANON_PRIVATE`, plain private anonymous memory; `0x4081` is
//! `AREA_REGULAR | FILE_SHARED | AREA_MEMFD`, a shared mapping of a memfd, or shared anonymous memory.

/// Contents and placement are dumped and restored; missing on what the kernel provides.
pub const AREA_REGULAR: u32 = 1 << 0;
/// The stack (not written by current versions).
pub const AREA_STACK: u32 = 1 << 1;
/// The vsyscall page.
pub const AREA_VSYSCALL: u32 = 1 << 2;
/// The vDSO.
pub const AREA_VDSO: u32 = 1 << 3;
/// `[heap]`; for information.
pub const AREA_HEAP: u32 = 1 << 5;
/// Private mapping of a file: `shmid` is an id in `files.img`.
pub const FILE_PRIVATE: u32 = 1 << 6;
/// Shared mapping of a file: `shmid` is an id in `files.img`.
pub const FILE_SHARED: u32 = 1 << 7;
/// Shared anonymous memory: `shmid` is the number in `pagemap-shmem-N.img`.
pub const ANON_SHARED: u32 = 1 << 8;
/// Private anonymous memory.
pub const ANON_PRIVATE: u32 = 1 << 9;
/// A System V shared memory segment.
pub const AREA_SYSVIPC: u32 = 1 << 10;
/// Memory of a packet socket.
pub const AREA_SOCKET: u32 = 1 << 11;
/// `[vvar]` or `[vvar_vclock]`.
pub const AREA_VVAR: u32 = 1 << 12;
/// The ring of an AIO context.
pub const AREA_AIORING: u32 = 1 << 13;
/// With `FILE_PRIVATE` or `FILE_SHARED`: the file is a memfd, or shared anonymous memory.
pub const AREA_MEMFD: u32 = 1 << 14;
/// A shadow stack.
pub const AREA_SHSTK: u32 = 1 << 15;
/// Not a mapping: a range under `MADV_GUARD_INSTALL`, listed behind all mappings.
pub const AREA_GUARD: u32 = 1 << 16;
/// `[uprobes]`.
pub const AREA_UPROBES: u32 = 1 << 17;
/// The kernel does not count the mapping as committed memory (no `ac` among its `VmFlags`). It says
/// nothing about what is mapped. Since CRIU 4.3.
pub const NO_ACCOUNT: u32 = 1 << 18;
/// Dumped and restored by a plugin.
pub const EXT_PLUGIN: u32 = 1 << 27;
/// CRIU could not say what it is; never in an image.
pub const UNSUPP: u32 = 1 << 31;

/// All bits that have a name here. Bits 28 to 30 are CRIU's own during a restore, never in an image.
pub const KNOWN: u32 = AREA_REGULAR
    | AREA_STACK
    | AREA_VSYSCALL
    | AREA_VDSO
    | AREA_HEAP
    | FILE_PRIVATE
    | FILE_SHARED
    | ANON_SHARED
    | ANON_PRIVATE
    | AREA_SYSVIPC
    | AREA_SOCKET
    | AREA_VVAR
    | AREA_AIORING
    | AREA_MEMFD
    | AREA_SHSTK
    | AREA_GUARD
    | AREA_UPROBES
    | NO_ACCOUNT
    | EXT_PLUGIN
    | UNSUPP;

/// What regrow restores none of.
pub(crate) const SPECIAL: u32 = AREA_SOCKET | AREA_SHSTK | AREA_UPROBES | EXT_PLUGIN | UNSUPP;
