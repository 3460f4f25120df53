//! A stream cut into batches, each checked against its checksum before anything of it is decoded.
//!
//! A message is 4 bytes of ones, the length of its head, the head (a flatbuffer that says how long
//! the body is) and the body. Until the checksum is found right, of all this only the lengths are
//! used, each held against a limit, and memory grows with what is really there.

use std::io::Read;

use arrow_ipc::{Message, MessageHeader, root_as_message};

use super::{
    BATCH_MAX, Error, Side, VERSION, decode,
    encode::CHECKSUM,
    kind::{Kind, Record},
    schema::{Columns, SIDE_KEY, VERSION_KEY},
};

/// Bytes of a message's head at most; ours have less than 2 kB.
const HEAD_MAX: usize = 64 << 10;
/// Bytes of the body of a batch's end at most; ours have less than 300.
const END_MAX: usize = 4 << 10;
/// What every message begins with.
const CONTINUES: [u8; 4] = [0xff; 4];

/// One verified batch, or what came instead.
#[derive(Debug)]
pub(super) enum Frame {
    /// Rows, and the time in ns of the sample that ends with them, if one does.
    Batch(Box<Columns>, Option<u64>),
    /// The stream ends as it should.
    End,
    /// The file ends before the stream does.
    Cut,
}

/// Where one message lies in the bytes read.
struct Found {
    head: std::ops::Range<usize>,
    body: std::ops::Range<usize>,
}

/// What [`Frames::message`] found.
enum Next {
    Message(Found),
    End,
    Cut,
}

/// The batches of a stream.
pub(super) struct Frames<R> {
    input: R,
    side: Side,
    /// Bytes of the batch being read; of the first one with the schema before it.
    bytes: Vec<u8>,
    /// Where in the file `bytes` begins.
    at: u64,
    /// Batches so far.
    batches: u32,
}

impl<R: Read> Frames<R> {
    /// Reads the schema of `input`.
    pub(super) fn new(input: R) -> Result<Self, Error> {
        let mut frames = Self { input, side: Side::Host, bytes: Vec::new(), at: 0, batches: 0 };
        match frames.message(0) {
            Ok(Next::Message(found)) => frames.side = side_of(&frames.bytes[found.head])?,
            Ok(Next::Cut) if frames.bytes.is_empty() => {
                return Err(Error::NotARecording("the file is empty"));
            }
            Ok(Next::Cut) => {
                return Err(Error::NotARecording("it ends within its first message"));
            }
            Ok(Next::End) | Err(Error::Damaged { .. }) => {
                return Err(Error::NotARecording("it does not begin with an Arrow schema"));
            }
            Err(error) => return Err(error),
        }
        Ok(frames)
    }

    /// Whose samples they are, as the schema says. Like the lengths not verified before the first
    /// batch.
    pub(super) const fn side(&self) -> Side {
        self.side
    }

    /// Where in the file the batch being read begins.
    pub(super) const fn at(&self) -> u64 {
        self.at
    }

    /// Bytes read so far.
    pub(super) fn read(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }

    /// Damage in the batch being read.
    pub(super) fn damaged(&self, what: impl Into<String>) -> Error {
        Error::Damaged { at: self.at, what: what.into() }
    }

    /// The next batch.
    pub(super) fn next(&mut self) -> Result<Frame, Error> {
        let data = match self.message(BATCH_MAX)? {
            Next::Message(found) => found,
            Next::Cut => return Ok(Frame::Cut),
            Next::End if !self.is_at_end()? => {
                return Err(self.damaged("bytes follow the end of the stream"));
            }
            Next::End => return Ok(Frame::End),
        };
        let end = match self.message(END_MAX)? {
            Next::Message(found) => found,
            Next::Cut => return Ok(Frame::Cut),
            Next::End => return Err(self.damaged("a batch has no end")),
        };
        self.verify(&end)?;
        let decoded = |found: &Found| {
            let (head, body) = (&self.bytes[found.head.clone()], &self.bytes[found.body.clone()]);
            decode::columns(head, body).map_err(|what| self.damaged(what))
        };
        let (columns, end) = (decoded(&data)?, decoded(&end)?);
        let ended = self.end_of(&columns, &end)?;
        self.at += self.bytes.len() as u64;
        self.bytes.clear();
        self.batches = self.batches.wrapping_add(1);
        Ok(Frame::Batch(Box::new(columns), ended))
    }

    /// Holds the checksum at the end of `end` against all bytes before it.
    fn verify(&self, end: &Found) -> Result<(), Error> {
        let length = end.body.len().checked_sub(CHECKSUM);
        let (bytes, stored) = length
            .and_then(|length| self.bytes.split_at_checked(end.body.start + length))
            .ok_or_else(|| self.damaged("the end of a batch is too short"))?;
        if stored == u64::from(crc32c::crc32c(bytes)).to_le_bytes() {
            return Ok(());
        }
        Err(self.damaged("its checksum is wrong"))
    }

    /// The time of the sample that ends with the batch `columns`, if its end says so.
    fn end_of(&self, columns: &Columns, end: &Columns) -> Result<Option<u64>, Error> {
        let mut ends = end.rows();
        let (Some(row), None) = (ends.next(), ends.next()) else {
            return Err(self.damaged("the end of a batch has not one row"));
        };
        if row.record != Record::BatchEnd.name() {
            return Err(self.damaged("a batch has no end"));
        }
        if row.index != self.batches || row.size as usize != columns.len() {
            return Err(self.damaged("a batch is missing or is another one"));
        }
        match Kind::of(row.kind) {
            Some(Kind::Sample) => Ok(Some(row.time_ns)),
            Some(Kind::Part) => Ok(None),
            _ => Err(self.damaged("the end of a batch does not say what ends")),
        }
    }

    /// Reads one message onto the bytes.
    fn message(&mut self, body_max: usize) -> Result<Next, Error> {
        let Some(prefix) = self.take(8)? else { return Ok(Next::Cut) };
        let (begin, length) = self.bytes[prefix].split_at(CONTINUES.len());
        if begin != CONTINUES {
            return Err(self.damaged("a message does not begin where one should"));
        }
        let length = length.iter().rev().fold(0, |length, byte| length << 8 | usize::from(*byte));
        if length == 0 {
            return Ok(Next::End);
        }
        if length > HEAD_MAX {
            return Err(self.damaged(format!("a message head of {length} bytes")));
        }
        let Some(head) = self.take(length)? else { return Ok(Next::Cut) };
        let body = match root_as_message(&self.bytes[head.clone()]) {
            Ok(message) => message.bodyLength(),
            Err(_) => return Err(self.damaged("the head of a message makes no sense")),
        };
        match usize::try_from(body) {
            Ok(length) if length <= body_max => {
                let Some(body) = self.take(length)? else { return Ok(Next::Cut) };
                Ok(Next::Message(Found { head, body }))
            }
            _ => Err(self.damaged(format!("a message body of {body} bytes"))),
        }
    }

    /// Reads `count` bytes onto the bytes; `None` if there are fewer.
    fn take(&mut self, count: usize) -> Result<Option<std::ops::Range<usize>>, Error> {
        let start = self.bytes.len();
        // Grows with what is read: a length alone reserves nothing.
        let read = (&mut self.input).take(count as u64).read_to_end(&mut self.bytes)?;
        Ok((read == count).then_some(start..start + count))
    }

    fn is_at_end(&mut self) -> Result<bool, Error> {
        Ok(self.take(1)?.is_none())
    }
}

/// The side of which the schema message `head` is, if this version can read it.
fn side_of(head: &[u8]) -> Result<Side, Error> {
    let other = Error::NotARecording("its schema is not that of a recording");
    let Ok(message) = root_as_message(head) else { return Err(other) };
    let Some(version) = metadata(&message, VERSION_KEY) else { return Err(other) };
    match version.parse::<u32>() {
        Ok(VERSION) => {}
        Ok(version) if version > VERSION => return Err(Error::Newer(version)),
        _ => return Err(other),
    }
    match metadata(&message, SIDE_KEY) {
        None => Ok(Side::Host),
        Some(name) if name == Side::Guest.name() => Ok(Side::Guest),
        Some(_) => Err(other),
    }
}

fn metadata<'a>(message: &Message<'a>, key: &str) -> Option<&'a str> {
    if message.header_type() != MessageHeader::Schema {
        return None;
    }
    let pairs = message.header_as_schema()?.custom_metadata()?;
    pairs.iter().find(|pair| pair.key() == Some(key))?.value()
}
