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
                return Err(wrong(
                    "way out of the tapes",
                    is,
                    format!("that it is stopped before, for {why}"),
                ));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::SigAction;
    use crate::tape::thread::from_words;

    const WINDOW: Range<u64> = 0x10_0000..0x20_0000;

    fn check_leaver(expected: &ExpectedThread, reason: Option<&str>) {
        let state = ThreadState {
            tid: expected.tid,
            is_leader: expected.is_leader,
            registers: from_words(expected.registers),
            xstate: Vec::new(),
            blocked: expected.blocked,
            stop_signal: expected.stop_signal,
            eats_sigchld: expected.eats_sigchld,
            leaves: true,
        };
        let held = ThreadState { leaves: false, ..state.clone() };
        let wanted = std::slice::from_ref(expected);
        check(wanted, &[held], &WINDOW).expect("to be stopped before is right for everybody");
        let found = check(wanted, &[state], &WINDOW).map_err(|counterexample| counterexample.to_string());
        match (found, reason) {
            (Ok(()), None) => {}
            (Err(text), Some(reason)) if text.ends_with(reason) => {}
            (found, reason) => panic!("{found:?}, expected: {reason:?}"),
        }
    }

    #[test]
    fn who_may_leave_by_itself() {
        let plain = ExpectedThread {
            task: 7,
            tid: 7,
            is_leader: true,
            blocked: 0,
            registers: [0; 27],
            stop_signal: None,
            eats_sigchld: false,
            stays: None,
            growing: Vec::new(),
        };
        check_leaver(&plain, None);
        for (stays, why) in [
            (Stays::Threads, "it has further threads"),
            (Stays::Stops, "it or a child of it is stopped"),
            (Stays::Ignores, "it ignores SIGSEGV"),
            (Stays::Pending, "a SIGSEGV waits for it"),
        ] {
            check_leaver(&ExpectedThread { stays: Some(stays), ..plain.clone() }, Some(why));
        }
        check_leaver(&ExpectedThread { is_leader: false, ..plain.clone() }, Some("another thread does"));
        // A stack above that may grow through the window, and ones that may not.
        let grows = |from, to| ExpectedThread { growing: vec![(from, to)], ..plain.clone() };
        check_leaver(&grows(0, 0x7fff_0000), Some("its stack would grow"));
        check_leaver(&grows(0x1f_f000, 0x7fff_0000), Some("its stack would grow"));
        check_leaver(&grows(0x20_0000, 0x7fff_0000), None);
        check_leaver(&grows(0, 0x10_0000), None);
    }

    #[test]
    fn what_is_said_of_each_task() {
        let mut model = crate::certify::tests::pair();
        let of_first = |model: &Model| expected(model).swap_remove(0);
        assert_eq!(of_first(&model).stays, None);
        let pending: Vec<u8> = std::iter::once(libc::SIGSEGV as u8).chain([0; 127]).collect();
        let change = |model: &mut Model, change: &dyn Fn(&mut Alive)| {
            let TaskState::Alive(alive) = &mut model.tasks[0].state else { panic!("it lives") };
            change(alive);
        };
        change(&mut model, &|alive| alive.pending_shared.push(pending.clone()));
        assert_eq!(of_first(&model).stays, Some(Stays::Pending));
        change(&mut model, &|alive| alive.pending_shared.clear());
        change(&mut model, &|alive| alive.threads[0].pending.push(pending.clone()));
        assert_eq!(of_first(&model).stays, Some(Stays::Pending));
        change(&mut model, &|alive| {
            alive.sigactions = vec![SigAction { handler: 1, ..SigAction::default() }; 64]
        });
        assert_eq!(of_first(&model).stays, Some(Stays::Ignores));
        change(&mut model, &|alive| alive.threads.push(alive.threads[0].clone()));
        assert_eq!(of_first(&model).stays, Some(Stays::Threads));
    }
}
