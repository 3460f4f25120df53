//! Builds the eBPF crate with the toolchain that `cargo xtask setup` recorded and leaves the
//! object in `OUT_DIR`, where `tdtrace` embeds it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use xtask::toolchain::EbpfToolchain;

const TARGET: &str = "bpfel-unknown-none";

fn main() {
    if let Err(error) = build() {
        println!("cargo::error={}", format!("{error:#}").replace('\n', "\ncargo::error="));
    }
}

fn build() -> Result<()> {
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the crate is not in its workspace")?;
    for input in ["tdtrace-ebpf", "tdtrace-common", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", root.join(input).display());
    }
    for variable in ["TDTRACE_CACHE", "XDG_CACHE_HOME", "HOME"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    println!("cargo:rerun-if-changed={}", EbpfToolchain::record()?.display());

    let toolchain = EbpfToolchain::load()
        .context("the eBPF toolchain is not set up; run `cargo xtask setup` first")?;
    // A target directory of its own: cargo would wait for itself on the outer one.
    let target_dir = out_dir.join("ebpf");
    let mut cargo = Command::new(&toolchain.cargo);
    cargo
        .current_dir(root)
        .args(["build", "--package", "tdtrace-ebpf", "--release", "--locked", "--quiet"])
        .args(["-Z", "build-std=core", "--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        .env("RUSTC", &toolchain.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&toolchain))
        // Set by a cargo that runs clippy or is itself wrapped; they are for the outer build.
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CARGO_BUILD_TARGET");
    let output =
        cargo.output().with_context(|| format!("{} does not run", toolchain.cargo.display()))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("the eBPF crate does not build:\n{messages}");
    }
    for line in messages.lines() {
        println!("cargo:warning={line}");
    }
    let object = target_dir.join(TARGET).join("release/tdtrace-ebpf");
    fs::copy(&object, out_dir.join("tdtrace-ebpf.o"))
        .with_context(|| format!("{} cannot be copied", object.display()))?;
    Ok(())
}

/// Debug information becomes the object's BTF; the target architecture selects `pt_regs`.
fn rustflags(toolchain: &EbpfToolchain) -> String {
    [
        "--cfg=bpf_target_arch=\"x86_64\"",
        "-Cdebuginfo=2",
        &format!("-Clinker={}", toolchain.bpf_linker.display()),
        "-Clink-arg=--btf",
    ]
    .join("\x1f")
}
