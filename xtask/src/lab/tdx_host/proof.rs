//! What `docs/proof.md` says that this scenario proves, against what occurred in a run. Pure but for
//! reading that file.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tdtrace_common::{
    counters::{USERSPACE_EINTR, USERSPACE_HWPOISON, USERSPACE_OTHER},
    kvm,
};

use super::compare::{Item, Row};
use crate::{lab::times::Line, workspace};

/// The names in the file, with whether L is said to prove them.
fn claims(text: &str) -> Vec<(String, bool)> {
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let name = cells.get(1)?.strip_prefix('`')?.strip_suffix('`')?;
        Some((name.to_owned(), *cells.get(3)? == "L"))
    };
    text.lines().filter(|line| line.starts_with('|')).filter_map(row).collect()
}

/// The names of what occurred: numbers and times that were compared and are not 0, broken pages, and
/// wrappers that were called.
fn occurred(rows: &[Row], timed: &[Line], json: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for row in rows.iter().filter(|row| row.truth > 0) {
        match &row.item {
            Item::Exit { name, .. } => names.insert(name.clone()),
            Item::Return { reason, .. } => names.insert(return_name(*reason)),
            Item::Finding { rule, .. } => names.insert(rule.clone()),
            Item::Place { class, .. } => names.insert(class.clone()),
            Item::Conversion { pointer, .. } => {
                ledger_name(pointer).is_some_and(|name| names.insert(name))
            }
            Item::Runs { .. }
            | Item::Answer { .. }
            | Item::Seamcall { .. }
            | Item::Shown { .. } => false,
        };
    }
    let wrappers = json["seamcalls"].as_array().into_iter().flatten();
    let called = wrappers.filter(|row| row["calls"].as_u64() > Some(0));
    names.extend(timed.iter().filter_map(Line::occurred).map(str::to_owned));
    let broken = json["poison"]["pages"].as_array().into_iter().flatten();
    let broken = broken.flat_map(|page| [&page["source"], &page["result"]]);
    names.extend(broken.filter_map(Value::as_str).map(str::to_owned));
    names.extend(called.filter_map(|row| row["function"].as_str().map(str::to_owned)));
    names
}

fn return_name(reason: u64) -> String {
    let of_kvm = u32::try_from(reason).ok().and_then(kvm::userspace_exit);
    match reason {
        reason if reason == USERSPACE_EINTR as u64 => "EINTR".to_owned(),
        reason if reason == USERSPACE_OTHER as u64 => "other".to_owned(),
        reason if reason == USERSPACE_HWPOISON as u64 => "MEMORY_FAULT_HWPOISON".to_owned(),
        reason => of_kvm.map_or_else(|| reason.to_string(), str::to_owned),
    }
}

/// The name in recordings of a number of the JSON's conversions.
fn ledger_name(pointer: &str) -> Option<String> {
    let words: Vec<_> = pointer.split('/').skip(1).collect();
    Some(match words[..] {
        ["attributes", way, what] => format!("attribute_{what}_{way}"),
        ["punched", what] => format!("punched_{what}"),
        ["mapped_private", "pages_4k"] => "mapped_4k".to_owned(),
        ["mapped_private", "pages_2m"] => "mapped_2m".to_owned(),
        [name @ ("without_region" | "broken_pages")] => name.to_owned(),
        [way, what] => {
            let what = match what {
                "bytes" => "bytes",
                "calls_of_4k" => "pages",
                "calls_of_2m" => "blocks",
                "retries" => "retried",
                "refused" => "refused",
                _ => return None,
            };
            format!("{what}_{way}")
        }
        _ => return None,
    })
}

/// Holds the file against a run; how many names both have.
///
/// # Errors
/// When something is said to be proven that did not occur, or the other way round.
pub(super) fn judge(rows: &[Row], timed: &[Line], json: &Value) -> Result<usize> {
    let file = workspace::root().join("docs/proof.md");
    let text = fs::read_to_string(&file).with_context(|| format!("no {}", file.display()))?;
    hold(&claims(&text), &occurred(rows, timed, json))
}

fn hold(claims: &[(String, bool)], occurred: &BTreeSet<String>) -> Result<usize> {
    ensure!(!claims.is_empty(), "docs/proof.md has no rows");
    let wrong: Vec<_> = claims
        .iter()
        .filter(|(name, claimed)| occurred.contains(name) != *claimed)
        .map(|(name, claimed)| format!("{name} {}", if *claimed { "did not occur" } else { "did" }))
        .collect();
    if !wrong.is_empty() {
        bail!("docs/proof.md is wrong of this run: {}", wrong.join(", "));
    }
    Ok(claims.iter().filter(|(_, claimed)| *claimed).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_did_not_occur_and_one_that_is_missing_are_errors() {
        let claims = claims("| | S | L |\n| `a b` | S | L | | |\n| `c` | S | | | why |\n");
        assert_eq!(claims, [("a b".to_owned(), true), ("c".to_owned(), false)]);
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(hold(&claims, &set(&["a b", "x"])).unwrap(), 1);
        assert!(hold(&claims, &set(&[])).is_err());
        assert!(hold(&claims, &set(&["a b", "c"])).is_err());
        assert!(hold(&[], &set(&[])).is_err());
    }

    #[test]
    fn numbers_of_the_json_have_their_names_of_recordings() {
        for (pointer, name) in [
            ("/to_shared/calls_of_4k", "pages_to_shared"),
            ("/attributes/to_private/bytes", "attribute_bytes_to_private"),
            ("/punched/bytes", "punched_bytes"),
            ("/mapped_private/pages_2m", "mapped_2m"),
        ] {
            assert_eq!(ledger_name(pointer).unwrap(), name);
        }
        assert_eq!(ledger_name("/memory_faults/total"), None);
        assert_eq!([return_name(40), return_name(62)], ["TDX", "EINTR"]);
    }
}
