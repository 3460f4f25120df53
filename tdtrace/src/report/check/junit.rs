//! The outcome of a check as JUnit XML: a test case for each rule, passes too, and one each for the
//! command and for completeness. Pure.
//!
//! There is no standard; this is what GitLab, Jenkins and GitHub's actions read: `testsuites`,
//! `testsuite`, `testcase` with `failure`, `error`, `skipped` and `system-out`.

use super::{plain, remarks};
use crate::{
    check::outcome::{Judged, Outcome},
    model::{figure, guest::finding::Rule},
};

/// Name of the suite, and what the names of its cases begin with.
const SUITE: &str = "tdtrace.check";

/// A test case.
struct Case {
    name: &'static str,
    result: Result<(), Failure>,
    /// Said of a case that passed, too.
    output: String,
    /// Why it says nothing: everything that it found is allowed.
    skipped: Option<String>,
}

struct Failure {
    /// `failure` for what the guest does, `error` for what hindered the check.
    tag: &'static str,
    message: String,
    kind: &'static str,
    text: String,
}

/// The outcome as a whole document.
#[must_use]
pub fn to_junit(outcome: &Outcome<'_>) -> String {
    let mut cases: Vec<Case> = Rule::ALL.iter().map(|rule| case(*rule, outcome)).collect();
    cases.push(command(outcome));
    cases.push(complete(outcome));
    let count = |tag: &str| {
        let is = |case: &&Case| case.result.as_ref().is_err_and(|failure| failure.tag == tag);
        cases.iter().filter(is).count()
    };
    let (failures, errors) = (count("failure"), count("error"));
    let skipped = cases.iter().filter(|case| case.skipped.is_some()).count();
    let seconds = outcome.snapshot.at.as_secs_f64();
    let sums = format!(
        "tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\" \
         time=\"{seconds:.3}\"",
        cases.len()
    );
    let notes: String =
        remarks(outcome).notes.iter().map(|note| format!("{}\n", plain(note))).collect();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"tdtrace check\" {sums}>\n\
         <testsuite name=\"{SUITE}\" {sums}>\n<properties>\n\
         <property name=\"release\" value=\"{}\"/>\n<property name=\"exit_code\" value=\"{}\"/>\n\
         </properties>\n",
        escaped(&plain(&outcome.snapshot.release)),
        outcome.end.code()
    );
    cases.iter().for_each(|case| text.push_str(&case.xml()));
    if !notes.is_empty() {
        text.push_str(&format!("<system-out>{}</system-out>\n", escaped(&notes)));
    }
    text.push_str("</testsuite>\n</testsuites>\n");
    text
}

fn case(rule: Rule, outcome: &Outcome<'_>) -> Case {
    let found: Vec<&Judged<'_>> =
        outcome.findings.iter().filter(|judged| judged.finding.rule == rule).collect();
    let text = |fails: bool| {
        let of = found.iter().filter(|judged| judged.fails == fails);
        of.map(|judged| described(judged)).collect::<String>()
    };
    let failing = found.iter().filter(|judged| judged.fails).count();
    let is_allowed = !found.is_empty() && found.iter().all(|judged| judged.allowed.is_some());
    let result = if failing == 0 {
        Ok(())
    } else {
        Err(Failure {
            tag: "failure",
            message: format!("{}, findings: {failing}", rule.title()),
            kind: rule.severity().name(),
            text: format!("{}{}\n{}\n", text(true), rule.meaning(), rule.advice()),
        })
    };
    let skipped = is_allowed.then(|| format!("findings: {}, all allowed", found.len()));
    Case { name: rule.id(), result, output: text(false), skipped }
}

fn described(judged: &Judged<'_>) -> String {
    let Judged { finding, place, .. } = judged;
    let source = place.line().map(|(file, line)| format!(" {file}:{line}"));
    let mut lines = vec![format!(
        "{}{}: {}",
        place.text().as_deref().unwrap_or("the guest"),
        source.unwrap_or_default(),
        figure::times(finding.count)
    )];
    lines.extend(place.device().map(|device| format!("  {}", device.line())));
    lines.extend(finding.evidence.iter().map(|evidence| format!("  {evidence}")));
    lines.extend(judged.allowed.map(|entry| format!("  allowed by {entry}: {}", entry.reason)));
    lines.extend(judged.expired.map(|entry| format!("  {entry} allowed it and has expired")));
    lines.iter().map(|line| format!("{}\n", plain(line))).collect()
}

fn command(outcome: &Outcome<'_>) -> Case {
    let failed = |why: &String| Failure {
        tag: "failure",
        message: why.clone(),
        kind: "command",
        text: "What was to be checked may not have happened.\n".to_owned(),
    };
    let result = outcome.command.as_ref().map(failed).map_or(Ok(()), Err);
    Case { name: "command", result, output: String::new(), skipped: None }
}

/// Losses that are allowed are said all the same.
fn complete(outcome: &Outcome<'_>) -> Case {
    let lost: String = outcome.lost.iter().map(|lost| format!("{}\n", plain(lost))).collect();
    let (result, output) = if outcome.lost.is_empty() || outcome.terms.allow_losses {
        (Ok(()), lost)
    } else {
        let failure = Failure {
            tag: "error",
            message: "something was lost; there may be findings that nobody saw".to_owned(),
            kind: "losses",
            text: lost,
        };
        (Err(failure), String::new())
    };
    Case { name: "complete", result, output, skipped: None }
}

impl Case {
    fn xml(&self) -> String {
        let mut text = format!("<testcase classname=\"{SUITE}\" name=\"{}\" time=\"0\"", self.name);
        let mut inner = String::new();
        if let Err(Failure { tag, message, kind, text }) = &self.result {
            inner.push_str(&format!(
                "<{tag} message=\"{}\" type=\"{kind}\">{}</{tag}>\n",
                escaped(&plain(message)),
                escaped(text)
            ));
        }
        if let Some(why) = &self.skipped {
            inner.push_str(&format!("<skipped message=\"{}\"/>\n", escaped(why)));
        }
        if !self.output.is_empty() {
            inner.push_str(&format!("<system-out>{}</system-out>\n", escaped(&self.output)));
        }
        if inner.is_empty() {
            text.push_str("/>\n");
        } else {
            text.push_str(&format!(">\n{inner}</testcase>\n"));
        }
        text
    }
}

/// `text` within an element or an attribute of XML 1.0, which has no way to write most control
/// characters.
fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, c| {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\n' | '\t' => escaped.push(c),
            '\u{fffe}' | '\u{ffff}' => escaped.push('?'),
            c if c.is_control() => escaped.push('?'),
            c => escaped.push(c),
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_can_end_the_element_or_is_forbidden_in_xml() {
        let text = "a<b>&\"'\n]]>\u{0}\u{1b}\u{85}\u{ffff}é";
        assert_eq!(escaped(text), "a&lt;b&gt;&amp;&quot;&apos;\n]]&gt;????é");
    }
}
