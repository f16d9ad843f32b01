//! From records back to effects, for the checker.
//!
//! The lifter believes nothing but the bytes that run: it decodes every record by call number and
//! arguments, reads strings and structures from the region, and knows nothing of operations, of the
//! lowering or of the assembler. What it does not understand is an error and never skipped.
//!
//! What a call reads must lie in the part of the region that tasks cannot write, so that it is
//! still the same when it runs; what a call writes must lie in the written part behind the events.
//! A result that is not checked, of a call that may fail, is an error, too.
//!
//! Worked example: `{syscall, nr 292, args [3, 7, 0o2000000], equal, expect 7}` is
//! `FdEffect::Dup { from: 3, to: 7, cloexec: true }`.
//!
//! # Sources
//! The man page of each call; `struct clone_args` (linux/sched.h), `prctl_mm_map` (linux/prctl.h),
//! `sigaction` as the kernel has it (asm/signal.h), `cap_user_data_t` (linux/capability.h).

mod call;
mod common;
mod descriptor;
mod ipc;
mod lazy;
mod memory;
mod object;
mod ranges;
mod ring;
mod seccomp;
mod socket;
mod task;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use regrow_graph::verify::{Birth, Effect, Effects, Lifted, LiftedTask, LiftedTree};
use thiserror::Error;

use common::Common;
pub use lazy::LazyTree;
use ranges::Ranges;

use super::abi::{
    CLONE_ARGS_CGROUP, CLONE_ARGS_EXIT_SIGNAL, CLONE_ARGS_FLAGS, CLONE_ARGS_SET_TID, CLONE_ARGS_SET_TID_SIZE,
    CLONE_ARGS_SIZE, CLONE_INTO_CGROUP, Check, EVENTS_OFFSET, Record, Verb,
};
use super::{Tapes, TaskTape, Undo};

/// uapi/linux/prctl.h, since Linux 6.15.
const PR_TIMER_CREATE_RESTORE_IDS: i32 = 77;
/// The largest number of bytes that one call reads or writes (linux/fs.h, MAX_RW_COUNT).
const RW_MAX: u64 = 0x7fff_f000;
/// Most vectors a call takes (UIO_MAXIOV).
const IOV_MAX: u64 = 1024;
/// Most groups (NGROUPS_MAX).
const GROUPS_MAX: u64 = 65536;
/// How much of that is taken at once, in bytes.
const ALLOWANCE: u64 = 1 << 16;

/// A record that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("task {pid}{}: {what}", .record.map(|record| format!(", record {record}")).unwrap_or_default())]
pub struct LiftError {
    /// The task; 0: the tapes as a whole.
    pub pid: u32,
    /// The record; `None`: the tape as a whole.
    pub record: Option<u32>,
    /// What is not understood.
    pub what: String,
}

/// Lifts all tapes.
///
/// # Errors
/// The first record that is not understood. Hostile bytes give an error, too.
pub fn lift(tapes: &Tapes) -> Result<LiftedTree, LiftError> {
    let lazy = LazyTree::of(tapes)?;
    let (region, total, root) = (lazy.region(), lazy.total(), lazy.root());
    // Whose tape is not understood is found out one after another, so that it does not depend on who was first.
    let tasks = match lazy.into_tasks() {
        Some(tasks) => tasks,
        None => one_by_one(tapes)?,
    };
    Ok(LiftedTree { region, total, root, tasks, suspended: tapes.suspended.clone() })
}

/// Lifts one tape after another.
fn one_by_one(tapes: &Tapes) -> Result<Vec<LiftedTask>, LiftError> {
    let whole = |what: String| LiftError { pid: 0, record: None, what };
    let common = Common::of(tapes).map_err(whole)?;
    let lifter = Lifter::new(&common);
    let tasks = tapes.tasks.iter().map(|task| lifter.task(task)).collect::<Result<_, _>>()?;
    lifter.ranges.borrow().check().map_err(whole)?;
    Ok(tasks)
}

/// What is wrong with a record, in words.
type Lift<T> = Result<T, String>;

/// Who lifts tapes, one or several.
struct Lifter<'a> {
    common: &'a Common<'a>,
    /// What this one has taken of the bytes that all may read.
    allowance: Cell<u64>,
    /// What calls write.
    ranges: RefCell<Ranges>,
    /// How many semaphores there are in sets: by who makes them, and id.
    sets: RefCell<BTreeMap<(u32, u64), u64>>,
}

/// One system call.
struct Call<'a, 'b> {
    lifter: &'b Lifter<'a>,
    record: Record,
    check: Check,
    pid: u32,
}

impl<'a> Lifter<'a> {
    fn new(common: &'a Common<'a>) -> Lifter<'a> {
        Lifter { common, allowance: Cell::new(0), ranges: RefCell::default(), sets: RefCell::default() }
    }

    /// What its calls write. What it has not read others may read.
    fn finish(self) -> Ranges {
        self.common.budget.fetch_add(self.allowance.get(), Relaxed);
        self.ranges.into_inner()
    }

    fn spend(&self, len: u64) -> Lift<()> {
        if self.allowance.get() < len {
            let lacking = len - self.allowance.get();
            // In pieces, so that all beside it seldom meet.
            let taken = [lacking.max(ALLOWANCE), lacking].into_iter().find(|wanted| {
                let taken =
                    self.common.budget.fetch_update(Relaxed, Relaxed, |budget| budget.checked_sub(*wanted));
                taken.is_ok()
            });
            let taken = taken.ok_or("the calls read more than the tapes could hold")?;
            self.allowance.set(self.allowance.get() + taken);
        }
        self.allowance.set(self.allowance.get() - len);
        Ok(())
    }

    fn task(&self, task: &TaskTape) -> Result<LiftedTask, LiftError> {
        let whole = |what: &str| LiftError { pid: task.pid, record: None, what: what.to_owned() };
        let size = size_of::<Record>() as u64;
        let len = u64::from(task.records) * size;
        if !task.tape.is_multiple_of(8) || self.input(task.tape, len).is_err() {
            return Err(whole("its tape is not in the read-only part of the region"));
        }
        let mut effects = Vec::with_capacity(task.records as usize);
        let mut dies = false;
        let mut parks = false;
        for index in 0..task.records {
            let at = |what: String| LiftError { pid: task.pid, record: Some(index), what };
            let Some(record) = self.common.tapes.record(task.tape + u64::from(index) * size) else {
                return Err(at("outside the region".to_owned()));
            };
            if dies {
                // Behind its death a task has only a record that never runs.
                if record.verb().is_some() || index + 1 != task.records {
                    return Err(at("a record behind the end".to_owned()));
                }
                return self.ends(task, effects, parks);
            }
            let effect = self.effect(task.pid, &record).map_err(at)?;
            dies = matches!(effect, Effect::Kill { .. });
            parks = effect == Effect::Park;
            effects.push(Lifted { record: index, effect });
        }
        if dies {
            return Err(whole("its tape does not end behind its death"));
        }
        self.ends(task, effects, parks)
    }

    fn ends(&self, task: &TaskTape, effects: Vec<Lifted>, parks: bool) -> Result<LiftedTask, LiftError> {
        if parks != task.lives {
            let what = if parks {
                "it parks, and is listed as one that dies"
            } else {
                "it does not park, and is listed as one that lives"
            };
            return Err(LiftError { pid: task.pid, record: None, what: what.to_owned() });
        }
        Ok(LiftedTask { pid: task.pid, effects })
    }

    fn effect(&self, pid: u32, record: &Record) -> Lift<Effect> {
        let Some(verb) = record.verb() else { return Err(format!("verb {}", record.verb)) };
        match verb {
            Verb::Syscall => {
                let check = record.check().ok_or_else(|| format!("check {}", record.check))?;
                let call = Call { lifter: self, record: *record, check, pid };
                call.effect().map_err(|what| format!("{}: {what}", call::name(record.nr)))
            }
            Verb::Indirect => {
                let check = record.check().ok_or_else(|| format!("check {}", record.check))?;
                let call = Call { lifter: self, record: *record, check, pid };
                call.indirect().map_err(|what| format!("{}: {what}", call::name(record.nr)))
            }
            Verb::Fork => {
                let [clone_args, size, tape, ..] = record.args;
                let birth = self.birth(clone_args, size)?;
                if u64::from(birth.pid) != record.expect {
                    return Err(format!("clone3: asks for pid {} and expects {}", birth.pid, record.expect));
                }
                if self.common.tape_of.get(&birth.pid) != Some(&tape) {
                    return Err(format!("clone3: pid {} would play a tape that is not its own", birth.pid));
                }
                Ok(Effect::Fork(birth))
            }
            Verb::Post => match self.socket_note(record.args[0]) {
                Some((undo, is_made)) => {
                    if undo.path.first() != Some(&b'/') || undo.path.contains(&0) {
                        return Err(format!("{} is no absolute path", undo.path.escape_ascii()));
                    }
                    Ok(Effect::Undo { path: undo.path.clone(), is_made })
                }
                None => self.event(record.args[0]).map(Effect::Post),
            },
            Verb::Wait => self.event(record.args[0]).map(Effect::Wait),
            Verb::Arrive => Ok(Effect::Arrive),
            Verb::Park => Ok(Effect::Park),
        }
    }

    /// The note of a socket's file that has its first or second word there, and whether it is the
    /// second. What is noted of other files [`crate::certify`] compares with the records around.
    fn socket_note(&self, address: u64) -> Option<(&Undo, bool)> {
        let offset = address.checked_sub(self.common.tapes.base)?;
        let undo = *self.common.socket_notes.get(&offset)?;
        Some((undo, undo.made == offset))
    }

    fn event(&self, address: u64) -> Lift<u32> {
        let offset =
            address.checked_sub(self.common.tapes.base).and_then(|offset| offset.checked_sub(EVENTS_OFFSET));
        let index = offset
            .filter(|offset| offset % 4 == 0 && address < self.common.events_end)
            .map(|offset| offset / 4);
        index
            .and_then(|index| u32::try_from(index).ok())
            .ok_or_else(|| format!("{address:#x} is not an event"))
    }

    fn birth(&self, address: u64, size: u64) -> Lift<Birth> {
        if size != CLONE_ARGS_SIZE {
            return Err(format!("clone_args of {size} bytes"));
        }
        let words = self.words(address, CLONE_ARGS_SIZE / 8)?;
        let into = words.first().is_some_and(|flags| flags & CLONE_INTO_CGROUP != 0);
        for (index, word) in words.iter().enumerate() {
            let known =
                [CLONE_ARGS_FLAGS, CLONE_ARGS_EXIT_SIGNAL, CLONE_ARGS_SET_TID, CLONE_ARGS_SET_TID_SIZE];
            if !known.contains(&index) && *word != 0 && !(into && index == CLONE_ARGS_CGROUP) {
                return Err(format!("clone_args: word {index} is {word:#x}"));
            }
        }
        let word = |index: usize| words.get(index).copied().unwrap_or(0);
        if word(CLONE_ARGS_SET_TID_SIZE) != 1 {
            return Err("clone_args: not one pid asked for".to_owned());
        }
        let pid = self.u32s(word(CLONE_ARGS_SET_TID), 1)?[0];
        if pid == 0 || pid > i32::MAX as u32 {
            return Err(format!("clone_args: pid {pid}"));
        }
        let number =
            || u32::try_from(word(CLONE_ARGS_CGROUP)).map_err(|_| "clone_args: no descriptor".to_owned());
        Ok(Birth {
            pid,
            flags: word(CLONE_ARGS_FLAGS) & !CLONE_INTO_CGROUP,
            exit_signal: word(CLONE_ARGS_EXIT_SIGNAL),
            cgroup: if into { Some(number()?) } else { None },
        })
    }

    /// What a call reads.
    fn input(&self, address: u64, len: u64) -> Lift<&'a [u8]> {
        if len == 0 {
            return Ok(&[]);
        }
        if address < self.common.tapes.ro_base() {
            return Err(format!(
                "reads {len} bytes at {address:#x}, which are not in the read-only part of the region"
            ));
        }
        let bytes = self
            .common
            .tapes
            .bytes(address, len)
            .ok_or_else(|| format!("reads {len} bytes at {address:#x}, outside the region"))?;
        self.spend(len)?;
        Ok(bytes)
    }

    /// What a call writes and nobody reads.
    fn output(&self, address: u64, len: u64) -> Lift<()> {
        let range = self.scratch(address, len)?;
        self.ranges.borrow_mut().outputs.insert(range);
        Ok(())
    }

    /// Words that the call reads and writes, and no other call uses: what they are at first.
    fn own_words<const N: usize>(&self, address: u64) -> Lift<[u64; N]> {
        self.own(address, 8 * N as u64)?;
        self.written_words(address)
    }

    /// Words that calls read, and write as they are: they may be used by many, and by no other call.
    fn kept_words<const N: usize>(&self, address: u64) -> Lift<[u64; N]> {
        let len = 8 * N as u64;
        let range = self.scratch(address, len)?;
        self.ranges.borrow_mut().kept.insert(range);
        self.written_words(address)
    }

    /// Words of the written part, as they are at first.
    fn written_words<const N: usize>(&self, address: u64) -> Lift<[u64; N]> {
        let len = 8 * N as u64;
        let bytes = self
            .common
            .tapes
            .bytes(address, len)
            .ok_or_else(|| format!("reads {address:#x}, outside the region"))?;
        self.spend(len)?;
        let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| bytes[8 * at + i]));
        Ok(std::array::from_fn(word))
    }

    /// Notes that one call alone reads and writes this.
    fn own(&self, address: u64, len: u64) -> Lift<()> {
        let range = self.scratch(address, len)?;
        if self.ranges.borrow_mut().cells.insert(range) {
            Ok(())
        } else {
            Err(format!("reads {address:#x}, which another call writes"))
        }
    }

    /// A word of four bytes that the call reads and writes, and no other call uses: its value.
    fn cell(&self, address: u64) -> Lift<u32> {
        self.own(address, 4)?;
        let bytes = self.common.tapes.bytes(address, 4).and_then(|bytes| bytes.first_chunk::<4>());
        bytes
            .map(|bytes| u32::from_ne_bytes(*bytes))
            .ok_or_else(|| format!("reads {address:#x}, outside the region"))
    }

    fn scratch(&self, address: u64, len: u64) -> Lift<(u64, u64)> {
        match address.checked_add(len) {
            Some(end) if address >= self.common.events_end && end <= self.common.tapes.ro_base() => {
                Ok((address, end))
            }
            Some(_) | None => Err(format!(
                "writes {len} bytes at {address:#x}, which are not in the scratch part of the region"
            )),
        }
    }

    fn words(&self, address: u64, count: u64) -> Lift<Vec<u64>> {
        let bytes = self.input(address, count.checked_mul(8).ok_or("too long")?)?;
        Ok(bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(std::array::from_fn(|i| word[i]))).collect())
    }

    fn u32s(&self, address: u64, count: u64) -> Lift<Vec<u32>> {
        let bytes = self.input(address, count.checked_mul(4).ok_or("too long")?)?;
        Ok(bytes.chunks_exact(4).map(|word| u32::from_ne_bytes(std::array::from_fn(|i| word[i]))).collect())
    }

    fn array<const N: usize>(&self, address: u64) -> Lift<[u64; N]> {
        let words = self.words(address, N as u64)?;
        words.try_into().map_err(|_| "cut short".to_owned())
    }

    fn text(&self, address: u64) -> Lift<&'a [u8]> {
        if address < self.common.tapes.ro_base() {
            return Err(format!(
                "reads text at {address:#x}, which is not in the read-only part of the region"
            ));
        }
        let text = self
            .common
            .tapes
            .c_string(address)
            .ok_or_else(|| format!("reads text at {address:#x}, outside the region"))?;
        self.spend(text.len() as u64)?;
        Ok(text)
    }

    fn absolute_path(&self, address: u64) -> Lift<Vec<u8>> {
        let path = self.text(address)?;
        if path.first() != Some(&b'/') {
            return Err(format!("the path {:?} is not absolute", path.escape_ascii().to_string()));
        }
        Ok(path.to_vec())
    }
}

/// A time of two words, in parts of a second.
fn time(seconds: u64, parts: u64, per_second: u64) -> Lift<u64> {
    let sum = seconds.checked_mul(per_second).and_then(|sum| sum.checked_add(parts));
    sum.filter(|_| parts < per_second).ok_or_else(|| "not a time".to_owned())
}

#[cfg(test)]
mod tests;
