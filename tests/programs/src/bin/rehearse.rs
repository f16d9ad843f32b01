//! Restores that are to fail, one after another: `rehearse FAULTS DIR COMMAND...`.
//!
//! For each line of the file FAULTS, runs COMMAND with `--inject-fault LINE` behind it and compares the
//! world before and after: tasks, this process's own descriptors, mounts, control groups, all files below DIR
//! (but logs), and unix sockets named below DIR. Prints one JSON object a line:
//!
//! `{"fault":LINE,"code":C,"text":PRINTED,"left":[DIFFERENCE,..]}`, `code` null if a signal ended it.
//!
//! It adopts orphans, so what is left of a restore is either found here or does not exist.

#![allow(clippy::print_stdout, reason = "standard output is what it is for")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

/// A task that was killed may take this long to be gone.
const SETTLED: Duration = Duration::from_secs(10);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [faults, directory, program, rest @ ..] = arguments.as_slice() else {
        panic!("rehearse FAULTS DIR COMMAND...");
    };
    nix::sys::prctl::set_child_subreaper(true).expect("PR_SET_CHILD_SUBREAPER");
    // Something of every sort that a restore could take away from its caller.
    let _pipe = nix::unistd::pipe().expect("pipe");
    let _inherited = nix::unistd::dup(std::io::stdout()).expect("dup");
    for fault in fs::read_to_string(faults).expect("FAULTS").lines() {
        let before = world(Path::new(directory));
        let mut child = Command::new(program)
            .args(rest)
            .args(["--inject-fault", fault])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("COMMAND starts");
        let mut text = String::new();
        let mut output = child.stderr.take().expect("a pipe");
        output.read_to_string(&mut text).expect("its messages");
        drop(output);
        let status = child.wait().expect("it ends");
        let start = Instant::now();
        let left = loop {
            reap();
            let after = world(Path::new(directory));
            let changed = |kind: char, from: &BTreeSet<String>, to: &BTreeSet<String>| {
                from.difference(to).map(|line| format!("{kind} {line}")).collect::<Vec<_>>()
            };
            let left = [changed('-', &before, &after), changed('+', &after, &before)].concat();
            if left.is_empty() || start.elapsed() > SETTLED {
                break left;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        println!("{}", json!({ "fault": fault, "code": status.code(), "text": text, "left": left }));
    }
}

/// Buries orphans that have come to us.
fn reap() {
    // SAFETY: no status is asked for.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL) } > 0 {}
}

/// All that a failed restore could have changed, a line each.
fn world(directory: &Path) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let head: Vec<&str> = stat.split_ascii_whitespace().take(4).collect();
            // The init may have just become runnable.
            lines.insert(if name == "1" { "task 1".to_owned() } else { format!("task {}", head.join(" ")) });
        }
    }
    lines.retain(|line| !line.starts_with(&format!("task {} ", std::process::id())));
    for entry in fs::read_dir("/proc/self/fd").expect("/proc/self/fd").flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        // The one that lists them.
        if !target.ends_with(format!("{}/fd", std::process::id())) {
            lines.insert(format!("fd {} {}", entry.file_name().to_string_lossy(), target.display()));
        }
    }
    for (file, only) in
        [("mountinfo", ""), ("cgroup", ""), ("net/unix", directory.to_str().unwrap_or_default())]
    {
        let text = fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
        lines.extend(text.lines().filter(|line| line.contains(only)).map(|line| format!("{file} {line}")));
    }
    files(directory, &mut lines);
    lines
}

fn files(directory: &Path, lines: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(stat) = fs::symlink_metadata(&path) else { continue };
        if stat.is_dir() {
            lines.insert(format!("directory {} {:o}", path.display(), stat.mode()));
            files(&path, lines);
        } else if path.extension().is_none_or(|extension| extension != "log" && extension != "out") {
            lines.insert(format!(
                "file {} {:o} {}:{} {} bytes, inode {}, {} links, changed {}.{}",
                path.display(),
                stat.mode(),
                stat.uid(),
                stat.gid(),
                stat.len(),
                stat.ino(),
                stat.nlink(),
                stat.mtime(),
                stat.mtime_nsec(),
            ));
        }
    }
}
