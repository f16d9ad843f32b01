//! The command line: what it prints where, and its exit codes.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

fn pair() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/pair/images")
}

/// A copy of the images, to damage.
fn copy() -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(pair()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

fn regrow(args: &[&str], dir: Option<&Path>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_regrow")).args(args).args(dir).output().unwrap()
}

/// Runs a command that must fail: nothing on standard output, and all of `said` on standard error.
#[track_caller]
fn check_refusal(args: &[&str], dir: &Path, code: i32, said: &[&str]) {
    let output = regrow(args, Some(dir));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty());
    for text in said {
        assert!(stderr.contains(text), "{text:?} is not in:\n{stderr}");
    }
}

#[test]
fn help_lists_all_subcommands() {
    let output = regrow(&["--help"], None);
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for name in ["inspect", "check", "plan", "tape", "verify", "restore", "demo"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(name)), "{name} is not in:\n{help}");
        assert!(regrow(&[name, "--help"], None).status.success(), "{name}");
    }
}

#[test]
fn inspect_prints_a_tree() {
    let output = regrow(&["inspect"], Some(&pair()));
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("4711 pair"), "{text}");
    assert!(text.contains("└─ 4713 pair-child"), "{text}");
}

#[test]
fn inspect_prints_json() {
    let output = regrow(&["inspect", "--json"], Some(&pair()));
    assert_eq!(output.status.code(), Some(0));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["format"], "regrow-inspect/1");
    assert_eq!(json["totals"]["tasks"], 2);
    assert_eq!(json["totals"]["descriptors"], 11);
    let pids: Vec<&Value> = json["tasks"].as_array().unwrap().iter().map(|task| &task["pid"]).collect();
    assert_eq!(pids, [4711, 4713]);
    assert_eq!(json["tasks"][1]["ppid"], 4711);
    let pipe = json["descriptions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["kind"] == "pipe" && one["end"] == "read")
        .unwrap();
    let holders: Vec<(&Value, &Value)> =
        pipe["holders"].as_array().unwrap().iter().map(|holder| (&holder["pid"], &holder["fd"])).collect();
    assert_eq!(holders, [(&4711.into(), &3.into()), (&4713.into(), &3.into())]);
}

#[test]
fn inspect_of_one_task() {
    let output = regrow(&["inspect", "--json", "--task", "4713"], Some(&pair()));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["tasks"].as_array().unwrap().len(), 1);
    assert_eq!(json["totals"]["tasks"], 2);
    for command in ["inspect", "plan"] {
        let output = regrow(&[command, "--task", "1"], Some(&pair()));
        assert_ne!(output.status.code(), Some(0), "{command}");
    }
}

#[test]
fn a_truncated_image() {
    let dir = copy();
    let path = dir.path().join("files.img");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 7]).unwrap();
    for command in ["inspect", "plan", "tape"] {
        check_refusal(&[command], dir.path(), 3, &["files.img", "truncated"]);
    }
}

#[test]
fn all_errors_are_listed() {
    let dir = copy();
    fs::write(dir.path().join("core-4713.img"), [0; 8]).unwrap();
    fs::remove_file(dir.path().join("mm-4711.img")).unwrap();
    check_refusal(&["inspect"], dir.path(), 3, &["core-4713.img", "mm-4711.img"]);
}

#[test]
fn no_directory() {
    check_refusal(&["inspect", "--json"], Path::new("/nonexistent"), 3, &["bad images"]);
}

#[test]
fn an_unknown_image() {
    let dir = copy();
    fs::write(dir.path().join("novelty.img"), [0x42; 16]).unwrap();
    check_refusal(&["inspect"], dir.path(), 6, &["novelty.img"]);
}
