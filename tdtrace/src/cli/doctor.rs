//! `tdtrace doctor`.

use std::process::ExitCode;

use anyhow::Result;

/// Say what can be seen on this machine, and what to do about the rest
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args) -> Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
