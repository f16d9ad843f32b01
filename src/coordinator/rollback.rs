//! Taking away tasks that are not one's children: by what they all have, the region.
//!
//! A task maps the region from its birth until the commit unmaps it, and by then it is traced by the
//! coordinator, with whom it dies (PTRACE_O_EXITKILL). So who maps the region is exactly who has to be
//! killed by hand. Pids alone would not do: a pid of the images may be somebody else's by now.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::fstat;
use nix::unistd::Pid;

/// How long a killed task may take to die: much longer than any but one that the kernel holds for good.
const ROUNDS: u32 = 10_000;
const ROUND: Duration = Duration::from_millis(1);

/// The memfd of a region, by its inode: what `/proc/PID/maps` shows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    inode: u64,
}

impl Region {
    /// Of which region.
    pub(super) fn of(fd: BorrowedFd<'_>) -> Result<Region, Errno> {
        Ok(Region { inode: fstat(fd)?.st_ino })
    }

    /// Kills all tasks that map the region, until there are none. The caller has set the abort
    /// word, so nobody who is born meanwhile forks.
    pub(super) fn kill_players(self) {
        for _ in 0..ROUNDS {
            let players = self.players();
            if players.is_empty() {
                return;
            }
            for pid in players {
                let _ = kill(pid, Signal::SIGKILL);
            }
            std::thread::sleep(ROUND);
        }
        tracing::error!(left = ?self.players(), "killed tasks do not die");
    }

    fn players(self) -> Vec<Pid> {
        // The launcher, if we are the coordinator, maps the region and is no task.
        let spared = [std::process::id(), std::os::unix::process::parent_id()];
        let pids = std::fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| !spared.contains(pid) && self.is_mapped_by(*pid))
            .map(|pid| Pid::from_raw(pid as i32))
            .collect()
    }

    fn is_mapped_by(self, pid: u32) -> bool {
        let maps = std::fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
        maps.split(|byte| *byte == b'\n').any(|line| self.is_in(line))
    }

    /// A line is `FROM-TO PERMISSIONS OFFSET DEVICE INODE NAME` (proc_pid_maps(5)). The name makes up for the
    /// device, which fstat(2) need not give in the same form: inodes of memfds are of one file system.
    fn is_in(self, line: &[u8]) -> bool {
        let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let inode = words.nth(4).and_then(|word| std::str::from_utf8(word).ok()?.parse::<u64>().ok());
        inode == Some(self.inode) && words.next() == Some(b"/memfd:regrow")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_region() {
        let region = Region { inode: 2077 };
        let is_in = |line: &str| region.is_in(line.as_bytes());
        assert!(is_in("10000-11000 rw-s 00000000 00:01 2077                       /memfd:regrow (deleted)"));
        assert!(!is_in("10000-11000 rw-s 00000000 00:01 2078                       /memfd:regrow (deleted)"));
        assert!(!is_in("10000-11000 rw-s 00000000 08:01 2077                       /usr/bin/cat"));
        assert!(!is_in("7ffd2000-7ffd4000 r-xp 00000000 00:00 0                    [vdso]"));
        assert!(!is_in(""));
    }
}
