//! Tapes: what runs, as plain bytes.
//!
//! [`assemble`] turns the calls of lowered programs into records and buffers at fixed addresses;
//! [`disasm`] prints them as one reads `strace`; [`lift`] turns them back into effects for the
//! checker. None of them knows what an operation is: a record only remembers its number.

pub mod abi;
pub mod assemble;
pub mod disasm;
pub mod lift;
pub mod thread;
pub mod trace;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use abi::Record;
pub use thread::ThreadState;

/// Assembled tapes: the whole region, ready to be copied into a memfd and played.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tapes {
    /// Address of the region in every task, a multiple of the page size.
    pub base: u64,
    /// Length of the window from `base` on: the region and the carriers behind it. At the commit
    /// one munmap of the window takes all of it away.
    pub window_len: u64,
    /// The part that tasks write: control block, events, scratch. A multiple of the page size.
    pub rw: Vec<u8>,
    /// The part that tasks only read and execute: runner, tapes, buffers. A multiple of the page
    /// size.
    pub ro: Vec<u8>,
    /// Address of the runner.
    pub code: u64,
    /// Address of a signal set of SIGCHLD alone, for the commit.
    pub sigchld_set: u64,
    /// Address of a `timespec` of no time, for the commit.
    pub no_time: u64,
    /// The tape of each task, in the order of the tasks: the root first.
    pub tasks: Vec<TaskTape>,
    /// Threads that are traced with seccomp suspended (PTRACE_O_SUSPEND_SECCOMP) while their tails play, by
    /// tid: no filter that a tail installs acts before the thread is let go.
    pub suspended: BTreeSet<u32>,
    /// Names that are to be removed where the tapes fail, in the order in which they are lowered.
    pub undo: Vec<Undo>,
    /// What CLOCK_MONOTONIC and CLOCK_BOOTTIME of the tree go on from, in nanoseconds, where the root is
    /// born in a time namespace of its own.
    pub clocks_ns: Option<[u64; 2]>,
    /// Names that are to be removed when the tree lives: absolute paths.
    pub spent: Vec<Vec<u8>>,
    /// Cgroups that are made before the root is born, where they are missing: those above first.
    pub cgroups: Vec<Cgroup>,
    /// Whether a run notes its times, in parts of the region behind these two ([`trace`]).
    pub is_traced: bool,
}

/// A name in the file system that a task makes, and in most cases removes again. Its task adds to three
/// words of the region, whose offsets these are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undo {
    /// It is about to be made.
    pub intent: u64,
    /// It has been made.
    pub made: u64,
    /// It is gone.
    pub gone: u64,
    /// What it is the name of.
    pub kind: UndoKind,
    /// The name.
    pub path: Vec<u8>,
}

/// What a name to be removed leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UndoKind {
    /// `unlink(2)`.
    File,
    /// `rmdir(2)`.
    Directory,
    /// The path is two, with a zero byte between: a file made under the first changes places with
    /// the one that has the second, which then takes its name back.
    ChangedPlaces,
    /// `unlink(2)` of one more name of a file. The path is two, with a zero byte between: this name, and
    /// the one that the file has, too.
    Link,
    /// `unlink(2)` of what `bind(2)` made. It stays if nothing fails: nobody says that it is gone.
    Socket,
}

/// A cgroup that is made if it is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// Its directory, an absolute path.
    pub directory: Vec<u8>,
    /// Permissions that it gets; `None`: those that it has.
    pub perms: Option<CgroupPerms>,
    /// Files of it, in the order in which they are written.
    pub files: Vec<CgroupFile>,
}

/// A file of a cgroup that is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupFile {
    /// Its name.
    pub name: Vec<u8>,
    /// What it is to say.
    pub value: Vec<u8>,
    /// Permissions that it gets; `None`: those that it has.
    pub perms: Option<CgroupPerms>,
}

/// Permissions of a directory or a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct CgroupPerms {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// The kind, among those of undo entries, of the entry that holds the cgroups: the last one.
pub(crate) const CGROUPS: u64 = u64::MAX;

/// What is written behind the region, for the launcher: the undo entries, and the cgroups to be made.
///
/// # Errors
/// The cgroups cannot be encoded.
pub fn launcher_table(list: &[Undo], cgroups: &[Cgroup]) -> std::io::Result<Vec<u8>> {
    let mut bytes = undo_table(list);
    if !cgroups.is_empty() {
        let encoded = postcard::to_allocvec(cgroups).map_err(std::io::Error::other)?;
        for word in [0, 0, 0, CGROUPS, encoded.len() as u64] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&encoded);
    }
    Ok(bytes)
}

/// The list of undo entries as it is written behind the region, for the launcher.
pub fn undo_table(list: &[Undo]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for undo in list {
        let kind = match undo.kind {
            UndoKind::File => 0,
            UndoKind::Directory => 1,
            UndoKind::ChangedPlaces => 2,
            UndoKind::Socket => 3,
            UndoKind::Link => 4,
        };
        for word in [undo.intent, undo.made, undo.gone, kind, undo.path.len() as u64] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&undo.path);
    }
    bytes
}

/// Where one task's tape is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskTape {
    /// The task's pid.
    pub pid: u32,
    /// Whether it lives on (its tape ends in park) or dies.
    pub lives: bool,
    /// Address of its first record.
    pub tape: u64,
    /// Number of its records.
    pub records: u32,
    /// Address of the `struct clone_args` it is born by.
    pub clone_args: u64,
}

impl Tapes {
    /// Address of the read-only part.
    pub fn ro_base(&self) -> u64 {
        self.base.saturating_add(self.rw.len() as u64)
    }

    /// The bytes at `address`, `len` of them, if all lie in one part of the region.
    pub fn bytes(&self, address: u64, len: u64) -> Option<&[u8]> {
        let part = |base: u64, bytes: &'_ [u8]| {
            let from = usize::try_from(address.checked_sub(base)?).ok()?;
            let to = from.checked_add(usize::try_from(len).ok()?)?;
            (to <= bytes.len()).then_some((from, to))
        };
        if let Some((from, to)) = part(self.base, &self.rw) {
            return self.rw.get(from..to);
        }
        part(self.ro_base(), &self.ro).and_then(|(from, to)| self.ro.get(from..to))
    }

    /// The record at `address`.
    pub fn record(&self, address: u64) -> Option<Record> {
        self.bytes(address, size_of::<Record>() as u64).and_then(Record::from_bytes)
    }

    /// All records of a task, with their addresses, up to one that is not in the region.
    pub fn records(&self, task: &TaskTape) -> impl Iterator<Item = (u64, Record)> + '_ {
        const SIZE: u64 = size_of::<Record>() as u64;
        let (tape, count) = (task.tape, u64::from(task.records));
        // Nearly always all are in one part; others are looked up one by one.
        let together = self.bytes(tape, count * SIZE);
        let apart = if together.is_some() { 0 } else { count };
        let address = move |index: u64| tape.checked_add(index * SIZE);
        let together = together.unwrap_or(&[]).chunks_exact(SIZE as usize).filter_map(Record::from_bytes);
        let together = (0..).map_while(address).zip(together);
        together.chain((0..apart).map_while(move |index| {
            let address = address(index)?;
            Some((address, self.record(address)?))
        }))
    }

    /// Whether any record is this system call.
    pub fn has_call(&self, nr: libc::c_long) -> bool {
        self.has_record(|record| record.is_call(nr))
    }

    /// Whether there is such a record.
    pub(crate) fn has_record(&self, is_it: impl Fn(&Record) -> bool) -> bool {
        self.tasks.iter().any(|task| self.records(task).any(|(_, record)| is_it(&record)))
    }

    /// Lets a record fail with `errno` when it is reached; says whether there is such a record.
    pub(crate) fn inject_fault(&mut self, pid: u32, record: u32, errno: i32) -> bool {
        let Some(task) = self.tasks.iter().find(|task| task.pid == pid && record < task.records) else {
            return false;
        };
        let address = task.tape + u64::from(record) * size_of::<Record>() as u64;
        let Some(old) = self.record(address) else { return false };
        self.set_record(address, Record::failing(old.op, errno))
    }

    /// Puts another record in the place of the one at `address`; says whether there is such a place.
    pub(crate) fn set_record(&mut self, address: u64, record: Record) -> bool {
        let bytes = record.to_bytes();
        let at = address.checked_sub(self.ro_base()).and_then(|at| usize::try_from(at).ok());
        let place = at.and_then(|at| self.ro.get_mut(at..at.checked_add(bytes.len())?));
        place.map(|place| place.copy_from_slice(&bytes)).is_some()
    }

    /// The text that ends with a zero byte at `address`.
    pub fn c_string(&self, address: u64) -> Option<&[u8]> {
        let (base, part) =
            if address >= self.ro_base() { (self.ro_base(), &self.ro) } else { (self.base, &self.rw) };
        let from = part.get(usize::try_from(address.checked_sub(base)?).ok()?..)?;
        from.iter().position(|byte| *byte == 0).map(|end| &from[..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wherever hostile tapes say that they are: nobody looks for long, and nobody lifts them.
    #[test]
    fn places_at_the_end_of_all_addresses() {
        for base in [0, u64::MAX - 4095, u64::MAX] {
            let task = TaskTape {
                pid: 7,
                lives: true,
                tape: u64::MAX - 63,
                records: u32::MAX,
                clone_args: u64::MAX,
            };
            let tapes = Tapes {
                base,
                window_len: u64::MAX,
                rw: vec![0; 8192],
                ro: vec![0; 8192],
                code: u64::MAX,
                sigchld_set: u64::MAX,
                no_time: u64::MAX,
                tasks: vec![task],
                suspended: BTreeSet::new(),
                undo: Vec::new(),
                clocks_ns: None,
                spent: Vec::new(),
                cgroups: Vec::new(),
                is_traced: false,
            };
            assert!(tapes.records(&task).count() <= 1);
            let _ = (tapes.bytes(u64::MAX, 2), tapes.bytes(1, u64::MAX), tapes.c_string(u64::MAX));
            assert!(lift::lift(&tapes).is_err());
            for args in [[0; 6], [u64::MAX; 6]] {
                let record = Record { verb: abi::Verb::Wait as u8, args, ..Record::failing(0, 0) };
                assert!(disasm::line(&tapes, &record).starts_with("wait("));
            }
        }
    }
}
