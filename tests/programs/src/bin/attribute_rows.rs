//! Tests the rows of the checker's attribute table ([`regrow_graph::verify::attribute::TABLE`]) on the
//! running kernel: for every row it gives the attribute a value that it does not have by itself, forks,
//! starts a thread, changes credentials, tries to take the value back, and compares what is there then
//! with what the row says.
//!
//! ```text
//!   set ─ read              what is copied          in a thread: set ─ outside: read    what is shared
//!   set ─ fork ─ read       row.on_fork             set ─ change ids ─ read             row.on_credentials
//!   set ─ thread ─ read     row.on_thread           set ─ take back ─ read              row.one_way
//! ```
//!
//! With the argument `flipped` it also turns every column of every row into each of its other values, and
//! demands that the comparison notices each.
//!
//! Forks and threads are made by raw clones as the runner makes them: a C library sets addresses, lists
//! and masks of its own in what it starts. (Restartable sequences must be off in it:
//! `GLIBC_TUNABLES=glibc.pthread.rseq=0`.) A thread made so uses the thread-local storage of the one that
//! made it, which does nothing meanwhile.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use regrow_graph::verify::AttributeKind as Kind;
use regrow_graph::verify::attribute::{Cleared, Inherit, OnCredentials, Row, Scope, TABLE};

const NONE: &str = "none";
const SIGNAL: i64 = libc::SIGUSR1 as i64;
const RESET_ON_FORK: u32 = libc::SCHED_RESET_ON_FORK as u32;
const PR_TIMER_CREATE_RESTORE_IDS: i64 = 77;
const PR_GET_TID_ADDRESS: i64 = 40;
/// No other bit of a capability set depends on it.
const CAP_SYS_PACCT: u64 = 1 << 20;
const CAP_SYS_RESOURCE: u64 = 1 << 24;
const CAP_KILL: u64 = 1 << 5;
/// Uid and gid that are set, and those that a change of credentials brings.
const ID: i64 = 1000;
const OTHER_ID: i64 = 2000;
const SLACK_NS: i64 = 123_456;

/// A change of credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    AllUids,
    EffectiveUid,
    RealUid,
    FsUid,
    EffectiveGid,
    FsGid,
}

const CHANGES: [Change; 6] = [
    Change::AllUids,
    Change::EffectiveUid,
    Change::RealUid,
    Change::FsUid,
    Change::EffectiveGid,
    Change::FsGid,
];

/// What the kernel does with one attribute.
#[derive(Debug)]
struct Seen {
    start: String,
    set: String,
    fork: String,
    fork_with_reset: String,
    thread: String,
    /// Whether what a thread sets is there for the others; `None`: cannot be tried.
    shared: Option<bool>,
    changes: Vec<(Change, String)>,
    comes_back: Option<bool>,
    /// What [`Inherit::Takes`] would bring.
    timer_slack: String,
}

fn main() -> ExitCode {
    prepare();
    let _made = make_cgroup();
    let mut failures = Vec::new();
    let mut flips = 0;
    for row in &TABLE {
        if !is_known(row.kind) {
            print(&format!("row {}: not in this kernel\n", row.name));
            continue;
        }
        let seen = observe(row.kind);
        let wrong = judge(row, &seen);
        print(&format!(
            "row {}: {}\n",
            row.name,
            if wrong.is_empty() { "as the kernel has it" } else { "WRONG" }
        ));
        failures.extend(wrong.into_iter().map(|text| format!("{}: {text}", row.name)));
        if std::env::args().any(|argument| argument == "flipped") {
            for flipped in flipped(row) {
                flips += 1;
                if judge(&flipped, &seen).is_empty() {
                    failures.push(format!("{}: nobody would notice {flipped:?}\n{seen:?}", row.name));
                }
            }
        }
    }
    failures.extend(beside_the_table());
    print(&format!("{} rows, {flips} flipped columns noticed\n", TABLE.len()));
    for failure in &failures {
        print(&format!("{failure}\n"));
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Without auditing there is no login uid; timers have had ids of one's choice since Linux 6.15.
fn is_known(kind: Kind) -> bool {
    match kind {
        Kind::Cgroups => PLACE.get().is_some(),
        Kind::LoginUid => fs::exists("/proc/self/loginuid").unwrap_or(true),
        Kind::TimerIds => call(libc::SYS_prctl, [PR_TIMER_CREATE_RESTORE_IDS, 2, 0, 0, 0]).is_ok(),
        _ => true,
    }
}

fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Takes off what the C library has set, so that everything starts as after a fork.
fn prepare() {
    expect(call(libc::SYS_set_robust_list, [0, 24, 0, 0, 0]));
    expect(call(libc::SYS_set_tid_address, [0; 5]));
    expect(unset(Kind::AltStack));
    expect(prctl(libc::PR_SET_DUMPABLE, 1 - dumpable_to_set()));
    let mask = 1u64 << (SIGNAL - 1);
    expect(call(libc::SYS_rt_sigprocmask, [libc::SIG_BLOCK.into(), address(&mask), 0, 8, 0]));
    assert_eq!(read(Kind::Rseq), NONE, "GLIBC_TUNABLES=glibc.pthread.rseq=0 is needed");
}

/// A cgroup to move into, and the one to come from.
struct Place {
    old: PathBuf,
    new: PathBuf,
}

static PLACE: OnceLock<Place> = OnceLock::new();

/// Removes the cgroup again.
struct MadeCgroup;

impl Drop for MadeCgroup {
    fn drop(&mut self) {
        let Some(place) = PLACE.get() else { return };
        // It is busy until the last that was in it has gone altogether.
        for _ in 0..200 {
            if fs::remove_dir(&place.new).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        print(&format!("{} is left behind\n", place.new.display()));
    }
}

/// Makes a cgroup below the own one, in some hierarchy in which that can be done.
fn make_cgroup() -> MadeCgroup {
    let (mounts, own) = (file("/proc/self/mountinfo"), file("/proc/self/cgroup"));
    // Version 2 first: who dumps tasks of hierarchies of version 1 meanwhile looks at all of those.
    let mut lines: Vec<&str> = mounts.lines().collect();
    lines.sort_by_key(|line| !line.contains(" - cgroup2 "));
    for line in lines {
        let Some((place, kind)) = line.split_once(" - ") else { continue };
        let Some(point) = place.split(' ').nth(4) else { continue };
        let (is_second, options) = (kind.starts_with("cgroup2 "), kind.rsplit(' ').next().unwrap_or(""));
        let is_it = |names: &str| match names {
            "" => is_second,
            names => {
                kind.starts_with("cgroup ")
                    && names.split(',').all(|name| options.split(',').any(|one| one == name))
            }
        };
        let cgroup = own.lines().find_map(|line| {
            let (names, path) = line.split_once(':')?.1.split_once(':')?;
            is_it(names).then_some(path)
        });
        let Some(cgroup) = cgroup else { continue };
        let old = Path::new(point).join(cgroup.trim_start_matches('/'));
        let new = old.join(format!("regrow-rows-{}", std::process::id()));
        // What has limits of its own (cpuset) can be entered when they are set only.
        if !names_cpuset(options) && fs::create_dir(&new).is_ok() {
            assert!(PLACE.set(Place { old, new }).is_ok());
            break;
        }
    }
    MadeCgroup
}

fn names_cpuset(options: &str) -> bool {
    options.split(',').any(|option| option == "cpuset")
}

/// Another value than a change of credentials leaves.
fn dumpable_to_set() -> i64 {
    if suid_dumpable() == "0" { 1 } else { 0 }
}

fn suid_dumpable() -> String {
    fs::read_to_string("/proc/sys/fs/suid_dumpable").expect("it is there").trim().to_owned()
}

fn observe(kind: Kind) -> Seen {
    // Who has what is to be seen in others must not be what the observer has by itself.
    let start = in_child(|| read(kind));
    let set_first = |then: &dyn Fn() -> String| {
        in_child(|| {
            expect(set(kind));
            then()
        })
    };
    let changes = CHANGES
        .into_iter()
        .filter(|change| !sets(*change, kind))
        .map(|change| {
            let value = in_child(|| {
                if UID_KINDS.contains(&kind) {
                    // Else there would be no capability left to change anything with.
                    const NO_SETUID_FIXUP: i64 = 1 << 2;
                    expect(prctl(libc::PR_SET_SECUREBITS, NO_SETUID_FIXUP));
                }
                expect(set(kind));
                apply(change);
                if kind != Kind::Dumpable {
                    // Files below /proc/self belong to root otherwise.
                    expect(prctl(libc::PR_SET_DUMPABLE, 1));
                }
                read(kind)
            });
            (change, value)
        })
        .collect();
    let shared = (kind != Kind::Executable).then(|| {
        let both = in_child(|| {
            let own = in_thread(|| {
                expect(set(kind));
                String::new()
            });
            own + &read(kind)
        });
        both == set_first(&|| read(kind)) && both != start
    });
    let comes_back = (kind != Kind::Executable).then(|| {
        let after = in_child(|| {
            let original = raw_value(kind);
            expect(set(kind));
            // Nobody who restores can count on that one.
            let [effective, permitted, inheritable] = capabilities();
            set_capabilities([effective & !CAP_SYS_RESOURCE, permitted, inheritable]);
            match take_back(kind, &original) {
                Ok(_) => read(kind),
                Err(error) => format!("errno {error}"),
            }
        });
        // Of the effective set the capability is missing.
        after == start
            || kind == Kind::CapEffective
                && after
                    == in_child(|| {
                        let [effective, permitted, inheritable] = capabilities();
                        set_capabilities([effective & !CAP_SYS_RESOURCE, permitted, inheritable]);
                        read(kind)
                    })
    });
    Seen {
        start,
        set: set_first(&|| read(kind)),
        fork: set_first(&|| in_child(|| read(kind))),
        fork_with_reset: set_first(&|| {
            let policy = libc::SCHED_BATCH as u32 | RESET_ON_FORK;
            expect(set_policy(policy, 0));
            in_child(|| read(kind))
        }),
        thread: set_first(&|| in_thread(|| read(kind))),
        shared,
        changes,
        comes_back,
        timer_slack: set_first(&|| read(Kind::TimerSlack)),
    }
}

/// Where the row and the kernel part.
fn judge(row: &Row, seen: &Seen) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut equal = |what: &str, found: &str, wanted: &str| {
        if found != wanted {
            wrong.push(format!("{what}: {found}, by the row {wanted}"));
        }
    };
    let cleared = match row.cleared {
        Cleared::Zero => "0",
        Cleared::Nothing => NONE,
    };
    let takes = matches!(row.on_fork, Inherit::Takes(_));
    if seen.set == seen.start && !takes && row.kind != Kind::Executable {
        equal("setting", &seen.set, "another value than at the start");
    }
    match row.on_fork {
        Inherit::Copied => {
            equal("fork", &seen.fork, &seen.set);
            equal("fork with SCHED_RESET_ON_FORK", &seen.fork_with_reset, &seen.set);
        }
        Inherit::Cleared => {
            equal("fork", &seen.fork, cleared);
            equal("fork with SCHED_RESET_ON_FORK", &seen.fork_with_reset, cleared);
        }
        Inherit::Takes(Kind::TimerSlack) => equal("fork", &seen.fork, &seen.timer_slack),
        Inherit::Takes(other) => equal("fork", &seen.fork, &format!("what {other:?} was")),
        Inherit::CopiedUnlessReset => {
            equal("fork", &seen.fork, &seen.set);
            let reset = match row.kind {
                Kind::Nice => "0",
                Kind::Scheduler => "3 0",
                _ => "reset",
            };
            equal("fork with SCHED_RESET_ON_FORK", &seen.fork_with_reset, reset);
        }
        Inherit::Shared => equal("fork", "makes one of its own", "shares"),
    }
    let shares = match row.on_thread {
        Inherit::Copied | Inherit::CopiedUnlessReset => {
            equal("thread", &seen.thread, &seen.set);
            false
        }
        Inherit::Cleared => {
            equal("thread", &seen.thread, cleared);
            false
        }
        Inherit::Takes(_) => {
            equal("thread", &seen.thread, &seen.timer_slack);
            false
        }
        Inherit::Shared => {
            equal("thread", &seen.thread, &seen.set);
            true
        }
    };
    if row.on_thread == Inherit::CopiedUnlessReset && row.on_fork != Inherit::CopiedUnlessReset {
        equal("policy and nice value of a thread", "as those of a child", "otherwise");
    }
    if row.on_fork == Inherit::CopiedUnlessReset && row.on_thread == Inherit::Copied {
        equal("policy and nice value of a thread", "as those of a child", "otherwise");
    }
    if let Some(shared) = seen.shared {
        equal("what a thread sets is there for the others", &shared.to_string(), &shares.to_string());
    }
    equal("scope", &format!("{:?}", row.scope), if shares { "Task" } else { "Thread" });
    for (change, value) in &seen.changes {
        let resets = !matches!(change, Change::RealUid);
        let wanted = match row.on_credentials {
            OnCredentials::Kept | OnCredentials::Own => seen.set.clone(),
            OnCredentials::Reset if resets && row.kind == Kind::Dumpable => suid_dumpable(),
            OnCredentials::Reset if resets => cleared.to_owned(),
            OnCredentials::Reset => seen.set.clone(),
            OnCredentials::Follows => match (row.kind, change) {
                (Kind::FsUid, Change::RealUid) => "0".to_owned(),
                (Kind::FsUid, Change::AllUids | Change::EffectiveUid) => OTHER_ID.to_string(),
                (Kind::FsGid, Change::EffectiveGid) => OTHER_ID.to_string(),
                (Kind::FsUid | Kind::FsGid, _) => seen.set.clone(),
                _ => "the effective id".to_owned(),
            },
            OnCredentials::LostWithRoot => match (row.kind, change) {
                (_, Change::AllUids) => "0".to_owned(),
                (Kind::CapEffective, Change::EffectiveUid) => "0".to_owned(),
                // Some of it: tested beside the table.
                (Kind::CapEffective, Change::FsUid) => value.clone(),
                _ => seen.set.clone(),
            },
        };
        equal(&format!("{change:?}"), value, &wanted);
    }
    let is_lost = seen.changes.iter().any(|(change, _)| *change == Change::AllUids);
    if row.on_credentials == OnCredentials::LostWithRoot && !is_lost {
        equal("setresuid", "is what sets it", "is what it is lost by");
    }
    if let Some(comes_back) = seen.comes_back {
        equal("can be taken back", &comes_back.to_string(), &(!row.one_way).to_string());
    }
    wrong
}

/// Each column in turn with each other value.
fn flipped(row: &Row) -> Vec<Row> {
    let births = [
        Inherit::Copied,
        Inherit::Cleared,
        Inherit::Shared,
        Inherit::Takes(Kind::TimerSlack),
        Inherit::CopiedUnlessReset,
    ];
    let credentials =
        [OnCredentials::Kept, OnCredentials::Reset, OnCredentials::Follows, OnCredentials::LostWithRoot];
    let mut all = Vec::new();
    // Nobody can set it here, so it is always what it was: only that it is there can be told.
    let is_fixed = row.kind == Kind::Executable;
    // In these the other's value is the same.
    let takes_own = |how: &Inherit| row.kind == Kind::TimerSlack && *how == Inherit::Takes(Kind::TimerSlack);
    for how in births {
        if how != row.on_fork && !takes_own(&how) {
            all.push(Row { on_fork: how, ..*row });
        }
        let is_same = is_fixed && matches!(how, Inherit::Copied);
        if how != row.on_thread && !takes_own(&how) && !is_same {
            all.push(Row { on_thread: how, ..*row });
        }
    }
    let is_kept = |how: OnCredentials| matches!(how, OnCredentials::Kept | OnCredentials::Own);
    for how in credentials {
        if how != row.on_credentials && !(is_kept(how) && is_kept(row.on_credentials)) {
            all.push(Row { on_credentials: how, ..*row });
        }
    }
    if !is_fixed {
        all.push(Row { one_way: !row.one_way, ..*row });
    }
    all.push(Row { scope: if row.scope == Scope::Task { Scope::Thread } else { Scope::Task }, ..*row });
    let is_cleared = [row.on_fork, row.on_thread].contains(&Inherit::Cleared);
    if is_cleared {
        let cleared = if row.cleared == Cleared::Zero { Cleared::Nothing } else { Cleared::Zero };
        all.push(Row { cleared, ..*row });
    }
    all
}

/// What the checker knows of attributes that is in no row.
fn beside_the_table() -> Vec<String> {
    let mut wrong = Vec::new();
    let mut equal = |what: &str, found: String, wanted: &str| {
        if found != wanted {
            wrong.push(format!("{what}: {found}, not {wanted}"));
        }
    };
    // State::set_scheduler, State::set_timer_slack, State::unless_reset.
    let slacks = in_child(|| {
        let default = read(Kind::TimerSlack);
        expect(set(Kind::TimerSlack));
        expect(set_policy(libc::SCHED_FIFO as u32, 1));
        let real_time = read(Kind::TimerSlack);
        expect(set(Kind::TimerSlack));
        let ignored = read(Kind::TimerSlack);
        expect(set_policy(libc::SCHED_OTHER as u32, 0));
        let after = read(Kind::TimerSlack);
        format!("{real_time} {ignored} {}", after == default)
    });
    equal("timer slack in SCHED_FIFO, set there, and after it the default", slacks, "0 0 true");
    let real_time = in_child(|| {
        expect(set_policy(libc::SCHED_FIFO as u32 | RESET_ON_FORK, 1));
        expect(set(Kind::Nice));
        in_child(|| format!("{}, {}", read(Kind::Scheduler), read(Kind::Nice)))
    });
    equal("a child of SCHED_FIFO | SCHED_RESET_ON_FORK", real_time, "0 0, 0");
    // State::fix_file_capabilities: CAP_FS_SET.
    let files = in_child(|| {
        let before = capabilities()[0];
        apply(Change::FsUid);
        let after = capabilities()[0];
        format!("{:#x}", before & !after)
    });
    equal("effective capabilities that a file system uid other than 0 takes", files, "0x10800021f");
    let back = in_child(|| {
        let before = capabilities()[0];
        apply(Change::FsUid);
        expect(call(libc::SYS_setfsuid, [0; 5]));
        (before == capabilities()[0]).to_string()
    });
    equal("all are back with the file system uid 0", back, "true");
    // State::fix_capabilities.
    let kept = in_child(|| {
        let permitted = capabilities()[1];
        expect(prctl(libc::PR_SET_KEEPCAPS, 1));
        apply(Change::AllUids);
        let now = capabilities();
        format!("{} {:#x}", now[1] == permitted, now[0])
    });
    equal("with PR_SET_KEEPCAPS the permitted set stays, the effective one does not", kept, "true 0x0");
    let again = in_child(|| {
        apply(Change::EffectiveUid);
        expect(call(libc::SYS_setresuid, [-1, 0, -1, 0, 0]));
        let [effective, permitted, _] = capabilities();
        (effective == permitted).to_string()
    });
    equal("an effective uid that becomes 0 makes all permitted ones effective", again, "true");
    // change_credentials: capset keeps the ambient set within both.
    let ambient = in_child(|| {
        expect(set(Kind::CapAmbient));
        let [effective, permitted, _] = capabilities();
        set_capabilities([effective, permitted, 0]);
        read(Kind::CapAmbient)
    });
    equal("ambient capabilities without inheritable ones", ambient, "0");
    // Value::membarrier.
    let registered = in_child(|| {
        expect(call(libc::SYS_membarrier, [1 << 6, 0, 0, 0, 0]));
        read(Kind::Membarrier)
    });
    equal("registered with that for cores", registered, &(1 << 6 | 1 << 4).to_string());
    // Value::interval_timers.
    let intervals = in_child(|| {
        for which in 0..3 {
            let timer = [5i64, 0, 0, 0];
            expect(call(libc::SYS_setitimer, [which, address(&timer), 0, 0, 0]));
        }
        read(Kind::IntervalTimers)
    });
    equal("intervals of timers that are not armed", intervals, "0 5 5");
    // step.rs: of a standard signal the first waits; an ignored one waits no more.
    let signals = in_child(|| {
        expect(set(Kind::PendingShared));
        let ignore = [1u64, 0, 0, 0];
        expect(call(libc::SYS_rt_sigaction, [SIGNAL, address(&ignore), 0, 8, 0]));
        read(Kind::PendingShared)
    });
    equal("a pending signal that is ignored from now on", signals, NONE);
    let no_op = in_child(|| {
        expect(call(libc::SYS_setfsuid, [ID, 0, 0, 0, 0]));
        expect(call(libc::SYS_setresuid, [-1, -1, -1, 0, 0]));
        read(Kind::FsUid)
    });
    equal("a setresuid of nothing leaves the file system uid", no_op, &ID.to_string());
    wrong
}

const UID_KINDS: [Kind; 4] = [Kind::Uid, Kind::EffectiveUid, Kind::SavedUid, Kind::FsUid];

/// Whether a change of credentials is what sets the attribute.
fn sets(change: Change, kind: Kind) -> bool {
    match change {
        Change::AllUids => matches!(kind, Kind::Uid | Kind::EffectiveUid | Kind::SavedUid),
        Change::EffectiveUid => kind == Kind::EffectiveUid,
        Change::RealUid => kind == Kind::Uid,
        Change::FsUid => kind == Kind::FsUid,
        Change::EffectiveGid => kind == Kind::EffectiveGid,
        Change::FsGid => kind == Kind::FsGid,
    }
}

fn apply(change: Change) {
    let (id, keep) = (OTHER_ID, -1);
    match change {
        Change::AllUids => expect(call(libc::SYS_setresuid, [id, id, id, 0, 0])),
        Change::EffectiveUid => expect(call(libc::SYS_setresuid, [keep, id, keep, 0, 0])),
        Change::RealUid => expect(call(libc::SYS_setresuid, [id, keep, keep, 0, 0])),
        Change::EffectiveGid => expect(call(libc::SYS_setresgid, [keep, id, keep, 0, 0])),
        Change::FsUid => drop(call(libc::SYS_setfsuid, [id, 0, 0, 0, 0])),
        Change::FsGid => drop(call(libc::SYS_setfsgid, [id, 0, 0, 0, 0])),
    }
}

static STACK: [u8; 32768] = [0; 32768];
static WORD: AtomicU32 = AtomicU32::new(0);

#[repr(align(32))]
struct Area([AtomicU32; 8]);

static RSEQ: Area = Area([const { AtomicU32::new(0) }; 8]);
const RSEQ_SIGNATURE: i64 = 0x5305_3053;

/// A list of robust futexes with nothing in it leads to itself.
struct RobustHead([std::sync::atomic::AtomicUsize; 3]);

static ROBUST: RobustHead = RobustHead([const { std::sync::atomic::AtomicUsize::new(0) }; 3]);

/// Gives the attribute a value that nobody has by himself.
fn set(kind: Kind) -> Result<i64, i32> {
    let flag = |option: i32| prctl(option, 1);
    match kind {
        Kind::Umask => call(libc::SYS_umask, [0o077, 0, 0, 0, 0]),
        Kind::WorkingDirectory => call(libc::SYS_chdir, [c"/proc".as_ptr() as i64, 0, 0, 0, 0]),
        // Below it are the files that the others read.
        Kind::RootDirectory => call(libc::SYS_chroot, [c"/proc".as_ptr() as i64, 0, 0, 0, 0]),
        Kind::Dumpable => prctl(libc::PR_SET_DUMPABLE, dumpable_to_set()),
        Kind::Subreaper => flag(libc::PR_SET_CHILD_SUBREAPER),
        Kind::ThpDisable => flag(libc::PR_SET_THP_DISABLE),
        Kind::SigActions => set_action([0x1234, 0x0400_0000, 0x5678, 1 << 3]),
        Kind::Membarrier => call(libc::SYS_membarrier, [1 << 2, 0, 0, 0, 0]),
        Kind::IntervalTimers => set_timer(1000),
        Kind::PosixTimers => {
            let id = 0i32;
            call(libc::SYS_timer_create, [libc::CLOCK_MONOTONIC.into(), 0, address(&id), 0, 0])
        }
        Kind::TimerIds => call(libc::SYS_prctl, [PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0]),
        Kind::PendingShared => call(libc::SYS_kill, [pid(), SIGNAL, 0, 0, 0]),
        Kind::Limits => set_limit([1000, 2000]),
        Kind::OomScoreAdj => write("/proc/self/oom_score_adj", "500"),
        Kind::Cgroups => {
            write(&format!("{}/cgroup.procs", PLACE.get().expect("it was made").new.display()), "0")
        }
        Kind::MmLayout => set_mm(|words, _| words[10] -= 8),
        Kind::AuxiliaryVector => set_mm(|_, auxv| auxv.splice(0..0, [0x7777, 1]).for_each(drop)),
        // The file of the text that runs cannot be replaced while it is mapped (prctl(2)).
        Kind::Executable => Ok(0),
        Kind::Name => prctl(libc::PR_SET_NAME, c"a-name".as_ptr() as i64),
        Kind::Personality => {
            const ADDR_COMPAT_LAYOUT: i64 = 0x20_0000;
            call(libc::SYS_personality, [ADDR_COMPAT_LAYOUT, 0, 0, 0, 0])
        }
        Kind::ParentDeathSignal => prctl(libc::PR_SET_PDEATHSIG, libc::SIGURG.into()),
        Kind::TimerSlack | Kind::DefaultTimerSlack => prctl(libc::PR_SET_TIMERSLACK, SLACK_NS),
        Kind::SigMask => set_mask(1 << (libc::SIGUSR2 - 1) | 1 << (SIGNAL - 1)),
        Kind::AltStack => set_stack([STACK.as_ptr() as u64, 0, STACK.len() as u64]),
        Kind::RobustList => {
            let head = &ROBUST.0;
            head[0].store(head.as_ptr().addr(), Ordering::SeqCst);
            call(libc::SYS_set_robust_list, [head.as_ptr() as i64, 24, 0, 0, 0])
        }
        Kind::TidAddress => call(libc::SYS_set_tid_address, [WORD.as_ptr() as i64, 0, 0, 0, 0]),
        Kind::Rseq => call(libc::SYS_rseq, [RSEQ.0.as_ptr() as i64, 32, 0, RSEQ_SIGNATURE, 0]),
        Kind::Pending => call(libc::SYS_tkill, [tid(), SIGNAL, 0, 0, 0]),
        Kind::Nice => call(libc::SYS_setpriority, [0, 0, -5, 0, 0]),
        Kind::Scheduler => set_policy(libc::SCHED_BATCH as u32, 0),
        Kind::LoginUid => write("/proc/thread-self/loginuid", &ID.to_string()),
        Kind::Uid => call(libc::SYS_setresuid, [ID, -1, -1, 0, 0]),
        Kind::EffectiveUid => call(libc::SYS_setresuid, [-1, ID, -1, 0, 0]),
        Kind::SavedUid => call(libc::SYS_setresuid, [-1, -1, ID, 0, 0]),
        Kind::FsUid => call(libc::SYS_setfsuid, [ID, 0, 0, 0, 0]),
        Kind::Gid => call(libc::SYS_setresgid, [ID, -1, -1, 0, 0]),
        Kind::EffectiveGid => call(libc::SYS_setresgid, [-1, ID, -1, 0, 0]),
        Kind::SavedGid => call(libc::SYS_setresgid, [-1, -1, ID, 0, 0]),
        Kind::FsGid => call(libc::SYS_setfsgid, [ID, 0, 0, 0, 0]),
        Kind::Groups => set_groups(&[7, 9]),
        Kind::CapEffective | Kind::CapPermitted | Kind::CapInheritable => {
            let [effective, permitted, inheritable] = capabilities();
            Ok(set_capabilities(match kind {
                Kind::CapEffective => [effective & !CAP_SYS_PACCT, permitted, inheritable],
                Kind::CapPermitted => [effective & !CAP_SYS_PACCT, permitted & !CAP_SYS_PACCT, inheritable],
                _ => [effective, permitted, inheritable | CAP_KILL],
            }))
        }
        Kind::CapBounding => prctl(libc::PR_CAPBSET_DROP, CAP_SYS_PACCT.trailing_zeros().into()),
        Kind::CapAmbient => {
            let [effective, permitted, inheritable] = capabilities();
            set_capabilities([effective, permitted, inheritable | CAP_KILL]);
            let number = CAP_KILL.trailing_zeros().into();
            let option = [libc::PR_CAP_AMBIENT.into(), libc::PR_CAP_AMBIENT_RAISE.into(), number, 0, 0];
            call(libc::SYS_prctl, option)
        }
        // SECBIT_NO_CAP_AMBIENT_RAISE and its lock.
        Kind::Securebits => prctl(libc::PR_SET_SECUREBITS, 1 << 6 | 1 << 7),
        Kind::KeepCaps => flag(libc::PR_SET_KEEPCAPS),
        Kind::NoNewPrivs => flag(libc::PR_SET_NO_NEW_PRIVS),
        Kind::Seccomp => {
            // BPF_RET of SECCOMP_RET_ALLOW: everything may be called.
            let filter = [0x06u64 | 0x7fff_0000 << 32];
            let program = [1u64, filter.as_ptr() as u64];
            prctl_2(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER.into(), address(&program))
        }
    }
}

/// The attribute of the calling thread, or of its task.
fn read(kind: Kind) -> String {
    let number = |result: Result<i64, i32>| expect_value(result).to_string();
    let none = |text: &str| if text == "0" { NONE.to_owned() } else { text.to_owned() };
    match kind {
        Kind::Umask => status("Umask", 8),
        Kind::WorkingDirectory => link("cwd"),
        Kind::RootDirectory => {
            let inodes = [c"/".as_ptr(), c"/..".as_ptr()];
            inodes.map(inode_of)[0].to_string()
        }
        Kind::Executable => link("exe"),
        Kind::Dumpable => number(prctl(libc::PR_GET_DUMPABLE, 0)),
        Kind::Subreaper => written(libc::PR_GET_CHILD_SUBREAPER),
        Kind::ThpDisable => number(prctl(libc::PR_GET_THP_DISABLE, 0)),
        Kind::SigActions => {
            let action = [0u64; 4];
            expect(call(libc::SYS_rt_sigaction, [libc::SIGUSR2.into(), 0, address(&action), 8, 0]));
            format!("{action:x?}")
        }
        Kind::Membarrier => {
            const GET_REGISTRATIONS: i64 = 1 << 9;
            number(call(libc::SYS_membarrier, [GET_REGISTRATIONS, 0, 0, 0, 0]))
        }
        Kind::IntervalTimers => {
            let intervals = [0, 1, 2].map(|which| {
                let timer = [0i64; 4];
                expect(call(libc::SYS_getitimer, [which, address(&timer), 0, 0, 0]));
                timer[0]
            });
            if intervals == [0; 3] { NONE.to_owned() } else { intervals.map(|one| one.to_string()).join(" ") }
        }
        Kind::PosixTimers => {
            let timer = [0i64; 4];
            match call(libc::SYS_timer_gettime, [0, address(&timer), 0, 0, 0]) {
                Ok(_) => "there".to_owned(),
                Err(_) => NONE.to_owned(),
            }
        }
        Kind::TimerIds => number(call(libc::SYS_prctl, [PR_TIMER_CREATE_RESTORE_IDS, 2, 0, 0, 0])),
        Kind::PendingShared => none(&status("ShdPnd", 16)),
        Kind::Pending => none(&status("SigPnd", 16)),
        Kind::SigMask => status("SigBlk", 16),
        Kind::Limits => format!("{:?}", limit()),
        Kind::OomScoreAdj => file("/proc/self/oom_score_adj"),
        Kind::Cgroups => file("/proc/self/cgroup"),
        Kind::MmLayout => format!("{:x?}", layout()),
        Kind::AuxiliaryVector => format!("{:x?}", auxiliary_vector()),
        Kind::Name => file("/proc/thread-self/comm"),
        Kind::Personality => number(call(libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0])),
        Kind::ParentDeathSignal => written(libc::PR_GET_PDEATHSIG),
        Kind::TimerSlack => number(prctl(libc::PR_GET_TIMERSLACK, 0)),
        Kind::DefaultTimerSlack => {
            expect(prctl(libc::PR_SET_TIMERSLACK, 0));
            number(prctl(libc::PR_GET_TIMERSLACK, 0))
        }
        Kind::AltStack => {
            let stack = [0u64; 3];
            expect(call(libc::SYS_sigaltstack, [0, address(&stack), 0, 0, 0]));
            if stack[1] as u32 & 2 != 0 { NONE.to_owned() } else { format!("{stack:x?}") }
        }
        Kind::RobustList => {
            let (head, len) = (0u64, 0u64);
            expect(call(libc::SYS_get_robust_list, [0, address(&head), address(&len), 0, 0]));
            // Read back from what the kernel wrote.
            none(&look(&head).to_string())
        }
        Kind::TidAddress => {
            let cleared = 0u64;
            expect(call(libc::SYS_prctl, [PR_GET_TID_ADDRESS, address(&cleared), 0, 0, 0]));
            look(&cleared).to_string()
        }
        // It cannot be asked for: only who has it can give it back.
        Kind::Rseq => {
            const UNREGISTER: i64 = 1;
            match call(libc::SYS_rseq, [RSEQ.0.as_ptr() as i64, 32, UNREGISTER, RSEQ_SIGNATURE, 0]) {
                Ok(_) => "there".to_owned(),
                Err(_) if rseq_is_free() => NONE.to_owned(),
                Err(_) => "another's".to_owned(),
            }
        }
        Kind::Nice => (20 - expect_value(call(libc::SYS_getpriority, [0; 5]))).to_string(),
        Kind::Scheduler => {
            let priority = 0i32;
            expect(call(libc::SYS_sched_getparam, [0, address(&priority), 0, 0, 0]));
            let policy = expect_value(call(libc::SYS_sched_getscheduler, [0; 5]));
            format!("{policy} {}", look(&priority))
        }
        Kind::LoginUid => file("/proc/thread-self/loginuid"),
        Kind::Uid => ids("Uid", 0),
        Kind::EffectiveUid => ids("Uid", 1),
        Kind::SavedUid => ids("Uid", 2),
        Kind::FsUid => ids("Uid", 3),
        Kind::Gid => ids("Gid", 0),
        Kind::EffectiveGid => ids("Gid", 1),
        Kind::SavedGid => ids("Gid", 2),
        Kind::FsGid => ids("Gid", 3),
        Kind::Groups => field("Groups"),
        Kind::CapEffective => status("CapEff", 16),
        Kind::CapPermitted => status("CapPrm", 16),
        Kind::CapInheritable => status("CapInh", 16),
        Kind::CapBounding => status("CapBnd", 16),
        Kind::CapAmbient => status("CapAmb", 16),
        // KEEP_CAPS is a row of its own.
        Kind::Securebits => (expect_value(prctl(libc::PR_GET_SECUREBITS, 0)) & !0x10).to_string(),
        Kind::KeepCaps => number(prctl(libc::PR_GET_KEEPCAPS, 0)),
        Kind::NoNewPrivs => number(prctl(libc::PR_GET_NO_NEW_PRIVS, 0)),
        Kind::Seccomp => number(prctl(libc::PR_GET_SECCOMP, 0)),
    }
}

/// What [`take_back`] needs of the time before.
fn raw_value(kind: Kind) -> String {
    match kind {
        Kind::OomScoreAdj | Kind::LoginUid | Kind::Groups | Kind::Nice => read(kind),
        Kind::Limits => {
            let [soft, hard] = limit();
            format!("{soft} {hard}")
        }
        Kind::Umask | Kind::Personality | Kind::SigMask => read(kind),
        Kind::WorkingDirectory => read(kind),
        Kind::Name => read(kind),
        _ => String::new(),
    }
}

/// Sets the attribute back to what it was.
fn take_back(kind: Kind, original: &str) -> Result<i64, i32> {
    let numbers: Vec<i64> = original.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let text = std::ffi::CString::new(original).expect("no zero in it");
    match kind {
        Kind::Umask => call(libc::SYS_umask, [numbers[0], 0, 0, 0, 0]),
        Kind::Personality => call(libc::SYS_personality, [numbers[0], 0, 0, 0, 0]),
        Kind::SigMask => set_mask(numbers[0] as u64),
        Kind::WorkingDirectory => call(libc::SYS_chdir, [text.as_ptr() as i64, 0, 0, 0, 0]),
        Kind::Name => prctl(libc::PR_SET_NAME, text.as_ptr() as i64),
        Kind::OomScoreAdj => write("/proc/self/oom_score_adj", original),
        Kind::Cgroups => {
            write(&format!("{}/cgroup.procs", PLACE.get().expect("it was made").old.display()), "0")
        }
        Kind::LoginUid => write("/proc/thread-self/loginuid", original),
        Kind::Groups => set_groups(&numbers.iter().map(|group| *group as u32).collect::<Vec<_>>()),
        Kind::Nice => call(libc::SYS_setpriority, [0, 0, numbers[0], 0, 0]),
        Kind::Limits => {
            let words: Vec<u64> = original.split(' ').filter_map(|word| word.parse().ok()).collect();
            set_limit([words[0], words[1]])
        }
        kind => unset(kind),
    }
}

/// Takes a value away again, where it was none at the start.
fn unset(kind: Kind) -> Result<i64, i32> {
    match kind {
        // The way out of a chroot that a working directory outside of it leaves (chroot(2)).
        Kind::RootDirectory => {
            for _ in 0..16 {
                call(libc::SYS_chdir, [c"..".as_ptr() as i64, 0, 0, 0, 0])?;
            }
            call(libc::SYS_chroot, [c".".as_ptr() as i64, 0, 0, 0, 0])
        }
        Kind::Dumpable => prctl(libc::PR_SET_DUMPABLE, 1 - dumpable_to_set()),
        Kind::Subreaper => prctl(libc::PR_SET_CHILD_SUBREAPER, 0),
        Kind::ThpDisable => prctl(libc::PR_SET_THP_DISABLE, 0),
        Kind::SigActions => set_action([0; 4]),
        // A program that is executed is not registered any more; there is no other way back. The
        // checker knows none, either: it only ever adds.
        Kind::Membarrier => Err(libc::EINVAL),
        Kind::IntervalTimers => set_timer(0),
        Kind::PosixTimers => call(libc::SYS_timer_delete, [0; 5]),
        Kind::TimerIds => call(libc::SYS_prctl, [PR_TIMER_CREATE_RESTORE_IDS, 0, 0, 0, 0]),
        Kind::PendingShared | Kind::Pending => {
            let (set, now) = (1u64 << (SIGNAL - 1), [0i64; 2]);
            call(libc::SYS_rt_sigtimedwait, [address(&set), 0, address(&now), 8, 0])
        }
        Kind::MmLayout => set_mm(|words, _| words[10] += 8),
        Kind::AuxiliaryVector => set_mm(|_, auxv| auxv.drain(0..2).for_each(drop)),
        Kind::ParentDeathSignal => prctl(libc::PR_SET_PDEATHSIG, 0),
        Kind::TimerSlack | Kind::DefaultTimerSlack => prctl(libc::PR_SET_TIMERSLACK, 0),
        Kind::AltStack => set_stack([0, 2, 0]),
        Kind::RobustList => call(libc::SYS_set_robust_list, [0, 24, 0, 0, 0]),
        Kind::TidAddress => call(libc::SYS_set_tid_address, [0; 5]),
        Kind::Rseq => call(libc::SYS_rseq, [RSEQ.0.as_ptr() as i64, 32, 1, RSEQ_SIGNATURE, 0]),
        Kind::Scheduler => set_policy(libc::SCHED_OTHER as u32, 0),
        Kind::Uid => call(libc::SYS_setresuid, [0, -1, -1, 0, 0]),
        Kind::EffectiveUid => call(libc::SYS_setresuid, [-1, 0, -1, 0, 0]),
        Kind::SavedUid => call(libc::SYS_setresuid, [-1, -1, 0, 0, 0]),
        Kind::FsUid => call(libc::SYS_setfsuid, [0; 5]),
        Kind::Gid => call(libc::SYS_setresgid, [0, -1, -1, 0, 0]),
        Kind::EffectiveGid => call(libc::SYS_setresgid, [-1, 0, -1, 0, 0]),
        Kind::SavedGid => call(libc::SYS_setresgid, [-1, -1, 0, 0, 0]),
        Kind::FsGid => call(libc::SYS_setfsgid, [0; 5]),
        Kind::CapEffective | Kind::CapPermitted | Kind::CapInheritable => {
            let [effective, permitted, inheritable] = capabilities();
            try_capabilities(match kind {
                Kind::CapEffective => [effective | CAP_SYS_PACCT, permitted, inheritable],
                Kind::CapPermitted => [effective, permitted | CAP_SYS_PACCT, inheritable],
                _ => [effective, permitted, inheritable & !CAP_KILL],
            })
        }
        // There is no call that adds to it.
        Kind::CapBounding => Err(libc::EINVAL),
        Kind::CapAmbient => prctl_2(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL.into(), 0),
        Kind::Securebits => prctl(libc::PR_SET_SECUREBITS, 0),
        Kind::KeepCaps => prctl(libc::PR_SET_KEEPCAPS, 0),
        Kind::NoNewPrivs => prctl(libc::PR_SET_NO_NEW_PRIVS, 0),
        Kind::Seccomp => prctl(libc::PR_SET_SECCOMP, 0),
        // Those need to know what it was.
        Kind::Umask
        | Kind::WorkingDirectory
        | Kind::Limits
        | Kind::OomScoreAdj
        | Kind::Cgroups
        | Kind::Executable
        | Kind::Name
        | Kind::Personality
        | Kind::SigMask
        | Kind::Nice
        | Kind::LoginUid
        | Kind::Groups => Err(libc::ENOSYS),
    }
}

fn set_action(action: [u64; 4]) -> Result<i64, i32> {
    call(libc::SYS_rt_sigaction, [libc::SIGUSR2.into(), address(&action), 0, 8, 0])
}

fn set_mask(mask: u64) -> Result<i64, i32> {
    call(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK.into(), address(&mask), 0, 8, 0])
}

fn set_stack(stack: [u64; 3]) -> Result<i64, i32> {
    call(libc::SYS_sigaltstack, [address(&stack), 0, 0, 0, 0])
}

/// The real timer, first and then every so many seconds.
fn set_timer(seconds: i64) -> Result<i64, i32> {
    let timer = [seconds, 0, seconds, 0];
    call(libc::SYS_setitimer, [0, address(&timer), 0, 0, 0])
}

fn set_policy(policy: u32, priority: i32) -> Result<i64, i32> {
    call(libc::SYS_sched_setscheduler, [0, policy.into(), address(&priority), 0, 0])
}

fn set_groups(groups: &[u32]) -> Result<i64, i32> {
    call(libc::SYS_setgroups, [groups.len() as i64, groups.as_ptr() as i64, 0, 0, 0])
}

fn limit() -> [u64; 2] {
    let limit = [0u64; 2];
    expect(call(libc::SYS_prlimit64, [0, libc::RLIMIT_MSGQUEUE.into(), 0, address(&limit), 0]));
    look(&limit)
}

fn set_limit(limit: [u64; 2]) -> Result<i64, i32> {
    call(libc::SYS_prlimit64, [0, libc::RLIMIT_MSGQUEUE.into(), address(&limit), 0, 0])
}

/// Effective, permitted, inheritable.
fn capabilities() -> [u64; 3] {
    let (header, sets) = ([0x2008_0522u32, 0], [0u32; 6]);
    expect(call(libc::SYS_capget, [address(&header), address(&sets), 0, 0, 0]));
    let sets = look(&sets);
    [0, 1, 2].map(|at| u64::from(sets[at]) | u64::from(sets[at + 3]) << 32)
}

fn try_capabilities(sets: [u64; 3]) -> Result<i64, i32> {
    let header = [0x2008_0522u32, 0];
    let [a, b, c] = sets;
    let data = [a as u32, b as u32, c as u32, (a >> 32) as u32, (b >> 32) as u32, (c >> 32) as u32];
    call(libc::SYS_capset, [address(&header), address(&data), 0, 0, 0])
}

fn set_capabilities(sets: [u64; 3]) -> i64 {
    expect_value(try_capabilities(sets))
}

/// Addresses as `struct prctl_mm_map` has them, of proc_pid_stat(5), but for the break, which grows.
fn layout() -> [u64; 10] {
    let stat = file("/proc/self/stat");
    let (_, rest) = stat.rsplit_once(')').expect("a name in parentheses");
    let words: Vec<u64> = rest.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
    // start_code, end_code, start_data, end_data, start_brk, start_stack, arg_start, …, env_end.
    [26, 27, 45, 46, 47, 28, 48, 49, 50, 51].map(|number| words[number - 3])
}

fn auxiliary_vector() -> Vec<u64> {
    let path = "/proc/self/auxv";
    let bytes = fs::read(path).or_else(|_| {
        // It is the effective uid's, and may be read by nobody else.
        let _ = call(libc::SYS_setfsuid, [expect_value(call(libc::SYS_geteuid, [0; 5])), 0, 0, 0, 0]);
        fs::read(path)
    });
    let bytes = bytes.unwrap_or_else(|error| panic!("{path}: {error}"));
    bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().expect("eight"))).collect()
}

/// `PR_SET_MM_MAP` with something changed.
fn set_mm(change: impl FnOnce(&mut [u64; 13], &mut Vec<u64>)) -> Result<i64, i32> {
    let [code, code_end, data, data_end, heap, stack, args, args_end, env, env_end] = layout();
    let end = expect_value(call(libc::SYS_brk, [0; 5])) as u64;
    let mut auxv = auxiliary_vector();
    let mut words = [code, code_end, data, data_end, heap, end, stack, args, args_end, env, env_end, 0, 0];
    change(&mut words, &mut auxv);
    words[11] = auxv.as_ptr() as u64;
    // Its length, and no executable.
    words[12] = (auxv.len() as u64 * 8) | (u64::from(u32::MAX) << 32);
    let map = [libc::PR_SET_MM.into(), libc::PR_SET_MM_MAP.into(), address(&words), 8 * 13, 0];
    call(libc::SYS_prctl, map)
}

fn rseq_is_free() -> bool {
    let registered = call(libc::SYS_rseq, [RSEQ.0.as_ptr() as i64, 32, 0, RSEQ_SIGNATURE, 0]).is_ok();
    registered && call(libc::SYS_rseq, [RSEQ.0.as_ptr() as i64, 32, 1, RSEQ_SIGNATURE, 0]).is_ok()
}

fn inode_of(path: *const libc::c_char) -> u64 {
    // struct stat: device, inode.
    let stat = [0u64; 18];
    expect(call(libc::SYS_stat, [path as i64, address(&stat), 0, 0, 0]));
    look(&stat)[1]
}

fn link(name: &str) -> String {
    let path = format!("/proc/thread-self/{name}");
    fs::read_link(&path).unwrap_or_else(|error| panic!("{path}: {error}")).display().to_string()
}

fn file(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
}

fn write(path: &str, text: &str) -> Result<i64, i32> {
    fs::write(path, text).map(|()| 0).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
}

/// A line of the thread's `status`.
fn field(key: &str) -> String {
    let status = file("/proc/thread-self/status");
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key}")).trim().to_owned()
}

/// A number there, in this base.
fn status(key: &str, base: u32) -> String {
    u64::from_str_radix(&field(key), base).expect("a number").to_string()
}

fn ids(key: &str, at: usize) -> String {
    field(key).split_whitespace().nth(at).expect("four ids").to_owned()
}

fn pid() -> i64 {
    expect_value(call(libc::SYS_getpid, [0; 5]))
}

fn tid() -> i64 {
    expect_value(call(libc::SYS_gettid, [0; 5]))
}

fn prctl(option: i32, value: i64) -> Result<i64, i32> {
    call(libc::SYS_prctl, [option.into(), value, 0, 0, 0])
}

fn prctl_2(option: i32, value: i64, second: i64) -> Result<i64, i32> {
    call(libc::SYS_prctl, [option.into(), value, second, 0, 0])
}

/// The answer of a `PR_GET_*` that writes it.
fn written(option: i32) -> String {
    let value = 0u32;
    expect(prctl(option, address(&value)));
    look(&value).to_string()
}

/// Where the kernel may read and write it.
fn address<T>(value: &T) -> i64 {
    std::ptr::from_ref(value) as i64
}

/// What the kernel has written there.
fn look<T: Copy>(value: &T) -> T {
    // SAFETY: a valid reference; the kernel, which the compiler does not know of, may have written to it.
    unsafe { std::ptr::from_ref(value).read_volatile() }
}

fn expect(result: Result<i64, i32>) {
    expect_value(result);
}

fn expect_value(result: Result<i64, i32>) -> i64 {
    result.unwrap_or_else(|error| panic!("{}", std::io::Error::from_raw_os_error(error)))
}

fn call(number: libc::c_long, arguments: [i64; 5]) -> Result<i64, i32> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: private to this program, which passes live locals and statics of the sizes that the calls
    // read and write.
    let result = unsafe { libc::syscall(number, a, b, c, d, e) };
    if result == -1 { Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { Ok(result) }
}

/// What a child finds that is made by a bare fork.
fn in_child(find: impl FnOnce() -> String) -> String {
    let (reader, writer) = nix::unistd::pipe().expect("a pipe");
    // A fork without flags: no handler of the C library runs in the child, which has one thread.
    let child = expect_value(call(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0, 0]));
    if child == 0 {
        let found = find();
        let _ = nix::unistd::write(&writer, found.as_bytes());
        let _ = call(libc::SYS_exit_group, [0; 5]);
    }
    drop(writer);
    let mut found = String::new();
    fs::File::from(reader).read_to_string(&mut found).expect("text");
    let mut status = 0i32;
    expect(call(libc::SYS_wait4, [child, std::ptr::from_mut(&mut status) as i64, libc::__WALL.into(), 0, 0]));
    assert_eq!(status, 0, "the child has said why");
    found
}

/// What goes into a thread, and comes out of it.
struct Errand<'a> {
    find: Option<Box<dyn FnOnce() -> String + 'a>>,
    found: String,
    done: AtomicU32,
}

extern "C" fn run_errand(errand: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `in_thread` passes its errand and touches nothing of it but `done` until that is set.
    let errand = unsafe { &mut *errand.cast::<Errand<'_>>() };
    if let Some(find) = errand.find.take() {
        errand.found = find();
    }
    errand.done.store(1, Ordering::Release);
    0
}

/// What a thread finds that shares just what the runner's threads share.
fn in_thread(find: impl FnOnce() -> String) -> String {
    const STACK_BYTES: usize = 1 << 20;
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM;
    // Never given back: the thread may still be on it when it has said that it is done.
    let stack = Box::leak(vec![0u128; STACK_BYTES / 16].into_boxed_slice());
    let mut errand = Errand { find: Some(Box::new(find)), found: String::new(), done: AtomicU32::new(0) };
    let at = &raw mut errand;
    // SAFETY: the stack is the thread's alone and aligned; the errand outlives the thread's use of it, for
    // which this function waits. It shares thread-local storage with this thread, which only spins.
    let thread = unsafe {
        libc::clone(run_errand, stack.as_mut_ptr_range().end.cast(), flags, at.cast::<libc::c_void>())
    };
    assert!(thread > 0, "{}", std::io::Error::last_os_error());
    // SAFETY: an atomic of the live errand.
    while unsafe { (*at).done.load(Ordering::Acquire) } == 0 {
        std::hint::spin_loop();
    }
    // SAFETY: the thread has done with it.
    std::mem::take(unsafe { &mut (*at).found })
}
