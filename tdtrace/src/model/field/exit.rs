//! Columns of exit reasons and returns to the VMM.

use tdtrace_common::latency::Part;

use super::{Field, Row, RowId, Value, left, nanos, right, text, total};
use crate::model::{
    exits::{ExitRow, Kind},
    snapshot::Latency,
};

impl Row for ExitRow {
    const FIELDS: &'static [Field<Self>] = EXIT_FIELDS;

    fn id(&self) -> RowId {
        [self.vm.into(), self.kind as u64, self.index.into()]
    }

    fn opens(&self) -> bool {
        self.latency.is_some()
    }

    /// Halts that totals leave out come after all that is in them, then what is counted twice: events
    /// are a part of the exits.
    fn group(&self) -> u8 {
        match self.kind {
            Kind::Event => 2,
            _ => u8::from(self.left_out),
        }
    }
}

fn percentile(row: &ExitRow, fraction: f64) -> Value {
    nanos(row.latency.as_ref().and_then(|latency| latency.percentile(fraction)))
}

fn part(row: &ExitRow, part: Part) -> Value {
    nanos(row.latency.as_ref().map(|latency| latency.part(part)))
}

/// Columns of exit reasons and returns to the VMM.
pub const EXIT_FIELDS: &[Field<ExitRow>] = &[
    right("vm", "VM", 0, "number of the VM", |row: &ExitRow| Value::Id(row.vm.into())),
    left("name", "NAME", 9, "name of the VM", |row| text(&row.vm_name)),
    left("type", "TYPE", 2, "exit, L2 exit, return to the VMM, or other event", |row| {
        text(row.kind.name())
    }),
    left("reason", "REASON", 0, "exit reason, KVM_EXIT_* or class", |row| text(&row.reason)),
    right("count", "COUNT", 3, "how many since attaching", |row| total(row.tally)),
    right("per_s", "/s", 1, "how many per second", |row| Value::Rate(row.tally.rate)),
    right(
        "share_pct",
        "SHARE%",
        4,
        "part of the time of its type; halts only if asked for",
        |row| row.share.map_or(Value::None, |share| Value::Percent(share * 100.0)),
    ),
    right("time_ns", "TIME", 5, "from exit to entry, or in the VMM, all together", |row| {
        nanos(row.latency.as_ref().map(Latency::total_ns))
    }),
    right("kernel_ns", "KERNEL", 7, "of that in the kernel", |row| part(row, Part::Kernel)),
    right("vmm_ns", "VMM", 7, "of that in the VMM", |row| part(row, Part::Vmm)),
    right("halted_ns", "HALTED", 8, "of that halted", |row| part(row, Part::Halted)),
    right("waiting_ns", "WAITING", 8, "of that ready to run without a CPU", |row| {
        part(row, Part::Waiting)
    }),
    right("p50_ns", "P50", 6, "half of them took less", |row| percentile(row, 0.5)),
    right("p90_ns", "P90", 9, "90 % of them took less", |row| percentile(row, 0.9)),
    right("p99_ns", "P99", 5, "99 % of them took less", |row| percentile(row, 0.99)),
    right("p999_ns", "P99.9", 8, "99.9 % of them took less", |row| percentile(row, 0.999)),
    right("max_ns", "MAX", 6, "the longest; ≤ where only a bound is known since a reset", |row| {
        match &row.latency {
            None => Value::None,
            Some(latency) if latency.max_is_bound => Value::AtMost(latency.max),
            Some(latency) => Value::Nanos(latency.max),
        }
    }),
    left("halt", "HALT", 10, "halt: the guest asked for it; left out of totals", |row| {
        Value::Flag(row.halt, "halt")
    }),
];
