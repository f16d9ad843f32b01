//! Clocks that must not jump: `uptime DIR [SECONDS]`.
//!
//! CLOCK_MONOTONIC and CLOCK_BOOTTIME go on from what they were at the dump, at least by SECONDS and by
//! little more, for every task; timers with an absolute deadline are as far from it as they were.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId as TimerClock, TimerFd, TimerFlags};
use nix::time::{ClockId, clock_gettime};
use regrow_test_programs::Task;

/// No dump and restore takes longer.
const LONG: Duration = Duration::from_secs(300);
const DEADLINE: Duration = Duration::from_secs(100_000);

fn now(clock: ClockId) -> Duration {
    Duration::from(clock_gettime(clock).expect("clock_gettime"))
}

/// Records the clocks, waits, and compares them.
fn keep_time(task: &mut Task, least: Duration) {
    let clocks = [("monotonic", ClockId::CLOCK_MONOTONIC), ("boottime", ClockId::CLOCK_BOOTTIME)];
    let before = clocks.map(|(_, clock)| now(clock));
    task.park();
    for ((name, clock), before) in clocks.into_iter().zip(before) {
        let passed = now(clock).checked_sub(before);
        let is_good = passed.is_some_and(|passed| (least..least + LONG).contains(&passed));
        task.check(&format!("{name} went on from {before:?} by {passed:?}"), is_good);
    }
}

fn main() {
    let least = std::env::args().nth(2).map_or(0, |text| text.parse().expect("seconds"));
    let least = Duration::from_secs(least);
    let mut task = Task::root();
    task.spawn("child", move |task| keep_time(task, least));
    let timers = [
        (TimerClock::CLOCK_MONOTONIC, ClockId::CLOCK_MONOTONIC),
        (TimerClock::CLOCK_BOOTTIME, ClockId::CLOCK_BOOTTIME),
    ]
    .map(|(clock, id)| {
        let timer = TimerFd::new(clock, TimerFlags::empty()).expect("timerfd_create");
        let deadline = TimeSpec::from(now(id) + DEADLINE);
        timer
            .set(Expiration::OneShot(deadline), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            .expect("timerfd_settime");
        timer
    });
    keep_time(&mut task, least);
    for timer in timers {
        let left = match timer.get().expect("timerfd_gettime") {
            Some(Expiration::OneShot(left)) => Duration::from(left),
            other => panic!("{other:?}: {:?}", timer.as_fd()),
        };
        task.check(&format!("{left:?} are left of {DEADLINE:?}"), left <= DEADLINE && left + LONG > DEADLINE);
    }
    task.collect();
    task.finish();
}
