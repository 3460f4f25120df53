//! Where time went and how long exits took, computed from a trace, and what tdtrace says of it. Pure.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;
use tdtrace_common::{
    kvm,
    latency::{BUCKETS, bucket},
    svm,
};

use super::trace::{EVENTS, Event, Trace};
use crate::lab::json::{list, number, numbers};

/// What durations are of: `exit` (a VM exit to the next entry) or `return` (in the VMM), and the reason.
pub(super) type Class = (&'static str, String);

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
    /// Adds one of `ns` nanoseconds.
    pub(super) fn add(&mut self, ns: u64) {
        self.ns += ns;
        self.buckets[bucket(ns)] += 1;
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The bucket of the duration that `percent` percent are not above; `None` without any.
    pub(super) fn rank(&self, percent: u64) -> Option<usize> {
        let rank = (self.count() * percent).div_ceil(100);
        let mut below = 0;
        self.buckets.iter().position(|count| {
            below += count;
            rank > 0 && below >= rank
        })
    }
}

/// Where the time of a thread went, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spent {
    /// From `kvm_entry` to `kvm_exit`.
    pub(super) guest: u64,
    /// In KVM_RUN, but not in the guest. In tdtrace's numbers without waiting.
    pub(super) outside: u64,
    /// Of that, halted. In tdtrace's numbers only while no CPU was waited for.
    pub(super) halted: u64,
    /// Waiting for a CPU, in KVM_RUN or in the VMM; the trace does not know it.
    pub(super) waiting: u64,
    /// Entries; tdtrace does not tell these and the next.
    pub(super) entries: u64,
    /// Ways through the kernel.
    pub(super) kernel: u64,
    /// Halts that ended.
    pub(super) wakeups: u64,
}

/// All that one side knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Times {
    /// By thread.
    pub(super) threads: BTreeMap<u64, Spent>,
    /// By class, all threads together.
    pub(super) classes: BTreeMap<Class, Durations>,
}

/// A thread's way through a trace.
#[derive(Debug, Default)]
struct Walk {
    phase: Option<Phase>,
    since: u64,
    /// The reason and time of the exit that has not been followed by an entry.
    exit: Option<(String, u64)>,
    returned: String,
    spent: Spent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Guest,
    Kernel,
    Vmm,
}

/// What the events of `trace` say.
///
/// # Errors
/// When the events of a thread do not follow each other as those of a vCPU do.
pub(super) fn of_trace(trace: &Trace) -> Result<Times> {
    let mut times = Times::default();
    for (tid, events) in trace {
        let mut walk = Walk::default();
        for (at, event) in events {
            walk.step(*at, *event, &mut times.classes)
                .ok_or_else(|| anyhow!("thread {tid} has {event:?} in phase {:?}", walk.phase))?;
        }
        times.threads.insert(*tid, walk.spent);
    }
    Ok(times)
}

impl Walk {
    /// `None` if `event` cannot be next.
    fn step(
        &mut self,
        at: u64,
        event: Event,
        classes: &mut BTreeMap<Class, Durations>,
    ) -> Option<()> {
        let elapsed = at.checked_sub(self.since)?;
        let mut record = |span, name: &str, ns| {
            classes.entry((span, name.to_owned())).or_default().add(ns);
        };
        self.phase = Some(match (event, self.phase) {
            (Event::Fpu(true), None) => Phase::Kernel,
            (Event::Fpu(true), Some(Phase::Vmm)) => {
                record("return", &self.returned, elapsed);
                Phase::Kernel
            }
            (Event::Fpu(false), Some(Phase::Kernel)) => return Some(()),
            (Event::Wakeup(ns), Some(Phase::Kernel)) => {
                self.spent.halted += ns;
                self.spent.wakeups += 1;
                return Some(());
            }
            (Event::Entry, Some(Phase::Kernel)) => {
                self.spent.outside += elapsed;
                self.spent.kernel += 1;
                self.spent.entries += 1;
                if let Some((reason, exit)) = self.exit.take() {
                    record("exit", &reason, at - exit);
                }
                Phase::Guest
            }
            (Event::Exit(code), Some(Phase::Guest)) => {
                self.spent.guest += elapsed;
                self.exit = Some((exit_name(code), at));
                Phase::Kernel
            }
            (Event::Return(reason, errno), Some(Phase::Kernel)) => {
                self.spent.outside += elapsed;
                self.spent.kernel += 1;
                self.returned = return_name(reason, errno);
                Phase::Vmm
            }
            _ => return None,
        });
        self.since = at;
        Some(())
    }
}

fn exit_name(code: u32) -> String {
    svm::exit_code(code).map_or_else(|| format!("{code:#x}"), str::to_owned)
}

/// A signal leaves the reason of the KVM_RUN before.
fn return_name(reason: u32, errno: i32) -> String {
    match (errno, kvm::userspace_exit(reason)) {
        (-4, _) => "EINTR".to_owned(),
        (_, Some(name)) => name.to_owned(),
        (_, None) => reason.to_string(),
    }
}

/// Reads what `tdtrace stat --json` says of one VM.
///
/// # Errors
/// When something is missing or unknown.
pub(super) fn told(json: &str) -> Result<Times> {
    let json: Value = serde_json::from_str(json).context("tdtrace printed no JSON")?;
    let mut times = Times::default();
    for vm in list(&json, "vms")? {
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
            sum.ns += numbers(row, "ns")?.iter().map(|(_, ns)| ns).sum::<u64>();
            for pair in list(row, "buckets")? {
                let [Some(start), Some(count)] = [&pair[0], &pair[1]].map(Value::as_u64) else {
                    bail!("{pair} is no bucket");
                };
                sum.buckets[bucket(start)] += count;
            }
            if number(row, "count")? != sum.count() {
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
    Ok(Spent { guest: number(json, "guest")?, outside, halted, waiting, ..Spent::default() })
}

/// Runs that the kernel skipped of the programs that take the time; each can cost two durations.
///
/// # Errors
/// When it does not say.
pub(super) fn missed(json: &str) -> Result<u64> {
    let json: Value = serde_json::from_str(json).context("tdtrace printed no JSON")?;
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

    fn trace() -> Trace {
        Trace::from([(
            7,
            vec![
                (1_000, Event::Fpu(true)),
                (2_000, Event::Entry),
                (5_000, Event::Exit(0x78)),
                (5_500, Event::Wakeup(400)),
                (6_000, Event::Entry),
                (6_100, Event::Exit(0x7b)),
                (6_200, Event::Fpu(false)),
                (6_300, Event::Return(2, 0)),
                (9_300, Event::Fpu(true)),
                (9_400, Event::Entry),
                (9_500, Event::Exit(0x60)),
                (9_600, Event::Fpu(false)),
                (9_700, Event::Return(2, -4)),
            ],
        )])
    }

    #[test]
    fn a_trace_tells_where_time_went_and_how_long_exits_took() {
        let times = of_trace(&trace()).unwrap();
        let spent = Spent {
            guest: 3_200,
            outside: 2_500,
            halted: 400,
            waiting: 0,
            entries: 3,
            kernel: 5,
            wakeups: 1,
        };
        assert_eq!(times.threads, BTreeMap::from([(7, spent)]));
        let classes: Vec<_> = times
            .classes
            .iter()
            .map(|((span, name), of)| (*span, name.as_str(), of.count(), of.ns))
            .collect();
        let expected =
            [("exit", "HLT", 1, 1_000), ("exit", "IOIO", 1, 3_300), ("return", "IO", 1, 3_000)];
        assert_eq!(classes, expected);
    }

    #[test]
    fn events_that_do_not_follow_each_other_are_an_error() {
        for missing in 0..12 {
            let mut trace = trace();
            let gone = trace.get_mut(&7).unwrap().remove(missing).1;
            let harmless = matches!(gone, Event::Wakeup(_) | Event::Fpu(false));
            assert_eq!(of_trace(&trace).is_ok(), harmless, "{gone:?}");
        }
    }

    #[test]
    fn durations_without_a_beginning_need_a_reason() {
        let lost = |fpu: u64, unpaired: u64, room: u64| {
            let lost = json!({"recursion_misses": {"kvm_fpu": fpu, "kvm_pio": 9},
                "unpaired_durations": unpaired, "durations_without_room": room});
            missed(&json!({ "lost": lost }).to_string()).ok()
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
        let told = told(&json.to_string()).unwrap();
        let spent = Spent { guest: 9, outside: 3, halted: 2, waiting: 4, ..Spent::default() };
        assert_eq!(told.threads, BTreeMap::from([(7, spent)]));
        let hlt = &told.classes[&("exit", "HLT".to_owned())];
        assert_eq!((hlt.count(), hlt.ns, hlt.rank(50)), (2, 305, Some(bucket(160))));
        for (field, wrong) in [("count", 3), ("p99", 169)] {
            let right = json["vms"][0]["latency"][0][field].take();
            json["vms"][0]["latency"][0][field] = wrong.into();
            assert!(super::told(&json.to_string()).is_err(), "{field}");
            json["vms"][0]["latency"][0][field] = right;
        }
    }
}
