//! The option by which commands take a table of costs.

use std::path::PathBuf;

use clap::Args;
use regrow::cost;
use regrow_graph::cost::CostModel;

/// A table of costs.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct CostsOption {
    /// What things cost on this host, as `regrow calibrate --out` wrote it; else $REGROW_COSTS, else the built-in table
    #[arg(long, value_name = "FILE", global = true)]
    costs: Option<PathBuf>,
}

impl CostsOption {
    /// Whether there is one beside the built-in table.
    pub(crate) fn is_given(&self) -> bool {
        self.costs.is_some() || std::env::var_os(cost::VARIABLE).is_some_and(|value| !value.is_empty())
    }

    pub(crate) fn load(&self) -> Result<CostModel, cost::file::CostsError> {
        cost::load(self.costs.as_deref())
    }
}
