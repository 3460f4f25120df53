//! A table of the field registry's columns, sorted by one of them, with a chosen row.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::Line,
    widgets::Paragraph,
};

use super::{CHOSEN, HEAD, Rows};
use crate::{
    model::field::{Field, Value},
    report::columns,
    tui::state::Order,
};

/// Draws `rows` and returns how many there are and how many fit.
pub(super) fn draw<R>(
    frame: &mut Frame<'_>,
    area: Rect,
    fields: &'static [Field<R>],
    mut rows: Vec<&R>,
    order: Order,
) -> Rows {
    let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    let page = usize::from(body.height);
    let result = Rows { total: rows.len(), page };
    sort(&mut rows, &fields[order.column.min(fields.len() - 1)], order.descending);
    let chosen = order.row.min(rows.len().saturating_sub(1));
    // The chosen row is always on the screen.
    let first = chosen.saturating_sub(page.saturating_sub(1));
    let fields_shown = columns(fields, area.width);
    let cells: Vec<Vec<String>> = rows
        .iter()
        .skip(first)
        .take(page)
        .map(|row| fields_shown.iter().map(|field| (field.value)(row).to_cell()).collect())
        .collect();
    let sorted_key = fields[order.column.min(fields.len() - 1)].key;
    let titles: Vec<String> =
        fields_shown.iter().map(|field| title(field, sorted_key, order.descending)).collect();
    let widths = widths(&titles, &cells);
    frame.render_widget(Paragraph::new(line(&fields_shown, &titles, &widths).style(HEAD)), head);
    let lines: Vec<Line<'_>> = cells
        .iter()
        .enumerate()
        .map(|(index, row)| {
            let line = line(&fields_shown, row, &widths);
            if first + index == chosen { line.style(CHOSEN) } else { line }
        })
        .collect();
    frame.render_widget(Paragraph::new(lines), body);
    result
}

/// Sorted by `field`; rows that are equal in it keep their order, so that the screen is calm.
fn sort<R>(rows: &mut [&R], field: &Field<R>, descending: bool) {
    rows.sort_by(|a, b| {
        let order = match ((field.value)(a), (field.value)(b)) {
            (Value::Text(a), Value::Text(b)) => a.cmp(&b),
            (a, b) => a.order().total_cmp(&b.order()),
        };
        if descending { order.reverse() } else { order }
    });
}

fn title<R>(field: &Field<R>, sorted: &str, descending: bool) -> String {
    let arrow = match (field.key == sorted, descending) {
        (false, _) => "",
        (true, true) => "▼",
        (true, false) => "▲",
    };
    format!("{}{arrow}", field.title)
}

fn widths(titles: &[String], cells: &[Vec<String>]) -> Vec<usize> {
    let mut widths: Vec<usize> = titles.iter().map(|title| title.chars().count()).collect();
    for row in cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    widths
}

fn line<R>(fields: &[&Field<R>], cells: &[String], widths: &[usize]) -> Line<'static> {
    let mut text = String::new();
    for ((cell, field), width) in cells.iter().zip(fields).zip(widths) {
        let width = *width;
        text.push_str(&if field.right {
            format!("{cell:>width$}  ")
        } else {
            format!("{cell:<width$}  ")
        });
    }
    Line::from(text.trim_end().to_owned())
}
