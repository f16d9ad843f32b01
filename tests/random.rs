//! Random forests ([`regrow_proptests::descriptions`]), restored for real and verified.
//!
//! The tasks check themselves, and `synth::verify` compares the rest from outside, in the namespace of the test. The
//! one program that can make the forest of a seed is this one, so it runs itself there, with the order in
//! `REGROW_ORDER`. `REGROW_RANDOM_FORESTS` is how many forests there are to be, from the seed
//! `REGROW_FIRST_FOREST` on.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regrow::host;
use regrow::image;
use regrow::synth::model::{Ground, synthesise};
use regrow::synth::{Forest, verify};
use regrow_proptests::descriptions::{FILE_BYTES, FILES, sample};
use support::dumped::Dumped;

/// How many forests, if nobody says otherwise.
const FORESTS: u64 = 25;
/// Most tasks of one.
const TASKS: usize = 14;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn forest(seed: u64, dir: &Path) -> Forest {
    let mut forest = sample(&dir.join("files"), TASKS, seed);
    // The parent of its root is whoever restores it, who ends then.
    forest.tasks[0].attributes.parent_death_signal = 0;
    forest
}

/// In the namespace of the test: writes the forest of a seed into a directory, or looks whether it lives.
fn obey(order: &str) {
    let [what, seed, dir] = order.split(' ').collect::<Vec<_>>()[..] else { panic!("{order}") };
    let dir = Path::new(dir);
    let forest = forest(seed.parse().unwrap(), dir);
    match what {
        "write" => {
            for made in [dir, &dir.join("files"), &dir.join("images")] {
                std::fs::create_dir(made).unwrap();
            }
            for number in 0..FILES {
                std::fs::write(dir.join("files").join(format!("file-{number}")), vec![b'x'; FILE_BYTES])
                    .unwrap();
            }
            let ground = Ground { own: &host::gather_own(), executable: "/bin/sh" };
            let made = synthesise(&forest, &ground).unwrap();
            image::write_model(&made.model, &made.contents, &dir.join("images")).unwrap();
        }
        "verify" => {
            verify::again(&forest).unwrap();
            if let Err(faults) = verify::verify(&forest, Duration::from_secs(60)) {
                panic!("seed {seed}: {faults:#?}\n{forest:#?}");
            }
            support::say(&format!("seed {seed}: all as described"));
        }
        "end" => end(&forest),
        other => panic!("{other}"),
    }
}

/// Kills all tasks, and waits until they are gone: their pids are wanted again.
fn end(forest: &Forest) {
    for task in &forest.tasks {
        let _ = kill(Pid::from_raw(task.pid as i32), Signal::SIGKILL);
    }
    let limit = Instant::now() + Duration::from_secs(20);
    let is_there = |pid: u32| Path::new(&format!("/proc/{pid}")).exists();
    for task in &forest.tasks {
        while is_there(task.pid) {
            assert!(Instant::now() < limit, "task {} does not end", task.pid);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn random_forests() {
    if let Ok(order) = std::env::var("REGROW_ORDER") {
        return obey(&order);
    }
    let Some(mut ground) = Dumped::nothing() else { return };
    let me = std::env::current_exe().unwrap();
    let first = number("REGROW_FIRST_FOREST", 0);
    let (mut restored, mut with_ipc, mut with_rings) = (0, 0, 0);
    for seed in first..first + number("REGROW_RANDOM_FORESTS", FORESTS) {
        let script = format!(
            "set -e
             SEED={seed}
             # A restore moves the search for pids beyond those of the tree: the next tree's must be free.
             echo 2000 >/proc/sys/kernel/ns_last_pid
             order() {{ REGROW_ORDER=\"$1 $SEED $DIR/$SEED\" {me} random_forests --exact --nocapture; }}
             end() {{ order end >/dev/null; }}
             order write >/dev/null
             code=0; $REGROW check $DIR/$SEED/images >$DIR/said 2>&1 || code=$?
             if [ $code != 0 ]; then grep -qE 'cannot be inherited: no ancestor is in it|shares its descriptor table with its parent' $DIR/said || {{ cat $DIR/said; exit 8; }}
                 echo refused; exit 0; fi
             $REGROW restore -D $DIR/$SEED/images -d
             order verify
             end",
            me = me.display(),
        );
        let ended = ground.shell(&script);
        assert_eq!(ended.code, Some(0), "seed {seed}\n{}", ended.text);
        let verified = ended.text.matches("all as described").count();
        let is_refused = ended.text.contains("refused");
        assert!(is_refused || verified == 1, "seed {seed}\n{}", ended.text);
        restored += u64::from(!is_refused);
        let made = forest(seed, me.parent().unwrap());
        with_ipc += u64::from(!is_refused && made.ipc.is_some());
        with_rings += u64::from(!is_refused && made.tasks.iter().any(|task| !task.rings.is_empty()));
    }
    support::say(&format!(
        "{restored} random forests restored, {with_ipc} with an IPC namespace, {with_rings} with AIO rings"
    ));
    assert!(restored > 0);
    assert!(first > 0 || restored < FORESTS / 2 || with_ipc > 0 && with_rings > 0, "nobody has any");
}
