//! `cargo xtask test`: all kinds of checks and tests, one line each, and what ran at the end.
//!
//! A kind that cannot run on this machine makes the command fail, unless the user leaves it out by
//! name: nothing is skipped in silence.

mod kinds;
mod output;
mod privileges;

use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use serde_json::Value;

pub(crate) use self::kinds::Kind;
use crate::{
    progress,
    setup::{self, Need, Rustc},
    workspace,
};

/// Does what set-up is missing and runs all tests.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Leave a kind out; may be given several times
    #[arg(long, value_name = "KIND", value_parser = kinds::names(), conflicts_with = "only")]
    without: Vec<String>,
    /// Run this kind and no other; may be given several times
    #[arg(long, value_name = "KIND", value_parser = kinds::names())]
    only: Vec<String>,
}

/// What a kind needs to know.
pub(crate) struct Context {
    /// `cargo metadata` of the workspace.
    metadata: Value,
    /// The compiler that cargo uses here.
    active: Rustc,
}

/// How many tests of a kind passed and failed. A check that is not a test only counts when it
/// fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

/// How a kind ended, for the list at the end.
enum Outcome {
    Ran(Tally),
    LeftOut,
    /// The machine lacks something, which has been said.
    Missing,
}

/// Runs the command.
///
/// Exit codes: 0 when everything ran and passed, or was left out by name; else 1.
///
/// # Errors
/// When set-up fails, or a test is declared wrongly.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let started = Instant::now();
    setup::ensure(Need::Test)?;
    let active = Rustc::active()?;
    let context = Context { metadata: workspace::metadata(&active.version.host)?, active };
    kinds::check_declarations(&context)?;
    let mut outcomes = Vec::new();
    for kind in kinds::ALL.iter().filter(|kind| (kind.exists)(&context)) {
        outcomes.push((kind, run_kind(kind, &context, args)));
    }
    Ok(summary(&outcomes, &progress::seconds(started.elapsed())))
}

fn run_kind(kind: &Kind, context: &Context, args: &Args) -> Outcome {
    let named = |list: &[String]| list.iter().any(|name| name == kind.name);
    if named(&args.without) || !(args.only.is_empty() || named(&args.only)) {
        return Outcome::LeftOut;
    }
    if let Some(what) = (kind.missing)(context) {
        println!("{} … cannot run: {what}", kind.name);
        return Outcome::Missing;
    }
    // The other kinds still run.
    Outcome::Ran((kind.run)(context).unwrap_or_else(|error| {
        println!("{} … failed: {error:#}", kind.name);
        Tally { passed: 0, failed: 1 }
    }))
}

/// Prints what ran and what did not, and `N passed, N failed` as the last line.
fn summary(outcomes: &[(&Kind, Outcome)], elapsed: &str) -> ExitCode {
    let mut total = Tally::default();
    let (mut ran, mut left_out, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for (kind, outcome) in outcomes {
        match outcome {
            Outcome::Ran(tally) => {
                total.passed += tally.passed;
                total.failed += tally.failed;
                ran.push(describe(kind.name, *tally));
            }
            Outcome::LeftOut => left_out.push(kind.name.to_owned()),
            Outcome::Missing => {
                total.failed += 1;
                missing.push(format!("{0} (--without {0} leaves it out)", kind.name));
            }
        }
    }
    println!();
    for (title, list) in [("ran", ran), ("left out", left_out), ("could not run", missing)] {
        if !list.is_empty() {
            println!("{title}: {}", list.join(", "));
        }
    }
    println!("in {elapsed}");
    println!("{} passed, {} failed", total.passed, total.failed);
    if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn describe(name: &str, tally: Tally) -> String {
    match tally {
        Tally { passed: 0, failed: 0 } => name.to_owned(),
        Tally { passed, failed: 0 } => format!("{name} {passed}"),
        Tally { passed: 0, failed } => format!("{name} ({failed} failed)"),
        Tally { passed, failed } => format!("{name} {passed} ({failed} failed)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &'static str) -> Kind {
        Kind { name, exists: |_| true, missing: |_| None, run: |_| Ok(Tally::default()) }
    }

    #[test]
    fn a_kind_that_cannot_run_fails_the_whole() {
        let (unit, kvm) = (kind("unit"), kind("kvm"));
        let ran = || (&unit, Outcome::Ran(Tally { passed: 3, failed: 0 }));
        assert_eq!(summary(&[ran()], "1 s"), ExitCode::SUCCESS);
        assert_eq!(summary(&[ran(), (&kvm, Outcome::LeftOut)], "1 s"), ExitCode::SUCCESS);
        assert_eq!(summary(&[ran(), (&kvm, Outcome::Missing)], "1 s"), ExitCode::FAILURE);
    }

    #[test]
    fn a_failed_test_fails_the_whole() {
        let unit = kind("unit");
        let outcome = Outcome::Ran(Tally { passed: 3, failed: 1 });
        assert_eq!(summary(&[(&unit, outcome)], "1 s"), ExitCode::FAILURE);
    }

    #[test]
    fn a_check_is_listed_without_numbers() {
        assert_eq!(describe("format", Tally::default()), "format");
        assert_eq!(describe("unit", Tally { passed: 7, failed: 0 }), "unit 7");
        assert_eq!(describe("clippy", Tally { passed: 0, failed: 1 }), "clippy (1 failed)");
    }
}
