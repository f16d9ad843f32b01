//! Descriptors: who shares which open file description, and what is on its way through them.

mod support;

use support::Scenario;

#[test]
fn many_tasks_share_many_descriptors() {
    Scenario::program("shared_fds", &["200"]).run();
}

#[test]
fn sockets_with_names() {
    Scenario::program("sockets", &[]).run();
}

#[test]
fn data_on_its_way() {
    let why = "CRIU forgets which description of a pipe was opened by its path";
    Scenario::program("in_flight", &[])
        .criu_changes(&["flags: \"01\" became \"0100001\""], why)
        .criu_changes(&["flags: \"02100001\" became \"02000001\""], why)
        .run();
}

#[test]
fn what_waits_for_events() {
    Scenario::program("events", &[]).run();
}
