//! Plans that can get stuck: the search finds it, and the checker refuses the same plan.

#![allow(clippy::unwrap_used)]

mod support;

use regrow_graph::ids::OfdId;
use regrow_graph::verify::{
    Effect, Expected, ExpectedOfd, ExpectedPipe, ExpectedTask, Life, LiftedTree, OfdSpec, Slot, Wrong, verify,
};
use regrow_model::{Bounds, Host, Schedule, World, everything, explore, play};
use support::{close_all, fork, helper, pipe, pipe_size, read, tree, write};

/// A region that reads may go to.
const SCRATCH: u64 = 0x1_0000_0800;

fn world(tree: &LiftedTree) -> World {
    World::new(tree, Host::default()).unwrap()
}

/// What the images would have to say: living tasks, each child of the one before or of the root.
fn family(tasks: &[(u32, u32)]) -> Expected {
    let tasks = tasks
        .iter()
        .map(|(pid, ppid)| ExpectedTask { pid: *pid, ppid: *ppid, ..ExpectedTask::default() })
        .collect();
    Expected { tasks, ..Expected::default() }
}

/// The good plan comes to one end in every interleaving, and has a certificate.
#[track_caller]
fn good(tree: &LiftedTree, expected: &Expected) {
    let found = explore(&world(tree), Bounds::default());
    assert!(found.is_one_end(), "{:?}", found.deadlocks);
    let end = found.ends.iter().next().unwrap();
    assert_eq!(regrow_model::wanted::differences(end, expected), Vec::<String>::new());
    verify(tree, expected).unwrap();
}

/// Somebody waits for ever in the broken one, in the words given; both searches and the checker see it.
#[track_caller]
fn stuck(tree: &LiftedTree, expected: &Expected, words: &[&str], refuses: impl Fn(&Wrong) -> bool) {
    let found = explore(&world(tree), Bounds::default());
    let all = everything(&world(tree), Bounds::default());
    assert_eq!(found.deadlocks, all.deadlocks);
    assert_eq!(found.ends, all.ends);
    let chain = found.deadlocks.first().expect("somebody waits for ever");
    for word in words {
        assert!(chain.iter().any(|line| line.contains(word)), "{word}: {chain:#?}");
    }
    let counterexample = verify(tree, expected).expect_err("the checker must refuse it");
    assert!(refuses(&counterexample.wrong), "{counterexample:?}");
}

fn is_deadlock(wrong: &Wrong) -> bool {
    matches!(wrong, Wrong::Deadlock { .. })
}

fn ends() -> [Effect; 2] {
    [Effect::Arrive, Effect::Park]
}

fn with(effects: Vec<Effect>) -> Vec<Effect> {
    effects.into_iter().chain(ends()).collect()
}

#[test]
fn a_wait_for_a_later_event() {
    let expected = family(&[(7, 0), (8, 7)]);
    let plan = |child: Vec<Effect>| {
        tree(vec![(7, with(vec![close_all(), fork(8), Effect::Wait(0), Effect::Post(1)])), (8, with(child))])
    };
    good(&plan(vec![Effect::Post(0), Effect::Wait(1)]), &expected);
    // The child waits first for what its parent posts only behind its own wait.
    let words = [
        "task 7 waits in record 2 for event 0, which task 8",
        "task 8 waits in record 0 for event 1, which task 7",
    ];
    stuck(&plan(vec![Effect::Wait(1), Effect::Post(0)]), &expected, &words, is_deadlock);
}

#[test]
fn a_post_that_is_left_out() {
    let expected = family(&[(7, 0), (8, 7)]);
    let plan = |posts: Vec<Effect>| {
        tree(vec![(7, with([vec![close_all(), fork(8)], posts].concat())), (8, with(vec![Effect::Wait(0)]))])
    };
    good(&plan(vec![Effect::Post(0)]), &expected);
    let words = [
        "for event 0, which nobody posts",
        "the coordinator waits for all to arrive",
        "task 7 waits at the barrier",
    ];
    stuck(&plan(vec![]), &expected, &words, |wrong| matches!(wrong, Wrong::NeverPosted { event: 0 }));
}

#[test]
fn waits_that_cross() {
    let expected = family(&[(7, 0), (8, 7), (9, 7)]);
    let plan = |eight: Vec<Effect>, nine: Vec<Effect>| {
        tree(vec![(7, with(vec![close_all(), fork(8), fork(9)])), (8, with(eight)), (9, with(nine))])
    };
    let (post, wait) = (Effect::Post, Effect::Wait);
    good(&plan(vec![post(0), wait(1)], vec![post(1), wait(0)]), &expected);
    let words = ["task 8 waits in record 0 for event 1", "task 9 waits in record 0 for event 0"];
    stuck(&plan(vec![wait(1), post(0)], vec![wait(0), post(1)]), &expected, &words, is_deadlock);
}

#[test]
fn a_wait_across_the_barrier() {
    let expected = family(&[(7, 0), (8, 7)]);
    let plan = |root: Vec<Effect>| tree(vec![(7, root), (8, with(vec![Effect::Wait(0)]))]);
    good(&plan(with(vec![close_all(), fork(8), Effect::Post(0)])), &expected);
    // It is posted behind the barrier, which waits for the one that waits.
    let behind = vec![close_all(), fork(8), Effect::Arrive, Effect::Post(0), Effect::Park];
    let words = [
        "task 7 waits at the barrier",
        "task 8 waits in record 0 for event 0, which task 7 posts in record 3",
    ];
    stuck(&plan(behind), &expected, &words, is_deadlock);
}

#[test]
fn a_pipe_that_is_filled_before_its_reader_is_there() {
    let flags = [0, 1];
    let slots = |task: &mut ExpectedTask| {
        task.table = (0..2).map(|fd| Slot { fd, ofd: OfdId(fd), cloexec: false }).collect();
    };
    let mut expected = family(&[(7, 0), (8, 7)]);
    expected.tasks.iter_mut().for_each(slots);
    expected.ofds = flags
        .iter()
        .map(|flags| ExpectedOfd { spec: OfdSpec::Pipe { pipe: 1 }, flags: *flags, ..ExpectedOfd::default() })
        .collect();
    let pipe_of = |data: Vec<u8>| ExpectedPipe { capacity: Some(4096), data };
    let plan = |len: usize, child: Vec<Effect>| {
        let data = vec![b'x'; len];
        let root = vec![close_all(), pipe(), pipe_size(0, 4096), fork(8), write(1, &data), Effect::Post(0)];
        tree(vec![(7, with(root)), (8, with(child))])
    };
    expected.pipes.insert(1, pipe_of(vec![b'x'; 4096]));
    good(&plan(4096, vec![Effect::Wait(0)]), &expected);
    // Whoever is to read it waits for the writer, who cannot come to an end.
    expected.pipes.insert(1, pipe_of(vec![b'x'; 4000]));
    let reader = vec![Effect::Wait(0), read(0, SCRATCH, 1000)];
    let words = ["task 7 waits in record 4, in write", "task 8 waits in record 0 for event 0"];
    stuck(&plan(5000, reader), &expected, &words, |wrong| matches!(wrong, Wrong::WouldBlock { .. }));
}

#[test]
fn a_death_that_waits_for_who_waits_for_it() {
    let mut expected = family(&[(7, 0), (8, 7)]);
    expected.tasks[1].life = Life::Zombie { status: 0 };
    let await_exit = Effect::AwaitExit { pid: 8, reap: false };
    let plan = |root: Vec<Effect>| {
        let root = [vec![close_all(), fork(8)], root].concat();
        tree(vec![(7, with(root)), (8, vec![Effect::Wait(0), Effect::Exit { code: 0 }])])
    };
    let known = |expected: &mut Expected| {
        // That children leave zombies is a fact about the launcher.
        use regrow_graph::verify::{AttributeKind, Value, attribute::Action};
        let actions = Value::Actions(std::sync::Arc::new([Some(Action::default()); 64]));
        expected.inherited = vec![(AttributeKind::SigActions, actions)];
    };
    known(&mut expected);
    good(&plan(vec![Effect::Post(0), await_exit.clone()]), &expected);
    let words = [
        "task 7 waits in record 2 for the death of task 8",
        "task 8 waits in record 0 for event 0, which task 7",
    ];
    stuck(&plan(vec![await_exit, Effect::Post(0)]), &expected, &words, is_deadlock);
}

/// Only some interleavings get stuck: who comes first to a pipe of one page. One schedule need not show it;
/// the search does, and the checker refuses what is not ordered.
#[test]
fn a_race_that_only_some_schedules_lose() {
    let mut expected = family(&[(7, 0), (8, 7)]);
    for task in &mut expected.tasks {
        task.table = (0..2).map(|fd| Slot { fd, ofd: OfdId(fd), cloexec: false }).collect();
    }
    let page = vec![b'x'; 4096];
    let root = vec![close_all(), pipe(), pipe_size(0, 4096), fork(8), write(1, &page)];
    let child = vec![read(0, SCRATCH, 2048), Effect::Post(0)];
    let late = vec![Effect::Wait(0), write(1, &page[..2048])];
    let plan = tree(vec![(7, with([root, late].concat())), (8, with(child))]);
    // The half page that is read leaves its slot in use: the second write needs one of its own.
    let found = explore(&world(&plan), Bounds::default());
    assert_eq!(found.deadlocks.len(), 1, "{:?}", found.deadlocks);
    verify(&plan, &expected).unwrap_err();

    // Two writers and one page: whoever comes second waits for ever.
    let root = vec![close_all(), pipe(), pipe_size(0, 4096), fork(8), write(1, &page)];
    let plan = tree(vec![(7, with(root)), (8, with(vec![write(1, &page)]))]);
    let found = explore(&world(&plan), Bounds::default());
    assert_eq!(found.deadlocks.len(), 2, "{:?}", found.deadlocks);
    assert!(!play(world(&plan), Schedule::Lowest).stuck.is_empty());
    verify(&plan, &expected).unwrap_err();

    // A helper that reaps itself away: its parent finds a child, or none.
    let expected = family(&[(7, 0)]);
    let root = vec![close_all(), helper(8), Effect::AwaitExit { pid: 9, reap: true }];
    let middle = vec![helper(9), Effect::Exit { code: 0 }];
    let plan = tree(vec![(7, with(root)), (8, middle), (9, vec![Effect::Exit { code: 0 }])]);
    let found = explore(&world(&plan), Bounds::default());
    let all = everything(&world(&plan), Bounds::default());
    assert_eq!(found.ends, all.ends);
    assert!(found.ends.iter().any(|end| !end.faults().is_empty()));
    verify(&plan, &expected).unwrap_err();
}
