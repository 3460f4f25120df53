//! The comparison of times: what a trace says and what tdtrace says. Pure.
//!
//! The trace knows each moment to the nanoseconds between two readings of the clock, of which one is before
//! and one after tdtrace's own. So nothing has to be tolerated: each number of tdtrace has to lie where the
//! trace lets it.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    fmt,
};

use anyhow::{Result, bail};
use tdtrace_common::latency::bucket;

use super::{
    Class, Spent, Times,
    told::{self, Durations, Told},
    trace::Bounds,
};

/// What both sides say of one thing.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::lab) struct Line {
    /// The thread whose time it is, unless it is a class of all threads.
    tid: Option<u64>,
    what: String,
    /// Durations in the trace and in tdtrace.
    counts: (u64, u64),
    /// Nanoseconds in the trace.
    traced: Bounds,
    /// Nanoseconds in tdtrace: the second is the first and what was waiting.
    told: Bounds,
    /// Whether each duration is in a bucket in which it may be.
    fits: bool,
    /// Runs of programs that the kernel skipped.
    missed: u64,
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
        let in_bounds = self.told.least <= self.traced.most && self.traced.least <= self.told.most;
        traced == told && in_bounds && self.fits
    }

    /// The line above lines.
    pub(super) fn header() -> String {
        format!(
            "{:<49} {:>7} {:>7} {:>23} {:>11}",
            "", "trace", "tdtrace", "trace, from µs to µs", "tdtrace µs"
        )
    }
}

impl fmt::Display for Line {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = |ns: u64| ns as f64 / 1e3;
        let what = self.tid.map_or_else(String::new, |tid| format!("{tid} ")) + &self.what;
        let (traced, told) = self.counts;
        let (least, most) = (micros(self.traced.least), micros(self.traced.most));
        write!(f, "{what:<49} {traced:>7} {told:>7} {least:>11.1} {most:>11.1}")?;
        write!(f, " {:>11.1}", micros(self.told.least))?;
        if self.told.most > self.told.least {
            write!(f, " up to {:.1}", micros(self.told.most))?;
        }
        f.write_str(if self.fits { "" } else { "  buckets" })
    }
}

/// Every thread and class that one of the two sides knows. `missed` runs of programs were skipped.
///
/// # Errors
/// When the sides do not know the same threads.
pub(super) fn compare(trace: &Times, told: &Told, missed: u64) -> Result<Vec<Line>> {
    let (traced, known): (Vec<_>, Vec<_>) =
        (trace.threads.keys().collect(), told.threads.keys().collect());
    if traced != known || traced.is_empty() {
        bail!("threads: the trace has {traced:?}, tdtrace {known:?}");
    }
    let mut lines: Vec<Line> = trace
        .threads
        .iter()
        .flat_map(|(tid, spent)| thread(*tid, spent, &told.threads[tid], missed))
        .collect();
    let classes: BTreeSet<&Class> = trace.classes.keys().chain(told.classes.keys()).collect();
    let none = Durations::default();
    for class in classes {
        let traced = trace.classes.get(class).map_or(&[][..], Vec::as_slice);
        let told = told.classes.get(class).unwrap_or(&none);
        let mut sum = Bounds::default();
        traced.iter().for_each(|bounds| sum.add(*bounds));
        lines.push(Line {
            tid: None,
            what: format!("{} {}", class.0, class.1),
            counts: (traced.len() as u64, told.count()),
            traced: sum,
            told: Bounds { least: told.ns, most: told.ns },
            fits: fit(traced, told),
            missed,
        });
    }
    Ok(lines)
}

/// Whether each of the durations `traced` can be one that `told` counted: of those that may be in a bucket, it
/// gets the ones whose last possible bucket comes first.
fn fit(traced: &[Bounds], told: &Durations) -> bool {
    let mut coming: Vec<_> =
        traced.iter().map(|bounds| (bucket(bounds.least), bucket(bounds.most))).collect();
    coming.sort_unstable_by(|one, other| other.cmp(one));
    let mut possible = BinaryHeap::new();
    for (index, count) in told.buckets.iter().enumerate() {
        while let Some((_, last)) = coming.pop_if(|(first, _)| *first == index) {
            possible.push(Reverse(last));
        }
        for _ in 0..*count {
            if possible.pop().is_none_or(|Reverse(last)| last < index) {
                return false;
            }
        }
    }
    coming.is_empty() && possible.is_empty()
}

/// Where the time of a thread went. tdtrace does not tell how many phases it saw, and goes on with the time
/// in the VMM until the vCPU is gone, of which the trace knows nothing: of that only returns are compared.
fn thread(tid: u64, traced: &Spent, told: &told::Spent, missed: u64) -> [Line; 3] {
    let line = |what: &str, phases, traced, ns, waiting| Line {
        tid: Some(tid),
        what: what.to_owned(),
        counts: (phases, phases),
        traced,
        told: Bounds { least: ns, most: ns + waiting },
        fits: true,
        missed,
    };
    // Waiting is taken out of the halts and the kernel's time, and out of the VMM's too.
    let (halted, waiting) = (Bounds { least: traced.halted, most: traced.halted }, told.waiting);
    [
        line("guest", traced.entries, traced.guest, told.guest, 0),
        line("kernel", traced.kernel, traced.outside, told.outside, waiting),
        // Both add up the same numbers of the kernel's.
        line("halted", traced.wakeups, halted, told.halted, waiting),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(ns: u64) -> Bounds {
        Bounds { least: ns - 100, most: ns + 100 }
    }

    /// The guest has a microsecond, the kernel two.
    fn trace(durations: &[u64]) -> Times {
        let spent = Spent {
            guest: about(1_000),
            outside: about(2_000),
            halted: 500,
            entries: 3,
            kernel: 4,
            wakeups: 1,
        };
        let class = (("exit", "HLT".to_owned()), durations.iter().map(|ns| about(*ns)).collect());
        Times { threads: [(7, spent)].into(), classes: [class].into() }
    }

    const SPENT: told::Spent =
        told::Spent { guest: 1_000, outside: 2_000, halted: 500, waiting: 0 };

    fn told(spent: told::Spent, durations: &[u64]) -> Told {
        let mut sum = Durations::default();
        for ns in durations {
            sum.ns += ns;
            sum.buckets[bucket(*ns)] += 1;
        }
        Told { threads: [(7, spent)].into(), classes: [(("exit", "HLT".to_owned()), sum)].into() }
    }

    fn differing(trace: &Times, told: &Told, missed: u64) -> Vec<String> {
        let lines = compare(trace, told, missed).unwrap();
        lines.into_iter().filter(|line| !line.agrees()).map(|line| line.what).collect()
    }

    const SOME: [u64; 3] = [20_000, 50_000, 90_000];

    #[test]
    fn what_lies_between_the_readings_agrees_and_what_does_not_differs() {
        let trace = trace(&SOME);
        for durations in [SOME, [20_100, 49_900, 90_000], [19_901, 50_000, 90_100]] {
            assert!(differing(&trace, &told(SPENT, &durations), 0).is_empty(), "{durations:?}");
        }
        // The sum is right in the first, the buckets in the second.
        for durations in [[20_000, 60_000, 80_000], [20_000, 50_000, 90_400], [20_000, 50_000, 0]] {
            assert_eq!(differing(&trace, &told(SPENT, &durations), 0), ["exit HLT"]);
        }
        for guest in [899, 1_101] {
            let spent = told::Spent { guest, ..SPENT };
            assert_eq!(differing(&trace, &told(spent, &SOME), 0), ["guest"]);
        }
    }

    #[test]
    fn a_duration_may_be_in_any_bucket_between_its_bounds_but_only_in_one() {
        let wide = Bounds { least: 20_000, most: 90_000 };
        let fits = |traced: &[Bounds], durations: &[u64]| {
            let told = told(SPENT, durations);
            fit(traced, told.classes.values().next().unwrap())
        };
        assert!(fits(&[wide, about(20_400)], &[20_400, 60_000]));
        assert!(fits(&[wide, about(20_400)], &[20_400, 20_400]));
        assert!(!fits(&[wide, about(20_400)], &[60_000, 60_000]));
        assert!(!fits(&[wide], &[20_400, 60_000]) && !fits(&[wide, wide], &[60_000]));
        assert!(!fits(&[wide], &[10_000]) && !fits(&[wide], &[120_000]) && fits(&[], &[]));
    }

    #[test]
    fn one_duration_more_or_less_differs_unless_a_run_was_skipped() {
        let trace = trace(&SOME);
        let fewer = told(SPENT, &SOME[..2]);
        assert_eq!(differing(&trace, &fewer, 0), ["exit HLT"]);
        assert!(differing(&trace, &fewer, 1).is_empty());
        assert_eq!(differing(&trace, &told(SPENT, &[]), 1), ["exit HLT"]);
    }

    #[test]
    fn what_was_waiting_may_be_the_kernels_or_a_halts_and_no_more() {
        let trace = trace(&SOME);
        let told = |outside, halted, waiting| {
            told(told::Spent { outside, halted, waiting, ..SPENT }, &SOME)
        };
        assert!(differing(&trace, &told(1_600, 400, 300), 0).is_empty());
        assert_eq!(differing(&trace, &told(1_600, 400, 299), 0), ["kernel"]);
        assert_eq!(differing(&trace, &told(2_000, 400, 99), 0), ["halted"]);
        assert_eq!(differing(&trace, &told(2_000, 501, 0), 0), ["halted"]);
        assert_eq!(differing(&trace, &told(2_101, 500, 900), 0), ["kernel"]);
    }

    #[test]
    fn threads_that_are_not_the_same_are_an_error() {
        assert!(compare(&trace(&SOME), &Told::default(), 0).is_err());
        assert!(compare(&Times::default(), &Told::default(), 0).is_err());
    }
}
