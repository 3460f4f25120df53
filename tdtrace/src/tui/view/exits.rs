//! Events by class, exits by reason and returns to the VMM, over all VMs.

use std::collections::BTreeMap;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
};

use super::{Rows, bars, bars::Bar};
use crate::{
    model::snapshot::{Snapshot, Vm},
    tui::state::Order,
};

/// Draws the lists that have rows side by side.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot, order: Order) -> Rows {
    let classes = snapshot
        .counts
        .iter()
        .map(|(class, count)| Bar { name: class.name().to_owned(), count })
        .collect();
    let lists = [
        ("EVENTS", classes),
        ("EXIT REASON", sum(snapshot, Vm::reasons)),
        ("RETURN TO VMM", sum(snapshot, Vm::userspace)),
    ];
    let lists: Vec<(&str, Vec<Bar>)> =
        lists.into_iter().filter(|(_, rows)| !rows.is_empty()).collect();
    let total = lists.iter().map(|(_, rows)| rows.len()).max().unwrap_or(0);
    let columns = Layout::horizontal(vec![Constraint::Fill(1); lists.len()]).spacing(2).split(area);
    for ((title, rows), area) in lists.into_iter().zip(columns.iter()) {
        bars::draw(frame, *area, (title, "COUNT"), rows, order.descending, order.row);
    }
    Rows { total, page: usize::from(area.height.saturating_sub(1)) }
}

fn sum(snapshot: &Snapshot, of: impl Fn(&Vm) -> BTreeMap<String, u64>) -> Vec<Bar> {
    let mut total: BTreeMap<String, u64> = BTreeMap::new();
    for (name, count) in snapshot.vms.iter().flat_map(of) {
        *total.entry(name).or_default() += count;
    }
    total.into_iter().map(|(name, count)| Bar { name, count }).collect()
}
