//! Which findings fail a check. Pure.

use std::{collections::BTreeSet, fmt, str::FromStr};

use crate::model::guest::finding::{Rule, Severity};

/// Severities and rules whose findings fail a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailOn {
    /// Findings of this severity and of graver ones.
    severity: Option<Severity>,
    /// Findings of these rules, whatever their severity.
    rules: BTreeSet<Rule>,
}

impl Default for FailOn {
    /// What does not work in a TD, and what works by chance.
    fn default() -> Self {
        Self { severity: Some(Severity::Warning), rules: BTreeSet::new() }
    }
}

/// What is neither a severity nor a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is neither a severity nor a rule; give error, warning, note, never or a rule's name: {names}",
    names = names()
)]
pub struct NoSuch(String);

/// The names of all rules.
fn names() -> String {
    Rule::ALL.iter().map(|rule| rule.id()).collect::<Vec<_>>().join(", ")
}

/// The rule of that name.
pub(super) fn rule(name: &str) -> Option<Rule> {
    Rule::ALL.iter().copied().find(|rule| rule.id() == name)
}

impl FailOn {
    /// Whether findings of `rule` fail the check.
    #[must_use]
    pub fn has(&self, rule: Rule) -> bool {
        self.severity.is_some_and(|least| rule.severity() >= least) || self.rules.contains(&rule)
    }
}

impl FromStr for FailOn {
    type Err = NoSuch;

    /// Reads severities and names of rules, separated by commas, or `never`. Of several severities the
    /// least grave decides.
    fn from_str(text: &str) -> Result<Self, NoSuch> {
        let mut fail_on = Self { severity: None, rules: BTreeSet::new() };
        for word in text.split(',').map(str::trim) {
            let severity = match word {
                "note" => Some(Severity::Note),
                "warning" => Some(Severity::Warning),
                "error" => Some(Severity::Error),
                "never" => continue,
                name => {
                    let known =
                        rule(name).ok_or_else(|| NoSuch(name.chars().take(80).collect()))?;
                    fail_on.rules.insert(known);
                    continue;
                }
            };
            fail_on.severity = match (fail_on.severity, severity) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
        }
        Ok(fail_on)
    }
}

impl fmt::Display for FailOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = self.severity.map(Severity::name);
        let words: Vec<&str> =
            severity.into_iter().chain(self.rules.iter().map(|rule| rule.id())).collect();
        f.write_str(&if words.is_empty() { "never".to_owned() } else { words.join(",") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(text: &str, rule: Rule) -> bool {
        text.parse::<FailOn>().unwrap().has(rule)
    }

    #[test]
    fn a_severity_stands_for_graver_ones_too_and_a_rule_for_itself() {
        assert!(has("warning", Rule::NonIoMmio) && has("warning", Rule::StringIo));
        assert!(!has("error", Rule::NonIoMmio) && !has("warning", Rule::VeStorm));
        assert!(has("error,warning", Rule::NonIoMmio) && has("note", Rule::VeStorm));
        assert!(has("error, ve-storm", Rule::VeStorm) && !has("ve-storm", Rule::StringIo));
        assert!(Rule::ALL.iter().all(|rule| !has("never", *rule)));
    }

    #[test]
    fn the_default_is_warnings_and_errors() {
        assert_eq!("warning".parse(), Ok(FailOn::default()));
        assert_eq!(FailOn::default().to_string(), "warning");
        assert_eq!("ve-storm,error".parse::<FailOn>().unwrap().to_string(), "error,ve-storm");
        assert_eq!("never".parse::<FailOn>().unwrap().to_string(), "never");
    }

    #[test]
    fn what_is_neither_is_refused_with_all_that_there_is() {
        for text in ["", "erorr", "error,,note", "Error"] {
            let error = text.parse::<FailOn>().unwrap_err().to_string();
            assert!(error.contains("is neither a severity nor a rule"), "{error}");
            assert!(error.contains("non-io-mmio"), "{error}");
        }
    }
}
