//! `tdtrace decode qualification`: exit qualifications.

use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;

use super::number::{self, Output};
use crate::decode::qualification::{self, Cr, Ept, Io};

/// Take a VMX exit qualification apart
///
/// JSON: "value" and "unknown_bits"; for io "size", "direction", "string", "rep", "immediate" and
/// "port"; for ept "flags"; for cr "cr", "access", "register" and "source".
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The exit reason it belongs to
    #[arg(long)]
    reason: Reason,
    /// Exit qualifications: decimal, 0x or 0b
    #[arg(value_name = "VALUE", required = true)]
    values: Vec<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Reason {
    /// Port I/O, reason 30
    Io,
    /// EPT violation, reason 48
    Ept,
    /// Access to a control register, reason 28
    Cr,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let (values, output) = (&args.values, &args.output);
    let parse = number::parse;
    match args.reason {
        Reason::Io => number::run_each(
            values,
            output,
            |text| Ok(qualification::io(parse(text)?)),
            |value| vec![format!("{}: {}", value.value, io(value))],
        ),
        Reason::Ept => number::run_each(
            values,
            output,
            |text| Ok(qualification::ept(parse(text)?)),
            |value| {
                let mut lines = vec![format!("{}: {}", value.value, ept(value))];
                if value.value.0 == 2 {
                    lines.push("of a TD: what KVM puts for every access to private memory".into());
                }
                lines
            },
        ),
        Reason::Cr => number::run_each(
            values,
            output,
            |text| Ok(qualification::cr(parse(text)?)),
            |value| vec![format!("{}: {}", value.value, cr(value))],
        ),
    }
}

/// A port access on one line.
pub(super) fn io(io: &Io) -> String {
    let mut text = format!("{} port {:#x}", io.direction, io.port);
    match io.size {
        Some(1) => text += ", 1 byte",
        Some(size) => text += &format!(", {size} bytes"),
        None => text += ", no valid size",
    }
    for (set, name) in [(io.string, "string"), (io.rep, "rep"), (io.immediate, "immediate")] {
        if set {
            text = text + ", " + name;
        }
    }
    text + &number::unknown(io.unknown_bits)
}

/// An EPT violation on one line.
pub(super) fn ept(ept: &Ept) -> String {
    number::flags(&ept.flags, ept.unknown_bits)
}

fn cr(cr: &Cr) -> String {
    let mut text = format!("{} cr{}", cr.access, cr.cr);
    if let Some(register) = cr.register {
        text = text + ", " + register;
    }
    if let Some(source) = cr.source {
        text += &format!(", source {source:#x}");
    }
    text + &number::unknown(cr.unknown_bits)
}
