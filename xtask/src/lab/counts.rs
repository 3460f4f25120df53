//! Who counted what: tracefs histograms, `tdtrace stat` and `tdtrace workload`, each read into one
//! number per thread and item, and compared. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;
use tdtrace_common::{
    counters::Class::{self, *},
    svm::{EXIT_CODES, exit_code},
};

/// A tracepoint of the group `kvm` and how its histogram is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    /// The tracepoint.
    pub(super) name: &'static str,
    /// The fields that the histogram is keyed by, the thread first.
    pub(super) keys: &'static str,
    /// The key that tells classes apart, and the class of each of its values.
    classes: (Option<&'static str>, &'static [(u64, Class)]),
}

/// Every tracepoint that tdtrace counts per vCPU (include/trace/events/kvm.h,
/// arch/x86/kvm/trace.h).
pub(super) const EVENTS: [Event; 10] = [
    Event::one("kvm_entry", "common_pid,vcpu_id", &[(0, Entry)]),
    Event::one("kvm_exit", "common_pid,vcpu_id,exit_reason", &[(0, Exit)]),
    Event::by("kvm_pio", "common_pid,rw", "rw", &[(0, PioIn), (1, PioOut)]),
    Event::by(
        "kvm_mmio",
        "common_pid,type",
        "type",
        &[(0, MmioReadUnsatisfied), (1, MmioRead), (2, MmioWrite)],
    ),
    Event::one("kvm_fast_mmio", "common_pid", &[(0, FastMmio)]),
    Event::one("kvm_cpuid", "common_pid", &[(0, Cpuid)]),
    Event::by("kvm_msr", "common_pid,write", "write", &[(0, MsrRead), (1, MsrWrite)]),
    Event::one("kvm_hypercall", "common_pid", &[(0, Hypercall)]),
    Event::one("kvm_userspace_exit", "common_pid", &[(0, UserspaceExit)]),
    Event::by("kvm_fpu", "common_pid,load", "load", &[(0, RunEnd), (1, RunBegin)]),
];

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    /// Events of a class.
    Class(Class),
    /// `kvm_exit` with this SVM exit code.
    Reason(u32),
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Class(class) => f.pad(class.name()),
            Self::Reason(code) => match exit_code(*code) {
                Some(name) => f.pad(&format!("exit {name}")),
                None => f.pad(&format!("exit {code:#x}")),
            },
        }
    }
}

/// The counts of one thread.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Thread {
    /// The vCPU that it runs, once known.
    vcpu: Option<u64>,
    /// Its VM, numbered by the workload.
    vm: Option<u64>,
    /// Counts; an item that is not there was not told of.
    counts: BTreeMap<Item, u64>,
}

/// Counts by thread id.
pub(super) type Threads = BTreeMap<u64, Thread>;

/// An item of a thread with what each side says of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    vm: Option<u64>,
    vcpu: Option<u64>,
    tid: u64,
    item: Item,
    tracefs: u64,
    tdtrace: u64,
    /// `None` where the workload promises nothing.
    workload: Option<u64>,
}

impl Event {
    const fn one(name: &'static str, keys: &'static str, classes: &'static [(u64, Class)]) -> Self {
        Self { name, keys, classes: (None, classes) }
    }

    const fn by(
        name: &'static str,
        keys: &'static str,
        key: &'static str,
        classes: &'static [(u64, Class)],
    ) -> Self {
        Self { name, keys, classes: (Some(key), classes) }
    }

    fn class(&self, keys: &BTreeMap<&str, u64>) -> Result<Class> {
        let value = match self.classes.0 {
            Some(key) => *keys.get(key).ok_or_else(|| anyhow!("{} has no {key}", self.name))?,
            None => 0,
        };
        self.classes
            .1
            .iter()
            .find(|(known, _)| *known == value)
            .map(|(_, class)| *class)
            .ok_or_else(|| anyhow!("{} has the unknown kind {value}", self.name))
    }

    /// Adds what the text of this event's `hist` file counts to `threads`.
    ///
    /// # Errors
    /// When a line cannot be read, events were dropped, or the entries do not add up to the hits.
    pub(super) fn read(&self, hist: &str, threads: &mut Threads) -> Result<()> {
        let (mut sum, mut totals) = (0_u64, BTreeMap::new());
        for line in hist.lines().map(str::trim) {
            if line.starts_with('{') {
                let (keys, count) =
                    entry(line).ok_or_else(|| anyhow!("{} has the line {line:?}", self.name))?;
                self.add(&keys, count, threads)?;
                sum = sum.saturating_add(count);
            } else if let Some((name, value)) = line.split_once(": ")
                && let Ok(value) = value.parse::<u64>()
            {
                totals.insert(name, value);
            }
        }
        if totals.get("Dropped") != Some(&0) {
            bail!("the histogram of {} is not complete: {totals:?}", self.name);
        }
        if totals.get("Hits") != Some(&sum) {
            bail!("the histogram of {} has {sum} events in its entries: {totals:?}", self.name);
        }
        Ok(())
    }

    fn add(&self, keys: &BTreeMap<&str, u64>, count: u64, threads: &mut Threads) -> Result<()> {
        let tid = keys.get("common_pid").ok_or_else(|| anyhow!("{} has no thread", self.name))?;
        let thread = threads.entry(*tid).or_default();
        if let Some(vcpu) = keys.get("vcpu_id") {
            if thread.vcpu.is_some_and(|known| known != *vcpu) {
                bail!("thread {tid} ran more than one vCPU");
            }
            thread.vcpu = Some(*vcpu);
        }
        *thread.counts.entry(Item::Class(self.class(keys)?)).or_default() += count;
        if let Some(reason) = keys.get("exit_reason") {
            let reason = u32::try_from(*reason).context("an exit code has more than 32 bits")?;
            *thread.counts.entry(Item::Reason(reason)).or_default() += count;
        }
        Ok(())
    }
}

/// The keys and the count of a line like `{ common_pid: 154, rw: 1 } hitcount: 2001`.
fn entry(line: &str) -> Option<(BTreeMap<&str, u64>, u64)> {
    let (keys, count) = line.strip_prefix('{')?.split_once("} hitcount:")?;
    let keys = keys
        .split(',')
        .map(|pair| {
            let (name, value) = pair.split_once(':')?;
            Some((name.trim(), value.trim().parse().ok()?))
        })
        .collect::<Option<_>>()?;
    Some((keys, count.trim().parse().ok()?))
}

/// What `tdtrace stat --json` counted.
///
/// # Errors
/// When something is missing or unknown in it, or when tdtrace lost events.
pub(super) fn stat(json: &str) -> Result<Threads> {
    let json: Value = serde_json::from_str(json).context("stat printed no JSON")?;
    let lost = json.get("lost").ok_or_else(|| anyhow!("stat does not say what it lost"))?;
    if sum(lost) != 0 {
        bail!("tdtrace lost events: {lost}");
    }
    threads(&json, |vcpu| {
        let mut counts = BTreeMap::new();
        for (name, count) in numbers(vcpu, "counts")? {
            counts.insert(Item::Class(class(name)?), count);
        }
        for (name, count) in numbers(vcpu, "exit_reasons")? {
            counts.insert(Item::Reason(reason(name)?), count);
        }
        Ok(counts)
    })
}

/// What `tdtrace workload` says it made.
///
/// # Errors
/// When something is missing or unknown in it, or when a vCPU made other counts than `asked`.
pub(super) fn workload(json: &str, asked: &[(&str, u64)]) -> Result<Threads> {
    let json: Value = serde_json::from_str(json).context("workload printed no JSON")?;
    threads(&json, |vcpu| {
        let made: BTreeMap<_, _> = numbers(vcpu, "made")?.into_iter().collect();
        for (name, count) in asked {
            if made.get(name) != Some(count) {
                bail!("the workload was asked for {count} {name} and made {made:?}");
            }
        }
        let mut counts = BTreeMap::new();
        for (name, count) in made {
            let item = match name {
                "hlt" => Item::Reason(reason("HLT")?),
                // SVM has no fast path for ioeventfds (kvm_fast_mmio is in
                // arch/x86/kvm/vmx/vmx.c:handle_ept_misconfig alone): these are writes as any other.
                "fast_mmio" => Item::Class(MmioWrite),
                _ => Item::Class(class(name)?),
            };
            *counts.entry(item).or_default() += count;
        }
        let returns = number(vcpu, "kvm_run_returns")?;
        counts.insert(Item::Class(UserspaceExit), returns);
        Ok(counts)
    })
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

/// Every item of every thread that one of the three sides knows.
///
/// # Errors
/// When the sides do not know the same threads, or see different vCPUs in one, or when a thread
/// made no exit at all.
pub(super) fn compare(
    tracefs: &Threads,
    tdtrace: &Threads,
    workload: &Threads,
) -> Result<Vec<Row>> {
    let ids = |threads: &Threads| threads.keys().copied().collect::<BTreeSet<_>>();
    let known = [ids(tracefs), ids(tdtrace), ids(workload)];
    if known[0] != known[1] || known[0] != known[2] || known[0].is_empty() {
        let [tracefs, tdtrace, workload] = known;
        bail!("threads: tracefs {tracefs:?}, tdtrace {tdtrace:?}, workload {workload:?}");
    }
    let mut rows = Vec::new();
    for (tid, made) in workload {
        let (traced, counted) = (&tracefs[tid], &tdtrace[tid]);
        if traced.vcpu != made.vcpu || counted.vcpu != made.vcpu {
            bail!(
                "thread {tid} ran vCPU {:?}, tracefs {:?}, tdtrace {:?}",
                made.vcpu,
                traced.vcpu,
                counted.vcpu
            );
        }
        if !traced.counts.contains_key(&Item::Class(Exit)) {
            bail!("thread {tid} made no exit");
        }
        let items: BTreeSet<_> =
            [traced, counted, made].iter().flat_map(|thread| thread.counts.keys()).collect();
        for item in items {
            let count = |thread: &Thread| thread.counts.get(item).copied();
            rows.push(Row {
                vm: made.vm,
                vcpu: made.vcpu,
                tid: *tid,
                item: *item,
                tracefs: count(traced).unwrap_or(0),
                tdtrace: count(counted).unwrap_or(0),
                workload: count(made),
            });
        }
    }
    Ok(rows)
}

impl Row {
    /// Whether all sides say the same.
    pub(super) fn agrees(&self) -> bool {
        self.tracefs == self.tdtrace && self.workload.is_none_or(|made| made == self.tracefs)
    }

    /// Whether nobody saw anything.
    pub(super) fn is_empty(&self) -> bool {
        self.tracefs == 0 && self.tdtrace == 0 && self.workload.unwrap_or(0) == 0
    }

    /// The line above rows.
    pub(super) fn header() -> String {
        format!(
            "{:>3} {:>4} {:>6}  {:<22} {:>9} {:>9} {:>9}",
            "vm", "vcpu", "tid", "item", "tracefs", "tdtrace", "workload"
        )
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_dash = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
        write!(
            f,
            "{:>3} {:>4} {:>6}  {:<22} {:>9} {:>9} {:>9}{}",
            or_dash(self.vm),
            or_dash(self.vcpu),
            self.tid,
            self.item,
            self.tracefs,
            self.tdtrace,
            or_dash(self.workload),
            if self.agrees() { "" } else { "  differs" }
        )
    }
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

/// All numbers in `value`, at any depth.
fn sum(value: &Value) -> u64 {
    match value {
        Value::Number(number) => number.as_u64().unwrap_or(u64::MAX),
        Value::Array(values) => values.iter().map(sum).fold(0, u64::saturating_add),
        Value::Object(values) => values.values().map(sum).fold(0, u64::saturating_add),
        _ => 0,
    }
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a [Value]> {
    let list = value.get(key).and_then(Value::as_array);
    list.map(Vec::as_slice).ok_or_else(|| anyhow!("there is no list `{key}` in {value}"))
}

fn number(value: &Value, key: &str) -> Result<u64> {
    let number = value.get(key).and_then(Value::as_u64);
    number.ok_or_else(|| anyhow!("there is no number `{key}` in {value}"))
}

fn numbers<'a>(value: &'a Value, key: &str) -> Result<Vec<(&'a str, u64)>> {
    let object = value.get(key).and_then(Value::as_object);
    object
        .ok_or_else(|| anyhow!("there is no object `{key}` in {value}"))?
        .iter()
        .map(|(name, count)| {
            let count = count.as_u64().ok_or_else(|| anyhow!("{key}: {name} is no count"))?;
            Ok((name.as_str(), count))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PIO: &str = "# event histogram\n#\n\
        # trigger info: hist:keys=common_pid,rw:vals=hitcount:sort=hitcount:size=4096 [active]\n#\n\n\
        { common_pid:        155, rw:          0 } hitcount:          3\n\
        { common_pid:        154, rw:          1 } hitcount:       2001\n\n\
        Totals:\n    Hits: 2004\n    Entries: 2\n    Dropped: 0\n";

    fn event(name: &str) -> &'static Event {
        EVENTS.iter().find(|event| event.name == name).unwrap()
    }

    /// One thread, vCPU 1 of VM 0, with 5 exits of which 4 are HLT.
    fn tracefs() -> Threads {
        let mut threads = Threads::new();
        let hist = "{ common_pid: 7, vcpu_id: 1, exit_reason: 120 } hitcount: 4\n\
                    { common_pid: 7, vcpu_id: 1, exit_reason: 96 } hitcount: 1\n\
                    Hits: 5\nDropped: 0\n";
        event("kvm_exit").read(hist, &mut threads).unwrap();
        threads
    }

    fn stat_json(exits: u64) -> Value {
        json!({"lost": {"unattributed": 0}, "vms": [{"vcpus": [{"vcpu": 1, "tid": 7,
            "counts": {"exit": exits}, "exit_reasons": {"HLT": 4, "96": 1}}]}]})
    }

    fn work_json() -> Value {
        json!({"vms": [{"vm": 0, "vcpus": [{"vcpu": 1, "tid": 7,
            "made": {"hlt": 4, "fast_mmio": 0, "mmio_write": 0}, "kvm_run_returns": 0}]}]})
    }

    fn differing(stat_json: &Value) -> Vec<Item> {
        let tdtrace = stat(&stat_json.to_string()).unwrap();
        let workload = workload(&work_json().to_string(), &[("hlt", 4)]).unwrap();
        let rows = compare(&tracefs(), &tdtrace, &workload).unwrap();
        rows.iter().filter(|row| !row.agrees()).map(|row| row.item).collect()
    }

    #[test]
    fn a_histogram_is_read_by_thread_and_class() {
        let mut threads = Threads::new();
        event("kvm_pio").read(PIO, &mut threads).unwrap();
        assert_eq!(threads[&154].counts, BTreeMap::from([(Item::Class(PioOut), 2001)]));
        assert_eq!(threads[&155].counts, BTreeMap::from([(Item::Class(PioIn), 3)]));
    }

    #[test]
    fn a_histogram_that_lost_or_hides_events_is_refused() {
        let read = |hist: &str| event("kvm_pio").read(hist, &mut Threads::new());
        assert!(read(&PIO.replace("Dropped: 0", "Dropped: 1")).is_err());
        assert!(read(&PIO.replace("Hits: 2004", "Hits: 2005")).is_err());
        assert!(read(&PIO.replace("rw:          0", "rw:          5")).is_err());
        assert!(read(&PIO.replace("hitcount:          3", "hitcount:")).is_err());
        assert!(read("").is_err());
    }

    #[test]
    fn equal_counts_agree_in_every_row() {
        assert_eq!(differing(&stat_json(5)), []);
    }

    #[test]
    fn one_exit_more_or_less_is_a_difference_in_that_row() {
        assert_eq!(differing(&stat_json(4)), [Item::Class(Exit)]);
        assert_eq!(differing(&stat_json(6)), [Item::Class(Exit)]);
    }

    #[test]
    fn an_item_that_only_one_side_knows_is_a_difference() {
        let mut without = stat_json(5);
        without["vms"][0]["vcpus"][0]["exit_reasons"].as_object_mut().unwrap().remove("HLT");
        assert_eq!(differing(&without), [Item::Reason(0x78)]);
        let mut more = stat_json(5);
        more["vms"][0]["vcpus"][0]["counts"]["cpuid"] = 1.into();
        assert_eq!(differing(&more), [Item::Class(Cpuid)]);
    }

    #[test]
    fn a_workload_that_made_something_else_than_asked_is_refused() {
        let json = work_json().to_string();
        let error = workload(&json, &[("hlt", 5)]).unwrap_err().to_string();
        assert!(error.contains("5 hlt"), "{error}");
    }

    #[test]
    fn a_thread_that_one_side_does_not_know_is_an_error() {
        let workload = workload(&work_json().to_string(), &[]).unwrap();
        assert!(compare(&tracefs(), &Threads::new(), &workload).is_err());
        assert!(compare(&Threads::new(), &Threads::new(), &Threads::new()).is_err());
    }

    #[test]
    fn another_vcpu_in_a_thread_is_an_error() {
        let mut json = stat_json(5);
        json["vms"][0]["vcpus"][0]["vcpu"] = 0.into();
        let tdtrace = stat(&json.to_string()).unwrap();
        let workload = workload(&work_json().to_string(), &[]).unwrap();
        let error = compare(&tracefs(), &tdtrace, &workload).unwrap_err().to_string();
        assert!(error.contains("thread 7"), "{error}");
    }

    #[test]
    fn lost_events_are_an_error_however_deep_they_stand() {
        let mut json = stat_json(5);
        json["lost"]["misses"] = json!([{"program": "exit", "misses": 1}]);
        assert!(stat(&json.to_string()).unwrap_err().to_string().contains("lost"));
    }
}
