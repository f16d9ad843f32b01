//! Stored plans of real trees: restored as from the images, again and again, without reading the images; and
//! refused, by name, when images or host are not those that they were made for.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use support::Scenario;
use support::dumped::{Dumped, Ended};
use support::opened::Opened;

#[test]
fn trees_are_restored_by_their_plans() {
    Scenario::program("motley", &[]).with_moving_memory().by_plan().run();
    Scenario::program("shared_fds", &["20"]).by_plan().run();
    Scenario::program("memory", &["plain"]).by_plan().run();
    Scenario::program("threads", &["signals"]).by_plan().run();
}

#[test]
fn with_sockets_timers_and_files_without_a_name() {
    Scenario::program("sockets", &[]).by_plan().run();
    Scenario::program("events", &[]).by_plan().run();
    Scenario::program("nameless", &[]).by_plan().run();
    Scenario::program("names", &[]).dump_options(&["--link-remap"]).by_plan().rounds(1).run();
}

#[test]
fn with_filters_credentials_and_clocks() {
    Scenario::program("seccomp", &[]).by_plan().rounds(1).run();
    Scenario::program("credentials", &[]).by_plan().rounds(1).run();
    Scenario::program("uptime", &[])
        .started_by(&["unshare", "--time", "--monotonic", "1000000", "--boottime", "2000000"])
        .in_a_time_namespace()
        .by_plan()
        .run();
}

fn tree() -> Option<Dumped> {
    Dumped::program("shared_fds", &["1"])
}

/// Plans, into `$DIR/tree.plan`; it must succeed.
#[track_caller]
fn plan(tree: &mut Dumped, options: &str) {
    let ended = tree.shell(&format!("$REGROW plan -D $IMAGES --out $DIR/tree.plan {options}"));
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    let mode = fs::metadata(tree.file("tree.plan")).expect("a plan").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Restores by the plan, and lets the tree check itself.
#[track_caller]
fn check_restores(tree: &mut Dumped, what: &str) {
    let opened = Opened::watch(&tree.images_dir());
    let ended = restore(tree, "", "");
    assert_eq!(ended.code, Some(0), "{what}: {}", ended.text);
    assert!(!opened.names().is_empty(), "{what}: the watch saw nothing");
    tree.check_restored(what);
}

fn restore(tree: &mut Dumped, before: &str, options: &str) -> Ended {
    tree.shell(&format!(
        "{before} $REGROW restore -D $IMAGES -W $WORK -d --pidfile pid -o plan.log --plan $DIR/tree.plan {options}"
    ))
}

/// Tries to restore by the plan: it must be refused with all of `said`, each in a line of its own, and
/// nothing be left.
#[track_caller]
fn check_refused(tree: &mut Dumped, before: &str, options: &str, said: &[&[&str]]) {
    let strangers = tree.living();
    let ended = restore(tree, before, options);
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    let log = tree.work_text("plan.log");
    for pieces in said {
        for text in [&ended.text, &log] {
            let is_said = text.lines().any(|line| pieces.iter().all(|piece| line.contains(piece)));
            assert!(is_said, "{pieces:?} is not said:\n{text}");
        }
    }
    assert_eq!(tree.living(), strangers, "restored although refused");
}

/// `regrow verify`, which must end with this code and say this.
#[track_caller]
fn check_verify(tree: &mut Dumped, options: &str, code: i32, said: &[&str]) {
    check_says(tree, &format!("verify $DIR/tree.plan {options}"), code, said);
}

/// `regrow check` of the images by the plan, likewise.
#[track_caller]
fn check_check(tree: &mut Dumped, options: &str, code: i32, said: &[&str]) {
    check_says(tree, &format!("check $IMAGES --plan $DIR/tree.plan {options}"), code, said);
}

#[track_caller]
fn check_says(tree: &mut Dumped, command: &str, code: i32, said: &[&str]) {
    let ended = tree.shell(&format!("$REGROW {command}"));
    assert_eq!(ended.code, Some(code), "{}", ended.text);
    for piece in said {
        assert!(ended.text.contains(piece), "{piece:?} is not said:\n{}", ended.text);
    }
}

#[test]
fn again_and_again() {
    let Some(mut tree) = tree() else { return };
    plan(&mut tree, "");
    check_check(&mut tree, "", 0, &["tree.plan can be played here", "certified: "]);
    check_check(&mut tree, "--times", 0, &["milliseconds: read ", ", demands ", ", certify ", ", all "]);
    check_says(&mut tree, "check $IMAGES --times", 0, &["milliseconds: read ", ", demands ", ", certify "]);
    check_restores(&mut tree, "first");
    check_restores(&mut tree, "second");
    let ended = tree.shell("cd /; $REGROW restore -W $WORK -d --pidfile pid --plan $DIR/tree.plan");
    assert_eq!(ended.code, Some(0), "without -D: {}", ended.text);
    tree.check_restored("without -D");
    check_verify(&mut tree, "", 0, &["certified: ", "The images were not read"]);
    check_verify(&mut tree, "-D $IMAGES", 0, &["certified: ", "It is a plan of these images"]);
    // The tapes are those that are printed, with the same words.
    let direct = tree.shell("$REGROW tape $IMAGES");
    let stored = tree.shell("$REGROW tape --plan $DIR/tree.plan");
    assert_eq!(direct.text, stored.text);
}

/// What the plan knows of pages that are alike is compared with the images, too.
#[test]
fn with_memory_that_was_inherited() {
    let Some(mut tree) = Dumped::program("cow", &[]) else { return };
    plan(&mut tree, "--sharing keep");
    check_verify(&mut tree, "-D $IMAGES", 0, &["certified: ", "It is a plan of these images"]);
    check_restores(&mut tree, "by the plan");
}

/// The failure of a record is told in the same words as without a plan.
#[test]
fn failures_say_as_much() {
    let Some(mut tree) = tree() else { return };
    plan(&mut tree, "");
    let root = tree.root();
    for record in [3, 40] {
        let fault = format!("--inject-fault {root}:{record}:5");
        let stored = restore(&mut tree, "", &fault);
        tree.check_nothing_left("a fault");
        let fault = format!("{root}:{record}:5");
        let direct = tree.restore(&["-o", "direct.log", "--pidfile", "pid", "--inject-fault", &fault]);
        tree.check_nothing_left("a fault without a plan");
        assert_eq!((stored.code, &stored.text), (Some(1), &direct.text));
        assert!(stored.text.contains(".img entry ") && stored.text.contains("EIO"), "{}", stored.text);
    }
}

#[test]
fn a_tree_that_is_planned_while_it_runs() {
    let Some(mut tree) = tree() else { return };
    let ended = tree.restore(&[]);
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    let ended = tree.shell("$REGROW plan -D $IMAGES --out $DIR/tree.plan");
    assert_eq!(ended.code, Some(4), "{}", ended.text);
    let root = tree.root().to_string();
    check_refused(
        &mut tree,
        "",
        "",
        &[&["pid taken: task ", &root, " is taken by another task (shared_fds)"]],
    );
    tree.check_restored("the one that runs");
    check_restores(&mut tree, "by the plan");
}

#[test]
fn images_that_have_changed() {
    let Some(mut tree) = tree() else { return };
    plan(&mut tree, "");
    let images = tree.images_dir();
    let path = |name: &str| images.join(name);
    let rewrite = |name: &str| {
        let bytes = fs::read(path(name)).expect("an image");
        fs::remove_file(path(name)).expect("an image");
        fs::write(path(name), &bytes).expect("an image");
        bytes
    };
    // The same content in another inode: it decides.
    rewrite("inventory.img");
    check_restores(&mut tree, "a copied image");
    // Another content, at its place and of the same length.
    let mut bytes = rewrite("inventory.img");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(path("inventory.img"), &bytes).expect("an image");
    let changed: &[&str] =
        &["stale plan: inventory.img has changed since the plan was made: its content is another"];
    check_refused(&mut tree, "", "", &[changed]);
    check_verify(&mut tree, "-D $IMAGES", 9, changed);
    check_check(&mut tree, "", 9, changed);
    check_verify(&mut tree, "", 0, &["certified"]);
    bytes[last] ^= 1;
    fs::write(path("inventory.img"), &bytes).expect("an image");
    // Of pages length and time decide, or, if the user asked for it, their content.
    let pages = fs::read_dir(&images)
        .expect("images")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name.starts_with("pages-"))
        .expect("pages");
    rewrite(&pages);
    check_refused(&mut tree, "", "", &[&["stale plan: ", &pages, "modified", "--hash-pages"]]);
    plan(&mut tree, "--hash-pages");
    rewrite(&pages);
    check_restores(&mut tree, "copied pages");
    check_verify(&mut tree, "-D $IMAGES", 0, &["pages by content"]);
    // One more, one less, another place.
    fs::write(path("ids-77.img"), "").expect("an image");
    fs::rename(path("seccomp.img"), path("seccomp.img.old")).expect("an image");
    check_refused(
        &mut tree,
        "",
        "",
        &[&["ids-77.img is new since the plan was made"], &["seccomp.img: No such file"]],
    );
    fs::remove_file(path("ids-77.img")).expect("an image");
    fs::rename(path("seccomp.img.old"), path("seccomp.img")).expect("an image");
    let ended = tree.shell("cp -a $IMAGES $DIR/copy; $REGROW restore -D $DIR/copy -d --plan $DIR/tree.plan");
    assert_eq!(ended.code, Some(1), "{}", ended.text);
    assert!(
        ended.text.contains("/images, these are in ") && ended.text.contains("plan again"),
        "{}",
        ended.text
    );
    check_restores(&mut tree, "in the end");
}

#[test]
fn a_host_that_has_changed() {
    let Some(mut tree) = tree() else { return };
    plan(&mut tree, "");
    // A pid, a file, a fact that was relied on, and one that was not.
    let stranger = tree.start_as(tree.root());
    let pid = stranger.to_string();
    check_refused(
        &mut tree,
        "",
        "",
        &[&["pid taken: ", &format!("pid {pid} is taken by another task (sleep)")]],
    );
    tree.end_stranger(stranger);

    let state = tree.state_dir();
    let file = state.join("file3");
    let before = fs::read(&file).expect("a file");
    fs::write(&file, [before.as_slice(), b"more"].concat()).expect("a file");
    let longer = format!(", {} bytes long, here is", before.len());
    check_refused(
        &mut tree,
        "",
        "",
        &[&["file missing or changed: ", "/state/file3: planned with", &longer]],
    );
    fs::rename(&file, state.join("elsewhere")).expect("a file");
    check_refused(&mut tree, "", "", &[&["/state/file3: planned with", "here is nothing (No such file"]]);
    fs::rename(state.join("elsewhere"), &file).expect("a file");
    fs::write(&file, &before).expect("a file");

    let refused: &[(&str, &[&str])] = &[
        ("setpriv --bounding-set -sys_time --", &["planned with bounding capabilities 0x", "here it is 0x"]),
        ("setpriv --groups 5,6 --", &["planned with groups", "here it is [5, 6]"]),
        ("nice -n 5", &["planned with nice ", "here it is "]),
        ("prlimit --nofile=100:200", &["planned with hard resource limit 7 ", "here it is only 200"]),
        ("setarch -R", &["planned with personality", "here it is 0x40000"]),
        ("choom -n 300 --", &["planned with oom_score_adj", "here it is 300"]),
    ];
    for (before, said) in refused {
        check_refused(&mut tree, before, "", &[said]);
    }
    check_refused(&mut tree, "", "--shell-job", &[&["planned without --shell-job"]]);
    // The umask of the caller, its directory, its limits beyond what is set anyway: none is relied on.
    let ended = restore(&mut tree, "umask 077; cd /tmp;", "");
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    tree.check_restored("another umask");
}

/// A plan that copies pages relies on userfaultfd(2). One that was made where there is none reads them, and is good
/// everywhere.
#[test]
fn a_kernel_without_userfaultfd() {
    let Some(mut tree) = Dumped::program("memory", &["plain"]) else { return };
    let without = tree.helper("without_userfaultfd");
    let check_tape = |tree: &mut Dumped, copies: bool| {
        let text = tree.shell("$REGROW tape --plan $DIR/tree.plan").text;
        for call in ["userfaultfd(", "UFFDIO_COPY"] {
            assert_eq!(text.contains(call), copies, "{call}:\n{text}");
        }
        assert!(text.contains("preadv("), "{text}");
    };
    plan(&mut tree, "");
    check_tape(&mut tree, true);
    let stale = "planned with userfaultfd(2) there, here it is not there (Function not implemented)";
    check_refused(&mut tree, &without, "", &[&["stale plan: ", stale]]);
    tree.check_nothing_left("without userfaultfd");
    let ended = tree.shell(&format!("{without} $REGROW check $IMAGES --plan $DIR/tree.plan"));
    assert_eq!(ended.code, Some(9), "{}", ended.text);
    assert!(ended.text.contains(stale), "{}", ended.text);

    let ended = tree.shell(&format!("{without} $REGROW plan -D $IMAGES --out $DIR/tree.plan"));
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    check_tape(&mut tree, false);
    let ended = restore(&mut tree, &without, "");
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    tree.check_restored("without userfaultfd");
    check_restores(&mut tree, "with userfaultfd, by a plan without");
}

/// Blocks that are forked are moved into place where the host has huge pages for those who ask, and userfaultfds that move: by
/// this table of costs also where it takes long to get one.
#[test]
fn blocks_that_are_forked_are_moved() {
    let Some(mut tree) = Dumped::program("blocks", &[]) else { return };
    let costs = regrow_graph::cost::CostModel { fork_page_ns: 1e6, ..Default::default() };
    let host = serde_json::json!({ "cores": 2, "kernel": "6.18.0", "machine": "x86_64", "privileged": true });
    let table = serde_json::json!({ "format": "regrow-costs/1", "host": host, "kept": {}, "costs": costs });
    fs::write(tree.file("costs.json"), table.to_string()).expect("a table");
    plan(&mut tree, "--costs $DIR/costs.json");
    let setting = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let release = nix::sys::utsname::uname().expect("uname").release().to_string_lossy().into_owned();
    let version: Vec<u32> = release.split('.').map_while(|number| number.parse().ok()).collect();
    let may = !setting.is_empty() && !setting.contains("[never]") && version >= vec![6, 8];
    let tape = tree.shell("$REGROW tape --plan $DIR/tree.plan").text;
    assert_eq!(tape.contains("UFFDIO_MOVE"), may, "{tape}");
    check_restores(&mut tree, "by moves");
}

/// Absolute deadlines are counted from the restore, not from when it was planned.
#[test]
fn deadlines_go_on_with_the_restore() {
    let Some(mut tree) = Dumped::program("events", &[]) else { return };
    plan(&mut tree, "");
    std::thread::sleep(std::time::Duration::from_secs(2));
    check_restores(&mut tree, "two seconds later");
}

/// The session and group of the caller are those that the plan was made for.
#[test]
fn a_job_of_a_shell() {
    let Some(mut tree) = Dumped::nothing() else { return };
    let program = tree.helper("shared_fds");
    let restore = "$REGROW restore -D $IMAGES -W $WORK -d -S -j -o with.log --plan $DIR/tree.plan";
    let script = format!(
        "{program} $STATE 1 > $DIR/job.log 2>&1 < /dev/null &
        until [ -e $STATE/ready ]; do sleep 0.01; done
        $CRIU dump -t $! -D $IMAGES --shell-job -o dump.log || exit 90
        wait $!
        $REGROW plan -D $IMAGES --out $DIR/tree.plan && exit 91
        $REGROW plan -D $IMAGES --out $DIR/tree.plan -j || exit 92
        setsid --wait {restore} 2> $DIR/elsewhere && exit 93
        grep -q \"planned with the caller's session $$, here it is\" $DIR/elsewhere || exit 94
        {restore} || exit 95
        [ \"$(cut -d ' ' -f 6 /proc/$!/stat)\" = $$ ] || exit 96
        touch $STATE/go
        until [ -e $STATE/result ]; do sleep 0.01; done"
    );
    let script = tree.with_names(&script);
    let ended = tree.run(&["setsid", "--wait", "bash", "-c", &script]);
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.text, tree.work_text("with.log"));
    tree.check_result("a shell job");
}

/// A plan is written whole or not at all, and not where an image could be.
#[test]
fn where_plans_are_written() {
    let Some(mut tree) = tree() else { return };
    let refused = |tree: &mut Dumped, out: &str, said: &str| {
        let ended = tree.shell(&format!("$REGROW plan -D $IMAGES --out {out}"));
        assert_eq!(ended.code, Some(1), "{}", ended.text);
        assert!(ended.text.contains(said), "{}", ended.text);
    };
    refused(&mut tree, "$IMAGES/x.img", "that is a name for an image");
    refused(&mut tree, "$DIR/nowhere/x.plan", "No such file or directory");
    refused(&mut tree, "$WORK", "Is a directory");
    tree.check_files("refusals");
    // What is there is overwritten; a link is not followed.
    let script = "echo precious > $DIR/precious; ln -s precious $DIR/tree.plan";
    assert_eq!(tree.shell(script).code, Some(0));
    plan(&mut tree, "");
    plan(&mut tree, "");
    assert_eq!(fs::read_to_string(tree.file("precious")).expect("it is there"), "precious\n");
    assert!(!tree.file("tree.plan").symlink_metadata().expect("a plan").is_symlink());
    let left = tree.shell("ls -a $DIR | grep '^\\.tree'").text;
    assert_eq!(left, "", "temporary files are left");
    check_restores(&mut tree, "overwritten");
}

/// A file that is no plan, or a damaged one, is refused and says where.
#[test]
fn damaged_plans() {
    let Some(mut tree) = tree() else { return };
    plan(&mut tree, "");
    let path = tree.file("tree.plan");
    let good = fs::read(&path).expect("a plan");
    let write = |bytes: &[u8]| fs::write(&path, bytes).expect("a plan");
    write(&good[..good.len() / 2]);
    check_refused(&mut tree, "", "", &[]);
    check_verify(&mut tree, "", 3, &["bad plan: ", "head: the file is cut off behind it"]);
    let mut bytes = good.clone();
    let end = bytes.len() - 1;
    bytes[end] ^= 1;
    write(&bytes);
    check_verify(&mut tree, "", 3, &["section purposes: damaged"]);
    check_check(&mut tree, "", 3, &["section purposes: damaged"]);
    write(b"#!/bin/sh\n");
    check_verify(&mut tree, "", 3, &["not a stored plan"]);
    fs::remove_file(&path).expect("a plan");
    let ended = tree.shell("mkfifo $DIR/tree.plan");
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    check_verify(&mut tree, "", 3, &["not a regular file"]);
    fs::remove_file(Path::new(&path)).expect("a FIFO");
    write(&good);
    check_restores(&mut tree, "the good one");
}
