//! A tree with a history: `family DIR EVENT...`, or `family DIR random SEED`.
//!
//! Tasks have numbers; 0 is the root. Events happen one after another:
//!
//! | event | |
//! |---|---|
//! | `1+2` | 1 forks 2 |
//! | `1^2` | 1 forks 2 with CLONE_PARENT: 2 becomes its sibling |
//! | `1s` | 1 calls setsid |
//! | `1g`, `1g2` | 1 founds a process group, joins that of 2 |
//! | `1r`, `1R` | 1 becomes a subreaper, ceases to be one |
//! | `1x7`, `1k9`, `1c6` | 1 exits with code 7, is killed by signal 9, dumps core by signal 6 |
//! | `1w` | the parent of 1 reaps it |
//! | `1p15` | 1 wants signal 15 when its parent dies |
//! | `1z` | 1 stops in the end; its parent lets it go on |
//!
//! In the end all that live park; parents then check their zombies. `random` makes a history up, of which
//! the kernel may refuse events.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpgid, getpid, getppid, setpgid, setsid};
use regrow_test_programs::Task;

/// Most tasks of a history.
const TASKS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Fork { child: usize, sibling: bool },
    SetSid,
    Group { of: usize },
    Subreaper(bool),
    Exit(i32),
    Killed { signal: i32, core: bool },
    Reaped,
    DeathSignal(i32),
    Stops,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(2).collect();
    let (events, is_random) = match words.as_slice() {
        [first, seed] if first == "random" => (random(seed.parse().expect("a number")), true),
        words => (words.iter().map(|word| parse(word)).collect(), false),
    };
    let board = Board::new();
    let mut task = Task::root();
    board.enter(0);
    for (who, event) in events {
        play(&mut task, board, who, event, is_random);
    }
    // All say who their parents are, before any looks for its children.
    let living: Vec<usize> = (0..TASKS).filter(|who| board.is_alive(*who)).collect();
    for who in living.iter().skip(1) {
        board.order(*who, [LOOK, 0, 0]);
    }
    board.enter(0);
    for who in living.iter().skip(1) {
        board.slot(*who)[COMMAND].store(PARK, Ordering::SeqCst);
    }
    end(task, board, 0);
}

fn parse(word: &str) -> (usize, Event) {
    let number = |text: &str| text.parse::<usize>().unwrap_or_else(|_| panic!("{word}: {text:?}"));
    let at = word.find(|letter: char| !letter.is_ascii_digit()).unwrap_or_else(|| panic!("{word}"));
    let (who, rest) = (number(&word[..at]), &word[at + 1..]);
    let code = || number(rest) as i32;
    let event = match &word[at..=at] {
        "+" => Event::Fork { child: number(rest), sibling: false },
        "^" => Event::Fork { child: number(rest), sibling: true },
        "s" => Event::SetSid,
        "g" => Event::Group { of: if rest.is_empty() { who } else { number(rest) } },
        "r" => Event::Subreaper(true),
        "R" => Event::Subreaper(false),
        "x" => Event::Exit(code()),
        "k" => Event::Killed { signal: code(), core: false },
        "c" => Event::Killed { signal: code(), core: true },
        "w" => Event::Reaped,
        "p" => Event::DeathSignal(code()),
        "z" => Event::Stops,
        _ => panic!("{word}"),
    };
    (who, event)
}

/// A history of some forty events, in which few are refused.
fn random(seed: u64) -> Vec<(usize, Event)> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd1b5_4a32_d192_ed03;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % below
    };
    // So that nobody leaves the tree.
    let mut events = vec![(0, Event::Subreaper(true))];
    let mut alive = vec![0];
    let mut dead: Vec<usize> = Vec::new();
    let mut count = 1;
    for _ in 0..60 {
        let who = alive[next(alive.len())];
        let event = match next(24) {
            0..=8 if count < 24 => {
                let child = count;
                count += 1;
                alive.push(child);
                Event::Fork { child, sibling: who != 0 && next(5) == 0 }
            }
            9..=12 => Event::SetSid,
            13 | 14 => Event::Group { of: who },
            15 | 16 => Event::Group { of: alive[next(alive.len())] },
            17 | 18 => Event::Subreaper(who == 0 || next(4) != 0),
            19 | 20 if alive.len() > 4 && who != 0 => {
                alive.retain(|other| *other != who);
                dead.push(who);
                Event::Exit(next(200) as i32)
            }
            21 if alive.len() > 4 && who != 0 => {
                alive.retain(|other| *other != who);
                dead.push(who);
                Event::Killed { signal: [9, 15, 10, 14][next(4)], core: false }
            }
            22 | 23 if !dead.is_empty() => {
                let who = dead.swap_remove(next(dead.len()));
                events.push((who, Event::Reaped));
                continue;
            }
            _ => continue,
        };
        events.push((who, event));
    }
    // Most of the dead are reaped.
    for who in dead {
        if next(3) != 0 {
            events.push((who, Event::Reaped));
        }
    }
    for who in alive.iter().skip(1) {
        match next(8) {
            0 => events.push((*who, Event::DeathSignal(15))),
            1 => events.push((*who, Event::Stops)),
            _ => {}
        }
    }
    if seed.is_multiple_of(2) {
        events.push((0, Event::Subreaper(false)));
    }
    events
}

/// What the tasks of a growing tree share: for each a few numbers.
#[derive(Clone, Copy)]
struct Board(*mut AtomicI32);

/// Fields of a slot.
const PID: usize = 0;
const PARENT: usize = 1;
const STATUS: usize = 2;
const STOPS: usize = 3;
const COMMAND: usize = 4;
const FIRST: usize = 5;
const SECOND: usize = 6;
const RESULT: usize = 7;
const FIELDS: usize = 8;

/// Commands; 0 is none.
const FORK: i32 = 1;
const FORK_SIBLING: i32 = 2;
const SETSID: i32 = 3;
const GROUP: i32 = 4;
const SUBREAPER: i32 = 5;
const EXIT: i32 = 6;
const KILLED: i32 = 7;
const DUMPED: i32 = 8;
const WAIT: i32 = 9;
const DEATH_SIGNAL: i32 = 10;
const LOOK: i32 = 11;
const PARK: i32 = 12;

/// A task that has been reaped, or was never there.
const NOBODY: i32 = 0;
const UNKNOWN: i32 = -1;

impl Board {
    fn new() -> Board {
        let len = TASKS * FIELDS * size_of::<AtomicI32>();
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping anywhere.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        Board(at.cast())
    }

    fn slot(&self, who: usize) -> &[AtomicI32] {
        assert!(who < TASKS);
        // SAFETY: within the mapping, which is there until `leave`; zeros are valid.
        unsafe { std::slice::from_raw_parts(self.0.add(who * FIELDS), FIELDS) }
    }

    fn get(&self, who: usize, field: usize) -> i32 {
        self.slot(who)[field].load(Ordering::SeqCst)
    }

    fn set(&self, who: usize, field: usize, value: i32) {
        self.slot(who)[field].store(value, Ordering::SeqCst);
    }

    fn enter(&self, who: usize) {
        self.set(who, PARENT, getppid().as_raw());
        self.set(who, STATUS, UNKNOWN);
        // Last: with a pid it is there.
        self.set(who, PID, getpid().as_raw());
    }

    fn is_alive(&self, who: usize) -> bool {
        self.get(who, PID) != NOBODY && self.get(who, STATUS) == UNKNOWN
    }

    /// Lets a task do something, and waits until it has; gives 0 or an errno.
    fn order(&self, who: usize, [command, first, second]: [i32; 3]) -> i32 {
        self.set(who, FIRST, first);
        self.set(who, SECOND, second);
        self.set(who, COMMAND, command);
        while self.get(who, COMMAND) != 0 {
            pause();
        }
        self.get(who, RESULT)
    }

    /// Its memory must not be a part of the dump: it would be one more thing to go wrong.
    fn leave(self) {
        let len = TASKS * FIELDS * size_of::<AtomicI32>();
        // SAFETY: nothing refers to the mapping any more.
        unsafe { libc::munmap(self.0.cast::<c_void>(), len) };
    }
}

fn pause() {
    std::thread::sleep(Duration::from_micros(300));
}

/// Lets an event happen.
fn play(task: &mut Task, board: Board, who: usize, event: Event, may_fail: bool) {
    if event != Event::Reaped && !board.is_alive(who) {
        assert!(may_fail, "{who} does not live: {event:?}");
        return;
    }
    let command = match event {
        Event::Fork { child, sibling } => {
            [if sibling { FORK_SIBLING } else { FORK }, i32::try_from(child).unwrap_or(0), 0]
        }
        Event::SetSid => [SETSID, 0, 0],
        Event::Group { of } => {
            let pid = board.get(of, PID);
            let group = |pid: i32| getpgid(Some(Pid::from_raw(pid))).map_or(-1, Pid::as_raw);
            let own = board.get(who, PID);
            if may_fail && (pid == NOBODY || of != who && group(own) == own) {
                // A leader that leaves its group to others is another story.
                return;
            }
            [GROUP, if of == who { own } else { group(pid) }, 0]
        }
        Event::Subreaper(is_one) => [SUBREAPER, i32::from(is_one), 0],
        Event::Exit(code) => [EXIT, code, 0],
        Event::Killed { signal, core } => [if core { DUMPED } else { KILLED }, signal, 0],
        Event::DeathSignal(signal) => [DEATH_SIGNAL, signal, 0],
        Event::Stops => {
            board.set(who, STOPS, 1);
            return;
        }
        Event::Reaped => {
            let pid = board.get(who, PID);
            let parent =
                (0..TASKS).find(|at| board.is_alive(*at) && Some(board.get(*at, PID)) == parent_of(pid));
            let Some(parent) = parent.filter(|_| pid != NOBODY && !board.is_alive(who)) else {
                assert!(may_fail, "nobody reaps {who}");
                return;
            };
            let result = obey(task, board, parent, [WAIT, pid, 0], 0);
            assert_eq!(result, 0, "{parent} reaps {who}");
            board.set(who, PID, NOBODY);
            return;
        }
    };
    let result =
        obey(task, board, who, command, if matches!(command[0], EXIT | KILLED | DUMPED) { 1 } else { 0 });
    assert!(result == 0 || may_fail, "{who} {event:?}: errno {result}");
    if let Event::Fork { child, .. } = event {
        while board.get(child, PID) == NOBODY && result == 0 {
            pause();
        }
    }
}

/// The root does itself what it is told; a task that is told to die gives no answer.
fn obey(task: &mut Task, board: Board, who: usize, command: [i32; 3], deadly: i32) -> i32 {
    if who == 0 {
        return perform(task, board, 0, command);
    }
    if deadly == 0 {
        return board.order(who, command);
    }
    let pid = board.get(who, PID);
    let [what, first, _] = command;
    let status = match what {
        EXIT => (first & 0xff) << 8,
        DUMPED => first | 0x80,
        _ => first,
    };
    board.set(who, FIRST, first);
    board.set(who, COMMAND, what);
    while !has_died(pid) {
        pause();
    }
    board.set(who, STATUS, status);
    0
}

fn stat(pid: i32) -> Option<(char, i32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = text.rsplit_once(')')?.1.split_whitespace();
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}

fn parent_of(pid: i32) -> Option<i32> {
    stat(pid).map(|(_, parent)| parent)
}

fn has_died(pid: i32) -> bool {
    stat(pid).is_none_or(|(state, _)| state == 'Z')
}

/// The life of a task from its birth to the end of the history.
fn live(mut task: Task, board: Board, who: usize) -> ! {
    task.become_child(&format!("task{who}"));
    board.enter(who);
    loop {
        let command = [COMMAND, FIRST, SECOND].map(|field| board.get(who, field));
        match command[0] {
            0 => pause(),
            PARK => end(task, board, who),
            LOOK => {
                board.set(who, PARENT, getppid().as_raw());
                board.set(who, COMMAND, 0);
            }
            _ => {
                let result = perform(&mut task, board, who, command);
                board.set(who, RESULT, result);
                board.set(who, COMMAND, 0);
            }
        }
    }
}

fn perform(task: &mut Task, board: Board, who: usize, [command, first, _]: [i32; 3]) -> i32 {
    let errno = |result: nix::Result<()>| result.map_or_else(|errno| errno as i32, |()| 0);
    let pid = Pid::from_raw;
    match command {
        FORK => {
            // SAFETY: the program has one thread, so the child may do anything.
            match unsafe { fork() } {
                Ok(ForkResult::Child) => live(take(task), board, first as usize),
                Ok(ForkResult::Parent { .. }) => 0,
                Err(errno) => errno as i32,
            }
        }
        FORK_SIBLING => {
            let flags = libc::CLONE_PARENT | libc::SIGCHLD;
            // SAFETY: as with fork: a copy of the whole address space, no stack of its own.
            match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
                0 => live(take(task), board, first as usize),
                -1 => nix::errno::Errno::last_raw(),
                _ => 0,
            }
        }
        SETSID => errno(setsid().map(drop)),
        GROUP => errno(setpgid(pid(0), pid(first))),
        SUBREAPER => errno(prctl::set_child_subreaper(first != 0)),
        DEATH_SIGNAL => errno(Signal::try_from(first).and_then(prctl::set_pdeathsig)),
        WAIT => errno(waitpid(pid(first), None).map(drop)),
        // SAFETY: ends the task at once, without waiting for its children.
        EXIT => unsafe { libc::_exit(first) },
        KILLED | DUMPED => {
            if command == DUMPED {
                // The core file goes where the tasks meet.
                setrlimit(Resource::RLIMIT_CORE, libc::RLIM_INFINITY, libc::RLIM_INFINITY).expect("limit");
                nix::unistd::chdir(task.directory()).expect("chdir");
            } else {
                prctl::set_dumpable(false).expect("dumpable");
            }
            kill(getpid(), Signal::try_from(first).expect("a signal")).expect("kill");
            loop {
                pause();
            }
        }
        other => panic!("task {who}: command {other}"),
    }
}

/// The record of a task that goes on in its child.
fn take(task: &mut Task) -> Task {
    std::mem::replace(task, Task::root())
}

/// The tree is complete: the task parks, and checks itself and what it has of the dead.
fn end(mut task: Task, board: Board, who: usize) -> ! {
    let own = board.get(who, PID);
    let mut zombies: BTreeMap<i32, i32> = BTreeMap::new();
    let mut stopped = Vec::new();
    for other in 1..TASKS {
        let pid = board.get(other, PID);
        if pid == NOBODY {
            continue;
        }
        if board.is_alive(other) {
            if board.get(other, PARENT) == own {
                task.adopt(&format!("task{other}"));
                stopped.extend(Some(Pid::from_raw(pid)).filter(|_| board.get(other, STOPS) != 0));
            }
        } else if parent_of(pid) == Some(own) {
            zombies.insert(pid, board.get(other, STATUS));
        }
    }
    let stops = board.get(who, STOPS) != 0;
    let woken: Vec<String> = (1..TASKS)
        .filter(|other| board.is_alive(*other) && board.get(*other, STOPS) != 0)
        .map(|other| format!("woken.task{other}"))
        .collect();
    board.leave();
    if stops {
        let before = task.get_ready();
        kill(getpid(), Signal::SIGSTOP).expect("kill");
        task.check_identity(before);
        std::fs::write(task.file(&format!("woken.{}", task.name())), "").expect("a file");
    } else {
        task.park();
    }
    for pid in stopped {
        let found = waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WUNTRACED));
        task.check("a stopped child", matches!(found, Ok(WaitStatus::Stopped(_, Signal::SIGSTOP))));
        let _ = task.check_ok("SIGCONT", kill(pid, Signal::SIGCONT));
    }
    for (pid, status) in zombies {
        let found = task.check_ok("zombie", waitpid(Pid::from_raw(pid), None));
        let wanted = WaitStatus::from_raw(Pid::from_raw(pid), status).ok();
        task.check_eq("zombie", found, wanted);
    }
    // An exit could orphan the group of one that is still stopped, and the kernel would end that.
    for name in woken {
        let path = task.file(&name);
        while !path.exists() {
            pause();
        }
    }
    task.collect();
    // They have said that they are done, and exit.
    while waitpid(None, None).is_ok() {}
    task.finish()
}
