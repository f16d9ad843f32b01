//! Pages brought into place by a userfaultfd: copied from a mapping of their image, or read into huge pages and moved.
//!
//! The structures of `ioctl_userfaultfd(2)` are read and written by the kernel, so each call has its own in the part of
//! the region that may be written. A copy or move that comes short fails (EAGAIN), and with it the restore.

use regrow_graph::ids::Fd;

use super::Lowering;
use super::stage::{self, Blocks, Read};
use crate::resolve::BLOCK;
use crate::resolve::Recipes;
use crate::resolve::recipe::{Copying, PagesFrom, ResourceKind, StepKind};
use crate::tape::abi::{CLONE_ARGS_FLAGS, CLONE_ARGS_SET_TID, CLONE_ARGS_SET_TID_SIZE, UFFDIO_MOVE};
use crate::tape::assemble::Tape;

/// uapi/linux/userfaultfd.h.
const UFFD_API: u64 = 0xaa;
const UFFD_USER_MODE_ONLY: u64 = 1;
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_UNREGISTER: u64 = 0x8010_aa01;
const UFFDIO_COPY: u64 = 0xc028_aa03;
const REGISTER_MODE_MISSING: u64 = 1;

/// Words of `struct uffdio_api`, `uffdio_register`, `uffdio_copy`; `uffdio_move` has as many as the last, in the same order.
const API_WORDS: usize = 3;
const REGISTER_WORDS: usize = 4;
const COPY_WORDS: usize = 5;
/// At most this much is read by one call (MAX_RW_COUNT, linux/fs.h, is a little less than twice as much).
const READ_MAX: u64 = 1 << 30;

/// How many words the kernel reads and writes.
pub(super) fn cells(recipes: &Recipes) -> usize {
    let made = recipes.resources.iter().filter(|recipe| matches!(recipe.kind, ResourceKind::Userfault));
    let copying = recipes.steps.iter().filter_map(|step| {
        let StepKind::Copy(copying) = &step.kind else { return None };
        Some(copying)
    });
    let copied = copying.map(|copying| {
        let calls = match copying.from {
            PagesFrom::Image { offset } => parts(copying, offset).iter().map(Vec::len).sum::<usize>(),
            PagesFrom::Stage => stage::shares(copying).iter().map(Vec::len).sum(),
        };
        copying.mappings.len() * REGISTER_WORDS + calls * COPY_WORDS
    });
    made.count() * API_WORDS + copied.sum::<usize>()
}

/// Pages that one call copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    /// Where they go.
    to: u64,
    /// Where they are taken from.
    from: u64,
    /// How much, in bytes.
    len: u64,
}

/// What one of them brings, in this order.
enum Share {
    /// Copied.
    Parts(Vec<Part>),
    /// Read and moved.
    Blocks(Vec<Blocks>),
}

/// What each brings: the task itself first, then its guests.
fn shares(copying: &Copying) -> Vec<Share> {
    match copying.from {
        PagesFrom::Image { offset } => parts(copying, offset).into_iter().map(Share::Parts).collect(),
        PagesFrom::Stage => stage::shares(copying).into_iter().map(Share::Blocks).collect(),
    }
}

/// What each copies from a mapping of the image, which begins at `first` in it.
fn parts(copying: &Copying, first: u64) -> Vec<Vec<Part>> {
    /// Page tables of neighbours are not filled at the same time.
    const TABLE: u64 = BLOCK;
    let total: u64 = copying.pieces.iter().map(|(_, _, len)| len).sum();
    let share = (total / (copying.guests.len() as u64 + 1)).next_multiple_of(TABLE);
    let mut parts = vec![Vec::new()];
    let mut room = share;
    for (to, offset, len) in &copying.pieces {
        let mut done = 0;
        while done < *len {
            if room == 0 && parts.len() <= copying.guests.len() {
                parts.push(Vec::new());
                room = share;
            }
            let is_last = parts.len() > copying.guests.len();
            let now = if is_last { len - done } else { room.min(len - done) };
            if let Some(part) = parts.last_mut() {
                part.push(Part { to: to + done, from: copying.source + (offset + done - first), len: now });
            }
            done += now;
            room = room.saturating_sub(now);
        }
    }
    parts
}

impl Lowering<'_> {
    /// `userfaultfd(2)` and its handshake. Faults are none of its business: nobody handles them.
    pub(super) fn userfault(&mut self, at: &[Fd], cloexec: bool) {
        let Some(fd) = at.first().map(|fd| u64::from(*fd)) else { return };
        let flags = UFFD_USER_MODE_ONLY | if cloexec { libc::O_CLOEXEC as u64 } else { 0 };
        self.tape.call(libc::SYS_userfaultfd, &[flags], fd);
        let api = self.cells([UFFD_API, 0, 0]);
        self.tape.call(libc::SYS_ioctl, &[fd, UFFDIO_API, api], 0);
    }

    /// Maps what pages are taken from, brings them, and leaves nothing of it but the pages.
    pub(super) fn copy(&mut self, copying: &Copying, fds: &[Fd]) {
        let [image, fd] = [0, 1].map(|at| fds.get(at).map_or(u64::MAX, |fd| u64::from(*fd)));
        for (start, len) in &copying.mappings {
            let range = self.cells([*start, *len, REGISTER_MODE_MISSING, 0]);
            self.tape.call(libc::SYS_ioctl, &[fd, UFFDIO_REGISTER, range], 0);
        }
        self.map_from(copying, image);
        let mut shares = shares(copying).into_iter();
        let own = shares.next();
        let mut guests = Vec::new();
        for (pid, share) in copying.guests.iter().zip(shares) {
            self.guest(*pid, [image, fd], &share);
            guests.push(*pid);
        }
        own.iter().for_each(|share| self.bring([image, fd], share));
        for pid in guests {
            let options = (libc::WEXITED | libc::__WALL) as u64;
            self.tape.call(libc::SYS_waitid, &[u64::from(libc::P_PID), u64::from(pid), 0, options, 0], 0);
        }
        self.unmap(copying.source, copying.len);
        for (start, len) in &copying.mappings {
            let range = self.asm.words(&[*start, *len]);
            self.tape.call(libc::SYS_ioctl, &[fd, UFFDIO_UNREGISTER, range], 0);
        }
        if copying.from == PagesFrom::Stage {
            for (start, end) in stage::missing(copying) {
                let args = [start, end - start, libc::MADV_DONTNEED as u64];
                self.tape.call(libc::SYS_madvise, &args, 0);
            }
            for (at, len) in stage::partings(copying) {
                for prot in [libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE] {
                    self.tape.call(libc::SYS_mprotect, &[at, len, prot as u64], 0);
                }
            }
        }
    }

    fn map_from(&mut self, copying: &Copying, image: u64) {
        let (source, len) = (copying.source, copying.len);
        match copying.from {
            PagesFrom::Image { offset } => {
                let flags = (libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE) as u64;
                let args = [source, len, libc::PROT_READ as u64, flags, image, offset];
                self.tape.call(libc::SYS_mmap, &args, source);
            }
            PagesFrom::Stage => {
                let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
                let flags = (kind | libc::MAP_FIXED_NOREPLACE) as u64;
                let prot = (libc::PROT_READ | libc::PROT_WRITE) as u64;
                self.tape.call(libc::SYS_mmap, &[source, len, prot, flags, u64::MAX, 0], source);
                self.tape.call(libc::SYS_madvise, &[source, len, libc::MADV_HUGEPAGE as u64], 0);
            }
        }
    }

    fn bring(&mut self, [image, fd]: [u64; 2], share: &Share) {
        match share {
            Share::Parts(parts) => {
                for part in parts {
                    let structure = self.cells([part.to, part.from, part.len, 0, 0]);
                    self.tape.call(libc::SYS_ioctl, &[fd, UFFDIO_COPY, structure], 0);
                }
            }
            Share::Blocks(all) => {
                for blocks in all {
                    blocks.reads.iter().for_each(|read| self.read_into_stage(image, read));
                    let structure = self.cells([blocks.to, blocks.from, blocks.len, 0, 0]);
                    self.tape.call(libc::SYS_ioctl, &[fd, UFFDIO_MOVE, structure], 0);
                }
            }
        }
    }

    fn read_into_stage(&mut self, image: u64, read: &Read) {
        let mut done = 0;
        while done < read.len {
            let len = READ_MAX.min(read.len - done);
            self.tape.call(libc::SYS_pread64, &[image, read.to + done, len, read.offset + done], len);
            done += len;
        }
    }

    /// A task in this one's address space that brings its parts and exits.
    fn guest(&mut self, pid: u32, fds: [u64; 2], share: &Share) {
        let op = self.tape.op;
        let own = std::mem::replace(&mut self.tape, Tape { op, ..Tape::default() });
        self.bring(fds, share);
        self.tape.call(libc::SYS_exit_group, &[0], 0);
        let records = std::mem::replace(&mut self.tape, own).records;
        let mut words = [0u64; 11];
        words[CLONE_ARGS_FLAGS] = libc::CLONE_VM as u64;
        words[CLONE_ARGS_SET_TID] = self.asm.data(&pid.to_ne_bytes(), 4);
        words[CLONE_ARGS_SET_TID_SIZE] = 1;
        let clone_args = self.asm.words(&words);
        let tape = self.asm.tape(pid, false, clone_args, &records);
        self.tape.fork(clone_args, tape, pid);
    }

    /// Words that follow one another.
    fn cells<const N: usize>(&mut self, values: [u64; N]) -> u64 {
        let addresses = values.map(|value| self.asm.cell(value));
        addresses[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn copying(pieces: &[(u64, u64, u64)], guests: usize) -> Copying {
        Copying {
            mappings: Vec::new(),
            from: PagesFrom::Image { offset: 0 },
            source: 1000 * MIB,
            len: 0,
            pieces: pieces.iter().map(|(to, offset, len)| (to * MIB, offset * MIB, len * MIB)).collect(),
            guests: (0..guests as u32).collect(),
        }
    }

    #[test]
    fn parts_are_alike_and_whole() {
        let check = |pieces: &[(u64, u64, u64)], guests: usize, expected: &[&[(u64, u64, u64)]]| {
            let found: Vec<Vec<(u64, u64, u64)>> = parts(&copying(pieces, guests), 0)
                .into_iter()
                .map(|part| {
                    let all = part.into_iter();
                    all.map(|part| (part.to / MIB, part.from / MIB - 1000, part.len / MIB)).collect()
                })
                .collect();
            assert_eq!(found, expected);
        };
        check(&[(100, 0, 64)], 0, &[&[(100, 0, 64)]]);
        check(&[(100, 0, 64)], 1, &[&[(100, 0, 32)], &[(132, 32, 32)]]);
        check(
            &[(100, 0, 10), (200, 10, 10), (300, 30, 20)],
            1,
            &[&[(100, 0, 10), (200, 10, 10)], &[(300, 30, 20)]],
        );
        // The last takes what is left, and nobody comes for nothing.
        check(&[(100, 0, 5)], 1, &[&[(100, 0, 4)], &[(104, 4, 1)]]);
        check(&[(100, 0, 2)], 3, &[&[(100, 0, 2)]]);
    }

    #[test]
    fn where_pages_are_taken_from() {
        let copying = copying(&[(100, 7, 10), (200, 27, 6)], 1);
        let from: Vec<u64> = parts(&copying, 7 * MIB).iter().flatten().map(|part| part.from / MIB).collect();
        assert_eq!(from, [1000, 1008, 1020]);
    }
}
