//! A tree that a shell has grown, with jobs.

mod support;

use support::Scenario;

/// Shells open `/dev/fd/N` for process substitutions.
const FLAGS: &str = "CRIU forgets which description of a pipe was opened by its path";

fn jobs(arguments: &[&str]) -> Scenario {
    Scenario::script("jobs.sh", arguments)
        .with_moving_memory()
        .criu_changes(&[".flags: \"0100001\" became \"01\""], FLAGS)
        .criu_changes(&[".flags: \"0100000\" became \"00\""], FLAGS)
        .criu_changes(&[".flags: \"00\" became \"0100000\""], FLAGS)
}

#[test]
fn jobs_of_a_shell() {
    jobs(&[]).run();
}

#[test]
fn a_stopped_job_of_a_shell() {
    jobs(&["stopped"]).criu_changes(&["ShdPnd"], "CRIU's stopping sends the parent a SIGCHLD").run();
}

#[test]
fn job_control_of_a_shell() {
    Scenario::script("job_control.sh", &[])
        .with_moving_memory()
        .criu_changes(&["ShdPnd"], "CRIU's stopping sends the parent a SIGCHLD")
        .run();
}
