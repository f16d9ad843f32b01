//! The views of two trees, against `tests/snapshots`: `pair` is the directory `tests/images/pair` as it
//! is; `family` is made from it: the child leads a process group that a second child joins, a third has
//! died.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regrow_graph::order;

use crate::certify::CertifiedTapes;
use crate::host::{CapSets, FileFact, FileStat, HostFacts, SpecialMapping, Vdso};
use crate::image::{self, KobjIds, Model, NsPid, OfdKind, Task, TaskState, VmaKind};
use crate::lower;
use crate::pipeline::{Prepared, Timings};
use crate::report::{dot, inspect, plan};
use crate::resolve::{self, Options, Payloads};

fn pair() -> Model {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/pair/images");
    image::read_model(&dir).unwrap()
}

fn family() -> Model {
    let mut model = pair();
    let (root, child) = (model.tasks[0].pid, model.tasks[1].clone());
    let sibling = |pid: u32, pgid: u32| {
        let mut task = Task { pid: NsPid(pid), pgid: NsPid(pgid), ..child.clone() };
        for thread in task.alive_mut().into_iter().flat_map(|alive| &mut alive.threads) {
            thread.tid = NsPid(pid);
        }
        task
    };
    let leader = child.pid.0;
    model.tasks[1].pgid = NsPid(leader);
    model.tasks.push(sibling(4714, leader));
    let state = TaskState::Zombie { exit_code: 0x300, comm: "gone".to_owned() };
    model.tasks.push(Task { state, ppid: root, ..sibling(4715, root.0) });
    for alive in model.tasks.iter_mut().filter_map(Task::alive_mut) {
        alive.ids = KobjIds::default();
    }
    model
}

/// A host on which nothing stands in the way of `model`.
fn facts(model: &Model) -> HostFacts {
    let mut facts = HostFacts::default();
    facts.own.caps = CapSets { effective: u64::MAX, ..CapSets::default() };
    facts.own.oom_score_adj = Some(0);
    facts.own.nice = Some(0);
    facts.own.sched_policy = Some(0);
    facts.own.sched_priority = Some(0);
    for ofd in &model.ofds {
        if let OfdKind::Reg(file) = &ofd.kind {
            let (mode, size_bytes) = (file.mode.unwrap_or(0), file.size_bytes.unwrap_or(0));
            let fact = FileFact {
                huge: None,
                reached: Ok(FileStat {
                    mode,
                    size_bytes,
                    rdev: 0,
                    ino: 0,
                    dev: 0,
                    block_bytes: 4096,
                    sectors: 0,
                }),
                is_symlink: false,
                build_id: Some(Ok(file.build_id.clone())),
            };
            facts.files.insert(file.path.clone(), fact);
        }
    }
    let vmas = &model.tasks[0].alive().unwrap().mm.vmas;
    let special = |name: &str, kind| {
        let vma = vmas.iter().find(|vma| vma.kind == kind).unwrap();
        let first = vmas.iter().find(|vma| vma.kind == VmaKind::Vvar).unwrap();
        SpecialMapping {
            name: name.to_owned(),
            offset_bytes: vma.start - first.start,
            size_bytes: vma.end - vma.start,
        }
    };
    let mappings = vec![special("[vvar]", VmaKind::Vvar), special("[vdso]", VmaKind::Vdso)];
    facts.vdso = Some(Vdso { mappings, bytes: Vec::new() });
    facts
}

/// All stages but the certificate, which stands for nothing here.
fn prepare(mut model: Model) -> Prepared {
    let read = |blob| image::open_blob(&model, blob).unwrap();
    let payloads = Payloads {
        pipes: model.pipe_data.iter().map(|entry| read(&entry.data)).collect(),
        fifos: Vec::new(),
        packets: model.packets.iter().map(|entry| read(&entry.data)).collect(),
        ..Payloads::default()
    };
    // Messages and tapes hold the path.
    model.dir = PathBuf::from("/images");
    let facts = facts(&model);
    let resolved = resolve::resolve(&model, &payloads, &facts, &Options::default()).resolved.unwrap();
    let plan = order::plan_in(&resolved.forest, resolved.cradle).unwrap();
    let tapes = lower::lower(&plan, &resolved.recipes, &resolved.window).unwrap();
    Prepared {
        model,
        facts,
        resolved,
        plan,
        tapes: CertifiedTapes::unchecked(tapes),
        ground: Default::default(),
        demands: Default::default(),
        certificate: Default::default(),
        threads: Vec::new(),
        timings: Timings::default(),
        costs: Default::default(),
        cores: 2,
        policy: Default::default(),
    }
}

fn check(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

fn inspection(mut model: Model, only: Option<u32>) -> inspect::Inspection {
    model.dir = PathBuf::from("/images");
    inspect::inspect(&model, Some(12345), only)
}

#[test]
fn inspect_text() {
    check("inspect_pair", &inspect::text(&inspection(pair(), None), true));
    check("inspect_family", &inspect::text(&inspection(family(), None), false));
}

#[test]
fn inspect_json_of_one_task() {
    let inspection = inspection(pair(), Some(4713));
    let named: BTreeSet<u32> = inspection.descriptions.iter().map(|description| description.id).collect();
    for task in &inspection.tasks {
        let living = task.living.as_ref().unwrap();
        let used = living.descriptors.iter().map(|descriptor| descriptor.description);
        let used = used.chain([living.executable, living.working_directory, living.root_directory]);
        assert!(used.into_iter().all(|id| named.contains(&id)), "{named:?}");
    }
    check("inspect_pair_json", &serde_json::to_string_pretty(&inspection).unwrap());
}

/// Without the certificate, whose words are the checker's.
fn plan_text_of(prepared: &Prepared, only: Option<u32>, verbose: bool) -> String {
    let text = plan::text(prepared, only, verbose);
    let (plan, _) = text.split_once("\ncertified").unwrap();
    plan.to_owned()
}

#[test]
fn plan_text() {
    check("plan_pair", &plan_text_of(&prepare(pair()), None, false));
    let family = prepare(family());
    check("plan_family", &plan_text_of(&family, None, false));
    check("plan_family_verbose", &plan_text_of(&family, Some(4714), true));
}

#[test]
fn plan_dot() {
    check("plan_family_dot", &dot::dot(&prepare(family()), None));
}

#[test]
fn plan_json_refers_to_what_it_holds() {
    let view = plan::view(&prepare(family()), None).unwrap();
    let json = serde_json::to_value(&view).unwrap();
    assert_eq!(json["format"], plan::FORMAT);
    let ids: BTreeSet<_> = view.operations.iter().map(|op| op.id).collect();
    assert_eq!(ids.len() as u64, view.totals.operations);
    let mut waits = 0;
    for item in view.tasks.iter().flat_map(|task| &task.program) {
        match item {
            plan::PlanItem::Do(op) => assert!(ids.contains(op)),
            plan::PlanItem::Wait(event) => {
                waits += 1;
                assert!(view.events.iter().any(|known| known.event == *event));
            }
            plan::PlanItem::Post(event) => assert!(view.events.iter().any(|known| known.event == *event)),
        }
    }
    assert_eq!((waits, view.totals.waits), (1, 1));
    assert!(view.edges.iter().all(|edge| ids.contains(&edge.before) && ids.contains(&edge.after)));
    for op in json["operations"].as_array().unwrap() {
        assert!(
            op["what"].is_string()
                && op["because"].is_string()
                && op["origin"].is_string()
                && op["op"].is_string(),
            "{op}"
        );
    }
}

#[test]
fn the_totals_are_those_of_the_images() {
    let prepared = prepare(pair());
    let view = plan::view(&prepared, Some(4711)).unwrap();
    assert_eq!((view.tasks.len(), view.totals.tasks), (1, 2));
    assert_eq!((view.totals.descriptors, view.totals.descriptors_inherited), (11, 5));
    assert!(view.operations.iter().all(|op| op.pid == 4711));
}

#[test]
fn a_deep_tree_is_drawn_in_little_room() {
    let mut model = family();
    let zombie = model.tasks.pop().unwrap();
    model.tasks.truncate(1);
    for pid in 5000..7000 {
        let ppid = NsPid(if pid == 5000 { 4711 } else { pid - 1 });
        model.tasks.push(Task { pid: NsPid(pid), ppid, ..zombie.clone() });
    }
    let text = inspect::text(&inspection(model, None), false);
    let deepest = text.lines().find(|line| line.contains("6999 gone")).unwrap();
    assert!(deepest.ends_with("child of 6998"), "{deepest}");
    assert!(text.len() < 2000 * 250, "{}", text.len());
}

/// Everything there is, explained once: what it names is there, and text and JSON are of the same.
#[test]
fn explanations() {
    use crate::report::explain::{About, Subject, explain, text};
    let family = prepare(family());
    let told = |subject| {
        let explanation = explain(&family, subject).unwrap();
        serde_json::to_string(&explanation).unwrap();
        text(&explanation)
    };
    let pids: Vec<u32> = family.model.tasks.iter().map(|task| task.pid.0).collect();
    let tasks: Vec<String> = pids.iter().map(|pid| told(Subject::Task { pid: *pid })).collect();
    check("explain_family_tasks", &tasks.join("\n"));
    let root = &family.model.tasks[0];
    let pipe = family.model.ofds.iter().position(|ofd| matches!(ofd.kind, OfdKind::Pipe(_))).unwrap();
    let id = family.model.ofds[pipe].id;
    let fd = root.alive().unwrap().fds.iter().find(|fd| fd.ofd_id == id).unwrap().fd;
    let shmid = root.alive().unwrap().mm.vmas.iter().find_map(|vma| match vma.kind {
        VmaKind::AnonShared { shmid, .. } => Some(shmid),
        _ => None,
    });
    let mut others = vec![
        told(Subject::Ofd { id }),
        told(Subject::Fd { pid: root.pid.0, fd }),
        told(Subject::Fd { pid: 4714, fd }),
    ];
    others.extend(shmid.map(|id| told(Subject::Shm { id })));
    check("explain_family_others", &others.join("\n"));

    // Every descriptor of every task ends on its way at the number that was asked for.
    for task in &family.model.tasks {
        for fd in task.alive().map(|alive| alive.fds.as_slice()).unwrap_or_default() {
            let About::Description(story) =
                explain(&family, Subject::Fd { pid: task.pid.0, fd: fd.fd }).unwrap().about
            else {
                panic!("no description")
            };
            assert_eq!(story.id, fd.ofd_id);
            let last = story.way.last().unwrap();
            assert_eq!(last.pid, task.pid.0);
            assert!(last.ends_with.contains(&fd.fd), "{last:?}");
            assert!(story.holders.iter().any(|one| one.pid == task.pid.0 && one.fds.contains(&fd.fd)));
        }
    }
}

#[test]
fn what_is_not_there_cannot_be_explained() {
    use crate::report::explain::{Subject, explain};
    let pair = prepare(pair());
    let check = |subject, expected: &str| {
        let error = explain(&pair, subject).unwrap_err().to_string();
        assert_eq!(error, expected);
    };
    check(Subject::Task { pid: 5 }, "no task 5: there are 4711, 4713");
    check(Subject::Fd { pid: 5, fd: 0 }, "no task 5: there are 4711, 4713");
    let error = explain(&pair, Subject::Fd { pid: 4711, fd: 77 }).unwrap_err().to_string();
    assert!(error.starts_with("task 4711 has no descriptor 77: it has 0"), "{error}");
    let error = explain(&pair, Subject::Ofd { id: 0x7777 }).unwrap_err().to_string();
    assert!(error.starts_with("no open file 0x7777: there are "), "{error}");
    let error = explain(&pair, Subject::Shm { id: 0x7777 }).unwrap_err().to_string();
    assert!(error.starts_with("no shared memory 0x7777: there"), "{error}");
}
