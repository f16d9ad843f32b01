//! What a task is, beside its descriptors and its place in the tree: handlers, names, limits,
//! credentials, and the order in which they are set.
//!
//! *Birth* steps come first and are inherited: the root's are complete (it starts with whatever the
//! launcher had), a child's are the difference from its parent. *Steps* follow the last fork.
//! *Tail* steps come after the barrier: what takes privileges away, or must come after what does.

use regrow_graph::ids::{StepId, TaskId};

use super::problem::ProblemKind;
use super::recipe::{Credentials, FilePurpose, ResourceKind, StepKind};
use super::{Resolver, host, memory};
use crate::host::OwnFacts;
use crate::image::{Alive, Creds, Origin, RLimit, SigAction, Task, TaskState, Thread};

const SIGCHLD: usize = libc::SIGCHLD as usize;
const SA_NOCLDWAIT: u64 = libc::SA_NOCLDWAIT as u64;

pub(super) fn resolve(resolver: &mut Resolver<'_>, id: TaskId) {
    let model = resolver.model;
    let task = &model.tasks[id.index()];
    let birth = birth(resolver, id, task);
    resolver.forest.tasks[id.index()].birth = birth;
    let Some(alive) = task.alive() else { return };
    let Some(leader) = alive.threads.first() else {
        resolver.problems.add(ProblemKind::BadImages, Some(task.pid), Some(task.origin), "it has no thread");
        return;
    };
    refuse(resolver, task, alive, leader);
    let mut steps = memory::resolve(resolver, task, alive);
    steps.extend(own(resolver, id, task, alive, leader));
    resolver.forest.tasks[id.index()].steps = steps;
    resolver.forest.tasks[id.index()].tail = tail(resolver, task, alive, leader);
}

/// What a living task's children see of it when they are forked.
struct Inherited<'a> {
    sigactions: Vec<SigAction>,
    umask: u32,
    cwd: Option<&'a str>,
    comm: &'a str,
    personality: u32,
}

impl<'a> Inherited<'a> {
    fn of(resolver: &Resolver<'a>, id: TaskId, alive: &'a Alive) -> Inherited<'a> {
        let mut sigactions = alive.sigactions.clone();
        if keeps_zombies(resolver, id)
            && let Some(action) = sigactions.get_mut(SIGCHLD - 1)
            && discards_children(action)
        {
            *action = SigAction::default();
        }
        Inherited {
            sigactions,
            umask: alive.umask,
            cwd: cwd(resolver, alive),
            comm: &alive.comm,
            personality: alive.personality,
        }
    }
}

/// With such a disposition a child that dies leaves no zombie (sigaction(2)).
fn discards_children(action: &SigAction) -> bool {
    action.handler == libc::SIG_IGN as u64 || action.flags & SA_NOCLDWAIT != 0
}

fn keeps_zombies(resolver: &Resolver<'_>, id: TaskId) -> bool {
    let model = resolver.model;
    resolver.forest.tasks.iter().enumerate().skip(id.index()).any(|(index, task)| {
        task.parent == Some(id) && matches!(model.tasks[index].state, TaskState::Zombie { .. })
    })
}

fn cwd<'a>(resolver: &Resolver<'a>, alive: &Alive) -> Option<&'a str> {
    path_of(resolver, alive.fs.cwd_id)
}

fn path_of<'a>(resolver: &Resolver<'a>, ofd_id: u32) -> Option<&'a str> {
    let ofd = resolver.ofd_of_id.get(&ofd_id)?;
    match &resolver.model.ofds[ofd.index()].kind {
        crate::image::OfdKind::Reg(file) => Some(&file.path),
        _ => None,
    }
}

fn birth(resolver: &mut Resolver<'_>, id: TaskId, task: &Task) -> Vec<StepId> {
    let mut steps = Vec::new();
    let model = resolver.model;
    let parent = resolver.forest.tasks[id.index()].parent;
    if parent.is_none() {
        steps.push(resolver.add_step(StepKind::Bare, task.origin, Vec::new()));
    }
    let from = parent.and_then(|parent| model.tasks[parent.index()].alive().map(|alive| Inherited::of(resolver, parent, alive)));
    let core = task.core_origin;
    let Some(alive) = task.alive() else {
        if let TaskState::Zombie { comm, .. } = &task.state
            && from.as_ref().is_none_or(|from| from.comm != comm)
        {
            steps.push(resolver.add_step(StepKind::Comm(comm.clone()), core, Vec::new()));
        }
        return steps;
    };
    let me = Inherited::of(resolver, id, alive);
    for signal in 1..=64 {
        if matches!(signal, libc::SIGKILL | libc::SIGSTOP) {
            continue;
        }
        let index = signal as usize - 1;
        let Some(action) = me.sigactions.get(index).copied() else { continue };
        if from.as_ref().is_none_or(|from| from.sigactions.get(index) != Some(&action)) {
            steps.push(resolver.add_step(StepKind::SigAction { signal: signal as u32, action }, core, Vec::new()));
        }
    }
    if from.as_ref().is_none_or(|from| from.umask != me.umask) {
        steps.push(resolver.add_step(StepKind::Umask(me.umask), alive.fs.origin, Vec::new()));
    }
    if me.cwd.is_none() {
        resolver.problems.add(ProblemKind::BadImages, Some(task.pid), Some(alive.fs.origin), "its working directory is not in files.img");
    }
    if let Some(cwd) = me.cwd
        && from.as_ref().is_none_or(|from| from.cwd != Some(cwd))
    {
        steps.push(resolver.add_step(StepKind::Chdir(cwd.to_owned()), alive.fs.origin, Vec::new()));
    }
    if from.as_ref().is_none_or(|from| from.comm != me.comm) {
        steps.push(resolver.add_step(StepKind::Comm(me.comm.to_owned()), core, Vec::new()));
    }
    if from.as_ref().map_or(resolver.facts.own.personality.unwrap_or(0), |from| from.personality) != me.personality {
        steps.push(resolver.add_step(StepKind::Personality(me.personality), core, Vec::new()));
    }
    steps
}

/// What is not restored yet, by name.
fn refuse(resolver: &mut Resolver<'_>, task: &Task, alive: &Alive, leader: &Thread) {
    let pid = Some(task.pid);
    let core = Some(task.core_origin);
    let mut no = |text: String| resolver.problems.unsupported(pid, core, text);
    if !alive.timers.posix.is_empty() {
        no(format!("{} POSIX timers are not restored yet", alive.timers.posix.len()));
    }
    if leader.seccomp_mode != 0 {
        no(format!("seccomp (mode {}) is not restored yet", leader.seccomp_mode));
    }
    if leader.regs.compat || leader.gdt_tls != 0 || alive.sigactions.iter().any(|action| action.compat) {
        no("32-bit tasks are not restored yet".to_owned());
    }
    if alive.rlimits.is_empty() {
        no("images without resource limits".to_owned());
    }
    if leader.sched.policy == libc::SCHED_DEADLINE as u32 {
        no("SCHED_DEADLINE: the images do not hold its parameters".to_owned());
    }
    let facts = &resolver.facts.own;
    if let (Some(want), Some(have)) = (alive.loginuid, facts.loginuid)
        && want != have
    {
        // Audit's login uid can be set once, by who has CAP_AUDIT_CONTROL; CRIU leaves it, too, where it
        // cannot be set. It is no part of what a program can see but in /proc.
        tracing::warn!(task = task.pid.0, want, have, "the login uid stays that of the restorer");
    }
    let root = path_of(resolver, alive.fs.root_id);
    if root != Some("/") {
        let text = format!("its root directory is {}: not restored yet", root.unwrap_or("not in files.img"));
        resolver.problems.unsupported(pid, Some(alive.fs.origin), text);
    }
    if let (Some(set), Some(outer)) = (leader.cg_set, resolver.model.inventory.root_cg_set)
        && set != outer
        && resolver.options.manage_cgroups.as_deref() != Some("ignore")
    {
        let text = format!("it is in a cgroup of its own (set {set}; --manage-cgroups): not restored yet; --manage-cgroups=ignore leaves it in the caller's");
        resolver.problems.unsupported(pid, core, text);
    }
}

/// Steps of the task itself that need no file.
fn own(resolver: &mut Resolver<'_>, id: TaskId, task: &Task, alive: &Alive, leader: &Thread) -> Vec<StepId> {
    let core = task.core_origin;
    let mut kinds = Vec::new();
    if let Some(action) = alive.sigactions.get(SIGCHLD - 1)
        && discards_children(action)
        && keeps_zombies(resolver, id)
    {
        kinds.push(StepKind::SigAction { signal: SIGCHLD as u32, action: *action });
    }
    if alive.mm.thp_disabled {
        kinds.push(StepKind::ThpDisable);
    }
    if alive.membarrier != 0 {
        kinds.push(StepKind::Membarrier(alive.membarrier));
    }
    kinds.push(StepKind::AltStack(leader.sas));
    if leader.robust_list.1 != 0 {
        kinds.push(StepKind::RobustList { head: leader.robust_list.0, len: leader.robust_list.1 });
    }
    kinds.push(StepKind::TidAddress { address: leader.clear_tid_addr, pid: task.pid.0 });
    if let Some(rseq) = leader.rseq.filter(|rseq| rseq.address != 0) {
        if rseq.critical_section != 0 {
            resolver.problems.unsupported(Some(task.pid), Some(core), "it was inside a restartable sequence that may not be restarted: not restored yet");
        }
        // Last: from here on the kernel writes to the area.
        kinds.push(StepKind::Rseq { address: rseq.address, len: rseq.size_bytes, signature: rseq.signature });
    }
    let mut steps = Vec::new();
    if resolver.facts.own.oom_score_adj != Some(alive.oom_score_adj) {
        steps.push(oom_score(resolver, task, alive));
    }
    steps.extend(kinds.into_iter().map(|kind| resolver.add_step(kind, core, Vec::new())));
    steps
}

/// `oom_score_adj` is set by writing to a file (proc_pid_oom_score_adj(5)).
fn oom_score(resolver: &mut Resolver<'_>, task: &Task, alive: &Alive) -> StepId {
    let core = task.core_origin;
    let own = resolver.facts.own.oom_score_adj.unwrap_or(0);
    if alive.oom_score_adj < own && !resolver.facts.own.caps.has_effective(host::CAP_SYS_RESOURCE) {
        let text = format!("oom_score_adj {} is below ours ({own}), and CAP_SYS_RESOURCE is missing", alive.oom_score_adj);
        resolver.problems.add(ProblemKind::Lacking, Some(task.pid), Some(core), text);
    }
    let ofd = resolver.new_ofd();
    let path = "/proc/self/oom_score_adj".to_owned();
    let kind = ResourceKind::File { path, flags: libc::O_WRONLY as u32, position: 0, purpose: FilePurpose::Attribute };
    resolver.add_resource(kind, core, vec![Some(ofd)]);
    resolver.add_step(StepKind::Write(alive.oom_score_adj.to_string().into_bytes()), core, vec![ofd])
}

fn tail(resolver: &mut Resolver<'_>, task: &Task, alive: &Alive, leader: &Thread) -> Vec<StepId> {
    let core = task.core_origin;
    let mut kinds = Vec::new();
    limits(resolver, task, alive, &mut kinds);
    let own = &resolver.facts.own;
    if (own.sched_policy, own.sched_priority) != (Some(leader.sched.policy), Some(leader.sched.priority)) {
        kinds.push(StepKind::Scheduler { policy: leader.sched.policy, priority: leader.sched.priority });
    }
    if own.nice != Some(leader.sched.nice) {
        kinds.push(StepKind::Nice(leader.sched.nice));
    }
    // All signals are blocked until the very end: what is put back stays pending, what a timer sends
    // becomes so.
    for (info, tid) in alive.pending_shared.iter().map(|info| (info, None)).chain(leader.pending.iter().map(|info| (info, Some(leader.tid.0)))) {
        let Some(signal) = info.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes)).filter(|signal| (1..=64).contains(signal)) else {
            resolver.problems.add(ProblemKind::BadImages, Some(task.pid), Some(core), "a pending signal without a number");
            continue;
        };
        kinds.push(StepKind::QueueSignal { pid: task.pid.0, tid, signal, info: info.clone() });
    }
    for (which, (interval_us, value_us)) in (0..).zip(alive.timers.itimers) {
        if value_us != 0 {
            kinds.push(StepKind::IntervalTimer { which, interval_us, value_us });
        }
    }
    let mut changes_creds = false;
    if let Some(creds) = &leader.creds {
        changes_creds = credentials(resolver, task, creds, core, &mut kinds);
    }
    if alive.child_subreaper {
        kinds.push(StepKind::ChildSubreaper);
    }
    if leader.pdeath_sig != 0 {
        kinds.push(StepKind::ParentDeathSignal(leader.pdeath_sig));
    }
    // A change of credentials resets it (prctl(2)); 2 cannot be set, and is what the change leaves.
    match alive.mm.dumpable {
        Some(value @ 0..=1) if changes_creds || value == 0 => kinds.push(StepKind::Dumpable(value as u32)),
        _ => {}
    }
    kinds.into_iter().map(|kind| resolver.add_step(kind, core, Vec::new())).collect()
}

/// Limits that differ from what is inherited from the launcher, which has raised its soft limit of
/// descriptors to the hard one.
fn limits(resolver: &mut Resolver<'_>, task: &Task, alive: &Alive, kinds: &mut Vec<StepKind>) {
    for (resource, limit) in alive.rlimits.iter().enumerate() {
        let Some(own) = resolver.facts.own.rlimits.get(resource).copied().flatten() else {
            let text = format!("resource limit {resource} is unknown here");
            resolver.problems.unsupported(Some(task.pid), Some(task.core_origin), text);
            continue;
        };
        let inherited = if resource == libc::RLIMIT_NOFILE as usize { RLimit { cur: own.max, max: own.max } } else { own };
        if limit.max > own.max && !resolver.facts.own.caps.has_effective(host::CAP_SYS_RESOURCE) {
            let text = format!("hard limit {} of resource {resource} is above ours ({}), and CAP_SYS_RESOURCE is missing", limit.max, own.max);
            resolver.problems.add(ProblemKind::Lacking, Some(task.pid), Some(task.core_origin), text);
        }
        if *limit != inherited {
            kinds.push(StepKind::RLimit { resource: resource as u32, cur: limit.cur, max: limit.max });
        }
    }
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

/// Whether anything must change to get from our credentials to these.
fn credentials(resolver: &mut Resolver<'_>, task: &Task, creds: &Creds, core: Origin, kinds: &mut Vec<StepKind>) -> bool {
    let own = &own_credentials(&resolver.facts.own);
    if creds.lsm_profile.is_some() || creds.lsm_sockcreate.is_some() {
        resolver.problems.unsupported(Some(task.pid), Some(core), "LSM labels are not restored yet");
    }
    let mut lacking = |text: String| resolver.problems.add(ProblemKind::Lacking, Some(task.pid), Some(core), text);
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
    if own.securebits != 0 && own.securebits != creds.securebits {
        lacking(format!("securebits are {:#x} here", own.securebits));
    }
    let mut groups = creds.groups.clone();
    groups.sort_unstable();
    let mut own_groups = own.groups.clone();
    own_groups.sort_unstable();
    let same = Creds { groups, lsm_profile: None, lsm_sockcreate: None, ..creds.clone() };
    let ours = Creds { groups: own_groups, lsm_profile: None, lsm_sockcreate: None, ..own.clone() };
    if same == ours {
        return false;
    }
    kinds.push(StepKind::Credentials(Box::new(Credentials { wanted: creds.clone(), dropped_bounding: own.cap_bnd & !creds.cap_bnd })));
    true
}
