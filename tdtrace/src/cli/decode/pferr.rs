//! `tdtrace decode pferr`: KVM's page fault error codes.

use std::process::ExitCode;

use anyhow::Result;

use super::number::{self, Output};
use crate::decode::pferr;

/// Name the bits of a KVM page fault error code (PFERR_*)
///
/// This is the error_code argument of kvm_mmu_page_fault(). The tracepoint kvm_page_fault shows an
/// exit qualification on Intel: for that use decode qualification --reason ept.
///
/// JSON: "value", "flags", "unknown_bits".
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Error codes: decimal, 0x or 0b
    #[arg(value_name = "VALUE", required = true)]
    values: Vec<String>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    number::run_each(
        &args.values,
        &args.output,
        |text| Ok(pferr::decode(number::parse(text)?)),
        |fault| {
            vec![format!("{}: {}", fault.value, number::flags(&fault.flags, fault.unknown_bits))]
        },
    )
}
