//! A VM's timeline since it began: exits by group, memory and time, in at most [`ROWS`] intervals.
//!
//! Each interval has what the counters of a sample have more than those of the sample before, so that all
//! intervals together are what the VM's counters say. A sample belongs to the interval in which it was
//! taken; from when to when its numbers are, its interval says. What lies between two samples is not
//! divided.

mod group;

use std::{array, collections::HashMap, sync::Arc, time::Duration};

use tdtrace_common::{
    kvm,
    latency::PARTS,
    ledger::{Direction, LedgerCount},
};

pub use self::group::{GROUPS, Group};
use super::{
    counts::{add, sum},
    latency::Times,
    ledger::{mapped_bytes, seen_from_start},
    sample::{Isa, Sample, VcpuKey, VcpuSample, VmKey, VmSample},
    snapshot::Vm,
};

/// Intervals of a VM at most.
pub const ROWS: usize = 64;

/// How long an interval is at first, in nanoseconds.
const SHORTEST: u64 = 1_000_000_000;

/// How much later than the end of an interval its last sample may be, in nanoseconds: samples that are
/// taken every second come a little early or late.
const LATE: u64 = 100_000_000;

const MAPPED: usize = GROUPS;
const CONVERTED: usize = MAPPED + 1;
const GUEST: usize = CONVERTED + 2;
const NUMBERS: usize = GUEST + 1 + PARTS;

/// What there was of everything: exits, bytes, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts([u64; NUMBERS]);

impl Amounts {
    /// What `vcpu` says.
    fn of_vcpu(vcpu: &VcpuSample, isa: Isa, is_td: bool) -> Self {
        let mut numbers = [0; NUMBERS];
        numbers[..GROUPS].copy_from_slice(&group::exits(vcpu, isa, is_td));
        if let Some(times) = vcpu.times {
            numbers[GUEST] = times.guest;
            numbers[GUEST + 1..].copy_from_slice(&times.parts);
        }
        Self(numbers)
    }

    /// Adds what the ledger of `vm` says.
    fn add_ledger(&mut self, vm: &VmSample) {
        add(&mut self.0[MAPPED], mapped_bytes(&vm.ledger));
        for way in Direction::ALL {
            add(&mut self.0[CONVERTED + way as usize], vm.ledger.of(LedgerCount::Bytes, way));
        }
    }

    fn plus(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            add(sum, more);
        }
    }

    /// Exits of `group`.
    #[must_use]
    pub const fn of(&self, group: Group) -> u64 {
        self.0[group as usize]
    }

    /// All exits.
    #[must_use]
    pub fn exits(&self) -> u64 {
        sum(self.0[..GROUPS].iter().copied())
    }

    /// Bytes of private memory that were mapped for faults.
    #[must_use]
    pub const fn mapped(&self) -> u64 {
        self.0[MAPPED]
    }

    /// Bytes that KVM said were converted.
    #[must_use]
    pub const fn converted(&self, way: Direction) -> u64 {
        self.0[CONVERTED + way as usize]
    }

    /// Where the vCPUs' time went, all together; all of it 0 if the programs take no time.
    #[must_use]
    pub fn times(&self) -> Times {
        Times { guest: self.0[GUEST], parts: array::from_fn(|part| self.0[GUEST + 1 + part]) }
    }

    /// The group with the most exits; the first of several. `None` without any.
    #[must_use]
    pub fn leading(&self) -> Option<Group> {
        let most = Group::ALL.into_iter().rev().max_by_key(|group| self.of(*group))?;
        (self.of(most) > 0).then_some(most)
    }
}

/// What happened between two moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Nanoseconds since [`Timeline::began`] of the last sample before it; its numbers are from there on.
    pub from: u64,
    /// The same of its last sample; its numbers are up to there.
    pub to: u64,
    /// What there was.
    pub amounts: Amounts,
}

/// The intervals of a VM. Those in which no sample was taken are not there: the next one has what happened
/// in them, and begins earlier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// Nanoseconds from when the source began to the last sample in which the VM was not there yet.
    pub began: u64,
    /// Every vCPU was seen from its first KVM_RUN on. Otherwise the numbers are from attaching on.
    pub from_start: bool,
    /// It is a TD.
    pub is_td: bool,
    /// How long an interval is, in nanoseconds.
    pub length: u64,
    /// The intervals, the first one first; each begins where the one before ends.
    pub intervals: Vec<Interval>,
}

impl Timeline {
    fn new(began: u64) -> Self {
        let (from_start, is_td) = (false, false);
        Self { began, from_start, is_td, length: SHORTEST, intervals: Vec::new() }
    }

    /// Which interval a sample at `at` belongs to: one that ends an interval, or comes [`LATE`], is its
    /// last.
    const fn index(&self, at: u64) -> u64 {
        at.saturating_sub(LATE + 1) / self.length
    }

    /// Makes the interval of a sample at `at` the last one.
    fn advance(&mut self, at: u64) {
        // A recording's clock may say anything.
        let at = at.max(self.intervals.last().map_or(0, |last| last.to));
        while self.index(at) >= ROWS as u64 {
            self.double();
        }
        let index = self.index(at);
        let from = match self.intervals.last().map(|last| (last.to, self.index(last.to))) {
            Some((_, last)) if last == index => None,
            Some((to, _)) => Some(to),
            None => Some(0),
        };
        if let Some(from) = from {
            self.intervals.push(Interval { from, to: at, amounts: Amounts::default() });
        } else if let Some(last) = self.intervals.last_mut() {
            last.to = at;
        }
    }

    /// Makes intervals twice as long. Since a sample that ends an interval belongs to it, each is what it
    /// would be if it had been so long from the beginning.
    fn double(&mut self) {
        self.length = self.length.saturating_mul(2);
        let mut merged: Vec<Interval> = Vec::with_capacity(ROWS);
        for interval in &self.intervals {
            let index = self.index(interval.to);
            match merged.last_mut() {
                Some(last) if self.index(last.to) == index => {
                    last.to = interval.to;
                    last.amounts.plus(&interval.amounts);
                }
                _ => merged.push(*interval),
            }
        }
        self.intervals = merged;
    }

    /// Adds to the last interval what `now` has more than `before`. What it has less is taken back from
    /// the last ones that have it: a phase that lasts is counted up to the sample, and when it ends a part
    /// of it may have been something else.
    fn book(&mut self, before: &Amounts, now: &Amounts) {
        for (number, (now, before)) in now.0.into_iter().zip(before.0).enumerate() {
            if let Some(last) = self.intervals.last_mut() {
                add(&mut last.amounts.0[number], now.saturating_sub(before));
            }
            let mut back = before.saturating_sub(now);
            for interval in self.intervals.iter_mut().rev() {
                if back == 0 {
                    break;
                }
                let there = &mut interval.amounts.0[number];
                let taken = back.min(*there);
                *there -= taken;
                back -= taken;
            }
        }
    }

    /// All intervals together: what the counters of the VM say.
    #[must_use]
    pub fn total(&self) -> Amounts {
        let mut total = Amounts::default();
        self.intervals.iter().for_each(|interval| total.plus(&interval.amounts));
        total
    }

    /// Nanoseconds from the beginning to the first two intervals in a row in which the TD mapped no private
    /// memory, after it had mapped some, and more than half of its exits were HLT. The newest interval,
    /// which is not over, is not one of them. `None` of a VM that is no TD or was not seen from its first
    /// KVM_RUN on.
    #[must_use]
    pub fn settled(&self) -> Option<u64> {
        if !self.is_td || !self.from_start {
            return None;
        }
        let (_, over) = self.intervals.split_last()?;
        let begun = over.iter().position(|interval| interval.amounts.mapped() > 0)?;
        let is_calm = |interval: &Interval| {
            let amounts = &interval.amounts;
            amounts.mapped() == 0 && amounts.of(Group::Halt) > amounts.exits() / 2
        };
        let calm = over[begun..].windows(2).find(|pair| pair.iter().all(is_calm))?;
        Some(calm[0].from)
    }
}

/// The timeline of a VM while it grows.
struct Growing {
    timeline: Arc<Timeline>,
    /// What its counters said.
    seen: Amounts,
    /// What each vCPU said last; the source has it as well. One that is no longer in the samples stays: what
    /// it did was done.
    vcpus: HashMap<VcpuKey, Arc<VcpuSample>>,
    isa: Isa,
}

/// The timelines of all VMs.
#[derive(Default)]
pub(super) struct Timelines {
    vms: HashMap<VmKey, Growing>,
    /// When the last sample was taken; 0 before the first: then counting began.
    at: u64,
}

impl Timelines {
    /// None yet, of counters that begin anew after the last sample.
    pub(super) fn anew(&self) -> Self {
        Self { vms: HashMap::new(), at: self.at }
    }

    /// Takes in the counters of `sample` as the source delivers them: a reset takes nothing off them.
    pub(super) fn take(&mut self, sample: &Sample) {
        for vm in &sample.vms {
            let isa = vm.isa(sample.host.isa);
            let growing = self.vms.entry(vm.key).or_insert_with(|| Growing {
                timeline: Arc::new(Timeline::new(self.at)),
                seen: Amounts::default(),
                vcpus: HashMap::new(),
                isa,
            });
            let is_td = vm.vm_type == Some(kvm::TDX_VM);
            if growing.timeline.is_td != is_td {
                Arc::make_mut(&mut growing.timeline).is_td = is_td;
            }
        }
        for vcpu in &sample.vcpus {
            if let Some(vm) = self.vms.get_mut(&vcpu.vm) {
                vm.vcpus.insert(vcpu.key, Arc::clone(vcpu));
            }
        }
        let at = nanos(sample.at);
        for vm in &sample.vms {
            if let Some(growing) = self.vms.get_mut(&vm.key) {
                growing.grow(vm, at);
            }
        }
        self.at = at;
    }

    /// The timeline of `vm` if it has one: that of a TD, or of a VM that was seen from its first KVM_RUN
    /// on.
    pub(super) fn of(&self, vm: VmKey) -> Option<Arc<Timeline>> {
        let timeline = &self.vms.get(&vm)?.timeline;
        (timeline.is_td || timeline.from_start).then(|| Arc::clone(timeline))
    }

    /// `vm` is no more.
    pub(super) fn end(&mut self, vm: VmKey) {
        self.vms.remove(&vm);
    }
}

impl Growing {
    fn grow(&mut self, vm: &VmSample, at: u64) {
        let timeline = Arc::make_mut(&mut self.timeline);
        let mut now = Amounts::default();
        for vcpu in self.vcpus.values() {
            now.plus(&Amounts::of_vcpu(vcpu, self.isa, timeline.is_td));
        }
        now.add_ledger(vm);
        timeline.from_start =
            !self.vcpus.is_empty() && self.vcpus.values().all(|vcpu| seen_from_start(vcpu));
        timeline.advance(at.saturating_sub(timeline.began));
        timeline.book(&self.seen, &now);
        self.seen = now;
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// An interval as a row.
#[derive(Clone, Debug, PartialEq)]
pub struct BootRow {
    /// Number of its VM.
    pub vm: u32,
    /// Name of its VM.
    pub vm_name: Arc<str>,
    /// Which exit reasons this KVM has.
    pub isa: Isa,
    /// What happened.
    pub interval: Interval,
}

/// The intervals of `vm` as rows, the first one first; none if it has no timeline.
#[must_use]
pub fn rows(vm: &Vm) -> Vec<BootRow> {
    let intervals = vm.boot.as_deref().map_or(&[][..], |timeline| &timeline.intervals);
    let row = |interval: &Interval| BootRow {
        vm: vm.id,
        vm_name: Arc::clone(&vm.name),
        isa: vm.isa,
        interval: *interval,
    };
    intervals.iter().map(row).collect()
}

#[cfg(test)]
mod tests;
