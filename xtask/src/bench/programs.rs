//! Net time of each program: what the kernel measured of it, less what it measured of an empty one
//! on the same tracepoint, or run the same way.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::interval::Interval;
use crate::{progress, workspace};

/// What a program may take that counts an event and does not look at the clock, in ns net.
const GOAL: f64 = 12.0;
/// The same for one that takes the time.
const TIMED_GOAL: f64 = 40.0;
/// Programs that take the time.
const TIMED: [&str; 5] =
    ["kvm_exit", "kvm_entry", "kvm_fpu", "kvm_userspace_exit", "kvm_vcpu_wakeup"];
/// What the way of a TD's exit may take in ns, net of an empty program and of one look at the clock.
const TD_GOAL: f64 = 30.0;

/// The goal of program `name`, and whether it is without the clock.
fn goal(name: &str) -> (f64, bool) {
    if name.contains("(TD,") {
        (TD_GOAL, true)
    } else if TIMED.contains(&name.split(' ').next().unwrap_or_default()) {
        (TIMED_GOAL, false)
    } else {
        (GOAL, false)
    }
}

/// One program over all rounds; times in nanoseconds a run.
#[derive(Debug)]
pub(super) struct Program {
    name: String,
    instructions: u64,
    runs: u64,
    /// `None` for a program that did not run here.
    times: Option<Times>,
}

#[derive(Debug)]
struct Times {
    gross: Interval,
    net: Interval,
    empty: Interval,
    clock: Interval,
    /// Net of a program that only reads the clock.
    rest: Interval,
}

/// How often the programs are loaded, each time to another place: where their code comes to lie among the
/// lines of the cache is worth some nanoseconds, and no property of theirs.
const LOADS: u32 = 10;
/// Instructions, of two bytes, by which the places differ: no multiple of a line or a page.
const FURTHER: u32 = 181;

/// Runs `example` for `rounds` rounds in all, with the guest on `cpu`.
///
/// # Errors
/// When it fails; it has said why on standard error.
pub(super) fn measure(example: &Path, rounds: u32, cpu: usize) -> Result<Vec<Program>> {
    let loads = LOADS.min(rounds);
    let mut all = Vec::new();
    for load in 0..loads {
        // All of them, whether they can be shared out evenly or not.
        let share = rounds * (load + 1) / loads - rounds * load / loads;
        let result = run(example, share, cpu, 1 + load * FURTHER)?;
        all.extend_from_slice(workspace::list(&result, "rounds")?);
    }
    parse(&json!({ "rounds": all }))
}

fn run(example: &Path, rounds: u32, cpu: usize, filler: u32) -> Result<Value> {
    let mut command = Command::new(example);
    command.args(["--rounds", &rounds.to_string(), "--cpu", &cpu.to_string()]);
    command.args(["--filler", &filler.to_string()]);
    command.stderr(Stdio::inherit());
    let out = command.output().with_context(|| format!("{} does not run", example.display()))?;
    if !out.status.success() {
        bail!("`{}` failed ({})", progress::shell_line(&command), out.status);
    }
    serde_json::from_slice(&out.stdout).context("the programs' times are no JSON")
}

fn parse(result: &Value) -> Result<Vec<Program>> {
    let rounds = workspace::list(result, "rounds")?;
    let rounds: Vec<_> = rounds
        .iter()
        .map(|round| round.as_array().context("a round is no list"))
        .collect::<Result<_>>()?;
    let first = rounds.first().context("no round was measured")?;
    (0..first.len())
        .map(|index| {
            let rows =
                rounds.iter().map(|round| round.get(index).context("a round lacks a program"));
            program(&rows.collect::<Result<Vec<_>>>()?)
        })
        .collect()
}

/// One program's rows, a round each.
fn program(rows: &[&Value]) -> Result<Program> {
    let first = rows.first().context("no round was measured")?;
    let mut runs = 0;
    let mut times = Vec::new();
    for row in rows {
        runs += count(row, "program", "runs")?;
        let each = |what| {
            Ok::<_, anyhow::Error>((count(row, what, "nanoseconds")?, count(row, what, "runs")?))
        };
        let each = [each("program")?, each("empty")?, each("clock")?];
        if each.iter().all(|(_, runs)| *runs > 0) {
            times.push(each.map(|(nanoseconds, runs)| nanoseconds as f64 / runs as f64));
        }
    }
    let of = |value: fn(&[f64; 3]) -> f64| Interval::of(times.iter().map(value));
    let net = (of(|t| t[0] - t[1]), of(|t| t[2] - t[1]), of(|t| t[0] - t[2]));
    let times = match (of(|t| t[0]), of(|t| t[1]), net) {
        (Some(gross), Some(empty), (Some(net), Some(clock), Some(rest))) => {
            Some(Times { gross, net, empty, clock, rest })
        }
        _ => None,
    };
    Ok(Program {
        name: workspace::text(first, "name").to_owned(),
        instructions: first["instructions"].as_u64().unwrap_or(0),
        runs,
        times,
    })
}

fn count(row: &Value, what: &str, name: &str) -> Result<u64> {
    row[what][name].as_u64().with_context(|| format!("the times have no {name} of {what}"))
}

/// The result file's part.
pub(super) fn to_json(programs: &[Program]) -> Value {
    let rows = programs.iter().map(|program| {
        let times = program.times.as_ref();
        let times = |interval: fn(&Times) -> Interval| times.map(|times| interval(times).to_json());
        json!({
            "name": program.name,
            "instructions": program.instructions,
            "runs": program.runs,
            "gross_ns": times(|t| t.gross),
            "net_ns": times(|t| t.net),
            "empty_ns": times(|t| t.empty),
            "clock_net_ns": times(|t| t.clock),
            "net_of_clock_ns": times(|t| t.rest),
            "goal_ns": goal(&program.name).0,
            "goal_is_net_of_clock": goal(&program.name).1,
        })
    });
    json!({ "programs": rows.collect::<Vec<_>>() })
}

/// The table.
pub(super) fn to_text(programs: &[Program]) -> String {
    let mut text = format!(
        "{:<28}{:>7}{:>10}{:>8}  {:<22}{:<8}{:<22}{}\n",
        "program, ns a run",
        "insns",
        "runs",
        "gross",
        "net [95 %]",
        "empty",
        "clock only, net",
        "goal"
    );
    for Program { name, instructions, runs, times } in programs {
        text += &format!("{name:<28}{instructions:>7}{runs:>10}");
        text += &match times {
            Some(Times { gross, net, empty, clock, rest }) => {
                let (goal, without_clock) = goal(name);
                format!(
                    "{:>8.1}  {:<22}{:<8.1}{:<22}{goal}: {}\n",
                    gross.median,
                    net.to_string(),
                    empty.median,
                    clock.to_string(),
                    verdict(if without_clock { rest } else { net }, goal)
                )
            }
            None => "  did not run on this KVM or with this guest\n".to_owned(),
        };
    }
    text + &format!(
        "goal: at most {GOAL} ns net for an event that is counted without a clock, {TIMED_GOAL} with, and \
         {TD_GOAL} net of the clock for a TD\n"
    )
}

/// Whether the goal is met, as far as the interval tells.
fn verdict(net: &Interval, goal: f64) -> &'static str {
    if net.high <= goal {
        "met"
    } else if net.low > goal {
        "missed"
    } else {
        "open"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(program: u64, runs: u64) -> Value {
        json!([{
            "name": "kvm_cpuid",
            "instructions": 700,
            "program": { "runs": runs, "nanoseconds": program * runs },
            "empty": { "runs": runs, "nanoseconds": 30 * runs },
            "clock": { "runs": runs, "nanoseconds": 55 * runs },
        }])
    }

    fn measured(programs: impl Iterator<Item = u64>, runs: u64) -> Vec<Program> {
        let rounds: Vec<Value> = programs.map(|ns| round(ns, runs)).collect();
        parse(&json!({ "rounds": rounds })).unwrap()
    }

    #[test]
    fn the_empty_program_is_taken_off_in_each_round() {
        let programs = measured(40..70, 1000);
        let times = programs[0].times.as_ref().unwrap();
        assert_eq!((programs[0].runs, times.gross.median), (30_000, 54.5));
        assert_eq!(times.net, Interval { median: 24.5, low: 19.0, high: 30.0 });
        assert_eq!((times.empty.median, times.clock.median), (30.0, 25.0));
        assert_eq!(times.rest.median, -0.5);
        assert!(to_text(&programs).contains("24.5 [19.0, 30.0]"));
        assert_eq!(to_json(&programs)["programs"][0]["net_ns"]["low"], 19.0);
    }

    #[test]
    fn a_program_that_did_not_run_has_no_times() {
        let programs = measured(40..70, 0);
        assert!(programs[0].times.is_none());
        assert!(to_text(&programs).contains("did not run"));
        assert_eq!(to_json(&programs)["programs"][0]["net_ns"], Value::Null);
    }

    #[test]
    fn the_goal_is_judged_by_the_whole_interval() {
        let net = |low, high| Interval { median: f64::midpoint(low, high), low, high };
        assert_eq!(verdict(&net(8.0, 12.0), 12.0), "met");
        assert_eq!(verdict(&net(11.0, 13.0), 12.0), "open");
        assert_eq!(verdict(&net(12.5, 13.0), 12.0), "missed");
    }

    #[test]
    fn a_program_has_the_goal_of_what_it_does() {
        assert_eq!(goal("kvm_cpuid"), (GOAL, false));
        assert_eq!(goal("kvm_exit"), (TIMED_GOAL, false));
        assert_eq!(goal("kvm_exit (VMX, test run)"), (TIMED_GOAL, false));
        assert_eq!(goal("kvm_entry (TD, test run)"), (TD_GOAL, true));
    }

    #[test]
    fn times_that_lack_a_number_are_refused() {
        let error = parse(&json!({ "rounds": [[{ "program": {} }]] })).unwrap_err();
        assert!(error.to_string().contains("runs of program"), "{error}");
        assert!(parse(&json!({ "rounds": [] })).is_err());
    }
}
