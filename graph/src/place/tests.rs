use super::*;
use crate::family::{Cradle, arrange};
use crate::forest::{Descent, ResourceSpec, Slot, StepSpec, TaskSpec};
use crate::passing::{Assignment, Delivery, arrange as arrange_passing};

/// A task: its parent, its session (0: that of the root, who leads it) and its table.
type Plain<'a> = (Option<u32>, u32, &'a [(Fd, u32)]);

fn tree(tasks: &[Plain<'_>]) -> Forest {
    let mut forest = Forest::default();
    for (index, (parent, sid, table)) in tasks.iter().enumerate() {
        let pid = index as u32 + 10;
        let sid = if *sid == 0 { 10 } else { *sid };
        let table: Vec<Slot> =
            table.iter().map(|(fd, ofd)| Slot { fd: *fd, ofd: OfdId(*ofd), cloexec: false }).collect();
        forest.tasks.push(TaskSpec {
            pid,
            parent: parent.map(TaskId),
            pgid: sid,
            sid,
            table,
            ..TaskSpec::default()
        });
    }
    forest
}

/// Adds a resource that yields these descriptions.
fn makes(forest: &mut Forest, yields: &[Option<u32>]) {
    forest.ofds += yields.iter().flatten().count();
    let yields = yields.iter().map(|ofd| ofd.map(OfdId)).collect();
    forest.resources.push(ResourceSpec { yields, ..ResourceSpec::default() });
}

fn step(forest: &mut Forest, needs: &[u32]) -> StepId {
    forest.steps.push(StepSpec { needs: needs.iter().copied().map(OfdId).collect() });
    StepId::new(forest.steps.len() - 1)
}

fn shown(kind: &OpKind) -> String {
    match kind {
        OpKind::Fork { child, .. } => format!("fork {child}"),
        OpKind::StartThread { thread } => format!("start {thread}"),
        OpKind::Create { resource, at, .. } => format!("{resource} at {at:?}"),
        OpKind::Dup { from, to, .. } => format!("dup {from} {to}"),
        OpKind::Close { first, last } if first == last => format!("close {first}"),
        OpKind::Close { first, last } => format!("close {first}..{last}"),
        OpKind::Send { through, fds, .. } => format!("send {fds:?} by {through}"),
        OpKind::Receive { through, at, stays, .. } => {
            format!("{} {at:?} by {through}", if *stays { "look" } else { "take" })
        }
        OpKind::Stage { number, begins: false } => format!("end {number}"),
        OpKind::Stage { number, begins: true } => format!("begin {number}"),
        OpKind::Turn { begins: false } => "hand on".to_owned(),
        OpKind::Turn { begins: true } => "take over".to_owned(),
        OpKind::SetCloexec { fd, .. } => format!("cloexec {fd}"),
        OpKind::SetSid => "setsid".to_owned(),
        OpKind::SetPgid { pgid } => format!("setpgid {pgid}"),
        OpKind::BecomeSubreaper => "subreaper".to_owned(),
        OpKind::Step { step, fds } => format!("{step} {fds:?}"),
        OpKind::AwaitExit { child, .. } => format!("await {child}"),
        OpKind::EatSigchld => "sigchld".to_owned(),
        OpKind::Exit => "exit".to_owned(),
        OpKind::Arrive => "arrive".to_owned(),
        OpKind::Park => "park".to_owned(),
    }
}

/// Expects each task's operations up to the barrier.
fn check(forest: &Forest, expected: &[&str]) {
    let family = arrange(forest, Cradle::default()).expect("possible sessions");
    let placement = place(forest, &family, None).expect("a placement");
    let mut programs = vec![Vec::new(); forest.tasks.len()];
    for (_, op) in placement.graph.ops() {
        if !matches!(op.kind, OpKind::Arrive | OpKind::Park) {
            programs[op.task.index()].push(shown(&op.kind));
        }
    }
    let programs: Vec<String> = programs.iter().map(|ops| ops.join(", ")).collect();
    assert_eq!(programs, expected);
}

fn check_error(forest: &Forest, expected: &str) {
    let family = arrange(forest, Cradle::default()).expect("possible sessions");
    let errors = place(forest, &family, None).expect_err("no placement");
    assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "), expected);
}

#[test]
fn what_is_alike_is_inherited() {
    let table: &[(Fd, u32)] = &[(0, 0), (1, 1)];
    let mut forest = tree(&[(None, 0, table), (Some(0), 0, table), (Some(1), 0, table)]);
    makes(&mut forest, &[Some(0), Some(1)]);
    check(&forest, &["setsid, r0 at [0, 1], fork t1", "fork t2", ""]);
}

/// Those are given out over all tasks, so these are placed in their order, however many processors there are.
#[test]
fn numbers_that_no_table_uses() {
    let mut forest = tree(&[
        (None, 0, &[]),
        (Some(0), 0, &[(0, 0)]),
        (Some(0), 0, &[(0, 1)]),
        (Some(1), 0, &[(0, 2), (1, 0)]),
        (Some(1), 0, &[(0, 2)]),
        (Some(2), 0, &[(0, 3), (1, 1)]),
        (Some(2), 0, &[(0, 3)]),
    ]);
    (0..4).for_each(|ofd| makes(&mut forest, &[Some(ofd)]));
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| {
            check(
                &forest,
                &[
                    "setsid, fork t1, fork t2",
                    "r0 at [0], r2 at [1], dup 1 2, close 1, fork t3, fork t4, close 2",
                    "r1 at [0], r3 at [1], dup 1 3, close 1, fork t5, fork t6, close 3",
                    "dup 0 1, dup 2 0, close 2",
                    "close 0, dup 2 0, close 2",
                    "dup 0 1, dup 3 0, close 3",
                    "close 0, dup 3 0, close 3",
                ],
            );
        });
    }
}

#[test]
fn the_lowest_common_ancestor_makes_it_and_lets_it_go() {
    let mut forest = tree(&[
        (None, 0, &[]),
        (Some(0), 0, &[]),
        (Some(1), 0, &[(0, 0)]),
        (Some(1), 0, &[(0, 0)]),
        (Some(1), 0, &[]),
    ]);
    makes(&mut forest, &[Some(0)]);
    check(&forest, &["setsid, fork t1", "r0 at [0], fork t2, fork t3, close 0, fork t4", "", "", ""]);
}

#[test]
fn what_only_the_parent_wants_comes_after_its_forks() {
    let mut forest = tree(&[(None, 0, &[(0, 0)]), (Some(0), 0, &[(0, 1)])]);
    makes(&mut forest, &[Some(0)]);
    makes(&mut forest, &[Some(1)]);
    check(&forest, &["setsid, fork t1, r0 at [0]", "r1 at [0]"]);
}

#[test]
fn swapped_numbers() {
    let mut forest = tree(&[(None, 0, &[(0, 0), (1, 1)]), (Some(0), 0, &[(0, 1), (1, 0)])]);
    makes(&mut forest, &[Some(0)]);
    makes(&mut forest, &[Some(1)]);
    check(&forest, &["setsid, r0 at [0], r1 at [1], fork t1", "dup 0 2, dup 1 0, dup 2 1, close 2"]);
}

#[test]
fn the_end_that_nobody_has_is_closed() {
    let mut forest = tree(&[(None, 0, &[(1, 0)])]);
    makes(&mut forest, &[None, Some(0)]);
    check(&forest, &["setsid, r0 at [0, 1], close 0"]);
}

#[test]
fn children_of_the_old_session_are_forked_first() {
    let mut forest =
        tree(&[(None, 0, &[]), (Some(0), 11, &[(0, 0)]), (Some(1), 11, &[(0, 0)]), (Some(1), 0, &[(0, 0)])]);
    makes(&mut forest, &[Some(0)]);
    check(&forest, &["setsid, fork t1", "r0 at [0], fork t3, setsid, fork t2", "", ""]);
}

#[test]
fn files_of_steps_are_open_only_for_them() {
    let mut forest = tree(&[(None, 0, &[(0, 0)])]);
    makes(&mut forest, &[Some(0)]);
    makes(&mut forest, &[Some(1)]);
    let steps = [step(&mut forest, &[1]), step(&mut forest, &[1, 0]), step(&mut forest, &[])];
    forest.tasks[0].steps.extend(steps);
    check(&forest, &["setsid, r0 at [0], r1 at [1], s0 [1], s1 [1, 0], close 1, s2 []"]);
}

/// Found by the property tests: the owner's finishing work needs a file that a child needs, too.
#[test]
fn files_of_finishing_work_are_kept_past_the_forks() {
    let mut forest = tree(&[(None, 0, &[]), (Some(0), 0, &[])]);
    makes(&mut forest, &[]);
    makes(&mut forest, &[Some(0)]);
    let (filling, childs) = (step(&mut forest, &[0]), step(&mut forest, &[0]));
    forest.resources[0].users = vec![TaskId(0), TaskId(1)];
    forest.resources[0].finish = vec![filling];
    forest.tasks[1].steps = vec![childs];
    check(&forest, &["setsid, r0 at [], r1 at [0], fork t1, s0 [0], close 0", "s1 [0], close 0"]);
}

/// Found by the property tests: two ends that no table has, beside one that a table has, were both
/// put at number 0, and one was made again.
#[test]
fn ends_for_steps_do_not_collide() {
    let mut forest = tree(&[(None, 0, &[(1, 0)])]);
    makes(&mut forest, &[Some(0), Some(1), Some(2)]);
    let steps = [step(&mut forest, &[2]), step(&mut forest, &[1])];
    forest.tasks[0].steps.extend(steps);
    let family = arrange(&forest, Cradle::default()).expect("possible sessions");
    let placement = place(&forest, &family, None).expect("a placement");
    let made = placement.graph.ops().filter(|(_, op)| matches!(op.kind, OpKind::Create { .. })).count();
    assert_eq!(made, 1);
}

/// Found by the property tests: who is named as a user has it made, whether or not it keeps any end.
#[test]
fn users_alone_are_reason_enough() {
    let mut forest = tree(&[(None, 0, &[])]);
    makes(&mut forest, &[None]);
    forest.resources[0].users = vec![TaskId(0)];
    check(&forest, &["setsid, r0 at [0], close 0"]);
}

#[test]
fn errors() {
    let mut forest = tree(&[(None, 0, &[(0, 0)])]);
    check_error(&forest, "t0: ofd0 is wanted and nothing makes it");
    makes(&mut forest, &[Some(0)]);
    makes(&mut forest, &[Some(0)]);
    check_error(&forest, "ofd0 is made twice: by r0 and r1");

    let mut forest = tree(&[(None, 0, &[(1, 0), (5, 1)])]);
    makes(&mut forest, &[Some(0), Some(1)]);
    forest.fd_limit = 5;
    check_error(&forest, "t0: descriptor 5 is needed while restoring, and the limit is 5");

    let mut forest = tree(&[(None, 0, &[]), (Some(0), 0, &[]), (Some(1), 0, &[])]);
    forest.tasks[1].life = Life::Zombie;
    check_error(&forest, "t2: its parent t1 cannot fork it");

    let mut forest = tree(&[(None, 0, &[(0, 0)])]);
    makes(&mut forest, &[Some(0)]);
    let needy = step(&mut forest, &[0]);
    forest.tasks[0].tail.push(needy);
    check_error(&forest, "t0: s0 needs descriptions where none are given");
}

/// Lets `creator` make a resource and `takers` receive it.
fn deliver(assignment: &mut Assignment, resource: u32, creator: u32, takers: &[u32]) {
    let takers = takers.iter().copied().map(TaskId).collect();
    assignment.deliveries.insert(ResourceId(resource), Delivery { creator: TaskId(creator), takers });
}

#[test]
fn one_message_for_many() {
    let all: Vec<(Fd, u32)> = (0..8).map(|n| (n, n)).collect();
    let mut forest = tree(&[(None, 0, &all), (Some(0), 0, &all), (Some(0), 0, &all)]);
    for ofd in 0..8 {
        makes(&mut forest, &[Some(ofd)]);
    }
    let mut assignment = Assignment::default();
    for resource in 0..8 {
        deliver(&mut assignment, resource, 1, &[0, 2]);
    }
    assert_eq!(arrange_passing(&mut forest, &assignment), 1);
    let made = "r0 at [0], r1 at [1], r2 at [2], r3 at [3], r4 at [4], r5 at [5], r6 at [6], r7 at [7]";
    check(
        &forest,
        &[
            "setsid, r8 at [0, 1], dup 0 8, dup 1 9, close 0..1, fork t1, fork t2, close 8, \
             look [0, 1, 2, 3, 4, 5, 6, 7] by 9, close 9",
            &format!("close 9, {made}, send [0, 1, 2, 3, 4, 5, 6, 7] by 8, close 8"),
            "close 8, look [0, 1, 2, 3, 4, 5, 6, 7] by 9, close 9",
        ],
    );
}

/// Each takes what is for it when the one before has taken its own.
#[test]
fn messages_for_one_each() {
    let mut forest = tree(&[(None, 0, &[]), (Some(0), 0, &[(0, 0)]), (Some(0), 0, &[(0, 1)])]);
    makes(&mut forest, &[Some(0)]);
    makes(&mut forest, &[Some(1)]);
    let mut assignment = Assignment::default();
    deliver(&mut assignment, 0, 0, &[1]);
    deliver(&mut assignment, 1, 0, &[2]);
    assert_eq!(arrange_passing(&mut forest, &assignment), 1);
    check(
        &forest,
        &[
            "setsid, r2 at [0, 1], dup 1 2, dup 0 1, close 0, fork t1, fork t2, close 2, r0 at [0], r1 at [2], \
             send [0] by 1, send [2] by 1, close 0..2",
            "close 1, take [0] by 2, close 2",
            "close 1, take [0] by 2, close 2",
        ],
    );
    let family = arrange(&forest, Cradle::default()).expect("possible sessions");
    let placement = place(&forest, &family, None).expect("a placement");
    let waits = placement.graph.edges().filter_map(|(_, _, why)| match why {
        Reason::SentBy { .. } | Reason::TakenBy { .. } => Some(why.to_string()),
        _ => None,
    });
    let waits: Vec<String> = waits.collect();
    assert_eq!(
        waits,
        ["t0 must have sent it", "t0 must have sent it", "t1 must have taken the message before"]
    );
}

/// A helper makes what a task above it is to have and what it forks is to inherit, sends the one, and dies.
#[test]
fn helpers_send_to_who_is_above() {
    let mut forest = tree(&[(None, 0, &[(3, 0)]), (Some(0), 0, &[]), (Some(1), 0, &[(5, 1)])]);
    forest.tasks[1].life = Life::Helper;
    forest.tasks[2].descent = Descent::Sibling;
    makes(&mut forest, &[Some(0), Some(1)]);
    let mut assignment = Assignment::default();
    deliver(&mut assignment, 0, 1, &[0]);
    assert_eq!(arrange_passing(&mut forest, &assignment), 1);
    check(
        &forest,
        &[
            "setsid, r1 at [0, 1], fork t1, close 0, take [0] by 1, close 1, dup 0 3, close 0, await t1, sigchld",
            "close 1, r0 at [1, 2], fork t2, close 2, send [1] by 0, close 0..1, exit",
            "close 0..1, dup 2 5, close 2",
        ],
    );
}

#[test]
fn what_is_received_before_a_fork() {
    let mut forest = tree(&[(None, 0, &[(0, 0)]), (Some(0), 0, &[]), (Some(1), 0, &[(0, 0)])]);
    makes(&mut forest, &[Some(0)]);
    let mut assignment = Assignment::default();
    deliver(&mut assignment, 0, 0, &[1]);
    assert_eq!(arrange_passing(&mut forest, &assignment), 1);
    check(
        &forest,
        &[
            "setsid, r1 at [0, 1], dup 1 2, dup 0 1, close 0, fork t1, close 2, r0 at [0], send [0] by 1, close 1",
            "close 1, take [0] by 2, fork t2, close 0, close 2",
            "close 2",
        ],
    );
}

#[test]
fn who_cannot_get_it() {
    let mut forest = tree(&[(None, 0, &[(0, 0)]), (Some(0), 0, &[(0, 0)])]);
    makes(&mut forest, &[Some(0)]);
    let mut assignment = Assignment::default();
    deliver(&mut assignment, 0, 1, &[]);
    arrange_passing(&mut forest, &assignment);
    check_error(&forest, "t0: r0 can neither be inherited nor is it sent");
}

/// A server with a socket pair for each worker: each end is born at its number.
#[test]
fn numbers_of_what_has_gone_are_taken_again() {
    let mut forest = tree(&[
        (None, 0, &[(0, 0), (1, 2), (2, 4)]),
        (Some(0), 0, &[(1, 1)]),
        (Some(0), 0, &[(2, 3)]),
        (Some(0), 0, &[(0, 6), (3, 5)]),
    ]);
    for pair in 0..3 {
        makes(&mut forest, &[Some(2 * pair), Some(2 * pair + 1)]);
    }
    makes(&mut forest, &[Some(6)]);
    check(
        &forest,
        &[
            "setsid, r0 at [0, 1], fork t1, close 1, r1 at [1, 2], fork t2, close 2, r2 at [2, 3], fork t3, close 3",
            "close 0",
            "close 0..1",
            "close 0..2, r3 at [0]",
        ],
    );
}

/// What sits where something is to be in the end gives way when that comes.
#[test]
fn what_is_carried_gives_way() {
    let mut forest = tree(&[
        (None, 0, &[(1, 1), (2, 2)]),
        (Some(0), 0, &[(1, 0)]),
        (Some(0), 0, &[(0, 1)]),
        (Some(0), 0, &[(1, 0)]),
    ]);
    for ofd in 0..3 {
        makes(&mut forest, &[Some(ofd)]);
    }
    check(
        &forest,
        &[
            "setsid, r0 at [0], dup 0 1, close 0, fork t1, r1 at [0], dup 1 3, dup 0 1, close 0, fork t2, fork t3, close 3, r2 at [0], dup 0 2, close 0",
            "",
            "close 3, dup 1 0, close 1",
            "close 1, dup 3 1, close 3",
        ],
    );
}

/// Of a pipe whose reading end is used further below, the writing end is not carried there.
#[test]
fn ends_that_nobody_below_uses_are_dropped() {
    let mut forest = tree(&[
        (None, 0, &[(0, 0), (1, 1)]),
        (Some(0), 0, &[(0, 0), (1, 2), (2, 3)]),
        (Some(1), 0, &[(0, 0), (2, 3)]),
    ]);
    makes(&mut forest, &[Some(0), Some(1)]);
    makes(&mut forest, &[Some(2), Some(3)]);
    check(&forest, &["setsid, r0 at [0, 1], fork t1", "close 1, r1 at [1, 2], fork t2", "close 1"]);
}

fn shares(forest: &mut Forest, task: usize) {
    forest.tasks[task].shares_table = true;
}

#[test]
fn a_shared_table_is_handed_on() {
    // 1 and 2 share the root's table. The root and 1 map one file, 1 and 2 another each. 3, below 1, has a table of its
    // own, and the other end of the root's pipe.
    let mut forest =
        tree(&[(None, 0, &[(3, 0), (5, 4)]), (Some(0), 0, &[]), (Some(0), 0, &[]), (Some(1), 0, &[(3, 5)])]);
    for yields in [&[Some(0)][..], &[Some(1)], &[Some(2)], &[Some(3)], &[Some(4), Some(5)]] {
        makes(&mut forest, yields);
    }
    let maps = [1, 1, 2, 3].map(|ofd| step(&mut forest, &[ofd]));
    forest.tasks[0].steps = vec![maps[0]];
    forest.tasks[1].steps = vec![maps[1], maps[2]];
    forest.tasks[2].steps = vec![maps[3]];
    shares(&mut forest, 1);
    shares(&mut forest, 2);
    check(
        &forest,
        &[
            "setsid, r1 at [0], r4 at [1, 2], dup 2 3, dup 1 5, close 1..2, fork t1, fork t2, r0 at [1], dup 1 2, dup 3 1, \
             dup 2 3, close 2, hand on, take over, close 1, s0 [0], close 0",
            "take over, fork t3, s1 [0], r2 at [2], s2 [2], close 2, hand on",
            "take over, r3 at [2], s3 [2], close 2, hand on",
            "close 0, close 3..5, dup 1 3, close 1",
        ],
    );
}

#[test]
fn what_others_wait_for_comes_before_the_turn() {
    // 1 leads a group that 2 and the root's child 3 are in; 1 and 2 share the root's table, 4 that of 1.
    let mut forest = tree(&[
        (None, 0, &[(0, 0)]),
        (Some(0), 0, &[]),
        (Some(0), 0, &[]),
        (Some(0), 0, &[]),
        (Some(1), 0, &[]),
    ]);
    makes(&mut forest, &[Some(0)]);
    for task in [1, 2, 3] {
        forest.tasks[task].pgid = 11;
    }
    for task in [1, 2, 4] {
        shares(&mut forest, task);
    }
    check(
        &forest,
        &[
            "setsid, fork t1, fork t2, fork t3, r0 at [0], hand on, take over",
            "setpgid 11, take over, fork t4, hand on, take over, hand on",
            "take over, hand on, setpgid 11",
            "setpgid 11",
            "setpgid 10, take over, hand on",
        ],
    );
    crate::order::plan(&forest).expect("no circle");
}

#[test]
fn who_cannot_share() {
    let mut forest = tree(&[(None, 0, &[]), (Some(0), 0, &[])]);
    shares(&mut forest, 1);
    check(&forest, &["setsid, fork t1, hand on, take over", "take over, hand on"]);
    let not = "t1: what it shares with its parent it cannot get from who forks it";
    let mut dead = forest.clone();
    dead.tasks[1].life = Life::Zombie;
    check_error(&dead, not);
    shares(&mut forest, 0);
    check_error(&forest, "t0: what it shares with its parent it cannot get from who forks it");
    let mut own = tree(&[(None, 0, &[]), (Some(0), 0, &[(0, 0)])]);
    makes(&mut own, &[Some(0)]);
    shares(&mut own, 1);
    check_error(&own, not);
}
