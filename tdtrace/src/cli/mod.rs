//! The command line: one file a command, from arguments to exit code.
//!
//! This is the only room that knows clap. Every command returns `anyhow::Result<ExitCode>`; an error
//! is printed here as one sentence with its next step.

mod check;
mod decode;
mod doctor;
mod files;
mod filter;
mod guest;
mod guest_source;
mod record;
mod source;
mod stat;
mod top;
mod workload;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// eBPF and tracing toolkit for Intel TDX: VM exits, #VE and conversions, live.
#[derive(Debug, Parser)]
#[command(name = "tdtrace", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Top(top::Args),
    Stat(stat::Args),
    Record(record::Args),
    Guest(guest::Args),
    Check(check::Args),
    Doctor(doctor::Args),
    Decode(decode::Args),
    Workload(workload::Args),
}

/// Runs the command line of this process.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage; `stat`, `guest stat` and `record` pass on the code of
/// their command; those of `check` are its own ([`crate::check::outcome::End`]).
#[must_use]
pub fn run() -> ExitCode {
    match dispatch(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tdtrace: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Top(args) => top::run(&args),
        Command::Stat(args) => stat::run(&args),
        Command::Record(args) => record::run(&args),
        Command::Guest(args) => guest::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Doctor(args) => doctor::run(args),
        Command::Decode(args) => decode::run(args),
        Command::Workload(args) => workload::run(args),
    }
}
