//! Exit reasons, exits from L2, returns to the VMM and other events, with where their time went.

use ratatui::{Frame, layout::Rect};

use super::{Shown, table};
use crate::{
    model::{
        exits::{self, ExitRow, Scope},
        field::{Column, pick},
    },
    tui::state::Rows,
};

/// Columns in their order; those of durations only where there are any.
fn columns(scope: Scope, durations: bool) -> Vec<Column<ExitRow>> {
    let mut keys = Vec::new();
    if scope == Scope::All {
        keys.extend([("vm", 9), ("name", 4)]);
    }
    keys.extend([("type", 3), ("reason", 0), ("halt", 4), ("count", 5), ("per_s", 1)]);
    if durations {
        keys.extend([
            ("share_pct", 3),
            ("time_ns", 2),
            ("kernel_ns", 4),
            ("vmm_ns", 4),
            ("halted_ns", 7),
            ("waiting_ns", 7),
            ("p50_ns", 6),
            ("p99_ns", 2),
            ("p999_ns", 8),
            ("max_ns", 6),
        ]);
    }
    pick(&keys)
}

/// Draws the table.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) -> Rows {
    let rows = exits::rows(shown.snapshot, shown.scope(), shown.state.halts);
    let columns = columns(shown.scope(), rows.iter().any(|row| row.latency.is_some()));
    let (rows, hidden) = shown.filtered(&rows, |row| row.vm);
    let drawn = table::draw(frame, area, &columns, rows, shown.order(), shown.theme());
    Rows { hidden, ..drawn }
}
