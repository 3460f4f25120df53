//! The development files of LLVM that bpf-linker is built against, and bpf-linker itself.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, anyhow, bail};
use xtask::toolchain::{self, BPF_LINKER_VERSION, EbpfToolchain};

use super::{
    Plan, State,
    rustc::{Availability, Rustc},
};
use crate::{packages, progress, workspace};

/// The packages that bpf-linker is built with, for LLVM `major`.
fn package_names(major: u32) -> Vec<String> {
    vec![format!("llvm-{major}-dev"), format!("libpolly-{major}-dev"), "libzstd-dev".into()]
}

/// Where the development files of LLVM `major` are: `LLVM_PREFIX` of the environment, the places
/// where distributions put one major beside another, and what llvm-config in `PATH` says.
fn prefix(major: u32) -> Option<PathBuf> {
    let from_path = [format!("llvm-config-{major}"), "llvm-config".into()]
        .into_iter()
        .filter_map(|name| llvm_config(&workspace::program(&name)?, "--prefix"))
        .map(PathBuf::from);
    env::var_os("LLVM_PREFIX")
        .map(PathBuf::from)
        .into_iter()
        .chain(
            ["/usr/lib/llvm-", "/usr/lib64/llvm", "/usr/lib/llvm", "/usr/lib/llvm/"]
                .map(|start| format!("{start}{major}").into()),
        )
        .chain(from_path)
        .find(|prefix| is_complete(prefix, major))
}

/// Whether `prefix` has headers and an llvm-config of that major.
fn is_complete(prefix: &Path, major: u32) -> bool {
    let version = llvm_config(&prefix.join("bin/llvm-config"), "--version");
    version.is_some_and(|version| has_major(&version, major))
        && llvm_config(&prefix.join("bin/llvm-config"), "--includedir")
            .is_some_and(|directory| Path::new(&directory).join("llvm-c/Core.h").is_file())
}

fn has_major(version: &str, major: u32) -> bool {
    version.split('.').next().and_then(|part| part.parse().ok()) == Some(major)
}

fn llvm_config(program: &Path, question: &str) -> Option<String> {
    let out = Command::new(program).arg(question).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// Whether the development files of LLVM `major` are there or can be installed.
pub(super) fn availability(major: u32) -> Availability {
    if prefix(major).is_some() {
        Availability::Installed
    } else if !packages::has_apt() {
        Availability::Unknown
    } else if packages::candidate(&package_names(major)[0]).is_some() {
        Availability::Installable
    } else if packages::lists_are_stale() {
        Availability::Unknown
    } else {
        Availability::Absent
    }
}

/// State of the step: what is needed to build bpf-linker, unless that is built already.
pub(super) fn state(plan: &Plan) -> State {
    let Ok(compiler) = plan.compiler() else {
        return State::Missing("there is no compiler yet".into());
    };
    let major = compiler.version.llvm;
    if linker_runs(major) {
        return State::Done("not needed, bpf-linker is built".into());
    }
    let Some(prefix) = prefix(major) else {
        return State::Missing(format!("no llvm-config of LLVM {major}"));
    };
    // Elsewhere the build of bpf-linker says what it lacks.
    if packages::has_apt() && prefix.starts_with("/usr") {
        let names = package_names(major);
        let missing: Vec<&str> =
            names.iter().map(String::as_str).filter(|name| !packages::installed(name)).collect();
        if !missing.is_empty() {
            return State::Missing(format!("not installed: {}", missing.join(", ")));
        }
    }
    State::Done(prefix.display().to_string())
}

/// Installs the development files.
pub(super) fn act(plan: &mut Plan, prefix: &str) -> Result<()> {
    let major = plan.compiler()?.version.llvm;
    if !packages::has_apt() {
        bail!("{}", by_hand(plan));
    }
    packages::install(prefix, &package_names(major))
}

/// What the user can do for the development files.
pub(super) fn by_hand(plan: &Plan) -> String {
    let Ok(compiler) = plan.compiler() else { return "cargo xtask setup".into() };
    let major = compiler.version.llvm;
    if packages::has_apt() {
        return packages::install_command(&package_names(major));
    }
    format!(
        "install the development files of LLVM {major} (llvm-config, headers, libLLVM, Polly) and of \
         zstd from your distribution; if they are not found, LLVM_PREFIX=<their prefix> cargo xtask setup"
    )
}

/// Where the bpf-linker for LLVM `major` is installed.
fn linker_root(major: u32) -> Result<PathBuf> {
    Ok(toolchain::cache_dir()?.join(format!("bpf-linker-{BPF_LINKER_VERSION}-llvm{major}")))
}

fn linker_path(major: u32) -> Result<PathBuf> {
    Ok(linker_root(major)?.join("bin/bpf-linker"))
}

/// Whether bpf-linker is there and finds its libraries.
fn linker_runs(major: u32) -> bool {
    linker_path(major).is_ok_and(|path| {
        Command::new(path).arg("--version").output().is_ok_and(|out| {
            out.status.success()
                && String::from_utf8_lossy(&out.stdout).contains(BPF_LINKER_VERSION)
        })
    })
}

/// What `cargo build` is to find.
fn record(compiler: &Rustc) -> Result<EbpfToolchain> {
    Ok(EbpfToolchain {
        rustc: compiler.path.clone(),
        cargo: compiler.cargo.clone(),
        bpf_linker: linker_path(compiler.version.llvm)?,
        rustc_version: compiler.version_line.clone(),
    })
}

/// State of the step: bpf-linker runs, and the record names it and the compiler.
pub(super) fn linker_state(plan: &Plan) -> State {
    let Ok(compiler) = plan.compiler() else {
        return State::Missing("there is no compiler yet".into());
    };
    if !linker_runs(compiler.version.llvm) {
        return State::Missing("not built".into());
    }
    match (EbpfToolchain::load(), record(compiler)) {
        (Ok(stored), Ok(wanted)) if stored == wanted => State::Done("there".into()),
        _ => State::Missing("built, but not recorded for cargo build".into()),
    }
}

/// Builds bpf-linker and writes the record.
pub(super) fn linker_act(plan: &mut Plan, line: &str) -> Result<()> {
    let compiler = plan.compiler()?;
    let major = compiler.version.llvm;
    if !linker_runs(major) {
        progress::run_line(&format!("{line}building (a minute or two)"), install_linker(major)?)?;
        if !linker_runs(major) {
            bail!("{} was built but does not run", linker_path(major)?.display());
        }
    }
    record(compiler)?.store()?;
    println!("{line}recorded for cargo build");
    Ok(())
}

/// `cargo install` of bpf-linker. Without `LLVM_PREFIX` it would take the llvm-config in `PATH`,
/// which is mostly an older one.
fn install_linker(major: u32) -> Result<Command> {
    let prefix = prefix(major).ok_or_else(|| anyhow!("LLVM {major} is not installed"))?;
    let mut command = Command::new(workspace::cargo_path());
    command
        .env("LLVM_PREFIX", prefix)
        .args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--locked", "--force"])
        .args(["--no-default-features", "--features"])
        .arg(format!("llvm-{major}"))
        .arg("--root")
        .arg(linker_root(major)?);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_are_those_of_the_major() {
        assert_eq!(package_names(22), ["llvm-22-dev", "libpolly-22-dev", "libzstd-dev"]);
    }

    #[test]
    fn a_major_is_compared_as_a_number() {
        assert!(has_major("22.1.8", 22));
        assert!(!has_major("2.2", 22));
        assert!(!has_major("220.0.0", 22));
        assert!(!has_major("", 22));
    }

    #[test]
    fn a_directory_without_llvm_config_is_no_prefix() {
        assert!(!is_complete(Path::new("/nonexistent"), 22));
    }

    #[test]
    fn each_linker_has_a_directory_of_its_version_and_llvm() {
        let root = linker_root(21).unwrap();
        assert!(root.ends_with("bpf-linker-0.13.0-llvm21"), "{}", root.display());
    }
}
