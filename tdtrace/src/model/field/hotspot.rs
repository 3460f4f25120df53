//! Columns of places.

use tdtrace_common::counters::Class;

use super::{Field, Row, RowId, Value, left, right, text, total};
use crate::model::snapshot::Hotspot;

impl Row for Hotspot {
    const FIELDS: &'static [Field<Self>] = HOTSPOT_FIELDS;

    fn id(&self) -> RowId {
        [u64::from(self.vm) << 32 | u64::from(self.class as u32), self.address, self.size.into()]
    }

    /// What guests ask for comes first: it is what can be changed.
    fn group(&self) -> u8 {
        u8::from(!self.class.is_asked_for())
    }
}

const fn direction(class: Class) -> Option<&'static str> {
    match class {
        Class::PioIn | Class::MmioRead | Class::MmioReadUnsatisfied | Class::MsrRead => {
            Some("read")
        }
        Class::PioOut | Class::MmioWrite | Class::FastMmio | Class::MsrWrite => Some("write"),
        _ => None,
    }
}

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
        let has_size = !matches!(row.class, Class::TdAnswer | Class::TdReturn | Class::MemoryFault);
        if row.size == 0 || !has_size { Value::None } else { Value::Count(row.size.into()) }
    }),
    right("count", "COUNT", 2, "events since attaching", |row| total(row.tally)),
    right("per_s", "/s", 3, "events per second", |row| Value::Rate(row.tally.rate)),
    left("direction", "DIR", 12, "read or write", |row| {
        direction(row.class).map_or(Value::None, text)
    }),
    left("served", "SERVED", 11, "by kernel, VMM or both, where the counts prove it", |row| {
        row.served.map_or(Value::None, |server| text(server.name()))
    }),
];
