//! What is true before the first record: the host, and the process that the root is born of.

use std::collections::{BTreeMap, BTreeSet};

use regrow_graph::ids::Fd;

/// The host and the launcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Session that the root is born in.
    pub sid: u32,
    /// Process group that the root is born in.
    pub pgid: u32,
    /// Descriptors that it inherits, of which nothing is known but their numbers.
    pub fds: BTreeSet<Fd>,
    /// Mappings that it inherits beside the tapes: first address and the one behind the last.
    pub mappings: Vec<(u64, u64)>,
    /// Capacity of a new pipe, bytes.
    pub pipe_bytes: u32,
    /// `fs.pipe-max-size`, bytes: for those without CAP_SYS_RESOURCE.
    pub pipe_max_bytes: u32,
    /// `net.core.wmem_default`.
    pub wmem_default: u64,
    /// `net.core.rmem_default`.
    pub rmem_default: u64,
    /// `net.core.wmem_max`.
    pub wmem_max: u64,
    /// `net.core.rmem_max`.
    pub rmem_max: u64,
    /// `net.core.somaxconn`.
    pub somaxconn: u32,
    /// `fs.nr_open`.
    pub nr_open: u32,
    /// `kernel.pid_max`.
    pub pid_max: u32,
    /// `fs.suid_dumpable`.
    pub suid_dumpable: u64,
    /// Limits that the root inherits: soft and hard, by `RLIMIT_*`; others have none.
    pub limits: BTreeMap<u32, (u64, u64)>,
    /// Capabilities that the root has in all of its sets but the ambient one; the inheritable is empty.
    pub capabilities: u64,
    /// How many processors there may be.
    pub processors: u32,
    /// How many requests rings of asynchronous I/O may be asked for with.
    pub aio_requests: u64,
    /// Pages of variables below the vDSO's code, bytes.
    pub vvar_bytes: u64,
    /// The vDSO's code, bytes.
    pub vdso_bytes: u64,
    /// Paths that are there. A path that is not among them is taken to be there when it is opened, and not
    /// to be there when it is made.
    pub files: BTreeSet<Vec<u8>>,
    /// Directories of which all is known: below them there is nothing but `files` and what the tapes make.
    pub known: BTreeSet<Vec<u8>>,
    /// Paths of FIFOs that are there.
    pub fifos: BTreeSet<Vec<u8>>,
}

impl Default for Host {
    fn default() -> Host {
        Host {
            sid: 0,
            pgid: 0,
            fds: BTreeSet::from([0, 1, 2, 9]),
            mappings: vec![(0x40_0000, 0x80_0000), (0x7fff_0000_0000, 0x7fff_0020_0000)],
            pipe_bytes: 65536,
            pipe_max_bytes: 1 << 20,
            wmem_default: 212_992,
            rmem_default: 212_992,
            wmem_max: 212_992,
            rmem_max: 212_992,
            somaxconn: 4096,
            nr_open: 1 << 20,
            pid_max: 1 << 22,
            suid_dumpable: 0,
            limits: BTreeMap::new(),
            capabilities: (1 << 41) - 1,
            processors: 2,
            aio_requests: 65536,
            vvar_bytes: 0x4000,
            vdso_bytes: 0x2000,
            files: BTreeSet::new(),
            known: BTreeSet::new(),
            fifos: BTreeSet::new(),
        }
    }
}
