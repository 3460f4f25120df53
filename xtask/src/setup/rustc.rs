//! Which rustc builds the eBPF crate, and its library sources.
//!
//! bpf-linker has to read the LLVM bitcode that rustc writes, so what decides is the LLVM major of
//! rustc: bpf-linker must know it and its development files must be there.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};
use xtask::toolchain::{self, BPF_LINKER_LLVM};

use super::{Plan, State, llvm};
use crate::{packages, progress, workspace};

/// The release that is installed when the active rustc does not fit.
pub(crate) const PINNED: &str = "1.95.0";

/// The LLVM major of [`PINNED`].
const PINNED_LLVM: u32 = 22;

/// Debian's current rustc, which it keeps for web browsers, with its sources and cargo.
const DISTRIBUTION: [&str; 3] = ["rustc-web", "rust-web-src", "cargo-web"];

/// A compiler and what it says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Rustc {
    /// The compiler itself, not rustup's proxy.
    pub(crate) path: PathBuf,
    /// The cargo beside it.
    pub(crate) cargo: PathBuf,
    pub(crate) sysroot: PathBuf,
    /// [`toolchain::rustc_version`].
    pub(crate) version_line: String,
    pub(crate) version: Version,
}

/// The parts of `rustc -vV` that set-up decides by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) release: String,
    /// The platform it runs on, for example `x86_64-unknown-linux-gnu`.
    pub(crate) host: String,
    /// The LLVM major; 0 for a rustc without LLVM.
    pub(crate) llvm: u32,
}

impl Version {
    fn parse(line: &str) -> Result<Self> {
        let get = |key: &str| {
            line.split("; ").find_map(|part| part.strip_prefix(key)?.strip_prefix(": "))
        };
        let release = get("release").ok_or_else(|| anyhow!("rustc -vV names no release"))?;
        let host = get("host").ok_or_else(|| anyhow!("rustc -vV names no host"))?;
        let llvm = get("LLVM version").and_then(|v| v.split('.').next()?.parse().ok());
        Ok(Self { release: release.into(), host: host.into(), llvm: llvm.unwrap_or(0) })
    }

    /// `(1, 95)` of `1.95.0-nightly`.
    pub(crate) fn minor(&self) -> (u32, u32) {
        let mut parts = self.release.split('.').map(|part| part.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }
}

impl Rustc {
    /// Asks the compiler that `program` runs, which may be rustup's proxy.
    pub(crate) fn ask(program: &Path) -> Result<Self> {
        let out = Command::new(program)
            .args(["--print", "sysroot"])
            .output()
            .with_context(|| format!("{} does not run", program.display()))?;
        if !out.status.success() {
            bail!("{}: {}", program.display(), String::from_utf8_lossy(&out.stderr).trim());
        }
        let sysroot = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim());
        let own = |name: &str| Some(sysroot.join("bin").join(name)).filter(|path| path.is_file());
        let path = own("rustc").unwrap_or_else(|| program.to_owned());
        let version_line = toolchain::rustc_version(&path)?;
        Ok(Self {
            version: Version::parse(&version_line)?,
            cargo: own("cargo").unwrap_or_else(|| workspace::cargo_path().into()),
            path,
            sysroot,
            version_line,
        })
    }

    /// The compiler that cargo uses here.
    pub(crate) fn active() -> Result<Self> {
        Self::ask(Path::new(&env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())))
    }

    /// Whether its library sources are there.
    pub(crate) fn has_source(&self) -> bool {
        self.sysroot.join("lib/rustlib/src/rust/library/core").is_dir()
    }

    /// The name rustup knows it by; `None` for a compiler that rustup did not install.
    pub(crate) fn rustup_name(&self) -> Option<&str> {
        let in_rustup = self.sysroot.parent()?.file_name()? == "toolchains";
        self.sysroot.file_name()?.to_str().filter(|_| in_rustup)
    }

    /// `1.95.0 with LLVM 22`.
    pub(crate) fn describe(&self) -> String {
        format!("{} with LLVM {}", self.version.release, self.version.llvm)
    }
}

/// Whether the development files of an LLVM major can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Availability {
    Installed,
    Installable,
    /// No package lists, or a distribution without apt.
    Unknown,
    Absent,
}

/// The compiler that set-up goes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Active,
    Pinned,
    Distribution,
}

/// Chooses the compiler; `None` when none can work.
fn choose(
    active_llvm: u32,
    llvm: impl Fn(u32) -> Availability,
    rustup: bool,
    distribution: bool,
) -> Option<Choice> {
    let ready = |major| matches!(llvm(major), Availability::Installed | Availability::Installable);
    let known = BPF_LINKER_LLVM.contains(&active_llvm);
    if known && ready(active_llvm) {
        Some(Choice::Active)
    } else if rustup && ready(PINNED_LLVM) {
        Some(Choice::Pinned)
    } else if distribution {
        Some(Choice::Distribution)
    } else if known && llvm(active_llvm) == Availability::Unknown {
        Some(Choice::Active)
    } else if rustup && llvm(PINNED_LLVM) == Availability::Unknown {
        Some(Choice::Pinned)
    } else {
        None
    }
}

fn choice(plan: &Plan) -> Result<Choice> {
    let active = plan.active.version.llvm;
    choose(active, llvm::availability, rustup().is_some(), distribution_fits()).ok_or_else(|| {
        anyhow!(
            "no compiler fits: rustc {} has LLVM {active}, bpf-linker {} knows {BPF_LINKER_LLVM:?}, \
             and apt has neither llvm-{PINNED_LLVM}-dev nor {}",
            plan.active.version.release,
            toolchain::BPF_LINKER_VERSION,
            DISTRIBUTION[0],
        )
    })
}

/// Whether the distribution's rustc is at least this workspace's oldest.
fn distribution_fits() -> bool {
    packages::has_apt()
        && packages::candidate(DISTRIBUTION[0]).is_some_and(|version| {
            let version = Version { release: version, host: String::new(), llvm: 0 };
            version.minor() >= (1, 95)
        })
}

fn rustup() -> Option<PathBuf> {
    workspace::program("rustup")
}

/// rustup, told not to install a toolchain that is merely named.
fn rustup_command() -> Result<Command> {
    let mut command = Command::new(rustup().ok_or_else(|| anyhow!("rustup is not installed"))?);
    command.env("RUSTUP_AUTO_INSTALL", "0");
    Ok(command)
}

/// The pinned release, when rustup already has it.
fn pinned() -> Option<Rustc> {
    let out =
        rustup_command().ok()?.args(["which", "rustc", "--toolchain", PINNED]).output().ok()?;
    out.status.success().then_some(())?;
    Rustc::ask(Path::new(String::from_utf8_lossy(&out.stdout).trim())).ok()
}

/// State of the step: the compiler is chosen and installed.
pub(super) fn state(plan: &Plan) -> State {
    match &plan.compiler {
        Some(compiler) => State::Done(compiler.describe()),
        None => State::Missing(match choice(plan) {
            Ok(Choice::Distribution) => format!("{} is to be installed", DISTRIBUTION[0]),
            Ok(_) => format!("{PINNED} is to be installed"),
            Err(error) => error.to_string(),
        }),
    }
}

/// The compiler that needs no installing, when there is one.
pub(super) fn find(plan: &Plan) -> Option<Rustc> {
    match choice(plan).ok()? {
        Choice::Active => Some(plan.active.clone()),
        Choice::Pinned => pinned(),
        Choice::Distribution => {
            let compiler = Rustc::ask(Path::new("/usr/bin/rustc")).ok()?;
            (packages::installed(DISTRIBUTION[0]) && compiler.has_source()).then_some(compiler)
        }
    }
}

/// Installs the chosen compiler.
pub(super) fn act(plan: &mut Plan, prefix: &str) -> Result<()> {
    // The choice depends on what apt has.
    if packages::has_apt() && packages::lists_are_stale() && workspace::is_root() {
        packages::update(prefix)?;
        plan.compiler = find(plan);
        if plan.compiler.is_some() {
            return Ok(());
        }
    }
    if choice(plan)? == Choice::Distribution {
        return from_distribution(plan, prefix);
    }
    let mut command = rustup_command()?;
    command.args(["toolchain", "install", PINNED, "--no-self-update", "--profile", "minimal"]);
    command.args(["--component", "rust-src", "--component", "clippy"]);
    progress::run_line(&format!("{prefix}installing {PINNED}"), command)
        .or_else(|error| from_distribution(plan, prefix).map_err(|_| error))?;
    if plan.compiler.is_none() {
        plan.compiler = pinned();
    }
    Ok(())
}

/// State of the step: the library sources of the chosen compiler are there.
pub(super) fn source_state(plan: &Plan) -> State {
    match &plan.compiler {
        Some(compiler) if compiler.has_source() => State::Done("there".into()),
        Some(compiler) => State::Missing(format!("not in {}", compiler.sysroot.display())),
        None => State::Missing("there is no compiler yet".into()),
    }
}

/// Adds the library sources, through rustup or else the distribution.
pub(super) fn source_act(plan: &mut Plan, prefix: &str) -> Result<()> {
    let compiler = plan.compiler()?;
    let Some(name) = compiler.rustup_name() else {
        return packages::install(prefix, &[source_package().into()]);
    };
    let mut command = rustup_command()?;
    command.args(["component", "add", "rust-src", "--toolchain", name]);
    progress::run_line(&format!("{prefix}adding the component"), command)
        .or_else(|error| from_distribution(plan, prefix).map_err(|_| error))
}

fn from_distribution(plan: &mut Plan, prefix: &str) -> Result<()> {
    if !distribution_fits() {
        bail!("apt has no {} of 1.95 or later", DISTRIBUTION[0]);
    }
    packages::install(prefix, &DISTRIBUTION.map(String::from))?;
    let compiler = Rustc::ask(Path::new("/usr/bin/rustc"))?;
    println!("{prefix}rustc {} from the distribution instead", compiler.describe());
    plan.compiler = Some(compiler);
    Ok(())
}

/// The package with the sources of the distribution's rustc.
fn source_package() -> &'static str {
    if packages::installed(DISTRIBUTION[0]) { DISTRIBUTION[1] } else { "rust-src" }
}

/// What the user can do for the compiler.
pub(super) fn by_hand(plan: &Plan) -> String {
    match choice(plan) {
        Ok(Choice::Distribution) => packages::install_command(&DISTRIBUTION.map(String::from)),
        Err(_) if packages::has_apt() && packages::lists_are_stale() => {
            "sudo apt-get update && cargo xtask setup".into()
        }
        _ => format!(
            "rustup toolchain install {PINNED} --profile minimal --component rust-src --component clippy"
        ),
    }
}

/// What the user can do for the library sources.
pub(super) fn source_by_hand(plan: &Plan) -> String {
    match plan.compiler.as_ref().map(Rustc::rustup_name) {
        Some(Some(name)) => format!("rustup component add rust-src --toolchain {name}"),
        Some(None) if packages::has_apt() => packages::install_command(&[source_package().into()]),
        Some(None) => "install your distribution's package of the Rust library sources".into(),
        None => by_hand(plan),
    }
}

#[cfg(test)]
mod tests {
    use super::{Availability::*, *};

    const LINE: &str = "rustc 1.95.0 (59807616e 2026-04-14); binary: rustc; \
                        host: x86_64-unknown-linux-gnu; release: 1.95.0; LLVM version: 22.1.2";

    #[test]
    fn the_version_is_read_from_rustc() {
        let version = Version::parse(LINE).unwrap();
        assert_eq!((version.release.as_str(), version.llvm), ("1.95.0", 22));
        assert_eq!(version.host, "x86_64-unknown-linux-gnu");
    }

    #[test]
    fn a_rustc_without_llvm_has_major_zero_and_one_without_release_is_refused() {
        assert_eq!(Version::parse("release: 1.96.0; host: x").unwrap().llvm, 0);
        let error = Version::parse("host: x").unwrap_err().to_string();
        assert!(error.contains("release"), "{error}");
    }

    #[test]
    fn the_minor_release_is_compared_as_numbers() {
        let of = |release: &str| {
            Version { release: release.into(), host: String::new(), llvm: 0 }.minor()
        };
        assert!(of("1.100.0") > of("1.95.0"));
        assert_eq!(of("1.97.0-nightly"), (1, 97));
        assert!(of("1.96.0+dfsg1-1~deb12u2") > (1, 95));
    }

    #[test]
    fn the_active_compiler_is_taken_when_its_llvm_is_known_and_can_be_had() {
        assert_eq!(choose(22, |_| Installed, true, true), Some(Choice::Active));
        assert_eq!(choose(21, |_| Installable, false, false), Some(Choice::Active));
    }

    #[test]
    fn an_llvm_that_bpf_linker_does_not_know_leads_to_the_pinned_compiler() {
        assert_eq!(choose(99, |_| Installed, true, true), Some(Choice::Pinned));
        assert_eq!(choose(20, |_| Installed, true, true), Some(Choice::Pinned));
        assert_eq!(choose(0, |_| Installed, true, false), Some(Choice::Pinned));
    }

    #[test]
    fn an_llvm_without_development_files_leads_to_the_pinned_compiler() {
        let only_22 = |major| if major == 22 { Installable } else { Absent };
        assert_eq!(choose(23, only_22, true, true), Some(Choice::Pinned));
    }

    #[test]
    fn without_rustup_the_distribution_is_asked() {
        assert_eq!(choose(99, |_| Installed, false, true), Some(Choice::Distribution));
        assert_eq!(choose(22, |_| Absent, true, true), Some(Choice::Distribution));
    }

    #[test]
    fn without_package_lists_the_active_compiler_is_hoped_for() {
        assert_eq!(choose(22, |_| Unknown, true, false), Some(Choice::Active));
        assert_eq!(choose(99, |_| Unknown, true, false), Some(Choice::Pinned));
    }

    #[test]
    fn nothing_is_chosen_when_nothing_can_work() {
        assert_eq!(choose(22, |_| Absent, true, false), None);
        assert_eq!(choose(99, |_| Installed, false, false), None);
    }

    #[test]
    fn only_a_toolchain_of_rustup_has_a_rustup_name() {
        let at = |sysroot: &str| Rustc {
            path: "rustc".into(),
            cargo: "cargo".into(),
            sysroot: sysroot.into(),
            version_line: String::new(),
            version: Version::parse(LINE).unwrap(),
        };
        let rustup = at("/root/.rustup/toolchains/stable-x86_64-unknown-linux-gnu");
        assert_eq!(rustup.rustup_name(), Some("stable-x86_64-unknown-linux-gnu"));
        assert_eq!(at("/usr").rustup_name(), None);
    }

    #[test]
    fn the_active_compiler_of_this_build_can_be_asked() {
        let active = Rustc::active().unwrap();
        assert!(active.path.is_absolute(), "{}", active.path.display());
        assert!(active.version.minor() >= (1, 95));
    }
}
