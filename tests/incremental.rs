//! Image directories of incremental dumps: pages are in the directories of dumps before, and of what a newer dump has, holes
//! are left there.
//!
//! Each scenario ends with a round of CRIU's: it restores from such a directory, too, so that is what it means.

mod support;

use std::fs;

use serde_json::{Value, json};
use support::dumped::Dumped;
use support::{Scenario, increments};

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

/// What is shown says where the pages are, and that nothing older is read.
#[test]
fn what_is_said_of_dumps_before() {
    let Some(mut tree) = Dumped::program("cow", &[]) else { return };
    let images = tree.images_dir();
    let moved = increments::spread(&images, 2);
    tree.accept_files();
    let inspected = tree.shell("$REGROW inspect --json $IMAGES");
    let said: Value = serde_json::from_str(&inspected.text).expect("inspect prints JSON");
    let parents = said["parents"].as_array().expect("there are parents");
    let [first, last] = [1, 2].map(|nth| increments::before(&images, nth));
    assert_eq!([&parents[0]["directory"], &parents[1]["directory"]], [&json!(first), &json!(last)]);
    let pages = |nth: usize| parents[nth]["stored_pages"]["pages"].as_u64().expect("a number");
    assert_eq!(pages(0) + pages(1), moved);
    let text = tree.shell("$REGROW inspect $IMAGES").text;
    let line = format!("of them of a dump before, in {}", last.display());
    assert!(text.contains(&line), "{text}");

    // Tasks open the images that they have pages of, and each is opened for reading only.
    let tapes = tree.shell("$REGROW tape $IMAGES").text;
    let plan = tree.shell("$REGROW plan $IMAGES --verbose").text;
    for dir in [&first, &last] {
        assert!(tapes.contains(&format!("{}/pages-", dir.display())), "{tapes}");
        assert!(plan.contains(&format!("open {}/pages-", dir.display())), "{plan}");
    }

    // A stored plan is one of all of them.
    let plan = tree
        .shell("$REGROW plan -D $IMAGES --out $DIR/tree.plan && $REGROW verify $DIR/tree.plan -D $IMAGES");
    assert_eq!(plan.code, Some(0), "{}", plan.text);
    let is_pages = |name: &str| name.starts_with("pages-");
    let stale = |tree: &mut Dumped, said: &str| {
        let refused = tree.restore(&["--plan", tree.file("tree.plan").to_str().expect("UTF-8")]);
        assert_eq!(refused.code, Some(1), "{}", refused.text);
        assert!(refused.text.contains(said), "{}", refused.text);
        tree.check_nothing_left(said);
    };
    let names = fs::read_dir(&last).expect("a directory").map(|entry| entry.expect("an entry").file_name());
    let name = names.filter_map(|name| name.into_string().ok()).find(|name| is_pages(name)).expect("pages");
    let bytes = fs::read(last.join(&name)).expect("pages");
    let times = fs::metadata(last.join(&name)).expect("pages").modified().expect("a time");
    fs::write(last.join(&name), &bytes[1..]).expect("write");
    stale(&mut tree, &format!("stale plan: parent/parent/{name} has changed since the plan was made: "));
    fs::write(last.join(&name), &bytes).expect("write");
    fs::File::options()
        .write(true)
        .open(last.join(&name))
        .and_then(|file| file.set_modified(times))
        .expect("a time");
    fs::remove_file(first.join("parent")).expect("remove");
    stale(&mut tree, &format!("stale plan: parent/parent leads to nowhere, led to {}", last.display()));
    std::os::unix::fs::symlink("../images-2", first.join("parent")).expect("a link");
    let restored = tree.restore(&["--plan", tree.file("tree.plan").to_str().expect("UTF-8")]);
    assert_eq!(restored.code, Some(0), "{}", restored.text);
    tree.check_restored("by the plan");
}

/// Longer than one path can be by way of links (`MAXSYMLINKS`, linux/namei.h).
#[test]
fn more_dumps_than_a_path_can_have_links() {
    Scenario::program("cow", &[]).spread_over(45).rounds(1).run();
}
