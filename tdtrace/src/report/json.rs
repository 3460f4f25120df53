//! A snapshot as JSON. The schema is stable: fields are added, never renamed.

use serde_json::{Map, Value, json};

use tdtrace_common::counters::{Class, Loss};

use crate::model::{
    counts::Counts,
    field::{HOTSPOT_FIELDS, VM_FIELDS, to_json as row_to_json},
    sample::Isa,
    snapshot::{Audit, ExitSource, Snapshot, Vcpu, Vm},
};

/// Version of the JSON.
const SCHEMA: u32 = 1;

/// The whole snapshot. `hotspots` limits the places of each VM.
#[must_use]
pub fn to_json(snapshot: &Snapshot, hotspots: usize) -> Value {
    let misses: Map<String, Value> =
        snapshot.losses.misses.iter().map(|(name, n)| (name.clone(), (*n).into())).collect();
    let by_cause = |loss: Loss| {
        let of = snapshot.losses.causes.iter().filter(move |(cause, ..)| *cause == loss);
        let classes: Map<String, Value> =
            of.map(|(_, class, n)| (class.name().to_owned(), (*n).into())).collect();
        (loss.name().to_owned(), Value::Object(classes))
    };
    let causes = Loss::ALL.into_iter().filter(|loss| *loss != Loss::Outside);
    let causes: Map<String, Value> = causes.map(by_cause).collect();
    json!({
        "schema": SCHEMA,
        "at_s": snapshot.at.as_secs_f64(),
        "interval_s": snapshot.interval.map(|interval| interval.as_secs_f64()),
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
        "lost": {
            "total": snapshot.lost(),
            "recursion_misses": misses,
            "causes": causes,
            "without_place": snapshot.losses.hotspots,
        },
        "outside": snapshot.losses.outside.iter()
            .map(|(class, n)| (class.name().to_owned(), (*n).into()))
            .collect::<Map<String, Value>>(),
        "counts": counts(&snapshot.counts),
        "audit": snapshot.audit().as_ref().map(audit),
        "dropped_vms": snapshot.dropped_vms,
        "vms": snapshot.vms.iter().map(|vm| vm_json(vm, hotspots)).collect::<Vec<_>>(),
    })
}

fn vm_json(vm: &Vm, limit: usize) -> Value {
    let mut value = row_to_json(VM_FIELDS, vm);
    let rows = vm.hotspots.iter().take(limit).map(|hotspot| {
        let mut row = row_to_json(HOTSPOT_FIELDS, hotspot);
        // The VM is what the list stands in.
        if let Value::Object(fields) = &mut row {
            fields.remove("vm");
            fields.remove("name");
        }
        row
    });
    let rows: Vec<Value> = rows.collect();
    let other: Map<String, Value> =
        vm.other.iter().map(|(class, n)| (class.name().to_owned(), (*n).into())).collect();
    if let Value::Object(fields) = &mut value {
        // Totals by class and the list of vCPUs say more than the columns of these names.
        fields.insert("counts".to_owned(), counts(&vm.counts));
        fields.insert("vcpus".to_owned(), vm.vcpus.iter().map(vcpu_json).collect());
        fields.insert("exit_reasons".to_owned(), json!(vm.reasons()));
        fields.insert("returns_to_vmm".to_owned(), json!(vm.userspace()));
        fields.insert("hotspots".to_owned(), rows.into());
        fields
            .insert("hotspots_omitted".to_owned(), vm.hotspots.len().saturating_sub(limit).into());
        fields.insert("other".to_owned(), other.into());
        fields.insert("audit".to_owned(), vm.audit.as_ref().map_or(Value::Null, audit));
    }
    value
}

fn vcpu_json(vcpu: &Vcpu) -> Value {
    json!({
        "vcpu": vcpu.id,
        "tid": vcpu.tid,
        "exits": vcpu.exits.total,
        "exits_per_s": vcpu.exits.rate,
        "counts": counts(&vcpu.counts),
        "exit_reasons": vcpu.reasons(),
        "returns_to_vmm": vcpu.userspace(),
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
