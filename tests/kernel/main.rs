//! The model of the kernel (`regrow-model`) against the running kernel: random sequences of calls end in
//! the same state on both, and every call gives the same on the way.
//!
//! | module | holds |
//! |---|---|
//! | `generate` | the sequences |
//! | `call` | a call before it has addresses; the record that it becomes, and what the lifter makes of that |
//! | `player` | the kernel's side: plays records one at a time, in the order of the caller |
//! | `conform` | one sequence on both sides |
//! | `observe` | the kernel's state, in words |
//! | `modelled` | the model's state, in the same words |
//!
//! The records are those of tapes and go through the lifter: what the model plays is what the lifter
//! makes of what the kernel plays. They are not played by the runner, which keeps no results and
//! gives the whole tree up at the first failure, but by its sibling in `player`: half of the calls here
//! are to fail, and with the same error.
//!
//! All runs in fresh pid, mount and network namespaces, as their init: this binary starts itself
//! there. `REGROW_CASES` says how many sequences, `REGROW_SEED` which; those that failed once are kept in `failed.txt` and are
//! tried first.

#![allow(clippy::print_stdout, reason = "what is started in namespaces says what it found")]

#[path = "../support/mod.rs"]
mod support;

mod call;
mod conform;
mod generate;
mod modelled;
mod observe;
mod player;

use std::cell::RefCell;
use std::process::Command;

use proptest::test_runner::{Config, FileFailurePersistence, RngSeed, TestCaseError, TestError, TestRunner};

use proptest::strategy::{Strategy, ValueTree};
use regrow_graph::verify::{Attribute, Birth, Change, Effect, FdEffect, MemoryEffect, PrivilegeEffect};

use conform::{Counts, Mutation};

/// A model with a rule turned off, or turned.
pub(crate) struct Mutant {
    name: &'static str,
    change: fn(&Effect) -> Mutation,
}

fn in_namespaces(test: &str) {
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        support::skip("only root can choose pids");
        return;
    }
    let own = std::env::current_exe().expect("our own path");
    let output = Command::new("unshare")
        .args(["--pid", "--mount", "--net", "--fork", "--kill-child", "--mount-proc"])
        .arg(own)
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        // The area is the C library's; tasks have nothing but the window.
        .env("GLIBC_TUNABLES", "glibc.pthread.rseq=0")
        .output()
        .expect("unshare(1) runs");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    for line in said.lines().filter(|line| line.starts_with("note: ")) {
        support::say(line);
    }
}

#[test]
fn the_model_is_as_the_kernel() {
    in_namespaces("sequences_in_namespaces");
}

fn prepare() -> player::Window {
    let none: Option<&str> = None;
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(none, generate::DIRECTORY, Some("tmpfs"), flags, none).expect("a tmpfs");
    nix::unistd::setsid().expect("a session");
    // What whoever started us ignores, tasks would, too; also signals that the C library keeps for itself.
    let default = [0u64; 4];
    for signal in 1..=64u64 {
        if signal != libc::SIGSEGV as u64 && signal != libc::SIGBUS as u64 {
            // SAFETY: the action is live, and the default needs no handler.
            unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), 0, 8) };
        }
    }
    player::Window::map()
}

/// The same sequences in every run of the tests; others where more of them are asked for, or by `REGROW_SEED`.
fn seed() -> RngSeed {
    if let Some(seed) = std::env::var("REGROW_SEED").ok().and_then(|text| text.parse().ok()) {
        return RngSeed::Fixed(seed);
    }
    if std::env::var_os("REGROW_CASES").is_some() { RngSeed::Random } else { RngSeed::Fixed(5) }
}

fn cases(least: u32) -> u32 {
    std::env::var("REGROW_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(least)
}

#[test]
#[ignore = "is run by the_model_is_as_the_kernel, in namespaces of its own"]
fn sequences_in_namespaces() {
    let window = prepare();
    let failed = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernel/failed.txt");
    let config = Config {
        cases: cases(CASES),
        rng_seed: seed(),
        max_shrink_iters: 1000,
        max_shrink_time: 20_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(failed))),
        ..Config::default()
    };
    let counts = RefCell::new(Counts::default());
    for steps in (0..TIMES).flat_map(|_| generate::scenes()) {
        if let Err(why) = conform::run(&window, &steps, None, &mut counts.borrow_mut()) {
            panic!("{steps:#?}\n{why}");
        }
    }
    let mut runner = TestRunner::new(config);
    let result = runner.run(&generate::cases(), |steps| {
        conform::run(&window, &steps, None, &mut counts.borrow_mut()).map_err(TestCaseError::fail)
    });
    let counts = counts.into_inner();
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, steps)) => panic!("{steps:#?}\n{}", why.message()),
        Err(error) => panic!("{error}"),
    }
    check_coverage(&counts);
}

/// Calls that cannot fail with the arguments that they are given here, or that never return.
const NEVER_FAIL: [&str; 17] = [
    "exit_group",
    "kill",
    "memfd_create",
    "prctl(PR_SET_CHILD_SUBREAPER)",
    "prctl(PR_SET_KEEPCAPS)",
    "prctl(PR_SET_NAME)",
    "prctl(PR_SET_NO_NEW_PRIVS)",
    "prctl(PR_SET_THP_DISABLE)",
    "prctl(PR_SET_TIMERSLACK)",
    "rt_sigaction",
    "rt_sigprocmask",
    "setfsgid",
    "setfsuid",
    "setgroups",
    "setpriority",
    "setresuid",
    "umask",
];

/// Every kind of call has succeeded, and every kind that can has failed.
fn check_coverage(counts: &Counts) {
    let mut missing = Vec::new();
    for (name, count) in &counts.calls {
        if count.done + count.died == 0 {
            missing.push(format!("{name} never succeeded: {count:?}"));
        }
        if count.failed == 0 && !NEVER_FAIL.contains(name) {
            missing.push(format!("{name} never failed: {count:?}"));
        }
    }
    let blocked: u32 = counts.calls.values().map(|count| count.blocked).sum();
    if blocked == 0 {
        missing.push("no call ever waited".to_owned());
    }
    assert!(counts.calls.len() >= KINDS, "{} kinds of calls", counts.calls.len());
    assert!(missing.is_empty(), "{missing:#?}");
    let sum = |of: fn(&conform::Count) -> u32| counts.calls.values().map(of).sum::<u32>();
    println!(
        "note: {} kinds of calls: {} succeeded, {} failed in {} ways, {blocked} waited; {} were not tried",
        counts.calls.len(),
        sum(|count| count.done + count.died),
        sum(|count| count.failed),
        counts.errors.len(),
        sum(|count| count.unknown),
    );
    println!(
        "note: {} descriptors came in messages, of {} messages not all",
        counts.received, counts.truncated
    );
    // The scenes have that many.
    assert!(counts.received >= 4 * TIMES && counts.truncated >= TIMES, "too few descriptors in messages");
    if std::env::var_os("REGROW_CASES").is_some() {
        for (reason, count) in &counts.reasons {
            println!("note: {count:6} times {reason}");
        }
    }
}

/// How many sequences a run of the tests has, and how many kinds of calls are in them at least.
const CASES: u32 = 500;
const KINDS: usize = 80;
/// How often calls are made that random sequences hardly ever come to.
const TIMES: u32 = 4;

fn nothing(effect: &Effect, is_it: bool) -> Mutation {
    let _ = effect;
    if is_it { Mutation::Nothing(0) } else { Mutation::Same }
}

fn other(effect: Effect) -> Mutation {
    Mutation::As(Box::new(effect))
}

/// A receiving with other room for descriptors, that takes the message or not, with another flag.
fn received(effect: &FdEffect, change: fn((&mut u32, &mut bool, &mut bool))) -> FdEffect {
    let mut effect = effect.clone();
    if let FdEffect::Receive { rights, stays, cloexec, .. } = &mut effect {
        change((rights, stays, cloexec));
    }
    effect
}

/// Rules of the model that are turned off, or turned; each must be noticed.
const MUTANTS: [Mutant; 26] = [
    Mutant {
        name: "close closes nothing",
        change: |e| nothing(e, matches!(e, Effect::Fd(FdEffect::Close { .. }))),
    },
    Mutant {
        name: "close_range closes nothing",
        change: |e| nothing(e, matches!(e, Effect::Fd(FdEffect::CloseRange { only_mark: false, .. }))),
    },
    Mutant {
        name: "a copy is closed on exec when it is not, and the other way round",
        change: |e| match e {
            Effect::Fd(FdEffect::Dup { from, to, cloexec }) => {
                other(Effect::Fd(FdEffect::Dup { from: *from, to: *to, cloexec: !cloexec }))
            }
            _ => Mutation::Same,
        },
    },
    Mutant {
        name: "F_SETFD sets nothing",
        change: |e| nothing(e, matches!(e, Effect::Fd(FdEffect::SetCloexec { .. }))),
    },
    Mutant {
        name: "F_SETFL sets nothing",
        change: |e| nothing(e, matches!(e, Effect::Object { change: Change::SetStatus { .. }, .. })),
    },
    Mutant {
        name: "what is written loses its last byte",
        change: |e| match e {
            Effect::Object { fd, change: Change::Write { data } } if data.len() > 8 => {
                let mut data = data.clone();
                if let Some(last) = data.last_mut() {
                    *last ^= 1;
                }
                other(Effect::Object { fd: *fd, change: Change::Write { data } })
            }
            _ => Mutation::Same,
        },
    },
    Mutant {
        name: "a position is one off",
        change: |e| match e {
            Effect::Object { fd, change: Change::Seek { position } } => {
                other(Effect::Object { fd: *fd, change: Change::Seek { position: position + 1 } })
            }
            _ => Mutation::Same,
        },
    },
    Mutant {
        name: "shutdown shuts the other direction",
        change: |e| match e {
            Effect::Object { fd, change: Change::Shutdown { bits, connected } } if *bits < 3 => {
                other(Effect::Object {
                    fd: *fd,
                    change: Change::Shutdown { bits: 3 - bits, connected: *connected },
                })
            }
            _ => Mutation::Same,
        },
    },
    Mutant {
        name: "descriptors that are sent get lost",
        change: |e| match e {
            Effect::Object { fd, change: Change::Send { data, never_blocks, .. } } => other(Effect::Object {
                fd: *fd,
                change: Change::Send { data: data.clone(), rights: Vec::new(), never_blocks: *never_blocks },
            }),
            _ => Mutation::Same,
        },
    },
    Mutant {
        name: "who looks at a message takes it",
        change: |e| match e {
            Effect::Fd(effect @ FdEffect::Receive { stays: true, .. }) => {
                other(Effect::Fd(received(effect, |it| *it.1 = false)))
            }
            _ => Mutation::Same,
        },
    },
    Mutant {
        name: "what is received is closed on exec when it is not, and the other way round",
        change: |e| match e {
            Effect::Fd(effect @ FdEffect::Receive { .. }) => {
                other(Effect::Fd(received(effect, |it| *it.2 ^= true)))
            }
            _ => Mutation::Same,
        },
    },
    Mutant {
        name: "there is room for one descriptor more",
        change: |e| match e {
            Effect::Fd(effect @ FdEffect::Receive { .. }) => {
                other(Effect::Fd(received(effect, |it| *it.0 += 1)))
            }
            _ => Mutation::Same,
        },
    },
    Mutant {
        name: "tables have no limit",
        change: |e| nothing(e, matches!(e, Effect::Privilege(PrivilegeEffect::Limit { .. }))),
    },
    Mutant {
        name: "a name is not taken",
        change: |e| nothing(e, matches!(e, Effect::Object { change: Change::Bind { .. }, .. })),
    },
    Mutant {
        name: "who listens does not listen",
        change: |e| nothing(e, matches!(e, Effect::Object { change: Change::Listen { .. }, .. })),
    },
    Mutant {
        name: "epoll watches nothing",
        change: |e| nothing(e, matches!(e, Effect::Object { change: Change::Watch { .. }, .. })),
    },
    Mutant {
        name: "a child has its parent's table",
        change: |e| match e {
            Effect::Fork(birth) if birth.flags == 0 => other(Effect::Fork(Birth { flags: 0x400, ..*birth })),
            _ => Mutation::Same,
        },
    },
    Mutant {
        name: "a sibling is a child",
        change: |e| match e {
            Effect::Fork(birth) if birth.flags == 0x8000 => {
                other(Effect::Fork(Birth { flags: 0, exit_signal: 17, ..*birth }))
            }
            _ => Mutation::Same,
        },
    },
    Mutant {
        name: "a session is not founded",
        change: |e| match e {
            Effect::SetSid => other(Effect::SetPgid { pgid: 0 }),
            _ => Mutation::Same,
        },
    },
    Mutant { name: "a group is not joined", change: |e| nothing(e, matches!(e, Effect::SetPgid { .. })) },
    Mutant {
        name: "orphans go past subreapers",
        change: |e| nothing(e, matches!(e, Effect::Attribute(Attribute::Subreaper(_)))),
    },
    Mutant {
        name: "the dead stay",
        change: |e| match e {
            Effect::AwaitExit { pid, reap: true } => other(Effect::AwaitExit { pid: *pid, reap: false }),
            _ => Mutation::Same,
        },
    },
    Mutant {
        name: "protections do not change",
        change: |e| nothing(e, matches!(e, Effect::Memory(MemoryEffect::Protect { .. }))),
    },
    Mutant {
        name: "shared memory is private",
        change: |e| match e {
            Effect::Memory(MemoryEffect::Map { at, len, prot, flags, file }) if flags & 3 == 1 => {
                let flags = flags & !3 | 2;
                other(Effect::Memory(MemoryEffect::Map {
                    at: *at,
                    len: *len,
                    prot: *prot,
                    flags,
                    file: *file,
                }))
            }
            _ => Mutation::Same,
        },
    },
    Mutant {
        name: "what is not to be inherited is",
        change: |e| match e {
            Effect::Memory(MemoryEffect::Advise { at, len, advice: 10 }) => {
                other(Effect::Memory(MemoryEffect::Advise { at: *at, len: *len, advice: 16 }))
            }
            _ => Mutation::Same,
        },
    },
    Mutant {
        name: "capabilities are not lost",
        change: |e| nothing(e, matches!(e, Effect::Privilege(PrivilegeEffect::Capabilities { .. }))),
    },
];

#[test]
fn a_wrong_model_is_noticed() {
    in_namespaces("mutants_in_namespaces");
}

#[test]
#[ignore = "is run by a_wrong_model_is_noticed, in namespaces of its own"]
fn mutants_in_namespaces() {
    let window = prepare();
    let mut runner = TestRunner::new(Config { rng_seed: seed(), ..Config::default() });
    // A case that the right model plays as the kernel, and the wrong one does not.
    let mut left: Vec<&Mutant> = MUTANTS.iter().collect();
    for _ in 0..MOST {
        if left.is_empty() {
            println!("note: {} wrong models noticed", MUTANTS.len());
            return;
        }
        let steps = generate::cases().new_tree(&mut runner).expect("a case").current();
        let mut counts = Counts::default();
        if let Err(why) = conform::run(&window, &steps, None, &mut counts) {
            panic!("{steps:#?}\n{why}");
        }
        let effects = std::mem::take(&mut counts.effects);
        let concerns =
            |mutant: &Mutant| effects.iter().any(|effect| !matches!((mutant.change)(effect), Mutation::Same));
        left.retain(|mutant| {
            !concerns(mutant) || conform::run(&window, &steps, Some(mutant), &mut counts).is_ok()
        });
    }
    panic!("not noticed: {:#?}", left.iter().map(|mutant| mutant.name).collect::<Vec<_>>());
}

/// So many cases are enough to notice any of them.
const MOST: u32 = 2000;
