//! Numbers from which on something is worth a finding: each with its unit and its reason. Pure.

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
        format!("The limit is {} {}: {}.", self.value, self.unit, self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_reached_at_its_value() {
        let limit = Limit { value: 10, unit: "#VEs a second", why: "so" };
        assert!(limit.is_reached(10.0) && !limit.is_reached(9.99) && !limit.is_reached(f64::NAN));
        assert_eq!(limit.sentence(), "The limit is 10 #VEs a second: so.");
    }
}
