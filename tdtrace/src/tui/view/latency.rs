//! How long exits and returns took: percentiles by reason, and the chosen one's histogram.

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::{Block, Borders, Paragraph},
};
use tdtrace_common::latency::Part;

use super::{Shown, histogram, split, table};
use crate::{
    model::{
        exits::{self, ExitRow, Scope},
        field::{Column, pick, thousands},
        figure,
        snapshot::Latency,
    },
    tui::state::Rows,
};

/// Rows of the histogram at least; with fewer there is none.
const HISTOGRAM: u16 = 8;

fn columns(scope: Scope) -> Vec<Column<ExitRow>> {
    let mut keys = Vec::new();
    if scope == Scope::All {
        keys.extend([("vm", 9), ("name", 4)]);
    }
    keys.extend([
        ("type", 3),
        ("reason", 0),
        ("halt", 4),
        ("count", 5),
        ("per_s", 8),
        ("time_ns", 3),
        ("p50_ns", 1),
        ("p90_ns", 6),
        ("p99_ns", 1),
        ("p999_ns", 5),
        ("max_ns", 2),
    ]);
    pick(&keys)
}

/// Draws the table, and the histogram below it where there is room.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) -> Rows {
    let rows = exits::durations(shown.snapshot, shown.scope(), shown.state.halts);
    if rows.is_empty() {
        let text = Line::styled(nothing(shown.scope()), shown.theme().dim);
        frame.render_widget(Paragraph::new(text), area);
        return Rows::default();
    }
    let columns = columns(shown.scope());
    let order = shown.order();
    let (rows, hidden) = shown.filtered(&rows, |row| row.vm);
    let (area, below) = split(area, rows.len(), HISTOGRAM);
    let chosen = table::choose(&columns, rows.clone(), order);
    if let (Some(below), Some(row)) = (below, chosen)
        && let Some(latency) = &row.latency
    {
        draw_histogram(frame, below, row, latency, shown);
    }
    let drawn = table::draw(frame, area, &columns, rows, order, shown.theme());
    Rows { hidden, ..drawn }
}

const fn nothing(scope: Scope) -> &'static str {
    match scope {
        Scope::Vcpu(..) => "no durations of this vCPU yet; Esc goes back to those of its VM",
        Scope::All | Scope::Vm(_) => {
            "no durations: none has ended yet, or the programs take no time"
        }
    }
}

fn draw_histogram(
    frame: &mut Frame<'_>,
    area: Rect,
    row: &ExitRow,
    latency: &Latency,
    shown: &Shown<'_>,
) {
    let vcpu = match shown.scope() {
        Scope::Vcpu(_, vcpu) => format!(" vCPU {vcpu}"),
        Scope::All | Scope::Vm(_) => String::new(),
    };
    let (vm, count) = (&row.vm_name, thousands(latency.tally.total));
    let title = format!(" {vm}{vcpu} {}: {count} {}s ", row.reason, row.kind.name());
    let block = Block::new().borders(Borders::TOP).title(title);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let mut lines = vec![parts(latency, shown)];
    let size = (usize::from(inner.width), usize::from(inner.height.saturating_sub(1)));
    let drawn = histogram::lines(&latency.histogram, latency.max, size, shown.theme());
    lines.extend(drawn);
    frame.render_widget(Paragraph::new(lines), inner);
}

/// Where the time of these durations went.
fn parts(latency: &Latency, shown: &Shown<'_>) -> Line<'static> {
    let [kernel, vmm, halted, waiting] = latency.ns;
    let bar = figure::split([0, kernel, vmm, halted, waiting], 16);
    let total = figure::duration(latency.total_ns());
    let mut text = String::new();
    for (part, (cell, name)) in Part::ALL.into_iter().zip(&figure::SPLIT[1..]) {
        if latency.part(part) > 0 {
            text.push_str(&format!("  {cell} {name} {}", figure::duration(latency.part(part))));
        }
    }
    Line::from(vec![
        Span::raw(format!("time {total} ")),
        Span::styled(bar, shown.theme().figure),
        Span::raw(text),
    ])
}
