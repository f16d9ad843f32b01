//! The option by which commands take a table of costs.

use std::path::PathBuf;

use clap::Args;
use regrow::cost;
use regrow_graph::cost::CostModel;

/// A table of costs.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct CostsOption {
    /// What things cost on this host, as `regrow calibrate --out` wrote it; else $REGROW_COSTS, else the built-in table
    #[arg(long, value_name = "FILE")]
    costs: Option<PathBuf>,
}

impl CostsOption {
    pub(crate) fn load(&self) -> Result<CostModel, cost::file::CostsError> {
        cost::load(self.costs.as_deref())
    }
}
