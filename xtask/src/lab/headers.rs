//! Building kernel modules and static programs for a lab kernel: its headers, unpacked from Debian's
//! packages, and the distribution's own compiler and kbuild.
//!
//! A kernel of another Debian release is built for with that release's compiler ([`foreign`]).
//! Headers are kept in the cache like kernels; what was built is kept by a hash of its sources.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::{self, Command},
};

use anyhow::{Context as _, Result, anyhow};

use super::{apt::Apt, foreign, kernel::Image};
use crate::{programs, progress::run, workspace};

/// What a build needs; Debian's kbuild names the compiler that built the kernel.
pub(super) const NEEDED: &[programs::Program] =
    &[("x86_64-linux-gnu-gcc-12", "gcc-12"), ("make", "make"), ("strip", "binutils")];

/// The suffix of the flavour that the lab's kernels have; all flavours share the rest.
const FLAVOUR: &str = "-cloud-amd64";

/// Sources that lie beside those of any module when they are built.
const SHARED: &str = "xtask/lab/shared";

/// What is built from a directory of C sources.
#[derive(Clone, Debug)]
pub(super) struct Built {
    /// Where the files lie, named as in [`Sources`].
    pub(super) dir: PathBuf,
}

/// A directory with a `Kbuild` file, and what comes out of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sources<'a> {
    /// The directory.
    pub(super) dir: &'a Path,
    /// Modules, without `.ko`, whose debug information is removed or kept.
    pub(super) modules: &'a [(&'a str, Debug)],
    /// Programs, each from one file of that name with `.c`; static and without a C library.
    pub(super) programs: &'a [&'a str],
}

/// What becomes of the debug information of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Debug {
    /// It is removed, so that there is less to boot with.
    Removed,
    /// It stays, for lines and types.
    Kept,
}

/// Builds `sources` for `kernel`, or finds what was built of the same sources.
///
/// # Errors
/// When the headers cannot be fetched, or the build fails: with what the compiler said.
pub(super) fn build(sources: &Sources<'_>, kernel: &Image, cache: &Path) -> Result<Built> {
    build_in_tree(sources, kernel, cache, || fetch(kernel, cache))
}

/// The same for a kernel that was built on this machine, in `tree`.
///
/// # Errors
/// As [`build`].
pub(super) fn build_with(
    sources: &Sources<'_>,
    kernel: &Image,
    cache: &Path,
    tree: PathBuf,
) -> Result<Built> {
    build_in_tree(sources, kernel, cache, || Ok(Tree { dir: tree, root: None }))
}

fn build_in_tree(
    sources: &Sources<'_>,
    kernel: &Image,
    cache: &Path,
    tree: impl FnOnce() -> Result<Tree>,
) -> Result<Built> {
    let mut files = read(sources.dir)?;
    files.extend(read(&workspace::root().join(SHARED))?);
    let mut hash = DefaultHasher::new();
    (&kernel.release, &files).hash(&mut hash);
    let name = format!("{}-{:016x}", kernel.release, hash.finish());
    let dir = cache.join("modules").join(&name);
    if dir.exists() {
        return Ok(Built { dir });
    }
    let tree = tree()?;
    let fresh = cache.join("modules").join(format!("{name}.new-{}", process::id()));
    let work = match &tree.root {
        Some(root) => foreign::work(root),
        None => fresh.join("build"),
    };
    let built = build_in(&fresh, &work, &files, sources, &tree).and_then(|()| {
        fs::rename(&fresh, &dir).with_context(|| format!("{} cannot be made", dir.display()))
    });
    if built.is_err() {
        // The error that led here says more than one about what is left behind.
        let _ = fs::remove_dir_all(&fresh);
        let _ = fs::remove_dir_all(&work);
        // Somebody else may have built the same at the same time.
        if !dir.exists() {
            built?;
        }
    }
    Ok(Built { dir })
}

/// The files of `dir` by name, in a fixed order.
fn read(dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in dir.read_dir().with_context(|| format!("{} cannot be read", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = fs::read(&path).with_context(|| format!("no {}", path.display()))?;
        files.push((name, bytes));
    }
    files.sort();
    Ok(files)
}

fn build_in(
    dir: &Path,
    work: &Path,
    files: &[(String, Vec<u8>)],
    sources: &Sources<'_>,
    tree: &Tree,
) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    fs::create_dir_all(work).with_context(|| format!("{} cannot be made", work.display()))?;
    for (name, bytes) in files {
        fs::write(work.join(name), bytes).with_context(|| format!("{name} cannot be written"))?;
    }
    let mut make = tree.make(work)?;
    // The types in a module's BTF would need pahole.
    make.args(["CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]);
    // Cargo's own would be taken for this build's.
    make.env_remove("MAKEFLAGS").env_remove("MFLAGS").env_remove("MAKELEVEL");
    run(&mut make).context("the modules do not build")?;
    for (module, debug) in sources.modules {
        let file = format!("{module}.ko");
        if *debug == Debug::Removed {
            run(Command::new("strip").arg("--strip-debug").arg(work.join(&file)))?;
        }
        fs::rename(work.join(&file), dir.join(&file)).with_context(|| format!("no {file}"))?;
    }
    for program in sources.programs {
        let mut compile = Command::new("x86_64-linux-gnu-gcc-12");
        compile.args(["-O2", "-Wall", "-Werror", "-nostdlib", "-static", "-fno-stack-protector"]);
        compile.arg("-o").arg(dir.join(program)).arg(work.join(format!("{program}.c")));
        run(&mut compile).with_context(|| format!("{program} does not build"))?;
    }
    fs::remove_dir_all(work).with_context(|| format!("{} stays", work.display()))
}

/// An unpacked tree that modules are built with.
struct Tree {
    /// The tree.
    dir: PathBuf,
    /// The root directory that it is used in, if not this machine's.
    root: Option<PathBuf>,
}

impl Tree {
    /// `make` for the modules in `work`.
    fn make(&self, work: &Path) -> Result<Command> {
        let (mut make, dir, work) = match &self.root {
            Some(root) => {
                let inside = |path| foreign::inside(root, path);
                (foreign::make(root), inside(&self.dir)?, inside(work)?)
            }
            None => (Command::new("make"), self.dir.clone(), work.to_owned()),
        };
        make.arg("-C").arg(dir).arg(format!("M={}", work.display()));
        Ok(make)
    }
}

/// The tree that modules for `kernel` are built with, fetched if it is not there.
fn fetch(kernel: &Image, cache: &Path) -> Result<Tree> {
    let release = &kernel.release;
    let root = cache.join("headers").join(release);
    let tree = root.join(format!("usr/src/linux-headers-{release}"));
    if let Some(suite) = kernel.suite {
        foreign::fetch(suite, &packages(release)?, cache, &root)?;
        return Ok(Tree { dir: tree, root: Some(root) });
    }
    if !root.exists() {
        let packages = packages(release)?;
        eprintln!("lab: fetching {}", packages.join(", "));
        Apt::try_lists(&cache.join("apt/headers"), |apt| apt.unpack(&packages, &root))?;
    }
    // The package's Makefile names the place that it would be installed in.
    let makefile = tree.join("Makefile");
    let text = fs::read_to_string(&makefile)
        .with_context(|| format!("no {}; remove {}", makefile.display(), root.display()))?;
    let src = root.join("usr/src").display().to_string();
    let moved = relocated(&text, &src);
    if moved != text {
        fs::write(&makefile, moved).with_context(|| format!("no {}", makefile.display()))?;
    }
    Ok(Tree { dir: tree, root: None })
}

/// The packages that hold the headers of `release`, those of all flavours, and kbuild's programs.
fn packages(release: &str) -> Result<Vec<String>> {
    let common = release
        .strip_suffix(FLAVOUR)
        .ok_or_else(|| anyhow!("{release} is no cloud kernel, so its headers are not known"))?;
    Ok(vec![
        format!("linux-headers-{release}"),
        format!("linux-headers-{common}-common"),
        format!("linux-kbuild-{common}"),
    ])
}

/// `makefile` with the installed path of its `include` line replaced by `src`.
fn relocated(makefile: &str, src: &str) -> String {
    makefile
        .lines()
        .map(|line| match line.strip_prefix("include /usr/src/") {
            Some(rest) => format!("include {src}/{rest}\n"),
            None => format!("{line}\n"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_from_three_packages_of_the_same_release() {
        let expected = [
            "linux-headers-6.12.9+deb12-cloud-amd64",
            "linux-headers-6.12.9+deb12-common",
            "linux-kbuild-6.12.9+deb12",
        ];
        assert_eq!(packages("6.12.9+deb12-cloud-amd64").unwrap(), expected);
        assert!(packages("6.12.9+deb12-amd64").is_err());
    }

    #[test]
    fn the_installed_path_is_replaced_once_and_only_there() {
        let makefile = "# kbuild\ninclude /usr/src/linux-headers-6/Makefile\n";
        let moved = relocated(makefile, "/cache/usr/src");
        assert_eq!(moved, "# kbuild\ninclude /cache/usr/src/linux-headers-6/Makefile\n");
        assert_eq!(relocated(&moved, "/cache/usr/src"), moved);
    }
}
