//! Findings: which rules the VMs of a host break, and the numbers that say so. Pure.
//!
//! Rules about what must not happen look at all that was counted, those about rates at the last
//! interval. What a VM's own counts do not show is no finding: events that were lost belong to no VM.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tdtrace_common::td::TdExit;

use super::{
    aggregate::rate,
    counts::add,
    exits,
    finding::{Finding, Rule},
    snapshot::{Tally, Vcpu, Vm, is_halt},
};

pub mod limits;
mod places;
mod storms;
mod trouble;

/// Sets the findings of each of `vms`, whose rates are over `interval`; `lost` is how many events no VM
/// could be told for.
pub(super) fn renew(vms: &mut [Vm], interval: Option<Duration>, lost: u64) {
    for vm in vms {
        vm.findings = of(vm, interval, lost);
    }
}

/// The findings of `vm`, the gravest first.
#[must_use]
pub fn of(vm: &Vm, interval: Option<Duration>, lost: u64) -> Vec<Finding> {
    let counted = Counted::new(vm, interval);
    let mut findings = trouble::of(&counted);
    findings.extend(storms::of(&counted));
    findings.extend(places::of(&counted));
    if lost > 0 {
        let text = format!("{lost} events of this host were lost, so there may be more.");
        findings.iter_mut().for_each(|finding| finding.evidence.push(text.clone()));
    }
    findings.sort_by_key(|finding| (finding.rule, finding.vcpu, finding.detail));
    findings
}

/// A VM with its exits by reason, all vCPUs together.
struct Counted<'a> {
    vm: &'a Vm,
    interval: Option<Duration>,
    /// Total and those of the last interval.
    reasons: BTreeMap<u32, (u64, u64)>,
}

impl<'a> Counted<'a> {
    fn new(vm: &'a Vm, interval: Option<Duration>) -> Self {
        let mut reasons: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        for (index, total, new) in vm.vcpus.iter().flat_map(exits::reasons_of) {
            let sum = reasons.entry(index).or_default();
            add(&mut sum.0, total);
            add(&mut sum.1, new);
        }
        Self { vm, interval, reasons }
    }

    /// All exits of these kinds together.
    fn exits(&self, kinds: &[TdExit]) -> Tally {
        let index = |kind: &TdExit| u32::try_from(kind.reason_index()).ok();
        let found = kinds.iter().filter_map(index).filter_map(|index| self.reasons.get(&index));
        self.tally(found.copied())
    }

    /// All halts.
    fn halts(&self) -> Tally {
        let halts = self.reasons.iter().filter(|(index, _)| is_halt(**index, self.vm.isa));
        self.tally(halts.map(|(_, counts)| *counts))
    }

    /// Halts of one vCPU.
    fn halts_of(&self, vcpu: &Vcpu) -> Tally {
        let halts = exits::reasons_of(vcpu).filter(|(index, ..)| is_halt(*index, self.vm.isa));
        self.tally(halts.map(|(_, total, new)| (total, new)))
    }

    /// Totals and those of the last interval, all together.
    fn tally(&self, counts: impl Iterator<Item = (u64, u64)>) -> Tally {
        let (mut total, mut new) = (0, 0);
        for count in counts {
            add(&mut total, count.0);
            add(&mut new, count.1);
        }
        Tally { total, rate: rate(new, self.interval) }
    }

    fn finding(&self, rule: Rule, tally: Tally, evidence: Vec<String>) -> Finding {
        Finding {
            rule,
            vm: self.vm.id,
            vm_name: Arc::clone(&self.vm.name),
            vcpu: None,
            what: None,
            detail: 0,
            tally,
            evidence,
        }
    }
}

/// `part` of `whole` in percent; `None` of nothing.
fn percent(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole * 100.0)
}

#[cfg(test)]
mod tests;
