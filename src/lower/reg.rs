//! Paths.

use regrow_graph::ids::Fd;

use super::Lowering;
use crate::resolve::recipe::FilePurpose;

/// What fcntl(F_SETFL) can change.
const SETTABLE: u32 =
    (libc::O_APPEND | libc::O_ASYNC | libc::O_DIRECT | libc::O_NOATIME | libc::O_NONBLOCK) as u32;

impl Lowering<'_> {
    /// `openat(2)` without a controlling terminal by accident, and the position.
    pub(super) fn open(
        &mut self,
        path: &str,
        flags: u32,
        position: u64,
        purpose: FilePurpose,
        at: &[Fd],
        cloexec: bool,
    ) {
        let Some(fd) = at.first().map(|fd| u64::from(*fd)) else { return };
        let status = flags & SETTABLE;
        let is_async = flags & libc::O_ASYNC as u32 != 0;
        // open(2) takes O_ASYNC and does not do it: "it is not possible to enable signal-driven I/O".
        let mut flags = flags & !(libc::O_ASYNC as u32) | libc::O_NOCTTY as u32;
        if cloexec {
            flags |= libc::O_CLOEXEC as u32;
        }
        let path = self.asm.text(path.as_bytes());
        self.tape.call(libc::SYS_openat, &[libc::AT_FDCWD as u64, path, u64::from(flags), 0], fd);
        if is_async {
            self.status_flags(fd as Fd, status);
        }
        match purpose {
            // What lseek returns is the file's own affair: devices may ignore the position.
            FilePurpose::Descriptor if position != 0 => {
                self.tape.call_ok(libc::SYS_lseek, &[fd, position, libc::SEEK_SET as u64])
            }
            FilePurpose::Descriptor
            | FilePurpose::Mapping
            | FilePurpose::Executable
            | FilePurpose::Pages
            | FilePurpose::Attribute
            | FilePurpose::Cgroup => {}
        }
    }
}
