//! Time that an observer adds to each exit: rounds in which every observer has its turn, compared
//! within the round.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{
    interval::Interval,
    observer::{Exit, Observer, Workload},
};

/// What was measured of the observers.
#[derive(Debug)]
pub(super) struct Added {
    exit: Exit,
    /// Nanoseconds an exit with nobody watching.
    alone: Interval,
    /// Each observer that ran with what it adds to an exit, in nanoseconds.
    rows: Vec<Row>,
    /// Those that did not run, with the reason.
    left_out: Vec<(Observer, String)>,
    exits: u64,
}

#[derive(Debug)]
struct Row {
    observer: Observer,
    added: Interval,
    /// What this one adds divided by what perf adds; `None` where that is next to nothing.
    share_of_perf: Option<Interval>,
}

/// Takes the times. An observer that does not run once is left out; one that breaks off later is an
/// error.
///
/// # Errors
/// When the workload itself or tdtrace does not run.
pub(super) fn measure(workload: &Workload, rounds: u32, say: impl Fn(u32)) -> Result<Added> {
    let mut left_out = Vec::new();
    let mut running = Vec::new();
    for observer in Observer::ALL {
        // The first run of each also warms up and is not counted.
        let outcome = match observer.missing() {
            Some(why) => Err(why),
            None => workload.run(observer).map_err(|error| format!("{error:#}")),
        };
        match outcome {
            Ok(_) => running.push(observer),
            Err(why)
                if matches!(observer, Observer::Nothing | Observer::Counts | Observer::Tdtrace) =>
            {
                return Err(anyhow::anyhow!(why));
            }
            Err(why) => left_out.push((observer, why)),
        }
    }
    let mut times = Vec::new();
    for round in 0..rounds {
        say(round);
        times.push(turn(workload, &running, round)?);
    }
    evaluate(&running, &times, left_out, (workload.exit, workload.exits))
}

/// One round: everyone's time, in the order of `running`. Who begins changes from round to round.
fn turn(workload: &Workload, running: &[Observer], round: u32) -> Result<Vec<f64>> {
    let mut times = vec![0.0; running.len()];
    for turn in 0..running.len() {
        let index = (turn + round as usize) % running.len();
        times[index] = workload.run(running[index])?;
    }
    Ok(times)
}

fn evaluate(
    running: &[Observer],
    times: &[Vec<f64>],
    left_out: Vec<(Observer, String)>,
    (exit, exits): (Exit, u64),
) -> Result<Added> {
    let column = |observer| {
        let index = running.iter().position(|one| *one == observer);
        index.with_context(|| format!("{observer:?} was not measured"))
    };
    let nothing = column(Observer::Nothing)?;
    let perf = running.iter().position(|one| *one == Observer::Perf);
    let interval = |index: usize| {
        let added = times.iter().map(|round| round[index] - round[nothing]);
        Interval::of(added).context("no round was measured")
    };
    // Dividing by what may be zero says nothing.
    let perf = match perf {
        Some(index) if interval(index)?.low > 0.0 => Some(index),
        _ => None,
    };
    let mut rows = Vec::new();
    for (index, observer) in running.iter().enumerate().filter(|(index, _)| *index != nothing) {
        let share = |perf: usize| {
            let added = |round: &[f64], index: usize| round[index] - round[nothing];
            Interval::of(times.iter().map(|round| added(round, index) / added(round, perf)))
        };
        let share_of_perf = perf.filter(|perf| *perf != index).and_then(share);
        rows.push(Row { observer: *observer, added: interval(index)?, share_of_perf });
    }
    let alone = Interval::of(times.iter().map(|round| round[nothing]));
    Ok(Added { exit, alone: alone.context("no round was measured")?, rows, left_out, exits })
}

impl Added {
    /// The result file's part.
    pub(super) fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "observer": row.observer.key(),
                "added_ns": row.added.to_json(),
                "share_of_perf": row.share_of_perf.map(Interval::to_json),
            })
        });
        let left_out = self
            .left_out
            .iter()
            .map(|(observer, why)| json!({ "observer": observer.key(), "why": why }));
        json!({
            "exit": self.exit.key(),
            "exits_per_run": self.exits,
            "alone_ns": self.alone.to_json(),
            "observers": rows.collect::<Vec<_>>(),
            "left_out": left_out.collect::<Vec<_>>(),
        })
    }

    /// The table.
    pub(super) fn to_text(&self) -> String {
        let mut text = format!(
            "{:<30}{:<34}{}\n",
            "added time, ns an exit", "added [95 %]", "share of perf's"
        );
        for Row { observer, added, share_of_perf } in &self.rows {
            let ratio = match share_of_perf {
                Some(ratio) => format!("{ratio:.2}"),
                None => "-".to_owned(),
            };
            text += &format!("{:<30}{:<34.0}{ratio}\n", observer.name(), Padded(added));
        }
        for (observer, why) in &self.left_out {
            text += &format!("{:<30}left out: {why}\n", observer.name());
        }
        text + &format!(
            "{}: {:.0} ns without an observer; {} of them a run, on one vCPU\n",
            self.exit.name(),
            self.alone,
            self.exits
        )
    }
}

/// [`Interval`] in a column.
struct Padded<'i>(&'i Interval);

impl std::fmt::Display for Padded<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{:.*}", f.precision().unwrap_or(1), self.0);
        write!(f, "{text:<width$}", width = f.width().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: [Observer; 3] = [Observer::Nothing, Observer::Tdtrace, Observer::Perf];

    #[test]
    fn what_is_added_is_compared_within_the_round() {
        // The machine becomes slower; the differences stay.
        let times: Vec<_> = (0..30)
            .map(f64::from)
            .map(|n| vec![n * 1e4, n * 1e4 + 100.0, n * 1e4 + 400.0])
            .collect();
        let added = evaluate(&RUNNING, &times, Vec::new(), (Exit::Cpuid, 1000)).unwrap();
        let json = added.to_json();
        assert_eq!(json["observers"][0]["added_ns"]["low"], 100.0);
        assert_eq!(json["observers"][1]["share_of_perf"], Value::Null);
        assert_eq!(json["observers"][1]["added_ns"]["median"], 400.0);
        assert_eq!(json["observers"][0]["share_of_perf"]["median"], 0.25);
        assert!(added.to_text().contains("0.25 [0.25, 0.25]"));
    }

    #[test]
    fn an_addition_that_may_be_zero_has_no_ratio() {
        let times: Vec<_> =
            (-15..15).map(f64::from).map(|n| vec![1000.0, 1100.0, 1000.0 + n]).collect();
        let why = vec![(Observer::Bpftrace, "bpftrace is not installed; …".to_owned())];
        let added = evaluate(&RUNNING, &times, why, (Exit::Cpuid, 1000)).unwrap();
        let text = added.to_text();
        assert!(text.contains("not resolved [-6, 5]"), "{text}");
        assert!(text.contains("left out: bpftrace is not installed"), "{text}");
        assert_eq!(added.to_json()["observers"][0]["share_of_perf"], Value::Null);
    }
}
