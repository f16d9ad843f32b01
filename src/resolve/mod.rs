//! From the model and the facts of this host to resources, their users and the recipes that make
//! them, and to *all* problems found. No I/O happens here.
//!
//! Worked example: two tasks that share a pipe in which "hello" waits become one
//! [`ResourceKind::Pipe`] with the data, that yields two descriptions, and two [`TaskSpec`]s with
//! the numbers at which the tasks hold them. Who creates the pipe is for `regrow-graph` to say.
//!
//! One file a kind of resource, with the names of `image/files`.

mod clocks;
pub mod memory;
pub mod policy;
pub mod problem;
pub mod recipe;
pub mod vdso;

mod adjoining;
mod aio;
mod batches;
pub(crate) mod cgroups;
mod files;
mod fill;
mod host;
mod huge;
mod hugetlbfs;
mod index;
mod ipc;
pub(crate) mod numbers;
mod seccomp;
mod sharing;
pub mod space;
mod stage;
mod task;
mod threads;
mod transparent;
mod tree;
mod window;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use regrow_graph::cost::CostModel;
use regrow_graph::family::Cradle;
use regrow_graph::forest::{Forest, ResourceSpec, StepSpec, TaskSpec};
use regrow_graph::ids::{OfdId, ResourceId, StepId, TaskId};
use regrow_graph::needs::Needs;
use regrow_graph::passing::Delivery;

use serde::{Deserialize, Serialize};

use crate::host::HostFacts;
use crate::image::alike::Alike;
use crate::image::vdso::Dumped;
use crate::image::{Model, NsPid, Origin, PagesImage, Remap, TaskState};
use problem::{Problem, Problems};
use recipe::{ResourceKind, ResourceRecipe, StepKind, StepRecipe};

pub(crate) use aio::needed as needed_aio_requests;
pub(crate) use huge::needed as needed_huge_pages;
pub(crate) use transparent::{BLOCK, room as huge_room};
pub(crate) use tree::born_of;
pub use window::Window;

/// What the user allows or asks for (`criu restore`'s options of the same names).
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct Options {
    /// `--shell-job`: the root belongs to the session of the caller.
    pub shell_job: bool,
    /// `--file-locks`.
    pub file_locks: bool,
    /// `--tcp-established`.
    pub tcp_established: bool,
    /// `--tcp-close`.
    pub tcp_close: bool,
    /// `--ext-unix-sk`.
    pub ext_unix_sk: bool,
    /// `--link-remap`.
    pub link_remap: bool,
    /// `--root`.
    pub root: Option<std::path::PathBuf>,
    /// `--external`.
    pub external: Vec<String>,
    /// `--manage-cgroups`: `None` is not given.
    pub manage_cgroups: Option<String>,
    /// `--cgroup-root`.
    pub cgroup_root: Vec<String>,
    /// `--sharing`.
    pub sharing: Sharing,
    /// The tree is to be restored by this process, whose own pids are in the way if the images need
    /// them.
    pub restoring: bool,
    /// `--policy`: who makes what.
    pub policy: policy::Policy,
    /// The run is to note its times.
    #[serde(skip)]
    pub tracing: bool,
    /// What things cost: it chooses between ways that lead to the same tree, and no plan stores it.
    #[serde(skip)]
    pub costs: CostModel,
    /// Cores that the tree is restored on; none are as good as one. They choose as costs do.
    #[serde(skip)]
    pub cores: u32,
}

/// Which address spaces are inherited, where they can be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Sharing {
    /// Where a child has any page of its parent.
    #[default]
    Keep,
    /// Where it costs less than to map and fill anew.
    Fast,
    /// None: every task maps and fills for itself.
    None,
}

/// Bytes that wait in pipes and sockets, loaded: parallel to [`Model::pipe_data`] and
/// [`Model::packets`].
#[derive(Debug, Clone, Default)]
pub struct Payloads {
    /// Of pipes.
    pub pipes: Vec<Vec<u8>>,
    /// Of FIFOs, parallel to [`Model::fifo_data`].
    pub fifos: Vec<Vec<u8>>,
    /// Of sockets.
    pub packets: Vec<Vec<u8>>,
    /// Of the messages in the queues of the root's IPC namespace, queue by queue.
    pub messages: Vec<Vec<Vec<u8>>>,
    /// The values of its semaphore sets, two bytes each.
    pub semaphores: Vec<Vec<u8>>,
    /// vDSOs of tasks that are not the running kernel's.
    pub vdsos: Arc<BTreeMap<NsPid, Dumped>>,
    /// Pages that children have in common with their parents.
    pub alike: Arc<Alike>,
}

/// What `resolve` hands on.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// What the planner sees.
    pub forest: Forest,
    /// Where the root is born.
    pub cradle: Cradle,
    /// What the operations do.
    pub recipes: Recipes,
    /// Where the tapes and the carriers can be in every task.
    pub window: Window,
    /// What helpers make for those whose children they fork.
    pub deliveries: BTreeMap<ResourceId, Delivery>,
    /// Who needs what in the forest, where that is known already: for who plans it as it is.
    pub needs: Option<Needs>,
    /// Tasks that start with the address space of who forks them, and keep it but for what differs.
    pub heirs: BTreeSet<TaskId>,
}

/// What the operations of a plan do.
#[derive(Debug, Clone, Default)]
pub struct Recipes {
    /// One for each step.
    pub steps: Vec<StepRecipe>,
    /// One for each resource.
    pub resources: Vec<ResourceRecipe>,
    /// One for each task.
    pub tasks: Vec<TaskRecipe>,
    /// What CLOCK_MONOTONIC and CLOCK_BOOTTIME go on from, in nanoseconds, in a time namespace of the
    /// tree's own; `None`: the host's clocks are good.
    pub clocks_ns: Option<[u64; 2]>,
    /// Tids of the tasks in which filters of system calls come back: they must not act before the end.
    pub filtered: BTreeSet<u32>,
    /// Cgroups that are made where they are missing, those above first.
    pub cgroups: Vec<recipe::CgroupRecipe>,
}

/// What an actor of the plan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A task of the images, forked by its parent.
    Task,
    /// A task of the images that is made a child of its forker's parent (CLONE_PARENT).
    Sibling,
    /// A further thread of one.
    Thread,
    /// A task that is there only while the tree is restored.
    Helper {
        /// Whether its death raises SIGCHLD: what it forks for its parent has its exit signal.
        raises_sigchld: bool,
    },
}

/// What the planner need not know of a task.
#[derive(Debug, Clone)]
pub struct TaskRecipe {
    /// Its pid.
    pub pid: NsPid,
    /// Its name, for messages.
    pub comm: String,
    /// Exit status of a zombie, as `wait4(2)` gives it.
    pub exit_code: Option<u32>,
    /// What it is.
    pub role: Role,
    /// Its working directory.
    pub cwd: Option<String>,
    /// Its entry in `pstree.img`.
    pub origin: Origin,
    /// Its entry in `core-PID.img`.
    pub core_origin: Origin,
    /// It has the descriptor table of who forks it.
    pub shares_table: bool,
}

/// The outcome: every reason why the model cannot be restored here, and (as far as they leave one)
/// what a dry run shows all the same.
#[derive(Debug, Clone)]
pub struct Resolution {
    /// What the planner takes; complete only where there are no problems.
    pub resolved: Option<Resolved>,
    /// Every reason.
    pub problems: Vec<Problem>,
}

/// Resolves a model on this host.
pub fn resolve(model: &Model, payloads: &Payloads, facts: &HostFacts, options: &Options) -> Resolution {
    let mut resolver = Resolver::new(model, facts, options);
    resolver.vdsos = Arc::clone(&payloads.vdsos);
    resolver.alike = Arc::clone(&payloads.alike);
    host::find_problems(&mut resolver);
    clocks::resolve(&mut resolver);
    tree::resolve(&mut resolver);
    sharing::resolve(&mut resolver);
    files::resolve(&mut resolver, payloads);
    memory::resolve_shared(&mut resolver);
    ipc::resolve(&mut resolver, payloads);
    huge::count(&mut resolver);
    aio::find_problems(&mut resolver);
    let cradle = tree::cradle(&mut resolver);
    tree::raise(&mut resolver, &cradle);
    sharing::judge(&mut resolver);
    resolver.spaces = space::decide(&resolver);
    resolver.huge_room = resolver.huge_room.saturating_sub(resolver.spaces.staged_bytes());
    resolver.differences = space::differences(&resolver);
    for index in 0..model.tasks.len() {
        task::resolve(&mut resolver, TaskId::new(index));
    }
    for index in 0..model.tasks.len() {
        threads::resolve(&mut resolver, TaskId::new(index));
    }
    cgroups::resolve(&mut resolver);
    batches::resolve(&mut resolver, cradle);
    fill::invite(&mut resolver);
    let window = window::find(&mut resolver, payloads);
    let Resolver { forest, mut recipes, problems, spaces, deliveries, needs, carriers_end, .. } = resolver;
    let resolved = window.map(|window| {
        memory::place_carriers(&mut recipes, &window, carriers_end.1);
        Resolved { forest, cradle, recipes, window, deliveries, needs, heirs: spaces.into_heirs() }
    });
    Resolution { resolved, problems: problems.into_vec() }
}

/// About how many steps a task has beside those of its mappings.
const OWN_STEPS: usize = 32;

/// The state of a resolution.
struct Resolver<'a> {
    model: &'a Model,
    facts: &'a HostFacts,
    options: &'a Options,
    problems: Problems,
    forest: Forest,
    recipes: Recipes,
    /// Tasks with children that are zombies, or helpers whose death raises SIGCHLD.
    zombie_parents: BTreeSet<NsPid>,
    /// Tasks that the kernel gives orphans to.
    adopters: BTreeSet<TaskId>,
    /// What helpers make for others.
    deliveries: BTreeMap<ResourceId, Delivery>,
    /// Who needs what, when the forest is complete, if that has been looked for.
    needs: Option<Needs>,
    /// The description of each image id.
    ofd_of_id: index::Index,
    /// What has become of the files that had lost their names, by image id.
    remap_of_id: HashMap<u32, Remap>,
    /// Files that are opened for mapping only, by path and access mode.
    mapped_files: BTreeMap<(&'a str, u32), OfdId>,
    /// Pages images, by number.
    pages_files: BTreeMap<PagesImage, OfdId>,
    /// What tasks do to descriptions when they have them at their numbers.
    placed: Vec<files::Placed>,
    /// Behind the last carrier, and what the first must be a multiple of.
    carriers_end: (u64, u64),
    /// The carrier of each shared memory segment.
    carriers: BTreeMap<u64, memory::Carrier>,
    /// Where System V segments are attached in the window, from the start of the carriers: by id, and whether only to be
    /// read.
    attached: BTreeMap<(u32, bool), u64>,
    /// What each task fills of shared memory.
    shared_fills: BTreeMap<TaskId, Vec<memory::SharedFill>>,
    /// Inodes without a name: the resource that makes them, and which of its inodes they are.
    inodes: BTreeMap<files::ghost::InodeKey, (ResourceId, usize)>,
    /// Their descriptions that are in no table, by flags.
    inode_views: BTreeMap<(files::ghost::InodeKey, usize, u32), OfdId>,
    /// vDSOs of tasks that are not the running kernel's.
    vdsos: Arc<BTreeMap<NsPid, Dumped>>,
    /// Pages that children have in common with their parents.
    alike: Arc<Alike>,
    /// Who inherits an address space.
    spaces: space::Spaces,
    /// How those differ from what they are born with, until their steps are made.
    differences: BTreeMap<TaskId, space::Difference>,
    /// How much more memory may be filled with huge pages, in bytes.
    huge_room: u64,
    /// Where the running kernel's is mapped in tasks that have another one: first address, and behind the last.
    placed_vdsos: Vec<(u64, u64)>,
}

impl<'a> Resolver<'a> {
    fn new(model: &'a Model, facts: &'a HostFacts, options: &'a Options) -> Resolver<'a> {
        // The launcher raises its soft limit to the hard one.
        let limit = facts.own.rlimits[libc::RLIMIT_NOFILE as usize]
            .map_or(0, |limit| limit.max.min(u64::from(u32::MAX)));
        let mut forest = Forest { ofds: model.ofds.len(), fd_limit: limit as u32, ..Forest::default() };
        let mut recipes = Recipes::default();
        // About one for each description, and one for each mapping and attribute.
        let mappings = model.tasks.iter().filter_map(|task| task.alive()).map(|alive| alive.mm.vmas.len());
        let steps = mappings.sum::<usize>() + OWN_STEPS * model.tasks.len();
        forest.resources.reserve(model.ofds.len());
        recipes.resources.reserve(model.ofds.len());
        forest.steps.reserve(steps);
        recipes.steps.reserve(steps);
        for task in &model.tasks {
            forest.tasks.push(TaskSpec {
                pid: task.pid.0,
                pgid: task.pgid.0,
                sid: task.sid.0,
                ..TaskSpec::default()
            });
            let (comm, exit_code) = match &task.state {
                TaskState::Alive(alive) | TaskState::Stopped(alive) => (alive.comm.clone(), None),
                TaskState::Zombie { exit_code, comm } => (comm.clone(), Some(*exit_code)),
            };
            recipes.tasks.push(TaskRecipe {
                pid: task.pid,
                comm,
                exit_code,
                role: Role::Task,
                cwd: None,
                origin: task.origin,
                core_origin: task.core_origin,
                shares_table: false,
            });
        }
        Resolver {
            model,
            facts,
            options,
            problems: Problems::default(),
            forest,
            recipes,
            zombie_parents: model
                .tasks
                .iter()
                .filter(|task| matches!(task.state, TaskState::Zombie { .. }))
                .map(|task| task.ppid)
                .collect(),
            adopters: BTreeSet::new(),
            deliveries: BTreeMap::new(),
            needs: None,
            ofd_of_id: index::Index::of(model.ofds.iter().map(|ofd| ofd.id)),
            // Of several the first counts.
            remap_of_id: model.remaps.iter().rev().map(|remap| (remap.orig_id, *remap)).collect(),
            mapped_files: BTreeMap::new(),
            pages_files: BTreeMap::new(),
            placed: vec![files::Placed::default(); model.tasks.len()],
            carriers_end: (0, numbers::PAGE),
            carriers: BTreeMap::new(),
            attached: BTreeMap::new(),
            shared_fills: BTreeMap::new(),
            inodes: BTreeMap::new(),
            inode_views: BTreeMap::new(),
            vdsos: Arc::default(),
            alike: Arc::default(),
            spaces: space::Spaces::default(),
            differences: BTreeMap::new(),
            huge_room: transparent::room(facts),
            placed_vdsos: Vec::new(),
        }
    }

    fn new_ofd(&mut self) -> OfdId {
        self.forest.ofds += 1;
        OfdId::new(self.forest.ofds - 1)
    }

    fn add_resource(&mut self, kind: ResourceKind, origin: Origin, yields: Vec<Option<OfdId>>) -> ResourceId {
        self.forest.resources.push(ResourceSpec { yields, ..ResourceSpec::default() });
        self.recipes.resources.push(ResourceRecipe { kind, origin });
        ResourceId::new(self.forest.resources.len() - 1)
    }

    fn add_step(&mut self, kind: StepKind, origin: Origin, needs: Vec<OfdId>) -> StepId {
        self.forest.steps.push(StepSpec { needs });
        self.recipes.steps.push(StepRecipe { kind, origin });
        StepId::new(self.forest.steps.len() - 1)
    }
}
