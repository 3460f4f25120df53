//! Rules about what must not happen at all.

use std::collections::BTreeSet;

use tdtrace_common::{counters::Class, td::TdExit, tdx};

use super::Counted;
use crate::model::{
    figure::times,
    finding::{Finding, Rule},
    snapshot::{Hotspot, Tally},
};

/// Statuses of TDH.VP.ENTER after which nothing runs any more.
const DEAD: [TdExit; 4] =
    [TdExit::DeadVcpu, TdExit::DeadTd, TdExit::Inaccessible, TdExit::WrongApicMode];

/// Leaves that are named; a guest may make up any number.
const NAMED: usize = 8;

pub(super) fn of(counted: &Counted<'_>) -> Vec<Finding> {
    let rules = [dead(counted), fatal(counted), refused(counted), unknown(counted)];
    rules.into_iter().flatten().collect()
}

fn dead(counted: &Counted<'_>) -> Option<Finding> {
    let seen = DEAD.map(|kind| (kind, counted.exits(&[kind]).total));
    let evidence: Vec<String> = seen
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| format!("{} {}.", kind.name(), times(count)))
        .collect();
    (!evidence.is_empty()).then(|| counted.finding(Rule::DeadTd, counted.exits(&DEAD), evidence))
}

fn fatal(counted: &Counted<'_>) -> Option<Finding> {
    let tally = counted.exits(&[TdExit::FatalError]);
    if tally.total == 0 {
        return None;
    }
    let mut evidence = vec![format!("{} {}.", TdExit::FatalError.name(), times(tally.total))];
    let became = |spot: &&Hotspot| {
        spot.class == Class::TdReturn && spot.size as usize == TdExit::FatalError.reason_index()
    };
    let became = counted.vm.hotspots.iter().filter(became).filter_map(|spot| spot.what.as_deref());
    evidence.extend(became.map(|what| format!("{what}.")));
    Some(counted.finding(Rule::FatalError, tally, evidence))
}

/// `tdx_emulate_mmio` (`arch/x86/kvm/vmx/tdx.c`) answers MMIO at a private address with
/// INVALID_OPERAND; sizes other than 1, 2, 4 and 8 too.
fn refused(counted: &Counted<'_>) -> Option<Finding> {
    const INVALID_OPERAND: u64 = 1 << 63;
    debug_assert_eq!(tdx::tdvmcall_status(INVALID_OPERAND), Some("INVALID_OPERAND"));
    let is_mmio = |kind: u32| kind == TdExit::MmioRead as u32 || kind == TdExit::MmioWrite as u32;
    let refused: Vec<&Hotspot> = counted
        .vm
        .hotspots
        .iter()
        .filter(|spot| spot.class == Class::TdAnswer && spot.address == INVALID_OPERAND)
        .filter(|spot| is_mmio(spot.size))
        .collect();
    let tally = together(&refused)?;
    let line = |spot: &&Hotspot| {
        let what = spot.what.as_deref().unwrap_or("MMIO: INVALID_OPERAND");
        format!("KVM answered {} {what}.", times(spot.tally.total))
    };
    let mut evidence: Vec<String> = refused.iter().map(line).collect();
    evidence.push("Which address it was is not told: the shared bit is not kept with it.".into());
    Some(counted.finding(Rule::PrivateMmio, tally, evidence))
}

fn unknown(counted: &Counted<'_>) -> Option<Finding> {
    let tally = counted.exits(&[TdExit::UnknownLeaf]);
    if tally.total == 0 {
        return None;
    }
    let places = counted.vm.hotspots.iter().filter(|spot| spot.class == Class::TdUnknownLeaf);
    let leaves: BTreeSet<u64> = places.map(|spot| spot.address).collect();
    let mut list: Vec<String> =
        leaves.iter().take(NAMED).map(|leaf| format!("{leaf:#x}")).collect();
    if leaves.len() > NAMED {
        list.push(format!("{} more", leaves.len() - NAMED));
    }
    let list = if list.is_empty() { "not known".to_owned() } else { list.join(", ") };
    let evidence = vec![format!("{} {}: {list}.", TdExit::UnknownLeaf.name(), times(tally.total))];
    Some(counted.finding(Rule::UnknownLeaf, tally, evidence))
}

/// The sum of places; `None` of none.
pub(super) fn together(places: &[&Hotspot]) -> Option<Tally> {
    let rate = |one: Option<f64>, other: Option<f64>| match (one, other) {
        (Some(one), Some(other)) => Some(one + other),
        (one, other) => one.or(other),
    };
    places.iter().map(|spot| spot.tally).reduce(|sum, add| Tally {
        total: sum.total.saturating_add(add.total),
        rate: rate(sum.rate, add.rate),
    })
}
