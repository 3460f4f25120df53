//! `tdtrace decode exit`: VMX exit reasons and SVM exit codes.

use std::process::ExitCode;

use anyhow::Result;

use super::number::{self, Output};
use crate::decode::exit;

/// Name a VM exit reason and say what KVM means by it for a TD
///
/// VMX: the basic reason in bits 15:0 and the flags above. A TD's TDVMCALLs appear under the reason
/// of the instruction they stand for.
///
/// JSON: "value", "basic", "name", "flags", "unknown_bits", "td"; with --svm "value" and "name".
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Exit reasons: decimal, 0x or 0b
    #[arg(value_name = "VALUE", required = true)]
    values: Vec<String>,
    /// The values are SVM exit codes
    #[arg(long)]
    svm: bool,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    if args.svm {
        return number::run_each(
            &args.values,
            &args.output,
            |text| Ok(exit::svm(number::parse(text)?)),
            |exit| vec![format!("{}: {}", exit.value, number::name_or_unknown(exit.name))],
        );
    }
    number::run_each(
        &args.values,
        &args.output,
        |text| {
            let next = "for what a SEAMCALL returned use tdtrace decode status";
            Ok(exit::vmx(number::parse_u32(text, "exit reason", next)?))
        },
        |exit| {
            let mut lines = vec![format!("{}: {}", exit.value, number::exit(exit))];
            lines.extend(exit.td.map(|td| format!("of a TD: {td}")));
            lines
        },
    )
}
