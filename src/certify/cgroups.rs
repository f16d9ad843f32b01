//! What the images say of cgroups: where each task ends, and what must be there to be entered. Made without the planner.
//!
//! Worked example: a task whose set says `/a/b` of version 2, which the caller has mounted at /sys/fs/cgroup and is in
//! `/` itself, is to end with `:/a/b`, and /sys/fs/cgroup/a and /sys/fs/cgroup/a/b are made where they are missing. A task
//! that was where the dumping CRIU was is to end where the caller is.

use std::collections::{BTreeMap, BTreeSet};

use regrow_graph::verify::{Counterexample, Expected, ExpectedHierarchy, Value, Wrong};

use crate::host::HostFacts;
use crate::image::{Alive, Model};
use crate::tape::{Cgroup, CgroupFile, CgroupPerms, Tapes};

/// What is asked for, and the hierarchies that there are.
#[derive(Debug, Clone, Default)]
pub struct CgroupGround {
    /// Tasks are to be in the cgroups that the images say.
    pub restores: bool,
    /// Those that are missing are to be made.
    pub makes: bool,
    /// What can be seen here.
    pub hierarchies: Vec<ExpectedHierarchy>,
}

impl CgroupGround {
    /// On this host, as `--manage-cgroups=MODE` says.
    pub fn of(facts: &HostFacts, mode: Option<&str>) -> CgroupGround {
        let seen = |hierarchy: &crate::host::Hierarchy| ExpectedHierarchy {
            name: hierarchy.name.clone(),
            own: hierarchy.own.clone(),
            point: hierarchy.mount.as_ref().map(|mount| mount.point.clone().into_bytes()).unwrap_or_default(),
            root: hierarchy.mount.as_ref().map(|mount| mount.root.clone()).unwrap_or_default(),
        };
        CgroupGround::with(facts.hierarchies.iter().map(seen).collect(), mode)
    }

    /// With hierarchies that are known.
    pub fn with(hierarchies: Vec<ExpectedHierarchy>, mode: Option<&str>) -> CgroupGround {
        CgroupGround {
            restores: mode != Some("ignore"),
            makes: matches!(mode, None | Some("soft")),
            hierarchies,
        }
    }

    /// The hierarchies, where any task is to be elsewhere than the dumping CRIU was: nobody else moves.
    pub(super) fn needed(&self, model: &Model) -> Vec<ExpectedHierarchy> {
        let is_away = |alive: &Alive| {
            let set = alive.threads.first().and_then(|leader| leader.cg_set);
            self.restores && set.is_some() && set != model.inventory.root_cg_set
        };
        if model.tasks.iter().filter_map(|task| task.alive()).any(is_away) {
            self.hierarchies.clone()
        } else {
            Vec::new()
        }
    }

    /// The hierarchy that a member of a set is in.
    fn hierarchy(&self, member: &str) -> Option<&ExpectedHierarchy> {
        self.hierarchies.iter().find(|hierarchy| {
            let own: Vec<&str> = hierarchy.name.split(',').collect();
            member.split(',').all(|name| own.contains(&name))
        })
    }

    /// The cgroups of a task; `None`: nobody says.
    ///
    /// # Errors
    /// In words: what the images say cannot be.
    pub(super) fn of_task(&self, model: &Model, alive: &Alive) -> Result<Option<Value>, String> {
        let mut said = alive.threads.iter().filter_map(|thread| thread.cg_set);
        let (Some(set), Some(outer), true) = (said.next(), model.inventory.root_cg_set, self.restores) else {
            return Ok(None);
        };
        let members = |id: u32| {
            let set = model.cgroup_sets.iter().find(|set| set.id == id)?;
            let away = set.members.iter().filter(|(_, path)| path != "/");
            Some(away.map(|(name, path)| (name.as_str(), path.as_str())).collect::<BTreeMap<_, _>>())
        };
        let is_same = |one: u32, other: u32| {
            one == other || members(one).is_some_and(|one| Some(one) == members(other))
        };
        if let Some(other) = said.find(|other| !is_same(*other, set)) {
            return Err(format!("its threads are in the cgroup sets {set} and {other}"));
        }
        if is_same(set, outer) {
            return Ok(Some(Value::Nothing));
        }
        let all = model.cgroup_sets.iter().find(|found| found.id == set);
        let all = all.ok_or_else(|| format!("its cgroup set {set} is not in cgroup.img"))?;
        let mut places = BTreeMap::new();
        for (name, path) in &all.members {
            match self.hierarchy(name) {
                Some(hierarchy) if hierarchy.own == *path => {}
                Some(hierarchy) => {
                    places.insert(hierarchy.name.clone(), path.clone());
                }
                None if path == "/" => {}
                None => return Err(format!("its cgroup {name}:{path} is of a hierarchy that is not here")),
            }
        }
        Ok(Some(Value::cgroups(places)))
    }

    /// The cgroups that are to be made where they are missing; `ends`: those of the tasks.
    ///
    /// # Errors
    /// In words: what the images say cannot be.
    pub(super) fn to_be_made<'a>(
        &self,
        model: &Model,
        ends: impl Iterator<Item = &'a Value>,
    ) -> Result<Vec<Cgroup>, String> {
        // By directory; the bytes of what is above come before those of what is below.
        let mut made: BTreeMap<Vec<u8>, Cgroup> = BTreeMap::new();
        let mut wanted: BTreeMap<&str, (&ExpectedHierarchy, BTreeSet<&str>)> = BTreeMap::new();
        for end in ends {
            let Value::Cgroups(places) = end else { continue };
            for (name, path) in places.iter().filter(|(_, path)| *path != "/") {
                let hierarchy = self.hierarchies.iter().find(|hierarchy| hierarchy.name == *name);
                let hierarchy = hierarchy.ok_or_else(|| format!("{name} is not here"))?;
                // Each of its names is a cgroup that would be made.
                if path.len() >= libc::PATH_MAX as usize {
                    return Err(format!("the path of a cgroup of {name} is longer than any can be"));
                }
                wanted.entry(name).or_insert_with(|| (hierarchy, BTreeSet::new())).1.insert(path);
            }
        }
        if !self.makes || wanted.is_empty() {
            return Ok(Vec::new());
        }
        for (hierarchy, ends) in wanted.values() {
            for path in ends.iter().flat_map(|end| lineage(end)) {
                if let Some(directory) = directory_of(hierarchy, path) {
                    let bare = Cgroup { directory: directory.clone(), perms: None, files: Vec::new() };
                    made.insert(directory, bare);
                }
            }
        }
        for (hierarchy, ends) in wanted.values() {
            let own: Vec<&str> = hierarchy.name.split(',').collect();
            let leads: BTreeSet<&str> = ends.iter().flat_map(|end| lineage(end)).collect();
            let is_it =
                |names: &[String]| !names.is_empty() && names.iter().all(|name| own.contains(&name.as_str()));
            for stored in model.cgroup_hierarchies.iter().filter(|stored| is_it(&stored.controllers)) {
                for (directory, path) in stored.directories.iter().zip(stored.paths()) {
                    let Some(path) = path else { continue };
                    let is_near = leads.contains(path.as_str()) || lineage(&path).any(|at| ends.contains(at));
                    let Some(place) = directory_of(hierarchy, &path).filter(|_| is_near) else {
                        continue;
                    };
                    let perms = |perms: Option<crate::image::CgroupPerms>| {
                        perms.map(|perms| CgroupPerms { mode: perms.mode, uid: perms.uid, gid: perms.gid })
                    };
                    let mut files = Vec::new();
                    for file in &directory.properties {
                        if file.name.is_empty() || file.name.contains('/') || file.name.starts_with("..") {
                            return Err(format!("{:?} is no file of the cgroup {path}", file.name));
                        }
                        files.push(CgroupFile {
                            name: file.name.clone().into_bytes(),
                            value: file.value.clone().into_bytes(),
                            perms: perms(file.perms),
                        });
                    }
                    made.insert(
                        place.clone(),
                        Cgroup { directory: place, perms: perms(directory.perms), files },
                    );
                }
            }
        }
        Ok(made.into_values().collect())
    }
}

/// The cgroups that lead to one, from the first below the root on, and the one itself.
fn lineage(path: &str) -> impl Iterator<Item = &str> {
    let behind = path.char_indices().skip(1).filter(|(_, letter)| *letter == '/').map(|(at, _)| at);
    behind.chain(std::iter::once(path.len())).map(|end| &path[..end])
}

/// The directory of a cgroup, which is not the root of what can be seen: that is there.
fn directory_of(hierarchy: &ExpectedHierarchy, path: &str) -> Option<Vec<u8>> {
    let rest = path.strip_prefix(hierarchy.root.trim_end_matches('/'))?;
    let directory = [hierarchy.point.as_slice(), rest.as_bytes()].concat();
    (rest.len() > 1 && hierarchy.cgroup_at(&directory).as_deref() == Some(path)).then_some(directory)
}

/// Whether what the launcher makes is what is demanded, each behind the one that it is in.
pub(super) fn check(demanded: &[Cgroup], tapes: &Tapes, expected: &Expected) -> Result<(), Counterexample> {
    let wrong = |what: String| Counterexample {
        task: tapes.tasks.first().map_or(0, |task| task.pid),
        record: None,
        wrong: Wrong::NotUnderstood { what },
    };
    let mut missing: BTreeMap<&[u8], &Cgroup> =
        demanded.iter().map(|cgroup| (cgroup.directory.as_slice(), cgroup)).collect();
    let is_seen = |directory: &[u8]| {
        let at = expected.hierarchies.iter().filter(|hierarchy| !hierarchy.point.is_empty());
        at.into_iter().any(|hierarchy| hierarchy.cgroup_at(directory).is_some())
    };
    for cgroup in &tapes.cgroups {
        let shown = cgroup.directory.escape_ascii();
        match missing.remove(cgroup.directory.as_slice()) {
            None => return Err(wrong(format!("the cgroup {shown} is made, and the images do not need it"))),
            Some(wanted) if wanted != cgroup => {
                return Err(wrong(format!("the cgroup {shown} is made, and not as the images have it")));
            }
            Some(_) if !is_seen(&cgroup.directory) => {
                return Err(wrong(format!("{shown} is made as a cgroup, and is in no hierarchy")));
            }
            Some(_) => {}
        }
        let mut above = cgroup.directory.as_slice();
        while let Some(end) = above.iter().rposition(|byte| *byte == b'/') {
            above = &above[..end];
            if missing.contains_key(above) {
                return Err(wrong(format!("the cgroup {shown} is made before the one that it is in")));
            }
        }
    }
    match missing.keys().next() {
        Some(directory) => Err(wrong(format!("the cgroup {} is not made", directory.escape_ascii()))),
        None => Ok(()),
    }
}
