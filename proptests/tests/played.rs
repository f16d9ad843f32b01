//! Random forests, written as images, planned, lowered and lifted again, played on the model of the kernel: under any
//! schedule they come to what the images say.
//!
//! `REGROW_CASES` is how many cases there are, instead of the number here.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use regrow::certify;
use regrow::host::possible_processors;
use regrow::resolve::policy::Policy;
use regrow::synth::{Forest, MAPPINGS, PAGE, Page, Private, Task};
use regrow::tape::abi::{Record, UFFDIO_MOVE};
use regrow::tape::lift::lift;
use regrow_graph::cost::CostModel;
use regrow_graph::verify::{AttributeKind, Value};
use regrow_model::{Host, Schedule, World, play, wanted};
use regrow_proptests::descriptions::descriptions;
use regrow_proptests::images::{Planned, Refused, Room, incremental, model_of, plan_by, plan_with};
use regrow_proptests::memory;

static ROOM: LazyLock<Room> = LazyLock::new(|| Room::new("played"));

fn config() -> ProptestConfig {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/proptest-regressions/played.txt");
    let wanted = std::env::var("REGROW_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: wanted.unwrap_or(700),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(file))),
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    }
}

/// Plays what is planned for images, by several schedules: all end as the images say.
fn check_played(planned: &Planned, seed: u64) -> Result<(), TestCaseError> {
    let lifted = lift(&planned.tapes).map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
    let expected = certify::expected(&planned.model, &planned.ground)
        .map_err(|error| TestCaseError::fail(error.to_string()))?;
    // What the root has from the start is a fact about whoever runs this.
    let mut host = Host::default();
    host.processors = possible_processors().unwrap_or(host.processors);
    for (kind, value) in &expected.inherited {
        if let (AttributeKind::CapPermitted, Value::Number(capabilities)) = (kind, value) {
            host.capabilities = *capabilities;
        }
    }
    let world = World::new(&lifted, host).map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
    let mut first = None;
    for schedule in [Schedule::Random(seed), Schedule::Bursts(seed), Schedule::Adversary, Schedule::Highest] {
        let played = play(world.clone(), schedule);
        let faults: Vec<String> = played.faults.iter().map(ToString::to_string).collect();
        prop_assert!(played.is_good(), "{schedule:?}: {faults:?} {:?}", played.stuck);
        let end = played.world.end();
        prop_assert_eq!(wanted::differences(&end, &expected), Vec::<String>::new(), "{:?}", schedule);
        let of_memory = memory::differences(&played.world, &planned.model);
        prop_assert_eq!(of_memory, Vec::<String>::new(), "{:?}", schedule);
        prop_assert!(first.get_or_insert_with(|| end.clone()) == &end, "{schedule:?} ends otherwise");
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_schedule_ends_as_the_images_say(
        forest in descriptions(&ROOM.files(), 16),
        policy in prop_oneof![2 => Just(Policy::Inherit), 1 => Just(Policy::LowestPid)],
        seed in any::<u64>(),
        dumps in prop_oneof![2 => Just(0), 1 => 1..4u32],
    ) {
        let synthetic = model_of(&forest).and_then(|synthetic| incremental(&synthetic, seed, dumps));
        let synthetic = synthetic.map_err(TestCaseError::fail)?;
        let dir = ROOM.write("images", &synthetic).map_err(TestCaseError::fail)?;
        let planned = match plan_by(policy, &dir) {
            Ok(planned) => planned,
            // Which refusals there may be is another property's.
            Err(Refused::Problems(_)) => return Ok(()),
            Err(Refused::Defect(what)) => return Err(TestCaseError::fail(what)),
        };
        check_played(&planned, seed)?;
    }
}

/// Pages of a block of 2 MiB.
const BLOCK: u64 = 512;

/// A root with so many pages but for some holes, the first so far behind the start of a block, and children that have others in
/// some places, as the root has where it has written since.
fn large(first: u64, pages: u64, holes: &[u64], written: &[u64], children: &[Vec<u64>]) -> Forest {
    let private = |own: &[u64], seed: u64| {
        let page = |index| Page { index, seed: if own.contains(&index) { seed + index } else { index } };
        let held = (0..pages).filter(|index| !holes.contains(index)).map(page).collect();
        let start = MAPPINGS.start.next_multiple_of(BLOCK * PAGE) + first * PAGE;
        vec![Private { start, len_pages: pages, writable: true, pages: held }]
    };
    let task = |pid, parent, private| Task { pid, parent, pgid: 2000, sid: 2000, private, ..Task::default() };
    let mut tasks = vec![task(2000, None, private(written, 1_000_000))];
    for (number, own) in (1..).zip(children) {
        tasks.push(task(2000 + number, Some(0), private(own, 10_000 * u64::from(number))));
    }
    Forest { tasks, ..Forest::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: config().cases / 100, ..config() })]

    /// Of memory with whole blocks, these are moved where they are worth it; whatever is, it ends as the images say.
    #[test]
    fn blocks_that_are_forked(
        (first, pages) in (0..BLOCK, 1..3 * BLOCK),
        holes in prop_oneof![
            1 => Just(Vec::new()),
            2 => prop::collection::vec(0..3 * BLOCK, 0..100),
        ],
        written in prop_oneof![
            1 => Just(Vec::new()),
            1 => prop::collection::vec(0..3 * BLOCK, 0..40),
        ],
        children in prop::collection::vec(prop::collection::vec(0..3 * BLOCK, 0..20), 1..4),
        cores in 1..3u32,
        seed in any::<u64>(),
        dumps in prop_oneof![3 => Just(0), 1 => 1..3u32],
    ) {
        let synthetic = model_of(&large(first, pages, &holes, &written, &children));
        let synthetic = synthetic.and_then(|synthetic| incremental(&synthetic, seed, dumps));
        let dir = ROOM.write("blocks", &synthetic.map_err(TestCaseError::fail)?).map_err(TestCaseError::fail)?;
        let planned = plan_with(&dir, CostModel::default(), cores, Policy::Inherit)
            .map_err(|refused| TestCaseError::fail(format!("{refused:?}")))?;
        check_played(&planned, seed)?;
        let is_stored = |page: &u64| first <= *page && *page < first + pages && !holes.contains(&(page - first));
        let with = |pages: u64| (0..4).filter(|at| (at * BLOCK..(at + 1) * BLOCK).filter(is_stored).count() as u64 >= pages).count();
        // Not those of which children have much to themselves, or with so many holes that it is not worth it, and none of which a
        // part is in an older dump.
        prop_assert!(with(BLOCK - BLOCK / 16) > 0 || !moves(&planned));
        let may_be_odd = dumps > 0 || !written.is_empty() || children.iter().any(|own| !own.is_empty());
        // One fork of one block alone is not worth it.
        prop_assert!(with(BLOCK) * children.len() < 2 || may_be_odd || moves(&planned));
    }
}

/// So that the property is about something.
#[test]
fn a_block_that_is_forked_is_moved() {
    let check = |pages, holes: &[u64], children: &[Vec<u64>], expected| {
        let synthetic = model_of(&large(100, pages, holes, &[], children)).expect("a model");
        let dir = ROOM.write("block", &synthetic).expect("a directory");
        let planned = plan_with(&dir, CostModel::default(), 1, Policy::Inherit).expect("a plan");
        check_played(&planned, 1).expect("it ends as the images say");
        assert_eq!(moves(&planned), expected, "{pages} pages but for {holes:?}");
    };
    let (few, many) = (vec![5, 500, 501], (412..924).collect::<Vec<u64>>());
    check(1024, &[], &[few.clone(), few.clone()], true);
    check(923, &[], &[few.clone(), few.clone()], false);
    // Of the only whole block some pages are missing, or more than a sixteenth.
    let eight = vec![few.clone(); 8];
    check(1024, &[412, 600, 601, 923], &eight, true);
    check(1024, &(600..633).collect::<Vec<u64>>(), &eight, false);
    // A child that has nearly all to itself.
    check(1024, &[], &[many], false);
}

fn moves(planned: &Planned) -> bool {
    let tapes = &planned.tapes;
    let is_it = |record: Record| record.is_call(libc::SYS_ioctl) && record.args[1] == UFFDIO_MOVE;
    tapes.tasks.iter().any(|task| tapes.records(task).any(|(_, record)| is_it(record)))
}
