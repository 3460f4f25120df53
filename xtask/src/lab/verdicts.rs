//! Scenario `verdicts`: chains and verdicts of tdtrace on a whole kernel, against binutils.
//!
//! Fetches a kernel's debug package once (0.3 GB, 1.8 GB unpacked) unless it is told where debug
//! files are, and runs the comparison, which is too large for every day.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, ensure};
use xtask::toolchain::cache_dir;

use super::apt::Apt;
use crate::{programs, workspace::cargo};

/// The programs that the truth is from.
const NEEDED: &[programs::Program] =
    &[("addr2line", "binutils"), ("objdump", "binutils"), ("dpkg-deb", "dpkg"), ("xz", "xz-utils")];

/// What the scenario can be told.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Directory with debug files, laid out as /usr/lib/debug is, instead of a package
    #[arg(long, value_name = "DIR")]
    debug_dir: Option<PathBuf>,
    /// Directory that the matrix and a new fixture are written to
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Compares.
///
/// # Errors
/// When debug files cannot be had, or something differs.
pub(super) fn run(options: &Options) -> Result<()> {
    programs::ensure(NEEDED)?;
    let dir = match &options.debug_dir {
        Some(dir) => dir.clone(),
        None => fetched(&cache_dir()?.join("lab"))?,
    };
    let mut example = cargo();
    example.args(["run", "-p", "tdtrace", "--example", "verdict_kernel", "--"]);
    example.arg(dir.canonicalize()?);
    if let Some(out) = &options.out {
        example.arg("--out").arg(out.canonicalize()?);
    }
    ensure!(example.status()?.success(), "the comparison failed; what it printed says why");
    Ok(())
}

/// The debug files of the newest 6.12 cloud kernel that this machine's apt has.
fn fetched(cache: &Path) -> Result<PathBuf> {
    let root = cache.join("debug/6.12");
    if !root.exists() {
        Apt::try_lists(&cache.join("apt/debug"), |apt| {
            let mut names = apt.names(r"^linux-image-6\.12\.[0-9]+.*-cloud-amd64-dbg$")?;
            names.sort_by_key(|name| patch(name));
            let package = names.pop().ok_or_else(|| {
                anyhow!(
                    "this machine's apt has no linux-image-6.12.*-cloud-amd64-dbg; give --debug-dir"
                )
            })?;
            eprintln!("lab: fetching {package}");
            apt.unpack(&[package], &root)
        })?;
    }
    Ok(root.join("usr/lib/debug"))
}

/// 117 of `linux-image-6.12.117+deb12-cloud-amd64-dbg`.
fn patch(package: &str) -> u32 {
    let rest = package.split("-6.12.").nth(1).unwrap_or_default();
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_ordered_by_number() {
        assert_eq!(patch("linux-image-6.12.117+deb12-cloud-amd64-dbg"), 117);
        assert_eq!(patch("linux-image-6.12-cloud-amd64-dbg"), 0);
    }
}
