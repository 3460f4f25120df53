//! A stream cut into samples, whosever they are: batches are read until one ends a sample, and it is
//! known where the last whole one ended.

use std::{io::Read, time::Duration};

use super::{
    Error, Side,
    frame::{Frame, Frames},
    row::Malformed,
    schema::Columns,
};

/// A recording that ends before it should: what recorded it was killed, or the file was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Bytes after the last sample that is whole; 0 if only the end of the stream is missing.
    pub bytes: u64,
}

impl std::fmt::Display for Cut {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.bytes {
            0 => formatter.write_str("the recording was not finished; no sample of it is missing"),
            bytes => write!(
                formatter,
                "the recording ends in the middle of a batch: {bytes} bytes were not read"
            ),
        }
    }
}

/// What makes samples of rows. After an error it is not asked again.
pub(super) trait Assemble {
    /// What is made.
    type Sample;

    /// Takes the rows of a batch, with which the sample need not be whole.
    fn take(&mut self, columns: &Columns) -> Result<(), Malformed>;

    /// The sample whose rows have all been taken.
    fn sample(&mut self, at: Duration) -> Result<Self::Sample, Malformed>;
}

/// The samples of a stream.
pub(super) struct Sequence<R> {
    frames: Frames<R>,
    /// Where in the file the last whole sample ends.
    delivered: u64,
    over: bool,
    cut: Option<Cut>,
}

impl<R: Read> Sequence<R> {
    /// Reads the beginning of `input`, a recording of `side`.
    pub(super) fn new(input: R, side: Side) -> Result<Self, Error> {
        let frames = Frames::new(input)?;
        if frames.side() != side {
            return Err(Error::OtherSide(frames.side()));
        }
        Ok(Self { frames, delivered: 0, over: false, cut: None })
    }

    /// The next sample that `state` makes of the rows; `None` at the end, and after an error.
    pub(super) fn sample<S: Assemble>(
        &mut self,
        state: &mut S,
    ) -> Result<Option<S::Sample>, Error> {
        if self.over {
            return Ok(None);
        }
        let next = self.next(state);
        self.over = !matches!(next, Ok(Some(_)));
        next
    }

    /// Whether and how the recording ended before it should; known at its end.
    pub(super) const fn cut(&self) -> Option<Cut> {
        self.cut
    }

    fn next<S: Assemble>(&mut self, state: &mut S) -> Result<Option<S::Sample>, Error> {
        loop {
            let at = self.frames.at();
            let is_partial = at > self.delivered;
            match self.frames.next()? {
                Frame::Cut => {
                    self.cut = Some(Cut { bytes: self.frames.read() - self.delivered });
                    return Ok(None);
                }
                Frame::End if is_partial => {
                    return Err(self.frames.damaged("the stream ends within a sample"));
                }
                Frame::End => return Ok(None),
                Frame::Batch(columns, ended) => {
                    let damaged =
                        |Malformed(what)| Error::Damaged { at, what: format!("it has {what}") };
                    state.take(&columns).map_err(damaged)?;
                    if let Some(ns) = ended {
                        self.delivered = self.frames.at();
                        let sample = state.sample(Duration::from_nanos(ns));
                        return sample.map(Some).map_err(damaged);
                    }
                }
            }
        }
    }
}
