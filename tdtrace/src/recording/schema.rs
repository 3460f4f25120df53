//! The columns of a recording.
//!
//! No column has nulls: where one does not apply it is 0 or the empty text, so that 64-bit numbers
//! stay whole numbers in pandas.
//!
//! | column | type | |
//! |---|---|---|
//! | `time_ns` | u64 | when the sample was taken, ns since the source began |
//! | `record` | utf8 | `fact`, `counter`, `loss`, `event`, `batch-end` |
//! | `vm` | u32 | number of the VM in the order of appearance, from 1, as `top` shows it; 0: none |
//! | `vcpu` | u32 | number that the VMM gave the vCPU |
//! | `slot` | u32 | tells vCPUs apart: their number in the order of appearance, from 1; 0: no vCPU |
//! | `kind` | utf8 | what the row says, see [`Kind`](super::kind::Kind) |
//! | `name` | utf8 | what `index` is called |
//! | `index` | u32 | number of the class, reason, counter … |
//! | `address` | u64 | of a place: address, port, MSR, CPUID leaf, hypercall number |
//! | `size` | u32 | bytes accessed; of `batch-end`: rows of the batch |
//! | `duration_ns` | u64 | where a bucket of durations begins |
//! | `text` | utf8 | of a fact that is a text |
//! | `value` | u64 | the number itself, a total; of `batch-end` the checksum |

use std::{collections::HashMap, sync::Arc};

use arrow_array::{
    ArrayRef, RecordBatch, StringArray, UInt32Array, UInt64Array,
    builder::{StringBuilder, UInt32Builder, UInt64Builder},
    cast::AsArray as _,
    types::{UInt32Type, UInt64Type},
};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};

use super::{Side, VERSION};

/// Key of the schema's version in its metadata.
pub const VERSION_KEY: &str = "tdtrace.schema";
/// Key of the version of tdtrace that wrote the recording.
pub const PROGRAM_KEY: &str = "tdtrace.version";
/// Key of the moment at which `time_ns` is 0, in ns since 1970 (UTC).
pub const BEGAN_KEY: &str = "tdtrace.began_unix_ns";

/// Key of whose samples they are, `guest`; a host's have no such key.
pub const SIDE_KEY: &str = "tdtrace.side";

/// Names and types of the columns. `value` is the last: the checksum is the end of a message.
const COLUMNS: [(&str, DataType); 13] = [
    ("time_ns", DataType::UInt64),
    ("record", DataType::Utf8),
    ("vm", DataType::UInt32),
    ("vcpu", DataType::UInt32),
    ("slot", DataType::UInt32),
    ("kind", DataType::Utf8),
    ("name", DataType::Utf8),
    ("index", DataType::UInt32),
    ("address", DataType::UInt64),
    ("size", DataType::UInt32),
    ("duration_ns", DataType::UInt64),
    ("text", DataType::Utf8),
    ("value", DataType::UInt64),
];

/// The schema of a recording of `side` whose time 0 was `began_unix_ns`.
#[must_use]
pub fn schema(side: Side, began_unix_ns: u64) -> SchemaRef {
    let fields = COLUMNS.map(|(name, of)| Field::new(name, of, false));
    let mut metadata = HashMap::from([
        (VERSION_KEY.to_owned(), VERSION.to_string()),
        (PROGRAM_KEY.to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        (BEGAN_KEY.to_owned(), began_unix_ns.to_string()),
    ]);
    if side == Side::Guest {
        metadata.insert(SIDE_KEY.to_owned(), side.name().to_owned());
    }
    Arc::new(Schema::new(fields.to_vec()).with_metadata(metadata))
}

/// One row in all its columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cells<'a> {
    pub(super) time_ns: u64,
    pub(super) record: &'a str,
    pub(super) vm: u32,
    pub(super) vcpu: u32,
    pub(super) slot: u32,
    pub(super) kind: &'a str,
    pub(super) name: &'a str,
    pub(super) index: u32,
    pub(super) address: u64,
    pub(super) size: u32,
    pub(super) duration_ns: u64,
    pub(super) text: &'a str,
    pub(super) value: u64,
}

/// Rows on their way into a batch.
#[derive(Default)]
pub(super) struct Builder {
    time_ns: UInt64Builder,
    record: StringBuilder,
    vm: UInt32Builder,
    vcpu: UInt32Builder,
    slot: UInt32Builder,
    kind: StringBuilder,
    name: StringBuilder,
    index: UInt32Builder,
    address: UInt64Builder,
    size: UInt32Builder,
    duration_ns: UInt64Builder,
    text: StringBuilder,
    value: UInt64Builder,
    rows: usize,
    text_bytes: usize,
}

impl Builder {
    /// Appends a row.
    pub(super) fn push(&mut self, row: &Cells<'_>) {
        self.time_ns.append_value(row.time_ns);
        self.record.append_value(row.record);
        self.vm.append_value(row.vm);
        self.vcpu.append_value(row.vcpu);
        self.slot.append_value(row.slot);
        self.kind.append_value(row.kind);
        self.name.append_value(row.name);
        self.index.append_value(row.index);
        self.address.append_value(row.address);
        self.size.append_value(row.size);
        self.duration_ns.append_value(row.duration_ns);
        self.text.append_value(row.text);
        self.value.append_value(row.value);
        self.rows += 1;
        self.text_bytes += row.text.len() + row.name.len();
    }

    /// Rows so far.
    pub(super) const fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of texts so far.
    pub(super) const fn text_bytes(&self) -> usize {
        self.text_bytes
    }

    /// The batch; the builder is empty again.
    pub(super) fn finish(&mut self, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.time_ns.finish()),
            Arc::new(self.record.finish()),
            Arc::new(self.vm.finish()),
            Arc::new(self.vcpu.finish()),
            Arc::new(self.slot.finish()),
            Arc::new(self.kind.finish()),
            Arc::new(self.name.finish()),
            Arc::new(self.index.finish()),
            Arc::new(self.address.finish()),
            Arc::new(self.size.finish()),
            Arc::new(self.duration_ns.finish()),
            Arc::new(self.text.finish()),
            Arc::new(self.value.finish()),
        ];
        self.rows = 0;
        self.text_bytes = 0;
        RecordBatch::try_new(Arc::clone(schema), columns)
    }
}

/// The columns of a batch, by name.
#[derive(Debug)]
pub(super) struct Columns {
    time_ns: UInt64Array,
    record: StringArray,
    vm: UInt32Array,
    vcpu: UInt32Array,
    slot: UInt32Array,
    kind: StringArray,
    name: StringArray,
    index: UInt32Array,
    address: UInt64Array,
    size: UInt32Array,
    duration_ns: UInt64Array,
    text: StringArray,
    value: UInt64Array,
}

impl Columns {
    /// The columns of `batch`; `None` if it does not have them.
    pub(super) fn of(batch: &RecordBatch) -> Option<Self> {
        let wide = |name| batch.column_by_name(name)?.as_primitive_opt::<UInt64Type>().cloned();
        let narrow = |name| batch.column_by_name(name)?.as_primitive_opt::<UInt32Type>().cloned();
        let text = |name| batch.column_by_name(name)?.as_string_opt::<i32>().cloned();
        Some(Self {
            time_ns: wide("time_ns")?,
            record: text("record")?,
            vm: narrow("vm")?,
            vcpu: narrow("vcpu")?,
            slot: narrow("slot")?,
            kind: text("kind")?,
            name: text("name")?,
            index: narrow("index")?,
            address: wide("address")?,
            size: narrow("size")?,
            duration_ns: wide("duration_ns")?,
            text: text("text")?,
            value: wide("value")?,
        })
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.time_ns.len()
    }

    /// Every row.
    pub(super) fn rows(&self) -> impl Iterator<Item = Cells<'_>> {
        (0..self.len()).map(|row| Cells {
            time_ns: self.time_ns.value(row),
            record: self.record.value(row),
            vm: self.vm.value(row),
            vcpu: self.vcpu.value(row),
            slot: self.slot.value(row),
            kind: self.kind.value(row),
            name: self.name.value(row),
            index: self.index.value(row),
            address: self.address.value(row),
            size: self.size.value(row),
            duration_ns: self.duration_ns.value(row),
            text: self.text.value(row),
            value: self.value.value(row),
        })
    }
}
