//! How many entries each map gets, and what they take.

use tdtrace_common::{
    counters::{COUNTS, CpuMemo, HotspotKey, HotspotValue, KvmObject, Loss, VcpuSlot, VmEntry},
    latency::LatencyRow,
    ledger::{VmLedger, VmmCall},
    poison::{POISON_PAGES, PoisonKey},
    seam::{SeamEntry, SeamEntryKey, SeamStats, SeamStatusKey},
    td::TdWindow,
};

use super::seam;

/// VMs that can be counted at the same time.
pub const MAX_VMS: u32 = 512;

/// Threads that can be in a function of KVM at the same time, with what they ask it for.
pub(super) const VMM_CALLS: u32 = 1024;

/// Rows of durations for each vCPU that can be counted: one row is one class of one vCPU. Few vCPUs
/// have more classes, and most have less.
const ROWS_PER_VCPU: u32 = 8;
/// Hotspots in the map for each vCPU, besides those in its slot.
const HOTSPOTS_PER_VCPU: u32 = 7;

/// How many entries the maps get whose size the user chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// vCPUs that can be counted at the same time.
    pub vcpus: u32,
    /// Threads that ran a vCPU last; more than vCPUs, because they change.
    pub threads: u32,
    /// Hotspots that find no place in their slot.
    pub hotspots: u32,
    /// Rows of durations.
    pub rows: u32,
}

impl Sizes {
    /// The sizes for `vcpus` vCPUs, with room for durations if they are `timed`.
    #[must_use]
    pub const fn new(vcpus: u32, timed: bool) -> Self {
        Self {
            vcpus,
            threads: vcpus.saturating_mul(2),
            hotspots: vcpus.saturating_mul(HOTSPOTS_PER_VCPU),
            rows: if timed { vcpus.saturating_mul(ROWS_PER_VCPU) } else { 1 },
        }
    }

    /// Bytes of kernel memory that the maps take on a machine with `cpus` possible CPUs, with those for
    /// SEAMCALLs if its kernel is for `tdx` hosts; as `kernel/bpf/{arraymap,hashtab,queue_stack_maps}.c`
    /// allocate them. All of it is allocated at the start.
    #[must_use]
    pub fn bytes(self, cpus: u32, tdx: bool) -> u64 {
        let array = |entries: u32, size: usize| u64::from(entries) * size as u64;
        let per_cpu = |entries: usize, size: usize| entries as u64 * size as u64 * u64::from(cpus);
        let hash = |entries: u32, key: usize, value: usize| {
            let element = ELEMENT + key.next_multiple_of(8) + value.next_multiple_of(8);
            // One element more for each CPU, and a bucket of 16 bytes for each entry.
            array(entries.saturating_add(cpus), element)
                + 16 * u64::from(entries).next_power_of_two()
        };
        array(self.vcpus, size_of::<VcpuSlot>())
            + array(MAX_VMS, size_of::<VmEntry>())
            + array(MAX_VMS, size_of::<VmLedger>())
            + array(self.rows + 1, size_of::<LatencyRow>())
            + array(self.vcpus + MAX_VMS + self.rows, size_of::<u32>())
            + hash(self.vcpus, size_of::<KvmObject>(), size_of::<u32>())
            + hash(self.vcpus, size_of::<u64>(), size_of::<u32>())
            + hash(MAX_VMS, size_of::<KvmObject>(), size_of::<u32>())
            + hash(MAX_VMS, size_of::<u32>(), size_of::<u32>())
            + hash(VMM_CALLS, size_of::<u64>(), size_of::<VmmCall>())
            + hash(self.threads, size_of::<u32>(), size_of::<u32>())
            + hash(self.hotspots, size_of::<HotspotKey>(), size_of::<HotspotValue>())
            + per_cpu(1, size_of::<CpuMemo>())
            + per_cpu(1, size_of::<TdWindow>())
            + per_cpu(Loss::ALL.len() * COUNTS, size_of::<u64>())
            + hash(POISON_PAGES, size_of::<PoisonKey>(), size_of::<u64>())
            + if tdx {
                per_cpu(seam::STATS as usize, size_of::<SeamStats>())
                    + hash(seam::STATUSES, size_of::<SeamStatusKey>(), size_of::<u64>())
                    + hash(seam::ENTRIES, size_of::<SeamEntryKey>(), size_of::<SeamEntry>())
            } else {
                0
            }
    }
}

/// `struct htab_elem` before the key.
const ELEMENT: usize = 48;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_vms_of_256_vcpus_take_less_than_256_mib_on_256_cpus() {
        let bytes = Sizes::new(100 * 256, true).bytes(256, true);
        assert!(bytes < 256 << 20, "{} MiB", bytes >> 20);
    }

    #[test]
    fn without_durations_less_than_two_thirds_of_it() {
        let (with, without) =
            (Sizes::new(4096, true).bytes(2, false), Sizes::new(4096, false).bytes(2, false));
        assert!(without * 3 < with * 2, "{without} of {with}");
    }
}
