//! Futexes shared between processes (futex(2)).

use std::sync::atomic::AtomicU32;
use std::time::Duration;

use nix::errno::Errno;

/// Waits until somebody wakes `word`, if it still holds `value`, for `timeout` at most.
/// Returns at once where it holds something else; may return without a reason.
pub fn wait(word: &AtomicU32, value: u32, timeout: Duration) {
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
    };
    // SAFETY: `word` and `timeout` live across the call; the kernel reads them and writes nothing.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, &raw const timeout, 0, 0);
    }
}

/// Wakes all who wait for `word`; says how many.
///
/// # Errors
/// What the kernel says; none is expected.
pub fn wake_all(word: &AtomicU32) -> Result<u32, Errno> {
    // SAFETY: the kernel only uses the address of `word` as a name.
    let woken = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX, 0, 0, 0) };
    Errno::result(woken).map(|count| count as u32)
}
