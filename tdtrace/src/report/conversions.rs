//! Conversions of memory as text and JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};
use tdtrace_common::{
    counters::Class,
    ledger::{Direction, LedgerCount},
};

use super::{Show, table::table, text::WIDTH};
use crate::model::{
    field::{REGION_FIELDS, pick, thousands, to_json as row_to_json},
    figure,
    filter::keeps,
    ledger::{Ledger, Region, converts, memory_faults},
    snapshot::{Snapshot, Vm},
};

/// Regions listed as text.
const REGIONS_LISTED: usize = 16;

/// `EHWPOISON`: the page is broken.
const EHWPOISON: u32 = 133;

/// The conversions of `vm`; null of one that cannot have any.
pub(super) fn to_json(vm: &Vm) -> Value {
    if !converts(vm) {
        return Value::Null;
    }
    let Ledger { sample, calls, bytes, mapped, .. } = &vm.ledger;
    let one_way = |way: Direction| {
        let of = |count| sample.of(count, way);
        json!({
            "calls": calls[way as usize].total,
            "calls_per_s": calls[way as usize].rate,
            "bytes": bytes[way as usize].total,
            "bytes_per_s": bytes[way as usize].rate,
            "calls_of_4k": of(LedgerCount::Pages),
            "calls_of_2m": of(LedgerCount::Blocks),
            "retries": of(LedgerCount::Retried),
            "continued": of(LedgerCount::Continued),
            "refused": of(LedgerCount::Refused),
        })
    };
    let set = |way: Direction| {
        json!({
            "calls": sample.of(LedgerCount::AttributeCalls, way),
            "bytes": sample.of(LedgerCount::AttributeBytes, way),
        })
    };
    json!({
        "to_shared": one_way(Direction::ToShared),
        "to_private": one_way(Direction::ToPrivate),
        "net_shared_bytes": vm.ledger.net_shared(),
        "retries": vm.ledger.both(LedgerCount::Retried),
        "ping_pong": vm.ledger.turns(),
        "attributes": {
            "to_shared": set(Direction::ToShared),
            "to_private": set(Direction::ToPrivate),
        },
        "punched": {
            "calls": sample.count(LedgerCount::PunchedCalls),
            "bytes": sample.count(LedgerCount::PunchedBytes),
        },
        "broken_pages": sample.count(LedgerCount::BrokenPages),
        "memory_faults": faults(vm),
        "faults_again": vm.counts[Class::TdFaultAgain],
        "mapped_private": {
            "bytes": mapped.total,
            "bytes_per_s": mapped.rate,
            "pages_4k": sample.count(LedgerCount::Mapped4K),
            "pages_2m": sample.count(LedgerCount::Mapped2M),
            "seen_from_start": vm.ledger.from_start,
            "memory_bytes": vm.ledger.memory(),
            "eta_s": vm.ledger.eta(),
        },
        "regions": regions(&vm.ledger),
        "without_region": sample.count(LedgerCount::WithoutRegion),
    })
}

fn faults(vm: &Vm) -> Value {
    let last = vm.ledger.sample.fault.map(|fault| {
        json!({ "gpa": fault.gpa, "private": fault.private, "ago_ns": vm.ledger.fault_ago })
    });
    json!({
        "total": vm.counts[Class::MemoryFault],
        "private": memory_faults(vm, |private, _| private),
        "shared": memory_faults(vm, |private, _| !private),
        "poisoned": memory_faults(vm, |_, errno| errno == EHWPOISON),
        "last": last,
    })
}

fn regions(ledger: &Ledger) -> Vec<Value> {
    let row = |region: &Region| {
        let mut row = row_to_json(REGION_FIELDS, region);
        // The VM is what the list stands in.
        if let Value::Object(fields) = &mut row {
            fields.remove("vm");
            fields.remove("name");
        }
        row
    };
    ledger.regions.iter().map(row).collect()
}

/// The conversions of the VMs that have any.
pub(super) fn to_text(snapshot: &Snapshot, show: Show<'_>, text: &mut String) {
    let vms: Vec<&Vm> =
        snapshot.vms.iter().filter(|vm| converts(vm) && keeps(show.filter, *vm, None)).collect();
    if vms.is_empty() {
        return;
    }
    let since = since(snapshot);
    let _ = writeln!(text, "\nCONVERSIONS {since}; what was shared before is not known");
    let columns = [
        ("vm", 0),
        ("name", 1),
        ("conv_per_s", 2),
        ("to_shared", 2),
        ("to_private", 2),
        ("net_shared", 3),
        ("retries", 4),
        ("ping_pong", 4),
        ("set_by_vmm", 5),
        ("mapped", 3),
        ("punched", 6),
        ("memory_faults", 5),
    ];
    text.push_str(&table(&pick(&columns), &vms, WIDTH));
    for vm in &vms {
        if let Some(line) = acceptance(&vm.ledger, 20) {
            let _ = writeln!(text, "{:>3} {line}", vm.id);
        }
    }
    let regions: Vec<&Region> = vms.iter().flat_map(|vm| &vm.ledger.regions).collect();
    if regions.is_empty() {
        return;
    }
    text.push('\n');
    let listed = &regions[..regions.len().min(REGIONS_LISTED)];
    let columns = REGION_FIELDS.iter().map(|field| (field.key, field.rank)).collect::<Vec<_>>();
    text.push_str(&table(&pick(&columns), listed, WIDTH));
    if regions.len() > listed.len() {
        let _ = writeln!(text, "… and {} more regions", regions.len() - listed.len());
    }
    for vm in vms {
        let count = vm.ledger.sample.count(LedgerCount::WithoutRegion);
        if count > 0 {
            let _ = writeln!(text, "{:>3} conversions elsewhere: {}", vm.id, thousands(count));
        }
    }
}

/// From when on conversions are counted.
pub fn since(snapshot: &Snapshot) -> &'static str {
    if snapshot.since_reset.is_some() { "since the reset" } else { "since attaching" }
}

/// How much private memory was mapped, against the VM's memory where that is known; `width` is that of the
/// bar. `None` where nothing was mapped. *At least*: what was mapped before tdtrace or a reset is not known.
pub fn acceptance(ledger: &Ledger, width: usize) -> Option<String> {
    let mapped = ledger.mapped.total;
    if mapped == 0 {
        return None;
    }
    let bound = if ledger.from_start { "" } else { "at least " };
    let mut line = format!("private memory mapped {bound}{}", figure::bytes(mapped));
    match ledger.memory() {
        Some(memory) => {
            let bar = figure::gauge(mapped, memory, width);
            let _ = write!(line, " of {}  {bar}", figure::bytes(memory));
        }
        None => line.push_str(", of unknown size"),
    }
    if let Some(rate) = ledger.mapped.rate.filter(|rate| *rate >= 1.0) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate is not negative, and beyond 2^64 it saturates"
        )]
        let _ = write!(line, "  {}/s", figure::bytes(rate as u64));
    }
    if let Some(seconds) = ledger.eta() {
        let _ = write!(line, "  full in {seconds:.0} s");
    }
    let small = ledger.sample.count(LedgerCount::Mapped4K).saturating_mul(4 << 10);
    let percent = u128::from(small) * 100 / u128::from(mapped);
    let _ = write!(line, "  4K {percent}%");
    Some(line)
}
