//! Trees that are restored by CRIU's rule, `--policy lowest-pid`: what tasks share is made by the lowest pid and
//! received by the others, and nothing can be told apart afterwards.

mod support;

use support::Scenario;

#[test]
fn many_tasks_receive_many_descriptors() {
    Scenario::program("shared_fds", &["24"]).by_lowest_pid().rounds(1).run();
}

#[test]
fn what_is_on_its_way_is_sent_with_its_socket() {
    let why = "CRIU forgets which description of a pipe was opened by its path";
    Scenario::program("in_flight", &[])
        .by_lowest_pid()
        .rounds(1)
        .criu_changes(&["flags: \"01\" became \"0100001\""], why)
        .criu_changes(&["flags: \"02100001\" became \"02000001\""], why)
        .run();
}

#[test]
fn sockets_with_names() {
    Scenario::program("sockets", &[])
        .by_lowest_pid()
        .rounds(1)
        .criu_changes(&[".address: ", "became null"], "CRIU gives accepted connections no name")
        .criu_changes(&["name: None, not Some("], "the same")
        .run();
}

/// Sessions, groups, orphans, zombies and helper tasks: forks and deaths wait for what they must, and stages too.
#[test]
fn families() {
    Scenario::program("family", &[]).by_lowest_pid().rounds(1).run();
}

/// The plan is stored, and the restore opens no image but those that tasks copy from.
#[test]
fn by_a_stored_plan() {
    Scenario::program("shared_fds", &["12"]).by_lowest_pid().by_plan().rounds(1).run();
}
