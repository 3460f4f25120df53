//! `tdtrace decode`: a group, one subcommand a kind of thing to decode.

mod exit;
mod insn;
mod number;
mod pferr;
mod qualification;
mod site;
mod status;
mod tdvmcall;
mod ve;

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
    Exit(exit::Args),
    Qualification(qualification::Args),
    Tdvmcall(tdvmcall::Args),
    Status(status::Args),
    Pferr(pferr::Args),
    Ve(ve::Args),
    Site(site::Args),
}

pub(super) fn run(args: Args) -> Result<ExitCode> {
    match args.kind {
        Kind::Insn(args) => insn::run(&args),
        Kind::Exit(args) => exit::run(&args),
        Kind::Qualification(args) => qualification::run(&args),
        Kind::Tdvmcall(args) => tdvmcall::run(&args),
        Kind::Status(args) => status::run(&args),
        Kind::Pferr(args) => pferr::run(&args),
        Kind::Ve(args) => ve::run(&args),
        Kind::Site(args) => site::run(&args),
    }
}
