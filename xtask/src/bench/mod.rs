//! `cargo xtask bench`: what tdtrace costs, as differences and ratios within one run.
//!
//! [`programs`] is the net time of each eBPF program, [`added`] the time that an exit takes longer
//! under tdtrace and under the tools that one would otherwise use ([`observer`]), [`interval`] the
//! statistics. Absolute times belong to the machine and its load; nothing here is a test.

mod added;
mod interval;
mod observer;
mod programs;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::builder::RangedU64ValueParser;
use serde_json::{Value, json};

use self::{
    added::Added,
    observer::{Exit, Workload},
};
use crate::{
    progress,
    setup::{self, Need},
    workspace,
};

/// Measures what tdtrace costs: each program net of an empty one, and each exit.
///
/// Takes about twelve minutes; on a machine that does other work the intervals become wide. Results
/// also go to target/bench/bench.json.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Rounds of each measurement; below 30, small differences are not resolved
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = RangedU64ValueParser::<u32>::new().range(1..=10_000))]
    rounds: u32,
    /// Eight short rounds, to see that it works; marked as such in the result
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Rounds with `--quick`.
const QUICK: u32 = 8;

/// Exits of a run whose time is taken, about half a second.
const EXITS: u64 = 200_000;
const QUICK_EXITS: u64 = 50_000;

/// Runs the command.
///
/// # Errors
/// When this user is not root, or a build, the guest or tdtrace fails.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !workspace::is_root() {
        bail!("measuring eBPF programs takes root; run it as root: sudo -E cargo xtask bench");
    }
    setup::ensure(Need::Run)?;
    let (tdtrace, example) = build()?;
    let dir = workspace::target().join("bench");
    fs::create_dir_all(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    let (rounds, exits) = if args.quick { (QUICK, QUICK_EXITS) } else { (args.rounds, EXITS) };
    let cpu = last_cpu()?;
    let machine = Machine::now(cpu);

    eprintln!("programs: {rounds} rounds on CPU {cpu} …");
    let programs = programs::measure(&example, rounds, cpu)?;
    let mut added = Vec::new();
    for exit in Exit::ALL {
        let workload = Workload::new(tdtrace.clone(), cpu, exit, exits, &dir)?;
        added.push(added::measure(&workload, rounds, |round| {
            if round % 10 == 0 {
                eprintln!("added time, {}: round {} of {rounds} …", exit.name(), round + 1);
            }
        })?);
    }

    let result = json!({
        "schema": 1,
        "quick": args.quick,
        "rounds": rounds,
        "machine": machine.to_json(),
        "programs": programs::to_json(&programs),
        "added": added.iter().map(Added::to_json).collect::<Vec<_>>(),
    });
    let file = dir.join("bench.json");
    fs::write(&file, format!("{result:#}\n"))
        .with_context(|| format!("{} cannot be written", file.display()))?;
    if args.json {
        println!("{result:#}");
    } else {
        println!("{}", machine.to_text(rounds, args.quick));
        println!("{}", programs::to_text(&programs));
        added.iter().for_each(|added| println!("{}", added.to_text()));
        println!("result: {}", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// A release build of tdtrace and of what measures its programs.
fn build() -> Result<(PathBuf, PathBuf)> {
    let mut command = workspace::cargo();
    command.args(["build", "--release", "--locked", "--package", "tdtrace"]);
    command.args(["--bin", "tdtrace", "--example", "bench_programs"]);
    let status = command.status().context("cargo does not run")?;
    if !status.success() {
        bail!("`{}` failed", progress::shell_line(&command));
    }
    let release = workspace::target().join("release");
    Ok((release.join("tdtrace"), release.join("examples/bench_programs")))
}

/// The last CPU that this process may use: interrupts gather at the first ones.
fn last_cpu() -> Result<usize> {
    let status = fs::read_to_string("/proc/self/status").context("/proc is not mounted")?;
    parse_last_cpu(&status).context("/proc/self/status does not say which CPUs may be used")
}

fn parse_last_cpu(status: &str) -> Option<usize> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    list.trim().rsplit([',', '-']).next()?.parse().ok()
}

/// Where and under which load the numbers came about.
struct Machine {
    release: String,
    cpu: usize,
    cpus: usize,
    /// Load of the last minute, before the measurement.
    load: Option<f64>,
}

impl Machine {
    fn now(cpu: usize) -> Self {
        let read = |path: &str| fs::read_to_string(Path::new(path)).unwrap_or_default();
        Self {
            release: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu,
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            load: read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()),
        }
    }

    /// Whether others were at work: their work shares caches and clock, if not the CPU.
    fn is_busy(&self) -> bool {
        self.load.is_none_or(|load| load > 0.5)
    }

    fn to_json(&self) -> Value {
        json!({
            "kernel": self.release,
            "cpu": self.cpu,
            "cpus": self.cpus,
            "load_before": self.load,
            "busy": self.is_busy(),
        })
    }

    fn to_text(&self, rounds: u32, quick: bool) -> String {
        let quick = if quick { ", QUICK: not a result to quote" } else { "" };
        let load = self.load.map_or_else(|| "unknown".to_owned(), |load| load.to_string());
        let busy = if self.is_busy() { ", BUSY: others were at work" } else { "" };
        format!(
            "kernel {}, CPU {} of {}, {rounds} rounds, load {load}{quick}{busy}\n\
             medians, with the interval in which they lie with 95 %\n",
            self.release, self.cpu, self.cpus
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_cpu_is_that_of_the_last_range() {
        let status = |list| format!("Name:\tx\nCpus_allowed_list:\t{list}\n");
        assert_eq!(parse_last_cpu(&status("0-1")), Some(1));
        assert_eq!(parse_last_cpu(&status("0-3,8,10-11")), Some(11));
        assert_eq!(parse_last_cpu(&status("4")), Some(4));
        assert_eq!(parse_last_cpu(""), None);
    }

    #[test]
    fn quick_and_busy_are_said() {
        let machine = |load| Machine { release: "6.12".to_owned(), cpu: 1, cpus: 2, load };
        assert!(!machine(Some(0.1)).to_text(30, false).contains("BUSY"));
        assert!(machine(Some(1.5)).to_text(30, false).contains("BUSY"));
        assert!(machine(None).to_text(8, true).contains("QUICK"));
    }
}
