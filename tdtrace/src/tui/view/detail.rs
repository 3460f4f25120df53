//! Below the table of VMs: where the chosen one's time goes, and what it does, by reason and by place.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::{Block, Borders, Paragraph},
};
use tdtrace_common::counters::Class;

use super::{Shown, bars, bars::Bar};
use crate::model::{
    exits::{self, ExitRow, Kind, Scope},
    field::Row as _,
    figure,
    latency::Times,
    sample::Isa,
    snapshot::{Hotspot, Span as Of, Vm},
};

/// Cells of the stacked bar and of the curve, on a narrow screen and on a wide one.
const FIGURES: [usize; 2] = [12, 32];
/// Rows of lists at least; with fewer the two lines above them go.
const LISTS: u16 = 6;
/// From this width on there are three lists.
const WIDE: u16 = 110;

/// Draws what `vm` did over the last interval, or in total where there is none.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, vm: &Vm, shown: &Shown<'_>) {
    let block = Block::new().borders(Borders::TOP).title(title(vm));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let lines = if inner.height >= LISTS + 2 { 2 } else { 0 };
    let [above, lists] =
        Layout::vertical([Constraint::Length(lines), Constraint::Min(0)]).areas(inner);
    if lines > 0 {
        let figure = FIGURES[usize::from(area.width >= WIDE)];
        let text = vec![time_line(vm, figure, shown), durations_line(vm, figure, shown)];
        frame.render_widget(Paragraph::new(text), above);
    }
    draw_lists(frame, lists, vm, shown);
}

fn title(vm: &Vm) -> String {
    let demo = if vm.demo { "DEMO " } else { "" };
    let ended = if vm.ended { ", ended" } else { "" };
    format!(" {demo}{} {} ({}{ended}) ", vm.id, vm.name, vm.pid)
}

/// Where the vCPUs' time went, with the legend of the bar.
fn time_line(vm: &Vm, figure: usize, shown: &Shown<'_>) -> Line<'static> {
    let head = Span::styled("time  ", shown.theme().head);
    let recent = vm.times.and_then(|times| times.recent).filter(|times| times.total() > 0);
    let Some(times) = recent else {
        let why = if vm.times.is_some() { "–" } else { "– the programs take no time" };
        return Line::from(vec![head, Span::styled(why, shown.theme().dim)]);
    };
    let shares = figure::shares(&times);
    let bar = Span::styled(figure::split(shares, figure), shown.theme().figure);
    Line::from(vec![head, bar, Span::raw(legend(&times, vm.isa == Isa::Software))])
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 53 bits")]
fn legend(times: &Times, software: bool) -> String {
    let percent = |ns: u64| ns as f64 / times.total() as f64 * 100.0;
    let mut shares = figure::shares(times);
    let mut named = figure::SPLIT;
    if software {
        // Both look the same from outside; the bar shows them with the cell of the kernel.
        shares = [0, shares[0].saturating_add(shares[1]), shares[2], shares[3], shares[4]];
        named[1].1 = "in KVM_RUN";
    }
    let skip = usize::from(software);
    let words = shares.into_iter().zip(named).skip(skip);
    words.map(|(ns, (cell, name))| format!(" {cell} {name} {:.0}%", percent(ns))).collect()
}

/// The curve of exits and their percentiles.
fn durations_line(vm: &Vm, figure: usize, shown: &Shown<'_>) -> Line<'static> {
    let halts = shown.state.halts;
    let software = vm.isa == Isa::Software;
    let (span, of) = if software { (Of::Return, "in VMM") } else { (Of::Exit, "exits") };
    let (histogram, max) = vm.durations(span, halts);
    let mut text = String::new();
    for (name, fraction) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        if let Some(ns) = histogram.percentile(fraction, max) {
            text.push_str(&format!("  {name} {}", figure::duration(ns)));
        }
    }
    if text.is_empty() {
        text.push_str("  no durations");
    } else {
        text = format!("  {of}{text}  {}", if halts { "with halts" } else { "without halts" });
    }
    Line::from(vec![
        Span::styled("exits ", shown.theme().head),
        Span::styled(figure::sparkline(&vm.history, figure), shown.theme().figure),
        Span::raw(text),
    ])
}

fn draw_lists(frame: &mut Frame<'_>, area: Rect, vm: &Vm, shown: &Shown<'_>) {
    let seconds = shown.snapshot.interval.map(|interval| interval.as_secs_f64());
    let head = if seconds.is_some() { "/s" } else { "COUNT" };
    let rows = exits::rows(shown.snapshot, Scope::Vm(vm.id), true);
    let of = |kind: Kind| -> Vec<Bar> {
        let rows = rows.iter().filter(|row| row.kind == kind);
        rows.map(|row: &ExitRow| Bar {
            group: 0,
            name: row.reason.clone(),
            count: rounded(row.tally.rate, row.tally.total),
        })
        .collect()
    };
    let exits = [("EXIT REASON", of(Kind::Exit)), ("RETURN TO VMM", of(Kind::Return))];
    let mut lists: Vec<(&str, Vec<Bar>)> =
        exits.into_iter().filter(|(_, rows)| !rows.is_empty()).collect();
    if area.width < WIDE {
        lists.truncate(1);
    }
    lists.push(("PLACE", places(vm, seconds)));
    let columns = Layout::horizontal(vec![Constraint::Fill(1); lists.len()]).spacing(2).split(area);
    for ((title, rows), area) in lists.into_iter().zip(columns.iter()) {
        bars::draw(frame, *area, (title, head), rows, shown.theme());
    }
}

fn places(vm: &Vm, seconds: Option<f64>) -> Vec<Bar> {
    let mut places: Vec<Bar> = vm
        .hotspots
        .iter()
        .map(|place| Bar {
            group: place.group(),
            name: name(place),
            count: rounded(place.tally.rate, place.tally.total),
        })
        .collect();
    places.extend(vm.other.iter().map(|(class, total)| Bar {
        group: u8::from(!class.is_asked_for()),
        name: format!("{} elsewhere", class.name()),
        count: elsewhere(vm, *class, *total, seconds),
    }));
    places
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
