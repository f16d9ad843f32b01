//! The runner for x86-64.
//!
//! # Sources
//! `syscall(2)` for the calling convention (number in rax, arguments in rdi, rsi, rdx, r10, r8,
//! r9; rcx and r11 are lost), `clone(2)` for clone3, `futex(2)`.

use std::mem::offset_of;

use crate::tape::abi::{Control, FUTEX_OWNER_DIED, Verb, wake};

// rbx: the record; r13: the control block; r12: where to go on after a wait, or the tape of a child. The offsets in records are
// those of `abi::Record`, which asserts them. The two runners differ in what they do when a record starts and
// when it ends: the one that is not traced does nothing.
macro_rules! runner {
    (
        $name:literal,
        start: [$($start:tt)*],
        end: [$($end:tt)*],
        arrived: [$($arrived:tt)*]
        $(, $constant:ident = $value:expr)*
    ) => {
        std::arch::global_asm!(
            ".pushsection .text.regrow_runner, \"ax\", @progbits",
            ".balign 64",
            concat!(".hidden ", $name, "_start"),
            concat!(".globl ", $name, "_start"),
            concat!($name, "_start:"),
            "19:", // dispatch
            $($start)*
            "movzx eax, byte ptr [rbx]",
            "test eax, eax",
            "jz 20f",
            "cmp eax, 1",
            "je 30f",
            "cmp eax, 2",
            "je 40f",
            "cmp eax, 3",
            "je 50f",
            "cmp eax, 4",
            "je 60f",
            "cmp eax, 5",
            "je 70f",
            "cmp eax, 6",
            "je 21f",
            "mov rax, [rbx + 56]", // No such verb: a failure that was put there.
            "jmp 90f",
            // A system call, the first argument of which is in a word.
            "21:",
            "mov rdi, [rbx + 8]",
            "mov rdi, [rdi]",
            "jmp 22f",
            // A system call.
            "20:",
            "mov rdi, [rbx + 8]",
            "22:",
            "movzx eax, word ptr [rbx + 2]",
            "mov rsi, [rbx + 16]",
            "mov rdx, [rbx + 24]",
            "mov r10, [rbx + 32]",
            "mov r8, [rbx + 40]",
            "mov r9, [rbx + 48]",
            "syscall",
            "movzx ecx, byte ptr [rbx + 1]",
            "cmp ecx, 1",
            "ja 25f",
            "je 24f",
            "cmp rax, [rbx + 56]",
            "jne 90f",
            "25:",
            $($end)*
            "add rbx, 64",
            "jmp 19b",
            "24:",
            "cmp rax, -4096",
            "ja 90f",
            "jmp 25b",
            // Fork.
            "30:",
            "cmp dword ptr [r13 + {abort}], 0",
            "jne 80f",
            "mov eax, 435", // clone3
            "mov rdi, [rbx + 8]",
            "mov rsi, [rbx + 16]",
            "mov r12, [rbx + 24]",
            "syscall",
            "test rax, rax",
            "jz 31f",
            "cmp rax, [rbx + 56]",
            "jne 90f",
            "jmp 25b",
            // The record is its parent's: to read it here would be one more page fault.
            "31:",
            "mov rbx, r12",
            "cmp dword ptr [r13 + {abort}], 0",
            "jne 81f",
            "jmp 19b",
            // Post an event.
            "40:",
            "mov rdi, [rbx + 8]",
            "lock inc dword ptr [rdi]",
            "mov eax, 202", // futex
            "mov esi, 1",   // FUTEX_WAKE
            "mov edx, 0x7fffffff",
            "syscall",
            "jmp 25b",
            // Wait for an event.
            "50:",
            "mov rdi, [rbx + 8]",
            "cmp dword ptr [rdi], 0",
            "jne 25b",
            "lea r12, [rip + 50b]",
            "jmp 85f",
            // Arrive at the barrier.
            "60:",
            "mov eax, 1",
            "lock xadd [r13 + {arrived}], eax",
            "inc eax",
            "cmp eax, [r13 + {total}]",
            "jne 61f",
            "lock or dword ptr [r13 + {wake}], {ARRIVED}",
            "lea rdi, [r13 + {wake}]",
            "mov eax, 202",
            "mov esi, 1",
            "mov edx, 0x7fffffff",
            "syscall",
            "61:",
            $($arrived)*
            "cmp dword ptr [r13 + {release}], 0",
            "jne 25b",
            "lea rdi, [r13 + {release}]",
            "lea r12, [rip + 61b]",
            "jmp 85f",
            // Park.
            "70:",
            "mov eax, 1",
            "lock xadd [r13 + {parked}], eax",
            "inc eax",
            "cmp eax, [r13 + {total}]",
            "jne 71f",
            "lock or dword ptr [r13 + {wake}], {PARKED}",
            "lea rdi, [r13 + {wake}]",
            "mov eax, 202",
            "mov esi, 1",
            "mov edx, 0x7fffffff",
            "syscall",
            "71:",
            "cmp dword ptr [r13 + {leave}], 0",
            "jne 72f",
            "lea rdi, [r13 + {leave}]",
            "lea r12, [rip + 71b]",
            "jmp 85f",
            // Leave: nothing but SIGSEGV is let through, and the instruction behind munmap is gone.
            "72:",
            "mov eax, 14", // rt_sigprocmask
            "mov edi, 2",  // SIG_SETMASK
            "lea rsi, [r13 + {leaving_mask}]",
            "xor edx, edx",
            "mov r10d, 8",
            "syscall",
            "mov eax, 11", // munmap
            "mov rdi, r13",
            "mov rsi, [r13 + {window_len}]",
            "jmp 99f",
            // Wait for ever.
            "80:",
            "lea rdi, [r13 + {never}]",
            "lea r12, [rip + 80b]",
            // Wait for the word at rdi, which is 0, and go on at r12.
            "85:",
            "mov eax, 202",
            "xor esi, esi", // FUTEX_WAIT
            "xor edx, edx",
            "lea r10, [r13 + {patience}]",
            "syscall",
            "cmp eax, -110", // ETIMEDOUT
            "jne 86f",
            // As long as one of them lives, it lets us go on or kills us.
            "test dword ptr [r13 + {launcher}], {DIED}",
            "jz 86f",
            "test dword ptr [r13 + {coordinator}], {DIED}",
            "jnz 81f",
            "86:",
            "jmp r12",
            // Born after an abort, or alone: die.
            "81:",
            "mov edi, 1",
            "mov eax, 231", // exit_group
            "syscall",
            "jmp 81b",
            // A failure: the first one is kept. rax is the result.
            "90:",
            "mov r8, rax",
            $($end)*
            "xor eax, eax",
            "mov ecx, 1",
            "lock cmpxchg [r13 + {failed}], ecx",
            "jne 80b",
            "mov [r13 + {failed_record}], rbx",
            "mov [r13 + {failed_result}], r8",
            "mov eax, 39", // getpid
            "syscall",
            "mov [r13 + {failed_pid}], rax",
            "lock or dword ptr [r13 + {wake}], {FAILED}",
            "lea rdi, [r13 + {wake}]",
            "mov eax, 202",
            "mov esi, 1",
            "mov edx, 0x7fffffff",
            "syscall",
            "jmp 80b",
            // A lone system call: who leaves ends with it, and the commit borrows it. Whoever comes back from
            // munmap has failed.
            ".balign 16",
            concat!(".hidden ", $name, "_syscall"),
            concat!(".globl ", $name, "_syscall"),
            concat!($name, "_syscall:"),
            "99:",
            "syscall",
            "ud2",
            concat!(".hidden ", $name, "_end"),
            concat!(".globl ", $name, "_end"),
            concat!($name, "_end:"),
            ".popsection",
            arrived = const offset_of!(Control, arrived),
            total = const offset_of!(Control, total),
            release = const offset_of!(Control, release),
            abort = const offset_of!(Control, abort),
            failed = const offset_of!(Control, failed),
            parked = const offset_of!(Control, parked),
            wake = const offset_of!(Control, wake),
            never = const offset_of!(Control, never),
            leave = const offset_of!(Control, leave),
            window_len = const offset_of!(Control, window_len),
            leaving_mask = const offset_of!(Control, leaving_mask),
            failed_record = const offset_of!(Control, failed_record),
            failed_result = const offset_of!(Control, failed_result),
            failed_pid = const offset_of!(Control, failed_pid),
            launcher = const offset_of!(Control, launcher),
            coordinator = const offset_of!(Control, coordinator),
            patience = const offset_of!(Control, patience),
            DIED = const FUTEX_OWNER_DIED,
            ARRIVED = const wake::ARRIVED,
            FAILED = const wake::FAILED,
            PARKED = const wake::PARKED,
            $($constant = const $value,)*
        );
    };
}

// Who has no tail has nothing to be released for: it parks at once. (A traced one waits all the same, so that its
// lane shows the barrier.)
runner!("regrow_runner", start: [], end: [], arrived: ["cmp byte ptr [rbx + 64], {PARK}", "je 25b",], PARK = Verb::Park as u8);

// The slot of a record is found from its address (`tape::trace`). One whose second word is not 0 is left
// alone: it is behind something that makes `rdtsc` fail. rdtsc(Intel SDM, volume 2) gives edx:eax.
runner!(
    "regrow_traced_runner",
    start: [
        "mov rcx, rbx",
        "shr rcx, 2",
        "add rcx, [r13 + {trace}]",
        "cmp qword ptr [rcx + 8], 0",
        "jne 18f",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov [rcx], rax",
        "18:",
    ],
    end: [
        "mov rcx, rbx",
        "shr rcx, 2",
        "add rcx, [r13 + {trace}]",
        "cmp qword ptr [rcx + 8], 0",
        "jne 17f",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov [rcx + 8], rax",
        "17:",
    ],
    arrived: [],
    trace = offset_of!(Control, trace)
);

unsafe extern "C" {
    static regrow_runner_start: u8;
    static regrow_runner_syscall: u8;
    static regrow_runner_end: u8;
    static regrow_traced_runner_start: u8;
    static regrow_traced_runner_end: u8;
}

/// The runner's code, to be copied to a 64-byte aligned address.
pub fn code() -> &'static [u8] {
    let start = &raw const regrow_runner_start;
    let end = &raw const regrow_runner_end;
    // SAFETY: both symbols are defined by the assembly above, in one section and in this order, and
    // what lies between them is read-only for the life of the program.
    unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// The code of the runner that notes when each record started and ended, to be copied to a 64-byte aligned
/// address.
pub fn traced_code() -> &'static [u8] {
    let start = &raw const regrow_traced_runner_start;
    let end = &raw const regrow_traced_runner_end;
    // SAFETY: as in `code`.
    unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// Offset in [`code`] of a `syscall` instruction that the commit may point a stopped task at.
pub fn syscall_offset() -> u64 {
    ((&raw const regrow_runner_syscall).addr() - (&raw const regrow_runner_start).addr()) as u64
}

/// `clone3` whose child plays the tape at `tape`; returns what the kernel returned to the parent.
///
/// # Safety
/// `clone_args` (of `size` bytes) must describe a clone without `CLONE_VM`, and the region must be
/// mapped so that `code` is the runner, `control` the control block and `tape` a record: nothing of
/// this program runs in the child.
pub unsafe fn enter(clone_args: u64, size: u64, tape: u64, control: u64, code: u64) -> i64 {
    let result: i64;
    // SAFETY: the caller vouches for the addresses. The child leaves for `code` without touching
    // the stack; the parent goes on behind the assembly with only the declared registers changed.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov rbx, r8",
            "mov r13, r9",
            "xor esp, esp",
            "xor ebp, ebp",
            "jmp r10",
            "2:",
            in("r8") tape,
            in("r9") control,
            in("r10") code,
            inlateout("rax") 435_i64 => result,
            in("rdi") clone_args,
            in("rsi") size,
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The runner must stay what its name says: a few hundred bytes without relocations. Absolute
    /// addresses in code need either a relocation or a 64-bit immediate (`movabs`).
    #[test]
    fn small_and_position_independent() {
        check(code(), 640);
        // The other end of the budget: without tracing there is none of it.
        assert!(!code().windows(2).any(|w| w == RDTSC));
        assert_eq!(&code()[syscall_offset() as usize..][..2], &[0x0f, 0x05]);
        check(traced_code(), 768);
        assert_eq!(traced_code().windows(2).filter(|w| *w == RDTSC).count(), 3);
    }

    const RDTSC: [u8; 2] = [0x0f, 0x31];

    fn check(code: &[u8], most: usize) {
        assert!(code.len() <= most, "{} bytes", code.len());
        assert!(!code.windows(2).any(|w| w[0] == 0x48 && (0xb8..=0xbf).contains(&w[1])), "movabs");
        // Copied elsewhere it must not refer to where it was: no 8-byte word is an address of ours.
        let here = code.as_ptr().addr();
        for word in code.windows(8) {
            let value = usize::from_ne_bytes(std::array::from_fn(|i| word[i]));
            assert!(value.abs_diff(here) > 1 << 20, "an absolute address in the runner");
        }
    }
}
