//! A recording as a source: the samples as they were, at the times at which they were.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{Due, Source};
use crate::{
    model::sample::Sample,
    recording::{Cut, Error, Reader},
};

/// The longest that a replay stands still between two samples: a source cannot be asked less often,
/// so a longer gap is not a recording's.
const GAP_MAX: Duration = Duration::from_secs(3600);

/// A recording as a source.
pub struct Replay<R> {
    reader: Reader<R>,
    /// Read ahead, so that the end is known when it is reached.
    next: Option<Sample>,
    /// What is wrong with what follows.
    failed: Option<Error>,
    last_at: Option<Duration>,
}

impl Replay<BufReader<File>> {
    /// The recording in the file `path`.
    ///
    /// # Errors
    /// As [`Replay::new`], or when the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| {
            format!("{} cannot be opened; give the FILE of a recording", path.display())
        })?;
        Self::new(BufReader::new(file)).with_context(|| path.display().to_string())
    }
}

impl<R: Read> Replay<R> {
    /// The recording that `input` delivers.
    ///
    /// # Errors
    /// When it is no recording, one of a newer version, or has no whole sample.
    pub fn new(input: R) -> Result<Self> {
        let mut reader = Reader::new(input)?;
        match reader.sample()? {
            Some(sample) => Ok(Self { reader, next: Some(sample), failed: None, last_at: None }),
            None => match reader.cut() {
                Some(cut) => bail!("there is no whole sample in it ({cut}); record anew"),
                None => bail!("there is no sample in it; record anew"),
            },
        }
    }

    /// Whether and how the recording ended before it should; known once [`Source::due`] says
    /// [`Due::Never`].
    #[must_use]
    pub const fn cut(&self) -> Option<Cut> {
        self.reader.cut()
    }
}

impl<R: Read> Source for Replay<R> {
    fn sample(&mut self) -> Result<Sample> {
        if let Some(error) = self.failed.take() {
            return Err(error.into());
        }
        let sample = self.next.take().ok_or_else(|| anyhow!("the recording is over"))?;
        self.last_at = Some(sample.at);
        match self.reader.sample() {
            Ok(next) => self.next = next,
            Err(error) => self.failed = Some(error),
        }
        Ok(sample)
    }

    fn due(&self) -> Due {
        match (&self.next, &self.failed) {
            (Some(next), _) => {
                let gap = self.last_at.map_or(Duration::ZERO, |last| next.at.saturating_sub(last));
                Due::In(gap.min(GAP_MAX))
            }
            (None, Some(_)) => Due::In(Duration::ZERO),
            (None, None) => Due::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        model::sample::{Host, Isa, Losses},
        recording::Writer,
    };

    fn recording(seconds: &[u64]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), Duration::ZERO).unwrap();
        for second in seconds {
            let sample = Sample {
                at: Duration::from_secs(*second),
                host: Arc::new(Host { release: "6.12".to_owned(), isa: Isa::Vmx }),
                probes: [].into(),
                vms: Vec::new(),
                vcpus: Vec::new(),
                losses: Losses::default(),
            };
            writer.write(&sample).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn samples_are_due_in_the_rhythm_in_which_they_were_taken() {
        let recording = recording(&[1, 3, 3, 2, 9_000_000]);
        let mut replay = Replay::new(&recording[..]).unwrap();
        let mut due = Vec::new();
        while replay.due() != Due::Never {
            due.push(replay.due());
            replay.sample().unwrap();
        }
        let seconds = |n| Due::In(Duration::from_secs(n));
        assert_eq!(due, [seconds(0), seconds(2), seconds(0), seconds(0), seconds(3600)]);
        assert!(replay.sample().is_err());
        assert_eq!(replay.cut(), None);
    }

    #[test]
    fn what_is_damaged_is_told_after_what_is_whole() {
        let mut recording = recording(&[1, 2]);
        let last = recording.len() - 9;
        recording[last] ^= 1;
        let mut replay = Replay::new(&recording[..]).unwrap();
        assert_eq!(replay.sample().unwrap().at, Duration::from_secs(1));
        assert_ne!(replay.due(), Due::Never);
        assert!(replay.sample().unwrap_err().to_string().contains("damaged at byte"));
        assert_eq!(replay.due(), Due::Never);
    }

    #[test]
    fn a_recording_that_was_cut_before_its_first_sample_ended_has_nothing_to_show() {
        let recording = recording(&[1]);
        let error = Replay::new(&recording[..recording.len() - 9]).err().unwrap().to_string();
        assert!(error.contains("no whole sample"), "{error}");
    }
}
