//! The commands that set tdtrace up, build, run and test it: `cargo xtask --help`.
//!
//! One file a command; [`workspace`], [`packages`], [`programs`], [`progress`] and [`binary`], the static
//! tdtrace, are what they share. This crate
//! changes the machine only in `setup`, and says so line by line.

mod bench;
mod binary;
mod dist;
mod lab;
mod licences;
mod packages;
mod programs;
mod progress;
mod run;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Sets tdtrace up, builds, runs and tests it.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Setup(setup::Args),
    Run(run::Args),
    Dist(dist::Args),
    Test(test::Args),
    Lab(lab::Args),
    Bench(bench::Args),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Setup(args) => setup::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Dist(dist::Args {}) => dist::make().map(|()| ExitCode::SUCCESS),
        Command::Test(args) => test::run(&args),
        Command::Lab(args) => lab::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Bench(args) => bench::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn arguments_after_two_dashes_belong_to_tdtrace() {
        let cli = Cli::try_parse_from(["xtask", "run", "--", "--demo", "x"]).unwrap();
        let Command::Run(args) = cli.command else { panic!("not run") };
        assert_eq!(args.top, ["--demo", "x"]);
    }
}
