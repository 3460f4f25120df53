//! What `tdtrace stat --json` says of times. Pure.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail};
use serde_json::Value;
use tdtrace_common::latency::{BUCKETS, bucket};

use super::{Class, trace::EVENTS};
use crate::lab::json::{list, number, numbers};

/// Durations of a class.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Durations {
    /// All together, in nanoseconds.
    pub(super) ns: u64,
    /// How many fell into each bucket.
    pub(super) buckets: [u64; BUCKETS],
}

impl Default for Durations {
    fn default() -> Self {
        Self { ns: 0, buckets: [0; BUCKETS] }
    }
}

impl Durations {
    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// Where the time of a thread went, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spent {
    /// In the guest.
    pub(super) guest: u64,
    /// In KVM_RUN, but not in the guest, and without waiting.
    pub(super) outside: u64,
    /// Of that, halted while no CPU was waited for.
    pub(super) halted: u64,
    /// Waiting for a CPU, in KVM_RUN or in the VMM.
    pub(super) waiting: u64,
}

/// What tdtrace says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Told {
    /// By thread.
    pub(super) threads: BTreeMap<u64, Spent>,
    /// By class, all threads together.
    pub(super) classes: BTreeMap<Class, Durations>,
}

/// Reads what `tdtrace stat --json` says of its VMs, all classes together.
///
/// # Errors
/// When something is missing or unknown.
pub(super) fn told(json: &Value) -> Result<Told> {
    let mut times = Told::default();
    for vm in list(json, "vms")? {
        for vcpu in list(vm, "vcpus")? {
            times.threads.insert(number(vcpu, "tid")?, spent(&vcpu["times_ns"])?);
        }
        for row in list(vm, "latency")? {
            let span = match row["span"].as_str() {
                Some("exit") => "exit",
                Some("return") => "return",
                other => bail!("there is no span {other:?}"),
            };
            let name = row["name"].as_str().ok_or_else(|| anyhow!("no name in {row}"))?;
            let sum = times.classes.entry((span, name.to_owned())).or_default();
            let before = sum.count();
            sum.ns += numbers(row, "ns")?.iter().map(|(_, ns)| ns).sum::<u64>();
            for pair in list(row, "buckets")? {
                let [Some(start), Some(count)] = [&pair[0], &pair[1]].map(Value::as_u64) else {
                    bail!("{pair} is no bucket");
                };
                sum.buckets[bucket(start)] += count;
            }
            if number(row, "count")? != sum.count() - before {
                bail!("the buckets do not add up: {row}");
            }
            let ranks = ["p50", "p90", "p99", "p999", "max"];
            let ranks =
                ranks.map(|rank| number(row, rank)).into_iter().collect::<Result<Vec<_>>>()?;
            if !ranks.is_sorted() {
                bail!("the percentiles are not in order: {row}");
            }
        }
    }
    Ok(times)
}

fn spent(json: &Value) -> Result<Spent> {
    let (halted, waiting) = (number(json, "halted")?, number(json, "waiting")?);
    let outside = number(json, "kernel")? + halted;
    Ok(Spent { guest: number(json, "guest")?, outside, halted, waiting })
}

/// Runs that the kernel skipped of the programs that take the time; each can cost two durations.
///
/// # Errors
/// When it does not say.
pub(super) fn missed(json: &Value) -> Result<u64> {
    let lost = json.get("lost").ok_or_else(|| anyhow!("tdtrace does not say what it lost"))?;
    if number(lost, "durations_without_room")? > 0 {
        bail!("durations had no room: {lost}");
    }
    let misses = numbers(lost, "recursion_misses")?;
    let missed: u64 =
        misses.iter().filter(|(name, _)| EVENTS.contains(name)).map(|(_, count)| count).sum();
    if missed == 0 && number(lost, "unpaired_durations")? > 0 {
        bail!("nothing was lost, and yet durations have no beginning: {lost}");
    }
    Ok(missed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_without_a_beginning_need_a_reason() {
        let lost = |fpu: u64, unpaired: u64, room: u64| {
            let lost = json!({"recursion_misses": {"kvm_fpu": fpu, "kvm_pio": 9},
                "unpaired_durations": unpaired, "durations_without_room": room});
            missed(&json!({ "lost": lost })).ok()
        };
        assert_eq!(lost(0, 0, 0), Some(0));
        assert_eq!(lost(2, 3, 0), Some(2));
        assert_eq!(lost(0, 1, 0), None);
        assert_eq!(lost(0, 0, 1), None);
    }

    #[test]
    fn what_tdtrace_says_is_read_by_thread_and_class() {
        let row = json!({"span": "exit", "name": "HLT", "count": 2,
            "ns": {"kernel": 5, "vmm": 0, "halted": 300, "waiting": 0}, "buckets": [[160, 2]],
            "p50": 160, "p90": 170, "p99": 170, "p999": 170, "max": 180});
        let times = json!({"guest": 9, "kernel": 1, "vmm": 50, "halted": 2, "waiting": 4});
        let mut json = json!({"vms": [
            {"vcpus": [{"tid": 7, "times_ns": times}], "latency": [row]}]});
        let told = told(&json).unwrap();
        let spent = Spent { guest: 9, outside: 3, halted: 2, waiting: 4 };
        assert_eq!(told.threads, BTreeMap::from([(7, spent)]));
        let hlt = &told.classes[&("exit", "HLT".to_owned())];
        assert_eq!((hlt.count(), hlt.ns, hlt.buckets[bucket(160)]), (2, 305, 2));
        let vm = json["vms"][0].clone();
        json["vms"].as_array_mut().unwrap().push(vm);
        assert_eq!(super::told(&json).unwrap().classes[&("exit", "HLT".to_owned())].count(), 4);
        for (field, wrong) in [("count", 3), ("p99", 169)] {
            let right = json["vms"][0]["latency"][0][field].take();
            json["vms"][0]["latency"][0][field] = wrong.into();
            assert!(super::told(&json).is_err(), "{field}");
            json["vms"][0]["latency"][0][field] = right;
        }
    }
}
