//! Rules about single instructions.

use super::{
    Broken,
    limits::{STORM_LEAST, STORM_RATE, STORM_TIME},
};
use crate::{
    decode::insn::{MmioForm, Verdict as Decoded},
    model::{
        counts::sum,
        figure::duration,
        guest::{
            finding::Rule,
            findings::foreign,
            rows::{EFAULT, EINVAL, EIO},
            snapshot::{Object, Site},
        },
        limit::per_second,
    },
    verdict::Kind,
};

/// Exit reasons.
const CPUID: u32 = 10;
const HLT: u32 = 12;
const PORT: u32 = 30;
const RDMSR: u32 = 31;
const WRMSR: u32 = 32;
const EPT_VIOLATION: u32 = 48;

/// The gravest rule that `site` breaks, storms left aside: one at most, so that nothing counts twice.
pub(super) fn of(site: &Site) -> Option<Broken> {
    match (site.reason, site.user) {
        (EPT_VIOLATION, _) => memory(site),
        (PORT, _) => port(site),
        _ if site.failed == 0 => None,
        (CPUID, _) | (HLT | RDMSR | WRMSR, false) => Some(given_up(site, Vec::new())),
        _ => Some((Rule::UnexpectedReason, foreign(site), vec![failures(site), who(site)])),
    }
}

/// `site` as a storm, if `since` #VEs within `seconds` are one.
#[expect(clippy::cast_precision_loss, reason = "a rate is not exact")]
pub(super) fn storm(site: &Site, since: u64, seconds: f64) -> Option<Broken> {
    if !STORM_LEAST.is_reached(since as f64) {
        return None;
    }
    let rate = since as f64 / seconds;
    // A halt lasts as long as there is nothing to do.
    let mean = site.mean_ns.filter(|_| site.reason != HLT);
    let busy = mean.map(|mean| rate * mean as f64 / 1e6);
    let limit = if STORM_RATE.is_reached(rate) {
        STORM_RATE
    } else if busy.is_some_and(|ms| STORM_TIME.is_reached(ms)) {
        STORM_TIME
    } else {
        return None;
    };
    let mut evidence = vec![format!("{} #VEs a second over {seconds:.1} s.", per_second(rate))];
    if let (Some(mean), Some(ms)) = (mean, busy) {
        let mean = duration(mean);
        evidence.push(format!("Each takes {mean} on average: {ms:.0} ms of a CPU a second."));
    }
    evidence.push(limit.sentence());
    Some((Rule::VeStorm, since, evidence))
}

/// "7 of 9 #VEs failed …"
fn failures(site: &Site) -> String {
    let errno = site.error().map_or_else(String::new, |error| format!(", the last with {error}"));
    format!(
        "The kernel failed {} of {} #VEs of reason {}{errno}.",
        site.failed, site.count, site.name
    )
}

fn who(site: &Site) -> String {
    let mode = if site.user { "in user mode" } else { "in the kernel" };
    format!("It ran {mode}, first in {} ({}).", site.comm, site.pid)
}

fn verdict(site: &Site) -> impl Iterator<Item = String> {
    site.verdict.iter().flat_map(|verdict| verdict.evidence.iter().cloned())
}

/// The most frequent of the site's objects that are `wanted`, and how many #VEs all of those had.
fn objects(site: &Site, wanted: impl Fn(&Object) -> bool) -> Option<(Object, u64)> {
    let found = || site.objects.iter().filter(|(object, _)| wanted(object));
    let most = found().max_by_key(|(_, count)| *count)?;
    let all = sum(found().map(|(_, count)| *count));
    Some((most.0, all.min(foreign(site))))
}

fn memory(site: &Site) -> Option<Broken> {
    let is_private = |object: &Object| matches!(object, Object::Page { shared: Some(false), .. });
    if let Some((page, count)) = objects(site, is_private) {
        let page = page.text();
        let first =
            format!("{count} of {} #VEs were at private addresses, such as {page}.", site.count);
        let mut evidence = vec![first, who(site)];
        evidence.extend(device(site));
        return Some((Rule::PrivateGpa, count, evidence));
    }
    if let Some(device) = site.device.as_ref().filter(|device| device.ram) {
        let is_it =
            |object: &Object| matches!(object, Object::Page { gpa, .. } if *gpa == device.address);
        let ranges = device.ranges.join(", ");
        let first = format!("{} is shared and lies in {ranges}, not in a device.", device.address);
        let count = objects(site, is_it).map_or(foreign(site), |(_, count)| count);
        let evidence =
            vec![first, format!("{count} of {} #VEs were there.", site.count), who(site)];
        return Some((Rule::SharedRam, count, evidence));
    }
    if site.failed > 0 {
        return Some(failed_mmio(site));
    }
    let kind = site.verdict.as_ref().map(|verdict| verdict.kind);
    if !matches!(kind, Some(Kind::PointerDereference | Kind::MemcpyOnIomem)) {
        return None;
    }
    let mut evidence: Vec<String> = verdict(site).collect();
    evidence.push(match site.count {
        1 => "The kernel emulated it.".to_owned(),
        count => format!("The kernel emulated all {count} of them."),
    });
    evidence.extend(device(site));
    Some((Rule::NonIoMmio, foreign(site), evidence))
}

/// What was touched, if that is known.
fn device(site: &Site) -> Option<String> {
    site.device.as_ref().map(|device| format!("It touched {}: {}.", device.address, device.line()))
}

/// MMIO that the kernel did not emulate.
fn failed_mmio(site: &Site) -> Broken {
    if site.user {
        let mut evidence = vec![failures(site), who(site)];
        evidence.extend(device(site));
        return (Rule::UserMmio, foreign(site), evidence);
    }
    let decoded = site.judgement().map(|judgement| judgement.verdict);
    let is_undecodable = matches!(
        decoded,
        Some(Decoded::Failed | Decoded::Undecodable | Decoded::Mmio { form: MmioForm::Movs, .. })
    );
    // -EIO comes from the VMM, behind the decoder: then the bytes that were read are not those.
    if is_undecodable && site.errno != Some(EIO) {
        let mut evidence = vec![failures(site)];
        evidence.extend(site.verdict.iter().map(|verdict| sentence(&verdict.survives.reason)));
        evidence.extend(verdict(site));
        evidence.extend(device(site));
        return (Rule::UndecodableMmio, foreign(site), evidence);
    }
    let mut more: Vec<String> = Vec::new();
    match (site.errno, decoded) {
        (Some(EFAULT), Some(Decoded::Mmio { size, .. })) if !is_zeropad(site) => {
            let why = format!(
                "The instruction can be decoded and accesses {size} bytes; -EFAULT then says that they \
                 cross a page."
            );
            let mut evidence = vec![failures(site), why];
            evidence.extend(way_out(site));
            evidence.extend(verdict(site));
            evidence.extend(device(site));
            return (Rule::PageSplit, site.failed, evidence);
        }
        (Some(EFAULT), Some(_)) => more.push(
            "load_unaligned_zeropad() ran over into the next page, as it may, and recovers.".into(),
        ),
        (Some(EFAULT), None) => more.push(
            "Either the instruction could not be read, or the access crosses a page; its bytes are not \
             known."
                .into(),
        ),
        (Some(EINVAL), Some(_)) => more.push(
            "The instruction can be decoded; -EINVAL then says that the address is one of user space."
                .into(),
        ),
        (Some(EINVAL), None) => more.push(
            "Either the instruction cannot be emulated, or the address is one of user space; its bytes \
             are not known."
                .into(),
        ),
        (Some(EIO), _) => more.push("The VMM refused the access.".into()),
        _ => more.push("Why is not known: what handle_mmio() returned was not seen.".into()),
    }
    more.extend(verdict(site));
    more.extend(device(site));
    given_up(site, more)
}

fn port(site: &Site) -> Option<Broken> {
    if site.failed == 0 {
        return None;
    }
    let most = |wanted: fn(&Object) -> bool| objects(site, wanted);
    if site.user {
        let mut evidence = vec![failures(site), who(site)];
        evidence
            .extend(most(|_| true).map(|(object, _)| format!("It accessed {}.", object.text())));
        return Some((Rule::UserPortIo, foreign(site), evidence));
    }
    let string = most(|object| matches!(object, Object::Port { string: true, .. }));
    if let Some((object, count)) = string {
        let accessed = format!("{count} of {} #VEs were {}.", site.count, object.text());
        let mut evidence = vec![accessed, failures(site)];
        evidence.extend(verdict(site));
        return Some((Rule::StringIo, count, evidence));
    }
    Some(given_up(
        site,
        most(|_| true).map(|(o, _)| format!("It accessed {}.", o.text())).into_iter().collect(),
    ))
}

/// A #VE that the kernel could not handle: with or without a way out.
fn given_up(site: &Site, more: Vec<String>) -> Broken {
    let recovers = !site.user && (is_zeropad(site) || in_exception_table(site) == Some(true));
    let rule = if recovers { Rule::RecoveredVe } else { Rule::FailedVe };
    let mut evidence = vec![failures(site)];
    evidence.extend(more);
    evidence.extend(way_out(site));
    evidence.push(who(site));
    (rule, site.failed, evidence)
}

fn in_exception_table(site: &Site) -> Option<bool> {
    site.code.as_ref().and_then(|code| code.in_exception_table)
}

/// `include/asm/word-at-a-time.h`: reads beyond what it needs and recovers.
fn is_zeropad(site: &Site) -> bool {
    let chain = site.code.as_ref().and_then(|code| code.chain.as_ref());
    chain.is_some_and(|chain| chain.iter().any(|f| f.function == "load_unaligned_zeropad"))
}

/// Where the kernel goes on.
fn way_out(site: &Site) -> Option<String> {
    let text = match in_exception_table(site) {
        _ if site.user => return None,
        Some(true) => "The exception table has a way out for the instruction.",
        Some(false) => "The exception table has no way out for the instruction: an oops.",
        None => "Whether the exception table has a way out is not known.",
    };
    Some(text.to_owned())
}

/// `text` with a capital and a full stop.
fn sentence(text: &str) -> String {
    let mut rest = text.chars();
    let first = rest.next().map(|first| first.to_uppercase().collect::<String>());
    format!("{}{}.", first.unwrap_or_default(), rest.as_str())
}
