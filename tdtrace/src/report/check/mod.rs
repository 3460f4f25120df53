//! The outcome of a check for people and for CI systems: text, JSON, SARIF, JUnit. Pure.

mod json;
mod junit;
mod sarif;
mod text;
mod uri;

pub use json::to_json;
pub use junit::to_junit;
pub use sarif::to_sarif;
pub use text::{rules, to_text};

use super::hex;
use crate::{check::outcome::Outcome, source::owner::is_invisible};

/// Characters of one text from a guest that are printed at most: names, evidence, reasons.
const SHOWN_MAX: usize = 2000;

/// `text` on one line, without what could steer a terminal or turn the direction of writing.
fn plain(text: &str) -> String {
    let harmless = |c: char| if c.is_control() || is_invisible(c) { '?' } else { c };
    let lines = text.replace(['\n', '\t'], " ");
    let mut shown: String = lines.chars().take(SHOWN_MAX).map(harmless).collect();
    if lines.chars().nth(SHOWN_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// What somebody has to know beside the findings: each is a sentence.
struct Remarks {
    /// What fails the check or makes its result doubtful.
    problems: Vec<String>,
    /// What is good to know.
    notes: Vec<String>,
}

fn remarks(outcome: &Outcome<'_>) -> Remarks {
    let mut problems: Vec<String> = outcome.command.iter().cloned().collect();
    problems.extend(outcome.lost.iter().map(|lost| format!("lost: {lost}")));
    let expired = outcome.expired.iter().map(|entry| {
        let day = entry.expires.map(|day| day.to_string()).unwrap_or_default();
        format!("{entry}: expired after {day} and allows nothing any more: {}", entry.reason)
    });
    let unused = outcome.unused.iter().map(|entry| {
        format!("{entry}: nothing was found that it allows; remove it if that stays so")
    });
    let notes = outcome.blind.iter().cloned().chain(expired).chain(unused).collect();
    Remarks { problems, notes }
}

#[cfg(test)]
mod tests;
