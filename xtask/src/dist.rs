//! `cargo xtask dist`: the one file that is copied into a guest.
//!
//! A guest may be an initramfs without a C library, so the file must not ask for anything: that is
//! read from its ELF headers and not believed of the compiler.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use object::{
    Endianness,
    elf::{DT_NEEDED, EM_X86_64, FileHeader64, PT_INTERP},
    read::elf::{Dyn as _, FileHeader, ProgramHeader as _},
};

use crate::{
    binary,
    progress::run,
    setup::{self, Need},
    workspace,
};

/// Builds tdtrace as one static file and says where it is
///
/// The file needs a Linux kernel on x86-64 and nothing else.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {}

/// Builds the file, checks it and puts it in `dist` of the target directory.
///
/// # Errors
/// When it does not build, is not static or does not run.
pub(crate) fn make() -> Result<()> {
    setup::ensure(Need::Build)?;
    let built = binary::build()?;
    let bytes = fs::read(&built).with_context(|| format!("{} cannot be read", built.display()))?;
    check_static(&bytes).with_context(|| format!("{} is of no use", built.display()))?;
    let file = place(&built)?;
    let version = says(&file)?;
    println!("{}", file.display());
    println!("{} bytes, static, says `{version}`", bytes.len());
    println!("sha256 {}", sha256(&file)?);
    Ok(())
}

/// Copies `built` to where it belongs.
fn place(built: &Path) -> Result<PathBuf> {
    let dir = workspace::target().join("dist");
    fs::create_dir_all(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    let file = dir.join(format!("tdtrace-{}-x86_64-linux", env!("CARGO_PKG_VERSION")));
    // A copy that runs cannot be written to, but replaced.
    let fresh = file.with_extension("new");
    fs::copy(built, &fresh).with_context(|| format!("{} cannot be written", fresh.display()))?;
    fs::rename(&fresh, &file).with_context(|| format!("{} cannot be replaced", file.display()))?;
    Ok(file)
}

/// What `file` says its version is, which must be this one.
fn says(file: &Path) -> Result<String> {
    let out = run(Command::new(file).arg("--version").env_clear())?;
    let said = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    let expected = concat!("tdtrace ", env!("CARGO_PKG_VERSION"));
    ensure!(said == expected, "{} says `{said}` instead of `{expected}`", file.display());
    Ok(said)
}

fn sha256(file: &Path) -> Result<String> {
    let out = run(Command::new("sha256sum").arg("--").arg(file))?;
    let line = String::from_utf8_lossy(&out.stdout);
    let sum = line.split_whitespace().next();
    sum.map(str::to_owned).ok_or_else(|| anyhow!("sha256sum said nothing"))
}

/// Whether the kernel alone can start the program in `bytes`: it names no interpreter and needs no
/// library.
///
/// # Errors
/// With what it asks for, or when it is no program for x86-64.
fn check_static(bytes: &[u8]) -> Result<()> {
    let header = FileHeader64::<Endianness>::parse(bytes).context("it is no 64-bit ELF file")?;
    let endian = header.endian().context("its byte order is unknown")?;
    let machine = header.e_machine(endian);
    ensure!(machine == EM_X86_64, "it is for machine {machine} and not for x86-64");
    let segments = header.program_headers(endian, bytes).context("its segments cannot be read")?;
    ensure!(!segments.is_empty(), "it has no segments");
    for segment in segments {
        ensure!(segment.p_type(endian) != PT_INTERP, "it asks for an interpreter (PT_INTERP)");
        let dynamic = segment.dynamic(endian, bytes).context("its PT_DYNAMIC cannot be read")?;
        let needed = |entry: &&object::elf::Dyn64<Endianness>| entry.tag(endian) == DT_NEEDED;
        let libraries = dynamic.unwrap_or_default().iter().filter(needed).count();
        ensure!(libraries == 0, "it needs {libraries} shared libraries (DT_NEEDED)");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PT_LOAD: u32 = 1;
    const PT_DYNAMIC: u32 = 2;

    /// A program of which all segments hold `words`.
    fn program(machine: u16, segments: &[u32], words: &[u64]) -> Vec<u8> {
        let count = u16::try_from(segments.len()).unwrap();
        let contents = 64 + 56 * u64::from(count);
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(16, 0);
        bytes.extend(2u16.to_le_bytes());
        bytes.extend(machine.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        [0u64, 64, 0].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes.extend(0u32.to_le_bytes());
        [64, 56, count, 64, 0, 0].iter().for_each(|half| bytes.extend(half.to_le_bytes()));
        for kind in segments {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(4u32.to_le_bytes());
            let size = 8 * words.len() as u64;
            for word in [contents, 0, 0, size, size, 8] {
                bytes.extend(word.to_le_bytes());
            }
        }
        words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        bytes
    }

    /// DT_DEBUG and the end, as a static position-independent program has them.
    const NOTHING_NEEDED: &[u64] = &[21, 0, 0, 0];

    #[test]
    fn a_program_that_asks_for_nothing_is_static() {
        check_static(&program(EM_X86_64, &[PT_LOAD], &[])).unwrap();
        check_static(&program(EM_X86_64, &[PT_LOAD, PT_DYNAMIC], NOTHING_NEEDED)).unwrap();
    }

    #[test]
    fn an_interpreter_or_a_library_is_named() {
        let wrong = |segments: &[u32], words: &[u64]| {
            check_static(&program(EM_X86_64, segments, words)).unwrap_err().to_string()
        };
        assert!(wrong(&[PT_LOAD, PT_INTERP], NOTHING_NEEDED).contains("PT_INTERP"));
        assert!(wrong(&[PT_DYNAMIC], &[1, 5, 1, 9, 0, 0]).contains("2 shared libraries"));
    }

    #[test]
    fn this_test_is_a_program_of_this_machine_and_not_static() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        let error = check_static(&own).unwrap_err().to_string();
        assert!(error.contains("PT_INTERP") || error.contains("DT_NEEDED"), "{error}");
    }

    #[test]
    fn what_is_no_program_for_this_machine_is_refused() {
        assert!(check_static(b"#!/bin/sh\n").is_err());
        assert!(check_static(&program(EM_X86_64, &[], &[])).is_err());
        assert!(
            check_static(&program(183, &[PT_LOAD], &[])).unwrap_err().to_string().contains("183")
        );
        let whole = program(EM_X86_64, &[PT_LOAD, PT_DYNAMIC], NOTHING_NEEDED);
        for cut in 0..whole.len() {
            assert!(check_static(&whole[..cut]).is_err(), "cut at {cut}");
        }
    }
}
