//! The overview: one row a VM, and below the table what the chosen one does.

use ratatui::{Frame, layout::Rect};

use super::{Shown, detail, split, table};
use crate::{
    model::{
        field::{Column, pick},
        snapshot::Vm,
    },
    tui::state::Rows,
};

/// Rows of the detail at least; with fewer there is none.
const DETAIL: u16 = 6;

/// Columns in their order, each with what has to go first where there is not enough room.
fn columns(software: bool, halts: bool) -> Vec<Column<Vm>> {
    let mut keys = vec![
        ("vm", 3),
        ("name", 0),
        ("demo", 0),
        ("fate", 1),
        ("kind", 3),
        ("vmm", 13),
        ("container", 15),
        ("pid", 12),
        ("vcpus", 4),
        ("exits_per_s", 1),
        ("trend", 5),
        ("split", 5),
    ];
    keys.extend(if software {
        &[("kvm_run_pct", 6)][..]
    } else {
        &[("guest_pct", 6), ("kernel_pct", 6)]
    });
    keys.extend([("vmm_pct", 6), ("halted_pct", 7), ("waiting_pct", 7)]);
    // Without kvm_exit no exit has a duration, but what the VMM takes has.
    keys.extend(match (software, halts) {
        (true, _) => &[("vmm_p99_ns", 4)][..],
        (false, false) => &[("p50_ns", 14), ("p99_ns", 4), ("vmm_p99_ns", 14)],
        (false, true) => &[("p99_halts_ns", 4), ("vmm_p99_ns", 14)],
    });
    keys.extend([
        ("to_vmm_per_s", 8),
        ("exits", 9),
        ("audit", 11),
        ("findings", 6),
        ("state", 2),
        ("poisoned", 10),
    ]);
    pick(&keys)
}

/// Draws the table, and the detail where there is room.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) -> Rows {
    let (rows, hidden) = shown.filtered(shown.scope().vms(shown.snapshot), |vm| vm.id);
    let columns = columns(shown.is_software(), shown.state.halts);
    let order = shown.order();
    let (area, below) = split(area, rows.len(), DETAIL);
    if let (Some(below), Some(vm)) = (below, table::choose(&columns, rows.clone(), order)) {
        detail::draw(frame, below, vm, shown);
    }
    let drawn = table::draw(frame, area, &columns, rows, order, shown.theme());
    Rows { hidden, ..drawn }
}
