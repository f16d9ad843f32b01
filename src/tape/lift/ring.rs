//! Calls about rings of asynchronous I/O, and the one whose first argument is in a word.

use regrow_graph::verify::{Effect, MemoryEffect, RingEffect};

use super::{Call, Lift};

/// Words of `struct iocb` (uapi/linux/aio_abi.h).
const IOCB_WORDS: usize = 8;
/// Bytes of `struct io_event`.
const EVENT_BYTES: u64 = 32;

impl Call<'_, '_> {
    /// `None`: the call is none of them.
    pub(super) fn ring(&self) -> Lift<Option<Effect>> {
        let effect = match libc::c_long::from(self.record.nr) {
            libc::SYS_io_setup => {
                self.gives_zero()?;
                // What is not 0 the kernel takes for a context that is there.
                if self.lifter.own_words::<1>(self.arg(1))? != [0] {
                    return Err("of a context that is there".to_owned());
                }
                RingEffect::Setup { requests: self.low(0), cell: self.arg(1) }
            }
            libc::SYS_io_submit => {
                let count = self.count(1)?;
                self.gives_exactly(count.into())?;
                RingEffect::Submit { ring: self.arg(0), count, fd: self.nothing_read(count)? }
            }
            libc::SYS_io_getevents => {
                let count = self.count(1)?;
                self.must_be_zero(&[4])?;
                if self.arg(2) != u64::from(count) {
                    return Err(format!("{count} to {} events", self.arg(2)));
                }
                self.gives_exactly(count.into())?;
                self.lifter.output(self.arg(3), EVENT_BYTES * u64::from(count))?;
                RingEffect::Reap { ring: self.arg(0), count }
            }
            _ => return Ok(None),
        };
        Ok(Some(Effect::Memory(MemoryEffect::Ring(effect))))
    }

    fn count(&self, index: usize) -> Lift<u32> {
        u32::try_from(self.arg(index)).map_err(|_| format!("{} at once", self.arg(index)))
    }

    /// The file of requests that are all one, and read nothing from its start.
    fn nothing_read(&self, count: u32) -> Lift<u32> {
        let pointers = self.lifter.words(self.arg(2), count.into())?;
        let Some(first) = pointers.first().copied() else { return Err("no request".to_owned()) };
        if pointers.iter().any(|pointer| *pointer != first) {
            return Err("requests that differ".to_owned());
        }
        // The kernel writes a key into each request, which is 0 (`KIOCB_KEY`).
        let iocb = self.lifter.kept_words::<IOCB_WORDS>(first)?;
        // aio_lio_opcode and aio_reqprio are two numbers of 16 bits, aio_fildes is one of 32.
        let file = iocb[2] >> 32;
        let rest = [iocb[0], iocb[1], iocb[2] & 0xffff_ffff, iocb[3], iocb[4], iocb[5], iocb[6], iocb[7]];
        if rest != [0; IOCB_WORDS] || file > i32::MAX as u64 {
            return Err("a request that does more than read nothing".to_owned());
        }
        Ok(file as u32)
    }

    /// A call whose first argument is in the word at it.
    pub(super) fn indirect(&self) -> Lift<Effect> {
        let [cell, old_len, len, flags, to, _] = self.record.args;
        if libc::c_long::from(self.record.nr) != libc::SYS_mremap {
            return Err("its first argument is in a word".to_owned());
        }
        if old_len != len || flags != (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64 {
            return Err(format!("{old_len:#x} bytes to {len:#x}, flags {flags:#x}, of what is not known"));
        }
        self.lifter.scratch(cell, 8)?;
        self.gives(to)?;
        Ok(Effect::Memory(MemoryEffect::Ring(RingEffect::Place { cell, len, to })))
    }
}
