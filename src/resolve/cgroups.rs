//! Which cgroups tasks go into, who moves when, and which cgroups must be made.
//!
//! A task is born in the cgroups of who forks it. One that is to be in others writes itself into them: before its forks
//! where its children want the same, so that they are born there, and after them where they want what it was born with.
//! Each hierarchy by itself, so that what only the root of a tree differs in costs one move.
//!
//! Worked example: a root that was in /service of version 2, with three children that were there, too, and one in
//! /service/job: the root moves before its forks, the one child is born by `CLONE_INTO_CGROUP` in its own, and
//! /service/job is made by the launcher if it is not there.
//!
//! A task that was where the dumping CRIU was stays where the caller is, as with CRIU (`restore_task_cgroup` in its
//! criu/cgroup.c): then the images do not say more.
//!
//! # Sources
//! cgroups(7), clone(2); CRIU's Documentation/criu.txt for the modes.

use std::collections::{BTreeMap, BTreeSet};

use regrow_graph::forest::{Descent, Life};
use regrow_graph::ids::{OfdId, ResourceId, StepId, TaskId};

use super::policy::Policy;
use super::problem::ProblemKind;
use super::recipe::{CgroupRecipe, FilePurpose, ResourceKind, StepKind};
use super::{Options, Resolver, tree};
use crate::host::{CgroupFact, Hierarchy, is_cgroup_path};
use crate::image::{Origin, Task};

/// What `--manage-cgroups` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Cgroups that are missing are made, with what the images say of them.
    Soft,
    /// None is made.
    None,
    /// Tasks stay where the caller is.
    Ignore,
    /// Anything else that CRIU knows, or does not.
    Other,
}

impl Mode {
    pub(crate) fn of(options: &Options) -> Mode {
        match options.manage_cgroups.as_deref() {
            None | Some("soft") => Mode::Soft,
            Some("none") => Mode::None,
            Some("ignore") => Mode::Ignore,
            Some(_) => Mode::Other,
        }
    }
}

/// Cgroups by the hierarchy's place among the host's: those that are not the caller's.
type Places = BTreeMap<usize, String>;

/// Resolves the cgroups of all tasks. Who forks whom is known, but for helpers that fork for others.
pub(super) fn resolve(resolver: &mut Resolver<'_>) {
    let mode = Mode::of(resolver.options);
    if mode == Mode::Ignore {
        return;
    }
    let mut sets: BTreeMap<u32, Places> = BTreeMap::new();
    let model = resolver.model;
    let mut wanted: Vec<Option<Places>> = Vec::with_capacity(model.tasks.len());
    for task in &model.tasks {
        let set = set_of(resolver, task);
        wanted.push(set.map(|(set, origin)| match set {
            None => Places::new(),
            Some(set) => {
                if let Some(known) = sets.get(&set) {
                    return known.clone();
                }
                let places = places(resolver, task, set, mode, origin);
                sets.insert(set, places.clone());
                places
            }
        }));
    }
    if sets.values().all(Places::is_empty) {
        return;
    }
    if mode == Mode::Other || !resolver.options.cgroup_root.is_empty() {
        let option = match &resolver.options.manage_cgroups {
            Some(mode) if Mode::of(resolver.options) == Mode::Other => format!("--manage-cgroups={mode}"),
            Some(_) | None => "--cgroup-root".to_owned(),
        };
        let text = format!(
            "tasks are in cgroups of their own: {option} is not done yet (soft, none and ignore are, as --manage-cgroups)"
        );
        resolver.problems.unsupported(None, None, text);
        return;
    }
    if mode == Mode::Soft {
        resolver.recipes.cgroups = directories(resolver, &sets);
    }
    moves(resolver, &wanted);
}

/// The cgroup set that a task is to be in, and who says so: `Some(None)` is that of the caller, `None` nobody says.
fn set_of(resolver: &mut Resolver<'_>, task: &Task) -> Option<(Option<u32>, Origin)> {
    let alive = task.alive()?;
    let leader = alive.threads.first()?;
    let (set, outer) = (leader.cg_set?, resolver.model.inventory.root_cg_set?);
    for thread in alive.threads.iter().skip(1) {
        if thread.cg_set.is_some_and(|own| !is_same_place(resolver, own, set)) {
            let text = format!(
                "thread {} is in another cgroup than its task: not restored yet; --manage-cgroups=ignore leaves all in the caller's",
                thread.tid
            );
            resolver.problems.unsupported(Some(task.pid), Some(thread.origin), text);
        }
    }
    let origin = leader.origin;
    Some((Some(set).filter(|set| !is_same_place(resolver, *set, outer)), origin))
}

/// Whether two cgroup sets are the same place: equal, or apart only in hierarchies at whose roots both
/// are or that only one of them lists (mounted while the tree was dumped).
fn is_same_place(resolver: &Resolver<'_>, a: u32, b: u32) -> bool {
    let places = |id: u32| -> Option<BTreeSet<(&str, &str)>> {
        let set = resolver.model.cgroup_sets.iter().find(|set| set.id == id)?;
        let members = set.members.iter().map(|(name, path)| (name.as_str(), path.as_str()));
        Some(members.filter(|(_, path)| *path != "/").collect())
    };
    a == b || places(a).is_some_and(|places_a| Some(places_a) == places(b))
}

/// Where a set is on this host, with every reason why it cannot be entered.
fn places(resolver: &mut Resolver<'_>, task: &Task, set: u32, mode: Mode, origin: Origin) -> Places {
    let facts = resolver.facts;
    let mut places = Places::new();
    let Some(found) = resolver.model.cgroup_sets.iter().find(|found| found.id == set) else {
        let text = format!("its cgroup set {set} is not in cgroup.img");
        resolver.problems.add(ProblemKind::BadImages, Some(task.pid), Some(origin), text);
        return places;
    };
    let mut seen = BTreeMap::new();
    for (name, path) in &found.members {
        let shown = if name.is_empty() { "version 2" } else { name };
        let mut problem =
            |kind, text: String| resolver.problems.add(kind, Some(task.pid), Some(origin), text);
        if !is_cgroup_path(path) {
            problem(ProblemKind::BadImages, format!("{path:?} is no path of a cgroup"));
            continue;
        }
        let index = facts.hierarchies.iter().position(|hierarchy| hierarchy.has(name));
        let Some((index, hierarchy)) = index.map(|index| (index, &facts.hierarchies[index])) else {
            if path != "/" {
                let text = format!("it was in the cgroup {path} of {shown}, a hierarchy that is not here");
                problem(ProblemKind::Lacking, text);
            }
            continue;
        };
        if seen.insert(index, path).is_some_and(|other| other != path) {
            let text =
                format!("its cgroup set {set} is in two cgroups of what is one hierarchy here, {shown}");
            problem(ProblemKind::Lacking, text);
            continue;
        }
        if *path == hierarchy.own {
            continue;
        }
        if hierarchy.directory(path).is_none() {
            let text =
                format!("its cgroup {path} cannot be seen: {shown} is mounted nowhere here to be written");
            problem(ProblemKind::Lacking, text);
            continue;
        }
        match facts.cgroups.get(&(hierarchy.name.clone(), path.clone())) {
            Some(CgroupFact::Frozen) => {
                problem(ProblemKind::Lacking, format!("its cgroup {path} of {shown} is frozen here"));
            }
            Some(CgroupFact::Missing) if mode == Mode::None => {
                let text = format!("its cgroup {path} of {shown} is not there (--manage-cgroups=none)");
                problem(ProblemKind::Lacking, text);
            }
            Some(CgroupFact::Missing | CgroupFact::There) | None => {}
        }
        places.insert(index, path.clone());
    }
    places
}

/// The cgroups that must be there: those of the sets, all above them, and what the images have below them.
fn directories(resolver: &mut Resolver<'_>, sets: &BTreeMap<u32, Places>) -> Vec<CgroupRecipe> {
    let facts = resolver.facts;
    let mut needed: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    for (index, path) in sets.values().flatten() {
        needed.entry(*index).or_default().insert(path);
    }
    let mut made = Vec::new();
    for (index, wanted) in needed {
        let hierarchy = &facts.hierarchies[index];
        let ends: BTreeSet<&str> = wanted.into_iter().filter(|path| *path != "/").collect();
        let above: BTreeSet<&str> = ends.iter().flat_map(|end| with_those_above(end)).collect();
        let mut all: BTreeMap<String, CgroupRecipe> = BTreeMap::new();
        let mut add = |path: &str, recipe: CgroupRecipe| {
            if let Some(directory) = hierarchy.directory(path) {
                all.entry(path.to_owned()).or_insert(CgroupRecipe { directory, ..recipe });
            }
        };
        for stored in
            resolver.model.cgroup_hierarchies.iter().filter(|stored| is_of(hierarchy, &stored.controllers))
        {
            for (directory, path) in stored.directories.iter().zip(stored.paths()) {
                let Some(path) = path.filter(|path| path != "/" && is_cgroup_path(path)) else { continue };
                let is_below = || with_those_above(&path).any(|above| ends.contains(above));
                if !above.contains(path.as_str()) && !is_below() {
                    continue;
                }
                judge(&mut resolver.problems, facts, hierarchy, &path, &directory.properties);
                let (perms, files) = (directory.perms, directory.properties.clone());
                add(&path, CgroupRecipe { directory: String::new(), perms, files });
            }
        }
        for path in above {
            add(path, CgroupRecipe::default());
        }
        // A path stands behind those above it.
        made.extend(all.into_values());
    }
    made
}

/// A path and those of all that it is in, but for the root.
fn with_those_above(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').skip(1).map(|(end, _)| end).chain([path.len()]).map(|end| &path[..end])
}

/// Whether a hierarchy of the images is one of the host's.
fn is_of(hierarchy: &Hierarchy, controllers: &[String]) -> bool {
    !controllers.is_empty() && controllers.iter().all(|name| hierarchy.has(name))
}

/// Files of a cgroup that cannot be made as they were.
fn judge(
    problems: &mut super::problem::Problems,
    facts: &crate::host::HostFacts,
    hierarchy: &Hierarchy,
    path: &str,
    files: &[crate::image::CgroupProperty],
) {
    let is_there = matches!(
        facts.cgroups.get(&(hierarchy.name.clone(), path.to_owned())),
        Some(CgroupFact::There | CgroupFact::Frozen)
    );
    for file in files {
        if file.name.is_empty() || file.name.contains(['/', '\0']) || matches!(file.name.as_str(), "." | "..")
        {
            let text = format!("{:?} is no name of a file of the cgroup {path}", file.name);
            problems.add(ProblemKind::BadImages, None, None, text);
        }
        let is_frozen = match file.name.as_str() {
            "freezer.state" => file.value != "THAWED",
            "cgroup.freeze" => file.value != "0",
            _ => false,
        };
        if is_frozen && !is_there {
            problems.unsupported(None, None, format!("the cgroup {path} was frozen: not restored yet"));
        }
    }
}

/// Lets each task move into what it is not born in.
fn moves(resolver: &mut Resolver<'_>, wanted: &[Option<Places>]) {
    let count = wanted.len();
    let order: Vec<TaskId> =
        resolver.forest.birth_order().into_iter().filter(|task| task.index() < count).collect();
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); count];
    for task in &order {
        if let Some(parent) =
            tree::born_of(&resolver.forest, count, *task).filter(|parent| parent.index() < count)
        {
            children[parent.index()].push(task.index());
        }
    }
    // What the children of each are born in.
    let mut at_forks: Vec<Places> = vec![Places::new(); count];
    let mut directories = Directories::new();
    for task in order {
        let born = tree::born_of(&resolver.forest, count, task)
            .and_then(|parent| at_forks.get(parent.index()))
            .cloned()
            .unwrap_or_default();
        let Some(want) = wanted[task.index()].as_ref() else {
            at_forks[task.index()] = born;
            continue;
        };
        let hierarchies: BTreeSet<usize> = born.keys().chain(want.keys()).copied().collect();
        let mut handed_on = born.clone();
        let (mut early, mut late) = (Vec::new(), Vec::new());
        for index in hierarchies {
            let (from, to) = (born.get(&index), want.get(&index));
            if from == to {
                continue;
            }
            if is_second(resolver, index) && may_be_born_there(resolver, task) {
                if let Some(directory) = directory(resolver, &mut directories, task, index, to) {
                    resolver.forest.tasks[task.index()].born_in = Some(directory);
                    match to {
                        Some(path) => handed_on.insert(index, path.clone()),
                        None => handed_on.remove(&index),
                    };
                }
                continue;
            }
            let wants = |place: Option<&String>| {
                let is_it =
                    |child: &&usize| wanted[**child].as_ref().is_some_and(|want| want.get(&index) == place);
                children[task.index()].iter().filter(is_it).count()
            };
            let (as_it, as_born) = (wants(to), wants(from));
            let Some(step) = enter(resolver, task, index, to) else { continue };
            if as_it > 0 && as_it >= as_born {
                early.push(step);
                match to {
                    Some(path) => handed_on.insert(index, path.clone()),
                    None => handed_on.remove(&index),
                };
            } else {
                late.push(step);
            }
        }
        let spec = &mut resolver.forest.tasks[task.index()];
        debug_assert!(spec.life == Life::Lives, "only who lives is in a cgroup");
        spec.before_forks.splice(0..0, early);
        spec.steps.splice(0..0, late);
        at_forks[task.index()] = handed_on;
    }
}

/// Directories of cgroups that a task opens for those that it forks: by task and path.
type Directories = BTreeMap<(TaskId, String), (ResourceId, OfdId)>;

fn is_second(resolver: &Resolver<'_>, index: usize) -> bool {
    resolver.facts.hierarchies[index].name.is_empty()
}

/// Whether a task can be born in a cgroup (`CLONE_INTO_CGROUP`): who forks it is its parent, and has the directory from
/// nobody else.
fn may_be_born_there(resolver: &Resolver<'_>, task: TaskId) -> bool {
    let spec = &resolver.forest.tasks[task.index()];
    let forker = spec.parent.filter(|forker| forker.index() < resolver.model.tasks.len());
    resolver.options.policy == Policy::Inherit
        && spec.descent == Descent::Own
        && !spec.shares_table
        && forker.is_some_and(|forker| !resolver.forest.tasks[forker.index()].shares_table)
}

/// The directory of a cgroup, open in who forks the task.
fn directory(
    resolver: &mut Resolver<'_>,
    known: &mut Directories,
    task: TaskId,
    index: usize,
    path: Option<&String>,
) -> Option<OfdId> {
    let forker = resolver.forest.tasks[task.index()].parent?;
    let path = seen(resolver, task, index, path)?;
    if let Some((resource, ofd)) = known.get(&(forker, path.clone())) {
        resolver.forest.resources[resource.index()].users.push(task);
        return Some(*ofd);
    }
    let origin = resolver.model.tasks[task.index()].core_origin;
    let ofd = resolver.new_ofd();
    let kind = ResourceKind::File {
        path: path.clone(),
        flags: (libc::O_PATH | libc::O_DIRECTORY) as u32,
        position: 0,
        purpose: FilePurpose::Cgroup,
    };
    let resource = resolver.add_resource(kind, origin, vec![Some(ofd)]);
    resolver.forest.resources[resource.index()].users = vec![forker, task];
    known.insert((forker, path), (resource, ofd));
    Some(ofd)
}

/// The step that moves a task; `path`: where, or to where the caller is.
fn enter(resolver: &mut Resolver<'_>, task: TaskId, index: usize, path: Option<&String>) -> Option<StepId> {
    let directory = seen(resolver, task, index, path)?;
    let origin = resolver.model.tasks[task.index()].core_origin;
    let ofd = resolver.new_ofd();
    let kind = ResourceKind::File {
        path: format!("{directory}/cgroup.procs"),
        flags: libc::O_WRONLY as u32,
        position: 0,
        purpose: FilePurpose::Cgroup,
    };
    resolver.add_resource(kind, origin, vec![Some(ofd)]);
    // cgroups(7): the writing task.
    Some(resolver.add_step(StepKind::Write(b"0".to_vec()), origin, vec![ofd]))
}

/// The directory that a task is to come into; `path`: where, or to where the caller is.
fn seen(resolver: &mut Resolver<'_>, task: TaskId, index: usize, path: Option<&String>) -> Option<String> {
    let hierarchy = &resolver.facts.hierarchies[index];
    let path = path.unwrap_or(&hierarchy.own);
    let directory = hierarchy.directory(path);
    if directory.is_none() {
        let images = &resolver.model.tasks[task.index()];
        let text = format!("the caller's cgroup {path} cannot be seen, and it is to be there");
        resolver.problems.add(ProblemKind::Lacking, Some(images.pid), Some(images.core_origin), text);
    }
    directory
}
