//! A histogram with a logarithmic axis, in eighths of a cell.

use ratatui::text::{Line, Span};
use tdtrace_common::latency::{BUCKETS, bucket, bucket_start};

use crate::{
    model::{
        counts::sum,
        field::thousands,
        figure::{EIGHTHS, duration},
        latency::Histogram,
    },
    tui::theme::Theme,
};

/// Cells of one column of the histogram at most.
const COLUMN: usize = 6;
/// Cells of a label of the axis, with the room after it.
const LABEL: usize = 9;

/// What is drawn: neighbouring buckets together, from the first to the last that has any.
struct Bars {
    /// Bucket that the first column begins with.
    first: usize,
    /// Buckets of a column.
    buckets: usize,
    counts: Vec<u64>,
    /// Cells of a column.
    cells: usize,
}

impl Bars {
    /// As many columns as fit into `width`; `None` without any duration.
    fn new(histogram: &Histogram, width: usize) -> Option<Self> {
        let low = histogram.filled().next()?.0.saturating_sub(1);
        let high = (histogram.filled().last()?.0 + 1).min(BUCKETS - 1);
        let mut buckets = 1;
        let (first, columns) = loop {
            let first = low - low % buckets;
            let columns = (high - first) / buckets + 1;
            if columns <= width || buckets >= BUCKETS {
                break (first, columns);
            }
            buckets *= 2;
        };
        let counts = (0..columns)
            .map(|column| {
                let from = first + column * buckets;
                sum((from..from + buckets).map(|index| histogram.get(index)))
            })
            .collect();
        Some(Self { first, buckets, counts, cells: (width / columns).clamp(1, COLUMN) })
    }

    /// Where a duration is, in cells.
    fn cell(&self, ns: u64) -> usize {
        bucket(ns).saturating_sub(self.first) / self.buckets * self.cells
    }

    /// One line, `row` from the bottom of `height`.
    fn line(&self, row: usize, height: usize) -> String {
        let most = self.counts.iter().copied().max().unwrap_or(0).max(1);
        let mut line = String::new();
        for count in &self.counts {
            let full = u128::from(*count) * height as u128 * 8 / u128::from(most);
            let mut eighths = usize::try_from(full).unwrap_or(0);
            if *count > 0 {
                eighths = eighths.max(1);
            }
            let here = eighths.saturating_sub(row * 8).min(8);
            let cell = if here == 0 { ' ' } else { EIGHTHS[here - 1] };
            line.extend(std::iter::repeat_n(cell, self.cells));
        }
        line
    }

    /// Beginnings of columns, as far apart as they can be read.
    fn axis(&self) -> (String, String) {
        let (mut marks, mut labels) = (String::new(), String::new());
        for column in 0..self.counts.len() {
            let at = column * self.cells;
            let label = (labels.chars().count() <= at).then(|| {
                let label = duration(bucket_start(self.first + column * self.buckets));
                format!("{:at$}{label:<LABEL$}", "", at = at - labels.chars().count())
            });
            marks.push_str(if label.is_some() { "┬" } else { "─" });
            marks.extend(std::iter::repeat_n('─', self.cells - 1));
            labels.push_str(label.as_deref().unwrap_or_default());
        }
        (marks, labels)
    }

    /// The percentiles under their columns, those that do not cover one another.
    fn percentiles(&self, histogram: &Histogram, max: u64) -> String {
        let mut line = String::new();
        for (name, fraction) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            let Some(ns) = histogram.percentile(fraction, max) else { continue };
            let (at, taken) = (self.cell(ns), line.chars().count());
            if taken == 0 || at > taken {
                line.push_str(&format!("{:room$}▲{name}", "", room = at - taken));
            }
        }
        line
    }
}

/// The lines of `histogram` in `width` by `height` cells, with axis and percentiles; `max` is the
/// longest duration in nanoseconds.
pub(super) fn lines(
    histogram: &Histogram,
    max: u64,
    width: usize,
    height: usize,
    theme: &Theme,
) -> Vec<Line<'static>> {
    let scale = thousands(histogram.count()).len() + 1;
    let Some(bars) = Bars::new(histogram, width.saturating_sub(scale + 1)) else {
        return Vec::new();
    };
    let rows = height.saturating_sub(3);
    let most = bars.counts.iter().copied().max().unwrap_or(0);
    let mut lines: Vec<Line<'static>> = (0..rows)
        .rev()
        .map(|row| {
            let label = if row + 1 == rows { thousands(most) } else { String::new() };
            Line::from(vec![
                Span::styled(format!("{label:>scale$}"), theme.dim),
                Span::raw("│"),
                Span::styled(bars.line(row, rows), theme.figure),
            ])
        })
        .collect();
    let (marks, labels) = bars.axis();
    let under = |text: String| format!("{:room$}{text}", "", room = scale + 1);
    lines.push(Line::from(format!("{:scale$}└{marks}", "")));
    lines.push(Line::styled(under(labels), theme.dim));
    lines.push(Line::from(under(bars.percentiles(histogram, max))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::snapshot;

    fn text(width: usize, height: usize) -> Vec<String> {
        let snapshot = snapshot();
        let latency = &snapshot.vms[0].latency[0];
        let lines = lines(&latency.histogram, latency.max, width, height, &Theme::new(false));
        lines.iter().map(Line::to_string).collect()
    }

    #[test]
    fn the_fullest_column_reaches_the_top_and_the_emptiest_is_seen() {
        let lines = text(100, 13);
        assert_eq!(lines.len(), 13);
        assert!(lines[0].contains('█'));
        assert!(!lines[0].contains('▁'));
        // One of 130 durations is a thirtieth of the highest column, less than an eighth of a cell.
        assert!(lines[9].contains('▁'));
        assert!(lines[12].contains("▲p50") && lines[12].contains("▲p99"));
    }

    #[test]
    fn columns_fit_into_the_width_however_narrow_it_is() {
        for width in [20, 30, 50, 200] {
            for line in text(width, 8).iter().take(6) {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
    }
}
