//! Conversions of a VM's memory: what was counted, and what the views show of it.
//!
//! All of it is from attaching on. What was shared before nobody tells, so a balance is a difference and
//! no state.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use tdtrace_common::{
    counters::Class,
    ledger::{Direction, LEDGER_COUNTS, LedgerCount},
    td::TdExit,
};

use super::{
    aggregate::rate,
    counts::sum,
    sample::{VcpuSample, VmSample},
    snapshot::{Tally, Vcpu, Vm},
};

/// A fault that the VMM was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryFault {
    /// Guest physical address without the shared bit.
    pub gpa: u64,
    /// It was on private memory.
    pub private: bool,
    /// When, ns since the source began.
    pub at: u64,
}

/// Conversions that began in one region of 2 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionSample {
    /// Where the region begins.
    pub gpa: u64,
    /// Conversions by [`Direction`].
    pub calls: [u64; 2],
    /// Their bytes.
    pub bytes: [u64; 2],
    /// How often one went the other way than the one before.
    pub turns: u64,
    /// Which way the last one went.
    pub last: Direction,
    /// When it was answered, ns since the source began.
    pub last_at: u64,
}

/// The conversions of a VM as they were counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerSample {
    /// Numbers by [`LedgerCount`].
    pub counts: [u64; LEDGER_COUNTS],
    /// Pages of 4 KiB in the VM's memory slots; 0 if it is not known.
    pub memory_pages: u64,
    /// The last fault that the VMM was told of.
    pub fault: Option<MemoryFault>,
    /// Regions, ascending.
    pub regions: Vec<RegionSample>,
}

impl LedgerSample {
    /// A number without a direction.
    #[must_use]
    pub const fn count(&self, count: LedgerCount) -> u64 {
        self.counts[count as usize]
    }

    /// A number with a direction.
    #[must_use]
    pub const fn of(&self, count: LedgerCount, direction: Direction) -> u64 {
        self.counts[count.of(direction)]
    }

    /// Times of a clock that stood at `began` when the source began, as times since then.
    pub fn begin_at(&mut self, began: Duration) {
        let began = u64::try_from(began.as_nanos()).unwrap_or(u64::MAX);
        for region in &mut self.regions {
            region.last_at = region.last_at.saturating_sub(began);
        }
        if let Some(fault) = &mut self.fault {
            fault.at = fault.at.saturating_sub(began);
        }
    }

    /// What it has more than `base`. Regions in which nothing happened since are left out.
    #[must_use]
    pub fn since(&self, base: &Self) -> Self {
        let less = |now: [u64; 2], then: [u64; 2]| {
            std::array::from_fn(|way| now[way].saturating_sub(then[way]))
        };
        let region = |region: &RegionSample| {
            let found = base.regions.binary_search_by_key(&region.gpa, |region| region.gpa);
            let Ok(before) = found.map(|index| &base.regions[index]) else { return Some(*region) };
            let bytes = less(region.bytes, before.bytes);
            (bytes != [0; 2]).then(|| RegionSample {
                calls: less(region.calls, before.calls),
                bytes,
                turns: region.turns.saturating_sub(before.turns),
                ..*region
            })
        };
        Self {
            counts: std::array::from_fn(|index| {
                self.counts[index].saturating_sub(base.counts[index])
            }),
            memory_pages: self.memory_pages,
            fault: if self.fault == base.fault { None } else { self.fault },
            regions: self.regions.iter().filter_map(region).collect(),
        }
    }
}

/// A region as a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    /// Number of its VM.
    pub vm: u32,
    /// Name of its VM.
    pub vm_name: Arc<str>,
    /// What was counted.
    pub sample: RegionSample,
    /// How long ago the last conversion was, in nanoseconds.
    pub ago: u64,
}

/// The conversions of a VM with rates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    /// What was counted.
    pub sample: LedgerSample,
    /// MapGPA by [`Direction`], as asked for: retries and failures too.
    pub calls: [Tally; 2],
    /// Bytes that KVM said were converted, by [`Direction`].
    pub bytes: [Tally; 2],
    /// Bytes mapped for faults on private memory.
    pub mapped: Tally,
    /// The same per second of the last interval, which an estimate rests on where rates are mean ones.
    pub pace: Option<f64>,
    /// Every vCPU was seen from its first KVM_RUN on.
    pub from_start: bool,
    /// Regions, the one with the most conversions first.
    pub regions: Vec<Region>,
    /// How long ago the VMM was told of the last memory fault, in nanoseconds.
    pub fault_ago: Option<u64>,
}

const KIB_4: u64 = 4 << 10;
const MIB_2: u64 = 2 << 20;

impl Ledger {
    /// The ledger of `vm`; `before` is its sample before, `now` the time of this one.
    #[must_use]
    pub fn new(
        vm: &VmSample,
        (id, vcpus): (u32, &[Vcpu]),
        before: &LedgerSample,
        (now, interval): (Duration, Option<Duration>),
    ) -> Self {
        let sample = vm.ledger.clone();
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let tally =
            |total: u64, old: u64| Tally { total, rate: rate(total.saturating_sub(old), interval) };
        let mut regions: Vec<Region> = sample
            .regions
            .iter()
            .map(|region| Region {
                vm: id,
                vm_name: Arc::clone(&vm.name),
                sample: *region,
                ago: now.saturating_sub(region.last_at),
            })
            .collect();
        regions.sort_by_key(|region| (Reverse(sum(region.sample.calls)), region.sample.gpa));
        let bytes = |ledger: &LedgerSample, way| ledger.of(LedgerCount::Bytes, way);
        let mapped = tally(mapped_bytes(&sample), mapped_bytes(before));
        Self {
            calls: Direction::ALL.map(|way| {
                let total = sum(vcpus.iter().map(|vcpu| asked(&vcpu.sample, way)));
                let old = vcpus.iter().filter_map(|vcpu| vcpu.before.as_deref());
                tally(total, sum(old.map(|vcpu| asked(vcpu, way))))
            }),
            bytes: Direction::ALL.map(|way| tally(bytes(&sample, way), bytes(before, way))),
            mapped,
            pace: mapped.rate,
            from_start: !vcpus.is_empty() && vcpus.iter().all(|vcpu| seen_from_start(&vcpu.sample)),
            regions,
            fault_ago: sample.fault.map(|fault| now.saturating_sub(fault.at)),
            sample,
        }
    }

    /// Nothing happens any more.
    pub fn rest(&mut self) {
        self.tallies().for_each(|tally| tally.rate = Some(0.0));
        self.pace = Some(0.0);
    }

    /// All that have a rate.
    pub(super) fn tallies(&mut self) -> impl Iterator<Item = &mut Tally> {
        self.calls.iter_mut().chain(&mut self.bytes).chain([&mut self.mapped])
    }

    /// A number of both directions together.
    #[must_use]
    pub fn both(&self, count: LedgerCount) -> u64 {
        sum(Direction::ALL.map(|way| self.sample.of(count, way)))
    }

    /// MapGPA per second, both directions.
    #[must_use]
    pub fn calls_per_s(&self) -> Option<f64> {
        Some(self.calls[0].rate? + self.calls[1].rate?)
    }

    /// Bytes that were made shared less those that were made private.
    #[must_use]
    pub fn net_shared(&self) -> i64 {
        let [shared, private] = self.bytes.map(|bytes| i128::from(bytes.total));
        let net = (shared - private).clamp(i64::MIN.into(), i64::MAX.into());
        i64::try_from(net).unwrap_or(0)
    }

    /// How often a region turned from one direction to the other.
    #[must_use]
    pub fn turns(&self) -> u64 {
        sum(self.regions.iter().map(|region| region.sample.turns))
    }

    /// Bytes in the VM's memory slots, if known.
    #[must_use]
    pub fn memory(&self) -> Option<u64> {
        let pages = self.sample.memory_pages;
        (pages > 0).then(|| pages.saturating_mul(KIB_4))
    }

    /// Seconds until as much is mapped as the VM has memory, at the pace of the last interval. `None` if the
    /// size or the beginning is not known, or nothing is being mapped.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn eta(&self) -> Option<f64> {
        let left = self.memory()?.checked_sub(self.mapped.total)?;
        let pace = self.pace.filter(|pace| *pace > 0.0 && self.from_start)?;
        Some(left as f64 / pace)
    }
}

/// Bytes mapped for faults on private memory.
pub(super) const fn mapped_bytes(ledger: &LedgerSample) -> u64 {
    let small = ledger.count(LedgerCount::Mapped4K).saturating_mul(KIB_4);
    small.saturating_add(ledger.count(LedgerCount::Mapped2M).saturating_mul(MIB_2))
}

/// Whether `vcpu` was seen from its first KVM_RUN on.
pub(super) fn seen_from_start(vcpu: &VcpuSample) -> bool {
    vcpu.kvm.is_some_and(|(first, _)| first.exits == 0)
}

/// MapGPA that `vcpu` asked for.
fn asked(vcpu: &VcpuSample, direction: Direction) -> u64 {
    let kind = match direction {
        Direction::ToShared => TdExit::MapShared,
        Direction::ToPrivate => TdExit::MapPrivate,
    };
    let index = kind.reason_index();
    vcpu.reasons.iter().find(|(reason, _)| *reason as usize == index).map_or(0, |(_, count)| *count)
}

/// Memory faults of `vm` that the VMM was told of, which `is` says of private memory and errno.
#[must_use]
pub fn memory_faults(vm: &Vm, is: impl Fn(bool, u32) -> bool) -> u64 {
    let faults = vm.hotspots.iter().filter(|spot| spot.class == Class::MemoryFault);
    sum(faults.filter(|spot| is(spot.address != 0, spot.size)).map(|spot| spot.tally.total))
}

/// Whether `vm` can have conversions, or has any.
#[must_use]
pub fn converts(vm: &Vm) -> bool {
    !matches!(vm.kind.as_str(), "plain" | "?") || vm.ledger.sample.counts.iter().any(|n| *n > 0)
}

#[cfg(test)]
mod tests;
