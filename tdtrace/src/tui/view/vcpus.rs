//! vCPUs: where the time of each goes, and KVM's own count against ours.

use ratatui::{Frame, layout::Rect};

use super::{Shown, table};
use crate::{
    model::{
        exits::Scope,
        field::{Column, pick},
        snapshot::Vcpu,
    },
    tui::state::Rows,
};

fn columns(scope: Scope, software: bool) -> Vec<Column<Vcpu>> {
    let mut keys = Vec::new();
    if scope == Scope::All {
        keys.extend([("vm", 8), ("name", 2)]);
    }
    keys.extend([("vcpu", 0), ("tid", 7), ("exits_per_s", 1), ("split", 3)]);
    keys.extend(if software {
        &[("kvm_run_pct", 4)][..]
    } else {
        &[("guest_pct", 4), ("kernel_pct", 4)]
    });
    keys.extend([
        ("vmm_pct", 4),
        ("halted_pct", 5),
        ("waiting_pct", 5),
        ("p99_ns", 10),
        ("audit", 6),
        ("exits", 8),
        ("runs", 9),
        ("kvm_says", 9),
        ("we_saw", 9),
    ]);
    pick(&keys)
}

/// Draws the table.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) -> Rows {
    let scope = shown.scope();
    let rows = scope.vms(shown.snapshot).flat_map(|vm| scope.vcpus(vm));
    let (rows, hidden) = shown.filtered(rows, |row| row.vm);
    let columns = columns(scope, shown.is_software());
    let drawn = table::draw(frame, area, &columns, rows, shown.order(), shown.theme());
    Rows { hidden, ..drawn }
}
