//! From system calls and buffers to bytes at fixed addresses.
//!
//! The assembler hands out addresses at once (the base of the region and the length of its written
//! part are known before), so a record can hold the address of a buffer as soon as the buffer
//! exists. Equal buffers are stored once. Worked example: `data(b"/dev/null\0", 1)` twice gives the
//! same address twice.

use std::collections::{BTreeSet, HashMap};

use smallvec::SmallVec;
use thiserror::Error;

use super::abi::{Check, EVENTS_OFFSET, Record, Verb};
use super::{Tapes, TaskTape, Undo, UndoKind};

const PAGE: u64 = 4096;
/// Room behind the events where calls may write what nobody reads.
const SCRATCH: u64 = 2048;
/// The most descriptors that one message carries (SCM_MAX_FD, include/net/scm.h). The control message that
/// brings them fits into the scratch part.
pub const PASSED_MAX: usize = 253;

/// The region has grown out of its place.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("tapes of {need} bytes do not fit into the {room} bytes kept for them")]
pub struct TooLarge {
    /// What is needed.
    pub need: u64,
    /// What there is.
    pub room: u64,
}

/// Builds [`Tapes`].
#[derive(Debug)]
pub struct Assembler {
    base: u64,
    rw_len: u64,
    scratch: u64,
    cells: Vec<u64>,
    cell_room: usize,
    ro: Vec<u8>,
    code: u64,
    known: HashMap<Box<[u8]>, u64>,
    tasks: Vec<TaskTape>,
    undo: Vec<Undo>,
    spent: Vec<Vec<u8>>,
    /// The first event word that is a flag of an undo entry, and the first that is not.
    undo_events: (usize, usize),
}

impl Assembler {
    /// An assembler for a region at `base` with `events` event words and room for `cells` cells, that
    /// plays on `runner`.
    pub fn new(base: u64, events: usize, cells: usize, runner: &[u8]) -> Assembler {
        let scratch = (EVENTS_OFFSET + 4 * events as u64).next_multiple_of(64);
        let rw_len = (scratch + SCRATCH + 8 * cells as u64).next_multiple_of(PAGE);
        Assembler {
            base,
            rw_len,
            scratch,
            cells: Vec::new(),
            cell_room: cells,
            ro: runner.to_vec(),
            code: base + rw_len,
            known: HashMap::new(),
            tasks: Vec::new(),
            undo: Vec::new(),
            spent: Vec::new(),
            undo_events: (events, events),
        }
    }

    /// An assembler with room for the flags of `names` undo entries behind its events.
    pub fn with_undo(base: u64, events: usize, names: usize, cells: usize, runner: &[u8]) -> Assembler {
        let all = events + 3 * names;
        Assembler { undo_events: (events, all), ..Assembler::new(base, all, cells, runner) }
    }

    /// Notes a name that a task makes, for the launcher: the addresses of the words that say that it
    /// is about to be made, that it has been made, that it is gone. No more of them may be asked for
    /// than were announced.
    pub fn undo(&mut self, path: &[u8], kind: UndoKind) -> [u64; 3] {
        let first = self.undo_events.0 + 3 * self.undo.len();
        assert!(first + 3 <= self.undo_events.1, "more undo entries than were announced");
        let words = [0, 1, 2].map(|word| self.event((first + word) as u32));
        let [intent, made, gone] = words.map(|address| address - self.base);
        self.undo.push(Undo { intent, made, gone, kind, path: path.to_vec() });
        words
    }

    /// Notes a name that is to be removed when the tree lives.
    pub fn spend(&mut self, path: &[u8]) {
        self.spent.push(path.to_vec());
    }

    /// Address of a word of its own that starts as `value` and may be written by calls. No more of
    /// them may be asked for than were announced.
    pub fn cell(&mut self, value: u64) -> u64 {
        assert!(self.cells.len() < self.cell_room, "more cells than were announced");
        self.cells.push(value);
        self.base + self.scratch + SCRATCH + 8 * (self.cells.len() as u64 - 1)
    }

    /// Address of event word `index`.
    pub fn event(&self, index: u32) -> u64 {
        self.base + EVENTS_OFFSET + 4 * u64::from(index)
    }

    /// Address of a place that calls may write to and nobody reads.
    pub fn scratch(&self) -> u64 {
        self.base + self.scratch
    }

    /// Address of a copy of `bytes`, aligned to `align` (a power of two up to 4096).
    pub fn data(&mut self, bytes: &[u8], align: u64) -> u64 {
        // Long buffers are contents, hardly ever alike.
        if bytes.len() <= 256 { self.shared_data(bytes, align) } else { self.append(bytes, align) }
    }

    /// As [`Assembler::data`], for long buffers that many tasks use.
    pub fn shared_data(&mut self, bytes: &[u8], align: u64) -> u64 {
        if let Some(address) = self.known.get(bytes)
            && address.is_multiple_of(align)
        {
            return *address;
        }
        let address = self.append(bytes, align);
        self.known.insert(bytes.into(), address);
        address
    }

    /// Address of a copy of `text` with a zero byte behind it.
    pub fn text(&mut self, text: &[u8]) -> u64 {
        let mut bytes = Vec::with_capacity(text.len() + 1);
        bytes.extend_from_slice(text);
        bytes.push(0);
        self.data(&bytes, 1)
    }

    /// Address of 64-bit words.
    pub fn words(&mut self, words: &[u64]) -> u64 {
        let bytes: SmallVec<[[u8; 8]; 16]> = words.iter().map(|word| word.to_ne_bytes()).collect();
        self.data(bytes.as_flattened(), 8)
    }

    /// Makes room for about so many records.
    pub fn reserve(&mut self, records: usize) {
        self.ro.reserve(records * size_of::<Record>());
    }

    fn append(&mut self, bytes: &[u8], align: u64) -> u64 {
        let at = (self.ro.len() as u64).next_multiple_of(align);
        self.ro.resize(at as usize, 0);
        self.ro.extend_from_slice(bytes);
        self.base + self.rw_len + at
    }

    /// Lays down one task's tape and returns its address. Children before their parents, which need
    /// that address.
    pub fn tape(&mut self, pid: u32, lives: bool, clone_args: u64, records: &[Record]) -> u64 {
        let tape = self.append(&[], 64);
        self.ro.reserve(size_of_val(records));
        for record in records {
            self.ro.extend_from_slice(&record.to_bytes());
        }
        self.tasks.push(TaskTape { pid, lives, tape, records: records.len() as u32, clone_args });
        tape
    }

    /// The finished region in a window of `window_len` bytes, of which `region_len` may be used.
    ///
    /// # Errors
    /// The region is larger than `region_len`.
    pub fn finish(mut self, region_len: u64, window_len: u64) -> Result<Tapes, TooLarge> {
        self.tasks.reverse();
        let sigchld_set = self.words(&[1 << (libc::SIGCHLD - 1)]);
        let no_time = self.words(&[0, 0]);
        self.ro.resize((self.ro.len() as u64).next_multiple_of(PAGE) as usize, 0);
        let need = self.rw_len + self.ro.len() as u64;
        if need > region_len {
            return Err(TooLarge { need, room: region_len });
        }
        let mut rw = vec![0; self.rw_len as usize];
        let total = self.tasks.iter().filter(|task| task.lives).count() as u32;
        let at = std::mem::offset_of!(super::abi::Control, total);
        rw[at..at + 4].copy_from_slice(&total.to_ne_bytes());
        let at = std::mem::offset_of!(super::abi::Control, patience);
        rw[at..at + 8].copy_from_slice(&super::abi::PATIENCE_S.to_ne_bytes());
        let cells = (self.scratch + SCRATCH) as usize;
        for (slot, value) in rw[cells..].chunks_exact_mut(8).zip(&self.cells) {
            slot.copy_from_slice(&value.to_ne_bytes());
        }
        Ok(Tapes {
            base: self.base,
            window_len,
            rw,
            ro: self.ro,
            code: self.code,
            sigchld_set,
            no_time,
            tasks: self.tasks,
            suspended: BTreeSet::new(),
            undo: self.undo,
            clocks_ns: None,
            spent: self.spent,
            cgroups: Vec::new(),
            is_traced: false,
        })
    }
}

/// The records of one task while they are written.
#[derive(Debug, Default)]
pub struct Tape {
    /// The records so far.
    pub records: Vec<Record>,
    /// The operation that the next records belong to.
    pub op: u32,
}

impl Tape {
    fn push(&mut self, verb: Verb, nr: u16, check: Check, args: &[u64], expect: u64) {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        self.records.push(Record {
            verb: verb as u8,
            check: check as u8,
            nr,
            op: self.op,
            args: all,
            expect,
        });
    }

    /// A system call that must return `expect`.
    pub fn call(&mut self, nr: libc::c_long, args: &[u64], expect: u64) {
        self.push(Verb::Syscall, nr as u16, Check::Equal, args, expect);
    }

    /// A system call that must not fail.
    pub fn call_ok(&mut self, nr: libc::c_long, args: &[u64]) {
        self.push(Verb::Syscall, nr as u16, Check::Success, args, 0);
    }

    /// A system call whose result does not matter.
    pub fn call_any(&mut self, nr: libc::c_long, args: &[u64]) {
        self.push(Verb::Syscall, nr as u16, Check::Any, args, 0);
    }

    /// A system call that must return `expect`, with what is in the word at `first` for its first argument, and with
    /// `rest` behind it.
    pub fn call_at(&mut self, nr: libc::c_long, first: u64, rest: &[u64], expect: u64) {
        let args = [&[first], rest].concat();
        self.push(Verb::Indirect, nr as u16, Check::Equal, &args, expect);
    }

    /// A fork of `pid`, which goes on at `tape`.
    pub fn fork(&mut self, clone_args: u64, tape: u64, pid: u32) {
        self.push(
            Verb::Fork,
            0,
            Check::Equal,
            &[clone_args, super::abi::CLONE_ARGS_SIZE, tape],
            u64::from(pid),
        );
    }

    /// Posts the event at `word`.
    pub fn post(&mut self, word: u64) {
        self.push(Verb::Post, 0, Check::Any, &[word], 0);
    }

    /// Waits for the event at `word`.
    pub fn wait(&mut self, word: u64) {
        self.push(Verb::Wait, 0, Check::Any, &[word], 0);
    }

    /// The barrier.
    pub fn arrive(&mut self) {
        self.push(Verb::Arrive, 0, Check::Any, &[], 0);
    }

    /// The end of a living task's tape.
    pub fn park(&mut self) {
        self.push(Verb::Park, 0, Check::Any, &[], 0);
    }

    /// A record that fails if it is ever reached.
    pub fn never(&mut self) {
        self.records.push(Record::failing(self.op, libc::ENOSYS));
    }
}
