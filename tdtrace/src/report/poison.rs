//! Broken memory as text and JSON.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use tdtrace_common::{ledger::LedgerCount, poison::PoisonSource};

use crate::model::{
    field::thousands,
    poison::{pfn, result, source},
    snapshot::Snapshot,
};

/// What is not seen, and every page that is broken.
pub(super) fn to_text(snapshot: &Snapshot, text: &mut String) {
    for (source, why) in &snapshot.poison.missing {
        let _ = writeln!(text, "not seen: broken memory ({}: {why})", source.tracepoint());
    }
    for (page, count) in &snapshot.poison.pages {
        let who = source(page).map_or("?", |source| source.name());
        let frame = pfn(page).map_or_else(|| "?".to_owned(), |pfn| format!("{pfn:#x}"));
        let what = result(page).map_or_else(String::new, |result| format!(", {result}"));
        let count = thousands(*count);
        let _ = writeln!(text, "broken memory: frame {frame}, {who} {count} times{what}");
    }
    if snapshot.poison.lost > 0 {
        let _ = writeln!(text, "broken memory: {} more times", thousands(snapshot.poison.lost));
    }
    for vm in &snapshot.vms {
        let pages = vm.ledger.sample.count(LedgerCount::BrokenPages);
        if pages > 0 {
            let pages = thousands(pages);
            let _ = writeln!(text, "broken memory: {pages} pages of VM {} {}", vm.id, vm.name);
        }
    }
    for vm in snapshot.vms.iter().filter(|vm| vm.poisoned() > 0) {
        let count = thousands(vm.poisoned());
        let _ = writeln!(text, "broken memory: VM {} {} touched it {count} times", vm.id, vm.name);
    }
}

/// The same.
pub(super) fn to_json(snapshot: &Snapshot) -> Value {
    let missing: Map<String, Value> = snapshot
        .poison
        .missing
        .iter()
        .map(|(source, why)| (source.name().to_owned(), Value::from(&**why)))
        .collect();
    let pages: Vec<Value> = snapshot
        .poison
        .pages
        .iter()
        .map(|(page, count)| {
            json!({
                "source": source(page).map(PoisonSource::name),
                "pfn": pfn(page),
                "type": page.kind,
                "result": result(page),
                "count": count,
            })
        })
        .collect();
    json!({ "pages": pages, "without_room": snapshot.poison.lost, "not_seen": missing })
}
