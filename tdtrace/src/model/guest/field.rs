//! The registry of a guest's columns, as [`crate::model::field`] is the host's.

use super::{
    finding::Severity,
    rows::{FindingRow, Touched, hash},
    snapshot::{Call, Object, Reason, Site},
};
use crate::{
    model::{
        field::{FIGURES, Field, Row, RowId, Value, left, nanos, right, text},
        figure,
    },
    verdict::{Fate, Kind},
};

/// Cells of a bar.
const BAR: usize = 12;

impl Row for Reason {
    const FIELDS: &'static [Field<Self>] = REASON_FIELDS;

    fn id(&self) -> RowId {
        [self.reason.map_or(u64::MAX, u64::from), 0, 0]
    }

    fn opens(&self) -> bool {
        false
    }
}

impl Row for Site {
    const FIELDS: &'static [Field<Self>] = SITE_FIELDS;

    fn id(&self) -> RowId {
        [self.reason.into(), self.ip.unwrap_or(0), self.user.into()]
    }

    /// Offenders, first those that do not survive; what nobody can tell of, accessors, then reasons of
    /// which there is no verdict.
    fn group(&self) -> u8 {
        let survives = matches!(self.fate(), Fate::Emulated | Fate::Recovered);
        match &self.verdict {
            _ if self.is_offender() => u8::from(survives),
            Some(verdict) if verdict.kind == Kind::Undecided => 2,
            Some(_) => 3,
            None => 4,
        }
    }
}

impl Row for Touched {
    const FIELDS: &'static [Field<Self>] = TOUCHED_FIELDS;

    fn id(&self) -> RowId {
        match self.object.object {
            Object::Port { port, direction, size, string } => {
                let how = u64::from(size.unwrap_or(0)) << 1 | u64::from(string);
                [30, u64::from(port), how << 1 | u64::from(direction == "in")]
            }
            Object::Page { gpa, shared } => [48, gpa.0, shared.map_or(2, u64::from)],
            Object::Msr { index, write } => [31 + u64::from(write), index.into(), 0],
            Object::Cpuid { leaf, subleaf } => [10, leaf.into(), subleaf.into()],
        }
    }

    fn opens(&self) -> bool {
        !self.by.is_empty()
    }
}

impl Row for Call {
    const FIELDS: &'static [Field<Self>] = CALL_FIELDS;

    fn id(&self) -> RowId {
        [self.operation as u64, hash(&self.caller), 0]
    }

    fn opens(&self) -> bool {
        false
    }
}

impl Row for FindingRow {
    const FIELDS: &'static [Field<Self>] = FINDING_FIELDS;

    fn id(&self) -> RowId {
        [self.rule as u64, self.subject_id, 0]
    }

    fn opens(&self) -> bool {
        self.site.is_some()
    }

    /// The gravest first.
    fn group(&self) -> u8 {
        match self.rule.severity() {
            Severity::Error => 0,
            Severity::Warning => 1,
            Severity::Note => 2,
        }
    }
}

fn known(text: Option<String>) -> Value {
    text.map_or(Value::None, Value::Text)
}

fn percentile(reason: &Reason, fraction: f64) -> Value {
    nanos(reason.percentile(fraction))
}

/// Columns of #VEs by reason.
pub const REASON_FIELDS: &[Field<Reason>] = &[
    left("reason", "REASON", 0, "exit reason", |row: &Reason| text(row.name)),
    right("count", "COUNT", 3, "#VEs", |row| Value::Count(row.count)),
    right("per_s", "/s", 1, "#VEs per second", |row| Value::Rate(row.rate)),
    right("share_pct", "SHARE%", 4, "part of all #VEs", |row| Value::Percent(row.share * 100.0)),
    left("bar", "", 6, "part of all #VEs", |row| Value::Figure(figure::bar(row.share, BAR))),
    right("failed", "FAILED", 2, "those that the kernel could not handle", |row| {
        Value::Count(row.failed)
    }),
    right("user", "USER", 7, "those in user mode", |row| Value::Count(row.user)),
    right("own", "OWN", 9, "those that tdtrace caused", |row| Value::Count(row.own)),
    right("p50_ns", "P50", 3, "half of them took less", |row| percentile(row, 0.5)),
    right("p90_ns", "P90", 8, "90 % of them took less", |row| percentile(row, 0.9)),
    right("p99_ns", "P99", 3, "99 % of them took less", |row| percentile(row, 0.99)),
    right("p999_ns", "P99.9", 8, "99.9 % of them took less", |row| percentile(row, 0.999)),
    right("max_ns", "MAX", 5, "the longest; ≤ where only a bound is known since a reset", |row| {
        match (row.max_ns, row.max_is_bound) {
            (0, _) => Value::None,
            (max, true) => Value::AtMost(max),
            (max, false) => Value::Nanos(max),
        }
    }),
    right("without_site", "NO SITE", 10, "those that no site counts", |row| {
        if row.other == 0 { Value::None } else { Value::Count(row.other) }
    }),
];

/// A sign for what colour says as well.
fn mark(site: &Site) -> &'static str {
    match &site.verdict {
        _ if site.is_offender() => "●",
        Some(verdict) if verdict.kind == Kind::Undecided => "○",
        Some(_) => "✓",
        None => "",
    }
}

/// Columns of sites.
pub const SITE_FIELDS: &[Field<Site>] = &[
    left("mark", "", 0, "● around io.h, ○ undecided, ✓ through an accessor", |row: &Site| {
        Value::Figure(mark(row).to_owned())
    }),
    left("verdict", "VERDICT", 1, "how the access came about", |row| {
        row.verdict.as_ref().map_or(Value::None, |verdict| text(verdict.kind.name()))
    }),
    left("survives", "SURVIVES", 0, "what a TD's kernel makes of it", |row| {
        text(row.fate().name())
    }),
    right("per_s", "/s", 2, "#VEs per second", |row| Value::Rate(row.rate)),
    right("count", "COUNT", 3, "#VEs", |row| Value::Count(row.count)),
    left("place", "SITE", 0, "function and offset, or the address and whose it is", |row| {
        Value::Text(row.place())
    }),
    left("line", "LINE", 4, "innermost line that is not in a header", |row| known(row.source())),
    left("via", "CHAIN", 8, "functions it lies in, inlined ones first", |row| known(row.via())),
    left("device", "DEVICE", 5, "device that it touches", |row| known(row.device_text())),
    left("touches", "TOUCHES", 7, "page, port, MSR or CPUID leaf, the most frequent", |row| {
        known(row.objects.first().map(|(object, _)| object.text()))
    }),
    left("instruction", "INSTRUCTION", 6, "what the CPU executes there", |row| {
        known(row.instruction().map(|(text, _)| text))
    }),
    left("reason", "REASON", 9, "exit reason", |row| text(row.name)),
    left("context", "CONTEXT", 11, "where it ran: task, softirq, hardirq, nmi, user", |row| {
        let names: Vec<&str> = row.contexts.iter().map(|(name, _)| *name).collect();
        Value::Text(names.join(","))
    }),
    right("failed", "FAILED", 9, "those that the kernel could not handle", |row| {
        Value::Count(row.failed)
    }),
    right("own", "OWN", 12, "those that tdtrace caused", |row| Value::Count(row.own)),
    right("mean_ns", "MEAN", 10, "how long one took", |row| nanos(row.mean_ns)),
    left("process", "PROCESS", 12, "name of the first thread", |row| text(&row.comm)),
    right("pid", "PID", 13, "process of the first", |row| Value::Id(row.pid.into())),
];

const fn kind(object: Object) -> &'static str {
    match object {
        Object::Port { .. } => "port",
        Object::Page { .. } => "page",
        Object::Msr { .. } => "MSR",
        Object::Cpuid { .. } => "CPUID",
    }
}

/// Columns of what #VEs are about.
pub const TOUCHED_FIELDS: &[Field<Touched>] = &[
    left("kind", "KIND", 3, "page, port, MSR or CPUID", |row: &Touched| {
        text(kind(row.object.object))
    }),
    left("touches", "WHAT", 0, "page without the shared bit, port, MSR or CPUID leaf", |row| {
        Value::Text(row.object.object.text())
    }),
    right("per_s", "/s", 1, "#VEs per second", |row| Value::Rate(row.object.rate)),
    right("count", "COUNT", 2, "#VEs", |row| Value::Count(row.object.count)),
    right("failed", "FAILED", 6, "those that the kernel could not handle", |row| {
        Value::Count(row.object.failed)
    }),
    left("device", "DEVICE", 4, "what lies there", |row| known(row.object.device_text())),
    left("place", "MOST BY", 2, "the site that touches it most", |row| {
        known(row.by.first().map(|by| by.place.clone()))
    }),
    right("sites", "SITES", 5, "how many sites touch it", |row| Value::Count(row.by.len() as u64)),
];

/// Columns of conversions, acceptance, quotes and bounces.
pub const CALL_FIELDS: &[Field<Call>] = &[
    left("operation", "OPERATION", 0, "what was asked for", |row: &Call| {
        text(row.operation.name())
    }),
    left("caller", "CALLER", 1, "function that asked for it", |row| {
        row.caller.as_deref().map_or(Value::None, text)
    }),
    right("count", "COUNT", 1, "calls", |row| Value::Count(row.count)),
    right("failed", "FAILED", 2, "those that failed", |row| Value::Count(row.failed)),
    right("bytes", "BYTES", 3, "bytes asked for", |row| Value::Count(row.bytes)),
    right("mean_ns", "MEAN", 4, "how long one took", |row| nanos(row.mean_ns)),
    right("last_failure", "LAST FAILURE", 10, "what the last one that failed returned", |row| {
        if row.failed == 0 { Value::None } else { Value::Hex(row.last_failure) }
    }),
];

/// Columns of findings.
pub const FINDING_FIELDS: &[Field<FindingRow>] = &[
    left("severity", "SEVERITY", 1, "error, warning or note", |row: &FindingRow| {
        text(row.rule.severity().name())
    }),
    left("finding", "FINDING", 0, "what was found", |row| text(row.rule.title())),
    right("count", "COUNT", 2, "how often", |row| Value::Count(row.count)),
    left("place", "ABOUT", 1, "the site or caller that it is about", |row| text(&row.subject)),
    left("rule", "RULE", 5, "name of the rule, as in allowlists", |row| text(row.rule.id())),
];

fn of<R>(fields: &'static [Field<R>]) -> impl Iterator<Item = (&'static str, &'static str)> {
    fields.iter().map(|field| (field.key, field.help))
}

/// The key and the help of every column of every table of a guest, each key once.
#[must_use]
pub fn keys() -> Vec<(&'static str, &'static str)> {
    let all = of(SITE_FIELDS).chain(of(REASON_FIELDS)).chain(of(TOUCHED_FIELDS));
    let mut keys: Vec<(&str, &str)> = Vec::new();
    for (key, help) in all.chain(of(CALL_FIELDS)).chain(of(FINDING_FIELDS)) {
        if !FIGURES.contains(&key) && keys.iter().all(|(other, _)| *other != key) {
            keys.push((key, help));
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::{
        filter::Filter,
        guest::{rows, testing},
    };

    fn unique<R: Row>(rows: &[R]) {
        let keys: BTreeSet<&str> = R::FIELDS.iter().map(|field| field.key).collect();
        assert_eq!(keys.len(), R::FIELDS.len());
        let ids: BTreeSet<RowId> = rows.iter().map(Row::id).collect();
        assert!(ids.len() == rows.len() && !rows.is_empty());
    }

    #[test]
    fn keys_and_rows_are_told_apart() {
        let snapshot = testing::snapshot();
        unique(&snapshot.reasons);
        unique(&snapshot.sites);
        unique(&snapshot.calls);
        unique(&rows::touched(&snapshot));
        unique(&rows::findings(&snapshot));
    }

    #[test]
    fn a_filter_takes_the_columns_of_a_guest_and_no_others() {
        let snapshot = testing::snapshot();
        let kept = |text: &str| {
            let filter = Filter::parse_with(text, &keys()).unwrap();
            let sites = snapshot.sites.iter().filter(|site| filter.keeps(*site, None));
            sites.map(Site::place).collect::<Vec<_>>()
        };
        assert_eq!(kept("survives=fatal verdict=pointer*"), ["acme_isr+0x3c [acme_nic]"]);
        assert_eq!(kept("line=pci.c*"), ["nvme_write_sq_db+0x44 [nvme]"]);
        assert_eq!(kept("instruction=cpuid"), ["0x401136 of cpuid-probe"]);
        assert!(Filter::parse_with("exits_per_s>1", &keys()).is_err());
        assert!(Filter::parse("verdict=pointer*").is_err());
    }
}
