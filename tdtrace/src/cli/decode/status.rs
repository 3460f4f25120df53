//! `tdtrace decode status`: SEAMCALL statuses.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::number::{self, Output};
use crate::decode::{
    bits::Hex,
    status::{self, Class, Named, Sept, Status},
};

/// Name what a SEAMCALL returned in RAX
///
/// For VP.ENTER that is, on success, a VMX exit reason. For what a TDVMCALL returned use decode
/// tdvmcall --status.
///
/// JSON: "value", "class" (success, information, error, non-recoverable, software), "error",
/// "non_recoverable", "name", "leaf" ("number", "version", "name"), "exit", "operand", "vector",
/// "unknown_bits", "kvm", "sept" ("level", "state").
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Statuses: decimal, 0x or 0b
    #[arg(value_name = "VALUE", required = true)]
    values: Vec<String>,
    /// SEAMCALL leaf that returned it, RAX of the call; 0 is TDH.VP.ENTER
    #[arg(long, value_name = "NUMBER")]
    leaf: Option<String>,
    /// What came back in RDX from a failed S-EPT operation: the entry's level and state
    #[arg(long, value_name = "RDX")]
    details: Option<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Detailed {
    #[serde(flatten)]
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    sept: Option<Sept>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let leaf = args.leaf.as_deref();
    let leaf = leaf
        .map(|text| number::parse_u32(text, "leaf", "give RAX of the call, such as 29"))
        .transpose()?;
    let sept = args.details.as_deref().map(number::parse).transpose()?.map(status::sept);
    ensure!(
        sept.is_none() || args.values.len() == 1,
        "--details belongs to one status, not to {}; decode them one by one",
        args.values.len()
    );
    number::run_each(
        &args.values,
        &args.output,
        |text| Ok(Detailed { status: status::decode(number::parse(text)?, leaf), sept }),
        |detailed| lines(&detailed.status, detailed.sept.as_ref()),
    )
}

fn lines(status: &Status, sept: Option<&Sept>) -> Vec<String> {
    let value = status.value;
    // The name says as much.
    let class = match status.class {
        Class::Success => String::new(),
        class => format!(", {}", class.name()),
    };
    let name = number::name_or_unknown(status.name);
    // Those of the exit reason stand there.
    let rest = status.unknown_bits.0 & !status.exit.as_ref().map_or(0, |exit| exit.unknown_bits.0);
    let rest = number::unknown(Hex(rest));
    let mut lines = vec![format!("{value}: {name}{class}{rest}")];
    if let Some(leaf) = status.leaf {
        let name = number::name_or_unknown(leaf.name);
        let rest = number::unknown(leaf.unknown_bits);
        lines.push(format!("leaf: {} {name}, version {}{rest}", leaf.number, leaf.version));
    }
    if let Some(exit) = &status.exit {
        let only = if status.leaf.is_some() { "" } else { " (if from VP.ENTER)" };
        lines.push(format!("exit reason{only}: {}", number::exit(exit)));
        lines.extend(exit.td.map(|td| format!("of a TD: {td}")));
    }
    if let Some(operand) = status.operand {
        let name = number::name_or_unknown(operand.name);
        lines.push(format!("operand: {:#x} {name}", operand.number));
    }
    if let Some(vector) = status.vector {
        lines.push(format!("exception: vector {vector}"));
    }
    if let Some(sept) = sept {
        let (level, state) = (sept.level, named(sept.state));
        let rest = number::unknown(sept.unknown_bits);
        lines.push(format!("S-EPT entry: level {level}{}, state {state}{rest}", page(level)));
    }
    lines.extend(status.kvm.map(|kvm| format!("kernel: {kvm}")));
    lines
}

fn named(named: Named) -> String {
    format!("{} {}", named.number, number::name_or_unknown(named.name))
}

const fn page(level: u8) -> &'static str {
    match level {
        0 => " (4 KiB)",
        1 => " (2 MiB)",
        2 => " (1 GiB)",
        _ => "",
    }
}
