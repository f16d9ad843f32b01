//! Whatever things are said to cost, a plan is right: costs choose between ways that lead to the same tree.
//!
//! `REGROW_CASES` is how many cases there are, instead of the number here.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use regrow::certify;
use regrow::cost::Priced;
use regrow::resolve::policy::Policy;
use regrow::tape::lift::lift;
use regrow_graph::cost::CostModel;
use regrow_graph::verify::{AttributeKind, Value};
use regrow_model::{Host, Schedule, World, play, wanted};
use regrow_proptests::descriptions::descriptions;
use regrow_proptests::images::{Refused, Room, model_of, plan_with};

static ROOM: LazyLock<Room> = LazyLock::new(|| Room::new("costs"));

fn config() -> ProptestConfig {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/proptest-regressions/costs.txt");
    let wanted = std::env::var("REGROW_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: wanted.unwrap_or(100),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(file))),
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    }
}

/// Tables: all of it free, all of it as dear as can be, and each constant by itself one or the other or something.
fn costs() -> impl Strategy<Value = CostModel> {
    let one = prop_oneof![Just(0.0), Just(CostModel::MOST_NS), 0.0..1.0, 1.0..1e6, 1e6..CostModel::MOST_NS];
    prop::collection::vec(one, CostModel::CONSTANTS.len()).prop_map(|values| {
        let mut costs = CostModel::default();
        for (constant, value) in CostModel::CONSTANTS.iter().zip(values) {
            if let Some(place) = costs.get_mut(constant.name) {
                *place = value;
            }
        }
        costs
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn absurd_costs_give_right_plans(forest in descriptions(&ROOM.files(), 16), costs in costs(), cores in 1u32..9, seed in any::<u64>()) {
        prop_assert_eq!(costs.check(), Ok(()));
        let synthetic = model_of(&forest).map_err(TestCaseError::fail)?;
        let dir = ROOM.write("images", &synthetic).map_err(TestCaseError::fail)?;
        let planned = match plan_with(&dir, costs, cores, Policy::Inherit) {
            Ok(planned) => planned,
            // Which refusals there may be is another property's.
            Err(Refused::Problems(_)) => return Ok(()),
            Err(Refused::Defect(what)) => return Err(TestCaseError::fail(what)),
        };
        // Of memory the certificate says what it holds, wherever it was read.
        planned.certify().map_err(|error| TestCaseError::fail(format!("no certificate: {error}")))?;
        let lifted = lift(&planned.tapes).map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
        let expected = certify::expected(&planned.model, &planned.ground)
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        let mut host = Host::default();
        for (kind, value) in &expected.inherited {
            if let (AttributeKind::CapPermitted, Value::Number(capabilities)) = (kind, value) {
                host.capabilities = *capabilities;
            }
        }
        let world = World::new(&lifted, host).map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
        let played = play(world, Schedule::Random(seed));
        let faults: Vec<String> = played.faults.iter().map(ToString::to_string).collect();
        prop_assert!(played.is_good(), "{faults:?} {:?}", played.stuck);
        prop_assert_eq!(wanted::differences(&played.world.end(), &expected), Vec::<String>::new());

        // And by both tables it is said how long it takes, without a panic, and with what must hold of any run.
        for costs in [costs, CostModel::default()] {
            let priced = Priced::of(&planned.tapes, &costs).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let [one, two, many] = [1, 2, 10_000].map(|cores| priced.predict(cores));
            for prediction in [&one, &two, &many] {
                prop_assert!(prediction.is_complete, "{prediction:?}");
                prop_assert!(prediction.play_ns >= prediction.critical_path_ns || prediction.cores < 10_000);
                prop_assert_eq!(prediction.critical_path_ns, many.critical_path_ns);
                let legs = prediction.path.iter().fold(0u64, |sum, leg| sum.saturating_add(leg.time_ns));
                prop_assert_eq!(legs, prediction.critical_path_ns);
            }
            prop_assert_eq!(many.play_ns, many.critical_path_ns);
        }
    }
}
