//! Calls about IPC namespaces and System V objects.
//!
//! # Sources
//! unshare(2), shmget(2), shmctl(2), shmat(2), msgget(2), msgsnd(2), semget(2), semctl(2); uapi/asm-generic/ipcbuf.h,
//! shmbuf.h, msgbuf.h, uapi/asm/sembuf.h.

use regrow_graph::verify::{Effect, IpcEffect, IpcKind, MemoryEffect};

use super::super::abi::Check;
use super::{Call, Lift};

/// Lengths of `struct shmid64_ds`, `msqid64_ds`, `semid64_ds` in words.
const SHM_WORDS: u64 = 14;
const MSG_WORDS: u64 = 15;
const SEM_WORDS: u64 = 13;
const QBYTES: usize = 11;
/// uapi/linux/shm.h, sem.h.
const SHM_LOCK: i32 = 11;
const SETALL: i32 = 17;
const SHM_RDONLY: u64 = 0o10000;
const SHM_HUGETLB: u64 = 0o4000;
/// The logarithm of the size of huge pages, where `mmap(2)` has it, too.
const SHM_HUGE_SIZE: u64 = 0x3f << 26;

impl Call<'_, '_> {
    /// IPC; `None`: the call has nothing to do with it.
    pub(super) fn ipc(&self) -> Lift<Option<Effect>> {
        let effect: Lift<IpcEffect> = match libc::c_long::from(self.record.nr) {
            libc::SYS_unshare => {
                self.gives_zero()?;
                if self.arg(0) != libc::CLONE_NEWIPC as u64 {
                    return Err(format!("flags {:#x}", self.arg(0)));
                }
                Ok(IpcEffect::NewNamespace)
            }
            libc::SYS_shmget => self.make(IpcKind::Segment, self.arg(1), self.arg(2)),
            libc::SYS_msgget => self.make(IpcKind::Queue, 0, self.arg(1)),
            libc::SYS_semget => {
                let count = u64::from(self.low(1));
                self.lifter.sets.borrow_mut().insert((self.pid, self.record.expect), count);
                self.make(IpcKind::Semaphores, count, self.arg(2))
            }
            libc::SYS_shmctl => {
                self.gives_zero()?;
                let id = self.low(0);
                match self.low(1) as i32 {
                    libc::IPC_SET => self.set(IpcKind::Segment, self.arg(2), SHM_WORDS),
                    libc::IPC_RMID => Ok(IpcEffect::RemoveSegment { id }),
                    SHM_LOCK => Ok(IpcEffect::LockSegment { id }),
                    command => Err(format!("command {command}")),
                }
            }
            libc::SYS_msgctl => {
                self.gives_zero()?;
                match self.low(1) as i32 {
                    libc::IPC_SET => self.set(IpcKind::Queue, self.arg(2), MSG_WORDS),
                    command => Err(format!("command {command}")),
                }
            }
            libc::SYS_semctl => {
                self.gives_zero()?;
                match self.low(2) as i32 {
                    libc::IPC_SET => self.set(IpcKind::Semaphores, self.arg(3), SEM_WORDS),
                    SETALL => self.set_all(),
                    command => Err(format!("command {command}")),
                }
            }
            libc::SYS_msgsnd => {
                self.gives_zero()?;
                let [_, message, len, flags, ..] = self.record.args;
                // Without it the call would wait where the queue is full.
                if flags != libc::IPC_NOWAIT as u64 {
                    return Err(format!("flags {flags:#x}"));
                }
                let kind = self.lifter.array::<1>(message)?[0];
                let data = self.lifter.input(message.saturating_add(8), len)?.to_vec();
                Ok(IpcEffect::Send { queue: self.low(0), kind, data })
            }
            libc::SYS_shmat => {
                let [_, at, flags, ..] = self.record.args;
                self.gives_exactly(at)?;
                if flags & !SHM_RDONLY != 0 || at == 0 {
                    return Err(format!("at {at:#x}, flags {flags:#x}"));
                }
                let read_only = flags != 0;
                return Ok(Some(Effect::Memory(MemoryEffect::Attach { id: self.low(0), at, read_only })));
            }
            _ => return Ok(None),
        };
        effect.map(|effect| Some(Effect::Ipc(effect)))
    }

    /// A new one: what is there already would not do.
    fn make(&self, kind: IpcKind, size: u64, flags: u64) -> Lift<IpcEffect> {
        let new = (libc::IPC_CREAT | libc::IPC_EXCL) as u64;
        let may_be_huge = if kind == IpcKind::Segment { SHM_HUGETLB | SHM_HUGE_SIZE } else { 0 };
        if flags & new != new || flags & !(new | 0o777 | may_be_huge) != 0 {
            return Err(format!("flags {flags:#o}"));
        }
        let huge = match (flags & SHM_HUGETLB != 0, flags & SHM_HUGE_SIZE) {
            (false, 0) => 0,
            (true, size) if size != 0 => size as u32 | libc::MAP_HUGETLB as u32,
            // The kernel would choose, or ignore it.
            _ => return Err(format!("flags {flags:#o}")),
        };
        let id = match self.check {
            Check::Equal => i32::try_from(self.record.expect).ok().and_then(|id| u32::try_from(id).ok()),
            Check::Success | Check::Any => None,
        };
        let id = id.ok_or_else(|| "its id is not checked".to_owned())?;
        Ok(IpcEffect::Make { kind, id, key: self.low(0), size, mode: (flags & 0o777) as u32, huge })
    }

    fn set(&self, kind: IpcKind, ds: u64, words: u64) -> Lift<IpcEffect> {
        let words = self.lifter.words(ds, words)?;
        let [first, second, third] = [0, 1, 2].map(|at| words.get(at).copied().unwrap_or(0));
        Ok(IpcEffect::SetOwner {
            kind,
            id: self.low(0),
            uid: (first >> 32) as u32,
            gid: second as u32,
            mode: (third >> 32) as u32,
            most_bytes: if kind == IpcKind::Queue { words.get(QBYTES).copied() } else { None },
        })
    }

    /// As many as the set has, which is known of what the same task has made.
    fn set_all(&self) -> Lift<IpcEffect> {
        let count = self.lifter.sets.borrow().get(&(self.pid, u64::from(self.low(0)))).copied();
        let count = count.ok_or_else(|| format!("of set {}, which it has not made", self.low(0)))?;
        let bytes = self.lifter.input(self.arg(3), count.saturating_mul(2))?;
        let values = bytes.chunks_exact(2).map(|value| u16::from_ne_bytes([value[0], value[1]]));
        Ok(IpcEffect::SetValues { set: self.low(0), values: values.collect() })
    }
}
