//! One sample after the other into snapshots: numbers for VMs, rates over the interval, ended VMs
//! kept.

use std::{
    array,
    cmp::Reverse,
    collections::{BTreeMap, HashMap, VecDeque},
    mem,
    sync::Arc,
    time::Duration,
};

use tdtrace_common::{
    counters::{Class, Place},
    kvm,
    latency::PARTS,
};

use super::{
    baseline::{self, Baseline},
    boot::Timelines,
    counts::{Counts, add, sum},
    findings,
    latency::Times,
    ledger::{Ledger, LedgerSample},
    places,
    sample::{Isa, LatencySample, Sample, VcpuKey, VcpuSample, VmKey, VmSample, place_order},
    seam::{self, SeamSample},
    served,
    slow::{self, SlowLog},
    snapshot::{
        Audit, ExitSource, HISTORY, Hotspot, Latency, Snapshot, Tally, TimeSplit, Vcpu, Vm,
        class_of, is_halt, latency_name,
    },
};

/// Ended VMs that stay listed.
const ENDED_LISTED: usize = 1024;

/// Durations by class.
type Latencies = Arc<[LatencySample]>;

/// The state between samples.
#[derive(Default)]
pub struct Aggregate {
    at: Option<Duration>,
    /// The last sample as it came, without VMs that ended with it.
    last: Option<Sample>,
    /// What counts are taken from; `None` if they are from the beginning.
    baseline: Option<Baseline>,
    history: HashMap<VmKey, VecDeque<f64>>,
    ids: HashMap<VmKey, u32>,
    next_id: u32,
    /// vCPUs of the sample before.
    before: HashMap<VcpuKey, Arc<VcpuSample>>,
    /// SEAMCALLs of the sample before.
    seam: Option<Arc<SeamSample>>,
    latency: HashMap<VmKey, Latencies>,
    ledgers: HashMap<VmKey, LedgerSample>,
    ended: Vec<Vm>,
    dropped: Counts,
    dropped_vms: u64,
    slow: SlowLog,
    timelines: Timelines,
}

/// The VMs of a sample.
#[derive(Default)]
struct Listed {
    live: Vec<Vm>,
    ended: Vec<Vm>,
    /// Number, name and exit reasons of each.
    known: HashMap<VmKey, (u32, Arc<str>, Isa)>,
}

/// What the vCPUs of a VM add up to.
#[derive(Default)]
struct Added {
    counts: Counts,
    /// Over the last interval.
    recent: Counts,
    /// In total and over the last interval.
    exits: (u64, u64),
    places: Places,
    vcpus: Vec<Vcpu>,
}

impl Aggregate {
    /// An aggregate that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An aggregate that has seen nothing, of a source that has begun to count anew after the last sample.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self { timelines: self.timelines.anew(), ..Self::default() }
    }

    /// The snapshot of `sample`, with rates since the sample before.
    pub fn apply(&mut self, mut sample: Sample) -> Snapshot {
        let interval = self.at.map(|at| sample.at.saturating_sub(at));
        self.at = Some(sample.at);
        self.timelines.take(&sample);
        // What a reset begins with has none of them.
        let slow = mem::take(&mut sample.slow);
        let mut last = sample.clone();
        last.vms.retain(|vm| !vm.ended);
        self.last = Some(last);
        let since_reset = self.baseline.as_ref().map(|base| sample.at.saturating_sub(base.at()));
        let sample = match &self.baseline {
            Some(baseline) => baseline.since(sample),
            None => sample,
        };
        let (isa, seen) = (sample.host.isa, served::Seen::new(&sample));
        let exit_source = match isa {
            Isa::Software => ExitSource::KvmStat,
            Isa::Vmx | Isa::Svm => ExitSource::Event,
        };
        let Listed { live, ended, known } =
            self.listed(sample.vms, sample.vcpus, seen, isa, interval);
        let mut vms: Vec<Vm> =
            self.ended.iter().cloned().chain(live).chain(ended.clone()).collect();
        vms.sort_by_key(|vm| vm.id);
        findings::renew(&mut vms, interval, sample.losses.total());
        let mut counts = self.dropped;
        for vm in &vms {
            counts += vm.counts;
        }
        // With the list: the VMs that leave it now are still in it.
        let dropped_vms = self.dropped_vms;
        self.retire(ended);
        self.slow.take(sample.slower_than, slow, |key| known.get(&key).cloned());
        let before = self.seam.replace(Arc::clone(&sample.seam));
        let base = self.baseline.as_ref().map(Baseline::seam);
        let seamcalls = seam::rows(&sample.seam, before.as_deref(), base, interval);
        Snapshot {
            at: sample.at,
            interval,
            since_reset,
            host: sample.host,
            probes: sample.probes,
            exit_source,
            vms,
            counts,
            dropped_vms,
            losses: sample.losses,
            slow: self.slow.clone(),
            seam_absent: sample.seam.absent.clone(),
            seamcalls,
            poison: sample.poison,
        }
    }

    /// The VMs of a sample.
    fn listed(
        &mut self,
        vms: Vec<VmSample>,
        vcpus: Vec<Arc<VcpuSample>>,
        seen: served::Seen,
        isa: Isa,
        interval: Option<Duration>,
    ) -> Listed {
        let mut vcpus_by_vm: HashMap<VmKey, Vec<Arc<VcpuSample>>> = HashMap::new();
        for vcpu in vcpus {
            vcpus_by_vm.entry(vcpu.vm).or_default().push(vcpu);
        }
        let mut listed = Listed::default();
        for vm in vms {
            let vcpus = vcpus_by_vm.remove(&vm.key).unwrap_or_default();
            let (key, over) = (vm.key, vm.ended);
            let isa = vm.isa(isa);
            let vm = self.vm(vm, vcpus, seen, isa, interval);
            listed.known.insert(key, slow::known(&vm, isa));
            if over {
                self.ids.remove(&key);
                self.latency.remove(&key);
                self.ledgers.remove(&key);
                self.timelines.end(key);
                self.history.remove(&key);
                listed.ended.push(vm);
            } else {
                listed.live.push(vm);
            }
        }
        listed
    }

    /// Counts from the last sample on: all counts are 0 and VMs that ended are gone, numbers of VMs stay.
    /// Returns the snapshot of that moment; `None` before the first sample.
    pub fn reset(&mut self) -> Option<Snapshot> {
        let last = self.last.take()?;
        self.baseline = Some(Baseline::new(&last));
        self.before.clear();
        self.seam = None;
        self.latency.clear();
        self.ledgers.clear();
        self.ended.clear();
        self.dropped = Counts::default();
        self.dropped_vms = 0;
        self.slow = SlowLog::default();
        self.at = None;
        Some(self.apply(last))
    }

    /// Keeps VMs that ended, the newest ones listed, the rest in the totals only.
    fn retire(&mut self, ended: Vec<Vm>) {
        for mut vm in ended {
            // Its last interval is over: from now on nothing happens in it.
            vm.exits.rate = Some(0.0);
            vm.returns.rate = Some(0.0);
            vm.recent = Counts::default();
            for vcpu in &mut vm.vcpus {
                vcpu.exits.rate = Some(0.0);
                vcpu.recent = Counts::default();
                vcpu.before = Some(Arc::clone(&vcpu.sample));
                vcpu.times.iter_mut().for_each(rest);
            }
            vm.times.iter_mut().for_each(rest);
            vm.ledger.rest();
            for latency in &mut vm.latency {
                latency.tally.rate = Some(0.0);
                latency.recent_ns = Some([0; PARTS]);
            }
            for hotspot in &mut vm.hotspots {
                hotspot.tally.rate = Some(0.0);
            }
            self.ended.push(vm);
        }
        let excess = self.ended.len().saturating_sub(ENDED_LISTED);
        for vm in self.ended.drain(..excess) {
            self.dropped += vm.counts;
            self.dropped_vms += 1;
        }
    }

    fn vm(
        &mut self,
        sample: VmSample,
        vcpu_samples: Vec<Arc<VcpuSample>>,
        seen: served::Seen,
        isa: Isa,
        interval: Option<Duration>,
    ) -> Vm {
        let of = Of { vm: self.id(sample.key), name: Arc::clone(&sample.name), isa, interval };
        let Added { counts, recent, exits, places, vcpus } =
            self.vcpus_of(vcpu_samples, &of, sample.ended);
        let mut hotspots = of.hotspots(places);
        served::mark(&mut hotspots, &vcpus, seen);
        let latency = self.latency.insert(sample.key, Arc::clone(&sample.latency));
        let old = self.ledgers.insert(sample.key, sample.ledger.clone()).unwrap_or_default();
        let now = self.at.unwrap_or_default();
        let ledger = Ledger::new(&sample, (of.vm, &vcpus), &old, (now, interval));
        let exits_per_s = rate(exits.1, interval);
        let history = self.remember(sample.key, exits_per_s);
        let base = self.baseline.as_ref().map_or(&[][..], |base| base.latency(sample.key));
        Vm {
            id: of.vm,
            key: sample.key,
            demo: sample.demo,
            isa,
            history,
            pid: sample.pid,
            vmm: sample.vmm,
            container: sample.container,
            kind: kind(sample.vm_type),
            ended: sample.ended,
            exits: Tally { total: exits.0, rate: exits_per_s },
            returns: Tally {
                total: counts[Class::UserspaceExit],
                rate: rate(recent[Class::UserspaceExit], interval),
            },
            other: other(&counts, &hotspots),
            counts,
            recent,
            times: vcpus.iter().filter_map(|vcpu| vcpu.times).reduce(TimeSplit::plus),
            latency: of.latency(
                &sample.latency,
                latency.as_deref().unwrap_or_default(),
                base,
                interval,
            ),
            audit: vcpus.iter().filter_map(|vcpu| vcpu.audit).reduce(Audit::plus),
            vcpus,
            hotspots,
            ledger,
            boot: self.timelines.of(sample.key),
            findings: Vec::new(),
            name: sample.name,
        }
    }

    /// The rows of a VM's vCPUs, and what they add up to.
    fn vcpus_of(&mut self, samples: Vec<Arc<VcpuSample>>, of: &Of, ended: bool) -> Added {
        let mut added = Added { vcpus: Vec::with_capacity(samples.len()), ..Added::default() };
        for vcpu in samples {
            let (row, total, new) = self.vcpu(vcpu, of, ended, &mut added.places);
            added.counts += row.counts;
            added.recent += row.recent;
            add(&mut added.exits.0, total);
            add(&mut added.exits.1, new);
            added.vcpus.push(row);
        }
        added.vcpus.sort_by_key(|vcpu| vcpu.id);
        added
    }

    /// The rates of the last intervals of a VM, with that of the newest one.
    fn remember(&mut self, vm: VmKey, exits_per_s: Option<f64>) -> Vec<f64> {
        let history = self.history.entry(vm).or_default();
        history.extend(exits_per_s);
        while history.len() > HISTORY {
            history.pop_front();
        }
        history.iter().copied().collect()
    }

    /// A vCPU's row, its exits and those since the sample before.
    fn vcpu(
        &mut self,
        sample: Arc<VcpuSample>,
        of: &Of,
        ended: bool,
        places: &mut Places,
    ) -> (Vcpu, u64, u64) {
        let before = self.before.remove(&sample.key);
        let old = before.as_deref();
        let audit = audit(&sample, of.isa);
        let exits = exits(&sample, of.isa);
        let new_exits = exits.saturating_sub(old.map_or(0, |old| self::exits(old, of.isa)));
        for (place, count) in &sample.hotspots {
            let key = place_order(place);
            let entry = places.entry(key).or_default();
            add(&mut entry.0, *count);
            let old = old.map_or(0, |old| count_at(&old.hotspots, key));
            add(&mut entry.1, count.saturating_sub(old));
        }
        let latency = old.map_or(&[][..], |old| &old.latency);
        let base = self.baseline.as_ref().map_or(&[][..], |base| base.latency_of(sample.key));
        // Durations of single vCPUs are delivered of the VM that is looked into. Of one that was not, it
        // is not known which are of the last interval.
        let is_new = old.is_some() && latency.is_empty() && base.is_empty();
        let durations_over = of.interval.filter(|_| !is_new);
        let row = Vcpu {
            vm: of.vm,
            vm_name: Arc::clone(&of.name),
            id: sample.id,
            tid: sample.tid,
            exits: Tally { total: exits, rate: rate(new_exits, of.interval) },
            counts: sample.counts,
            recent: sample.counts.since(&old.map_or(Counts::default(), |old| old.counts)),
            times: sample.times.map(|total| {
                let earlier = old.and_then(|old| old.times).unwrap_or_default();
                TimeSplit { total, recent: of.interval.map(|_| total.since(&earlier)) }
            }),
            latency: of.latency(&sample.latency, latency, base, durations_over),
            audit,
            isa: of.isa,
            sample: Arc::clone(&sample),
            before,
        };
        if !ended {
            self.before.insert(sample.key, sample);
        }
        (row, exits, new_exits)
    }

    fn id(&mut self, key: VmKey) -> u32 {
        *self.ids.entry(key).or_insert_with(|| {
            self.next_id += 1;
            self.next_id
        })
    }
}

/// `plain`, `TD` …; the number of one that has no name.
fn kind(vm_type: Option<u32>) -> String {
    vm_type.map_or_else(
        || "?".to_owned(),
        |number| kvm::vm_type(number).map_or_else(|| number.to_string(), str::to_owned),
    )
}

/// Nothing happened in the last interval.
fn rest(times: &mut TimeSplit) {
    times.recent = Some(Times::default());
}

/// Per second; `None` without an interval.
#[expect(clippy::cast_precision_loss, reason = "a rate above 2^53 per second does not occur")]
pub(super) fn rate(new: u64, interval: Option<Duration>) -> Option<f64> {
    let seconds = interval?.as_secs_f64();
    (seconds > 0.0).then(|| new as f64 / seconds)
}

/// Total and new events by place.
type Places = BTreeMap<(u32, u64, u32), (u64, u64)>;

/// What the rows of one VM have in common.
struct Of {
    vm: u32,
    name: Arc<str>,
    isa: Isa,
    interval: Option<Duration>,
}

impl Of {
    fn hotspots(&self, places: Places) -> Vec<Hotspot> {
        let mut hotspots: Vec<Hotspot> = places
            .into_iter()
            .filter_map(|((class, address, size), (total, new))| {
                let class = class_of(&Place { address, class, size })?;
                Some(Hotspot {
                    vm: self.vm,
                    vm_name: Arc::clone(&self.name),
                    class,
                    address,
                    size,
                    what: places::what(class, address, size, self.isa),
                    served: None,
                    tally: Tally { total, rate: rate(new, self.interval) },
                })
            })
            .collect();
        hotspots.sort_by_key(|spot| Reverse(spot.tally.total));
        hotspots
    }

    fn latency(
        &self,
        samples: &[LatencySample],
        before: &[LatencySample],
        base: &[LatencySample],
        interval: Option<Duration>,
    ) -> Vec<Latency> {
        let mut rows: Vec<Latency> = samples
            .iter()
            .map(|sample| {
                let old = before.iter().find(|old| old.class == sample.class);
                let (span, name) = latency_name(sample.class, self.isa);
                let total = sample.histogram.count();
                let new = total.saturating_sub(old.map_or(0, |old| old.histogram.count()));
                let recent_ns = |_| {
                    let earlier = old.map_or([0; PARTS], |old| old.ns);
                    array::from_fn(|part| sample.ns[part].saturating_sub(earlier[part]))
                };
                Latency {
                    vm: self.vm,
                    vm_name: Arc::clone(&self.name),
                    span,
                    class: sample.class,
                    name,
                    halt: is_halt(sample.class, self.isa),
                    tally: Tally { total, rate: rate(new, interval) },
                    ns: sample.ns,
                    recent_ns: interval.map(recent_ns),
                    max: sample.max,
                    max_is_bound: baseline::is_bound(sample, base),
                    histogram: sample.histogram.clone(),
                }
            })
            .collect();
        rows.sort_by_key(|row| (Reverse(row.total_ns()), row.class));
        rows
    }
}

fn audit(sample: &VcpuSample, isa: Isa) -> Option<Audit> {
    sample.kvm.map(|(first, last)| Audit::between(&first, &last, isa))
}

/// Exits as this KVM tells them.
fn exits(sample: &VcpuSample, isa: Isa) -> u64 {
    match isa {
        Isa::Software => audit(sample, isa).map_or(0, |audit| audit.kvm_exits),
        Isa::Vmx | Isa::Svm => sample.counts[Class::Exit],
    }
}

/// The count of the place `key` among places in the order of [`place_order`].
fn count_at(hotspots: &[(Place, u64)], key: (u32, u64, u32)) -> u64 {
    let found = hotspots.binary_search_by_key(&key, |(place, _)| place_order(place));
    found.map_or(0, |index| hotspots[index].1)
}

/// `other = class total − Σ places`, where it is not zero.
fn other(counts: &Counts, hotspots: &[Hotspot]) -> Vec<(Class, u64)> {
    let rest = |class: Class| {
        let placed = hotspots.iter().filter(|spot| spot.class == class);
        (class, counts[class].saturating_sub(sum(placed.map(|spot| spot.tally.total))))
    };
    Class::ALL
        .into_iter()
        .filter(|class| class.has_hotspots())
        .map(rest)
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[cfg(test)]
mod tests;
