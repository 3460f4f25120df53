//! Findings as text and JSON. Pure.

use serde_json::{Value, json};

use crate::{
    decode::bits::Hex,
    model::guest::{
        finding::{Finding, Subject},
        snapshot::{GuestSnapshot, Site},
    },
};

/// A finding with its rule's words and what it is about.
pub(super) fn finding_json(snapshot: &GuestSnapshot, finding: &Finding) -> Value {
    let rule = finding.rule;
    json!({
        "rule": rule.id(),
        "severity": rule.severity(),
        "title": rule.title(),
        "meaning": rule.meaning(),
        "advice": rule.advice(),
        "subject": subject_json(snapshot, &finding.subject),
        "count": finding.count,
        "evidence": finding.evidence,
    })
}

/// Sites and calls by what they are: those at an index may not be in the same output.
fn subject_json(snapshot: &GuestSnapshot, subject: &Subject) -> Value {
    let place = subject.place(snapshot);
    match subject {
        Subject::Site { index } => {
            let site = snapshot.sites.get(*index);
            json!({
                "kind": "site",
                "index": index,
                "place": place,
                "reason": site.map(|site| site.name),
                "ip": site.and_then(|site| site.ip).map(Hex),
                "symbol": site.and_then(|site| site.symbol.as_deref()),
                "line": site.and_then(Site::line),
                "user": site.map(|site| site.user),
            })
        }
        Subject::Call { index } => json!({
            "kind": "call",
            "index": index,
            "place": place,
            "operation": snapshot.calls.get(*index).map(|call| call.operation.name()),
        }),
        Subject::Guest => json!({ "kind": "guest", "place": place }),
    }
}

/// At most `limit` findings for people; nothing where there is none.
pub(super) fn findings_text(snapshot: &GuestSnapshot, limit: usize) -> String {
    let findings = &snapshot.findings;
    if findings.is_empty() {
        return String::new();
    }
    let mut text = "\nFindings\n".to_owned();
    for finding in findings.iter().take(limit) {
        let rule = finding.rule;
        let place = finding.subject.place(snapshot);
        let line = match &finding.subject {
            Subject::Site { index } => snapshot.sites.get(*index).and_then(Site::line),
            Subject::Call { .. } | Subject::Guest => None,
        };
        let line = line.map_or_else(String::new, |line| format!(" ({line})"));
        text.push_str(&format!(
            "  {}: {} [{}], {} × at {place}{line}\n",
            rule.severity().name(),
            rule.title(),
            rule.id(),
            finding.count,
        ));
        for sentence in &finding.evidence {
            text.push_str(&format!("    {sentence}\n"));
        }
        text.push_str(&format!("    → {}\n", rule.advice()));
    }
    if findings.len() > limit {
        text.push_str(&format!("  … and {} more\n", findings.len() - limit));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::guest::finding::Rule;

    fn snapshot() -> GuestSnapshot {
        let finding = |rule, subject| Finding {
            rule,
            subject,
            count: 7,
            evidence: vec!["Why it is so.".to_owned()],
        };
        GuestSnapshot {
            findings: vec![
                finding(Rule::StringIo, Subject::Site { index: 9 }),
                finding(Rule::Swiotlb, Subject::Guest),
            ],
            ..GuestSnapshot::default()
        }
    }

    #[test]
    fn the_text_has_severity_count_place_evidence_and_advice_and_says_how_many_more() {
        let text = findings_text(&snapshot(), 1);
        let expected = "\nFindings\n  error: string port I/O [string-io], 7 × at unknown\n    Why it \
                        is so.\n    → Use insb(), outsb() and their kin of io.h, which become loops in \
                        a TD.\n  … and 1 more\n";
        assert_eq!(text, expected);
        assert_eq!(findings_text(&GuestSnapshot::default(), 5), "");
    }

    #[test]
    fn the_json_has_the_words_of_the_rule_and_a_subject_without_an_index_into_nowhere() {
        let snapshot = snapshot();
        let json = finding_json(&snapshot, &snapshot.findings[0]);
        assert_eq!(
            (json["rule"].as_str(), json["severity"].as_str()),
            (Some("string-io"), Some("error"))
        );
        assert_eq!(json["evidence"][0], "Why it is so.");
        assert!(json["advice"].as_str().unwrap().starts_with("Use insb()"));
        assert_eq!(
            (json["subject"]["kind"].as_str(), json["subject"]["ip"].is_null()),
            (Some("site"), true)
        );
        let json = finding_json(&snapshot, &snapshot.findings[1]);
        assert_eq!(
            (json["count"].as_u64(), json["subject"]["place"].as_str()),
            (Some(7), Some("the guest"))
        );
    }
}
