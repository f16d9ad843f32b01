//! Pipes and FIFOs: a ring of pages.
//!
//! # Sources
//! `pipe(7)`, `fifo(7)`, `fcntl(2)`; fs/pipe.c (`pipe_write`, `pipe_read`, `fifo_open`,
//! `round_pipe_size`, `pipe_set_size`).

use std::collections::VecDeque;

use super::file::Meta;
use super::object::{Description, O_ACCMODE, O_CLOEXEC, O_DIRECT, O_NONBLOCK, O_RDONLY, O_WRONLY, Object};
use super::{Call, Stop, World, fails, gives};
use crate::errno::{EAGAIN, EBADF, EBUSY, EINVAL, ENXIO, EPERM, EPIPE};
use crate::footprint::Thing;
use crate::ids::{DescId, ObjectId};

const PAGE: usize = 4096;
/// PIPE_BUF.
const ATOMIC: usize = 4096;
const CAP_SYS_RESOURCE: u64 = 1 << 24;
/// A write of a packet (`O_DIRECT`) is never longer.
const PACKET: usize = PAGE;

/// A page of a pipe.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Buffer {
    /// What is in it still.
    pub data: Vec<u8>,
    /// How much has been read from it.
    offset: usize,
    /// Whether a later write may go on in it.
    can_merge: bool,
    /// A packet: what of it is not read by one read is lost.
    is_packet: bool,
}

/// A pipe.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pipe {
    /// Capacity, bytes.
    pub capacity: u32,
    /// Pages in use.
    pub buffers: VecDeque<Buffer>,
    /// Permissions and the like, of a FIFO.
    pub meta: Meta,
    /// How many have ever opened it to read, and to write: an open that waits is woken by the next.
    opened: [usize; 2],
}

impl Pipe {
    pub(super) fn new(capacity: u32) -> Pipe {
        Pipe { capacity, buffers: VecDeque::new(), meta: Meta::default(), opened: [0; 2] }
    }

    /// What waits in it.
    pub fn data(&self) -> Vec<u8> {
        self.buffers.iter().flat_map(|buffer| &buffer.data).copied().collect()
    }

    /// Forgets who has opened it.
    pub(crate) fn forget_opens(&mut self) {
        self.opened = [0; 2];
    }

    fn slots(&self) -> usize {
        self.capacity as usize / PAGE
    }

    /// Takes as much as it can, as one write; gives how much.
    fn push(&mut self, data: &[u8], is_packet: bool) -> usize {
        let mut rest = data;
        let tail = data.len() % PAGE;
        if tail > 0
            && let Some(last) = self.buffers.back_mut()
            && last.can_merge
            && last.offset + last.data.len() + tail <= PAGE
        {
            let (now, later) = rest.split_at(tail);
            last.data.extend_from_slice(now);
            rest = later;
        }
        while !rest.is_empty() && self.buffers.len() < self.slots() {
            let (now, later) = rest.split_at(rest.len().min(PACKET));
            self.buffers.push_back(Buffer {
                data: now.to_vec(),
                offset: 0,
                can_merge: !is_packet,
                is_packet,
            });
            rest = later;
        }
        data.len() - rest.len()
    }

    fn pull(&mut self, mut most: usize) -> Vec<u8> {
        let mut taken = Vec::new();
        while let Some(first) = self.buffers.front_mut()
            && most > 0
        {
            let len = first.data.len().min(most);
            taken.extend(first.data.drain(..len));
            first.offset += len;
            most -= len;
            let is_packet = first.is_packet;
            if first.data.is_empty() || is_packet {
                self.buffers.pop_front();
            }
            if is_packet {
                break;
            }
        }
        taken
    }
}

impl World {
    pub(super) fn make_pipe(&mut self, tid: u32, flags: u32) -> Call<i64> {
        if flags & !(O_CLOEXEC | O_NONBLOCK | O_DIRECT) != 0 {
            return fails(EINVAL);
        }
        let mut pipe = Pipe::new(self.ground.host.pipe_bytes);
        pipe.opened = [1, 1];
        let object = self.add_object(tid, 0, Object::Pipe(pipe));
        let ends = [O_RDONLY | flags & O_NONBLOCK, O_WRONLY | flags & (O_NONBLOCK | O_DIRECT)];
        for (nth, status) in (0..).zip(ends) {
            let desc = self.add_description(tid, nth, Description::of(object.clone(), status));
            self.install(tid, 0, desc, flags & O_CLOEXEC != 0)?;
        }
        Ok(0)
    }

    /// `open(2)` of a FIFO, or of a pipe by /proc/self/fd. For reading alone it waits for a writer, for
    /// writing alone for a reader.
    pub(super) fn open_pipe(
        &mut self,
        tid: u32,
        object: &ObjectId,
        description: Description,
    ) -> Call<DescId> {
        let access = description.flags & O_ACCMODE;
        let nonblock = description.flags & O_NONBLOCK != 0;
        if let Some(desc) = self.thread(tid).opening {
            // It was counted, and goes on when the other side has been counted since.
            let other = usize::from(access == O_RDONLY);
            self.read(Thing::Object(object.clone()));
            let seen = self.thread(tid).progress;
            let is_met = matches!(self.object(object), Object::Pipe(pipe) if pipe.opened[other] != seen);
            if !is_met {
                return Err(Stop::Blocked);
            }
            self.thread_mut(tid).opening = None;
            return Ok(desc);
        }
        let has_reader = self.has_end(tid, object, Description::reads);
        let has_writer = self.has_end(tid, object, Description::writes);
        if access == O_WRONLY && nonblock && !has_reader {
            return fails(ENXIO);
        }
        let Object::Pipe(pipe) = self.object_mut(object) else { return fails(EBADF) };
        if access != O_WRONLY {
            pipe.opened[0] += 1;
        }
        if access != O_RDONLY {
            pipe.opened[1] += 1;
        }
        let opened = pipe.opened;
        let desc = self.add_description(tid, 0, description);
        let waits_for = match access {
            O_RDONLY if !has_writer && !nonblock => Some(1),
            O_WRONLY if !has_reader => Some(0),
            _ => None,
        };
        if let Some(side) = waits_for {
            let thread = self.thread_mut(tid);
            thread.opening = Some(desc);
            thread.progress = opened[side];
            return Err(Stop::Partly);
        }
        Ok(desc)
    }

    pub(super) fn write_pipe(&mut self, tid: u32, desc: DescId, data: &[u8]) -> Call<i64> {
        let description = self.description(desc).clone();
        let done = self.thread(tid).progress;
        // "If there is no data, nothing happens" (`pipe_write`).
        if data.is_empty() {
            return Ok(0);
        }
        if !self.has_end(tid, &description.object, Description::reads) {
            return fails(EPIPE);
        }
        let nonblock = description.flags & O_NONBLOCK != 0;
        let is_packet = description.flags & O_DIRECT != 0;
        let Object::Pipe(pipe) = self.object_mut(&description.object) else { return fails(EBADF) };
        let rest = data.get(done..).unwrap_or_default();
        let before = pipe.clone();
        let taken = pipe.push(rest, is_packet);
        if taken == rest.len() {
            return gives(data.len() as i64, data.len() as i64);
        }
        // Up to PIPE_BUF it is all or nothing; a part of a page that is merged first stays in.
        if data.len() <= ATOMIC && taken > 0 {
            *pipe = before;
        }
        match (nonblock, data.len() <= ATOMIC || taken == 0) {
            (true, true) => fails(EAGAIN),
            (true, false) => gives(taken as i64, data.len() as i64),
            (false, true) => Err(Stop::Blocked),
            (false, false) => {
                self.thread_mut(tid).progress = done + taken;
                Err(Stop::Partly)
            }
        }
    }

    pub(super) fn read_pipe(&mut self, tid: u32, desc: DescId, most: u64) -> Call<Vec<u8>> {
        let description = self.description(desc).clone();
        let Object::Pipe(pipe) = self.object_mut(&description.object) else { return fails(EBADF) };
        let taken = pipe.pull(usize::try_from(most).unwrap_or(usize::MAX));
        if !taken.is_empty() || most == 0 {
            return Ok(taken);
        }
        if !self.has_end(tid, &description.object, Description::writes) {
            return Ok(Vec::new());
        }
        if description.flags & O_NONBLOCK != 0 { fails(EAGAIN) } else { Err(Stop::Blocked) }
    }

    /// `F_SETPIPE_SZ`: to a power of two pages, not less than what is in it.
    pub(super) fn resize_pipe(&mut self, tid: u32, object: &ObjectId, bytes: u32) -> Call<i64> {
        let most = self.ground.host.pipe_max_bytes;
        self.read(Thing::Thread(tid));
        let may_more = self.thread(tid).credentials.effective & CAP_SYS_RESOURCE != 0;
        let Object::Pipe(pipe) = self.object_mut(object) else { return fails(EBADF) };
        if bytes > 1 << 31 {
            return fails(EINVAL);
        }
        let capacity = bytes.max(PAGE as u32).next_power_of_two();
        if capacity > pipe.capacity && capacity > most && !may_more {
            return fails(EPERM);
        }
        if pipe.buffers.len() > capacity as usize / PAGE {
            return fails(EBUSY);
        }
        pipe.capacity = capacity;
        gives(capacity.into(), bytes.into())
    }
}
