//! Conversions, acceptance, quotes and bounces by caller, and the stack of the chosen one.

use ratatui::{Frame, layout::Rect, style::Style, text::Line};
use tdtrace_common::guest::Operation;

use super::{Shown, below, frames, nothing};
use crate::{
    model::{field::pick, guest::snapshot::Call},
    tui::{
        state::Rows,
        view::{split, table, wrap},
    },
};

/// Rows of the part below at least; with fewer there is none.
const BELOW: u16 = 4;

const COLUMNS: &[(&str, u8)] = &[
    ("operation", 0),
    ("caller", 1),
    ("count", 1),
    ("failed", 2),
    ("bytes", 3),
    ("mean_ns", 4),
    ("last_failure", 10),
];

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) -> Rows {
    if shown.snapshot.calls.is_empty() {
        let what = "no conversion, acceptance, quote or bounce yet";
        return nothing(frame, area, shown, what);
    }
    let (rows, hidden) = shown.filtered(&shown.snapshot.calls);
    let (columns, order) = (pick(COLUMNS), shown.order());
    let (area, rest) = split(area, rows.len(), BELOW);
    if let (Some(rest), Some(call)) = (rest, table::choose(&columns, rows.clone(), order)) {
        let title = format!(" {}: {} ", call.operation.name(), meaning(call.operation));
        below(frame, rest, title, stack(call, usize::from(rest.width)));
    }
    let drawn = table::draw_styled(frame, area, &columns, rows, order, shown.theme(), |call| {
        if call.failed > 0 { shown.theme().alarm } else { Style::new() }
    });
    Rows { hidden, ..drawn }
}

/// What an operation is, in a few words.
const fn meaning(operation: Operation) -> &'static str {
    match operation {
        Operation::ToShared => "memory is made shared",
        Operation::ToPrivate => "memory is made private",
        Operation::Prepare => "of a conversion what comes before the page tables change",
        Operation::Finish => "of a conversion what comes after the page tables changed",
        Operation::MapShared => "TDVMCALL MapGPA to shared",
        Operation::MapPrivate => "TDVMCALL MapGPA to private",
        Operation::AcceptTdx => "TDG.MEM.PAGE.ACCEPT over a range",
        Operation::Accept => "memory that boot left unaccepted",
        Operation::Report => "a quote, from request to arrival",
        Operation::GetQuote => "TDVMCALL GetQuote",
        Operation::Bounce => "a buffer is copied to shared memory for DMA",
    }
}

fn stack(call: &Call, width: usize) -> Vec<Line<'static>> {
    let text = match frames(&call.stack) {
        Some(frames) => format!("stack {frames}"),
        None => "its stack is not known".to_owned(),
    };
    wrap(&text, width.saturating_sub(2))
        .into_iter()
        .map(|line| Line::from(format!(" {line}")))
        .collect()
}
