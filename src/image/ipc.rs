//! An IPC namespace: `ipcns-var-N.img`, `ipcns-shm-N.img`, `ipcns-msg-N.img`, `ipcns-sem-N.img`.
//!
//! Turns them into an [`IpcNs`]. What a segment holds is not there but in `pagemap-shmem-ID.img`, as that of other shared
//! memory (CRIU since 2.0 says so by `in_pagemaps`); the bytes of a message and the values of a semaphore set follow
//! their entries, filled up to eight bytes. It does not know who has a segment attached: that is in the mappings.
//!
//! Permissions have two bits above the usual nine (linux/shm.h, linux/ipc_namespace.h): a segment that is marked for
//! removal, and one that is locked. CRIU stores them, and loses them in its own restore, where they have the values of
//! IPC_CREAT and IPC_EXCL.
//!
//! Example: an entry with id 98307, key 0x2a, mode 01640 and 12288 bytes is a segment of three pages that goes with
//! its last attachment; CRIU has stored 0 for its key, as the kernel does from the moment it is marked.
//!
//! # Sources
//! `criu/ipc_ns.c`, `images/ipc-*.proto`; shmctl(2), msgctl(2), semctl(2), sysvipc(7).

use std::collections::BTreeSet;

use super::error::{Errors, ImageError};
use super::file::Entry;
use super::files::pipe::unreadable_rest;
use super::huge::{SHM_HUGETLB, page_bytes};
use super::magic;
use super::model::{Blob, Image, Origin};
use super::proto::{IpcDescEntry, IpcMsg, IpcMsgEntry, IpcSemEntry, IpcShmEntry, IpcVarEntry};
use super::read::Dir;

/// `SHM_DEST`: it goes with its last attachment.
pub const SHM_DEST: u32 = 0o1000;
/// `SHM_LOCKED`: its pages stay in memory.
pub const SHM_LOCKED: u32 = 0o2000;
/// Most semaphores of one set (`SEMMSL` cannot be set higher, linux/ipc.h: `IPCMNI`); what one image can say in 16 bits.
const SEMAPHORES_MAX: u32 = u16::MAX as u32;

/// An IPC namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IpcNs {
    /// Its limits.
    pub vars: IpcVars,
    /// Shared memory.
    pub segments: Vec<SysvSegment>,
    /// Message queues.
    pub queues: Vec<SysvQueue>,
    /// Semaphore sets.
    pub semaphores: Vec<SysvSemaphores>,
}

/// What `/proc/sys` says of an IPC namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct IpcVars {
    /// `kernel.sem`: four numbers.
    pub sem: Vec<u32>,
    pub msgmax: u32,
    pub msgmnb: u32,
    pub msgmni: u32,
    pub auto_msgmni: u32,
    pub shmmax: u64,
    pub shmall: u64,
    pub shmmni: u32,
    pub shm_rmid_forced: u32,
    /// `fs.mqueue`: `queues_max`, `msg_max`, `msgsize_max`, `msg_default`, `msgsize_default`. 0: the dumping kernel had
    /// none.
    pub mqueue: [u32; 5],
    /// Ids that the next of each kind is to get (`kernel.msg_next_id`, `sem_next_id`, `shm_next_id`).
    pub next_ids: [Option<u32>; 3],
}

/// Who may use a System V object (`struct ipc_perm`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SysvPerm {
    pub id: u32,
    /// 0 (`IPC_PRIVATE`): none.
    pub key: u32,
    pub uid: u32,
    pub gid: u32,
    /// Who made it.
    pub cuid: u32,
    pub cgid: u32,
    /// Permissions; of a segment also [`SHM_DEST`] and [`SHM_LOCKED`].
    pub mode: u32,
}

/// A segment of shared memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysvSegment {
    /// Id, key, owner, permissions.
    pub perm: SysvPerm,
    /// Its length as it was asked for.
    pub size_bytes: u64,
    /// `SHM_HUGETLB` and the size of its pages, where it has huge ones.
    pub huge: Option<u32>,
    /// Entry.
    pub origin: Origin,
}

/// A message queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysvQueue {
    /// Id, key, owner, permissions.
    pub perm: SysvPerm,
    /// Most bytes that may wait in it.
    pub most_bytes: u32,
    /// What waits, the oldest first.
    pub messages: Vec<SysvMessage>,
    /// Entry.
    pub origin: Origin,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysvMessage {
    /// Its type.
    pub kind: u64,
    /// Its bytes.
    pub data: Blob,
}

/// A set of semaphores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysvSemaphores {
    /// Id, key, owner, permissions.
    pub perm: SysvPerm,
    /// How many.
    pub count: u32,
    /// Their values, two bytes each.
    pub values: Blob,
    /// Entry.
    pub origin: Origin,
}

/// The namespace with the number `id`.
pub(crate) fn read_ipc(dir: &Dir<'_>, id: u32, errors: &mut Errors) -> Option<IpcNs> {
    let vars: Option<IpcVarEntry> =
        dir.read_one(Image::IpcVar(id), &magic::IPC_VAR, "an IPC namespace has one", errors);
    let ns = IpcNs {
        vars: vars.map(|e| read_vars(Image::IpcVar(id), e, errors))?,
        segments: read_segments(dir, Image::IpcShm(id), errors),
        queues: read_queues(dir, Image::IpcMsg(id), errors),
        semaphores: read_semaphores(dir, Image::IpcSem(id), errors),
    };
    Some(ns)
}

fn read_vars(image: Image, e: IpcVarEntry, errors: &mut Errors) -> IpcVars {
    if e.sem_ctls.len() != 4 {
        errors.inconsistent(image, 0, format!("kernel.sem has {} numbers, 4 are expected", e.sem_ctls.len()));
    }
    IpcVars {
        sem: e.sem_ctls,
        msgmax: e.msg_ctlmax,
        msgmnb: e.msg_ctlmnb,
        msgmni: e.msg_ctlmni,
        auto_msgmni: e.auto_msgmni,
        shmmax: e.shm_ctlmax,
        shmall: e.shm_ctlall,
        shmmni: e.shm_ctlmni,
        shm_rmid_forced: e.shm_rmid_forced,
        mqueue: [
            e.mq_queues_max,
            e.mq_msg_max,
            e.mq_msgsize_max,
            e.mq_msg_default.unwrap_or(0),
            e.mq_msgsize_default.unwrap_or(0),
        ],
        next_ids: [e.msg_next_id, e.sem_next_id, e.shm_next_id],
    }
}

/// Ids and keys of what is in one image: each is there once.
#[derive(Default)]
struct Known {
    ids: BTreeSet<u32>,
    keys: BTreeSet<u32>,
}

impl Known {
    fn perm(&mut self, e: &IpcDescEntry, entry: &Entry<'_>, image: Image, errors: &mut Errors) -> SysvPerm {
        // An id is a non-negative `int` to its users (shmget(2)).
        if e.id > i32::MAX as u32 {
            errors.inconsistent(image, entry.index, format!("id {:#x}", e.id));
        }
        if !self.ids.insert(e.id) {
            errors.inconsistent(image, entry.index, format!("id {} a second time", e.id));
        }
        if e.key != 0 && !self.keys.insert(e.key) {
            errors.inconsistent(image, entry.index, format!("key {:#x} a second time", e.key));
        }
        let (uid, gid, cuid, cgid) = (e.uid, e.gid, e.cuid, e.cgid);
        SysvPerm { id: e.id, key: e.key, uid, gid, cuid, cgid, mode: e.mode }
    }
}

fn odd_mode(perm: &SysvPerm, known: u32, entry: &Entry<'_>, image: Image, errors: &mut Errors) {
    let unknown = perm.mode & !known;
    if unknown != 0 {
        errors.unsupported(
            image,
            entry.index,
            format!("id {}: unknown permission bits {unknown:#o}", perm.id),
        );
    }
}

fn read_segments(dir: &Dir<'_>, image: Image, errors: &mut Errors) -> Vec<SysvSegment> {
    let (mut segments, mut known) = (Vec::new(), Known::default());
    dir.for_each(image, &magic::IPC_SHM, errors, |_, entry, errors| {
        let Some(e) = errors.decode::<IpcShmEntry>(entry) else { return Ok(()) };
        let perm = known.perm(&e.desc, entry, image, errors);
        odd_mode(&perm, 0o777 | SHM_DEST | SHM_LOCKED, entry, image, errors);
        if e.in_pagemaps != Some(true) {
            // Behind the entry are its pages then.
            return Err(ImageError::Unsupported {
                file: entry.file.to_owned(),
                entry: Some(entry.index),
                reason: "contents of System V shared memory beside its entry: CRIU before 2.0".to_owned(),
            });
        }
        if e.size == 0 || e.size > i64::MAX as u64 {
            errors.inconsistent(image, entry.index, format!("a segment of {} bytes", e.size));
        }
        if let Some(flag) = e.hugetlb_flag
            && page_bytes(flag).is_none_or(|_| flag & SHM_HUGETLB == 0)
        {
            let reason = format!("id {}: flags {flag:#x} do not say how large its huge pages are", e.desc.id);
            errors.inconsistent(image, entry.index, reason);
        }
        let origin = Origin { image, entry: entry.index };
        segments.push(SysvSegment { perm, size_bytes: e.size, huge: e.hugetlb_flag, origin });
        Ok(())
    });
    segments
}

/// Bytes behind an entry are filled up to a multiple of eight.
fn padded(len: u64) -> u64 {
    len.next_multiple_of(8)
}

fn read_queues(dir: &Dir<'_>, image: Image, errors: &mut Errors) -> Vec<SysvQueue> {
    let (mut queues, mut known): (Vec<SysvQueue>, _) = (Vec::new(), Known::default());
    // Of the last queue: messages that are still to come.
    let mut rest = 0u32;
    dir.for_each(image, &magic::IPC_MSG, errors, |entries, entry, errors| {
        if rest > 0 {
            let Some(e) = errors.decode::<IpcMsg>(entry) else { return Err(unreadable_rest(entry)) };
            rest -= 1;
            let blob = entries.long_payload(image, padded(u64::from(e.msize)))?;
            if !i64::try_from(e.mtype).is_ok_and(|kind| kind > 0) {
                errors.inconsistent(image, entry.index, format!("a message of type {}", e.mtype as i64));
            } else if let Some(queue) = queues.last_mut() {
                let data = Blob { len_bytes: u64::from(e.msize), ..blob };
                queue.messages.push(SysvMessage { kind: e.mtype, data });
            }
            return Ok(());
        }
        let Some(e) = errors.decode::<IpcMsgEntry>(entry) else { return Err(unreadable_rest(entry)) };
        let perm = known.perm(&e.desc, entry, image, errors);
        odd_mode(&perm, 0o777, entry, image, errors);
        rest = e.qnum;
        let origin = Origin { image, entry: entry.index };
        queues.push(SysvQueue { perm, most_bytes: e.qbytes, messages: Vec::new(), origin });
        Ok(())
    });
    if rest > 0 {
        errors.inconsistent(image, None, format!("{rest} messages are missing at its end"));
    }
    queues
}

fn read_semaphores(dir: &Dir<'_>, image: Image, errors: &mut Errors) -> Vec<SysvSemaphores> {
    let (mut sets, mut known) = (Vec::new(), Known::default());
    dir.for_each(image, &magic::IPC_SEM, errors, |entries, entry, errors| {
        let Some(e) = errors.decode::<IpcSemEntry>(entry) else { return Err(unreadable_rest(entry)) };
        let perm = known.perm(&e.desc, entry, image, errors);
        odd_mode(&perm, 0o777, entry, image, errors);
        if e.nsems == 0 || e.nsems > SEMAPHORES_MAX {
            errors.inconsistent(image, entry.index, format!("a set of {} semaphores", e.nsems));
        }
        let len_bytes = 2 * u64::from(e.nsems);
        let blob = entries.long_payload(image, padded(len_bytes))?;
        let (values, origin) = (Blob { len_bytes, ..blob }, Origin { image, entry: entry.index });
        sets.push(SysvSemaphores { perm, count: e.nsems, values, origin });
        Ok(())
    });
    sets
}
