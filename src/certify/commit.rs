//! What the commit sets by ptrace against the images: which threads, their registers and masks, which
//! tasks stop again. The extended state (FPU, vectors) is not compared: the restored trees are.

use std::collections::BTreeSet;
use std::ops::Range;

use regrow_graph::verify::{Counterexample, Wrong};
use serde::{Deserialize, Serialize};

use crate::image::{Alive, Model, Regs, TaskState, VmaKind};
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
    /// Of a leader: what hinders its task from leaving the tapes by itself, whatever its signals are.
    pub stays: Option<Stays>,
    /// Of a leader: the holes that a fault in them may let the stack grow into, from and to.
    pub growing: Vec<(u64, u64)>,
}

/// Why a task must be stopped before it leaves the tapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stays {
    /// Its further threads run on what is unmapped.
    Threads,
    /// It is to be stopped, or its children are.
    Stops,
    /// The fault would change what it does on SIGSEGV: a signal that is ignored is forced by setting it back.
    Ignores,
    /// A SIGSEGV waits for it already: it would come first.
    Pending,
}

impl Stays {
    fn why(self) -> &'static str {
        match self {
            Stays::Threads => "it has further threads",
            Stays::Stops => "it or a child of it is stopped",
            Stays::Ignores => "it ignores SIGSEGV",
            Stays::Pending => "a SIGSEGV waits for it",
        }
    }
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
            let eats_sigchld = is_leader && parents_of_stopped.contains(&task.pid) && !has_sigchld;
            let number = libc::SIGSEGV as u8;
            let waits = |infos: &[Vec<u8>]| infos.iter().any(|info| info.first() == Some(&number));
            let stays = if alive.threads.len() > 1 {
                Some(Stays::Threads)
            } else if is_stopped || eats_sigchld {
                Some(Stays::Stops)
            } else if ignores(alive) {
                Some(Stays::Ignores)
            } else if waits(&alive.pending_shared) || waits(&thread.pending) {
                Some(Stays::Pending)
            } else {
                None
            };
            all.push(ExpectedThread {
                task: task.pid.0,
                tid: thread.tid.0,
                is_leader,
                blocked: thread.blocked,
                registers: of_images(&thread.regs),
                stop_signal: is_stopped
                    .then(|| alive.stop_signo.map_or(libc::SIGSTOP, |signal| signal as i32)),
                eats_sigchld,
                stays: stays.filter(|_| is_leader),
                growing: if is_leader { growing(alive) } else { Vec::new() },
            });
        }
    }
    all
}

/// SIG_IGN for SIGSEGV (signal.h: 1).
fn ignores(alive: &Alive) -> bool {
    alive.sigactions.iter().zip(1..).any(|(action, signal)| signal == libc::SIGSEGV && action.handler == 1)
}

/// A fault anywhere below a mapping that grows down, and above what is mapped next below it, asks for growth
/// (`find_extend_vma` in the kernel's mm). What the kernel maps by itself may come to lie elsewhere.
fn growing(alive: &Alive) -> Vec<(u64, u64)> {
    let mut holes = Vec::new();
    let mut below = 0;
    for vma in &alive.mm.vmas {
        if vma.flags & libc::MAP_GROWSDOWN as u32 != 0 {
            holes.push((below, vma.start));
        }
        if !matches!(vma.kind, VmaKind::Vdso | VmaKind::Vvar) {
            below = vma.end;
        }
    }
    holes
}

/// The tapes are in `window`.
///
/// # Errors
/// The first thread that would not go on as the images say, or that would leave the tapes by a way that leaves a
/// trace.
pub(super) fn check(
    wanted: &[ExpectedThread],
    states: &[ThreadState],
    window: &Range<u64>,
) -> Result<(), Counterexample> {
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
        if state.leaves {
            let grows = thread.growing.iter().any(|(from, to)| *from < window.end && window.start < *to);
            let why = match thread.stays {
                _ if !thread.is_leader => Some("another thread does"),
                Some(stays) => Some(stays.why()),
                None if grows => Some("its stack would grow"),
                None => None,
            };
            if let Some(why) = why {
                let is = "by itself".to_owned();
                return Err(wrong("way out of the tapes", is, format!("that it is stopped before, for {why}")));
            }
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
