//! Descriptions that go through channels: the channel, sending, receiving.
//!
//! Worked example: `Send { through: 9, fds: [3, 4] }` becomes `sendmsg(9, {one byte, SCM_RIGHTS: 3, 4},
//! MSG_DONTWAIT|MSG_NOSIGNAL) = 1`, and `Receive { through: 9, at: [3, 4] }` becomes `recvmsg(9, …,
//! MSG_DONTWAIT) = 1` and `fcntl(4, F_GETFD) = 0`.

use regrow_graph::graph::OpKind;
use regrow_graph::ids::Fd;
use regrow_graph::order::Plan;

use super::Lowering;
use crate::tape::assemble::PASSED_MAX;

/// Words of `struct msghdr`.
const HEADER_WORDS: usize = 7;
/// Length of `struct cmsghdr`, which stands before the numbers (cmsg(3)).
const CONTROL_HEAD: u64 = 16;

/// How many words that calls write to the plan's receiving takes: the kernel reads and writes the header of each.
pub(super) fn cells(plan: &Plan) -> usize {
    plan.graph.ops().filter(|(_, op)| matches!(op.kind, OpKind::Receive { .. })).count() * HEADER_WORDS
}

impl Lowering<'_> {
    /// A pair of sockets that keep messages apart.
    pub(super) fn channel(&mut self, cloexec: bool) {
        let kind = libc::SOCK_SEQPACKET | if cloexec { libc::SOCK_CLOEXEC } else { 0 };
        let scratch = self.asm.scratch();
        self.tape.call(libc::SYS_socketpair, &[libc::AF_UNIX as u64, kind as u64, 0, scratch], 0);
    }

    /// One message. It needs a byte: the result then says that it has been sent.
    pub(super) fn send(&mut self, through: Fd, fds: &[Fd]) {
        let message = self.message(&[0], fds.iter().copied());
        let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u64;
        self.tape.call(libc::SYS_sendmsg, &[u64::from(through), message, flags], 1);
    }

    /// One message, and a look whether the last number is there: where the kernel cannot give all of them it
    /// gives what it can, and says so only in the header (recvmsg(2), MSG_CTRUNC).
    pub(super) fn receive(&mut self, through: Fd, at: &[Fd], cloexec: bool, stays: bool) {
        assert!(at.len() <= PASSED_MAX, "more descriptors than a message carries");
        let byte = self.asm.scratch();
        let vector = self.asm.words(&[byte, 1]);
        let control = byte + 8;
        let control_len = CONTROL_HEAD + 4 * at.len() as u64;
        let words: [u64; HEADER_WORDS] = [0, 0, vector, 1, control, control_len, 0];
        let cells = words.map(|word| self.asm.cell(word));
        let mut flags = libc::MSG_DONTWAIT;
        if cloexec {
            flags |= libc::MSG_CMSG_CLOEXEC;
        }
        if stays {
            flags |= libc::MSG_PEEK;
        }
        self.tape.call(libc::SYS_recvmsg, &[u64::from(through), cells[0], flags as u64], 1);
        if let Some(last) = at.last() {
            self.tape.call(libc::SYS_fcntl, &[u64::from(*last), libc::F_GETFD as u64], u64::from(cloexec));
        }
    }
}
