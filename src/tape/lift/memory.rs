//! Calls that change the address space.

use regrow_graph::verify::{Effect, MemoryEffect};

use super::{Call, IOV_MAX, Lift};

impl Call<'_, '_> {
    /// Address spaces; `None`: the call is none of them.
    pub(super) fn memory(&self) -> Lift<Option<Effect>> {
        let effect: Lift<Effect> = match libc::c_long::from(self.record.nr) {
            libc::SYS_mmap => self.mmap(),
            libc::SYS_mremap => {
                let [from, old_len, new_len, flags, to, _] = self.record.args;
                let flags = flags as u32;
                // Where it may not move, the fifth argument is not looked at.
                let to = if flags == 0 { from } else { to };
                self.gives(to)?;
                if flags == 0 {
                    return Ok(Some(Effect::Memory(MemoryEffect::Remap {
                        from,
                        old_len,
                        to,
                        new_len,
                        flags,
                    })));
                }
                if flags & libc::MREMAP_FIXED as u32 == 0
                    || flags & !(libc::MREMAP_FIXED | libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP) as u32
                        != 0
                {
                    return Err(format!("flags {flags:#x}"));
                }
                Ok(Effect::Memory(MemoryEffect::Remap { from, old_len, to, new_len, flags }))
            }
            libc::SYS_munmap => {
                self.gives_zero()?;
                Ok(Effect::Memory(MemoryEffect::Unmap { at: self.arg(0), len: self.arg(1) }))
            }
            libc::SYS_mprotect => {
                self.gives_zero()?;
                Ok(Effect::Memory(MemoryEffect::Protect {
                    at: self.arg(0),
                    len: self.arg(1),
                    prot: self.low(2),
                }))
            }
            libc::SYS_madvise => {
                self.gives_zero()?;
                Ok(Effect::Memory(MemoryEffect::Advise {
                    at: self.arg(0),
                    len: self.arg(1),
                    advice: self.low(2),
                }))
            }
            libc::SYS_mlock => {
                self.gives_zero()?;
                Ok(Effect::Memory(MemoryEffect::Lock { at: self.arg(0), len: self.arg(1) }))
            }
            libc::SYS_arch_prctl => {
                /// ARCH_MAP_VDSO_64 (asm/prctl.h).
                const MAP_VDSO_64: u64 = 0x2003;
                if self.arg(0) != MAP_VDSO_64 {
                    return Err(format!("code {:#x}", self.arg(0)));
                }
                self.succeeds()?;
                Ok(Effect::Memory(MemoryEffect::MapVdso { at: self.arg(1) }))
            }
            libc::SYS_process_vm_writev => self.poke(),
            _ => return Ok(None),
        };
        effect.map(Some)
    }

    fn mmap(&self) -> Lift<Effect> {
        let [at, len, prot, flags, _, offset] = self.record.args;
        let flags = flags as u32;
        let (fixed, noreplace) = (libc::MAP_FIXED as u32, libc::MAP_FIXED_NOREPLACE as u32);
        if flags & (fixed | noreplace) == 0 {
            return Err("the kernel would choose the address".to_owned());
        }
        // An old kernel takes MAP_FIXED_NOREPLACE for a hint.
        if flags & fixed == 0 {
            self.gives_exactly(at)?
        } else {
            self.gives(at)?
        }
        let file = if flags & libc::MAP_ANONYMOUS as u32 == 0 { Some((self.fd(4)?, offset)) } else { None };
        Ok(Effect::Memory(MemoryEffect::Map { at, len, prot: prot as u32, flags, file }))
    }

    /// Only to the task itself, and all of it or an error.
    fn poke(&self) -> Lift<Effect> {
        let [pid, from, from_count, to, to_count, flags] = self.record.args;
        if pid != u64::from(self.pid) || flags != 0 {
            return Err(format!("to task {pid}, flags {flags:#x}"));
        }
        if from_count != to_count || to_count > IOV_MAX {
            return Err(format!("{from_count} vectors into {to_count}"));
        }
        let (from, to) = (self.lifter.words(from, 2 * to_count)?, self.lifter.words(to, 2 * to_count)?);
        let mut pieces = Vec::new();
        let mut total = 0u64;
        for (from, to) in from.chunks_exact(2).zip(to.chunks_exact(2)) {
            if from[1] != to[1] {
                return Err(format!("{} bytes into {}", from[1], to[1]));
            }
            total = total.saturating_add(to[1]);
            pieces.push((to[0], self.lifter.input(from[0], from[1])?.to_vec()));
        }
        self.gives_exactly(total)?;
        Ok(Effect::Memory(MemoryEffect::Write { pieces }))
    }

    pub(super) fn set_mm(&self) -> Lift<Effect> {
        const WORDS: usize = 13;
        if self.arg(1) != libc::PR_SET_MM_MAP as u64 || self.arg(3) != 8 * WORDS as u64 {
            return Err(format!("PR_SET_MM option {}, length {}", self.arg(1), self.arg(3)));
        }
        let map = self.lifter.array::<WORDS>(self.arg(2))?;
        let [auxv, sizes] = [map[11], map[12]];
        let exe = (sizes >> 32) as u32;
        Ok(Effect::Memory(MemoryEffect::SetMm {
            words: std::array::from_fn(|i| map[i]),
            auxv: self.lifter.input(auxv, sizes & 0xffff_ffff)?.to_vec(),
            exe: (exe != u32::MAX).then_some(exe),
        }))
    }
}
