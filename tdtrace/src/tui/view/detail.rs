//! Below the table of VMs: what the chosen one does, by class and by place.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    widgets::{Block, Borders},
};
use tdtrace_common::counters::Class;

use super::{bars, bars::Bar};
use crate::model::{
    field::VM_FIELDS,
    snapshot::{Hotspot, Snapshot, Vm},
};
use crate::tui::state::Order;

/// The VM that is chosen in the table.
pub(super) fn chosen(snapshot: &Snapshot, order: Order) -> Option<&Vm> {
    let mut rows: Vec<&Vm> = snapshot.vms.iter().collect();
    super::table::sort(
        &mut rows,
        &VM_FIELDS[order.column.min(VM_FIELDS.len() - 1)],
        order.descending,
    );
    rows.get(order.row.min(rows.len().saturating_sub(1))).copied()
}

/// Draws what `vm` did over the last interval, or in total where there is none.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, vm: &Vm, snapshot: &Snapshot) {
    let title = format!(" {} {} ({}) ", vm.id, vm.name, vm.pid);
    let block = Block::new().borders(Borders::TOP).title(title);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let [left, right] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).spacing(2).areas(inner);
    let seconds = snapshot.interval.map(|interval| interval.as_secs_f64());
    let (counts, head) = match seconds {
        Some(_) => (vm.recent, "/s"),
        None => (vm.counts, "COUNT"),
    };
    let classes = Class::ALL
        .into_iter()
        .filter(|class| vm.counts[*class] > 0)
        .map(|class| Bar { name: class.name().to_owned(), count: per(counts[class], seconds) })
        .collect();
    bars::draw(frame, left, ("EVENTS", head), classes, true, 0);
    let mut places: Vec<Bar> = vm
        .hotspots
        .iter()
        .map(|place| Bar { name: name(place), count: rounded(place.tally.rate, place.tally.total) })
        .collect();
    places.extend(vm.other.iter().map(|(class, total)| Bar {
        name: format!("{} elsewhere", class.name()),
        count: elsewhere(vm, *class, *total, seconds),
    }));
    bars::draw(frame, right, ("PLACE", head), places, true, 0);
}

/// The address first: it is what is looked for. A well-known one says enough with its name.
fn name(place: &Hotspot) -> String {
    let what = place.what.as_deref().unwrap_or_default();
    format!("{:#x} {} {what}", place.address, place.class.name()).trim_end().to_owned()
}

/// Events of `class` that no place accounts for, per second where there is an interval.
fn elsewhere(vm: &Vm, class: Class, total: u64, seconds: Option<f64>) -> u64 {
    if seconds.is_none() {
        return total;
    }
    let placed: f64 = vm
        .hotspots
        .iter()
        .filter(|place| place.class == class)
        .filter_map(|place| place.tally.rate)
        .sum();
    per(vm.recent[class], seconds).saturating_sub(rounded(Some(placed), 0))
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is not negative, and beyond 2^53 it is only a bar"
)]
fn per(count: u64, seconds: Option<f64>) -> u64 {
    match seconds {
        Some(seconds) if seconds > 0.0 => (count as f64 / seconds).round() as u64,
        _ => count,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is not negative, and beyond 2^64 it saturates"
)]
fn rounded(rate: Option<f64>, total: u64) -> u64 {
    rate.map_or(total, |rate| rate.round() as u64)
}
