//! What one run may take: memory by a counting allocator, time by the CPU's clock.
//!
//! A run that allocates too much is aborted in the allocation that is too much, with a backtrace; one that
//! takes too long when it is over. (One that never ends is libFuzzer's `-timeout`.)

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// A run may have so many times the size of its input allocated at once.
pub const TIMES: usize = 10;

/// And so much whatever the size: what a plan of a single task takes, rounded up.
pub const FLOOR_BYTES: usize = 1 << 20;

/// CPU time that any run may take, and what each KiB of input adds to it. A run with all checks and coverage takes
/// some five times as long as one without.
pub const FLOOR_TIME: Duration = Duration::from_millis(500);
/// See [`FLOOR_TIME`].
pub const TIME_PER_KIB: Duration = Duration::from_millis(10);

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(usize::MAX);
static ARMED: AtomicBool = AtomicBool::new(false);

/// The system's allocator, counting.
#[derive(Debug)]
pub struct Counting;

fn add(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Relaxed).saturating_add(bytes);
    PEAK.fetch_max(live, Relaxed);
    if live > MOST.load(Relaxed) && ARMED.swap(false, Relaxed) {
        eprintln!("an allocation of {bytes} bytes is beyond the limit\n{}", Backtrace::force_capture());
        std::process::abort();
    }
}

// SAFETY: everything is handed to the system's allocator as it came; counting allocates only after it has been
// switched off.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promise is this call's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both exist while one is copied into the other, as far as anybody can tell.
        add(size);
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// What a run took.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// The most bytes that it had allocated at once.
    pub peak_bytes: usize,
    /// CPU time of this thread.
    pub time: Duration,
}

/// Runs `run` on an input of so many bytes, and aborts the process where it takes too much.
pub fn within(input_bytes: usize, run: impl FnOnce()) -> Took {
    let before = LIVE.load(Relaxed);
    let most = input_bytes.saturating_mul(TIMES).saturating_add(FLOOR_BYTES);
    PEAK.store(before, Relaxed);
    MOST.store(before.saturating_add(most), Relaxed);
    ARMED.store(true, Relaxed);
    let start = cpu_time();
    run();
    let time = cpu_time().saturating_sub(start);
    ARMED.store(false, Relaxed);
    let peak_bytes = PEAK.load(Relaxed).saturating_sub(before);
    let kib = u32::try_from(input_bytes / 1024).unwrap_or(u32::MAX);
    let longest = FLOOR_TIME.saturating_add(TIME_PER_KIB.saturating_mul(kib));
    if time > longest {
        eprintln!("{input_bytes} bytes took {time:?} of CPU, and may take {longest:?}");
        std::process::abort();
    }
    if std::env::var_os("REGROW_FUZZ_VERBOSE").is_some() {
        eprintln!("{input_bytes} bytes: {peak_bytes} allocated, {time:?}");
    }
    Took { peak_bytes, time }
}

/// Lets a panic print its backtrace, which takes memory.
pub fn lift_for_panics() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        ARMED.store(false, Relaxed);
        hook(info);
    }));
}

fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
