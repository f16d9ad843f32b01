//! A word of shared memory that tells others of this thread's death.
//!
//! The kernel walks a thread's list of robust futexes when it dies, of whatever, and marks each word that
//! holds the thread's id (get_robust_list(2); `exit_robust_list` in the kernel's kernel/futex/core.c). It does
//! so before anybody can see the death otherwise, and no code of ours has to run. So whoever maps the
//! word knows whether its owner lives, with no descriptor, no pid that might be another's by now, and
//! no system call.

use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;

/// `struct robust_list` of linux/futex.h.
#[repr(C)]
struct Node {
    next: *const Node,
}

/// `struct robust_list_head` of linux/futex.h.
#[repr(C)]
struct Head {
    list: Node,
    /// From a node to its word.
    futex_offset: libc::c_long,
    list_op_pending: *const Node,
}

/// Lets the kernel mark `word` with [`FUTEX_OWNER_DIED`](crate::tape::abi::FUTEX_OWNER_DIED) when the calling
/// thread dies; until then it holds the thread's id. Takes the place of the thread's own list, which the C library
/// keeps for robust mutexes: this program has none. A child does not inherit it.
///
/// # Errors
/// The kernel's; none is expected.
pub fn mark_when_dead(word: &'static AtomicU32) -> Result<(), Errno> {
    word.store(nix::unistd::gettid().as_raw() as u32, Ordering::SeqCst);
    // Both stay for good: the kernel reads them when nothing of ours runs any more.
    let node: &'static mut Node = Box::leak(Box::new(Node { next: std::ptr::null() }));
    let offset = word.as_ptr().addr().wrapping_sub((&raw const *node).addr());
    let head: &'static mut Head = Box::leak(Box::new(Head {
        list: Node { next: &raw const *node },
        futex_offset: offset as libc::c_long,
        list_op_pending: std::ptr::null(),
    }));
    // The list is a ring.
    node.next = &raw const head.list;
    // SAFETY: the list is well formed and, as the word that it leads to, lives as long as the process.
    let result = unsafe { libc::syscall(libc::SYS_set_robust_list, &raw const *head, size_of::<Head>()) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::abi::FUTEX_OWNER_DIED;

    #[test]
    fn the_kernel_marks_the_word() {
        let word: &'static AtomicU32 = Box::leak(Box::new(AtomicU32::new(0)));
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            mark_when_dead(word).expect("set_robust_list");
            let tid = nix::unistd::gettid().as_raw() as u32;
            told.recv().expect("the test goes on");
            tid
        });
        while word.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        let alive = word.load(Ordering::SeqCst);
        assert_eq!(alive & FUTEX_OWNER_DIED, 0);
        tell.send(()).expect("the thread waits");
        assert_eq!(thread.join().expect("the thread ends"), alive);
        // The join wakes when the thread's own memory is free, which is a little earlier.
        while word.load(Ordering::SeqCst) == alive {
            std::thread::yield_now();
        }
        assert_eq!(word.load(Ordering::SeqCst), FUTEX_OWNER_DIED);
    }
}
