//! How much the checker does, counted where it could come to more than its input: nodes of trees that are
//! visited or copied, edges that are followed back, entries of lists that are gone through.
//!
//! Tests demand that twice the tasks take twice the steps. Nothing is counted outside of them.

#[cfg(test)]
thread_local! {
    static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Counts steps.
#[cfg(test)]
pub(super) fn count(steps: usize) {
    STEPS.with(|sum| sum.set(sum.get() + steps as u64));
}

/// Counts steps: only tests do.
#[cfg(not(test))]
#[inline]
pub(super) fn count(_: usize) {}

/// How many steps `of` takes: on one thread, which counts all of them.
#[cfg(test)]
pub(super) fn steps(of: impl FnOnce() + Send) -> u64 {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    pool.install(|| {
        let before = STEPS.with(std::cell::Cell::get);
        of();
        STEPS.with(std::cell::Cell::get) - before
    })
}
