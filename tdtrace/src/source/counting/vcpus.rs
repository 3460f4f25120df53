//! The slots of vCPUs, read once a sample: those that moved anew, of the others only what may have
//! changed without an event, the time that goes by.

use std::{
    collections::HashMap,
    mem::{self, offset_of},
    sync::Arc,
    time::Duration,
};

use tdtrace_common::{
    counters::{COUNTS, Class, KvmObject, Place, VcpuSlot, VmEntry},
    latency::{Part, Phase, SLOT_ROWS, Timing},
    ledger::Conversion,
    td::ANSWERED,
};

use super::slots::MappedArray;
use crate::model::{
    counts::Counts,
    latency::Times,
    sample::{Isa, VcpuKey, VcpuSample, VmKey},
    snapshot::is_halt,
};

/// Hotspots of the map by slot and life.
pub(super) type Overflow = HashMap<(u32, u32), Vec<(Place, u64)>>;

/// A vCPU as it was read last.
pub(super) struct Vcpu {
    /// Index of its slot.
    pub(super) index: u32,
    /// How many vCPUs have had the slot.
    pub(super) life: u32,
    /// Which vCPU it is in the maps.
    pub(super) object: KvmObject,
    /// Process that runs it.
    pub(super) tgid: u32,
    /// What the source delivers of it.
    pub(super) sample: Arc<VcpuSample>,
    /// Places that found no room.
    pub(super) hotspots_lost: u64,
    /// What it asked to convert and what was mapped for it.
    pub(super) conversion: Conversion,
    /// Its times when it was read last.
    pub(super) timing: Timing,
    /// Entries of its rows of durations.
    pub(super) rows: [u32; SLOT_ROWS],
    /// It did something since the sample before.
    pub(super) moved: bool,
    synced: u64,
}

/// What does not change between samples.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    /// Which exits mean that the guest is halted.
    pub(crate) isa: Isa,
    /// The programs take the time.
    pub(crate) timed: bool,
    /// How many loads there were before this one: lives begin anew with each.
    pub(crate) loads_before: u32,
    /// The VMs are synthetic.
    pub(crate) synthetic: bool,
}

/// All vCPUs that have a slot.
pub(super) struct Vcpus {
    slots: MappedArray<VcpuSlot>,
    reading: Reading,
    /// By index of the slot.
    known: HashMap<u32, Vcpu>,
    /// Life of every slot that was given back: it is silent until its life moves on.
    freed: HashMap<u32, u32>,
}

/// How often a slot is read anew because its vCPU left KVM_RUN meanwhile.
const SLOT_READS: usize = 200;

impl Vcpus {
    pub(super) fn new(slots: MappedArray<VcpuSlot>, reading: Reading) -> Self {
        Self { slots, reading, known: HashMap::new(), freed: HashMap::new() }
    }

    /// Whether slot `index` is a vCPU's.
    fn is_used(&self, index: u32) -> bool {
        let life = self.slots.word(index, offset_of!(VcpuSlot, life)) as u32;
        life != 0 && self.freed.get(&index) != Some(&life)
    }

    /// Slots that are a vCPU's.
    fn used(&self) -> impl Iterator<Item = u32> {
        (0..self.slots.len()).filter(|index| self.is_used(*index))
    }

    /// The processes that run vCPUs.
    pub(super) fn tgids(&self) -> impl Iterator<Item = u32> {
        self.used().map(|index| self.slots.word(index, offset_of!(VcpuSlot, tgid)) as u32)
    }

    /// Reads what moved; [`Vcpus::add_places`] is to follow. `now` is `CLOCK_MONOTONIC`, up to which times
    /// are told.
    pub(super) fn read(&mut self, vms: &MappedArray<VmEntry>, now: Duration) {
        let used: Vec<u32> = self.used().collect();
        for index in used {
            let life = self.slots.word(index, offset_of!(VcpuSlot, life)) as u32;
            let before = self.known.remove(&index).filter(|known| known.life == life);
            let vcpu = match before {
                Some(before) if self.is_at_rest(&before) => self.rested(before, now),
                before => self.moved(index, before.as_ref(), vms, now),
            };
            self.known.insert(index, vcpu);
        }
    }

    /// Adds the places of the map to the vCPUs that moved. The map is read after the slots: a place is
    /// counted after its class, so no event is without a place that has one.
    pub(super) fn add_places(&mut self, overflow: &Overflow) {
        for vcpu in self.known.values_mut().filter(|vcpu| vcpu.moved) {
            let Some(places) = overflow.get(&(vcpu.index, vcpu.life)) else { continue };
            let mut sample = (*vcpu.sample).clone();
            sample.hotspots.extend(places);
            vcpu.sample = Arc::new(sample.sorted());
        }
    }

    /// VMs of which a vCPU moved since it was read last, or which is new, with the slots of all their
    /// vCPUs.
    pub(super) fn moved_vms(&self, vms: &MappedArray<VmEntry>) -> HashMap<VmKey, Vec<u32>> {
        let mut found: HashMap<VmKey, (bool, Vec<u32>)> = HashMap::new();
        for index in self.used() {
            let life = self.slots.word(index, offset_of!(VcpuSlot, life)) as u32;
            let known = self.known.get(&index).filter(|known| known.life == life);
            let vm = self.slots.word(index, offset_of!(VcpuSlot, vm)) as u32;
            let (moved, slots) = found.entry(self.vm_key(vm, vms)).or_default();
            *moved |= known.is_none_or(|known| !self.is_at_rest(known));
            slots.push(index);
        }
        let moved = found.into_iter().filter(|(_, (moved, _))| *moved);
        moved.map(|(key, (_, slots))| (key, slots)).collect()
    }

    /// The slots of the vCPUs of VM `key`.
    pub(super) fn slots_of(&self, key: VmKey, vms: &MappedArray<VmEntry>) -> Vec<u32> {
        let is_its = |index: &u32| {
            let vm = self.slots.word(*index, offset_of!(VcpuSlot, vm)) as u32;
            self.vm_key(vm, vms) == key
        };
        self.used().filter(is_its).collect()
    }

    /// The VM that has entry `index` now.
    fn vm_key(&self, index: u32, vms: &MappedArray<VmEntry>) -> VmKey {
        let is_there = index < vms.len();
        let life = if is_there { vms.word(index, offset_of!(VmEntry, life)) as u32 } else { 0 };
        VmKey { index, life: self.reading.life(life) }
    }

    /// Entries of the rows of durations of slot `index`.
    pub(super) fn rows(&self, index: u32) -> [u32; SLOT_ROWS] {
        let base = offset_of!(VcpuSlot, rows);
        std::array::from_fn(|row| self.slots.word(index, base + 4 * row) as u32)
    }

    /// Whether nothing was counted since it was read. A vCPU that moved then is read once more: of its
    /// last event the place may have been written after the count was read.
    fn is_at_rest(&self, known: &Vcpu) -> bool {
        if known.moved || known.synced != self.slots.word(known.index, SYNCED) {
            return false;
        }
        let counted = |class: &Class| {
            let offset = offset_of!(VcpuSlot, counts) + 8 * *class as usize;
            self.slots.word(known.index, offset) == known.sample.counts[*class]
        };
        Class::ALL.iter().all(counted)
    }

    /// The same vCPU a moment later.
    fn rested(&self, mut vcpu: Vcpu, now: Duration) -> Vcpu {
        vcpu.moved = false;
        let times = self.reading.times(&vcpu.timing, now);
        if times != vcpu.sample.times {
            vcpu.sample = Arc::new(VcpuSample { times, ..(*vcpu.sample).clone() });
        }
        vcpu
    }

    fn moved(
        &self,
        index: u32,
        before: Option<&Vcpu>,
        vms: &MappedArray<VmEntry>,
        now: Duration,
    ) -> Vcpu {
        let slot = self.slot(index);
        let (timing, times) = self.timing(index).map_or_else(
            // Which phase lasts is not known then: told by the one before, times would go back later.
            || match before {
                Some(old) => (old.timing, old.sample.times),
                None => (Timing::default(), self.reading.times(&Timing::default(), now)),
            },
            |timing| (timing, self.reading.times(&timing, now)),
        );
        let hotspots: Vec<(Place, u64)> = slot
            .hotspots
            .iter()
            .filter(|hotspot| hotspot.count > 0)
            .map(|hotspot| (hotspot.place, hotspot.count))
            .chain(answered(&slot))
            .collect();
        let sample = VcpuSample {
            key: VcpuKey { index, life: self.reading.life(slot.life) },
            vm: self.vm_key(slot.vm, vms),
            id: slot.vcpu_id,
            tid: slot.tid,
            counts: Counts::new(slot.counts),
            reasons: nonzero(&slot.reasons[..ANSWERED]),
            userspace: nonzero(&slot.userspace),
            hotspots,
            kvm: (slot.synced != 0).then_some((slot.first, slot.last)),
            times,
            latency: Arc::default(),
        };
        Vcpu {
            index,
            life: slot.life,
            object: slot.object,
            tgid: slot.tgid,
            sample: Arc::new(sample.sorted()),
            hotspots_lost: slot.hotspots_lost,
            conversion: slot.conversion,
            timing,
            rows: slot.rows,
            moved: true,
            synced: slot.synced,
        }
    }

    /// Slot `index` as it was between two ends of a KVM_RUN, or, if the vCPU leaves KVM_RUN faster than
    /// it can be read, as it is.
    fn slot(&self, index: u32) -> Box<VcpuSlot> {
        let mut slot = self.slots.read(index);
        for _ in 0..SLOT_READS {
            let synced = self.slots.word(index, SYNCED);
            if slot.synced == synced && synced.is_multiple_of(2) {
                break;
            }
            slot = self.slots.read(index);
        }
        slot
    }

    /// The times of slot `index` as they belong together; `None` if they are never left alone. On a kernel
    /// that preempts programs the thread may be waiting for its CPU halfway through writing them.
    fn timing(&self, index: u32) -> Option<Timing> {
        const WORDS: usize = size_of::<Timing>() / 8;
        let base = offset_of!(VcpuSlot, timing);
        for _ in 0..SLOT_READS {
            let mut words = [0_u64; WORDS];
            for (word, value) in words.iter_mut().enumerate() {
                *value = self.slots.word(index, base + 8 * word);
            }
            // SAFETY: `Timing` is made of integers without padding, and as long as the words.
            let timing: Timing = unsafe { mem::transmute(words) };
            let turns = self.slots.word(index, base + offset_of!(Timing, turns));
            if timing.turns == turns && turns.is_multiple_of(2) {
                return Some(timing);
            }
        }
        None
    }

    /// What was read last of each vCPU, by slot and life of the slot.
    pub(super) fn by_life(&self) -> impl Iterator<Item = ((u32, u32), &Arc<VcpuSample>)> {
        self.known.values().map(|vcpu| ((vcpu.index, vcpu.life), &vcpu.sample))
    }

    /// All vCPUs, as read last.
    pub(super) fn all(&self) -> impl Iterator<Item = &Vcpu> {
        self.known.values()
    }

    /// Takes the vCPUs out for which `over` holds; their slots are silent from now on. The slots forget
    /// their addresses: a CPU may remember one of them when another vCPU has the address.
    pub(super) fn take(&mut self, over: impl Fn(&Vcpu) -> bool) -> Vec<Vcpu> {
        let taken: Vec<Vcpu> =
            self.known.extract_if(|_, vcpu| over(vcpu)).map(|(_, v)| v).collect();
        for vcpu in &taken {
            self.freed.insert(vcpu.index, vcpu.life);
            let base = vcpu.index as usize * size_of::<VcpuSlot>();
            self.slots.store((base + offset_of!(VcpuSlot, vcpu)) / 8, 0);
        }
        taken
    }
}

/// Lives that a slot has in one load; more than it can have.
const LIVES: u32 = 1 << 22;

const SYNCED: usize = offset_of!(VcpuSlot, synced);

impl Reading {
    /// The life of a slot or entry, told apart from those of the loads before.
    pub(super) fn life(self, life: u32) -> u32 {
        self.loads_before.wrapping_mul(LIVES).wrapping_add(life)
    }

    /// The times up to `now`: those of the phases that have ended, and of the one that lasts.
    fn times(self, timing: &Timing, now: Duration) -> Option<Times> {
        if !self.timed {
            return None;
        }
        let mut times = Times { guest: timing.guest, parts: timing.ns };
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let open = now.saturating_sub(timing.since);
        match timing.phase {
            phase if phase == Phase::Guest as u16 => times.guest += open,
            phase if phase == Phase::Kernel as u16 => {
                let halted = timing.exit != 0 && is_halt(u32::from(timing.exit) - 1, self.isa);
                times.parts[if halted { Part::Halted } else { Part::Kernel } as usize] += open;
            }
            phase if phase == Phase::Vmm as u16 => times.parts[Part::Vmm as usize] += open,
            _ => {}
        }
        if self.isa == Isa::Software {
            // All that is known of it comes at its end, long after it was told as the kernel's.
            times.parts[Part::Kernel as usize] +=
                mem::take(&mut times.parts[Part::Halted as usize]);
        }
        Some(times)
    }
}

/// The TDVMCALLs that were answered with SUCCESS as the places that other answers have.
fn answered(slot: &VcpuSlot) -> impl Iterator<Item = (Place, u64)> {
    nonzero(&slot.reasons[ANSWERED..]).into_iter().map(|(kind, count)| {
        (Place { address: 0, class: Class::TdAnswer as u32 + 1, size: kind }, count)
    })
}

fn nonzero(counts: &[u64]) -> Vec<(u32, u64)> {
    (0..).zip(counts.iter().copied()).filter(|(_, count)| *count > 0).collect()
}

const _: () = assert!(Class::ALL.len() <= COUNTS);

#[cfg(test)]
mod tests {
    use tdtrace_common::vmx;

    use super::*;

    const READING: Reading =
        Reading { isa: Isa::Vmx, timed: true, loads_before: 0, synthetic: false };

    fn at(phase: Phase, exit: u16) -> Timing {
        let since = 1_000;
        Timing { phase: phase as u16, exit, since, guest: 7, ns: [1, 2, 3, 4], ..Timing::default() }
    }

    fn times(reading: Reading, timing: &Timing) -> (u64, [u64; 4]) {
        let times = reading.times(timing, Duration::from_nanos(1_500)).unwrap();
        (times.guest, times.parts)
    }

    #[test]
    fn the_phase_that_lasts_counts_up_to_now() {
        assert_eq!(times(READING, &at(Phase::Guest, 0)), (507, [1, 2, 3, 4]));
        assert_eq!(times(READING, &at(Phase::Kernel, 31)), (7, [501, 2, 3, 4]));
        assert_eq!(times(READING, &at(Phase::Vmm, 31)), (7, [1, 502, 3, 4]));
        assert_eq!(times(READING, &at(Phase::Unknown, 0)), (7, [1, 2, 3, 4]));
    }

    #[test]
    fn a_vcpu_that_sleeps_in_hlt_is_halted_and_not_in_the_kernel() {
        assert_eq!(times(READING, &at(Phase::Kernel, vmx::HLT as u16 + 1)), (7, [1, 2, 503, 4]));
    }

    #[test]
    fn without_entries_and_exits_all_of_kvm_run_is_one() {
        let software = Reading { isa: Isa::Software, ..READING };
        assert_eq!(times(software, &at(Phase::Kernel, 0)), (7, [504, 2, 0, 4]));
    }

    #[test]
    fn programs_that_take_no_time_tell_none() {
        let untimed = Reading { timed: false, ..READING };
        assert_eq!(untimed.times(&at(Phase::Guest, 0), Duration::from_secs(1)), None);
    }
}
