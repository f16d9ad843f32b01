//! The few questions that only an instruction or a raw system call answers.
//!
//! Each either reads or is refused by the kernel before it does anything; none changes this process.
#![allow(unsafe_code)] // CPUID, XGETBV, FXSAVE, and calls that nix has no wrapper for

use std::arch::x86_64::{__cpuid_count, _fxsave, _xgetbv, CpuidResult};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// `PR_SET_MM_MAP_SIZE`, `ARCH_MAP_VDSO_64`: linux/prctl.h, asm/prctl.h.
const PR_SET_MM_MAP_SIZE: libc::c_ulong = 15;
const ARCH_MAP_VDSO_64: libc::c_ulong = 0x2003;

/// `struct clone_args` of Linux 5.7 (88 bytes): the eleven words of clone(2).
const CLONE_ARGS_WORDS: usize = 11;
/// Index of `set_tid_size` in it.
const SET_TID_SIZE: usize = 9;

/// CPUID leaf `leaf`, subleaf `subleaf`.
pub(super) fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    // Older toolchains have it as an unsafe function, newer ones need not.
    #[allow(unused_unsafe)]
    // SAFETY: every CPU of the x86-64 architecture has the CPUID instruction.
    unsafe {
        __cpuid_count(leaf, subleaf)
    }
}

/// XCR0: the state components that the kernel has enabled for user space. `None` without XSAVE.
pub(super) fn xcr0() -> Option<u64> {
    if !std::arch::is_x86_feature_detected!("xsave") {
        return None;
    }
    #[target_feature(enable = "xsave")]
    fn read() -> u64 {
        // SAFETY: XCR0 exists wherever XGETBV does, and is readable at any privilege level.
        unsafe { _xgetbv(0) }
    }
    // SAFETY: detection above says that the CPU has XSAVE and that the kernel has enabled it
    // (CR4.OSXSAVE), without which XGETBV faults.
    Some(unsafe { read() })
}

/// Bits of MXCSR that this CPU knows: a set bit outside is refused by the kernel.
pub(super) fn mxcsr_mask() -> u32 {
    /// What a mask of 0 stands for (Intel SDM volume 1, 11.6.6).
    const DEFAULT: u32 = 0xffbf;

    #[repr(C, align(16))]
    struct FxsaveArea([u8; 512]);
    let mut area = FxsaveArea([0; 512]);
    // SAFETY: FXSAVE is part of x86-64; the area has the 512 bytes and the alignment it needs.
    unsafe { _fxsave(area.0.as_mut_ptr()) };
    match u32::from_le_bytes([area.0[28], area.0[29], area.0[30], area.0[31]]) {
        0 => DEFAULT,
        mask => mask,
    }
}

/// The answer of a `PR_GET_*` that returns its answer.
pub(super) fn prctl_get(option: libc::c_int) -> Result<u32, Errno> {
    // SAFETY: callers ask only for options that return a number and take no pointer; the unused
    // arguments are 0, as some options demand.
    let result = unsafe {
        libc::prctl(option, 0 as libc::c_ulong, 0 as libc::c_ulong, 0 as libc::c_ulong, 0 as libc::c_ulong)
    };
    Errno::result(result).map(|value| value as u32)
}

/// The execution domain. (`/proc/self/personality` is closed to who may not trace.)
pub(super) fn personality() -> Result<u32, Errno> {
    /// Asks and changes nothing (personality(2)).
    const ASK: libc::c_ulong = 0xffff_ffff;
    // SAFETY: takes no pointer, and this value only asks.
    Errno::result(unsafe { libc::personality(ASK) }).map(|persona| persona as u32)
}

/// The policy of this thread, with SCHED_RESET_ON_FORK.
pub(super) fn policy() -> Result<u32, Errno> {
    // SAFETY: takes no pointer and only asks.
    Errno::result(unsafe { libc::sched_getscheduler(0) }).map(|policy| policy as u32)
}

/// Whether clone3 is there and knows `set_tid`: EINVAL says that it read and refused one.
pub(super) fn try_clone3_set_tid() -> Errno {
    let mut args = [0u64; CLONE_ARGS_WORDS];
    args[SET_TID_SIZE] = 1;
    // SAFETY: the pointer and size describe `args`. A set_tid_size without set_tid is refused while
    // the arguments are read (kernel/fork.c, copy_clone_args_from_user), so no process is made; a
    // kernel without set_tid refuses the word that it does not know with E2BIG.
    let result = unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) };
    refusal(result)
}

/// Whether `PR_SET_MM_MAP` is there (it is with CONFIG_CHECKPOINT_RESTORE): asks for the size of its structure.
pub(super) fn try_set_mm_map() -> Result<u32, Errno> {
    let mut size: u32 = 0;
    // SAFETY: the kernel writes one u32 at the third argument, which points to a u32.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_MM,
            PR_SET_MM_MAP_SIZE,
            &raw mut size,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
        )
    };
    Errno::result(result).map(|_| size)
}

/// Whether `ARCH_MAP_VDSO_64` is there: a process that has a vDSO is refused a second with EEXIST.
///
/// To be called only in a process with a vDSO; without one this would map it.
pub(super) fn try_map_vdso() -> Errno {
    // SAFETY: the caller has found a vDSO in this process, so the kernel refuses before it maps
    // anything (arch/x86/entry/vdso/vma.c, map_vdso_once).
    let result = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_MAP_VDSO_64, 0 as libc::c_ulong) };
    refusal(result)
}

/// Whether close_range is there: EINVAL says that it read and refused a range that ends before it begins.
pub(super) fn try_close_range() -> Errno {
    // SAFETY: takes no pointer; a range whose end is below its beginning closes nothing.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 1u32, 0u32, 0u32) };
    refusal(result)
}

/// Whether memory can be filled by a userfaultfd, and its features (`UFFD_FEATURE_*`): one that knows of no memory, and is closed
/// again, changes nothing.
pub(super) fn try_userfaultfd() -> Result<u64, Errno> {
    /// uapi/linux/userfaultfd.h
    const UFFD_USER_MODE_ONLY: libc::c_int = 1;
    const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | UFFD_USER_MODE_ONLY) };
    let fd = Errno::result(fd)?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the descriptor is new, and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut api = [0xaa_u64, 0, 0];
    // SAFETY: the structure has the 24 bytes that the call reads and writes.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()) };
    Errno::result(result).map(|_| api[1])
}

/// Whether process_vm_writev is there: to write nothing into a process of one's own changes nothing.
pub(super) fn try_process_vm_writev() -> Result<(), Errno> {
    // SAFETY: no vectors are read where their count is 0.
    let result =
        unsafe { libc::process_vm_writev(libc::getpid(), std::ptr::null(), 0, std::ptr::null(), 0, 0) };
    Errno::result(result).map(drop)
}

/// Whether timers can be created with the ids of our choice: asking for the state changes nothing.
pub(super) fn try_timer_restore_ids() -> Result<(), Errno> {
    // uapi/linux/prctl.h
    const PR_TIMER_CREATE_RESTORE_IDS: libc::c_int = 77;
    const GET: libc::c_ulong = 2;
    // SAFETY: takes no pointer.
    let result = unsafe {
        libc::prctl(
            PR_TIMER_CREATE_RESTORE_IDS,
            GET,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
        )
    };
    Errno::result(result).map(drop)
}

/// Why a call that must fail has failed; `UnknownErrno` if it has not.
fn refusal(result: libc::c_long) -> Errno {
    if result == -1 { Errno::last() } else { Errno::UnknownErrno }
}
