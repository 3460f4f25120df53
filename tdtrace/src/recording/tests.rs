//! What goes into a recording comes out of it, a host's and a guest's.

mod damage;
mod example;
mod guest;
mod hostile;
mod round_trip;
mod views;

use std::{fmt::Debug, time::Duration};

use super::{Cut, Error, GuestReader, GuestWriter, Reader, Writer};
use crate::model::{guest::sample::GuestSample, sample::Sample};

/// Writes a checked-in recording anew, where that was asked for: see the README beside it.
fn write_fixture(path: &str, recording: impl Fn() -> Vec<u8>) {
    if std::env::var_os("TDTRACE_WRITE_FIXTURES").is_some() {
        std::fs::write(path, recording()).unwrap();
    }
}

/// Samples up to the end of a recording or to what is wrong with it.
type Read<S> = (Vec<S>, Result<Option<Cut>, Error>);

/// A sample of either side.
trait Recorded: Clone + Debug + PartialEq + Sync {
    fn written(samples: &[Self]) -> Vec<u8>;
    fn read(bytes: &[u8]) -> Read<Self>;
}

macro_rules! recorded {
    ($sample:ident, $writer:ident, $reader:ident) => {
        impl Recorded for $sample {
            fn written(samples: &[Self]) -> Vec<u8> {
                let began = Duration::from_secs(1_700_000_000);
                let mut writer = $writer::new(Vec::new(), began).unwrap();
                for sample in samples {
                    writer.write(sample).unwrap();
                }
                assert_eq!(writer.samples(), samples.len() as u64);
                let bytes = writer.bytes();
                let out = writer.finish().unwrap();
                assert_eq!(out.len() as u64, bytes + 8);
                out
            }

            fn read(bytes: &[u8]) -> Read<Self> {
                let mut samples = Vec::new();
                let mut reader = match $reader::new(bytes) {
                    Ok(reader) => reader,
                    Err(error) => return (samples, Err(error)),
                };
                loop {
                    match reader.sample() {
                        Ok(Some(sample)) => samples.push(sample),
                        Ok(None) => return (samples, Ok(reader.cut())),
                        Err(error) => return (samples, Err(error)),
                    }
                }
            }
        }
    };
}

recorded!(Sample, Writer, Reader);
recorded!(GuestSample, GuestWriter, GuestReader);

/// The recording of `samples`.
fn written<S: Recorded>(samples: &[S]) -> Vec<u8> {
    S::written(samples)
}

/// Where in the recording of `samples` each of them ends.
fn ends<S: Recorded>(samples: &[S]) -> Vec<usize> {
    (1..=samples.len()).map(|n| written(&samples[..n]).len() - 8).collect()
}

/// The samples of a host's recording.
fn read(bytes: &[u8]) -> Read<Sample> {
    Recorded::read(bytes)
}
