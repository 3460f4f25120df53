//! The static `tdtrace` that runs in guests, those of the lab and others, and tests that do: builds them
//! for musl.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use crate::{
    programs::{self, Program},
    progress::run,
    workspace,
};

const TARGET: &str = "x86_64-unknown-linux-musl";

/// What the build runs beside cargo: there is C in it.
pub(crate) const NEEDED: &[Program] = &[("musl-gcc", "musl-tools")];

/// Builds `tdtrace` without debug information and returns where it is.
///
/// # Errors
/// When the target cannot be added or the build fails; cargo has said why on standard error.
pub(crate) fn build() -> Result<PathBuf> {
    build_target("tdtrace", &["build", "--profile", "static", "--bin", "tdtrace"])
}

/// Builds the integration test `name`, which asks for `feature`, and returns where it is.
///
/// # Errors
/// As [`build`].
pub(crate) fn build_test(name: &str, feature: &str) -> Result<PathBuf> {
    let profile = ["test", "--no-run", "--profile", "static-test"];
    build_target(name, &[&profile[..], &["--test", name, "--features", feature]].concat())
}

/// Calls cargo with `arguments`, which build the target `name`.
fn build_target(name: &str, arguments: &[&str]) -> Result<PathBuf> {
    programs::ensure(NEEDED)?;
    add_target()?;
    let out = workspace::cargo()
        .args(arguments)
        .args(["--package", "tdtrace", "--locked"])
        .args(["--target", TARGET])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("cargo does not run")?;
    if !out.status.success() {
        bail!("the static {name} does not build");
    }
    executable(name, &String::from_utf8_lossy(&out.stdout))
        .ok_or_else(|| anyhow!("cargo built {name} and did not say where"))
}

fn add_target() -> Result<()> {
    let mut rustc = Command::new("rustc");
    rustc.current_dir(workspace::root()).args(["--print", "target-libdir", "--target", TARGET]);
    let out = run(&mut rustc)?;
    if Path::new(String::from_utf8_lossy(&out.stdout).trim()).exists() {
        return Ok(());
    }
    eprintln!("adding the target {TARGET}");
    run(Command::new("rustup").current_dir(workspace::root()).args(["target", "add", TARGET]))
        .map(drop)
        .with_context(|| format!("the standard library for {TARGET} is missing"))
}

/// The program of the target `name` in cargo's JSON messages.
fn executable(name: &str, messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_other_messages() {
        let messages = concat!(
            "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"tdtrace\"},\"executable\":null}\n",
            "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"x\"},\"executable\":\"/x\"}\n",
            "not json\n",
            "{\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"tdtrace\"},\"executable\":\"/t/tdtrace\"}\n",
        );
        assert_eq!(executable("tdtrace", messages), Some("/t/tdtrace".into()));
        assert_eq!(
            executable("tdtrace", "{\"reason\":\"build-finished\",\"success\":true}\n"),
            None
        );
    }
}
