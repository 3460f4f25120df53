//! The outcome of a check for people. Pure.

use super::{hex, plain, remarks};
use crate::{
    check::{
        outcome::{End, Judged, Outcome},
        place::Place,
    },
    model::{figure, guest::finding::Rule},
};

/// The outcome: a paragraph a finding, what was lost, and how it ends.
#[must_use]
pub fn to_text(outcome: &Outcome<'_>) -> String {
    let snapshot = outcome.snapshot;
    let mut text = format!(
        "guest {}{}: {} #VEs in {:.1} s\n",
        plain(&snapshot.release),
        if snapshot.is_td { "" } else { " (not a TD)" },
        snapshot.all(),
        snapshot.at.as_secs_f64()
    );
    for judged in &outcome.findings {
        text.push('\n');
        text.push_str(&paragraph(judged));
    }
    let remarks = remarks(outcome);
    if !remarks.problems.is_empty() || !remarks.notes.is_empty() {
        text.push('\n');
    }
    for problem in &remarks.problems {
        text.push_str(&format!("{}\n", plain(problem)));
    }
    for note in &remarks.notes {
        text.push_str(&format!("note: {}\n", plain(note)));
    }
    text.push_str(&format!("\n{}\n", summary(outcome)));
    text
}

fn paragraph(judged: &Judged<'_>) -> String {
    let Judged { finding, place, .. } = judged;
    let rule = finding.rule;
    let mark = match (judged.allowed, judged.fails) {
        (Some(_), _) => "allowed",
        (None, true) => "FAILS",
        (None, false) => "passes",
    };
    let mut text = format!("{mark}  {} {}: {}\n", rule.severity().name(), rule.id(), rule.title());
    let mut line = |part: &str| text.push_str(&format!("    {}\n", plain(part)));
    if let Some(where_it_is) = place.text() {
        let source = place.line().map(|(file, line)| format!("  {file}:{line}"));
        line(&format!("{where_it_is}{}", source.unwrap_or_default()));
    }
    let mut facts = vec![figure::times(finding.count)];
    facts.extend(place.device().map(crate::sites::devices::Device::line));
    if let Place::Site(site) = place {
        let length = site.judgement().and_then(|judgement| judgement.len).map_or(8, usize::from);
        let bytes = hex(&site.bytes[..length.min(site.bytes.len())]);
        facts.extend((!bytes.is_empty()).then(|| format!("bytes {bytes}")));
    }
    line(&facts.join(", "));
    for evidence in &finding.evidence {
        line(evidence);
    }
    line(&format!("→ {}", rule.advice()));
    match (judged.allowed, judged.expired) {
        (Some(entry), _) => line(&format!("allowed by {entry}: {}", entry.reason)),
        (None, Some(entry)) => line(&format!("{entry} allowed it and has expired")),
        (None, None) => {}
    }
    text
}

fn summary(outcome: &Outcome<'_>) -> String {
    let [failing, allowed, below] = outcome.counts();
    let how = match outcome.end {
        End::Findings => "failed".to_owned(),
        End::Command => "failed: the command did".to_owned(),
        End::Incomplete => {
            "incomplete: there may be findings that nobody saw; --allow-losses lets it pass"
                .to_owned()
        }
        End::Passed if !outcome.lost.is_empty() => "passed, with losses".to_owned(),
        End::Passed => "passed".to_owned(),
    };
    format!(
        "check {how} (exit code {}); findings: {failing} fail it (--fail-on {}), {allowed} allowed, \
         {below} below",
        outcome.end.code(),
        outcome.terms.fail_on
    )
}

/// All rules with what they mean and what to do, for `--rules`.
#[must_use]
pub fn rules() -> String {
    let rule = |rule: &Rule| {
        format!(
            "{} ({}): {}\n    {}\n    {}\n",
            rule.id(),
            rule.severity().name(),
            rule.title(),
            rule.meaning(),
            rule.advice()
        )
    };
    Rule::ALL.iter().map(rule).collect()
}
