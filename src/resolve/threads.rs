//! What every thread has of its own: names, stacks for signals, futex lists, scheduling, pending
//! signals, credentials. A task's first thread has them, too.

use regrow_graph::forest::{Life, TaskSpec};
use regrow_graph::ids::{StepId, TaskId};

use super::problem::ProblemKind;
use super::recipe::{Credentials, StepKind};
use super::{Resolver, Role, TaskRecipe, seccomp};
use crate::host::OwnFacts;
use crate::image::{Alive, Creds, Origin, Task, Thread};

/// Most supplementary groups (NGROUPS_MAX, linux/limits.h).
const GROUPS_MAX: usize = 65536;
/// linux/capability.h
const CAP_SYS_NICE: u32 = 23;

/// Resolves the further threads of a task: each becomes a task of the forest that its own starts.
pub(super) fn resolve(resolver: &mut Resolver<'_>, id: TaskId) {
    let model = resolver.model;
    let task = &model.tasks[id.index()];
    let Some(alive) = task.alive() else { return };
    for thread in alive.threads.iter().skip(1) {
        refuse(resolver, task, thread);
        let mut steps = Vec::new();
        let comm = thread.comm.as_ref().unwrap_or(&alive.comm);
        if *comm != alive.comm {
            steps.push(resolver.add_step(StepKind::Comm(comm.clone()), thread.origin, Vec::new()));
        }
        steps.extend(own(resolver, task, thread));
        let tail = tail(resolver, task, alive, thread);
        resolver.forest.tasks.push(TaskSpec {
            pid: thread.tid.0,
            parent: Some(id),
            pgid: task.pgid.0,
            sid: task.sid.0,
            life: Life::Thread,
            steps,
            tail,
            ..TaskSpec::default()
        });
        resolver.recipes.tasks.push(TaskRecipe {
            pid: thread.tid,
            comm: comm.clone(),
            exit_code: None,
            role: Role::Thread,
            cwd: None,
            origin: task.origin,
            core_origin: thread.origin,
            shares_table: false,
        });
    }
}

/// What is not restored yet, by name.
pub(super) fn refuse(resolver: &mut Resolver<'_>, task: &Task, thread: &Thread) {
    let pid = Some(task.pid);
    let core = Some(thread.origin);
    let mut no = |text: String| resolver.problems.unsupported(pid, core, text);
    if thread.regs.compat || thread.gdt_tls != 0 {
        no("32-bit tasks are not restored yet".to_owned());
    }
    match (thread.sched.policy & !(libc::SCHED_RESET_ON_FORK as u32)) as i32 {
        libc::SCHED_OTHER | libc::SCHED_BATCH | libc::SCHED_IDLE | libc::SCHED_FIFO | libc::SCHED_RR => {}
        libc::SCHED_DEADLINE => no("SCHED_DEADLINE: the images do not hold its parameters".to_owned()),
        policy => no(format!("scheduling policy {policy} is not restored yet")),
    }
    // CRIU stores the priority of plain SCHED_FIFO and SCHED_RR only (criu/cr-dump.c, dump_sched_info).
    let real_time =
        [libc::SCHED_FIFO, libc::SCHED_RR].map(|policy| (policy | libc::SCHED_RESET_ON_FORK) as u32);
    if real_time.contains(&thread.sched.policy) && thread.sched.priority == 0 {
        no("a real-time policy with SCHED_RESET_ON_FORK: the images do not hold its priority".to_owned());
    }
    if thread.rseq.is_some_and(|rseq| rseq.critical_section != 0) {
        no("it was inside a restartable sequence that may not be restarted: not restored yet".to_owned());
    }
    judge_scheduling(resolver, task, thread);
    if thread.pdeath_sig > 64 {
        let text = format!("parent-death signal {}", thread.pdeath_sig);
        resolver.problems.add(ProblemKind::BadImages, pid, core, text);
    }
}

/// sched(7): priorities of real-time policies are 1 to 99, the others have none.
fn judge_scheduling(resolver: &mut Resolver<'_>, task: &Task, thread: &Thread) {
    let sched = thread.sched;
    let is_real_time = matches!(
        (sched.policy & !(libc::SCHED_RESET_ON_FORK as u32)) as i32,
        libc::SCHED_FIFO | libc::SCHED_RR
    );
    let (pid, core) = (Some(task.pid), Some(thread.origin));
    // Older versions of CRIU leave it out with SCHED_RESET_ON_FORK: that is refused by its own name.
    let is_left_out =
        is_real_time && sched.priority == 0 && sched.policy & libc::SCHED_RESET_ON_FORK as u32 != 0;
    if is_real_time != (1..=99).contains(&sched.priority) && !is_left_out
        || sched.priority > 99
        || !(-20..=19).contains(&sched.nice)
    {
        let text =
            format!("policy {} with priority {} and nice {}", sched.policy, sched.priority, sched.nice);
        resolver.problems.add(ProblemKind::BadImages, pid, core, text);
    }
    let own = &resolver.facts.own;
    let is_more = is_real_time
        && (own.sched_policy, own.sched_priority) != (Some(sched.policy), Some(sched.priority))
        || own.nice.is_some_and(|nice| sched.nice < nice);
    if is_more && !own.caps.has_effective(CAP_SYS_NICE) {
        let text = format!(
            "policy {}, priority {}, nice {}, and CAP_SYS_NICE is missing",
            sched.policy, sched.priority, sched.nice
        );
        resolver.problems.add(ProblemKind::Lacking, pid, core, text);
    }
}

/// Steps of a thread itself, before the barrier.
pub(super) fn own(resolver: &mut Resolver<'_>, task: &Task, thread: &Thread) -> Vec<StepId> {
    let is_first = thread.tid == task.pid;
    let mut kinds = vec![StepKind::AltStack(thread.sas)];
    if thread.robust_list.1 != 0 {
        kinds.push(StepKind::RobustList { head: thread.robust_list.0, len: thread.robust_list.1 });
    }
    kinds.push(StepKind::TidAddress { address: thread.clear_tid_addr, pid: thread.tid.0 });
    if let Some(rseq) = thread.rseq.filter(|rseq| rseq.address != 0) {
        // Last: from here on the kernel writes to the area.
        kinds.push(StepKind::Rseq { address: rseq.address, len: rseq.size_bytes, signature: rseq.signature });
    }
    let origin = if is_first { task.core_origin } else { thread.origin };
    if !is_first {
        // Before the tail, where the first thread may lower the limit of what can wait. All signals are
        // blocked until the end. (What waits for the first thread waits until what it eats has been.)
        for info in &thread.pending {
            kinds.extend(queue_signal(resolver, task, Some(thread.tid.0), info, origin));
        }
    }
    kinds.into_iter().map(|kind| resolver.add_step(kind, origin, Vec::new())).collect()
}

/// Steps of a thread after the barrier: scheduling, then seccomp and credentials and what they reset.
pub(super) fn tail(resolver: &mut Resolver<'_>, task: &Task, alive: &Alive, thread: &Thread) -> Vec<StepId> {
    let origin = if thread.tid == task.pid { task.core_origin } else { thread.origin };
    let mut kinds = Vec::new();
    let own = &resolver.facts.own;
    if (own.sched_policy, own.sched_priority) != (Some(thread.sched.policy), Some(thread.sched.priority)) {
        kinds.push(StepKind::Scheduler { policy: thread.sched.policy, priority: thread.sched.priority });
    }
    // The slack of a real-time thread is 0, and that of any other comes back with its policy.
    if let Some(slack_ns) = thread.timer_slack_ns
        && (own.timer_slack_ns != Some(slack_ns) || !kinds.is_empty())
    {
        kinds.push(StepKind::TimerSlack(slack_ns));
    }
    if own.nice != Some(thread.sched.nice) {
        kinds.push(StepKind::Nice(thread.sched.nice));
    }
    // Before what it takes is given up (seccomp(2)).
    kinds.extend(seccomp::resolve(resolver, task, alive, thread));
    let mut changes_creds = false;
    if let Some(creds) = &thread.creds {
        changes_creds = credentials(resolver, task, creds, origin, &mut kinds);
    }
    if thread.pdeath_sig != 0 {
        kinds.push(StepKind::ParentDeathSignal(thread.pdeath_sig));
    }
    // A change of credentials resets it for the whole task (prctl(2)), so each thread that makes one
    // sets it after. 2 cannot be set: it is inherited, or what `fs.suid_dumpable` makes the change leave.
    let inherited = resolver.facts.own.dumpable;
    match alive.mm.dumpable {
        Some(value @ 0..=1) if changes_creds || inherited != Some(value as u32) => {
            kinds.push(StepKind::Dumpable(value as u32));
        }
        Some(2) => {
            let resets = thread.creds.as_ref().is_some_and(|creds| resets_dumpable(own, creds));
            let left = if resets { resolver.facts.kernel.suid_dumpable } else { inherited };
            if left != Some(2) {
                let text = format!("dumpable is 2, which cannot be set, and would be {left:?} here");
                let text = text.replace("Some(", "").replace(')', "").replace("None", "unknown");
                resolver.problems.add(ProblemKind::Lacking, Some(task.pid), Some(origin), text);
            }
        }
        _ => {}
    }
    kinds.into_iter().map(|kind| resolver.add_step(kind, origin, Vec::new())).collect()
}

/// Puts a pending signal back: to the thread `tid`, or to the whole task.
pub(super) fn queue_signal(
    resolver: &mut Resolver<'_>,
    task: &Task,
    tid: Option<u32>,
    info: &[u8],
    origin: Origin,
) -> Option<StepKind> {
    let signal = info
        .first_chunk::<4>()
        .map(|bytes| u32::from_le_bytes(*bytes))
        .filter(|signal| (1..=64).contains(signal));
    let Some(signal) = signal else {
        resolver.problems.add(
            ProblemKind::BadImages,
            Some(task.pid),
            Some(origin),
            "a pending signal without a number",
        );
        return None;
    };
    Some(StepKind::QueueSignal { pid: task.pid.0, tid, signal, info: info.to_vec() })
}

/// Our own credentials, which the tasks inherit, in the terms of the images.
fn own_credentials(own: &OwnFacts) -> Creds {
    let uids = own.uids.unwrap_or_default();
    let gids = own.gids.unwrap_or_default();
    Creds {
        uid: uids.real,
        gid: gids.real,
        euid: uids.effective,
        egid: gids.effective,
        suid: uids.saved,
        sgid: gids.saved,
        fsuid: uids.fs,
        fsgid: gids.fs,
        cap_inh: own.caps.inheritable,
        cap_prm: own.caps.permitted,
        cap_eff: own.caps.effective,
        cap_bnd: own.caps.bounding,
        cap_amb: own.caps.ambient,
        securebits: own.securebits.unwrap_or(0),
        groups: own.groups.clone().unwrap_or_default(),
        no_new_privs: own.no_new_privs.unwrap_or(false),
        lsm_profile: None,
        lsm_sockcreate: None,
    }
}

/// Whether the change from our credentials to these resets dumpable and parent-death signal
/// (kernel/cred.c, `commit_creds`).
fn resets_dumpable(own: &OwnFacts, creds: &Creds) -> bool {
    let own = own_credentials(own);
    (own.euid, own.fsuid, own.egid, own.fsgid) != (creds.euid, creds.fsuid, creds.egid, creds.fsgid)
}

/// Whether anything must change to get from our credentials to these.
fn differ(creds: &Creds, own: &Creds) -> bool {
    let plain = |creds: &Creds| {
        let mut groups = creds.groups.clone();
        groups.sort_unstable();
        Creds { groups, lsm_profile: None, lsm_sockcreate: None, ..creds.clone() }
    };
    plain(creds) != plain(own)
}

/// The step that sets a thread's credentials, and whether there is one.
fn credentials(
    resolver: &mut Resolver<'_>,
    task: &Task,
    creds: &Creds,
    core: Origin,
    kinds: &mut Vec<StepKind>,
) -> bool {
    let own = &own_credentials(&resolver.facts.own);
    if creds.lsm_profile.is_some() || creds.lsm_sockcreate.is_some() {
        resolver.problems.unsupported(Some(task.pid), Some(core), "LSM labels are not restored yet");
    }
    let mut lacking =
        |text: String| resolver.problems.add(ProblemKind::Lacking, Some(task.pid), Some(core), text);
    for (what, want, have) in [
        ("bounding", creds.cap_bnd, own.cap_bnd),
        ("permitted", creds.cap_prm, own.cap_prm),
        ("inheritable", creds.cap_inh, own.cap_inh | own.cap_bnd),
    ] {
        if want & !have != 0 {
            lacking(format!("{what} capabilities {:#x} are not ours to give", want & !have));
        }
    }
    if own.no_new_privs && !creds.no_new_privs {
        lacking("no_new_privs is set here and cannot be cleared".to_owned());
    }
    // PR_SET_SECUREBITS(2const): each bit's lock is the next higher one, and a lock is for good. Ids are
    // set under NO_SETUID_FIXUP.
    const LOCKS: u32 = 0xaaaa_aaaa;
    const NO_SETUID_FIXUP: u32 = 1 << 2;
    let (locks, locked) = (own.securebits & LOCKS, (own.securebits & LOCKS) >> 1);
    let changes = (own.securebits ^ creds.securebits) & locked | (locks & !creds.securebits);
    if changes != 0 || locked & !own.securebits & NO_SETUID_FIXUP != 0 {
        lacking(format!("securebits are {:#x} here, some of them locked", own.securebits));
    }
    let ids =
        [creds.uid, creds.gid, creds.euid, creds.egid, creds.suid, creds.sgid, creds.fsuid, creds.fsgid];
    let has_no_id = ids.iter().chain(&creds.groups).any(|id| *id == u32::MAX);
    let mut bad =
        |text: String| resolver.problems.add(ProblemKind::BadImages, Some(task.pid), Some(core), text);
    if has_no_id || creds.groups.len() > GROUPS_MAX {
        bad(format!("ids that no task can have (-1), or more than {GROUPS_MAX} groups"));
    }
    let apart = creds.cap_eff & !creds.cap_prm | creds.cap_amb & !(creds.cap_prm & creds.cap_inh);
    if apart != 0 {
        bad(format!("capabilities {apart:#x} are effective or ambient, and not permitted or inheritable"));
    }
    if !differ(creds, own) {
        return false;
    }
    kinds.push(StepKind::Credentials(Box::new(Credentials { wanted: creds.clone(), own: own.clone() })));
    true
}
