//! What the commit sets by ptrace against the images: which threads, their registers and masks, which
//! tasks stop again. The extended state (FPU, vectors) is not compared: the restored trees are.

use std::collections::BTreeSet;

use regrow_graph::verify::{Counterexample, Wrong};

use crate::image::{Model, Regs, TaskState};
use crate::tape::ThreadState;

/// # Errors
/// The first thread that would not go on as the images say.
pub(super) fn check(model: &Model, states: &[ThreadState]) -> Result<(), Counterexample> {
    let parents_of_stopped: BTreeSet<_> = model
        .tasks
        .iter()
        .filter(|task| matches!(task.state, TaskState::Stopped(_)))
        .map(|task| task.ppid)
        .collect();
    let mut states = states.iter();
    for task in &model.tasks {
        let Some(alive) = task.alive() else { continue };
        for thread in &alive.threads {
            let pid = task.pid.0;
            let wrong = |what: &'static str, is: String, wanted: String| Counterexample {
                task: pid,
                record: None,
                wrong: Wrong::CommitSets { tid: thread.tid.0, what, is, wanted },
            };
            let Some(state) = states.next().filter(|state| state.tid == thread.tid.0) else {
                let none = "nothing".to_owned();
                return Err(wrong("registers", none, "that it goes on".to_owned()));
            };
            let is_leader = thread.tid == task.pid;
            if state.is_leader != is_leader {
                return Err(wrong("place in its task", state.is_leader.to_string(), is_leader.to_string()));
            }
            if state.blocked != thread.blocked {
                let [is, wanted] = [state.blocked, thread.blocked].map(|mask| format!("{mask:#x}"));
                return Err(wrong("blocked signals", is, wanted));
            }
            if let Some((name, is, wanted)) = different_register(&state.registers, &thread.regs) {
                return Err(wrong(name, format!("{is:#x}"), format!("{wanted:#x}")));
            }
            let is_stopped = matches!(task.state, TaskState::Stopped(_)) && is_leader;
            let signal = is_stopped.then(|| alive.stop_signo.map_or(libc::SIGSTOP, |signal| signal as i32));
            if state.stop_signal != signal {
                let [is, wanted] = [state.stop_signal, signal].map(|signal| format!("{signal:?}"));
                return Err(wrong("stop signal", is, wanted));
            }
            let has_sigchld =
                alive.pending_shared.iter().any(|info| info.first() == Some(&(libc::SIGCHLD as u8)));
            let eats = is_leader && parents_of_stopped.contains(&task.pid) && !has_sigchld;
            if state.eats_sigchld != eats {
                return Err(wrong(
                    "taking back of SIGCHLD",
                    state.eats_sigchld.to_string(),
                    eats.to_string(),
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

/// The first register that is not the images'. The images have a system call that was interrupted
/// wound back already, so the kernel must not do it a second time (ptrace(2): `orig_rax` -1).
fn different_register(is: &libc::user_regs_struct, wanted: &Regs) -> Option<(&'static str, u64, u64)> {
    let pairs = [
        ("r15", is.r15, wanted.r15),
        ("r14", is.r14, wanted.r14),
        ("r13", is.r13, wanted.r13),
        ("r12", is.r12, wanted.r12),
        ("rbp", is.rbp, wanted.bp),
        ("rbx", is.rbx, wanted.bx),
        ("r11", is.r11, wanted.r11),
        ("r10", is.r10, wanted.r10),
        ("r9", is.r9, wanted.r9),
        ("r8", is.r8, wanted.r8),
        ("rax", is.rax, wanted.ax),
        ("rcx", is.rcx, wanted.cx),
        ("rdx", is.rdx, wanted.dx),
        ("rsi", is.rsi, wanted.si),
        ("rdi", is.rdi, wanted.di),
        ("orig_rax", is.orig_rax, u64::MAX),
        ("rip", is.rip, wanted.ip),
        ("cs", is.cs, wanted.cs),
        ("eflags", is.eflags, wanted.flags),
        ("rsp", is.rsp, wanted.sp),
        ("ss", is.ss, wanted.ss),
        ("fs_base", is.fs_base, wanted.fs_base),
        ("gs_base", is.gs_base, wanted.gs_base),
        ("ds", is.ds, wanted.ds),
        ("es", is.es, wanted.es),
        ("fs", is.fs, wanted.fs),
        ("gs", is.gs, wanted.gs),
    ];
    pairs.into_iter().find(|(_, is, wanted)| is != wanted)
}
