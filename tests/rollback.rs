//! What does not succeed leaves nothing: faults at the records of every tape, and ends of regrow itself.

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

/// Injects faults into every `stride`th record of every tape and demands that each is reported and rolled
/// back; after all of them the tree is restored.
fn inject(program: &str, arguments: &[&str], stride: usize) {
    let Some(mut tree) = Dumped::program(program, arguments) else { return };
    let tapes = tapes(&mut tree);
    let records: usize = tapes.iter().map(|tape| tape.lines.len()).sum();
    let (mut count, mut in_tails) = (0, 0);
    for (index, tape) in tapes.iter().enumerate() {
        let barrier = tape.lines.iter().position(|line| line.contains(" arrive()")).unwrap_or(usize::MAX);
        // Another remainder for each tape, so that all sorts of records have their turn.
        for record in (index % stride..tape.lines.len()).step_by(stride) {
            in_tails += usize::from(record > barrier);
            let (errno, name) = ERRNOS[count % ERRNOS.len()];
            count += 1;
            inject_one(&mut tree, tape, record, errno, name);
        }
    }
    support::say(&format!(
        "{program}: {count} faults, {in_tails} of them in tails, at {records} records of {} tapes",
        tapes.len()
    ));
    assert!(in_tails > 0, "no fault in a tail");
    let restored = tree.restore(&["-o", "after.log", "--pidfile", "pid"]);
    assert_eq!(restored.code, Some(0), "after {count} faults: {}", restored.text);
    tree.check_restored(&format!("after {count} faults"));
}

fn inject_one(tree: &mut Dumped, tape: &Tape, record: usize, errno: i32, name: &str) {
    let what = format!("{name} at {}, record {}", tape.pid, tape.lines[record].trim_start());
    let fault = format!("{}:{record}:{errno}", tape.pid);
    let failed = tree.restore(&["-o", "fault.log", "--pidfile", "pid", "--inject-fault", &fault]);
    assert_eq!(failed.code, Some(1), "{what}: {}", failed.text);
    tree.check_nothing_left(&what);
    for (place, text) in [("standard error", failed.text.as_str()), ("the log", &tree.work_text("fault.log"))]
    {
        let line = text.lines().find(|line| line.contains(&format!("task {}: ", tape.pid)));
        let line = line.unwrap_or_else(|| panic!("{what}: {place} does not name the task:\n{text}"));
        assert!(line.contains(name), "{what}: {place} does not name the error: {line}");
        assert!(names_an_entry(line), "{what}: {place} names no image entry: {line}");
    }
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
fn faults_at_every_record_of_a_small_tree() {
    inject("in_flight", &[], 1);
}

#[test]
fn faults_in_a_tree_of_all_sorts() {
    inject("wide", &["6"], 17);
}

#[test]
fn faults_among_shared_descriptors() {
    inject("shared_fds", &["4"], 13);
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
    let (mut restored, mut rolled_back) = (0, 0);
    for run in 0..runs {
        let delay_us = numbers.below(whole_us * 5 / 4);
        let what = format!("run {run}: signal {signal} to the {whom} after {delay_us} us");
        let (signal, delay) = (signal.to_string(), delay_us.to_string());
        let mut argv = vec![helper.as_str(), whom, &signal, &delay, env!("CARGO_BIN_EXE_regrow"), "restore"];
        argv.extend(["-D", images, "-W", work, "-d", "-o", "kill.log", "-v4", "--pidfile", "pid"]);
        argv.extend_from_slice(options);
        let ended = tree.run(&argv);
        if tree.settle() {
            tree.check_restored(&what);
            restored += 1;
        } else {
            // Whoever looks at the exit code must not be told that there is a tree.
            assert_ne!(ended.code, Some(0), "{what}: {}", ended.text);
            tree.check_nothing_left(&what);
            rolled_back += 1;
        }
    }
    support::say(&format!(
        "{program}, signal {signal} to the {whom}: {restored} restored, {rolled_back} rolled back"
    ));
    assert!(rolled_back > 0, "no signal came in time");
}

const WIDE: (&str, &[&str]) = ("wide", &["10"]);

#[test]
fn the_launcher_is_killed() {
    interrupt(WIDE.0, WIDE.1, "parent", libc::SIGKILL, &[], 40);
}

#[test]
fn the_coordinator_is_killed() {
    interrupt(WIDE.0, WIDE.1, "child", libc::SIGKILL, &[], 40);
}

#[test]
fn the_coordinator_of_a_sibling_is_killed() {
    interrupt(WIDE.0, WIDE.1, "child", libc::SIGKILL, &["-S"], 40);
}

#[test]
fn the_launcher_of_a_sibling_is_killed() {
    interrupt(WIDE.0, WIDE.1, "parent", libc::SIGKILL, &["-S"], 40);
}

#[test]
fn interrupted_by_the_user() {
    interrupt(WIDE.0, WIDE.1, "parent", libc::SIGINT, &[], 40);
}

#[test]
fn interrupted_from_the_terminal() {
    interrupt(WIDE.0, WIDE.1, "both", libc::SIGINT, &[], 40);
}
