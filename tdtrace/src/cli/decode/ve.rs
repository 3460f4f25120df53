//! `tdtrace decode ve`: a TD guest's #VE.

use std::{process::ExitCode, slice};

use anyhow::Result;

use super::{
    number::{self, GpaWidth, Output},
    qualification,
};
use crate::decode::ve::{self, Info, Ve};

/// Say what a TDX guest's kernel does with a #VE
///
/// JSON: "reason" (as of decode exit), "qualification", "io" or "ept" (as of decode qualification),
/// "gla", "gpa" ("value", "sharing", "unknown_bits"), "instruction" ("length", "info"), "user",
/// "fate" (emulated, depends, fault, panic), "kernel", "tdvmcall" ("leaf", "name").
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// VMX exit reason (RCX of TDG.VP.VEINFO.GET): decimal, 0x or 0b
    reason: String,
    /// Exit qualification (RDX)
    qualification: String,
    /// Guest linear address (R8)
    #[arg(requires = "gpa")]
    gla: Option<String>,
    /// Guest physical address with its shared bit (R9)
    gpa: Option<String>,
    /// Instruction length in bits 31:0 and VMX instruction information in bits 63:32 (R10)
    instruction: Option<String>,
    /// The instruction ran in user mode
    #[arg(long)]
    user: bool,
    /// Width of the TD's guest physical addresses, to tell shared from private
    #[arg(long, value_name = "BITS")]
    gpa_width: Option<GpaWidth>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let optional = |text: &Option<String>| text.as_deref().map(number::parse).transpose();
    let next = "give the VMX exit reason, such as 48";
    let info = Info {
        reason: number::parse_u32(&args.reason, "exit reason", next)?,
        qualification: number::parse(&args.qualification)?,
        gla: optional(&args.gla)?,
        gpa: optional(&args.gpa)?,
        instruction: optional(&args.instruction)?,
        user: args.user,
    };
    let ve = ve::decode(&info, args.gpa_width.map(Into::into));
    number::print(slice::from_ref(&ve), &args.output, lines)
}

fn lines(ve: &Ve) -> Vec<String> {
    let mode = if ve.user { "user" } else { "kernel" };
    let mut lines = vec![format!("#VE {} in {mode} mode", number::exit(&ve.reason))];
    if let Some(io) = &ve.io {
        lines.push(format!("qualification: {} {}", ve.qualification, qualification::io(io)));
    } else if let Some(ept) = &ve.ept {
        lines.push(format!("qualification: {} {}", ve.qualification, qualification::ept(ept)));
    } else {
        lines.push(format!("qualification: {}", ve.qualification));
    }
    lines.extend(ve.gla.map(|gla| format!("gla: {gla}")));
    lines.extend(ve.gpa.as_ref().map(|gpa| format!("gpa: {}", number::gpa(gpa))));
    if let Some(instruction) = ve.instruction {
        let undefined = if ve.ept.is_some() { " (undefined for EPT violations)" } else { "" };
        let (length, info) = (instruction.length, instruction.info);
        lines.push(format!("instruction: length {length}{undefined}, information {info}"));
    }
    lines.push(format!("{}: {}", ve.fate.name(), ve.kernel));
    lines.push(match ve.tdvmcall {
        Some(next) => format!("tdvmcall: {} {}", next.leaf, next.name),
        None => "tdvmcall: none".into(),
    });
    lines
}
