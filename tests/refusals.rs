//! Directories that cannot be restored here: `regrow check` says all of why, `regrow restore` says it too
//! and touches nothing.

mod support;

use std::fs;
use std::path::Path;

use regrow::image::{Held, Image, Pages, write_pagemap};
use serde_json::Value;
use support::dumped::Dumped;
use support::increments;

/// Checks and restores images that must be refused: with `code` from `check`, exit status 1 from `restore`,
/// and all of `said` from both, each in a line of its own; after that nothing is left.
#[track_caller]
fn check_refused(tree: &mut Dumped, code: i32, kind: &str, said: &[&[&str]]) {
    check_refused_under(tree, "", code, kind, said);
}

/// Likewise; `under` is what regrow is run by.
#[track_caller]
fn check_refused_under(tree: &mut Dumped, under: &str, code: i32, kind: &str, said: &[&[&str]]) {
    let strangers = tree.living();
    let checked = tree.shell(&format!("{under} $REGROW check $IMAGES"));
    assert_eq!(checked.code, Some(code), "{}", checked.text);
    let json = tree.shell(&format!("{under} $REGROW check --json $IMAGES"));
    assert_eq!(json.code, Some(code), "{}", json.text);
    let problems: Value = serde_json::from_str(&json.text).expect("check --json prints JSON");
    let problems = problems.as_array().expect("a list of problems");
    assert_eq!(problems.len(), checked.text.lines().count(), "{}\n{}", checked.text, json.text);
    assert!(problems.iter().any(|problem| problem["kind"] == kind), "no {kind}: {}", json.text);
    for problem in problems {
        assert!(problem["text"].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        if let Some(origin) = problem.get("origin") {
            assert!(origin.as_str().is_some_and(|text| text.contains(".img entry ")), "{problem}");
        }
    }

    let restored =
        tree.shell(&format!("{under} $REGROW restore -D $IMAGES -W $WORK -d -o refused.log --pidfile pid"));
    assert_eq!(restored.code, Some(1), "{}", restored.text);
    let log = tree.work_text("refused.log");
    for (place, text) in [("check", &checked.text), ("restore", &restored.text), ("the log", &log)] {
        for pieces in said {
            let is_said = text.lines().any(|line| pieces.iter().all(|piece| line.contains(piece)));
            assert!(is_said, "{place} does not say {pieces:?}:\n{text}");
        }
    }
    assert_eq!(tree.living(), strangers, "restored although refused");
    tree.check_files("a refusal");
}

/// After the images and files have been put right again, they can be restored.
#[track_caller]
fn check_mended(tree: &mut Dumped) {
    let images = tree.images_dir();
    let checked = tree.regrow(&["check", images.to_str().expect("UTF-8")]);
    assert_eq!(checked.code, Some(0), "{}", checked.text);
    let restored = tree.restore(&["-o", "mended.log", "--pidfile", "pid"]);
    assert_eq!(restored.code, Some(0), "{}", restored.text);
    tree.check_restored("mended");
}

fn append(path: &Path, text: &str) -> Vec<u8> {
    let before = fs::read(path).expect("a file of the test");
    fs::write(path, [&before[..], text.as_bytes()].concat()).expect("a file of the test");
    before
}

#[test]
fn files_that_are_missing_or_changed() {
    let Some(mut tree) = Dumped::program("shared_fds", &["1"]) else { return };
    let state = tree.state_dir();
    let missing = || fs::rename(state.join("file3"), state.join("elsewhere")).expect("rename");

    missing();
    tree.accept_files();
    check_refused(&mut tree, 5, "file_changed", &[&["/state/file3", "files.img entry "]]);

    // All reasons at once.
    let before = append(&state.join("file4"), "more");
    let said: [&[&str]; 2] =
        [&["/state/file3", "files.img entry "], &["/state/file4", "8196", "8192", "files.img entry "]];
    check_refused(&mut tree, 5, "file_changed", &said);

    fs::rename(state.join("elsewhere"), state.join("file3")).expect("rename");
    tree.accept_files();
    check_refused(&mut tree, 5, "file_changed", &said[1..]);

    fs::write(state.join("file4"), before).expect("write");
    check_mended(&mut tree);
}

#[test]
fn a_pid_that_is_taken() {
    let Some(mut tree) = Dumped::program("shared_fds", &["1"]) else { return };
    let root = tree.root();
    let stranger = tree.start_as(root);
    let taken = format!("pid {root} is in use by another task (sleep)");
    check_refused(&mut tree, 4, "pid_taken", &[&[&taken, "pstree.img entry 0"]]);

    // Of two kinds, both are listed, and the graver one is the exit code.
    let state = tree.state_dir();
    let before = append(&state.join("file4"), "more");
    let said: [&[&str]; 2] = [&[&taken], &["/state/file4", "8196"]];
    check_refused(&mut tree, 5, "pid_taken", &said);
    check_refused(&mut tree, 5, "file_changed", &said);
    fs::write(state.join("file4"), before).expect("write");

    tree.end_stranger(stranger);
    check_mended(&mut tree);
}

#[test]
fn images_that_are_cut_off() {
    let Some(mut tree) = Dumped::program("in_flight", &[]) else { return };
    let names = ["files.img", "pstree.img", &format!("core-{}.img", tree.root()), "pipes-data.img"];
    for name in names {
        let path = tree.images_dir().join(name);
        let whole = fs::read(&path).expect(name);
        fs::write(&path, &whole[..whole.len() - 3]).expect(name);
        tree.accept_files();
        check_refused(&mut tree, 3, "bad_images", &[&[name]]);
        fs::write(&path, whole).expect(name);
    }
    tree.accept_files();
    check_mended(&mut tree);
}

#[test]
fn two_images_that_are_missing() {
    let Some(mut tree) = Dumped::program("in_flight", &[]) else { return };
    let (core, mm) = (format!("core-{}.img", tree.pids()[1]), format!("mm-{}.img", tree.root()));
    for name in [&core, &mm] {
        fs::rename(tree.images_dir().join(name), tree.file(name)).expect("rename");
    }
    tree.accept_files();
    check_refused(&mut tree, 3, "bad_images", &[&[&core], &[&mm]]);
    for name in [&core, &mm] {
        fs::rename(tree.file(name), tree.images_dir().join(name)).expect("rename");
    }
    tree.accept_files();
    check_mended(&mut tree);
}

#[test]
fn images_of_an_incremental_dump() {
    let Some(mut tree) = Dumped::program("in_flight", &[]) else { return };
    let images = tree.images_dir();
    assert!(increments::spread(&images, 2) > 0);
    tree.accept_files();
    let (link, pid) = (images.join("parent"), tree.root());
    let [first, last] = [1, 2].map(|nth| increments::before(&images, nth));
    let link_to = |target: &str| {
        fs::remove_file(&link).expect("remove");
        std::os::unix::fs::symlink(target, &link).expect("symlink");
    };

    link_to("../nowhere");
    check_refused(&mut tree, 3, "bad_images", &[&["parent: missing", "it leads to ../nowhere"]]);
    link_to("../images");
    check_refused(&mut tree, 3, "bad_images", &[&["parent: it leads back to", "/images"]]);
    link_to("inventory.img");
    tree.accept_files();
    check_refused(&mut tree, 3, "bad_images", &[&["parent: ", "inventory.img is no directory"]]);
    fs::remove_file(&link).expect("remove");
    tree.accept_files();
    let lost = format!("pagemap-{pid}.img entry ");
    let said: &[&str] = &[&lost, "page 0x", "should be of a dump before, and parent is not there"];
    check_refused(&mut tree, 3, "bad_images", &[said]);
    std::os::unix::fs::symlink("../images-1", &link).expect("symlink");

    let pagemap = first.join(format!("pagemap-{pid}.img"));
    let kept = fs::read(&pagemap).expect("a pagemap");
    fs::remove_file(&pagemap).expect("remove");
    let missing = format!("parent/pagemap-{pid}.img: missing: pagemap-{pid}.img entry ");
    check_refused(&mut tree, 3, "bad_images", &[&[&missing, "has pages in it"]]);
    let empty = Pages { pages_id: 999, extents: Vec::new() };
    write_pagemap(&first, Image::Pagemap(pid as u32), &empty, &Held::default()).expect("a pagemap");
    check_refused(
        &mut tree,
        3,
        "bad_images",
        &[&[&lost, "page 0x", "should be of a dump before", "lacks it"]],
    );
    fs::write(&pagemap, kept).expect("write");

    let is_pages = |name: &std::ffi::OsString| name.to_string_lossy().starts_with("pages-");
    let names = fs::read_dir(&last).expect("a directory").map(|entry| entry.expect("an entry").file_name());
    let name = names.into_iter().find(is_pages).expect("a pages image");
    let kept = fs::read(last.join(&name)).expect("pages");
    fs::write(last.join(&name), &kept[..kept.len() - 1]).expect("write");
    let short = format!("bytes of parent/parent/{}, which has {}", name.display(), kept.len() - 1);
    check_refused(&mut tree, 3, "bad_images", &[&["parent/parent/pagemap-", "describes", &short]]);
    fs::remove_file(last.join(&name)).expect("remove");
    let missing = format!("parent/parent/{}: missing: parent/parent/pagemap-", name.display());
    check_refused(&mut tree, 3, "bad_images", &[&[&missing]]);
    fs::write(last.join(&name), kept).expect("write");
    check_mended(&mut tree);
}

#[test]
fn sockets_of_kinds_that_are_not_restored() {
    let Some(mut tree) = Dumped::program("beyond", &["netlink", "packet"]) else { return };
    check_refused(
        &mut tree,
        6,
        "unsupported",
        &[&["files.img entry ", "NETLINKSK"], &["files.img entry ", "PACKETSK"]],
    );
}

#[test]
fn privileges_that_are_lacking() {
    let Some(mut tree) = Dumped::program("wide", &["6"]) else { return };
    let under = "setpriv --bounding-set -sys_admin,-checkpoint_restore --";
    check_refused_under(&mut tree, under, 7, "lacking", &[&["CAP_CHECKPOINT_RESTORE"]]);

    // `wide` has a task with a higher limit than this.
    let under = "ulimit -n 100; setpriv --bounding-set -sys_resource --";
    check_refused_under(&mut tree, under, 7, "lacking", &[&["limit", ".img entry "]]);
    check_mended(&mut tree);
}

#[test]
fn buffers_that_cannot_be_sized() {
    let Some(mut tree) = Dumped::program("in_flight", &[]) else { return };
    let under = "setpriv --bounding-set -net_admin --";
    let said: [&[&str]; 1] = [&["CAP_NET_ADMIN", "buffers of sockets", "files.img entry "]];
    check_refused_under(&mut tree, under, 7, "lacking", &said);
    check_mended(&mut tree);
}

#[test]
fn filters_that_cannot_be_suspended() {
    let Some(mut tree) = Dumped::program("seccomp", &[]) else { return };
    let under = "setpriv --bounding-set -sys_admin --";
    let said: [&[&str]; 2] = [
        &["seccomp (mode filter)", "CAP_SYS_ADMIN is missing", "core-", ".img entry 0"],
        &["seccomp (mode strict)", "CAP_SYS_ADMIN is missing", "core-", ".img entry 0"],
    ];
    check_refused_under(&mut tree, under, 7, "lacking", &said);

    let program = Path::new(env!("CARGO_BIN_EXE_regrow")).with_file_name("seccomp");
    let under = format!("{} - under", program.display());
    check_refused_under(&mut tree, &under, 7, "lacking", &[&["seccomp is on here (mode 2)"]]);
    check_mended(&mut tree);
}

#[test]
fn a_filter_that_asks_a_supervisor() {
    let Some(mut tree) = Dumped::program("seccomp", &["notifies"]) else { return };
    check_refused(&mut tree, 6, "unsupported", &[&["SECCOMP_RET_USER_NOTIF", "seccomp.img entry 0"]]);
}
