//! The calls that tdtrace counted in a step against what TDX module, VMM and kernel say of them:
//! conversions, acceptance, quotes and bounces. Pure.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::Value;

use super::{Seen, trace};
use crate::lab::json::{list, number};

/// The file in which the step `bounce` leaves what tracefs counted.
pub(super) const BOUNCED: &str = "bounced";

/// Calls of an operation, from all callers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Calls {
    count: u64,
    failed: u64,
    bytes: u64,
}

/// Compares the calls of tdtrace's `report`; how many are as they should be.
///
/// # Errors
/// With the first operation that differs, or when tdtrace lost calls.
pub(super) fn compare(seen: &Seen, report: &Value) -> Result<u64> {
    let calls = read(report)?;
    for lost in ["calls", "unpaired_calls"] {
        if let Some(count) = report["lost"]["causes"].get(lost) {
            bail!("tdtrace lost {count} {lost}");
        }
    }
    let of = |operation: &str| calls.get(operation).copied().unwrap_or_default();
    map_gpa(seen, &of)?;
    conversions(seen, &of)?;
    let truth = |name| seen.totals.of(name);
    let accepted = of("accept_tdx");
    equal("accepted bytes", accepted.bytes, truth("accepted"))?;
    equal("accepts that failed", accepted.failed, 0)?;
    equal("accept_memory()", of("accept").count, truth("asked"))?;
    equal("bytes of accept_memory()", of("accept").bytes, truth("asked.bytes"))?;
    equal("GetQuote", of("get_quote").count, truth("vmcall.65538"))?;
    equal("quotes", of("quote").count, truth("vmcall.65538"))?;
    equal("GetQuote that failed", of("get_quote").failed, truth("vmcall.65538.failed"))?;
    if let Some(bounced) = seen.files.get(BOUNCED) {
        let bounced = str::from_utf8(bounced).context("the histogram of bounces is not text")?;
        bounces(bounced, of("swiotlb"), report)?;
    }
    Ok(calls.values().map(|calls| calls.count).sum())
}

/// The kernel asks for a range once and goes on by itself where the VMM wants to be asked again.
fn map_gpa(seen: &Seen, of: &impl Fn(&str) -> Calls) -> Result<()> {
    let truth = |name: &str| seen.totals.of(name);
    let (mut count, mut failed) = (0, 0);
    for kind in ["shared", "private"] {
        let calls = of(&format!("map_gpa_{kind}"));
        let mapped = truth(&format!("mapped.{kind}")) + truth(&format!("refused.{kind}"));
        equal(&format!("bytes of MapGPA to {kind}"), calls.bytes, mapped)?;
        // A conversion is one call of MapGPA's function.
        let converted = of(&format!("to_{kind}"));
        equal(&format!("conversions to {kind}"), converted.count, calls.count)?;
        equal(&format!("bytes converted to {kind}"), converted.bytes, calls.bytes)?;
        count += calls.count;
        failed += calls.failed;
    }
    let again = truth("retried");
    equal("MapGPA", count + again, truth("vmcall.65537"))?;
    equal("MapGPA that failed", failed + again, truth("vmcall.65537.failed"))?;
    equal("prepared conversions", of("prepare").count, count)?;
    // What the VMM refused before the page tables changed is not finished.
    ensure!(
        of("finish").count <= count && of("finish").count + failed >= count,
        "{} conversions were finished of {count}, of which {failed} failed",
        of("finish").count
    );
    Ok(())
}

/// What the module made, where it made any.
fn conversions(seen: &Seen, of: &impl Fn(&str) -> Calls) -> Result<()> {
    let text = seen.files.get("conversions").map_or(Ok(""), |bytes| str::from_utf8(bytes))?;
    if text.is_empty() {
        return Ok(());
    }
    let mut made: BTreeMap<&str, Calls> = BTreeMap::new();
    for line in text.lines() {
        let columns: Vec<_> = line.split(' ').collect();
        let [_, pages, kind, result] = columns[..] else { bail!("a conversion is {line:?}") };
        let calls = made.entry(kind).or_default();
        calls.count += 1;
        calls.bytes += 4096 * pages.parse::<u64>().with_context(|| format!("pages in {line:?}"))?;
        calls.failed += u64::from(result != "0");
    }
    for (kind, calls) in made {
        let counted = of(&format!("to_{kind}"));
        ensure!(counted == calls, "conversions to {kind}: {counted:?} instead of {calls:?}");
    }
    Ok(())
}

/// The kernel's own histogram of the same tracepoint.
fn bounces(histogram: &str, counted: Calls, report: &Value) -> Result<()> {
    let (count, bytes) = trace::sum(histogram, "size")?;
    let missed = report["lost"]["recursion_misses"]["swiotlb_bounced"]
        .as_u64()
        .ok_or_else(|| anyhow!("the probe on swiotlb_bounced is not attached"))?;
    ensure!(
        counted.count + missed == count,
        "{} bounces counted and {missed} missed of {count}",
        counted.count
    );
    if missed == 0 {
        equal("bounced bytes", counted.bytes, bytes)?;
    }
    Ok(())
}

fn equal(what: &str, counted: u64, truth: u64) -> Result<()> {
    ensure!(counted == truth, "{what}: tdtrace counted {counted} instead of {truth}");
    Ok(())
}

/// The calls of a report by operation.
fn read(report: &Value) -> Result<BTreeMap<String, Calls>> {
    let mut calls: BTreeMap<String, Calls> = BTreeMap::new();
    for row in list(report, "calls")? {
        let operation = row["operation"].as_str().ok_or_else(|| anyhow!("a call is {row}"))?;
        let sum = calls.entry(operation.to_owned()).or_default();
        sum.count += number(row, "count")?;
        sum.failed += number(row, "failed")?;
        sum.bytes += number(row, "bytes")?;
    }
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::truth::Totals, *};

    const TOTALS: &str = "ve 0\nvmcall.65537 4\nvmcall.65537.failed 2\nmapped.shared 8192\n\
        refused.shared 4096\nmapped.private 8192\nretried 1\naccepted 8192\nasked 1\nasked.bytes 4096\n";
    const CONVERSIONS: &str = "1000 2 shared 0\n1000 2 private 0\n1000 1 shared -5\n";

    fn seen(totals: &str, conversions: &str) -> Seen {
        Seen {
            totals: Totals::read(totals).unwrap(),
            files: [("conversions".to_owned(), conversions.as_bytes().to_vec())].into(),
            ..Seen::default()
        }
    }

    fn report() -> Value {
        let call = |operation: &str, count: u64, failed: u64, bytes: u64| json!({"operation": operation, "count": count, "failed": failed, "bytes": bytes});
        json!({
            "calls": [
                // From two callers.
                call("to_shared", 1, 0, 8192), call("to_shared", 1, 1, 4096),
                call("map_gpa_shared", 2, 1, 12288), call("to_private", 1, 0, 8192),
                call("map_gpa_private", 1, 0, 8192), call("prepare", 3, 0, 20480),
                call("finish", 3, 1, 20480), call("accept_tdx", 1, 0, 8192),
                call("accept", 1, 0, 4096),
            ],
            "lost": {"causes": {}, "recursion_misses": {}},
        })
    }

    #[test]
    fn calls_of_all_callers_are_what_the_vmm_and_the_module_say() {
        assert_eq!(compare(&seen(TOTALS, CONVERSIONS), &report()).unwrap(), 14);
    }

    #[test]
    fn a_number_that_differs_anywhere_is_an_error() {
        for (name, other) in [
            ("mapped.shared 8192", "mapped.shared 4096"),
            ("retried 1", "retried 0"),
            ("65537 4", "65537 5"),
            ("accepted 8192", "accepted 4096"),
            ("asked 1", "asked 2"),
            ("asked.bytes 4096", "asked.bytes 8192"),
        ] {
            let totals = TOTALS.replace(name, other);
            assert!(compare(&seen(&totals, CONVERSIONS), &report()).is_err(), "{other}");
        }
        for other in ["1000 2 shared 0\n", "1000 2 private 0\n1000 2 private 0\n", "strange\n"] {
            assert!(compare(&seen(TOTALS, other), &report()).is_err(), "{other}");
        }
        let mut lost = report();
        lost["lost"]["causes"]["unpaired_calls"] = 1.into();
        assert!(compare(&seen(TOTALS, CONVERSIONS), &lost).is_err());
    }

    #[test]
    fn bounces_that_were_missed_must_be_said() {
        let histogram =
            "{ force:  1 } hitcount:  10  size:  40960\nTotals:\n    Hits: 10\n    Dropped: 0\n";
        let counted = |count, bytes| Calls { count, bytes, failed: 0 };
        let missed = |count: u64| json!({"lost": {"recursion_misses": {"swiotlb_bounced": count}}});
        bounces(histogram, counted(10, 40960), &missed(0)).unwrap();
        bounces(histogram, counted(9, 36000), &missed(1)).unwrap();
        assert!(bounces(histogram, counted(9, 36864), &missed(0)).is_err());
        assert!(bounces(histogram, counted(10, 4096), &missed(0)).is_err());
        assert!(bounces(histogram, counted(10, 40960), &json!({})).is_err());
    }
}
