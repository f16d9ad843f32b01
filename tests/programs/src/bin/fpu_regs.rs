//! Registers: `fpu_regs DIR`. Children hold known values in every register that they have, one spinning
//! in user mode, one sleeping in a system call, and look at them when a signal ends that.
//!
//! General, flags (direction flag aside), SSE, AVX and AVX-512 registers with their masks as far as the
//! processor has them, the x87 stack and control word, and MXCSR.

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    let mut task = regrow_test_programs::Task::root();
    task.park();
    task.finish();
}

#[cfg(target_arch = "x86_64")]
fn main() {
    x86_64::main();
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::{asm, is_x86_feature_detected};
    use std::sync::atomic::{AtomicU64, Ordering};

    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
    use regrow_test_programs::{Task, pattern};

    pub(crate) fn main() {
        let mut task = Task::root();
        let mut children = Vec::new();
        for (number, wait) in [Wait::Spin, Wait::Sleep].into_iter().enumerate() {
            for width in widths() {
                let seed = (number * 10 + width as usize) as u64;
                children.push(
                    task.spawn(&format!("{wait:?}.{width:?}"), move |task| hold(task, wait, width, seed)),
                );
            }
        }
        // The children have declared themselves ready just before they loaded their registers.
        task.park();
        for child in children {
            let sent = kill(child, Signal::SIGUSR1);
            task.check_eq("signal", sent, Ok(()));
        }
        task.finish();
    }

    #[derive(Clone, Copy, Debug)]
    enum Wait {
        Spin,
        Sleep,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Width {
        Sse,
        Avx,
        Avx512,
    }

    fn widths() -> Vec<Width> {
        let mut found = vec![Width::Sse];
        if is_x86_feature_detected!("avx2") {
            found.push(Width::Avx);
        }
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
            found.push(Width::Avx512);
        }
        found
    }

    /// Not zero when the signal has come. The spinning code reads it, and the sleeping one after it woke.
    static ENDED: AtomicU64 = AtomicU64::new(0);

    extern "C" fn end(_: libc::c_int) {
        ENDED.store(1, Ordering::Relaxed);
    }

    /// What goes into the registers, and, in a second one, what was found in them.
    #[repr(C, align(64))]
    #[derive(Clone, PartialEq)]
    struct State {
        vectors: [[u8; 64]; 32],
        /// rbx, rdx, rsi, rdi, r8 to r10 and r12 to r15: those that a system call keeps.
        general: [u64; 11],
        masks: [u64; 8],
        x87: [f64; 8],
        mxcsr: u32,
        control: u16,
        x87_status: u16,
    }

    impl State {
        fn empty() -> Box<State> {
            Box::new(State {
                vectors: [[0; 64]; 32],
                general: [0; 11],
                masks: [0; 8],
                x87: [0.0; 8],
                mxcsr: 0,
                control: 0,
                x87_status: 0,
            })
        }

        fn from_seed(seed: u64, width: Width) -> Box<State> {
            let mut state = State::empty();
            let (count, bytes) = match width {
                Width::Sse => (16, 16),
                Width::Avx => (16, 32),
                Width::Avx512 => (32, 64),
            };
            for (number, vector) in state.vectors[..count].iter_mut().enumerate() {
                vector[..bytes].copy_from_slice(&pattern(seed * 100 + number as u64, bytes));
            }
            for (number, value) in state.general.iter_mut().enumerate() {
                *value = (seed + 1).wrapping_mul(0x0101_0203_0507_0b0d).wrapping_mul(number as u64 + 3);
            }
            if width == Width::Avx512 {
                for (number, mask) in state.masks.iter_mut().enumerate() {
                    *mask = (seed + 1).wrapping_mul(0x1020_3040_5060_7080).wrapping_add(number as u64);
                }
            }
            for (number, value) in state.x87.iter_mut().enumerate() {
                *value = seed as f64 + number as f64 / 3.0;
            }
            // Rounds to zero, flushes to zero, masks all exceptions; the x87 rounds up with full precision.
            state.mxcsr = 0xff80;
            state.control = 0x0b7f;
            state
        }
    }

    /// Reads or writes all vector registers, `$move` from or to offset 64 · n of rax.
    macro_rules! vectors {
        (load $move:literal $register:literal [$($number:literal)*]) => {
            concat!($($move, " ", $register, $number, ", [rax + 64 * ", $number, "]\n"),*)
        };
        (store $move:literal $register:literal [$($number:literal)*]) => {
            concat!($($move, " [rax + 64 * ", $number, "], ", $register, $number, "\n"),*)
        };
    }

    /// Likewise for the mask registers, at their place in a [`State`].
    macro_rules! masks {
        (load [$($number:literal)*]) => {
            concat!($("kmovq k", $number, ", [rax + 2136 + 8 * ", $number, "]\n"),*)
        };
        (store [$($number:literal)*]) => {
            concat!($("kmovq [rax + 2136 + 8 * ", $number, "], k", $number, "\n"),*)
        };
    }
    const _: () =
        assert!(std::mem::offset_of!(State, masks) == 2136 && std::mem::offset_of!(State, vectors) == 0);

    /// Loads everything, waits, stores everything. rbp holds a small frame on the stack: the addresses of
    /// the states and of the flag, and the callers' values.
    macro_rules! run {
        ($wait:literal, $load:expr, $store:expr, $input:expr, $output:expr) => {
            asm!(
                "push rbp",
                "push rbx",
                // Below the red zone, which the compiler may use.
                "lea rsp, [rsp - 256]",
                "push rcx", // the flag
                "push rdi", // the output
                "push rsi", // the input
                "mov rbp, rsp",
                "mov rax, rsi",
                $load,
                "ldmxcsr [rax + {mxcsr}]",
                "fninit",
                "fldcw [rax + {control}]",
                "fld qword ptr [rax + {x87} + 0]",
                "fld qword ptr [rax + {x87} + 8]",
                "fld qword ptr [rax + {x87} + 16]",
                "fld qword ptr [rax + {x87} + 24]",
                "fld qword ptr [rax + {x87} + 32]",
                "fld qword ptr [rax + {x87} + 40]",
                "fld qword ptr [rax + {x87} + 48]",
                "mov rbx, [rax + {general} + 0]",
                "mov rdx, [rax + {general} + 8]",
                "mov rsi, [rax + {general} + 16]",
                "mov rdi, [rax + {general} + 24]",
                "mov r8, [rax + {general} + 32]",
                "mov r9, [rax + {general} + 40]",
                "mov r10, [rax + {general} + 48]",
                "mov r12, [rax + {general} + 56]",
                "mov r13, [rax + {general} + 64]",
                "mov r14, [rax + {general} + 72]",
                "mov r15, [rax + {general} + 80]",
                "2:",
                $wait,
                "mov rax, [rbp + 16]",
                "cmp qword ptr [rax], 0",
                "je 2b",
                "mov rax, [rbp + 8]",
                "mov [rax + {general} + 0], rbx",
                "mov [rax + {general} + 8], rdx",
                "mov [rax + {general} + 16], rsi",
                "mov [rax + {general} + 24], rdi",
                "mov [rax + {general} + 32], r8",
                "mov [rax + {general} + 40], r9",
                "mov [rax + {general} + 48], r10",
                "mov [rax + {general} + 56], r12",
                "mov [rax + {general} + 64], r13",
                "mov [rax + {general} + 72], r14",
                "mov [rax + {general} + 80], r15",
                $store,
                "stmxcsr [rax + {mxcsr}]",
                "fnstcw [rax + {control}]",
                "fnstsw [rax + {status}]",
                "fstp qword ptr [rax + {x87} + 48]",
                "fstp qword ptr [rax + {x87} + 40]",
                "fstp qword ptr [rax + {x87} + 32]",
                "fstp qword ptr [rax + {x87} + 24]",
                "fstp qword ptr [rax + {x87} + 16]",
                "fstp qword ptr [rax + {x87} + 8]",
                "fstp qword ptr [rax + {x87} + 0]",
                "fninit",
                "mov rax, [rbp]",
                "ldmxcsr [rax + {plain_mxcsr}]",
                "lea rsp, [rbp + 24 + 256]",
                "pop rbx",
                "pop rbp",
                general = const std::mem::offset_of!(State, general),
                mxcsr = const std::mem::offset_of!(State, mxcsr),
                control = const std::mem::offset_of!(State, control),
                status = const std::mem::offset_of!(State, x87_status),
                x87 = const std::mem::offset_of!(State, x87),
                plain_mxcsr = const size_of::<State>(),
                inout("rsi") $input => _,
                inout("rdi") $output => _,
                inout("rcx") ENDED.as_ptr() => _,
                out("rax") _, out("rdx") _,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                out("r12") _, out("r13") _, out("r14") _, out("r15") _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            )
        };
    }

    /// An input with what MXCSR is to be afterwards.
    #[repr(C)]
    struct Input {
        state: State,
        plain_mxcsr: u32,
    }

    fn hold(task: &mut Task, wait: Wait, width: Width, seed: u64) {
        let action = SigAction::new(SigHandler::Handler(end), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler only stores to an atomic.
        unsafe { sigaction(Signal::SIGUSR1, &action).expect("sigaction") };
        let input = Box::new(Input { state: *State::from_seed(seed, width), plain_mxcsr: 0x1f80 });
        let mut output = State::empty();
        let parked = task.get_ready();
        let (from, to): (*const Input, *mut State) = (&raw const *input, &raw mut *output);
        // SAFETY: the code reads the input, writes the output, restores what it does not declare as
        // written, and uses only registers that `widths` has found.
        unsafe { hold_in(wait, width, from, to) };
        task.check_identity(parked);
        let wanted = &input.state;
        task.check("vector registers", output.vectors == wanted.vectors);
        task.check_eq("general registers", output.general, wanted.general);
        task.check_eq("mask registers", output.masks, wanted.masks);
        task.check_eq("MXCSR", output.mxcsr, wanted.mxcsr);
        task.check_eq("x87 control word", output.control, wanted.control);
        // Seven values are on the stack.
        task.check_eq("x87 stack top", output.x87_status >> 11 & 7, 1);
        task.check_eq("x87 stack", &output.x87[..7], &wanted.x87[..7]);
    }

    macro_rules! waits {
        ($wait:expr, $load:expr, $store:expr, $input:expr, $output:expr) => {
            match $wait {
                Wait::Spin => run!("pause", $load, $store, $input, $output),
                // pause(2), which changes rax, rcx and r11. A signal between the look and the call would be
                // missed; the harness sends it long after.
                Wait::Sleep => run!("mov eax, 34\nsyscall", $load, $store, $input, $output),
            }
        };
    }

    /// # Safety
    ///
    /// The pointers are to live values, and the processor has the registers of that width.
    unsafe fn hold_in(wait: Wait, width: Width, from: *const Input, to: *mut State) {
        // SAFETY: as the caller promises.
        unsafe {
            match width {
                Width::Sse => waits!(
                    wait,
                    vectors!(load "movaps" "xmm" [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]),
                    vectors!(store "movaps" "xmm" [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]),
                    from,
                    to
                ),
                Width::Avx => waits!(
                    wait,
                    vectors!(load "vmovaps" "ymm" [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]),
                    concat!(
                        vectors!(store "vmovaps" "ymm" [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]),
                        "vzeroupper\n"
                    ),
                    from,
                    to
                ),
                Width::Avx512 => waits!(
                    wait,
                    concat!(
                        vectors!(load "vmovaps" "zmm" [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23
                                                       24 25 26 27 28 29 30 31]),
                        masks!(load [0 1 2 3 4 5 6 7])
                    ),
                    concat!(
                        vectors!(store "vmovaps" "zmm" [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23
                                                        24 25 26 27 28 29 30 31]),
                        masks!(store [0 1 2 3 4 5 6 7]),
                        "vzeroupper\n"
                    ),
                    from,
                    to
                ),
            }
        }
    }
}
