use clap::Args;
#[derive(Debug, Args)]
pub(crate) struct Inspect {}
impl Inspect { pub(crate) fn run(&self) -> anyhow::Result<std::process::ExitCode> { anyhow::bail!("no") } }
