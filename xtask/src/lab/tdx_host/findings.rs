//! Findings that count what a guest did, whatever the time it took: what they count against the truth. Pure.

use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;

use super::compare::{Counts, Item};

/// KVM's answer to what it will not do.
const INVALID_OPERAND: u64 = 1 << 63;
/// The findings that are compared. Others are about rates.
const RULES: [&str; 4] = ["dead-td", "fatal-error", "private-mmio", "unknown-leaf"];

/// The findings that `truth` makes.
pub(super) fn of_truth(truth: &Counts, threads: &std::collections::BTreeMap<u64, usize>) -> Counts {
    let mut counts = Counts::new();
    for (item, count) in truth {
        let (td, rule) = match item {
            Item::Exit { tid, name } => (threads.get(tid).copied(), of_exit(name)),
            Item::Answer { td, name, status: INVALID_OPERAND } if name.contains("MMIO") => {
                (Some(*td), Some("private-mmio"))
            }
            _ => continue,
        };
        if let (Some(td), Some(rule)) = (td, rule) {
            *counts.entry(Item::Finding { td, rule: rule.to_owned() }).or_default() += count;
        }
    }
    counts
}

fn of_exit(name: &str) -> Option<&'static str> {
    match name {
        "TDVMCALL ReportFatalError" => Some("fatal-error"),
        "TDVMCALL unknown leaf" => Some("unknown-leaf"),
        name if name.contains("NON_RECOVERABLE") => Some("dead-td"),
        _ => None,
    }
}

/// The findings that tdtrace tells; `td_of` says which TD a VM's number is.
///
/// # Errors
/// When something is missing in its JSON.
pub(super) fn told(json: &Value, td_of: impl Fn(u64) -> Option<usize>) -> Result<Counts> {
    let mut counts = Counts::new();
    for finding in json["findings"].as_array().ok_or_else(|| anyhow!("there are no findings"))? {
        let rule = finding["rule"].as_str().with_context(|| format!("no rule in {finding}"))?;
        if !RULES.contains(&rule) {
            continue;
        }
        let td = finding["vm"].as_u64().and_then(&td_of);
        let td = td.with_context(|| format!("a finding of no TD: {finding}"))?;
        let count = finding["count"].as_u64().with_context(|| format!("no count in {finding}"))?;
        *counts.entry(Item::Finding { td, rule: rule.to_owned() }).or_default() += count;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn findings_are_what_exits_and_answers_make_them() {
        let exit = |name: &str| Item::Exit { tid: 60, name: name.to_owned() };
        let answer = |name: &str| Item::Answer {
            td: 0,
            name: format!("TDVMCALL {name}"),
            status: INVALID_OPERAND,
        };
        let truth = [
            (exit("VP.ENTER NON_RECOVERABLE_TD"), 2),
            (exit("VP.ENTER NON_RECOVERABLE_VCPU"), 3),
            (exit("TDVMCALL CPUID"), 9),
            (answer("MMIO read"), 4),
            (answer("RDMSR"), 7),
        ];
        let item = |rule: &str| Item::Finding { td: 0, rule: rule.to_owned() };
        let expected: Counts = [(item("dead-td"), 5), (item("private-mmio"), 4)].into();
        assert_eq!(of_truth(&truth.into(), &[(60, 0)].into()), expected);
        let json = json!({ "findings": [
            { "rule": "dead-td", "vm": 3, "count": 5 },
            { "rule": "private-mmio", "vm": 3, "count": 4 },
            { "rule": "vmm-bound", "vm": 3, "count": 1 },
        ] });
        assert_eq!(told(&json, |vm| (vm == 3).then_some(0)).unwrap(), expected);
        assert!(told(&json, |_| None).is_err());
    }
}
