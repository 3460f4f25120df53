//! The rows of durations, summed over the vCPUs of a VM.
//!
//! A row's buckets are 32 bits wide and run over. Sums over rows run over as well, and their difference
//! to the sums of the sample before does not, so the totals here are exact while there are less than
//! 2^32 durations of one bucket between two samples.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tdtrace_common::latency::{
    BUCKETS, LATENCY_RETURNS, LatencyClass, LatencyRow, PARTS, SLOT_ROWS,
};

use super::{
    slots::MappedArray,
    vcpus::{Vcpu, Vcpus},
};
use crate::model::{
    latency::Histogram,
    sample::{LatencySample, VmKey},
};

/// The durations of a VM's class up to the sample before.
struct Total {
    sums: [u32; BUCKETS],
    histogram: Histogram,
}

impl Default for Total {
    fn default() -> Self {
        Self { sums: [0; BUCKETS], histogram: Histogram::default() }
    }
}

/// What the rows of a class add up to now.
struct Sum {
    buckets: [u32; BUCKETS],
    ns: [u64; PARTS],
    max: u64,
}

impl Default for Sum {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], ns: [0; PARTS], max: 0 }
    }
}

impl Sum {
    fn add(&mut self, row: &LatencyRow) {
        for (sum, count) in self.buckets.iter_mut().zip(row.buckets) {
            *sum = sum.wrapping_add(count);
        }
        for (sum, ns) in self.ns.iter_mut().zip(row.ns) {
            *sum += ns;
        }
        self.max = self.max.max(row.max);
    }

    fn sample(&self, class: LatencyClass, histogram: Histogram) -> LatencySample {
        LatencySample { class, ns: self.ns, max: self.max, histogram }
    }
}

#[derive(Default)]
struct Vm {
    totals: BTreeMap<LatencyClass, Total>,
    sample: Arc<[LatencySample]>,
}

/// The durations of all VMs.
pub(super) struct Durations {
    rows: MappedArray<LatencyRow>,
    vms: HashMap<VmKey, Vm>,
}

impl Durations {
    pub(super) fn new(rows: MappedArray<LatencyRow>) -> Self {
        Self { rows, vms: HashMap::new() }
    }

    /// The durations of VM `key` as read last.
    pub(super) fn of_vm(&self, key: VmKey) -> Arc<[LatencySample]> {
        self.vms.get(&key).map(|vm| Arc::clone(&vm.sample)).unwrap_or_default()
    }

    /// Reads the durations of VMs that moved, by the slots of their vCPUs. What the slots say besides is
    /// read after it: no duration is without its exit and its time then.
    pub(super) fn read(&mut self, vcpus: &Vcpus, moved: &HashMap<VmKey, Vec<u32>>) {
        for (key, slots) in moved {
            self.read_vm(*key, vcpus, slots);
        }
    }

    fn read_vm(&mut self, key: VmKey, vcpus: &Vcpus, slots: &[u32]) {
        let mut sums: BTreeMap<LatencyClass, Sum> = BTreeMap::new();
        for row in slots.iter().flat_map(|slot| self.rows_of(*slot, vcpus.rows(*slot))) {
            sums.entry(row.class - 1).or_default().add(&row);
        }
        let vm = self.vms.entry(key).or_default();
        let samples = sums.iter().map(|(class, sum)| {
            let total = vm.totals.entry(*class).or_default();
            for (index, (now, before)) in sum.buckets.iter().zip(total.sums).enumerate() {
                total.histogram.add(index, now.wrapping_sub(before).into());
            }
            total.sums = sum.buckets;
            sum.sample(*class, total.histogram.clone())
        });
        vm.sample = samples.collect();
    }

    /// The durations of the vCPU in `slot`.
    pub(super) fn of_slot(&self, slot: u32, vcpus: &Vcpus) -> Vec<LatencySample> {
        let rows = self.rows_of(slot, vcpus.rows(slot));
        let samples = rows.map(|row| {
            let mut histogram = Histogram::default();
            for (index, count) in row.buckets.into_iter().enumerate() {
                histogram.add(index, count.into());
            }
            LatencySample { class: row.class - 1, ns: row.ns, max: row.max, histogram }
        });
        samples.collect()
    }

    /// Of `durations` of `vcpu` those whose buckets cannot have run over.
    pub(super) fn known(durations: Vec<LatencySample>, vcpu: &Vcpu) -> Arc<[LatencySample]> {
        let counted = |class: LatencyClass| {
            let (counts, index) = match class.checked_sub(LATENCY_RETURNS) {
                Some(index) => (&vcpu.sample.userspace, index),
                None => (&vcpu.sample.reasons, class),
            };
            counts.iter().find(|(known, _)| *known == index).map_or(0, |(_, count)| *count)
        };
        durations.into_iter().filter(|row| counted(row.class) < 1 << 32).collect()
    }

    /// The VM is no more.
    pub(super) fn forget(&mut self, key: VmKey) {
        self.vms.remove(&key);
    }

    /// The rows of the vCPU in `slot`, whose entries are `entries`.
    fn rows_of(
        &self,
        slot: u32,
        entries: [u32; SLOT_ROWS],
    ) -> impl Iterator<Item = Box<LatencyRow>> + '_ {
        let entries = entries.into_iter().filter(|row| *row != 0 && *row < self.rows.len());
        let rows = entries.map(|row| self.rows.read(row));
        rows.filter(move |row| row.class != 0 && row.slot == slot)
    }
}
