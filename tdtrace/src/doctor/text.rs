//! A report as plain text of at most 80 columns, without colours.

use std::fmt::Write as _;

use super::{Check, FieldReport, ProbeReport, Report, Section, Status, structures::FOUND};

const WIDTH: usize = 80;
/// Where the findings start: two blanks, a mark, two blanks, a name, a blank.
const FINDING: usize = 32;
/// Where the fields of a layout group start.
const FIELD: usize = 8;

/// The whole report.
pub(super) fn report(report: &Report) -> String {
    let mut text = format!(
        "tdtrace {} doctor\n  ok works   !  works with less to see   –  is not there   ?  not known\n",
        report.tdtrace
    );
    for part in &report.sections {
        section(&mut text, part, &report.fields);
    }
    let is_guest = !report.guest_probes.is_empty();
    if is_guest && report.probes.iter().all(|probe| !probe.visible) {
        let count = report.probes.len();
        let _ = writeln!(text, "\nprobes\n  –   none of {count} shows a VM here, see kvm");
    } else {
        probes(&mut text, "probes", &report.probes);
    }
    if is_guest {
        probes(&mut text, "guest probes", &report.guest_probes);
    }
    text.push('\n');
    for line in wrap(&report.summary, WIDTH).into_iter().chain(wrap(report.note, WIDTH)) {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

fn section(text: &mut String, section: &Section, fields: &[FieldReport]) {
    let _ = writeln!(text, "\n{}", section.name);
    let steps: Vec<_> = section.checks.iter().map(|check| check.next.as_deref()).collect();
    let has_offsets = section.name == "layout" && fields.iter().any(|field| field.found.is_some());
    for (index, entry) in section.checks.iter().enumerate() {
        check(text, entry, repeats(&steps, index) && !has_offsets);
        // A group that is not needed here is done with in one line.
        if has_offsets && (entry.status != Status::Ok || entry.finding == FOUND) {
            for field in fields.iter().filter(|field| field.group == entry.name) {
                offset_of(text, field);
            }
        }
    }
}

fn probes(text: &mut String, title: &str, probes: &[ProbeReport]) {
    let _ = writeln!(text, "\n{title}");
    let steps: Vec<_> = probes.iter().map(|probe| probe.check.next.as_deref()).collect();
    for (index, probe) in probes.iter().enumerate() {
        check(text, &probe.check, repeats(&steps, index));
    }
}

/// Whether the next entry says the same next step, so that it need not be said here.
fn repeats(steps: &[Option<&str>], index: usize) -> bool {
    steps[index].is_some() && steps.get(index + 1) == Some(&steps[index])
}

fn check(text: &mut String, check: &Check, is_repeated: bool) {
    let mark = match check.status {
        Status::Ok => "ok",
        Status::Limited => "! ",
        Status::Missing => "– ",
        Status::Unknown => "? ",
    };
    let mut lines = wrap(&check.finding, WIDTH - FINDING);
    if let Some(next) = check.next.as_ref().filter(|_| !is_repeated) {
        lines.extend(wrap(&format!("do: {next}"), WIDTH - FINDING));
    }
    let head = format!("  {mark}  {:<width$}", check.name, width = FINDING - 6);
    for (index, finding) in lines.iter().enumerate() {
        let start = if index == 0 { head.as_str() } else { "" };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{start:<FINDING$}{finding}");
    }
}

fn offset_of(text: &mut String, field: &FieldReport) {
    let offset = field.found.map_or_else(|| "–".to_owned(), |info| info.offset.to_string());
    let _ = writeln!(text, "{:FIELD$}{:<23}{offset:>7}  {}", "", field.name, field.path);
}

/// Breaks `text` at blanks into lines of at most `width` characters; longer words are cut.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split_whitespace() {
        let mut rest: Vec<char> = word.chars().collect();
        if used > 0 && used + 1 + rest.len() > width {
            lines.push(String::new());
            used = 0;
        }
        while rest.len() > width {
            let tail = rest.split_off(width);
            lines.last_mut().into_iter().for_each(|line| line.extend(rest.iter()));
            lines.push(String::new());
            rest = tail;
        }
        if let Some(line) = lines.last_mut() {
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            used += rest.len();
            line.extend(rest);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_blanks_and_keep_every_word() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("one", 3), ["one"]);
        assert_eq!(wrap("", 3), [""]);
        assert_eq!(wrap("a abcdefgh b", 3), ["a", "abc", "def", "gh", "b"]);
        assert_eq!(wrap("ü ü ü", 3), ["ü ü", "ü"]);
    }
}
