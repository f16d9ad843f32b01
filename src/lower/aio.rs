//! Rings of asynchronous I/O.

use regrow_graph::ids::Fd;

use super::Lowering;
use crate::resolve::Recipes;
use crate::resolve::recipe::{RingRecipe, StepKind};

/// Requests that one call makes, and events that one reads: `struct io_event` has 32 bytes, and the scratch part, where
/// they go, 2048.
const AT_ONCE: u32 = 64;
/// Words of `struct iocb`.
const REQUEST_WORDS: usize = 8;

/// How many words the kernel writes where rings are.
pub(super) fn cells(recipes: &Recipes) -> usize {
    recipes.steps.iter().filter(|step| matches!(step.kind, StepKind::Ring(_))).count() * (1 + REQUEST_WORDS)
}

impl Lowering<'_> {
    /// Makes a ring, moves it to its place, and lets its head and its tail go to theirs.
    pub(super) fn ring(&mut self, ring: &RingRecipe, fds: &[Fd]) {
        let RingRecipe { start, len, requests, read, pending } = *ring;
        // What keeps the place free: the kernel could not move the ring to where it is already.
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
        self.tape.call(libc::SYS_mmap, &[start, len, libc::PROT_NONE as u64, flags, u64::MAX, 0], start);
        let cell = self.asm.cell(0);
        self.tape.call(libc::SYS_io_setup, &[requests.into(), cell], 0);
        let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
        self.tape.call_at(libc::SYS_mremap, cell, &[len, len, flags, start], start);
        if read == 0 && pending == 0 {
            return;
        }
        let fd = fds.first().copied().unwrap_or(u32::MAX);
        // `struct iocb` (uapi/linux/aio_abi.h): IOCB_CMD_PREAD is 0, and no bytes are read. The kernel writes its key, a 0.
        let words: [u64; REQUEST_WORDS] = [0, 0, u64::from(fd) << 32, 0, 0, 0, 0, 0];
        let [request, ..] = words.map(|word| self.asm.cell(word));
        let list = self.asm.words(&vec![request; AT_ONCE.min(read.max(pending)) as usize]);
        let scratch = self.asm.scratch();
        for count in parts(read) {
            self.tape.call(libc::SYS_io_submit, &[start, count, list], count);
            self.tape.call(libc::SYS_io_getevents, &[start, count, count, scratch, 0], count);
        }
        for count in parts(pending) {
            self.tape.call(libc::SYS_io_submit, &[start, count, list], count);
        }
    }
}

fn parts(count: u32) -> impl Iterator<Item = u64> {
    (0..count).step_by(AT_ONCE as usize).map(move |done| u64::from(AT_ONCE.min(count - done)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_whole() {
        let check = |count, expected: &[u64]| assert_eq!(parts(count).collect::<Vec<_>>(), expected);
        check(0, &[]);
        check(5, &[5]);
        check(64, &[64]);
        check(130, &[64, 64, 2]);
    }
}
