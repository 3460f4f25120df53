//! Builds the eBPF crate with the toolchain that `cargo xtask setup` recorded and leaves the
//! object in `OUT_DIR`, where `tdtrace` embeds it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use xtask::toolchain::{EbpfToolchain, TARGET, ebpf_target_dir};

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

    let toolchain = EbpfToolchain::load().map_err(|why| {
        anyhow!("run `cargo xtask setup` first, the eBPF toolchain is not set up ({why:#})")
    })?;
    let target_dir = ebpf_target_dir(&out_dir);
    let mut cargo = toolchain.build();
    cargo.current_dir(root).arg("--target-dir").arg(&target_dir);
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
