//! The running kernel: programs attached, counters read through `mmap`.
//!
//! [`attach`] loads the object and attaches what this kernel has, [`slots`] reads the counting
//! arrays, [`losses`] what was not counted, [`reclaim`] gives the slots of dead vCPUs back.

mod attach;
mod losses;
mod reclaim;
mod slots;

use std::{
    collections::HashMap,
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result};
use tdtrace_common::counters::{HotspotKey, Place, VcpuSlot, VmEntry};

use self::{attach::Attached, reclaim::Processes, slots::MappedArray};
use super::Source;
use crate::model::{
    counts::Counts,
    sample::{Host, Losses, ProbeState, Sample, VcpuKey, VcpuSample, VmKey, VmSample},
};

/// What the live source is asked to do differently.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// vCPUs that can be counted at the same time.
    pub max_vcpus: u32,
    /// Print what the programs log.
    pub debug_ebpf: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_vcpus: 4096, debug_ebpf: false }
    }
}

/// The running kernel as a source. Dropping it detaches.
pub struct Live {
    attached: Attached,
    began: Instant,
    host: Arc<Host>,
    vcpus: MappedArray<VcpuSlot>,
    vms: MappedArray<VmEntry>,
    /// Life of every slot that has been given back; the slot is silent until its life moves on.
    freed_vcpus: HashMap<u32, u32>,
    freed_vms: HashMap<u32, u32>,
    processes: Processes,
    hotspots_lost: u64,
}

impl Live {
    /// Loads the programs, attaches what this kernel has and begins counting.
    ///
    /// # Errors
    /// No privilege, no BTF, no KVM, or a kernel that refuses eBPF: one sentence with the next step.
    pub fn open(options: Options) -> Result<Self> {
        let attached = attach::attach(options)?;
        let vcpus = MappedArray::new(attached.map("VCPUS")?).context("the map of vCPUs")?;
        let vms = MappedArray::new(attached.map("VMS")?).context("the map of VMs")?;
        Ok(Self {
            host: Arc::clone(&attached.host),
            attached,
            began: Instant::now(),
            vcpus,
            vms,
            freed_vcpus: HashMap::new(),
            freed_vms: HashMap::new(),
            processes: Processes::new(),
            hotspots_lost: 0,
        })
    }

    /// The probes and whether each counts.
    #[must_use]
    pub fn probes(&self) -> Arc<[ProbeState]> {
        Arc::clone(&self.attached.probes)
    }

    /// Slots in use, with their content.
    fn slots(&self) -> Vec<(u32, Box<VcpuSlot>)> {
        (0..self.vcpus.len())
            .filter_map(|index| {
                let life = self.vcpus.word(index, std::mem::offset_of!(VcpuSlot, life)) as u32;
                let used = life != 0 && self.freed_vcpus.get(&index) != Some(&life);
                used.then(|| (index, self.slot(index)))
            })
            .collect()
    }

    /// Slot `index` as it was between two ends of a KVM_RUN, or, if the vCPU leaves KVM_RUN faster than
    /// it can be read, as it is.
    fn slot(&self, index: u32) -> Box<VcpuSlot> {
        let mut slot = self.vcpus.read(index);
        for _ in 0..SLOT_READS {
            let synced = self.vcpus.word(index, std::mem::offset_of!(VcpuSlot, synced));
            if slot.synced == synced && synced.is_multiple_of(2) {
                break;
            }
            slot = self.vcpus.read(index);
        }
        slot
    }

    fn entries(&self) -> Vec<(u32, Box<VmEntry>)> {
        (0..self.vms.len())
            .filter_map(|index| {
                let life = (self.vms.word(index, std::mem::offset_of!(VmEntry, life))) as u32;
                let used = life != 0 && self.freed_vms.get(&index) != Some(&life);
                used.then(|| (index, self.vms.read(index)))
            })
            .collect()
    }
}

impl Source for Live {
    fn sample(&mut self) -> Result<Sample> {
        let at = self.began.elapsed();
        let entries = self.entries();
        let slots = self.slots();
        let overflow = self.attached.hotspots()?;
        let mut vcpus = Vec::with_capacity(slots.len());
        let mut dead_slots = Vec::new();
        let mut hotspots_lost = self.hotspots_lost;
        for (index, slot) in &slots {
            hotspots_lost += slot.hotspots_lost;
            vcpus.push(vcpu_sample(*index, slot, &overflow, &self.vms));
            if slot.vcpu == 0 || self.processes.is_gone(slot.tgid) {
                self.hotspots_lost += slot.hotspots_lost;
                dead_slots.push((*index, slot.life, slot.tid));
            }
        }
        let mut vms = Vec::with_capacity(entries.len());
        for (index, entry) in &entries {
            let mut own = slots.iter().filter(|(_, slot)| slot.vm == *index);
            // The thread that created the VM is known too (`userspace_pid`), but threads come and go.
            let pid = own.clone().next().map_or(entry.userspace_pid, |(_, slot)| slot.tgid);
            let dead = own.all(|(slot, _)| dead_slots.iter().any(|(dead, ..)| dead == slot));
            let ended = dead && (entry.retired != 0 || self.processes.is_gone(pid));
            vms.push(VmSample {
                key: VmKey { index: *index, life: entry.life },
                pid,
                name: printable(&entry.comm).into(),
                vm_type: (entry.vm_type != u32::MAX).then_some(entry.vm_type),
                ended,
            });
        }
        let losses = Losses { hotspots: hotspots_lost, ..self.attached.losses()? };
        self.reclaim(&dead_slots, &vms, &slots)?;
        Ok(Sample {
            at,
            host: Arc::clone(&self.host),
            probes: Arc::clone(&self.attached.probes),
            vms,
            vcpus,
            losses,
        })
    }
}

impl Live {
    /// Gives back what belongs to VMs that this sample reported as ended. A dead slot of a VM that
    /// goes on stays until the VM ends, so that its counts stay in the VM's total.
    fn reclaim(
        &mut self,
        dead_slots: &[(u32, u32, u32)],
        vms: &[VmSample],
        slots: &[(u32, Box<VcpuSlot>)],
    ) -> Result<()> {
        for vm in vms.iter().filter(|vm| vm.ended) {
            for (index, life, tid) in dead_slots {
                if slots.iter().any(|(i, slot)| i == index && slot.vm == vm.key.index) {
                    self.attached.free_vcpu(*index, *life, *tid)?;
                    self.freed_vcpus.insert(*index, *life);
                }
            }
            self.attached.free_vm(vm.key.index)?;
            self.freed_vms.insert(vm.key.index, vm.key.life);
            self.processes.forget(vm.pid);
        }
        Ok(())
    }
}

/// Hotspots of the map by slot and life.
type Overflow = HashMap<(u32, u32), Vec<(Place, u64)>>;

fn collect_overflow(entries: impl Iterator<Item = (HotspotKey, u64)>) -> Overflow {
    let mut overflow = Overflow::new();
    for (key, count) in entries {
        overflow.entry((key.slot, key.life)).or_default().push((key.place, count));
    }
    overflow
}

fn vcpu_sample(
    index: u32,
    slot: &VcpuSlot,
    overflow: &Overflow,
    vms: &MappedArray<VmEntry>,
) -> VcpuSample {
    let mut hotspots: Vec<(Place, u64)> = slot
        .hotspots
        .iter()
        .filter(|hotspot| hotspot.count > 0)
        .map(|hotspot| (hotspot.place, hotspot.count))
        .collect();
    hotspots.extend(overflow.get(&(index, slot.life)).into_iter().flatten());
    let vm_life = if slot.vm < vms.len() {
        vms.word(slot.vm, std::mem::offset_of!(VmEntry, life)) as u32
    } else {
        0
    };
    VcpuSample {
        key: VcpuKey { index, life: slot.life },
        vm: VmKey { index: slot.vm, life: vm_life },
        id: slot.vcpu_id,
        tid: slot.tid,
        counts: Counts::new(slot.counts),
        reasons: nonzero(&slot.reasons),
        userspace: nonzero(&slot.userspace),
        hotspots,
        kvm: (slot.synced != 0).then_some((slot.first, slot.last)),
    }
}

/// A process chooses its own name, so control characters do not reach a terminal.
fn printable(comm: &[u8; 16]) -> String {
    let end = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
    String::from_utf8_lossy(&comm[..end])
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

fn nonzero(counts: &[u64]) -> Vec<(u32, u64)> {
    (0..).zip(counts.iter().copied()).filter(|(_, count)| *count > 0).collect()
}

/// How often a slot is read anew because its vCPU left KVM_RUN meanwhile.
const SLOT_READS: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_carry_escape_sequences() {
        assert_eq!(printable(b"a\x1b[2Jb\x07\0\0\0\0\0\0\0\0\0"), "a?[2Jb?");
        assert_eq!(printable(b"sixteen-bytes-ok"), "sixteen-bytes-ok");
        assert_eq!(printable(&[0; 16]), "");
    }
}
