//! What the running kernel is and can do.
//!
//! In: files below /proc/sys and calls that the kernel refuses in a telling way. Out:
//! [`KernelFacts`]. It does not compare versions: a feature is there if the kernel says so.
//!
//! Example: `clone3` with a `set_tid_size` but no `set_tid` fails with EINVAL where `set_tid` is
//! known, with E2BIG where it is not, with ENOSYS where there is no clone3 or a filter hides it.

use nix::errno::Errno;

use super::own::CapSets;
use super::{aio, raw, read_number, read_text};

/// CAP_SYS_ADMIN and CAP_CHECKPOINT_RESTORE, either of which allows `set_tid` (kernel/pid.c, alloc_pid).
const CAP_SYS_ADMIN: u32 = 21;
const CAP_CHECKPOINT_RESTORE: u32 = 40;

/// The kernel's release, limits and features.
#[derive(Debug, Clone, Default)]
pub struct KernelFacts {
    /// As `uname -r` prints it.
    pub release: Option<String>,
    /// Most descriptors that a limit may allow: `fs.nr_open`.
    pub nr_open: Option<u64>,
    /// Largest capacity of a pipe without privilege: `fs.pipe-max-size`.
    pub pipe_max_size_bytes: Option<u64>,
    /// Most mappings of an address space: `vm.max_map_count`.
    pub max_map_count: Option<u64>,
    /// `vm.memfd_noexec`: 0 executable by default, 1 not, 2 never. `None` before Linux 6.3.
    pub memfd_noexec: Option<u32>,
    /// `fs.suid_dumpable`: what is left of `PR_SET_DUMPABLE` when effective ids change.
    pub suid_dumpable: Option<u32>,
    /// `kernel.yama.ptrace_scope`; `None` without Yama.
    pub yama_ptrace_scope: Option<u32>,
    /// How many processors there may be, from the start to the next.
    pub possible_processors: Option<u32>,
    /// How many requests rings of asynchronous I/O may be asked for with in all (`fs.aio-max-nr`), and how many they
    /// have been (`fs.aio-nr`).
    pub aio_requests: Option<(u64, u64)>,
    /// `clone3` with `set_tid`, and the privilege that it needs.
    pub clone3_set_tid: Probe,
    /// `prctl(PR_SET_MM, PR_SET_MM_MAP)`.
    pub set_mm_map: Probe,
    /// `arch_prctl(ARCH_MAP_VDSO_64)`.
    pub map_vdso_64: Probe,
    /// `process_vm_writev(2)`.
    pub process_vm_writev: Probe,
    /// `close_range(2)`.
    pub close_range: Probe,
    /// `userfaultfd(2)` for faults of user space, with its handshake.
    pub userfaultfd: Probe,
    /// Whether a userfaultfd moves pages (UFFDIO_MOVE, since Linux 6.8), from memory that is mapped for that: it must not count
    /// against what may be promised (`vm.overcommit_memory`).
    pub moves_pages: bool,
    /// Time namespaces (`CONFIG_TIME_NS`).
    pub time_namespaces: bool,
    /// IPC namespaces (`CONFIG_IPC_NS`).
    pub ipc_namespaces: bool,
    /// Ids of System V objects can be chosen (`kernel.shm_next_id`: `CONFIG_CHECKPOINT_RESTORE`).
    pub ipc_next_ids: bool,
    /// POSIX message queues, whose limits are an IPC namespace's (`CONFIG_POSIX_MQUEUE`).
    pub mqueue: bool,
    /// Opening what a task of ours has mapped, by /proc/PID/map_files (proc_pid_map_files(5)).
    pub map_files: Probe,
    /// `prctl(PR_TIMER_CREATE_RESTORE_IDS)`: POSIX timers with the ids of our choice.
    pub timer_restore_ids: Probe,
    /// Who gets transparent huge pages.
    pub transparent: Transparent,
    /// How much memory is free in pieces of a huge page or more, in bytes; `None`: it cannot be known.
    pub free_huge_bytes: Option<u64>,
}

/// Which private memory gets transparent huge pages when it is first written to: what
/// `/sys/kernel/mm/transparent_hugepage` says.
///
/// # Sources
/// Documentation/admin-guide/mm/transhuge.rst.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transparent {
    /// None, or it cannot be known.
    #[default]
    Never,
    /// What asks for it (`MADV_HUGEPAGE`).
    Madvise,
    /// All that does not forbid it.
    Always,
}

impl Transparent {
    /// As the files have it: `always [madvise] never`. The one of this size counts, which may leave it to that of all
    /// (`[inherit]`); it is there since Linux 6.8.
    fn of(all: Option<&str>, size: Option<&str>) -> Transparent {
        let chosen = |text: &str| {
            text.split_whitespace().find_map(|word| match word {
                "[always]" => Some(Transparent::Always),
                "[madvise]" => Some(Transparent::Madvise),
                "[never]" => Some(Transparent::Never),
                _ => None,
            })
        };
        size.and_then(chosen).or_else(|| all.and_then(chosen)).unwrap_or_default()
    }

    fn gather() -> Transparent {
        let read = |name: &str| read_text(&format!("/sys/kernel/mm/transparent_hugepage/{name}enabled"));
        Transparent::of(read("").as_deref(), read("hugepages-2048kB/").as_deref())
    }
}

impl KernelFacts {
    /// How many requests further rings may be asked for with.
    pub fn aio_requests_free(&self) -> Option<u64> {
        self.aio_requests.map(|(most, now)| most.saturating_sub(now))
    }
}

/// Whether the kernel has a feature and lets this process use it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Probe {
    /// Could not be asked.
    #[default]
    Unknown,
    /// It has.
    Present,
    /// It has not, or does not let us: what it answered.
    Absent(Errno),
}

impl Probe {
    /// Whether it is certainly there.
    pub fn is_present(self) -> bool {
        self == Probe::Present
    }

    /// From the errno of a call that must fail: with `expected` where the feature is there.
    fn from_refusal(errno: Errno, expected: Errno) -> Probe {
        if errno == expected { Probe::Present } else { Probe::Absent(errno) }
    }
}

pub(super) fn gather(caps: &CapSets, has_vdso: bool) -> KernelFacts {
    /// uapi/linux/userfaultfd.h.
    const UFFD_FEATURE_MOVE: u64 = 1 << 16;
    /// OVERCOMMIT_NEVER (uapi/linux/mman.h): what is mapped counts, whether it is written to or not.
    const OVERCOMMIT_NEVER: u64 = 2;
    let userfaultfd = raw::try_userfaultfd();
    KernelFacts {
        release: read_text("/proc/sys/kernel/osrelease"),
        time_namespaces: std::path::Path::new("/proc/self/ns/time_for_children").exists(),
        ipc_namespaces: std::path::Path::new("/proc/self/ns/ipc").exists(),
        ipc_next_ids: std::path::Path::new("/proc/sys/kernel/shm_next_id").exists(),
        mqueue: std::path::Path::new("/proc/sys/fs/mqueue/msg_max").exists(),
        nr_open: read_number("/proc/sys/fs/nr_open"),
        pipe_max_size_bytes: read_number("/proc/sys/fs/pipe-max-size"),
        max_map_count: read_number("/proc/sys/vm/max_map_count"),
        memfd_noexec: read_number("/proc/sys/vm/memfd_noexec"),
        possible_processors: aio::possible_processors(),
        aio_requests: aio::requests(),
        yama_ptrace_scope: read_number("/proc/sys/kernel/yama/ptrace_scope"),
        suid_dumpable: read_number("/proc/sys/fs/suid_dumpable"),
        clone3_set_tid: match Probe::from_refusal(raw::try_clone3_set_tid(), Errno::EINVAL) {
            Probe::Present if !may_set_tid(caps) => Probe::Absent(Errno::EPERM),
            probe => probe,
        },
        set_mm_map: raw::try_set_mm_map().map_or_else(Probe::Absent, |_| Probe::Present),
        map_vdso_64: if has_vdso {
            Probe::from_refusal(raw::try_map_vdso(), Errno::EEXIST)
        } else {
            Probe::Unknown
        },
        process_vm_writev: raw::try_process_vm_writev().map_or_else(Probe::Absent, |()| Probe::Present),
        userfaultfd: userfaultfd.map_or_else(Probe::Absent, |_| Probe::Present),
        moves_pages: userfaultfd.is_ok_and(|features| features & UFFD_FEATURE_MOVE != 0)
            && read_number("/proc/sys/vm/overcommit_memory") != Some(OVERCOMMIT_NEVER),
        close_range: Probe::from_refusal(raw::try_close_range(), Errno::EINVAL),
        map_files: try_map_files(),
        timer_restore_ids: raw::try_timer_restore_ids().map_or_else(Probe::Absent, |()| Probe::Present),
        transparent: Transparent::gather(),
        free_huge_bytes: read_text("/proc/buddyinfo").and_then(|text| free_huge_bytes(&text)),
    }
}

/// What is free in pieces of 2 MiB or more, by the lines of `/proc/buddyinfo`: `Node 0, zone   Normal` and how many free pieces
/// there are of one page, two, four … The lowest memory is kept for devices.
///
/// # Sources
/// Documentation/filesystems/proc.rst.
fn free_huge_bytes(text: &str) -> Option<u64> {
    const PAGE: u64 = 4096;
    /// Of 512 pages.
    const ORDER: usize = 9;
    let of_zone = |line: &str| {
        let mut words = line.split_whitespace().skip_while(|word| *word != "zone").skip(1);
        let is_low = words.next()? == "DMA";
        let pieces = words.enumerate().skip(ORDER).map(|(order, count)| {
            let count: u64 = count.parse().ok()?;
            count.checked_mul(PAGE.checked_shl(u32::try_from(order).ok()?)?)
        });
        let sum = pieces.sum::<Option<u64>>()?;
        Some(if is_low { 0 } else { sum })
    };
    let zones: Vec<u64> = text.lines().map(of_zone).collect::<Option<_>>()?;
    (!zones.is_empty()).then(|| zones.iter().fold(0, |sum, zone| u64::saturating_add(sum, *zone)))
}

/// Follows the first link there is: a program has files mapped, its own at least.
fn try_map_files() -> Probe {
    let first = std::fs::read_dir("/proc/self/map_files").ok().and_then(|mut links| links.next());
    match first.and_then(Result::ok).map(|link| std::fs::metadata(link.path())) {
        Some(Ok(_)) => Probe::Present,
        Some(Err(error)) => Probe::Absent(error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)),
        None => Probe::Unknown,
    }
}

fn may_set_tid(caps: &CapSets) -> bool {
    caps.has_effective(CAP_SYS_ADMIN) || caps.has_effective(CAP_CHECKPOINT_RESTORE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_tid_needs_a_capability() {
        let check = |effective: u64, expected: Probe| {
            let caps = CapSets { effective, ..CapSets::default() };
            assert_eq!(gather(&caps, false).clone3_set_tid, expected);
        };
        check(0, Probe::Absent(Errno::EPERM));
        check(1 << CAP_CHECKPOINT_RESTORE, Probe::Present);
        check(1 << CAP_SYS_ADMIN, Probe::Present);
    }

    #[test]
    fn this_kernel_answers_the_probes() {
        let facts = gather(&CapSets::default(), true);
        assert!(facts.close_range.is_present(), "{facts:?}");
        // Both come with CONFIG_CHECKPOINT_RESTORE.
        assert_eq!(facts.map_vdso_64.is_present(), facts.set_mm_map.is_present(), "{facts:?}");
        assert!(facts.nr_open.is_some() && facts.pipe_max_size_bytes.is_some());
    }

    #[test]
    fn what_is_free_in_large_pieces() {
        let text = "Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      3 \n\
                    Node 0, zone    DMA32   1175   1224   1117    526    186     77     51     43     22     29      5 \n\
                    Node 1, zone   Normal  24852  36867  22888   8326   3808   1365    745    496    269    128      2 \n";
        assert_eq!(free_huge_bytes(text), Some((29 + 2 * 5 + 128 + 2 * 2) * (2 << 20)));
        for unknown in ["", "Node 0, zone Normal 1 2 3 4 5 6 7 8 9 x", "something else"] {
            assert_eq!(free_huge_bytes(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn who_gets_transparent_huge_pages() {
        let all = |text| Transparent::of(Some(text), None);
        assert_eq!(all("[always] madvise never"), Transparent::Always);
        assert_eq!(all("always [madvise] never"), Transparent::Madvise);
        assert_eq!(all("always madvise [never]"), Transparent::Never);
        assert_eq!(Transparent::of(None, None), Transparent::Never);
        let of_size = |text| Transparent::of(Some("[always] madvise never"), Some(text));
        assert_eq!(of_size("always [inherit] madvise never"), Transparent::Always);
        assert_eq!(of_size("always inherit [madvise] never"), Transparent::Madvise);
    }
}
