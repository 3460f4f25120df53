//! The screen: header, tabs, where one is, the view chosen, footer. Takes a snapshot and the user's
//! choices, and returns cells.

mod bars;
mod boot;
mod conversions;
mod detail;
mod exits;
mod findings;
mod frame;
pub(super) mod guest;
mod help;
mod histogram;
mod hotspots;
mod latency;
mod seamcalls;
mod slow;
mod table;
mod vcpus;
mod vms;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::Line,
    widgets::Paragraph,
};

use self::frame::Around;
use super::{
    state::{Order, Rows, State, View},
    theme::Theme,
};
use crate::model::{
    exits::Scope,
    field::Row,
    filter::{self, Filter},
    snapshot::{Snapshot, Vm},
};

/// Draws the screen and returns what it drew of its table.
pub fn draw(frame: &mut Frame<'_>, snapshot: Option<&Snapshot>, state: &State) -> Rows {
    let around = Around {
        header: frame::header(snapshot, state, frame.area().width),
        place: frame::place(snapshot, state),
        note: frame::note(state),
    };
    let body = |frame: &mut Frame<'_>, area| match snapshot {
        None => attaching(frame, area, &state.theme),
        Some(snapshot) => draw_view(frame, area, &Shown { snapshot, state }),
    };
    frame::draw(frame, state, around, body, |_, rows| help::columns(state.view, rows))
}

/// There is no snapshot yet.
fn attaching(frame: &mut Frame<'_>, area: Rect, theme: &Theme) -> Rows {
    frame.render_widget(Paragraph::new("attaching …").style(theme.dim), area);
    Rows::default()
}

fn draw_view(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) -> Rows {
    // A host makes SEAMCALLs before any TD has run.
    if shown.state.view == View::Seamcalls {
        return seamcalls::draw(frame, area, shown);
    }
    if let Some(why) = shown.nothing() {
        frame.render_widget(Paragraph::new(why), area);
        return Rows::default();
    }
    match shown.state.view {
        View::Vms => vms::draw(frame, area, shown),
        View::Exits => exits::draw(frame, area, shown),
        View::Latency => latency::draw(frame, area, shown),
        View::Hotspots => hotspots::draw(frame, area, shown),
        View::Vcpus => vcpus::draw(frame, area, shown),
        View::Slow => slow::draw(frame, area, shown),
        View::Seamcalls => Rows::default(),
        View::Conversions => conversions::draw(frame, area, shown),
        View::Findings => findings::draw(frame, area, shown),
        View::Boot => boot::draw(frame, area, shown),
    }
}

/// What every view draws from.
struct Shown<'a> {
    snapshot: &'a Snapshot,
    state: &'a State,
}

impl<'a> Shown<'a> {
    fn theme(&self) -> &'a Theme {
        &self.state.theme
    }

    fn order(&self) -> Order {
        self.state.order()
    }

    fn scope(&self) -> Scope {
        self.state.scope
    }

    fn filter(&self) -> Option<&'a Filter> {
        self.state.shown_filter()
    }

    fn is_software(&self) -> bool {
        self.snapshot.is_software()
    }

    fn vm(&self, id: u32) -> Option<&'a Vm> {
        self.snapshot.vms.iter().find(|vm| vm.id == id)
    }

    /// The ones of `rows` that the filter keeps, and how many it does not; `vm` is the number of a row's
    /// VM.
    fn filtered<'r, R: Row>(
        &self,
        rows: impl IntoIterator<Item = &'r R>,
        vm: impl Fn(&R) -> u32,
    ) -> (Vec<&'r R>, usize) {
        let rows: Vec<&R> = rows.into_iter().collect();
        let total = rows.len();
        if self.filter().is_none() {
            return (rows, 0);
        }
        let keeps = |row: &&R| filter::keeps(self.filter(), *row, self.vm(vm(row)));
        let kept: Vec<&R> = rows.into_iter().filter(keeps).collect();
        let hidden = total - kept.len();
        (kept, hidden)
    }

    /// Why there is nothing to show: no VM has run, or the one looked into is gone.
    fn nothing(&self) -> Option<Vec<Line<'static>>> {
        if self.snapshot.vms.is_empty() {
            return Some(self.nothing_yet());
        }
        let gone = match self.scope() {
            Scope::All => None,
            Scope::Vm(vm) => self.vm(vm).is_none().then(|| format!("VM {vm}")),
            Scope::Vcpu(vm, vcpu) => {
                let there = self.vm(vm).is_some_and(|vm| vm.vcpus.iter().any(|row| row.id == vcpu));
                (!there).then(|| format!("vCPU {vcpu} of VM {vm}"))
            }
        };
        gone.map(|what| vec![Line::from(format!("{what} is no longer listed; Esc goes back"))])
    }

    /// No VM has run: say what would show, and what cannot.
    fn nothing_yet(&self) -> Vec<Line<'static>> {
        let dim = self.theme().dim;
        let mut lines = vec![
            Line::from("no VM has run yet"),
            Line::from("start one, or try: tdtrace workload --pio 1000000 --rate 1000").style(dim),
        ];
        for (source, why) in &self.snapshot.poison.missing {
            let source = source.tracepoint();
            lines.push(Line::from(format!("not seen: broken memory ({source}: {why})")).style(dim));
        }
        for probe in self.snapshot.probes.iter() {
            if let Some(why) = &probe.missing {
                lines.push(Line::from(format!("not seen: {} ({why})", probe.hides)).style(dim));
            }
        }
        lines
    }
}

/// The part for a table of `rows` rows, which gets what it needs up to half, and what is left below it;
/// nothing if that is less than `least` rows.
fn split(area: Rect, rows: usize, least: u16) -> (Rect, Option<Rect>) {
    let needed = u16::try_from(rows + 1).unwrap_or(u16::MAX);
    let table = needed.min((area.height / 2).max(2));
    if area.height.saturating_sub(table) < least {
        return (area, None);
    }
    let [table, below] =
        Layout::vertical([Constraint::Length(table), Constraint::Min(0)]).areas(area);
    (table, Some(below))
}

/// `text` in `width` cells at most, with a mark where it is cut.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// `text` in lines of `width` cells at most, broken at blanks where there are any.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut rest: Vec<char> = word.chars().collect();
        while !rest.is_empty() {
            let line = lines.last_mut().map_or(0, |line| line.chars().count());
            let gap = usize::from(line > 0);
            if line + gap + rest.len() <= width || line == 0 {
                let part: String = rest.drain(..rest.len().min(width)).collect();
                if let Some(line) = lines.last_mut() {
                    line.push_str(&" ".repeat(gap));
                    line.push_str(&part);
                }
            }
            if !rest.is_empty() {
                lines.push(String::new());
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests;
