//! A list of names and numbers with bars in proportion.

use std::cmp::Reverse;

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::Paragraph,
};

use super::cut;
use crate::{model::field::thousands, tui::theme::Theme};

/// One row.
pub(super) struct Bar {
    /// Rows of a higher group come after those of a lower one.
    pub(super) group: u8,
    /// What is counted.
    pub(super) name: String,
    /// How much.
    pub(super) count: u64,
}

/// Cells of a name at most.
const NAME: usize = 32;

/// Draws `rows` by group and count under `heads`, most first, as far as they fit.
pub(super) fn draw(
    frame: &mut Frame<'_>,
    area: Rect,
    heads: (&str, &str),
    mut rows: Vec<Bar>,
    theme: &Theme,
) {
    rows.sort_by_key(|row| (row.group, Reverse(row.count)));
    let page = usize::from(area.height.saturating_sub(1));
    let width = usize::from(area.width);
    let most = rows.iter().map(|row| row.count).max().unwrap_or(0);
    let number = thousands(most).len().max(heads.1.len());
    let longest = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let name = longest.max(heads.0.len()).min(NAME).min(width.saturating_sub(number + 1)).max(1);
    let mut lines = vec![Line::styled(
        format!("{:<name$} {:>number$}", cut(heads.0, name), heads.1),
        theme.head,
    )];
    let room = width.saturating_sub(name + number + 2);
    lines.extend(rows.iter().take(page).map(|row| {
        let text = format!("{:<name$} {:>number$} ", cut(&row.name, name), thousands(row.count));
        let bar = "█".repeat(length(row.count, most, room));
        Line::from(vec![Span::raw(text), Span::styled(bar, theme.figure)])
    }));
    frame.render_widget(Paragraph::new(lines), area);
}

/// Cells of a bar; what happened at all has at least one.
fn length(count: u64, most: u64, room: usize) -> usize {
    if count == 0 || most == 0 || room == 0 {
        return 0;
    }
    let cells = u128::from(count) * room as u128 / u128::from(most);
    usize::try_from(cells).unwrap_or(room).clamp(1, room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_in_proportion_and_never_overflow() {
        assert_eq!(length(50, 100, 10), 5);
        assert_eq!(length(1, u64::MAX, 10), 1);
        assert_eq!(length(u64::MAX, u64::MAX, 10), 10);
        assert_eq!(length(0, 100, 10), 0);
        assert_eq!(length(5, 5, 0), 0);
    }

    #[test]
    fn long_names_are_cut_with_a_mark() {
        assert_eq!(cut("mmio_read_unsatisfied", 10), "mmio_read…");
        assert_eq!(cut("pio", 10), "pio");
    }
}
