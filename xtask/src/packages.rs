//! The distribution's packages: what apt has, and installing it. Other distributions are told
//! which packages are needed.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Result, bail};

use crate::{progress, workspace};

const LISTS: &str = "/var/lib/apt/lists";

/// Package lists older than this may name files that the archive no longer has.
const LISTS_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Whether apt installs this machine's packages.
pub(crate) fn has_apt() -> bool {
    workspace::program("apt-get").is_some() && workspace::program("dpkg-query").is_some()
}

/// Whether `package` is installed.
pub(crate) fn installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f", "${Status}", package])
        .output()
        .is_ok_and(|out| out.status.success() && out.stdout.ends_with(b" installed"))
}

/// The version of `package` that apt would install now.
pub(crate) fn candidate(package: &str) -> Option<String> {
    let out =
        Command::new("apt-cache").env("LC_ALL", "C").args(["policy", package]).output().ok()?;
    parse_candidate(&String::from_utf8_lossy(&out.stdout))
}

fn parse_candidate(policy: &str) -> Option<String> {
    policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
        .map(str::to_owned)
}

/// Whether apt's package lists are missing or old.
pub(crate) fn lists_are_stale() -> bool {
    newest_list(Path::new(LISTS)).is_none_or(|newest| {
        SystemTime::now().duration_since(newest).is_ok_and(|age| age > LISTS_AGE)
    })
}

/// When the lists in `directory` were last fetched. A list keeps the archive's date, so the
/// directory's own counts, as long as it holds one.
fn newest_list(directory: &Path) -> Option<SystemTime> {
    let has_list = fs::read_dir(directory)
        .ok()?
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().contains("_Packages"));
    if !has_list {
        return None;
    }
    [directory.to_owned(), directory.join("partial")]
        .iter()
        .filter_map(|path| fs::metadata(path).ok()?.modified().ok())
        .max()
}

/// The command with which a user installs `packages`.
pub(crate) fn install_command(packages: &[String]) -> String {
    let update = if lists_are_stale() { "sudo apt-get update && " } else { "" };
    format!("{update}sudo apt-get install --no-install-recommends {}", packages.join(" "))
}

/// Fetches apt's package lists.
///
/// # Errors
/// When this user may not, or the archive cannot be reached.
pub(crate) fn update(prefix: &str) -> Result<()> {
    need_root()?;
    progress::run_line(&format!("{prefix}fetching the package lists"), apt(&["update"]))
}

/// Installs `packages`, with fresh package lists where they are stale. Nothing is removed for it.
///
/// # Errors
/// When this user may not, or apt fails.
pub(crate) fn install(prefix: &str, packages: &[String]) -> Result<()> {
    need_root()?;
    let fresh = lists_are_stale();
    if fresh {
        update(prefix)?;
    }
    let attempt = || {
        let mut command = apt(&["install", "-y", "--no-install-recommends", "--no-remove"]);
        command.args(packages);
        progress::run_line(&format!("{prefix}installing {}", packages.join(" ")), command)
    };
    attempt().or_else(|error| {
        if fresh {
            return Err(error);
        }
        update(prefix)?;
        attempt()
    })
}

fn need_root() -> Result<()> {
    if !workspace::is_root() {
        bail!("only root may install packages");
    }
    Ok(())
}

fn apt(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["-o", "DPkg::Lock::Timeout=120"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_candidate_is_read_and_none_is_none() {
        let policy = "llvm-22-dev:\n  Installed: (none)\n  Candidate: 1:22.1.8-1~deb12u1\n";
        assert_eq!(parse_candidate(policy).as_deref(), Some("1:22.1.8-1~deb12u1"));
        assert_eq!(parse_candidate("llvm-99-dev:\n  Candidate: (none)\n"), None);
        assert_eq!(parse_candidate(""), None);
    }

    #[test]
    fn a_directory_without_package_lists_counts_as_never_fetched() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(newest_list(directory.path()), None);
        fs::write(directory.path().join("main_binary-amd64_Packages.lz4"), "").unwrap();
        assert!(newest_list(directory.path()).is_some());
    }

    #[test]
    fn the_command_for_the_user_names_every_package() {
        let line = install_command(&["llvm-22-dev".into(), "libzstd-dev".into()]);
        assert!(
            line.ends_with("sudo apt-get install --no-install-recommends llvm-22-dev libzstd-dev")
        );
    }
}
