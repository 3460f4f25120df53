//! Durations by class, as rows and back.

use std::sync::Arc;

use tdtrace_common::latency::{BUCKETS, PARTS, bucket, bucket_start};

use super::{
    kind::Kind,
    row::{Key, Malformed, Row},
};
use crate::model::{latency::Histogram, sample::LatencySample};

/// Appends the rows of `samples`: the longest duration first, then what is not 0.
pub(super) fn push_rows(samples: &[LatencySample], rows: &mut Vec<Row>) {
    for sample in samples {
        rows.push(Row::number(Kind::DurationMax, sample.class, sample.max));
        for (kind, ns) in Kind::DURATION_PARTS.into_iter().zip(sample.ns) {
            if ns > 0 {
                rows.push(Row::number(kind, sample.class, ns));
            }
        }
        rows.extend(sample.histogram.filled().map(|(index, count)| Row {
            key: Key {
                kind: Kind::DurationCount,
                index: sample.class,
                address: bucket_start(index),
                size: 0,
            },
            value: count,
            text: None,
        }));
    }
}

/// Collects rows into samples.
#[derive(Default)]
pub(super) struct Durations(Vec<LatencySample>);

impl Durations {
    /// Takes `row` if it is about durations.
    pub(super) fn take(&mut self, row: &Row) -> Result<bool, Malformed> {
        let class = row.key.index;
        if row.key.kind == Kind::DurationMax {
            let histogram = Histogram::default();
            self.0.push(LatencySample { class, ns: [0; PARTS], max: row.value, histogram });
            return Ok(true);
        }
        let part = Kind::DURATION_PARTS.iter().position(|kind| *kind == row.key.kind);
        if part.is_none() && row.key.kind != Kind::DurationCount {
            return Ok(false);
        }
        let sample = self.0.last_mut().filter(|sample| sample.class == class);
        let sample = sample.ok_or(Malformed("durations without their longest one"))?;
        match part {
            Some(part) => sample.ns[part] = row.value,
            None => sample.histogram.add(bucket_at(row.key.address)?, row.value),
        }
        Ok(true)
    }

    /// All of them.
    pub(super) fn finish(self) -> Arc<[LatencySample]> {
        self.0.into()
    }
}

/// The bucket that begins at `ns`.
pub(super) fn bucket_at(ns: u64) -> Result<usize, Malformed> {
    let index = bucket(ns);
    let is_start = index < BUCKETS && bucket_start(index) == ns;
    is_start.then_some(index).ok_or(Malformed("a duration at which no bucket begins"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_is_found_by_its_beginning_and_by_nothing_else() {
        for index in 0..BUCKETS {
            assert_eq!(bucket_at(bucket_start(index)), Ok(index));
            assert!(bucket_at(bucket_start(index) + 1).is_err());
        }
    }
}
