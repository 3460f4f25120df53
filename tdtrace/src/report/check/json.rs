//! The outcome of a check as one JSON object. Pure.

use serde_json::{Value, json};

use super::hex;
use crate::{
    check::{
        allow::Entry,
        outcome::{Judged, Outcome},
        place::Place,
    },
    decode::bits::Hex,
};

/// Version of the JSON.
const SCHEMA: u32 = 1;

/// The whole outcome.
#[must_use]
pub fn to_json(outcome: &Outcome<'_>) -> Value {
    let snapshot = outcome.snapshot;
    let [failing, allowed, below] = outcome.counts();
    json!({
        "schema": SCHEMA,
        "end": outcome.end.name(),
        "exit_code": outcome.end.code(),
        "fail_on": outcome.terms.fail_on.to_string(),
        "allow_losses": outcome.terms.allow_losses,
        "release": &*snapshot.release,
        "td": snapshot.is_td,
        "at_s": snapshot.at.as_secs_f64(),
        "ve": snapshot.all(),
        "failing": failing,
        "allowed": allowed,
        "below": below,
        "findings": outcome.findings.iter().map(finding).collect::<Vec<_>>(),
        "command": outcome.command,
        "lost": outcome.lost,
        "blind": outcome.blind,
        "unused": outcome.unused.iter().map(|used| entry(used)).collect::<Vec<_>>(),
        "expired": outcome.expired.iter().map(|expired| entry(expired)).collect::<Vec<_>>(),
    })
}

fn finding(judged: &Judged<'_>) -> Value {
    let Judged { finding, place, .. } = judged;
    let site = match place {
        Place::Site(site) => Some(site),
        Place::Call(_) | Place::Guest => None,
    };
    let line = place.line();
    json!({
        "rule": finding.rule.id(),
        "severity": finding.rule.severity().name(),
        "title": finding.rule.title(),
        "advice": finding.rule.advice(),
        "count": finding.count,
        "evidence": finding.evidence,
        "fails": judged.fails,
        "allowed": judged.allowed.map(entry),
        "expired": judged.expired.map(entry),
        "where": place.text(),
        "function": place.function(),
        "module": place.module(),
        "file": line.map(|(file, _)| file),
        "line": line.map(|(_, line)| line),
        "chain": place.chain(),
        "device": place.device(),
        "form": place.form(),
        "ip": site.and_then(|site| site.ip).map(Hex),
        "bytes": site.map(|site| hex(&site.bytes)),
        "user": site.is_some_and(|site| site.user),
        "comm": site.filter(|site| site.user).map(|site| site.comm.as_str()),
        "fingerprint": judged.identity(),
    })
}

fn entry(entry: &Entry) -> Value {
    json!({
        "file": &*entry.file,
        "line": entry.line,
        "reason": entry.reason,
        "expires": entry.expires.map(|day| day.to_string()),
    })
}
