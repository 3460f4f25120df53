//! Samples of a guest to a stream.

use std::{io::Write, time::Duration};

use super::{
    super::{
        Error, Side,
        kind::Kind,
        output::{Output, Subject},
        row::Row,
    },
    code::Codes,
    counted::Written,
    device::Devices,
    facts,
    numbers::{Calls, Places, Reasons},
    stack::{Names, Stacks},
    told::{self, Things},
};
use crate::model::guest::sample::GuestSample;

/// Writes samples. Each one is with the output when [`GuestWriter::write`] returns.
pub struct GuestWriter<W> {
    output: Output<W>,
    before: Before,
}

/// What has been written, so that the next sample is only what differs.
#[derive(Default)]
struct Before {
    facts: Vec<Row>,
    losses: Vec<Row>,
    reasons: Written<Reasons>,
    places: Written<Places>,
    calls: Written<Calls>,
    stacks: Things<Stacks>,
    names: Things<Names>,
    code: Things<Codes>,
    devices: Things<Devices>,
}

impl<W: Write> GuestWriter<W> {
    /// A writer of samples whose time 0 was `began`, since 1970 (UTC).
    ///
    /// # Errors
    /// When the encoder cannot be set up.
    pub fn new(out: W, began: Duration) -> Result<Self, Error> {
        Ok(Self { output: Output::new(out, Side::Guest, began)?, before: Before::default() })
    }

    /// Writes `sample` as far as it differs from the one before, and flushes. After an error the
    /// writer is of no more use: the stream may end within a batch. The room that structs keep for
    /// later is not written.
    ///
    /// # Errors
    /// When the output fails, or for a sample with a text above [`TEXT_MAX`](super::super::TEXT_MAX),
    /// a time that does not fit or a reason that does not exist.
    pub fn write(&mut self, sample: &GuestSample) -> Result<(), Error> {
        let Self { output, before } = self;
        output.begin(sample.at)?;
        let subject = Subject::default();
        let rows = facts::rows(sample);
        output.changes(subject, Kind::GuestCleared, [&before.facts, &rows], |_| "".into())?;
        before.facts = rows;
        let rows = facts::loss_rows(&sample.losses);
        let old = &before.losses;
        output.changes(subject, Kind::LossesCleared, [old, &rows], facts::loss_name)?;
        before.losses = rows;
        before.reasons.write(&sample.reasons, output)?;
        before.places.write(&sample.places, output)?;
        before.calls.write(&sample.calls, output)?;
        told::write::<Stacks, _>(&mut before.stacks, &sample.stacks, output)?;
        told::write::<Names, _>(&mut before.names, &sample.names, output)?;
        told::write::<Codes, _>(&mut before.code, &sample.code, output)?;
        told::write::<Devices, _>(&mut before.devices, &sample.devices, output)?;
        output.end()
    }

    /// Writes the end of the stream and returns the output.
    ///
    /// # Errors
    /// When the output fails.
    pub fn finish(self) -> Result<W, Error> {
        self.output.finish()
    }

    /// Bytes written so far; the end of the stream takes 8 more.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.output.bytes()
    }

    /// Samples written so far.
    #[must_use]
    pub const fn samples(&self) -> u64 {
        self.output.samples()
    }
}
