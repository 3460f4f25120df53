//! Single durations that were longer than asked for.

use ratatui::{Frame, layout::Rect, text::Line, widgets::Paragraph};

use super::{Shown, table};
use crate::{
    model::{
        exits::Scope,
        field::{Column, pick},
        slow::Slow,
    },
    tui::state::Rows,
};

fn columns(scope: Scope) -> Vec<Column<Slow>> {
    let mut keys = vec![("at_ns", 1)];
    if scope == Scope::All {
        keys.extend([("vm", 10), ("name", 3)]);
    }
    keys.extend([
        ("vcpu", 2),
        ("type", 9),
        ("reason", 0),
        ("time_ns", 0),
        ("kernel_ns", 4),
        ("vmm_ns", 5),
        ("halted_ns", 8),
        ("waiting_ns", 6),
        ("tid", 11),
    ]);
    pick(&keys)
}

/// Draws the table, or why there is none.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) -> Rows {
    let log = &shown.snapshot.slow;
    if log.limit.is_none() {
        let why = "single exits are not listed; start tdtrace with --slower-than 1ms";
        frame.render_widget(Paragraph::new(Line::from(why).style(shown.theme().dim)), area);
        return Rows::default();
    }
    let scope = shown.scope();
    let in_scope = |row: &&Slow| match scope {
        Scope::All => true,
        Scope::Vm(vm) => row.vm == vm,
        Scope::Vcpu(vm, vcpu) => (row.vm, row.vcpu) == (vm, vcpu),
    };
    let (rows, hidden) = shown.filtered(log.newest.iter().filter(in_scope), |row| row.vm);
    let drawn = table::draw(frame, area, &columns(scope), rows, shown.order(), shown.theme());
    Rows { hidden, ..drawn }
}
