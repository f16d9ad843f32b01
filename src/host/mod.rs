//! Facts about this machine, gathered once before anything is planned.
//!
//! Turns the running system, and the questions that a [`Model`] raises about it, into
//! [`HostFacts`]: plain data that a planner test can write down by hand. It deliberately decides
//! nothing: that a pid is taken, a file missing or a feature absent is a fact here, and a problem
//! only in `resolve`. What cannot be learned is `None` or an errno, never a failure of the whole.
//!
//! Example: for a model of one task of pid 7 that has `/etc/hosts` open, on a machine where a
//! daemon has that pid,
//!
//! ```text
//! pids.taken   { 7: Taken { holder: Task, whose: Other, comm: "crond", is_zombie: false, … } }
//! files        { "/etc/hosts": FileFact { reached: Ok(FileStat { mode: 0o100644, … }), … } }
//! ```
//!
//! A gathering costs little beside a restore: about one millisecond for a tree of 1000 tasks, and
//! some twenty microseconds for each file of which a build-id is asked.

mod address_space;
mod aio;
mod blocks;
mod cgroups;
mod cpu;
mod files;
mod huge;
mod kernel;
mod own;
mod pids;
mod raw;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use nix::time::{ClockId, clock_gettime};

use crate::image::{Model, NsPid, Ofd, Task};

pub use address_space::{AddressSpace, SpecialMapping, TASK_SIZE, Vdso};
pub use aio::possible_processors;
pub use cgroups::{CgroupFact, Hierarchy, HierarchyMount, is_cgroup_path};
#[cfg(test)]
pub(crate) use cpu::gather as gather_xsave_layout;
pub use cpu::{XsaveComponent, XsaveLayout};
pub(crate) use files::directory_of_socket;
pub use files::{FileFact, FileStat, HugeFile};
pub use kernel::{KernelFacts, Probe, Transparent};
pub use own::{CapSets, Ids, OwnFacts};
pub use pids::{Holder, PidFacts, Taken, Whose};

/// What regrow knows about the machine that it restores on.
#[derive(Debug, Clone, Default)]
pub struct HostFacts {
    /// The kernel: its release, limits and features.
    pub kernel: KernelFacts,
    /// Which pids of the model are in use.
    pub pids: PidFacts,
    /// This process: limits, credentials and all else that a child of it would inherit.
    pub own: OwnFacts,
    /// Every path that the model names, by that name.
    pub files: BTreeMap<String, FileFact>,
    /// Extended register state of this CPU; `None` without XSAVE.
    pub xsave: Option<XsaveLayout>,
    /// What the kernel maps for the clock; `None` if this process has no vDSO.
    pub vdso: Option<Vdso>,
    /// The clocks when the facts were gathered.
    pub clocks_ns: Clocks,
    /// Where memory can be mapped.
    pub address_space: AddressSpace,
    /// How many huge pages are free, by their size in bytes.
    pub huge_pages: BTreeMap<u64, u64>,
    /// How long it takes to get a transparent huge page now, in nanoseconds, where a task forks that has much memory; `None`: it
    /// is not known.
    pub huge_page_ns: Option<u64>,
    /// The hierarchies of cgroups, where the model says anything of them.
    pub hierarchies: Vec<Hierarchy>,
    /// What there is of the cgroups that the model names, by hierarchy and path.
    pub cgroups: BTreeMap<(String, String), CgroupFact>,
}

/// What clocks say, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Clocks {
    pub realtime: Option<u64>,
    pub monotonic: Option<u64>,
    pub boottime: Option<u64>,
}

impl Clocks {
    /// What the clock with this number says, for those that a timerfd can have (timerfd_create(2)).
    pub fn of(&self, clock_id: u32) -> Option<u64> {
        match clock_id as i32 {
            libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM => self.realtime,
            libc::CLOCK_MONOTONIC => self.monotonic,
            libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => self.boottime,
            _ => None,
        }
    }
}

/// Gathers the facts that a restore of `model` asks for. Paths of the model are looked up below
/// `root`, if there is one, as a task would after `chroot(root)`.
///
/// # Sources
/// proc(5), and the man page or kernel file named at each fact.
pub fn gather(model: &Model, root: Option<&Path>) -> HostFacts {
    let mut facts = gather_about(&model.tasks, &model.ofds, root);
    if !model.cgroup_sets.is_empty() {
        facts.hierarchies = cgroups::hierarchies(&facts.own.cgroups, &mountinfo());
        facts.cgroups = cgroups::look(&facts.hierarchies, model);
    }
    let may_move = facts.kernel.moves_pages && facts.kernel.transparent != Transparent::Never;
    facts.huge_page_ns = (may_move && forks_much_memory(&model.tasks)).then(blocks::huge_page_ns).flatten();
    facts
}

/// Whether a task that has children has so much memory that it is worth to ask how long a huge page takes.
fn forks_much_memory(tasks: &[Task]) -> bool {
    /// 8 MiB.
    const MUCH_PAGES: u64 = 2048;
    let has_much = |task: &Task| {
        let extents = task.alive().map_or(&[][..], |alive| &alive.mm.pages.extents);
        extents.iter().map(|extent| extent.len_pages).sum::<u64>() >= MUCH_PAGES
    };
    let large: BTreeSet<NsPid> = tasks.iter().filter(|task| has_much(task)).map(|task| task.pid).collect();
    !large.is_empty() && tasks.iter().any(|child| large.contains(&child.ppid))
}

/// The running kernel's vDSO; `None` if there is none.
pub fn gather_vdso() -> Option<Vdso> {
    address_space::find_vdso(&address_space::read_own_maps())
}

/// Facts about this process alone.
pub fn gather_own() -> OwnFacts {
    own::gather()
}

/// What is asked about this machine by who has no model: a stored plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Questions {
    /// Pids and tids that must be free.
    pub tasks: BTreeSet<NsPid>,
    /// Paths, and whether a build-id is wanted.
    pub paths: BTreeMap<String, bool>,
    /// Whether the hierarchies of cgroups are asked for.
    pub hierarchies: bool,
}

/// Gathers the facts that answer these questions.
pub fn ask(questions: &Questions) -> HostFacts {
    let mut facts = gather_named(&pids::Named::tasks(&questions.tasks), &questions.paths, None);
    if questions.hierarchies {
        facts.hierarchies = cgroups::hierarchies(&facts.own.cgroups, &mountinfo());
    }
    facts
}

fn gather_about(tasks: &[Task], ofds: &[Ofd], root: Option<&Path>) -> HostFacts {
    gather_named(&pids::named_by(tasks), &files::named_by(ofds), root)
}

fn gather_named(pids: &pids::Named, paths: &BTreeMap<String, bool>, root: Option<&Path>) -> HostFacts {
    let own = own::gather();
    let maps = address_space::read_own_maps();
    let vdso = address_space::find_vdso(&maps);
    HostFacts {
        hierarchies: Vec::new(),
        cgroups: BTreeMap::new(),
        kernel: kernel::gather(&own.caps, vdso.is_some()),
        pids: pids::gather(pids),
        own,
        files: files::gather(paths, root),
        clocks_ns: clocks(),
        xsave: cpu::gather(),
        vdso,
        address_space: address_space::gather(&maps),
        huge_pages: huge::gather(),
        huge_page_ns: None,
    }
}

fn mountinfo() -> String {
    read_text("/proc/self/mountinfo").unwrap_or_default()
}

/// The clocks now, in nanoseconds.
fn clocks() -> Clocks {
    let read = |id: ClockId| {
        let now = clock_gettime(id).ok()?;
        let seconds = u64::try_from(now.tv_sec()).ok()?;
        seconds.checked_mul(1_000_000_000)?.checked_add(u64::try_from(now.tv_nsec()).ok()?)
    };
    Clocks {
        realtime: read(ClockId::CLOCK_REALTIME),
        monotonic: read(ClockId::CLOCK_MONOTONIC),
        boottime: read(ClockId::CLOCK_BOOTTIME),
    }
}

/// The text of a small file of /proc, without white space at its ends; `None` if it cannot be read.
fn read_text(path: &str) -> Option<String> {
    /// Such files say that they have no length, so they would be read by a few bytes at first.
    const USUAL: usize = 4096;
    let mut bytes = Vec::with_capacity(USUAL);
    let file = std::fs::File::open(path).ok()?;
    // Of what is no `File` the length is not asked for.
    file.take(u64::MAX).read_to_end(&mut bytes).ok()?;
    // A comm or a path in /proc may hold any bytes.
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// The number that is all of a small file of /proc.
fn read_number<T: std::str::FromStr>(path: &str) -> Option<T> {
    read_text(path)?.parse().ok()
}

/// Value of the line `key:` in a file in the manner of `/proc/PID/status`.
fn status_field<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Image, NsPid, Origin, TaskState};

    /// Dead tasks with the numbers `pids`.
    pub(super) fn tasks(pids: impl IntoIterator<Item = u32>) -> Vec<Task> {
        let task = |(entry, pid)| Task {
            pid: NsPid(pid),
            ppid: NsPid(0),
            pgid: NsPid(pid),
            sid: NsPid(pid),
            origin: Origin::new(Image::Pstree, entry),
            core_origin: Origin::new(Image::Core(pid), 0),
            state: TaskState::Zombie { exit_code: 0, comm: String::from("z") },
        };
        pids.into_iter().enumerate().map(task).collect()
    }

    #[test]
    fn pids_of_a_large_tree_are_free() {
        // Numbers beyond the pid_max of most machines, and free on others.
        let tasks = tasks(4_100_000..4_101_000);
        let facts = gather_about(&tasks, &[], None);
        assert!(facts.pids.taken.is_empty(), "{:?}", facts.pids.taken);
        assert!(facts.kernel.release.is_some());
    }

    #[test]
    fn a_status_field_is_found_by_its_whole_key() {
        let status = "Name:\tsh\nPid:\t7\nPPid:\t1\nGroups:\t \n";
        assert_eq!(status_field(status, "Pid"), Some("7"));
        assert_eq!(status_field(status, "PPid"), Some("1"));
        assert_eq!(status_field(status, "Groups"), Some(""));
        assert_eq!(status_field(status, "P"), None);
    }
}
