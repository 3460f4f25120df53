//! Rows of exit reasons, exits from L2, returns to the VMM and other events: how many, and how long
//! they took.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

use tdtrace_common::{
    counters::{Class, Place},
    latency::{LATENCY_RETURNS, PARTS},
};

use super::{
    aggregate::rate,
    counts::{add, sum},
    latency::Histogram,
    places,
    sample::{Isa, place_order},
    snapshot::{
        Hotspot, Latency, Snapshot, Span, Tally, Vcpu, Vm, class_of, is_halt, reason_name,
        userspace_name,
    },
};

/// What rows are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Every VM.
    #[default]
    All,
    /// The VM of this number.
    Vm(u32),
    /// One vCPU: number of the VM, number of the vCPU.
    Vcpu(u32, u32),
}

impl Scope {
    /// The number of the one VM.
    #[must_use]
    pub const fn vm(self) -> Option<u32> {
        match self {
            Self::All => None,
            Self::Vm(vm) | Self::Vcpu(vm, _) => Some(vm),
        }
    }

    /// VMs in it.
    pub fn vms(self, snapshot: &Snapshot) -> impl Iterator<Item = &Vm> {
        snapshot.vms.iter().filter(move |vm| self.vm().is_none_or(|id| id == vm.id))
    }

    /// vCPUs of `vm` in it.
    pub fn vcpus(self, vm: &Vm) -> impl Iterator<Item = &Vcpu> {
        let one = match self {
            Self::Vcpu(_, vcpu) => Some(vcpu),
            Self::All | Self::Vm(_) => None,
        };
        vm.vcpus.iter().filter(move |vcpu| one.is_none_or(|id| id == vcpu.id))
    }

    /// Durations of `vm` in it.
    #[must_use]
    pub fn latency(self, vm: &Vm) -> &[Latency] {
        match self {
            Self::All | Self::Vm(_) => &vm.latency,
            Self::Vcpu(..) => self.vcpus(vm).next().map_or(&[], |vcpu| &vcpu.latency),
        }
    }
}

/// What a row counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// VM exits of a reason.
    Exit,
    /// Exits from L2 of a reason.
    Nested,
    /// Returns of KVM_RUN to the VMM.
    Return,
    /// Events of another class.
    Event,
}

impl Kind {
    /// The name in tables, JSON and filters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Nested => "L2 exit",
            Self::Return => "return",
            Self::Event => "event",
        }
    }
}

/// One reason of one VM or vCPU.
#[derive(Clone, Debug, PartialEq)]
pub struct ExitRow {
    /// Number of the VM.
    pub vm: u32,
    /// Name of the VM.
    pub vm_name: Arc<str>,
    /// What it counts.
    pub kind: Kind,
    /// Number of the reason; [`u32::MAX`] for all together.
    pub index: u32,
    /// Exit reason, `KVM_EXIT_*` or class.
    pub reason: String,
    /// How many.
    pub tally: Tally,
    /// Part of the time of all rows of the VM of this kind, 0 to 1; `None` where it is not known, and for
    /// halts while they are left out.
    pub share: Option<f64>,
    /// The guest asked to be halted.
    pub halt: bool,
    /// It is a halt, and halts are left out of totals.
    pub left_out: bool,
    /// How long they took; `None` if it is not known.
    pub latency: Option<Latency>,
}

/// Every reason in `scope`, by VM, kind and count. Shares are without halts unless `halts`.
#[must_use]
pub fn rows(snapshot: &Snapshot, scope: Scope, halts: bool) -> Vec<ExitRow> {
    let rows = |vm| of_vm(vm, scope, halts, snapshot.interval);
    scope.vms(snapshot).flat_map(rows).collect()
}

/// Rows in `scope` whose durations are known, with one for all exits and one for all returns of a VM
/// together, without halts unless `halts`.
#[must_use]
pub fn durations(snapshot: &Snapshot, scope: Scope, halts: bool) -> Vec<ExitRow> {
    let mut all = Vec::new();
    for vm in scope.vms(snapshot) {
        for (span, kind) in [(Span::Exit, Kind::Exit), (Span::Return, Kind::Return)] {
            all.extend(together(vm, scope.latency(vm), (span, kind), halts));
        }
        let rows = of_vm(vm, scope, halts, snapshot.interval);
        all.extend(rows.into_iter().filter(|row| row.latency.is_some()));
    }
    all
}

fn of_vm(vm: &Vm, scope: Scope, halts: bool, interval: Option<Duration>) -> Vec<ExitRow> {
    let mut rows = counted(vm, scope, interval);
    for latency in scope.latency(vm) {
        let kind = match latency.span {
            Span::Exit => Kind::Exit,
            Span::Return => Kind::Return,
        };
        let index = latency.class - if kind == Kind::Return { LATENCY_RETURNS } else { 0 };
        let row = rows.iter_mut().find(|row| (row.kind, row.index) == (kind, index));
        match row {
            Some(row) => row.latency = Some(latency.clone()),
            // Durations without a count: the count's reader was faster.
            None => rows.push(ExitRow {
                vm: vm.id,
                vm_name: Arc::clone(&vm.name),
                kind,
                index,
                reason: latency.name.clone(),
                tally: latency.tally,
                share: None,
                halt: latency.halt,
                left_out: false,
                latency: Some(latency.clone()),
            }),
        }
    }
    for row in &mut rows {
        row.left_out = row.halt && !halts;
    }
    for kind in [Kind::Exit, Kind::Return] {
        share(&mut rows, kind);
    }
    rows.sort_by_key(|row| (row.kind, Reverse(row.tally.total), row.index));
    rows
}

/// How many of each, without durations.
fn counted(vm: &Vm, scope: Scope, interval: Option<Duration>) -> Vec<ExitRow> {
    let mut counts: BTreeMap<(Kind, u32), (u64, u64)> = BTreeMap::new();
    let mut count = |kind, index, total: u64, new: u64| {
        let entry = counts.entry((kind, index)).or_default();
        add(&mut entry.0, total);
        add(&mut entry.1, new);
    };
    for vcpu in scope.vcpus(vm) {
        let (now, before) = (&vcpu.sample, vcpu.before.as_deref());
        for (index, total, new) in reasons_of(vcpu) {
            count(Kind::Exit, index, total, new);
        }
        for (index, total, new) in news(&now.userspace, before.map(|old| &*old.userspace)) {
            count(Kind::Return, index, total, new);
        }
        for (place, total, new) in places_of(vcpu) {
            if class_of(&place) == Some(Class::NestedExit) {
                let reason = u32::try_from(place.address).unwrap_or(u32::MAX - 1);
                count(Kind::Nested, reason, total, new);
            }
        }
        for (class, total) in vcpu.counts.iter().filter(|(class, _)| is_event(*class)) {
            count(Kind::Event, class as u32, total, vcpu.recent[class]);
        }
    }
    let row = |((kind, index), (total, new))| ExitRow {
        vm: vm.id,
        vm_name: Arc::clone(&vm.name),
        kind,
        index,
        reason: name(kind, index, vm.isa),
        tally: Tally { total, rate: rate(new, interval) },
        share: None,
        halt: match kind {
            Kind::Exit => is_halt(index, vm.isa),
            Kind::Return => is_halt(LATENCY_RETURNS.saturating_add(index), vm.isa),
            Kind::Nested | Kind::Event => false,
        },
        left_out: false,
        latency: None,
    };
    counts.into_iter().map(row).collect()
}

/// Exits of `vcpu` by reason: index, total, and those of the last interval.
pub(super) fn reasons_of(vcpu: &Vcpu) -> impl Iterator<Item = (u32, u64, u64)> {
    news(&vcpu.sample.reasons, vcpu.before.as_deref().map(|old| &*old.reasons))
}

/// Index, total and what is new since `before`.
fn news<'a>(
    now: &'a [(u32, u64)],
    before: Option<&'a [(u32, u64)]>,
) -> impl Iterator<Item = (u32, u64, u64)> + 'a {
    now.iter().map(move |(index, total)| {
        let old = before.and_then(|old| old.iter().find(|(other, _)| other == index));
        (*index, *total, total.saturating_sub(old.map_or(0, |(_, count)| *count)))
    })
}

/// Places of one vCPU with the total and what is new.
fn places_of(vcpu: &Vcpu) -> impl Iterator<Item = (Place, u64, u64)> {
    let before = vcpu.before.as_deref().map_or(&[][..], |old| &old.hotspots);
    vcpu.sample.hotspots.iter().map(move |(place, total)| {
        let key = place_order(place);
        let old = before.binary_search_by_key(&key, |(place, _)| place_order(place));
        (*place, *total, total.saturating_sub(old.map_or(0, |index| before[index].1)))
    })
}

/// Classes that are neither exits nor returns, nor the beginning or end of anything.
const fn is_event(class: Class) -> bool {
    !matches!(
        class,
        Class::Entry
            | Class::Exit
            | Class::RunBegin
            | Class::RunEnd
            | Class::UserspaceExit
            | Class::NestedExit
    )
}

fn name(kind: Kind, index: u32, isa: Isa) -> String {
    match kind {
        Kind::Exit | Kind::Nested => reason_name(index, isa),
        Kind::Return => userspace_name(index),
        Kind::Event => {
            let class = Class::ALL.get(index as usize);
            class.map_or_else(|| index.to_string(), |class| class.name().to_owned())
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 53 bits")]
fn share(rows: &mut [ExitRow], kind: Kind) {
    let counts = |row: &ExitRow| row.kind == kind && !row.left_out;
    let time = |row: &ExitRow| row.latency.as_ref().map_or(0, Latency::total_ns);
    let total = sum(rows.iter().filter(|row| counts(row)).map(time));
    for row in rows.iter_mut().filter(|row| total > 0 && counts(row)) {
        row.share = row.latency.as_ref().map(|latency| latency.total_ns() as f64 / total as f64);
    }
}

/// All durations of one kind as one row; `None` if there are none, or only one class.
fn together(
    vm: &Vm,
    latency: &[Latency],
    (span, kind): (Span, Kind),
    halts: bool,
) -> Option<ExitRow> {
    let of = |row: &&Latency| row.span == span && (halts || !row.halt);
    let parts: Vec<&Latency> = latency.iter().filter(of).collect();
    let first = *parts.first()?;
    let mut all =
        Latency { histogram: Histogram::default(), ns: [0; PARTS], max: 0, ..first.clone() };
    all.tally = Tally { total: 0, rate: first.tally.rate.map(|_| 0.0) };
    all.halt = false;
    all.recent_ns = first.recent_ns.map(|_| [0; PARTS]);
    for part in &parts {
        all.histogram += &part.histogram;
        add(&mut all.tally.total, part.tally.total);
        all.tally.rate = all.tally.rate.map(|rate| rate + part.tally.rate.unwrap_or(0.0));
        if part.max > all.max {
            (all.max, all.max_is_bound) = (part.max, part.max_is_bound);
        }
        for (sum, ns) in all.ns.iter_mut().zip(part.ns) {
            *sum = sum.saturating_add(ns);
        }
        if let (Some(sums), Some(recent)) = (&mut all.recent_ns, part.recent_ns) {
            for (sum, ns) in sums.iter_mut().zip(recent) {
                *sum = sum.saturating_add(ns);
            }
        }
    }
    let left_out = latency.iter().any(|row| row.span == span && row.halt) && !halts;
    all.name = if left_out { "(all but halts)" } else { "(all)" }.to_owned();
    (parts.len() > 1 || left_out).then(|| ExitRow {
        vm: vm.id,
        vm_name: Arc::clone(&vm.name),
        kind,
        index: u32::MAX,
        reason: all.name.clone(),
        tally: all.tally,
        share: None,
        halt: false,
        left_out: false,
        latency: Some(all),
    })
}

/// Places of one vCPU, most events first. Who served them is known of whole VMs only.
#[must_use]
pub fn hotspots_of(vcpu: &Vcpu, interval: Option<Duration>) -> Vec<Hotspot> {
    let row = |(place, total, new): (Place, u64, u64)| {
        let class = class_of(&place)?;
        Some(Hotspot {
            vm: vcpu.vm,
            vm_name: Arc::clone(&vcpu.vm_name),
            class,
            address: place.address,
            size: place.size,
            what: places::what(class, place.address, place.size, vcpu.isa),
            served: None,
            tally: Tally { total, rate: rate(new, interval) },
        })
    };
    let mut rows: Vec<Hotspot> = places_of(vcpu).filter_map(row).collect();
    rows.sort_by_key(|row| Reverse(row.tally.total));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::{after, samples, snapshot, software};

    fn find<'a>(rows: &'a [ExitRow], vm: u32, kind: Kind, reason: &str) -> &'a ExitRow {
        let is = |row: &&ExitRow| (row.vm, row.kind) == (vm, kind) && row.reason == reason;
        rows.iter().find(is).unwrap()
    }

    #[test]
    fn shares_of_what_is_in_totals_add_up_to_the_whole() {
        let snapshot = snapshot();
        for halts in [false, true] {
            let rows = rows(&snapshot, Scope::Vm(1), halts);
            for kind in [Kind::Exit, Kind::Return] {
                let of = rows.iter().filter(|row| row.kind == kind);
                let sum: f64 = of.filter_map(|row| row.share).sum();
                assert!((sum - 1.0).abs() < 1e-9, "{sum}");
            }
            let halt = find(&rows, 1, Kind::Exit, "HLT");
            assert_eq!((halt.share.is_some(), halt.left_out), (halts, !halts));
        }
    }

    #[test]
    fn counts_and_rates_of_a_vm_are_those_of_its_vcpus_together() {
        let snapshot = snapshot();
        let vm = rows(&snapshot, Scope::Vm(1), false);
        let (one, two) =
            (rows(&snapshot, Scope::Vcpu(1, 0), false), rows(&snapshot, Scope::Vcpu(1, 1), false));
        for (kind, reason) in [(Kind::Exit, "HLT"), (Kind::Return, "IO"), (Kind::Event, "pio_out")]
        {
            let tally = |rows| find(rows, 1, kind, reason).tally;
            assert_eq!(tally(&vm).total, tally(&one).total + tally(&two).total);
            let rate = |rows| tally(rows).rate.unwrap();
            assert!((rate(&vm) - rate(&one) - rate(&two)).abs() < 1e-6);
        }
        assert_eq!(find(&vm, 1, Kind::Exit, "HLT").tally.total, snapshot.vms[0].reasons()["HLT"]);
        let nested = find(&two, 1, Kind::Nested, "EPT_VIOLATION");
        assert_eq!(nested.tally.total, 2 * 320 * 1500 / 50);
    }

    #[test]
    fn all_durations_together_are_without_halts_unless_they_are_asked_for() {
        let snapshot = snapshot();
        let count = |halts, name| {
            let rows = durations(&snapshot, Scope::Vm(2), halts);
            find(&rows, 2, Kind::Exit, name).latency.as_ref().unwrap().histogram.count()
        };
        let all = durations(&snapshot, Scope::Vm(2), true);
        let halt = find(&all, 2, Kind::Exit, "HLT").latency.as_ref().unwrap().histogram.count();
        assert_eq!(count(true, "(all)"), count(false, "(all but halts)") + halt);
        assert!(halt > 0);
    }

    #[test]
    fn a_kvm_without_exit_events_has_returns_and_events() {
        let rows = rows(&after(samples().into_iter().map(software)), Scope::Vm(2), false);
        assert!(rows.iter().all(|row| matches!(row.kind, Kind::Return | Kind::Event)));
        assert!(find(&rows, 2, Kind::Return, "MMIO").latency.is_some());
    }
}
