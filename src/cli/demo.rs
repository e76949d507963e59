use super::arguments::DemoArguments;
use anyhow::Result;
use std::process::ExitCode;
pub fn run(_arguments: &DemoArguments) -> Result<ExitCode> {
    anyhow::bail!("not yet")
}
