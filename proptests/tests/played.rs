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
use regrow::tape::lift::lift;
use regrow_graph::verify::{AttributeKind, Value};
use regrow_model::{Host, Schedule, World, play, wanted};
use regrow_proptests::descriptions::descriptions;
use regrow_proptests::images::{Refused, Room, incremental, model_of, plan_by};
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
            prop_assert_eq!(memory::differences(&played.world, &planned.model), Vec::<String>::new(), "{:?}", schedule);
            prop_assert!(first.get_or_insert_with(|| end.clone()) == &end, "{schedule:?} ends otherwise");
        }
    }
}
