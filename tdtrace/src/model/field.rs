//! The registry of columns: one entry names a column on the terminal, in the text tables and in JSON.
//!
//! A [`Field`] knows how to get its [`Value`] from a row and how wide it is; where it is drawn is the
//! views' business.

use super::snapshot::{Audit, Hotspot, Snapshot, Tally, Vcpu, Vm};
use tdtrace_common::counters::Class;

/// What stands in a cell.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A name.
    Text(String),
    /// A number that is no quantity: an id.
    Id(u64),
    /// A quantity.
    Count(u64),
    /// Per second; `None` while there is no interval.
    Rate(Option<f64>),
    /// An address, port or index.
    Hex(u64),
    /// Not known, or not there.
    None,
}

impl Value {
    /// As a cell of a table: thousands separated, rates rounded, `–` for what is not known.
    #[must_use]
    pub fn to_cell(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Id(number) => number.to_string(),
            Self::Count(count) => thousands(*count),
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a rate is not negative, and beyond 2^64 it saturates"
            )]
            Self::Rate(Some(rate)) => thousands(rate.round() as u64),
            Self::Rate(None) | Self::None => "–".to_owned(),
            Self::Hex(number) => format!("{number:#x}"),
        }
    }

    /// As JSON; an address is a number there.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Id(number) | Self::Count(number) | Self::Hex(number) => (*number).into(),
            Self::Rate(Some(rate)) => ((rate * 10.0).round() / 10.0).into(),
            Self::Rate(None) | Self::None => serde_json::Value::Null,
        }
    }

    /// For sorting: what is not known comes last when the largest comes first.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "only the order matters")]
    pub fn order(&self) -> f64 {
        match self {
            Self::Text(_) | Self::Rate(None) | Self::None => -1.0,
            Self::Id(number) | Self::Count(number) | Self::Hex(number) => *number as f64,
            Self::Rate(Some(rate)) => *rate,
        }
    }
}

/// `1234567` as `1,234,567`.
#[must_use]
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One column of rows of type `R`.
pub struct Field<R: ?Sized> {
    /// Its name in JSON and on the command line.
    pub key: &'static str,
    /// Its head in tables.
    pub title: &'static str,
    /// Whether its cells are aligned to the right.
    pub right: bool,
    /// Columns with a higher number go first when there is not enough room.
    pub rank: u8,
    /// What it says, for help and documentation.
    pub help: &'static str,
    /// Its value in a row.
    pub value: fn(&R) -> Value,
}

/// Every hotspot of every VM, as rows.
pub fn hotspot_rows(snapshot: &Snapshot) -> impl Iterator<Item = &Hotspot> {
    snapshot.vms.iter().flat_map(|vm| &vm.hotspots)
}

/// Every vCPU of every VM, as rows.
pub fn vcpu_rows(snapshot: &Snapshot) -> impl Iterator<Item = &Vcpu> {
    snapshot.vms.iter().flat_map(|vm| &vm.vcpus)
}

const fn left<R>(
    key: &'static str,
    title: &'static str,
    rank: u8,
    help: &'static str,
    value: fn(&R) -> Value,
) -> Field<R> {
    Field { key, title, right: false, rank, help, value }
}

const fn right<R>(
    key: &'static str,
    title: &'static str,
    rank: u8,
    help: &'static str,
    value: fn(&R) -> Value,
) -> Field<R> {
    Field { key, title, right: true, rank, help, value }
}

fn total(tally: Tally) -> Value {
    Value::Count(tally.total)
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// A name; nothing where it is empty.
fn known(name: &str) -> Value {
    if name.is_empty() { Value::None } else { text(name) }
}

/// `agrees`, or how far KVM's count and ours are apart.
fn audit(audit: Option<Audit>) -> Value {
    match audit {
        None => Value::None,
        Some(audit) if audit.agrees() => text("ok"),
        Some(audit) => {
            let apart = |kvm: u64, seen: u64| i128::from(seen) - i128::from(kvm);
            let exits = audit.seen_exits.map_or(0, |seen| apart(audit.kvm_exits, seen));
            let runs = apart(audit.kvm_runs, audit.seen_runs);
            let hypercalls = apart(audit.kvm_hypercalls, audit.seen_hypercalls);
            let worst = [exits, runs, hypercalls].into_iter().max_by_key(|n| n.unsigned_abs());
            Value::Text(format!("{:+}", worst.unwrap_or(0)))
        }
    }
}

fn pio(vm: &Vm) -> u64 {
    vm.counts[Class::PioIn] + vm.counts[Class::PioOut]
}

/// Accesses, not events: a read that the VMM serves is two events and one access.
fn mmio(vm: &Vm) -> u64 {
    vm.counts[Class::MmioRead] + vm.counts[Class::MmioWrite] + vm.counts[Class::FastMmio]
}

fn msr(vm: &Vm) -> u64 {
    vm.counts[Class::MsrRead] + vm.counts[Class::MsrWrite]
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
];

/// Columns of hotspots.
pub const HOTSPOT_FIELDS: &[Field<Hotspot>] = &[
    right("vm", "VM", 0, "number of the VM", |row: &Hotspot| Value::Id(row.vm.into())),
    left("name", "NAME", 4, "name of the VM", |row| text(&row.vm_name)),
    left("class", "CLASS", 1, "kind of access", |row| text(row.class.name())),
    left("address", "ADDRESS", 1, "GPA, port, MSR, CPUID leaf or hypercall number", |row| {
        Value::Hex(row.address)
    }),
    left("what", "WHAT", 3, "name of a well-known port, address, MSR, leaf or hypercall", |row| {
        row.what.as_deref().map_or(Value::None, text)
    }),
    right("size", "SIZE", 5, "bytes accessed", |row| {
        if row.size == 0 { Value::None } else { Value::Count(row.size.into()) }
    }),
    right("count", "COUNT", 2, "events since attaching", |row| total(row.tally)),
    right("per_s", "/s", 3, "events per second", |row| Value::Rate(row.tally.rate)),
];

/// Columns of vCPUs.
pub const VCPU_FIELDS: &[Field<Vcpu>] = &[
    right("vm", "VM", 0, "number of the VM", |row: &Vcpu| Value::Id(row.vm.into())),
    right("vcpu", "vCPU", 0, "number that the VMM chose", |row| Value::Id(row.id.into())),
    right("tid", "TID", 4, "thread that ran it last", |row| Value::Id(row.tid.into())),
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
];

/// A row as a JSON object of its fields.
pub fn to_json<R>(fields: &[Field<R>], row: &R) -> serde_json::Value {
    let pairs = fields.iter().map(|field| (field.key.to_owned(), (field.value)(row).to_json()));
    serde_json::Value::Object(pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unique<R>(fields: &[Field<R>]) {
        for (index, field) in fields.iter().enumerate() {
            assert!(fields[..index].iter().all(|other| other.key != field.key), "{}", field.key);
        }
    }

    #[test]
    fn keys_are_unique() {
        unique(VM_FIELDS);
        unique(HOTSPOT_FIELDS);
        unique(VCPU_FIELDS);
    }

    #[test]
    fn cells_are_read_by_people() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(Value::Rate(Some(1234.6)).to_cell(), "1,235");
        assert_eq!(Value::Rate(None).to_cell(), "–");
        assert_eq!(Value::Hex(0xfd00_0000).to_cell(), "0xfd000000");
    }
}
