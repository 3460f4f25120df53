//! Rules about MSRs and ports that are accessed too often.

use tdtrace_common::counters::Class;

use super::{
    Counted,
    limits::{FW_CFG_RATE, IPI_RATE, MSR_RATE},
    trouble::together,
};
use crate::model::{
    counts::sum,
    finding::{Finding, Rule},
    limit::{Limit, per_second},
    snapshot::Hotspot,
};

/// The x2APIC's interrupt command register.
const ICR: u64 = 0x830;

/// Ports of QEMU's `fw_cfg`: selector, data, and the DMA address in two halves.
const FW_CFG: [u64; 4] = [0x510, 0x511, 0x514, 0x518];

pub(super) fn of(counted: &Counted<'_>) -> Vec<Finding> {
    let spots = &counted.vm.hotspots;
    let msrs = spots.iter().filter(|spot| matches!(spot.class, Class::MsrRead | Class::MsrWrite));
    let mut findings: Vec<Finding> = msrs.filter_map(|spot| msr(counted, spot)).collect();
    findings.extend(fw_cfg(counted));
    findings
}

fn msr(counted: &Counted<'_>, spot: &Hotspot) -> Option<Finding> {
    let is_ipi = spot.address == ICR && spot.class == Class::MsrWrite;
    let (rule, limit) =
        if is_ipi { (Rule::IpiStorm, IPI_RATE) } else { (Rule::MsrStorm, MSR_RATE) };
    let rate = spot.tally.rate.filter(|rate| limit.is_reached(*rate))?;
    let name = spot.what.as_deref().map_or_else(String::new, |what| format!(" {what}"));
    let what = format!("{} {:#x}{name}", spot.class.name(), spot.address);
    let evidence = evidence(
        counted,
        &[spot.class],
        format!("{} a second of {what}.", per_second(rate)),
        limit,
    );
    let detail = u64::from(spot.class as u32) << 32 | spot.address & 0xffff_ffff;
    let finding = counted.finding(rule, spot.tally, evidence);
    Some(Finding { what: Some(what), detail, ..finding })
}

fn fw_cfg(counted: &Counted<'_>) -> Option<Finding> {
    const CLASSES: [Class; 2] = [Class::PioIn, Class::PioOut];
    let is_it = |spot: &&Hotspot| CLASSES.contains(&spot.class) && FW_CFG.contains(&spot.address);
    let spots: Vec<&Hotspot> = counted.vm.hotspots.iter().filter(is_it).collect();
    let tally = together(&spots)?;
    let rate = tally.rate.filter(|rate| FW_CFG_RATE.is_reached(*rate))?;
    let mut first = format!("{} a second:", per_second(rate));
    for spot in spots {
        let (class, port, rate) =
            (spot.class.name(), spot.address, per_second(spot.tally.rate.unwrap_or(0.0)));
        first.push_str(&format!(" {class} {port:#x} {rate},"));
    }
    let first = format!("{}.", first.trim_end_matches(','));
    let evidence = evidence(counted, &CLASSES, first, FW_CFG_RATE);
    Some(counted.finding(Rule::FwCfgStorm, tally, evidence))
}

/// `first`, the limit, and how many accesses of `classes` have no place and may be more of them.
fn evidence(counted: &Counted<'_>, classes: &[Class], first: String, limit: Limit) -> Vec<String> {
    let mut evidence = vec![first, limit.sentence()];
    let other = counted.vm.other.iter().filter(|(class, _)| classes.contains(class));
    let other = sum(other.map(|(_, count)| *count));
    if other > 0 {
        evidence
            .push(format!("{other} accesses of this kind found no place and may be more of it."));
    }
    evidence
}
