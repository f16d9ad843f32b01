//! Prints how much memory a tree of tasks takes: `pss PID`. The sum of `Pss_Anon` and `Pss_Shmem` of the task and all
//! below it (proc_pid_smaps_rollup(5)), in kB: pages that several have count once. Pages of files are left out: they are
//! in memory anyway, and mapped when somebody looks at them.
#![allow(clippy::print_stdout, reason = "standard output is the result")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

fn main() {
    let root: u32 = std::env::args().nth(1).and_then(|text| text.parse().ok()).expect("pss PID");
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut zombies = BTreeSet::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // The name may have anything in it, but for the last parenthesis.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
        if behind.trim_start().starts_with('Z') {
            zombies.insert(pid);
        }
        if let Some(parent) = behind.split_whitespace().nth(1).and_then(|word| word.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut sum, mut left) = (0u64, vec![root]);
    while let Some(pid) = left.pop() {
        left.extend(children.get(&pid).into_iter().flatten());
        // What is dead has no memory.
        if zombies.contains(&pid) {
            continue;
        }
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("smaps_rollup");
        for what in ["Pss_Anon:", "Pss_Shmem:"] {
            let line = text.lines().find_map(|line| line.strip_prefix(what)).expect(what);
            sum += line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
        }
    }
    println!("{sum}");
}
