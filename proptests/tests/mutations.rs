//! Plans that are wrong in one thing lose their certificate, every time.
//!
//! What is wrong with a mutant says [`regrow_proptests::mutate`], without the checker.

#![allow(clippy::print_stdout, reason = "how many of each kind there were")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, TestCaseResult, TestRunner};
use regrow::certify::{self, Demands};
use regrow::resolve::policy::Policy;
use regrow::synth::Forest;
use regrow_graph::cost::CostModel;
use regrow_proptests::descriptions::descriptions;
use regrow_proptests::images::{Planned, Refused, Room, model_of, plan, plan_by, plan_with};
use regrow_proptests::mutate::{Kind, MessageKind, Plan};
use regrow_proptests::private::add_private_pipes;

static ROOM: LazyLock<Room> = LazyLock::new(|| Room::new("mutations"));

/// Calls `test` with the plans of so many random forests; `REGROW_CASES` overrides the number.
fn for_plans(
    cases: u32,
    name: &str,
    change: impl Fn(&mut Forest, u64),
    plan: impl Fn(&Path, u64) -> Result<Planned, Refused>,
    mut test: impl FnMut(&Forest, &Planned, u64) -> TestCaseResult,
) {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/proptest-regressions/mutations.txt");
    let wanted = std::env::var("REGROW_CASES").ok().and_then(|text| text.parse().ok());
    let config = ProptestConfig {
        cases: wanted.unwrap_or(cases),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(file))),
        max_shrink_iters: 2_000,
        source_file: Some(file!()),
        ..ProptestConfig::default()
    };
    let test = std::cell::RefCell::new(&mut test);
    let strategy = (descriptions(&ROOM.files(), 16), any::<u64>());
    let result = TestRunner::new(config).run(&strategy, |(mut forest, seed)| {
        change(&mut forest, seed);
        let synthetic = model_of(&forest).map_err(TestCaseError::fail)?;
        let dir = ROOM.write(name, &synthetic).map_err(TestCaseError::fail)?;
        match plan(&dir, seed) {
            Ok(planned) => (test.borrow_mut())(&forest, &planned, seed),
            Err(_) => Ok(()),
        }
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// What the images of a plan demand: the same of all its mutants.
fn demands_of(planned: &Planned) -> Result<Demands, TestCaseError> {
    Demands::of(&planned.model, &planned.ground).map_err(|error| TestCaseError::fail(error.to_string()))
}

const CASES: u32 = 300;
const MESSAGE_CASES: u32 = 60;

/// Two rules by which descriptors go in messages: the lowest pid makes everything, and helpers fork batches of
/// children, where forks cost nothing against what a child has to close.
fn plan_with_messages(dir: &Path, seed: u64) -> Result<Planned, Refused> {
    if seed & 1 == 0 {
        return plan_by(Policy::LowestPid, dir);
    }
    let mut costs = CostModel::default();
    for constant in CostModel::CONSTANTS {
        costs.get_mut(constant.name).into_iter().for_each(|cost| *cost = 0.0);
    }
    costs.fork_fd_ns = 1000.0;
    plan_with(dir, costs, 8, Policy::Inherit)
}

fn with_pipes(forest: &mut Forest, seed: u64) {
    if seed & 1 == 1 {
        add_private_pipes(forest);
    }
}

/// What was made of each kind of wrong messages.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    refused: u32,
    /// It has a certificate, and everybody ends with what they would have had.
    equivalent: u32,
}

#[test]
fn wrong_messages_lose_the_certificate() {
    let (mut made, mut plans) = (BTreeMap::<MessageKind, Count>::new(), [0, 0]);
    for_plans(MESSAGE_CASES, "messages", with_pipes, plan_with_messages, |forest, planned, seed| {
        let spoiled = Plan::new(forest, &planned.tapes).map_err(TestCaseError::fail)?;
        if !spoiled.has_messages() {
            return Ok(());
        }
        plans[(seed & 1) as usize] += 1;
        spoiled.is_equivalent(&planned.tapes).map_err(TestCaseError::fail)?;
        let demands = demands_of(planned)?;
        for kind in MessageKind::ALL {
            let Some(mutant) = spoiled.message_mutant(kind, seed) else { continue };
            let count = made.entry(kind).or_default();
            match certify::check(&demands, &mutant.tapes, None) {
                Err(_) => count.refused += 1,
                Ok(_) => {
                    let same = spoiled.is_equivalent(&mutant.tapes);
                    prop_assert!(same.is_ok(), "{}: certified, and {same:?}", mutant.what);
                    count.equivalent += 1;
                }
            }
        }
        Ok(())
    });
    println!("plans by the lowest pid and with helpers: {plans:?}; {made:#?}");
    assert!(plans.iter().all(|count| *count > 0), "{plans:?}");
    for kind in MessageKind::ALL {
        assert!(
            made.get(&kind).is_some_and(|count| count.refused > 0),
            "{kind:?} was never refused: {made:?}"
        );
    }
}

#[test]
fn every_mutation_loses_the_certificate() {
    let mut made: BTreeMap<Kind, u32> = BTreeMap::new();
    for_plans(
        CASES,
        "mutant",
        |_, _| {},
        |dir, _| plan(dir),
        |forest, planned, seed| {
            let spoiled = Plan::new(forest, &planned.tapes).map_err(TestCaseError::fail)?;
            let demands = demands_of(planned)?;
            for kind in Kind::ALL {
                let Some(mutant) = spoiled.mutant(kind, seed) else { continue };
                *made.entry(kind).or_default() += 1;
                let certified = certify::check(&demands, &mutant.tapes, None);
                prop_assert!(certified.is_err(), "{}", mutant.what);
            }
            Ok(())
        },
    );
    for kind in Kind::ALL {
        assert!(made.contains_key(&kind), "{kind:?} was not tried: {made:?}");
    }
}
