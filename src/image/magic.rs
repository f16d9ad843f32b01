//! Every image that CRIU writes, by name and magic number (`criu/image-desc.c`,
//! `criu/include/magic.h`).
//!
//! Turns a file name into a [`Kind`] and the number in the name. It does not open files.
//!
//! Example: `ghost-file-1f.img` is the kind with prefix `ghost-file-`, whose number is hexadecimal:
//! 31.

/// Heads every image of version 1.1 but the inventory.
pub(crate) const COMMON_MAGIC: u32 = 0x5456_4319;

/// The number in a file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    None,
    Decimal,
    Hex,
    /// Anything: names of plugins.
    Any,
}

/// What regrow does with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Reads it.
    Read,
    /// Leaves it, knowing that a restore does not need it.
    Ignored,
    /// Lists it in `Model::unread` if it carries anything.
    Unread(&'static str, Layout),
}

/// How the contents of an unread image can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Entries and nothing else.
    Entries,
    /// Entries with raw bytes among them.
    Mixed,
    /// Not a CRIU format: no magic.
    Raw,
}

/// A kind of image.
#[derive(Debug)]
pub(crate) struct Kind {
    prefix: &'static str,
    number: Number,
    suffix: &'static str,
    /// Magic number of the kind; 0: raw.
    pub(crate) magic: u32,
    /// What is done with it.
    pub(crate) usage: Use,
}

impl Kind {
    pub(crate) fn is_inventory(&self) -> bool {
        self.magic == INVENTORY.magic
    }

    /// The number in `name`, if `name` is of this kind (0 where the kind has none).
    fn matches(&self, name: &str) -> Option<u64> {
        let middle = name.strip_prefix(self.prefix)?.strip_suffix(".img")?.strip_suffix(self.suffix)?;
        match self.number {
            Number::None => middle.is_empty().then_some(0),
            Number::Any => Some(0),
            // CRIU prints numbers without sign and leading zeroes; what is written in another way
            // is another file.
            Number::Decimal => middle.parse().ok().filter(|n: &u64| n.to_string() == middle),
            Number::Hex => u64::from_str_radix(middle, 16).ok().filter(|n| format!("{n:x}") == middle),
        }
    }
}

const fn read(prefix: &'static str, number: Number, magic: u32) -> Kind {
    Kind { prefix, number, suffix: "", magic, usage: Use::Read }
}

const fn unread(prefix: &'static str, number: Number, magic: u32, what: &'static str) -> Kind {
    Kind { prefix, number, suffix: "", magic, usage: Use::Unread(what, Layout::Entries) }
}

const fn mixed(prefix: &'static str, number: Number, magic: u32, what: &'static str) -> Kind {
    Kind { prefix, number, suffix: "", magic, usage: Use::Unread(what, Layout::Mixed) }
}

const fn raw(prefix: &'static str, number: Number, suffix: &'static str, what: &'static str) -> Kind {
    Kind { prefix, number, suffix, magic: 0, usage: Use::Unread(what, Layout::Raw) }
}

use Number::{Any, Decimal, Hex, None as One};

pub(crate) static INVENTORY: Kind = read("inventory", One, 0x5831_3116);
pub(crate) static PSTREE: Kind = read("pstree", One, 0x5027_3030);
pub(crate) static CORE: Kind = read("core-", Decimal, 0x5505_3847);
pub(crate) static IDS: Kind = read("ids-", Decimal, 0x5443_2030);
pub(crate) static MM: Kind = read("mm-", Decimal, 0x5749_2820);
pub(crate) static PAGEMAP: Kind = read("pagemap-", Decimal, 0x5608_4025);
pub(crate) static PAGEMAP_SHMEM: Kind = read("pagemap-shmem-", Decimal, 0x5608_4025);
pub(crate) static PAGES: Kind = read("pages-", Decimal, 0);
pub(crate) static FS: Kind = read("fs-", Decimal, 0x5140_3912);
pub(crate) static FDINFO: Kind = read("fdinfo-", Decimal, 0x5621_3732);
pub(crate) static FILES: Kind = read("files", One, 0x5630_3138);
pub(crate) static PIPES_DATA: Kind = read("pipes-data", One, 0x5645_3709);
pub(crate) static FIFO_DATA: Kind = read("fifo-data", One, 0x5933_3054);
/// What epoll files watch, where it is not in `files.img` yet.
pub(crate) static EVENTPOLL_TFD: Kind = read("eventpoll-tfd", One, 0x4443_3746);
pub(crate) static SK_QUEUES: Kind = read("sk-queues", One, 0x5626_4026);
pub(crate) static MEMFD: Kind = read("memfd", One, 0x4845_3499);
pub(crate) static REMAP_FPATH: Kind = read("remap-fpath", One, 0x5913_3954);
pub(crate) static GHOST_FILE: Kind = read("ghost-file-", Hex, 0x5258_3605);
pub(crate) static CGROUP: Kind = read("cgroup", One, 0x5938_3330);
pub(crate) static FILELOCKS: Kind = read("filelocks", One, 0x5432_3616);
pub(crate) static SECCOMP: Kind = read("seccomp", One, 0x6441_3049);
/// The clocks at the dump of a time namespace; 0: that of CRIU itself.
pub(crate) static CLOCKS: Kind = read("timens-", Decimal, 0x4311_4433);
pub(crate) static IPC_VAR: Kind = read("ipcns-var-", Decimal, 0x5311_5007);
pub(crate) static IPC_SHM: Kind = read("ipcns-shm-", Decimal, 0x4628_3044);
pub(crate) static IPC_MSG: Kind = read("ipcns-msg-", Decimal, 0x5545_3737);
pub(crate) static IPC_SEM: Kind = read("ipcns-sem-", Decimal, 0x5957_3019);

/// What regrow reads.
static READ: &[&Kind] = &[
    &INVENTORY,
    &PSTREE,
    &CORE,
    &IDS,
    &MM,
    &PAGEMAP,
    &PAGEMAP_SHMEM,
    &PAGES,
    &FS,
    &FDINFO,
    &FILES,
    &PIPES_DATA,
    &FIFO_DATA,
    &EVENTPOLL_TFD,
    &SK_QUEUES,
    &MEMFD,
    &REMAP_FPATH,
    &GHOST_FILE,
    &CGROUP,
    &FILELOCKS,
    &SECCOMP,
    &CLOCKS,
    &IPC_VAR,
    &IPC_SHM,
    &IPC_MSG,
    &IPC_SEM,
];

/// What regrow knows and does not read.
static REST: &[Kind] = &[
    // Describes the CPU of the dump (`criu cpuinfo`); wanted once its features are compared.
    Kind { prefix: "cpuinfo", number: One, suffix: "", magic: 0x6140_4013, usage: Use::Ignored },
    // Features of tasks.
    unread("apparmor", One, 0x5942_3047, "AppArmor policies"),
    // Open files.
    unread("tty-info", One, 0x5945_3036, "terminals"),
    unread("tty-data", One, 0x5941_3026, "data queued in terminals"),
    mixed("tcp-stream-", Hex, 0x5146_5506, "a TCP connection"),
    mixed("bpfmap-data", One, 0x6432_4033, "contents of BPF maps"),
    unread("bpfmap-file", One, 0x5750_6142, "BPF maps"),
    // One entry beside a pidfd whose process has gone.
    unread("pidfd", One, 0x5443_5556, "pidfds"),
    // Namespaces.
    unread("utsns-", Decimal, 0x5447_3203, "a UTS namespace"),
    unread("userns-", Decimal, 0x5547_4906, "a user namespace"),
    unread("pidns-", Decimal, 0x6115_7326, "a pid namespace"),
    unread("mountpoints-", Decimal, 0x5556_3928, "mounts of a mount namespace"),
    unread("netdev-", Decimal, 0x5737_3951, "devices of a network namespace"),
    unread("netns-", Decimal, 0x5593_3752, "a network namespace"),
    raw("netns-ct-", Decimal, "", "connection tracking of a network namespace"),
    raw("netns-exp-", Decimal, "", "connection tracking of a network namespace"),
    raw("ifaddr-", Decimal, "", "addresses of a network namespace"),
    raw("route-", Decimal, "", "routes of a network namespace"),
    raw("route6-", Decimal, "", "routes of a network namespace"),
    raw("rule-", Decimal, "", "routing rules of a network namespace"),
    raw("iptables-", Decimal, "", "iptables of a network namespace"),
    raw("ip6tables-", Decimal, "", "ip6tables of a network namespace"),
    raw("nftables-", Decimal, "", "nftables of a network namespace"),
    raw("tmpfs-", Decimal, ".tar.gz", "contents of a tmpfs"),
    raw("tmpfs-dev-", Decimal, ".tar.gz", "contents of a devtmpfs"),
    unread("autofs-", Decimal, 0x4935_3943, "an autofs mount"),
    unread("binfmt-misc", One, 0x6734_3323, "binfmt_misc entries"),
    unread("binfmt-misc-", Decimal, 0x6734_3323, "binfmt_misc entries"),
    // Written by versions before 3.x, one image a kind of file; replaced by `files.img`.
    unread("reg-files", One, 0x5036_3636, "open files (old format)"),
    unread("ext-files", One, 0x5925_5641, "external files (old format)"),
    unread("ns-files", One, 0x6139_4011, "namespace files (old format)"),
    unread("eventfd", One, 0x4452_3722, "eventfds (old format)"),
    unread("eventpoll", One, 0x4502_3858, "epoll files (old format)"),
    unread("signalfd", One, 0x5732_3820, "signalfds (old format)"),
    unread("inotify", One, 0x4842_4431, "inotify files (old format)"),
    unread("inotify-wd", One, 0x5456_2009, "inotify watches (old format)"),
    unread("fanotify", One, 0x5509_6122, "fanotify files (old format)"),
    unread("fanotify-mark", One, 0x5650_6035, "fanotify marks (old format)"),
    unread("pipes", One, 0x5651_3555, "pipes (old format)"),
    unread("fifo", One, 0x5836_4939, "FIFOs (old format)"),
    unread("unixsk", One, 0x5437_3943, "unix sockets (old format)"),
    unread("inetsk", One, 0x5644_3851, "inet sockets (old format)"),
    unread("packetsk", One, 0x6045_4618, "packet sockets (old format)"),
    unread("netlinksk", One, 0x5800_5614, "netlink sockets (old format)"),
    unread("tty", One, 0x5943_3025, "open terminals (old format)"),
    unread("tunfile", One, 0x5714_3751, "tun files (old format)"),
    unread("timerfd", One, 0x5049_3712, "timerfds (old format)"),
    // Written by old versions, one image a task; moved into `core-PID.img` and `mm-PID.img`.
    unread("vmas-", Decimal, 0x5412_3737, "mappings (old format)"),
    unread("sigacts-", Decimal, 0x5534_4201, "signal actions (old format)"),
    unread("itimers-", Decimal, 0x5746_4056, "interval timers (old format)"),
    unread("posix-timers-", Decimal, 0x5260_3957, "POSIX timers (old format)"),
    unread("creds-", Decimal, 0x5402_3547, "credentials (old format)"),
    unread("rlimit-", Decimal, 0x5711_3925, "resource limits (old format)"),
    // Plugins.
    raw("amdgpu-", Any, "", "state of an AMD GPU"),
    unread("signal-s-", Decimal, 0x5925_5647, "pending signals (old format)"),
    unread("signal-p-", Decimal, 0x5925_5647, "pending signals (old format)"),
    raw("pages-shmem-", Decimal, "", "shared memory (old format)"),
];

fn all() -> impl Iterator<Item = &'static Kind> {
    READ.iter().copied().chain(REST)
}

/// The kind of an image and the number in its name, by the name of the file.
pub(crate) fn recognise(name: &str) -> Option<(&'static Kind, u64)> {
    all().find_map(|kind| kind.matches(name).map(|number| (kind, number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: Option<(&str, u64)>) {
        let found = recognise(name).map(|(kind, number)| (kind.prefix, number));
        assert_eq!(found, expected, "{name}");
    }

    #[test]
    fn names_are_recognised() {
        check("inventory.img", Some(("inventory", 0)));
        check("core-17.img", Some(("core-", 17)));
        check("pagemap-17.img", Some(("pagemap-", 17)));
        check("pagemap-shmem-99999999999.img", Some(("pagemap-shmem-", 99_999_999_999)));
        check("ghost-file-1f.img", Some(("ghost-file-", 31)));
        check("timens-0.img", Some(("timens-", 0)));
        check("timens-9.img", Some(("timens-", 9)));
        check("tmpfs-7.tar.gz.img", Some(("tmpfs-", 7)));
        check("tmpfs-dev-7.tar.gz.img", Some(("tmpfs-dev-", 7)));
        check("binfmt-misc-3.img", Some(("binfmt-misc-", 3)));
        check("signal-p-4.img", Some(("signal-p-", 4)));
        check("amdgpu-pages-1-00a0.img", Some(("amdgpu-", 0)));
    }

    #[test]
    fn other_names_are_not() {
        check("core-.img", None);
        check("core-017.img", None);
        check("core-+17.img", None);
        check("core-17", None);
        check("cores-17.img", None);
        check("pagemap-shmem-x.img", None);
        check(".img", None);
        check("encryption.img", None);
    }

    #[test]
    fn magic_numbers_are_told_apart() {
        // Two kinds may share a magic (both pagemaps, both queues of signals, both versions of
        // binfmt_misc) and raw ones have none; every other magic is of one kind only.
        let mut magics: Vec<u32> = all().map(|k| k.magic).filter(|m| *m != 0).collect();
        let all = magics.len();
        magics.sort_unstable();
        magics.dedup();
        assert_eq!(all - magics.len(), 3);
    }
}
