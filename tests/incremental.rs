//! Image directories of incremental dumps: pages are in the directories of dumps before, and of what a newer dump has, holes
//! are left there.
//!
//! Each scenario ends with a round of CRIU's: it restores from such a directory, too, so that is what it means.

mod support;

use support::Scenario;

fn memory(part: &str) -> Scenario {
    Scenario::program("memory", &[part]).criu_changes(
        &["/dev/zero (deleted)", "became", "/memfd:/dev/zero (deleted)"],
        "CRIU maps a memfd instead",
    )
}

/// Private memory that tasks share, and shared memory.
#[test]
fn memory_of_three_dumps() {
    memory("plain").spread_over(2).sharing("keep").rounds(1).run();
}

/// With mapped files and a memfd, too.
#[test]
fn memory_of_two_dumps() {
    memory("files").spread_over(1).run();
}

#[test]
fn a_stored_plan_of_three_dumps() {
    memory("plain").spread_over(2).by_plan().run();
}

/// What CRIU itself writes where the kernel does not track which pages are written.
#[test]
fn a_dump_that_removes_pages_from_the_one_before() {
    memory("plain").deduplicated().rounds(1).run();
}

/// Longer than one path can be by way of links (`MAXSYMLINKS`, linux/namei.h).
#[test]
fn more_dumps_than_a_path_can_have_links() {
    Scenario::program("cow", &[]).spread_over(45).rounds(1).run();
}
