//! eventfd.

use regrow_graph::ids::Fd;

use super::Lowering;

impl Lowering<'_> {
    /// `eventfd2(2)`: its argument has 32 bits, the counter 64.
    pub(super) fn eventfd(&mut self, counter: u64, flags: u32, at: &[Fd], cloexec: bool) {
        let Some(fd) = at.first().map(|fd| u64::from(*fd)) else { return };
        let create = flags & libc::O_NONBLOCK as u32 | if cloexec { libc::EFD_CLOEXEC as u32 } else { 0 };
        let initial = u32::try_from(counter).ok();
        self.tape.call(libc::SYS_eventfd2, &[u64::from(initial.unwrap_or(0)), u64::from(create)], fd);
        if initial.is_none() {
            let value = self.asm.words(&[counter]);
            self.tape.call(libc::SYS_write, &[fd, value, 8], 8);
        }
        self.further_flags(fd, flags);
    }
}
