//! Columns of findings.

use super::{Field, Row, RowId, Value, left, right, text, total};
use crate::model::finding::{Finding, Severity};

impl Row for Finding {
    const FIELDS: &'static [Field<Self>] = FINDING_FIELDS;

    fn id(&self) -> RowId {
        let vcpu = self.vcpu.map_or(0, |vcpu| u64::from(vcpu) + 1);
        [self.vm.into(), (self.rule as u64) << 40 | vcpu, self.detail]
    }

    fn group(&self) -> u8 {
        match self.rule.severity() {
            Severity::Error => 0,
            Severity::Warning => 1,
            Severity::Note => 2,
        }
    }
}

/// Columns of findings.
pub const FINDING_FIELDS: &[Field<Finding>] = &[
    left(
        "severity",
        "SEVERITY",
        2,
        "error, warning or note; the gravest first",
        |row: &Finding| text(row.rule.severity().name()),
    ),
    right("vm", "VM", 0, "number of the VM", |row| Value::Id(row.vm.into())),
    left("name", "NAME", 4, "name of the VM", |row| text(&row.vm_name)),
    right("vcpu", "vCPU", 5, "number that the VMM gave it", |row| {
        row.vcpu.map_or(Value::None, |vcpu| Value::Id(vcpu.into()))
    }),
    left("rule", "RULE", 6, "name of a finding's rule", |row| text(row.rule.id())),
    left("finding", "FINDING", 0, "what was found", |row| text(row.rule.title())),
    left("about", "ABOUT", 3, "MSR or exit reason that a finding is about", |row| {
        row.what.as_deref().map_or(Value::None, text)
    }),
    right("count", "COUNT", 2, "events since attaching", |row| total(row.tally)),
    right("per_s", "/s", 1, "events per second", |row| Value::Rate(row.tally.rate)),
];
