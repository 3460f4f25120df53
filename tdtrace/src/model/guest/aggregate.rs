//! From one sample after the other to snapshots: names, sites out of places, rates.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tdtrace_common::{
    guest::{CallKey, CallValue, Operation, VE_OTHER, VE_OWN, VE_USER, VeKey, VeStats, VeValue},
    vmx,
};

use super::{
    baseline::GuestBaseline,
    event::{context, process, text},
    findings::{self, Earlier},
    judged::Judged,
    sample::GuestSample,
    shared_bit::SharedBit,
    snapshot::{Call, GuestSnapshot, Object, ObjectCount, Reason, Site, Total, rate},
};
use crate::{
    decode::{bits::Hex, qualification},
    model::{
        counts::{add, sum},
        latency::Histogram,
    },
};

/// Programs at the end of a #VE; one of them is attached.
const ENDS: [&str; 2] = ["ve_fexit", "ve_kretprobe"];
/// Parts of a conversion and of the probes themselves, which are nobody's callers.
const INNER: [&str; 16] = [
    "bpf_",
    "__bpf_",
    "__set_memory_enc",
    "set_memory_encrypted",
    "set_memory_decrypted",
    "tdx_enc_status_",
    "tdx_map_gpa",
    "tdx_accept_memory",
    "accept_memory",
    "accept_page",
    "__accept_page",
    "tdx_report_new",
    "tdx_hcall_get_quote",
    "arch_rethook",
    "rethook_",
    "kretprobe_",
];

/// What makes snapshots of samples.
#[derive(Debug, Default)]
pub struct GuestAggregate {
    before: Option<Before>,
    earlier: Earlier,
    pub(super) judged: Judged,
    baseline: Option<GuestBaseline>,
}

/// What rates need of the sample before.
#[derive(Debug)]
struct Before {
    at: std::time::Duration,
    reasons: HashMap<usize, u64>,
    sites: HashMap<SiteKey, u64>,
    objects: BTreeMap<Object, u64>,
}

/// What makes places one site: reason, address and whether that is a process's.
type SiteKey = (u32, u64, bool);

impl GuestAggregate {
    /// Before the first sample.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The snapshot of `sample`, with rates since the one before, and counts since the last reset.
    pub fn apply(&mut self, sample: &GuestSample) -> GuestSnapshot {
        let since = self.baseline.as_ref().map(|baseline| baseline.since(sample));
        let mut snapshot = self.snapshot(since.as_ref().unwrap_or(sample));
        if let Some(baseline) = &self.baseline {
            snapshot.since_reset = Some(sample.at.saturating_sub(baseline.at()));
            for reason in &mut snapshot.reasons {
                let index = reason.reason.map_or(VE_OTHER, |number| number as usize);
                reason.max_is_bound = baseline.bounds(index, reason.max_ns);
            }
        }
        snapshot
    }

    /// Counts from `sample` on, and the snapshot of that moment.
    pub fn reset(&mut self, sample: &GuestSample) -> GuestSnapshot {
        self.baseline = Some(GuestBaseline::new(sample));
        (self.before, self.earlier) = (None, Earlier::default());
        self.apply(sample)
    }

    fn snapshot(&mut self, sample: &GuestSample) -> GuestSnapshot {
        let interval = self.before.as_ref().map(|before| sample.at.saturating_sub(before.at));
        let seconds = interval.map_or(0.0, |interval| interval.as_secs_f64());
        let mut sites = sites(sample);
        for site in sites.values_mut() {
            let worst = worst(sample, site);
            site.device = worst.and_then(|object| sample.devices.get(&object)).cloned();
            site.verdict =
                self.judged.of(site, worst.map(|object| (object, site.device.as_deref())));
        }
        self.judged
            .keep(|(reason, ip, user)| sites.contains_key(&(*reason, ip.unwrap_or(0), *user)));
        let (mut reasons, mut objects) = (reasons(sample, &sites), objects(sample));
        if let Some(before) = &self.before {
            for (reason, (index, _)) in reasons.iter_mut().zip(&sample.reasons) {
                let earlier = before.reasons.get(index).copied().unwrap_or(0);
                reason.rate = rate(reason.count.saturating_sub(earlier), seconds);
            }
            for (key, site) in &mut sites {
                let earlier = before.sites.get(key).copied().unwrap_or(0);
                site.rate = rate(site.count.saturating_sub(earlier), seconds);
            }
            for object in &mut objects {
                let earlier = before.objects.get(&object.object).copied().unwrap_or(0);
                object.rate = rate(object.count.saturating_sub(earlier), seconds);
            }
        }
        self.before = Some(Before {
            at: sample.at,
            reasons: sample.reasons.iter().map(|(index, stats)| (*index, stats.count)).collect(),
            sites: sites.iter().map(|(key, site)| (*key, site.count)).collect(),
            objects: objects.iter().map(|object| (object.object, object.count)).collect(),
        });
        let mut sites: Vec<Site> = sites.into_values().collect();
        sites.sort_by_key(|site| std::cmp::Reverse((site.failed, site.count)));
        let total = total(sample);
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.count));
        let mut snapshot = GuestSnapshot {
            at: sample.at,
            interval,
            release: Arc::clone(&sample.release),
            is_td: sample.is_td,
            probes: Arc::clone(&sample.probes),
            clock: sample.clock.clone(),
            layout_assumed: sample.layout_assumed,
            shared_bit: sample.shared_bit,
            total,
            reasons,
            sites,
            objects,
            calls: calls(sample),
            findings: Vec::new(),
            symbols: Arc::clone(&sample.symbols),
            losses: sample.losses.clone(),
            missed: sum(ENDS.iter().map(|name| sample.losses.missed(name))),
            since_reset: None,
        };
        snapshot.findings = findings::evaluate(&snapshot, &self.earlier);
        self.earlier = Earlier::of(&snapshot);
        snapshot
    }
}

fn total(sample: &GuestSample) -> Total {
    sample.reasons.iter().fold(Total::default(), |sum, (_, stats)| Total {
        count: sum.count.saturating_add(stats.count),
        failed: sum.failed.saturating_add(stats.failed),
        user: sum.user.saturating_add(stats.user),
        own: sum.own.saturating_add(stats.own),
        unpaired: sum.unpaired.saturating_add(stats.unpaired),
    })
}

fn reason_name(reason: u32) -> &'static str {
    vmx::exit_reason(reason).unwrap_or("?")
}

fn reasons(sample: &GuestSample, sites: &BTreeMap<SiteKey, Site>) -> Vec<Reason> {
    let mut placed: HashMap<usize, u64> = HashMap::new();
    for site in sites.values() {
        let index = (site.reason as usize).min(VE_OTHER);
        add(placed.entry(index).or_default(), site.count);
    }
    let all = total(sample).count.max(1);
    let reason = |(index, stats): &(usize, VeStats)| {
        let number = u32::try_from(*index).ok().filter(|_| *index < VE_OTHER);
        let mut durations = Histogram::default();
        for (bucket, count) in stats.buckets.iter().enumerate() {
            durations.add(bucket, *count);
        }
        Reason {
            reason: number,
            name: number.map_or("other", reason_name),
            count: stats.count,
            rate: None,
            failed: stats.failed,
            user: stats.user,
            own: stats.own,
            unpaired: stats.unpaired,
            other: stats.count.saturating_sub(placed.get(index).copied().unwrap_or(0)),
            durations,
            ns: stats.ns,
            max_ns: stats.max_ns,
            max_is_bound: false,
            share: part(stats.count, all),
        }
    };
    sample.reasons.iter().map(reason).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 53 bits")]
fn part(count: u64, of: u64) -> f64 {
    count as f64 / of as f64
}

/// The one of a site's objects that decides what becomes of it: private memory, RAM, a string of port
/// accesses, else the most frequent.
fn worst(sample: &GuestSample, site: &Site) -> Option<Object> {
    let rank = |object: &Object| match object {
        Object::Page { shared: Some(false), .. } => 2,
        Object::Page { .. } => {
            u8::from(sample.devices.get(object).is_some_and(|device| device.ram))
        }
        Object::Port { string, .. } => u8::from(*string),
        Object::Msr { .. } | Object::Cpuid { .. } => 0,
    };
    site.objects
        .iter()
        .max_by_key(|(object, count)| (rank(object), *count))
        .map(|(object, _)| *object)
}

/// A site in the making.
struct Gathered {
    site: Site,
    contexts: BTreeMap<&'static str, u64>,
    objects: BTreeMap<Object, u64>,
    timed: u64,
    ns: u64,
}

/// Places of one instruction are one site, whatever they are about and in whichever context.
fn sites(sample: &GuestSample) -> BTreeMap<SiteKey, Site> {
    let mut sites: BTreeMap<SiteKey, Gathered> = BTreeMap::new();
    for (key, value) in &sample.places {
        let user = key.mode & VE_USER != 0;
        let gathered = sites.entry((key.reason, key.ip, user)).or_insert_with(|| Gathered {
            site: new_site(sample, key, value),
            contexts: BTreeMap::new(),
            objects: BTreeMap::new(),
            timed: 0,
            ns: 0,
        });
        let site = &mut gathered.site;
        add(&mut site.count, value.count);
        add(&mut site.failed, value.failed);
        if key.mode & VE_OWN != 0 {
            add(&mut site.own, value.count);
        }
        if value.errno < 0 {
            site.errno = Some(value.errno);
        }
        add(gathered.contexts.entry(context(key.mode)).or_default(), value.count);
        if let Some(object) = object(key, sample.shared_bit) {
            add(gathered.objects.entry(object).or_default(), value.count);
        }
        add(&mut gathered.timed, value.timed);
        add(&mut gathered.ns, value.ns);
    }
    sites.into_iter().map(|(key, gathered)| (key, gathered.finish())).collect()
}

impl Gathered {
    fn finish(self) -> Site {
        let mut objects: Vec<(Object, u64)> = self.objects.into_iter().collect();
        objects.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Site {
            contexts: self.contexts.into_iter().collect(),
            objects,
            mean_ns: self.ns.checked_div(self.timed),
            ..self.site
        }
    }
}

fn new_site(sample: &GuestSample, key: &VeKey, value: &VeValue) -> Site {
    let user = key.mode & VE_USER != 0;
    let (pid, tid) = process(value.thread);
    let length = (value.bytes_len as usize).min(value.bytes.len());
    Site {
        reason: key.reason,
        name: reason_name(key.reason),
        ip: (key.ip != 0).then_some(key.ip),
        symbol: sample.names.get(&key.ip).filter(|_| !user).cloned(),
        user,
        count: 0,
        rate: None,
        failed: 0,
        own: 0,
        errno: None,
        contexts: Vec::new(),
        objects: Vec::new(),
        device: None,
        code: sample.code.get(&key.ip).filter(|_| !user).cloned(),
        verdict: None,
        bytes: value.bytes[..length].to_vec(),
        pid,
        tid,
        comm: text(&value.comm),
        stack: stack(sample, value.stack),
        mean_ns: None,
    }
}

/// A stack without the program that took it, whose frames have no name or one of the kernel's for
/// programs.
fn stack(sample: &GuestSample, number: i32) -> Vec<(u64, Option<Arc<str>>)> {
    let frames = sample.stacks.get(&number).map_or(&[][..], |frames| frames);
    let named = frames.iter().map(|ip| (*ip, sample.names.get(ip).cloned()));
    let is_program =
        |name: &Option<Arc<str>>| name.as_ref().is_none_or(|name| name.starts_with("bpf_"));
    let stack: Vec<_> = named.clone().skip_while(|(_, name)| is_program(name)).collect();
    // Where no frame has a name, all are shown.
    if stack.is_empty() { named.collect() } else { stack }
}

/// What a place is about; `None` where the reason has nothing, or it is not known.
pub(crate) fn object(key: &VeKey, shared_bit: SharedBit) -> Option<Object> {
    match key.reason {
        30 => {
            let io = qualification::io(key.object);
            let (port, direction, size, string) = (io.port, io.direction, io.size, io.string);
            Some(Object::Port { port, direction, size, string })
        }
        48 => {
            let (gpa, shared) = shared_bit.split(key.object);
            Some(Object::Page { gpa: Hex(gpa), shared })
        }
        31 | 32 => Some(Object::Msr { index: key.object as u32, write: key.reason == 32 }),
        10 if key.object != u64::MAX => {
            Some(Object::Cpuid { leaf: key.object as u32, subleaf: (key.object >> 32) as u32 })
        }
        _ => None,
    }
}

fn objects(sample: &GuestSample) -> Vec<ObjectCount> {
    let mut sums: BTreeMap<Object, (u64, u64)> = BTreeMap::new();
    for (key, value) in &sample.places {
        if let Some(object) = object(key, sample.shared_bit) {
            let sum = sums.entry(object).or_default();
            add(&mut sum.0, value.count);
            add(&mut sum.1, value.failed);
        }
    }
    let mut objects: Vec<ObjectCount> = sums
        .into_iter()
        .map(|(object, (count, failed))| ObjectCount {
            object,
            count,
            failed,
            rate: None,
            device: sample.devices.get(&object).cloned(),
        })
        .collect();
    objects.sort_by_key(|object| std::cmp::Reverse(object.count));
    objects
}

fn calls(sample: &GuestSample) -> Vec<Call> {
    let call = |(key, value): &(CallKey, CallValue)| {
        let operation = Operation::ALL.get(key.operation as usize)?;
        let stack = stack(sample, key.stack);
        // A frame without a name is somebody, and those behind it are not the caller.
        let is_inner = |name: &str| INNER.iter().any(|inner| name.starts_with(inner));
        let mut names = stack.iter().map(|(_, name)| name.clone());
        let caller = names.find(|name| !name.as_deref().is_some_and(is_inner)).flatten();
        Some(Call {
            operation: *operation,
            caller,
            stack,
            count: value.count,
            failed: value.failed,
            last_failure: value.last_failure,
            bytes: value.bytes,
            mean_ns: None,
            max_ns: None,
        })
    };
    // Calls from several places of one function, and by several ways to it, are its calls.
    let mut by_caller: BTreeMap<(Operation, Option<String>), (Call, u64, u64)> = BTreeMap::new();
    for ((_, value), call) in sample.calls.iter().filter_map(|entry| Some((entry, call(entry)?))) {
        let function = call.caller.as_deref().map(function_of);
        let entry = by_caller.entry((call.operation, function));
        let (sum, timed, ns) =
            entry.or_insert_with(|| (Call { count: 0, failed: 0, bytes: 0, ..call.clone() }, 0, 0));
        add(&mut sum.count, call.count);
        add(&mut sum.failed, call.failed);
        add(&mut sum.bytes, call.bytes);
        if call.failed > 0 {
            sum.last_failure = call.last_failure;
        }
        add(timed, value.timed);
        add(ns, value.ns);
        if value.timed > 0 {
            sum.max_ns = sum.max_ns.max(Some(value.max_ns));
        }
    }
    type Summed = ((Operation, Option<String>), (Call, u64, u64));
    let finish = |((_, caller), (mut call, timed, ns)): Summed| {
        call.caller = caller.map(Arc::from);
        call.mean_ns = ns.checked_div(timed);
        call
    };
    let mut calls: Vec<Call> = by_caller.into_iter().map(finish).collect();
    calls.sort_by_key(|call| (call.operation, std::cmp::Reverse(call.count)));
    calls
}

/// `name+0x12 [module]` without the offset.
fn function_of(name: &str) -> String {
    let (function, rest) = name.split_once('+').unwrap_or((name, ""));
    match rest.split_once(' ') {
        Some((_, module)) => format!("{function} {module}"),
        None => function.to_owned(),
    }
}

#[cfg(test)]
mod tests;
