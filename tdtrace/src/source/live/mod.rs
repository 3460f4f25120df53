//! The running kernel: programs attached, counters read through `mmap`.
//!
//! [`attach`] loads the object and attaches what this kernel has, [`slots`] maps the counting arrays,
//! [`vcpus`] reads vCPUs from them and [`durations`] their durations, [`losses`] what was not counted, [`reclaim`] gives the slots of dead vCPUs back,
//! [`identity`] says who runs a VM, [`cost`] is the time that the programs take.

pub(super) mod attach;
pub mod cost;
mod durations;
mod identity;
mod log;
pub(super) mod losses;
mod reclaim;
mod slots;
mod vcpus;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tdtrace_common::counters::{HotspotKey, VmEntry};

use self::{
    attach::Attached,
    durations::Durations,
    identity::Identity,
    reclaim::Processes,
    slots::MappedArray,
    vcpus::{Overflow, Reading, Vcpu, Vcpus},
};
use super::Source;
use crate::model::sample::{Host, Losses, ProbeState, Sample, VcpuSample, VmKey, VmSample};

/// What the live source is asked to do differently.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// vCPUs that can be counted at the same time.
    pub max_vcpus: u32,
    /// Print what the programs log.
    pub debug_ebpf: bool,
    /// Let the programs take the time.
    pub timed: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_vcpus: 4096, debug_ebpf: false, timed: true }
    }
}

/// The running kernel as a source. Dropping it detaches.
pub struct Live {
    attached: Attached,
    began: Duration,
    host: Arc<Host>,
    vcpus: Vcpus,
    durations: Durations,
    vms: MappedArray<VmEntry>,
    /// Life of every entry that has been given back; it is silent until its life moves on.
    freed_vms: HashMap<u32, u32>,
    processes: Processes,
    /// What vCPUs lost whose slots were given back.
    ended: Losses,
    /// Of this VM the durations of single vCPUs are wanted.
    detail: Option<VmKey>,
}

impl Live {
    /// Loads the programs, attaches what this kernel has and begins counting.
    ///
    /// # Errors
    /// No privilege, no BTF, no KVM, or a kernel that refuses eBPF: one sentence with the next step.
    pub fn open(options: Options) -> Result<Self> {
        let attached = attach::attach(options)?;
        let map = |name: &'static str| {
            attached.map(name).with_context(|| format!("the map {name} cannot be used"))
        };
        let reading = Reading { isa: attached.host.isa, timed: options.timed };
        let vcpus = Vcpus::new(MappedArray::new(map("VCPUS")?)?, reading);
        let durations = Durations::new(MappedArray::new(map("LATENCY_ROWS")?)?);
        let vms = MappedArray::new(map("VMS")?)?;
        Ok(Self {
            host: Arc::clone(&attached.host),
            attached,
            began: monotonic(),
            vcpus,
            durations,
            vms,
            freed_vms: HashMap::new(),
            processes: Processes::new(),
            ended: Losses::default(),
            detail: None,
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
        // In this order: a VM that has ended by now has its last counts in the slots read after.
        let gone = self.gone_processes();
        let entries = self.entries();
        let overflow = self.attached.hotspots()?;
        let now = monotonic();
        self.vcpus.read(&overflow, &self.vms, now);
        let vms = self.vm_samples(&entries, &gone);
        let losses = self.losses()?;
        let detailed = |vcpu: &Vcpu| {
            if self.detail == Some(vcpu.sample.vm) {
                let latency = self.durations.of_vcpu(vcpu);
                Arc::new(VcpuSample { latency, ..(*vcpu.sample).clone() })
            } else {
                Arc::clone(&vcpu.sample)
            }
        };
        let vcpus = self.vcpus.all().map(detailed).collect();
        self.reclaim(&vms, &entries)?;
        Ok(Sample {
            at: now.saturating_sub(self.began),
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
        let tgids: HashSet<u32> = self.vcpus.tgids().collect();
        tgids.into_iter().filter(|tgid| self.processes.is_gone(*tgid)).collect()
    }

    fn losses(&self) -> Result<Losses> {
        let mut losses = self.attached.losses()?;
        losses.hotspots = self.ended.hotspots;
        losses.unpaired = self.ended.unpaired;
        losses.durations = self.ended.durations;
        self.vcpus.all().for_each(|vcpu| add_losses(&mut losses, vcpu));
        Ok(losses)
    }

    fn vm_samples(
        &mut self,
        entries: &[(u32, Box<VmEntry>)],
        gone: &HashSet<u32>,
    ) -> Vec<VmSample> {
        let mut latest: HashMap<u64, u64> = HashMap::new();
        for (_, entry) in entries {
            let seen_at = latest.entry(entry.kvm).or_default();
            *seen_at = entry.seen_at.max(*seen_at);
        }
        let mut vcpus: HashMap<u32, Vec<&Vcpu>> = HashMap::new();
        for vcpu in self.vcpus.all() {
            vcpus.entry(vcpu.sample.vm.index).or_default().push(vcpu);
        }
        let sample = |(index, entry): &(u32, Box<VmEntry>)| {
            let own = vcpus.get(index).map_or(&[][..], Vec::as_slice);
            let pid = own.first().map_or(entry.tgid, |vcpu| vcpu.tgid);
            let is_gone = match own {
                [] => self.processes.is_gone(pid),
                own => own.iter().all(|vcpu| gone.contains(&vcpu.tgid)),
            };
            let replaced = latest.get(&entry.kvm).is_some_and(|latest| *latest > entry.seen_at);
            let Identity { name, vmm, container } =
                named(self.processes.identity(pid), &entry.comm);
            let key = VmKey { index: *index, life: entry.life };
            VmSample {
                key,
                pid,
                name,
                vmm,
                container,
                vm_type: (entry.vm_type != u32::MAX).then_some(entry.vm_type),
                ended: is_gone || replaced,
                latency: self.durations.of_vm(key, own),
            }
        };
        entries.iter().map(sample).collect()
    }

    /// Gives back what belongs to VMs that this sample reported as ended.
    fn reclaim(&mut self, vms: &[VmSample], entries: &[(u32, Box<VmEntry>)]) -> Result<()> {
        let ended: HashMap<u32, &VmSample> =
            vms.iter().filter(|vm| vm.ended).map(|vm| (vm.key.index, vm)).collect();
        if ended.is_empty() {
            return Ok(());
        }
        let vcpus = self.vcpus.take(|vcpu| ended.contains_key(&vcpu.sample.vm.index));
        self.attached.free_vcpus(&vcpus)?;
        vcpus.iter().for_each(|vcpu| add_losses(&mut self.ended, vcpu));
        for (index, entry) in entries.iter().filter(|(index, _)| ended.contains_key(index)) {
            self.attached.free_vm(*index, entry)?;
            self.freed_vms.insert(*index, entry.life);
        }
        for vm in ended.values() {
            self.processes.forget(vm.pid);
            self.durations.forget(vm.key);
        }
        Ok(())
    }
}

fn add_losses(losses: &mut Losses, vcpu: &Vcpu) {
    losses.hotspots += vcpu.hotspots_lost;
    losses.unpaired += vcpu.timing.unpaired;
    losses.durations += vcpu.timing.rows_lost;
}

/// The clock of the programs, `CLOCK_MONOTONIC`.
pub(super) fn monotonic() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec. The clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), nanos)
}

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

/// A process chooses its own name, so control characters do not reach a terminal.
fn process_name(comm: &[u8; 16]) -> String {
    let end = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
    identity::printable(&String::from_utf8_lossy(&comm[..end]))
}

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
