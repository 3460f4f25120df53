//! Programs of this machine that commands run, and installing those that are missing.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::progress::run;

/// A program and the Debian package that has it.
pub(crate) type Program = (&'static str, &'static str);

/// Makes sure that the programs of `needed` are there, by apt where this user may.
pub(crate) fn ensure(needed: &[Program]) -> Result<()> {
    let packages = missing(needed);
    if packages.is_empty() {
        return Ok(());
    }
    if let Some(why) = cannot_install(needed) {
        bail!("{why}");
    }
    let list = packages.join(" ");
    eprintln!("installing {list}");
    let install = || {
        let mut command = Command::new("apt-get");
        command.args(["install", "--yes", "--no-install-recommends", "--no-remove"]);
        run(command.args(&packages).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    // Without package lists, or with old ones, apt finds nothing.
    if install().is_err() {
        run(Command::new("apt-get").arg("update"))?;
        install().with_context(|| format!("{list} cannot be installed"))?;
    }
    Ok(())
}

/// Why programs of `needed` are missing and this user cannot install them; `None` when all are there
/// or can be installed.
pub(crate) fn cannot_install(needed: &[Program]) -> Option<String> {
    let packages = missing(needed);
    // SAFETY: geteuid takes no argument and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    (!packages.is_empty() && (!root || find("apt-get").is_none())).then(|| {
        format!(
            "more is needed: run `sudo apt-get install --no-install-recommends {}`",
            packages.join(" ")
        )
    })
}

/// Packages of the programs that are not in `PATH`.
fn missing(needed: &[Program]) -> Vec<&'static str> {
    needed.iter().filter(|(name, _)| find(name).is_none()).map(|(_, package)| *package).collect()
}

fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_packages_of_missing_programs_are_asked_for() {
        let needed = [("sh", "dash"), ("no-such-program", "its-package")];
        assert_eq!(missing(&needed), ["its-package"]);
    }
}
