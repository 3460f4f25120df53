//! `tdtrace top`.

use std::process::ExitCode;

use anyhow::Result;

/// Show VMs, their exits and hotspots live
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args) -> Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
