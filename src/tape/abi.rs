//! The layout that the runner, the assembler, the lifter and the coordinator share, defined once.
//!
//! The *region* is one memfd, mapped shared at the same address in every task:
//!
//! ```text
//! base                    base+rw_len              base+rw_len+ro_len
//!  │ Control │ events │ scratch │ runner │ tapes │ buffers │ … carriers (not of the memfd) …
//!  └──────── read, write ───────┘└──── read, execute ──────┘
//! ```
//!
//! A traced run has two more parts behind them: [`super::trace`].
//!
//! All pointers in it are absolute. The *window* is the region and, behind it, the carriers of
//! shared memory; one munmap at the commit takes all of it away.
#![allow(unsafe_code)]

use std::mem::{offset_of, size_of};

/// One record of a tape. 64 bytes: a cache line.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// What the runner does: one of [`Verb`].
    pub verb: u8,
    /// How the result is judged: one of [`Check`].
    pub check: u8,
    /// Number of the system call (`verb` [`Verb::Syscall`] or [`Verb::Indirect`]).
    pub nr: u16,
    /// The operation this record belongs to: an index into the plan's table of origins.
    pub op: u32,
    /// Arguments of the system call, or of the verb.
    pub args: [u64; 6],
    /// The expected result. Where `verb` is no verb: the error that the record fails with, negated.
    pub expect: u64,
}

/// What a record does.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// A raw system call: number and six arguments.
    Syscall = 0,
    /// `clone3(args[0], args[1])`; the child goes on at the tape at `args[2]`. Expects its pid.
    Fork = 1,
    /// Adds one to the event word at `args[0]` and wakes all who wait for it.
    Post = 2,
    /// Waits until the event word at `args[0]` is not 0.
    Wait = 3,
    /// The barrier: counts this task as arrived and waits for the release, unless nothing is behind it but the end.
    Arrive = 4,
    /// Counts this task as parked and waits to be given its registers, or to leave the window.
    Park = 5,
    /// A raw system call whose first argument is in the word at `args[0]`, where another has written it.
    Indirect = 6,
}

/// How the result of a system call is judged.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// It must equal `expect`.
    Equal = 0,
    /// Anything but an error.
    Success = 1,
    /// Anything.
    Any = 2,
}

/// `UFFDIO_MOVE` (uapi/linux/userfaultfd.h).
pub const UFFDIO_MOVE: u64 = 0xc028_aa05;

impl Verb {
    /// Each at its number.
    const ALL: [Verb; 7] =
        [Verb::Syscall, Verb::Fork, Verb::Post, Verb::Wait, Verb::Arrive, Verb::Park, Verb::Indirect];
}

impl Check {
    /// Each at its number.
    const ALL: [Check; 3] = [Check::Equal, Check::Success, Check::Any];
}

impl Record {
    /// Whether it is this system call.
    pub fn is_call(&self, nr: libc::c_long) -> bool {
        self.verb() == Some(Verb::Syscall) && libc::c_long::from(self.nr) == nr
    }

    /// The verb, if it is one.
    pub fn verb(&self) -> Option<Verb> {
        Verb::ALL.get(usize::from(self.verb)).copied()
    }

    /// The judgement, if it is one.
    pub fn check(&self) -> Option<Check> {
        Check::ALL.get(usize::from(self.check)).copied()
    }

    /// A record that fails with `errno` when it is reached.
    pub fn failing(op: u32, errno: i32) -> Record {
        Record { verb: u8::MAX, check: 0, nr: 0, op, args: [0; 6], expect: i64::from(-errno) as u64 }
    }

    /// Its bytes.
    pub fn to_bytes(self) -> [u8; size_of::<Record>()] {
        // As whole words, for there are many.
        let ([nr, nr_too], [a, b, c, d]) = (self.nr.to_ne_bytes(), self.op.to_ne_bytes());
        let [first, second, third, fourth, fifth, sixth] = self.args;
        let head = [self.verb, self.check, nr, nr_too, a, b, c, d];
        let word = u64::to_ne_bytes;
        let words = [
            head,
            word(first),
            word(second),
            word(third),
            word(fourth),
            word(fifth),
            word(sixth),
            word(self.expect),
        ];
        let mut bytes = [0; size_of::<Record>()];
        bytes.copy_from_slice(words.as_flattened());
        bytes
    }

    /// The record in the first 64 bytes of `bytes`, if there are as many.
    pub fn from_bytes(bytes: &[u8]) -> Option<Record> {
        // As whole words: planning reads every record several times.
        let (words, _) = bytes.as_chunks::<8>();
        let words = words.first_chunk::<{ size_of::<Record>() / 8 }>()?;
        let [head, first, second, third, fourth, fifth, sixth, expect] = *words;
        let word = u64::from_ne_bytes;
        let [verb, check, nr @ .., a, b, c, d] = head;
        Some(Record {
            verb,
            check,
            nr: u16::from_ne_bytes(nr),
            op: u32::from_ne_bytes([a, b, c, d]),
            // One by one: `map` of an array is a call for each.
            args: [word(first), word(second), word(third), word(fourth), word(fifth), word(sixth)],
            expect: word(expect),
        })
    }
}

/// The head of the region: what tasks, launcher and coordinator tell each other. All words start as 0
/// but `total` and `patience`, and `trace` where a run is traced.
#[repr(C)]
#[derive(Debug)]
pub struct Control {
    /// How many have arrived at the barrier.
    pub arrived: u32,
    /// How many there are to arrive, and to park.
    pub total: u32,
    /// Set to 1 by the coordinator: all go on into their tails (a futex).
    pub release: u32,
    /// Set to 1 by the coordinator: no more forks; who is born dies at once.
    pub abort: u32,
    /// Claimed by the first record that fails.
    pub failed: u32,
    /// How many have parked.
    pub parked: u32,
    /// Bits of [`wake`] for the coordinator (a futex).
    pub wake: u32,
    /// Never written: failed tasks, and those that may fork no more, wait here (a futex).
    pub never: u32,
    /// Address of the record that failed.
    pub failed_record: u64,
    /// What it returned.
    pub failed_result: i64,
    /// The task, by its pid as `getpid` gives it.
    pub failed_pid: u64,
    /// The launcher's thread, while it lives: a robust futex, see [`FUTEX_OWNER_DIED`].
    pub launcher: u32,
    /// The same of the coordinator.
    pub coordinator: u32,
    /// How long a task waits before it looks whether anybody is left who could let it go on: a
    /// `struct timespec`, seconds and nanoseconds.
    pub patience: [u64; 2],
    /// Set to 1 by the coordinator: the tree lives, whatever happens to us.
    pub committed: u32,
    /// Set to 1 by the coordinator: who has parked leaves the window (a futex).
    pub leave: u32,
    /// Where the traced runner notes times: a slot is at a quarter of its record's address and this
    /// ([`super::trace`]). 0 where nothing is traced.
    pub trace: u64,
    /// Length of the window, which starts here: what a task unmaps that leaves. Set before `leave`.
    pub window_len: u64,
    /// The signals that it blocks before: all but SIGSEGV. Set before `leave`.
    pub leaving_mask: u64,
}

/// How long a task waits at a time. Nobody waits longer for anything while all goes well, so the look
/// costs nothing; and orphans of both launcher and coordinator are gone after about as long.
pub const PATIENCE_S: u64 = 1;

/// What the kernel writes into the words of [`Control::launcher`] and [`Control::coordinator`] when their
/// owner dies, whatever it dies of (linux/futex.h; get_robust_list(2)).
pub const FUTEX_OWNER_DIED: u32 = 0x4000_0000;

/// Bits of [`Control::wake`].
pub mod wake {
    /// All have arrived.
    pub const ARRIVED: u32 = 1;
    /// A record failed.
    pub const FAILED: u32 = 2;
    /// All have parked.
    pub const PARKED: u32 = 4;
}

/// Where the event words start, from the base of the region; each is a `u32`.
pub const EVENTS_OFFSET: u64 = 128;
/// `struct clone_args` of `clone3(2)`, version 2 (linux/sched.h): 88 bytes, eleven 64-bit words.
pub const CLONE_ARGS_SIZE: u64 = 88;
/// The word of `clone_args` with the flags.
pub const CLONE_ARGS_FLAGS: usize = 0;
/// The word of `clone_args` with the exit signal.
pub const CLONE_ARGS_EXIT_SIGNAL: usize = 4;
/// The word of `clone_args` with the address of the wanted pid, a `pid_t`.
pub const CLONE_ARGS_SET_TID: usize = 8;
/// The word of `clone_args` with the number of wanted pids.
pub const CLONE_ARGS_SET_TID_SIZE: usize = 9;
/// The word of `clone_args` with the descriptor of a cgroup's directory.
pub const CLONE_ARGS_CGROUP: usize = 10;
/// `CLONE_INTO_CGROUP` (linux/sched.h).
pub const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

const _: () = {
    assert!(size_of::<Record>() == 64);
    assert!(offset_of!(Record, nr) == 2);
    assert!(offset_of!(Record, op) == 4);
    assert!(offset_of!(Record, args) == 8);
    assert!(offset_of!(Record, expect) == 56);
    let mut number = 0;
    while number < Verb::ALL.len() {
        assert!(Verb::ALL[number] as usize == number);
        assert!(number >= Check::ALL.len() || Check::ALL[number] as usize == number);
        number += 1;
    }
    assert!(size_of::<Control>() == 112);
    assert!(offset_of!(Control, trace) == 88);
    assert!(offset_of!(Control, patience).is_multiple_of(8));
    assert!(offset_of!(Control, window_len) == 96);
    assert!(size_of::<Control>() as u64 <= EVENTS_OFFSET);
    assert!(offset_of!(Control, failed_record) == 32);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_back() {
        let record =
            Record { verb: 1, check: 2, nr: 300, op: 77, args: [1, 2, 3, 4, 5, u64::MAX], expect: 9 };
        assert_eq!(Record::from_bytes(&record.to_bytes()), Some(record));
        assert_eq!(Record::from_bytes(&[0; 63]), None);
    }
}
