//! An IPC namespace of the tree's own, and what lives in it: variables, System V segments, message queues, semaphore sets.
//!
//! All of it is the root's work, before it forks: so everybody is born in the namespace, and what is done there has one
//! order. An id is certain where the number of the next was set right before; the owner is who the root is at that moment.
//! Segments are attached among the carriers, and seen by others as those are; that the views are attachments of the right
//! segments is part of the address spaces. One of huge pages cannot be seen so: who wants a view of it attaches it once more.
//!
//! Worked example: `unshare(CLONE_NEWIPC)`, `98307` to `/proc/sys/kernel/shm_next_id`, `shmget(0x2a, 12288, 0600)` is the
//! segment 98307. When it is attached, it may be removed: it goes with its last attachment.
//!
//! # Sources
//! sysvipc(7), shmget(2), shmctl(2), shmat(2), msgctl(2), msgsnd(2), semctl(2); ipc/util.c (`ipc_idr_alloc`), ipc/shm.c
//! (`do_shmat`, `shm_may_destroy`), ipc/msg.c (`msg_fits_inqueue`), Documentation/admin-guide/sysctl/kernel.rst.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::attribute::AttributeKind as Kind;
use super::before::At;
use super::effect::{IpcEffect, IpcKind};
use super::object::{O_CLOEXEC, O_WRONLY, ObjectKind};
use super::outcome::{Certificate, Counterexample, Wrong};
use super::run::{Role, Run};
use super::space::{Alike, ExpectedPages, HUGE, Shown, is_told};
use super::table::Desc;

/// The usual permissions.
const PERMISSIONS: u32 = 0o777;
/// `SHM_DEST`, `SHM_LOCKED` (linux/shm.h).
const REMOVED: u32 = 0o1000;
const LOCKED: u32 = 0o2000;
/// How many bytes may wait in a new queue where nobody says otherwise: `MSGMNB` (uapi/linux/msg.h).
const QUEUE_BYTES: u64 = 16384;
/// `SEMVMX` (uapi/linux/sem.h).
const VALUE_MOST: u16 = 32767;

/// Where the variables are, and their names: of the tree's namespace to who opens them in it.
const KERNEL: &[u8] = b"/proc/sys/kernel/";
const MQUEUE: &[u8] = b"/proc/sys/fs/mqueue/";
const VARIABLES: [&[u8]; 9] = [
    b"sem",
    b"msgmax",
    b"msgmnb",
    b"msgmni",
    b"auto_msgmni",
    b"shmmax",
    b"shmall",
    b"shmmni",
    b"shm_rmid_forced",
];
const QUEUE_LIMITS: [&[u8]; 5] =
    [b"queues_max", b"msg_max", b"msgsize_max", b"msg_default", b"msgsize_default"];
const RMID_FORCED: &[u8] = b"/proc/sys/kernel/shm_rmid_forced";
const MSGMNB: &[u8] = b"/proc/sys/kernel/msgmnb";

/// What the images say of the namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedIpc {
    /// Variables by path, as they are to be written.
    pub variables: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The id that the next of a kind is to get.
    pub next_ids: BTreeMap<IpcKind, u32>,
    /// Segments by id.
    pub segments: BTreeMap<u32, ExpectedSysvSegment>,
    /// Message queues by id.
    pub queues: BTreeMap<u32, ExpectedQueue>,
    /// Semaphore sets by id.
    pub semaphores: BTreeMap<u32, ExpectedSemaphores>,
}

/// Key, owner, maker and permissions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ExpectedPerm {
    pub key: u32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    /// Of a segment with `SHM_DEST` and `SHM_LOCKED`.
    pub mode: u32,
}

/// A System V segment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedSysvSegment {
    /// Key, owner, permissions.
    pub perm: ExpectedPerm,
    /// Length in bytes, as it was asked for.
    pub size: u64,
    /// `MAP_HUGETLB` and the size of its pages, as `mmap(2)` has them. 0: the usual ones.
    pub huge: u32,
    /// What it holds other than zeros, by offset.
    pub pages: ExpectedPages,
}

/// A message queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedQueue {
    /// Key, owner, permissions.
    pub perm: ExpectedPerm,
    /// Most bytes that may wait in it.
    pub most_bytes: u64,
    /// Types and bytes, the oldest first.
    pub messages: Vec<(u64, Vec<u8>)>,
}

/// A semaphore set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedSemaphores {
    /// Key, owner, permissions.
    pub perm: ExpectedPerm,
    /// Their values.
    pub values: Vec<u16>,
}

/// The namespace as the tapes make it.
#[derive(Debug, Clone, Default)]
pub(super) struct Ipc {
    variables: BTreeMap<Vec<u8>, Vec<u8>>,
    next_ids: BTreeMap<IpcKind, u32>,
    made: BTreeMap<(IpcKind, u32), Made>,
}

/// An object of it.
#[derive(Debug, Clone)]
struct Made {
    perm: ExpectedPerm,
    size: u64,
    huge: u32,
    /// Of a segment: which of the model's, and whether it was ever attached.
    segment: Option<(usize, bool)>,
    /// Of a queue.
    most_bytes: u64,
    messages: Vec<(u64, Vec<u8>)>,
    /// Of a set; none before they are set: all are 0 then, however many.
    values: Vec<u16>,
}

fn name(kind: IpcKind) -> &'static str {
    match kind {
        IpcKind::Segment => "System V segment",
        IpcKind::Queue => "message queue",
        IpcKind::Semaphores => "semaphore set",
    }
}

/// The file that says what id the next of a kind gets.
fn next_id_of(path: &[u8]) -> Option<IpcKind> {
    match path.strip_prefix(KERNEL)? {
        b"shm_next_id" => Some(IpcKind::Segment),
        b"msg_next_id" => Some(IpcKind::Queue),
        b"sem_next_id" => Some(IpcKind::Semaphores),
        _ => None,
    }
}

/// Whether a path is a variable of IPC namespaces.
pub(super) fn is_variable(path: &[u8]) -> bool {
    path.strip_prefix(KERNEL).is_some_and(|name| VARIABLES.contains(&name))
        || path.strip_prefix(MQUEUE).is_some_and(|name| QUEUE_LIMITS.contains(&name))
        || next_id_of(path).is_some()
}

impl Run<'_> {
    /// Who may have to do with the namespace: the root, with what it has made.
    fn own_ipc(&mut self, at: At, call: &'static str) -> Result<&mut Ipc, Wrong> {
        let is_root = self.pid(at.task) == self.root && matches!(self.roles[at.task], Role::Task(_));
        if !is_root {
            return Err(Wrong::NotModelled { call, what: "IPC by another than the root".to_owned() });
        }
        // What is made in the namespace of the caller would stay there.
        self.ipc
            .as_mut()
            .ok_or_else(|| Wrong::NotModelled { call, what: "IPC in the caller's namespace".to_owned() })
    }

    fn ipc_object(&mut self, at: At, call: &'static str, kind: IpcKind, id: u32) -> Result<&mut Made, Wrong> {
        let missing = Wrong::Refused { call, what: format!("{} {id}, which does not exist", name(kind)) };
        self.own_ipc(at, call)?.made.get_mut(&(kind, id)).ok_or(missing)
    }

    pub(super) fn change_ipc(&mut self, at: At, call: &'static str, effect: &IpcEffect) -> Result<(), Wrong> {
        let refused = |what: String| Err(Wrong::Refused { call, what });
        match effect {
            IpcEffect::NewNamespace => {
                let is_alone = self.children[at.task].is_empty() && !self.tasks[at.task].has_threads;
                if self.pid(at.task) != self.root || !is_alone || self.ipc.is_some() {
                    let what = "an IPC namespace that not the whole tree is born in".to_owned();
                    return Err(Wrong::NotModelled { call, what });
                }
                self.ipc = Some(Ipc::default());
            }
            IpcEffect::Make { kind, id, key, size, mode, huge } => {
                let attributes = &self.tasks[at.task].attributes;
                let ids = [Kind::EffectiveUid, Kind::EffectiveGid].map(|kind| attributes.number(kind));
                let [Some(uid), Some(gid)] = ids.map(|id| id.and_then(|id| u32::try_from(id).ok())) else {
                    return Err(Wrong::NotModelled { call, what: "by an unknown user".to_owned() });
                };
                let is_odd = *kind != IpcKind::Segment || huge & !HUGE != 0 || !is_told(*huge);
                if *huge != 0 && is_odd {
                    let what = format!("a {} with flags {huge:#x}", name(*kind));
                    return Err(Wrong::NotModelled { call, what });
                }
                let ipc = self.own_ipc(at, call)?;
                if ipc.next_ids.remove(kind) != Some(*id) {
                    let what = format!("a {} with an id that the kernel chooses", name(*kind));
                    return Err(Wrong::NotModelled { call, what });
                }
                let has_key = |((of, _), made): (&(IpcKind, u32), &Made)| of == kind && made.perm.key == *key;
                if ipc.made.contains_key(&(*kind, *id)) || *key != 0 && ipc.made.iter().any(has_key) {
                    return refused(format!("{} {id} with key {key:#x} a second time", name(*kind)));
                }
                if *size == 0 && *kind != IpcKind::Queue || mode & !PERMISSIONS != 0 {
                    return refused(format!("{} {id} of size {size}, mode {mode:#o}", name(*kind)));
                }
                let msgmnb =
                    ipc.variables.get(MSGMNB).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
                let made = Made {
                    perm: ExpectedPerm { key: *key, uid, gid, cuid: uid, cgid: gid, mode: *mode },
                    size: *size,
                    huge: *huge,
                    segment: None,
                    most_bytes: msgmnb.unwrap_or(QUEUE_BYTES),
                    messages: Vec::new(),
                    values: Vec::new(),
                };
                ipc.made.insert((*kind, *id), made);
                if *kind == IpcKind::Segment {
                    let segment = self.add_system_segment((*size, *huge), *id, at);
                    self.ipc_object(at, call, *kind, *id)?.segment = Some((segment, false));
                }
            }
            IpcEffect::SetOwner { kind, id, uid, gid, mode, most_bytes } => {
                let made = self.ipc_object(at, call, *kind, *id)?;
                (made.perm.uid, made.perm.gid) = (*uid, *gid);
                made.perm.mode = made.perm.mode & !PERMISSIONS | mode & PERMISSIONS;
                made.most_bytes = most_bytes.unwrap_or(made.most_bytes);
            }
            IpcEffect::LockSegment { id } => {
                let made = self.ipc_object(at, call, IpcKind::Segment, *id)?;
                // It is taken for nothing (ipc/shm.c, `shmctl_do_lock`).
                if made.huge != 0 {
                    return refused(format!("System V segment {id}, whose huge pages are not locked"));
                }
                made.perm.mode |= LOCKED;
            }
            IpcEffect::RemoveSegment { id } => {
                let made = self.ipc_object(at, call, IpcKind::Segment, *id)?;
                if made.segment.is_none_or(|(_, is_attached)| !is_attached) {
                    return refused(format!("System V segment {id}, which would go: nobody has it"));
                }
                // From then on it has no key (ipc/shm.c, `do_shm_rmid`).
                made.perm.mode |= REMOVED;
                made.perm.key = 0;
            }
            IpcEffect::Send { queue, kind, data } => {
                let made = self.ipc_object(at, call, IpcKind::Queue, *queue)?;
                let held: u64 = made.messages.iter().map(|(_, data)| data.len() as u64).sum();
                let count = made.messages.len() as u64 + 1;
                if held.saturating_add(data.len() as u64) > made.most_bytes || count > made.most_bytes {
                    return refused(format!("message queue {queue}, which is full"));
                }
                if *kind == 0 || i64::try_from(*kind).is_err() {
                    return refused(format!("a message of type {kind}"));
                }
                made.messages.push((*kind, data.clone()));
            }
            IpcEffect::SetValues { set, values } => {
                let made = self.ipc_object(at, call, IpcKind::Semaphores, *set)?;
                if made.size != values.len() as u64 || values.iter().any(|value| *value > VALUE_MOST) {
                    return refused(format!("semaphore set {set}"));
                }
                made.values.clone_from(values);
            }
        }
        Ok(())
    }

    /// A segment that is about to be attached: which of the model's, and its length in whole pages.
    pub(super) fn attach_segment(
        &mut self,
        at: At,
        call: &'static str,
        id: u32,
    ) -> Result<(usize, u64), Wrong> {
        let made = self.ipc_object(at, call, IpcKind::Segment, id)?;
        let Some((segment, is_attached)) = made.segment.as_mut().filter(|_| made.perm.mode & REMOVED == 0)
        else {
            return Err(Wrong::NotModelled {
                call,
                what: format!("System V segment {id}, which is removed"),
            });
        };
        *is_attached = true;
        let segment = *segment;
        Ok((segment, self.segment_len(segment)))
    }

    /// A segment that was made before, whoever asks: which of the model's.
    pub(super) fn system_segment(&self, id: u32) -> Option<usize> {
        let made = self.ipc.as_ref()?.made.get(&(IpcKind::Segment, id))?;
        made.segment.map(|(segment, _)| segment)
    }

    /// Opens a variable to be written: what is opened is that of the namespace in which it is.
    pub(super) fn open_variable(
        &mut self,
        at: At,
        call: &'static str,
        path: &[u8],
        flags: u32,
    ) -> Result<Desc, Wrong> {
        self.own_ipc(at, call)?;
        if flags & !O_CLOEXEC != O_WRONLY {
            let what = format!("flags {flags:#o} for {}", path.escape_ascii());
            return Err(Wrong::NotModelled { call, what });
        }
        let object = self.objects.add_object(ObjectKind::File { path: path.to_vec() }, at);
        Ok(self.objects.add_description(object, O_WRONLY, at))
    }

    /// Writes one. What is not written from the start on the kernel ignores.
    pub(super) fn set_variable(
        &mut self,
        at: At,
        call: &'static str,
        desc: Desc,
        path: &[u8],
        data: &[u8],
    ) -> Result<(), Wrong> {
        if self.objects.description(desc).position != 0 {
            let what = format!("{} from elsewhere than its start", path.escape_ascii());
            return Err(Wrong::NotModelled { call, what });
        }
        self.objects.description_mut(desc).position = data.len() as u64;
        let text = std::str::from_utf8(data).ok();
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let Some(text) = text.filter(|text| text.split(' ').all(is_number)) else {
            let what = format!("{} to {}", data.escape_ascii(), path.escape_ascii());
            return Err(Wrong::Refused { call, what });
        };
        let ipc = self.own_ipc(at, call)?;
        match next_id_of(path) {
            Some(kind) => {
                let id = text.parse().ok().filter(|id| i32::try_from(*id).is_ok());
                let id: u32 = id.ok_or_else(|| Wrong::Refused { call, what: format!("id {text}") })?;
                ipc.next_ids.insert(kind, id);
            }
            None => drop(ipc.variables.insert(path.to_vec(), data.to_vec())),
        }
        Ok(())
    }

    /// Compares the namespace with the images, once the address spaces are as they say.
    pub(super) fn compare_ipc(
        &self,
        certificate: &mut Certificate,
        is_alike: &mut dyn FnMut(&Alike<'_>) -> bool,
    ) -> Result<(), Counterexample> {
        let wrong =
            |what: String| Counterexample { task: self.root, record: None, wrong: Wrong::WrongIpc { what } };
        let (is, wanted) = match (&self.ipc, self.expected.ipc.as_deref()) {
            (None, None) => return Ok(()),
            (Some(_), None) => {
                return Err(wrong(
                    "the IPC namespace is a new one, and the images say the caller's".to_owned(),
                ));
            }
            (None, Some(_)) => {
                return Err(wrong(
                    "the IPC namespace is the caller's, and the images say one of the tree's own".to_owned(),
                ));
            }
            (Some(is), Some(wanted)) => (is, wanted),
        };
        let shown = |text: Option<&Vec<u8>>| {
            text.map_or("not set".to_owned(), |text| text.escape_ascii().to_string())
        };
        for path in is.variables.keys().chain(wanted.variables.keys()) {
            let (is, wanted) = (is.variables.get(path), wanted.variables.get(path));
            if is != wanted {
                let path = path.escape_ascii();
                return Err(wrong(format!("{path} is {}, the images say {}", shown(is), shown(wanted))));
            }
        }
        if is.next_ids != wanted.next_ids {
            let what = format!("the next ids are {:?}, the images say {:?}", is.next_ids, wanted.next_ids);
            return Err(wrong(what));
        }
        let perms = |kind| {
            let of_kind = is.made.iter().filter(move |((of, _), _)| *of == kind);
            of_kind.map(|((_, id), made)| (*id, made.perm)).collect::<BTreeMap<u32, ExpectedPerm>>()
        };
        let all = [
            (
                IpcKind::Segment,
                wanted.segments.iter().map(|(id, it)| (*id, it.perm)).collect::<BTreeMap<_, _>>(),
            ),
            (IpcKind::Queue, wanted.queues.iter().map(|(id, it)| (*id, it.perm)).collect()),
            (IpcKind::Semaphores, wanted.semaphores.iter().map(|(id, it)| (*id, it.perm)).collect()),
        ];
        for (kind, wanted) in &all {
            let is = perms(*kind);
            for id in is.keys().chain(wanted.keys()) {
                let (is, wanted) = (is.get(id), wanted.get(id));
                if is != wanted {
                    let (is, wanted) = [is, wanted].map(shown_perm).into();
                    return Err(wrong(format!("{} {id} is {is}, the images say {wanted}", name(*kind))));
                }
            }
            certificate.ipc_objects += is.len() as u64;
        }
        for (id, wanted) in &wanted.segments {
            self.compare_system_segment(is, *id, wanted, certificate, is_alike).map_err(wrong)?;
        }
        for ((kind, id), made) in &is.made {
            let what = match kind {
                IpcKind::Segment => continue,
                IpcKind::Queue => {
                    let wanted = wanted.queues.get(id);
                    let is_right = wanted.is_some_and(|wanted| {
                        (made.most_bytes, &made.messages) == (wanted.most_bytes, &wanted.messages)
                    });
                    (!is_right).then(|| format!("message queue {id}: {}", queue_differs(made, wanted)))
                }
                IpcKind::Semaphores => {
                    let wanted = wanted.semaphores.get(id).map(|wanted| wanted.values.as_slice());
                    let is_new = made.values.is_empty();
                    let is_right = wanted.is_some_and(|wanted| {
                        wanted.len() as u64 == made.size
                            && if is_new {
                                wanted.iter().all(|value| *value == 0)
                            } else {
                                wanted == made.values
                            }
                    });
                    (!is_right).then(|| match is_new {
                        true => format!(
                            "semaphore set {id} has {} values of 0, the images say {wanted:?}",
                            made.size
                        ),
                        false => {
                            format!("semaphore set {id} has {:?}, the images say {wanted:?}", made.values)
                        }
                    })
                }
            };
            if let Some(what) = what {
                return Err(wrong(what));
            }
        }
        Ok(())
    }

    fn compare_system_segment(
        &self,
        ipc: &Ipc,
        id: u32,
        wanted: &ExpectedSysvSegment,
        certificate: &mut Certificate,
        is_alike: &mut dyn FnMut(&Alike<'_>) -> bool,
    ) -> Result<(), String> {
        let Some(made) = ipc.made.get(&(IpcKind::Segment, id)) else { return Ok(()) };
        let Some((segment, was_attached)) = made.segment else { return Ok(()) };
        if made.size != wanted.size {
            return Err(format!(
                "System V segment {id} has {} bytes, the images say {}",
                made.size, wanted.size
            ));
        }
        if made.huge != wanted.huge {
            return Err(format!(
                "System V segment {id} has pages by the flags {:#x}, the images say {:#x}",
                made.huge, wanted.huge
            ));
        }
        if let Some((at, end, is, wanted)) = self.segment_differs(segment, &wanted.pages, is_alike) {
            return Err(format!(
                "System V segment {id} holds {is} at {at:#x}..{end:#x}, the images say {wanted}"
            ));
        }
        // When the carriers go, who has no other attachment goes, too (ipc/shm.c, `shm_may_destroy`).
        let is_forced = ipc.variables.get(RMID_FORCED).is_some_and(|text| **text != *b"0");
        let goes = made.perm.mode & REMOVED != 0 || is_forced && was_attached;
        let is_view = |shows: &Shown| matches!(shows, Shown::System { segment, .. } if *segment == id);
        let tasks = self.expected.tasks.iter().filter_map(|task| task.space.as_deref());
        if goes && !tasks.flat_map(|space| &space.mappings).any(|mapping| is_view(&mapping.shows)) {
            return Err(format!(
                "System V segment {id} goes with the tapes, for nobody else has it attached"
            ));
        }
        certificate.pages += self.stored_pages(&wanted.pages);
        Ok(())
    }
}

fn shown_perm(perm: Option<&ExpectedPerm>) -> String {
    match perm {
        None => "not there".to_owned(),
        Some(ExpectedPerm { key, uid, gid, cuid, cgid, mode }) => {
            format!("key {key:#x}, mode {mode:#o}, of {uid}:{gid}, made by {cuid}:{cgid}")
        }
    }
}

fn queue_differs(made: &Made, wanted: Option<&ExpectedQueue>) -> String {
    let Some(wanted) = wanted else { return "not in the images".to_owned() };
    if made.most_bytes != wanted.most_bytes {
        return format!("at most {} bytes, the images say {}", made.most_bytes, wanted.most_bytes);
    }
    let first = made.messages.iter().zip(&wanted.messages).position(|(is, wanted)| is != wanted);
    match first {
        Some(first) => format!("its message {first} is another one"),
        None => format!("{} messages, the images say {}", made.messages.len(), wanted.messages.len()),
    }
}
