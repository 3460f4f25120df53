//! Counts of a guest from a chosen moment on: a base sample, taken off every later one. Counters only
//! grow, so a difference is exact; only the longest duration since then may be no more than a bound.

use std::{collections::HashMap, time::Duration};

use tdtrace_common::{
    guest::{CallKey, CallValue, VeKey, VeStats, VeValue},
    latency::bucket_end,
};

use super::sample::{GuestLosses, GuestSample};

/// The sample that counts are taken from.
#[derive(Clone, Debug)]
pub struct GuestBaseline {
    at: Duration,
    reasons: HashMap<usize, VeStats>,
    places: HashMap<VeKey, VeValue>,
    calls: HashMap<CallKey, CallValue>,
    losses: GuestLosses,
}

impl GuestBaseline {
    /// Counts from `sample` on.
    #[must_use]
    pub fn new(sample: &GuestSample) -> Self {
        Self {
            at: sample.at,
            reasons: sample.reasons.iter().copied().collect(),
            places: sample.places.iter().copied().collect(),
            calls: sample.calls.iter().copied().collect(),
            losses: sample.losses.clone(),
        }
    }

    /// When it was taken, since the counting began.
    #[must_use]
    pub const fn at(&self) -> Duration {
        self.at
    }

    /// What `sample` has more than the base. Reasons, places and calls of which there are none more are
    /// left out.
    #[must_use]
    pub fn since(&self, sample: &GuestSample) -> GuestSample {
        let reason = |(index, stats): &(usize, VeStats)| {
            let stats = self.reasons.get(index).map_or(*stats, |base| stats_since(stats, base));
            (stats.count > 0).then_some((*index, stats))
        };
        let place = |(key, value): &(VeKey, VeValue)| {
            let value = self.places.get(key).map_or(*value, |base| place_since(value, base));
            (value.count > 0).then_some((*key, value))
        };
        let call = |(key, value): &(CallKey, CallValue)| {
            let value = self.calls.get(key).map_or(*value, |base| call_since(value, base));
            (value.count > 0).then_some((*key, value))
        };
        GuestSample {
            reasons: sample.reasons.iter().filter_map(reason).collect(),
            places: sample.places.iter().filter_map(place).collect(),
            calls: sample.calls.iter().filter_map(call).collect(),
            losses: self.losses_since(&sample.losses),
            ..sample.clone()
        }
    }

    /// Whether `max`, the longest duration of a reason in a difference to the base, is a bound and not
    /// exact.
    #[must_use]
    pub fn bounds(&self, index: usize, max: u64) -> bool {
        max > 0 && self.reasons.get(&index).is_some_and(|base| max <= base.max_ns)
    }

    fn losses_since(&self, losses: &GuestLosses) -> GuestLosses {
        let causes = losses.causes.iter().filter_map(|(loss, count)| {
            let count = count.saturating_sub(self.losses.of(*loss));
            (count > 0).then_some((*loss, count))
        });
        let misses = losses
            .misses
            .iter()
            .map(|(name, count)| (name.clone(), count.saturating_sub(self.losses.missed(name))));
        GuestLosses { causes: causes.collect(), misses: misses.collect() }
    }
}

fn stats_since(stats: &VeStats, base: &VeStats) -> VeStats {
    let mut since = *stats;
    for (count, before) in since.buckets.iter_mut().zip(base.buckets) {
        *count = count.saturating_sub(before);
    }
    // A new longest one was seen; any other is somewhere in the highest bucket.
    let highest = since.buckets.iter().rposition(|count| *count > 0);
    since.max_ns = match highest {
        Some(_) if stats.max_ns > base.max_ns => stats.max_ns,
        Some(highest) => bucket_end(highest).min(stats.max_ns),
        None => 0,
    };
    since.count = stats.count.saturating_sub(base.count);
    since.failed = stats.failed.saturating_sub(base.failed);
    since.user = stats.user.saturating_sub(base.user);
    since.own = stats.own.saturating_sub(base.own);
    since.unpaired = stats.unpaired.saturating_sub(base.unpaired);
    since.ns = stats.ns.saturating_sub(base.ns);
    since
}

fn place_since(value: &VeValue, base: &VeValue) -> VeValue {
    let failed = value.failed.saturating_sub(base.failed);
    VeValue {
        count: value.count.saturating_sub(base.count),
        failed,
        timed: value.timed.saturating_sub(base.timed),
        ns: value.ns.saturating_sub(base.ns),
        errno: if failed > 0 { value.errno } else { 0 },
        ..*value
    }
}

/// Calls have no histogram: unless the longest is new, no more is known of the longest since the base
/// than that it is not below the mean.
fn call_since(value: &CallValue, base: &CallValue) -> CallValue {
    let (timed, ns) = (value.timed.saturating_sub(base.timed), value.ns.saturating_sub(base.ns));
    let is_new = value.max_ns > base.max_ns;
    CallValue {
        max_ns: if is_new { value.max_ns } else { ns.checked_div(timed).unwrap_or(0) },
        count: value.count.saturating_sub(base.count),
        failed: value.failed.saturating_sub(base.failed),
        bytes: value.bytes.saturating_sub(base.bytes),
        timed,
        ns,
        last_failure: value.last_failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::guest::{aggregate::GuestAggregate, testing};

    #[test]
    fn a_difference_is_exact_and_nothing_stays_of_what_stood_still() {
        let (before, after) = (testing::sample(10, 1), testing::sample(12, 3));
        let base = GuestBaseline::new(&before);
        let zero = base.since(&before);
        assert!(zero.reasons.is_empty() && zero.places.is_empty() && zero.calls.is_empty());
        assert!(zero.losses.causes.is_empty() && zero.losses.misses.iter().all(|(_, n)| *n == 0));
        let since = base.since(&after);
        for (key, value) in &since.places {
            let count = |sample: &GuestSample| {
                sample.places.iter().find(|(other, _)| other == key).map(|(_, value)| value.count)
            };
            assert_eq!(Some(value.count), Some(count(&after).unwrap() - count(&before).unwrap()));
        }
        let sum = |sample: &GuestSample| sample.reasons.iter().map(|(_, it)| it.count).sum::<u64>();
        assert_eq!(sum(&since), sum(&after) - sum(&before));
    }

    #[test]
    fn the_longest_since_a_reset_is_a_bound_unless_it_is_longer_than_all_before() {
        let (before, mut after) = (testing::sample(10, 1), testing::sample(12, 3));
        let mut aggregate = GuestAggregate::new();
        let now = aggregate.reset(&before);
        assert_eq!((now.total.count, now.since_reset), (0, Some(Duration::ZERO)));
        let bound = aggregate.apply(&after);
        let reason = &bound.reasons[0];
        assert!(reason.max_is_bound && reason.max_ns > 0, "{reason:?}");
        for (_, stats) in &mut after.reasons {
            stats.max_ns += 1_000_000;
        }
        let exact = aggregate.apply(&after);
        assert!(!exact.reasons[0].max_is_bound);
        assert_eq!(exact.since_reset, Some(Duration::from_secs(2)));
    }

    #[test]
    fn an_error_of_before_the_reset_is_not_shown_after_it() {
        let mut before = testing::sample(10, 1);
        before.places[0].1.failed = 1;
        before.places[0].1.errno = -14;
        let mut after = before.clone();
        after.places[0].1.count += 1;
        let since = GuestBaseline::new(&before).since(&after);
        assert_eq!((since.places[0].1.failed, since.places[0].1.errno), (0, 0));
    }
}
