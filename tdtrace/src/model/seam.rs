//! SEAMCALLs of the host: what a source delivers of them, and the rows that views show.
//!
//! They belong to no VM: a wrapper is told the TDX module's pages of a TD, which name no `kvm`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tdtrace_common::{
    latency::bucket_end,
    seam::{LEVELS, OPERAND_BUSY, has_failed, zaps},
    tdx,
};

use super::{aggregate::rate, latency::Histogram, snapshot::Tally};
use crate::decode::status;

/// All that was counted of SEAMCALLs, since attaching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeamSample {
    /// Why none is seen; `None` if any is, or if nobody looked.
    pub absent: Option<Arc<str>>,
    /// The wrappers, in the order of their numbers.
    pub functions: Vec<FunctionSample>,
}

/// What was counted of one wrapper.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FunctionSample {
    /// Its name.
    pub name: Arc<str>,
    /// The SEAMCALL leaf, without its version.
    pub leaf: u32,
    /// Why it is not counted; `None` if it is.
    pub missing: Option<Arc<str>>,
    /// Calls that returned.
    pub calls: u64,
    /// Those whose status found no room in the map.
    pub unlisted: u64,
    /// Those whose beginning was not seen, so that their duration is not known.
    pub unpaired: u64,
    /// Returns that the probe missed: calls that are not in `calls`.
    pub missed: u64,
    /// Nanoseconds of those whose duration is known.
    pub ns: u64,
    /// The longest, in nanoseconds.
    pub max: u64,
    /// Repetitions after OPERAND_BUSY of a step that takes a page away, by the same thread.
    pub retried: u64,
    /// Nanoseconds from such a result to the repetition: KVM kicks the vCPUs out of the TD meanwhile.
    pub kick_ns: u64,
    /// The last failure.
    pub failure: Option<Failure>,
    /// Calls by size of page: 4 KiB, 2 MiB, 1 GiB, others. All 0 where the arguments do not tell.
    pub levels: [u64; LEVELS],
    /// Calls by [`tdtrace_common::seam::status_class`], ascending.
    pub statuses: Vec<(u64, u64)>,
    /// All durations.
    pub histogram: Histogram,
}

/// A call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it returned.
    pub status: u64,
    /// The GPA that it was called with, if it is called with one.
    pub gpa: Option<u64>,
}

impl SeamSample {
    /// The function called `name`.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<&FunctionSample> {
        self.functions.iter().find(|function| &*function.name == name)
    }

    /// Adds what was counted before of the same functions.
    pub fn add(&mut self, before: &Self) {
        for function in &mut self.functions {
            if let Some(before) = before.function(&function.name) {
                function.add(before);
            }
        }
        if self.functions.is_empty() {
            self.functions.clone_from(&before.functions);
        }
    }

    /// What it has more than `base`.
    #[must_use]
    pub fn since(&self, base: &Self) -> Self {
        let since = |function: &FunctionSample| match base.function(&function.name) {
            Some(base) => function.since(base),
            None => function.clone(),
        };
        Self { absent: self.absent.clone(), functions: self.functions.iter().map(since).collect() }
    }

    /// Calls that probes missed, all functions together.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.functions.iter().fold(0, |sum, function| sum.saturating_add(function.missed))
    }
}

impl FunctionSample {
    /// The numbers that only grow.
    fn numbers(&mut self) -> [&mut u64; 7] {
        [
            &mut self.calls,
            &mut self.unlisted,
            &mut self.unpaired,
            &mut self.missed,
            &mut self.ns,
            &mut self.retried,
            &mut self.kick_ns,
        ]
    }

    fn add(&mut self, other: &Self) {
        let mut more = other.clone();
        for (number, more) in self.numbers().into_iter().zip(more.numbers()) {
            *number = number.saturating_add(*more);
        }
        for (level, more) in self.levels.iter_mut().zip(other.levels) {
            *level = level.saturating_add(more);
        }
        let mut statuses: BTreeMap<u64, u64> = self.statuses.iter().copied().collect();
        for (status, count) in &other.statuses {
            let sum = statuses.entry(*status).or_default();
            *sum = sum.saturating_add(*count);
        }
        self.statuses = statuses.into_iter().collect();
        self.max = self.max.max(other.max);
        self.histogram += &other.histogram;
        self.failure = self.failure.or(other.failure);
    }

    fn since(&self, base: &Self) -> Self {
        let (mut since, mut before) = (self.clone(), base.clone());
        for (number, before) in since.numbers().into_iter().zip(before.numbers()) {
            *number = number.saturating_sub(*before);
        }
        for (level, before) in since.levels.iter_mut().zip(base.levels) {
            *level = level.saturating_sub(before);
        }
        let before: BTreeMap<u64, u64> = base.statuses.iter().copied().collect();
        for (status, count) in &mut since.statuses {
            *count = count.saturating_sub(before.get(status).copied().unwrap_or(0));
        }
        since.statuses.retain(|(_, count)| *count > 0);
        since.histogram = self.histogram.since(&base.histogram);
        if self.max <= base.max {
            // Any other than a new longest one is somewhere in the highest bucket.
            let highest = since.histogram.filled().last();
            since.max = highest.map_or(0, |(index, _)| bucket_end(index).min(self.max));
        }
        if since.failures() == 0 {
            since.failure = None;
        }
        since
    }

    /// Calls whose status says that what was asked was not done.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.sum(has_failed)
    }

    /// Calls that found an operand in use.
    #[must_use]
    pub fn busy(&self) -> u64 {
        self.sum(|status| (status >> 32) as u32 == OPERAND_BUSY)
    }

    /// How often KVM kicked vCPUs out of a TD for this function; `None` where its OPERAND_BUSY does not
    /// make it do so.
    #[must_use]
    pub fn kicks(&self) -> Option<u64> {
        zaps(self.leaf).then(|| self.busy())
    }

    fn sum(&self, of: impl Fn(u64) -> bool) -> u64 {
        let counts = self.statuses.iter().filter(|(status, _)| of(*status));
        counts.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

/// A row of a view: a function with what was counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Seamcall {
    /// Its number, from 1, in the order of the list.
    pub number: u32,
    /// Since attaching, or since a reset.
    pub total: FunctionSample,
    /// Calls.
    pub tally: Tally,
    /// The longest one is not known exactly, since counts were reset: it is at most `total.max`.
    pub max_is_bound: bool,
}

impl Seamcall {
    /// The duration in nanoseconds below which `fraction` (0 to 1) of them are.
    #[must_use]
    pub fn percentile(&self, fraction: f64) -> Option<u64> {
        self.total.histogram.percentile(fraction, self.total.max)
    }

    /// The mean duration in nanoseconds.
    #[must_use]
    pub fn mean(&self) -> Option<u64> {
        self.total.ns.checked_div(self.total.histogram.count())
    }

    /// The longest duration in nanoseconds; `None` if none is known.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        (self.total.histogram.count() > 0).then_some(self.total.max)
    }

    /// The SEAMCALL's name.
    #[must_use]
    pub fn leaf_name(&self) -> &'static str {
        tdx::seamcall_leaf(self.total.leaf).unwrap_or("?")
    }
}

/// The rows of `sample`, a difference to `base`, with rates since `before`.
#[must_use]
pub fn rows(
    sample: &SeamSample,
    before: Option<&SeamSample>,
    base: Option<&SeamSample>,
    interval: Option<Duration>,
) -> Vec<Seamcall> {
    let row = |(number, total): (u32, &FunctionSample)| {
        let before = before.and_then(|before| before.function(&total.name));
        let new = total.calls.saturating_sub(before.map_or(0, |before| before.calls));
        let base = base.and_then(|base| base.function(&total.name));
        Seamcall {
            number,
            total: total.clone(),
            tally: Tally { total: total.calls, rate: rate(new, interval) },
            max_is_bound: base.is_some_and(|base| total.max <= base.max && base.max > 0),
        }
    };
    (1..).zip(&sample.functions).map(row).collect()
}

/// What a status of SEAMCALL leaf `leaf` is called; a number where it has no name.
#[must_use]
pub fn status_name(status: u64, leaf: u32) -> String {
    let decoded = status::decode(status, Some(leaf));
    decoded.name.map_or_else(|| format!("{status:#018x}"), str::to_owned)
}

/// The operand that a status speaks of.
#[must_use]
pub fn operand_name(status: u64, leaf: u32) -> Option<String> {
    let operand = status::decode(status, Some(leaf)).operand?;
    Some(operand.name.map_or_else(|| format!("{:#x}", operand.number), str::to_owned))
}

/// Name and operand in one.
#[must_use]
pub fn status_text(status: u64, leaf: u32) -> String {
    let name = status_name(status, leaf);
    operand_name(status, leaf).map_or_else(|| name.clone(), |operand| format!("{name} {operand}"))
}

/// Sizes of pages in the order of [`FunctionSample::levels`].
pub const LEVEL_NAMES: [&str; LEVELS] = ["4k", "2m", "1g", "other"];

#[cfg(test)]
mod tests;
