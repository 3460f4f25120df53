//! `cargo xtask run`: set-up where it is missing, a release build, then `tdtrace top`.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{
    progress,
    setup::{self, Need},
    workspace,
};

/// Does what set-up is missing, builds tdtrace and starts `tdtrace top`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Arguments for `tdtrace top`
    #[arg(last = true)]
    pub(crate) top: Vec<OsString>,
}

/// Runs the command; when all is well this process becomes tdtrace.
///
/// Exit codes: 1 for a user who is not root, after saying how to start it; else tdtrace's.
///
/// # Errors
/// When set-up or the build fails.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(Need::Run)?;
    build()?;
    let mut command = Command::new(workspace::target().join("release/tdtrace"));
    command.arg("top").args(&args.top);
    if !workspace::is_root() {
        println!("tdtrace traces the kernel, which takes root; start it with");
        println!("    sudo {}", progress::shell_line(&command));
        return Ok(ExitCode::FAILURE);
    }
    let shown = progress::shell_line(&command);
    // Only returns when it fails.
    Err(command.exec()).with_context(|| format!("`{shown}` does not start"))
}

fn build() -> Result<()> {
    let mut command = workspace::cargo();
    command.args(["build", "--release", "--locked", "--package", "tdtrace", "--bin", "tdtrace"]);
    // Cargo's own progress says more than a clock.
    let status = command.status().context("cargo does not run")?;
    if !status.success() {
        bail!("`{}` failed", progress::shell_line(&command));
    }
    Ok(())
}
