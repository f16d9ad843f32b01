//! What is on no tape: the state that ptrace gives a thread once its tape has ended.

/// What a thread goes on with. The threads of a task stand together, its leader first.
#[derive(Debug, Clone)]
pub struct ThreadState {
    /// The thread.
    pub tid: u32,
    /// Whether it is its task's first: the one that unmaps the window for all of them.
    pub is_leader: bool,
    /// General registers.
    pub registers: libc::user_regs_struct,
    /// Extended state, as `NT_X86_XSTATE` wants it; empty: as it is.
    pub xstate: Vec<u8>,
    /// Blocked signals.
    pub blocked: u64,
    /// Of a leader: the signal that had stopped its task, and that is to stop it again.
    pub stop_signal: Option<i32>,
    /// Of a leader: whether a child of it is to stop, which must leave no SIGCHLD behind.
    pub eats_sigchld: bool,
    /// Of a leader: whether its task unmaps the window by itself, and is caught by the fault that follows
    /// (docs/decisions/0027). If not, it is stopped before and made to.
    pub leaves: bool,
}

/// Number of general registers.
pub const REGISTERS: usize = 27;

/// General registers as words, in the order of `struct user_regs_struct` (sys/user.h).
pub fn to_words(registers: &libc::user_regs_struct) -> [u64; REGISTERS] {
    let is = registers;
    [
        is.r15,
        is.r14,
        is.r13,
        is.r12,
        is.rbp,
        is.rbx,
        is.r11,
        is.r10,
        is.r9,
        is.r8,
        is.rax,
        is.rcx,
        is.rdx,
        is.rsi,
        is.rdi,
        is.orig_rax,
        is.rip,
        is.cs,
        is.eflags,
        is.rsp,
        is.ss,
        is.fs_base,
        is.gs_base,
        is.ds,
        is.es,
        is.fs,
        is.gs,
    ]
}

/// The other way round.
pub fn from_words(words: [u64; REGISTERS]) -> libc::user_regs_struct {
    let [
        r15,
        r14,
        r13,
        r12,
        rbp,
        rbx,
        r11,
        r10,
        r9,
        r8,
        rax,
        rcx,
        rdx,
        rsi,
        rdi,
        orig_rax,
        rip,
        cs,
        eflags,
        rsp,
        ss,
        fs_base,
        gs_base,
        ds,
        es,
        fs,
        gs,
    ] = words;
    libc::user_regs_struct {
        r15,
        r14,
        r13,
        r12,
        rbp,
        rbx,
        r11,
        r10,
        r9,
        r8,
        rax,
        rcx,
        rdx,
        rsi,
        rdi,
        orig_rax,
        rip,
        cs,
        eflags,
        rsp,
        ss,
        fs_base,
        gs_base,
        ds,
        es,
        fs,
        gs,
    }
}
