//! Columns of VMs.

use tdtrace_common::{
    counters::Class,
    latency::Part,
    ledger::{Direction, LedgerCount},
};

use super::{
    FIGURE, Field, Row, RowId, Share, Value, audit, known, left, nanos, percent, right, split,
    text, total,
};
use crate::model::{
    counts::sum,
    figure, ledger,
    snapshot::{Span, Vm},
};

impl Row for Vm {
    const FIELDS: &'static [Field<Self>] = VM_FIELDS;

    fn id(&self) -> RowId {
        [self.id.into(), 0, 0]
    }
}

/// Events of `classes` together.
fn of<const N: usize>(vm: &Vm, classes: [Class; N]) -> u64 {
    sum(classes.map(|class| vm.counts[class]))
}

fn pio(vm: &Vm) -> u64 {
    of(vm, [Class::PioIn, Class::PioOut])
}

/// Accesses, not events: a read that the VMM serves is two events and one access.
fn mmio(vm: &Vm) -> u64 {
    of(vm, [Class::MmioRead, Class::MmioWrite, Class::FastMmio])
}

fn msr(vm: &Vm) -> u64 {
    of(vm, [Class::MsrRead, Class::MsrWrite])
}

fn percentile(vm: &Vm, span: Span, halts: bool, fraction: f64) -> Value {
    let (histogram, max) = vm.durations(span, halts);
    nanos(histogram.percentile(fraction, max))
}

fn share(vm: &Vm, share: Share) -> Value {
    percent(vm.times, vm.isa, share)
}

/// What a VM has that can convert memory; not known of one that cannot.
fn converted(vm: &Vm, value: impl Fn(&Vm) -> Value) -> Value {
    if ledger::converts(vm) { value(vm) } else { Value::None }
}

fn bytes(vm: &Vm, direction: Direction) -> Value {
    converted(vm, |vm| Value::Bytes(vm.ledger.bytes[direction as usize].total))
}

/// Columns of VMs.
pub const VM_FIELDS: &[Field<Vm>] = &[
    right("vm", "VM", 0, "number in the order of appearance", |vm: &Vm| Value::Id(vm.id.into())),
    left("name", "NAME", 1, "name of the VM, or of the process that runs it", |vm| text(&vm.name)),
    right("pid", "PID", 4, "process that runs it", |vm| Value::Id(vm.pid.into())),
    left("kind", "KIND", 5, "TD, SEV, plain …; ? if the kernel does not say", |vm| {
        text(&vm.kind)
    }),
    left("vmm", "VMM", 10, "program that runs it: qemu, cloud-hypervisor …", |vm| known(&vm.vmm)),
    left("container", "CONTAINER", 11, "container, pod or service it runs in", |vm| {
        known(vm.container.as_deref().unwrap_or(""))
    }),
    right("vcpus", "vCPU", 3, "vCPUs that have run", |vm| Value::Count(vm.vcpus.len() as u64)),
    right("exits", "EXITS", 2, "VM exits since attaching", |vm| total(vm.exits)),
    right("exits_per_s", "/s", 2, "VM exits per second", |vm| Value::Rate(vm.exits.rate)),
    right("to_vmm", "TO VMM", 6, "returns of KVM_RUN to the VMM", |vm| {
        Value::Count(vm.counts[Class::UserspaceExit])
    }),
    right("mmio", "MMIO", 7, "MMIO accesses", |vm| Value::Count(mmio(vm))),
    right("pio", "PIO", 8, "port I/O", |vm| Value::Count(pio(vm))),
    right("cpuid", "CPUID", 12, "CPUID", |vm| Value::Count(vm.counts[Class::Cpuid])),
    right("msr", "MSR", 13, "MSR reads and writes", |vm| Value::Count(msr(vm))),
    right("hypercall", "HYPERCALL", 14, "KVM hypercalls", |vm| {
        Value::Count(vm.counts[Class::Hypercall])
    }),
    left("audit", "AUDIT", 9, "ok: KVM's own counters equal what was seen", |vm| audit(vm.audit)),
    left("state", "STATE", 15, "ended: the VM is no more", |vm| {
        text(if vm.ended { "ended" } else { "" })
    }),
    left("fate", "FATE", 3, "bugged or dead: KVM has given the TD up; after which exit", |vm| {
        text(&vm.fate().unwrap_or_default())
    }),
    right(
        "poisoned",
        "POISONED",
        15,
        "returns to the VMM for memory that is broken",
        |vm| match vm.poisoned() {
            0 => Value::None,
            count => Value::Count(count),
        },
    ),
    left("demo", "DEMO", 15, "made up by the demo source", |vm| Value::Flag(vm.demo, "DEMO")),
    right("to_vmm_per_s", "VMM/s", 16, "returns of KVM_RUN to the VMM per second", |vm| {
        Value::Rate(vm.returns.rate)
    }),
    left("trend", "TREND", 17, "VM exits per second of the last intervals", |vm| {
        Value::Figure(figure::sparkline(&vm.history, FIGURE))
    }),
    left("split", "TIME", 18, "█ guest ▓ kernel ▒ VMM ░ halted · waiting", |vm| {
        split(vm.times)
    }),
    right("guest_pct", "GUEST%", 19, "time in the guest, of the vCPUs' time", |vm| {
        share(vm, Share::Guest)
    }),
    right("kernel_pct", "KERNEL%", 19, "time in the kernel between exit and entry", |vm| {
        share(vm, Share::Kernel)
    }),
    right("kvm_run_pct", "KVM_RUN%", 19, "guest and kernel, where no exit is seen", |vm| {
        share(vm, Share::KvmRun)
    }),
    right("vmm_pct", "VMM%", 19, "time in the VMM", |vm| share(vm, Share::Part(Part::Vmm))),
    right("halted_pct", "HALT%", 20, "time halted", |vm| share(vm, Share::Part(Part::Halted))),
    right("waiting_pct", "WAIT%", 21, "time ready to run without a CPU", |vm| {
        share(vm, Share::Part(Part::Waiting))
    }),
    right("p50_ns", "P50", 22, "half of the exits took less; without halts", |vm| {
        percentile(vm, Span::Exit, false, 0.5)
    }),
    right("p99_ns", "P99", 22, "99 % of the exits took less; without halts", |vm| {
        percentile(vm, Span::Exit, false, 0.99)
    }),
    right("p99_halts_ns", "P99+HLT", 23, "99 % of the exits took less; halts included", |vm| {
        percentile(vm, Span::Exit, true, 0.99)
    }),
    right("vmm_p99_ns", "VMM P99", 23, "99 % of the times in the VMM were less", |vm| {
        percentile(vm, Span::Return, false, 0.99)
    }),
    right(
        "conv_per_s",
        "CONV/s",
        24,
        "MapGPA per second: conversions that the guest asks for",
        |vm| converted(vm, |vm| Value::Rate(vm.ledger.calls_per_s())),
    ),
    right("to_shared", "→SHARED", 24, "bytes made shared since attaching, by MapGPA", |vm| {
        bytes(vm, Direction::ToShared)
    }),
    right("to_private", "→PRIVATE", 24, "bytes made private since attaching, by MapGPA", |vm| {
        bytes(vm, Direction::ToPrivate)
    }),
    right("net_shared", "SHARED±", 24, "bytes made shared less bytes made private", |vm| {
        converted(vm, |vm| Value::Balance(vm.ledger.net_shared()))
    }),
    right("retries", "RETRY", 25, "MapGPA answered RETRY", |vm| {
        converted(vm, |vm| Value::Count(vm.ledger.both(LedgerCount::Retried)))
    }),
    right("ping_pong", "TURNS", 25, "how often a region was converted back", |vm| {
        converted(vm, |vm| Value::Count(vm.ledger.turns()))
    }),
    right("set_by_vmm", "VMM SET", 26, "bytes whose attributes the VMM set", |vm| {
        converted(vm, |vm| Value::Bytes(vm.ledger.both(LedgerCount::AttributeBytes)))
    }),
    right("punched_calls", "PUNCHES", 27, "holes that the VMM punched into guest_memfd", |vm| {
        converted(vm, |vm| Value::Count(vm.ledger.sample.count(LedgerCount::PunchedCalls)))
    }),
    right("punched", "PUNCHED", 27, "bytes of guest_memfd that the VMM gave back", |vm| {
        converted(vm, |vm| Value::Bytes(vm.ledger.sample.count(LedgerCount::PunchedBytes)))
    }),
    right("mapped", "MAPPED", 24, "bytes mapped for faults on private memory", |vm| {
        converted(vm, |vm| Value::Bytes(vm.ledger.mapped.total))
    }),
    right("memory_faults", "FAULTS", 26, "memory faults that the VMM was told of", |vm| {
        converted(vm, |vm| Value::Count(vm.counts[Class::MemoryFault]))
    }),
    right(
        "findings",
        "FOUND",
        24,
        "findings about it",
        |vm| Value::Count(vm.findings.len() as u64),
    ),
];
