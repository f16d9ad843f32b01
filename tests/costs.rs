//! Tables of costs: `regrow calibrate`, `--costs`, and `regrow explain` on a real dump.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::dumped::Dumped;

fn pair() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/pair/images")
}

fn regrow() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regrow"));
    command.env_remove("REGROW_COSTS");
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn what_is_measured_can_be_planned_with() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("costs.json");
    let measured =
        regrow().args(["calibrate", "--quick", "--format", "json", "--out"]).arg(&file).output().unwrap();
    assert!(measured.status.success(), "{}", text(&measured));
    let calibration: Value = serde_json::from_slice(&measured.stdout).unwrap();
    let kept: Vec<&Value> = calibration["constants"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| !row["measured_ns"].is_number())
        .collect();
    // As root all of it can be measured; otherwise it is said of each constant why it cannot.
    if nix::unistd::geteuid().is_root() {
        assert!(kept.is_empty(), "{kept:?}");
    }
    assert!(kept.iter().all(|row| row["kept_because"].is_string()), "{kept:?}");
    let of = |name: &str| {
        let rows = calibration["constants"].as_array().unwrap();
        let row = rows.iter().find(|row| row["constant"] == name).unwrap();
        row["measured_ns"].as_f64().unwrap_or_else(|| row["built_in_ns"].as_f64().unwrap())
    };
    // On every machine: a fork is dearer than a call, a descriptor more in a message cheaper than a message.
    assert!(of("fork_ns") > 10.0 * of("call_ns"));
    assert!(of("send_fd_ns") < of("send_ns"));
    assert!(of("fork_page_ns") < of("fill_page_ns"));

    let table: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(table["format"], "regrow-costs/1");
    assert_eq!(table["costs"]["fork_ns"].as_f64().unwrap(), of("fork_ns"));
    let predicted = |variable: &Path, option: Option<&Path>| -> u64 {
        let mut command = regrow();
        command.env("REGROW_COSTS", variable).args(["plan", "--format", "json"]).arg(pair());
        let output = command.args(option.map(|_| "--costs")).args(option).output().unwrap();
        let view: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
        view["summary"]["work_ns"].as_u64().unwrap()
    };
    // The option and the variable do the same, and the option comes first.
    let mut dear = table.clone();
    dear["costs"]["fork_ns"] = 1e9.into();
    let dear_file = dir.path().join("dear.json");
    fs::write(&dear_file, dear.to_string()).unwrap();
    assert!(predicted(&dear_file, None) > 1_000_000_000);
    let by_table = predicted(&file, None);
    assert!(by_table > of("fork_ns") as u64 && by_table < 1_000_000_000, "{by_table}");
    assert_eq!(predicted(&dear_file, Some(&file)), by_table);
}

#[test]
fn bad_tables_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.json");
    let check = |content: &str, words: &str| {
        fs::write(&file, content).unwrap();
        for command in [&["plan"][..], &["check"], &["explain", "task", "4711"], &["tape"]] {
            let output =
                regrow().args(command).arg("-D").arg(pair()).arg("--costs").arg(&file).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{command:?}: {}", text(&output));
            assert!(output.stdout.is_empty());
            assert!(said.contains("bad.json") && said.contains(words), "{command:?}: {said}");
        }
    };
    check("fork = 3", "no file of costs");
    check("{\"format\": \"regrow-costs/9\"}", "its format is \"regrow-costs/9\"");
    let output = regrow().args(["restore", "-D"]).arg(pair()).arg("--costs").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("bad.json"));
    let output = regrow().args(["plan", "--costs", "/nowhere/costs"]).arg(pair()).output().unwrap();
    assert!(text(&output).contains("/nowhere/costs: No such file"), "{}", text(&output));
}

/// The two policies beside one another: the same tree, and what each does for it.
#[test]
fn policies_are_compared() {
    let output = regrow().args(["plan", "--compare", "--format", "json"]).arg(pair()).output().unwrap();
    let comparison: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
    assert_eq!(comparison["format"], "regrow-comparison/1");
    let [inherit, lowest] = comparison["plans"].as_array().unwrap().as_slice() else {
        panic!("{comparison}")
    };
    let of = |plan: &Value, name: &str| plan[name].as_u64().unwrap();
    assert_eq!((&inherit["policy"], &lowest["policy"]), (&"inherit".into(), &"lowest-pid".into()));
    assert_eq!((of(inherit, "passed"), of(inherit, "messages"), of(inherit, "barriers")), (0, 0, 1));
    assert!(of(lowest, "passed") > 0 && of(lowest, "messages") > 0, "{lowest}");
    assert!(of(lowest, "barriers") > 1 && of(lowest, "inherited") < of(inherit, "inherited"), "{lowest}");
    assert!(of(lowest, "records") > of(inherit, "records"));
    assert!(of(lowest, "critical_path_ns") > of(inherit, "critical_path_ns"), "{comparison}");
    let output = regrow().args(["plan", "--compare"]).arg(pair()).output().unwrap();
    let said = text(&output);
    assert!(
        said.lines().any(|line| line.split_whitespace().eq(["policy", "inherit", "lowest-pid"])),
        "{said}"
    );
    // Who receives a descriptor is told from whom.
    let output = regrow()
        .args(["explain", "--policy", "lowest-pid", "--format", "json", "-D"])
        .arg(pair())
        .args(["fd", "4713", "3"])
        .output()
        .unwrap();
    let story: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
    let way = story["way"].as_array().unwrap();
    assert_eq!((&way[0]["pid"], &way.last().unwrap()["pid"]), (&4711.into(), &4713.into()), "{story}");
    assert_eq!(way.last().unwrap()["ends_with"], serde_json::json!([3]), "{story}");
    assert!(!story["waits_for"].as_array().unwrap().is_empty(), "{story}");
}

/// The processes of a group.
fn group(pgid: u32) -> Vec<u32> {
    let stat = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            // State, parent, group behind the name, which ends with the last parenthesis.
            let group = stat(*pid).and_then(|stat| {
                stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(2)?.parse::<u32>().ok())
            });
            group == Some(pgid)
        })
        .collect()
}

#[test]
fn a_calibration_that_is_killed_leaves_nobody() {
    for after_ms in [30, 100, 200, 300] {
        let mut child = regrow()
            .arg("calibrate")
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(after_ms));
        child.kill().unwrap();
        child.wait().unwrap();
        let start = Instant::now();
        while !group(child.id()).is_empty() {
            assert!(start.elapsed() < Duration::from_secs(10), "left: {:?}", group(child.id()));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What is explained of a real tree agrees with what is inspected of it.
#[test]
fn a_real_tree_is_explained() {
    let Some(mut tree) = Dumped::program("memory", &[]) else { return };
    let images = tree.images_dir().display().to_string();
    let inspected = tree.regrow(&["inspect", "--json", "--maps", &images]);
    let inspected: Value =
        serde_json::from_str(&inspected.text).unwrap_or_else(|_| panic!("{}", inspected.text));
    let mut explained = |what: &[&str]| -> Value {
        let ended = tree.regrow(&[&["explain", "--format", "json", "-D", &images], what].concat());
        assert_eq!(ended.code, Some(0), "{what:?}: {}", ended.text);
        serde_json::from_str(&ended.text).unwrap_or_else(|_| panic!("{}", ended.text))
    };
    let mut described = 0;
    for task in inspected["tasks"].as_array().unwrap().iter().take(4) {
        let pid = task["pid"].to_string();
        let story = explained(&["task", &pid]);
        assert_eq!(story["format"], "regrow-explain/1");
        assert_eq!(story["pid"], task["pid"]);
        if story["born_by"].is_u64() {
            assert_eq!(story["parent"], task["ppid"], "{story}");
        }
        let descriptors = task["descriptors"].as_array().cloned().unwrap_or_default();
        for descriptor in descriptors.iter().take(4) {
            let story = explained(&["fd", &pid, &descriptor["fd"].to_string()]);
            assert_eq!(story["id"], descriptor["description"], "{story}");
            let last = story["way"].as_array().unwrap().last().unwrap().clone();
            assert_eq!(last["pid"], task["pid"], "{story}");
            assert!(last["ends_with"].as_array().unwrap().contains(&descriptor["fd"]), "{story}");
            described += 1;
        }
    }
    assert!(described > 2, "{described}");
    let segments = inspected["shared_memory"].as_array().cloned().unwrap_or_default();
    let segments = &segments[..segments.len().min(6)];
    let anonymous = segments.iter().filter(|segment| segment["memfd"].is_null());
    for segment in anonymous.clone() {
        let story = explained(&["shm", &segment["id"].to_string()]);
        assert!(!story["views"].as_array().unwrap().is_empty(), "{story}");
    }
    assert!(anonymous.count() > 0, "{inspected}");
    let root = tree.root().to_string();
    for (what, words) in [
        (&["task", "9"][..], "no task 9: there are"),
        (&["fd", &root, "9999"], "has no descriptor 9999: it has"),
        (&["ofd", "0xfffff"], "no open file 0xfffff: there are"),
        (&["shm", "0xffffffff"], "no shared memory 0xffffffff: there"),
    ] {
        let ended = tree.regrow(&[&["explain", "-D", &images], what].concat());
        assert_eq!(ended.code, Some(1), "{what:?}: {}", ended.text);
        assert!(ended.text.contains(words), "{what:?}: {}", ended.text);
    }
}
