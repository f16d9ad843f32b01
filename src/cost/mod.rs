//! The cost model of this host: measured, kept in files, and used to say how long tapes take.
//!
//! The table itself and the choices that follow from it are [`regrow_graph::cost`]'s.
//!
//! | module | does |
//! |---|---|
//! | [`calibrate`] | measures the constants by playing tapes |
//! | `bench` | one measurement: tapes with clock readings between their records |
//! | `suite` | what is measured, tape by tape |
//! | [`file`](mod@file) | reads and writes tables |
//!
//! Worked example: [`load`] of no file gives the built-in table; a prediction for a plan's tapes with it
//! says how long they play.

mod bench;
pub mod calibrate;
pub mod file;
mod suite;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regrow_graph::cost::{self, CostModel, Prediction, PricedTree};
use regrow_graph::ids::OpId;

use crate::tape::Tapes;
use crate::tape::lift::{LiftError, lift};
use file::CostsError;

/// The environment variable that names a file of costs.
pub const VARIABLE: &str = "REGROW_COSTS";

/// The table in `file`, or in the file that the environment names, or the built-in one.
///
/// # Errors
/// The file cannot be read, or holds no table.
pub fn load(file: Option<&Path>) -> Result<CostModel, CostsError> {
    let named = || std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    match file.map(Path::to_owned).or_else(named) {
        Some(path) => Ok(file::read(&path)?.costs),
        None => Ok(CostModel::default()),
    }
}

/// Finished tapes with the cost of each record.
#[derive(Debug, Clone)]
pub struct Priced {
    /// By record.
    pub tree: PricedTree,
    /// Of each operation of the plan, all its records together.
    of_op: BTreeMap<u32, u64>,
}

impl Priced {
    /// Prices tapes.
    ///
    /// # Errors
    /// A record that is not understood. Tapes with a certificate have none.
    pub fn of(tapes: &Tapes, costs: &CostModel) -> Result<Priced, LiftError> {
        let tree = cost::price(&lift(tapes)?, costs);
        let mut of_op: BTreeMap<u32, u64> = BTreeMap::new();
        for (tape, priced) in tapes.tasks.iter().zip(&tree.tapes) {
            let mut moments = priced.moments.iter().peekable();
            for (index, (_, record)) in tapes.records(tape).enumerate() {
                if let Some(moment) = moments.next_if(|moment| moment.record as usize == index) {
                    let sum = of_op.entry(record.op).or_default();
                    *sum = sum.saturating_add(moment.cost_ns);
                }
            }
        }
        Ok(Priced { tree, of_op })
    }

    /// What an operation costs, in nanoseconds, where it waits for nobody.
    pub fn op_ns(&self, op: OpId) -> u64 {
        self.of_op.get(&op.0).copied().unwrap_or(0)
    }

    /// What a task's tape costs, with its birth.
    pub fn task_ns(&self, pid: u32) -> u64 {
        let tape = self.tree.tapes.iter().find(|tape| tape.pid == pid);
        tape.map_or(0, |tape| {
            tape.moments.iter().fold(tape.birth_ns, |sum, moment| sum.saturating_add(moment.cost_ns))
        })
    }

    /// How long the tapes take on `cores` cores.
    pub fn predict(&self, cores: u32) -> Prediction {
        cost::predict(&self.tree, cores)
    }
}

/// How many cores this process may run on.
pub fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
}
