//! Findings of a host as text and JSON. Pure.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Show;
use crate::model::{
    field::{FINDING_FIELDS, to_json as row_to_json},
    filter::keeps,
    finding::Finding,
    snapshot::Snapshot,
};

/// The findings that the filter leaves, the gravest first.
fn kept<'a>(snapshot: &'a Snapshot, show: Show<'_>) -> Vec<&'a Finding> {
    let mut findings = snapshot.findings();
    findings.retain(|finding| {
        let vm = snapshot.vms.iter().find(|vm| vm.id == finding.vm);
        keeps(show.filter, *finding, vm)
    });
    findings
}

/// Each with the words of its rule.
pub(super) fn findings_json(snapshot: &Snapshot, show: Show<'_>) -> Value {
    let one = |finding: &Finding| {
        let mut value = row_to_json(FINDING_FIELDS, finding);
        if let Value::Object(fields) = &mut value {
            fields.insert("meaning".to_owned(), finding.rule.meaning().into());
            fields.insert("advice".to_owned(), finding.rule.advice().into());
            fields.insert("evidence".to_owned(), json!(finding.evidence));
        }
        value
    };
    kept(snapshot, show).into_iter().map(one).collect()
}

/// Nothing where there is none.
pub(super) fn findings_text(snapshot: &Snapshot, show: Show<'_>, text: &mut String) {
    let findings = kept(snapshot, show);
    if !findings.is_empty() {
        text.push_str("\nFINDINGS\n");
    }
    for finding in findings {
        let rule = finding.rule;
        let vcpu = finding.vcpu.map_or_else(String::new, |vcpu| format!(" vCPU {vcpu}"));
        let about = finding.what.as_deref().map_or_else(String::new, |what| format!(": {what}"));
        let _ = writeln!(
            text,
            "{}: VM {} {}{vcpu}: {} [{}]{about}",
            rule.severity().name(),
            finding.vm,
            finding.vm_name,
            rule.title(),
            rule.id(),
        );
        for sentence in &finding.evidence {
            let _ = writeln!(text, "  {sentence}");
        }
        let _ = writeln!(text, "  → {}", rule.advice());
    }
}
