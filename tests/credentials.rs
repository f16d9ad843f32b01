//! What tasks may do: seccomp, ids, capabilities, limits, scheduling.

mod support;

use support::Scenario;

#[test]
fn filters_of_system_calls() {
    Scenario::program("seccomp", &[]).run();
}

#[test]
fn ids_capabilities_limits_scheduling() {
    Scenario::program("credentials", &[])
        .criu_changes(&["personality: "], "CRIU takes its hexadecimal digits for decimal ones")
        .run();
}

#[test]
fn capabilities_in_odd_states() {
    Scenario::program("credentials", &["odd"])
        .criu_cannot("it sets the bounding set, securebits and limits before what they then forbid")
        .run();
}
