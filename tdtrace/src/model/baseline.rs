//! Counts from a chosen moment on: a base sample, taken off every later one.
//!
//! Counters only grow, so a difference is exact. Two things are no counters. KVM's own counters are
//! compared from a first to a last reading: the last reading of the base becomes the first. The longest
//! duration since the base is known only if it is longer than all before; otherwise it is at most the
//! end of the highest bucket that was filled since.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tdtrace_common::{
    counters::{Class, Loss},
    latency::bucket_end,
};

use super::{
    ledger::LedgerSample,
    poison::PoisonSample,
    sample::{LatencySample, Losses, Sample, VcpuKey, VcpuSample, VmKey, place_order},
    seam::SeamSample,
};

/// The sample that counts are taken from.
#[derive(Clone, Debug)]
pub struct Baseline {
    at: Duration,
    latency: HashMap<VmKey, Arc<[LatencySample]>>,
    ledgers: HashMap<VmKey, LedgerSample>,
    vcpus: HashMap<VcpuKey, Arc<VcpuSample>>,
    /// VMs that have durations, of whose vCPUs the base has none: nobody looked into them.
    closed: HashSet<VmKey>,
    losses: Losses,
    seam: Arc<SeamSample>,
    poison: Arc<PoisonSample>,
}

impl Baseline {
    /// Counts from `sample` on.
    #[must_use]
    pub fn new(sample: &Sample) -> Self {
        Self {
            at: sample.at,
            latency: sample.vms.iter().map(|vm| (vm.key, Arc::clone(&vm.latency))).collect(),
            ledgers: sample.vms.iter().map(|vm| (vm.key, vm.ledger.clone())).collect(),
            vcpus: sample.vcpus.iter().map(|vcpu| (vcpu.key, Arc::clone(vcpu))).collect(),
            closed: closed(sample),
            losses: sample.losses.clone(),
            seam: Arc::clone(&sample.seam),
            poison: Arc::clone(&sample.poison),
        }
    }

    /// When it was taken, since the source began.
    #[must_use]
    pub const fn at(&self) -> Duration {
        self.at
    }

    /// What `sample` has more than the base. VMs and vCPUs that the base does not have stay as they are.
    #[must_use]
    pub fn since(&self, mut sample: Sample) -> Sample {
        for vm in &mut sample.vms {
            vm.latency = durations(&vm.latency, self.latency(vm.key));
            if let Some(base) = self.ledgers.get(&vm.key) {
                vm.ledger = vm.ledger.since(base);
            }
        }
        for vcpu in &mut sample.vcpus {
            if let Some(base) = self.vcpus.get(&vcpu.key) {
                let mut since = vcpu_since(vcpu, base);
                if self.closed.contains(&vcpu.vm) {
                    // Those before the base cannot be taken off.
                    since.latency = Arc::default();
                }
                *vcpu = Arc::new(since);
            }
        }
        sample.losses = losses(sample.losses, &self.losses);
        sample.seam = Arc::new(sample.seam.since(&self.seam));
        sample.poison = Arc::new(sample.poison.since(&self.poison));
        sample
    }

    /// SEAMCALLs in the base.
    #[must_use]
    pub fn seam(&self) -> &SeamSample {
        &self.seam
    }

    /// The durations of a VM in the base.
    #[must_use]
    pub fn latency(&self, vm: VmKey) -> &[LatencySample] {
        self.latency.get(&vm).map_or(&[], |latency| latency)
    }

    /// The durations of a vCPU in the base.
    #[must_use]
    pub fn latency_of(&self, vcpu: VcpuKey) -> &[LatencySample] {
        self.vcpus.get(&vcpu).map_or(&[], |vcpu| &vcpu.latency)
    }
}

/// The VMs with durations of which `sample` has none by vCPU.
fn closed(sample: &Sample) -> HashSet<VmKey> {
    let vms = sample.vms.iter().filter(|vm| !vm.latency.is_empty());
    let mut closed: HashSet<VmKey> = vms.map(|vm| vm.key).collect();
    for vcpu in sample.vcpus.iter().filter(|vcpu| !vcpu.latency.is_empty()) {
        closed.remove(&vcpu.vm);
    }
    closed
}

/// Whether the longest duration of `sample`, a difference to `base`, is a bound and not exact.
#[must_use]
pub fn is_bound(sample: &LatencySample, base: &[LatencySample]) -> bool {
    base.iter().any(|base| base.class == sample.class && sample.max <= base.max)
}

fn vcpu_since(vcpu: &VcpuSample, base: &VcpuSample) -> VcpuSample {
    VcpuSample {
        key: vcpu.key,
        vm: vcpu.vm,
        id: vcpu.id,
        tid: vcpu.tid,
        counts: vcpu.counts.since(&base.counts),
        reasons: less(&vcpu.reasons, &base.reasons, |index| *index),
        userspace: less(&vcpu.userspace, &base.userspace, |index| *index),
        hotspots: less(&vcpu.hotspots, &base.hotspots, place_order),
        kvm: match (vcpu.kvm, base.kvm) {
            (Some((_, last)), Some((_, base))) => Some((base, last)),
            (kvm, _) => kvm,
        },
        times: match (vcpu.times, base.times) {
            (Some(times), Some(base)) => Some(times.since(&base)),
            (times, _) => times,
        },
        latency: durations(&vcpu.latency, &base.latency),
    }
}

/// Counts less those of `base` with the same key, in the order of `counts`; what is 0 then is left out.
fn less<T: Copy, K: Ord>(
    counts: &[(T, u64)],
    base: &[(T, u64)],
    key: impl Fn(&T) -> K,
) -> Vec<(T, u64)> {
    let mut base: Vec<(K, u64)> = base.iter().map(|(of, count)| (key(of), *count)).collect();
    base.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let earlier = |of: &T| {
        let key = key(of);
        base.binary_search_by(|(of, _)| of.cmp(&key)).map_or(0, |index| base[index].1)
    };
    let left = counts.iter().map(|(of, count)| (*of, count.saturating_sub(earlier(of))));
    left.filter(|(_, count)| *count > 0).collect()
}

fn durations(samples: &[LatencySample], base: &[LatencySample]) -> Arc<[LatencySample]> {
    let since = |sample: &LatencySample| {
        let Some(base) = base.iter().find(|base| base.class == sample.class) else {
            return Some(sample.clone());
        };
        let histogram = sample.histogram.since(&base.histogram);
        let (highest, _) = histogram.filled().last()?;
        let mut ns = sample.ns;
        for (ns, before) in ns.iter_mut().zip(base.ns) {
            *ns = ns.saturating_sub(before);
        }
        // A new longest one was seen; any other is somewhere in the highest bucket.
        let max =
            if sample.max > base.max { sample.max } else { bucket_end(highest).min(sample.max) };
        Some(LatencySample { class: sample.class, ns, max, histogram })
    };
    samples.iter().filter_map(since).collect()
}

fn losses(losses: Losses, base: &Losses) -> Losses {
    let cause = |(loss, class, count): (Loss, Class, u64)| {
        let mut earlier = base.causes.iter().filter(|(l, c, _)| (*l, *c) == (loss, class));
        (loss, class, count.saturating_sub(earlier.next().map_or(0, |(.., count)| *count)))
    };
    let miss = |(probe, count): (String, u64)| {
        let earlier = base.misses.iter().find(|(name, _)| *name == probe);
        let count = count.saturating_sub(earlier.map_or(0, |(_, count)| *count));
        (probe, count)
    };
    Losses {
        causes: losses.causes.into_iter().map(cause).filter(|(.., count)| *count > 0).collect(),
        misses: losses.misses.into_iter().map(miss).collect(),
        hotspots: losses.hotspots.saturating_sub(base.hotspots),
        unpaired: losses.unpaired.saturating_sub(base.unpaired),
        durations: losses.durations.saturating_sub(base.durations),
        slow: losses.slow.saturating_sub(base.slow),
        outside: less(&losses.outside, &base.outside, |class| *class),
    }
}

#[cfg(test)]
mod tests;
