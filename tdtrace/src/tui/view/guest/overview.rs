//! What there is at a glance: totals, findings, reasons, the sites that matter, what is not seen.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::Style,
    text::Line,
    widgets::Paragraph,
};

use super::{Shown, clock, findings, sites, unseen};
use crate::{
    model::{
        field::{pick, thousands},
        guest::{finding::Severity, snapshot::Reason},
    },
    report::Cells,
    tui::{state::Rows, view::cut},
};

/// Reasons that are listed, and at most this part of the height.
const REASONS: u16 = 8;
const PART: u16 = 4;

const COLUMNS: &[(&str, u8)] = &[
    ("reason", 0),
    ("count", 3),
    ("per_s", 1),
    ("failed", 2),
    ("user", 7),
    ("p50_ns", 4),
    ("p99_ns", 3),
    ("max_ns", 6),
    ("share_pct", 5),
    ("bar", 5),
];

/// Draws the facts and reasons, and a table of the sites.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) -> Rows {
    let facts = facts(shown, usize::from(area.width));
    let height = |lines: usize| u16::try_from(lines).unwrap_or(u16::MAX);
    let reasons = height(shown.snapshot.reasons.len()).min(REASONS).min(area.height / PART);
    let heads = u16::from(reasons > 0);
    let [top, middle, body, last] = Layout::vertical([
        Constraint::Length(height(facts.len())),
        Constraint::Length(reasons + 2 * heads),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(facts), top);
    draw_reasons(frame, middle, shown);
    let not_seen = cut(&format!(" {}", unseen::short(shown.snapshot)), usize::from(last.width));
    frame.render_widget(Paragraph::new(not_seen).style(shown.theme().dim), last);
    sites::draw(frame, body, shown)
}

fn facts(shown: &Shown<'_>, width: usize) -> Vec<Line<'static>> {
    let (snapshot, theme) = (shown.snapshot, shown.theme());
    let total = snapshot.total;
    let counts = format!(
        " {} #VEs: {} seen, {} missed; {} failed, {} in user mode, {} by tdtrace",
        thousands(snapshot.all()),
        thousands(total.count),
        thousands(snapshot.missed),
        thousands(total.failed),
        thousands(total.user),
        thousands(total.own),
    );
    let about = format!(
        " shared bit {}  clock {}  {}",
        snapshot.shared_bit,
        clock(snapshot),
        snapshot.symbols
    );
    let wrong = if total.failed > 0 { theme.alarm } else { Style::new() };
    let mut lines = vec![
        Line::styled(cut(&counts, width), wrong),
        found(shown, width),
        Line::styled(cut(&about, width), theme.dim),
    ];
    if snapshot.layout_assumed {
        let text = " no BTF: the layout of the kernel's structures is assumed";
        lines.push(Line::styled(text, theme.warning));
    }
    lines
}

/// How many findings there are, and the gravest.
fn found(shown: &Shown<'_>, width: usize) -> Line<'static> {
    let found = &shown.snapshot.findings;
    let Some(worst) = found.first() else {
        return Line::styled(" findings: none", shown.theme().dim);
    };
    let count = |severity| found.iter().filter(|it| it.rule.severity() == severity).count();
    let count = |severity: Severity| match count(severity) {
        0 => None,
        1 => Some(format!("1 {}", severity.name())),
        many => Some(format!("{many} {}s", severity.name())),
    };
    let counts = [Severity::Error, Severity::Warning, Severity::Note].into_iter().filter_map(count);
    let counts: Vec<String> = counts.collect();
    let text = format!(" findings: {}: {} …", counts.join(", "), worst.rule.title());
    Line::styled(cut(&text, width), findings::style(worst.rule.severity(), shown.theme()))
}

fn draw_reasons(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) {
    let page = usize::from(area.height.saturating_sub(2));
    let reasons = &shown.snapshot.reasons;
    let rows: Vec<&Reason> = reasons.iter().take(page).collect();
    let columns = pick(COLUMNS);
    let cells = Cells::fit(&columns, &rows, area.width, 2, |field| field.title.to_owned());
    let mut lines = vec![Line::styled(cells.line(&cells.titles, 2), shown.theme().head)];
    lines.extend(cells.rows.iter().zip(&rows).map(|(row, reason)| {
        let style = if reason.failed > 0 { shown.theme().alarm } else { Style::new() };
        Line::styled(cells.line(row, 2), style)
    }));
    if reasons.len() > rows.len() {
        let text = format!("… and {} more reasons, 2 shows them", reasons.len() - rows.len());
        lines.push(Line::styled(text, shown.theme().dim));
    }
    frame.render_widget(Paragraph::new(lines), area);
}
