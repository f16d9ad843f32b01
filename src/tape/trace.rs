//! Where a traced run notes its times: two more parts of the region, behind the tapes.
//!
//! ```text
//! … │ runner │ tapes │ buffers │ traced runner │ slots │ … carriers
//!     └───── read, execute ──────────────────┘ └─ read, write ─┘
//! ```
//!
//! The tapes stay as they are, to the byte: the root is let loose on the traced runner in place of the other,
//! and that finds the slot of a record, its start and its end, at a quarter of the record's address. So there
//! is no register and no index to keep, and no two tasks write to one slot.
//!
//! The slots are outside of what calls of a tape may write (the scratch part is in front of the tapes), and
//! within the region that the checker lets nobody unmap or write over: tapes are certified with them.
//!
//! What makes `rdtsc` fail (PR_SET_TSC, and strict seccomp, which does the same) ends the tracing of its
//! thread: the slots of its records from there on are marked, and the runner leaves marked slots alone.
//!
//! # Sources
//! PR_SET_TSC(2const); `seccomp_set_mode_strict` in the kernel's kernel/seccomp.c, which calls `disable_TSC`.

use std::mem::offset_of;

use super::abi::{Control, Record, Verb};
use super::assemble::TooLarge;
use super::{Tapes, TaskTape};
use crate::runner;

const PAGE: u64 = 4096;
/// Bytes of a record for one byte of its slot.
const SHARE: u64 = 4;
/// The two words of a slot.
pub const SLOT_SIZE: u64 = size_of::<Record>() as u64 / SHARE;
/// The second word of a slot that the runner leaves alone.
const UNTRACED: u64 = u64::MAX;

/// The two further parts of the region of a traced run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// Address of the traced runner.
    pub code: u64,
    /// Length of the part with it, in bytes: a multiple of the page size.
    pub code_len: u64,
    /// Address of the slots.
    pub slots: u64,
    /// Length of the part with them, in bytes: a multiple of the page size.
    pub slots_len: u64,
}

impl Area {
    /// That of tapes, traced or not.
    fn of(tapes: &Tapes) -> Area {
        let code = tapes.ro_base().saturating_add(tapes.ro.len() as u64);
        let code_len = (runner::traced_code().len() as u64).next_multiple_of(PAGE);
        let slots_len = (tapes.ro.len() as u64 / SHARE).next_multiple_of(PAGE);
        Area { code, code_len, slots: code.saturating_add(code_len), slots_len }
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.code_len + self.slots_len
    }

    /// Whether there is nothing in it; never so.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What [`Control::trace`] must be, so that the slots are those of the tapes.
    pub fn bias(&self, tapes: &Tapes) -> u64 {
        self.slots.wrapping_sub(tapes.ro_base() / SHARE)
    }
}

impl Tapes {
    /// Where a run of these tapes notes its times; `None`: it notes none.
    pub fn trace(&self) -> Option<Area> {
        self.is_traced.then(|| Area::of(self))
    }

    /// Length of the region with all that is in it, in bytes.
    pub fn region_len(&self) -> u64 {
        (self.rw.len() as u64 + self.ro.len() as u64)
            .saturating_add(self.trace().map_or(0, |area| area.len()))
    }

    /// Makes a run of these tapes note its times. The records stay as they are.
    ///
    /// # Errors
    /// There is no room between the tapes and what is carried behind them.
    pub fn set_traced(&mut self) -> Result<(), TooLarge> {
        let area = Area::of(self);
        let need = area.code.saturating_add(area.len()).saturating_sub(self.base);
        let room = self.carriers().saturating_sub(self.base);
        if need > room {
            return Err(TooLarge { need, room });
        }
        let at = offset_of!(Control, trace);
        let bias = area.bias(self);
        self.rw[at..at + 8].copy_from_slice(&bias.to_ne_bytes());
        self.is_traced = true;
        Ok(())
    }

    /// Where the first carrier of shared memory begins, or the window ends.
    fn carriers(&self) -> u64 {
        let end = self.base.saturating_add(self.window_len);
        let behind = self.ro_base().saturating_add(self.ro.len() as u64);
        let mapped = self.tasks.iter().flat_map(|task| self.records(task)).filter_map(|(_, record)| {
            let is_map =
                record.verb() == Some(Verb::Syscall) && libc::c_long::from(record.nr) == libc::SYS_mmap;
            is_map.then_some(record.args[0])
        });
        mapped.filter(|at| (behind..end).contains(at)).min().unwrap_or(end)
    }

    /// Where in the slots' part a record has its slot.
    fn slot_of(&self, record: u64) -> u64 {
        record.saturating_sub(self.ro_base()) / SHARE
    }

    /// The slots as they are before the run: places in the slots' part, and what is there. The rest is 0.
    pub fn marked_slots(&self) -> Vec<(u64, [u64; 2])> {
        let mut marked = Vec::new();
        for task in &self.tasks {
            let from = self.records(task).skip_while(|(_, record)| !ends_tracing(record));
            marked.extend(from.map(|(at, _)| (self.slot_of(at), [0, UNTRACED])));
        }
        marked
    }

    /// When each record of a task started and ended, by the time-stamp counter, from the slots' part as it is
    /// after the run: 0 where it did not, or where it was not noted.
    pub fn times(&self, task: &TaskTape, slots: &[u8]) -> Vec<[u64; 2]> {
        let word = |at: u64| {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            slots
                .get(at..)
                .and_then(|bytes| bytes.first_chunk())
                .map_or(0, |bytes| u64::from_ne_bytes(*bytes))
        };
        self.records(task)
            .map(|(at, _)| {
                let slot = self.slot_of(at);
                [word(slot), Some(word(slot + 8)).filter(|end| *end != UNTRACED).unwrap_or(0)]
            })
            .collect()
    }
}

/// Whether `rdtsc` may fail behind it.
fn ends_tracing(record: &Record) -> bool {
    if record.verb() != Some(Verb::Syscall) {
        return false;
    }
    let (nr, first) = (libc::c_long::from(record.nr), record.args[0]);
    let is_prctl = |option: i32| nr == libc::SYS_prctl && first == option as u64;
    nr == libc::SYS_seccomp && first == u64::from(libc::SECCOMP_SET_MODE_STRICT)
        || is_prctl(libc::PR_SET_TSC)
        || is_prctl(libc::PR_SET_SECCOMP) && record.args[1] == u64::from(libc::SECCOMP_MODE_STRICT)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tape::assemble::{Assembler, Tape};

    const BASE: u64 = 1 << 32;
    const WINDOW: u64 = 4 << 20;

    fn tapes(carrier: Option<u64>) -> Tapes {
        let mut asm = Assembler::new(BASE, 3, 0, runner::code());
        let mut plain = Tape::default();
        plain.call(libc::SYS_umask, &[0], 0);
        if let Some(at) = carrier {
            plain.call(libc::SYS_mmap, &[at, 4096, 3, 0, u64::MAX, 0], at);
        }
        plain.park();
        let mut strict = Tape::default();
        strict.call(libc::SYS_umask, &[0], 0);
        strict.call(libc::SYS_seccomp, &[0, 0, 0], 0);
        strict.call(libc::SYS_umask, &[0], 0);
        strict.park();
        asm.tape(8, true, 0, &strict.records);
        asm.tape(7, true, 0, &plain.records);
        asm.finish(2 << 20, WINDOW).unwrap()
    }

    #[test]
    fn every_record_has_a_slot_of_its_own() {
        let mut tapes = tapes(None);
        let before = (tapes.ro.clone(), tapes.tasks.clone());
        tapes.set_traced().unwrap();
        assert_eq!(before, (tapes.ro.clone(), tapes.tasks.clone()), "the tapes change");
        let area = tapes.trace().unwrap();
        assert_eq!(area.code, tapes.ro_base() + tapes.ro.len() as u64);
        assert_eq!(tapes.region_len(), area.slots + area.slots_len - BASE);
        let bias = area.bias(&tapes);
        let mut found = Vec::new();
        for task in &tapes.tasks {
            for (at, _) in tapes.records(task) {
                // As the runner reckons.
                let slot = (at >> 2).wrapping_add(bias);
                assert_eq!(slot - area.slots, tapes.slot_of(at));
                assert!(slot >= area.slots && slot + SLOT_SIZE <= area.slots + area.slots_len);
                found.push(slot);
            }
        }
        found.sort_unstable();
        assert!(found.windows(2).all(|pair| pair[0] + SLOT_SIZE <= pair[1]));
        assert_eq!(found.len(), 6);
    }

    #[test]
    fn nothing_is_noted_behind_what_disables_the_counter() {
        let mut tapes = tapes(None);
        tapes.set_traced().unwrap();
        let strict = *tapes.tasks.iter().find(|task| task.pid == 8).unwrap();
        let marked = tapes.marked_slots();
        assert_eq!(marked.len(), 3);
        let mut slots = vec![0; tapes.trace().unwrap().slots_len as usize];
        for (at, words) in marked {
            let bytes = [words[0].to_ne_bytes(), words[1].to_ne_bytes()].concat();
            slots[at as usize..at as usize + 16].copy_from_slice(&bytes);
        }
        let first = tapes.slot_of(strict.tape) as usize;
        slots[first..first + 8].copy_from_slice(&5u64.to_ne_bytes());
        slots[first + 8..first + 16].copy_from_slice(&9u64.to_ne_bytes());
        assert_eq!(tapes.times(&strict, &slots), [[5, 9], [0, 0], [0, 0], [0, 0]]);
    }

    #[test]
    fn carriers_are_not_written_over() {
        let (near, far) = (BASE + 12288, BASE + (2 << 20));
        assert!(tapes(Some(near)).set_traced().is_err());
        assert!(tapes(Some(far)).set_traced().is_ok());
    }
}
