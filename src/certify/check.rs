//! Whether tapes do what is expected of them: what is lifted goes to [`regrow_graph::verify`], and what the
//! records do not show (notes for the launcher, clocks, names to be removed) is compared here.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use regrow_graph::verify::{
    Certificate, Counterexample, Effects, Expected, Facts, InodeKind, Wrong, verify_with,
};

use super::{Demands, DumpedClocks, Ground, cgroups, commit, space};
use crate::image::Model;
use crate::runner;
use crate::tape::abi::{Record, Verb};
use crate::tape::lift::{LazyTree, LiftError, lift};
use crate::tape::{Tapes, TaskTape, ThreadState, Undo, UndoKind};

/// Tasks that are looked at by one job.
const TASKS: usize = 32;

/// Checks that `tapes` do what the images say, on this ground, and that the commit then sets what
/// they say; `None`: there is to be no commit.
///
/// # Errors
/// The first step at which they part.
pub fn certify(
    model: &Model,
    tapes: &Tapes,
    ground: &Ground,
    threads: Option<&[ThreadState]>,
) -> Result<Certificate, Counterexample> {
    check(&Demands::of(model, ground)?, tapes, threads)
}

/// Checks that `tapes` do what is demanded, and that the commit then sets what is; `None`: there is to be
/// no commit. Neither the host nor the images are looked at, but for pages that are inherited.
///
/// # Errors
/// The first step at which they part.
pub fn check(
    demands: &Demands,
    tapes: &Tapes,
    threads: Option<&[ThreadState]>,
) -> Result<Certificate, Counterexample> {
    let not_understood = |LiftError { pid, record, what }| Counterexample {
        task: pid,
        record,
        wrong: Wrong::NotUnderstood { what },
    };
    let lazy = LazyTree::of(tapes).map_err(not_understood)?;
    let certificate = check_effects(demands, tapes, &lazy, threads);
    if certificate.is_err() && !lazy.are_understood() {
        // What is not understood is said before anything else, and of the first record that is not.
        let tree = lift(tapes).map_err(not_understood)?;
        return check_effects(demands, tapes, &tree, threads);
    }
    lazy.give_back();
    certificate
}

/// As [`check`], of tapes that are lifted meanwhile.
fn check_effects(
    demands: &Demands,
    tapes: &Tapes,
    effects: &dyn Effects,
    threads: Option<&[ThreadState]>,
) -> Result<Certificate, Counterexample> {
    let root = effects.root().pid;
    // The effects of records are those of this runner, no other.
    let reads = |address: u64, bytes: &[u8]| {
        address >= tapes.ro_base() && tapes.bytes(address, bytes.len() as u64) == Some(bytes)
    };
    let sigchld = 1u64 << (libc::SIGCHLD - 1);
    let strange = if !reads(tapes.code, runner::code()) {
        Some("the tapes come with another runner")
    } else if !reads(tapes.sigchld_set, &sigchld.to_ne_bytes()) || !reads(tapes.no_time, &[0; 16]) {
        Some("what the commit reads is not a set of SIGCHLD and no time")
    } else {
        None
    };
    if let Some(what) = strange {
        let wrong = Wrong::NotUnderstood { what: what.to_owned() };
        return Err(Counterexample { task: root, record: None, wrong });
    }
    check_clocks(&demands.clocks, tapes, &demands.expected.facts, root)?;
    let expected = demands.expected_now(tapes.clocks_ns);
    let beside = || {
        if let Some(threads) = threads {
            let window = tapes.base..tapes.base.saturating_add(tapes.window_len);
            commit::check(&demands.threads, threads, &window)?;
        }
        check_undo(tapes, &expected)?;
        check_spent(tapes, &expected)?;
        cgroups::check(&demands.cgroups, tapes, &expected)
    };
    let executed = || {
        let known = space::Known { dirs: &expected.images, pages: &demands.alike };
        let mut reader = space::Reader::of(known);
        verify_with(effects, &expected, &|alike| known.has(alike), &mut |alike| reader.is_alike(alike))
    };
    // Whatever both find, what is beside is said.
    let (certificate, beside) = rayon::join(executed, beside);
    beside.and(certificate)
}

/// Whether the launcher would find every name that a task makes: each has a note of its own, whose
/// flags are set just before, just after, and when the name is gone. Those of sockets are
/// [`verify_with`]'s: their names are not in the records alone.
fn check_undo(tapes: &Tapes, expected: &Expected) -> Result<(), Counterexample> {
    // By the word that says that the name is about to be made.
    let mut free: BTreeMap<u64, Vec<&Undo>> = BTreeMap::new();
    for undo in &tapes.undo {
        free.entry(undo.intent).or_default().push(undo);
    }
    let names_files =
        |task: &&TaskTape| tapes.records(task).any(|(_, record)| makes_or_removes(&record) != (false, false));
    // Few tasks do.
    let tasks: Vec<&TaskTape> = tapes.tasks.par_iter().with_min_len(TASKS).filter(names_files).collect();
    for task in tasks {
        let records: Vec<Record> = tapes.records(task).map(|(_, record)| record).collect();
        let posts = |at: Option<usize>, word: u64| {
            let record = at.and_then(|at| records.get(at));
            record.is_some_and(|record| {
                record.verb() == Some(Verb::Post) && tapes.base.checked_add(word) == Some(record.args[0])
            })
        };
        let wrong = |at: usize, path: &[u8], what: &str| Counterexample {
            task: task.pid,
            record: Some(at as u32),
            wrong: Wrong::NotUnderstood { what: format!("{}: {what}", path.escape_ascii()) },
        };
        let mut open: BTreeMap<&[u8], Vec<&Undo>> = BTreeMap::new();
        for (at, record) in records.iter().enumerate() {
            let (makes, removes) = makes_or_removes(record);
            if !makes && !removes {
                continue;
            }
            let nr = libc::c_long::from(record.nr);
            let path_at = if nr == libc::SYS_linkat { record.args[3] } else { record.args[1] };
            let path = tapes.c_string(path_at).unwrap_or_default();
            if removes {
                let is_plain = nr == libc::SYS_unlinkat && record.args[2] == 0;
                if is_plain
                    && expected.socket_paths.contains(path)
                    && open.get(path).is_none_or(Vec::is_empty)
                {
                    continue;
                }
                let Some(undo) = open.get_mut(path).and_then(Vec::pop) else {
                    return Err(wrong(at, path, "is removed, and nothing says that it was made"));
                };
                if !posts(Some(at + 1), undo.gone) {
                    return Err(wrong(at, path, "is removed, and the launcher is not told"));
                }
                continue;
            }
            let is_this = |undo: &&Undo| {
                let named = match undo.kind {
                    UndoKind::File => matches!(nr, libc::SYS_openat | libc::SYS_mknodat) && undo.path == path,
                    UndoKind::Directory => nr == libc::SYS_mkdirat && undo.path == path,
                    UndoKind::Link => nr == libc::SYS_linkat && is_pair(&undo.path, record, tapes),
                    UndoKind::Socket => false,
                    UndoKind::ChangedPlaces => {
                        nr == libc::SYS_openat && undo.path.split(|byte| *byte == 0).next() == Some(path)
                    }
                };
                named && posts(at.checked_sub(1), undo.intent) && posts(Some(at + 1), undo.made)
            };
            let before = at.checked_sub(1).and_then(|before| records.get(before));
            let word = before.and_then(|record| record.args[0].checked_sub(tapes.base));
            let notes = word.and_then(|word| free.get_mut(&word));
            let note = notes.and_then(|notes| {
                let index = notes.iter().position(is_this)?;
                Some(notes.remove(index))
            });
            let Some(note) = note else {
                return Err(wrong(at, path, "is made, and the launcher would not remove it after a failure"));
            };
            open.entry(path).or_default().push(note);
        }
    }
    Ok(())
}

/// Whether a record makes a name in the file system, and whether it removes one.
fn makes_or_removes(record: &Record) -> (bool, bool) {
    if record.verb() != Some(Verb::Syscall) {
        return (false, false);
    }
    let nr = libc::c_long::from(record.nr);
    let makes = matches!(nr, libc::SYS_mkdirat | libc::SYS_mknodat | libc::SYS_linkat)
        || nr == libc::SYS_openat && record.args[2] & libc::O_CREAT as u64 != 0;
    let removes = nr == libc::SYS_unlinkat || nr == libc::SYS_renameat2 && record.args[4] == 0;
    (makes, removes)
}

/// Whether the clocks never run backwards: in a time namespace they go on from the dump, and without one
/// the host's are further on. A tree that had a time namespace has one again.
fn check_clocks(
    clocks: &DumpedClocks,
    tapes: &Tapes,
    facts: &Facts,
    root: u32,
) -> Result<(), Counterexample> {
    let dumped = clocks.dumped_ns;
    let host = [facts.clocks_ns[1], facts.clocks_ns[2]];
    let is_right = match (tapes.clocks_ns, dumped) {
        (Some(is), Some(dumped)) => is == dumped,
        (Some(_), None) => false,
        (None, _) if clocks.are_own => false,
        (None, Some(dumped)) => host.iter().zip(dumped).all(|(now, then)| now.is_none_or(|now| now >= then)),
        (None, None) => true,
    };
    if is_right {
        return Ok(());
    }
    let shown = |clocks: Option<[u64; 2]>| match clocks {
        Some([monotonic, boottime]) => format!("go on from {monotonic} and {boottime} ns"),
        None => "are the host's".to_owned(),
    };
    let wrong = Wrong::WrongClocks { is: shown(tapes.clocks_ns), wanted: shown(dumped) };
    Err(Counterexample { task: root, record: None, wrong })
}

/// Whether what is removed when the tree lives is what CRIU left for this: the other names of files that
/// had lost theirs.
fn check_spent(tapes: &Tapes, expected: &Expected) -> Result<(), Counterexample> {
    let linked = expected.inodes.values().filter(|inode| inode.kind == InodeKind::Linked);
    let names: BTreeSet<&[u8]> = linked.map(|inode| inode.source.as_slice()).collect();
    match tapes.spent.iter().find(|path| !names.contains(path.as_slice())) {
        Some(path) => Err(Counterexample {
            task: tapes.tasks.first().map_or(0, |task| task.pid),
            record: None,
            wrong: Wrong::NotUnderstood {
                what: format!("{} would be removed in the end, and is no link remap", path.escape_ascii()),
            },
        }),
        None => Ok(()),
    }
}

/// Whether a note of a further name has the two names of a `linkat(2)`: the new one first.
fn is_pair(note: &[u8], record: &Record, tapes: &Tapes) -> bool {
    let [old, new] = [record.args[1], record.args[3]].map(|at| tapes.c_string(at).unwrap_or_default());
    note == [new, b"\0", old].concat()
}
