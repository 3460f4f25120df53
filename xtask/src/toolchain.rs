//! The toolchain of the eBPF crate: what `cargo xtask setup` found or installed, and how
//! `tdtrace/build.rs` reads it back.
//!
//! The record is a file of `key=value` lines in the cache directory, so that a second clone finds
//! what the first one installed.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};

/// The bpf-linker release that set-up installs.
pub const BPF_LINKER_VERSION: &str = "0.13.0";

/// The target of the eBPF crate.
pub const TARGET: &str = "bpfel-unknown-none";

/// LLVM majors that [`BPF_LINKER_VERSION`] can be built for (its `llvm-NN` features).
pub const BPF_LINKER_LLVM: [u32; 3] = [21, 22, 23];

/// The compiler and linker of the eBPF crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EbpfToolchain {
    /// The rustc that compiles the crate; it has its `rust-src`.
    pub rustc: PathBuf,
    /// The cargo that belongs to [`Self::rustc`].
    pub cargo: PathBuf,
    /// The bpf-linker built for the LLVM of [`Self::rustc`].
    pub bpf_linker: PathBuf,
    /// What `rustc -vV` printed when the record was written; a different answer makes it stale.
    pub rustc_version: String,
}

/// The target directory of the eBPF crate for a build script with this `OUT_DIR`: `ebpf` in the
/// outer build's.
///
/// It is not the outer one itself, on which cargo would wait for itself, and one for all profiles
/// and features, because none of them changes the eBPF object.
#[must_use]
pub fn ebpf_target_dir(out_dir: &Path) -> PathBuf {
    out_dir
        .ancestors()
        // <target>/<triple>/<profile>/build/<package>/<hash>/out at its deepest.
        .take(7)
        // Cargo marks a target directory that it makes, so that backups leave it out.
        .find(|ancestor| ancestor.join("CACHEDIR.TAG").is_file())
        .unwrap_or(out_dir)
        .join("ebpf")
}

/// Where set-up keeps what it installs: `TDTRACE_CACHE`, else `$XDG_CACHE_HOME/tdtrace`, else
/// `~/.cache/tdtrace`.
///
/// # Errors
/// When none of the three variables is set.
pub fn cache_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("TDTRACE_CACHE") {
        return Ok(dir.into());
    }
    if let Some(dir) = env::var_os("XDG_CACHE_HOME") {
        return Ok(Path::new(&dir).join("tdtrace"));
    }
    let home = env::var_os("HOME")
        .ok_or_else(|| anyhow!("HOME is not set; set TDTRACE_CACHE to a directory"))?;
    Ok(Path::new(&home).join(".cache/tdtrace"))
}

/// `rustc -vV` on one line: release, commit and LLVM version.
///
/// # Errors
/// When `rustc` does not run.
pub fn rustc_version(rustc: &Path) -> Result<String> {
    let out = Command::new(rustc)
        .arg("-vV")
        .output()
        .with_context(|| format!("{} does not run", rustc.display()))?;
    if !out.status.success() {
        bail!("{} -vV: {}", rustc.display(), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).lines().collect::<Vec<_>>().join("; "))
}

impl EbpfToolchain {
    /// The record's file.
    ///
    /// # Errors
    /// As [`cache_dir`].
    pub fn record() -> Result<PathBuf> {
        Ok(cache_dir()?.join("ebpf-toolchain"))
    }

    /// Reads the record and checks that what it names is still there and still the same.
    ///
    /// # Errors
    /// When there is no record, or it is stale; the message says which part.
    pub fn load() -> Result<Self> {
        let record = Self::record()?;
        let text = fs::read_to_string(&record)
            .map_err(|error| anyhow!("{} cannot be read: {error}", record.display()))?;
        let toolchain = Self::parse(&text)?;
        for path in [&toolchain.cargo, &toolchain.bpf_linker] {
            if !path.exists() {
                bail!("{} is gone", path.display());
            }
        }
        if rustc_version(&toolchain.rustc)? != toolchain.rustc_version {
            bail!("{} is another version now", toolchain.rustc.display());
        }
        Ok(toolchain)
    }

    /// Writes the record.
    ///
    /// # Errors
    /// When the cache directory cannot be written.
    pub fn store(&self) -> Result<()> {
        let record = Self::record()?;
        if let Some(dir) = record.parent() {
            fs::create_dir_all(dir)
                .with_context(|| format!("{} cannot be created", dir.display()))?;
        }
        // Another build may be reading it.
        let new = record.with_extension(format!("new-{}", std::process::id()));
        fs::write(&new, self.to_text())
            .and_then(|()| fs::rename(&new, &record))
            .with_context(|| format!("{} cannot be written", record.display()))
    }

    /// The command that builds the eBPF crate; the caller adds `--target-dir`.
    #[must_use]
    pub fn build(&self) -> Command {
        let mut command = Command::new(&self.cargo);
        command.args(["build", "--quiet"]);
        self.complete(command)
    }

    /// The command that runs clippy on the eBPF crate, as [`Self::build`] builds it.
    #[must_use]
    pub fn clippy(&self) -> Command {
        // The one beside the compiler: rustup's proxy would take the active toolchain's.
        let mut command = Command::new(self.rustc.with_file_name("cargo-clippy"));
        command.arg("clippy").env("CARGO", &self.cargo);
        self.complete(command)
    }

    fn complete(&self, mut command: Command) -> Command {
        command
            .args(["--package", "tdtrace-ebpf", "--release", "--locked"])
            .args(["-Z", "build-std=core", "--target", TARGET])
            .env("RUSTC", &self.rustc)
            // build-std is unstable; this opens it in a stable compiler.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", self.rustflags())
            // Set by a cargo that runs clippy or is itself wrapped; they are for the outer build.
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER")
            .env_remove("CARGO_BUILD_TARGET");
        command
    }

    /// Debug information becomes the object's BTF; the target architecture selects `pt_regs`.
    fn rustflags(&self) -> String {
        [
            "--cfg=bpf_target_arch=\"x86_64\"",
            "-Cdebuginfo=2",
            &format!("-Clinker={}", self.bpf_linker.display()),
            "-Clink-arg=--btf",
        ]
        .join("\x1f")
    }

    fn to_text(&self) -> String {
        format!(
            "rustc={}\ncargo={}\nbpf_linker={}\nrustc_version={}\n",
            self.rustc.display(),
            self.cargo.display(),
            self.bpf_linker.display(),
            self.rustc_version
        )
    }

    fn parse(text: &str) -> Result<Self> {
        let get = |key: &str| {
            text.lines()
                .find_map(|line| line.split_once('=').filter(|(k, _)| *k == key))
                .map(|(_, value)| value.to_owned())
                .ok_or_else(|| anyhow!("the set-up record lacks `{key}`"))
        };
        Ok(Self {
            rustc: get("rustc")?.into(),
            cargo: get("cargo")?.into(),
            bpf_linker: get("bpf_linker")?.into(),
            rustc_version: get("rustc_version")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let toolchain = EbpfToolchain {
            rustc: "/opt/rust/bin/rustc".into(),
            cargo: "/opt/rust/bin/cargo".into(),
            bpf_linker: "/opt/linker=new/bpf-linker".into(),
            rustc_version: "rustc 1.95.0; LLVM version: 22.1.2".into(),
        };
        assert_eq!(EbpfToolchain::parse(&toolchain.to_text()).unwrap(), toolchain);
    }

    #[test]
    fn all_profiles_share_one_directory_for_the_ebpf_crate() {
        let target = tempfile::tempdir().unwrap();
        let out_dir = target.path().join("debug/build/tdtrace-1/out");
        fs::create_dir_all(&out_dir).unwrap();
        assert_eq!(ebpf_target_dir(&out_dir), out_dir.join("ebpf"));
        fs::write(target.path().join("CACHEDIR.TAG"), "").unwrap();
        assert_eq!(ebpf_target_dir(&out_dir), target.path().join("ebpf"));
    }

    #[test]
    fn a_record_without_a_key_is_refused_by_name() {
        let error = EbpfToolchain::parse("rustc=/a\ncargo=/b\n").unwrap_err().to_string();
        assert!(error.contains("bpf_linker"), "{error}");
    }
}
