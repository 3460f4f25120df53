//! Rules about exits that are too many, or wait too long.

use tdtrace_common::{counters::Class, latency::Part, td::TdExit};

use super::{
    Counted,
    limits::{
        ACCEPT_RATE, BUSY_RATE, BUSY_SHARE, CONVERSION_RATE, HALT_RATE, HALT_SHARE, VMM_SHARE,
        VMM_TIME,
    },
    percent,
};
use crate::model::{
    figure::{duration, times},
    finding::{Finding, Rule},
    limit::{Limit, per_second},
    snapshot::{Latency, Span, Vcpu},
};

pub(super) fn of(counted: &Counted<'_>) -> Vec<Finding> {
    let rules = [accept(counted), convert(counted), busy(counted), halts(counted)];
    rules.into_iter().flatten().chain(vmm_bound(counted)).collect()
}

/// What a rule about a rate says first: each of `kinds` that occurred, with how long it takes.
fn rates(counted: &Counted<'_>, kinds: &[TdExit]) -> Vec<String> {
    let line = |kind: &TdExit| {
        let rate = counted.exits(&[*kind]).rate.filter(|rate| *rate > 0.0)?;
        let took = durations(counted, *kind);
        Some(format!("{} a second are {}{took}.", per_second(rate), kind.name()))
    };
    kinds.iter().filter_map(line).collect()
}

/// How long exits of `kind` take, if that is known.
fn durations(counted: &Counted<'_>, kind: TdExit) -> String {
    let is_it =
        |row: &&Latency| row.span == Span::Exit && row.class as usize == kind.reason_index();
    let row = counted.vm.latency.iter().find(is_it);
    match row.and_then(|row| Some((row.percentile(0.5)?, row.percentile(0.99)?))) {
        Some((p50, p99)) => format!(", P50 {}, P99 {}", duration(p50), duration(p99)),
        None => String::new(),
    }
}

/// A finding if all exits of `kinds` reach `limit`.
fn storm(counted: &Counted<'_>, rule: Rule, kinds: &[TdExit], limit: Limit) -> Option<Finding> {
    let tally = counted.exits(kinds);
    if !tally.rate.is_some_and(|rate| limit.is_reached(rate)) {
        return None;
    }
    let mut evidence = rates(counted, kinds);
    evidence.push(limit.sentence());
    Some(counted.finding(rule, tally, evidence))
}

fn accept(counted: &Counted<'_>) -> Option<Finding> {
    let kinds = [TdExit::EptPending, TdExit::EptPrivate];
    let mut found = storm(counted, Rule::AcceptStorm, &kinds, ACCEPT_RATE)?;
    let levels = counted.vm.hotspots.iter().filter(|spot| spot.class == Class::SpteChanged);
    found.evidence.extend(levels.map(|spot| {
        let level = spot.what.as_deref().unwrap_or("an unknown level");
        format!("{} entries of {level} were changed.", spot.tally.total)
    }));
    Some(found)
}

fn convert(counted: &Counted<'_>) -> Option<Finding> {
    let kinds = [TdExit::MapShared, TdExit::MapPrivate];
    let mut found = storm(counted, Rule::ConversionStorm, &kinds, CONVERSION_RATE)?;
    let is_answer = |kind: u32| kinds.iter().any(|other| *other as u32 == kind);
    let answers = counted.vm.hotspots.iter();
    let answers = answers.filter(|spot| spot.class == Class::TdAnswer && is_answer(spot.size));
    found.evidence.extend(answers.filter_map(|spot| {
        Some(format!("KVM answered {} {}.", times(spot.tally.total), spot.what.as_deref()?))
    }));
    Some(found)
}

fn busy(counted: &Counted<'_>) -> Option<Finding> {
    let kinds = [TdExit::BusySept, TdExit::BusyEpoch, TdExit::Busy, TdExit::PreviousEpoch];
    let tally = counted.exits(&kinds);
    let rate = tally.rate.filter(|rate| BUSY_RATE.is_reached(*rate))?;
    let share =
        percent(rate, counted.vm.exits.rate?).filter(|share| BUSY_SHARE.is_reached(*share))?;
    let mut evidence = vec![format!("{share:.1} % of all exits are entries that were refused.")];
    evidence.extend(rates(counted, &kinds));
    evidence.push(BUSY_SHARE.sentence());
    Some(counted.finding(Rule::BusyStorm, tally, evidence))
}

/// The VM if its vCPUs halt that often on average, else the one that halts most, if it does.
#[expect(clippy::cast_precision_loss, reason = "there are far fewer vCPUs")]
fn halts(counted: &Counted<'_>) -> Option<Finding> {
    let vm = counted.vm;
    let count = vm.vcpus.len();
    let all = counted.halts();
    if let (Some(rate), Some(exits)) = (all.rate, vm.exits.rate)
        && HALT_RATE.is_reached(rate / count.max(1) as f64)
        && let Some(share) = percent(rate, exits).filter(|share| HALT_SHARE.is_reached(*share))
    {
        let (rate, plural) = (per_second(rate), if count == 1 { "" } else { "s" });
        let first = format!(
            "{share:.1} % of all exits are halts: {rate} a second on {count} vCPU{plural}."
        );
        let evidence = vec![first, HALT_RATE.sentence(), HALT_SHARE.sentence()];
        return Some(counted.finding(Rule::Halts, all, evidence));
    }
    let of_vcpu = |vcpu: &Vcpu| {
        let tally = counted.halts_of(vcpu);
        let rate = tally.rate.filter(|rate| HALT_RATE.is_reached(*rate))?;
        let share = percent(rate, vcpu.exits.rate?)?;
        HALT_SHARE.is_reached(share).then_some((vcpu.id, tally, rate, share))
    };
    let sleepy: Vec<_> = vm.vcpus.iter().filter_map(of_vcpu).collect();
    let most = sleepy.iter().max_by(|one, other| one.2.total_cmp(&other.2))?;
    let (vcpu, tally, rate, share) = *most;
    let rate = per_second(rate);
    let first = format!("{share:.1} % of the exits of vCPU {vcpu} are halts: {rate} a second.");
    let evidence = vec![
        first,
        format!("{} of {count} vCPUs halt that often.", sleepy.len()),
        HALT_RATE.sentence(),
        HALT_SHARE.sentence(),
    ];
    Some(Finding { vcpu: Some(vcpu), ..counted.finding(Rule::Halts, tally, evidence) })
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 53 bits")]
fn vmm_bound(counted: &Counted<'_>) -> Vec<Finding> {
    let Some(recent) = counted.vm.times.and_then(|split| split.recent) else { return Vec::new() };
    let whole = recent.total() as f64;
    let of_class = |row: &Latency| {
        let recent = row.recent_ns.filter(|_| row.span == Span::Exit && !row.halt)?;
        let vmm = recent[Part::Vmm as usize] as f64;
        let exits: u64 = recent.iter().fold(0, |sum, ns| sum.saturating_add(*ns));
        let share = percent(vmm, exits as f64).filter(|share| VMM_SHARE.is_reached(*share))?;
        // What an exit took is told when it is over, and may have begun before the interval.
        let time = percent(vmm.min(whole), whole).filter(|time| VMM_TIME.is_reached(*time))?;
        let first = format!(
            "The VMM has {share:.1} % of the time of {}, which is {time:.1} % of the vCPUs' time.",
            row.name
        );
        let mut evidence = vec![first];
        evidence.extend(row.percentile(0.99).map(|p99| format!("P99 is {}.", duration(p99))));
        evidence.extend([VMM_SHARE.sentence(), VMM_TIME.sentence()]);
        let (what, detail) = (Some(row.name.clone()), u64::from(row.class));
        let finding = counted.finding(Rule::VmmBound, row.tally, evidence);
        Some(Finding { what, detail, ..finding })
    };
    counted.vm.latency.iter().filter_map(of_class).collect()
}
