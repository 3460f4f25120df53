//! The lab's own kernel with TDX host code: built once from the distribution's source, then kept
//! without what only the build needed, so that modules can be built for it.

use std::{
    ffi::OsStr,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    lab::{apt::Apt, kernel::Image},
    programs,
    progress::run,
};

/// What the build of the kernel, of its module and of the VMM needs.
pub(super) const NEEDED: &[programs::Program] = &[
    ("gcc", "gcc"),
    ("make", "make"),
    ("strip", "binutils"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("pahole", "pahole"),
    ("rsync", "rsync"),
    ("nice", "coreutils"),
];

/// Libraries that the kernel's build links its programs to: a header of each, and the package.
const LIBRARIES: &[(&str, &str)] =
    &[("/usr/include/libelf.h", "libelf-dev"), ("/usr/include/openssl/ssl.h", "libssl-dev")];

/// The series whose source is built; the module includes headers of its KVM.
pub(in crate::lab) const SERIES: &str = "7.3";
const SUITE: &str = "trixie-backports";

/// The configuration beyond tinyconfig.
const CONFIG: &str = include_str!("../../../lab/tdhost/config");

/// Modules of the kernel that the scenario loads, where the build leaves them.
const MODULES: &[&str] =
    &["virt/lib/irqbypass.ko", "arch/x86/kvm/kvm.ko", "arch/x86/kvm/kvm-intel.ko"];

/// A kernel that is built.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// What it boots with.
    pub(super) image: Image,
    /// The tree that modules are built with.
    pub(super) tree: PathBuf,
    /// Its headers for user space.
    pub(super) include: PathBuf,
}

/// Finds the kernel in `cache` or builds it there, which takes some ten minutes of two CPUs and 4 GB. A
/// build that was broken off is gone on with.
///
/// # Errors
/// When the source cannot be fetched or the build fails: with what it said last.
pub(super) fn kernel(cache: &Path) -> Result<Kernel> {
    let mut hash = DefaultHasher::new();
    (SERIES, CONFIG).hash(&mut hash);
    let dir = cache.join("tdx-host").join(format!("{:016x}", hash.finish()));
    let (source, tree) = (dir.join("source"), dir.join("build"));
    // Written last.
    let release = dir.join("release");
    if !release.exists() {
        if let Some(why) = missing_library() {
            bail!("{why}");
        }
        fetch(cache, &dir, &source)?;
        build(&source, &tree, &dir)?;
        keep(&source, &tree, &dir)?;
        fs::copy(tree.join("include/config/kernel.release"), &release)
            .with_context(|| format!("{} cannot be written", release.display()))?;
    }
    let release = fs::read_to_string(&release)
        .with_context(|| format!("{} cannot be read", release.display()))?;
    let image = Image {
        release: release.trim().to_owned(),
        vmlinuz: dir.join("vmlinuz"),
        modules: dir.join("modules"),
        suite: Some(SUITE),
    };
    Ok(Kernel { image, tree, include: dir.join("headers/include") })
}

/// Installs the libraries that are missing, or says which they are.
fn missing_library() -> Option<String> {
    let missing: Vec<_> = LIBRARIES
        .iter()
        .filter(|(header, _)| !Path::new(header).exists())
        .map(|(_, package)| (*package).to_owned())
        .collect();
    if missing.is_empty() || crate::packages::install("lab: ", &missing).is_ok() {
        return None;
    }
    Some(format!("the kernel needs more: run `{}`", crate::packages::install_command(&missing)))
}

/// The unpacked source as `source`.
fn fetch(cache: &Path, dir: &Path, source: &Path) -> Result<()> {
    if source.exists() {
        return Ok(());
    }
    let package = format!("linux-source-{SERIES}");
    eprintln!("lab: fetching {package}");
    let unpacked = dir.join("package");
    Apt::of_suites(&[SUITE], &cache.join("apt/7"))?
        .unpack(std::slice::from_ref(&package), &unpacked)?;
    let archive = unpacked.join(format!("usr/src/{package}.tar.xz"));
    run(Command::new("tar").arg("-xJf").arg(&archive).arg("-C").arg(dir))?;
    fs::remove_dir_all(&unpacked).with_context(|| format!("{} stays", unpacked.display()))?;
    fs::rename(dir.join(&package), source)
        .with_context(|| format!("{} cannot be put in place", source.display()))
}

/// Configures and builds in `tree`.
fn build(source: &Path, tree: &Path, dir: &Path) -> Result<()> {
    fs::create_dir_all(tree).with_context(|| format!("{} cannot be made", tree.display()))?;
    let fragment = dir.join("config");
    fs::write(&fragment, CONFIG).with_context(|| format!("no {}", fragment.display()))?;
    if !tree.join("include/config/auto.conf").exists() {
        make(source, tree, &["tinyconfig"])?;
        let mut merge = Command::new(source.join("scripts/kconfig/merge_config.sh"));
        run(merge.arg("-m").arg(tree.join(".config")).arg(&fragment).current_dir(tree))?;
        make(source, tree, &["olddefconfig"])?;
        check(tree)?;
    }
    eprintln!("lab: building Linux {SERIES} with TDX host support, once");
    let jobs = thread::available_parallelism().map_or(2, usize::from);
    make(source, tree, &[&format!("-j{jobs}"), "bzImage", "modules"])?;
    let headers = format!("INSTALL_HDR_PATH={}", dir.join("headers").display());
    make(source, tree, &["headers_install", &headers])
}

/// Whether the configuration has what was asked for: kconfig leaves out in silence what it cannot have.
fn check(tree: &Path) -> Result<()> {
    let file = tree.join(".config");
    let made = fs::read_to_string(&file).with_context(|| format!("no {}", file.display()))?;
    let missing = missing(&made, CONFIG);
    if missing.is_empty() {
        return Ok(());
    }
    bail!("the kernel's configuration did not take {}", missing.join(", "))
}

/// The options of `asked` that `made` has otherwise.
fn missing<'a>(made: &str, asked: &'a str) -> Vec<&'a str> {
    let has = |line: &str| made.lines().any(|of_made| of_made == line);
    asked
        .lines()
        .filter(|line| line.starts_with("CONFIG_"))
        .filter(|line| match line.strip_suffix("=n") {
            Some(option) => has(&format!("{option}=y")) || has(&format!("{option}=m")),
            None => !has(line),
        })
        .collect()
}

fn make(source: &Path, tree: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("nice");
    command.args(["-n", "10", "make", "-C"]).arg(source).arg("ARCH=x86");
    command.arg(format!("O={}", tree.display())).args(arguments);
    // Cargo's own would be taken for this build's.
    command.env_remove("MAKEFLAGS").env_remove("MFLAGS").env_remove("MAKELEVEL");
    run(&mut command).map(drop).context("the kernel does not build")
}

/// Puts what boots beside the trees, and takes away from them what modules are not built with.
fn keep(source: &Path, tree: &Path, dir: &Path) -> Result<()> {
    let copy = |from: PathBuf, to: PathBuf| {
        fs::copy(&from, &to).with_context(|| format!("no {}", from.display()))
    };
    copy(tree.join("arch/x86/boot/bzImage"), dir.join("vmlinuz"))?;
    let modules = dir.join("modules");
    fs::create_dir_all(&modules).with_context(|| format!("no {}", modules.display()))?;
    for module in MODULES {
        let from = tree.join(module);
        let name = from.file_name().ok_or_else(|| anyhow!("{module} is no file"))?;
        let to = modules.join(name);
        copy(from.clone(), to.clone())?;
        run(Command::new("strip").arg("--strip-debug").arg(to))?;
    }
    prune(source, Path::new(""), is_source_kept)?;
    prune(tree, Path::new(""), is_object_kept)
}

/// Of the source tree: scripts, makefiles, and the headers that a module of ours includes.
fn is_source_kept(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let has_headers = ["include", "arch/x86", "virt"].iter().any(|dir| path.starts_with(dir));
    path.starts_with("scripts")
        || has_headers && path.extension() == Some(OsStr::new("h"))
        || ["Makefile", "Kbuild", "Kconfig"].iter().any(|kept| name.starts_with(kept))
}

/// Of the build tree: all but objects and what belongs to them.
fn is_object_kept(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let gone = [".o", ".a", ".cmd", ".ko", ".mod", ".mod.c", ".order", ".d"];
    path.starts_with("scripts")
        || !(name.starts_with("vmlinux")
            || name.starts_with("bzImage")
            || gone.iter().any(|end| name.ends_with(end)))
}

/// Removes the files of `root` in its directory `dir` that `is_kept` does not name, by their paths from
/// there on.
fn prune(root: &Path, dir: &Path, is_kept: fn(&Path) -> bool) -> Result<()> {
    let full = root.join(dir);
    for entry in full.read_dir().with_context(|| format!("{} cannot be read", full.display()))? {
        let entry = entry?;
        let path = dir.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            prune(root, &path, is_kept)?;
        } else if kind.is_file() && !is_kept(&path) {
            let file = root.join(&path);
            fs::remove_file(&file).with_context(|| format!("{} stays", file.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_kconfig_left_out_or_forced_are_found() {
        let made = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=m\nCONFIG_D=\"x\"\n";
        let asked = "# words\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_C=n\nCONFIG_D=\"x\"\nCONFIG_E=y\n";
        assert_eq!(missing(made, asked), ["CONFIG_C=n", "CONFIG_E=y"]);
    }

    #[test]
    fn headers_and_makefiles_are_kept_and_sources_and_objects_are_not() {
        let source = |path: &str| is_source_kept(Path::new(path));
        assert!(source("arch/x86/kvm/vmx/tdx.h") && source("scripts/mod/modpost.c"));
        assert!(source("Makefile") && source("scripts/Makefile.build"));
        assert!(!source("arch/x86/kvm/vmx/tdx.c") && !source("drivers/gpu/drm/amd/x.h"));
        let object = |path: &str| is_object_kept(Path::new(path));
        assert!(object("Module.symvers") && object("tools/objtool/objtool"));
        assert!(object("scripts/mod/modpost.o") && object("include/config/auto.conf"));
        assert!(!object("kernel/fork.o") && !object("vmlinux") && !object("fs/.open.o.cmd"));
    }
}
