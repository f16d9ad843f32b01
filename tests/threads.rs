//! Threads: what each has of its own, what it waits for, and what signals and timers have for it.

mod support;

use support::Scenario;

#[test]
fn a_thousand_threads() {
    Scenario::program("threads", &["many", "1000"]).with_moving_memory().run();
}

#[test]
fn waiting_in_system_calls() {
    Scenario::program("threads", &["waits"]).with_moving_memory().run();
}

#[test]
fn queued_signals() {
    Scenario::program("threads", &["signals"]).run();
}

#[test]
fn timers_of_all_kinds() {
    Scenario::program("threads", &["timers"]).with_moving_memory().run();
}

/// A periodic timer goes on also if it was dumped between going off and its signal being taken.
#[test]
fn a_timer_that_has_gone_off() {
    Scenario::program("threads", &["expired"]).run();
}

/// Tasks leave the tapes by a fault, unless that would change what they are.
#[test]
fn whatever_sigsegv_is_to_a_task() {
    Scenario::program("leaving", &[]).run();
}
