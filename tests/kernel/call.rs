//! A system call with what it points to, before it has addresses; and the record that it becomes.

use std::fmt;

use regrow::tape::abi::{
    CLONE_ARGS_EXIT_SIGNAL, CLONE_ARGS_FLAGS, CLONE_ARGS_SET_TID, CLONE_ARGS_SET_TID_SIZE, CLONE_ARGS_SIZE,
    Check, PATIENCE_S, Record, Verb,
};
use regrow::tape::lift::lift;
use regrow::tape::{Tapes, TaskTape};
use regrow_graph::verify::{Effect, LiftedTree};

use crate::player::{BASE, CHANGED, CONTROL, RW_LEN, SCRATCH};

/// What a descriptor shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Kind {
    Any,
    File,
    Directory,
    Pipe,
    Socket,
    /// A socket that is connected.
    Connected,
    /// A socket that a message waits in.
    Filled,
    Bound,
    Listener,
    Eventfd,
    Epoll,
    Timer,
}

/// An argument, or a word of a structure.
#[derive(Clone, PartialEq)]
pub(crate) enum Word {
    /// A number.
    Is(u64),
    /// The caller's pid.
    Own,
    /// A descriptor that the caller has when it makes the call: the so-and-so-many-th of a kind, round and
    /// round. If it has none, that number.
    Held(Kind, u8),
    /// The address of bytes.
    Bytes(Vec<u8>),
    /// The address of words.
    Words(Vec<Word>),
    /// The address of words that the call may change.
    Changed(Vec<Word>),
    /// The address of a control message with descriptors.
    Rights(Vec<Word>),
    /// The address of a place where a control message may be written.
    Control,
    /// The address of a place where the call may write.
    Scratch,
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Word::Is(number) if *number > 0xffff => write!(f, "{number:#x}"),
            Word::Is(number) => write!(f, "{number}"),
            Word::Own => f.write_str("self"),
            Word::Held(kind, nth) => write!(f, "{kind:?} {nth}"),
            Word::Bytes(bytes) if bytes.len() > 40 => write!(f, "[{} bytes]", bytes.len()),
            Word::Bytes(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Word::Words(words) => words.fmt(f),
            Word::Changed(words) => write!(f, "changed {words:?}"),
            Word::Rights(words) if words.len() > 9 => {
                write!(f, "rights [{} times {:?}]", words.len(), words[0])
            }
            Word::Rights(words) => write!(f, "rights {words:?}"),
            Word::Control => f.write_str("control"),
            Word::Scratch => f.write_str("scratch"),
        }
    }
}

impl Word {
    /// Puts the descriptors that the caller has in place of those of a kind.
    fn choose(&mut self, held: &impl Fn(Kind) -> Vec<u32>) {
        match self {
            Word::Held(kind, nth) => {
                let all = held(*kind);
                let number =
                    if all.is_empty() { u32::from(*nth) } else { all[usize::from(*nth) % all.len()] };
                *self = Word::Is(number.into());
            }
            Word::Words(words) | Word::Changed(words) | Word::Rights(words) => {
                words.iter_mut().for_each(|word| word.choose(held));
            }
            Word::Is(_) | Word::Own | Word::Bytes(_) | Word::Control | Word::Scratch => {}
        }
    }
}

/// What a call that succeeds gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gives {
    /// This.
    Value(u64),
    /// A descriptor's number: the kernel chooses it.
    Number,
    /// The caller's pid.
    Own,
    /// Anything: what was there before.
    Old,
}

/// A call.
#[derive(Clone, PartialEq)]
pub(crate) struct Call {
    /// Its name, as [`Effect::name`] has it.
    pub name: &'static str,
    /// Its number.
    pub nr: i64,
    /// Its arguments, up to six.
    pub args: Vec<Word>,
    /// What it gives.
    pub gives: Gives,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.name, self.args)
    }
}

/// A step of a case: who makes which call.
#[derive(Clone, PartialEq)]
pub(crate) enum Step {
    /// Makes a task or a thread.
    Fork { who: u8, pid: u32, flags: u64, exit_signal: u64 },
    /// Makes a call.
    Call { who: u8, call: Call },
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Fork { who, pid, flags, exit_signal } => {
                write!(f, "#{who}: clone3[{pid}, {flags:#x}, {exit_signal}]")
            }
            Step::Call { who, call } => write!(f, "#{who}: {call:?}"),
        }
    }
}

impl Step {
    /// The same with the descriptors that the caller has.
    pub(crate) fn with_held(&self, held: impl Fn(Kind) -> Vec<u32>) -> Step {
        let mut step = self.clone();
        if let Step::Call { call, .. } = &mut step {
            call.args.iter_mut().for_each(|word| word.choose(&held));
        }
        step
    }

    /// Which of the living makes it.
    pub(crate) fn who(&self) -> usize {
        match self {
            Step::Fork { who, .. } | Step::Call { who, .. } => usize::from(*who),
        }
    }
}

/// The read-only part of the window while one step is laid down in it.
struct Builder {
    bytes: Vec<u8>,
    own: u32,
    /// What is in the written part at first.
    changed: Vec<(u64, Vec<u8>)>,
}

/// A step with addresses.
pub(crate) struct Placed {
    /// The record.
    pub record: Record,
    /// The buffers of the read-only part, from its second page on.
    pub buffers: Vec<u8>,
    /// What is to be in the part that is written, by address.
    pub changed: Vec<(u64, Vec<u8>)>,
    own: (u32, u32),
}

impl Builder {
    fn put(&mut self, bytes: &[u8]) -> u64 {
        let address = BASE + RW_LEN + self.bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        address
    }

    fn value(&mut self, word: &Word) -> u64 {
        match word {
            Word::Is(number) => *number,
            Word::Own => self.own.into(),
            Word::Held(_, nth) => u64::from(*nth),
            Word::Bytes(bytes) => self.put(bytes),
            Word::Words(words) => {
                let words: Vec<u64> = words.iter().map(|word| self.value(word)).collect();
                self.put(&words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>())
            }
            Word::Changed(words) => {
                let words: Vec<u8> =
                    words.iter().map(|word| self.value(word)).flat_map(u64::to_ne_bytes).collect();
                let taken: usize = self.changed.iter().map(|(_, bytes)| bytes.len()).sum();
                let address = CHANGED + taken as u64;
                self.changed.push((address, words));
                address
            }
            Word::Rights(fds) => {
                let numbers: Vec<u32> = fds.iter().map(|fd| self.value(fd) as u32).collect();
                let len = 16 + 4 * numbers.len() as u64;
                let kind = libc::SOL_SOCKET as u64 | (libc::SCM_RIGHTS as u64) << 32;
                let mut control = [len, kind].map(u64::to_ne_bytes).concat();
                control.extend(numbers.into_iter().flat_map(u32::to_ne_bytes));
                self.put(&control)
            }
            Word::Control => CONTROL,
            Word::Scratch => SCRATCH,
        }
    }

    fn birth(&mut self, pid: u32, flags: u64, exit_signal: u64) -> u64 {
        let number = self.put(&pid.to_ne_bytes());
        let mut words = [0u64; (CLONE_ARGS_SIZE / 8) as usize];
        words[CLONE_ARGS_FLAGS] = flags;
        words[CLONE_ARGS_EXIT_SIGNAL] = exit_signal;
        words[CLONE_ARGS_SET_TID] = number;
        words[CLONE_ARGS_SET_TID_SIZE] = 1;
        self.put(&words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>())
    }
}

const PAGE: usize = 4096;

impl Placed {
    /// Lays a step down for thread `tid` of process `pid`. A number that the kernel chooses is expected
    /// to be `number`; a task that is made plays what is at `tape`.
    pub(crate) fn new(step: &Step, (tid, pid): (u32, u32), number: u64, tape: u64) -> Placed {
        let mut builder = Builder { bytes: vec![0; PAGE], own: pid, changed: Vec::new() };
        let record = match step {
            Step::Fork { pid, flags, exit_signal, .. } => {
                let clone_args = builder.birth(*pid, *flags, *exit_signal);
                let args = [clone_args, CLONE_ARGS_SIZE, tape, 0, 0, 0];
                Record {
                    verb: Verb::Fork as u8,
                    check: Check::Equal as u8,
                    nr: libc::SYS_clone3 as u16,
                    op: 0,
                    args,
                    expect: (*pid).into(),
                }
            }
            Step::Call { call, .. } => {
                let mut args = [0; 6];
                for (arg, word) in args.iter_mut().zip(&call.args) {
                    *arg = builder.value(word);
                }
                let (check, expect) = match call.gives {
                    Gives::Value(value) => (Check::Equal, value),
                    Gives::Number => (Check::Equal, number),
                    Gives::Own => (Check::Equal, pid.into()),
                    Gives::Old => (Check::Any, 0),
                };
                Record {
                    verb: Verb::Syscall as u8,
                    check: check as u8,
                    nr: call.nr as u16,
                    op: 0,
                    args,
                    expect,
                }
            }
        };
        Placed { record, buffers: builder.bytes, changed: builder.changed, own: (tid, pid) }
    }

    /// What the lifter makes of the record.
    ///
    /// # Panics
    /// It does not understand it: the generator makes only what it knows.
    pub(crate) fn lift(&self, step: &Step) -> Effect {
        let (_, pid) = self.own;
        let mut builder = Builder { bytes: self.buffers.clone(), own: pid, changed: self.changed.clone() };
        let mut child = None;
        if let Step::Fork { pid: born, flags, exit_signal, .. } = step
            && *born != pid
        {
            let clone_args = builder.birth(*born, *flags, *exit_signal);
            child = Some(TaskTape {
                pid: *born,
                lives: false,
                tape: self.record.args[2],
                records: 0,
                clone_args,
            });
        }
        let tree = lift(&tapes(builder, self.own.1, &[self.record], child))
            .unwrap_or_else(|error| panic!("{step:?}: {error}"));
        tree.tasks[0].effects[0].effect.clone()
    }
}

/// Tapes of one task that plays `records` and parks.
fn tapes(mut builder: Builder, pid: u32, records: &[Record], child: Option<TaskTape>) -> Tapes {
    let clone_args = builder.birth(pid, 0, libc::SIGCHLD as u64);
    let end = match records.last() {
        // Behind its death a task has only a record that never runs.
        Some(record) if record.verb == 0 && i64::from(record.nr) == libc::SYS_kill => Record::failing(0, 0),
        Some(_) | None => Record { verb: Verb::Park as u8, check: 0, nr: 0, op: 0, args: [0; 6], expect: 0 },
    };
    let lives = end.verb == Verb::Park as u8;
    let bytes: Vec<u8> = records.iter().chain([&end]).flat_map(|record| record.to_bytes()).collect();
    let tape = builder.put(&bytes);
    let ends = TaskTape { pid, lives, tape, records: records.len() as u32 + 1, clone_args };
    let mut ro = builder.bytes;
    ro.resize(ro.len().next_multiple_of(PAGE), 0);
    let mut rw = vec![0; RW_LEN as usize];
    let at = std::mem::offset_of!(regrow::tape::abi::Control, total);
    rw[at..at + 4].copy_from_slice(&1u32.to_ne_bytes());
    let at = std::mem::offset_of!(regrow::tape::abi::Control, patience);
    rw[at..at + 8].copy_from_slice(&PATIENCE_S.to_ne_bytes());
    for (address, bytes) in &builder.changed {
        let at = (address - BASE) as usize;
        rw[at..at + bytes.len()].copy_from_slice(bytes);
    }
    Tapes {
        base: BASE,
        window_len: RW_LEN + crate::player::RO_LEN,
        rw,
        ro,
        code: BASE + RW_LEN,
        sigchld_set: 0,
        no_time: 0,
        tasks: std::iter::once(ends).chain(child).collect(),
        suspended: Default::default(),
        undo: Vec::new(),
        clocks_ns: None,
        spent: Vec::new(),
        cgroups: Vec::new(),
        is_traced: false,
    }
}

/// The tree before the first step, lifted: one task that does nothing yet.
pub(crate) fn seed(pid: u32) -> LiftedTree {
    let builder = Builder { bytes: vec![0; PAGE], own: pid, changed: Vec::new() };
    lift(&tapes(builder, pid, &[], None)).expect("an empty tape lifts")
}
