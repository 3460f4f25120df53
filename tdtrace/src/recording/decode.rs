//! The columns of one message whose bytes have been checked.
//!
//! A right checksum is no proof against malice, so every length that arrow would act upon is held
//! against what is there before arrow sees the message.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use arrow_buffer::Buffer;
use arrow_ipc::{
    CompressionType, MessageHeader, MetadataVersion, RecordBatch, reader::RecordBatchDecoder,
    root_as_message,
};
use arrow_schema::{DataType, SchemaRef};

use super::{
    BATCH_MAX, ROWS_MAX, Side,
    encode::ALIGNMENT,
    schema::{self, Columns},
};

/// The columns of the message `head` with `body`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn columns(head: &[u8], body: &[u8]) -> Result<Columns, String> {
    let message = root_as_message(head).map_err(|_| "the head of a message makes no sense")?;
    if message.header_type() != MessageHeader::RecordBatch
        || message.version() != MetadataVersion::V5
    {
        return Err("a message that is no batch of rows".to_owned());
    }
    let batch = message.header_as_record_batch().ok_or("a message without rows")?;
    // Its metadata plays no part here.
    let schema = schema::schema(Side::Host, 0);
    check(&batch, body, &schema)?;
    let body = Buffer::from(body);
    let no_dictionaries = HashMap::new();
    // Nothing that passed `check` is known to make arrow panic. Should there be something, this is
    // the last line: a damaged recording is an error, not the end of the process.
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        RecordBatchDecoder::try_new(&body, batch, schema, &no_dictionaries, &MetadataVersion::V5)?
            .read_record_batch()
    }));
    let batch = decoded
        .map_err(|_| "a batch on which arrow panicked".to_owned())?
        .map_err(|error| format!("a batch that cannot be decoded ({error})"))?;
    Columns::of(&batch).ok_or_else(|| "a batch without the columns of a recording".to_owned())
}

/// Holds every count and length of `batch` against the schema, the body and the limits.
fn check(batch: &RecordBatch<'_>, body: &[u8], schema: &SchemaRef) -> Result<(), String> {
    let rows = usize::try_from(batch.length()).ok().filter(|rows| *rows <= ROWS_MAX);
    let rows = rows.ok_or_else(|| format!("a batch of {} rows", batch.length()))?;
    let compressed = match batch.compression().map(|compression| compression.codec()) {
        None => false,
        Some(CompressionType::ZSTD) => true,
        Some(_) => return Err("a batch that is not compressed with zstd".to_owned()),
    };
    if batch.variadicBufferCounts().is_some_and(|counts| !counts.is_empty()) {
        return Err("a batch with columns that a recording does not have".to_owned());
    }
    let nodes = batch.nodes().ok_or("a batch without columns")?;
    let mut buffers = batch.buffers().ok_or("a batch without data")?.iter();
    if nodes.len() != schema.fields().len() {
        return Err(format!("a batch of {} columns", nodes.len()));
    }
    let mut total = 0_usize;
    for (node, field) in nodes.iter().zip(schema.fields()) {
        if usize::try_from(node.length()) != Ok(rows) || node.null_count() != 0 {
            return Err(format!("the column {} has other rows than its batch", field.name()));
        }
        for expected in lengths(field.data_type(), rows) {
            let buffer = buffers.next().ok_or("a batch with too few columns")?;
            let length = data_length(buffer.offset(), buffer.length(), compressed, body);
            let length = length.ok_or_else(|| {
                format!("the column {} does not lie within its batch", field.name())
            })?;
            total = total.saturating_add(length);
            if expected.is_some_and(|expected| length != expected) || total > BATCH_MAX {
                return Err(format!("the column {} has {length} bytes", field.name()));
            }
        }
    }
    match buffers.next() {
        None => Ok(()),
        Some(_) => Err("a batch with too many columns".to_owned()),
    }
}

/// Bytes of each buffer of a column: validity, then offsets or values, then texts of any length. To
/// the byte: arrow panics on offsets that do not end where an offset does.
fn lengths(of: &DataType, rows: usize) -> Vec<Option<usize>> {
    let offsets = (rows + 1) * size_of::<i32>();
    match of {
        DataType::Utf8 => vec![Some(0), Some(offsets), None],
        DataType::UInt32 => vec![Some(0), Some(rows * size_of::<u32>())],
        _ => vec![Some(0), Some(rows * size_of::<u64>())],
    }
}

/// Bytes of a buffer once it is decompressed; `None` if it is not within `body` or not aligned.
fn data_length(offset: i64, length: i64, compressed: bool, body: &[u8]) -> Option<usize> {
    let offset = usize::try_from(offset).ok().filter(|offset| offset.is_multiple_of(ALIGNMENT))?;
    let length = usize::try_from(length).ok()?;
    let bytes = body.get(offset..)?.get(..length)?;
    if !compressed || bytes.is_empty() {
        return Some(bytes.len());
    }
    let (prefix, data) = bytes.split_first_chunk::<8>()?;
    match i64::from_le_bytes(*prefix) {
        -1 => Some(data.len()),
        length => usize::try_from(length).ok(),
    }
}
