//! IPC namespaces: variables, System V segments, message queues, semaphore sets.
//!
//! What is in the caller's namespace is not known, so nothing can be made there. Attachments are mappings of shared memory;
//! who has how many is what the address spaces say. Times and last users are left out.
//!
//! # Sources
//! sysvipc(7), ipc/util.c (`ipc_idr_alloc`, `ipcctl_obtain_check`), ipc/shm.c, ipc/msg.c (`do_msgsnd`), ipc/sem.c
//! (`semctl_setval`), ipc/ipc_sysctl.c.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use regrow_graph::verify::{IpcEffect, IpcKind};

use super::space::{Backing, Mapping, PAGE, mapping_of};
use super::{Call, World, fails, gives, not_modelled};
use crate::errno::{EACCES, EAGAIN, EEXIST, EINVAL, ENOSPC, EPERM, ERANGE};
use crate::footprint::Thing;
use crate::ids::{Made, SegmentId};

const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_CHECKPOINT_RESTORE: u64 = 1 << 40;
const CAP_SYS_RESOURCE: u64 = 1 << 24;
const CAP_IPC_LOCK: u64 = 1 << 14;
const CAP_IPC_OWNER: u64 = 1 << 15;
/// `SHM_DEST`, `SHM_LOCKED`.
const REMOVED: u32 = 0o1000;
const LOCKED: u32 = 0o2000;
/// `SEMVMX`, `MSGMNB`, `MSGMAX`.
const VALUE_MOST: u16 = 32767;
const MSGMNB: u64 = 16384;
const MSGMAX: u64 = 8192;
const READ: u32 = 1;
const READ_WRITE: u32 = 3;

/// A namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Ipc {
    /// Variables that were set, by path.
    pub variables: BTreeMap<Arc<[u8]>, Arc<[u8]>>,
    /// The id that the next of a kind gets.
    pub next_ids: BTreeMap<IpcKind, u32>,
    /// What lives in it.
    pub objects: BTreeMap<(IpcKind, u32), SysV>,
}

/// A System V object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct SysV {
    pub key: u32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    /// Of a segment with `SHM_DEST` and `SHM_LOCKED`.
    pub mode: u32,
    /// Bytes of a segment, number of semaphores.
    pub size: u64,
    /// Of a segment: `MAP_HUGETLB` and the size of its pages; 0 for the usual ones.
    pub huge: u32,
    /// Of a segment: its memory.
    pub segment: Option<SegmentId>,
    /// It was attached, ever.
    pub was_attached: bool,
    /// Of a queue.
    pub most_bytes: u64,
    /// Of a queue: types and bytes.
    pub messages: Vec<(u64, Vec<u8>)>,
    /// Of a set.
    pub values: Vec<u16>,
}

impl Ipc {
    fn number(&self, name: &str) -> Option<u64> {
        let text = self.variables.get(format!("/proc/sys/kernel/{name}").as_bytes())?;
        std::str::from_utf8(text).ok()?.parse().ok()
    }

    /// Segments that are there no more when only these are attached.
    pub fn vanishing(&self, attached: &BTreeSet<SegmentId>) -> BTreeSet<u32> {
        let is_forced = self.number("shm_rmid_forced").is_some_and(|forced| forced != 0);
        let goes = |object: &SysV| {
            let is_used = object.segment.is_some_and(|segment| attached.contains(&segment));
            !is_used && (object.mode & REMOVED != 0 || is_forced && object.was_attached)
        };
        let segments = self.objects.iter().filter(|((kind, _), _)| *kind == IpcKind::Segment);
        segments.filter(|(_, object)| goes(object)).map(|((_, id), _)| *id).collect()
    }
}

/// Bytes of a page, by the flags that say of huge pages.
fn page_of(huge: u32) -> u64 {
    if huge == 0 { PAGE } else { 1 << (huge >> 26) }
}

/// The kind whose next id is set by a file.
fn next_id_of(path: &[u8]) -> Option<IpcKind> {
    match path {
        b"/proc/sys/kernel/shm_next_id" => Some(IpcKind::Segment),
        b"/proc/sys/kernel/msg_next_id" => Some(IpcKind::Queue),
        b"/proc/sys/kernel/sem_next_id" => Some(IpcKind::Semaphores),
        _ => None,
    }
}

impl World {
    fn ipc_namespace(&mut self, tid: u32) -> Call<Made> {
        self.read(Thing::Thread(tid));
        match self.thread(tid).ipc {
            Some(ns) => Ok(ns),
            None => not_modelled("the caller's IPC namespace"),
        }
    }

    fn ipc_mut(&mut self, ns: Made) -> &mut Ipc {
        self.write(Thing::Ipc(ns));
        Arc::make_mut(self.ipcs.entry(ns).or_default())
    }

    fn can(&mut self, tid: u32, capabilities: u64) -> bool {
        self.read(Thing::Thread(tid));
        self.thread(tid).credentials.effective & capabilities != 0
    }

    /// One that is there; EINVAL where none has the id.
    fn sysv(&mut self, ns: Made, kind: IpcKind, id: u32) -> Call<&mut SysV> {
        match self.ipc_mut(ns).objects.get_mut(&(kind, id)) {
            Some(object) => Ok(object),
            None => fails(EINVAL),
        }
    }

    /// IPC_SET and the like are the owner's, the maker's and root's (`ipcctl_obtain_check`).
    fn owns(&mut self, tid: u32, ns: Made, kind: IpcKind, id: u32) -> Call<()> {
        let may = self.can(tid, CAP_SYS_ADMIN);
        let euid = self.thread(tid).credentials.uids[1];
        let object = self.sysv(ns, kind, id)?;
        if may || [object.uid, object.cuid].contains(&euid) { Ok(()) } else { fails(EPERM) }
    }

    pub(super) fn change_ipc(&mut self, tid: u32, effect: &IpcEffect) -> Call<i64> {
        if *effect == IpcEffect::NewNamespace {
            if !self.can(tid, CAP_SYS_ADMIN) {
                return fails(EPERM);
            }
            let ns = self.made(tid, 0);
            self.write(Thing::Thread(tid));
            self.thread_mut(tid).ipc = Some(ns);
            self.write(Thing::Ipc(ns));
            self.ipcs.insert(ns, Arc::default());
            return Ok(0);
        }
        let ns = self.ipc_namespace(tid)?;
        match effect {
            IpcEffect::NewNamespace => {}
            IpcEffect::Make { kind, id, key, size, mode, huge } => {
                return self.make_sysv(tid, ns, (*kind, *id), *key, (*size, *huge), *mode);
            }
            IpcEffect::SetOwner { kind, id, uid, gid, mode, most_bytes } => {
                self.owns(tid, ns, *kind, *id)?;
                let most = self.ipc_mut(ns).number("msgmnb").unwrap_or(MSGMNB);
                if most_bytes.is_some_and(|bytes| bytes > most) && !self.can(tid, CAP_SYS_RESOURCE) {
                    return fails(EPERM);
                }
                let object = self.sysv(ns, *kind, *id)?;
                (object.uid, object.gid) = (*uid, *gid);
                object.mode = object.mode & !0o777 | mode & 0o777;
                object.most_bytes = most_bytes.unwrap_or(object.most_bytes);
            }
            IpcEffect::LockSegment { id } => {
                if !self.can(tid, CAP_IPC_LOCK) {
                    return not_modelled("a lock within the limit of locked memory");
                }
                let object = self.sysv(ns, IpcKind::Segment, *id)?;
                if object.huge == 0 {
                    object.mode |= LOCKED;
                }
            }
            IpcEffect::RemoveSegment { id } => {
                self.owns(tid, ns, IpcKind::Segment, *id)?;
                let object = self.sysv(ns, IpcKind::Segment, *id)?;
                if !object.was_attached {
                    return not_modelled("a segment that goes at once");
                }
                object.mode |= REMOVED;
                object.key = 0;
            }
            IpcEffect::Send { queue, kind, data } => {
                let most_of_one = self.ipc_mut(ns).number("msgmax").unwrap_or(MSGMAX);
                let may = self.can(tid, CAP_IPC_OWNER);
                let object = self.sysv(ns, IpcKind::Queue, *queue)?;
                if data.len() as u64 > most_of_one
                    || i64::try_from(*kind).is_ok_and(|kind| kind < 1)
                    || *kind > i64::MAX as u64
                {
                    return fails(EINVAL);
                }
                if !may {
                    return fails(EACCES);
                }
                let held: u64 = object.messages.iter().map(|(_, data)| data.len() as u64).sum();
                let count = object.messages.len() as u64 + 1;
                if held + data.len() as u64 > object.most_bytes || count > object.most_bytes {
                    return fails(EAGAIN);
                }
                object.messages.push((*kind, data.clone()));
            }
            IpcEffect::SetValues { set, values } => {
                let may = self.can(tid, CAP_IPC_OWNER);
                let object = self.sysv(ns, IpcKind::Semaphores, *set)?;
                if !may {
                    return fails(EACCES);
                }
                if object.size != values.len() as u64 {
                    return not_modelled("values of another number of semaphores");
                }
                if values.iter().any(|value| *value > VALUE_MOST) {
                    return fails(ERANGE);
                }
                object.values.clone_from(values);
            }
        }
        Ok(0)
    }

    fn make_sysv(
        &mut self,
        tid: u32,
        ns: Made,
        (kind, wanted): (IpcKind, u32),
        key: u32,
        (size, huge): (u64, u32),
        mode: u32,
    ) -> Call<i64> {
        self.read(Thing::Thread(tid));
        let credentials = &self.thread(tid).credentials;
        let (uid, gid) = (credentials.uids[1], credentials.gids[1]);
        if huge != 0 && credentials.effective & CAP_IPC_LOCK == 0 {
            return not_modelled("huge pages within the limit of locked memory, or of a group");
        }
        let segment = (kind == IpcKind::Segment).then(|| SegmentId(self.made(tid, 0)));
        let ipc = self.ipc_mut(ns);
        let of_kind = || ipc.objects.iter().filter(|((of, _), _)| *of == kind);
        if key != 0 && of_kind().any(|(_, object)| object.key == key) {
            return fails(EEXIST);
        }
        if size == 0 && kind != IpcKind::Queue {
            return fails(EINVAL);
        }
        let (most_of_one, most) = match kind {
            IpcKind::Segment => (ipc.number("shmmax"), ipc.number("shmmni")),
            IpcKind::Queue => (None, ipc.number("msgmni")),
            // Four numbers in one.
            IpcKind::Semaphores => (None, None),
        };
        if most_of_one.is_some_and(|most| size > most) {
            return fails(EINVAL);
        }
        if most.is_some_and(|most| of_kind().count() as u64 >= most) {
            return fails(ENOSPC);
        }
        let Some(id) = ipc.next_ids.remove(&kind) else {
            return not_modelled("an id of the kernel's choice");
        };
        if ipc.objects.contains_key(&(kind, id)) {
            return not_modelled("an id that is taken");
        }
        let object = SysV {
            key,
            uid,
            gid,
            cuid: uid,
            cgid: gid,
            mode,
            size,
            huge,
            segment,
            was_attached: false,
            most_bytes: ipc.number("msgmnb").unwrap_or(MSGMNB),
            messages: Vec::new(),
            values: if kind == IpcKind::Semaphores { vec![0; size as usize] } else { Vec::new() },
        };
        ipc.objects.insert((kind, id), object);
        if let Some(segment) = segment {
            self.write(Thing::Pages(segment, 0, size.next_multiple_of(page_of(huge))));
            self.segments.insert(segment, Arc::default());
        }
        gives(id.into(), wanted.into())
    }

    /// `shmat(2)`: the whole of a segment, at an address.
    pub(super) fn attach(&mut self, tid: u32, id: u32, at: u64, read_only: bool) -> Call<i64> {
        let ns = self.ipc_namespace(tid)?;
        if !at.is_multiple_of(PAGE) {
            return fails(EINVAL);
        }
        let may = self.can(tid, CAP_IPC_OWNER);
        let object = self.sysv(ns, IpcKind::Segment, id)?;
        // One that is marked can be attached as long as anybody has it (shmat(2), of Linux).
        if !may {
            return fails(EACCES);
        }
        object.was_attached = true;
        let (huge, page) = (object.huge, page_of(object.huge));
        let len = object.size.next_multiple_of(page);
        let Some(segment) = object.segment else { return fails(EINVAL) };
        if !at.is_multiple_of(page) {
            return fails(EINVAL);
        }
        let space = self.space_mut(tid);
        let end = at.saturating_add(len);
        if space.at(at).is_some() || space.mappings.range(at..end).next().is_some() {
            return fails(EINVAL);
        }
        let prot = if read_only { READ } else { READ_WRITE };
        let mapping = mapping_of(end, prot, Backing::Segment(segment, 0), !read_only);
        space.mappings.insert(at, Mapping { flags: mapping.flags | huge, ..mapping });
        gives(at as i64, at as i64)
    }

    /// Whether memory is a System V segment's.
    pub(super) fn is_system(&self, segment: SegmentId) -> bool {
        let mut objects = self.ipcs.values().flat_map(|ipc| ipc.objects.values());
        objects.any(|object| object.segment == Some(segment))
    }

    /// A write to a file of /proc/sys.
    pub(super) fn set_variable(&mut self, tid: u32, path: &[u8], position: u64, data: &[u8]) -> Call<i64> {
        let ns = self.ipc_namespace(tid)?;
        if position != 0 {
            return not_modelled("a write that the kernel ignores");
        }
        let text = std::str::from_utf8(data).unwrap_or_default();
        match next_id_of(path) {
            Some(kind) => {
                if !self.can(tid, CAP_SYS_ADMIN | CAP_CHECKPOINT_RESTORE) {
                    return fails(EACCES);
                }
                let Some(id) = text.parse().ok().filter(|id| i32::try_from(*id).is_ok()) else {
                    return fails(EINVAL);
                };
                self.ipc_mut(ns).next_ids.insert(kind, id);
            }
            None => {
                let is_number = |word: &str| word.parse::<u64>().is_ok();
                if !text.split(' ').all(is_number) {
                    return fails(EINVAL);
                }
                self.ipc_mut(ns).variables.insert(path.into(), data.into());
            }
        }
        Ok(data.len() as i64)
    }
}
