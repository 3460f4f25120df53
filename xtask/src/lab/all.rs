//! `lab all`: every scenario on every kernel, one after the other, and a table of what came of it. What
//! fails does not keep the rest from running.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{ValueEnum as _, builder::PossibleValuesParser};

use super::{
    attach,
    guest::{self, Way},
    kernel::Series,
    reload, svm, tdx_host, verdicts,
};
use crate::progress;

/// A scenario, with the options of one kernel.
type Scenario = fn(super::Options) -> Result<()>;

/// What runs on every kernel.
const SCENARIOS: [(&str, Scenario); 6] = [
    ("attach", |options| attach::run(&options)),
    ("svm", |options| svm::run(&options)),
    ("reload", |options| reload::run(&options)),
    ("guest", |options| guest::run(&guest::Args::compared(options, Way::Fentry))),
    ("guest-kprobe", |options| guest::run(&guest::Args::compared(options, Way::Kprobe))),
    ("guest-no-btf", |options| guest::run(&guest::Args::compared(options, Way::NoBtf))),
];

/// What boots no kernel, and runs once.
const VERDICTS: &str = "verdicts";

/// What boots a kernel of its own, and runs once. Its first run builds that kernel.
const TDX_HOST: &str = "tdx-host";

/// What all scenarios can be told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Scenarios to leave out, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "NAME", value_parser = names())]
    without: Vec<String>,
    /// Seconds after which a VM is killed
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(20..))]
    timeout: u64,
    /// Fetch the kernels again even if they are in the cache
    #[arg(long)]
    refresh: bool,
}

fn names() -> PossibleValuesParser {
    let names = SCENARIOS.iter().map(|(name, _)| *name);
    PossibleValuesParser::new(names.chain([VERDICTS, TDX_HOST]))
}

/// One run of a scenario.
struct Check {
    name: &'static str,
    kernel: String,
    run: Box<dyn Fn() -> Result<()>>,
}

/// What came of a check.
struct Outcome {
    name: &'static str,
    kernel: String,
    took: Duration,
    result: Result<()>,
}

/// Runs them all.
///
/// # Errors
/// When one of them failed; the table says which.
pub(super) fn run(options: &Options) -> Result<()> {
    let outcomes: Vec<_> = checks(options).iter().map(run_check).collect();
    println!("\n{}", table(&outcomes));
    let failed = outcomes.iter().filter(|outcome| outcome.result.is_err()).count();
    if failed > 0 {
        bail!("{failed} of {} failed", outcomes.len());
    }
    Ok(())
}

fn checks(options: &Options) -> Vec<Check> {
    let wanted = |name: &str| options.without.iter().all(|without| without != name);
    let mut checks = Vec::new();
    for kernel in Series::value_variants() {
        // Fetched once, by the first that runs.
        let mut refresh = options.refresh;
        for (name, scenario) in SCENARIOS.into_iter().filter(|(name, _)| wanted(name)) {
            let options = super::Options {
                kernel: *kernel,
                timeout: options.timeout,
                refresh: std::mem::take(&mut refresh),
                tdtrace: None,
            };
            let run = Box::new(move || scenario(options.clone()));
            checks.push(Check { name, kernel: kernel.name(), run });
        }
    }
    if wanted(TDX_HOST) {
        let timeout = options.timeout;
        let run = Box::new(move || tdx_host::run(&tdx_host::Args::compared(timeout)));
        checks.push(Check { name: TDX_HOST, kernel: tdx_host::KERNEL.to_owned(), run });
    }
    if wanted(VERDICTS) {
        let run = Box::new(|| verdicts::run(&verdicts::Options::default()));
        checks.push(Check { name: VERDICTS, kernel: Series::V6_12.name(), run });
    }
    checks
}

fn run_check(check: &Check) -> Outcome {
    println!("\n{} on {}", check.name, check.kernel);
    let began = Instant::now();
    let result = (check.run)();
    if let Err(error) = &result {
        println!("failed: {error:#}");
    }
    Outcome { name: check.name, kernel: check.kernel.clone(), took: began.elapsed(), result }
}

fn table(outcomes: &[Outcome]) -> String {
    let line = |name: &str, kernel: &str, result: &str, took: &str| {
        format!("{name:<14} {kernel:<7} {result:<7} {took:>7}\n")
    };
    let mut text = line("scenario", "kernel", "result", "time");
    for Outcome { name, kernel, took, result } in outcomes {
        let result = if result.is_ok() { "ok" } else { "FAILED" };
        text.push_str(&line(name, kernel, result, &progress::seconds(*took)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(without: &[&str], refresh: bool) -> Options {
        let without = without.iter().map(|name| (*name).to_owned()).collect();
        Options { without, timeout: 20, refresh }
    }

    #[test]
    fn every_scenario_runs_on_every_kernel_and_those_with_their_own_once() {
        let all = checks(&options(&[], false));
        assert_eq!(all.len(), SCENARIOS.len() * Series::value_variants().len() + 2);
        let without = ["svm", VERDICTS, TDX_HOST];
        let some = checks(&options(&without, false));
        assert!(some.iter().all(|check| !without.contains(&check.name)));
        assert_eq!(some.len(), (SCENARIOS.len() - 1) * Series::value_variants().len());
    }

    #[test]
    fn one_that_fails_is_in_the_table_beside_those_that_do_not() {
        let check = |name, run: fn() -> Result<()>| Check {
            name,
            kernel: "6.12".to_owned(),
            run: Box::new(run),
        };
        let checks = [check("svm", || bail!("different")), check("reload", || Ok(()))];
        let table = table(&checks.iter().map(run_check).collect::<Vec<_>>());
        let results: Vec<Vec<&str>> =
            table.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
        let expected = [["scenario", "kernel", "result"], ["svm", "6.12", "FAILED"]];
        assert_eq!(results[..2], expected);
        assert_eq!(results[2], ["reload", "6.12", "ok"]);
    }
}
