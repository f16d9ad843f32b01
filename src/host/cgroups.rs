//! The hierarchies of cgroups, and which cgroups of the images there are.
//!
//! Turns `/proc/self/mountinfo` and `/proc/self/cgroup` into the list of hierarchies that this process is in, with where
//! each can be written, and looks whether the paths that the images name are there. It makes nothing.
//!
//! Worked example: with cgroup v2 mounted at /sys/fs/cgroup and this process in /user.slice, the hierarchy is
//! `{ name: "", own: "/user.slice", mount: Some({ point: "/sys/fs/cgroup", root: "/" }) }`; the cgroup /a/b of it is the
//! directory /sys/fs/cgroup/a/b.
//!
//! # Sources
//! cgroups(7), `proc_pid_mountinfo(5)`; `cgroup1_show_options` in kernel/cgroup/cgroup-v1.c of the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::image::Model;

/// A hierarchy that this process is in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hierarchy {
    /// As `/proc/self/cgroup` has it: controllers (`cpu,cpuacct`), or a name (`name=systemd`); empty: version 2.
    pub name: String,
    /// The cgroup of this process.
    pub own: String,
    /// Where it is mounted to be written; `None`: nowhere.
    pub mount: Option<HierarchyMount>,
}

/// Where a hierarchy is mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HierarchyMount {
    /// The mount point.
    pub point: String,
    /// The cgroup that is seen there.
    pub root: String,
}

/// What is at the place of a cgroup of the images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupFact {
    /// Nothing.
    Missing,
    /// A cgroup.
    There,
    /// A cgroup whose tasks do not run.
    Frozen,
}

impl Hierarchy {
    /// Whether a member of a cgroup set is in this hierarchy: it may say one of several controllers.
    pub fn has(&self, name: &str) -> bool {
        name == self.name
            || !name.is_empty() && name.split(',').all(|one| self.name.split(',').any(|own| own == one))
    }

    /// The directory of the cgroup `path`; `None`: it cannot be seen.
    pub fn directory(&self, path: &str) -> Option<String> {
        let mount = self.mount.as_ref()?;
        let below = path.strip_prefix(mount.root.trim_end_matches('/'))?;
        (below.is_empty() || below.starts_with('/'))
            .then(|| format!("{}{}", mount.point, below.trim_end_matches('/')))
    }
}

/// Whether a path of the images can be one of a cgroup: absolute, without steps that lead elsewhere.
pub fn is_cgroup_path(path: &str) -> bool {
    const PATH_MAX: usize = libc::PATH_MAX as usize;
    path == "/"
        || path.len() < PATH_MAX
            && !path.contains('\0')
            && path
                .strip_prefix('/')
                .is_some_and(|rest| rest.split('/').all(|name| !matches!(name, "" | "." | "..")))
}

/// The hierarchies that this process is in (`cgroups`: their names, and its cgroups in them).
pub(super) fn hierarchies(cgroups: &[(String, String)], mountinfo: &str) -> Vec<Hierarchy> {
    let mounts: Vec<(Vec<&str>, HierarchyMount)> = mountinfo.lines().filter_map(mount).collect();
    let of = |(name, own): &(String, String)| Hierarchy {
        name: name.clone(),
        own: own.clone(),
        // The last one covers others at its place; of several places the one with the most to see is best.
        mount: mounts
            .iter()
            .filter(|(names, _)| {
                if name.is_empty() {
                    names.is_empty()
                } else {
                    name.split(',').all(|one| names.contains(&one))
                }
            })
            .map(|(_, mount)| mount)
            .min_by_key(|mount| mount.root.len())
            .cloned(),
    };
    cgroups.iter().map(of).collect()
}

/// A line of `/proc/self/mountinfo` that is of a hierarchy, and can be written: what names it, and where it is.
fn mount(line: &str) -> Option<(Vec<&str>, HierarchyMount)> {
    let (place, filesystem) = line.split_once(" - ")?;
    let mut place = place.split(' ');
    let (root, point, flags) = (place.nth(3)?, place.next()?, place.next()?);
    let mut filesystem = filesystem.split(' ');
    let (kind, options) = (filesystem.next()?, filesystem.nth(1)?);
    let names = match kind {
        "cgroup2" => Vec::new(),
        "cgroup" => {
            options.split(',').filter(|option| !matches!(*option, "rw" | "xattr" | "noprefix")).collect()
        }
        _ => return None,
    };
    let is_writable = [flags, options].iter().all(|list| list.split(',').any(|option| option == "rw"));
    is_writable.then(|| (names, HierarchyMount { point: unescaped(point), root: unescaped(root) }))
}

/// A path with `\040` for a blank, and the like.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal =
            after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What there is of the cgroups that tasks of the images are in, by hierarchy and path.
pub(super) fn look(hierarchies: &[Hierarchy], model: &Model) -> BTreeMap<(String, String), CgroupFact> {
    let members: BTreeSet<(&str, &str)> = model
        .cgroup_sets
        .iter()
        .flat_map(|set| &set.members)
        .map(|(name, path)| (name.as_str(), path.as_str()))
        .filter(|(_, path)| is_cgroup_path(path))
        .collect();
    let mut found = BTreeMap::new();
    for (name, path) in members {
        let Some(hierarchy) = hierarchies.iter().find(|hierarchy| hierarchy.has(name)) else { continue };
        let Some(directory) = hierarchy.directory(path) else { continue };
        found.insert((hierarchy.name.clone(), path.to_owned()), fact(Path::new(&directory)));
    }
    found
}

fn fact(directory: &Path) -> CgroupFact {
    let says = |file: &str, word: &str| {
        let text = std::fs::read_to_string(directory.join(file));
        text.is_ok_and(|text| text.lines().any(|line| line == word))
    };
    if !directory.is_dir() {
        CgroupFact::Missing
    } else if says("cgroup.events", "frozen 1")
        || says("freezer.state", "FROZEN")
        || says("freezer.state", "FREEZING")
    {
        CgroupFact::Frozen
    } else {
        CgroupFact::There
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/a\\040b rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 /box /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:39 / /sys/fs/cgroup/pids ro,relatime - cgroup cgroup rw,pids
";

    fn all() -> Vec<Hierarchy> {
        let own =
            [("cpu,cpuacct", "/"), ("name=systemd", "/x"), ("", "/box/in"), ("pids", "/"), ("freezer", "/")];
        let own: Vec<_> = own.iter().map(|(name, path)| ((*name).to_owned(), (*path).to_owned())).collect();
        hierarchies(&own, MOUNTINFO)
    }

    #[test]
    fn directories_of_cgroups() {
        let all = all();
        let check = |name: &str, path: &str, expected: Option<&str>| {
            let hierarchy = all.iter().find(|hierarchy| hierarchy.has(name)).expect("it is there");
            assert_eq!(hierarchy.directory(path).as_deref(), expected, "{name} {path}");
        };
        check("cpu,cpuacct", "/a/b", Some("/sys/fs/cgroup/cpu/a/b"));
        check("cpuacct", "/", Some("/sys/fs/cgroup/cpu"));
        check("name=systemd", "/x", Some("/sys/fs/cgroup/a b/x"));
        check("", "/box/in", Some("/sys/fs/cgroup/unified/in"));
        check("", "/box", Some("/sys/fs/cgroup/unified"));
        // Not to be seen there.
        check("", "/boxes", None);
        check("", "/", None);
        // Read-only, not mounted.
        check("pids", "/a", None);
        check("freezer", "/a", None);
        assert!(!all.iter().any(|hierarchy| hierarchy.has("memory") || hierarchy.has("cpu,memory")));
    }

    #[test]
    fn paths_that_lead_elsewhere() {
        for path in ["/", "/a", "/a/b c"] {
            assert!(is_cgroup_path(path), "{path}");
        }
        for path in ["", "a", "/a/", "//a", "/../a", "/a/.", "/a\0b"] {
            assert!(!is_cgroup_path(path), "{path:?}");
        }
        assert!(!is_cgroup_path(&"/a".repeat(2048)));
    }

    #[test]
    fn what_is_no_line_of_a_mount() {
        for line in ["", "31", "31 23 0:28 / /sys", "31 23 0:28 / /sys rw - cgroup", " - cgroup x rw,cpu"] {
            assert_eq!(mount(line), None, "{line}");
        }
        assert_eq!(unescaped("a\\0"), "a\\0");
    }
}
