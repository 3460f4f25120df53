//! Programs of this machine that commands run, and installing those that are missing.

use anyhow::{Result, bail};

use crate::{packages, workspace};

/// A program and the Debian package that has it.
pub(crate) type Program = (&'static str, &'static str);

/// Makes sure that the programs of `needed` are there, by apt where this user may.
///
/// # Errors
/// When this user may not, or apt fails.
pub(crate) fn ensure(needed: &[Program]) -> Result<()> {
    if let Some(why) = cannot_install(needed) {
        bail!("{why}");
    }
    match &missing(needed)[..] {
        [] => Ok(()),
        missing => packages::install("", missing),
    }
}

/// Why programs of `needed` are missing and this user cannot install them; `None` when all are there
/// or can be installed.
pub(crate) fn cannot_install(needed: &[Program]) -> Option<String> {
    let missing = missing(needed);
    let can = workspace::is_root() && packages::has_apt();
    (!missing.is_empty() && !can)
        .then(|| format!("more is needed: run `{}`", packages::install_command(&missing)))
}

/// Packages of the programs that are missing, each once.
fn missing(needed: &[Program]) -> Vec<String> {
    let missing = needed.iter().filter(|(name, _)| workspace::program(name).is_none());
    let mut packages: Vec<_> = missing.map(|(_, package)| (*package).to_owned()).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_packages_of_missing_programs_are_asked_for() {
        let needed =
            [("sh", "dash"), ("no-such-program", "its-package"), ("nor-this", "its-package")];
        assert_eq!(missing(&needed), ["its-package"]);
    }
}
