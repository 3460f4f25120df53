//! Batches to bytes: Arrow IPC messages, each batch followed by its end with the checksum.

use arrow_array::RecordBatch;
use arrow_ipc::{
    CompressionType, MetadataVersion,
    writer::{
        DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions, write_message,
    },
};
use arrow_schema::{ArrowError, SchemaRef};

use super::{
    kind::{Kind, Record},
    schema::{Builder, Cells},
};

/// Multiple of bytes that each column's data is padded to. The checksum's 8 bytes are the last.
pub(super) const ALIGNMENT: usize = 8;
/// Higher levels gain nothing and cost much.
const ZSTD_LEVEL: i32 = 1;
/// Bytes of the checksum with its padding.
pub(super) const CHECKSUM: usize = 8;
/// What ends a stream.
const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// Makes messages of batches.
pub(super) struct Encoder {
    schema: SchemaRef,
    compressed: IpcWriteOptions,
    plain: IpcWriteOptions,
    generator: IpcDataGenerator,
    context: IpcWriteContext,
    /// Batches so far.
    batches: u32,
}

impl Encoder {
    /// An encoder that has written nothing.
    pub(super) fn new(schema: SchemaRef) -> Result<Self, ArrowError> {
        let plain = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)?;
        let compressed = plain
            .clone()
            .try_with_compression(Some(CompressionType::ZSTD))?
            .try_with_compression_level(Some(ZSTD_LEVEL))?;
        Ok(Self {
            schema,
            compressed,
            plain,
            generator: IpcDataGenerator::default(),
            context: IpcWriteContext::default(),
            batches: 0,
        })
    }

    /// Appends what `rows` holds and the batch's end. `kind` says whether the sample ends, too.
    pub(super) fn batch(
        &mut self,
        rows: &mut Builder,
        kind: Kind,
        time_ns: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), ArrowError> {
        let start = out.len();
        if self.batches == 0 {
            let schema = self.generator.schema_to_bytes_with_dictionary_tracker(
                &self.schema,
                &mut DictionaryTracker::new(true),
                &self.plain,
            );
            write_message(&mut *out, schema, &self.plain)?;
        }
        let count = rows.rows();
        let data = rows.finish(&self.schema)?;
        self.message(&data, true, out)?;
        rows.push(&Cells {
            time_ns,
            record: Record::BatchEnd.name(),
            kind: kind.name(),
            name: "crc32c",
            index: self.batches,
            size: u32::try_from(count)
                .map_err(|_| ArrowError::InvalidArgumentError(format!("{count} rows")))?,
            ..Cells::default()
        });
        let end = rows.finish(&self.schema)?;
        self.message(&end, false, out)?;
        out.truncate(out.len() - CHECKSUM);
        let checksum = crc32c::crc32c(&out[start..]);
        out.extend_from_slice(&u64::from(checksum).to_le_bytes());
        self.batches += 1;
        Ok(())
    }

    fn message(
        &mut self,
        batch: &RecordBatch,
        compressed: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), ArrowError> {
        let options = if compressed { &self.compressed } else { &self.plain };
        let mut no_dictionaries = DictionaryTracker::new(true);
        let (_, encoded) =
            self.generator.encode(batch, &mut no_dictionaries, options, &mut self.context)?;
        write_message(out, encoded, options)?;
        Ok(())
    }

    /// Appends the end of the stream.
    pub(super) fn end(out: &mut Vec<u8>) {
        out.extend_from_slice(&END);
    }
}
