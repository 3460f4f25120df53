//! SEAMCALLs of the host by function, and of the chosen one its statuses and durations.

use ratatui::{
    Frame,
    layout::Rect,
    text::Line,
    widgets::{Block, Borders, Paragraph, Wrap},
};

use super::{Shown, histogram, split, table};
use crate::{
    model::{
        field::{Column, pick, thousands},
        figure,
        seam::{Seamcall, status_text},
    },
    tui::state::Rows,
};

/// Rows below the table at least; with fewer there are none.
const BELOW: u16 = 8;
/// Statuses that are listed at most.
const STATUSES: usize = 4;

fn columns() -> Vec<Column<Seamcall>> {
    pick(&[
        ("seamcall", 0),
        ("count", 1),
        ("per_s", 2),
        ("failed", 3),
        ("busy", 3),
        ("retried", 7),
        ("kick_ns", 9),
        ("time_ns", 6),
        ("mean_ns", 8),
        ("p50_ns", 5),
        ("p99_ns", 4),
        ("max_ns", 5),
        ("missed", 8),
        ("leaf", 11),
        ("pages", 12),
    ])
}

/// Draws the table, and the chosen function below it where there is room.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) -> Rows {
    if shown.snapshot.seamcalls.is_empty() {
        let why = shown.snapshot.seam_absent.as_deref();
        let text = why.map_or_else(
            || "SEAMCALLs were not looked for".to_owned(),
            |why| format!("no SEAMCALLs: {why}"),
        );
        let text = Paragraph::new(Line::styled(text, shown.theme().dim));
        frame.render_widget(text.wrap(Wrap { trim: true }), area);
        return Rows::default();
    }
    let (columns, order) = (columns(), shown.order());
    // They belong to no VM.
    let (rows, hidden) = shown.filtered(&shown.snapshot.seamcalls, |_| 0);
    let (area, below) = split(area, rows.len(), BELOW);
    let chosen = table::choose(&columns, rows.clone(), order);
    if let (Some(below), Some(row)) = (below, chosen) {
        draw_function(frame, below, row, shown);
    }
    let drawn = table::draw(frame, area, &columns, rows, order, shown.theme());
    Rows { hidden, ..drawn }
}

fn draw_function(frame: &mut Frame<'_>, area: Rect, row: &Seamcall, shown: &Shown<'_>) {
    let function = &row.total;
    let title =
        format!(" {} {}: {} calls ", function.name, row.leaf_name(), thousands(function.calls));
    let block = Block::new().borders(Borders::TOP).title(title);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let mut lines: Vec<Line<'static>> = text(row).into_iter().map(Line::from).collect();
    let height = usize::from(inner.height).saturating_sub(lines.len());
    let (width, height) = (usize::from(inner.width), height);
    lines.extend(histogram::lines(&function.histogram, function.max, width, height, shown.theme()));
    frame.render_widget(Paragraph::new(lines), inner);
}

/// What the table has no room for.
fn text(row: &Seamcall) -> Vec<String> {
    let function = &row.total;
    if let Some(why) = &function.missing {
        return vec![format!("not counted: {why}")];
    }
    let mut statuses = function.statuses.clone();
    statuses.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let mut words: Vec<String> = statuses
        .iter()
        .take(STATUSES)
        .map(|(status, count)| {
            format!("{} {}", status_text(*status, function.leaf), thousands(*count))
        })
        .collect();
    if statuses.len() > STATUSES {
        words.push(format!("{} more", statuses.len() - STATUSES));
    }
    let mut lines = vec![words.join("  ")];
    if let Some(failure) = function.failure {
        let status = status_text(failure.status, function.leaf);
        let gpa = failure.gpa.map_or_else(String::new, |gpa| format!(" at GPA {gpa:#x}"));
        lines.push(format!("last failure {status}{gpa}"));
    }
    if let Some(mean) = function.kick_ns.checked_div(function.retried) {
        let mean = figure::duration(mean);
        let retried = thousands(function.retried);
        lines.push(format!(
            "repeated {retried} times after kicking the vCPUs for {mean} on average"
        ));
    }
    if function.unpaired > 0 {
        lines.push(format!("{} without a duration", thousands(function.unpaired)));
    }
    lines
}
