//! Columns of SEAMCALLs.

use super::{Field, Row, RowId, Value, left, nanos, right, text, total};
use crate::model::seam::{LEVEL_NAMES, Seamcall, status_text};

impl Row for Seamcall {
    const FIELDS: &'static [Field<Self>] = SEAM_FIELDS;

    fn id(&self) -> RowId {
        [self.number.into(), 0, 0]
    }

    fn opens(&self) -> bool {
        false
    }

    /// What is not counted comes after what is, and then what was never called.
    fn group(&self) -> u8 {
        match (&self.total.missing, self.total.calls) {
            (None, 1..) => 0,
            (None, 0) => 1,
            (Some(_), _) => 2,
        }
    }
}

/// A number of calls; nothing where none are counted.
fn counted(row: &Seamcall, count: u64) -> Value {
    if row.total.missing.is_some() { Value::None } else { Value::Count(count) }
}

/// How many of each size, `4k 12, 2m 3`.
fn pages(row: &Seamcall) -> Value {
    let levels = LEVEL_NAMES.iter().zip(row.total.levels).filter(|(_, count)| *count > 0);
    let words: Vec<String> = levels.map(|(name, count)| format!("{name} {count}")).collect();
    if words.is_empty() { Value::None } else { Value::Text(words.join(", ")) }
}

/// Columns of SEAMCALLs.
pub const SEAM_FIELDS: &[Field<Seamcall>] = &[
    left("seamcall", "SEAMCALL", 0, "the kernel's function, named after the SEAMCALL", |row| {
        text(&row.total.name)
    }),
    right("leaf", "LEAF", 9, "number of the SEAMCALL", |row| Value::Id(row.total.leaf.into())),
    right("count", "COUNT", 1, "how many returned since attaching", |row| {
        match row.total.missing {
            Some(_) => Value::None,
            None => total(row.tally),
        }
    }),
    right("per_s", "/s", 2, "how many per second", |row| {
        Value::Rate(row.tally.rate.filter(|_| row.total.missing.is_none()))
    }),
    right("failed", "FAILED", 3, "those with an error in their status", |row| {
        counted(row, row.total.failures())
    }),
    right("busy", "BUSY", 3, "OPERAND_BUSY: somebody else had what it needed", |row| {
        counted(row, row.total.busy())
    }),
    right(
        "retried",
        "RETRIED",
        6,
        "repeated after OPERAND_BUSY and kicking the vCPUs, where KVM does so",
        |row| row.total.kicks().map_or(Value::None, |_| counted(row, row.total.retried)),
    ),
    right("kick_ns", "KICKING", 8, "from OPERAND_BUSY to the repetition, all together", |row| {
        nanos((row.total.retried > 0).then_some(row.total.kick_ns))
    }),
    right("time_ns", "TIME", 7, "all together", |row| {
        nanos((row.total.histogram.count() > 0).then_some(row.total.ns))
    }),
    right("mean_ns", "MEAN", 6, "on average", |row| nanos(row.mean())),
    right("p50_ns", "P50", 5, "half of them took less", |row| nanos(row.percentile(0.5))),
    right("p99_ns", "P99", 4, "99 % of them took less", |row| nanos(row.percentile(0.99))),
    right("p999_ns", "P99.9", 8, "99.9 % of them took less", |row| nanos(row.percentile(0.999))),
    right("max_ns", "MAX", 5, "the longest; ≤ where only a bound is known since a reset", |row| {
        match row.max() {
            Some(max) if row.max_is_bound => Value::AtMost(max),
            max => nanos(max),
        }
    }),
    right("missed", "MISSED", 7, "returns that the probe missed", |row| {
        counted(row, row.total.missed)
    }),
    left("pages", "PAGES", 11, "calls by size of page, where the arguments tell", pages),
    left("failure", "LAST FAILURE", 12, "the last status with an error", |row| {
        let leaf = row.total.leaf;
        let failure = row.total.failure;
        failure.map_or(Value::None, |failure| Value::Text(status_text(failure.status, leaf)))
    }),
];
