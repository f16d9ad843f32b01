//! System V objects of a forest: what describes them, what the images say of them, and how they are looked at.
//!
//! A forest that has any lives in an IPC namespace of its own. Segments are attached by tasks ([`Attachment`]), in whole or in
//! part. Each task asks by their keys whether the objects are there, which takes no permission (shmget(2)); the root, where it has
//! the writer's credentials, also looks at what queues and semaphores hold, and leaves it there. The rest is read from
//! `/proc/sysvipc` and `/proc/sys` by whoever verifies, in the namespace of the root.
//!
//! Example: a segment of 5000 bytes with id 98307 has two pages; a task that has the second of them attached to be read shows it
//! as `r--s` with inode 98307 and offset 4096.
//!
//! # Sources
//! sysvipc(7), `proc_sysvipc(5)`, shmctl(2), msgop(2) for MSG_COPY, uapi/asm-generic/{ipcbuf,msgbuf}.h.

use std::collections::BTreeSet;
use std::fs::{self, File};

use nix::sched::{CloneFlags, setns};

use super::payload::{Check, Deed, SCRATCH};
use super::{Forest, PAGE, Segment};
use crate::image::ipc::{
    IpcNs, IpcVars, SHM_DEST, SysvMessage, SysvPerm, SysvQueue, SysvSegment, SysvSemaphores,
};
use crate::image::{Held, Image, Origin};

/// The number of the namespace in the images.
pub(super) const NAMESPACE: u32 = 900;

/// An IPC namespace and what lives in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ipc {
    /// Shared memory.
    pub segments: Vec<SharedSegment>,
    /// Message queues.
    pub queues: Vec<Queue>,
    /// Semaphore sets.
    pub semaphores: Vec<Semaphores>,
    /// `kernel.shm_rmid_forced`: segments go with their last attachment.
    pub rmid_forced: bool,
    /// `kernel.msgmax`, the most bytes of a new message; `None`: as in a new namespace.
    pub msgmax: Option<u32>,
    /// `kernel.shmmni`, the most segments when a new one is made; `None`: as in a new namespace.
    pub shmmni: Option<u32>,
}

/// A System V segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SharedSegment {
    /// Id, key, owner, maker; permissions with `SHM_DEST` and `SHM_LOCKED`. The key of a marked one is 0.
    pub perm: SysvPerm,
    /// Its length as it was asked for, bytes.
    pub size_bytes: u64,
    /// Its pages, and what is in them.
    pub memory: Segment,
}

/// A message queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Queue {
    /// Id, key, owner, maker, permissions.
    pub perm: SysvPerm,
    /// Most bytes that may wait in it: more may do.
    pub most_bytes: u32,
    /// Types, which are positive, and bytes; the oldest first.
    pub messages: Vec<(u64, Vec<u8>)>,
}

/// A set of semaphores.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Semaphores {
    /// Id, key, owner, maker, permissions.
    pub perm: SysvPerm,
    /// Their values, at most 32767 each.
    pub values: Vec<u16>,
}

/// A segment, or a part of it, attached by a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attachment {
    /// The number of the segment among those of the namespace.
    pub segment: usize,
    /// First address.
    pub start: u64,
    /// Where in the segment it starts, in pages.
    pub offset_pages: u64,
    /// Length in pages.
    pub len_pages: u64,
    /// Attached with `SHM_RDONLY`.
    pub read_only: bool,
}

/// Most bytes of a message or of the values of a set, as the payload looks at them.
const MOST_BYTES: usize = 2048;
/// `SEMVMX`.
const MOST_VALUE: u16 = 32767;
/// Bits of an id that say where an object is in the kernel's table (`IPCMNI_SHIFT`).
const SLOT: u32 = (1 << 15) - 1;

impl Ipc {
    /// What every object has, with the name of its kind and the call that finds it by its key.
    fn perms(&self) -> impl Iterator<Item = (&'static str, i64, &SysvPerm)> {
        let segments = self.segments.iter().map(|it| ("segment", libc::SYS_shmget, &it.perm));
        let queues = self.queues.iter().map(|it| ("queue", libc::SYS_msgget, &it.perm));
        let sets = self.semaphores.iter().map(|it| ("semaphore set", libc::SYS_semget, &it.perm));
        segments.chain(queues).chain(sets)
    }

    /// What is wrong with it, in words.
    pub(super) fn faults(&self, forest: &Forest) -> Vec<String> {
        let mut faults = Vec::new();
        let (mut slots, mut keys) = (BTreeSet::new(), BTreeSet::new());
        for (kind, _, perm) in self.perms() {
            let mut bad = |what: &str| faults.push(format!("{kind} {}: {what}", perm.id));
            if perm.id > i32::MAX as u32 || !slots.insert((kind, perm.id & SLOT)) {
                bad("its id is none, or has the place of another's");
            }
            if perm.key != 0 && !keys.insert((kind, perm.key)) {
                bad("its key is another's");
            }
        }
        for (index, segment) in self.segments.iter().enumerate() {
            let mut bad = |what: &str| faults.push(format!("segment {}: {what}", segment.perm.id));
            let pages = &segment.memory.pages;
            let is_within = pages.windows(2).all(|pair| pair[0].index < pair[1].index)
                && pages.last().is_none_or(|page| page.index < segment.memory.len_pages);
            if segment.size_bytes.div_ceil(PAGE) != segment.memory.len_pages
                || segment.size_bytes == 0
                || !is_within
            {
                bad("its pages are not as many as its bytes, or not ascending");
            }
            // Its pages are stored under its id, beside those of other shared memory.
            if (1..=super::model::inodes(forest).len() as u64).contains(&segment.perm.id.into()) {
                bad("its id is a number of other shared memory");
            }
            let is_attached =
                forest.tasks.iter().any(|task| task.attached.iter().any(|it| it.segment == index));
            if segment.perm.mode & SHM_DEST != 0 && (!is_attached || segment.perm.key != 0) {
                bad("it is marked, and has a key or is attached by nobody");
            }
        }
        for queue in &self.queues {
            let is_message =
                |(kind, bytes): &(u64, Vec<u8>)| (1..1 << 63).contains(kind) && bytes.len() <= MOST_BYTES;
            if !queue.messages.iter().all(is_message) {
                faults.push(format!("queue {}: a message of no type, or too long", queue.perm.id));
            }
        }
        for set in &self.semaphores {
            let is_some = (1..=MOST_BYTES / 2).contains(&set.values.len());
            if !is_some || set.values.iter().any(|value| *value > MOST_VALUE) {
                faults.push(format!("semaphore set {}: its values are none", set.perm.id));
            }
        }
        faults
    }

    fn vars(&self) -> IpcVars {
        // As in a new namespace (include/uapi/linux/{sem,msg,shm}.h). Of POSIX queues nothing is said.
        const NO_LIMIT: u64 = u64::MAX - (1 << 24);
        IpcVars {
            sem: vec![32000, 1_024_000_000, 500, 32000],
            msgmax: self.msgmax.unwrap_or(8192),
            msgmnb: 16384,
            msgmni: 32000,
            auto_msgmni: 0,
            shmmax: NO_LIMIT,
            shmall: NO_LIMIT,
            shmmni: self.shmmni.unwrap_or(4096),
            shm_rmid_forced: self.rmid_forced.into(),
            mqueue: [0; 5],
            next_ids: [None; 3],
        }
    }

    /// As the images have it, all but the pages of segments.
    pub(super) fn images(&self, contents: &mut Held) -> IpcNs {
        // A head comes before the bytes of each message: entries are counted with them.
        let mut entry = 0;
        let mut queues = Vec::new();
        for queue in &self.queues {
            let origin = Origin::new(Image::IpcMsg(NAMESPACE), entry);
            entry += 1 + queue.messages.len();
            let message = |(kind, bytes): &(u64, Vec<u8>)| SysvMessage {
                kind: *kind,
                data: contents.add(Image::IpcMsg(NAMESPACE), bytes),
            };
            let messages = queue.messages.iter().map(message).collect();
            queues.push(SysvQueue { perm: queue.perm, most_bytes: queue.most_bytes, messages, origin });
        }
        let segments = self.segments.iter().enumerate().map(|(entry, segment)| SysvSegment {
            perm: segment.perm,
            size_bytes: segment.size_bytes,
            huge: None,
            origin: Origin::new(Image::IpcShm(NAMESPACE), entry),
        });
        let segments = segments.collect();
        let sets = self.semaphores.iter().enumerate().map(|(entry, set)| SysvSemaphores {
            perm: set.perm,
            count: set.values.len() as u32,
            values: contents.add(Image::IpcSem(NAMESPACE), &words(&set.values)),
            origin: Origin::new(Image::IpcSem(NAMESPACE), entry),
        });
        IpcNs { vars: self.vars(), segments, queues, semaphores: sets.collect() }
    }

    /// What a task asks of them. `may_look`: whether it may look at all of them.
    pub(super) fn checks(&self, may_look: bool) -> Vec<Check> {
        const IPC_STAT: u64 = 2;
        const MSG_COPY: u64 = 0o40000;
        const IPC_NOWAIT: u64 = 0o4000;
        const GETALL: u64 = 13;
        /// Of `msg_qbytes` in `struct msqid64_ds`.
        const QBYTES: u64 = 88;
        let call = |what: String, number: i64, args: &[u64], result: i64| {
            let mut six = [0; 6];
            six[..args.len()].copy_from_slice(args);
            Check { what, deed: Deed::Call { number, args: six, result } }
        };
        let bytes =
            |what: String, address: u64, bytes: Vec<u8>| Check { what, deed: Deed::Bytes { address, bytes } };
        let mut checks = Vec::new();
        for (kind, number, perm) in self.perms().filter(|(.., perm)| perm.key != 0) {
            let what = format!("the {kind} with key {:#x}", perm.key);
            checks.push(call(what, number, &[perm.key.into()], perm.id.into()));
        }
        if !may_look {
            return checks;
        }
        for queue in &self.queues {
            let (id, what) = (u64::from(queue.perm.id), format!("queue {}", queue.perm.id));
            checks.push(call(what.clone(), libc::SYS_msgctl, &[id, IPC_STAT, SCRATCH], 0));
            let most = u64::from(queue.most_bytes).to_le_bytes();
            checks.push(bytes(format!("{what}: most bytes"), SCRATCH + QBYTES, most.to_vec()));
            // A copy has room for what a new message may have (`prepare_copy`, ipc/msg.c).
            let has_room = |(_, (_, text)): &(usize, &(u64, Vec<u8>))| {
                self.msgmax.is_none_or(|most| text.len() as u64 <= u64::from(most))
            };
            for (at, (kind, text)) in queue.messages.iter().enumerate().filter(has_room) {
                let len = text.len() as u64;
                let args = [id, SCRATCH, len, at as u64, MSG_COPY | IPC_NOWAIT];
                checks.push(call(format!("{what}: message {at}"), libc::SYS_msgrcv, &args, len as i64));
                let held = [kind.to_le_bytes().as_slice(), text].concat();
                checks.push(bytes(format!("{what}: message {at}, as told"), SCRATCH, held));
            }
        }
        for set in &self.semaphores {
            let (id, what) = (u64::from(set.perm.id), format!("semaphore set {}", set.perm.id));
            checks.push(call(what.clone(), libc::SYS_semctl, &[id, 0, GETALL, SCRATCH], 0));
            checks.push(bytes(format!("{what}: its values"), SCRATCH, words(&set.values)));
        }
        checks
    }

    /// Compares what `/proc` says of the namespace with the description.
    pub(super) fn verify(&self, forest: &Forest, faults: &mut Vec<String>) {
        let Some(root) = forest.tasks.first().map(|task| task.pid) else { return };
        // Only the thread that asks goes into the namespace, and it ends with that.
        let look = move || -> Result<[String; 4], String> {
            let path = format!("/proc/{root}/ns/ipc");
            let file = File::open(&path).map_err(|error| format!("{path}: {error}"))?;
            setns(file, CloneFlags::CLONE_NEWIPC).map_err(|error| format!("{path}: setns: {error}"))?;
            let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
            let variable = |name: &str| read(&format!("/proc/sys/kernel/{name}"));
            let variables = [variable("shm_rmid_forced")?, variable("msgmax")?, variable("shmmni")?].concat();
            Ok([
                read("/proc/sysvipc/shm")?,
                read("/proc/sysvipc/msg")?,
                read("/proc/sysvipc/sem")?,
                variables,
            ])
        };
        let found = match std::thread::spawn(look).join() {
            Ok(Ok(found)) => found,
            Ok(Err(why)) => return faults.push(why),
            Err(_) => return faults.push("the IPC namespace could not be looked at".to_owned()),
        };
        let [segments, queues, sets, variables] = &found;
        let owners = |perm: &SysvPerm| {
            let SysvPerm { uid, gid, cuid, cgid, .. } = perm;
            format!("{uid} {gid} {cuid} {cgid}")
        };
        let head = |perm: &SysvPerm| format!("{} {} {:o}", perm.key as i32, perm.id, perm.mode);
        let mut compare = |what: &str, found: Vec<String>, mut wanted: Vec<String>| {
            wanted.sort_unstable();
            if found != wanted {
                faults.push(format!("{what}: {found:?}, not {wanted:?}"));
            }
        };
        let wanted = self.segments.iter().enumerate().map(|(index, it)| {
            let attached = forest.tasks.iter().flat_map(|task| &task.attached);
            let count = attached.filter(|it| it.segment == index).count();
            format!("{} {} {count} {}", head(&it.perm), it.size_bytes, owners(&it.perm))
        });
        compare("segments", columns(segments, &[0, 1, 2, 3, 6, 7, 8, 9, 10]), wanted.collect());
        let wanted = self.queues.iter().map(|it| {
            let held: usize = it.messages.iter().map(|(_, bytes)| bytes.len()).sum();
            format!("{} {held} {} {}", head(&it.perm), it.messages.len(), owners(&it.perm))
        });
        compare("message queues", columns(queues, &[0, 1, 2, 3, 4, 7, 8, 9, 10]), wanted.collect());
        let wanted = self
            .semaphores
            .iter()
            .map(|it| format!("{} {} {}", head(&it.perm), it.values.len(), owners(&it.perm)));
        compare("semaphore sets", columns(sets, &[0, 1, 2, 3, 4, 5, 6, 7]), wanted.collect());
        let vars = self.vars();
        let wanted = format!("{}\n{}\n{}\n", vars.shm_rmid_forced, vars.msgmax, vars.shmmni);
        if *variables != wanted {
            faults.push(format!("variables of the IPC namespace: {variables:?}, not {wanted:?}"));
        }
    }
}

fn words(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Some columns of a table of `/proc/sysvipc`, without its head; the lines sorted.
fn columns(table: &str, which: &[usize]) -> Vec<String> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let some: Vec<&str> = which.iter().filter_map(|at| words.get(*at).copied()).collect();
        some.join(" ")
    };
    let mut lines: Vec<String> = table.lines().skip(1).map(line).collect();
    lines.sort_unstable();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::{Page, Task};

    fn forest(spoil: impl FnOnce(&mut Ipc)) -> Forest {
        let perm = SysvPerm { id: 32768, key: 7, mode: 0o600, ..SysvPerm::default() };
        let memory = Segment { len_pages: 2, pages: vec![Page { index: 1, seed: 1 }] };
        let mut ipc = Ipc {
            segments: vec![SharedSegment { perm, size_bytes: 5000, memory }],
            queues: vec![Queue { perm, most_bytes: 100, messages: vec![(1, b"a".to_vec())] }],
            semaphores: vec![Semaphores { perm, values: vec![1, 32767] }],
            ..Ipc::default()
        };
        spoil(&mut ipc);
        let attached = vec![Attachment {
            segment: 0,
            start: 0x6000_0000,
            offset_pages: 1,
            len_pages: 1,
            read_only: true,
        }];
        let root = Task { pid: 10, pgid: 10, sid: 10, attached, ..Task::default() };
        Forest { tasks: vec![root], ipc: Some(ipc), ..Forest::default() }
    }

    #[track_caller]
    fn check(spoil: impl FnOnce(&mut Ipc), expected: &[&str]) {
        assert_eq!(forest(spoil).faults(), expected);
    }

    #[test]
    fn faults_are_named() {
        check(|_| {}, &[]);
        check(
            |ipc| ipc.segments.push(SharedSegment { size_bytes: 1, ..ipc.segments[0].clone() }),
            &[
                "segment 32768: its id is none, or has the place of another's",
                "segment 32768: its key is another's",
                "segment 32768: its pages are not as many as its bytes, or not ascending",
            ],
        );
        check(
            |ipc| ipc.segments[0].perm.mode |= SHM_DEST,
            &["segment 32768: it is marked, and has a key or is attached by nobody"],
        );
        check(|ipc| ipc.segments.clear(), &["task 10: the attachment at 0x60000000 is of no segment"]);
        check(|ipc| ipc.queues[0].messages[0].0 = 0, &["queue 32768: a message of no type, or too long"]);
        check(|ipc| ipc.semaphores[0].values[0] = 32768, &["semaphore set 32768: its values are none"]);
        let alone = Forest { ipc: None, ..forest(|_| {}) };
        assert_eq!(alone.faults(), ["task 10: the attachment at 0x60000000 is of no segment"]);
    }

    #[test]
    fn tables_are_read_by_columns() {
        let table = "  key  id perms\n -1 5 600\n 42 3 1640\n";
        assert_eq!(columns(table, &[0, 1, 2]), ["-1 5 600", "42 3 1640"]);
        assert_eq!(columns(table, &[1, 9]), ["3", "5"]);
    }
}
