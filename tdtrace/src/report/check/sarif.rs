//! The outcome of a check as SARIF 2.1.0, which code scanning services and editors read. Pure.
//!
//! The sections in comments are those of the OASIS standard.

use serde_json::{Map, Value, json};

use super::{hex, plain, remarks, uri::uri};
use crate::{
    check::{
        allow::Entry,
        outcome::{Judged, Outcome},
        place::Place,
    },
    decode::bits::Hex,
    model::{figure, guest::finding::Rule},
    sites::devices::Device,
};

const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";
/// What relative names of source files are relative to (3.14.14).
const ROOT: &str = "SRCROOT";
/// Frames of a call stack at most.
const FRAMES_MAX: usize = 64;

/// The whole log with one run. Source files below `source_root` are named relative to it.
#[must_use]
pub fn to_sarif(outcome: &Outcome<'_>, source_root: Option<&str>) -> Value {
    let snapshot = outcome.snapshot;
    let result = |judged: &Judged<'_>| result(judged, source_root);
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "tdtrace",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": Rule::ALL.iter().map(|rule| descriptor(*rule)).collect::<Vec<_>>(),
            } },
            "invocations": [invocation(outcome)],
            "originalUriBaseIds": {
                ROOT: { "description": { "text": "The root of the sources that were compiled." } },
            },
            "results": outcome.findings.iter().map(result).collect::<Vec<_>>(),
            "columnKind": "utf16CodeUnits",
            "properties": {
                "release": plain(&snapshot.release),
                "td": snapshot.is_td,
                "seconds": snapshot.at.as_secs_f64(),
                "ve": snapshot.all(),
                "symbols": plain(&snapshot.symbols),
                "failOn": outcome.terms.fail_on.to_string(),
                "end": outcome.end.name(),
            },
        }],
    })
}

fn descriptor(rule: Rule) -> Value {
    json!({
        "id": rule.id(),
        "shortDescription": { "text": rule.title() },
        "fullDescription": { "text": rule.meaning() },
        "help": { "text": rule.advice() },
        "defaultConfiguration": { "level": rule.severity().name() },
        "properties": { "tags": ["tdx", "confidential-computing"] },
    })
}

/// How tdtrace ran: what is wrong with the check, and with the allowlists (3.20).
fn invocation(outcome: &Outcome<'_>) -> Value {
    let remarks = remarks(outcome);
    let notification =
        |level: &str, text: &String| json!({ "level": level, "message": message(text) });
    let problems = remarks.problems.iter().map(|text| notification("error", text));
    let notes = remarks.notes.iter().map(|text| notification("note", text));
    let is_whole = outcome.lost.is_empty() || outcome.terms.allow_losses;
    json!({
        "executionSuccessful": is_whole && outcome.command.is_none(),
        "exitCode": outcome.end.code(),
        "exitCodeDescription": outcome.end.name(),
        "toolExecutionNotifications": problems.collect::<Vec<_>>(),
        "toolConfigurationNotifications": notes.collect::<Vec<_>>(),
    })
}

fn result(judged: &Judged<'_>, root: Option<&str>) -> Value {
    let Judged { finding, place, .. } = judged;
    let mut text = format!("{}: {}", finding.rule.title(), figure::times(finding.count));
    for (before, part) in [(" in ", place.text()), (" at ", place.device().map(Device::line))] {
        text.extend(part.map(|part| format!("{before}{part}")));
    }
    text.push('.');
    finding.evidence.iter().for_each(|evidence| text.push_str(&format!(" {evidence}")));
    let index = Rule::ALL.iter().position(|rule| *rule == finding.rule);
    let mut result = json!({
        "ruleId": finding.rule.id(),
        "kind": "fail",
        "level": finding.rule.severity().name(),
        "message": message(&text),
        "occurrenceCount": finding.count.clamp(1, i64::MAX.unsigned_abs()),
        // 3.27.17. No addresses and no lines, which the next build changes.
        "partialFingerprints": {
            "tdtrace/v1": plain(&format!("{}/{}", judged.identity(), judged.ordinal)),
        },
        // All results have it if any has (3.27.23).
        "suppressions": judged.allowed.map(suppression).into_iter().collect::<Vec<_>>(),
        "properties": properties(judged),
    });
    let stacks = stacks(*place, root);
    let parts = [
        ("ruleIndex", index.map(Value::from)),
        ("locations", location(*place, root).map(|location| json!([location]))),
        ("stacks", (!stacks.is_empty()).then(|| Value::from(stacks))),
    ];
    if let Some(result) = result.as_object_mut() {
        let known = parts.into_iter().filter_map(|(name, part)| Some((name.to_owned(), part?)));
        result.extend(known);
    }
    result
}

/// A message: text in which brackets are neither links nor placeholders (3.11.5, 3.11.6). Few viewers
/// take escapes back, so there are none.
fn message(text: &str) -> Value {
    let round = plain(text).replace(['[', '{'], "(").replace([']', '}'], ")");
    json!({ "text": round })
}

fn suppression(entry: &Entry) -> Value {
    let file = uri(&entry.file, None).uri;
    json!({
        "kind": "external",
        "status": "accepted",
        "justification": plain(&entry.reason),
        "location": {
            "physicalLocation": {
                "artifactLocation": { "uri": file },
                "region": { "startLine": entry.line },
            },
        },
    })
}

/// Where to look: the line, if it is known, and the function; nothing for the guest as a whole.
fn location(place: Place<'_>, root: Option<&str>) -> Option<Value> {
    let mut location = Map::new();
    if let Some((file, line)) = place.line() {
        location.insert("physicalLocation".to_owned(), physical(file, line, root));
    }
    let module = place.module().map(plain);
    let mut logical = Vec::new();
    if let Some(function) = place.function().map(plain) {
        let full = module.as_ref().map(|module| format!("{module}::{function}"));
        let full = full.unwrap_or_else(|| function.clone());
        logical.push(json!({ "name": function, "fullyQualifiedName": full, "kind": "function" }));
    }
    logical.extend(
        module.map(
            |module| json!({ "name": module, "fullyQualifiedName": module, "kind": "module" }),
        ),
    );
    if let Place::Site(site) = place
        && site.user
    {
        logical.push(json!({ "name": plain(&site.comm), "kind": "process" }));
    }
    if !logical.is_empty() {
        location.insert("logicalLocations".to_owned(), logical.into());
    }
    (!location.is_empty()).then(|| location.into())
}

fn physical(file: &str, line: u32, root: Option<&str>) -> Value {
    let file = uri(&plain(file), root);
    let artifact = if file.is_relative {
        json!({ "uri": file.uri, "uriBaseId": ROOT })
    } else {
        json!({ "uri": file.uri })
    };
    // A line of 0 is a compiler's "nowhere"; regions begin at 1.
    json!({ "artifactLocation": artifact, "region": { "startLine": line.max(1) } })
}

/// The chain of inlined functions with their lines, and the stack of the first time.
fn stacks(place: Place<'_>, root: Option<&str>) -> Vec<Value> {
    let frame = |name: &str, line: Option<(&str, u32)>| {
        let mut location = json!({
            "logicalLocations": [{ "name": plain(name), "kind": "function" }],
        });
        if let (Some((file, line)), Some(location)) = (line, location.as_object_mut()) {
            location.insert("physicalLocation".to_owned(), physical(file, line, root));
        }
        json!({ "location": location })
    };
    let chain = place
        .chain()
        .iter()
        .take(FRAMES_MAX)
        .map(|inlined| frame(&inlined.function, inlined.file.as_deref().zip(inlined.line)));
    let callers = match place {
        Place::Site(site) => &site.stack[..],
        Place::Call(call) => &call.stack[..],
        Place::Guest => &[],
    };
    let callers = callers.iter().take(FRAMES_MAX).map(|(ip, name)| match name {
        Some(name) => frame(name, None),
        None => frame(&format!("{ip:#x}"), None),
    });
    let stack = |text: &str, frames: Vec<Value>| {
        (!frames.is_empty()).then(|| json!({ "message": { "text": text }, "frames": frames }))
    };
    let stacks = [
        stack("Functions inlined there, the innermost first", chain.collect()),
        stack("Stack of the first time", callers.collect()),
    ];
    stacks.into_iter().flatten().collect()
}

fn properties(judged: &Judged<'_>) -> Value {
    let Judged { finding, place, .. } = judged;
    let mut properties = json!({
        "count": finding.count,
        "evidence": finding.evidence.iter().map(|text| plain(text)).collect::<Vec<_>>(),
        "form": place.form(),
        "failsCheck": judged.fails,
    });
    let Some(map) = properties.as_object_mut() else { return properties };
    if let Some(device) = place.device() {
        map.insert("device".to_owned(), json!(device));
        map.insert("deviceText".to_owned(), plain(&device.line()).into());
    }
    if let Place::Site(site) = place {
        map.insert("bytes".to_owned(), hex(&site.bytes).into());
        map.insert("reason".to_owned(), site.name.into());
        map.insert("fate".to_owned(), site.fate().name().into());
        map.insert("failed".to_owned(), site.failed.into());
        map.extend(site.ip.map(|ip| ("address".to_owned(), json!(Hex(ip)))));
        let contexts: Vec<&str> = site.contexts.iter().map(|(name, _)| *name).collect();
        map.insert("contexts".to_owned(), json!(contexts));
    }
    if let Some(text) = place.text() {
        map.insert("where".to_owned(), plain(&text).into());
    }
    if let Some(entry) = judged.expired {
        map.insert("expiredAllow".to_owned(), entry.to_string().into());
    }
    properties
}
