//! `regrow restore` as scripts that know `criu restore` call it: pidfile, log, levels, attached and detached,
//! sibling, stopped, shell job, and the statuses of failures.

mod support;

use std::fs;
use std::time::{Duration, Instant};

use support::dumped::Dumped;

/// How long tasks may take to die, also on a slow machine.
const DYING: Duration = Duration::from_secs(20);

fn tree() -> Option<Dumped> {
    Dumped::program("shared_fds", &["1"])
}

/// Restores by a script and lets the tree check itself; gives what was printed.
#[track_caller]
fn check_script(tree: &mut Dumped, script: &str) -> String {
    let ended = tree.shell(script);
    assert_eq!(ended.code, Some(0), "{script}\n{}", ended.text);
    tree.check_restored(script);
    ended.text
}

/// Runs a script that must fail with 1, as CRIU does, and restore nothing.
#[track_caller]
fn check_failure(tree: &mut Dumped, script: &str) -> String {
    let strangers = tree.living();
    let ended = tree.shell(script);
    assert_eq!(ended.code, Some(1), "{script}\n{}", ended.text);
    let start = Instant::now();
    // CRIU ends while the tasks that it has killed are still dying.
    while script.contains("$CRIU") && tree.living() != strangers && start.elapsed() < DYING {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(tree.living(), strangers, "{script}\n{}", ended.text);
    ended.text
}

#[test]
fn the_pidfile() {
    let Some(mut tree) = tree() else { return };
    let root = tree.root().to_string();
    let work = tree.work_dir().join("pid");
    let images = tree.images_dir().join("pid");
    // Relative to the work directory, else to that of the images; as CRIU writes it.
    for program in ["$CRIU", "$REGROW"] {
        for (options, path) in [("-D $IMAGES -W $WORK", &work), ("-D $IMAGES", &images)] {
            let script = format!("cd /; {program} restore {options} -d -o /dev/null --pidfile pid");
            let ended = tree.shell(&script);
            assert_eq!(ended.code, Some(0), "{script}\n{}", ended.text);
            assert_eq!(fs::read_to_string(path).expect("a pidfile"), root, "{script}");
            fs::remove_file(path).expect("a pidfile");
            // What CRIU leaves for its own statistics.
            for left in [tree.images_dir().join("stats-restore"), tree.work_dir().join("stats-restore")] {
                let _ = fs::remove_file(left);
            }
            tree.check_restored(&script);
        }
    }
    check_script(
        &mut tree,
        "$REGROW restore -D $IMAGES -d --pidfile $WORK/pid && [ $(cat $WORK/pid) = $ROOT ]",
    );
}

#[test]
fn a_pidfile_that_exists() {
    let Some(mut tree) = tree() else { return };
    let pidfile = tree.work_dir().join("pid");
    fs::write(&pidfile, "somebody's").expect("write");
    let said = check_failure(&mut tree, "$REGROW restore -D $IMAGES -W $WORK -d --pidfile pid -o pid.log");
    assert!(said.contains("pidfile") && said.contains("File exists"), "{said}");
    assert!(tree.work_text("pid.log").contains("File exists"));
    assert_eq!(tree.work_text("pid"), "somebody's");
    fs::remove_file(pidfile).expect("a pidfile");
    tree.check_nothing_left("an existing pidfile");
}

#[test]
fn a_pidfile_that_cannot_be_written() {
    let Some(mut tree) = tree() else { return };
    // It is written when the tasks are there and wait to be let go: all of them end.
    let said =
        check_failure(&mut tree, "$REGROW restore -D $IMAGES -W $WORK -d --pidfile nowhere/pid -o pid.log");
    assert!(said.contains("nowhere/pid"), "{said}");
    tree.check_nothing_left("an impossible pidfile");
}

#[test]
fn failures_have_the_status_of_criu() {
    let Some(mut tree) = tree() else { return };
    for program in ["$CRIU", "$REGROW"] {
        check_failure(&mut tree, &format!("{program} restore -D $DIR/nowhere -W $WORK -d -o missing.log"));
        check_failure(&mut tree, &format!("{program} restore -D $STATE -W $WORK -d -o empty.log"));
        check_failure(&mut tree, &format!("{program} restore -D $IMAGES -W $DIR/nowhere -d -o missing.log"));
        fs::write(tree.work_dir().join("taken"), "").expect("write");
        check_failure(
            &mut tree,
            &format!("{program} restore -D $IMAGES -W $WORK -d --pidfile taken -o taken.log"),
        );
        fs::remove_file(tree.work_dir().join("taken")).expect("remove");
        let _ = fs::remove_file(tree.work_dir().join("stats-restore"));
        tree.await_gone();
    }
    let root = tree.root();
    let stranger = tree.start_as(root);
    for program in ["$CRIU", "$REGROW"] {
        check_failure(&mut tree, &format!("{program} restore -D $IMAGES -W $WORK -d -o taken.log"));
        let _ = fs::remove_file(tree.work_dir().join("stats-restore"));
    }
    tree.end_stranger(stranger);
    tree.check_nothing_left("failures");
}

#[test]
fn the_log() {
    let Some(mut tree) = tree() else { return };
    // It exists whatever comes, in the work directory.
    check_failure(&mut tree, "cd /; $REGROW restore -D $DIR/nowhere -W $WORK -d -o failed.log");
    assert!(tree.work_text("failed.log").contains("FAILED"), "{}", tree.work_text("failed.log"));
    check_failure(&mut tree, "cd /; $REGROW restore -D $DIR/nowhere -d -o $WORK/absolute.log");
    assert!(tree.work_text("absolute.log").contains("FAILED"));
    // With -v0 and -v1 there is nothing to say about a success; from -v3 on there is.
    for (level, is_silent) in [
        ("-v0", true),
        ("-v1", true),
        ("--verbosity=1", true),
        ("-v3", false),
        ("-v4", false),
        ("-vvvv", false),
        ("-v -v", false),
        ("--verbosity=4", false),
    ] {
        let script =
            format!("rm -f $WORK/*.log; $REGROW restore -D $IMAGES -W $WORK {level} -d -o level.log");
        let printed = check_script(&mut tree, &script);
        assert_eq!(printed, "", "{level}");
        let log = tree.work_text("level.log");
        assert!(tree.work_dir().join("level.log").exists(), "{level}");
        assert_eq!(log.is_empty(), is_silent, "{level}:\n{log}");
        assert_eq!(log.contains("Restore finished successfully"), !is_silent, "{level}:\n{log}");
    }
    // Without -o it goes to standard error.
    let printed = check_script(&mut tree, "$REGROW restore -D $IMAGES -v3 -d");
    assert!(printed.contains("Restore finished successfully"), "{printed}");
}

#[test]
fn attached_it_stays_until_the_root_has_ended() {
    let Some(mut tree) = tree() else { return };
    let below: Vec<String> =
        tree.pids().iter().filter(|pid| **pid != tree.root()).map(ToString::to_string).collect();
    let child = &below[0];
    for program in ["$CRIU", "$REGROW"] {
        // The program cannot check itself: its parent was the init.
        let script = format!(
            "{program} restore -D $IMAGES -W $WORK -o attached.log --pidfile pid &
            until [ -e $WORK/pid ]; do sleep 0.01; done
            while grep -q memfd: /proc/$ROOT/maps; do sleep 0.01; done
            sleep 0.3
            [ \"$(cut -d ' ' -f 4 /proc/$ROOT/stat)\" = $! ] || exit 90
            kill -KILL $ROOT
            wait $! || exit 91
            [ \"$(cut -d ' ' -f 4 /proc/{child}/stat)\" = 1 ] || exit 92
            kill -KILL {}",
            below.join(" ")
        );
        let ended = tree.shell(&script);
        assert_eq!(ended.code, Some(0), "{script}\n{}", ended.text);
        for left in ["pid", "stats-restore"] {
            let _ = fs::remove_file(tree.work_dir().join(left));
        }
        tree.check_nothing_left(program);
    }
}

#[test]
fn attached_it_ends_by_a_signal_and_the_tree_lives() {
    let Some(mut tree) = tree() else { return };
    let script = "
        $REGROW restore -D $IMAGES -W $WORK -o attached.log --pidfile pid &
        until grep -q memfd:regrow /proc/$ROOT/maps 2>/dev/null || [ -e $WORK/pid ]; do sleep 0.01; done
        while grep -q memfd:regrow /proc/$ROOT/maps 2>/dev/null; do sleep 0.01; done
        sleep 0.3
        kill -TERM $!
        wait $!; echo status $?";
    let printed = check_script(&mut tree, script);
    assert_eq!(printed, "status 143\n");
}

#[test]
fn a_sibling_is_a_child_of_the_caller() {
    let Some(mut tree) = tree() else { return };
    let pids: Vec<String> = tree.pids().iter().map(ToString::to_string).collect();
    let script = format!(
        "$REGROW restore -D $IMAGES -W $WORK -d -S -o sibling.log || exit 90
        [ \"$(cut -d ' ' -f 4 /proc/$ROOT/stat)\" = $$ ] || exit 91
        kill -KILL {}",
        pids.join(" ")
    );
    let ended = tree.shell(&script);
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    tree.check_nothing_left("a sibling");
    // The init was the parent at the dump, and is now.
    let restored = tree.restore(&["-S", "-o", "sibling.log", "--pidfile", "pid"]);
    assert_eq!(restored.code, Some(0), "{}", restored.text);
    tree.check_restored("a sibling");
}

#[test]
fn left_stopped() {
    let Some(mut tree) = Dumped::program("wide", &["8"]) else { return };
    let restored = tree.restore(&["-s", "-o", "stopped.log"]);
    assert_eq!(restored.code, Some(0), "{}", restored.text);
    let pids: Vec<String> = tree.pids().iter().map(ToString::to_string).collect();
    let pids = pids.join(" ");
    let states = tree.shell(&format!("for p in {pids}; do grep State /proc/$p/status; done")).text;
    assert!(states.contains("T (stopped)"), "{states}");
    assert!(
        states.lines().all(|line| line.contains("T (stopped)") || line.contains("Z (zombie)")),
        "{states}"
    );
    let printed = tree.shell(&format!("kill -CONT {pids}"));
    assert_eq!(printed.code, Some(0), "{}", printed.text);
    tree.check_restored("left stopped");
}

#[test]
fn a_shell_job() {
    let Some(mut tree) = Dumped::nothing() else { return };
    let program = tree.helper("shared_fds");
    // One shell starts it, loses it and gets it back, into its own session and as its own child.
    let script = format!(
        "{program} $STATE 1 > $DIR/job.log 2>&1 < /dev/null &
        until [ -e $STATE/ready ]; do sleep 0.01; done
        $CRIU dump -t $! -D $IMAGES --shell-job -o dump.log || exit 90
        wait $!
        $REGROW restore -D $IMAGES -W $WORK -d -S -o without.log 2> $DIR/without
        [ $? = 1 ] || exit 91
        grep -q shell-job $DIR/without || exit 92
        [ -e /proc/$! ] && exit 93
        $REGROW restore -D $IMAGES -W $WORK -d -S -j -o with.log || exit 94
        [ \"$(cut -d ' ' -f 6 /proc/$!/stat)\" = $$ ] || exit 95
        touch $STATE/go
        until [ -e $STATE/result ]; do sleep 0.01; done"
    );
    let script = tree.with_names(&script);
    let ended = tree.run(&["setsid", "--wait", "bash", "-c", &script]);
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.text, tree.work_text("with.log"));
    tree.check_result("a shell job");
}

#[test]
fn options_that_the_images_do_not_need() {
    let Some(mut tree) = tree() else { return };
    for options in [
        "--no-default-config",
        "--shell-job",
        "--file-locks --tcp-established --ext-unix-sk --link-remap",
        "--manage-cgroups --cgroup-root /elsewhere --cgroup-yard /nowhere",
        "--manage-cgroups=full --force-irmap --skip-in-flight",
        "-j -l -x --tcp-close",
    ] {
        let script = format!("$REGROW restore -D $IMAGES -W $WORK -d -o option.log {options}");
        check_script(&mut tree, &script);
    }
}

#[test]
fn nothing_of_regrow_stays_in_a_task() {
    let Some(mut tree) = Dumped::program("wide", &["8"]) else { return };
    let ended = tree.shell("SECRET=regrow-was-here $REGROW restore -D $IMAGES -W $WORK -d -o traces.log");
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    let pids: Vec<String> = tree.pids().iter().map(ToString::to_string).collect();
    let script = format!(
        "cd /proc; for p in {}; do grep -H regrow $p/maps; ls -l $p/fd | grep memfd; readlink $p/exe; \
        tr '\\0' '\\n' < $p/environ; grep TracerPid $p/status; done",
        pids.join(" ")
    );
    let found = tree.shell(&script).text;
    for trace in ["memfd", "regrow-was-here", "bin/regrow", "debug/regrow", "release/regrow"] {
        assert!(
            !found.lines().any(|line| line.contains(trace) && line.ends_with(trace)),
            "{trace}:\n{found}"
        );
    }
    assert!(!found.contains("memfd:regrow"), "{found}");
    assert!(found.lines().any(|line| line == "LANG=C"), "the environment of the dump:\n{found}");
    assert!(
        found.lines().filter(|line| line.starts_with("TracerPid")).all(|line| line.ends_with("\t0")),
        "{found}"
    );
    tree.check_restored("traces");
}
