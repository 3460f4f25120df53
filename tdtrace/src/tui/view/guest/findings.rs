//! What somebody should look at, the gravest first; below, what the chosen one means and what to do.

use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{Shown, below, with_line};
use crate::{
    model::{
        field::{Row as _, pick},
        guest::{
            finding::Severity,
            rows::{self, FindingRow},
        },
    },
    tui::{
        state::Rows,
        theme::Theme,
        view::{split, table, wrap},
    },
};

/// Rows of the part below at least; with fewer there is none.
const BELOW: u16 = 5;
/// Cells of a label, with the room after it.
const LABEL: usize = 10;

const COLUMNS: &[(&str, u8)] =
    &[("severity", 1), ("finding", 0), ("count", 3), ("place", 1), ("rule", 8)];

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) -> Rows {
    let findings = rows::findings(shown.snapshot);
    if findings.is_empty() {
        let text = Line::styled("nothing that somebody should look at", shown.theme().dim);
        frame.render_widget(Paragraph::new(text), area);
        return Rows::default();
    }
    let (rows, hidden) = shown.filtered(&findings);
    let (columns, order) = (pick(COLUMNS), shown.order());
    let (area, rest) = split(area, rows.len(), BELOW);
    let chosen = table::choose(&columns, rows.clone(), order);
    if let (Some(rest), Some(row)) = (rest, chosen) {
        let title = format!(" {}: {} ", row.rule.severity().name(), row.rule.title());
        let about = about(row, shown);
        below(frame, rest, title, lines(row, &about, usize::from(rest.width), shown.theme()));
    }
    let leads_to = chosen.and_then(|row| row.site);
    let theme = shown.theme();
    let drawn = table::draw_styled(frame, area, &columns, rows, order, theme, |row| {
        style(row.rule.severity(), theme)
    });
    Rows { hidden, leads_to, ..drawn }
}

/// How a finding of this severity stands out.
pub(super) fn style(severity: Severity, theme: &Theme) -> Style {
    match severity {
        Severity::Error => theme.alarm,
        Severity::Warning => theme.warning,
        Severity::Note => Style::new(),
    }
}

/// The subject, of a site with its line.
fn about(row: &FindingRow, shown: &Shown<'_>) -> String {
    let site = shown.snapshot.sites.iter().find(|site| Some(site.id()) == row.site);
    site.map_or_else(|| row.subject.clone(), with_line)
}

fn lines(row: &FindingRow, about: &str, width: usize, theme: &Theme) -> Vec<Line<'static>> {
    let evidence = row.evidence.iter().map(String::as_str);
    let parts = [("means", row.rule.meaning()), ("advice", row.rule.advice())];
    let parts = parts.into_iter().chain([("about", about)]);
    let all = parts.chain(evidence.map(|sentence| ("evidence", sentence)));
    let mut lines = Vec::new();
    let mut last = "";
    for (label, text) in all {
        for line in wrap(text, width.saturating_sub(LABEL + 1)) {
            let shown = if label == last { "" } else { label };
            last = label;
            let label = Span::styled(format!(" {shown:<LABEL$}"), theme.head);
            lines.push(Line::from(vec![label, Span::raw(line)]));
        }
    }
    lines
}
