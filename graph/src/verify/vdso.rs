//! The vDSO of each task: the running kernel's where the images say, or elsewhere, with every function of
//! the dumped one leading to the function of the same name.
//!
//! What is compared: where the running kernel's is mapped, that it stays, and each byte that is written
//! over the dumped code or over the running kernel's. Everything else of address spaces is
//! [`super::space`]'s.
//!
//! # Sources
//! vdso(7), `process_vm_writev(2)`; Intel SDM volume 2 for the instructions.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::before::At;
use super::effect::{MemoryEffect, RingEffect};
use super::outcome::Wrong;
use super::run::{Role, Run};

const PROT_WRITE: u32 = 2;
const PROT_READ_EXEC: u32 = 5;

/// The ways in which a task may get its vDSO.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedVdso {
    /// Length of the running kernel's mappings in all.
    pub len: u64,
    /// The dumped code is the running kernel's: that may be mapped from this address on.
    pub here: Option<u64>,
    /// The dumped code may lead to it.
    pub led: Option<LedVdso>,
}

/// A dumped vDSO that leads to the running kernel's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedVdso {
    /// The dumped code: first address, and behind the last.
    pub code: (u64, u64),
    /// The task's mappings, which the running kernel's must keep clear of: first address, and behind
    /// the last.
    pub taken: Vec<(u64, u64)>,
    /// The running kernel's code: offset in its mappings, and length.
    pub running: (u64, u64),
    /// What starts its code afterwards; where the running kernel's mappings start is put in for `None`.
    pub mark: Vec<Option<u64>>,
    /// The functions of the dumped code, in the order of their addresses.
    pub functions: Vec<LedFunction>,
}

/// A function of a dumped vDSO.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedFunction {
    /// Where it starts.
    pub at: u64,
    /// The functions of the running kernel that have one of its names, by offset in its mappings.
    pub targets: Vec<u64>,
    /// Code that does the same, where there is none of them.
    pub instead: Option<Vec<u8>>,
}

/// What a task has of it so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    /// Where the running kernel's is.
    at: Option<u64>,
    /// Functions that lead there.
    led: BTreeSet<u64>,
    is_marked: bool,
    /// The running kernel's code may be written.
    is_open: bool,
}

fn overlap(start: u64, len: u64, other: (u64, u64)) -> bool {
    start < other.1 && other.0 < start.saturating_add(len)
}

impl Run<'_> {
    /// The task whose address space it is: that of a thread is its leader's.
    pub(super) fn space_of(&self, task: usize) -> usize {
        match self.roles[task] {
            Role::Thread(of) => self.by_pid.get(&of.pid).copied().unwrap_or(task),
            Role::Helper => self.tasks[task].shares_space.unwrap_or(task),
            Role::Task(_) => task,
        }
    }

    fn vdso_of(&self, task: usize) -> Option<&ExpectedVdso> {
        match self.roles[task] {
            Role::Task(want) | Role::Thread(want) => want.vdso.as_deref(),
            Role::Helper => None,
        }
    }

    pub(super) fn map_vdso(&mut self, at: At, call: &'static str, start: u64) -> Result<(), Wrong> {
        let space = self.space_of(at.task);
        let bad = |why| Err(Wrong::BadRange { call, at: start, end: start, why });
        if self.tasks[space].vdso.at.is_some() {
            return bad("a vDSO mapped a second time");
        }
        let Some(want) = self.vdso_of(space) else { return bad("a vDSO that the images do not have") };
        let is_free = |led: &LedVdso| led.taken.iter().all(|range| !overlap(start, want.len, *range));
        if want.here != Some(start) && !want.led.as_ref().is_some_and(is_free) {
            return bad("not where the vDSO may be");
        }
        let len = want.len;
        self.check_pages(call, start, len)?;
        self.map_kernel(at, call, start, len)?;
        self.tasks[space].vdso.at = Some(start);
        Ok(())
    }

    /// That a change of a range leaves the vDSO as it is, or drops all of it: then the task has none, as if it had
    /// been born without.
    pub(super) fn spare_vdso(
        &mut self,
        at: At,
        call: &'static str,
        (start, len): (u64, u64),
        drops: bool,
    ) -> Result<(), Wrong> {
        let space = self.space_of(at.task);
        let progress = &self.tasks[space].vdso;
        let (Some(place), Some(want)) = (progress.at, self.vdso_of(space)) else { return Ok(()) };
        let end = start.saturating_add(len);
        let code = want.led.as_ref().filter(|_| !progress.led.is_empty()).map(|led| led.code);
        let covers = |range: (u64, u64)| start <= range.0 && range.1 <= end;
        if drops && covers((place, place.saturating_add(want.len))) && code.is_none_or(covers) {
            self.tasks[space].vdso = Progress::default();
            return Ok(());
        }
        if overlap(start, len, (place, place.saturating_add(want.len))) {
            return Err(Wrong::BadRange { call, at: start, end, why: "over the vDSO" });
        }
        if code.is_some_and(|code| overlap(start, len, code)) {
            return Err(Wrong::BadRange { call, at: start, end, why: "over what leads to the vDSO" });
        }
        Ok(())
    }

    /// A new protection: the running kernel's code may be writable for a while.
    pub(super) fn protect_vdso(
        &mut self,
        at: At,
        call: &'static str,
        start: u64,
        len: u64,
        prot: u32,
    ) -> Result<(), Wrong> {
        let space = self.space_of(at.task);
        let (Some(place), Some(want)) = (self.tasks[space].vdso.at, self.vdso_of(space)) else {
            return Ok(());
        };
        if !overlap(start, len, (place, place.saturating_add(want.len))) {
            return Ok(());
        }
        let whole = want.led.as_ref().map(|led| (place + led.running.0, led.running.1));
        let bad = |why| Err(Wrong::BadRange { call, at: start, end: start.saturating_add(len), why });
        if whole != Some((start, len)) {
            return bad("another part of the vDSO than its code");
        }
        match prot {
            PROT_READ_EXEC => self.tasks[space].vdso.is_open = false,
            prot if prot & PROT_WRITE != 0 => self.tasks[space].vdso.is_open = true,
            _ => return bad("code of the vDSO that cannot be executed"),
        }
        Ok(())
    }

    pub(super) fn write_vdso(
        &mut self,
        at: At,
        call: &'static str,
        pieces: &[(u64, Vec<u8>)],
    ) -> Result<(), Wrong> {
        let space = self.space_of(at.task);
        for (start, bytes) in pieces {
            let start = *start;
            let bad = |why| Wrong::BadPatch { call, at: start, why };
            self.check_range(call, start, bytes.len() as u64, 1)?;
            let place = self.tasks[space].vdso.at.ok_or(bad("before the vDSO is mapped"))?;
            let led = self.vdso_of(space).and_then(|want| want.led.as_ref());
            let led = led.ok_or(bad("a vDSO that needs nothing"))?;
            if start == place + led.running.0 {
                let mark: Vec<u8> =
                    led.mark.iter().flat_map(|word| word.unwrap_or(place).to_le_bytes()).collect();
                if *bytes != mark {
                    return Err(bad("not the mark of a vDSO that another leads to"));
                }
                if !self.tasks[space].vdso.is_open {
                    return Err(bad("the vDSO's code is not writable"));
                }
                self.tasks[space].vdso.is_marked = true;
                continue;
            }
            let index = led.functions.binary_search_by_key(&start, |function| function.at);
            let index = index.map_err(|_| bad("not the start of a function of the dumped vDSO"))?;
            let function = &led.functions[index];
            let end = led.functions.get(index + 1).map_or(led.code.1, |next| next.at);
            if start.saturating_add(bytes.len() as u64) > end {
                return Err(bad("over the next function"));
            }
            let is_right = match target(bytes) {
                Some(target) => function.targets.iter().any(|offset| place + offset == target),
                None => function.targets.is_empty() && function.instead.as_ref() == Some(bytes),
            };
            if !is_right {
                return Err(bad("does not lead to the function of the same name"));
            }
            if !self.tasks[space].vdso.led.insert(start) {
                return Err(bad("written twice"));
            }
            self.certificate.vdso_jumps += 1;
        }
        Ok(())
    }

    /// That a task which arrives has its vDSO.
    pub(super) fn check_vdso(&self, task: usize) -> Result<(), Wrong> {
        let Some(want) = self.roles[task].task().and_then(|want| want.vdso.as_deref()) else { return Ok(()) };
        let progress = &self.tasks[task].vdso;
        let Some(place) = progress.at else { return Err(Wrong::NoVdso) };
        if want.here == Some(place) && progress.led.is_empty() && !progress.is_marked {
            return Ok(());
        }
        let Some(led) = &want.led else { return Err(Wrong::NoVdso) };
        let unled = led.functions.iter().find(|function| {
            (!function.targets.is_empty() || function.instead.is_some())
                && !progress.led.contains(&function.at)
        });
        if let Some(function) = unled {
            return Err(Wrong::Unled { at: function.at });
        }
        if !progress.is_marked || progress.is_open {
            let (call, at) = ("arrive", place + led.running.0);
            let why = if progress.is_open { "the vDSO's code stays writable" } else { "the mark is missing" };
            return Err(Wrong::BadPatch { call, at, why });
        }
        Ok(())
    }
}

/// Where `movabs $target,%rax; jmp *%rax` leads; `None`: the code is another.
fn target(code: &[u8]) -> Option<u64> {
    let [0x48, 0xb8, a, b, c, d, e, f, g, h, 0xff, 0xe0] = code else { return None };
    Some(u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]))
}

/// The ranges that a change of the address space replaces or drops.
pub(super) fn replaced(effect: &MemoryEffect) -> impl Iterator<Item = (u64, u64)> {
    let ranges = match effect {
        MemoryEffect::Map { at, len, .. } | MemoryEffect::Unmap { at, len } => [Some((*at, *len)), None],
        MemoryEffect::Remap { from, old_len, to, new_len, .. } => {
            [Some((*from, *old_len)), Some((*to, *new_len))]
        }
        MemoryEffect::Ring(RingEffect::Place { len, to, .. }) => [Some((*to, *len)), None],
        MemoryEffect::Ring(
            RingEffect::Setup { .. } | RingEffect::Submit { .. } | RingEffect::Reap { .. },
        )
        | MemoryEffect::Protect { .. }
        | MemoryEffect::Advise { .. }
        | MemoryEffect::Lock { .. }
        | MemoryEffect::SetMm { .. }
        // Only among the carriers.
        | MemoryEffect::Attach { .. }
        | MemoryEffect::MapVdso { .. }
        | MemoryEffect::Write { .. } => [None, None],
    };
    ranges.into_iter().flatten()
}
