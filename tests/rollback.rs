//! What does not succeed leaves nothing: faults at every record of every tape and at every step of our own, and
//! ends of regrow itself.

mod support;

use support::dumped::Dumped;

/// The errors that are injected, in turn.
const ERRNOS: [(i32, &str); 4] =
    [(libc::EPERM, "EPERM"), (libc::EMFILE, "EMFILE"), (libc::ENOSPC, "ENOSPC"), (libc::EINTR, "EINTR")];

/// One tape, as `regrow tape` prints it.
struct Tape {
    pid: u32,
    lines: Vec<String>,
}

fn tapes(tree: &mut Dumped) -> Vec<Tape> {
    let images = tree.images_dir();
    let printed = tree.regrow(&["tape", images.to_str().expect("UTF-8")]);
    assert_eq!(printed.code, Some(0), "{}", printed.text);
    let mut tapes: Vec<Tape> = Vec::new();
    for line in printed.text.lines() {
        if let Some(header) = line.strip_prefix("task ") {
            let (pid, _) = header.split_once(": ").expect("task PID: N records");
            tapes.push(Tape { pid: pid.parse().expect("a pid"), lines: Vec::new() });
        } else {
            let tape = tapes.last_mut().expect("a header comes first");
            let number = line.split_whitespace().next().and_then(|word| word.parse().ok());
            assert_eq!(number, Some(tape.lines.len()), "{line}");
            tape.lines.push(line.to_owned());
        }
    }
    tapes
}

/// Injects a fault into every record of every tape and demands that each is reported and rolled back; after
/// all of them the tree is restored.
fn inject(tree: Option<Dumped>, name: &str) {
    inject_each(tree, name, 1);
}

/// As [`inject`], into each `nth` record of a tape, and into all of its tail.
fn inject_each(tree: Option<Dumped>, name: &str, nth: usize) {
    let Some(mut tree) = tree else { return };
    tree.remove_stale_sockets();
    let tapes = tapes(&mut tree);
    let mut faults = Vec::new();
    let mut wanted = Vec::new();
    let mut in_tails = 0;
    for tape in &tapes {
        let barrier = tape.lines.iter().position(|line| line.contains(" arrive()")).unwrap_or(usize::MAX);
        for (record, line) in tape.lines.iter().enumerate() {
            if record < barrier && record % nth != 0 {
                continue;
            }
            in_tails += usize::from(record > barrier);
            let (errno, error) = ERRNOS[faults.len() % ERRNOS.len()];
            faults.push(format!("{}:{record}:{errno}", tape.pid));
            wanted.push((tape.pid, error, line.as_str()));
        }
    }
    let found = tree.rehearse(&faults, &["-o", "fault.log", "--pidfile", "pid"]);
    for (found, (pid, error, record)) in found.iter().zip(&wanted) {
        let what = format!("{name}: {error} at {pid}, record {}", record.trim_start());
        assert_eq!(found.code, Some(1), "{what}: {}", found.text);
        assert!(found.left.is_empty(), "{what}: left or missing:\n{}", found.left.join("\n"));
        let line = found.text.lines().find(|line| line.contains(&format!("task {pid}: ")));
        let line = line.unwrap_or_else(|| panic!("{what}: the task is not named:\n{}", found.text));
        assert!(line.contains(error), "{what}: the error is not named: {line}");
        assert!(names_an_entry(line), "{what}: no image entry is named: {line}");
    }
    let log = tree.work_text("fault.log");
    assert_eq!(log.matches("Restoring FAILED").count(), 1, "the log is that of the last:\n{log}");
    support::say(&format!(
        "{name}: faults at {} records of {} tapes, {in_tails} of them in tails",
        faults.len(),
        tapes.len()
    ));
    assert!(in_tails > 0, "no fault in a tail");
    let restored = tree.restore(&["-o", "after.log", "--pidfile", "pid"]);
    assert_eq!(restored.code, Some(0), "{name}, after {} faults: {}", faults.len(), restored.text);
    tree.check_restored(&format!("{name}, after {} faults", faults.len()));
}

/// Whether a message names an image entry: `[files.img entry 12]`.
fn names_an_entry(line: &str) -> bool {
    line.split('[').skip(1).filter_map(|part| part.split_once(']')).any(|(inside, _)| {
        inside
            .split_once(" entry ")
            .is_some_and(|(image, entry)| image.ends_with(".img") && entry.parse::<u32>().is_ok())
    })
}

#[test]
fn faults_at_every_record_of_descriptors_in_flight() {
    inject(Dumped::program("in_flight", &[]), "in_flight");
}

#[test]
fn faults_at_every_record_of_sockets() {
    inject(Dumped::program("sockets", &[]), "sockets");
}

#[test]
fn faults_at_every_record_of_unlinked_files() {
    inject(Dumped::program("nameless", &[]), "nameless");
}

#[test]
fn faults_at_every_record_of_threads_and_stopped_tasks() {
    inject(Dumped::program("motley", &[]), "motley");
}

#[test]
fn faults_at_records_of_jobs_of_a_shell() {
    // Its many tasks are alike: what is left out of one is met in another.
    inject_each(Dumped::script("jobs.sh", &["stopped"]), "jobs.sh", 3);
}

#[test]
fn faults_while_an_ipc_namespace_is_made() {
    // Opening, writing and closing of variables take turns with the rest: by 7 all of them are met.
    inject_each(Dumped::program("sysv", &["limits"]), "sysv", 7);
}

/// The steps of launcher and coordinator that are on no tape, how often at least each is taken in the tree
/// (0: only where something is stopped), and what the message says.
const STEPS: [(&str, u32, &str); 13] = [
    ("memfd", 1, "cannot make the region for the tapes"),
    ("keep", 1, "cannot map the region at its place"),
    ("map", 1, "cannot map the region at its place"),
    ("clone", 1, "cannot clone the root task"),
    ("seize", 14, "PTRACE_SEIZE"),
    ("interrupt", 12, "PTRACE_INTERRUPT"),
    ("await", 14, "waitpid"),
    ("unmap", 8, "munmap of the window"),
    ("registers", 14, "PTRACE_SETREGS"),
    ("stop", 4, "tgkill"),
    ("pidfile", 1, "cannot write the pidfile"),
    ("tell", 1, "the launcher is gone"),
    ("spare", 14, "PTRACE_SETOPTIONS"),
];

fn faults_of_our_own_steps(options: &[&str]) {
    let Some(mut tree) = Dumped::program("motley", &[]) else { return };
    let mut faults = Vec::new();
    let mut wanted = Vec::new();
    for (step, turns, message) in STEPS {
        for turn in 0..turns {
            let (errno, error) = ERRNOS[faults.len() % ERRNOS.len()];
            faults.push(format!("{step}@{turn}:{errno}"));
            wanted.push((message, error));
        }
    }
    let mut all = vec!["-o", "fault.log", "--pidfile", "pid"];
    all.extend_from_slice(options);
    for (found, (message, error)) in tree.rehearse(&faults, &all).iter().zip(wanted) {
        let what = &found.fault;
        assert_eq!(found.code, Some(1), "{what}: {}", found.text);
        assert!(found.left.is_empty(), "{what}: left or missing:\n{}", found.left.join("\n"));
        assert!(found.text.contains(message), "{what}: {}", found.text);
        let errno =
            nix::errno::Errno::from_raw(ERRNOS.iter().find(|(_, name)| *name == error).map_or(0, |it| it.0));
        assert!(
            found.text.contains(error) || found.text.contains(errno.desc()),
            "{what}: the error is not named: {}",
            found.text
        );
    }
    let restored = tree.restore(&["-o", "after.log", "--pidfile", "pid"]);
    assert_eq!(restored.code, Some(0), "{}", restored.text);
    tree.check_restored("after faults of our own");
}

#[test]
fn faults_at_our_own_steps() {
    faults_of_our_own_steps(&[]);
}

#[test]
fn faults_at_our_own_steps_with_a_sibling() {
    faults_of_our_own_steps(&["-S"]);
}

/// Launcher, coordinator or both are killed right before a step of the commit. After it has begun, too, there
/// is nothing or the whole tree: which, is known.
fn killed_at_a_step(options: &[&str]) {
    let Some(mut tree) = Dumped::program("motley", &[]) else { return };
    let mut numbers = Numbers(9);
    let (mut restored, mut rolled_back) = (0, 0);
    for (step, turns, lives) in [
        // Whether the coordinator has noticed the launcher's death before it needs it no more is open.
        ("seize", 10, [Some(false), None, Some(false)]),
        ("interrupt", 12, [Some(false), None, Some(false)]),
        ("await", 14, [Some(false), None, Some(false)]),
        ("unmap", 8, [Some(false), None, Some(false)]),
        ("registers", 14, [Some(false), None, Some(false)]),
        ("stop", 4, [Some(false), None, Some(false)]),
        ("tell", 1, [Some(false), None, Some(false)]),
        ("spare", 10, [Some(false), Some(true), Some(false)]),
        ("detach", 10, [Some(true), Some(true), Some(true)]),
    ] {
        for (act, lives) in ["kill", "kill-launcher", "kill-both"].into_iter().zip(lives) {
            for turn in [0, numbers.below(turns)] {
                let what = format!("{step}@{turn}:{act}");
                let mut all = vec!["-o", "kill.log", "-v4", "--pidfile", "pid", "--inject-fault", &what];
                all.extend_from_slice(options);
                let ended = tree.restore(&all);
                let is_there = tree.settle();
                // The kernel has nothing that spares all at once.
                if step == "spare" && act == "kill-both" && turn > 0 {
                    assert!(is_there && was_sparing(&tree), "{what}: {}", tree.work_text("kill.log"));
                    tree.end_rest(&what);
                } else if is_there {
                    assert!(lives != Some(false), "{what}: should have been rolled back: {}", ended.text);
                    tree.check_restored(&what);
                    restored += 1;
                } else {
                    assert!(lives != Some(true), "{what}: should live: {}", ended.text);
                    assert_ne!(ended.code, Some(0), "{what}: {}", ended.text);
                    // Nobody is left to remove it.
                    let _ = std::fs::remove_file(tree.work_dir().join("pid"));
                    tree.check_nothing_left(&what);
                    rolled_back += 1;
                }
            }
        }
    }
    support::say(&format!("killed at steps {options:?}: {restored} restored, {rolled_back} rolled back"));
}

#[test]
fn killed_at_steps_of_the_commit() {
    killed_at_a_step(&[]);
}

#[test]
fn killed_at_steps_of_the_commit_of_a_sibling() {
    killed_at_a_step(&["-S"]);
}

#[test]
fn faults_behind_filters_of_system_calls() {
    inject(Dumped::program("seccomp", &[]), "seccomp");
}

/// Numbers that are the same in every run (Steele, Lea and Flood's SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (value ^ (value >> 31)) % bound
    }
}

/// Whether the log ends where tasks are spared one after another: with both dead then, those spared by then live and the
/// others do not (docs/decisions/0015).
fn was_sparing(tree: &Dumped) -> bool {
    tree.work_text("kill.log").lines().last().is_some_and(|line| line.ends_with("sparing the tasks"))
}

/// Sends a signal into `runs` restores, after delays from none to somewhat more than a whole restore takes.
/// After each, either the whole tree lives and is as it was, or nothing is left.
fn interrupt(program: &str, arguments: &[&str], whom: &str, signal: i32, options: &[&str], runs: u32) {
    let Some(mut tree) = Dumped::program(program, arguments) else { return };
    let (helper, images, work) = (tree.helper("interrupt"), tree.images_dir(), tree.work_dir());
    let images = images.to_str().expect("UTF-8");
    let work = work.to_str().expect("UTF-8");
    let start = std::time::Instant::now();
    let whole = tree.restore(&["-o", "whole.log", "--pidfile", "pid"]);
    let whole_us = u64::try_from(start.elapsed().as_micros()).expect("a short time");
    assert_eq!(whole.code, Some(0), "{}", whole.text);
    tree.check_restored("before");

    let mut numbers = Numbers(u64::from(signal.unsigned_abs()));
    let (mut restored, mut rolled_back, mut open) = (0, 0, 0);
    for run in 0..runs {
        let delay_us = numbers.below(whole_us * 5 / 4);
        let what = format!("run {run}: signal {signal} to the {whom} after {delay_us} us");
        let (signal, delay) = (signal.to_string(), delay_us.to_string());
        let mut argv = vec![helper.as_str(), whom, &signal, &delay, env!("CARGO_BIN_EXE_regrow"), "restore"];
        argv.extend(["-D", images, "-W", work, "-d", "-o", "kill.log", "-v4", "--pidfile", "pid"]);
        argv.extend_from_slice(options);
        let ended = tree.run(&argv);
        let is_there = tree.settle();
        if is_there && whom == "pair" && tree.living() != tree.pids() && was_sparing(&tree) {
            tree.end_rest(&what);
            open += 1;
        } else if is_there {
            tree.check_restored(&what);
            restored += 1;
        } else {
            // Whoever looks at the exit code must not be told that there is a tree.
            assert_ne!(ended.code, Some(0), "{what}: {}", ended.text);
            if whom == "pair" {
                // Names are what may stay where nobody is left to remove them: the pidfile.
                let _ = std::fs::remove_file(tree.work_dir().join("pid"));
            }
            let log = tree.work_text("kill.log");
            tree.check_nothing_left(&format!("{what}: {:?}: {}\n{log}", ended.code, ended.text));
            rolled_back += 1;
        }
    }
    support::say(&format!(
        "{program}, signal {signal} to the {whom}: {restored} restored, {rolled_back} rolled back, {open} \
         where nothing is promised"
    ));
    assert!(open <= 1, "both died within a few microseconds, more than once");
    assert!(rolled_back > 0, "no signal came in time");
}

const WIDE: (&str, &[&str]) = ("wide", &["10"]);
const MOTLEY: (&str, &[&str]) = ("motley", &[]);

#[test]
fn the_launcher_is_killed() {
    interrupt(WIDE.0, WIDE.1, "parent", libc::SIGKILL, &[], 25);
    interrupt(MOTLEY.0, MOTLEY.1, "parent", libc::SIGKILL, &[], 25);
}

#[test]
fn the_coordinator_is_killed() {
    interrupt(WIDE.0, WIDE.1, "child", libc::SIGKILL, &[], 25);
    interrupt(MOTLEY.0, MOTLEY.1, "child", libc::SIGKILL, &[], 25);
}

#[test]
fn both_are_killed() {
    interrupt(WIDE.0, WIDE.1, "pair", libc::SIGKILL, &[], 25);
    interrupt(MOTLEY.0, MOTLEY.1, "pair", libc::SIGKILL, &[], 25);
}

#[test]
fn both_are_killed_with_a_sibling() {
    interrupt(MOTLEY.0, MOTLEY.1, "pair", libc::SIGKILL, &["-S"], 25);
}

#[test]
fn the_coordinator_of_a_sibling_is_killed() {
    interrupt(WIDE.0, WIDE.1, "child", libc::SIGKILL, &["-S"], 25);
}

#[test]
fn the_launcher_of_a_sibling_is_killed() {
    interrupt(WIDE.0, WIDE.1, "parent", libc::SIGKILL, &["-S"], 25);
}

#[test]
fn asked_to_end() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        interrupt(MOTLEY.0, MOTLEY.1, "parent", signal, &[], 10);
    }
}

#[test]
fn interrupted_from_the_terminal() {
    interrupt(WIDE.0, WIDE.1, "group", libc::SIGINT, &[], 25);
}

/// Until the root has left the process group that regrow was started in, signals for the group are for the root,
/// too, and would be delivered when it is let go. They count however long the launcher needs to see them.
fn signalled_at_birth(options: &[&str]) {
    let Some(mut tree) = Dumped::program(WIDE.0, WIDE.1) else { return };
    let (helper, images, work) = (tree.helper("interrupt"), tree.images_dir(), tree.work_dir());
    let (images, work) = (images.to_str().expect("UTF-8"), work.to_str().expect("UTF-8"));
    let root = tree.root();
    let restore = |tree: &mut Dumped, signal: i32| {
        let number = signal.to_string();
        let mut argv = vec![helper.as_str(), "born", &number, "0", env!("CARGO_BIN_EXE_regrow"), "restore"];
        argv.extend(["-D", images, "-W", work, "-d", "-o", "born.log", "--pidfile", "pid"]);
        argv.extend_from_slice(options);
        tree.run(&argv)
    };
    for (signal, says) in [
        (libc::SIGINT, "interrupted by signal 2".to_owned()),
        (libc::SIGTERM, "interrupted by signal 15".to_owned()),
        (libc::SIGTSTP, format!("task {root}: signal 20 ")),
        (libc::SIGUSR1, format!("task {root}: signal 10 ")),
    ] {
        let ended = restore(&mut tree, signal);
        let what = format!("signal {signal} at birth {options:?}: {:?}: {}", ended.code, ended.text);
        if tree.settle() {
            tree.check_restored(&what);
            panic!("{what}: it should have been rolled back");
        }
        assert_eq!(ended.code, Some(1), "{what}");
        assert!(ended.text.contains(&says), "{what}");
        tree.check_nothing_left(&what);
    }
    // Nothing is given up because a window has another size.
    let restored = restore(&mut tree, libc::SIGWINCH);
    assert_eq!(restored.code, Some(0), "{}", restored.text);
    tree.check_restored("SIGWINCH at birth, after other signals");
}

#[test]
fn signals_at_the_birth_of_the_root() {
    signalled_at_birth(&[]);
}

#[test]
fn signals_at_the_birth_of_a_sibling() {
    signalled_at_birth(&["-S"]);
}

/// Tasks wait for more than a second, with nobody at work who could let them go on, and stay.
#[test]
fn stopped_for_a_while_it_still_restores() {
    let Some(mut tree) = Dumped::program(MOTLEY.0, MOTLEY.1) else { return };
    for delay in ["0.02", "0.04", "0.06", "0.1"] {
        let script = format!(
            "$REGROW restore -D $IMAGES -W $WORK -d -o slow.log &
            sleep {delay}
            # The coordinator is the first that it forks.
            set -- $! $(cat /proc/$!/task/$!/children 2>/dev/null)
            kill -STOP $1 $2 2>/dev/null
            sleep 2.3
            kill -CONT $1 $2 2>/dev/null
            wait $1"
        );
        let ended = tree.shell(&script);
        assert_eq!(ended.code, Some(0), "{delay}: {}\n{}", ended.text, tree.work_text("slow.log"));
        tree.check_restored(&format!("stopped after {delay} s"));
    }
}
