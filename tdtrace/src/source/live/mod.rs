//! The running kernel: programs attached, counters read through `mmap`.
//!
//! [`attach`] loads the object and attaches what this kernel has, [`slots`] reads the counting
//! arrays, [`losses`] what was not counted, [`reclaim`] gives the slots of dead vCPUs back,
//! [`identity`] says who runs a VM, [`cost`] is the time that the programs take.

mod attach;
pub mod cost;
mod identity;
mod log;
mod losses;
mod reclaim;
mod slots;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result};
use tdtrace_common::counters::{HotspotKey, Place, VcpuSlot, VmEntry};

use self::{attach::Attached, identity::Identity, reclaim::Processes, slots::MappedArray};
use super::Source;
use crate::model::{
    counts::Counts,
    sample::{Host, Losses, ProbeState, Sample, VcpuKey, VcpuSample, VmKey, VmSample, place_order},
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
    /// Of slots that were given back.
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

    /// What each attached program cost so far; the kernel measures it while its statistics are on
    /// (`BPF_ENABLE_STATS`).
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn costs(&self) -> Result<Vec<cost::Cost>> {
        self.attached.costs()
    }

    /// Whether slot `index` is a vCPU's.
    fn is_used(&self, index: u32) -> bool {
        let life = self.vcpus.word(index, std::mem::offset_of!(VcpuSlot, life)) as u32;
        life != 0 && self.freed_vcpus.get(&index) != Some(&life)
    }

    /// Slots in use, with their content.
    fn slots(&self) -> Vec<(u32, Box<VcpuSlot>)> {
        let used = (0..self.vcpus.len()).filter(|index| self.is_used(*index));
        used.map(|index| (index, self.slot(index))).collect()
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
        // In this order: a VM that has ended by now has its last counts in the slots read after.
        let gone = self.gone_processes();
        let entries = self.entries();
        let slots = self.slots();
        let overflow = self.attached.hotspots()?;
        let vcpus = slots
            .iter()
            .map(|(index, slot)| Arc::new(vcpu_sample(*index, slot, &overflow, &self.vms)))
            .collect();
        let vms = self.vm_samples(&entries, &slots, &gone);
        let without_place: u64 = slots.iter().map(|(_, slot)| slot.hotspots_lost).sum();
        let losses =
            Losses { hotspots: self.hotspots_lost + without_place, ..self.attached.losses()? };
        self.reclaim(&vms, &entries, &slots)?;
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
    /// Processes that ran vCPUs and are no more.
    fn gone_processes(&mut self) -> HashSet<u32> {
        let tgid = |index| self.vcpus.word(index, std::mem::offset_of!(VcpuSlot, tgid)) as u32;
        let used = (0..self.vcpus.len()).filter(|index| self.is_used(*index));
        let tgids: HashSet<u32> = used.map(tgid).collect();
        tgids.into_iter().filter(|tgid| self.processes.is_gone(*tgid)).collect()
    }

    fn vm_samples(
        &mut self,
        entries: &[(u32, Box<VmEntry>)],
        slots: &[(u32, Box<VcpuSlot>)],
        gone: &HashSet<u32>,
    ) -> Vec<VmSample> {
        let mut latest: HashMap<u64, u64> = HashMap::new();
        for (_, entry) in entries {
            let seen_at = latest.entry(entry.kvm).or_default();
            *seen_at = entry.seen_at.max(*seen_at);
        }
        let mut processes: HashMap<u32, Vec<u32>> = HashMap::new();
        for (_, slot) in slots {
            processes.entry(slot.vm).or_default().push(slot.tgid);
        }
        let sample = |(index, entry): &(u32, Box<VmEntry>)| {
            let own = processes.get(index).map_or(&[][..], Vec::as_slice);
            let pid = own.first().copied().unwrap_or(entry.tgid);
            let is_gone = match own {
                [] => self.processes.is_gone(pid),
                own => own.iter().all(|tgid| gone.contains(tgid)),
            };
            let replaced = latest.get(&entry.kvm).is_some_and(|latest| *latest > entry.seen_at);
            let Identity { name, vmm, container } =
                named(self.processes.identity(pid), &entry.comm);
            VmSample {
                key: VmKey { index: *index, life: entry.life },
                pid,
                name,
                vmm,
                container,
                vm_type: (entry.vm_type != u32::MAX).then_some(entry.vm_type),
                ended: is_gone || replaced,
                demo: false,
                latency: Arc::default(),
            }
        };
        entries.iter().map(sample).collect()
    }

    /// Gives back what belongs to VMs that this sample reported as ended.
    fn reclaim(
        &mut self,
        vms: &[VmSample],
        entries: &[(u32, Box<VmEntry>)],
        slots: &[(u32, Box<VcpuSlot>)],
    ) -> Result<()> {
        let ended: HashMap<u32, &VmSample> =
            vms.iter().filter(|vm| vm.ended).map(|vm| (vm.key.index, vm)).collect();
        if ended.is_empty() {
            return Ok(());
        }
        let is_over = |index: &u32| ended.contains_key(index);
        let slots: Vec<_> = slots.iter().filter(|(_, slot)| is_over(&slot.vm)).collect();
        self.attached.free_vcpus(slots.iter().map(|(index, slot)| (*index, &**slot)))?;
        for (index, slot) in slots {
            self.freed_vcpus.insert(*index, slot.life);
            self.hotspots_lost += slot.hotspots_lost;
        }
        for (index, entry) in entries.iter().filter(|(index, _)| is_over(index)) {
            self.attached.free_vm(*index, entry)?;
            self.freed_vms.insert(*index, entry.life);
        }
        for vm in ended.values() {
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

/// `identity` with the name `comm` that the kernel knew if there is none: the process was gone before
/// it could be asked, or does not let itself be asked.
fn named(identity: Option<&Identity>, comm: &[u8; 16]) -> Identity {
    let mut identity = identity.cloned().unwrap_or_default();
    if identity.name.is_empty() {
        identity.name = process_name(comm).into();
    }
    identity
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
    hotspots.sort_unstable_by_key(|(place, _)| place_order(place));
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
        times: None,
        latency: Arc::default(),
    }
}

/// A process chooses its own name, so control characters do not reach a terminal.
fn process_name(comm: &[u8; 16]) -> String {
    let end = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
    identity::printable(&String::from_utf8_lossy(&comm[..end]))
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
        assert_eq!(process_name(b"a\x1b[2Jb\x07\0\0\0\0\0\0\0\0\0"), "a?[2Jb?");
        assert_eq!(process_name(b"sixteen-bytes-ok"), "sixteen-bytes-ok");
        assert_eq!(process_name(&[0; 16]), "");
    }

    #[test]
    fn a_vm_whose_process_could_not_be_asked_keeps_the_name_the_kernel_knew() {
        let comm = b"vmm\0\0\0\0\0\0\0\0\0\0\0\0\0";
        let unknown = Identity { name: "vmm".into(), ..Identity::default() };
        assert_eq!(named(None, comm), unknown);
        assert_eq!(named(Some(&Identity::default()), comm), unknown);
        let known = Identity {
            name: "web".into(),
            vmm: "qemu".into(),
            container: Some("4f6e2b0c9d8a".into()),
        };
        assert_eq!(named(Some(&known), comm), known);
    }
}
