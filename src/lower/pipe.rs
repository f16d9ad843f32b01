//! Pipes.

use regrow_graph::ids::Fd;

use super::Lowering;

impl Lowering<'_> {
    /// The capacity of a pipe, by an end that writes, and what is in it.
    pub(super) fn fill_pipe(&mut self, fd: u64, capacity: Option<u32>, data: &[u8]) {
        if let Some(capacity) = capacity {
            self.tape.call(
                libc::SYS_fcntl,
                &[fd, libc::F_SETPIPE_SZ as u64, u64::from(capacity)],
                u64::from(capacity),
            );
        }
        if !data.is_empty() {
            let buffer = self.asm.data(data, 1);
            self.tape.call(libc::SYS_write, &[fd, buffer, data.len() as u64], data.len() as u64);
        }
    }

    /// `pipe2(2)`, its capacity, what is in it, further descriptions by way of `/proc/self/fd`
    /// (proc(5): opening such a link gives a new description of the same pipe), and the status flags
    /// last: they do not hinder the filling then.
    pub(super) fn pipe(
        &mut self,
        flags: [u32; 2],
        reopened: &[(u8, u32)],
        capacity: Option<u32>,
        data: &[u8],
        at: &[Fd],
        cloexec: bool,
    ) {
        let [read, write, further @ ..] = at else { return };
        let cloexec = if cloexec { libc::O_CLOEXEC as u32 } else { 0 };
        let scratch = self.asm.scratch();
        self.tape.call(libc::SYS_pipe2, &[scratch, u64::from(cloexec)], 0);
        self.fill_pipe(u64::from(*write), capacity, data);
        for ((end, flags), fd) in reopened.iter().zip(further) {
            let (of, access) = match end {
                0 => (read, libc::O_RDONLY),
                1 => (write, libc::O_WRONLY),
                _ => (read, libc::O_RDWR),
            };
            let path = self.asm.text(format!("/proc/self/fd/{of}").as_bytes());
            let flags = flags | access as u32 | cloexec;
            self.tape.call(
                libc::SYS_openat,
                &[libc::AT_FDCWD as u64, path, u64::from(flags), 0],
                u64::from(*fd),
            );
        }
        self.status_flags(*read, flags[0]);
        self.status_flags(*write, flags[1]);
    }
}
