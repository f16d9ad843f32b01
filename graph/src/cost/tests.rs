//! Tables, choices, prices and predictions.

use super::*;
use crate::verify::{
    Birth, Change, Effect, FdEffect, Lifted, LiftedTask, LiftedTree, MemoryEffect, PrivilegeEffect,
    SeccompEffect,
};

/// A table in which nothing costs anything but what is set.
fn only(set: &[(&str, f64)]) -> CostModel {
    let mut costs = CostModel::default();
    for constant in CostModel::CONSTANTS {
        *costs.get_mut(constant.name).expect("a constant") = 0.0;
    }
    for (name, value) in set {
        *costs.get_mut(name).expect("a constant") = *value;
    }
    costs
}

/// A table in which all is the same.
fn all(value: f64) -> CostModel {
    let sets: Vec<(&str, f64)> = CostModel::CONSTANTS.iter().map(|constant| (constant.name, value)).collect();
    only(&sets)
}

#[test]
fn a_table_has_costs_only() {
    assert_eq!(CostModel::default().check(), Ok(()));
    assert_eq!(all(CostModel::MOST_NS).check(), Ok(()));
    for value in [-1.0, f64::NAN, f64::INFINITY, 1e13] {
        let error = only(&[("dup_ns", value)]).check().expect_err("no cost");
        assert_eq!(error.name, "dup_ns");
    }
    assert_eq!(
        only(&[("dup_ns", -1.0)]).check().expect_err("no cost").to_string(),
        "dup_ns is -1 ns: a cost is a number from 0 to 1000000000000"
    );
    assert_eq!(CostModel::default().get_mut("tea_ns"), None);
    assert_eq!(CostModel::default().values().len(), CostModel::CONSTANTS.len());
}

#[test]
fn inheriting_and_passing() {
    let costs = only(&[
        ("fork_fd_ns", 10.0),
        ("close_many_ns", 2.0),
        ("call_ns", 100.0),
        ("send_ns", 1000.0),
        ("receive_ns", 500.0),
        ("send_fd_ns", 30.0),
        ("receive_fd_ns", 70.0),
    ]);
    assert_eq!(costs.inherit(7, 3), 210);
    assert_eq!(costs.inherit_and_close(7, 3), 7 * 3 * 12 + 300);
    assert_eq!(costs.inherit_and_close(0, 3), 0);
    assert_eq!(costs.pass(7, 1), 1500 + 7 * 102);
    assert_eq!([0, 1, 253, 254, 506].map(CostModel::messages), [0, 1, 1, 2, 2]);
    // One of a thousand wants them: passed. All want them: inherited.
    assert!(costs.is_passing_cheaper(10, 1, 1000));
    assert!(!costs.is_passing_cheaper(10, 1000, 1000));
}

/// The cost of a prefork server, fork by fork, as the formulas say it in one go.
fn prefork_by_hand(costs: &CostModel, children: u64, private: u64, size: Option<u64>) -> u64 {
    let forks = |children: u64| -> u64 {
        (0..children)
            .map(|before| {
                let unwanted = before * private;
                (costs.fork_ns + costs.call_ns) as u64
                    + unwanted * (costs.fork_fd_ns + costs.close_many_ns) as u64
            })
            .sum()
    };
    let Some(size) = size else { return forks(children) };
    let mut left = children;
    let mut sum = 0;
    while left > 0 {
        let now = left.min(size);
        let ends = now * private;
        sum += (costs.fork_ns + costs.birth_ns + costs.exit_ns + costs.reap_ns) as u64;
        sum += forks(now) + costs.pass(ends, CostModel::messages(ends));
        left -= now;
    }
    sum
}

fn whole() -> CostModel {
    only(&[
        ("fork_ns", 20_000.0),
        ("fork_fd_ns", 15.0),
        ("close_many_ns", 100.0),
        ("call_ns", 130.0),
        ("birth_ns", 11_000.0),
        ("exit_ns", 28_000.0),
        ("reap_ns", 3_000.0),
        ("send_ns", 2_000.0),
        ("receive_ns", 1_800.0),
        ("send_fd_ns", 56.0),
        ("receive_fd_ns", 160.0),
    ])
}

#[test]
fn batches_of_a_prefork_server() {
    let costs = whole();
    for (children, private) in [(1, 1), (7, 3), (100, 2), (253, 1), (600, 5)] {
        let best = costs.forking(children, private);
        let hand = |size| prefork_by_hand(&costs, children, private, size);
        assert_eq!(costs.prefork(children, private, Forking::Itself), hand(None));
        let mut least = (hand(None), Forking::Itself);
        for size in 1..children {
            let cost = hand(Some(size));
            assert_eq!(costs.prefork(children, private, Forking::Batches { size }), cost, "{size}");
            if cost < least.0 {
                least = (cost, Forking::Batches { size });
            }
        }
        assert_eq!(best, least.1, "{children} children, {private} private");
    }
    // Few do not pay for a helper; a thousand do, and by much.
    assert_eq!(costs.forking(10, 2), Forking::Itself);
    let Forking::Batches { size } = costs.forking(1000, 2) else { panic!("a thousand by one") };
    assert!((10..100).contains(&size), "{size}");
    let ratio = costs.prefork(1000, 2, Forking::Itself) / costs.prefork(1000, 2, Forking::Batches { size });
    assert!(ratio >= 3, "{ratio}");
    // Nothing private: nothing to save.
    assert_eq!(costs.forking(1000, 0), Forking::Itself);
}

#[test]
fn several_forkers() {
    let costs = whole();
    assert_eq!(costs.forkers(2, 0, 8), 0);
    assert_eq!(costs.forkers(1000, 0, 1), 0);
    assert_eq!(costs.forkers(1000, 0, 2), 2);
    assert!((4..=16).contains(&costs.forkers(1000, 0, 16)));
    assert_eq!(costs.forkers(0, 0, 4), 0);
    // While one forks, the other core does what the children have to do, and is busy all the time.
    let fork_ns = costs.fork_ns as u64;
    assert_eq!(costs.forkers(1000, 2 * fork_ns, 2), 0);
    assert!((2..=16).contains(&costs.forkers(1000, 2 * fork_ns, 16)));
}

#[test]
fn memory_that_is_in_common() {
    let costs = only(&[
        ("fork_vma_ns", 500.0),
        ("fork_page_ns", 80.0),
        ("map_ns", 2_500.0),
        ("unmap_ns", 5_000.0),
        ("fill_page_ns", 3_000.0),
        ("drop_page_ns", 20.0),
        ("replace_page_ns", 4_000.0),
    ]);
    let check = |like: Likeness, expected| assert_eq!(costs.saved_by_inheriting(&like), expected, "{like:?}");
    check(Likeness::default(), 0);
    check(Likeness { kept: 3, ..Likeness::default() }, 6_000);
    check(Likeness { alike: 3, ..Likeness::default() }, 3 * 2_920);
    check(Likeness { dropped: 3, ..Likeness::default() }, -3 * 5_500);
    check(Likeness { other: 3, ..Likeness::default() }, -3 * 1_080);
    check(Likeness { only_parent: 3, ..Likeness::default() }, -300);
    check(Likeness { kept: 10, dropped: 1, alike: 100, other: 50, only_parent: 20 }, 250_500);
    check(Likeness { alike: u64::MAX, ..Likeness::default() }, i64::MAX);
    assert_eq!(costs.set_up(2, 10), 35_000);
    assert_eq!(costs.burden(2, 10), 12_000);
}

/// Who drops all that it was born with forks as cheaply as the root.
#[test]
fn what_is_dropped_is_not_forked() {
    let costs =
        only(&[("fork_vma_ns", 100.0), ("fork_page_ns", 1.0), ("unmap_ns", 10.0), ("drop_page_ns", 2.0)]);
    let map = Effect::Memory(MemoryEffect::Map { at: 8192, len: 4096, prot: 3, flags: 0, file: None });
    let fill = Effect::Object { fd: 0, change: Change::Read { into: vec![(0, 8 * 4096)], offset: Some(0) } };
    let unmap = |at| Effect::Memory(MemoryEffect::Unmap { at, len: 4096 });
    let tapes =
        [(1, vec![map.clone(), map, fill, birth(2, 0), unmap(4096), birth(3, 0), unmap(0), birth(4, 0)])];
    check_prices(&costs, &tapes, &[0, 0, 0, 408, 10, 308, 10 + 16, 200]);
}

#[test]
fn absurd_costs_are_sums_all_the_same() {
    for costs in [all(0.0), all(CostModel::MOST_NS), all(f64::NAN), all(f64::INFINITY), all(-1e300)] {
        for number in [0, 1, u64::from(u32::MAX), u64::MAX] {
            costs.inherit(number, number);
            costs.pass(number, number);
            costs.is_passing_cheaper(number, number, number);
            costs.prefork(number, number, Forking::Itself);
            costs.prefork(number, number, Forking::Batches { size: number });
            let like =
                Likeness { kept: number, dropped: number, alike: number, other: number, only_parent: number };
            costs.saved_by_inheriting(&like);
            costs.set_up(number, number);
            costs.burden(number, number);
        }
        costs.forking(50, u64::MAX);
        costs.forkers(u64::MAX, u64::MAX, 4);
    }
    assert_eq!(all(0.0).forking(1000, 9), Forking::Itself);
    assert_eq!(all(CostModel::MOST_NS).inherit(u64::MAX, 2), u64::MAX);
}

fn birth(pid: u32, flags: u64) -> Effect {
    Effect::Fork(Birth { pid, flags, exit_signal: 17, cgroup: None })
}

/// A tree of tapes by pid.
fn tree(tapes: &[(u32, Vec<Effect>)]) -> LiftedTree {
    let task = |(pid, effects): &(u32, Vec<Effect>)| LiftedTask {
        pid: *pid,
        effects: effects
            .iter()
            .zip(0..)
            .map(|(effect, record)| Lifted { record, effect: effect.clone() })
            .collect(),
    };
    LiftedTree { tasks: tapes.iter().map(task).collect(), ..LiftedTree::default() }
}

/// The cost of each record of the first tape.
fn check_prices(costs: &CostModel, tapes: &[(u32, Vec<Effect>)], expected: &[u64]) {
    let priced = price(&tree(tapes), costs);
    let found: Vec<u64> = priced.tapes[0].moments.iter().map(|moment| moment.cost_ns).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_fork_costs_what_is_copied() {
    let costs =
        only(&[("fork_ns", 1000.0), ("fork_fd_ns", 10.0), ("fork_vma_ns", 100.0), ("fork_page_ns", 1.0)]);
    let map = Effect::Memory(MemoryEffect::Map { at: 0, len: 4096, prot: 3, flags: 0, file: None });
    let fill = Effect::Object { fd: 0, change: Change::Read { into: vec![(0, 8 * 4096)], offset: Some(0) } };
    let tapes = [
        (
            1,
            vec![
                birth(2, 0),
                Effect::Fd(FdEffect::Pipe { flags: 0 }),
                birth(3, 0),
                map,
                fill,
                birth(4, 0),
                Effect::Fd(FdEffect::Close { fd: 1 }),
                birth(5, 0),
                // A thread copies nothing.
                birth(6, 0x1_0000),
            ],
        ),
        (2, vec![birth(7, 0)]),
        (
            3,
            vec![
                Effect::Fd(FdEffect::CloseRange { first: 0, last: 9, only_mark: false, unshare: false }),
                birth(8, 0),
            ],
        ),
        (4, vec![birth(9, 0)]),
    ];
    check_prices(&costs, &tapes, &[1200, 0, 1220, 0, 0, 1328, 0, 1318, 0]);
    let priced = price(&tree(&tapes), &costs);
    let forks: Vec<u64> =
        priced.tapes[1..].iter().map(|tape| tape.moments.last().map_or(0, |moment| moment.cost_ns)).collect();
    assert_eq!(forks, [1200, 1200, 1328]);
}

#[test]
fn the_last_descriptor_costs_more_to_close() {
    let costs =
        only(&[("close_ns", 1.0), ("close_last_ns", 10.0), ("close_many_ns", 2.0), ("call_ns", 100.0)]);
    let open = |fd| Effect::Fd(FdEffect::Eventfd { counter: 0, flags: 0, fd });
    let close = |fd| Effect::Fd(FdEffect::Close { fd });
    let copy = |from, to| Effect::Fd(FdEffect::Dup { from, to, cloexec: false });
    let range =
        |first, last, only_mark| Effect::Fd(FdEffect::CloseRange { first, last, only_mark, unshare: false });
    let tapes = [(
        1,
        vec![
            open(0),
            close(0),
            open(0),
            copy(0, 7),
            close(0),
            // What is at the number of a copy is closed by it.
            open(0),
            copy(7, 0),
            range(0, 9, true),
            range(0, 9, false),
            open(0),
            birth(2, 0),
            close(0),
            open(0),
            open(1),
            range(0, 9, false),
            range(0, 9, false),
        ],
    )];
    check_prices(&costs, &tapes, &[0, 10, 0, 0, 1, 0, 10, 100, 104, 0, 0, 1, 0, 0, 120, 100]);
}

/// Pipes take the lowest free numbers: what is closed by a number is what is there.
#[test]
fn numbers_are_the_lowest_free_ones() {
    let costs = only(&[("close_last_ns", 10.0)]);
    let open = |fd| Effect::Fd(FdEffect::Eventfd { counter: 0, flags: 0, fd });
    let close = |fd| Effect::Fd(FdEffect::Close { fd });
    let pipe = Effect::Fd(FdEffect::SocketPair { sock_type: 1, flags: 0 });
    let tapes = [(1, vec![open(0), open(2), pipe, close(1), close(3), close(4)])];
    check_prices(&costs, &tapes, &[0, 0, 0, 10, 10, 0]);
}

#[test]
fn prices_go_by_size() {
    let costs = only(&[
        ("fill_ns", 5.0),
        ("fill_page_ns", 100.0),
        ("write_ns", 7.0),
        ("send_ns", 9.0),
        ("send_fd_ns", 3.0),
        ("filter_ns", 11.0),
    ]);
    let object = |change| Effect::Object { fd: 0, change };
    let tapes = [(
        1,
        vec![
            object(Change::Read { into: vec![(0, 4096), (9 * 4096, 8192)], offset: Some(0) }),
            object(Change::Write { data: vec![0; 2048] }),
            object(Change::Send { data: Vec::new(), rights: vec![1, 2], never_blocks: true }),
            Effect::Privilege(PrivilegeEffect::Seccomp(SeccompEffect::Strict)),
        ],
    )];
    check_prices(&costs, &tapes, &[305, 57, 15, 11]);
}

/// A tape as its birth, and what each record costs and is.
type Tape<'a> = (u64, &'a [(u64, Act)]);

fn priced(tapes: &[Tape<'_>]) -> PricedTree {
    let tape = |(index, (birth_ns, moments)): (usize, &Tape<'_>)| PricedTape {
        pid: index as u32 + 10,
        birth_ns: *birth_ns,
        moments: moments
            .iter()
            .zip(0..)
            .map(|((cost_ns, act), record)| Moment { record, cost_ns: *cost_ns, act: *act })
            .collect(),
    };
    PricedTree {
        tapes: tapes.iter().enumerate().map(tape).collect(),
        wake_ns: 1,
        woken_ns: 2,
        commit_thread_ns: 1000,
    }
}

const ARRIVE: (u64, Act) = (0, Act::Arrive);
const PARK: (u64, Act) = (0, Act::Park);

#[test]
fn cores_are_shared() {
    let child = [(100, Act::Work), ARRIVE, (7, Act::Work), PARK];
    let tree =
        priced(&[(0, &[(10, Act::Begin(1)), (10, Act::Begin(2)), ARRIVE, PARK]), (5, &child), (5, &child)]);
    let on = |cores| {
        let prediction = predict(&tree, cores);
        assert!(prediction.is_complete);
        assert_eq!(prediction.work_ns, 20 + 2 * (5 + 100 + 7));
        assert_eq!(prediction.critical_path_ns, 20 + 5 + 100);
        prediction.play_ns
    };
    // All after one another; one beside the other; all at once.
    assert_eq!((on(1), on(2), on(3), on(100), on(0)), (230, 125, 125, 125, 230));
    let prediction = predict(&tree, 1);
    // Each is woken for its tail: the root parks, the others work. Each of three is committed.
    assert_eq!(prediction.commit_ns, 3 * 2 + 2 * 7 + 3000);
    let legs: Vec<(u32, u32, u32, u64)> =
        prediction.path.iter().map(|leg| (leg.pid, leg.first, leg.last, leg.time_ns)).collect();
    assert_eq!(legs, [(10, 0, 1, 20), (12, 0, 1, 105)]);
}

#[test]
fn waits_and_deaths() {
    let tree = priced(&[
        (
            0,
            &[(10, Act::Begin(1)), (10, Act::Begin(2)), (3, Act::Wait(0)), (50, Act::Await(2)), ARRIVE, PARK],
        ),
        (0, &[(100, Act::Work), (4, Act::Post(0)), ARRIVE, PARK]),
        (0, &[(3, Act::Wait(0)), (20, Act::Exit)]),
    ]);
    let prediction = predict(&tree, 8);
    assert!(prediction.is_complete);
    // The root and task 12 sleep until the post, which wakes two; task 12 dies after that, and the root sleeps
    // again meanwhile.
    let posted = 10 + 100 + 4 + 2;
    let died = posted + 2 + 3 + 20;
    assert_eq!(prediction.sleeps, 3);
    assert_eq!(prediction.play_ns, died + 2 + 50);
    assert_eq!(prediction.critical_path_ns, prediction.play_ns);
    let pids: Vec<u32> = prediction.path.iter().map(|leg| leg.pid).collect();
    assert_eq!(pids, [10, 11, 12, 10]);
    assert_eq!(prediction.path.iter().map(|leg| leg.time_ns).sum::<u64>(), prediction.critical_path_ns);
    // Posted before it is waited for: nobody sleeps.
    let tree = priced(&[(0, &[(1, Act::Post(0)), (3, Act::Wait(0)), ARRIVE, PARK])]);
    assert_eq!((predict(&tree, 1).play_ns, predict(&tree, 1).sleeps), (4, 0));
}

#[test]
fn what_never_ends_is_told() {
    let tree = priced(&[(0, &[(1, Act::Wait(0)), (1, Act::Post(0)), ARRIVE, PARK])]);
    let prediction = predict(&tree, 2);
    assert!(!prediction.is_complete);
    assert!(prediction.path.is_empty());
    // Two that fork the same: it begins once.
    let tree = priced(&[(0, &[(1, Act::Begin(1)), (1, Act::Begin(1)), ARRIVE, PARK]), (0, &[ARRIVE, PARK])]);
    assert!(predict(&tree, 2).is_complete);
    assert_eq!(predict(&PricedTree::default(), 3).work_ns, 0);
}
