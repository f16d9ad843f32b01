//! Image directories of synthetic forests, and what becomes of them: the real stages, on one set of facts.
//!
//! Everything is written below `/dev/shm`, so no disk is busy with it. Facts about the host are gathered once:
//! a plan that differs from another does not differ because somebody else has started a process in between.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use regrow::certify::{self, Certificate, Counterexample};
use regrow::host::{self, HostFacts, KernelFacts, OwnFacts, PidFacts, Transparent};
use regrow::image::alike::Alike;
use regrow::image::{self, Image, Model, NsPid};
use regrow::lower;
use regrow::resolve::policy::{self, Policy};
use regrow::resolve::problem::{Problem, ProblemKind};
use regrow::resolve::{self, Options, Payloads, Sharing, space};
use regrow::synth::Forest;
use regrow::synth::increments::spread;
use regrow::synth::model::{Ground, Synthetic, synthesise};
use regrow::tape::Tapes;
use regrow_graph::cost::CostModel;
use regrow_graph::order::{self, PlanError};

use crate::descriptions::{FILE_BYTES, FILES};

/// Helper tasks have pids from here on.
const FIRST_SPARE: u32 = 21_000;

/// A directory in memory that goes with the program.
#[derive(Debug)]
pub struct Room(PathBuf);

impl Room {
    /// A new one, with the files that forests have open in `files/`.
    ///
    /// # Panics
    /// There is no memory for it.
    #[allow(clippy::expect_used)]
    pub fn new(name: &str) -> Room {
        let memory = Path::new("/dev/shm");
        let temporary = std::env::temp_dir();
        let below = if memory.is_dir() { memory } else { &temporary };
        let dir = below.join(format!("regrow-{name}-{}", std::process::id()));
        fs::create_dir_all(dir.join("files")).expect("a directory");
        for number in 0..FILES {
            let path = dir.join("files").join(format!("file-{number}"));
            fs::write(path, vec![b'x'; FILE_BYTES]).expect("a file");
        }
        remove_at_exit(dir.clone());
        Room(dir)
    }

    /// Where the files are.
    pub fn files(&self) -> PathBuf {
        self.0.join("files")
    }

    /// Writes a model into the directory of this name, in place of what was there.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn write(&self, name: &str, synthetic: &Synthetic) -> Result<PathBuf, String> {
        let dir = self.0.join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).map_err(|error| error.to_string())?;
        image::write_model(&synthetic.model, &synthetic.contents, &dir).map_err(|error| error.to_string())?;
        Ok(dir)
    }
}

/// Rooms are of whole programs, whose statics nobody drops: they are removed when the program ends.
fn remove_at_exit(dir: PathBuf) {
    static MADE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    extern "C" fn remove() {
        for dir in MADE.lock().iter().flat_map(|made| made.iter()) {
            let _ = fs::remove_dir_all(dir);
        }
    }
    let Ok(mut made) = MADE.lock() else { return };
    if made.is_empty() {
        // SAFETY: the function is there as long as the program, and unwinds nowhere.
        unsafe { libc::atexit(remove) };
    }
    made.push(dir);
}

/// This process.
pub(crate) fn own() -> &'static OwnFacts {
    static OWN: OnceLock<OwnFacts> = OnceLock::new();
    OWN.get_or_init(host::gather_own)
}

/// What is true here for a model: of what changes from moment to moment, what was gathered first.
fn facts(model: &Model) -> HostFacts {
    static FACTS: OnceLock<HostFacts> = OnceLock::new();
    let now = host::gather(model, None);
    let first = FACTS.get_or_init(|| now.clone());
    let spare = (FIRST_SPARE..).take(model.tasks.len() + 1).map(NsPid).collect();
    let pids = PidFacts { pid_max: Some(32_768), spare, ..PidFacts::default() };
    // Huge pages are asked for and pages are moved wherever that is of any use, whatever there is here: nobody runs the tapes.
    let kernel = KernelFacts {
        transparent: Transparent::Madvise,
        moves_pages: true,
        free_huge_bytes: None,
        ..first.kernel.clone()
    };
    HostFacts { pids, files: now.files, kernel, huge_page_ns: Some(0), ..first.clone() }
}

/// The model of a forest.
///
/// # Errors
/// The faults of the description.
pub fn model_of(forest: &Forest) -> Result<Synthetic, String> {
    let ground = Ground { own: own(), executable: "/bin/true" };
    synthesise(forest, &ground).map_err(|faults| faults.join("; "))
}

/// The same images as so many dumps before and one would have them: each page in any of them.
///
/// # Errors
/// A page cannot be had.
pub fn incremental(synthetic: &Synthetic, seed: u64, dumps: u32) -> Result<Synthetic, String> {
    if dumps == 0 {
        return Ok(synthetic.clone());
    }
    let depth = |image: Image, page: u64| {
        let mut hasher = DefaultHasher::new();
        // Often as the page before.
        (seed, image, page.count_ones(), page / 8).hash(&mut hasher);
        (hasher.finish() % u64::from(dumps + 1)) as u32
    };
    spread(synthetic, depth).map_err(|error| error.to_string())
}

/// What is planned for a directory.
#[derive(Debug)]
pub struct Planned {
    /// The images, read.
    pub model: Model,
    /// What would run.
    pub tapes: Tapes,
    /// What the checker takes for granted.
    pub ground: certify::Ground,
    /// What `check` would say of this host.
    pub problems: Vec<Problem>,
}

/// Why there is no plan.
#[derive(Debug)]
pub enum Refused {
    /// Somebody has said why: what is not supported.
    Problems(Vec<String>),
    /// Nobody has: a defect.
    Defect(String),
}

/// Reads, resolves, plans and lowers a directory on this host, whose pids are all free. Every other tree inherits its
/// address spaces where that costs less, the others wherever they can.
///
/// # Errors
/// See [`Refused`].
pub fn plan(dir: &Path) -> Result<Planned, Refused> {
    plan_with(dir, CostModel::default(), 1, Policy::Inherit)
}

/// As [`plan`], by a rule who makes what.
///
/// # Errors
/// See [`Refused`].
pub fn plan_by(policy: Policy, dir: &Path) -> Result<Planned, Refused> {
    plan_with(dir, CostModel::default(), 1, policy)
}

/// As [`plan_by`], where things cost something else, and there are more cores.
///
/// # Errors
/// See [`Refused`].
pub fn plan_with(dir: &Path, costs: CostModel, cores: u32, policy: Policy) -> Result<Planned, Refused> {
    let model = image::read_model(dir).map_err(|error| Refused::Defect(error.to_string()))?;
    let is_odd =
        model.tasks.iter().filter_map(|task| task.alive()).map(|alive| alive.mm.vmas.len()).sum::<usize>()
            % 2
            == 1;
    let sharing = if is_odd { Sharing::Fast } else { Sharing::Keep };
    let options = &Options { sharing, costs, cores, policy, ..Options::default() };
    let read = |blob: &image::Blob| {
        image::open_blob(&model, blob).map_err(|error| Refused::Defect(error.to_string()))
    };
    let payloads = Payloads {
        pipes: model.pipe_data.iter().map(|entry| read(&entry.data)).collect::<Result<_, _>>()?,
        fifos: model.fifo_data.iter().map(|entry| read(&entry.data)).collect::<Result<_, _>>()?,
        packets: model.packets.iter().map(|entry| read(&entry.data)).collect::<Result<_, _>>()?,
        messages: model.own_ipc().map_or(Ok(Vec::new()), |ns| {
            let held = |queue: &image::ipc::SysvQueue| {
                queue.messages.iter().map(|message| read(&message.data)).collect::<Result<_, _>>()
            };
            ns.queues.iter().map(held).collect::<Result<_, _>>()
        })?,
        semaphores: model.own_ipc().map_or(Ok(Vec::new()), |ns| {
            ns.semaphores.iter().map(|set| read(&set.values)).collect::<Result<_, _>>()
        })?,
        vdsos: Default::default(),
        alike: Alike::find(&model, &space::candidates(&model, options)).into(),
    };
    let facts = facts(&model);
    let resolution = resolve::resolve(&model, &payloads, &facts, options);
    let problems = resolution.problems;
    let refused = |more: Vec<String>| {
        let unsupported = problems.iter().filter(|problem| problem.kind == ProblemKind::Unsupported);
        let said: Vec<String> = unsupported.map(ToString::to_string).chain(more).collect();
        Refused::Problems(said)
    };
    if let Some(bad) = problems.iter().find(|problem| problem.kind == ProblemKind::BadImages) {
        return Err(Refused::Defect(bad.to_string()));
    }
    if problems.iter().any(|problem| problem.kind == ProblemKind::Unsupported) {
        return Err(refused(Vec::new()));
    }
    let Some(mut resolved) = resolution.resolved else {
        return Err(Refused::Defect("no room".to_owned()));
    };
    policy::apply(policy, &mut resolved);
    let needs = resolved.needs.take();
    let plan = match order::plan_knowing(&resolved.forest, resolved.cradle, needs) {
        Ok(plan) => plan,
        Err(PlanError::Family(errors)) => {
            return Err(refused(errors.iter().map(ToString::to_string).collect()));
        }
        Err(error) => return Err(Refused::Defect(error.to_string())),
    };
    let tapes = lower::lower(&plan, &resolved.recipes, &resolved.window)
        .map_err(|error| Refused::Defect(error.to_string()))?;
    let ground = certify::Ground::of(&facts, certify::Cradle::default());
    Ok(Planned { model, tapes, ground, problems })
}

impl Planned {
    /// The certificate, or why there is none.
    ///
    /// # Errors
    /// The counterexample.
    pub fn certify(&self) -> Result<Certificate, Counterexample> {
        certify::certify(&self.model, &self.tapes, &self.ground, None)
    }
}
