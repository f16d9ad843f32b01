//! The stages, one after another: from a directory to tapes with a certificate.
//!
//! Each stage's result stays here, because messages and views look back: from a record to its
//! operation, from there to the recipe and the image entry.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use regrow_graph::cost::CostModel;
use regrow_graph::graph::OpKind;
use regrow_graph::ids::OpId;
use regrow_graph::order::{self, Plan, PlanError};
use regrow_graph::verify::{Certificate, Counterexample};
use thiserror::Error;

use crate::certify::{self, CertifiedTapes, Demands, Ground};
use crate::host::{self, HostFacts, Vdso, XsaveLayout};
use crate::image::ahead::{self, Ahead, Stretch};
use crate::image::alike::{Alike, Pair};
use crate::image::vdso::Dumped;
use crate::image::{self, ImageError, Model, NsPid, ReadErrors};
use crate::lower::{self, registers};
use crate::resolve::problem::{Problem, ProblemKind};
use crate::resolve::recipe::StepKind;
use crate::resolve::{self, Options, Payloads, Resolved, space};
use crate::tape::assemble::TooLarge;
use crate::tape::{Tapes, ThreadState};

/// Everything that a run, a dry run and their views need.
#[derive(Debug)]
pub struct Prepared {
    /// The images.
    pub model: Model,
    /// This host.
    pub facts: HostFacts,
    /// Resources, users, recipes.
    pub resolved: Resolved,
    /// Graph, order, programs.
    pub plan: Plan,
    /// What runs.
    pub tapes: CertifiedTapes,
    /// What is true before it runs.
    pub ground: Ground,
    /// What it is judged by.
    pub demands: Demands,
    /// That it runs right.
    pub certificate: Certificate,
    /// What ptrace sets in the end, in the order of the tapes' living tasks.
    pub threads: Vec<ThreadState>,
    /// How long each stage took.
    pub timings: Timings,
    /// What it was planned with.
    pub costs: CostModel,
    /// Cores that are assumed where times are predicted.
    pub cores: u32,
    /// By which rule it was planned.
    pub policy: resolve::policy::Policy,
}

/// Time a stage took.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct Timings {
    pub read: Duration,
    pub alike: Duration,
    pub facts: Duration,
    pub resolve: Duration,
    pub plan: Duration,
    pub lower: Duration,
    /// Of what the images say of the end: while it is resolved, planned and lowered.
    pub demands: Duration,
    pub certify: Duration,
    /// When each ran; one that reads again has several.
    pub spans: Vec<Span>,
}

/// A time in which a stage ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The stage.
    pub stage: &'static str,
    /// From
    pub start: Instant,
    /// to.
    pub end: Instant,
}

/// A stage that is timed.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Read,
    Alike,
    Facts,
    Resolve,
    Plan,
    Lower,
    Certify,
}

impl Timings {
    fn add(&mut self, stage: Stage, Range { start, end }: Range<Instant>) {
        let (name, sum) = match stage {
            Stage::Read => ("read", &mut self.read),
            Stage::Alike => ("compare", &mut self.alike),
            Stage::Facts => ("facts", &mut self.facts),
            Stage::Resolve => ("resolve", &mut self.resolve),
            Stage::Plan => ("plan", &mut self.plan),
            Stage::Lower => ("lower", &mut self.lower),
            Stage::Certify => ("certify", &mut self.certify),
        };
        *sum += end - start;
        self.spans.push(Span { stage: name, start, end });
    }
}

/// Why there is nothing to run.
#[derive(Debug, Error)]
pub enum PrepareError {
    /// The images cannot be read.
    #[error(transparent)]
    Read(#[from] ReadErrors),
    /// Part of the images cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// They can be read, and cannot be restored here.
    #[error("{}", list(.0))]
    Problems(Vec<Problem>),
    /// The tapes do not fit.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// There is no room to note times.
    #[error("no room to trace: {0}")]
    NoRoomToTrace(TooLarge),
    /// The tapes do not do what they should: a defect of regrow. Nothing has been run.
    #[error("the plan has no certificate, so it is not run: {0}")]
    Refuted(Box<Counterexample>),
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl PrepareError {
    /// The problems, in the form in which `check` lists them.
    pub fn problems(&self) -> Vec<Problem> {
        let bad = |text: String| Problem { kind: ProblemKind::BadImages, task: None, text, origin: None };
        match self {
            PrepareError::Problems(problems) => problems.clone(),
            PrepareError::Read(errors) => errors
                .errors()
                .iter()
                .map(|error| Problem {
                    kind: if error.is_unsupported() {
                        ProblemKind::Unsupported
                    } else {
                        ProblemKind::BadImages
                    },
                    task: None,
                    text: error.to_string(),
                    origin: None,
                })
                .collect(),
            PrepareError::Image(error) => vec![bad(error.to_string())],
            PrepareError::TooLarge(_) | PrepareError::NoRoomToTrace(_) => {
                vec![Problem { kind: ProblemKind::Lacking, task: None, text: self.to_string(), origin: None }]
            }
            PrepareError::Refuted(counterexample) => {
                let text = format!("the plan has no certificate: {counterexample}");
                vec![Problem { kind: ProblemKind::Defect, task: None, text, origin: None }]
            }
        }
    }
}

/// Reads, resolves, plans, lowers and certifies. Creates nothing.
///
/// # Errors
/// Whatever keeps the directory from being restored here: all of it, as far as the stages got.
pub fn prepare(dir: &Path, options: &Options) -> Result<Prepared, PrepareError> {
    let (prepared, problems) = try_prepare(dir, options)?;
    match prepared {
        Some(prepared) if problems.is_empty() => Ok(prepared),
        Some(_) | None => Err(PrepareError::Problems(problems)),
    }
}

/// As [`prepare`], for a dry run: where the problems leave a plan (a pid is taken, a file is
/// missing), it comes with them.
///
/// # Errors
/// The images cannot be read, or the plan has no certificate.
pub fn try_prepare(dir: &Path, options: &Options) -> Result<(Option<Prepared>, Vec<Problem>), PrepareError> {
    try_prepare_on(dir, options, |model| host::gather(model, None))
}

/// As [`try_prepare`], on a host whose facts are what `gather` says: it touches nothing but the images.
///
/// # Errors
/// As [`try_prepare`].
pub fn try_prepare_on(
    dir: &Path,
    options: &Options,
    gather: impl FnOnce(&Model) -> HostFacts + Send,
) -> Result<(Option<Prepared>, Vec<Problem>), PrepareError> {
    let mut timings = Timings::default();
    let ahead = Ahead::directory(dir, options.restoring);
    let model = timed(&mut timings, Stage::Read, || image::read_model(dir))?;
    let mut payloads = timed(&mut timings, Stage::Read, || read_payloads(&model))?;
    // Neither knows of the other, and comparing leaves room for who asks: it waits for memory.
    let ((alike, compared), (facts, asked)) = rayon::join(
        || {
            spanned(|| {
                let pairs = space::candidates(&model, options);
                ahead.stretches(soon_read(&model, &pairs, options.restoring));
                Alike::find(&model, &pairs)
            })
        },
        || spanned(|| gather(&model)),
    );
    payloads.alike = Arc::new(alike);
    timings.add(Stage::Alike, compared);
    timings.add(Stage::Facts, asked);
    let vdsos =
        timed(&mut timings, Stage::Read, || read_vdsos(&model, facts.vdso.as_ref(), &payloads.alike))?;
    payloads.vdsos = Arc::new(vdsos);
    let prepared = try_prepare_model(model, payloads, facts, options, timings);
    if options.restoring && matches!(&prepared, Ok((Some(_), problems)) if problems.is_empty()) {
        ahead.wait();
    }
    prepared
}

/// The pages that are not being read ahead yet, and will be needed: those that are compared, and of a restore all. Of the
/// directory itself these have been asked for already.
fn soon_read(model: &Model, pairs: &[Pair], restoring: bool) -> Vec<Stretch> {
    let compared: BTreeSet<usize> = pairs.iter().flat_map(|pair| [pair.child, pair.parent]).collect();
    let tasks = model.tasks.iter().enumerate().filter(|(index, _)| restoring || compared.contains(index));
    let pages = tasks.filter_map(|(_, task)| task.alive()).flat_map(|alive| &alive.mm.pages.extents);
    let shared = model.shm.iter().filter(|_| restoring).flat_map(|shm| &shm.pages.extents);
    ahead::of_pages(model, pages.chain(shared).filter(|extent| !restoring || extent.image.depth > 0))
}

/// As [`try_prepare`], of what has been read: nothing but memory is touched, where no pages must be compared. `timings`
/// are those so far.
///
/// # Errors
/// The plan has no certificate, or what the checker has to read of the images cannot be read.
pub fn try_prepare_model(
    model: Model,
    payloads: Payloads,
    facts: HostFacts,
    options: &Options,
    timings: Timings,
) -> Result<(Option<Prepared>, Vec<Problem>), PrepareError> {
    // All of it in one thread of the pool: what one stage has given back the next one takes, instead of memory that has
    // never been touched.
    rayon::scope(|_| prepare_model(model, payloads, facts, options, timings))
}

/// As [`try_prepare_model`], in whatever thread.
fn prepare_model(
    model: Model,
    payloads: Payloads,
    facts: HostFacts,
    options: &Options,
    mut timings: Timings,
) -> Result<(Option<Prepared>, Vec<Problem>), PrepareError> {
    // What the images say of the end has nothing to do with how it is reached: both are found out at the same time.
    let ground = Ground {
        vdsos: Arc::clone(&payloads.vdsos),
        cgroups: certify::CgroupGround::of(&facts, options.manage_cgroups.as_deref()),
        ..Ground::of(&facts, cradle_of(&model, &facts, options))
    };
    let start = Instant::now();
    let (demands, planned) = rayon::join(
        || {
            let demands = Demands::of(&model, &ground);
            (demands, Span { stage: "demands", start, end: Instant::now() })
        },
        || plan_model(&model, &payloads, &facts, options, &mut timings),
    );
    let (demands, span) = demands;
    timings.demands = span.end - span.start;
    timings.spans.push(span);
    let (planned, problems) = planned?;
    let Some(Planned { resolved, plan, mut tapes, threads, alike }) = planned else {
        return Ok((None, problems));
    };
    if options.tracing {
        tapes.set_traced().map_err(PrepareError::NoRoomToTrace)?;
    }
    let commit = (threads.len() == living_threads(&model)).then_some(threads.as_slice());
    let certified = timed(&mut timings, Stage::Certify, || {
        let mut demands = demands?;
        demands.alike = alike;
        let (tapes, certificate) = certify::certify_tapes(&demands, tapes, commit)?;
        Ok((demands, tapes, certificate))
    });
    let (demands, tapes, certificate) = match certified {
        Ok(certified) => certified,
        // What is lacking here cannot come out as the images say; that is said already.
        Err(_) if problems.iter().any(|problem| problem.kind == ProblemKind::Lacking) => {
            return Ok((None, problems));
        }
        Err(error) => return Err(PrepareError::Refuted(Box::new(error))),
    };
    let prepared = Prepared {
        model,
        facts,
        resolved,
        plan,
        tapes,
        ground,
        demands,
        certificate,
        threads,
        timings,
        costs: options.costs,
        cores: options.cores,
        policy: options.policy,
    };
    Ok((Some(prepared), problems))
}

/// What there is to be certified.
struct Planned {
    resolved: Resolved,
    plan: Plan,
    tapes: Tapes,
    threads: Vec<ThreadState>,
    /// What is inherited.
    alike: certify::AlikePages,
}

/// Resolves, plans and lowers; with all problems on the way.
fn plan_model(
    model: &Model,
    payloads: &Payloads,
    facts: &HostFacts,
    options: &Options,
    timings: &mut Timings,
) -> Result<(Option<Planned>, Vec<Problem>), PrepareError> {
    let resolution = timed(timings, Stage::Resolve, || resolve::resolve(model, payloads, facts, options));
    let mut problems = resolution.problems;
    let window = resolution.resolved.as_ref().map_or(0..0, |resolved| {
        resolved.window.base..resolved.window.base.saturating_add(resolved.window.len)
    });
    let find_threads = |problems: &mut Vec<Problem>| {
        let start = Instant::now();
        let threads = thread_states(model, facts.xsave.as_ref(), window, problems);
        (threads, start..Instant::now())
    };
    let Some(mut resolved) = resolution.resolved else {
        timings.add(Stage::Lower, find_threads(&mut problems).1);
        return Ok((None, problems));
    };
    timed(timings, Stage::Plan, || resolve::policy::apply(options.policy, &mut resolved));
    let needs = resolved.needs.take();
    // The order is found by one processor; what it has nothing to do with, the other ones do meanwhile.
    let (plan, (alike, (threads, span))) = rayon::join(
        || timed(timings, Stage::Plan, || order::plan_knowing(&resolved.forest, resolved.cradle, needs)),
        || (known_alike(model, &resolved, &payloads.alike), find_threads(&mut problems)),
    );
    timings.add(Stage::Lower, span);
    let plan = match plan {
        Ok(plan) => plan,
        Err(error) => {
            // What is unsupported leaves holes that the planner stumbles over: only the cause is news.
            if matches!(error, PlanError::Family(_)) || !leaves_holes(&problems) {
                problems.extend(plan_problems(&error, &resolved));
            }
            return Ok((None, problems));
        }
    };
    if leaves_holes(&problems) {
        // A plan that leaves something out cannot have a certificate.
        return Ok((None, problems));
    }
    let tapes = timed(timings, Stage::Lower, || lower::lower(&plan, &resolved.recipes, &resolved.window))?;
    Ok((Some(Planned { resolved, plan, tapes, threads, alike }), problems))
}

/// Whether something of the images is in no plan.
fn leaves_holes(problems: &[Problem]) -> bool {
    problems.iter().any(|problem| matches!(problem.kind, ProblemKind::Unsupported | ProblemKind::BadImages))
}

/// Which session and group of the images become those of the caller (`--shell-job`).
fn cradle_of(model: &Model, facts: &HostFacts, options: &Options) -> certify::Cradle {
    match (model.tasks.first(), facts.own.sid, facts.own.pgid) {
        (Some(root), Some(sid), Some(pgid)) if options.shell_job && root.sid != root.pid => certify::Cradle {
            sid: Some((root.sid.0, sid)),
            pgid: (root.pgid != root.pid).then_some((root.pgid.0, pgid)),
        },
        _ => certify::Cradle::default(),
    }
}

fn timed<T>(timings: &mut Timings, stage: Stage, run: impl FnOnce() -> T) -> T {
    let (result, span) = spanned(run);
    timings.add(stage, span);
    result
}

/// What `run` gives, and when it ran.
fn spanned<T>(run: impl FnOnce() -> T) -> (T, Range<Instant>) {
    let start = Instant::now();
    let result = run();
    (result, start..Instant::now())
}

/// Loads what waits in pipes, sockets and message queues, and the values of semaphores.
fn read_payloads(model: &Model) -> Result<Payloads, ImageError> {
    let blobs = image::Blobs::of(model);
    let read = |blob: &image::Blob| blobs.read(blob);
    Ok(Payloads {
        pipes: model.pipe_data.iter().map(|entry| read(&entry.data)).collect::<Result<_, _>>()?,
        fifos: model.fifo_data.iter().map(|entry| read(&entry.data)).collect::<Result<_, _>>()?,
        packets: model.packets.iter().map(|entry| read(&entry.data)).collect::<Result<_, _>>()?,
        messages: model.own_ipc().map_or(Ok(Vec::new()), |ns| {
            let messages = |queue: &image::ipc::SysvQueue| {
                queue.messages.iter().map(|message| read(&message.data)).collect::<Result<_, _>>()
            };
            ns.queues.iter().map(messages).collect::<Result<_, _>>()
        })?,
        semaphores: model.own_ipc().map_or(Ok(Vec::new()), |ns| {
            ns.semaphores.iter().map(|set| read(&set.values)).collect::<Result<_, _>>()
        })?,
        vdsos: Arc::default(),
        alike: Arc::default(),
    })
}

/// What is inherited, by where it is stored: so that nobody need compare it twice.
fn known_alike(model: &Model, resolved: &Resolved, alike: &Alike) -> certify::AlikePages {
    let mut known = certify::AlikePages::default();
    for child in &resolved.heirs {
        let Some(parent) = resolve::born_of(&resolved.forest, model.tasks.len(), *child) else { continue };
        if let Some(runs) = alike.of(child.index(), parent.index()) {
            known.add(runs);
        }
    }
    known
}

/// The vDSOs that are not the running kernel's, with who was stopped in them. (One of the running
/// kernel costs this comparison and nothing else; not even that, where it is known to be as another task's by `alike`.)
pub(crate) fn read_vdsos(
    model: &Model,
    running: Option<&Vdso>,
    alike: &Alike,
) -> Result<BTreeMap<NsPid, Dumped>, ImageError> {
    let Some(running) = running else { return Ok(BTreeMap::new()) };
    let same = image::vdso::same_code(model, alike);
    // `None`: it is the running kernel's, or another's code stands for it.
    let read = |(index, task): (usize, &image::Task)| {
        let Some(alive) = task.alive().filter(|_| same[index] == index) else { return Ok(None) };
        let code = image::vdso::read_code(model, alive)?;
        Ok((code.as_ref() != Some(&running.bytes)).then_some(code))
    };
    let others: Vec<Option<Option<Vec<u8>>>> =
        model.tasks.par_iter().enumerate().map(read).collect::<Result<_, ImageError>>()?;
    let find = |(index, task): (usize, &image::Task)| {
        let Some(alive) = task.alive() else { return Ok(None) };
        let Some(vma) = image::vdso::code_of(alive) else { return Ok(None) };
        let other = &others[same[index]];
        if other.is_none() && running.is_laid_out_as(alive) {
            return Ok(None);
        }
        let code = other.clone().unwrap_or_else(|| Some(running.bytes.clone()));
        let stops = image::vdso::stops_within(model, alive, vma)?;
        Ok(Some((task.pid, Dumped { code, stops })))
    };
    let found: Vec<Option<(NsPid, Dumped)>> =
        model.tasks.par_iter().enumerate().map(find).collect::<Result<_, ImageError>>()?;
    Ok(found.into_iter().flatten().collect())
}

/// What ptrace sets in each living task, in the order of the tasks. The tapes are in `window`.
pub(crate) fn thread_states(
    model: &Model,
    layout: Option<&XsaveLayout>,
    window: Range<u64>,
    problems: &mut Vec<Problem>,
) -> Vec<ThreadState> {
    let mut states = Vec::new();
    let parents_of_stopped: BTreeSet<_> = model
        .tasks
        .iter()
        .filter(|task| matches!(task.state, image::TaskState::Stopped(_)))
        .map(|task| task.ppid)
        .collect();
    for task in &model.tasks {
        let eats_sigchld = parents_of_stopped.contains(&task.pid) && !has_sigchld(task);
        for thread in task.alive().iter().flat_map(|alive| &alive.threads) {
            let is_leader = thread.tid == task.pid;
            let xstate = match layout {
                Some(layout) => registers::xstate(thread.fpu.as_deref(), layout),
                None => Ok(Vec::new()),
            };
            match xstate {
                Ok(xstate) => states.push(ThreadState {
                    tid: thread.tid.0,
                    is_leader,
                    registers: registers::user_regs(thread),
                    xstate,
                    blocked: thread.blocked,
                    eats_sigchld: is_leader && eats_sigchld,
                    leaves: is_leader && !eats_sigchld && can_leave(task, &window),
                    stop_signal: match &task.state {
                        image::TaskState::Stopped(alive) if thread.tid == task.pid => {
                            Some(stop_signal(alive))
                        }
                        image::TaskState::Stopped(_)
                        | image::TaskState::Alive(_)
                        | image::TaskState::Zombie { .. } => None,
                    },
                }),
                Err(error) => problems.push(Problem {
                    kind: ProblemKind::Lacking,
                    task: Some(task.pid),
                    text: error.to_string(),
                    origin: Some(thread.origin),
                }),
            }
        }
    }
    states
}

/// Threads with registers: those of tasks that live.
fn living_threads(model: &Model) -> usize {
    model.tasks.iter().filter_map(|task| task.alive()).map(|alive| alive.threads.len()).sum()
}

/// The signal that stops a task again: the one that had stopped it, if it would.
fn stop_signal(alive: &image::Alive) -> i32 {
    let wanted = alive.stop_signo.and_then(|signal| i32::try_from(signal).ok()).unwrap_or(libc::SIGSTOP);
    let is_stop = matches!(wanted, libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU);
    let action = usize::try_from(wanted - 1).ok().and_then(|index| alive.sigactions.get(index));
    let is_default = action.is_none_or(|action| action.handler == libc::SIG_DFL as u64);
    if is_stop && is_default { wanted } else { libc::SIGSTOP }
}

/// Whether a SIGCHLD of the images waits for the task.
fn has_sigchld(task: &image::Task) -> bool {
    task.alive().is_some_and(|alive| alive.pending_shared.iter().any(is_of(libc::SIGCHLD)))
}

fn is_of(signal: i32) -> impl Fn(&Vec<u8>) -> bool {
    move |info| info.first().is_some_and(|byte| i32::from(*byte) == signal)
}

/// Whether a task can unmap the window by itself and be caught by the fault that follows (docs/decisions/0027):
/// nobody else runs in it, it is not to stop, the fault's SIGSEGV is the only one, changes nothing of the task, and
/// lets no stack grow.
fn can_leave(task: &image::Task, window: &Range<u64>) -> bool {
    let image::TaskState::Alive(alive) = &task.state else { return false };
    let [thread] = alive.threads.as_slice() else { return false };
    let is_sigsegv = is_of(libc::SIGSEGV);
    // The kernel sets an ignored one back to the default (force_sig_info_to_task, kernel/signal.c).
    let is_ignored = alive
        .sigactions
        .get(libc::SIGSEGV as usize - 1)
        .is_some_and(|action| action.handler == libc::SIG_IGN as u64);
    let is_mapped = |vma: &&image::Vma| !matches!(vma.kind, image::VmaKind::Vdso | image::VmaKind::Vvar);
    let above = alive
        .mm
        .vmas
        .iter()
        .filter(is_mapped)
        .filter(|vma| vma.start >= window.end)
        .min_by_key(|vma| vma.start);
    !window.is_empty()
        && !is_ignored
        && !alive.pending_shared.iter().chain(&thread.pending).any(is_sigsegv)
        && above.is_none_or(|vma| vma.flags & libc::MAP_GROWSDOWN as u32 == 0)
}

/// What the planner cannot place, in the terms of the images.
fn plan_problems(error: &PlanError, resolved: &Resolved) -> Vec<Problem> {
    let of_task = |task: regrow_graph::ids::TaskId, text: String| {
        let recipe = &resolved.recipes.tasks[task.index()];
        Problem { kind: ProblemKind::Unsupported, task: Some(recipe.pid), text, origin: Some(recipe.origin) }
    };
    match error {
        PlanError::Family(errors) => {
            errors.iter().map(|error| of_task(error.task(), format!("{error}: not restored yet"))).collect()
        }
        // Who shares a table waits for others when its turn is over, so there is no circle that is known.
        PlanError::Cycle(_) if resolved.forest.tasks.iter().any(|task| task.shares_table) => {
            let text =
                "tasks share a descriptor table, and wait for one another in a circle: not restored yet";
            vec![Problem { kind: ProblemKind::Unsupported, task: None, text: text.to_owned(), origin: None }]
        }
        PlanError::Place(_) | PlanError::Cycle(_) => {
            vec![Problem { kind: ProblemKind::Lacking, task: None, text: error.to_string(), origin: None }]
        }
    }
}

impl Prepared {
    /// The step that an operation is, if it is one.
    pub(crate) fn step(&self, op: u32) -> Option<&StepKind> {
        if op as usize >= self.plan.graph.len() {
            return None;
        }
        match &self.plan.graph.op(OpId(op)).kind {
            OpKind::Step { step, .. } => Some(&self.resolved.recipes.steps.get(step.index())?.kind),
            _ => None,
        }
    }

    /// What an operation is done for and the image entry it comes from, in words.
    pub fn purpose(&self, op: u32) -> String {
        if op as usize >= self.plan.graph.len() {
            return "an unknown operation".to_owned();
        }
        crate::report::purpose(self, OpId(op))
    }
}
