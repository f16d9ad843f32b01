//! ptrace(2) calls that the commit needs and `nix` does not have.

use nix::errno::Errno;
use nix::unistd::Pid;

fn request(request: libc::c_uint, pid: Pid, address: usize, data: usize) -> Result<(), Errno> {
    // SAFETY: the callers below pass addresses of live buffers of the size that the request says, or
    // plain numbers; the kernel changes nothing else of this process.
    Errno::result(unsafe { libc::ptrace(request, pid.as_raw(), address, data) }).map(drop)
}

/// Sets the general registers of a stopped thread.
///
/// # Errors
/// The kernel's.
pub fn set_registers(pid: Pid, registers: &libc::user_regs_struct) -> Result<(), Errno> {
    request(libc::PTRACE_SETREGS, pid, 0, (&raw const *registers).addr())
}

/// Sets the floating point and extended state (`NT_X86_XSTATE`) of a stopped thread.
///
/// # Errors
/// The kernel's: EINVAL or EFAULT where the state is not one that this CPU can have.
pub fn set_xstate(pid: Pid, xstate: &[u8]) -> Result<(), Errno> {
    const NT_X86_XSTATE: usize = 0x202;
    let vector = libc::iovec { iov_base: xstate.as_ptr().cast_mut().cast(), iov_len: xstate.len() };
    request(libc::PTRACE_SETREGSET, pid, NT_X86_XSTATE, (&raw const vector).addr())
}

/// Sets the blocked signals of a stopped thread.
///
/// # Errors
/// The kernel's.
pub fn set_signal_mask(pid: Pid, mask: u64) -> Result<(), Errno> {
    request(libc::PTRACE_SETSIGMASK, pid, size_of::<u64>(), (&raw const mask).addr())
}

/// Starts to trace a thread without stopping it. It is killed if the tracer dies. With
/// `suspends_seccomp` neither strict mode nor filters act in it until it is let go.
///
/// # Errors
/// The kernel's: EPERM where seccomp is to be suspended and the caller lacks CAP_SYS_ADMIN in the first
/// user namespace, or is under seccomp itself.
pub fn seize(pid: Pid, suspends_seccomp: bool) -> Result<(), Errno> {
    /// linux/ptrace.h
    const PTRACE_O_SUSPEND_SECCOMP: i32 = 1 << 21;
    let suspend = if suspends_seccomp { PTRACE_O_SUSPEND_SECCOMP } else { 0 };
    let options = libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD | suspend;
    request(libc::PTRACE_SEIZE, pid, 0, options as usize)
}

/// Asks a seized thread to stop.
///
/// # Errors
/// The kernel's.
pub fn interrupt(pid: Pid) -> Result<(), Errno> {
    request(libc::PTRACE_INTERRUPT, pid, 0, 0)
}

/// Lets a stopped thread go on to the entry or exit of its next system call.
///
/// # Errors
/// The kernel's.
pub fn to_syscall(pid: Pid) -> Result<(), Errno> {
    request(libc::PTRACE_SYSCALL, pid, 0, 0)
}

/// A stopped thread is no longer killed if its tracer dies: it is let go then.
///
/// # Errors
/// The kernel's.
pub fn spare(pid: Pid) -> Result<(), Errno> {
    request(libc::PTRACE_SETOPTIONS, pid, 0, 0)
}

/// Lets a stopped thread go on; with the signal, if it has stopped to have one delivered.
///
/// # Errors
/// The kernel's.
pub fn resume(pid: Pid, signal: i32) -> Result<(), Errno> {
    request(libc::PTRACE_CONT, pid, 0, signal as usize)
}

/// Sends a signal to one thread.
///
/// # Errors
/// The kernel's.
pub fn signal_thread(leader: Pid, thread: Pid, signal: i32) -> Result<(), Errno> {
    // SAFETY: numbers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_tgkill, leader.as_raw(), thread.as_raw(), signal) })
        .map(drop)
}

/// Lets a stopped thread go for good.
///
/// # Errors
/// The kernel's.
pub fn detach(pid: Pid) -> Result<(), Errno> {
    request(libc::PTRACE_DETACH, pid, 0, 0)
}

/// What a thread has stopped for that is about to have SIGSEGV delivered: the signal's code, and the address of
/// the fault, where it is one (sigaction(2), `siginfo_t`).
///
/// # Errors
/// The kernel's.
pub fn fault(pid: Pid) -> Result<(i32, u64), Errno> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    request(libc::PTRACE_GETSIGINFO, pid, 0, info.as_mut_ptr().addr())?;
    // SAFETY: all of it is plain numbers, zeroed before and written by the kernel since; `si_addr` is one of them,
    // whatever the signal is.
    unsafe {
        let info = info.assume_init();
        Ok((info.si_code, info.si_addr().addr() as u64))
    }
}

/// The result register of a stopped thread.
///
/// # Errors
/// The kernel's.
pub fn result(pid: Pid) -> Result<i64, Errno> {
    let offset = std::mem::offset_of!(libc::user_regs_struct, rax);
    Errno::clear();
    // SAFETY: PEEKUSER returns a word of the tracee's registers and writes nothing here.
    let value = unsafe { libc::ptrace(libc::PTRACE_PEEKUSER, pid.as_raw(), offset, 0) };
    match Errno::last() {
        errno if value == -1 && errno != Errno::UnknownErrno => Err(errno),
        _ => Ok(value),
    }
}

/// Waits for the next stop of a traced thread; returns its raw wait status.
///
/// # Errors
/// The kernel's.
pub fn wait(pid: Pid) -> Result<i32, Errno> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a live integer.
        match Errno::result(unsafe { libc::waitpid(pid.as_raw(), &raw mut status, libc::__WALL) }) {
            Ok(_) => return Ok(status),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
