//! Whether the tasks of a namespace are what they will stay, or are still being made or killed.
//!
//! After a restore whose processes have been killed, `/proc` shows tasks for a while that are bound to die. That such a
//! task is still listed says nothing; that it has come to rest does. A task sleeps or is stopped only as long as
//! no SIGKILL has been sent to it: the signal wakes it at once, and on its way out it is marked
//! (`PF_SIGNALED`, `PF_EXITING`). So a task that rests, unmarked, after the last one has ended who could
//! have sent the signal, lives.
//!
//! # Sources
//! proc_pid_stat(5); the kernel's include/linux/sched.h for the flags, kernel/signal.c (`complete_signal`, `get_signal`)
//! and kernel/ptrace.c (`exit_ptrace`: a tracer has killed or let go all that it traces before it is a zombie).

use std::collections::BTreeSet;
use std::{fs, io};

/// Shuts down; set by `do_exit`.
const PF_EXITING: u64 = 0x4;
/// Was killed by a signal; set by `get_signal` as it takes the signal.
const PF_SIGNALED: u64 = 0x400;

/// Tasks that have been found at rest.
#[derive(Debug, Default)]
pub struct Settled {
    known: BTreeSet<i32>,
}

impl Settled {
    /// Looks at all tasks of the namespace but its init, and says of each that is not at rest why. Those that were
    /// found at rest before are not looked at again. It is for the init, which buries orphans in between.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn unsettled(&mut self) -> io::Result<Vec<String>> {
        let pids = pids()?;
        // First of all, and alone: as long as one of them is there, what the others do is open.
        let restorers: Vec<String> = pids
            .iter()
            .filter(|pid| text(**pid, "comm").is_some_and(|comm| comm.trim_end() == "regrow"))
            .map(|pid| format!("{pid}: regrow"))
            .collect();
        if !restorers.is_empty() {
            return Ok(restorers);
        }
        let mut unsettled = Vec::new();
        for pid in pids {
            if self.known.contains(&pid) {
                continue;
            }
            match restless(pid) {
                Some(why) => unsettled.push(format!("{pid}: {why}")),
                None => drop(self.known.insert(pid)),
            }
        }
        Ok(unsettled)
    }
}

/// All tasks of the namespace but its init, by pid.
///
/// # Errors
/// `/proc` cannot be read.
pub fn pids() -> io::Result<Vec<i32>> {
    let pids = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut pids: Vec<i32> = pids.filter(|pid| *pid != 1).collect();
    pids.sort_unstable();
    Ok(pids)
}

fn text(pid: i32, name: &str) -> Option<String> {
    fs::read(format!("/proc/{pid}/{name}")).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Why a task is not at rest; `None` if it is.
fn restless(pid: i32) -> Option<String> {
    let gone = || Some("it has just gone".to_owned());
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return gone() };
    for thread in threads.flatten() {
        let tid = thread.file_name().to_string_lossy().into_owned();
        let Some(stat) = text(pid, &format!("task/{tid}/stat")) else { return gone() };
        let Some((state, parent, flags)) = state(&stat) else { return gone() };
        let rests = match state {
            'S' | 'T' => flags & (PF_EXITING | PF_SIGNALED) == 0,
            // One of the tree waits for its parent; one that has come to the init is about to be buried.
            'Z' => parent != 1,
            _ => false,
        };
        if !rests {
            return Some(format!("thread {tid} in state {state}, child of {parent}, flags {flags:#x}"));
        }
    }
    // Who has not been let go still has the tapes mapped.
    match text(pid, "maps") {
        Some(maps) if maps.contains("memfd:regrow") => Some("it has not been let go".to_owned()),
        _ => None,
    }
}

/// State, parent and flags. The name, which is in parentheses, may hold any character.
fn state(stat: &str) -> Option<(char, i32, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let words: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some((words.first()?.chars().next()?, words.get(1)?.parse().ok()?, words.get(6)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_stat() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194564 105 0 0 0";
        assert_eq!(state(stat), Some(('S', 1, 4194564)));
        assert_eq!(state("7 (x) Z"), None);
        assert_eq!(state(""), None);
    }
}
