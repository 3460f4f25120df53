//! What #VEs are about: pages, ports, MSRs and CPUID leaves; and who touches the chosen one.

use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    widgets::{Block, Borders},
};

use super::{Shown, nothing};
use crate::{
    model::{
        field::pick,
        guest::rows::{self, Touched},
    },
    tui::{
        state::Rows,
        view::{
            bars::{self, Bar},
            cut, split, table,
        },
    },
};

/// Rows of the part below at least; with fewer there is none.
const BELOW: u16 = 5;

const COLUMNS: &[(&str, u8)] = &[
    ("kind", 4),
    ("touches", 0),
    ("per_s", 1),
    ("count", 2),
    ("failed", 6),
    ("device", 3),
    ("place", 3),
    ("sites", 5),
];

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) -> Rows {
    let touched = rows::touched(shown.snapshot);
    if touched.is_empty() {
        return nothing(frame, area, shown, "no #VE on a page, port, MSR or CPUID leaf yet");
    }
    let (rows, hidden) = shown.filtered(&touched);
    let (columns, order) = (pick(COLUMNS), shown.order());
    let (area, rest) = split(area, rows.len(), BELOW);
    let chosen = table::choose(&columns, rows.clone(), order);
    if let (Some(rest), Some(row)) = (rest, chosen) {
        draw_sites(frame, rest, row, shown);
    }
    let leads_to = chosen.and_then(|row| row.by.first()).map(|by| by.site);
    let drawn = table::draw_styled(frame, area, &columns, rows, order, shown.theme(), |row| {
        if row.object.failed > 0 { shown.theme().alarm } else { Style::new() }
    });
    Rows { hidden, leads_to, ..drawn }
}

fn draw_sites(frame: &mut Frame<'_>, area: Rect, row: &Touched, shown: &Shown<'_>) {
    let device = row.object.device.as_ref().map_or_else(String::new, |device| device.line());
    let title = format!(" {}  {device} ", row.object.object.text());
    let title = cut(&title, usize::from(area.width));
    let block = Block::new().borders(Borders::TOP).title(title);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let bar = |by: &rows::Toucher| Bar { group: 0, name: by.place.clone(), count: by.count };
    let bars = row.by.iter().map(bar).collect();
    bars::draw(frame, inner, ("touched by", "count"), bars, shown.theme());
}
