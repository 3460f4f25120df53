//! The lines around a view: header, tabs, where one is, footer. [`draw`] is the screen of both sides.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{cut, help};
use crate::{
    model::{
        exits::Scope,
        field::thousands,
        figure,
        finding::{Finding, Severity},
        snapshot::{ExitSource, Snapshot},
    },
    tui::{
        keymap,
        state::{Choices, Help, Rows, State, View, Views},
        theme::Theme,
    },
};

/// What stands around a view.
pub(super) struct Around {
    /// The first line, without [`marks`].
    pub(super) header: Vec<Span<'static>>,
    /// Where one is.
    pub(super) place: String,
    /// What else holds for the view.
    pub(super) note: Option<&'static str>,
}

/// Draws the screen around what `body` draws, and over it the page of the help that `pages` makes: all
/// but the keys.
pub(super) fn draw<V: Views>(
    frame: &mut Frame<'_>,
    state: &Choices<V>,
    around: Around,
    body: impl FnOnce(&mut Frame<'_>, Rect) -> Rows,
    pages: impl FnOnce(Help, &Rows) -> Vec<Line<'static>>,
) -> Rows {
    let [header, tabs, path, middle, footer] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let rows = body(frame, middle);
    let mut first = marks(state);
    first.extend(around.header);
    let lines = [
        (fitting(first, header.width), header),
        (self::tabs(state, tabs.width), tabs),
        (self::path(&around.place, around.note, state, &rows), path),
        (self::footer(state, footer.width), footer),
    ];
    for (line, area) in lines {
        frame.render_widget(Paragraph::new(line), area);
    }
    help::draw(frame, frame.area(), state, |page| pages(page, &rows));
    rows
}

/// The first of `spans` that fit in `width` cells in full: half a number is another number.
fn fitting(spans: Vec<Span<'static>>, width: u16) -> Line<'static> {
    let mut room = usize::from(width);
    let fits = |span: &Span<'_>| {
        let left = room.checked_sub(span.width());
        room = left.unwrap_or(room);
        left.is_some()
    };
    Line::from(spans.into_iter().take_while(fits).collect::<Vec<_>>())
}

/// The name of the program, and whether what is shown stands still.
fn marks<V: Views>(state: &Choices<V>) -> Vec<Span<'static>> {
    let theme = &state.theme;
    let mut spans = vec![Span::styled("tdtrace", theme.head), Span::raw("  ")];
    let marks = [
        (state.detached, " detached, D attaches "),
        (state.over, " end of recording "),
        (state.paused, " paused "),
    ];
    for (_, mark) in marks.into_iter().filter(|(is, _)| *is) {
        spans.push(Span::styled(mark, theme.chosen));
        spans.push(Span::raw("  "));
    }
    spans
}

/// `text`, as an alarm if something is `wrong`.
pub(super) fn alarm(theme: &Theme, text: String, wrong: bool) -> Span<'static> {
    if wrong { Span::styled(text, theme.alarm) } else { Span::raw(text) }
}

/// How often the screen is drawn and since when it counts.
pub(super) fn pace<V: Views>(
    state: &Choices<V>,
    since_reset: Option<std::time::Duration>,
) -> Vec<Span<'static>> {
    let mut spans = vec![Span::raw(format!("  every {}", seconds(state.every.as_secs_f64())))];
    if let Some(since) = since_reset {
        let clock = figure::clock(since.as_secs());
        spans.push(Span::raw(format!("  reset {clock} ago")));
    }
    spans
}

/// How many findings there are; an alarm if one is more than a note.
fn findings(snapshot: &Snapshot, theme: &Theme) -> Option<Span<'static>> {
    let all = || snapshot.vms.iter().flat_map(|vm| &vm.findings);
    let is_grave = |finding: &Finding| finding.rule.severity() > Severity::Note;
    let text = match all().count() {
        0 => return None,
        1 => "  1 finding".to_owned(),
        count => format!("  {count} findings"),
    };
    Some(alarm(theme, text, all().any(is_grave)))
}

/// The most important first, so that a narrow screen cuts the rest.
pub(super) fn header(snapshot: Option<&Snapshot>, state: &State, width: u16) -> Vec<Span<'static>> {
    let theme = &state.theme;
    let mut spans = Vec::new();
    let Some(snapshot) = snapshot else { return spans };
    if snapshot.vms.iter().any(|vm| vm.demo) {
        spans.push(Span::styled(" DEMO ", theme.chosen));
        spans.push(Span::raw("  "));
    }
    let alarm = |text, wrong| alarm(theme, text, wrong);
    let lost = snapshot.lost();
    spans.push(alarm(format!("lost {}", thousands(lost)), lost > 0));
    let (attached, probes) = snapshot.attached();
    spans.push(alarm(format!("  probes {attached}/{probes}"), attached < probes));
    if let Some(audit) = snapshot.audit() {
        let verdict = if audit.agrees() { "ok" } else { "differs" };
        spans.push(alarm(format!("  audit {verdict}"), !audit.agrees()));
    }
    spans.extend(findings(snapshot, theme));
    if snapshot.losses.hotspots > 0 {
        let without = thousands(snapshot.losses.hotspots);
        spans.push(alarm(format!("  without place {without}"), true));
    }
    // No alarm: what was going on when tdtrace came has no beginning.
    let durations = snapshot.losses.unpaired.saturating_add(snapshot.losses.durations);
    if durations > 0 {
        spans.push(Span::raw(format!("  without duration {}", thousands(durations))));
    }
    // After a reset there is room for one of the two on a narrow screen, and the list says this one.
    if width >= 100 || snapshot.since_reset.is_none() {
        let running = snapshot.vms.iter().filter(|vm| !vm.ended).count();
        let vms = if running == 1 { "VM" } else { "VMs" };
        spans.push(Span::raw(format!("  {running} {vms}")));
    }
    if snapshot.poison.total() > 0 {
        spans.push(alarm(format!("  broken memory {}", thousands(snapshot.poison.total())), true));
    }
    spans.extend(pace(state, snapshot.since_reset));
    if snapshot.exit_source == ExitSource::KvmStat {
        spans.push(Span::styled("  exits: KVM's own count", theme.dim));
    }
    if width >= 100 {
        spans.push(Span::styled(format!("  {}", snapshot.host.release), theme.dim));
    }
    spans
}

/// `0.5 s`, `10 s`.
fn seconds(seconds: f64) -> String {
    if seconds.fract() == 0.0 { format!("{seconds:.0} s") } else { format!("{seconds:.1} s") }
}

/// Cells of a tab beside its name.
const TAB: usize = " 1  ".len();

/// The tabs; those that are not chosen by their short names where there is no room for all in full.
fn tabs<V: Views>(state: &Choices<V>, width: u16) -> Line<'static> {
    let tab = state.view.tab();
    let all = V::TABS.iter().map(|view| view.title().chars().count() + TAB).sum::<usize>();
    let is_narrow = all > usize::from(width);
    let span = |(index, view): (usize, &V)| {
        let is_chosen = *view == tab;
        let name = if is_narrow && !is_chosen { view.short_title() } else { view.title() };
        let title = format!(" {} {name} ", index + 1);
        if is_chosen { Span::styled(title, state.theme.chosen) } else { Span::raw(title) }
    };
    Line::from(V::TABS.iter().enumerate().map(span).collect::<Vec<_>>())
}

/// Where one is, how it is sorted and filtered; or the filter that is being typed.
fn path<V: Views>(
    place: &str,
    note: Option<&'static str>,
    state: &Choices<V>,
    rows: &Rows,
) -> Line<'static> {
    let theme = &state.theme;
    let count = || format!("{} of {} rows", rows.total, rows.total + rows.hidden);
    if let Some(input) = &state.input {
        return Line::from(vec![
            Span::styled("filter: ", theme.head),
            Span::raw(input.text.clone()),
            Span::styled(" ", theme.chosen),
            Span::styled(format!("  {}", count()), theme.dim),
        ]);
    }
    let mut spans = vec![Span::styled(format!(" {place}"), theme.head)];
    if let Some(filter) = &state.filter {
        let text = format!("   filter {}: {}", cut(filter.text(), 40), count());
        spans.push(Span::raw(text));
    }
    if let Some(note) = note {
        spans.push(Span::styled(format!("   {note}"), theme.dim));
    }
    if let Some(key) = rows.sorted.filter(|key| !rows.columns.contains(key)) {
        spans.push(Span::styled(format!("   sorted by {key}"), theme.dim));
    }
    Line::from(spans)
}

/// What the durations shown are of, or what else there is to see.
pub(super) fn note(state: &State) -> Option<&'static str> {
    match state.view {
        View::Vms | View::Exits | View::Latency if state.halts => Some("durations with halts"),
        View::Vms | View::Exits | View::Latency => Some("durations without halts"),
        View::Conversions => Some("b boot"),
        _ => None,
    }
}

/// `web-1 › vCPU 3 › Exits`.
pub(super) fn place(snapshot: Option<&Snapshot>, state: &State) -> String {
    let vm = |id: u32| {
        let vm = snapshot.and_then(|snapshot| snapshot.vms.iter().find(|vm| vm.id == id));
        vm.map_or_else(|| format!("VM {id}"), |vm| cut(&vm.name, 32))
    };
    let title = state.view.title();
    match state.scope {
        // They are of the host, whatever is looked into.
        _ if state.view == View::Seamcalls => format!("all TDs › {title}"),
        Scope::All if state.view == View::Vms => "all VMs".to_owned(),
        Scope::All => format!("all VMs › {title}"),
        Scope::Vm(id) => format!("{} › {title}", vm(id)),
        Scope::Vcpu(id, vcpu) => format!("{} › vCPU {vcpu} › {title}", vm(id)),
    }
}

/// The keys that are needed most, as far as there is room; or what is wrong with the filter.
fn footer<V: Views>(state: &Choices<V>, width: u16) -> Line<'static> {
    match &state.input {
        Some(input) => match &input.error {
            Some(error) => Line::from(format!(" {error}")).style(state.theme.alarm),
            None => Line::from(format!(" Enter accepts  Esc cancels  {}", V::EXAMPLES))
                .style(state.theme.dim),
        },
        None => {
            let mut text = String::new();
            for binding in keymap::bindings(V::SIDE) {
                let Some(word) = binding.footer else { continue };
                let key = binding.keys.split(' ').next().unwrap_or_default();
                let more = format!(" {key} {word} ");
                if text.chars().count() + more.chars().count() <= usize::from(width) {
                    text.push_str(&more);
                }
            }
            Line::from(text).style(state.theme.dim)
        }
    }
}
