//! Forests that can be planned: the plan is found, and played it gives the forest.

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use regrow_graph::graph::Op;
use regrow_graph::ids::OpId;
use regrow_graph::order::{Plan, PlanError, plan_in};
use regrow_graph::place::PlaceError;
use regrow_graph::raise::raise;
use regrow_proptests::forests::{Case, FIRST_SPARE, cases};
use regrow_proptests::play::{Schedule, play};
use regrow_proptests::shuffle::shuffle;

fn config() -> ProptestConfig {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/proptest-regressions/plans.txt");
    ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(file))),
        max_shrink_iters: 20_000,
        max_global_rejects: u32::MAX,
        cases: 1000,
        ..ProptestConfig::default()
    }
}

fn planned(case: &Case) -> Result<Plan, TestCaseError> {
    plan_in(&case.forest, case.cradle).map_err(|error| TestCaseError::fail(format!("no plan: {error}")))
}

fn played(case: &Case, plan: &Plan, schedule: Schedule) -> Result<(), TestCaseError> {
    play(&case.forest, plan, schedule).map_err(|error| {
        let programs: Vec<String> = plan
            .programs
            .iter()
            .enumerate()
            .map(|(task, items)| format!("t{task}: {}", shown(plan, items)))
            .collect();
        TestCaseError::fail(format!("{schedule:?}: {error}\n{}", programs.join("\n")))
    })
}

fn shown(plan: &Plan, items: &[regrow_graph::order::Item]) -> String {
    use regrow_graph::order::Item;
    let items = items.iter().map(|item| match item {
        Item::Op(op) => format!("{op} {:?}", plan.graph.op(*op).kind),
        Item::Wait(event) => format!("wait {event}"),
        Item::Post(event) => format!("post {event}"),
    });
    items.collect::<Vec<_>>().join("; ")
}

proptest! {
    #![proptest_config(config())]

    /// Every schedule runs to the end, and the end is the forest; on the way every number is the one
    /// that was foretold.
    #[test]
    fn every_schedule_gives_the_forest(case in cases(), seed in any::<u64>()) {
        let plan = planned(&case)?;
        for schedule in [Schedule::Random(seed), Schedule::Bursts(seed), Schedule::Lowest, Schedule::Highest] {
            played(&case, &plan, schedule)?;
        }
    }

    /// Nobody ever waits in the plan's total order: why no schedule can deadlock.
    #[test]
    fn nobody_waits_in_the_total_order(case in cases()) {
        let plan = planned(&case)?;
        played(&case, &plan, Schedule::Planned)?;
    }

    /// The same forest gives the same plan.
    #[test]
    fn plans_are_deterministic(case in cases()) {
        let (one, two) = (planned(&case)?, planned(&case.clone())?);
        prop_assert_eq!(&one.programs, &two.programs);
        prop_assert_eq!(&one.order, &two.order);
        prop_assert_eq!(&one.events, &two.events);
        let ops = |plan: &Plan| format!("{:?}", plan.graph.ops().collect::<Vec<(OpId, &Op)>>());
        prop_assert_eq!(ops(&one), ops(&two));
        prop_assert_eq!(one.graph.edges().collect::<Vec<_>>(), two.graph.edges().collect::<Vec<_>>());
    }

    /// Other ids for the same things change nothing that matters.
    #[test]
    fn ids_do_not_matter(case in cases(), seed in any::<u64>()) {
        let mut again = shuffle(&case.unraised, seed);
        raise(&mut again, case.cradle, &mut (FIRST_SPARE..));
        for forest in [shuffle(&case.forest, seed), again] {
            let other = Case { forest, ..case.clone() };
            let plan = planned(&other)?;
            played(&other, &plan, Schedule::Random(seed))?;
        }
    }

    /// A limit of descriptors is kept at every moment, or the plan is refused for it; and what is far
    /// below it is not refused.
    #[test]
    fn the_limit_is_kept(mut case in cases(), limit in 1u32..80, seed in any::<u64>()) {
        case.forest.fd_limit = limit;
        match plan_in(&case.forest, case.cradle) {
            Ok(plan) => played(&case, &plan, Schedule::Random(seed))?,
            Err(PlanError::Place(errors)) => {
                let is_limit = errors.iter().all(|error| matches!(error, PlaceError::TableTooLarge { .. }));
                prop_assert!(is_limit, "{errors:?}");
                let highest = case.forest.tasks.iter().flat_map(|task| &task.table).map(|slot| slot.fd as usize + 1).max();
                let ends: usize = case.forest.resources.iter().map(|resource| resource.yields.len()).sum();
                prop_assert!((limit as usize) < highest.unwrap_or(0) + 2 * ends + 1, "{errors:?} is too strict");
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
}
