//! Mappings and pages.

use regrow_graph::ids::Fd;

use super::Lowering;
use crate::resolve::recipe::MmMap;

/// `ARCH_MAP_VDSO_64` (uapi/asm/prctl.h).
const ARCH_MAP_VDSO_64: u64 = 0x2003;
/// The end of user space.
const TASK_SIZE: u64 = 0x7fff_ffff_f000;
const NO_FD: u64 = u64::MAX;
const READ_WRITE: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;

impl Lowering<'_> {
    /// Everything but the window.
    pub(super) fn vacate(&mut self) {
        let end = self.window.base + self.window.len;
        self.unmap(0, self.window.base);
        self.unmap(end, TASK_SIZE - end);
    }

    pub(super) fn unmap(&mut self, start: u64, len: u64) {
        self.tape.call(libc::SYS_munmap, &[start, len], 0);
    }

    /// Everything that the launcher left, but for the window.
    pub(super) fn bare(&mut self) {
        // The launcher's C library keeps two signals for itself and never blocks them (nptl(7)); a
        // timer or a pending signal of the images may be one of them.
        let all = self.asm.words(&[u64::MAX]);
        self.tape.call(libc::SYS_rt_sigprocmask, &[libc::SIG_SETMASK as u64, all, 0, 8], 0);
        self.vacate();
        self.tape.call(libc::SYS_close_range, &[0, u64::from(u32::MAX), 0], 0);
    }

    /// A segment of shared memory, for all below to inherit.
    pub(super) fn carrier(&mut self, address: u64, len: u64, further: u32) {
        let flags = (libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
        let flags = flags | u64::from(further);
        self.tape.call(libc::SYS_mmap, &[address, len, READ_WRITE, flags, NO_FD, 0], address);
    }

    /// A description of what a carrier shows, for reading and writing: proc_pid_map_files(5).
    pub(super) fn open_carrier(&mut self, address: u64, len: u64, at: &[Fd], cloexec: bool) {
        let path = format!("/proc/self/map_files/{address:x}-{:x}", address + len);
        let path = self.asm.text(path.as_bytes());
        let flags = libc::O_RDWR | libc::O_NOCTTY | if cloexec { libc::O_CLOEXEC } else { 0 };
        let fd = at.first().map_or(NO_FD, |fd| u64::from(*fd));
        self.tape.call(libc::SYS_openat, &[libc::AT_FDCWD as u64, path, flags as u64, 0], fd);
    }

    pub(super) fn mmap(
        &mut self,
        start: u64,
        len: u64,
        prot: u32,
        flags: u32,
        file_offset: Option<u64>,
        fds: &[Fd],
    ) {
        let flags = u64::from(flags) | libc::MAP_FIXED_NOREPLACE as u64;
        let (fd, offset) = match file_offset {
            Some(offset) => (fds.first().map_or(NO_FD, |fd| u64::from(*fd)), offset),
            None => (NO_FD, 0),
        };
        self.tape.call(libc::SYS_mmap, &[start, len, u64::from(prot), flags, fd, offset], start);
    }

    /// Another view of a shared mapping: old size 0 (mremap(2)).
    pub(super) fn map_shared(&mut self, from: u64, start: u64, len: u64) {
        let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
        self.tape.call(libc::SYS_mremap, &[from, 0, len, flags, start], start);
    }

    pub(super) fn map_vdso(&mut self, start: u64) {
        // Returns the size or the address, depending on the kernel: any success is one.
        self.tape.call_ok(libc::SYS_arch_prctl, &[ARCH_MAP_VDSO_64, start]);
    }

    /// `process_vm_writev(2)` of the task to itself.
    pub(super) fn poke(&mut self, pid: u32, pieces: &[(u64, Vec<u8>)]) {
        let (mut from, mut to) = (Vec::new(), Vec::new());
        for (address, bytes) in pieces {
            let len = bytes.len() as u64;
            from.extend([self.asm.data(bytes, 8), len]);
            to.extend([*address, len]);
        }
        let total = pieces.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let (from, to, count) = (self.asm.words(&from), self.asm.words(&to), pieces.len() as u64);
        self.tape.call(libc::SYS_process_vm_writev, &[u64::from(pid), from, count, to, count, 0], total);
    }

    /// `preadv(2)`, or `pread(2)` for one piece.
    pub(super) fn fill(&mut self, pieces: &[(u64, u64)], offset: u64, fds: &[Fd]) {
        let fd = fds.first().map_or(NO_FD, |fd| u64::from(*fd));
        match pieces {
            [(address, len)] => self.tape.call(libc::SYS_pread64, &[fd, *address, *len, offset], *len),
            _ => {
                let total = pieces.iter().map(|(_, len)| len).sum();
                let words: Vec<u64> = pieces.iter().flat_map(|(address, len)| [*address, *len]).collect();
                let vector = self.asm.words(&words);
                self.tape.call(libc::SYS_preadv, &[fd, vector, pieces.len() as u64, offset, 0], total);
            }
        }
    }

    /// `prctl(PR_SET_MM, PR_SET_MM_MAP)` with `struct prctl_mm_map` (uapi/linux/prctl.h).
    pub(super) fn set_mm(&mut self, map: &MmMap, fds: &[Fd]) {
        let auxv = self.asm.words(&map.auxv);
        let exe = fds.first().copied().unwrap_or(u32::MAX);
        let words = [
            map.start_code,
            map.end_code,
            map.start_data,
            map.end_data,
            map.start_brk,
            map.brk,
            map.start_stack,
            map.arg_start,
            map.arg_end,
            map.env_start,
            map.env_end,
            auxv,
            // auxv_size, exe_fd: two 32-bit members.
            (map.auxv.len() as u64 * 8) | (u64::from(exe) << 32),
        ];
        let map = self.asm.words(&words);
        let args = [libc::PR_SET_MM as u64, libc::PR_SET_MM_MAP as u64, map, size_of_val(&words) as u64, 0];
        self.tape.call(libc::SYS_prctl, &args, 0);
    }
}
