//! SEAMCALLs as rows and back.

use tdtrace_common::{latency::bucket_start, seam::LEVELS};

use super::{
    durations::bucket_at,
    kind::Kind,
    row::{Key, Malformed, Row},
};
use crate::model::seam::{Failure, FunctionSample, SeamSample};

/// Wrappers in a recording at most.
const FUNCTIONS_MAX: usize = 256;

/// The rows of `seam`: none if nobody looked.
pub(super) fn rows(seam: &SeamSample) -> Vec<Row> {
    let mut rows = Vec::new();
    rows.extend(seam.absent.as_ref().map(|why| Row::text(Kind::SeamAbsent, 0, why)));
    for (index, function) in (0..).zip(&seam.functions) {
        push_rows(index, function, &mut rows);
    }
    rows
}

fn push_rows(index: u32, function: &FunctionSample, rows: &mut Vec<Row>) {
    let number = |kind, value| Row::number(kind, index, value);
    let mut name = Row::text(Kind::SeamFunction, index, &function.name);
    name.value = function.leaf.into();
    rows.push(name);
    rows.extend(function.missing.as_ref().map(|why| Row::text(Kind::SeamMissing, index, why)));
    if let Some(failure) = function.failure {
        rows.push(number(Kind::SeamFailure, failure.status));
        rows.extend(failure.gpa.map(|gpa| number(Kind::SeamFailureGpa, gpa)));
    }
    for (kind, value) in [
        (Kind::SeamCalls, function.calls),
        (Kind::SeamUnlisted, function.unlisted),
        (Kind::SeamUnpaired, function.unpaired),
        (Kind::SeamMissed, function.missed),
        (Kind::SeamTime, function.ns),
        (Kind::SeamMax, function.max),
        (Kind::SeamRetried, function.retried),
        (Kind::SeamKick, function.kick_ns),
    ] {
        if value > 0 {
            rows.push(number(kind, value));
        }
    }
    let keyed = |kind, address, size, value| Row {
        key: Key { kind, index, address, size },
        value,
        text: None,
    };
    for (level, count) in (0..).zip(function.levels) {
        if count > 0 {
            rows.push(keyed(Kind::SeamLevel, 0, level, count));
        }
    }
    let statuses = function.statuses.iter();
    rows.extend(statuses.map(|(status, count)| keyed(Kind::SeamStatus, *status, 0, *count)));
    let buckets = function.histogram.filled();
    rows.extend(
        buckets.map(|(bucket, count)| keyed(Kind::SeamDuration, bucket_start(bucket), 0, count)),
    );
}

/// The SEAMCALLs of `rows`.
pub(super) fn from_rows(rows: &[Row]) -> Result<SeamSample, Malformed> {
    let mut seam = SeamSample::default();
    for row in rows {
        match row.key.kind {
            Kind::SeamAbsent => seam.absent = Some(row.as_text().into()),
            Kind::SeamFunction => {
                if seam.functions.len() == FUNCTIONS_MAX {
                    return Err(Malformed("more SEAMCALL wrappers than any kernel"));
                }
                seam.functions.push(FunctionSample {
                    name: row.as_text().into(),
                    leaf: row.small()?,
                    ..FunctionSample::default()
                });
            }
            _ => {
                let function = seam.functions.last_mut();
                take(function.ok_or(Malformed("SEAMCALLs without their wrapper"))?, row)?;
            }
        }
    }
    Ok(seam)
}

fn take(function: &mut FunctionSample, row: &Row) -> Result<(), Malformed> {
    match row.key.kind {
        Kind::SeamMissing => function.missing = Some(row.as_text().into()),
        Kind::SeamFailure => function.failure = Some(Failure { status: row.value, gpa: None }),
        Kind::SeamFailureGpa => {
            let failure = function.failure.as_mut();
            failure.ok_or(Malformed("the GPA of no failure"))?.gpa = Some(row.value);
        }
        Kind::SeamCalls => function.calls = row.value,
        Kind::SeamUnlisted => function.unlisted = row.value,
        Kind::SeamUnpaired => function.unpaired = row.value,
        Kind::SeamMissed => function.missed = row.value,
        Kind::SeamTime => function.ns = row.value,
        Kind::SeamMax => function.max = row.value,
        Kind::SeamRetried => function.retried = row.value,
        Kind::SeamKick => function.kick_ns = row.value,
        Kind::SeamLevel => {
            let level = function.levels.get_mut((row.key.size as usize).min(LEVELS));
            *level.ok_or(Malformed("a size of pages that does not exist"))? = row.value;
        }
        Kind::SeamStatus => function.statuses.push((row.key.address, row.value)),
        Kind::SeamDuration => function.histogram.add(bucket_at(row.key.address)?, row.value),
        _ => return Err(Malformed("a row of SEAMCALLs that no wrapper has")),
    }
    Ok(())
}
