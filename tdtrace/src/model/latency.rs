//! Durations: histograms with percentiles, and where a vCPU's time went.

use std::{fmt, ops::AddAssign};

use tdtrace_common::latency::{BUCKETS, PARTS, Part, bucket_end, bucket_start};

/// How many durations fell into each bucket of [`tdtrace_common::latency::bucket`].
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram(Box<[u64; BUCKETS]>);

impl Default for Histogram {
    fn default() -> Self {
        Self(Box::new([0; BUCKETS]))
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_map()
            .entries(self.filled().map(|(index, n)| (bucket_start(index), n)))
            .finish()
    }
}

impl Histogram {
    /// Adds `count` durations to bucket `index`; one beyond the last is the last.
    pub fn add(&mut self, index: usize, count: u64) {
        let bucket = &mut self.0[index.min(BUCKETS - 1)];
        *bucket = bucket.saturating_add(count);
    }

    /// Durations in bucket `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> u64 {
        self.0.get(index).copied().unwrap_or(0)
    }

    /// Buckets that have any, with their count.
    pub fn filled(&self) -> impl Iterator<Item = (usize, u64)> {
        self.0.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }

    /// All durations together.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// What was added since `earlier`; 0 for a bucket that went back.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = self.clone();
        for (count, before) in difference.0.iter_mut().zip(earlier.0.iter()) {
            *count = count.saturating_sub(*before);
        }
        difference
    }

    /// The duration in nanoseconds below which `fraction` (0 to 1) of all durations are, with the
    /// precision of a bucket: 25 % at worst. `max`, the longest one, bounds it. `None` without any.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank and a width of a bucket are far below 2^53, and not negative"
    )]
    pub fn percentile(&self, fraction: f64, max: u64) -> Option<u64> {
        let rank = (fraction.clamp(0.0, 1.0) * self.count() as f64).ceil().max(1.0) as u64;
        let mut before = 0_u64;
        for (index, count) in self.filled() {
            if before.saturating_add(count) >= rank {
                let start = bucket_start(index);
                let width = bucket_end(index).min(max).saturating_sub(start) as f64;
                let inside = (rank - before) as f64 / count as f64;
                return Some((start + (width * inside) as u64).min(max));
            }
            before += count;
        }
        None
    }
}

impl AddAssign<&Self> for Histogram {
    fn add_assign(&mut self, other: &Self) {
        for (index, count) in other.filled() {
            self.add(index, count);
        }
    }
}

/// Where time went, in nanoseconds. On a KVM without `kvm_entry` the guest's time is part of the
/// kernel's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// In the guest; of a TD, in the TDX module too.
    pub guest: u64,
    /// Outside of it, by [`Part`].
    pub parts: [u64; PARTS],
}

impl Times {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.parts.iter().fold(self.guest, |sum, ns| sum.saturating_add(*ns))
    }

    /// The time of `part`.
    #[must_use]
    pub const fn part(&self, part: Part) -> u64 {
        self.parts[part as usize]
    }

    /// What was added since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = *self;
        difference.guest = self.guest.saturating_sub(earlier.guest);
        for (ns, before) in difference.parts.iter_mut().zip(earlier.parts) {
            *ns = ns.saturating_sub(before);
        }
        difference
    }
}

impl AddAssign for Times {
    fn add_assign(&mut self, other: Self) {
        self.guest = self.guest.saturating_add(other.guest);
        for (ns, more) in self.parts.iter_mut().zip(other.parts) {
            *ns = ns.saturating_add(more);
        }
    }
}

#[cfg(test)]
mod tests {
    use tdtrace_common::latency::bucket;

    use super::*;

    fn of(durations: impl IntoIterator<Item = u64>) -> (Histogram, u64) {
        let mut histogram = Histogram::default();
        let mut max = 0;
        for ns in durations {
            histogram.add(bucket(ns), 1);
            max = max.max(ns);
        }
        (histogram, max)
    }

    #[test]
    fn percentiles_are_within_a_bucket_of_the_truth() {
        let (histogram, max) = of((1..=10_000).map(|n| n * 1_000));
        for (fraction, truth) in [(0.5, 5_000_000), (0.99, 9_900_000), (0.999, 9_990_000)] {
            let found = histogram.percentile(fraction, max).unwrap();
            assert!(found.abs_diff(truth) * 4 < truth, "{fraction}: {found} for {truth}");
        }
        assert_eq!(histogram.percentile(1.0, max), Some(10_000_000));
    }

    #[test]
    fn no_percentile_is_beyond_the_longest_duration() {
        let (histogram, max) = of([200, 200, u64::MAX / 2]);
        assert_eq!(histogram.percentile(1.0, max), Some(max));
        let (histogram, max) = of([50]);
        assert_eq!(histogram.percentile(0.5, max), Some(50));
        assert_eq!(Histogram::default().percentile(0.5, 0), None);
    }

    #[test]
    fn differences_never_go_below_zero() {
        let (early, _) = of([500, 500]);
        let (late, _) = of([500, 9_000]);
        assert_eq!(late.since(&early).filled().collect::<Vec<_>>(), [(bucket(9_000), 1)]);
        let times = Times { guest: 5, parts: [1, 2, 3, 4] };
        let less = Times { guest: 7, parts: [0, 2, 1, 9] };
        assert_eq!(times.since(&less), Times { guest: 0, parts: [1, 0, 2, 0] });
        assert_eq!(times.total(), 15);
    }
}
