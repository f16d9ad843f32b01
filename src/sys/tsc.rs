//! The time-stamp counter.
//!
//! # Sources
//! PR_GET_TSC(2const); Intel SDM, volume 2, RDTSC.

use std::time::Instant;

/// Whether this process, and who is forked by it, may read the counter.
pub fn is_enabled() -> bool {
    let mut mode: libc::c_int = 0;
    // SAFETY: the kernel writes one int to the address.
    let result = unsafe { libc::prctl(libc::PR_GET_TSC, &raw mut mode) };
    result == 0 && mode == libc::PR_TSC_ENABLE
}

/// What the counter and CLOCK_MONOTONIC say at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Tick {
    /// The counter.
    pub tsc: u64,
    /// The clock.
    pub at: Instant,
}

impl Tick {
    /// Now. The counter must be enabled.
    pub fn now() -> Tick {
        // The best of some: between the two readings of the clock nothing may come.
        let tries = (0..8).map(|_| {
            let before = Instant::now();
            let tsc = read();
            (before.elapsed(), before, tsc)
        });
        let best = tries.min_by_key(|(took, ..)| *took);
        best.map_or_else(
            || Tick { tsc: read(), at: Instant::now() },
            |(took, before, tsc)| Tick { tsc, at: before + took / 2 },
        )
    }
}

#[cfg(target_arch = "x86_64")]
fn read() -> u64 {
    // SAFETY: every x86-64 has it; the caller of `Tick::now` has asked whether it is enabled.
    unsafe { std::arch::x86_64::_rdtsc() }
}
