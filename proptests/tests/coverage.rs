//! The generators reach what the properties are about: otherwise the properties say little.

use std::collections::BTreeMap;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use regrow::image::ipc::{SHM_DEST, SHM_LOCKED};
use regrow::synth::{Forest, Ipc, Ring, Task};
use regrow_graph::family::{Join, arrange};
use regrow_graph::forest::{Descent, Life};
use regrow_graph::graph::OpKind;
use regrow_graph::ids::{ResourceId, TaskId};
use regrow_graph::order::{Item, plan_in};
use regrow_proptests::descriptions::descriptions;
use regrow_proptests::forests::{Case, FIRST_SPARE, cases};
use regrow_proptests::oracle::path;
use regrow_proptests::passing::batch_cases;

/// Of this many forests
const FORESTS: usize = 600;
/// (of descriptions, of this many)
const DESCRIPTIONS: usize = 400;
/// at least this many have each trait.
const ENOUGH: usize = 6;
/// and at most this many could not be planned as they were.
const FEW: usize = 6;

#[test]
fn everything_is_reached() {
    let mut runner = TestRunner::deterministic();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut shortened = 0;
    for _ in 0..FORESTS {
        let case = cases().new_tree(&mut runner).expect("a forest").current();
        shortened += usize::from(case.left_out > 0);
        for (what, is_there) in traits(&case) {
            *seen.entry(what).or_default() += usize::from(is_there);
        }
    }
    assert!(shortened <= FEW, "{shortened} of {FORESTS} lives cannot be planned to their ends");
    let rare: Vec<_> = seen.iter().filter(|(_, count)| **count < ENOUGH).collect();
    assert!(rare.is_empty(), "too rare among {FORESTS}: {rare:?} of {seen:?}");
}

#[test]
fn helpers_fork_for_others() {
    let mut runner = TestRunner::deterministic();
    let (mut batched, mut sent) = (0, 0);
    for _ in 0..FORESTS {
        let (case, helpers) = batch_cases().new_tree(&mut runner).expect("a forest").current();
        batched += usize::from(helpers > 0);
        sent += usize::from(helpers > 0 && !case.forest.passing.messages.is_empty());
    }
    assert!(
        batched >= 10 * ENOUGH && sent >= ENOUGH,
        "of {FORESTS}: {batched} with helpers, {sent} with messages"
    );
}

#[test]
fn system_v_objects_and_rings_are_reached() {
    // SAFETY: geteuid has no preconditions.
    let is_root = unsafe { libc::geteuid() } == 0;
    let mut runner = TestRunner::deterministic();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..DESCRIPTIONS {
        let forest = descriptions("/x".as_ref(), 16).new_tree(&mut runner).expect("a forest").current();
        for (what, is_there) in described(&forest) {
            *seen.entry(what).or_default() += usize::from(is_there);
        }
    }
    // Only root can have an IPC namespace of its own.
    let rare: Vec<_> =
        seen.iter().filter(|(what, count)| **count < ENOUGH && (is_root || what.contains("ring"))).collect();
    assert!(rare.is_empty(), "too rare among {DESCRIPTIONS}: {rare:?} of {seen:?}");
}

fn described(forest: &Forest) -> Vec<(&'static str, bool)> {
    let ipc = forest.ipc.clone().unwrap_or_default();
    let Ipc { segments, queues, semaphores, .. } = &ipc;
    let attached = |segment: usize, task: &Task| task.attached.iter().any(|it| it.segment == segment);
    let users = |segment: usize| forest.tasks.iter().filter(|task| attached(segment, task)).count();
    let any_ring =
        |is_it: &dyn Fn(&Ring) -> bool| forest.tasks.iter().any(|task| task.rings.iter().any(is_it));
    let overlaps = |task: &Task, ring: &Ring| {
        let private = task.private.iter().map(|it| (it.start, it.len_pages));
        let others = private.chain(task.views.iter().map(|it| (it.start, it.len_pages)));
        let end = ring.start + ring.len_pages * 4096;
        others.into_iter().any(|(start, pages)| start < end && ring.start < start + pages * 4096)
    };
    let pairs = || forest.tasks.iter().filter_map(|child| Some((&forest.tasks[child.parent?], child)));
    vec![
        ("a segment of several tasks", (0..segments.len()).any(|it| users(it) >= 2)),
        (
            "a segment in several places of a task",
            forest.tasks.iter().any(|task| {
                (0..segments.len())
                    .any(|it| task.attached.iter().filter(|one| one.segment == it).count() >= 2)
            }),
        ),
        (
            "a segment to be written and to be read only",
            (0..segments.len()).any(|it| {
                let how = |read_only| {
                    let all = forest.tasks.iter().flat_map(|task| &task.attached);
                    all.into_iter().any(|one| one.segment == it && one.read_only == read_only)
                };
                how(true) && how(false)
            }),
        ),
        (
            "a part of a segment",
            forest.tasks.iter().any(|task| task.attached.iter().any(|it| it.offset_pages > 0)),
        ),
        (
            "a segment of nobody with pages",
            (0..segments.len()).any(|it| users(it) == 0 && !segments[it].memory.pages.is_empty()),
        ),
        ("a segment that is marked", segments.iter().any(|it| it.perm.mode & SHM_DEST != 0)),
        ("a segment that is locked", segments.iter().any(|it| it.perm.mode & SHM_LOCKED != 0)),
        ("made by another", segments.iter().any(|it| (it.perm.cuid, it.perm.cgid) != (0, 0))),
        ("orphans go", ipc.rmid_forced && !segments.is_empty()),
        ("fewer segments than there are", ipc.shmmni.is_some_and(|most| (most as usize) < segments.len())),
        (
            "a queue that is more than full",
            queues.iter().any(|it| {
                let held: usize = it.messages.iter().map(|(_, bytes)| bytes.len()).sum();
                held > it.most_bytes as usize
            }),
        ),
        ("semaphores", !semaphores.is_empty()),
        ("a ring with events", any_ring(&|ring| ring.pending > 0)),
        (
            "a ring that has come round",
            any_ring(&|ring| u64::from(ring.head) + u64::from(ring.pending) >= ring.len_pages * 128 - 1),
        ),
        ("a ring of more pages", any_ring(&|ring| ring.len_pages > 1)),
        ("two rings of a task", forest.tasks.iter().any(|task| task.rings.len() >= 2)),
        ("a ring of a parent", pairs().any(|(parent, _)| !parent.rings.is_empty())),
        ("a ring of a child", pairs().any(|(_, child)| !child.rings.is_empty())),
        (
            "a ring where the child has something else",
            pairs().any(|(parent, child)| parent.rings.iter().any(|ring| overlaps(child, ring))),
        ),
        (
            "a ring in the place of what the parent has",
            pairs().any(|(parent, child)| child.rings.iter().any(|ring| overlaps(parent, ring))),
        ),
    ]
}

fn traits(case: &Case) -> Vec<(&'static str, bool)> {
    let forest = &case.forest;
    let family = arrange(forest, case.cradle).expect("a possible history");
    let plan = plan_in(forest, case.cradle).expect("a plan");
    let children = forest.children();
    let is_any = |kind: fn(&OpKind) -> bool| plan.graph.ops().any(|(_, op)| kind(&op.kind));
    let tasks = &forest.tasks;
    let is_carrier = |index: usize| {
        forest.resources[index].yields.is_empty() && plan.owner(ResourceId::new(index)).is_some()
    };
    let table_of = |task: TaskId| &tasks[task.index()].table;
    // A child with two of its parent's descriptions at each other's numbers.
    let is_swapped = tasks.iter().any(|task| {
        task.parent.is_some_and(|parent| {
            let there = |fd| table_of(parent).iter().find(|slot| slot.fd == fd).map(|slot| slot.ofd);
            task.table.iter().any(|a| {
                task.table
                    .iter()
                    .any(|b| a.ofd != b.ofd && there(a.fd) == Some(b.ofd) && there(b.fd) == Some(a.ofd))
            })
        })
    });
    let needed: Vec<usize> = (0..forest.ofds)
        .map(|ofd| {
            tasks
                .iter()
                .filter(|task| {
                    task.steps
                        .iter()
                        .any(|step| forest.steps[step.index()].needs.iter().any(|it| it.index() == ofd))
                })
                .count()
        })
        .collect();
    vec![
        ("alone", tasks.len() == 1),
        ("30 tasks", tasks.len() >= 30),
        ("10 deep", (0..tasks.len()).any(|at| path(forest, TaskId::new(at)).len() >= 10)),
        ("10 wide", children.iter().any(|children| children.len() >= 10)),
        ("zombie", is_any(|kind| matches!(kind, OpKind::Exit))),
        ("a dead leader of a session", tasks.iter().any(|task| task.life == Life::Helper && task.sid == task.pid)),
        (
            "a dead leader of a group in the session of one",
            tasks.iter().any(|task| {
                let is_helper = |pid| tasks.iter().any(|it| it.life == Life::Helper && it.pid == pid);
                task.life == Life::Helper && task.pgid == task.pid && task.sid != task.pid && is_helper(task.sid)
            }),
        ),
        ("a helper with a spare pid", tasks.iter().any(|task| task.life == Life::Helper && task.pid >= FIRST_SPARE)),
        ("forked by a sibling", tasks.iter().any(|task| task.descent == Descent::Sibling)),
        ("adopted", tasks.iter().any(|task| matches!(task.descent, Descent::Adopted { .. }))),
        (
            "adopted zombie",
            tasks
                .iter()
                .any(|task| task.life == Life::Zombie && matches!(task.descent, Descent::Adopted { .. })),
        ),
        (
            "adopters of one session, one above the other",
            tasks.iter().enumerate().any(|(one, task)| {
                tasks[one + 1..].iter().any(|other| {
                    matches!((task.descent, other.descent), (Descent::Adopted { by: a }, Descent::Adopted { by: b }) if a != b)
                        && task.sid == other.sid
                })
            }),
        ),
        (
            "zombie that forks",
            (0..tasks.len()).any(|at| tasks[at].life == Life::Zombie && !children[at].is_empty()),
        ),
        (
            "resource of a helper",
            plan.owners.iter().flatten().any(|owner| tasks[owner.index()].life == Life::Helper),
        ),
        ("helper", tasks.iter().any(|task| task.life == Life::Helper)),
        (
            "zombie in a helper's group",
            tasks.iter().any(|task| {
                task.life == Life::Zombie
                    && tasks.iter().any(|helper| helper.life == Life::Helper && helper.pid == task.pgid)
            }),
        ),
        ("thread", is_any(|kind| matches!(kind, OpKind::StartThread { .. }))),
        (
            "zombie in another's group",
            (0..tasks.len()).any(|at| {
                tasks[at].life == Life::Zombie && matches!(family.join[at], Join::JoinLater { .. })
            }),
        ),
        (
            "leader of a group is a zombie",
            (0..tasks.len()).any(|at| tasks[at].life == Life::Zombie && family.join[at] == Join::Found),
        ),
        ("child born before setsid", family.early.contains(&true)),
        (
            "children forked out of order",
            children.iter().any(|children| {
                children
                    .windows(2)
                    .any(|pair| !family.early[pair[0].index()] && family.early[pair[1].index()])
            }),
        ),
        ("born in the cradle's session", tasks[0].sid != tasks[0].pid),
        ("join at birth", family.join.iter().any(|join| matches!(join, Join::JoinAtBirth { .. }))),
        ("join later", family.join.iter().any(|join| matches!(join, Join::JoinLater { .. }))),
        ("wait", plan.programs.iter().flatten().any(|item| matches!(item, Item::Wait(_)))),
        ("swap", is_swapped),
        ("dup", is_any(|kind| matches!(kind, OpKind::Dup { .. }))),
        ("close-on-exec", is_any(|kind| matches!(kind, OpKind::SetCloexec { .. }))),
        (
            "three yields",
            forest.resources.iter().any(|resource| resource.yields.iter().flatten().count() >= 3),
        ),
        (
            "one end of a pair",
            forest.resources.iter().any(|resource| {
                resource.yields.len() == 2
                    && resource.yields.contains(&None)
                    && resource.yields != [None, None]
            }),
        ),
        ("carrier", (0..forest.resources.len()).any(is_carrier)),
        (
            "carrier that is finished with a file",
            (0..forest.resources.len()).any(|index| {
                is_carrier(index)
                    && forest.resources[index]
                        .finish
                        .iter()
                        .any(|step| !forest.steps[step.index()].needs.is_empty())
            }),
        ),
        ("file of one task's steps", needed.contains(&1)),
        ("file of many tasks' steps", needed.iter().any(|count| *count > 1)),
        (
            "owner below the root, with users below it",
            plan.owners.iter().enumerate().any(|(index, owner)| {
                owner.is_some_and(|owner| {
                    owner != TaskId(0)
                        && tasks.iter().any(|task| {
                            task.parent == Some(owner)
                                && task
                                    .table
                                    .iter()
                                    .any(|slot| forest.resources[index].yields.contains(&Some(slot.ofd)))
                        })
                })
            }),
        ),
    ]
}
