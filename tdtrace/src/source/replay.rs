//! A recording as a source: the samples as they were, at the times at which they were.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{Due, GuestSource, Source};
use crate::{
    model::{guest::sample::GuestSample, sample::Sample},
    recording::{self, Cut, Error, GuestReader, Reader, Side},
};

/// Whose samples the recording in the file `path` holds.
///
/// # Errors
/// When the file cannot be opened, is no recording or one of a newer version.
pub fn side(path: &Path) -> Result<Side> {
    recording::side(open(path)?).with_context(|| path.display().to_string())
}

fn open(path: &Path) -> Result<BufReader<File>> {
    let file = File::open(path).with_context(|| {
        format!("{} cannot be opened; give the FILE of a recording", path.display())
    })?;
    Ok(BufReader::new(file))
}

/// The longest that a replay stands still between two samples: a source cannot be asked less often,
/// so a longer gap is not a recording's.
const GAP_MAX: Duration = Duration::from_secs(3600);

/// What reads a recording, of either side.
trait Recorded {
    type Sample;
    fn sample(&mut self) -> Result<Option<Self::Sample>, Error>;
    fn cut(&self) -> Option<Cut>;
    fn at(sample: &Self::Sample) -> Duration;
}

macro_rules! recorded {
    ($reader:ident, $sample:ident) => {
        impl<R: Read> Recorded for $reader<R> {
            type Sample = $sample;

            fn sample(&mut self) -> Result<Option<$sample>, Error> {
                Self::sample(self)
            }

            fn cut(&self) -> Option<Cut> {
                Self::cut(self)
            }

            fn at(sample: &$sample) -> Duration {
                sample.at
            }
        }
    };
}

recorded!(Reader, Sample);
recorded!(GuestReader, GuestSample);

/// A recording that is read one sample ahead, so that the end is known when it is reached.
struct Ahead<P: Recorded> {
    reader: P,
    next: Option<P::Sample>,
    /// What is wrong with what follows.
    failed: Option<Error>,
    last_at: Option<Duration>,
}

impl<P: Recorded> Ahead<P> {
    fn new(mut reader: P) -> Result<Self> {
        match reader.sample()? {
            Some(sample) => Ok(Self { reader, next: Some(sample), failed: None, last_at: None }),
            None => match reader.cut() {
                Some(cut) => bail!("there is no whole sample in it ({cut}); record anew"),
                None => bail!("there is no sample in it; record anew"),
            },
        }
    }

    fn sample(&mut self) -> Result<P::Sample> {
        if let Some(error) = self.failed.take() {
            return Err(error.into());
        }
        let sample = self.next.take().ok_or_else(|| anyhow!("the recording is over"))?;
        self.last_at = Some(P::at(&sample));
        match self.reader.sample() {
            Ok(next) => self.next = next,
            Err(error) => self.failed = Some(error),
        }
        Ok(sample)
    }

    fn due(&self) -> Due {
        match (&self.next, &self.failed) {
            (Some(next), _) => {
                let gap = |last| P::at(next).saturating_sub(last);
                Due::In(self.last_at.map_or(Duration::ZERO, gap).min(GAP_MAX))
            }
            (None, Some(_)) => Due::In(Duration::ZERO),
            (None, None) => Due::Never,
        }
    }
}

/// The recording of a host as a source.
pub struct Replay<R: Read>(Ahead<Reader<R>>);

/// The recording of a guest as a source.
pub struct GuestReplay<R: Read>(Ahead<GuestReader<R>>);

macro_rules! replay {
    ($replay:ident, $reader:ident, $source:ident, $sample:ident) => {
        impl $replay<BufReader<File>> {
            /// The recording in the file `path`.
            ///
            /// # Errors
            /// As `new`, or when the file cannot be opened.
            pub fn open(path: &Path) -> Result<Self> {
                Self::new(open(path)?).with_context(|| path.display().to_string())
            }
        }

        impl<R: Read> $replay<R> {
            /// The recording that `input` delivers.
            ///
            /// # Errors
            /// When it is no recording, one of the other side or of a newer version, or has no whole
            /// sample.
            pub fn new(input: R) -> Result<Self> {
                Ok(Self(Ahead::new($reader::new(input)?)?))
            }

            /// Whether and how the recording ended before it should; known once `due` says
            /// [`Due::Never`].
            #[must_use]
            pub fn cut(&self) -> Option<Cut> {
                self.0.reader.cut()
            }
        }

        impl<R: Read> $source for $replay<R> {
            fn sample(&mut self) -> Result<$sample> {
                self.0.sample()
            }

            fn due(&self) -> Due {
                self.0.due()
            }
        }
    };
}

replay!(Replay, Reader, Source, Sample);
replay!(GuestReplay, GuestReader, GuestSource, GuestSample);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        model::sample::{Host, Isa, Losses},
        recording::{GuestWriter, Writer},
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
                slower_than: None,
                slow: Vec::new(),
                seam: Arc::default(),
                poison: Arc::default(),
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
    fn a_guests_recording_is_a_source_in_the_same_way() {
        let mut writer = GuestWriter::new(Vec::new(), Duration::ZERO).unwrap();
        for second in [1, 3] {
            let at = Duration::from_secs(second);
            writer.write(&GuestSample { at, ..GuestSample::default() }).unwrap();
        }
        let recording = writer.finish().unwrap();
        let mut replay = GuestReplay::new(&recording[..]).unwrap();
        assert_eq!(replay.sample().unwrap().at, Duration::from_secs(1));
        assert_eq!(replay.due(), Due::In(Duration::from_secs(2)));
        replay.sample().unwrap();
        assert_eq!((replay.due(), replay.cut()), (Due::Never, None));
        assert!(replay.sample().is_err() && replay.tick().is_ok());
        let error = Replay::new(&recording[..]).err().unwrap().to_string();
        assert!(error.contains("the recording of a guest"), "{error}");
    }

    #[test]
    fn sides_of_files_are_told_apart_by_what_is_in_them() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, &recording(&[1])).unwrap();
        assert_eq!(side(file.path()).unwrap(), Side::Host);
        let error = side(Path::new("/no/such/recording")).unwrap_err().to_string();
        assert!(error.contains("/no/such/recording cannot be opened"), "{error}");
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
