//! Pages brought into place by a userfaultfd: copied from a mapping of their image, or read into huge pages and moved.
//!
//! The structures of `ioctl_userfaultfd(2)` are read and written by the kernel, so each call has its own in the part of
//! the region that may be written. A copy or move that comes short fails (EAGAIN), and with it the restore.

use regrow_graph::ids::Fd;

use super::Lowering;
use crate::resolve::BLOCK;
use crate::resolve::Recipes;
use crate::resolve::numbers::PAGE;
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
        copying.mappings.len() * REGISTER_WORDS
            + parts(copying).iter().map(Vec::len).sum::<usize>() * COPY_WORDS
    });
    made.count() * API_WORDS + copied.sum::<usize>()
}

/// Pages that one call brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    /// Where they go.
    to: u64,
    /// Where they are taken from.
    from: u64,
    /// Where they are in the image, in bytes.
    offset: u64,
    /// How much, in bytes.
    len: u64,
}

/// What each brings: the task itself first, then its guests.
fn parts(copying: &Copying) -> Vec<Vec<Part>> {
    /// Page tables of neighbours are not filled at the same time, and no block is parted.
    const TABLE: u64 = BLOCK;
    let total: u64 = copying.pieces.iter().map(|(_, _, len)| len).sum();
    let share = (total / (copying.guests.len() as u64 + 1)).next_multiple_of(TABLE);
    let mut parts = vec![Vec::new()];
    let mut room = share;
    // How much is before it, of all pieces.
    let mut before = 0;
    for (to, offset, len) in &copying.pieces {
        let mut done = 0;
        while done < *len {
            if room == 0 && parts.len() <= copying.guests.len() {
                parts.push(Vec::new());
                room = share;
            }
            let is_last = parts.len() > copying.guests.len();
            let now = if is_last { len - done } else { room.min(len - done) };
            let offset = offset + done;
            let from = copying.source
                + match copying.from {
                    PagesFrom::Image { offset: first } => offset - first,
                    PagesFrom::Stage => before,
                };
            if let Some(part) = parts.last_mut() {
                part.push(Part { to: to + done, from, offset, len: now });
            }
            before += now;
            done += now;
            room = room.saturating_sub(now);
        }
    }
    parts
}

/// Pages at whose protection and back the blocks of a range are parted: first address and length. Two neighbours at once,
/// by the pages at their border.
fn partings(start: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = start + len;
    (start..end).step_by(2 * BLOCK as usize).map(move |at| {
        let border = at + BLOCK;
        if border < end { (border - PAGE, 2 * PAGE) } else { (at, PAGE) }
    })
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
        let parts = parts(copying);
        let mut parts = parts.into_iter();
        let own = parts.next().unwrap_or_default();
        let mut guests = Vec::new();
        for (pid, part) in copying.guests.iter().zip(parts) {
            self.guest(*pid, [image, fd], copying.from, &part);
            guests.push(*pid);
        }
        self.bring([image, fd], copying.from, &own);
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
            for (at, len) in copying.pieces.iter().flat_map(|(to, _, len)| partings(*to, *len)) {
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

    fn bring(&mut self, [image, fd]: [u64; 2], from: PagesFrom, parts: &[Part]) {
        for part in parts {
            let mut command = UFFDIO_COPY;
            if from == PagesFrom::Stage {
                command = UFFDIO_MOVE;
                let mut done = 0;
                while done < part.len {
                    let len = READ_MAX.min(part.len - done);
                    let args = [image, part.from + done, len, part.offset + done];
                    self.tape.call(libc::SYS_pread64, &args, len);
                    done += len;
                }
            }
            let structure = self.cells([part.to, part.from, part.len, 0, 0]);
            self.tape.call(libc::SYS_ioctl, &[fd, command, structure], 0);
        }
    }

    /// A task in this one's address space that brings its parts and exits.
    fn guest(&mut self, pid: u32, fds: [u64; 2], from: PagesFrom, parts: &[Part]) {
        let op = self.tape.op;
        let own = std::mem::replace(&mut self.tape, Tape { op, ..Tape::default() });
        self.bring(fds, from, parts);
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

    fn copying(pieces: &[(u64, u64, u64)], guests: usize, from: PagesFrom) -> Copying {
        Copying {
            mappings: Vec::new(),
            from,
            source: 1000 * MIB,
            len: 0,
            pieces: pieces.iter().map(|(to, offset, len)| (to * MIB, offset * MIB, len * MIB)).collect(),
            guests: (0..guests as u32).collect(),
        }
    }

    #[test]
    fn parts_are_alike_and_whole() {
        let check = |pieces: &[(u64, u64, u64)], guests: usize, expected: &[&[(u64, u64, u64)]]| {
            let found: Vec<Vec<(u64, u64, u64)>> =
                parts(&copying(pieces, guests, PagesFrom::Image { offset: 0 }))
                    .into_iter()
                    .map(|part| {
                        let all = part.into_iter();
                        all.map(|part| (part.to / MIB, part.offset / MIB, part.len / MIB)).collect()
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
        let from = |from| -> Vec<u64> {
            let copying = copying(&[(100, 7, 10), (200, 27, 6)], 1, from);
            parts(&copying).iter().flatten().map(|part| part.from / MIB).collect()
        };
        assert_eq!(from(PagesFrom::Image { offset: 7 * MIB }), [1000, 1008, 1020]);
        assert_eq!(from(PagesFrom::Stage), [1000, 1008, 1010]);
    }

    #[test]
    fn every_block_is_parted_once() {
        let found = |blocks: u64| partings(BLOCK, blocks * BLOCK).collect::<Vec<_>>();
        assert_eq!(found(1), [(BLOCK, PAGE)]);
        assert_eq!(found(2), [(2 * BLOCK - PAGE, 2 * PAGE)]);
        assert_eq!(found(3), [(2 * BLOCK - PAGE, 2 * PAGE), (3 * BLOCK, PAGE)]);
        assert_eq!(found(0), []);
    }
}
