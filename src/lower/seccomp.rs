//! Strict mode and filters of system calls.
//!
//! They are installed one by one, the oldest first, as the program did: each call adds one in front of
//! the chain. A filter for all threads gives 0 where all got it, else the tid of one that could not
//! (seccomp(2)), which fails the record.

use super::Lowering;
use crate::resolve::recipe::SeccompProgram;

/// Bytes of a `struct sock_filter` (linux/filter.h).
const INSTRUCTION: u64 = 8;

impl Lowering<'_> {
    pub(super) fn seccomp_strict(&mut self) {
        self.tape.call(libc::SYS_seccomp, &[u64::from(libc::SECCOMP_SET_MODE_STRICT), 0, 0], 0);
    }

    pub(super) fn seccomp_filters(&mut self, filters: &[SeccompProgram]) {
        for filter in filters {
            let program = self.asm.shared_data(&filter.program, INSTRUCTION);
            // struct sock_fprog: how many instructions, and where.
            let program = self.asm.words(&[filter.program.len() as u64 / INSTRUCTION, program]);
            let operation = u64::from(libc::SECCOMP_SET_MODE_FILTER);
            self.tape.call(libc::SYS_seccomp, &[operation, u64::from(filter.flags), program], 0);
        }
    }
}
