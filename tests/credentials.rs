//! What tasks may do: seccomp, ids, capabilities, limits, scheduling.

mod support;

use support::Scenario;

#[test]
fn filters_of_system_calls() {
    Scenario::program("seccomp", &[]).run();
}
