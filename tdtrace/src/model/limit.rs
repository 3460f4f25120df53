//! Numbers from which on something is worth a finding: each with its unit and its reason. Pure.

use super::field::thousands;

/// A rate in a sentence: `12,346`.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is not negative, and beyond 2^64 it saturates"
)]
pub fn per_second(rate: f64) -> String {
    thousands(rate.round() as u64)
}

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// From this on.
    pub value: u64,
    /// What is counted.
    pub unit: &'static str,
    /// Why there: what it costs, or who says so.
    pub why: &'static str,
}

impl Limit {
    /// Whether `number` is as much or more.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "limits are small numbers")]
    pub fn is_reached(self, number: f64) -> bool {
        number >= self.value as f64
    }

    /// It in a sentence.
    #[must_use]
    pub fn sentence(self) -> String {
        format!("The limit is {} {}: {}.", thousands(self.value), self.unit, self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_reached_at_its_value() {
        let limit = Limit { value: 1_000, unit: "#VEs a second", why: "so" };
        assert!(limit.is_reached(1_000.0) && !limit.is_reached(999.9));
        assert!(!limit.is_reached(f64::NAN));
        assert_eq!(limit.sentence(), "The limit is 1,000 #VEs a second: so.");
        assert_eq!((per_second(1234.6), per_second(f64::NAN)), ("1,235".into(), "0".into()));
    }
}
