//! The screens of a guest: tables of its sites, reasons, hotspots, calls and findings, and one site in
//! full. As all views, from a snapshot and the user's choices to cells.

mod calls;
mod findings;
mod hotspots;
mod overview;
mod reasons;
mod site;
mod sites;
#[cfg(test)]
mod tests;
mod unseen;

use std::sync::Arc;

use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    text::{Line, Span},
    widgets::{Block, Borders, Paragraph},
};

use super::{
    attaching, cut,
    frame::{self, Around, alarm, pace},
    help,
};
use crate::{
    model::{
        field::{Row, thousands},
        filter,
        guest::{
            field::{CALL_FIELDS, FINDING_FIELDS, REASON_FIELDS, SITE_FIELDS, TOUCHED_FIELDS},
            snapshot::{GuestSnapshot, Site},
        },
    },
    tui::{
        state::{GuestState, GuestView, Help, Order, Rows},
        theme::Theme,
    },
    verdict::{Fate, Kind},
};

/// Draws the screen and returns what it drew of its table.
pub(in crate::tui) fn draw(
    frame: &mut Frame<'_>,
    snapshot: Option<&GuestSnapshot>,
    state: &GuestState,
) -> Rows {
    let around = Around {
        header: header(snapshot, state, frame.area().width),
        place: place(snapshot, state),
        note: note(state.view),
    };
    let body = |frame: &mut Frame<'_>, area| match snapshot {
        None => attaching(frame, area, &state.theme),
        Some(snapshot) => draw_view(frame, area, &Shown { snapshot, state }),
    };
    let width = usize::from(frame.area().width);
    frame::draw(frame, state, around, body, |page, rows| match page {
        Help::Unseen => unseen::lines(snapshot, width.saturating_sub(4).min(100)),
        Help::Keys | Help::Columns => columns(state.view, rows),
    })
}

fn draw_view(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) -> Rows {
    match shown.state.view {
        GuestView::Overview => overview::draw(frame, area, shown),
        GuestView::Reasons => reasons::draw(frame, area, shown),
        GuestView::Sites => sites::draw(frame, area, shown),
        GuestView::Hotspots => hotspots::draw(frame, area, shown),
        GuestView::Calls => calls::draw(frame, area, shown),
        GuestView::Findings => findings::draw(frame, area, shown),
        GuestView::Site => site::draw(frame, area, shown),
    }
}

/// What every view draws from.
struct Shown<'a> {
    snapshot: &'a GuestSnapshot,
    state: &'a GuestState,
}

impl<'a> Shown<'a> {
    fn theme(&self) -> &'a Theme {
        &self.state.theme
    }

    fn order(&self) -> Order {
        self.state.order()
    }

    /// The ones of `rows` that the filter keeps, and how many it does not.
    fn filtered<'r, R: Row>(&self, rows: &'r [R]) -> (Vec<&'r R>, usize) {
        let filter = self.state.shown_filter();
        let kept: Vec<&R> = rows.iter().filter(|row| filter::keeps(filter, *row, None)).collect();
        let hidden = rows.len() - kept.len();
        (kept, hidden)
    }
}

/// The most important first, so that a narrow screen cuts the rest.
fn header(snapshot: Option<&GuestSnapshot>, state: &GuestState, width: u16) -> Vec<Span<'static>> {
    let theme = &state.theme;
    let Some(snapshot) = snapshot else { return Vec::new() };
    let kind = if snapshot.is_td { "TD" } else { "no TD" };
    let version = snapshot.release.split(['-', '+']).next().unwrap_or_default();
    let release = if width >= 100 { cut(&snapshot.release, 40) } else { cut(version, 20) };
    let mut spans = vec![Span::styled(format!("{kind} {release}"), theme.head)];
    let mut say = |text, wrong| spans.push(alarm(theme, text, wrong));
    let lost = snapshot.lost();
    say(format!("  lost {}", thousands(lost)), lost > 0);
    say(format!("  missed {}", thousands(snapshot.missed)), snapshot.missed > 0);
    let attached = snapshot.probes.iter().filter(|probe| probe.how.is_some()).count();
    let probes = snapshot.probes.len();
    say(format!("  probes {attached}/{probes}"), attached < probes);
    if !snapshot.clock.used {
        say("  no times".to_owned(), true);
    }
    // Since when it counts first: without it the numbers are not understood.
    spans.extend(pace(state, snapshot.since_reset).into_iter().rev());
    if width >= 110 {
        spans.push(Span::styled(format!("  clock {}", clock(snapshot)), theme.dim));
    }
    spans
}

/// The clocksource, and whether it is read.
fn clock(snapshot: &GuestSnapshot) -> String {
    match (snapshot.clock.name.as_str(), snapshot.clock.used) {
        ("", _) => "unknown".to_owned(),
        (name, true) => name.to_owned(),
        (name, false) => format!("{name}, not read within a #VE"),
    }
}

fn place(snapshot: Option<&GuestSnapshot>, state: &GuestState) -> String {
    use crate::tui::state::Views as _;
    let tab = state.view.tab().title();
    match (state.view, snapshot.and_then(|snapshot| opened(snapshot, state))) {
        (GuestView::Site, Some(site)) => format!("{tab} › {}", cut(&with_line(site), 60)),
        _ => tab.to_owned(),
    }
}

/// The site that was gone into, if it is still there.
fn opened<'a>(snapshot: &'a GuestSnapshot, state: &GuestState) -> Option<&'a Site> {
    let opened = state.scope?;
    snapshot.sites.iter().find(|site| site.id() == opened.site)
}

const fn note(view: GuestView) -> Option<&'static str> {
    match view {
        GuestView::Sites | GuestView::Overview => {
            Some("● around io.h  ○ undecided  ✓ through an accessor")
        }
        GuestView::Site => Some("↓ ↑ scroll, Esc back"),
        _ => None,
    }
}

/// The columns of the guest's views.
fn columns(view: GuestView, rows: &Rows) -> Vec<Line<'static>> {
    match view {
        GuestView::Reasons => help::shown(REASON_FIELDS, rows),
        GuestView::Overview | GuestView::Sites | GuestView::Site => help::shown(SITE_FIELDS, rows),
        GuestView::Hotspots => help::shown(TOUCHED_FIELDS, rows),
        GuestView::Calls => help::shown(CALL_FIELDS, rows),
        GuestView::Findings => help::shown(FINDING_FIELDS, rows),
    }
}

/// Where `site` is, and the line of its source if that is known.
fn with_line(site: &Site) -> String {
    let line = site.source().map_or_else(String::new, |line| format!("  {line}"));
    format!("{}{line}", site.place())
}

/// How a site stands out: what does not survive, then what is wrong and works.
fn style(site: &Site, theme: &Theme) -> Style {
    match (site.fate(), &site.verdict) {
        (Fate::Fatal | Fate::Panic | Fate::Signal, _) => theme.alarm,
        (Fate::Recovered, _) => theme.warning,
        _ if site.is_offender() => theme.warning,
        (_, Some(verdict)) if verdict.kind != Kind::Undecided => theme.dim,
        _ => Style::new(),
    }
}

/// A stack on one line, the innermost frame first; `None` if it is not known.
fn frames(stack: &[(u64, Option<Arc<str>>)]) -> Option<String> {
    let frame = |(ip, name): &(u64, Option<Arc<str>>)| match name {
        Some(name) => name.to_string(),
        None => format!("{ip:#x}"),
    };
    let frames: Vec<String> = stack.iter().map(frame).collect();
    (!frames.is_empty()).then(|| frames.join(" ← "))
}

/// There are no rows: says why.
fn nothing(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>, what: &'static str) -> Rows {
    let mut lines = vec![Line::from(what)];
    if shown.snapshot.since_reset.is_some() {
        lines.push(Line::styled("counts begin at the last reset", shown.theme().dim));
    }
    let ve = shown.snapshot.probes.iter().find(|probe| probe.name == crate::probe::guest::VE);
    if let Some(why) = ve.and_then(|probe| probe.missing.as_deref()) {
        let text = format!("#VEs are not seen: {why}");
        lines.push(Line::styled(text, shown.theme().alarm));
    }
    lines.push(Line::styled("what never shows: ? three times", shown.theme().dim));
    frame.render_widget(Paragraph::new(lines), area);
    Rows::default()
}

/// Draws `lines` under a line with `title`.
fn below(frame: &mut Frame<'_>, area: Rect, title: String, lines: Vec<Line<'_>>) {
    let block = Block::new().borders(Borders::TOP).title(title);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    frame.render_widget(Paragraph::new(lines), inner);
}
