//! The registers of a thread as ptrace sets them.
//!
//! Turns [`Thread::regs`](crate::image::Thread::regs) into the words of `PTRACE_SETREGS`, and
//! [`Fpu`] into the bytes of `PTRACE_SETREGSET` for `NT_X86_XSTATE` in the layout of *this* CPU.
//! It sets nothing itself and does not know when in the restore that happens.
//!
//! Example: the image of a thread that had used AVX carries `xstate_bv` 0b111 and 256 bytes of
//! component 2. On a CPU with AVX-512 the state is longer (2688 bytes, or 2432, which is why CPUID is
//! asked): FXSAVE area, header with `xstate_bv` 0b111, component 2 at offset 576, and zeros where
//! AVX-512 would be. What a cleared
//! bit of `xstate_bv` stands for, the kernel puts in: the component's initial state.
//!
//! # Sources
//! Kernel: `arch/x86/kernel/fpu/regset.c` (`xstateregs_set`: exactly the whole length, else EFAULT),
//! `arch/x86/kernel/fpu/xstate.c` (`copy_uabi_to_xstate`), `arch/x86/kernel/ptrace.c`. Intel SDM
//! volume 1, 10.5.1 and 13.4. CRIU: `criu/arch/x86/crtools.c`, `compel/arch/x86/src/lib/infect.c`.

use crate::host::{XsaveComponent, XsaveLayout};
use crate::image::{Fpu, Regs, Thread};

/// Offsets in the FXSAVE area.
mod fxsave {
    pub(super) const CWD: usize = 0;
    pub(super) const SWD: usize = 2;
    pub(super) const TWD: usize = 4;
    pub(super) const FOP: usize = 6;
    pub(super) const RIP: usize = 8;
    pub(super) const RDP: usize = 16;
    pub(super) const MXCSR: usize = 24;
    pub(super) const MXCSR_MASK: usize = 28;
    pub(super) const ST_SPACE: usize = 32;
    pub(super) const ST_SPACE_BYTES: usize = 128;
    pub(super) const XMM_SPACE: usize = 160;
    pub(super) const XMM_SPACE_BYTES: usize = 256;
}

/// The header of 64 bytes behind the FXSAVE area: `xstate_bv`, `xcomp_bv` (0: not compacted), zeros.
const XSTATE_BV: usize = 512;
const HEADER_END: usize = 576;

/// Components 0 and 1, in the FXSAVE area.
const X87_AND_SSE: u64 = 0b11;

const PKRU: u32 = 9;
const CET_USER: u32 = 11;

/// What Linux gives a new task: no access to pages of any key but 0 (`init_pkru_value`).
const NEW_TASK_PKRU: u32 = 0x5555_5554;

/// `ARCH_SHSTK_SHSTK`, in the first word of component 11 as CRIU stores it.
const SHADOW_STACK_ENABLED: u64 = 1;

/// Why a thread's extended state cannot be set on this CPU.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XstateError {
    /// A field of the FXSAVE area has not its fixed length.
    #[error("FPU state: {field} has {image_bytes} bytes and not {expected_bytes}")]
    Legacy {
        /// Its name.
        field: &'static str,
        /// Its length in the image.
        image_bytes: usize,
        /// Its length by definition.
        expected_bytes: usize,
    },
    /// MXCSR has bits that this CPU does not know.
    #[error("FPU state: MXCSR {mxcsr:#x} has bits outside of {mask:#x}, which is all that this CPU knows")]
    Mxcsr {
        /// The value in the image.
        mxcsr: u32,
        /// The bits of this CPU.
        mask: u32,
    },
    /// The thread used a component that this CPU or kernel does not have.
    #[error("FPU state: the thread uses {} (component {number}), which this CPU does not have", component_name(*.number))]
    AbsentHere {
        /// Number of the component.
        number: u32,
    },
    /// The thread used a component whose contents the image does not carry.
    #[error("FPU state: the thread uses {} (component {number}), which the images do not carry", component_name(*.number))]
    AbsentInImage {
        /// Number of the component.
        number: u32,
    },
    /// A component is longer or shorter in the image than on this CPU.
    #[error(
        "FPU state: {} (component {number}) has {image_bytes} bytes in the images and {cpu_bytes} on this CPU",
        component_name(*.number)
    )]
    Size {
        /// Number of the component.
        number: u32,
        /// Length in the image.
        image_bytes: usize,
        /// Length on this CPU.
        cpu_bytes: u32,
    },
    /// The thread had a shadow stack.
    #[error("FPU state: the thread has a shadow stack (component {CET_USER})")]
    ShadowStack,
    /// The layout is none that a CPU can have.
    #[error("FPU state: component {number} lies outside of the {size_bytes} bytes of this CPU's state")]
    Layout {
        /// Number of the component.
        number: u32,
        /// Length of the whole state.
        size_bytes: u32,
    },
}

/// The general registers of `thread`, for `PTRACE_SETREGS`.
///
/// `orig_rax` is -1 whatever the image says: the thread returns from no system call, so the kernel
/// must restart none. The dump has already undone (`rip` back by two, `rax` the call's number) or
/// answered (-EINTR) the call that the thread was in; the image's `orig_ax` is left over from it.
pub fn user_regs(thread: &Thread) -> libc::user_regs_struct {
    words(&thread.regs)
}

fn words(regs: &Regs) -> libc::user_regs_struct {
    libc::user_regs_struct {
        r15: regs.r15,
        r14: regs.r14,
        r13: regs.r13,
        r12: regs.r12,
        rbp: regs.bp,
        rbx: regs.bx,
        r11: regs.r11,
        r10: regs.r10,
        r9: regs.r9,
        r8: regs.r8,
        rax: regs.ax,
        rcx: regs.cx,
        rdx: regs.dx,
        rsi: regs.si,
        rdi: regs.di,
        orig_rax: u64::MAX,
        rip: regs.ip,
        cs: regs.cs,
        eflags: regs.flags,
        rsp: regs.sp,
        ss: regs.ss,
        fs_base: regs.fs_base,
        gs_base: regs.gs_base,
        ds: regs.ds,
        es: regs.es,
        fs: regs.fs,
        gs: regs.gs,
    }
}

/// The extended state `fpu` in the standard format of `layout`, for `PTRACE_SETREGSET` with
/// `NT_X86_XSTATE`; `None` gives the state of a new task. Always `layout.size_bytes` long.
///
/// - x87 and SSE are always set: CRIU stores their contents even where `xstate_bv` says that they
///   were in their initial state.
/// - PKRU that the image does not set becomes 0 (access to every key), because that is its initial
///   state: what the thread had, or, dumped on a CPU without protection keys, the rights it had.
/// - The 48 bytes from 464 that a signal frame has for software stay zero: the kernel fills them
///   when it is read and ignores them here.
///
/// # Errors
/// If the image's state does not fit this CPU: see [`XstateError`].
pub fn xstate(fpu: Option<&Fpu>, layout: &XsaveLayout) -> Result<Vec<u8>, XstateError> {
    let new_task;
    let fpu = match fpu {
        Some(fpu) => fpu,
        None => {
            new_task = new_task_state(layout);
            &new_task
        }
    };
    let mut state = vec![0; (layout.size_bytes as usize).max(HEADER_END)];
    write_fxsave(fpu, layout.mxcsr_mask, &mut state)?;

    let used = fpu.xstate_bv.unwrap_or(0) | X87_AND_SSE;
    state[XSTATE_BV..XSTATE_BV + 8].copy_from_slice(&used.to_le_bytes());
    for number in (2..u64::BITS).filter(|number| used & (1 << number) != 0) {
        let component = (layout.components.iter())
            .find(|component| component.number == number && layout.mask & (1 << number) != 0)
            .ok_or(XstateError::AbsentHere { number })?;
        let contents = contents(fpu, number).ok_or(XstateError::AbsentInImage { number })?;
        write_component(component, contents, layout.size_bytes, &mut state)?;
    }
    match contents(fpu, CET_USER) {
        // The kernel keeps it out of this state; a shadow stack has its own regset and mapping.
        Some([a, b, c, d, e, f, g, h, ..])
            if u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]) & SHADOW_STACK_ENABLED != 0 =>
        {
            Err(XstateError::ShadowStack)
        }
        _ => Ok(state),
    }
}

/// What `execve` gives: the initial state, save that Linux closes the protection keys.
fn new_task_state(layout: &XsaveLayout) -> Fpu {
    let pkru = layout.components.iter().find(|component| component.number == PKRU).map(|component| {
        let mut contents = NEW_TASK_PKRU.to_le_bytes().to_vec();
        contents.resize(component.size_bytes as usize, 0);
        (PKRU, contents)
    });
    Fpu {
        cwd: 0x37f,
        mxcsr: 0x1f80,
        st_space: vec![0; fxsave::ST_SPACE_BYTES],
        xmm_space: vec![0; fxsave::XMM_SPACE_BYTES],
        xstate_bv: pkru.as_ref().map(|_| 1 << PKRU),
        components: pkru.into_iter().collect(),
        ..Fpu::default()
    }
}

fn contents(fpu: &Fpu, number: u32) -> Option<&[u8]> {
    fpu.components
        .iter()
        .find(|(n, contents)| *n == number && !contents.is_empty())
        .map(|(_, contents)| &contents[..])
}

fn write_fxsave(fpu: &Fpu, mxcsr_mask: u32, state: &mut [u8]) -> Result<(), XstateError> {
    if fpu.mxcsr & !mxcsr_mask != 0 {
        return Err(XstateError::Mxcsr { mxcsr: fpu.mxcsr, mask: mxcsr_mask });
    }
    let mut put = |offset: usize, bytes: &[u8]| state[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(fxsave::CWD, &fpu.cwd.to_le_bytes());
    put(fxsave::SWD, &fpu.swd.to_le_bytes());
    put(fxsave::TWD, &fpu.twd.to_le_bytes());
    put(fxsave::FOP, &fpu.fop.to_le_bytes());
    put(fxsave::RIP, &fpu.rip.to_le_bytes());
    put(fxsave::RDP, &fpu.rdp.to_le_bytes());
    put(fxsave::MXCSR, &fpu.mxcsr.to_le_bytes());
    // Says what MXCSR may hold, and that is this CPU's to say.
    put(fxsave::MXCSR_MASK, &mxcsr_mask.to_le_bytes());
    for (field, contents, offset, expected_bytes) in [
        ("st_space", &fpu.st_space, fxsave::ST_SPACE, fxsave::ST_SPACE_BYTES),
        ("xmm_space", &fpu.xmm_space, fxsave::XMM_SPACE, fxsave::XMM_SPACE_BYTES),
    ] {
        if contents.len() != expected_bytes {
            return Err(XstateError::Legacy { field, image_bytes: contents.len(), expected_bytes });
        }
        put(offset, contents);
    }
    Ok(())
}

fn write_component(
    component: &XsaveComponent,
    contents: &[u8],
    size_bytes: u32,
    state: &mut [u8],
) -> Result<(), XstateError> {
    let XsaveComponent { number, offset_bytes, size_bytes: cpu_bytes } = *component;
    if contents.len() != cpu_bytes as usize {
        return Err(XstateError::Size { number, image_bytes: contents.len(), cpu_bytes });
    }
    let start = offset_bytes as usize;
    let place = state.get_mut(start..start + contents.len()).filter(|_| start >= HEADER_END);
    place.ok_or(XstateError::Layout { number, size_bytes })?.copy_from_slice(contents);
    Ok(())
}

/// Name of an XSAVE component (Intel SDM volume 1, 13.1).
fn component_name(number: u32) -> &'static str {
    match number {
        0 => "x87",
        1 => "SSE",
        2 => "AVX",
        3 => "MPX bound registers",
        4 => "MPX configuration",
        5 => "AVX-512 masks",
        6 => "AVX-512 upper halves",
        7 => "AVX-512 upper registers",
        8 => "processor trace",
        9 => "protection keys",
        10 => "PASID",
        11 => "CET user state",
        12 => "CET supervisor state",
        17 => "AMX tile configuration",
        18 => "AMX tiles",
        19 => "APX registers",
        _ => "an unknown extension",
    }
}

#[cfg(test)]
#[allow(unsafe_code)] // fork and ptrace
mod tests {
    use super::*;
    use crate::host::gather_xsave_layout;

    const NT_X86_XSTATE: libc::c_int = 0x202;

    fn pattern(seed: u8, len: usize) -> Vec<u8> {
        (0..len).map(|i| seed.wrapping_add(i as u8)).collect()
    }

    /// A layout as Intel CPUs with AVX, AVX-512 and protection keys have it.
    fn layout() -> XsaveLayout {
        let component =
            |(number, offset_bytes, size_bytes)| XsaveComponent { number, offset_bytes, size_bytes };
        XsaveLayout {
            mask: 0b10_1110_0111,
            size_bytes: 2696,
            mxcsr_mask: 0xffff,
            components: [(2, 576, 256), (5, 1088, 64), (6, 1152, 512), (7, 1664, 1024), (9, 2688, 8)]
                .map(component)
                .to_vec(),
        }
    }

    fn legacy() -> Fpu {
        Fpu {
            cwd: 0x37f,
            twd: 0xff,
            mxcsr: 0x1fa0,
            // Ten bytes of each sixteen are a register.
            st_space: pattern(1, 128).chunks(16).flat_map(|st| [&st[..10], &[0; 6]].concat()).collect(),
            xmm_space: pattern(7, 256),
            ..Fpu::default()
        }
    }

    fn with(xstate_bv: u64, components: Vec<(u32, Vec<u8>)>) -> Fpu {
        Fpu { xstate_bv: Some(xstate_bv), components, ..legacy() }
    }

    fn word(state: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(state[offset..offset + 8].try_into().expect("8 bytes"))
    }

    /// The components that `fpu` becomes: those with contents other than zeros, and `xstate_bv`.
    fn check(fpu: &Fpu, expected: Result<(u64, &[u32]), XstateError>) {
        let layout = layout();
        let result = xstate(Some(fpu), &layout).map(|state| {
            assert_eq!(state.len(), layout.size_bytes as usize);
            assert_eq!(state[160..416], fpu.xmm_space);
            assert_eq!(state[416..512], [0; 96]);
            assert!(state[520..576].iter().all(|&byte| byte == 0), "xcomp_bv and reserved");
            let filled: Vec<u32> = layout
                .components
                .iter()
                .filter(|c| {
                    state[c.offset_bytes as usize..][..c.size_bytes as usize].iter().any(|&byte| byte != 0)
                })
                .map(|c| c.number)
                .collect();
            (word(&state, XSTATE_BV), filled)
        });
        assert_eq!(result.as_ref().map(|(bv, filled)| (*bv, &filled[..])), expected.as_ref().map(|e| *e));
    }

    #[test]
    fn components_are_taken_by_their_bits() {
        let avx = || (2, pattern(3, 256));
        check(&legacy(), Ok((0b11, &[])));
        check(&with(0, vec![]), Ok((0b11, &[])));
        check(&with(0b111, vec![avx()]), Ok((0b111, &[2])));
        // Space without the bit: left out, whatever its size and even if this CPU lacks it.
        check(&with(0b11, vec![avx(), (3, pattern(1, 64)), (9, pattern(1, 3))]), Ok((0b11, &[])));
        check(
            &with(
                0b10_1110_0111,
                vec![
                    avx(),
                    (5, pattern(1, 64)),
                    (6, pattern(2, 512)),
                    (7, pattern(3, 1024)),
                    (9, pattern(4, 8)),
                ],
            ),
            Ok((0b10_1110_0111, &[2, 5, 6, 7, 9])),
        );
        check(&with(0b1111, vec![avx(), (3, pattern(1, 64))]), Err(XstateError::AbsentHere { number: 3 }));
        check(&with(1 << 63, vec![]), Err(XstateError::AbsentHere { number: 63 }));
        check(&with(0b111, vec![]), Err(XstateError::AbsentInImage { number: 2 }));
        check(&with(0b111, vec![(2, vec![])]), Err(XstateError::AbsentInImage { number: 2 }));
        check(
            &with(0b111, vec![(2, pattern(1, 128))]),
            Err(XstateError::Size { number: 2, image_bytes: 128, cpu_bytes: 256 }),
        );
        let cet = |features: u8| (11, [&[features][..], &[0; 15]].concat());
        check(&with(0b11, vec![cet(0)]), Ok((0b11, &[])));
        check(&with(0b11, vec![cet(1)]), Err(XstateError::ShadowStack));
    }

    #[test]
    fn the_legacy_area_is_checked() {
        let short = Fpu { xmm_space: vec![0; 255], ..legacy() };
        let error = XstateError::Legacy { field: "xmm_space", image_bytes: 255, expected_bytes: 256 };
        assert_eq!(xstate(Some(&short), &layout()), Err(error));
        let misaligned = Fpu { mxcsr: 0x2_1f80, ..legacy() };
        let error = XstateError::Mxcsr { mxcsr: 0x2_1f80, mask: 0xffff };
        assert_eq!(xstate(Some(&misaligned), &layout()), Err(error));
    }

    #[test]
    fn errors_name_the_component() {
        let error = XstateError::AbsentHere { number: 3 }.to_string();
        assert_eq!(
            error,
            "FPU state: the thread uses MPX bound registers (component 3), which this CPU does not have"
        );
    }

    #[test]
    fn a_made_up_layout_is_an_error_and_no_panic() {
        let component = |offset_bytes| {
            let mut layout = layout();
            layout.components[0].offset_bytes = offset_bytes;
            xstate(Some(&with(0b111, vec![(2, pattern(1, 256))])), &layout).map(|_| ())
        };
        let error = Err(XstateError::Layout { number: 2, size_bytes: 2696 });
        assert_eq!(component(2696 - 256), Ok(()));
        assert_eq!(component(2697 - 256), error);
        assert_eq!(component(512), error);
        assert_eq!(component(u32::MAX), error);
    }

    #[test]
    fn no_state_is_that_of_a_new_task() {
        let state = xstate(None, &layout()).expect("fits");
        assert_eq!(word(&state, XSTATE_BV), 0b10_0000_0011);
        assert_eq!(word(&state, 2688), u64::from(NEW_TASK_PKRU));
        assert_eq!((state[0], state[1], word(&state, 24) as u32), (0x7f, 0x03, 0x1f80));
    }

    /// A child that is stopped by ptrace, and killed at the end.
    struct Tracee(libc::pid_t);

    impl Tracee {
        fn new() -> Tracee {
            // SAFETY: the child makes system calls only, and never returns from here.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // SAFETY: system calls without pointers.
                unsafe {
                    libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
                    libc::raise(libc::SIGSTOP);
                    libc::_exit(0)
                }
            }
            assert!(pid > 0, "fork");
            let tracee = Tracee(pid);
            tracee.await_stop();
            tracee
        }

        fn await_stop(&self) {
            let mut status = 0;
            // SAFETY: the status goes where the pointer says.
            let pid = unsafe { libc::waitpid(self.0, &raw mut status, 0) };
            assert!(pid == self.0 && libc::WIFSTOPPED(status), "{status:#x}");
        }

        fn regset(&self, request: libc::c_uint, state: &mut [u8]) -> Result<usize, nix::errno::Errno> {
            let mut iov = libc::iovec { iov_base: state.as_mut_ptr().cast(), iov_len: state.len() };
            // SAFETY: the vector describes `state`, which the kernel reads or fills.
            let result = unsafe { libc::ptrace(request, self.0, NT_X86_XSTATE, &raw mut iov) };
            nix::errno::Errno::result(result).map(|_| iov.iov_len)
        }

        fn get_xstate(&self) -> Vec<u8> {
            let mut state = vec![0; 1 << 16];
            let len = self.regset(libc::PTRACE_GETREGSET, &mut state).expect("GETREGSET");
            state.truncate(len);
            state
        }

        fn set_xstate(&self, state: &[u8]) -> Result<(), nix::errno::Errno> {
            self.regset(libc::PTRACE_SETREGSET, &mut state.to_vec()).map(|_| ())
        }

        /// Lets the child run for one instruction: what was set goes into the CPU and comes back.
        fn step(&self) {
            // SAFETY: no pointers.
            let result = unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, self.0, 0, 0) };
            assert_eq!(result, 0);
            self.await_stop();
        }

        fn get_regs(&self) -> libc::user_regs_struct {
            // SAFETY: all zeros are a user_regs_struct, and the kernel fills it.
            unsafe {
                let mut regs: libc::user_regs_struct = std::mem::zeroed();
                assert_eq!(libc::ptrace(libc::PTRACE_GETREGS, self.0, 0, &raw mut regs), 0);
                regs
            }
        }
    }

    impl Drop for Tracee {
        fn drop(&mut self) {
            // SAFETY: kills and reaps our own child.
            unsafe {
                libc::kill(self.0, libc::SIGKILL);
                libc::waitpid(self.0, std::ptr::null_mut(), 0);
            }
        }
    }

    /// All that this CPU has, in use.
    fn everything(layout: &XsaveLayout) -> Fpu {
        // CRIU stores these and no others; PKRU must not lock the child out of its own memory.
        let stored = |c: &&XsaveComponent| [2, 5, 6, 7].contains(&c.number);
        let mut components: Vec<(u32, Vec<u8>)> = (layout.components.iter())
            .filter(stored)
            .map(|c| (c.number, pattern(c.number as u8 * 31, c.size_bytes as usize)))
            .collect();
        if layout.mask & (1 << PKRU) != 0 {
            components.push((PKRU, vec![0x50, 0x55, 0x55, 0x55, 0, 0, 0, 0]));
        }
        with(components.iter().fold(0, |bv, (number, _)| bv | 1 << number), components)
    }

    #[test]
    fn the_kernel_takes_the_state_and_gives_it_back() {
        let Some(layout) = gather_xsave_layout() else { return };
        let tracee = Tracee::new();
        assert_eq!(
            tracee.get_xstate().len(),
            layout.size_bytes as usize,
            "the layout's length is the kernel's"
        );
        let fpu = everything(&layout);
        let state = xstate(Some(&fpu), &layout).expect("fits");
        tracee.set_xstate(&state).expect("SETREGSET");
        for run in ["set", "run"] {
            if run == "run" {
                tracee.step();
            }
            let mut back = tracee.get_xstate();
            // What the kernel fills in for software: XCR0 is its first word, as debuggers expect.
            assert_eq!(word(&back, 464), layout.mask);
            back[464..512].fill(0);
            assert_eq!(back, state, "{run}");
        }
        assert_eq!(fpu.components.len() + 2, (word(&state, XSTATE_BV).count_ones()) as usize);
    }

    #[test]
    fn a_cleared_bit_is_the_initial_state() {
        let Some(layout) = gather_xsave_layout() else { return };
        let tracee = Tracee::new();
        tracee.set_xstate(&xstate(Some(&everything(&layout)), &layout).expect("fits")).expect("SETREGSET");
        tracee.set_xstate(&xstate(Some(&legacy()), &layout).expect("fits")).expect("SETREGSET");
        tracee.step();
        let back = tracee.get_xstate();
        for component in &layout.components {
            let contents = &back[component.offset_bytes as usize..][..component.size_bytes as usize];
            assert!(contents.iter().all(|&byte| byte == 0), "component {}", component.number);
        }
    }

    #[test]
    fn a_new_task_has_the_state_of_none() {
        let Some(layout) = gather_xsave_layout() else { return };
        let tracee = Tracee::new();
        tracee.set_xstate(&xstate(None, &layout).expect("fits")).expect("SETREGSET");
        tracee.step();
        let back = tracee.get_xstate();
        assert_eq!((back[0], back[1], word(&back, 24) as u32), (0x7f, 0x03, 0x1f80));
        assert!(back[32..416].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn the_kernel_refuses_what_xstate_never_gives() {
        use nix::errno::Errno;
        let Some(layout) = gather_xsave_layout() else { return };
        let tracee = Tracee::new();
        let state = xstate(Some(&legacy()), &layout).expect("fits");
        let check = |change: &dyn Fn(&mut Vec<u8>), expected: Result<(), Errno>| {
            let mut state = state.clone();
            change(&mut state);
            assert_eq!(tracee.set_xstate(&state), expected);
        };
        check(&|_| (), Ok(()));
        check(&|state| state.resize(state.len() - 8, 0), Err(Errno::EFAULT));
        check(&|state| state.resize(state.len() + 8, 0), Ok(()));
        check(&|state| state[27] = 0x80, Err(Errno::EINVAL)); // MXCSR
        check(&|state| state[519] = 0x40, Err(Errno::EINVAL)); // xstate_bv
        check(&|state| state[527] = 0x80, Err(Errno::EINVAL)); // xcomp_bv
        check(&|state| state[528] = 1, Err(Errno::EINVAL)); // reserved
        check(&|state| state[464..512].fill(0xa5), Ok(())); // for software
    }

    #[test]
    fn the_kernel_takes_the_general_registers() {
        let regs = Regs {
            r15: 15,
            r14: 14,
            r13: 13,
            r12: 12,
            bp: 0x1000,
            bx: 2,
            r11: 11,
            r10: 10,
            r9: 9,
            r8: 8,
            // A restart would be due, were orig_rax kept: -ERESTARTSYS in read(2).
            ax: -512i64 as u64,
            orig_ax: 0,
            cx: 3,
            dx: 4,
            si: 5,
            di: 6,
            ip: 0x7000_0000_1000,
            cs: 0x33,
            flags: 0x246,
            sp: 0x7000_0000_2000,
            ss: 0x2b,
            fs_base: 0x7000_0000_3000,
            gs_base: 0x7000_0000_4000,
            ds: 0,
            es: 0,
            fs: 0,
            gs: 0,
            compat: false,
        };
        let check = |set: libc::user_regs_struct, expected: (u64, u64)| {
            let tracee = Tracee::new();
            // SAFETY: the pointer is to a user_regs_struct.
            assert_eq!(unsafe { libc::ptrace(libc::PTRACE_SETREGS, tracee.0, 0, &raw const set) }, 0);
            assert_eq!(tracee.get_regs(), set);
            // It gets no further than to the fault of an address with nothing at it.
            tracee.step();
            let stopped = tracee.get_regs();
            assert_eq!((stopped.rip, stopped.rax), expected);
        };
        let set = words(&regs);
        assert_eq!(set.orig_rax, u64::MAX);
        check(set, (regs.ip, regs.ax));
        // What would happen, were the image's orig_ax kept: the kernel restarts a call.
        check(libc::user_regs_struct { orig_rax: regs.orig_ax, ..set }, (regs.ip - 2, regs.orig_ax));
    }
}
