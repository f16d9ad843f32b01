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

/// Pages that fork had left shared are shared again, and nobody sees what another writes.
#[test]
fn what_was_inherited_is_inherited() {
    Scenario::program("cow", &[]).run();
}

/// Also where mappings have been cut, grown, protected, advised and guarded since, by parent or child.
#[test]
fn address_spaces_that_differ_a_little() {
    Scenario::program("differences", &[])
        .criu_cannot("it shares pages only of mappings that are alike")
        .stays_small()
        .run();
}

/// Also where that costs more than to map and fill anew, or where nothing is inherited.
#[test]
fn address_spaces_come_both_ways() {
    memory("plain").sharing("keep").run();
    memory("plain").sharing("none").run();
    memory("files").sharing("keep").run();
}

/// Long runs, short ones and gaps; memory that pages can be copied into, and such that they are read into; a task with
/// guests, and pages that are written over those of a parent.
#[test]
fn pages_are_filled_in_every_way() {
    for sharing in ["keep", "none"] {
        Scenario::program("fills", &[])
            .sharing(sharing)
            .criu_changes(
                &["/dev/zero (deleted)", "became", "/memfd:/dev/zero (deleted)"],
                "CRIU maps a memfd instead",
            )
            .run();
    }
}

/// Where the kernel has no userfaultfd, they are read, whatever was cheaper (`tests/stored_plans.rs` has what else holds then).
#[test]
fn pages_that_cannot_be_copied_are_read() {
    memory("plain").without_userfaultfd().rounds(1).run();
}

/// Rings of asynchronous I/O: at their addresses, which are the ids of their contexts, with events that nobody has read
/// yet, and with room for as many more as there was.
#[test]
fn rings_of_asynchronous_io() {
    let rings = || {
        Scenario::program("aio_rings", &[])
            .criu_changes(&["r--s", "[aio]", "became", "rw-s"], "CRIU does not protect a ring again")
            .criu_changes(&["child", "numbers: "], "CRIU makes them in the order of their addresses")
    };
    rings().run();
    rings().sharing("none").by_plan().run();
}

/// What had huge pages has them again, and nothing else: neither more memory is taken nor less.
#[test]
fn transparent_huge_pages() {
    for sharing in ["keep", "none"] {
        let scenario = Scenario::program("transparent", &[]).sharing(sharing).rounds(1);
        scenario.criu_cannot("it fills before the advice").run();
    }
}

/// Blocks that are brought by way of huge pages because they are forked: nothing tells them from others.
#[test]
fn large_memory_that_children_inherit() {
    Scenario::program("blocks", &[]).rounds(1).run();
}

/// Eight thousand pages with a gap behind each, and mappings that no neighbour joins.
#[test]
fn small_extents() {
    Scenario::program("bench_memory", &["8000", "scattered"]).rounds(1).run();
    Scenario::program("bench_memory", &["1500", "mappings"]).rounds(1).run();
}
