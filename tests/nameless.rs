//! Files without a name: memfds, unlinked files and directories, files about tasks.

mod support;

use support::Scenario;

#[test]
fn memfds_and_unlinked_files() {
    Scenario::program("nameless", &[])
        .criu_changes(
            &["an unlinked directory: Seen"],
            "CRIU leaves an unlinked directory the time of its removal",
        )
        .run();
}

#[test]
fn files_that_have_lost_names() {
    Scenario::program("names", &[]).dump_options(&["--link-remap"]).run();
}
