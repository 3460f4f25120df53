//! Small figures as text: durations, sparklines, stacked bars. Readable without colour.

use std::{array, iter};

use super::{field::thousands, latency::Times};
use tdtrace_common::latency::Part;

/// Eighths of a cell, from the bottom.
pub const EIGHTHS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A duration with two or three digits: `0`, `950 ns`, `1.2 µs`, `41 µs`, `4.0 ms`, `12 s`.
#[must_use]
pub fn duration(ns: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000, "µs"), (1_000_000, "ms"), (1_000_000_000, "s")];
    if ns == 0 {
        return "0".to_owned();
    }
    let Some((unit, name)) = UNITS.into_iter().rev().find(|(unit, _)| ns >= *unit) else {
        return format!("{ns} ns");
    };
    let tenths = ns / (unit / 10);
    if tenths < 100 {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    } else {
        format!("{} {name}", tenths / 10)
    }
}

/// How often something happened: `1 time`, `1,234 times`.
#[must_use]
pub fn times(count: u64) -> String {
    if count == 1 { "1 time".to_owned() } else { format!("{} times", thousands(count)) }
}

/// Bytes with two to four digits: `0`, `512 B`, `4.0 KiB`, `1023 MiB`, `1.5 GiB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let Some((unit, name)) = UNITS.into_iter().find(|(unit, _)| bytes >= *unit) else {
        return if bytes == 0 { "0".to_owned() } else { format!("{bytes} B") };
    };
    let (whole, tenth) = (bytes / unit, bytes % unit * 10 / unit);
    if whole < 10 { format!("{whole}.{tenth} {name}") } else { format!("{whole} {name}") }
}

/// `part` of `whole` as a bar of `width` cells.
#[must_use]
pub fn gauge(part: u64, whole: u64, width: usize) -> String {
    let filled = u128::from(part.min(whole)) * width as u128 / u128::from(whole.max(1));
    let filled = usize::try_from(filled).unwrap_or(width);
    format!("{}{}", "▓".repeat(filled), "░".repeat(width - filled))
}

/// `01:02:03`.
#[must_use]
pub fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// The last `width` values as bars, the highest one full. 0 is the lowest bar, and only 0.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a height between 1 and 7; the cast saturates what is no number"
)]
pub fn sparkline(values: &[f64], width: usize) -> String {
    let shown = &values[values.len().saturating_sub(width)..];
    let most = shown.iter().copied().fold(0.0, f64::max);
    let bar = |value: &f64| {
        let height = if *value > 0.0 && most > 0.0 {
            ((value / most * 7.0).round() as usize).clamp(1, 7)
        } else {
            0
        };
        EIGHTHS[height]
    };
    let bars: String = shown.iter().map(bar).collect();
    format!("{bars:>width$}")
}

/// A share (0 to 1) as a bar of at most `width` cells; what there is at all has half a cell at least.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a share between 0 and 1 of a few cells"
)]
pub fn bar(share: f64, width: usize) -> String {
    let halves = (share.clamp(0.0, 1.0) * width as f64 * 2.0).round() as usize;
    let halves = if share > 0.0 { halves.max(1) } else { 0 };
    let half = if halves % 2 == 1 { "▌" } else { "" };
    format!("{}{half}", "█".repeat(halves / 2))
}

/// What the cells of [`split`] stand for, in their order.
pub const SPLIT: [(char, &str); 5] =
    [('█', "guest"), ('▓', "kernel"), ('▒', "VMM"), ('░', "halted"), ('·', "waiting")];

/// The shares of `times` in the order of [`SPLIT`], in nanoseconds.
#[must_use]
pub fn shares(times: &Times) -> [u64; 5] {
    let part = |part| times.part(part);
    [times.guest, part(Part::Kernel), part(Part::Vmm), part(Part::Halted), part(Part::Waiting)]
}

/// Shares as a stacked bar of `width` cells; empty if all are 0.
#[must_use]
pub fn split(shares: [u64; 5], width: usize) -> String {
    stack(&array::from_fn::<_, 5, _>(|index| (shares[index], SPLIT[index].0)), width)
}

/// Shares, each with its cell, as a stacked bar of `width` cells; empty if all are 0.
#[must_use]
pub fn stack(shares: &[(u64, char)], width: usize) -> String {
    let total: u128 = shares.iter().map(|(share, _)| u128::from(*share)).sum();
    if total == 0 {
        return String::new();
    }
    let mut bar = String::new();
    let (mut sum, mut filled) = (0, 0);
    for (share, cell) in shares {
        sum += u128::from(*share);
        // Up to where all shares so far end, so that rounding does not add up.
        let end = usize::try_from((sum * width as u128 + total / 2) / total).unwrap_or(width);
        bar.extend(iter::repeat_n(cell, end - filled));
        filled = end;
    }
    bar
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_two_or_three_digits() {
        let said = [0, 999, 1_000, 9_999, 10_000, 41_700, 999_999, 1_100_000, 12_000_000_000];
        assert_eq!(
            said.map(duration),
            ["0", "999 ns", "1.0 µs", "9.9 µs", "10 µs", "41 µs", "999 µs", "1.1 ms", "12 s"]
        );
        assert_eq!(clock(3_723), "01:02:03");
    }

    #[test]
    fn bytes_are_never_rounded_up() {
        let said = [0, 1023, 1024, (10 << 20) - 1, 10 << 20, 3 << 29, (1 << 40) - 1, u64::MAX];
        assert_eq!(
            said.map(bytes),
            ["0", "1023 B", "1.0 KiB", "9.9 MiB", "10 MiB", "1.5 GiB", "1023 GiB", "16777215 TiB"]
        );
    }

    #[test]
    fn a_gauge_is_full_only_when_all_is_there() {
        assert_eq!(gauge(0, 10, 4), "░░░░");
        assert_eq!(gauge(9, 10, 4), "▓▓▓░");
        assert_eq!(gauge(10, 10, 4), "▓▓▓▓");
        assert_eq!(gauge(11, 10, 2), "▓▓");
        assert_eq!(gauge(0, 0, 2), "░░");
    }

    #[test]
    fn only_nothing_is_the_lowest_bar() {
        assert_eq!(sparkline(&[0.0, 1.0, 50.0, 100.0], 4), "▁▂▅█");
        assert_eq!(sparkline(&[1.0, 2.0, 4.0], 2), "▅█");
        assert_eq!(sparkline(&[3.0], 4), "   █");
        assert_eq!(sparkline(&[0.0, 0.0], 2), "▁▁");
        assert_eq!(sparkline(&[f64::NAN, f64::INFINITY, 1.0], 3).chars().count(), 3);
    }

    #[test]
    fn a_bar_shows_what_there_is_at_all() {
        assert_eq!(
            [0.0, 0.001, 0.5, 0.6, 1.0, 7.0].map(|share| bar(share, 4)),
            ["", "▌", "██", "██▌", "████", "████"]
        );
        assert_eq!(bar(f64::NAN, 4), "");
    }

    #[test]
    fn a_split_shows_each_share_in_proportion() {
        assert_eq!(split([50, 25, 0, 25, 0], 8), "████▓▓░░");
        assert_eq!(split([0; 5], 8), "");
    }

    proptest! {
        #[test]
        fn a_split_always_fills_its_width(shares: [u64; 5], width in 0_usize..300) {
            prop_assume!(shares.iter().any(|share| *share > 0));
            prop_assert_eq!(split(shares, width).chars().count(), width);
        }
    }
}
