//! Forests in which resources are sent instead of inherited: the plan is found, and played it gives the forest.

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use regrow_graph::graph::OpKind;
use regrow_graph::order::{Plan, plan_in};
use regrow_graph::passing;
use regrow_proptests::forests::{Case, cases};
use regrow_proptests::passing::{batch_cases, passing_cases};
use regrow_proptests::play::{Schedule, play};

fn config() -> ProptestConfig {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/proptest-regressions/passing.txt");
    ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(file))),
        max_shrink_iters: 20_000,
        max_global_rejects: u32::MAX,
        cases: 500,
        ..ProptestConfig::default()
    }
}

fn planned(case: &Case) -> Result<Plan, TestCaseError> {
    plan_in(&case.forest, case.cradle).map_err(|error| TestCaseError::fail(format!("no plan: {error}")))
}

fn played(case: &Case, seed: u64) -> Result<Plan, TestCaseError> {
    let plan = planned(case)?;
    let schedules = [
        Schedule::Planned,
        Schedule::Random(seed),
        Schedule::Bursts(seed),
        Schedule::Lowest,
        Schedule::Highest,
    ];
    for schedule in schedules {
        play(&case.forest, &plan, schedule)
            .map_err(|error| TestCaseError::fail(format!("{schedule:?}: {error}")))?;
    }
    Ok(plan)
}

proptest! {
    #![proptest_config(config())]

    /// Whoever makes what, and whoever receives it, every schedule runs to the end, and the end is the forest.
    #[test]
    fn what_is_sent_arrives(case in passing_cases(), seed in any::<u64>()) {
        played(&case, seed)?;
    }

    /// Where helpers fork children for their parents, and send what they have made for these.
    #[test]
    fn helpers_fork_batches((case, helpers) in batch_cases(), seed in any::<u64>()) {
        let plan = played(&case, seed)?;
        let forks = plan.graph.ops().filter(|(_, op)| matches!(op.kind, OpKind::Fork { .. })).count();
        prop_assert!(forks > helpers || helpers == 0);
    }

    /// By the rule of the lowest pid nothing that is in a table is inherited, and all else is the same.
    #[test]
    fn the_lowest_pid_makes_it(case in cases(), seed in any::<u64>()) {
        let mut forest = case.forest.clone();
        let assignment = passing::lowest_pid(&forest);
        passing::arrange(&mut forest, &assignment);
        let case = Case { forest, ..case };
        let plan = played(&case, seed)?;
        let received: usize = plan.graph.ops().map(|(_, op)| match &op.kind {
            OpKind::Receive { ofds, .. } => ofds.len(),
            _ => 0,
        }).sum();
        let taken: usize = case.forest.passing.messages.iter().map(|message| message.ofds.len() * message.takers.len()).sum();
        prop_assert_eq!(received, taken);
    }
}
