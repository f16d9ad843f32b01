//! `seccomp(2)`.

use std::sync::{Arc, PoisonError};

use regrow_graph::verify::SeccompEffect;

use super::{Call, Lift};

/// Bytes of a `struct sock_filter`.
const INSTRUCTION: u64 = 8;
/// Most instructions of a program (BPF_MAXINSNS).
const INSTRUCTIONS_MAX: u64 = 4096;

impl Call<'_, '_> {
    pub(super) fn seccomp(&self) -> Lift<SeccompEffect> {
        // The tid of a thread that could not be given a filter is no error to the kernel.
        self.gives_exactly(0)?;
        match self.low(0) {
            libc::SECCOMP_SET_MODE_STRICT => {
                self.must_be_zero(&[1, 2])?;
                Ok(SeccompEffect::Strict)
            }
            libc::SECCOMP_SET_MODE_FILTER => {
                // struct sock_fprog: 16 bits, padding, an address.
                let [count, program] = self.lifter.array::<2>(self.arg(2))?;
                if !(1..=INSTRUCTIONS_MAX).contains(&count) {
                    return Err(format!("{count} instructions"));
                }
                let program = self.program(program, count * INSTRUCTION)?;
                Ok(SeccompEffect::Filter { program, flags: self.arg(1) })
            }
            operation => Err(format!("operation {operation}")),
        }
    }

    fn program(&self, address: u64, len: u64) -> Lift<Arc<[u8]>> {
        let mut programs = self.lifter.common.programs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = programs.get(&(address, len)) {
            return Ok(program.clone());
        }
        let program: Arc<[u8]> = self.lifter.input(address, len)?.into();
        programs.insert((address, len), program.clone());
        Ok(program)
    }
}
