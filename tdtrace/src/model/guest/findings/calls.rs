//! Rules about conversions, quotes and bounce buffers.

use std::collections::BTreeMap;

use tdtrace_common::guest::Operation;

use super::{
    Earlier,
    limits::{
        MAP_GPA_TIME, PING_PONG_LEAST, PING_PONG_RATE, QUOTE_TIME, SWIOTLB_BYTES, SWIOTLB_COUNT,
    },
};
use crate::model::{
    counts::sum,
    figure::duration,
    guest::{
        finding::{Finding, Rule, Subject},
        snapshot::Call,
    },
    limit::per_second,
};

/// A conversion and the calls that it is made of, the outermost first. What fails within fails it.
const CONVERSION: [Operation; 7] = [
    Operation::ToShared,
    Operation::ToPrivate,
    Operation::Prepare,
    Operation::Finish,
    Operation::MapShared,
    Operation::MapPrivate,
    Operation::AcceptTdx,
];

/// Likewise a quote.
const QUOTE: [Operation; 2] = [Operation::Report, Operation::GetQuote];

/// Functions that convert memory when it is allocated, and those that convert it back (`kernel/dma`).
const PAIRS: [(&str, &str); 3] = [
    ("dma_direct_alloc", "dma_direct_free"),
    ("dma_direct_alloc_pages", "dma_direct_free_pages"),
    ("dma_set_decrypted", "dma_set_encrypted"),
];

/// Interrupted by a signal.
const EINTR: i32 = -4;

/// Bytes that KVM converts at a time (`TDX_MAP_GPA_MAX_LEN`, `arch/x86/kvm/vmx/tdx.c`).
const PIECE: u64 = 2 << 20;

/// A call and its index.
type Numbered<'a> = (usize, &'a Call);

/// The rules that `calls` break. Without `seconds` those that rest on rates are left aside.
pub(super) fn of(calls: &[Call], earlier: &Earlier, seconds: Option<f64>) -> Vec<Finding> {
    let mut by_caller: BTreeMap<Option<&str>, Vec<Numbered<'_>>> = BTreeMap::new();
    for (index, call) in calls.iter().enumerate() {
        by_caller.entry(call.caller.as_deref()).or_default().push((index, call));
    }
    let mut findings = Vec::new();
    for theirs in by_caller.values() {
        let quotes = outermost(theirs, &QUOTE);
        let quotes = quotes.filter(|(_, call)| !was_interrupted(call));
        findings.extend(
            outermost(theirs, &CONVERSION).map(|c| failed(Rule::ConversionFailed, c, theirs)),
        );
        findings.extend(quotes.map(|call| failed(Rule::QuoteFailed, call, theirs)));
    }
    for numbered in calls.iter().enumerate() {
        findings.extend(slow_quote(numbered));
        findings.extend(slow_conversion(numbered));
        let back = seconds.and_then(|seconds| to_and_fro(numbered, calls, earlier, seconds));
        findings.extend(back);
    }
    findings.extend(seconds.and_then(|seconds| bounces(calls, earlier, seconds)));
    findings
}

/// The outermost of `operations` that failed.
fn outermost<'a>(calls: &[Numbered<'a>], operations: &[Operation]) -> Option<Numbered<'a>> {
    let failed = |operation: &Operation| {
        let is_it = |(_, call): &&Numbered<'a>| call.operation == *operation && call.failed > 0;
        calls.iter().find(is_it).copied()
    };
    operations.iter().find_map(failed)
}

fn finding(rule: Rule, index: usize, count: u64, evidence: Vec<String>) -> Finding {
    Finding { rule, subject: Subject::Call { index }, count, evidence }
}

/// The caller's calls that failed: the outermost, and those that it is made of.
fn failed(rule: Rule, (index, call): Numbered<'_>, theirs: &[Numbered<'_>]) -> Finding {
    let line = |call: &Call| {
        let (name, last) = (call.operation.name(), result(call));
        format!("{name}: {} of {} failed, the last with {last}.", call.failed, call.count)
    };
    let list = if rule == Rule::QuoteFailed { &QUOTE[..] } else { &CONVERSION[..] };
    let others = theirs.iter().filter(|(other, call)| {
        *other != index && call.failed > 0 && list.contains(&call.operation)
    });
    let mut evidence = vec![line(call)];
    evidence.extend(others.map(|(_, call)| line(call)));
    finding(rule, index, call.failed, evidence)
}

/// What the last one that failed returned, by the type of its function (see
/// [`tdtrace_common::guest::Returns`]).
#[expect(clippy::cast_possible_wrap, reason = "an int of C")]
fn result(call: &Call) -> String {
    match call.operation {
        Operation::MapShared | Operation::MapPrivate | Operation::AcceptTdx => "false".to_owned(),
        Operation::GetQuote => format!("status {:#x}", call.last_failure),
        _ => match call.last_failure as u32 as i32 {
            -110 => "-ETIMEDOUT".to_owned(),
            -16 => "-EBUSY: the VMM still has the request before".to_owned(),
            -5 => "-EIO".to_owned(),
            other => other.to_string(),
        },
    }
}

/// Whether a signal ended the last request for a quote that failed. That says nothing about quotes.
#[expect(clippy::cast_possible_wrap, reason = "an int of C")]
const fn was_interrupted(call: &Call) -> bool {
    matches!(call.operation, Operation::Report) && call.last_failure as u32 as i32 == EINTR
}

#[expect(clippy::cast_precision_loss, reason = "compared with whole seconds")]
fn slow_quote((index, call): Numbered<'_>) -> Option<Finding> {
    let longest = call.max_ns.filter(|_| call.operation == Operation::Report)?;
    if !QUOTE_TIME.is_reached(longest as f64 / 1e9) {
        return None;
    }
    let (count, took) = (call.count, duration(longest));
    let first = match call.mean_ns {
        // Since a reset, the longest may be no more than known not to be shorter.
        Some(mean) if longest <= mean => format!("{count} took {took} on average."),
        Some(mean) => {
            format!("The longest of {count} took {took}, the mean is {}.", duration(mean))
        }
        None => format!("The longest of {count} took {took}, the mean is not known."),
    };
    // How many of them were slow is not counted: one is certain.
    Some(finding(Rule::SlowQuote, index, 1, vec![first, QUOTE_TIME.sentence()]))
}

#[expect(clippy::cast_precision_loss, reason = "a mean is not exact")]
fn slow_conversion((index, call): Numbered<'_>) -> Option<Finding> {
    let is_map = matches!(call.operation, Operation::MapShared | Operation::MapPrivate);
    let mean = call.mean_ns.filter(|_| is_map)?;
    let pieces = call.bytes.checked_div(call.count)?.div_ceil(PIECE).max(1);
    let each = mean as f64 / pieces as f64;
    if !MAP_GPA_TIME.is_reached(each / 1e6) {
        return None;
    }
    let mut first =
        format!("{} of {} bytes took {} each on average", call.count, call.bytes, duration(mean));
    if pieces > 1 {
        first.push_str(&format!(", {:.1} ms for 2 MiB", each / 1e6));
    }
    let mut evidence = vec![first + "."];
    let longest = call.max_ns.filter(|longest| *longest > mean);
    evidence.extend(longest.map(|longest| format!("The longest took {}.", duration(longest))));
    evidence.push(MAP_GPA_TIME.sentence());
    Some(finding(Rule::SlowConversion, index, call.count, evidence))
}

/// Whether `back` converts back what `forth` has converted: the same function, or its counterpart.
fn is_counterpart(forth: &str, back: &str) -> bool {
    // A module's name stands behind the function's.
    let function = |caller: &str| caller.split(' ').next().unwrap_or_default().to_owned();
    let (from, to) = (function(forth), function(back));
    forth == back || PAIRS.iter().any(|pair| (pair.0, pair.1) == (&*from, &*to))
}

#[expect(clippy::cast_precision_loss, reason = "a rate is not exact")]
fn to_and_fro(
    (index, call): Numbered<'_>,
    calls: &[Call],
    earlier: &Earlier,
    seconds: f64,
) -> Option<Finding> {
    let caller = call.caller.as_deref().filter(|_| call.operation == Operation::ToShared)?;
    let back = calls.iter().find(|back| {
        let is_back = |other: &str| is_counterpart(caller, other);
        back.operation == Operation::ToPrivate && back.caller.as_deref().is_some_and(is_back)
    })?;
    let ((shared, to_shared), (private, to_private)) =
        (earlier.calls_since(call), earlier.calls_since(back));
    let pairs = shared.min(private);
    let rate = pairs as f64 / seconds;
    if !PING_PONG_LEAST.is_reached(pairs as f64) || !PING_PONG_RATE.is_reached(rate) {
        return None;
    }
    let by = back.caller.as_deref().unwrap_or_default();
    let first = format!(
        "{shared} conversions to shared ({to_shared} bytes) by {caller} and {private} back \
         ({to_private} bytes) by {by} in {seconds:.1} s: {rate:.1} pairs a second."
    );
    let evidence = vec![first, PING_PONG_RATE.sentence()];
    Some(finding(Rule::ConversionPingPong, index, pairs, evidence))
}

#[expect(clippy::cast_precision_loss, reason = "a rate is not exact")]
fn bounces(calls: &[Call], earlier: &Earlier, seconds: f64) -> Option<Finding> {
    /// Callers that are named.
    const NAMED: usize = 3;
    let mut since: Vec<(&Call, u64, u64)> = calls
        .iter()
        .filter(|call| call.operation == Operation::Bounce)
        .map(|call| (call, earlier.calls_since(call)))
        .map(|(call, (count, bytes))| (call, count, bytes))
        .collect();
    let count = sum(since.iter().map(|(_, count, _)| *count));
    let bytes = sum(since.iter().map(|(_, _, bytes)| *bytes));
    let (buffers, mib) = (count as f64 / seconds, bytes as f64 / seconds / f64::from(1 << 20));
    let limit = if SWIOTLB_BYTES.is_reached(mib) {
        SWIOTLB_BYTES
    } else if SWIOTLB_COUNT.is_reached(buffers) {
        SWIOTLB_COUNT
    } else {
        return None;
    };
    since.sort_by_key(|(_, _, bytes)| std::cmp::Reverse(*bytes));
    let (volume, number) = (per_second(mib), per_second(buffers));
    let first = format!("{volume} MiB a second in {number} buffers, over {seconds:.1} s.");
    let mut evidence = vec![first];
    evidence.extend(since.iter().take(NAMED).map(|(call, count, bytes)| {
        let caller = call.caller.as_deref().unwrap_or("an unknown caller");
        format!("{caller}: {count} buffers, {bytes} bytes.")
    }));
    evidence.push(limit.sentence());
    Some(Finding { rule: Rule::Swiotlb, subject: Subject::Guest, count, evidence })
}
