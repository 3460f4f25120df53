//! The crates of `Cargo.lock` and those of Rust's own library, which the eBPF build compiles.

use std::process::Command;

use anyhow::Result;

use super::{Plan, State};
use crate::{progress, workspace};

/// `cargo fetch` with the toolchain of the eBPF crate.
fn fetch(plan: &Plan) -> Result<Command> {
    let compiler = plan.compiler()?;
    let mut command = Command::new(&compiler.cargo);
    command
        .current_dir(workspace::root())
        .args(["fetch", "--locked", "-Z", "build-std=core"])
        .args(["--target", &compiler.version.host, "--target", "bpfel-unknown-none"])
        .env("RUSTC", &compiler.path)
        // build-std is unstable; this opens it in a stable compiler.
        .env("RUSTC_BOOTSTRAP", "1");
    Ok(command)
}

/// State of the step: a fetch without network succeeds.
pub(super) fn state(plan: &Plan) -> State {
    let offline = fetch(plan).is_ok_and(|mut command| {
        command.arg("--offline").output().is_ok_and(|out| out.status.success())
    });
    if offline { State::Done("there".into()) } else { State::Missing("not fetched".into()) }
}

/// Fetches them.
pub(super) fn act(plan: &mut Plan, prefix: &str) -> Result<()> {
    progress::run_line(&format!("{prefix}fetching"), fetch(plan)?)
}
