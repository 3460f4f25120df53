//! Programs loaded and their maps read: what the live source and synthetic TDs have in common.
//!
//! [`load`] loads the object, [`attach`] attaches its programs, [`slots`] maps the counting arrays,
//! [`vcpus`] reads vCPUs from them and [`durations`] their durations, [`ledgers`] the conversions of VMs,
//! [`losses`] what was not counted, [`seam`] SEAMCALLs, [`poison`] broken memory. [`sizes`] says how large the
//! maps are, [`cost`] what the programs take, [`object`] what they are told. Who runs a VM is
//! for those to say who use this.

pub(crate) mod attach;
pub mod cost;
mod durations;
mod ledgers;
pub(crate) mod load;
mod log;
pub(crate) mod losses;
pub(crate) mod object;
mod poison;
pub(crate) mod privilege;
mod seam;
pub mod sizes;
pub(crate) mod slots;
mod vcpus;

pub(crate) use vcpus::Reading;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tdtrace_common::{counters::VmEntry, latency::SlowEvent};

use self::{
    durations::Durations,
    ledgers::Ledgers,
    load::Loaded,
    slots::MappedArray,
    vcpus::{Vcpu, Vcpus},
};
use super::owner::{Identity, Owners, named};
use crate::model::{
    poison::PoisonSample,
    sample::{LatencySample, Losses, VcpuSample, VmKey, VmSample},
    seam::SeamSample,
    slow::SlowSample,
};

/// What was read at one moment.
#[derive(Default)]
pub(crate) struct Counted {
    pub(crate) vms: Vec<VmSample>,
    pub(crate) vcpus: Vec<Arc<VcpuSample>>,
    pub(crate) losses: Losses,
    /// Durations longer than asked for; when they ended is by the clock of the programs.
    pub(crate) slow: Vec<SlowSample>,
    pub(crate) seam: SeamSample,
    pub(crate) poison: PoisonSample,
}

/// A load with its maps.
pub(crate) struct Counters {
    loaded: Loaded,
    reading: Reading,
    vcpus: Vcpus,
    durations: Durations,
    ledgers: Ledgers,
    vms: MappedArray<VmEntry>,
    /// Life of every entry that has been given back; it is silent until its life moves on.
    freed_vms: HashMap<u32, u32>,
    /// What vCPUs lost whose slots were given back.
    ended: Losses,
    /// Durations of VMs that came after the entries had been read; they are delivered with their VM.
    early: Vec<SlowEvent>,
}

impl Counters {
    /// Maps the arrays of `loaded`.
    ///
    /// # Errors
    /// When a map cannot be mapped.
    pub(crate) fn new(loaded: Loaded, reading: Reading) -> Result<Self> {
        let map = |name: &'static str| {
            loaded.map(name).with_context(|| format!("the map {name} cannot be used"))
        };
        let vcpus = Vcpus::new(MappedArray::writable(map("VCPUS")?)?, reading);
        let durations = Durations::new(MappedArray::new(map("LATENCY_ROWS")?)?);
        let ledgers = Ledgers::new(map("LEDGERS")?)?;
        let vms = MappedArray::new(map("VMS")?)?;
        let (freed_vms, ended, early) = (HashMap::new(), Losses::default(), Vec::new());
        Ok(Self { loaded, reading, vcpus, durations, ledgers, vms, freed_vms, ended, early })
    }

    /// The load.
    pub(crate) fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// The load, to attach more.
    pub(crate) fn loaded_mut(&mut self) -> &mut Loaded {
        &mut self.loaded
    }

    /// Reads what moved, and gives back what belongs to VMs that have ended. `now` is the clock of the
    /// programs; of VM `detail` the durations of single vCPUs are wanted.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub(crate) fn read(
        &mut self,
        now: Duration,
        owners: &mut dyn Owners,
        detail: Option<VmKey>,
    ) -> Result<Counted> {
        // In this order: a VM that has ended by now has its last counts in the slots read after.
        let tgids: HashSet<u32> = self.vcpus.tgids().collect();
        let gone = tgids.into_iter().filter(|tgid| owners.is_gone(*tgid)).collect();
        let entries = self.entries();
        // Before the slots: whose they are is known then.
        let sent = self.loaded.slow()?;
        self.durations.read(&self.vcpus, &self.vcpus.moved_vms(&self.vms));
        let mut detailed: HashMap<u32, Vec<LatencySample>> = HashMap::new();
        for slot in detail.iter().flat_map(|key| self.vcpus.slots_of(*key, &self.vms)) {
            detailed.insert(slot, self.durations.of_slot(slot, &self.vcpus));
        }
        self.vcpus.read(&self.vms, now);
        self.vcpus.add_places(&self.loaded.hotspots()?);
        let vms = self.vm_samples(&entries, &gone, owners);
        let slow = self.slow_samples(sent, &vms);
        let losses = self.losses()?;
        let detail = |vcpu: &Vcpu| {
            if let Some(durations) = detailed.remove(&vcpu.index) {
                let latency = Durations::known(durations, vcpu);
                Arc::new(VcpuSample { latency, ..(*vcpu.sample).clone() })
            } else {
                Arc::clone(&vcpu.sample)
            }
        };
        let vcpus = self.vcpus.all().map(detail).collect();
        self.reclaim(&vms, &entries, owners)?;
        self.loaded.sweep_seam(now)?;
        let (seam, poison) = (self.loaded.seam()?, self.loaded.poison()?);
        Ok(Counted { vms, vcpus, losses, slow, seam, poison })
    }

    /// The durations that were `sent`, with whose they are. Those of VMs that are not among `vms` yet wait;
    /// if the vCPU has gone by then they are lost.
    fn slow_samples(&mut self, sent: Vec<SlowEvent>, vms: &[VmSample]) -> Vec<SlowSample> {
        let mut events = std::mem::take(&mut self.early);
        events.extend(sent);
        if events.is_empty() {
            return Vec::new();
        }
        let of_slots: HashMap<(u32, u32), &Arc<VcpuSample>> = self.vcpus.by_life().collect();
        let listed: HashSet<VmKey> = vms.iter().map(|vm| vm.key).collect();
        let mut samples = Vec::with_capacity(events.len());
        for event in events {
            let Some(vcpu) = of_slots.get(&(event.slot, event.life)) else {
                self.ended.slow += 1;
                continue;
            };
            if !listed.contains(&vcpu.vm) {
                self.early.push(event);
                continue;
            }
            samples.push(SlowSample {
                at: Duration::from_nanos(event.at),
                vm: vcpu.vm,
                vcpu: vcpu.id,
                tid: event.tid,
                class: event.class,
                ns: event.parts,
            });
        }
        samples
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

    fn losses(&self) -> Result<Losses> {
        let mut losses = self.loaded.losses()?;
        losses.hotspots = self.ended.hotspots;
        losses.unpaired = self.ended.unpaired;
        losses.durations = self.ended.durations;
        losses.slow = self.loaded.slow_lost()? + self.ended.slow;
        self.vcpus.all().for_each(|vcpu| add_losses(&mut losses, vcpu));
        Ok(losses)
    }

    fn vm_samples(
        &mut self,
        entries: &[(u32, Box<VmEntry>)],
        gone: &HashSet<u32>,
        owners: &mut dyn Owners,
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
                [] => owners.is_gone(pid),
                own => own.iter().all(|vcpu| gone.contains(&vcpu.tgid)),
            };
            let replaced = latest.get(&entry.kvm).is_some_and(|latest| *latest > entry.seen_at);
            let Identity { name, vmm, container } = named(owners.identity(pid), &entry.comm);
            let key = VmKey { index: *index, life: self.reading.life(entry.life) };
            VmSample {
                key,
                pid,
                name,
                vmm,
                container,
                vm_type: (entry.vm_type != u32::MAX).then_some(entry.vm_type),
                ended: is_gone || replaced,
                demo: self.reading.synthetic,
                latency: self.durations.of_vm(key),
                ledger: self.ledgers.read(*index, own.iter().map(|vcpu| &vcpu.conversion)),
            }
        };
        entries.iter().map(sample).collect()
    }

    /// Gives back what belongs to VMs that this sample reported as ended.
    fn reclaim(
        &mut self,
        vms: &[VmSample],
        entries: &[(u32, Box<VmEntry>)],
        owners: &mut dyn Owners,
    ) -> Result<()> {
        let ended: HashMap<u32, &VmSample> =
            vms.iter().filter(|vm| vm.ended).map(|vm| (vm.key.index, vm)).collect();
        if ended.is_empty() {
            return Ok(());
        }
        let vcpus = self.vcpus.take(|vcpu| ended.contains_key(&vcpu.sample.vm.index));
        self.loaded.free_vcpus(&vcpus)?;
        vcpus.iter().for_each(|vcpu| add_losses(&mut self.ended, vcpu));
        for (index, entry) in entries.iter().filter(|(index, _)| ended.contains_key(index)) {
            let goes_on = |(other, its): &&(u32, Box<VmEntry>)| {
                its.tgid == entry.tgid && !ended.contains_key(other)
            };
            let alone = !entries.iter().any(|other| goes_on(&other));
            self.loaded.free_vm(*index, entry, alone)?;
            self.freed_vms.insert(*index, entry.life);
        }
        for vm in ended.values() {
            owners.forget(vm.pid);
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
