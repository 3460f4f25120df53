//! A root directory with another Debian release's compiler, for the kernels of a suite that this
//! machine does not follow: its own C library is too old for their kbuild.
//!
//! It is unpacked into the cache and never installed. What runs in it sees `/dev` and `/proc`
//! of this machine and nothing else.

use std::{
    path::{Path, PathBuf},
    process::{self, Command},
};

use anyhow::{Context as _, Result};

use super::apt::Apt;
use crate::workspace;

/// What kbuild runs beside the compiler, on which the headers depend.
const TOOLS: [&str; 8] =
    ["base-files", "bash", "coreutils", "dash", "findutils", "gawk", "grep", "sed"];

/// Where modules are built, within the root.
const BUILD: &str = "build";

/// Unpacks `packages` of `suite` with all that they depend on into `root`, unless it is there.
///
/// # Errors
/// When the packages cannot be fetched.
pub(super) fn fetch(suite: &str, packages: &[String], cache: &Path, root: &Path) -> Result<()> {
    if root.exists() {
        return Ok(());
    }
    // Backports depend on the release that they are for.
    let release = suite.strip_suffix("-backports").unwrap_or(suite);
    let apt = Apt::of_suites(&[release, suite], &cache.join("apt/headers-foreign"))?;
    let wanted: Vec<String> = packages
        .iter()
        .cloned()
        .chain(TOOLS.map(str::to_owned))
        .chain(["make".to_owned()])
        .collect();
    let all = apt.with_dependencies(&wanted)?;
    eprintln!("lab: fetching {} and {} packages of {release}", packages[0], all.len());
    apt.unpack(&all, root)
}

/// A directory below `root` that `make` can build in, named after this process.
pub(super) fn work(root: &Path) -> PathBuf {
    root.join(BUILD).join(process::id().to_string())
}

/// `make` within `root`, which this user enters as root of a user namespace if need be. Arguments
/// follow, with paths as they are in there.
pub(super) fn make(root: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !workspace::is_root() {
        command.arg("--map-root-user");
    }
    let script = "root=$1; shift; for dir in dev proc; do mount --rbind /$dir \"$root/$dir\" || exit; \
                  done; exec chroot \"$root\" make \"$@\"";
    command.args(["sh", "-c", script, "make"]).arg(root);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// `path`, which lies below `root`, as what runs in `root` sees it.
///
/// # Errors
/// When it lies elsewhere.
pub(super) fn inside(root: &Path, path: &Path) -> Result<PathBuf> {
    let below = path.strip_prefix(root);
    Ok(Path::new("/").join(below.with_context(|| format!("{} is elsewhere", path.display()))?))
}
