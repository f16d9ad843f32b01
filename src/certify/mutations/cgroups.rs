//! Cgroups: no record that moves a task can be left out or lead elsewhere, and what the launcher makes is what the
//! images have.

use regrow_graph::verify::{Effect, FdEffect, verify};

use super::{facts, model, plan};
use crate::certify::{Demands, check};
use crate::host::{Hierarchy, HierarchyMount, HostFacts};
use crate::image::{CgroupDirectory, CgroupHierarchy, CgroupPerms, CgroupProperty, CgroupSet, Model};
use crate::resolve::problem::Problem;
use crate::tape::Tapes;

const DUMPER: u32 = 1;
const ROOT: u32 = 2;
const CHILD: u32 = 3;

/// The root in two hierarchies away from the dumper, its child elsewhere in one of them.
fn moved() -> (Model, HostFacts) {
    let mut model = model();
    model.inventory.root_cg_set = Some(DUMPER);
    for (task, set) in model.tasks.iter_mut().zip([ROOT, CHILD]) {
        let alive = task.alive_mut().expect("it lives");
        alive.threads.iter_mut().for_each(|thread| thread.cg_set = Some(set));
    }
    let set = |id, members: [(&str, &str); 3]| CgroupSet {
        id,
        members: members.map(|(name, path)| (name.to_owned(), path.to_owned())).to_vec(),
    };
    model.cgroup_sets = vec![
        set(ROOT, [("", "/job"), ("name=box", "/job"), ("cpu", "/")]),
        set(CHILD, [("", "/job/in"), ("name=box", "/job"), ("cpu", "/")]),
    ];
    let directory = |parent, name: &str| CgroupDirectory {
        parent,
        name: name.to_owned(),
        perms: Some(CgroupPerms { mode: 0o755, uid: 0, gid: 0 }),
        properties: vec![CgroupProperty {
            name: "cgroup.max.depth".to_owned(),
            value: "7".to_owned(),
            perms: None,
        }],
    };
    model.cgroup_hierarchies = vec![CgroupHierarchy {
        controllers: vec![String::new()],
        directories: vec![directory(None, "/job"), directory(Some(0), "in"), directory(Some(0), "empty")],
    }];
    let mut facts = facts(&model);
    let hierarchy = |name: &str, point: &str| Hierarchy {
        name: name.to_owned(),
        own: "/".to_owned(),
        mount: Some(HierarchyMount { point: point.to_owned(), root: "/".to_owned() }),
    };
    facts.hierarchies = vec![
        hierarchy("", "/sys/fs/cgroup"),
        hierarchy("name=box", "/sys/fs/cgroup/box"),
        hierarchy("cpu", "/cpu"),
    ];
    (model, facts)
}

fn problems(change: impl FnOnce(&mut Model, &mut HostFacts)) -> Vec<String> {
    let (mut model, mut facts) = moved();
    change(&mut model, &mut facts);
    let payloads = crate::resolve::Payloads::default();
    let options = crate::resolve::Options::default();
    let problems: Vec<Problem> = crate::resolve::resolve(&model, &payloads, &facts, &options).problems;
    problems.iter().map(ToString::to_string).filter(|text| text.contains("cgroup")).collect()
}

#[test]
fn every_move_is_needed() {
    let (model, facts) = moved();
    let (real, problems) = plan(model, &facts);
    assert!(!problems.iter().any(|problem| problem.text.contains("cgroup")), "{problems:?}");
    verify(&real.lifted, &real.expected).expect("a certificate");
    let born_there = real.lifted.tasks.iter().flat_map(|task| &task.effects);
    let born_there =
        born_there.filter(|lifted| matches!(&lifted.effect, Effect::Fork(birth) if birth.cgroup.is_some()));
    assert_eq!(born_there.count(), 1, "the child is born in its cgroup");

    let is_move = |effect: &Effect| match effect {
        Effect::Fd(FdEffect::Open { path, .. }) => path.starts_with(b"/sys/fs/cgroup"),
        Effect::Fork(birth) => birth.cgroup.is_some(),
        _ => false,
    };
    let mut seen = 0;
    for task in 0..real.lifted.tasks.len() {
        for at in 0..real.lifted.tasks[task].effects.len() {
            let effect = &real.lifted.tasks[task].effects[at].effect;
            if !is_move(effect) {
                continue;
            }
            seen += 1;
            let mut other = real.lifted.clone();
            match &mut other.tasks[task].effects[at].effect {
                Effect::Fd(FdEffect::Open { path, .. }) => {
                    let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or_default();
                    path.splice(end..end, *b"/elsewhere");
                }
                Effect::Fork(birth) => birth.cgroup = None,
                _ => unreachable!(),
            }
            verify(&other, &real.expected).expect_err("another cgroup");
        }
    }
    // Two moves of the root, the directory for its child, and that birth.
    assert_eq!(seen, 4);
    // Nobody may be moved where no hierarchy is known.
    let mut none = real.expected.clone();
    none.hierarchies.clear();
    verify(&real.lifted, &none).expect_err("no hierarchy");
}

#[test]
fn cgroups_are_made_as_the_images_have_them() {
    let (model, facts) = moved();
    let (real, _) = plan(model, &facts);
    let demands = Demands::of(&real.model, &real.ground).expect("the images are good");
    check(&demands, &real.tapes, None).expect("a certificate");
    let made: Vec<String> = real
        .tapes
        .cgroups
        .iter()
        .map(|cgroup| String::from_utf8_lossy(&cgroup.directory).into_owned())
        .collect();
    assert_eq!(
        made,
        ["/sys/fs/cgroup/job", "/sys/fs/cgroup/job/empty", "/sys/fs/cgroup/job/in", "/sys/fs/cgroup/box/job"]
    );
    let wrong = |change: &dyn Fn(&mut Tapes), words: &str| {
        let mut tapes = real.tapes.clone();
        change(&mut tapes);
        let said = check(&demands, &tapes, None).expect_err(words).to_string();
        assert!(said.contains(words), "{said}, expected: {words}");
    };
    wrong(&|tapes| drop(tapes.cgroups.remove(0)), "is made before the one that it is in");
    for (at, directory) in made.iter().enumerate().skip(1) {
        wrong(&|tapes| drop(tapes.cgroups.remove(at)), &format!("the cgroup {directory} is not made"));
    }
    wrong(&|tapes| tapes.cgroups.swap(0, 2), "is made before the one that it is in");
    wrong(&|tapes| tapes.cgroups[0].perms = None, "and not as the images have it");
    wrong(&|tapes| tapes.cgroups[1].files[0].value = b"8".to_vec(), "and not as the images have it");
    wrong(&|tapes| tapes.cgroups[1].files[0].name = b"../x".to_vec(), "and not as the images have it");
    wrong(&|tapes| tapes.cgroups[3].directory = b"/etc/job".to_vec(), "the images do not need it");
}

#[test]
fn what_cannot_be_entered_is_named() {
    let check = |change: &dyn Fn(&mut Model, &mut HostFacts), expected: &str| {
        let found = problems(change);
        assert!(found.iter().any(|text| text.contains(expected)), "{found:?}, expected: {expected}");
    };
    assert!(problems(|_, _| ()).is_empty());
    check(
        &|_, facts| facts.hierarchies.truncate(1),
        "the cgroup /job of name=box, a hierarchy that is not here",
    );
    check(&|_, facts| facts.hierarchies[1].mount = None, "name=box is mounted nowhere here to be written");
    check(&|model, _| drop(model.cgroup_sets.pop()), "its cgroup set 3 is not in cgroup.img");
    check(&|model, _| model.cgroup_sets[0].members[0].1 = "/../x".to_owned(), "is no path of a cgroup");
    check(
        &|model, _| {
            let file = &mut model.cgroup_hierarchies[0].directories[1].properties[0];
            file.name = "../../x".to_owned();
        },
        "is no name of a file of the cgroup /job/in",
    );
    check(
        &|model, _| {
            let file = &mut model.cgroup_hierarchies[0].directories[1].properties[0];
            (file.name, file.value) = ("cgroup.freeze".to_owned(), "1".to_owned());
        },
        "the cgroup /job/in was frozen: not restored yet",
    );
    check(
        &|model, _| {
            let alive = model.tasks[1].alive_mut().expect("it lives");
            alive.threads.last_mut().expect("a thread").cg_set = Some(ROOT);
        },
        "is in another cgroup than its task: not restored yet",
    );
}
