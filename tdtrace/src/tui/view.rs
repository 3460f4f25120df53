//! The screen: header, tabs, the view chosen, footer. Takes a snapshot and the user's choices, and
//! returns cells.

mod bars;
mod detail;
mod exits;
mod help;
mod table;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::Paragraph,
};

use super::state::{State, View};
use crate::model::{
    field::{HOTSPOT_FIELDS, VCPU_FIELDS, VM_FIELDS, hotspot_rows, thousands, vcpu_rows},
    snapshot::{ExitSource, Snapshot},
};

/// Something is wrong: lost events, an audit that does not agree.
const ALARM: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
/// Less important than what stands beside it.
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
/// What is chosen.
const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);
/// Heads of tables.
const HEAD: Style = Style::new().add_modifier(Modifier::BOLD);

/// Draws the screen and returns how many rows its table has and shows.
pub fn draw(frame: &mut Frame<'_>, snapshot: Option<&Snapshot>, state: &State) -> Rows {
    let [header, tabs, body, footer] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(header_line(snapshot, state, header.width)), header);
    frame.render_widget(Paragraph::new(tabs_line(state)), tabs);
    frame.render_widget(Paragraph::new(footer_line(snapshot)), footer);
    let rows = match snapshot {
        None => {
            frame.render_widget(Paragraph::new("attaching …").style(DIM), body);
            Rows::default()
        }
        Some(snapshot) => draw_view(frame, body, snapshot, state),
    };
    if state.help {
        help::draw(frame, body);
    }
    rows
}

/// Rows of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// All there are.
    pub total: usize,
    /// Those that fit on the screen.
    pub page: usize,
}

fn draw_view(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot, state: &State) -> Rows {
    if snapshot.vms.is_empty() {
        frame.render_widget(Paragraph::new(nothing_yet(snapshot)), area);
        return Rows::default();
    }
    let order = state.order();
    match state.view {
        View::Vms => {
            let (area, below) = split(area, snapshot.vms.len());
            if let (Some(below), Some(vm)) = (below, detail::chosen(snapshot, order)) {
                detail::draw(frame, below, vm, snapshot);
            }
            table::draw(frame, area, VM_FIELDS, snapshot.vms.iter().collect(), order)
        }
        View::Exits => exits::draw(frame, area, snapshot, order),
        View::Hotspots => {
            table::draw(frame, area, HOTSPOT_FIELDS, hotspot_rows(snapshot).collect(), order)
        }
        View::Vcpus => table::draw(frame, area, VCPU_FIELDS, vcpu_rows(snapshot).collect(), order),
    }
}

/// Rows of the detail below the table at least; with fewer there is none.
const DETAIL: u16 = 6;

/// The table's part, and what is left below it: the table gets what its rows need, up to half.
fn split(area: Rect, rows: usize) -> (Rect, Option<Rect>) {
    let needed = u16::try_from(rows + 1).unwrap_or(u16::MAX);
    let table = needed.min((area.height / 2).max(2));
    if area.height.saturating_sub(table) < DETAIL {
        return (area, None);
    }
    let [table, below] =
        Layout::vertical([Constraint::Length(table), Constraint::Min(0)]).areas(area);
    (table, Some(below))
}

/// No VM has run: say what would show, and what cannot.
fn nothing_yet(snapshot: &Snapshot) -> Vec<Line<'static>> {
    let mut lines = vec![
        Line::from("no VM has run yet"),
        Line::from("start one, or try: tdtrace workload --pio 1000000 --rate 1000").style(DIM),
    ];
    for probe in snapshot.probes.iter() {
        if let Some(why) = &probe.missing {
            lines.push(Line::from(format!("not seen: {} ({why})", probe.hides)).style(DIM));
        }
    }
    lines
}

/// The most important first, so that a narrow screen cuts the rest.
fn header_line(snapshot: Option<&Snapshot>, state: &State, width: u16) -> Line<'static> {
    let mut spans = vec![Span::styled("tdtrace", HEAD), Span::raw("  ")];
    if state.paused {
        spans.push(Span::styled(" paused ", CHOSEN));
        spans.push(Span::raw("  "));
    }
    if state.over {
        spans.push(Span::styled(" end of recording ", CHOSEN));
        spans.push(Span::raw("  "));
    }
    let Some(snapshot) = snapshot else { return Line::from(spans) };
    let lost = snapshot.lost();
    let lost_style = if lost > 0 { ALARM } else { Style::new() };
    spans.push(Span::styled(format!("lost {}", thousands(lost)), lost_style));
    let (attached, probes) = snapshot.attached();
    let probes_style = if attached < probes { ALARM } else { Style::new() };
    spans.push(Span::styled(format!("  probes {attached}/{probes}"), probes_style));
    if let Some(audit) = snapshot.audit() {
        spans.push(if audit.agrees() {
            Span::raw("  audit ok")
        } else {
            Span::styled("  audit differs", ALARM)
        });
    }
    if snapshot.losses.hotspots > 0 {
        let without = thousands(snapshot.losses.hotspots);
        spans.push(Span::styled(format!("  without place {without}"), ALARM));
    }
    let running = snapshot.vms.iter().filter(|vm| !vm.ended).count();
    spans.push(Span::raw(format!("  {running} VMs")));
    if let Some(interval) = snapshot.interval {
        spans.push(Span::styled(format!("  every {:.1} s", interval.as_secs_f64()), DIM));
    }
    if width >= 100 {
        spans.push(Span::styled(format!("  {}", snapshot.host.release), DIM));
    }
    Line::from(spans)
}

fn tabs_line(state: &State) -> Line<'static> {
    let mut spans = Vec::new();
    for (index, view) in View::ALL.into_iter().enumerate() {
        let title = format!(" {} {} ", index + 1, view.title());
        spans.push(if view == state.view { Span::styled(title, CHOSEN) } else { Span::raw(title) });
    }
    spans.push(Span::styled("  ? help", DIM));
    Line::from(spans)
}

fn footer_line(snapshot: Option<&Snapshot>) -> Line<'static> {
    let kvm_stat = snapshot.is_some_and(|s| s.exit_source == ExitSource::KvmStat);
    let source = if kvm_stat { "exits: KVM's own count" } else { "exits: kvm_exit" };
    Line::from(format!(" q quit  Tab view  > < sort  r reverse  space pause  {source}")).style(DIM)
}

#[cfg(test)]
mod tests;
