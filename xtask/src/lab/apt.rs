//! Debian packages without installing them: finds package names, downloads and unpacks.
//!
//! Runs apt and dpkg-deb as they are on this machine. What it writes stays in the directories its
//! callers give: a suite that the machine does not follow gets a source list and package lists of
//! its own, the machine's configuration is only read.

use std::{
    ffi::OsString,
    fs,
    path::Path,
    process::{self, Command},
};

use anyhow::{Context as _, Result, anyhow};

use crate::progress::run;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One view of the package archive: which sources, which lists.
#[derive(Clone, Debug)]
pub(super) struct Apt {
    options: Vec<OsString>,
}

impl Apt {
    /// The machine's own sources with the lists that it last fetched.
    pub(super) fn of_machine() -> Self {
        Self { options: Vec::new() }
    }

    /// The machine's own sources with lists fetched now into `dir`; needs no root.
    pub(super) fn updated(dir: &Path) -> Result<Self> {
        let apt = Self { options: list_options(dir)? };
        apt.update()?;
        Ok(apt)
    }

    /// Lets `attempt` try the machine's own lists and, where that fails, lists fetched now into
    /// `dir`: the machine's may be missing, or name files that the archive no longer has.
    pub(super) fn try_lists<T>(dir: &Path, attempt: impl Fn(&Self) -> Result<T>) -> Result<T> {
        attempt(&Self::of_machine()).or_else(|_| attempt(&Self::updated(dir)?))
    }

    /// Suites of the mirror that the machine takes Debian from, their lists fetched into `dir`.
    pub(super) fn of_suites(suites: &[&str], dir: &Path) -> Result<Self> {
        let mirror = match Self::of_machine().mirror()? {
            Some(mirror) => mirror,
            None => Self::updated(&dir.join("machine"))?.mirror()?.ok_or_else(|| {
                anyhow!(
                    "this machine's apt has no Debian source, so {} has no mirror",
                    suites.join(" and ")
                )
            })?,
        };
        let mut options = list_options(dir)?;
        let parts = dir.join("sources.list.d");
        fs::create_dir_all(&parts)
            .with_context(|| format!("{} cannot be created", parts.display()))?;
        let sources = dir.join("sources.list");
        let keyring = if Path::new(KEYRING).exists() {
            format!(" signed-by={KEYRING}")
        } else {
            String::new()
        };
        let line = |suite: &&str| format!("deb [arch=amd64{keyring}] {mirror} {suite} main\n");
        fs::write(&sources, suites.iter().map(line).collect::<String>())
            .with_context(|| format!("{} cannot be written", sources.display()))?;
        options.extend([
            option("Dir::Etc::sourcelist", &sources),
            option("Dir::Etc::sourceparts", &parts),
            "-oAPT::Default-Release=".into(),
        ]);
        let apt = Self { options };
        apt.update()?;
        Ok(apt)
    }

    /// Names of packages that match `pattern`, a POSIX regular expression.
    pub(super) fn names(&self, pattern: &str) -> Result<Vec<String>> {
        let mut command = self.command("apt-cache");
        command.args(["search", "--names-only", pattern]);
        let out = run(&mut command)?;
        Ok(String::from_utf8_lossy(&out.stdout)
            .lines()
            .filter_map(|line| line.split_once(" - "))
            .map(|(name, _)| name.to_owned())
            .collect())
    }

    /// `packages` and all that they depend on, as a machine without any package would install them.
    pub(super) fn with_dependencies(&self, packages: &[String]) -> Result<Vec<String>> {
        let mut command = self.command("apt-get");
        command.args(["-oDir::State::status=/dev/null", "--no-install-recommends", "--simulate"]);
        let out = run(command.arg("install").args(packages))?;
        Ok(simulated(&String::from_utf8_lossy(&out.stdout)))
    }

    /// Downloads `packages` and unpacks all of them as `root`, which is complete or not touched.
    /// No maintainer script runs.
    pub(super) fn unpack(&self, packages: &[String], root: &Path) -> Result<()> {
        let fresh = root.with_extension(format!("new-{}", process::id()));
        let placed = self.unpack_here(packages, &fresh).and_then(|()| replace(&fresh, root));
        if placed.is_err() {
            // The error that led here says more than one about what is left behind.
            let _ = fs::remove_dir_all(&fresh);
        }
        placed
    }

    fn unpack_here(&self, packages: &[String], dir: &Path) -> Result<()> {
        let debs = dir.join("debs");
        fs::create_dir_all(&debs)
            .with_context(|| format!("{} cannot be created", debs.display()))?;
        run(self.command("apt-get").arg("download").args(packages).current_dir(&debs))
            .with_context(|| format!("{} cannot be downloaded", packages.join(", ")))?;
        for entry in debs.read_dir().with_context(|| format!("no {}", debs.display()))? {
            run(Command::new("dpkg-deb").arg("--extract").arg(entry?.path()).arg(dir))?;
        }
        fs::remove_dir_all(&debs).with_context(|| format!("{} stays", debs.display()))
    }

    /// The address of the machine's Debian mirror, not that of its security suite.
    fn mirror(&self) -> Result<Option<String>> {
        let mut command = self.command("apt-get");
        command.args(["indextargets", "--format", "$(ORIGIN)\t$(LABEL)\t$(REPO_URI)"]);
        let out = run(command.arg("Created-By: Packages"))?;
        Ok(debian_mirror(&String::from_utf8_lossy(&out.stdout)).map(str::to_owned))
    }

    fn update(&self) -> Result<()> {
        run(self.command("apt-get").arg("update"))
            .map(drop)
            .context("the package lists cannot be fetched")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // Its words are read here, so they must not be translated.
        command.env("LC_ALL", "C").args(&self.options);
        command
    }
}

/// Puts the finished directory `fresh` where `dir` is or will be.
fn replace(fresh: &Path, dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("{} cannot be removed", dir.display()))?;
    }
    fs::rename(fresh, dir).with_context(|| format!("{} cannot be put in place", dir.display()))
}

/// Lists and downloaded indexes in `dir` instead of the machine's.
fn list_options(dir: &Path) -> Result<Vec<OsString>> {
    let (lists, cache) = (dir.join("lists"), dir.join("cache"));
    for partial in [lists.join("partial"), cache.join("archives/partial")] {
        fs::create_dir_all(&partial)
            .with_context(|| format!("{} cannot be created", partial.display()))?;
    }
    Ok(vec![option("Dir::State::lists", &lists), option("Dir::Cache", &cache)])
}

fn option(name: &str, value: &Path) -> OsString {
    let mut option = OsString::from(format!("-o{name}="));
    option.push(value);
    option
}

/// The packages that a simulation would install.
fn simulated(said: &str) -> Vec<String> {
    let names = said.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
    names.map(str::to_owned).collect()
}

fn debian_mirror(targets: &str) -> Option<&str> {
    targets.lines().find_map(|line| line.strip_prefix("Debian\tDebian\t")).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_debian_itself_and_not_its_security_suite() {
        let targets = "Debian\tDebian-Security\thttp://one.example/security/\n\
                       Other\tOther\thttp://two.example/\n\
                       Debian\tDebian\thttp://three.example/debian/\n";
        assert_eq!(debian_mirror(targets), Some("http://three.example/debian/"));
    }

    #[test]
    fn a_simulation_names_what_it_would_install() {
        let said = "Reading lists...\nInst libc6 (2.41-12 Debian:13/stable [amd64])\n\
                    Inst make (4.4 Debian:13/stable [amd64]) []\nConf libc6 (2.41-12)\n";
        assert_eq!(simulated(said), ["libc6", "make"]);
    }

    #[test]
    fn lists_without_their_release_file_name_no_mirror() {
        assert_eq!(debian_mirror("$(ORIGIN)\t$(LABEL)\thttp://one.example/debian/\n"), None);
    }
}
