//! The IPC namespace and what lives in it.

use regrow_graph::ids::Fd;

use super::Lowering;
use crate::image::huge::{MAP_HUGETLB, SHM_HUGETLB};
use crate::resolve::recipe::{HugeView, IpcRecipe, SysvObject};

/// uapi/linux/ipc.h.
const IPC_CREAT: u64 = 0o1000;
const IPC_EXCL: u64 = 0o2000;
const IPC_RMID: u64 = 0;
const IPC_SET: u64 = 1;
const IPC_NOWAIT: u64 = 0o4000;
/// uapi/linux/shm.h.
const SHM_LOCK: u64 = 11;
const SHM_RDONLY: u64 = 0o10000;
/// uapi/linux/sem.h.
const SETALL: u64 = 17;
/// `setresuid(2)`: this id stays.
const KEEP: u64 = u32::MAX as u64;

/// Words of `struct shmid64_ds`, `msqid64_ds`, `semid64_ds` (uapi/asm-generic/shmbuf.h, msgbuf.h, uapi/asm/sembuf.h).
const SHM_WORDS: usize = 14;
const MSG_WORDS: usize = 15;
const SEM_WORDS: usize = 13;
/// The word of `msqid64_ds` that says how many bytes may wait.
const QBYTES_WORD: usize = 11;

impl Lowering<'_> {
    pub(super) fn new_ipc_namespace(&mut self) {
        self.tape.call(libc::SYS_unshare, &[libc::CLONE_NEWIPC as u64], 0);
    }

    /// All of it. Files are opened at one number, one after another; the last stays.
    pub(super) fn ipc(&mut self, recipe: &IpcRecipe, at: &[Fd], cloexec: bool) {
        let fd = at.first().map_or(u64::MAX, |fd| u64::from(*fd));
        let mut setter = Setter { fd, cloexec, is_open: false };
        for (path, text) in &recipe.early {
            self.set_variable(&mut setter, path, text);
        }
        for segment in &recipe.segments {
            let object = &segment.object;
            self.make(&mut setter, recipe, object, "shm_next_id", |it, flags| {
                let args = [u64::from(object.key), segment.size_bytes, flags | huge_flags(segment.huge)];
                it.tape.call(libc::SYS_shmget, &args, u64::from(object.id));
            });
            let id = u64::from(object.id);
            if let Some(ds) = own(object) {
                let ds = self.asm.words(&padded::<SHM_WORDS>(&ds));
                self.tape.call(libc::SYS_shmctl, &[id, IPC_SET, ds], 0);
            }
            for (address, read_only) in &segment.attached {
                let flags = if *read_only { SHM_RDONLY } else { 0 };
                self.tape.call(libc::SYS_shmat, &[id, *address, flags], *address);
            }
            if segment.is_locked {
                self.tape.call(libc::SYS_shmctl, &[id, SHM_LOCK, 0], 0);
            }
            if segment.is_removed {
                self.tape.call(libc::SYS_shmctl, &[id, IPC_RMID, 0], 0);
            }
        }
        for queue in &recipe.queues {
            let object = &queue.object;
            self.make(&mut setter, recipe, object, "msg_next_id", |it, flags| {
                it.tape.call(libc::SYS_msgget, &[u64::from(object.key), flags], u64::from(object.id));
            });
            let id = u64::from(object.id);
            let mut ds = padded::<MSG_WORDS>(&perm(object));
            ds[QBYTES_WORD] = queue.most_bytes;
            let ds = self.asm.words(&ds);
            if !queue.is_full {
                self.tape.call(libc::SYS_msgctl, &[id, IPC_SET, ds], 0);
            }
            for (kind, bytes) in &queue.messages {
                // struct msgbuf: type, bytes.
                let message = [&kind.to_ne_bytes(), bytes.as_slice()].concat();
                let message = self.asm.data(&message, 8);
                self.tape.call(libc::SYS_msgsnd, &[id, message, bytes.len() as u64, IPC_NOWAIT], 0);
            }
            if queue.is_full {
                self.tape.call(libc::SYS_msgctl, &[id, IPC_SET, ds], 0);
            }
        }
        for set in &recipe.semaphores {
            let object = &set.object;
            let count = set.values.len() as u64;
            self.make(&mut setter, recipe, object, "sem_next_id", |it, flags| {
                it.tape.call(libc::SYS_semget, &[u64::from(object.key), count, flags], u64::from(object.id));
            });
            let id = u64::from(object.id);
            if let Some(ds) = own(object) {
                let ds = self.asm.words(&padded::<SEM_WORDS>(&ds));
                self.tape.call(libc::SYS_semctl, &[id, 0, IPC_SET, ds], 0);
            }
            let values: Vec<u8> = set.values.iter().flat_map(|value| value.to_ne_bytes()).collect();
            let values = self.asm.data(&values, 2);
            self.tape.call(libc::SYS_semctl, &[id, 0, SETALL, values], 0);
        }
        for (path, text) in &recipe.late {
            self.set_variable(&mut setter, path, text);
        }
    }

    /// A view of a segment of huge pages, wherever it is and whatever part it shows: nothing else must be free for it but
    /// its own place.
    pub(super) fn attach_huge(&mut self, view: &HugeView) {
        let HugeView { id, segment_len, window, offset, start, len, read_only } = *view;
        let flags = if read_only { SHM_RDONLY } else { 0 };
        self.tape.call(libc::SYS_shmat, &[u64::from(id), window, flags], window);
        let (from, behind) = (window + offset, window + offset + len);
        let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
        self.tape.call(libc::SYS_mremap, &[from, len, len, flags, start], start);
        for (rest, end) in [(window, from), (behind, window + segment_len)] {
            if rest < end {
                self.unmap(rest, end - rest);
            }
        }
    }

    /// Makes one with its id, by who made it: for that the effective ids change for a moment, while the saved ones stay.
    fn make(
        &mut self,
        setter: &mut Setter,
        recipe: &IpcRecipe,
        object: &SysvObject,
        next_id: &str,
        make: impl FnOnce(&mut Self, u64),
    ) {
        self.set_variable(setter, &format!("/proc/sys/kernel/{next_id}"), &object.id.to_string());
        let [uid, gid] = recipe.own_ids.map(u64::from);
        let (cuid, cgid) = (u64::from(object.cuid), u64::from(object.cgid));
        if cgid != gid {
            self.tape.call(libc::SYS_setresgid, &[KEEP, cgid, KEEP], 0);
        }
        if cuid != uid {
            self.tape.call(libc::SYS_setresuid, &[KEEP, cuid, KEEP], 0);
        }
        make(self, u64::from(object.mode) | IPC_CREAT | IPC_EXCL);
        if cuid != uid {
            self.tape.call(libc::SYS_setresuid, &[KEEP, uid, KEEP], 0);
        }
        if cgid != gid {
            self.tape.call(libc::SYS_setresgid, &[KEEP, gid, KEEP], 0);
        }
        if (cuid, cgid) != (uid, gid)
            && let Some(dumpable @ 0..=1) = recipe.own_dumpable
        {
            self.prctl(libc::PR_SET_DUMPABLE, u64::from(dumpable));
        }
    }

    /// A number is written from the start of its file only (sysctl/kernel.rst, `sysctl_writes_strict`): it is opened each time.
    fn set_variable(&mut self, setter: &mut Setter, path: &str, text: &str) {
        if setter.is_open {
            self.tape.call(libc::SYS_close, &[setter.fd], 0);
        }
        setter.is_open = true;
        let path = self.asm.text(path.as_bytes());
        let flags = libc::O_WRONLY | if setter.cloexec { libc::O_CLOEXEC } else { 0 };
        self.tape.call(libc::SYS_openat, &[libc::AT_FDCWD as u64, path, flags as u64, 0], setter.fd);
        let len = text.len() as u64;
        let text = self.asm.data(text.as_bytes(), 1);
        self.tape.call(libc::SYS_write, &[setter.fd, text, len], len);
    }
}

/// Flags of `shmget(2)` by those of `mmap(2)`: the size stands at the same place.
fn huge_flags(huge: u32) -> u64 {
    if huge == 0 { 0 } else { u64::from(huge & !MAP_HUGETLB | SHM_HUGETLB) }
}

/// The number that variables are opened at.
struct Setter {
    fd: u64,
    cloexec: bool,
    is_open: bool,
}

/// The start of `struct ipc64_perm` (uapi/asm-generic/ipcbuf.h): key, uid; gid, cuid; cgid, mode. The kernel takes uid,
/// gid and mode.
fn perm(object: &SysvObject) -> [u64; 3] {
    [u64::from(object.uid) << 32, u64::from(object.gid), u64::from(object.mode) << 32]
}

/// What makes another than who made it the owner.
fn own(object: &SysvObject) -> Option<[u64; 3]> {
    ((object.uid, object.gid) != (object.cuid, object.cgid)).then(|| perm(object))
}

fn padded<const N: usize>(perm: &[u64; 3]) -> [u64; N] {
    std::array::from_fn(|at| perm.get(at).copied().unwrap_or(0))
}
