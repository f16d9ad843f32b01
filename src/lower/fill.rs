//! Pages copied into place by a userfaultfd.
//!
//! The structures of `ioctl_userfaultfd(2)` are read and written by the kernel, so each call has its own in the part of
//! the region that may be written. A copy that comes short fails (EAGAIN), and with it the restore.

use regrow_graph::ids::Fd;

use super::Lowering;
use crate::resolve::Recipes;
use crate::resolve::recipe::{Copying, ResourceKind, StepKind};
use crate::tape::abi::{CLONE_ARGS_FLAGS, CLONE_ARGS_SET_TID, CLONE_ARGS_SET_TID_SIZE};
use crate::tape::assemble::Tape;

/// uapi/linux/userfaultfd.h.
const UFFD_API: u64 = 0xaa;
const UFFD_USER_MODE_ONLY: u64 = 1;
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_UNREGISTER: u64 = 0x8010_aa01;
const UFFDIO_COPY: u64 = 0xc028_aa03;
const REGISTER_MODE_MISSING: u64 = 1;

/// Words of `struct uffdio_api`, `uffdio_register`, `uffdio_copy`.
const API_WORDS: usize = 3;
const REGISTER_WORDS: usize = 4;
const COPY_WORDS: usize = 5;

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

/// What each copies: address, offset in the image, length. The task itself first, then its guests.
fn parts(copying: &Copying) -> Vec<Vec<(u64, u64, u64)>> {
    /// Page tables of neighbours are not filled at the same time.
    const TABLE: u64 = 2 << 20;
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
                part.push((to + done, offset + done, now));
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

    /// Maps the image, copies, and leaves nothing of it but the pages.
    pub(super) fn copy(&mut self, copying: &Copying, fds: &[Fd]) {
        let [image, fd] = [0, 1].map(|at| fds.get(at).map_or(u64::MAX, |fd| u64::from(*fd)));
        for (start, len) in &copying.mappings {
            let range = self.cells([*start, *len, REGISTER_MODE_MISSING, 0]);
            self.tape.call(libc::SYS_ioctl, &[fd, UFFDIO_REGISTER, range], 0);
        }
        let (source, len) = (copying.source, copying.len);
        let flags = (libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE) as u64;
        let args = [source, len, libc::PROT_READ as u64, flags, image, copying.offset];
        self.tape.call(libc::SYS_mmap, &args, source);
        let parts = parts(copying);
        let mut parts = parts.into_iter();
        let own = parts.next().unwrap_or_default();
        let mut guests = Vec::new();
        for (pid, part) in copying.guests.iter().zip(parts) {
            self.guest(*pid, fd, copying, &part);
            guests.push(*pid);
        }
        self.copy_part(fd, copying, &own);
        for pid in guests {
            let options = (libc::WEXITED | libc::__WALL) as u64;
            self.tape.call(libc::SYS_waitid, &[u64::from(libc::P_PID), u64::from(pid), 0, options, 0], 0);
        }
        self.unmap(source, len);
        for (start, len) in &copying.mappings {
            let range = self.asm.words(&[*start, *len]);
            self.tape.call(libc::SYS_ioctl, &[fd, UFFDIO_UNREGISTER, range], 0);
        }
    }

    fn copy_part(&mut self, fd: u64, copying: &Copying, part: &[(u64, u64, u64)]) {
        for (to, offset, len) in part {
            let copy = self.cells([*to, copying.source + (offset - copying.offset), *len, 0, 0]);
            self.tape.call(libc::SYS_ioctl, &[fd, UFFDIO_COPY, copy], 0);
        }
    }

    /// A task in this one's address space that copies its part and exits.
    fn guest(&mut self, pid: u32, fd: u64, copying: &Copying, part: &[(u64, u64, u64)]) {
        let op = self.tape.op;
        let own = std::mem::replace(&mut self.tape, Tape { op, ..Tape::default() });
        self.copy_part(fd, copying, part);
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

    #[test]
    fn parts_are_alike_and_whole() {
        const MIB: u64 = 1 << 20;
        let check = |pieces: &[(u64, u64, u64)], guests: usize, expected: &[&[(u64, u64, u64)]]| {
            let copying = Copying {
                mappings: Vec::new(),
                source: 0,
                offset: 0,
                len: 0,
                pieces: pieces.iter().map(|(to, offset, len)| (to * MIB, offset * MIB, len * MIB)).collect(),
                guests: (0..guests as u32).collect(),
            };
            let found: Vec<Vec<(u64, u64, u64)>> = parts(&copying)
                .into_iter()
                .map(|part| {
                    part.into_iter().map(|(to, offset, len)| (to / MIB, offset / MIB, len / MIB)).collect()
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
}
