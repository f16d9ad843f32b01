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
//! [`FdEffect::Dup`]` { from: 3, to: 7, cloexec: true }`.
//!
//! # Sources
//! The man page of each call; `struct clone_args` (linux/sched.h), `prctl_mm_map` (linux/prctl.h),
//! `sigaction` as the kernel has it (asm/signal.h), `cap_user_data_t` (linux/capability.h).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::mem::offset_of;

use regrow_graph::ids::Fd;
use regrow_graph::verify::{
    Attribute, Birth, Change, Effect, FdEffect, FileEffect, Lifted, LiftedTask, LiftedTree, MemoryEffect,
    NameEffect, PrivilegeEffect, Region, SocketOption,
};
use thiserror::Error;

use super::abi::{
    CLONE_ARGS_EXIT_SIGNAL, CLONE_ARGS_FLAGS, CLONE_ARGS_SET_TID, CLONE_ARGS_SET_TID_SIZE, CLONE_ARGS_SIZE,
    Check, Control, EVENTS_OFFSET, Record, Verb,
};
use super::{Tapes, TaskTape, Undo, UndoKind};

/// uapi/linux/prctl.h, since Linux 6.15.
const PR_TIMER_CREATE_RESTORE_IDS: i32 = 77;
/// The largest number of bytes that one call reads or writes (linux/fs.h, MAX_RW_COUNT).
const RW_MAX: u64 = 0x7fff_f000;
/// Most vectors a call takes (UIO_MAXIOV).
const IOV_MAX: u64 = 1024;
/// Most groups (NGROUPS_MAX).
const GROUPS_MAX: u64 = 65536;
const PAGE: u64 = 4096;
/// Calls may name the same buffers again and again; they are not read for ever.
const READ_TIMES: u64 = 16;

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
    let lifter = Lifter::new(tapes).map_err(|what| LiftError { pid: 0, record: None, what })?;
    let Some(root) = tapes.tasks.first() else {
        return Err(LiftError { pid: 0, record: None, what: "there is no tape".to_owned() });
    };
    let whole = |pid: u32| move |what: String| LiftError { pid, record: None, what };
    let birth = lifter.birth(root.clone_args, CLONE_ARGS_SIZE).map_err(whole(root.pid))?;
    if birth.pid != root.pid {
        return Err(whole(root.pid)(format!("its clone_args ask for pid {}", birth.pid)));
    }
    let mut tasks = Vec::with_capacity(tapes.tasks.len());
    for task in &tapes.tasks {
        tasks.push(lifter.task(task)?);
    }
    lifter.check_cells().map_err(whole(0))?;
    let window_end = tapes.base.saturating_add(tapes.window_len);
    let region = Region { start: tapes.base, rw_end: tapes.ro_base(), end: lifter.end, window_end };
    Ok(LiftedTree { region, total: lifter.total, root: birth, tasks })
}

/// What is wrong with a record, in words.
type Lift<T> = Result<T, String>;

struct Lifter<'a> {
    tapes: &'a Tapes,
    /// Where each pid's tape starts.
    tape_of: BTreeMap<u32, u64>,
    /// Behind the last event word that any tape names.
    events_end: u64,
    /// Behind the region.
    end: u64,
    total: u32,
    /// How many bytes may still be read.
    budget: Cell<u64>,
    /// What calls write and nobody reads: first address, and behind the last.
    outputs: RefCell<BTreeSet<(u64, u64)>>,
    /// What one call reads and writes.
    cells: RefCell<BTreeSet<(u64, u64)>>,
}

/// One system call.
struct Call<'a, 'b> {
    lifter: &'b Lifter<'a>,
    record: Record,
    check: Check,
    pid: u32,
}

impl<'a> Lifter<'a> {
    fn new(tapes: &'a Tapes) -> Lift<Lifter<'a>> {
        let lengths = (tapes.rw.len() as u64).checked_add(tapes.ro.len() as u64);
        let end = lengths
            .and_then(|len| tapes.base.checked_add(len))
            .ok_or("the region does not fit into an address space")?;
        let window_end = tapes
            .base
            .checked_add(tapes.window_len)
            .ok_or("the window does not fit into an address space")?;
        let aligned =
            [tapes.base, tapes.ro_base(), end, window_end].iter().all(|address| address.is_multiple_of(PAGE));
        if !aligned || window_end < end {
            return Err("the window and its parts are no ranges of pages".to_owned());
        }
        // Tapes that all lie in the region and do not overlap are no longer than it.
        let records = tapes.tasks.iter().fold(0u64, |sum, task| sum.saturating_add(task.records.into()));
        if records.saturating_mul(size_of::<Record>() as u64) > tapes.ro.len() as u64 {
            return Err("tapes that overlap or lie outside the region".to_owned());
        }
        let mut tape_of = BTreeMap::new();
        let mut events_end = tapes.base.saturating_add(EVENTS_OFFSET);
        for task in &tapes.tasks {
            tape_of.insert(task.pid, task.tape);
            for (_, record) in tapes.records(task) {
                if matches!(record.verb(), Some(Verb::Post | Verb::Wait)) {
                    events_end = events_end.max(record.args[0].saturating_add(4));
                }
            }
        }
        let total_at = offset_of!(Control, total);
        let head_len = usize::try_from(events_end - tapes.base).unwrap_or(usize::MAX);
        let head = tapes.rw.get(..head_len).ok_or("events outside the written part of the region")?;
        let total =
            head.get(total_at..total_at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
        let is_clean =
            head.iter().enumerate().all(|(at, byte)| *byte == 0 || (total_at..total_at + 4).contains(&at));
        if !is_clean {
            return Err("control words or events that do not start as 0".to_owned());
        }
        Ok(Lifter {
            tapes,
            tape_of,
            events_end,
            end,
            total: total.unwrap_or(0),
            budget: Cell::new((tapes.ro.len() as u64).saturating_mul(READ_TIMES)),
            outputs: RefCell::default(),
            cells: RefCell::default(),
        })
    }

    fn spend(&self, len: u64) -> Lift<()> {
        let rest =
            self.budget.get().checked_sub(len).ok_or("the calls read more than the tapes could hold")?;
        self.budget.set(rest);
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
            let Some(record) = self.tapes.record(task.tape + u64::from(index) * size) else {
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
                call.effect().map_err(|what| format!("{}: {what}", name(record.nr)))
            }
            Verb::Fork => {
                let [clone_args, size, tape, ..] = record.args;
                let birth = self.birth(clone_args, size)?;
                if u64::from(birth.pid) != record.expect {
                    return Err(format!("clone3: asks for pid {} and expects {}", birth.pid, record.expect));
                }
                if self.tape_of.get(&birth.pid) != Some(&tape) {
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
        let offset = address.checked_sub(self.tapes.base)?;
        let mut sockets = self.tapes.undo.iter().filter(|undo| undo.kind == UndoKind::Socket);
        let undo = sockets.find(|undo| undo.intent == offset || undo.made == offset)?;
        Some((undo, undo.made == offset))
    }

    fn event(&self, address: u64) -> Lift<u32> {
        let offset =
            address.checked_sub(self.tapes.base).and_then(|offset| offset.checked_sub(EVENTS_OFFSET));
        let index =
            offset.filter(|offset| offset % 4 == 0 && address < self.events_end).map(|offset| offset / 4);
        index
            .and_then(|index| u32::try_from(index).ok())
            .ok_or_else(|| format!("{address:#x} is not an event"))
    }

    fn birth(&self, address: u64, size: u64) -> Lift<Birth> {
        if size != CLONE_ARGS_SIZE {
            return Err(format!("clone_args of {size} bytes"));
        }
        let words = self.words(address, CLONE_ARGS_SIZE / 8)?;
        for (index, word) in words.iter().enumerate() {
            let known =
                [CLONE_ARGS_FLAGS, CLONE_ARGS_EXIT_SIGNAL, CLONE_ARGS_SET_TID, CLONE_ARGS_SET_TID_SIZE];
            if !known.contains(&index) && *word != 0 {
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
        Ok(Birth { pid, flags: word(CLONE_ARGS_FLAGS), exit_signal: word(CLONE_ARGS_EXIT_SIGNAL) })
    }

    /// What a call reads.
    fn input(&self, address: u64, len: u64) -> Lift<&'a [u8]> {
        if len == 0 {
            return Ok(&[]);
        }
        if address < self.tapes.ro_base() {
            return Err(format!(
                "reads {len} bytes at {address:#x}, which are not in the read-only part of the region"
            ));
        }
        let bytes = self
            .tapes
            .bytes(address, len)
            .ok_or_else(|| format!("reads {len} bytes at {address:#x}, outside the region"))?;
        self.spend(len)?;
        Ok(bytes)
    }

    /// What a call writes and nobody reads.
    fn output(&self, address: u64, len: u64) -> Lift<()> {
        let range = self.scratch(address, len)?;
        self.outputs.borrow_mut().insert(range);
        Ok(())
    }

    /// A word of four bytes that the call reads and writes, and no other call uses: its value.
    fn cell(&self, address: u64) -> Lift<u32> {
        let range = self.scratch(address, 4)?;
        if !self.cells.borrow_mut().insert(range) {
            return Err(format!("reads {address:#x}, which another call writes"));
        }
        let bytes = self.tapes.bytes(address, 4).and_then(|bytes| bytes.first_chunk::<4>());
        bytes
            .map(|bytes| u32::from_ne_bytes(*bytes))
            .ok_or_else(|| format!("reads {address:#x}, outside the region"))
    }

    fn scratch(&self, address: u64, len: u64) -> Lift<(u64, u64)> {
        match address.checked_add(len) {
            Some(end) if address >= self.events_end && end <= self.tapes.ro_base() => Ok((address, end)),
            Some(_) | None => Err(format!(
                "writes {len} bytes at {address:#x}, which are not in the scratch part of the region"
            )),
        }
    }

    /// Nothing else writes what a call reads.
    fn check_cells(&self) -> Lift<()> {
        let (outputs, cells) = (self.outputs.borrow(), self.cells.borrow());
        let ranges =
            outputs.iter().map(|range| (*range, false)).chain(cells.iter().map(|range| (*range, true)));
        let mut ranges: Vec<((u64, u64), bool)> = ranges.collect();
        ranges.sort_unstable();
        let (mut outputs_end, mut cells_end) = (0, 0);
        for ((start, end), is_cell) in ranges {
            if start < cells_end || is_cell && start < outputs_end {
                return Err(format!("what a call reads at {start:#x} is written by another"));
            }
            let last = if is_cell { &mut cells_end } else { &mut outputs_end };
            *last = end.max(*last);
        }
        Ok(())
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
        if address < self.tapes.ro_base() {
            return Err(format!(
                "reads text at {address:#x}, which is not in the read-only part of the region"
            ));
        }
        let text = self
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

impl Call<'_, '_> {
    fn arg(&self, index: usize) -> u64 {
        self.record.args[index]
    }

    fn low(&self, index: usize) -> u32 {
        self.record.args[index] as u32
    }

    fn fd(&self, index: usize) -> Lift<Fd> {
        let fd = self.low(index);
        if fd > i32::MAX as u32 { Err(format!("descriptor {}", fd as i32)) } else { Ok(fd) }
    }

    /// The call gives 0 or fails, and a failure is seen.
    fn gives_zero(&self) -> Lift<()> {
        self.gives(0)
    }

    /// The call gives `value` or fails, and a failure is seen.
    fn gives(&self, value: u64) -> Lift<()> {
        match self.check {
            Check::Equal if self.record.expect == value => Ok(()),
            Check::Equal => Err(format!("gives {value}, and {} is expected", self.record.expect as i64)),
            Check::Success => Ok(()),
            Check::Any => Err("its failure would not be seen".to_owned()),
        }
    }

    /// The call could give less than `value`: nothing but `value` may pass.
    fn gives_exactly(&self, value: u64) -> Lift<()> {
        match self.check {
            Check::Equal => self.gives(value),
            Check::Success | Check::Any => Err(format!("a result other than {value} would not be seen")),
        }
    }

    /// Any success is as good as any other.
    fn succeeds(&self) -> Lift<()> {
        match self.check {
            Check::Equal | Check::Success => Ok(()),
            Check::Any => Err("its failure would not be seen".to_owned()),
        }
    }

    /// The number that a call which opens a descriptor must give.
    fn number(&self) -> Lift<Fd> {
        match self.check {
            Check::Equal => Fd::try_from(self.record.expect)
                .ok()
                .filter(|fd| *fd <= i32::MAX as u32)
                .ok_or_else(|| format!("descriptor {} is expected", self.record.expect as i64)),
            Check::Success | Check::Any => Err("its descriptor's number is not checked".to_owned()),
        }
    }

    fn must_be_zero(&self, indices: &[usize]) -> Lift<()> {
        match indices.iter().find(|index| self.arg(**index) != 0) {
            Some(index) => Err(format!("argument {index} is {:#x}", self.arg(*index))),
            None => Ok(()),
        }
    }

    /// An absolute path, behind AT_FDCWD.
    fn path_at_cwd(&self) -> Lift<Vec<u8>> {
        if self.low(0) as i32 != libc::AT_FDCWD {
            return Err(format!("relative to descriptor {}", self.low(0) as i32));
        }
        self.lifter.absolute_path(self.arg(1))
    }

    fn object(&self, change: Change) -> Lift<Effect> {
        Ok(Effect::Object { fd: self.fd(0)?, change })
    }

    fn effect(&self) -> Lift<Effect> {
        let region = self.lifter;
        match libc::c_long::from(self.record.nr) {
            // Descriptors.
            libc::SYS_openat => {
                let path = self.path_at_cwd()?;
                Ok(Effect::Fd(FdEffect::Open { path, flags: self.low(2), fd: self.number()? }))
            }
            libc::SYS_pipe2 => {
                self.gives_zero()?;
                region.output(self.arg(0), 8)?;
                Ok(Effect::Fd(FdEffect::Pipe { flags: self.low(1) }))
            }
            libc::SYS_socketpair => {
                self.gives_zero()?;
                region.output(self.arg(3), 8)?;
                if self.low(0) as i32 != libc::AF_UNIX || self.low(2) != 0 {
                    return Err(format!("family {}, protocol {}", self.low(0), self.low(2)));
                }
                // SOCK_CLOEXEC and SOCK_NONBLOCK are O_CLOEXEC and O_NONBLOCK.
                let (sock_type, flags) = (self.low(1) & 0xf, self.low(1) & !0xf);
                Ok(Effect::Fd(FdEffect::SocketPair { sock_type, flags }))
            }
            libc::SYS_socket => {
                let (sock_type, flags) = (self.low(1) & 0xf, self.low(1) & !0xf);
                let (family, protocol, fd) = (self.low(0), self.low(2), self.number()?);
                Ok(Effect::Fd(FdEffect::Socket { family, sock_type, protocol, flags, fd }))
            }
            libc::SYS_accept4 => {
                if self.arg(1) != 0 || self.arg(2) != 0 {
                    return Err("asks for the address".to_owned());
                }
                let (listener, flags, fd) = (self.fd(0)?, self.low(3), self.number()?);
                Ok(Effect::Fd(FdEffect::Accept { listener, flags, fd }))
            }
            libc::SYS_bind | libc::SYS_connect => {
                self.gives_zero()?;
                // struct sockaddr_storage.
                if self.arg(2) > 128 {
                    return Err(format!("an address of {} bytes", self.arg(2)));
                }
                let address = region.input(self.arg(1), self.arg(2))?.to_vec();
                if libc::c_long::from(self.record.nr) == libc::SYS_bind {
                    self.object(Change::Bind { address })
                } else {
                    self.object(Change::Connect { address })
                }
            }
            libc::SYS_listen => {
                self.gives_zero()?;
                self.object(Change::Listen { backlog: self.low(1) })
            }
            libc::SYS_fchmodat | libc::SYS_fchownat => self.file(),
            libc::SYS_eventfd2 => Ok(Effect::Fd(FdEffect::Eventfd {
                counter: self.low(0),
                flags: self.low(1),
                fd: self.number()?,
            })),
            libc::SYS_epoll_create1 => {
                Ok(Effect::Fd(FdEffect::Epoll { flags: self.low(0), fd: self.number()? }))
            }
            libc::SYS_timerfd_create => Ok(Effect::Fd(FdEffect::Timerfd {
                clock: self.low(0),
                flags: self.low(1),
                fd: self.number()?,
            })),
            libc::SYS_signalfd4 => {
                if self.low(0) != u32::MAX || self.arg(2) != 8 {
                    return Err(format!(
                        "of descriptor {}, sets of {} bytes",
                        self.low(0) as i32,
                        self.arg(2)
                    ));
                }
                let [mask] = region.array::<1>(self.arg(1))?;
                Ok(Effect::Fd(FdEffect::Signalfd { mask, flags: self.low(3), fd: self.number()? }))
            }
            libc::SYS_memfd_create => Ok(Effect::Fd(FdEffect::Memfd {
                name: region.text(self.arg(0))?.to_vec(),
                flags: self.low(1),
                fd: self.number()?,
            })),

            // Names.
            libc::SYS_mkdirat => {
                self.gives_zero()?;
                Ok(Effect::Name(NameEffect::MakeDirectory { path: self.path_at_cwd()? }))
            }
            libc::SYS_renameat2 => {
                self.gives_zero()?;
                let from = self.path_at_cwd()?;
                if self.low(2) as i32 != libc::AT_FDCWD {
                    return Err(format!("relative to descriptor {}", self.low(2) as i32));
                }
                let to = region.absolute_path(self.arg(3))?;
                match self.low(4) {
                    0 => Ok(Effect::Name(NameEffect::Rename { from, to })),
                    libc::RENAME_EXCHANGE => Ok(Effect::Name(NameEffect::Exchange { from, to })),
                    flags => Err(format!("flags {flags:#x}")),
                }
            }
            libc::SYS_unlinkat => {
                self.gives_zero()?;
                let path = self.path_at_cwd()?;
                match self.low(2) as i32 {
                    0 => Ok(Effect::Name(NameEffect::Unlink { path })),
                    libc::AT_REMOVEDIR => Ok(Effect::Name(NameEffect::RemoveDirectory { path })),
                    flags => Err(format!("flags {flags:#x}")),
                }
            }

            libc::SYS_dup3 => {
                let (from, to, flags) = (self.fd(0)?, self.fd(1)?, self.low(2));
                if flags & !(libc::O_CLOEXEC as u32) != 0 {
                    return Err(format!("flags {flags:#o}"));
                }
                self.gives(u64::from(to))?;
                Ok(Effect::Fd(FdEffect::Dup { from, to, cloexec: flags != 0 }))
            }
            libc::SYS_dup2 => {
                let (from, to) = (self.fd(0)?, self.fd(1)?);
                self.gives(u64::from(to))?;
                Ok(Effect::Fd(FdEffect::Dup { from, to, cloexec: false }))
            }
            libc::SYS_close => {
                self.gives_zero()?;
                Ok(Effect::Fd(FdEffect::Close { fd: self.fd(0)? }))
            }
            libc::SYS_close_range => {
                self.gives_zero()?;
                let (unshare, mark) = (libc::CLOSE_RANGE_UNSHARE, libc::CLOSE_RANGE_CLOEXEC);
                let flags = self.low(2);
                if flags & !(unshare | mark) != 0 {
                    return Err(format!("flags {flags:#x}"));
                }
                Ok(Effect::Fd(FdEffect::CloseRange {
                    first: self.low(0),
                    last: self.low(1),
                    only_mark: flags & mark != 0,
                    unshare: flags & unshare != 0,
                }))
            }
            libc::SYS_fcntl => self.fcntl(),

            // What descriptors refer to.
            libc::SYS_lseek => {
                self.succeeds()?;
                if self.low(2) as i32 != libc::SEEK_SET || self.arg(1) > i64::MAX as u64 {
                    return Err("not from the start of the file".to_owned());
                }
                if self.check == Check::Equal {
                    self.gives(self.arg(1))?;
                }
                self.object(Change::Seek { position: self.arg(1) })
            }
            libc::SYS_write => {
                self.gives_exactly(self.arg(2))?;
                self.object(Change::Write { data: region.input(self.arg(1), self.arg(2))?.to_vec() })
            }
            libc::SYS_sendto => {
                self.gives_exactly(self.arg(2))?;
                self.must_be_zero(&[4, 5])?;
                let never_blocks = self.send_flags(3)?;
                let data = region.input(self.arg(1), self.arg(2))?.to_vec();
                self.object(Change::Send { data, rights: Vec::new(), never_blocks })
            }
            libc::SYS_sendmsg => self.sendmsg(),
            libc::SYS_shutdown => {
                let not_connected = u64::from(libc::ENOTCONN as u32).wrapping_neg();
                let connected = self.check != Check::Equal || self.record.expect != not_connected;
                if connected {
                    self.gives_zero()?;
                }
                let bits = self.low(1).checked_add(1).filter(|bits| (1..=3).contains(bits));
                let bits = bits.ok_or_else(|| format!("how {}", self.low(1)))?;
                self.object(Change::Shutdown { bits, connected })
            }
            libc::SYS_setsockopt => self.setsockopt(),
            libc::SYS_epoll_ctl => {
                self.gives_zero()?;
                if self.low(1) as i32 != libc::EPOLL_CTL_ADD {
                    return Err(format!("operation {}", self.low(1)));
                }
                // struct epoll_event is packed: 12 bytes.
                let words = region.u32s(self.arg(3), 3)?;
                let data = u64::from(words[1]) | u64::from(words[2]) << 32;
                self.object(Change::Watch { target: self.fd(2)?, events: words[0], data })
            }
            libc::SYS_timerfd_settime => {
                self.gives_zero()?;
                self.must_be_zero(&[3])?;
                let [interval_s, interval, value_s, value] = region.array::<4>(self.arg(2))?;
                self.object(Change::SetTimer {
                    flags: self.low(1),
                    interval_ns: time(interval_s, interval, 1_000_000_000)?,
                    value_ns: time(value_s, value, 1_000_000_000)?,
                })
            }
            libc::SYS_ioctl => {
                /// TFD_IOC_SET_TICKS (linux/timerfd.h).
                const SET_TICKS: u32 = 0x4008_5400;
                self.gives_zero()?;
                if self.low(1) != SET_TICKS {
                    return Err(format!("command {:#x}", self.low(1)));
                }
                let [ticks] = region.array::<1>(self.arg(2))?;
                self.object(Change::SetTicks { ticks })
            }
            libc::SYS_read => self.read(vec![(self.arg(1), self.arg(2))], None),
            libc::SYS_pread64 => self.read(vec![(self.arg(1), self.arg(2))], Some(self.arg(3))),
            libc::SYS_preadv => {
                if self.arg(2) > IOV_MAX || self.arg(4) != 0 {
                    return Err(format!("{} vectors, upper offset {:#x}", self.arg(2), self.arg(4)));
                }
                let words = region.words(self.arg(1), 2 * self.arg(2))?;
                self.read(words.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect(), Some(self.arg(3)))
            }
            libc::SYS_flock => {
                self.gives_zero()?;
                let operation = self.low(1) as i32;
                if operation & libc::LOCK_NB == 0
                    || !matches!(operation & !libc::LOCK_NB, libc::LOCK_SH | libc::LOCK_EX)
                {
                    return Err(format!("operation {operation:#x}"));
                }
                self.object(Change::Lock)
            }
            libc::SYS_ftruncate => {
                self.gives_zero()?;
                self.object(Change::Truncate { len: self.arg(1) })
            }
            libc::SYS_sendfile => {
                self.gives_exactly(self.arg(3))?;
                self.must_be_zero(&[2])?;
                if self.arg(3) > RW_MAX {
                    return Err(format!("{} bytes, more than can be copied at once", self.arg(3)));
                }
                self.object(Change::Copy { from: self.fd(1)?, len: self.arg(3) })
            }
            libc::SYS_fchown => {
                self.gives_zero()?;
                let (uid, gid) = (self.low(1), self.low(2));
                if uid == u32::MAX || gid == u32::MAX {
                    return Err("leaves the owner or the group".to_owned());
                }
                self.object(Change::SetFileOwner { uid, gid })
            }
            libc::SYS_fchmod => {
                self.gives_zero()?;
                self.object(Change::SetMode { mode: self.low(1) })
            }
            libc::SYS_utimensat => {
                self.gives_zero()?;
                self.must_be_zero(&[1, 3])?;
                let [atime, atime_ns, mtime, mtime_ns] = region.array::<4>(self.arg(2))?;
                if atime_ns >= 1_000_000_000 || mtime_ns >= 1_000_000_000 {
                    return Err("not a time".to_owned());
                }
                self.object(Change::SetTimes {
                    atime: (atime as i64, atime_ns),
                    mtime: (mtime as i64, mtime_ns),
                })
            }
            libc::SYS_fchdir => {
                self.gives_zero()?;
                self.object(Change::Enter)
            }

            // Address spaces.
            libc::SYS_mmap => self.mmap(),
            libc::SYS_mremap => {
                let [from, old_len, new_len, flags, to, _] = self.record.args;
                self.gives(to)?;
                let flags = flags as u32;
                if flags & libc::MREMAP_FIXED as u32 == 0
                    || flags & !(libc::MREMAP_FIXED | libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP) as u32
                        != 0
                {
                    return Err(format!("flags {flags:#x}"));
                }
                Ok(Effect::Memory(MemoryEffect::Remap { from, old_len, to, new_len, flags }))
            }
            libc::SYS_munmap => {
                self.gives_zero()?;
                Ok(Effect::Memory(MemoryEffect::Unmap { at: self.arg(0), len: self.arg(1) }))
            }
            libc::SYS_mprotect => {
                self.gives_zero()?;
                Ok(Effect::Memory(MemoryEffect::Protect {
                    at: self.arg(0),
                    len: self.arg(1),
                    prot: self.low(2),
                }))
            }
            libc::SYS_madvise => {
                self.gives_zero()?;
                Ok(Effect::Memory(MemoryEffect::Advise {
                    at: self.arg(0),
                    len: self.arg(1),
                    advice: self.low(2),
                }))
            }
            libc::SYS_arch_prctl => {
                /// ARCH_MAP_VDSO_64 (asm/prctl.h).
                const MAP_VDSO_64: u64 = 0x2003;
                if self.arg(0) != MAP_VDSO_64 {
                    return Err(format!("code {:#x}", self.arg(0)));
                }
                self.succeeds()?;
                Ok(Effect::Memory(MemoryEffect::MapVdso { at: self.arg(1) }))
            }

            // Family, life and death.
            libc::SYS_setsid => {
                self.gives(u64::from(self.pid))?;
                Ok(Effect::SetSid)
            }
            libc::SYS_setpgid => {
                self.gives_zero()?;
                if self.low(0) != 0 && self.low(0) != self.pid {
                    return Err(format!("of task {}", self.low(0)));
                }
                let pgid = if self.low(1) == 0 { self.pid } else { self.low(1) };
                Ok(Effect::SetPgid { pgid })
            }
            libc::SYS_waitid => {
                self.gives_zero()?;
                let [kind, pid, info, options, usage, _] = self.record.args;
                let options = options as i32;
                let how = if options & libc::WNOWAIT == 0 { libc::__WALL } else { libc::WNOWAIT };
                if kind as u32 != libc::P_PID || usage != 0 || options & !how != libc::WEXITED {
                    return Err(format!("id type {kind}, options {options:#x}, rusage {usage:#x}"));
                }
                if info != 0 {
                    region.output(info, 128)?;
                }
                Ok(Effect::AwaitExit { pid: pid as u32, reap: options & libc::WNOWAIT == 0 })
            }
            libc::SYS_exit_group => Ok(Effect::Exit { code: self.arg(0) as u8 }),
            libc::SYS_kill => {
                self.gives_zero()?;
                if self.low(0) != self.pid {
                    return Err(format!("of {}", self.low(0) as i32));
                }
                Ok(Effect::Kill { signal: self.low(1) })
            }

            libc::SYS_prctl => self.prctl(),
            _ => self
                .privilege()
                .or_else(|| self.attribute())
                .unwrap_or_else(|| Err("not modelled".to_owned())),
        }
    }

    fn fcntl(&self) -> Lift<Effect> {
        let fd = self.fd(0)?;
        let value = self.low(2);
        let change = match self.low(1) as i32 {
            libc::F_SETFD => {
                self.gives_zero()?;
                if value & !(libc::FD_CLOEXEC as u32) != 0 {
                    return Err(format!("F_SETFD {value:#x}"));
                }
                return Ok(Effect::Fd(FdEffect::SetCloexec { fd, cloexec: value != 0 }));
            }
            dup @ (libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) => {
                let cloexec = dup == libc::F_DUPFD_CLOEXEC;
                return Ok(Effect::Fd(FdEffect::DupLowest {
                    from: fd,
                    least: self.fd(2)?,
                    to: self.number()?,
                    cloexec,
                }));
            }
            libc::F_SETPIPE_SZ => {
                self.gives_exactly(u64::from(value))?;
                return self.object(Change::SetPipeSize { bytes: value });
            }
            libc::F_SETFL => Change::SetStatus { flags: value },
            libc::F_SETOWN => match value as i32 {
                group @ ..0 => Change::SetOwner { pid_type: 2, pid: group.unsigned_abs() },
                pid => Change::SetOwner { pid_type: 1, pid: pid as u32 },
            },
            // libc does not name it: F_SETOWN_EX (asm-generic/fcntl.h).
            15 => {
                let owner = self.lifter.u32s(self.arg(2), 2)?;
                Change::SetOwner { pid_type: owner[0], pid: owner[1] }
            }
            libc::F_SETLEASE if matches!(value, 0 | 1) => Change::Lock,
            libc::F_SETLK | libc::F_OFD_SETLK => {
                // l_type, l_whence; l_start; l_len; l_pid.
                let [kind, _, _, pid] = self.lifter.array::<4>(self.arg(2))?;
                if !matches!(kind as u32, 0 | 1) || pid as u32 != 0 {
                    return Err(format!("lock of type {kind:#x} for {pid}"));
                }
                Change::Lock
            }
            // F_ADD_SEALS (uapi/linux/fcntl.h)
            1033 => Change::AddSeals { seals: value },
            // F_SETSIG
            10 => Change::SetSignal { signal: value },
            command => return Err(format!("command {command}")),
        };
        self.gives_zero()?;
        self.object(change)
    }

    /// Says whether the call fails instead of blocking.
    fn send_flags(&self, index: usize) -> Lift<bool> {
        let flags = self.low(index) as i32;
        if flags & !(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) != 0 {
            return Err(format!("flags {flags:#x}"));
        }
        Ok(flags & libc::MSG_DONTWAIT != 0)
    }

    fn sendmsg(&self) -> Lift<Effect> {
        let never_blocks = self.send_flags(2)?;
        // struct msghdr: name, namelen, iov, iovlen, control, controllen, flags.
        let [name, name_len, iov, iov_len, control, control_len, _] = self.lifter.array::<7>(self.arg(1))?;
        if name != 0 || name_len as u32 != 0 || iov_len > IOV_MAX {
            return Err("a name, or too many vectors".to_owned());
        }
        let mut data = Vec::new();
        for vector in self.lifter.words(iov, 2 * iov_len)?.chunks_exact(2) {
            data.extend_from_slice(self.lifter.input(vector[0], vector[1])?);
        }
        self.gives_exactly(data.len() as u64)?;
        let mut rights = Vec::new();
        if control_len != 0 {
            // One struct cmsghdr: len, level, type, then the numbers.
            let bytes = self.lifter.input(control, control_len)?;
            let [len, kind] = self.lifter.array::<2>(control)?;
            let wanted = u64::from(libc::SOL_SOCKET as u32) | u64::from(libc::SCM_RIGHTS as u32) << 32;
            let is_one = len >= 16 && len <= control_len && control_len - len < 8 && len % 4 == 0;
            if kind != wanted || !is_one {
                return Err("control messages other than one of SCM_RIGHTS".to_owned());
            }
            let numbers = bytes.get(16..len as usize).unwrap_or_default();
            rights = numbers
                .chunks_exact(4)
                .map(|word| u32::from_ne_bytes(std::array::from_fn(|i| word[i])))
                .collect();
        }
        self.object(Change::Send { data, rights, never_blocks })
    }

    fn setsockopt(&self) -> Lift<Effect> {
        self.gives_zero()?;
        let (level, name, len) = (self.low(1) as i32, self.low(2) as i32, self.arg(4));
        let number = || {
            if len != 4 {
                return Err(format!("a value of {len} bytes"));
            }
            Ok(u64::from(self.lifter.u32s(self.arg(3), 1)?[0]))
        };
        let microseconds = || {
            let [seconds, micros] = self.lifter.array::<2>(self.arg(3))?;
            let total = seconds.checked_mul(1_000_000).and_then(|sum| sum.checked_add(micros));
            total.filter(|_| len == 16).ok_or_else(|| "not a time".to_owned())
        };
        if level != libc::SOL_SOCKET {
            let option =
                protocol_option(level, name).ok_or_else(|| format!("level {level}, option {name}"))?;
            if option == SocketOption::IcmpFilter {
                if len > 32 {
                    return Err(format!("a value of {len} bytes"));
                }
                let bytes = self.lifter.input(self.arg(3), len)?.to_vec();
                return self.object(Change::SetBytes { option, bytes });
            }
            return self.object(Change::SetOption { option, value: number()?, force: false });
        }
        if name == libc::SO_BINDTODEVICE {
            if len > 16 {
                return Err(format!("a device's name of {len} bytes"));
            }
            let bytes = self.lifter.input(self.arg(3), len)?.to_vec();
            return self.object(Change::SetBytes { option: SocketOption::BoundDevice, bytes });
        }
        if name == libc::SO_ATTACH_FILTER {
            // struct sock_fprog: length and, behind padding, the address.
            let [count, filter] = self.lifter.array::<2>(self.arg(3))?;
            if len != 16 || count > 4096 {
                return Err("not a filter".to_owned());
            }
            let bytes = self.lifter.input(filter, count * 8)?.to_vec();
            return self.object(Change::SetBytes { option: SocketOption::Filter, bytes });
        }
        let (option, value, force) = match name {
            libc::SO_SNDBUF => (SocketOption::SendBuffer, number()?, false),
            libc::SO_SNDBUFFORCE => (SocketOption::SendBuffer, number()?, true),
            libc::SO_RCVBUF => (SocketOption::ReceiveBuffer, number()?, false),
            libc::SO_RCVBUFFORCE => (SocketOption::ReceiveBuffer, number()?, true),
            libc::SO_SNDTIMEO => (SocketOption::SendTimeout, microseconds()?, false),
            libc::SO_RCVTIMEO => (SocketOption::ReceiveTimeout, microseconds()?, false),
            libc::SO_REUSEADDR => (SocketOption::ReuseAddr, number()?, false),
            libc::SO_REUSEPORT => (SocketOption::ReusePort, number()?, false),
            libc::SO_PRIORITY => (SocketOption::Priority, number()?, false),
            libc::SO_RCVLOWAT => (SocketOption::ReceiveLowat, number()?, false),
            libc::SO_MARK => (SocketOption::Mark, number()?, false),
            libc::SO_PASSCRED => (SocketOption::PassCred, number()?, false),
            libc::SO_PASSSEC => (SocketOption::PassSec, number()?, false),
            libc::SO_DONTROUTE => (SocketOption::DontRoute, number()?, false),
            libc::SO_NO_CHECK => (SocketOption::NoCheck, number()?, false),
            libc::SO_BROADCAST => (SocketOption::Broadcast, number()?, false),
            libc::SO_KEEPALIVE => (SocketOption::KeepAlive, number()?, false),
            libc::SO_OOBINLINE => (SocketOption::OobInline, number()?, false),
            libc::SO_LINGER if len == 8 => {
                let linger = self.lifter.u32s(self.arg(3), 2)?;
                (SocketOption::Linger, if linger[0] == 0 { 0 } else { u64::from(linger[1]) + 1 }, false)
            }
            libc::SO_BUF_LOCK => (SocketOption::BufferLock, number()?, false),
            name => return Err(format!("option {name}")),
        };
        self.object(Change::SetOption { option, value, force })
    }

    /// A change of a file by its absolute path.
    fn file(&self) -> Lift<Effect> {
        self.gives_zero()?;
        let path = self.path_at_cwd()?;
        Ok(Effect::File(match libc::c_long::from(self.record.nr) {
            libc::SYS_fchmodat => FileEffect::Chmod { path, mode: self.low(2) },
            _ => {
                if self.low(4) != 0 {
                    return Err(format!("flags {:#x}", self.low(4)));
                }
                FileEffect::Chown { path, uid: self.low(2), gid: self.low(3) }
            }
        }))
    }

    fn read(&self, into: Vec<(u64, u64)>, offset: Option<u64>) -> Lift<Effect> {
        let total = into.iter().try_fold(0u64, |sum, (_, len)| sum.checked_add(*len));
        let total = total.filter(|total| *total <= RW_MAX).ok_or("too long to be read at once")?;
        self.gives_exactly(total)?;
        for (start, len) in &into {
            let end = start.checked_add(*len).ok_or("beyond the address space")?;
            if *start < self.lifter.tapes.ro_base() && self.lifter.tapes.base < end {
                self.lifter.output(*start, *len)?;
            }
        }
        self.object(Change::Read { into, offset })
    }

    fn mmap(&self) -> Lift<Effect> {
        let [at, len, prot, flags, _, offset] = self.record.args;
        let flags = flags as u32;
        let (fixed, noreplace) = (libc::MAP_FIXED as u32, libc::MAP_FIXED_NOREPLACE as u32);
        if flags & (fixed | noreplace) == 0 {
            return Err("the kernel would choose the address".to_owned());
        }
        // An old kernel takes MAP_FIXED_NOREPLACE for a hint.
        if flags & fixed == 0 {
            self.gives_exactly(at)?
        } else {
            self.gives(at)?
        }
        let file = if flags & libc::MAP_ANONYMOUS as u32 == 0 { Some((self.fd(4)?, offset)) } else { None };
        Ok(Effect::Memory(MemoryEffect::Map { at, len, prot: prot as u32, flags, file }))
    }

    fn prctl(&self) -> Lift<Effect> {
        self.gives_zero()?;
        let value = self.arg(1);
        let flag = || if value <= 1 { Ok(value == 1) } else { Err(format!("value {value}")) };
        let attribute = match self.low(0) as i32 {
            libc::PR_SET_NAME => {
                let name = self.lifter.text(value)?;
                Attribute::Name(name.get(..15).unwrap_or(name).to_vec())
            }
            libc::PR_SET_DUMPABLE => Attribute::Dumpable(value),
            libc::PR_SET_PDEATHSIG => Attribute::ParentDeathSignal(value),
            libc::PR_SET_CHILD_SUBREAPER => Attribute::Subreaper(value != 0),
            libc::PR_SET_THP_DISABLE => {
                self.must_be_zero(&[2, 3, 4])?;
                Attribute::ThpDisable(value != 0)
            }
            libc::PR_SET_TIMERSLACK => Attribute::TimerSlack(value),
            PR_TIMER_CREATE_RESTORE_IDS => Attribute::TimerIds(flag()?),
            libc::PR_SET_MM => return self.set_mm(),
            libc::PR_CAPBSET_DROP => return Ok(Effect::Privilege(PrivilegeEffect::DropBounding(value))),
            libc::PR_SET_SECUREBITS => return Ok(Effect::Privilege(PrivilegeEffect::Securebits(value))),
            libc::PR_SET_KEEPCAPS => return Ok(Effect::Privilege(PrivilegeEffect::KeepCaps(flag()?))),
            libc::PR_SET_NO_NEW_PRIVS if value == 1 => {
                return Ok(Effect::Privilege(PrivilegeEffect::NoNewPrivs));
            }
            libc::PR_SET_SECCOMP => {
                return Ok(Effect::Privilege(PrivilegeEffect::Seccomp { operation: value }));
            }
            libc::PR_CAP_AMBIENT if value == libc::PR_CAP_AMBIENT_RAISE as u64 => {
                return Ok(Effect::Privilege(PrivilegeEffect::RaiseAmbient(self.arg(2))));
            }
            option => return Err(format!("option {option}, value {value:#x}")),
        };
        Ok(Effect::Attribute(attribute))
    }

    fn set_mm(&self) -> Lift<Effect> {
        const WORDS: usize = 13;
        if self.arg(1) != libc::PR_SET_MM_MAP as u64 || self.arg(3) != 8 * WORDS as u64 {
            return Err(format!("PR_SET_MM option {}, length {}", self.arg(1), self.arg(3)));
        }
        let map = self.lifter.array::<WORDS>(self.arg(2))?;
        let [auxv, sizes] = [map[11], map[12]];
        let exe = (sizes >> 32) as u32;
        Ok(Effect::Memory(MemoryEffect::SetMm {
            words: std::array::from_fn(|i| map[i]),
            auxv: self.lifter.input(auxv, sizes & 0xffff_ffff)?.to_vec(),
            exe: (exe != u32::MAX).then_some(exe),
        }))
    }

    fn ids(&self) -> [Option<u32>; 3] {
        std::array::from_fn(|index| Some(self.low(index)).filter(|id| *id != u32::MAX))
    }

    /// Credentials, limits, filters; `None`: the call is none of them.
    fn privilege(&self) -> Option<Lift<Effect>> {
        let effect = match libc::c_long::from(self.record.nr) {
            libc::SYS_setresuid => self.gives_zero().map(|()| PrivilegeEffect::Uids(self.ids())),
            libc::SYS_setresgid => self.gives_zero().map(|()| PrivilegeEffect::Gids(self.ids())),
            // They give the old id, and never say that they fail.
            libc::SYS_setfsuid => Ok(PrivilegeEffect::FsUid(self.low(0))),
            libc::SYS_setfsgid => Ok(PrivilegeEffect::FsGid(self.low(0))),
            libc::SYS_setgroups => self.gives_zero().and_then(|()| {
                let count = self.arg(0);
                if count > GROUPS_MAX {
                    return Err(format!("{count} groups"));
                }
                self.lifter.u32s(self.arg(1), count).map(PrivilegeEffect::Groups)
            }),
            libc::SYS_capset => self.gives_zero().and_then(|()| self.capset()),
            libc::SYS_seccomp => {
                self.gives_zero().map(|()| PrivilegeEffect::Seccomp { operation: self.arg(0) })
            }
            libc::SYS_prlimit64 => self.gives_zero().and_then(|()| {
                if self.low(0) != 0 && self.low(0) != self.pid || self.arg(2) == 0 || self.arg(3) != 0 {
                    return Err(format!(
                        "of task {}, new at {:#x}, old at {:#x}",
                        self.low(0),
                        self.arg(2),
                        self.arg(3)
                    ));
                }
                let [soft, hard] = self.lifter.array::<2>(self.arg(2))?;
                Ok(PrivilegeEffect::Limit { resource: self.low(1), soft, hard })
            }),
            _ => return None,
        };
        Some(effect.map(Effect::Privilege))
    }

    fn capset(&self) -> Lift<PrivilegeEffect> {
        /// _LINUX_CAPABILITY_VERSION_3
        const VERSION: u32 = 0x2008_0522;
        let header = self.lifter.u32s(self.arg(0), 2)?;
        if header[0] != VERSION || header[1] != 0 && header[1] != self.pid {
            return Err(format!("version {:#x}, pid {}", header[0], header[1]));
        }
        let sets = self.lifter.u32s(self.arg(1), 6)?;
        let [effective, permitted, inheritable] =
            std::array::from_fn(|i| u64::from(sets[i]) | u64::from(sets[i + 3]) << 32);
        Ok(PrivilegeEffect::Capabilities { effective, permitted, inheritable })
    }

    /// Attributes; `None`: the call sets none.
    fn attribute(&self) -> Option<Lift<Effect>> {
        let region = self.lifter;
        let attribute = match libc::c_long::from(self.record.nr) {
            // They give the old value and do not fail.
            libc::SYS_umask => Ok(Attribute::Umask(self.low(0) & 0o777)),
            libc::SYS_personality => Ok(Attribute::Personality(self.low(0))),
            libc::SYS_set_tid_address => Ok(Attribute::TidAddress(self.arg(0))),
            libc::SYS_chdir => self
                .gives_zero()
                .and_then(|()| region.absolute_path(self.arg(0)))
                .map(Attribute::WorkingDirectory),
            libc::SYS_chroot => self
                .gives_zero()
                .and_then(|()| region.absolute_path(self.arg(0)))
                .map(Attribute::RootDirectory),
            libc::SYS_rt_sigaction => self.gives_zero().and_then(|()| {
                if self.arg(2) != 0
                    || self.arg(3) != 8
                    || self.arg(1) == 0
                    || !(1..=64).contains(&self.arg(0))
                {
                    return Err(format!(
                        "signal {}, old at {:#x}, sets of {} bytes",
                        self.arg(0),
                        self.arg(2),
                        self.arg(3)
                    ));
                }
                let [handler, flags, restorer, mask] = region.array::<4>(self.arg(1))?;
                Ok(Attribute::SigAction { signal: self.low(0), handler, flags, restorer, mask })
            }),
            libc::SYS_rt_sigprocmask => self.gives_zero().and_then(|()| {
                if self.low(0) > 2 || self.arg(1) == 0 || self.arg(2) != 0 || self.arg(3) != 8 {
                    return Err(format!(
                        "how {}, old at {:#x}, sets of {} bytes",
                        self.low(0),
                        self.arg(2),
                        self.arg(3)
                    ));
                }
                let [set] = region.array::<1>(self.arg(1))?;
                Ok(Attribute::SigMask { how: self.low(0), set })
            }),
            libc::SYS_rt_sigtimedwait => self.eat_signal(),
            libc::SYS_sigaltstack => self.gives_zero().and_then(|()| {
                self.must_be_zero(&[1])?;
                let [sp, flags, len] = region.array::<3>(self.arg(0))?;
                Ok(Attribute::AltStack { sp, flags: flags as u32, len })
            }),
            libc::SYS_set_robust_list => {
                self.gives_zero().map(|()| Attribute::RobustList { head: self.arg(0), len: self.arg(1) })
            }
            libc::SYS_rseq => self.gives_zero().map(|()| Attribute::Rseq {
                address: self.arg(0),
                len: self.low(1),
                flags: self.low(2),
                signature: self.low(3),
            }),
            libc::SYS_membarrier => self.gives_zero().and_then(|()| {
                self.must_be_zero(&[1])?;
                // The commands that register: MEMBARRIER_CMD_REGISTER_* (linux/membarrier.h).
                match self.low(0) {
                    command @ (4 | 16 | 64 | 256) => Ok(Attribute::Membarrier(command)),
                    2 => Ok(Attribute::Membarrier(2)),
                    command => Err(format!("command {command}")),
                }
            }),
            libc::SYS_setitimer => self.gives_zero().and_then(|()| {
                self.must_be_zero(&[2])?;
                let [interval_s, interval, value_s, value] = region.array::<4>(self.arg(1))?;
                Ok(Attribute::IntervalTimer {
                    which: self.low(0),
                    interval_us: time(interval_s, interval, 1_000_000)?,
                    value_us: time(value_s, value, 1_000_000)?,
                })
            }),
            libc::SYS_timer_create => self.gives_zero().and_then(|()| {
                let id = region.cell(self.arg(2))?;
                let event =
                    if self.arg(1) == 0 { Vec::new() } else { region.input(self.arg(1), 64)?.to_vec() };
                Ok(Attribute::TimerCreate { clock: self.low(0), event, id })
            }),
            libc::SYS_timer_settime => self.gives_zero().and_then(|()| {
                self.must_be_zero(&[3])?;
                let [interval_s, interval, value_s, value] = region.array::<4>(self.arg(2))?;
                Ok(Attribute::TimerSet {
                    id: self.low(0),
                    flags: self.low(1),
                    interval_ns: time(interval_s, interval, 1_000_000_000)?,
                    value_ns: time(value_s, value, 1_000_000_000)?,
                })
            }),
            libc::SYS_rt_sigqueueinfo => self.queue_signal(None, 1),
            libc::SYS_rt_tgsigqueueinfo => self.queue_signal(Some(self.low(1)), 2),
            libc::SYS_setpriority => self.gives_zero().and_then(|()| {
                if self.low(0) != libc::PRIO_PROCESS || self.low(1) != 0 && self.low(1) != self.pid {
                    return Err(format!("which {}, who {}", self.low(0), self.low(1)));
                }
                Ok(Attribute::Nice(self.low(2) as i32))
            }),
            libc::SYS_sched_setscheduler => self.gives_zero().and_then(|()| {
                if self.low(0) != 0 && self.low(0) != self.pid {
                    return Err(format!("of task {}", self.low(0)));
                }
                Ok(Attribute::Scheduler { policy: self.low(1), priority: region.u32s(self.arg(2), 1)?[0] })
            }),
            _ => return None,
        };
        Some(attribute.map(Effect::Attribute))
    }

    /// The signal is argument `at`, the `siginfo_t` the one behind it.
    fn queue_signal(&self, tid: Option<u32>, at: usize) -> Lift<Attribute> {
        self.gives_zero()?;
        let info = self.lifter.input(self.arg(at + 1), 128)?.to_vec();
        Ok(Attribute::QueueSignal { pid: self.low(0), tid, signal: self.low(at), info })
    }

    fn eat_signal(&self) -> Lift<Attribute> {
        let [set_at, info, timeout, size, ..] = self.record.args;
        if size != 8 || info != 0 {
            return Err(format!("info at {info:#x}, sets of {size} bytes"));
        }
        if timeout == 0 || self.lifter.array::<2>(timeout)? != [0, 0] {
            return Err("may block".to_owned());
        }
        let [set] = self.lifter.array::<1>(set_at)?;
        Ok(Attribute::EatSignal { set })
    }
}

/// An option of another level than SOL_SOCKET.
///
/// # Sources
/// uapi/linux/in.h, in6.h, tcp.h, icmp.h, icmpv6.h.
fn protocol_option(level: i32, name: i32) -> Option<SocketOption> {
    const ICMP_FILTER: i32 = 1;
    const ICMPV6_FILTER: i32 = 1;
    const IP_NODEFRAG: i32 = 22;
    const IPV6_HDRINCL: i32 = 36;
    const IPV6_FREEBIND: i32 = 78;
    Some(match (level, name) {
        (libc::IPPROTO_IP, libc::IP_FREEBIND) | (libc::IPPROTO_IPV6, IPV6_FREEBIND) => SocketOption::FreeBind,
        (libc::IPPROTO_IP, libc::IP_PKTINFO) | (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) => {
            SocketOption::PacketInfo
        }
        (libc::IPPROTO_IP, libc::IP_TOS) => SocketOption::TypeOfService,
        (libc::IPPROTO_IP, libc::IP_TTL) => SocketOption::TimeToLive,
        (libc::IPPROTO_IP, IP_NODEFRAG) => SocketOption::NoDefrag,
        (libc::IPPROTO_IP, libc::IP_HDRINCL) | (libc::IPPROTO_IPV6, IPV6_HDRINCL) => {
            SocketOption::HeaderIncluded
        }
        (libc::IPPROTO_RAW, ICMP_FILTER) | (libc::IPPROTO_ICMPV6, ICMPV6_FILTER) => SocketOption::IcmpFilter,
        (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) => SocketOption::V6Only,
        (libc::IPPROTO_TCP, libc::TCP_NODELAY) => SocketOption::NoDelay,
        (libc::IPPROTO_TCP, libc::TCP_CORK) => SocketOption::Cork,
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT) => SocketOption::KeepCount,
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) => SocketOption::KeepIdle,
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL) => SocketOption::KeepInterval,
        _ => return None,
    })
}

/// A time of two words, in parts of a second.
fn time(seconds: u64, parts: u64, per_second: u64) -> Lift<u64> {
    let sum = seconds.checked_mul(per_second).and_then(|sum| sum.checked_add(parts));
    sum.filter(|_| parts < per_second).ok_or_else(|| "not a time".to_owned())
}

/// The name of a call, as far as the lifter knows it.
fn name(nr: u16) -> String {
    let name = match libc::c_long::from(nr) {
        libc::SYS_openat => "openat",
        libc::SYS_pipe2 => "pipe2",
        libc::SYS_socketpair => "socketpair",
        libc::SYS_socket => "socket",
        libc::SYS_accept4 => "accept4",
        libc::SYS_bind => "bind",
        libc::SYS_listen => "listen",
        libc::SYS_connect => "connect",
        libc::SYS_unlinkat => "unlinkat",
        libc::SYS_fchmodat => "fchmodat",
        libc::SYS_fchownat => "fchownat",
        libc::SYS_eventfd2 => "eventfd2",
        libc::SYS_epoll_create1 => "epoll_create1",
        libc::SYS_epoll_ctl => "epoll_ctl",
        libc::SYS_timerfd_create => "timerfd_create",
        libc::SYS_timerfd_settime => "timerfd_settime",
        libc::SYS_signalfd4 => "signalfd4",
        libc::SYS_ioctl => "ioctl",
        libc::SYS_dup3 => "dup3",
        libc::SYS_dup2 => "dup2",
        libc::SYS_close => "close",
        libc::SYS_close_range => "close_range",
        libc::SYS_fcntl => "fcntl",
        libc::SYS_lseek => "lseek",
        libc::SYS_write => "write",
        libc::SYS_sendto => "sendto",
        libc::SYS_sendmsg => "sendmsg",
        libc::SYS_shutdown => "shutdown",
        libc::SYS_setsockopt => "setsockopt",
        libc::SYS_read => "read",
        libc::SYS_pread64 => "pread64",
        libc::SYS_preadv => "preadv",
        libc::SYS_flock => "flock",
        libc::SYS_ftruncate => "ftruncate",
        libc::SYS_memfd_create => "memfd_create",
        libc::SYS_mkdirat => "mkdirat",
        libc::SYS_renameat2 => "renameat2",
        libc::SYS_sendfile => "sendfile",
        libc::SYS_fchown => "fchown",
        libc::SYS_fchmod => "fchmod",
        libc::SYS_utimensat => "utimensat",
        libc::SYS_fchdir => "fchdir",
        libc::SYS_chroot => "chroot",
        libc::SYS_mmap => "mmap",
        libc::SYS_mremap => "mremap",
        libc::SYS_munmap => "munmap",
        libc::SYS_mprotect => "mprotect",
        libc::SYS_madvise => "madvise",
        libc::SYS_arch_prctl => "arch_prctl",
        libc::SYS_setsid => "setsid",
        libc::SYS_setpgid => "setpgid",
        libc::SYS_waitid => "waitid",
        libc::SYS_exit_group => "exit_group",
        libc::SYS_kill => "kill",
        libc::SYS_prctl => "prctl",
        libc::SYS_setresuid => "setresuid",
        libc::SYS_setresgid => "setresgid",
        libc::SYS_setgroups => "setgroups",
        libc::SYS_capset => "capset",
        libc::SYS_seccomp => "seccomp",
        libc::SYS_prlimit64 => "prlimit64",
        libc::SYS_umask => "umask",
        libc::SYS_chdir => "chdir",
        libc::SYS_rt_sigaction => "rt_sigaction",
        libc::SYS_rt_sigprocmask => "rt_sigprocmask",
        libc::SYS_rt_sigtimedwait => "rt_sigtimedwait",
        libc::SYS_sigaltstack => "sigaltstack",
        libc::SYS_rseq => "rseq",
        libc::SYS_membarrier => "membarrier",
        libc::SYS_rt_sigqueueinfo => "rt_sigqueueinfo",
        libc::SYS_rt_tgsigqueueinfo => "rt_tgsigqueueinfo",
        libc::SYS_sched_setscheduler => "sched_setscheduler",
        libc::SYS_setpriority => "setpriority",
        libc::SYS_setitimer => "setitimer",
        libc::SYS_timer_create => "timer_create",
        libc::SYS_timer_settime => "timer_settime",
        libc::SYS_set_robust_list => "set_robust_list",
        libc::SYS_set_tid_address => "set_tid_address",
        _ => return format!("system call {nr}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tape::assemble::Assembler;

    const BASE: u64 = 0x1_0000_0000;
    const RO: u64 = BASE + PAGE;
    /// Where calls may write: behind the two event words.
    const SCRATCH: u64 = BASE + EVENTS_OFFSET + 8;

    /// A region built by hand: buffers from the start of the read-only part, then one tape.
    struct Builder {
        ro: Vec<u8>,
        records: Vec<Record>,
        total: u32,
    }

    impl Builder {
        fn new() -> Builder {
            Builder { ro: vec![0; 64], records: Vec::new(), total: 1 }
        }

        fn data(&mut self, bytes: &[u8]) -> u64 {
            let address = RO + self.ro.len() as u64;
            self.ro.extend_from_slice(bytes);
            self.ro.resize(self.ro.len().next_multiple_of(8), 0);
            address
        }

        fn words(&mut self, words: &[u64]) -> u64 {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            self.data(&bytes)
        }

        fn verb(&mut self, verb: u8, args: &[u64]) {
            self.record(verb, Check::Any, 0, args, 0);
        }

        fn call(&mut self, nr: libc::c_long, args: &[u64], expect: u64) {
            self.record(0, Check::Equal, nr, args, expect);
        }

        fn record(&mut self, verb: u8, check: Check, nr: libc::c_long, args: &[u64], expect: u64) {
            let mut all = [0; 6];
            all[..args.len()].copy_from_slice(args);
            self.records.push(Record { verb, check: check as u8, nr: nr as u16, op: 0, args: all, expect });
        }

        fn finish(mut self) -> Tapes {
            let pid = self.data(&7u32.to_ne_bytes());
            let mut words = [0; 11];
            words[CLONE_ARGS_EXIT_SIGNAL] = 17;
            words[CLONE_ARGS_SET_TID] = pid;
            words[CLONE_ARGS_SET_TID_SIZE] = 1;
            let clone_args = self.words(&words);
            let lives = self.records.last().is_some_and(|record| record.verb == Verb::Park as u8);
            let bytes: Vec<u8> = self.records.iter().flat_map(|record| record.to_bytes()).collect();
            let tape = self.data(&bytes);
            self.ro.resize(self.ro.len().next_multiple_of(PAGE as usize), 0);
            let mut rw = vec![0; PAGE as usize];
            let at = offset_of!(Control, total);
            rw[at..at + 4].copy_from_slice(&self.total.to_ne_bytes());
            let tasks =
                vec![TaskTape { pid: 7, lives, tape, records: self.records.len() as u32, clone_args }];
            let empty = Assembler::new(BASE, 0, 0, &[]).finish(1 << 20, 1 << 21).expect("it fits");
            Tapes { rw, ro: self.ro, code: RO, tasks, ..empty }
        }
    }

    /// The effect of one record, or what is wrong with it.
    fn one(build: impl FnOnce(&mut Builder)) -> Result<Effect, String> {
        let mut builder = Builder::new();
        build(&mut builder);
        builder.verb(Verb::Wait as u8, &[BASE + EVENTS_OFFSET + 4]);
        builder.verb(Verb::Park as u8, &[]);
        let tree = lift(&builder.finish()).map_err(|error| error.to_string())?;
        Ok(tree.tasks[0].effects[0].effect.clone())
    }

    #[track_caller]
    fn check(build: impl FnOnce(&mut Builder), expected: Effect) {
        assert_eq!(one(build), Ok(expected));
    }

    #[track_caller]
    fn refuse(build: impl FnOnce(&mut Builder), words: &str) {
        match one(build) {
            Ok(effect) => panic!("{effect:?}, expected: {words}"),
            Err(text) => assert!(text.contains(words), "{text}\nexpected: {words}"),
        }
    }

    const AT_CWD: u64 = -100i64 as u64;

    #[test]
    fn descriptors() {
        let path = |b: &mut Builder| b.data(b"/dev/null\0");
        let open = |flags| Effect::Fd(FdEffect::Open { path: b"/dev/null".to_vec(), flags, fd: 3 });
        check(
            |b| {
                let at = path(b);
                b.call(libc::SYS_openat, &[AT_CWD, at, 2, 0], 3)
            },
            open(2),
        );
        check(
            |b| {
                let at = path(b);
                b.call(libc::SYS_openat, &[u64::from(-100i32 as u32), at, 0, 0], 3)
            },
            open(0),
        );
        refuse(
            |b| {
                let at = path(b);
                b.call(libc::SYS_openat, &[4, at, 2, 0], 3)
            },
            "relative to descriptor 4",
        );
        refuse(
            |b| {
                let at = path(b) + 1;
                b.call(libc::SYS_openat, &[AT_CWD, at, 2, 0], 3)
            },
            "is not absolute",
        );
        refuse(
            |b| {
                let at = path(b);
                b.record(0, Check::Success, libc::SYS_openat, &[AT_CWD, at, 2, 0], 3)
            },
            "number is not checked",
        );
        refuse(|b| b.call(libc::SYS_openat, &[AT_CWD, SCRATCH, 2, 0], 3), "not in the read-only part");
        refuse(|b| b.call(libc::SYS_openat, &[AT_CWD, u64::MAX, 2, 0], 3), "outside the region");
        check(
            |b| b.call(libc::SYS_dup3, &[3, 7, 0o2_000_000], 7),
            Effect::Fd(FdEffect::Dup { from: 3, to: 7, cloexec: true }),
        );
        refuse(|b| b.call(libc::SYS_dup3, &[3, 7, 0], 6), "gives 7, and 6 is expected");
        refuse(
            |b| b.record(0, Check::Any, libc::SYS_close, &[3], 0),
            "task 7, record 0: close: its failure would not be seen",
        );
        check(
            |b| b.call(libc::SYS_pipe2, &[SCRATCH, 0o4000], 0),
            Effect::Fd(FdEffect::Pipe { flags: 0o4000 }),
        );
        refuse(|b| b.call(libc::SYS_pipe2, &[BASE + EVENTS_OFFSET, 0], 0), "not in the scratch part");
        refuse(|b| b.call(libc::SYS_pipe2, &[RO, 0], 0), "not in the scratch part");
        refuse(|b| b.call(libc::SYS_pipe2, &[RO - 4, 0], 0), "not in the scratch part");
        check(
            |b| b.call(libc::SYS_socketpair, &[1, 0o2_000_005, 0, SCRATCH], 0),
            Effect::Fd(FdEffect::SocketPair { sock_type: 5, flags: 0o2_000_000 }),
        );
        refuse(|b| b.call(libc::SYS_socketpair, &[2, 1, 0, SCRATCH], 0), "family 2");
        check(
            |b| b.call(libc::SYS_close_range, &[0, u64::from(u32::MAX), 4], 0),
            Effect::Fd(FdEffect::CloseRange { first: 0, last: u32::MAX, only_mark: true, unshare: false }),
        );
        refuse(|b| b.call(libc::SYS_close_range, &[0, 5, 1], 0), "flags 0x1");
        check(
            |b| b.call(libc::SYS_fcntl, &[3, 2, 1], 0),
            Effect::Fd(FdEffect::SetCloexec { fd: 3, cloexec: true }),
        );
        // F_SETLKW would wait; F_SETLK reads what it is to lock.
        refuse(|b| b.call(libc::SYS_fcntl, &[3, 7, 1], 0), "fcntl: command 7");
        refuse(|b| b.call(libc::SYS_fcntl, &[3, 6, 1], 0), "fcntl: reads 32 bytes at 0x1");
    }

    #[test]
    fn objects_and_memory() {
        check(
            |b| {
                let at = b.data(b"hello");
                b.call(libc::SYS_write, &[4, at, 5], 5)
            },
            Effect::Object { fd: 4, change: Change::Write { data: b"hello".to_vec() } },
        );
        refuse(
            |b| {
                let at = b.data(b"hello");
                b.record(0, Check::Success, libc::SYS_write, &[4, at, 5], 5)
            },
            "would not be seen",
        );
        refuse(
            |b| {
                let at = b.data(b"hello");
                b.call(libc::SYS_write, &[4, at, 1 << 40], 1 << 40)
            },
            "outside the region",
        );
        let vectors = [0x10000, 4096, SCRATCH, 64];
        check(
            |b| {
                let at = b.words(&vectors);
                b.call(libc::SYS_preadv, &[4, at, 2, 8192, 0], 4160)
            },
            Effect::Object {
                fd: 4,
                change: Change::Read { into: vec![(0x10000, 4096), (SCRATCH, 64)], offset: Some(8192) },
            },
        );
        refuse(
            |b| {
                let at = b.words(&[BASE, 64]);
                b.call(libc::SYS_preadv, &[4, at, 1, 0, 0], 64)
            },
            "not in the scratch part",
        );
        refuse(
            |b| {
                let at = b.words(&vectors);
                b.call(libc::SYS_preadv, &[4, at, 2, 8192, 0], 4096)
            },
            "gives 4160, and 4096 is expected",
        );
        refuse(
            |b| {
                let at = b.words(&vectors);
                b.call(libc::SYS_preadv, &[4, at, u64::MAX, 0, 0], 0)
            },
            "vectors",
        );
        refuse(|b| b.call(libc::SYS_pread64, &[4, u64::MAX, 64, 0], 64), "beyond the address space");
        check(
            |b| b.call(libc::SYS_mmap, &[0x10000, 4096, 3, 0x10_0022, u64::MAX, 0], 0x10000),
            Effect::Memory(MemoryEffect::Map {
                at: 0x10000,
                len: 4096,
                prot: 3,
                flags: 0x10_0022,
                file: None,
            }),
        );
        refuse(
            |b| b.call(libc::SYS_mmap, &[0x10000, 4096, 3, 0x22, u64::MAX, 0], 0x10000),
            "the kernel would choose the address",
        );
        refuse(|b| b.call(libc::SYS_mremap, &[0x10000, 0, 4096, 1, 0x20000], 0x20000), "flags 0x1");
        let options = [212_992u64 / 2];
        check(
            |b| {
                let at = b.words(&options);
                b.call(libc::SYS_setsockopt, &[4, 1, 32, at, 4], 0)
            },
            Effect::Object {
                fd: 4,
                change: Change::SetOption { option: SocketOption::SendBuffer, value: 106_496, force: true },
            },
        );
        // struct msghdr with one vector and one SCM_RIGHTS of descriptors 5 and 6.
        let sendmsg = |b: &mut Builder, kind: u64| {
            let data = b.data(b"x");
            let iov = b.words(&[data, 1]);
            let control = b.words(&[24, 1 | kind << 32, 5 | 6 << 32]);
            let message = b.words(&[0, 0, iov, 1, control, 24, 0]);
            b.call(libc::SYS_sendmsg, &[4, message, 0x40], 1);
        };
        let change = Change::Send { data: b"x".to_vec(), rights: vec![5, 6], never_blocks: true };
        check(|b| sendmsg(b, 1), Effect::Object { fd: 4, change });
        refuse(|b| sendmsg(b, 2), "other than one of SCM_RIGHTS");
    }

    #[test]
    fn tasks() {
        check(|b| b.call(libc::SYS_setsid, &[], 7), Effect::SetSid);
        check(|b| b.call(libc::SYS_setpgid, &[0, 0], 0), Effect::SetPgid { pgid: 7 });
        refuse(|b| b.call(libc::SYS_setpgid, &[8, 8], 0), "of task 8");
        check(
            |b| b.call(libc::SYS_waitid, &[1, 9, 0, 0x100_0004, 0], 0),
            Effect::AwaitExit { pid: 9, reap: false },
        );
        refuse(|b| b.call(libc::SYS_waitid, &[1, 9, 0, 0x100_0005, 0], 0), "options");
        refuse(|b| b.call(libc::SYS_kill, &[1, 9], 0), "kill: of 1");
        let eat = |b: &mut Builder, seconds: u64| {
            let (set, time) = (b.words(&[1 << 16]), b.words(&[seconds, 0]));
            b.call(libc::SYS_rt_sigtimedwait, &[set, 0, time, 8], 17);
        };
        check(|b| eat(b, 0), Effect::Attribute(Attribute::EatSignal { set: 1 << 16 }));
        refuse(|b| eat(b, 1), "rt_sigtimedwait: may block");
        refuse(|b| b.call(libc::SYS_reboot, &[], 0), "system call 169: not modelled");
        refuse(|b| b.call(libc::SYS_prctl, &[4242], 0), "option 4242");
        refuse(|b| b.verb(77, &[]), "verb 77");
        refuse(|b| b.verb(Verb::Post as u8, &[BASE + EVENTS_OFFSET + 2]), "is not an event");
        refuse(|b| b.verb(Verb::Post as u8, &[BASE]), "is not an event");
        refuse(|b| b.verb(Verb::Post as u8, &[u64::MAX - 2]), "events outside the written part");
        refuse(|b| b.verb(Verb::Fork as u8, &[0, 88, 0]), "not in the read-only part");
    }

    #[test]
    fn ends() {
        let mut killed = Builder::new();
        killed.call(libc::SYS_kill, &[7, 9], 0);
        killed.verb(u8::MAX, &[]);
        let tree = lift(&killed.finish()).expect("lifts");
        assert_eq!(tree.tasks[0].effects, [Lifted { record: 0, effect: Effect::Kill { signal: 9 } }]);
        let mut behind = Builder::new();
        behind.call(libc::SYS_kill, &[7, 9], 0);
        behind.verb(Verb::Arrive as u8, &[]);
        assert!(lift(&behind.finish()).expect_err("refused").what.contains("behind the end"));
        let mut open = Builder::new();
        open.call(libc::SYS_kill, &[7, 9], 0);
        assert!(lift(&open.finish()).is_err());
    }

    #[test]
    fn the_region() {
        let tapes = || {
            let mut builder = Builder::new();
            builder.verb(Verb::Park as u8, &[]);
            builder.finish()
        };
        let refused = |change: fn(&mut Tapes)| {
            let mut tapes = tapes();
            change(&mut tapes);
            lift(&tapes).expect_err("refused").to_string()
        };
        assert_eq!(lift(&tapes()).map(|tree| (tree.total, tree.root.pid)), Ok((1, 7)));
        assert!(refused(|t| t.rw[24] = 1).contains("do not start as 0"));
        assert!(refused(|t| t.base = !0xfff).contains("does not fit"));
        assert!(refused(|t| t.window_len = 4096).contains("no ranges of pages"));
        assert!(refused(|t| t.tasks[0].records = u32::MAX).contains("overlap or lie outside"));
        assert!(refused(|t| t.tasks[0].tape = BASE).contains("not in the read-only part"));
        assert!(refused(|t| t.tasks[0].lives = false).contains("listed as one that dies"));
        assert!(refused(|t| t.tasks[0].pid = 8).contains("ask for pid 7"));
        assert!(refused(|t| t.tasks.clear()).contains("there is no tape"));
    }

    /// Whatever bytes are wrong: an error or effects, no panic.
    #[test]
    fn hostile_bytes() {
        let mut builder = Builder::new();
        let path = builder.data(b"/dev/null\0");
        let words = builder.words(&[0x10000, 4096, 0x20000, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        builder.call(libc::SYS_openat, &[AT_CWD, path, 2, 0], 0);
        builder.call(libc::SYS_preadv, &[0, words, 2, 0, 0], 4160);
        builder.call(libc::SYS_sendmsg, &[0, words, 0], 0);
        builder.call(libc::SYS_prctl, &[35, 14, words, 104, 0], 0);
        builder.call(libc::SYS_capset, &[words, words], 0);
        builder.call(libc::SYS_setsockopt, &[0, 1, 7, words, 4], 0);
        builder.verb(Verb::Park as u8, &[]);
        let good = builder.finish();
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..20_000 {
            let mut tapes = good.clone();
            for _ in 0..=random() % 3 {
                let at = random() as usize % 1024;
                tapes.ro[at] = [0, 1, 0x7f, 0xff, random() as u8][random() as usize % 5];
            }
            match random() % 16 {
                0 => tapes.base = random(),
                1 => tapes.tasks[0].tape ^= 1 << (random() % 64),
                2 => tapes.tasks[0].records = random() as u32,
                3 => tapes.tasks[0].clone_args ^= 1 << (random() % 64),
                4 => tapes.rw.truncate(random() as usize % 4096),
                _ => {}
            }
            let _ = lift(&tapes);
        }
    }
}
