//! Events by class, exits by reason and returns to the VMM, over all VMs, with bars.

use std::collections::BTreeMap;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{DIM, HEAD, Rows};
use crate::{
    model::{field::thousands, snapshot::Snapshot},
    tui::state::Order,
};

struct Row {
    name: String,
    count: u64,
}

/// Draws three lists side by side, or one under the other where the screen is narrow.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot, order: Order) -> Rows {
    let classes = snapshot
        .counts
        .iter()
        .map(|(class, count)| Row { name: class.name().to_owned(), count })
        .collect();
    let reasons = sum(snapshot, |vm| vm.reasons());
    let returns = sum(snapshot, |vm| vm.userspace());
    let lists = [("EVENTS", classes), ("EXIT REASON", reasons), ("RETURN TO VMM", returns)];
    let lists: Vec<(&str, Vec<Row>)> =
        lists.into_iter().filter(|(_, rows)| !rows.is_empty()).collect();
    let total = lists.iter().map(|(_, rows)| rows.len()).max().unwrap_or(0);
    let columns = Layout::horizontal(vec![Constraint::Fill(1); lists.len()]).spacing(2).split(area);
    let page = usize::from(area.height.saturating_sub(1));
    for ((title, mut rows), area) in lists.into_iter().zip(columns.iter()) {
        rows.sort_by(|a, b| b.count.cmp(&a.count));
        if !order.descending {
            rows.reverse();
        }
        let first = order.row.min(rows.len().saturating_sub(page));
        let mut lines = vec![head(title, area.width)];
        let most = rows.iter().map(|row| row.count).max().unwrap_or(0);
        lines.extend(rows.iter().skip(first).take(page).map(|row| line(row, most, area.width)));
        frame.render_widget(Paragraph::new(lines), *area);
    }
    Rows { total, page }
}

fn sum<'a>(
    snapshot: &'a Snapshot,
    of: impl Fn(&'a crate::model::snapshot::Vm) -> BTreeMap<&'a str, u64>,
) -> Vec<Row> {
    let mut total: BTreeMap<&str, u64> = BTreeMap::new();
    for vm in &snapshot.vms {
        for (name, count) in of(vm) {
            *total.entry(name).or_default() += count;
        }
    }
    total.into_iter().map(|(name, count)| Row { name: name.to_owned(), count }).collect()
}

/// Cells of the number.
const NUMBER: usize = 12;

fn head(title: &str, width: u16) -> Line<'static> {
    let name = usize::from(width).saturating_sub(NUMBER + 1).clamp(1, NAME);
    Line::styled(format!("{:<name$} {:>NUMBER$}", cut(title, name), "COUNT"), HEAD)
}

/// Cells of a name at most.
const NAME: usize = 22;

fn line(row: &Row, most: u64, width: u16) -> Line<'static> {
    let width = usize::from(width);
    let name = width.saturating_sub(NUMBER + 1).clamp(1, NAME);
    let text = format!("{:<name$} {:>NUMBER$}", cut(&row.name, name), thousands(row.count));
    let room = width.saturating_sub(name + NUMBER + 2);
    Line::from(vec![
        Span::raw(text),
        Span::raw(" "),
        Span::styled("█".repeat(bar(row.count, most, room)), DIM),
    ])
}

/// Cells of a bar; what happened at all has at least one.
fn bar(count: u64, most: u64, room: usize) -> usize {
    if count == 0 || most == 0 || room == 0 {
        return 0;
    }
    let cells = u128::from(count) * room as u128 / u128::from(most);
    usize::try_from(cells).unwrap_or(room).clamp(1, room)
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_in_proportion_and_never_overflow() {
        assert_eq!(bar(50, 100, 10), 5);
        assert_eq!(bar(1, u64::MAX, 10), 1);
        assert_eq!(bar(u64::MAX, u64::MAX, 10), 10);
        assert_eq!(bar(0, 100, 10), 0);
        assert_eq!(bar(5, 5, 0), 0);
    }

    #[test]
    fn long_names_are_cut_with_a_mark() {
        assert_eq!(cut("mmio_read_unsatisfied", 10), "mmio_read…");
        assert_eq!(cut("pio", 10), "pio");
    }
}
