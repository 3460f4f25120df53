//! One sample after the other into snapshots: numbers for VMs, rates over the interval, ended VMs
//! kept.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tdtrace_common::{
    counters::{Class, Place},
    kvm,
};

use super::{
    counts::Counts,
    sample::{Isa, Sample, VcpuKey, VcpuSample, VmKey, VmSample},
    snapshot::{
        Audit, ExitSource, Hotspot, Snapshot, Tally, Vcpu, Vm, class_of, reason_name,
        userspace_name,
    },
};

/// Ended VMs that stay listed.
const ENDED_LISTED: usize = 1024;

/// What a vCPU had at the sample before.
struct Before {
    counts: Counts,
    exits: u64,
    hotspots: HashMap<Place, u64>,
}

/// The state between samples.
#[derive(Default)]
pub struct Aggregate {
    at: Option<Duration>,
    ids: HashMap<VmKey, u32>,
    next_id: u32,
    before: HashMap<VcpuKey, Before>,
    ended: Vec<Vm>,
    dropped: Counts,
    dropped_vms: u64,
}

impl Aggregate {
    /// An aggregate that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The snapshot of `sample`, with rates since the sample before.
    pub fn apply(&mut self, sample: Sample) -> Snapshot {
        let interval = self.at.map(|at| sample.at.saturating_sub(at));
        self.at = Some(sample.at);
        let isa = sample.host.isa;
        let exit_source = match isa {
            Isa::Software => ExitSource::KvmStat,
            Isa::Vmx | Isa::Svm => ExitSource::Event,
        };
        let mut vcpus_by_vm: HashMap<VmKey, Vec<VcpuSample>> = HashMap::new();
        for vcpu in sample.vcpus {
            vcpus_by_vm.entry(vcpu.vm).or_default().push(vcpu);
        }
        let mut live = Vec::new();
        let mut ended = Vec::new();
        for vm in sample.vms {
            let vcpus = vcpus_by_vm.remove(&vm.key).unwrap_or_default();
            let (key, over) = (vm.key, vm.ended);
            let vm = self.vm(vm, vcpus, isa, interval);
            if over {
                self.ids.remove(&key);
                ended.push(vm);
            } else {
                live.push(vm);
            }
        }
        let mut vms: Vec<Vm> =
            self.ended.iter().cloned().chain(live).chain(ended.clone()).collect();
        vms.sort_by_key(|vm| vm.id);
        let mut counts = self.dropped;
        for vm in &vms {
            counts += vm.counts;
        }
        // With the list: the VMs that leave it now are still in it.
        let dropped_vms = self.dropped_vms;
        self.retire(ended);
        Snapshot {
            at: sample.at,
            interval,
            host: sample.host,
            probes: sample.probes,
            exit_source,
            vms,
            counts,
            dropped_vms,
            losses: sample.losses,
        }
    }

    /// Keeps VMs that ended, the newest ones listed, the rest in the totals only.
    fn retire(&mut self, ended: Vec<Vm>) {
        for mut vm in ended {
            // Its last interval is over: from now on nothing happens in it.
            vm.exits.rate = Some(0.0);
            vm.recent = Counts::default();
            for vcpu in &mut vm.vcpus {
                vcpu.exits.rate = Some(0.0);
                vcpu.recent = Counts::default();
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
        vcpu_samples: Vec<VcpuSample>,
        isa: Isa,
        interval: Option<Duration>,
    ) -> Vm {
        let id = self.id(sample.key);
        let mut counts = Counts::default();
        let mut recent = Counts::default();
        let mut exits = 0;
        let mut recent_exits = 0;
        let mut places: BTreeMap<(u32, u64, u32), (u64, u64)> = BTreeMap::new();
        let mut vcpus = Vec::with_capacity(vcpu_samples.len());
        for vcpu in vcpu_samples {
            let (row, new_exits) = self.vcpu(vcpu, id, sample.ended, isa, interval, &mut places);
            counts += row.counts;
            recent += row.recent;
            exits += row.exits.total;
            recent_exits += new_exits;
            vcpus.push(row);
        }
        vcpus.sort_by_key(|vcpu| vcpu.id);
        let hotspots = hotspots(places, id, &sample.name, interval);
        Vm {
            id,
            pid: sample.pid,
            name: sample.name,
            vmm: sample.vmm,
            container: sample.container,
            kind: sample.vm_type.map_or_else(
                || "?".to_owned(),
                |number| kvm::vm_type(number).map_or_else(|| number.to_string(), str::to_owned),
            ),
            ended: sample.ended,
            exits: Tally { total: exits, rate: rate(recent_exits, interval) },
            other: other(&counts, &hotspots),
            counts,
            recent,
            audit: vcpus.iter().filter_map(|vcpu| vcpu.audit).reduce(Audit::plus),
            vcpus,
            hotspots,
        }
    }

    /// A vCPU's row, and its exits since the sample before.
    fn vcpu(
        &mut self,
        sample: VcpuSample,
        vm: u32,
        ended: bool,
        isa: Isa,
        interval: Option<Duration>,
        places: &mut BTreeMap<(u32, u64, u32), (u64, u64)>,
    ) -> (Vcpu, u64) {
        let audit = sample.kvm.map(|(first, last)| Audit::between(&first, &last, isa));
        let exits = match isa {
            Isa::Software => audit.map_or(0, |audit| audit.kvm_exits),
            Isa::Vmx | Isa::Svm => sample.counts[Class::Exit],
        };
        let before = self.before.remove(&sample.key);
        let empty = HashMap::new();
        let (old_counts, old_exits, old_places) = before
            .as_ref()
            .map_or((Counts::default(), 0, &empty), |b| (b.counts, b.exits, &b.hotspots));
        for (place, count) in &sample.hotspots {
            let new = count.saturating_sub(old_places.get(place).copied().unwrap_or(0));
            let entry = places.entry((place.class, place.address, place.size)).or_default();
            entry.0 += count;
            entry.1 += new;
        }
        let recent = sample.counts.since(&old_counts);
        let new_exits = exits.saturating_sub(old_exits);
        let row = Vcpu {
            vm,
            id: sample.id,
            tid: sample.tid,
            exits: Tally { total: exits, rate: rate(new_exits, interval) },
            counts: sample.counts,
            recent,
            reasons: named(&sample.reasons, |index| reason_name(index, isa)),
            userspace: named(&sample.userspace, userspace_name),
            audit,
        };
        if !ended {
            let hotspots = sample.hotspots.into_iter().collect();
            self.before.insert(sample.key, Before { counts: sample.counts, exits, hotspots });
        }
        (row, new_exits)
    }

    fn id(&mut self, key: VmKey) -> u32 {
        *self.ids.entry(key).or_insert_with(|| {
            self.next_id += 1;
            self.next_id
        })
    }
}

/// Per second; `None` without an interval.
#[expect(clippy::cast_precision_loss, reason = "a rate above 2^53 per second does not occur")]
fn rate(new: u64, interval: Option<Duration>) -> Option<f64> {
    let seconds = interval?.as_secs_f64();
    (seconds > 0.0).then(|| new as f64 / seconds)
}

fn named(counts: &[(u32, u64)], name: impl Fn(u32) -> String) -> BTreeMap<String, u64> {
    let mut named = BTreeMap::new();
    for (index, count) in counts {
        *named.entry(name(*index)).or_default() += count;
    }
    named
}

fn hotspots(
    places: BTreeMap<(u32, u64, u32), (u64, u64)>,
    vm: u32,
    vm_name: &Arc<str>,
    interval: Option<Duration>,
) -> Vec<Hotspot> {
    let mut hotspots: Vec<Hotspot> = places
        .into_iter()
        .filter_map(|((class, address, size), (total, new))| {
            let class = class_of(&Place { address, class, size })?;
            Some(Hotspot {
                vm,
                vm_name: Arc::clone(vm_name),
                class,
                address,
                size,
                tally: Tally { total, rate: rate(new, interval) },
            })
        })
        .collect();
    hotspots.sort_by_key(|spot| Reverse(spot.tally.total));
    hotspots
}

/// `other = class total − Σ places`, where it is not zero.
fn other(counts: &Counts, hotspots: &[Hotspot]) -> Vec<(Class, u64)> {
    let rest = |class: Class| {
        let placed: u64 =
            hotspots.iter().filter(|spot| spot.class == class).map(|spot| spot.tally.total).sum();
        (class, counts[class].saturating_sub(placed))
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
