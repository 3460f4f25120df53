//! What a program costs: run time and runs as the kernel measures them, and its length.
//!
//! The kernel measures only while statistics are on (`BPF_ENABLE_STATS`), for every program of the
//! machine, and the measuring is part of what it measures: compare with an empty program.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use aya::programs::Program;
use serde::Serialize;

use super::object;

/// What a program cost since it was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// The program's name.
    pub name: String,
    /// Runs that were measured, all CPUs together.
    pub runs: u64,
    /// Nanoseconds that those took.
    pub nanoseconds: u64,
    /// Instructions after the verifier has rewritten the program; 0 where the kernel hides it.
    pub instructions: u32,
}

/// Loads a program of so many instructions that never runs. The kernel puts programs one behind the other, so those
/// that are loaded later lie further on while it is there.
///
/// # Errors
/// When the kernel refuses it.
pub fn filler(instructions: u32) -> Result<OwnedFd> {
    // `r0 = 0` and `exit` (RFC 9669).
    const ZERO: u64 = 0xb7;
    const EXIT: u64 = 0x95;
    let mut program = vec![ZERO; instructions as usize];
    program.push(EXIT);
    object::load(&program).context("the kernel refuses a program")
}

/// Bytes of an eBPF instruction.
const INSTRUCTION: u32 = 8;

/// The cost of `program`, which must be loaded; the kernel keeps only 15 bytes of its `name`.
///
/// # Errors
/// When it is not loaded or the kernel does not tell.
pub fn of(name: &str, program: &Program) -> Result<Cost> {
    let info = program.info().context("the kernel says nothing of a program")?;
    let fd = program.fd().context("a program is not loaded")?;
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| format!("{path} cannot be read"))?;
    let number = |field| number(&text, field).with_context(|| format!("{path} has no {field}"));
    Ok(Cost {
        name: name.to_owned(),
        runs: number("run_cnt")?,
        nanoseconds: number("run_time_ns")?,
        instructions: info.size_translated().unwrap_or(0) / INSTRUCTION,
    })
}

/// The number of `field` (`kernel/bpf/syscall.c:bpf_prog_show_fdinfo`).
fn number(fdinfo: &str, field: &str) -> Option<u64> {
    let mut values = fdinfo.lines().filter_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    values.next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_time_and_runs_are_read_from_fdinfo() {
        let text = "prog_id:\t7\nrun_time_ns:\t51234\nrun_cnt:\t600\nrecursion_misses:\t0\n";
        assert_eq!(number(text, "run_time_ns"), Some(51_234));
        assert_eq!(number(text, "run_cnt"), Some(600));
        assert_eq!(number(text, "run"), None);
        assert_eq!(number("run_cnt:\tmany\n", "run_cnt"), None);
    }
}
