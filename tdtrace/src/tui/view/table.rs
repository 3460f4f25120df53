//! A table of the field registry's columns, sorted by one of them, with a chosen row.

use std::cmp::Ordering;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::Line,
    widgets::Paragraph,
};

use super::{CHOSEN, HEAD, Rows};
use crate::{
    model::field::{Field, Value},
    report::Cells,
    tui::state::Order,
};

/// Cells between two columns.
const GAP: usize = 2;

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
    let by = &fields[order.column.min(fields.len() - 1)];
    sort(&mut rows, by, order.descending);
    let chosen = order.row.min(rows.len().saturating_sub(1));
    // The chosen row is always on the screen.
    let first = chosen.saturating_sub(page.saturating_sub(1));
    let shown = &rows[first.min(rows.len())..rows.len().min(first + page)];
    let cells = Cells::fit(fields, shown, area.width, GAP, |field| title(field, by.key, order));
    let heads = Line::styled(cells.line(&cells.titles, GAP), HEAD);
    frame.render_widget(Paragraph::new(heads), head);
    let width = usize::from(area.width);
    let lines: Vec<Line<'_>> = cells
        .rows
        .iter()
        .enumerate()
        .map(|(index, row)| {
            let line = cells.line(row, GAP);
            if first + index == chosen {
                Line::styled(format!("{line:<width$}"), CHOSEN)
            } else {
                Line::raw(line)
            }
        })
        .collect();
    frame.render_widget(Paragraph::new(lines), body);
    result
}

/// Sorted by `field`; rows that are equal in it keep their order, so that the screen is calm.
pub(super) fn sort<R>(rows: &mut [&R], field: &Field<R>, descending: bool) {
    rows.sort_by(|a, b| {
        let order = match ((field.value)(a), (field.value)(b)) {
            (Value::Text(a), Value::Text(b)) => a.cmp(&b),
            // What is not known is before every text; equal to all of them would be no order.
            (Value::None, Value::Text(_)) => Ordering::Less,
            (Value::Text(_), Value::None) => Ordering::Greater,
            (a, b) => a.order().total_cmp(&b.order()),
        };
        if descending { order.reverse() } else { order }
    });
}

fn title<R>(field: &Field<R>, sorted: &str, order: Order) -> String {
    let arrow = match (field.key == sorted, order.descending) {
        (false, _) => "",
        (true, true) => "▼",
        (true, false) => "▲",
    };
    format!("{}{arrow}", field.title)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_sorts_before_every_text() {
        const FIELD: Field<&str> = Field {
            key: "name",
            title: "NAME",
            right: false,
            rank: 0,
            help: "",
            value: |row| if row.is_empty() { Value::None } else { Value::Text((*row).to_owned()) },
        };
        let mut rows = vec![&"b", &"", &"a", &"", &"c"];
        sort(&mut rows, &FIELD, false);
        assert_eq!(rows, [&"", &"", &"a", &"b", &"c"]);
        sort(&mut rows, &FIELD, true);
        assert_eq!(rows, [&"c", &"b", &"a", &"", &""]);
    }
}
