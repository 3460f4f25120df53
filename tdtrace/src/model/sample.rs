//! What a source delivers: the counters at one moment, as they are.

use std::{sync::Arc, time::Duration};

use tdtrace_common::{
    counters::{Class, KvmStat, Loss, Place},
    latency::{LatencyClass, PARTS},
};

use super::{
    counts::{self, Counts},
    latency::{Histogram, Times},
    ledger::LedgerSample,
    poison::PoisonSample,
    seam::SeamSample,
    slow::SlowSample,
};

/// Which exit reasons this KVM has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// kvm_intel.
    Vmx,
    /// kvm_amd.
    Svm,
    /// Neither: `kvm_entry` and `kvm_exit` do not fire.
    Software,
}

/// The machine the counters are of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// `uname -r`.
    pub release: String,
    /// Which exit reasons there are.
    pub isa: Isa,
}

/// Whether a probe counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeState {
    /// The probe's name.
    pub name: String,
    /// Why it is not attached; `None` if it is.
    pub missing: Option<String>,
    /// What cannot be seen without it.
    pub hides: String,
}

/// A VM's place in the maps; `life` tells it from what was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VmKey {
    /// Index of its entry.
    pub index: u32,
    /// How many VMs have had the entry.
    pub life: u32,
}

/// A vCPU's place in the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VcpuKey {
    /// Index of its slot.
    pub index: u32,
    /// How many vCPUs have had the slot.
    pub life: u32,
}

/// One VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmSample {
    /// Its place in the maps.
    pub key: VmKey,
    /// The process that runs it.
    pub pid: u32,
    /// The name that its VMM was given for it, else the process's; empty if neither could be read.
    pub name: Arc<str>,
    /// `qemu`, `cloud-hypervisor` …; empty if it is none that is known.
    pub vmm: Arc<str>,
    /// The container, pod or service that the process belongs to.
    pub container: Option<Arc<str>>,
    /// `KVM_X86_*_VM`, if the kernel says.
    pub vm_type: Option<u32>,
    /// It is no more; this is the last sample with it.
    pub ended: bool,
    /// It is no VM of this machine: the demo source made it up.
    pub demo: bool,
    /// Durations by class, all vCPUs together; empty if none is known.
    pub latency: Arc<[LatencySample]>,
    /// Conversions of its memory.
    pub ledger: LedgerSample,
}

impl VmSample {
    /// Which exit reasons it has on a host that has those of `host`. Synthetic TDs are Intel's, whatever
    /// runs them.
    #[must_use]
    pub const fn isa(&self, host: Isa) -> Isa {
        if self.demo { Isa::Vmx } else { host }
    }
}

/// The durations of one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatencySample {
    /// From a VM exit to the next entry, or in the VMM.
    pub class: LatencyClass,
    /// Nanoseconds by [`tdtrace_common::latency::Part`].
    pub ns: [u64; PARTS],
    /// The longest duration, in nanoseconds.
    pub max: u64,
    /// All durations.
    pub histogram: Histogram,
}

/// One vCPU.
#[derive(Clone, Debug, PartialEq)]
pub struct VcpuSample {
    /// Its place in the maps.
    pub key: VcpuKey,
    /// Its VM.
    pub vm: VmKey,
    /// The number that the VMM chose.
    pub id: u32,
    /// The thread that ran it last; 0 before its first KVM_RUN ended.
    pub tid: u32,
    /// Events by class.
    pub counts: Counts,
    /// `kvm_exit` by index of `VcpuSlot::reasons`, those that have any.
    pub reasons: Vec<(u32, u64)>,
    /// `kvm_userspace_exit` by index of `VcpuSlot::userspace`, those that have any.
    pub userspace: Vec<(u32, u64)>,
    /// Events by place, in the order of [`place_order`].
    pub hotspots: Vec<(Place, u64)>,
    /// What KVM said first and last, if it was seen between two exits.
    pub kvm: Option<(KvmStat, KvmStat)>,
    /// Where the time went, up to the sample; `None` if the programs take no time.
    pub times: Option<Times>,
    /// Durations by class, where the source was asked for those of single vCPUs.
    pub latency: Arc<[LatencySample]>,
}

impl VcpuSample {
    /// The same with its places in order.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.hotspots.sort_unstable_by_key(|(place, _)| place_order(place));
        self
    }
}

/// What places are sorted by.
#[must_use]
pub const fn place_order(place: &Place) -> (u32, u64, u32) {
    (place.class, place.address, place.size)
}

/// Events that are in no slot, since attaching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// By cause and class, those that there are.
    pub causes: Vec<(Loss, Class, u64)>,
    /// Runs that the kernel skipped because the program was running on that CPU already, by probe.
    pub misses: Vec<(String, u64)>,
    /// Hotspot events that found no room; the event itself was counted.
    pub hotspots: u64,
    /// Durations that could not be taken because the event at their beginning is missing.
    pub unpaired: u64,
    /// Durations that found no row of their class; the time itself was counted.
    pub durations: u64,
    /// Durations that were to be delivered one by one and found no room; they were counted.
    pub slow: u64,
    /// No loss: events that belong to no vCPU, by class.
    pub outside: Vec<(Class, u64)>,
}

impl Losses {
    /// Events that were not counted, all causes together. Hotspot events without room are not among
    /// them: they are in their class's total.
    #[must_use]
    pub fn total(&self) -> u64 {
        let causes = self.causes.iter().map(|(_, _, count)| count);
        causes
            .chain(self.misses.iter().map(|(_, count)| count))
            .fold(0, |total, count| total.saturating_add(*count))
    }
}

impl Losses {
    /// Adds what another source lost.
    pub fn add(&mut self, other: &Self) {
        for (loss, class, count) in &other.causes {
            match self.causes.iter_mut().find(|(l, c, _)| l == loss && c == class) {
                Some((.., known)) => counts::add(known, *count),
                None => self.causes.push((*loss, *class, *count)),
            }
        }
        for (name, count) in &other.misses {
            match self.misses.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => counts::add(known, *count),
                None => self.misses.push((name.clone(), *count)),
            }
        }
        for (class, count) in &other.outside {
            match self.outside.iter_mut().find(|(known, _)| known == class) {
                Some((_, known)) => counts::add(known, *count),
                None => self.outside.push((*class, *count)),
            }
        }
        counts::add(&mut self.hotspots, other.hotspots);
        counts::add(&mut self.unpaired, other.unpaired);
        counts::add(&mut self.durations, other.durations);
        counts::add(&mut self.slow, other.slow);
    }
}

/// The counters at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Since the source began.
    pub at: Duration,
    /// The machine.
    pub host: Arc<Host>,
    /// The probes.
    pub probes: Arc<[ProbeState]>,
    /// VMs, in no order.
    pub vms: Vec<VmSample>,
    /// vCPUs, in no order. One that did nothing may be the same as in the sample before.
    pub vcpus: Vec<Arc<VcpuSample>>,
    /// What is missing.
    pub losses: Losses,
    /// The limit above which durations are delivered one by one; `None`: they are not.
    pub slower_than: Option<Duration>,
    /// Those that came since the sample before.
    pub slow: Vec<SlowSample>,
    /// SEAMCALLs.
    pub seam: Arc<SeamSample>,
    /// Broken memory.
    pub poison: Arc<PoisonSample>,
}
