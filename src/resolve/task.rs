//! What a task is, beside its descriptors and its place in the tree: handlers, names, limits,
//! credentials, and the order in which they are set.
//!
//! *Birth* steps come first and are inherited: the root's are complete (it starts with whatever the
//! launcher had), a child's are the difference from its parent. *Steps* follow the last fork.
//! *Tail* steps come after the barrier: what takes privileges away, or must come after what does.

use std::borrow::Cow;

use regrow_graph::ids::{StepId, TaskId};

use super::files::{self, ghost};
use super::problem::ProblemKind;
use super::recipe::{FilePurpose, ResourceKind, StepKind};
use super::{Resolver, host, ipc, memory, threads, tree};
use crate::host::Probe;
use crate::image::{Alive, OfdKind, RLimit, SigAction, Task, TaskState, Thread};

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
    refuse(resolver, task, alive);
    threads::refuse(resolver, task, leader);
    let memory = memory::resolve(resolver, id, task, alive);
    let (early, mut steps) = if resolver.spaces.is_early(id) {
        (memory.setup, memory.late)
    } else {
        (Vec::new(), [memory.setup, memory.late].concat())
    };
    resolver.forest.tasks[id.index()].before_forks = early;
    let placed = std::mem::take(&mut resolver.placed[id.index()]);
    // The table is final when threads start.
    let mut with_threads = [placed.with_threads, timers(resolver, task, alive)].concat();
    if let Some(kind) = discards_again(resolver, id, alive) {
        let step = resolver.add_step(kind, task.core_origin, Vec::new());
        // Who shares waits for deaths when its turn is over, and that is when its table is final.
        if resolver.forest.tasks[id.index()].shares_table {
            with_threads.push(step);
        } else {
            steps.push(step);
        }
    }
    steps.extend(own(resolver, task, alive, leader));
    resolver.forest.tasks[id.index()].steps = [placed.steps, steps].concat();
    resolver.forest.tasks[id.index()].with_threads = with_threads;
    // Before anything is given up.
    resolver.forest.tasks[id.index()].tail = [placed.tail, tail(resolver, id, task, alive, leader)].concat();
}

/// POSIX timers may be for one thread, which must exist. They are armed in the tail.
fn timers(resolver: &mut Resolver<'_>, task: &Task, alive: &Alive) -> Vec<StepId> {
    let timers = &alive.timers.posix;
    if timers.is_empty() {
        return Vec::new();
    }
    if let Probe::Absent(errno) = resolver.facts.kernel.timer_restore_ids {
        let text = format!(
            "{} POSIX timers: PR_TIMER_CREATE_RESTORE_IDS (Linux 6.15) is missing: {errno}",
            timers.len()
        );
        resolver.problems.add(ProblemKind::Lacking, Some(task.pid), Some(task.core_origin), text);
    }
    vec![resolver.add_step(StepKind::PosixTimers(timers.clone()), task.core_origin, Vec::new())]
}

/// What a living task's children see of it when they are forked.
struct Inherited<'a> {
    sigactions: Cow<'a, [SigAction]>,
    umask: u32,
    cwd: Option<&'a str>,
    comm: &'a str,
}

impl<'a> Inherited<'a> {
    fn of(resolver: &Resolver<'a>, id: TaskId, alive: &'a Alive) -> Inherited<'a> {
        let mut sigactions = Cow::Borrowed(alive.sigactions.as_slice());
        if alive.sigactions.get(SIGCHLD - 1).is_some_and(discards_children) && keeps_zombies(resolver, id) {
            sigactions.to_mut()[SIGCHLD - 1] = SigAction::default();
        }
        Inherited { sigactions, umask: alive.umask, cwd: cwd(resolver, alive), comm: &alive.comm }
    }
}

/// With such a disposition a child that dies leaves no zombie (sigaction(2)).
fn discards_children(action: &SigAction) -> bool {
    action.handler == libc::SIG_IGN as u64 || action.flags & SA_NOCLDWAIT != 0
}

/// Whether a child that dies while the tree is made is there until the task waits for it.
pub(super) fn waits_for_children(resolver: &Resolver<'_>, id: TaskId, alive: &Alive) -> bool {
    keeps_zombies(resolver, id)
        || alive.sigactions.get(SIGCHLD - 1).is_none_or(|action| !discards_children(action))
}

fn keeps_zombies(resolver: &Resolver<'_>, id: TaskId) -> bool {
    resolver.zombie_parents.contains(&resolver.model.tasks[id.index()].pid)
}

/// What makes a task's children vanish again when they die, where those that must die have.
fn discards_again(resolver: &Resolver<'_>, id: TaskId, alive: &Alive) -> Option<StepKind> {
    let action = alive.sigactions.get(SIGCHLD - 1)?;
    let is_put_off = discards_children(action) && keeps_zombies(resolver, id);
    is_put_off.then_some(StepKind::SigAction { signal: SIGCHLD as u32, action: *action })
}

/// The directory to start in. One that was removed is entered later, when it has been made.
fn cwd<'a>(resolver: &Resolver<'a>, alive: &Alive) -> Option<&'a str> {
    let path = path_of(resolver, alive.fs.cwd_id)?;
    Some(if ghost::remap_of(resolver, alive.fs.cwd_id).is_some() { "/" } else { path })
}

/// A working directory must be the one that was dumped, and there when the task is born. (One that was
/// removed is made again.)
fn judge_directory(resolver: &mut Resolver<'_>, id: TaskId, task: &Task, alive: &Alive) {
    let Some(path) = cwd(resolver, alive) else { return };
    let origin = Some(alive.fs.origin);
    match files::proc_task(resolver, path) {
        Some(of) if files::is_above(resolver, of, id) => {}
        Some(_) => {
            let text =
                format!("its working directory {path} is about a task that is born later: not restored yet");
            resolver.problems.unsupported(Some(task.pid), origin, text);
        }
        None => {
            let model = resolver.model;
            let entry = resolver.ofd_of_id.get(&alive.fs.cwd_id).map(|ofd| &model.ofds[ofd.index()]);
            if let Some((OfdKind::Reg(file), origin)) = entry.map(|entry| (&entry.kind, entry.origin))
                && file.path == path
            {
                files::judge(resolver, file, origin);
            }
        }
    }
}

/// Enters a working directory that was removed.
fn enter_removed(resolver: &mut Resolver<'_>, task: &Task, alive: &Alive) -> Option<StepId> {
    let remap = ghost::remap_of(resolver, alive.fs.cwd_id)?;
    let Some(key) = ghost::key_of(resolver, alive.fs.cwd_id) else {
        let entry = resolver.ofd_of_id.get(&alive.fs.cwd_id).map(|ofd| &resolver.model.ofds[ofd.index()])?;
        ghost::refuse(resolver, entry, remap);
        return None;
    };
    let flags = (libc::O_PATH | libc::O_DIRECTORY) as u32;
    let Some(directory) = resolver.open_inode(key, "", flags, 0, None) else {
        let text = "its working directory was removed, and cannot be made again";
        resolver.problems.unsupported(Some(task.pid), Some(alive.fs.origin), text);
        return None;
    };
    Some(resolver.add_step(StepKind::EnterDirectory, alive.fs.origin, vec![directory]))
}

fn path_of<'a>(resolver: &Resolver<'a>, ofd_id: u32) -> Option<&'a str> {
    let ofd = resolver.ofd_of_id.get(&ofd_id)?;
    match &resolver.model.ofds[ofd.index()].kind {
        OfdKind::Reg(file) => Some(&file.path),
        _ => None,
    }
}

fn birth(resolver: &mut Resolver<'_>, id: TaskId, task: &Task) -> Vec<StepId> {
    let mut steps = Vec::new();
    let model = resolver.model;
    let parent = resolver.forest.tasks[id.index()].parent;
    if parent.is_none() {
        steps.push(resolver.add_step(StepKind::Bare, task.origin, Vec::new()));
        if let Some(kind) = ipc::birth(resolver) {
            steps.push(resolver.add_step(kind, task.core_origin, Vec::new()));
        }
    }
    if resolver.spaces.is_stranger(id) {
        steps.push(resolver.add_step(StepKind::Vacate, task.origin, Vec::new()));
    }
    let from = tree::born_of(&resolver.forest, model.tasks.len(), id).and_then(|parent| {
        model.tasks[parent.index()].alive().map(|alive| Inherited::of(resolver, parent, alive))
    });
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
            steps.push(resolver.add_step(
                StepKind::SigAction { signal: signal as u32, action },
                core,
                Vec::new(),
            ));
        }
    }
    if from.as_ref().is_none_or(|from| from.umask != me.umask) {
        steps.push(resolver.add_step(StepKind::Umask(me.umask), alive.fs.origin, Vec::new()));
    }
    resolver.recipes.tasks[id.index()].cwd = me.cwd.map(str::to_owned);
    if me.cwd.is_none() {
        resolver.problems.add(
            ProblemKind::BadImages,
            Some(task.pid),
            Some(alive.fs.origin),
            "its working directory is not in files.img",
        );
    }
    judge_directory(resolver, id, task, alive);
    if let Some(cwd) = me.cwd
        && from.as_ref().is_none_or(|from| from.cwd != Some(cwd))
    {
        steps.push(resolver.add_step(StepKind::Chdir(cwd.to_owned()), alive.fs.origin, Vec::new()));
    }
    if from.as_ref().is_none_or(|from| from.comm != me.comm) {
        steps.push(resolver.add_step(StepKind::Comm(me.comm.to_owned()), core, Vec::new()));
    }
    steps
}

/// What is not restored yet, by name.
fn refuse(resolver: &mut Resolver<'_>, task: &Task, alive: &Alive) {
    let pid = Some(task.pid);
    let core = Some(task.core_origin);
    let mut no = |text: String| resolver.problems.unsupported(pid, core, text);
    if alive.sigactions.iter().any(|action| action.compat) {
        no("32-bit tasks are not restored yet".to_owned());
    }
    if alive.rlimits.is_empty() {
        no("images without resource limits".to_owned());
    }
    let is_removed = ghost::remap_of(resolver, alive.fs.root_id).is_some();
    if path_of(resolver, alive.fs.root_id).is_none() || is_removed {
        let why = if is_removed { "was removed: not restored yet" } else { "is not in files.img" };
        resolver.problems.unsupported(pid, Some(alive.fs.origin), format!("its root directory {why}"));
    }
}

/// Steps of the task itself.
fn own(resolver: &mut Resolver<'_>, task: &Task, alive: &Alive, leader: &Thread) -> Vec<StepId> {
    let core = task.core_origin;
    let mut kinds = Vec::new();
    // After the mappings: READ_IMPLIES_EXEC would change what they may do (personality(2)).
    if resolver.facts.own.personality != Some(alive.personality) {
        kinds.push(StepKind::Personality(alive.personality));
    }
    if alive.membarrier != 0 {
        kinds.push(StepKind::Membarrier(alive.membarrier));
    }
    let mut steps = proc_attributes(resolver, task, alive);
    steps.extend(enter_removed(resolver, task, alive));
    steps.extend(kinds.into_iter().map(|kind| resolver.add_step(kind, core, Vec::new())));
    steps.extend(threads::own(resolver, task, leader));
    steps
}

/// Attributes that are set by writing to files of `/proc/self`.
fn proc_attributes(resolver: &mut Resolver<'_>, task: &Task, alive: &Alive) -> Vec<StepId> {
    let core = task.core_origin;
    let own = &resolver.facts.own;
    let mut wanted = Vec::new();
    if own.oom_score_adj != Some(alive.oom_score_adj) {
        // proc_pid_oom_score_adj(5): lowering it below what it was once set to takes CAP_SYS_RESOURCE.
        let have = own.oom_score_adj.unwrap_or(0);
        if alive.oom_score_adj < have && !own.caps.has_effective(host::CAP_SYS_RESOURCE) {
            let text = format!(
                "oom_score_adj {} is below ours ({have}), and CAP_SYS_RESOURCE is missing",
                alive.oom_score_adj
            );
            resolver.problems.add(ProblemKind::Lacking, Some(task.pid), Some(core), text);
        }
        wanted.push(("oom_score_adj", alive.oom_score_adj.to_string()));
    }
    if let (Some(want), Some(have)) = (alive.loginuid, own.loginuid)
        && want != have
    {
        // proc_pid_loginuid(5): with auditing it takes CAP_AUDIT_CONTROL.
        if !own.caps.has_effective(host::CAP_AUDIT_CONTROL) {
            let text = format!("the login uid is {want}, ours is {have}, and CAP_AUDIT_CONTROL is missing");
            resolver.problems.add(ProblemKind::Lacking, Some(task.pid), Some(core), text);
        }
        wanted.push(("loginuid", want.to_string()));
    }
    let mut steps = Vec::new();
    for (name, value) in wanted {
        let ofd = resolver.new_ofd();
        let path = format!("/proc/self/{name}");
        let kind = ResourceKind::File {
            path,
            flags: libc::O_WRONLY as u32,
            position: 0,
            purpose: FilePurpose::Attribute,
        };
        resolver.add_resource(kind, core, vec![Some(ofd)]);
        steps.push(resolver.add_step(StepKind::Write(value.into_bytes()), core, vec![ofd]));
    }
    steps
}

fn tail(resolver: &mut Resolver<'_>, id: TaskId, task: &Task, alive: &Alive, leader: &Thread) -> Vec<StepId> {
    let core = task.core_origin;
    let mut kinds = Vec::new();
    // Paths of the images start at the root of the mount namespace, so everything has been opened
    // by now. The working directory stays what it is (chroot(2)).
    if let Some(root) = path_of(resolver, alive.fs.root_id).filter(|root| *root != "/") {
        kinds.push(StepKind::Chroot(root.to_owned()));
    }
    let (limits, last): (Vec<StepKind>, Vec<_>) =
        limits(resolver, task, alive).into_iter().partition(|kind| !caps_signals(resolver, kind));
    kinds.extend(limits);
    // All signals are blocked until the very end: what is put back stays pending, what a timer sends
    // becomes so.
    for info in &alive.pending_shared {
        kinds.extend(threads::queue_signal(resolver, task, None, info, core));
    }
    for info in &leader.pending {
        kinds.extend(threads::queue_signal(resolver, task, Some(leader.tid.0), info, core));
    }
    kinds.extend(last);
    for (which, (interval_us, value_us)) in (0..).zip(alive.timers.itimers) {
        // One that has been disarmed keeps its interval, but for the real one (getitimer(2) shows it).
        if value_us != 0 || interval_us != 0 {
            kinds.push(StepKind::IntervalTimer { which, interval_us, value_us });
        }
    }
    kinds.extend(
        alive.timers.posix.iter().filter(|timer| timer.value_ns != 0).map(|timer| StepKind::ArmTimer(*timer)),
    );
    // Who has orphans to adopt has become one for them.
    if alive.child_subreaper || resolver.adopters.contains(&id) {
        kinds.push(StepKind::ChildSubreaper(alive.child_subreaper));
    }
    let mut steps: Vec<StepId> =
        kinds.into_iter().map(|kind| resolver.add_step(kind, core, Vec::new())).collect();
    steps.extend(threads::tail(resolver, task, alive, leader));
    steps
}

/// Whether fewer signals may wait than with our own limit: it is set when all wait.
fn caps_signals(resolver: &Resolver<'_>, kind: &StepKind) -> bool {
    const SIGPENDING: u32 = libc::RLIMIT_SIGPENDING;
    let own = resolver.facts.own.rlimits[SIGPENDING as usize];
    matches!(kind, StepKind::RLimit { resource: SIGPENDING, cur, .. } if own.is_some_and(|own| *cur < own.cur))
}

/// Limits that differ from what is inherited from the launcher, which has raised its soft limit of
/// descriptors to the hard one.
fn limits(resolver: &mut Resolver<'_>, task: &Task, alive: &Alive) -> Vec<StepKind> {
    let mut kinds = Vec::new();
    for (resource, limit) in alive.rlimits.iter().enumerate() {
        let Some(own) = resolver.facts.own.rlimits.get(resource).copied().flatten() else {
            let text = format!("resource limit {resource} is unknown here");
            resolver.problems.unsupported(Some(task.pid), Some(task.core_origin), text);
            continue;
        };
        let inherited = if resource == libc::RLIMIT_NOFILE as usize {
            RLimit { cur: own.max, max: own.max }
        } else {
            own
        };
        if limit.max > own.max && !resolver.facts.own.caps.has_effective(host::CAP_SYS_RESOURCE) {
            let text = format!(
                "hard limit {} of resource {resource} is above ours ({}), and CAP_SYS_RESOURCE is missing",
                limit.max, own.max
            );
            resolver.problems.add(ProblemKind::Lacking, Some(task.pid), Some(task.core_origin), text);
        }
        if limit.cur > limit.max {
            let text = format!("soft limit {} of resource {resource} is above the hard one", limit.cur);
            resolver.problems.add(ProblemKind::BadImages, Some(task.pid), Some(task.core_origin), text);
        }
        // getrlimit(2): no limit of descriptors is above fs.nr_open.
        if let Some(most) = resolver.facts.kernel.nr_open
            && resource == libc::RLIMIT_NOFILE as usize
            && limit.max > most
        {
            let text = format!("hard limit {} of descriptors is above fs.nr_open ({most})", limit.max);
            resolver.problems.add(ProblemKind::Lacking, Some(task.pid), Some(task.core_origin), text);
        }
        if *limit != inherited {
            kinds.push(StepKind::RLimit { resource: resource as u32, cur: limit.cur, max: limit.max });
        }
    }
    kinds
}
