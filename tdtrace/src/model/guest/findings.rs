//! Findings: which rules a guest's snapshot breaks, and the numbers that say so. Pure.
//!
//! What the kernel did outranks what tdtrace expects of it: an instruction that the handler emulated is
//! no error, whatever the decoder here thinks. tdtrace's own #VEs do not count.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use tdtrace_common::guest::{GuestLoss, Operation};

use super::{
    finding::{Finding, Rule, Subject},
    snapshot::{GuestSnapshot, Site},
};

mod calls;
pub mod limits;
mod sites;

/// What the counts were at the snapshot before; rates are over what came since.
#[derive(Debug, Default)]
pub struct Earlier {
    sites: HashMap<SiteKey, u64>,
    calls: HashMap<CallKey, (u64, u64)>,
}

/// Reason, address, and whether it is a process's.
type SiteKey = (u32, Option<u64>, bool);
/// Operation and caller.
type CallKey = (Operation, Option<Arc<str>>);

impl Earlier {
    /// Those of `snapshot`.
    #[must_use]
    pub fn of(snapshot: &GuestSnapshot) -> Self {
        let sites = snapshot.sites.iter().map(|site| (key(site), foreign(site))).collect();
        let call = |call: &super::snapshot::Call| {
            ((call.operation, call.caller.clone()), (call.count, call.bytes))
        };
        Self { sites, calls: snapshot.calls.iter().map(call).collect() }
    }

    /// #VEs of `site` since then, without tdtrace's own.
    fn since(&self, site: &Site) -> u64 {
        foreign(site).saturating_sub(self.sites.get(&key(site)).copied().unwrap_or(0))
    }

    /// Calls and bytes of `call` since then.
    fn calls_since(&self, call: &super::snapshot::Call) -> (u64, u64) {
        let (count, bytes) =
            self.calls.get(&(call.operation, call.caller.clone())).copied().unwrap_or_default();
        (call.count.saturating_sub(count), call.bytes.saturating_sub(bytes))
    }
}

fn key(site: &Site) -> SiteKey {
    (site.reason, site.ip, site.user)
}

/// #VEs of `site` that there would be without tdtrace, too.
const fn foreign(site: &Site) -> u64 {
    site.count.saturating_sub(site.own)
}

/// What `snapshot` has to be looked at, the gravest first. Rates are over its interval, in which the
/// counts grew from `earlier`; where it has none, there is no finding that rests on a rate.
#[must_use]
pub fn evaluate(snapshot: &GuestSnapshot, earlier: &Earlier) -> Vec<Finding> {
    let seconds = snapshot.interval.map(|interval| interval.as_secs_f64()).filter(|s| *s > 0.0);
    let mut findings = Vec::new();
    let gaps = sites_gaps(snapshot);
    for (index, site) in snapshot.sites.iter().enumerate().filter(|(_, site)| foreign(site) > 0) {
        let storm = seconds.and_then(|seconds| sites::storm(site, earlier.since(site), seconds));
        for (rule, count, mut evidence) in sites::of(site).into_iter().chain(storm) {
            evidence.extend(gaps.clone());
            findings.push(Finding { rule, subject: Subject::Site { index }, count, evidence });
        }
    }
    let gaps = calls_gaps(snapshot);
    for mut finding in calls::of(&snapshot.calls, earlier, seconds) {
        finding.evidence.extend(gaps.clone());
        findings.push(finding);
    }
    let rank = |f: &Finding| (Reverse(f.rule.severity()), f.rule, Reverse(f.count));
    findings.sort_by_key(rank);
    findings
}

/// That there may be more #VEs than sites count.
fn sites_gaps(snapshot: &GuestSnapshot) -> Option<String> {
    let without = snapshot.losses.of(GuestLoss::Places);
    let missed = snapshot.missed;
    (without > 0 || missed > 0).then(|| {
        format!("{missed} #VEs were missed and {without} found no place, so there may be more.")
    })
}

/// That there may be more calls than are counted.
fn calls_gaps(snapshot: &GuestSnapshot) -> Option<String> {
    let lost = snapshot.losses.of(GuestLoss::Calls);
    let untimed = snapshot.losses.of(GuestLoss::UnpairedCalls);
    (lost > 0 || untimed > 0).then(|| {
        format!(
            "{lost} calls were not counted and {untimed} have no duration, so there may be more."
        )
    })
}

/// What a rule says about one subject: the rule, how often, why.
type Broken = (Rule, u64, Vec<String>);

#[cfg(test)]
mod tests;
