//! A snapshot as JSON. The schema is stable: fields are added, never renamed.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use tdtrace_common::{
    counters::{Class, Loss},
    latency::{Part, bucket_start},
};

use super::{
    Show, boot, conversions, findings::findings_json, poison, seam, slow, text::kept_places,
};
use crate::model::{
    counts::{Counts, add},
    exits::{self, ExitRow, Kind, Scope},
    field::{HOTSPOT_FIELDS, VM_FIELDS, to_json as row_to_json},
    filter::keeps,
    latency::Times,
    sample::Isa,
    snapshot::{Audit, ExitSource, Latency, Snapshot, Span, Vcpu, Vm},
};

/// Version of the JSON.
const SCHEMA: u32 = 1;

/// The whole snapshot, with the rows that `show` says; its limit is for the places of each VM. A VM of
/// which a row stays, stays.
#[must_use]
pub fn to_json(snapshot: &Snapshot, show: Show<'_>) -> Value {
    let outside: Map<String, Value> = snapshot
        .losses
        .outside
        .iter()
        .map(|(class, n)| (class.name().to_owned(), (*n).into()))
        .collect();
    let vms: Vec<Value> =
        snapshot.vms.iter().filter_map(|vm| vm_json(snapshot, vm, show)).collect();
    json!({
        "schema": SCHEMA,
        "at_s": snapshot.at.as_secs_f64(),
        "interval_s": snapshot.interval.map(|interval| interval.as_secs_f64()),
        "since_reset_s": snapshot.since_reset.map(|since| since.as_secs_f64()),
        "filter": show.filter.map(|filter| json!({
            "expression": filter.text(),
            "vms_shown": vms.len(),
            "vms": snapshot.vms.len(),
        })),
        "host": {
            "release": snapshot.host.release,
            "kvm": match snapshot.host.isa {
                Isa::Vmx => "vmx",
                Isa::Svm => "svm",
                Isa::Software => "software",
            },
        },
        "exits_from": match snapshot.exit_source {
            ExitSource::Event => "kvm_exit",
            ExitSource::KvmStat => "kvm_stat",
        },
        "probes": snapshot.probes.iter().map(|probe| json!({
            "name": probe.name,
            "attached": probe.missing.is_none(),
            "why_not": probe.missing,
            "hides": probe.missing.as_ref().map(|_| &probe.hides),
        })).collect::<Vec<_>>(),
        "lost": lost(snapshot),
        "outside": outside,
        "counts": counts(&snapshot.counts),
        "audit": snapshot.audit().as_ref().map(audit),
        "dropped_vms": snapshot.dropped_vms,
        "findings": findings_json(snapshot, show),
        "vms": vms,
        "slow": slow::to_json(snapshot, show),
        "seamcalls": seam::to_json(snapshot, show),
        "seamcalls_not_seen": seam::missing_json(snapshot),
        "poison": poison::to_json(snapshot),
    })
}

/// What was not counted, by cause and class.
fn lost(snapshot: &Snapshot) -> Value {
    let misses: Map<String, Value> =
        snapshot.losses.misses.iter().map(|(name, n)| (name.clone(), (*n).into())).collect();
    let by_cause = |loss: Loss| {
        let of = snapshot.losses.causes.iter().filter(move |(cause, ..)| *cause == loss);
        let classes: Map<String, Value> =
            of.map(|(_, class, n)| (class.name().to_owned(), (*n).into())).collect();
        (loss.name().to_owned(), Value::Object(classes))
    };
    let causes: Map<String, Value> =
        Loss::ALL.into_iter().filter(|loss| *loss != Loss::Outside).map(by_cause).collect();
    json!({
        "total": snapshot.lost(),
        "recursion_misses": misses,
        "causes": causes,
        "without_place": snapshot.losses.hotspots,
        "unpaired_durations": snapshot.losses.unpaired,
        "durations_without_room": snapshot.losses.durations,
    })
}

/// `None` where the filter leaves neither the VM nor a row of it.
fn vm_json(snapshot: &Snapshot, vm: &Vm, show: Show<'_>) -> Option<Value> {
    let places = kept_places(vm, show);
    let vcpus: Vec<&Vcpu> =
        vm.vcpus.iter().filter(|vcpu| keeps(show.filter, *vcpu, Some(vm))).collect();
    let mut exits = exits::rows(snapshot, Scope::Vm(vm.id), true);
    exits.retain(|row| keeps(show.filter, row, Some(vm)));
    let rows = places.len() + vcpus.len() + exits.len();
    if rows == 0 && !keeps(show.filter, vm, None) {
        return None;
    }
    let mut value = row_to_json(VM_FIELDS, vm);
    let other: Map<String, Value> =
        vm.other.iter().map(|(class, n)| (class.name().to_owned(), (*n).into())).collect();
    let latency: Vec<Value> =
        exits.iter().filter_map(|row| row.latency.as_ref()).map(latency).collect();
    if let Value::Object(fields) = &mut value {
        // Totals by class and the list of vCPUs say more than the columns of these names.
        fields.insert("counts".to_owned(), counts(&vm.counts));
        fields.insert("vcpus".to_owned(), vcpus.into_iter().map(vcpu_json).collect());
        fields.insert("exit_reasons".to_owned(), named(&exits, Kind::Exit));
        fields.insert("l2_exit_reasons".to_owned(), named(&exits, Kind::Nested));
        fields.insert("returns_to_vmm".to_owned(), named(&exits, Kind::Return));
        let listed = places.iter().take(show.hotspots).map(|place| {
            let mut row = row_to_json(HOTSPOT_FIELDS, *place);
            // The VM is what the list stands in.
            if let Value::Object(fields) = &mut row {
                fields.remove("vm");
                fields.remove("name");
            }
            row
        });
        fields.insert("hotspots".to_owned(), listed.collect());
        let omitted = places.len().saturating_sub(show.hotspots);
        fields.insert("hotspots_omitted".to_owned(), omitted.into());
        fields.insert("other".to_owned(), other.into());
        fields.insert("times_ns".to_owned(), times(vm.times.map(|times| times.total), vm.isa));
        fields.insert("latency".to_owned(), latency.into());
        fields.insert("conversions".to_owned(), conversions::to_json(vm));
        fields.insert("boot".to_owned(), boot::to_json(vm));
        fields.insert("audit".to_owned(), vm.audit.as_ref().map_or(Value::Null, audit));
    }
    Some(value)
}

/// Counts by name of the rows of one kind.
fn named(rows: &[ExitRow], kind: Kind) -> Value {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.kind == kind) {
        add(counts.entry(&row.reason).or_default(), row.tally.total);
    }
    json!(counts)
}

/// Where time went since attaching. Without `kvm_entry` guest and kernel cannot be told apart: what is
/// not known is null.
pub(super) fn times(times: Option<Times>, isa: Isa) -> Value {
    let Some(times) = times else { return Value::Null };
    let kernel = times.part(Part::Kernel);
    let software = isa == Isa::Software;
    json!({
        "guest": (!software).then_some(times.guest),
        "kernel": (!software).then_some(kernel),
        "kvm_run": software.then(|| times.guest.saturating_add(kernel)),
        "vmm": times.part(Part::Vmm),
        "halted": times.part(Part::Halted),
        "waiting": times.part(Part::Waiting),
    })
}

fn latency(latency: &Latency) -> Value {
    let parts: Map<String, Value> = Part::ALL
        .into_iter()
        .map(|part| (part.name().to_owned(), latency.part(part).into()))
        .collect();
    let buckets: Vec<[u64; 2]> =
        latency.histogram.filled().map(|(index, count)| [bucket_start(index), count]).collect();
    json!({
        "span": match latency.span {
            Span::Exit => "exit",
            Span::Return => "return",
        },
        "class": latency.class,
        "name": latency.name,
        "halt": latency.halt,
        "count": latency.tally.total,
        "per_s": latency.tally.rate,
        "ns": parts,
        "p50": latency.percentile(0.5),
        "p90": latency.percentile(0.9),
        "p99": latency.percentile(0.99),
        "p999": latency.percentile(0.999),
        "max": latency.max,
        "max_is_bound": latency.max_is_bound,
        "buckets": buckets,
    })
}

fn vcpu_json(vcpu: &Vcpu) -> Value {
    json!({
        "vcpu": vcpu.id,
        "tid": (vcpu.tid != 0).then_some(vcpu.tid),
        "exits": vcpu.exits.total,
        "exits_per_s": vcpu.exits.rate,
        "counts": counts(&vcpu.counts),
        "exit_reasons": vcpu.reasons(),
        "returns_to_vmm": vcpu.userspace(),
        "times_ns": times(vcpu.times.map(|times| times.total), vcpu.isa),
        "latency": vcpu.latency.iter().map(latency).collect::<Vec<_>>(),
        "audit": vcpu.audit.as_ref().map(audit),
    })
}

fn counts(counts: &Counts) -> Value {
    let pairs = Class::ALL.into_iter().map(|class| (class.name().to_owned(), counts[class].into()));
    Value::Object(pairs.collect())
}

fn audit(audit: &Audit) -> Value {
    json!({
        "agrees": audit.agrees(),
        "exits": { "kvm_says": audit.kvm_exits, "we_saw": audit.seen_exits },
        "kvm_runs": { "kvm_says": audit.kvm_runs, "we_saw": audit.seen_runs },
        "hypercalls": { "kvm_says": audit.kvm_hypercalls, "we_saw": audit.seen_hypercalls },
    })
}
