//! `tdtrace decode`: a group, one subcommand a kind of thing to decode.

mod insn;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

/// Decode what a person holds in hand
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    Insn(insn::Args),
}

pub(super) fn run(args: Args) -> Result<ExitCode> {
    match args.kind {
        Kind::Insn(args) => insn::run(&args),
    }
}
