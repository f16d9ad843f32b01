//! Rings of asynchronous I/O.
//!
//! The kernel chooses where a new ring is, so it is nowhere until it is moved to its place, and nothing else may be mapped
//! meanwhile. How long it is follows from what is asked for and from how many processors there may be. Its head is the
//! kernel's: where it writes the next event is in no memory that a task could fill, and moves only when a request is
//! done. Requests here read nothing from an image, which is done at once; what they leave in the ring is garbage, and must
//! be filled afterwards. There is room for so many events at a time as every processor leaves, however the task is
//! moved between them.
//!
//! A child of a fork may or may not be born with a ring, by the kernel's version, and never with its context: a task with
//! rings does not fork.
//!
//! # Sources
//! io_setup(2), io_submit(2), io_getevents(2); fs/aio.c (`ioctx_alloc`, `aio_setup_ring`, `aio_ring_mremap`,
//! `get_reqs_available`, `refill_reqs_available`, `aio_complete`).

use super::super::before::At;
use super::super::effect::{MemoryEffect, RingEffect};
use super::super::object::{O_ACCMODE, O_PATH, O_WRONLY, ObjectKind};
use super::super::outcome::Wrong;
use super::super::run::Run;
use super::super::vdso::replaced;
use super::state::{Mapping, PAGE, PROT_READ, PROT_WRITE, Shows};
use crate::ids::Fd;

/// Bytes of the head, and of an event.
pub(super) const HEAD: u64 = 32;
const EVENT: u64 = 32;
/// The most events that the kernel makes room for: `0x10000000U / sizeof(struct io_event)`.
const EVENTS_MAX: u64 = 0x1000_0000 / EVENT;
const O_DIRECT: u32 = 0o40_000;

/// An AIO context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ring {
    pub(super) len: u64,
    /// The event that is read next, and the one that is written next.
    pub(super) head: u64,
    pub(super) tail: u64,
    /// How many events it can be sure of room for.
    sure: u64,
}

/// A ring that is wherever the kernel put it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floating {
    cell: u64,
    ring: Ring,
}

impl Ring {
    /// What is made for so many requests; `None`: nothing.
    fn new(requests: u32, processors: u32) -> Option<Ring> {
        let batches = 4 * u64::from(processors.max(1));
        let events = 2 * u64::from(requests).max(batches);
        if requests == 0 || events > EVENTS_MAX {
            return None;
        }
        let len = (HEAD + EVENT * (events + 2)).next_multiple_of(PAGE);
        let events = (len - HEAD) / EVENT;
        // Each processor takes a batch at a time, and may keep nearly two.
        let batch = ((events - 1) / batches).max(1);
        let kept = (u64::from(processors) - 1) * (2 * batch - 1) + batch;
        Some(Ring { len, head: 0, tail: 0, sure: events.saturating_sub(kept) })
    }

    fn events(&self) -> u64 {
        (self.len - HEAD) / EVENT
    }

    fn pending(&self) -> u64 {
        (self.tail + self.events() - self.head) % self.events()
    }
}

impl Run<'_> {
    /// That a change of memory keeps clear of rings, and that none is on its way meanwhile.
    pub(super) fn spare_rings(&self, at: At, call: &'static str, effect: &MemoryEffect) -> Result<(), Wrong> {
        let space = &self.spaces[self.space_of(at.task)];
        if !matches!(effect, MemoryEffect::Ring(RingEffect::Place { .. })) {
            self.check_floating(at, call)?;
        }
        if space.rings.is_empty() {
            return Ok(());
        }
        for (start, len) in replaced(effect) {
            let end = start.saturating_add(len);
            let mut there = space.mappings.over(start, end);
            if there.any(|(_, _, mapping)| matches!(mapping.shows, Shows::Ring { .. })) {
                return Err(Wrong::BadRange {
                    call,
                    at: start,
                    end,
                    why: "a ring of asynchronous I/O is there",
                });
            }
        }
        Ok(())
    }

    /// That no ring is on its way to its place.
    pub(in super::super) fn check_floating(&self, at: At, call: &'static str) -> Result<(), Wrong> {
        match self.spaces[self.space_of(at.task)].floating {
            Some(_) => {
                Err(Wrong::NotModelled { call, what: "a ring that is wherever the kernel put it".to_owned() })
            }
            None => Ok(()),
        }
    }

    /// That a task has no rings when it forks.
    pub(in super::super) fn check_ringless(&self, at: At, call: &'static str) -> Result<(), Wrong> {
        self.check_floating(at, call)?;
        match self.spaces[self.space_of(at.task)].rings.first_key_value() {
            Some((at, ring)) => {
                let why = "a ring that a child may or may not be born with";
                Err(Wrong::BadRange { call, at: *at, end: at.saturating_add(ring.len), why })
            }
            None => Ok(()),
        }
    }

    pub(super) fn change_ring(
        &mut self,
        at: At,
        call: &'static str,
        effect: RingEffect,
    ) -> Result<(), Wrong> {
        match effect {
            RingEffect::Setup { requests, cell } => {
                let Some(processors) = self.expected.facts.processors else {
                    let what = "a ring, where it is not known how many processors there may be".to_owned();
                    return Err(Wrong::NotModelled { call, what });
                };
                let Some(ring) = Ring::new(requests, processors) else {
                    return Err(Wrong::NotModelled { call, what: format!("a ring of {requests} requests") });
                };
                self.use_space(at, call)?.floating = Some(Floating { cell, ring });
                Ok(())
            }
            RingEffect::Place { cell, len, to } => self.place_ring(at, call, cell, (to, len)),
            RingEffect::Submit { ring, count, fd } => self.submit(at, call, ring, u64::from(count), fd),
            RingEffect::Reap { ring: start, count } => {
                let (ring, count) = (self.ring(at, call, start)?, u64::from(count));
                if count > ring.pending() {
                    let what = format!("for {count} of {} events", ring.pending());
                    return Err(Wrong::NotModelled { call, what });
                }
                ring.head = (ring.head + count) % ring.events();
                Ok(())
            }
        }
    }

    /// The ring goes over memory that was kept for it, so the kernel cannot have put it there.
    fn place_ring(
        &mut self,
        at: At,
        call: &'static str,
        cell: u64,
        (to, len): (u64, u64),
    ) -> Result<(), Wrong> {
        self.check_pages(call, to, len)?;
        let end = to.saturating_add(len);
        let space = self.use_space(at, call)?;
        let Some(Floating { ring, .. }) = space.floating.take_if(|floating| floating.cell == cell) else {
            return Err(Wrong::NotModelled { call, what: "what no ring was made for".to_owned() });
        };
        let bad = |why| Err(Wrong::BadRange { call, at: to, end, why });
        if ring.len != len {
            return bad("not as long as the ring is");
        }
        let is_other = |(_, _, mapping): (u64, u64, &Mapping)| !matches!(mapping.shows, Shows::Anonymous);
        if space.mappings.hole(to, end).is_some() || space.mappings.over(to, end).any(is_other) {
            return bad("nothing keeps it free for the ring");
        }
        self.check_cuts(at, call, to, end)?;
        let space = self.use_space(at, call)?;
        let prot = PROT_READ | PROT_WRITE;
        space.map(to, end, Mapping { shows: Shows::Ring { offset: 0 }, prot, flags: 0, advice: 0 });
        space.rings.insert(to, ring);
        Ok(())
    }

    fn ring(&mut self, at: At, call: &'static str, start: u64) -> Result<&mut Ring, Wrong> {
        let space = self.use_space(at, call)?;
        // The kernel finds the context by what the head says.
        let can_read =
            space.mappings.over(start, start.saturating_add(HEAD)).all(|(_, _, it)| it.prot & PROT_READ != 0);
        let ring = space.rings.get_mut(&start).filter(|_| can_read);
        ring.ok_or_else(|| Wrong::NotModelled { call, what: format!("no ring is at {start:#x}") })
    }

    fn submit(&mut self, at: At, call: &'static str, start: u64, count: u64, fd: Fd) -> Result<(), Wrong> {
        let desc = self.descriptor(at, call, fd)?;
        let flags = self.objects.description(desc).flags;
        let is_pages = match &self.objects.object_of(desc).kind {
            ObjectKind::File { path } => self.expected.images.iter().any(|dir| {
                let name = path.strip_prefix(dir.as_slice());
                name.is_some_and(|name| name.starts_with(b"/pages-"))
            }),
            ObjectKind::Inode(_)
            | ObjectKind::Segment(_)
            | ObjectKind::Pipe(_)
            | ObjectKind::Socket(_)
            | ObjectKind::Eventfd { .. }
            | ObjectKind::Epoll { .. }
            | ObjectKind::Timerfd { .. }
            | ObjectKind::Signalfd { .. }
            | ObjectKind::Userfault { .. } => false,
        };
        if !is_pages || flags & (O_PATH | O_DIRECT) != 0 || flags & O_ACCMODE == O_WRONLY {
            return Err(Wrong::Refused { call, what: self.describe(desc) });
        }
        let ring = self.ring(at, call, start)?;
        if count == 0 || ring.pending() + count > ring.sure {
            let what = format!("{count} more events beside {}, where {} are sure", ring.pending(), ring.sure);
            return Err(Wrong::NotModelled { call, what });
        }
        ring.tail = (ring.tail + count) % ring.events();
        let end = start.saturating_add(ring.len);
        self.use_space(at, call)?.fills.clear(start, end);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(requests: u32, processors: u32, expected: Option<(u64, u64, u64)>) {
        let ring = Ring::new(requests, processors);
        assert_eq!(ring.map(|ring| (ring.len / PAGE, ring.events(), ring.sure)), expected);
    }

    /// Pages, events, and how many are sure. Measured on Linux 6.18 with two processors: pages and events.
    #[test]
    fn how_long_rings_are() {
        check(1, 2, Some((1, 127, 83)));
        check(62, 2, Some((1, 127, 83)));
        check(63, 2, Some((2, 255, 163)));
        check(64, 2, Some((2, 255, 163)));
        check(1, 16, Some((2, 255, 177)));
        check(1, 1, Some((1, 127, 96)));
        check(0, 2, None);
        check(4 << 20, 2, Some((65537, 65537 * 128 - 1, 5_242_963)));
        check((4 << 20) + 1, 2, None);
    }
}
