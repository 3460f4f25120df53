//! Columns of single durations that were longer than asked for.

use tdtrace_common::latency::Part;

use super::{Field, Row, RowId, Value, left, right, text, thread};
use crate::model::slow::Slow;

impl Row for Slow {
    const FIELDS: &'static [Field<Self>] = SLOW_FIELDS;

    fn id(&self) -> RowId {
        let at = u64::try_from(self.at.as_nanos()).unwrap_or(u64::MAX);
        [self.vm.into(), self.vcpu.into(), at]
    }

    fn opens(&self) -> bool {
        false
    }
}

const fn part(row: &Slow, part: Part) -> Value {
    Value::Nanos(row.ns[part as usize])
}

/// Columns of single durations that were longer than asked for.
pub const SLOW_FIELDS: &[Field<Slow>] = &[
    right("at_ns", "AT", 1, "when it ended, since tdtrace began", |row: &Slow| {
        Value::Nanos(u64::try_from(row.at.as_nanos()).unwrap_or(u64::MAX))
    }),
    right("vm", "VM", 0, "number of the VM", |row| Value::Id(row.vm.into())),
    left("name", "NAME", 6, "name of the VM", |row| text(&row.vm_name)),
    right("vcpu", "VCPU", 2, "number of the vCPU", |row| Value::Id(row.vcpu.into())),
    right("tid", "TID", 9, "thread that ran it", |row| thread(row.tid)),
    left("type", "TYPE", 7, "exit, or return to the VMM", |row| text(row.span.name())),
    left("reason", "REASON", 0, "exit reason, leaf or KVM_EXIT_*", |row| text(&row.reason)),
    right("time_ns", "TIME", 0, "how long it took", |row| Value::Nanos(row.total())),
    right("kernel_ns", "KERNEL", 3, "of that in the kernel", |row| part(row, Part::Kernel)),
    right("vmm_ns", "VMM", 4, "of that in the VMM", |row| part(row, Part::Vmm)),
    right("halted_ns", "HALTED", 8, "of that halted", |row| part(row, Part::Halted)),
    right("waiting_ns", "WAITING", 5, "of that ready to run without a CPU", |row| {
        part(row, Part::Waiting)
    }),
];
