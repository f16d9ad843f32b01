//! The launcher: maps the region, clones the root, watches over it until the commit, and takes the
//! tree away if there is none.
//!
//! All that regrow restores descends from the launcher (or, with `--restore-sibling`, from its
//! parent), and the launcher is a subreaper: whoever loses its parent becomes its child. So killing
//! all children until there are none leaves nothing, whatever the tasks were doing. A sibling and what is
//! below it is found by parents, and by the region that it maps.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use super::cgroups::Made;
use super::channel::{Channel, Order, Reply};
use super::clocks;
use super::rollback;
use super::seam::{Seam, Step};
use super::signals;
use super::undo::Remains;
use crate::sys::process::{Birth, clone_root, unregister_rseq};
use crate::sys::region::{InPlace, Place, Shared, map_in_place};
use crate::sys::robust;

/// How the launcher ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The tree lives.
    Committed {
        /// The root.
        root: Pid,
    },
    /// The coordinator gave up, or never started anything: its exit code. Nothing is left.
    Failed(i32),
    /// The coordinator was killed. No task is left, but a file that it made may be.
    Killed,
}

/// The launcher's life until the commit, or the end of all. Blocks all signals and stays so.
pub fn launch(channel: &Channel, coordinator: Pid) -> End {
    let mut launcher = Launcher {
        channel,
        coordinator,
        root: None,
        region: None,
        sibling: None,
        tasks: Vec::new(),
        remains: None,
        cgroups: Made::default(),
    };
    let _ = nix::sys::prctl::set_child_subreaper(true);
    let watched: SigSet = signals::ENDING.into_iter().chain([Signal::SIGCHLD]).collect();
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
    let Ok(taken) = SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK) else {
        return launcher.give_up();
    };
    loop {
        let mut fds =
            [PollFd::new(channel.fd(), PollFlags::POLLIN), PollFd::new(taken.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return launcher.give_up(),
        }
        // Orders first: a commit that has been said counts, whatever else has happened since.
        if fds[0].revents().is_some_and(|events| !events.is_empty()) {
            match channel.order() {
                Ok((Order::Start { place, birth, sibling, clocks_ns, fault }, Some(region))) => {
                    launcher.start(place, birth, sibling, clocks_ns, &Seam::of_launcher(fault), &region);
                }
                Ok((Order::Tasks(pids), _)) => {
                    let pids = pids.iter().filter(|pid| **pid != 0).map(|pid| Pid::from_raw(*pid as i32));
                    launcher.tasks.extend(pids);
                }
                Ok((Order::Committed, _)) => {
                    if let Some(root) = launcher.root {
                        return launcher.see_off(root);
                    }
                }
                Ok((Order::Start { .. }, None)) | Err(_) => return launcher.give_up(),
            }
            continue;
        }
        while let Ok(Some(info)) = taken.read_signal() {
            match info.ssi_signo as i32 {
                libc::SIGCHLD => launcher.look_at_children(),
                // The coordinator ends, and with it we do.
                signal => drop(channel.reply(Reply::Interrupted(signal))),
            }
        }
    }
}

struct Launcher<'a> {
    channel: &'a Channel,
    coordinator: Pid,
    root: Option<Pid>,
    region: Option<InPlace>,
    /// Set if the root is no child of ours.
    sibling: Option<Sibling>,
    /// Then also: the tasks below it, by their pids.
    tasks: Vec<Pid>,
    /// What to take away if there is no commit.
    remains: Option<Remains>,
    /// Likewise: cgroups.
    cgroups: Made,
}

/// What is needed to take away a root that is our sibling, and what is below it.
struct Sibling {
    shared: Shared,
    players: rollback::Region,
}

impl Launcher<'_> {
    fn start(
        &mut self,
        place: Place,
        birth: Birth,
        sibling: bool,
        clocks_ns: Option<[u64; 2]>,
        seam: &Seam,
        region: &OwnedFd,
    ) {
        // Before anything is born: what is older is not the tapes'.
        let kept = seam.at(Step::Keep).map_err(Into::into);
        match kept.and_then(|()| Remains::keep(region.as_fd(), place)) {
            Ok(remains) => self.remains = Some(remains),
            Err(error) => {
                let _ = self.channel.reply(Reply::MapFailed(error.raw_os_error().unwrap_or(libc::EMFILE)));
                return;
            }
        }
        if let Err(reply) = self.make_cgroups(seam) {
            let _ = self.channel.reply(reply);
            return;
        }
        // Only children are born in it: the launcher itself stays with the clocks that it has.
        if let Some(wanted) = clocks_ns
            && let Err(errno) = seam.at(Step::Clocks).and_then(|()| clocks::enter(wanted))
        {
            let _ = self.channel.reply(Reply::ClocksFailed(errno as i32));
            return;
        }
        let reply = match self.try_start(place, birth, sibling, seam, region) {
            Ok(root) => {
                self.root = Some(root);
                // Only now: the root must not inherit the mapping.
                if sibling
                    && let Ok(shared) = Shared::map(region.as_fd())
                    && let Ok(players) = rollback::Region::of(region.as_fd())
                {
                    self.sibling = Some(Sibling { shared, players });
                }
                Reply::Started { pid: root.as_raw() }
            }
            Err(reply) => reply,
        };
        let _ = self.channel.reply(reply);
    }

    fn make_cgroups(&mut self, seam: &Seam) -> Result<(), Reply> {
        let Some(remains) = &self.remains else { return Ok(()) };
        let list = remains
            .cgroups()
            .map_err(|error| Reply::MapFailed(error.raw_os_error().unwrap_or(libc::EINVAL)))?;
        self.cgroups.make(&list, seam).map_err(|failed| Reply::CgroupFailed {
            index: failed.index,
            file: failed.file,
            errno: failed.errno as i32,
        })
    }

    #[allow(unsafe_code)] // The region is mapped here, which is what the birth depends on.
    fn try_start(
        &mut self,
        place: Place,
        birth: Birth,
        sibling: bool,
        seam: &Seam,
        region: &OwnedFd,
    ) -> Result<Pid, Reply> {
        let map_failed = |errno: Errno| Reply::MapFailed(errno as i32);
        seam.at(Step::Map).map_err(map_failed)?;
        let mapped = map_in_place(region.as_fd(), place).map_err(map_failed)?;
        self.region = Some(mapped);
        // Tasks that wait look there whether we live.
        robust::mark_when_dead(mapped.launcher()).map_err(map_failed)?;
        // Tasks carry descriptors for others: the soft limit must not be what ends that.
        if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        }
        unregister_rseq();
        seam.at(Step::Clone).map_err(|errno| Reply::CloneFailed(errno as i32))?;
        // SAFETY: the region has just been mapped at its place, and the coordinator took the addresses
        // from the tapes in it.
        unsafe { clone_root(birth, sibling) }.map_err(|errno| Reply::CloneFailed(errno as i32))
    }

    /// Says so if the root has died. Reaps nobody: pids of the tree must not be free before the end.
    fn look_at_children(&self) {
        let Some(root) = self.root.filter(|_| self.sibling.is_none()) else { return };
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(root), flags) {
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD) => {
                let _ = self.channel.reply(Reply::RootDied);
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// After the commit has been said, the coordinator still lets the tasks go. If it dies over that,
    /// the word that they do not die with it decides: without the word there must be none.
    fn see_off(&mut self, root: Pid) -> End {
        // All signals are blocked: nothing interrupts this.
        let end = waitpid(self.coordinator, None);
        match end {
            Ok(_) if self.is_committed() => leave_alone(root),
            Ok(_) | Err(_) => {
                // A sibling's tasks that it had spared go on, wherever they are now, and nothing but their
                // pids tells them: those cannot be somebody else's yet.
                for pid in &self.tasks {
                    let _ = kill(*pid, Signal::SIGKILL);
                }
                self.clear_away();
                match end {
                    Ok(WaitStatus::Exited(_, code)) if code != 0 => End::Failed(code),
                    Ok(_) | Err(_) => End::Killed,
                }
            }
        }
    }

    /// Ends everything: first the coordinator (with it all that it traces), then the tree. What has been committed lives,
    /// whatever else has failed.
    fn give_up(&mut self) -> End {
        let end = self.end_coordinator();
        if let Some(root) = self.root.filter(|_| self.is_committed()) {
            return leave_alone(root);
        }
        self.clear_away();
        end
    }

    fn is_committed(&self) -> bool {
        self.region.is_some_and(|region| region.committed().load(Ordering::SeqCst) != 0)
    }

    /// Takes the tree away. The coordinator has ended.
    fn clear_away(&self) {
        if let Some(sibling) = &self.sibling {
            // The coordinator has said so if it could.
            sibling.shared.abort().store(1, Ordering::SeqCst);
            if let Some(root) = self.root.filter(|root| is_sibling(*root)) {
                kill_below(root);
            }
            sibling.players.kill_players();
        }
        loop {
            for child in children(std::process::id()) {
                let _ = kill(child, Signal::SIGKILL);
            }
            match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        if self.sibling.is_some()
            && let Some(root) = self.root
        {
            await_gone(root);
        }
        let left = self.remains.iter().flat_map(Remains::remove).chain(self.cgroups.remove());
        for (path, error) in left {
            tracing::error!("{} is left behind: {error}", path.display());
        }
    }

    fn end_coordinator(&self) -> End {
        // It has closed its end of the channel, so it is about to exit, or dead.
        let mut pause = std::time::Duration::from_micros(100);
        for _ in 0..200 {
            match waitpid(self.coordinator, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(std::time::Duration::from_millis(10));
                }
                Ok(WaitStatus::Exited(_, code)) if code != 0 => return End::Failed(code),
                Ok(_) | Err(_) => return End::Killed,
            }
        }
        let _ = kill(self.coordinator, Signal::SIGKILL);
        let _ = waitpid(self.coordinator, None);
        End::Killed
    }
}

/// Orphans of a tree that lives go from now on to whom they would go without us.
fn leave_alone(root: Pid) -> End {
    let _ = nix::sys::prctl::set_child_subreaper(false);
    End::Committed { root }
}

/// The children of a process that has one thread (proc_pid_children in proc(5)).
fn children(pid: u32) -> Vec<Pid> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

/// Whether a process is a child of our parent: that of the wanted pid may be gone, and another have it.
fn is_sibling(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // proc_pid_stat(5): state and parent follow the name, which is in parentheses and may hold any.
    let parent =
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1)?.parse().ok());
    parent == Some(nix::unistd::getppid().as_raw())
}

/// Kills a tree that is not ours to reap: the tasks fork no more (the abort word is set), so what is
/// found is all.
fn kill_below(root: Pid) {
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        found.extend(children(found[at].as_raw() as u32));
        at += 1;
    }
    for pid in found {
        let _ = kill(pid, Signal::SIGKILL);
    }
}

/// Waits until a tree that was killed and is not ours to reap makes no more system calls.
fn await_gone(root: Pid) {
    for _ in 0..200 {
        let stat = std::fs::read_to_string(format!("/proc/{root}/stat")).unwrap_or_default();
        // proc_pid_stat(5): the state follows the name.
        let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
        if matches!(state, None | Some('Z' | 'X')) && children(root.as_raw() as u32).is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Waits for the root to end (the tree was restored attached), and for whoever has come to us otherwise.
///
/// `criu restore` without `--restore-detached` does the same and then succeeds, whatever the root's
/// own status (`reap_zombies` in its cr-restore.c).
pub fn wait_for_all() {
    loop {
        match waitpid(None, Some(WaitPidFlag::__WALL)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}
