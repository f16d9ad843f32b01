//! Plans that are wrong in one thing lose their certificate, every time.
//!
//! What is wrong with a mutant says [`regrow_proptests::mutate`], without the checker.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, TestCaseResult, TestRunner};
use regrow::certify;
use regrow::synth::Forest;
use regrow_proptests::descriptions::descriptions;
use regrow_proptests::images::{Planned, Room, model_of, plan};
use regrow_proptests::mutate::{Kind, Plan};

static ROOM: LazyLock<Room> = LazyLock::new(|| Room::new("mutations"));

/// Calls `test` with the plans of so many random forests; `REGROW_CASES` overrides the number.
fn for_plans(cases: u32, name: &str, mut test: impl FnMut(&Forest, &Planned, u64) -> TestCaseResult) {
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
    let result = TestRunner::new(config).run(&strategy, |(forest, seed)| {
        let synthetic = model_of(&forest).map_err(TestCaseError::fail)?;
        let dir = ROOM.write(name, &synthetic).map_err(TestCaseError::fail)?;
        match plan(&dir) {
            Ok(planned) => (test.borrow_mut())(&forest, &planned, seed),
            Err(_) => Ok(()),
        }
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn every_mutation_loses_the_certificate() {
    let mut made: BTreeMap<Kind, u32> = BTreeMap::new();
    for_plans(350, "mutant", |forest, planned, seed| {
        let spoiled = Plan::new(forest, &planned.tapes).map_err(TestCaseError::fail)?;
        for kind in Kind::ALL {
            let Some(mutant) = spoiled.mutant(kind, seed) else { continue };
            *made.entry(kind).or_default() += 1;
            let certified = certify::certify(&planned.model, &mutant.tapes, &planned.ground, None);
            prop_assert!(certified.is_err(), "{}", mutant.what);
        }
        Ok(())
    });
    for kind in Kind::ALL {
        assert!(made.contains_key(&kind), "{kind:?} was not tried: {made:?}");
    }
}
