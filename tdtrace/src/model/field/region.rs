//! Columns of regions of 2 MiB that were converted.

use tdtrace_common::ledger::Direction;

use super::{Field, Row, RowId, Value, left, right, text};
use crate::model::ledger::Region;

impl Row for Region {
    const FIELDS: &'static [Field<Self>] = REGION_FIELDS;

    fn id(&self) -> RowId {
        [self.vm.into(), self.sample.gpa, 0]
    }

    fn opens(&self) -> bool {
        false
    }
}

fn calls(row: &Region, direction: Direction) -> Value {
    Value::Count(row.sample.calls[direction as usize])
}

fn bytes(row: &Region, direction: Direction) -> Value {
    Value::Bytes(row.sample.bytes[direction as usize])
}

/// Columns of regions.
pub const REGION_FIELDS: &[Field<Region>] = &[
    right("vm", "VM", 5, "number of the VM", |row: &Region| Value::Id(row.vm.into())),
    left("name", "NAME", 4, "name of the VM", |row| text(&row.vm_name)),
    left("gpa", "REGION", 0, "where the 2 MiB begin", |row| Value::Hex(row.sample.gpa)),
    right("shared_calls", "TO SHARED", 1, "conversions to shared that began there", |row| {
        calls(row, Direction::ToShared)
    }),
    right("private_calls", "TO PRIVATE", 1, "conversions to private that began there", |row| {
        calls(row, Direction::ToPrivate)
    }),
    right("turns", "TURNS", 2, "how often one went the other way than the one before", |row| {
        Value::Count(row.sample.turns)
    }),
    right("shared_bytes", "SHARED", 6, "bytes of those to shared", |row| {
        bytes(row, Direction::ToShared)
    }),
    right("private_bytes", "PRIVATE", 6, "bytes of those to private", |row| {
        bytes(row, Direction::ToPrivate)
    }),
    left("last", "LAST", 3, "which way the last one went", |row| text(row.sample.last.name())),
    right("ago_ns", "AGO", 3, "how long ago that was", |row| Value::Nanos(row.ago)),
];
