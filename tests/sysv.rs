//! IPC namespaces: System V segments, message queues, semaphore sets, and the limits of all of them.

mod support;

use support::Scenario;

fn sysv(part: &str) -> Scenario {
    Scenario::program("sysv", &[part]).in_an_ipc_namespace()
}

/// Segments of several tasks at several addresses, to be read only, in parts, sparse, of nobody; queues and semaphores. A
/// write of one task is seen by the others.
#[test]
fn segments_queues_and_semaphores() {
    sysv("plain")
        .criu_changes(
            &["/SYSV", "[rd mr me ms]", "became", "[rd sh mr mw me ms]"],
            "CRIU attaches to be written what anybody has attached so",
        )
        .run();
}

/// Marked for removal, locked, made by another user, mapped in part and elsewhere, never to be written; a queue that is
/// more than full.
#[test]
fn what_criu_does_not_bring_back() {
    let more = || sysv("more").criu_cannot("it restores no parts of segments, no marks, locks and makers");
    more().run();
    more().sharing("none").rounds(1).run();
}

/// Limits that do not allow what is there; attachments that are the last. By a stored plan.
#[test]
fn limits_below_what_is_in_use() {
    sysv("limits").criu_cannot("it sets the limits first").by_plan().rounds(1).run();
}
