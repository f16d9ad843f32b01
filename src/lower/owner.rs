//! `F_SETOWN` and `F_SETSIG`.

use regrow_graph::ids::Fd;

use super::Lowering;
use crate::image::Fown;

/// asm-generic/fcntl.h.
const F_SETSIG: u64 = 10;
const F_SETOWN_EX: u64 = 15;

impl Lowering<'_> {
    /// The signal, then the owner, whom the kernel remembers with the uids of the caller
    /// (kernel: fs/fcntl.c, `__f_setown`). The saved uid stays, so that the way back is open.
    pub(super) fn owner(&mut self, fd: Fd, fown: &Fown, own_uids: Option<[u32; 2]>) {
        let fd = u64::from(fd);
        if fown.signum != 0 {
            self.tape.call(libc::SYS_fcntl, &[fd, F_SETSIG, u64::from(fown.signum)], 0);
        }
        if fown.pid == 0 {
            return;
        }
        // struct f_owner_ex: kind, number.
        let owner = self.asm.words(&[u64::from(fown.pid_type) | u64::from(fown.pid) << 32]);
        let keep = u64::from(u32::MAX);
        if own_uids.is_some() {
            self.tape.call(libc::SYS_setresuid, &[u64::from(fown.uid), u64::from(fown.euid), keep], 0);
        }
        self.tape.call(libc::SYS_fcntl, &[fd, F_SETOWN_EX, owner], 0);
        if let Some([real, effective]) = own_uids {
            self.tape.call(libc::SYS_setresuid, &[u64::from(real), u64::from(effective), keep], 0);
        }
    }
}
