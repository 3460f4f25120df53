//! Rows to a stream, whosever they are: cells, batches, and the samples that they make up.

use std::{borrow::Cow, io::Write, time::Duration};

use super::{
    Error, ROWS_MAX, Side, TEXT_MAX,
    encode::Encoder,
    kind::Kind,
    row::{Key, Row, delta},
    schema::{self, Builder, Cells},
};

/// Bytes of texts after which a batch is full.
const TEXT_FULL: usize = 8 << 20;

/// Whose rows are written: the columns that say so.
#[derive(Clone, Copy, Default)]
pub(super) struct Subject {
    pub(super) vm: u32,
    pub(super) vcpu: u32,
    pub(super) slot: u32,
}

/// Writes rows. Those of a sample are with the output when [`Output::end`] returns.
pub(super) struct Output<W> {
    out: W,
    encoder: Encoder,
    rows: Builder,
    /// Messages of the sample being written.
    bytes: Vec<u8>,
    time_ns: u64,
    written: u64,
    samples: u64,
}

impl<W: Write> Output<W> {
    /// A stream of `side` whose time 0 was `began`, since 1970 (UTC).
    pub(super) fn new(out: W, side: Side, began: Duration) -> Result<Self, Error> {
        let schema = schema::schema(side, nanoseconds(began)?);
        Ok(Self {
            out,
            encoder: Encoder::new(schema).map_err(unwritable)?,
            rows: Builder::default(),
            bytes: Vec::new(),
            time_ns: 0,
            written: 0,
            samples: 0,
        })
    }

    /// Begins a sample that was taken `at` after time 0.
    pub(super) fn begin(&mut self, at: Duration) -> Result<(), Error> {
        self.time_ns = nanoseconds(at)?;
        Ok(())
    }

    /// Ends the sample and writes what there is of it.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        self.batch(Kind::Sample)?;
        self.samples += 1;
        self.emit()
    }

    /// Writes the end of the stream and returns the output.
    pub(super) fn finish(mut self) -> Result<W, Error> {
        Encoder::end(&mut self.bytes);
        self.emit()?;
        Ok(self.out)
    }

    /// Bytes written so far.
    pub(super) const fn bytes(&self) -> u64 {
        self.written
    }

    /// Samples written so far.
    pub(super) const fn samples(&self) -> u64 {
        self.samples
    }

    fn batch(&mut self, kind: Kind) -> Result<(), Error> {
        let encoded = self.encoder.batch(&mut self.rows, kind, self.time_ns, &mut self.bytes);
        encoded.map_err(unwritable)
    }

    fn emit(&mut self) -> Result<(), Error> {
        self.out.write_all(&self.bytes)?;
        self.out.flush()?;
        self.written += self.bytes.len() as u64;
        self.bytes.clear();
        Ok(())
    }

    /// Writes what turns `old` into `new`; `name` says what the index of a row is called.
    pub(super) fn changes(
        &mut self,
        subject: Subject,
        cleared: Kind,
        [old, new]: [&[Row]; 2],
        name: impl Fn(&Key) -> Cow<'static, str>,
    ) -> Result<(), Error> {
        if let Some(changed) = delta(old, new) {
            let mut changed = changed.into_iter();
            return changed.try_for_each(|row| self.row(subject, row, &name(&row.key)));
        }
        self.row(subject, &Row::number(cleared, 0, 0), "")?;
        new.iter().try_for_each(|row| self.row(subject, row, &name(&row.key)))
    }

    /// Writes a row; `name` is what its index is called.
    pub(super) fn row(&mut self, subject: Subject, row: &Row, name: &str) -> Result<(), Error> {
        let Key { kind, index, address, size } = row.key;
        let text = row.as_text();
        if text.len() > TEXT_MAX {
            let length = text.len();
            return Err(Error::Unwritable(format!("its {} has {length} bytes", kind.name())));
        }
        let (address, duration_ns) = if kind.has_bucket() { (0, address) } else { (address, 0) };
        if self.rows.rows() == ROWS_MAX || self.rows.text_bytes() >= TEXT_FULL {
            self.batch(Kind::Part)?;
        }
        self.rows.push(&Cells {
            time_ns: self.time_ns,
            record: kind.record().name(),
            vm: subject.vm,
            vcpu: subject.vcpu,
            slot: subject.slot,
            kind: kind.name(),
            name,
            index,
            address,
            size,
            duration_ns,
            text,
            value: row.value,
        });
        Ok(())
    }
}

/// The number after `last`.
pub(super) fn next(last: &mut u32) -> Result<u32, Error> {
    let next = last.checked_add(1);
    *last = next.ok_or_else(|| Error::Unwritable("there were 4 billion subjects".to_owned()))?;
    Ok(*last)
}

fn nanoseconds(time: Duration) -> Result<u64, Error> {
    u64::try_from(time.as_nanos())
        .map_err(|_| Error::Unwritable(format!("{} seconds are too long", time.as_secs())))
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn unwritable(error: arrow_schema::ArrowError) -> Error {
    Error::Unwritable(error.to_string())
}
