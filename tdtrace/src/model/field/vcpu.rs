//! Columns of vCPUs.

use tdtrace_common::{counters::Class, latency::Part};

use super::{
    Field, Row, RowId, Share, Value, audit, left, nanos, percent, right, split, text, thread, total,
};
use crate::model::{
    latency::Histogram,
    snapshot::{Span, Vcpu},
};

impl Row for Vcpu {
    const FIELDS: &'static [Field<Self>] = VCPU_FIELDS;

    fn id(&self) -> RowId {
        [self.vm.into(), self.id.into(), self.sample.key.index.into()]
    }
}

fn share(vcpu: &Vcpu, share: Share) -> Value {
    percent(vcpu.times, vcpu.isa, share)
}

fn p99(vcpu: &Vcpu) -> Option<u64> {
    let mut histogram = Histogram::default();
    let mut max = 0;
    for row in vcpu.latency.iter().filter(|row| row.span == Span::Exit && !row.halt) {
        histogram += &row.histogram;
        max = max.max(row.max);
    }
    histogram.percentile(0.99, max)
}

/// Columns of vCPUs.
pub const VCPU_FIELDS: &[Field<Vcpu>] = &[
    right("vm", "VM", 0, "number of the VM", |row: &Vcpu| Value::Id(row.vm.into())),
    left("name", "NAME", 8, "name of the VM", |row| text(&row.vm_name)),
    right("vcpu", "vCPU", 0, "number that the VMM chose", |row| Value::Id(row.id.into())),
    right("tid", "TID", 4, "thread that ran it last", |row| thread(row.tid)),
    right("exits", "EXITS", 1, "VM exits since attaching", |row| total(row.exits)),
    right("exits_per_s", "/s", 2, "VM exits per second", |row| Value::Rate(row.exits.rate)),
    right("runs", "KVM_RUN", 3, "calls of KVM_RUN that ended", |row| {
        Value::Count(row.counts[Class::RunEnd])
    }),
    right("kvm_says", "KVM SAYS", 5, "VM exits by KVM's own count", |row| {
        row.audit.map_or(Value::None, |audit| Value::Count(audit.kvm_exits))
    }),
    right("we_saw", "WE SAW", 6, "kvm_exit events; – if this KVM fires none", |row| {
        row.audit.and_then(|audit| audit.seen_exits).map_or(Value::None, Value::Count)
    }),
    left("audit", "AUDIT", 7, "ok: KVM's own counters equal what was seen", |row| audit(row.audit)),
    left("split", "TIME", 18, "█ guest ▓ kernel ▒ VMM ░ halted · waiting", |row| {
        split(row.times)
    }),
    right("guest_pct", "GUEST%", 19, "time in the guest, of the vCPU's time", |row| {
        share(row, Share::Guest)
    }),
    right("kernel_pct", "KERNEL%", 19, "time in the kernel between exit and entry", |row| {
        share(row, Share::Kernel)
    }),
    right("kvm_run_pct", "KVM_RUN%", 19, "guest and kernel, where no exit is seen", |row| {
        share(row, Share::KvmRun)
    }),
    right("vmm_pct", "VMM%", 19, "time in the VMM", |row| share(row, Share::Part(Part::Vmm))),
    right("halted_pct", "HALT%", 20, "time halted", |row| share(row, Share::Part(Part::Halted))),
    right("waiting_pct", "WAIT%", 21, "time ready to run without a CPU", |row| {
        share(row, Share::Part(Part::Waiting))
    }),
    right("p99_ns", "P99", 22, "99 % of the exits took less; without halts", |row| nanos(p99(row))),
];
