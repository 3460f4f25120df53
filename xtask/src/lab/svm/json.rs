//! What tdtrace itself says: the JSON of `tdtrace stat` and of `tdtrace workload`. Pure.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;
use tdtrace_common::{
    counters::Class::{self, *},
    svm::EXIT_CODES,
};

use super::counts::{Item, Lost, Thread, Threads, tracepoint};
use crate::lab::json::{list, number, numbers};

/// What `tdtrace stat --json` counted.
#[derive(Debug)]
pub(super) struct Stat {
    /// Counts by thread.
    pub(super) threads: Threads,
    /// Events that it says it lost.
    pub(super) lost: Lost,
    /// Events that it says belong to no vCPU.
    pub(super) outside: BTreeMap<Item, u64>,
}

/// Reads what `tdtrace stat --json` printed.
///
/// # Errors
/// When something is missing or unknown in it, or when KVM's own counters say otherwise.
pub(super) fn stat(json: &str) -> Result<Stat> {
    let json: Value = serde_json::from_str(json).context("stat printed no JSON")?;
    let lost = lost(json.get("lost").ok_or_else(|| anyhow!("stat does not say what it lost"))?)?;
    audit(json.get("audit").ok_or_else(|| anyhow!("stat did no audit"))?, &lost)?;
    let threads = threads(&json, |vcpu| {
        let mut counts = BTreeMap::new();
        for (name, count) in numbers(vcpu, "counts")? {
            counts.insert(Item::Class(class(name)?), count);
        }
        for (name, count) in numbers(vcpu, "exit_reasons")? {
            counts.insert(Item::Reason(reason(name)?), count);
        }
        Ok(counts)
    })?;
    let outside = numbers(&json, "outside")?
        .into_iter()
        .map(|(name, count)| Ok((Item::Class(class(name)?), count)))
        .collect::<Result<_>>()?;
    Ok(Stat { threads, lost, outside })
}

/// Lost events by tracepoint. A hotspot without a place is an error here: the lab makes few places.
fn lost(json: &Value) -> Result<Lost> {
    let mut lost: Lost = numbers(json, "recursion_misses")?
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count))
        .collect();
    let causes = json.get("causes").and_then(Value::as_object);
    for (cause, _) in causes.ok_or_else(|| anyhow!("no causes in {json}"))? {
        for (name, count) in numbers(&json["causes"], cause)? {
            let known: &mut u64 = lost.entry(tracepoint(class(name)?).to_owned()).or_default();
            *known = known.saturating_add(count);
        }
    }
    let total = number(json, "total")?;
    if lost.values().sum::<u64>() != total || number(json, "without_place")? != 0 {
        bail!("the losses do not add up: {json}");
    }
    lost.retain(|_, count| *count > 0);
    Ok(lost)
}

/// KVM's own counters, read through the vCPUs' statistics: equal, or apart by no more than was lost.
fn audit(json: &Value, lost: &Lost) -> Result<()> {
    let of = [("exits", "kvm_exit"), ("kvm_runs", "kvm_fpu"), ("hypercalls", "kvm_hypercall")];
    for (what, tracepoint) in of {
        let pair = &json[what];
        let apart = number(pair, "kvm_says")?.abs_diff(number(pair, "we_saw")?);
        if apart > lost.get(tracepoint).copied().unwrap_or(0) {
            bail!("KVM's own count of {what} says otherwise: {json}");
        }
    }
    Ok(())
}

/// What `tdtrace workload` says it made.
///
/// # Errors
/// When something is missing or unknown in it, or when a vCPU made other counts than `asked`.
pub(super) fn workload(json: &str, asked: &[(&str, u64)]) -> Result<Threads> {
    let json: Value = serde_json::from_str(json).context("workload printed no JSON")?;
    let sign_off = json.get("sign_off").and_then(Value::as_str);
    let sign_off = sign_off.ok_or_else(|| anyhow!("the workload does not say its sign-off"))?;
    threads(&json, |vcpu| {
        let made: BTreeMap<_, _> = numbers(vcpu, "made")?.into_iter().collect();
        for (name, count) in asked {
            if made.get(name) != Some(count) {
                bail!("the workload was asked for {count} {name} and made {made:?}");
            }
        }
        promised(vcpu, &made, sign_off)
    })
}

/// The events that KVM on SVM shows for what a vCPU `made`, and for the `sign_off` that ends each slice
/// of it.
fn promised(
    vcpu: &Value,
    made: &BTreeMap<&str, u64>,
    sign_off: &str,
) -> Result<BTreeMap<Item, u64>> {
    let mut counts: BTreeMap<Item, u64> = BTreeMap::new();
    let interrupts = number(vcpu, "interrupts")?;
    // The handler's end of interrupt is a write to an MSR.
    let more = [(sign_off, number(vcpu, "sign_offs")?), ("msr_write", interrupts)];
    for (name, count) in made.iter().map(|(name, count)| (*name, *count)).chain(more) {
        let mut add = |item: Item| {
            let sum = counts.entry(item).or_default();
            *sum = sum.saturating_add(count);
        };
        match name {
            // Whoever serves it, it is an exit.
            "hlt" | "halt" => add(Item::Reason(reason("HLT")?)),
            // SVM has no fast path for ioeventfds (kvm_fast_mmio is in
            // arch/x86/kvm/vmx/vmx.c:handle_ept_misconfig alone): these are writes as any other.
            "fast_mmio" | "mmio_write" => add(Item::Class(MmioWrite)),
            // Nothing in the kernel serves them, and the VMM completes every one.
            "mmio_read" => {
                add(Item::Class(MmioReadUnsatisfied));
                add(Item::Class(MmioRead));
            }
            _ => add(Item::Class(class(name)?)),
        }
    }
    let calls = number(vcpu, "kvm_run_calls")?;
    counts.extend([UserspaceExit, RunBegin, RunEnd].map(|class| (Item::Class(class), calls)));
    Ok(counts)
}

/// Every vCPU of `json`, its counts taken by `counts`.
fn threads(
    json: &Value,
    counts: impl Fn(&Value) -> Result<BTreeMap<Item, u64>>,
) -> Result<Threads> {
    let mut threads = Threads::new();
    for vm in list(json, "vms")? {
        for vcpu in list(vm, "vcpus")? {
            let tid = number(vcpu, "tid")?;
            let thread = Thread {
                vcpu: Some(number(vcpu, "vcpu")?),
                vm: vm.get("vm").and_then(Value::as_u64),
                counts: counts(vcpu)?,
            };
            if threads.insert(tid, thread).is_some() {
                bail!("thread {tid} is there twice");
            }
        }
    }
    Ok(threads)
}

fn class(name: &str) -> Result<Class> {
    Class::ALL
        .into_iter()
        .find(|class| class.name() == name)
        .ok_or_else(|| anyhow!("there is no class {name}"))
}

/// An exit code by its name or number.
fn reason(name: &str) -> Result<u32> {
    EXIT_CODES
        .iter()
        .find(|(_, known)| *known == name)
        .map(|(code, _)| *code)
        .or_else(|| match name.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => name.parse().ok(),
        })
        .ok_or_else(|| anyhow!("there is no SVM exit code {name}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stat_json() -> Value {
        let equal = |count: u64| json!({"kvm_says": count, "we_saw": count});
        json!({
            "outside": {"spte_changed": 4},
            "lost": {"total": 0, "without_place": 0, "recursion_misses": {"kvm_fpu": 0},
                "causes": {"unattributed": {}}},
            "audit": {"exits": equal(5), "kvm_runs": equal(2), "hypercalls": equal(0)},
            "vms": [{"vcpus": [{"vcpu": 1, "tid": 7,
                "counts": {"exit": 5}, "exit_reasons": {"HLT": 4, "96": 1}}]}],
        })
    }

    fn work_json() -> Value {
        json!({"sign_off": "hlt", "vms": [{"vm": 0, "vcpus": [{"vcpu": 1, "tid": 7, "sign_offs": 1,
            "interrupts": 0, "kvm_run_calls": 9, "made":
            {"hlt": 3, "fast_mmio": 2, "mmio_write": 3, "mmio_read": 4, "pio_in": 1}}]}]})
    }

    #[test]
    fn exit_reasons_are_read_by_name_and_by_number() {
        let threads = stat(&stat_json().to_string()).unwrap().threads;
        let expected = [(Item::Class(Exit), 5), (Item::Reason(0x78), 4), (Item::Reason(0x60), 1)];
        assert_eq!(threads[&7].counts, BTreeMap::from(expected));
    }

    #[test]
    fn a_name_that_is_not_known_is_an_error() {
        let mut json = stat_json();
        json["vms"][0]["vcpus"][0]["counts"]["cpuids"] = 1.into();
        assert!(stat(&json.to_string()).unwrap_err().to_string().contains("cpuids"));
        let mut json = stat_json();
        json["vms"][0]["vcpus"][0]["exit_reasons"]["HALT"] = 1.into();
        assert!(stat(&json.to_string()).unwrap_err().to_string().contains("HALT"));
    }

    #[test]
    fn lost_events_are_read_by_tracepoint() {
        let mut json = stat_json();
        json["lost"]["recursion_misses"]["kvm_fpu"] = 3.into();
        json["lost"]["causes"]["unattributed"] = json!({"run_end": 2, "userspace_exit": 1});
        json["lost"]["total"] = 6.into();
        let lost = stat(&json.to_string()).unwrap().lost;
        let expected = [("kvm_fpu".to_owned(), 5), ("kvm_userspace_exit".to_owned(), 1)];
        assert_eq!(lost, BTreeMap::from(expected));
        json["lost"]["total"] = 7.into();
        assert!(stat(&json.to_string()).unwrap_err().to_string().contains("add up"));
    }

    #[test]
    fn kvms_own_counters_may_differ_by_what_was_lost_and_no_more() {
        let mut json = stat_json();
        json["audit"]["kvm_runs"]["we_saw"] = 1.into();
        assert!(stat(&json.to_string()).unwrap_err().to_string().contains("kvm_runs"));
        json["lost"]["recursion_misses"]["kvm_fpu"] = 1.into();
        json["lost"]["total"] = 1.into();
        stat(&json.to_string()).unwrap();
    }

    #[test]
    fn a_workload_promises_the_events_of_its_accesses() {
        let threads = workload(&work_json().to_string(), &[]).unwrap();
        let expected = [
            (Item::Class(PioIn), 1),
            (Item::Class(MmioReadUnsatisfied), 4),
            (Item::Class(MmioRead), 4),
            (Item::Class(MmioWrite), 5),
            (Item::Class(MsrWrite), 0),
            (Item::Class(UserspaceExit), 9),
            (Item::Class(RunBegin), 9),
            (Item::Class(RunEnd), 9),
            (Item::Reason(0x78), 4),
        ];
        assert_eq!(threads[&7].counts, BTreeMap::from(expected));
    }

    #[test]
    fn halts_that_the_kernel_serves_are_exits_and_their_interrupts_end_with_an_msr() {
        let json = json!({"sign_off": "pio_out", "vms": [{"vm": 0, "vcpus": [{"vcpu": 1, "tid": 7,
            "sign_offs": 1, "interrupts": 6, "kvm_run_calls": 3, "made":
            {"hlt": 0, "halt": 5, "msr_write": 2, "pio_out": 2}}]}]});
        let threads = workload(&json.to_string(), &[]).unwrap();
        let expected = [
            (Item::Class(PioOut), 3),
            (Item::Class(MsrWrite), 8),
            (Item::Class(UserspaceExit), 3),
            (Item::Class(RunBegin), 3),
            (Item::Class(RunEnd), 3),
            (Item::Reason(0x78), 5),
        ];
        assert_eq!(threads[&7].counts, BTreeMap::from(expected));
    }

    #[test]
    fn a_workload_that_made_something_else_than_asked_is_refused() {
        let json = work_json().to_string();
        let error = workload(&json, &[("hlt", 4)]).unwrap_err().to_string();
        assert!(error.contains("4 hlt"), "{error}");
    }
}
