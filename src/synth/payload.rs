//! What a synthetic task runs: position-independent code that plays checks from a table in its own memory.
//!
//! It uses no stack, calls nothing and knows no addresses but that of its data, which is in rbx when it
//! resumes. First of all it stores the registers that it woke with, for a check to look at. A check is a
//! system call or a checksum, with the one result that is right; the first that is wrong ends the list.
//! Then it sleeps, again and again, until the status word is 0 once more: then it plays the list again.
//!
//! ```text
//! data + 0    status: 0 at it, 1 all right, 2 a check failed
//! data + 8    the address of the failed check
//! data + 16   what it found
//! data + 24   the address of the first check
//! data + 32   struct timespec of one nap
//! data + 64   rax rcx rdx rsi rdi rbp rsp r8 … r15 as they were, then xmm0 … xmm15 at 192
//! data + 512  the checks, 80 bytes each: what, number, six arguments, result, nothing
//! ```
//!
//! Example: the check {1, 39, …, 1000} is `getpid() = 1000`.
//!
//! # Sources
//! `syscall(2)`; FNV-1a for the checksum.
#![allow(unsafe_code)]

use super::{MOST_QUEUED_BYTES, PAGE};

/// Where the code is mapped.
pub const TEXT: u64 = 0x4000_0000;
/// Where the data is mapped.
pub const DATA: u64 = 0x4100_0000;
/// Where memory for results is mapped: a page for small ones, and what was queued behind it.
pub const SCRATCH: u64 = 0x4200_0000;
/// Length of that memory.
pub const SCRATCH_BYTES: u64 = PAGE + MOST_QUEUED_BYTES as u64;
/// Where a stack is mapped that nobody uses.
pub const STACK: u64 = 0x4300_0000;
/// Its length.
pub const STACK_BYTES: u64 = 4 * PAGE;

/// Where the data of a task's first thread (0) is, and of the others: a page each, with a hole between them.
pub fn data_of(thread: usize) -> u64 {
    if thread == 0 { DATA } else { 0x4400_0000 + (thread as u64 - 1) * 2 * PAGE }
}

/// Values of the status word.
pub mod status {
    /// The checks are being played, or have not begun.
    pub const AT_IT: u64 = 0;
    /// All were right.
    pub const RIGHT: u64 = 1;
    /// One was wrong.
    pub const WRONG: u64 = 2;
}

/// Offset of the checks in the data.
const CHECKS: usize = 512;
/// Bytes of a check.
const CHECK_BYTES: usize = 80;
/// Offset and length of the stored registers.
const SAVED: (usize, usize) = (64, 384);
/// Naps of a task that has nothing to do.
const NAP_NS: u64 = 20_000_000;

std::arch::global_asm!(
    ".pushsection .text.regrow_payload, \"ax\", @progbits",
    ".balign 64",
    ".hidden regrow_payload_start",
    ".globl regrow_payload_start",
    "regrow_payload_start:",
    "mov [rbx + 64], rax",
    "mov [rbx + 72], rcx",
    "mov [rbx + 80], rdx",
    "mov [rbx + 88], rsi",
    "mov [rbx + 96], rdi",
    "mov [rbx + 104], rbp",
    "mov [rbx + 112], rsp",
    "mov [rbx + 120], r8",
    "mov [rbx + 128], r9",
    "mov [rbx + 136], r10",
    "mov [rbx + 144], r11",
    "mov [rbx + 152], r12",
    "mov [rbx + 160], r13",
    "mov [rbx + 168], r14",
    "mov [rbx + 176], r15",
    "movups [rbx + 192], xmm0",
    "movups [rbx + 208], xmm1",
    "movups [rbx + 224], xmm2",
    "movups [rbx + 240], xmm3",
    "movups [rbx + 256], xmm4",
    "movups [rbx + 272], xmm5",
    "movups [rbx + 288], xmm6",
    "movups [rbx + 304], xmm7",
    "movups [rbx + 320], xmm8",
    "movups [rbx + 336], xmm9",
    "movups [rbx + 352], xmm10",
    "movups [rbx + 368], xmm11",
    "movups [rbx + 384], xmm12",
    "movups [rbx + 400], xmm13",
    "movups [rbx + 416], xmm14",
    "movups [rbx + 432], xmm15",
    "20:", // The list.
    "mov r12, [rbx + 24]",
    "21:", // A check.
    "mov rax, [r12]",
    "cmp rax, 1",
    "je 30f",
    "cmp rax, 2",
    "je 40f",
    "mov qword ptr [rbx], 1",
    "jmp 60f",
    "30:", // A system call.
    "mov rax, [r12 + 8]",
    "mov rdi, [r12 + 16]",
    "mov rsi, [r12 + 24]",
    "mov rdx, [r12 + 32]",
    "mov r10, [r12 + 40]",
    "mov r8, [r12 + 48]",
    "mov r9, [r12 + 56]",
    "syscall",
    "jmp 50f",
    "40:", // A checksum of rcx bytes at rsi.
    "mov rsi, [r12 + 16]",
    "mov rcx, [r12 + 24]",
    "mov rax, [r12 + 32]",
    "mov r8, [r12 + 40]",
    "41:",
    "movzx edx, byte ptr [rsi]",
    "xor rax, rdx",
    "imul rax, r8",
    "inc rsi",
    "dec rcx",
    "jnz 41b",
    "50:", // What was found is in rax.
    "cmp rax, [r12 + 64]",
    "jne 51f",
    "add r12, 80",
    "jmp 21b",
    "51:",
    "mov [rbx + 8], r12",
    "mov [rbx + 16], rax",
    "mov qword ptr [rbx], 2",
    "60:",         // A nap.
    "mov eax, 35", // nanosleep
    "lea rdi, [rbx + 32]",
    "xor esi, esi",
    "syscall",
    "cmp qword ptr [rbx], 0",
    "je 20b",
    "jmp 60b",
    ".hidden regrow_payload_end",
    ".globl regrow_payload_end",
    "regrow_payload_end:",
    ".popsection",
);

unsafe extern "C" {
    static regrow_payload_start: u8;
    static regrow_payload_end: u8;
}

/// The code, which runs at any address.
pub fn code() -> &'static [u8] {
    let start = &raw const regrow_payload_start;
    let end = &raw const regrow_payload_end;
    // SAFETY: both symbols are defined by the assembly above, in one section and in this order, and
    // what lies between them is read-only for the life of the program.
    unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// The registers that a task wakes with, and must find in itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registers {
    /// rax, rcx, rdx, rsi, rdi, rbp, rsp, r8 to r15.
    pub general: [u64; 15],
    /// xmm0 to xmm15.
    pub xmm: [u8; 256],
}

impl Registers {
    /// As the payload stores them.
    fn stored(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.general.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.resize(128, 0);
        bytes.extend_from_slice(&self.xmm);
        bytes
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What it is about, for a message.
    pub what: String,
    /// What is done.
    pub deed: Deed,
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// A system call that must return this.
    Call {
        /// Its number.
        number: i64,
        /// Its arguments.
        args: [u64; 6],
        /// The result, negative for an errno.
        result: i64,
    },
    /// Bytes that must be these.
    Bytes {
        /// Where.
        address: u64,
        /// What.
        bytes: Vec<u8>,
    },
}

/// That the registers were as the task was to wake with them.
pub fn check_registers(data: u64, registers: &Registers) -> Check {
    let bytes = registers.stored();
    debug_assert_eq!(bytes.len(), SAVED.1);
    Check { what: "registers".to_owned(), deed: Deed::Bytes { address: data + SAVED.0 as u64, bytes } }
}

/// The data at `address` of a thread that is to play `checks`.
pub fn data(address: u64, checks: &[Check]) -> Vec<u8> {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x100_0000_01b3;
    let mut words = [0u64; CHECKS / 8];
    words[3] = address + CHECKS as u64;
    words[5] = NAP_NS;
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    for check in checks {
        let record: [u64; CHECK_BYTES / 8] = match &check.deed {
            Deed::Call { number, args: [a, b, c, d, e, f], result } => {
                [1, *number as u64, *a, *b, *c, *d, *e, *f, *result as u64, 0]
            }
            Deed::Bytes { address, bytes } => {
                let sum = bytes.iter().fold(BASIS, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(PRIME));
                [2, 0, *address, bytes.len() as u64, BASIS, PRIME, 0, 0, sum, 0]
            }
        };
        bytes.extend(record.iter().flat_map(|word| word.to_le_bytes()));
    }
    // The end of the list.
    bytes.extend([0; CHECK_BYTES]);
    bytes
}

/// What a task says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It is still at it.
    Nothing,
    /// All checks were right.
    Right,
    /// One was wrong: its number and what was found.
    Wrong {
        /// From 0.
        check: usize,
        /// The result of the call, or the checksum.
        found: i64,
    },
}

/// Reads the first three words of the data at an address.
pub fn said(data: u64, words: [u64; 3]) -> Said {
    match words[0] {
        status::AT_IT => Said::Nothing,
        status::RIGHT => Said::Right,
        _ => Said::Wrong {
            check: words[1].saturating_sub(data + CHECKS as u64) as usize / CHECK_BYTES,
            found: words[2] as i64,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fits_into_a_page_and_names_no_address() {
        let code = code();
        assert!(code.len() <= 512, "{} bytes", code.len());
        assert!(!code.windows(2).any(|w| w[0] == 0x48 && (0xb8..=0xbf).contains(&w[1])), "movabs");
        let here = code.as_ptr().addr();
        for word in code.windows(8) {
            let value = usize::from_ne_bytes(std::array::from_fn(|i| word[i]));
            assert!(value.abs_diff(here) > 1 << 20, "an absolute address in the payload");
        }
    }

    #[test]
    fn the_table_is_laid_out_as_the_code_reads_it() {
        let call = Deed::Call { number: 39, args: [1, 2, 3, 4, 5, 6], result: -9 };
        let bytes = data(DATA, &[Check { what: String::new(), deed: call }]);
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        assert_eq!(word(24), DATA + 512);
        let record: Vec<u64> = (0..10).map(|i| word(512 + i * 8)).collect();
        assert_eq!(record, [1, 39, 1, 2, 3, 4, 5, 6, (-9i64) as u64, 0]);
        assert_eq!(word(592), 0);
        assert_eq!(said(DATA, [status::WRONG, DATA + 512 + 80, 7]), Said::Wrong { check: 1, found: 7 });
    }
}
