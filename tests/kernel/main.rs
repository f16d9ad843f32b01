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
//! there. `REGROW_CASES` says how many sequences; those that failed once are kept in `failed.txt` and are
//! tried first.

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

use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestError, TestRunner};

use conform::{Counts, Mutation};

/// A model with a rule turned off, or turned.
pub(crate) struct Mutant {
    name: &'static str,
    change: fn(&regrow_graph::verify::Effect) -> Mutation,
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
    player::Window::map()
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
        cases: cases(200),
        max_shrink_iters: 1000,
        max_shrink_time: 20_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(failed))),
        ..Config::default()
    };
    let counts = RefCell::new(Counts::default());
    let mut runner = TestRunner::new(config);
    let result = runner.run(&generate::cases(), |steps| {
        conform::run(&window, &steps, None, &mut counts.borrow_mut()).map_err(TestCaseError::fail)
    });
    let counts = counts.into_inner();
    for (name, count) in &counts.calls {
        println!("{name:34} {count:?}");
    }
    for (reason, count) in &counts.reasons {
        println!("{count:6} {reason}");
    }
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, steps)) => panic!("{steps:#?}\n{}", why.message()),
        Err(error) => panic!("{error}"),
    }
}

#[test]
#[ignore = "survey"]
fn survey() {
    use proptest::strategy::{Strategy, ValueTree};
    let window = prepare();
    let mut runner = TestRunner::new(Config::default());
    let mut counts = Counts::default();
    let mut found: std::collections::BTreeMap<String, (u32, String)> = Default::default();
    for _ in 0..cases(200) {
        let steps = generate::cases().new_tree(&mut runner).unwrap().current();
        let r = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            conform::run(&window, &steps, None, &mut counts)
        }));
        let why = match r {
            Ok(Ok(())) => continue,
            Ok(Err(why)) => why,
            Err(_) => "PANIC".to_owned(),
        };
        let lines: Vec<&str> = why.lines().collect();
        let key = if lines.last().unwrap().starts_with("the model says") || lines.len() < 3 {
            let l = if lines.len() < 2 {
                why.clone()
            } else {
                let call = lines[lines.len() - 2];
                let name = call.split_once(": ").unwrap().1.split('[').next().unwrap();
                format!(
                    "{} ={} {}",
                    name.split(": ").last().unwrap(),
                    call.rsplit_once('=').unwrap().1,
                    lines.last().unwrap()
                )
            };
            l
        } else {
            let k = lines
                .iter()
                .rposition(|l| l.starts_with("  kernel"))
                .map(|i| lines[i - 1])
                .unwrap_or(lines.last().unwrap());
            let fact: String = k.chars().filter(|c| !c.is_ascii_digit()).collect();
            fact
        };
        let e = found.entry(key).or_insert((0, why.clone()));
        e.0 += 1;
        if why.len() < e.1.len() {
            e.1 = why;
        }
    }
    for (key, (n, why)) in &found {
        let lines: Vec<&str> = why.lines().skip(8).collect();
        println!("###### {n} {key}");
        for l in lines.iter().rev().take(24).rev() {
            println!("{}", l.chars().take(230).collect::<String>());
        }
    }
    println!("{} kinds", found.len());
    for (name, count) in &counts.calls {
        println!("{name:34} {count:?}");
    }
    for (reason, count) in &counts.reasons {
        println!("{count:6} {reason}");
    }
}
