//! `tdtrace decode tdvmcall`: what a TD asks of its host.

use std::{process::ExitCode, slice};

use anyhow::Result;

use super::number::{self, GpaWidth, Output};
use crate::decode::tdvmcall::{self, Argument, Kind, Registers, Tdvmcall};

/// Name a TDVMCALL and what it asks for, from its registers
///
/// R10 is 0 and the leaf in R11; any other R10 is the number of a KVM hypercall.
///
/// JSON: "kind", "leaf", "name", "arguments" (each "name", "register", "value", "meaning",
/// "sharing", "unknown_bits"), "missing", "unused", "message", "host", "status" ("value", "name",
/// "meaning").
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// R10, R11 and then, as far as known, R12 R13 R14 R15, and RBX RDI RSI R8 R9 RDX of
    /// ReportFatalError: decimal, 0x or 0b
    #[arg(value_name = "REGISTER", required = true, num_args = 2..=12)]
    registers: Vec<String>,
    /// R10 on return
    #[arg(long, value_name = "R10")]
    status: Option<String>,
    /// Width of the TD's guest physical addresses, to tell shared from private
    #[arg(long, value_name = "BITS")]
    gpa_width: Option<GpaWidth>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let mut registers = Registers::default();
    for (register, text) in registers.0.iter_mut().zip(&args.registers) {
        *register = Some(number::parse(text)?);
    }
    let status = args.status.as_deref().map(number::parse).transpose()?;
    let call = tdvmcall::decode(&registers, args.gpa_width.map(Into::into), status);
    number::print(slice::from_ref(&call), &args.output, lines)
}

fn lines(call: &Tdvmcall) -> Vec<String> {
    let kind = match call.kind {
        Kind::Standard => "TDVMCALL",
        Kind::KvmHypercall => "KVM hypercall",
    };
    let name = number::name_or_unknown(call.name);
    let mut lines = vec![format!("{kind} {} ({}): {name}", call.leaf, call.leaf.0)];
    lines.extend(call.arguments.iter().map(argument));
    if !call.missing.is_empty() {
        lines.push(format!("not given: {}", call.missing.join(" ")));
    }
    for unused in &call.unused {
        lines.push(format!("{} {} without a meaning here", unused.register, unused.value));
    }
    lines.extend(call.message.as_ref().map(|message| format!("message: \"{message}\"")));
    lines.extend(call.host.map(|host| format!("host: {host}")));
    if let Some(status) = call.status {
        let meaning = status.meaning.map_or_else(String::new, |meaning| format!(": {meaning}"));
        let name = number::name_or_unknown(status.name);
        lines.push(format!("status: {} {name}{meaning}", status.value));
    }
    lines
}

fn argument(argument: &Argument) -> String {
    let Argument { name, register, value, .. } = argument;
    let meaning = argument.meaning.as_ref().map_or_else(String::new, |text| format!(" ({text})"));
    format!("{register} {name}: {value}{meaning}{}", number::unknown(argument.unknown_bits))
}
