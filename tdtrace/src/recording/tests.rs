//! What goes into a recording comes out of it.

mod damage;
mod example;
mod guest;
mod hostile;
mod round_trip;
mod views;

use std::time::Duration;

use super::{Error, Reader, Writer};
use crate::model::sample::Sample;

/// Writes a checked-in recording anew, where that was asked for: see the README beside it.
fn write_fixture(path: &str, recording: impl Fn() -> Vec<u8>) {
    if std::env::var_os("TDTRACE_WRITE_FIXTURES").is_some() {
        std::fs::write(path, recording()).unwrap();
    }
}

/// The recording of `samples`.
fn written(samples: &[Sample]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), Duration::from_secs(1_700_000_000)).unwrap();
    for sample in samples {
        writer.write(sample).unwrap();
    }
    assert_eq!(writer.samples(), samples.len() as u64);
    let bytes = writer.bytes();
    let out = writer.finish().unwrap();
    assert_eq!(out.len() as u64, bytes + 8);
    out
}

/// The samples of a recording up to its end or to what is wrong with it.
fn read(bytes: &[u8]) -> (Vec<Sample>, Result<Option<super::Cut>, Error>) {
    let mut samples = Vec::new();
    let mut reader = match Reader::new(bytes) {
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
