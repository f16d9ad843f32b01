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
}
