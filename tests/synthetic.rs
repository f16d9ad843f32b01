//! Trees that nobody dumped: made up by `regrow demo`, written as images, restored by CRIU and by regrow.
//!
//! CRIU keeps the image writer honest: what it restores from the images is what they say to somebody who has
//! not written them. The tasks check themselves, and `regrow demo --verify` compares the rest from outside.

#![allow(clippy::unwrap_used)]

mod support;

use regrow::image;
use support::dumped::Dumped;

/// The pids of the synthetic tasks: beyond what the tests' own programs get.
const FIRST_PID: u32 = 2000;

/// Runs a script with `demo`, the command of one forest, defined; it must succeed.
#[track_caller]
fn shell(ground: &mut Dumped, shape: &str, script: &str) -> String {
    let text = format!(
        "set -e\n\
         demo() {{ $REGROW demo --first-pid {FIRST_PID} {shape} \"$@\"; }}\n\
         # Ends the tree, and waits until it is gone: pids are wanted again.\n\
         end() {{ for p in $(seq {FIRST_PID} $(({FIRST_PID} + 200))); do kill -KILL $p 2>/dev/null || true; done\n\
                  for i in $(seq 400); do ls /proc | grep -qE '^2[0-2][0-9][0-9]$' || return 0; sleep 0.02; done; return 1; }}\n\
         {script}"
    );
    let ended = ground.shell(&text);
    assert_eq!(ended.code, Some(0), "{shape}\n{}", ended.text);
    ended.text
}

/// Restored by CRIU; dumped by CRIU and restored by regrow; restored by regrow from the same images.
#[track_caller]
fn check(shape: &str) {
    let Some(mut ground) = Dumped::nothing() else { return };
    let text = shell(
        &mut ground,
        shape,
        "demo --write $DIR/made >/dev/null
         $CRIU restore -D $DIR/made/images -W $WORK -o restore.log -v4 -d || { grep Error $WORK/restore.log; exit 9; }
         demo --verify $DIR/made
         $CRIU dump -t 2000 -D $IMAGES -o dump.log -v4 || { grep Error $IMAGES/dump.log; exit 9; }
         $REGROW restore -D $IMAGES -d
         demo --verify $DIR/made
         end
         $REGROW check $DIR/made/images | head -1
         $REGROW restore -D $DIR/made/images -d
         demo --verify $DIR/made
         end",
    );
    assert_eq!(text.matches("found themselves right").count(), 3, "{text}");
}

#[test]
fn one_task_with_nothing() {
    check("--tasks 1 --shared-fds 0 --shared-maps 0");
}

#[test]
fn one_task_with_both_ends_of_everything() {
    check("--tasks 1 --shared-fds 10 --shared-maps 3 --seed 2");
}

#[test]
fn a_few_tasks_that_share() {
    for seed in 1..=3 {
        check(&format!("--tasks 12 --depth 3 --shared-fds 14 --shared-maps 4 --seed {seed}"));
    }
}

#[test]
fn a_chain_and_a_star() {
    check("--tasks 24 --depth 23 --shared-fds 10 --shared-maps 3 --seed 4");
    check("--tasks 24 --depth 1 --shared-fds 10 --shared-maps 3 --seed 5");
}

/// The checks must be able to fail: of another forest, and of a task whose memory was changed.
#[test]
fn what_is_wrong_is_found() {
    let Some(mut ground) = Dumped::nothing() else { return };
    let shape = "--tasks 6 --depth 2 --shared-fds 8 --shared-maps 2";
    let text = shell(
        &mut ground,
        shape,
        "demo --write $DIR/made >/dev/null
         $REGROW restore -D $DIR/made/images -d
         demo --verify $DIR/made >/dev/null
         code=0; demo --verify $DIR/made --seed 3 2>&1 || code=$?
         echo another: $code
         at=$(grep -E '^[5-9a-e][0-9a-f]{7}-.* rw-p' /proc/2000/maps | head -1 | cut -d- -f1)
         printf x | dd of=/proc/2000/mem bs=1 seek=$((0x$at)) conv=notrunc 2>/dev/null
         code=0; demo --verify $DIR/made 2>&1 || code=$?
         echo changed $at: $code
         end",
    );
    assert!(text.contains("another: 8"), "{text}");
    assert!(text.contains("mapped beyond the description"), "{text}");
    let (_, changed) = text.split_once("another: 8\n").unwrap();
    assert!(changed.contains("regrow: task 2000: memory at 0x") && changed.contains(": 8\n"), "{changed}");
    assert_eq!(changed.lines().count(), 2, "{changed}");
}

/// Who restores what was rewritten.
const BY_CRIU: &str = "$CRIU restore -D $DIR/rewritten -W $WORK -o restore.log -v4 -d \
     || { grep Error $WORK/restore.log; exit 9; }; rm $WORK/stats-restore";
const BY_REGROW: &str = "$REGROW restore -D $DIR/rewritten -W $WORK -d";

/// What CRIU has dumped of a real program is read and written, and reads as before; it is restored from what
/// was written, and the program finds itself as it was.
#[track_caller]
fn check_rewritten(program: &str, arguments: &[&str], restore: &str) {
    let Some(mut dumped) = Dumped::program(program, arguments) else { return };
    let (from, to) = (dumped.images_dir(), dumped.file("rewritten"));
    std::fs::create_dir(&to).unwrap();
    let mut model = image::read_model(&from).unwrap();
    image::write_model(&model, &model, &to).unwrap();
    let mut read = image::read_model(&to).unwrap();
    read.dir = model.dir.clone();
    // Their heads are shorter: the model does not keep device and inode.
    for ghost in [&mut read, &mut model].into_iter().flat_map(|model| &mut model.ghosts) {
        ghost.pieces.iter_mut().for_each(|piece| piece.data.offset_bytes = 0);
    }
    let (read, model) = (format!("{read:#?}"), format!("{model:#?}"));
    let differ: Vec<_> = read.lines().zip(model.lines()).filter(|(read, model)| read != model).collect();
    assert!(read == model, "{program}: {differ:#?}");
    let ended = dumped.shell(restore);
    assert_eq!(ended.code, Some(0), "{program}: {}", ended.text);
    dumped.check_restored(program);
}

#[test]
fn dumps_are_rewritten_and_restored_by_criu() {
    check_rewritten("shared_fds", &["60"], BY_CRIU);
    check_rewritten("memory", &["plain"], BY_CRIU);
    check_rewritten("deep", &["10"], BY_CRIU);
    check_rewritten("fpu_regs", &[], BY_CRIU);
    check_rewritten("seccomp", &[], BY_CRIU);
}

/// CRIU itself changes something in each of these (see their scenarios).
#[test]
fn dumps_are_rewritten_and_restored_by_regrow() {
    check_rewritten("sockets", &[], BY_REGROW);
    check_rewritten("in_flight", &[], BY_REGROW);
    check_rewritten("events", &[], BY_REGROW);
    check_rewritten("nameless", &[], BY_REGROW);
    check_rewritten("memory", &["files"], BY_REGROW);
}

/// The whole demonstration, in namespaces of its own below those of the test.
#[test]
fn the_demonstration_of_a_few_seeds() {
    let Some(mut ground) = Dumped::nothing() else { return };
    for seed in 1..=3 {
        let script = "mkdir -p $DIR/tmp; TMPDIR=$DIR/tmp demo; echo left: $(ls $DIR/tmp)";
        let text = shell(&mut ground, &format!("--tasks 60 --seed {seed}"), script);
        for part in [
            "made up     60 tasks",
            "planned ",
            "waits between tasks",
            "restored ",
            "by fork: ",
            "found themselves right",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
        assert!(text.ends_with("left:\n"), "{text}");
    }
    assert!(ground.living().is_empty(), "tasks are left");
}

/// Without root: in a user namespace, where the kernel allows it; else it says what is missing.
#[test]
fn the_demonstration_without_root() {
    let Some(mut ground) = Dumped::nothing() else { return };
    let script = "cp $REGROW $DIR/regrow; chmod 755 $DIR $DIR/regrow; mkdir -m 777 $DIR/tmp; cd /
         code=0
         TMPDIR=$DIR/tmp setpriv --reuid 1000 --regid 1000 --clear-groups $DIR/regrow demo --tasks 20 2>&1 || code=$?
         echo code: $code, left: $(ls $DIR/tmp)";
    let text = shell(&mut ground, "", script);
    assert!(
        text.ends_with("code: 0, left:\n") && text.contains("found themselves right")
            || text.ends_with("code: 7, left:\n") && text.contains("regrow: lacking: "),
        "{text}"
    );
}
