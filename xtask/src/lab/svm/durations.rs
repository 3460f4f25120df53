//! The comparison of times: what a trace says and what tdtrace says. Pure.
//!
//! Both take the time at the same tracepoint, one after the other, so each duration begins and ends a
//! little later for one than for the other. The number of durations must be equal all the same, and
//! what is off must be small on average: [`TOLERANCE`].

use std::{collections::BTreeSet, fmt};

use anyhow::{Result, bail};
use tdtrace_common::latency::bucket_start;

use super::times::{Class, Durations, Spent, Times};

/// How far the two may be apart on average over the durations of a sum, in nanoseconds. At each end of
/// a duration lies the run of one program or of the other, a few microseconds under emulation, of which
/// only the difference between the two ends counts.
const TOLERANCE: u64 = 3_000;
/// How far the two sums may be apart besides, in nanoseconds: QEMU's one thread turns to the VM's other
/// CPU, and the host to other work, also between the two readings of the clock.
const SLACK: u64 = 20_000_000;

/// A number of both sides.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    what: String,
    /// Durations in the trace and in tdtrace.
    counts: (u64, u64),
    /// Nanoseconds in the trace and in tdtrace.
    ns: (u64, u64),
    /// Buckets of the medians.
    medians: Option<(usize, usize)>,
    /// Runs of programs that the kernel skipped.
    missed: u64,
}

impl Line {
    /// Whether the two sides agree.
    pub(super) fn agrees(&self) -> bool {
        let (traced, told) = self.counts;
        if self.missed > 0 {
            return traced.abs_diff(told) <= 2 * self.missed;
        }
        let apart = self.ns.0.abs_diff(self.ns.1);
        traced == told
            && apart <= traced * TOLERANCE + SLACK
            && self.medians.is_none_or(|(traced, told)| traced.abs_diff(told) <= 1)
    }

    /// The line above lines.
    pub(super) fn header() -> String {
        format!(
            "{:<22} {:>15} {:>25} {:>10} {:>17}",
            "time", "durations", "µs", "ns apart", "medians from µs"
        )
    }
}

impl fmt::Display for Line {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (traced, told) = self.counts;
        let micros = |ns: u64| ns as f64 / 1e3;
        let apart = (self.ns.1 as f64 - self.ns.0 as f64) / traced.max(1) as f64;
        write!(
            f,
            "{:<22} {traced:>7} {told:>7} {:>12.1} {:>12.1} {apart:>10.0}",
            self.what,
            micros(self.ns.0),
            micros(self.ns.1),
        )?;
        let Some((traced, told)) = self.medians else { return Ok(()) };
        let start = |bucket| micros(bucket_start(bucket));
        write!(f, " {:>8.1} {:>8.1}", start(traced), start(told))
    }
}

pub(super) fn compare(trace: &Times, told: &Times, missed: u64) -> Result<Vec<Line>> {
    let tids = |times: &Times| times.threads.keys().copied().collect::<Vec<_>>();
    if tids(trace) != tids(told) || trace.threads.is_empty() {
        bail!("threads: the trace has {:?}, tdtrace {:?}", tids(trace), tids(told));
    }
    let mut lines = Vec::new();
    for (tid, spent) in &trace.threads {
        thread(*tid, spent, &told.threads[tid], missed, &mut lines);
    }
    let classes: BTreeSet<&Class> = trace.classes.keys().chain(told.classes.keys()).collect();
    let none = Durations::default();
    for class in classes {
        let of = |times: &Times| times.classes.get(class).unwrap_or(&none).clone();
        let (traced, told) = (of(trace), of(told));
        lines.push(Line {
            what: format!("{} {}", class.0, class.1),
            counts: (traced.count(), told.count()),
            ns: (traced.ns, told.ns),
            medians: traced.median().zip(told.median()),
            missed,
        });
    }
    Ok(lines)
}

fn thread(tid: u64, traced: &Spent, told: &Spent, missed: u64, lines: &mut Vec<Line>) {
    let sums = [
        ("guest", traced.guest, told.guest),
        ("outside", traced.outside, told.outside),
        ("halted", traced.halted, told.halted),
        ("halted+waiting", traced.halted, told.halted + told.waiting.unwrap_or(0)),
    ];
    for (name, traced, told) in sums {
        lines.push(Line {
            what: format!("{tid} {name}"),
            counts: (0, 0),
            ns: (traced, told),
            medians: None,
            missed,
        });
    }
}
