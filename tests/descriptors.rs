//! Descriptors: who shares which open file description, and what is on its way through them.

mod support;

use support::Scenario;

#[test]
fn many_tasks_share_many_descriptors() {
    Scenario::program("shared_fds", &["200"]).run();
}

#[test]
fn sockets_with_names() {
    Scenario::program("sockets", &[])
        .criu_changes(&[".address: ", "became null"], "CRIU gives accepted connections no name")
        .criu_changes(&["name: None, not Some("], "the same")
        .run();
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
    Scenario::program("events", &[])
        .criu_changes(
            &[".peer: \"none, or outside of the tree\" became null"],
            "CRIU leaves a socket whose peer is gone unconnected",
        )
        .criu_changes(&[".state: 1 became 7"], "the same")
        .run();
}

#[test]
fn tasks_that_share_their_table() {
    Scenario::program("shared_table", &[]).run();
}
