//! `tdtrace decode`.

use std::process::ExitCode;

use anyhow::Result;

/// Decode what a person holds in hand
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args) -> Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
