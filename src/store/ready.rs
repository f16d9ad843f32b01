//! From a stored plan to certified tapes: whether the images and the host are those it was made for, and
//! whether its tapes do, from where things stand now, what they must.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use regrow_graph::verify::{Certificate, Counterexample};
use thiserror::Error;

use super::{StoreError, StoredPlan, file, host, room, wire};
use crate::certify::{self, CertifiedTapes, Demands, Ground};
use crate::image::Model;
use crate::image::ahead::{Ahead, Stretch};
use crate::image::alike::Alike;
use crate::pipeline::{self, PrepareError, Span};
use crate::resolve::Options;
use crate::resolve::policy::Policy;
use crate::resolve::problem::{Problem, ProblemKind};
use crate::tape::assemble::TooLarge;
use crate::tape::{Tapes, ThreadState};

/// A stored plan that can be played here and now.
#[derive(Debug)]
pub struct Ready {
    /// What runs.
    pub tapes: CertifiedTapes,
    /// What ptrace sets in the end.
    pub threads: Vec<ThreadState>,
    /// What they were judged by. To give its memory back takes longer than anybody wants to wait before they run.
    pub demands: Demands,
    /// That it runs right.
    pub certificate: Certificate,
    /// How long it took.
    pub timings: Timings,
    purposes: super::Purposes,
}

/// Time that a part took.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct Timings {
    pub read: Duration,
    /// Of what it is judged by, while the next two are asked.
    pub demands: Duration,
    pub images: Duration,
    pub host: Duration,
    pub certify: Duration,
    /// When each ran.
    pub spans: Vec<Span>,
}

/// Why a stored plan cannot be played here.
#[derive(Debug, Error)]
pub enum ReadyError {
    /// It cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The images or the host are not those that it was made for.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Stale(Vec<Problem>),
    /// There is no room to note times.
    #[error("no room to trace: {0}")]
    NoRoomToTrace(TooLarge),
    /// Its tapes do not do what they must.
    #[error("the stored plan has no certificate, so it is not run: {0}")]
    Refuted(Box<Counterexample>),
}

impl ReadyError {
    /// The problems, in the form in which `check` lists them.
    pub fn problems(&self) -> Vec<Problem> {
        let one = |kind, text| vec![Problem { kind, task: None, text, origin: None }];
        match self {
            ReadyError::Store(error) => one(ProblemKind::BadPlan, error.to_string()),
            ReadyError::Stale(problems) => problems.clone(),
            ReadyError::NoRoomToTrace(_) => one(ProblemKind::Lacking, self.to_string()),
            ReadyError::Refuted(_) => one(ProblemKind::Defect, self.to_string()),
        }
    }
}

/// Reads a stored plan and makes it ready to be played. `dir`: where the user says that the images are;
/// `options`: what he allows. No image is opened while `stat(2)` says that they are as they were.
///
/// # Errors
/// Everything that keeps it from being played.
pub fn prepare(path: &Path, dir: Option<&Path>, options: &Options) -> Result<Ready, ReadyError> {
    let mut timings = Timings::default();
    let failed = |error| StoreError { path: path.to_owned(), error };
    let timed = |stage: &'static str, start: Instant| Span { stage, start, end: Instant::now() };
    let start = Instant::now();
    let parts = wire::read_parts(file::open(path).map_err(failed)?).map_err(failed)?;
    let read = timed("read", start);
    let wire::Parts { about, images, host, demands, threads, mut tapes, deadlines, purposes } = parts;
    let ahead = Ahead::default();
    if options.restoring {
        ahead.stretches(images.of_pages(&about.dir).into_iter().map(Stretch::whole).collect());
    }
    // What the tapes are judged by is decoded while all else is looked at: whether the images and the host are those
    // of the plan, and what the tapes do.
    let (demands, rest) = rayon::join(
        || {
            let start = Instant::now();
            let demands = demands.decode();
            (demands, timed("demands", start))
        },
        || {
            let mut problems = differences_of_options(&about.options, options);
            let start = Instant::now();
            match check_place(&about.dir, dir) {
                Ok(()) => problems.extend(images.differences(&about.dir, false)),
                Err(problem) => problems.push(problem),
            }
            let of_images = timed("images", start);
            let start = Instant::now();
            let facts = crate::host::ask(&host.relied.questions(&tapes));
            problems.extend(host.relied.differences(&facts, &tapes));
            problems.extend(host::taken(&facts));
            problems.extend(host::window(&facts, &tapes));
            // The host as it is now, not as the plan says that it was.
            let ground = Ground::of(&facts, host.cradle);
            set_deadlines(&mut tapes, &deadlines, &ground.facts);
            room::fit(&mut tapes, crate::resolve::huge_room(&facts));
            let traced = if options.tracing { tapes.set_traced() } else { Ok(()) };
            (problems, facts, ground, traced, tapes, [of_images, timed("facts", start)])
        },
    );
    let (problems, facts, ground, traced, tapes, [of_images, of_host]) = rest;
    let (demands, of_demands) = demands;
    let mut demands = demands.map_err(failed)?;
    let clocks = host::clocks(&demands.clocks, &facts, &tapes);
    let problems: Vec<Problem> = problems.into_iter().chain(clocks).collect();
    if !problems.is_empty() {
        return Err(ReadyError::Stale(problems));
    }
    traced.map_err(ReadyError::NoRoomToTrace)?;
    let start = Instant::now();
    demands.expected.facts = ground.facts;
    demands.expected.inherited = ground.inherited.0;
    let refuted = |counterexample| ReadyError::Refuted(Box::new(counterexample));
    let (tapes, certificate) = certify::certify_tapes(&demands, tapes, Some(&threads)).map_err(refuted)?;
    let check = timed("certify", start);
    let length = |span: &Span| span.end - span.start;
    (timings.read, timings.demands) = (length(&read), length(&of_demands));
    (timings.images, timings.host) = (length(&of_images), length(&of_host));
    timings.certify = length(&check);
    timings.spans = vec![read, of_demands, of_images, of_host, check];
    ahead.wait();
    Ok(Ready { tapes, threads, demands, certificate, timings, purposes })
}

impl Ready {
    /// What an operation is done for and the image entry it comes from, in words.
    pub fn purpose(&self, op: u32) -> String {
        self.purposes.all().remove(&op).unwrap_or_else(|| "an unknown operation".to_owned())
    }
}

impl Ready {
    /// All purposes, by operation.
    pub fn purposes(&self) -> BTreeMap<u32, String> {
        self.purposes.all()
    }
}

/// Whether the directory is the one that the tapes name.
fn check_place(planned: &Path, dir: Option<&Path>) -> Result<(), Problem> {
    let Some(dir) = dir else { return Ok(()) };
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let real = |path: &Path| path.canonicalize().ok();
    let dir = absolute(dir);
    if dir == planned || real(&dir).is_some() && real(&dir) == real(planned) {
        return Ok(());
    }
    let text = format!(
        "planned for the images in {}, these are in {}: the tapes read the pages there; plan again",
        planned.display(),
        dir.display()
    );
    Err(Problem { kind: ProblemKind::StalePlan, task: None, text, origin: None })
}

/// What is asked for now and was not when the plan was made.
fn differences_of_options(was: &Options, now: &Options) -> Vec<Problem> {
    let mut all = Vec::new();
    for (name, differs) in [
        ("--shell-job", now.shell_job && !was.shell_job),
        ("--file-locks", now.file_locks && !was.file_locks),
        ("--tcp-established", now.tcp_established && !was.tcp_established),
        ("--tcp-close", now.tcp_close && !was.tcp_close),
        ("--ext-unix-sk", now.ext_unix_sk && !was.ext_unix_sk),
        ("--link-remap", now.link_remap && !was.link_remap),
        ("--root", now.root.is_some() && now.root != was.root),
        ("--external", now.external.iter().any(|resource| !was.external.contains(resource))),
        ("--policy", now.policy != Policy::Inherit && now.policy != was.policy),
        ("--cgroup-root", !now.cgroup_root.is_empty() && now.cgroup_root != was.cgroup_root),
        ("--manage-cgroups", now.manage_cgroups.is_some() && now.manage_cgroups != was.manage_cgroups),
    ] {
        if differs {
            let text = format!("planned without {name}, or with another value of it");
            all.push(Problem { kind: ProblemKind::StalePlan, task: None, text, origin: None });
        }
    }
    all
}

/// Counts absolute deadlines from now. What is damaged here shows in the certificate.
fn set_deadlines(tapes: &mut Tapes, deadlines: &[super::TapeDeadline], facts: &certify::Facts) {
    let ro_base = tapes.ro_base();
    for deadline in deadlines {
        let Some(now_ns) = certify::now_ns(deadline.clock, facts, tapes.clocks_ns) else { continue };
        let value_ns = now_ns.saturating_add(deadline.left_ns);
        // `struct itimerspec`: the interval first.
        let at = deadline.address.checked_sub(ro_base).and_then(|at| usize::try_from(at).ok());
        let place = at.and_then(|at| tapes.ro.get_mut(at.checked_add(16)?..at.checked_add(32)?));
        let Some(place) = place else { continue };
        place[..8].copy_from_slice(&(value_ns / 1_000_000_000).to_ne_bytes());
        place[8..].copy_from_slice(&(value_ns % 1_000_000_000).to_ne_bytes());
    }
}

/// What a thorough verification found beside the certificate.
#[derive(Debug)]
pub struct Verified {
    /// That the tapes do what is demanded.
    pub certificate: Certificate,
    /// How many images hold pages, and how many do not.
    pub images: (usize, usize),
    /// Whether the content of pages was compared, too.
    pub compared_pages: bool,
}

/// Checks in full that a plan is one of the images in `dir`: their content, and that what the plan is judged
/// by is what they say.
///
/// # Errors
/// What differs.
pub fn verify_images(plan: &StoredPlan, dir: &Path) -> Result<Verified, ReadyError> {
    let certificate = plan.certify().map_err(|wrong| ReadyError::Refuted(Box::new(wrong)))?;
    check_place(&plan.about.dir, Some(dir)).map_err(|problem| ReadyError::Stale(vec![problem]))?;
    let problems = plan.images.differences(&plan.about.dir, true);
    if !problems.is_empty() {
        return Err(ReadyError::Stale(problems));
    }
    let remade = remake(plan).map_err(|error| ReadyError::Stale(error.problems()))?;
    let differences = differences_of_demands(&plan.demands, &remade.0);
    let unlike = plan.demands.alike.first_difference(&plan.demands.expected.images).map(|(held, wanted)| {
        let text = format!(
            "page {:#x} of {} and page {:#x} of {} are not alike",
            held.1, held.0, wanted.1, wanted.0
        );
        Problem { kind: ProblemKind::StalePlan, task: None, text, origin: None }
    });
    let problems: Vec<Problem> = differences
        .into_iter()
        .chain(unlike)
        .chain(differences_of_threads(&plan.threads, &remade.1))
        .collect();
    if !problems.is_empty() {
        return Err(ReadyError::Stale(problems));
    }
    let is_hashed = |image: &super::identity::ImageFile| image.hash.is_some();
    Ok(Verified {
        certificate,
        images: plan.images.count(),
        compared_pages: plan.images.all().all(is_hashed),
    })
}

/// What the images demand, and what the commit must set, on the host that the plan was made on.
fn remake(plan: &StoredPlan) -> Result<(Demands, Vec<ThreadState>), PrepareError> {
    let model: Model = crate::image::read_model(&plan.about.dir)?;
    let vdsos = pipeline::read_vdsos(&model, plan.host.vdso.as_ref(), &Alike::default())?;
    let ground = Ground {
        cradle: plan.host.cradle,
        facts: plan.demands.expected.facts,
        inherited: certify::Inherited(plan.demands.expected.inherited.clone()),
        vdso: plan.host.vdso.clone(),
        vdsos: vdsos.into(),
        cgroups: certify::CgroupGround::with(
            plan.demands.expected.hierarchies.clone(),
            plan.about.options.manage_cgroups.as_deref(),
        ),
    };
    let demands = Demands::of(&model, &ground).map_err(|wrong| PrepareError::Refuted(Box::new(wrong)))?;
    let mut problems = Vec::new();
    let window = plan.tapes.base..plan.tapes.base.saturating_add(plan.tapes.window_len);
    let threads = pipeline::thread_states(&model, plan.host.xsave.as_ref(), window, &mut problems);
    if problems.is_empty() { Ok((demands, threads)) } else { Err(PrepareError::Problems(problems)) }
}

/// How the demands of a plan are not those of the images, in their terms.
fn differences_of_demands(stored: &Demands, images: &Demands) -> Vec<Problem> {
    let mut all = Vec::new();
    let mut say = |text: String| {
        all.push(Problem { kind: ProblemKind::StalePlan, task: None, text, origin: None });
    };
    let not = "is not judged by what the images say of it";
    let (is, wanted) = (&stored.expected, &images.expected);
    let of_pid = |demands: &Demands| -> BTreeMap<u32, _> {
        demands.expected.tasks.iter().map(|task| (task.pid, task.clone())).collect()
    };
    let (own, theirs) = (of_pid(stored), of_pid(images));
    for pid in own.keys().chain(theirs.keys().filter(|pid| !own.contains_key(pid))) {
        if own.get(pid) != theirs.get(pid) {
            say(format!("task {pid} {not}"));
        }
    }
    for at in 0..is.ofds.len().max(wanted.ofds.len()) {
        if is.ofds.get(at) != wanted.ofds.get(at) {
            let name = wanted.ofds.get(at).or(is.ofds.get(at)).map_or("", |ofd| ofd.name.as_str());
            say(format!("{name} {not}"));
        }
    }
    for tid in is.seccomp.keys().chain(wanted.seccomp.keys().filter(|tid| !is.seccomp.contains_key(tid))) {
        if is.seccomp.get(tid) != wanted.seccomp.get(tid) {
            say(format!("seccomp of thread {tid} {not}"));
        }
    }
    for (name, differs) in [
        ("what a pipe holds", is.pipes != wanted.pipes),
        ("what a FIFO holds", is.fifos != wanted.fifos),
        ("where the root is born", is.cradle != wanted.cradle),
        ("which paths may be opened", is.paths != wanted.paths),
        ("which names sockets have", is.socket_paths != wanted.socket_paths),
        ("where the images are", is.images != wanted.images),
        ("a file without a name", is.inodes != wanted.inodes),
        ("shared memory", is.segments != wanted.segments),
        ("a deadline", stored.deadlines != images.deadlines),
        ("a clock", stored.clocks != images.clocks),
        ("which cgroups are made", stored.cgroups != images.cgroups),
        ("what the commit sets", stored.threads != images.threads),
    ] {
        if differs {
            say(format!("{name} {not}"));
        }
    }
    // Whatever else comes to be demanded. Which pages are alike is no demand, and the images alone do not say it:
    // it is compared by itself.
    fn all_else(demands: &Demands) -> impl PartialEq {
        let Demands { expected, deadlines, clocks, threads, cgroups, alike: _ } = demands;
        (expected, deadlines, clocks, threads, cgroups)
    }
    if all.is_empty() && all_else(stored) != all_else(images) {
        return vec![Problem {
            kind: ProblemKind::StalePlan,
            task: None,
            text: "the plan is not judged by what the images say".to_owned(),
            origin: None,
        }];
    }
    all
}

/// What ptrace sets, the extended state too, of which there is no certificate.
fn differences_of_threads(stored: &[ThreadState], images: &[ThreadState]) -> Vec<Problem> {
    let of =
        |threads: &[ThreadState]| -> Vec<_> { threads.iter().map(super::wire::StoredThread::of).collect() };
    let (is, wanted) = (of(stored), of(images));
    if is.len() != wanted.len() {
        let text = format!("the plan has {} threads, the images have {}", is.len(), wanted.len());
        return vec![Problem { kind: ProblemKind::StalePlan, task: None, text, origin: None }];
    }
    let pairs = is.iter().zip(&wanted).zip(images).filter(|((is, wanted), _)| is != wanted);
    pairs
        .map(|(_, thread)| {
            let text =
                format!("registers or extended state of thread {} are not those of the images", thread.tid);
            Problem { kind: ProblemKind::StalePlan, task: None, text, origin: None }
        })
        .collect()
}
