use clap::Args;
#[derive(Debug, Args)]
pub(crate) struct Plan {}
impl Plan { pub(crate) fn run(&self) -> anyhow::Result<std::process::ExitCode> { anyhow::bail!("no") } }
