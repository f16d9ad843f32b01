//! What tasks and threads may do and how they run: ids, capabilities, securebits, limits, scheduling and
//! what goes with them. Every ward changes something, and compares all of it before and after.
//!
//! | ward | |
//! |---|---|
//! | `ids` | four uids, four gids and a list of groups, all different |
//! | `keepcaps` | PR_SET_KEEPCAPS; capabilities permitted and not effective |
//! | `powerless` | root with a bounding set of two, one of them permitted |
//! | `ambient` | ambient capabilities of another uid |
//! | `securebits` | 256 threads with all combinations of four bits and their locks, more with newer bits |
//! | `threads` | threads with uids, groups, capabilities, no_new_privs of their own |
//! | `dumpable` | dumpable again after setresuid; a parent-death signal |
//! | `undumpable` | not dumpable as root; `reset`: as setresuid leaves it |
//! | `limits` | sixteen limits |
//! | `scheduling` | policies, priorities, nice values, reset-on-fork of single threads |
//! | `rest` | oom_score_adj, personality, huge pages |
//!
//! `credentials DIR odd` has what CRIU dumps and does not restore:
//!
//! | ward | |
//! |---|---|
//! | `outside` | an inheritable capability that is not in the bounding set |
//! | `locked` | ambient capabilities behind a locked NO_CAP_AMBIENT_RAISE |
//! | `crowd`, `crowds` | more signals wait than may, for the task and for the first thread or another |

use std::fmt::Debug;

use libc::c_long;
use nix::errno::Errno;
use regrow_test_programs::Task;
use regrow_test_programs::ward::{Crew, Line, Ward, status};

const CHOWN: u64 = 1 << 0;
const KILL: u64 = 1 << 5;
const SETPCAP: u64 = 1 << 8;
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_RAW: u64 = 1 << 13;

/// linux/securebits.h
const NO_SETUID_FIXUP: u64 = 1 << 2;
const NO_AMBIENT_RAISE: u64 = 1 << 6;
const NO_AMBIENT_RAISE_LOCKED: u64 = 1 << 7;

fn main() {
    let mut task = Task::root();
    let wards = if std::env::args().nth(2).as_deref() == Some("odd") {
        vec![
            ward("outside", outside),
            ward("locked", locked),
            ward("crowd", crowd),
            Ward::start("crowds", crowds),
        ]
    } else {
        vec![
            ward("ids", ids),
            ward("keepcaps", keepcaps),
            ward("powerless", powerless),
            ward("ambient", ambient),
            Ward::start("securebits", securebits),
            Ward::start("threads", threads),
            ward("dumpable", dumpable),
            ward("undumpable", || set(libc::PR_SET_DUMPABLE, 0)),
            ward("reset", reset),
            ward("limits", limits),
            Ward::start("scheduling", scheduling),
            ward("rest", rest),
        ]
    };
    task.park();
    for ward in wards {
        ward.finish(&mut task, 0);
    }
    task.finish();
}

/// A ward that prepares, and is to be after it what it was before.
fn ward(name: &str, prepare: impl FnOnce()) -> Ward {
    Ward::start(name, |line: Line| {
        prepare();
        let before = Held::by_this_thread();
        line.wait();
        Held::by_this_thread().differences(&before)
    })
}

fn ids() {
    set(libc::PR_SET_SECUREBITS, NO_SETUID_FIXUP);
    groups(&[5, 6, 70_000, 4_000_000_000]);
    call(libc::SYS_setresgid, [21, 22, 23]);
    call(libc::SYS_setresuid, [11, 12, 13]);
    // They give the old id.
    // SAFETY: the calls take numbers.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_setfsgid, 24), 22);
        assert_eq!(libc::syscall(libc::SYS_setfsuid, 14), 12);
    }
    capset(0, 0, 0);
    assert_eq!(status("Uid"), "11 12 13 14");
    assert_eq!(status("Gid"), "21 22 23 24");
}

fn keepcaps() {
    set(libc::PR_SET_KEEPCAPS, 1);
    call(libc::SYS_setresuid, [1000, 1000, 1000]);
    assert_eq!(status("CapEff"), "0000000000000000");
    assert_ne!(status("CapPrm"), "0000000000000000");
    capset(KILL, KILL | CHOWN, 0);
}

fn powerless() {
    for capability in 0..=last_capability() {
        if (CHOWN | KILL) >> capability & 1 == 0 {
            set(libc::PR_CAPBSET_DROP, capability);
        }
    }
    capset(0, CHOWN, CHOWN | KILL);
    set(libc::PR_SET_NO_NEW_PRIVS, 1);
}

fn ambient() {
    let caps = NET_BIND_SERVICE | NET_RAW;
    set(libc::PR_SET_KEEPCAPS, 1);
    call(libc::SYS_setresuid, [1000, 1000, 1000]);
    capset(caps | SETPCAP, caps | SETPCAP, caps | KILL);
    raise(NET_BIND_SERVICE);
    raise(NET_RAW);
    capset(NET_RAW, caps, caps | KILL);
    assert_eq!(status("CapAmb"), "0000000000002400");
}

fn securebits(line: Line) -> Vec<String> {
    let mut crew = Crew::new();
    // Two more pairs since Linux 6.14, which may be set together with the others.
    let has_more = set_may_fail(libc::PR_SET_SECUREBITS, 1 << 8).is_ok();
    set(libc::PR_SET_SECUREBITS, 0);
    let more = (1..16u64).map(|bits| (bits << 8) | (bits * 17)).filter(|_| has_more);
    for bits in (0..256).chain(more) {
        crew.thread(
            move || {
                set(libc::PR_SET_SECUREBITS, bits);
                Held::by_this_thread()
            },
            |before, failures| failures.extend(Held::by_this_thread().differences(&before)),
        );
    }
    crew.await_ready();
    line.wait();
    crew.finish(0)
}

fn threads(line: Line) -> Vec<String> {
    let mut crew = Crew::new();
    let mut thread = |prepare: fn()| {
        crew.thread(
            move || {
                prepare();
                Held::by_this_thread().of_thread()
            },
            |before, failures| failures.extend(Held::by_this_thread().of_thread().differences(&before)),
        );
    };
    thread(|| {
        groups(&[1, 2, 3]);
        call(libc::SYS_setresuid, [1001, 1001, 1001]);
        set(libc::PR_SET_PDEATHSIG, 10);
    });
    thread(|| {
        set(libc::PR_SET_KEEPCAPS, 1);
        call(libc::SYS_setresgid, [7, 8, 9]);
        call(libc::SYS_setresuid, [1002, 1003, 1004]);
        capset(CHOWN | KILL, CHOWN | KILL, KILL);
    });
    thread(|| {
        capset(KILL, KILL, 0);
        set(libc::PR_SET_NO_NEW_PRIVS, 1);
    });
    thread(|| set(libc::PR_CAPBSET_DROP, 13));
    thread(|| set(libc::PR_SET_PDEATHSIG, 12));
    thread(|| ());
    crew.await_ready();
    // What they have done has reset it for all of them.
    set(libc::PR_SET_DUMPABLE, 1);
    let before = Held::by_this_thread();
    line.wait();
    let mut failures = Held::by_this_thread().differences(&before);
    failures.extend(crew.finish(0));
    failures
}

fn dumpable() {
    call(libc::SYS_setresuid, [1000, 1000, 1000]);
    set(libc::PR_SET_DUMPABLE, 1);
    set(libc::PR_SET_PDEATHSIG, 12);
}

fn reset() {
    call(libc::SYS_setresuid, [1000, 1000, 1000]);
    let left = std::fs::read_to_string("/proc/sys/fs/suid_dumpable").expect("suid_dumpable");
    assert_eq!(get(libc::PR_GET_DUMPABLE).to_string(), left.trim());
}

fn limits() {
    let limits: [(u64, u64); 16] = [
        (3600, 7200),
        (1 << 30, 1 << 40),
        (1 << 33, 1 << 34),
        (8 << 20, 16 << 20),
        (0, 1 << 20),
        (1 << 40, 1 << 41),
        (1000, 2000),
        (100, 200),
        (64 << 10, 128 << 10),
        (1 << 42, 1 << 43),
        (10, 20),
        (1000, 2000),
        (4096, 8192),
        (0, 0),
        (0, 0),
        (1_000_000, 2_000_000),
    ];
    for (resource, (soft, hard)) in (0..).zip(limits) {
        let mut now = [0u64; 2];
        call(libc::SYS_prlimit64, [0, resource, 0, (&raw mut now) as u64]);
        let wanted = [soft.min(now[1]), hard.min(now[1])];
        call(libc::SYS_prlimit64, [0, resource, (&raw const wanted) as u64, 0]);
    }
}

fn scheduling(line: Line) -> Vec<String> {
    let mut crew = Crew::new();
    let on_fork = libc::SCHED_RESET_ON_FORK;
    for (policy, priority, nice) in [
        (libc::SCHED_FIFO, 7, 0),
        (libc::SCHED_FIFO | on_fork, 8, 3),
        (libc::SCHED_RR, 99, -4),
        (libc::SCHED_RR | on_fork, 1, 0),
        (libc::SCHED_BATCH, 0, 5),
        (libc::SCHED_BATCH | on_fork, 0, -20),
        (libc::SCHED_IDLE, 0, 19),
        (libc::SCHED_OTHER | on_fork, 0, -7),
        (libc::SCHED_OTHER, 0, 0),
    ] {
        crew.thread(
            move || {
                call(libc::SYS_setpriority, [u64::from(libc::PRIO_PROCESS), 0, nice as u64]);
                let priority: i32 = priority;
                call(libc::SYS_sched_setscheduler, [0, policy as u64, (&raw const priority) as u64]);
                Held::by_this_thread()
            },
            |before, failures| failures.extend(Held::by_this_thread().differences(&before)),
        );
    }
    crew.await_ready();
    call(libc::SYS_setpriority, [u64::from(libc::PRIO_PROCESS), 0, 2]);
    let before = Held::by_this_thread();
    line.wait();
    let mut failures = Held::by_this_thread().differences(&before);
    failures.extend(crew.finish(0));
    failures
}

fn rest() {
    std::fs::write("/proc/self/oom_score_adj", "300").expect("oom_score_adj");
    // SAFETY: personality takes a number.
    let result = unsafe { libc::personality((libc::ADDR_NO_RANDOMIZE | libc::UNAME26) as u64) };
    assert_ne!(result, -1);
    set(libc::PR_SET_THP_DISABLE, 1);
}

/// Five signals wait for the task, five for the thread, and three may.
fn crowd() {
    let limit = [3u64, 3];
    block_signals();
    // SAFETY: the calls take numbers.
    unsafe {
        for _ in 0..5 {
            assert_eq!(libc::kill(libc::getpid(), 40), 0);
            assert_eq!(libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), 41), 0);
        }
    }
    let resource = u64::from(libc::RLIMIT_SIGPENDING);
    call(libc::SYS_prlimit64, [0, resource, (&raw const limit) as u64, 0]);
}

fn block_signals() {
    let all = u64::MAX;
    call(libc::SYS_rt_sigprocmask, [libc::SIG_BLOCK as u64, (&raw const all) as u64, 0, 8]);
}

fn crowds(line: Line) -> Vec<String> {
    block_signals();
    let mut crew = Crew::new();
    crew.thread(
        || {
            crowd();
            Held::by_this_thread()
        },
        |before, failures| failures.extend(Held::by_this_thread().differences(&before)),
    );
    crew.await_ready();
    let before = Held::by_this_thread();
    line.wait();
    let mut failures = Held::by_this_thread().differences(&before);
    failures.extend(crew.finish(0));
    failures
}

fn outside() {
    capset(all(), all(), NET_RAW | KILL);
    set(libc::PR_CAPBSET_DROP, 13);
    capset(KILL, KILL, NET_RAW | KILL);
    assert_eq!(status("CapInh"), "0000000000002020");
}

fn locked() {
    let bits = NO_AMBIENT_RAISE | NO_AMBIENT_RAISE_LOCKED;
    set(libc::PR_SET_KEEPCAPS, 1);
    call(libc::SYS_setresuid, [1000, 1000, 1000]);
    capset(NET_RAW | SETPCAP, NET_RAW | SETPCAP, NET_RAW);
    raise(NET_RAW);
    set(libc::PR_SET_SECUREBITS, bits);
    capset(NET_RAW, NET_RAW, NET_RAW);
    assert_eq!(status("CapAmb"), "0000000000002000");
}

/// All that is compared, by name.
#[derive(Debug, PartialEq)]
struct Held(Vec<(String, String)>);

impl Held {
    fn by_this_thread() -> Held {
        let mut all = Vec::new();
        let mut note = |name: &str, value: &dyn Debug| all.push((name.to_owned(), format!("{value:?}")));
        for line in [
            "Uid",
            "Gid",
            "Groups",
            "CapInh",
            "CapPrm",
            "CapEff",
            "CapBnd",
            "CapAmb",
            "NoNewPrivs",
            "SigPnd",
            "ShdPnd",
            "SigQ",
        ] {
            let found = status(line);
            // The kernel's number of signals that wait counts those of all tasks of the user.
            let found =
                if line == "SigQ" { found.split('/').next_back().map(str::to_owned) } else { Some(found) };
            note(line, &found);
        }
        for (name, option) in [
            ("dumpable", libc::PR_GET_DUMPABLE),
            ("keepcaps", libc::PR_GET_KEEPCAPS),
            ("securebits", libc::PR_GET_SECUREBITS),
            ("timer slack", libc::PR_GET_TIMERSLACK),
            ("huge pages disabled", libc::PR_GET_THP_DISABLE),
        ] {
            note(name, &get(option));
        }
        let mut signal = 0i32;
        call(libc::SYS_prctl, [libc::PR_GET_PDEATHSIG as u64, (&raw mut signal) as u64, 0, 0]);
        note("parent-death signal", &signal);
        // struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period, clamps.
        let mut attributes = [0u64; 7];
        call(libc::SYS_sched_getattr, [0, (&raw mut attributes) as u64, 56, 0]);
        note("scheduling", &attributes);
        // SAFETY: the calls take numbers.
        let (nice, personality) = unsafe {
            (libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, 0), libc::personality(0xffff_ffff))
        };
        note("nice", &nice);
        note("personality", &personality);
        for resource in 0..16 {
            let mut limit = [0u64; 2];
            call(libc::SYS_prlimit64, [0, resource, 0, (&raw mut limit) as u64]);
            note(&format!("limit {resource}"), &limit);
        }
        note("oom_score_adj", &std::fs::read_to_string("/proc/self/oom_score_adj"));
        Held(all)
    }

    /// Without what other threads change, too.
    fn of_thread(mut self) -> Held {
        self.0.retain(|(name, _)| name != "dumpable");
        self
    }

    fn differences(&self, wanted: &Held) -> Vec<String> {
        let pairs = self.0.iter().zip(&wanted.0).filter(|(found, wanted)| found != wanted);
        pairs.map(|((name, found), (_, wanted))| format!("{name}: {found}, not {wanted}")).collect()
    }
}

/// A system call that must succeed, of this thread alone: libraries make some of them for all.
fn call<const N: usize>(nr: c_long, args: [u64; N]) {
    let mut all = [0u64; 5];
    all[..N].copy_from_slice(&args);
    let [a, b, c, d, e] = all;
    // SAFETY: private to this program, whose calls get numbers, or addresses of live values of the sizes
    // that the kernel reads or writes.
    let result = unsafe { libc::syscall(nr, a, b, c, d, e) };
    assert!(result >= 0, "system call {nr} with {args:x?}: {}", Errno::last());
}

fn set_may_fail(option: i32, value: u64) -> Result<(), Errno> {
    // SAFETY: only options that take numbers are used.
    Errno::result(unsafe { libc::prctl(option, value, 0, 0, 0) }).map(drop)
}

fn set(option: i32, value: u64) {
    assert_eq!(set_may_fail(option, value), Ok(()), "prctl({option}, {value:#x})");
}

fn get(option: i32) -> i32 {
    // SAFETY: only options that take nothing are used.
    unsafe { libc::prctl(option, 0, 0, 0, 0) }
}

fn groups(list: &[u32]) {
    call(libc::SYS_setgroups, [list.len() as u64, list.as_ptr() as u64]);
}

fn capset(effective: u64, permitted: u64, inheritable: u64) {
    let header = [0x2008_0522u32, 0];
    let sets = [effective, permitted, inheritable];
    let data = [sets.map(|set| set as u32), sets.map(|set| (set >> 32) as u32)];
    call(libc::SYS_capset, [(&raw const header) as u64, (&raw const data) as u64]);
}

fn raise(capability: u64) {
    let args = [libc::PR_CAP_AMBIENT as u64, libc::PR_CAP_AMBIENT_RAISE as u64];
    call(libc::SYS_prctl, [args[0], args[1], u64::from(capability.trailing_zeros()), 0]);
}

/// What this thread is permitted.
fn all() -> u64 {
    u64::from_str_radix(&status("CapPrm"), 16).expect("a set of capabilities")
}

fn last_capability() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").expect("cap_last_cap");
    text.trim().parse().expect("a number")
}
