//! Single durations that were longer than asked for, as text and JSON. Pure.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Show, table::table};
use crate::model::{
    field::{SLOW_FIELDS, pick, thousands, to_json as row_to_json},
    figure,
    filter::keeps,
    slow::Slow,
    snapshot::Snapshot,
};

/// Columns, with what has to go where there is not enough room.
const COLUMNS: &[(&str, u8)] = &[
    ("at_ns", 1),
    ("vm", 0),
    ("vcpu", 2),
    ("type", 7),
    ("reason", 0),
    ("time_ns", 0),
    ("kernel_ns", 3),
    ("vmm_ns", 4),
    ("halted_ns", 8),
    ("waiting_ns", 5),
];

/// Those that the filter leaves, the newest last, as many as places are listed.
fn kept<'a>(snapshot: &'a Snapshot, show: Show<'_>) -> Vec<&'a Slow> {
    let vm = |row: &Slow| snapshot.vms.iter().find(|vm| vm.id == row.vm);
    let rows = snapshot.slow.newest.iter().filter(|row| keeps(show.filter, *row, vm(row)));
    let rows: Vec<&Slow> = rows.collect();
    rows[rows.len().saturating_sub(show.hotspots)..].to_vec()
}

/// The table with its head; nothing if they were not asked for.
pub(super) fn to_text(snapshot: &Snapshot, show: Show<'_>, width: u16, text: &mut String) {
    let Some(limit) = snapshot.slow.limit else { return };
    let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
    let rows = kept(snapshot, show);
    let count = snapshot.slow.count;
    let _ = write!(text, "\nSLOWER THAN {}: {}", figure::duration(limit), thousands(count));
    if (rows.len() as u64) < count {
        let _ = write!(text, ", the last {}", rows.len());
    }
    if snapshot.losses.slow > 0 {
        let _ = write!(text, "; {} more found no room", thousands(snapshot.losses.slow));
    }
    text.push('\n');
    if !rows.is_empty() {
        text.push_str(&table(&pick(COLUMNS), &rows, width));
    }
}

/// The same; `null` if they were not asked for.
pub(super) fn to_json(snapshot: &Snapshot, show: Show<'_>) -> Value {
    let Some(limit) = snapshot.slow.limit else { return Value::Null };
    let rows = kept(snapshot, show);
    json!({
        "limit_ns": u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX),
        "count": snapshot.slow.count,
        "lost": snapshot.losses.slow,
        "newest": rows.into_iter().map(|row| row_to_json(SLOW_FIELDS, row)).collect::<Vec<_>>(),
    })
}
