//! The median of a few rounds and between which of them it lies. Pure.

use std::fmt;

use serde_json::{Value, json};

/// How sure the interval is at least.
const CONFIDENCE: f64 = 0.95;

/// A median with its interval of at least 95 %.
///
/// The ends are values of the sample, as many from the bottom as from the top, chosen by how likely
/// that many of `n` values fall on one side of the true median (the sign test). That asks nothing of
/// how the values scatter: one interrupted round moves neither the median nor the interval, where a
/// mean and its Student interval would follow it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Interval {
    /// The median.
    pub(super) median: f64,
    /// From where to where it may be; infinite on both sides with less than six values.
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Interval {
    /// Of `values`; `None` when there are none.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        let (lower, upper) = (values[last / 2], values[values.len() / 2]);
        let (low, high) = match outer(values.len()) {
            Some(rank) => (values[rank], values[last - rank]),
            None => (f64::NEG_INFINITY, f64::INFINITY),
        };
        Some(Self { median: f64::midpoint(lower, upper), low, high })
    }

    /// Whether all of it is on one side of zero.
    pub(super) fn is_resolved(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }

    /// As JSON; the ends are null where there are too few values for an interval.
    pub(super) fn to_json(self) -> Value {
        json!({
            "median": self.median,
            "low": self.low.is_finite().then_some(self.low),
            "high": self.high.is_finite().then_some(self.high),
            "resolved": self.is_resolved(),
        })
    }
}

/// `12.3 [11.9, 12.8]`, or the interval alone, as *not resolved*, where it spans zero.
impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(1);
        if self.is_resolved() {
            write!(f, "{:.digits$} ", self.median)?;
        } else {
            f.write_str("not resolved ")?;
        }
        if self.low.is_finite() {
            write!(f, "[{:.digits$}, {:.digits$}]", self.low, self.high)
        } else {
            f.write_str("[too few rounds]")
        }
    }
}

/// The index of the lower end among `count` sorted values; the upper one is as far from the top.
fn outer(count: usize) -> Option<usize> {
    let total = i32::try_from(count).ok()?;
    // The chance that at most `rank` of the values lie below the median, times two sides.
    let mut term = 0.5_f64.powi(total);
    let mut tail = 0.0;
    let mut outer = None;
    for rank in 0..count / 2 {
        tail += term;
        if 1.0 - 2.0 * tail < CONFIDENCE {
            break;
        }
        outer = Some(rank);
        term *= (count - rank) as f64 / (rank + 1) as f64;
    }
    outer
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ranks, counted from one, in the tables of the sign test: 1 of 6, 2 of 9, 6 of 20, 10 of 30.
    #[test]
    fn the_ends_are_those_of_the_sign_test() {
        let ranks = [6, 9, 20, 30].map(|count| outer(count).map(|index| index + 1));
        assert_eq!(ranks, [Some(1), Some(2), Some(6), Some(10)]);
        assert_eq!(outer(5), None);
        assert_eq!(outer(0), None);
    }

    #[test]
    fn a_round_that_was_interrupted_moves_nothing() {
        let calm = Interval::of((0..30).map(f64::from)).unwrap();
        assert_eq!(calm, Interval { median: 14.5, low: 9.0, high: 20.0 });
        let disturbed = (0..30).map(|n| if n == 29 { 1e9 } else { f64::from(n) });
        assert_eq!(Interval::of(disturbed), Some(calm));
    }

    #[test]
    fn an_interval_over_zero_is_not_resolved_and_says_so() {
        let around = Interval::of((-15..15).map(f64::from)).unwrap();
        assert!(!around.is_resolved());
        assert_eq!(around.to_string(), "not resolved [-6.0, 5.0]");
        let above = Interval { median: 12.34, low: 11.0, high: 13.0 };
        assert_eq!(format!("{above:.2}"), "12.34 [11.00, 13.00]");
    }

    #[test]
    fn too_few_rounds_give_a_median_and_no_interval() {
        let few = Interval::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!(few.median, 2.0);
        assert_eq!(few.to_string(), "not resolved [too few rounds]");
        assert_eq!(few.to_json()["low"], Value::Null);
        assert_eq!(Interval::of([]), None);
    }
}
