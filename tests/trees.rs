//! Trees: who is whose child, who leads and who follows.

mod support;

use support::Scenario;

#[test]
fn a_deep_chain() {
    Scenario::program("deep", &["40"]).run();
}

#[test]
fn a_hundred_children_of_ten_sorts() {
    Scenario::program("wide", &["100"])
        .criu_changes(&["exit_code: 65280 became 32512"], "CRIU restores exit code 255 as 127")
        .criu_changes(&["zombie: Some(Exited(", "127)), not Some(Exited("], "the same")
        .run();
}

#[test]
fn a_task_that_left_its_childs_session() {
    Scenario::program("sessions", &["leaver"]).run();
}

#[test]
fn an_orphan_of_a_subreaper() {
    Scenario::program("sessions", &["orphan"]).run();
}

#[test]
fn members_of_a_siblings_session() {
    Scenario::program("sessions", &["siblings"])
        .criu_cannot("CRIU gives them to the namespace's init instead of the subreaper")
        .run();
}
