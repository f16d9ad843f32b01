//! FIFOs.

use regrow_graph::ids::Fd;

use super::Lowering;

impl Lowering<'_> {
    /// `openat(2)` for reading and writing first, which never waits and spares the others waiting for
    /// their other end (fifo(7)); its capacity, what is in it; then each description.
    pub(super) fn fifo(
        &mut self,
        path: &str,
        flags: &[u32],
        capacity: Option<u32>,
        data: &[u8],
        at: &[Fd],
        cloexec: bool,
    ) {
        let [first, further @ ..] = at else { return };
        let cloexec = if cloexec { libc::O_CLOEXEC as u32 } else { 0 };
        let path = self.asm.text(path.as_bytes());
        let open = |flags: u32| [libc::AT_FDCWD as u64, path, u64::from(flags | cloexec), 0];
        let fd = u64::from(*first);
        self.tape.call(libc::SYS_openat, &open(libc::O_RDWR as u32), fd);
        self.fill_pipe(fd, capacity, data);
        for (flags, fd) in flags.iter().zip(further) {
            // An open only pretends to set O_ASYNC (open(2), BUGS).
            let is_async = flags & libc::O_ASYNC as u32 != 0;
            self.tape.call(libc::SYS_openat, &open(flags & !(libc::O_ASYNC as u32)), u64::from(*fd));
            if is_async {
                self.status_flags(*fd, *flags);
            }
        }
    }
}
