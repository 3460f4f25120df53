//! The static `tdtrace` that runs in the VM: builds it for musl.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use super::apt::run;

const TARGET: &str = "x86_64-unknown-linux-musl";

/// The workspace's directory.
pub(super) fn workspace() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// The directory that cargo builds into: this program runs from `<target>/<profile>/xtask`.
pub(super) fn target_dir() -> Result<PathBuf> {
    let program = env::current_exe().context("the path of this program is not known")?;
    program
        .ancestors()
        .nth(2)
        .map(Path::to_owned)
        .ok_or_else(|| anyhow!("{} is not in a target directory", program.display()))
}

/// Builds `tdtrace` without debug information and returns where it is.
///
/// # Errors
/// When the target cannot be added or the build fails; cargo has said why on standard error.
pub(super) fn build() -> Result<PathBuf> {
    add_target()?;
    let out = Command::new(cargo())
        .current_dir(workspace())
        .args(["build", "--package", "tdtrace", "--bin", "tdtrace", "--locked"])
        .args([
            "--profile",
            "lab",
            "--target",
            TARGET,
            "--message-format",
            "json-render-diagnostics",
        ])
        .stderr(Stdio::inherit())
        .output()
        .context("cargo does not run")?;
    if !out.status.success() {
        bail!("the static tdtrace does not build");
    }
    executable(&String::from_utf8_lossy(&out.stdout))
        .ok_or_else(|| anyhow!("cargo built tdtrace and did not say where"))
}

/// The cargo that runs this program.
fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn add_target() -> Result<()> {
    let mut rustc = Command::new("rustc");
    rustc.current_dir(workspace()).args(["--print", "target-libdir", "--target", TARGET]);
    let out = run(&mut rustc)?;
    if Path::new(String::from_utf8_lossy(&out.stdout).trim()).exists() {
        return Ok(());
    }
    eprintln!("lab: adding the target {TARGET}");
    run(Command::new("rustup").current_dir(workspace()).args(["target", "add", TARGET]))
        .map(drop)
        .with_context(|| format!("the standard library for {TARGET} is missing"))
}

/// The program in cargo's JSON messages.
fn executable(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "tdtrace")
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
        assert_eq!(executable(messages), Some("/t/tdtrace".into()));
        assert_eq!(executable("{\"reason\":\"build-finished\",\"success\":true}\n"), None);
    }
}
