//! Descriptions of synthetic forests through the real stages: written, read, resolved, planned, lowered, certified.
//!
//! `REGROW_CASES` is how many cases each property gets, instead of its own number.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use regrow::synth::Forest;
use regrow_proptests::descriptions::descriptions;
use regrow_proptests::images::{Planned, Refused, Room, model_of, plan};

static ROOM: LazyLock<Room> = LazyLock::new(|| Room::new("images"));

fn config(cases: u32) -> ProptestConfig {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/proptest-regressions/images.txt");
    let wanted = std::env::var("REGROW_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: wanted.unwrap_or(cases),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(file))),
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    }
}

fn forests() -> impl Strategy<Value = Forest> {
    descriptions(&ROOM.files(), 16)
}

/// The plan of a forest; `None`: it was refused for a reason that the documentation has.
fn planned(forest: &Forest, name: &str) -> Result<Option<Planned>, TestCaseError> {
    prop_assert_eq!(forest.faults(), Vec::<String>::new());
    let synthetic = model_of(forest).map_err(TestCaseError::fail)?;
    let dir = ROOM.write(name, &synthetic).map_err(TestCaseError::fail)?;
    match plan(&dir) {
        Ok(planned) => Ok(Some(planned)),
        Err(Refused::Problems(said)) => {
            let is_known = |text: &String| text.contains("cannot be inherited: no ancestor is in it");
            prop_assert!(!said.is_empty() && said.iter().all(is_known), "{said:?}");
            Ok(None)
        }
        Err(Refused::Defect(what)) => Err(TestCaseError::fail(what)),
    }
}

proptest! {
    #![proptest_config(config(500))]

    /// What is not refused by name has a certificate.
    #[test]
    fn what_is_planned_is_certified(forest in forests()) {
        let Some(planned) = planned(&forest, "certified")? else { return Ok(()) };
        let certified = planned.certify();
        prop_assert!(certified.is_ok(), "{}", certified.err().map_or(String::new(), |error| error.to_string()));
    }
}
