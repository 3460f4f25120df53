//! A table of the field registry's columns, sorted by one of them, with a chosen row.

use std::cmp::Ordering;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::Style,
    text::Line,
    widgets::Paragraph,
};

use crate::{
    model::field::{Column, Field, Row, Value},
    report::Cells,
    tui::{
        state::{Order, Rows},
        theme::Theme,
    },
};

/// Cells between two columns.
const GAP: usize = 2;

/// Draws `rows` and returns how many there are, how many fit and which one is chosen.
pub(super) fn draw<R: Row>(
    frame: &mut Frame<'_>,
    area: Rect,
    columns: &[Column<R>],
    rows: Vec<&R>,
    order: Order,
    theme: &Theme,
) -> Rows {
    draw_styled(frame, area, columns, rows, order, theme, |_| Style::new())
}

/// The same with a style for each row.
pub(super) fn draw_styled<R: Row>(
    frame: &mut Frame<'_>,
    area: Rect,
    columns: &[Column<R>],
    rows: Vec<&R>,
    order: Order,
    theme: &Theme,
    style: impl Fn(&R) -> Style,
) -> Rows {
    let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    let page = usize::from(body.height);
    let (total, by) = (rows.len(), column(columns, order));
    let rows = sort(rows, by, order.descending);
    let chosen = chosen(&rows, order);
    // The chosen row is always on the screen.
    let first = chosen.saturating_sub(page.saturating_sub(1));
    let shown = &rows[first.min(total)..total.min(first + page)];
    let cells = Cells::fit(columns, shown, area.width, GAP, |field| title(field, by, order));
    let heads = Line::styled(cells.line(&cells.titles, GAP), theme.head);
    frame.render_widget(Paragraph::new(heads), head);
    let width = usize::from(area.width);
    let lines: Vec<Line<'_>> = cells
        .rows
        .iter()
        .zip(shown)
        .enumerate()
        .map(|(index, (cells_of, row))| {
            let line = cells.line(cells_of, GAP);
            if first + index == chosen {
                Line::styled(format!("{line:<width$}"), theme.chosen)
            } else {
                Line::styled(line, style(row))
            }
        })
        .collect();
    frame.render_widget(Paragraph::new(lines), body);
    let keys = cells.columns.iter().map(|column| column.field.key);
    Rows {
        total,
        hidden: 0,
        page,
        row: chosen,
        id: rows.get(chosen).map(|row| row.id()),
        leads_to: None,
        closed: rows.get(chosen).is_some_and(|row| !row.opens()),
        sorted: by.map(|field| field.key),
        columns: keys.collect(),
    }
}

/// The column that is sorted by; the first one if there is none of this key.
fn column<R: Row>(columns: &[Column<R>], order: Order) -> Option<&'static Field<R>> {
    let by = columns.iter().find(|column| column.field.key == order.column);
    by.map(|column| column.field)
}

/// Where the chosen row is now; where it is gone, the row in its place.
pub(super) fn chosen<R: Row>(rows: &[&R], order: Order) -> usize {
    let same = order.id.and_then(|id| rows.iter().position(|row| row.id() == id));
    same.unwrap_or(order.row).min(rows.len().saturating_sub(1))
}

/// The chosen one of `rows`, sorted as [`draw`] does.
pub(super) fn choose<'r, R: Row>(
    columns: &[Column<R>],
    rows: Vec<&'r R>,
    order: Order,
) -> Option<&'r R> {
    let rows = sort(rows, column(columns, order), order.descending);
    rows.get(chosen(&rows, order)).copied()
}

/// Sorted by group and `field`; rows that are equal in it keep their order, so that the screen is calm.
fn sort<'r, R: Row>(rows: Vec<&'r R>, field: Option<&Field<R>>, descending: bool) -> Vec<&'r R> {
    let value = |row: &R| field.map_or(Value::None, |field| (field.value)(row));
    let mut rows: Vec<(Value, &R)> = rows.into_iter().map(|row| (value(row), row)).collect();
    rows.sort_by(|(a, one), (b, other)| {
        let order = compare(a, b);
        let order = if descending { order.reverse() } else { order };
        one.group().cmp(&other.group()).then(order)
    });
    rows.into_iter().map(|(_, row)| row).collect()
}

fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        // What is not known is before every text; equal to all of them would be no order.
        (Value::None, Value::Text(_)) => Ordering::Less,
        (Value::Text(_), Value::None) => Ordering::Greater,
        (a, b) => a.order().total_cmp(&b.order()),
    }
}

fn title<R>(field: &Field<R>, by: Option<&'static Field<R>>, order: Order) -> String {
    let arrow = match (by.is_some_and(|by| by.key == field.key), order.descending) {
        (false, _) => "",
        (true, true) => "▼",
        (true, false) => "▲",
    };
    format!("{}{arrow}", field.title)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::field::RowId;

    #[derive(Debug, PartialEq)]
    struct Named(&'static str, u8);

    impl Row for Named {
        const FIELDS: &'static [Field<Self>] = &[Field {
            key: "name",
            title: "NAME",
            right: false,
            rank: 0,
            help: "",
            value: |row| {
                if row.0.is_empty() { Value::None } else { Value::Text(row.0.to_owned()) }
            },
        }];

        fn id(&self) -> RowId {
            [0; 3]
        }

        fn group(&self) -> u8 {
            self.1
        }
    }

    fn names(rows: &[Named], descending: bool) -> Vec<&'static str> {
        let rows = sort(rows.iter().collect(), Named::FIELDS.first(), descending);
        rows.into_iter().map(|row| row.0).collect()
    }

    #[test]
    fn what_is_not_known_sorts_before_every_text() {
        let rows = ["b", "", "a", "", "c"].map(|name| Named(name, 0));
        assert_eq!(names(&rows, false), ["", "", "a", "b", "c"]);
        assert_eq!(names(&rows, true), ["c", "b", "a", "", ""]);
    }

    #[test]
    fn a_higher_group_is_last_in_both_directions() {
        let rows = [Named("c", 1), Named("a", 0), Named("b", 0)];
        assert_eq!(names(&rows, false), ["a", "b", "c"]);
        assert_eq!(names(&rows, true), ["b", "a", "c"]);
    }
}
