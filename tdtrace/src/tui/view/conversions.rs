//! VMs that can convert memory, and below them how far the chosen one's private memory is mapped and which
//! regions were converted.

use ratatui::{
    Frame,
    layout::Rect,
    text::Line,
    widgets::{Block, Borders, Paragraph},
};
use tdtrace_common::{counters::Class, ledger::LedgerCount};

use super::{Shown, cut, split, table};
use crate::{
    model::{
        field::{Column, pick, thousands},
        figure,
        ledger::{Region, converts},
        snapshot::Vm,
    },
    report::{Cells, acceptance, since},
    tui::state::Rows,
};

/// Rows below the table at least; with fewer there is nothing.
const DETAIL: u16 = 4;
/// Cells of the bar, on a narrow screen and on a wide one.
const BARS: [usize; 2] = [10, 24];
/// From this width on the bar is the wide one.
const WIDE: u16 = 110;

fn columns() -> Vec<Column<Vm>> {
    pick(&[
        ("vm", 3),
        ("name", 0),
        ("demo", 0),
        ("kind", 9),
        ("conv_per_s", 1),
        ("to_shared", 2),
        ("to_private", 2),
        ("net_shared", 4),
        ("ping_pong", 3),
        ("retries", 5),
        ("mapped", 3),
        ("set_by_vmm", 7),
        ("punched", 10),
        ("memory_faults", 6),
        ("state", 8),
    ])
}

/// Draws the table, and below it what there is of the chosen VM.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) -> Rows {
    let vms = shown.scope().vms(shown.snapshot).filter(|vm| converts(vm));
    let (rows, hidden) = shown.filtered(vms, |vm| vm.id);
    if rows.is_empty() && hidden == 0 {
        let why = "no VM here converts memory: none is a TD, and none had its memory made private";
        frame.render_widget(Paragraph::new(why).style(shown.theme().dim), area);
        return Rows::default();
    }
    let (columns, order) = (columns(), shown.order());
    let (area, below) = split(area, rows.len(), DETAIL);
    if let (Some(below), Some(vm)) = (below, table::choose(&columns, rows.clone(), order)) {
        draw_vm(frame, below, vm, shown);
    }
    let drawn = table::draw(frame, area, &columns, rows, order, shown.theme());
    Rows { hidden, ..drawn }
}

fn draw_vm(frame: &mut Frame<'_>, area: Rect, vm: &Vm, shown: &Shown<'_>) {
    let demo = if vm.demo { "DEMO " } else { "" };
    let title = format!(" {demo}{} {}, {} ", vm.id, vm.name, since(shown.snapshot));
    let block = Block::new().borders(Borders::TOP).title(title);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let width = usize::from(inner.width);
    let bar = BARS[usize::from(inner.width >= WIDE)];
    let mapped = acceptance(&vm.ledger, bar)
        .unwrap_or_else(|| "no private memory was mapped for a fault".to_owned());
    let mut lines = vec![Line::raw(cut(&mapped, width))];
    lines.extend(trouble(vm).map(|text| Line::raw(cut(&text, width))));
    let left = usize::from(inner.height).saturating_sub(lines.len() + 1);
    lines.extend(regions(vm, left, inner.width, shown));
    frame.render_widget(Paragraph::new(lines), inner);
}

/// What went wrong, if anything did.
fn trouble(vm: &Vm) -> Option<String> {
    let ledger = &vm.ledger;
    let mut words = Vec::new();
    for (count, what) in [
        (ledger.both(LedgerCount::Refused), "MapGPA refused"),
        (vm.counts[Class::TdFaultAgain], "faults on the page just mapped"),
        (ledger.sample.count(LedgerCount::WithoutRegion), "conversions in regions not listed"),
    ] {
        if count > 0 {
            words.push(format!("{} {what}", thousands(count)));
        }
    }
    if let (Some(fault), Some(ago)) = (ledger.sample.fault, ledger.fault_ago) {
        let kind = if fault.private { "private" } else { "shared" };
        let ago = figure::duration(ago);
        words.push(format!("last memory fault {:#x} {kind} {ago} ago", fault.gpa));
    }
    (!words.is_empty()).then(|| words.join(", "))
}

/// A table of `rows` regions at most, with its head.
fn regions(vm: &Vm, rows: usize, width: u16, shown: &Shown<'_>) -> Vec<Line<'static>> {
    let regions: Vec<&Region> = vm.ledger.regions.iter().take(rows).collect();
    if regions.is_empty() {
        return Vec::new();
    }
    let columns = pick(&[
        ("gpa", 0),
        ("shared_calls", 1),
        ("private_calls", 1),
        ("turns", 2),
        ("shared_bytes", 5),
        ("private_bytes", 5),
        ("last", 4),
        ("ago_ns", 4),
    ]);
    let cells = Cells::fit(&columns, &regions, width, 2, |field| field.title.to_owned());
    let mut lines = vec![Line::styled(cells.line(&cells.titles, 2), shown.theme().head)];
    lines.extend(cells.rows.iter().map(|row| Line::raw(cells.line(row, 2))));
    lines
}
