//! Birth of the root task, what the launcher must shed before it, and which signals have come.

use nix::errno::Errno;
use nix::unistd::{ForkResult, Pid};

use crate::runner;
use crate::tape::abi::{CLONE_ARGS_EXIT_SIGNAL, CLONE_ARGS_FLAGS, CLONE_ARGS_SIZE};

/// fork(2) of a process that has one thread.
///
/// # Errors
/// The kernel's.
pub fn fork() -> Result<Option<Pid>, Errno> {
    // SAFETY: called by `main` before any thread exists, so the child may go on as the parent could.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// The signals that are pending for the calling thread, or for the whole process (sigpending(2)): bit 0 is signal 1.
pub fn pending_signals() -> u64 {
    let mut mask = 0u64;
    // SAFETY: the kernel writes the eight bytes that it is told of, and there is nothing else that it could fail at.
    unsafe { libc::syscall(libc::SYS_rt_sigpending, &raw mut mask, size_of::<u64>()) };
    mask
}

/// unshare(2) of the time namespace: children are born in a new one.
///
/// # Errors
/// The kernel's.
pub fn unshare_time() -> Result<(), Errno> {
    /// linux/sched.h; nix does not name it.
    const CLONE_NEWTIME: libc::c_int = 0x80;
    // SAFETY: it only changes which namespace children are born in.
    Errno::result(unsafe { libc::unshare(CLONE_NEWTIME) }).map(drop)
}

/// Addresses in the mapped region that the root task starts from.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Birth {
    /// Its `struct clone_args`.
    pub clone_args: u64,
    /// Its tape.
    pub tape: u64,
    /// The control block.
    pub control: u64,
    /// The runner.
    pub code: u64,
}

/// Clones the root task; it starts to play its tape. With `sibling` it becomes a child of our own
/// parent.
///
/// # Errors
/// The kernel's: EEXIST where the pid is taken.
///
/// # Safety
/// The region that `birth` points into is mapped, as assembled, and holds these things there.
pub unsafe fn clone_root(birth: Birth, sibling: bool) -> Result<Pid, Errno> {
    const WORDS: usize = CLONE_ARGS_SIZE as usize / 8;
    // SAFETY: the caller vouches that `clone_args` is mapped.
    let mut args: [u64; WORDS] = unsafe { (birth.clone_args as *const [u64; WORDS]).read_unaligned() };
    if sibling {
        // clone(2): with CLONE_PARENT the exit signal is that of the calling process.
        args[CLONE_ARGS_FLAGS] |= libc::CLONE_PARENT as u64;
        args[CLONE_ARGS_EXIT_SIGNAL] = 0;
    }
    // SAFETY: no CLONE_VM among the flags, and the caller vouches for the addresses.
    let pid = unsafe {
        runner::enter((&raw const args).addr() as u64, CLONE_ARGS_SIZE, birth.tape, birth.control, birth.code)
    };
    if pid < 0 { Err(Errno::from_raw(-pid as i32)) } else { Ok(Pid::from_raw(pid as i32)) }
}

/// Takes back the registration for restartable sequences that the C library made for this thread:
/// it would be inherited by the root task, whose area is elsewhere or nowhere (rseq(2)).
pub fn unregister_rseq() {
    // SAFETY: dlsym with a constant name; the result is checked before use.
    let (offset, size) = unsafe {
        let offset = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()).cast::<isize>();
        let size = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()).cast::<u32>();
        if offset.is_null() || size.is_null() {
            // A C library that does not register has nothing to take back.
            return;
        }
        (*offset, *size)
    };
    if size == 0 {
        return;
    }
    let thread_pointer: u64;
    // SAFETY: on x86-64 the first word at the thread pointer is the thread pointer (ELF TLS ABI).
    unsafe { std::arch::asm!("mov {}, fs:0", out(reg) thread_pointer, options(nostack, readonly)) };
    let area = thread_pointer.wrapping_add_signed(offset as i64);
    const UNREGISTER: u64 = 1;
    const SIGNATURE: u64 = 0x5305_3053;
    // The registered length is 32 with every C library that knows one feature set; newer ones round
    // up the kernel's feature size (AT_RSEQ_FEATURE_SIZE).
    // SAFETY: getauxval has no preconditions.
    let features = unsafe { libc::getauxval(27) };
    for len in [32, features.next_multiple_of(32), u64::from(size)] {
        // SAFETY: unregistering only makes the kernel forget the area.
        if unsafe { libc::syscall(libc::SYS_rseq, area, len, UNREGISTER, SIGNATURE) } == 0 {
            return;
        }
    }
}
