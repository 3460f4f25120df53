//! SEAMCALLs as text and JSON.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{Show, table::table};
use crate::model::{
    field::{pick, thousands},
    filter::keeps,
    seam::{LEVEL_NAMES, Seamcall, operand_name, status_name, status_text},
    snapshot::Snapshot,
};

/// Columns of the table.
const COLUMNS: &[(&str, u8)] = &[
    ("seamcall", 0),
    ("count", 1),
    ("per_s", 4),
    ("failed", 2),
    ("busy", 2),
    ("retried", 6),
    ("kick_ns", 8),
    ("mean_ns", 6),
    ("p50_ns", 5),
    ("p99_ns", 4),
    ("max_ns", 5),
    ("missed", 7),
    ("pages", 11),
];

/// What of SEAMCALLs is not seen, one line a reason.
pub(super) fn not_seen(snapshot: &Snapshot, text: &mut String) {
    if let Some(why) = &snapshot.seam_absent {
        let _ = writeln!(text, "not seen: SEAMCALLs ({why})");
        return;
    }
    for row in &snapshot.seamcalls {
        if let Some(why) = &row.total.missing {
            let _ = writeln!(text, "not seen: calls of {} ({why})", row.total.name);
        }
    }
}

/// The rows that were called and that the filter leaves.
fn kept<'s>(snapshot: &'s Snapshot, show: Show<'_>) -> impl Iterator<Item = &'s Seamcall> {
    let called = |row: &&Seamcall| row.total.calls > 0 || row.total.missed > 0;
    let rows = snapshot.seamcalls.iter().filter(called);
    rows.filter(move |row| keeps(show.filter, *row, None))
}

/// The table, and below it every status that is no success.
pub(super) fn to_text(snapshot: &Snapshot, show: Show<'_>, text: &mut String) {
    let rows: Vec<&Seamcall> = kept(snapshot, show).collect();
    if rows.is_empty() {
        return;
    }
    let _ = write!(text, "\nSEAMCALLS, of all TDs together\n{}", table(&pick(COLUMNS), &rows, 100));
    for row in rows {
        let function = &row.total;
        for (status, count) in function.statuses.iter().filter(|(status, _)| *status != 0) {
            let status = status_text(*status, function.leaf);
            let _ = writeln!(text, "    {} {status}: {}", function.name, thousands(*count));
        }
        for (count, what) in [
            (function.unlisted, "without room for their status"),
            (function.unpaired, "without their beginning"),
        ] {
            if count > 0 {
                let _ = writeln!(text, "    {} {}: {what}", function.name, thousands(count));
            }
        }
    }
}

/// Every function that is counted, called or not.
pub(super) fn to_json(snapshot: &Snapshot, show: Show<'_>) -> Value {
    let counted = snapshot.seamcalls.iter().filter(|row| row.total.missing.is_none());
    counted.filter(|row| keeps(show.filter, *row, None)).map(row_json).collect()
}

/// Why SEAMCALLs are not seen: by function, or one sentence for all; null if they are.
pub(super) fn missing_json(snapshot: &Snapshot) -> Value {
    if let Some(why) = &snapshot.seam_absent {
        return json!(&**why);
    }
    let missing = |row: &Seamcall| {
        let why = row.total.missing.as_ref()?;
        Some((row.total.name.to_string(), Value::from(&**why)))
    };
    let missing: Map<String, Value> = snapshot.seamcalls.iter().filter_map(missing).collect();
    if missing.is_empty() { Value::Null } else { missing.into() }
}

fn row_json(row: &Seamcall) -> Value {
    let function = &row.total;
    let leaf = function.leaf;
    let by_status: Vec<Value> = function
        .statuses
        .iter()
        .map(|(status, count)| {
            json!({
                "status": status,
                "name": status_name(*status, leaf),
                "operand": operand_name(*status, leaf),
                "count": count,
            })
        })
        .collect();
    let pages: Map<String, Value> = LEVEL_NAMES
        .iter()
        .zip(function.levels)
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| ((*name).to_owned(), count.into()))
        .collect();
    json!({
        "function": &*function.name,
        "leaf": leaf,
        "leaf_name": row.leaf_name(),
        "calls": function.calls,
        "per_s": row.tally.rate,
        "failed": function.failures(),
        "by_status": by_status,
        "status_without_room": function.unlisted,
        "busy": function.busy(),
        "kicks": function.kicks(),
        "retried": function.kicks().map(|_| function.retried),
        "kick_ns": function.kicks().map(|_| function.kick_ns),
        "pages": pages,
        "unpaired": function.unpaired,
        "total_ns": function.ns,
        "mean_ns": row.mean(),
        "p50_ns": row.percentile(0.5),
        "p99_ns": row.percentile(0.99),
        "p999_ns": row.percentile(0.999),
        "max_ns": row.max(),
        "max_is_bound": row.max_is_bound,
        "missed": function.missed,
        "last_failure": function.failure.map(|failure| json!({
            "status": failure.status,
            "name": status_text(failure.status, leaf),
            "gpa": failure.gpa,
        })),
    })
}
