//! Tasks that differ in what SIGSEGV is to them: a restore ends with a fault in each, or not.
//!
//! | task | SIGSEGV |
//! |---|---|
//! | `handler` | has a handler, which mends a fault behind the restore |
//! | `ignored` | is ignored |
//! | `blocked` | is blocked, and has its default |
//! | `for thread`, `for task` | is blocked, has a handler, and waits: sent to the thread, or to the task |
//! | `idle` | has its default |

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, kill, raise, sigaction, sigprocmask,
};
use nix::unistd::getpid;
use regrow_test_programs::Task;

static CALLS: AtomicU32 = AtomicU32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static ADDRESS: AtomicUsize = AtomicUsize::new(0);
const PAGE: usize = 4096;

fn main() {
    let mut task = Task::root();
    task.spawn("handler", handler);
    task.spawn("ignored", |task| {
        set(SigHandler::SigIgn);
        task.park();
        raise(Signal::SIGSEGV).expect("raise");
        task.check("SIGSEGV is ignored", set(SigHandler::SigDfl).handler() == SigHandler::SigIgn);
    });
    task.spawn("blocked", |task| {
        // Not the one of Rust's runtime.
        set(SigHandler::SigDfl);
        block(SigmaskHow::SIG_BLOCK);
        task.park();
        task.check("nothing waits", !is_pending());
        raise(Signal::SIGSEGV).expect("raise");
        task.check("SIGSEGV is blocked", is_pending());
        task.check("SIGSEGV has its default", set(SigHandler::SigIgn).handler() == SigHandler::SigDfl);
    });
    task.spawn("for thread", |task| waiting(task, || raise(Signal::SIGSEGV).expect("raise")));
    task.spawn("for task", |task| waiting(task, || kill(getpid(), Signal::SIGSEGV).expect("kill")));
    task.spawn("idle", |task| {
        set(SigHandler::SigDfl);
        task.park();
        task.check("SIGSEGV has its default", set(SigHandler::SigIgn).handler() == SigHandler::SigDfl);
    });
    task.park();
    task.finish();
}

/// Faults, and goes on with what the handler has mended.
fn handler(task: &mut Task) {
    let length = NonZeroUsize::new(PAGE).expect("not 0");
    // SAFETY: a new mapping at a place that the kernel chooses.
    let page = unsafe { mmap_anonymous(None, length, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) };
    let page = page.expect("mmap").as_ptr() as usize;
    set(SigHandler::SigAction(mend));
    task.park();
    task.check_eq("faults before", CALLS.load(Ordering::SeqCst), 0);
    ADDRESS.store(page, Ordering::SeqCst);
    // SAFETY: the page is this function's own; the handler lets it be read.
    let byte = unsafe { (page as *const u8).read_volatile() };
    task.check_eq("what the page holds", byte, 0);
    task.check_eq("faults", CALLS.load(Ordering::SeqCst), 1);
    // asm-generic/siginfo.h: SEGV_ACCERR.
    task.check_eq("the fault's code", CODE.load(Ordering::SeqCst), 2);
}

/// What waits is delivered when it is let through, once.
fn waiting(task: &mut Task, send: impl FnOnce()) {
    set(SigHandler::SigAction(mend));
    block(SigmaskHow::SIG_BLOCK);
    send();
    task.park();
    task.check_eq("handled before", CALLS.load(Ordering::SeqCst), 0);
    task.check("it waits", is_pending());
    block(SigmaskHow::SIG_UNBLOCK);
    task.check_eq("handled", CALLS.load(Ordering::SeqCst), 1);
    // Sent, not a fault: SI_USER or SI_TKILL.
    task.check("who sent it", CODE.load(Ordering::SeqCst) <= 0);
}

extern "C" fn mend(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    CALLS.fetch_add(1, Ordering::SeqCst);
    let page = ADDRESS.load(Ordering::SeqCst);
    // SAFETY: the kernel gives a handler with SA_SIGINFO a siginfo; mprotect is async-signal-safe and the page is
    // the program's own.
    unsafe {
        CODE.store((*info).si_code, Ordering::SeqCst);
        if page != 0 && (*info).si_addr() as usize == page {
            libc::mprotect(page as *mut libc::c_void, PAGE, libc::PROT_READ);
        }
    }
}

fn set(handler: SigHandler) -> SigAction {
    let action = SigAction::new(handler, SaFlags::SA_SIGINFO, SigSet::empty());
    // SAFETY: the handlers do nothing that is not allowed in one.
    unsafe { sigaction(Signal::SIGSEGV, &action) }.expect("sigaction")
}

fn block(how: SigmaskHow) {
    sigprocmask(how, Some(&SigSet::from(Signal::SIGSEGV)), None).expect("sigprocmask");
}

fn is_pending() -> bool {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is live, and the kernel fills it.
    unsafe {
        libc::sigpending(set.as_mut_ptr());
        libc::sigismember(set.as_ptr(), libc::SIGSEGV) == 1
    }
}
