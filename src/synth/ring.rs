//! Rings of asynchronous I/O of a task: what describes them, what is in them, and how a task looks at its own.
//!
//! How long a ring is depends on the kernel that made it: there is room for twice of what was asked for, and for eight events a
//! possible processor at least ([`least_pages`]). So a description that fits here may not fit elsewhere.
//!
//! What is behind the head is bytes by a seed, also the events that nobody has read. A task finds all of its ring as it was, with
//! the head that the kernel has made of it, and that its context is known to the kernel by the ring's address.
//!
//! Example: a ring of one page has room for 127 events; read up to 126 and written up to 2, three are in it.
//!
//! # Sources
//! `fs/aio.c` (`struct aio_ring`, `aio_setup_ring`, `ioctx_alloc`), io_getevents(2).

use super::payload::{Check, Deed, SCRATCH};
use super::{PAGE, Task, page_bytes};

/// The ring of an AIO context.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ring {
    /// Its address.
    pub start: u64,
    /// Length in pages.
    pub len_pages: u64,
    /// The event that is read next.
    pub head: u32,
    /// How many events nobody has read: at most [`most_pending`].
    pub pending: u32,
    /// Of the bytes behind the head.
    pub seed: u64,
}

/// Bytes of the head, and of an event.
const HEAD: u64 = 32;
const EVENT: u64 = 32;
/// Of a ring: its magic number, its features, and the length of its head.
const FIXED: [u32; 4] = [0xa10a_10a1, 1, 0, HEAD as u32];

/// Pages of the shortest ring that a kernel makes that may have so many processors.
pub fn least_pages(processors: u32) -> u64 {
    (HEAD + EVENT * (2 * 4 * u64::from(processors) + 2)).div_ceil(PAGE)
}

/// How many events a ring has room for.
fn events(len_pages: u64) -> u64 {
    (len_pages * PAGE - HEAD) / EVENT
}

/// How many events may surely be in a ring, on however many processors: what it was asked for with at most.
pub fn most_pending(len_pages: u64) -> u32 {
    ((events(len_pages) - 2) / 2) as u32
}

impl Ring {
    /// The event that is written next.
    pub(super) fn tail(&self) -> u32 {
        ((u64::from(self.head) + u64::from(self.pending)) % events(self.len_pages)) as u32
    }

    /// All that is in it. `number`: its number among the contexts of its task, from 0.
    pub(super) fn bytes(&self, number: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            (0..self.len_pages).flat_map(|page| page_bytes(self.seed.wrapping_add(page))).collect();
        let words = [number as u32, events(self.len_pages) as u32, self.head, self.tail()];
        for (place, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words.into_iter().chain(FIXED)) {
            *place = word.to_le_bytes();
        }
        bytes
    }

    /// What a task checks of it.
    pub(super) fn checks(&self, number: usize) -> [Check; 2] {
        let what = format!("the AIO ring at {:#x}", self.start);
        // No event is asked for, and none comes; a context that is not known is EINVAL.
        let args = [self.start, 0, 0, SCRATCH, 0, 0];
        let deed = Deed::Call { number: libc::SYS_io_getevents, args, result: 0 };
        let known = Check { what: format!("{what}: its context"), deed };
        [known, Check { what, deed: Deed::Bytes { address: self.start, bytes: self.bytes(number) } }]
    }
}

/// What is wrong with the rings of a task, in words.
pub(super) fn faults(task: &Task) -> Vec<String> {
    let is_bad = |ring: &&Ring| {
        ring.len_pages == 0
            || u64::from(ring.head) >= events(ring.len_pages)
            || ring.pending > most_pending(ring.len_pages)
    };
    let named = |ring: &Ring| format!("the AIO ring at {:#x} is read or written beyond its end", ring.start);
    task.rings.iter().filter(is_bad).map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        let check = |processors, expected| assert_eq!(least_pages(processors), expected);
        check(1, 1);
        check(15, 1);
        check(16, 2);
        assert_eq!([1, 2].map(most_pending), [62, 126]);
    }

    #[test]
    fn the_head_is_laid_out_as_the_kernel_has_it() {
        let ring = Ring { start: 0x6000_0000, len_pages: 1, head: 126, pending: 3, seed: 5 };
        let bytes = ring.bytes(4);
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| bytes[4 * at + byte]));
        assert_eq!([0, 1, 2, 3, 4, 7].map(word), [4, 127, 126, 2, 0xa10a_10a1, 32]);
        assert_eq!(bytes[32..], page_bytes(5)[32..]);
    }

    #[test]
    fn faults_are_named() {
        let check = |head, pending, expected: usize| {
            let ring = Ring { start: 0x6000_0000, len_pages: 1, head, pending, seed: 0 };
            assert_eq!(faults(&Task { rings: vec![ring], ..Task::default() }).len(), expected);
        };
        check(126, 62, 0);
        check(127, 0, 1);
        check(0, 63, 1);
    }
}
