//! Rings of asynchronous I/O.
//!
//! What is in a ring is kept as private memory of the space, though a child of a fork may share it: such a child has no
//! context, and the newest kernels give it no mapping either. So it is taken to have none. Where the kernel puts a new ring
//! is not known, so nothing but the move to a known place is modelled before that.
//!
//! # Sources
//! io_setup(2), io_submit(2), io_getevents(2); fs/aio.c, `fs/read_write.c` for requests of nothing.

use std::collections::BTreeSet;

use regrow_graph::verify::RingEffect;

use super::file::FileKind;
use super::object::{O_PATH, Object};
use super::runs::Source;
use super::space::{Backing, MAP_SHARED, Mapping, PAGE, range};
use super::{Call, World, fails, not_modelled};
use crate::errno::{EAGAIN, EBADF, EINVAL};
use crate::footprint::Thing;

const HEAD: u64 = 32;
const EVENT: u64 = 32;
const EVENTS_MAX: u64 = 0x1000_0000 / EVENT;

/// What the kernel keeps of an AIO context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Context {
    /// Length of the ring.
    pub len: u64,
    /// What it was asked for with.
    pub requests: u64,
    /// How many events there have been.
    pub written: u64,
    /// How many of them have been read.
    pub read: u64,
}

impl Context {
    /// How many events the ring has room for.
    pub fn events(&self) -> u64 {
        (self.len - HEAD) / EVENT
    }

    /// Where the next is read and written.
    pub fn ends(&self) -> (u64, u64) {
        (self.read % self.events(), self.written % self.events())
    }
}

impl World {
    pub(super) fn change_ring(&mut self, tid: u32, effect: RingEffect) -> Call<i64> {
        match effect {
            RingEffect::Setup { requests, cell } => self.set_ring_up(tid, requests.into(), cell),
            RingEffect::Place { cell, len, to } => self.place_ring(tid, cell, (to, len)),
            RingEffect::Submit { ring, count, fd } => {
                let desc = self.descriptor(tid, fd)?;
                self.read(Thing::Description(desc));
                let description = self.description(desc).clone();
                let context = self.context(tid, ring)?;
                if count == 0 {
                    return Ok(0);
                }
                if description.flags & O_PATH != 0 || !description.reads() {
                    return fails(EBADF);
                }
                match self.object(&description.object) {
                    Object::File(file) if file.kind != FileKind::Directory => {}
                    _ => return not_modelled("a request of what is no file"),
                }
                let wanted = context.written - context.read + u64::from(count);
                if wanted > self.sure_events(&context) {
                    return not_modelled("so many events that there may be no room");
                }
                let space = self.space_mut(tid);
                for written in context.written..context.written + u64::from(count) {
                    let at = ring + HEAD + EVENT * (written % context.events());
                    space.private.insert(at, at + EVENT, Source::bytes(&[0xe; EVENT as usize]));
                }
                if let Some(context) = space.contexts.get_mut(&ring) {
                    context.written += u64::from(count);
                }
                Ok(count.into())
            }
            RingEffect::Reap { ring, count } => {
                let context = self.context(tid, ring)?;
                let count = u64::from(count);
                if context.written - context.read < count {
                    return not_modelled("waiting for events that nobody has asked for");
                }
                if let Some(context) = self.space_mut(tid).contexts.get_mut(&ring) {
                    context.read += count;
                }
                Ok(count as i64)
            }
        }
    }

    fn set_ring_up(&mut self, tid: u32, requests: u64, cell: u64) -> Call<i64> {
        let events = 2 * requests.max(4 * u64::from(self.ground.host.processors));
        if requests == 0 || events > EVENTS_MAX {
            return fails(EINVAL);
        }
        if requests > self.ground.host.aio_requests {
            return fails(EAGAIN);
        }
        if self.space(tid).floating.is_some() {
            return not_modelled("two rings that are wherever the kernel put them");
        }
        let len = (HEAD + EVENT * (events + 2)).next_multiple_of(PAGE);
        let context = Context { len, requests, written: 0, read: 0 };
        self.space_mut(tid).floating = Some((cell, context));
        Ok(0)
    }

    fn place_ring(&mut self, tid: u32, cell: u64, (to, len): (u64, u64)) -> Call<i64> {
        let Ok((start, end)) = range(to, len) else { return fails(EINVAL) };
        let space = self.space_mut(tid);
        let Some((_, context)) = space.floating.take_if(|(of, context)| *of == cell && context.len == len)
        else {
            return not_modelled("a move of what is not known");
        };
        if !space.is_whole(start, end) {
            // It may be there already, or in part.
            return not_modelled("a ring where nothing keeps its place free");
        }
        let cut = space.cut(start, end);
        let mapping = Mapping {
            end,
            prot: 3,
            flags: MAP_SHARED,
            backing: Backing::Ring,
            may_write: true,
            advice: BTreeSet::new(),
            registered: None,
        };
        space.mappings.insert(start, mapping);
        space.contexts.insert(start, context);
        self.forget_writers(&cut);
        Ok(to as i64)
    }

    /// The context whose ring starts there.
    fn context(&mut self, tid: u32, ring: u64) -> Call<Context> {
        let space = self.space_mut(tid);
        let is_there = matches!(space.mappings.get(&ring), Some(Mapping { backing: Backing::Ring, .. }));
        match space.contexts.get(&ring).filter(|_| is_there) {
            Some(context) => Ok(*context),
            None => fails(EINVAL),
        }
    }

    /// How many events there is room for at a time, on whichever processors the task is.
    fn sure_events(&self, context: &Context) -> u64 {
        let processors = u64::from(self.ground.host.processors.max(1));
        let places = context.events() - 1;
        let batch = (places / (4 * processors)).max(1);
        let stuck = (processors - 1) * (2 * batch - 1);
        // A processor takes no part of a batch.
        places.saturating_sub(stuck).saturating_sub(batch - 1)
    }
}
