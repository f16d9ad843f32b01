//! What the commit sets by ptrace against the images: which threads, their registers and masks, which
//! tasks stop again. The extended state (FPU, vectors) is not compared: the restored trees are.

use std::collections::BTreeSet;

use regrow_graph::verify::{Counterexample, Wrong};
use serde::{Deserialize, Serialize};

use crate::image::{Model, Regs, TaskState};
use crate::tape::ThreadState;
use crate::tape::thread::to_words;

/// What the commit must set in a thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedThread {
    /// Its task.
    pub task: u32,
    /// The thread.
    pub tid: u32,
    /// Whether it is its task's first.
    pub is_leader: bool,
    /// Blocked signals.
    pub blocked: u64,
    /// General registers, in the order of `struct user_regs_struct`.
    pub registers: [u64; 27],
    /// Of a leader: the signal that stops its task again.
    pub stop_signal: Option<i32>,
    /// Of a leader: whether a SIGCHLD of a child that stops is taken back.
    pub eats_sigchld: bool,
}

/// What the images say of each thread, in the order of the tasks.
pub(super) fn expected(model: &Model) -> Vec<ExpectedThread> {
    let parents_of_stopped: BTreeSet<_> = model
        .tasks
        .iter()
        .filter(|task| matches!(task.state, TaskState::Stopped(_)))
        .map(|task| task.ppid)
        .collect();
    let mut all = Vec::new();
    for task in &model.tasks {
        let Some(alive) = task.alive() else { continue };
        let has_sigchld =
            alive.pending_shared.iter().any(|info| info.first() == Some(&(libc::SIGCHLD as u8)));
        for thread in &alive.threads {
            let is_leader = thread.tid == task.pid;
            let is_stopped = matches!(task.state, TaskState::Stopped(_)) && is_leader;
            all.push(ExpectedThread {
                task: task.pid.0,
                tid: thread.tid.0,
                is_leader,
                blocked: thread.blocked,
                registers: of_images(&thread.regs),
                stop_signal: is_stopped
                    .then(|| alive.stop_signo.map_or(libc::SIGSTOP, |signal| signal as i32)),
                eats_sigchld: is_leader && parents_of_stopped.contains(&task.pid) && !has_sigchld,
            });
        }
    }
    all
}

/// # Errors
/// The first thread that would not go on as the images say.
pub(super) fn check(wanted: &[ExpectedThread], states: &[ThreadState]) -> Result<(), Counterexample> {
    let mut states = states.iter();
    for thread in wanted {
        let wrong = |what: &'static str, is: String, wanted: String| Counterexample {
            task: thread.task,
            record: None,
            wrong: Wrong::CommitSets { tid: thread.tid, what, is, wanted },
        };
        let Some(state) = states.next().filter(|state| state.tid == thread.tid) else {
            let none = "nothing".to_owned();
            return Err(wrong("registers", none, "that it goes on".to_owned()));
        };
        if state.is_leader != thread.is_leader {
            let [is, wanted] = [state.is_leader, thread.is_leader].map(|is_leader| is_leader.to_string());
            return Err(wrong("place in its task", is, wanted));
        }
        if state.blocked != thread.blocked {
            let [is, wanted] = [state.blocked, thread.blocked].map(|mask| format!("{mask:#x}"));
            return Err(wrong("blocked signals", is, wanted));
        }
        let is = to_words(&state.registers);
        let differs = (0..is.len()).find(|at| is[*at] != thread.registers[*at]);
        if let Some(at) = differs {
            let [is, wanted] = [is[at], thread.registers[at]].map(|value| format!("{value:#x}"));
            return Err(wrong(REGISTERS[at], is, wanted));
        }
        if state.stop_signal != thread.stop_signal {
            let [is, wanted] = [state.stop_signal, thread.stop_signal].map(|signal| format!("{signal:?}"));
            return Err(wrong("stop signal", is, wanted));
        }
        if state.eats_sigchld != thread.eats_sigchld {
            let [is, wanted] = [state.eats_sigchld, thread.eats_sigchld].map(|eats| eats.to_string());
            return Err(wrong("taking back of SIGCHLD", is, wanted));
        }
    }
    match states.next() {
        None => Ok(()),
        Some(state) => Err(Counterexample {
            task: state.tid,
            record: None,
            wrong: Wrong::CommitSets {
                tid: state.tid,
                what: "registers",
                is: "something".to_owned(),
                wanted: "that there is no such thread".to_owned(),
            },
        }),
    }
}

/// The names of the registers, in the order of `struct user_regs_struct` (sys/user.h).
const REGISTERS: [&str; 27] = [
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi",
    "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
];

/// The images have a system call that was interrupted wound back already, so the kernel must not do it a
/// second time (ptrace(2): `orig_rax` -1).
fn of_images(wanted: &Regs) -> [u64; 27] {
    [
        wanted.r15,
        wanted.r14,
        wanted.r13,
        wanted.r12,
        wanted.bp,
        wanted.bx,
        wanted.r11,
        wanted.r10,
        wanted.r9,
        wanted.r8,
        wanted.ax,
        wanted.cx,
        wanted.dx,
        wanted.si,
        wanted.di,
        u64::MAX,
        wanted.ip,
        wanted.cs,
        wanted.flags,
        wanted.sp,
        wanted.ss,
        wanted.fs_base,
        wanted.gs_base,
        wanted.ds,
        wanted.es,
        wanted.fs,
        wanted.gs,
    ]
}
