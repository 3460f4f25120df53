//! The sites with their verdicts, and why the chosen one has its.

use ratatui::{Frame, layout::Rect};

use super::{Shown, below, nothing, site, style, with_line};
use crate::{
    model::field::pick,
    tui::{
        state::Rows,
        view::{cut, split, table},
    },
};

/// Rows of the part below at least; with fewer there is none.
const BELOW: u16 = 7;

/// From rank 10 on a column goes if nothing is known in it.
const COLUMNS: &[(&str, u8)] = &[
    ("mark", 0),
    ("verdict", 1),
    ("survives", 0),
    ("per_s", 2),
    ("count", 10),
    ("place", 0),
    ("line", 11),
    ("device", 12),
    ("instruction", 13),
    ("touches", 14),
    ("via", 15),
    ("context", 17),
    ("failed", 17),
    ("mean_ns", 18),
    ("process", 20),
    ("reason", 16),
];

/// Draws the table, and the part below it where there is room.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) -> Rows {
    if shown.snapshot.sites.is_empty() {
        return nothing(frame, area, shown, "no #VE yet, so no instruction that causes one");
    }
    let (rows, hidden) = shown.filtered(&shown.snapshot.sites);
    let (columns, order) = (pick(COLUMNS), shown.order());
    let (area, rest) = split(area, rows.len(), BELOW);
    if let (Some(rest), Some(chosen)) = (rest, table::choose(&columns, rows.clone(), order)) {
        let width = usize::from(rest.width);
        let title = format!(" {} ", cut(&with_line(chosen), width.saturating_sub(4)));
        below(frame, rest, title, site::lines(chosen, width, shown.theme()));
    }
    let theme = shown.theme();
    let drawn =
        table::draw_styled(frame, area, &columns, rows, order, theme, |row| style(row, theme));
    Rows { hidden, leads_to: drawn.id, ..drawn }
}
