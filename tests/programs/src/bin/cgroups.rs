//! A tree of tasks in cgroups: `cgroups DIR PLACE…`.
//!
//! Each PLACE is one task, in the order in which they are born: its depth below the root, and behind a colon the
//! directories of cgroups that it enters, with a comma between; those must be there. A task with none is where its parent
//! was when it was forked. What a task enters behind a `+` it enters when it has forked its children, a task whose places
//! end with `!` has a further thread:
//!
//! ```text
//! cgroups DIR 0:/sys/fs/cgroup/a 1: 1:/sys/fs/cgroup/a/b! 2:+/sys/fs/cgroup/c
//! ```

use std::fs;

use regrow_test_programs::Task;

/// A task, and those below it.
struct Place {
    enters: Vec<String>,
    enters_late: Vec<String>,
    has_thread: bool,
    children: Vec<Place>,
}

fn main() {
    let mut words = std::env::args().skip(2).peekable();
    let place = parse(&mut words, 0).expect("a place for the root");
    assert!(words.next().is_none(), "one root");
    let mut task = Task::root();
    live(&mut task, &place);
    task.finish();
}

/// The next place and those below it, if it is of this depth.
fn parse(words: &mut std::iter::Peekable<impl Iterator<Item = String>>, depth: usize) -> Option<Place> {
    let word = words.next_if(|word| word.split(':').next() == Some(&depth.to_string()))?;
    let (_, places) = word.split_once(':').expect("DEPTH:DIRECTORIES");
    let has_thread = places.ends_with('!');
    let (late, early): (Vec<&str>, Vec<&str>) = places
        .trim_end_matches('!')
        .split(',')
        .filter(|place| !place.is_empty())
        .partition(|place| place.starts_with('+'));
    let mut children = Vec::new();
    while let Some(child) = parse(words, depth + 1) {
        children.push(child);
    }
    Some(Place {
        enters: early.into_iter().map(str::to_owned).collect(),
        enters_late: late.into_iter().map(|place| place[1..].to_owned()).collect(),
        has_thread,
        children,
    })
}

fn live(task: &mut Task, place: &Place) {
    enter(&place.enters);
    for (number, child) in place.children.iter().enumerate() {
        let name = format!("{}.{number}", task.name());
        task.spawn(&name, |task| live(task, child));
    }
    enter(&place.enters_late);
    if place.has_thread {
        std::thread::spawn(|| {
            loop {
                std::thread::park();
            }
        });
    }
    let before = cgroups();
    task.park();
    task.check_eq("cgroups", cgroups(), before);
}

fn enter(directories: &[String]) {
    for directory in directories {
        let file = format!("{directory}/cgroup.procs");
        fs::write(&file, "0").unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

/// Of all threads.
fn cgroups() -> Vec<String> {
    let threads = fs::read_dir("/proc/self/task").expect("/proc is mounted");
    let of =
        |thread: fs::DirEntry| fs::read_to_string(thread.path().join("cgroup")).expect("a thread's cgroups");
    let mut all: Vec<String> = threads.map(|thread| of(thread.expect("a thread"))).collect();
    all.sort();
    all
}
