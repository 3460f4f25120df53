//! #VEs by reason, and how long those of the chosen one took.

use ratatui::{Frame, layout::Rect, text::Line};

use super::{Shown, below, nothing};
use crate::{
    model::{
        field::{pick, thousands},
        figure,
        guest::snapshot::Reason,
    },
    tui::{
        state::Rows,
        view::{histogram, split, table},
    },
};

/// Rows of the histogram at least; with fewer there is none.
const HISTOGRAM: u16 = 8;

const COLUMNS: &[(&str, u8)] = &[
    ("reason", 0),
    ("count", 3),
    ("per_s", 1),
    ("share_pct", 5),
    ("bar", 6),
    ("failed", 2),
    ("user", 7),
    ("own", 9),
    ("p50_ns", 3),
    ("p90_ns", 8),
    ("p99_ns", 3),
    ("p999_ns", 8),
    ("max_ns", 4),
    ("without_site", 10),
];

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) -> Rows {
    if shown.snapshot.reasons.is_empty() {
        return nothing(frame, area, shown, "no #VE yet");
    }
    let (rows, hidden) = shown.filtered(&shown.snapshot.reasons);
    let (columns, order) = (pick(COLUMNS), shown.order());
    let (area, rest) = split(area, rows.len(), HISTOGRAM);
    let chosen = table::choose(&columns, rows.clone(), order);
    if let (Some(rest), Some(reason)) = (rest, chosen) {
        draw_histogram(frame, rest, reason, shown);
    }
    let drawn = table::draw_styled(frame, area, &columns, rows, order, shown.theme(), |reason| {
        if reason.failed > 0 { shown.theme().alarm } else { ratatui::style::Style::new() }
    });
    Rows { hidden, ..drawn }
}

fn draw_histogram(frame: &mut Frame<'_>, area: Rect, reason: &Reason, shown: &Shown<'_>) {
    let timed = reason.durations.count();
    let title = format!(
        " {}: {} of {} with a duration ",
        reason.name,
        thousands(timed),
        thousands(reason.count)
    );
    let mut lines = Vec::new();
    match (timed, reason.ns.checked_div(timed)) {
        (0, _) | (_, None) => lines.push(Line::styled(
            "no durations: the clock is not read, or none has ended yet",
            shown.theme().dim,
        )),
        (_, Some(mean)) => {
            let text =
                format!("time {}, mean {}", figure::duration(reason.ns), figure::duration(mean));
            lines.push(Line::from(text));
        }
    }
    let height = usize::from(area.height.saturating_sub(2));
    let width = usize::from(area.width);
    let (durations, max) = (&reason.durations, reason.max_ns);
    lines.extend(histogram::lines(durations, max, width, height, shown.theme()));
    below(frame, area, title, lines);
}
