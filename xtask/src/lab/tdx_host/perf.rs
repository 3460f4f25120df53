//! This machine's `perf`, to be run in the VM beside tdtrace: the program with the libraries that it is
//! linked to.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{lab::initramfs::Archive, progress::run};

/// Where distributions have it.
const PERF: &str = "/usr/bin/perf";

/// QEMU's own CPU is AMD's, and perf chooses its table of exit reasons by the vendor.
pub(super) const CPU: &[&str] = &["-cpu", "max,+svm,+npt,vendor=GenuineIntel"];

/// An archive that holds it.
///
/// # Errors
/// When there is none, or a library of it is missing.
pub(super) fn archive() -> Result<Vec<u8>> {
    let out = run(Command::new("ldd").arg(PERF)).context("perf is not installed here")?;
    let mut archive = Archive::default();
    let mut known = Vec::new();
    let listed = String::from_utf8_lossy(&out.stdout).into_owned();
    for path in libraries(&listed)?.into_iter().chain([PERF]) {
        let to = if path == PERF { "bin/perf" } else { path.trim_start_matches('/') };
        for parent in Path::new(to).ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
            let parent = parent.to_str().ok_or_else(|| anyhow!("{path} is not UTF-8"))?.to_owned();
            if !parent.is_empty() && parent != "bin" && !known.contains(&parent) {
                archive.directory(&parent)?;
                known.push(parent);
            }
        }
        archive.program(to, &fs::read(path).with_context(|| format!("no {path}"))?)?;
    }
    archive.finish()
}

/// The files in what `ldd` prints; the kernel's own is none.
fn libraries(listed: &str) -> Result<Vec<&str>> {
    let mut paths = Vec::new();
    for line in listed.lines() {
        if line.contains("not found") {
            bail!("perf does not run here: {}", line.trim());
        }
        paths.extend(line.split_whitespace().find(|word| word.starts_with('/')));
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_files_and_a_missing_one_is_an_error() {
        let listed = "\tlinux-vdso.so.1 (0x7f)\n\tlibm.so.6 => /lib/libm.so.6 (0x7f)\n\t/lib64/ld.so (0x7f)\n";
        assert_eq!(libraries(listed).unwrap(), ["/lib/libm.so.6", "/lib64/ld.so"]);
        assert!(libraries("\tlibx.so => not found\n").is_err());
    }
}
