//! Address spaces: what is mapped where, what is in it, and who shares it with whom.

mod support;

use support::Scenario;

fn memory(part: &str) -> Scenario {
    Scenario::program("memory", &[part]).criu_changes(
        &["/dev/zero (deleted)", "became", "/memfd:/dev/zero (deleted)"],
        "CRIU maps a memfd instead",
    )
}

#[test]
fn mappings_of_all_plain_kinds() {
    memory("plain").run();
}

#[test]
fn mapped_memfds_and_deleted_files() {
    memory("files").run();
}
