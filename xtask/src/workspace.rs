//! This workspace: where it is, its cargo, and what `cargo metadata` says of it.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

/// The features that switch the privileged tests of `tdtrace` on.
///
/// Every cargo call of `cargo xtask test` has them, because another set of features would compile
/// `tdtrace` again.
pub(crate) const TEST_FEATURES: &str = "tdtrace/test-root,tdtrace/test-kvm,tdtrace/test-attach";

/// The workspace's directory.
pub(crate) fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// The directory that cargo builds into.
pub(crate) fn target() -> PathBuf {
    // This program runs from <target>/debug/xtask, also when the user moved the directory.
    env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.parent()?.to_owned()))
        .unwrap_or_else(|| root().join("target"))
}

/// The path of the cargo that runs this program.
pub(crate) fn cargo_path() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The cargo that runs this program, in the workspace's directory.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(cargo_path());
    command.current_dir(root());
    command
}

/// The file `name` in the first directory of `PATH` that has it, or in cargo's own `bin`.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let cargo_bin = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")))
        .map(|home| home.join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_bin)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

/// Whether this process has the user id 0.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid takes no argument and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// `cargo metadata` of the workspace with its privileged tests, for this platform alone.
///
/// # Errors
/// When cargo fails or prints something else than JSON.
pub(crate) fn metadata(host: &str) -> Result<Value> {
    let out = cargo()
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .args(["--filter-platform", host])
        .output()
        .context("cargo does not run")?;
    if !out.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    serde_json::from_slice(&out.stdout).context("cargo metadata printed no JSON")
}

/// The list at `key` of a metadata object.
///
/// # Errors
/// When there is no list of that name.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> Result<&'a [Value]> {
    value
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .ok_or_else(|| anyhow!("cargo metadata has no list `{key}`"))
}

/// The text at `key` of a metadata object; empty when there is none.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_the_directory_of_the_lock_file() {
        assert!(root().join("Cargo.lock").is_file());
    }

    #[test]
    fn a_program_is_found_in_the_path_and_an_unknown_one_is_not() {
        assert!(program("sh").is_some());
        assert_eq!(program("no-such-program-of-tdtrace"), None);
    }
}
