//! Recordings: samples in a file, and back out of it exactly as they were. Files and bytes only: no
//! aya, no ratatui, no clap, no clock.
//!
//! A recording is an Arrow IPC stream with one schema, so pyarrow, pandas and Polars read it as it
//! is. One row is one thing that one subject says: the machine, the losses, a VM or a vCPU; or what a
//! guest says of itself. The first sample is written whole, later ones as far as they differ.
//! `docs/recording.md` describes it for readers in other languages.
//!
//! [`kind`] is what rows say, `row` the difference between two samples and the way back, `host`, `vm`,
//! `vcpu`, `durations`, `slow`, `seam` and `poison` turn what a sample holds into rows, `name` names the
//! numbers for readers without our tables, [`schema`] has the columns, `encode` and `output` make messages of
//! them for [`writer`], `frame` cuts a stream into messages and checks them, `decode` makes columns of one,
//! `sequence` finds the samples of which [`reader`] has the rows. [`guest`] does for a guest what the rest
//! does for a host.
//!
//! # Checks
//! After each batch of rows comes a batch of one row, `batch-end`, stored without compression. Its
//! last 8 bytes are its `value`: the CRC-32C of all bytes since the last `batch-end`, or since the
//! beginning of the stream, up to these 8. The reader checks it over the raw bytes before anything of
//! the batch is decoded. A checksum finds damage, not malice: what it lets through is still checked
//! for lengths and sizes before it is decoded, and memory is bounded by [`BATCH_MAX`] and
//! [`STATE_MAX`].

mod decode;
mod durations;
mod encode;
mod frame;
pub mod guest;
mod host;
pub mod kind;
mod ledger;
mod name;
mod output;
mod poison;
pub mod reader;
mod row;
pub mod schema;
mod seam;
mod sequence;
mod slow;
mod vcpu;
mod vm;
pub mod writer;

#[cfg(test)]
mod tests;

use std::io;

pub use guest::{reader::GuestReader, writer::GuestWriter};
pub use reader::Reader;
pub use sequence::Cut;
pub use writer::Writer;

/// The version of the schema that is written, and the newest that is read.
pub const VERSION: u32 = 1;
/// Rows of a batch at most; a sample with more takes several.
pub const ROWS_MAX: usize = 65_536;
/// Bytes of a batch at most, before and after decompression.
pub const BATCH_MAX: usize = 64 << 20;
/// Bytes of one text at most.
pub const TEXT_MAX: usize = 1 << 20;
/// Bytes that the reader keeps between samples at most, and once more while it reads one. Enough for
/// all of 65,536 vCPUs.
pub const STATE_MAX: usize = 768 << 20;

/// Whose samples a recording holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A host's, of its VMs.
    Host,
    /// A guest's, of itself.
    Guest,
}

impl Side {
    /// Its name in the metadata of the schema and to users.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Guest => "guest",
        }
    }

    /// The command that shows such a recording.
    const fn command(self) -> &'static str {
        match self {
            Self::Host => "tdtrace top --replay FILE",
            Self::Guest => "tdtrace guest stat --replay FILE",
        }
    }
}

/// Whose samples the recording `input` holds. Reads its beginning only, in which damage is not noticed
/// yet.
///
/// # Errors
/// When `input` fails, is no recording or one of a newer version.
pub fn side(input: impl io::Read) -> Result<Side, Error> {
    Ok(frame::Frames::new(input)?.side())
}

/// Why a recording cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The file is something else.
    #[error("this is not a recording of tdtrace: {0}; give a file that `tdtrace record` wrote")]
    NotARecording(&'static str),
    /// The schema's version is above [`VERSION`].
    #[error("made by a newer tdtrace: schema {0}; update tdtrace")]
    Newer(u32),
    /// The file has the samples of the other side.
    #[error("this is the recording of a {}; show it with `{}`", .0.name(), .0.command())]
    OtherSide(Side),
    /// What was delivered so far is as it was written; what follows cannot be trusted.
    #[error("the recording is damaged at byte {at}: {what}; what comes before it is intact")]
    Damaged {
        /// Where the batch begins that the damage is in.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// A sample that this format cannot hold.
    #[error("a sample cannot be recorded: {0}")]
    Unwritable(String),
}
