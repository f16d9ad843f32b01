//! Trees: who is whose child, who leads and who follows.

mod support;

use support::Scenario;
use support::dumped::Dumped;

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
fn a_server_with_workers() {
    Scenario::program("bench_trees", &["70", "prefork"]).rounds(1).run();
}

/// What is private to a worker and the server is made by the helper that forks the worker, and sent to the server.
#[test]
fn helpers_fork_the_workers_of_a_server() {
    let Some(mut tree) = Dumped::program("bench_trees", &["70", "prefork"]) else { return };
    let ended = tree.restore(&["-o", "restore.log", "-v4", "--pidfile", "pid"]);
    let log = tree.work_text("restore.log");
    assert_eq!(ended.code, Some(0), "{}\n{log}", ended.text);
    let before = log.split(" helpers").next().and_then(|text| text.rsplit(' ').next());
    let helpers: u32 = before.and_then(|number| number.parse().ok()).unwrap_or_default();
    assert!(helpers > 1, "{helpers} helpers\n{log}");
    tree.check_restored("by helpers");
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

/// A tree with a history (`family` of the test programs says what the events are).
fn history(events: &str) -> Scenario {
    Scenario::program("family", &events.split_whitespace().collect::<Vec<_>>())
        .criu_cannot("CRIU gives orphans to the namespace's init, or cannot find who could be in a session")
}

#[test]
fn sessions_whose_leaders_are_dead() {
    // The leader was the parent of 2, the grandparent of 3; 4 is a member below another session.
    history("0r 0+1 1s 1+2 2+3 1+5 5+4 5s 1x0 1w").run();
    // It was a sibling.
    history("0+1 1s 1^2 1^3 3+4 1x0 1w").run();
    // One within the other, and one beside.
    history("0r 0+1 1s 1+2 2r 2+3 3s 3+4 4+5 3+6 3x0 3w 1x0 1w 0+7 7s 7+8 7x0 7w").run();
}

#[test]
fn groups_in_sessions_whose_leaders_are_dead() {
    // The members 3, 4 and 5 of group 2 are in different branches, its leader is dead, too.
    history("0r 0+1 1s 1+2 1+3 1+4 4+5 4+6 2g 3g2 4g2 5g2 6g 2x0 2w 1x0 1w").run();
    // The group of the dead leader of the session itself, and one that a zombie leads.
    history("0r 0+1 1s 1+2 1+3 3g 3+4 4g1 3+5 5g 3+6 6g5 5x3 1x0 1w").run();
}

#[test]
fn orphans_of_several_subreapers() {
    let orphans = "0r 0+1 1+2 2+3 3s 3+4 4+5 4x0 4w 1r 3+6 6+7 6x0 6w 2r 3+8 8+9 8x0 8w";
    history(&format!("{orphans} 5p15 7p9 9z")).run();
    history(&format!("{orphans} 3x0 3w 0R 1R 5p10")).run();
    // The leader is a zombie; so are two of the orphans, and one that leads a group.
    history(&format!("{orphans} 5g 5x7 3x0 9k15 2R")).run();
}

#[test]
fn zombies_that_lead() {
    history("0r 0+1 1s 1+2 2+3 1x0 3x4").run();
    history("0r 0+1 1s 1+2 1+3 2g 3g2 2k10 1k9 0+4 4s 4x1").run();
}

#[test]
fn stopped_orphans() {
    // To orphan a stopped group would wake it.
    history("0r 0+1 1s 1+2 2g 2+3 2+4 1+5 5g 1x0 1w 3z 4z 5z").run();
}

#[test]
fn trees_with_random_histories() {
    for seed in 1..=6 {
        history(&format!("random {seed}")).rounds(1).run();
    }
}
