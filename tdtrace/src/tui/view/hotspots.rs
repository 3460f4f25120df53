//! Places, and below them why KVM_RUN returned to the VMM.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::Line,
    widgets::{Block, Borders, Paragraph},
};

use super::{Shown, table};
use crate::{
    model::{
        exits::{self, ExitRow, Kind, Scope},
        field::{Column, pick},
        snapshot::Hotspot,
    },
    report::Cells,
    tui::state::Rows,
};

fn columns(scope: Scope) -> Vec<Column<Hotspot>> {
    let mut keys = Vec::new();
    if scope == Scope::All {
        keys.extend([("vm", 13), ("name", 4)]);
    }
    keys.extend([
        ("class", 1),
        ("address", 0),
        ("what", 3),
        ("size", 7),
        ("direction", 12),
        ("served", 10),
        ("count", 3),
        ("per_s", 2),
    ]);
    pick(&keys)
}

/// Below this height there are no returns.
const TALL: u16 = 14;

/// Draws the table, and the returns below it where there is room.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) -> Rows {
    let (scope, interval) = (shown.scope(), shown.snapshot.interval);
    let of_vcpu: Vec<Hotspot>;
    let (rows, hidden) = match scope {
        Scope::All | Scope::Vm(_) => {
            let rows = scope.vms(shown.snapshot).flat_map(|vm| &vm.hotspots);
            shown.filtered(rows, |row| row.vm)
        }
        Scope::Vcpu(..) => {
            let vcpus = scope.vms(shown.snapshot).flat_map(|vm| scope.vcpus(vm));
            of_vcpu = vcpus.flat_map(|vcpu| exits::hotspots_of(vcpu, interval)).collect();
            shown.filtered(&of_vcpu, |row| row.vm)
        }
    };
    let mut returns = exits::rows(shown.snapshot, scope, shown.state.halts);
    returns.retain(|row| row.kind == Kind::Return);
    let (mut returns, _) = shown.filtered(&returns, |row| row.vm);
    returns.sort_by_key(|row| std::cmp::Reverse(row.tally.total));
    let needed = u16::try_from(returns.len() + 2).unwrap_or(u16::MAX).min(area.height / 3);
    let below = if returns.is_empty() || area.height < TALL { 0 } else { needed };
    let [area, below] =
        Layout::vertical([Constraint::Min(0), Constraint::Length(below)]).areas(area);
    draw_returns(frame, below, &returns, shown);
    let drawn = table::draw(frame, area, &columns(scope), rows, shown.order(), shown.theme());
    Rows { hidden, ..drawn }
}

fn draw_returns(frame: &mut Frame<'_>, area: Rect, rows: &[&ExitRow], shown: &Shown<'_>) {
    let block = Block::new().borders(Borders::TOP).title(" returns to the VMM ");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let mut keys = Vec::new();
    if shown.scope() == Scope::All {
        keys.extend([("vm", 9), ("name", 4)]);
    }
    keys.extend([
        ("reason", 0),
        ("halt", 5),
        ("count", 2),
        ("per_s", 1),
        ("vmm_ns", 3),
        ("p50_ns", 5),
    ]);
    keys.extend([("p99_ns", 4), ("max_ns", 6)]);
    let page = usize::from(inner.height.saturating_sub(1));
    let shown_rows = &rows[..rows.len().min(page)];
    let cells = Cells::fit(&pick(&keys), shown_rows, inner.width, 2, |field| match field.key {
        "vmm_ns" => "IN VMM".to_owned(),
        _ => field.title.to_owned(),
    });
    let mut lines = vec![Line::styled(cells.line(&cells.titles, 2), shown.theme().head)];
    lines.extend(cells.rows.iter().map(|row| Line::raw(cells.line(row, 2))));
    frame.render_widget(Paragraph::new(lines), inner);
}
