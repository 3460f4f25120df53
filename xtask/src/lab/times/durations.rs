//! The comparison of times: what a trace says and what tdtrace says. Pure.
//!
//! Both read the same clock at the same tracepoint, one after the other, so a duration begins and ends
//! a little later for one than for the other. How many there are must be equal all the same, and what
//! is apart must be small: see [`TOLERANCE`] and [`SLACK`].

use std::{collections::BTreeSet, fmt};

use anyhow::{Result, bail};
use tdtrace_common::latency::{bucket_end, bucket_start};

use super::{Class, Durations, Spent, Times};

/// How far a duration may be apart, in nanoseconds. What lies between the two readings is a ring buffer
/// record and the beginning of a BPF program, some microseconds under emulation; it counts only as far
/// as it is longer at one end than at the other. Measured: 1 to 3 µs, up to 6 µs in a class of 400.
const TOLERANCE: u64 = 6_000;
/// Which part of all time a sum may be apart besides, as a divisor: now and then QEMU's one thread turns
/// to the VM's other CPU between the readings, or the host to other work, which moves some
/// milliseconds. That is rare, so that it moves sums and no ranks.
const SLACK: u64 = 10;
/// The ranks whose durations are compared, in percent.
const RANKS: [u64; 4] = [25, 50, 75, 90];
/// The rank that is shown.
const MEDIAN: usize = 1;

/// What both sides say of one thing.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::lab) struct Line {
    /// The thread whose time it is, unless it is a class of all threads.
    tid: Option<u64>,
    what: String,
    /// Durations in the trace and in tdtrace.
    counts: (u64, u64),
    /// Nanoseconds in the trace and in tdtrace.
    ns: (u64, u64),
    measure: Measure,
    /// How far the sums may be apart, in nanoseconds.
    tolerance: u64,
    /// Runs of programs that the kernel skipped.
    missed: u64,
}

/// What tells whether times agree.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Measure {
    /// The sums.
    Sum,
    /// The sums, and the buckets of the durations at [`RANKS`].
    Ranks([(usize, usize); RANKS.len()]),
    /// The trace's sum lies between tdtrace's and this.
    UpTo(u64),
}

impl Line {
    /// What it is of, `exit <reason>`, `return <reason>` or where a thread's time went, if the trace has
    /// any of it.
    pub(in crate::lab) fn occurred(&self) -> Option<&str> {
        (self.counts.0 > 0).then_some(&self.what)
    }

    /// Whether the two sides agree. A run that was skipped costs up to two durations, and says nothing of
    /// times any more.
    pub(in crate::lab) fn agrees(&self) -> bool {
        let (traced, told) = self.counts;
        if self.missed > 0 {
            return traced.abs_diff(told) <= 2 * self.missed;
        }
        traced == told && self.is_near()
    }

    fn is_near(&self) -> bool {
        let (traced, told) = self.ns;
        let near = traced.abs_diff(told) <= self.tolerance;
        match self.measure {
            Measure::Sum => near,
            Measure::UpTo(most) => {
                (told.saturating_sub(self.tolerance)..=most + self.tolerance).contains(&traced)
            }
            Measure::Ranks(ranks) => near && ranks.iter().all(|pair| are_near(*pair)),
        }
    }

    /// The line above lines.
    pub(super) fn header() -> String {
        format!(
            "{:<49} {:>9} {:>9} {:>11} {:>11} {:>7}  {}",
            "", "trace", "tdtrace", "trace µs", "tdtrace µs", "ns each", "medians from µs"
        )
    }
}

/// Whether durations of two buckets can be as near as [`TOLERANCE`].
fn are_near((traced, told): (usize, usize)) -> bool {
    let (low, high) = (traced.min(told), traced.max(told));
    bucket_start(high).saturating_sub(bucket_end(low)) <= TOLERANCE
}

impl fmt::Display for Line {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (traced, told) = self.counts;
        let micros = |ns: u64| ns as f64 / 1e3;
        let each = (self.ns.1 as f64 - self.ns.0 as f64) / traced.max(1) as f64;
        let sums = (micros(self.ns.0), micros(self.ns.1));
        let tid = self.tid.map_or_else(String::new, |tid| format!("{tid} "));
        let what = format!("{tid}{}", self.what);
        write!(f, "{what:<49} {traced:>9} {told:>9} {:>11.1} {:>11.1}", sums.0, sums.1)?;
        match self.measure {
            Measure::Sum => write!(f, " {each:>7.0}"),
            Measure::UpTo(most) => write!(f, " up to {:.1}", micros(most)),
            Measure::Ranks(ranks) => {
                let (traced, told) = ranks[MEDIAN];
                let start = |bucket| micros(bucket_start(bucket));
                write!(f, " {each:>7.0} {:>8.1} {:>8.1}", start(traced), start(told))
            }
        }
    }
}

/// Every thread and class that one of the two sides knows. `missed` runs of programs were skipped.
///
/// # Errors
/// When the sides do not know the same threads.
pub(super) fn compare(trace: &Times, told: &Times, missed: u64) -> Result<Vec<Line>> {
    let tids = |times: &Times| times.threads.keys().copied().collect::<Vec<_>>();
    if tids(trace) != tids(told) || trace.threads.is_empty() {
        bail!("threads: the trace has {:?}, tdtrace {:?}", tids(trace), tids(told));
    }
    let mut lines: Vec<Line> = trace
        .threads
        .iter()
        .flat_map(|(tid, spent)| thread(*tid, spent, &told.threads[tid]))
        .collect();
    let classes: BTreeSet<&Class> = trace.classes.keys().chain(told.classes.keys()).collect();
    let none = Durations::default();
    for class in classes {
        let of = |times: &Times| times.classes.get(class).unwrap_or(&none).clone();
        let (traced, told) = (of(trace), of(told));
        let ranks = RANKS.map(|percent| traced.rank(percent).zip(told.rank(percent)));
        let ranks: Option<Vec<_>> = ranks.into_iter().collect();
        let ranks = ranks.and_then(|ranks| ranks.try_into().ok());
        lines.push(Line {
            tid: None,
            what: format!("{} {}", class.0, class.1),
            counts: (traced.count(), told.count()),
            ns: (traced.ns, told.ns),
            measure: ranks.map_or(Measure::Sum, Measure::Ranks),
            tolerance: traced.count() * TOLERANCE,
            missed,
        });
    }
    let all: u64 = trace.threads.values().map(|spent| spent.guest + spent.outside).sum();
    for line in &mut lines {
        line.missed = missed;
        if line.tolerance > 0 {
            line.tolerance += all / SLACK;
        }
    }
    Ok(lines)
}

/// Where the time of a thread went. tdtrace does not tell how many phases it saw.
fn thread(tid: u64, traced: &Spent, told: &Spent) -> [Line; 4] {
    let line = |what: &str, phases, ns, measure| Line {
        tid: Some(tid),
        what: what.to_owned(),
        counts: (phases, phases),
        ns,
        measure,
        tolerance: phases * TOLERANCE,
        missed: 0,
    };
    // Waiting is taken out of the halts and the kernel's time, and out of the VMM's too.
    let up_to = |ns: u64| Measure::UpTo(ns + told.waiting);
    let (halted, outside, vmm) = (told.halted, told.outside, told.vmm);
    [
        line("guest", traced.entries, (traced.guest, told.guest), Measure::Sum),
        line("kernel", traced.kernel, (traced.outside, outside), up_to(outside)),
        line("vmm", traced.runs, (traced.vmm, vmm), up_to(vmm)),
        // Both add up the same numbers of the kernel's.
        Line {
            tolerance: 0,
            ..line("halted", traced.wakeups, (traced.halted, halted), up_to(halted))
        },
    ]
}

#[cfg(test)]
mod tests {
    use tdtrace_common::latency::bucket;

    use super::*;

    const HLT: Class = ("exit", String::new());

    fn times(spent: Spent, durations: &[u64]) -> Times {
        let mut sum = Durations::default();
        durations.iter().for_each(|ns| sum.add(*ns));
        Times { threads: [(7, spent)].into(), classes: [(HLT, sum)].into() }
    }

    fn differing(trace: &Times, told: &Times, missed: u64) -> Vec<String> {
        let lines = compare(trace, told, missed).unwrap();
        lines
            .into_iter()
            .filter(|line| !line.agrees())
            .map(|line| line.to_string()[..20].trim().to_owned())
            .collect()
    }

    const SPENT: Spent = Spent {
        guest: 5,
        outside: 900,
        halted: 500,
        vmm: 700,
        waiting: 0,
        entries: 3,
        kernel: 4,
        runs: 2,
        wakeups: 1,
    };
    const SOME: [u64; 3] = [20_000, 50_000, 90_000];

    #[test]
    fn what_is_a_little_apart_agrees_and_what_is_more_differs() {
        let trace = times(SPENT, &SOME);
        assert!(differing(&trace, &trace, 0).is_empty());
        assert!(differing(&trace, &times(SPENT, &[22_000, 51_000, 80_000]), 0).is_empty());
        for other in [[20_000, 70_000, 70_000], [20_000, 50_000, 120_000]] {
            assert_eq!(differing(&trace, &times(SPENT, &other), 0), ["exit"]);
        }
        let guest = Spent { guest: 5 + 3 * TOLERANCE + 905 / SLACK + 1, ..SPENT };
        assert_eq!(differing(&trace, &times(guest, &SOME), 0), ["7 guest"]);
        let kernel = |outside, waiting| times(Spent { outside, waiting, ..SPENT }, &SOME);
        let far = 100_000;
        assert_eq!(differing(&trace, &kernel(900 + far, 0), 0), ["7 kernel"]);
        let trace = kernel(900 + far, 0);
        assert_eq!(differing(&trace, &kernel(900, 0), 0), ["7 kernel"]);
        assert!(differing(&trace, &kernel(900, far), 0).is_empty());
        let vmm = |vmm, waiting| times(Spent { vmm, waiting, ..SPENT }, &SOME);
        assert_eq!(differing(&vmm(700 + far, 0), &vmm(700, 0), 0), ["7 vmm"]);
        assert!(differing(&vmm(700 + far, 0), &vmm(700, far), 0).is_empty());
    }

    #[test]
    fn one_duration_more_or_less_differs_unless_a_run_was_skipped() {
        let trace = times(SPENT, &SOME);
        let fewer = times(SPENT, &SOME[..2]);
        assert_eq!(differing(&trace, &fewer, 0), ["exit"]);
        assert!(differing(&trace, &fewer, 1).is_empty());
        assert_eq!(differing(&trace, &times(SPENT, &[]), 1), ["exit"]);
    }

    #[test]
    fn halts_are_exact_but_for_what_was_waiting() {
        let trace = times(SPENT, &SOME);
        let told = |halted, waiting| times(Spent { halted, waiting, ..SPENT }, &SOME);
        assert!(differing(&trace, &told(400, 100), 0).is_empty());
        assert!(differing(&trace, &told(400, 300), 0).is_empty());
        assert_eq!(differing(&trace, &told(400, 99), 0), ["7 halted"]);
        assert_eq!(differing(&trace, &told(501, 0), 0), ["7 halted"]);
    }

    #[test]
    fn threads_that_are_not_the_same_are_an_error() {
        let trace = times(SPENT, &SOME);
        assert!(compare(&trace, &Times::default(), 0).is_err());
        assert!(compare(&Times::default(), &Times::default(), 0).is_err());
        assert_eq!(bucket(SOME[0]), bucket(20_479));
    }
}
