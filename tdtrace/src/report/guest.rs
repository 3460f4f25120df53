//! A guest's snapshot as text and JSON, and its events as lines of JSON. Pure.

use serde_json::{Map, Value, json};
use tdtrace_common::guest::VeEvent;

use super::hex;
use crate::{
    decode::bits::Hex,
    model::guest::{
        event::Event,
        shared_bit::SharedBit,
        snapshot::{Call, GuestSnapshot, Reason, Site},
    },
};

mod findings;

/// Version of the JSON.
const SCHEMA: u32 = 1;

/// The whole snapshot. `sites` limits how many sites are listed.
#[must_use]
pub fn to_json(snapshot: &GuestSnapshot, sites: usize) -> Value {
    let misses: Map<String, Value> = snapshot
        .losses
        .misses
        .iter()
        .map(|(program, count)| (program.to_string(), (*count).into()))
        .collect();
    let causes: Map<String, Value> = snapshot
        .losses
        .causes
        .iter()
        .map(|(loss, count)| (loss.name().to_owned(), (*count).into()))
        .collect();
    json!({
        "schema": SCHEMA,
        "at_s": snapshot.at.as_secs_f64(),
        "interval_s": snapshot.interval.map(|interval| interval.as_secs_f64()),
        "release": &*snapshot.release,
        "td": snapshot.is_td,
        "shared_bit": snapshot.shared_bit.number(),
        "layout_assumed": snapshot.layout_assumed,
        "clock": {
            "source": snapshot.clock.name,
            "used": snapshot.clock.used,
            "changes": snapshot.clock.changes,
        },
        "probes": snapshot.probes.iter().map(|probe| json!({
            "name": probe.name,
            "how": probe.how,
            "why_not": probe.missing,
            "hides": probe.how.is_none().then_some(&probe.hides),
        })).collect::<Vec<_>>(),
        "ve": {
            "all": snapshot.all(),
            "seen": snapshot.total,
            "missed": snapshot.missed,
        },
        "reasons": snapshot.reasons.iter().map(reason_json).collect::<Vec<_>>(),
        "sites": snapshot.sites.iter().take(sites).map(site_json).collect::<Vec<_>>(),
        "sites_omitted": snapshot.sites.len().saturating_sub(sites),
        "objects": snapshot.objects.iter().map(|object| json!({
            "object": object.object, "count": object.count, "failed": object.failed,
        })).collect::<Vec<_>>(),
        "calls": snapshot.calls.iter().map(call_json).collect::<Vec<_>>(),
        "symbols": &*snapshot.symbols,
        "findings": snapshot.findings.iter()
            .map(|finding| findings::finding_json(snapshot, finding))
            .collect::<Vec<_>>(),
        "lost": { "recursion_misses": misses, "causes": causes },
    })
}

/// An event as one line of JSON.
#[must_use]
pub fn event_line(event: &VeEvent, shared_bit: SharedBit) -> String {
    // A record of numbers and short texts can always be written.
    serde_json::to_string(&Event::new(event, shared_bit)).unwrap_or_default() + "\n"
}

fn reason_json(reason: &Reason) -> Value {
    json!({
        "reason": reason.reason,
        "name": reason.name,
        "count": reason.count,
        "per_s": reason.rate,
        "failed": reason.failed,
        "user": reason.user,
        "own": reason.own,
        "unpaired": reason.unpaired,
        "other": reason.other,
        "ns": reason.ns,
        "p50_ns": reason.percentile(0.5),
        "p99_ns": reason.percentile(0.99),
        "max_ns": (reason.max_ns > 0).then_some(reason.max_ns),
    })
}

fn site_json(site: &Site) -> Value {
    json!({
        "reason": site.reason,
        "name": site.name,
        "ip": site.ip.map(Hex),
        "symbol": site.symbol.as_deref(),
        "user": site.user,
        "count": site.count,
        "per_s": site.rate,
        "failed": site.failed,
        "own": site.own,
        "errno": site.errno,
        "fate": site.fate(),
        "verdict": site.verdict.as_deref(),
        "function": site.code.as_ref().and_then(|code| code.function.as_deref()),
        "module": site.code.as_ref().and_then(|code| code.module.as_deref()),
        "chain": site.code.as_ref().and_then(|code| code.chain.as_deref()),
        "device": site.device.as_deref(),
        "form": site.judgement().map(|judgement| judgement.verdict.name()),
        "bytes": hex(&site.bytes),
        "contexts": site.contexts.iter()
            .map(|(name, count)| ((*name).to_owned(), (*count).into()))
            .collect::<Map<String, Value>>(),
        "objects": site.objects.iter()
            .map(|(object, count)| json!({ "object": object, "count": count }))
            .collect::<Vec<_>>(),
        "first": { "pid": site.pid, "tid": site.tid, "comm": site.comm },
        "stack": stack_json(&site.stack),
        "mean_ns": site.mean_ns,
    })
}

fn call_json(call: &Call) -> Value {
    json!({
        "operation": call.operation.name(),
        "caller": call.caller.as_deref(),
        "count": call.count,
        "failed": call.failed,
        "last_failure": (call.failed > 0).then_some(Hex(call.last_failure)),
        "bytes": call.bytes,
        "mean_ns": call.mean_ns,
        "max_ns": call.max_ns,
        "stack": stack_json(&call.stack),
    })
}

fn stack_json(stack: &[(u64, Option<std::sync::Arc<str>>)]) -> Vec<Value> {
    stack
        .iter()
        .map(|(ip, name)| name.as_deref().map_or_else(|| json!(Hex(*ip)), |name| json!(name)))
        .collect()
}

/// The snapshot for people: at most `limit` rows of each table.
#[must_use]
pub fn to_text(snapshot: &GuestSnapshot, limit: usize) -> String {
    let mut text = header(snapshot);
    text.push_str(&findings::findings_text(snapshot, limit));
    let mut part = |title: &str, head: &[&str], rows: Vec<Vec<String>>| {
        if !rows.is_empty() {
            text.push_str(&format!("\n{title}\n"));
            text.push_str(&aligned(head, &rows, limit));
        }
    };
    part(
        "#VEs by reason",
        &["reason", "count", "/s", "failed", "user", "own", "p50", "p99", "max"],
        snapshot.reasons.iter().map(reason_row).collect(),
    );
    part(
        "Sites",
        &["reason", "verdict", "survives", "count", "failed", "context", "about", "where", "bytes"],
        snapshot.sites.iter().map(site_row).collect(),
    );
    part(
        "About",
        &["what", "count", "failed"],
        snapshot
            .objects
            .iter()
            .map(|o| vec![o.object.text(), o.count.to_string(), o.failed.to_string()])
            .collect(),
    );
    part(
        "Memory, quotes and bounces",
        &["operation", "count", "failed", "bytes", "mean", "max", "caller"],
        snapshot.calls.iter().map(call_row).collect(),
    );
    super::printable(&text)
}

fn header(snapshot: &GuestSnapshot) -> String {
    let total = snapshot.total;
    let kind = if snapshot.is_td { "TD" } else { "not a TD" };
    let clock = match (snapshot.clock.name.as_str(), snapshot.clock.used) {
        ("", _) => "clock unknown, no times".to_owned(),
        (name, true) => format!("clock {name}"),
        (name, false) => format!("clock {name} cannot be read within a #VE, no times"),
    };
    let mut text = format!(
        "guest {} ({kind}), {clock}, shared bit {}\n{} #VEs in {:.1} s: {} seen, {} missed; {} \
         failed, {} in user mode, {} by tdtrace\n",
        snapshot.release,
        snapshot.shared_bit,
        snapshot.all(),
        snapshot.at.as_secs_f64(),
        total.count,
        snapshot.missed,
        total.failed,
        total.user,
        total.own,
    );
    if snapshot.layout_assumed {
        text.push_str("no BTF: the layout of the kernel's structures is assumed\n");
    }
    if !snapshot.symbols.is_empty() {
        text.push_str(&format!("{}\n", snapshot.symbols));
    }
    for probe in snapshot.probes.iter().filter(|probe| probe.how.is_none()) {
        let why = probe.missing.as_deref().unwrap_or("not attached");
        text.push_str(&format!("without {}: {why}; hides {}\n", probe.name, probe.hides));
    }
    let lost = snapshot.losses.causes.iter().map(|(loss, n)| format!("{} {n}", loss.name()));
    let misses = snapshot.losses.misses.iter().filter(|(_, count)| *count > 0);
    let lost: Vec<String> =
        lost.chain(misses.map(|(name, n)| format!("{name} missed {n}"))).collect();
    if !lost.is_empty() {
        text.push_str(&format!("lost: {}\n", lost.join(", ")));
    }
    text
}

fn reason_row(reason: &Reason) -> Vec<String> {
    let ns = |fraction| duration(reason.percentile(fraction));
    vec![
        reason.name.to_owned(),
        reason.count.to_string(),
        reason.rate.map_or_else(|| "–".to_owned(), |rate| format!("{rate:.0}")),
        reason.failed.to_string(),
        reason.user.to_string(),
        reason.own.to_string(),
        ns(0.5),
        ns(0.99),
        duration((reason.max_ns > 0).then_some(reason.max_ns)),
    ]
}

fn site_row(site: &Site) -> Vec<String> {
    let contexts: Vec<&str> = site.contexts.iter().map(|(name, _)| *name).collect();
    let length = site.judgement().and_then(|judgement| judgement.len).map_or(8, usize::from);
    vec![
        site.name.to_owned(),
        site.verdict.as_ref().map_or("", |verdict| verdict.kind.name()).to_owned(),
        site.fate().name().to_owned(),
        site.count.to_string(),
        site.failed.to_string(),
        contexts.join(","),
        site.objects.first().map(|(object, _)| object.text()).unwrap_or_default(),
        site.place(),
        hex(&site.bytes[..length.min(site.bytes.len())]),
    ]
}

fn call_row(call: &Call) -> Vec<String> {
    vec![
        call.operation.name().to_owned(),
        call.count.to_string(),
        call.failed.to_string(),
        call.bytes.to_string(),
        duration(call.mean_ns),
        duration(call.max_ns),
        call.caller.as_deref().unwrap_or("–").to_owned(),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
fn duration(ns: Option<u64>) -> String {
    match ns {
        None => "–".to_owned(),
        Some(ns) if ns < 1_000 => format!("{ns} ns"),
        Some(ns) if ns < 1_000_000 => format!("{:.1} µs", ns as f64 / 1e3),
        Some(ns) if ns < 1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        Some(ns) => format!("{:.1} s", ns as f64 / 1e9),
    }
}

fn aligned(head: &[&str], rows: &[Vec<String>], limit: usize) -> String {
    let shown = &rows[..rows.len().min(limit)];
    let width = |column: usize| {
        let cells = shown.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&head).chain(shown) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("  {cell:<width$}"));
        text.push_str(cells.collect::<String>().trim_end());
        text.push('\n');
    }
    if rows.len() > limit {
        text.push_str(&format!("  … and {} more\n", rows.len() - limit));
    }
    text
}

#[cfg(test)]
mod tests;
