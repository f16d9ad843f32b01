//! Which of the numbers that the images give to tasks are in use here.
//!
//! In: the pids, tids, process group and session numbers of the model. Out: [`PidFacts`], with
//! an entry for each that is taken and by whom. It asks for the pid namespace of regrow itself and
//! does not know whether the tree will live in another, nor which numbers a plan will need.
//!
//! Example: a shell has died and its background job lives on. No task has the shell's pid any
//! more, but the session still has it as its number: `clone3` cannot give that pid to a new task,
//! and the entry says [`Holder::Session`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, getpgid, getsid};

use regrow_graph::batches::{LEAST_BATCH, LEAST_CHILDREN};

use super::{read_number, read_text, status_field};
use crate::image::{NsPid, Task};

/// From so many pages on a task may have guests who help to fill them ([`crate::resolve`]).
const LARGE_PAGES: u64 = (16 << 20) / 4096;
/// For so many tasks, and so many each, there are numbers.
const MOST_HOSTS: usize = 64;
const MOST_GUESTS: usize = 7;

/// Use of pids in this pid namespace.
#[derive(Debug, Clone, Default)]
pub struct PidFacts {
    /// Numbers are below this: `kernel.pid_max`.
    pub pid_max: Option<u32>,
    /// The number given last; the search for the next begins behind it.
    pub last_pid: Option<u32>,
    /// Numbers of tasks and threads of the model that are in use.
    pub taken: BTreeMap<NsPid, Taken>,
    /// The same for process groups and sessions of the model whose leader is no task of it: one that
    /// had died before the dump, or one that was outside of the tree (a shell, of its job).
    pub taken_by_absent_leaders: BTreeMap<NsPid, Taken>,
    /// Numbers that neither the model nor anybody here has: for helper tasks, at most one for each
    /// task of the model that is in another session than its parent, and for each batch of children that
    /// one may fork.
    pub spare: Vec<NsPid>,
}

/// Who has a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// As what it is in use.
    pub holder: Holder,
    /// Whether it is one of us.
    pub whose: Whose,
    /// Name of the task or thread.
    pub comm: Option<String>,
    /// Parent of the task.
    pub ppid: Option<u32>,
    /// Whether it has died and only waits to be reaped.
    pub is_zombie: bool,
}

/// Who it is, in words: `another task (sleep)`.
impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.whose, self.holder) {
            (Whose::Regrow, _) => "regrow itself",
            (Whose::Parent, _) => "the caller of regrow",
            (Whose::Other, Holder::Task) if self.is_zombie => "a zombie",
            (Whose::Other, Holder::Task) => "another task",
            (Whose::Other, Holder::Thread { .. }) => "a thread of another task",
            (Whose::Other, Holder::ProcessGroup) => "a process group",
            (Whose::Other, Holder::Session) => "a session",
        })?;
        match &self.comm {
            Some(comm) => write!(f, " ({comm})"),
            None => Ok(()),
        }
    }
}

/// As what a number is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// A process has it as its pid.
    Task,
    /// A thread has it as its tid; of the process `of`, which is not the number itself.
    Thread {
        /// The process.
        of: u32,
    },
    /// No task has it, but a process group whose leader is gone.
    ProcessGroup,
    /// No task has it, but a session whose leader is gone.
    Session,
}

/// Whose a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// regrow itself.
    Regrow,
    /// The process that started regrow.
    Parent,
    /// Any other.
    Other,
}

/// The numbers that a model names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Named {
    /// Of tasks and threads.
    tasks: BTreeSet<NsPid>,
    /// Of process groups and sessions, where no task has them.
    absent_leaders: BTreeSet<NsPid>,
    /// How many spare ones may be needed.
    spare: usize,
}

impl Named {
    /// Only these, of tasks and threads.
    pub(super) fn tasks(tasks: &BTreeSet<NsPid>) -> Named {
        Named { tasks: tasks.clone(), ..Named::default() }
    }
}

pub(super) fn named_by(all: &[Task]) -> Named {
    let threads =
        |task: &Task| task.alive().map_or(Vec::new(), |alive| alive.threads.iter().map(|t| t.tid).collect());
    let tasks: BTreeSet<NsPid> =
        all.iter().flat_map(|task| [vec![task.pid], threads(task)].concat()).collect();
    // 0 stands for a group or session outside the dumped pid namespace.
    let absent_leaders = all
        .iter()
        .flat_map(|task| [task.pgid, task.sid])
        .filter(|n| n.0 != 0 && !tasks.contains(n))
        .collect();
    let sessions: BTreeMap<NsPid, NsPid> = all.iter().map(|task| (task.pid, task.sid)).collect();
    let is_apart = |task: &&Task| {
        task.sid != task.pid && sessions.get(&task.ppid).is_some_and(|session| *session != task.sid)
    };
    let mut siblings: BTreeMap<NsPid, usize> = BTreeMap::new();
    for task in all {
        *siblings.entry(task.ppid).or_default() += 1;
    }
    let batches =
        siblings.values().filter(|count| **count >= LEAST_CHILDREN).map(|count| count / LEAST_BATCH);
    // Others may help those with much memory.
    let is_large = |task: &&Task| {
        task.alive().is_some_and(|alive| {
            let pages = alive.mm.pages.extents.iter().map(|extent| extent.len_pages);
            pages.fold(0u64, u64::saturating_add) >= LARGE_PAGES
        })
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let guests = all.iter().filter(is_large).count().min(MOST_HOSTS) * (cores - 1).min(MOST_GUESTS);
    let spare = all.iter().filter(is_apart).count() + batches.sum::<usize>() + guests;
    Named { tasks, absent_leaders, spare }
}

pub(super) fn gather(named: &Named) -> PidFacts {
    let sessions = sessions_in_use();
    let taken = |numbers: &BTreeSet<NsPid>| {
        numbers.iter().filter_map(|&number| Some((number, find_holder(number.0, &sessions)?))).collect()
    };
    let pid_max = read_number("/proc/sys/kernel/pid_max");
    // From the top, where numbers are given last.
    let is_free = |number: &NsPid| {
        !named.tasks.contains(number)
            && !named.absent_leaders.contains(number)
            && find_holder(number.0, &sessions).is_none()
    };
    let spare = (2..pid_max.unwrap_or(0)).rev().map(NsPid).filter(is_free).take(named.spare).collect();
    PidFacts {
        pid_max,
        spare,
        last_pid: read_last_pid(),
        taken: taken(&named.tasks),
        taken_by_absent_leaders: taken(&named.absent_leaders),
    }
}

fn read_last_pid() -> Option<u32> {
    // The first is there with CONFIG_CHECKPOINT_RESTORE only.
    read_number("/proc/sys/kernel/ns_last_pid")
        .or_else(|| read_text("/proc/loadavg")?.rsplit(' ').next()?.parse().ok())
}

/// The session of every process that /proc lists. All threads of a process are in one session.
fn sessions_in_use() -> BTreeSet<u32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| getsid(Some(Pid::from_raw(pid))).ok())
        .map(|sid| sid.as_raw() as u32)
        .collect()
}

/// Who has `number`, if anyone has.
fn find_holder(number: u32, sessions: &BTreeSet<u32>) -> Option<Taken> {
    // A pid that does not fit is nobody's. 0 and -1 would mean others to the calls below.
    let raw = i32::try_from(number).ok().filter(|&raw| raw > 0)?;
    // getpgid(2) finds threads and zombies too, and costs a fraction of a look-up in /proc.
    if getpgid(Some(Pid::from_raw(raw))) != Err(Errno::ESRCH) {
        return Some(describe(number));
    }
    let holder = if raw > 1 && kill(Pid::from_raw(-raw), None) != Err(Errno::ESRCH) {
        Holder::ProcessGroup
    } else if sessions.contains(&number) {
        Holder::Session
    } else {
        return None;
    };
    Some(Taken { holder, whose: Whose::Other, comm: None, ppid: None, is_zombie: false })
}

/// The task or thread `number`, from /proc: little is known of one that /proc hides.
fn describe(number: u32) -> Taken {
    let status = read_text(&format!("/proc/{number}/status")).unwrap_or_default();
    let field = |key| status_field(&status, key);
    let pid = field("Tgid").and_then(|text| text.parse().ok()).unwrap_or(number);
    Taken {
        holder: if pid == number { Holder::Task } else { Holder::Thread { of: pid } },
        whose: if pid == std::process::id() {
            Whose::Regrow
        } else if pid == std::os::unix::process::parent_id() {
            Whose::Parent
        } else {
            Whose::Other
        },
        comm: field("Name").map(String::from),
        ppid: field("PPid").and_then(|text| text.parse().ok()),
        is_zombie: field("State").is_some_and(|state| state.starts_with('Z')),
    }
}

#[cfg(test)]
#[allow(unsafe_code)] // fork
mod tests {
    use super::*;

    /// Forks a child that runs `in_child` and exits.
    fn fork(in_child: impl FnOnce()) -> Pid {
        // SAFETY: the child makes system calls only, and leaves by _exit.
        match unsafe { nix::unistd::fork() }.expect("fork") {
            nix::unistd::ForkResult::Parent { child } => child,
            nix::unistd::ForkResult::Child => {
                in_child();
                // SAFETY: always allowed.
                unsafe { libc::_exit(0) }
            }
        }
    }

    fn taken(pid: Pid) -> Option<Taken> {
        let number = NsPid(pid.as_raw() as u32);
        gather(&Named { tasks: BTreeSet::from([number]), ..Named::default() }).taken.remove(&number)
    }

    /// Waits until `pid` is a zombie, and leaves it one.
    fn await_death(pid: Pid) {
        // SAFETY: `info` is a siginfo_t for the kernel to fill.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let result =
                libc::waitid(libc::P_PID, pid.as_raw() as u32, &raw mut info, libc::WEXITED | libc::WNOWAIT);
            assert_eq!(result, 0);
        }
    }

    #[test]
    fn own_process_threads_and_parent_are_recognised() {
        let own = taken(nix::unistd::getpid()).expect("exists");
        assert_eq!((own.holder, own.whose, own.is_zombie), (Holder::Task, Whose::Regrow, false));
        let (tid, of) = (nix::unistd::gettid(), std::process::id());
        if tid != nix::unistd::getpid() {
            let thread = taken(tid).expect("exists");
            assert_eq!((thread.holder, thread.whose), (Holder::Thread { of }, Whose::Regrow));
        }
        let parent = nix::unistd::getppid();
        if parent.as_raw() > 0 {
            assert_eq!(taken(parent).expect("exists").whose, Whose::Parent);
        }
    }

    #[test]
    fn zombies_hold_their_pid_until_they_are_reaped() {
        let child = fork(|| ());
        await_death(child);
        let zombie = taken(child).expect("a zombie has its pid");
        assert_eq!((zombie.holder, zombie.whose, zombie.is_zombie), (Holder::Task, Whose::Other, true));
        assert_eq!(zombie.ppid, Some(std::process::id()));
        nix::sys::wait::waitpid(child, None).expect("reap");
        assert_eq!(taken(child), None);
    }

    #[test]
    fn a_dead_leader_leaves_its_number_to_group_and_session() {
        let (read, write) = nix::unistd::pipe().expect("pipe");
        let leader = fork(|| {
            let _ = nix::unistd::setsid();
            // SAFETY: as in `fork`.
            if let Ok(nix::unistd::ForkResult::Child) = unsafe { nix::unistd::fork() } {
                // A member of the session that lives until the test kills it.
                let member = nix::unistd::getpid().as_raw().to_ne_bytes();
                let _ = nix::unistd::write(&write, &member);
                nix::unistd::pause();
            }
        });
        let mut member = [0; 4];
        assert_eq!(nix::unistd::read(&read, &mut member), Ok(4));
        let member = Pid::from_raw(i32::from_ne_bytes(member));
        nix::sys::wait::waitpid(leader, None).expect("reap");
        let group = taken(leader).map(|taken| taken.holder);
        // In a group of its own the member keeps only the session alive.
        let moved = nix::unistd::setpgid(member, member);
        let session = taken(leader).map(|taken| taken.holder);
        kill(member, nix::sys::signal::SIGKILL).expect("kill");
        assert_eq!(group, Some(Holder::ProcessGroup));
        if moved.is_ok() {
            assert_eq!(session, Some(Holder::Session));
        }
    }

    #[test]
    fn numbers_that_mean_others_to_system_calls_are_nobodys() {
        let check = |number: u32| assert_eq!(find_holder(number, &BTreeSet::new()), None, "{number}");
        check(0);
        check(u32::MAX);
        check(1 << 31);
        check(0x7fff_ffff);
    }

    #[test]
    fn numbers_of_a_model_are_collected_once_and_without_zero() {
        let mut tasks = crate::host::tests::tasks([5, 6]);
        tasks[1].pgid = NsPid(5);
        tasks[1].sid = NsPid(0);
        tasks[0].sid = NsPid(3);
        let expected =
            Named { tasks: [NsPid(5), NsPid(6)].into(), absent_leaders: [NsPid(3)].into(), spare: 0 };
        assert_eq!(named_by(&tasks), expected);
    }
}
